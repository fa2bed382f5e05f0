//! Compaction by age, by one of those that share an etcd.
//!
//! They agree through the same key as upstream's API servers, so that either may serve the same data: its value is a
//! revision, its version tells who was first to raise it. Whoever was compacts up to where the key stood before,
//! which is one interval ago.

use std::sync::Weak;
use std::time::Duration;

use super::messages as m;
use super::peers::Peers;
use super::{Etcd, Repeat, op, revision_of};
use crate::{Error, Result, Store};

/// How old history becomes at least.
const INTERVAL: Duration = Duration::from_secs(5 * 60);
const KEY: &[u8] = b"compact_rev_key";

/// Runs until the store is no longer used. A timer, because age is what it looks at.
pub(super) async fn run(peers: Weak<Peers>) {
    let (mut version, mut revision) = (0, 0);
    loop {
        tokio::time::sleep(INTERVAL).await;
        let Some(peers) = peers.upgrade() else { return };
        match step(&Etcd { peers }, version, revision).await {
            Ok(next) => (version, revision) = next,
            Err(error) => tracing::warn!(%error, "etcd was not compacted; the next time makes up for it"),
        }
    }
}

/// Compacts up to `revision` if the key still has this version; gives what to compare and to compact the next time.
pub(super) async fn step(etcd: &Etcd, version: i64, revision: u64) -> Result<(i64, u64)> {
    let request = m::TxnRequest {
        compare: vec![m::Compare {
            result: m::EQUAL,
            target: m::VERSION,
            key: KEY.to_vec(),
            value: Some(m::Target::Version(version)),
        }],
        success: op(m::Request::Put(m::PutRequest {
            key: KEY.to_vec(),
            value: revision.to_string().into(),
            ..m::PutRequest::default()
        })),
        failure: op(m::Request::Range(m::RangeRequest { key: KEY.to_vec(), ..m::RangeRequest::default() })),
    };
    let answer: m::TxnResponse = etcd.ask("/etcdserverpb.KV/Txn", request, Repeat::IfNotDone).await?;
    let now = revision_of(&answer.header);
    if !answer.succeeded {
        // Somebody else was first; from here on we know where they are.
        let found = answer.responses.into_iter().next().and_then(|r| r.response);
        let Some(m::Response::Range(range)) = found else { return Ok((0, 0)) };
        return Ok(range.kvs.first().map_or((0, 0), |kv| (kv.version, now)));
    }
    if revision > 0 {
        match etcd.compact(revision).await {
            Ok(()) | Err(Error::Compacted { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Ok((version + 1, now))
}
