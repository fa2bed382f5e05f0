//! GET of collections: from the cache, or from the store for pages and revisions of the past.

use std::sync::Arc;
use std::time::Duration;

use api::object::Encoded;
use api::selector::{Field, Label};
use api::{Status, Value};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use store::Range;

use super::{Context, store_failure};
use crate::ApiServer;
use crate::cache::{local_key, prefix};
use crate::query::{ListOptions, VersionMatch};

/// How long a read waits for a revision that is yet to come before it says that there is none. Nothing tells that a
/// revision will never come.
const FUTURE_WAIT: Duration = Duration::from_secs(3);

/// A list, not yet encoded.
#[derive(Debug, Default)]
pub struct Listed {
    /// The revision it is of.
    pub revision: u64,
    /// The objects, of the storage version.
    pub items: Vec<Arc<Encoded>>,
    /// The token of the next page; empty if this is the last.
    pub next: String,
    /// How many more there are, if that is known.
    pub remaining: Option<u64>,
}

/// Parses both selectors and checks that the kind knows the fields.
pub fn parse_selectors(cx: &Context, options: &ListOptions) -> Result<(Label, Field), Status> {
    let labels = Label::parse(&options.labels)?;
    let mut fields = cx.kind.field_selector(&options.fields)?;
    // The name may be of the path, or of the selector, which can ask for more than that.
    if !cx.info.name.is_empty() && cx.info.verb == "watch" {
        fields = fields.and_equal("metadata.name", &cx.info.name);
    }
    Ok((labels, fields))
}

struct Token {
    revision: u64,
    after: String,
}

fn encode_token(revision: u64, after: &str) -> String {
    let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": after});
    URL_SAFE_NO_PAD.encode(api::object::encode(&token))
}

fn decode_token(text: &str) -> Result<Token, Status> {
    let bad = |why: &str| Status::bad_request(format!("continue key is not valid: {why}"));
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|e| bad(&e.to_string()))?;
    let token: Value = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
    if token.get("v").and_then(Value::as_str) != Some("meta.k8s.io/v1") {
        return Err(bad("server does not recognize this encoded version"));
    }
    // -1: whatever is current, for lists that go on after their revision was compacted.
    let revision = token.get("rv").and_then(Value::as_i64).unwrap_or(0);
    let after = token.get("start").and_then(Value::as_str).unwrap_or("").to_owned();
    if revision == 0 || after.is_empty() || after.contains("..") {
        return Err(bad("incomplete"));
    }
    Ok(Token { revision: u64::try_from(revision).unwrap_or(0), after })
}

impl ApiServer {
    /// Waits until the cache holds `revision`; 504 with upstream's text if that does not come.
    pub async fn wait_for_revision(&self, revision: u64) -> Result<(), Status> {
        if tokio::time::timeout(FUTURE_WAIT, self.cache.wait_for(revision)).await.is_err() {
            let current = self.cache.revision();
            return Err(Status::timeout(format!(
                "Too large resource version: {revision}, current: {current}"
            ))
            .with_cause("ResourceVersionTooLarge", "Too large resource version", "")
            .with_retry_after(1));
        }
        Ok(())
    }

    /// Lists the objects of the path's namespace that match.
    pub async fn list(&self, cx: &Context, options: &ListOptions) -> Result<Listed, Status> {
        let (labels, fields) = parse_selectors(cx, options)?;
        let matches = |o: &Arc<Encoded>| {
            (labels.is_everything() || labels.matches(o.labels()))
                && (fields.is_everything() || fields.selects(o))
        };
        let kind = self.cache.kind(&cx.kind.group, &cx.kind.plural);
        let namespace = cx.namespace();
        // A list of one name is a read.
        if options.token.is_none()
            && let Some(name) = fields.required("metadata.name")
            && (!cx.kind.namespaced || !namespace.is_empty())
            && !matches!(options.version, VersionMatch::Exact(_))
        {
            self.fresh(options.version).await?;
            let revision = self.cache.revision();
            let found = kind.get(&cx.key_of(name)).map(|o| o.encoded().clone());
            let found = cx.all_seen(found.into_iter().collect()).await?;
            let items: Vec<_> = found.into_iter().filter(matches).collect();
            return Ok(Listed { revision, items, ..Listed::default() });
        }
        let (revision, found) = match &options.token {
            Some(text) => {
                let token = decode_token(text)?;
                // A token is the client's: it must not begin where the client may not read.
                if !namespace.is_empty() && !token.after.starts_with(&format!("{namespace}/")) {
                    return Err(Status::bad_request(format!(
                        "continue key is not valid: it is not of a list in the namespace \"{namespace}\"; start the list anew without it"
                    )));
                }
                if token.revision == 0 {
                    let snapshot = self.cache.snapshot(&kind, namespace);
                    let items = snapshot.items.into_iter().filter(|o| key(o) > token.after).collect();
                    (snapshot.revision, items)
                } else {
                    match self.cache.continued(&kind, namespace, &token.after, token.revision) {
                        Some(items) => (token.revision, items),
                        None => {
                            let items = self.past(cx, token.revision, &token.after).await;
                            (token.revision, items.map_err(|s| with_fresh_token(s, &token.after))?)
                        }
                    }
                }
            }
            None => match options.version {
                VersionMatch::Exact(revision) => {
                    self.wait_for_revision(revision).await?;
                    match self.cache.continued(&kind, namespace, "", revision) {
                        Some(items) => (revision, items),
                        None => (revision, self.past(cx, revision, "").await?),
                    }
                }
                version => {
                    self.fresh(version).await?;
                    let snapshot = self.cache.snapshot(&kind, namespace);
                    (snapshot.revision, snapshot.items)
                }
            },
        };
        // Selectors speak of the objects as the client sees them.
        let all = labels.is_everything() && fields.is_everything();
        let found = if all { found } else { cx.all_seen(found).await? };
        let total = found.len();
        // Who takes whatever there is gets all of it, as upstream has it.
        let any = options.token.is_none() && options.version == VersionMatch::Any;
        if options.limit == 0 || any {
            let found = cx.all_seen(found).await?;
            let items = found.into_iter().filter(matches).collect();
            return Ok(Listed { revision, items, ..Listed::default() });
        }
        let mut listed = Listed { revision, ..Listed::default() };
        for (i, object) in found.into_iter().enumerate() {
            if listed.items.len() == options.limit {
                let after = listed.items.last().map(key).unwrap_or_default();
                listed.next = encode_token(revision, &after);
                // With a selector nobody knows how many of the rest match.
                if all {
                    listed.remaining = Some((total - i) as u64);
                }
                break;
            }
            if matches(&object) {
                listed.items.push(object);
            }
        }
        listed.items = cx.all_seen(listed.items).await?;
        Ok(listed)
    }

    /// Waits for what a list's version asks of the cache.
    pub async fn fresh(&self, version: VersionMatch) -> Result<(), Status> {
        match version {
            VersionMatch::Any => Ok(()),
            VersionMatch::Latest => self.cache.caught_up().await.map_err(store_failure),
            VersionMatch::NotOlderThan(r) | VersionMatch::Exact(r) => self.wait_for_revision(r).await,
        }
    }

    /// The objects as of a revision of the past, from the store.
    async fn past(&self, cx: &Context, revision: u64, after: &str) -> Result<Vec<Arc<Encoded>>, Status> {
        let root = prefix(&cx.kind.group, &cx.kind.plural);
        let namespace = cx.namespace();
        let all = if namespace.is_empty() { root.clone() } else { format!("{root}{namespace}/") };
        let mut range = Range { revision, ..Range::prefix(all) };
        if !after.is_empty() {
            range.start = format!("{root}{after}\0").into_bytes();
        }
        let result = self.cache.store().range(range).await.map_err(store_failure)?;
        let mut items = Vec::with_capacity(result.items.len());
        for kv in result.items {
            items.push(Encoded::from_stored(&kv.value, kv.mod_revision).map_err(Status::internal)?);
        }
        Ok(items)
    }
}

fn key(object: &Arc<Encoded>) -> String {
    local_key(object.namespace(), object.name())
}

/// A list that cannot go on consistently may go on inconsistently, with this token.
fn with_fresh_token(status: Status, after: &str) -> Status {
    if status.code != 410 {
        return status;
    }
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    let token = json!({"v": "meta.k8s.io/v1", "rv": -1, "start": after});
    status.metadata.insert("continue".into(), json!(URL_SAFE_NO_PAD.encode(api::object::encode(&token))));
    status
}

/// Reads a token of `continue`: what is taken means the same when it is written again.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_token(text: &str) {
    if let Ok(token) = decode_token(text) {
        let again = decode_token(&encode_token(token.revision.max(1), &token.after));
        assert!(again.is_ok_and(|again| again.after == token.after));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let token = decode_token(&encode_token(7, "a/b")).unwrap();
        assert_eq!((token.revision, token.after.as_str()), (7, "a/b"));
        for bad in ["", "x", "e30"] {
            assert_eq!(decode_token(bad).err().unwrap().code, 400, "{bad}");
        }
        let future = store_failure(store::Error::Future { requested: 9, current: 7 });
        assert!(future.code == 400 && future.message.starts_with("continue key is not valid"));
    }
}
