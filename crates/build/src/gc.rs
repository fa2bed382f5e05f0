//! Collection by itself: after something was written, the build cache is held to its policy, and the whole store to its
//! budget, which the node's registry has a part of too. What was not used for the longest time goes first; the cache goes
//! before copies that a registry has too, and those before images that nothing names. Images with names or users stay,
//! unless a node's thresholds want them gone.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use engine::gc::Rule;

use crate::blocking;
use crate::builder::{Builder, Pruned};
use crate::cache::{Record, RecordKind};
use crate::error::{Error, Result};

/// Bytes that the cache may take on any disk.
const SHARE: u64 = 2 << 30;

/// What goes by itself, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Whether the build cache is collected.
    pub enabled: bool,
    /// The rules, one after the other; none is a tenth of the disk.
    pub rules: Vec<Rule>,
    /// Bytes that images, layers, build cache and what lies in `beside` may take together.
    pub budget: Option<u64>,
    /// A folder of others on the same disk, who alone remove something of it: the node's registry.
    pub beside: Option<PathBuf>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { enabled: true, rules: Vec::new(), budget: None, beside: None }
    }
}

/// How much of so many bytes a rule wants gone, of a disk with so many free.
fn over(rule: &Rule, total: u64, free: u64) -> u64 {
    let limit = match (rule.most, rule.free) {
        (0, 0) => rule.reserved,
        (0, _) => u64::MAX,
        (most, _) => most,
    };
    let over = total.saturating_sub(limit).max(rule.free.saturating_sub(free));
    over.min(total.saturating_sub(rule.reserved))
}

/// What of the records, longest unused first, must go so that so many bytes are free.
fn surplus(mut records: Vec<Record>, need: u64, wanted: impl Fn(&Record) -> bool) -> Vec<String> {
    records.sort_by(|a, b| (a.used, &a.id).cmp(&(b.used, &b.id)));
    let mut freed = 0;
    let mut going = Vec::new();
    for record in records {
        if freed >= need {
            break;
        }
        if wanted(&record) {
            freed += if record.shared { 0 } else { record.size };
            going.push(record.id);
        }
    }
    going
}

/// Bytes that a folder takes, which may not be there. Blocking.
fn taken(folder: &Path) -> std::io::Result<u64> {
    match image::on_disk(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
        other => other,
    }
}

/// Collects for as long as the builder lives, each time that something was added.
pub(crate) async fn keep(builder: Weak<Builder>, written: Arc<tokio::sync::Notify>) {
    loop {
        written.notified().await;
        let Some(builder) = builder.upgrade() else { return };
        if let Err(error) = builder.collect().await {
            tracing::warn!(%error, "the disk's budget was not looked after");
        }
    }
}

impl Builder {
    /// Sets what goes by itself.
    pub fn set_policy(&self, policy: Policy) {
        *self.policy.write() = Arc::new(policy);
        self.images.written().notify_one();
    }

    /// What goes by itself.
    pub fn policy(&self) -> Arc<Policy> {
        self.policy.read().clone()
    }

    /// Removes what is too much. Returns what of the cache went.
    pub async fn collect(&self) -> Result<Pruned> {
        let policy = self.policy();
        let mut gone = Pruned::default();
        if policy.enabled && self.cache.any()? {
            for rule in self.rules(&policy)? {
                let records = self.cache_records().await?;
                let total = records.iter().filter(|r| !r.shared).map(|r| r.size).sum();
                let need = over(&rule, total, self.disk()?.1);
                if need == 0 {
                    continue;
                }
                let oldest = base::clock::now().as_second() - rule.unused_for;
                let fits = |r: &Record| {
                    r.used <= oldest && (rule.all || !r.shared) && crate::buildkit::fits(r, &rule.filters)
                };
                self.drop_records(surplus(records, need, fits), &mut gone).await?;
            }
        }
        let full = self.images.over_thresholds()?;
        let mut need = full;
        if let Some(budget) = policy.budget {
            let (caches, beside) = (self.caches.clone(), policy.beside.clone());
            let others = blocking(move || {
                let mounts: u64 = caches.records()?.iter().map(|r| r.size).sum();
                Ok::<_, Error>(mounts + beside.map_or(Ok(0), |folder| taken(&folder))?)
            });
            let all = self.images.on_disk().await?.total() + others.await?;
            need = need.max(all.saturating_sub(budget));
        }
        if need > 0 {
            let before = gone.bytes;
            let records = self.cache_records().await?;
            self.drop_records(surplus(records, need, |r| !r.shared), &mut gone).await?;
            need = need.saturating_sub(gone.bytes - before);
        }
        if need > 0 {
            need = need.saturating_sub(self.images.drop_copies(need).await?);
        }
        if need > 0 {
            need = need.saturating_sub(self.images.drop_unused(need, false).await?);
        }
        if need > 0 && full > 0 {
            need = need.saturating_sub(self.images.drop_unused(need.min(full), true).await?);
        }
        if !gone.records.is_empty() {
            tracing::info!(records = gone.records.len(), bytes = gone.bytes, "the build cache was collected");
        }
        if need > 0 {
            tracing::info!(
                bytes = need,
                "images, or the registry, take more than the disk's budget, and what is left is named or used"
            );
        }
        Ok(gone)
    }

    /// Removes of the build cache what somebody asks for: what fits the rule, or, where that says how much may stay, as
    /// much of it as is too much.
    pub async fn prune(&self, rule: &Rule) -> Result<Pruned> {
        let records = self.cache_records().await?;
        let oldest = base::clock::now().as_second() - rule.unused_for;
        let fits = |r: &Record| {
            r.used <= oldest && (rule.all || !r.shared) && crate::buildkit::fits(r, &rule.filters)
        };
        let going = match (rule.reserved, rule.most, rule.free) {
            (0, 0, 0) => records.into_iter().filter(fits).map(|r| r.id).collect(),
            _ => {
                let total = records.iter().filter(|r| !r.shared).map(|r| r.size).sum();
                surplus(records, over(rule, total, self.disk()?.1), fits)
            }
        };
        let mut gone = Pruned::default();
        self.drop_records(going, &mut gone).await?;
        Ok(gone)
    }

    async fn drop_records(&self, going: Vec<String>, gone: &mut Pruned) -> Result<()> {
        if going.is_empty() {
            return Ok(());
        }
        let going: std::collections::HashSet<String> = going.into_iter().collect();
        let pruned = self.prune_cache(|r| !going.contains(&r.id)).await?;
        gone.records.extend(pruned.records);
        gone.bytes += pruned.bytes;
        Ok(())
    }

    /// Bytes of the disk, and free ones.
    fn disk(&self) -> Result<(u64, u64)> {
        let disk = rustix::fs::statvfs(&self.scratch).map_err(std::io::Error::from)?;
        Ok((disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize)))
    }

    fn rules(&self, policy: &Policy) -> Result<Vec<Rule>> {
        if !policy.rules.is_empty() {
            return Ok(policy.rules.clone());
        }
        let (total, free) = self.disk()?;
        // When the disk is nearly full, the cache gives back all but what is too small to matter.
        let most = if free < total / 20 { SHARE / 8 } else { (total / 10).max(SHARE) };
        let steps = vec![format!("type!={}", RecordKind::Mount.name())];
        Ok(vec![Rule { all: true, filters: steps, most, ..Rule::default() }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, used: i64, size: u64) -> Record {
        Record {
            id: id.into(),
            description: String::new(),
            size,
            created: jiff::Timestamp::UNIX_EPOCH,
            used,
            uses: 1,
            diff_id: None,
            shared: id.starts_with("shared"),
            in_use: false,
            kind: RecordKind::Step,
        }
    }

    #[test]
    fn the_longest_unused_go_first() {
        let all = || {
            vec![record("new", 9, 50), record("old", 1, 30), record("shared", 2, 70), record("mid", 5, 40)]
        };
        assert_eq!(surplus(all(), 31, |_| true), ["old", "shared", "mid"]);
        assert_eq!(surplus(all(), 31, |r| !r.shared), ["old", "mid"]);
        assert!(surplus(all(), 0, |_| true).is_empty());
    }

    #[test]
    fn limits_of_a_rule() {
        let rule = |reserved, most, free| Rule { reserved, most, free, ..Rule::default() };
        assert_eq!(over(&rule(0, 0, 0), 100, 0), 100);
        assert_eq!(over(&rule(60, 0, 0), 100, 0), 40);
        assert_eq!(over(&rule(60, 80, 0), 100, 0), 20);
        assert_eq!(over(&rule(60, 0, 500), 100, 490), 10);
        assert_eq!(over(&rule(60, 0, 500), 100, 0), 40);
        assert_eq!(over(&rule(60, 0, 500), 100, 500), 0);
    }
}
