//! The scheduler's one task: takes in changes, gives pods to nodes, says why where it cannot.

use std::collections::HashSet;
use std::sync::Arc;

use api::{Object, Value, meta};
use client::{Change, Client, DeleteOptions, Error, Informer, Informers, PatchType, Recorder, Result, gvr};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::cycle::{self, Unfit};
use crate::framework::Reason;
use crate::preemption;
use crate::queue::Queue;
use crate::snapshot::Snapshot;
use crate::view::{NodeView, PodView, takes_room};
use crate::volumes::{Claims, Volumes};

/// Schedules until `shutdown`.
pub async fn run(
    options: Options,
    client: Client,
    informers: Informers,
    shutdown: CancellationToken,
) -> Result<()> {
    let client = client.named(&options.name);
    let watched = Watched::new(&informers);
    if shutdown.run_until_cancelled(watched.synced()).await.is_none() {
        return Ok(());
    }
    let (report, mut reports) = mpsc::unbounded_channel();
    let mut scheduler = Scheduler {
        recorder: Recorder::new(client.clone(), &options.name, ""),
        name: options.name,
        client,
        pods: watched.pods.clone(),
        snapshot: Snapshot::default(),
        queue: Queue::default(),
        volumes: Volumes::new(&informers),
        binding: HashSet::new(),
        report,
    };
    let mut pods = watched.pods.subscribe();
    let mut nodes = watched.nodes.subscribe();
    let mut namespaces = watched.namespaces.subscribe();
    let mut claims = scheduler.volumes.claims.subscribe();
    let mut volumes = scheduler.volumes.volumes.subscribe();
    let mut classes = scheduler.volumes.classes.subscribe();
    loop {
        // Decide on the newest state there is: everything that has arrived comes first.
        while let Ok(c) = nodes.try_recv() {
            scheduler.node_changed(&c);
        }
        while let Ok(c) = namespaces.try_recv() {
            scheduler.namespace_changed(c);
        }
        while let Ok(c) = pods.try_recv() {
            scheduler.pod_changed(&c);
        }
        while let Ok((uid, error)) = reports.try_recv() {
            scheduler.binding_failed(&uid, &error);
        }
        if let Some(pod) = scheduler.queue.next() {
            scheduler.schedule(&pod);
            tokio::task::yield_now().await; // lets the binding go out
            if shutdown.is_cancelled() {
                return Ok(());
            }
            continue;
        }
        let due = scheduler.queue.due();
        // A timer, because a pod that failed before waits a moment even after a change that may help it.
        let moment = async {
            match due {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = moment => {}
            Some(c) = pods.recv() => scheduler.pod_changed(&c),
            Some(c) = nodes.recv() => scheduler.node_changed(&c),
            Some(c) = namespaces.recv() => scheduler.namespace_changed(c),
            Some((uid, error)) = reports.recv() => scheduler.binding_failed(&uid, &error),
            Some(_) = claims.recv() => scheduler.queue.wake(),
            Some(_) = volumes.recv() => scheduler.queue.wake(),
            Some(_) = classes.recv() => scheduler.queue.wake(),
            else => return Ok(()),
        }
    }
}

struct Watched {
    pods: Arc<Informer>,
    nodes: Arc<Informer>,
    namespaces: Arc<Informer>,
    volumes: Volumes,
}

impl Watched {
    fn new(informers: &Informers) -> Self {
        Self {
            pods: informers.of(&gvr::PODS),
            nodes: informers.of(&gvr::NODES),
            namespaces: informers.of(&gvr::NAMESPACES),
            volumes: Volumes::new(informers),
        }
    }

    async fn synced(&self) {
        let v = &self.volumes;
        for informer in [&self.pods, &self.nodes, &self.namespaces, &v.claims, &v.volumes, &v.classes] {
            informer.synced().await;
        }
    }
}

struct Scheduler {
    name: String,
    client: Client,
    recorder: Recorder,
    pods: Arc<Informer>,
    snapshot: Snapshot,
    queue: Queue,
    volumes: Volumes,
    /// Pods whose binding is on its way, by UID; the snapshot has them on their nodes already.
    binding: HashSet<String>,
    /// Bindings that failed.
    report: mpsc::UnboundedSender<(String, Error)>,
}

fn assigned(pod: &Object) -> bool {
    pod.at(&["spec", "nodeName"]).as_str().is_some_and(|n| !n.is_empty())
}

impl Scheduler {
    fn pod_changed(&mut self, change: &Change) {
        if let Some(old) = &change.old
            && change.new.as_ref().is_none_or(|n| n.uid() != old.uid() || !takes_room(n))
        {
            self.queue.remove(old.uid());
            self.binding.remove(old.uid());
            if self.snapshot.remove_pod(old.uid()) {
                self.queue.wake();
            }
        }
        let Some(new) = change.new.as_ref().filter(|n| takes_room(n)) else { return };
        if assigned(new) {
            self.queue.remove(new.uid());
            let confirmed = self.binding.remove(new.uid());
            let same = |o: &Arc<Object>| {
                assigned(o)
                    && o.spec() == new.spec()
                    && o.labels() == new.labels()
                    && o.is_deleting() == new.is_deleting()
            };
            if !change.old.as_ref().is_some_and(same) {
                self.snapshot.set_pod(Arc::new(PodView::new(new)));
                if !confirmed {
                    self.queue.wake();
                }
            }
            return;
        }
        if self.binding.contains(new.uid()) {
            return;
        }
        let view = PodView::new(new);
        if view.scheduler != self.name || view.gated || new.is_deleting() {
            self.queue.remove(new.uid());
        } else {
            self.queue.set(Arc::new(view));
        }
    }

    fn node_changed(&mut self, change: &Change) {
        let name = change.object().name().to_owned();
        let view = change.new.as_ref().map(|n| Arc::new(NodeView::new(n)));
        let known = self.snapshot.nodes.get(&name).and_then(|i| i.node.as_ref());
        // Heartbeats change nothing that a pod could wait for.
        let same = known.zip(view.as_ref()).is_some_and(|(a, b)| {
            a.allocatable == b.allocatable
                && a.taints == b.taints
                && a.unschedulable == b.unschedulable
                && a.object.labels() == b.object.labels()
        });
        self.snapshot.set_node(&name, view);
        if !same {
            self.queue.wake();
        }
    }

    fn namespace_changed(&mut self, change: Change) {
        let name = change.object().name().to_owned();
        match change.new {
            Some(new) => self.snapshot.namespaces.insert(name, new),
            None => self.snapshot.namespaces.remove(&name),
        };
    }

    fn schedule(&mut self, pod: &Arc<PodView>) {
        let claims = match self.volumes.of(pod) {
            Ok(claims) => claims,
            Err(reason) => {
                let n = self.snapshot.present().count();
                let text = format!(
                    "0/{n} nodes are available: {reason}. preemption: 0/{n} nodes are available: {n} Preemption is not \
                     helpful for scheduling."
                );
                return self.unschedulable(pod, text);
            }
        };
        let result = cycle::schedule(pod, &self.snapshot, &|c| -> Option<Reason> { claims.refusal(c) });
        match result {
            Ok(node) if claims.wait() => self.wait_for_claims(pod, claims, node),
            Ok(node) => self.bind(pod, node),
            Err(unfit) => self.make_room(pod, &unfit),
        }
    }

    fn bind(&mut self, pod: &Arc<PodView>, node: String) {
        let mut assumed = (**pod).clone();
        assumed.node.clone_from(&node);
        self.snapshot.set_pod(Arc::new(assumed));
        self.queue.remove(&pod.uid);
        self.binding.insert(pod.uid.clone());
        let (client, recorder, report, pod) =
            (self.client.clone(), self.recorder.clone(), self.report.clone(), pod.clone());
        tokio::spawn(async move {
            let binding = json!({"apiVersion": "v1", "kind": "Binding",
                "metadata": {"name": pod.key.name, "namespace": pod.key.namespace, "uid": pod.uid},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
            match client.create_sub(&gvr::PODS, &pod.key.namespace, &pod.key.name, "binding", &binding).await
            {
                Ok(_) => {
                    let text = format!("Successfully assigned {} to {node}", pod.key);
                    recorder.event(&pod.object, "Normal", "Scheduled", text);
                }
                Err(e) => {
                    if !e.is_not_found() {
                        let text = format!("binding rejected: {e}");
                        recorder.event(&pod.object, "Warning", "FailedScheduling", text);
                    }
                    let _ = report.send((pod.uid.clone(), e)); // nobody listens after shutdown
                }
            }
        });
    }

    fn binding_failed(&mut self, uid: &str, error: &Error) {
        if !self.binding.remove(uid) {
            return; // the cache has shown meanwhile what became of it
        }
        tracing::debug!(uid, %error, "a binding failed");
        self.snapshot.remove_pod(uid);
        self.queue.wake();
        let known = self.pods.list("").into_iter().find(|p| p.uid() == uid);
        if let Some(pod) = known.filter(|p| !assigned(p) && takes_room(p) && !p.is_deleting()) {
            self.queue.set(Arc::new(PodView::new(&pod)));
            self.queue.next_failed(uid);
        }
    }

    fn wait_for_claims(&mut self, pod: &Arc<PodView>, claims: Claims, node: String) {
        self.queue.park(&pod.uid);
        let client = self.client.clone();
        tokio::spawn(async move {
            if let Err(e) = claims.select(&client, &node).await {
                tracing::debug!(%node, error = %e, "a claim cannot be told its pod's node; its next change will bring it up again");
            }
        });
    }

    fn make_room(&mut self, pod: &Arc<PodView>, unfit: &Unfit) {
        if unfit.nodes == 0 {
            return self.unschedulable(pod, unfit.message(""));
        }
        let nominated = pod.object.at(&["status", "nominatedNodeName"]).as_str().unwrap_or_default();
        let ending =
            self.snapshot.nodes.get(nominated).is_some_and(|i| {
                i.pods.values().any(|p| p.object.is_deleting() && p.priority < pod.priority)
            });
        if ending {
            let why = "preemption: not eligible due to a terminating pod on the nominated node.";
            return self.unschedulable(pod, unfit.message(why));
        }
        match preemption::find(pod, &self.snapshot, unfit) {
            Err(why) => self.unschedulable(pod, unfit.message(&why)),
            Ok(eviction) => {
                self.unschedulable(pod, unfit.message(""));
                let (client, recorder, pod) = (self.client.clone(), self.recorder.clone(), pod.clone());
                let name = self.name.clone();
                tokio::spawn(async move { evict(&client, &recorder, &name, &pod, eviction).await });
            }
        }
    }

    /// Says why a pod waits, in its condition and in an event.
    fn unschedulable(&mut self, pod: &Arc<PodView>, message: String) {
        self.queue.park(&pod.uid);
        self.recorder.event(&pod.object, "Warning", "FailedScheduling", message.clone());
        let current = self.pods.get(&pod.key.namespace, &pod.key.name).unwrap_or_else(|| pod.object.clone());
        let conditions = current.at(&["status", "conditions"]).as_array();
        let old = conditions.into_iter().flatten().find(|c| c["type"] == "PodScheduled");
        if old.is_some_and(|c| c["message"] == message.as_str() && c["status"] == "False") {
            return;
        }
        let since = old.filter(|c| c["status"] == "False").map(|c| c["lastTransitionTime"].clone());
        let since = since.unwrap_or_else(|| meta::time(base::clock::now()).into());
        let condition: Value = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
            "message": message, "lastTransitionTime": since});
        let patch = json!({"metadata": {"uid": pod.uid}, "status": {"conditions": [condition]}});
        let (client, key) = (self.client.clone(), pod.key.clone());
        tokio::spawn(async move {
            let done = client
                .patch_sub(&gvr::PODS, &key.namespace, &key.name, "status", PatchType::Strategic, &patch)
                .await;
            if let Err(e) = done {
                tracing::debug!(pod = %key, error = %e, "the pod's condition was not written");
            }
        });
    }
}

async fn evict(
    client: &Client,
    recorder: &Recorder,
    scheduler: &str,
    pod: &PodView,
    eviction: preemption::Eviction,
) {
    for victim in eviction.victims {
        let text = format!("Preempted by pod {} on node {}", pod.uid, eviction.node);
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{scheduler}: preempting to accommodate a higher priority pod"),
            "lastTransitionTime": meta::time(base::clock::now())});
        let patch = json!({"metadata": {"uid": victim.uid}, "status": {"conditions": [condition]}});
        let (ns, name) = (&victim.key.namespace, &victim.key.name);
        let marked = client.patch_sub(&gvr::PODS, ns, name, "status", PatchType::Strategic, &patch).await;
        let gone = match marked {
            Ok(_) => client.delete(&gvr::PODS, ns, name, &DeleteOptions::uid(&victim.uid)).await.map(|_| ()),
            Err(e) => Err(e),
        };
        match gone {
            Ok(()) => recorder.event(&victim.object, "Normal", "Preempted", text),
            // Another pod of that name, or none.
            Err(e) if e.is_not_found() || e.is_conflict() => {}
            Err(e) => tracing::warn!(pod = %victim.key, error = %e, "a pod could not be preempted"),
        }
    }
    let patch = json!({"metadata": {"uid": pod.uid}, "status": {"nominatedNodeName": eviction.node}});
    let (ns, name) = (&pod.key.namespace, &pod.key.name);
    if let Err(e) = client.patch_sub(&gvr::PODS, ns, name, "status", PatchType::Merge, &patch).await {
        tracing::debug!(pod = %pod.key, error = %e, "the nominated node was not written");
    }
}

#[cfg(test)]
mod tests;
