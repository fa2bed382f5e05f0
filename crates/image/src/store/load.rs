//! Loading archives: `docker save`'s old and new forms and OCI layouts, read once from front to back.
//!
//! An archive says only at its end which of its files is a layer of what, so each file that is not a document is taken
//! for a layer and unpacked at once; what no image claims is collected afterwards. Compressed blobs of a layout are kept as
//! they came, and their manifest with them, so that they leave with the same digests.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use serde::Deserialize;
use tokio::io::AsyncRead;

use super::{ImageStore, db};
use crate::archive::compress::{self, Compression, Digesting, Turn, digest_of};
use crate::archive::tar::{self, Kind, Reader};
use crate::blocking_on_stream;
use crate::bridge::Bridge;
use crate::config::ImageConfig;
use crate::error::{Error, Result};
use crate::platform::Platform;
use crate::reference;
use crate::registry::manifest::{Descriptor, INDEX_DEPTH, Index, Manifest, is_index};
use crate::types::{Layer, Loaded, Progress, ProgressSender};

/// The largest document (configuration, manifest) that is read, and all of an archive's together.
const DOCUMENT_LIMIT: u64 = 8 << 20;
const DOCUMENTS_LIMIT: usize = 64 << 20;
/// The most that documents have together when each is counted as often as it is named, and at least [`NAMED`] each time:
/// an archive may name one again and again, and indexes name indexes.
const NAMED_LIMIT: usize = 128 << 20;
const NAMED: usize = 4 << 10;
/// The most files an archive may have: each layer is three at most.
const FILES_LIMIT: u32 = 20_000;

/// One member of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// What the archive's files turned out to be.
struct Found {
    store: Arc<ImageStore>,
    /// Blobs that were kept.
    kept: Vec<String>,
    documents: HashMap<String, Vec<u8>>,
    /// The layer, and the digest of the file as it was (compressed or not).
    layers: HashMap<String, (Layer, String)>,
    links: HashMap<String, String>,
    /// Why a file is neither.
    broken: HashMap<String, String>,
    /// Bytes of documents that were named so far.
    named: usize,
    /// The platform that alone is wanted.
    platform: Option<Platform>,
}

fn too_many_documents() -> Error {
    Error::Corrupt(format!(
        "the archive has more than {} MiB of documents and names, which no archive of images needs",
        DOCUMENTS_LIMIT >> 20
    ))
}

/// An image that the archive describes.
struct Wanted {
    config: Vec<u8>,
    layers: Vec<String>,
    names: Vec<String>,
    manifest: Option<(String, String, Vec<u8>)>,
    /// The same for other platforms, of an index that the archive has more than one image of; its own platform first.
    variants: Vec<(Platform, Wanted)>,
}

impl ImageStore {
    /// Loads every image of an archive, compressed or not.
    pub async fn load<R>(self: &Arc<Self>, tar: R, progress: Option<ProgressSender>) -> Result<Vec<Loaded>>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        self.load_for(tar, None, progress).await
    }

    /// As `load`, of each image what the archive has for one platform; what it lacks for that is left out.
    pub async fn load_for<R>(
        self: &Arc<Self>,
        tar: R,
        platform: Option<Platform>,
        progress: Option<ProgressSender>,
    ) -> Result<Vec<Loaded>>
    where
        R: AsyncRead + Send + Unpin + 'static,
    {
        let store = self.clone();
        let bridge = Bridge::new(tar);
        let loaded = blocking_on_stream(move || {
            let mut found = store.read_archive(bridge, progress.as_ref())?;
            found.platform = platform;
            let wanted = found.images()?;
            let mut all = Vec::with_capacity(wanted.len());
            for mut w in wanted {
                let (names, variants) = (w.names.clone(), std::mem::take(&mut w.variants));
                let loaded = store.add_loaded(&mut found, w)?;
                let mut images = Vec::new();
                for (platform, variant) in variants {
                    images.push((platform, store.add_loaded(&mut found, variant)?.image.id.clone()));
                }
                if images.len() > 1 {
                    let tags =
                        names.iter().map(|n| reference::parse_tagged(n)).collect::<Result<Vec<_>>>()?;
                    store.write(|c| tags.iter().try_for_each(|tag| db::set_variants(c, tag, &images)))?;
                }
                all.push(loaded);
            }
            Ok(all)
        })
        .await;
        // What no image claimed, or everything after an error.
        self.collect().await?;
        loaded
    }

    fn read_archive(
        self: &Arc<Self>,
        tar: impl Read + Send,
        progress: Option<&ProgressSender>,
    ) -> Result<Found> {
        let (tar, _turn) = self.in_turn(tar)?;
        let (_, stream) = compress::decoder(tar)?;
        let mut reader = Reader::new(stream);
        let mut found = Found::new(self);
        let (mut documents, mut files) = (0, 0);
        while let Some(entry) = reader.next_entry().map_err(|e| Error::Corrupt(e.to_string()))? {
            files += 1;
            if files > FILES_LIMIT {
                return Err(Error::Corrupt(format!(
                    "invalid archive: it has more than {FILES_LIMIT} files, which no archive of images needs; a root file \
                     system is imported with `docker import`"
                )));
            }
            let path = clean(&String::from_utf8_lossy(&entry.path), "");
            // Names are kept as well, and may be as long as documents are.
            documents += path.len() + entry.link.len();
            if documents > DOCUMENTS_LIMIT {
                return Err(too_many_documents());
            }
            match entry.kind {
                Kind::Symlink | Kind::HardLink => {
                    let base = if entry.kind == Kind::Symlink {
                        path.rsplit_once('/').map_or("", |(d, _)| d)
                    } else {
                        ""
                    };
                    let target = clean(&String::from_utf8_lossy(&entry.link), base);
                    found.links.insert(path, target);
                }
                Kind::File => {
                    let mut head = [0u8; 512];
                    let n = compress::read_head(&mut reader, &mut head)?;
                    let mut data = io::Cursor::new(&head[..n]).chain(&mut reader);
                    let first = head[..n].iter().find(|b| !b.is_ascii_whitespace());
                    let is_tar = head[..n].first_chunk().is_some_and(tar::is_header);
                    if !is_tar && matches!(first, Some(b'{' | b'[')) && entry.size <= DOCUMENT_LIMIT {
                        let mut bytes = Vec::with_capacity(entry.size as usize);
                        data.read_to_end(&mut bytes)?;
                        documents += bytes.len();
                        if documents > DOCUMENTS_LIMIT {
                            return Err(too_many_documents());
                        }
                        found.documents.insert(path, bytes);
                        continue;
                    }
                    match self.layer_of_file(&path, &head[..n], data, entry.size, &mut found.kept, progress) {
                        Ok(layer) => {
                            found.layers.insert(path, layer);
                        }
                        Err(Error::Corrupt(why)) => {
                            found.broken.insert(path, why);
                        }
                        Err(e) => return Err(e),
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    fn layer_of_file(
        self: &Arc<Self>,
        path: &str,
        head: &[u8],
        data: impl Read + Send,
        size: u64,
        kept: &mut Vec<String>,
        progress: Option<&ProgressSender>,
    ) -> Result<(Layer, String)> {
        let compressed = compress::sniff(head) != Compression::None;
        let counted = |inner| Counted { inner, done: 0, total: size, told: 0, progress };
        // What the file claims to be and is here already needs no second unpacking: ours has been verified.
        let named = blob_digest(path);
        let like = named.as_deref().unwrap_or_default();
        if let Some(digest) = named.clone() {
            let known = self.diff_id_of_blob(&digest)?.unwrap_or_else(|| digest.clone());
            if let Some(layer) = self.existing_layer(&known) {
                if compressed && self.open_blob(&digest)?.is_none() {
                    return Ok((self.keeping(&digest, counted(data), kept, |_| Ok(layer))?.0, digest));
                }
                return Ok((layer, digest));
            }
        }
        if !compressed {
            let layer = self.unpack(counted(data), like)?;
            let digest = layer.diff_id.clone();
            return Ok((layer, digest));
        }
        let (data, _turn) = self.in_turn(counted(data))?;
        let unpack = |raw: &mut (dyn Read + Send)| self.unpack(compress::decoder(raw)?.1, "");
        match &named {
            Some(digest) => self.keeping(digest, data, kept, unpack),
            None => {
                let mut raw = Digesting::new(data);
                let layer = unpack(&mut raw)?;
                io::copy(&mut raw, &mut io::sink())?;
                Ok((layer, raw.finish().0))
            }
        }
    }

    /// A stream that needs a large window waits for its turn, and because nobody may wait for the one who sends it, it is
    /// all here before.
    fn in_turn<'a>(
        &self,
        mut data: impl Read + Send + 'a,
    ) -> Result<(Box<dyn Read + Send + 'a>, Option<Turn>)> {
        let mut head = [0; compress::HEAD];
        let n = compress::read_head(&mut data, &mut head)?;
        let whole = io::Cursor::new(head).take(n as u64).chain(data);
        if !compress::has_large_window(&head[..n]) {
            return Ok((Box::new(whole), None));
        }
        let file = self.spooled(whole)?;
        let turn = compress::turn(&head[..n]);
        Ok((Box::new(file), turn))
    }

    /// Reads a blob by `work` and keeps it as it is, if it is what its name says; the layer that `work` gave, and the digest.
    fn keeping(
        &self,
        digest: &str,
        mut data: impl Read + Send,
        kept: &mut Vec<String>,
        work: impl FnOnce(&mut (dyn Read + Send)) -> Result<Layer>,
    ) -> Result<(Layer, String)> {
        // Whoever pulls the same keeps it; and nobody waits who may have a turn.
        let Some(turn) = self.try_turn(digest) else {
            let mut raw = Digesting::like(data, digest);
            let layer = work(&mut raw)?;
            io::copy(&mut raw, &mut io::sink())?;
            return Ok((layer, raw.finish().0));
        };
        let mut download = self.download(digest, turn)?;
        download.start_over()?;
        let read = (|| {
            let mut raw = Digesting::like(download.reader(&mut data), digest);
            let layer = work(&mut raw)?;
            io::copy(&mut raw, &mut io::sink())?;
            Ok((layer, raw.finish().0))
        })();
        match &read {
            Ok((layer, found)) if found == digest => {
                kept.push(digest.to_string());
                download.keep(self.is_fresh(&layer.diff_id))?;
            }
            // A pull would go on with it.
            _ => download.start_over()?,
        }
        read
    }

    /// The layer whose compressed form has this digest.
    pub(crate) fn diff_id_of_blob(&self, digest: &str) -> Result<Option<String>> {
        use rusqlite::OptionalExtension;
        let db = self.db.lock();
        let mut statement = db.prepare_cached("SELECT diff_id FROM layer_blobs WHERE digest = ?1")?;
        Ok(statement.query_row([digest], |r| r.get(0)).optional()?)
    }

    fn add_loaded(self: &Arc<Self>, found: &mut Found, wanted: Wanted) -> Result<Loaded> {
        let id = digest_of(&wanted.config);
        let config = ImageConfig::parse(&wanted.config, &id)?;
        let diff_ids = &config.rootfs.diff_ids;
        if wanted.layers.len() != diff_ids.len() {
            return Err(Error::Corrupt(format!(
                "invalid manifest, layers length mismatch: expected {}, got {}",
                diff_ids.len(),
                wanted.layers.len()
            )));
        }
        let manifest = match &wanted.manifest {
            Some((digest, _, content)) => Some(Manifest::parse(content, digest)?),
            None => None,
        };
        let mut leases = Vec::new();
        let mut blobs = Vec::new();
        for (i, (path, want)) in wanted.layers.iter().zip(diff_ids).enumerate() {
            let path = found.resolve(path);
            // What the archive has, it has shown to be the layer.
            if let Some(d) = manifest.as_ref().and_then(|m| m.layers.get(i))
                && found.layers.get(&path).is_some_and(|(_, digest)| *digest == d.digest)
            {
                let stored = d.digest != *want && self.open_blob(&d.digest)?.is_some();
                let (digest, media_type) = (d.digest.clone(), d.media_type.clone());
                blobs.push((want.clone(), db::LayerBlob { digest, size: d.size, media_type, stored }));
            }
            let layer = match found.layers.get(&path) {
                Some((layer, _)) => layer.clone(),
                // An archive may leave out what is here already.
                None => self.existing_layer(want).ok_or_else(|| {
                    let why = found.broken.get(&path).map_or("it is not in the archive", String::as_str);
                    Error::Corrupt(format!("layer {path} of image {id}: {why}"))
                })?,
            };
            let algorithm = |digest: &str| digest.split(':').next().unwrap_or_default().to_string();
            let layer = match algorithm(&layer.diff_id) == algorithm(want) {
                true => layer,
                // The archive did not say by which algorithm its configuration names what is compressed.
                false => match self.existing_layer(want) {
                    Some(layer) => layer,
                    None => self.unpack(self.layer_tar(&layer.diff_id)?.0, want)?,
                },
            };
            if layer.diff_id != *want {
                return Err(Error::Corrupt(format!(
                    "invalid diffID for layer {i}: expected {want:?}, got {:?}",
                    layer.diff_id
                )));
            }
            leases.push(layer);
        }
        let tags = wanted.names.iter().map(|n| reference::parse_tagged(n)).collect::<Result<Vec<_>>>()?;
        self.write_image(diff_ids, |c| {
            db::add_image(c, &id, &wanted.config, None)?;
            if let Some((digest, media_type, content)) = &wanted.manifest {
                db::add_manifest(c, digest, media_type, content, &id)?;
            }
            for (diff_id, blob) in &blobs {
                db::add_layer_blob(c, diff_id, blob)?;
            }
            for tag in tags.iter().filter(|t| t.digest.is_none()) {
                db::set_tag(c, tag, &id)?;
            }
            Ok(())
        })?;
        let references = tags.iter().map(reference::Reference::familiar).collect();
        Ok(Loaded { image: self.get(&id)?, references })
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        self.store.forget_unnamed(&self.kept);
    }
}

impl Found {
    fn new(store: &Arc<ImageStore>) -> Self {
        Self {
            store: store.clone(),
            kept: Vec::new(),
            documents: HashMap::new(),
            layers: HashMap::new(),
            links: HashMap::new(),
            broken: HashMap::new(),
            named: 0,
            platform: None,
        }
    }

    /// Follows the archive's links from a file's name.
    fn resolve(&self, path: &str) -> String {
        let mut path = clean(path, "");
        for _ in 0..8 {
            match self.links.get(&path) {
                Some(target) => path = target.clone(),
                None => break,
            }
        }
        path
    }

    fn document(&mut self, path: &str) -> Result<Vec<u8>> {
        let path = self.resolve(path);
        let found = self.documents.get(&path);
        let bytes =
            found.ok_or_else(|| Error::Corrupt(format!("invalid archive: {path} is missing in it")))?;
        self.named += bytes.len().max(NAMED);
        if self.named > NAMED_LIMIT {
            return Err(Error::Corrupt(
                "invalid archive: its manifests name the same documents again and again".into(),
            ));
        }
        Ok(bytes.clone())
    }

    /// A blob of an OCI layout, verified.
    fn blob(&mut self, digest: &str) -> Result<Vec<u8>> {
        if !reference::is_digest(digest) {
            return Err(Error::Corrupt(format!("unsupported digest {digest}")));
        }
        let bytes = self.document(&format!("blobs/{}", digest.replacen(':', "/", 1)))?;
        if compress::digest_as(&bytes, digest) != digest {
            return Err(Error::Corrupt(format!("the archive's blob {digest} has other content")));
        }
        Ok(bytes)
    }

    fn images(&mut self) -> Result<Vec<Wanted>> {
        let wanted = self.all_images()?;
        let Some(platform) = &self.platform else { return Ok(wanted) };
        if wanted.is_empty() {
            return Err(Error::NotFound(format!(
                "no images providing the requested platform(s) found: [{platform}]"
            )));
        }
        Ok(wanted)
    }

    fn all_images(&mut self) -> Result<Vec<Wanted>> {
        if self.documents.contains_key("manifest.json") {
            let mut wanted = self.docker_images()?;
            // Beside it stands, for other tools, what an image has for other platforms.
            let others = match self.documents.contains_key("index.json") {
                true => self.oci_images().unwrap_or_default(),
                false => Vec::new(),
            };
            let same = |other: &Wanted, w: &Wanted| {
                let name = other.names.first().and_then(|n| reference::parse(n).ok());
                w.names.iter().any(|n| reference::parse_tagged(n).ok() == name)
            };
            for w in &mut wanted {
                // What a registry would get of it uncompressed is not what anybody sent.
                let same = |o: &&Wanted| o.config == w.config && self.same_files(&o.layers, &w.layers);
                let other = others.iter().find(same);
                w.manifest = other.filter(|o| self.any_compressed(o)).and_then(|o| o.manifest.clone());
            }
            let Some(platform) = &self.platform else {
                for other in others.into_iter().filter(|o| o.variants.len() > 1) {
                    if let Some(main) = wanted.iter_mut().find(|w| same(&other, w)) {
                        main.variants = other.variants;
                    }
                }
                return Ok(wanted);
            };
            let mut others = others;
            let mut out = Vec::new();
            for w in wanted {
                if let Some(at) = others.iter().position(|o| same(o, &w)) {
                    out.push(Wanted { names: w.names, ..others.swap_remove(at) });
                } else if ImageConfig::parse(&w.config, "in the archive")?.platform().is(platform) {
                    out.push(w);
                }
            }
            return Ok(out);
        }
        if self.documents.contains_key("index.json") {
            return self.oci_images();
        }
        Err(Error::Corrupt(
            "invalid archive: it has neither a manifest.json (docker save) nor an index.json (OCI layout); a root file \
             system is imported with `docker import`"
                .into(),
        ))
    }

    fn same_files(&self, one: &[String], other: &[String]) -> bool {
        one.iter().map(|p| self.resolve(p)).eq(other.iter().map(|p| self.resolve(p)))
    }

    fn any_compressed(&self, wanted: &Wanted) -> bool {
        let layers = wanted.layers.iter().filter_map(|path| self.layers.get(&self.resolve(path)));
        let mut layers = layers.map(|(layer, digest)| layer.diff_id != *digest);
        layers.any(|compressed| compressed)
    }

    fn docker_images(&mut self) -> Result<Vec<Wanted>> {
        let text = self.document("manifest.json")?;
        let items: Vec<Item> = serde_json::from_slice(&text)
            .map_err(|e| Error::Corrupt(format!("invalid manifest.json: {e}")))?;
        items
            .into_iter()
            .map(|item| {
                Ok(Wanted {
                    config: self.document(&item.config)?,
                    layers: item.layers.unwrap_or_default(),
                    names: item.repo_tags.unwrap_or_default(),
                    manifest: None,
                    variants: Vec::new(),
                })
            })
            .collect()
    }

    fn oci_images(&mut self) -> Result<Vec<Wanted>> {
        let text = self.document("index.json")?;
        let index = Index::parse(&text, "index.json")?;
        let mut out = Vec::new();
        for descriptor in index.manifests {
            let name = descriptor.name();
            if let Some(wanted) = self.oci_image(&descriptor, name, 0)? {
                out.push(wanted);
            }
        }
        Ok(out)
    }

    fn oci_image(
        &mut self,
        descriptor: &Descriptor,
        name: Option<String>,
        depth: u32,
    ) -> Result<Option<Wanted>> {
        let bytes = self.blob(&descriptor.digest)?;
        if is_index(&descriptor.media_type, &bytes) {
            if depth >= INDEX_DEPTH {
                return Err(Error::Corrupt("the archive's indexes are nested too deeply".into()));
            }
            let index = Index::parse(&bytes, &descriptor.digest)?;
            if let Some(platform) = self.platform.clone() {
                let is =
                    |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| Platform::from(p).is(&platform));
                return match index.manifests.iter().find(is) {
                    Some(own) => self.oci_image(own, name, depth + 1),
                    None => Ok(None),
                };
            }
            let Some(own) = index.choose(&Platform::host()) else {
                return Err(Error::Corrupt(format!("the archive has no image for {}", Platform::host())));
            };
            let mut wanted = self.oci_image(&own.clone(), name, depth + 1)?;
            if let Some(wanted) = &mut wanted {
                for d in &index.manifests {
                    let Some(platform) = d.platform.as_ref().filter(|p| p.os != "unknown") else { continue };
                    // One that cannot be written cannot be kept either.
                    let Ok(platform) = Platform::parse(&Platform::from(platform).to_string()) else {
                        continue;
                    };
                    // Most archives have the one image alone that somebody wanted.
                    if let Ok(Some(variant)) = self.oci_image(d, None, depth + 1)
                        && variant.layers.iter().all(|l| self.layers.contains_key(l))
                    {
                        wanted.variants.push((platform, variant));
                    }
                }
            }
            return Ok(wanted);
        }
        let manifest = Manifest::parse(&bytes, &descriptor.digest)?;
        if !manifest.is_image() {
            // Signatures, attestations.
            return Ok(None);
        }
        let mut layers = Vec::new();
        for l in &manifest.layers {
            let path = format!("blobs/{}", l.digest.replace(':', "/"));
            if self.layers.get(&path).is_some_and(|(_, digest)| *digest != l.digest) {
                return Err(Error::Corrupt(format!("the archive's blob {} has other content", l.digest)));
            }
            layers.push(path);
        }
        let config = self.blob(&manifest.config.digest)?;
        // What an index says of it counts; who is not in one says so itself.
        if let Some(platform) = &self.platform
            && depth == 0
            && !ImageConfig::parse(&config, &manifest.config.digest)?.platform().is(platform)
        {
            return Ok(None);
        }
        Ok(Some(Wanted {
            config,
            layers,
            names: name.into_iter().filter(|n| reference::parse(n).is_ok()).collect(),
            manifest: Some((descriptor.digest.clone(), descriptor.media_type.clone(), bytes)),
            variants: Vec::new(),
        }))
    }
}

/// The digest that a file of an OCI layout is named by: `blobs/sha512/...`.
fn blob_digest(path: &str) -> Option<String> {
    let digest = path.strip_prefix("blobs/")?.replacen('/', ":", 1);
    reference::is_digest(&digest).then_some(digest)
}

/// `path` seen from the folder `base`, without `.` and `..`.
fn clean(path: &str, base: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            p => parts.push(p),
        }
    }
    parts.join("/")
}

/// Tells the progress of a read, every megabyte.
struct Counted<'a, R> {
    inner: R,
    done: u64,
    total: u64,
    told: u64,
    progress: Option<&'a ProgressSender>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.done += n as u64;
        if let Some(progress) = self.progress
            && self.done >= self.told + (1 << 20)
        {
            self.told = self.done;
            // A slow listener misses lines rather than slowing the load.
            let _ = progress.try_send(Progress {
                status: "Loading layer".into(),
                current: Some(self.done),
                total: Some(self.total),
                ..Progress::default()
            });
        }
        Ok(n)
    }
}
