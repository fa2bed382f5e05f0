//! Images in the client's content stores, read and written blob by blob.

use std::sync::Arc;

use image::registry::Document;
use image::registry::manifest::{self, Descriptor, Index, Manifest, media};
use image::{Finished, ImageConfig, Layer, Platform};
use tokio::io::AsyncReadExt;

use super::progress::Line;
use super::session::Session;
use crate::blocking_on_stream;
use crate::builder::Builder;
use crate::error::{Error, Result};
use crate::state::State;

/// The largest manifest or configuration that is read.
const DOCUMENT: u64 = 16 << 20;

/// Reads a document and verifies it.
async fn document(session: &Session, store: &str, digest: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    session.read_blob(store, digest).await?.take(DOCUMENT).read_to_end(&mut bytes).await?;
    if image::archive::compress::digest_as(&bytes, digest) != digest {
        return Err(Error::Session(format!("the client's {digest} does not have that digest")));
    }
    Ok(bytes)
}

/// The configuration and the layers of an image of the client's, of an index the one for `platform`. Layers that are here
/// already are not sent.
pub(super) async fn image(
    builder: &Arc<Builder>,
    session: &Session,
    store: &str,
    digest: &str,
    platform: &Platform,
) -> Result<(ImageConfig, Vec<Layer>)> {
    let read = |digest: String| async move {
        let bytes = document(session, store, &digest).await?.into();
        Ok::<_, Error>(Document { media_type: String::new(), digest, bytes })
    };
    let first = read(digest.to_string()).await?;
    let found = manifest::follow(first, platform, &format!("the client's {digest}"), read).await?;
    let digest = found.digest;
    let manifest = Manifest::parse(&found.bytes, &digest)?;
    let config = document(session, store, &manifest.config.digest).await?;
    let config = ImageConfig::parse(&config, &manifest.config.digest)?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(Error::Session(format!(
            "the client's manifest {digest} has {} layers, its configuration {}",
            manifest.layers.len(),
            config.rootfs.diff_ids.len()
        )));
    }
    let mut layers = Vec::with_capacity(manifest.layers.len());
    for (descriptor, diff_id) in manifest.layers.iter().zip(&config.rootfs.diff_ids) {
        let layer = match builder.images.layer(diff_id) {
            Some(layer) => layer,
            None => {
                let blob = session.read_blob(store, &descriptor.digest).await?;
                builder.images.unpack_async(blob).await?
            }
        };
        if layer.diff_id != *diff_id {
            return Err(Error::Session(format!("the client's layer {diff_id} is {}", layer.diff_id)));
        }
        layers.push(layer);
    }
    Ok((config, layers))
}

async fn write(session: &Session, store: &str, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
    let (digest, size) = (image::archive::compress::digest_of(bytes), bytes.len() as u64);
    session.write_blob(store, &digest, size, bytes).await?;
    Ok(Descriptor { media_type: media_type.into(), digest, size, ..Descriptor::default() })
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    Ok(serde_json::to_vec(value).map_err(image::Error::from)?)
}

/// Writes an image with uncompressed layers into one of the client's stores; its manifest, which the client puts into its
/// index.
pub(super) async fn send(
    builder: &Arc<Builder>,
    session: &Session,
    store: &str,
    image: &Finished,
    line: &Line,
) -> Result<Descriptor> {
    let mut layers = Vec::new();
    for layer in &image.layers {
        let (tar, size) = builder.images.read_layer(layer)?;
        let (near, far) = tokio::io::duplex(1 << 18);
        let copy = blocking_on_stream(move || {
            let (mut tar, mut out) = (tar, image::Bridge::new(near));
            std::io::copy(&mut tar, &mut out)?;
            Ok(out.shutdown()?)
        });
        let digest = layer.diff_id.clone();
        let (copied, sent) = tokio::join!(copy, session.write_blob(store, &digest, size, far));
        // Who has it already takes nothing, or no more.
        if sent? {
            copied?;
        }
        line.status(&format!("writing layer {digest}"), size, size, true);
        let media_type = media::OCI_LAYER.into();
        layers.push(Descriptor { media_type, digest, size, ..Descriptor::default() });
    }
    let config = write(session, store, media::OCI_CONFIG, &image.encode()?.0).await?;
    line.status(&format!("writing config {}", config.digest), 0, 0, true);
    let manifest = Manifest {
        schema_version: 2,
        media_type: media::OCI_MANIFEST.into(),
        artifact_type: String::new(),
        config,
        layers,
    };
    write(session, store, media::OCI_MANIFEST, &json(&manifest)?).await
}

/// Writes an index of images that are in the store already.
pub(super) async fn send_index(
    session: &Session,
    store: &str,
    manifests: Vec<Descriptor>,
) -> Result<Descriptor> {
    let index = Index { schema_version: 2, media_type: media::OCI_INDEX.into(), manifests };
    write(session, store, media::OCI_INDEX, &json(&index)?).await
}

/// What a stage stands on or copies from, of a source `//STORE[:TAG]@DIGEST`.
pub(super) async fn state(
    builder: &Arc<Builder>,
    session: &Session,
    source: &str,
    platform: &Platform,
) -> Result<State> {
    let wrong = || Error::Invalid(format!("oci-layout:{source} names no digest of a layout"));
    let (name, digest) = source.trim_start_matches('/').split_once('@').ok_or_else(wrong)?;
    if !image::reference::is_digest(digest) {
        return Err(wrong());
    }
    let store = format!("oci:{}", name.split(':').next().unwrap_or(name));
    let (config, layers) = image(builder, session, &store, digest, platform).await?;
    Ok(State {
        base_layers: layers.len(),
        created: config.created,
        layers,
        config: ImageConfig { other: serde_json::Map::new(), ..config },
        ..State::default()
    })
}
