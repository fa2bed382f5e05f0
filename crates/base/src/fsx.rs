//! Durable changes of files: write, fsync, rename, fsync the folder. A crash between any two steps leaves
//! either the old content or the new one, and at most a `.tmp-…` file that start-up removes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// Replaces the file `path` with `bytes`, durably and atomically; `mode` are its permission bits.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = stage(path, bytes, mode, true)?;
    fs::rename(&temporary, path)?;
    fsync_dir(parent(path))
}

/// As `write_atomic`, but without the two fsyncs: for files that need no more than not to be seen half
/// written, because what they say is lost with a reboot anyway (everything below the run folder).
pub fn write_volatile(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = stage(path, bytes, mode, false)?;
    fs::rename(&temporary, path)
}

fn stage(path: &Path, bytes: &[u8], mode: u32, sync: bool) -> io::Result<std::path::PathBuf> {
    let temporary = parent(path).join(format!(".tmp-{}-{}", std::process::id(), crate::rng::hex(8)));
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(bytes)?;
        if sync { file.sync_all() } else { Ok(()) }
    };
    write().inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })?;
    Ok(temporary)
}

/// Makes a folder, with those above it, that no other user of the machine can look into or go through; one that is there
/// becomes so.
pub fn private_dir(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o710))
}

/// Makes renames and creations inside `dir` durable.
pub fn fsync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes what an interrupted `write_atomic` left in `dir`, but not what another process is writing at this moment.
pub fn remove_leftovers(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|n| n.strip_prefix(".tmp-")) else { continue };
        let writer: Option<u32> = rest.split('-').next().and_then(|pid| pid.parse().ok());
        let writes = |pid: u32| pid != std::process::id() && Path::new(&format!("/proc/{pid}")).exists();
        if writer.is_some_and(writes) {
            continue;
        }
        match fs::remove_file(entry.path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_and_cleans() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        write_atomic(&file, b"one", 0o600).unwrap();
        write_atomic(&file, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        fs::write(dir.path().join(".tmp-x"), b"half").unwrap();
        fs::write(dir.path().join(format!(".tmp-{}-x", std::process::id())), b"half").unwrap();
        let others = dir.path().join(".tmp-1-x");
        fs::write(&others, b"being written").unwrap();
        remove_leftovers(dir.path()).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        assert!(others.exists());
    }
}
