//! Query parameters, typed: the options of each verb, and what is wrong with them as upstream says it.

use std::time::Duration;

use api::codec::FieldValidation;
use api::{ErrorList, Gvk, Path, Status};
use serde_json::json;

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
        self.flag_if_set(key).unwrap_or(false)
    }

    /// The same, if `key` is set at all.
    pub fn flag_if_set(&self, key: &str) -> Option<bool> {
        self.get(key).map(|v| v != "0" && !v.eq_ignore_ascii_case("false"))
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

impl VersionMatch {
    /// What the `resourceVersion` of a read of one object asks for.
    pub fn of_read(query: &Query) -> Result<Self, String> {
        Ok(match query.some("resourceVersion") {
            None => Self::Latest,
            Some(text) => match resource_version(text)? {
                0 => Self::Any,
                revision => Self::NotOlderThan(revision),
            },
        })
    }
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

/// What is wrong with options, as upstream says it.
pub fn invalid(kind: &'static str, errors: ErrorList) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    Err(Status::invalid(&Gvk::new("meta.k8s.io", "v1", kind), "", &errors))
}

impl ListOptions {
    /// Reads the options of a list, or of a watch.
    pub fn parse(q: &Query, watch: bool) -> Result<Self, Status> {
        let bad = Status::bad_request;
        let rv = match q.some("resourceVersion") {
            None => None,
            Some(v) => Some(resource_version(v).map_err(|e| bad(format!("resourceVersion: {e}")))?),
        };
        let token = q.some("continue").map(str::to_owned);
        let limit: i64 = q.number("limit").map_err(bad)?.unwrap_or(0);
        let matching = q.some("resourceVersionMatch");
        let initial_events = q.flag_if_set("sendInitialEvents");
        let mut errors = ErrorList::new();
        let path = Path::new("resourceVersionMatch");
        let known = |m: &str| m == "NotOlderThan" || m == "Exact" && !watch;
        if watch && initial_events.is_some() && matching != Some("NotOlderThan") {
            errors
                .forbidden(&path, "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan");
        }
        if let Some(m) = matching {
            if watch && initial_events.is_none() {
                let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
                errors.forbidden(&path, why);
            }
            if !watch && rv.is_none() {
                let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
                errors.forbidden(&path, why);
            }
            if token.is_some() {
                errors.forbidden(&path, "resourceVersionMatch is forbidden when continue is provided");
            }
            if !known(m) {
                let all: &[&str] = if watch { &["NotOlderThan"] } else { &["Exact", "NotOlderThan", ""] };
                errors.not_supported_of(&path, &json!(m), all);
            }
            if !watch && m == "Exact" && rv == Some(0) {
                let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
                errors.forbidden(&path, why);
            }
        }
        if !watch && initial_events.is_some() {
            errors.forbidden(&Path::new("sendInitialEvents"), "sendInitialEvents is forbidden for list");
        }
        invalid("ListOptions", errors)?;
        if token.is_some() && rv.is_some_and(|v| v != 0) {
            return Err(bad("specifying resource version is not allowed when using continue".into()));
        }
        let version = match (rv, matching) {
            (None, _) => VersionMatch::Latest,
            (Some(0), _) => VersionMatch::Any,
            (Some(v), Some("Exact")) => VersionMatch::Exact(v),
            // A limit without a match rule means exactly that version, as it always has.
            (Some(v), None) if limit > 0 && !watch => VersionMatch::Exact(v),
            (Some(v), _) => VersionMatch::NotOlderThan(v),
        };
        let timeout: Option<i64> = q.number("timeoutSeconds").map_err(bad)?;
        let timeout = timeout.and_then(|t| u64::try_from(t).ok()).filter(|t| *t > 0);
        Ok(Self {
            labels: q.get("labelSelector").unwrap_or("").to_owned(),
            fields: q.get("fieldSelector").unwrap_or("").to_owned(),
            limit: usize::try_from(limit).unwrap_or(0),
            token,
            version,
            timeout: timeout.map(Duration::from_secs),
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
    /// The same, if anything was said of that.
    pub validation_said: Option<FieldValidation>,
    /// Who owns the fields; empty if not said.
    pub manager: String,
    /// Whether to take fields over from other managers (server-side apply), if anything was said of that.
    pub force: Option<bool>,
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
        if let Some(validation) = self.validation_said {
            v["fieldValidation"] = serde_json::json!(validation.as_str());
        }
        if self.dry_run {
            v["dryRun"] = serde_json::json!(["All"]);
        }
        v
    }
}

/// Reads `dryRun`, whose only value is `All`. Whoever meant a dry run, and said it wrong, must not have something done.
pub fn dry_run<'a>(given: impl Iterator<Item = &'a str>, errors: &mut ErrorList) -> bool {
    let given: Vec<&str> = given.collect();
    if given.iter().any(|v| *v != "All") {
        errors.not_supported(&Path::new("dryRun"), &json!(given), &["All"]);
    }
    !given.is_empty()
}

/// The longest name of a field manager.
pub const MAX_MANAGER: usize = 128;

impl WriteOptions {
    /// Reads the options of the kind given (`CreateOptions`, `UpdateOptions`, `PatchOptions`).
    pub fn parse(q: &Query, kind: &'static str) -> Result<Self, Status> {
        let mut errors = ErrorList::new();
        let dry_run = dry_run(q.all("dryRun"), &mut errors);
        let text = q.get("fieldValidation").unwrap_or("");
        let validation = FieldValidation::parse(text).unwrap_or_else(|| {
            let known = ["", "Ignore", "Strict", "Warn"];
            errors.not_supported(&Path::new("fieldValidation"), &json!(text), &known);
            FieldValidation::default()
        });
        let manager = q.get("fieldManager").unwrap_or("").to_owned();
        let path = Path::new("fieldManager");
        if manager.len() > MAX_MANAGER {
            errors.too_long(&path, MAX_MANAGER);
        }
        for (at, c) in manager.char_indices().filter(|(_, c)| !is_printable(*c)) {
            let why = format!("invalid character U+{:04X} (at position {at})", u32::from(c));
            errors.invalid_str(&path, &manager, why);
        }
        invalid(kind, errors)?;
        let validation_said = Some(validation).filter(|_| !text.is_empty());
        let force = q.flag_if_set("force");
        Ok(Self { dry_run, validation, validation_said, manager, force, applied: false })
    }

    /// Fails if these options do not go with a patch, or do not with an `apply` of all patches.
    pub fn check_patch(&self, apply: bool) -> Result<(), Status> {
        let mut errors = ErrorList::new();
        if apply && self.manager.is_empty() {
            errors.required(&Path::new("fieldManager"), "is required for apply patch");
        }
        if !apply && self.force.is_some() {
            errors.forbidden(&Path::new("force"), "may not be specified for non-apply patch");
        }
        invalid("PatchOptions", errors)
    }
}

/// Whether a character may be part of a manager's name: only what is seen, and plain spaces.
pub fn is_printable(c: char) -> bool {
    c == ' ' || !c.is_control() && !c.is_whitespace()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(q: &str) -> Result<ListOptions, Status> {
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
        for (q, code, text) in [
            (
                "resourceVersionMatch=Exact",
                422,
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden",
            ),
            ("resourceVersion=1&resourceVersionMatch=Some", 422, "Unsupported value: \"Some\""),
            ("sendInitialEvents=true", 422, "sendInitialEvents is forbidden for list"),
            (
                "resourceVersion=1&resourceVersionMatch=x",
                422,
                "resourceVersionMatch: Unsupported value: \"x\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
            ),
            ("resourceVersion=abc", 400, "resourceVersion"),
            ("limit=x", 400, "parsing \"x\": invalid syntax"),
        ] {
            let refused = list(q).unwrap_err();
            assert_eq!(refused.code, code, "{q}");
            assert!(refused.message.contains(text), "{}", refused.message);
        }
    }

    #[test]
    fn watches_say_from_where_they_begin() {
        let watch = |q: &str| ListOptions::parse(&Query::parse(Some(q)), true);
        assert!(watch("sendInitialEvents=false&resourceVersionMatch=NotOlderThan").is_ok());
        for (q, causes) in [
            ("sendInitialEvents=true", 1),
            ("resourceVersionMatch=NotOlderThan", 1),
            ("resourceVersionMatch=Exact&resourceVersion=1", 2),
            ("sendInitialEvents=true&resourceVersionMatch=Exact", 2),
            ("sendInitialEvents=true&resourceVersionMatch=NotOlderThan&continue=x", 1),
        ] {
            let refused = watch(q).unwrap_err();
            assert_eq!((refused.code, refused.details.unwrap().causes.len()), (422, causes), "{q}");
        }
    }

    #[test]
    fn options_of_writes() {
        let parse = |q: &str| WriteOptions::parse(&Query::parse(Some(q)), "CreateOptions");
        assert!(parse("dryRun=All&fieldValidation=Strict&fieldManager=a").unwrap().dry_run);
        for (q, text) in [
            (
                "dryRun=Some",
                "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
            ),
            ("dryRun=", "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: [\"\"]"),
            ("fieldValidation=No", "fieldValidation: Unsupported value"),
            (
                "fieldManager=a%0Ab",
                "fieldManager: Invalid value: \"a\\nb\": invalid character U+000A (at position 1)",
            ),
        ] {
            let refused = parse(q).unwrap_err();
            assert_eq!(refused.code, 422, "{q}");
            assert!(refused.message.contains(text), "{}", refused.message);
        }
    }

    #[test]
    fn decodes() {
        let q = Query::parse(Some("labelSelector=a%3Db%2Cc+in+%28d%29&watch"));
        assert_eq!(q.get("labelSelector"), Some("a=b,c in (d)"));
        assert!(q.flag("watch"));
        for (text, want) in [
            ("", None),
            ("watch=false", Some(false)),
            ("watch=FALSE", Some(false)),
            ("watch=0", Some(false)),
            ("watch", Some(true)),
            ("watch=f", Some(true)),
        ] {
            assert_eq!(Query::parse(Some(text)).flag_if_set("watch"), want, "{text}");
        }
    }

    #[test]
    fn options_go_with_a_kind_of_patch() {
        let check = |q: &str, apply| {
            WriteOptions::parse(&Query::parse(Some(q)), "PatchOptions").and_then(|o| o.check_patch(apply))
        };
        assert!(check("fieldManager=a&force=false", true).is_ok() && check("", false).is_ok());
        for (q, apply, why) in [
            ("", true, "fieldManager: Required value: is required for apply patch"),
            ("force=false", false, "force: Forbidden: may not be specified for non-apply patch"),
        ] {
            let refused = check(q, apply).unwrap_err();
            assert_eq!(refused.message, format!("PatchOptions.meta.k8s.io \"\" is invalid: {why}"));
            assert_eq!(refused.details.unwrap().causes.len(), 1, "{q}");
        }
    }
}
