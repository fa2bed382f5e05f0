//! Manifests and indexes: OCI image-spec 1.1 and Docker's schema 2.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Document;
use super::layer_types::layer_type;
use crate::error::{Error, Result};
use crate::platform::Platform;

/// Media types.
pub mod media {
    /// OCI image manifest.
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI index.
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image configuration.
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, uncompressed.
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
}

/// The media types of images' configurations; some old registries have lost what was said.
const CONFIG_TYPES: [&str; 6] = [
    media::OCI_CONFIG,
    media::DOCKER_CONFIG,
    "",
    "application/octet-stream",
    "application/json",
    "text/html",
];

/// Names a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// `sha256:...`
    pub digest: String,
    /// Bytes.
    #[serde(default)]
    pub size: u64,
    /// Where else to get it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// For which machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<PlatformSpec>,
    /// Remarks.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// The image's name in an OCI layout, as containerd or others note it.
    pub fn name(&self) -> Option<String> {
        let full = self.annotations.get("io.containerd.image.name");
        full.or_else(|| {
            self.annotations.get("org.opencontainers.image.ref.name").filter(|n| n.contains([':', '/']))
        })
        .cloned()
    }
}

/// A platform in an index.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformSpec {
    /// `amd64`
    #[serde(default)]
    pub architecture: String,
    /// `linux`
    #[serde(default)]
    pub os: String,
    /// `v8`
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl From<&Platform> for PlatformSpec {
    fn from(p: &Platform) -> Self {
        Self { architecture: p.architecture.clone(), os: p.os.clone(), variant: p.variant.clone() }
    }
}

impl From<&PlatformSpec> for Platform {
    fn from(p: &PlatformSpec) -> Self {
        Self { os: p.os.clone(), architecture: p.architecture.clone(), variant: p.variant.clone() }
    }
}

/// An image manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// Its own media type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// What kind of artifact this is, if no image.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub artifact_type: String,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// Parses a manifest; `what` names it in errors.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let m: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::Corrupt(format!("invalid manifest {what}: {e}")))?;
        if m.schema_version != 2 {
            return Err(Error::Corrupt(format!(
                "manifest {what}: schema version {} is not supported",
                m.schema_version
            )));
        }
        for d in m.layers.iter().chain([&m.config]) {
            if !crate::reference::is_digest(&d.digest) {
                return Err(Error::Corrupt(format!("manifest {what}: invalid digest {:?}", d.digest)));
            }
        }
        Ok(m)
    }

    /// Whether it describes an image that can run, and not a signature or the like.
    pub fn is_image(&self) -> bool {
        CONFIG_TYPES.contains(&self.config.media_type.as_str())
            && self.layers.iter().all(|l| layer_type(&l.media_type).is_some())
    }
}

/// An index or manifest list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// Its own media type.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// The manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// Parses an index; `what` names it in errors.
    pub fn parse(bytes: &[u8], what: &str) -> Result<Self> {
        let index: Self = serde_json::from_slice(bytes)
            .map_err(|e| Error::Corrupt(format!("invalid index {what}: {e}")))?;
        for d in &index.manifests {
            if !crate::reference::is_digest(&d.digest) {
                return Err(Error::Corrupt(format!("index {what}: invalid digest {:?}", d.digest)));
            }
        }
        Ok(index)
    }

    /// The manifest for a platform; one that says no platform fits any, as the last choice.
    pub fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let ranked =
            self.manifests.iter().filter_map(|d| Some((platform.rank(&d.platform.as_ref()?.into())?, d)));
        let best = ranked.min_by_key(|(rank, _)| *rank).map(|(_, d)| d);
        best.or_else(|| self.manifests.iter().find(|d| d.platform.is_none()))
    }
}

/// Refuses what has another length than its descriptor says; one that says none says nothing.
pub(crate) fn check_size(what: &str, descriptor: &Descriptor, length: usize) -> Result<()> {
    if descriptor.size == 0 || descriptor.size == length as u64 {
        return Ok(());
    }
    Err(Error::Corrupt(format!(
        "{what} {} has {length} bytes, but its descriptor says {}",
        descriptor.digest, descriptor.size
    )))
}

/// How deep indexes may name indexes.
pub(crate) const INDEX_DEPTH: u32 = 4;

/// Follows indexes from a document to the manifest for a platform; `read` gets a document by its digest, and `name` is
/// what errors call the first.
pub async fn follow<E, F>(
    mut document: Document,
    platform: &Platform,
    name: &str,
    mut read: impl FnMut(String) -> F,
) -> std::result::Result<Document, E>
where
    E: From<Error>,
    F: Future<Output = std::result::Result<Document, E>>,
{
    for _ in 0..=INDEX_DEPTH {
        if !is_index(&document.media_type, &document.bytes) {
            return Ok(document);
        }
        let index = Index::parse(&document.bytes, &document.digest)?;
        let chosen = index.choose(platform).ok_or_else(|| {
            Error::NotFound(format!(
                "no matching manifest for {platform} in the manifest list entries of {name}"
            ))
        })?;
        document = read(chosen.digest.clone()).await?;
        check_size("the manifest", chosen, document.bytes.len())?;
    }
    Err(Error::Corrupt(format!("the indexes of {name} are nested too deeply")).into())
}

/// Whether a document is an index, by its declared type or else its members.
pub fn is_index(media_type: &str, bytes: &[u8]) -> bool {
    match media_type {
        media::OCI_INDEX | media::DOCKER_LIST => true,
        media::OCI_MANIFEST | media::DOCKER_MANIFEST => false,
        _ => {
            #[derive(Deserialize)]
            struct Probe {
                manifests: Option<serde::de::IgnoredAny>,
            }
            serde_json::from_slice::<Probe>(bytes).is_ok_and(|p| p.manifests.is_some())
        }
    }
}

/// Whether a document is one of Docker's manifests from before 2016, which are not read any more.
pub fn is_schema_1(media_type: &str, bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Probe {
        schema_version: u32,
    }
    matches!(
        media_type,
        "application/vnd.docker.distribution.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v1+prettyjws"
    ) || serde_json::from_slice::<Probe>(bytes).is_ok_and(|p| p.schema_version == 1)
}
