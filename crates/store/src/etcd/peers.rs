//! One HTTP/2 connection to one of several etcd members, made anew with another member when it fails.
//!
//! Names are looked up again for each connection, so that a member that has moved is found. Whether a request was sent at
//! all is always known: a connection is there before a request is given to it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::body::Body;

use crate::{Error, Result};

/// How long one member may take to be connected to.
const CONNECT: Duration = Duration::from_secs(5);
/// How long to wait before all members are tried once more: the first and the longest pause.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// A member that vanished says nothing: while something is asked of it, it is asked in between whether it lives. etcd
/// takes more than one such question in five seconds for an attack.
const PING: Duration = Duration::from_secs(10);

/// One member's address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Member {
    origin: Uri,
    host: String,
    port: u16,
    tls: bool,
}

/// A connection, as a service that tonic can use.
#[derive(Clone)]
pub(super) struct Wire {
    requests: SendRequest<Body>,
    /// Of which member it is.
    pub origin: Uri,
    generation: u64,
}

impl tower::Service<http::Request<Body>> for Wire {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.requests.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.requests.send_request(request))
    }
}

#[derive(Default)]
struct State {
    current: Option<Wire>,
    /// The member to try first.
    next: usize,
    generation: u64,
}

/// The members of one etcd cluster.
pub(super) struct Peers {
    members: Vec<Member>,
    tls: Option<Arc<rustls::ClientConfig>>,
    state: Mutex<State>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Peers {
    /// The members at these URLs, separated by commas.
    pub fn new(endpoints: &str, tls: Option<rustls::ClientConfig>) -> Result<Self> {
        let members: Vec<Member> = endpoints.split(',').map(member).collect::<Result<_>>()?;
        if tls.is_none() && members.iter().any(|m| m.tls) {
            return Err(Error::Config(format!(
                "datastore {endpoints:?}: https:// needs the certificate authority that etcd's certificate is of"
            )));
        }
        let tls = tls.map(|mut config| {
            config.alpn_protocols = vec![b"h2".to_vec()];
            Arc::new(config)
        });
        Ok(Self { members, tls, state: Mutex::default() })
    }

    /// The URLs of all members.
    pub fn origins(&self) -> Vec<String> {
        self.members.iter().map(|m| m.origin.to_string().trim_end_matches('/').to_owned()).collect()
    }

    /// The current connection, or a new one, which is tried for until `deadline`.
    pub async fn connection(&self, deadline: Instant) -> Result<Wire> {
        let mut state = self.state.lock().await;
        if let Some(wire) = &state.current
            && !wire.requests.is_closed()
        {
            return Ok(wire.clone());
        }
        let mut pause = PAUSE.0;
        loop {
            let mut failures = Vec::new();
            for _ in 0..self.members.len() {
                let member = &self.members[state.next % self.members.len()];
                match self.connect(member).await {
                    Ok(requests) => {
                        state.generation += 1;
                        let wire =
                            Wire { requests, origin: member.origin.clone(), generation: state.generation };
                        tracing::info!(member = %member.origin, "connected to etcd");
                        state.current = Some(wire.clone());
                        return Ok(wire);
                    }
                    Err(reason) => failures.push(format!("{}: {reason}", member.origin)),
                }
                state.next += 1;
            }
            let failures = failures.join("; ");
            if Instant::now() + pause >= deadline {
                return Err(Error::Backend(format!("no member of etcd answers: {failures}")));
            }
            tracing::debug!("no member of etcd answers: {failures}");
            // A timer, because a member that is not there does not say when it comes back.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// A connection to the member at `origin` alone, apart from the shared one.
    pub async fn connection_to(&self, origin: &str) -> Result<Wire> {
        let found = self.members.iter().find(|m| m.origin.to_string().trim_end_matches('/') == origin);
        let member = found.ok_or_else(|| Error::Config(format!("{origin} is not one of the members")))?;
        let requests = self.connect(member).await.map_err(|e| Error::Backend(format!("{origin}: {e}")))?;
        Ok(Wire { requests, origin: member.origin.clone(), generation: 0 })
    }

    /// Says that a connection, or the member behind it, is no good: the next request goes to the next member.
    pub async fn failed(&self, wire: &Wire) {
        let mut state = self.state.lock().await;
        if state.current.as_ref().is_some_and(|w| w.generation == wire.generation) {
            state.current = None;
            state.next += 1;
        }
    }

    async fn connect(&self, member: &Member) -> std::result::Result<SendRequest<Body>, String> {
        match tokio::time::timeout(CONNECT, self.handshake(member)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no connection within {CONNECT:?}")),
        }
    }

    async fn handshake(&self, member: &Member) -> std::result::Result<SendRequest<Body>, String> {
        let tcp = sockets::connect(&member.host, member.port).await.map_err(|e| e.to_string())?;
        // Requests are small and each is waited for.
        let _ = tcp.set_nodelay(true);
        let stream: Box<dyn Stream> = match &self.tls {
            Some(config) if member.tls => {
                let name = ServerName::try_from(member.host.clone()).map_err(|e| e.to_string())?;
                let connector = tokio_rustls::TlsConnector::from(config.clone());
                Box::new(connector.connect(name, tcp).await.map_err(|e| format!("TLS: {e}"))?)
            }
            _ => Box::new(tcp),
        };
        let (requests, connection) = Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(CONNECT)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| format!("HTTP/2: {e}"))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to etcd ended");
            }
        });
        Ok(requests)
    }
}

fn member(url: &str) -> Result<Member> {
    let wrong = |why: &str| Error::Config(format!("datastore {url:?}: {why}; write https://HOST:2379"));
    let url = url.trim();
    let uri: Uri =
        url.trim_end_matches('/').parse().map_err(|e: http::uri::InvalidUri| wrong(&e.to_string()))?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong("an etcd member's URL begins with https:// or http://")),
    };
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(wrong("an etcd member's URL has no path"));
    }
    let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(|| wrong("it names no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Member { host, port: uri.port_u16().unwrap_or(2379), tls, origin: uri })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let peers = Peers::new("http://a, http://[::1]:2380/", None).unwrap();
        assert_eq!((peers.members[0].host.as_str(), peers.members[0].port), ("a", 2379));
        assert_eq!((peers.members[1].host.as_str(), peers.members[1].port), ("::1", 2380));
        for (url, says) in [
            ("etcd:2379", "begins with https://"),
            ("http://a/b", "no path"),
            ("http://a,,http://b", "datastore \"\""),
            ("https://a", "needs the certificate authority"),
        ] {
            let e = Peers::new(url, None).err().unwrap().to_string();
            assert!(e.contains(says), "{url}: {e}");
        }
    }
}
