//! stub
use std::sync::Arc;
use super::ImageStore;
use crate::{Deleted,InUse,Result};
impl ImageStore {
    /// Removes a reference, and the image with its last one, by Docker's rules. `prune` removes untagged parents too.
    pub async fn remove(self: &Arc<Self>, text: &str, force: bool, prune: bool, in_use: &InUse<'_>) -> Result<Vec<Deleted>> { let _ = (text, force, prune, in_use); unimplemented!() }
}
