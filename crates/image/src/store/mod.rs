//! The store: metadata in one SQLite database, layers and snapshots in folders beside it.
//!
//! Every change is one transaction; a folder is made and synced before the row that names it, and removed after that
//! row is gone, so that a crash leaves at most folders that nobody names, and `open` removes those. Nobody waits for a
//! removal, which takes its time where there are many files: what is dead is moved aside first. What is read often
//! (images, tags, where layers lie) is kept in memory, written through under the database's lock.

mod blobs;
mod budget;
mod create;
pub(crate) mod db;
mod init;
mod layers;
mod load;
mod reap;
mod remove;
mod save;
mod snapshots;
mod usage;
mod variants;
mod verify;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::{Mutex, RwLock};

pub use budget::{OnDisk, Thresholds, on_disk};
pub use create::{Finished, Import};
pub use snapshots::Snapshot;

pub(crate) use blobs::Download;

use crate::archive::compress;
use crate::error::{Error, Result};
use crate::platform::Platform;
use crate::reference;
use crate::registry::RegistryConfig;
use crate::registry::lanes::Lanes;
use crate::registry::manifest::{Descriptor, Manifest};
use crate::types::{Image, Layer};

/// All images of one instance.
pub struct ImageStore {
    root: PathBuf,
    db: Mutex<rusqlite::Connection>,
    index: RwLock<Index>,
    leases: Mutex<HashMap<String, usize>>,
    snapshots: Mutex<HashMap<String, Arc<snapshots::Record>>>,
    /// Whether a thread is about to collect layers.
    collecting: AtomicBool,
    /// Held while layers are collected.
    collection: Mutex<()>,
    /// Held while what was buried is removed.
    reaper: Arc<Mutex<()>>,
    /// One pull of a manifest, and one download of a layer, at a time.
    pulls: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    registries: RwLock<RegistryConfig>,
    lanes: RwLock<Lanes>,
    /// Blobs that were unpacked and verified since the start, each with its bytes and the layer that it gave.
    forms: Mutex<HashMap<String, (u64, String)>>,
    /// Bytes on the disk of layers' folders, as far as somebody asked.
    measured: Mutex<HashMap<String, u64>>,
    written: Arc<tokio::sync::Notify>,
    thresholds: RwLock<Option<budget::Thresholds>>,
}

/// What is in memory of the database.
#[derive(Default)]
struct Index {
    images: HashMap<String, Arc<Image>>,
    /// `docker.io/library/app:latest` -> id
    tags: BTreeMap<String, String>,
    /// `docker.io/library/app@sha256:...` -> id
    digests: BTreeMap<String, String>,
    layers: HashMap<String, LayerInfo>,
    /// Layers that belong to no image and are kept under a name all the same.
    kept: HashMap<String, String>,
    /// `docker.io/library/app:latest` -> the image of each platform, of tags that are for several.
    variants: BTreeMap<String, Vec<(Platform, String)>>,
    /// When images came or were last stood on, of those that did since the start.
    used: HashMap<String, tokio::time::Instant>,
}

/// Where a layer lies.
#[derive(Debug, Clone)]
pub(crate) struct LayerInfo {
    /// The name of its folder below `layers`.
    pub dir: String,
    /// Bytes in its files.
    pub size: u64,
    /// Bytes of its tar.
    pub tar_size: u64,
    /// Whether its tar had an entry for the root folder itself.
    pub has_root: bool,
    /// Whether it has no row yet: no image has it, and after a crash it is gone.
    pub fresh: bool,
}

/// Keeps a layer from being collected while it lives.
pub struct Lease {
    diff_id: String,
    store: std::sync::Weak<ImageStore>,
}

impl std::fmt::Debug for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Lease").field(&self.diff_id).finish()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(store) = self.store.upgrade() else { return };
        let mut leases = store.leases.lock();
        let Some(n) = leases.get_mut(&self.diff_id) else { return };
        *n -= 1;
        if *n > 0 {
            return;
        }
        leases.remove(&self.diff_id);
        let came_to_nothing = store.is_fresh(&self.diff_id);
        drop(leases);
        if came_to_nothing {
            store.collect_soon();
        }
    }
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    crate::blocking(work).await
}

impl ImageStore {
    /// Opens the store below `data_dir`, makes it if there is none, and removes what an interrupted change left.
    pub async fn open(data_dir: &Path) -> Result<Arc<Self>> {
        let root = data_dir.join("images");
        blocking(move || Self::open_blocking(root)).await
    }

    /// Where the snapshots are: a folder each, whose `fs` is its own layer.
    pub fn snapshots_dir(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    fn open_blocking(root: PathBuf) -> Result<Arc<Self>> {
        // Layers hold set-uid programs and secrets.
        base::fsx::private_dir(&root).map_err(Error::file("make the folder", &root))?;
        for dir in ["layers", "blobs/sha256", "blobs/partial", "snapshots", "empty", "dead"] {
            std::fs::create_dir_all(root.join(dir))
                .map_err(Error::file("make the folder", root.join(dir)))?;
        }
        layers::spread(&root.join("layers"))?;
        let db = db::open(&root.join("images.db"))?;
        let index = db::load(&db)?;
        let store = Arc::new(Self {
            snapshots: Mutex::new(snapshots::scan(&root)?),
            root,
            db: Mutex::new(db),
            index: RwLock::new(index),
            leases: Mutex::default(),
            collecting: AtomicBool::new(false),
            collection: Mutex::default(),
            reaper: Arc::default(),
            pulls: Mutex::default(),
            registries: RwLock::default(),
            lanes: RwLock::new(Lanes::new(&RegistryConfig::default())),
            forms: Mutex::default(),
            measured: Mutex::default(),
            written: Arc::default(),
            thresholds: RwLock::default(),
        });
        store.sweep()?;
        Ok(store)
    }

    /// Finds an image by reference, id, or a unique prefix of an id.
    pub fn get(&self, text: &str) -> Result<Arc<Image>> {
        let index = self.index.read();
        let by_id = |id: &str| index.images.get(id).cloned();
        let hex =
            |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let bare = text.strip_prefix("sha256:").unwrap_or(text);
        if bare.len() == 64 && hex(bare) {
            return by_id(&format!("sha256:{bare}")).ok_or_else(|| Error::NoSuchImage(text.into()));
        }
        let parsed = reference::parse(text);
        if let Ok(r) = &parsed {
            let found = match &r.digest {
                Some(digest) => index.digests.get(&r.with_digest(digest).to_string()),
                None => index.tags.get(&r.clone().with_default_tag().to_string()),
            };
            if let Some(image) = found.and_then(|id| by_id(id)) {
                return Ok(image);
            }
        }
        if hex(bare) && bare.len() < 64 {
            let prefix = format!("sha256:{bare}");
            let mut found = index.images.iter().filter(|(id, _)| id.starts_with(&prefix));
            match (found.next(), found.next()) {
                (Some((_, image)), None) => return Ok(image.clone()),
                (Some(_), Some(_)) => {
                    return Err(Error::Invalid(format!(
                        "ambiguous image id prefix {text}: several images start with it"
                    )));
                }
                _ => {}
            }
        }
        Err(Error::NoSuchImage(parsed?.with_default_tag().familiar()))
    }

    /// Every image, newest first.
    pub fn list(&self) -> Vec<Arc<Image>> {
        let mut all: Vec<_> = self.index.read().images.values().cloned().collect();
        all.sort_by(|a, b| b.created().cmp(&a.created()).then_with(|| a.id.cmp(&b.id)));
        all
    }

    /// The ids of the images built or committed on `id`.
    pub fn children(&self, id: &str) -> Vec<String> {
        let index = self.index.read();
        index.images.values().filter(|i| i.parent.as_deref() == Some(id)).map(|i| i.id.clone()).collect()
    }

    /// Puts a tag on an image. A tag that stood elsewhere moves.
    pub async fn tag(self: &Arc<Self>, image: &str, target: &str) -> Result<()> {
        let r = reference::parse(target)?;
        if r.digest.is_some() {
            return Err(Error::Invalid("refusing to create a tag with a digest reference".into()));
        }
        let image = self.get(image)?;
        let (store, r) = (self.clone(), r.with_default_tag());
        blocking(move || store.write(|tx| db::set_tag(tx, &r, &image.id))).await
    }

    /// The layer of that digest, if it is here; it stays while the returned value lives.
    pub(crate) fn existing_layer(self: &Arc<Self>, diff_id: &str) -> Option<Layer> {
        let mut leases = self.leases.lock();
        let size = self.index.read().layers.get(diff_id)?.size;
        *leases.entry(diff_id.into()).or_default() += 1;
        let lease = Lease { diff_id: diff_id.into(), store: Arc::downgrade(self) };
        Some(Layer { diff_id: diff_id.into(), size, _lease: Arc::new(lease) })
    }

    /// Whether a layer has no row yet: it comes to the disk with the first image that has it.
    pub(crate) fn is_fresh(&self, diff_id: &str) -> bool {
        self.index.read().layers.get(diff_id).is_some_and(|layer| layer.fresh)
    }

    /// Whether somebody works with a layer at this moment.
    pub fn is_leased(&self, diff_id: &str) -> bool {
        self.leases.lock().contains_key(diff_id)
    }

    /// One transaction; afterwards the memory follows for the images that it names as changed.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut db::Changes<'_>) -> Result<T>) -> Result<T> {
        let mut db = self.db.lock();
        let tx = db.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let mut changes = db::Changes::new(tx);
        let value = change(&mut changes)?;
        let touched = changes.commit()?;
        db::follow(&db, &mut self.index.write(), &touched)?;
        Ok(value)
    }

    /// Says which registries are insecure, which mirrors there are, and how much is transferred at once.
    pub fn configure_registries(&self, config: RegistryConfig) {
        self.lanes.write().change(&config);
        *self.registries.write() = config;
    }

    /// What `configure_registries` said.
    pub fn registry_config(&self) -> RegistryConfig {
        self.registries.read().clone()
    }

    /// How often something is tried with a registry.
    pub(crate) fn attempts(&self) -> u32 {
        self.registries.read().attempts.max(1)
    }

    /// How many layers may be on the road.
    pub(crate) fn lanes(&self) -> Lanes {
        self.lanes.read().clone()
    }

    /// The compressed forms known of a layer, each with the repositories that have it.
    pub(crate) fn known_blobs(&self, diff_id: &str) -> Result<Vec<(db::LayerBlob, Vec<String>)>> {
        let db = self.db.lock();
        db::layer_blobs(&db, diff_id)?
            .into_iter()
            .map(|b| {
                let sources = db::blob_sources(&db, &b.digest)?;
                Ok((b, sources))
            })
            .collect()
    }

    /// Remembers that a blob of so many bytes was unpacked to a layer.
    pub(crate) fn note_form(&self, digest: &str, size: u64, diff_id: &str) {
        let mut forms = self.forms.lock();
        let index = self.index.read();
        forms.retain(|_, (_, layer)| index.layers.contains_key(layer));
        forms.insert(digest.into(), (size, diff_id.into()));
    }

    /// Whether a blob is known to unpack to a layer: because it did so here, not because an image says so.
    pub(crate) fn is_form_of(&self, blob: &Descriptor, diff_id: &str) -> Result<bool> {
        if blob.digest == diff_id {
            return Ok(self.index.read().layers.get(diff_id).is_some_and(|l| l.tar_size == blob.size));
        }
        let noted = self.forms.lock().get(&blob.digest).cloned();
        if noted.is_some_and(|(size, layer)| size == blob.size && layer == diff_id) {
            return Ok(true);
        }
        let db = self.db.lock();
        Ok(db::layer_blobs(&db, diff_id)?.iter().any(|known| known.digest == blob.digest))
    }

    /// A manifest that an image came by: its media type and bytes.
    pub fn stored_manifest(&self, digest: &str) -> Result<Option<(String, Vec<u8>)>> {
        use rusqlite::OptionalExtension;
        let db = self.db.lock();
        let mut statement =
            db.prepare_cached("SELECT media_type, content FROM manifests WHERE digest = ?1")?;
        Ok(statement.query_row([digest], |r| Ok((r.get(0)?, r.get(1)?))).optional()?)
    }

    /// The manifest that an image came by, if it is of exactly this configuration and as many layers.
    pub(crate) fn own_manifest(&self, image: &Image) -> Result<Option<(String, Vec<u8>, Manifest)>> {
        let Some(digest) = &image.manifest_digest else { return Ok(None) };
        let Some((media_type, bytes)) = self.stored_manifest(digest)? else { return Ok(None) };
        let Ok(manifest) = Manifest::parse(&bytes, digest) else { return Ok(None) };
        let fits = manifest.config.digest == compress::digest_as(&image.raw_config, &manifest.config.digest)
            && manifest.layers.len() == image.diff_ids().len();
        Ok(fits.then_some((media_type, bytes, manifest)))
    }

    fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }
}
