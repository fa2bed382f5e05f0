//! `tug registry`: an OCI registry in the foreground, until SIGTERM or SIGINT.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use ::registry::access::{Access, Htpasswd, PublicKey, Rules, Tokens};
use ::registry::{Quota, UpstreamOptions};
use anyhow::{Context, Result, bail};
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
    /// The certificate (PEM, with its chain) to speak HTTPS with.
    #[arg(long, requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM).
    #[arg(long, requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Users and their passwords, hashed with bcrypt (`htpasswd -B`); without it everybody may do everything.
    #[arg(long)]
    htpasswd: Option<PathBuf>,
    /// Rights by repository: lines of `USER|*|@ PATTERN pull,push,delete` [default: every user may do everything].
    #[arg(long)]
    rules: Option<PathBuf>,
    /// Hand out bearer tokens for passwords, at /token: then anonymous users get what the rules give to `*`.
    #[arg(long, requires = "htpasswd", conflicts_with = "token_realm")]
    tokens: bool,
    /// Take the tokens of another service, whose URL this is.
    #[arg(long, requires_all = ["token_service", "token_issuer", "token_keys"])]
    token_realm: Option<String>,
    /// The audience that those tokens must have.
    #[arg(long)]
    token_service: Option<String>,
    /// The issuer that those tokens must have.
    #[arg(long)]
    token_issuer: Option<String>,
    /// The certificates or public keys (PEM) that verify those tokens.
    #[arg(long)]
    token_keys: Option<PathBuf>,
    /// The most bytes to keep in all.
    #[arg(long)]
    quota: Option<u64>,
    /// The most bytes to keep in each repository.
    #[arg(long)]
    repository_quota: Option<u64>,
    /// Be a read-only cache of this registry (`docker.io`, `host:5000`); several are told apart by a request's `ns`.
    #[arg(long)]
    cache_of: Vec<String>,
    /// The config.json of a Docker client that is logged in to the registries of --cache-of (~/.docker/config.json, also
    /// with credential helpers). Whoever may pull from the cache then pulls what that user may.
    #[arg(long, requires = "cache_of")]
    cache_logins: Option<PathBuf>,
    /// Speak to this registry of --cache-of without TLS, or whatever its certificate.
    #[arg(long)]
    insecure_registry: Vec<String>,
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
        let upstream = (!options.cache_of.is_empty()).then(|| UpstreamOptions {
            hosts: options.cache_of.clone(),
            logins: options.cache_logins.clone(),
            config: image::RegistryConfig {
                insecure: options.insecure_registry.clone(),
                ..image::RegistryConfig::default()
            },
        });
        if let Some(file) = &options.cache_logins {
            // What is wrong with the file is said now, and not to whoever pulls first.
            for host in &options.cache_of {
                image::Auth::from_docker_config(file, host).await.context("--cache-logins")?;
            }
        }
        let made = ::registry::Options {
            tls: tls(options)?,
            access: access(options)?,
            quota: Quota { total: options.quota, repository: options.repository_quota },
            upstream,
            ..::registry::Options::new(options.data_dir.clone(), listener)
        };
        if made.access.is_none() && !options.listen.ip().is_loopback() {
            tracing::warn!("everybody who reaches {} may push and delete; see --htpasswd", options.listen);
        }
        tracing::info!(address = %options.listen, "registry");
        ::registry::run(made, shutdown).await.context("registry")
    })?;
    Ok(ExitCode::SUCCESS)
}

fn tls(options: &Options) -> Result<Option<Arc<rustls::ServerConfig>>> {
    let (Some(cert), Some(key)) = (&options.tls_cert, &options.tls_key) else { return Ok(None) };
    Ok(Some(sockets::server_config(cert, key, None, &["h2", "http/1.1"])?))
}

fn access(options: &Options) -> Result<Option<Access>> {
    let users = options.htpasswd.clone().map(Htpasswd::open).transpose()?;
    let rules = options.rules.as_ref().map(|path| -> Result<Rules> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Rules::parse(&text).with_context(|| path.display().to_string())
    });
    let rules = rules.transpose()?;
    let tokens = match (&options.token_realm, &options.token_keys) {
        (Some(realm), Some(keys)) => Some(Tokens::foreign(
            realm.clone(),
            options.token_service.clone().unwrap_or_default(),
            options.token_issuer.clone().unwrap_or_default(),
            PublicKey::read(keys)?,
        )),
        _ if options.tokens => Some(Tokens::ours(&options.data_dir)?),
        _ => None,
    };
    if users.is_none() && rules.is_none() && tokens.is_none() {
        return Ok(None);
    }
    if options.token_realm.is_some() && rules.is_some() {
        bail!(
            "--rules says nothing where tokens come from elsewhere: the service at --token-realm grants rights"
        );
    }
    Ok(Some(Access { users, rules, tokens }))
}
