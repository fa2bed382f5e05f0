//! `tug registry`: an OCI registry in the foreground, until SIGTERM or SIGINT.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::doctor::who_listens;

/// The flags of `tug registry`.
#[derive(Debug, Args)]
pub struct Options {
    /// Where it listens. Other machines reach it only at an address that is not the loopback's.
    #[arg(long, default_value = "127.0.0.1:5000")]
    listen: SocketAddr,
    /// Where it keeps images.
    #[arg(long, default_value = "/var/lib/tug/registry")]
    data_dir: PathBuf,
}

/// Runs `tug registry`.
pub fn run(options: &Options) -> Result<ExitCode> {
    crate::server::log_to_stderr();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(options.listen).await.with_context(|| {
            match who_listens(options.listen.port()) {
                Some(holder) => {
                    format!("{} is taken by {holder}; stop it or give another --listen", options.listen)
                }
                None => format!("cannot listen at {}; give another --listen", options.listen),
            }
        })?;
        let shutdown = CancellationToken::new();
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let stop = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            stop.cancel();
        });
        tracing::info!(address = %options.listen, "registry");
        let options = ::registry::Options { data_dir: options.data_dir.clone(), listener };
        ::registry::run(options, shutdown).await.context("registry")
    })?;
    Ok(ExitCode::SUCCESS)
}
