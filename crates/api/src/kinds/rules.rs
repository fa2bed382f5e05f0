//! The rules that all kinds have in common: metadata, status and generation.

use std::collections::{BTreeSet, HashSet};

use serde_json::{Value, json};

use super::Kind;
use crate::field::{ErrorList, Path, quote};
use crate::selector::Label;
use crate::{Map, meta, validate};

static NULL: Value = Value::Null;

/// Fields of metadata that a client may not choose, or may not change.
pub(super) fn prepare_create(kind: &Kind, obj: &mut Value) {
    let map = meta::as_map(obj);
    if kind.has_subresource("status") {
        if !kind.strategy.keeps_status_on_create() {
            map.shift_remove("status");
        }
        if !kind.custom {
            map.entry("status").or_insert_with(|| kind.strategy.no_status());
        }
    }
    let metadata = meta::entry(map, "metadata");
    for field in ["selfLink", "deletionTimestamp", "deletionGracePeriodSeconds", "generation"] {
        metadata.shift_remove(field);
    }
    if has_generation(kind) {
        metadata.insert("generation".to_owned(), json!(1));
    }
    kind.strategy.prepare_create(obj);
}

fn has_generation(kind: &Kind) -> bool {
    kind.custom || kind.strategy.has_generation()
}

fn carry(new: &mut Value, old: &Value, field: &str) {
    let map = meta::as_map(new);
    match old.get(field) {
        Some(v) => map.insert(field.to_owned(), v.clone()),
        None => map.shift_remove(field),
    };
}

pub(super) fn prepare_update(kind: &Kind, new: &mut Value, old: &Value, subresource: &str) {
    let part = kind.strategy.part(subresource);
    match subresource {
        _ if part.is_some() => {
            let sent = std::mem::replace(new, old.clone());
            if let Some(part) = part {
                (part.put)(&sent, new);
            }
        }
        // Everything but status and metadata is the old object's.
        "status" | "approval" => {
            let status = new.get("status").cloned();
            let metadata = std::mem::take(meta::of_mut(new));
            *new = old.clone();
            let map = meta::as_map(new);
            match status {
                Some(s) => map.insert("status".to_owned(), s),
                None => map.shift_remove("status"),
            };
            let to = meta::entry(map, "metadata");
            let before = std::mem::replace(to, metadata);
            let kept: &[&str] = match (kind.group.as_str(), kind.plural.as_str()) {
                _ if status_keeps_metadata(kind) => {
                    &["labels", "annotations", "finalizers", "ownerReferences"]
                }
                ("", "pods") => &["ownerReferences"],
                ("apps", "deployments") => &["labels"],
                _ => &[],
            };
            for field in kept {
                match before.get(*field) {
                    Some(v) => to.insert((*field).to_owned(), v.clone()),
                    None => to.shift_remove(*field),
                };
            }
            kind.strategy.prepare_status(new, old);
        }
        _ => {
            if kind.has_subresource("status") {
                carry(new, old, "status");
            }
            kind.strategy.prepare_update(new, old);
        }
    }
    let keep = meta::of(old).clone();
    let metadata = meta::of_mut(new);
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "selfLink",
    ] {
        // A uid or creation time that the client left out is the old one's; a different uid is for validation to refuse.
        if field == "uid" && metadata.get("uid").and_then(Value::as_str).is_some_and(|u| !u.is_empty()) {
            continue;
        }
        match keep.get(field) {
            Some(v) => metadata.insert(field.to_owned(), v.clone()),
            // Validation refuses to end by an update what does not end.
            None if field.starts_with("deletion") && metadata.get(field).is_some_and(|v| !v.is_null()) => {
                None
            }
            None => metadata.shift_remove(field),
        };
    }
    let raised = || {
        spec_changed(kind, new, old)
            || kind.strategy.raising_metadata().iter().any(|field| {
                let of = |obj: &'_ Value| meta::of(obj)[*field].as_object().cloned();
                !same_map(of(new).as_ref(), of(old).as_ref())
            })
    };
    if has_generation(kind) && subresource != "status" && raised() {
        let next = meta::generation(old) + 1;
        meta::of_mut(new).insert("generation".to_owned(), json!(next));
    }
}

/// May a change of the status bring no metadata along? Upstream's kinds of old let it; later ones do not.
fn status_keeps_metadata(kind: &Kind) -> bool {
    kind.custom
        || kind.plural == "volumeattachments"
        || matches!(
            kind.group.as_str(),
            "admissionregistration.k8s.io"
                | "apiextensions.k8s.io"
                | "apiregistration.k8s.io"
                | "flowcontrol.apiserver.k8s.io"
                | "internal.apiserver.k8s.io"
                | "resource.k8s.io"
                | "scheduling.k8s.io"
                | "storagemigration.k8s.io"
        )
        || kind.plural == "servicecidrs"
}

/// Are two maps equal, where an empty one is as good as none?
fn same_map(a: Option<&Map>, b: Option<&Map>) -> bool {
    a.filter(|m| !m.is_empty()) == b.filter(|m| !m.is_empty())
}

/// Does anything differ beyond metadata and status? To a custom resource its status is a field like others, unless it has a
/// subresource of its own, and then it has not changed.
fn spec_changed(kind: &Kind, new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return true };
    let counts = |k: &str| match k {
        "metadata" | "apiVersion" | "kind" => false,
        "status" => kind.custom,
        _ => true,
    };
    new.iter().any(|(k, v)| counts(k) && !same(old.get(k).unwrap_or(&NULL), v))
        || old.keys().any(|k| counts(k) && !new.contains_key(k))
}

fn same(a: &Value, b: &Value) -> bool {
    a == b
}

pub(super) fn validate_create(kind: &Kind, obj: &Value) -> ErrorList {
    let mut errors = metadata(kind, obj);
    errors.append(kind.strategy.validate(obj));
    errors.append(kind.strategy.validate_create(obj));
    errors
}

pub(super) fn validate_update(kind: &Kind, new: &Value, old: &Value, subresource: &str) -> ErrorList {
    let mut errors = metadata_update(kind, new, old);
    if let Some(part) = kind.strategy.part(subresource) {
        errors.append((part.validate)(new, old));
        errors.append(changed(kind, new, old));
        return errors;
    }
    match subresource {
        "status" => errors.append(kind.strategy.validate_status(new, old)),
        _ => {
            let mut own = kind.strategy.validate_update(new, old);
            // The same error found by both is said once.
            own.append(changed(kind, new, old));
            let mut seen = HashSet::new();
            own.0.retain(|e| seen.insert(e.to_string()));
            errors.append(own);
        }
    }
    errors
}

/// What is wrong with a changed object by itself. What was wrong with a pod, or with a template of pods, before the change may
/// stay: not every version knew every rule, and whoever deletes or labels such an object cannot mend it.
fn changed(kind: &Kind, new: &Value, old: &Value) -> ErrorList {
    let mut errors = kind.strategy.validate_changed(new, old);
    if !errors.is_empty() && kind.pod_of(old).is_some() {
        let before: HashSet<String> = kind.strategy.validate(old).0.iter().map(ToString::to_string).collect();
        errors.0.retain(|e| !before.contains(&e.to_string()));
    }
    errors
}

fn metadata(kind: &Kind, obj: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("metadata");
    let name = meta::name(obj);
    let generate = meta::generate_name(obj);
    if !generate.is_empty() {
        for why in kind.strategy.check_name(generate, true) {
            errors.invalid_str(&path.child("generateName"), generate, why);
        }
    }
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        for why in kind.strategy.check_name(name, false) {
            errors.invalid_str(&path.child("name"), name, why);
        }
    }
    let namespace = meta::namespace(obj);
    if kind.namespaced {
        if namespace.is_empty() {
            errors.required(&path.child("namespace"), "");
        } else {
            for why in validate::dns_label(namespace) {
                errors.invalid_str(&path.child("namespace"), namespace, why);
            }
        }
    } else if !namespace.is_empty() {
        errors.forbidden(&path.child("namespace"), "not allowed on this type");
    }
    errors.append(metadata_maps(kind, obj));
    errors
}

/// Checks `metadata.labels` as upstream does; also for templates of pods, with their own path.
pub(super) fn labels(labels: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in labels.as_object().into_iter().flatten() {
        for why in validate::qualified_name(key) {
            errors.invalid_str(path, key, why);
        }
        for why in validate::label_value(validate::text(value)) {
            errors.invalid_str(path, validate::text(value), why);
        }
    }
    errors
}

/// Checks `metadata.annotations`: keys, and 256 KiB in all.
pub(super) fn annotations(annotations: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for why in validate::qualified_name(&key.to_lowercase()) {
            errors.invalid_str(path, key, why);
        }
        size += key.len() + validate::text(value).len();
    }
    if size > 256 << 10 {
        errors.too_long(path, 256 << 10);
    }
    errors
}

/// Checks what all metadata may have, of what kind the object ever is: labels, annotations, owners and finalizers.
pub(super) fn metadata_parts(m: &Value, path: &Path) -> ErrorList {
    let mut errors = labels(&m["labels"], &path.child("labels"));
    errors.append(annotations(&m["annotations"], &path.child("annotations")));
    let owners = path.child("ownerReferences");
    let mut controller: Option<String> = None;
    for (i, owner) in m["ownerReferences"].as_array().into_iter().flatten().enumerate() {
        let at = owners.index(i);
        for (field, what) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            if owner[field].as_str().unwrap_or_default().is_empty() {
                errors.invalid_str(&at.child(field), "", what);
            }
        }
        if owner["apiVersion"] == "v1" && owner["kind"] == "Event" {
            errors.invalid(&at, owner, "v1, Kind=Event is disallowed from being an owner");
        }
        if owner["controller"] == true {
            let name = |field: &str| validate::text(&owner[field]);
            let this = format!("{}/{}", name("kind"), name("name"));
            match &controller {
                Some(first) => {
                    let why = format!(
                        "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {this}"
                    );
                    errors.invalid(&owners, &m["ownerReferences"], why);
                }
                None => controller = Some(this),
            }
        }
    }
    let at = path.child("finalizers");
    let finalizers = || m["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str);
    for finalizer in finalizers() {
        for why in validate::qualified_name(finalizer) {
            errors.invalid_str(&at, finalizer, why);
        }
    }
    if ["orphan", "foregroundDeletion"].iter().all(|f| finalizers().any(|g| g == *f)) {
        errors.invalid(&at, &m["finalizers"], "finalizer orphan and foregroundDeletion cannot be both set");
    }
    errors
}

fn metadata_maps(kind: &Kind, obj: &Value) -> ErrorList {
    let path = Path::new("metadata");
    let mut errors = metadata_parts(meta::of(obj), &path);
    let at = path.child("finalizers");
    if finalizers_need_domain(kind) {
        for (i, finalizer) in meta::finalizers(obj).enumerate() {
            full_finalizer(&mut errors, &at.index(i), finalizer);
        }
    }
    errors
}

/// Finalizers that need no domain: the system's own.
const FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// A finalizer is the system's own, or says in which domain it is at home.
pub(super) fn full_finalizer(errors: &mut ErrorList, path: &Path, finalizer: &str) {
    if !finalizer.contains('/') && !FINALIZERS.contains(&finalizer) {
        let why = "name is neither a standard finalizer name nor is it fully qualified";
        errors.invalid_str(path, finalizer, why);
    }
}

/// Upstream asks it where a kind is judged by the rules of the core group; some of other groups, and custom resources, are not.
fn finalizers_need_domain(kind: &Kind) -> bool {
    !kind.custom
        && !matches!(
            kind.group.as_str(),
            "admissionregistration.k8s.io"
                | "apiextensions.k8s.io"
                | "apiregistration.k8s.io"
                | "coordination.k8s.io"
        )
        && !matches!(kind.plural.as_str(), "events" | "poddisruptionbudgets")
}

/// What a client is told of an object that is good and could be better. `old`: what it changes.
pub(super) fn warnings(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<String> {
    let mut told = match old {
        Some(old) => kind.strategy.warnings_of_change(new, old),
        None => kind.strategy.warnings(new),
    };
    if kind.custom {
        let before: HashSet<&str> = old.into_iter().flat_map(meta::finalizers).collect();
        let added = meta::finalizers(new).filter(|f| !before.contains(f) && !f.contains('/'));
        for finalizer in added.filter(|f| !FINALIZERS.contains(f)).collect::<BTreeSet<_>>() {
            let path = if finalizer.contains('.') { " including a path (/)" } else { "" };
            told.push(format!(
                "metadata.finalizers: {}: prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers",
                quote(finalizer)
            ));
        }
    }
    told
}

fn metadata_update(kind: &Kind, new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("metadata");
    let (n, o) = (meta::of(new), meta::of(old));
    for field in ["name", "namespace", "uid", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        if field == "namespace" && !kind.namespaced {
            continue;
        }
        if n[field] != o[field] {
            errors.invalid(&path.child(field), &n[field], "field is immutable");
        }
    }
    if meta::is_deleting(old) {
        let before: HashSet<&str> = meta::finalizers(old).collect();
        let added: BTreeSet<&str> = meta::finalizers(new).filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let found: Vec<String> = added.into_iter().map(quote).collect();
            errors.forbidden(
                &path.child("finalizers"),
                format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}", found.join(", ")),
            );
        }
    }
    errors.append(metadata_maps(kind, new));
    errors
}

fn at<'a>(obj: &'a Value, path: &str) -> &'a Value {
    path.trim_start_matches('.').split('.').fold(obj, |v, part| v.get(part).unwrap_or(&NULL))
}

pub(super) fn scale_of(kind: &Kind, obj: &Value) -> Option<Value> {
    let paths = kind.strategy.scale_paths()?;
    let m = meta::of(obj);
    let mut metadata = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(v) = m.get(field) {
            metadata.insert(field.to_owned(), v.clone());
        }
    }
    let mut status = json!({"replicas": at(obj, &paths.status_replicas).as_i64().unwrap_or(0)});
    if let Some(path) = &paths.selector {
        let selector = at(obj, path);
        let text = match selector {
            Value::String(s) => s.clone(),
            Value::Object(s) if s.contains_key("matchLabels") || s.contains_key("matchExpressions") => {
                Label::from_selector(selector).map(|l| l.to_string()).unwrap_or_default()
            }
            other => Label::from_match_labels(other).to_string(),
        };
        if !text.is_empty() {
            status["selector"] = Value::String(text);
        }
    }
    let mut spec = json!({});
    if let Some(n) = at(obj, &paths.spec_replicas).as_i64().filter(|n| *n != 0) {
        spec["replicas"] = json!(n);
    }
    Some(
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status}),
    )
}

pub(super) fn set_scale(kind: &Kind, obj: &mut Value, replicas: i64) {
    let Some(paths) = kind.strategy.scale_paths() else { return };
    let mut parts: Vec<&str> = paths.spec_replicas.trim_start_matches('.').split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut map = meta::as_map(obj);
    for part in parts {
        map = meta::entry(map, part);
    }
    map.insert(last.to_owned(), json!(replicas));
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::kinds;
    use crate::names::{Gvk, gvr};

    /// Widgets, with or without a subresource for their status.
    fn widgets(status: bool) -> Kind {
        let sub = kinds::Subresource {
            name: "status".to_owned(),
            gvk: Gvk::new("example.com", "v1", "Widget"),
            verbs: vec!["get", "patch", "update"],
        };
        Kind {
            group: "example.com".to_owned(),
            version: "v1".to_owned(),
            kind: "Widget".to_owned(),
            list_kind: "WidgetList".to_owned(),
            plural: "widgets".to_owned(),
            singular: "widget".to_owned(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced: true,
            versions: vec![kinds::Version {
                group: "example.com".to_owned(),
                version: "v1".to_owned(),
                served: true,
                schema: kinds::VersionSchema::Any,
                verbs: vec!["create", "get", "update"],
                subresources: if status { vec![sub] } else { Vec::new() },
                conversion: kinds::Conversion::Identity,
                deprecation: None,
            }],
            columns: crate::table::Columns::Default,
            strategy: Arc::new(kinds::Generic),
            custom: true,
            template: None,
            answers_deleted: false,
        }
    }

    #[test]
    fn what_a_controller_has_to_look_at_raises_the_generation() {
        let deployments: &Kind = kinds::by_gvr(&gvr::DEPLOYMENTS).unwrap();
        let sets: &Kind = kinds::by_gvr(&gvr::REPLICA_SETS).unwrap();
        let (with, without) = (widgets(true), widgets(false));
        let old = json!({"metadata": {"name": "a", "generation": 4}, "spec": {"a": 1}, "status": {"b": 1}});
        for (kind, edit, subresource, want) in [
            (deployments, json!({"spec": {"a": 2}}), "", 5),
            (deployments, json!({"metadata": {"annotations": {"a": "b"}}}), "", 5),
            (deployments, json!({"metadata": {"annotations": {}}}), "", 4),
            (deployments, json!({"metadata": {"annotations": {"a": "b"}}}), "status", 4),
            (deployments, json!({"metadata": {"labels": {"a": "b"}}}), "", 4),
            (sets, json!({"metadata": {"annotations": {"a": "b"}}}), "", 4),
            (&with, json!({"status": {"b": 2}}), "", 4),
            (&with, json!({"status": {"b": 2}}), "status", 4),
            (&with, json!({"other": 1}), "", 5),
            (&without, json!({"status": {"b": 2}}), "", 5),
            (&without, json!({"metadata": {"annotations": {"a": "b"}}}), "", 4),
        ] {
            let mut new = old.clone();
            for (field, value) in edit.as_object().unwrap() {
                meta::entry(meta::as_map(&mut new), field)
                    .extend(value.as_object().cloned().unwrap_or_default());
                if !value.is_object() {
                    new[field] = value.clone();
                }
            }
            kind.prepare_update(&mut new, &old, subresource);
            assert_eq!(meta::generation(&new), want, "{kind:?} {subresource}: {edit}");
        }
    }

    #[test]
    fn finalizers_say_where_they_are_at_home() {
        let object = |finalizers: Value| json!({"metadata": {"name": "a", "namespace": "n", "finalizers": finalizers}});
        let maps: &Kind = kinds::by_gvr(&gvr::CONFIG_MAPS).unwrap();
        let leases: &Kind = kinds::by_gvr(&gvr::LEASES).unwrap();
        let widgets = widgets(true);
        let bare = "metadata.finalizers[1]: Invalid value: \"bare\": name is neither a standard finalizer name nor is it fully qualified";
        for (kind, finalizers, why) in [
            (maps, json!(["example.com/a", "kubernetes", "orphan"]), "[]"),
            (maps, json!(["foregroundDeletion", "bare"]), bare),
            (leases, json!(["foregroundDeletion", "bare"]), "[]"),
            (&widgets, json!(["foregroundDeletion", "bare"]), "[]"),
            (&widgets, json!(["a b"]), "metadata.finalizers: Invalid value: \"a b\": name part must"),
            (
                &widgets,
                json!(["orphan", "foregroundDeletion"]),
                "metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
            ),
        ] {
            let new = object(finalizers.clone());
            let old = object(json!([]));
            for message in
                [kind.validate_create(&new).message(), kind.validate_update(&new, &old, "").message()]
            {
                assert!(message.starts_with(why), "{kind:?} {finalizers}: {message}");
            }
        }
        let new = object(json!(["bare", "example.com", "example.com/a", "orphan", "old"]));
        assert_eq!(
            widgets.warnings(&new, Some(&object(json!(["old"])))),
            [
                "metadata.finalizers: \"bare\": prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers",
                "metadata.finalizers: \"example.com\": prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers",
            ]
        );
        assert_eq!(widgets.warnings(&new, None).len(), 3);
        assert!(maps.warnings(&new, None).is_empty());
    }

    /// What is in Go a field without `omitempty` is there from the beginning.
    #[test]
    fn what_is_never_left_out_is_there_at_once() {
        let kind = |group: &str, plural: &str| {
            kinds::all().iter().find(|k| k.group == group && k.plural == plural).unwrap()
        };
        let empty = json!({});
        let daemons = json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0,
            "numberReady": 0});
        let budget =
            json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0});
        let definition = json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": ["v2"]});
        for (group, plural, status) in [
            ("apps", "deployments", &empty),
            ("batch", "jobs", &empty),
            ("batch", "cronjobs", &empty),
            ("apiregistration.k8s.io", "apiservices", &empty),
            ("flowcontrol.apiserver.k8s.io", "flowschemas", &empty),
            ("networking.k8s.io", "ingresses", &json!({"loadBalancer": {}})),
            ("apps", "daemonsets", &daemons),
            ("apps", "statefulsets", &json!({"replicas": 0, "availableReplicas": 0})),
            ("policy", "poddisruptionbudgets", &budget),
            ("storage.k8s.io", "volumeattachments", &json!({"attached": false})),
            ("apiextensions.k8s.io", "customresourcedefinitions", &definition),
            ("networking.k8s.io", "networkpolicies", &NULL),
        ] {
            let mut obj = json!({"metadata": {"name": "a"}, "status": {"mine": true},
                "spec": {"versions": [{"name": "v1"}, {"name": "v2", "storage": true}]}});
            kind(group, plural).prepare_create(&mut obj);
            if status.is_null() {
                assert_eq!(obj["status"], json!({"mine": true}), "{plural} have no status");
            } else {
                assert_eq!(&obj["status"], status, "{plural}");
            }
        }
        let scaler = kind("autoscaling", "horizontalpodautoscalers");
        let mut obj = json!({"metadata": {}, "spec": {}});
        scaler.prepare_create(&mut obj);
        assert_eq!(obj["status"], json!({"desiredReplicas": 0, "currentMetrics": null}));
        scaler.from_storage(&mut obj, scaler.served("autoscaling", "v1").unwrap());
        assert_eq!(obj["status"], json!({"desiredReplicas": 0, "currentReplicas": 0}));

        for (group, plural, given, want) in [
            ("rbac.authorization.k8s.io", "roles", json!({}), json!({"rules": null})),
            ("rbac.authorization.k8s.io", "clusterroles", json!({"rules": []}), json!({"rules": []})),
            (
                "",
                "events",
                json!({"eventTime": "2024-01-02T03:04:05.000006Z"}),
                json!({"eventTime": "2024-01-02T03:04:05.000006Z", "source": {}, "firstTimestamp": null,
                    "lastTimestamp": null, "reportingComponent": "", "reportingInstance": ""}),
            ),
            (
                "discovery.k8s.io",
                "endpointslices",
                json!({"endpoints": [{"addresses": ["10.0.0.1"]}]}),
                json!({"endpoints": [{"addresses": ["10.0.0.1"], "conditions": {}}], "ports": null}),
            ),
        ] {
            let mut obj = given;
            kind(group, plural).default(&mut obj);
            assert_eq!(obj, want, "{plural}");
        }
    }
}
