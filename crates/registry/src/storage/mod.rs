//! What the registry keeps: blobs as files by digest, everything else in one SQLite database.
//!
//! A blob's file is complete and synced before a row says that a repository has it; a file that no row names is removed
//! when the last row goes, or at the next start. Manifests are small and lie in the database.

mod collect;
mod evict;
mod ledger;
mod manifests;
mod uploads;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};
use tokio::time::Instant;

pub(crate) use collect::GRACE;
pub(crate) use evict::used;
pub(crate) use manifests::Stored;
pub(crate) use uploads::Upload;

use self::ledger::{Ledger, Share};
use crate::digest::Digest;
use crate::error::{Error, Result};

/// What each version of the database adds to the one before.
const MIGRATIONS: [&str; 2] = [
    "CREATE TABLE IF NOT EXISTS repository_blobs (
        repository TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (repository, digest)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS blobs_digest ON repository_blobs (digest);
    CREATE TABLE IF NOT EXISTS manifests (
        repository TEXT NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL, content BLOB NOT NULL,
        subject TEXT, artifact_type TEXT NOT NULL, annotations TEXT NOT NULL, PRIMARY KEY (repository, digest)
    );
    CREATE INDEX IF NOT EXISTS manifests_subject ON manifests (repository, subject);
    CREATE TABLE IF NOT EXISTS tags (
        repository TEXT NOT NULL, tag TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (repository, tag)
    ) WITHOUT ROWID;",
    // The bytes of each blob, for quotas; those of older rows are read from the files.
    "ALTER TABLE repository_blobs ADD COLUMN size INTEGER NOT NULL DEFAULT -1;",
];

/// How much may be kept; `None` is as much as the disk holds. Uploads under way count as far as they have come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quota {
    /// Bytes of manifests, blobs and tags (a kilobyte each) in all, each blob counted once.
    pub total: Option<u64>,
    /// The same of each repository.
    pub repository: Option<u64>,
}

impl Quota {
    fn is_some(&self) -> bool {
        self.total.is_some() || self.repository.is_some()
    }
}

/// The registry's data.
pub(crate) struct Storage {
    root: PathBuf,
    db: Mutex<Connection>,
    uploads: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Upload>>>>,
    ledger: Arc<Ledger>,
    /// When somebody last had to do with a blob that may still wait for its manifest, and when this began to be noted.
    touched: Mutex<HashMap<(String, String), Instant>>,
    since: Instant,
}

impl Storage {
    /// Opens or makes it, and removes what interrupted uploads left.
    pub fn open(root: &Path, quota: Quota) -> Result<Self> {
        // What only some may pull is not for every user of the machine.
        for dir in ["blobs", "blobs/sha256", "blobs/sha512"] {
            base::fsx::private_dir(&root.join(dir))?;
        }
        let mut db = open_database(&root.join("registry.db")).map_err(|e| match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy) => Error::Configuration(format!(
                "{} is in use by another registry: stop it, or give another folder",
                root.display()
            )),
            _ => e.into(),
        })?;
        // Uploads do not survive a restart: their clients begin again.
        match fs::remove_dir_all(root.join("uploads")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => base::fsx::private_dir(&root.join("uploads"))?,
        }
        measure_old_blobs(root, &mut db)?;
        let storage = Self {
            root: root.into(),
            ledger: Arc::new(Ledger::open(&db, quota)?),
            db: Mutex::new(db),
            uploads: Mutex::default(),
            touched: Mutex::default(),
            since: Instant::now(),
        };
        storage.sweep()?;
        Ok(storage)
    }

    fn sweep(&self) -> Result<()> {
        for algorithm in ["sha256", "sha512"] {
            for entry in fs::read_dir(self.root.join("blobs").join(algorithm))? {
                let entry = entry?;
                let digest = format!("{algorithm}:{}", entry.file_name().to_string_lossy());
                if !is_used(&self.db.lock(), &digest)? {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        blob_path(&self.root, digest)
    }

    /// Opens a blob of a repository; its length is the file's.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Result<(File, u64)> {
        let unknown = || Error::blob_unknown(format!("blob {digest} unknown to {repository}"));
        if !has_blob(&self.db.lock(), repository, digest)? {
            return Err(unknown());
        }
        self.touch(repository, digest);
        let file = File::open(self.blob_path(digest)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => unknown(),
            _ => e.into(),
        })?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    /// Gives a repository a blob that another one has (one of those that `may_read` allows, if `from` is not said);
    /// whether there was one.
    pub fn mount(
        &self,
        repository: &str,
        digest: &Digest,
        from: Option<&str>,
        may_read: &dyn Fn(&str) -> bool,
    ) -> Result<bool> {
        let db = self.db.lock();
        let sources: Vec<(String, i64)> = db
            .prepare_cached("SELECT repository, size FROM repository_blobs WHERE digest = ?1")?
            .query_map([digest.as_str()], |r| Ok((r.get(0)?, r.get(1)?)))?
            .collect::<std::result::Result<_, _>>()?;
        let source = sources.iter().find(|(name, _)| from.is_none_or(|f| f == name) && may_read(name));
        let Some((_, size)) = source else { return Ok(false) };
        if sources.iter().any(|(name, _)| name == repository) {
            self.touch(repository, digest);
            return Ok(true);
        }
        let size = u64::try_from(*size).unwrap_or(0);
        self.ledger.take(repository, Share::repository(size))?;
        self.link(&db, repository, digest, size)
            .inspect_err(|_| self.ledger.give_back(repository, Share::repository(size)))?;
        Ok(true)
    }

    fn link(&self, db: &Connection, repository: &str, digest: &Digest, size: u64) -> Result<()> {
        // Touched first: a collection must not take what has just come.
        self.touch(repository, digest);
        db.prepare_cached(
            "INSERT OR IGNORE INTO repository_blobs (repository, digest, size) VALUES (?1, ?2, ?3)",
        )?
        .execute(params![repository, digest.as_str(), clamp(size)])?;
        Ok(())
    }

    fn touch(&self, repository: &str, digest: &Digest) {
        self.touched.lock().insert((repository.into(), digest.to_string()), Instant::now());
    }

    /// Takes a blob from a repository, and its file if no other has it.
    pub fn delete_blob(&self, repository: &str, digest: &Digest) -> Result<()> {
        let db = self.db.lock();
        if !self.unlink(&db, repository, digest)? {
            return Err(Error::blob_unknown(format!("blob {digest} unknown to {repository}")));
        }
        Ok(())
    }

    /// The database stays locked meanwhile, so that nobody links the blob while its file goes.
    fn unlink(&self, db: &Connection, repository: &str, digest: &Digest) -> Result<bool> {
        let sql = "SELECT size FROM repository_blobs WHERE repository = ?1 AND digest = ?2";
        let size: Option<i64> =
            db.prepare_cached(sql)?.query_row([repository, digest.as_str()], |r| r.get(0)).optional()?;
        db.prepare_cached("DELETE FROM repository_blobs WHERE repository = ?1 AND digest = ?2")?
            .execute([repository, digest.as_str()])?;
        let last = !is_used(db, digest.as_str())?;
        if let Some(size) = size {
            let size = u64::try_from(size).unwrap_or(0);
            let share = if last { Share::both(size) } else { Share::repository(size) };
            self.ledger.give_back(repository, share);
        }
        if last {
            match fs::remove_file(self.blob_path(digest)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        Ok(size.is_some())
    }
}

fn open_database(path: &Path) -> std::result::Result<Connection, rusqlite::Error> {
    let mut db = Connection::open(path)?;
    // A predecessor that is just ending still holds it for a moment.
    db.busy_timeout(std::time::Duration::from_secs(1))?;
    // One process alone: two would take each other's uploads for leftovers.
    db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: usize = tx.query_row("PRAGMA user_version", [], |r| r.get(0))?;
    for step in MIGRATIONS.iter().skip(version) {
        tx.execute_batch(step)?;
    }
    tx.pragma_update(None, "user_version", MIGRATIONS.len().max(version))?;
    tx.commit()?;
    Ok(db)
}

/// Fills in the sizes that rows of older versions lack.
fn measure_old_blobs(root: &Path, db: &mut Connection) -> Result<()> {
    let old: Vec<String> = db
        .prepare("SELECT DISTINCT digest FROM repository_blobs WHERE size < 0")?
        .query_map([], |r| r.get(0))?
        .collect::<std::result::Result<_, _>>()?;
    let tx = db.transaction()?;
    for text in old {
        let size = match fs::metadata(blob_path(root, &Digest::parse(&text)?)) {
            Ok(m) => m.len(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => 0,
            Err(e) => return Err(e.into()),
        };
        tx.execute("UPDATE repository_blobs SET size = ?2 WHERE digest = ?1", params![text, clamp(size)])?;
    }
    tx.commit()?;
    Ok(())
}

fn blob_path(root: &Path, digest: &Digest) -> PathBuf {
    root.join("blobs").join(digest.path())
}

fn is_used(db: &Connection, digest: &str) -> Result<bool> {
    let mut statement = db.prepare_cached("SELECT 1 FROM repository_blobs WHERE digest = ?1 LIMIT 1")?;
    Ok(statement.query_row([digest], |_| Ok(())).optional()?.is_some())
}

fn has_blob(db: &Connection, repository: &str, digest: &Digest) -> Result<bool> {
    let mut statement =
        db.prepare_cached("SELECT 1 FROM repository_blobs WHERE repository = ?1 AND digest = ?2")?;
    Ok(statement.query_row([repository, digest.as_str()], |_| Ok(())).optional()?.is_some())
}

fn clamp(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
