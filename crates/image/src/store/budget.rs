//! What the store takes of the disk, as du(1) counts it, and giving some of it back when it is asked to.
//!
//! A layer is measured once, when somebody first asks; it never changes afterwards. What may go by itself is here in the
//! order in which it goes: copies that a registry has too, images that nothing names and nobody uses, and, where a node
//! sets thresholds for its disk, images that nobody uses. Who decides that it is time is the build cache's owner, whose
//! results go before all of these.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{ImageStore, blocking};
use crate::archive::diff::measure;
use crate::error::{Error, Result};
use crate::types::{Image, User};

/// An image that came this recently is not removed by itself: whoever made it may be about to name it.
const YOUNG: Duration = Duration::from_secs(120);

/// What the store takes, in bytes on the disk.
#[derive(Debug, Clone, Default)]
pub struct OnDisk {
    /// Each layer, by its digest.
    pub layers: HashMap<String, u64>,
    /// The layers of images.
    pub images: u64,
    /// Layers that are kept for the build cache alone.
    pub cache: u64,
    /// Layers that only containers or work under way stand on.
    pub loose: u64,
    /// Compressed copies, and what has come of broken downloads.
    pub copies: u64,
}

impl OnDisk {
    /// All of it.
    pub fn total(&self) -> u64 {
        self.images + self.cache + self.loose + self.copies
    }
}

/// How full the disk may be, in percent: above `high` unused images are removed until it is at `low`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// When to begin.
    pub high: u64,
    /// When to stop.
    pub low: u64,
}

/// Bytes that a folder takes of the disk: blocks, each file once whatever its names. Blocking.
pub fn on_disk(folder: &Path) -> io::Result<u64> {
    let own = fs::symlink_metadata(folder)?.blocks() * 512;
    Ok(own + measure(folder, &|stat| stat.st_blocks.max(0) as u64 * 512)?)
}

impl ImageStore {
    /// What everything takes.
    pub async fn on_disk(self: &Arc<Self>) -> Result<OnDisk> {
        let store = self.clone();
        blocking(move || store.on_disk_blocking()).await
    }

    fn on_disk_blocking(&self) -> Result<OnDisk> {
        let (layers, of_images, kept) = {
            let index = self.index.read();
            let layers: Vec<(String, String)> =
                index.layers.iter().map(|(d, info)| (d.clone(), info.dir.clone())).collect();
            let images = index.images.values().flat_map(|i| i.diff_ids().iter().cloned());
            (layers, images.collect::<HashSet<_>>(), index.kept.values().cloned().collect::<HashSet<_>>())
        };
        let mut all = OnDisk::default();
        for (diff_id, dir) in layers {
            let known = self.measured.lock().get(&dir).copied();
            let bytes = match known {
                Some(bytes) => bytes,
                None => match on_disk(&self.layers_dir().join(&dir)) {
                    Ok(bytes) => {
                        self.measured.lock().insert(dir, bytes);
                        bytes
                    }
                    // Removed at this moment.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                    Err(e) => return Err(e.into()),
                },
            };
            match () {
                () if of_images.contains(&diff_id) => all.images += bytes,
                () if kept.contains(&diff_id) => all.cache += bytes,
                () => all.loose += bytes,
            }
            all.layers.insert(diff_id, bytes);
        }
        for (_, path) in self.blob_files(false)?.into_iter().chain(self.blob_files(true)?) {
            all.copies += fs::symlink_metadata(path).map_or(0, |m| m.blocks() * 512);
        }
        Ok(all)
    }

    /// Forgets what a layer takes: something was added to its folder, or it is gone.
    pub(super) fn unmeasured(&self, dir: &str) {
        self.measured.lock().remove(dir);
    }

    /// Woken whenever something was added.
    pub fn written(&self) -> Arc<tokio::sync::Notify> {
        self.written.clone()
    }

    /// Says how full the disk may be before images that nobody uses go, also if they have names.
    pub fn set_thresholds(&self, thresholds: Option<Thresholds>) {
        *self.thresholds.write() = thresholds;
        self.written.notify_one();
    }

    /// Bytes that must be freed for the thresholds' sake; none if the disk is not that full.
    pub fn over_thresholds(&self) -> Result<u64> {
        let Some(Thresholds { high, low }) = *self.thresholds.read() else { return Ok(0) };
        let disk = rustix::fs::statvfs(&self.root)?;
        let total = disk.f_blocks.saturating_mul(disk.f_frsize);
        let used = disk.f_blocks.saturating_sub(disk.f_bavail).saturating_mul(disk.f_frsize);
        Ok(match used.saturating_mul(100) >= total.saturating_mul(high) {
            true => used.saturating_sub(total / 100 * low),
            false => 0,
        })
    }

    /// Removes compressed copies and what broken downloads left, oldest first, until so many bytes are free. Returns how
    /// many are.
    pub async fn drop_copies(self: &Arc<Self>, need: u64) -> Result<u64> {
        let store = self.clone();
        blocking(move || {
            let mut all = Vec::new();
            for partial in [true, false] {
                for (digest, path) in store.blob_files(partial)? {
                    if let Ok(m) = fs::symlink_metadata(&path) {
                        all.push((!partial, m.mtime(), digest, path, m.blocks() * 512));
                    }
                }
            }
            all.sort();
            let mut freed = 0;
            for (whole, _, digest, path, bytes) in all {
                if freed >= need {
                    break;
                }
                // Nobody may be at it.
                let Some(_turn) = store.try_turn(&digest) else { continue };
                if whole {
                    store.write(|c| {
                        let sql = "UPDATE layer_blobs SET stored = 0 WHERE digest = ?1";
                        c.tx.prepare_cached(sql)?.execute([&digest])?;
                        Ok(())
                    })?;
                }
                match fs::remove_file(&path) {
                    Ok(()) => freed += bytes,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(Error::file("remove", path)(e)),
                }
            }
            Ok(freed)
        })
        .await
    }

    /// Removes images that nobody uses, longest unused first, until so many bytes are free: such as nothing names, or
    /// with `named` any. Returns how many are.
    pub async fn drop_unused(self: &Arc<Self>, need: u64, named: bool) -> Result<u64> {
        let before = self.on_disk().await?.total();
        let mut freed = 0;
        for image in self.unused(named) {
            if freed >= need {
                break;
            }
            let user = |id: &str| {
                self.stands_on(id).then(|| User { container: "a container".into(), running: true })
            };
            match self.remove(&image.id, true, true, &user).await {
                Ok(_) => tracing::info!(image = image.id, tags = ?image.tags, "removed to make room"),
                Err(e) if e.is_not_found() || matches!(e, Error::Conflict(_)) => continue,
                Err(e) => return Err(e),
            }
            freed = before.saturating_sub(self.on_disk().await?.total());
        }
        Ok(freed)
    }

    /// Images that may go by themselves, longest unused first.
    fn unused(&self, named: bool) -> Vec<Arc<Image>> {
        let now = Instant::now();
        let standing: HashSet<String> = self.snapshots.lock().values().map(|r| r.image.clone()).collect();
        let index = self.index.read();
        let last = |i: &Arc<Image>| index.used.get(&i.id).copied();
        let mut all: Vec<Arc<Image>> = index
            .images
            .values()
            .filter(|i| named || (i.tags.is_empty() && i.repo_digests.is_empty()))
            .filter(|i| named || !index.variants.values().flatten().any(|(_, id)| *id == i.id))
            .filter(|i| last(i).is_none_or(|at| now.duration_since(at) > YOUNG) && !standing.contains(&i.id))
            .cloned()
            .collect();
        all.sort_by(|a, b| last(a).cmp(&last(b)).then_with(|| a.created().cmp(&b.created())));
        all
    }

    /// Whether a container or a build step stands on an image.
    fn stands_on(&self, id: &str) -> bool {
        self.snapshots.lock().values().any(|record| record.image == id)
    }
}
