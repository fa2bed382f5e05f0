//! The store, with a watch on how long it takes: `etcd_request_duration_seconds`, whatever the store is.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use store::{Expect, LeaseId, Op, Range, RangeResult, Result, Store, Txn, TxnResult, WatchStream};
use tokio::time::Instant;

use base::prometheus::{Histogram, head};

use super::times;

/// A store whose requests are timed.
pub struct Metered {
    inner: Arc<dyn Store>,
    /// By group and resource, and by operation.
    took: Mutex<BTreeMap<Of, BTreeMap<&'static str, Asked>>>,
}

/// A group, empty for the core one, and a resource.
type Of = (Box<str>, Box<str>);

#[derive(Debug)]
struct Asked {
    took: Histogram,
    failed: u64,
}

/// The group and the resource of a key of an object, or of a prefix of such.
pub(super) fn resource_of(key: &[u8]) -> Option<(&str, &str)> {
    let key = std::str::from_utf8(key).ok()?;
    let mut parts = key.strip_prefix(crate::cache::ROOT)?.split('/');
    // Without a third part it is something else that the server keeps.
    let (group, resource, _) = (parts.next()?, parts.next()?, parts.next()?);
    Some((if group == "core" { "" } else { group }, resource))
}

/// The same of any key: what the server keeps besides objects is named by the first part of its keys. All there is has no name.
fn type_of(key: &[u8]) -> Option<(&str, &str)> {
    resource_of(key).or_else(|| {
        let first = std::str::from_utf8(key).ok()?.strip_prefix(crate::cache::ROOT)?.split('/').next()?;
        Some(("", first)).filter(|_| !first.is_empty())
    })
}

impl Metered {
    /// One that asks `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, took: Mutex::default() }
    }

    fn note(&self, key: &[u8], operation: &'static str, failed: bool, took: Duration) {
        let Some((group, resource)) = type_of(key) else { return };
        let mut all = self.took.lock();
        let of: Of = (group.into(), resource.into());
        let asked = all.entry(of).or_default().entry(operation);
        let asked = asked.or_insert_with(|| Asked { took: times(), failed: 0 });
        asked.took.observe(took);
        asked.failed += u64::from(failed);
    }

    /// The text form.
    pub(super) fn render(&self, out: &mut String) {
        let all = self.took.lock();
        let each = || {
            all.iter().flat_map(|((group, resource), operations)| {
                operations.iter().map(move |(operation, asked)| {
                    let labels =
                        format!("group=\"{group}\",operation=\"{operation}\",resource=\"{resource}\"");
                    (labels, asked)
                })
            })
        };
        let name = "etcd_request_duration_seconds";
        head(out, name, "histogram", "Etcd request latency in seconds for each operation and object type.");
        for (labels, asked) in each() {
            asked.took.write(out, name, &labels);
        }
        let name = "etcd_requests_total";
        head(out, name, "counter", "Etcd request counts for each operation and object type.");
        for (labels, asked) in each() {
            let _ = writeln!(out, "{name}{{{labels}}} {}", asked.took.count());
        }
        let name = "etcd_request_errors_total";
        head(out, name, "counter", "Etcd failed request counts for each operation and object type.");
        for (labels, asked) in each().filter(|(_, asked)| asked.failed > 0) {
            let _ = writeln!(out, "{name}{{{labels}}} {}", asked.failed);
        }
    }
}

#[async_trait]
impl Store for Metered {
    async fn range(&self, range: Range) -> Result<RangeResult> {
        let operation = if range.end.is_empty() { "get" } else { "list" };
        let key = range.start.clone();
        let started = Instant::now();
        let answer = self.inner.range(range).await;
        self.note(&key, operation, answer.is_err(), started.elapsed());
        answer
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        let operation = match (&txn.op, txn.expect) {
            (Op::Delete, _) => "delete",
            (Op::Put { .. }, Expect::Absent) => "create",
            (Op::Put { .. }, _) => "update",
        };
        let key = txn.key.clone();
        let started = Instant::now();
        let answer = self.inner.txn(txn).await;
        self.note(&key, operation, answer.is_err(), started.elapsed());
        answer
    }

    async fn watch(&self, prefix: Vec<u8>, from: u64) -> Result<WatchStream> {
        self.inner.watch(prefix, from).await
    }

    async fn revision(&self) -> Result<u64> {
        self.inner.revision().await
    }

    async fn size(&self) -> Result<u64> {
        self.inner.size().await
    }

    async fn compact(&self, revision: u64) -> Result<()> {
        self.inner.compact(revision).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<()> {
        self.inner.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<()> {
        self.inner.lease_revoke(lease).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn operations_are_told_apart() {
        let metered = Metered::new(store::memory());
        let key = || b"/registry/apps/deployments/a/b".to_vec();
        let put = || Op::Put { value: "{}".into(), lease: None };
        for (expect, op) in [(Expect::Absent, put()), (Expect::Any, put()), (Expect::Any, Op::Delete)] {
            metered.txn(Txn { key: key(), expect, op }).await.unwrap();
        }
        metered.range(Range::key(key())).await.unwrap();
        metered.range(Range::prefix("/registry/core/pods/")).await.unwrap();
        metered.range(Range::prefix("/registry/masterleases/10.0.0.1")).await.unwrap();
        let mut out = String::new();
        metered.render(&mut out);
        for (operation, group, resource) in [
            ("create", "apps", "deployments"),
            ("update", "apps", "deployments"),
            ("delete", "apps", "deployments"),
            ("get", "apps", "deployments"),
            ("list", "", "pods"),
            ("list", "", "masterleases"),
        ] {
            let labels = format!("{{group=\"{group}\",operation=\"{operation}\",resource=\"{resource}\"}} 1");
            for name in ["etcd_request_duration_seconds_count", "etcd_requests_total"] {
                let line = format!("{name}{labels}");
                assert!(out.lines().any(|l| l == line), "{line} in {out}");
            }
        }
        metered.range(Range { revision: 999, ..Range::key(key()) }).await.unwrap_err();
        let mut out = String::new();
        metered.render(&mut out);
        let failed = "etcd_request_errors_total{group=\"apps\",operation=\"get\",resource=\"deployments\"} 1";
        assert!(out.lines().any(|l| l == failed), "{out}");
    }
}
