//! Listening at the cluster's DNS address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use base::Instance;
use client::{Client, Informers};
use network::Network;
use network::dns::{Forwarder, Sockets, serve};
use tokio_util::sync::CancellationToken;

use crate::records::Cluster;

/// What the DNS server needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names, ranges and the server's address.
    pub instance: Instance,
}

/// Why it could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address could not be made or is taken.
    #[error(transparent)]
    Network(#[from] network::Error),
}

/// Answers until `shutdown`.
pub async fn run(
    options: Options,
    _client: Client,
    informers: Informers,
    network: Arc<Network>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let address = IpAddr::from(options.instance.dns_ip());
    network.ensure_service_link(&[address]).await?;
    let sockets = Sockets::bind(SocketAddr::new(address, 53))?;
    let cluster = Arc::new(Cluster::new(&options.instance, &informers));
    let forwarder = Arc::new(Forwarder::system(vec![address]));
    Ok(serve(sockets, cluster, forwarder, shutdown).await?)
}
