//! Small helpers that the declarations of this folder share.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::field::{ErrorList, FieldError, Path};
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

/// A field that was one once, and is the first item of a list now: what is said of one is said of both. Where they differ, the old
/// one counts, as somebody who knows only of it may have written it. `item`: from the field to an item, whose text is `ip` or itself.
pub(super) fn first_of_list(map: &mut Map, one: &str, list: &str, item: fn(Value) -> Value) {
    let first = map.get(list).and_then(|l| l.get(0)).map(|i| i.get("ip").unwrap_or(i).clone());
    match (map.get(one).filter(|v| !empty(v)).cloned(), first) {
        (Some(one), first) if first.as_ref() != Some(&one) => {
            map.insert(list.to_owned(), Value::Array(vec![item(one)]));
        }
        (None, Some(first)) => {
            map.insert(one.to_owned(), first);
        }
        _ => {}
    }
}

/// Are there of the two families of addresses, or of ranges of them, at most one each?
pub(super) fn one_of_each_family<'a>(given: impl Iterator<Item = &'a str>) -> bool {
    let (mut all, mut sixes) = (0, 0);
    for text in given {
        all += 1;
        sixes += u32::from(text.contains(':'));
    }
    all < 2 || all == 2 && sixes == 1
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

/// Says of a text each thing that a rule finds wrong with it.
pub(super) fn each_why(errors: &mut ErrorList, path: &Path, value: &Value, rule: fn(&str) -> Vec<String>) {
    for why in rule(text(value)) {
        errors.invalid_str(path, text(value), why);
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

/// A text that fits into a path of a URL.
pub(super) fn segment(text: &str) -> Vec<String> {
    validate::path_segment_name(text, false)
}

/// The conditions of kinds that have them in the form of meta/v1.
pub(super) fn check_conditions(errors: &mut ErrorList, conditions: &Value, path: &Path) {
    const REASON: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
    let mut types = HashSet::new();
    for (i, condition) in items(conditions).iter().enumerate() {
        let at = path.index(i);
        if !types.insert(text(&condition["type"])) {
            errors.duplicate(&at.child("type"), &condition["type"]);
        }
        each_why(errors, &at.child("type"), &condition["type"], validate::qualified_name);
        let words = ["False", "True", "Unknown"];
        if !words.contains(&text(&condition["status"])) {
            errors.not_supported(&at.child("status"), &json!(text(&condition["status"])), &words);
        }
        let seen = &condition["observedGeneration"];
        if int(seen) < 0 {
            errors.invalid(&at.child("observedGeneration"), seen, "must be greater than or equal to zero");
        }
        if empty(&condition["lastTransitionTime"]) {
            errors.required(&at.child("lastTransitionTime"), "");
        }
        let (reason, reason_at) = (text(&condition["reason"]), at.child("reason"));
        let form = reason.starts_with(|c: char| c.is_ascii_alphabetic())
            && reason.bytes().all(|c| c.is_ascii_alphanumeric() || b"_,:".contains(&c))
            && !reason.ends_with([',', ':']);
        if reason.is_empty() {
            errors.required(&reason_at, "");
        } else if !form {
            errors.invalid_str(&reason_at, reason, REASON);
        }
        for (field, most) in [("reason", 1 << 10), ("message", 32 << 10)] {
            if text(&condition[field]).len() > most {
                errors.too_long(&at.child(field), most);
            }
        }
    }
}

/// A domain and what is below it, as of a URL: `example.com/a/b`.
pub(super) fn domain_prefixed_path(errors: &mut ErrorList, path: &Path, given: &str) {
    if given.is_empty() {
        errors.required(path, "");
        return;
    }
    let Some((host, rest)) =
        given.split_once('/').filter(|(host, rest)| !host.is_empty() && !rest.is_empty())
    else {
        errors.invalid_str(path, given, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        return;
    };
    for why in validate::dns_subdomain(host) {
        errors.invalid_str(path, host, why);
    }
    if !rest.bytes().all(|c| c.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&c)) {
        let why = "Invalid path (regex used for validation is '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
        errors.invalid_str(path, rest, why);
    }
}

/// The name of a CSI driver.
pub(super) fn driver_name(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    if name.len() > 63 {
        errors.too_long(path, 63);
    }
    for why in validate::dns_subdomain(&name.to_lowercase()) {
        errors.invalid_str(path, name, why);
    }
}

/// What is wrong with a name.
pub(super) type NameRule = fn(&str) -> Vec<String>;

/// A LabelSelector.
pub(super) fn check_selector(errors: &mut ErrorList, path: &Path, selector: &Value) {
    for (key, value) in selector["matchLabels"].as_object().into_iter().flatten() {
        let at = path.child("matchLabels");
        for why in validate::qualified_name(key) {
            errors.invalid_str(&at, key, why);
        }
        for why in validate::label_value(text(value)) {
            errors.invalid(&at, value, why);
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

/// Whether it is about a value in a selector that no label can have.
pub(super) fn is_odd_value(e: &FieldError) -> bool {
    e.field.contains("].values[")
}

/// What is wrong with `new`, but for values in selectors that no label can have, where `old` has some.
pub(super) fn keeping_odd_values(new: ErrorList, old: &ErrorList) -> ErrorList {
    if old.0.iter().any(is_odd_value) { without_odd_values(new) } else { new }
}

/// All but what is wrong with values in selectors.
pub(super) fn without_odd_values(mut errors: ErrorList) -> ErrorList {
    errors.0.retain(|e| !is_odd_value(e));
    errors
}

/// A selector of pods, which must select those of the template. `of`: whose it is, as upstream calls it.
pub(super) fn check_template_selector(errors: &mut ErrorList, spec: &Value, of: &str) {
    let path = Path::new("spec");
    let (selector, at) = (&spec["selector"], path.child("selector"));
    let none = empty(&selector["matchLabels"]) && empty(&selector["matchExpressions"]);
    if selector.is_null() {
        errors.required(&at, "");
    } else {
        check_selector(errors, &at, selector);
        if none {
            errors.invalid(&at, selector, format!("empty selector is invalid for {of}"));
        }
    }
    if selector.is_null() || !none {
        check_selects(errors, spec);
    }
}

/// The labels of the template must be such as the selector selects.
pub(super) fn check_selects(errors: &mut ErrorList, spec: &Value) {
    let labels = &spec["template"]["metadata"]["labels"];
    if Label::from_selector(&spec["selector"]).is_ok_and(|selector| !selector.matches(labels)) {
        let path = Path::new("spec").child("template").child("metadata").child("labels");
        errors.invalid(&path, labels, "`selector` does not match template `labels`");
    }
}

/// Numbers that a controller counts: none of them is negative.
pub(super) fn check_counts(errors: &mut ErrorList, status: &Value, counts: &[&str]) {
    for field in counts {
        non_negative(errors, &Path::new("status").child(field), &status[*field]);
    }
}

/// There are not more of one count than of another. `shown`: what upstream calls the other.
pub(super) fn at_most(errors: &mut ErrorList, status: &Value, field: &str, most: &str, shown: &str) {
    if int(&status[field]) > int(&status[most]) {
        let at = Path::new("status").child(field);
        errors.invalid(&at, &json!(int(&status[field])), format!("cannot be greater than {shown}"));
    }
}

/// How often the name of what a controller made was taken already: that does not become less.
pub(super) fn check_collisions(errors: &mut ErrorList, new: &Value, old: &Value) {
    let (n, o) = (&new["status"]["collisionCount"], &old["status"]["collisionCount"]);
    if !o.is_null() && (n.is_null() || int(n) < int(o)) {
        let at = Path::new("status").child("collisionCount");
        errors.invalid(&at, &json!(int(n)), "cannot be decremented");
    }
}

/// Pods are called after the object.
pub(super) fn name_in_hostnames(obj: &Value) -> Vec<String> {
    let why = validate::dns_label(meta::name(obj));
    if why.is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
        why.join(" ")
    )]
}

/// How many bytes a base64 text stands for.
pub(super) fn decoded_len(base64: &str) -> usize {
    let padding = base64.bytes().rev().take_while(|b| *b == b'=').count();
    (base64.len() / 4 * 3).saturating_sub(padding)
}
