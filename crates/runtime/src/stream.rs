//! Standard streams as the daemon sees them.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWrite;
use tokio::sync::{mpsc, oneshot};

use crate::Exit;

/// Which of the two outputs. With a terminal everything is `Stdout`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// `stdout` or `stderr`.
    pub fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    /// Which output.
    pub stream: Stream,
    /// The bytes.
    pub data: Bytes,
}

/// The standard streams of a container or an exec. Dropping it detaches.
#[derive(Debug)]
pub struct IoStream {
    /// Standard input, if it is connected. `shutdown()` half-closes: the process reads the end of file, its output
    /// goes on.
    pub stdin: Option<StdinWriter>,
    /// Output; ends when both outputs have ended. Reading slowly makes the process wait.
    pub output: mpsc::Receiver<Chunk>,
    /// For an exec: its end, sent after its last output.
    pub exit: Option<oneshot::Receiver<Exit>>,
}

/// The writing end of a standard input.
pub struct StdinWriter(Box<dyn AsyncWrite + Send + Unpin>);

impl StdinWriter {
    /// Wraps whatever takes the bytes; its `shutdown` must close the input.
    pub fn new(writer: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Box::new(writer))
    }
}

impl fmt::Debug for StdinWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StdinWriter")
    }
}

impl AsyncWrite for StdinWriter {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
