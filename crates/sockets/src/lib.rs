//! What every speaker of TCP here shares: host names looked up without the system's name services, connections made
//! and accepted, headers that are not passed on, servers' certificates read, and the certificate verifier for peers that need not prove who they are.
//!
//! It promises that no call of it reaches getaddrinfo, which crashes in a static binary, that an accept loop that
//! uses it neither ends nor spins when descriptors run out, and that no peer holds an HTTP connection for ever by saying
//! nothing. What is served is left to the callers.

mod accept;
mod hop;
mod resolve;
mod serve;
mod tls;
mod verify;

pub use accept::accept_failed;
pub use hop::strip_hop_by_hop;
pub use resolve::{Resolver, connect};
pub use serve::{Patient, http, keep_alive, patient};
pub use tls::server_config;
pub use verify::AnyCertificate;
