//! Looking whether everything is what it should be: for tests that pull the plug, and for people who doubt their disk.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use super::{ImageStore, blocking};
use crate::archive::compress::Digesting;
use crate::error::Result;

impl ImageStore {
    /// Reads every layer and compares it with its digest, looks for what every image and snapshot needs, and for
    /// folders that nobody knows. Returns what is wrong, in words; nothing is changed. Reads all of the disk's images.
    pub async fn verify(self: &Arc<Self>) -> Result<Vec<String>> {
        let store = self.clone();
        blocking(move || store.verify_blocking()).await
    }

    fn verify_blocking(&self) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        let layers: Vec<(String, super::LayerInfo)> =
            self.index.read().layers.iter().map(|(d, i)| (d.clone(), i.clone())).collect();
        for (diff_id, info) in &layers {
            let read = self.layer_tar(diff_id).and_then(|(tar, _)| {
                let mut tar = Digesting::like(tar, diff_id);
                let size = io::copy(&mut tar, &mut io::sink())?;
                Ok((tar.finish().0, size))
            });
            match read {
                Ok((digest, size)) if digest == *diff_id && size == info.tar_size => {}
                Ok((digest, size)) => wrong.push(format!(
                    "layer {diff_id} in {} reads as {digest} with {size} bytes instead of {}",
                    info.dir, info.tar_size
                )),
                Err(e) => wrong.push(format!("layer {diff_id} in {}: {e}", info.dir)),
            }
        }
        for image in self.list() {
            for diff_id in image.diff_ids() {
                if !layers.iter().any(|(d, _)| d == diff_id) {
                    wrong.push(format!("image {} lacks its layer {diff_id}", image.id));
                }
            }
        }
        let dirs: HashSet<&str> = layers.iter().map(|(_, i)| i.dir.as_str()).collect();
        for entry in std::fs::read_dir(self.layers_dir())? {
            let name = entry?.file_name();
            if !name.to_str().is_some_and(|n| dirs.contains(n)) {
                wrong.push(format!("nobody knows the layer folder {}", name.to_string_lossy()));
            }
        }
        for key in self.snapshot_keys() {
            let Ok(snapshot) = self.snapshot(&key) else { continue };
            for path in snapshot.lower.iter().chain([&snapshot.upper, &snapshot.work]) {
                if !path.is_dir() {
                    wrong.push(format!("snapshot {key} lacks {}", path.display()));
                }
            }
        }
        Ok(wrong)
    }
}
