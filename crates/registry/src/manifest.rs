//! The parts of a manifest or index that a registry looks at.

use image::registry::layer_type;
use image::registry::manifest::is_index;
use serde::Deserialize;
use serde_json::Value;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// A manifest or index, as far as a registry cares.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outline {
    #[serde(default)]
    pub media_type: String,
    #[serde(default)]
    artifact_type: String,
    config: Option<Part>,
    #[serde(default, deserialize_with = "list")]
    layers: Vec<Part>,
    #[serde(default, deserialize_with = "list")]
    manifests: Vec<Part>,
    /// Of Docker's schema 1.
    #[serde(default, deserialize_with = "list")]
    fs_layers: Vec<FsLayer>,
    subject: Option<Part>,
    #[serde(default)]
    annotations: Option<serde_json::Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct FsLayer {
    blob_sum: String,
}

/// Go writes empty lists as null.
fn list<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> std::result::Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(d)?.unwrap_or_default())
}

/// What a manifest says about itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct About {
    pub subject: Option<String>,
    pub artifact_type: String,
    /// JSON object.
    pub annotations: String,
}

impl Outline {
    pub fn parse(content: &[u8]) -> Result<Self> {
        serde_json::from_slice(content).map_err(|e| Error::manifest_invalid(format!("manifest invalid: {e}")))
    }

    /// What the list of referrers tells of it. An index has no configuration whose type could stand for its own.
    pub fn about(&self) -> Result<About> {
        let subject = self.subject.as_ref().map(|s| Digest::parse(&s.digest)).transpose()?;
        Ok(About {
            subject: subject.map(|s| s.to_string()),
            artifact_type: match (&self.config, self.artifact_type.as_str()) {
                (Some(config), "") => config.media_type.clone(),
                (_, own) => own.to_string(),
            },
            annotations: Value::from(self.annotations.clone().unwrap_or_default()).to_string(),
        })
    }

    /// The blobs that must be here for the manifest to be whole. What is kept elsewhere by design is left out.
    pub fn needed(&self, media_type: &str, content: &[u8]) -> Result<Vec<Digest>> {
        for part in &self.manifests {
            Digest::parse(&part.digest)?;
        }
        if is_index(media_type, content) {
            return Ok(Vec::new());
        }
        let elsewhere = |part: &&Part| {
            part.urls.as_ref().is_some_and(|u| !u.is_empty())
                || layer_type(&part.media_type).is_some_and(|kind| kind.elsewhere)
        };
        let parts = self.config.iter().chain(&self.layers).filter(|p| !elsewhere(p)).map(|p| &p.digest);
        parts.chain(self.fs_layers.iter().map(|l| &l.blob_sum)).map(|d| Digest::parse(d)).collect()
    }

    /// Every digest that it names, for collection.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        let parts = self.config.iter().chain(&self.layers).chain(&self.manifests).map(|p| p.digest.as_str());
        parts.chain(self.fs_layers.iter().map(|l| l.blob_sum.as_str()))
    }
}
