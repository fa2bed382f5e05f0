//! Searching a registry by the first version of its API, which the second never replaced, and asking about an image
//! without pulling it.

use http::{HeaderMap, Method};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::client::{Payload, Remote, read_limited};
use super::manifest::{Descriptor, Index, Manifest, PlatformSpec, is_index};
use super::{Auth, Registry, RegistryConfig};
use crate::config::ImageConfig;
use crate::error::{Error, Result};
use crate::reference::{self, DEFAULT_DOMAIN, Reference};
use crate::store::ImageStore;

/// A repository that a search found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Found {
    /// As it is pulled.
    pub name: String,
    /// What its owner says of it.
    #[serde(deserialize_with = "nullable")]
    pub description: String,
    /// How many people liked it.
    pub star_count: i64,
    /// Whether the registry's keepers vouch for it.
    pub is_official: bool,
    /// Whether it is built by a machine.
    pub is_automated: bool,
}

fn nullable<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<String, D::Error> {
    Ok(Option::<String>::deserialize(d)?.unwrap_or_default())
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Option<Vec<Found>>,
}

impl ImageStore {
    /// Searches the registry that `term` names (`host:5000/word`), or the default one; at most `limit` answers.
    pub async fn search(&self, term: &str, limit: u32, auth: Option<Auth>) -> Result<Vec<Found>> {
        if term.is_empty() || term.contains("://") {
            return Err(Error::Invalid(format!(
                "invalid repository name ({term}): give words, or HOST/WORDS"
            )));
        }
        let (domain, words) = match term.split_once('/') {
            Some((host, words)) if host.contains(['.', ':']) || host == "localhost" => (host, words),
            _ => (DEFAULT_DOMAIN, term),
        };
        let official = matches!(domain, DEFAULT_DOMAIN | "index.docker.io");
        let domain = if official { "index.docker.io" } else { domain };
        let reference = Reference { domain: domain.into(), path: String::new(), tag: None, digest: None };
        let config: RegistryConfig = self.registry_config();
        let remote = Remote::connect(&reference, auth, true, &config).await?;
        let words = utf8_percent_encode(words.trim_start_matches("library/"), NON_ALPHANUMERIC);
        let uri = format!("{}/v1/search?q={words}&n={limit}", remote.shared.base);
        let uri: http::Uri = uri.parse().map_err(|e| Error::Registry(format!("{uri}: {e}")))?;
        let response = remote.send(Method::GET, uri.clone(), HeaderMap::new(), Payload::Empty).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(Error::Registry(format!(
                "unexpected status code {status}: {domain} cannot be searched"
            )));
        }
        let bytes = read_limited(response, remote.shared.patience).await?;
        let answer: Answer =
            serde_json::from_slice(&bytes).map_err(|e| Error::Registry(format!("{uri}: {e}")))?;
        let mut found = answer.results.unwrap_or_default();
        found.truncate(limit as usize);
        Ok(found)
    }

    /// What a registry has under a name: the descriptor of the manifest or index, and for which platforms.
    pub async fn distribution(
        &self,
        text: &str,
        auth: Option<Auth>,
    ) -> Result<(Descriptor, Vec<PlatformSpec>)> {
        let wanted = reference::parse_tagged(text)?;
        let remote = Remote::connect(&wanted, auth, false, &self.registry_config()).await?;
        let which = wanted.digest.as_ref().or(wanted.tag.as_ref()).cloned().unwrap_or_default();
        let document = remote.manifest(&which).await?;
        let descriptor = Descriptor {
            media_type: document.media_type.clone(),
            digest: document.digest.clone(),
            size: document.bytes.len() as u64,
            ..Descriptor::default()
        };
        if is_index(&document.media_type, &document.bytes) {
            let index = Index::parse(&document.bytes, &document.digest)?;
            return Ok((descriptor, index.manifests.into_iter().filter_map(|m| m.platform).collect()));
        }
        let manifest = Manifest::parse(&document.bytes, &document.digest)?;
        if !manifest.is_image() {
            return Ok((descriptor, Vec::new()));
        }
        let bytes = super::pull::fetch_config(&remote, &manifest.config).await?;
        let config = ImageConfig::parse(&bytes, &manifest.config.digest)?;
        Ok((descriptor, vec![(&config.platform()).into()]))
    }
}
