//! The API server over HTTPS: HTTP/2 for calls and watches, HTTP/1.1 for what switches protocols.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use api::{Gvr, Object, Value};
use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::calls::{checked, encode, refusal};
use crate::{
    BoxBody, BoxStream, Duplex, Endpoint, Error, ListOptions, ObjectList, Result, Transport, WatchEvent,
    WatchKind, WatchOptions,
};

/// How long a connection attempt may take.
const CONNECT: Duration = Duration::from_secs(10);
/// After so long without a byte a connection is asked whether it still lives, because a peer that vanished says nothing.
const PING: Duration = Duration::from_secs(30);

/// What proves who one is, apart from a certificate.
#[derive(Clone, Default)]
pub enum Auth {
    /// Nothing.
    #[default]
    None,
    /// A bearer token.
    Token(String),
    /// A file with a bearer token, read anew for each request because it is renewed in place.
    TokenFile(PathBuf),
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Auth::None => f.write_str("None"),
            Auth::Token(_) => f.write_str("Token"),
            Auth::TokenFile(path) => f.debug_tuple("TokenFile").field(path).finish(),
        }
    }
}

type Connector = HttpsConnector<HttpConnector<sockets::Resolver>>;

/// The transport. See the module's documentation.
pub struct Https {
    base: String,
    auth: Auth,
    pool: Pool<Connector, Full<Bytes>>,
    /// HTTP/1.1 only: HTTP/2 cannot switch protocols.
    single: Pool<Connector, Full<Bytes>>,
}

impl Https {
    /// A transport to `endpoint`. Connections are made when needed.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        let wrong = |e: &dyn std::fmt::Display| Error::Config(format!("{}: {e}", endpoint.server));
        let base = endpoint.server.trim_end_matches('/').to_owned();
        if !base.starts_with("https://") {
            return Err(wrong(&"the server's address must begin with https://"));
        }
        base.parse::<Uri>().map_err(|e| wrong(&e))?;
        let trust = pki::Trust::given(&endpoint.ca_pem);
        let tls = pki::client_config(&trust, endpoint.identity.as_ref()).map_err(|e| wrong(&e))?;
        let resolver = sockets::Resolver::default();
        let connector = || {
            let mut tcp = HttpConnector::new_with_resolver(resolver.clone());
            tcp.enforce_http(false);
            tcp.set_nodelay(true);
            tcp.set_connect_timeout(Some(CONNECT));
            tcp.set_keepalive(Some(PING));
            tcp
        };
        let builder = |tls: rustls::ClientConfig| {
            let b = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_only();
            match endpoint.server_name.clone() {
                Some(name) => {
                    let name = rustls_pki_types::ServerName::try_from(name).map_err(|e| wrong(&e))?;
                    Ok::<_, Error>(
                        b.with_server_name_resolver(hyper_rustls::FixedServerNameResolver::new(name)),
                    )
                }
                None => Ok(b),
            }
        };
        let pool = Pool::builder(TokioExecutor::new())
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(CONNECT)
            .timer(TokioTimer::new())
            .build(builder(tls.clone())?.enable_all_versions().wrap_connector(connector()));
        let single = Pool::builder(TokioExecutor::new())
            .build(builder(tls)?.enable_http1().wrap_connector(connector()));
        Ok(Self { base, auth: endpoint.auth.clone(), pool, single })
    }

    async fn prepare<B>(&self, request: Request<B>) -> Result<Request<B>> {
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |p| p.as_str());
        parts.uri =
            format!("{}{path}", self.base).parse().map_err(|e| Error::Config(format!("{path}: {e}")))?;
        let token = match &self.auth {
            Auth::None => None,
            Auth::Token(t) => Some(t.clone()),
            Auth::TokenFile(path) => {
                let text = tokio::fs::read_to_string(path).await;
                Some(text.map_err(|e| Error::Config(format!("{}: {e}", path.display())))?.trim().to_owned())
            }
        };
        if let Some(token) = token
            && !parts.headers.contains_key(header::AUTHORIZATION)
        {
            let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
                .map_err(|_| Error::Config("the token has characters that no header may have".into()))?;
            value.set_sensitive(true);
            parts.headers.insert(header::AUTHORIZATION, value);
        }
        Ok(Request::from_parts(parts, body))
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Incoming>> {
        let request = self.prepare(request).await?.map(Full::new);
        self.counted(&self.pool, request).await
    }

    /// Sends a request, and counts it.
    async fn counted(
        &self,
        pool: &Pool<Connector, Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>> {
        let method = request.method().clone();
        let host = self.base.strip_prefix("https://").unwrap_or(&self.base);
        let started = tokio::time::Instant::now();
        let answer = pool.request(request).await;
        let code = answer.as_ref().ok().map(Response::status);
        crate::metrics::requested(host, &method, code, started.elapsed());
        answer.map_err(|e| broken(&e))
    }

    fn query(gvr: &Gvr, ns: Option<&str>, parameters: &[(&str, String)]) -> Result<Request<Bytes>> {
        let mut path = gvr.path(ns);
        for (i, (name, value)) in parameters.iter().filter(|(_, v)| !v.is_empty()).enumerate() {
            path = format!("{path}{}{name}={}", if i == 0 { '?' } else { '&' }, encode(value));
        }
        let request = Request::get(path).header(header::ACCEPT, "application/json").body(Bytes::new());
        request.map_err(|e| Error::Config(e.to_string()))
    }
}

/// The whole chain of causes: hyper's own text says little.
fn broken(e: &dyn std::error::Error) -> Error {
    let mut text = e.to_string();
    let mut cause = e.source();
    while let Some(c) = cause {
        text = format!("{text}: {c}");
        cause = c.source();
    }
    Error::Transport(text)
}

#[async_trait]
impl Transport for Https {
    async fn call(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let (parts, body) = self.send(request).await?.into_parts();
        let body = body.collect().await.map_err(|e| broken(&e))?.to_bytes();
        Ok(Response::from_parts(parts, body))
    }

    async fn open(&self, request: Request<Bytes>) -> Result<Response<BoxBody>> {
        Ok(self.send(request).await?.map(|b| b.map_err(|e| broken(&e)).boxed_unsync()))
    }

    async fn upgrade(&self, request: Request<()>) -> Result<(Response<()>, Box<dyn Duplex>)> {
        let request = self.prepare(request).await?.map(|()| Full::new(Bytes::new()));
        let response = self.counted(&self.single, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let code = response.status();
            let body = response.into_body().collect().await.map_err(|e| broken(&e))?.to_bytes();
            return Err(refusal(code, &body));
        }
        let mut head = Response::new(());
        *head.status_mut() = response.status();
        *head.headers_mut() = response.headers().clone();
        let upgraded = hyper::upgrade::on(response).await.map_err(|e| broken(&e))?;
        Ok((head, Box::new(TokioIo::new(upgraded))))
    }

    async fn list(&self, gvr: &Gvr, ns: Option<&str>, o: &ListOptions) -> Result<ObjectList> {
        let any = o.any_revision && o.next.is_empty();
        let request = Self::query(
            gvr,
            ns,
            &[
                ("labelSelector", o.labels.to_string()),
                ("fieldSelector", o.fields.to_string()),
                ("limit", if o.limit > 0 { o.limit.to_string() } else { String::new() }),
                ("continue", o.next.clone()),
                ("resourceVersion", if any { "0".into() } else { String::new() }),
            ],
        )?;
        let response = self.call(request).await?;
        decode_list(checked(&response)?)
    }

    async fn watch(
        &self,
        gvr: &Gvr,
        ns: Option<&str>,
        o: &WatchOptions,
    ) -> Result<BoxStream<'static, Result<WatchEvent>>> {
        let request = Self::query(
            gvr,
            ns,
            &[
                ("watch", "true".into()),
                ("labelSelector", o.labels.to_string()),
                ("fieldSelector", o.fields.to_string()),
                ("resourceVersion", o.revision.to_string()),
                ("allowWatchBookmarks", if o.bookmarks { "true".into() } else { String::new() }),
            ],
        )?;
        let response = self.send(request).await?;
        if !response.status().is_success() {
            let code = response.status();
            let body = response.into_body().collect().await.map_err(|e| broken(&e))?.to_bytes();
            return Err(refusal(code, &body));
        }
        let lines =
            Lines { body: response.into_body().into_data_stream(), buffer: BytesMut::new(), searched: 0 };
        Ok(Box::pin(futures::stream::unfold(Some(lines), |lines| async {
            let mut lines = lines?;
            match lines.next().await {
                Ok(Some(line)) => match decode_event(&line) {
                    Ok(event) => Some((Ok(event), Some(lines))),
                    Err(e) => Some((Err(e), None)),
                },
                Ok(None) => None,
                Err(e) => Some((Err(e), None)),
            }
        })))
    }
}

/// A body cut at its newlines.
struct Lines {
    body: http_body_util::BodyDataStream<Incoming>,
    buffer: BytesMut,
    /// How much of the buffer is known to have no newline.
    searched: usize,
}

impl Lines {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|b| *b == b'\n') {
                let line = self.buffer.split_to(self.searched + at).freeze();
                self.buffer.advance(1);
                self.searched = 0;
                if !line.is_empty() {
                    return Ok(Some(line));
                }
                continue;
            }
            self.searched = self.buffer.len();
            match self.body.next().await {
                Some(Ok(data)) => self.buffer.extend_from_slice(&data),
                Some(Err(e)) => return Err(broken(&e)),
                // What is left over was cut off in the middle: the watch resumes before it.
                None => return Ok(None),
            }
        }
    }
}

pub(crate) fn decode_event(line: &[u8]) -> Result<WatchEvent> {
    #[derive(Deserialize)]
    struct Raw<'a> {
        #[serde(rename = "type")]
        kind: &'a str,
        #[serde(borrow)]
        object: &'a RawValue,
    }
    let wrong = |e: &dyn std::fmt::Display| Error::Decode(format!("a watch event: {e}"));
    let raw: Raw<'_> = serde_json::from_slice(line).map_err(|e| wrong(&e))?;
    let kind = match raw.kind {
        "ADDED" => WatchKind::Added,
        "MODIFIED" => WatchKind::Modified,
        "DELETED" => WatchKind::Deleted,
        "BOOKMARK" => WatchKind::Bookmark,
        "ERROR" => return Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, raw.object.get().as_bytes())),
        other => return Err(wrong(&format!("unknown type {other:?}"))),
    };
    let object =
        Object::from_json(Bytes::copy_from_slice(raw.object.get().as_bytes())).map_err(|e| wrong(&e))?;
    Ok(WatchEvent { kind, object })
}

pub(crate) fn decode_list(body: &Bytes) -> Result<ObjectList> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Raw<'a> {
        #[serde(default)]
        api_version: String,
        #[serde(default)]
        kind: String,
        #[serde(default)]
        metadata: Meta,
        #[serde(borrow, default)]
        items: Option<Vec<&'a RawValue>>,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct Meta {
        resource_version: String,
        #[serde(rename = "continue")]
        next: String,
    }
    let wrong = |e: &dyn std::fmt::Display| Error::Decode(format!("a list: {e}"));
    let raw: Raw<'_> = serde_json::from_slice(body).map_err(|e| wrong(&e))?;
    let kind = raw.kind.strip_suffix("List").unwrap_or(&raw.kind);
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{}",
        Value::String(kind.to_owned()),
        Value::String(raw.api_version.clone())
    );
    let mut items = Vec::new();
    for item in raw.items.unwrap_or_default() {
        let text = item.get().as_bytes();
        let mut object = Object::from_json(body.slice_ref(text)).map_err(|e| wrong(&e))?;
        if object.kind().is_empty() {
            // Items of typed lists do not say what they are.
            let rest = item.get().trim_start().trim_start_matches('{');
            let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
            object = Object::from_json(Bytes::from(format!("{head}{comma}{rest}"))).map_err(|e| wrong(&e))?;
        }
        items.push(object);
    }
    Ok(ObjectList {
        revision: raw.metadata.resource_version.parse().unwrap_or(0),
        items,
        next: raw.metadata.next,
    })
}

/// A transport that can be shared.
impl From<Https> for Arc<dyn Transport> {
    fn from(https: Https) -> Self {
        Arc::new(https)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_say_what_their_items_are() {
        let body = Bytes::from_static(
            br#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"9","continue":"c"},
            "items":[{"metadata":{"name":"a"}},{"kind":"X","apiVersion":"g/v1","metadata":{"name":"b"}},{}]}"#,
        );
        let list = decode_list(&body).unwrap();
        assert_eq!((list.revision, list.next.as_str()), (9, "c"));
        let got: Vec<_> = list.items.iter().map(|o| (o.kind(), o.api_version(), o.name())).collect();
        assert_eq!(got, [("Pod", "v1", "a"), ("X", "g/v1", "b"), ("Pod", "v1", "")]);
        assert!(decode_list(&Bytes::from_static(br#"{"items":null}"#)).unwrap().items.is_empty());
        assert!(decode_list(&Bytes::from_static(b"[")).is_err());
    }

    #[test]
    fn events() {
        let e = decode_event(
            br#"{"type":"MODIFIED","object":{"kind":"Pod","metadata":{"name":"a","resourceVersion":"3"}}}"#,
        )
        .unwrap();
        assert_eq!((e.kind, e.object.name(), e.object.revision()), (WatchKind::Modified, "a", 3));
        let gone = decode_event(br#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Expired","code":410,"message":"too old"}}"#);
        assert!(gone.unwrap_err().is_expired());
        assert!(decode_event(br#"{"type":"NEW","object":{}}"#).is_err());
    }
}
