//! Measurements for Prometheus (`metrics-addr`): the families of Docker's daemon, in the text format.

use std::convert::Infallible;
use std::sync::Arc;

use engine::Engine;
use engine::metrics::Family;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves `/metrics` until `shutdown`.
pub async fn serve(engine: Arc<Engine>, listener: TcpListener, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (engine, shutdown) = (engine.clone(), shutdown.clone());
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(engine.clone(), request));
                    let connection = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    tokio::select! {
                        _ = connection => {}
                        () = shutdown.cancelled() => {}
                    }
                });
            }
            Err(error) => sockets::accept_failed("metrics", &error).await,
        }
    }
}

async fn answer(
    engine: Arc<Engine>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::default());
    if request.uri().path() == "/metrics" {
        let kind = http::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        *response.body_mut() = engine.metrics_text().into();
    } else {
        *response.status_mut() = StatusCode::NOT_FOUND;
        *response.body_mut() = "404 page not found\n".into();
    }
    Ok(response)
}

/// What a request counts as, if it is measured.
pub(crate) fn action(method: &Method, path: &str) -> Option<(Family, &'static str)> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    Some(match (method.as_str(), segments.as_slice()) {
        ("POST", ["containers", "create"]) => (Family::Container, "create"),
        ("POST", ["containers", _, "start"]) => (Family::Container, "start"),
        ("DELETE", ["containers", _]) => (Family::Container, "delete"),
        ("GET", ["containers", _, "changes"]) => (Family::Container, "changes"),
        ("POST", ["commit"]) => (Family::Container, "commit"),
        ("DELETE", ["images", ..]) => (Family::Image, "delete"),
        ("POST", ["networks", _, "connect"]) => (Family::Network, "connect"),
        ("POST", ["networks", _, "disconnect"]) => (Family::Network, "release"),
        ("GET", ["info"]) => (Family::Host, "system_info"),
        ("GET", ["version"]) => (Family::Host, "system_version"),
        _ => return None,
    })
}
