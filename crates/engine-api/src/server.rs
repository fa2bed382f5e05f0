//! The server: connections, version prefixes, the headers of every answer.

use std::convert::Infallible;
use std::sync::Arc;

use engine::{API_VERSION, Engine};
use http::{HeaderMap, HeaderValue, Request};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::body::Answer;
use crate::call::Call;
use crate::listen::{Accepted, Listener};
use crate::query::Query;
use crate::{Error, Result, routes};

/// What every connection shares.
#[derive(Clone)]
struct Shared {
    engine: Arc<Engine>,
    builder: Arc<build::Builder>,
}

/// Serves the API on every listener until `shutdown`; streams that are open then end with their connections.
pub async fn serve(engine: Arc<Engine>, listeners: Vec<Listener>, shutdown: CancellationToken) -> Result<()> {
    let steps = Arc::new(build::EngineRunner(engine.clone()));
    let builder = build::Builder::open(engine.images().clone(), steps, &engine.instance().data_dir).await?;
    builder.set_policy(policy(&engine));
    let shared = Shared { engine, builder };
    let accepting = listeners.into_iter().map(|listener| accept(shared.clone(), listener, shutdown.clone()));
    futures::future::join_all(accepting).await;
    Ok(())
}

/// What the settings say of collection.
fn policy(engine: &Engine) -> build::Policy {
    let settings = engine.settings();
    let gc = &settings.builder.gc;
    let beside = Some(engine.instance().data_dir.join("registry"));
    build::Policy { enabled: gc.enabled, rules: gc.rules(), budget: settings.disk_budget, beside }
}

async fn accept(shared: Shared, listener: Listener, shutdown: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => return,
        };
        let (shared, shutdown) = (shared.clone(), shutdown.clone());
        match accepted {
            Ok(Accepted::Unix(stream)) => drop(tokio::spawn(connection(shared, stream, shutdown))),
            Ok(Accepted::Plain(stream)) => drop(tokio::spawn(connection(shared, stream, shutdown))),
            Ok(Accepted::Tls(handshake)) => drop(tokio::spawn(async move {
                match handshake.await {
                    Ok(stream) => connection(shared, stream, shutdown).await,
                    Err(error) => tracing::debug!(%error, "a client's TLS handshake failed"),
                }
            })),
            Err(error) => sockets::accept_failed("the engine", &error).await,
        }
    }
}

async fn connection<S>(shared: Shared, stream: S, shutdown: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(answer(shared, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "a client's connection ended");
            }
        }
        () = shutdown.cancelled() => {}
    }
}

async fn answer(shared: Shared, request: Request<Incoming>) -> Answer {
    let started = tokio::time::Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let engine = shared.engine.clone();
    let result = if method.is_safe() {
        dispatch(shared, request).await
    } else {
        // On a task of its own: what a client has asked for is done to its end, also if the client goes away.
        tokio::spawn(dispatch(shared, request))
            .await
            .unwrap_or_else(|e| Err(engine::Error::System(format!("internal error: {e}")).into()))
    };
    let mut answer = match result {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(%method, %path, %error, "refused");
            error.answer()
        }
    };
    headers(answer.headers_mut());
    if answer.status().is_success()
        && let Ok((_, rest)) = version(&path, engine.settings().oldest_api())
        && let Some((family, action)) = crate::metrics::action(&method, rest)
    {
        engine.metrics().action(family, action, started.elapsed());
    }
    tracing::trace!(%method, %path, status = answer.status().as_u16(), took = ?started.elapsed());
    answer
}

async fn dispatch(shared: Shared, request: Request<Incoming>) -> Result<Answer> {
    let path = request.uri().path();
    let (version, rest) = version(path, shared.engine.settings().oldest_api())?;
    let Some((handler, params)) = routes::find(request.method(), rest) else {
        return Err(engine::Error::NotFound("page not found".into()).into());
    };
    let query = Query::parse(request.uri().query())?;
    let Shared { engine, builder } = shared;
    handler(Call { engine, builder, version, params, query, request }).await
}

/// `/v1.43/containers/json` into the version and the rest; the current version if none is given.
fn version(path: &str, oldest: (u32, u32)) -> Result<((u32, u32), &str)> {
    let current = (API_VERSION, path);
    let Some(rest) = path.strip_prefix("/v") else { return Ok(current) };
    let (number, rest) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let Some((major, minor)) = number.split_once('.') else { return Ok(current) };
    let (Ok(major), Ok(minor)) = (major.parse(), minor.parse()) else { return Ok(current) };
    let version: (u32, u32) = (major, minor);
    let text = |v: (u32, u32)| format!("{}.{}", v.0, v.1);
    if version > API_VERSION {
        return Err(Error::invalid(format!(
            "client version {number} is too new. Maximum supported API version is {}",
            text(API_VERSION)
        )));
    }
    if version < oldest {
        return Err(Error::invalid(format!(
            "client version {number} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
            text(oldest)
        )));
    }
    Ok((version, rest))
}

fn headers(headers: &mut HeaderMap) {
    let version = HeaderValue::from_static("1.51");
    debug_assert_eq!(API_VERSION, (1, 51));
    headers.insert("api-version", version);
    headers.insert("docker-experimental", HeaderValue::from_static("false"));
    headers.insert("ostype", HeaderValue::from_static("linux"));
    headers.insert(
        http::header::SERVER,
        HeaderValue::from_static(concat!("Tug/", env!("CARGO_PKG_VERSION"), " (linux)")),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::MIN_API_VERSION;

    #[test]
    fn versions() {
        assert_eq!(version("/v1.43/info", MIN_API_VERSION).unwrap(), ((1, 43), "/info"));
        assert_eq!(version("/info", MIN_API_VERSION).unwrap(), (API_VERSION, "/info"));
        assert_eq!(version("/volumes", MIN_API_VERSION).unwrap(), (API_VERSION, "/volumes"));
        assert!(version("/v1.99/info", MIN_API_VERSION).unwrap_err().to_string().contains("too new"));
        assert!(version("/v1.12/info", MIN_API_VERSION).unwrap_err().to_string().contains("too old"));
        assert!(version("/v1.43/info", (1, 44)).is_err());
    }
}
