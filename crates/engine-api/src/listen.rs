//! Where the API is served: Unix sockets, and TCP with TLS, whose clients prove who they are.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// How long a client may take for its handshake: time is all there is to tell that it says nothing.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Where connections come from.
pub enum Listener {
    /// A socket in the file system; its permissions say who may connect.
    Unix(UnixListener),
    /// TCP with TLS.
    Tls(TcpListener, Arc<rustls::ServerConfig>),
    /// TCP as it is: whoever can connect is root. Only for those who ask for it in so many words.
    Plain(TcpListener),
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listener::Unix(l) => write!(f, "Unix({:?})", l.local_addr()),
            Listener::Tls(l, _) => write!(f, "Tls({:?})", l.local_addr()),
            Listener::Plain(l) => write!(f, "Plain({:?})", l.local_addr()),
        }
    }
}

/// A connection, or what becomes one.
pub(crate) enum Accepted {
    Unix(UnixStream),
    Plain(TcpStream),
    Tls(BoxFuture<'static, io::Result<TlsStream<TcpStream>>>),
}

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<Accepted> {
        Ok(match self {
            Listener::Unix(listener) => Accepted::Unix(listener.accept().await?.0),
            Listener::Plain(listener) => Accepted::Plain(accepted(listener).await?),
            Listener::Tls(listener, config) => {
                let stream = accepted(listener).await?;
                let handshake = TlsAcceptor::from(config.clone()).accept(stream);
                Accepted::Tls(Box::pin(async move {
                    let done = tokio::time::timeout(HANDSHAKE, handshake).await;
                    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                }))
            }
        })
    }
}

async fn accepted(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    // Nothing else tells that one is gone which only reads what an idle container writes.
    sockets::keep_alive(&stream)?;
    Ok(stream)
}

/// The files of a TLS server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority of clients' certificates; none: clients need no certificate.
    pub ca: Option<PathBuf>,
    /// The server's certificate, with those between it and its authority.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl TlsFiles {
    /// Reads them. The error names the file.
    pub fn config(&self) -> io::Result<Arc<rustls::ServerConfig>> {
        // Streams are taken over, which HTTP/2 does not know.
        sockets::server_config(&self.cert, &self.key, self.ca.as_deref(), &["http/1.1"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{getsockopt, sockopt};

    #[tokio::test]
    async fn clients_over_tcp_are_asked_whether_they_are_there() {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let _client = TcpStream::connect(address).await.unwrap();
        let Accepted::Plain(stream) = Listener::Plain(socket).accept().await.unwrap() else { panic!() };
        assert!(getsockopt(&stream, sockopt::KeepAlive).unwrap());
    }
}
