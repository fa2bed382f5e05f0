//! Collection: blobs that no manifest of their repository names go after a while, and their files with the last row.

use std::collections::HashSet;
use std::time::Duration;

use super::Storage;
use crate::digest::Digest;
use crate::error::Result;
use crate::manifest::Outline;

/// How long a blob may wait for its manifest: a push sends, or finds, its blobs first.
pub(crate) const GRACE: Duration = Duration::from_secs(3600);

impl Storage {
    /// Removes what nobody refers to and nobody has had to do with for `grace`. Returns how many blobs went. Blocking.
    pub fn collect(&self, grace: Duration) -> Result<u64> {
        self.forget_idle_uploads()?;
        self.touched.lock().retain(|_, at| at.elapsed() <= grace);
        if self.since.elapsed() < grace {
            // What was touched before this process began is not known.
            return Ok(0);
        }
        let repositories: Vec<String> = {
            let db = self.db.lock();
            let mut statement = db.prepare("SELECT DISTINCT repository FROM repository_blobs")?;
            statement.query_map([], |r| r.get(0))?.collect::<std::result::Result<_, _>>()?
        };
        let mut removed = 0;
        for repository in repositories {
            removed += self.collect_repository(&repository)?;
        }
        Ok(removed)
    }

    /// One repository under one lock, so that no manifest comes between looking and removing.
    fn collect_repository(&self, repository: &str) -> Result<u64> {
        let db = self.db.lock();
        let mut named: HashSet<String> = HashSet::new();
        let mut statement = db.prepare_cached("SELECT content FROM manifests WHERE repository = ?1")?;
        let mut rows = statement.query([repository])?;
        while let Some(row) = rows.next()? {
            let content: Vec<u8> = row.get(0)?;
            // What was stored was parsed before; what cannot be any more keeps nothing, and is no reason to stop.
            if let Ok(outline) = Outline::parse(&content) {
                named.extend(outline.named().map(Into::into));
            }
        }
        let mut statement = db.prepare_cached("SELECT digest FROM repository_blobs WHERE repository = ?1")?;
        let blobs: Vec<String> =
            statement.query_map([repository], |r| r.get(0))?.collect::<std::result::Result<_, _>>()?;
        let mut removed = 0;
        for digest in blobs {
            let waits = || self.touched.lock().contains_key(&(repository.to_string(), digest.clone()));
            if !named.contains(&digest) && !waits() {
                self.unlink(&db, repository, &Digest::parse(&digest)?)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Quota, Storage, Stored};
    use super::*;
    use crate::digest::Hasher;
    use crate::manifest::About;

    fn put(storage: &Storage, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        let id = storage.begin("a", Hasher::sha256()).unwrap();
        let upload = storage.upload(&id).unwrap();
        let mut upload = upload.blocking_lock();
        upload.append(content).unwrap();
        storage.finish(&id, &mut upload, &digest).unwrap();
        digest
    }

    #[test]
    fn takes_what_no_manifest_names() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path(), Quota::default()).unwrap();
        let (kept, loose) = (put(&storage, b"kept"), put(&storage, b"loose"));
        let content =
            format!(r#"{{"schemaVersion":2,"config":{{"digest":"{kept}"}},"layers":null}}"#).into_bytes();
        let manifest =
            Stored { digest: Digest::of(&content), media_type: "m".into(), content: content.clone() };
        storage
            .put_manifest("a", &manifest, &About::default(), std::slice::from_ref(&kept), &["1".into()])
            .unwrap();
        assert_eq!(storage.collect(GRACE).unwrap(), 0, "it may still wait for its manifest");
        assert_eq!(storage.collect(Duration::ZERO).unwrap(), 1);
        assert!(storage.blob("a", &loose).is_err() && storage.blob("a", &kept).is_ok());
        storage.delete_manifest("a", manifest.digest.as_str()).unwrap();
        assert_eq!(storage.collect(Duration::ZERO).unwrap(), 1);
        assert!(storage.blob("a", &kept).is_err());
        assert_eq!(std::fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 0);
        assert!(matches!(Storage::open(dir.path(), Quota::default()), Err(crate::Error::Configuration(_))));
    }
}
