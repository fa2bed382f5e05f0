//! Pushing: what the registry has already is not sent again, the rest is compressed while it is sent.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::client::{Remote, back_off};
use super::layer_types::of_one_family;
use super::manifest::{Descriptor, Index, Manifest, media};
use super::{Auth, Registry, tell};
use crate::archive::compress::{self, Digesting};
use crate::error::{Error, Result};
use crate::platform::Platform;
use crate::reference::{self, Reference};
use crate::store::{ImageStore, blocking, db};
use crate::types::{Image, Progress, ProgressSender, short};

/// A tag has been pushed: for people, and for programs.
async fn tell_pushed(progress: &ProgressSender, name: String, digest: String, size: u64) {
    tell(progress, "", format!("{name}: digest: {digest} size: {size}")).await;
    let pushed = Progress { pushed: Some((name, digest, size)), ..Progress::default() };
    let _ = progress.send_timeout(pushed, super::LISTENER).await;
}

impl ImageStore {
    /// Pushes a tag to its registry; without a tag, all tags of the repository.
    pub async fn push(
        self: &Arc<Self>,
        text: &str,
        auth: Option<Auth>,
        progress: ProgressSender,
    ) -> Result<()> {
        self.push_for(text, auth, None, progress).await
    }

    /// As `push`, but of each tag only what it has for one platform.
    pub async fn push_for(
        self: &Arc<Self>,
        text: &str,
        auth: Option<Auth>,
        platform: Option<&Platform>,
        progress: ProgressSender,
    ) -> Result<()> {
        let wanted = reference::parse(text)?;
        let images = self.to_push(&wanted, platform)?;
        tell(&progress, "", format!("The push refers to repository [{}]", wanted.name())).await;
        let remote = Remote::connect(&wanted, auth, true, &self.registry_config()).await?;
        for (tag, image) in images {
            match self.variants(&tag) {
                all if all.is_empty() || platform.is_some() => {
                    self.push_to(&remote, &tag, &image, &progress).await?
                }
                all => self.push_index(&remote, &tag, &image, &all, &progress).await?,
            }
        }
        Ok(())
    }

    /// Whether there is something to push under this name.
    pub fn can_push(&self, text: &str, platform: Option<&Platform>) -> Result<()> {
        self.to_push(&reference::parse(text)?, platform).map(|_| ())
    }

    /// What a name means for a push: one tag, or all tags of a repository.
    fn to_push(
        &self,
        wanted: &Reference,
        platform: Option<&Platform>,
    ) -> Result<Vec<(Reference, Arc<Image>)>> {
        if wanted.digest.is_some() {
            return Err(Error::Invalid("cannot push a digest reference".into()));
        }
        let tags: Vec<Reference> = match &wanted.tag {
            Some(_) => vec![wanted.clone()],
            None => {
                let all = self.list();
                let all = all.iter().flat_map(|i| &i.tags).filter_map(|t| reference::parse(t).ok());
                all.filter(|r| r.name() == wanted.name()).collect()
            }
        };
        let found = tags.into_iter().map(|tag| Some((tag.clone(), self.get(&tag.to_string()).ok()?)));
        match found.collect::<Option<Vec<_>>>() {
            Some(images) if !images.is_empty() => match platform {
                Some(platform) => {
                    let of = |(tag, _): (Reference, _)| {
                        Ok((tag.clone(), self.exactly(&tag.familiar(), platform)?))
                    };
                    images.into_iter().map(of).collect()
                }
                None => Ok(images),
            },
            _ => Err(Error::NotFound(format!(
                "An image does not exist locally with the tag: {}",
                wanted.familiar_name()
            ))),
        }
    }

    /// Pushes an image to a given repository under a tag.
    pub async fn push_to(
        self: &Arc<Self>,
        remote: &dyn Registry,
        tag: &Reference,
        image: &Arc<Image>,
        progress: &ProgressSender,
    ) -> Result<()> {
        let name = tag.tag.clone().unwrap_or_else(|| reference::DEFAULT_TAG.into());
        let pushed = self.push_image(remote, tag, Some(&name), image, progress).await?;
        tell_pushed(progress, name, pushed.digest, pushed.size).await;
        Ok(())
    }

    /// Pushes the images of several platforms, and an index of them under the tag.
    async fn push_index(
        self: &Arc<Self>,
        remote: &dyn Registry,
        tag: &Reference,
        main: &Arc<Image>,
        variants: &[(Platform, Arc<Image>)],
        progress: &ProgressSender,
    ) -> Result<()> {
        let mut manifests = Vec::with_capacity(variants.len());
        for (platform, image) in variants {
            let mut descriptor = self.push_image(remote, tag, None, image, progress).await?;
            descriptor.platform = Some(platform.into());
            manifests.push(descriptor);
        }
        let index = Index { schema_version: 2, media_type: media::OCI_INDEX.into(), manifests };
        let bytes = Bytes::from(serde_json::to_vec_pretty(&index)?);
        let name = tag.tag.clone().unwrap_or_else(|| reference::DEFAULT_TAG.into());
        let size = bytes.len() as u64;
        let digest = remote.put_manifest(&name, media::OCI_INDEX, bytes).await?;
        let (store, repository, id, known) = (self.clone(), tag.name(), main.id.clone(), digest.clone());
        blocking(move || store.write(|c| db::add_digest(c, &repository, &known, &id))).await?;
        tell_pushed(progress, name, digest, size).await;
        Ok(())
    }

    /// Pushes an image, under a tag or under the digest of its manifest; what names it there.
    async fn push_image(
        self: &Arc<Self>,
        remote: &dyn Registry,
        tag: &Reference,
        name: Option<&str>,
        image: &Arc<Image>,
        progress: &ProgressSender,
    ) -> Result<Descriptor> {
        // The layers stay while they are read.
        let leases = self.lease_all(image.diff_ids())?;
        for diff_id in image.diff_ids() {
            tell(progress, short(diff_id), "Preparing").await;
        }
        let (store, of) = (self.clone(), image.clone());
        let own = blocking(move || store.own_manifest(&of)).await?;
        let as_it_came = |i: usize| own.as_ref().and_then(|(_, _, manifest)| manifest.layers.get(i));
        let blobs = {
            // Boxed, because the compiler cannot see that these futures may go to another thread otherwise.
            let work: Vec<BoxFuture<'_, Result<(String, db::LayerBlob)>>> = image
                .diff_ids()
                .iter()
                .enumerate()
                .map(|(i, d)| self.push_layer(remote, tag, d, as_it_came(i), progress).boxed())
                .collect();
            // Each waits for its lane.
            let all = work.len().max(1);
            let mut running = futures::stream::iter(work).buffered(all);
            let mut blobs = Vec::new();
            while let Some(blob) = running.next().await {
                blobs.push(blob?);
            }
            blobs
        };
        let (media_type, config, bytes) = manifest_for(own, image, &blobs)?;
        if !remote.has_blob(&config).await? {
            let (tx, rx) = mpsc::channel(1);
            let (digest_tx, digest_rx) = oneshot::channel();
            let _ = digest_tx.send(config);
            let raw = image.raw_config.clone();
            tokio::spawn(async move { tx.send(Ok(raw)).await });
            remote.upload(rx, digest_rx).await?;
        }
        let own = compress::digest_of(&bytes);
        let mut descriptor =
            Descriptor { media_type: media_type.clone(), size: bytes.len() as u64, ..Descriptor::default() };
        descriptor.digest = remote.put_manifest(name.unwrap_or(&own), &media_type, bytes.clone()).await?;
        let (store, tag_name, id, stored) =
            (self.clone(), tag.name(), image.id.clone(), descriptor.digest.clone());
        // A part of an index is named by that.
        let named = name.is_some();
        blocking(move || {
            store.write(|c| {
                if named {
                    db::add_digest(c, &tag_name, &stored, &id)?;
                }
                db::add_manifest(c, &stored, &media_type, &bytes, &id)?;
                for (diff_id, blob) in &blobs {
                    db::add_layer_blob(c, diff_id, blob)?;
                    db::add_blob_source(c, &blob.digest, &tag_name)?;
                }
                Ok(())
            })
        })
        .await?;
        drop(leases);
        Ok(descriptor)
    }

    async fn push_layer(
        self: &Arc<Self>,
        remote: &dyn Registry,
        tag: &Reference,
        diff_id: &str,
        came: Option<&Descriptor>,
        progress: &ProgressSender,
    ) -> Result<(String, db::LayerBlob)> {
        let id = short(diff_id).to_string();
        let _lane = self.lanes().upload().await;
        let attempts = self.attempts();
        let (store, d) = (self.clone(), diff_id.to_string());
        let mut known = blocking(move || store.known_blobs(&d)).await?;
        // As the image came, so it goes.
        let as_it_came = |b: &db::LayerBlob| came.is_some_and(|d| d.digest == b.digest);
        known.sort_by_key(|(b, _)| !as_it_came(b));
        // What was kept may have made room for something else since.
        let here = |b: &db::LayerBlob| {
            b.stored && self.open_blob(&b.digest).is_ok_and(|f| f.is_some())
                || b.digest == diff_id && as_it_came(b)
        };
        if known.first().is_some_and(|(b, _)| as_it_came(b) && here(b)) {
            // Another form that the registry has would make it another image there.
            known.truncate(1);
        }
        for (blob, _) in &known {
            if remote.has_blob(&blob.digest).await? {
                tell(progress, &id, "Layer already exists").await;
                return Ok((diff_id.into(), blob.clone()));
            }
        }
        let prefix = format!("{}/", tag.domain);
        for (blob, sources) in &known {
            for source in sources.iter().filter_map(|s| s.strip_prefix(&prefix)).filter(|s| *s != tag.path) {
                if remote.mount(&blob.digest, source).await? {
                    tell(progress, &id, format!("Mounted from {source}")).await;
                    return Ok((diff_id.into(), blob.clone()));
                }
            }
        }
        let kept = known.into_iter().map(|(blob, _)| blob).find(here);
        let mut failures = 0;
        let blob = loop {
            let sent = match &kept {
                Some(blob) => self.send_kept(remote, diff_id, blob, &id, progress).await,
                None => self.send_layer(remote, diff_id, &id, progress).await,
            };
            match sent {
                // What was sent is gone with the connection: the layer is sent once more.
                Err(e @ Error::Registry(_)) if failures + 1 < attempts => {
                    failures += 1;
                    tracing::debug!(error = %e, layer = id, "pushing it again");
                    tell(progress, &id, format!("Retrying in {failures} second")).await;
                    back_off(failures, None).await;
                }
                other => break other?,
            }
        };
        tell(progress, &id, "Pushed").await;
        Ok((diff_id.into(), blob))
    }

    /// Sends a layer as it was pulled, so that it has the same digest there.
    async fn send_kept(
        self: &Arc<Self>,
        remote: &dyn Registry,
        diff_id: &str,
        blob: &db::LayerBlob,
        id: &str,
        progress: &ProgressSender,
    ) -> Result<db::LayerBlob> {
        let (store, digest, plain) = (self.clone(), blob.digest.clone(), blob.digest == diff_id);
        let opened = blocking(move || -> Result<Option<(Box<dyn io::Read + Send>, u64)>> {
            if plain {
                let (tar, total) = store.layer_tar(&digest)?;
                return Ok(Some((Box::new(tar), total)));
            }
            Ok(store.open_blob(&digest)?.map(|(file, total)| (Box::new(file) as Box<_>, total)))
        });
        let (file, total) = opened.await?.ok_or_else(|| {
            Error::Corrupt(format!("the compressed layer {} is gone: pull the image again", blob.digest))
        })?;
        let (tx, rx) = mpsc::channel(4);
        let (digest_tx, digest_rx) = oneshot::channel();
        let (teller, shown, digest) = (progress.clone(), id.to_string(), blob.digest.clone());
        let reading = crate::blocking_on_stream(move || {
            let mut sink = Digesting::like(Pieces { out: tx, buf: Vec::with_capacity(PIECE) }, &digest);
            let mut file = Told { inner: file, done: 0, told: 0, total, id: shown, teller };
            io::copy(&mut file, &mut sink)?;
            let (found, _, mut pieces) = sink.finish();
            pieces.flush()?;
            if found != digest {
                return Err(Error::Corrupt(format!(
                    "the layer {digest} has changed on disk: remove the image and pull it again"
                )));
            }
            // The uploader may have failed meanwhile; then that is the error.
            let _ = digest_tx.send(digest);
            Ok(())
        });
        let (read, uploaded) = tokio::join!(reading, remote.upload(rx, digest_rx));
        match (read, uploaded) {
            (Ok(()), Ok(())) => Ok(blob.clone()),
            (Err(e @ (Error::Corrupt(_) | Error::File { .. })), _) | (_, Err(e)) | (Err(e), _) => Err(e),
        }
    }

    /// Compresses a layer while it is sent.
    async fn send_layer(
        self: &Arc<Self>,
        remote: &dyn Registry,
        diff_id: &str,
        id: &str,
        progress: &ProgressSender,
    ) -> Result<db::LayerBlob> {
        let (tx, rx) = mpsc::channel(4);
        let (digest_tx, digest_rx) = oneshot::channel();
        let (store, d, teller, shown) = (self.clone(), diff_id.to_string(), progress.clone(), id.to_string());
        let compressing = crate::blocking_on_stream(move || {
            let result = store.compress_layer(&d, tx.clone(), &teller, &shown);
            match result {
                Ok((digest, size)) => {
                    // The uploader may have failed meanwhile; then that is the error.
                    let _ = digest_tx.send(digest.clone());
                    Ok((digest, size))
                }
                Err(e) => {
                    let _ = tx.blocking_send(Err(Error::Cancelled("compressing a layer".into())));
                    Err(e)
                }
            }
        });
        let (compressed, uploaded) = tokio::join!(compressing, remote.upload(rx, digest_rx));
        // The upload's own error explains a broken pipe of the compression, not the other way round.
        match (compressed, uploaded) {
            (Ok((digest, size)), Ok(())) => {
                Ok(db::LayerBlob { digest, size, media_type: media::DOCKER_LAYER.into(), stored: false })
            }
            (Err(e @ (Error::Corrupt(_) | Error::File { .. })), _) | (_, Err(e)) | (Err(e), _) => Err(e),
        }
    }

    /// The layer's tar, gzip-compressed the same way each time, in pieces. Blocking.
    fn compress_layer(
        &self,
        diff_id: &str,
        out: mpsc::Sender<Result<Bytes>>,
        progress: &ProgressSender,
        id: &str,
    ) -> Result<(String, u64)> {
        let (tar, total) = self.layer_tar(diff_id)?;
        let mut sink = Digesting::new(Pieces { out, buf: Vec::with_capacity(PIECE) });
        let mut told = 0u64;
        let ((), digest, _) = compress::read_ahead(tar, diff_id, |r| {
            compress::gzip_blocks(r, &mut sink, |done| {
                if done - told < 1 << 20 {
                    return;
                }
                told = done;
                // A slow listener misses lines rather than slowing the upload.
                let _ = progress.try_send(Progress {
                    id: id.into(),
                    status: "Pushing".into(),
                    current: Some(done),
                    total: Some(total),
                    ..Progress::default()
                });
            })?;
            Ok(())
        })?;
        if digest != diff_id {
            return Err(Error::Corrupt(format!(
                "layer {diff_id} has changed on disk: load or pull the image again"
            )));
        }
        let (digest, size, mut pieces) = sink.finish();
        pieces.flush()?;
        Ok((digest, size))
    }
}

/// The manifest as it came, if the registry now has exactly its blobs; else a new one. Its media type, the digest of
/// its configuration, its bytes.
fn manifest_for(
    own: Option<(String, Vec<u8>, Manifest)>,
    image: &Image,
    blobs: &[(String, db::LayerBlob)],
) -> Result<(String, String, Bytes)> {
    if let Some((media_type, bytes, m)) = own
        && m.layers.iter().map(|l| &l.digest).eq(blobs.iter().map(|(_, b)| &b.digest))
    {
        return Ok((media_type, m.config.digest, bytes.into()));
    }
    let types: Vec<_> = blobs.iter().map(|(d, b)| (b.media_type.as_str(), *d != b.digest)).collect();
    let (oci, names) = of_one_family(&types);
    let layers: Vec<_> = blobs
        .iter()
        .zip(names)
        .map(|((_, b), name)| json!({"mediaType": name, "size": b.size, "digest": b.digest}))
        .collect();
    let (kind, config) = if oci {
        (media::OCI_MANIFEST, media::OCI_CONFIG)
    } else {
        (media::DOCKER_MANIFEST, media::DOCKER_CONFIG)
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": kind,
        "config": {"mediaType": config, "size": image.raw_config.len(), "digest": image.id},
        "layers": layers,
    });
    Ok((kind.into(), image.id.clone(), serde_json::to_vec_pretty(&manifest)?.into()))
}

const PIECE: usize = 64 * 1024;

/// Tells what has been read of a blob.
struct Told<R> {
    inner: R,
    done: u64,
    told: u64,
    total: u64,
    id: String,
    teller: ProgressSender,
}

impl<R: io::Read> io::Read for Told<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.done += n as u64;
        if self.done - self.told >= 1 << 20 {
            self.told = self.done;
            // A slow listener misses lines rather than slowing the upload.
            let _ = self.teller.try_send(Progress {
                id: self.id.clone(),
                status: "Pushing".into(),
                current: Some(self.done),
                total: Some(self.total),
                ..Progress::default()
            });
        }
        Ok(n)
    }
}

/// Sends what is written in pieces.
struct Pieces {
    out: mpsc::Sender<Result<Bytes>>,
    buf: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.buf.extend_from_slice(data);
        if self.buf.len() >= PIECE {
            self.flush()?;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buf.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::replace(&mut self.buf, Vec::with_capacity(PIECE)));
        self.out
            .blocking_send(Ok(piece))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the upload ended"))
    }
}
