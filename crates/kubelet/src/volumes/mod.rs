//! The volumes of a pod: set up before its containers, kept up to date while it runs, taken away with it.
//!
//! Promises: what comes from objects (ConfigMaps, Secrets, tokens, the downward API) lies below the run folder, which is
//! not kept over a reboot, and changes as a whole ([`atomic`]); what containers write lies below the data folder.
//! Leaves mounting into containers to `spec`.

pub mod atomic;
mod payload;

pub use payload::Tokens;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags};
use rustix::io::Errno;
use sys::rooted;
use tokio::time::Instant;

use crate::context::Context;
use crate::view::{EmptyDir, HostPath, Pod, Volume};

/// Where a volume is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// A folder, or for `hostPath` whatever is there.
    pub path: PathBuf,
    /// Containers may not write, whatever they ask for.
    pub read_only: bool,
}

/// All volumes of a pod.
#[derive(Debug, Clone, Default)]
pub struct Mounted {
    /// By the volume's name.
    pub sources: BTreeMap<String, Source>,
    /// When a token among them must be renewed.
    pub renew: Option<Instant>,
}

/// Sets up every volume of the pod, or brings them up to date. The error is for the pod's events.
/// `fresh`: none of the pod's containers has run yet, so that nobody minds whose the files of its volumes are.
pub async fn prepare(context: &Context, pod: &Pod, fresh: bool) -> Result<Mounted, String> {
    let mut mounted = Mounted::default();
    for volume in &pod.spec.volumes {
        let source = one(context, pod, volume, fresh, &mut mounted.renew)
            .await
            .map_err(|e| format!("MountVolume.SetUp failed for volume \"{}\" : {e}", volume.name))?;
        mounted.sources.insert(volume.name.clone(), source);
    }
    Ok(mounted)
}

async fn one(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    fresh: bool,
    renew: &mut Option<Instant>,
) -> Result<Source, String> {
    let group = pod.spec.security_context.fs_group.and_then(|g| u32::try_from(g).ok());
    // What containers write to is given to the group once: afterwards modes are theirs to change.
    let given = group.filter(|_| fresh);
    if let Some(dir) = &volume.empty_dir {
        let memory = dir.medium == "Memory";
        let path = if memory { context.volatile(&pod.uid) } else { context.durable(&pod.uid) };
        let path = path.join("volumes/kubernetes.io~empty-dir").join(&volume.name);
        let (target, dir) = (path.clone(), dir.clone());
        blocking(move || empty_dir(&target, &dir, group)).await?;
        return Ok(Source { path, read_only: false });
    }
    if let Some(host) = &volume.host_path {
        let host = host.clone();
        let path = PathBuf::from(&host.path);
        blocking(move || host_path(&host)).await?;
        return Ok(Source { path, read_only: false });
    }
    if let Some(claim) = &volume.persistent_volume_claim {
        return claimed(context, pod, &claim.claim_name, claim.read_only, given).await;
    }
    if volume.ephemeral.is_some() {
        let claim = api::podrefs::ephemeral_claim(&pod.name, &volume.name);
        return claimed(context, pod, &claim, false, given).await;
    }
    if let Some((kind, payload)) = payload::of(context, pod, volume, renew).await? {
        let path = context.volatile(&pod.uid).join("volumes").join(kind).join(&volume.name);
        let target = path.clone();
        blocking(move || atomic::write(&target, &payload, group).map(|_| ())).await?;
        return Ok(Source { path, read_only: true });
    }
    Err("this node supports emptyDir, hostPath, configMap, secret, downwardAPI, projected and persistentVolumeClaim \
         (hostPath, local) volumes, and this is none of them"
        .into())
}

async fn blocking(work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    }
}

fn empty_dir(path: &Path, spec: &EmptyDir, group: Option<u32>) -> io::Result<()> {
    let mut new = !path.exists();
    fs::create_dir_all(path)?;
    if spec.medium == "Memory" && !is_mount(path)? {
        new = true;
        let size = spec.size_limit.as_ref().and_then(|v| api::quantity::Quantity::of_value(v).ok());
        let options = match size.filter(|q| !q.is_zero()) {
            Some(size) => format!("mode=777,size={}", size.value()),
            None => "mode=777".to_owned(),
        };
        mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some(options.as_str()),
        )?;
    }
    if new { own(path, group, 0o777) } else { Ok(()) }
}

/// Gives a volume's root to the pod's group.
fn own(path: &Path, group: Option<u32>, mode: u32) -> io::Result<()> {
    let mode = match group {
        Some(_) => {
            chown(path, None, group)?;
            mode | 0o2070
        }
        None => mode,
    };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Gives everything in a volume to the pod's group, unless its root is the group's already and that is enough.
fn own_all(path: &Path, group: Option<u32>, root_is_enough: bool) -> io::Result<()> {
    let Some(gid) = group else { return Ok(()) };
    let root = fs::symlink_metadata(path)?;
    if root_is_enough && root.gid() == gid && root.mode() & 0o2070 == 0o2070 {
        return Ok(());
    }
    let flags = OFlags::PATH | OFlags::NOFOLLOW;
    let root = rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?;
    let mut stack = vec![PathBuf::new()];
    while let Some(path) = stack.pop() {
        // By descriptors: other pods may be writing to the volume, and a link put in the way must not be followed.
        let fd = match rooted::open_plain(root.as_fd(), &path, flags) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && !path.as_os_str().is_empty() => continue,
            other => other?,
        };
        let stat = rustix::fs::fstat(&fd)?;
        rustix::fs::chownat(&fd, "", None, Some(Gid::from_raw(gid)), AtFlags::EMPTY_PATH)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Symlink {
            continue;
        }
        let extra = if kind == FileType::Directory { 0o2070 } else { 0o060 };
        let mode = fs::Permissions::from_mode(stat.st_mode & 0o7777 | extra);
        fs::set_permissions(format!("/proc/self/fd/{}", fd.as_raw_fd()), mode)?;
        if kind == FileType::Directory {
            let list = rustix::fs::openat(
                &fd,
                ".",
                OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )?;
            for entry in rustix::fs::Dir::new(list)? {
                let entry = entry?;
                let name = OsStr::from_bytes(entry.file_name().to_bytes());
                if name != "." && name != ".." {
                    stack.push(path.join(name));
                }
            }
        }
    }
    Ok(())
}

fn host_path(spec: &HostPath) -> io::Result<()> {
    let path = Path::new(&spec.path);
    let found = fs::metadata(path);
    let wrong = |what: &str| {
        Err(io::Error::other(format!("hostPath type check failed: {} is not a {what}", spec.path)))
    };
    match spec.kind.as_str() {
        // Nothing is promised about it; a folder where there is nothing, as Docker and containerd do.
        "" => match found {
            Ok(_) => Ok(()),
            Err(_) => fs::create_dir_all(path),
        },
        "DirectoryOrCreate" => match found {
            Ok(meta) if meta.is_dir() => Ok(()),
            Ok(_) => wrong("directory"),
            Err(_) => fs::create_dir_all(path),
        },
        "FileOrCreate" => match found {
            Ok(meta) if meta.is_file() => Ok(()),
            Ok(_) => wrong("file"),
            Err(_) => fs::write(path, b""),
        },
        kind => {
            let is = |test: fn(&fs::Metadata) -> bool| found.as_ref().is_ok_and(test);
            let (fine, what) = match kind {
                "Directory" => (is(fs::Metadata::is_dir), "directory"),
                "File" => (is(fs::Metadata::is_file), "file"),
                "Socket" => (is(|m| m.file_type().is_socket()), "socket file"),
                "CharDevice" => (is(|m| m.file_type().is_char_device()), "character device"),
                "BlockDevice" => (is(|m| m.file_type().is_block_device()), "block device"),
                other => return Err(io::Error::other(format!("unknown hostPath type {other:?}"))),
            };
            if fine { Ok(()) } else { wrong(what) }
        }
    }
}

/// The volume behind a claim.
async fn claimed(
    context: &Context,
    pod: &Pod,
    name: &str,
    read_only: bool,
    group: Option<u32>,
) -> Result<Source, String> {
    let claim = context
        .client
        .get(&client::gvr::PERSISTENT_VOLUME_CLAIMS, &pod.namespace, name)
        .await
        .map_err(|e| e.to_string())?;
    let volume = claim.spec()["volumeName"].as_str().unwrap_or_default();
    if volume.is_empty() || claim.status()["phase"] != "Bound" {
        return Err(format!("persistentvolumeclaim \"{name}\" is not bound"));
    }
    let volume =
        context.client.get(&client::gvr::PERSISTENT_VOLUMES, "", volume).await.map_err(|e| e.to_string())?;
    let spec = volume.spec();
    let path = spec["hostPath"]["path"].as_str().or(spec["local"]["path"].as_str());
    let Some(path) = path.map(PathBuf::from) else {
        return Err(format!(
            "persistentvolume \"{}\" is of a kind that this node cannot mount: hostPath and local are supported",
            volume.name()
        ));
    };
    let is_local = spec["local"].is_object();
    let kind = spec["hostPath"]["type"].as_str().unwrap_or_default().to_owned();
    let root_is_enough = pod.spec.security_context.fs_group_change_policy == "OnRootMismatch";
    let target = path.clone();
    blocking(move || {
        if is_local {
            fs::metadata(&target)?;
            own_all(&target, group, root_is_enough)
        } else {
            host_path(&HostPath { path: target.to_string_lossy().into_owned(), kind })
        }
    })
    .await?;
    let read_only =
        read_only || spec["accessModes"].as_array().is_some_and(|m| m.iter().all(|m| m == "ReadOnlyMany"));
    Ok(Source { path, read_only })
}

/// Makes sure that there is a `sub` inside a volume: a folder, like the one it lies in, if there is nothing. No link may lead
/// out of the volume. What is there is looked for once more when it is mounted ([`runtime::SUBPATH`]).
pub fn sub_path(volume: &Path, sub: &str) -> io::Result<()> {
    let outside = || io::Error::other(format!("subPath {sub:?} leads out of the volume"));
    let beneath = |root: BorrowedFd<'_>, path: &Path, flags| match rooted::open_beneath(root, path, flags) {
        Err(e) if e.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => Err(outside()),
        other => other,
    };
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    let (mut folder, mut path) = (root.try_clone()?, PathBuf::new());
    for part in Path::new(sub).components() {
        let std::path::Component::Normal(part) = part else { return Err(outside()) };
        path.push(part);
        folder = match beneath(root.as_fd(), &path, OFlags::PATH) {
            // Where a link points at nothing, mkdirat(2) finds the link there.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                rustix::fs::mkdirat(&folder, part, Mode::RWXU)?;
                let mode = rustix::fs::fstat(&folder)?.st_mode & 0o7777;
                let made =
                    beneath(root.as_fd(), &path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW)?;
                rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
                made
            }
            other => other?,
        };
    }
    Ok(())
}

/// Removes what `prepare` made; claims and host paths stay. Idempotent.
pub fn remove(volatile: &Path, durable: &Path) -> io::Result<()> {
    for dir in [volatile, durable] {
        unmount_below(dir)?;
        match sys::tree::remove(dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// Unmounts whatever is mounted below a folder, also what a container has left there through a mount that spreads to the
/// node: what lies behind it is not the pod's.
fn unmount_below(dir: &Path) -> io::Result<()> {
    let dir = match fs::canonicalize(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(sys::mount::unescape);
    let below: Vec<PathBuf> = points.filter(|p| p.starts_with(&dir) && *p != dir).collect();
    // What was mounted last lies on top.
    for point in below.iter().rev() {
        match umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            // It went with another one.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(e) => return Err(io::Error::other(format!("unmount {}: {e}", point.display()))),
        }
    }
    Ok(())
}

fn is_mount(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(path);
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}

/// When to renew something that lives until `end`: after four fifths, as upstream does.
pub(crate) fn renewal(lifetime: Duration) -> Instant {
    Instant::now() + lifetime.mul_f64(0.8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_path_types() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name).to_string_lossy().into_owned();
        fs::write(path("file"), "x").unwrap();
        fs::create_dir(path("dir")).unwrap();
        let table = [
            ("new1", "", true),
            ("file", "", true),
            ("new2", "DirectoryOrCreate", true),
            ("file", "DirectoryOrCreate", false),
            ("new3", "FileOrCreate", true),
            ("dir", "FileOrCreate", false),
            ("dir", "Directory", true),
            ("none", "Directory", false),
            ("file", "File", true),
            ("file", "Socket", false),
            ("file", "what", false),
        ];
        for (name, kind, fine) in table {
            let got = host_path(&HostPath { path: path(name), kind: kind.into() });
            assert_eq!(got.is_ok(), fine, "{name} {kind}: {got:?}");
        }
        assert!(Path::new(&path("new1")).is_dir() && Path::new(&path("new3")).is_file());
    }

    #[test]
    fn sub_paths_stay_inside() {
        let temp = tempfile::tempdir().unwrap();
        let volume = temp.path().join("v");
        fs::create_dir(&volume).unwrap();
        fs::set_permissions(&volume, fs::Permissions::from_mode(0o777)).unwrap();
        sub_path(&volume, "a/b").unwrap();
        let made = fs::metadata(volume.join("a/b")).unwrap();
        assert!(made.is_dir() && made.mode() & 0o7777 == 0o777, "{made:?}");
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("a", volume.join("in")).unwrap();
        std::os::unix::fs::symlink("/none-such", volume.join("dangling")).unwrap();
        assert!(sub_path(&volume, "in/b").is_ok());
        for bad in ["out", "out/passwd", "../x", "/etc", "dangling"] {
            assert!(sub_path(&volume, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn memory_volumes_come_and_go() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let (volatile, durable) = (temp.path().join("run"), temp.path().join("data"));
        let path = volatile.join("volumes/kubernetes.io~empty-dir/m");
        let spec = EmptyDir { medium: "Memory".into(), size_limit: Some("1Mi".into()) };
        empty_dir(&path, &spec, Some(1234)).unwrap();
        empty_dir(&path, &spec, Some(1234)).unwrap();
        assert!(is_mount(&path).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().gid(), 1234);
        assert!(fs::write(path.join("big"), vec![0; 2 << 20]).is_err());
        remove(&volatile, &durable).unwrap();
        remove(&volatile, &durable).unwrap();
        assert!(!volatile.exists());
    }

    #[test]
    fn what_was_mounted_below_a_volume_is_not_emptied() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let temp = tempfile::tempdir().unwrap();
        let (volatile, durable, theirs) =
            (temp.path().join("run"), temp.path().join("data"), temp.path().join("theirs"));
        fs::create_dir_all(theirs.join("deep")).unwrap();
        fs::write(theirs.join("deep/file"), "x").unwrap();
        for folder in [&volatile, &durable] {
            let at = folder.join("volumes/kubernetes.io~empty-dir/v/a b");
            fs::create_dir_all(&at).unwrap();
            // Twice in one place, and once within.
            for (from, to) in [(&theirs, &at), (&theirs, &at), (&theirs.join("deep"), &at.join("deep"))] {
                mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            }
        }
        remove(&volatile, &durable).unwrap();
        assert!(!volatile.exists() && !durable.exists());
        assert_eq!(fs::read_to_string(theirs.join("deep/file")).unwrap(), "x");
    }
}
