//! What every store must do, as a test that any implementation can be put through.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use crate::{Error, EventKind, Expect, LeaseId, Op, Range, Store, Txn, TxnResult, WatchStream};

type Fresh<'a> = &'a dyn Fn() -> Arc<dyn Store>;

/// Runs everything; `fresh` makes an empty store each time.
pub(crate) async fn all(fresh: impl Fn() -> Arc<dyn Store>) {
    conditions(&fresh).await;
    ranges(&fresh).await;
    watches(&fresh).await;
    a_slow_watcher_catches_up(&fresh).await;
    compaction(&fresh).await;
    leases(&fresh).await;
    concurrent_writers(&fresh).await;
}

async fn txn(s: &Arc<dyn Store>, key: &str, expect: Expect, op: Op) -> TxnResult {
    s.txn(Txn { key: key.into(), expect, op }).await.unwrap()
}

fn value(v: &str) -> Op {
    Op::Put { value: Bytes::copy_from_slice(v.as_bytes()), lease: None }
}

async fn put(s: &Arc<dyn Store>, key: &str, v: &str) -> u64 {
    txn(s, key, Expect::Any, value(v)).await.revision
}

async fn conditions(fresh: Fresh<'_>) {
    let s = fresh();
    let start = s.revision().await.unwrap();
    let made = txn(&s, "/a", Expect::Absent, value("1")).await;
    assert!(made.succeeded && made.current.is_none());
    assert_eq!(made.revision, start + 1);
    let again = txn(&s, "/a", Expect::Absent, value("2")).await;
    assert!(!again.succeeded);
    assert_eq!(again.current.unwrap().value, "1");
    assert_eq!(s.revision().await.unwrap(), start + 1, "a refused change has no revision");
    assert!(!txn(&s, "/a", Expect::ModRevision(start + 9), value("2")).await.succeeded);
    assert!(!txn(&s, "/none", Expect::ModRevision(start + 1), value("2")).await.succeeded);
    let updated = txn(&s, "/a", Expect::ModRevision(made.revision), value("2")).await;
    assert!(updated.succeeded);
    let kv = s.range(Range::key("/a")).await.unwrap().items.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (made.revision, updated.revision, 2));
    let gone = txn(&s, "/a", Expect::ModRevision(updated.revision), Op::Delete).await;
    assert!(gone.succeeded);
    assert_eq!(gone.current.unwrap().value, "2");
    let nothing = txn(&s, "/a", Expect::Any, Op::Delete).await;
    assert!(nothing.succeeded && nothing.current.is_none());
    assert_eq!(nothing.revision, gone.revision);
    let anew = txn(&s, "/a", Expect::Absent, value("3")).await;
    let kv = s.range(Range::key("/a")).await.unwrap().items.remove(0);
    assert_eq!((kv.create_revision, kv.version), (anew.revision, 1));
}

async fn ranges(fresh: Fresh<'_>) {
    let s = fresh();
    for key in ["/a/1", "/a/2", "/a/3", "/b/1", "/a"] {
        put(&s, key, key).await;
    }
    let old = s.revision().await.unwrap();
    put(&s, "/a/2", "new").await;
    txn(&s, "/a/3", Expect::Any, Op::Delete).await;
    let now = put(&s, "/a/0", "zero").await;

    let keys = |r: &crate::RangeResult| {
        r.items.iter().map(|i| String::from_utf8(i.key.clone()).unwrap()).collect::<Vec<_>>()
    };
    let r = s.range(Range::prefix("/a/")).await.unwrap();
    assert_eq!(
        (keys(&r), r.more, r.count, r.revision),
        (vec!["/a/0".into(), "/a/1".into(), "/a/2".into()], false, 3, now)
    );
    let r = s.range(Range { limit: 2, ..Range::prefix("/a/") }).await.unwrap();
    assert_eq!((keys(&r), r.more, r.count), (vec!["/a/0".to_string(), "/a/1".into()], true, 3));
    let r = s.range(Range { count_only: true, ..Range::prefix("/a/") }).await.unwrap();
    assert_eq!((r.items.len(), r.count), (0, 3));
    let r = s.range(Range { keys_only: true, ..Range::prefix("/a/") }).await.unwrap();
    assert!(r.items.iter().all(|i| i.value.is_empty()) && r.items.len() == 3);
    let r = s.range(Range { revision: old, ..Range::prefix("/a/") }).await.unwrap();
    assert_eq!((keys(&r), r.count, r.revision), (vec!["/a/1".into(), "/a/2".into(), "/a/3".into()], 3, now));
    assert_eq!(r.items[1].value, "/a/2", "as it was");
    let r = s.range(Range { revision: old, limit: 1, ..Range::prefix("/a/") }).await.unwrap();
    assert_eq!((keys(&r), r.more, r.count), (vec!["/a/1".to_string()], true, 3));
    assert_eq!(s.range(Range::key("/a")).await.unwrap().count, 1);
    assert_eq!(s.range(Range::key("/none")).await.unwrap().count, 0);
    assert_eq!(
        s.range(Range { start: b"/a/1".to_vec(), end: vec![0], ..Range::default() }).await.unwrap().count,
        3
    );
    assert!(matches!(
        s.range(Range { revision: now + 1, ..Range::key("/a") }).await,
        Err(Error::Future { requested, .. }) if requested == now + 1
    ));
}

async fn take(watch: &mut WatchStream, n: usize) -> Vec<(EventKind, String, u64, Option<Bytes>)> {
    let mut events = Vec::new();
    while events.len() < n {
        let batch = watch.next().await.expect("the watch goes on").unwrap();
        assert!(batch.events.iter().all(|e| e.kv.mod_revision <= batch.revision));
        for e in batch.events {
            let key = String::from_utf8(e.kv.key).unwrap();
            events.push((e.kind, key, e.kv.mod_revision, e.prev.map(|p| p.value)));
        }
    }
    assert_eq!(events.len(), n);
    events
}

async fn watches(fresh: Fresh<'_>) {
    let s = fresh();
    let first = put(&s, "/a/1", "1").await;
    put(&s, "/b/1", "1").await;
    let second = put(&s, "/a/1", "2").await;
    let mut all = s.watch(b"/a/".to_vec(), first).await.unwrap();
    let mut later = s.watch(b"/a/".to_vec(), first + 1).await.unwrap();
    let mut live = s.watch(b"/a/".to_vec(), 0).await.unwrap();
    let mut future = s.watch(b"/a/".to_vec(), second + 2).await.unwrap();
    let third = txn(&s, "/a/1", Expect::Any, Op::Delete).await.revision;
    let fourth = put(&s, "/a/1", "4").await;
    use EventKind::{Delete, Put};
    let want = [
        (Put, "/a/1".to_string(), first, None),
        (Put, "/a/1".to_string(), second, Some(Bytes::from("1"))),
        (Delete, "/a/1".to_string(), third, Some(Bytes::from("2"))),
        (Put, "/a/1".to_string(), fourth, None),
    ];
    assert_eq!(take(&mut all, 4).await, want);
    assert_eq!(take(&mut later, 3).await, want[1..]);
    assert_eq!(take(&mut live, 2).await, want[2..]);
    assert_eq!(take(&mut future, 1).await, want[3..]);
    // All of the above from history alone.
    let mut history = s.watch(b"/a/".to_vec(), first).await.unwrap();
    assert_eq!(take(&mut history, 4).await, want);
    assert!(all.next().now_or_never().is_none(), "nothing is repeated");
}

async fn a_slow_watcher_catches_up(fresh: Fresh<'_>) {
    let s = fresh();
    let mut watch = s.watch(b"/".to_vec(), 0).await.unwrap();
    let start = s.revision().await.unwrap();
    for i in 0..1500 {
        put(&s, &format!("/{}", i % 7), "x").await;
    }
    let events = take(&mut watch, 1500).await;
    let revisions: Vec<u64> = events.iter().map(|e| e.2).collect();
    assert_eq!(revisions, (start + 1..=start + 1500).collect::<Vec<_>>(), "no gap, no repetition");
}

async fn compaction(fresh: Fresh<'_>) {
    let s = fresh();
    let first = put(&s, "/a", "1").await;
    let second = put(&s, "/a", "2").await;
    put(&s, "/d", "1").await;
    txn(&s, "/d", Expect::Any, Op::Delete).await;
    let last = put(&s, "/a", "3").await;
    s.compact(second).await.unwrap();
    assert!(matches!(
        s.range(Range { revision: first, ..Range::key("/a") }).await,
        Err(Error::Compacted { .. })
    ));
    let r = s.range(Range { revision: second, ..Range::key("/a") }).await.unwrap();
    assert_eq!(r.items[0].value, "2", "the compacted revision itself is still readable");
    assert!(
        matches!(s.watch(b"/".to_vec(), second).await.err(), Some(Error::Compacted { compacted, .. }) if compacted == second)
    );
    let mut watch = s.watch(b"/".to_vec(), second + 1).await.unwrap();
    assert_eq!(take(&mut watch, 3).await.len(), 3);
    assert!(matches!(s.compact(first).await, Err(Error::Compacted { .. })));
    assert!(matches!(s.compact(last + 1).await, Err(Error::Future { .. })));
    s.compact(last).await.unwrap();
    let r = s.range(Range::prefix("/")).await.unwrap();
    assert_eq!((r.count, r.items[0].value.clone()), (1, Bytes::from("3")));
    assert_eq!(put(&s, "/d", "2").await, last + 1);
}

async fn attach(s: &Arc<dyn Store>, key: &str, lease: LeaseId) -> crate::Result<TxnResult> {
    let op = Op::Put { value: Bytes::new(), lease: Some(lease) };
    s.txn(Txn { key: key.into(), expect: Expect::Any, op }).await
}

async fn leases(fresh: Fresh<'_>) {
    let s = fresh();
    assert!(matches!(attach(&s, "/none", 4711).await, Err(Error::LeaseNotFound(4711))));
    let lease = s.lease_grant(Duration::from_secs(60)).await.unwrap();
    attach(&s, "/a", lease).await.unwrap();
    attach(&s, "/b", lease).await.unwrap();
    put(&s, "/b", "detached").await;
    s.lease_keep_alive(lease).await.unwrap();
    s.lease_revoke(lease).await.unwrap();
    let left = s.range(Range::prefix("/")).await.unwrap();
    assert_eq!(left.items.iter().map(|i| i.key.as_slice()).collect::<Vec<_>>(), [b"/b"]);
    assert!(matches!(s.lease_revoke(lease).await, Err(Error::LeaseNotFound(_))));
    assert!(matches!(s.lease_keep_alive(lease).await, Err(Error::LeaseNotFound(_))));
    let short = s.lease_grant(Duration::from_secs(1)).await.unwrap();
    attach(&s, "/short", short).await.unwrap();
    let mut watch = s.watch(b"/short".to_vec(), 0).await.unwrap();
    assert_eq!(take(&mut watch, 1).await[0].0, EventKind::Delete);
}

async fn concurrent_writers(fresh: Fresh<'_>) {
    let s = fresh();
    let start = s.revision().await.unwrap();
    let mut watch = s.watch(b"/".to_vec(), 0).await.unwrap();
    let increments = (0..8).map(|_| {
        let s = s.clone();
        tokio::spawn(async move {
            for _ in 0..10 {
                loop {
                    let current = s.range(Range::key("/n")).await.unwrap().items.pop();
                    let n: u32 = current
                        .as_ref()
                        .map_or(0, |c| std::str::from_utf8(&c.value).unwrap().parse().unwrap());
                    let expect = current.map_or(Expect::Absent, |c| Expect::ModRevision(c.mod_revision));
                    if txn(&s, "/n", expect, value(&(n + 1).to_string())).await.succeeded {
                        break;
                    }
                }
            }
        })
    });
    for task in increments.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(s.range(Range::key("/n")).await.unwrap().items[0].value, "80", "no update is lost");
    assert_eq!(s.revision().await.unwrap(), start + 80);
    assert_eq!(take(&mut watch, 80).await.len(), 80);
}
