//! A client of the Kubernetes API for the command line: apply, wait, look. It knows the protocol, not our server: any
//! cluster that a kubeconfig names answers it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use api::selector::Field;
use api::{Gvr, Object, Value};
use client::{Client, ListOptions, WatchKind, WatchOptions, discovery, gvr};
use futures::StreamExt;

/// The field manager under which manifests are applied.
const MANAGER: &str = "kubectl";

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call failed.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A manifest is not what it should be.
    #[error("manifest: {0}")]
    Manifest(String),
    /// What was waited for did not come.
    #[error("{what} did not come within {} s{last}", within.as_secs())]
    Late {
        /// What was waited for.
        what: String,
        /// For how long.
        within: Duration,
        /// What was seen last, if anything.
        last: String,
    },
    /// The object is not as the command needs it.
    #[error("{0}")]
    Unsuitable(String),
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A cluster.
#[derive(Clone)]
pub struct Kubectl {
    client: Client,
}

impl Kubectl {
    /// The cluster of a kubeconfig's current context.
    pub fn from_kubeconfig(path: &Path) -> Result<Self> {
        Ok(Self::new(Client::from_kubeconfig(path)?))
    }

    /// The cluster that `client` speaks to.
    pub fn new(client: Client) -> Self {
        Self { client: client.named(MANAGER) }
    }

    /// What carries the calls.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The nodes and whether each is Ready.
    pub async fn nodes(&self) -> Result<Vec<(String, bool)>> {
        let list = self.client.list(&gvr::NODES, "", &ListOptions::default()).await?;
        Ok(list.items.iter().map(|n| (n.name().to_owned(), is_ready(n.value()))).collect())
    }

    /// Server-side apply of every document of a YAML manifest; objects without a namespace go to `namespace`.
    /// Answers with each object's name (`deployment.apps/kubia`) and what became of it.
    pub async fn apply(&self, manifest: &str, namespace: &str) -> Result<Vec<(String, &'static str)>> {
        let mut outcomes = Vec::new();
        for document in documents(manifest) {
            let document = api::codec::yaml::decode(document.as_bytes())
                .map_err(|status| Error::Manifest(status.to_string()))?;
            if !document.is_null() {
                outcomes.push(self.apply_one(&document, namespace).await?);
            }
        }
        Ok(outcomes)
    }

    async fn apply_one(&self, document: &Value, namespace: &str) -> Result<(String, &'static str)> {
        let text = |v: &Value, what: &str| match v.as_str() {
            Some(text) if !text.is_empty() => Ok(text.to_owned()),
            _ => Err(Error::Manifest(format!("{what}: Required value"))),
        };
        let api_version = text(&document["apiVersion"], "apiVersion")?;
        let kind = text(&document["kind"], "kind")?;
        let name = text(&document["metadata"]["name"], "metadata.name")?;
        let resource = discovery::find(&self.client, &api_version, &kind).await?.ok_or_else(|| {
            Error::Manifest(format!("no matches for kind \"{kind}\" in version \"{api_version}\""))
        })?;
        let namespace = match (resource.namespaced, document["metadata"]["namespace"].as_str()) {
            (false, _) => "",
            (true, Some(own)) => own,
            (true, None) => namespace,
        };
        let before = match self.client.get(&resource.gvr, namespace, &name).await {
            Ok(object) => Some(object.revision()),
            Err(e) if e.is_not_found() => None,
            Err(e) => return Err(e.into()),
        };
        let after = self.client.apply(&resource.gvr, namespace, &name, MANAGER, false, document).await?;
        let outcome = match before {
            None => "created",
            Some(revision) if revision == after.revision() => "unchanged",
            Some(_) => "configured",
        };
        let group =
            if resource.gvr.group.is_empty() { String::new() } else { format!(".{}", resource.gvr.group) };
        Ok((format!("{}{group}/{name}", kind.to_ascii_lowercase()), outcome))
    }

    /// Waits until a Deployment has rolled out: all its replicas are of the newest template and available.
    /// `progress` gets its status whenever the count of ready pods changes.
    pub async fn wait_available(
        &self,
        namespace: &str,
        name: &str,
        within: Duration,
        progress: &mut (dyn FnMut(&Value) + Send),
    ) -> Result<()> {
        let mut ready = None;
        self.wait(&gvr::DEPLOYMENTS, namespace, name, within, &mut |object| {
            let status = object.status();
            let now = status["readyReplicas"].as_u64().unwrap_or(0);
            if ready.replace(now) != Some(now) {
                progress(status);
            }
            rolled_out(object.value())
        })
        .await?;
        Ok(())
    }

    /// Waits until the object is as `condition` wants it.
    pub async fn wait(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        within: Duration,
        condition: &mut (dyn FnMut(&Object) -> bool + Send),
    ) -> Result<Arc<Object>> {
        let mut last = None;
        let watching = async {
            let fields =
                Field::parse(&format!("metadata.name={name}")).map_err(|e| Error::Manifest(e.to_string()))?;
            loop {
                // From revision 0 the server first shows the object as it is, then its changes; a stream that ends is
                // opened anew.
                let options = WatchOptions { fields: fields.clone(), ..WatchOptions::default() };
                let mut events = self.client.watch(gvr, namespace, &options).await?;
                while let Some(event) = events.next().await {
                    let event = event?;
                    if event.kind == WatchKind::Bookmark || event.kind == WatchKind::Deleted {
                        continue;
                    }
                    if condition(&event.object) {
                        return Ok(event.object);
                    }
                    last = Some(event.object);
                }
            }
        };
        let result = tokio::time::timeout(within, watching).await;
        result.unwrap_or_else(|_| {
            let last = last.map(|o| format!("; its status is {}", o.status())).unwrap_or_default();
            Err(Error::Late { what: format!("{} {namespace}/{name}", gvr.resource), within, last })
        })
    }

    /// The cluster address of a Service.
    pub async fn cluster_ip(&self, namespace: &str, name: &str) -> Result<String> {
        let service = self.client.get(&gvr::SERVICES, namespace, name).await?;
        match service.spec()["clusterIP"].as_str() {
            Some(ip) if ip != "None" => Ok(ip.to_owned()),
            _ => Err(Error::Unsuitable(format!("service {namespace}/{name} has no cluster IP"))),
        }
    }
}

/// The documents of a YAML stream: what stands between the lines that begin with `---`.
fn documents(manifest: &str) -> Vec<&str> {
    let (mut documents, mut begin, mut at) = (Vec::new(), 0, 0);
    for line in manifest.split_inclusive('\n') {
        if line.starts_with("---") {
            documents.push(&manifest[begin..at]);
            begin = at + line.len();
        }
        at += line.len();
    }
    documents.push(&manifest[begin..]);
    documents
        .retain(|d| d.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')));
    documents
}

/// Whether an object's status has the condition Ready.
pub fn is_ready(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Whether a Deployment's status says that its newest template is fully out.
fn rolled_out(deployment: &Value) -> bool {
    let (spec, status) = (&deployment["spec"], &deployment["status"]);
    let count = |field: &str| status[field].as_u64().unwrap_or(0);
    let wanted = spec["replicas"].as_u64().unwrap_or(1);
    status["observedGeneration"].as_u64() >= deployment["metadata"]["generation"].as_u64()
        && count("updatedReplicas") == wanted
        && count("replicas") == wanted
        && count("availableReplicas") == wanted
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn roll_out() {
        let mut d = json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": {
            "observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2}});
        assert!(rolled_out(&d));
        for (field, value) in
            [("observedGeneration", 1), ("replicas", 3), ("updatedReplicas", 1), ("availableReplicas", 1)]
        {
            let good = std::mem::replace(&mut d["status"][field], json!(value));
            assert!(!rolled_out(&d), "{field}");
            d["status"][field] = good;
        }
    }

    #[test]
    fn streams_of_documents() {
        assert_eq!(documents("a: 1\n---\n# nothing\n---\nb: 2\n"), ["a: 1\n", "b: 2\n"]);
        assert_eq!(documents("---\na: 1"), ["a: 1"]);
        assert!(documents("").is_empty());
    }

    #[test]
    fn readiness() {
        assert!(is_ready(&json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}})));
        assert!(!is_ready(&json!({"status": {"conditions": [{"type": "Ready", "status": "False"}]}})));
        assert!(!is_ready(&json!({})));
    }
}
