//! An OCI distribution server (distribution-spec 1.1): keeps images for others to pull.
//!
//! It promises that what it acknowledged is whole, verified and durable, and that what nobody refers to any more is
//! removed. Who may do what, and TLS, are left to whoever hands it its connections.

mod digest;
mod error;
mod handlers;
mod storage;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use error::{Error, Result};

/// What a registry needs.
#[derive(Debug)]
pub struct Options {
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub listener: TcpListener,
}

/// Serves until `shutdown`; connections under way end with it.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<()> {
    let data_dir = options.data_dir;
    let storage = handlers::blocking(move || storage::Storage::open(&data_dir)).await?;
    let storage = Arc::new(storage);
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            accepted = options.listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, mostly: the next one may find room when a connection ends.
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::task::yield_now().await;
                    continue;
                }
            },
        };
        // Without it small answers wait for the peer's acknowledgement; failing is no reason to refuse.
        let _ = stream.set_nodelay(true);
        let (storage, shutdown) = (storage.clone(), shutdown.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let storage = storage.clone();
                async move { Ok::<_, Infallible>(handlers::answer(&storage, request).await) }
            });
            let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = shutdown.cancelled() => {}
                result = connection => if let Err(error) = result {
                    tracing::debug!(%error, "a connection ended");
                }
            }
        });
    }
}
