//! The folder between an image and a writable layer: what a container finds mounted although its image has no place for
//! it. Made once per stack of layers, so that mount points are neither a difference of a container nor in a commit.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use super::{ImageStore, snapshots::remove_tree};
use crate::archive::{overlay, root};
use crate::error::{Error, Result};

/// Folders, files and the one link that every container has.
const FOLDERS: [&str; 6] = ["/dev", "/dev/pts", "/dev/shm", "/proc", "/sys", "/etc"];
const FILES: [&str; 4] = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/dev/console"];
const MTAB: (&str, &str) = ("/etc/mtab", "/proc/mounts");

impl ImageStore {
    /// The init folder above these layers (names, top first): its name below `layers`. Blocking.
    pub(super) fn init_layer(&self, lower: &[String]) -> Result<Option<String>> {
        let Some(top) = lower.first() else { return Ok(None) };
        let key = crate::archive::compress::digest_of(lower.join(":").as_bytes());
        let name = format!("{top}/init-{}", crate::types::short(&key));
        let dir = self.layers_dir().join(&name);
        if dir.is_dir() {
            return Ok(Some(name));
        }
        let temporary = self.layers_dir().join(format!("{top}/.tmp-{}", base::rng::hex(8)));
        let result = self.fill(lower, &temporary).and_then(|()| {
            match fs::rename(temporary.join("fs"), &dir) {
                // Somebody was faster with the same.
                Err(_) if dir.is_dir() => Ok(()),
                other => other,
            }
        });
        remove_tree(&temporary)?;
        result.map_err(Error::file("make the folder", &dir))?;
        self.unmeasured(top);
        Ok(Some(name))
    }

    fn fill(&self, lower: &[String], temporary: &Path) -> io::Result<()> {
        let (upper, work) = (temporary.join("fs"), temporary.join("work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir(&work)?;
        let folders: Vec<_> = lower.iter().map(|l| self.layers_dir().join(l).join("fs")).collect();
        let merged = overlay::mount(&folders, Some((&upper, &work)))?;
        let missing = |path: &str| root::stat(merged.as_fd(), Path::new(path), false).is_err();
        let make = |path: &str| -> io::Result<()> {
            if FOLDERS.contains(&path) {
                return root::make_dirs(merged.as_fd(), Path::new(path), 0o755, (0, 0)).map(|_| ());
            }
            let (parent, name) = root::open_parent(merged.as_fd(), Path::new(path))?;
            let name = name.unwrap_or_default();
            if path == MTAB.0 {
                return Ok(rustix::fs::symlinkat(MTAB.1, &parent, name)?);
            }
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            Ok(rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644)).map(|_| ())?)
        };
        for path in FOLDERS.iter().chain(&FILES).chain([&MTAB.0]).filter(|p| missing(p)) {
            match make(path) {
                // An image with a file where a folder belongs: whoever mounts there says so.
                Err(e) if matches!(e.kind(), io::ErrorKind::NotADirectory | io::ErrorKind::NotFound) => {
                    tracing::debug!(path, error = %e, "no place for a mount");
                }
                other => other?,
            }
        }
        Ok(())
    }
}
