//! Small helpers that the declarations of this folder share.

use serde_json::{Value, json};

use crate::field::{ErrorList, Path};
use crate::selector::Label;
use crate::{Map, duration, meta, validate};

pub(super) use crate::table::{Column, Columns, age_cell};
pub(super) use jiff::Timestamp;

/// Sets a field that is absent or null.
pub(super) fn set(map: &mut Map, key: &str, value: impl Into<Value>) {
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), value.into());
    }
}

/// As [`set`]; an empty text counts as absent.
pub(super) fn set_text(map: &mut Map, key: &str, value: &str) {
    if map.get(key).and_then(Value::as_str).is_none_or(str::is_empty) {
        map.insert(key.to_owned(), Value::String(value.to_owned()));
    }
}

/// The object at `key`, if there is one.
pub(super) fn sub<'a>(map: &'a mut Map, key: &str) -> Option<&'a mut Map> {
    map.get_mut(key)?.as_object_mut()
}

/// The objects in the list at `key`.
pub(super) fn each<'a>(map: &'a mut Map, key: &str) -> impl Iterator<Item = &'a mut Map> {
    map.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The items of a list; none where there is no list.
pub(super) fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Text, `""` if it is none.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Number, 0 if it is none.
pub(super) fn int(value: &Value) -> i64 {
    value.as_i64().unwrap_or(0)
}

/// Is it absent, null or empty?
pub(super) fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(s) => s.is_empty(),
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    }
}

/// Text or `<none>`.
pub(super) fn or_none(text: &str) -> Value {
    json!(if text.is_empty() { "<none>" } else { text })
}

/// The name cell.
pub(super) fn name_cell(obj: &Value) -> Value {
    json!(meta::name(obj))
}

/// `5m ago`-like age of a time in a field.
pub(super) fn since(value: &Value, now: Timestamp) -> String {
    duration::age(text(value).parse().ok(), now)
}

/// Names and images of a pod spec's containers, as the wide columns show them.
pub(super) fn containers_cells(spec: &Value) -> [Value; 2] {
    let column = |field: &str| {
        items(&spec["containers"]).iter().map(|c| text(&c[field])).collect::<Vec<_>>().join(",")
    };
    [json!(column("name")), json!(column("image"))]
}

/// A LabelSelector as a cell.
pub(super) fn selector_cell(selector: &Value) -> Value {
    let label = match Label::from_selector(selector) {
        Ok(l) if !selector.is_null() => l.to_string(),
        _ => String::new(),
    };
    or_none(&label)
}

/// The first three of a list, and how many more there are.
pub(super) fn few(list: Vec<String>, none: &str) -> String {
    match list.len() {
        0 => none.to_owned(),
        n if n > 3 => format!("{} + {} more...", list.get(..3).unwrap_or_default().join(","), n - 3),
        _ => list.join(","),
    }
}

/// Says that a field must not change.
pub(super) fn immutable(errors: &mut ErrorList, path: &Path, new: &Value, old: &Value) {
    if new != old {
        errors.invalid(path, new, "field is immutable");
    }
}

/// A number that must not be negative.
pub(super) fn non_negative(errors: &mut ErrorList, path: &Path, value: &Value) {
    if int(value) < 0 {
        errors.invalid(path, value, "must be greater than or equal to 0");
    }
}

/// A text that must be one of a few.
pub(super) fn one_of(errors: &mut ErrorList, path: &Path, value: &Value, supported: &[&str]) {
    if !supported.contains(&text(value)) {
        if text(value).is_empty() && !supported.contains(&"") {
            errors.required(path, "");
        } else {
            errors.not_supported(path, value, supported);
        }
    }
}

/// A LabelSelector.
pub(super) fn check_selector(errors: &mut ErrorList, path: &Path, selector: &Value) {
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        let at = path.child("matchLabels");
        for why in validate::qualified_name(key) {
            errors.invalid_str(&at, key, why);
        }
        for why in validate::label_value(text(value)) {
            errors.invalid(&at.key(key), value, why);
        }
    }
    for (i, e) in items(&selector["matchExpressions"]).iter().enumerate() {
        let at = path.child("matchExpressions").index(i);
        let none = empty(&e["values"]);
        match text(&e["operator"]) {
            "In" | "NotIn" if none => {
                errors.required(&at.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !none => {
                errors.forbidden(
                    &at.child("values"),
                    "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.invalid(&at.child("operator"), &e["operator"], "not a valid selector operator"),
        }
        for why in validate::qualified_name(text(&e["key"])) {
            errors.invalid(&at.child("key"), &e["key"], why);
        }
        for (j, v) in items(&e["values"]).iter().enumerate() {
            for why in validate::label_value(text(v)) {
                errors.invalid(&at.child("values").index(j), v, why);
            }
        }
    }
}

/// The pod template's labels must satisfy the selector, and the selector must not be empty.
pub(super) fn check_template_selector(errors: &mut ErrorList, spec: &Value) {
    let path = Path::new("spec");
    let selector = &spec["selector"];
    if selector.is_null() {
        errors.required(&path.child("selector"), "");
        return;
    }
    check_selector(errors, &path.child("selector"), selector);
    if empty(&selector["matchLabels"]) && empty(&selector["matchExpressions"]) {
        errors.invalid(&path.child("selector"), selector, "empty selector is invalid for deployment");
        return;
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if let Ok(label) = Label::from_selector(selector)
        && !label.matches(labels)
    {
        let path = path.child("template").child("metadata").child("labels");
        errors.invalid(&path, labels, "`selector` does not match template `labels`");
    }
}
