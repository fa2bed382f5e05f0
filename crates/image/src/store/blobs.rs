//! Compressed layers as registries sent them: kept so that a pull that broke goes on where it was, also after a restart,
//! and so that what was pulled is pushed on byte for byte.
//!
//! A download grows in `blobs/partial` under its digest. When all of it is there and verified it moves to `blobs`, where
//! a row names it; without a row the next attempt goes on with it, and it is gone after the next start. Whoever writes holds the digest's gate.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::ImageStore;
use crate::archive::Room;
use crate::error::{Error, Result};

/// A download of fewer bytes is not worth going on with.
const WORTH: u64 = 64 << 10;

/// The place of a blob below a folder: `sha256/HEX`.
pub(super) fn place(digest: &str) -> PathBuf {
    let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha256", digest));
    PathBuf::from(algorithm).join(hex)
}

/// A download, as far as it has come. Unless it is kept, what is worth it stays for the next attempt.
pub(crate) struct Download {
    file: File,
    room: Room,
    path: PathBuf,
    /// Where it goes when it is whole.
    whole: PathBuf,
    have: u64,
    ended: bool,
    _turn: OwnedMutexGuard<()>,
}

impl Download {
    /// Bytes that are here.
    pub fn have(&self) -> u64 {
        self.have
    }

    /// Forgets what came: it is not what it should be.
    pub fn start_over(&mut self) -> Result<()> {
        self.file.set_len(0).map_err(Error::file("empty", &self.path))?;
        self.have = 0;
        Ok(())
    }

    /// Keeps the whole blob. It is brought to the disk before a row names it: here, or with a layer that is new, for which
    /// its image does so.
    pub fn keep(mut self, with_new_layer: bool) -> Result<()> {
        if !with_new_layer {
            self.file.sync_all().map_err(Error::file("write", &self.path))?;
        }
        if let Some(parent) = self.whole.parent() {
            fs::create_dir_all(parent).map_err(Error::file("make the folder", parent))?;
        }
        fs::rename(&self.path, &self.whole).map_err(Error::file("move the blob to", &self.whole))?;
        self.ended = true;
        Ok(())
    }

    /// What is here, followed by what `rest` gives, which is written behind it.
    pub fn reader<'a, R: Read>(&'a mut self, rest: &'a mut R) -> Replay<'a, R> {
        let have = self.have;
        Replay { download: self, rest, at: 0, replayed: have }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if !self.ended
            && self.have < WORTH
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(%error, path = %self.path.display(), "a broken download stays");
        }
    }
}

/// See [`Download::reader`].
pub(crate) struct Replay<'a, R> {
    download: &'a mut Download,
    rest: &'a mut R,
    at: u64,
    replayed: u64,
}

impl<R: Read> Read for Replay<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at < self.replayed {
            let most = usize::try_from(self.replayed - self.at).unwrap_or(usize::MAX).min(buf.len());
            let n = self.download.file.read_at(&mut buf[..most], self.at)?;
            if n == 0 && most > 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a download has become shorter"));
            }
            self.at += n as u64;
            return Ok(n);
        }
        let n = self.rest.read(buf)?;
        self.download.room.take(&self.download.file, n as u64)?;
        self.download.file.write_all_at(&buf[..n], self.download.have)?;
        self.download.have += n as u64;
        Ok(n)
    }
}

impl ImageStore {
    pub(super) fn partial_dir(&self) -> PathBuf {
        self.root.join("blobs/partial")
    }

    pub(super) fn blob_path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs").join(place(digest))
    }

    /// Waits for its turn with what a digest names: one at a time works at it.
    pub(crate) async fn turn(&self, digest: &str) -> OwnedMutexGuard<()> {
        let gate = {
            let mut gates = self.pulls.lock();
            // Whoever waits or works holds the gate too.
            gates.retain(|_, gate| Arc::strong_count(gate) > 1);
            gates.entry(digest.to_string()).or_default().clone()
        };
        gate.lock_owned().await
    }

    /// As `turn`, if nobody is at it. On a blocking thread.
    pub(super) fn try_turn(&self, digest: &str) -> Option<OwnedMutexGuard<()>> {
        let gate = self.pulls.lock().entry(digest.to_string()).or_default().clone();
        gate.try_lock_owned().ok()
    }

    /// The download of a blob, with what an earlier attempt left: a part, or all of it, where the rest of its image did
    /// not come. The turn is the blob's.
    pub(crate) fn download(&self, digest: &str, turn: OwnedMutexGuard<()>) -> Result<Download> {
        let path = self.partial_dir().join(place(digest));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(Error::file("make the folder", parent))?;
        }
        let whole = self.blob_path(digest);
        if !path.exists() && whole.exists() && !self.is_named(digest)? {
            fs::rename(&whole, &path).map_err(Error::file("go on with", &whole))?;
        }
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(Error::file("open", &path))?;
        let have = file.metadata()?.len();
        let room = Room::new(&file)?;
        Ok(Download { file, room, path, whole, have, ended: false, _turn: turn })
    }

    /// A file without a name, for what is to be read when it is here: as long as the disk has room.
    pub(crate) fn spooled(&self, mut source: impl Read) -> Result<File> {
        let mut file = tempfile::tempfile_in(self.partial_dir())?;
        let mut room = Room::new(&file)?;
        let mut piece = vec![0; 128 << 10];
        loop {
            let n = source.read(&mut piece)?;
            if n == 0 {
                break;
            }
            room.take(&file, n as u64)?;
            file.write_all(&piece[..n])?;
        }
        file.rewind()?;
        Ok(file)
    }

    /// Whether a row names a blob that is kept, or soon will, because its layer has come. The turn is the blob's.
    fn is_named(&self, digest: &str) -> Result<bool> {
        let brought = self.forms.lock().get(digest).cloned();
        if brought.is_some_and(|(_, layer)| self.index.read().layers.contains_key(&layer)) {
            return Ok(true);
        }
        let named = "SELECT 1 FROM layer_blobs WHERE digest = ?1 AND stored = 1";
        Ok(self.db.lock().prepare_cached(named)?.exists([digest])?)
    }

    /// Removes the file of a blob, unless a row names it or somebody is bringing it; its bytes. Blocking.
    pub(super) fn drop_blob(&self, digest: &str) -> Result<u64> {
        // Who is at it is about to write a row; if nothing comes of it, the next start finds the file.
        let Some(_turn) = self.try_turn(digest) else { return Ok(0) };
        if self.is_named(digest)? {
            return Ok(0);
        }
        let path = self.blob_path(digest);
        let size = fs::symlink_metadata(&path).map_or(0, |m| m.len());
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
            _ => Ok(size),
        }
    }

    /// Removes those of these blobs that no row names. Blocking.
    pub(crate) fn forget_unnamed(&self, digests: &[String]) {
        for digest in digests {
            if let Err(error) = self.drop_blob(digest) {
                tracing::debug!(%error, digest, "a blob that nothing names stays until the next start");
            }
        }
    }

    /// A blob that is kept, with its size; `None` if it is not here any more.
    pub(crate) fn open_blob(&self, digest: &str) -> Result<Option<(File, u64)>> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => {
                let size = file.metadata()?.len();
                Ok(Some((file, size)))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::file("open", path)(e)),
        }
    }

    /// Every file of blobs with its digest: whole ones, or what broken downloads left.
    pub(super) fn blob_files(&self, partial: bool) -> Result<Vec<(String, PathBuf)>> {
        let base = if partial { self.partial_dir() } else { self.root.join("blobs") };
        let mut found = Vec::new();
        for algorithm in ["sha256", "sha384", "sha512"] {
            let dir = base.join(algorithm);
            let entries = match fs::read_dir(&dir) {
                Ok(entries) => entries,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(Error::file("read the folder", dir)(e)),
            };
            for entry in entries {
                let entry = entry?;
                found.push((format!("{algorithm}:{}", entry.file_name().to_string_lossy()), entry.path()));
            }
        }
        Ok(found)
    }
}
