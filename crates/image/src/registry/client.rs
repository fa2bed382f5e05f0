//! The client of a remote registry: one repository, and the road of a request through authentication, redirects and
//! retries. How bytes of blobs travel is `transfer`'s; where the registry is, `hosts`'.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::sync::oneshot;

use super::hosts::{Host, hosts};
use super::manifest::media;
use super::transfer::OCTETS;
use super::{Auth, BlobStream, Document, Registry, RegistryConfig};
use crate::archive::compress::{digest_as, digest_of};
use crate::error::{Error, Result};
use crate::http::{Body, full};
use crate::reference::{DEFAULT_DOMAIN, Reference, is_tag};

/// Manifests and answers other than blobs are at most this long, in bytes.
const DOCUMENT_LIMIT: usize = 8 << 20;
const REDIRECTS: u32 = 5;
/// The most pages of a list that are asked for.
const PAGES: u32 = 1000;
/// The most tags of one repository: what a stranger lists is kept in memory.
const TAGS: usize = 100_000;
const USER_AGENT: &str = concat!("tug/", env!("CARGO_PKG_VERSION"));

/// A repository of a remote registry.
#[derive(Clone)]
pub struct Remote {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub host: Host,
    pub base: String,
    pub repository: String,
    /// As people name it, for messages.
    pub familiar: String,
    pub push: bool,
    pub auth: Option<Auth>,
    /// The header that has worked, by scope.
    pub tokens: Mutex<HashMap<String, String>>,
    /// How long the registry may say nothing.
    pub patience: Duration,
    /// How often something is tried.
    pub attempts: u32,
}

/// What a request may carry.
pub(super) enum Payload {
    Empty,
    Whole(Bytes, String),
    Stream(Body),
}

impl Remote {
    /// Finds out how to speak to the registry of `reference` (or the first of its mirrors that answers): HTTPS, or HTTP
    /// where that is allowed.
    pub async fn connect(
        reference: &Reference,
        auth: Option<Auth>,
        push: bool,
        config: &RegistryConfig,
    ) -> Result<Self> {
        let mut last = None;
        for host in hosts(reference, push, config)? {
            match Self::reach(host, reference, auth.clone(), push, config).await {
                Ok(remote) => return Ok(remote),
                Err(e @ Error::Denied(_)) => return Err(e),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| Error::Registry(format!("no way to reach {}", reference.domain))))
    }

    /// The repository at one host.
    pub(super) async fn reach(
        host: Host,
        reference: &Reference,
        auth: Option<Auth>,
        push: bool,
        config: &RegistryConfig,
    ) -> Result<Self> {
        let mut last = None;
        for base in host.bases.clone() {
            let remote = Self {
                shared: Arc::new(Shared {
                    base,
                    repository: reference.path.clone(),
                    familiar: if reference.path.is_empty() {
                        String::new()
                    } else {
                        reference.familiar_name()
                    },
                    push,
                    auth: auth.clone().filter(|_| !host.mirror),
                    tokens: Mutex::default(),
                    patience: config.patience,
                    attempts: config.attempts.max(1),
                    host: host.clone(),
                }),
            };
            match remote.ping().await {
                Ok(()) => return Ok(remote),
                Err(e @ Error::Denied(_)) => return Err(e),
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| Error::Registry(format!("no way to reach {}", reference.domain))))
    }

    /// Asks for `/v2/`: is this a registry?
    async fn ping(&self) -> Result<()> {
        let uri = self.uri("")?;
        let request = self.request(Method::GET, &uri, &HeaderMap::new(), Payload::Empty, None)?;
        let response = self.ask(request).await?;
        match response.status() {
            s if s.is_success() => Ok(()),
            // Which credentials it wants depends on what is asked for.
            StatusCode::UNAUTHORIZED => Ok(()),
            // One that is in trouble may be out of it when it is asked for something.
            s if is_passing(s) => Ok(()),
            s => Err(Error::Registry(format!(
                "Get \"{uri}\": unexpected status {s}: this does not look like a registry"
            ))),
        }
    }

    pub(super) fn uri(&self, path: &str) -> Result<Uri> {
        let text = format!("{}/v2/{path}", self.shared.base);
        text.parse().map_err(|e| Error::Registry(format!("{text}: {e}")))
    }

    pub(super) fn repository_uri(&self, path: &str) -> Result<Uri> {
        self.uri(&format!("{}/{path}", self.shared.repository))
    }

    /// What requests need to be allowed; logging in needs nothing.
    fn scope(&self) -> String {
        if self.shared.repository.is_empty() {
            return String::new();
        }
        let actions = if self.shared.push { "pull,push" } else { "pull" };
        format!("repository:{}:{actions}", self.shared.repository)
    }

    pub(super) fn request(
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

    /// Sends a request whose body is at hand; a registry that does not begin to answer is given up.
    pub(super) async fn ask(&self, request: http::Request<Body>) -> Result<Response<Incoming>> {
        let what = format!("{} \"{}\"", request.method(), request.uri());
        // A peer that vanished sends nothing, not even an end: only time tells.
        // What is written may take the registry a while.
        let patience = match *request.method() {
            Method::GET | Method::HEAD => self.shared.patience,
            _ => self.shared.patience * 3,
        };
        match tokio::time::timeout(patience, self.shared.host.client.send(request)).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::Unreachable(format!(
                "{what}: the registry did not answer within {} s",
                patience.as_secs()
            ))),
        }
    }

    /// Whether an address is the registry's own: the credentials are for it alone, and not for whatever else its answers
    /// name (redirects, uploads, pages).
    fn is_own(&self, uri: &Uri) -> bool {
        let own = self.shared.base.parse::<Uri>().ok();
        own.is_some_and(|own| origin(&own) == origin(uri) && origin(uri).is_some())
    }

    /// Sends a request with whatever authentication is wanted, if it goes to the registry itself; redirects are followed
    /// for reads. A payload that cannot be sent twice must come after a request that has settled the authentication.
    pub(super) async fn send(
        &self,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        payload: Payload,
    ) -> Result<Response<Incoming>> {
        self.send_for(&self.scope(), method, uri, headers, payload).await
    }

    async fn send_for(
        &self,
        scope: &str,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        payload: Payload,
    ) -> Result<Response<Incoming>> {
        let token = |at: &Uri| self.shared.tokens.lock().get(scope).filter(|_| self.is_own(at)).cloned();
        let payload = match payload {
            Payload::Stream(body) => {
                let token = token(&uri);
                let request =
                    self.request(method, &uri, &headers, Payload::Stream(body), token.as_deref())?;
                // It answers when it has everything, however long that takes: the stream has its own patience.
                return self.shared.host.client.send(request).await;
            }
            other => other,
        };
        let (mut at, mut redirects, mut challenged, mut failures) = (uri, 0, false, 0);
        loop {
            let token = token(&at);
            let again = match &payload {
                Payload::Whole(bytes, kind) => Payload::Whole(bytes.clone(), kind.clone()),
                _ => Payload::Empty,
            };
            let request = self.request(method.clone(), &at, &headers, again, token.as_deref())?;
            let response = match self.ask(request).await {
                Ok(r) => r,
                Err(e @ Error::Registry(_)) if failures + 1 < self.shared.attempts => {
                    failures += 1;
                    tracing::debug!(error = %e, "asking the registry again");
                    back_off(failures, None).await;
                    continue;
                }
                Err(e) => return Err(e),
            };
            match response.status() {
                StatusCode::UNAUTHORIZED if !challenged && self.is_own(&at) => {
                    challenged = true;
                    self.authenticate(response.headers(), scope).await?;
                }
                s if is_passing(s) && failures + 1 < self.shared.attempts => {
                    failures += 1;
                    back_off(failures, retry_after(response.headers())).await;
                }
                s if s.is_redirection()
                    && redirects < REDIRECTS
                    && (method == Method::GET || method == Method::HEAD) =>
                {
                    redirects += 1;
                    let location = response.headers().get(header::LOCATION).and_then(|l| l.to_str().ok());
                    let location =
                        location.ok_or_else(|| Error::Registry(format!("{at}: a redirect to nowhere")))?;
                    at = follow(&at, location)?;
                }
                s if s.is_redirection() => {
                    return Err(Error::Registry(format!("{at}: more than {REDIRECTS} redirects")));
                }
                _ => return Ok(response),
            }
        }
    }

    /// A name and a password are wanted, and none are known: what has to be done is to log in there.
    pub(super) fn no_credentials(&self) -> Error {
        let what = "no basic auth credentials";
        Error::Registry(match self.shared.push {
            true => what.into(),
            false => format!("Get \"{}/v2/\": {what}", self.shared.base),
        })
    }

    pub(super) fn denied(&self, why: &str) -> Error {
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
    pub(super) async fn failure(&self, what: &str, response: Response<Incoming>) -> Error {
        let status = response.status();
        let text = read_limited(response, self.shared.patience).await.unwrap_or_default();
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
            // A registry that says why it refuses a push (a quota, a rule) says it to the user.
            StatusCode::FORBIDDEN if self.shared.push && first.is_some() => Error::Denied(why),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.denied(&why),
            StatusCode::NOT_FOUND => Error::NotFound(format!("{what} not found: {why}")),
            _ => Error::Registry(format!("{what}: {why}")),
        }
    }

    /// A blob's length without its content; `None` if the registry does not tell it.
    pub async fn blob_length(&self, digest: &str) -> Result<Option<u64>> {
        let uri = self.repository_uri(&format!("blobs/{digest}"))?;
        let response = self.send(Method::HEAD, uri, HeaderMap::new(), Payload::Empty).await?;
        if !response.status().is_success() {
            return Err(self.failure(&format!("blob {digest}"), response).await);
        }
        Ok(length_of(&response))
    }

    /// A blob's content, and its length if the registry tells it.
    pub async fn open(&self, digest: &str) -> Result<(Option<u64>, BlobStream)> {
        let (response, at) = self.open_blob(digest, 0).await?;
        Ok((length_of(&response), self.pieces(digest, response, at, 0)))
    }

    /// A blob's pieces from the byte `from` on, of an answer that begins at `at`.
    fn pieces(&self, digest: &str, response: Response<Incoming>, at: u64, from: u64) -> BlobStream {
        // What waits here is memory, and pieces are as large as the network gives them.
        let (tx, rx) = tokio::sync::mpsc::channel(4);
        tokio::spawn(self.clone().download(digest.to_string(), response, at, from, tx));
        rx
    }

    /// Every tag of the repository.
    pub async fn tags(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let mut at = self.repository_uri("tags/list")?;
        let mut all = Vec::new();
        for _ in 0..PAGES {
            let response = self.send(Method::GET, at.clone(), HeaderMap::new(), Payload::Empty).await?;
            if !response.status().is_success() {
                return Err(self.failure(&self.shared.familiar.clone(), response).await);
            }
            let next = response.headers().get(header::LINK).and_then(|l| l.to_str().ok());
            let next = next.and_then(|l| l.strip_prefix('<')?.split_once('>')).map(|(u, _)| u.to_string());
            let bytes = read_limited(response, self.shared.patience).await?;
            let page: Page =
                serde_json::from_slice(&bytes).map_err(|e| Error::Registry(format!("{at}: {e}")))?;
            for tag in page.tags.unwrap_or_default() {
                if !is_tag(&tag) {
                    return Err(Error::Registry(format!("{at}: {tag:?} is no name of a tag")));
                }
                all.push(tag);
            }
            if all.len() > TAGS {
                return Err(Error::Registry(format!(
                    "{}: the list has more than {TAGS} tags",
                    self.shared.familiar
                )));
            }
            let Some(next) = next else { return Ok(all) };
            at = follow(&at, &next)?;
        }
        Err(Error::Registry(format!("{}: the list of tags does not end", self.shared.familiar)))
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
        if media_type.starts_with("text/html") {
            return Err(Error::Registry(format!(
                "{} answered with a web page instead of a manifest: is it a registry, or does a proxy want a login?",
                self.shared.base
            )));
        }
        let bytes = read_limited(response, self.shared.patience).await?;
        let digest = digest_as(&bytes, reference);
        if reference.contains(':') && digest != reference {
            return Err(Error::Corrupt(format!(
                "manifest verification failed for digest {reference}: the content has {digest}"
            )));
        }
        Ok(Document { media_type, digest, bytes })
    }

    async fn blob_from(&self, digest: &str, from: u64) -> Result<BlobStream> {
        let (response, at) = self.open_blob(digest, from).await?;
        Ok(self.pieces(digest, response, at, from))
    }

    async fn has_blob(&self, digest: &str) -> Result<bool> {
        match self.blob_length(digest).await {
            Err(e) if e.is_not_found() => Ok(false),
            other => other.map(|_| true),
        }
    }

    async fn mount(&self, digest: &str, from: &str) -> Result<bool> {
        let encoded = utf8_percent_encode(from, NON_ALPHANUMERIC);
        let uri = self.repository_uri(&format!("blobs/uploads/?mount={digest}&from={encoded}"))?;
        // Reading the other repository must be allowed too.
        let scope = format!("{} repository:{from}:pull", self.scope());
        let nothing = Payload::Whole(Bytes::new(), OCTETS.into());
        let response = self.send_for(&scope, Method::POST, uri, HeaderMap::new(), nothing).await?;
        match response.status() {
            StatusCode::CREATED => Ok(true),
            s if s.is_success() => Ok(false),
            StatusCode::NOT_FOUND | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Ok(false),
            _ => Err(self.failure(&format!("blob {digest}"), response).await),
        }
    }

    async fn upload(&self, content: BlobStream, digest: oneshot::Receiver<String>) -> Result<()> {
        self.send_blob(content, digest).await
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

/// A URL that an answer gives, seen from the one that was asked.
pub(crate) fn join(base: &Uri, location: &str) -> Result<Uri> {
    let bad = |e: &dyn std::fmt::Display| Error::Registry(format!("{base}: redirect to {location:?}: {e}"));
    let uri: Uri = location.parse().map_err(|e| bad(&e))?;
    if uri.scheme().is_some() {
        return Ok(uri);
    }
    let mut parts = base.clone().into_parts();
    parts.path_and_query = uri.into_parts().path_and_query;
    Uri::from_parts(parts).map_err(|e| bad(&e))
}

/// The same where it is to be asked, too: what came over TLS leads to nothing that is not encrypted.
pub(super) fn follow(base: &Uri, location: &str) -> Result<Uri> {
    let to = join(base, location)?;
    if base.scheme_str() == Some("https") && to.scheme_str() != Some("https") {
        return Err(Error::Registry(format!(
            "{base}: the answer leads to {to}, which is not encrypted, and is not followed: if a proxy stands before the \
             registry, let it pass on X-Forwarded-Proto"
        )));
    }
    Ok(to)
}

/// Scheme, host and port of an address.
fn origin(uri: &Uri) -> Option<(&str, String, u16)> {
    let scheme = uri.scheme_str()?;
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    Some((scheme, uri.host()?.to_ascii_lowercase(), port))
}

/// The length that an answer gives for its content.
pub(super) fn length_of(response: &Response<Incoming>) -> Option<u64> {
    response.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Reads an answer that is no blob.
pub(super) async fn read_limited(response: Response<Incoming>, patience: Duration) -> Result<Bytes> {
    let reading = http_body_util::Limited::new(response.into_body(), DOCUMENT_LIMIT).collect();
    match tokio::time::timeout(patience, reading).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) => Err(Error::Registry(format!("reading the registry's answer: {e}"))),
        Err(_) => {
            Err(Error::Registry(format!("the registry's answer took more than {} s", patience.as_secs())))
        }
    }
}

/// Whether asking again may help.
pub(super) fn is_passing(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS
            | StatusCode::INTERNAL_SERVER_ERROR
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The seconds after which the registry wants to be asked again.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok()
}

/// Waits before another attempt: there is no event that says when a registry has recovered.
pub(super) async fn back_off(failures: u32, asked: Option<u64>) {
    let millis = match asked {
        Some(seconds) => seconds.min(30) * 1000,
        None => (250u64 << failures.min(6)) + (base::rng::fraction() * 250.0) as u64,
    };
    tokio::time::sleep(Duration::from_millis(millis)).await;
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
    // As for a push: mirrors know no users.
    let remote = Remote::connect(&reference, Some(auth.clone()), true, config).await?;
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
    fn what_a_registry_names_is_not_always_the_registry() {
        let uri = |s: &str| s.parse::<Uri>().unwrap();
        let at = |s: &str| origin(&uri(s)).unwrap() == origin(&uri("https://Reg.example/v2/")).unwrap();
        assert!(at("https://reg.example/x") && at("https://reg.example:443/x"));
        assert!(!at("http://reg.example/x") && !at("https://reg.example:5000/x"));
        assert!(!at("https://storage.example/x") && !at("http://reg.example:443/x"));
        let base = uri("https://reg.example/v2/a/blobs/uploads/");
        assert!(follow(&base, "/v2/a/blobs/uploads/1").is_ok());
        assert!(follow(&base, "https://storage.example/1").is_ok());
        let refused = follow(&base, "http://reg.example/v2/a/blobs/uploads/1").unwrap_err().to_string();
        assert!(refused.contains("not encrypted"), "{refused}");
        assert!(follow(&uri("http://localhost:5000/v2/"), "http://localhost:5000/1").is_ok());
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
        let e = login_with("localhost:1", &Auth::default(), &RegistryConfig::default()).await.unwrap_err();
        assert!(e.to_string().contains("connection refused"));
    }
}
