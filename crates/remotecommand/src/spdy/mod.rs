//! SPDY/3.1 as far as Kubernetes speaks it: `headers` and `frame` code the wire, `session` is the protocol as a pure
//! state machine, `connection` moves its bytes.

pub mod connection;
pub mod frame;
pub mod headers;
pub mod session;

pub use connection::{Connection, Reader, Stream, Writer};
pub use headers::{Headers, get};

/// Why a SPDY connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The peer broke the protocol; the connection is closed.
    #[error("SPDY protocol error: {0}")]
    Protocol(&'static str),
    /// The connection broke.
    #[error("SPDY connection: {0}")]
    Io(#[from] std::io::Error),
    /// The stream or the connection is closed.
    #[error("the stream is closed")]
    Closed,
}
