//! How many layers are on the road at once, counted over all pulls and pushes of a store.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::RegistryConfig;

/// The lanes of both directions. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Lanes {
    downloads: Direction,
    uploads: Direction,
}

#[derive(Debug, Clone)]
struct Direction {
    count: usize,
    free: Arc<Semaphore>,
}

impl Direction {
    fn new(count: usize) -> Self {
        let count = count.clamp(1, Semaphore::MAX_PERMITS);
        Self { count, free: Arc::new(Semaphore::new(count)) }
    }

    /// A lane for as long as it is held.
    async fn take(self) -> Option<OwnedSemaphorePermit> {
        self.free.acquire_owned().await.ok() // it is never closed
    }
}

impl Lanes {
    pub(crate) fn new(config: &RegistryConfig) -> Self {
        Self { downloads: Direction::new(config.downloads), uploads: Direction::new(config.uploads) }
    }

    /// Brings the counts to what the configuration says; who is on the road stays there, beside those counted anew.
    pub(crate) fn change(&mut self, config: &RegistryConfig) {
        for (own, count) in [(&mut self.downloads, config.downloads), (&mut self.uploads, config.uploads)] {
            if own.count != count.clamp(1, Semaphore::MAX_PERMITS) {
                *own = Direction::new(count);
            }
        }
    }

    /// Waits until another layer may be downloaded.
    pub(crate) async fn download(self) -> Option<OwnedSemaphorePermit> {
        self.downloads.take().await
    }

    /// Waits until another layer may be uploaded.
    pub(crate) async fn upload(self) -> Option<OwnedSemaphorePermit> {
        self.uploads.take().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[tokio::test]
    async fn no_more_than_there_are() {
        let config = RegistryConfig { downloads: 2, ..RegistryConfig::default() };
        let mut lanes = Lanes::new(&config);
        let first = lanes.clone().download().await;
        let _second = lanes.clone().download().await;
        assert!(lanes.clone().download().now_or_never().is_none());
        assert!(lanes.clone().upload().now_or_never().is_some(), "the other direction has its own");
        drop(first);
        assert!(lanes.clone().download().now_or_never().is_some());
        lanes.change(&config);
        let _third = lanes.clone().download().await;
        assert!(
            lanes.clone().download().now_or_never().is_none(),
            "the same count keeps those who are there"
        );
        lanes.change(&RegistryConfig { downloads: 3, ..RegistryConfig::default() });
        assert!(lanes.clone().download().now_or_never().is_some());
    }
}
