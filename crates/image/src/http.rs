//! An HTTP client for registries and `ADD http://...`: names by our own resolver (a static binary has no other), TLS by
//! rustls, redirects by the caller.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sockets::Resolver;

/// A request's body.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A client with its pool of connections. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<HttpConnector<Resolver>>, Body>,
}

impl Client {
    /// A client that trusts the public authorities and `extra` ones (DER); with `insecure`, anybody.
    pub fn new(extra: &[rustls::pki_types::CertificateDer<'static>], insecure: bool) -> crate::Result<Self> {
        let config = if insecure {
            sockets::AnyCertificate::client_config().with_no_client_auth()
        } else {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|e| crate::Error::Registry(format!("TLS: {e}")))?;
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
