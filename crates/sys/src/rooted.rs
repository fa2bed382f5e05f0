//! Paths inside a root that is not ours yet: every lookup is confined by openat2(RESOLVE_IN_ROOT), so that neither a
//! symbolic link nor `..` nor a race leads out of it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// What a created path shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// An empty file, to bind a file on.
    File,
}

/// Opens `path` inside `root`. Magic links (of /proc) are refused.
pub fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    open_with(root, path, flags, mode, ResolveFlags::IN_ROOT)
}

/// As [`open`], and no symbolic link at all may be on the way.
pub fn open_plain(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    open_with(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

/// As [`open`], but a link that leads out of `root`, as every absolute one does, is an error (`EXDEV`).
pub fn open_beneath(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    open_with(root, path, flags, Mode::empty(), ResolveFlags::BENEATH)
}

fn open_with(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = resolve | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Ok(fd) => return Ok(fd),
            Err(Errno::AGAIN | Errno::INTR) => {} // something was renamed meanwhile; the kernel asks to try again
            Err(e) => return Err(e.into()),
        }
    }
}

/// Opens `path` inside `root` as a place to mount on, making what is missing (folders with mode 0755).
pub fn ensure(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
    ensure_depth(root, path, kind, 0)
}

fn ensure_depth(root: BorrowedFd<'_>, path: &Path, kind: Kind, depth: u32) -> io::Result<OwnedFd> {
    match open(root, path, OFlags::PATH, Mode::empty()) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    if depth > 40 {
        return Err(Errno::LOOP.into());
    }
    let path = normal(path);
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return open(root, &path, OFlags::PATH, Mode::empty());
    };
    let folder = ensure_depth(root, parent, Kind::Folder, depth + 1)?;
    let made = match kind {
        Kind::Folder => rustix::fs::mkdirat(folder.as_fd(), name, Mode::from_raw_mode(0o755)),
        Kind::File => rustix::fs::openat(
            folder.as_fd(),
            name,
            OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::from_raw_mode(0o644),
        )
        .map(drop),
    };
    match made {
        Ok(()) => open(root, &path, OFlags::PATH, Mode::empty()),
        Err(Errno::EXIST) => {
            // A dangling link: make what it points at, still inside the root.
            let to = rustix::fs::readlinkat(folder.as_fd(), name, Vec::new())?;
            let to = PathBuf::from(std::ffi::OsString::from(to.to_string_lossy().into_owned()));
            let to = if to.is_absolute() { to } else { parent.join(to) };
            ensure_depth(root, &to, kind, depth + 1)
        }
        Err(e) => Err(e.into()),
    }
}

/// Without `.`, with `..` taken back; relative.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for c in path.components() {
        match c {
            Component::Normal(n) => out.push(n),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

/// Reads a file of at most `limit` bytes inside `root`; none if it is not there.
pub fn read(root: BorrowedFd<'_>, path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read;
    // Non-blocking, so that a FIFO planted there cannot hold us.
    let fd = match open(root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY, Mode::empty()) {
        Ok(fd) => fd,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut out = Vec::new();
    std::fs::File::from(fd).take(limit as u64).read_to_end(&mut out)?;
    Ok(Some(out))
}

/// Whether a descriptor is on a real procfs.
pub fn is_proc(fd: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(rustix::fs::fstatfs(fd)?.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        let root = rustix::fs::open(dir.path(), OFlags::PATH, Mode::empty()).unwrap();
        symlink(outside.path(), dir.path().join("abs")).unwrap();
        symlink("../../../../../../../..", dir.path().join("up")).unwrap();
        symlink("made/by/link", dir.path().join("dangling")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        ensure(root.as_fd(), Path::new("/a/b/c"), Kind::Folder).unwrap();
        assert!(dir.path().join("a/b/c").is_dir());
        ensure(root.as_fd(), Path::new("/a/x/file"), Kind::File).unwrap();
        assert!(dir.path().join("a/x/file").is_file());
        ensure(root.as_fd(), Path::new("/abs/evil"), Kind::Folder).unwrap();
        assert!(!outside.path().join("evil").exists());
        ensure(root.as_fd(), Path::new("/up/etc2"), Kind::Folder).unwrap();
        assert!(dir.path().join("etc2").is_dir());
        ensure(root.as_fd(), Path::new("/dangling/deep"), Kind::Folder).unwrap();
        assert!(dir.path().join("made/by/link/deep").is_dir());
        assert!(ensure(root.as_fd(), Path::new("/loop/x"), Kind::Folder).is_err());
        assert!(read(root.as_fd(), Path::new("/none"), 10).unwrap().is_none());
        std::fs::write(dir.path().join("f"), "0123456789abc").unwrap();
        assert_eq!(read(root.as_fd(), Path::new("/f"), 10).unwrap().unwrap(), b"0123456789");
    }
}
