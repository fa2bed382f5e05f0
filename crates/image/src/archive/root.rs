//! Paths inside a root folder that is given as a descriptor.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;

/// Opens `path` inside `root`, following symbolic links inside it unless `flags` has NOFOLLOW (last component only).
pub fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let relative = relative(path);
    loop {
        match rustix::fs::openat2(
            root,
            &*relative,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        ) {
            // The kernel asks to try again where a rename elsewhere may have made the walk unsafe.
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}

/// Opens the folder that holds `path`'s last component, and says that component. `None` for the root itself.
pub fn open_parent<'a>(root: BorrowedFd<'_>, path: &'a Path) -> io::Result<(OwnedFd, Option<&'a OsStr>)> {
    let (parent, name) = split(path);
    Ok((open(root, parent, OFlags::PATH | OFlags::DIRECTORY)?, name))
}

/// What stands at `path`; the last component is followed if `follow`.
pub fn stat(root: BorrowedFd<'_>, path: &Path, follow: bool) -> io::Result<Stat> {
    let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
    let fd = open(root, path, flags)?;
    Ok(rustix::fs::fstat(&fd)?)
}

/// The target of the symbolic link at `path`.
pub fn read_link(root: BorrowedFd<'_>, path: &Path) -> io::Result<PathBuf> {
    let (parent, name) = open_parent(root, path)?;
    let name = name.ok_or(io::ErrorKind::InvalidInput)?;
    let target = rustix::fs::readlinkat(&parent, name, Vec::new())?;
    Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
}

/// Makes the folder `path` with all that is missing above it, each with `mode` and `owner`, and opens it.
pub fn make_dirs(root: BorrowedFd<'_>, path: &Path, mode: u32, owner: (u32, u32)) -> io::Result<OwnedFd> {
    match open(root, path, OFlags::PATH | OFlags::DIRECTORY) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    let (parent, name) = split(path);
    let Some(name) = name else { return Err(io::ErrorKind::NotFound.into()) };
    let parent = make_dirs(root, parent, mode, owner)?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        // A link whose target is missing stands there, or somebody was faster.
        Err(Errno::EXIST) => return open(root, path, OFlags::PATH | OFlags::DIRECTORY),
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(&parent, name, flags, Mode::empty())?;
    rustix::fs::fchown(&dir, Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))?;
    rustix::fs::fchmod(&dir, Mode::from_raw_mode(mode))?;
    Ok(dir)
}

/// Removes whatever stands at `name` in `parent`, a folder with all that it holds. What is not there is no error.
pub fn remove(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match sys::tree::remove_at(parent, name) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// `path` without its leading slashes, `.` where nothing is left.
fn relative(path: &Path) -> std::borrow::Cow<'_, Path> {
    let p = path.strip_prefix("/").unwrap_or(path);
    if p.as_os_str().is_empty() { Path::new(".").into() } else { p.into() }
}

fn split(path: &Path) -> (&Path, Option<&OsStr>) {
    match path.components().next_back() {
        Some(Component::Normal(name)) => (path.parent().unwrap_or(Path::new("")), Some(name)),
        _ => (path, None),
    }
}

/// Cleans a path by its text alone, as Go's `path.Clean("/" + path)`: always absolute, never above the root.
pub fn clean(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for c in path.components() {
        match c {
            Component::Normal(c) => out.push(c),
            Component::ParentDir => {
                out.pop();
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;

    #[test]
    fn stays_inside() {
        let t = tempfile::tempdir().unwrap();
        let inside = t.path().join("root");
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::write(t.path().join("secret"), "s").unwrap();
        fs::write(inside.join("secret"), "inside").unwrap();
        std::os::unix::fs::symlink("../../../../secret", inside.join("a/up")).unwrap();
        std::os::unix::fs::symlink("/secret", inside.join("a/abs")).unwrap();
        let root = fs::File::open(&inside).unwrap();
        for p in ["a/up", "/a/abs", "../secret", "a/b/../../../secret"] {
            let fd = open(root.as_fd(), Path::new(p), OFlags::RDONLY).unwrap();
            assert_eq!(std::io::read_to_string(fs::File::from(fd)).unwrap(), "inside", "{p}");
        }
        make_dirs(root.as_fd(), Path::new("/x/y/z"), 0o755, (0, 0)).unwrap();
        assert!(inside.join("x/y/z").is_dir());
        remove(root.as_fd(), OsStr::new("x")).unwrap();
        assert!(!inside.join("x").exists());
        assert_eq!(clean(Path::new("../a/./b/../c")), Path::new("/a/c"));
    }
}
