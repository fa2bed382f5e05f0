//! A cluster, measured through its API.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use client::{DeleteOptions, ListOptions, gvr};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::time::Instant;

/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(180);
const NAMESPACE: &str = "default";

/// A cluster.
pub struct Cluster {
    runtime: Runtime,
    kubectl: cli_kubectl::Kubectl,
    image: String,
    serial: std::cell::Cell<u32>,
}

impl Cluster {
    /// The cluster of a kubeconfig, whose nodes have `image`.
    pub fn new(kubeconfig: &Path, image: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kubectl = runtime.block_on(async { cli_kubectl::Kubectl::from_kubeconfig(kubeconfig) })?;
        Ok(Self { runtime, kubectl, image: image.into(), serial: Default::default() })
    }

    fn name(&self, kind: &str) -> String {
        self.serial.set(self.serial.get() + 1);
        format!("bench-{kind}-{}-{}", std::process::id(), self.serial.get())
    }

    fn pod_spec(&self) -> serde_json::Value {
        json!({"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "c", "image": self.image, "imagePullPolicy": "IfNotPresent", "command": ["/bin/sleep", "1000000"]}]})
    }

    /// From the call that creates a pod until it is seen to be Running.
    pub fn pod(&self) -> Result<Duration> {
        let name = self.name("pod");
        self.runtime.block_on(async {
            let client = self.kubectl.client();
            let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": self.pod_spec()});
            let begun = Instant::now();
            client.create(&gvr::PODS, NAMESPACE, &pod).await?;
            let mut running = |o: &api::Object| o.status()["phase"] == "Running";
            self.kubectl.wait(&gvr::PODS, NAMESPACE, &name, PATIENCE, &mut running).await?;
            let took = begun.elapsed();
            client.delete(&gvr::PODS, NAMESPACE, &name, &DeleteOptions::background()).await?;
            Ok(took)
        })
    }

    /// From the call that creates a Deployment of 30 until all are seen to be ready.
    pub fn deployment(&self) -> Result<Duration> {
        let name = self.name("deployment");
        self.runtime.block_on(async {
            let client = self.kubectl.client();
            let labels = json!({"app": name});
            let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": {
                "replicas": 30, "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": self.pod_spec()}}});
            let begun = Instant::now();
            client.create(&gvr::DEPLOYMENTS, NAMESPACE, &deployment).await?;
            let mut ready = |o: &api::Object| o.status()["readyReplicas"] == 30;
            self.kubectl.wait(&gvr::DEPLOYMENTS, NAMESPACE, &name, PATIENCE, &mut ready).await?;
            let took = begun.elapsed();
            client.delete(&gvr::DEPLOYMENTS, NAMESPACE, &name, &DeleteOptions::background()).await?;
            self.gone(&name).await?;
            Ok(took)
        })
    }

    /// Waits until no pod with the label is left, so that the next round starts from nothing.
    async fn gone(&self, app: &str) -> Result<()> {
        use futures::StreamExt;
        let labels =
            api::selector::Label::parse(&format!("app={app}")).map_err(|e| anyhow::anyhow!("{e}"))?;
        let client = self.kubectl.client();
        let waiting = async {
            loop {
                let options = ListOptions { labels: labels.clone(), ..Default::default() };
                let list = client.list(&gvr::PODS, NAMESPACE, &options).await?;
                if list.items.is_empty() {
                    return Ok::<_, anyhow::Error>(());
                }
                let options = client::WatchOptions {
                    labels: labels.clone(),
                    revision: list.revision,
                    ..Default::default()
                };
                let mut events = client.watch(&gvr::PODS, NAMESPACE, &options).await?;
                let mut left = list.items.len();
                while left > 0 {
                    let Some(event) = events.next().await else { break };
                    if event?.kind == client::WatchKind::Deleted {
                        left -= 1;
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await?
    }
}
