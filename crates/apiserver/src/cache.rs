//! The watch cache: every object of every kind, and the recent changes of each kind, fed by one watch of the store.
//!
//! Promises: an object is encoded once per write and those bytes are what everybody gets; nothing here holds a decoded form,
//! which lives as long as readers do ([`api::object`]); a reader that has waited for
//! [`Cache::caught_up`] sees every write that was answered before; watchers share events and their framing, and one that is
//! too slow is cut off without costing the others anything, because events are not queued per watcher: each watcher
//! remembers where it is in its kind's ring.
//!
//! It knows nothing of kinds: `/registry/GROUP/RESOURCE/` is what tells them apart.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use api::object::Encoded;
use api::{Object, Value};
use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use parking_lot::{Mutex, RwLock};
use store::{EventKind, Expect, Op, Range, Store, Txn, WatchBatch};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The prefix of every key of ours in the store.
pub const ROOT: &str = "/registry/";
/// Written to make the store say how far it is; no kind has such a key.
const PROGRESS: &str = "/registry/progress";
/// How long the events of a shared store may take to arrive before they are thought not to be ours.
const FOREIGN: Duration = Duration::from_millis(50);
/// How many changes a kind's ring holds at most.
const RING_EVENTS: usize = 4096;
/// How many bytes of objects they may be at most.
const RING_BYTES: usize = 16 << 20;
/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Added,
    /// It changed.
    Modified,
    /// It is gone; the object is its last state.
    Deleted,
}

impl Change {
    /// The word in a watch event.
    pub fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object, shared by all watchers.
#[derive(Debug)]
pub struct CacheEvent {
    /// What happened.
    pub change: Change,
    /// The object after it, or its last state with the revision of its deletion.
    pub object: Arc<Encoded>,
    /// The object before it.
    pub previous: Option<Arc<Encoded>>,
    /// The store's revision of the change.
    pub revision: u64,
    frames: [OnceLock<Bytes>; 3],
    gone: OnceLock<Arc<Encoded>>,
}

/// Frames one watch event of already encoded JSON.
pub fn frame(word: &str, json: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(json.len() + word.len() + 24);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(word.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(json);
    out.put_slice(b"}\n");
    out.freeze()
}

impl CacheEvent {
    /// A change at `revision`.
    pub fn new(change: Change, object: Arc<Encoded>, previous: Option<Arc<Encoded>>, revision: u64) -> Self {
        Self { change, object, previous, revision, frames: Default::default(), gone: OnceLock::new() }
    }

    /// What a watcher sees that only sees objects for which `matches` is true: a change into its view is an addition, a
    /// change out of it a deletion.
    pub fn seen_through(&self, matches: impl Fn(&Arc<Encoded>) -> bool) -> Option<(Change, Arc<Encoded>)> {
        let now = self.change != Change::Deleted && matches(&self.object);
        let before = self.previous.as_ref().is_some_and(matches);
        match (now, before) {
            (true, true) => Some((Change::Modified, self.object.clone())),
            (true, false) => Some((Change::Added, self.object.clone())),
            (false, true) => Some((Change::Deleted, self.gone())),
            (false, false) => None,
        }
    }

    /// The object as it was when it left a filtered view: its state before, at this event's revision.
    fn gone(&self) -> Arc<Encoded> {
        if self.change == Change::Deleted {
            return self.object.clone();
        }
        let before = self.previous.as_ref().unwrap_or(&self.object);
        self.gone.get_or_init(|| before.at_revision(self.revision)).clone()
    }

    /// The framed JSON event, made once for all watchers that see the same change.
    pub fn frame(&self, change: Change, object: &Arc<Encoded>) -> Bytes {
        if Arc::ptr_eq(object, &self.object) || change == Change::Deleted {
            self.frames[change as usize].get_or_init(|| frame(change.word(), object.json())).clone()
        } else {
            frame(change.word(), object.json())
        }
    }
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<Box<str>, Arc<Encoded>>,
    ring: VecDeque<Arc<CacheEvent>>,
    ring_bytes: usize,
    /// Every change after this revision is in the ring.
    complete_after: u64,
    /// The revision of the newest change of this kind.
    last: u64,
    /// How often everything was read anew: what happened in between is not in the ring.
    epoch: u64,
}

/// One kind's objects and recent changes.
#[derive(Debug)]
pub struct KindCache {
    state: RwLock<State>,
    changed: watch::Sender<u64>,
}

/// The key of an object within its kind: `NAMESPACE/NAME` or `NAME`.
pub fn local_key(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}/{name}") }
}

/// A list as of one revision.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// The cache's revision.
    pub revision: u64,
    /// The objects in the order of their keys.
    pub items: Vec<Arc<Encoded>>,
}

impl KindCache {
    fn new(complete_after: u64) -> Arc<Self> {
        let state = State { complete_after, ..State::default() };
        Arc::new(Self { state: RwLock::new(state), changed: watch::Sender::new(0) })
    }

    /// One object by its [`local_key`].
    pub fn get(&self, key: &str) -> Option<Arc<Object>> {
        self.state.read().objects.get(key).map(Encoded::object)
    }

    /// All objects, of one namespace if that is not empty.
    pub fn all(&self, namespace: &str) -> Vec<Arc<Object>> {
        self.after(namespace, "").0.iter().map(Encoded::object).collect()
    }

    /// All objects of a namespace (or everywhere) whose key is greater than `after`, and the revision of the newest change
    /// that is in it.
    fn after(&self, namespace: &str, after: &str) -> (Vec<Arc<Encoded>>, u64) {
        let state = self.state.read();
        let start = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let from = if after > start.as_str() {
            std::ops::Bound::Excluded(Box::from(after))
        } else {
            std::ops::Bound::Included(Box::from(start.as_str()))
        };
        let range = state.objects.range::<Box<str>, _>((from, std::ops::Bound::Unbounded));
        let items = if namespace.is_empty() {
            range.map(|(_, o)| o.clone()).collect()
        } else {
            range.take_while(|(k, _)| k.starts_with(&start)).map(|(_, o)| o.clone()).collect()
        };
        (items, state.last)
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.state.read().objects.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The revision of the newest change.
    pub fn last(&self) -> u64 {
        self.state.read().last
    }

    /// Takes over changes that belong together: a watcher sees all of them or none, because changes of one revision (keys
    /// that went with their lease) cannot be told apart afterwards.
    fn apply(&self, changes: &[Arrived<'_>]) {
        let mut state = self.state.write();
        let mut last = None;
        for change in changes {
            state.last = change.revision;
            last = Some(change.revision);
            state.apply(change);
        }
        state.trim();
        drop(state);
        if let Some(revision) = last {
            self.changed.send_replace(revision);
        }
    }

    /// Puts what was read anew in the place of all that was known.
    fn reset(&self, objects: BTreeMap<Box<str>, Arc<Encoded>>, revision: u64) {
        let mut state = self.state.write();
        let epoch = state.epoch + 1;
        *state = State { objects, complete_after: revision, last: revision, epoch, ..State::default() };
        drop(state);
        self.changed.send_replace(revision);
    }
}

/// A change as it came from the store.
struct Arrived<'a> {
    prefix: &'a str,
    key: &'a str,
    revision: u64,
    /// Nothing: it was deleted.
    object: Option<Arc<Encoded>>,
}

impl State {
    fn apply(&mut self, arrived: &Arrived<'_>) {
        let (key, revision) = (arrived.key, arrived.revision);
        let (change, object, previous) = match &arrived.object {
            Some(object) => {
                let previous = self.objects.insert(key.into(), object.clone());
                let change = if previous.is_some() { Change::Modified } else { Change::Added };
                (change, object.clone(), previous)
            }
            None => {
                let Some(previous) = self.objects.remove(key) else { return };
                (Change::Deleted, previous.at_revision(revision), Some(previous))
            }
        };
        self.ring_bytes += previous.as_ref().map_or(object.json().len(), |p| p.json().len());
        self.ring.push_back(Arc::new(CacheEvent::new(change, object, previous, revision)));
    }

    fn trim(&mut self) {
        while self.ring.len() > RING_EVENTS || self.ring_bytes > RING_BYTES && self.ring.len() > 64 {
            if let Some(old) = self.ring.pop_front() {
                self.complete_after = old.revision;
                let size = old.previous.as_ref().map_or(old.object.json().len(), |p| p.json().len());
                self.ring_bytes = self.ring_bytes.saturating_sub(size);
            }
        }
    }
}

/// A write on its way: lets the cache take over the writer's decoded object instead of decoding the bytes again.
#[derive(Debug)]
pub struct Written {
    stored: Bytes,
    value: Mutex<Option<Value>>,
    object: OnceLock<Option<Arc<Object>>>,
}

impl Written {
    /// The object at the revision the store gave it; whoever asks first makes it.
    pub fn object(&self, revision: u64) -> Option<Arc<Object>> {
        self.object
            .get_or_init(|| {
                let value = self.value.lock().take()?;
                Object::from_written(&self.stored, value, revision).ok()
            })
            .clone()
    }
}

/// A write that was announced. Dropped before it is settled, because its writer was, it leaves nothing behind.
#[derive(Debug)]
pub struct Announced<'a> {
    cache: &'a Cache,
    written: Arc<Written>,
    open: bool,
}

impl Announced<'_> {
    /// To be called when the write has ended: with its revision, or nothing if it failed. The object that came of it.
    pub fn settled(mut self, revision: Option<u64>) -> Option<Arc<Object>> {
        self.open = false;
        let object = revision.and_then(|r| self.written.object(r));
        self.cache.settled(&self.written.stored, revision);
        object
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        if self.open {
            self.cache.settled(&self.written.stored, None);
        }
    }
}

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

/// Why a watch cannot start or go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// The revision the watcher was at.
    pub at: u64,
    /// The oldest from which a watch can start.
    pub oldest: u64,
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

    /// How many objects of each kind there are, by store prefix.
    pub fn counts(&self) -> Vec<(String, usize)> {
        let kinds = self.kinds.read();
        let mut out: Vec<_> = kinds.iter().map(|(p, k)| (p.to_string(), k.len())).collect();
        out.sort();
        out
    }
}

/// The store's prefix of a kind.
pub fn prefix(group: &str, resource: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    format!("{ROOT}{group}/{resource}/")
}

/// One watcher's place in its kind's ring.
#[derive(Debug)]
pub struct Watcher {
    cache: Arc<Cache>,
    kind: Arc<KindCache>,
    seen: u64,
    epoch: u64,
    changed: watch::Receiver<u64>,
}

impl Watcher {
    /// Everything new, without waiting.
    pub fn take(&mut self) -> Result<Vec<Arc<CacheEvent>>, Expired> {
        self.changed.borrow_and_update();
        let state = self.kind.state.read();
        if self.seen < state.complete_after && state.last > self.seen || state.epoch != self.epoch {
            return Err(Expired { at: self.seen, oldest: state.complete_after });
        }
        let from = state.ring.partition_point(|e| e.revision <= self.seen);
        let events: Vec<_> = state.ring.range(from..).cloned().collect();
        if let Some(last) = events.last() {
            self.seen = last.revision;
        }
        Ok(events)
    }

    /// Waits for something new.
    pub async fn next(&mut self) -> Result<Vec<Arc<CacheEvent>>, Expired> {
        loop {
            let events = self.take()?;
            if !events.is_empty() {
                return Ok(events);
            }
            // The sender lives in `self.kind`: this cannot fail.
            let _ = self.changed.changed().await;
        }
    }

    /// A revision such that everything up to it has been taken, for a bookmark; nothing if there is more to take.
    pub fn bookmark(&mut self) -> Option<u64> {
        let progress = self.cache.revision();
        let state = self.kind.state.read();
        if state.last > self.seen {
            return None;
        }
        drop(state);
        self.seen = self.seen.max(progress);
        Some(self.seen)
    }
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
