//! The loops that make the cluster what its objects say.
//!
//! Each controller is one module: which objects concern it (its sources), what it sees of them, and a pure function from
//! that to [`Action`]s, with a table of tests. [`machine`] does the rest for all of them: queue, retries, carrying out,
//! and waiting until the caches show what was done, so that nothing is done twice.
//!
//! No controller keeps anything in memory that a restart would lose. They speak to the API server only, as clients.

mod certificate;
mod children;
mod cluster_role;
mod cron;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod endpointslice;
mod ephemeral;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gc;
mod job;
mod machine;
mod namespace;
mod node;
mod pod;
mod quota;
mod replicas;
mod revisions;
mod root_ca;
mod service;
mod service_account;
mod statefulset;
#[cfg(test)]
mod testing;
mod token;
mod view;
mod volume;

use std::sync::Arc;

use client::{Client, Informers, Recorder};
use tokio_util::sync::CancellationToken;

pub use machine::{Action, Announce, Controller, Decision, Machine, Source};

/// What the controllers need to know.
#[derive(Clone)]
pub struct Options {
    /// The instance they work for.
    pub instance: base::Instance,
    /// The cluster's authority, whose certificate every namespace gets, and which answers certificate requests.
    pub pki: Arc<pki::Pki>,
    /// The release that the cluster behaves like.
    pub release: api::Release,
}

/// Runs every controller until `shutdown`.
pub async fn run(options: Options, client: Client, informers: Informers, shutdown: CancellationToken) {
    let machine = Machine::new(client, informers, shutdown.clone());
    machine.start(replicas::ReplicaSets::new(&machine));
    machine.start(replicas::ReplicationControllers::new(&machine));
    machine.start(deployment::Deployments::new(&machine));
    machine.start(endpoints::Endpoints::new(&machine));
    machine.start(endpointslice::EndpointSlices::new(&machine));
    machine.start(namespace::Namespaces::new(&machine));
    machine.start(service_account::ServiceAccounts::new(&machine));
    machine.start(root_ca::RootCa::new(&machine, options.pki.ca_pem()));
    machine.start(daemonset::DaemonSets::new(&machine));
    machine.start(statefulset::StatefulSets::new(&machine));
    machine.start(job::Jobs::new(&machine));
    machine.start(cron::CronJobs::new(&machine));
    machine.start(node::Nodes::new(&machine));
    machine.start(pod::Collector::new(&machine));
    machine.start(volume::Volumes::new(&machine));
    machine.start(volume::Claims::new(&machine));
    machine.start(quota::Quotas::new(&machine));
    machine.start(disruption::Budgets::new(&machine));
    machine.start(cluster_role::ClusterRoles::new(&machine));
    machine.start(ephemeral::Ephemeral::new(&machine));
    machine.start(token::Tokens::new(&machine, options.pki.clone(), options.release));
    machine.start(certificate::Certificates::new(&machine, options.pki.clone()));
    gc::start(&machine);
    shutdown.cancelled().await;
    machine.stopped().await;
}

/// The recorder of a controller.
pub(crate) fn recorder(machine: &Machine, name: &str) -> Recorder {
    Recorder::new(machine.client().named(name), name, "")
}
