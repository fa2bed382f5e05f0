//! The scheduler's one task: takes in changes, gives pods to nodes, says why where it cannot.

use std::collections::HashSet;
use std::sync::Arc;

use api::{Object, Value, meta};
use client::{Change, Client, DeleteOptions, Error, Informer, Informers, PatchType, Recorder, Result, gvr};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::cycle::{self, Unfit, World};
use crate::nominations::{self, Nominations};
use crate::preemption::{self, Budget, Eviction};
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
        budgets: watched.budgets.clone(),
        snapshot: Snapshot::default(),
        nominations: Nominations::default(),
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
        while let Some(c) = nodes.try_recv() {
            scheduler.node_changed(&c);
        }
        while let Some(c) = namespaces.try_recv() {
            scheduler.namespace_changed(c);
        }
        while let Some(c) = pods.try_recv() {
            scheduler.pod_changed(&c);
        }
        while let Ok(report) = reports.try_recv() {
            scheduler.reported(&report);
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
            Some(report) = reports.recv() => scheduler.reported(&report),
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
    budgets: Arc<Informer>,
    volumes: Volumes,
}

impl Watched {
    fn new(informers: &Informers) -> Self {
        Self {
            pods: informers.of(&gvr::PODS),
            nodes: informers.of(&gvr::NODES),
            namespaces: informers.of(&gvr::NAMESPACES),
            budgets: informers.of(&gvr::POD_DISRUPTION_BUDGETS),
            volumes: Volumes::new(informers),
        }
    }

    async fn synced(&self) {
        let v = &self.volumes;
        let (own, storage) =
            ([&self.pods, &self.nodes, &self.namespaces, &self.budgets], [&v.claims, &v.volumes, &v.classes]);
        for informer in own.into_iter().chain(storage) {
            informer.synced().await;
        }
    }
}

struct Scheduler {
    name: String,
    client: Client,
    recorder: Recorder,
    pods: Arc<Informer>,
    budgets: Arc<Informer>,
    snapshot: Snapshot,
    nominations: Nominations,
    queue: Queue,
    volumes: Volumes,
    /// Pods whose binding is on its way, by UID; the snapshot has them on their nodes already.
    binding: HashSet<String>,
    /// What was begun and failed.
    report: mpsc::UnboundedSender<Report>,
}

/// What was begun for a pod (by UID) and failed.
enum Report {
    /// It was not bound.
    Unbound(String, Error),
    /// Not all of those left that should have made room for it.
    Spared(String),
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
            self.nominations.remove(old.uid());
            if self.snapshot.remove_pod(old.uid()) {
                self.queue.wake();
            }
        }
        let Some(new) = change.new.as_ref().filter(|n| takes_room(n)) else { return };
        if assigned(new) {
            self.queue.remove(new.uid());
            self.nominations.remove(new.uid());
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
            self.nominations.remove(new.uid());
            return;
        }
        let was = change.old.as_deref().map(nominations::nominated).unwrap_or_default();
        match nominations::nominated(new) {
            // One that is not written yet is not in any state either.
            "" if was.is_empty() => {}
            "" => self.nominations.remove(new.uid()),
            node => self.nominations.set(&view, node, None),
        }
        self.queue.set(Arc::new(view));
    }

    fn node_changed(&mut self, change: &Change) {
        let name = change.object().name().to_owned();
        let view = change.new.as_ref().map(|n| Arc::new(NodeView::new(n)));
        let known = self.snapshot.nodes.get(&name).and_then(|i| i.node.as_ref());
        // Heartbeats change nothing that a pod could wait for.
        let same = known.zip(view.as_ref()).is_some_and(|(a, b)| a == b);
        self.snapshot.set_node(&name, view);
        if !same {
            self.queue.wake();
        }
    }

    fn namespace_changed(&mut self, change: Change) {
        let name = change.object().name().to_owned();
        let labels = change.new.as_ref().map(|n| n.labels());
        let same = self.snapshot.namespaces.get(&name).map(|n| n.labels()) == labels;
        match change.new {
            Some(new) => self.snapshot.namespaces.insert(name, new.encoded().clone()),
            None => self.snapshot.namespaces.remove(&name),
        };
        if !same {
            self.queue.wake(); // terms of affinity select namespaces by their labels
        }
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
        let crowded = self.nominations.crowd(pod, &self.snapshot);
        let world = World { snapshot: &self.snapshot, crowded: crowded.as_ref() };
        let wanted = claims.selected().or_else(|| self.nominations.node(&pod.uid));
        match cycle::schedule(pod, &world, wanted, &|c| claims.refusal(c)) {
            Ok(node) if claims.wait() => self.wait_for_claims(pod, claims, node),
            Ok(node) => self.bind(pod, node),
            Err(unfit) => self.make_room(pod, &unfit, crowded.as_ref()),
        }
    }

    fn bind(&mut self, pod: &Arc<PodView>, node: String) {
        let mut assumed = (**pod).clone();
        assumed.node.clone_from(&node);
        self.snapshot.set_pod(Arc::new(assumed));
        self.queue.remove(&pod.uid);
        self.nominations.remove(&pod.uid);
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
                    recorder.event(&pod.object.object(), "Normal", "Scheduled", text);
                }
                Err(e) => {
                    if !e.is_not_found() {
                        let text = format!("binding rejected: {e}");
                        recorder.event(&pod.object.object(), "Warning", "FailedScheduling", text);
                    }
                    let _ = report.send(Report::Unbound(pod.uid.clone(), e)); // nobody listens after shutdown
                }
            }
        });
    }

    fn reported(&mut self, report: &Report) {
        match report {
            Report::Unbound(uid, error) => self.binding_failed(uid, error),
            Report::Spared(uid) => {
                self.nominations.remove(uid);
                self.queue.wake();
            }
        }
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

    fn make_room(&mut self, pod: &Arc<PodView>, unfit: &Unfit, crowded: Option<&Snapshot>) {
        if unfit.nodes == 0 {
            return self.unschedulable(pod, unfit.message(""));
        }
        if self.nominations.waits(&pod.uid, &self.snapshot) {
            let why = "preemption: not eligible due to a terminating pod on the nominated node.";
            self.queue.wait(&pod.uid);
            return self.tell(pod, unfit.message(why));
        }
        let budgets: Vec<Budget> = self.budgets.list("").iter().filter_map(|b| Budget::new(b)).collect();
        let world = World { snapshot: &self.snapshot, crowded };
        match preemption::find(pod, &world, unfit, &budgets) {
            Err(why) => {
                if self.nominations.node(&pod.uid).is_some() {
                    self.nominations.remove(&pod.uid);
                    self.queue.wake(); // the room that was kept for it
                    self.nominate(pod, None);
                }
                self.unschedulable(pod, unfit.message(&why));
            }
            Ok(eviction) => {
                // Who was to have the node before and is less important looks again for one.
                for other in self.nominations.below(pod, &eviction.node) {
                    self.nominations.remove(&other.uid);
                    self.nominate(&other, None);
                }
                self.nominations.set(pod, &eviction.node, Some(&eviction.victims));
                self.queue.wait(&pod.uid);
                self.tell(pod, unfit.message(""));
                self.nominate(pod, Some(&eviction.node));
                self.evict(pod, eviction);
            }
        }
    }

    fn evict(&self, pod: &Arc<PodView>, eviction: Eviction) {
        let (client, recorder, report) = (self.client.clone(), self.recorder.clone(), self.report.clone());
        let (name, pod) = (self.name.clone(), pod.clone());
        tokio::spawn(async move {
            if !evict(&client, &recorder, &name, &pod, eviction).await {
                let _ = report.send(Report::Spared(pod.uid.clone())); // nobody listens after shutdown
            }
        });
    }

    /// Writes down which node a pod is meant to have.
    fn nominate(&self, pod: &PodView, node: Option<&str>) {
        let (client, key, patch) = (self.client.clone(), pod.key.clone(), nominations::nomination(pod, node));
        tokio::spawn(async move {
            let (ns, name) = (&key.namespace, &key.name);
            let done = client.patch_sub(&gvr::PODS, ns, name, "status", PatchType::Merge, &patch).await;
            if let Err(e) = done {
                tracing::debug!(pod = %key, error = %e, "the nominated node was not written");
            }
        });
    }

    /// A pod waits for a change, and says why.
    fn unschedulable(&mut self, pod: &Arc<PodView>, message: String) {
        self.queue.park(&pod.uid);
        self.tell(pod, message);
    }

    /// Says why a pod waits, in its condition and in an event.
    fn tell(&self, pod: &Arc<PodView>, message: String) {
        self.recorder.event(&pod.object.object(), "Warning", "FailedScheduling", message.clone());
        let current = self.pods.get(&pod.key.namespace, &pod.key.name).unwrap_or_else(|| pod.object.object());
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

/// Deletes the victims; gives whether all are gone or going.
async fn evict(
    client: &Client,
    recorder: &Recorder,
    scheduler: &str,
    pod: &PodView,
    eviction: Eviction,
) -> bool {
    let mut all = true;
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
            Ok(()) => recorder.event(&victim.object.object(), "Normal", "Preempted", text),
            // Another pod of that name, or none.
            Err(e) if e.is_not_found() || e.is_conflict() => {}
            Err(e) => {
                tracing::warn!(pod = %victim.key, error = %e, "a pod could not be preempted");
                all = false;
            }
        }
    }
    all
}

#[cfg(test)]
mod tests;
