//! Pushing: what the registry has already is not sent again, the rest is compressed while it is sent.

use std::io::{self, Write};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use serde_json::json;
use tokio::sync::{mpsc, oneshot};

use super::client::{ATTEMPTS, Remote, back_off};
use super::manifest::media;
use super::{Auth, Registry};
use crate::archive::compress::{self, Digesting};
use crate::error::{Error, Result};
use crate::reference::{self, Reference};
use crate::store::{ImageStore, blocking, db};
use crate::types::{Image, Progress, ProgressSender, short};

/// Layers that are uploaded at once.
const PARALLEL: usize = 3;

async fn tell(progress: &ProgressSender, id: &str, status: impl Into<String>) {
    // Whoever went away does not stop a push.
    let _ = progress.send(Progress { id: id.into(), status: status.into(), ..Progress::default() }).await;
}

impl ImageStore {
    /// Pushes a tag to its registry; without a tag, all tags of the repository.
    pub async fn push(
        self: &Arc<Self>,
        text: &str,
        auth: Option<Auth>,
        progress: ProgressSender,
    ) -> Result<()> {
        let wanted = reference::parse(text)?;
        let images = self.to_push(&wanted)?;
        tell(&progress, "", format!("The push refers to repository [{}]", wanted.name())).await;
        let remote = Remote::connect(&wanted, auth, true, &self.registry_config()).await?;
        for (tag, image) in images {
            self.push_to(&remote, &tag, &image, &progress).await?;
        }
        Ok(())
    }

    /// Whether there is something to push under this name.
    pub fn can_push(&self, text: &str) -> Result<()> {
        self.to_push(&reference::parse(text)?).map(|_| ())
    }

    /// What a name means for a push: one tag, or all tags of a repository.
    fn to_push(&self, wanted: &Reference) -> Result<Vec<(Reference, Arc<Image>)>> {
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
            Some(images) if !images.is_empty() => Ok(images),
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
        // The layers stay while they are read.
        let leases = self.lease_all(image.diff_ids())?;
        for diff_id in image.diff_ids() {
            tell(progress, short(diff_id), "Preparing").await;
        }
        let blobs = {
            // Boxed, because the compiler cannot see that these futures may go to another thread otherwise.
            let work: Vec<BoxFuture<'_, Result<(String, db::LayerBlob)>>> =
                image.diff_ids().iter().map(|d| self.push_layer(remote, tag, d, progress).boxed()).collect();
            let mut running = futures::stream::iter(work).buffered(PARALLEL);
            let mut blobs = Vec::new();
            while let Some(blob) = running.next().await {
                blobs.push(blob?);
            }
            blobs
        };
        if !remote.has_blob(&image.id).await? {
            let (tx, rx) = mpsc::channel(1);
            let (digest_tx, digest_rx) = oneshot::channel();
            let _ = digest_tx.send(image.id.clone());
            let raw = image.raw_config.clone();
            tokio::spawn(async move { tx.send(Ok(raw)).await });
            remote.upload(rx, digest_rx).await?;
        }
        let (media_type, bytes) = self.manifest_for(image, &blobs)?;
        let name = tag.tag.clone().unwrap_or_else(|| reference::DEFAULT_TAG.into());
        let size = bytes.len() as u64;
        let digest = remote.put_manifest(&name, &media_type, bytes.clone()).await?;
        let (store, tag_name, id, stored) = (self.clone(), tag.name(), image.id.clone(), digest.clone());
        blocking(move || {
            store.write(|c| {
                db::add_digest(c, &tag_name, &stored, &id)?;
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
        let last = Progress {
            status: format!("{name}: digest: {digest} size: {size}"),
            pushed: Some((name, digest, size)),
            ..Progress::default()
        };
        let _ = progress.send(last).await;
        Ok(())
    }

    /// The manifest as it came, if the registry now has exactly its blobs; else a new one.
    fn manifest_for(&self, image: &Image, blobs: &[(String, db::LayerBlob)]) -> Result<(String, Bytes)> {
        if let Some(digest) = &image.manifest_digest
            && let Some((media_type, bytes)) = self.stored_manifest(digest)?
            && let Ok(m) = super::manifest::Manifest::parse(&bytes, digest)
            && m.config.digest == image.id
            && m.layers.iter().map(|l| &l.digest).eq(blobs.iter().map(|(_, b)| &b.digest))
        {
            return Ok((media_type, bytes.into()));
        }
        let layers: Vec<_> = blobs
            .iter()
            .map(|(_, b)| json!({"mediaType": b.media_type, "size": b.size, "digest": b.digest}))
            .collect();
        let oci = blobs.iter().any(|(_, b)| b.media_type.starts_with("application/vnd.oci."));
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
        Ok((kind.into(), serde_json::to_vec_pretty(&manifest)?.into()))
    }

    async fn push_layer(
        self: &Arc<Self>,
        remote: &dyn Registry,
        tag: &Reference,
        diff_id: &str,
        progress: &ProgressSender,
    ) -> Result<(String, db::LayerBlob)> {
        let id = short(diff_id).to_string();
        let (store, d) = (self.clone(), diff_id.to_string());
        let known = blocking(move || store.known_blobs(&d)).await?;
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
        let mut failures = 0;
        let (digest, size) = loop {
            match self.send_layer(remote, diff_id, &id, progress).await {
                // What was sent is gone with the connection: the layer is sent once more.
                Err(e @ Error::Registry(_)) if failures + 1 < ATTEMPTS => {
                    failures += 1;
                    tracing::debug!(error = %e, layer = id, "pushing it again");
                    tell(progress, &id, format!("Retrying in {failures} second")).await;
                    back_off(failures, None).await;
                }
                other => break other?,
            }
        };
        tell(progress, &id, "Pushed").await;
        let blob = db::LayerBlob { digest, size, media_type: media::DOCKER_LAYER.into(), stored: false };
        Ok((diff_id.into(), blob))
    }

    /// Compresses a layer while it is sent; its digest and size.
    async fn send_layer(
        self: &Arc<Self>,
        remote: &dyn Registry,
        diff_id: &str,
        id: &str,
        progress: &ProgressSender,
    ) -> Result<(String, u64)> {
        let (tx, rx) = mpsc::channel(4);
        let (digest_tx, digest_rx) = oneshot::channel();
        let (store, d, teller, shown) = (self.clone(), diff_id.to_string(), progress.clone(), id.to_string());
        let compressing = blocking(move || {
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
            (Ok(done), Ok(())) => Ok(done),
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
        let ((), digest, _) = compress::read_ahead(tar, |r| {
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

const PIECE: usize = 64 * 1024;

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
