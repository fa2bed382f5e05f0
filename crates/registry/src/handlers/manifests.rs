//! Manifests and indexes, by tag or digest.

use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use image::registry::manifest::media;

use super::{Answer, Call, blocking, body, builder, created, made};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::Outline;
use crate::storage::Stored;

/// The largest manifest, in bytes (the specification asks for 4 MiB at least).
const MANIFEST_LIMIT: usize = 4 << 20;

pub(super) async fn manifest(call: &Call, name: &str, reference: &str, incoming: Incoming) -> Result<Answer> {
    if reference.contains(':') {
        Digest::parse(reference)?;
    } else if !image::reference::is_tag(reference) {
        return Err(match call.method {
            Method::PUT => Error::tag_invalid(format!("invalid tag {reference:?}")),
            _ => Error::manifest_unknown(format!("manifest unknown: {name}:{reference}")),
        });
    }
    let (storage, repository, which) = (call.storage(), call.kept(name)?, reference.to_string());
    match call.method {
        Method::GET | Method::HEAD => {
            let m = match &call.shared.upstream {
                Some(upstream) => upstream.manifest(call.parameter("ns"), name, reference).await?,
                None => blocking(move || storage.manifest(&repository, &which)).await?,
            };
            let b = builder(StatusCode::OK)
                .header(header::CONTENT_TYPE, &m.media_type)
                .header(header::CONTENT_LENGTH, m.content.len())
                .header(header::ETAG, format!("\"{}\"", m.digest))
                .header("docker-content-digest", m.digest.as_str());
            made(b, if call.head() { body("") } else { body(m.content) })
        }
        Method::PUT => put(call, name, reference, incoming).await,
        Method::DELETE => {
            blocking(move || storage.delete_manifest(&repository, &which)).await?;
            made(builder(StatusCode::ACCEPTED).header(header::CONTENT_LENGTH, 0), body(""))
        }
        _ => Err(call.wrong_method()),
    }
}

async fn put(call: &Call, name: &str, reference: &str, incoming: Incoming) -> Result<Answer> {
    let content = match Limited::new(incoming, MANIFEST_LIMIT).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(e) if e.is::<http_body_util::LengthLimitError>() => {
            return Err(Error::too_large("a manifest may have 4 MiB"));
        }
        Err(e) => return Err(Error::manifest_invalid(format!("the manifest broke off: {e}"))),
    };
    let outline = Outline::parse(&content)?;
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
    let mut headers: Vec<(&str, String)> = Vec::new();
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
            headers.push(("oci-tag", tag.clone()));
        }
        digest
    } else {
        tags.push(reference.to_string());
        Digest::of(&content)
    };
    let about = outline.about()?;
    if let Some(subject) = &about.subject {
        headers.push(("oci-subject", subject.clone()));
    }
    let needed = outline.needed(&media_type, &content)?;
    let (storage, repository) = (call.storage(), name.to_string());
    let stored = Stored { digest: digest.clone(), media_type, content: content.to_vec() };
    blocking(move || storage.put_manifest(&repository, &stored, &about, &needed, &tags)).await?;
    created(name, "manifests", &digest, &headers)
}
