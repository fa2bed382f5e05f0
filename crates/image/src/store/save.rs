//! stub
use std::sync::Arc;
use super::ImageStore;
use crate::Result;
use tokio::io::AsyncWrite;
impl ImageStore {
    /// Writes an archive of the named images (references or ids).
    pub async fn save<W: AsyncWrite + Send + Unpin + 'static>(self: &Arc<Self>, names: &[String], out: W) -> Result<()> { let _ = (names, out); unimplemented!() }
}
