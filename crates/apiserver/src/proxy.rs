//! Requests that lead on: to a kubelet (logs, exec, attach, port-forward, node proxy), to a pod, or behind a service.
//!
//! A kubelet is spoken to over TLS with the API server's client certificate, and its certificate must be of our authority.
//! Where the protocol is switched (SPDY, WebSocket), bytes are copied both ways and not looked at.

use std::sync::Arc;

use api::{Kind, Object, Status, Value};
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::ApiServer;
use crate::admission::{self, Operation, Review};
use crate::authz::Attributes;
use crate::body::{Body, BoxError};
use crate::cache::local_key;
use crate::metrics::Running;
use crate::pipeline::{Call, Payload};
use crate::pool::{Leased, Outgoing, Peer};
use crate::rewrite::Place;

/// How long a connection may take to come about. A peer that drops packets says nothing.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(10);

/// Headers that belong to one hop.
const HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

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
    fn new(host: String, port: u16, proof: Proof, path: String) -> Self {
        Self { host, port, proof, path, headers: HeaderMap::new() }
    }
}

fn text<'a>(v: &'a Value, pointer: &str) -> &'a str {
    v.pointer(pointer).and_then(Value::as_str).unwrap_or("")
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

/// Whether an address that a client may have written is one to be spoken to for him: this machine's own, and those of its
/// links, are not.
fn is_others(ip: &str) -> bool {
    api::validate::non_special_ip(ip).is_empty()
}

/// A connector that takes any certificate, for peers that are not to be verified by the user's own word.
fn unverified() -> tokio_rustls::TlsConnector {
    let config = sockets::AnyCertificate::client_config().with_no_client_auth();
    tokio_rustls::TlsConnector::from(Arc::new(config))
}

impl ApiServer {
    /// Answers a request on a connecting subresource.
    pub(crate) async fn connect(&self, call: Call, kind: &Arc<Kind>) -> Result<Response<Body>, Status> {
        let info = call.info.clone();
        let gvr = kind.gvr();
        let (namespace, sub) = (info.namespace.as_str(), info.subresource.as_str());
        let mut options = connect_options(&call);
        let mut warnings = Vec::new();
        let at = |v: &api::kinds::Version| v.group == info.group && v.version == info.version;
        let version = kind.versions.iter().position(at).unwrap_or(0);
        let known = kind.versions[version].subresource(sub);
        if sub != "proxy" && !known.is_some_and(|s| s.verbs.contains(&info.verb)) {
            return Err(Status::method_not_supported(&gvr, info.verb));
        }
        // A WebSocket begins with a GET: whoever may only read must not run anything by it.
        let runs = matches!(sub, "exec" | "attach" | "portforward");
        if runs && self.options.release >= api::Release::GET_NEEDS_CREATE {
            self.require(&Attributes { verb: "create", ..Attributes::of(&call.user, &info) })?;
        }
        let mut review = Review {
            server: self,
            user: &call.user,
            kind,
            gvr: &gvr,
            version,
            converter: None,
            subresource: sub,
            operation: Operation::Connect,
            namespace,
            name: &info.name,
            object: &mut options,
            old: None,
            dry_run: false,
            options: Value::Null,
            warnings: &mut warnings,
            notes: Vec::new(),
            charges: Vec::new(),
            rounds: admission::Rounds::default(),
        };
        // A log is read; the others are connections, whose options admission may change.
        if sub != "log" {
            admission::mutate(&self.admission, &mut review).await?;
            admission::validate(&self.admission, &mut review).await?;
        }
        let safe = matches!(*call.request.method(), http::Method::GET | http::Method::HEAD);
        if sub == "proxy"
            && info.path.ends_with("/proxy")
            && safe
            && upgrade_of(call.request.headers()).is_none()
        {
            // A page's relative links lead inside it only if its path ends with a slash.
            let query = call.request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            if let Ok(to) = header::HeaderValue::from_str(&format!("{}/{query}", info.path)) {
                response.headers_mut().insert(header::LOCATION, to);
            }
            return Ok(response);
        }
        let target = match (gvr.resource.as_ref(), sub) {
            ("pods", "proxy") => self.pod_target(&call)?,
            ("pods", _) => self.container_target(&call, &options)?,
            ("services", "proxy") => self.service_target(&call)?,
            ("nodes", "proxy") => {
                let (_, name, port) = split_name(&info.name);
                let (host, kubelet) = self.kubelet(&name)?;
                let port = port.and_then(|p| p.parse().ok()).unwrap_or(kubelet);
                Target::new(host, port, Proof::Node, rest_path(&call))
            }
            _ => return Err(Status::no_such_path()),
        };
        if sub != "proxy" {
            return self.forward(call, target).await;
        }
        let place = place_of(&call, &target);
        // What is compressed cannot be looked into.
        let mut call = call;
        call.request.headers_mut().remove(header::ACCEPT_ENCODING);
        let mut response = self.forward(call, target).await?;
        let headers = response.headers_mut();
        if let Some(to) = headers.get(header::LOCATION).and_then(|v| v.to_str().ok())
            && let Ok(to) = header::HeaderValue::from_str(&place.url(to))
        {
            headers.insert(header::LOCATION, to);
        }
        let of = |name| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
        let page = of(header::CONTENT_TYPE).trim_start().starts_with("text/html");
        if page
            && of(header::CONTENT_ENCODING).is_empty()
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            return Ok(rewritten(response, &place).await);
        }
        Ok(response)
    }

    /// A node's address and its kubelet's port.
    fn kubelet(&self, node: &str) -> Result<(String, u16), Status> {
        let gvr = api::names::gvr::NODES;
        let object = self.cache.kind("", "nodes").get(node).ok_or_else(|| Status::not_found(&gvr, node))?;
        let addresses =
            object.status().get("addresses").and_then(Value::as_array).cloned().unwrap_or_default();
        let of = |kind: &str| {
            addresses.iter().find(|a| text(a, "/type") == kind).map(|a| text(a, "/address").to_owned())
        };
        let host = of("InternalIP").or_else(|| of("Hostname")).or_else(|| of("ExternalIP"));
        let host = host.ok_or_else(|| Status::internal(format!("no address known for node \"{node}\"")))?;
        let port =
            object.value().pointer("/status/daemonEndpoints/kubeletEndpoint/Port").and_then(Value::as_u64);
        Ok((host, port.and_then(|p| u16::try_from(p).ok()).unwrap_or(10250)))
    }

    fn pod(&self, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        self.cache
            .kind("", "pods")
            .get(&local_key(namespace, name))
            .ok_or_else(|| Status::not_found(&api::names::gvr::PODS, name))
    }

    /// Logs, exec, attach, port-forward; `options` are those that admission has let pass.
    fn container_target(&self, call: &Call, options: &Value) -> Result<Target, Status> {
        let info = &call.info;
        let pod = self.pod(&info.namespace, &info.name)?;
        let spec = pod.spec();
        let query = &call.query;
        let mut pairs: Vec<(String, String)> = Vec::new();
        let mut path = match info.subresource.as_str() {
            "portforward" => {
                let ports = options.get("ports").and_then(Value::as_array).into_iter().flatten();
                for port in ports.filter_map(Value::as_i64).map(|p| p.to_string()) {
                    pairs.push(("port".into(), port.clone()));
                    pairs.push(("ports".into(), port));
                }
                format!("/portForward/{}/{}", info.namespace, info.name)
            }
            sub => {
                let container = container_of(&pod, text(options, "/container"))?;
                let verb = if sub == "log" { "containerLogs" } else { sub };
                format!("/{verb}/{}/{}/{container}", info.namespace, info.name)
            }
        };
        match info.subresource.as_str() {
            "log" => {
                for key in [
                    "follow",
                    "previous",
                    "sinceSeconds",
                    "sinceTime",
                    "timestamps",
                    "tailLines",
                    "limitBytes",
                    "insecureSkipTLSVerifyBackend",
                    "stream",
                ] {
                    if let Some(v) = query.some(key) {
                        if matches!(key, "sinceSeconds" | "tailLines" | "limitBytes")
                            && v.parse::<i64>().map_or(true, |n| n < i64::from(key != "tailLines"))
                        {
                            return Err(Status::failure(
                                422,
                                "Invalid",
                                format!(
                                    "PodLogOptions \"{}\" is invalid: {key}: Invalid value: {v}: must be greater than 0",
                                    info.name
                                ),
                            ));
                        }
                        pairs.push((key.to_owned(), v.to_owned()));
                    }
                }
            }
            "exec" | "attach" => {
                let on = |name: &str| options.get(name).and_then(Value::as_bool) == Some(true);
                let command = options.get("command").and_then(Value::as_array);
                let any = ["stdin", "stdout", "stderr"].iter().any(|k| on(k));
                if !any {
                    return Err(Status::bad_request(
                        "you must specify at least one of stdin, stdout, stderr",
                    ));
                }
                if info.subresource == "exec" && command.is_none_or(Vec::is_empty) {
                    return Err(Status::bad_request("you must specify command for exec"));
                }
                for (ours, theirs) in
                    [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")]
                {
                    if on(ours) {
                        pairs.push((theirs.to_owned(), "1".to_owned()));
                    }
                }
                let words = command.into_iter().flatten().filter_map(Value::as_str);
                pairs.extend(words.map(|c| ("command".to_owned(), c.to_owned())));
            }
            _ => {}
        }
        let node = text(spec, "/nodeName");
        if node.is_empty() {
            return Err(Status::bad_request(format!("pod {} does not have a host assigned", info.name)));
        }
        let (host, port) = self.kubelet(node)?;
        if !pairs.is_empty() {
            let encode = |s: &str| {
                percent_encoding::utf8_percent_encode(s, percent_encoding::NON_ALPHANUMERIC).to_string()
            };
            let query: Vec<String> =
                pairs.iter().map(|(k, v)| format!("{}={}", encode(k), encode(v))).collect();
            path = format!("{path}?{}", query.join("&"));
        }
        Ok(Target::new(host, port, Proof::Node, path))
    }

    fn pod_target(&self, call: &Call) -> Result<Target, Status> {
        let (scheme, name, port) = split_name(&call.info.name);
        let pod = self.pod(&call.info.namespace, &name)?;
        let host = text(pod.status(), "/podIP").to_owned();
        if host.is_empty() {
            return Err(Status::unavailable(format!(
                "no endpoints available for pod \"{name}\": it has no address yet"
            )));
        }
        if !is_others(&host) {
            let why = format!("address not allowed: pod \"{name}\" says that it is at {host}");
            return Err(Status::bad_request(why));
        }
        let ports = || {
            let containers = pod.spec().get("containers").and_then(Value::as_array);
            containers
                .into_iter()
                .flatten()
                .flat_map(|c| c.get("ports").and_then(Value::as_array).into_iter().flatten())
        };
        let number = |p: &Value| p.get("containerPort").and_then(Value::as_u64);
        let port = match port {
            None => ports().find_map(number).unwrap_or(80),
            Some(p) => match p.parse() {
                Ok(n) => n,
                Err(_) => ports().find(|q| text(q, "/name") == p).and_then(number).ok_or_else(|| {
                    Status::bad_request(format!("pod \"{name}\" has no port named \"{p}\""))
                })?,
            },
        };
        let port = u16::try_from(port).map_err(|_| Status::bad_request("invalid port"))?;
        Ok(Target::new(host, port, self.proof_of(&scheme), rest_path(call)))
    }

    fn service_target(&self, call: &Call) -> Result<Target, Status> {
        let (scheme, name, wanted) = split_name(&call.info.name);
        let (host, port) = self.endpoint_of(&call.info.namespace, &name, wanted.as_deref())?;
        Ok(Target::new(host, port, self.proof_of(&scheme), rest_path(call)))
    }

    /// The address of one of a service's ready endpoints, for the port of that name or number (or its only one, or 80).
    pub(crate) fn endpoint_of(
        &self,
        namespace: &str,
        name: &str,
        wanted: Option<&str>,
    ) -> Result<(String, u16), Status> {
        let key = local_key(namespace, name);
        let service = self
            .cache
            .kind("", "services")
            .get(&key)
            .ok_or_else(|| Status::not_found(&api::names::gvr::SERVICES, name))?;
        let ports = service.spec().get("ports").and_then(Value::as_array).cloned().unwrap_or_default();
        let number = |p: &Value| p.get("port").and_then(Value::as_u64);
        let port = match wanted {
            None if ports.len() == 1 => ports.first(),
            None => ports.iter().find(|p| number(p) == Some(80)).or(ports.first()),
            Some(w) => {
                ports.iter().find(|p| text(p, "/name") == w || number(p).is_some_and(|n| n.to_string() == w))
            }
        };
        let none = || Status::unavailable(format!("no endpoints available for service \"{name}\""));
        let Some(port) = port else {
            let wanted = wanted.unwrap_or_default();
            return Err(Status::unavailable(format!(
                "no service port \"{wanted}\" found for service \"{name}\""
            )));
        };
        let port_name = text(port, "/name");
        let endpoints = self.cache.kind("", "endpoints").get(&key).ok_or_else(none)?;
        let mut candidates = Vec::new();
        for subset in endpoints.value().get("subsets").and_then(Value::as_array).into_iter().flatten() {
            let mut ports = subset.get("ports").and_then(Value::as_array).into_iter().flatten();
            let found = ports.find(|p| text(p, "/name") == port_name).and_then(number);
            let Some(n) = found.and_then(|n| u16::try_from(n).ok()) else { continue };
            for address in subset.get("addresses").and_then(Value::as_array).into_iter().flatten() {
                let ip = text(address, "/ip");
                if is_others(ip) {
                    candidates.push((ip.to_owned(), n));
                }
            }
        }
        if candidates.is_empty() {
            return Err(none());
        }
        let at = usize::try_from(base::rng::below(candidates.len() as u64)).unwrap_or(0);
        Ok(candidates.swap_remove(at))
    }

    /// Pods and services speak plain text unless they are asked for by `https:`; then nobody knows who signed for them.
    fn proof_of(&self, scheme: &str) -> Proof {
        if scheme != "https" {
            return Proof::Plain;
        }
        Proof::Named(unverified(), "localhost".to_owned())
    }

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
            tokio::spawn(async move {
                // The request lasts as long as the connection does.
                let _running = running;
                let (Ok(a), Ok(b)) = tokio::join!(client_side, node_side) else { return };
                let (mut a, mut b) = (TokioIo::new(a), TokioIo::new(b));
                if let Err(error) = tokio::io::copy_bidirectional(&mut a, &mut b).await {
                    tracing::debug!(%error, "upgraded connection ended");
                }
            });
            let (parts, _) = response.into_parts();
            return Ok(Response::from_parts(parts, Body::default()));
        }
        let (mut parts, body) = response.into_parts();
        strip(&mut parts.headers);
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

/// Larger pages are passed on as they are.
const MAX_PAGE: usize = 8 << 20;

/// Where what is behind a proxy is, for its clients and for us.
fn place_of(call: &Call, target: &Target) -> Place {
    let path = call.request.uri().path();
    let prefix = path.strip_suffix(call.info.rest.as_str()).unwrap_or(path).trim_end_matches('/');
    let mut hosts = vec![format!("{}:{}", target.host, target.port), target.host.clone()];
    hosts.extend(call.request.uri().authority().map(ToString::to_string));
    hosts.push(call.header("host").to_owned());
    hosts.retain(|h| !h.is_empty());
    Place { prefix: prefix.to_owned(), hosts }
}

/// The page with its links changed.
async fn rewritten(response: Response<Body>, place: &Place) -> Response<Body> {
    let (mut parts, mut body) = response.into_parts();
    let mut page = Vec::new();
    while page.len() <= MAX_PAGE {
        match body.frame().await {
            Some(Ok(frame)) => page.extend_from_slice(&frame.into_data().unwrap_or_default()),
            Some(Err(e)) => {
                let broken = futures::stream::iter([Ok(bytes::Bytes::from(page)), Err(e)]);
                return Response::from_parts(parts, Body::Stream(Box::pin(broken)));
            }
            None => {
                let page = match String::from_utf8(page) {
                    Ok(text) => place.html(&text).into_bytes(),
                    Err(other) => other.into_bytes(),
                };
                parts.headers.remove(header::CONTENT_LENGTH);
                return Response::from_parts(parts, Body::from(page));
            }
        }
    }
    let rest = futures::StreamExt::chain(
        futures::stream::iter([Ok(bytes::Bytes::from(page))]),
        body.into_data_stream(),
    );
    Response::from_parts(parts, Body::Stream(Box::pin(rest)))
}

/// What is asked for, as the object that admission sees.
fn connect_options(call: &Call) -> Value {
    let (info, query) = (&call.info, &call.query);
    let of = match info.resource.as_str() {
        "pods" => "Pod",
        "services" => "Service",
        _ => "Node",
    };
    let kind = match info.subresource.as_str() {
        "exec" => "Exec",
        "attach" => "Attach",
        "portforward" => "PortForward",
        "log" => "Log",
        _ => "Proxy",
    };
    let mut options = serde_json::json!({"kind": format!("{of}{kind}Options"), "apiVersion": "v1"});
    if let Some(container) = query.some("container").filter(|_| matches!(kind, "Exec" | "Attach" | "Log")) {
        options["container"] = container.into();
    }
    match kind {
        "Exec" | "Attach" => {
            for name in ["stdin", "stdout", "stderr", "tty"].into_iter().filter(|n| query.flag(n)) {
                options[name] = true.into();
            }
            let command: Vec<&str> = query.all("command").collect();
            if !command.is_empty() {
                options["command"] = command.into();
            }
        }
        "PortForward" => {
            let ports: Vec<i64> = query.all("ports").filter_map(|p| p.parse().ok()).collect();
            if !ports.is_empty() {
                options["ports"] = ports.into();
            }
        }
        "Proxy" => options["path"] = call.info.rest.as_str().into(),
        _ => {}
    }
    options
}

/// The protocol a request wants to switch to.
fn upgrade_of(headers: &HeaderMap) -> Option<header::HeaderValue> {
    let wants = headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|v| v.to_str().is_ok_and(|v| v.split(',').any(|t| t.trim().eq_ignore_ascii_case("upgrade"))));
    headers.get(header::UPGRADE).filter(|_| wants).cloned()
}

/// The headers that go on: without what was meant for us, and with who asks. Nothing that the client says of who it is may
/// stand beside that: the peer takes our certificate as proof of all of it.
fn outgoing(mut headers: HeaderMap, target: &Target) -> HeaderMap {
    strip(&mut headers);
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

fn strip(headers: &mut HeaderMap) {
    for name in HOP {
        headers.remove(name);
    }
    headers.remove(header::UPGRADE);
    headers.remove("keep-alive");
}

/// `https:name:port`, `name:port`, `name`: scheme, name, port.
fn split_name(name: &str) -> (String, String, Option<String>) {
    let parts: Vec<&str> = name.split(':').collect();
    let port = |p: &str| (!p.is_empty()).then(|| p.to_owned());
    match parts[..] {
        [scheme, name, p] => (scheme.to_owned(), name.to_owned(), port(p)),
        [name, p] => (String::new(), name.to_owned(), port(p)),
        _ => (String::new(), name.to_owned(), None),
    }
}

/// The path behind `/proxy`, with the query.
fn rest_path(call: &Call) -> String {
    let mut path = format!("/{}", call.info.rest);
    if let Some(query) = call.request.uri().query() {
        path = format!("{path}?{query}");
    }
    path
}

/// The container meant: the one named, the only one, the one an annotation names, or the first.
fn container_of(pod: &Object, named: &str) -> Result<String, Status> {
    let spec = pod.spec();
    let names = |list: &str| {
        let items = spec.get(list).and_then(Value::as_array);
        items.into_iter().flatten().map(|c| text(c, "/name").to_owned()).collect::<Vec<_>>()
    };
    let containers = names("containers");
    let init = names("initContainers");
    let ephemeral = names("ephemeralContainers");
    if !named.is_empty() {
        if containers.iter().chain(&init).chain(&ephemeral).any(|c| c == named) {
            return Ok(named.to_owned());
        }
        return Err(Status::bad_request(format!("container {named} is not valid for pod {}", pod.name())));
    }
    if let [only] = &containers[..] {
        return Ok(only.clone());
    }
    if let Some(default) = pod.annotation("kubectl.kubernetes.io/default-container")
        && containers.iter().any(|c| c == default)
    {
        return Ok(default.to_owned());
    }
    let choose = format!("choose one of: [{}]", containers.join(" "));
    let init = if init.is_empty() {
        String::new()
    } else {
        format!(" or one of the init containers: [{}]", init.join(" "))
    };
    Err(Status::bad_request(format!(
        "a container name must be specified for pod {}, {choose}{init}",
        pod.name()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_with_scheme_and_port() {
        let some = |s: &str| Some(s.to_owned());
        assert_eq!(split_name("a"), (String::new(), "a".into(), None));
        assert_eq!(split_name("a:80"), (String::new(), "a".into(), some("80")));
        assert_eq!(split_name("https:a:web"), ("https".into(), "a".into(), some("web")));
        assert_eq!(split_name("https:a:"), ("https".into(), "a".into(), None));
    }

    fn call(uri: &str) -> Call {
        let request = Request::get(uri).header("host", "server:6443");
        let request = request.body(Payload::Bytes(bytes::Bytes::new())).unwrap();
        let (_, info) = crate::path::RequestInfo::parse(request.method(), request.uri().path(), false);
        let query = crate::query::Query::parse(request.uri().query());
        Call { user: Arc::new(crate::UserInfo::master("a")), info, query, request }
    }

    #[test]
    fn admission_sees_what_a_connection_asks_for() {
        for (uri, want) in [
            (
                "/api/v1/namespaces/n/pods/p/attach?stdin=true&container=c&tty=false",
                json!({"kind": "PodAttachOptions", "apiVersion": "v1", "stdin": true, "container": "c"}),
            ),
            (
                "/api/v1/namespaces/n/pods/p/exec?command=ls&command=-l&stdout=1",
                json!({"kind": "PodExecOptions", "apiVersion": "v1", "stdout": true, "command": ["ls", "-l"]}),
            ),
            (
                "/api/v1/namespaces/n/pods/p/portforward?ports=80",
                json!({"kind": "PodPortForwardOptions", "apiVersion": "v1", "ports": [80]}),
            ),
            (
                "/api/v1/namespaces/n/services/s/proxy/x/y",
                json!({"kind": "ServiceProxyOptions", "apiVersion": "v1", "path": "x/y"}),
            ),
        ] {
            assert_eq!(connect_options(&call(uri)), want, "{uri}");
        }
    }

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

    #[test]
    fn pages_are_placed_behind_their_proxy() {
        let target = Target::new("10.0.0.1".into(), 80, Proof::Plain, "/x".into());
        for uri in [
            "/api/v1/namespaces/proxy-1/pods/p/proxy/",
            "/api/v1/namespaces/proxy-1/pods/p/proxy/a/proxy/b",
            "/api/v1/namespaces/proxy-1/pods/p/proxy/a/",
        ] {
            let place = place_of(&call(uri), &target);
            assert_eq!(place.prefix, "/api/v1/namespaces/proxy-1/pods/p/proxy", "{uri}");
            assert_eq!(place.hosts, ["10.0.0.1:80", "10.0.0.1", "server:6443"]);
        }
    }

    #[test]
    fn containers_are_chosen_or_asked_for() {
        let one =
            Object::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}}));
        assert_eq!(container_of(&one, "").unwrap(), "a");
        let why = container_of(&one, "nope").unwrap_err().message;
        assert_eq!(why, "container nope is not valid for pod p");
        let two = Object::from_value(
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}}),
        );
        let why = container_of(&two, "").unwrap_err().message;
        assert_eq!(why, "a container name must be specified for pod p, choose one of: [a b]");
        assert_eq!(container_of(&two, "b").unwrap(), "b");
    }
}
