//! Query parameters, typed: the options of each verb, and what is wrong with them as upstream says it.

use std::time::Duration;

use api::codec::FieldValidation;

/// A parsed query string, in order.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

fn decode(s: &str) -> String {
    let plus = s.replace('+', " ");
    percent_encoding::percent_decode_str(&plus).decode_utf8_lossy().into_owned()
}

impl Query {
    /// Parses `a=b&c=d`.
    pub fn parse(raw: Option<&str>) -> Self {
        let pairs = raw.unwrap_or("").split('&').filter(|p| !p.is_empty()).map(|p| {
            let (k, v) = p.split_once('=').unwrap_or((p, ""));
            (decode(k), decode(v))
        });
        Self(pairs.collect())
    }

    /// The first value of `key`, if it is there at all.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// The first value of `key`, or nothing if it is missing or empty.
    pub fn some(&self, key: &str) -> Option<&str> {
        self.get(key).filter(|v| !v.is_empty())
    }

    /// Every value of `key`.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }

    /// Whether `key` is set to something else than `false` or `0` (upstream's lenient booleans).
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(|v| !matches!(v, "false" | "0" | "False" | "F" | "f"))
    }

    /// A whole number, or what is wrong with it.
    pub fn number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, String> {
        match self.some(key) {
            None => Ok(None),
            Some(v) => {
                v.parse().map(Some).map_err(|_| format!("strconv.ParseInt: parsing \"{v}\": invalid syntax"))
            }
        }
    }
}

/// How a list's `resourceVersion` is to be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    /// As fresh as possible.
    Latest,
    /// Whatever is in the cache (`resourceVersion=0`).
    Any,
    /// At least this one.
    NotOlderThan(u64),
    /// Exactly this one.
    Exact(u64),
}

/// The options of list, watch and deletecollection.
#[derive(Debug, Clone)]
pub struct ListOptions {
    /// `labelSelector`, unparsed.
    pub labels: String,
    /// `fieldSelector`, unparsed.
    pub fields: String,
    /// `limit`; zero is none.
    pub limit: usize,
    /// `continue`.
    pub token: Option<String>,
    /// `resourceVersion` with `resourceVersionMatch`.
    pub version: VersionMatch,
    /// `timeoutSeconds`.
    pub timeout: Option<Duration>,
    /// `allowWatchBookmarks`.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub initial_events: Option<bool>,
}

/// `resourceVersion` as a number.
pub fn resource_version(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| {
        format!("Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax")
    })
}

impl ListOptions {
    /// Reads the options; an error is the text of a 400 answer.
    pub fn parse(q: &Query, watch: bool) -> Result<Self, String> {
        let rv = match q.some("resourceVersion") {
            None => None,
            Some(v) => Some(resource_version(v).map_err(|e| format!("resourceVersion: {e}"))?),
        };
        let token = q.some("continue").map(str::to_owned);
        let limit: i64 = q.number("limit")?.unwrap_or(0);
        let matching = q.some("resourceVersionMatch");
        let initial_events = q.get("sendInitialEvents").map(|_| q.flag("sendInitialEvents"));
        if let Some(m) = matching {
            if watch && initial_events.is_none() {
                return Err("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided".into());
            }
            if !watch && rv.is_none() {
                return Err("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided".into());
            }
            if token.is_some() {
                return Err("resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided".into());
            }
            if m != "Exact" && m != "NotOlderThan" {
                return Err(format!(
                    "resourceVersionMatch: Unsupported value: \"{m}\": supported values: \"Exact\", \"NotOlderThan\""
                ));
            }
            if m == "Exact" && rv == Some(0) {
                return Err("resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"".into());
            }
        }
        if initial_events.is_some() {
            if !watch {
                return Err("sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list".into());
            }
            if matching != Some("NotOlderThan") {
                return Err("resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan".into());
            }
        }
        if token.is_some() && rv.is_some_and(|v| v != 0) {
            return Err("specifying resource version is not allowed when using continue".into());
        }
        let version = match (rv, matching) {
            (None, _) => VersionMatch::Latest,
            (Some(0), _) => VersionMatch::Any,
            (Some(v), Some("Exact")) => VersionMatch::Exact(v),
            // A limit without a match rule means exactly that version, as it always has.
            (Some(v), None) if limit > 0 && !watch => VersionMatch::Exact(v),
            (Some(v), _) => VersionMatch::NotOlderThan(v),
        };
        let timeout: Option<u64> = q.number("timeoutSeconds")?;
        Ok(Self {
            labels: q.get("labelSelector").unwrap_or("").to_owned(),
            fields: q.get("fieldSelector").unwrap_or("").to_owned(),
            limit: usize::try_from(limit).unwrap_or(0),
            token,
            version,
            timeout: timeout.filter(|t| *t > 0).map(Duration::from_secs),
            bookmarks: q.flag("allowWatchBookmarks"),
            initial_events,
        })
    }
}

/// The options of create, update and patch.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Do everything but store.
    pub dry_run: bool,
    /// What to do about unknown fields.
    pub validation: FieldValidation,
    /// Who owns the fields; empty if not said.
    pub manager: String,
    /// Take fields over from other managers (server-side apply).
    pub force: bool,
    /// Whether the object comes from server-side apply, with its managed fields set.
    pub applied: bool,
}

impl WriteOptions {
    /// The options as a document of the kind given, for admission webhooks.
    pub fn document(&self, kind: &str) -> api::Value {
        let mut v = serde_json::json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if !self.manager.is_empty() {
            v["fieldManager"] = serde_json::json!(self.manager);
        }
        if self.dry_run {
            v["dryRun"] = serde_json::json!(["All"]);
        }
        v
    }
}

/// Reads `dryRun`, whose only value is `All`.
pub fn dry_run(q: &Query) -> Result<bool, String> {
    let mut yes = false;
    for v in q.all("dryRun") {
        match v {
            "" => {}
            "All" => yes = true,
            other => {
                return Err(format!("dryRun: Unsupported value: \"{other}\": supported values: \"All\""));
            }
        }
    }
    Ok(yes)
}

impl WriteOptions {
    /// Reads the options; an error is the text of a 400 or 422 answer.
    pub fn parse(q: &Query) -> Result<Self, String> {
        let validation = q.get("fieldValidation").unwrap_or("");
        let validation = FieldValidation::parse(validation).ok_or_else(|| {
            format!(
                "fieldValidation: Unsupported value: \"{validation}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
            )
        })?;
        let manager = q.get("fieldManager").unwrap_or("").to_owned();
        if manager.len() > 128 {
            return Err("fieldManager: Too long: may not be more than 128 bytes".into());
        }
        Ok(Self { dry_run: dry_run(q)?, validation, manager, force: q.flag("force"), applied: false })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(q: &str) -> Result<ListOptions, String> {
        ListOptions::parse(&Query::parse(Some(q)), false)
    }

    #[test]
    fn versions() {
        assert_eq!(list("").unwrap().version, VersionMatch::Latest);
        assert_eq!(list("resourceVersion=0").unwrap().version, VersionMatch::Any);
        assert_eq!(list("resourceVersion=5").unwrap().version, VersionMatch::NotOlderThan(5));
        assert_eq!(list("resourceVersion=5&limit=2").unwrap().version, VersionMatch::Exact(5));
        assert_eq!(
            list("resourceVersion=5&resourceVersionMatch=Exact").unwrap().version,
            VersionMatch::Exact(5)
        );
        assert!(list("resourceVersionMatch=Exact").is_err());
        assert!(list("resourceVersion=abc").is_err());
        assert!(list("limit=x").is_err());
    }

    #[test]
    fn decodes() {
        let q = Query::parse(Some("labelSelector=a%3Db%2Cc+in+%28d%29&watch"));
        assert_eq!(q.get("labelSelector"), Some("a=b,c in (d)"));
        assert!(q.flag("watch"));
        assert!(!Query::parse(Some("watch=false")).flag("watch"));
    }
}
