//! What a compiled schema says of objects: what is left out is filled in, and what is wrong is named, by the schema and by its
//! rules.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::{Structural, flag, text};
use crate::cel;
use crate::field::{ErrorList, ErrorType, FieldError, Path, show};
use crate::patch::identity;
use crate::schema::ListType;

/// Whether a number is a multiple of another, as far as fractions can be told: 0.3 is one of 0.1.
fn is_multiple(n: f64, step: f64) -> bool {
    const TOLERANCE: f64 = 1e-9;
    let times = if step.abs() < 1.0 { 1.0 / step * n } else { n / step };
    (times - times.round()).abs() <= TOLERANCE * times.abs()
}

/// What an item of a list is known by: the values of its keys.
fn key_of(item: &Value, keys: &[&str]) -> Vec<String> {
    keys.iter().map(|k| identity(item.get(k).unwrap_or(&Value::Null))).collect()
}

impl Structural {
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
                    if let Some(default) = schema.default_value().filter(|_| missing) {
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
        self.check(value, None, &Path::root(), &mut errors);
        errors
    }

    /// What is wrong with an object that was `old` before. Values that have not changed are taken as they are, so that a
    /// schema that has become stricter does not stand in the way of other changes; lists may go on having items of one key.
    pub fn validate_change(&self, value: &Value, old: &Value) -> ErrorList {
        let all = self.validate(value);
        if all.is_empty() {
            return all;
        }
        let mut errors = ErrorList::new();
        self.check(value, Some(old), &Path::root(), &mut errors);
        let duplicate = |e: &FieldError| e.kind == ErrorType::Duplicate;
        if errors.0.iter().any(duplicate) && self.validate(old).0.iter().any(duplicate) {
            errors.0.retain(|e| !duplicate(e));
        }
        errors
    }

    /// Says what is wrong with a value. Where its earlier state is known and the same, nothing is.
    pub(super) fn check(&self, value: &Value, old: Option<&Value>, path: &Path, errors: &mut ErrorList) {
        if old == Some(value) || errors.is_full() {
            return;
        }
        let say = |errors: &mut ErrorList, value: &Value, why: String| {
            let shown = show(value);
            errors.push(ErrorType::Invalid, path, Some(shown), format!("{} in body {why}", path));
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
            Value::Array(list) => self.check_list(list, value, old, path, errors),
            Value::Object(map) => self.check_object(map, value, old, path, errors),
            _ => {}
        }
        // What these say is of the whole value, which has changed.
        for schema in &self.all {
            schema.check(value, None, path, errors);
        }
        let fits = |s: &&Structural| {
            let mut errors = ErrorList::new();
            s.check(value, None, path, &mut errors);
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
            errors.invalid(path, value, format!("{} in body {why}", path));
        };
        let length = s.chars().count();
        if let Some(max) = self.limit("maxLength").filter(|max| length > *max) {
            errors.too_long(path, max);
        }
        if let Some(min) = self.limit("minLength").filter(|min| length < *min) {
            say(errors, format!("should be at least {min} chars long"));
        }
        if self.pattern.as_ref().is_some_and(|p| !p.is_match(s)) {
            say(errors, format!("should match '{}'", text(&self.raw, "pattern")));
        }
        let format = text(&self.raw, "format");
        if !super::format::fits(format, s) {
            say(errors, format!("must be of type {format}: {}", show(value)));
        }
    }

    fn check_number(&self, value: &Value, path: &Path, errors: &mut ErrorList) {
        let Some(n) = value.as_f64() else { return };
        let bound = |field: &str| self.raw.get(field).and_then(Value::as_f64);
        let format = text(&self.raw, "format");
        let in_range = match (self.kind.as_str(), format) {
            ("integer", "int32") => (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&n),
            ("integer", "uint32") => (0.0..=f64::from(u32::MAX)).contains(&n),
            ("integer", "uint64") => value.is_u64() || value.is_f64() && (0.0..2f64.powi(64)).contains(&n),
            ("integer", _) => value.is_i64() || value.is_f64() && n.abs() < 2f64.powi(63),
            (_, "float" | "float32") => n.abs() <= f64::from(f32::MAX),
            _ => true,
        };
        if !in_range {
            let with = if format.is_empty() { String::new() } else { format!(" with format {format}") };
            let why = format!("Checked value must be of type {}{with} in {}", self.kind, path);
            errors.invalid(path, value, why);
        }
        let mut say = |why: String| errors.invalid(path, value, format!("{} in body {why}", path));
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
            && !is_multiple(n, step)
        {
            say(format!("should be a multiple of {step}"));
        }
    }

    /// The items of an earlier state of a list, by their keys: those of other lists are nobody's earlier state.
    fn earlier<'v>(&self, old: Option<&'v Value>) -> HashMap<Vec<String>, &'v Value> {
        let keys = if self.list_type() == ListType::Map { self.list_keys() } else { Vec::new() };
        let mut before = HashMap::new();
        for item in old.and_then(Value::as_array).filter(|_| !keys.is_empty()).into_iter().flatten() {
            before.entry(key_of(item, &keys)).or_insert(item);
        }
        before
    }

    fn check_list(
        &self,
        list: &[Value],
        value: &Value,
        old: Option<&Value>,
        path: &Path,
        errors: &mut ErrorList,
    ) {
        if let Some(max) = self.limit("maxItems").filter(|max| list.len() > *max) {
            errors.too_many(path, list.len(), max);
        }
        if let Some(min) = self.limit("minItems").filter(|min| list.len() < *min) {
            errors.invalid(path, value, format!("{} in body should have at least {min} items", path));
        }
        let keys = self.list_keys();
        let before = self.earlier(old);
        let mut seen: HashSet<Vec<String>> = HashSet::new();
        for (i, item) in list.iter().enumerate() {
            let at = path.index(i);
            let key = match self.list_type() {
                ListType::Map => key_of(item, &keys),
                ListType::Set => vec![identity(item)],
                ListType::Atomic => Vec::new(),
            };
            let old = before.get(&key).copied();
            if !key.is_empty() && !seen.insert(key) {
                errors.duplicate(&at, item);
            }
            if let Some(items) = &self.items {
                items.check(item, old, &at, errors);
            }
        }
    }

    fn check_object(
        &self,
        map: &crate::Map,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
        errors: &mut ErrorList,
    ) {
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
            let why = format!("{} in body should have at least {min} properties", path);
            errors.invalid(path, value, why);
        }
        for (name, item) in map {
            if self.object && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            if let Some(schema) = self.value_schema(name) {
                schema.check(item, old.and_then(|o| o.get(name)), &path.child(name), errors);
            }
        }
    }

    /// What rules say of an object; `old` is its earlier state. Rules judge only what the schema itself takes.
    pub fn validate_rules(&self, value: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = ErrorList::new();
        if !self.has_rules {
            return errors;
        }
        let faults = old.map_or_else(|| self.validate(value), |old| self.validate_change(value, old));
        if !faults.is_empty() {
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
                let (keys, before) = (self.list_keys(), self.earlier(old));
                for (i, item) in list.iter().enumerate() {
                    let old =
                        if before.is_empty() { None } else { before.get(&key_of(item, &keys)).copied() };
                    items.judge(item, old, &path.index(i), run);
                }
            }
            _ => {}
        }
    }
}
