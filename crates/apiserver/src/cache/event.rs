//! A change of an object, as all watchers share it.

use std::sync::{Arc, OnceLock};

use api::object::Encoded;
use bytes::{BufMut, Bytes, BytesMut};

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
    /// The object before it, if there is one after it too.
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
        let seen = matches(&self.object);
        let (now, before) = match self.change {
            Change::Deleted => (false, seen),
            _ => (seen, self.previous.as_ref().is_some_and(matches)),
        };
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
