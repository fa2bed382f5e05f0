//! The Docker object model: containers, volumes, networks, events, and images as a container user sees them.
//!
//! It drives [`runtime`], [`image`] and [`network`]; it knows nothing of HTTP. It promises that what it told a
//! client survives a SIGKILL of the daemon: containers keep running and are found again, and what ended meanwhile
//! has its exit code and time. Requests are refused in Docker's words and change nothing then.
//! It leaves Dockerfiles to `build`, the wire to `engine-api`, pods to `kubelet` (whose containers it only shows).

#![recursion_limit = "256"]

pub mod attach;
pub mod error;
pub mod events;
pub mod filters;
pub mod gc;
pub mod metrics;
pub mod model;
pub mod settings;
pub mod step;

mod cdi;
mod connect;
mod container;
mod create;
mod engine;
mod exec;
mod files;
mod foreign;
mod fs;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod health;
mod images;
mod inspect;
mod lifecycle;
mod limits;
mod list;
mod logs;
mod mounts;
mod names;
mod networks;
mod ports;
mod quota;
mod resolver;
mod restart;
mod runtimes;
mod spec;
mod start;
mod stats;
mod system;
mod userns;
mod validate;
mod volumes;

pub use create::Created;
pub use engine::{Engine, EngineOptions};
pub use error::{Error, Result};
pub use exec::ExecStart;
pub use fs::{Extraction, PathStat};
pub use images::{CommitRequest, ImageLine, ImageListOptions, merge_config};
pub use lifecycle::WaitCondition;
pub use list::ListOptions;
pub use logs::LogOptions;
pub use networks::AddressPools;
pub use settings::Settings;
pub use stats::Sample;
pub use volumes::mounted_volumes;

/// The API version spoken, and the oldest one that is understood.
pub const API_VERSION: (u32, u32) = (1, 51);
/// See [`API_VERSION`].
pub const MIN_API_VERSION: (u32, u32) = (1, 24);

/// The runtime's label that tells the engine's own containers from a pod's.
pub(crate) const OWNER_LABEL: &str = "tug.owner";
