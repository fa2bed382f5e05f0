//! Watches: history first, then what happens, without a gap between them.
//!
//! A watcher is registered before its history is read, and learns at that moment which revision is the last that it
//! must read from history. A watcher that does not keep up loses its place in the hub, not its events: once it has
//! taken what was queued for it, it reads the rest from history and registers again.

use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::{Event, Result, WatchBatch, WatchStream};

/// How many commits may wait for a watcher before it has to catch up from history: enough for a burst, and little memory.
const QUEUE: usize = 256;
/// How many events of history are read at once.
const CHUNK: usize = 500;

/// Reads what has happened.
#[async_trait]
pub(crate) trait History: Send + Sync + 'static {
    /// Changes under `prefix` with `from <= revision <= upto`, at most `limit`, oldest first.
    /// `Error::Compacted` if some of them are no longer known.
    async fn history(&self, prefix: &[u8], from: u64, upto: u64, limit: usize) -> Result<Vec<Event>>;
}

struct Watcher {
    prefix: Vec<u8>,
    queue: mpsc::Sender<WatchBatch>,
}

#[derive(Default)]
struct State {
    head: u64,
    closed: bool,
    watchers: Vec<Watcher>,
}

/// The watchers of one store.
#[derive(Default)]
pub(crate) struct Hub(Mutex<State>);

impl Hub {
    pub(crate) fn new(head: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { head, ..State::default() })))
    }

    /// The newest revision that watchers have been told of.
    pub(crate) fn head(&self) -> u64 {
        self.0.lock().head
    }

    /// Tells the watchers of one commit; its events are in the order of their revisions, `head` is the last of these.
    pub(crate) fn publish(&self, head: u64, events: &[Event]) {
        let mut state = self.0.lock();
        state.head = head;
        state.watchers.retain(|w| {
            let mine: Vec<Event> =
                events.iter().filter(|e| e.kv.key.starts_with(&w.prefix)).cloned().collect();
            if mine.is_empty() {
                return !w.queue.is_closed();
            }
            w.queue.try_send(WatchBatch { events: mine, revision: head }).is_ok()
        });
    }

    /// Ends every watch.
    pub(crate) fn close(&self) {
        let mut state = self.0.lock();
        state.closed = true;
        state.watchers.clear();
    }

    fn subscribe(&self, prefix: &[u8]) -> Option<(u64, mpsc::Receiver<WatchBatch>)> {
        let mut state = self.0.lock();
        if state.closed {
            return None;
        }
        let (queue, events) = mpsc::channel(QUEUE);
        state.watchers.push(Watcher { prefix: prefix.to_vec(), queue });
        Some((state.head, events))
    }
}

struct Watch {
    hub: Arc<Hub>,
    history: Arc<dyn History>,
    prefix: Vec<u8>,
    /// The first revision not yet delivered.
    next: u64,
    /// The last revision to read from history.
    upto: u64,
    live: mpsc::Receiver<WatchBatch>,
    failed: bool,
}

impl Watch {
    async fn step(&mut self) -> Option<Result<WatchBatch>> {
        while !self.failed {
            if self.next <= self.upto {
                match self.history.history(&self.prefix, self.next, self.upto, CHUNK).await {
                    Ok(events) => {
                        let revision = match events.last() {
                            Some(last) if events.len() == CHUNK => last.kv.mod_revision,
                            _ => self.upto,
                        };
                        self.next = revision + 1;
                        if !events.is_empty() {
                            return Some(Ok(WatchBatch { events, revision }));
                        }
                    }
                    Err(e) => {
                        self.failed = true;
                        return Some(Err(e));
                    }
                }
                continue;
            }
            match self.live.recv().await {
                Some(mut batch) => {
                    batch.events.retain(|e| e.kv.mod_revision >= self.next);
                    self.next = self.next.max(batch.revision + 1);
                    if !batch.events.is_empty() {
                        return Some(Ok(batch));
                    }
                }
                None => (self.upto, self.live) = self.hub.subscribe(&self.prefix)?,
            }
        }
        None
    }
}

/// A watch of `prefix` from revision `from` (0: from now) on.
pub(crate) async fn watch(
    hub: &Arc<Hub>,
    history: Arc<dyn History>,
    prefix: Vec<u8>,
    from: u64,
) -> Result<WatchStream> {
    let (head, live) = hub.subscribe(&prefix).ok_or(crate::Error::Closed)?;
    let next = if from == 0 { head + 1 } else { from };
    if next <= head {
        // Said at once, not by the stream: the caller must list again.
        history.history(&prefix, next, next, 1).await?;
    }
    let watch = Watch { hub: hub.clone(), history, prefix, next, upto: head, live, failed: false };
    Ok(Box::pin(futures::stream::unfold(watch, |mut w| async move { w.step().await.map(|item| (item, w)) })))
}
