//! PodSecurity: the pod security standards that a namespace's labels ask for (`baseline`, `restricted`), enforced on pods
//! and warned of in templates, and of the pods that are there when a namespace asks for more.
//!
//! A label may name the version whose standard holds: what a later one added or allowed is left out then. What `audit` asks
//! for is noted beside the review, for the audit log.

use api::meta::text;
use api::{Status, Value};
use async_trait::async_trait;

use super::standards::{Violation, violations};
use super::{Operation, Plugin, Review};

/// See the module.
pub struct PodSecurity;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// The labels' prefix.
const LABEL: &str = "pod-security.kubernetes.io/";

/// The version of a standard: the minor of `v1.MINOR`; of `latest` more than any.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32);

const LATEST: Version = Version(u32::MAX);

impl Version {
    fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(LATEST);
        }
        let minor = text.strip_prefix("v1.")?;
        let plain = minor == "0" || !minor.starts_with('0') && minor.bytes().all(|c| c.is_ascii_digit());
        minor.parse().ok().filter(|_| plain).map(Self)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if *self == LATEST { f.write_str("latest") } else { write!(f, "v1.{}", self.0) }
    }
}

/// What a namespace asks for in one mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) level: Level,
    pub(super) version: Version,
}

/// What a namespace asks for.
struct Policies {
    enforce: Policy,
    warn: Policy,
    audit: Policy,
}

impl Policies {
    /// From labels. What of a version cannot be read is taken for the newest; a level, for the strictest where it is enforced,
    /// and else for none, as upstream does.
    fn of(label: &dyn Fn(&str) -> Option<String>) -> Self {
        let given = |mode: &str| {
            let version = label(&format!("{LABEL}{mode}-version"));
            let level = label(&format!("{LABEL}{mode}"));
            (level, version.map(|v| Version::parse(&v).unwrap_or(LATEST)))
        };
        let policy = |level, version: Option<Version>| Policy { level, version: version.unwrap_or(LATEST) };
        let told = |(level, version): (Option<String>, _)| {
            policy(level.and_then(|l| Level::parse(&l)).unwrap_or(Level::Privileged), version)
        };
        let (level, version) = given("enforce");
        let known = level.as_deref().map(Level::parse);
        let enforced = known.map_or(Level::Privileged, |level| level.unwrap_or(Level::Restricted));
        let enforce = policy(enforced, version);
        let warn = match (given("warn"), known.flatten()) {
            // Warned of is what is enforced where nothing else is said.
            ((None, version), Some(level)) => Policy { level, version: version.unwrap_or(enforce.version) },
            (given, _) => told(given),
        };
        Self { enforce, warn, audit: told(given("audit")) }
    }
}

impl Policy {
    fn says(&self, wrong: &[Violation]) -> String {
        let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
        format!("violate PodSecurity \"{}:{}\": {}", self.level.name(), self.version, wrong.join(", "))
    }

    /// What of a pod, or of the pods of a template, violates it.
    fn violations(self, pod: &Value) -> Vec<Violation> {
        let part = |p: &str| pod.pointer(p).unwrap_or(&Value::Null);
        violations(self, part("/spec"), part("/metadata/annotations"))
    }
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        [Self::Privileged, Self::Baseline, Self::Restricted].into_iter().find(|level| level.name() == text)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::Baseline => "baseline",
            Self::Restricted => "restricted",
        }
    }
}

/// Whether an update of a pod could change what it violates: other images, or other containers.
fn is_significant(new: &Value, old: &Value) -> bool {
    let list = |pod: &Value, field: &str| {
        let list = pod.get(field).and_then(Value::as_array).into_iter().flatten();
        list.map(|c| (text(c, "/name").to_owned(), text(c, "/image").to_owned())).collect::<Vec<_>>()
    };
    let images = |pod: &Value, field: &str| -> Vec<String> {
        list(pod, field).into_iter().map(|(_, image)| image).collect()
    };
    let old_ones = list(old, "ephemeralContainers");
    ["containers", "initContainers"].iter().any(|f| images(new, f) != images(old, f))
        || list(new, "ephemeralContainers").iter().any(|c| !old_ones.contains(c))
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        let namespace = r.gvr.group.is_empty() && r.gvr.resource == "namespaces" && r.subresource.is_empty();
        matches!(r.operation, Operation::Create | Operation::Update)
            && (namespace
                || matches!(r.subresource, "" | "ephemeralcontainers") && r.kind.pod_of(r.object).is_some())
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        if r.gvr.resource == "namespaces" {
            return namespace(r);
        }
        let Some(namespace) = r.server.cache.kind("", "namespaces").get(r.namespace) else { return Ok(()) };
        let label = |name: &str| namespace.labels().get(name).map(str::to_owned);
        let Policies { enforce, warn, audit } = Policies::of(&label);
        if enforce.level.max(warn.level).max(audit.level) == Level::Privileged {
            return Ok(());
        }
        let Some(pod) = r.kind.pod_of(r.object) else { return Ok(()) };
        let old = r.old.and_then(|o| r.kind.pod_of(o)).and_then(|p| p.get("spec"));
        if let (Some(old), Some(new), None) = (old, pod.get("spec"), &r.kind.template)
            && !is_significant(new, old)
        {
            return Ok(());
        }
        let wrong = audit.violations(pod);
        if !wrong.is_empty() {
            let note = format!("would {}", audit.says(&wrong));
            r.progress.notes.push((format!("{LABEL}audit-violations"), note));
        }
        if r.kind.template.is_none() {
            r.progress.notes.push((
                format!("{LABEL}enforce-policy"),
                format!("{}:{}", enforce.level.name(), enforce.version),
            ));
            let wrong = enforce.violations(pod);
            if !wrong.is_empty() {
                return Err(r.forbidden(enforce.says(&wrong).replacen("violate", "violates", 1)));
            }
        }
        // Pods of a template would be refused later, where nobody looks: say so now.
        let wrong = warn.violations(pod);
        if !wrong.is_empty() {
            r.warnings.push(format!("would {}", warn.says(&wrong)));
        }
        Ok(())
    }
}

/// A namespace's labels have to be good, and whoever asks for more is told which pods would not get in.
fn namespace(r: &mut Review<'_>) -> Result<(), Status> {
    let mut errors = api::ErrorList::new();
    let path = api::Path::new("metadata").child("labels");
    let levels = ["privileged", "baseline", "restricted"];
    for mode in ["enforce", "warn", "audit"] {
        let level = (format!("{LABEL}{mode}"), format!("must be one of {}", levels.join(", ")));
        let version = (format!("{LABEL}{mode}-version"), "must be \"latest\" or \"v1.x\"".to_owned());
        for (of_level, (key, why)) in [(true, level), (false, version)] {
            let Some(given) = label_of(r.object, &key) else { continue };
            let good = if of_level { levels.contains(&given) } else { Version::parse(given).is_some() };
            // What was wrong before may stay as it is.
            if !good && r.old.and_then(|o| label_of(o, &key)) != Some(given) {
                errors.invalid_str(&path.key(&key), given, why);
            }
        }
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&r.kind.gvk(), r.name, &errors));
    }
    let of = |object: &Value| {
        let label = |name: &str| label_of(object, name).map(str::to_owned);
        Policies::of(&label).enforce
    };
    let (new, old) = (of(r.object), r.old.map(of));
    let relaxed = |old: Policy| old == new || old.version == new.version && old.level >= new.level;
    if old.is_none_or(relaxed) || new.level == Level::Privileged {
        return Ok(());
    }
    let mut found: std::collections::BTreeMap<String, Vec<String>> = std::collections::BTreeMap::new();
    for pod in r.server.cache.kind("", "pods").all(r.name) {
        let wrong = new.violations(pod.value());
        if !wrong.is_empty() {
            let names: Vec<&str> = wrong.iter().map(|w| w.reason).collect();
            found.entry(names.join(", ")).or_default().push(pod.name().to_owned());
        }
    }
    if !found.is_empty() {
        r.warnings.push(format!(
            "existing pods in namespace \"{}\" violate the new PodSecurity enforce level \"{}:{}\"",
            r.name,
            new.level.name(),
            new.version
        ));
    }
    for (wrong, pods) in found {
        let others = match pods.len() {
            1 => String::new(),
            2 => " (and 1 other pod)".into(),
            n => format!(" (and {} other pods)", n - 1),
        };
        r.warnings.push(format!("{}{others}: {wrong}", pods[0]));
    }
    Ok(())
}

/// A label of an object's metadata.
fn label_of<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    api::meta::of(object).get("labels")?.get(key)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn versions() {
        for (text, want) in [
            ("latest", Some(LATEST)),
            ("v1.0", Some(Version(0))),
            ("v1.25", Some(Version(25))),
            ("v1.025", None),
            ("v2.1", None),
            ("1.25", None),
            ("v1.+5", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), want, "{text}");
        }
    }

    #[test]
    fn labels_say_what_is_enforced_and_what_is_told() {
        let policy = |level, minor: u32| Policy { level, version: Version(minor) };
        let latest = |level| Policy { level, version: LATEST };
        use Level::{Baseline, Privileged, Restricted};
        for (labels, want) in [
            (json!({}), [latest(Privileged), latest(Privileged), latest(Privileged)]),
            (
                json!({"enforce": "baseline", "enforce-version": "v1.20"}),
                [policy(Baseline, 20), policy(Baseline, 20), latest(Privileged)],
            ),
            (
                json!({"enforce": "baseline", "enforce-version": "v1.20", "warn": "restricted", "audit-version": "v1.3"}),
                [policy(Baseline, 20), latest(Restricted), policy(Privileged, 3)],
            ),
            (
                json!({"enforce": "x", "enforce-version": "y", "warn": "z", "audit": ""}),
                [latest(Restricted), latest(Privileged), latest(Privileged)],
            ),
            (json!({"enforce": "x"}), [latest(Restricted), latest(Privileged), latest(Privileged)]),
        ] {
            let label = |name: &str| labels.get(name.strip_prefix(LABEL)?)?.as_str().map(str::to_owned);
            let of = Policies::of(&label);
            assert_eq!([of.enforce, of.warn, of.audit], want, "{labels}");
        }
    }

    #[test]
    fn updates_that_change_no_image_are_not_judged() {
        let pod = |image: &str, debug: &[&str]| {
            let ephemeral: Vec<Value> = debug.iter().map(|n| json!({"name": n, "image": "d"})).collect();
            json!({"containers": [{"name": "a", "image": image}], "ephemeralContainers": ephemeral, "tolerations": [image]})
        };
        let old = pod("i", &["x"]);
        for (new, want) in [
            (pod("i", &["x"]), false),
            (pod("i", &[]), false),
            (pod("j", &["x"]), true),
            (pod("i", &["x", "y"]), true),
            (json!({"containers": []}), true),
        ] {
            assert_eq!(is_significant(&new, &old), want, "{new}");
        }
    }
}
