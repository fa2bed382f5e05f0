//! Images: content store, archives, registries, unpacked layers and the writable snapshots above them.
//!
//! It promises that an image, once acknowledged, is whole and survives a crash; that nothing half remains; that no
//! archive writes outside the root it is unpacked in; and that memory stays small whatever the size of an image.
//! It leaves running containers to `runtime`, who may use an image to the caller of `ImageStore::remove`, and
//! Dockerfiles to `build`.
//!
//! ```text
//! DATA-DIR/images/
//!   images.db         metadata: configurations, tags, manifests, which layer lies where (SQLite)
//!   layers/NAME/fs    one unpacked layer each, overlayfs form; layers/NAME/recipe rebuilds its exact tar
//!   blobs/sha256/HEX  compressed layers as a registry sent them; blobs/partial what has come of broken downloads
//!   snapshots/KEY/    fs, work: the writable layer of a container or build step
//!   dead/             what is being removed
//! ```

pub mod archive;
mod authorities;
mod bridge;
pub mod config;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod http;
mod platform;
pub mod reference;
pub mod registry;
mod store;
mod types;

pub use bridge::Bridge;
pub use config::{Config, Empty, Healthcheck, History, ImageConfig};
pub use error::{Error, Result};
pub use platform::Platform;
pub use reference::Reference;
pub use registry::{Auth, Found, Registry, RegistryConfig};
pub use store::{Finished, ImageStore, Import, OnDisk, Snapshot, Thresholds, on_disk};
pub use types::*;

/// As [`blocking`], for work that waits for a stream: on a thread of its own, because those for blocking work are few
/// and serve all of the process, and nobody knows how long the other side takes.
pub async fn blocking_on_stream<T, E>(
    work: impl FnOnce() -> std::result::Result<T, E> + Send + 'static,
) -> std::result::Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    let handle = tokio::runtime::Handle::current();
    let (done, result) = tokio::sync::oneshot::channel();
    let run = move || {
        let _runtime = handle.enter();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // Whoever waited may have gone away.
        let _ = done.send(result);
    };
    std::thread::Builder::new().name("image-stream".into()).spawn(run).map_err(|e| E::from(Error::Io(e)))?;
    match result.await {
        Ok(Ok(result)) => result,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(_) => Err(Error::Cancelled("work on an image".into()).into()),
    }
}

/// Runs blocking work off the async threads.
pub async fn blocking<T, E>(
    work: impl FnOnce() -> std::result::Result<T, E> + Send + 'static,
) -> std::result::Result<T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(Error::Cancelled("work on an image".into()).into()),
    }
}
