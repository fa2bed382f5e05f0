//! Writable layers: one folder per container or build step, above an image's layers.
//!
//! A snapshot is the folder itself and has no row: `image` and `lower` are symbolic links whose targets name what it
//! stands on, made before the folder gets its name, so that it is there whole or not at all and costs no sync.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::reap::bury;
use super::{ImageStore, blocking};
use crate::archive::{diff, overlay};
use crate::error::{Error, Result};
use crate::types::{Change, Image, Layer};

/// A writable layer and what lies below it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Its name.
    pub key: String,
    /// The id of the image below.
    pub image: String,
    /// The read-only folders, top first; at least one.
    pub lower: Vec<PathBuf>,
    /// Where changes go.
    pub upper: PathBuf,
    /// What overlayfs needs beside it.
    pub work: PathBuf,
}

impl Snapshot {
    /// The merged root as a mount that no path leads to; it ends when the returned descriptor and all opened through
    /// it are closed. Blocking. `writable` must not be asked for while a container runs on it.
    pub fn mount(&self, writable: bool) -> io::Result<OwnedFd> {
        let upper = writable.then_some((self.upper.as_path(), self.work.as_path()));
        if writable {
            return overlay::mount(&self.lower, upper);
        }
        let mut all = vec![self.upper.clone()];
        all.extend(self.lower.iter().cloned());
        overlay::mount(&all, None)
    }
}

/// Stands for the image of a snapshot on layers alone.
const NO_IMAGE: &str = "-";

/// What is kept in memory of a snapshot.
#[derive(Debug)]
pub(super) struct Record {
    pub image: String,
    /// Names of layer folders, top first, below the init folder.
    pub lower: Vec<String>,
}

/// Reads the snapshots' folder and puts aside what was being made or removed.
pub(super) fn scan(root: &Path) -> Result<HashMap<String, Arc<Record>>> {
    let dir = root.join("snapshots");
    let mut found = HashMap::new();
    for entry in fs::read_dir(&dir).map_err(Error::file("read the folder", &dir))? {
        let entry = entry?;
        let Ok(key) = entry.file_name().into_string() else { continue };
        let link = |name| fs::read_link(entry.path().join(name)).map(|t| t.to_string_lossy().into_owned());
        // One whose files have become a layer was about to go.
        let whole = !key.starts_with(".tmp-") && entry.path().join("fs").is_dir();
        match (whole, link("image"), link("lower")) {
            // What stands on layers alone was a build's, which ended with the process before.
            (true, Ok(image), Ok(lower)) if image != NO_IMAGE => {
                let lower = lower.split(':').filter(|l| *l != ".").map(Into::into).collect();
                found.insert(key, Arc::new(Record { image, lower }));
            }
            _ => bury(root, &entry.path()),
        }
    }
    Ok(found)
}

/// Removes a folder and everything below it, also what overlayfs left without permissions.
pub(super) fn remove_tree(path: &Path) -> Result<()> {
    match sys::tree::remove(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(e)),
        _ => Ok(()),
    }
}

impl ImageStore {
    /// Makes a writable layer above an image. The key is a container's id; one that exists is an error.
    pub async fn prepare(self: &Arc<Self>, key: &str, image: &Image) -> Result<Snapshot> {
        let layers = image.diff_ids().to_vec();
        self.prepare_on(key, &image.id, layers).await
    }

    /// As `prepare`, on layers that need not belong to an image yet, lowest first.
    pub async fn prepare_layers(self: &Arc<Self>, key: &str, layers: &[Layer]) -> Result<Snapshot> {
        self.prepare_on(key, "", layers.iter().map(|l| l.diff_id.clone()).collect()).await
    }

    async fn prepare_on(self: &Arc<Self>, key: &str, image: &str, diff_ids: Vec<String>) -> Result<Snapshot> {
        if key.is_empty()
            || key.len() > 200
            || key.starts_with('.')
            || !key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        {
            return Err(Error::Invalid(format!("invalid snapshot name {key:?}")));
        }
        let (store, key, image) = (self.clone(), key.to_string(), image.to_string());
        blocking(move || store.prepare_blocking(&key, &image, &diff_ids)).await
    }

    fn prepare_blocking(self: &Arc<Self>, key: &str, image: &str, diff_ids: &[String]) -> Result<Snapshot> {
        // The leases keep the layers until the record below does.
        let mut leases = Vec::with_capacity(diff_ids.len());
        for d in diff_ids {
            leases.push(self.existing_layer(d).ok_or_else(|| {
                Error::NotFound(format!(
                    "layer {d} of image {image} is missing: pull or load the image again"
                ))
            })?);
        }
        let mut lower: Vec<String> = Vec::new();
        let mut root = None;
        {
            let index = self.index.read();
            for d in diff_ids.iter().rev() {
                let Some(info) = index.layers.get(d) else { continue };
                // Overlayfs refuses a folder twice; the upper one of two equal layers hides the lower one anyway.
                if !lower.contains(&info.dir) {
                    lower.push(info.dir.clone());
                }
                if root.is_none() && info.has_root {
                    root = Some(self.layers_dir().join(&info.dir).join("fs"));
                }
            }
        }
        if let Some(init) = self.init_layer(&lower)? {
            lower.insert(0, init);
        }
        let dir = self.root.join("snapshots").join(key);
        let temporary = self.root.join("snapshots").join(format!(".tmp-{}", base::rng::hex(8)));
        let make = || -> io::Result<()> {
            fs::DirBuilder::new().mode(0o710).create(&temporary)?;
            let upper = temporary.join("fs");
            fs::create_dir(&upper)?;
            fs::DirBuilder::new().mode(0o700).create(temporary.join("work"))?;
            // The merged root has the attributes of the upper folder, so it takes those of the image's root.
            let (mode, uid, gid) = match &root {
                Some(root) => fs::symlink_metadata(root).map(|m| (m.mode() & 0o7777, m.uid(), m.gid()))?,
                None => (0o755, 0, 0),
            };
            fs::set_permissions(&upper, fs::Permissions::from_mode(mode))?;
            if (uid, gid) != (0, 0) {
                std::os::unix::fs::chown(&upper, Some(uid), Some(gid))?;
            }
            let targets = if lower.is_empty() { ".".to_string() } else { lower.join(":") };
            symlink(targets, temporary.join("lower"))?;
            symlink(if image.is_empty() { NO_IMAGE } else { image }, temporary.join("image"))?;
            rustix::fs::renameat_with(
                rustix::fs::CWD,
                &temporary,
                rustix::fs::CWD,
                &dir,
                rustix::fs::RenameFlags::NOREPLACE,
            )?;
            Ok(())
        };
        if let Err(e) = make() {
            let _ = remove_tree(&temporary);
            if e.kind() == io::ErrorKind::AlreadyExists {
                return Err(Error::Conflict(format!("snapshot {key} exists already")));
            }
            return Err(Error::file("make the snapshot", &dir)(e));
        }
        let record = Arc::new(Record { image: image.into(), lower });
        let snapshot = self.describe(key, &record);
        if !image.is_empty() {
            self.index.write().used.insert(image.into(), tokio::time::Instant::now());
        }
        self.snapshots.lock().insert(key.into(), record);
        Ok(snapshot)
    }

    /// Where a name of a record leads: a layer's files, or an init folder.
    fn lower_path(&self, name: &str) -> PathBuf {
        let path = self.layers_dir().join(name);
        if name.contains('/') { path } else { path.join("fs") }
    }

    fn describe(&self, key: &str, record: &Record) -> Snapshot {
        let dir = self.root.join("snapshots").join(key);
        let mut lower: Vec<_> = record.lower.iter().map(|l| self.lower_path(l)).collect();
        if lower.is_empty() {
            lower.push(self.root.join("empty"));
        }
        Snapshot {
            key: key.into(),
            image: record.image.clone(),
            lower,
            upper: dir.join("fs"),
            work: dir.join("work"),
        }
    }

    /// The snapshot of that key.
    pub fn snapshot(&self, key: &str) -> Result<Snapshot> {
        let record = self.snapshots.lock().get(key).cloned();
        record.map(|r| self.describe(key, &r)).ok_or_else(|| Error::NotFound(format!("no snapshot {key}")))
    }

    /// The files of layers, lowest first, read-only, as a root that no path leads to. Blocking.
    pub fn mount_layers(self: &Arc<Self>, diff_ids: &[String]) -> Result<OwnedFd> {
        let mut lower = self.folders_of(diff_ids)?;
        // A read-only overlay needs two folders.
        lower.push(self.root.join("empty"));
        overlay::mount(&lower, None).or_else(|e| match lower.as_slice() {
            [_] => Ok(fs::File::open(&lower[0])?.into()),
            _ => Err(Error::file("mount the image of", &lower[0])(e)),
        })
    }

    /// The folders of layers (given lowest first), top first, each once.
    pub fn folders_of(&self, diff_ids: &[String]) -> Result<Vec<PathBuf>> {
        let index = self.index.read();
        let mut folders: Vec<PathBuf> = Vec::new();
        for d in diff_ids.iter().rev() {
            let info = index.layers.get(d).ok_or_else(|| Error::NotFound(format!("layer {d} is missing")))?;
            let dir = self.layers_dir().join(&info.dir).join("fs");
            if !folders.contains(&dir) {
                folders.push(dir);
            }
        }
        Ok(folders)
    }

    /// The keys of all snapshots, for the owner's reconciliation at start.
    pub fn snapshot_keys(&self) -> Vec<String> {
        self.snapshots.lock().keys().cloned().collect()
    }

    /// Removes a snapshot; one that is not there is no error. The caller makes sure that nothing runs on it.
    pub async fn discard(self: &Arc<Self>, key: &str) -> Result<()> {
        let record = self.snapshots.lock().remove(key);
        if record.is_none() {
            return Ok(());
        }
        let store = self.clone();
        let dir = self.root.join("snapshots").join(key);
        blocking(move || {
            store.bury(&dir)?;
            store.reap();
            store.collect_layers()?;
            Ok(())
        })
        .await
    }

    /// What the snapshot changed, sorted by path: the data of `docker diff`.
    pub async fn changes(self: &Arc<Self>, key: &str) -> Result<Vec<Change>> {
        let snapshot = self.snapshot(key)?;
        blocking(move || diff::changes(&snapshot.upper, &snapshot.lower)).await
    }

    /// Bytes that the snapshot's own files take (Docker's `SizeRw`).
    pub async fn usage(self: &Arc<Self>, key: &str) -> Result<u64> {
        let snapshot = self.snapshot(key)?;
        blocking(move || diff::usage(&snapshot.upper)).await
    }

    /// Makes a layer of what the snapshot changed. The snapshot stays as it is.
    pub async fn commit_snapshot(self: &Arc<Self>, key: &str) -> Result<Layer> {
        let snapshot = self.snapshot(key)?;
        let store = self.clone();
        blocking(move || store.layer_from_dir(&snapshot.upper)).await
    }

    /// Turns the snapshot into a layer without copying; the snapshot is gone afterwards. `None` if it changed nothing.
    pub async fn seal_snapshot(self: &Arc<Self>, key: &str) -> Result<Option<Layer>> {
        let snapshot = self.snapshot(key)?;
        let store = self.clone();
        let layer = blocking(move || {
            if diff::is_empty(&snapshot.upper)? {
                return Ok(None);
            }
            store.layer_by_moving(&snapshot.upper).map(Some)
        })
        .await?;
        self.discard(key).await?;
        Ok(layer)
    }
}
