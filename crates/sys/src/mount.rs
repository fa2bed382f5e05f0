//! Mounts by descriptor (fsopen, fsmount, open_tree, mount_setattr, move_mount), so that no path is looked up twice.
//!
//! A mount is first made detached, then given its attributes, and only then attached: nobody ever sees it writable
//! that should be read-only. Kernels need 5.12 or newer (mount_setattr).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};

/// Attributes of a mount, as bits of `MOUNT_ATTR_*`.
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-id bits are ignored.
    pub const NOSUID: u64 = 0x2;
    /// Device files cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Nothing can be executed.
    pub const NOEXEC: u64 = 0x8;
    /// The mask of the access time settings.
    pub const ATIME: u64 = 0x70;
    /// Access times are not updated.
    pub const NOATIME: u64 = 0x10;
    /// Access times are updated always.
    pub const STRICTATIME: u64 = 0x20;
    /// Folders' access times are not updated.
    pub const NODIRATIME: u64 = 0x80;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// How mounts below spread to and from other mount namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Not at all.
    Private,
    /// Both ways.
    Shared,
    /// From the other side to this one.
    Slave,
    /// Not at all, and it cannot be bound.
    Unbindable,
}

impl Propagation {
    fn bits(self) -> u64 {
        match self {
            Propagation::Private => libc::MS_PRIVATE,
            Propagation::Shared => libc::MS_SHARED,
            Propagation::Slave => libc::MS_SLAVE,
            Propagation::Unbindable => libc::MS_UNBINDABLE,
        }
    }
}

/// Changes attributes of a mount (and of those below it, if `recursive`), attached or not.
pub fn set_attributes(
    mount: BorrowedFd<'_>,
    set: u64,
    clear: u64,
    propagation: Option<Propagation>,
    recursive: bool,
) -> io::Result<()> {
    mount_setattr(mount, c"", set, clear, propagation, recursive, None)
}

/// Gives a detached mount the id mapping of a user namespace.
pub fn set_idmap(mount: BorrowedFd<'_>, user_namespace: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    mount_setattr(mount, c"", MOUNT_ATTR_IDMAP, 0, None, recursive, Some(user_namespace))
}

fn mount_setattr(
    fd: BorrowedFd<'_>,
    path: &std::ffi::CStr,
    set: u64,
    clear: u64,
    propagation: Option<Propagation>,
    recursive: bool,
    userns: Option<BorrowedFd<'_>>,
) -> io::Result<()> {
    #[repr(C)]
    struct MountAttr {
        attr_set: u64,
        attr_clr: u64,
        propagation: u64,
        userns_fd: u64,
    }
    // The access time is one field of several bits: setting one value means clearing the whole field first.
    let clear = if set & attr::ATIME != 0 { clear | attr::ATIME } else { clear };
    let args = MountAttr {
        attr_set: set,
        attr_clr: clear,
        propagation: propagation.map_or(0, Propagation::bits),
        userns_fd: userns.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `path` is a C string and `args` a struct of the given size; both live until the call returns.
    let r = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            path.as_ptr(),
            flags,
            &raw const args,
            size_of::<MountAttr>(),
        )
    };
    if r == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes every mount of this mount namespace spread as said.
pub fn set_root_propagation(propagation: Propagation) -> io::Result<()> {
    let root = rustix::fs::open("/", rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, 0.into())?;
    mount_setattr(root.as_fd(), c"", 0, 0, Some(propagation), true, None)
}

/// A detached mount of a new file system. `options` are `key=value` or `key`.
pub fn new_filesystem(
    kind: &str,
    source: Option<&str>,
    options: &[String],
    attributes: u64,
) -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(source) = source {
        rustix::mount::fsconfig_set_string(fs.as_fd(), "source", source)?;
    }
    for option in options {
        let r = match option.split_once('=') {
            Some((key, value)) => rustix::mount::fsconfig_set_string(fs.as_fd(), key, value),
            None => rustix::mount::fsconfig_set_flag(fs.as_fd(), option.as_str()),
        };
        r.map_err(|e| with_log(fs.as_fd(), e.into(), &format!("mount option {option:?}")))?;
    }
    create(fs, attributes)
}

fn create(fs: OwnedFd, attributes: u64) -> io::Result<OwnedFd> {
    rustix::mount::fsconfig_create(fs.as_fd()).map_err(|e| with_log(fs.as_fd(), e.into(), "superblock"))?;
    Ok(rustix::mount::fsmount(
        fs.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::from_bits_retain(attributes as u32),
    )?)
}

/// Adds what the kernel wrote into the file system context's log to an error.
fn with_log(fs: BorrowedFd<'_>, error: io::Error, what: &str) -> io::Error {
    let mut buf = [0u8; 256];
    match rustix::io::read(fs, &mut buf) {
        Ok(n) if n > 2 => {
            let text = String::from_utf8_lossy(&buf[2..n]);
            io::Error::new(error.kind(), format!("{what}: {error} ({})", text.trim()))
        }
        _ => match error.raw_os_error() {
            Some(_) => error,
            None => io::Error::new(error.kind(), format!("{what}: {error}")),
        },
    }
}

/// A detached overlay; `lower` has the top layer first. Without `upper` it is read-only.
///
/// With kernel 6.7 or newer layers are added one by one; an older kernel takes one string of at most a page, which is
/// kept short by naming the layers as descriptors.
pub fn overlay(
    lower: &[PathBuf],
    upper: Option<(&Path, &Path)>,
    extra: &[String],
    attributes: u64,
) -> io::Result<OwnedFd> {
    // Asked by version: older kernels take the option without a word and refuse the whole mount later.
    if kernel() < (6, 7) {
        return legacy_overlay(lower, upper, extra, attributes);
    }
    let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        rustix::mount::fsconfig_set_string(fs.as_fd(), "lowerdir+", layer.as_path())
            .map_err(|e| with_log(fs.as_fd(), e.into(), &format!("layer {}", layer.display())))?;
    }
    if let Some((upper, work)) = upper {
        for (key, path) in [("upperdir", upper), ("workdir", work)] {
            rustix::mount::fsconfig_set_string(fs.as_fd(), key, path)
                .map_err(|e| with_log(fs.as_fd(), e.into(), &format!("{key} {}", path.display())))?;
        }
    }
    for option in extra {
        let r = match option.split_once('=') {
            Some((key, value)) => rustix::mount::fsconfig_set_string(fs.as_fd(), key, value),
            None => rustix::mount::fsconfig_set_flag(fs.as_fd(), option.as_str()),
        };
        r.map_err(|e| with_log(fs.as_fd(), e.into(), &format!("overlay option {option:?}")))?;
    }
    create(fs, attributes)
}

/// The kernel's version.
pub fn kernel() -> (u32, u32) {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// As [`overlay`], by mount(2). It mounts on a folder of a temporary file system of this mount namespace and takes the
/// mount from there.
fn legacy_overlay(
    lower: &[PathBuf],
    upper: Option<(&Path, &Path)>,
    extra: &[String],
    attributes: u64,
) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    let open =
        |p: &Path| rustix::fs::open(p, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let mut held = Vec::new();
    let mut data = String::from("lowerdir=");
    for (i, layer) in lower.iter().enumerate() {
        let fd = open(layer)?;
        if i > 0 {
            data.push(':');
        }
        data.push_str(&name(&fd));
        held.push(fd);
    }
    if let Some((upper, work)) = upper {
        for (key, path) in [("upperdir", upper), ("workdir", work)] {
            let fd = open(path)?;
            data.push_str(&format!(",{key}={}", name(&fd)));
            held.push(fd);
        }
    }
    for option in extra {
        data.push(',');
        data.push_str(option);
    }
    // Any folder will do as a place to mount on for a moment: this is a mount namespace of our own.
    let place = Path::new("/proc");
    let data = CString::new(data).map_err(io::Error::other)?;
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("overlay", place, "overlay", flags, data.as_c_str())?;
    let tree = clone_tree(place, false);
    rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH)?;
    let tree = tree?;
    if attributes != 0 {
        set_attributes(tree.as_fd(), attributes, 0, None, false)?;
    }
    Ok(tree)
}

/// A detached copy of the mount at a path of the machine (symbolic links followed), of everything below it if
/// `recursive`.
pub fn clone_tree(path: &Path, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(rustix::fs::CWD, path, flags)?)
}

/// As [`clone_tree`], of what a descriptor stands for.
pub fn clone_fd(fd: BorrowedFd<'_>, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    Ok(rustix::mount::open_tree(fd, "", flags)?)
}

/// Attaches a detached mount on top of what `target` stands for.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, "", target, "", flags)?)
}

/// Does something in a mount namespace that nobody else sees and that ends with its thread; what it mounts there must be
/// detached again ([`clone_fd`]) to last.
pub fn in_own_namespace<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let working = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
            set_root_propagation(Propagation::Private)?;
            work()
        });
        match working.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// The place inside of `root` for something to be mounted. One that is missing is made; `None` where it cannot be, or is a
/// folder where the other is a file.
fn place(root: BorrowedFd<'_>, path: &Path, part: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    use crate::rooted::{Kind, ensure};
    use rustix::fs::FileType;
    use std::io::ErrorKind as K;
    let kind = |fd: BorrowedFd<'_>| {
        let folder = |mode| FileType::from_raw_mode(mode) == FileType::Directory;
        rustix::fs::fstat(fd).map(|s| if folder(s.st_mode) { Kind::Folder } else { Kind::File })
    };
    let wanted = kind(part)?;
    match ensure(root, path, wanted) {
        Ok(target) => Ok((kind(target.as_fd())? == wanted).then_some(target)),
        Err(e) if matches!(e.kind(), K::ReadOnlyFilesystem | K::NotADirectory) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Makes the places inside of `root` that [`compose`] will need, as far as they can be.
pub fn make_places<'a>(
    root: BorrowedFd<'_>,
    parts: impl Iterator<Item = &'a (PathBuf, OwnedFd)>,
) -> io::Result<()> {
    for (path, part) in parts {
        place(root, path, part.as_fd())?;
    }
    Ok(())
}

/// A detached mount of the detached mount `root` with others below it: at paths inside of it, the outer ones first. A place
/// that is missing is made; one that cannot be, or is a folder where the other is a file, is left out.
pub fn compose(root: BorrowedFd<'_>, parts: &[(PathBuf, OwnedFd)]) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    in_own_namespace(|| {
        // Any place will do: nobody looks for it by a path.
        let anywhere = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        attach(root, anywhere.as_fd())?;
        for (path, part) in parts {
            if let Some(target) = place(root, path, part.as_fd())? {
                attach(part.as_fd(), target.as_fd())?;
            }
        }
        clone_fd(root, true)
    })
}

/// Makes what `root` stands for (a mount attached in this namespace) the root folder. The old root is no more in sight,
/// but stays until [`OldRoot::leave`].
pub fn pivot_root(root: BorrowedFd<'_>) -> io::Result<OldRoot> {
    let old = rustix::fs::open("/", rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC, 0.into())?;
    rustix::process::fchdir(root)?;
    // The old root is stacked on top of the new one, where it can be taken away without a folder to keep it in. Paths
    // begin below it.
    rustix::process::pivot_root(".", ".")?;
    // What happens to the old root's mounts from here on must not reach the machine.
    set_attributes(old.as_fd(), 0, 0, Some(Propagation::Slave), true)?;
    Ok(OldRoot(old))
}

/// The root that a process had before [`pivot_root`].
#[derive(Debug)]
#[must_use = "whoever comes into the namespace sees the old root until it is left"]
pub struct OldRoot(OwnedFd);

impl OldRoot {
    /// Takes it away; the working folder is the new root then. The kernel waits for every processor in this, for some
    /// tenths of a millisecond and, on a busy machine, for tens of them.
    pub fn leave(self) -> io::Result<()> {
        rustix::process::fchdir(&self.0)?;
        rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)?;
        Ok(rustix::process::chdir("/")?)
    }
}

/// A path as mountinfo writes it (proc(5)): white space and backslashes are octal.
pub fn unescape(text: &str) -> PathBuf {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match (byte, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = &after[3..];
            }
            _ => out.push(*byte),
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

/// A copy of the running executable's file on a detached read-only mount: a program started from there cannot be
/// written through /proc/PID/exe, whatever runs as root beside it. Costs no memory: it is the same file.
pub fn read_only_executable(path: &Path) -> io::Result<OwnedFd> {
    let tree = clone_tree(path, false)?;
    set_attributes(tree.as_fd(), attr::RDONLY | attr::NODEV, 0, Some(Propagation::Private), false)?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_mountinfo() {
        for (written, meant) in [
            ("/a\\040b\\011c\\012d\\134e", "/a b\tc\nd\\e"),
            ("/a\\134040", "/a\\040"),
            ("/a\\", "/a\\"),
            ("/a\\04", "/a\\04"),
            ("/\u{e4}\\040", "/\u{e4} "),
        ] {
            assert_eq!(unescape(written), Path::new(meant), "{written}");
        }
    }
}
