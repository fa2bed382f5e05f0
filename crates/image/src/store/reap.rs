//! Removing folders without making anybody wait: they are moved aside at once, and removed by a thread of their own.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::ImageStore;
use super::snapshots::remove_tree;
use crate::error::{Error, Result};

fn move_aside(root: &Path, path: &Path) -> Result<()> {
    match fs::rename(path, root.join("dead").join(base::rng::hex(8))) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
        _ => Ok(()),
    }
}

/// At start: moves a folder aside, to be removed in the background. What cannot be stays, and stops nobody.
pub(super) fn bury(root: &Path, path: &Path) {
    if let Err(error) = move_aside(root, path) {
        tracing::warn!(%error, "it stays until the next start");
    }
}

impl ImageStore {
    /// Collects layers in the background: what they were unpacked for failed or was given up, so that nobody else will.
    pub(super) fn collect_soon(self: &Arc<Self>) {
        if self.collecting.swap(true, Ordering::AcqRel) {
            return;
        }
        let store = Arc::downgrade(self);
        let collecting = move || {
            let Some(store) = store.upgrade() else { return };
            store.collecting.store(false, Ordering::Release);
            if let Err(error) = store.collect_layers() {
                tracing::warn!(%error, "layers that nobody needs stay until the next collection");
            }
        };
        if let Err(error) = std::thread::Builder::new().name("image-collector".into()).spawn(collecting) {
            self.collecting.store(false, Ordering::Release);
            tracing::warn!(%error, "layers that nobody needs stay until the next collection");
        }
    }

    /// Moves a folder aside; after a crash it is removed by the next start. One that is not there is no error.
    pub(super) fn bury(&self, path: &Path) -> Result<()> {
        move_aside(&self.root, path)
    }

    /// Removes what was buried, in the background.
    pub(super) fn reap(&self) {
        let (dead, turn) = (self.root.join("dead"), self.reaper.clone());
        let reaping = move || {
            let _turn = turn.lock();
            // Whoever pulls or builds meanwhile goes first.
            if let Err(error) = rustix::process::setpriority_process(None, 19) {
                tracing::debug!(%error, "removing at the usual priority");
            }
            let entries = fs::read_dir(&dead).into_iter().flatten().filter_map(io::Result::ok);
            for entry in entries {
                if let Err(error) = remove_tree(&entry.path()) {
                    tracing::warn!(%error, "it stays until the next start");
                }
            }
        };
        if let Err(error) = std::thread::Builder::new().name("image-reaper".into()).spawn(reaping) {
            tracing::warn!(%error, "what was removed stays on the disk until the next removal");
        }
    }

    /// Before much is written to a disk that is nearly full: lets what is being removed make room first.
    pub(super) fn await_room(&self) -> Result<()> {
        let disk = rustix::fs::statvfs(&self.root)?;
        if disk.f_bavail < disk.f_blocks / 8 || (disk.f_files > 0 && disk.f_favail < disk.f_files / 8) {
            drop(self.reaper.lock());
        }
        Ok(())
    }
}
