//! Runs the pods of this node.
//!
//! Promises: one task for each pod, woken by events and never by polling; what to do follows from a pure function of
//! what is observed ([`pod::decide`]); a restart of the daemon adopts what runs and restarts nothing. It drives pods
//! through `runtime`, `image` and `network` and speaks to the cluster only through `client`.
//! Leaves to others: which pods there are (the API server, the scheduler), Services and DNS (`proxy`, `dns`).

mod admit;
mod context;
mod env;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod handler;
mod machine;
mod manager;
mod node;
pub mod pod;
mod probe;
mod pulls;
mod qos;
mod resolv;
mod server;
pub mod spec;
pub mod view;
mod volumes;

use std::net::IpAddr;
use std::sync::Arc;

use base::Instance;
use client::{Client, Informers, gvr};
use image::ImageStore;
use network::Network;
use runtime::Runtime;
use tokio_util::sync::CancellationToken;

/// What a kubelet works with.
#[derive(Clone)]
pub struct Options {
    /// Names, paths and ports.
    pub instance: Instance,
    /// What runs containers.
    pub runtime: Arc<dyn Runtime>,
    /// Where images come from.
    pub images: Arc<ImageStore>,
    /// What wires pods.
    pub network: Arc<Network>,
    /// The HTTPS server's configuration: its certificate, and that clients must show one of the cluster's authority
    /// (`pki::ClientAuth::Required`).
    pub tls: Arc<rustls::ServerConfig>,
    /// The cluster's DNS server; none: pods get the machine's resolvers.
    pub dns: Option<IpAddr>,
    /// What the node says about itself: `v1.36.0+tug.1`.
    pub version: String,
}

/// Why the kubelet could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error(transparent)]
    Client(#[from] client::Error),
    /// A container could not be run.
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    /// A pod could not be wired.
    #[error(transparent)]
    Network(#[from] network::Error),
    /// An image is missing or broken.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The system refused something.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in an object makes no sense.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let context = context.into();
        move |source| Error::Io { context, source }
    }
}

/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// How full the disk may be before unused images go, as upstream's `imageGCHighThresholdPercent` and its like are unless
/// they are set.
const IMAGE_THRESHOLDS: image::Thresholds = image::Thresholds { high: 85, low: 80 };

/// Registers the node and runs its pods until `shutdown`; containers go on running then.
pub async fn run(
    options: Options,
    client: Client,
    informers: Informers,
    shutdown: CancellationToken,
) -> Result<()> {
    options.images.set_thresholds(Some(IMAGE_THRESHOLDS));
    let context = context::Context::new(options, client, &informers, shutdown.clone());
    let listener = server::bind(&context).await?;
    let left = manager::leftovers(&context).await?;
    let nodes = informers.of(&gvr::NODES);
    let node = node::register(&context, &nodes, &shutdown).await?;
    node::pod_network(&context, &node, &left.addresses).await?;
    let pods = manager::run(context.clone(), informers, left, shutdown.clone());
    let keep = node::keep(context.clone(), node, nodes, shutdown.clone());
    let server = server::serve(context, listener, shutdown.clone());
    let (pods, (), ()) = tokio::join!(pods, keep, server);
    pods
}
