//! One request on its way to its handler.

use std::sync::Arc;

use bytes::Bytes;
use engine::Engine;
use http::{HeaderMap, Request};
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use crate::query::Query;
use crate::{Error, Result, body};

/// A request, taken apart.
pub(crate) struct Call {
    pub engine: Arc<Engine>,
    pub builder: Arc<build::Builder>,
    /// The API version that the client speaks.
    pub version: (u32, u32),
    /// What the route's placeholders stand for, decoded.
    pub params: Vec<String>,
    pub query: Query,
    pub request: Request<Incoming>,
}

impl Call {
    /// The first placeholder: the object's name or id.
    pub(crate) fn id(&self) -> &str {
        self.params.first().map_or("", String::as_str)
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// Whether the client speaks at least this version.
    pub(crate) fn at_least(&self, major: u32, minor: u32) -> bool {
        self.version >= (major, minor)
    }

    /// The body's bytes.
    pub(crate) async fn bytes(self) -> Result<Bytes> {
        body::read(self.request.into_body()).await
    }

    /// The body as JSON; an empty one is the default.
    pub(crate) async fn json<T: DeserializeOwned + Default>(self) -> Result<T> {
        Ok(self.document().await?.unwrap_or_default())
    }

    /// The body as JSON, if there is one. A body of another type is refused.
    pub(crate) async fn document<T: DeserializeOwned>(self) -> Result<Option<T>> {
        let kind = self.headers().get(http::header::CONTENT_TYPE).cloned();
        let bytes = self.bytes().await?;
        let kind = kind.as_ref().map_or("", |k| k.to_str().unwrap_or("?"));
        let mime = kind.split(';').next().unwrap_or("").trim();
        let none = kind.is_empty() && bytes.is_empty();
        if !none && !mime.eq_ignore_ascii_case("application/json") {
            return Err(Error::invalid(if mime.is_empty() {
                format!("malformed Content-Type header ({kind}): mime: no media type")
            } else {
                format!("unsupported Content-Type header ({kind}): must be 'application/json'")
            }));
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(None);
        }
        engine::model::decode(&bytes).map(Some).map_err(|e| Error::invalid(format!("invalid JSON: {e}")))
    }

    /// The registry credentials that the client sent along (`X-Registry-Auth`).
    pub(crate) fn registry_auth(&self) -> Result<Option<image::Auth>> {
        Ok(self.encoded::<AuthConfig>("X-Registry-Auth")?.and_then(AuthConfig::into_auth))
    }

    /// A header that is base64, of either alphabet, of JSON.
    pub(crate) fn encoded<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>> {
        use base64::Engine as _;
        let Some(header) = self.headers().get(name).and_then(|h| h.to_str().ok()).filter(|h| !h.is_empty())
        else {
            return Ok(None);
        };
        let bad = |e: &dyn std::fmt::Display| Error::invalid(format!("invalid {name} header: {e}"));
        let standard = header.trim_end_matches('=').replace('+', "-").replace('/', "_");
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(standard).map_err(|e| bad(&e))?;
        engine::model::decode(&bytes).map_err(|e| bad(&e))
    }
}

/// Credentials as the client writes them.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, rename_all = "lowercase")]
pub(crate) struct AuthConfig {
    pub username: String,
    pub password: String,
    pub serveraddress: String,
    pub identitytoken: String,
    pub registrytoken: String,
}

impl AuthConfig {
    pub(crate) fn into_auth(self) -> Option<image::Auth> {
        let auth = image::Auth {
            username: self.username,
            password: self.password,
            identity_token: self.identitytoken,
            registry_token: self.registrytoken,
        };
        (auth != image::Auth::default()).then_some(auth)
    }
}
