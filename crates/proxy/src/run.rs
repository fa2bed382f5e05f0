//! The loop: changes of Services and slices in, transactions out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use api::Object;
use base::Instance;
use client::{Change, Informer, Informers, gvr, index};
use network::Network;
use network::nft::Firewall;
use tokio_util::sync::CancellationToken;

use crate::desired::{Node, UdpPort, desired};
use crate::model::{Service, Slice};
use crate::plan::{Changes, Owner, Plan};
use crate::tables;

/// The pause before trying again what the kernel refused.
const RETRY: Duration = Duration::from_secs(2);

/// What the proxy needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    /// Names, ranges and the node's name.
    pub instance: Instance,
}

/// Why the proxy could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused what every node needs.
    #[error(transparent)]
    Network(#[from] network::Error),
}

/// Routes Services until `shutdown`. Rules stay in place afterwards, so that a new daemon can take over.
pub async fn run(
    options: Options,
    informers: Informers,
    network: Arc<Network>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let services = informers.of(&gvr::SERVICES);
    let slices = informers.of(&gvr::ENDPOINT_SLICES);
    slices.add_index(index::SERVICE, index::service);
    let instance = &options.instance;
    let dns = std::net::IpAddr::from(instance.dns_ip());
    let node = Node {
        name: instance.node_name.clone(),
        cluster_cidrs: vec![instance.cluster_cidr.into()],
        service_cidrs: vec![instance.service_cidr.into()],
        own: vec![dns],
    };
    network.ensure_service_link(&[dns]).await?;
    tokio::select! {
        () = async { services.synced().await; slices.synced().await; } => {}
        () = shutdown.cancelled() => return Ok(()),
    }
    let mut proxy =
        Proxy { node, services, slices, firewall: network.firewall().clone(), plan: Plan::default() };
    let mut service_changes = proxy.services.subscribe();
    let mut slice_changes = proxy.slices.subscribe();
    let mut stale = true;
    loop {
        if stale {
            stale = match proxy.rebuild() {
                Ok(()) => false,
                Err(e) => {
                    tracing::error!("services cannot be routed: {e}");
                    true
                }
            };
        }
        let mut touched = BTreeSet::new();
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            // A timer, because nothing tells when the kernel would accept what it refused.
            () = tokio::time::sleep(RETRY), if stale => continue,
            change = service_changes.recv() => touched.extend(change.as_ref().map(service_of)),
            change = slice_changes.recv() => touched.extend(change.as_ref().and_then(owner_of)),
        }
        drain(&mut service_changes, |c| touched.extend([service_of(c)]));
        drain(&mut slice_changes, |c| touched.extend(owner_of(c)));
        if let (false, Err(e)) = (stale, proxy.update(touched)) {
            // Something else has changed our table, or memory is short: begin anew from what should be.
            tracing::warn!("{e}: making all rules of services anew");
            stale = true;
        }
    }
}

fn drain(changes: &mut client::Changes, mut each: impl FnMut(&Change)) {
    while let Some(change) = changes.try_recv() {
        each(&change);
    }
}

fn service_of(change: &Change) -> Owner {
    let key = change.object().key();
    (key.namespace.to_string(), key.name.to_string())
}

fn owner_of(change: &Change) -> Option<Owner> {
    let slice = change.object();
    slice.labels().get(index::SERVICE_NAME).map(|name| (slice.namespace().to_owned(), name.to_string()))
}

struct Proxy {
    node: Node,
    services: Arc<Informer>,
    slices: Arc<Informer>,
    firewall: Arc<dyn Firewall>,
    plan: Plan,
}

impl Proxy {
    fn replan(&mut self, owner: &Owner, changes: &mut Changes) {
        let service = self.services.get(&owner.0, &owner.1).and_then(|o| decode::<Service>(&o));
        let wanted = match service {
            Some(service) => {
                let slices = self.slices.by_index(index::SERVICE, &format!("{}/{}", owner.0, owner.1));
                let slices: Vec<Slice> = slices.iter().filter_map(|o| decode(o)).collect();
                desired(&self.node, &service, &slices, &mut |list| self.plan.id(list))
            }
            None => Default::default(),
        };
        self.plan.set(owner, wanted, changes);
    }

    fn update(&mut self, touched: BTreeSet<Owner>) -> network::Result<()> {
        let mut changes = Changes::default();
        let mut udp: Vec<UdpPort> = Vec::new();
        for owner in &touched {
            // A Service that is gone has no endpoints any more.
            let before = self.plan.udp(owner).iter();
            udp.extend(before.map(|p| UdpPort { at: p.at.clone(), backends: Default::default() }));
            self.replan(owner, &mut changes);
            for now in self.plan.udp(owner) {
                match udp.iter_mut().find(|p| p.at == now.at) {
                    Some(p) => p.backends = now.backends.clone(),
                    None => udp.push(now.clone()),
                }
            }
        }
        self.firewall.apply(self.plan.batch(changes))?;
        if !udp.is_empty() {
            self.firewall.forget(&|flow| udp.iter().any(|p| p.is_stale(flow)))?;
        }
        Ok(())
    }

    /// Everything in one transaction: what was there is replaced without a gap.
    fn rebuild(&mut self) -> network::Result<()> {
        self.plan = Plan::default();
        let all: BTreeMap<Owner, ()> = self
            .services
            .list("")
            .iter()
            .map(|o| ((o.namespace().to_owned(), o.name().to_owned()), ()))
            .collect();
        for owner in all.keys() {
            self.replan(owner, &mut Changes::default());
        }
        let present = self.firewall.chains()?.into_iter().collect();
        let mut batch = tables::base(&self.node);
        batch.extend(self.plan.whole(&present));
        self.firewall.apply(batch)
    }
}

fn decode<T: serde::de::DeserializeOwned>(object: &Object) -> Option<T> {
    object.to().inspect_err(|e| tracing::warn!("not routed: {e}")).ok()
}
