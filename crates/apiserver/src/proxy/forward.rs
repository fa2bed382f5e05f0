//! Sending a request on to where it leads, and bringing the answer back. Where the protocol is switched (SPDY, WebSocket), bytes
//! are copied both ways (see [`super::relay`]).

use std::sync::Arc;

use api::Status;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::relay::relay;
use crate::ApiServer;
use crate::body::{Body, BoxError};
use crate::metrics::Running;
use crate::pipeline::{Call, Payload};
use crate::pool::{Leased, Outgoing, Peer};

/// How long a connection may take to come about. A peer that drops packets says nothing.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(10);

/// What begins the names of headers that say who asks, to servers that trust our certificate.
pub(crate) const IDENTITY: &str = "x-remote-";

/// Makes connections to kubelets.
pub struct Dialer(tokio_rustls::TlsConnector);

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How the peer is to prove who it is.
#[derive(Clone)]
pub(crate) enum Proof {
    /// Not at all: plain text.
    Plain,
    /// By a certificate of our authority for its address: kubelets.
    Node,
    /// By a certificate for this name, as the connector judges it.
    Named(tokio_rustls::TlsConnector, String),
    /// As the peer is to prove it to whoever has a connection to it already.
    Kept(Peer),
}

/// Where a request leads.
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) proof: Proof,
    /// Path and query.
    pub(crate) path: String,
    /// Headers that say who asks; none of a peer that is not told.
    pub(crate) headers: HeaderMap,
}

impl Target {
    pub(super) fn new(host: String, port: u16, proof: Proof, path: String) -> Self {
        Self { host, port, proof, path, headers: HeaderMap::new() }
    }
}

impl Dialer {
    /// A dialer that shows the given identity.
    pub fn new(config: rustls::ClientConfig) -> Self {
        Self(tokio_rustls::TlsConnector::from(Arc::new(config)))
    }

    async fn connect(&self, target: &Target) -> Result<Box<dyn Stream>, Status> {
        let tls = match &target.proof {
            Proof::Plain | Proof::Kept(_) => None,
            Proof::Node => Some((&self.0, target.host.as_str())),
            Proof::Named(connector, name) => Some((connector, name.as_str())),
        };
        dial(&target.host, target.port, tls).await.map_err(|e| {
            Status::failure(
                500,
                "InternalError",
                format!("error dialing backend: dial tcp {}:{}: {e}", target.host, target.port),
            )
        })
    }
}

/// Connects to a host, with TLS under the given server name if asked to.
pub(crate) async fn dial(
    host: &str,
    port: u16,
    tls: Option<(&tokio_rustls::TlsConnector, &str)>,
) -> std::io::Result<Box<dyn Stream>> {
    let dial = async {
        let stream = sockets::connect(host, port).await?;
        let _ = stream.set_nodelay(true);
        let Some((connector, name)) = tls else {
            return Ok(Box::new(stream) as Box<dyn Stream>);
        };
        let name = ServerName::try_from(name.to_owned())
            .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e))?;
        Ok(Box::new(connector.connect(name, stream).await?) as Box<dyn Stream>)
    };
    match tokio::time::timeout(CONNECT, dial).await {
        Ok(connected) => connected,
        Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "i/o timeout")),
    }
}

impl ApiServer {
    /// Sends the request on and brings the answer back.
    pub(crate) async fn forward(&self, call: Call, target: Target) -> Result<Response<Body>, Status> {
        let mut request = call.request;
        let upgrade = upgrade_of(request.headers());
        let client_side = upgrade.as_ref().map(|_| hyper::upgrade::on(&mut request));
        let (mut parts, payload) = request.into_parts();
        let running = parts.extensions.remove::<Arc<Running>>();
        let mut headers = outgoing(parts.headers, &target);
        let host = format!("{}:{}", target.host, target.port);
        if let Ok(value) = header::HeaderValue::from_str(&host) {
            headers.insert(header::HOST, value);
        }
        if let Some(protocol) = &upgrade {
            headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, protocol.clone());
        }
        let body: Outgoing = match payload {
            Payload::Incoming(_) if upgrade.is_some() => Empty::new().map_err(|e| match e {}).boxed_unsync(),
            Payload::Incoming(body) => body.map_err(|e| -> BoxError { Box::new(e) }).boxed_unsync(),
            Payload::Bytes(bytes) => Full::new(bytes).map_err(|e| match e {}).boxed_unsync(),
        };
        let mut outgoing = Request::new(body);
        *outgoing.method_mut() = parts.method;
        *outgoing.headers_mut() = headers;
        *outgoing.uri_mut() =
            target.path.parse().map_err(|e| Status::bad_request(format!("{}: {e}", target.path)))?;
        let (mut response, lease) = match &target.proof {
            Proof::Kept(peer) => {
                let sent = self.pool.send(peer, outgoing).await;
                let (response, lease) = sent.map_err(|failed| unreachable(&failed.why))?;
                (response, Some(lease))
            }
            _ => (self.send_once(&target, outgoing).await?, None),
        };
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let Some(client_side) = client_side else {
                return Err(Status::internal("the backend switched protocols without being asked to"));
            };
            let node_side = hyper::upgrade::on(&mut response);
            let websocket = upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
            tokio::spawn(async move {
                // The request lasts as long as the connection does.
                let _running = running;
                let (Ok(client), Ok(node)) = tokio::join!(client_side, node_side) else { return };
                if let Err(error) = relay(TokioIo::new(client), TokioIo::new(node), websocket).await {
                    tracing::debug!(%error, "upgraded connection ended");
                }
            });
            let (parts, _) = response.into_parts();
            return Ok(Response::from_parts(parts, Body::default()));
        }
        let (mut parts, body) = response.into_parts();
        sockets::strip_hop_by_hop(&mut parts.headers);
        let body = match lease {
            Some(lease) => Leased::new(body, lease).map_err(|e| -> BoxError { Box::new(e) }).boxed_unsync(),
            None => body.map_err(|e| -> BoxError { Box::new(e) }).boxed_unsync(),
        };
        Ok(Response::from_parts(parts, Body::Proxied(body)))
    }

    /// Sends a request over a connection of its own.
    async fn send_once(
        &self,
        target: &Target,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, Status> {
        let stream = self.nodes.connect(target).await?;
        let failed = |e: hyper::Error| unreachable(&e.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "proxied connection ended");
            }
        });
        sender.send_request(request).await.map_err(failed)
    }
}

fn unreachable(why: &str) -> Status {
    Status::failure(503, "ServiceUnavailable", format!("error trying to reach service: {why}"))
}

/// The protocol a request wants to switch to.
pub(super) fn upgrade_of(headers: &HeaderMap) -> Option<header::HeaderValue> {
    let wants = headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|v| v.to_str().is_ok_and(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case("upgrade"))));
    headers.get(header::UPGRADE).filter(|_| wants).cloned()
}

/// The headers that go on: without what was meant for us, and with who asks. Nothing that the client says of who it is may
/// stand beside that: the peer takes our certificate as proof of all of it.
fn outgoing(mut headers: HeaderMap, target: &Target) -> HeaderMap {
    sockets::strip_hop_by_hop(&mut headers);
    for name in [header::AUTHORIZATION, header::HOST] {
        headers.remove(name);
    }
    let ours = |name: &str| {
        name.starts_with("impersonate-") || !target.headers.is_empty() && name.starts_with(IDENTITY)
    };
    let dropped: Vec<HeaderName> = headers.keys().filter(|k| ours(k.as_str())).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
    headers.extend(target.headers.clone());
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_says_nothing_of_who_it_is() {
        let mut given = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer t"),
            ("impersonate-user", "a"),
            ("x-remote-uid", "0"),
            ("x-remote-extra-scopes", "all"),
            ("x-remote-group", "system:masters"),
            ("accept", "text/html"),
        ] {
            given.append(HeaderName::from_static(name), header::HeaderValue::from_static(value));
        }
        let mut target = Target::new("10.0.0.1".into(), 443, Proof::Plain, "/x".into());
        let names = |headers: HeaderMap| -> Vec<String> {
            let mut names: Vec<String> = headers.keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        // What a pod makes of such headers is its own matter: it is not told who asks.
        let plain = names(outgoing(given.clone(), &target));
        assert_eq!(plain, ["accept", "x-remote-extra-scopes", "x-remote-group", "x-remote-uid"]);
        target.headers.append("x-remote-user", header::HeaderValue::from_static("ann"));
        assert_eq!(names(outgoing(given, &target)), ["accept", "x-remote-user"]);
    }
}
