//! `tug df`: what an instance's data folder takes of the disk, as du(1) counts it: blocks, each file once whatever its
//! names, on this file system alone.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

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
    let mut used = BTreeMap::new();
    let top = fs::symlink_metadata(root)?;
    let mut seen = HashSet::new();
    *used.entry(REST).or_default() += top.blocks() * 512;
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            // Gone since it was listed: the instance works on.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let path = entry?.path();
            let Ok(m) = fs::symlink_metadata(&path) else { continue };
            if m.dev() != top.dev() {
                continue;
            }
            if m.is_dir() {
                folders.push(path.clone());
            } else if m.nlink() > 1 && !seen.insert(m.ino()) {
                continue;
            }
            let inside = path.strip_prefix(root).unwrap_or(&path);
            let part = PARTS.iter().find(|(_, places)| places.iter().any(|p| inside.starts_with(p)));
            *used.entry(part.map_or(REST, |(name, _)| name)).or_default() += m.blocks() * 512;
        }
    }
    Ok(used)
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
