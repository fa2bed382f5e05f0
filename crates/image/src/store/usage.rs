//! stub
use std::sync::Arc;
use super::ImageStore;
use crate::{DiskUsage,Freed,Result,InUse};
impl ImageStore {
    /// How much disk images take.
    pub fn disk_usage(&self) -> Result<DiskUsage> { unimplemented!() }
    /// Removes layers and blobs that no image and no snapshot needs.
    pub async fn collect(self: &Arc<Self>) -> Result<Freed> { unimplemented!() }
    /// Removes images: dangling ones, or with `all` every one that `in_use` does not name. `keep` decides further (filters).
    pub async fn prune(self: &Arc<Self>, all: bool, keep: &(dyn Fn(&crate::Image) -> bool + Send + Sync), in_use: &InUse<'_>) -> Result<Freed> { let _ = (all, keep, in_use); unimplemented!() }
}
