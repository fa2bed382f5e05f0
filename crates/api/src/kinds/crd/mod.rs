//! Custom resources: structural schemas, compiled from the `openAPIV3Schema` of a CustomResourceDefinition's version.
//!
//! What a schema does not name is pruned (by the decoder, which asks [`Structural::field`]), what it gives a default is
//! filled in, what it forbids is an error in upstream's words. Rules in CEL (`x-kubernetes-validations`) are compiled with
//! it and judged by [`Structural::validate_rules`], which also knows the earlier state.

mod format;
mod judge;
mod openapi;
mod structure;
mod version;

use indexmap::IndexMap;
use regex::Regex;
use serde_json::Value;

use crate::cel::{self, Place};
use crate::field::{ErrorList, Path};
use crate::pattern::Patterns;
use crate::schema::{ListType, Schema, Shape, TypeId};
use structure::NoDefault;

pub(crate) use format::fits;
pub use openapi::openapi;
pub use version::{VersionedSchema, outline};

/// Whether there is a format of this name for texts.
pub(super) fn is_format(name: &str) -> bool {
    format::is_known(name)
}

/// A structural schema.
#[derive(Debug, Default)]
pub struct Structural {
    /// The keywords that say something of the value itself; those that lead on are the fields below.
    raw: Value,
    /// Is it the schema of a whole object, with `apiVersion`, `kind` and `metadata` of their own?
    object: bool,
    /// Of one within another?
    embedded: bool,
    properties: IndexMap<String, Structural>,
    additional: Option<Box<Structural>>,
    /// `additionalProperties` that are no schema: whether there may be any. Nothing is known of what they hold.
    open: Option<bool>,
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

/// As what a schema stands in another.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Where in a schema one is.
#[derive(Clone, Copy)]
struct At<'p> {
    depth: usize,
    level: Level,
    place: Place<'p>,
    /// Inside `allOf`, `anyOf`, `oneOf` or `not`, which only restrict.
    junctor: bool,
    /// One of the two types of what is either an integer or a string.
    typed: bool,
    /// Inside of the metadata, kind or version of an object.
    meta: bool,
    no_default: Option<NoDefault>,
    /// It need not be structural: what v1beta1 had by default, and what has been taken already.
    lenient: bool,
}

impl<'p> At<'p> {
    fn root(lenient: bool) -> At<'p> {
        let place = Place { uncorrelated: None, times: Some(1) };
        At {
            depth: 0,
            level: Level::Root,
            place,
            junctor: false,
            typed: false,
            meta: false,
            no_default: None,
            lenient,
        }
    }

    fn below(self) -> At<'p> {
        At { depth: self.depth + 1, ..self }
    }

    /// Below a list or map with at most so many values, if it says. `lost`: it, if the earlier state of its values cannot be
    /// told.
    fn each(self, times: Option<u64>, lost: Option<&'p Path>) -> At<'p> {
        let place = Place {
            uncorrelated: self.place.uncorrelated.or(lost),
            times: self.place.times.zip(times).map(|(a, b)| a.saturating_mul(b)),
        };
        At { depth: self.depth + 1, place, ..self }
    }
}

/// What is wrong with a schema, and apart from it what is wrong with its rules: they are compiled by the schema, so where that
/// is wrong what they say of it is nobody's guide.
#[derive(Default)]
struct Found {
    schema: ErrorList,
    rules: ErrorList,
}

impl Found {
    fn told(self) -> ErrorList {
        if self.schema.is_empty() { self.rules } else { self.schema }
    }
}

/// What a map's values may be whose schema is but `true` or `false`.
static NOTHING: std::sync::LazyLock<Structural> = std::sync::LazyLock::new(Structural::default);

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
    /// Compiles the schema of a version's objects, strictly. What is wrong with it is said of paths below `path`.
    pub fn compile(schema: &Value, path: &Path) -> Result<Structural, ErrorList> {
        let mut found = Found::default();
        let root = Self::build_root(schema, path, &mut found, &mut Patterns::new(), false);
        let errors = found.told();
        if errors.is_empty() { Ok(root) } else { Err(errors) }
    }

    /// Compiles a schema that was taken before, by the rules of its time: of what cannot be used it does without, and says
    /// what that is.
    pub fn compile_taken(schema: &Value, path: &Path) -> (Structural, ErrorList) {
        let mut found = Found::default();
        let root = Self::build_root(schema, path, &mut found, &mut Patterns::new(), true);
        let mut errors = found.schema;
        errors.append(found.rules);
        (root, errors)
    }

    /// What is wrong with the schemas of a definition's versions, which must have room beside each other. Of each is said
    /// whether the objects' status is a subresource. `lenient`: they need not be structural.
    pub fn check_all<'v>(
        schemas: impl IntoIterator<Item = (&'v Value, Path, bool)>,
        lenient: bool,
    ) -> ErrorList {
        let (mut errors, mut patterns) = (ErrorList::new(), Patterns::new());
        for (schema, path, status) in schemas {
            // Each version has its own when they are served.
            patterns.forget();
            structure::check_root(schema, &path, &mut errors, status);
            let mut found = Found::default();
            Self::build_root(schema, &path, &mut found, &mut patterns, lenient);
            errors.append(found.told());
        }
        errors
    }

    fn build_root(
        schema: &Value,
        path: &Path,
        found: &mut Found,
        patterns: &mut Patterns,
        lenient: bool,
    ) -> Structural {
        let root = Self::build(schema, path, found, patterns, At::root(lenient));
        if lenient && root.kind != "object" {
            match root.kind.as_str() {
                "" => found.schema.required(&path.child("type"), "must not be empty at the root"),
                other => found.schema.invalid_str(&path.child("type"), other, "must be object at the root"),
            }
        }
        if !lenient && found.schema.is_empty() {
            structure::check_completeness(schema, path, &mut found.schema);
        }
        let worst = root.estimate();
        if worst > cel::SCHEMA_ESTIMATE && !lenient {
            let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
            found.rules.forbidden(path, cel::too_costly(what, worst, cel::SCHEMA_ESTIMATE));
        }
        root
    }

    /// Why a schema is not structural, if it need not be and is not.
    pub fn violations(schema: &Value, path: &Path) -> ErrorList {
        let mut found = Found::default();
        Self::build(schema, path, &mut found, &mut Patterns::new(), At::root(false));
        found.schema
    }

    fn build(raw: &Value, path: &Path, found: &mut Found, patterns: &mut Patterns, at: At<'_>) -> Structural {
        if at.depth > MAX_DEPTH {
            found.schema.forbidden(path, format!("schemas nest at most {MAX_DEPTH} deep"));
            return Structural::default();
        }
        let embedded = flag(raw, "x-kubernetes-embedded-resource");
        let mut out = Structural {
            raw: own_keywords(raw),
            object: embedded || at.level == Level::Root && !at.junctor,
            embedded,
            preserve: flag(raw, "x-kubernetes-preserve-unknown-fields"),
            int_or_string: flag(raw, "x-kubernetes-int-or-string"),
            nullable: flag(raw, "nullable"),
            kind: text(raw, "type").to_owned(),
            has_defaults: raw.get("default").is_some_and(|v| !v.is_null()),
            ..Structural::default()
        };
        if !at.lenient {
            structure::check_words(raw, path, &mut found.schema, at);
            match at.junctor {
                true => structure::check_restriction(raw, path, &mut found.schema, at.typed),
                false => structure::check_structure(raw, path, &mut found.schema, at),
            }
        }
        for (name, property) in raw.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let path = path.child("properties").key(name);
            let inner = Self::build(property, &path, found, patterns, at.property(&out, name));
            out.has_defaults |= inner.has_defaults;
            out.properties.insert(name.clone(), inner);
        }
        match raw.get("additionalProperties") {
            Some(Value::Bool(open)) => out.open = Some(*open),
            Some(schema @ Value::Object(_)) => {
                let path = path.child("additionalProperties");
                let inside = at.each(out.number("maxProperties"), None).values();
                let inner = Self::build(schema, &path, found, patterns, inside);
                out.has_defaults |= inner.has_defaults;
                out.additional = Some(Box::new(inner));
            }
            _ => {}
        }
        if let Some(items @ Value::Object(_)) = raw.get("items") {
            let lost = (out.list_type() != ListType::Map).then_some(path);
            let inside = At { level: Level::Item, ..at.each(out.number("maxItems"), lost) };
            let inner = Self::build(items, &path.child("items"), found, patterns, inside);
            out.has_defaults |= inner.has_defaults;
            out.items = Some(Box::new(inner));
        }
        if let Some(pattern) = raw.get("pattern").and_then(Value::as_str) {
            match patterns.compile(pattern) {
                Ok(regex) => out.pattern = Some(regex),
                Err(e) => found.schema.invalid_str(
                    &path.child("pattern"),
                    pattern,
                    format!("must be a valid regular expression, but isn't: {e}"),
                ),
            }
        }
        let (own, first) = structure::integer_or_string(raw);
        let junctor = |typed: bool| At { junctor: true, typed, ..at.below() };
        let mut several = |field: &str| -> Vec<Structural> {
            let list = raw.get(field).and_then(Value::as_array).into_iter().flatten().enumerate();
            let types = |i: usize| match field {
                "anyOf" => own && !at.junctor || at.typed,
                "allOf" => first && !at.junctor && i == 0,
                _ => false,
            };
            list.map(|(i, s)| Self::build(s, &path.child(field).index(i), found, patterns, junctor(types(i))))
                .collect()
        };
        out.all = several("allOf");
        out.any = several("anyOf");
        out.one = several("oneOf");
        if let Some(not @ Value::Object(_)) = raw.get("not") {
            let inner = Self::build(not, &path.child("not"), found, patterns, junctor(false));
            out.not = Some(Box::new(inner));
        }
        if !at.junctor {
            out.rules = cel::compile(&out, raw, at.place, path, (&mut found.schema, &mut found.rules));
        }
        let inner = out.properties.values().chain(out.additional.as_deref()).chain(out.items.as_deref());
        out.has_rules = !out.rules.is_empty() || inner.into_iter().any(|s| s.has_rules);
        if let Some(default) = raw.get("default").filter(|v| !v.is_null() && !at.lenient) {
            out.check_default(default, &path.child("default"), &mut found.schema);
        }
        out
    }

    /// A default has to be good itself, and has to survive pruning.
    fn check_default(&self, default: &Value, path: &Path, errors: &mut ErrorList) {
        let mut own = ErrorList::new();
        if !self.keeps(default) {
            own.invalid(path, default, "must not have unknown fields");
        }
        self.check_embedded(default, path, &mut own);
        if own.is_empty() {
            self.check(default, None, path, &mut own);
        }
        if own.is_empty() && self.has_rules {
            self.judge_default(default, path, &mut own);
        }
        errors.append(own);
    }

    /// Whether nothing of a value would be pruned.
    fn keeps(&self, value: &Value) -> bool {
        crate::codec::prune(&mut value.clone(), Schema::Custom(self)).is_empty()
    }

    /// What the rules cost at worst together.
    pub(crate) fn estimate(&self) -> u64 {
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

    /// The properties that are always written out: they must be there, and nothing fills them in.
    pub(crate) fn required_properties(&self) -> impl Iterator<Item = (&str, &Structural)> {
        let required = self.raw.get("required").and_then(Value::as_array).into_iter().flatten();
        required.filter_map(Value::as_str).filter_map(|name| {
            let property = self.properties.get(name).filter(|p| p.default_value().is_none())?;
            Some((name, property))
        })
    }

    /// What the value looks like.
    pub fn shape(&self) -> Shape<'_> {
        match self.kind.as_str() {
            "object" if self.properties.is_empty() && !self.object => match (&self.additional, self.open) {
                (Some(values), _) => Shape::Map(Schema::Custom(values)),
                (None, Some(_)) => Shape::Map(Schema::Any),
                (None, None) if self.preserve => Shape::Any,
                (None, None) => Shape::Struct,
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
        match self.value_schema(name) {
            Some(s) => Some(Schema::Custom(s)),
            None if self.open.is_some() => Some(Schema::Custom(&NOTHING)),
            None => self.preserve.then_some(Schema::Any),
        }
    }

    /// The schema of a list's items. Without one, nothing is known of what they hold.
    pub(crate) fn items_or_nothing(&self) -> &Structural {
        self.items.as_deref().unwrap_or(&NOTHING)
    }

    /// Whether what it does not name stays.
    pub(crate) fn preserves(&self) -> bool {
        self.preserve
    }

    /// Whether a null in its place is as if nothing were there, and nothing else comes there.
    pub(crate) fn drops_null(&self) -> bool {
        !self.nullable && self.default_value().is_none() && !std::ptr::eq(self, &*NOTHING)
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
        self.raw.get("default").filter(|v| !v.is_null())
    }

    /// Are there rules in CEL?
    pub fn has_rules(&self) -> bool {
        self.has_rules
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
                "x-kubernetes-validations": [{"rule": "self.x > 0"}]},
            "ruled": {"type": "array", "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]}}}});
        let s = Structural::compile(&raw, &Path::root()).unwrap();
        let old = json!({"a": "long", "b": "ok", "o": {"old": "x"}, "map": [{"k": "1", "v": "long"}, {"k": "2"}],
            "atomic": ["long"], "set": ["x", "x"], "rule": {"x": 0, "y": "long"}, "ruled": [0]});
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
            (json!({"ruled": [0, 1]}), vec!["ruled[0]"]),
        ] {
            let mut new = old.clone();
            crate::patch::merge_patch(&mut new, &change);
            let mut errors = s.validate_change(&new, &old);
            let told = s.validate_rules(&new, Some(&old), &errors);
            errors.append(told);
            let fields: Vec<&str> =
                errors.0.iter().map(|e| e.field.as_str()).filter(|f| *f != "<nil>").collect();
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
    fn what_was_taken_once_need_not_be_structural() {
        let old = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"spec": {"properties": {"a": {"minimum": 1}}}}});
        let root = |lenient| Structural::check_all([(&old, Path::root(), false)], lenient);
        assert!(root(true).is_empty() && !root(false).is_empty());
        let (schema, errors) = Structural::compile_taken(&old, &Path::root());
        assert!(errors.is_empty(), "{errors:?}");
        assert!(schema.validate(&json!({"spec": {"a": 1, "b": {}}})).is_empty());
        assert!(!schema.validate(&json!({"spec": {"a": 0}})).is_empty());
        let broken = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("},
            "b": {"type": "integer", "x-kubernetes-validations": [{"rule": "self."}]}}});
        let (schema, errors) = Structural::compile_taken(&broken, &Path::root());
        assert_eq!(errors.0.len(), 2, "{errors:?}");
        assert!(!schema.validate(&json!({"b": "text"})).is_empty(), "the rest of it holds");
    }

    fn refusals(schema: &Value) -> Vec<String> {
        let errors = Structural::compile(schema, &Path::root()).err().unwrap_or_default();
        let mut texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        texts.sort();
        texts
    }

    #[test]
    fn schemas_are_structural() {
        let of = |property: Value| json!({"type": "object", "properties": {"a": property}});
        let either = json!([{"type": "integer"}, {"type": "string"}]);
        let map = |items: Value| json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": items});
        for good in [
            of(json!({"x-kubernetes-int-or-string": true, "anyOf": either})),
            of(json!({"x-kubernetes-int-or-string": true, "type": "string"})),
            of(json!({"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": either}, {"pattern": "^a"}]})),
            of(
                json!({"type": "object", "additionalProperties": true, "properties": {"b": {"type": "string"}}}),
            ),
            of(json!({"type": "object", "additionalProperties": false})),
            json!({"type": "object", "properties": {"metadata": {"type": "object",
                "properties": {"name": {"type": "string", "maxLength": 5}}}}}),
            of(
                json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
            ),
            of(
                json!({"type": "object", "default": {"b": null}, "properties": {"b": {"type": "string", "nullable": true}}}),
            ),
        ] {
            assert_eq!(refusals(&good), Vec::<String>::new(), "{good}");
        }
        for (bad, want) in [
            (json!({}), "type: Required value: must not be empty at the root"),
            (
                json!({"type": "object", "additionalProperties": {"type": "string"}}),
                "additionalProperties: Forbidden: must not be used at the root",
            ),
            (
                of(json!({})),
                "properties[a].type: Required value: must not be empty for specified object fields",
            ),
            (
                of(json!({"type": "array", "items": {}})),
                "properties[a].items.type: Required value: must not be empty for specified array items",
            ),
            (
                of(
                    json!({"type": "object", "additionalProperties": {"type": "string"}, "properties": {"b": {"type": "string"}}}),
                ),
                "properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
            ),
            (
                of(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false})),
                "properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
            ),
            (
                of(json!({"type": "object", "x-kubernetes-map-type": "set"})),
                "properties[a].x-kubernetes-map-type: Unsupported value: \"set\": supported values: \"atomic\", \"granular\"",
            ),
            (
                of(json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}})),
                "properties[a].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
            ),
            (
                of(map(json!({"type": "string"}))),
                "properties[a].items.type: Invalid value: \"string\": must be object if parent array's x-kubernetes-list-type is map",
            ),
            (
                of(map(
                    json!({"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "nullable": true}}}),
                )),
                "properties[a].items.properties[k].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            ),
            (
                of(json!({"type": "string", "anyOf": [{"type": "string"}]})),
                "properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
            ),
            (
                of(json!({"type": "object", "x-kubernetes-embedded-resource": true})),
                "properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
                "properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
            ),
            (
                json!({"type": "object", "properties": {"metadata": {"type": "object", "default": {}}}}),
                "properties[metadata].default: Forbidden: must not be set in top-level metadata",
            ),
            (
                json!({"type": "object", "anyOf": [{"properties": {"b": {"minimum": 1}}}]}),
                "properties[b]: Required value: because it is defined in anyOf[0].properties[b]",
            ),
            (
                of(json!({"type": "object", "properties": {"b": {"type": "string"}}, "default": {"b": 1}})),
                "properties[a].default.b: Invalid value: \"integer\": properties[a].default.b in body must be of type string: \"integer\"",
            ),
            (
                of(
                    json!({"type": "object", "default": {}, "required": ["b"], "properties": {"b": {"type": "string", "default": "x"}}}),
                ),
                "properties[a].default.b: Required value",
            ),
            (
                of(
                    json!({"type": "integer", "default": 0, "x-kubernetes-validations": [{"rule": "self > 0"}]}),
                ),
                "properties[a].default: Invalid value: 0: failed rule: self > 0",
            ),
        ] {
            assert_eq!(refusals(&bad), [want], "{bad}");
        }
        let status = json!({"type": "object", "minProperties": 1, "nullable": true});
        let errors = Structural::check_all([(&status, Path::new("s"), true)], false).message();
        assert!(
            errors.contains(
                "fields are allowed at the root of the schema if the status subresource is enabled"
            )
        );
        assert!(errors.contains("s.nullable: Forbidden: nullable cannot be true at the root"), "{errors}");
    }

    #[test]
    fn what_is_nothing_goes() {
        let raw = json!({"type": "object", "properties": {
            "a": {"type": "string"}, "n": {"type": "string", "nullable": true}, "d": {"type": "string", "default": "x"},
            "map": {"type": "object", "additionalProperties": {"type": "string"}},
            "filled": {"type": "object", "additionalProperties": {"type": "string", "default": "y"}},
            "list": {"type": "array", "items": {"type": "string", "default": "z"}},
            "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
            "open": {"type": "object", "additionalProperties": true},
            "lists": {"type": "array", "x-kubernetes-preserve-unknown-fields": true,
                "items": {"type": "object", "properties": {"k": {"type": "object"}}}}}});
        let schema = Structural::compile(&raw, &Path::root()).unwrap();
        let mut value = json!({"metadata": {"name": "x"}, "a": null, "n": null, "d": null, "map": {"k": null, "l": "v"},
            "filled": {"k": null}, "list": [null], "any": {"b": null}, "open": {"s": 1, "m": {"gone": 1}, "l": [{"gone": 1}]},
            "lists": [{"k": {"gone": 1}, "kept": {"x": 1}}]});
        let mut unknown = crate::codec::prune(&mut value, Schema::Custom(&schema));
        schema.fill_in(&mut value);
        let want = json!({"metadata": {"name": "x"}, "n": null, "d": "x", "map": {"l": "v"}, "filled": {"k": "y"},
            "list": ["z"], "any": {"b": null}, "open": {"s": 1, "m": {}, "l": [{}]}, "lists": [{"k": {}, "kept": {"x": 1}}]});
        assert_eq!(value, want);
        unknown.sort();
        assert_eq!(unknown, ["lists[0].k.gone", "open.l[0].gone", "open.m.gone"]);
        assert!(schema.validate(&value).is_empty(), "{:?}", schema.validate(&value));
    }

    #[test]
    fn objects_within_objects_say_what_they_are() {
        let raw = json!({"type": "object", "properties": {
            "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}},
            "list": {"type": "array", "items": {"type": "object", "x-kubernetes-embedded-resource": true,
                "x-kubernetes-preserve-unknown-fields": true}}}});
        let schema = Structural::compile(&raw, &Path::root()).unwrap();
        let said = |name: &str, inner: Value| {
            let value =
                json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": name}, "list": [inner]});
            schema.validate(&value).message()
        };
        let good = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {}});
        assert_eq!(said("abc", good.clone()), "[]");
        assert_eq!(said("abcd", good), "metadata.name: Too long: may not be more than 3 bytes");
        assert_eq!(
            said("a", json!({"metadata": {"labels": {"a b": "c"}}})),
            "[list[0].apiVersion: Required value, list[0].kind: Required value, list[0].metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')]"
        );
        assert_eq!(
            said("a", json!({"apiVersion": "a/b/c", "kind": ""})),
            "[list[0].apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c, list[0].kind: Invalid value: \"\": must not be empty]"
        );
    }

    #[test]
    fn of_several_schemas_the_nearest_says_why() {
        let raw = json!({"type": "object", "properties": {"s": {"type": "object",
            "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            "not": {"required": ["a"], "properties": {"a": {"enum": ["no"]}}}},
            "t": {"type": "string", "anyOf": [{"maxLength": 1}, {"pattern": "^x"}], "allOf": [{"minLength": 1}]}}});
        let schema = Structural::compile(&raw, &Path::root()).unwrap();
        for (value, want) in [
            (json!({"s": {"a": "x"}, "t": "xyz"}), vec![]),
            (
                json!({"s": {}}),
                vec![
                    "<nil>: Invalid value: \"\": \"s\" must validate one and only one schema (oneOf). Found none valid",
                    "s.a: Required value",
                ],
            ),
            (
                json!({"s": {"a": "x", "b": 1}}),
                vec![
                    "<nil>: Invalid value: \"\": \"s\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
                ],
            ),
            (
                json!({"s": {"a": "no"}}),
                vec!["<nil>: Invalid value: \"\": \"s\" must not validate the schema (not)"],
            ),
            (
                json!({"t": "yy"}),
                vec![
                    "<nil>: Invalid value: \"\": \"t\" must validate at least one schema (anyOf)",
                    "t: Too long: may not be more than 1 bytes",
                ],
            ),
            (
                json!({"t": ""}),
                vec![
                    "t: Invalid value: \"\": t in body should be at least 1 chars long",
                    "<nil>: Invalid value: \"\": \"t\" must validate all the schemas (allOf). None validated",
                ],
            ),
        ] {
            let texts: Vec<String> = schema.validate(&value).0.iter().map(ToString::to_string).collect();
            assert_eq!(texts, want, "{value}");
        }
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
            Structural::check_all(schemas.iter().map(|s| (s, Path::root(), false)), false)
        };
        let wide =
            r#"{"type": "object", "properties": {"a": {"type": "string", "pattern": "^\\pL{1,63}$"}}}"#;
        assert!(!versions(wide).is_empty());
        let narrow = r#"{"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]+$"}}}"#;
        assert!(versions(narrow).is_empty());
    }
}
