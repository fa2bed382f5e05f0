//! What the registry keeps: blobs as files by digest, everything else in one SQLite database.
//!
//! A blob's file is complete and synced before a row says that a repository has it; a file that no row names is removed
//! when the last row goes, or at the next start. Manifests are small and lie in the database.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::{Connection, OptionalExtension, params};

use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS repository_blobs (
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
) WITHOUT ROWID;
";

/// A manifest as stored.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub digest: Digest,
    pub media_type: String,
    pub content: Vec<u8>,
}

/// What a manifest says about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    pub subject: Option<String>,
    pub artifact_type: String,
    /// JSON object.
    pub annotations: String,
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

/// An upload under way.
pub(crate) struct Upload {
    pub repository: String,
    pub length: u64,
    file: File,
    path: PathBuf,
    hash: Hasher,
}

impl Upload {
    /// Appends bytes. Blocking.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Takes back what was appended after `length`, because the request broke off.
    pub fn rewind(&mut self, length: u64, hash: Hasher) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.seek(SeekFrom::Start(length))?;
        (self.length, self.hash) = (length, hash);
        Ok(())
    }

    /// The digest of what is there so far.
    pub fn hash(&self) -> Hasher {
        self.hash.clone()
    }
}

type Uploads = HashMap<String, Arc<tokio::sync::Mutex<Upload>>>;

/// The registry's data.
pub(crate) struct Storage {
    root: PathBuf,
    db: Mutex<Connection>,
    uploads: Mutex<Uploads>,
}

impl Storage {
    /// Opens or makes it, and removes what interrupted uploads left.
    pub fn open(root: &Path) -> Result<Self> {
        for dir in ["blobs/sha256", "blobs/sha512"] {
            fs::create_dir_all(root.join(dir))?;
        }
        // Uploads do not survive a restart: their clients begin again.
        match fs::remove_dir_all(root.join("uploads")) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
            _ => fs::create_dir_all(root.join("uploads"))?,
        }
        let db = Connection::open(root.join("registry.db"))?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.pragma_update(None, "synchronous", "FULL")?;
        db.execute_batch(SCHEMA)?;
        let storage = Self { root: root.into(), db: Mutex::new(db), uploads: Mutex::default() };
        storage.sweep()?;
        Ok(storage)
    }

    fn sweep(&self) -> Result<()> {
        for algorithm in ["sha256", "sha512"] {
            for entry in fs::read_dir(self.root.join("blobs").join(algorithm))? {
                let entry = entry?;
                let digest = format!("{algorithm}:{}", entry.file_name().to_string_lossy());
                if !self.is_used(&digest)? {
                    fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(())
    }

    fn is_used(&self, digest: &str) -> Result<bool> {
        let db = self.db.lock();
        let mut statement = db.prepare_cached("SELECT 1 FROM repository_blobs WHERE digest = ?1 LIMIT 1")?;
        Ok(statement.query_row([digest], |_| Ok(())).optional()?.is_some())
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.path())
    }

    /// Opens a blob of a repository; its length is the file's.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Result<(File, u64)> {
        let unknown = || Error::blob_unknown(format!("blob {digest} unknown to {repository}"));
        if !self.has_blob(repository, digest)? {
            return Err(unknown());
        }
        let file = File::open(self.blob_path(digest)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => unknown(),
            _ => e.into(),
        })?;
        let length = file.metadata()?.len();
        Ok((file, length))
    }

    /// Whether a repository has a blob.
    pub fn has_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let db = self.db.lock();
        let mut statement =
            db.prepare_cached("SELECT 1 FROM repository_blobs WHERE repository = ?1 AND digest = ?2")?;
        Ok(statement.query_row([repository, digest.as_str()], |_| Ok(())).optional()?.is_some())
    }

    /// Gives a repository a blob that another one has (any, if `from` is not said); whether there was one.
    pub fn mount(&self, repository: &str, digest: &Digest, from: Option<&str>) -> Result<bool> {
        let there = match from {
            Some(from) => self.has_blob(from, digest)?,
            None => self.is_used(digest.as_str())?,
        };
        if there {
            self.link(repository, digest)?;
        }
        Ok(there)
    }

    fn link(&self, repository: &str, digest: &Digest) -> Result<()> {
        self.db
            .lock()
            .prepare_cached("INSERT OR IGNORE INTO repository_blobs (repository, digest) VALUES (?1, ?2)")?
            .execute([repository, digest.as_str()])?;
        Ok(())
    }

    /// Takes a blob from a repository, and its file if no other has it.
    pub fn delete_blob(&self, repository: &str, digest: &Digest) -> Result<()> {
        let db = self.db.lock();
        let n = db
            .prepare_cached("DELETE FROM repository_blobs WHERE repository = ?1 AND digest = ?2")?
            .execute([repository, digest.as_str()])?;
        if n == 0 {
            return Err(Error::blob_unknown(format!("blob {digest} unknown to {repository}")));
        }
        let used: Option<()> = db
            .prepare_cached("SELECT 1 FROM repository_blobs WHERE digest = ?1 LIMIT 1")?
            .query_row([digest.as_str()], |_| Ok(()))
            .optional()?;
        if used.is_none() {
            // Still under the lock, so that nobody links the blob while its file goes.
            match fs::remove_file(self.blob_path(digest)) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.into()),
                _ => {}
            }
        }
        Ok(())
    }

    /// Begins an upload; returns its id.
    pub fn begin(&self, repository: &str) -> Result<String> {
        let id = base::rng::uuid();
        let path = self.root.join("uploads").join(&id);
        let file = File::options().read(true).write(true).create_new(true).open(&path)?;
        let upload = Upload { repository: repository.into(), length: 0, file, path, hash: Hasher::sha256() };
        self.uploads.lock().insert(id.clone(), Arc::new(tokio::sync::Mutex::new(upload)));
        Ok(id)
    }

    /// An upload of this repository.
    pub fn upload(&self, id: &str) -> Result<Arc<tokio::sync::Mutex<Upload>>> {
        let found = self.uploads.lock().get(id).cloned();
        found.ok_or_else(|| Error::upload_unknown(format!("blob upload {id} unknown to registry")))
    }

    /// Forgets an upload.
    pub fn cancel(&self, id: &str) -> Result<()> {
        match self.uploads.lock().remove(id) {
            Some(_) => Ok(fs::remove_file(self.root.join("uploads").join(id))?),
            None => Err(Error::upload_unknown(format!("blob upload {id} unknown to registry"))),
        }
    }

    /// Ends an upload: its content must have the digest. Blocking; durable when it returns.
    pub fn finish(&self, id: &str, upload: &mut Upload, digest: &Digest) -> Result<()> {
        let have = if digest.as_str().starts_with("sha256:") {
            upload.hash.clone().finish()
        } else {
            let mut hash = digest.hasher();
            upload.file.seek(SeekFrom::Start(0))?;
            let mut buf = vec![0u8; 256 * 1024];
            loop {
                match upload.file.read(&mut buf)? {
                    0 => break,
                    n => hash.update(&buf[..n]),
                }
            }
            hash.finish()
        };
        if have != *digest {
            self.cancel(id)?;
            return Err(Error::digest_invalid(format!(
                "provided digest did not match uploaded content: {digest} was said, {have} came"
            )));
        }
        upload.file.sync_data()?;
        let to = self.blob_path(digest);
        {
            // Under the lock: a deletion must not take the file between the renaming and the row.
            let db = self.db.lock();
            fs::rename(&upload.path, &to)?;
            base::fsx::fsync_dir(to.parent().unwrap_or(&self.root))?;
            db.prepare_cached("INSERT OR IGNORE INTO repository_blobs (repository, digest) VALUES (?1, ?2)")?
                .execute([upload.repository.as_str(), digest.as_str()])?;
        }
        self.uploads.lock().remove(id);
        Ok(())
    }

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

    /// Stores a manifest under its digest and tags.
    pub fn put_manifest(&self, repository: &str, m: &Stored, about: &About, tags: &[String]) -> Result<()> {
        let mut db = self.db.lock();
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

    /// Removes a tag, or a manifest with all its tags.
    pub fn delete_manifest(&self, repository: &str, reference: &str) -> Result<()> {
        let mut db = self.db.lock();
        let tx = db.transaction()?;
        let n = if reference.contains(':') {
            tx.execute("DELETE FROM tags WHERE repository = ?1 AND digest = ?2", [repository, reference])?;
            tx.execute(
                "DELETE FROM manifests WHERE repository = ?1 AND digest = ?2",
                [repository, reference],
            )?
        } else {
            tx.execute("DELETE FROM tags WHERE repository = ?1 AND tag = ?2", [repository, reference])?
        };
        if n == 0 {
            return Err(Error::manifest_unknown(format!("manifest unknown: {repository}:{reference}")));
        }
        tx.commit()?;
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

    /// Repositories with manifests, after `last`, sorted, at most `limit`.
    pub fn repositories(&self, last: &str, limit: u64) -> Result<Vec<String>> {
        let db = self.db.lock();
        let sql =
            "SELECT DISTINCT repository FROM manifests WHERE repository > ?1 ORDER BY repository LIMIT ?2";
        let mut statement = db.prepare_cached(sql)?;
        let rows = statement.query_map(params![last, clamp(limit)], |r| r.get(0))?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }

    /// The manifests whose subject is `digest`.
    pub fn referrers(&self, repository: &str, digest: &Digest) -> Result<Vec<Referrer>> {
        let db = self.db.lock();
        let sql = "SELECT digest, media_type, length(content), artifact_type, annotations FROM manifests
                   WHERE repository = ?1 AND subject = ?2 ORDER BY digest";
        let mut statement = db.prepare_cached(sql)?;
        let rows = statement.query_map([repository, digest.as_str()], |r| {
            Ok(Referrer {
                digest: r.get(0)?,
                media_type: r.get(1)?,
                size: r.get::<_, i64>(2)?.max(0) as u64,
                artifact_type: r.get(3)?,
                annotations: r.get(4)?,
            })
        })?;
        Ok(rows.collect::<std::result::Result<_, _>>()?)
    }
}

fn clamp(limit: u64) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
