//! Extraction of a tar below a folder inside a root.
//!
//! The archive may come from a stranger: a name that climbs above the folder is an error, a link is followed inside the
//! root only, and nothing is written through a descriptor that a link could have redirected.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::mode::ModeChange;
use super::room::Room;
use super::tar::{Entry, Kind, Reader};
use super::{compress, overlay, root};
use crate::error::{Error, Result};

/// How to extract.
#[derive(Debug, Clone, Default)]
pub struct ExtractOptions {
    /// Turn `.wh.` files into overlayfs's whiteouts: for layers, whose root is not merged.
    pub whiteouts: bool,
    /// Owner of everything, instead of the archive's.
    pub owner: Option<(u32, u32)>,
    /// The ids of the container that the root is the inside of: owners in the archive are its own.
    pub ids: Option<sys::userns::IdMaps>,
    /// What becomes of the permission bits of everything but symbolic links.
    pub mode: Option<ModeChange>,
    /// Refuse to replace a folder with something else and the reverse (`docker cp`).
    pub no_overwrite_dir_non_dir: bool,
    /// Leave room on the disk, and refuse files that would never fit on it: for archives of strangers.
    pub guard: bool,
}

/// What was extracted.
#[derive(Debug, Clone, Default)]
pub struct Extracted {
    /// Bytes in regular files.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
    /// Whether the folder itself had an entry.
    pub has_root: bool,
}

/// Extracts a tar, compressed or not, below `path` (a folder that must exist) inside `root`. Blocking.
pub fn extract_into(
    root: BorrowedFd<'_>,
    path: &Path,
    tar: impl Read + Send,
    options: &ExtractOptions,
) -> Result<Extracted> {
    let (_, stream) = compress::decoder(tar)?;
    let ((), out) = extract(root, path, &mut Reader::new(stream), options).map(|out| ((), out))?;
    Ok(out)
}

/// As `extract_into`, from a reader that may have a tee.
pub(crate) fn extract<R: Read>(
    root: BorrowedFd<'_>,
    path: &Path,
    reader: &mut Reader<'_, R>,
    options: &ExtractOptions,
) -> Result<Extracted> {
    let base = root::clean(path);
    root::open(root, &base, OFlags::PATH | OFlags::DIRECTORY)
        .map_err(Error::file("open the folder", &base))?;
    let mut x = Extractor {
        root,
        base,
        options,
        parent: None,
        dirs: Late::default(),
        room: if options.guard { Some(Room::new(root)?) } else { None },
        out: Extracted::default(),
        buf: vec![0u8; 128 * 1024],
    };
    while let Some(entry) = reader.next_entry().map_err(corrupt)? {
        x.entry(&entry, reader)?;
    }
    x.finish()?;
    Ok(x.out)
}

fn corrupt(e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput => {
            Error::Corrupt(e.to_string())
        }
        _ => Error::Io(e),
    }
}

/// Folders whose times must be set when nothing is put into them any more; on the disk when they are many.
#[derive(Default)]
struct Late {
    /// Length and bytes of the path, seconds, nanoseconds.
    records: Vec<u8>,
    spill: Option<File>,
}

/// Bytes of records that are kept in memory.
const LATE_LIMIT: usize = 1 << 20;

impl Late {
    fn push(&mut self, root: BorrowedFd<'_>, path: &Path, e: &Entry) -> io::Result<()> {
        let path = path.as_os_str().as_bytes();
        self.records.extend_from_slice(&(path.len() as u32).to_le_bytes());
        self.records.extend_from_slice(path);
        self.records.extend_from_slice(&e.mtime.0.to_le_bytes());
        self.records.extend_from_slice(&e.mtime.1.to_le_bytes());
        if self.records.len() < LATE_LIMIT {
            return Ok(());
        }
        if self.spill.is_none() {
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            match rustix::fs::openat(root, ".", flags, Mode::from_raw_mode(0o600)) {
                Ok(fd) => self.spill = Some(fd.into()),
                // A file system that has no nameless files: then they stay in memory.
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        if let Some(file) = &mut self.spill {
            file.write_all(&self.records)?;
            self.records.clear();
        }
        Ok(())
    }

    fn each(mut self, mut set: impl FnMut(&Path, &Timestamps) -> io::Result<()>) -> io::Result<()> {
        let mut source: Box<dyn Read + '_> = match &mut self.spill {
            Some(file) => {
                file.rewind()?;
                Box::new(io::BufReader::new(file).chain(&self.records[..]))
            }
            None => Box::new(&self.records[..]),
        };
        let mut path = Vec::new();
        loop {
            let mut length = [0u8; 4];
            match compress::read_head(&mut source, &mut length)? {
                0 => return Ok(()),
                _ => path.resize(u32::from_le_bytes(length) as usize, 0),
            }
            let (mut seconds, mut nanos) = ([0u8; 8], [0u8; 4]);
            source.read_exact(&mut path)?;
            source.read_exact(&mut seconds)?;
            source.read_exact(&mut nanos)?;
            let times = times((i64::from_le_bytes(seconds), u32::from_le_bytes(nanos)));
            set(Path::new(OsStr::from_bytes(&path)), &times)?;
        }
    }
}

/// Before `bytes` more of data; `sum` are the bytes so far, holes included.
fn before(room: &mut Room, root: BorrowedFd<'_>, bytes: u64, sum: u64) -> io::Result<()> {
    if sum.saturating_add(bytes) > room.most {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!(
                "the archive's files have more than the {} MiB of the disk that it is unpacked on",
                room.most >> 20
            ),
        ));
    }
    room.take(root, bytes)
}

/// A folder that entries go to.
struct Parent {
    dir: OwnedFd,
    /// Where it is in the root, if a tee wants to know: links on the way to it may lead elsewhere later.
    real: Vec<u8>,
}

struct Extractor<'a> {
    root: BorrowedFd<'a>,
    base: PathBuf,
    options: &'a ExtractOptions,
    /// The folder that the last entry went to: tars list a folder's files together.
    parent: Option<(PathBuf, Parent)>,
    dirs: Late,
    room: Option<Room>,
    out: Extracted,
    buf: Vec<u8>,
}

/// The name cleaned by its text: components without `.` and empty ones, `..` taking one away; `None` if it escapes.
fn clean(name: &[u8]) -> Option<Vec<u8>> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join(&b'/'))
}

fn times(mtime: (i64, u32)) -> Timestamps {
    let t = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() };
    Timestamps { last_access: t, last_modification: t }
}

impl Extractor<'_> {
    fn entry<R: Read>(&mut self, e: &Entry, reader: &mut Reader<'_, R>) -> Result<()> {
        self.out.entries += 1;
        let shown = || String::from_utf8_lossy(&e.path).into_owned();
        let Some(path) = clean(&e.path) else {
            return Err(Error::Corrupt(format!(
                "invalid archive: the entry {:?} is outside of the root",
                shown()
            )));
        };
        self.place(e, &path, reader).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Error::Corrupt(format!("{error} (at {:?})", shown()))
            }
            // What the kernel did not say, a decoder says of its stream.
            io::ErrorKind::InvalidInput if error.raw_os_error().is_none() => {
                Error::Corrupt(format!("{error} (at {:?})", shown()))
            }
            _ => Error::File { action: "extract", path: PathBuf::from(shown()), source: error },
        })
    }

    fn place<R: Read>(&mut self, e: &Entry, path: &[u8], reader: &mut Reader<'_, R>) -> io::Result<()> {
        if let Some(room) = &mut self.room {
            // Large files are looked after piece by piece while they are copied.
            before(room, self.root, 0, self.out.bytes)?;
            let whole = e.sparse.as_ref().map_or(e.size, |(_, whole)| *whole);
            if self.out.bytes.saturating_add(whole) > room.most {
                before(room, self.root, whole, self.out.bytes)?;
            }
        }
        let full = self.base.join(OsStr::from_bytes(path));
        if path.is_empty() {
            if e.kind != Kind::Dir {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "an entry without a name"));
            }
            self.out.has_root = true;
            let dir = root::open(self.root, &full, OFlags::RDONLY | OFlags::DIRECTORY)?;
            self.attributes(&dir, e)?;
            self.dirs.push(self.root, &full, e)?;
            return Ok(());
        }
        let parent_path = full.parent().unwrap_or(Path::new("/")).to_path_buf();
        let name = full.file_name().unwrap_or_default();
        let parent = self.take_parent(&parent_path, reader.tee().is_some())?;
        let result = if self.options.whiteouts && name.as_bytes().starts_with(b".wh.") {
            self.whiteout(&parent.dir, name)
        } else {
            let told = match reader.tee() {
                Some(_) if parent.real.is_empty() => name.as_bytes().to_vec(),
                Some(_) => [parent.real.as_slice(), b"/", name.as_bytes()].concat(),
                None => path.to_vec(),
            };
            self.create(e, &told, &full, &parent.dir, name, reader)
        };
        // A symbolic link may have changed what a path means.
        if result.is_ok() && e.kind != Kind::Symlink && self.parent.is_none() {
            self.parent = Some((parent_path, parent));
        }
        result
    }

    fn take_parent(&mut self, path: &Path, told: bool) -> io::Result<Parent> {
        match self.parent.take() {
            Some((p, parent)) if p == path => Ok(parent),
            _ => {
                let (uid, gid) = self.owner(0, 0)?;
                let dir = root::make_dirs(self.root, path, 0o755, (uid.as_raw(), gid.as_raw()))?;
                let real = if told { self.real(&dir)? } else { Vec::new() };
                Ok(Parent { dir, real })
            }
        }
    }

    /// Where an open folder is, seen from the root, without a slash at the front.
    fn real(&self, dir: &OwnedFd) -> io::Result<Vec<u8>> {
        let of = |fd: BorrowedFd<'_>| std::fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        let (root, dir) = (of(self.root)?, of(dir.as_fd())?);
        let inside = dir.strip_prefix(&root).map_err(io::Error::other)?;
        Ok(inside.as_os_str().as_bytes().to_vec())
    }

    fn whiteout(&mut self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        if name == ".wh..wh..opq" {
            return self.set_opaque(parent);
        }
        let hidden = &name.as_bytes()[4..];
        if hidden.starts_with(b".wh.") || hidden.is_empty() {
            // Other marks of aufs mean nothing here.
            return Ok(());
        }
        if hidden == b"." || hidden == b".." {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "invalid whiteout"));
        }
        let name = OsStr::from_bytes(hidden);
        match rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Err(Errno::EXIST) => {
                // A whiteout hides lower layers only: what this layer itself has stays, without what lies below.
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                match rustix::fs::openat(parent, name, flags, Mode::empty()) {
                    Ok(dir) => self.set_opaque(&dir),
                    Err(_) => Ok(()),
                }
            }
            other => Ok(other?),
        }
    }

    fn set_opaque(&self, dir: &OwnedFd) -> io::Result<()> {
        Ok(rustix::fs::setxattr(proc_path(dir, None), overlay::OPAQUE, b"y", XattrFlags::empty())?)
    }

    /// Makes room at `name`; whether a folder that the entry keeps is there, and whether that hid a whiteout.
    fn make_room<R: Read>(
        &mut self,
        e: &Entry,
        path: &[u8],
        parent: &OwnedFd,
        name: &OsStr,
        reader: &mut Reader<'_, R>,
    ) -> io::Result<(bool, bool)> {
        let found = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(s) => s,
            Err(Errno::NOENT) => return Ok((false, false)),
            Err(e) => return Err(e.into()),
        };
        let kind = FileType::from_raw_mode(found.st_mode);
        let is_dir = kind == FileType::Directory;
        if is_dir && e.kind == Kind::Dir {
            return Ok((true, false));
        }
        if self.options.no_overwrite_dir_non_dir && is_dir != (e.kind == Kind::Dir) {
            let (a, b) = if is_dir { ("directory", "non-directory") } else { ("non-directory", "directory") };
            let shown = String::from_utf8_lossy(path);
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("cannot overwrite {a} \"/{shown}\" with {b} \"/\""),
            ));
        }
        let was_whiteout = self.options.whiteouts && kind == FileType::CharacterDevice && found.st_rdev == 0;
        self.parent = None;
        match reader.tee() {
            Some(tee) if !was_whiteout => tee.replaced(parent.as_fd(), name, path)?,
            _ => root::remove(parent.as_fd(), name)?,
        }
        Ok((false, was_whiteout))
    }

    fn create<R: Read>(
        &mut self,
        e: &Entry,
        path: &[u8],
        full: &Path,
        parent: &OwnedFd,
        name: &OsStr,
        reader: &mut Reader<'_, R>,
    ) -> io::Result<()> {
        match e.kind {
            Kind::File => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let open = || rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o600));
                let fd = match open() {
                    Err(Errno::EXIST) => {
                        self.make_room(e, path, parent, name, reader)?;
                        open()?
                    }
                    other => other?,
                };
                let mut file = File::from(fd);
                if let Some((map, whole)) = &e.sparse {
                    for (offset, length) in map {
                        file.seek(SeekFrom::Start(*offset))?;
                        self.copy(&mut reader.by_ref().take(*length), &mut file)?;
                    }
                    file.set_len(*whole)?;
                    self.out.bytes += whole;
                } else if e.size > 0 {
                    if let Some(tee) = reader.tee() {
                        tee.file(path, e.size)?;
                        reader.keep_data_from_tee();
                    }
                    self.copy(reader, &mut file)?;
                    self.out.bytes += e.size;
                }
                let fd = OwnedFd::from(file);
                self.attributes(&fd, e)?;
                rustix::fs::futimens(&fd, &times(e.mtime))?;
            }
            Kind::Dir => {
                let (kept, was_whiteout) = match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))
                {
                    Err(Errno::EXIST) => {
                        let (kept, was_whiteout) = self.make_room(e, path, parent, name, reader)?;
                        if !kept {
                            rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
                        }
                        (kept, was_whiteout)
                    }
                    other => other.map(|()| (false, false))?,
                };
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let dir = rustix::fs::openat(parent, name, flags, Mode::empty())?;
                if was_whiteout && !kept {
                    self.set_opaque(&dir)?;
                }
                self.attributes(&dir, e)?;
                self.dirs.push(self.root, full, e)?;
            }
            Kind::HardLink => {
                let Some(target) = clean(&e.link) else {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        format!(
                            "invalid hard link to {:?} outside of the root",
                            String::from_utf8_lossy(&e.link)
                        ),
                    ));
                };
                let target = self.base.join(OsStr::from_bytes(&target));
                let (target_parent, target_name) = root::open_parent(self.root, &target)?;
                let target_name = target_name.ok_or(io::ErrorKind::InvalidData)?;
                let link = || rustix::fs::linkat(&target_parent, target_name, parent, name, AtFlags::empty());
                match link() {
                    Err(Errno::EXIST) => {
                        // A link to itself is there already.
                        let same = |s: &rustix::fs::Stat| (s.st_dev, s.st_ino);
                        let a = rustix::fs::statat(&target_parent, target_name, AtFlags::SYMLINK_NOFOLLOW)?;
                        let b = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
                        if same(&a) != same(&b) {
                            self.make_room(e, path, parent, name, reader)?;
                            link()?;
                        }
                    }
                    other => other?,
                }
            }
            Kind::Symlink => {
                let target = OsStr::from_bytes(&e.link);
                if let Err(error) = rustix::fs::symlinkat(target, parent, name) {
                    if error != Errno::EXIST {
                        return Err(error.into());
                    }
                    self.make_room(e, path, parent, name, reader)?;
                    rustix::fs::symlinkat(target, parent, name)?;
                }
                self.attributes_of_node(parent, name, e, false)?;
            }
            Kind::Char | Kind::Block | Kind::Fifo => {
                let kind = match e.kind {
                    Kind::Char => FileType::CharacterDevice,
                    Kind::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let device = rustix::fs::makedev(e.device.0, e.device.1);
                let make = || rustix::fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device);
                match make() {
                    Err(Errno::EXIST) => {
                        self.make_room(e, path, parent, name, reader)?;
                        make()?;
                    }
                    other => other?,
                }
                self.attributes_of_node(parent, name, e, true)?;
            }
        }
        Ok(())
    }

    /// Copies data; runs of zeros become holes.
    fn copy(&mut self, from: &mut dyn Read, to: &mut File) -> io::Result<()> {
        let mut hole = false;
        loop {
            let n = compress::read_head(from, &mut self.buf)?;
            if n == 0 {
                break;
            }
            let data = &self.buf[..n];
            hole = n == self.buf.len() && data[..16] == [0; 16] && data.iter().all(|b| *b == 0);
            if hole {
                to.seek(SeekFrom::Current(n as i64))?;
            } else {
                if let Some(room) = &mut self.room {
                    room.take(self.root, n as u64)?;
                }
                to.write_all(data)?;
            }
        }
        if hole {
            let end = to.stream_position()?;
            to.set_len(end)?;
        }
        Ok(())
    }

    fn owner(&self, uid: u32, gid: u32) -> io::Result<(Uid, Gid)> {
        let (uid, gid) = self.options.owner.unwrap_or((uid, gid));
        let (uid, gid) = match &self.options.ids {
            None => (uid, gid),
            Some(ids) => ids.outside(uid, gid).ok_or_else(|| {
                io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!("the owner {uid}:{gid} has no counterpart among the ids of the container"),
                )
            })?,
        };
        Ok((Uid::from_raw(uid), Gid::from_raw(gid)))
    }

    fn mode(&self, e: &Entry) -> Mode {
        let change = self.options.mode.as_ref();
        Mode::from_raw_mode(change.map_or(e.mode, |change| change.apply(e.mode, e.kind == Kind::Dir)))
    }

    fn attributes(&self, fd: &OwnedFd, e: &Entry) -> io::Result<()> {
        let (uid, gid) = self.owner(e.uid, e.gid)?;
        rustix::fs::fchown(fd, Some(uid), Some(gid))?;
        // After the owner: chown clears set-id bits and capabilities.
        rustix::fs::fchmod(fd, self.mode(e))?;
        for (name, value) in wanted_xattrs(e) {
            let name = OsStr::from_bytes(name);
            tolerate(rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()), name)?;
        }
        Ok(())
    }

    fn attributes_of_node(&self, parent: &OwnedFd, name: &OsStr, e: &Entry, mode: bool) -> io::Result<()> {
        let (uid, gid) = self.owner(e.uid, e.gid)?;
        rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if mode {
            rustix::fs::chmodat(parent, name, self.mode(e), AtFlags::empty())?;
        }
        for (key, value) in wanted_xattrs(e) {
            let key = OsStr::from_bytes(key);
            let path = proc_path(parent, Some(name));
            tolerate(rustix::fs::lsetxattr(path, key, value, XattrFlags::empty()), key)?;
        }
        Ok(rustix::fs::utimensat(parent, name, &times(e.mtime), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn finish(&mut self) -> Result<()> {
        self.parent = None;
        let root = self.root;
        // In their order, so that of two entries for one folder the later counts.
        std::mem::take(&mut self.dirs).each(|path, times| {
            // A folder that a later entry replaced has no time to set.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
            match root::open(root, path, flags) {
                Ok(dir) => Ok(rustix::fs::futimens(&dir, times)?),
                Err(_) => Ok(()),
            }
        })?;
        Ok(())
    }
}

/// Attributes of overlayfs itself are never taken from an archive: they could redirect a folder elsewhere.
fn wanted_xattrs(e: &Entry) -> impl Iterator<Item = (&[u8], &[u8])> {
    e.xattrs
        .iter()
        .map(|(k, v)| (k.as_slice(), v.as_slice()))
        .filter(|(k, _)| !k.starts_with(b"trusted.overlay.") && !k.starts_with(b"user.overlay."))
}

/// What the file system cannot hold or this process may not set is left out, as other engines do.
fn tolerate(result: rustix::io::Result<()>, name: &OsStr) -> io::Result<()> {
    match result {
        Err(e @ (Errno::NOTSUP | Errno::PERM)) => {
            tracing::debug!(?name, error = %e, "extended attribute left out");
            Ok(())
        }
        other => Ok(other?),
    }
}

/// A path by which the kernel finds what is in an open folder: for calls that have no form with a descriptor.
pub(super) fn proc_path(dir: impl AsFd, name: Option<&OsStr>) -> PathBuf {
    let mut p = PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()));
    if let Some(name) = name {
        p.push(name);
    }
    p
}
