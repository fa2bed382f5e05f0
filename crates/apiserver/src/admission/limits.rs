//! LimitRanger: defaults and bounds for what pods and claims ask for, from the namespace's LimitRanges.

use api::quantity::Quantity;
use api::{Status, Value};
use async_trait::async_trait;
use serde_json::json;

use super::{Operation, Plugin, Review};

/// See the module.
pub struct LimitRanger;

fn amount(v: Option<&Value>) -> Option<Quantity> {
    v.and_then(|v| Quantity::of_value(v).ok())
}

/// The items of all LimitRanges of the namespace, with the names they come from.
fn items(r: &Review<'_>) -> Vec<Value> {
    let ranges = r.server.cache.kind("", "limitranges").all(r.namespace);
    let mut out = Vec::new();
    for range in ranges {
        for item in range.spec().get("limits").and_then(Value::as_array).into_iter().flatten() {
            let mut item = item.clone();
            item["from"] = json!(range.name());
            out.push(item);
        }
    }
    out
}

fn kind_of(item: &Value) -> &str {
    item.get("type").and_then(Value::as_str).unwrap_or("")
}

fn pairs<'a>(item: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    item.get(field).and_then(Value::as_object).into_iter().flatten()
}

/// Fills in a container's requests and limits, and says what it filled in.
fn default_container(container: &mut Value, item: &Value) -> (Vec<String>, Vec<String>) {
    let mut set = (Vec::new(), Vec::new());
    let resources = api::meta::child(container, "resources");
    for (name, value) in pairs(item, "default") {
        let limits = api::meta::entry(resources, "limits");
        if !limits.contains_key(name) {
            limits.insert(name.clone(), value.clone());
            set.1.push(name.clone());
        }
    }
    for (name, value) in pairs(item, "defaultRequest") {
        let limit = resources.get("limits").and_then(|l| l.get(name)).cloned();
        let given = set.1.contains(name);
        let requests = api::meta::entry(resources, "requests");
        if !requests.contains_key(name) {
            // Who set a limit and no request asked for as much as the limit.
            let value = match limit {
                Some(l) if !given => l,
                _ => value.clone(),
            };
            requests.insert(name.clone(), value);
            set.0.push(name.clone());
        }
    }
    for field in ["limits", "requests"] {
        if resources.get(field).and_then(Value::as_object).is_some_and(api::Map::is_empty) {
            resources.shift_remove(field);
        }
    }
    set
}

/// What is wrong with asked-for amounts under one item.
fn check(item: &Value, what: &str, requests: &Value, limits: &Value, errors: &mut Vec<String>) {
    for (name, min) in pairs(item, "min") {
        let (request, limit) = (amount(requests.get(name)), amount(limits.get(name)));
        let Some(min_q) = amount(Some(min)) else { continue };
        match (request, limit) {
            (None, _) => errors
                .push(format!("minimum {name} usage per {what} is {}.  No request is specified", text(min))),
            (Some(q), _) if q < min_q => errors.push(format!(
                "minimum {name} usage per {what} is {}, but request is {}",
                text(min),
                text(&requests[name])
            )),
            (_, Some(q)) if q < min_q => errors.push(format!(
                "minimum {name} usage per {what} is {}, but limit is {}",
                text(min),
                text(&limits[name])
            )),
            _ => {}
        }
    }
    for (name, max) in pairs(item, "max") {
        let (request, limit) = (amount(requests.get(name)), amount(limits.get(name)));
        let Some(max_q) = amount(Some(max)) else { continue };
        match (request, limit) {
            (_, None) if what != "PersistentVolumeClaim" => {
                errors.push(format!(
                    "maximum {name} usage per {what} is {}.  No limit is specified",
                    text(max)
                ));
            }
            (_, Some(q)) if q > max_q => errors.push(format!(
                "maximum {name} usage per {what} is {}, but limit is {}",
                text(max),
                text(&limits[name])
            )),
            (Some(q), _) if q > max_q => errors.push(format!(
                "maximum {name} usage per {what} is {}, but request is {}",
                text(max),
                text(&requests[name])
            )),
            _ => {}
        }
    }
    for (name, ratio) in pairs(item, "maxLimitRequestRatio") {
        let (Some(request), Some(limit)) = (amount(requests.get(name)), amount(limits.get(name))) else {
            errors.push(format!(
                "{name} max limit to request ratio per {what} is {}, but no request or limit is specified",
                text(ratio)
            ));
            continue;
        };
        let (observed, allowed) =
            (limit.as_f64() / request.as_f64(), amount(Some(ratio)).map_or(f64::INFINITY, Quantity::as_f64));
        if observed > allowed {
            errors.push(format!(
                "{name} max limit to request ratio per {what} is {}, but provided ratio is {observed:.6}",
                text(ratio)
            ));
        }
    }
}

fn text(v: &Value) -> String {
    v.as_str().map_or_else(|| v.to_string(), str::to_owned)
}

/// A pod's requests or limits in sum.
fn pod_sums(pod: &Value, field: &str) -> Value {
    let sums = api::quota::pod_amounts(pod, field);
    sums.into_iter().map(|(name, q)| (name, json!(q.to_string()))).collect()
}

/// Whether a write asks for amounts: those of a pod are changed through `resize` alone, which gets no defaults.
fn bounds(resource: &str, subresource: &str, operation: Operation) -> bool {
    match (resource, subresource) {
        ("pods", "") => operation == Operation::Create,
        ("pods", "resize") => operation == Operation::Update,
        ("persistentvolumeclaims", "") => matches!(operation, Operation::Create | Operation::Update),
        _ => false,
    }
}

const CONTAINERS: [&str; 2] = ["initContainers", "containers"];

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        r.gvr.group.is_empty()
            && bounds(&r.gvr.resource, r.subresource, r.operation)
            && !r.server.cache.kind("", "limitranges").is_empty()
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        if !r.is("pods") {
            return Ok(());
        }
        let mut notes = Vec::new();
        for item in items(r).iter().filter(|i| kind_of(i) == "Container") {
            for (list, word) in CONTAINERS.iter().zip(["init container", "container"]) {
                let spec = api::meta::child(r.object, "spec");
                for c in spec.get_mut(*list).and_then(Value::as_array_mut).into_iter().flatten() {
                    let (requests, limits) = default_container(c, item);
                    let name = c.get("name").map(text).unwrap_or_default();
                    if !requests.is_empty() {
                        notes.push(format!("{} request for {word} {name}", requests.join(", ")));
                    }
                    if !limits.is_empty() {
                        notes.push(format!("{} limit for {word} {name}", limits.join(", ")));
                    }
                }
            }
        }
        if !notes.is_empty() {
            let text = format!("LimitRanger plugin set: {}", notes.join("; "));
            api::meta::set_annotation(r.object, "kubernetes.io/limit-ranger", text);
        }
        Ok(())
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let mut errors = Vec::new();
        let empty = json!({});
        for item in items(r) {
            match (kind_of(&item), r.gvr.resource.as_ref()) {
                ("Container", "pods") => {
                    let spec = r.object.get("spec").unwrap_or(&empty);
                    for list in CONTAINERS {
                        for c in spec.get(list).and_then(Value::as_array).into_iter().flatten() {
                            let of = |f: &str| c.pointer(&format!("/resources/{f}")).unwrap_or(&empty);
                            check(&item, "Container", of("requests"), of("limits"), &mut errors);
                        }
                    }
                }
                ("Pod", "pods") => {
                    let (requests, limits) = (pod_sums(r.object, "requests"), pod_sums(r.object, "limits"));
                    check(&item, "Pod", &requests, &limits, &mut errors);
                }
                ("PersistentVolumeClaim", "persistentvolumeclaims") => {
                    let requests = r.object.pointer("/spec/resources/requests").unwrap_or(&empty);
                    check(&item, "PersistentVolumeClaim", requests, &empty, &mut errors);
                }
                _ => {}
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        let why = if errors.len() == 1 { errors.remove(0) } else { format!("[{}]", errors.join(", ")) };
        Err(r.forbidden(why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_asks_for_amounts_is_bounded() {
        use Operation::{Create, Delete, Update};
        for (resource, subresource, operation, want) in [
            ("pods", "", Create, true),
            ("pods", "", Update, false),
            ("pods", "resize", Update, true),
            ("pods", "status", Update, false),
            ("pods", "eviction", Create, false),
            ("persistentvolumeclaims", "", Update, true),
            ("persistentvolumeclaims", "status", Update, false),
            ("persistentvolumeclaims", "", Delete, false),
        ] {
            assert_eq!(bounds(resource, subresource, operation), want, "{resource}/{subresource}");
        }
    }

    #[test]
    fn defaults_and_bounds() {
        let item = json!({"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m"},
            "max": {"cpu": "1"}, "min": {"cpu": "50m"}});
        let mut c = json!({"name": "a"});
        default_container(&mut c, &item);
        assert_eq!(c["resources"], json!({"limits": {"cpu": "500m"}, "requests": {"cpu": "100m"}}));
        let mut limited = json!({"name": "a", "resources": {"limits": {"cpu": "300m"}}});
        default_container(&mut limited, &item);
        assert_eq!(limited["resources"]["requests"]["cpu"], "300m");
        let mut errors = Vec::new();
        check(&item, "Container", &json!({"cpu": "100m"}), &json!({"cpu": "2"}), &mut errors);
        assert_eq!(errors, ["maximum cpu usage per Container is 1, but limit is 2"]);
        errors.clear();
        check(&item, "Container", &json!({"cpu": "10m"}), &json!({"cpu": "1"}), &mut errors);
        assert_eq!(errors, ["minimum cpu usage per Container is 50m, but request is 10m"]);
    }
}
