//! What a driver may say of its devices, and what may be said of them by a rule.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::common::*;
use super::super::podspec;
use super::claim::{EFFECTS, few_items, pool_name, qualified, unique};
use crate::field::{ErrorList, Path};
use crate::quantity::Quantity;
use crate::{Map, validate};

const NODE: &str = "`nodeName`";

/// Where devices are: exactly one of several ways to say it. Gives those that are used.
fn places(errors: &mut ErrorList, of: &Value, path: &Path, device: bool) -> Vec<&'static str> {
    let mut used = Vec::new();
    let (node, at) = (&of["nodeName"], path.child("nodeName"));
    if node == "" {
        let why =
            if device { "must not be empty" } else { "must be either unset or set to a non-empty string" };
        errors.invalid(&at, node, why);
    } else if !node.is_null() {
        used.push(NODE);
        each_why(errors, &at, node, validate::dns_subdomain);
    }
    let (selector, at) = (&of["nodeSelector"], path.child("nodeSelector"));
    if !selector.is_null() {
        used.push("`nodeSelector`");
        podspec::node_selector(errors, selector, &at, true);
        if !device && items(&selector["nodeSelectorTerms"]).len() != 1 {
            let at = at.child("nodeSelectorTerms");
            errors.invalid(&at, &selector["nodeSelectorTerms"], "must have exactly one node selector term");
        }
    }
    let flags: &[(&str, &str)] = if device {
        &[("allNodes", "`allNodes`")]
    } else {
        &[("allNodes", "`allNodes`"), ("perDeviceNodeSelection", "`perDeviceNodeSelection`")]
    };
    for (field, shown) in flags {
        if of[*field] == true {
            used.push(shown);
        } else if !of[*field].is_null() {
            errors.invalid(&path.child(field), &of[*field], "must be either unset or set to true");
        }
    }
    used
}

/// `before`: the spec that it changes. Taints of devices that were wrong may stay.
pub(super) fn check(errors: &mut ErrorList, spec: &Value, before: &Value) {
    let path = Path::new("spec");
    driver_name(errors, &path.child("driver"), text(&spec["driver"]));
    let (pool, at) = (&spec["pool"], path.child("pool"));
    pool_name(errors, &pool["name"], &at.child("name"));
    if int(&pool["resourceSliceCount"]) <= 0 {
        let shown = json!(int(&pool["resourceSliceCount"]));
        errors.invalid(&at.child("resourceSliceCount"), &shown, "must be greater than zero");
    }
    if int(&pool["generation"]) < 0 {
        errors.invalid(&at.child("generation"), &pool["generation"], "must be greater than or equal to zero");
    }
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    let used = places(errors, spec, &path, false);
    match used.len() {
        0 => errors.required(&path, ONE),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", used.join(", "));
            errors.invalid_str(&path, &shown, format!("{ONE}, but multiple fields are set"));
        }
    }
    if !spec["sharedCounters"].is_null() && !spec["devices"].is_null() {
        errors.invalid_str(&path, "", "only one of `sharedCounters` or `devices` is allowed");
    }
    let advanced = |d: &Value| !empty(&d["taints"]) || !empty(&d["consumesCounters"]) || has_lists(d);
    let most = if items(&spec["devices"]).iter().any(advanced) { 64 } else { 128 };
    let at = path.child("devices");
    let devices = few_items(errors, &spec["devices"], &at, most);
    let each_where = spec["perDeviceNodeSelection"] == true;
    for (i, device) in devices.iter().enumerate() {
        let old = items(&before["devices"]).iter().find(|old| old["name"] == device["name"]);
        check_device(errors, device, old, &at.index(i), each_where);
    }
    unique(errors, devices, &at, |device| device["name"].clone());
    let at = path.child("sharedCounters");
    let sets = few_items(errors, &spec["sharedCounters"], &at, 8);
    for (i, set) in sets.iter().enumerate() {
        counters(errors, set, "name", &at.index(i));
    }
    unique(errors, sets, &at, |set| set["name"].clone());
}

const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

fn has_lists(device: &Value) -> bool {
    let attributes = device["attributes"].as_object().into_iter().flat_map(Map::values);
    attributes.into_iter().any(|a| LISTS.iter().any(|list| !a[*list].is_null()))
}

/// Counters of a set that is named by `field`.
fn counters(errors: &mut ErrorList, set: &Value, field: &str, path: &Path) {
    if empty(&set[field]) {
        errors.required(&path.child(field), "");
    } else {
        each_why(errors, &path.child(field), &set[field], validate::dns_label);
    }
    let (counters, at) = (&set["counters"], path.child("counters"));
    let n = counters.as_object().map_or(0, Map::len);
    if n == 0 {
        errors.required(&at, "");
    } else if n > 32 {
        errors.too_many(&at, n, 32);
    } else {
        for name in counters.as_object().into_iter().flat_map(Map::keys) {
            each_why(errors, &at, &json!(name), validate::dns_label);
        }
    }
}

fn check_device(errors: &mut ErrorList, device: &Value, old: Option<&Value>, path: &Path, each_where: bool) {
    each_why(errors, &path.child("name"), &device["name"], validate::dns_label);
    let map = |field: &str| device[field].as_object().into_iter().flatten();
    let total = map("attributes").count() + map("capacity").count();
    if total > 32 {
        let why = "the total number of attributes and capacities must not exceed 32";
        errors.invalid(path, &json!(total), why);
    }
    let values = |a: &Value| LISTS.iter().map(|list| items(&a[*list]).len()).sum::<usize>().max(1);
    let total: usize = map("attributes").map(|(_, a)| values(a)).sum();
    if total > 48 {
        errors.invalid(path, &json!(total), "the total number of attribute values must not exceed 48");
    }
    let at = path.child("attributes");
    for (name, attribute) in map("attributes") {
        qualified(errors, name, &at);
        check_attribute(errors, attribute, &at.key(name));
    }
    let at = path.child("capacity");
    for (name, capacity) in map("capacity") {
        qualified(errors, name, &at);
        let (policy, at) = (&capacity["requestPolicy"], at.key(name).child("requestPolicy"));
        if !policy.is_null() && device["allowMultipleAllocations"] != true {
            errors.forbidden(&at, "allowMultipleAllocations must be true");
        } else if !policy.is_null() {
            check_policy(errors, &capacity["value"], policy, &at);
        }
    }
    let at = path.child("taints");
    if old.is_none_or(|old| old["taints"] != device["taints"]) {
        for (i, t) in few_items(errors, &device["taints"], &at, 16).iter().enumerate() {
            taint(errors, t, &Value::Null, &at.index(i));
        }
    }
    let at = path.child("consumesCounters");
    let consumed = few_items(errors, &device["consumesCounters"], &at, 2);
    for (i, set) in consumed.iter().enumerate() {
        counters(errors, set, "counterSet", &at.index(i));
    }
    unique(errors, consumed, &at, |set| set["counterSet"].clone());
    check_where(errors, device, path, each_where);
    binding(errors, device, path);
    check_mappings(errors, device, &path.child("nodeAllocatableResourceMappings"));
}

fn check_where(errors: &mut ErrorList, device: &Value, path: &Path, each_where: bool) {
    if !each_where {
        if ["nodeName", "nodeSelector", "allNodes"].iter().any(|field| !device[*field].is_null()) {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            errors.invalid(path, &Value::Null, why);
        }
        return;
    }
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    let used = places(errors, device, path, true);
    match used.len() {
        0 => errors.required(path, ONE),
        1 => {}
        _ => errors.invalid_str(path, &format!("{{{}}}", used.join(", ")), ONE),
    }
}

fn check_attribute(errors: &mut ErrorList, attribute: &Value, path: &Path) {
    let version = |errors: &mut ErrorList, at: &Path, value: &Value| {
        if semver::Version::parse(text(value)).is_err() {
            errors.invalid(at, value, "must be a string compatible with semver.org spec 2.0.0");
        }
    };
    let short = |errors: &mut ErrorList, at: &Path, value: &Value| {
        if text(value).len() > 64 {
            errors.too_long(at, 64);
        }
    };
    for (one, list) in [("string", "strings"), ("version", "versions")] {
        let mut given: Vec<(Path, &Value)> = Vec::new();
        if !attribute[one].is_null() {
            given.push((path.child(one), &attribute[one]));
        }
        given.extend(items(&attribute[list]).iter().enumerate().map(|(i, v)| (path.child(list).index(i), v)));
        for (at, value) in given {
            if one == "version" {
                version(errors, &at, value);
            }
            short(errors, &at, value);
        }
    }
    for list in LISTS.into_iter().filter(|list| attribute[*list].as_array().is_some_and(Vec::is_empty)) {
        errors.invalid(&path.child(list), &attribute[list], "must not be empty if specified");
    }
    let fields = ["bool", "int", "string", "version"].into_iter().chain(LISTS);
    match fields.filter(|field| !attribute[*field].is_null()).count() {
        0 => errors.invalid_str(path, "", "exactly one value must be specified"),
        1 => {}
        _ => errors.invalid(path, attribute, "exactly one value must be specified"),
    }
}

/// How much of a capacity can be asked for at a time.
fn check_policy(errors: &mut ErrorList, whole: &Value, policy: &Value, path: &Path) {
    let (values, range, default) = (items(&policy["validValues"]), &policy["validRange"], &policy["default"]);
    if !values.is_empty() && !range.is_null() {
        let why = "exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time";
        errors.forbidden(path, why);
        return;
    }
    let Ok(whole) = Quantity::of_value(whole) else { return };
    let kind = if values.is_empty() { "validRange" } else { "validValues" };
    if policy[kind].is_null() || kind == "validValues" && values.is_empty() {
        return;
    }
    let Ok(default) = Quantity::of_value(default) else {
        errors.required(&path.child("default"), format!("required when {kind} is defined"));
        return;
    };
    if kind == "validRange" {
        check_range(errors, whole, range, default, &path.child(kind));
        return;
    }
    let at = path.child(kind);
    let read: Vec<Quantity> = values.iter().filter_map(|v| Quantity::of_value(v).ok()).collect();
    for (i, pair) in read.windows(2).enumerate().filter(|(_, pair)| pair[0] > pair[1]) {
        let why = "values must be sorted in ascending order";
        errors.invalid_str(&at.index(i + 1), &pair[1].to_string(), why);
    }
    if values.len() > 10 {
        errors.too_many(&at, values.len(), 10);
    } else {
        for (i, value) in read.iter().enumerate().filter(|(_, value)| **value > whole) {
            let why = format!("option is larger than capacity value: {whole}");
            errors.invalid_str(&at.index(i), &value.to_string(), why);
        }
        unique(errors, values, &at, |v| json!(Quantity::of_value(v).map_or(0, Quantity::value).to_string()));
    }
    if !read.contains(&default) {
        let why = "default value is not valid according to the requestPolicy";
        errors.invalid_str(&at, &default.to_string(), why);
    }
}

fn check_range(errors: &mut ErrorList, whole: Quantity, range: &Value, default: Quantity, path: &Path) {
    let amount = |field: &str| Quantity::of_value(&range[field]).ok();
    let Some(min) = amount("min") else {
        errors.required(&path.child("min"), "required when validRange is defined");
        return;
    };
    let mut wrong = |field: &str, shown: Quantity, why: String| {
        errors.invalid_str(&path.child(field), &shown.to_string(), why);
    };
    if min > whole {
        wrong("min", min, format!("min is larger than capacity value: {whole}"));
    }
    if default < min {
        wrong("min", default, format!("default is less than min: {min}"));
    }
    let max = amount("max");
    if let Some(max) = max {
        if min > max {
            wrong("max", min, format!("min is larger than max: {max}"));
        }
        if max > whole {
            wrong("max", max, format!("max is larger than capacity value: {whole}"));
        }
        if default > max {
            wrong("max", default, format!("default is more than max: {max}"));
        }
    }
    let Some(step) = amount("step").filter(|step| step.value() != 0) else { return };
    let first = min.plus(step);
    if first > whole {
        wrong("step", step, format!("one step {first} is larger than capacity value: {whole}"));
    }
    for value in [Some(default), max].into_iter().flatten() {
        if value.value().saturating_sub(min.value()) % step.value() != 0 {
            wrong("step", value, format!("value is not a multiple of a given step ({step}) from ({min})"));
        }
    }
}

fn check_mappings(errors: &mut ErrorList, device: &Value, path: &Path) {
    let mappings = device["nodeAllocatableResourceMappings"].as_object().into_iter().flatten();
    for (name, mapping) in mappings {
        let at = path.key(name);
        if name.contains('/') && !name.contains("kubernetes.io/") {
            errors.invalid_str(&at, name, "must be a node allocatable resource name");
        }
        let (times, key) = (&mapping["allocationMultiplier"], &mapping["capacityKey"]);
        if times.is_null() && key.is_null() {
            errors.invalid_str(&at, "", "at least one of allocationMultiplier or capacityKey must be set");
        }
        if Quantity::of_value(times).is_ok_and(|q| q.signum() <= 0) {
            errors.invalid(&at.child("allocationMultiplier"), times, "must be positive");
        }
        if key == "" {
            errors.invalid(&at.child("capacityKey"), key, "capacityKey must not be an empty string");
        } else if !key.is_null() && device["capacity"][text(key)].is_null() {
            errors.not_found(&at.child("capacityKey"), key);
        }
    }
}

/// Conditions that a device must have before it is used, and those that say it never will.
pub(super) fn binding(errors: &mut ErrorList, of: &Value, path: &Path) {
    let [good, bad] = ["bindingConditions", "bindingFailureConditions"];
    for field in [good, bad] {
        let at = path.child(field);
        for (i, name) in few_items(errors, &of[field], &at, 4).iter().enumerate() {
            each_why(errors, &at.index(i), name, validate::qualified_name);
        }
    }
    unique(errors, items(&of[good]), &path.child(good), Value::clone);
    let mut seen = HashSet::new();
    for (i, name) in items(&of[bad]).iter().enumerate() {
        let at = path.child(bad).index(i);
        if !seen.insert(text(name)) {
            errors.duplicate(&at, name);
        }
        if items(&of[good]).contains(name) {
            let why = "bindingFailureConditions must not overlap with bindingConditions";
            errors.invalid(&at, name, why);
        }
    }
    for (one, other) in [(good, bad), (bad, good)] {
        if empty(&of[one]) && !empty(&of[other]) {
            errors.invalid(&path.child(one), &of[one], format!("{one} are required to use {other}"));
        }
    }
}

/// `before`: the taint that it changes. Its effect may stay.
fn taint(errors: &mut ErrorList, taint: &Value, before: &Value, path: &Path) {
    each_why(errors, &path.child("key"), &taint["key"], validate::qualified_name);
    each_why(errors, &path.child("value"), &taint["value"], validate::label_value);
    if before.is_null() || before["effect"] != taint["effect"] {
        one_of(errors, &path.child("effect"), &taint["effect"], &EFFECTS);
    }
}

pub(super) fn taint_rule(errors: &mut ErrorList, spec: &Value, before: &Value) {
    let path = Path::new("spec");
    let (selector, at) = (&spec["deviceSelector"], path.child("deviceSelector"));
    if !selector["driver"].is_null() {
        driver_name(errors, &at.child("driver"), text(&selector["driver"]));
    }
    if !selector["pool"].is_null() {
        pool_name(errors, &selector["pool"], &at.child("pool"));
    }
    if !selector["device"].is_null() {
        each_why(errors, &at.child("device"), &selector["device"], validate::dns_label);
    }
    taint(errors, &spec["taint"], before, &path.child("taint"));
}
