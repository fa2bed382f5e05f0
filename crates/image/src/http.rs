//! An HTTP client for registries and `ADD http://...`: names by our own resolver (a static binary has no other), TLS by
//! rustls, proxies as the environment says (`HTTPS_PROXY`, `HTTP_PROXY`, `NO_PROXY`), redirects by the caller.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Uri, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sockets::Resolver;
use tokio::net::TcpStream;

/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// An address that another one's answer gives.
pub(crate) fn resolve(base: &Uri, location: &str) -> crate::Result<Uri> {
    let bad = |e: &dyn std::fmt::Display| crate::Error::Registry(format!("redirect to {location:?}: {e}"));
    let uri: Uri = location.parse().map_err(|e| bad(&e))?;
    if uri.scheme().is_some() {
        return Ok(uri);
    }
    let mut parts = base.clone().into_parts();
    let path = if location.starts_with('/') {
        location.to_string()
    } else {
        let dir = base.path().rsplit_once('/').map_or("", |(d, _)| d);
        format!("{dir}/{location}")
    };
    parts.path_and_query = Some(path.parse().map_err(|e| bad(&e))?);
    Uri::from_parts(parts).map_err(|e| bad(&e))
}

/// A request's body.
pub type Body = BoxBody<Bytes, std::io::Error>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// Whom to trust, and who to be.
#[derive(Default)]
pub struct Tls {
    /// Authorities besides the public ones and the machine's own.
    pub authorities: Vec<CertificateDer<'static>>,
    /// A certificate chain to show, with its key.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// Take any certificate.
    pub insecure: bool,
}

impl Tls {
    /// Trusts the authorities in a file, too.
    pub fn trust_file(&mut self, path: &Path) -> crate::Result<()> {
        self.authorities.extend(certificates(path)?);
        Ok(())
    }

    /// Shows the certificate chain in one file, with its key in another.
    pub fn identity_files(&mut self, chain: &Path, key: &Path) -> crate::Result<()> {
        let secret = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
        self.identity = Some((certificates(chain)?, secret));
        Ok(())
    }
}

fn unreadable(path: &Path) -> impl FnOnce(rustls::pki_types::pem::Error) -> crate::Error {
    let path = path.display().to_string();
    move |e| crate::Error::Invalid(format!("{path}: {e}"))
}

fn certificates(path: &Path) -> crate::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(unreadable(path))
}

/// A client with its pool of connections. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    pool: Pool<HttpsConnector<Route>, Body>,
    proxies: Arc<Matcher>,
}

impl Client {
    /// A client that trusts the public authorities, the machine's own and `extra` ones (DER); with `insecure`, anybody.
    pub fn new(extra: &[CertificateDer<'static>], insecure: bool) -> crate::Result<Self> {
        Self::with(Tls { authorities: extra.to_vec(), identity: None, insecure })
    }

    /// A client with these ideas of trust, and the proxies of [`set_proxies`] or the environment.
    pub fn with(tls: Tls) -> crate::Result<Self> {
        Self::through(tls, proxies())
    }

    /// The same without any proxy.
    pub fn direct(tls: Tls) -> crate::Result<Self> {
        Self::through(tls, Matcher::builder().build())
    }

    fn through(tls: Tls, proxies: Matcher) -> crate::Result<Self> {
        let failed = |e: rustls::Error| crate::Error::Registry(format!("TLS: {e}"));
        let builder = if tls.insecure {
            sockets::AnyCertificate::client_config()
        } else {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            roots.add_parsable_certificates(crate::authorities::system());
            roots.add_parsable_certificates(tls.authorities);
            rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(failed)?
                .with_root_certificates(roots)
        };
        let config = match tls.identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).map_err(failed)?,
            None => builder.with_no_client_auth(),
        };
        let mut http = HttpConnector::new_with_resolver(Resolver::default());
        http.enforce_http(false);
        http.set_nodelay(true);
        // The protocol has no answer to wait for while a host does not reply at all: only time can tell.
        http.set_connect_timeout(Some(Duration::from_secs(30)));
        let proxies = Arc::new(proxies);
        let https = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(config)
            .https_or_http()
            .enable_http1()
            .wrap_connector(Route { http, proxies: proxies.clone() });
        let pool =
            Pool::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(30)).build(https);
        Ok(Self { pool, proxies })
    }

    /// Gets what is at an address, following redirects; an answer that is no success is an error.
    pub async fn get(&self, url: &str) -> crate::Result<http::Response<Incoming>> {
        let mut at: Uri = url.parse().map_err(|e| crate::Error::Invalid(format!("parse {url:?}: {e}")))?;
        for _ in 0..REDIRECTS {
            let host = at.authority().map(ToString::to_string).unwrap_or_default();
            let request = http::Request::get(at.clone())
                .header(header::HOST, host)
                .header(header::USER_AGENT, concat!("tug/", env!("CARGO_PKG_VERSION")))
                .body(full(""))
                .map_err(|e| crate::Error::Invalid(format!("{url}: {e}")))?;
            let response = self.send(request).await?;
            let status = response.status();
            let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
            match location.filter(|_| status.is_redirection()) {
                Some(location) => at = resolve(&at, location)?,
                None if status.is_success() => return Ok(response),
                None => {
                    return Err(crate::Error::Registry(format!("failed to GET {url} with status {status}")));
                }
            }
        }
        Err(crate::Error::Registry(format!("{url}: too many redirects")))
    }

    /// Sends a request. The error names the host and the deepest reason, in Go's words where Docker's users know them.
    pub async fn send(&self, mut request: http::Request<Body>) -> crate::Result<http::Response<Incoming>> {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        if uri.scheme() == Some(&http::uri::Scheme::HTTP)
            && let Some(auth) = proxy_for(&self.proxies, &uri).and_then(|p| p.basic_auth().cloned())
        {
            // Of an encrypted request the proxy sees the tunnel alone, and is told when that is dug.
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, auth);
        }
        self.pool.request(request).await.map_err(|e| {
            let mut reason: &dyn std::error::Error = &e;
            while let Some(source) = reason.source() {
                reason = source;
            }
            let mut text = reason.to_string();
            let mut unreachable = false;
            if let Some(io) = reason.downcast_ref::<std::io::Error>() {
                let host = uri.authority().map_or("", |a| a.as_str());
                use std::io::ErrorKind;
                unreachable = matches!(io.kind(), ErrorKind::ConnectionRefused | ErrorKind::NotFound);
                text = match io.kind() {
                    ErrorKind::ConnectionRefused => format!("dial tcp {host}: connect: connection refused"),
                    ErrorKind::TimedOut => format!("dial tcp {host}: i/o timeout"),
                    ErrorKind::NotFound => format!("dial tcp: {io}"),
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
            let text = format!("{verb} \"{uri}\": {text}");
            if unreachable { crate::Error::Unreachable(text) } else { crate::Error::Registry(text) }
        })
    }
}

/// `http`, `https` and `no` proxy that win over the environment's.
static PROXIES: parking_lot::RwLock<[String; 3]> =
    parking_lot::RwLock::new([String::new(), String::new(), String::new()]);

/// The proxies of this process, over those of its environment; what is empty stays the environment's. Holds for clients
/// that are made later.
pub fn set_proxies(http: &str, https: &str, no: &str) {
    *PROXIES.write() = [http, https, no].map(str::to_owned);
}

/// The proxies that hold: for `http`, for `https`, and what needs none.
pub fn proxies_in_use() -> [String; 3] {
    let environment = |names: [&str; 2]| names.iter().find_map(|n| std::env::var(n).ok()).unwrap_or_default();
    let of = [["HTTP_PROXY", "http_proxy"], ["HTTPS_PROXY", "https_proxy"], ["NO_PROXY", "no_proxy"]];
    let mut all = PROXIES.read().clone();
    for (own, names) in all.iter_mut().zip(of) {
        if own.is_empty() {
            *own = environment(names);
        }
    }
    all
}

fn proxies() -> Matcher {
    if PROXIES.read().iter().all(String::is_empty) {
        return Matcher::from_env();
    }
    let [http, https, no] = proxies_in_use();
    Matcher::builder().http(http).https(https).no(no).build()
}

/// The proxy for a request. This machine itself is never reached through one, as in Go.
fn proxy_for(proxies: &Matcher, uri: &Uri) -> Option<hyper_util::client::proxy::matcher::Intercept> {
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    if local { None } else { proxies.intercept(uri) }
}

/// Connects to the host itself, or to the proxy on the way to it.
#[derive(Clone)]
struct Route {
    http: HttpConnector<Resolver>,
    proxies: Arc<Matcher>,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl tower::Service<Uri> for Route {
    type Response = Stream;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Stream, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.http.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Some(proxy) = proxy_for(&self.proxies, &to) else {
            let connecting = self.http.call(to);
            return Box::pin(async move { Ok(Stream { io: connecting.await?, proxied: false }) });
        };
        let address = proxy.uri().clone();
        if to.scheme() == Some(&http::uri::Scheme::HTTPS) {
            let mut tunnel = Tunnel::new(address, self.http.clone());
            if let Some(auth) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(HeaderValue::clone(auth));
            }
            let digging = tower::Service::call(&mut tunnel, to);
            return Box::pin(async move { Ok(Stream { io: digging.await?, proxied: false }) });
        }
        let connecting = self.http.call(address);
        Box::pin(async move { Ok(Stream { io: connecting.await?, proxied: true }) })
    }
}

/// A connection, which knows whether a proxy at its other end wants to be told whole URLs.
struct Stream {
    io: TokioIo<TcpStream>,
    proxied: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.io.connected().proxy(self.proxied)
    }
}

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(cx, bufs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// A proxy that answers everything itself; what it was asked first goes to the channel.
    async fn proxy(answer: &'static str) -> (String, tokio::sync::mpsc::Receiver<String>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tx, rx) = tokio::sync::mpsc::channel(8);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut buf = vec![0u8; 4096];
                let n = stream.read(&mut buf).await.unwrap_or(0);
                let _ = tx.send(String::from_utf8_lossy(&buf[..n]).into_owned()).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (format!("http://ann:secret@{address}"), rx)
    }

    #[tokio::test]
    async fn goes_through_proxies() {
        let (url, mut asked) = proxy("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        let matcher = Matcher::builder().http(url.clone()).https(url).no("direct.example").build();
        let client = Client::through(Tls::default(), matcher).unwrap();
        let get = |uri: &str| http::Request::get(uri).header("host", "h").body(full("")).unwrap();
        let answer = client.send(get("http://registry.example/v2/")).await.unwrap();
        assert_eq!(answer.status(), 200);
        let first = asked.recv().await.unwrap().to_ascii_lowercase();
        assert!(first.starts_with("get http://registry.example/v2/ "), "{first}");
        assert!(first.contains("proxy-authorization: basic yw5uonnly3jlda=="), "{first}");
        // Of an encrypted one it sees the name alone; what it says then is no TLS.
        assert!(client.send(get("https://registry.example/v2/")).await.is_err());
        let first = asked.recv().await.unwrap().to_ascii_lowercase();
        assert!(first.starts_with("connect registry.example:443 ") && first.contains("proxy-authorization"));
        assert!(!first.contains("/v2/"));
        let uri = |s: &str| proxy_for(&client.proxies, &s.parse().unwrap()).is_some();
        assert!(uri("http://a.example/") && !uri("http://localhost:5000/") && !uri("http://[::1]/"));
        assert!(!uri("https://direct.example/"));
        set_proxies("http://proxy.example:3128", "", "inside.example");
        let through = |uri: &str| proxy_for(&proxies(), &uri.parse().unwrap()).map(|p| p.uri().to_string());
        assert_eq!(through("http://a.example/").as_deref(), Some("http://proxy.example:3128/"));
        assert_eq!(through("http://x.inside.example/"), None);
        set_proxies("", "", "");
    }
}
