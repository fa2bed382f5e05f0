//! What a snapshot's own folder changes in the layers below it.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::overlay::{is_opaque, is_whiteout};
use crate::error::{Error, Result};
use crate::types::{Change, ChangeKind};

/// Every path that `upper` changes, sorted.
pub(crate) fn changes(upper: &Path, lower: &[PathBuf]) -> Result<Vec<Change>> {
    let mut out = Vec::new();
    walk(upper, Path::new(""), lower, &mut out)?;
    out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}

/// Whether the folder has nothing in it.
pub(crate) fn is_empty(upper: &Path) -> Result<bool> {
    Ok(fs::read_dir(upper).map_err(Error::file("read the folder", upper))?.next().is_none())
}

/// Bytes in the folder's files, each inode once.
pub(crate) fn usage(upper: &Path) -> Result<u64> {
    let mut seen = HashSet::new();
    let mut sum = 0;
    let mut stack = vec![upper.to_path_buf()];
    while let Some(dir) = stack.pop() {
        for entry in entries(&dir)? {
            let Ok(m) = fs::symlink_metadata(&entry) else { continue };
            if m.is_dir() {
                stack.push(entry);
            } else if m.nlink() < 2 || seen.insert((m.dev(), m.ino())) {
                sum += m.len();
            }
        }
    }
    Ok(sum)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(list) => Ok(list.filter_map(|e| e.ok().map(|e| e.path())).collect()),
        // Gone since it was listed.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(Error::file("read the folder", dir)(e)),
    }
}

/// Whether something below `path` was changed.
fn walk(upper: &Path, path: &Path, lower: &[PathBuf], out: &mut Vec<Change>) -> Result<bool> {
    let mut any = false;
    for entry in entries(&upper.join(path))? {
        let Ok(m) = fs::symlink_metadata(&entry) else { continue };
        let child = path.join(entry.file_name().unwrap_or_default());
        let below = find(lower, &child);
        let kind = match &below {
            _ if is_whiteout(&m) => Some(ChangeKind::Deleted),
            None => Some(ChangeKind::Added),
            // A folder is copied up for what is in it; it is changed itself only if its attributes differ.
            Some(b) if m.is_dir() && b.is_dir() && same_folder(&m, b) => None,
            Some(_) => Some(ChangeKind::Modified),
        };
        // A whiteout of what is not there any more says nothing.
        let kind = kind.filter(|k| *k != ChangeKind::Deleted || below.is_some());
        let inside = m.is_dir() && walk(upper, &child, lower, out)?;
        let kind = kind.or(inside.then_some(ChangeKind::Modified));
        if let Some(kind) = kind {
            any = true;
            out.push(Change { path: format!("/{}", child.to_string_lossy()), kind });
        }
    }
    Ok(any)
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
