//! The protocol: which request means what.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited, StreamBody};
use hyper::body::{Frame, Incoming};
use image::reference;
use image::registry::manifest::{is_index, media};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::storage::{About, Storage, Stored};

/// The largest manifest, in bytes (the specification asks for 4 MiB at least).
const MANIFEST_LIMIT: usize = 4 << 20;
const PIECE: usize = 256 * 1024;
/// Pieces that may wait between the network and the disk.
const AHEAD: usize = 4;

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

/// The parts of a request besides its body.
struct Call {
    storage: Arc<Storage>,
    method: Method,
    headers: HeaderMap,
    query: Vec<(String, String)>,
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
}

/// Answers a request; an error becomes the protocol's document.
pub(crate) async fn answer(storage: &Arc<Storage>, request: Request<Incoming>) -> Answer {
    let (parts, incoming) = request.into_parts();
    let decode =
        |s: &str| percent_encoding::percent_decode_str(&s.replace('+', " ")).decode_utf8_lossy().into_owned();
    let query = parts.uri.query().unwrap_or_default().split('&').filter(|p| !p.is_empty()).map(|p| {
        let (name, value) = p.split_once('=').unwrap_or((p, ""));
        (decode(name), decode(value))
    });
    let call = Call {
        storage: storage.clone(),
        method: parts.method.clone(),
        headers: parts.headers,
        query: query.collect(),
    };
    let path = percent_encoding::percent_decode_str(parts.uri.path()).decode_utf8_lossy().into_owned();
    let result = route(&call, &path, incoming).await;
    let mut response = result.unwrap_or_else(|error| {
        let (status, code, message) = error.parts();
        if status.is_server_error() {
            tracing::warn!(%path, %error, "a request failed");
        }
        let document = json!({"errors": [{"code": code, "message": message, "detail": null}]});
        let mut r =
            Response::new(if parts.method == Method::HEAD { body("") } else { body(document.to_string()) });
        *r.status_mut() = status;
        r.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        r
    });
    let version = header::HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert("docker-distribution-api-version", version);
    response
}

async fn route(call: &Call, path: &str, incoming: Incoming) -> Result<Answer> {
    let read = call.method == Method::GET || call.head();
    let Some(rest) = path.strip_prefix("/v2") else {
        return Err(Error::not_found(format!("{path} is no path of a registry")));
    };
    let rest = rest.trim_start_matches('/');
    if rest.is_empty() {
        return if read { json_answer(call, &json!({}), &[]) } else { Err(wrong_method(call)) };
    }
    if rest == "_catalog" {
        return if read { catalogue(call).await } else { Err(wrong_method(call)) };
    }
    if let Some(name) = rest.strip_suffix("/tags/list") {
        let name = repository(name)?;
        return if read { tags(call, name).await } else { Err(wrong_method(call)) };
    }
    if let Some(name) = rest.strip_suffix("/blobs/uploads").or_else(|| rest.strip_suffix("/blobs/uploads/")) {
        let name = repository(name)?;
        return if call.method == Method::POST {
            begin(call, name, incoming).await
        } else {
            Err(wrong_method(call))
        };
    }
    let (front, last) = rest.rsplit_once('/').unwrap_or(("", rest));
    if let Some(name) = front.strip_suffix("/blobs/uploads") {
        return upload(call, repository(name)?, last, incoming).await;
    }
    if let Some(name) = front.strip_suffix("/blobs") {
        return blob(call, repository(name)?, last).await;
    }
    if let Some(name) = front.strip_suffix("/manifests") {
        return manifest(call, repository(name)?, last, incoming).await;
    }
    if let Some(name) = front.strip_suffix("/referrers") {
        let name = repository(name)?;
        return if read { referrers(call, name, last).await } else { Err(wrong_method(call)) };
    }
    Err(Error::not_found(format!("{path} is no path of a registry")))
}

fn wrong_method(call: &Call) -> Error {
    Error::unsupported(format!("{} is not supported here", call.method))
}

fn repository(name: &str) -> Result<&str> {
    if reference::is_repository(name) {
        return Ok(name);
    }
    Err(Error::name_invalid(format!("invalid repository name {name:?}")))
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

/// `n` and `last` of a paged list; without `n`, everything.
fn page(call: &Call) -> Result<(u64, String)> {
    let n = match call.parameter("n") {
        None | Some("") => u64::MAX,
        Some(n) => {
            n.parse().map_err(|_| Error::page_invalid(format!("invalid number of results requested: {n}")))?
        }
    };
    Ok((n, call.parameter("last").unwrap_or_default().to_string()))
}

/// The link to the next page, where one more was found than asked for.
fn next_page(path: &str, n: u64, list: &mut Vec<String>) -> Vec<(&'static str, String)> {
    let Ok(n) = usize::try_from(n) else { return Vec::new() };
    if list.len() <= n {
        return Vec::new();
    }
    list.truncate(n);
    let Some(last) = list.last() else { return Vec::new() };
    let last = percent_encoding::utf8_percent_encode(last, percent_encoding::NON_ALPHANUMERIC);
    vec![("link", format!("<{path}?last={last}&n={n}>; rel=\"next\""))]
}

async fn catalogue(call: &Call) -> Result<Answer> {
    let (n, last) = page(call)?;
    let storage = call.storage.clone();
    let mut list = blocking(move || storage.repositories(&last, n.saturating_add(1))).await?;
    let link = next_page("/v2/_catalog", n, &mut list);
    json_answer(call, &json!({"repositories": list}), &link)
}

async fn tags(call: &Call, name: &str) -> Result<Answer> {
    let (n, last) = page(call)?;
    let (storage, repository) = (call.storage.clone(), name.to_string());
    let mut list = blocking(move || {
        if !storage.knows(&repository)? {
            return Err(Error::name_unknown(format!("repository name not known to registry: {repository}")));
        }
        storage.tags(&repository, &last, n.saturating_add(1))
    })
    .await?;
    let link = next_page(&format!("/v2/{name}/tags/list"), n, &mut list);
    json_answer(call, &json!({"name": name, "tags": list}), &link)
}

async fn blob(call: &Call, name: &str, digest: &str) -> Result<Answer> {
    let digest = Digest::parse(digest)?;
    let (storage, repository, d) = (call.storage.clone(), name.to_string(), digest.clone());
    if call.method == Method::DELETE {
        blocking(move || storage.delete_blob(&repository, &d)).await?;
        return made(builder(StatusCode::ACCEPTED).header(header::CONTENT_LENGTH, 0), body(""));
    }
    if call.method != Method::GET && !call.head() {
        return Err(wrong_method(call));
    }
    let (file, length) = blocking(move || storage.blob(&repository, &d)).await?;
    let range = match call.header("range") {
        Some(range) => Some(parse_range(range, length)?),
        None => None,
    };
    let (from, to) = range.unwrap_or((0, length));
    let mut b = builder(if range.is_some() { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK })
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::CONTENT_LENGTH, to - from)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, format!("\"{digest}\""))
        .header("docker-content-digest", digest.as_str());
    if range.is_some() {
        b = b.header(header::CONTENT_RANGE, format!("bytes {from}-{}/{length}", to.saturating_sub(1)));
    }
    made(b, if call.head() { body("") } else { stream_file(file, from, to - from) })
}

/// `bytes=A-B`, `bytes=A-`, `bytes=-N` as a half-open range.
fn parse_range(text: &str, length: u64) -> Result<(u64, u64)> {
    let bad = || Error::range_invalid(format!("range {text:?} cannot be had of {length} bytes"));
    let (a, b) = text.strip_prefix("bytes=").and_then(|r| r.split_once('-')).ok_or_else(bad)?;
    let number = |s: &str| s.parse::<u64>().map_err(|_| bad());
    let (from, to) = match (a, b) {
        ("", n) => (length.saturating_sub(number(n)?), length),
        (a, "") => (number(a)?, length),
        (a, b) => (number(a)?, number(b)?.saturating_add(1).min(length)),
    };
    if from >= to { Err(bad()) } else { Ok((from, to)) }
}

fn stream_file(mut file: File, from: u64, length: u64) -> Body {
    let (tx, rx) = mpsc::channel::<std::io::Result<Frame<Bytes>>>(AHEAD);
    tokio::task::spawn_blocking(move || {
        let mut send = || -> std::io::Result<()> {
            file.seek(SeekFrom::Start(from))?;
            let mut left = length;
            while left > 0 {
                let mut buf = vec![0u8; PIECE.min(usize::try_from(left).unwrap_or(PIECE))];
                file.read_exact(&mut buf)?;
                left -= buf.len() as u64;
                if tx.blocking_send(Ok(Frame::data(buf.into()))).is_err() {
                    return Ok(());
                }
            }
            Ok(())
        };
        if let Err(e) = send() {
            // The connection breaks off, which tells the client that the body is not whole.
            let _ = tx.blocking_send(Err(e));
        }
    });
    let stream = futures::stream::unfold(rx, |mut rx| async move { Some((rx.recv().await?, rx)) });
    StreamBody::new(stream).boxed_unsync()
}

/// `POST .../blobs/uploads/`: a mount, a whole blob, or the start of an upload.
async fn begin(call: &Call, name: &str, incoming: Incoming) -> Result<Answer> {
    if let Some(digest) = call.parameter("mount") {
        let digest = Digest::parse(digest)?;
        let from = call.parameter("from").filter(|f| !f.is_empty()).map(ToString::to_string);
        let (storage, repository, d) = (call.storage.clone(), name.to_string(), digest.clone());
        if blocking(move || storage.mount(&repository, &d, from.as_deref())).await? {
            return created(name, "blobs", &digest, &[]);
        }
    }
    let (storage, repository) = (call.storage.clone(), name.to_string());
    let id = blocking(move || storage.begin(&repository)).await?;
    if let Some(digest) = call.parameter("digest") {
        let digest = Digest::parse(digest)?;
        receive(call, &id, incoming).await?;
        return finish(call, name, &id, digest).await;
    }
    accepted(name, &id, 0, StatusCode::ACCEPTED)
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

fn accepted(name: &str, id: &str, length: u64, status: StatusCode) -> Result<Answer> {
    let b = builder(status)
        .header(header::LOCATION, format!("/v2/{name}/blobs/uploads/{id}"))
        .header(header::RANGE, format!("0-{}", length.saturating_sub(1)))
        .header(header::CONTENT_LENGTH, 0)
        .header("docker-upload-uuid", id);
    made(b, body(""))
}

async fn upload(call: &Call, name: &str, id: &str, incoming: Incoming) -> Result<Answer> {
    let found = call.storage.upload(id)?;
    {
        let upload = found.lock().await;
        if upload.repository != name {
            return Err(Error::upload_unknown(format!("blob upload {id} unknown to {name}")));
        }
        if call.method == Method::GET || call.head() {
            return accepted(name, id, upload.length, StatusCode::NO_CONTENT);
        }
    }
    match call.method {
        Method::PATCH => {
            check_position(call, &found).await?;
            let length = receive(call, id, incoming).await?;
            accepted(name, id, length, StatusCode::ACCEPTED)
        }
        Method::PUT => {
            let digest =
                call.parameter("digest").ok_or_else(|| Error::digest_invalid("the digest is missing"))?;
            let digest = Digest::parse(digest)?;
            check_position(call, &found).await?;
            receive(call, id, incoming).await?;
            finish(call, name, id, digest).await
        }
        Method::DELETE => {
            let (storage, id) = (call.storage.clone(), id.to_string());
            blocking(move || storage.cancel(&id)).await?;
            made(builder(StatusCode::NO_CONTENT), body(""))
        }
        _ => Err(wrong_method(call)),
    }
}

/// A chunk that says where it belongs must belong at the end of what is there.
async fn check_position(call: &Call, upload: &Arc<tokio::sync::Mutex<crate::storage::Upload>>) -> Result<()> {
    let Some(range) = call.header("content-range") else { return Ok(()) };
    let bad = || Error::upload_invalid(format!("invalid Content-Range {range:?}"));
    let text = range.trim_start_matches("bytes").trim_start_matches([' ', '=']);
    let (from, to) = text.split('/').next().and_then(|r| r.split_once('-')).ok_or_else(bad)?;
    let from: u64 = from.trim().parse().map_err(|_| bad())?;
    let to: u64 = to.trim().parse().map_err(|_| bad())?;
    let said = call.header("content-length").and_then(|l| l.parse::<u64>().ok());
    if to < from || said.is_some_and(|s| s != to - from + 1) {
        return Err(bad());
    }
    let have = upload.lock().await.length;
    if from != have {
        return Err(Error::range_invalid(format!("the chunk begins at {from}, but {have} bytes are here")));
    }
    Ok(())
}

/// Appends the request's body to an upload; returns the upload's length. A body that breaks off appends nothing.
async fn receive(call: &Call, id: &str, mut incoming: Incoming) -> Result<u64> {
    let upload = call.storage.upload(id)?;
    let (tx, mut rx) = mpsc::channel::<Bytes>(AHEAD * 4);
    let (whole_tx, whole_rx) = tokio::sync::oneshot::channel::<()>();
    let writing = blocking(move || {
        let mut upload = upload.blocking_lock();
        let (start, hash) = (upload.length, upload.hash());
        let mut written = Ok(());
        while let Some(data) = rx.blocking_recv() {
            written = upload.append(&data);
            if written.is_err() {
                break;
            }
        }
        drop(rx);
        // Only a body that came to its end counts.
        if written.is_err() || whole_rx.blocking_recv().is_err() {
            upload.rewind(start, hash)?;
            written?;
            return Err(Error::upload_invalid("the upload broke off"));
        }
        Ok(upload.length)
    });
    let reading = async move {
        while let Some(frame) = incoming.frame().await {
            let Ok(frame) = frame else { return };
            if let Ok(data) = frame.into_data()
                && tx.send(data).await.is_err()
            {
                return;
            }
        }
        // The writer is gone only if it failed, and says so itself.
        let _ = whole_tx.send(());
    };
    let (length, ()) = tokio::join!(writing, reading);
    length
}

async fn finish(call: &Call, name: &str, id: &str, digest: Digest) -> Result<Answer> {
    let (storage, id, d) = (call.storage.clone(), id.to_string(), digest.clone());
    let upload = storage.upload(&id)?;
    blocking(move || {
        let mut upload = upload.blocking_lock();
        storage.finish(&id, &mut upload, &d)
    })
    .await?;
    created(name, "blobs", &digest, &[])
}

async fn manifest(call: &Call, name: &str, reference: &str, incoming: Incoming) -> Result<Answer> {
    if reference.contains(':') {
        Digest::parse(reference)?;
    } else if !image::reference::is_tag(reference) {
        return Err(match call.method {
            Method::PUT => Error::tag_invalid(format!("invalid tag {reference:?}")),
            _ => Error::manifest_unknown(format!("manifest unknown: {name}:{reference}")),
        });
    }
    let (storage, repository, which) = (call.storage.clone(), name.to_string(), reference.to_string());
    match call.method {
        Method::GET | Method::HEAD => {
            let m = blocking(move || storage.manifest(&repository, &which)).await?;
            let b = builder(StatusCode::OK)
                .header(header::CONTENT_TYPE, &m.media_type)
                .header(header::CONTENT_LENGTH, m.content.len())
                .header(header::ETAG, format!("\"{}\"", m.digest))
                .header("docker-content-digest", m.digest.as_str());
            made(b, if call.head() { body("") } else { body(m.content) })
        }
        Method::PUT => put_manifest(call, name, reference, incoming).await,
        Method::DELETE => {
            blocking(move || storage.delete_manifest(&repository, &which)).await?;
            made(builder(StatusCode::ACCEPTED).header(header::CONTENT_LENGTH, 0), body(""))
        }
        _ => Err(wrong_method(call)),
    }
}

/// The parts of a manifest or index that a registry looks at.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    media_type: String,
    #[serde(default)]
    artifact_type: String,
    config: Option<Part>,
    #[serde(default)]
    layers: Vec<Part>,
    #[serde(default)]
    manifests: Vec<Part>,
    subject: Option<Part>,
    #[serde(default)]
    annotations: Option<serde_json::Map<String, Value>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

async fn put_manifest(call: &Call, name: &str, reference: &str, incoming: Incoming) -> Result<Answer> {
    let content = match Limited::new(incoming, MANIFEST_LIMIT).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => {
            return Err(Error::too_large("a manifest may have 4 MiB"));
        }
        Err(e) => return Err(Error::manifest_invalid(format!("the manifest broke off: {e}"))),
    };
    let outline: Outline = serde_json::from_slice(&content)
        .map_err(|e| Error::manifest_invalid(format!("manifest invalid: {e}")))?;
    let said = call.header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let media_type = match (outline.media_type.as_str(), said) {
        ("", "") => media::OCI_MANIFEST.to_string(),
        ("", said) => said.to_string(),
        (own, "") => own.to_string(),
        (own, said) if own == said => said.to_string(),
        (own, said) => {
            return Err(Error::manifest_invalid(format!("the manifest is {own}, but was sent as {said}")));
        }
    };
    let mut tags: Vec<String> = Vec::new();
    let digest = if reference.contains(':') {
        let digest = Digest::parse(reference)?;
        if !digest.matches(&content) {
            return Err(Error::digest_invalid(format!("the manifest's content has not the digest {digest}")));
        }
        for tag in call.query.iter().filter(|(n, _)| n == "tag").map(|(_, v)| v) {
            if !image::reference::is_tag(tag) {
                return Err(Error::tag_invalid(format!("invalid tag {tag:?}")));
            }
            tags.push(tag.clone());
        }
        digest
    } else {
        tags.push(reference.to_string());
        Digest::of(&content)
    };
    let index = is_index(&media_type, &content);
    let shown: Vec<String> = if reference.contains(':') { tags.clone() } else { Vec::new() };
    let subject = outline.subject.as_ref().map(|s| Digest::parse(&s.digest)).transpose()?;
    let about = About {
        subject: subject.as_ref().map(ToString::to_string),
        artifact_type: match (&outline.config, outline.artifact_type.as_str()) {
            (Some(config), "") => config.media_type.clone(),
            (_, own) => own.to_string(),
        },
        annotations: Value::from(outline.annotations.clone().unwrap_or_default()).to_string(),
    };
    let (storage, repository) = (call.storage.clone(), name.to_string());
    let stored = Stored { digest: digest.clone(), media_type, content: content.to_vec() };
    blocking(move || {
        for part in outline.config.iter().chain(&outline.layers) {
            let elsewhere = part.urls.as_ref().is_some_and(|u| !u.is_empty())
                || part.media_type.contains("nondistributable")
                || part.media_type == media::DOCKER_FOREIGN;
            if !index && !elsewhere && !storage.has_blob(&repository, &Digest::parse(&part.digest)?)? {
                return Err(Error::manifest_blob_unknown(format!(
                    "blob unknown to registry: {}",
                    part.digest
                )));
            }
        }
        for part in &outline.manifests {
            Digest::parse(&part.digest)?;
        }
        storage.put_manifest(&repository, &stored, &about, &tags)
    })
    .await?;
    let mut headers: Vec<(&str, String)> = shown.into_iter().map(|t| ("oci-tag", t)).collect();
    if let Some(subject) = subject {
        headers.push(("oci-subject", subject.to_string()));
    }
    created(name, "manifests", &digest, &headers)
}

async fn referrers(call: &Call, name: &str, digest: &str) -> Result<Answer> {
    let digest = Digest::parse(digest)?;
    let (storage, repository) = (call.storage.clone(), name.to_string());
    let all = blocking(move || storage.referrers(&repository, &digest)).await?;
    let wanted = call.parameter("artifactType").filter(|t| !t.is_empty());
    let manifests: Vec<Value> = all
        .into_iter()
        .filter(|r| wanted.is_none_or(|w| w == r.artifact_type))
        .map(|r| {
            let mut d = json!({"mediaType": r.media_type, "digest": r.digest, "size": r.size});
            if !r.artifact_type.is_empty() {
                d["artifactType"] = r.artifact_type.into();
            }
            match serde_json::from_str::<Value>(&r.annotations) {
                Ok(Value::Object(a)) if !a.is_empty() => d["annotations"] = a.into(),
                _ => {}
            }
            d
        })
        .collect();
    let mut headers = vec![("content-type", media::OCI_INDEX.to_string())];
    if wanted.is_some() {
        headers.push(("oci-filters-applied", "artifactType".into()));
    }
    let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": manifests});
    json_answer(call, &index, &headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (text, want) in [
            ("bytes=0-9", Some((0, 10))),
            ("bytes=5-", Some((5, 100))),
            ("bytes=-10", Some((90, 100))),
            ("bytes=90-200", Some((90, 100))),
            ("bytes=100-", None),
            ("bytes=9-3", None),
            ("x", None),
        ] {
            assert_eq!(parse_range(text, 100).ok(), want, "{text}");
        }
    }
}
