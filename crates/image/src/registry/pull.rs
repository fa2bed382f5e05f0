//! Pulling: manifest, configuration, then layers, several at once, unpacked and verified while they come.

use std::io::{self, Read};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};

use super::client::Remote;
use super::hosts::hosts;
use super::manifest::{self, Descriptor, Manifest, is_schema_1, media};
use super::{Auth, BlobStream, Document, Registry, tell};
use crate::archive::compress::{self, Compression, Digesting, digest_as, digest_of};
use crate::config::ImageConfig;
use crate::error::{Error, Result};
use crate::platform::Platform;
use crate::reference::{self, Reference};
use crate::store::{Download, ImageStore, blocking, db};
use crate::types::{Image, Layer, Progress, ProgressSender, short};

/// The largest configuration, in bytes.
const CONFIG_LIMIT: usize = 8 << 20;

impl ImageStore {
    /// Pulls an image (`name`, `name:tag` or `name@digest`) from its registry or a mirror of that, for this machine
    /// unless told otherwise.
    pub async fn pull(
        self: &Arc<Self>,
        text: &str,
        auth: Option<Auth>,
        platform: Option<Platform>,
        progress: ProgressSender,
    ) -> Result<Arc<Image>> {
        self.pull_somehow(text, auth, platform, true, progress).await
    }

    /// Pulls an image for another machine: the tag stays where it is, and the image is known by its digest.
    pub async fn pull_beside(
        self: &Arc<Self>,
        text: &str,
        auth: Option<Auth>,
        platform: Platform,
        progress: ProgressSender,
    ) -> Result<Arc<Image>> {
        self.pull_somehow(text, auth, Some(platform), false, progress).await
    }

    async fn pull_somehow(
        self: &Arc<Self>,
        text: &str,
        auth: Option<Auth>,
        platform: Option<Platform>,
        tagged: bool,
        progress: ProgressSender,
    ) -> Result<Arc<Image>> {
        let wanted = reference::parse_tagged(text)?;
        let config = self.registry_config();
        let mut last = Error::Registry(format!("no way to reach {}", wanted.domain));
        for host in hosts(&wanted, false, &config)? {
            let mirror = host.mirror;
            let pulled = match Remote::reach(host, &wanted, auth.clone(), false, &config).await {
                Ok(remote) => {
                    self.pull_one(&remote, &wanted, platform.clone(), tagged, progress.clone()).await
                }
                Err(e) => Err(e),
            };
            match pulled {
                // Whatever a mirror lacks or does wrong, the registry itself may have.
                Err(error) if mirror => {
                    tracing::info!(%error, image = text, "a mirror did not give it");
                    last = error;
                }
                other => return other,
            }
        }
        Err(last)
    }

    /// Pulls every tag of a repository.
    pub async fn pull_all(
        self: &Arc<Self>,
        text: &str,
        auth: Option<Auth>,
        platform: Option<Platform>,
        progress: ProgressSender,
    ) -> Result<Vec<Arc<Image>>> {
        let repository = reference::parse(text)?;
        let remote = Remote::connect(&repository, auth, false, &self.registry_config()).await?;
        let mut images = Vec::new();
        for tag in remote.tags().await? {
            let wanted = Reference { tag: Some(tag), ..repository.clone() };
            images.push(self.pull_from(&remote, &wanted, platform.clone(), progress.clone()).await?);
        }
        if images.is_empty() {
            return Err(Error::NotFound(format!("{} has no tags", repository.familiar_name())));
        }
        Ok(images)
    }

    /// Pulls from a given repository; `wanted` says which tag or digest, and by which name it will be known here.
    pub async fn pull_from(
        self: &Arc<Self>,
        remote: &dyn Registry,
        wanted: &Reference,
        platform: Option<Platform>,
        progress: ProgressSender,
    ) -> Result<Arc<Image>> {
        self.pull_one(remote, wanted, platform, true, progress).await
    }

    async fn pull_one(
        self: &Arc<Self>,
        remote: &dyn Registry,
        wanted: &Reference,
        platform: Option<Platform>,
        tagged: bool,
        progress: ProgressSender,
    ) -> Result<Arc<Image>> {
        let which = wanted.digest.as_ref().or(wanted.tag.as_ref()).cloned().unwrap_or_default();
        let top = remote.manifest(&which).await?;
        tell(&progress, &which, format!("Pulling from {}", wanted.path)).await;
        let asked = platform.is_some();
        let platform = platform.unwrap_or_else(Platform::host);
        let read = |digest: String| async move { remote.manifest(&digest).await };
        let document = manifest::follow(top.clone(), &platform, &wanted.familiar(), read).await?;
        // Two pulls of one image do the work once: the second finds everything here.
        let turn = self.turn(&document.digest).await;
        let result = self.pull_manifest(remote, wanted, tagged, &top, &document, &progress).await;
        drop(turn);
        if let Ok(image) = &result
            && asked
            && !image.config.fits(&platform)
        {
            // A repository with one image alone gives that one; its user should know.
            let warning = format!(
                "WARNING: image with reference {} was found but does not match the specified platform: wanted \
                 {platform}, actual: {}",
                wanted.familiar(),
                image.config.platform()
            );
            tell(&progress, "", warning).await;
        }
        result
    }

    async fn pull_manifest(
        self: &Arc<Self>,
        remote: &dyn Registry,
        wanted: &Reference,
        tagged: bool,
        top: &Document,
        document: &Document,
        progress: &ProgressSender,
    ) -> Result<Arc<Image>> {
        if is_schema_1(&document.media_type, &document.bytes) {
            return Err(Error::Invalid(format!(
                "[DEPRECATION NOTICE] Docker Image Format v1 and Docker Image manifest version 2, schema 1 support is \
                 disabled by default and will be removed in an upcoming release. Suggest the author of {wanted} to \
                 upgrade the image to the OCI Format or Docker Image manifest v2, schema 2. More information at \
                 https://docs.docker.com/go/deprecated-image-specs/"
            )));
        }
        let manifest = Manifest::parse(&document.bytes, &document.digest)?;
        if !manifest.is_image() {
            return Err(Error::Corrupt(format!(
                "unsupported media type {}: {} is not a container image",
                manifest.config.media_type,
                wanted.familiar()
            )));
        }
        let config_bytes = fetch_config(remote, &manifest.config).await?;
        let id = digest_of(&config_bytes);
        let config = ImageConfig::parse(&config_bytes, &id)?;
        config.check_depth()?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(Error::Corrupt(format!(
                "manifest {} has {} layers, its configuration {}",
                document.digest,
                manifest.layers.len(),
                config.rootfs.diff_ids.len()
            )));
        }
        let before = self.get(&id).ok();
        let pairs: Vec<(Descriptor, String)> =
            manifest.layers.iter().cloned().zip(config.rootfs.diff_ids.iter().cloned()).collect();
        for (d, diff_id) in &pairs {
            let known = self.existing_layer(diff_id).is_some();
            let status = if known { "Already exists" } else { "Pulling fs layer" };
            if before.is_none() {
                tell(progress, short(&d.digest), status).await;
            }
        }
        let layers: Vec<Layer> = {
            // Boxed, because the compiler cannot see that these futures may go to another thread otherwise.
            let work: Vec<BoxFuture<'_, Result<Layer>>> = pairs
                .iter()
                .map(|(d, diff_id)| self.pull_layer(remote, d, diff_id, progress).boxed())
                .collect();
            // Each waits for its lane.
            let all = work.len().max(1);
            let mut running = futures::stream::iter(work).buffered(all);
            let mut layers = Vec::new();
            while let Some(layer) = running.next().await {
                layers.push(layer?);
            }
            layers
        };
        let known_by = if tagged { top.digest.clone() } else { document.digest.clone() };
        let (store, wanted_now) = (self.clone(), wanted.clone());
        let (media_type, digest, bytes) =
            (document.media_type.clone(), document.digest.clone(), document.bytes.clone());
        let moved = tagged
            && wanted.tag.is_some()
            && self.get(&wanted.to_string()).ok().map(|i| i.id.clone()).as_ref() != Some(&id);
        let image = blocking(move || {
            let id = digest_of(&config_bytes);
            let diff_ids: Vec<String> = pairs.iter().map(|(_, d)| d.clone()).collect();
            let mut forms = Vec::new();
            for (d, diff_id) in &pairs {
                // What a manifest and a configuration say of a layer that was here already, nobody has verified.
                if store.is_form_of(d, diff_id)? {
                    let stored = store.open_blob(&d.digest)?.is_some();
                    let (digest, media_type) = (d.digest.clone(), d.media_type.clone());
                    forms.push((diff_id, db::LayerBlob { digest, size: d.size, media_type, stored }));
                }
            }
            store.write_image(&diff_ids, |c| {
                db::add_image(c, &id, &config_bytes, None)?;
                let media_type = if media_type.is_empty() { media::OCI_MANIFEST } else { &media_type };
                db::add_manifest(c, &digest, media_type, &bytes, &id)?;
                if tagged && wanted_now.digest.is_none() {
                    db::set_tag(c, &wanted_now, &id)?;
                }
                db::add_digest(c, &wanted_now.name(), &known_by, &id)?;
                if !tagged && wanted_now.digest.is_none() {
                    db::add_beside(c, &wanted_now, &id)?;
                }
                for (diff_id, blob) in &forms {
                    db::add_layer_blob(c, diff_id, blob)?;
                    db::add_blob_source(c, &blob.digest, &wanted_now.name())?;
                }
                Ok(())
            })?;
            drop(layers);
            store.get(&id)
        })
        .await?;
        tell(progress, "", format!("Digest: {}", top.digest)).await;
        let news =
            if before.is_some() && !moved { "Image is up to date for" } else { "Downloaded newer image for" };
        tell(progress, "", format!("Status: {news} {}", wanted.familiar())).await;
        Ok(image)
    }

    async fn pull_layer(
        self: &Arc<Self>,
        remote: &dyn Registry,
        descriptor: &Descriptor,
        diff_id: &str,
        progress: &ProgressSender,
    ) -> Result<Layer> {
        if let Some(layer) = self.existing_layer(diff_id) {
            return Ok(layer);
        }
        let id = short(&descriptor.digest).to_string();
        let turn = self.turn(&descriptor.digest).await;
        if let Some(layer) = self.existing_layer(diff_id) {
            // Another image's pull has brought it.
            return Ok(layer);
        }
        // After the turn, so that nobody who holds a lane waits for somebody who needs one.
        let _lane = self.lanes().download().await;
        let (store, digest, total) = (self.clone(), descriptor.digest.clone(), descriptor.size);
        let download = blocking(move || {
            let mut download = store.download(&digest, turn)?;
            if download.have() > total {
                download.start_over()?;
            }
            Ok(download)
        })
        .await?;
        let have = download.have();
        let stream = match have {
            0 => remote.blob(&descriptor.digest).await?,
            have if have == total => tokio::sync::mpsc::channel(1).1,
            have => remote.blob_from(&descriptor.digest, have).await?,
        };
        let store = self.clone();
        // It lives as long as somebody wants the layer; else the download breaks off, to be resumed another time.
        let wanted = Arc::new(());
        let pieces = Pieces {
            stream,
            wanted: Arc::downgrade(&wanted),
            current: Bytes::new(),
            done: have,
            told: have,
            total,
            broken: false,
            id: id.clone(),
            teller: progress.clone(),
        };
        let (want, like) = (descriptor.digest.clone(), diff_id.to_string());
        let layer =
            crate::blocking_on_stream(move || unpack_download(&store, download, pieces, &want, &like))
                .await?;
        drop(wanted);
        tell(progress, &id, "Pull complete").await;
        Ok(layer)
    }
}

/// Unpacks what is here of a download and what comes of it, and keeps it when it is whole and right. Blocking.
fn unpack_download(
    store: &Arc<ImageStore>,
    mut download: Download,
    mut pieces: Pieces,
    want: &str,
    like: &str,
) -> Result<Layer> {
    let mut work = || {
        let mut raw = Digesting::like(download.reader(&mut pieces), want);
        let (kind, layer) = {
            let mut head = [0; compress::HEAD];
            let n = compress::read_head(&mut raw, &mut head)?;
            // Layers come several at once, and their windows would add up. Whoever has the turn waits for its registry
            // alone, and not for ever.
            let _turn = compress::turn(&head[..n]);
            let (kind, plain) = compress::decoder(io::Cursor::new(head).take(n as u64).chain(&mut raw))?;
            (kind, store.unpack(plain, like)?)
        };
        io::copy(&mut raw, &mut io::sink())?;
        Ok((kind, layer, raw.finish().0))
    };
    let (kind, layer, digest) = match work() {
        // Where not the way to the registry broke, what came is not what it should be: the next attempt begins anew.
        Err(e) if !pieces.broken => {
            download.start_over()?;
            return Err(match e {
                Error::Corrupt(why) => Error::Corrupt(format!("layer {want}: {why}")),
                other => other,
            });
        }
        other => other?,
    };
    pieces.say("Verifying Checksum");
    if digest != want {
        download.start_over()?;
        return Err(Error::Corrupt(format!("filesystem layer verification failed for digest {want}")));
    }
    if pieces.done != pieces.total {
        download.start_over()?;
        return Err(Error::Corrupt(format!(
            "layer {want} has {} bytes, but the manifest says {}",
            pieces.done, pieces.total
        )));
    }
    store.note_form(want, pieces.total, &layer.diff_id);
    if layer.diff_id != like {
        download.start_over()?;
        return Err(Error::Corrupt(format!(
            "layer {want} unpacks to {}, but the image's configuration says {like}",
            layer.diff_id
        )));
    }
    pieces.say("Download complete");
    match kind {
        // The layer gives its own tar again.
        Compression::None => download.start_over()?,
        _ => download.keep(store.is_fresh(&layer.diff_id))?,
    }
    Ok(layer)
}

pub(super) async fn fetch_config(remote: &dyn Registry, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let mut stream = remote.blob(&descriptor.digest).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = stream.recv().await {
        bytes.extend_from_slice(&piece?);
        if bytes.len() > CONFIG_LIMIT {
            return Err(Error::Corrupt(format!(
                "the configuration {} is larger than 8 MiB",
                descriptor.digest
            )));
        }
    }
    if digest_as(&bytes, &descriptor.digest) != descriptor.digest {
        return Err(Error::Corrupt(format!(
            "image config verification failed for digest {}",
            descriptor.digest
        )));
    }
    manifest::check_size("the configuration", descriptor, bytes.len())?;
    Ok(bytes)
}

/// Reads a download on a blocking thread and tells its progress.
struct Pieces {
    stream: BlobStream,
    /// Whether anybody still waits for it.
    wanted: Weak<()>,
    current: Bytes,
    done: u64,
    told: u64,
    total: u64,
    /// Whether the registry failed, as opposed to what it sent.
    broken: bool,
    id: String,
    teller: ProgressSender,
}

impl Pieces {
    fn say(&self, status: &str) {
        let line = Progress { id: self.id.clone(), status: status.into(), ..Progress::default() };
        // A slow listener misses lines rather than slowing the download.
        let _ = self.teller.try_send(line);
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.stream.blocking_recv() {
                // With whoever waited its connection went too: this is not the layer's end.
                _ if self.wanted.strong_count() == 0 => {
                    self.broken = true;
                    return Err(io::Error::other("nobody waits for the download any more"));
                }
                None => return Ok(0),
                Some(Ok(data)) => self.current = data,
                Some(Err(e)) => {
                    self.broken = true;
                    return Err(io::Error::other(e.to_string()));
                }
            }
        }
        let n = buf.len().min(self.current.len());
        buf[..n].copy_from_slice(&self.current.split_to(n));
        self.done += n as u64;
        if self.done > self.total {
            return Err(io::Error::other("the registry sends more than the manifest says"));
        }
        if self.done - self.told >= 512 * 1024 {
            self.told = self.done;
            // A slow listener misses lines rather than slowing the download.
            let _ = self.teller.try_send(Progress {
                id: self.id.clone(),
                status: "Downloading".into(),
                current: Some(self.done),
                total: Some(self.total),
                ..Progress::default()
            });
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Servers run these on whatever thread is free.
    #[allow(dead_code)]
    fn pulls_and_pushes_may_move_between_threads(store: &Arc<ImageStore>, progress: &ProgressSender) {
        fn is_send<T: Send>(_: T) {}
        is_send(store.pull("", None, None, progress.clone()));
        is_send(store.push("", None, progress.clone()));
    }
}
