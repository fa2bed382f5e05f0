//! A step under way that several builds may wait for: it runs once, each of them gets its output and its result, and it
//! ends when the last of them has gone.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::cache::Made;
use crate::error::{Error, Result};
use crate::runner::Output;

/// Output that is kept for whoever reads it later or slowly, in bytes; older output is clipped.
const KEPT: usize = 8 << 20;

#[derive(Default)]
struct Log {
    pieces: std::collections::VecDeque<Output>,
    /// How many pieces were clipped.
    gone: usize,
    bytes: usize,
}

struct Inner {
    log: Mutex<Log>,
    /// Counts what happens, so that readers wake.
    turn: watch::Sender<u64>,
    result: Mutex<Option<std::result::Result<Made, Arc<Error>>>>,
}

/// One who waits for a step.
struct Guard {
    inner: Arc<Inner>,
    cancel: CancellationToken,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// All steps that are under way.
#[derive(Default)]
pub(crate) struct Flights {
    by_key: Mutex<HashMap<String, Weak<Guard>>>,
}

/// What carries a step out: it gets where its output goes and what ends it.
pub(crate) type Work =
    Box<dyn FnOnce(mpsc::Sender<Output>, CancellationToken) -> BoxFuture<'static, Result<Made>> + Send>;

impl Flights {
    /// Joins the step of that key if it is under way, or begins it. `None` is a step that nobody joins. `tell` gets
    /// the output from its beginning.
    pub async fn run<T, F>(&self, key: Option<&str>, work: Work, mut tell: T) -> Result<Made>
    where
        T: FnMut(Output) -> F,
        F: Future<Output = Result<()>>,
    {
        let guard = match key {
            None => begin(work),
            Some(key) => {
                let mut all = self.by_key.lock();
                match all.get(key).and_then(Weak::upgrade) {
                    Some(guard) => guard,
                    None => {
                        all.retain(|_, g| g.strong_count() > 0);
                        let guard = begin(work);
                        all.insert(key.to_string(), Arc::downgrade(&guard));
                        guard
                    }
                }
            }
        };
        let mut turn = guard.inner.turn.subscribe();
        let mut at = 0;
        loop {
            turn.borrow_and_update();
            let result = guard.inner.result.lock().clone();
            loop {
                let piece = {
                    let log = guard.inner.log.lock();
                    at = at.max(log.gone);
                    log.pieces.get(at - log.gone).cloned()
                };
                let Some(piece) = piece else { break };
                at += 1;
                tell(piece).await?;
            }
            if let Some(result) = result {
                return result.map_err(Error::Shared);
            }
            if turn.changed().await.is_err() {
                return Err(Error::Cancelled);
            }
        }
    }
}

/// Whoever waits is told even if the step's task breaks down.
struct Finish(Arc<Inner>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.result.lock().get_or_insert_with(|| Err(Arc::new(Error::Cancelled)));
        self.0.turn.send_modify(|n| *n += 1);
    }
}

fn begin(work: Work) -> Arc<Guard> {
    let inner =
        Arc::new(Inner { log: Mutex::default(), turn: watch::Sender::new(0), result: Mutex::new(None) });
    let cancel = CancellationToken::new();
    let guard = Arc::new(Guard { inner: inner.clone(), cancel: cancel.clone() });
    tokio::spawn(async move {
        let finish = Finish(inner.clone());
        let (tx, mut rx) = mpsc::channel::<Output>(64);
        let collect = async {
            while let Some(piece) = rx.recv().await {
                {
                    let mut log = inner.log.lock();
                    log.bytes += piece.data.len();
                    log.pieces.push_back(piece);
                    while log.bytes > KEPT {
                        let Some(old) = log.pieces.pop_front() else { break };
                        log.bytes -= old.data.len();
                        log.gone += 1;
                    }
                }
                inner.turn.send_modify(|n| *n += 1);
            }
        };
        let (result, ()) = tokio::join!(work(tx, cancel), collect);
        *inner.result.lock() = Some(result.map_err(Arc::new));
        drop(finish);
    });
    guard
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn one_runs_and_all_hear_it() {
        let flights = Arc::new(Flights::default());
        let runs = Arc::new(AtomicUsize::new(0));
        let (go, wait) = watch::channel(false);
        let mut all = Vec::new();
        for _ in 0..3 {
            let (flights, runs, mut wait) = (flights.clone(), runs.clone(), wait.clone());
            all.push(tokio::spawn(async move {
                let work: Work = Box::new(move |out, _| {
                    Box::pin(async move {
                        runs.fetch_add(1, Ordering::SeqCst);
                        out.send(Output { stderr: false, data: "x".into() }).await.unwrap();
                        wait.wait_for(|go| *go).await.unwrap();
                        Ok(Made { layer: None, created: base::clock::now() })
                    })
                });
                let mut heard = 0;
                let told = Arc::new(AtomicUsize::new(0));
                let counting = told.clone();
                flights
                    .run(Some("k"), work, move |_| {
                        counting.fetch_add(1, Ordering::SeqCst);
                        async { Ok(()) }
                    })
                    .await
                    .unwrap();
                heard += told.load(Ordering::SeqCst);
                heard
            }));
        }
        tokio::task::yield_now().await;
        go.send(true).unwrap();
        for one in all {
            assert_eq!(one.await.unwrap(), 1);
        }
        assert_eq!(runs.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn the_last_one_to_go_ends_it() {
        let flights = Flights::default();
        let (tx, rx) = tokio::sync::oneshot::channel();
        let work: Work = Box::new(move |_, cancel| {
            Box::pin(async move {
                cancel.cancelled().await;
                let _ = tx.send(());
                Err(Error::Cancelled)
            })
        });
        let waiting = flights.run(None, work, |_| async { Ok(()) });
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), waiting).await.is_err());
        rx.await.unwrap();
    }
}
