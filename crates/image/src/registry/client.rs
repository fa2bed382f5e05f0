//! The client of a remote registry: scheme, authentication, redirects, retries, resumed downloads.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::manifest::media;
use super::{Auth, BlobStream, Document, Registry};
use crate::archive::compress::digest_of;
use crate::error::{Error, Result};
use crate::http::{Body, Client, full};
use crate::reference::{DEFAULT_DOMAIN, Reference};

/// Manifests and answers other than blobs are at most this long, in bytes.
const DOCUMENT_LIMIT: usize = 8 << 20;
const ATTEMPTS: u32 = 5;
const REDIRECTS: u32 = 5;
/// A download that gives nothing for so long is begun again where it stood.
const STALL: Duration = Duration::from_secs(60);
const USER_AGENT: &str = concat!("tug/", env!("CARGO_PKG_VERSION"));

/// What the instance's configuration says about registries.
#[derive(Debug, Clone, Default)]
pub struct RegistryConfig {
    /// Hosts (with port) that may be spoken to without TLS or with any certificate. Loopback ones always may.
    pub insecure: Vec<String>,
    /// Mirrors of the default registry, as `https://host`, tried first.
    pub mirrors: Vec<String>,
}

/// A repository of a remote registry.
#[derive(Clone)]
pub struct Remote {
    shared: Arc<Shared>,
}

struct Shared {
    client: Client,
    base: String,
    repository: String,
    /// As people name it, for messages.
    familiar: String,
    push: bool,
    auth: Option<Auth>,
    /// The header that has worked, by scope.
    tokens: Mutex<HashMap<String, String>>,
}

/// What a request may carry.
enum Payload {
    Empty,
    Whole(Bytes, String),
    Stream(Body),
}

impl Remote {
    /// Finds out how to speak to the registry of `reference`: HTTPS, or HTTP where that is allowed.
    pub async fn connect(
        reference: &Reference,
        auth: Option<Auth>,
        push: bool,
        config: &RegistryConfig,
    ) -> Result<Self> {
        let host = match reference.domain.as_str() {
            DEFAULT_DOMAIN => "registry-1.docker.io",
            other => other,
        };
        let insecure = is_insecure(host, config);
        let client = Client::new(&extra_certificates(host), insecure)?;
        let mut bases = vec![format!("https://{host}")];
        if insecure {
            bases.push(format!("http://{host}"));
        }
        if !push && reference.domain == DEFAULT_DOMAIN {
            bases.splice(0..0, config.mirrors.iter().map(|m| m.trim_end_matches('/').to_string()));
        }
        let mut last = None;
        for base in bases {
            let remote = Self {
                shared: Arc::new(Shared {
                    client: client.clone(),
                    base,
                    repository: reference.path.clone(),
                    familiar: reference.familiar_name(),
                    push,
                    auth: auth.clone(),
                    tokens: Mutex::default(),
                }),
            };
            match remote.ping().await {
                Ok(()) => return Ok(remote),
                Err(e @ Error::Denied(_)) => return Err(e),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| Error::Registry(format!("no way to reach {host}"))))
    }

    /// Asks for `/v2/`: is this a registry?
    async fn ping(&self) -> Result<()> {
        let uri = self.uri("")?;
        let request = self.request(Method::GET, &uri, &HeaderMap::new(), Payload::Empty, None)?;
        let response = self.shared.client.send(request).await?;
        match response.status() {
            s if s.is_success() => Ok(()),
            // Which credentials it wants depends on what is asked for.
            StatusCode::UNAUTHORIZED => Ok(()),
            s => Err(Error::Registry(format!(
                "Get \"{uri}\": unexpected status {s}: this does not look like a registry"
            ))),
        }
    }

    fn uri(&self, path: &str) -> Result<Uri> {
        let text = format!("{}/v2/{path}", self.shared.base);
        text.parse().map_err(|e| Error::Registry(format!("{text}: {e}")))
    }

    fn repository_uri(&self, path: &str) -> Result<Uri> {
        self.uri(&format!("{}/{path}", self.shared.repository))
    }

    fn scope(&self) -> String {
        let actions = if self.shared.push { "pull,push" } else { "pull" };
        format!("repository:{}:{actions}", self.shared.repository)
    }

    fn request(
        &self,
        method: Method,
        uri: &Uri,
        headers: &HeaderMap,
        payload: Payload,
        authorization: Option<&str>,
    ) -> Result<http::Request<Body>> {
        let mut builder = http::Request::builder().method(method).uri(uri.clone());
        let bad = |e: &dyn std::fmt::Display| Error::Registry(format!("{uri}: {e}"));
        if let Some(map) = builder.headers_mut() {
            map.extend(headers.clone());
            let host = uri.authority().map_or("", |a| a.as_str());
            map.insert(header::HOST, host.parse().map_err(|e| bad(&e))?);
            map.insert(header::USER_AGENT, header::HeaderValue::from_static(USER_AGENT));
            if let Some(a) = authorization {
                map.insert(header::AUTHORIZATION, a.parse().map_err(|e| bad(&e))?);
            }
            if let Payload::Whole(bytes, media_type) = &payload {
                map.insert(header::CONTENT_LENGTH, bytes.len().into());
                map.insert(header::CONTENT_TYPE, media_type.parse().map_err(|e| bad(&e))?);
            }
        }
        let body = match payload {
            Payload::Empty => full(""),
            Payload::Whole(bytes, _) => full(bytes),
            Payload::Stream(body) => body,
        };
        builder.body(body).map_err(|e| bad(&e))
    }

    /// Sends a request with whatever authentication is wanted; redirects are followed for reads. A payload that cannot
    /// be sent twice must come after a request that has settled the authentication.
    async fn send(
        &self,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        payload: Payload,
    ) -> Result<Response<Incoming>> {
        let own = uri.authority().cloned();
        let (again, mut first) = match payload {
            Payload::Stream(body) => (None, Some(Payload::Stream(body))),
            Payload::Whole(b, t) => (Some((b.clone(), t.clone())), Some(Payload::Whole(b, t))),
            Payload::Empty => (Some((Bytes::new(), String::new())), Some(Payload::Empty)),
        };
        let next = |first: &mut Option<Payload>| {
            first.take().or_else(|| {
                again.clone().map(|(b, t)| if t.is_empty() { Payload::Empty } else { Payload::Whole(b, t) })
            })
        };
        let (mut at, mut redirects, mut challenged, mut failures) = (uri, 0, false, 0);
        loop {
            let Some(payload) = next(&mut first) else {
                return Err(Error::Registry(format!("{at}: the upload was interrupted")));
            };
            // Credentials are for the registry alone, not for where it redirects to.
            let token = (at.authority() == own.as_ref())
                .then(|| self.shared.tokens.lock().get(&self.scope()).cloned())
                .flatten();
            let request = self.request(method.clone(), &at, &headers, payload, token.as_deref())?;
            let sent = self.shared.client.send(request).await;
            let response = match sent {
                Ok(r) => r,
                Err(e) if failures + 1 < ATTEMPTS && again.is_some() && !is_refused(&e) => {
                    failures += 1;
                    tracing::debug!(error = %e, "asking the registry again");
                    back_off(failures, None).await;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let status = response.status();
            match status {
                StatusCode::UNAUTHORIZED
                    if !challenged && at.authority() == own.as_ref() && again.is_some() =>
                {
                    challenged = true;
                    self.authenticate(response.headers()).await?;
                }
                StatusCode::TOO_MANY_REQUESTS
                | StatusCode::INTERNAL_SERVER_ERROR
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
                    if failures + 1 < ATTEMPTS && again.is_some() =>
                {
                    failures += 1;
                    let wait = response
                        .headers()
                        .get(header::RETRY_AFTER)
                        .and_then(|v| v.to_str().ok()?.parse().ok());
                    back_off(failures, wait).await;
                }
                s if s.is_redirection()
                    && redirects < REDIRECTS
                    && (method == Method::GET || method == Method::HEAD) =>
                {
                    redirects += 1;
                    let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
                    let location =
                        location.ok_or_else(|| Error::Registry(format!("{at}: a redirect to nowhere")))?;
                    at = join(&at, location)?;
                }
                _ => return Ok(response),
            }
        }
    }

    /// Answers a challenge: Basic with the credentials, Bearer with a token from the realm.
    async fn authenticate(&self, headers: &HeaderMap) -> Result<()> {
        let shared = &self.shared;
        let basic = shared.auth.as_ref().filter(|a| !a.username.is_empty()).map(|a| {
            let pair = format!("{}:{}", a.username, a.password);
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        });
        let challenges: Vec<&str> =
            headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).collect();
        let bearer =
            challenges.iter().find(|c| c.get(..7).is_some_and(|s| s.eq_ignore_ascii_case("bearer ")));
        let Some(bearer) = bearer else {
            let header = basic.ok_or_else(|| self.denied("no basic auth credentials"))?;
            shared.tokens.lock().insert(self.scope(), header);
            return Ok(());
        };
        if let Some(token) = shared.auth.as_ref().map(|a| &a.registry_token).filter(|t| !t.is_empty()) {
            shared.tokens.lock().insert(self.scope(), format!("Bearer {token}"));
            return Ok(());
        }
        let parameters = parameters(&bearer[7..]);
        let realm =
            parameters.get("realm").ok_or_else(|| Error::Registry("a challenge without a realm".into()))?;
        let encode = |s: &str| utf8_percent_encode(s, NON_ALPHANUMERIC).to_string();
        let scope = parameters.get("scope").cloned().unwrap_or_else(|| self.scope());
        let service = parameters.get("service").map(String::as_str).unwrap_or_default();
        let refresh = shared.auth.as_ref().map(|a| a.identity_token.as_str()).filter(|t| !t.is_empty());
        let (method, uri, payload, authorization) = match refresh {
            Some(token) => {
                let form = format!(
                    "grant_type=refresh_token&service={}&client_id=tug&scope={}&refresh_token={}",
                    encode(service),
                    encode(&scope),
                    encode(token)
                );
                let payload = Payload::Whole(form.into(), "application/x-www-form-urlencoded".into());
                (Method::POST, realm.clone(), payload, None)
            }
            None => {
                let mark = if realm.contains('?') { '&' } else { '?' };
                let mut uri = format!("{realm}{mark}service={}", encode(service));
                // Logging in asks for no repository.
                if !shared.repository.is_empty() {
                    uri.push_str(&format!("&scope={}", encode(&scope)));
                }
                if let Some(a) = shared.auth.as_ref().filter(|a| !a.username.is_empty()) {
                    uri.push_str(&format!("&account={}", encode(&a.username)));
                }
                (Method::GET, uri, Payload::Empty, basic.as_deref())
            }
        };
        let uri: Uri = uri.parse().map_err(|e| Error::Registry(format!("{uri}: {e}")))?;
        let request = self.request(method, &uri, &HeaderMap::new(), payload, authorization)?;
        let response = shared.client.send(request).await?;
        let status = response.status();
        let bytes = read_limited(response).await?;
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            return Err(self.denied("incorrect username or password"));
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Registry(format!("{uri}: unexpected answer ({status}): {e}")))?;
        let token = answer.token.or(answer.access_token).filter(|t| !t.is_empty());
        let token = token.ok_or_else(|| Error::Registry(format!("{uri}: an answer without a token")))?;
        shared.tokens.lock().insert(self.scope(), format!("Bearer {token}"));
        Ok(())
    }

    fn denied(&self, why: &str) -> Error {
        let name = &self.shared.familiar;
        Error::Denied(match (name.is_empty(), self.shared.push) {
            (true, _) => format!("Get \"{}/v2/\": unauthorized: {why}", self.shared.base),
            (_, true) => "denied: requested access to the resource is denied".into(),
            (_, false) => format!(
                "pull access denied for {name}, repository does not exist or may require 'docker login': {why}"
            ),
        })
    }

    /// The error that an unsuccessful answer means.
    async fn failure(&self, what: &str, response: Response<Incoming>) -> Error {
        let status = response.status();
        let text = read_limited(response).await.unwrap_or_default();
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<One>,
        }
        #[derive(Deserialize)]
        struct One {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let first = serde_json::from_slice::<Errors>(&text).ok().and_then(|e| e.errors.into_iter().next());
        let why = match &first {
            Some(e) => format!("{}: {}", e.code.to_ascii_lowercase().replace('_', " "), e.message),
            None => format!("unexpected status {status}"),
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(&why),
            StatusCode::NOT_FOUND => Error::NotFound(format!("{what} not found: {why}")),
            _ => Error::Registry(format!("{what}: {why}")),
        }
    }

    async fn open_blob(&self, digest: &str, from: u64) -> Result<(Response<Incoming>, u64)> {
        let mut headers = HeaderMap::new();
        if from > 0 {
            let range = format!("bytes={from}-");
            headers.insert(header::RANGE, range.parse().map_err(|e| Error::Registry(format!("{e}")))?);
        }
        let uri = self.repository_uri(&format!("blobs/{digest}"))?;
        let response = self.send(Method::GET, uri, headers, Payload::Empty).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => Ok((response, from)),
            // A registry without ranges begins again; what was had already is skipped.
            s if s.is_success() => Ok((response, 0)),
            _ => Err(self.failure(&format!("blob {digest}"), response).await),
        }
    }

    /// Sends a blob's pieces, going on where a connection broke.
    async fn download(self, digest: String, first: Response<Incoming>, out: mpsc::Sender<Result<Bytes>>) {
        let (mut response, mut at, mut done, mut failures) = (first, 0u64, 0u64, 0);
        loop {
            let want = response
                .headers()
                .get(header::CONTENT_LENGTH)
                .and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
            let start = at;
            let mut body = response.into_body();
            let broken = loop {
                // A peer that vanished sends nothing, not even an end: only time tells.
                match tokio::time::timeout(STALL, body.frame()).await {
                    Ok(Some(Ok(frame))) => {
                        let Ok(mut data) = frame.into_data() else { continue };
                        let skip = done.saturating_sub(at).min(data.len() as u64);
                        at += data.len() as u64;
                        let _ = data.split_to(skip as usize);
                        if data.is_empty() {
                            continue;
                        }
                        done += data.len() as u64;
                        failures = 0;
                        if out.send(Ok(data)).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) if want.is_none_or(|w| at - start >= w) => return,
                    Ok(None) => break "the connection was closed early".to_string(),
                    Ok(Some(Err(e))) => break e.to_string(),
                    Err(_) => break format!("nothing came for {} s", STALL.as_secs()),
                }
            };
            failures += 1;
            tracing::debug!(digest, at = done, broken, "resuming a download");
            let error = if failures >= ATTEMPTS {
                Error::Registry(format!("blob {digest}: {broken}"))
            } else {
                back_off(failures, None).await;
                match self.open_blob(&digest, done).await {
                    Ok((r, from)) => {
                        (response, at) = (r, from);
                        continue;
                    }
                    Err(e) => e,
                }
            };
            // If nobody reads any more, nobody needs the error.
            let _ = out.send(Err(error)).await;
            return;
        }
    }
}

#[async_trait]
impl Registry for Remote {
    async fn manifest(&self, reference: &str) -> Result<Document> {
        let mut headers = HeaderMap::new();
        for t in [media::OCI_INDEX, media::OCI_MANIFEST, media::DOCKER_LIST, media::DOCKER_MANIFEST] {
            headers.append(header::ACCEPT, header::HeaderValue::from_static(t));
        }
        let uri = self.repository_uri(&format!("manifests/{reference}"))?;
        let response = self.send(Method::GET, uri, headers, Payload::Empty).await?;
        if !response.status().is_success() {
            let mark = if reference.contains(':') { '@' } else { ':' };
            let what = format!("manifest for {}{mark}{reference}", self.shared.familiar);
            return Err(self.failure(&what, response).await);
        }
        let media_type = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let media_type =
            media_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_string();
        let bytes = read_limited(response).await?;
        let digest = digest_of(&bytes);
        if reference.contains(':') && digest != reference {
            return Err(Error::Corrupt(format!(
                "manifest verification failed for digest {reference}: the content has {digest}"
            )));
        }
        Ok(Document { media_type, digest, bytes })
    }

    async fn blob(&self, digest: &str) -> Result<BlobStream> {
        let (response, _) = self.open_blob(digest, 0).await?;
        let (tx, rx) = mpsc::channel(16);
        tokio::spawn(self.clone().download(digest.to_string(), response, tx));
        Ok(rx)
    }

    async fn has_blob(&self, digest: &str) -> Result<bool> {
        let uri = self.repository_uri(&format!("blobs/{digest}"))?;
        let response = self.send(Method::HEAD, uri, HeaderMap::new(), Payload::Empty).await?;
        match response.status() {
            s if s.is_success() => Ok(true),
            StatusCode::NOT_FOUND => Ok(false),
            _ => Err(self.failure(&format!("blob {digest}"), response).await),
        }
    }

    async fn mount(&self, digest: &str, from: &str) -> Result<bool> {
        let from = utf8_percent_encode(from, NON_ALPHANUMERIC);
        let uri = self.repository_uri(&format!("blobs/uploads/?mount={digest}&from={from}"))?;
        let response = self
            .send(Method::POST, uri, HeaderMap::new(), Payload::Whole(Bytes::new(), OCTETS.into()))
            .await?;
        match response.status() {
            StatusCode::CREATED => Ok(true),
            s if s.is_success() => Ok(false),
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(false),
            _ => Err(self.failure(&format!("blob {digest}"), response).await),
        }
    }

    async fn upload(&self, content: BlobStream, digest: oneshot::Receiver<String>) -> Result<()> {
        let what = format!("upload to {}", self.shared.familiar);
        let uri = self.repository_uri("blobs/uploads/")?;
        let base = uri.clone();
        let response = self
            .send(Method::POST, uri, HeaderMap::new(), Payload::Whole(Bytes::new(), OCTETS.into()))
            .await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.failure(&what, response).await);
        }
        let location = location_of(&base, response.headers())?;
        let stream = tokio_stream(content).map(|piece| match piece {
            Ok(data) => Ok(Frame::data(data)),
            Err(e) => Err(std::io::Error::other(e.to_string())),
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(OCTETS));
        let body = BodyExt::boxed(StreamBody::new(SyncStream(Mutex::new(Box::pin(stream)))));
        let response = self.send(Method::PATCH, location, headers, Payload::Stream(body)).await?;
        if !response.status().is_success() {
            return Err(self.failure(&what, response).await);
        }
        let location = location_of(&base, response.headers())?;
        let digest = digest.await.map_err(|_| Error::Cancelled("an upload".into()))?;
        let mark = if location.query().is_some() { '&' } else { '?' };
        let uri: Uri = format!("{location}{mark}digest={digest}")
            .parse()
            .map_err(|e| Error::Registry(format!("{location}: {e}")))?;
        let response = self
            .send(Method::PUT, uri, HeaderMap::new(), Payload::Whole(Bytes::new(), OCTETS.into()))
            .await?;
        if response.status().is_success() { Ok(()) } else { Err(self.failure(&what, response).await) }
    }

    async fn put_manifest(&self, reference: &str, media_type: &str, bytes: Bytes) -> Result<String> {
        let digest = digest_of(&bytes);
        let uri = self.repository_uri(&format!("manifests/{reference}"))?;
        let response =
            self.send(Method::PUT, uri, HeaderMap::new(), Payload::Whole(bytes, media_type.into())).await?;
        if response.status().is_success() {
            return Ok(digest);
        }
        Err(self.failure(&format!("manifest for {}:{reference}", self.shared.familiar), response).await)
    }
}

const OCTETS: &str = "application/octet-stream";

/// Makes a stream usable where the HTTP library asks for `Sync`, by a lock that nobody else takes.
struct SyncStream<S>(Mutex<std::pin::Pin<Box<S>>>);

impl<S: futures::Stream> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.get_mut().0.get_mut().as_mut().poll_next(cx)
    }
}

fn tokio_stream(rx: BlobStream) -> impl futures::Stream<Item = Result<Bytes>> {
    futures::stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) })
}

fn location_of(base: &Uri, headers: &HeaderMap) -> Result<Uri> {
    let location = headers.get(header::LOCATION).and_then(|l| l.to_str().ok());
    join(base, location.ok_or_else(|| Error::Registry(format!("{base}: an answer without a location")))?)
}

fn join(base: &Uri, location: &str) -> Result<Uri> {
    let bad = |e: &dyn std::fmt::Display| Error::Registry(format!("{base}: redirect to {location:?}: {e}"));
    let uri: Uri = location.parse().map_err(|e| bad(&e))?;
    if uri.scheme().is_some() {
        return Ok(uri);
    }
    let mut parts = base.clone().into_parts();
    parts.path_and_query = uri.into_parts().path_and_query;
    Uri::from_parts(parts).map_err(|e| bad(&e))
}

/// `a="b",c=d` of a challenge, keys in lower case.
fn parameters(text: &str) -> HashMap<String, String> {
    let mut all = HashMap::new();
    let mut rest = text.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        all.insert(key, value.to_string());
        rest = tail.trim_start_matches([',', ' ']);
    }
    all
}

async fn read_limited(response: Response<Incoming>) -> Result<Bytes> {
    match http_body_util::Limited::new(response.into_body(), DOCUMENT_LIMIT).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(e) => Err(Error::Registry(format!("reading the registry's answer: {e}"))),
    }
}

/// Waits before another attempt: there is no event that says when a registry has recovered.
async fn back_off(failures: u32, asked: Option<u64>) {
    let millis = match asked {
        Some(seconds) => seconds.min(60) * 1000,
        None => (250u64 << failures.min(6)) + (base::rng::fraction() * 250.0) as u64,
    };
    tokio::time::sleep(Duration::from_millis(millis)).await;
}

fn is_refused(e: &Error) -> bool {
    let text = e.to_string();
    text.contains("connection refused") || text.contains("no such host")
}

fn is_insecure(host: &str, config: &RegistryConfig) -> bool {
    let name =
        host.rsplit_once(':').filter(|(_, p)| p.bytes().all(|b| b.is_ascii_digit())).map_or(host, |(n, _)| n);
    name == "localhost"
        || name == "[::1]"
        || name.parse::<std::net::Ipv4Addr>().is_ok_and(|ip| ip.is_loopback())
        || config.insecure.iter().any(|i| i == host || i == name)
}

/// The authorities that `/etc/docker/certs.d/HOST/*.crt` names.
fn extra_certificates(host: &str) -> Vec<rustls::pki_types::CertificateDer<'static>> {
    use rustls::pki_types::pem::PemObject;
    let dir = std::path::Path::new("/etc/docker/certs.d").join(host);
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let files = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| p.extension().is_some_and(|x| x == "crt"));
    files
        .filter_map(|p| std::fs::read(p).ok())
        .flat_map(|bytes| {
            rustls::pki_types::CertificateDer::pem_slice_iter(&bytes)
                .filter_map(std::result::Result::ok)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// `login_with` where the configuration says nothing.
pub async fn login(address: &str, auth: &Auth) -> Result<()> {
    login_with(address, auth, &RegistryConfig::default()).await
}

/// Checks credentials with the registry at `address` (a host, or a URL as the Docker client stores it).
pub async fn login_with(address: &str, auth: &Auth, config: &RegistryConfig) -> Result<()> {
    let host = address.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or(host);
    let domain = match host {
        "" | "index.docker.io" | "registry-1.docker.io" => DEFAULT_DOMAIN,
        other => other,
    };
    let reference = Reference { domain: domain.into(), path: String::new(), tag: None, digest: None };
    let mut remote = Remote::connect(&reference, Some(auth.clone()), false, config).await?;
    if let Some(shared) = Arc::get_mut(&mut remote.shared) {
        shared.familiar.clear();
    }
    let response = remote.send(Method::GET, remote.uri("")?, HeaderMap::new(), Payload::Empty).await?;
    match response.status() {
        s if s.is_success() => Ok(()),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(remote.denied("incorrect username or password"))
        }
        s => Err(Error::Registry(format!(
            "login attempt to {}/v2/ failed with status: {s}",
            remote.shared.base
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let p =
            parameters(r#"realm="https://a/t?x=1",service="r, s",scope="repository:a/b:pull,push",error=x"#);
        assert_eq!((p["realm"].as_str(), p["service"].as_str()), ("https://a/t?x=1", "r, s"));
        assert_eq!((p["scope"].as_str(), p["error"].as_str()), ("repository:a/b:pull,push", "x"));
    }

    #[test]
    fn insecure_hosts() {
        let config = RegistryConfig { insecure: vec!["reg:5000".into()], mirrors: Vec::new() };
        for (host, want) in [
            ("localhost", true),
            ("localhost:5000", true),
            ("127.0.0.9:1", true),
            ("[::1]:5000", true),
            ("reg:5000", true),
            ("reg", false),
            ("example.com", false),
        ] {
            assert_eq!(is_insecure(host, &config), want, "{host}");
        }
    }

    #[tokio::test]
    async fn an_unreachable_registry_is_named() {
        let r = crate::reference::parse("localhost:1/nowhere/nothing:1").unwrap();
        let Err(e) = Remote::connect(&r, None, false, &RegistryConfig::default()).await else {
            panic!("reached")
        };
        assert_eq!(
            e.to_string(),
            "Get \"http://localhost:1/v2/\": dial tcp localhost:1: connect: connection refused"
        );
        let e = login("localhost:1", &Auth::default()).await.unwrap_err();
        assert!(e.to_string().contains("connection refused"));
    }
}
