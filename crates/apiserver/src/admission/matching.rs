//! Which webhooks want to see a write, and in which version of its object.

use std::sync::Arc;

use api::cel::Program;
use api::meta::{items, text};
use api::selector::Label;
use api::{Object, Status, Value};
use arc_swap::ArcSwap;
use serde_json::json;

use super::{Operation, Review};
use crate::cache::Cache;

pub(super) const GROUP: &str = "admissionregistration.k8s.io";

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
        items(rule, field).any(|v| v == "*" || v.as_str().is_some_and(|v| values.contains(&v)))
    };
    let scope = match text(rule, "/scope") {
        "Namespaced" => seen.namespaced,
        "Cluster" => !seen.namespaced,
        _ => true,
    };
    let resource = items(rule, "/resources").filter_map(Value::as_str).any(|pattern| {
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

/// A webhook as its configuration has it, with what is read once.
#[derive(Debug)]
pub(super) struct Hook {
    /// Tells it from all others: the names of its configuration and its own.
    pub(super) id: String,
    pub(super) value: Value,
    /// Its conditions: what they say, and that compiled.
    pub(super) conditions: Vec<(String, Result<Program, String>)>,
    namespaces: Result<Label, Status>,
    objects: Result<Label, Status>,
}

impl Hook {
    pub(super) fn compile(configuration: &str, hook: &Value) -> Self {
        let selector = |field: &str| match hook.get(field) {
            None | Some(Value::Null) => Ok(Label::everything()),
            Some(s) => Label::from_selector(s),
        };
        let expressions = items(hook, "/matchConditions").map(|c| text(c, "/expression"));
        Self {
            id: format!("{configuration}/{}", text(hook, "/name")),
            conditions: expressions.map(|e| (e.to_owned(), Program::parse(e))).collect(),
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            value: hook.clone(),
        }
    }
}

/// The webhooks of all configurations of a kind, in the order of their names, as of a revision of them.
#[derive(Debug, Default)]
struct Compiled {
    of: u64,
    hooks: Vec<Arc<Hook>>,
}

/// The webhooks of a kind of configuration, compiled anew when one of these changes.
pub(super) struct Hooks {
    resource: &'static str,
    compiled: ArcSwap<Compiled>,
}

impl Hooks {
    pub(super) fn of(resource: &'static str) -> Self {
        Self { resource, compiled: ArcSwap::default() }
    }

    pub(super) fn is_empty(&self, cache: &Cache) -> bool {
        cache.kind(GROUP, self.resource).is_empty()
    }

    fn compiled(&self, cache: &Cache) -> Arc<Compiled> {
        let kind = cache.kind(GROUP, self.resource);
        let of = kind.last();
        let compiled = self.compiled.load();
        if compiled.of == of {
            return compiled.clone();
        }
        let mut hooks = Vec::new();
        for configuration in kind.all("") {
            let all = items(configuration.value(), "/webhooks");
            hooks.extend(all.map(|hook| Arc::new(Hook::compile(configuration.name(), hook))));
        }
        let compiled = Arc::new(Compiled { of, hooks });
        self.compiled.store(compiled.clone());
        compiled
    }
}

/// A webhook that wants to see a write.
pub(super) struct Wanted {
    pub(super) hook: Arc<Hook>,
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
        (version.served && items(hook, "/rules").any(|rule| covers(rule, &seen))).then_some(at)
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

/// The webhooks that want to see this write.
pub(super) fn wanted(r: &Review<'_>, hooks: &Hooks) -> Result<Vec<Wanted>, Status> {
    let compiled = hooks.compiled(&r.server.cache);
    if compiled.hooks.is_empty() {
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
    for hook in &compiled.hooks {
        let Some(version) = version_for(r, &hook.value) else { continue };
        let (namespaces, objects) = (hook.namespaces.as_ref(), hook.objects.as_ref());
        if let Some(ns) = &namespace
            && !namespaces.map_err(Clone::clone)?.matches(ns.labels())
        {
            continue;
        }
        if selects(objects.map_err(Clone::clone)?, &states) {
            out.push(Wanted { hook: hook.clone(), version });
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
