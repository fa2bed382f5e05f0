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
        for field in ["plural", "singular", "kind", "listKind"] {
            let name = text(&names[field]);
            let at = path.child("names").child(field);
            if name.is_empty() {
                errors.required(&at, "");
                continue;
            }
            for why in validate::dns_1035_label(&name.to_lowercase()) {
                errors.invalid_str(
                    &at,
                    name,
                    format!("may have mixed case, but should otherwise match: {why}"),
                );
            }
        }
        for list in ["shortNames", "categories"] {
            for (i, name) in items(&names[list]).iter().enumerate() {
                for why in validate::dns_1035_label(text(name)) {
                    errors.invalid(&path.child("names").child(list).index(i), name, why);
                }
            }
        }
        let versions = items(&spec["versions"]);
        let at = path.child("versions");
        if versions.is_empty() {
            errors.required(&at, "");
        }
        let stored = versions.iter().filter(|v| v["storage"] == true).count();
        if !versions.is_empty() && stored != 1 {
            errors.invalid(&at, &spec["versions"], "must have exactly one version marked as storage version");
        }
        // Only v1beta1 may ask for it, whose conversion makes every schema say so too.
        let keep = "/schema/openAPIV3Schema/x-kubernetes-preserve-unknown-fields";
        if spec["preserveUnknownFields"] == true
            && !versions.iter().all(|v| v.pointer(keep) == Some(&Value::Bool(true)))
        {
            errors.invalid(&path.child("preserveUnknownFields"), &json!(true), "must be false");
        }
        let mut seen = HashSet::new();
        for (i, version) in versions.iter().enumerate() {
            let at = at.index(i);
            let name = text(&version["name"]);
            for why in validate::dns_1035_label(name) {
                errors.invalid_str(&at.child("name"), name, why);
            }
            if !seen.insert(name) {
                errors.invalid_str(&at.child("name"), name, "must be unique");
            }
            let scale = &version["subresources"]["scale"];
            if !scale.is_null() {
                for (field, prefix) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
                    let at = at.child("subresources").child("scale").child(field);
                    let given = text(&scale[field]);
                    if given.is_empty() {
                        errors.required(&at, "");
                    } else if !given.starts_with(prefix) {
                        errors.invalid_str(
                            &at,
                            given,
                            format!("should be a json path under {}", prefix.trim_end_matches('.')),
                        );
                    }
                }
            }
            for (j, column) in items(&version["additionalPrinterColumns"]).iter().enumerate() {
                let at = at.child("additionalPrinterColumns").index(j);
                if text(&column["name"]).is_empty() {
                    errors.required(&at.child("name"), "");
                }
                one_of(
                    &mut errors,
                    &at.child("type"),
                    &column["type"],
                    &["boolean", "date", "integer", "number", "string"],
                );
                let given = text(&column["jsonPath"]);
                if given.is_empty() {
                    errors.required(&at.child("jsonPath"), "");
                } else if !given.starts_with('.') {
                    let why = "must be a simple json path starting with .";
                    errors.invalid_str(&at.child("jsonPath"), given, why);
                }
            }
            check_selectable(&mut errors, &at.child("selectableFields"), version);
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
            errors.forbidden(&at.child("webhook"), "should not be set when strategy is not set to Webhook");
        }
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
        if established {
            immutable(&mut errors, &path.child("scope"), &n["scope"], &o["scope"]);
            immutable(
                &mut errors,
                &path.child("names").child("kind"),
                &n["names"]["kind"],
                &o["names"]["kind"],
            );
            immutable(
                &mut errors,
                &path.child("names").child("plural"),
                &n["names"]["plural"],
                &o["names"]["plural"],
            );
        }
        for (i, version) in items(&old["status"]["storedVersions"]).iter().enumerate() {
            if !items(&n["versions"]).iter().any(|v| v["name"] == *version) {
                let at = Path::new("status").child("storedVersions").index(i);
                errors.invalid(&at, version, "missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions".replace("v1", text(version)));
            }
        }
        errors
    }

    /// What was so before may stay, and v1beta1 never asked.
    fn validate_sent(&self, api_version: &str, _: Release, new: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = ErrorList::new();
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
                json!({"spec": {"preserveUnknownFields": true}}),
                "spec.preserveUnknownFields: Invalid value: true: must be false",
            ),
        ] {
            let mut obj = good.clone();
            crate::patch::merge_patch(&mut obj, &patch);
            kind.default(&mut obj);
            assert_eq!(kind.validate_create(&obj).message(), want);
        }
    }
}
