//! A container's files: `cp`, `diff`, `export`.
//!
//! Paths are resolved inside the container's root by descriptors that cannot be led out of it: of a running
//! container the root as its processes see it, of a stopped one its layers with its volumes, mounted where no path
//! leads.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use image::archive::{self, ExtractOptions, TarOptions, root};
use runtime::shim::users::Database;
use rustix::fs::{FileType, Mode, OFlags};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, mpsc};

use crate::Engine;
use crate::container::Container;
use crate::error::{Error, Result, forbidden, invalid, not_found};
use crate::mounts::MountPoint;
use crate::volumes::{LOCAL, blocking};

/// What stands at a path, as the header `X-Docker-Container-Path-Stat` says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PathStat {
    /// The last component.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// Go's `os.FileMode`.
    pub mode: u32,
    /// When its content changed last.
    pub mtime: String,
    /// Where a symbolic link leads.
    pub link_target: String,
}

/// Pieces of an archive that is being made.
pub type Pieces = mpsc::Receiver<std::io::Result<Bytes>>;

/// Hands what is written to it to an asynchronous reader, in pieces of at most 64 KiB.
struct Sender {
    to: mpsc::Sender<std::io::Result<Bytes>>,
    buffer: Vec<u8>,
}

impl Write for Sender {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() >= 1 << 16 {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.buffer));
        self.to.blocking_send(Ok(piece)).map_err(|_| std::io::ErrorKind::BrokenPipe.into())
    }
}

/// Runs `pack` on a thread of its own; what it writes can be read from the result.
fn stream(pack: impl FnOnce(&mut dyn Write) -> image::Result<()> + Send + 'static) -> Pieces {
    let (to, pieces) = mpsc::channel(8);
    let unstarted = to.clone();
    let packing = image::blocking_on_stream::<(), image::Error>(move || {
        let mut sender = Sender { to, buffer: Vec::with_capacity(1 << 16) };
        let result =
            pack(&mut sender).map_err(|e| std::io::Error::other(e.to_string())).and_then(|()| sender.flush());
        if let Err(error) = result {
            let _ = sender.to.blocking_send(Err(error)); // the reader may be gone
        }
        Ok(())
    });
    tokio::spawn(async move {
        if let Err(error) = packing.await {
            let _ = unstarted.send(Err(std::io::Error::other(error.to_string()))).await; // the same
        }
    });
    pieces
}

/// A folder that a path of a container is looked up in.
struct Root {
    fd: OwnedFd,
    /// The path in it.
    inside: PathBuf,
    /// The container's ids, if what lies there has them mapped.
    ids: Option<sys::userns::IdMaps>,
}

/// While it is held a container is not started, if [`Container::layers`] is what somebody writes into.
enum Held {
    Nothing,
    Shared { _guard: OwnedRwLockReadGuard<()> },
    Alone { _guard: OwnedRwLockWriteGuard<()> },
    Volumes { _volumes: Volumes },
}

/// The volumes of a container without a process that are held to look into them; the container is not started before
/// they are let go of.
struct Volumes {
    engine: Arc<Engine>,
    container: Arc<Container>,
    guard: Option<OwnedRwLockWriteGuard<()>>,
}

impl Drop for Volumes {
    fn drop(&mut self) {
        let (engine, container, guard) = (self.engine.clone(), self.container.clone(), self.guard.take());
        self.engine.tasks.spawn(async move {
            engine.release_volumes(&container, false).await;
            drop(guard);
        });
    }
}

/// How an archive is extracted into a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extraction {
    /// A folder does not take the place of something else, nor something else that of a folder.
    pub no_overwrite: bool,
    /// Everything belongs to the user that the container's processes run as, if one is configured.
    pub as_user: bool,
}

/// Go's `os.FileMode` of a kernel mode.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => (1 << 26) | (1 << 21),
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let bit = |from: u32, to: u32| if mode & from != 0 { to } else { 0 };
    (mode & 0o777) | kind | bit(0o4000, 1 << 23) | bit(0o2000, 1 << 22) | bit(0o1000, 1 << 20)
}

/// The last component of a path as Go's `filepath.Base` has it, a final `/.` being kept as `.`.
fn base_name(path: &str) -> String {
    if path.ends_with("/.") || path == "." {
        return ".".into();
    }
    match path.trim_end_matches('/').rsplit('/').next() {
        None | Some("") => "/".into(),
        Some(name) => name.to_owned(),
    }
}

/// Whether the path says that it means a folder (`/x/`, `/x/.`), so that a symbolic link there is followed.
fn means_folder(path: &str) -> bool {
    path.ends_with('/') || path.ends_with("/.")
}

impl Engine {
    /// The root that a path of the container is to be looked up in, and the path inside it, behind what has to last longer
    /// than it: what is declared first is dropped last.
    async fn root(
        self: &Arc<Self>,
        container: &Arc<Container>,
        path: &str,
        writable: bool,
    ) -> Result<(Held, Root)> {
        loop {
            let shared = match writable {
                true => Some(container.layers.clone().read_owned().await),
                false => None,
            };
            if let Some(root) = live_root(container, path)? {
                return Ok((shared.map_or(Held::Nothing, |_guard| Held::Shared { _guard }), root));
            }
            drop(shared);
            let guard = container.layers.clone().write_owned().await;
            if !container.phase().alive() {
                return self.resting_root(container, path, writable, guard).await;
            }
            // It was started in between.
        }
    }

    /// The root of a container without a process: its layers, with its volumes and binds in them.
    async fn resting_root(
        self: &Arc<Self>,
        container: &Arc<Container>,
        path: &str,
        writable: bool,
        guard: OwnedRwLockWriteGuard<()>,
    ) -> Result<(Held, Root)> {
        let asked = container.lock().asked.clone();
        let (mounts, readonly, mut ids) = (asked.mounts, asked.host.readonly_rootfs, asked.ids);
        let mut inside = cleaned(path);
        let mut points: Vec<MountPoint> =
            mounts.into_iter().filter(|m| matches!(m.kind.as_str(), "bind" | "volume")).collect();
        // The outer ones first.
        points.sort_by_key(|m| m.destination.len());
        let on = points.iter().rposition(|m| inside.starts_with(&m.destination));
        match on.and_then(|at| points.get(at)) {
            Some(point) if writable && !point.rw => {
                return Err(forbidden("mounted volume is marked read-only"));
            }
            None if writable && readonly => return Err(forbidden("container rootfs is marked read-only")),
            _ => {}
        }
        // What is read is mounted apart from what the container itself will have, but for what its plugin takes away.
        let lasting = writable || points.iter().any(|p| p.kind == "volume" && p.driver != LOCAL);
        // To mount something in the layers a place for it may have to be made there.
        let held = if points.iter().any(|p| p.kind == "volume") {
            let (engine, container) = (self.clone(), container.clone());
            Held::Volumes { _volumes: Volumes { engine, container, guard: Some(guard) } }
        } else if writable || !points.is_empty() {
            Held::Alone { _guard: guard }
        } else {
            Held::Nothing
        };
        let mut base = None;
        if ids.is_some() {
            // Volumes hold the container's ids as they are on this machine, its layers as they are in it: not both are in sight.
            let under = on.map(|at| points.remove(at)).filter(|p| p.kind == "volume" || p.source.is_dir());
            points.retain(|p| {
                under.as_ref().is_some_and(|u| Path::new(&p.destination).starts_with(&u.destination))
            });
            match under {
                Some(point) => {
                    base = Some(self.part(container, &point).await?);
                    let below = |path: &Path| {
                        Path::new("/").join(path.strip_prefix(&point.destination).unwrap_or(Path::new("")))
                    };
                    inside = below(&inside);
                    for p in &mut points {
                        p.destination = below(Path::new(&p.destination)).to_string_lossy().into_owned();
                    }
                }
                None => ids = None,
            }
        }
        let mut parts = Vec::new();
        for point in &points {
            match self.part(container, point).await {
                Ok(part) => parts.push((PathBuf::from(&point.destination), part)),
                Err(Error::NotFound(_)) if point.kind == "bind" => {} // its source is gone
                Err(error) => return Err(error),
            }
        }
        let snapshot = self.images.snapshot(&container.id)?;
        let fd = blocking(move || {
            let layers =
                |writable| snapshot.mount(writable).map_err(Error::io("mounting the container's layers"));
            let failed = || Error::io("mounting the container's volumes");
            let whole_writable = base.is_some() || (writable && !readonly);
            let root = match base {
                Some(base) => base,
                None if writable => layers(whole_writable || !parts.is_empty())?,
                None => {
                    let inside = |path: &Path| parts.iter().any(|(p, _)| p != path && path.starts_with(p));
                    let outer = || parts.iter().filter(|(path, _)| !inside(path));
                    let root = layers(false)?;
                    match outer().all(|(path, _)| root::stat(root.as_fd(), path, true).is_ok()) {
                        true => root,
                        false => {
                            drop(root);
                            // Made in the layers, and then seen without anything that could be written to.
                            sys::mount::make_places(layers(true)?.as_fd(), outer()).map_err(failed())?;
                            layers(false)?
                        }
                    }
                }
            };
            if parts.is_empty() {
                return Ok(root);
            }
            let whole = sys::mount::compose(root.as_fd(), &parts).map_err(failed())?;
            if !whole_writable {
                sys::mount::set_attributes(whole.as_fd(), sys::mount::attr::RDONLY, 0, None, false)
                    .map_err(failed())?;
            }
            Ok(whole)
        })
        .await?;
        let held = if lasting { held } else { Held::Nothing };
        Ok((held, Root { fd, inside, ids }))
    }

    /// What is mounted at a point of a container, as a mount that no path leads to. Volumes are held for it.
    async fn part(&self, container: &Container, point: &MountPoint) -> Result<OwnedFd> {
        let source = match point.kind.as_str() {
            "volume" => self.hold_volume(container, &point.name).await?,
            _ => point.source.clone(),
        };
        let mut fd = rustix::fs::open(&source, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(
            |e| match e {
                rustix::io::Errno::NOENT => not_found(source.display().to_string()),
                e => Error::io(source.display())(e.into()),
            },
        )?;
        if !point.subpath.is_empty() {
            fd = root::open(fd.as_fd(), Path::new(&point.subpath), OFlags::PATH)
                .map_err(Error::io(format!("{} of volume {}", point.subpath, point.name)))?;
        }
        let recursive = !point.non_recursive;
        let read_only = if point.rw { 0 } else { sys::mount::attr::RDONLY };
        let private = Some(sys::mount::Propagation::Private);
        sys::mount::clone_fd(fd.as_fd(), recursive)
            .and_then(|tree| {
                sys::mount::set_attributes(tree.as_fd(), read_only, 0, private, recursive)?;
                Ok(tree)
            })
            .map_err(Error::io(source.display()))
    }

    /// The users and groups that a container knows by name.
    async fn users(&self, container: &Container) -> Result<Database> {
        let fd = match live_root(container, "/")? {
            Some(root) => root.fd,
            None => {
                let snapshot = self.images.snapshot(&container.id)?;
                return blocking(move || users_of(&snapshot)).await;
            }
        };
        blocking(move || Ok(Database::read_in(fd.as_fd()))).await
    }

    /// What stands at a path.
    pub async fn path_stat(self: &Arc<Self>, reference: &str, path: &str) -> Result<PathStat> {
        let container = self.find(reference)?;
        let (_held, Root { fd, inside, .. }) = self.root(&container, path, false).await?;
        self.stat_in(reference, &fd, &inside, path)
    }

    fn stat_in(&self, container: &str, fd: &OwnedFd, inside: &Path, path: &str) -> Result<PathStat> {
        let missing = |e: std::io::Error| match e.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => {
                not_found(format!("Could not find the file {path} in container {container}"))
            }
            _ => Error::io(path)(e),
        };
        let stat = root::stat(fd.as_fd(), inside, means_folder(path)).map_err(missing)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if means_folder(path) && kind != FileType::Directory {
            return Err(not_found(format!(
                "Could not find the file {path} in container {container}: not a directory"
            )));
        }
        let mut target = String::new();
        if kind == FileType::Symlink {
            let link = root::read_link(fd.as_fd(), inside).map_err(missing)?;
            let parent = inside.parent().unwrap_or(Path::new("/"));
            target = crate::mounts::clean(&parent.join(link).to_string_lossy());
        }
        let mtime = jiff::Timestamp::new(stat.st_mtime, i32::try_from(stat.st_mtime_nsec).unwrap_or(0));
        Ok(PathStat {
            name: base_name(path),
            size: stat.st_size,
            mode: go_mode(stat.st_mode),
            mtime: base::clock::rfc3339_nano(mtime.unwrap_or_default()),
            link_target: target,
        })
    }

    /// A tar of what is at a path.
    pub async fn archive_get(self: &Arc<Self>, reference: &str, path: &str) -> Result<(PathStat, Pieces)> {
        let container = self.find(reference)?;
        let (held, Root { fd, inside, ids }) = self.root(&container, path, false).await?;
        let stat = self.stat_in(reference, &fd, &inside, path)?;
        let name = if stat.name == "/" { ".".to_owned() } else { stat.name.clone() };
        let options =
            TarOptions { name: Some(name), follow: means_folder(path), ids, ..TarOptions::default() };
        self.container_event(&container, "archive-path", &[]);
        let read = move |out: &mut dyn Write| {
            // In this order: the root is let go of first.
            let _held = held;
            let fd = fd;
            archive::tar_of(fd.as_fd(), &inside, &options, out)
        };
        Ok((stat, stream(read)))
    }

    /// Extracts a tar at a path, which must be a folder.
    pub async fn archive_put(
        self: &Arc<Self>,
        reference: &str,
        path: &str,
        tar: impl std::io::Read + Send + 'static,
        how: Extraction,
    ) -> Result<()> {
        let container = self.find(reference)?;
        let user = container.lock().asked.config.user.clone();
        let owner = match how.as_user && !user.is_empty() {
            true => {
                let id = self.users(&container).await?.resolve(&user).map_err(invalid)?;
                Some((id.uid, id.gid))
            }
            false => None,
        };
        let (held, Root { fd, inside, ids }) = self.root(&container, path, true).await?;
        let folder = format!("{}/", path.trim_end_matches('/'));
        let stat = root::stat(fd.as_fd(), &inside, true).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                not_found(format!("Could not find the file {path} in container {reference}"))
            }
            _ => Error::io(&folder)(e),
        })?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(invalid("extraction point is not a directory"));
        }
        image::blocking_on_stream(move || {
            // In this order: the root is let go of first.
            let _held = held;
            let fd = fd;
            let root = ids.as_ref().map(sys::userns::IdMaps::root);
            let options = ExtractOptions {
                no_overwrite_dir_non_dir: how.no_overwrite,
                owner,
                ids,
                ..ExtractOptions::default()
            };
            let extract = || archive::extract_into(fd.as_fd(), &inside, tar, &options);
            let extracted = match root {
                None => extract(),
                // In a root with mapped ids only they can make files. The thread goes back to what it was.
                Some((uid, gid)) => sys::userns::with_file_ids(uid, gid, extract)
                    .map_err(Error::io("taking the container's ids"))?,
            };
            match extracted {
                Ok(_) => Ok(()),
                Err(e) if e.to_string().contains("Read-only file system") => {
                    Err(forbidden("mounted volume or container rootfs is marked read-only"))
                }
                Err(e) => Err(e.into()),
            }
        })
        .await?;
        self.container_event(&container, "extract-to-dir", &[]);
        Ok(())
    }

    /// The container's whole file system as a tar, without its volumes.
    pub async fn export(&self, reference: &str) -> Result<Pieces> {
        let container = self.find(reference)?;
        let snapshot = self.images.snapshot(&container.id)?;
        let fd =
            blocking(move || snapshot.mount(false).map_err(Error::io("mounting the container's layers")))
                .await?;
        self.container_event(&container, "export", &[]);
        let options = TarOptions { name: Some(String::new()), ..TarOptions::default() };
        Ok(stream(move |out| archive::tar_of(fd.as_fd(), Path::new("/"), &options, out)))
    }

    /// What the container changed of its image.
    pub async fn changes(&self, reference: &str) -> Result<Value> {
        let container = self.find(reference)?;
        let all = self.images.changes(&container.id).await?;
        Ok(Value::Array(all.into_iter().map(|c| json!({"Path": c.path, "Kind": c.kind as u8})).collect()))
    }

    /// Group names of `--group-add` as numbers, looked up in the image; numbers as they are.
    pub(crate) async fn groups(&self, list: &[String], snapshot: &image::Snapshot) -> Result<Vec<u32>> {
        let mut out = Vec::new();
        let mut users: Option<Database> = None;
        for name in list {
            if let Ok(number) = name.parse() {
                out.push(number);
                continue;
            }
            if users.is_none() {
                let snapshot = snapshot.clone();
                users = Some(blocking(move || users_of(&snapshot)).await?);
            }
            let found = users.as_ref().and_then(|u| u.group(name));
            out.push(found.ok_or_else(|| {
                invalid(format!("Unable to find group {name}: no matching entries in group file"))
            })?);
        }
        Ok(out)
    }

    /// The layers of an image that is mounted into a container, top first. A snapshot holds them until it is removed.
    pub(crate) async fn image_mount(
        &self,
        container: &Container,
        number: usize,
        point: &crate::mounts::MountPoint,
    ) -> Result<Vec<PathBuf>> {
        let image = self.images.get(&point.name)?;
        let key = image_mount_key(container, number);
        let snapshot = match self.images.snapshot(&key) {
            Ok(snapshot) => snapshot,
            Err(_) => self.images.prepare(&key, &image).await?,
        };
        // Above the image's own layers lies the folder of mount points, which is a container's.
        let own: std::collections::BTreeSet<&String> = image.diff_ids().iter().collect();
        let layers = snapshot.lower[snapshot.lower.len().saturating_sub(own.len().max(1))..].to_vec();
        if point.subpath.is_empty() {
            return Ok(layers);
        }
        let [only] = layers.as_slice() else {
            return Err(Error::NotImplemented(format!(
                "a part ({}) of image {}, which has {} layers, cannot be mounted: mount the whole image",
                point.subpath,
                point.name,
                layers.len()
            )));
        };
        Ok(vec![crate::spec::inside(only, &point.subpath, &point.name)?])
    }

    /// Gives up what holds the images that are mounted into a container.
    pub(crate) async fn discard_image_mounts(&self, container: &Container) -> Result<()> {
        let mounts = container.lock().asked.mounts.clone();
        for (number, _) in mounts.iter().enumerate().filter(|(_, p)| p.kind == "image") {
            self.images.discard(&image_mount_key(container, number)).await?;
        }
        Ok(())
    }
}

fn cleaned(path: &str) -> PathBuf {
    PathBuf::from(crate::mounts::clean(&format!("/{path}")))
}

fn open_folder(dir: &Path) -> Result<OwnedFd> {
    rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| Error::io(dir.display())(e.into()))
}

/// The root that a container's process sees, if there is one.
fn live_root(container: &Container, path: &str) -> Result<Option<Root>> {
    let (alive, pid, ids) = {
        let inner = container.lock();
        (inner.life.phase.alive(), inner.life.pid, inner.asked.ids.clone())
    };
    if !alive {
        return Ok(None);
    }
    let fd = open_folder(Path::new(&format!("/proc/{pid}/root")))?;
    Ok(Some(Root { fd, inside: cleaned(path), ids }))
}

fn users_of(snapshot: &image::Snapshot) -> Result<Database> {
    let root = snapshot.mount(false).map_err(Error::io("mounting the container's layers"))?;
    Ok(Database::read_in(root.as_fd()))
}

fn image_mount_key(container: &Container, number: usize) -> String {
    format!("{}-mount{number}", container.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_and_names() {
        assert_eq!(go_mode(0o040755), (1 << 31) | 0o755);
        assert_eq!(go_mode(0o100644), 0o644);
        assert_eq!(go_mode(0o104755), (1 << 23) | 0o755);
        assert_eq!(base_name("/a/b"), "b");
        assert_eq!(base_name("/a/b/"), "b");
        assert_eq!(base_name("/a/b/."), ".");
        assert_eq!(base_name("/"), "/");
    }
}
