//! Manifests, tags, and what is listed of them.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};

use super::ledger::{Share, TAG};
use super::{Storage, clamp, has_blob};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::About;

/// A manifest as stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub digest: Digest,
    pub media_type: String,
    pub content: Vec<u8>,
}

/// One line of the referrers' list.
#[derive(Debug, Clone)]
pub(crate) struct Referrer {
    pub digest: String,
    pub media_type: String,
    pub size: u64,
    pub artifact_type: String,
    pub annotations: String,
}

impl Storage {
    /// A manifest by tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Result<Stored> {
        let db = self.db.lock();
        let digest = if reference.contains(':') {
            Some(reference.to_string())
        } else {
            db.prepare_cached("SELECT digest FROM tags WHERE repository = ?1 AND tag = ?2")?
                .query_row([repository, reference], |r| r.get(0))
                .optional()?
        };
        let found = match digest {
            Some(d) => db
                .prepare_cached(
                    "SELECT digest, media_type, content FROM manifests WHERE repository = ?1 AND digest = ?2",
                )?
                .query_row([repository, &d], |r| Ok((r.get::<_, String>(0)?, r.get(1)?, r.get(2)?)))
                .optional()?,
            None => None,
        };
        let (digest, media_type, content) = found
            .ok_or_else(|| Error::manifest_unknown(format!("manifest unknown: {repository}:{reference}")))?;
        Ok(Stored { digest: Digest::parse(&digest)?, media_type, content })
    }

    /// Stores a manifest under its digest and tags. The blobs that it needs must be here.
    pub fn put_manifest(
        &self,
        repository: &str,
        m: &Stored,
        about: &About,
        needed: &[Digest],
        tags: &[String],
    ) -> Result<()> {
        let mut db = self.db.lock();
        for digest in needed {
            if !has_blob(&db, repository, digest)? {
                return Err(Error::manifest_blob_unknown(format!("blob unknown to registry: {digest}")));
            }
        }
        // Only what is new takes room.
        let old = manifest_size(&db, repository, m.digest.as_str())?;
        let mut bytes = if old.is_some() { 0 } else { m.content.len() as u64 };
        for tag in tags.iter().collect::<BTreeSet<_>>() {
            let sql = "SELECT 1 FROM tags WHERE repository = ?1 AND tag = ?2";
            bytes += if db.prepare_cached(sql)?.exists([repository, tag])? { 0 } else { TAG };
        }
        let share = Share::both(bytes);
        self.ledger.take(repository, share)?;
        write_manifest(&mut db, repository, m, about, tags)
            .inspect_err(|_| self.ledger.give_back(repository, share))
    }

    /// Removes a tag, or a manifest with all its tags. Its blobs go with the next collection.
    pub fn delete_manifest(&self, repository: &str, reference: &str) -> Result<()> {
        let mut db = self.db.lock();
        let size = manifest_size(&db, repository, reference)?.unwrap_or(0);
        let tx = db.transaction()?;
        let whole = reference.contains(':');
        let sql = match whole {
            true => "DELETE FROM tags WHERE repository = ?1 AND digest = ?2",
            false => "DELETE FROM tags WHERE repository = ?1 AND tag = ?2",
        };
        let tags = tx.execute(sql, [repository, reference])?;
        let sql = "DELETE FROM manifests WHERE repository = ?1 AND digest = ?2";
        let n = if whole { tx.execute(sql, [repository, reference])? } else { tags };
        if n == 0 {
            return Err(Error::manifest_unknown(format!("manifest unknown: {repository}:{reference}")));
        }
        tx.commit()?;
        self.ledger.give_back(repository, Share::both(size + tags as u64 * TAG));
        Ok(())
    }

    /// Whether a repository has anything.
    pub fn knows(&self, repository: &str) -> Result<bool> {
        let db = self.db.lock();
        let sql = "SELECT 1 FROM manifests WHERE repository = ?1
                   UNION SELECT 1 FROM repository_blobs WHERE repository = ?1 LIMIT 1";
        Ok(db.prepare_cached(sql)?.query_row([repository], |_| Ok(())).optional()?.is_some())
    }

    /// Tags after `last`, sorted, at most `limit`.
    pub fn tags(&self, repository: &str, last: &str, limit: u64) -> Result<Vec<String>> {
        let db = self.db.lock();
        let sql = "SELECT tag FROM tags WHERE repository = ?1 AND tag > ?2 ORDER BY tag LIMIT ?3";
        let mut statement = db.prepare_cached(sql)?;
        let rows = statement.query_map(params![repository, last, clamp(limit)], |r| r.get(0))?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }

    /// Repositories with manifests whose names begin with `prefix`, without it: those that `shown` lets pass, after
    /// `last`, sorted, at most `limit`.
    pub fn repositories(
        &self,
        prefix: &str,
        last: &str,
        limit: u64,
        shown: &dyn Fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let db = self.db.lock();
        let sql = "SELECT DISTINCT repository FROM manifests WHERE repository > ?1 ORDER BY repository";
        let mut statement = db.prepare_cached(sql)?;
        let mut rows = statement.query([format!("{prefix}{last}")])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let whole: String = row.get(0)?;
            // Those that begin alike follow each other.
            let Some(name) = whole.strip_prefix(prefix).filter(|_| (found.len() as u64) < limit) else {
                break;
            };
            if shown(name) {
                found.push(name.to_string());
            }
        }
        Ok(found)
    }

    /// The manifests whose subject is `digest`, of one type if that is said, after the digest `last`: as many as fit into
    /// so many bytes, but at least one; and whether there are more.
    pub fn referrers(
        &self,
        repository: &str,
        digest: &Digest,
        artifact_type: Option<&str>,
        last: &str,
        bytes: usize,
    ) -> Result<(Vec<Referrer>, bool)> {
        let db = self.db.lock();
        let sql = "SELECT digest, media_type, length(content), artifact_type, annotations FROM manifests
                   WHERE repository = ?1 AND subject = ?2 AND digest > ?3 AND (?4 IS NULL OR artifact_type = ?4)
                   ORDER BY digest";
        let mut statement = db.prepare_cached(sql)?;
        let mut rows = statement.query(params![repository, digest.as_str(), last, artifact_type])?;
        let (mut found, mut taken) = (Vec::new(), 0);
        while let Some(r) = rows.next()? {
            let referrer = Referrer {
                digest: r.get(0)?,
                media_type: r.get(1)?,
                size: r.get::<_, i64>(2)?.max(0) as u64,
                artifact_type: r.get(3)?,
                annotations: r.get(4)?,
            };
            taken += referrer.length();
            if taken > bytes && !found.is_empty() {
                return Ok((found, true));
            }
            found.push(referrer);
        }
        Ok((found, false))
    }
}

impl Referrer {
    /// Bytes of it in a list, about.
    fn length(&self) -> usize {
        let Self { digest, media_type, artifact_type, annotations, .. } = self;
        // The names of the members and the size.
        100 + [digest, media_type, artifact_type, annotations].into_iter().map(String::len).sum::<usize>()
    }
}

fn write_manifest(
    db: &mut Connection,
    repository: &str,
    m: &Stored,
    about: &About,
    tags: &[String],
) -> Result<()> {
    let tx = db.transaction()?;
    tx.prepare_cached(
        "INSERT OR REPLACE INTO manifests
         (repository, digest, media_type, content, subject, artifact_type, annotations)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        repository,
        m.digest.as_str(),
        m.media_type,
        m.content,
        about.subject,
        about.artifact_type,
        about.annotations
    ])?;
    for tag in tags {
        tx.prepare_cached("INSERT OR REPLACE INTO tags (repository, tag, digest) VALUES (?1, ?2, ?3)")?
            .execute([repository, tag, m.digest.as_str()])?;
    }
    tx.commit()?;
    Ok(())
}

/// A manifest's bytes, if it is here.
fn manifest_size(db: &Connection, repository: &str, digest: &str) -> Result<Option<u64>> {
    let sql = "SELECT length(content) FROM manifests WHERE repository = ?1 AND digest = ?2";
    let size: Option<i64> =
        db.prepare_cached(sql)?.query_row([repository, digest], |r| r.get(0)).optional()?;
    Ok(size.map(|n| u64::try_from(n).unwrap_or(0)))
}
