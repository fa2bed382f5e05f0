//! Eviction: a cache at its bounds lets go of what nobody has read for longest, because it can be had again.
//!
//! A blob's last use is the time of its file, which outlives a restart.

use std::fs::{self, File};
use std::time::SystemTime;

use super::Storage;
use super::ledger::Share;
use crate::digest::Digest;
use crate::error::Result;

/// Notes that a blob has been read just now. That it cannot be noted is no reason to fail.
pub(crate) fn used(file: &File) {
    if let Err(error) = file.set_modified(base::clock::now().into()) {
        tracing::debug!(%error, "the last use of a blob");
    }
}

impl Storage {
    /// Removes blobs, those that nobody has read for longest first, until `more` bytes of a repository fit; whether they do
    /// in the end. Blocking.
    pub fn make_room(&self, repository: &str, more: u64) -> Result<bool> {
        let fits = || self.ledger.check(repository, Share::both(more)).is_ok();
        if fits() {
            return Ok(true);
        }
        let rows: Vec<(String, String, i64)> = {
            let db = self.db.lock();
            let mut statement =
                db.prepare_cached("SELECT repository, digest, size FROM repository_blobs ORDER BY digest")?;
            statement
                .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))?
                .collect::<std::result::Result<_, _>>()?
        };
        let size = |rows: &mut dyn Iterator<Item = &(String, String, i64)>| {
            rows.map(|(.., size)| u64::try_from(*size).unwrap_or(0)).sum()
        };
        let all = Share {
            total: size(&mut rows.chunk_by(|a, b| a.1 == b.1).flat_map(|same| same.first())),
            repository: size(&mut rows.iter().filter(|(owner, ..)| owner == repository)),
        };
        // Nothing goes for what does not fit all the same, as where others are under way.
        if !self.ledger.could_hold(repository, more, all) {
            return Ok(false);
        }
        let mut blobs: Vec<(SystemTime, Digest, String)> = Vec::with_capacity(rows.len());
        for (owner, digest, _) in rows {
            let digest = Digest::parse(&digest)?;
            let last = fs::metadata(self.blob_path(&digest)).and_then(|m| m.modified());
            // One without a file is of no use, and goes first.
            blobs.push((last.unwrap_or(SystemTime::UNIX_EPOCH), digest, owner));
        }
        // Those of one blob follow each other: only with the last its file goes.
        blobs.sort();
        for (_, digest, owner) in blobs.iter().filter(|(.., owner)| owner == repository) {
            if self.ledger.fits(repository, more) {
                break;
            }
            self.unlink(&self.db.lock(), owner, digest)?;
        }
        for (_, digest, owner) in &blobs {
            if fits() {
                break;
            }
            self.unlink(&self.db.lock(), owner, digest)?;
        }
        Ok(fits())
    }
}
