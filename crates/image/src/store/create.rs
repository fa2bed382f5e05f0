//! New images: from a layer (builds, commits) and from the tar of a root file system.

use std::sync::Arc;

use tokio::io::AsyncRead;

use super::{ImageStore, blocking, db};
use crate::archive::compress;
use crate::bridge::Bridge;
use crate::config::{Config, History, ImageConfig};
use crate::error::{Error, Result};
use crate::platform::Platform;
use crate::reference;
use crate::types::{Image, Layer, NewImage};

/// What an import makes of a tar.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// The tag to give, if any.
    pub reference: Option<String>,
    /// The remark in the history; Docker's default is `Imported from -`.
    pub message: String,
    /// How to run the image (`--change`, parsed by `build::changes`).
    pub config: Config,
    /// `--platform`.
    pub platform: Option<Platform>,
}

/// An image as a build has it in mind: all that its configuration says, and the layers that it names.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The whole configuration; its layers are set from `layers`.
    pub config: ImageConfig,
    /// The id of the image that counts as its parent.
    pub parent: Option<String>,
    /// Lowest first.
    pub layers: Vec<Layer>,
}

impl Finished {
    /// The configuration's bytes, and the id that the image will have.
    pub fn encode(&self) -> Result<(Vec<u8>, String)> {
        let mut config = self.config.clone();
        config.rootfs.diff_ids = self.layers.iter().map(|l| l.diff_id.clone()).collect();
        let raw = serde_json::to_vec(&config)?;
        let id = compress::digest_of(&raw);
        Ok((raw, id))
    }
}

impl ImageStore {
    /// Adds images, and keeps layers that belong to none under names of the caller's, all in one transaction. An image
    /// that is here already stays as it is.
    pub async fn add(
        self: &Arc<Self>,
        images: Vec<Finished>,
        keep: Vec<(String, Layer)>,
    ) -> Result<Vec<String>> {
        let store = self.clone();
        blocking(move || {
            let mut all = Vec::with_capacity(images.len());
            let mut diff_ids: Vec<String> = keep.iter().map(|(_, l)| l.diff_id.clone()).collect();
            for image in &images {
                diff_ids.extend(image.layers.iter().map(|l| l.diff_id.clone()));
                all.push(image.encode()?);
            }
            diff_ids.sort_unstable();
            diff_ids.dedup();
            store.write_image(&diff_ids, |c| {
                for ((raw, id), image) in all.iter().zip(&images) {
                    db::add_image(c, id, raw, image.parent.as_deref())?;
                }
                for (name, layer) in &keep {
                    db::keep_layer(c, name, &layer.diff_id)?;
                }
                Ok(())
            })?;
            Ok(all.into_iter().map(|(_, id)| id).collect())
        })
        .await
    }

    /// Gives up layers that were kept under these names; a collection removes those that nobody else needs.
    pub async fn give_up(self: &Arc<Self>, names: Vec<String>) -> Result<()> {
        let store = self.clone();
        blocking(move || store.write(|c| names.iter().try_for_each(|name| db::give_up_layer(c, name)))).await
    }

    /// The names under which layers are kept.
    pub fn kept(&self) -> Vec<String> {
        self.index.read().kept.keys().cloned().collect()
    }

    /// A layer of that digest, if it is here; it stays while the returned value lives.
    pub fn layer(self: &Arc<Self>, diff_id: &str) -> Option<Layer> {
        self.existing_layer(diff_id)
    }

    /// The tar of a layer, exactly as its digest says. Blocking to read.
    pub fn read_layer(&self, layer: &Layer) -> Result<(impl std::io::Read + Send + use<>, u64)> {
        self.layer_tar(&layer.diff_id)
    }

    /// The layers of an image, which stay while the returned values live.
    pub fn layers_of(self: &Arc<Self>, image: &Image) -> Result<Vec<Layer>> {
        self.lease_all(image.diff_ids())
    }

    /// Makes an image of a layer, or of a change of the configuration alone.
    pub async fn create(self: &Arc<Self>, new: NewImage) -> Result<Arc<Image>> {
        let parent = new.parent.as_deref().map(|id| self.get(id)).transpose()?;
        let mut config = match &parent {
            Some(p) => ImageConfig { other: serde_json::Map::new(), ..p.config.clone() },
            None => ImageConfig::scratch(),
        };
        if let Some(p) = &new.platform {
            (config.os, config.architecture, config.variant) =
                (p.os.clone(), p.architecture.clone(), p.variant.clone());
        }
        let now = base::clock::now();
        config.created = Some(new.history.created.unwrap_or(now));
        config.config = new.config;
        config.author = if new.author.is_empty() { config.author } else { new.author };
        config.comment = new.comment;
        config.container = String::new();
        config.docker_version = String::new();
        let history = History { created: config.created, empty_layer: new.layer.is_none(), ..new.history };
        config.history.push(history);
        if let Some(layer) = &new.layer {
            config.rootfs.diff_ids.push(layer.diff_id.clone());
        }
        let raw = serde_json::to_vec(&config)?;
        let parent_id = parent.as_ref().filter(|_| new.keep_parent).map(|p| p.id.clone());
        // The parent's layers stay, because it is an image, unless it is removed at this moment: lease them.
        let mut leases: Vec<Layer> = self.lease_all(&config.rootfs.diff_ids)?;
        leases.extend(new.layer);
        self.add_config(raw, config.rootfs.diff_ids, parent_id, leases).await
    }

    /// Leases every layer of a list, or says which one is missing.
    pub(crate) fn lease_all(self: &Arc<Self>, diff_ids: &[String]) -> Result<Vec<Layer>> {
        diff_ids
            .iter()
            .map(|d| self.existing_layer(d).ok_or_else(|| Error::Corrupt(format!("layer {d} is missing"))))
            .collect()
    }

    async fn add_config(
        self: &Arc<Self>,
        raw: Vec<u8>,
        diff_ids: Vec<String>,
        parent: Option<String>,
        leases: Vec<Layer>,
    ) -> Result<Arc<Image>> {
        let store = self.clone();
        blocking(move || {
            let id = compress::digest_of(&raw);
            store.write_image(&diff_ids, |c| db::add_image(c, &id, &raw, parent.as_deref()))?;
            drop(leases);
            store.get(&id)
        })
        .await
    }

    /// Makes an image of the tar of a root file system, compressed or not.
    pub async fn import<R>(self: &Arc<Self>, tar: R, import: Import) -> Result<Arc<Image>>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let reference = import.reference.as_deref().map(reference::parse).transpose()?;
        if reference.as_ref().is_some_and(|r| r.digest.is_some()) {
            return Err(Error::Invalid("cannot import digest reference".into()));
        }
        let layer = self.unpack_async(tar).await?;
        let message = if import.message.is_empty() { "Imported from -".to_string() } else { import.message };
        let image = self
            .create(NewImage {
                layer: Some(layer),
                config: import.config,
                history: History { comment: message.clone(), ..History::default() },
                comment: message,
                platform: import.platform,
                ..NewImage::default()
            })
            .await?;
        match reference {
            Some(r) => {
                self.tag(&image.id, &r.to_string()).await?;
                self.get(&image.id)
            }
            None => Ok(image),
        }
    }

    /// Unpacks a tar, compressed or not, as a layer.
    pub async fn unpack_async<R: AsyncRead + Send + Unpin + 'static>(
        self: &Arc<Self>,
        tar: R,
    ) -> Result<Layer> {
        let store = self.clone();
        let bridge = Bridge::new(tar);
        crate::blocking_on_stream(move || {
            let (_, stream) = compress::decoder(bridge)?;
            store.unpack(stream, "")
        })
        .await
    }
}
