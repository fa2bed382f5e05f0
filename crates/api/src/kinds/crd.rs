//! Custom resources: structural schemas, compiled from the `openAPIV3Schema` of a CustomResourceDefinition's version.
//!
//! What a schema does not name is pruned (by the decoder, which asks [`Structural::field`]), what it gives a default is
//! filled in, what it forbids is an error in upstream's words. Rules in CEL (`x-kubernetes-validations`) are compiled with
//! it and judged by [`Structural::validate_rules`], which also knows the earlier state.

use indexmap::IndexMap;
use regex::Regex;
use serde_json::{Value, json};

use crate::cel::{self, Place};
use crate::field::{ErrorList, ErrorType, Path, show};
use crate::schema::{ListType, Schema, Shape, TypeId};

/// A structural schema.
#[derive(Debug, Default)]
pub struct Structural {
    /// The schema as it was given.
    raw: Value,
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

fn flag(v: &Value, field: &str) -> bool {
    v.get(field).and_then(Value::as_bool).unwrap_or(false)
}

/// How deep a schema may nest; deeper ones are refused.
const MAX_DEPTH: usize = 64;

impl Structural {
    /// Compiles the schema of a version's objects. What is wrong with it is said of paths below `path`.
    pub fn compile(schema: &Value, path: &Path) -> Result<Structural, ErrorList> {
        let mut errors = ErrorList::new();
        let lenient = flag(schema, "x-kubernetes-preserve-unknown-fields");
        let place = Place { correlated: true, times: 1 };
        let at = At { depth: 0, place, junctor: false, lenient };
        let root = Self::build(schema, path, &mut errors, at);
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
        Self::build(schema, path, &mut errors, At { depth: 0, place, junctor: false, lenient: false });
        errors
    }

    fn build(raw: &Value, path: &Path, errors: &mut ErrorList, at: At) -> Structural {
        if at.depth > MAX_DEPTH {
            errors.forbidden(path, format!("schemas nest at most {MAX_DEPTH} deep"));
            return Structural::default();
        }
        let mut out = Structural {
            raw: raw.clone(),
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
            let inner = Self::build(property, &path, errors, at.below());
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
                let inner = Self::build(schema, &path, errors, at.each(cel::limit(&out), true));
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
            let inner = Self::build(items, &path, errors, inside);
            if inner.kind.is_empty() && !inner.is_untyped() && !at.junctor && !at.lenient {
                errors.required(&path.child("type"), "must not be empty for specified array items");
            }
            out.has_defaults |= inner.has_defaults;
            out.items = Some(Box::new(inner));
        }
        if let Some(pattern) = raw.get("pattern").and_then(Value::as_str) {
            match Regex::new(pattern) {
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
            list.map(|(i, s)| Self::build(s, &path.child(field).index(i), errors, junctor)).collect()
        };
        out.all = several("allOf");
        out.any = several("anyOf");
        out.one = several("oneOf");
        if let Some(not @ Value::Object(_)) = raw.get("not") {
            out.not = Some(Box::new(Self::build(not, &path.child("not"), errors, junctor)));
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
        self.check(&filled, path, &mut found);
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

    /// What rules say of an object; `old` is its earlier state. Rules judge only what the schema itself takes.
    pub fn validate_rules(&self, value: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = ErrorList::new();
        if !self.has_rules {
            return errors;
        }
        if !self.validate(value).is_empty() {
            errors.push(
                ErrorType::Invalid,
                &Path::root(),
                Some("null".into()),
                "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
            );
            return errors;
        }
        let mut run = cel::Run { budget: cel::OBJECT_BUDGET, errors: &mut errors, over: false };
        self.judge(value, old, &Path::root(), &mut run);
        errors
    }

    fn judge(&self, value: &Value, old: Option<&Value>, path: &Path, run: &mut cel::Run<'_>) {
        if !self.has_rules || value.is_null() {
            return;
        }
        for rule in &self.rules {
            rule.run(self, value, old, path, run);
        }
        match value {
            Value::Object(map) => {
                for (name, item) in map {
                    let Some(schema) = self.value_schema(name) else { continue };
                    let old = old.and_then(|o| o.get(name));
                    // A property is spelled with a dot, an entry of a map with its key in brackets.
                    let path = if self.is_map() { path.key(name) } else { path.child(name) };
                    schema.judge(item, old, &path, run);
                }
            }
            Value::Array(list) => {
                let Some(items) = &self.items else { return };
                let keys = if self.list_type() == ListType::Map { self.list_keys() } else { Vec::new() };
                let before = old.and_then(Value::as_array).filter(|_| !keys.is_empty());
                for (i, item) in list.iter().enumerate() {
                    let same = |o: &&Value| keys.iter().all(|k| o.get(k) == item.get(k));
                    let old = before.and_then(|b| b.iter().find(same));
                    items.judge(item, old, &path.index(i), run);
                }
            }
            _ => {}
        }
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

    /// Does it fill anything in?
    pub fn has_defaults(&self) -> bool {
        self.has_defaults
    }

    /// Fills in what was left out.
    pub fn fill_in(&self, value: &mut Value) {
        if !self.has_defaults {
            return;
        }
        match value {
            Value::Object(map) => {
                for (name, schema) in &self.properties {
                    // A null where none may be is as if nothing were there.
                    let missing = map.get(name).is_none_or(|v| v.is_null() && !schema.nullable);
                    if let Some(default) = schema.raw.get("default").filter(|_| missing) {
                        map.insert(name.clone(), default.clone());
                    }
                    if let Some(v) = map.get_mut(name) {
                        schema.fill_in(v);
                    }
                }
                if let Some(values) = &self.additional {
                    for (name, v) in map.iter_mut() {
                        if !self.properties.contains_key(name) {
                            values.fill_in(v);
                        }
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    for v in list {
                        items.fill_in(v);
                    }
                }
            }
            _ => {}
        }
    }

    /// What is wrong with an object.
    pub fn validate(&self, value: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check(value, &Path::root(), &mut errors);
        errors
    }

    fn check(&self, value: &Value, path: &Path, errors: &mut ErrorList) {
        let say = |errors: &mut ErrorList, value: &Value, why: String| {
            let shown = show(value);
            errors.push(ErrorType::Invalid, path, Some(shown), format!("{} in body {why}", path.as_str()));
        };
        if value.is_null() {
            if !self.nullable && !self.kind.is_empty() {
                say(errors, value, format!("must be of type {}: \"null\"", self.kind));
            }
            return;
        }
        if !self.is_of_type(value) {
            let is = match value {
                Value::Object(_) => "object",
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Bool(_) => "boolean",
                Value::Number(n) if n.is_f64() => "number",
                Value::Number(_) => "integer",
                Value::Null => "null",
            };
            let shown = Value::String(is.to_owned());
            say(errors, &shown, format!("must be of type {}: \"{is}\"", self.kind));
            return;
        }
        if let Some(allowed) = self.raw.get("enum").and_then(Value::as_array)
            && !allowed.contains(value)
        {
            let texts: Vec<String> =
                allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
            errors.not_supported(path, value, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        }
        match value {
            Value::String(s) => self.check_text(s, value, path, errors),
            Value::Number(_) => self.check_number(value, path, errors),
            Value::Array(list) => self.check_list(list, value, path, errors),
            Value::Object(map) => self.check_object(map, value, path, errors),
            _ => {}
        }
        for schema in &self.all {
            schema.check(value, path, errors);
        }
        let fits = |s: &&Structural| {
            let mut errors = ErrorList::new();
            s.check(value, path, &mut errors);
            errors.is_empty()
        };
        if !self.any.is_empty() && !self.any.iter().any(|s| fits(&s)) {
            say(errors, value, "must validate at least one schema (anyOf)".into());
        }
        if !self.one.is_empty() && self.one.iter().filter(fits).count() != 1 {
            say(errors, value, "must validate one and only one schema (oneOf)".into());
        }
        if self.not.as_deref().is_some_and(|s| fits(&s)) {
            say(errors, value, "must not validate the schema (not)".into());
        }
    }

    fn is_of_type(&self, value: &Value) -> bool {
        if self.int_or_string {
            return value.is_string() || value.is_i64() || value.is_u64();
        }
        match self.kind.as_str() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "number" => value.is_number(),
            "integer" => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|f| f.fract() == 0.0),
            _ => true,
        }
    }

    fn limit(&self, field: &str) -> Option<usize> {
        self.raw.get(field).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
    }

    fn check_text(&self, s: &str, value: &Value, path: &Path, errors: &mut ErrorList) {
        let say = |errors: &mut ErrorList, why: String| {
            errors.invalid(path, value, format!("{} in body {why}", path.as_str()));
        };
        let length = s.chars().count();
        if let Some(max) = self.limit("maxLength").filter(|max| length > *max) {
            errors.too_long(path, max);
        }
        if let Some(min) = self.limit("minLength").filter(|min| length < *min) {
            say(errors, format!("should be at least {min} chars long"));
        }
        if let Some(pattern) = self.pattern.as_ref().filter(|p| !p.is_match(s)) {
            say(errors, format!("should match '{pattern}'"));
        }
        let format = text(&self.raw, "format");
        let good = match format {
            "date-time" => s.parse::<jiff::Timestamp>().is_ok(),
            "date" => s.parse::<jiff::civil::Date>().is_ok(),
            "ipv4" => s.parse::<std::net::Ipv4Addr>().is_ok(),
            "ipv6" => s.parse::<std::net::Ipv6Addr>().is_ok(),
            "cidr" => s.parse::<ipnet::IpNet>().is_ok(),
            "uuid" => s.len() == 36 && s.split('-').count() == 5,
            "byte" => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, s).is_ok(),
            // Unknown formats mean nothing, as upstream has it.
            _ => true,
        };
        if !good {
            say(errors, format!("must be of type {format}: {}", show(value)));
        }
    }

    fn check_number(&self, value: &Value, path: &Path, errors: &mut ErrorList) {
        let Some(n) = value.as_f64() else { return };
        let bound = |field: &str| self.raw.get(field).and_then(Value::as_f64);
        let mut say = |why: String| errors.invalid(path, value, format!("{} in body {why}", path.as_str()));
        if let Some(min) = bound("minimum") {
            let exclusive = flag(&self.raw, "exclusiveMinimum");
            if n < min || exclusive && n <= min {
                let or = if exclusive { "" } else { " or equal to" };
                say(format!("should be greater than{or} {min}"));
            }
        }
        if let Some(max) = bound("maximum") {
            let exclusive = flag(&self.raw, "exclusiveMaximum");
            if n > max || exclusive && n >= max {
                let or = if exclusive { "" } else { " or equal to" };
                say(format!("should be less than{or} {max}"));
            }
        }
        if let Some(step) = bound("multipleOf").filter(|s| *s != 0.0)
            && (n / step).fract() != 0.0
        {
            say(format!("should be a multiple of {step}"));
        }
    }

    fn check_list(&self, list: &[Value], value: &Value, path: &Path, errors: &mut ErrorList) {
        if let Some(max) = self.limit("maxItems").filter(|max| list.len() > *max) {
            errors.too_many(path, list.len(), max);
        }
        if let Some(min) = self.limit("minItems").filter(|min| list.len() < *min) {
            errors.invalid(
                path,
                value,
                format!("{} in body should have at least {min} items", path.as_str()),
            );
        }
        let keys = self.list_keys();
        let mut seen: Vec<Vec<&Value>> = Vec::new();
        for (i, item) in list.iter().enumerate() {
            let at = path.index(i);
            let key = match self.list_type() {
                ListType::Map => keys.iter().map(|k| item.get(k).unwrap_or(&Value::Null)).collect(),
                ListType::Set => vec![item],
                ListType::Atomic => Vec::new(),
            };
            if !key.is_empty() {
                if seen.contains(&key) {
                    errors.duplicate(&at, item);
                }
                seen.push(key);
            }
            if let Some(items) = &self.items {
                items.check(item, &at, errors);
            }
        }
    }

    fn check_object(&self, map: &crate::Map, value: &Value, path: &Path, errors: &mut ErrorList) {
        for name in self.raw.get("required").and_then(Value::as_array).into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            if !map.contains_key(name) {
                errors.required(&path.child(name), "");
            }
        }
        if let Some(max) = self.limit("maxProperties").filter(|max| map.len() > *max) {
            errors.too_many(path, map.len(), max);
        }
        if let Some(min) = self.limit("minProperties").filter(|min| map.len() < *min) {
            let why = format!("{} in body should have at least {min} properties", path.as_str());
            errors.invalid(path, value, why);
        }
        for (name, item) in map {
            if self.object && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            match (self.properties.get(name), &self.additional) {
                (Some(schema), _) => schema.check(item, &path.child(name), errors),
                (None, Some(schema)) => schema.check(item, &path.child(name), errors),
                (None, None) => {}
            }
        }
    }

    /// Its OpenAPI form. Version 2 has fewer words: what it cannot say is left out, so that its readers refuse nothing that
    /// the server takes.
    pub fn openapi(&self, v3: bool) -> Value {
        let mut out = self.raw.clone();
        if !v3 {
            if out["x-kubernetes-preserve-unknown-fields"] == true {
                // Readers of version 2 take any property named for the only ones allowed.
                return json!({"type": "object"});
            }
            simplify(&mut out);
        }
        if out.get("type").is_none() && out.get("x-kubernetes-preserve-unknown-fields").is_none() {
            crate::meta::as_map(&mut out).insert("type".into(), json!("object"));
        }
        out
    }
}

/// Takes out of a schema what OpenAPI 2 does not have.
fn simplify(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for field in ["oneOf", "anyOf", "allOf", "not", "example", "x-kubernetes-validations"] {
        map.shift_remove(field);
    }
    let nullable = map.shift_remove("nullable").is_some_and(|v| v == true);
    let is = |map: &crate::Map, what: &str| map.get(what).is_some_and(|v| v == true);
    let int_or_string = is(map, "x-kubernetes-int-or-string");
    let preserves = is(map, "x-kubernetes-preserve-unknown-fields");
    if nullable || int_or_string {
        map.shift_remove("type");
    }
    // Its readers would refuse fields that are not named, and know neither lists without items nor open objects.
    if nullable || int_or_string || preserves {
        map.shift_remove("properties");
        map.shift_remove("items");
    }
    if preserves {
        map.shift_remove("required");
    }
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind == "array" && !map.contains_key("items") || kind == "object" && preserves {
        map.shift_remove("type");
    }
    let null = |v: &Value| v.get("nullable").is_some_and(|n| n == true);
    if map.get("additionalProperties").is_some_and(null) {
        map.shift_remove("required");
    }
    let nullables: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, v)| null(v))
        .map(|(k, _)| k.clone())
        .collect();
    if let Some(required) = map.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|r| !nullables.iter().any(|n| r == n));
        if required.is_empty() {
            map.shift_remove("required");
        }
    }
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        for (_, v) in properties.iter_mut() {
            simplify(v);
        }
    }
    for field in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(field) {
            simplify(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{FieldValidation, check};

    fn schema() -> Structural {
        let raw = json!({"type": "object", "required": ["spec"], "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1},
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
            (json!({"size": 1, "port": true}), "spec.port: Invalid value: \"boolean\""),
        ] {
            let errors = s.validate(&json!({"spec": spec})).0;
            assert!(errors[0].to_string().starts_with(want), "{}", errors[0]);
        }
        assert_eq!(s.validate(&json!({})).0[0].to_string(), "spec: Required value");
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
}
