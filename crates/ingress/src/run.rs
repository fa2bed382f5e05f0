//! The loop: changes of Ingress objects, classes and secrets in, routes and statuses out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use api::{Gvr, Object};
use base::Instance;
use client::{Client, Informer, Informers, PatchType, gvr, index};
use parking_lot::RwLock;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::routes::Routes;
use crate::server::{Shared, accept};
use crate::tls::{self, Certificates};

/// Our name in `spec.controller` of an IngressClass.
pub const CONTROLLER: &str = "tug/ingress";
const CLASSES: Gvr = Gvr::new("networking.k8s.io", "v1", "ingressclasses");
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
/// The pause before a status that the server refused is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long a status that somebody wrote over ours stays: two controllers that both take an object for theirs would else
/// write without end, and nobody could change one twice.
const TOLERANCE: Duration = Duration::from_secs(60);

/// What the proxy needs to know.
#[derive(Debug)]
pub struct Options {
    /// The node's address, which becomes the objects' status.
    pub instance: Instance,
    /// Where it listens for HTTP.
    pub http: Option<TcpListener>,
    /// Where it listens for HTTPS.
    pub https: Option<TcpListener>,
}

/// Why it could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// TLS cannot be set up.
    #[error("ingress: {0}")]
    Tls(#[from] rustls::Error),
}

/// Serves until `shutdown`.
pub async fn run(
    options: Options,
    client: Client,
    informers: Informers,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Options { instance, http, https } = options;
    let (services, slices) = (informers.of(&gvr::SERVICES), informers.of(&gvr::ENDPOINT_SLICES));
    slices.add_index(index::SERVICE, index::service);
    let controller = Controller {
        // A status says where the machine is reached; one that nobody reaches has none.
        address: (!instance.node_ip.is_unspecified()).then(|| instance.node_ip.to_string()),
        client,
        ingresses: informers.of(&gvr::INGRESSES),
        classes: informers.of(&CLASSES),
        secrets: informers.of(&gvr::SECRETS),
        shared: Arc::new(Shared { routes: RwLock::default(), services, slices }),
        certificates: Certificates::new(),
    };
    tokio::select! {
        () = controller.synced() => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    controller.route();
    let tls = TlsAcceptor::from(controller.certificates.config()?);
    let mut servers = JoinSet::new();
    for (listener, tls) in [(http, None), (https, Some(tls))] {
        if let Some(listener) = listener {
            servers.spawn(accept(controller.shared.clone(), listener, tls, shutdown.clone()));
        }
    }
    controller.follow(&shutdown).await;
    while servers.join_next().await.is_some() {}
    Ok(())
}

struct Controller {
    address: Option<String>,
    client: Client,
    ingresses: Arc<Informer>,
    classes: Arc<Informer>,
    secrets: Arc<Informer>,
    shared: Arc<Shared>,
    certificates: Arc<Certificates>,
}

impl Controller {
    async fn synced(&self) {
        let all = [&self.ingresses, &self.classes, &self.secrets, &self.shared.services, &self.shared.slices];
        for informer in all {
            informer.synced().await;
        }
    }

    async fn follow(&self, shutdown: &CancellationToken) {
        let mut ingresses = self.ingresses.subscribe();
        let mut classes = self.classes.subscribe();
        let mut secrets = self.secrets.subscribe();
        let mut reported = HashMap::new();
        loop {
            self.route();
            let again = self.report(&mut reported).await;
            tokio::select! {
                () = shutdown.cancelled() => return,
                // A timer, because nothing tells when the server would accept what it refused.
                () = tokio::time::sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
                Some(_) = ingresses.recv() => {}
                Some(_) = classes.recv() => {}
                Some(_) = secrets.recv() => {}
            }
            for changes in [&mut ingresses, &mut classes, &mut secrets] {
                while changes.try_recv().is_some() {}
            }
        }
    }

    /// The objects that are ours, oldest first: where two say the same, the older one has it.
    fn ours(&self) -> Vec<Arc<Object>> {
        let mut ours: Vec<_> = self.ingresses.list("").into_iter().filter(|i| self.is_ours(i)).collect();
        let age =
            |i: &Object| i.at(&["metadata", "creationTimestamp"]).as_str().unwrap_or_default().to_owned();
        ours.sort_by_key(|i| (age(i), i.key()));
        ours
    }

    fn is_ours(&self, ingress: &Object) -> bool {
        let class =
            ingress.at(&["spec", "ingressClassName"]).as_str().or(ingress.annotation(CLASS_ANNOTATION));
        match class.filter(|c| !c.is_empty()) {
            // Nobody else's; upstream's admission would have set the default class, if there were one.
            None => true,
            Some(name) => match self.classes.get("", name) {
                Some(class) => class.at(&["spec", "controller"]) == CONTROLLER,
                None => name == "tug",
            },
        }
    }

    /// Makes the routes and certificates anew.
    fn route(&self) {
        let ours = self.ours();
        let routes = Arc::new(Routes::new(ours.iter().map(|i| i.value())));
        if **self.shared.routes.read() != *routes {
            *self.shared.routes.write() = routes;
        }
        let mut by_host = BTreeMap::new();
        for ingress in &ours {
            for (host, key) in tls::of_ingress(ingress, |name| self.secrets.get(ingress.namespace(), name)) {
                by_host.entry(host).or_insert(key);
            }
        }
        self.certificates.set(by_host);
    }

    /// Writes our address into the status of our objects. `reported` holds when that was done last, by uid. If there is
    /// something left to write, when to try.
    async fn report(&self, reported: &mut HashMap<String, Instant>) -> Option<Instant> {
        let wanted = json!([{"ip": self.address.as_ref()?}]);
        let ours = self.ours();
        let present: HashSet<&str> = ours.iter().map(|i| i.uid()).collect();
        reported.retain(|uid, _| present.contains(uid.as_str()));
        let mut again: Vec<Instant> = Vec::new();
        for ingress in &ours {
            if ingress.is_deleting() || *ingress.at(&["status", "loadBalancer", "ingress"]) == wanted {
                continue;
            }
            let now = Instant::now();
            if let Some(at) = reported.get(ingress.uid()).map(|at| *at + TOLERANCE).filter(|at| *at > now) {
                again.push(at);
                continue;
            }
            let patch = json!({"status": {"loadBalancer": {"ingress": wanted}}});
            let (ns, name) = (ingress.namespace(), ingress.name());
            let patched =
                self.client.patch_sub(&gvr::INGRESSES, ns, name, "status", PatchType::Merge, &patch).await;
            match patched {
                Ok(_) => {
                    reported.insert(ingress.uid().to_owned(), now);
                }
                Err(e) if e.is_not_found() => {}
                Err(e) => {
                    tracing::warn!("status of ingress {}: {e}", ingress.key());
                    again.push(now + RETRY);
                }
            }
        }
        again.into_iter().min()
    }
}
