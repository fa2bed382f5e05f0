//! stub
use std::sync::Arc;
use super::ImageStore;
use crate::{Loaded,ProgressSender,Result};
use tokio::io::AsyncRead;
impl ImageStore {
    /// Loads every image of an archive (`docker save`'s old and new forms, OCI layout).
    pub async fn load<R: AsyncRead + Send + Unpin + 'static>(self: &Arc<Self>, tar: R, progress: Option<ProgressSender>) -> Result<Vec<Loaded>> { let _ = (tar, progress); unimplemented!() }
}
