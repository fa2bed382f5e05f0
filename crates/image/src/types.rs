//! What the store hands out and takes: images, layers, changes, progress.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::config::{Config, History, ImageConfig};
use crate::platform::Platform;
use crate::store::Lease;

/// An image as the store knows it at one moment. Immutable; shared by reference.
#[derive(Debug, Clone)]
pub struct Image {
    /// `sha256:...`: the digest of the configuration, as Docker identifies images.
    pub id: String,
    /// The digest of the manifest it was pulled or loaded by, if any.
    pub manifest_digest: Option<String>,
    /// Familiar references (`app:latest`), sorted.
    pub tags: Vec<String>,
    /// Familiar references by digest (`app@sha256:...`), sorted.
    pub repo_digests: Vec<String>,
    /// The parsed configuration.
    pub config: ImageConfig,
    /// The configuration's bytes.
    pub raw_config: Bytes,
    /// The sizes of the layers' files in bytes, lowest layer first.
    pub layer_sizes: Vec<u64>,
    /// The sum of `layer_sizes`.
    pub size: u64,
    /// The image that this one was built or committed on, if it is known here.
    pub parent: Option<String>,
    /// When a tag was last put on it here.
    pub tagged_at: Option<Timestamp>,
}

impl Image {
    /// The digests of the uncompressed layers, lowest first.
    pub fn diff_ids(&self) -> &[String] {
        &self.config.rootfs.diff_ids
    }

    /// When it was made.
    pub fn created(&self) -> Option<Timestamp> {
        self.config.created
    }

    /// How to run it.
    pub fn run_config(&self) -> &Config {
        &self.config.config
    }

    /// The id's first twelve hexadecimal digits.
    pub fn short_id(&self) -> &str {
        short(&self.id)
    }
}

/// The first twelve hexadecimal digits of an id or digest.
pub fn short(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

/// A layer that is in the store, and is not collected while this value (or an image with it) lives.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The digest of the uncompressed tar.
    pub diff_id: String,
    /// The size of its files in bytes.
    pub size: u64,
    pub(crate) _lease: Arc<Lease>,
}

/// What `ImageStore::create` makes an image of.
#[derive(Debug, Clone, Default)]
pub struct NewImage {
    /// The id of the image it builds on; `None` starts from nothing.
    pub parent: Option<String>,
    /// The layer to add; `None` makes an empty history entry.
    pub layer: Option<Layer>,
    /// How to run it: the whole of it, nothing is inherited.
    pub config: Config,
    /// The line to add to the history; its `empty_layer` is set by `layer`.
    pub history: History,
    /// Who made it.
    pub author: String,
    /// A remark.
    pub comment: String,
    /// Overrides the parent's or this machine's `os`/`architecture`/`variant`.
    pub platform: Option<Platform>,
    /// Whether `parent` is remembered as its parent (classic builds and commits do; then the parent's removal conflicts).
    pub keep_parent: bool,
}

/// One result of a load.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image.
    pub image: Arc<Image>,
    /// The familiar references that it got; empty for an archive of an untagged image.
    pub references: Vec<String>,
}

/// One line of a removal's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deleted {
    /// This familiar reference is gone.
    Untagged(String),
    /// This image (or layer) is gone.
    Deleted(String),
}

/// Who uses an image, as the caller of `ImageStore::remove` knows it.
#[derive(Debug, Clone)]
pub struct User {
    /// The container's id.
    pub container: String,
    /// Whether it is running.
    pub running: bool,
}

/// Says who uses the image of an id; a running user is preferred.
pub type InUse<'a> = dyn Fn(&str) -> Option<User> + Send + Sync + 'a;

/// One path that a snapshot has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Absolute.
    pub path: String,
    /// How.
    pub kind: ChangeKind,
}

/// How a path was changed; the numbers are those of Docker's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// `C`
    Modified = 0,
    /// `A`
    Added = 1,
    /// `D`
    Deleted = 2,
}

/// One line of progress, as Docker's API words it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// The layer (12 digits) or tag that it is about; empty for a line about the whole.
    pub id: String,
    /// `Downloading`, `Pull complete`, ...
    pub status: String,
    /// Bytes done.
    pub current: Option<u64>,
    /// Bytes in all.
    pub total: Option<u64>,
    /// For the last line of a push: tag, digest and size.
    pub pushed: Option<(String, String, u64)>,
}

/// Where progress goes. A full or closed channel never stops the work.
pub type ProgressSender = tokio::sync::mpsc::Sender<Progress>;

/// What a collection or a prune freed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// Untagged references and deleted images, in order.
    pub images: Vec<Deleted>,
    /// Layers removed.
    pub layers: u64,
    /// Bytes freed.
    pub bytes: u64,
}

/// How much disk the store uses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Files of unpacked layers, each counted once (Docker's `LayersSize`).
    pub layers: u64,
    /// Compressed blobs kept for pushing.
    pub blobs: u64,
    /// For each image id: bytes that no other image shares, and bytes it shares.
    pub images: Vec<ImageUsage>,
}

/// One image's part of the disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageUsage {
    /// The image.
    pub id: String,
    /// Bytes of its layers that other images have too.
    pub shared: u64,
    /// Bytes of its layers that it has alone.
    pub unique: u64,
}
