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

    /// Whether it is the schema of an object within another.
    pub(crate) fn is_embedded(&self) -> bool {
        self.embedded
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
mod tests;
