//! Registries: where images come from and go to.
pub mod manifest;

use std::sync::Arc;
use crate::store::ImageStore;
use crate::{Image,Platform,ProgressSender,Result};

/// Credentials for a registry, as the Docker client sends them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
/// A registry as the store sees it.
pub trait Registry: Send + Sync {}

impl ImageStore {
    /// Pulls an image from its registry.
    pub async fn pull(self: &Arc<Self>, reference: &str, auth: Option<Auth>, platform: Option<Platform>, progress: ProgressSender) -> Result<Arc<Image>> { let _ = (reference, auth, platform, progress); unimplemented!() }
    /// Pushes a tag to its registry.
    pub async fn push(self: &Arc<Self>, reference: &str, auth: Option<Auth>, progress: ProgressSender) -> Result<()> { let _ = (reference, auth, progress); unimplemented!() }
}
