//! One kind's objects and its recent changes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use api::Object;
use api::object::Encoded;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::{CacheEvent, Change};

/// How many changes a kind's ring holds at most.
const RING_EVENTS: usize = 4096;
/// How many bytes of objects they may be at most.
const RING_BYTES: usize = 16 << 20;

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) objects: BTreeMap<Box<str>, Arc<Encoded>>,
    pub(super) ring: VecDeque<Arc<CacheEvent>>,
    pub(super) ring_bytes: usize,
    /// Every change after this revision is in the ring.
    pub(super) complete_after: u64,
    /// The revision of the newest change of this kind.
    pub(super) last: u64,
    /// How often everything was read anew: what happened in between is not in the ring.
    pub(super) epoch: u64,
    /// How many changes have come from the store.
    pub(super) received: u64,
}

/// One kind's objects and recent changes.
#[derive(Debug)]
pub struct KindCache {
    pub(super) state: RwLock<State>,
    pub(super) changed: watch::Sender<u64>,
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
    pub(super) fn new(complete_after: u64) -> Arc<Self> {
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
    pub(super) fn after(&self, namespace: &str, after: &str) -> (Vec<Arc<Encoded>>, u64) {
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
    pub(super) fn apply(&self, changes: &[Arrived<'_>]) {
        let mut state = self.state.write();
        let mut last = None;
        state.received += changes.len() as u64;
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

    /// Lets go of what has happened to a kind that is no more. Who follows it still is told that this is gone.
    pub(super) fn forget(&self) {
        let mut state = self.state.write();
        state.ring = Default::default();
        (state.ring_bytes, state.complete_after) = (0, state.last);
        state.epoch += 1;
        let last = state.last;
        drop(state);
        self.changed.send_replace(last);
    }

    /// Puts what was read anew in the place of all that was known.
    pub(super) fn reset(&self, objects: BTreeMap<Box<str>, Arc<Encoded>>, revision: u64) {
        let mut state = self.state.write();
        let (epoch, received) = (state.epoch + 1, state.received);
        *state =
            State { objects, complete_after: revision, last: revision, epoch, received, ..State::default() };
        drop(state);
        self.changed.send_replace(revision);
    }
}

/// A change as it came from the store.
pub(super) struct Arrived<'a> {
    pub(super) prefix: &'a str,
    pub(super) key: &'a str,
    pub(super) revision: u64,
    /// Nothing: it was deleted.
    pub(super) object: Option<Arc<Encoded>>,
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
                (Change::Deleted, previous.at_revision(revision), None)
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
