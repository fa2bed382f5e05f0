//! Which pod runs where.
//!
//! One task holds a snapshot of the cluster, kept up to date change by change, in views cut to what scheduling looks at.
//! Each `Plugin` looks at the pod; a node goes through every `Filter`, those that remain through every `Score`; the best one gets it,
//! by a binding through the API that nobody waits for: until the cache shows it, the snapshot assumes it.
//!
//! A pod that fits nowhere waits for a change that may help it, not for a timer; only a pod that has failed often waits
//! some seconds even then, so that it does not starve the others.

pub mod claims;
mod cycle;
mod framework;
mod nominations;
mod plugins;
mod preemption;
mod queue;
mod run;
mod snapshot;
mod view;
mod volumes;

pub use run::run;
pub use view::{NodeView, PodView};

/// How the scheduler works.
#[derive(Debug, Clone)]
pub struct Options {
    /// It takes the pods whose `spec.schedulerName` is this.
    pub name: String,
}

impl Default for Options {
    fn default() -> Self {
        Self { name: "default-scheduler".into() }
    }
}
