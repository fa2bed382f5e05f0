//! Which webhooks want to see a write, and in which version of its object.

use std::sync::Arc;

use api::meta::text;
use api::selector::Label;
use api::{Object, Status, Value};
use serde_json::json;

use super::{Operation, Review};

pub(super) const GROUP: &str = "admissionregistration.k8s.io";

fn list<'a>(v: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    v.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

impl Operation {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// What a rule sees of a write.
struct Seen<'a> {
    operation: &'static str,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
    subresource: &'a str,
    namespaced: bool,
}

/// Whether a rule covers the write.
fn covers(rule: &Value, seen: &Seen<'_>) -> bool {
    let any = |field: &str, values: &[&str]| {
        list(rule, field).any(|v| v == "*" || v.as_str().is_some_and(|v| values.contains(&v)))
    };
    let scope = match text(rule, "/scope") {
        "Namespaced" => seen.namespaced,
        "Cluster" => !seen.namespaced,
        _ => true,
    };
    let resource = list(rule, "/resources").filter_map(Value::as_str).any(|pattern| {
        let (r, s) = pattern.split_once('/').unwrap_or((pattern, ""));
        let resource = r == "*" || r == seen.resource;
        match (pattern.contains('/'), s) {
            (false, _) => resource && seen.subresource.is_empty(),
            (true, "*") => resource,
            (true, s) => resource && s == seen.subresource,
        }
    });
    scope
        && resource
        && any("/operations", &[seen.operation])
        && any("/apiGroups", &[seen.group])
        && any("/apiVersions", &[seen.version])
}

/// A webhook that wants to see a write.
pub(super) struct Wanted {
    /// Tells it from all others: the names of its configuration and its own.
    pub(super) id: String,
    pub(super) hook: Value,
    /// The index of the version, among the kind's, in which its rules ask for the object.
    pub(super) version: usize,
}

/// The version in which one of the rules covers the write: that of the request, or, unless they are to match exactly, another
/// in which the same objects are served.
fn version_for(r: &Review<'_>, hook: &Value) -> Option<usize> {
    let covered = |at: usize| {
        let version = r.kind.versions.get(at)?;
        let seen = Seen {
            operation: r.operation.word(),
            group: &version.group,
            version: &version.version,
            resource: &r.gvr.resource,
            subresource: r.subresource,
            namespaced: r.kind.namespaced,
        };
        (version.served && list(hook, "/rules").any(|rule| covers(rule, &seen))).then_some(at)
    };
    let others = || (0..r.kind.versions.len()).filter(|at| *at != r.version).find_map(covered);
    covered(r.version).or_else(|| if text(hook, "/matchPolicy") == "Exact" { None } else { others() })
}

/// What a selector needs of an object.
fn labelled(object: &Value) -> Arc<Object> {
    Object::from_value(json!({"metadata": {"labels": api::meta::of(object).get("labels")}}))
}

/// Whether a selector matches one of the states of an object: as it will be, as it is. A state that there is none of has no
/// labels that could be missing; where there is neither, only a selector of everything matches.
fn selects(selector: &Label, states: &[Option<Arc<Object>>]) -> bool {
    selector.is_everything() || states.iter().flatten().any(|o| selector.matches(o.labels()))
}

/// The webhooks of all configurations, in the order of their names, that want to see this write.
pub(super) fn wanted(r: &Review<'_>, resource: &str) -> Result<Vec<Wanted>, Status> {
    let configurations = r.server.cache.kind(GROUP, resource).all("");
    if configurations.is_empty() {
        return Ok(Vec::new());
    }
    let itself = r.gvr.group.is_empty() && r.gvr.resource == "namespaces";
    let namespace = if itself {
        let object = if r.object.is_null() { r.old.unwrap_or(&Value::Null) } else { &*r.object };
        Some(Object::from_value(object.clone()))
    } else if r.namespace.is_empty() {
        None
    } else {
        r.server.cache.kind("", "namespaces").get(r.namespace)
    };
    let states = [Some(&*r.object), r.old].map(|o| o.filter(|v| !v.is_null()).map(labelled));
    let mut out = Vec::new();
    for configuration in configurations {
        for hook in list(configuration.value(), "/webhooks") {
            let Some(version) = version_for(r, hook) else { continue };
            let selector = |field: &str| match hook.get(field) {
                None | Some(Value::Null) => Ok(Label::everything()),
                Some(s) => Label::from_selector(s),
            };
            let by_namespace = selector("namespaceSelector")?;
            if let Some(ns) = &namespace
                && !by_namespace.matches(ns.labels())
            {
                continue;
            }
            if selects(&selector("objectSelector")?, &states) {
                let id = format!("{}/{}", configuration.name(), text(hook, "/name"));
                out.push(Wanted { id, hook: hook.clone(), version });
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_is_not_there_is_not_selected() {
        let absent = json!({"matchExpressions": [{"key": "skip", "operator": "DoesNotExist"}]});
        let absent = Label::from_selector(&absent).unwrap();
        let state = |labels: Value| Some(labelled(&json!({"metadata": {"labels": labels}})));
        let (skipped, plain) = (state(json!({"skip": "1"})), state(json!({})));
        for (states, want) in [
            ([None, skipped.clone()], false),
            ([None, plain.clone()], true),
            ([skipped.clone(), plain], true),
            ([skipped.clone(), skipped], false),
            ([None, None], false),
        ] {
            assert_eq!(selects(&absent, &states), want, "{states:?}");
        }
        assert!(selects(&Label::everything(), &[None, None]));
    }

    #[test]
    fn rules() {
        let seen = |operation, resource, subresource| Seen {
            operation,
            group: "apps",
            version: "v1",
            resource,
            subresource,
            namespaced: true,
        };
        let rule = |resources: Value, operations: Value, scope: &str| json!({"apiGroups": ["apps"], "apiVersions": ["*"], "resources": resources, "operations": operations, "scope": scope});
        for (rule, seen, want) in [
            (rule(json!(["deployments"]), json!(["CREATE"]), "*"), seen("CREATE", "deployments", ""), true),
            (
                rule(json!(["deployments"]), json!(["CREATE"]), "*"),
                seen("CREATE", "deployments", "scale"),
                false,
            ),
            (rule(json!(["deployments"]), json!(["UPDATE"]), "*"), seen("CREATE", "deployments", ""), false),
            (rule(json!(["*/*"]), json!(["*"]), "*"), seen("DELETE", "deployments", "scale"), true),
            (rule(json!(["*"]), json!(["*"]), "Cluster"), seen("CREATE", "deployments", ""), false),
            (
                rule(json!(["deployments/scale"]), json!(["*"]), ""),
                seen("UPDATE", "deployments", "scale"),
                true,
            ),
        ] {
            assert_eq!(covers(&rule, &seen), want, "{rule}");
        }
    }
}
