//! `tug df`: what an instance's data folder takes of the disk, as du(1) counts it: blocks, each file once whatever its
//! names, on this file system alone.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, FileType};
use sys::tree;

use crate::options::Place;

/// What lies below which folders, in the order of the table.
const PARTS: [(&str, &[&str]); 7] = [
    ("image layers", &["images/layers", "images/blobs"]),
    ("containers' own files", &["images/snapshots"]),
    ("container records, logs", &["engine", "runtime", "kubelet"]),
    ("volumes", &["volumes"]),
    ("builds", &["build"]),
    ("registry", &["registry"]),
    ("cluster's objects", &["store"]),
];
const REST: &str = "everything else";

/// Runs `tug df`.
pub fn run(place: &Place) -> Result<ExitCode> {
    let root = std::path::absolute(&place.data_dir)?;
    let used = measure(&root).with_context(|| format!("data folder {}", root.display()))?;
    let total: u64 = used.values().sum();
    println!("{:<26} {:>12} {:>6}", root.display(), "used", "%");
    for name in PARTS.iter().map(|(name, _)| *name).chain([REST]) {
        let bytes = used.get(name).copied().unwrap_or(0);
        println!("{name:<26} {:>12} {:>6.1}", size(bytes), bytes as f64 * 100.0 / total.max(1) as f64);
    }
    println!("{:<26} {:>12}", "all", size(total));
    let disk = rustix::fs::statvfs(&root)?;
    println!("{:<26} {:>12}", "free on its disk", size(disk.f_bavail * disk.f_frsize));
    Ok(ExitCode::SUCCESS)
}

fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// Bytes by part.
fn measure(root: &Path) -> io::Result<BTreeMap<&'static str, u64>> {
    let top = fs::symlink_metadata(root)?;
    let used = BTreeMap::from([(REST, top.blocks() * 512)]);
    let mut measure = Measure { device: top.dev(), inside: PathBuf::new(), seen: HashSet::new(), used };
    tree::walk(tree::folder(rustix::fs::CWD, root)?, &mut measure)?;
    Ok(measure.used)
}

struct Measure {
    device: u64,
    /// The folder that is being read, below the root.
    inside: PathBuf,
    seen: HashSet<u64>,
    used: BTreeMap<&'static str, u64>,
}

impl tree::Visitor for Measure {
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_dev != self.device || !is_dir && stat.st_nlink > 1 && !self.seen.insert(stat.st_ino) {
            return Ok(None);
        }
        let inside = self.inside.join(name);
        let part = PARTS.iter().find(|(_, places)| places.iter().any(|p| inside.starts_with(p)));
        *self.used.entry(part.map_or(REST, |(name, _)| name)).or_default() += stat.st_blocks as u64 * 512;
        if !is_dir {
            return Ok(None);
        }
        let dir = tree::folder(parent, name)?;
        self.inside = inside;
        Ok(Some(dir))
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &OsStr) -> io::Result<()> {
        self.inside.pop();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_as_du_does() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("images/layers/a")).unwrap();
        fs::create_dir_all(root.join("volumes/v")).unwrap();
        fs::write(root.join("images/layers/a/f"), vec![1u8; 100_000]).unwrap();
        fs::hard_link(root.join("images/layers/a/f"), root.join("images/layers/a/g")).unwrap();
        fs::File::create(root.join("volumes/v/sparse")).unwrap().set_len(1 << 30).unwrap();
        fs::write(root.join("version"), "1").unwrap();
        // Deeper than any path is long.
        let mut deep = tree::folder(rustix::fs::CWD, root.join("images/layers/a")).unwrap();
        for _ in 0..30 {
            let name = "d".repeat(200);
            rustix::fs::mkdirat(&deep, &name, rustix::fs::Mode::RWXU).unwrap();
            deep = tree::folder(&deep, &name).unwrap();
        }
        let used = measure(root).unwrap();
        let du = std::process::Command::new("du").args(["-sxB1"]).arg(root).output().unwrap();
        let du: u64 = String::from_utf8_lossy(&du.stdout).split_whitespace().next().unwrap().parse().unwrap();
        assert_eq!(used.values().sum::<u64>(), du);
        assert!(used["image layers"] >= 100_000 && used["volumes"] < 100_000);
        assert_eq!(
            (size(999), size(1500), size(2_500_000_000)),
            ("999 B".into(), "1.5 kB".into(), "2.5 GB".into())
        );
    }
}
