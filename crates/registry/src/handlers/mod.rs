//! The protocol: which request means what, and who may ask it.

pub(crate) mod blobs;
mod lists;
mod manifests;
mod uploads;

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use image::reference;
use serde_json::{Value, json};

use crate::access::{Access, Action, Asked, Caller};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::path::Endpoint;
use crate::storage::Storage;
use crate::upstream::Upstream;

const PIECE: usize = 256 * 1024;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;
type Answer = Response<Body>;

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(e) => Err(std::io::Error::other(e).into()),
    }
}

fn body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// What every request is answered from.
pub(crate) struct Shared {
    pub storage: Arc<Storage>,
    pub access: Option<Access>,
    pub upstream: Option<Arc<Upstream>>,
    pub written: Option<Arc<tokio::sync::Notify>>,
}

/// The parts of a request besides its body.
struct Call {
    shared: Arc<Shared>,
    method: Method,
    headers: HeaderMap,
    query: Vec<(String, String)>,
    /// Over TLS.
    secure: bool,
    caller: Caller,
}

impl Call {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    fn head(&self) -> bool {
        self.method == Method::HEAD
    }

    fn reads(&self) -> bool {
        self.method == Method::GET || self.head()
    }

    fn storage(&self) -> Arc<Storage> {
        self.shared.storage.clone()
    }

    /// What stands in the storage before the names that the caller uses: a cache keeps several registries apart.
    fn prefix(&self) -> Result<String> {
        self.shared.upstream.as_ref().map_or(Ok(String::new()), |u| u.prefix(self.parameter("ns")))
    }

    /// A repository's name in the storage.
    fn kept(&self, name: &str) -> Result<String> {
        Ok(self.prefix()? + name)
    }

    fn host(&self) -> &str {
        self.header("host").unwrap_or_default()
    }

    /// Refuses the caller unless it may do this.
    fn authorize(&self, repository: &str, action: Action) -> Result<()> {
        let Some(access) = &self.shared.access else { return Ok(()) };
        if access.allows(&self.caller, repository, action) {
            return Ok(());
        }
        let what = format!("{} of {repository}", action.name());
        match &self.caller {
            Caller::User(name) if access.tokens.is_none() => {
                Err(Error::denied(format!("{name} may not do this: {what}")))
            }
            // With other credentials, or a token for this, it may be allowed.
            _ => Err(Error::unauthorized(format!("authentication is required for this: {what}"))),
        }
    }

    /// What must be allowed for this method at a repository's endpoint.
    fn action(&self, endpoint: &Endpoint<'_>) -> Action {
        match self.method {
            // The state of an upload is part of writing, and so is giving it up.
            _ if matches!(endpoint, Endpoint::Upload(..)) => Action::Push,
            Method::GET | Method::HEAD => Action::Pull,
            Method::DELETE => Action::Delete,
            _ => Action::Push,
        }
    }

    fn wrong_method(&self) -> Error {
        Error::unsupported(format!("{} is not supported here", self.method))
    }
}

/// A piece of a URL or query without its percent signs. Text that is no UTF-8 fits no name, tag or digest.
fn decode(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Answers a request; an error becomes the protocol's document.
pub(crate) async fn answer(shared: &Arc<Shared>, secure: bool, request: Request<Incoming>) -> Answer {
    let (parts, incoming) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default().split('&').filter(|p| !p.is_empty()).map(|p| {
        let (name, value) = p.split_once('=').unwrap_or((p, ""));
        (decode(&name.replace('+', " ")), decode(&value.replace('+', " ")))
    });
    let mut call = Call {
        shared: shared.clone(),
        method: parts.method,
        headers: parts.headers,
        query: query.collect(),
        secure,
        caller: Caller::Everybody,
    };
    if call.header("host").is_none()
        && let Some(authority) = parts.uri.authority()
        && let Ok(value) = authority.as_str().parse()
    {
        // HTTP/2 says it elsewhere.
        call.headers.insert(header::HOST, value);
    }
    let path = decode(parts.uri.path());
    let result = match identify(&call).await {
        Ok(caller) => {
            call.caller = caller;
            route(&call, &path, incoming).await
        }
        Err(e) => Err(e),
    };
    let mut response = result.unwrap_or_else(|error| refusal(&call, &path, &error));
    let version = header::HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert("docker-distribution-api-version", version);
    response
}

async fn identify(call: &Call) -> Result<Caller> {
    if call.shared.access.is_none() {
        return Ok(Caller::Everybody);
    }
    let (shared, headers) = (call.shared.clone(), call.headers.clone());
    blocking(move || match &shared.access {
        Some(access) => access.caller(&headers),
        None => Ok(Caller::Everybody),
    })
    .await
}

fn refusal(call: &Call, path: &str, error: &Error) -> Answer {
    let (status, code, message) = error.parts();
    if status.is_server_error() {
        tracing::warn!(%path, %error, "a request failed");
    }
    let document = json!({"errors": [{"code": code, "message": message, "detail": null}]});
    let mut r = Response::new(if call.head() { body("") } else { body(document.to_string()) });
    *r.status_mut() = status;
    r.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    if status == StatusCode::UNAUTHORIZED
        && let Some(access) = &call.shared.access
    {
        let scope = scope(call, path);
        let asked = Asked { secure: call.secure, host: call.host() };
        let (name, challenge) = access.challenge(&asked, scope.as_deref());
        if let Ok(value) = challenge.parse() {
            r.headers_mut().insert(name, value);
        }
    }
    r
}

/// The rights that a request needs, as a token's scope.
fn scope(call: &Call, path: &str) -> Option<String> {
    let endpoint = Endpoint::parse(path)?;
    if matches!(endpoint, Endpoint::Catalogue | Endpoint::Search) {
        return Some("registry:catalog:*".into());
    }
    let name = endpoint.name().filter(|n| reference::is_repository(n))?;
    let actions = match call.action(&endpoint) {
        Action::Push => "pull,push",
        other => other.name(),
    };
    Some(format!("repository:{name}:{actions}"))
}

async fn route(call: &Call, path: &str, incoming: Incoming) -> Result<Answer> {
    let unknown = || Error::not_found(format!("{path} is no path of a registry"));
    let endpoint = Endpoint::parse(path).ok_or_else(unknown)?;
    let action = call.action(&endpoint);
    let name = endpoint.name().map_or(Ok(""), |name| named(call, name, action))?;
    match endpoint {
        Endpoint::Uploads(_) if call.method == Method::POST => uploads::begin(call, name, incoming).await,
        Endpoint::Upload(_, id) => uploads::upload(call, name, id, incoming).await,
        Endpoint::Blob(_, digest) => blobs::blob(call, name, digest).await,
        Endpoint::Manifest(_, reference) => manifests::manifest(call, name, reference, incoming).await,
        _ if !call.reads() => Err(call.wrong_method()),
        Endpoint::Base => {
            if call.shared.access.is_some() && call.caller == Caller::Anonymous {
                return Err(Error::unauthorized("authentication is required"));
            }
            json_answer(call, &json!({}), &[])
        }
        Endpoint::Token => token(call).await,
        Endpoint::Search => lists::search(call).await,
        Endpoint::Catalogue => lists::catalogue(call).await,
        Endpoint::Tags(_) => lists::tags(call, name).await,
        Endpoint::Referrers(_, digest) => lists::referrers(call, name, digest).await,
        Endpoint::Uploads(_) => Err(call.wrong_method()),
    }
}

/// A well-formed name of a repository to which the caller may do this.
fn named<'a>(call: &Call, name: &'a str, action: Action) -> Result<&'a str> {
    if !reference::is_repository(name) {
        return Err(Error::name_invalid(format!("invalid repository name {name:?}")));
    }
    call.authorize(name, action)?;
    if action == Action::Push && call.shared.upstream.is_some() {
        return Err(Error::unsupported("this registry is a cache of another one: push to that one"));
    }
    Ok(name)
}

/// The token endpoint, where tokens are ours.
async fn token(call: &Call) -> Result<Answer> {
    let (shared, headers) = (call.shared.clone(), call.headers.clone());
    let service = call.parameter("service").unwrap_or_default().to_string();
    let scopes: Vec<String> =
        call.query.iter().filter(|(n, _)| n == "scope").map(|(_, v)| v.clone()).collect();
    let document = blocking(move || {
        let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
        let issued = shared.access.as_ref().and_then(|a| a.issue(&headers, &service, &scopes));
        issued.unwrap_or_else(|| Err(Error::not_found("this registry hands out no tokens")))
    })
    .await?;
    json_answer(call, &document, &[("cache-control", "no-store".into())])
}

fn builder(status: StatusCode) -> http::response::Builder {
    Response::builder().status(status)
}

fn made(builder: http::response::Builder, content: Body) -> Result<Answer> {
    builder.body(content).map_err(|e| std::io::Error::other(e).into())
}

fn json_answer(call: &Call, value: &Value, headers: &[(&str, String)]) -> Result<Answer> {
    let text = value.to_string();
    let mut b = builder(StatusCode::OK).header(header::CONTENT_LENGTH, text.len());
    if !headers.iter().any(|(n, _)| *n == "content-type") {
        b = b.header(header::CONTENT_TYPE, "application/json");
    }
    for (name, value) in headers {
        b = b.header(*name, value);
    }
    made(b, if call.head() { body("") } else { body(text) })
}

fn created(name: &str, kind: &str, digest: &Digest, headers: &[(&str, String)]) -> Result<Answer> {
    let mut b = builder(StatusCode::CREATED)
        .header(header::LOCATION, format!("/v2/{name}/{kind}/{digest}"))
        .header(header::CONTENT_LENGTH, 0)
        .header("docker-content-digest", digest.as_str());
    for (n, v) in headers {
        b = b.header(*n, v);
    }
    made(b, body(""))
}
