//! The watch cache: every object of every kind, and the recent changes of each kind, fed by one watch of the store.
//!
//! Promises: an object is encoded once per write and those bytes are what everybody gets; nothing here holds a decoded form,
//! which lives as long as readers do ([`api::object`]); a reader that has waited for
//! [`Cache::caught_up`] sees every write that was answered before; watchers share events and their framing, and one that is
//! too slow is cut off without costing the others anything, because events are not queued per watcher: each watcher
//! remembers where it is in its kind's ring.
//!
//! It knows nothing of kinds: `/registry/GROUP/RESOURCE/` is what tells them apart.

mod event;
mod handoff;
mod kind;
mod watcher;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::Value;
use api::object::Encoded;
use bytes::Bytes;
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};
use store::{EventKind, Expect, Op, Range, Store, Txn, WatchBatch};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use event::{CacheEvent, Change, frame};
pub use handoff::{Announced, Written};
use kind::{Arrived, State};
pub use kind::{KindCache, Snapshot, local_key};
pub use watcher::{Expired, Watcher};

/// The prefix of every key of ours in the store.
pub const ROOT: &str = "/registry/";
/// Written to make the store say how far it is; no kind has such a key.
const PROGRESS: &str = "/registry/progress";
/// How long the events of a shared store may take to arrive before they are thought not to be ours.
const FOREIGN: Duration = Duration::from_millis(50);

/// The caches of all kinds.
pub struct Cache {
    store: Arc<dyn Store>,
    /// Whether other servers write to the same store, so that its revision has to be asked for.
    shared: bool,
    kinds: RwLock<HashMap<Box<str>, Arc<KindCache>>>,
    /// The revision up to which everything has been applied.
    progress: watch::Sender<u64>,
    /// The newest revision that a writer of this process was told of.
    committed: AtomicU64,
    /// Writes under way, by the address of their bytes: a store in this process hands the very same bytes on.
    handoff: Mutex<HashMap<(usize, usize), Arc<Written>>>,
    /// Writes that were answered but have not arrived, by revision: another process's store hands on a copy.
    answered: Mutex<HashMap<u64, Arc<Written>>>,
    /// Held by whoever makes the store say how far it is.
    nudge: tokio::sync::Mutex<()>,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cache").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

/// `/registry/GROUP/RESOURCE/` and the rest of a key.
fn split_key(key: &[u8]) -> Option<(&str, &str)> {
    let key = std::str::from_utf8(key).ok()?;
    let rest = key.strip_prefix(ROOT)?;
    let group = rest.find('/')?;
    let resource = rest[group + 1..].find('/')?;
    Some(key.split_at(ROOT.len() + group + resource + 2))
}

impl Cache {
    /// Reads everything there is and follows the store from there until `shutdown`.
    pub async fn start(
        store: Arc<dyn Store>,
        shared: bool,
        shutdown: CancellationToken,
    ) -> store::Result<Arc<Self>> {
        let cache = Arc::new(Self {
            store,
            shared,
            kinds: RwLock::default(),
            progress: watch::Sender::new(0),
            committed: AtomicU64::new(0),
            handoff: Mutex::default(),
            answered: Mutex::default(),
            nudge: tokio::sync::Mutex::default(),
        });
        let revision = cache.load().await?;
        let stream = cache.store.watch(ROOT.into(), revision + 1).await?;
        tokio::spawn(cache.clone().follow(stream, shutdown));
        Ok(cache)
    }

    async fn load(&self) -> store::Result<u64> {
        let all = self.store.range(Range::prefix(ROOT)).await?;
        let mut fresh: HashMap<Box<str>, BTreeMap<Box<str>, Arc<Encoded>>> = HashMap::new();
        for kv in all.items {
            let Some((prefix, key)) = split_key(&kv.key) else { continue };
            match Encoded::from_stored(&kv.value, kv.mod_revision) {
                Ok(object) => {
                    fresh.entry(prefix.into()).or_default().insert(key.into(), object);
                }
                Err(error) => {
                    tracing::error!(key = %String::from_utf8_lossy(&kv.key), %error, "undecodable object in the store")
                }
            }
        }
        let mut kinds = self.kinds.write();
        // Who watches what was there before finds another epoch and lists again.
        for (prefix, kind) in kinds.iter() {
            kind.reset(fresh.remove(prefix).unwrap_or_default(), all.revision);
        }
        for (prefix, objects) in fresh {
            let last = objects.values().map(|o| o.revision()).max().unwrap_or(0);
            let kind = KindCache::new(all.revision);
            *kind.state.write() = State { objects, complete_after: all.revision, last, ..State::default() };
            kinds.insert(prefix, kind);
        }
        drop(kinds);
        self.answered.lock().clear();
        self.progress.send_replace(all.revision);
        Ok(all.revision)
    }

    async fn follow(self: Arc<Self>, mut stream: store::WatchStream, shutdown: CancellationToken) {
        loop {
            let item = tokio::select! {
                () = shutdown.cancelled() => return,
                item = stream.next() => item,
            };
            match item {
                Some(Ok(batch)) => self.apply(batch),
                failed => {
                    if let Some(Err(error)) = failed {
                        tracing::warn!(%error, "the store's watch broke off; reading everything again");
                    }
                    match self.resume(&shutdown).await {
                        Some(next) => stream = next,
                        None => return,
                    }
                }
            }
        }
    }

    /// Lists again and watches from there; tries until it works, since nothing can be served without it.
    async fn resume(&self, shutdown: &CancellationToken) -> Option<store::WatchStream> {
        loop {
            let attempt = async {
                let revision = self.load().await?;
                self.store.watch(ROOT.into(), revision + 1).await
            };
            match attempt.await {
                Ok(stream) => return Some(stream),
                Err(store::Error::Closed) => return None,
                Err(error) => tracing::warn!(%error, "the store does not answer"),
            }
            // A store that is down says nothing when it comes back: asking again is all there is.
            tokio::select! {
                () = shutdown.cancelled() => return None,
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
    }

    fn apply(&self, batch: WatchBatch) {
        let mut changes = Vec::with_capacity(batch.events.len());
        for event in &batch.events {
            let Some((prefix, key)) = split_key(&event.kv.key) else { continue };
            let revision = event.kv.mod_revision;
            let object = match event.kind {
                EventKind::Delete => None,
                EventKind::Put => match self.arrived(&event.kv) {
                    Ok(object) => Some(object),
                    Err(error) => {
                        tracing::error!(key, %error, "undecodable object in the store");
                        continue;
                    }
                },
            };
            changes.push(Arrived { prefix, key, revision, object });
        }
        for same_kind in changes.chunk_by(|a, b| a.prefix == b.prefix) {
            self.kind_at(same_kind[0].prefix).apply(same_kind);
        }
        self.progress.send_replace(batch.revision);
        if self.shared {
            // An answer may be noted after its change has been looked for, and before the progress tells so.
            self.answered.lock().retain(|revision, _| *revision > batch.revision);
        }
    }

    /// The object of a change: the writer's own if it was written here, which saves decoding it.
    fn arrived(&self, kv: &store::KeyValue) -> Result<Arc<Encoded>, api::Error> {
        let written = if self.shared {
            self.answered.lock().remove(&kv.mod_revision).filter(|w| w.stored == kv.value)
        } else {
            self.handoff.lock().remove(&(kv.value.as_ptr() as usize, kv.value.len()))
        };
        match written.and_then(|w| w.object(kv.mod_revision)) {
            Some(object) => Ok(object.encoded().clone()),
            None => Encoded::from_stored(&kv.value, kv.mod_revision),
        }
    }

    fn kind_at(&self, prefix: &str) -> Arc<KindCache> {
        if let Some(kind) = self.kinds.read().get(prefix) {
            return kind.clone();
        }
        let mut kinds = self.kinds.write();
        // Made empty while everything up to now has been applied: no change of it is older.
        let revision = self.revision();
        kinds.entry(prefix.into()).or_insert_with(|| KindCache::new(revision)).clone()
    }

    /// The cache of one kind. `group` is empty for the core group.
    pub fn kind(&self, group: &str, resource: &str) -> Arc<KindCache> {
        self.kind_at(&prefix(group, resource))
    }

    /// Lets go of the past of a kind that is no more.
    pub fn forget(&self, group: &str, resource: &str) {
        let kind = self.kinds.read().get(&*prefix(group, resource)).cloned();
        if let Some(kind) = kind {
            kind.forget();
        }
    }

    /// The revision up to which the cache is complete.
    pub fn revision(&self) -> u64 {
        *self.progress.borrow()
    }

    /// Waits until the cache holds everything up to `revision`.
    pub async fn wait_for(&self, revision: u64) {
        if self.revision() >= revision {
            return;
        }
        // The sender lives as long as `self`: this cannot fail.
        let _ = self.progress.subscribe().wait_for(|r| *r >= revision).await;
    }

    /// Waits until the cache holds every write that was answered before this call.
    pub async fn caught_up(&self) -> store::Result<()> {
        if !self.shared {
            self.wait_for(self.committed.load(Ordering::Acquire)).await;
            return Ok(());
        }
        let revision = self.store.revision().await?;
        // A timer: who else uses the store may have written what is not watched here, and then no event ever comes.
        if tokio::time::timeout(FOREIGN, self.wait_for(revision)).await.is_ok() {
            return Ok(());
        }
        let _one = self.nudge.lock().await;
        if self.revision() < revision {
            // A write of our own under the watched prefix comes back after all that was before it.
            let op = Op::Put { value: Bytes::new(), lease: None };
            let done = self.store.txn(Txn { key: PROGRESS.into(), expect: Expect::Any, op }).await?;
            self.wait_for(done.revision).await;
        }
        Ok(())
    }

    /// Waits until the cache holds every write of this server, but not for a shared store that is away.
    pub async fn own_writes(&self) {
        let written = self.wait_for(self.committed.load(Ordering::Acquire));
        if !self.shared {
            return written.await;
        }
        // A timer: a store that has gone since the write was answered says nothing.
        let _ = tokio::time::timeout(FOREIGN, written).await;
    }

    /// To be called by a writer with the bytes it is about to put, before it puts them.
    pub fn announce(&self, stored: &Bytes, value: Value) -> Announced<'_> {
        let written = Arc::new(Written {
            stored: stored.clone(),
            value: Mutex::new(Some(value)),
            object: OnceLock::new(),
        });
        self.handoff.lock().insert((stored.as_ptr() as usize, stored.len()), written.clone());
        Announced { cache: self, written, open: true }
    }

    fn settled(&self, stored: &Bytes, revision: Option<u64>) {
        let announced = (stored.as_ptr() as usize, stored.len());
        let Some(revision) = revision else {
            self.handoff.lock().remove(&announced);
            return;
        };
        self.committed.fetch_max(revision, Ordering::AcqRel);
        if self.shared {
            let written = self.handoff.lock().remove(&announced);
            if let Some(written) = written {
                self.answered.lock().insert(revision, written);
            }
        }
        // It may have arrived before the answer did; then nobody asks for it any more.
        if self.revision() >= revision {
            self.handoff.lock().remove(&announced);
            self.answered.lock().remove(&revision);
        }
    }

    /// To be called by whoever has deleted a key.
    pub fn deleted(&self, revision: u64) {
        self.committed.fetch_max(revision, Ordering::AcqRel);
    }

    /// A list from the cache, and where a watch that continues it starts.
    pub fn snapshot(&self, kind: &KindCache, namespace: &str) -> Snapshot {
        // The cache's revision is read first. If the kind then holds something newer, its state is that of its own newest
        // change; else that of the cache's revision.
        let before = self.revision();
        let (items, last) = kind.after(namespace, "");
        let revision = before.max(last);
        Snapshot { revision, items }
    }

    /// What of a list comes after `after` (a [`local_key`]), if the kind has not changed since `revision`.
    pub fn continued(
        &self,
        kind: &KindCache,
        namespace: &str,
        after: &str,
        revision: u64,
    ) -> Option<Vec<Arc<Encoded>>> {
        let (items, last) = kind.after(namespace, after);
        (last <= revision && self.revision() >= revision).then_some(items)
    }

    /// The store, for reads of the past.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// A watch of changes after `after`.
    pub fn watch(self: &Arc<Self>, kind: Arc<KindCache>, after: u64) -> Result<Watcher, Expired> {
        let changed = kind.changed.subscribe();
        let (oldest, epoch) = {
            let state = kind.state.read();
            (state.complete_after, state.epoch)
        };
        if after < oldest {
            return Err(Expired { at: after, oldest });
        }
        Ok(Watcher { cache: self.clone(), kind, seen: after, epoch, changed })
    }

    /// All objects and the watch that goes on from exactly there.
    pub fn list_and_watch(self: &Arc<Self>, kind: Arc<KindCache>, namespace: &str) -> (Snapshot, Watcher) {
        let changed = kind.changed.subscribe();
        let progress = self.revision();
        let epoch = kind.state.read().epoch;
        let (items, last) = kind.after(namespace, "");
        let revision = progress.max(last);
        let watcher = Watcher { cache: self.clone(), kind, seen: revision, epoch, changed };
        (Snapshot { revision, items }, watcher)
    }

    /// How many objects there are of each kind, and how many changes of them have come from the store, by the store's prefix.
    pub fn counts(&self) -> Vec<(String, usize, u64)> {
        let kinds = self.kinds.read();
        let mut out: Vec<_> = kinds
            .iter()
            .map(|(prefix, kind)| {
                let state = kind.state.read();
                (prefix.to_string(), state.objects.len(), state.received)
            })
            .collect();
        out.sort();
        out
    }
}

/// The store's prefix of a kind.
pub fn prefix(group: &str, resource: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    format!("{ROOT}{group}/{resource}/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    async fn put(cache: &Cache, key: &str, value: Value) -> u64 {
        let stored = api::object::encode_for_store(&value);
        let announced = cache.announce(&stored, value);
        let op = Op::Put { value: stored.clone(), lease: None };
        let done = cache.store.txn(Txn { key: key.into(), expect: Expect::Any, op }).await.unwrap();
        announced.settled(Some(done.revision)).unwrap();
        done.revision
    }

    #[tokio::test]
    async fn nothing_decoded_is_held() {
        let shutdown = CancellationToken::new();
        let cache = Cache::start(store::memory(), false, shutdown.clone()).await.unwrap();
        let pods = cache.kind("", "pods");
        let mut watcher = cache.list_and_watch(pods.clone(), "").1;
        for (name, label) in [("x", "1"), ("y", "1"), ("x", "2")] {
            put(&cache, &format!("/registry/core/pods/a/{name}"), pod(name, label)).await;
        }
        let delete = Txn { key: "/registry/core/pods/a/x".into(), expect: Expect::Any, op: Op::Delete };
        cache.deleted(cache.store.txn(delete).await.unwrap().revision);
        cache.caught_up().await.unwrap();
        let mut readers: Vec<_> = watcher.next().await.unwrap().iter().map(|e| e.object.object()).collect();
        readers.extend(pods.all(""));
        assert_eq!(readers.len(), 5);
        assert!(Arc::ptr_eq(&readers[1], &readers[4]), "readers share what is current");
        let told: Vec<_> =
            readers.iter().map(|o| (o.name(), o.value()["metadata"]["labels"]["l"].clone())).collect();
        assert_eq!(
            told,
            [("x", json!("1")), ("y", json!("1")), ("x", json!("2")), ("x", json!("2")), ("y", json!("1"))]
        );
        let gone: Vec<_> = readers.iter().map(Arc::downgrade).collect();
        drop(readers);
        // What was decoded is kept for a while.
        api::object::recent::forget();
        assert!(gone.iter().all(|o| o.strong_count() == 0));
        assert_eq!(pods.state.read().ring.len(), 4);
        shutdown.cancel();
    }

    #[tokio::test]
    async fn the_past_of_what_is_no_more_is_let_go() {
        let shutdown = CancellationToken::new();
        let cache = Cache::start(store::memory(), false, shutdown.clone()).await.unwrap();
        let widgets = cache.kind("example.com", "widgets");
        let mut watcher = cache.list_and_watch(widgets.clone(), "").1;
        let first = put(&cache, "/registry/example.com/widgets/a/x", pod("x", "1")).await;
        cache.caught_up().await.unwrap();
        assert_eq!(watcher.next().await.unwrap().len(), 1);
        cache.forget("example.com", "widgets");
        assert!(widgets.state.read().ring.is_empty());
        assert!(watcher.next().await.is_err(), "who follows it is told");
        assert!(cache.watch(widgets.clone(), first - 1).is_err());
        // Should it come again, it has a past again.
        let mut watcher = cache.list_and_watch(widgets.clone(), "").1;
        put(&cache, "/registry/example.com/widgets/a/y", pod("y", "1")).await;
        assert_eq!(watcher.next().await.unwrap()[0].object.name(), "y");
        shutdown.cancel();
    }

    fn pod(name: &str, label: &str) -> Value {
        json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name, "namespace": "a", "labels": {"l": label}}})
    }

    #[tokio::test]
    async fn follows_the_store() {
        let store = store::memory();
        let shutdown = CancellationToken::new();
        let cache = Cache::start(store, false, shutdown.clone()).await.unwrap();
        let pods = cache.kind("", "pods");
        let (list, mut watcher) = cache.list_and_watch(pods.clone(), "");
        assert!(list.items.is_empty());
        put(&cache, "/registry/core/pods/a/x", pod("x", "1")).await;
        let second = put(&cache, "/registry/core/pods/a/y", pod("y", "1")).await;
        cache.caught_up().await.unwrap();
        assert_eq!(pods.all("a").len(), 2);
        assert_eq!(pods.all("b").len(), 0);
        assert_eq!(pods.get("a/y").unwrap().revision(), second);
        put(&cache, "/registry/core/pods/a/x", pod("x", "2")).await;
        cache.caught_up().await.unwrap();
        let events = watcher.next().await.unwrap();
        let words: Vec<_> = events.iter().map(|e| (e.change.word(), e.object.name().to_owned())).collect();
        assert_eq!(
            words,
            [("ADDED", "x".to_owned()), ("ADDED", "y".to_owned()), ("MODIFIED", "x".to_owned())]
        );
        let only_one = |o: &Arc<Encoded>| o.labels().get("l") == Some("1");
        let (change, object) = events[2].seen_through(only_one).unwrap();
        assert_eq!(change, Change::Deleted);
        assert_eq!(object.revision(), events[2].revision);
        assert_eq!(object.labels().get("l"), Some("1"));
        let frame = events[0].frame(Change::Added, &events[0].object);
        assert!(frame.starts_with(b"{\"type\":\"ADDED\",\"object\":{\"kind\":\"Pod\""));
        assert!(frame.ends_with(b"}\n"));
        let delete = Txn { key: "/registry/core/pods/a/x".into(), expect: Expect::Any, op: Op::Delete };
        let done = cache.store.txn(delete).await.unwrap();
        cache.deleted(done.revision);
        let events = watcher.next().await.unwrap();
        assert_eq!((events[0].change, events[0].object.revision()), (Change::Deleted, done.revision));
        assert!(watcher.bookmark().unwrap() >= done.revision);
        assert!(cache.watch(pods, 0).is_err());
        assert!(cache.handoff.lock().is_empty());
        // A writer that is given up leaves nothing behind.
        let value = pod("z", "1");
        drop(cache.announce(&api::object::encode_for_store(&value), value));
        assert!(cache.handoff.lock().is_empty());
        shutdown.cancel();
    }
}
