//! The build cache: from what a step is made of to what came out, shared by all builds and kept over restarts.
//!
//! A key covers the files below, the instruction with its variables resolved, and the content of the files that it
//! reads, so that equal keys mean equal results. A result is a layer, or nothing where the step changed no file. What
//! is found is in memory at once; `flush` brings it to the disk: layers first, then the rows that name them.
//!
//! A step that takes files of another stage has a second name, its definition: what that stage is made of instead of
//! what came out. By it the result is found although the other stage's is not here, so that need not be made.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use image::{Finished, ImageStore, Layer};
use jiff::Timestamp;
use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use crate::error::Result;

/// What a step made.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    /// The files that it changed, if any.
    pub layer: Option<Layer>,
    /// When.
    pub created: Timestamp,
}

/// One line of the cache, as `docker buildx du` lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The key of the step.
    pub id: String,
    /// The instruction.
    pub description: String,
    /// Bytes of its files.
    pub size: u64,
    /// When it was made.
    pub created: Timestamp,
    /// When it was last used, in seconds since 1970.
    pub used: i64,
    /// How often it was used.
    pub uses: u64,
    /// The layer's digest; none of a step that changed no file.
    pub diff_id: Option<String>,
    /// Whether its files are an image's too, or another record's: removing it frees nothing.
    pub shared: bool,
    /// Whether a build uses it at this moment.
    pub in_use: bool,
    /// What it is.
    pub kind: RecordKind,
}

/// What a line of the cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// What a step made.
    Step,
    /// A folder of `RUN --mount=type=cache`.
    Mount,
}

impl RecordKind {
    /// As BuildKit names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Step => "regular",
            Self::Mount => "exec.cachemount",
        }
    }
}

#[derive(Clone)]
struct Pending {
    made: Made,
    description: String,
}

/// The cache's database.
pub(crate) struct Cache {
    images: Arc<ImageStore>,
    db: Mutex<Connection>,
    /// Results that have no row yet.
    pending: Mutex<HashMap<String, Pending>>,
    /// Keys by definition that have no row yet.
    defined: Mutex<HashMap<String, String>>,
}

impl Cache {
    /// Opens or makes it, and forgets what names layers that are gone.
    pub fn open(path: &Path, images: Arc<ImageStore>) -> Result<Self> {
        let db = Connection::open(path)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // What is lost here with the power is built again.
        db.pragma_update(None, "synchronous", "NORMAL")?;
        db.execute_batch(
            "DROP TABLE IF EXISTS steps;
             CREATE TABLE IF NOT EXISTS results (
                 key TEXT PRIMARY KEY, diff_id TEXT, created TEXT NOT NULL, size INTEGER NOT NULL,
                 description TEXT NOT NULL, used INTEGER NOT NULL, uses INTEGER NOT NULL
             ) WITHOUT ROWID;
             CREATE TABLE IF NOT EXISTS definitions (definition TEXT PRIMARY KEY, key TEXT NOT NULL) WITHOUT ROWID;
             CREATE INDEX IF NOT EXISTS definitions_by_key ON definitions (key);
             CREATE TRIGGER IF NOT EXISTS result_gone AFTER DELETE ON results
                 BEGIN DELETE FROM definitions WHERE key = old.key; END;
             DELETE FROM definitions WHERE key NOT IN (SELECT key FROM results);",
        )?;
        Ok(Self { images, db: Mutex::new(db), pending: Mutex::default(), defined: Mutex::default() })
    }

    /// What a step made, if it is known and its files are still here.
    pub fn get(&self, key: &str) -> Result<Option<Made>> {
        if let Some(p) = self.pending.lock().get(key) {
            return Ok(Some(p.made.clone()));
        }
        let now = base::clock::now().as_second();
        let db = self.db.lock();
        let row = db
            .prepare_cached(
                "UPDATE results SET used = ?2, uses = uses + 1 WHERE key = ?1 RETURNING diff_id, created",
            )?
            .query_row(params![key, now], |r| Ok((r.get::<_, Option<String>>(0)?, r.get::<_, String>(1)?)))
            .optional()?;
        let Some((diff_id, created)) = row else { return Ok(None) };
        let created = created.parse().unwrap_or_else(|_| base::clock::now());
        let layer = match diff_id {
            None => None,
            Some(d) => match self.images.layer(&d) {
                Some(layer) => Some(layer),
                None => {
                    db.execute("DELETE FROM results WHERE key = ?1", [key])?;
                    return Ok(None);
                }
            },
        };
        Ok(Some(Made { layer, created }))
    }

    /// Remembers what a step made.
    pub fn put(&self, key: &str, description: &str, made: &Made) {
        let pending = Pending { made: made.clone(), description: description.to_string() };
        self.pending.lock().insert(key.to_string(), pending);
    }

    /// The key of the step of that definition, if any was done.
    pub fn key_of(&self, definition: &str) -> Result<Option<String>> {
        if let Some(key) = self.defined.lock().get(definition) {
            return Ok(Some(key.clone()));
        }
        let db = self.db.lock();
        let mut statement = db.prepare_cached("SELECT key FROM definitions WHERE definition = ?1")?;
        Ok(statement.query_row([definition], |r| r.get(0)).optional()?)
    }

    /// Remembers the definition of the step of that key, which has a result: a definition goes with it.
    pub fn define(&self, definition: &str, key: &str) {
        self.defined.lock().insert(definition.to_string(), key.to_string());
    }

    /// Whether any step can be found by its definition.
    pub fn any_defined(&self) -> Result<bool> {
        let rows = || self.db.lock().prepare_cached("SELECT 1 FROM definitions LIMIT 1")?.exists([]);
        Ok(!self.defined.lock().is_empty() || rows()?)
    }

    /// Brings images and everything that was remembered to the disk, in one transaction of the image store.
    pub async fn flush(&self, images: Vec<Finished>) -> Result<()> {
        // Before the results, which come before their definitions: none is written without its result.
        let defined = self.defined.lock().clone();
        let batch: Vec<(String, Pending)> =
            self.pending.lock().iter().map(|(k, p)| (k.clone(), p.clone())).collect();
        if images.is_empty() && batch.is_empty() && defined.is_empty() {
            return Ok(());
        }
        let keep = batch.iter().filter_map(|(k, p)| Some((k.clone(), p.made.layer.clone()?))).collect();
        self.images.add(images, keep).await?;
        let now = base::clock::now().as_second();
        {
            let mut db = self.db.lock();
            let tx = db.transaction()?;
            for (key, p) in &batch {
                let layer = p.made.layer.as_ref();
                tx.prepare_cached("INSERT OR REPLACE INTO results VALUES (?1, ?2, ?3, ?4, ?5, ?6, 1)")?
                    .execute(params![
                        key,
                        layer.map(|l| l.diff_id.as_str()),
                        p.made.created.to_string(),
                        layer.map_or(0, |l| l.size),
                        p.description,
                        now
                    ])?;
            }
            for (definition, key) in &defined {
                tx.prepare_cached("INSERT OR REPLACE INTO definitions VALUES (?1, ?2)")?
                    .execute([definition, key])?;
            }
            tx.commit()?;
        }
        let mut pending = self.pending.lock();
        for (key, _) in &batch {
            pending.remove(key);
        }
        drop(pending);
        self.defined.lock().retain(|definition, key| defined.get(definition) != Some(key));
        Ok(())
    }

    /// Whether there is any result on the disk.
    pub fn any(&self) -> Result<bool> {
        Ok(self.db.lock().prepare_cached("SELECT 1 FROM results LIMIT 1")?.exists([])?)
    }

    /// Every result that is on the disk, last used first.
    pub fn records(&self) -> Result<Vec<Record>> {
        let db = self.db.lock();
        let mut statement = db.prepare(
            "SELECT key, description, size, created, used, uses, diff_id FROM results ORDER BY used DESC, key",
        )?;
        let rows = statement.query_map([], |r| {
            Ok(Record {
                id: r.get(0)?,
                description: r.get(1)?,
                size: r.get(2)?,
                created: r.get::<_, String>(3)?.parse().unwrap_or(Timestamp::UNIX_EPOCH),
                used: r.get(4)?,
                uses: r.get(5)?,
                diff_id: r.get(6)?,
                shared: false,
                in_use: false,
                kind: RecordKind::Step,
            })
        })?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }

    /// Forgets results; the caller collects the layers afterwards.
    pub async fn forget(&self, keys: Vec<String>) -> Result<()> {
        {
            let mut db = self.db.lock();
            let tx = db.transaction()?;
            for key in &keys {
                tx.prepare_cached("DELETE FROM results WHERE key = ?1")?.execute([key])?;
            }
            tx.commit()?;
        }
        self.images.give_up(keys).await?;
        Ok(())
    }

    /// Gives up layers that were kept for results which never got a row.
    pub async fn reconcile(&self) -> Result<()> {
        let known: std::collections::HashSet<String> = self.records()?.into_iter().map(|r| r.id).collect();
        let stray: Vec<String> = self.images.kept().into_iter().filter(|k| !known.contains(k)).collect();
        if !stray.is_empty() {
            self.images.give_up(stray).await?;
        }
        Ok(())
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
