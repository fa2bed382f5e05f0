//! What a claim to devices may say, and what may be said of it.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::super::common::*;
use super::super::podspec;
use crate::cel::Program;
use crate::field::{ErrorList, Path};
use crate::{meta, validate};

/// How many requests, constraints, configurations, selectors and results there may be.
const MOST: usize = 32;

/// The items of a list, unless there are too many: then that is what is wrong.
pub(super) fn few_items<'a>(
    errors: &mut ErrorList,
    list: &'a Value,
    path: &Path,
    most: usize,
) -> &'a [Value] {
    let list = items(list);
    if list.len() > most {
        errors.too_many(path, list.len(), most);
        return &[];
    }
    list
}

/// Tells what occurs in a list more than once.
pub(super) fn unique(errors: &mut ErrorList, list: &[Value], path: &Path, key: fn(&Value) -> Value) {
    let mut seen = HashSet::new();
    for (i, item) in list.iter().enumerate() {
        let key = key(item);
        if !seen.insert(key.to_string()) {
            errors.duplicate(&path.index(i), &key);
        }
    }
}

fn name_of(item: &Value) -> Value {
    item["name"].clone()
}

/// The names of requests, each with those of its alternatives.
struct Names<'a>(HashMap<&'a str, HashSet<&'a str>>);

impl<'a> Names<'a> {
    fn of(devices: &'a Value) -> Names<'a> {
        let names = items(&devices["requests"]).iter().map(|request| {
            let alternatives = items(&request["firstAvailable"]).iter().map(|a| text(&a["name"]));
            (text(&request["name"]), alternatives.collect())
        });
        Names(names.collect())
    }

    fn check(&self, errors: &mut ErrorList, name: &Value, path: &Path) {
        const UNKNOWN: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        let parts: Vec<&str> = text(name).split('/').collect();
        if parts.len() <= 2 {
            for part in &parts {
                each_why(errors, path, &json!(part), validate::dns_label);
            }
        }
        let known = match parts.as_slice() {
            [request] => self.0.contains_key(request),
            [request, of] => self.0.get(request).is_some_and(|all| all.contains(of)),
            _ => false,
        };
        if !known {
            errors.invalid(path, name, UNKNOWN);
        }
    }

    fn check_all(&self, errors: &mut ErrorList, of: &Value, path: &Path) {
        let at = path.child("requests");
        let list = few_items(errors, &of["requests"], &at, MOST);
        for (i, name) in list.iter().enumerate() {
            self.check(errors, name, &at.index(i));
        }
        unique(errors, list, &at, Value::clone);
    }
}

pub(super) fn devices(errors: &mut ErrorList, devices: &Value, path: &Path) {
    let at = path.child("requests");
    let requests = few_items(errors, &devices["requests"], &at, MOST);
    for (i, request) in requests.iter().enumerate() {
        check_request(errors, request, &at.index(i));
    }
    unique(errors, requests, &at, name_of);
    let names = Names::of(devices);
    let at = path.child("constraints");
    for (i, constraint) in few_items(errors, &devices["constraints"], &at, MOST).iter().enumerate() {
        check_constraint(errors, constraint, &at.index(i), &names);
    }
    each_config(errors, &devices["config"], &path.child("config"), MOST, |errors, config, at| {
        names.check_all(errors, config, at);
    });
}

fn check_request(errors: &mut ErrorList, request: &Value, path: &Path) {
    each_why(errors, &path.child("name"), &request["name"], validate::dns_label);
    let (exactly, any) = (&request["exactly"], &request["firstAvailable"]);
    match (exactly.is_null(), empty(any)) {
        (true, true) => {
            errors.required(path, "exactly one of `exactly` or `firstAvailable` is required");
        }
        (false, false) => {
            let why = "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set";
            errors.invalid(path, &Value::Null, why);
        }
        (false, true) => check_wanted(errors, exactly, &path.child("exactly")),
        (true, false) => {
            let at = path.child("firstAvailable");
            let list = few_items(errors, any, &at, 8);
            for (i, wanted) in list.iter().enumerate() {
                let at = at.index(i);
                each_why(errors, &at.child("name"), &wanted["name"], validate::dns_label);
                check_wanted(errors, wanted, &at);
            }
            unique(errors, list, &at, name_of);
        }
    }
}

fn check_wanted(errors: &mut ErrorList, wanted: &Value, path: &Path) {
    let (class, at) = (&wanted["deviceClassName"], path.child("deviceClassName"));
    if empty(class) {
        errors.required(&at, "");
    } else {
        each_why(errors, &at, class, validate::dns_subdomain);
    }
    selectors(errors, &wanted["selectors"], &path.child("selectors"));
    let (mode, count, at) = (&wanted["allocationMode"], &wanted["count"], path.child("count"));
    match text(mode) {
        "All" if int(count) != 0 => {
            errors.invalid(&at, count, "must not be specified when allocationMode is 'All'");
        }
        "ExactCount" if int(count) <= 0 => {
            errors.invalid(&at, &json!(int(count)), "must be greater than zero");
        }
        "All" | "ExactCount" => {}
        _ => errors.not_supported(&path.child("allocationMode"), mode, &["All", "ExactCount"]),
    }
    for (i, toleration) in items(&wanted["tolerations"]).iter().enumerate() {
        check_toleration(errors, toleration, &path.child("tolerations").index(i));
    }
}

pub(super) const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

fn check_toleration(errors: &mut ErrorList, toleration: &Value, path: &Path) {
    if !empty(&toleration["key"]) {
        each_why(errors, &path.child("key"), &toleration["key"], validate::qualified_name);
    }
    let (value, at) = (&toleration["value"], path.child("value"));
    match text(&toleration["operator"]) {
        "Exists" if !empty(value) => errors.invalid(&at, value, "must be empty for operator `Exists`"),
        "Exists" => {}
        "Equal" => each_why(errors, &at, value, validate::label_value),
        "" => errors.required(&path.child("operator"), ""),
        _ => errors.not_supported(&path.child("operator"), &toleration["operator"], &["Equal", "Exists"]),
    }
    let effect = &toleration["effect"];
    if !empty(effect) && !EFFECTS.contains(&text(effect)) {
        errors.not_supported(&path.child("effect"), effect, &EFFECTS);
    }
}

/// By what devices are chosen.
pub(super) fn selectors(errors: &mut ErrorList, list: &Value, path: &Path) {
    const MOST_BYTES: usize = 10 << 10;
    for (i, selector) in few_items(errors, list, path, MOST).iter().enumerate() {
        let at = path.index(i).child("cel");
        if selector["cel"].is_null() {
            errors.required(&at, "");
            continue;
        }
        let (expression, at) = (text(&selector["cel"]["expression"]), at.child("expression"));
        if expression.len() > MOST_BYTES {
            errors.too_long(&at, MOST_BYTES);
        } else if let Err(why) = Program::parse(expression) {
            errors.invalid_str(&at, expression, format!("compilation failed: {why}"));
        }
    }
}

fn check_constraint(errors: &mut ErrorList, constraint: &Value, path: &Path, names: &Names<'_>) {
    names.check_all(errors, constraint, path);
    let given = ["matchAttribute", "distinctAttribute"].into_iter().find(|f| !constraint[*f].is_null());
    let Some(field) = given else {
        // So upstream tells it.
        let why = "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set";
        errors.required(path, why);
        return;
    };
    let (attribute, at) = (text(&constraint[field]), path.child(field));
    qualified(errors, attribute, &at);
    if !attribute.contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errors.invalid_str(&at, attribute, why);
    }
}

/// The name of an attribute or a capacity, with or without the domain it is at home in.
pub(super) fn qualified(errors: &mut ErrorList, name: &str, path: &Path) {
    let parts: Vec<&str> = name.split('/').collect();
    let own = match parts.as_slice() {
        [own] => own,
        [domain, own] => {
            if domain.is_empty() {
                errors.invalid_str(path, "", "the domain must not be empty");
            } else {
                driver_name(errors, path, domain);
            }
            if own.is_empty() {
                errors.invalid_str(path, "", "the name must not be empty");
                return;
            }
            own
        }
        _ => return,
    };
    if own.len() > 32 {
        errors.too_long(path, 32);
    }
    let form = own.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && own.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    if !form {
        let why = "a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')";
        errors.invalid_str(path, own, why);
    }
}

/// Checks configurations; `more`: what is said in each beside it.
pub(super) fn each_config(
    errors: &mut ErrorList,
    list: &Value,
    path: &Path,
    most: usize,
    more: impl Fn(&mut ErrorList, &Value, &Path),
) {
    for (i, config) in few_items(errors, list, path, most).iter().enumerate() {
        let (at, opaque) = (path.index(i), &config["opaque"]);
        more(errors, config, &at);
        let opaque_at = at.child("opaque");
        if opaque.is_null() {
            errors.required(&opaque_at, "");
            continue;
        }
        driver_name(errors, &opaque_at.child("driver"), text(&opaque["driver"]));
        raw(errors, &opaque["parameters"], &opaque_at.child("parameters"));
    }
}

/// An object of whatever kind, in ten kilobytes at most.
fn raw(errors: &mut ErrorList, value: &Value, path: &Path) {
    const MOST_BYTES: usize = 10 << 10;
    match value {
        Value::Null => errors.required(path, ""),
        _ if value.to_string().len() > MOST_BYTES => errors.too_long(path, MOST_BYTES),
        Value::Object(_) => {}
        _ => errors.invalid_str(path, "<value omitted>", "must be a valid JSON object"),
    }
}

/// What the metadata of a template may say.
pub(super) fn template_metadata(errors: &mut ErrorList, metadata: &Value, path: &Path) {
    errors.append(super::super::rules::annotations(&metadata["annotations"], &path.child("annotations")));
    errors.append(super::super::rules::labels(&metadata["labels"], &path.child("labels")));
    for (field, value) in metadata.as_object().into_iter().flatten() {
        let unset = empty(value) || field == "creationTimestamp";
        if !unset && !["annotations", "labels"].contains(&field.as_str()) {
            errors.forbidden(&path.child(field), "cannot be set");
        }
    }
}

/// What tells an allocated device from all others.
fn device_key(device: &Value) -> [&str; 4] {
    ["driver", "pool", "device", "shareID"].map(|field| text(&device[field]))
}

/// How a device is shown in an error.
fn device_shown(device: &Value) -> Value {
    let [driver, pool, name, share] = device_key(device);
    json!({"Driver": driver, "Pool": pool, "Device": name, "ShareID": share})
}

fn allocated(status: &Value) -> HashSet<[&str; 4]> {
    items(&status["allocation"]["devices"]["results"]).iter().map(device_key).collect()
}

/// With its allocation goes what was told of a device.
pub(super) fn drop_deallocated(new: &mut Value, old: &Value) {
    let keys = |status: &Value| -> HashSet<[String; 4]> {
        allocated(status).into_iter().map(|key| key.map(str::to_owned)).collect()
    };
    let (had, has) = (keys(&old["status"]), keys(&new["status"]));
    let status = meta::child(new, "status");
    if let Some(devices) = status.get_mut("devices").and_then(Value::as_array_mut) {
        devices.retain(|device| {
            let key = device_key(device).map(str::to_owned);
            !had.contains(&key) || has.contains(&key)
        });
        if devices.is_empty() {
            status.shift_remove("devices");
        }
    }
}

pub(super) fn status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (n, o, path) = (&new["status"], &old["status"], Path::new("status"));
    let at = path.child("reservedFor");
    let users = few_items(&mut errors, &n["reservedFor"], &at, 256);
    for (i, user) in users.iter().enumerate() {
        for field in ["resource", "name", "uid"].into_iter().filter(|field| empty(&user[*field])) {
            errors.required(&at.index(i).child(field), "");
        }
    }
    unique(&mut errors, users, &at, |user| user["uid"].clone());
    let (devices, devices_at) = (items(&n["devices"]), path.child("devices"));
    let known = allocated(n);
    for (i, device) in devices.iter().enumerate() {
        let at = devices_at.index(i);
        check_device(&mut errors, device, &at);
        if !known.contains(&device_key(device)) {
            let why = "must be an allocated device in the claim";
            errors.invalid(&at, &device_shown(device), why);
        }
    }
    unique(&mut errors, devices, &devices_at, device_shown);
    if !users.is_empty() && n["allocation"].is_null() {
        errors.forbidden(&at, "may not be specified when `allocated` is not set");
    } else if meta::is_deleting(new) && users.iter().any(|user| !items(&o["reservedFor"]).contains(user)) {
        let why = "new entries may not be added while `deallocationRequested` or `deletionTimestamp` are set";
        errors.forbidden(&at, why);
    }
    let (allocation, before, at) = (&n["allocation"], &o["allocation"], path.child("allocation"));
    if !allocation.is_null() && !before.is_null() {
        immutable(&mut errors, &at, allocation, before);
    } else if !allocation.is_null() {
        check_allocation(&mut errors, allocation, &at, &Names::of(&new["spec"]["devices"]));
    }
    errors
}

pub(super) fn pool_name(errors: &mut ErrorList, name: &Value, path: &Path) {
    if empty(name) {
        errors.required(path, "");
        return;
    }
    if text(name).len() > 253 {
        errors.too_long(path, 253);
    }
    for part in text(name).split('/') {
        each_why(errors, path, &json!(part), validate::dns_subdomain);
    }
}

/// A device, by its driver, pool and name.
fn which(errors: &mut ErrorList, device: &Value, path: &Path) {
    driver_name(errors, &path.child("driver"), text(&device["driver"]));
    pool_name(errors, &device["pool"], &path.child("pool"));
    each_why(errors, &path.child("device"), &device["device"], validate::dns_label);
}

fn check_device(errors: &mut ErrorList, device: &Value, path: &Path) {
    which(errors, device, path);
    let (conditions, at) = (&device["conditions"], path.child("conditions"));
    if items(conditions).len() > 8 {
        errors.too_many(&at, items(conditions).len(), 8);
    }
    check_conditions(errors, conditions, &at);
    if !device["data"].is_null() {
        raw(errors, &device["data"], &path.child("data"));
    }
    let (network, at) = (&device["networkData"], path.child("networkData"));
    for (field, most) in [("interfaceName", 256), ("hardwareAddress", 128)] {
        if text(&network[field]).len() > most {
            errors.too_long(&at.child(field), most);
        }
    }
    let at = at.child("ips");
    let ips = few_items(errors, &network["ips"], &at, 16);
    for (i, ip) in ips.iter().enumerate() {
        let why = match text(ip).parse::<ipnet::IpNet>() {
            Err(_) => "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)".to_owned(),
            Ok(net) if net.to_string() != text(ip) => format!("must be in canonical form (\"{net}\")"),
            Ok(_) => continue,
        };
        errors.invalid(&at.index(i), ip, why);
    }
    unique(errors, ips, &at, Value::clone);
}

fn check_allocation(errors: &mut ErrorList, allocation: &Value, path: &Path, names: &Names<'_>) {
    let (devices, at) = (&allocation["devices"], path.child("devices"));
    let results_at = at.child("results");
    for (i, result) in few_items(errors, &devices["results"], &results_at, MOST).iter().enumerate() {
        let at = results_at.index(i);
        names.check(errors, &result["request"], &at.child("request"));
        which(errors, result, &at);
        super::slice::binding(errors, result, &at);
    }
    each_config(errors, &devices["config"], &at.child("config"), 2 * MOST, |errors, config, at| {
        let sources = ["FromClaim", "FromClass"];
        one_of(errors, &at.child("source"), &config["source"], &sources);
        names.check_all(errors, config, at);
    });
    podspec::node_selector(errors, &allocation["nodeSelector"], &path.child("nodeSelector"), true);
}
