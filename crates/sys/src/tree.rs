//! Walking through folders whose depth others decide: without recursion, with a bounded number of descriptors, and by
//! names relative to an open folder, so that neither the stack nor the kernel's longest path is a limit.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

/// How many folders above the one that is being read stay open. What lies deeper is come back to by `..`.
const OPEN: usize = 64;

/// What is done on a walk.
pub trait Visitor {
    /// An entry of the folder `parent`; the folder that it is, if the walk shall go into it. What is not there any more
    /// (`NotFound`) is passed over.
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>>;

    /// After all that is in a folder that the walk went into.
    fn leave(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()>;
}

struct Level {
    /// Its name in the folder above.
    name: OsString,
    /// `None` while something far below is being read.
    dir: Option<OwnedFd>,
    /// Device and inode, of a folder that was closed.
    identity: (u64, u64),
    /// What is still to be visited, the first one last.
    names: Vec<OsString>,
}

impl Level {
    fn open(name: OsString, dir: OwnedFd) -> io::Result<Self> {
        let mut names = match names_in(&dir) {
            // It is gone by now.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            other => other?,
        };
        names.sort_unstable_by(|a, b| b.cmp(a));
        Ok(Self { name, dir: Some(dir), identity: (0, 0), names })
    }
}

fn names_in(dir: &OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsString::from_vec(name.to_vec()));
        }
    }
    Ok(names)
}

fn identity(dir: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(dir)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Opens a folder for a walk; a symbolic link is none.
pub fn folder(parent: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(parent, name, flags, Mode::empty())?)
}

/// Visits everything below a folder, each folder's entries in the order of their names. Blocking.
pub fn walk(top: OwnedFd, visitor: &mut impl Visitor) -> io::Result<()> {
    let mut levels = vec![Level::open(OsString::new(), top)?];
    while let Some(level) = levels.last_mut() {
        // Only folders far above are closed.
        let Some(dir) = &level.dir else { return Err(io::ErrorKind::NotFound.into()) };
        if let Some(name) = level.names.pop() {
            match visitor.entry(dir.as_fd(), &name) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
                Ok(None) => {}
                Ok(Some(inside)) => {
                    let inside = Level::open(name, inside)?;
                    levels.push(inside);
                    if let Some(above) = levels.len().checked_sub(OPEN).and_then(|n| levels.get_mut(n))
                        && let Some(dir) = above.dir.take()
                    {
                        above.identity = identity(dir)?;
                    }
                }
            }
            continue;
        }
        let Some(Level { name, dir: Some(done), .. }) = levels.pop() else { return Ok(()) };
        let Some(above) = levels.last_mut() else { return Ok(()) };
        let dir = match above.dir.take() {
            Some(dir) => dir,
            None => {
                let dir = folder(done, "..")?;
                if identity(&dir)? != above.identity {
                    return Err(io::Error::other("a folder was moved while it was read"));
                }
                dir
            }
        };
        visitor.leave(dir.as_fd(), &name)?;
        above.dir = Some(dir);
    }
    Ok(())
}

struct Removal;

impl Visitor for Removal {
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) => Ok(None),
            Err(Errno::ISDIR) => folder(parent, name).map(Some),
            // Some file systems say so of folders; of anything else it was meant.
            Err(Errno::PERM) => match folder(parent, name) {
                Err(e) if e.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => Err(Errno::PERM.into()),
                other => other.map(Some),
            },
            Err(e) => Err(e.into()),
        }
    }

    fn leave(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOENT) => Ok(()),
            other => Ok(other?),
        }
    }
}

/// Removes whatever stands at `name` in `parent`, a folder with all that it holds; a symbolic link is not followed.
/// Blocking.
pub fn remove_at(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    match Removal.entry(parent, name)? {
        None => Ok(()),
        Some(dir) => {
            walk(dir, &mut Removal)?;
            Removal.leave(parent, name)
        }
    }
}

/// As [`remove_at`], by a path.
pub fn remove(path: &Path) -> io::Result<()> {
    remove_at(CWD, path.as_os_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A chain of folders deeper than any path reaches, with a file at its end.
    fn chain(top: &Path, depth: usize) {
        let mut dir = folder(CWD, top).unwrap();
        for _ in 0..depth {
            rustix::fs::mkdirat(&dir, "deep", Mode::from_raw_mode(0o700)).unwrap();
            dir = folder(&dir, "deep").unwrap();
        }
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
        rustix::fs::openat(&dir, "end", flags, Mode::from_raw_mode(0o600)).unwrap();
    }

    #[test]
    fn visits_in_order_and_comes_back() {
        struct Log(Vec<String>);
        impl Visitor for Log {
            fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
                self.0.push(name.to_string_lossy().into_owned());
                match folder(parent, name) {
                    Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(None),
                    other => other.map(Some),
                }
            }

            fn leave(&mut self, _: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
                self.0.push(format!("/{}", name.to_string_lossy()));
                Ok(())
            }
        }
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("b/c")).unwrap();
        std::fs::write(dir.path().join("b/a"), "").unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("a")).unwrap();
        chain(dir.path(), 3 * OPEN);
        let mut log = Log(Vec::new());
        walk(folder(CWD, dir.path()).unwrap(), &mut log).unwrap();
        assert_eq!(log.0[..6], ["a", "b", "a", "c", "/c", "/b"]);
        assert_eq!(log.0[6..].iter().filter(|n| *n == "/deep").count(), 3 * OPEN);
        assert_eq!(log.0.last().unwrap(), "/deep");
    }

    #[test]
    fn removes_what_no_path_reaches() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        std::fs::create_dir(&top).unwrap();
        std::fs::write(dir.path().join("kept"), "").unwrap();
        std::os::unix::fs::symlink(dir.path(), top.join("link")).unwrap();
        chain(&top, 1000);
        // Less than a recursion would take.
        let small = std::thread::Builder::new().stack_size(128 << 10);
        small.spawn(move || remove(&top)).unwrap().join().unwrap().unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(remove(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
