//! Making a tar of what lies below a path inside a root: for `docker cp`, `export`, and for new layers.
//!
//! The order is that of the names' bytes, times are cut to seconds and owners have no names, so that equal folders give
//! equal archives.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Stat};
use sys::tree;

use super::extract::proc_path;
use super::tar::{self, Entry, Kind};
use super::{overlay, root};
use crate::error::Result;

/// How to pack.
#[derive(Debug, Clone, Default)]
pub struct TarOptions {
    /// The name of the top entry in the archive instead of the path's last component; `Some("")` packs a folder's
    /// content without an entry for itself (`docker export`).
    pub name: Option<String>,
    /// Follow `path` itself if it is a symbolic link.
    pub follow: bool,
    /// Leave out times and owners, so that the archive tells content alone.
    pub content_only: bool,
    /// The ids of the container that the root is the inside of: owners in the archive are its own.
    pub ids: Option<sys::userns::IdMaps>,
    /// Leave the archive without its end: more follows.
    pub goes_on: bool,
}

/// Says whether a path (as named in the archive) belongs into it. A folder that does not is searched all the same,
/// and stands in the archive if something in it does.
pub type Filter<'a> = dyn Fn(&[u8]) -> bool + 'a;

/// Writes a tar of what is at `path` inside `root`, with everything below it. Blocking.
pub fn tar_of(root: BorrowedFd<'_>, path: &Path, options: &TarOptions, out: &mut dyn Write) -> Result<()> {
    tar_of_filtered(root, path, options, None, out)
}

/// As `tar_of`, with what `filter` refuses left out.
pub fn tar_of_filtered(
    root: BorrowedFd<'_>,
    path: &Path,
    options: &TarOptions,
    filter: Option<&Filter<'_>>,
    out: &mut dyn Write,
) -> Result<()> {
    let path = root::clean(path);
    let name = match &options.name {
        Some(name) => name.clone().into_bytes(),
        None => path.file_name().unwrap_or(OsStr::new("/")).as_bytes().to_vec(),
    };
    let mut sink = Plain(out);
    let mut p = Packer {
        sink: &mut sink,
        path: name.clone(),
        above: Vec::new(),
        links: HashMap::new(),
        whiteouts: false,
        content_only: options.content_only,
        ids: options.ids.as_ref(),
        filter,
        pending: Vec::new(),
    };
    let flags = if options.follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
    let top = root::open(root, &path, flags)?;
    let stat = rustix::fs::fstat(&top)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let dir = tree::folder(&top, ".")?;
        if !name.is_empty() {
            p.dir_entry(&dir, &stat, &name)?;
        }
        tree::walk(dir, &mut p)?;
    } else {
        if options.follow {
            p.opened(&top, &stat, &name)?;
        } else {
            let (parent, base) = root::open_parent(root, &path)?;
            p.node(parent.as_fd(), base.unwrap_or_default(), &name)?;
        }
    }
    if !options.goes_on {
        out.write_all(&tar::END)?;
    }
    Ok(())
}

/// Gets the archive's bytes.
pub(crate) trait Sink {
    /// Headers and padding.
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// The content of the file `path`: `size` bytes from `data`.
    fn file(&mut self, path: &[u8], size: u64, data: &mut dyn Read) -> io::Result<()>;
}

struct Plain<'a>(&'a mut dyn Write);

impl Sink for Plain<'_> {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes)
    }

    fn file(&mut self, _: &[u8], size: u64, data: &mut dyn Read) -> io::Result<()> {
        copy_exactly(data, size, self.0)
    }
}

/// Copies `size` bytes; a file that shrank while it was read is filled up with zeros.
pub(crate) fn copy_exactly(data: &mut dyn Read, size: u64, out: &mut dyn Write) -> io::Result<()> {
    let copied = io::copy(&mut data.take(size), out)?;
    if copied < size {
        io::copy(&mut io::repeat(0).take(size - copied), out)?;
    }
    Ok(())
}

/// Packs an overlayfs upper folder as a layer: whiteouts become `.wh.` files. Returns the bytes in its files.
pub(crate) fn pack_layer(dir: &Path, sink: &mut dyn Sink) -> io::Result<()> {
    let fd = tree::folder(CWD, dir)?;
    let mut p = Packer {
        sink,
        path: Vec::new(),
        above: Vec::new(),
        links: HashMap::new(),
        whiteouts: true,
        content_only: false,
        ids: None,
        filter: None,
        pending: Vec::new(),
    };
    tree::walk(fd, &mut p)?;
    p.sink.raw(&tar::END)
}

/// Refuses a name in an archive, of so many bytes, that could not be unpacked again: no path may be longer (PATH_MAX).
pub(super) fn within_limit(length: usize) -> io::Result<()> {
    if length < 4096 { Ok(()) } else { Err(rustix::io::Errno::NAMETOOLONG.into()) }
}

struct Packer<'a> {
    sink: &'a mut dyn Sink,
    /// The name, in the archive, of the folder that is being read.
    path: Vec<u8>,
    /// How long the names of the folders above it are.
    above: Vec<usize>,
    /// Files with several names: which name was written.
    links: HashMap<(u64, u64), Vec<u8>>,
    whiteouts: bool,
    content_only: bool,
    ids: Option<&'a sys::userns::IdMaps>,
    filter: Option<&'a Filter<'a>>,
    /// Headers of folders that the filter refused, written when something in them turns out to be wanted.
    pending: Vec<(usize, Vec<u8>)>,
}

impl Packer<'_> {
    /// Times and owners as the archive shall have them.
    fn shown(&self, mut e: Entry) -> Entry {
        if let Some(ids) = self.ids {
            (e.uid, e.gid) = ids.inside(e.uid, e.gid);
        }
        if self.content_only {
            (e.mtime, e.uid, e.gid) = ((0, 0), 0, 0);
        }
        e
    }

    fn emit(&mut self, e: Entry) -> io::Result<()> {
        let e = self.shown(e);
        for (_, header) in std::mem::take(&mut self.pending) {
            self.sink.raw(&header)?;
        }
        self.sink.raw(&tar::header(&e))
    }

    fn wanted(&self, full: &[u8]) -> bool {
        self.filter.is_none_or(|f| f(full))
    }

    /// Writes one entry; the folder that it is, whose own are still to be written.
    fn node(&mut self, parent: BorrowedFd<'_>, name: &OsStr, full: &[u8]) -> io::Result<Option<OwnedFd>> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && !self.wanted(full) {
            return Ok(None);
        }
        match kind {
            FileType::Directory => {
                let dir = tree::folder(parent, name)?;
                self.dir_entry(&dir, &stat, full)?;
                return Ok(Some(dir));
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let fd = rustix::fs::openat(parent, name, flags, Mode::empty())?;
                let stat = rustix::fs::fstat(&fd)?;
                self.opened(&fd, &stat, full)?;
            }
            FileType::CharacterDevice if self.whiteouts && stat.st_rdev == 0 => {
                let (dir, base) = match full.iter().rposition(|b| *b == b'/') {
                    Some(i) => full.split_at(i + 1),
                    None => (&[][..], full),
                };
                let mut e = Entry::new([dir, b".wh.", base].concat(), Kind::File);
                e.mode = 0;
                e.mtime = (stat.st_mtime, 0);
                self.emit(e)?;
            }
            FileType::Symlink => {
                let mut e = entry(&stat, full, Kind::Symlink);
                e.link = rustix::fs::readlinkat(parent, name, Vec::new())?.into_bytes();
                e.mode = 0o777;
                e.xattrs = xattrs_of(&proc_path(parent, Some(name)))?;
                self.emit(e)?;
            }
            other => {
                let kind = match other {
                    FileType::CharacterDevice => Kind::Char,
                    FileType::BlockDevice => Kind::Block,
                    FileType::Fifo => Kind::Fifo,
                    // Sockets have no form in a tar.
                    _ => return Ok(None),
                };
                let mut e = entry(&stat, full, kind);
                e.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
                e.xattrs = xattrs_of(&proc_path(parent, Some(name)))?;
                self.emit(e)?;
            }
        }
        Ok(None)
    }

    fn dir_entry(&mut self, dir: &OwnedFd, stat: &Stat, full: &[u8]) -> io::Result<()> {
        let mut name = full.to_vec();
        if !name.ends_with(b"/") {
            name.push(b'/');
        }
        let mut e = entry(stat, &name, Kind::Dir);
        let path = proc_path(dir, None);
        e.xattrs = xattrs_of(&path.join("."))?;
        if self.wanted(full) {
            self.emit(e)?;
        } else {
            let e = self.shown(e);
            self.pending.push((full.len(), tar::header(&e)));
        }
        if self.whiteouts && overlay::is_opaque(&path.join(".")) {
            let mut mark = Entry::new([&name[..], b".wh..wh..opq"].concat(), Kind::File);
            mark.mode = 0;
            mark.mtime = (stat.st_mtime, 0);
            self.sink.raw(&tar::header(&mark))?;
        }
        Ok(())
    }

    /// A regular file that is open (perhaps as a path only).
    fn opened(&mut self, fd: &OwnedFd, stat: &Stat, full: &[u8]) -> io::Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::RegularFile {
            let kind = match kind {
                FileType::CharacterDevice => Kind::Char,
                FileType::BlockDevice => Kind::Block,
                FileType::Fifo => Kind::Fifo,
                _ => return Ok(()),
            };
            let mut e = entry(stat, full, kind);
            e.device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
            return self.emit(e);
        }
        let mut e = entry(stat, full, Kind::File);
        e.xattrs = xattrs_of(&proc_path(fd, None))?;
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                e.kind = Kind::HardLink;
                e.link = first.clone();
                return self.emit(e);
            }
            self.links.insert((stat.st_dev, stat.st_ino), full.to_vec());
        }
        e.size = stat.st_size.max(0) as u64;
        let size = e.size;
        self.emit(e)?;
        if size > 0 {
            // Opened again, because the first may be a path only.
            let mut file = File::open(proc_path(fd, None))?;
            self.sink.file(full, size, &mut file)?;
            self.sink.raw(tar::pad(size))?;
        }
        Ok(())
    }
}

impl tree::Visitor for Packer<'_> {
    fn entry(&mut self, parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<OwnedFd>> {
        let mut full = self.path.clone();
        if !full.is_empty() && !full.ends_with(b"/") {
            full.push(b'/');
        }
        full.extend_from_slice(name.as_bytes());
        within_limit(full.len())?;
        let inside = self.node(parent, name, &full)?;
        if inside.is_some() {
            self.above.push(self.path.len());
            self.path = full;
        }
        Ok(inside)
    }

    fn leave(&mut self, _: BorrowedFd<'_>, _: &OsStr) -> io::Result<()> {
        if self.pending.last().is_some_and(|(n, _)| *n >= self.path.len()) {
            self.pending.pop();
        }
        self.path.truncate(self.above.pop().unwrap_or_default());
        Ok(())
    }
}

fn entry(stat: &Stat, name: &[u8], kind: Kind) -> Entry {
    let mut e = Entry::new(name, kind);
    e.mode = stat.st_mode & 0o7777;
    e.uid = stat.st_uid;
    e.gid = stat.st_gid;
    e.mtime = (stat.st_mtime, 0);
    e
}

/// The extended attributes that belong into an archive, by name; `path` itself is not followed unless it is open.
fn xattrs_of(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let open = path.starts_with("/proc/self/fd") && path.components().count() == 5;
    let list = |buf: &mut [u8]| {
        if open { rustix::fs::listxattr(path, buf) } else { rustix::fs::llistxattr(path, buf) }
    };
    let mut names = vec![0u8; 1024];
    let n = loop {
        match list(&mut names) {
            Ok(n) => break n,
            Err(rustix::io::Errno::RANGE) => names.resize(names.len() * 4, 0),
            Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        }
    };
    let mut all = Vec::new();
    for name in names[..n].split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name == b"security.selinux" {
            continue;
        }
        let key = OsStr::from_bytes(name);
        let mut value = vec![0u8; 65536];
        let got = if open {
            rustix::fs::getxattr(path, key, &mut value)
        } else {
            rustix::fs::lgetxattr(path, key, &mut value)
        };
        match got {
            Ok(n) => {
                value.truncate(n);
                all.push((name.to_vec(), value));
            }
            Err(rustix::io::Errno::NODATA) => {}
            Err(e) => return Err(e.into()),
        }
    }
    all.sort();
    Ok(all)
}
