//! Files over a session, in fsutil's packets: the sender tells of everything there is in order, the receiver asks for
//! the content that it wants, both say when they are done.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use image::archive::root;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid};
use tokio::sync::mpsc;

use super::proto::{Packet, PacketType, Stat};
use super::rpc::{self, INVALID, Messages, Status};
use crate::blocking;
use crate::error::{Error, Result};

/// Go's bits of `os.FileMode`.
const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const CHAR: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
const TYPE: u32 = DIR | SYMLINK | DEVICE | PIPE | SOCKET | CHAR | 1 << 19;

/// Entries that a client may send: more than any context has, and no list that fills the memory.
const MOST: usize = 4_000_000;
/// The bytes of one packet of data.
const CHUNK: usize = 64 << 10;

fn unix_mode(mode: u32) -> u32 {
    let mut unix = mode & 0o777;
    for (bit, value) in [(SETUID, 0o4000), (SETGID, 0o2000), (STICKY, 0o1000)] {
        if mode & bit != 0 {
            unix |= value;
        }
    }
    unix
}

fn packet(kind: PacketType) -> Packet {
    Packet { kind: kind.into(), ..Packet::default() }
}

struct Receiver {
    root: OwnedFd,
    /// Open files by the number of their packet.
    open: HashMap<u32, (File, Stat)>,
    /// The folder of the last file, because the next one is mostly in it too.
    parent: Option<(PathBuf, OwnedFd)>,
    dirs: Vec<Stat>,
    bytes: u64,
}

/// A name as a sender may give it.
fn relative(path: &str) -> rpc::Result<&Path> {
    let p = Path::new(path.trim_start_matches('/'));
    let plain = p.components().all(|c| matches!(c, Component::Normal(_)));
    if plain && !p.as_os_str().is_empty() && path.len() <= 4096 {
        Ok(p)
    } else {
        Err(Status::new(
            INVALID,
            format!("the client sent the file name {path:?}, which leads out of its folder"),
        ))
    }
}

impl Receiver {
    fn parent(&mut self, path: &Path) -> rpc::Result<OwnedFd> {
        let dir = path.parent().unwrap_or(Path::new(""));
        if let Some((known, fd)) = &self.parent
            && known == dir
        {
            return fd.try_clone().map_err(failed(path));
        }
        let fd =
            root::open(self.root.as_fd(), dir, OFlags::RDONLY | OFlags::DIRECTORY).map_err(failed(path))?;
        self.parent = Some((dir.to_path_buf(), fd.try_clone().map_err(failed(path))?));
        Ok(fd)
    }

    /// Makes an entry; whether its content is wanted.
    fn entry(&mut self, id: u32, stat: Stat) -> rpc::Result<bool> {
        let path = relative(&stat.path)?.to_path_buf();
        let path = path.as_path();
        let parent = self.parent(path)?;
        let name = path.file_name().unwrap_or_default();
        let failed = failed(path);
        match stat.mode & TYPE {
            DIR => {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))
                    .map_err(|e| failed(e.into()))?;
                self.dirs.push(stat);
            }
            SYMLINK => {
                rustix::fs::symlinkat(&stat.linkname, &parent, name).map_err(|e| failed(e.into()))?;
                owner(&parent, name, &stat).map_err(failed)?;
            }
            0 if !stat.linkname.is_empty() => {
                let source = relative(&stat.linkname)?;
                let (dir, base) = root::open_parent(self.root.as_fd(), source).map_err(&failed)?;
                rustix::fs::linkat(&dir, base.unwrap_or_default(), &parent, name, AtFlags::empty())
                    .map_err(|e| failed(e.into()))?;
            }
            0 => {
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
                let fd = rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o600))
                    .map_err(|e| failed(e.into()))?;
                let file = File::from(fd);
                if stat.size == 0 {
                    finish(&file, &stat).map_err(failed)?;
                } else {
                    self.open.insert(id, (file, stat));
                    return Ok(true);
                }
            }
            // Sockets and the like are of no use in an image.
            _ => {}
        }
        Ok(false)
    }

    fn data(&mut self, id: u32, data: &[u8]) -> rpc::Result<()> {
        if data.is_empty() {
            if let Some((file, stat)) = self.open.remove(&id) {
                let failed = failed(Path::new(&stat.path));
                let come = file.metadata().map_err(&failed)?.len();
                // A client sends a file that has gone as an empty one, and says nothing. One that has grown is taken as it
                // is now, as with BuildKit: somebody may be writing a log into the context.
                if come < u64::try_from(stat.size).unwrap_or(0) {
                    return Err(Status::new(
                        INVALID,
                        format!(
                            "{} changed while it was sent: it had {} bytes, and {come} came; build again when nobody \
                             writes into the context",
                            stat.path, stat.size
                        ),
                    ));
                }
                finish(&file, &stat).map_err(failed)?;
            }
            return Ok(());
        }
        let Some((file, stat)) = self.open.get_mut(&id) else {
            return Err(Status::new(
                INVALID,
                format!("the client sent data of file {id}, which nobody asked for"),
            ));
        };
        self.bytes += data.len() as u64;
        file.write_all(data).map_err(failed(Path::new(&stat.path)))
    }

    /// Folders get their modes and times last: a write into them changes the times, and some cannot be written.
    fn end(&mut self) -> rpc::Result<()> {
        for stat in self.dirs.iter().rev() {
            let path = Path::new(stat.path.trim_start_matches('/'));
            let dir = root::open(self.root.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY)
                .map_err(failed(path))?;
            finish(&File::from(dir), stat).map_err(failed(path))?;
        }
        Ok(())
    }
}

fn failed(path: &Path) -> impl Fn(std::io::Error) -> Status + '_ {
    move |e| Status::new(rpc::INTERNAL, format!("receiving {}: {e}", path.display()))
}

fn owner(parent: &OwnedFd, name: &std::ffi::OsStr, stat: &Stat) -> std::io::Result<()> {
    Ok(rustix::fs::chownat(
        parent,
        name,
        Some(Uid::from_raw(stat.uid)),
        Some(Gid::from_raw(stat.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn finish(file: &File, stat: &Stat) -> std::io::Result<()> {
    rustix::fs::fchown(file, Some(Uid::from_raw(stat.uid)), Some(Gid::from_raw(stat.gid)))?;
    rustix::fs::fchmod(file, Mode::from_raw_mode(unix_mode(stat.mode)))?;
    for (name, value) in &stat.xattrs {
        // Not every file system takes every attribute, and a context is no worse for it.
        let _ = rustix::fs::fsetxattr(file, name.as_str(), value, rustix::fs::XattrFlags::empty());
    }
    let time = Timespec {
        tv_sec: stat.mod_time.div_euclid(1_000_000_000),
        tv_nsec: stat.mod_time.rem_euclid(1_000_000_000),
    };
    rustix::fs::futimens(file, &Timestamps { last_access: time, last_modification: time })?;
    Ok(())
}

/// Receives everything that the other side sends into a folder. `progress` hears how many bytes have come.
pub(crate) async fn receive(
    to: mpsc::Sender<Packet>,
    mut from: Messages,
    folder: &Path,
    mut progress: impl FnMut(u64),
) -> rpc::Result<u64> {
    let gone = |_| Status::new(rpc::UNAVAILABLE, "the client's session has ended");
    let mut r = Receiver {
        root: File::open(folder).map_err(failed(folder))?.into(),
        open: HashMap::new(),
        parent: None,
        dirs: Vec::new(),
        bytes: 0,
    };
    let (mut count, mut all, mut told) = (0u32, false, false);
    loop {
        if all && r.open.is_empty() && !told {
            to.send(packet(PacketType::Fin)).await.map_err(gone)?;
            told = true;
        }
        let Some(p) = from.next::<Packet>().await? else {
            return if told {
                r.end()?;
                Ok(r.bytes)
            } else {
                Err(Status::new(rpc::UNAVAILABLE, "the client stopped sending files"))
            };
        };
        match PacketType::try_from(p.kind) {
            Ok(PacketType::Stat) => match p.stat {
                None => all = true,
                Some(stat) => {
                    if count as usize >= MOST {
                        return Err(Status::new(INVALID, format!("the context has more than {MOST} files")));
                    }
                    if r.entry(count, stat)? {
                        let request = Packet { id: count, ..packet(PacketType::Req) };
                        to.send(request).await.map_err(gone)?;
                    }
                    count += 1;
                }
            },
            // Pieces of at most some kilobytes into the page cache.
            Ok(PacketType::Data) => {
                r.data(p.id, &p.data)?;
                progress(r.bytes);
            }
            Ok(PacketType::Fin) => {
                r.end()?;
                return Ok(r.bytes);
            }
            Ok(PacketType::Err) => {
                return Err(Status::new(
                    rpc::UNKNOWN,
                    format!("error from sender: {}", String::from_utf8_lossy(&p.data)),
                ));
            }
            Ok(PacketType::Req) | Err(_) => {
                return Err(Status::new(INVALID, "the client sent a packet that it must not send"));
            }
        }
    }
}

/// Everything below a root, in the order that fsutil wants: by path, component by component. Blocking.
pub(crate) fn list(root_fd: &OwnedFd) -> Result<Vec<Stat>> {
    let mut all = Vec::new();
    let mut links = HashMap::new();
    walk(root_fd, Path::new(""), &mut all, &mut links)?;
    Ok(all)
}

fn walk(
    root_fd: &OwnedFd,
    dir: &Path,
    all: &mut Vec<Stat>,
    links: &mut HashMap<(u64, u64), String>,
) -> Result<()> {
    let fd = root::open(root_fd.as_fd(), dir, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(&fd).map_err(std::io::Error::from)? {
        let entry = entry.map_err(std::io::Error::from)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    names.sort();
    for name in names {
        let path = dir.join(std::ffi::OsStr::from_bytes(&name));
        let Ok(text) = path.clone().into_os_string().into_string() else { continue };
        let inner = root::open(root_fd.as_fd(), &path, OFlags::PATH | OFlags::NOFOLLOW)?;
        let m = File::from(inner.try_clone()?).metadata()?;
        let kind = m.file_type();
        let mut mode = m.mode() & 0o777;
        for (bit, value) in [(SETUID, 0o4000), (SETGID, 0o2000), (STICKY, 0o1000)] {
            if m.mode() & value != 0 {
                mode |= bit;
            }
        }
        let mut stat = Stat {
            path: text.clone(),
            uid: m.uid(),
            gid: m.gid(),
            mod_time: m.mtime() * 1_000_000_000 + m.mtime_nsec(),
            ..Stat::default()
        };
        if kind.is_dir() {
            mode |= DIR;
        } else if kind.is_symlink() {
            mode |= SYMLINK;
            stat.linkname = root::read_link(root_fd.as_fd(), &path)?.to_string_lossy().into_owned();
        } else if kind.is_file() {
            stat.size = m.size() as i64;
            if m.nlink() > 1 {
                match links.get(&(m.dev(), m.ino())) {
                    Some(first) => stat.linkname.clone_from(first),
                    None => {
                        links.insert((m.dev(), m.ino()), text);
                    }
                }
            }
        } else if kind.is_char_device() || kind.is_block_device() {
            mode |= DEVICE | if kind.is_char_device() { CHAR } else { 0 };
            stat.devmajor = i64::from(rustix::fs::major(m.rdev()));
            stat.devminor = i64::from(rustix::fs::minor(m.rdev()));
        } else if kind.is_fifo() {
            mode |= PIPE;
        } else {
            continue;
        }
        stat.mode = mode;
        all.push(stat);
        if kind.is_dir() {
            walk(root_fd, &path, all, links)?;
        }
    }
    Ok(())
}

/// What is in one root, its paths below a folder of that name. Blocking.
fn list_below(name: &str, root_fd: &OwnedFd) -> Result<Vec<Stat>> {
    let mut all = list(root_fd)?;
    if name.is_empty() {
        return Ok(all);
    }
    for stat in &mut all {
        stat.path = format!("{name}/{}", stat.path);
        // A further name of a file; a symbolic link's target stays.
        if stat.mode & TYPE == 0 && !stat.linkname.is_empty() {
            stat.linkname = format!("{name}/{}", stat.linkname);
        }
    }
    let folder = Stat {
        path: name.into(),
        mode: DIR | 0o755,
        mod_time: base::clock::now().as_second() * 1_000_000_000,
        ..Stat::default()
    };
    all.insert(0, folder);
    Ok(all)
}

/// Sends everything below roots, each as a folder of that name, in their order; an empty name has no folder.
pub(crate) async fn send(
    to: mpsc::Sender<Packet>,
    mut from: Messages,
    roots: Vec<(String, OwnedFd)>,
) -> Result<u64> {
    let gone = |_| Error::Session("the client's session has ended".into());
    let roots = Arc::new(roots);
    let listing = roots.clone();
    let stats = blocking(move || {
        let mut all = Vec::new();
        for (at, (name, root_fd)) in listing.iter().enumerate() {
            all.extend(list_below(name, root_fd)?.into_iter().map(|stat| (at, stat)));
        }
        Ok(all)
    })
    .await?;
    let mut files: HashMap<u32, (usize, String)> = HashMap::new();
    for (n, (at, stat)) in stats.into_iter().enumerate() {
        let n = u32::try_from(n).map_err(|_| Error::Session("too many files to send".into()))?;
        if stat.mode & TYPE == 0 {
            let name = &roots[at].0;
            let inside = stat.path.strip_prefix(name.as_str()).unwrap_or(&stat.path);
            files.insert(n, (at, inside.trim_start_matches('/').to_string()));
        }
        to.send(Packet { stat: Some(stat), ..packet(PacketType::Stat) }).await.map_err(gone)?;
    }
    to.send(packet(PacketType::Stat)).await.map_err(gone)?;
    let mut bytes = 0;
    loop {
        let p = from.next::<Packet>().await.map_err(|s| Error::Session(s.message))?;
        let Some(p) = p else { return Err(Error::Session("the client stopped receiving files".into())) };
        match PacketType::try_from(p.kind) {
            Ok(PacketType::Req) => {
                let (at, path) = files.remove(&p.id).ok_or_else(|| {
                    Error::Session(format!("the client asked for file {}, which is none", p.id))
                })?;
                let file = root::open(roots[at].1.as_fd(), Path::new(&path), OFlags::RDONLY)?;
                let mut file = File::from(file);
                loop {
                    let (data, back) = blocking(move || {
                        let mut data = vec![0; CHUNK];
                        let n = file.read(&mut data)?;
                        data.truncate(n);
                        Ok((data, file))
                    })
                    .await?;
                    file = back;
                    bytes += data.len() as u64;
                    let end = data.is_empty();
                    to.send(Packet { id: p.id, data, ..packet(PacketType::Data) }).await.map_err(gone)?;
                    if end {
                        break;
                    }
                }
            }
            Ok(PacketType::Fin) => {
                to.send(packet(PacketType::Fin)).await.map_err(gone)?;
                return Ok(bytes);
            }
            Ok(PacketType::Err) => {
                return Err(Error::Session(format!(
                    "error from receiver: {}",
                    String::from_utf8_lossy(&p.data)
                )));
            }
            _ => return Err(Error::Session("the client sent a packet that it must not send".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_inside() {
        for bad in ["../x", "a/../../x", "", "/", "a/./../.."] {
            assert!(relative(bad).is_err(), "{bad}");
        }
        assert_eq!(relative("a/b").unwrap(), Path::new("a/b"));
    }

    #[test]
    fn modes() {
        assert_eq!(unix_mode(SETUID | 0o755), 0o4755);
        assert_eq!(unix_mode(DIR | STICKY | 0o777), 0o1777);
    }
}
