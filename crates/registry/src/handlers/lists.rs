//! Lists: repositories, tags, referrers.

use image::registry::manifest::media;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Answer, Call, blocking, json_answer};
use crate::access::Caller;
use crate::digest::Digest;
use crate::error::{Error, Result};

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
fn next_page(call: &Call, path: &str, n: u64, list: &mut Vec<String>) -> Vec<(&'static str, String)> {
    let Ok(n) = usize::try_from(n) else { return Vec::new() };
    if list.len() <= n {
        return Vec::new();
    }
    list.truncate(n);
    let Some(last) = list.last() else { return Vec::new() };
    let encode = |s| utf8_percent_encode(s, NON_ALPHANUMERIC).to_string();
    let ns = call.parameter("ns").map(|ns| format!("&ns={}", encode(ns))).unwrap_or_default();
    vec![("link", format!("<{path}?last={}&n={n}{ns}>; rel=\"next\"", encode(last)))]
}

/// The repositories that the caller may read.
pub(super) async fn catalogue(call: &Call) -> Result<Answer> {
    if call.shared.access.is_some() && call.caller == Caller::Anonymous {
        return Err(Error::unauthorized("authentication is required for the catalogue"));
    }
    let (n, last) = page(call)?;
    let (shared, caller, prefix) = (call.shared.clone(), call.caller.clone(), call.prefix()?);
    let mut list = blocking(move || {
        let shown = |name: &str| shared.access.as_ref().is_none_or(|a| a.shows(&caller, name));
        shared.storage.repositories(&prefix, &last, n.saturating_add(1), &shown)
    })
    .await?;
    let link = next_page(call, "/v2/_catalog", n, &mut list);
    json_answer(call, &json!({"repositories": list}), &link)
}

/// The repositories that the caller may read and whose names have a word in them: `docker search HOST/WORD`.
pub(super) async fn search(call: &Call) -> Result<Answer> {
    if call.shared.access.is_some() && call.caller == Caller::Anonymous {
        return Err(Error::unauthorized("authentication is required for a search"));
    }
    let word = call.parameter("q").unwrap_or_default().to_string();
    let n = page(call)?.0.min(SEARCH_LIMIT);
    let (shared, caller, query) = (call.shared.clone(), call.caller.clone(), word.clone());
    let prefix = call.prefix()?;
    let list = blocking(move || {
        let shown = |name: &str| {
            name.contains(&word) && shared.access.as_ref().is_none_or(|a| a.shows(&caller, name))
        };
        shared.storage.repositories(&prefix, "", n, &shown)
    })
    .await?;
    let results: Vec<Value> = list
        .iter()
        .map(|name| {
            // Docker shows what it is told, and pulls by what it shows.
            let name = format!("{}/{name}", call.host());
            json!({"name": name, "description": "", "star_count": 0, "is_official": false, "is_automated": false})
        })
        .collect();
    let found = results.len();
    json_answer(call, &json!({"query": query, "num_results": found, "results": results}), &[])
}

/// The most repositories that a search gives.
const SEARCH_LIMIT: u64 = 100;

/// A repository's tags.
pub(super) async fn tags(call: &Call, name: &str) -> Result<Answer> {
    let (n, last) = page(call)?;
    let (storage, repository) = (call.storage(), call.kept(name)?);
    let mut list = blocking(move || {
        if !storage.knows(&repository)? {
            return Err(Error::name_unknown(format!("repository name not known to registry: {repository}")));
        }
        storage.tags(&repository, &last, n.saturating_add(1))
    })
    .await?;
    let link = next_page(call, &format!("/v2/{name}/tags/list"), n, &mut list);
    json_answer(call, &json!({"name": name, "tags": list}), &link)
}

/// The manifests that have this one as their subject.
pub(super) async fn referrers(call: &Call, name: &str, digest: &str) -> Result<Answer> {
    let digest = Digest::parse(digest)?;
    let (storage, repository) = (call.storage(), call.kept(name)?);
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
