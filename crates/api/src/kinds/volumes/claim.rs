//! What a claim may say, and what may change of it.

use serde_json::{Value, json};

use super::super::common::*;
use super::check_modes;
use crate::field::{ErrorList, Path};
use crate::quantity::Quantity;
use crate::{Map, meta, quota, validate};

/// The class of a claim, as it was said before there was a field.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

fn asked(claim: &Value) -> &Value {
    &claim["spec"]["resources"]["requests"]["storage"]
}

/// `old`: what it changes. A source whose group is no name of one may stay.
pub(super) fn check(errors: &mut ErrorList, claim: &Value, old: &Value) {
    let (spec, path) = (&claim["spec"], Path::new("spec"));
    let modes = path.child("accessModes");
    if empty(&spec["accessModes"]) {
        errors.required(&modes, "at least 1 access mode is required");
    }
    let mut before = ErrorList::new();
    check_selector(&mut before, &Path::root(), &old["spec"]["selector"]);
    let mut selector = ErrorList::new();
    check_selector(&mut selector, &path.child("selector"), &spec["selector"]);
    if before.is_empty() {
        errors.append(selector);
    }
    if !empty(&spec["accessModes"]) {
        check_modes(errors, &modes, &spec["accessModes"], "");
    }
    let at = path.child("resources").key("storage");
    let storage = asked(claim);
    match Quantity::of_value(storage) {
        _ if storage.is_null() => errors.required(&at, ""),
        Ok(q) if q.signum() <= 0 => errors.invalid(&at, storage, "must be greater than zero"),
        Ok(_) => {}
        Err(e) => errors.invalid(&at, storage, e.to_string()),
    }
    let class = |errors: &mut ErrorList, field: &str| {
        if !empty(&spec[field]) {
            each_why(errors, &path.child(field), &spec[field], validate::dns_subdomain);
        }
    };
    class(errors, "storageClassName");
    let mode = &spec["volumeMode"];
    if !mode.is_null() && !["Block", "Filesystem"].contains(&text(mode)) {
        errors.not_supported(&path.child("volumeMode"), mode, &["Block", "Filesystem"]);
    }
    check_sources(errors, spec, &old["spec"], &path);
    class(errors, "volumeAttributesClassName");
}

fn check_sources(errors: &mut ErrorList, spec: &Value, before: &Value, path: &Path) {
    let grouped = |field: &str| !before[field]["apiGroup"].is_null();
    let any_group = grouped("dataSource") || grouped("dataSourceRef");
    for field in ["dataSource", "dataSourceRef"] {
        let (source, at) = (&spec[field], path.child(field));
        if source.is_null() {
            continue;
        }
        for field in ["name", "kind"].into_iter().filter(|field| empty(&source[*field])) {
            errors.required(&at.child(field), "");
        }
        let group = &source["apiGroup"];
        if empty(group) && source["kind"] != "PersistentVolumeClaim" {
            let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid_str(&at, text(&source["kind"]), why);
        }
        if !empty(group) && !any_group {
            each_why(errors, &at.child("apiGroup"), group, validate::dns_subdomain);
        }
        if field == "dataSourceRef" && !empty(&source["namespace"]) {
            each_why(errors, &at.child("namespace"), &source["namespace"], validate::dns_label);
        }
    }
    let (source, reference) = (&spec["dataSource"], &spec["dataSourceRef"]);
    if source.is_null() || reference.is_null() {
        return;
    }
    // What is shown is a path of upstream's, which says nothing in JSON.
    if !empty(&reference["namespace"]) {
        let why = "may not be specified when dataSourceRef.namespace is specified";
        errors.invalid(path, &json!({}), why);
    } else if ["apiGroup", "kind", "name"].iter().any(|field| source[field] != reference[field]) {
        errors.invalid(path, &json!({}), "must match dataSourceRef");
    }
}

/// What a claim, or a template of claims, leaves out of where its contents come from. It is said in two fields, of which the old
/// one cannot say all.
pub(super) fn prepare(new: &mut Value, old: &Value) {
    let before = &old["spec"];
    let used = !before["dataSource"].is_null() || !before["dataSourceRef"].is_null();
    let spec = meta::child(new, "spec");
    // Claims of other namespaces cannot be copied here.
    let reference = spec.get("dataSourceRef").unwrap_or(&Value::Null);
    if !empty(&reference["namespace"]) && before["dataSourceRef"].is_null() {
        spec.shift_remove("dataSourceRef");
    }
    let reference = spec.get("dataSourceRef").is_some_and(|v| !v.is_null());
    let source = spec.get("dataSource").unwrap_or(&Value::Null);
    let known = matches!(
        (text(&source["apiGroup"]), text(&source["kind"])),
        ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
    );
    // Of old, what was neither was passed over; now it can be said in the other field.
    if !used && !reference && !known {
        spec.shift_remove("dataSource");
    }
    both_sources(spec);
}

fn both_sources(spec: &mut Map) {
    let given = |field: &str| spec.get(field).filter(|v| !v.is_null()).cloned();
    let copy = |from: &Value| {
        let fields = ["apiGroup", "kind", "name"].into_iter();
        let pairs = fields.filter_map(|f| Some((f.to_owned(), from.get(f)?.clone())));
        Value::Object(pairs.collect())
    };
    match (given("dataSource"), given("dataSourceRef")) {
        (Some(source), None) => drop(spec.insert("dataSourceRef".to_owned(), copy(&source))),
        (None, Some(reference)) if empty(&reference["namespace"]) => {
            spec.insert("dataSource".to_owned(), copy(&reference));
        }
        _ => {}
    }
}

fn named(spec: &Value) -> Option<&str> {
    spec["storageClassName"].as_str()
}

/// What may not change: almost everything.
pub(super) fn check_update(errors: &mut ErrorList, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (n, o) = (&new["spec"], &old["spec"]);
    let mut rest = n.clone();
    let map = meta::as_map(&mut rest);
    let keep = |map: &mut Map, field: &str, from: &Value| {
        match from.get(field) {
            Some(v) => map.insert(field.to_owned(), v.clone()),
            None => map.shift_remove(field),
        };
    };
    let mut before = o.clone();
    // A source that is said in one field is said in both.
    if let Some(before) = before.as_object_mut() {
        both_sources(before);
    }
    if empty(&o["volumeName"]) {
        keep(map, "volumeName", &before);
    }
    let (was, is) = (meta::annotation(old, CLASS), meta::annotation(new, CLASS));
    let moved =
        named(o).is_none() && was.is_some_and(|was| named(n) == Some(was) && is.is_none_or(|is| is == was));
    if !moved && was.unwrap_or_default() != is.unwrap_or_default() {
        let at = Path::new("metadata").child("annotations").child(CLASS);
        errors.invalid_str(&at, is.unwrap_or_default(), "field is immutable");
    }
    let given_late = named(o).is_none() && named(n).is_some_and(|class| was.is_none_or(|was| was == class));
    if moved || given_late {
        keep(map, "storageClassName", &before);
    }
    if new["status"]["phase"] == "Bound" {
        if let Some(requests) = sub(map, "resources").and_then(|r| sub(r, "requests")) {
            keep(requests, "storage", &o["resources"]["requests"]);
        }
        keep(map, "volumeAttributesClassName", &before);
    }
    if rest != before {
        let why = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
        errors.forbidden(&path, why);
    }
    let amount = |v: &Value| Quantity::of_value(v).unwrap_or(Quantity::of_milli(0));
    let has = amount(&old["status"]["capacity"]["storage"]);
    if amount(asked(new)) < amount(asked(old)) && amount(asked(new)) <= has {
        let at = path.child("resources").child("requests").child("storage");
        errors.forbidden(&at, "field can not be less than status.capacity");
    }
    immutable(errors, &Path::new("volumeMode"), &n["volumeMode"], &o["volumeMode"]);
    let (class, at) = (&n["volumeAttributesClassName"], path.child("volumeAttributesClassName"));
    if *class != o["volumeAttributesClassName"]
        && !old["status"]["currentVolumeAttributesClassName"].is_null()
    {
        let why = "is forbidden when status.currentVolumeAttributesClassName is not nil";
        if class.is_null() {
            errors.forbidden(&at, format!("update to nil {why}"));
        } else if empty(class) {
            errors.forbidden(&at, format!("update to empty string {why}"));
        }
    }
}

/// How the resizing of a claim can stand.
const RESIZING: [&str; 5] = [
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
    "NodeResizePending",
];

pub(super) fn check_status(errors: &mut ErrorList, new: &Value) {
    if empty(&new["spec"]["accessModes"]) {
        errors.required(&Path::new("Spec").child("accessModes"), "");
    }
    let (status, path) = (&new["status"], Path::new("status"));
    let negative = |amount: &Value| Quantity::of_value(amount).ok().filter(|q| q.signum() < 0);
    let basic = |errors: &mut ErrorList, at: &Path, amount: &Value| {
        if let Some(q) = negative(amount) {
            errors.invalid(at, &json!(q.value()), "must be a valid resource quantity");
        }
    };
    for (name, amount) in status["capacity"].as_object().into_iter().flatten() {
        basic(errors, &path.child("capacity").key(name), amount);
    }
    let at = path.child("allocatedResourceStatuses");
    for (name, state) in status["allocatedResourceStatuses"].as_object().into_iter().flatten() {
        resource(errors, &at, name);
        if !RESIZING.contains(&text(state)) {
            errors.not_supported(&at, &json!(name), &RESIZING);
        }
    }
    let at = path.child("allocatedResources");
    for (name, amount) in status["allocatedResources"].as_object().into_iter().flatten() {
        if resource(errors, &at, name) {
            basic(errors, &at.key(name), amount);
        }
    }
}

/// What can be allocated to a claim.
fn resource(errors: &mut ErrorList, path: &Path, name: &str) -> bool {
    let wrong = validate::qualified_name(name);
    let mut good = wrong.is_empty();
    wrong.into_iter().for_each(|why| errors.invalid_str(path, name, why));
    if good
        && !quota::is_extended(name)
        && name != "storage"
        && (!name.contains('/') || name.contains("kubernetes.io/"))
    {
        errors.not_supported(path, &json!(name), &["storage"]);
        good = false;
    }
    good
}
