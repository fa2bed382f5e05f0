//! Blobs on their way in.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use image::archive::Room;
use tokio::time::Instant;

use super::ledger::{Ledger, Share};
use super::{Storage, has_blob, is_used};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};

/// An upload that nobody has added to for so long is forgotten.
const IDLE: Duration = Duration::from_secs(24 * 3600);
/// The most uploads that may be under way: each costs a little memory and a file, and begins without a byte.
const MOST: usize = 10_000;

/// An upload under way.
pub(crate) struct Upload {
    pub repository: String,
    pub length: u64,
    /// What it counts for in the ledger: what has come, or, where its length is known, all that will come.
    counted: u64,
    room: Room,
    /// Open only while a request adds to it: uploads that nobody goes on with hold no descriptor.
    file: Option<File>,
    path: PathBuf,
    hash: Hasher,
    touched: Instant,
    /// Finished or cancelled: whoever still holds it must not write any more, the file is a blob now.
    ended: bool,
    /// Where its bytes are counted as they come.
    ledger: Arc<Ledger>,
}

impl Upload {
    /// The file, at its end.
    fn file(&mut self) -> io::Result<&mut File> {
        let file = match self.file.take() {
            Some(file) => file,
            None => {
                let mut file = File::options().read(true).write(true).open(&self.path)?;
                file.seek(SeekFrom::Start(self.length))?;
                file
            }
        };
        Ok(self.file.insert(file))
    }

    /// Another descriptor of the file, which reads what is and what will be there, also when it is a blob.
    pub fn reader(&self) -> Result<File> {
        Ok(File::open(&self.path)?)
    }

    /// Lets go of the file until somebody adds to it again.
    pub fn rest(&mut self) {
        self.file = None;
    }

    /// Appends bytes. Blocking.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let length = self.length + bytes.len() as u64;
        let more = length.saturating_sub(self.counted);
        self.ledger.take(&self.repository, Share::both(more))?;
        self.counted += more;
        if let Err(e) = self.write(bytes) {
            self.count_only(self.counted - more);
            return Err(e.into());
        }
        self.hash.update(bytes);
        self.length = length;
        self.touched = Instant::now();
        Ok(())
    }

    /// Counts for so much from now on, which is no more than before.
    fn count_only(&mut self, bytes: u64) {
        self.ledger.give_back(&self.repository, Share::both(self.counted.saturating_sub(bytes)));
        self.counted = bytes;
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file()?;
        let Some(file) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        self.room.take(&*file, bytes.len() as u64)?;
        file.write_all(bytes)
    }

    /// Takes back what was appended after `length`, because the request broke off.
    pub fn rewind(&mut self, length: u64, hash: Hasher) -> io::Result<()> {
        self.count_only(length);
        (self.length, self.hash) = (length, hash);
        self.rest();
        // Opened anew, it stands at the length.
        self.file()?.set_len(length)?;
        Ok(())
    }

    /// The digest of what is there so far.
    pub fn hash(&self) -> Hasher {
        self.hash.clone()
    }

    /// Refuses to go on with what has ended meanwhile.
    pub fn check(&self) -> Result<()> {
        if self.ended { Err(Error::upload_unknown("this blob upload has ended")) } else { Ok(()) }
    }
}

fn unknown(id: &str) -> Error {
    Error::upload_unknown(format!("blob upload {id} unknown to registry"))
}

impl Storage {
    /// Begins an upload, which will be digested as `hash` does; returns its id.
    pub fn begin(&self, repository: &str, hash: Hasher) -> Result<String> {
        self.begin_counted(repository, hash, 0)
    }

    /// Begins an upload of so many bytes, for which room is made and which count from now on; `None` if there is no room.
    /// Blocking.
    pub fn begin_whole(&self, repository: &str, hash: Hasher, length: u64) -> Result<Option<String>> {
        if !self.make_room(repository, length)? {
            return Ok(None);
        }
        match self.begin_counted(repository, hash, length) {
            // Others have taken the room meanwhile.
            Err(e) if e.is_full() => Ok(None),
            begun => begun.map(Some),
        }
    }

    fn begin_counted(&self, repository: &str, hash: Hasher, counted: u64) -> Result<String> {
        let share = Share::both(counted);
        self.ledger.take(repository, share)?;
        self.make_upload(repository, hash, counted).inspect_err(|_| self.ledger.give_back(repository, share))
    }

    fn make_upload(&self, repository: &str, hash: Hasher, counted: u64) -> Result<String> {
        let id = base::rng::uuid();
        self.make_place()?;
        let path = self.root.join("uploads").join(&id);
        let file = File::options().write(true).create_new(true).open(&path)?;
        let upload = Upload {
            repository: repository.into(),
            length: 0,
            counted,
            room: Room::new(&file)?,
            file: None,
            path,
            hash,
            touched: Instant::now(),
            ended: false,
            ledger: self.ledger.clone(),
        };
        self.uploads.lock().insert(id.clone(), Arc::new(tokio::sync::Mutex::new(upload)));
        Ok(id)
    }

    /// Where as many uploads are under way as may be: forgets the one that nobody has gone on with for longest, so that
    /// nobody can keep the others out by beginning some.
    fn make_place(&self) -> Result<()> {
        let all: Vec<_> = {
            let uploads = self.uploads.lock();
            if uploads.len() < MOST {
                return Ok(());
            }
            uploads.iter().map(|(id, upload)| (id.clone(), upload.clone())).collect()
        };
        // One that is locked is being written to.
        let resting = all.iter().filter_map(|(id, upload)| Some((upload.try_lock().ok()?, id)));
        match resting.min_by_key(|(upload, _)| upload.touched) {
            Some((mut upload, id)) => self.cancel(id, &mut upload),
            None => Err(Error::too_many(format!(
                "{MOST} uploads are under way: end or cancel some, or try again later"
            ))),
        }
    }

    /// An upload of this repository.
    pub fn upload(&self, id: &str) -> Result<Arc<tokio::sync::Mutex<Upload>>> {
        self.uploads.lock().get(id).cloned().ok_or_else(|| unknown(id))
    }

    /// Forgets an upload. Blocking.
    pub fn cancel(&self, id: &str, upload: &mut Upload) -> Result<()> {
        self.uploads.lock().remove(id).ok_or_else(|| unknown(id))?;
        upload.ended = true;
        upload.count_only(0);
        Ok(fs::remove_file(&upload.path)?)
    }

    /// Ends an upload: its content must have the digest. Blocking; durable when it returns.
    pub fn finish(&self, id: &str, upload: &mut Upload, digest: &Digest) -> Result<()> {
        upload.check()?;
        let have = if upload.hash.makes(digest) {
            upload.hash.clone().finish()
        } else {
            let mut hash = digest.hasher();
            let mut file = File::open(&upload.path)?;
            let mut buf = vec![0u8; 256 * 1024];
            loop {
                match file.read(&mut buf)? {
                    0 => break,
                    n => hash.update(&buf[..n]),
                }
            }
            hash.finish()
        };
        // Whatever comes of it, the upload is over: its client begins again.
        let done = self.keep(upload, &have, digest);
        upload.ended = true;
        upload.rest();
        self.uploads.lock().remove(id);
        upload.count_only(if done.is_ok() { upload.length } else { 0 });
        if done.is_err() {
            match fs::remove_file(&upload.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(error = %e, "a failed upload stays until the next start");
                }
                _ => {}
            }
        }
        done
    }

    fn keep(&self, upload: &mut Upload, have: &Digest, digest: &Digest) -> Result<()> {
        if have != digest {
            return Err(Error::digest_invalid(format!(
                "provided digest did not match uploaded content: {digest} was said, {have} came"
            )));
        }
        upload.file()?.sync_data()?;
        let to = self.blob_path(digest);
        // Under the lock: a deletion must not take the file between the renaming and the row.
        let db = self.db.lock();
        // What was here before has been counted before.
        let (length, repository) = (upload.length, &upload.repository);
        let twice = Share {
            total: if is_used(&db, digest.as_str())? { length } else { 0 },
            repository: if has_blob(&db, repository, digest)? { length } else { 0 },
        };
        fs::rename(&upload.path, &to)?;
        base::fsx::fsync_dir(to.parent().unwrap_or(&self.root))?;
        self.link(&db, repository, digest, length)?;
        self.ledger.give_back(repository, twice);
        Ok(())
    }

    /// Forgets uploads that nobody goes on with. Blocking.
    pub(super) fn forget_idle_uploads(&self) -> Result<()> {
        let all: Vec<_> = self.uploads.lock().iter().map(|(id, u)| (id.clone(), u.clone())).collect();
        for (id, upload) in all {
            // One that is locked is being written to.
            if let Ok(mut upload) = upload.try_lock()
                && upload.touched.elapsed() > IDLE
            {
                self.cancel(&id, &mut upload)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upload_that_rested_longest_makes_place() {
        let dir = tempfile::tempdir().unwrap();
        let storage = Storage::open(dir.path(), super::super::Quota::default()).unwrap();
        let ids: Vec<_> = (0..MOST).map(|_| storage.begin("a", Hasher::sha256()).unwrap()).collect();
        // The first one is being written to, the second has just been.
        let first = storage.upload(&ids[0]).unwrap();
        let first = first.try_lock().unwrap();
        storage.upload(&ids[1]).unwrap().try_lock().unwrap().append(b"x").unwrap();
        storage.begin("b", Hasher::sha256()).unwrap();
        assert!(storage.upload(&ids[2]).is_err());
        assert!(storage.upload(&ids[0]).is_ok() && storage.upload(&ids[1]).is_ok());
        assert_eq!(fs::read_dir(dir.path().join("uploads")).unwrap().count(), MOST);
        drop(first);
    }
}
