//! An HTTP client for registries and `ADD http://...`: names by our own resolver (a static binary has no other), TLS by
//! rustls, redirects by the caller.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hickory_resolver::TokioResolver;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioExecutor;

/// A request's body.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// Looks names up with the machine's configuration, read when it is first needed.
#[derive(Clone, Default)]
pub struct Resolver(Arc<OnceLock<Option<TokioResolver>>>);

impl Resolver {
    async fn lookup(self, host: String) -> std::io::Result<std::vec::IntoIter<SocketAddr>> {
        if let Ok(ip) = host.parse() {
            return Ok(vec![SocketAddr::new(ip, 0)].into_iter());
        }
        if host == "localhost" {
            return Ok(vec![
                SocketAddr::from(([127, 0, 0, 1], 0)),
                SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0)),
            ]
            .into_iter());
        }
        let none =
            || std::io::Error::new(std::io::ErrorKind::NotFound, format!("lookup {host}: no such host"));
        let resolver =
            self.0.get_or_init(|| TokioResolver::builder_tokio().ok().and_then(|b| b.build().ok()));
        let Some(resolver) = resolver else { return Err(none()) };
        let found = resolver.lookup_ip(host.as_str()).await.map_err(|_| none())?;
        let all: Vec<_> = found.iter().map(|ip| SocketAddr::new(ip, 0)).collect();
        if all.is_empty() { Err(none()) } else { Ok(all.into_iter()) }
    }
}

impl tower::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(self.clone().lookup(name.as_str().to_string()))
    }
}

/// A client with its pool of connections. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector<Resolver>>, Body>,
}

impl Client {
    /// A client that trusts the public authorities and `extra` ones (DER); with `insecure`, anybody.
    pub fn new(extra: &[rustls::pki_types::CertificateDer<'static>], insecure: bool) -> crate::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| crate::Error::Registry(format!("TLS: {e}")))?;
        let config = if insecure {
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
                .with_no_client_auth()
        } else {
            let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            roots.add_parsable_certificates(extra.iter().cloned());
            builder.with_root_certificates(roots).with_no_client_auth()
        };
        let mut http = HttpConnector::new_with_resolver(Resolver::default());
        http.enforce_http(false);
        http.set_nodelay(true);
        // The protocol has no answer to wait for while a host does not reply at all: only time can tell.
        http.set_connect_timeout(Some(Duration::from_secs(30)));
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let pool =
            Pool::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(30)).build(https);
        Ok(Self { pool })
    }

    /// Sends a request. The error names the host and the deepest reason, in Go's words where Docker's users know them.
    pub async fn send(&self, request: http::Request<Body>) -> crate::Result<http::Response<Incoming>> {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        self.pool.request(request).await.map_err(|e| {
            let mut reason: &dyn std::error::Error = &e;
            while let Some(source) = reason.source() {
                reason = source;
            }
            let mut text = reason.to_string();
            if let Some(io) = reason.downcast_ref::<std::io::Error>() {
                let host = uri.authority().map_or("", |a| a.as_str());
                text = match io.kind() {
                    std::io::ErrorKind::ConnectionRefused => {
                        format!("dial tcp {host}: connect: connection refused")
                    }
                    std::io::ErrorKind::TimedOut => format!("dial tcp {host}: i/o timeout"),
                    std::io::ErrorKind::NotFound => format!("dial tcp: {io}"),
                    _ => text,
                };
            }
            let verb = match method.as_str() {
                "GET" => "Get",
                "HEAD" => "Head",
                "POST" => "Post",
                "PUT" => "Put",
                other => other,
            };
            crate::Error::Registry(format!("{verb} \"{uri}\": {text}"))
        })
    }
}

/// For registries that the configuration calls insecure: takes any certificate.
#[derive(Debug)]
struct Anybody(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
