//! What every speaker of TCP here shares: host names looked up without the system's name services, connections made
//! and accepted, and the certificate verifier for peers that need not prove who they are.
//!
//! It promises that no call of it reaches getaddrinfo, which crashes in a static binary, and that an accept loop that
//! uses it neither ends nor spins when descriptors run out. Protocols are left to the callers.

mod accept;
mod resolve;
mod verify;

pub use accept::accept_failed;
pub use resolve::{Resolver, connect};
pub use verify::AnyCertificate;
