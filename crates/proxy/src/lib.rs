//! Services on this node, in nftables.
//!
//! What it is for: a connection from a pod, from this machine or from outside to a Service's address is led to one of
//! its endpoints, or refused at once where there is none.
//!
//! What it promises: `desired` is a pure function of one Service and its slices; a change of them reaches the kernel as
//! one transaction of the elements and chains that differ, within the same turn of the event loop. The first
//! transaction of a new daemon replaces what the one before left, without a gap.
//!
//! What it leaves to others: which endpoints exist (the EndpointSlice controller), masquerading and the order of base
//! chains (`network`), names (`dns`).

mod desired;
mod model;
mod plan;
mod run;
mod tables;

pub use desired::{Desired, Node, desired};
pub use model::{Service, Slice};
pub use plan::Plan;
pub use run::{Error, Options, run};
