//! The build cache: from what a step is made of to the image that came out, shared by all builds and kept over restarts.
//!
//! A key covers the parent image, the instruction with its variables resolved, the content of the files it reads and
//! the configuration that results, so that equal keys mean equal images. An entry whose image is gone is no entry.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use crate::error::Result;

/// The cache's database.
pub(crate) struct Cache {
    db: Arc<Mutex<Connection>>,
}

impl Cache {
    /// Opens or makes it.
    pub fn open(path: &Path) -> Result<Self> {
        let db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // What is lost here with the power is built again.
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.execute_batch(
            "CREATE TABLE IF NOT EXISTS steps (key TEXT PRIMARY KEY, image TEXT NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID;",
        )?;
        Ok(Self { db: Arc::new(Mutex::new(db)) })
    }

    /// The image that a step made.
    pub fn get(&self, key: &str) -> Result<Option<String>> {
        let db = self.db.lock();
        let image = db
            .prepare_cached("SELECT image FROM steps WHERE key = ?1")?
            .query_row([key], |r| r.get::<_, String>(0))
            .optional()?;
        Ok(image)
    }

    /// Remembers what a step made.
    pub fn put(&self, key: &str, image: &str) -> Result<()> {
        let now = base::clock::now().as_second();
        self.db
            .lock()
            .prepare_cached("INSERT OR REPLACE INTO steps (key, image, used) VALUES (?1, ?2, ?3)")?
            .execute(rusqlite::params![key, image, now])?;
        Ok(())
    }

    /// Forgets everything, or what names images that are gone; how many entries.
    pub fn prune(&self, keep: impl Fn(&str) -> bool) -> Result<usize> {
        let db = self.db.lock();
        let all: Vec<(String, String)> = {
            let mut statement = db.prepare("SELECT key, image FROM steps")?;
            let rows = statement.query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?;
            rows.collect::<std::result::Result<_, _>>()?
        };
        let mut n = 0;
        for (key, image) in all {
            if !keep(&image) {
                n += db.execute("DELETE FROM steps WHERE key = ?1", [key])?;
            }
        }
        Ok(n)
    }
}

/// A digest of parts, each with its length, so that no two lists of parts are alike.
pub(crate) fn key(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hex::encode(hash.finalize())
}
