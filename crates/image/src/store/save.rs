//! Saving images as an archive that both Docker (`manifest.json`) and OCI tools (`index.json`) read.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use serde_json::json;
use tokio::io::AsyncWrite;

use super::ImageStore;
use crate::archive::compress::{self, digest_of};
use crate::archive::tar::{self, Entry, Kind};
use crate::blocking_on_stream;
use crate::bridge::Bridge;
use crate::error::{Error, Result};
use crate::platform::Platform;
use crate::reference::{self, Reference};
use crate::registry::manifest::{Descriptor, Index, media};
use crate::types::Image;

/// An image that is saved, with its tags, each with the images that it has for several platforms.
type Chosen = (Arc<Image>, Vec<(Reference, Vec<(Platform, Arc<Image>)>)>);

/// An image as it is written.
struct Form {
    /// What names its manifest.
    descriptor: Descriptor,
    manifest: Vec<u8>,
    /// By what digest the manifest names the configuration.
    config: String,
    /// Each as a copy of what came, or to be made of what is unpacked.
    layers: Vec<(Descriptor, Option<File>)>,
}

impl ImageStore {
    /// Writes an archive of the named images. A name without a tag means all tags of that repository.
    pub async fn save<W>(self: &Arc<Self>, names: &[String], out: W) -> Result<()>
    where
        W: AsyncWrite + Send + Unpin + 'static,
    {
        self.save_for(names, None, out).await
    }

    /// As `save`, of each name what it has for one platform.
    pub async fn save_for<W>(
        self: &Arc<Self>,
        names: &[String],
        platform: Option<&Platform>,
        out: W,
    ) -> Result<()>
    where
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let chosen = self.chosen(names, platform)?;
        // The layers stay while they are read.
        let variants = chosen.iter().flat_map(|(_, tags)| tags).flat_map(|(_, variants)| variants);
        let images = chosen.iter().map(|(image, _)| image).chain(variants.map(|(_, image)| image));
        let leases = images.map(|i| self.lease_all(i.diff_ids())).collect::<Result<Vec<_>>>()?;
        let store = self.clone();
        let bridge = Bridge::new(out);
        blocking_on_stream(move || {
            let mut out = BufWriter::with_capacity(256 * 1024, bridge);
            store.write_archive(&chosen, &mut out)?;
            let mut bridge = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            bridge.shutdown()?;
            drop(leases);
            Ok(())
        })
        .await
    }

    /// Checks that every image is there, before an answer is begun.
    pub fn can_save(&self, names: &[String], platform: Option<&Platform>) -> Result<()> {
        self.chosen(names, platform).map(|_| ())
    }

    fn chosen(&self, names: &[String], platform: Option<&Platform>) -> Result<Vec<Chosen>> {
        let mut chosen: Vec<Chosen> = Vec::new();
        let mut add = |image: Arc<Image>, tag: Option<Reference>| {
            let image = match platform {
                Some(platform) => {
                    let name = tag.as_ref().map_or_else(|| image.id.clone(), Reference::familiar);
                    self.exactly(&name, platform).map_err(|e| match e {
                        Error::NotFound(why) => {
                            Error::NotFound(format!("no suitable export target found: {why}"))
                        }
                        other => other,
                    })?
                }
                None => image,
            };
            let tag = tag.map(|tag| match platform {
                Some(_) => (tag, Vec::new()),
                None => (tag.clone(), self.variants(&tag)),
            });
            let at = chosen.iter().position(|(i, _)| i.id == image.id).unwrap_or_else(|| {
                chosen.push((image, Vec::new()));
                chosen.len() - 1
            });
            if let Some(tag) = tag
                && !chosen[at].1.iter().any(|(other, _)| *other == tag.0)
            {
                chosen[at].1.push(tag);
            }
            Ok::<_, Error>(())
        };
        for name in names {
            let bare = name.strip_prefix("sha256:").unwrap_or(name);
            let parsed = reference::parse(name).ok();
            if let Some(r) = parsed.as_ref().filter(|r| r.tag.is_none() && r.digest.is_none()) {
                let of_repository: Vec<_> = {
                    let index = self.index.read();
                    let prefix = format!("{}:", r.name());
                    let tags = index.tags.range(prefix.clone()..).take_while(|(t, _)| t.starts_with(&prefix));
                    tags.filter_map(|(t, id)| {
                        Some((index.images.get(id)?.clone(), reference::parse(t).ok()?))
                    })
                    .collect()
                };
                if !of_repository.is_empty() {
                    of_repository.into_iter().try_for_each(|(i, t)| add(i, Some(t)))?;
                    continue;
                }
            }
            let image = self.get(name)?;
            let by_id = image.id["sha256:".len()..].starts_with(bare);
            add(
                image,
                parsed.filter(|_| !by_id).and_then(|r| r.tag.is_some().then(|| r.tagged()).flatten()),
            )?;
        }
        if chosen.is_empty() {
            return Err(Error::Invalid("no image was named".into()));
        }
        Ok(chosen)
    }

    fn write_archive(&self, chosen: &[Chosen], out: &mut dyn Write) -> Result<()> {
        out.write_all(&tar::header(&Entry::new("blobs/", Kind::Dir)))?;
        let algorithms = chosen.iter().flat_map(|(i, _)| i.diff_ids()).filter_map(|d| d.split(':').next());
        for algorithm in algorithms.chain(["sha256"]).collect::<BTreeSet<_>>() {
            out.write_all(&tar::header(&Entry::new(format!("blobs/{algorithm}/"), Kind::Dir)))?;
        }
        let mut written = HashSet::new();
        let mut manifests: Vec<Descriptor> = Vec::new();
        let mut docker = Vec::new();
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for (image, tags) in chosen {
            let mut written_one =
                |image: &Image, out: &mut dyn Write| self.write_one(image, &mut written, out);
            let (descriptor, layers) = written_one(image, out)?;
            let described = |mut descriptor: Descriptor, tag: &Reference, name: &str| {
                let noted = [
                    ("io.containerd.image.name", tag.to_string()),
                    ("org.opencontainers.image.ref.name", name.to_string()),
                ];
                descriptor.annotations = noted.map(|(k, v)| (k.to_string(), v)).into();
                descriptor
            };
            if tags.is_empty() {
                manifests.push(descriptor.clone());
            }
            for (tag, variants) in tags {
                let name = tag.tag.clone().unwrap_or_default();
                let mut parts = Vec::new();
                for (platform, variant) in variants {
                    let (own, _) = written_one(variant, out)?;
                    parts.push(Descriptor { platform: Some(platform.into()), ..own });
                }
                let top = match parts.is_empty() {
                    true => descriptor.clone(),
                    false => {
                        let index = Index {
                            schema_version: 2,
                            media_type: media::OCI_INDEX.into(),
                            manifests: parts,
                        };
                        let bytes = serde_json::to_vec(&index)?;
                        let digest = digest_of(&bytes);
                        document(out, &blob_name(&digest), &bytes)?;
                        Descriptor {
                            media_type: media::OCI_INDEX.into(),
                            digest,
                            size: bytes.len() as u64,
                            ..Descriptor::default()
                        }
                    }
                };
                manifests.push(described(top, tag, &name));
                let top = image.diff_ids().last().cloned().unwrap_or_default();
                let top = top.rsplit(':').next().unwrap_or_default().to_string();
                repositories.entry(tag.familiar_name()).or_default().insert(name, top);
            }
            docker.push(json!({
                "Config": blob_name(&image.id),
                "RepoTags": (!tags.is_empty()).then(|| tags.iter().map(|(tag, _)| tag.familiar()).collect::<Vec<_>>()),
                "Layers": layers.iter().map(|d| blob_name(d)).collect::<Vec<_>>(),
            }));
        }
        let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": manifests});
        document(out, "index.json", &serde_json::to_vec(&index)?)?;
        document(out, "manifest.json", &serde_json::to_vec(&docker)?)?;
        document(out, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        if !repositories.is_empty() {
            document(out, "repositories", &serde_json::to_vec(&repositories)?)?;
        }
        out.write_all(&tar::END)?;
        Ok(())
    }

    /// The manifest and the layers that an image came by, if all of it is here and verified: a layer that was compressed
    /// as its copy, and `None` for one that was not.
    fn as_it_came(&self, image: &Image) -> Result<Option<Form>> {
        let Some((media_type, bytes, manifest)) = self.own_manifest(image)? else { return Ok(None) };
        let Some(digest) = image.manifest_digest.clone() else { return Ok(None) };
        let mut layers = Vec::new();
        for (d, diff_id) in manifest.layers.into_iter().zip(image.diff_ids()) {
            // Of a layer that was here before, a stranger's manifest may have named another blob.
            if !self.is_form_of(&d, diff_id)? {
                return Ok(None);
            }
            let copy = match d.digest == *diff_id {
                true => None,
                false => match self.open_blob(&d.digest)? {
                    Some((file, size)) if size == d.size => Some(file),
                    _ => return Ok(None),
                },
            };
            layers.push((d, copy));
        }
        let descriptor = Descriptor { media_type, digest, size: bytes.len() as u64, ..Descriptor::default() };
        Ok(Some(Form { descriptor, manifest: bytes, config: manifest.config.digest, layers }))
    }

    /// Writes what of an image has not been written; what names it, and its layers in the archive.
    fn write_one(
        &self,
        image: &Image,
        written: &mut HashSet<String>,
        out: &mut dyn Write,
    ) -> Result<(Descriptor, Vec<String>)> {
        let form = match self.as_it_came(image)? {
            Some(came) => came,
            None => self.uncompressed(image)?,
        };
        let Form { descriptor, manifest, config, layers } = form;
        let mut names = Vec::new();
        for ((layer, copy), diff_id) in layers.into_iter().zip(image.diff_ids()) {
            names.push(layer.digest.clone());
            if !written.insert(layer.digest.clone()) {
                continue;
            }
            let mut e = Entry::new(blob_name(&layer.digest), Kind::File);
            e.size = layer.size;
            out.write_all(&tar::header(&e))?;
            let mut copied = |r: &mut dyn Read| Ok(io::copy(r, out)?);
            let (n, digest, _) = match copy {
                Some(file) => compress::read_ahead(file, &layer.digest, |r| copied(r))?,
                None => compress::read_ahead(self.layer_tar(diff_id)?.0, diff_id, |r| copied(r))?,
            };
            if n != layer.size || digest != layer.digest {
                return Err(Error::Corrupt(format!(
                    "layer {} has changed on disk: load the image again",
                    layer.digest
                )));
            }
            out.write_all(tar::pad(layer.size))?;
        }
        let raw = &image.raw_config[..];
        for (digest, bytes) in [(&image.id, raw), (&config, raw), (&descriptor.digest, &manifest)] {
            if written.insert(digest.clone()) {
                document(out, &blob_name(digest), bytes)?;
            }
        }
        Ok((descriptor, names))
    }

    /// A manifest of an image with its layers as they are unpacked.
    fn uncompressed(&self, image: &Image) -> Result<Form> {
        let mut layers = Vec::new();
        for diff_id in image.diff_ids() {
            let (media_type, size) = (media::OCI_LAYER.into(), self.layer_tar(diff_id)?.1);
            let digest = diff_id.clone();
            layers.push((Descriptor { media_type, digest, size, ..Descriptor::default() }, None));
        }
        let shown = |d: &Descriptor| json!({"mediaType": d.media_type, "digest": d.digest, "size": d.size});
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": media::OCI_MANIFEST,
            "config": {"mediaType": media::OCI_CONFIG, "digest": image.id, "size": image.raw_config.len()},
            "layers": layers.iter().map(|(d, _)| shown(d)).collect::<Vec<_>>(),
        }))?;
        let (media_type, size) = (media::OCI_MANIFEST.into(), manifest.len() as u64);
        let digest = digest_of(&manifest);
        let descriptor = Descriptor { media_type, digest, size, ..Descriptor::default() };
        Ok(Form { descriptor, manifest, config: image.id.clone(), layers })
    }
}

fn blob_name(digest: &str) -> String {
    format!("blobs/{}", digest.replace(':', "/"))
}

fn document(out: &mut dyn Write, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut e = Entry::new(name, Kind::File);
    e.size = bytes.len() as u64;
    tar::write_entry(out, &e, bytes)
}
