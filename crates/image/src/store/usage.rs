//! How much disk images take, and removing what nobody needs.

use std::collections::HashMap;
use std::sync::Arc;

use super::{ImageStore, blocking};
use crate::error::Result;
use crate::types::{Deleted, DiskUsage, Freed, Image, ImageUsage, InUse};

impl ImageStore {
    /// How much disk images take.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let blobs: i64 = self.db.lock().query_row(
            "SELECT coalesce(sum(size), 0) FROM (SELECT DISTINCT digest, size FROM layer_blobs WHERE stored = 1)",
            [],
            |r| r.get(0),
        )?;
        let index = self.index.read();
        let mut users: HashMap<&str, u32> = HashMap::new();
        for image in index.images.values() {
            let mut own: Vec<&str> = image.diff_ids().iter().map(String::as_str).collect();
            own.sort_unstable();
            own.dedup();
            for d in own {
                *users.entry(d).or_default() += 1;
            }
        }
        let images = index
            .images
            .values()
            .map(|i| {
                let mut usage = ImageUsage { id: i.id.clone(), ..ImageUsage::default() };
                for (d, size) in i.diff_ids().iter().zip(&i.layer_sizes) {
                    match users.get(d.as_str()) {
                        Some(1) => usage.unique += size,
                        _ => usage.shared += size,
                    }
                }
                usage
            })
            .collect();
        Ok(DiskUsage {
            layers: index.layers.values().map(|l| l.size).sum(),
            blobs: blobs.max(0) as u64,
            images,
        })
    }

    /// Removes layers and blobs that no image, no snapshot and no work under way needs.
    pub async fn collect(self: &Arc<Self>) -> Result<Freed> {
        let store = self.clone();
        let (layers, bytes) = blocking(move || store.collect_layers()).await?;
        Ok(Freed { images: Vec::new(), layers, bytes })
    }

    /// Removes images that nobody uses and for which `wanted` is true: untagged ones without children, or with `all`
    /// any. Images in use are left out silently.
    pub async fn prune(
        self: &Arc<Self>,
        all: bool,
        wanted: &(dyn Fn(&Image) -> bool + Send + Sync),
        in_use: &InUse<'_>,
    ) -> Result<Freed> {
        let before = self.disk_usage()?;
        let mut images: Vec<Deleted> = Vec::new();
        for image in self.list() {
            let dangling = image.tags.is_empty() && !self.is_variant(&image.id);
            if !(all || dangling) || !wanted(&image) || in_use(&image.id).is_some() {
                continue;
            }
            // A child that is going lets its parent go too, so what has children now is tried with them.
            if !self.children(&image.id).is_empty() || self.get(&image.id).is_err() {
                continue;
            }
            if image.tags.is_empty() && self.is_variant(&image.id) {
                // It goes with its tag.
                continue;
            }
            let names: Vec<String> = match image.tags.as_slice() {
                [] => vec![image.id.clone()],
                tags => tags.iter().chain(&image.repo_digests).cloned().collect(),
            };
            for name in names {
                match self.remove(&name, false, true, in_use).await {
                    Ok(deleted) => images.extend(deleted),
                    Err(e) if e.is_not_found() || matches!(e, crate::Error::Conflict(_)) => {}
                    Err(e) => return Err(e),
                }
            }
        }
        let after = self.disk_usage()?;
        let layers = self.collect().await?;
        let bytes = (before.layers + before.blobs).saturating_sub(after.layers + after.blobs) + layers.bytes;
        Ok(Freed { images, layers: layers.layers, bytes })
    }
}
