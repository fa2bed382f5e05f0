//! Connections of the drivers that send, with errors in Go's words, which Docker's users know.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sockets::AnyCertificate;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UdpSocket, UnixStream};

/// A connection; which kind makes no difference.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Duplex for T {}

/// How long a host may take to answer: time is all there is to tell that it does not.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where systems keep the authorities that they trust.
const SYSTEM_ROOTS: &[&str] = &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"];

/// The address as `net.Dial` names it.
fn name(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn reason(e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::ConnectionRefused => "connect: connection refused".into(),
        io::ErrorKind::TimedOut => "i/o timeout".into(),
        io::ErrorKind::NotFound => "connect: no such file or directory".into(),
        _ => crate::protocol::plain(e),
    }
}

/// Connects by TCP.
pub(super) async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let failed = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => io::Error::other(format!("dial tcp: lookup {host}: no such host")),
        _ => io::Error::other(format!("dial tcp {}: {}", name(host, port), reason(&e))),
    };
    let dialled = tokio::time::timeout(PATIENCE, sockets::connect(host, port)).await;
    let stream = dialled.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A UDP socket whose peer is the given one.
pub(super) async fn udp(host: &str, port: u16) -> io::Result<UdpSocket> {
    let all = sockets::Resolver::default().lookup(host).await;
    let all = all.map_err(|e| io::Error::other(format!("dial udp: {e}")))?;
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for ip in all {
        let any: IpAddr =
            if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        match socket.connect(SocketAddr::new(ip, port)).await {
            Ok(()) => return Ok(socket),
            Err(e) => last = e,
        }
    }
    Err(io::Error::other(format!("dial udp {}: {}", name(host, port), reason(&last))))
}

/// Connects to a socket in the file system.
pub(super) async fn unix(path: &str) -> io::Result<UnixStream> {
    let dialled = UnixStream::connect(path).await;
    dialled.map_err(|e| io::Error::other(format!("dial unix {path}: {}", reason(&e))))
}

/// The files of a TLS client.
#[derive(Debug, Default)]
pub(super) struct TlsFiles<'a> {
    /// The authorities to trust instead of the system's.
    pub ca: Option<&'a str>,
    /// The client's certificate and key.
    pub identity: Option<(&'a str, &'a str)>,
    /// Whether anybody is taken for the server.
    pub skip_verify: bool,
}

/// Connects by TLS over TCP.
pub(super) async fn tls(
    host: &str,
    port: u16,
    config: Arc<rustls::ClientConfig>,
) -> io::Result<Box<dyn Duplex>> {
    let stream = tcp(host, port).await?;
    let server = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let handshake = tokio_rustls::TlsConnector::from(config).connect(server, stream);
    let stream = tokio::time::timeout(PATIENCE, handshake).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(Box::new(stream))
}

/// The configuration of a TLS client.
pub(super) fn tls_config(files: &TlsFiles<'_>) -> io::Result<Arc<rustls::ClientConfig>> {
    let named = |path: &str, e: &dyn std::fmt::Display| io::Error::other(format!("{path}: {e}"));
    let builder = if files.skip_verify {
        AnyCertificate::client_config()
    } else {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?;
        let mut roots = rustls::RootCertStore::empty();
        match files.ca.or_else(|| SYSTEM_ROOTS.iter().copied().find(|p| Path::new(p).exists())) {
            Some(path) => {
                for certificate in CertificateDer::pem_file_iter(path).map_err(|e| named(path, &e))? {
                    let certificate = certificate.map_err(|e| named(path, &e))?;
                    // A system's list may hold some that rustls does not take; the user's own may not.
                    if let (Err(e), Some(_)) = (roots.add(certificate), files.ca) {
                        return Err(named(path, &e));
                    }
                }
            }
            None => {
                return Err(io::Error::other("the system has no list of authorities; give a CA certificate"));
            }
        }
        builder.with_root_certificates(roots)
    };
    let config = match files.identity {
        Some((cert, key)) => {
            let chain: Result<Vec<_>, _> =
                CertificateDer::pem_file_iter(cert).map_err(|e| named(cert, &e))?.collect();
            let chain = chain.map_err(|e| named(cert, &e))?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|e| named(key, &e))?;
            builder.with_client_auth_cert(chain, key).map_err(|e| named(cert, &e))?
        }
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}
