//! The container's file system: its root, its mounts, its devices, what is hidden of it.
//!
//! Every step works on descriptors that were looked up inside the new root (`sys::rooted`), so that no symbolic link of
//! an image leads a mount onto the machine. Everything happens in the container's own mount namespace.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, Mount, Spec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use sys::cgroup::Cgroup;
use sys::mount::{self, Propagation, attr};
use sys::rooted::{self, Kind};

use super::mapped::{Ids, mapped_overlay};
use super::options::{Options, Overlay};
use crate::Rootfs;
use crate::protocol::{Failure, Step};

/// What is needed beside the specification.
pub(super) struct Environment<'a> {
    pub cgroup: Option<&'a Cgroup>,
    /// Whether the machine has cgroup version 2 only.
    pub unified: bool,
    /// Whether the container has a cgroup namespace of its own.
    pub cgroup_namespace: bool,
    /// Whether the container has a user namespace of its own: device files are then bound, not made.
    pub user_namespace: bool,
}

/// Mounts the root in a mount namespace of this process's own, in the working folder's `rootfs`. An overlay's layers
/// have their ids mapped, if there are maps.
pub(super) fn mount_here(rootfs: &Rootfs, ids: Option<&Ids>) -> Result<OwnedFd, Failure> {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).step(|| "unshare the mount namespace".into())?;
    let place = rustix::fs::open("rootfs", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .step(|| "open the root's folder".into())?;
    match (rootfs, ids) {
        (Rootfs::Overlay { lower, upper, work, .. }, Some(ids)) => {
            mount::set_root_propagation(Propagation::Slave).step(|| "set mount propagation".into())?;
            mapped_overlay(lower, upper, work, ids, place.as_fd())
        }
        _ => mount_root(Some(rootfs), place.as_fd(), None),
    }
}

/// Mounts the root at `place` (a folder of the machine) and returns it. Without a description it is mounted there
/// already, and is mounted once more, as what this namespace may pivot to.
pub(super) fn mount_root(
    rootfs: Option<&Rootfs>,
    place: BorrowedFd<'_>,
    linux: Option<&Linux>,
) -> Result<OwnedFd, Failure> {
    // Nothing that is mounted from here on may spread to the machine; what the machine mounts may come in.
    let spread = match linux.and_then(|l| l.rootfs_propagation().as_deref()) {
        Some("private" | "rprivate") => Propagation::Private,
        Some("shared" | "rshared") => Propagation::Shared,
        _ => Propagation::Slave,
    };
    let first = if spread == Propagation::Shared { Propagation::Slave } else { spread };
    mount::set_root_propagation(first).step(|| "set mount propagation".into())?;
    let tree = match rootfs {
        Some(Rootfs::Overlay { lower, upper, work, .. }) => {
            mount::overlay(lower, Some((upper, work)), &overlay_options(), 0)
                .step(|| format!("mount overlay of {} layers, upper {}", lower.len(), upper.display()))?
        }
        Some(Rootfs::Path { path, .. }) => {
            mount::clone_tree(path, true).step(|| format!("bind root {}", path.display()))?
        }
        None => mount::clone_fd(place, true).step(|| "bind the root".into())?,
    };
    mount::attach(tree.as_fd(), place).step(|| "attach the root".into())?;
    Ok(tree)
}

/// Shares what is mounted on the root from now on, or forbids to bind the root, if the specification says so; it is a
/// private one otherwise. pivot_root(2) refuses a shared root, so this comes after it.
pub(super) fn share_root(linux: &Linux) -> Result<(), Failure> {
    let spread = match linux.rootfs_propagation().as_deref() {
        Some("shared" | "rshared") => Propagation::Shared,
        Some("unbindable" | "runbindable") => Propagation::Unbindable,
        _ => return Ok(()),
    };
    let root =
        rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step(|| "open /".into())?;
    mount::set_attributes(root.as_fd(), 0, 0, Some(spread), false)
        .step(|| "set the propagation of the root's mounts".into())
}

/// What a bind mount binds, where it had to be got hold of early.
pub(super) enum Source {
    /// The folder or file, opened before the process lost sight of it.
    Opened(OwnedFd),
    /// A copy of the mount, made while it was still shared with the machine's.
    Tree(OwnedFd),
}

/// Everything that the container changes must be plain to see in its upper layer (for diff and commit), and the layer
/// may be mounted again before an earlier mount of it has been let go of.
pub(super) fn overlay_options() -> [String; 3] {
    ["redirect_dir=off", "metacopy=off", "index=off"].map(String::from)
}

/// What the bind mounts of the specification bind, opened before the process loses sight of it.
pub(super) fn open_sources(spec: &Spec) -> Result<Vec<Option<Source>>, Failure> {
    early(spec, |source, options| open_source(source, options).map(|fd| Some(Source::Opened(fd))))
}

/// What a bind mount binds. A part of a volume is looked for here, by the kernel and inside the volume, not where the
/// container was asked for: whoever writes to the volume could put a link to elsewhere in its place meanwhile.
fn open_source(source: &Path, options: &Options) -> std::io::Result<OwnedFd> {
    let whole = rustix::fs::open(source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    match &options.subpath {
        Some(part) => rooted::open_beneath(whole.as_fd(), part, OFlags::PATH),
        None => Ok(whole),
    }
}

/// Copies of the mounts that cannot be had later: those that are to stay shared with the machine's (once this namespace
/// has cut itself off, a copy would only receive), and those of another container (`/proc/PID/root/...`).
pub(super) fn early_copies(spec: &Spec) -> Result<Vec<Option<Source>>, Failure> {
    early(spec, |source, options| match (other_container(source), options.propagation) {
        (Some((pid, path)), _) => copy_from(pid, &path, options.recursive).map(|t| Some(Source::Tree(t))),
        (None, Some(Propagation::Shared)) => {
            let fd = open_source(source, options)?;
            mount::clone_fd(fd.as_fd(), options.recursive).map(|tree| Some(Source::Tree(tree)))
        }
        _ => Ok(None),
    })
}

/// `/proc/PID/root/PATH` taken apart.
fn other_container(source: &Path) -> Option<(u32, PathBuf)> {
    let mut parts = source.strip_prefix("/proc").ok()?.components();
    let pid = parts.next()?.as_os_str().to_str()?.parse().ok()?;
    (parts.next()?.as_os_str() == "root").then(|| (pid, Path::new("/").join(parts.as_path())))
}

/// A copy of a mount in a process's mount namespace; only from inside one its mounts can be copied.
fn copy_from(pid: u32, path: &Path, recursive: bool) -> std::io::Result<OwnedFd> {
    let open = |path: &str, flags: OFlags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(std::io::Error::from)
    };
    let (home, folder) = (open("/proc/self/ns/mnt", OFlags::RDONLY)?, open(".", OFlags::PATH)?);
    let theirs = open(&format!("/proc/{pid}/ns/mnt"), OFlags::RDONLY)?;
    nix::sched::setns(&theirs, nix::sched::CloneFlags::CLONE_NEWNS)?;
    let tree = mount::clone_tree(path, recursive);
    // Also after a failure: whatever follows happens at home.
    nix::sched::setns(&home, nix::sched::CloneFlags::CLONE_NEWNS)?;
    rustix::process::fchdir(&folder)?;
    tree
}

fn early(
    spec: &Spec,
    get: impl Fn(&Path, &Options) -> std::io::Result<Option<Source>>,
) -> Result<Vec<Option<Source>>, Failure> {
    let one = |m: &Mount| {
        let options = Options::parse(m.options().as_deref().unwrap_or_default());
        let Some(source) =
            m.source().as_deref().filter(|_| options.bind || m.typ().as_deref() == Some("bind"))
        else {
            return Ok(None);
        };
        get(source, &options)
            .step(|| format!("mount {} at {}: open", source.display(), m.destination().display()))
    };
    spec.mounts().iter().flatten().map(one).collect()
}

/// Makes every mount of the specification, in its order; `sources` are those that had to be got hold of early, if any.
pub(super) fn mounts(
    root: BorrowedFd<'_>,
    spec: &Spec,
    env: &Environment<'_>,
    sources: Vec<Option<Source>>,
) -> Result<(), Failure> {
    let mut sources = sources.into_iter();
    for m in spec.mounts().iter().flatten() {
        one(root, m, env, sources.next().flatten())?;
    }
    Ok(())
}

fn one(
    root: BorrowedFd<'_>,
    m: &Mount,
    env: &Environment<'_>,
    opened: Option<Source>,
) -> Result<(), Failure> {
    let options = Options::parse(m.options().as_deref().unwrap_or_default());
    let target = m.destination();
    let kind = m.typ().as_deref().unwrap_or(if options.bind { "bind" } else { "" });
    let what = || {
        format!(
            "mount {} at {}",
            m.source().as_deref().unwrap_or(Path::new(kind)).display(),
            target.display()
        )
    };
    if options.bind || kind == "bind" {
        return bind(root, m, &options, opened)
            .map_err(|f| Failure::setup(format!("{}: {}", what(), f.message)));
    }
    let tree = match kind {
        "cgroup" | "cgroup2" if env.unified => {
            if env.user_namespace && !env.cgroup_namespace {
                return cgroup_v2_bound(root, target, &options, env);
            }
            mount::new_filesystem("cgroup2", Some("cgroup"), &options.data, options.set).step(what)?
        }
        "cgroup" => return cgroup_v1(root, target, &options, env),
        "cgroup2" => {
            mount::new_filesystem("cgroup2", Some("cgroup"), &options.data, options.set).step(what)?
        }
        "sysfs" => match mount::new_filesystem("sysfs", Some("sysfs"), &options.data, options.set) {
            // In the machine's network namespace but not its owner's user namespace: show the machine's.
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied && env.user_namespace => {
                let tree = mount::clone_tree(Path::new("/sys"), true).step(what)?;
                mount::set_attributes(tree.as_fd(), options.set | attr::RDONLY, 0, None, true).step(what)?;
                tree
            }
            other => other.step(what)?,
        },
        "tmpfs" => {
            let mut data = options.data.clone();
            if !data.iter().any(|d| d.starts_with("mode=")) {
                data.push(format!("mode={}", existing_mode(root, target).unwrap_or_else(|| "1777".into())));
            }
            let source = m.source().as_deref().map_or("tmpfs".into(), Path::to_string_lossy);
            mount::new_filesystem("tmpfs", Some(&source), &data, options.set & !attr::RDONLY).step(what)?
        }
        "overlay" => {
            let Overlay { lower, upper, work, rest } = Overlay::of(&options.data);
            let above = upper.as_deref().zip(work.as_deref());
            mount::overlay(&lower, above, &rest, options.set).step(what)?
        }
        "" => return Err(Failure::setup(format!("{}: the mount has no type", what()))),
        _ => {
            let source = m.source().as_deref().map(|s| s.to_string_lossy().into_owned());
            mount::new_filesystem(kind, source.as_deref(), &options.data, options.set).step(what)?
        }
    };
    let at = match kind {
        // A link planted by an image must not lead these somewhere else: what is written below /proc later decides
        // about the container's confinement.
        "proc" | "sysfs" => plain_folder(root, target)?,
        _ => place(root, target, Kind::Folder)?,
    };
    if kind == "tmpfs" && options.copy_up {
        copy_up(at.as_fd(), tree.as_fd()).step(what)?;
    }
    if kind == "tmpfs" && options.set & attr::RDONLY != 0 {
        mount::set_attributes(tree.as_fd(), attr::RDONLY, 0, None, false).step(what)?;
    }
    mount::attach(tree.as_fd(), at.as_fd()).step(what)?;
    if let Some(spread) = options.propagation {
        mount::set_attributes(tree.as_fd(), 0, 0, Some(spread), options.propagation_recursive).step(what)?;
    }
    Ok(())
}

/// The permission bits that the folder under a tmpfs has, which the tmpfs takes over.
fn existing_mode(root: BorrowedFd<'_>, target: &Path) -> Option<String> {
    let fd = rooted::open(root, target, OFlags::PATH, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(fd.as_fd()).ok()?;
    Some(format!("{:o}", stat.st_mode & 0o7777))
}

fn bind(root: BorrowedFd<'_>, m: &Mount, options: &Options, opened: Option<Source>) -> Result<(), Failure> {
    let source = m.source().as_deref().ok_or_else(|| Failure::setup("the bind mount has no source"))?;
    let tree = match opened {
        Some(Source::Tree(tree)) => Ok(tree),
        Some(Source::Opened(fd)) => mount::clone_fd(fd.as_fd(), options.recursive),
        None => open_source(source, options).and_then(|fd| mount::clone_fd(fd.as_fd(), options.recursive)),
    }
    .step(|| format!("open {}", source.display()))?;
    let stat = rustix::fs::fstat(tree.as_fd()).step(|| format!("stat {}", source.display()))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Folder,
        _ => Kind::File,
    };
    if options.set != 0 || options.clear != 0 {
        mount::set_attributes(tree.as_fd(), options.set, options.clear, None, false)
            .step(|| "set mount attributes".into())?;
    }
    if options.recursive_set != 0 || options.recursive_clear != 0 {
        mount::set_attributes(tree.as_fd(), options.recursive_set, options.recursive_clear, None, true)
            .step(|| "set mount attributes recursively".into())?;
    }
    let spread = options.propagation.unwrap_or(Propagation::Private);
    // Cutting it off must come before it is attached; sharing needs no order.
    mount::set_attributes(
        tree.as_fd(),
        0,
        0,
        Some(spread),
        options.propagation.is_none() || options.propagation_recursive,
    )
    .step(|| "set mount propagation".into())?;
    let at = place(root, m.destination(), kind)?;
    mount::attach(tree.as_fd(), at.as_fd()).step(|| "attach".into())
}

/// A place to mount on, made if missing. Nothing may be mounted over parts of /proc but a few harmless files.
fn place(root: BorrowedFd<'_>, target: &Path, kind: Kind) -> Result<OwnedFd, Failure> {
    let at = rooted::ensure(root, target, kind).step(|| format!("make mount point {}", target.display()))?;
    const HARMLESS: [&str; 9] = [
        "cpuinfo",
        "diskstats",
        "meminfo",
        "stat",
        "swaps",
        "uptime",
        "loadavg",
        "slabinfo",
        "sys/kernel/ns_last_pid",
    ];
    if rooted::is_proc(at.as_fd()).step(|| format!("statfs {}", target.display()))? {
        let inside = target.strip_prefix("/proc").unwrap_or(Path::new(""));
        if !HARMLESS.iter().any(|h| Path::new(h) == inside) && inside != Path::new("net/dev") {
            return Err(Failure::setup(format!(
                "{} cannot be mounted because it is inside /proc",
                target.display()
            )));
        }
    }
    Ok(at)
}

/// A folder that is reached without any symbolic link.
fn plain_folder(root: BorrowedFd<'_>, target: &Path) -> Result<OwnedFd, Failure> {
    let relative = target.strip_prefix("/").unwrap_or(target);
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match rooted::open_plain(root, relative, flags) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            rooted::ensure(root, target, Kind::Folder).step(|| format!("make {}", target.display()))?;
            rooted::open_plain(root, relative, flags)
        }
        other => other,
    }
    .step(|| format!("{} must be a plain folder to mount on", target.display()))
}

/// Copies what the image has in a folder into the tmpfs that will cover it.
fn copy_up(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> std::io::Result<()> {
    use rustix::fs::{AtFlags, RawDir};
    let source =
        rustix::fs::openat(from, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = Vec::with_capacity(8192);
    let mut names = Vec::new();
    let mut entries = RawDir::new(&source, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        if entry.file_name() != c"." && entry.file_name() != c".." {
            names.push(entry.file_name().to_owned());
        }
    }
    for name in names {
        let stat = rustix::fs::statat(&source, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                rustix::fs::mkdirat(to, &name, Mode::from_raw_mode(0o700))?;
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = rustix::fs::openat(to, &name, flags, Mode::empty())?;
                let above = rustix::fs::openat(&source, &name, flags, Mode::empty())?;
                copy_up(above.as_fd(), below.as_fd())?;
                rustix::fs::fchmod(&below, mode)?;
            }
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(&source, &name, Vec::new())?;
                rustix::fs::symlinkat(&link, to, &name)?;
            }
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut input =
                    std::fs::File::from(rustix::fs::openat(&source, &name, flags, Mode::empty())?);
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let output = rustix::fs::openat(to, &name, flags, Mode::from_raw_mode(0o600))?;
                let mut output = std::fs::File::from(output);
                std::io::copy(&mut input, &mut output)?;
                rustix::fs::fchmod(&output, mode)?;
            }
            _ => continue, // sockets, FIFOs and devices have no content to copy
        }
        let (uid, gid) = (rustix::fs::Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, &name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

/// Version 2 for root of a user namespace in the machine's cgroup namespace, who may not mount it: the machine's mount,
/// in which nothing belongs to a user of that namespace.
fn cgroup_v2_bound(
    root: BorrowedFd<'_>,
    target: &Path,
    options: &Options,
    env: &Environment<'_>,
) -> Result<(), Failure> {
    let Some(mount_point) = env.cgroup.and_then(Cgroup::v2_mount) else { return Ok(()) };
    let tree = mount::clone_tree(mount_point, false).step(|| format!("bind {}", mount_point.display()))?;
    mount::set_attributes(tree.as_fd(), options.set, 0, Some(Propagation::Private), false)
        .step(|| "set cgroup mount attributes".into())?;
    let at = place(root, target, Kind::Folder)?;
    mount::attach(tree.as_fd(), at.as_fd()).step(|| format!("attach cgroup at {}", target.display()))
}

/// Version 1: a tmpfs with one bind per hierarchy, of the container's own group; nothing of the machine's other groups
/// is in sight, with or without a cgroup namespace.
fn cgroup_v1(
    root: BorrowedFd<'_>,
    target: &Path,
    options: &Options,
    env: &Environment<'_>,
) -> Result<(), Failure> {
    let what = || format!("mount cgroup at {}", target.display());
    let flags = attr::NOSUID | attr::NODEV | attr::NOEXEC;
    let tmpfs = mount::new_filesystem("tmpfs", Some("tmpfs"), &["mode=755".into()], flags).step(what)?;
    let at = place(root, target, Kind::Folder)?;
    mount::attach(tmpfs.as_fd(), at.as_fd()).step(what)?;
    let read_only = options.set & attr::RDONLY;
    for (name, folder) in env.cgroup.map(Cgroup::folders).unwrap_or_default() {
        let tree = mount::clone_tree(&folder, false).step(what)?;
        mount::set_attributes(tree.as_fd(), flags | read_only, 0, Some(Propagation::Private), false)
            .step(what)?;
        rustix::fs::mkdirat(&tmpfs, name.as_str(), Mode::from_raw_mode(0o755)).step(what)?;
        let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let place = rustix::fs::openat(&tmpfs, name.as_str(), open, Mode::empty()).step(what)?;
        mount::attach(tree.as_fd(), place.as_fd()).step(what)?;
        if name.contains(',') {
            for part in name.split(',') {
                rustix::fs::symlinkat(name.as_str(), &tmpfs, part).step(what)?;
            }
        }
    }
    if read_only != 0 {
        mount::set_attributes(tmpfs.as_fd(), attr::RDONLY, 0, None, false).step(what)?;
    }
    Ok(())
}

/// Devices, links and /dev/ptmx, unless /dev is a bind mount.
pub(super) fn devices(root: BorrowedFd<'_>, spec: &Spec, env: &Environment<'_>) -> Result<(), Failure> {
    let is_bind = |m: &Mount| {
        m.destination() == Path::new("/dev")
            && (m.typ().as_deref() == Some("bind")
                || m.options().iter().flatten().any(|o| o == "bind" || o == "rbind"))
    };
    if spec.mounts().iter().flatten().any(is_bind) {
        return Ok(());
    }
    // Modes are exact, whatever the shim's umask is.
    let umask = rustix::process::umask(Mode::empty());
    let result = devices_unmasked(root, spec, env);
    rustix::process::umask(umask);
    result
}

fn devices_unmasked(root: BorrowedFd<'_>, spec: &Spec, env: &Environment<'_>) -> Result<(), Failure> {
    let dev = rooted::ensure(root, Path::new("/dev"), Kind::Folder).step(|| "make /dev".into())?;
    for (name, major, minor) in
        [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)]
    {
        let result = if env.user_namespace {
            bind_device(root, &Path::new("/dev").join(name))
        } else {
            make_node(dev.as_fd(), name, FileType::CharacterDevice, major, minor, 0o666, None)
        };
        result.step(|| format!("make /dev/{name}"))?;
    }
    for device in spec.linux().iter().filter_map(|l| l.devices().as_ref()).flatten() {
        extra_device(root, device, env).step(|| format!("make device {}", device.path().display()))?;
    }
    for (target, name) in [
        ("/proc/self/fd", "fd"),
        ("/proc/self/fd/0", "stdin"),
        ("/proc/self/fd/1", "stdout"),
        ("/proc/self/fd/2", "stderr"),
        ("/proc/kcore", "core"),
        ("pts/ptmx", "ptmx"),
    ] {
        if name == "core" && !Path::new(target).exists() {
            continue; // a kernel without it
        }
        match rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(e) => return Err(e).step(|| format!("link /dev/{name}")),
        }
    }
    Ok(())
}

fn make_node(
    folder: BorrowedFd<'_>,
    name: &str,
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
    owner: Option<(u32, u32)>,
) -> std::io::Result<()> {
    let device = rustix::fs::makedev(major, minor);
    match rustix::fs::mknodat(folder, name, kind, Mode::from_raw_mode(mode), device) {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            // An image may bring its own; it must be the very device.
            let stat = rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == device {
                return Ok(());
            }
            rustix::fs::unlinkat(folder, name, rustix::fs::AtFlags::empty())?;
            rustix::fs::mknodat(folder, name, kind, Mode::from_raw_mode(mode), device)?;
        }
        Err(e) => return Err(e.into()),
    }
    if let Some((uid, gid)) = owner.filter(|o| *o != (0, 0)) {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(folder, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn bind_device(root: BorrowedFd<'_>, path: &Path) -> std::io::Result<()> {
    let tree = mount::clone_tree(path, false)?;
    let at = rooted::ensure(root, path, Kind::File)?;
    mount::attach(tree.as_fd(), at.as_fd())
}

fn extra_device(root: BorrowedFd<'_>, d: &LinuxDevice, env: &Environment<'_>) -> std::io::Result<()> {
    if env.user_namespace {
        return bind_device(root, d.path());
    }
    let kind = match d.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        _ => FileType::CharacterDevice,
    };
    let invalid = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a device's path");
    let (Some(parent), Some(name)) = (d.path().parent(), d.path().file_name().and_then(|n| n.to_str()))
    else {
        return Err(invalid());
    };
    let folder = rooted::ensure(root, parent, Kind::Folder)?;
    let folder =
        rustix::fs::openat(&folder, ".", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mode = d.file_mode().unwrap_or(0o666) & 0o7777;
    let owner = Some((d.uid().unwrap_or(0), d.gid().unwrap_or(0)));
    make_node(folder.as_fd(), name, kind, d.major() as u32, d.minor() as u32, mode, owner)
}

/// Makes the working folder if it is missing, as Docker does for WORKDIR.
pub(super) fn working_folder(
    root: BorrowedFd<'_>,
    cwd: &Path,
    owner: Option<(u32, u32)>,
) -> Result<(), Failure> {
    match rooted::open(root, cwd, OFlags::PATH, Mode::empty()) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        _ => return Ok(()), // there, or wrong in a way that chdir will tell
    }
    let Ok(fd) = rooted::ensure(root, cwd, Kind::Folder) else { return Ok(()) };
    if let Some((uid, gid)) = owner.filter(|o| *o != (0, 0)) {
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(&fd, "", Some(uid), Some(gid), rustix::fs::AtFlags::EMPTY_PATH)
            .step(|| format!("chown {}", cwd.display()))?;
    }
    Ok(())
}

/// Hides and write-protects paths. The process is inside its root; `null` is the machine's /dev/null.
pub(super) fn hide(linux: &Linux, null: OwnedFd) -> Result<(), Failure> {
    let root =
        rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step(|| "open /".into())?;
    for path in linux.readonly_paths().iter().flatten() {
        let what = || format!("make {path} read-only");
        let Some(at) = existing(root.as_fd(), Path::new(path)).step(what)? else { continue };
        let tree = mount::clone_fd(at.as_fd(), true).step(what)?;
        mount::set_attributes(tree.as_fd(), attr::RDONLY, 0, None, true).step(what)?;
        mount::attach(tree.as_fd(), at.as_fd()).step(what)?;
    }
    // One null device covers every hidden file, one empty tmpfs every hidden folder.
    let mut file = Cover { mount: Some(null), attached: false };
    let mut folder = Cover { mount: None, attached: false };
    for path in linux.masked_paths().iter().flatten() {
        let what = || format!("mask {path}");
        let Some(at) = existing(root.as_fd(), Path::new(path)).step(what)? else { continue };
        let stat = rustix::fs::fstat(at.as_fd()).step(what)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => folder.put(at.as_fd()),
            _ => file.put(at.as_fd()),
        }
        .step(what)?;
    }
    Ok(())
}

/// A mount that is put over several places. The first takes the mount itself, the others copies of it: kernels before
/// 6.15 copy attached mounts only.
struct Cover {
    mount: Option<OwnedFd>,
    attached: bool,
}

impl Cover {
    fn put(&mut self, at: BorrowedFd<'_>) -> std::io::Result<()> {
        let mount = match &self.mount {
            Some(mount) => mount,
            None => {
                let options = ["nr_blocks=1".into(), "nr_inodes=1".into(), "mode=755".into()];
                self.mount.insert(mount::new_filesystem("tmpfs", Some("tmpfs"), &options, attr::RDONLY)?)
            }
        };
        if self.attached {
            return mount::attach(mount::clone_fd(mount.as_fd(), false)?.as_fd(), at);
        }
        mount::attach(mount.as_fd(), at)?;
        self.attached = true;
        Ok(())
    }
}

fn existing(root: BorrowedFd<'_>, path: &Path) -> std::io::Result<Option<OwnedFd>> {
    match rooted::open(root, path, OFlags::PATH, Mode::empty()) {
        Ok(fd) => Ok(Some(fd)),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// The machine's /dev/null, proven to be that device, as a detached mount to put over files. It is read-only, which
/// keeps nobody from writing to the device: its mode and owner are the machine's, and not for a container to change.
pub(super) fn null_device() -> Result<OwnedFd, Failure> {
    let tree = mount::clone_tree(Path::new("/dev/null"), false).step(|| "open /dev/null".into())?;
    if !is_null_device(&tree) {
        return Err(Failure::setup("/dev/null of this machine is not the null device"));
    }
    let attributes = attr::RDONLY | attr::NOSUID | attr::NOEXEC;
    mount::set_attributes(tree.as_fd(), attributes, 0, Some(Propagation::Private), false)
        .step(|| "set attributes of /dev/null".into())?;
    Ok(tree)
}

/// The same, opened for reading.
pub(super) fn open_null_device() -> Result<OwnedFd, Failure> {
    let tree = null_device()?;
    let path = format!("/proc/self/fd/{}", tree.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).step(|| "open /dev/null".into())
}

/// Whether a file is the null device.
pub(super) fn is_null_device(file: &OwnedFd) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| {
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
            && stat.st_rdev == rustix::fs::makedev(1, 3)
    })
}

/// The container's own and genuine /proc/sys, as it is before it is made read-only, if there are parameters to be set.
pub(super) fn parameters(linux: &Linux) -> Result<Option<OwnedFd>, Failure> {
    if linux.sysctl().as_ref().is_none_or(|s| s.is_empty()) {
        return Ok(None);
    }
    let root = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", root, Mode::empty()).step(|| "open /".into())?;
    let sys = rooted::open_plain(root.as_fd(), Path::new("proc/sys"), OFlags::PATH | OFlags::DIRECTORY)
        .step(|| "open /proc/sys".into())?;
    if !rooted::is_proc(sys.as_fd()).step(|| "statfs /proc/sys".into())? {
        return Err(Failure::setup("/proc of the container is not a procfs: refusing to set sysctls"));
    }
    Ok(Some(sys))
}

/// Sets kernel parameters through what [`parameters`] gave.
pub(super) fn sysctls(parameters: BorrowedFd<'_>, linux: &Linux) -> Result<(), Failure> {
    for (name, value) in linux.sysctl().iter().flatten() {
        let what = || format!("set sysctl {name}");
        let path = sysctl_path(name)?;
        let fd = rooted::open_plain(parameters, &path, OFlags::WRONLY | OFlags::NOCTTY).step(what)?;
        rustix::io::write(&fd, value.as_bytes()).step(what)?;
    }
    Ok(())
}

/// Where a parameter is below /proc/sys.
pub(super) fn sysctl_path(name: &str) -> Result<PathBuf, Failure> {
    crate::sysctl::path(name)
        .ok_or_else(|| Failure::setup(format!("{name:?} is no name of a kernel parameter")))
}
