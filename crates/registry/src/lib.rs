//! An OCI distribution server (distribution-spec 1.1): keeps images for others to pull, or a copy of what others keep.
//!
//! It promises that what it acknowledged is whole, verified and durable, and that what nobody refers to any more is
//! removed.

pub mod access;
mod digest;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handlers;
mod manifest;
pub mod path;
mod storage;
mod upstream;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use access::Access;
pub use error::{Error, Result};
pub use storage::Quota;
pub use upstream::UpstreamOptions;

use handlers::Shared;

/// How long a client may take for the TLS handshake: one that sends nothing would hold its connection for ever.
const HANDSHAKE: Duration = Duration::from_secs(15);

/// What a registry needs.
pub struct Options {
    /// Where it keeps everything.
    pub data_dir: PathBuf,
    /// Where it listens.
    pub listener: TcpListener,
    /// Its certificate and key; `None` speaks plain HTTP.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Who may do what; `None` lets everybody do everything.
    pub access: Option<Access>,
    /// How much it may keep.
    pub quota: Quota,
    /// What it is a cache of, if it is one; then nobody can push to it.
    pub upstream: Option<UpstreamOptions>,
    /// Who is woken whenever a blob has come, because the disk is theirs too.
    pub written: Option<Arc<tokio::sync::Notify>>,
}

impl Options {
    /// A registry for everybody who reaches the listener.
    pub fn new(data_dir: PathBuf, listener: TcpListener) -> Self {
        Self {
            data_dir,
            listener,
            tls: None,
            access: None,
            quota: Quota::default(),
            upstream: None,
            written: None,
        }
    }
}

/// Serves until `shutdown`; connections under way end with it.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<()> {
    let (data_dir, quota) = (options.data_dir, options.quota);
    let storage = Arc::new(handlers::blocking(move || storage::Storage::open(&data_dir, quota)).await?);
    let upstream = options.upstream.map(|u| Arc::new(upstream::Upstream::new(u, storage.clone())));
    let shared = Arc::new(Shared {
        storage: storage.clone(),
        access: options.access,
        upstream,
        written: options.written,
    });
    let acceptor = options.tls.map(tokio_rustls::TlsAcceptor::from);
    // What waits for its manifest does so for a time: only time tells when it has waited long enough.
    let mut collection = tokio::time::interval(storage::GRACE / 4);
    collection.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            _ = collection.tick() => {
                let storage = storage.clone();
                tokio::spawn(async move {
                    match handlers::blocking(move || storage.collect(storage::GRACE)).await {
                        Ok(0) => {}
                        Ok(blobs) => tracing::info!(blobs, "removed what nobody refers to"),
                        Err(error) => tracing::warn!(%error, "collection failed"),
                    }
                });
                continue;
            }
            accepted = options.listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    sockets::accept_failed("the registry", &error).await;
                    continue;
                }
            },
        };
        // Without it small answers wait for the peer's acknowledgement; failing is no reason to refuse.
        if let Err(error) = stream.set_nodelay(true).and_then(|()| sockets::keep_alive(&stream)) {
            tracing::debug!(%error, "a connection's options");
        }
        let (shared, shutdown, acceptor) = (shared.clone(), shutdown.clone(), acceptor.clone());
        tokio::spawn(async move {
            let serving = async {
                match acceptor {
                    None => serve(shared, stream, false).await,
                    Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        Ok(Ok(stream)) => serve(shared, stream, true).await,
                        Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    },
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = serving => {}
            }
        });
    }
}

async fn serve(shared: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Unpin + 'static, secure: bool) {
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(handlers::answer(&shared, secure, request).await) }
    });
    if let Err(error) = sockets::http().serve_connection(sockets::patient(stream), service).await {
        tracing::debug!(%error, "a connection ended");
    }
}
