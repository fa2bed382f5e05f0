//! DNS for services and pods.
//!
//! What it is for: the names of the cluster by the Kubernetes DNS specification 1.1.0, answered on every node at the
//! cluster's DNS address itself, so that no translation stands in between; everything else is forwarded.
//!
//! What it promises: it keeps no records; each question is looked up in the process's one cache of Services and
//! EndpointSlices, so an answer is never older than that. Until that cache is complete it says "cannot tell" rather than
//! "no such name".
//!
//! What it leaves to others: sockets, truncation and forwarding (`network::dns`).

#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod names;
mod records;
mod run;

pub use records::{Cluster, TTL};
pub use run::{Error, Options, run};
