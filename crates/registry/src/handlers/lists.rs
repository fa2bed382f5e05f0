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

fn encode(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

/// What the next page's link needs so that it asks for the same registry's.
fn of_namespace(call: &Call) -> String {
    call.parameter("ns").map(|ns| format!("&ns={}", encode(ns))).unwrap_or_default()
}

/// The link to the next page, where one more was found than asked for.
fn next_page(call: &Call, path: &str, n: u64, list: &mut Vec<String>) -> Vec<(&'static str, String)> {
    let Ok(n) = usize::try_from(n) else { return Vec::new() };
    if list.len() <= n {
        return Vec::new();
    }
    list.truncate(n);
    let Some(last) = list.last() else { return Vec::new() };
    let ns = of_namespace(call);
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

/// A repository's tags; of a cache those that there are elsewhere, as long as it can be asked.
pub(super) async fn tags(call: &Call, name: &str) -> Result<Answer> {
    let (n, last) = page(call)?;
    let elsewhere = match &call.shared.upstream {
        Some(upstream) => Some(upstream.tags(call.parameter("ns"), name).await),
        None => None,
    };
    let most = n.saturating_add(1);
    let mut list = match elsewhere {
        Some(Ok(mut all)) => {
            all.retain(|tag| *tag > last);
            all.sort_unstable();
            all.truncate(usize::try_from(most).unwrap_or(usize::MAX));
            all
        }
        other => {
            let (storage, repository) = (call.storage(), call.kept(name)?);
            let own = blocking(move || {
                if !storage.knows(&repository)? {
                    let why = format!("repository name not known to registry: {repository}");
                    return Err(Error::name_unknown(why));
                }
                storage.tags(&repository, &last, most)
            });
            match (own.await, other) {
                (Err(own), Some(Err(Error::Upstream(e)))) if own.is_unknown() && !e.is_not_found() => {
                    return Err(Error::Upstream(e));
                }
                (own, _) => own?,
            }
        }
    };
    let link = next_page(call, &format!("/v2/{name}/tags/list"), n, &mut list);
    json_answer(call, &json!({"name": name, "tags": list}), &link)
}

/// Bytes of one page of referrers: clients read no larger document.
const REFERRERS: usize = 4 << 20;

/// The manifests that have this one as their subject.
pub(super) async fn referrers(call: &Call, name: &str, digest: &str) -> Result<Answer> {
    let digest = Digest::parse(digest)?;
    let (storage, repository, subject) = (call.storage(), call.kept(name)?, digest.clone());
    let wanted = call.parameter("artifactType").filter(|t| !t.is_empty()).map(ToString::to_string);
    let (of_type, last) = (wanted.clone(), call.parameter("last").unwrap_or_default().to_string());
    // The document's own members take some.
    let room = REFERRERS - 1024;
    let (found, more) =
        blocking(move || storage.referrers(&repository, &subject, of_type.as_deref(), &last, room)).await?;
    let next = found.last().filter(|_| more).map(|r| r.digest.clone());
    let manifests: Vec<Value> = found
        .into_iter()
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
    if let Some(last) = next {
        let of_type = wanted.map(|t| format!("&artifactType={}", encode(&t))).unwrap_or_default();
        let ns = of_namespace(call);
        let at = format!("/v2/{name}/referrers/{digest}?last={last}{of_type}{ns}");
        headers.push(("link", format!("<{at}>; rel=\"next\"")));
    }
    let index = json!({"schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": manifests});
    json_answer(call, &index, &headers)
}
