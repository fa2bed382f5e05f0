//! The Docker object model: containers, volumes, networks, events, and images as a container user sees them.
//!
//! It drives [`runtime`], [`image`] and [`network`]; it knows nothing of HTTP. It promises that what it told a
//! client survives a SIGKILL of the daemon.

pub mod error;
pub mod events;
pub mod filters;
pub mod model;

mod names;
mod restart;

pub use error::{Error, Result};
