//! Informers: what the server has, kept up to date here, shared by everybody in the process.
//!
//! An informer lists once, watches from there, and resumes from the last revision it saw when a watch ends. Only when
//! that revision is no longer kept does it list again, and then it tells its subscribers the difference. So a subscriber
//! may miss a state that did not last, never one that does.
//!
//! It holds objects encoded; they are decoded where somebody looks into them ([`api::object`]), once for all who do.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::object::Encoded;
use api::selector::{Field, Label};
use api::{Gvr, Key, Object};
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Client, Error, ListOptions, Result, WatchKind, WatchOptions};

/// The delay after a first failure to reach the server; it doubles up to [`LAST_DELAY`], each with up to a half more.
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// The longest delay between attempts to reach the server.
const LAST_DELAY: Duration = Duration::from_secs(30);

/// What happened to an object: made (`old` is none), changed, or gone (`new` is none).
#[derive(Debug, Clone)]
pub struct Change {
    /// Before.
    pub old: Option<Arc<Object>>,
    /// After.
    pub new: Option<Arc<Object>>,
}

impl Change {
    /// The object as it is now, or as it was last.
    pub fn object(&self) -> &Arc<Object> {
        match (&self.new, &self.old) {
            (Some(o), _) | (None, Some(o)) => o,
            (None, None) => nothing(),
        }
    }
}

/// A change on its way to a subscriber, who may be far behind: what waits is not decoded.
#[derive(Clone)]
struct Told {
    old: Option<Arc<Encoded>>,
    new: Option<Arc<Encoded>>,
}

impl Told {
    fn change(self) -> Change {
        let object = |o: Option<Arc<Encoded>>| o.map(|o| o.object());
        Change { old: object(self.old), new: object(self.new) }
    }
}

/// The changes of an informer's objects, in their order.
pub struct Changes(mpsc::UnboundedReceiver<Told>);

impl Changes {
    /// The next one; nothing when the informer is gone.
    pub async fn recv(&mut self) -> Option<Change> {
        self.0.recv().await.map(Told::change)
    }

    /// The next one, if it has arrived.
    pub fn try_recv(&mut self) -> Option<Change> {
        self.0.try_recv().ok().map(Told::change)
    }
}

fn nothing() -> &'static Arc<Object> {
    static NOTHING: OnceLock<Arc<Object>> = OnceLock::new();
    NOTHING.get_or_init(|| Object::from_value(api::Value::Null))
}

/// Which objects an informer follows; the default is all of the resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// One namespace; `""`: all.
    pub namespace: String,
    /// Only objects with such labels.
    pub labels: Label,
    /// Only objects with such fields.
    pub fields: Field,
}

/// Gives an object's values in an index.
pub type IndexFn = fn(&Object) -> Vec<String>;

/// Index functions that several components use.
pub mod index {
    use api::Object;
    use api::meta::Ties;
    use serde::Deserialize;

    /// The name of the index that [`controller`] makes.
    pub const CONTROLLER: &str = "controller";
    /// The name of the index that [`node`] makes.
    pub const NODE: &str = "node";
    /// The name of the index that [`service`] makes.
    pub const SERVICE: &str = "service";
    /// The label that says which Service an EndpointSlice belongs to.
    pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

    /// By the UID of the owner that is the object's controller.
    pub fn controller(object: &Object) -> Vec<String> {
        Ties::of(object).controller().map(|o| o.uid.clone()).into_iter().collect()
    }

    /// Pods by the node that they are bound to (`""`: none).
    pub fn node(object: &Object) -> Vec<String> {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase")]
        struct Spec {
            #[serde(default)]
            node_name: Option<String>,
        }
        #[derive(Deserialize, Default)]
        struct View {
            #[serde(default)]
            spec: Option<Spec>,
        }
        let view = object.to::<View>().unwrap_or_default();
        vec![view.spec.and_then(|s| s.node_name).unwrap_or_default()]
    }

    /// EndpointSlices by their Service, as `NAMESPACE/NAME`.
    pub fn service(slice: &Object) -> Vec<String> {
        let name = slice.labels().get(SERVICE_NAME);
        name.map(|name| format!("{}/{name}", slice.namespace())).into_iter().collect()
    }
}

struct Index {
    of: IndexFn,
    keys: HashMap<String, BTreeSet<Key>>,
}

#[derive(Default)]
struct Cache {
    objects: BTreeMap<Key, Arc<Encoded>>,
    indices: HashMap<&'static str, Index>,
    subscribers: Vec<mpsc::UnboundedSender<Told>>,
}

impl Cache {
    fn set(&mut self, key: Key, new: Option<Arc<Encoded>>) {
        let old = match &new {
            Some(o) => self.objects.insert(key.clone(), o.clone()),
            None => self.objects.remove(&key),
        };
        if old.is_none() && new.is_none() {
            return;
        }
        if !self.indices.is_empty() {
            let objects = [&old, &new].map(|o| o.as_ref().map(Encoded::object));
            for index in self.indices.values_mut() {
                index.change(&key, objects[0].as_deref(), objects[1].as_deref());
            }
        }
        let told = Told { old, new };
        self.subscribers.retain(|s| s.send(told.clone()).is_ok());
    }
}

impl Index {
    fn change(&mut self, key: &Key, old: Option<&Object>, new: Option<&Object>) {
        for value in old.map(self.of).unwrap_or_default() {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
        for value in new.map(self.of).unwrap_or_default() {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }
}

/// The objects of one resource (or a selection of them), kept up to date. See the module's documentation.
pub struct Informer {
    gvr: Gvr,
    selection: Selection,
    cache: RwLock<Cache>,
    /// Up to which revision the cache is complete; 0 before the first list.
    revision: watch::Sender<u64>,
}

impl Informer {
    fn new(gvr: Gvr, selection: Selection) -> Self {
        Self { gvr, selection, cache: RwLock::default(), revision: watch::Sender::new(0) }
    }

    /// The resource.
    pub fn gvr(&self) -> &Gvr {
        &self.gvr
    }

    /// One object. `""` is the namespace of cluster-scoped ones.
    pub fn get(&self, ns: &str, name: &str) -> Option<Arc<Object>> {
        self.cache.read().objects.get(&Key::new(ns, name)).map(Encoded::object)
    }

    /// The objects of a namespace, or all if it is `""`, in the order of their keys.
    pub fn list(&self, ns: &str) -> Vec<Arc<Object>> {
        let cache = self.cache.read();
        if ns.is_empty() {
            return cache.objects.values().map(Encoded::object).collect();
        }
        let from = cache.objects.range(Key::new(ns, "")..);
        from.take_while(|(k, _)| k.namespace == ns).map(|(_, o)| o.object()).collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.cache.read().objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes an index, unless one of that name exists; the name must mean the same to all who share the informer.
    pub fn add_index(&self, name: &'static str, of: IndexFn) {
        let mut cache = self.cache.write();
        if let Some(index) = cache.indices.get(name) {
            debug_assert!(std::ptr::fn_addr_eq(index.of, of), "two functions make the index {name}");
            return;
        }
        let mut index = Index { of, keys: HashMap::new() };
        for (key, object) in &cache.objects {
            index.change(key, None, Some(&object.object()));
        }
        cache.indices.insert(name, index);
    }

    /// The objects that have `value` in the index `name`; none if there is no such index.
    pub fn by_index(&self, name: &str, value: &str) -> Vec<Arc<Object>> {
        let cache = self.cache.read();
        let keys = cache.indices.get(name).and_then(|i| i.keys.get(value));
        keys.into_iter().flatten().filter_map(|k| cache.objects.get(k).map(Encoded::object)).collect()
    }

    /// Changes from now on, after one for each object that is there now.
    pub fn subscribe(&self) -> Changes {
        let (send, receive) = mpsc::unbounded_channel();
        let mut cache = self.cache.write();
        for object in cache.objects.values() {
            let _ = send.send(Told { old: None, new: Some(object.clone()) }); // the receiver is right here
        }
        cache.subscribers.push(send);
        Changes(receive)
    }

    /// Up to which revision this shows everything; 0 before the first list.
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Resolves once everything is here for the first time.
    pub async fn synced(&self) {
        self.reached(1).await;
    }

    /// Whether everything has been here.
    pub fn is_synced(&self) -> bool {
        self.revision() > 0
    }

    /// Resolves once this shows everything up to `revision`.
    pub async fn reached(&self, revision: u64) {
        // An error means that the sender is gone, and it lives in self.
        let _ = self.revision.subscribe().wait_for(|r| *r >= revision).await;
    }

    /// Resolves once the object with this UID is gone, or known to be going.
    pub async fn gone(&self, ns: &str, name: &str, uid: &str) {
        let mut revisions = self.revision.subscribe();
        while self.get(ns, name).is_some_and(|o| o.uid() == uid && !o.is_deleting()) {
            if revisions.changed().await.is_err() {
                return;
            }
        }
    }

    fn advance(&self, revision: u64) {
        self.revision.send_if_modified(|r| {
            let newer = revision > *r;
            *r = revision.max(*r);
            newer
        });
    }

    async fn run(&self, client: Client, shutdown: CancellationToken) {
        let mut delay = FIRST_DELAY;
        let mut from = None;
        // Whether it has been said that this does not go; said once for each time that it goes wrong.
        let mut said = false;
        loop {
            let started = Instant::now();
            let result = tokio::select! {
                () = shutdown.cancelled() => return,
                r = self.list_and_watch(&client, &mut from) => r,
            };
            if let Err(e) = &result {
                if e.is_expired() {
                    from = None;
                    tracing::debug!(resource = %self.gvr, "the watch's revision is gone; listing again");
                } else if !said && e.status().is_some() {
                    // It will not go by itself, unlike a connection that was lost.
                    tracing::warn!(resource = %self.gvr, error = %e, "the server refuses to list or watch it; trying again");
                    said = true;
                } else {
                    tracing::debug!(resource = %self.gvr, error = %e, "the watch broke");
                }
            }
            if started.elapsed() > LAST_DELAY {
                (delay, said) = (FIRST_DELAY, false);
            }
            if result.is_ok() && started.elapsed() > delay {
                continue;
            }
            // A timer, because nothing tells when a server that failed is back; jittered, because many wait for it.
            let pause = delay.mul_f64(1.0 + base::rng::fraction() / 2.0);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            delay = (delay * 2).min(LAST_DELAY);
        }
    }

    /// `from` is where to resume; `None`: list first.
    async fn list_and_watch(&self, client: &Client, from: &mut Option<u64>) -> Result<()> {
        let Selection { namespace, labels, fields } = &self.selection;
        let mut last = match *from {
            Some(revision) => revision,
            None => {
                let options = ListOptions {
                    labels: labels.clone(),
                    fields: fields.clone(),
                    any_revision: true,
                    ..Default::default()
                };
                let list = client.list(&self.gvr, namespace, &options).await?;
                self.replace(list.items);
                self.advance(list.revision.max(1));
                list.revision
            }
        };
        *from = Some(last);
        let options =
            WatchOptions { revision: last, labels: labels.clone(), fields: fields.clone(), bookmarks: true };
        let mut events = client.watch(&self.gvr, namespace, &options).await?;
        while let Some(event) = events.next().await {
            let event = event?;
            let (object, revision) = (event.object, last);
            last = revision.max(object.revision());
            match event.kind {
                WatchKind::Added | WatchKind::Modified => {
                    self.cache.write().set(object.key(), Some(object.encoded().clone()));
                }
                WatchKind::Deleted => self.cache.write().set(object.key(), None),
                WatchKind::Bookmark => {}
            }
            *from = Some(last);
            self.advance(last);
        }
        Ok(())
    }

    fn replace(&self, items: Vec<Arc<Object>>) {
        let mut cache = self.cache.write();
        let listed: BTreeSet<Key> = items.iter().map(|o| o.key()).collect();
        let gone: Vec<Key> = cache.objects.keys().filter(|k| !listed.contains(k)).cloned().collect();
        for key in gone {
            cache.set(key, None);
        }
        for object in items {
            let key = object.key();
            let known = cache.objects.get(&key);
            if known.is_none_or(|k| k.revision() != object.revision() || k.uid() != object.uid()) {
                cache.set(key, Some(object.encoded().clone()));
            }
        }
    }
}

/// Every informer of the process, each started when first asked for. Clones share them.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    shutdown: CancellationToken,
    known: Arc<Mutex<Vec<Arc<Informer>>>>,
}

impl Informers {
    /// None yet. Those to come read as `client` and end with `shutdown`.
    pub fn new(client: Client, shutdown: CancellationToken) -> Self {
        Self { client, shutdown, known: Arc::default() }
    }

    /// The informer of all objects of a resource. To be called inside a tokio runtime.
    pub fn of(&self, gvr: &Gvr) -> Arc<Informer> {
        self.selected(gvr, Selection::default())
    }

    /// The informer of some objects of a resource.
    pub fn selected(&self, gvr: &Gvr, selection: Selection) -> Arc<Informer> {
        let mut known = self.known.lock();
        if let Some(informer) = known.iter().find(|i| i.gvr == *gvr && i.selection == selection) {
            return informer.clone();
        }
        let informer = Arc::new(Informer::new(gvr.clone(), selection));
        known.push(informer.clone());
        let (task, client, shutdown) = (informer.clone(), self.client.clone(), self.shutdown.clone());
        tokio::spawn(async move { task.run(client, shutdown).await });
        informer
    }

    /// An informer that lives as long as somebody holds it and `shutdown` is not cancelled, shared with nobody: for
    /// resources that come and go (custom ones).
    pub fn private(&self, gvr: &Gvr, shutdown: CancellationToken) -> Arc<Informer> {
        let informer = Arc::new(Informer::new(gvr.clone(), Selection::default()));
        let (task, client) = (informer.clone(), self.client.clone());
        tokio::spawn(async move { task.run(client, shutdown).await });
        informer
    }

    /// Resolves once every informer asked for so far has everything; or, with an error that names one that has not, after
    /// `limit`.
    pub async fn synced(&self, limit: Duration) -> Result<()> {
        let known = self.known.lock().clone();
        let deadline = Instant::now() + limit;
        for informer in known {
            if tokio::time::timeout_at(deadline, informer.synced()).await.is_err() {
                return Err(Error::Transport(format!(
                    "{} could not be listed within {limit:?}",
                    informer.gvr
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::Fake;
    use crate::{DeleteOptions, PatchType, gvr};
    use serde_json::json;

    fn pod(name: &str, node: &str) -> api::Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns"}, "spec": {"nodeName": node}})
    }

    fn say(c: &Change) -> String {
        let r = |o: &Option<Arc<Object>>| {
            o.as_ref().map_or("-".to_string(), |o| o.at(&["spec", "x"]).to_string())
        };
        format!("{} {}>{}", c.object().name(), r(&c.old), r(&c.new))
    }

    #[tokio::test(start_paused = true)]
    async fn follows_changes_and_indices() {
        let (fake, client) = Fake::new();
        client.create(&gvr::PODS, "ns", &pod("a", "n1")).await.unwrap();
        let informers = Informers::new(client.clone(), CancellationToken::new());
        let pods = informers.of(&gvr::PODS);
        assert!(Arc::ptr_eq(&pods, &informers.of(&gvr::PODS)));
        pods.add_index(index::NODE, index::node);
        pods.synced().await;
        let mut changes = pods.subscribe();
        assert_eq!(say(&changes.recv().await.unwrap()), "a ->null");
        let b = client.create(&gvr::PODS, "ns", &pod("b", "n2")).await.unwrap();
        pods.reached(b.revision()).await;
        assert_eq!(pods.list("ns").len(), 2);
        assert_eq!(pods.list("other").len(), 0);
        assert_eq!(pods.by_index(index::NODE, "n2")[0].name(), "b");
        client
            .patch(&gvr::PODS, "ns", "a", PatchType::Merge, &json!({"spec": {"x": 2, "nodeName": "n2"}}))
            .await
            .unwrap();
        fake.remove(&gvr::PODS, "ns", "b");
        assert_eq!(say(&changes.recv().await.unwrap()), "b ->null");
        assert_eq!(say(&changes.recv().await.unwrap()), "a null>2");
        assert_eq!(say(&changes.recv().await.unwrap()), "b null>-");
        assert_eq!(pods.by_index(index::NODE, "n2")[0].name(), "a");
        assert_eq!(pods.by_index(index::NODE, "n1").len(), 0);
        assert_eq!(fake.lists(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn resumes_after_a_break_and_lists_again_after_expiry() {
        let (fake, client) = Fake::new();
        client.create(&gvr::PODS, "ns", &pod("a", "")).await.unwrap();
        client.create(&gvr::PODS, "ns", &pod("b", "")).await.unwrap();
        let informers = Informers::new(client.clone(), CancellationToken::new());
        let pods = informers.of(&gvr::PODS);
        pods.synced().await;
        fake.break_watches();
        let c = client.create(&gvr::PODS, "ns", &pod("c", "")).await.unwrap();
        pods.reached(c.revision()).await;
        assert_eq!(fake.lists(), 1, "resumed, not listed again");
        let mut changes = pods.subscribe();
        for _ in 0..3 {
            changes.recv().await.unwrap();
        }
        fake.break_watches();
        client.delete(&gvr::PODS, "ns", "a", &DeleteOptions::default()).await.unwrap();
        let d = client.create(&gvr::PODS, "ns", &pod("d", "")).await.unwrap();
        fake.forget_history();
        pods.reached(d.revision()).await;
        assert_eq!(fake.lists(), 2);
        assert_eq!(say(&changes.recv().await.unwrap()), "a null>-");
        assert_eq!(say(&changes.recv().await.unwrap()), "d ->null");
        assert!(changes.try_recv().is_none(), "what is as it was is not told again");
    }
}
