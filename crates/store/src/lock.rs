//! A lock that several servers share through their store, and names that one of them reserves. Whoever holds them and dies
//! loses them when their lease expires; whoever lives renews it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;

use crate::{EventKind, Expect, LeaseId, Op, Result, Store, Txn};

/// How long what is held outlives a holder that died.
const TTL: Duration = Duration::from_secs(15);

/// A lock or names that are held. They are let go with this value, a moment after it is dropped.
pub struct Held {
    store: Arc<dyn Store>,
    lease: LeaseId,
    renewing: tokio::task::AbortHandle,
}

/// A lease of its own for whoever holds something, renewed while they do.
async fn hold(store: &Arc<dyn Store>) -> Result<Held> {
    let lease = store.lease_grant(TTL).await?;
    let renewed = store.clone();
    let renewing = tokio::spawn(async move {
        loop {
            // A lease ends by time alone; so it is renewed by time.
            tokio::time::sleep(TTL / 3).await;
            if let Err(error) = renewed.lease_keep_alive(lease).await {
                tracing::warn!(%error, lease, "what is held under this lease may be lost");
            }
        }
    });
    Ok(Held { store: store.clone(), lease, renewing: renewing.abort_handle() })
}

/// Puts down these keys for as long as the answer is held. Who is first must be settled by a lock.
pub async fn reserve(store: &Arc<dyn Store>, keys: Vec<Vec<u8>>) -> Result<Held> {
    let held = hold(store).await?;
    for key in keys {
        let op = Op::Put { value: Bytes::new(), lease: Some(held.lease) };
        store.txn(Txn { key, expect: Expect::Any, op }).await?;
    }
    Ok(held)
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// Waits for the lock of this name and takes it. To be called inside a tokio runtime.
pub async fn take(store: &Arc<dyn Store>, name: &[u8]) -> Result<Held> {
    loop {
        // Dropped where the lock is not had, it gives the lease back: a wait may be longer than a lease.
        let held = hold(store).await?;
        let op = Op::Put { value: Bytes::new(), lease: Some(held.lease) };
        let done = store.txn(Txn { key: name.to_vec(), expect: Expect::Absent, op }).await?;
        if done.succeeded {
            return Ok(held);
        }
        drop(held);
        let mut watch = store.watch(name.to_vec(), done.revision + 1).await?;
        // Ends when the holder lets go; a lease that expires deletes the key, too.
        'gone: while let Some(batch) = watch.next().await {
            for event in batch?.events {
                if event.kind == EventKind::Delete && event.kv.key == name {
                    break 'gone;
                }
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.renewing.abort();
        let (store, lease) = (self.store.clone(), self.lease);
        // Where there is no runtime any more, the lease's end does it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if let Err(error) = store.lease_revoke(lease).await {
                    tracing::debug!(%error, lease, "a lock is let go by the end of its lease");
                }
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_holds_it_at_a_time() {
        let store = crate::memory();
        let inside = Arc::new(AtomicUsize::new(0));
        let tasks: Vec<_> = (0..8)
            .map(|_| {
                let (store, inside) = (store.clone(), inside.clone());
                tokio::spawn(async move {
                    let held = take(&store, b"/lock").await.unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                    drop(held);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_died_loses_it() {
        let store = crate::memory();
        let dead = take(&store, b"/lock").await.unwrap();
        // What a process that died would do no more.
        dead.renewing.abort();
        std::mem::forget(dead);
        let start = tokio::time::Instant::now();
        take(&store, b"/lock").await.unwrap();
        assert!(start.elapsed() >= TTL - Duration::from_secs(1));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_for_long_stays_held() {
        let store = crate::memory();
        let held = take(&store, b"/lock").await.unwrap();
        let reserved = reserve(&store, vec![b"/a".to_vec(), b"/b".to_vec()]).await.unwrap();
        tokio::time::sleep(TTL * 4).await;
        let there = async |key: &str| store.range(crate::Range::prefix(key)).await.unwrap().items.len();
        assert_eq!((there("/lock").await, there("/a").await, there("/b").await), (1, 1, 1));
        drop((held, reserved));
        take(&store, b"/lock").await.unwrap();
        tokio::time::sleep(TTL).await;
        assert_eq!((there("/a").await, there("/b").await), (0, 0));
    }
}
