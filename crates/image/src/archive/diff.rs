//! What a snapshot's own folder changes in the layers below it.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Stat};
use sys::tree;

use super::extract::proc_path;
use super::overlay::{is_opaque, is_whiteout};
use super::pack::within_limit;
use crate::error::{Error, Result};
use crate::types::{Change, ChangeKind};

/// Every path that `upper` changes, sorted.
pub(crate) fn changes(upper: &Path, lower: &[PathBuf]) -> Result<Vec<Change>> {
    let mut differ = Differ { lower, path: PathBuf::new(), folders: Vec::new(), out: Vec::new() };
    let top = tree::folder(CWD, upper).map_err(Error::file("read the folder", upper))?;
    tree::walk(top, &mut differ).map_err(Error::file("read the folder", upper))?;
    differ.out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(differ.out)
}

/// Whether the folder has nothing in it.
pub(crate) fn is_empty(upper: &Path) -> Result<bool> {
    Ok(fs::read_dir(upper).map_err(Error::file("read the folder", upper))?.next().is_none())
}

/// Bytes in the folder's files, each inode once.
pub(crate) fn usage(upper: &Path) -> Result<u64> {
    let size = |stat: &Stat| match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => 0,
        _ => stat.st_size.max(0) as u64,
    };
    measure(upper, &size).map_err(Error::file("read the folder", upper))
}

/// What `size` says of everything below a folder, each inode once. What goes meanwhile does not count.
pub(crate) fn measure(folder: &Path, size: &dyn Fn(&Stat) -> u64) -> io::Result<u64> {
    let mut measure = Measure { size, seen: HashSet::new(), sum: 0 };
    tree::walk(tree::folder(CWD, folder)?, &mut measure)?;
    Ok(measure.sum)
}

struct Measure<'a> {
    size: &'a dyn Fn(&Stat) -> u64,
    seen: HashSet<(u64, u64)>,
    sum: u64,
}

impl tree::Visitor for Measure<'_> {
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if is_dir || stat.st_nlink < 2 || self.seen.insert((stat.st_dev, stat.st_ino)) {
            self.sum += (self.size)(&stat);
        }
        is_dir.then(|| tree::folder(parent, name)).transpose()
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &OsStr) -> io::Result<()> {
        Ok(())
    }
}

struct Differ<'a> {
    lower: &'a [PathBuf],
    /// The folder that is being read, inside the upper one.
    path: PathBuf,
    /// What was found of it and of those above it, and whether something in them was changed.
    folders: Vec<(Option<ChangeKind>, bool)>,
    out: Vec<Change>,
}

impl Differ<'_> {
    fn found(&mut self, path: &Path, kind: ChangeKind) {
        if let Some((_, inside)) = self.folders.last_mut() {
            *inside = true;
        }
        self.out.push(Change { path: format!("/{}", path.to_string_lossy()), kind });
    }
}

impl tree::Visitor for Differ<'_> {
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
        let m = fs::symlink_metadata(proc_path(parent, Some(name)))?;
        let child = self.path.join(name);
        within_limit(child.as_os_str().len())?;
        let below = find(self.lower, &child);
        let kind = match &below {
            _ if is_whiteout(&m) => Some(ChangeKind::Deleted),
            None => Some(ChangeKind::Added),
            // A folder is copied up for what is in it; it is changed itself only if its attributes differ.
            Some(b) if m.is_dir() && b.is_dir() && same_folder(&m, b) => None,
            Some(_) => Some(ChangeKind::Modified),
        };
        // A whiteout of what is not there any more says nothing.
        let kind = kind.filter(|k| *k != ChangeKind::Deleted || below.is_some());
        if m.is_dir() {
            let dir = tree::folder(parent, name)?;
            self.folders.push((kind, false));
            self.path = child;
            return Ok(Some(dir));
        }
        if let Some(kind) = kind {
            self.found(&child, kind);
        }
        Ok(None)
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &OsStr) -> io::Result<()> {
        let folder = std::mem::take(&mut self.path);
        self.path = folder.parent().unwrap_or(Path::new("")).to_path_buf();
        let (kind, inside) = self.folders.pop().unwrap_or_default();
        if let Some(kind) = kind.or(inside.then_some(ChangeKind::Modified)) {
            self.found(&folder, kind);
        }
        Ok(())
    }
}

fn same_folder(a: &Metadata, b: &Metadata) -> bool {
    (a.mode(), a.uid(), a.gid(), a.mtime(), a.mtime_nsec())
        == (b.mode(), b.uid(), b.gid(), b.mtime(), b.mtime_nsec())
}

/// What the merged lower layers (top first) have at `path`.
fn find(lower: &[PathBuf], path: &Path) -> Option<Metadata> {
    'layers: for layer in lower {
        let mut at = layer.clone();
        let mut last = None;
        let mut covered = false;
        for part in path.components() {
            at.push(part);
            let Ok(m) = fs::symlink_metadata(&at) else {
                if covered {
                    return None;
                }
                continue 'layers;
            };
            if is_whiteout(&m) {
                return None;
            }
            if m.is_dir() && is_opaque(&at) {
                covered = true;
            }
            let is_dir = m.is_dir();
            last = Some(m);
            if !is_dir && at != layer.join(path) {
                return None;
            }
        }
        return last;
    }
    None
}
