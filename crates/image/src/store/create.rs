//! stub
use std::sync::Arc;
use super::ImageStore;
use crate::{Config,Image,NewImage,Platform,Result};
use tokio::io::AsyncRead;
/// What an import makes of a tar.
#[derive(Debug, Clone, Default)]
pub struct Import {
    /// The tag to give, if any.
    pub reference: Option<String>,
    /// The remark in the history; Docker's default is `Imported from -`.
    pub message: String,
    /// How to run the image (`--change`, parsed by `build::changes`).
    pub config: Config,
    /// `--platform`.
    pub platform: Option<Platform>,
}
impl ImageStore {
    /// Makes an image of a layer.
    pub async fn create(self: &Arc<Self>, new: NewImage) -> Result<Arc<Image>> { let _ = new; unimplemented!() }
    /// Makes an image of the tar of a root file system.
    pub async fn import<R: AsyncRead + Send + Unpin + 'static>(self: &Arc<Self>, tar: R, import: Import) -> Result<Arc<Image>> { let _ = (tar, import); unimplemented!() }
}
