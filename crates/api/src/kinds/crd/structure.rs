//! What a definition's schema may say, and what makes it structural: upstream's rules in upstream's words.
//!
//! Each schema within it is judged by itself, with what is known of where it stands ([`At`]); whether the schemas inside
//! `allOf` and its like speak only of what is described outside of them is judged once, from the root.

use std::collections::HashSet;

use serde_json::Value;

use super::{At, Level, Structural, flag, text};
use crate::field::{ErrorList, Path, show};

/// The types of OpenAPI.
const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// The places of schemas that only restrict.
const JUNCTORS: [&str; 3] = ["allOf", "anyOf", "oneOf"];
/// What every object has beside what its schema names.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Where a default may not stand.
#[derive(Clone, Copy)]
pub(super) enum NoDefault {
    /// In the metadata, kind or version of the whole object.
    TopLevel(&'static str),
    /// In the values of a map of metadata.
    MetadataMap,
}

fn given<'a>(raw: &'a Value, field: &str) -> Option<&'a Value> {
    raw.get(field).filter(|v| match v {
        Value::Null | Value::Bool(false) => false,
        Value::String(s) => !s.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty() || field == "items" || field == "additionalProperties",
        _ => true,
    })
}

fn words<'a>(raw: &'a Value, field: &str) -> Vec<&'a str> {
    raw.get(field).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn either_integer_or_string(raw: &Value) -> bool {
    let only = |v: &Value, kind: &str| v.as_object().is_some_and(|m| m.len() == 1) && text(v, "type") == kind;
    matches!(raw.get("anyOf").and_then(Value::as_array).map(Vec::as_slice),
        Some([a, b]) if only(a, "integer") && only(b, "string"))
}

/// Of a schema that has them, which of its `anyOf` are the two types of what is either an integer or a string, the one
/// exception from the rule that what restricts has no type: its own, or those of the first of `allOf`.
pub(super) fn integer_or_string(raw: &Value) -> (bool, bool) {
    let first = raw.get("allOf").and_then(Value::as_array).and_then(|all| all.first());
    (either_integer_or_string(raw), first.is_some_and(either_integer_or_string))
}

/// Says that a type is missing, or another than `wanted`.
fn wrong_type(errors: &mut ErrorList, path: &Path, is: &str, why: &str) {
    match is {
        "" => errors.required(&path.child("type"), why),
        is => errors.invalid_str(&path.child("type"), is, why),
    }
}

/// What any schema may not say, wherever it stands.
pub(super) fn check_words(raw: &Value, path: &Path, errors: &mut ErrorList, at: At<'_>) {
    let kind = text(raw, "type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), &Value::from(kind), &TYPES);
    }
    if kind == "null" {
        let why = "type cannot be set to null, use nullable as an alternative";
        errors.forbidden(&path.child("type"), why);
    }
    if let Some(place) = at.no_default.filter(|_| raw.get("default").is_some_and(|v| !v.is_null())) {
        let why = match place {
            NoDefault::TopLevel(field) => format!("must not be set in top-level {field}"),
            NoDefault::MetadataMap => {
                "must not be set inside additionalProperties applying to object metadata".to_owned()
            }
        };
        errors.forbidden(&path.child("default"), why);
    }
    for field in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        if given(raw, field).is_some() {
            errors.forbidden(&path.child(field), format!("{field} is not supported"));
        }
    }
    if raw.get("items").is_some_and(Value::is_array) {
        errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
    }
    if at.meta && flag(raw, "x-kubernetes-embedded-resource") {
        let why = "must not be used inside of resource meta";
        errors.forbidden(&path.child("x-kubernetes-embedded-resource"), why);
    }
    if flag(raw, "uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&path.child("uniqueItems"), why);
    }
    let other = raw.get("additionalProperties").is_some_and(|v| !v.is_null() && *v != Value::Bool(true));
    if other && given(raw, "properties").is_some() {
        let why = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(&path.child("additionalProperties"), why);
    }
    let keep = "x-kubernetes-preserve-unknown-fields";
    if raw.get(keep) == Some(&Value::Bool(false)) {
        errors.invalid(&path.child(keep), &Value::Bool(false), "must be true or undefined");
    }
    if let Some(map) = raw.get("x-kubernetes-map-type").and_then(Value::as_str) {
        if kind != "object" {
            wrong_type(errors, path, kind, "must be object if x-kubernetes-map-type is specified");
        }
        if !matches!(map, "atomic" | "granular") {
            let path = path.child("x-kubernetes-map-type");
            errors.not_supported(&path, &Value::from(map), &["atomic", "granular"]);
        }
    }
    check_list(raw, kind, path, errors);
}

/// What is said of how a list merges.
fn check_list(raw: &Value, kind: &str, path: &Path, errors: &mut ErrorList) {
    let list = raw.get("x-kubernetes-list-type").and_then(Value::as_str);
    let keys_path = path.child("x-kubernetes-list-map-keys");
    let keys = words(raw, "x-kubernetes-list-map-keys");
    if !keys.is_empty() && list != Some("map") {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        let at = path.child("x-kubernetes-list-type");
        match list {
            None => errors.required(&at, why),
            Some(list) => errors.invalid_str(&at, list, why),
        }
    }
    let Some(list) = list else { return };
    if !matches!(list, "atomic" | "set" | "map") {
        let path = path.child("x-kubernetes-list-type");
        errors.not_supported(&path, &Value::from(list), &["atomic", "set", "map"]);
    }
    if kind != "array" {
        wrong_type(errors, path, kind, "must be array if x-kubernetes-list-type is specified");
    }
    let items = raw.get("items").filter(|v| v.is_object());
    let at = path.child("items");
    if matches!(list, "set" | "map") && items.is_some_and(|i| flag(i, "nullable")) {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list}");
        errors.forbidden(&at.child("nullable"), why);
    }
    if let Some(items) = items.filter(|_| list == "set" && kind == "array") {
        let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let (field, granular) = match text(items, "type") {
            "array" => {
                ("x-kubernetes-list-type", !matches!(text(items, "x-kubernetes-list-type"), "" | "atomic"))
            }
            "object" => ("x-kubernetes-map-type", text(items, "x-kubernetes-map-type") != "atomic"),
            _ => ("", false),
        };
        if granular {
            let shown = items.get("x-kubernetes-list-type").unwrap_or(&Value::Null);
            errors.invalid(&at.child(field), shown, why);
        }
    }
    if list != "map" {
        return;
    }
    if keys.is_empty() {
        errors.required(&keys_path, "must not be empty if x-kubernetes-list-type is map");
    }
    let Some(items) = items else {
        if raw.get("items").is_none() {
            errors.required(&at, "must have a schema if x-kubernetes-list-type is map");
        }
        return;
    };
    let shown = raw.get("x-kubernetes-list-map-keys").unwrap_or(&Value::Null);
    if text(items, "type") != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        errors.invalid_str(&at.child("type"), text(items, "type"), why);
    } else {
        let mut seen = HashSet::new();
        for key in &keys {
            match items.get("properties").and_then(|p| p.get(key)) {
                None => errors.invalid(&keys_path, shown, "entries must all be names of item properties"),
                Some(s) if matches!(text(s, "type"), "array" | "object") => {
                    let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                    let at = at.child("properties").key(key).child("type");
                    errors.invalid_str(&at, text(items, "type"), why);
                }
                Some(_) => {}
            }
            if !seen.insert(*key) {
                errors.invalid(&keys_path, shown, "must not contain duplicate entries");
            }
        }
    }
    let required = words(items, "required");
    for key in keys {
        let Some(property) = items.get("properties").and_then(|p| p.get(key)) else { continue };
        let at = at.child("properties").key(key);
        if !required.contains(&key) && property.get("default").is_none_or(Value::is_null) {
            errors.required(
                &at.child("default"),
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            );
        }
        if flag(property, "nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&at.child("nullable"), why);
        }
    }
}

/// What a schema inside `allOf` and its like may not say: it only restricts. `typed`: it is one of the two types of what is
/// either an integer or a string.
pub(super) fn check_restriction(raw: &Value, path: &Path, errors: &mut ErrorList, typed: bool) {
    let mut forbid = |field: &str, is: bool, why: &str| {
        if is {
            errors.forbidden(&path.child(field), format!("must be {why} to be structural"));
        }
    };
    let has = |field: &str| given(raw, field).is_some();
    let alone = raw.as_object().is_some_and(|m| m.len() == 1);
    forbid("type", has("type") && !(typed && alone), "empty");
    forbid("additionalProperties", has("additionalProperties"), "undefined");
    forbid("default", raw.get("default").is_some_and(|v| !v.is_null()), "undefined");
    for (field, why) in [
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        ("x-kubernetes-preserve-unknown-fields", "false"),
        ("x-kubernetes-embedded-resource", "false"),
        ("x-kubernetes-int-or-string", "false"),
        ("x-kubernetes-list-map-keys", "empty"),
        ("x-kubernetes-list-type", "undefined"),
        ("x-kubernetes-map-type", "undefined"),
        ("x-kubernetes-validations", "empty"),
    ] {
        forbid(field, has(field), why);
    }
    if raw.get("properties").is_some_and(|p| p.get("metadata").is_some()) {
        let path = path.child("properties").key("metadata");
        errors.forbidden(&path, "must not be specified in a nested context");
    }
}

/// What makes a schema structural that describes, outside of `allOf` and its like.
pub(super) fn check_structure(raw: &Value, path: &Path, errors: &mut ErrorList, at: At<'_>) {
    let kind = text(raw, "type");
    let embedded = flag(raw, "x-kubernetes-embedded-resource");
    let either = flag(raw, "x-kubernetes-int-or-string");
    let keeps = flag(raw, "x-kubernetes-preserve-unknown-fields");
    let additional = raw.get("additionalProperties").is_some_and(|v| !v.is_null());
    if kind == "array" && raw.get("items").is_none_or(Value::is_null) {
        errors.required(&path.child("items"), "must be specified");
    }
    if additional && at.level == Level::Root {
        errors.forbidden(&path.child("additionalProperties"), "must not be used at the root");
    }
    for (field, is) in [("preserve-unknown-fields", keeps), ("embedded-resource", embedded)] {
        if either && is {
            let why = "must be false if x-kubernetes-int-or-string is true";
            errors.invalid(&path.child(&format!("x-kubernetes-{field}")), &Value::Bool(true), why);
        }
    }
    if embedded && kind != "object" {
        wrong_type(errors, path, kind, "must be object if x-kubernetes-embedded-resource is true");
    } else if kind.is_empty() && !either && !keeps {
        let why = match at.level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.required(&path.child("type"), why);
    }
    if embedded && additional {
        let why = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&path.child("additionalProperties"), why);
    }
    if at.level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.invalid_str(&path.child("type"), kind, "must be object at the root");
    }
    let properties = raw.get("properties").and_then(Value::as_object);
    if embedded && !keeps && properties.is_none_or(|p| p.is_empty()) {
        errors.required(
            &path.child("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
    if at.level != Level::Root && !embedded {
        return;
    }
    for (name, wanted) in META.iter().zip(["string", "string", "object"]) {
        let Some(property) = properties.and_then(|p| p.get(*name)) else { continue };
        let at = path.child("properties").key(name).child("type");
        if text(property, "type") != wanted {
            errors.invalid_str(&at, text(property, "type"), format!("must be {wanted}"));
        }
    }
    if at.level == Level::Root
        && let Some(metadata) = properties.and_then(|p| p.get("metadata"))
    {
        check_metadata(metadata, &path.child("properties").key("metadata"), errors);
    }
}

/// The metadata of the whole object is known; its schema may only restrict the two names.
fn check_metadata(raw: &Value, path: &Path, errors: &mut ErrorList) {
    let names = |v: &Value| {
        v.as_object().is_some_and(|m| m.keys().all(|k| matches!(k.as_str(), "name" | "generateName")))
    };
    let allowed = raw.as_object().into_iter().flatten().all(|(field, v)| match field.as_str() {
        "type" | "default" => true,
        "properties" => names(v),
        _ => given(raw, field).is_none(),
    });
    if !allowed {
        let why = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(path, why);
    }
}

/// Of the root of objects whose status is a subresource: what would be lost where that is judged alone.
pub(super) fn check_root(raw: &Value, path: &Path, errors: &mut ErrorList, status: bool) {
    const ALLOWED: [(&str, &str); 22] = [
        ("Description", "description"),
        ("Type", "type"),
        ("Format", "format"),
        ("Title", "title"),
        ("Maximum", "maximum"),
        ("ExclusiveMaximum", "exclusiveMaximum"),
        ("Minimum", "minimum"),
        ("ExclusiveMinimum", "exclusiveMinimum"),
        ("MaxLength", "maxLength"),
        ("MinLength", "minLength"),
        ("Pattern", "pattern"),
        ("MaxItems", "maxItems"),
        ("MinItems", "minItems"),
        ("UniqueItems", "uniqueItems"),
        ("MultipleOf", "multipleOf"),
        ("Required", "required"),
        ("Items", "items"),
        ("Properties", "properties"),
        ("ExternalDocs", "externalDocs"),
        ("Example", "example"),
        ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields"),
        ("XValidations", "x-kubernetes-validations"),
    ];
    let said =
        raw.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null() && **v != Value::Bool(false));
    if status && said.into_iter().any(|(field, _)| !ALLOWED.iter().any(|(_, name)| name == field)) {
        let names: Vec<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        errors.push(crate::field::ErrorType::Invalid, path, Some(show(raw)), why);
    }
    if flag(raw, "nullable") {
        errors.forbidden(&path.child("nullable"), "nullable cannot be true at the root");
    }
}

/// Whether what restricts speaks only of what is described: of the schema `described`, by the schemas inside of `raw`.
pub(super) fn check_completeness(described: &Value, path: &Path, errors: &mut ErrorList) {
    restrictions(described, path, errors, &|restricting, at, errors| {
        restricts(restricting, Some(described), path, at, errors);
    });
}

/// Goes through the schemas in the `allOf` and its like of one.
fn restrictions(
    raw: &Value,
    path: &Path,
    errors: &mut ErrorList,
    each: &dyn Fn(&Value, &Path, &mut ErrorList),
) {
    if let Some(not) = raw.get("not").filter(|v| v.is_object()) {
        each(not, &path.child("not"), errors);
    }
    for field in JUNCTORS {
        let list = raw.get(field).and_then(Value::as_array).into_iter().flatten();
        for (i, inner) in list.enumerate() {
            each(inner, &path.child(field).index(i), errors);
        }
    }
}

fn restricts(raw: &Value, described: Option<&Value>, path: &Path, at: &Path, errors: &mut ErrorList) {
    let Some(described) = described else {
        errors.required(path, format!("because it is defined in {at}"));
        return;
    };
    restrictions(raw, at, errors, &|inner, at, errors| {
        restricts(inner, Some(described), path, at, errors);
    });
    if let Some(items) = raw.get("items").filter(|v| v.is_object()) {
        let of = described.get("items").filter(|v| v.is_object());
        restricts(items, of, &path.child("items"), &at.child("items"), errors);
    }
    for (name, inner) in raw.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let of = described.get("properties").and_then(|p| p.get(name));
        let (path, at) = (path.child("properties").key(name), at.child("properties").key(name));
        restricts(inner, of, &path, &at, errors);
    }
}

impl<'p> At<'p> {
    /// Of a property of a schema.
    pub(super) fn property(self, schema: &Structural, name: &str) -> At<'p> {
        let mut at = At { level: Level::Field, ..self.below() };
        if let Some(field) = META.into_iter().find(|m| *m == name && schema.object && !self.junctor) {
            at.meta = true;
            if self.level == Level::Root {
                at.no_default = Some(NoDefault::TopLevel(field));
            }
        }
        at
    }

    /// Of the values of a map.
    pub(super) fn values(self) -> At<'p> {
        let no_default = if self.meta { Some(NoDefault::MetadataMap) } else { self.no_default };
        At { level: Level::Field, no_default, ..self }
    }
}
