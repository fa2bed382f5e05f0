//! The store, with a watch on how long it takes: `etcd_request_duration_seconds`, whatever the store is.

use std::collections::BTreeMap;
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
    /// By resource and operation.
    took: Mutex<BTreeMap<Box<str>, BTreeMap<&'static str, Histogram>>>,
}

/// `configmaps` or `deployments.apps` of a key of an object, or of a prefix of such.
pub(super) fn resource_of(key: &[u8]) -> Option<String> {
    let key = std::str::from_utf8(key).ok()?;
    let mut parts = key.strip_prefix(crate::cache::ROOT)?.split('/');
    // Without a third part it is something else that the server keeps.
    let (group, resource, _) = (parts.next()?, parts.next()?, parts.next()?);
    Some(if group == "core" { resource.to_owned() } else { format!("{resource}.{group}") })
}

impl Metered {
    /// One that asks `inner`.
    pub fn new(inner: Arc<dyn Store>) -> Self {
        Self { inner, took: Mutex::default() }
    }

    fn note(&self, resource: Option<String>, operation: &'static str, took: Duration) {
        let resource = resource.unwrap_or_default();
        let mut all = self.took.lock();
        if let Some(histogram) = all.get_mut(&*resource).and_then(|r| r.get_mut(operation)) {
            return histogram.observe(took);
        }
        all.entry(resource.into()).or_default().entry(operation).or_insert_with(times).observe(took);
    }

    /// The text form.
    pub(super) fn render(&self, out: &mut String) {
        let name = "etcd_request_duration_seconds";
        head(out, name, "histogram", "Etcd request latency in seconds for each operation and object type.");
        for (resource, operations) in self.took.lock().iter() {
            for (operation, histogram) in operations {
                let labels = format!("operation=\"{operation}\",type=\"{resource}\"");
                histogram.write(out, name, &labels);
            }
        }
    }
}

#[async_trait]
impl Store for Metered {
    async fn range(&self, range: Range) -> Result<RangeResult> {
        let operation = if range.end.is_empty() { "get" } else { "list" };
        let resource = resource_of(&range.start);
        let started = Instant::now();
        let answer = self.inner.range(range).await;
        self.note(resource, operation, started.elapsed());
        answer
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        let operation = match (&txn.op, txn.expect) {
            (Op::Delete, _) => "delete",
            (Op::Put { .. }, Expect::Absent) => "create",
            (Op::Put { .. }, _) => "update",
        };
        let resource = resource_of(&txn.key);
        let started = Instant::now();
        let answer = self.inner.txn(txn).await;
        self.note(resource, operation, started.elapsed());
        answer
    }

    async fn watch(&self, prefix: Vec<u8>, from: u64) -> Result<WatchStream> {
        self.inner.watch(prefix, from).await
    }

    async fn revision(&self) -> Result<u64> {
        self.inner.revision().await
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
        for (operation, resource) in [
            ("create", "deployments.apps"),
            ("update", "deployments.apps"),
            ("delete", "deployments.apps"),
            ("get", "deployments.apps"),
            ("list", "pods"),
            ("list", ""),
        ] {
            let line = format!(
                "etcd_request_duration_seconds_count{{operation=\"{operation}\",type=\"{resource}\"}} 1"
            );
            assert!(out.lines().any(|l| l == line), "{line} in {out}");
        }
    }
}
