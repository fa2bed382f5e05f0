//! The kubelet's HTTPS server: what the API server asks a node for, and what monitoring reads.
//!
//! Promises: nobody without a certificate of the cluster's authority gets an answer; who is not of `system:masters` needs
//! the permission on `nodes/...` that upstream demands, asked of the API server.

mod logs;
mod stats;
mod streams;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use client::gvr;
use hyper_util::service::TowerToHyperService;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::pod::registry::Known;
use crate::{Error, Result};

/// Who asks, by its certificate.
#[derive(Debug, Clone)]
struct User {
    name: String,
    groups: Vec<String>,
}

type Shared = State<Arc<Context>>;

/// Takes the port.
pub async fn bind(context: &Context) -> Result<TcpListener> {
    let port = context.options.instance.kubelet_port;
    TcpListener::bind(("0.0.0.0", port)).await.map_err(Error::io(format!(
        "cannot listen on port {port} for the kubelet (another kubelet, or another instance?)"
    )))
}

/// A handshake that takes longer is given up, so that silent peers cost nothing. No event tells that nothing will come.
const HANDSHAKE: std::time::Duration = std::time::Duration::from_secs(10);

/// Answers until `shutdown`. Streams that go on then are cut: their clients begin anew.
pub async fn serve(context: Arc<Context>, listener: TcpListener, shutdown: CancellationToken) {
    let acceptor = TlsAcceptor::from(context.options.tls.clone());
    let router = router(context);
    loop {
        let socket = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(error) => {
                    sockets::accept_failed("the kubelet", &error).await;
                    continue;
                }
            },
        };
        let (acceptor, router, shutdown) = (acceptor.clone(), router.clone(), shutdown.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = connection(socket, acceptor, router) => {}
            }
        });
    }
}

async fn connection(socket: TcpStream, acceptor: TlsAcceptor, router: Router) {
    if let Err(error) = socket.set_nodelay(true).and_then(|()| sockets::keep_alive(&socket)) {
        tracing::debug!(%error, "a connection's options");
    }
    let stream = match tokio::time::timeout(HANDSHAKE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake with the kubelet failed");
            return;
        }
        Err(_) => {
            tracing::debug!("a TLS handshake with the kubelet took too long");
            return;
        }
    };
    let user = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).map(pki::user_of_certificate);
    let user = match user {
        Some(Ok((name, groups))) => Some(User { name, groups }),
        _ => None,
    };
    let service = TowerToHyperService::new(router.layer(axum::Extension(user)));
    let connection = sockets::http().serve_connection_with_upgrades(sockets::patient(stream), service).await;
    if let Err(error) = connection {
        tracing::debug!(%error, "a connection to the kubelet ended");
    }
}

fn router(context: Arc<Context>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/healthz/{*rest}", get(|| async { "ok" }))
        .route("/pods", get(pods))
        .route("/runningpods/", get(running_pods))
        .route("/runningpods", get(running_pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(logs::serve))
        .route("/exec/{namespace}/{pod}/{container}", any(streams::exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(streams::exec_uid))
        .route("/attach/{namespace}/{pod}/{container}", any(streams::attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(streams::attach_uid))
        .route("/run/{namespace}/{pod}/{container}", any(streams::run))
        .route("/portForward/{namespace}/{pod}", any(streams::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(streams::port_forward_uid))
        .route("/stats/summary", any(stats::summary))
        .route("/metrics", get(stats::metrics))
        .route("/metrics/resource", get(stats::resource))
        .route("/metrics/cadvisor", get(stats::cadvisor))
        .layer(axum::middleware::from_fn_with_state(context.clone(), authorize))
        .with_state(context)
}

/// The sub-resource of `nodes` that a path needs permission for.
fn subresource(path: &str) -> &'static str {
    match path.split('/').nth(1).unwrap_or_default() {
        "stats" => "stats",
        "metrics" => "metrics",
        "logs" => "log",
        _ => "proxy",
    }
}

async fn authorize(State(context): Shared, request: Request, next: Next) -> Response {
    let user = request.extensions().get::<Option<User>>().cloned().flatten();
    let Some(user) = user else { return (StatusCode::UNAUTHORIZED, "Unauthorized").into_response() };
    if user.groups.iter().any(|g| g == "system:masters") {
        return next.run(request).await;
    }
    let verb = match *request.method() {
        Method::GET | Method::HEAD => "get",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "create",
    };
    let sub = subresource(request.uri().path());
    match allowed(&context, &user, verb, sub).await {
        Ok(true) => next.run(request).await,
        Ok(false) => {
            let text = format!(
                "Forbidden (user={}, verb={verb}, resource=nodes, subresource(s)=[{sub}])\n",
                user.name
            );
            (StatusCode::FORBIDDEN, text).into_response()
        }
        Err(error) => {
            let text = format!(
                "Authorization error (user={}, verb={verb}, resource=nodes, subresource={sub}): {error}\n",
                user.name
            );
            (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
        }
    }
}

async fn allowed(context: &Context, user: &User, verb: &str, sub: &str) -> Result<bool, client::Error> {
    const REVIEWS: api::Gvr = api::Gvr::new("authorization.k8s.io", "v1", "subjectaccessreviews");
    let review = json!({
        "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
        "metadata": {},
        "spec": {"user": user.name, "groups": user.groups, "resourceAttributes":
            {"verb": verb, "version": "v1", "resource": gvr::NODES.resource, "subresource": sub, "name": context.node()}},
    });
    let answer = context.client.create(&REVIEWS, "", &review).await?;
    Ok(answer.status()["allowed"] == true)
}

/// A pod of this node, or the answer that there is none.
fn find(context: &Context, namespace: &str, name: &str) -> Result<Known, Box<Response>> {
    let found = context.registry.find(namespace, name);
    found.ok_or_else(|| {
        Box::new(refuse(
            StatusCode::NOT_FOUND,
            format!("pod \"{name}\" not found in namespace \"{namespace}\" on this node"),
        ))
    })
}

fn refuse(status: StatusCode, message: impl Into<String>) -> Response {
    (status, message.into()).into_response()
}

fn list(items: Vec<Value>) -> Response {
    let body = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    ([("content-type", "application/json")], body.to_string()).into_response()
}

async fn pods(State(context): Shared) -> Response {
    list(context.registry.all().iter().map(|h| h.known.read().pod.object.value().clone()).collect())
}

async fn running_pods(State(context): Shared) -> Response {
    let mut items = Vec::new();
    for handle in context.registry.all() {
        let known = handle.known.read().clone();
        let running = known.state.containers.iter().filter_map(|(name, c)| {
            c.running().map(|r| json!({"name": name, "image": r.image_id, "resources": {}}))
        });
        let containers: Vec<Value> = running.collect();
        if !containers.is_empty() {
            let pod = &known.pod;
            items.push(json!({
                "metadata": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid, "creationTimestamp": null},
                "spec": {"containers": containers}, "status": {},
            }));
        }
    }
    list(items)
}

/// An upgrade's answer, or a rejection, with a body of axum's.
fn empty(response: http::Response<()>) -> Response {
    response.map(|()| Body::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permissions() {
        let table = [
            ("/stats/summary", "stats"),
            ("/metrics/cadvisor", "metrics"),
            ("/exec/a/b/c", "proxy"),
            ("/pods", "proxy"),
        ];
        for (path, want) in table {
            assert_eq!(subresource(path), want);
        }
    }
}
