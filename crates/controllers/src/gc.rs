//! Garbage: what belongs to owners that are gone. Also the two other ways to delete: what is owned first (foreground), or
//! not at all (orphan).
//!
//! It follows every kind that can be listed, watched and deleted, custom ones as they come and go, in a graph of UIDs. An
//! owner that the graph does not have is looked for in the API before anything is deleted on account of its absence.

mod graph;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::meta::{OwnerReference, Ties};
use api::{Gvk, Gvr, Object, Value};
use client::{
    Change, Client, DeleteOptions, Error, Informer, PatchType, Propagation, Recorder, Result, WorkQueue,
    discovery,
};
use futures::future::select_all;
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Machine, children};
use graph::{FOREGROUND, Graph, Node, ORPHAN};

const NAME: &str = "generic-garbage-collector";
const WORKERS: usize = 8;
/// What changes which kinds there are.
const SERVED_BY: [Gvr; 2] = [
    Gvr::new("apiextensions.k8s.io", "v1", "customresourcedefinitions"),
    Gvr::new("apiregistration.k8s.io", "v1", "apiservices"),
];
/// How long to wait after an attempt to learn the server's kinds has failed: nothing tells when it would succeed.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the objects of newly found kinds are waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Starts the collector.
pub(crate) fn start(machine: &Machine) {
    let collector = Arc::new(Collector {
        client: machine.client().named(NAME),
        graph: Mutex::default(),
        queue: WorkQueue::named(NAME),
        kinds: RwLock::default(),
        recorder: crate::recorder(machine, NAME),
    });
    let shutdown = machine.shutdown().clone();
    let informers = machine.informers().clone();
    let (changes, incoming) = mpsc::unbounded_channel();
    let follow = Follow {
        collector: collector.clone(),
        informers,
        changes,
        followed: HashMap::new(),
        unread: Vec::new(),
    };
    let stop = shutdown.clone();
    machine.spawn(async move {
        stop.run_until_cancelled(follow.run()).await;
    });
    let (c, stop) = (collector.clone(), shutdown.clone());
    machine.spawn(async move {
        stop.run_until_cancelled(c.take_in(incoming)).await;
    });
    for _ in 0..WORKERS {
        let (c, stop) = (collector.clone(), shutdown.clone());
        machine.spawn(async move {
            stop.run_until_cancelled(c.work()).await;
        });
    }
}

enum Event {
    Change(Gvr, Change),
    /// Everything that there was at first has been sent.
    Complete,
}

/// Follows the kinds that there are.
struct Follow {
    collector: Arc<Collector>,
    informers: client::Informers,
    changes: mpsc::UnboundedSender<Event>,
    followed: HashMap<Gvr, CancellationToken>,
    /// Those whose objects have not all come yet.
    unread: Vec<Arc<Informer>>,
}

impl Follow {
    async fn run(mut self) {
        let mut definitions = Vec::new();
        loop {
            let mut missing;
            match discovery::preferred(&self.collector.client).await {
                Ok((resources, unreadable)) => {
                    missing = !unreadable.is_empty();
                    let there = SERVED_BY.map(|g| resources.iter().any(|r| r.gvr == g).then_some(g));
                    self.follow(resources, unreadable.is_empty());
                    missing |= self.read().await;
                    let _ = self.changes.send(Event::Complete); // it ends with us
                    if definitions.is_empty() {
                        definitions.extend(there.iter().flatten().map(|g| self.informers.of(g).subscribe()));
                    }
                }
                Err(e) => {
                    tracing::debug!(error = %e, "the server's kinds cannot be read");
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
            let again = async {
                if missing { tokio::time::sleep(AGAIN).await } else { std::future::pending().await }
            };
            let changed = async {
                if definitions.is_empty() {
                    return std::future::pending().await;
                }
                select_all(definitions.iter_mut().map(|d| Box::pin(d.recv()))).await;
                // Several often come together: one look is enough for all that have arrived.
                definitions.iter_mut().for_each(|d| while d.try_recv().is_some() {});
            };
            tokio::select! { () = again => {}, () = changed => {} }
        }
    }

    /// Waits until all objects of the kinds have come. True: not all have in time, and another look is due.
    async fn read(&mut self) -> bool {
        let all = async {
            for informer in &self.unread {
                informer.synced().await;
            }
        };
        // A kind may be gone before its first list, or be listed by a server that does not answer: the others go on.
        let late = tokio::time::timeout(PATIENCE, all).await.is_err();
        self.unread.retain(|i| !i.is_synced() && self.followed.contains_key(i.gvr()));
        for informer in self.unread.iter().filter(|_| late) {
            tracing::warn!(kind = %informer.gvr(), "its objects cannot be listed: what they own is not collected");
        }
        late
    }

    fn follow(&mut self, resources: Vec<discovery::Resource>, complete: bool) {
        let mut kinds = HashMap::new();
        for r in &resources {
            kinds.insert(
                Gvk::owned(r.gvr.group.clone(), String::new(), r.kind.clone()),
                (r.gvr.clone(), r.namespaced),
            );
        }
        if complete {
            *self.collector.kinds.write() = kinds;
        } else {
            self.collector.kinds.write().extend(kinds);
        }
        let wanted = |r: &&discovery::Resource| {
            // Events own nothing and belong to nobody, and there are many of them.
            r.can("list")
                && r.can("watch")
                && r.can("delete")
                && r.gvr.resource != "events"
                && r.gvr.group != "extensions"
        };
        let wanted: Vec<Gvr> = resources.iter().filter(wanted).map(|r| r.gvr.clone()).collect();
        for gvr in &wanted {
            if self.followed.contains_key(gvr) {
                continue;
            }
            let stop = CancellationToken::new();
            let built_in = api::kinds::by_gvr(gvr).is_some();
            let informer =
                if built_in { self.informers.of(gvr) } else { self.informers.private(gvr, stop.clone()) };
            let mut changes = informer.subscribe();
            let (send, gvr, end) = (self.changes.clone(), gvr.clone(), stop.clone());
            self.followed.insert(gvr.clone(), stop);
            tokio::spawn(async move {
                while let Some(Some(change)) = end.run_until_cancelled(changes.recv()).await {
                    if send.send(Event::Change(gvr.clone(), change)).is_err() {
                        return;
                    }
                }
            });
            self.unread.push(informer);
        }
        if complete {
            self.followed.retain(|gvr, stop| {
                let stays = wanted.contains(gvr);
                if !stays {
                    stop.cancel();
                }
                stays
            });
            self.unread.retain(|i| self.followed.contains_key(i.gvr()));
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        for stop in self.followed.values() {
            stop.cancel();
        }
    }
}

struct Collector {
    client: Client,
    graph: Mutex<Graph>,
    /// UIDs to look at.
    queue: WorkQueue<String>,
    /// Resources by group and kind, and whether they lie in namespaces.
    kinds: RwLock<HashMap<Gvk, (Gvr, bool)>>,
    recorder: Recorder,
}

/// Where an owner stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// It is there.
    Solid,
    /// It is there, and waits for what it owns to go first.
    Waiting,
    /// It is gone.
    Gone,
}

/// What to do about an object.
#[derive(Debug, PartialEq)]
enum Verdict {
    Nothing,
    /// Take out the owners with these UIDs.
    Disown(Vec<String>),
    Delete(Propagation),
}

/// `owners`: each with where it stands. `blocks`: whether what it owns holds it up in turn.
fn verdict(ties: &Ties, deleting: bool, owners: &[(OwnerReference, Owner)], blocks: bool) -> Verdict {
    if owners.is_empty() || deleting {
        return Verdict::Nothing;
    }
    let solid = owners.iter().any(|(_, o)| *o == Owner::Solid);
    if solid {
        let useless = owners.iter().filter(|(_, o)| *o != Owner::Solid);
        let uids: Vec<String> = useless.map(|(r, _)| r.uid.clone()).collect();
        return if uids.is_empty() { Verdict::Nothing } else { Verdict::Disown(uids) };
    }
    let waited_for = owners.iter().any(|(_, o)| *o == Owner::Waiting);
    if waited_for && blocks {
        return Verdict::Delete(Propagation::Foreground);
    }
    Verdict::Delete(match () {
        () if ties.has(ORPHAN) => Propagation::Orphan,
        () if ties.has(FOREGROUND) => Propagation::Foreground,
        () => Propagation::Background,
    })
}

impl Collector {
    /// Keeps the graph up to date and puts in the queue what a change may concern.
    async fn take_in(&self, mut events: mpsc::UnboundedReceiver<Event>) {
        let mut complete = false;
        while let Some(event) = events.recv().await {
            match event {
                Event::Change(gvr, change) => {
                    let concerned = self.graph.lock().apply(&gvr, &change);
                    if complete {
                        concerned.into_iter().for_each(|uid| self.queue.add(uid));
                    }
                }
                // Until everything is known, everything would look like an orphan.
                Event::Complete if !complete => {
                    complete = true;
                    let suspects = self.graph.lock().suspects();
                    suspects.into_iter().for_each(|uid| self.queue.add(uid));
                }
                Event::Complete => {}
            }
        }
    }

    async fn work(&self) {
        while let Some(uid) = self.queue.next().await {
            match self.look_at(&uid).await {
                Ok(()) => self.queue.forget(&uid),
                Err(e) => {
                    tracing::debug!(%uid, error = %e, "garbage collection failed, trying again");
                    self.queue.add_failed(uid.clone());
                }
            }
            self.queue.done(&uid);
        }
    }

    async fn look_at(&self, uid: &str) -> Result<()> {
        let Some(node) = self.graph.lock().get(uid) else { return Ok(()) };
        if node.object.is_deleting() {
            if node.has(ORPHAN) {
                return self.orphan(&node).await;
            }
            if node.has(FOREGROUND) {
                return self.foreground(&node).await;
            }
            return Ok(());
        }
        let mut owners = Vec::new();
        for owner in &node.ties.owners {
            let state = self.state(&node, owner).await?;
            owners.push((owner.clone(), state));
        }
        let blocks = self.graph.lock().blocking(uid).next().is_some();
        match verdict(&node.ties, node.object.is_deleting(), &owners, blocks) {
            Verdict::Nothing => Ok(()),
            Verdict::Disown(uids) => self.disown(&node, &uids).await,
            Verdict::Delete(propagation) => {
                tracing::debug!(object = %node.object.key(), kind = node.object.kind(), ?propagation, "deleting garbage");
                let o = &node.object;
                let options = DeleteOptions {
                    propagation: Some(propagation),
                    uid: Some(uid.into()),
                    // Its owners may be others by now.
                    revision: Some(o.revision()),
                    ..DeleteOptions::default()
                };
                fine(self.client.delete(&node.gvr, o.namespace(), o.name(), &options).await.map(|_| ()))
            }
        }
    }

    /// Where an owner stands: in the graph if it is there, else in the API.
    async fn state(&self, node: &Node, owner: &OwnerReference) -> Result<Owner> {
        let of = |o: &Object| {
            let waits = o.is_deleting() && Ties::of(o).has(FOREGROUND);
            if waits && owner.block_owner_deletion == Some(true) { Owner::Waiting } else { Owner::Solid }
        };
        let gvk = Gvk::parse(&owner.api_version, &owner.kind);
        let group_kind = Gvk::owned(gvk.group, String::new(), gvk.kind);
        let known = self.kinds.read().get(&group_kind).cloned();
        let Some((gvr, namespaced)) = known else {
            let (graph, within) = (self.graph.lock(), node.object.namespace());
            return Ok(match graph.get(&owner.uid) {
                Some(found) => of(&found.object.object()),
                None if graph.is_gone(within, &owner.uid) || graph.is_gone("", &owner.uid) => Owner::Gone,
                // A kind that is not served now may be again: nothing is deleted on such a ground.
                None => Owner::Solid,
            });
        };
        let within = node.object.namespace();
        if namespaced && within.is_empty() {
            // In which namespace it would be, nobody knows: that it is gone cannot be said.
            self.misplaced(node, owner);
            return Ok(Owner::Solid);
        }
        let ns = if namespaced { within } else { "" };
        {
            let graph = self.graph.lock();
            match graph.get(&owner.uid) {
                Some(found) if found.object.namespace() == ns => return Ok(of(&found.object.object())),
                // What lives in another namespace owns nothing here.
                Some(_) => {
                    drop(graph);
                    self.misplaced(node, owner);
                    return Ok(Owner::Gone);
                }
                None if graph.is_gone(ns, &owner.uid) => return Ok(Owner::Gone),
                None => {}
            }
        }
        match self.client.get(&gvr, ns, &owner.name).await {
            Ok(found) if found.uid() == owner.uid => Ok(of(&found)),
            Ok(_) => {
                self.graph.lock().note_gone(ns, &owner.uid);
                Ok(Owner::Gone)
            }
            Err(e) if e.is_not_found() => {
                self.graph.lock().note_gone(ns, &owner.uid);
                Ok(Owner::Gone)
            }
            Err(e) => Err(e),
        }
    }

    /// Tells whoever looks at the object that its owner cannot be one.
    fn misplaced(&self, node: &Node, owner: &OwnerReference) {
        let (o, within) = (node.object.object(), node.object.namespace());
        let message = format!(
            "ownerRef [{}/{}, namespace: {within}, name: {}, uid: {}] does not exist in namespace {within:?}",
            owner.api_version, owner.kind, owner.name, owner.uid
        );
        self.recorder.event(&o, "Warning", "OwnerRefInvalidNamespace", message);
    }

    async fn disown(&self, node: &Node, uids: &[String]) -> Result<()> {
        let mut owners = node.ties.owners.clone();
        owners.retain(|o| !uids.contains(&o.uid));
        self.write_owners(node, &owners).await
    }

    async fn write_owners(&self, node: &Node, owners: &[OwnerReference]) -> Result<()> {
        let crate::Action::Patch { gvr, key, patch, .. } =
            children::set_owners(&node.gvr, &node.object.object(), owners)
        else {
            return Ok(());
        };
        fine(self.client.patch(&gvr, &key.namespace, &key.name, PatchType::Merge, &patch).await.map(|_| ()))
    }

    /// Lets go of what the object owns, then of the object.
    async fn orphan(&self, node: &Node) -> Result<()> {
        let dependents = self.graph.lock().dependents(node.object.uid());
        for dependent in dependents {
            self.disown(&dependent, &[node.object.uid().to_owned()]).await?;
        }
        self.unfinalize(node, ORPHAN).await
    }

    /// Waits for what the object owns and what holds it up, then lets go of the object.
    async fn foreground(&self, node: &Node) -> Result<()> {
        let uid = node.object.uid();
        let (blocking, circle, dependents) = {
            let graph = self.graph.lock();
            (graph.blocking(uid).next().is_some(), graph.in_circle(uid), graph.dependents(uid))
        };
        for dependent in dependents {
            self.queue.add(dependent.object.uid().to_owned());
        }
        match (blocking, circle) {
            (false, _) => self.unfinalize(node, FOREGROUND).await,
            (true, false) => Ok(()),
            // Nobody in the circle would ever go: this one holds its owners up no longer.
            (true, true) => self.stop_blocking(node).await,
        }
    }

    async fn stop_blocking(&self, node: &Node) -> Result<()> {
        let mut owners = node.ties.owners.clone();
        for owner in &mut owners {
            owner.block_owner_deletion = Some(false);
        }
        self.write_owners(node, &owners).await
    }

    async fn unfinalize(&self, node: &Node, finalizer: &str) -> Result<()> {
        let o = &node.object;
        let rest: Vec<&String> = node.ties.finalizers.iter().filter(|f| *f != finalizer).collect();
        let rest = if rest.is_empty() { Value::Null } else { json!(rest) };
        let patch = json!({"metadata": {"finalizers": rest, "uid": o.uid(), "resourceVersion": o.revision().to_string()}});
        fine(
            self.client.patch(&node.gvr, o.namespace(), o.name(), PatchType::Merge, &patch).await.map(|_| ()),
        )
    }
}

/// That it is gone is what was wanted.
fn fine(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if Error::is_not_found(&e) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
