//! What a compiled schema says of objects: what is left out is filled in, and what is wrong is named, by the schema and by its
//! rules.

use std::collections::HashMap;

use serde_json::Value;

use super::super::rules;
use super::{Structural, flag, text};
use crate::cel;
use crate::field::{ErrorList, ErrorType, FieldError, Path, quote, show};
use crate::patch::identity;
use crate::schema::ListType;
use crate::{meta, validate};

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
                            values.fill_in_place(v);
                        }
                    }
                }
            }
            Value::Array(list) => {
                if let Some(items) = &self.items {
                    list.iter_mut().for_each(|v| items.fill_in_place(v));
                }
            }
            _ => {}
        }
    }

    /// The same of an entry of a list or map, which is the default itself where it is a null and may be none.
    fn fill_in_place(&self, value: &mut Value) {
        if let Some(default) = self.default_value().filter(|_| value.is_null() && !self.nullable) {
            *value = default.clone();
        }
        self.fill_in(value);
    }

    /// What is wrong with an object.
    pub fn validate(&self, value: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check(value, None, &Path::root(), &mut errors);
        self.check_objects(value, &Path::root(), &mut errors);
        self.check_keys(value, &Path::root(), &mut errors);
        errors
    }

    /// What is wrong with an object that was `old` before. Values that have not changed are taken as they are, so that a
    /// schema that has become stricter does not stand in the way of other changes; lists may go on having items of one key.
    pub fn validate_change(&self, value: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check(value, Some(old), &Path::root(), &mut errors);
        self.check_objects(value, &Path::root(), &mut errors);
        let (mut before, mut twice) = (ErrorList::new(), ErrorList::new());
        self.check_keys(value, &Path::root(), &mut twice);
        if !twice.is_empty() {
            self.check_keys(old, &Path::root(), &mut before);
        }
        if before.is_empty() {
            errors.append(twice);
        }
        errors
    }

    /// What is wrong with the status of an object, which alone may have changed.
    pub fn validate_status(&self, value: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let status = self.properties.get("status").zip(value.get("status"));
        if let Some((schema, status)) = status {
            schema.check(status, old.get("status"), &Path::new("status"), &mut errors);
        }
        let (mut before, mut twice) = (ErrorList::new(), ErrorList::new());
        self.check_keys(value, &Path::root(), &mut twice);
        if !twice.is_empty() {
            self.check_keys(old, &Path::root(), &mut before);
        }
        if before.is_empty() {
            errors.append(twice);
        }
        errors
    }

    /// Objects within the object have to say what they are.
    pub(super) fn check_objects(&self, value: &Value, path: &Path, errors: &mut ErrorList) {
        if errors.is_full() {
            return;
        }
        match value {
            Value::Object(map) => {
                if self.embedded {
                    self.check_embedded(value, path, errors);
                }
                for (name, item) in map {
                    if let Some(schema) = self.properties.get(name) {
                        schema.check_objects(item, &path.child(name), errors);
                    } else if let Some(schema) = &self.additional {
                        schema.check_objects(item, &path.key(name), errors);
                    }
                }
            }
            Value::Array(list) => {
                let Some(items) = &self.items else { return };
                for (i, item) in list.iter().enumerate() {
                    items.check_objects(item, &path.index(i), errors);
                }
            }
            _ => {}
        }
    }

    /// What an object within another one says of itself.
    pub(super) fn check_embedded(&self, value: &Value, path: &Path, errors: &mut ErrorList) {
        let Some(map) = value.as_object().filter(|_| self.embedded) else { return };
        for field in ["apiVersion", "kind"] {
            let at = path.child(field);
            match map.get(field) {
                None => errors.required(&at, ""),
                Some(Value::String(s)) if s.is_empty() => errors.invalid_str(&at, s, "must not be empty"),
                Some(Value::String(s)) if field == "apiVersion" => {
                    if s.matches('/').count() > 1 {
                        errors.invalid_str(&at, s, format!("unexpected GroupVersion string: {s}"));
                    }
                }
                Some(Value::String(s)) => {
                    let faults = validate::dns_1035_label(&s.to_lowercase());
                    if !faults.is_empty() {
                        let why = "may have mixed case, but should otherwise match:";
                        errors.invalid_str(&at, s, format!("{why} {}", faults.join(",")));
                    }
                }
                Some(other) => errors.invalid(&at, other, "must be a string"),
            }
        }
        let (at, metadata) = (path.child("metadata"), meta::of(value));
        for field in ["name", "generateName", "namespace"] {
            let name = text(metadata, field);
            let faults = match field {
                "namespace" => validate::dns_label(name),
                _ => validate::path_segment_name(name, field == "generateName"),
            };
            for why in faults.into_iter().filter(|_| !name.is_empty()) {
                errors.invalid_str(&at.child(field), name, why);
            }
        }
        if let Some(generation) = metadata["generation"].as_i64().filter(|n| *n < 0) {
            let why = "must be greater than or equal to 0";
            errors.invalid(&at.child("generation"), &Value::from(generation), why);
        }
        errors.append(rules::metadata_parts(metadata, &at));
        for (i, entry) in metadata["managedFields"].as_array().into_iter().flatten().enumerate() {
            let at = at.child("managedFields").index(i);
            let (operation, fields) = (text(entry, "operation"), text(entry, "fieldsType"));
            match operation {
                "Apply" | "Update" => {}
                "" => errors.required(&at.child("operation"), "must not be empty"),
                _ => errors.not_supported(
                    &at.child("operation"),
                    &Value::from(operation),
                    &["Apply", "Update"],
                ),
            }
            if !matches!(fields, "" | "FieldsV1") {
                errors.invalid_str(&at.child("fieldsType"), fields, "must be `FieldsV1`");
            }
        }
    }

    /// What a list says more than once that says each thing once.
    fn check_keys(&self, value: &Value, path: &Path, errors: &mut ErrorList) {
        if errors.is_full() {
            return;
        }
        match value {
            Value::Object(map) => {
                for (name, item) in map {
                    if let Some(schema) = self.properties.get(name) {
                        schema.check_keys(item, &path.child(name), errors);
                    } else if let Some(schema) = &self.additional {
                        schema.check_keys(item, &path.key(name), errors);
                    }
                }
            }
            Value::Array(list) => {
                let keys = self.list_keys();
                let list_type = self.list_type();
                if list_type == ListType::Map
                    && let Some((i, item)) =
                        list.iter().enumerate().find(|(_, item)| !item.is_null() && !item.is_object())
                {
                    let why = "must be an object for an array of list-type map";
                    errors.invalid(&path.index(i), item, why);
                    return;
                }
                let mut seen: HashMap<Vec<String>, usize> = HashMap::new();
                for (i, item) in list.iter().enumerate().filter(|_| list_type != ListType::Atomic) {
                    let key =
                        if list_type == ListType::Map { key_of(item, &keys) } else { vec![identity(item)] };
                    let times = seen.entry(key).or_default();
                    *times += 1;
                    if *times == 2 {
                        let shown = match list_type {
                            ListType::Map => {
                                let own = |k: &&&str| item.get(**k).is_some();
                                keys.iter().filter(own).map(|k| ((*k).to_owned(), item[*k].clone())).collect()
                            }
                            _ => item.clone(),
                        };
                        errors.duplicate(&path.index(i), &shown);
                    }
                }
                let Some(items) = &self.items else { return };
                for (i, item) in list.iter().enumerate() {
                    items.check_keys(item, &path.index(i), errors);
                }
            }
            _ => {}
        }
    }

    /// Says what is wrong with a value. Where its earlier state is known and the same, nothing is. Returns how much of it was
    /// looked at, by which upstream tells which of several schemas is meant.
    pub(super) fn check(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
        errors: &mut ErrorList,
    ) -> usize {
        if old == Some(value) || errors.is_full() {
            return 0;
        }
        let wrong_type = |errors: &mut ErrorList, is: &str| {
            let why = format!("{} in body must be of type {}: \"{is}\"", path, self.types());
            errors.push(ErrorType::TypeInvalid, path, Some(quote(is)), why);
        };
        let allowed = self.raw.get("enum").and_then(Value::as_array);
        if let Some(allowed) = allowed.filter(|a| !a.is_empty() && !a.contains(value)) {
            let texts: Vec<String> =
                allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
            errors.not_supported(path, value, &texts.iter().map(String::as_str).collect::<Vec<_>>());
        }
        if value.is_null() {
            if !self.nullable && !self.types().is_empty() {
                wrong_type(errors, "null");
            }
            return 2;
        }
        let mut looked = 4;
        if !self.is_of_type(value) {
            wrong_type(
                errors,
                match value {
                    Value::Object(_) => "object",
                    Value::Array(_) => "array",
                    Value::String(_) => "string",
                    Value::Bool(_) => "boolean",
                    Value::Number(n) if n.is_f64() => "number",
                    Value::Number(_) => "integer",
                    Value::Null => "null",
                },
            );
        } else if !self.types().is_empty() {
            looked += 1;
        }
        looked += self.check_junctors(value, path, errors);
        match value {
            Value::String(s) => self.check_text(s, value, path, errors),
            Value::Number(_) => self.check_number(value, path, errors),
            Value::Array(list) => looked += self.check_list(list, old, path, errors),
            Value::Object(map) => looked += self.check_object(map, old, path, errors),
            _ => {}
        }
        looked
    }

    /// The types it may have, as errors name them.
    fn types(&self) -> &str {
        if self.int_or_string { "integer,string" } else { &self.kind }
    }

    /// What these say is of the whole value, which has changed.
    fn check_junctors(&self, value: &Value, path: &Path, errors: &mut ErrorList) -> usize {
        let mut looked = 0;
        let say = |errors: &mut ErrorList, why: &str| {
            let why = format!("{} {why}", quote(&path.to_string()));
            errors.push(ErrorType::Invalid, &Path::new("<nil>"), Some("\"\"".into()), why);
        };
        let judged = |s: &Structural| {
            let mut errors = ErrorList::new();
            let looked = s.check(value, None, path, &mut errors);
            (errors, looked)
        };
        // Of those that fail the one that is most likely meant says why.
        let nearest = |failed: Vec<(ErrorList, usize)>| {
            failed.into_iter().reduce(|best, next| if next.1 > best.1 { next } else { best })
        };
        if !self.any.is_empty() {
            let mut failed = Vec::new();
            let fits = self.any.iter().any(|s| {
                let (errors, n) = judged(s);
                let good = errors.is_empty();
                failed.push((errors, n));
                good
            });
            if fits {
                looked += failed.pop().map_or(0, |(_, n)| n);
            } else {
                say(errors, "must validate at least one schema (anyOf)");
                if let Some((why, n)) = nearest(failed) {
                    looked += n;
                    errors.append(why);
                }
            }
        }
        if !self.one.is_empty() {
            let (good, failed): (Vec<_>, Vec<_>) =
                self.one.iter().map(judged).partition(|(errors, _)| errors.is_empty());
            if good.len() == 1 {
                looked += good[0].1;
            } else {
                let found = match good.len() {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                say(errors, &format!("must validate one and only one schema (oneOf). {found}"));
                if let Some((why, n)) = nearest(failed).filter(|_| good.is_empty()) {
                    looked += n;
                    errors.append(why);
                }
            }
        }
        let mut good = 0;
        for schema in &self.all {
            let (why, n) = judged(schema);
            looked += n;
            good += usize::from(why.is_empty());
            errors.append(why);
        }
        if good < self.all.len() {
            let none = if good == 0 { ". None validated" } else { "" };
            say(errors, &format!("must validate all the schemas (allOf){none}"));
        }
        if self.not.as_deref().is_some_and(|s| judged(s).0.is_empty()) {
            say(errors, "must not validate the schema (not)");
        }
        looked
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
        } else if let Some(min) = self.limit("minLength").filter(|min| length < *min) {
            say(errors, format!("should be at least {min} chars long"));
        } else if self.pattern.as_ref().is_some_and(|p| !p.is_match(s)) {
            say(errors, format!("should match '{}'", text(&self.raw, "pattern")));
        }
        let format = text(&self.raw, "format");
        if !super::format::fits(format, s) {
            let why = format!("{} in body must be of type {format}: {}", path, show(value));
            errors.push(ErrorType::TypeInvalid, path, Some(show(value)), why);
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

    fn check_list(&self, list: &[Value], old: Option<&Value>, path: &Path, errors: &mut ErrorList) -> usize {
        let mut looked = 2;
        if let Some(items) = &self.items {
            let (keys, before) = (self.list_keys(), self.earlier(old));
            for (i, item) in list.iter().enumerate() {
                let old = if before.is_empty() { None } else { before.get(&key_of(item, &keys)).copied() };
                looked += items.check(item, old, &path.index(i), errors);
            }
        }
        if let Some(min) = self.limit("minItems").filter(|min| list.len() < *min) {
            let why = format!("{} in body should have at least {min} items", path);
            errors.invalid(path, &list.len().into(), why);
        }
        if let Some(max) = self.limit("maxItems").filter(|max| list.len() > *max) {
            errors.too_many(path, list.len(), max);
        }
        looked
    }

    fn check_object(
        &self,
        map: &crate::Map,
        old: Option<&Value>,
        path: &Path,
        errors: &mut ErrorList,
    ) -> usize {
        let mut looked = 1;
        if let Some(min) = self.limit("minProperties").filter(|min| map.len() < *min) {
            let why = format!("{} in body should have at least {min} properties", path);
            errors.invalid(path, &map.len().into(), why);
        }
        if let Some(max) = self.limit("maxProperties").filter(|max| map.len() > *max) {
            errors.too_many(path, map.len(), max);
        }
        for (name, item) in map {
            if let Some(schema) = self.value_schema(name) {
                let old = old.and_then(|o| o.get(name));
                looked += schema.check(item, old, &path.child(name), errors);
            } else if self.open == Some(false) {
                let why = format!("{}.{name} in body is a forbidden property", path);
                errors.push(ErrorType::Invalid, path, Some("\"\"".into()), why);
            }
        }
        for name in self.raw.get("required").and_then(Value::as_array).into_iter().flatten() {
            let name = name.as_str().unwrap_or_default();
            if !map.contains_key(name) {
                errors.required(&path.child(name), "");
            }
        }
        looked
    }

    /// What rules say of an object; `old` is its earlier state. Rules judge only what the schema itself takes: `faults` is
    /// what that says.
    pub fn validate_rules(&self, value: &Value, old: Option<&Value>, faults: &ErrorList) -> ErrorList {
        let mut errors = ErrorList::new();
        if !self.has_rules {
            return errors;
        }
        let blocking = |e: &FieldError| {
            matches!(
                e.kind,
                ErrorType::NotSupported
                    | ErrorType::Required
                    | ErrorType::TooLong
                    | ErrorType::TooMany
                    | ErrorType::TypeInvalid
            )
        };
        if faults.0.iter().any(blocking) {
            errors.push(
                ErrorType::Invalid,
                &Path::new("<nil>"),
                Some("null".into()),
                "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation",
            );
            return errors;
        }
        let mut run = cel::Run::new(&mut errors);
        // Metadata of which the schema says nothing is never the same: rules of the whole object always hold.
        self.judge(value, old, false, &Path::root(), &mut run);
        errors
    }

    /// What rules say of a default: as of what is there anew, and of what was there before.
    pub(super) fn judge_default(&self, default: &Value, path: &Path, errors: &mut ErrorList) {
        let mut run = cel::Run::anew(errors);
        self.judge(default, Some(default), false, path, &mut run);
        if run.errors.is_empty() {
            self.judge(default, None, false, path, &mut run);
        }
    }

    /// `same`: this value, or what it is in, is as it was before.
    fn judge(&self, value: &Value, old: Option<&Value>, same: bool, path: &Path, run: &mut cel::Run<'_>) {
        if !self.has_rules || value.is_null() {
            return;
        }
        let old = old.filter(|o| !o.is_null());
        for rule in &self.rules {
            rule.run(self, value, old, same, path, run);
        }
        let ratchets = run.ratchets;
        let stays = |old: Option<&Value>, item: &Value| same || ratchets && old == Some(item);
        match value {
            Value::Object(map) => {
                for (name, item) in map {
                    let Some(schema) = self.value_schema(name) else { continue };
                    let old = old.and_then(|o| o.get(name));
                    // A property is spelled with a dot, an entry of a map with its key in brackets.
                    let path = if self.is_map() { path.key(name) } else { path.child(name) };
                    let same = stays(old, item);
                    schema.judge(item, old, same, &path, run);
                }
            }
            Value::Array(list) => {
                let Some(items) = &self.items else { return };
                let (keys, before) = (self.list_keys(), self.earlier(old));
                for (i, item) in list.iter().enumerate() {
                    let old =
                        if before.is_empty() { None } else { before.get(&key_of(item, &keys)).copied() };
                    let same = stays(old, item);
                    items.judge(item, old, same, &path.index(i), run);
                }
            }
            _ => {}
        }
    }
}
