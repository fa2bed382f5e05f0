//! Custom resources: structural schemas, compiled from the `openAPIV3Schema` of a CustomResourceDefinition's version.
//!
//! What a schema does not name is pruned (by the decoder, which asks [`Structural::field`]), what it gives a default is
//! filled in, what it forbids is an error in upstream's words. Rules in CEL (`x-kubernetes-validations`) are compiled with
//! it and judged by [`Structural::validate_rules`], which also knows the earlier state.

mod format;
mod judge;
mod openapi;

use indexmap::IndexMap;
use regex::Regex;
use serde_json::Value;

use crate::cel::{self, Place};
use crate::field::{ErrorList, Path};
use crate::pattern::Patterns;
use crate::schema::{ListType, Schema, Shape, TypeId};

/// A structural schema.
#[derive(Debug, Default)]
pub struct Structural {
    /// The keywords that say something of the value itself; those that lead on are the fields below.
    raw: Value,
    /// At the root, the JSON of the schema as it was given, for documents.
    whole: Box<[u8]>,
    /// Is it the schema of a whole object, with `apiVersion`, `kind` and `metadata` of their own?
    object: bool,
    properties: IndexMap<String, Structural>,
    additional: Option<Box<Structural>>,
    items: Option<Box<Structural>>,
    preserve: bool,
    int_or_string: bool,
    nullable: bool,
    kind: String,
    pattern: Option<Regex>,
    /// Of the patterns inside `allOf`, `anyOf`, `oneOf` and `not`, whole schemas.
    all: Vec<Structural>,
    any: Vec<Structural>,
    one: Vec<Structural>,
    not: Option<Box<Structural>>,
    has_defaults: bool,
    rules: Vec<cel::Rule>,
    /// Whether there are rules here or below.
    has_rules: bool,
}

/// Where in a schema one is.
#[derive(Clone, Copy)]
struct At {
    depth: usize,
    place: Place,
    /// Inside `allOf`, `anyOf`, `oneOf` or `not`, which only restrict.
    junctor: bool,
    /// The root keeps every field: what v1beta1 had by default, whose schemas need not be structural.
    lenient: bool,
}

impl At {
    fn below(self) -> At {
        At { depth: self.depth + 1, ..self }
    }

    /// Below a list or map with at most so many values.
    fn each(self, times: u64, correlated: bool) -> At {
        let place = Place {
            correlated: self.place.correlated && correlated,
            times: self.place.times.saturating_mul(times.max(1)),
        };
        At { depth: self.depth + 1, place, ..self }
    }
}

fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v.get(field).and_then(Value::as_str).unwrap_or("")
}

/// A schema without the schemas in it, which would be there once for each level above them, and without what nothing but
/// documents need.
fn own_keywords(schema: &Value) -> Value {
    const OTHERS: [&str; 11] = [
        "properties",
        "additionalProperties",
        "items",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "description",
        "example",
        "externalDocs",
        "x-kubernetes-validations",
    ];
    let own = schema.as_object().into_iter().flatten().filter(|(k, _)| !OTHERS.contains(&k.as_str()));
    Value::Object(own.map(|(k, v)| (k.clone(), v.clone())).collect())
}

fn flag(v: &Value, field: &str) -> bool {
    v.get(field).and_then(Value::as_bool).unwrap_or(false)
}

/// How deep a schema may nest; deeper ones are refused.
const MAX_DEPTH: usize = 64;

impl Structural {
    /// Compiles the schema of a version's objects. What is wrong with it is said of paths below `path`.
    pub fn compile(schema: &Value, path: &Path) -> Result<Structural, ErrorList> {
        Self::compile_beside(schema, path, &mut Patterns::new())
    }

    /// What is wrong with the schemas of a definition's versions, which must have room beside each other.
    pub fn check_all<'v>(schemas: impl IntoIterator<Item = (&'v Value, Path)>) -> ErrorList {
        let (mut errors, mut patterns) = (ErrorList::new(), Patterns::new());
        for (schema, path) in schemas {
            // Each version has its own when they are served.
            patterns.forget();
            if let Err(e) = Self::compile_beside(schema, &path, &mut patterns) {
                errors.append(e);
            }
        }
        errors
    }

    fn compile_beside(schema: &Value, path: &Path, patterns: &mut Patterns) -> Result<Structural, ErrorList> {
        let mut errors = ErrorList::new();
        let lenient = flag(schema, "x-kubernetes-preserve-unknown-fields");
        let place = Place { correlated: true, times: 1 };
        let at = At { depth: 0, place, junctor: false, lenient };
        let mut root = Self::build(schema, path, &mut errors, patterns, at);
        root.whole = crate::object::encode(schema).into();
        match root.kind.as_str() {
            "object" => {}
            "" => errors.required(&path.child("type"), "must not be empty at the root"),
            other => errors.invalid_str(&path.child("type"), other, "must be object at the root"),
        }
        let worst = root.estimate();
        if worst > cel::SCHEMA_ESTIMATE {
            let factor = worst as f64 / cel::SCHEMA_ESTIMATE as f64;
            let factor = if factor > 100.0 { "more than 100x".to_owned() } else { format!("{factor:.1}x") };
            errors.forbidden(
                path,
                format!(
                    "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
                ),
            );
        }
        if errors.is_empty() { Ok(root) } else { Err(errors) }
    }

    /// Why a schema is not structural, if it need not be and is not.
    pub fn violations(schema: &Value, path: &Path) -> ErrorList {
        let mut errors = ErrorList::new();
        let place = Place { correlated: true, times: 1 };
        let at = At { depth: 0, place, junctor: false, lenient: false };
        Self::build(schema, path, &mut errors, &mut Patterns::new(), at);
        errors
    }

    fn build(
        raw: &Value,
        path: &Path,
        errors: &mut ErrorList,
        patterns: &mut Patterns,
        at: At,
    ) -> Structural {
        if at.depth > MAX_DEPTH {
            errors.forbidden(path, format!("schemas nest at most {MAX_DEPTH} deep"));
            return Structural::default();
        }
        let mut out = Structural {
            raw: own_keywords(raw),
            object: flag(raw, "x-kubernetes-embedded-resource") || at.depth == 0,
            preserve: flag(raw, "x-kubernetes-preserve-unknown-fields"),
            int_or_string: flag(raw, "x-kubernetes-int-or-string"),
            nullable: flag(raw, "nullable"),
            kind: text(raw, "type").to_owned(),
            has_defaults: raw.get("default").is_some(),
            ..Structural::default()
        };
        if !at.lenient {
            out.check_structure(raw, path, errors, at);
        }
        for (name, property) in raw.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = path.child("properties").key(name);
            let inner = Self::build(property, &path, errors, patterns, at.below());
            if inner.kind.is_empty() && !inner.is_untyped() && !at.junctor && !at.lenient {
                errors.required(&path.child("type"), "must not be empty for specified object fields");
            }
            out.has_defaults |= inner.has_defaults;
            out.properties.insert(name.clone(), inner);
        }
        match raw.get("additionalProperties") {
            Some(Value::Bool(true)) => out.preserve = true,
            Some(schema @ Value::Object(_)) => {
                let path = path.child("additionalProperties");
                let inside = at.each(cel::limit(&out), true);
                let inner = Self::build(schema, &path, errors, patterns, inside);
                if inner.kind.is_empty() && !inner.is_untyped() && !at.junctor && !at.lenient {
                    errors.required(&path.child("type"), "must not be empty for specified object fields");
                }
                out.has_defaults |= inner.has_defaults;
                out.additional = Some(Box::new(inner));
            }
            _ => {}
        }
        if let Some(items @ Value::Object(_)) = raw.get("items") {
            let path = path.child("items");
            let inside = at.each(cel::limit(&out), out.list_type() == ListType::Map);
            let inner = Self::build(items, &path, errors, patterns, inside);
            if inner.kind.is_empty() && !inner.is_untyped() && !at.junctor && !at.lenient {
                errors.required(&path.child("type"), "must not be empty for specified array items");
            }
            out.has_defaults |= inner.has_defaults;
            out.items = Some(Box::new(inner));
        }
        if let Some(pattern) = raw.get("pattern").and_then(Value::as_str) {
            match patterns.compile(pattern) {
                Ok(regex) => out.pattern = Some(regex),
                Err(e) => errors.invalid_str(
                    &path.child("pattern"),
                    pattern,
                    format!("must be a valid regular expression, but isn't: {e}"),
                ),
            }
        }
        let junctor = At { junctor: true, ..at.below() };
        let mut several = |field: &str| -> Vec<Structural> {
            let list = raw.get(field).and_then(Value::as_array).into_iter().flatten().enumerate();
            list.map(|(i, s)| Self::build(s, &path.child(field).index(i), errors, patterns, junctor))
                .collect()
        };
        out.all = several("allOf");
        out.any = several("anyOf");
        out.one = several("oneOf");
        if let Some(not @ Value::Object(_)) = raw.get("not") {
            out.not = Some(Box::new(Self::build(not, &path.child("not"), errors, patterns, junctor)));
        }
        if out.kind == "array" && out.items.is_none() && !out.preserve {
            errors.required(&path.child("items"), "must be specified");
        }
        if !at.junctor {
            out.rules = cel::compile(&out, raw, at.place, path, errors);
        }
        let inner = out.properties.values().chain(out.additional.as_deref()).chain(out.items.as_deref());
        out.has_rules = !out.rules.is_empty() || inner.into_iter().any(|s| s.has_rules);
        if let Some(default) = raw.get("default") {
            out.check_default(default, &path.child("default"), errors);
        }
        out
    }

    /// What makes a schema structural, beyond that everything has a type.
    fn check_structure(&self, raw: &Value, path: &Path, errors: &mut ErrorList, at: At) {
        let given = |field: &str| raw.get(field).is_some_and(|v| !v.is_null() && v != false && v != "");
        if at.junctor {
            let forbidden = [
                "default",
                "nullable",
                "additionalProperties",
                "x-kubernetes-preserve-unknown-fields",
                "x-kubernetes-embedded-resource",
                "x-kubernetes-int-or-string",
                "x-kubernetes-validations",
                "x-kubernetes-list-type",
                "x-kubernetes-map-type",
            ];
            for field in forbidden.into_iter().filter(|f| given(f)) {
                errors.forbidden(&path.child(field), "must be empty to be structural");
            }
            // The two types of what is either an integer or a string are the one exception, however they are nested.
            let either = matches!(self.kind.as_str(), "" | "integer" | "string")
                && raw.as_object().is_some_and(|m| m.len() == 1);
            if given("type") && !either {
                errors.forbidden(&path.child("type"), "must be empty to be structural");
            }
            return;
        }
        // What OpenAPI has and definitions have not.
        for field in ["$ref", "additionalItems", "definitions", "dependencies", "id", "patternProperties"] {
            let empty = |v: &Value| v.as_object().is_some_and(serde_json::Map::is_empty);
            if given(field) && !raw.get(field).is_some_and(empty) {
                errors.forbidden(&path.child(field), format!("{field} is not supported"));
            }
        }
        if flag(raw, "uniqueItems") {
            errors.forbidden(
                &path.child("uniqueItems"),
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            );
        }
        if raw.get("additionalProperties") == Some(&Value::Bool(false)) {
            errors.forbidden(
                &path.child("additionalProperties"),
                "additionalProperties cannot be set to false",
            );
        }
        if raw.get("items").is_some_and(Value::is_array) {
            errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
        }
        const KINDS: [&str; 7] = ["", "array", "boolean", "integer", "number", "object", "string"];
        if !KINDS.contains(&self.kind.as_str()) {
            errors.not_supported(&path.child("type"), &Value::from(self.kind.as_str()), &KINDS[1..]);
        }
        if self.int_or_string && !self.kind.is_empty() {
            errors.forbidden(&path.child("type"), "must be empty if x-kubernetes-int-or-string is true");
        }
        if given("properties") && given("additionalProperties") {
            errors.forbidden(
                &path.child("additionalProperties"),
                "additionalProperties and properties are mutual exclusive",
            );
        }
        if flag(raw, "x-kubernetes-embedded-resource") && self.kind != "object" {
            errors.invalid_str(
                &path.child("type"),
                &self.kind,
                "must be object if x-kubernetes-embedded-resource is true",
            );
        }
        let list = text(raw, "x-kubernetes-list-type");
        if !matches!(list, "" | "atomic" | "set" | "map") {
            let path = path.child("x-kubernetes-list-type");
            errors.not_supported(&path, &Value::from(list), &["atomic", "map", "set"]);
        }
        if !list.is_empty() && self.kind != "array" {
            errors.invalid_str(
                &path.child("type"),
                &self.kind,
                "must be array if x-kubernetes-list-type is specified",
            );
        }
        let keys = self.list_keys();
        if list == "map" && keys.is_empty() {
            errors.required(
                &path.child("x-kubernetes-list-map-keys"),
                "must not be empty if x-kubernetes-list-type is map",
            );
        }
        if list != "map" && !keys.is_empty() {
            errors.invalid_str(
                &path.child("x-kubernetes-list-type"),
                list,
                "must be map if x-kubernetes-list-map-keys is non-empty",
            );
        }
        let properties = raw.pointer("/items/properties");
        let required: Vec<&str> = raw
            .pointer("/items/required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        for (i, key) in keys.iter().enumerate() {
            let property = properties.and_then(|p| p.get(key));
            if property.is_none() {
                errors.invalid_str(
                    &path.child("x-kubernetes-list-map-keys").index(i),
                    key,
                    "entries must all be names of item properties",
                );
            } else if !required.contains(key) && property.is_some_and(|p| p.get("default").is_none()) {
                errors.required(
                    &path.child("items").child("properties").key(key).child("default"),
                    "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
                );
            }
        }
    }

    /// A default has to be good itself, and has to survive pruning.
    fn check_default(&self, default: &Value, path: &Path, errors: &mut ErrorList) {
        let mut found = ErrorList::new();
        let mut filled = default.clone();
        self.fill_in(&mut filled);
        self.check(&filled, None, path, &mut found);
        errors.append(found);
        if !self.keeps(default) {
            errors.invalid(path, default, "must not have unknown fields");
        }
    }

    /// Whether nothing of a value would be pruned.
    fn keeps(&self, value: &Value) -> bool {
        match value {
            Value::Object(map) => {
                map.iter().all(|(name, v)| match (self.properties.get(name), &self.additional) {
                    (Some(s), _) => s.keeps(v),
                    (None, Some(s)) => s.keeps(v),
                    (None, None) => {
                        self.preserve
                            || self.object && matches!(name.as_str(), "apiVersion" | "kind" | "metadata")
                    }
                })
            }
            Value::Array(list) => list.iter().all(|v| self.items.as_ref().is_none_or(|s| s.keeps(v))),
            _ => true,
        }
    }

    fn is_untyped(&self) -> bool {
        self.int_or_string || self.preserve
    }

    /// What the rules cost at worst together.
    fn estimate(&self) -> u64 {
        let inner = self.properties.values().chain(self.additional.as_deref()).chain(self.items.as_deref());
        let own = self.rules.iter().fold(0u64, |sum, r| sum.saturating_add(r.estimate));
        inner.into_iter().fold(own, |sum, s| sum.saturating_add(s.estimate()))
    }

    pub(crate) fn kind(&self) -> &str {
        &self.kind
    }

    pub(crate) fn format(&self) -> &str {
        text(&self.raw, "format")
    }

    pub(crate) fn is_int_or_string(&self) -> bool {
        self.int_or_string
    }

    /// Whether it has `apiVersion`, `kind` and `metadata` of its own.
    pub(crate) fn is_whole_object(&self) -> bool {
        self.object
    }

    /// Whether its fields are entries under any name, not properties.
    pub(crate) fn is_map(&self) -> bool {
        self.properties.is_empty() && !self.object
    }

    pub(crate) fn items_schema(&self) -> Option<&Structural> {
        self.items.as_deref()
    }

    pub(crate) fn property(&self, name: &str) -> Option<&Structural> {
        self.properties.get(name)
    }

    /// The schema of a field or entry.
    pub(crate) fn value_schema(&self, name: &str) -> Option<&Structural> {
        self.properties.get(name).or(self.additional.as_deref())
    }

    pub(crate) fn properties_len(&self) -> usize {
        self.properties.len()
    }

    pub(crate) fn number(&self, field: &str) -> Option<u64> {
        self.raw.get(field).and_then(Value::as_u64)
    }

    /// The longest text of an enumeration.
    pub(crate) fn longest_choice(&self) -> Option<u64> {
        let choices = self.raw.get("enum").and_then(Value::as_array)?;
        choices.iter().filter_map(Value::as_str).map(|s| s.len() as u64).max()
    }

    /// The least bytes that its required properties take.
    pub(crate) fn required_sizes(&self) -> u64 {
        let required = self.raw.get("required").and_then(Value::as_array).into_iter().flatten();
        required.filter_map(Value::as_str).map(|name| name.len() as u64 + 5).sum()
    }

    /// What the value looks like.
    pub fn shape(&self) -> Shape<'_> {
        match self.kind.as_str() {
            "object" if self.properties.is_empty() && !self.object => match &self.additional {
                Some(values) => Shape::Map(Schema::Custom(values)),
                None if self.preserve => Shape::Any,
                None => Shape::Struct,
            },
            "object" => Shape::Struct,
            "array" => match &self.items {
                Some(items) => Shape::List(Schema::Custom(items)),
                None => Shape::Any,
            },
            // Scalars and what has no type are judged by `validate`, with upstream's texts.
            _ => Shape::Any,
        }
    }

    /// The schema of a field; `None` where it is unknown and goes.
    pub fn field(&self, name: &str) -> Option<Schema<'_>> {
        if self.object {
            match name {
                "apiVersion" | "kind" => return Some(Schema::Any),
                "metadata" => {
                    let meta = TypeId::named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
                    return Some(meta.map_or(Schema::Any, TypeId::schema));
                }
                _ => {}
            }
        }
        match (self.properties.get(name), &self.additional) {
            (Some(s), _) => Some(Schema::Custom(s)),
            (None, Some(s)) => Some(Schema::Custom(s)),
            (None, None) => self.preserve.then_some(Schema::Any),
        }
    }

    /// How a list merges.
    pub fn list_type(&self) -> ListType {
        match text(&self.raw, "x-kubernetes-list-type") {
            "set" => ListType::Set,
            "map" => ListType::Map,
            _ => ListType::Atomic,
        }
    }

    /// Keys of a list of type map.
    pub fn list_keys(&self) -> Vec<&str> {
        let keys = self.raw.get("x-kubernetes-list-map-keys").and_then(Value::as_array);
        keys.into_iter().flatten().filter_map(Value::as_str).collect()
    }

    /// Is the object replaced as a whole?
    pub fn is_atomic_map(&self) -> bool {
        text(&self.raw, "x-kubernetes-map-type") == "atomic"
    }

    /// What the value is where it is left out.
    pub fn default_value(&self) -> Option<&Value> {
        self.raw.get("default")
    }

    /// Does it fill anything in?
    pub fn has_defaults(&self) -> bool {
        self.has_defaults
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{FieldValidation, check};
    use serde_json::json;

    fn schema() -> Structural {
        let raw = json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1},
            "small": {"type": "integer", "format": "int32"},
            "big": {"type": "integer", "format": "uint64"},
            "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
            "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
            "port": {"x-kubernetes-int-or-string": true},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
            "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
                "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer", "default": 7}}}}
        }}}});
        Structural::compile(&raw, &Path::root()).unwrap()
    }

    #[test]
    fn prunes_and_defaults() {
        let s = schema();
        let value = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "labels": {"x": "y"}},
            "extra": 1, "spec": {"size": 1, "more": {}, "any": {"what": ["ever"]}, "items": [{"k": "a", "z": 1}]}});
        let out = check(value, "g/v1", "K", Schema::Custom(&s), FieldValidation::Warn).unwrap();
        assert_eq!(out.warnings.len(), 3, "{:?}", out.warnings);
        let mut value = out.value;
        s.fill_in(&mut value);
        assert_eq!(
            value["spec"],
            json!({"size": 1, "any": {"what": ["ever"]}, "items": [{"k": "a", "v": 7}], "color": "red"})
        );
        assert_eq!(value["metadata"]["labels"]["x"], "y");
        assert!(s.validate(&value).is_empty());
        let edges = json!({"spec": {"size": 3.0, "small": i32::MIN, "big": u64::MAX}});
        assert!(s.validate(&edges).is_empty(), "{:?}", s.validate(&edges));
    }

    #[test]
    fn errors_are_in_upstream_s_words() {
        let s = schema();
        for (spec, want) in [
            (json!({}), "spec.size: Required value"),
            (
                json!({"size": 0}),
                "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
            ),
            (
                json!({"size": "x"}),
                "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
            ),
            (
                json!({"size": 1, "color": "green"}),
                "spec.color: Unsupported value: \"green\": supported values: \"blue\", \"red\"",
            ),
            (
                json!({"size": 1, "name": "A"}),
                "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'",
            ),
            (json!({"size": 1, "name": "abcdef"}), "spec.name: Too long: may not be more than 5 bytes"),
            (
                json!({"size": 1, "items": [{"k": "a"}, {"k": "a"}]}),
                "spec.items[1]: Duplicate value: {\"k\":\"a\"}",
            ),
            (
                json!({"size": 1, "small": 3_000_000_000u32}),
                "spec.small: Invalid value: 3000000000: Checked value must be of type integer with format int32 in spec.small",
            ),
            (
                json!({"size": 1, "big": -1}),
                "spec.big: Invalid value: -1: Checked value must be of type integer with format uint64 in spec.big",
            ),
            (
                json!({"size": u64::MAX}),
                "spec.size: Invalid value: 18446744073709551615: Checked value must be of type integer in spec.size",
            ),
            (json!({"size": 1, "port": true}), "spec.port: Invalid value: \"boolean\""),
        ] {
            let errors = s.validate(&json!({"spec": spec})).0;
            assert!(errors[0].to_string().starts_with(want), "{}", errors[0]);
        }
        assert_eq!(s.validate(&json!({})).0[0].to_string(), "spec: Required value");
    }

    #[test]
    fn what_is_not_touched_stays_as_it_was() {
        let list = |kind: &str, more: Value| {
            let mut list = json!({"type": "array", "x-kubernetes-list-type": kind, "items": more});
            if kind == "map" {
                list["x-kubernetes-list-map-keys"] = json!(["k"]);
            }
            list
        };
        let short = json!({"type": "string", "maxLength": 2});
        let item = json!({"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": short, "w": short}});
        let raw = json!({"type": "object", "properties": {"a": short, "b": short, "n": {"type": "integer"},
            "o": {"type": "object", "required": ["new"], "properties": {"new": {"type": "string"}, "old": {"type": "string"}}},
            "map": list("map", item), "atomic": list("atomic", short.clone()), "set": list("set", short.clone()),
            "rule": {"type": "object", "properties": {"x": {"type": "integer"}, "y": short},
                "x-kubernetes-validations": [{"rule": "self.x > 0"}]}}});
        let s = Structural::compile(&raw, &Path::root()).unwrap();
        let old = json!({"a": "long", "b": "ok", "o": {"old": "x"}, "map": [{"k": "1", "v": "long"}, {"k": "2"}],
            "atomic": ["long"], "set": ["x", "x"], "rule": {"x": 0, "y": "long"}});
        for (change, want) in [
            (json!({}), vec![]),
            (json!({"b": "no", "n": 1}), vec![]),
            (json!({"a": "longer"}), vec!["a"]),
            (json!({"b": "long"}), vec!["b"]),
            (json!({"o": {"old": "y"}}), vec!["o.new"]),
            (json!({"map": [{"k": "2"}, {"k": "1", "v": "long", "w": "ok"}]}), vec![]),
            (
                json!({"map": [{"k": "1", "v": "longer"}, {"k": "3", "v": "long"}]}),
                vec!["map[0].v", "map[1].v"],
            ),
            (json!({"atomic": ["long", "ok"]}), vec!["atomic[0]"]),
            (json!({"set": ["x", "x", "y"]}), vec![]),
            (json!({"rule": {"x": 1}}), vec![]),
            (json!({"rule": {"x": -1}}), vec!["rule"]),
        ] {
            let mut new = old.clone();
            crate::patch::merge_patch(&mut new, &change);
            let mut errors = s.validate_change(&new, &old);
            if errors.is_empty() {
                errors.append(s.validate_rules(&new, Some(&old)));
            }
            let fields: Vec<&str> = errors.0.iter().map(|e| e.field.as_str()).collect();
            assert_eq!(fields, want, "{change}");
        }
        let twice = s.validate_change(&json!({"set": ["x", "x"]}), &json!({"set": ["x"]}));
        assert_eq!(twice.0.len(), 1);
        assert!(!s.validate(&old).is_empty(), "as a new object it is not taken");
    }

    #[test]
    fn formats_and_steps_are_judged() {
        let raw = json!({"type": "object", "properties": {
            "when": {"type": "string", "format": "date-time"},
            "step": {"type": "number", "multipleOf": 0.1},
            "name": {"type": "string", "pattern": "^\\w{1,253}$"}}});
        let s = Structural::compile(&raw, &Path::root()).unwrap();
        for (good, value) in [
            (true, json!({"when": "2024-01-01T00:00:00Z", "step": 0.3, "name": "a_1"})),
            (true, json!({"step": 0})),
            (true, json!({"step": -1.7})),
            (false, json!({"when": "today"})),
            (false, json!({"step": 0.35})),
            (false, json!({"name": "é"})),
        ] {
            assert_eq!(s.validate(&value).is_empty(), good, "{value}");
        }
        let errors = s.validate(&json!({"name": "-"})).0;
        assert!(errors[0].to_string().ends_with("name in body should match '^\\w{1,253}$'"), "{}", errors[0]);
    }

    #[test]
    fn a_root_that_keeps_everything_need_not_be_structural() {
        let old = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"spec": {"properties": {"a": {"minimum": 1}}}}});
        let schema = Structural::compile(&old, &Path::root()).unwrap();
        assert!(schema.validate(&json!({"spec": {"a": 1, "b": {}}})).is_empty());
        assert!(!schema.validate(&json!({"spec": {"a": 0}})).is_empty());
    }

    #[test]
    fn bad_schemas_are_refused() {
        for bad in [
            json!({"type": "string"}),
            json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
            json!({"type": "object", "properties": {"a": {"type": "array"}}}),
            json!({"type": "object", "properties": {"a": {}}}),
            json!({"type": "object", "properties": {"a": {"type": "text"}}}),
            json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}),
            json!({"type": "object", "properties": {"a": {"type": "object", "default": {"b": 1}}}}),
            json!({"type": "object", "properties": {"a": {"type": "object", "anyOf": [{"type": "object"}, {"default": 1}]}}}),
            json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"},
                "x-kubernetes-list-type": "map"}}}),
        ] {
            assert!(Structural::compile(&bad, &Path::root()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_long_list_of_wrong_items_is_refused_with_some_of_them() {
        let choices: Vec<String> = (0..50).map(|i| format!("choice-{i}")).collect();
        let schema = json!({"type": "object", "properties": {"l": {"type": "array",
            "items": {"type": "string", "enum": choices}}}});
        let schema = Structural::compile(&schema, &Path::root()).unwrap();
        let errors = schema.validate(&json!({"l": vec![""; 100_000]}));
        assert!(errors.is_full() && errors.0.len() <= 1001, "{}", errors.0.len());
    }

    #[test]
    fn patterns_have_room_beside_each_other() {
        let schema = |all: &dyn Fn(usize) -> String| {
            let one = |i| (format!("p{i}"), json!({"type": "string", "pattern": all(i)}));
            json!({"type": "object", "properties": (0..1000).map(one).collect::<crate::Map>()})
        };
        let usual = schema(&|i| format!("^[a-z0-9]([-a-z0-9]*[a-z0-9])?(/{i})?$"));
        assert!(Structural::compile(&usual, &Path::root()).is_ok());
        let same = schema(&|_| r"^\pL{1,63}$".to_owned());
        assert!(Structural::compile(&same, &Path::root()).is_ok());
        let large = schema(&|i| format!(r"^\pL{{1,63}}{i}$"));
        let text = Structural::compile(&large, &Path::root()).unwrap_err().message();
        assert!(text.contains("there is no room for it beside the other regular expressions"), "{text}");
        // Nor is there more of it for being spread over versions.
        let versions = |schema: &'static str| {
            let schema: Value = serde_json::from_str(schema).unwrap();
            let schemas = vec![schema; 20];
            Structural::check_all(schemas.iter().map(|s| (s, Path::root())))
        };
        let wide =
            r#"{"type": "object", "properties": {"a": {"type": "string", "pattern": "^\\pL{1,63}$"}}}"#;
        assert!(!versions(wide).is_empty());
        let narrow = r#"{"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]+$"}}}"#;
        assert!(versions(narrow).is_empty());
    }
}
