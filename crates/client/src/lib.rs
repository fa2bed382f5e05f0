//! How the parts of the cluster speak to the API server: calls, informers, work queue, events.
//!
//! Promises: what a component does goes through [`Transport`], whether the server is in the same process or behind HTTPS;
//! objects are shared (`Arc<Object>`), never copied; an [`Informer`] misses no state that lasts, whatever breaks in between.
//! Leaves to others: what to do about the objects.

mod calls;
pub mod discovery;
pub mod election;
mod error;
pub mod fake;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod https;
mod informer;
mod kubeconfig;
pub mod metrics;
mod queue;
mod recorder;
mod transport;

pub use api::names::gvr;
pub use calls::{Client, DeleteOptions, PatchType, Propagation};
pub use error::{Error, Result};
pub use https::{Auth, Https};
pub use informer::{Change, Changes, Informer, Informers, Selection, index};
pub use kubeconfig::{Endpoint, Kubeconfig};
pub use queue::WorkQueue;
pub use recorder::{EventKey, Recorder};
pub use transport::{
    BoxBody, BoxStream, Duplex, ListOptions, ObjectList, Transport, WatchEvent, WatchKind, WatchOptions,
};
