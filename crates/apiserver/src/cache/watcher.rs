//! A watcher's place among the changes of its kind.

use std::sync::Arc;

use tokio::sync::watch;

use super::{Cache, CacheEvent, KindCache};

/// Why a watch cannot start or go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// The revision the watcher was at.
    pub at: u64,
    /// The oldest from which a watch can start.
    pub oldest: u64,
}

/// One watcher's place in its kind's ring.
#[derive(Debug)]
pub struct Watcher {
    pub(super) cache: Arc<Cache>,
    pub(super) kind: Arc<KindCache>,
    pub(super) seen: u64,
    pub(super) epoch: u64,
    pub(super) changed: watch::Receiver<u64>,
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
