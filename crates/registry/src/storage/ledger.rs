//! What is kept, in bytes, against what may be kept: blobs, manifests, tags, and uploads as far as they have come.
//!
//! The sums are made from the database once and follow every change, so that each piece of an upload can be checked.

use std::collections::HashMap;

use parking_lot::Mutex;
use rusqlite::Connection;

use super::Quota;
use crate::error::{Error, Result};

/// What a tag counts for, in bytes: its row takes as much with the longest names.
pub(super) const TAG: u64 = 1 << 10;

/// The sums, and their bounds. Without bounds nothing is counted.
pub(super) struct Ledger {
    quota: Quota,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    /// Shared blobs count once.
    total: u64,
    repositories: HashMap<String, u64>,
}

/// Bytes that come or go.
#[derive(Clone, Copy)]
pub(super) struct Share {
    /// Of the registry's.
    pub total: u64,
    /// Of the repository's.
    pub repository: u64,
}

impl Share {
    /// What is nobody else's.
    pub fn both(bytes: u64) -> Self {
        Self { total: bytes, repository: bytes }
    }

    /// What the registry has anyway.
    pub fn repository(bytes: u64) -> Self {
        Self { total: 0, repository: bytes }
    }
}

impl Ledger {
    /// Of what the database has.
    pub fn open(db: &Connection, quota: Quota) -> Result<Self> {
        let mut used = Used::default();
        if quota.is_some() {
            let sum = |sql: &str| db.query_row(sql, [], |r| r.get::<_, i64>(0)).map(natural);
            used.total = sum(
                "SELECT coalesce(sum(size), 0) FROM (SELECT DISTINCT digest, size FROM repository_blobs)",
            )? + sum("SELECT coalesce(sum(length(content)), 0) FROM manifests")?
                + sum("SELECT count(*) FROM tags")?.saturating_mul(TAG);
            let of_tags = format!("SELECT repository, count(*) * {TAG} FROM tags GROUP BY repository");
            for sql in [
                "SELECT repository, sum(size) FROM repository_blobs GROUP BY repository",
                "SELECT repository, sum(length(content)) FROM manifests GROUP BY repository",
                &of_tags,
            ] {
                let mut statement = db.prepare(sql)?;
                let mut rows = statement.query([])?;
                while let Some(row) = rows.next()? {
                    *used.repositories.entry(row.get(0)?).or_default() += natural(row.get(1)?);
                }
            }
        }
        Ok(Self { quota, used: Mutex::new(used) })
    }

    /// Refuses what would exceed a bound.
    pub fn check(&self, repository: &str, more: Share) -> Result<()> {
        self.within(&self.used.lock(), repository, more)
    }

    /// Whether so much more is within the bound of a repository.
    pub fn fits(&self, repository: &str, more: u64) -> bool {
        let own = self.used.lock().repositories.get(repository).copied().unwrap_or(0);
        self.quota.repository.is_none_or(|limit| own.saturating_add(more) <= limit)
    }

    /// Whether so much more of a repository would be within the bounds if some of what there is were gone.
    pub fn could_hold(&self, repository: &str, more: u64, gone: Share) -> bool {
        let used = self.used.lock();
        let own = used.repositories.get(repository).copied().unwrap_or(0);
        let holds = |used: u64, gone: u64, limit: Option<u64>| {
            limit.is_none_or(|limit| used.saturating_sub(gone).saturating_add(more) <= limit)
        };
        holds(used.total, gone.total, self.quota.total) && holds(own, gone.repository, self.quota.repository)
    }

    fn within(&self, used: &Used, repository: &str, more: Share) -> Result<()> {
        let exceeded = |what: &str, used: u64, more: u64, limit: Option<u64>| match limit {
            Some(limit) if used.saturating_add(more) > limit => Err(Error::denied(format!(
                "quota exceeded: {what} holds {used} of {limit} bytes, and {more} more do not fit: delete what is not \
                 needed, or raise the quota"
            ))),
            _ => Ok(()),
        };
        let own = used.repositories.get(repository).copied().unwrap_or(0);
        exceeded(&format!("repository {repository}"), own, more.repository, self.quota.repository)?;
        exceeded("the registry", used.total, more.total, self.quota.total)
    }

    /// Counts what comes, or refuses it.
    pub fn take(&self, repository: &str, more: Share) -> Result<()> {
        if !self.quota.is_some() {
            return Ok(());
        }
        let mut used = self.used.lock();
        self.within(&used, repository, more)?;
        used.total += more.total;
        // One that has nothing has no entry.
        if more.repository > 0 {
            *used.repositories.entry(repository.into()).or_default() += more.repository;
        }
        Ok(())
    }

    /// Counts what goes.
    pub fn give_back(&self, repository: &str, less: Share) {
        if !self.quota.is_some() {
            return;
        }
        let mut used = self.used.lock();
        used.total = used.total.saturating_sub(less.total);
        if let Some(own) = used.repositories.get_mut(repository) {
            *own = own.saturating_sub(less.repository);
            if *own == 0 {
                used.repositories.remove(repository);
            }
        }
    }
}

fn natural(sum: i64) -> u64 {
    u64::try_from(sum).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::{Storage, Stored};
    use super::*;
    use crate::digest::{Digest, Hasher};
    use crate::manifest::About;

    fn used(ledger: &Ledger) -> (u64, Vec<(String, u64)>) {
        let used = ledger.used.lock();
        let mut all: Vec<_> = used.repositories.iter().map(|(n, b)| (n.clone(), *b)).collect();
        all.sort();
        (used.total, all)
    }

    #[test]
    fn follows_every_change() {
        let dir = tempfile::tempdir().unwrap();
        let quota = Quota { total: Some(1000 + 2 * TAG), repository: Some(900 + 2 * TAG) };
        let storage = Storage::open(dir.path(), quota).unwrap();
        // What the database says, if nothing is under way.
        let agrees = |what: &str| {
            let anew = Ledger::open(&storage.db.lock(), quota).unwrap();
            assert_eq!(used(&storage.ledger), used(&anew), "{what}");
        };
        let put = |repository: &str, content: &[u8], digest: &Digest| {
            let id = storage.begin(repository, Hasher::sha256())?;
            let upload = storage.upload(&id)?;
            let mut upload = upload.blocking_lock();
            upload.append(content)?;
            storage.finish(&id, &mut upload, digest)
        };
        let (one, two) = (Digest::of(b"one"), Digest::of(b"twotwo"));
        put("a", b"one", &one).unwrap();
        put("a", b"one", &one).unwrap();
        put("b", b"one", &one).unwrap();
        put("b", b"twotwo", &two).unwrap();
        assert!(put("c", b"other", &one).is_err());
        agrees("blobs");
        assert_eq!(used(&storage.ledger), (9, vec![("a".into(), 3), ("b".into(), 9)]));
        assert!(storage.mount("c", &two, None, &|_| true).unwrap());
        assert!(storage.mount("c", &two, None, &|_| true).unwrap());
        agrees("mounted");
        let manifest = Stored { digest: Digest::of(b"{}"), media_type: "m".into(), content: b"{}".to_vec() };
        for tag in ["1", "2"] {
            storage.put_manifest("a", &manifest, &About::default(), &[], &[tag.into()]).unwrap();
        }
        agrees("a manifest with two tags");
        assert_eq!(used(&storage.ledger).1[0], ("a".into(), 5 + 2 * TAG));
        storage.put_manifest("a", &manifest, &About::default(), &[], &["2".into(), "2".into()]).unwrap();
        agrees("a tag that is there");
        let many: Vec<String> = (0..10).map(|n| format!("many{n}")).collect();
        let refused = storage.put_manifest("a", &manifest, &About::default(), &[], &many).unwrap_err();
        assert!(refused.to_string().contains("quota exceeded"), "{refused}");
        agrees("tags without end");
        let large = Stored { content: vec![b' '; 4000], digest: Digest::of(b""), media_type: "m".into() };
        assert!(storage.put_manifest("a", &large, &About::default(), &[], &[]).is_err());
        storage.delete_manifest("a", "1").unwrap();
        agrees("a tag less");
        assert!(storage.delete_manifest("a", "1").is_err());
        agrees("a tag that is not there");
        storage.delete_manifest("a", manifest.digest.as_str()).unwrap();
        agrees("a manifest less");
        storage.delete_blob("a", &one).unwrap();
        agrees("a blob that is elsewhere, too");
        storage.delete_blob("b", &one).unwrap();
        agrees("a blob less");
        let before = used(&storage.ledger);
        let id = storage.begin("d", Hasher::sha256()).unwrap();
        let upload = storage.upload(&id).unwrap();
        let mut upload = upload.blocking_lock();
        let start = upload.hash();
        upload.append(&[0; 500]).unwrap();
        assert_eq!(used(&storage.ledger).0, before.0 + 500);
        assert!(upload.append(&[0; 401 + 2 * TAG as usize]).is_err(), "more than a repository may have");
        assert!(put("e", &[0; 600 + 2 * TAG as usize], &one).is_err(), "more than is left");
        upload.rewind(0, start).unwrap();
        assert_eq!(used(&storage.ledger), before);
        upload.append(&[0; 500]).unwrap();
        storage.cancel(&id, &mut upload).unwrap();
        agrees("uploads that came to nothing");
    }
}
