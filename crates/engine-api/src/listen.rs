//! Where the API is served: Unix sockets, and TCP with TLS, whose clients prove who they are.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
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
            Listener::Plain(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Accepted::Plain(stream)
            }
            Listener::Tls(listener, config) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let handshake = TlsAcceptor::from(config.clone()).accept(stream);
                Accepted::Tls(Box::pin(async move {
                    let done = tokio::time::timeout(HANDSHAKE, handshake).await;
                    done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
                }))
            }
        })
    }
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
        let named =
            |path: &PathBuf, e: &dyn std::fmt::Display| io::Error::other(format!("{}: {e}", path.display()));
        let certificates = |path: &PathBuf| -> io::Result<Vec<CertificateDer<'static>>> {
            let all = CertificateDer::pem_file_iter(path).map_err(|e| named(path, &e))?;
            let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|e| named(path, &e))?;
            if all.is_empty() { Err(named(path, &"no certificate in it")) } else { Ok(all) }
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let builder = match &self.ca {
            Some(path) => {
                let mut roots = rustls::RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| named(path, &e))?;
                }
                let verifier =
                    rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                builder.with_client_cert_verifier(verifier.build().map_err(|e| named(path, &e))?)
            }
            None => builder.with_no_client_auth(),
        };
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|e| named(&self.key, &e))?;
        let chain = certificates(&self.cert)?;
        let mut config = builder.with_single_cert(chain, key).map_err(|e| named(&self.cert, &e))?;
        // Streams are taken over, which HTTP/2 does not know.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
