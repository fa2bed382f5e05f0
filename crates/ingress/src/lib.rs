//! Ingress: HTTP and HTTPS from outside, led to Services by host and path.
//!
//! What it is for: an Ingress object works on a machine without any controller having been installed.
//!
//! What it promises: [`Routes`] is a pure function of the Ingress objects; endpoints are looked up for each request in the
//! process's one cache, so a request goes to an endpoint that is ready now, and to another one when it cannot be
//! connected to; upgraded connections (WebSocket) are passed through.
//!
//! What it leaves to others: classes that name another controller, and everything below HTTP (`proxy`).

mod routes;
mod run;
mod server;
mod tls;

pub use routes::{Backend, PortRef, Routes};
pub use run::{CONTROLLER, Error, Options, run};
