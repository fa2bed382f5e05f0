//! Namespaces that are to go: everything in them is deleted first, whatever kinds there are, then they are let go.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::object::Encoded;
use api::{Gvr, Key, Object, Value, meta};
use async_trait::async_trait;
use client::discovery::{self, Resource};
use client::{Client, Informer, ListOptions, ObjectList, Result, WatchKind, WatchOptions, gvr};
use futures::StreamExt;
use futures::future::select_all;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use crate::{Action, Controller, Decision, Machine, Source, view};

/// The finalizer in a namespace's spec that is this controller's.
const FINALIZER: &str = "kubernetes";
/// When to look again for what tells no end: kinds that cannot be watched, and servers that do not say what kinds they have.
const AGAIN: Duration = Duration::from_secs(8);

/// The controller.
pub(crate) struct Namespaces {
    client: Client,
    namespaces: Arc<Informer>,
    /// What must end by itself is of any kind there may be: it is watched while a namespace waits for it.
    waits: Mutex<HashMap<String, AbortOnDropHandle<()>>>,
    /// Of which resources the objects in a namespace were told to go when it was looked at last.
    told: Mutex<HashMap<String, HashSet<Gvr>>>,
    wake: mpsc::UnboundedSender<Key>,
    woken: Mutex<Option<mpsc::UnboundedReceiver<Key>>>,
}

impl Namespaces {
    pub(crate) fn new(machine: &Machine) -> Self {
        let (wake, woken) = mpsc::unbounded_channel();
        Self {
            client: machine.client().named("namespace-controller"),
            namespaces: machine.informer(&gvr::NAMESPACES),
            waits: Mutex::default(),
            told: Mutex::default(),
            wake,
            woken: Mutex::new(Some(woken)),
        }
    }

    /// Looks at the namespace again as soon as one of the objects that are left in it is gone.
    fn wait(&self, namespace: &str, left: &[Left]) {
        let ends = left.iter().filter(|l| l.watched).map(|l| {
            let (client, gvr, namespace) = (self.client.clone(), l.gvr.clone(), namespace.to_owned());
            let options = WatchOptions { revision: l.revision, ..WatchOptions::default() };
            Box::pin(async move {
                let mut events = client.watch(&gvr, &namespace, &options).await?;
                // One that breaks off, or is of too long ago, says that it is time to look, too.
                while let Some(event) = events.next().await {
                    if event?.kind == WatchKind::Deleted {
                        break;
                    }
                }
                Ok::<_, client::Error>(())
            })
        });
        let ends: Vec<_> = ends.collect();
        if ends.is_empty() {
            return;
        }
        let (wake, key) = (self.wake.clone(), Key::new("", namespace));
        let waiting = tokio::spawn(async move {
            if let (Err(error), ..) = select_all(ends).await {
                tracing::debug!(%error, namespace = key.name, "what is left in it cannot be watched");
                // The server may be away; nothing tells when it is back.
                tokio::time::sleep(AGAIN).await;
            }
            let _ = wake.send(key); // it ends with us
        });
        self.waits.lock().insert(namespace.to_owned(), AbortOnDropHandle::new(waiting));
    }
}

#[async_trait]
impl Controller for Namespaces {
    fn name(&self) -> &'static str {
        "namespace-controller"
    }

    fn sources(&self) -> Vec<Source> {
        vec![Source::own(&self.namespaces)]
    }

    fn wakes(&self) -> Option<mpsc::UnboundedReceiver<Key>> {
        self.woken.lock().take()
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        self.waits.lock().remove(&key.name);
        let Some(namespace) = self.namespaces.get("", &key.name) else {
            self.told.lock().remove(&key.name);
            return Ok(Decision::default());
        };
        if !namespace.is_deleting() || !is_ours(&namespace) {
            return Ok(Decision::default());
        }
        let (resources, unreadable) = discovery::preferred(&self.client).await?;
        let mut left = Vec::new();
        for r in resources.iter().filter(|r| r.namespaced && r.can("list") && r.can("delete")) {
            match self.client.list(&r.gvr, &key.name, &ListOptions::default()).await {
                Ok(list) if list.items.is_empty() => {}
                Ok(list) => left.push(Left::of(r, list)),
                Err(e) if e.is_not_found() => {} // the kind itself has just gone
                Err(e) => return Err(e),
            }
        }
        let told = left.iter().filter(|l| !l.waiting).map(|l| l.gvr.clone()).collect();
        let before = self.told.lock().insert(key.name.clone(), told).unwrap_or_default();
        left.iter_mut().for_each(|l| l.told = before.contains(&l.gvr));
        if left.iter().all(|l| l.waiting || l.told) {
            self.wait(&key.name, &left);
        }
        Ok(decide(&Observed { namespace: &namespace, left, unreadable, now: base::clock::now() }))
    }
}

fn is_ours(namespace: &Object) -> bool {
    view::list(namespace, &["spec", "finalizers"]).iter().any(|f| f == FINALIZER)
}

/// Objects of one resource that are still there.
struct Left {
    gvr: Gvr,
    count: usize,
    /// Whether all of them are on their way out.
    waiting: bool,
    /// Whether the last look has told them to go, too: their server takes its time and does not say so.
    told: bool,
    finalizers: Vec<String>,
    /// Whether they can be deleted together.
    collection: bool,
    /// Whether their ends can be watched for.
    watched: bool,
    /// The revision they are of.
    revision: u64,
    /// Those that are not on their way, if they cannot be deleted together.
    each: Vec<Arc<Encoded>>,
}

impl Left {
    /// The objects are looked at one after another and let go: all of a large namespace decoded would take much memory.
    fn of(resource: &Resource, list: ObjectList) -> Self {
        let mut left = Self {
            gvr: resource.gvr.clone(),
            count: list.items.len(),
            waiting: true,
            told: false,
            finalizers: Vec::new(),
            collection: resource.can("deletecollection"),
            watched: resource.can("watch"),
            revision: list.revision,
            each: Vec::new(),
        };
        for object in list.items {
            left.finalizers.extend(meta::finalizers(object.value()).map(String::from));
            left.waiting &= object.is_deleting();
            if !left.collection && !object.is_deleting() {
                left.each.push(object.encoded().clone());
            }
        }
        left
    }
}

struct Observed<'a> {
    namespace: &'a Object,
    left: Vec<Left>,
    /// Groups whose resources are not known.
    unreadable: Vec<String>,
    now: Timestamp,
}

fn decide(o: &Observed<'_>) -> Decision {
    let mut decision = Decision::default();
    if o.left.is_empty() && o.unreadable.is_empty() {
        let mut object = o.namespace.value().clone();
        if let Some(list) = object["spec"]["finalizers"].as_array_mut() {
            list.retain(|f| f != FINALIZER);
        }
        decision.actions.push(Action::UpdateSub { gvr: gvr::NAMESPACES, sub: "finalize", object });
        return decision;
    }
    for left in o.left.iter().filter(|l| !l.waiting) {
        if left.collection {
            let namespace = o.namespace.name().to_owned();
            decision.actions.push(Action::DeleteCollection { gvr: left.gvr.clone(), namespace });
        } else {
            decision.actions.extend(left.each.iter().map(|o| Action::delete(&left.gvr, &o.object())));
        }
    }
    if o.left.iter().any(|l| !l.waiting && !l.told) {
        // What ends at once is gone by the next look.
        decision.after(Duration::ZERO);
        return decision;
    }
    // The rest takes its time, and people are told what it is.
    if !o.unreadable.is_empty() || o.left.iter().any(|l| !l.watched || !l.waiting) {
        decision.after(AGAIN);
    }
    decision.actions.extend(status(o));
    decision
}

fn status(o: &Observed<'_>) -> Option<Action> {
    let mut status = o.namespace.status().clone();
    let mut conditions = view::list(o.namespace, &["status", "conditions"]).to_vec();
    let now = meta::time(o.now);
    let mut set = |kind: &str, bad: bool, reason: (&str, &str), message: String, good: &str| {
        if bad {
            meta::set_condition(&mut conditions, kind, "True", reason.0, &message, &now)
        } else {
            meta::set_condition(&mut conditions, kind, "False", reason.1, good, &now)
        }
    };
    let mut changed = set(
        "NamespaceDeletionDiscoveryFailure",
        !o.unreadable.is_empty(),
        ("DiscoveryFailed", "ResourcesDiscovered"),
        format!(
            "Discovery failed for some groups, {} failing: {}",
            o.unreadable.len(),
            o.unreadable.join(", ")
        ),
        "All resources successfully discovered",
    );
    changed |= set(
        "NamespaceDeletionContentFailure",
        false,
        ("", "ContentDeleted"),
        String::new(),
        "All content successfully deleted, may be waiting on finalization",
    );
    let named = |l: &Left| {
        let group = if l.gvr.group.is_empty() { String::new() } else { format!(".{}", l.gvr.group) };
        format!("{}{group} has {} resource instances", l.gvr.resource, l.count)
    };
    let remaining: Vec<String> = o.left.iter().map(named).collect();
    changed |= set(
        "NamespaceContentRemaining",
        !remaining.is_empty(),
        ("SomeResourcesRemain", "ContentRemoved"),
        format!("Some resources are remaining: {}", remaining.join(", ")),
        "All content successfully removed",
    );
    let mut finalizers: Vec<&String> = o.left.iter().flat_map(|l| &l.finalizers).collect();
    finalizers.sort();
    let mut counted: Vec<(&String, usize)> = Vec::new();
    for f in finalizers {
        match counted.last_mut() {
            Some((last, n)) if *last == f => *n += 1,
            _ => counted.push((f, 1)),
        }
    }
    let counted: Vec<String> =
        counted.iter().map(|(f, n)| format!("{f} in {n} resource instances")).collect();
    changed |= set(
        "NamespaceFinalizersRemaining",
        !counted.is_empty(),
        ("SomeFinalizersRemain", "ContentHasNoFinalizers"),
        format!("Some content in the namespace has finalizers remaining: {}", counted.join(", ")),
        "All content-preserving finalizers finished",
    );
    status["conditions"] = Value::from(conditions);
    changed.then(|| Action::status(&gvr::NAMESPACES, o.namespace, status))
}

/// Whether a namespace is one in which things may be made.
pub(crate) fn is_active(namespace: &Object) -> bool {
    !namespace.is_deleting() && namespace.at(&["status", "phase"]) != &json!("Terminating")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, summary};
    use client::DeleteOptions;

    fn namespace() -> Value {
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns", "uid": "n", "deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Terminating"}})
    }

    fn left(resource: &'static str, waiting: bool) -> Left {
        Left {
            gvr: Gvr::new("", "v1", resource),
            count: 2,
            waiting,
            told: false,
            finalizers: vec!["f".into()],
            collection: true,
            watched: true,
            revision: 1,
            each: vec![],
        }
    }

    #[test]
    fn decisions() {
        let n = Object::from_value(namespace());
        for (what, left, want) in [
            ("empty", vec![], "finalize namespaces/ns"),
            (
                "full",
                vec![left("pods", false), left("secrets", false)],
                "delete all pods; delete all secrets",
            ),
            ("some are on their way", vec![left("pods", true), left("secrets", false)], "delete all secrets"),
            ("all are on their way", vec![left("pods", true)], "status namespaces/ns"),
        ] {
            let d = decide(&Observed { namespace: &n, left, unreadable: vec![], now: Timestamp::UNIX_EPOCH });
            assert_eq!(summary(&d.actions).join("; "), want, "{what}");
            let at_once = d.actions.iter().any(|a| matches!(a, Action::DeleteCollection { .. }));
            assert_eq!(d.again, at_once.then_some(Duration::ZERO), "{what}: what ends by itself says so");
        }
        let told = Left { told: true, ..left("metrics", false) };
        let observed =
            Observed { namespace: &n, left: vec![told], unreadable: vec![], now: Timestamp::UNIX_EPOCH };
        let d = decide(&observed);
        assert_eq!(summary(&d.actions), ["delete all metrics", "status namespaces/ns"]);
        assert_eq!(d.again, Some(AGAIN), "who does not do at once what it is told is not told without pause");
        let quiet = Left { watched: false, ..left("metrics", true) };
        let observed =
            Observed { namespace: &n, left: vec![quiet], unreadable: vec![], now: Timestamp::UNIX_EPOCH };
        assert_eq!(decide(&observed).again, Some(AGAIN));
        let d = decide(&Observed {
            namespace: &n,
            left: vec![],
            unreadable: vec!["g/v1".into()],
            now: Timestamp::UNIX_EPOCH,
        });
        assert_eq!(summary(&d.actions), ["status namespaces/ns"], "what is not known may still be there");
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_is_emptied_and_goes() {
        let world = World::new();
        let verbs = || ["list", "watch", "delete", "deletecollection"].map(String::from).to_vec();
        let resource = |g: &Gvr, kind: &str| discovery::Resource {
            gvr: g.clone(),
            kind: kind.into(),
            namespaced: true,
            verbs: verbs(),
        };
        world.fake.serve(vec![
            resource(&gvr::PODS, "Pod"),
            resource(&gvr::SECRETS, "Secret"),
            resource(&gvr::DEPLOYMENTS, "Deployment"),
        ]);
        world.machine.start(Namespaces::new(&world.machine));
        let mut active = namespace();
        meta::of_mut(&mut active).shift_remove("deletionTimestamp");
        world.fake.put(&gvr::NAMESPACES, active);
        let put = |g: &Gvr, name: &str, spec: Value| {
            world.fake.put(g, json!({"metadata": {"name": name, "namespace": "ns"}, "spec": spec}))
        };
        put(&gvr::SECRETS, "s", json!({}));
        put(&gvr::DEPLOYMENTS, "d", json!({}));
        put(&gvr::PODS, "p", json!({"nodeName": "n"}));
        world.fake.put(&gvr::SECRETS, json!({"metadata": {"name": "s", "namespace": "other"}}));
        world.machine.client().delete(&gvr::NAMESPACES, "", "ns", &DeleteOptions::default()).await.unwrap();
        world.settle().await;
        let n = world.fake.get(&gvr::NAMESPACES, "", "ns").unwrap();
        assert_eq!(
            view::condition(&n, "NamespaceContentRemaining").unwrap()["message"],
            "Some resources are remaining: pods has 1 resource instances"
        );
        world.fake.remove(&gvr::PODS, "ns", "p"); // its containers have ended
        world.settle().await;
        assert!(world.fake.get(&gvr::NAMESPACES, "", "ns").is_none());
        assert_eq!(world.fake.all(&gvr::SECRETS).len(), 1);
    }
}
