//! CustomResourceDefinitions themselves, also in their v1beta1 shape. What the schemas say of objects is in [`super::crd`].

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::webhook::{check_client, check_reviews};
use super::{Conversion, Strategy};
use crate::field::{ErrorList, Path};
use crate::{Map, Release, meta, validate};

pub(super) const DECLS: &[Decl] = &[Decl {
    group: "apiextensions.k8s.io",
    resource: "customresourcedefinitions",
    short: &["crd", "crds"],
    categories: &["api-extensions"],
    strategy: || Arc::new(Definition),
    conversions: &[("apiextensions.k8s.io", "v1beta1", Conversion::Functions { to_storage, from_storage })],
    ..PLAIN
}];

struct Definition;

impl Strategy for Definition {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        set(spec, "conversion", json!({"strategy": "None"}));
        let names = meta::entry(spec, "names");
        let kind = names.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        set_text(names, "singular", &kind.to_lowercase());
        set_text(names, "listKind", &format!("{kind}List"));
        if let Some(service) = sub(spec, "conversion")
            .and_then(|c| sub(c, "webhook"))
            .and_then(|w| sub(w, "clientConfig"))
            .and_then(|c| sub(c, "service"))
        {
            set(service, "port", 443);
        }
    }

    /// Objects may be stored as soon as it is served.
    fn prepare_create(&self, obj: &mut Value) {
        let versions = items(&obj["spec"]["versions"]).iter();
        let stored: Vec<Value> =
            versions.filter(|v| v["storage"] == true).take(1).map(|v| v["name"].clone()).collect();
        let names = json!({"plural": "", "kind": ""});
        let status = json!({"conditions": null, "acceptedNames": names, "storedVersions": stored});
        meta::as_map(obj).insert("status".to_owned(), status);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        let (group, names) = (text(&spec["group"]), &spec["names"]);
        let want = format!("{}.{group}", text(&names["plural"]));
        if meta::name(obj) != want {
            errors.invalid_str(
                &Path::new("metadata").child("name"),
                meta::name(obj),
                "must be spec.names.plural+\".\"+spec.group",
            );
        }
        if group.is_empty() {
            errors.required(&path.child("group"), "");
        } else {
            for why in validate::dns_subdomain(group) {
                errors.invalid_str(&path.child("group"), group, why);
            }
            if !group.contains('.') {
                errors.invalid_str(&path.child("group"), group, "should be a domain with at least one dot");
            }
        }
        one_of(&mut errors, &path.child("scope"), &spec["scope"], &["Cluster", "Namespaced"]);
        let at = path.child("names");
        for field in ["plural", "singular", "kind", "listKind"] {
            if text(&names[field]).is_empty() {
                errors.required(&at.child(field), "");
            }
        }
        errors.append(check_names(names, &at));
        let versions = items(&spec["versions"]);
        let at = path.child("versions");
        if versions.is_empty() {
            errors.required(&at, "");
        }
        let stored = versions.iter().filter(|v| v["storage"] == true).count();
        if !versions.is_empty() && stored != 1 {
            errors.invalid(&at, &spec["versions"], "must have exactly one version marked as storage version");
        }
        let mut seen = HashSet::new();
        let mut unique = true;
        for (i, version) in versions.iter().enumerate() {
            let at = at.index(i);
            let name = text(&version["name"]);
            for why in validate::dns_1035_label(name) {
                errors.invalid_str(&at.child("name"), name, why);
            }
            unique &= seen.insert(name);
            check_deprecation(&mut errors, &at.child("deprecationWarning"), version);
            check_scale(&mut errors, &at.child("subresources"), &version["subresources"]["scale"]);
            for (j, column) in items(&version["additionalPrinterColumns"]).iter().enumerate() {
                let at = at.child("additionalPrinterColumns").index(j);
                if text(&column["name"]).is_empty() {
                    errors.required(&at.child("name"), "");
                }
                let (kind, at_type) = (text(&column["type"]), at.child("type"));
                let why = format!("must be one of {}", COLUMN_TYPES.join(","));
                if kind.is_empty() {
                    errors.required(&at_type, why);
                } else if !COLUMN_TYPES.contains(&kind) {
                    errors.invalid_str(&at_type, kind, why);
                }
                let format = text(&column["format"]);
                if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
                    let why = format!("must be one of {}", COLUMN_FORMATS.join(","));
                    errors.invalid_str(&at.child("format"), format, why);
                }
                check_path(&mut errors, &at.child("JSONPath"), text(&column["jsonPath"]));
            }
            check_selectable(&mut errors, &at.child("selectableFields"), version);
        }
        if !unique {
            errors.invalid(&at, &spec["versions"], "must contain unique version names");
        }
        let conversion = &spec["conversion"];
        let at = path.child("conversion");
        one_of(&mut errors, &at.child("strategy"), &conversion["strategy"], &["None", "Webhook"]);
        if conversion["strategy"] == "Webhook" {
            let webhook = &conversion["webhook"];
            if webhook["clientConfig"].is_null() {
                errors.required(&at.child("webhookClientConfig"), "required when strategy is set to Webhook");
            } else {
                check_client(&mut errors, &at.child("webhookClientConfig"), &webhook["clientConfig"]);
            }
            let reviews = &webhook["conversionReviewVersions"];
            check_reviews(&mut errors, &at.child("conversionReviewVersions"), reviews);
        } else if !conversion["webhook"].is_null() {
            let why = "should not be set when strategy is not set to Webhook";
            if !conversion["webhook"]["clientConfig"].is_null() {
                errors.forbidden(&at.child("webhookClientConfig"), why);
            }
            if !items(&conversion["webhook"]["conversionReviewVersions"]).is_empty() {
                errors.forbidden(&at.child("conversionReviewVersions"), why);
            }
        }
        errors.append(check_names(
            &obj["status"]["acceptedNames"],
            &Path::new("status").child("acceptedNames"),
        ));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let established = items(&old["status"]["conditions"])
            .iter()
            .any(|c| c["type"] == "Established" && c["status"] == "True");
        let (n, o) = (&new["spec"], &old["spec"]);
        immutable(&mut errors, &path.child("group"), &n["group"], &o["group"]);
        let name = |spec: &Value, field: &str| spec["names"][field].clone();
        if established {
            immutable(&mut errors, &path.child("scope"), &n["scope"], &o["scope"]);
            let at = path.child("names").child("kind");
            immutable(&mut errors, &at, &name(n, "kind"), &name(o, "kind"));
        }
        let at = path.child("names").child("plural");
        immutable(&mut errors, &at, &name(n, "plural"), &name(o, "plural"));
        let at = Path::new("status").child("storedVersions");
        let stored = &new["status"]["storedVersions"];
        if items(stored).is_empty() {
            errors.invalid(&at, stored, "must have at least one stored version");
            return errors;
        }
        for version in items(&n["versions"]).iter().filter(|v| v["storage"] == true) {
            if !items(stored).contains(&version["name"]) {
                let why = format!("must have the storage version {}", text(&version["name"]));
                errors.invalid(&at, stored, why);
            }
        }
        for (i, version) in items(stored).iter().enumerate() {
            if !items(&n["versions"]).iter().any(|v| v["name"] == *version) {
                errors.invalid(&at.index(i), version, "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions".replace("v1", text(version)));
            }
        }
        errors
    }

    /// What is stored from now on is in the status too.
    fn prepare_update(&self, new: &mut Value, _: &Value) {
        let stored = items(&new["spec"]["versions"]).iter().find(|v| v["storage"] == true);
        let Some(name) = stored.map(|v| v["name"].clone()) else { return };
        let list = meta::child(new, "status").entry("storedVersions").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut().filter(|l| !l.contains(&name)) {
            list.push(name);
        }
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        check_names(&new["status"]["acceptedNames"], &Path::new("status").child("acceptedNames"))
    }

    fn warnings_of_change(&self, new: &Value, old: &Value) -> Vec<String> {
        let before = self.warnings(old);
        self.warnings(new).into_iter().filter(|text| !before.contains(text)).collect()
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        let mut told = Vec::new();
        for version in items(&obj["spec"]["versions"]) {
            advise(&version["schema"]["openAPIV3Schema"], &mut told);
        }
        let mut seen = HashSet::new();
        told.retain(|text| seen.insert(text.clone()));
        told
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    /// What was so before may stay, and v1beta1 never asked.
    fn validate_sent(&self, api_version: &str, _: Release, new: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = ErrorList::new();
        // Only v1beta1 may ask for it.
        if api_version != "apiextensions.k8s.io/v1beta1"
            && new["spec"]["preserveUnknownFields"] == true
            && old.is_none_or(|o| o["spec"]["preserveUnknownFields"] != true)
        {
            let why = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
            errors.invalid(&Path::new("spec").child("preserveUnknownFields"), &json!(true), why);
        }
        let Some((approval, why)) = Approval::of(new) else { return errors };
        if api_version == "apiextensions.k8s.io/v1beta1"
            || old.and_then(Approval::of).is_some_and(|(was, _)| was == approval)
        {
            return errors;
        }
        let path = Path::new("metadata").child("annotations").key(APPROVED);
        match approval {
            Approval::Approved | Approval::Bypassed => {}
            Approval::Missing => errors.required(&path, why),
            Approval::Invalid => {
                errors.invalid_str(&path, meta::annotation(new, APPROVED).unwrap_or_default(), why);
            }
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// Its objects go first. Whoever writes a definition need not know of that, nor can take it away beforehand.
    fn prepare_delete(&self, obj: &mut Value, now: &str) {
        meta::add_finalizer(obj, CLEANUP);
        let conditions = meta::child(obj, "status").entry("conditions").or_insert_with(|| json!([]));
        if conditions.is_null() {
            *conditions = json!([]);
        }
        if let Some(list) = conditions.as_array_mut() {
            let why = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
            meta::set_condition(list, "Terminating", "True", "InstanceDeletionPending", why, now);
        }
    }
}

/// The finalizer that holds a definition which is being deleted until its objects are gone.
pub const CLEANUP: &str = "customresourcecleanup.apiextensions.k8s.io";

/// The types of columns that `kubectl get` shows.
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

/// Names that are given are labels, kinds but for their capitals.
fn check_names(names: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for field in ["plural", "singular", "kind", "listKind"] {
        let name = text(&names[field]);
        let mixed = matches!(field, "kind" | "listKind");
        let faults = if mixed {
            validate::dns_1035_label(&name.to_lowercase())
        } else {
            validate::dns_1035_label(name)
        };
        if !name.is_empty() && !faults.is_empty() {
            let also = if mixed { "may have mixed case, but should otherwise match: " } else { "" };
            errors.invalid_str(&path.child(field), name, format!("{also}{}", faults.join(",")));
        }
    }
    let kind = text(&names["kind"]);
    if !kind.is_empty() && names["kind"] == names["listKind"] {
        errors.invalid_str(&path.child("listKind"), kind, "kind and listKind may not be the same");
    }
    for list in ["shortNames", "categories"] {
        for (i, name) in items(&names[list]).iter().enumerate() {
            let faults = validate::dns_1035_label(text(name));
            if !faults.is_empty() {
                errors.invalid(&path.child(list).index(i), name, faults.join(","));
            }
        }
    }
    errors
}

/// The warning that users of a deprecated version get in its place.
fn check_deprecation(errors: &mut ErrorList, path: &Path, version: &Value) {
    let Some(warning) = version["deprecationWarning"].as_str() else { return };
    if version["deprecated"] != true {
        errors.invalid_str(path, warning, "can only be set for deprecated versions");
        return;
    }
    if warning.len() > 256 {
        errors.invalid_str(path, warning, "must be <= 256 characters long");
    }
    if warning.is_empty() {
        errors.invalid_str(path, warning, "must not be an empty string");
    }
    // Of blanks only the plain one is printed as it is.
    let hidden = |c: char| c.is_control() || c.is_whitespace() && c != ' ';
    if let Some((i, _)) = warning.char_indices().find(|(_, c)| hidden(*c)) {
        let what = "must only contain printable UTF-8 characters; non-printable character found at index";
        errors.invalid_str(path, warning, format!("{what} {i}"));
    }
}

/// A path of names from the object on.
fn check_path(errors: &mut ErrorList, path: &Path, given: &str) {
    if given.is_empty() {
        errors.required(path, "");
    } else if !given.starts_with('.') {
        errors.invalid_str(path, given, "must be a simple json path starting with .");
    }
}

/// Where a scale has its numbers and its selector.
fn check_scale(errors: &mut ErrorList, path: &Path, scale: &Value) {
    if scale.is_null() {
        return;
    }
    for (field, roots, why) in [
        ("specReplicasPath", &[".spec."][..], "should be a json path under .spec"),
        ("statusReplicasPath", &[".status."], "should be a json path under .status"),
        ("labelSelectorPath", &[".spec.", ".status."], "should be a json path under either .spec or .status"),
    ] {
        let (at, given) = (path.child("scale").child(field), text(&scale[field]));
        if given.is_empty() && field == "labelSelectorPath" {
            continue;
        }
        check_path(errors, &at, given);
        if given.starts_with('.') && !roots.iter().any(|r| given.starts_with(r)) {
            errors.invalid_str(&at, given, why);
        }
    }
}

/// What a definition's author should know of a schema: formats that nobody judges.
fn advise(schema: &Value, told: &mut Vec<String>) {
    let Some(map) = schema.as_object() else { return };
    let (kind, format) = (text(&schema["type"]), text(&schema["format"]));
    let known = match kind {
        "" | "string" => super::crd::is_format(format),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if !format.is_empty() && !known {
        told.push(format!("unrecognized format {}", crate::field::quote(format)));
    }
    for field in ["items", "additionalProperties", "not"] {
        advise(&schema[field], told);
    }
    for field in ["allOf", "anyOf", "oneOf"] {
        items(&schema[field]).iter().for_each(|s| advise(s, told));
    }
    if let Some(Value::Object(properties)) = map.get("properties") {
        properties.values().for_each(|s| advise(s, told));
    }
}

/// The annotation by which a definition in a group of the Kubernetes community says where it was approved.
const APPROVED: &str = "api-approved.kubernetes.io";

/// Whether the community agreed to a definition in one of its groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Approval {
    /// The annotation is the URL of the approval.
    Approved,
    /// The annotation says that there is none.
    Bypassed,
    /// There is no annotation.
    Missing,
    /// The annotation is something else.
    Invalid,
}

impl Approval {
    /// That of a definition, and why. `None`: its group is not one of the community's.
    pub fn of(definition: &Value) -> Option<(Self, String)> {
        let group = text(&definition["spec"]["group"]);
        let under =
            |domain: &str| group.strip_suffix(domain).is_some_and(|g| g.is_empty() || g.ends_with('.'));
        if !under("k8s.io") && !under("kubernetes.io") {
            return None;
        }
        let see = "see https://github.com/kubernetes/enhancements/pull/1111";
        let given = meta::annotation(definition, APPROVED).unwrap_or_default();
        Some(if given.is_empty() {
            (Self::Missing, format!("protected groups must have approval annotation \"{APPROVED}\", {see}"))
        } else if given.starts_with("unapproved") {
            (Self::Bypassed, format!("not approved: {given:?}"))
        } else if url::Url::parse(given).is_ok_and(|url| url.has_host()) {
            (Self::Approved, format!("approved in {given}"))
        } else {
            let form = "with either a URL or a reason starting with \"unapproved\"";
            (
                Self::Invalid,
                format!("protected groups must have approval annotation \"{APPROVED}\" {form}, {see}"),
            )
        })
    }
}

/// How many fields field selectors may name.
const MAX_SELECTABLE: usize = 8;

/// Fields that field selectors may name: each a text, a number or a yes or no that the schema has.
fn check_selectable(errors: &mut ErrorList, path: &Path, version: &Value) {
    let mut seen = HashSet::new();
    for (i, field) in items(&version["selectableFields"]).iter().enumerate() {
        let at = path.index(i).child("jsonPath");
        let given = text(&field["jsonPath"]);
        if given.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let schema = match schema_at(&version["schema"]["openAPIV3Schema"], given) {
            Ok(schema) => schema,
            Err(why) => {
                errors.invalid_str(&at, given, format!("is an invalid path: {why}"));
                continue;
            }
        };
        if given.split('.').nth(1) == Some("metadata") {
            errors.invalid_str(&at, given, "must not point to fields in metadata");
        }
        if !matches!(text(&schema["type"]), "string" | "boolean" | "integer") {
            let why = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.invalid_str(&at, given, why);
        }
        if !seen.insert(given) {
            errors.duplicate(&at, &field["jsonPath"]);
        }
    }
    if items(&version["selectableFields"]).is_empty() {
        return;
    }
    if seen.len() > MAX_SELECTABLE {
        errors.too_many(path, seen.len(), MAX_SELECTABLE);
    }
}

/// The schema of the field at a path of names (`.spec.color`).
fn schema_at<'a>(schema: &'a Value, path: &str) -> Result<&'a Value, &'static str> {
    let names = path.strip_prefix('.').ok_or("must begin with a dot")?;
    if names.contains(['[', ']']) {
        return Err("array notation is not allowed");
    }
    let step =
        |schema: &'a Value, name| schema["properties"].get(name).ok_or("does not refer to a valid field");
    names.split('.').try_fold(schema, step)
}

/// Parts of a version that v1beta1 may give once for all versions: its name there and in a version.
const COMMON: [(&str, &str); 3] = [
    ("validation", "schema"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
];

fn rename_column_paths(version: &mut Map, from: &str, to: &str) {
    for column in each(version, "additionalPrinterColumns") {
        if let Some(path) = column.shift_remove(from) {
            column.insert(to.to_owned(), path);
        }
    }
}

fn to_storage(obj: &mut Value) {
    let spec = meta::child(obj, "spec");
    set_text(spec, "scope", "Namespaced");
    set(spec, "preserveUnknownFields", true);
    let preserve = spec.get("preserveUnknownFields") == Some(&Value::Bool(true));
    let name = spec.shift_remove("version");
    let common: Vec<(&str, Value)> =
        COMMON.iter().filter_map(|(top, inner)| Some((*inner, spec.shift_remove(*top)?))).collect();
    if spec.get("versions").is_none_or(empty)
        && let Some(name) = name
    {
        spec.insert("versions".to_owned(), json!([{"name": name, "served": true, "storage": true}]));
    }
    for version in each(spec, "versions") {
        for (field, value) in &common {
            set(version, field, value.clone());
        }
        rename_column_paths(version, "JSONPath", "jsonPath");
        let schema = meta::entry(meta::entry(version, "schema"), "openAPIV3Schema");
        if preserve || schema.is_empty() {
            // In v1 to keep what the schema does not name is the schema's own to say.
            schema.insert("x-kubernetes-preserve-unknown-fields".to_owned(), json!(true));
            set_text(schema, "type", "object");
        }
    }
    // That it was asked for so is kept: such a definition is told to be not structural.
    if !preserve {
        spec.shift_remove("preserveUnknownFields");
    }
    if let Some(conversion) = sub(spec, "conversion") {
        let config = conversion.shift_remove("webhookClientConfig");
        let versions = conversion.shift_remove("conversionReviewVersions");
        if config.is_some() || conversion.get("strategy").is_some_and(|s| s == "Webhook") {
            let webhook = meta::entry(conversion, "webhook");
            webhook.extend(config.map(|c| ("clientConfig".to_owned(), c)));
            webhook.insert(
                "conversionReviewVersions".to_owned(),
                versions.unwrap_or_else(|| json!(["v1beta1"])),
            );
        }
    }
}

fn from_storage(obj: &mut Value) {
    let spec = meta::child(obj, "spec");
    for version in each(spec, "versions") {
        rename_column_paths(version, "jsonPath", "JSONPath");
    }
    let versions = spec.get("versions").cloned().unwrap_or_default();
    let versions = items(&versions);
    if let Some(first) = versions.first() {
        set(spec, "version", first["name"].clone());
        // What all versions agree on is said once.
        for (top, inner) in COMMON {
            if !first[inner].is_null() && versions.iter().all(|v| v[inner] == first[inner]) {
                set(spec, top, first[inner].clone());
                for version in each(spec, "versions") {
                    version.shift_remove(inner);
                }
            }
        }
    }
    set(spec, "preserveUnknownFields", false);
    if let Some(conversion) = sub(spec, "conversion")
        && let Some(Value::Object(mut webhook)) = conversion.shift_remove("webhook")
    {
        for (from, to) in [
            ("clientConfig", "webhookClientConfig"),
            ("conversionReviewVersions", "conversionReviewVersions"),
        ] {
            if let Some(v) = webhook.shift_remove(from) {
                conversion.insert(to.to_owned(), v);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    #[test]
    fn an_old_definition_reads_in_both_versions() {
        let kind = kinds::by_gvr(&gvr::CUSTOM_RESOURCE_DEFINITIONS).unwrap();
        let mut obj = json!({"apiVersion": "apiextensions.k8s.io/v1beta1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "websites.example.com"}, "spec": {"group": "example.com", "version": "v1", "scope": "Namespaced",
            "names": {"kind": "Website", "plural": "websites"}, "additionalPrinterColumns": [{"name": "R", "type": "string", "JSONPath": ".spec.r"}]}});
        kind.to_storage(&mut obj).unwrap();
        kind.default(&mut obj);
        assert_eq!(kind.validate_create(&obj).message(), "[]");
        let version = &obj["spec"]["versions"][0];
        assert_eq!((&version["name"], &version["storage"]), (&json!("v1"), &json!(true)));
        assert_eq!(version["schema"]["openAPIV3Schema"]["x-kubernetes-preserve-unknown-fields"], true);
        assert_eq!(version["additionalPrinterColumns"][0]["jsonPath"], ".spec.r");
        assert_eq!(obj["spec"]["preserveUnknownFields"], true);
        assert_eq!(obj["spec"]["names"]["listKind"], "WebsiteList");
        kind.from_storage(&mut obj, kind.served("apiextensions.k8s.io", "v1beta1").unwrap());
        assert_eq!(obj["spec"]["version"], "v1");
        assert_eq!(obj["spec"]["additionalPrinterColumns"][0]["JSONPath"], ".spec.r");
    }

    #[test]
    fn selectable_fields_are_simple_ones_of_the_schema() {
        let check = |paths: &[&str]| {
            let fields: Vec<Value> = paths.iter().map(|p| json!({"jsonPath": p})).collect();
            let named = |n: usize| (format!("f{n}"), json!({"type": "boolean"}));
            let many: Map = (0..10).map(named).collect();
            let version = json!({"selectableFields": fields, "schema": {"openAPIV3Schema": {"properties": {
                "metadata": {"properties": {"name": {"type": "string"}}}, "many": {"properties": many},
                "spec": {"properties": {"color": {"type": "string"}, "size": {"type": "integer"},
                    "list": {"type": "array", "items": {"type": "string"}}}}}}}});
            let mut errors = ErrorList::new();
            check_selectable(&mut errors, &Path::new("s"), &version);
            errors.message()
        };
        assert_eq!(check(&[".spec.color", ".spec.size", ".many.f0"]), "[]");
        for (path, want) in [
            ("", "Required value"),
            ("spec.color", "Invalid value: \"spec.color\": is an invalid path: must begin with a dot"),
            (
                ".spec.none",
                "Invalid value: \".spec.none\": is an invalid path: does not refer to a valid field",
            ),
            (
                ".spec.list[0]",
                "Invalid value: \".spec.list[0]\": is an invalid path: array notation is not allowed",
            ),
            (".metadata.name", "Invalid value: \".metadata.name\": must not point to fields in metadata"),
        ] {
            assert_eq!(check(&[path]), format!("s[0].jsonPath: {want}"));
        }
        assert!(check(&[".spec.list"]).contains("must point to a field of type string"));
        assert!(check(&[".spec"]).contains("must point to a field of type string"));
        assert_eq!(check(&[".spec.color", ".spec.color"]), "s[1].jsonPath: Duplicate value: \".spec.color\"");
        let many: Vec<String> = (0..9).map(|n| format!(".many.f{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(check(&many), "s: Too many: 9: must have at most 8 items");
        assert_eq!(check(&many[..8]), "[]");
    }

    #[test]
    fn the_community_s_groups_are_approved_of() {
        let of = |group: &str, note: &str| json!({"metadata": {"annotations": {APPROVED: note}}, "spec": {"group": group}});
        let url = "https://github.com/kubernetes/enhancements/pull/1111";
        for (group, note, want) in [
            ("example.com", "", None),
            ("notk8s.io", "", None),
            ("k8s.io", "", Some(Approval::Missing)),
            ("x.k8s.io", url, Some(Approval::Approved)),
            ("x.kubernetes.io", "unapproved, an experiment", Some(Approval::Bypassed)),
            ("x.kubernetes.io", "yes", Some(Approval::Invalid)),
        ] {
            let definition = of(group, note);
            assert_eq!(Approval::of(&definition).map(|(approval, _)| approval), want, "{group} {note}");
            let refused = !Definition
                .validate_sent("apiextensions.k8s.io/v1", Release::current(), &definition, None)
                .is_empty();
            assert_eq!(
                refused,
                matches!(want, Some(Approval::Missing | Approval::Invalid)),
                "{group} {note}"
            );
            assert!(
                Definition
                    .validate_sent(
                        "apiextensions.k8s.io/v1",
                        Release::current(),
                        &definition,
                        Some(&definition)
                    )
                    .is_empty()
            );
            assert!(
                Definition
                    .validate_sent("apiextensions.k8s.io/v1beta1", Release::current(), &definition, None)
                    .is_empty()
            );
        }
        assert_eq!(
            Definition
                .validate_sent("apiextensions.k8s.io/v1", Release::current(), &of("x.k8s.io", ""), None)
                .message(),
            format!(
                "metadata.annotations[{APPROVED}]: Required value: protected groups must have approval annotation \"{APPROVED}\", see {url}"
            )
        );
    }

    #[test]
    fn bad_definitions_are_refused() {
        let kind = kinds::by_gvr(&gvr::CUSTOM_RESOURCE_DEFINITIONS).unwrap();
        let good = json!({"metadata": {"name": "as.g.io"}, "spec": {"group": "g.io", "scope": "Cluster", "names": {"kind": "A", "plural": "as"},
            "versions": [{"name": "v1", "served": true, "storage": true}]}});
        for (patch, want) in [
            (json!({}), "[]"),
            (
                json!({"metadata": {"name": "b.g.io"}}),
                "metadata.name: Invalid value: \"b.g.io\": must be spec.names.plural+\".\"+spec.group",
            ),
            (
                json!({"spec": {"scope": "Galaxy"}}),
                "spec.scope: Unsupported value: \"Galaxy\": supported values: \"Cluster\", \"Namespaced\"",
            ),
            (json!({"spec": {"versions": []}}), "spec.versions: Required value"),
            (
                json!({"spec": {"names": {"listKind": "A"}}}),
                "spec.names.listKind: Invalid value: \"A\": kind and listKind may not be the same",
            ),
            (
                json!({"spec": {"versions": [{"name": "v1", "storage": true, "deprecationWarning": "old"}]}}),
                "spec.versions[0].deprecationWarning: Invalid value: \"old\": can only be set for deprecated versions",
            ),
            (
                json!({"spec": {"versions": [{"name": "v1", "storage": true}, {"name": "v1"}]}}),
                "spec.versions: Invalid value: [{\"name\":\"v1\",\"storage\":true},{\"name\":\"v1\"}]: must contain unique version names",
            ),
            (
                json!({"spec": {"versions": [{"name": "v1", "storage": true, "subresources": {"scale": {
                    "specReplicasPath": ".spec.n", "statusReplicasPath": ".spec.m", "labelSelectorPath": ".x.y"}}}]}}),
                "[spec.versions[0].subresources.scale.statusReplicasPath: Invalid value: \".spec.m\": should be a json path under .status, spec.versions[0].subresources.scale.labelSelectorPath: Invalid value: \".x.y\": should be a json path under either .spec or .status]",
            ),
            (
                json!({"spec": {"versions": [{"name": "v1", "storage": true, "additionalPrinterColumns": [
                    {"name": "A", "type": "text", "format": "f", "jsonPath": "x"}]}]}}),
                "[spec.versions[0].additionalPrinterColumns[0].type: Invalid value: \"text\": must be one of boolean,date,integer,number,string, spec.versions[0].additionalPrinterColumns[0].format: Invalid value: \"f\": must be one of byte,date,date-time,double,float,int32,int64,password, spec.versions[0].additionalPrinterColumns[0].JSONPath: Invalid value: \"x\": must be a simple json path starting with .]",
            ),
        ] {
            let mut obj = good.clone();
            crate::patch::merge_patch(&mut obj, &patch);
            kind.default(&mut obj);
            assert_eq!(kind.validate_create(&obj).message(), want);
        }
    }

    #[test]
    fn what_is_stored_is_known() {
        let kind = kinds::by_gvr(&gvr::CUSTOM_RESOURCE_DEFINITIONS).unwrap();
        let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage});
        let of = |versions: Value, stored: Value| {
            json!({"metadata": {"name": "as.g.io", "uid": "u"}, "spec": {"group": "g.io", "scope": "Cluster",
                "names": {"kind": "A", "plural": "as", "singular": "a", "listKind": "AList"}, "versions": versions,
                "conversion": {"strategy": "None"}}, "status": {"storedVersions": stored}})
        };
        let old = of(json!([version("v1", true)]), json!(["v1"]));
        let mut new = of(json!([version("v1", false), version("v2", true)]), json!(["v1"]));
        kind.prepare_update(&mut new, &old, "");
        assert_eq!(new["status"]["storedVersions"], json!(["v1", "v2"]));
        assert_eq!(kind.validate_update(&new, &old, "").message(), "[]");
        let mut lost = of(json!([version("v2", true)]), json!(["v1"]));
        kind.prepare_update(&mut lost, &old, "");
        let said = kind.validate_update(&lost, &old, "").message();
        assert!(
            said.starts_with("status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions"),
            "{said}"
        );
        let none = of(json!([version("v1", true)]), json!([]));
        let said = Definition.validate_update(&none, &old).message();
        assert_eq!(said, "status.storedVersions: Invalid value: []: must have at least one stored version");
    }

    #[test]
    fn a_deletion_begins_with_what_holds_the_definition() {
        let mut definition = json!({"metadata": {"name": "as.g.io"}, "status": {"conditions": null}});
        Definition.prepare_delete(&mut definition, "2026-01-01T00:00:00Z");
        assert_eq!(definition["metadata"]["finalizers"], json!([CLEANUP]));
        let told = &definition["status"]["conditions"][0];
        assert_eq!(
            (&told["type"], &told["reason"]),
            (&json!("Terminating"), &json!("InstanceDeletionPending"))
        );
    }

    #[test]
    fn formats_that_nobody_knows_are_told() {
        let of = |format: &str| {
            json!({"spec": {"versions": [{"schema": {"openAPIV3Schema": {"properties": {
                "a": {"type": "string", "format": format}, "b": {"type": "integer", "format": "int32"}}}}}]}})
        };
        assert!(Definition.warnings(&of("date-time")).is_empty());
        assert_eq!(Definition.warnings(&of("moon")), ["unrecognized format \"moon\""]);
        assert!(Definition.warnings_of_change(&of("moon"), &of("moon")).is_empty());
    }
}
