//! Where the cluster's objects are kept: keys, values, revisions and watches, as Kubernetes needs them of etcd and no more.
//!
//! Promises, whichever implementation stands behind [`Store`]:
//! - one counter of revisions for the whole store, which starts at 1 and grows by one with each change (keys that go with
//!   their lease may share one);
//! - a change is durable before its answer is given, and everybody sees the changes in the order of their revisions;
//! - a watch misses nothing and repeats nothing between the revision it starts from and its end;
//! - history is readable until it is compacted, and what was compacted is refused with [`Error::Compacted`].
//!
//! What the keys and values mean is the API server's business, who is the only user of this crate.

#[cfg(test)]
mod conformance;
pub mod embedded;
pub mod etcd;
mod hub;
pub mod lock;
mod memory;
mod schema;

use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

pub use memory::memory;

/// What a store answers when it cannot do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The revision asked for is older than what is kept: list again and watch from there.
    #[error("revision {requested} has been compacted; the oldest one kept is {compacted}")]
    Compacted {
        /// The revision that was asked for.
        requested: u64,
        /// The last compacted revision: ranges at it still work, watches start after it.
        compacted: u64,
    },
    /// The revision asked for does not exist yet.
    #[error("revision {requested} is in the future; the current one is {current}")]
    Future {
        /// The revision that was asked for.
        requested: u64,
        /// The newest revision.
        current: u64,
    },
    /// The lease named does not exist, or has expired.
    #[error("lease {0} not found: it has expired or was revoked")]
    LeaseNotFound(LeaseId),
    /// The file is not one that this build can read.
    #[error("{path}: {reason}")]
    Format {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Another process has the store open.
    #[error("{path} is in use by process {pid}: stop it, or choose another --data-dir")]
    InUse {
        /// The file.
        path: String,
        /// Who holds it, as it wrote of itself (`?` if it did not).
        pid: String,
    },
    /// The value is larger than the store takes.
    #[error("the object is larger than the store takes")]
    TooLarge,
    /// What the store was told of its surroundings is wrong; the text names the remedy.
    #[error("{0}")]
    Config(String),
    /// The disk, the network or the peer failed.
    #[error("{0}")]
    Backend(String),
    /// The store was closed while the request was under way; whether it was carried out is not known.
    #[error("the store was closed")]
    Closed,
}

impl Error {
    /// Whether the same request can succeed later without being changed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Error::Backend(_))
    }
}

/// What a fallible call of this crate gives.
pub type Result<T> = std::result::Result<T, Error>;

/// The name of a lease. Never zero.
pub type LeaseId = i64;

/// A key with its value and its history in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// The value; empty in the event of a deletion, and where only keys were asked for.
    pub value: Bytes,
    /// The revision that made the key.
    pub create_revision: u64,
    /// The revision that last changed it.
    pub mod_revision: u64,
    /// How often it was written since it was made: 1 for a new key, 0 in the event of a deletion.
    pub version: u64,
}

/// Which keys, as of which revision.
#[derive(Debug, Clone, Default)]
pub struct Range {
    /// The first key.
    pub start: Vec<u8>,
    /// The first key that is no longer wanted; empty: `start` alone.
    pub end: Vec<u8>,
    /// At most so many items; 0: all.
    pub limit: u64,
    /// As of this revision; 0: now.
    pub revision: u64,
    /// Only how many there are.
    pub count_only: bool,
    /// Leave the values out.
    pub keys_only: bool,
}

impl Range {
    /// One key, now.
    pub fn key(key: impl Into<Vec<u8>>) -> Self {
        Self { start: key.into(), ..Self::default() }
    }

    /// Every key that starts with `prefix`, now.
    pub fn prefix(prefix: impl Into<Vec<u8>>) -> Self {
        let start = prefix.into();
        Self { end: prefix_end(&start), start, ..Self::default() }
    }
}

/// The first key after all those that start with `prefix` (`[0]` and longer than anything if there is no such key,
/// as etcd has it).
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// The answer to a [`Range`].
#[derive(Debug, Clone, Default)]
pub struct RangeResult {
    /// In the order of their keys.
    pub items: Vec<KeyValue>,
    /// Whether the limit left some out.
    pub more: bool,
    /// How many keys there are in the range, whatever the limit.
    pub count: u64,
    /// The newest revision of the store when it answered (not the revision that was asked for).
    pub revision: u64,
}

/// The condition of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// None.
    Any,
    /// The key does not exist.
    Absent,
    /// The key was last changed by this revision.
    ModRevision(u64),
}

/// A change.
#[derive(Debug, Clone)]
pub enum Op {
    /// Write the value.
    Put {
        /// What to write.
        value: Bytes,
        /// The key goes when this lease does; a write without one detaches the key.
        lease: Option<LeaseId>,
    },
    /// Delete the key. Deleting what is not there changes nothing and succeeds.
    Delete,
}

/// One key, changed on a condition.
#[derive(Debug, Clone)]
pub struct Txn {
    /// The key.
    pub key: Vec<u8>,
    /// When to change it.
    pub expect: Expect,
    /// What to do.
    pub op: Op,
}

/// The answer to a [`Txn`].
#[derive(Debug, Clone)]
pub struct TxnResult {
    /// Whether the condition held.
    pub succeeded: bool,
    /// The revision of this change; if nothing changed, the newest one.
    pub revision: u64,
    /// The key as it was before, whether or not the condition held.
    pub current: Option<KeyValue>,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It was written.
    Put,
    /// It was deleted.
    Delete,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The key as it is now; of a deletion only `key` and `mod_revision` mean something.
    pub kv: KeyValue,
    /// The key as it was before; `None` if it was not there, or if that was compacted.
    pub prev: Option<KeyValue>,
}

/// Changes in the order of their revisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// Empty where only the revision moved on.
    pub events: Vec<Event>,
    /// Everything under the watched prefix up to and including this revision has now been delivered.
    pub revision: u64,
}

/// A watch. It ends when the store is closed; an error is its last item.
pub type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchBatch>> + Send>>;

/// The store. See the crate's first lines for what every implementation promises.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// Reads keys as of one revision.
    async fn range(&self, range: Range) -> Result<RangeResult>;
    /// Changes one key if a condition holds.
    async fn txn(&self, txn: Txn) -> Result<TxnResult>;
    /// Every change under `prefix` from revision `from` on (0: from now on).
    async fn watch(&self, prefix: Vec<u8>, from: u64) -> Result<WatchStream>;
    /// The newest revision.
    async fn revision(&self) -> Result<u64>;
    /// How much room its database takes, in bytes.
    async fn size(&self) -> Result<u64>;
    /// Forgets what was overwritten or deleted at or before `revision`.
    async fn compact(&self, revision: u64) -> Result<()>;
    /// Makes a lease that expires when it is not kept alive for `ttl`.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId>;
    /// Starts the lease's time anew.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<()>;
    /// Ends the lease and deletes the keys attached to it.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<()>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix() {
        assert_eq!(prefix_end(b"/a/"), b"/a0");
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), vec![0]);
    }
}
