//! The proxy itself: one request in, one out to an endpoint of its backend.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use api::Value;
use bytes::Bytes;
use client::{Informer, index};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode, Uri, Version};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use parking_lot::RwLock;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::routes::{Backend, PortRef, Routes};

/// How long an endpoint may take to accept a connection before the next one is tried. A timer, because a machine that
/// is gone says nothing.
const CONNECT: Duration = Duration::from_secs(2);
/// How long a client may take over its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, hyper::Error>;

/// What every connection shares.
pub(crate) struct Shared {
    pub routes: RwLock<Arc<Routes>>,
    pub services: Arc<Informer>,
    pub slices: Arc<Informer>,
}

/// Accepts connections until `shutdown`; those that are open then may finish what they are at.
pub(crate) async fn accept(
    shared: Arc<Shared>,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shutdown: CancellationToken,
) {
    loop {
        let (stream, client) = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    sockets::accept_failed("ingress", &error).await;
                    continue;
                }
            },
        };
        if let Err(error) = sockets::keep_alive(&stream) {
            tracing::debug!("{client}: {error}");
        }
        let (shared, tls, shutdown) = (shared.clone(), tls.clone(), shutdown.clone());
        tokio::spawn(async move {
            match tls {
                None => serve(shared, stream, client.ip(), false, shutdown).await,
                Some(tls) => match timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => serve(shared, stream, client.ip(), true, shutdown).await,
                    Ok(Err(e)) => tracing::debug!("{client}: {e}"),
                    Err(_) => tracing::debug!("{client}: no TLS handshake within {HANDSHAKE:?}"),
                },
            }
        });
    }
}

async fn serve<S>(shared: Arc<Shared>, stream: S, client: IpAddr, secure: bool, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, std::convert::Infallible>(handle(&shared, request, client, secure).await) }
    });
    let builder = sockets::http();
    let connection = builder.serve_connection_with_upgrades(sockets::patient(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => {}
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn handle(shared: &Shared, request: Request<Incoming>, client: IpAddr, secure: bool) -> Response<Body> {
    let host = host_of(&request);
    let routes = shared.routes.read().clone();
    let Some(backend) = routes.route(&host, request.uri().path()) else {
        return say(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    let mut endpoints = endpoints(shared, backend);
    if endpoints.is_empty() {
        let text = format!("503 no endpoint of service {}/{} is ready\n", backend.namespace, backend.service);
        return say(StatusCode::SERVICE_UNAVAILABLE, &text);
    }
    for i in (1..endpoints.len()).rev() {
        endpoints.swap(i, base::rng::below(i as u64 + 1) as usize);
    }
    for endpoint in endpoints {
        match timeout(CONNECT, TcpStream::connect(endpoint)).await {
            Ok(Ok(stream)) => {
                return forward(request, stream, &host, client, secure).await.unwrap_or_else(|e| {
                    tracing::debug!("{endpoint}: {e}");
                    say(StatusCode::BAD_GATEWAY, "502 the endpoint broke the connection\n")
                });
            }
            Ok(Err(e)) => tracing::debug!("{endpoint}: {e}"),
            Err(_) => tracing::debug!("{endpoint}: no connection within {CONNECT:?}"),
        }
    }
    say(StatusCode::BAD_GATEWAY, "502 no endpoint accepts connections\n")
}

/// The host without its port.
fn host_of<B>(request: &Request<B>) -> String {
    let header = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    let authority = request.uri().authority().map(|a| a.as_str()).or(header).unwrap_or_default();
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.ends_with(':') => {
            host.to_owned()
        }
        _ => authority.to_owned(),
    }
}

/// The ready endpoints of a Service's port.
fn endpoints(shared: &Shared, backend: &Backend) -> Vec<SocketAddr> {
    let Some(service) = shared.services.get(&backend.namespace, &backend.service) else { return Vec::new() };
    let name = |p: &Value| p["name"].as_str().unwrap_or_default().to_owned();
    let wanted =
        service.at(&["spec", "ports"]).as_array().into_iter().flatten().find(|p| match &backend.port {
            PortRef::Name(n) => p["name"].as_str() == Some(n),
            PortRef::Number(n) => p["port"].as_u64() == Some(u64::from(*n)),
        });
    let Some(wanted) = wanted.map(name) else { return Vec::new() };
    let mut found = Vec::new();
    for slice in shared.slices.by_index(index::SERVICE, &format!("{}/{}", backend.namespace, backend.service))
    {
        let port = slice.at(&["ports"]).as_array().into_iter().flatten().find(|p| name(p) == wanted);
        let Some(port) = port.and_then(|p| p["port"].as_u64()).and_then(|p| u16::try_from(p).ok()) else {
            continue;
        };
        for e in slice.at(&["endpoints"]).as_array().into_iter().flatten() {
            if e.pointer("/conditions/ready").and_then(Value::as_bool) == Some(false) {
                continue;
            }
            let first = e["addresses"].get(0).and_then(Value::as_str).and_then(|a| a.parse::<IpAddr>().ok());
            found.extend(first.map(|ip| SocketAddr::new(ip, port)));
        }
    }
    found
}

async fn forward(
    mut request: Request<Incoming>,
    stream: TcpStream,
    host: &str,
    client: IpAddr,
    secure: bool,
) -> Result<Response<Body>, hyper::Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(e) = connection.with_upgrades().await {
            tracing::debug!("connection to an endpoint: {e}");
        }
    });
    let upgrade = request.headers().get(header::UPGRADE).cloned();
    let ours = hyper::upgrade::on(&mut request);
    let (mut parts, body) = request.into_parts();
    let authority = parts.uri.authority().map(|a| a.as_str().to_owned());
    let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
    parts.uri = path.parse().unwrap_or_else(|_| Uri::from_static("/"));
    parts.version = Version::HTTP_11;
    sockets::strip_hop_by_hop(&mut parts.headers);
    if let (Some(authority), false) = (authority, parts.headers.contains_key(header::HOST)) {
        set(&mut parts.headers, header::HOST, &authority);
    }
    if let Some(protocol) = &upgrade {
        parts.headers.insert(header::UPGRADE, protocol.clone());
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let chain = parts.headers.get("x-forwarded-for").and_then(|v| v.to_str().ok());
    let chain = chain.map_or_else(|| client.to_string(), |c| format!("{c}, {client}"));
    set(&mut parts.headers, HeaderName::from_static("x-forwarded-for"), &chain);
    set(&mut parts.headers, HeaderName::from_static("x-real-ip"), &client.to_string());
    set(&mut parts.headers, HeaderName::from_static("x-forwarded-host"), host);
    set(
        &mut parts.headers,
        HeaderName::from_static("x-forwarded-proto"),
        if secure { "https" } else { "http" },
    );
    let mut response = sender.send_request(Request::from_parts(parts, body)).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && upgrade.is_some() {
        let theirs = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(ours), Ok(theirs)) = (ours.await, theirs.await) {
                let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
                let _ = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await;
            }
        });
    } else {
        sockets::strip_hop_by_hop(response.headers_mut());
    }
    Ok(response.map(BodyExt::boxed))
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn say(status: StatusCode, text: &str) -> Response<Body> {
    let body = Full::new(Bytes::copy_from_slice(text.as_bytes())).map_err(|never| match never {}).boxed();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
