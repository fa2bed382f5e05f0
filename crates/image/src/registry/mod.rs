//! Registries: where images come from and go to (OCI distribution-spec 1.1, Docker registry HTTP API v2).

mod auth;
mod client;
mod hosts;
pub(crate) mod lanes;
mod layer_types;
mod logins;
pub mod manifest;
mod pull;
mod push;
mod search;
mod transfer;

use bytes::Bytes;
use tokio::sync::mpsc;

#[cfg(any(test, fuzzing))]
pub(crate) use auth::parameters;
#[cfg(any(test, fuzzing))]
pub(crate) use client::join;
pub use client::{Remote, login_with};
pub use hosts::RegistryConfig;
pub use layer_types::{LayerType, layer_type};
pub use search::Found;

use crate::error::Result;
use crate::types::{Progress, ProgressSender};

/// How long a listener may take nothing: there may be others who wait for the same pull, or for the lane of a push, and a
/// client that was stopped says nothing of it.
const LISTENER: std::time::Duration = std::time::Duration::from_secs(5);

async fn tell(progress: &ProgressSender, id: &str, status: impl Into<String>) {
    let line = Progress { id: id.into(), status: status.into(), ..Progress::default() };
    // Whoever went away ends a pull by dropping it, and does not stop a push; who sleeps misses lines.
    let _ = progress.send_timeout(line, LISTENER).await;
}

/// Credentials for a registry, as the Docker client sends them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Auth {
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// A refresh token, instead of both.
    pub identity_token: String,
    /// A bearer token, instead of all.
    pub registry_token: String,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Secrets do not belong into logs.
        f.debug_struct("Auth").field("username", &self.username).finish_non_exhaustive()
    }
}

/// A manifest or index as a registry has it.
#[derive(Debug, Clone)]
pub struct Document {
    /// `application/vnd...`
    pub media_type: String,
    /// Of the bytes, computed here.
    pub digest: String,
    /// The bytes.
    pub bytes: Bytes,
}

/// A blob on its way: pieces in order, the last one followed by the channel's end. An error comes as the last piece.
pub type BlobStream = mpsc::Receiver<Result<Bytes>>;

/// One repository of a registry.
#[async_trait::async_trait]
pub trait Registry: Send + Sync {
    /// The manifest or index of a tag or digest; a digest is verified.
    async fn manifest(&self, reference: &str) -> Result<Document>;
    /// A blob's content; its digest is the reader's to verify.
    async fn blob(&self, digest: &str) -> Result<BlobStream> {
        self.blob_from(digest, 0).await
    }
    /// A blob's content from a byte on.
    async fn blob_from(&self, digest: &str, from: u64) -> Result<BlobStream>;
    /// Whether the repository has the blob.
    async fn has_blob(&self, digest: &str) -> Result<bool>;
    /// Tries to take a blob over from another repository of the same registry.
    async fn mount(&self, digest: &str, from: &str) -> Result<bool>;
    /// Uploads a blob. When `content` ends without error, `digest` resolves to its digest, by which it is stored.
    async fn upload(&self, content: BlobStream, digest: tokio::sync::oneshot::Receiver<String>)
    -> Result<()>;
    /// Stores a manifest under a tag or digest; returns its digest.
    async fn put_manifest(&self, reference: &str, media_type: &str, bytes: Bytes) -> Result<String>;
}
