//! The API server: HTTP, authentication, authorization, admission, registry, watch.
//!
//! Promises: one generic registry serves every kind, built in or custom; an object is encoded once per write and those bytes are
//! what every reader gets; whoever reads after a write was answered sees it; every call, in process or over the
//! network, is authenticated, authorized, admitted and validated.
//! Leaves to others: what a kind looks like and which rules it has (`api`), where objects are kept (`store`), keys and
//! certificates (`pki`), and everything that controllers do.

pub mod admission;
mod aggregation;
pub mod audit;
pub mod authn;
pub mod authz;
mod body;
mod bootstrap;
pub mod cache;
mod callback;
mod compress;
mod conversion;
mod crd;
mod documents;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod http;
mod keys;
mod masters;
mod metrics;
pub mod negotiate;
pub mod path;
mod pipeline;
mod pool;
mod pretty;
mod proxy;
pub mod query;
mod registry;
mod resource;
mod rewrite;
mod socket;
mod sub;
mod transport;
pub mod user;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::openapi::Docs;
use arc_swap::ArcSwap;
use base::Instance;
use store::Store;
use tokio_util::sync::CancellationToken;

pub use api::kinds::Strategy;
pub use user::UserInfo;

use admission::Plugin;
use authn::Authenticator;
use authz::node::NodeRules;
use authz::{Attributes, Decision, Rbac, RbacObjects};
use cache::Cache;
use resource::Kinds;

/// Why the API server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or not ours.
    #[error("cannot listen on {address}: {source}; choose another --api-port, or stop what uses it")]
    Listen {
        /// Where it was to listen.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// The store does not answer.
    #[error("the object store: {0}")]
    Store(#[from] store::Error),
    /// Keys or certificates cannot be had.
    #[error("keys and certificates: {0}")]
    Pki(#[from] pki::Error),
    /// The datastore is that of another cluster, or of this one with other keys.
    #[error("{0}")]
    ForeignKeys(String),
    /// What every cluster starts with could not be written.
    #[error("cannot write the cluster's first objects: {0}")]
    Bootstrap(String),
}

/// Result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

/// Who decides what is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Authorization {
    /// Roles and bindings, and the node authorizer.
    #[default]
    Rbac,
    /// Everybody may do everything: for tests.
    AlwaysAllow,
}

/// How the API server is to run.
pub struct Options {
    /// Names, addresses and ranges of this instance.
    pub instance: Instance,
    /// Where objects are kept.
    pub store: Arc<dyn Store>,
    /// Whether other servers write to the same store (etcd), so that it must be asked how far it is.
    pub shared_store: bool,
    /// Keys and certificates.
    pub pki: Arc<pki::Pki>,
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// More names and addresses that the server's certificate is to be good for.
    pub names: Vec<String>,
    /// Who decides what is allowed.
    pub authorization: Authorization,
    /// Whether requests without credentials are made as `system:anonymous` (and may read what everybody may).
    pub anonymous: bool,
    /// Descriptions for OpenAPI documents.
    pub docs: Option<Arc<dyn Docs + Send + Sync>>,
    /// Which components run in this process: `scheduler`, `controller-manager`; for component statuses.
    pub components: Vec<String>,
    /// The release that the server says it is of, and behaves like in what later ones have dropped.
    pub release: api::Release,
    /// What is added to the version: `+tug.N`.
    pub build: String,
    /// Where goes what is to be remembered of requests.
    pub audit: Arc<dyn audit::Sink>,
}

impl Options {
    /// Options with every default: listens on all addresses at the instance's port.
    pub fn new(instance: Instance, store: Arc<dyn Store>, pki: Arc<pki::Pki>) -> Self {
        let listen = SocketAddr::from(([0, 0, 0, 0], instance.api_port));
        Self {
            instance,
            store,
            shared_store: false,
            pki,
            listen,
            names: Vec::new(),
            authorization: Authorization::default(),
            anonymous: true,
            docs: None,
            components: Vec::new(),
            release: api::Release::current(),
            build: "+tug.1".into(),
            audit: Arc::new(audit::Log),
        }
    }
}

/// Events of one minute share a lease, as upstream's do: a lease for each would cost more than the event.
const LEASE_SHARED: Duration = Duration::from_secs(60);
/// How long events are kept.
const EVENT_TTL: Duration = Duration::from_secs(3600);

/// The lease that new events are attached to.
#[derive(Default)]
struct EventLease(tokio::sync::Mutex<Option<(store::LeaseId, tokio::time::Instant)>>);

impl EventLease {
    async fn current(&self, store: &Arc<dyn Store>) -> store::Result<store::LeaseId> {
        let mut slot = self.0.lock().await;
        let now = tokio::time::Instant::now();
        if let Some((lease, since)) = *slot
            && now.duration_since(since) < LEASE_SHARED
        {
            return Ok(lease);
        }
        let lease = store.lease_grant(EVENT_TTL + LEASE_SHARED).await?;
        *slot = Some((lease, now));
        Ok(lease)
    }
}

/// The compiled roles and bindings, and the state of the cache they were compiled from.
#[derive(Default)]
struct Compiled {
    of: [u64; 4],
    rbac: Arc<Rbac>,
}

/// A running API server.
pub struct ApiServer {
    pub(crate) options: Options,
    pub(crate) cache: Arc<Cache>,
    pub(crate) kinds: ArcSwap<Kinds>,
    pub(crate) authenticator: Authenticator,
    pub(crate) admission: Vec<Box<dyn Plugin>>,
    pub(crate) addresses: registry::Addresses,
    pub(crate) metrics: metrics::Metrics,
    stored: Arc<metrics::Metered>,
    pub(crate) documents: documents::Documents,
    event_lease: EventLease,
    node_rules: NodeRules,
    compiled: ArcSwap<Compiled>,
    /// Roles, cluster roles, and their bindings: looked at by each request.
    rbac_kinds: [Arc<cache::KindCache>; 4],
    /// Wakes whoever registers what is served.
    pub(crate) kinds_changed: tokio::sync::Notify,
    pub(crate) remote: aggregation::Remote,
    pub(crate) pool: pool::Pool,
    /// Judges client certificates.
    clients: pki::Clients,
    nodes: proxy::Dialer,
    ready: AtomicBool,
    address: SocketAddr,
    shutdown: CancellationToken,
}

impl ApiServer {
    /// Starts listening; when this returns, the caches are warm and what every cluster has is there.
    pub async fn start(options: Options, shutdown: CancellationToken) -> Result<Arc<Self>> {
        keys::check(&options).await?;
        let stored = Arc::new(metrics::Metered::new(options.store.clone()));
        let cache = Cache::start(stored.clone(), options.shared_store, shutdown.clone()).await?;
        let listener = tokio::net::TcpListener::bind(options.listen)
            .await
            .map_err(|source| Error::Listen { address: options.listen, source })?;
        let address =
            listener.local_addr().map_err(|source| Error::Listen { address: options.listen, source })?;
        let tls = server_tls(&options)?;
        let issuer = authn::default_audience(&options.instance.cluster_domain);
        let authenticator = Authenticator::new(options.pki.clone(), cache.clone(), issuer);
        // Neither may anything here: whoever leads one of our own requests back to us gains nothing by it.
        let identity = options.pki.client_identity(bootstrap::FRONT_PROXY, &[])?;
        let kubelets = options.pki.client_identity("kube-apiserver-kubelet-client", &[])?;
        let mut client = kubelets.client_config(&pki::Trust::Only(options.pki.ca_pem().to_owned()))?;
        client.alpn_protocols = vec![b"http/1.1".to_vec()];
        let admission = admission::stock();
        let server = Arc::new(Self {
            kinds: ArcSwap::from_pointee(Kinds::new(api::kinds::all().to_vec())),
            authenticator,
            metrics: metrics::Metrics::new(admission.iter().map(|plugin| plugin.names())),
            admission,
            addresses: registry::Addresses::new(options.instance.service_cidr),
            stored,
            documents: documents::Documents::default(),
            event_lease: EventLease::default(),
            node_rules: NodeRules::default(),
            compiled: ArcSwap::default(),
            rbac_kinds: ["roles", "clusterroles", "rolebindings", "clusterrolebindings"]
                .map(|resource| cache.kind("rbac.authorization.k8s.io", resource)),
            kinds_changed: tokio::sync::Notify::new(),
            remote: aggregation::Remote::default(),
            pool: pool::Pool::new(identity),
            clients: options.pki.clients()?,
            nodes: proxy::Dialer::new(client),
            ready: AtomicBool::new(false),
            address,
            shutdown: shutdown.clone(),
            cache,
            options,
        });
        bootstrap::run(&server).await.map_err(|s| Error::Bootstrap(s.message))?;
        pool::follow(&server, &server.shutdown);
        crd::start(server.clone(), server.shutdown.clone()).await;
        // After it: what definitions make is registered, and what they do not make any more is not.
        aggregation::start(server.clone(), server.shutdown.clone());
        server.ready.store(true, Ordering::Release);
        tokio::spawn(http::serve(server.clone(), listener, Arc::new(tls), shutdown));
        Ok(server)
    }

    /// Whether it serves.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `/version` says.
    pub fn version(&self) -> String {
        format!("{}{}", self.options.release.version(), self.options.build)
    }

    /// A way to this server without a socket, as `user`. Nothing else is left out.
    pub fn transport(self: &Arc<Self>, user: UserInfo) -> Arc<dyn client::Transport> {
        Arc::new(transport::InProcess::new(self.clone(), user))
    }

    /// The compiled roles and bindings, of the cache as it is now.
    pub(crate) fn rbac(&self) -> Arc<Rbac> {
        let kinds = &self.rbac_kinds;
        let of = [kinds[0].last(), kinds[1].last(), kinds[2].last(), kinds[3].last()];
        let compiled = self.compiled.load();
        if compiled.of == of {
            return compiled.rbac.clone();
        }
        let objects = kinds.each_ref().map(|k| k.all(""));
        let values = |i: usize| objects[i].iter().map(|o| o.value()).collect();
        let rbac = Arc::new(Rbac::compile(&RbacObjects {
            roles: values(0),
            cluster_roles: values(1),
            bindings: values(2),
            cluster_bindings: values(3),
        }));
        self.compiled.store(Arc::new(Compiled { of, rbac: rbac.clone() }));
        rbac
    }

    /// Whether what is asked is allowed.
    pub(crate) fn authorize(&self, a: &Attributes<'_>) -> Decision {
        if self.options.authorization == Authorization::AlwaysAllow || a.user.in_group(user::MASTERS) {
            return Decision::Allow(String::new());
        }
        let mut reason = String::new();
        if let Some(node) = a.user.node() {
            match self.node_rules.authorize(&self.cache, node, a) {
                Decision::NoOpinion(why) => reason = why,
                yes @ Decision::Allow(_) => return yes,
            }
        }
        match self.rbac().authorize(a) {
            Decision::NoOpinion(more) => {
                let both = [reason, more].into_iter().filter(|why| !why.is_empty());
                Decision::NoOpinion(both.collect::<Vec<_>>().join("\n"))
            }
            yes @ Decision::Allow(_) => yes,
        }
    }

    /// What ends the watches of a kind.
    pub(crate) fn stop_of(&self, kind: &api::Kind) -> CancellationToken {
        let name = format!("{}.{}", kind.plural, kind.group);
        self.kinds.load().custom().get(name.as_str()).map_or(&self.shutdown, |c| &c.stop).clone()
    }
}

fn server_tls(options: &Options) -> Result<rustls::ServerConfig> {
    let instance = &options.instance;
    let mut names: Vec<String> = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost"]
        .map(str::to_owned)
        .to_vec();
    names.push(format!("kubernetes.default.svc.{}", instance.cluster_domain));
    names.push(instance.node_name.to_lowercase());
    let mut ips = vec![IpAddr::from([127, 0, 0, 1]), instance.node_ip, IpAddr::V4(instance.kubernetes_ip())];
    if !options.listen.ip().is_unspecified() {
        ips.push(options.listen.ip());
    }
    for name in &options.names {
        match name.parse() {
            Ok(ip) => ips.push(ip),
            Err(_) => names.push(name.clone()),
        }
    }
    ips.sort_unstable();
    ips.dedup();
    names.sort_unstable();
    names.dedup();
    Ok(options.pki.server_config("kube-apiserver", &names, &ips, pki::ClientAuth::Optional)?)
}
