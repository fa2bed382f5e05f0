//! The server's side of Kubernetes' streaming protocols: exec, attach and port-forward over SPDY/3.1 (kubectl up to
//! 1.30, and every port-forward of kubectl's) and WebSocket (kubectl 1.31 and newer, and other clients).
//!
//! Promises: works on any hyper request that can be upgraded; the wire formats are pure state machines that no input
//! makes panic; memory is bounded and flow control is honoured in both directions. It leaves processes, pods and
//! permissions to its callers.

pub mod exec;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod negotiate;
pub mod portforward;
pub mod spdy;
pub mod status;
pub mod stream;
pub mod websocket;

pub use exec::{Size, Streams, Wanted, exec_session};
pub use negotiate::is_upgrade;
pub use portforward::{Forward, Forwards, portforward_session};
pub use status::Outcome;

use http::{Response, StatusCode};

/// Why a session broke off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection could not be taken over from HTTP.
    #[error("upgrade failed: {0}")]
    Upgrade(String),
    /// The client did not open its streams in time.
    #[error("timed out waiting for client to create streams")]
    Timeout,
    /// The client is gone.
    #[error("the client closed the connection")]
    Closed,
    /// The client broke the rules.
    #[error("{0}")]
    Protocol(String),
    /// The SPDY connection failed.
    #[error(transparent)]
    Spdy(#[from] spdy::Error),
}

/// Why a request is not upgraded.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// 400 or 403.
    pub status: StatusCode,
    /// For the client's eyes.
    pub message: String,
    /// The SPDY subprotocols it could have asked for.
    pub accepted: String,
}

impl Rejection {
    /// The answer to the client.
    pub fn response(&self) -> Response<String> {
        let mut response = Response::new(format!("{}\n", self.message));
        *response.status_mut() = self.status;
        if let Ok(value) = http::HeaderValue::from_str(&self.accepted) {
            response.headers_mut().insert(negotiate::accepted_header(), value);
        }
        response
    }
}
