//! The Docker Engine HTTP API, versions 1.24 to 1.51, over any stream.
//!
//! It translates: a route table, typed queries and bodies in, Docker's documents, streams and error shapes out. It
//! holds no state; what containers and images are is `engine`'s, what a Dockerfile is is `build`'s.

mod body;
mod call;
mod compat;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod hangup;
mod hijack;
mod listen;
mod metrics;
mod progress;
mod query;
mod routes;
mod server;

mod handlers {
    //! One module per group of the API's documentation.
    pub mod archive;
    pub mod build;
    pub mod buildkit;
    pub mod containers;
    pub mod exec;
    pub mod images;
    pub mod networks;
    pub mod streams;
    pub mod system;
    pub mod volumes;
}

pub use error::{Error, Result};
pub use hijack::make_room;
pub use listen::{Listener, TlsFiles};
pub use metrics::serve as serve_metrics;
pub use server::serve;
