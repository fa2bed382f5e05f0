//! LimitRanger: defaults and bounds for what pods and claims ask for, from the namespace's LimitRanges.

use std::sync::Arc;

use api::meta::items;
use api::quantity::Quantity;
use api::quota::{Amounts, amounts, container_amounts};
use api::{Object, Status, Value};
use async_trait::async_trait;

use super::{Operation, Plugin, Review};

/// See the module.
pub struct LimitRanger;

fn amount(v: Option<&Value>) -> Option<Quantity> {
    v.and_then(|v| Quantity::of_value(v).ok())
}

fn kind_of(item: &Value) -> &str {
    item.get("type").and_then(Value::as_str).unwrap_or("")
}

/// What a range says of resources, by their names.
fn pairs<'a>(item: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, Quantity)> {
    let map = item.get(field).and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(name, v)| Some((name, amount(Some(v))?)))
}

/// What a range gives to containers that ask for nothing: requests and limits, by the names of resources.
fn defaults(range: &Value) -> [api::Map; 2] {
    let mut out = [api::Map::new(), api::Map::new()];
    for item in items(range, "/spec/limits").filter(|i| kind_of(i) == "Container") {
        for (into, field) in out.iter_mut().zip(["defaultRequest", "default"]) {
            into.extend(item.get(field).and_then(Value::as_object).cloned().unwrap_or_default());
        }
    }
    out
}

/// Fills in what a container leaves out, and says what it filled in.
fn complete(container: &mut Value, defaults: &[api::Map; 2], word: &str, notes: &mut Vec<String>) {
    let name = container.get("name").and_then(Value::as_str).unwrap_or("").to_owned();
    let resources = api::meta::child(container, "resources");
    for (given, (field, what)) in defaults.iter().zip([("requests", "request"), ("limits", "limit")]) {
        if given.is_empty() {
            continue;
        }
        let has = api::meta::entry(resources, field);
        let mut set = Vec::new();
        for (name, value) in given {
            if !has.contains_key(name) {
                has.insert(name.clone(), value.clone());
                set.push(name.as_str());
            }
        }
        if !set.is_empty() {
            set.sort_unstable();
            notes.push(format!("{} {what} for {word} {name}", set.join(", ")));
        }
    }
}

/// What is wrong with asked-for amounts under one item.
fn check(item: &Value, what: &str, requests: &Amounts, limits: &Amounts, errors: &mut Vec<String>) {
    // Of claims nobody looks at limits.
    let claim = what == "PersistentVolumeClaim";
    for (name, min) in pairs(item, "min") {
        let at_least = format!("minimum {name} usage per {what} is {min}");
        match (requests.get(name), limits.get(name)) {
            (None, _) => errors.push(format!("{at_least}.  No request is specified")),
            (Some(q), _) if *q < min => errors.push(format!("{at_least}, but request is {q}")),
            (_, Some(q)) if *q < min => errors.push(format!("{at_least}, but limit is {q}")),
            _ => {}
        }
    }
    for (name, max) in pairs(item, "max") {
        let at_most = format!("maximum {name} usage per {what} is {max}");
        match (requests.get(name), limits.get(name)) {
            (None, _) if claim => errors.push(format!("{at_most}.  No request is specified")),
            (_, None) if !claim => errors.push(format!("{at_most}.  No limit is specified")),
            (_, Some(q)) if *q > max => errors.push(format!("{at_most}, but limit is {q}")),
            (Some(q), _) if *q > max => errors.push(format!("{at_most}, but request is {q}")),
            _ => {}
        }
    }
    for (name, most) in pairs(item, "maxLimitRequestRatio").filter(|_| !claim) {
        let at_most = format!("{name} max limit to request ratio per {what} is {most}");
        let some = |of: &Amounts| of.get(name).copied().filter(|q| !q.is_zero());
        match (some(requests), some(limits)) {
            (None, _) => errors.push(format!("{at_most}, but no request is specified or request is 0")),
            (_, None) => errors.push(format!("{at_most}, but no limit is specified or limit is 0")),
            (Some(request), Some(limit)) => {
                let ratio = limit.as_f64() / request.as_f64();
                if ratio > most.as_f64() {
                    errors.push(format!("{at_most}, but provided ratio is {ratio:.6}"));
                }
            }
        }
    }
}

/// A pod's requests or limits in sum: what it has of cpu and memory as a whole, or else its containers.
fn pod_sums(pod: &Value, field: &str) -> Amounts {
    let mut sums = container_amounts(pod, field);
    let whole = amounts(pod.pointer(&format!("/spec/resources/{field}")));
    sums.extend(whole.into_iter().filter(|(name, _)| matches!(name.as_str(), "cpu" | "memory")));
    sums
}

/// What is wrong with an object under a range, each thing once.
fn violations(range: &Value, resource: &str, object: &Value) -> Vec<String> {
    let mut errors = Vec::new();
    let of = |v: &Value, pointer: &str| amounts(v.pointer(pointer));
    for item in items(range, "/spec/limits") {
        match (kind_of(item), resource) {
            (what @ "Container", "pods") => {
                for c in CONTAINERS.iter().flat_map(|(list, _)| items(object, list)) {
                    let (requests, limits) = (of(c, "/resources/requests"), of(c, "/resources/limits"));
                    check(item, what, &requests, &limits, &mut errors);
                }
            }
            (what @ "Pod", "pods") => {
                let (requests, limits) = (pod_sums(object, "requests"), pod_sums(object, "limits"));
                check(item, what, &requests, &limits, &mut errors);
            }
            (what @ "PersistentVolumeClaim", "persistentvolumeclaims") => {
                let requests = of(object, "/spec/resources/requests");
                check(item, what, &requests, &Amounts::new(), &mut errors);
            }
            _ => {}
        }
    }
    let mut seen = std::collections::HashSet::new();
    errors.retain(|e| seen.insert(e.clone()));
    errors
}

/// Whether a write asks for amounts: those of a pod are changed through `resize` alone.
fn bounds(resource: &str, subresource: &str, operation: Operation) -> bool {
    match (resource, subresource) {
        ("pods", "") => operation == Operation::Create,
        ("pods", "resize") => operation == Operation::Update,
        ("persistentvolumeclaims", "") => matches!(operation, Operation::Create | Operation::Update),
        _ => false,
    }
}

/// The lists of a pod's containers, and how messages call what is in them.
const CONTAINERS: [(&str, &str); 2] =
    [("/spec/containers", "container"), ("/spec/initContainers", "init container")];

/// The ranges that a write is held to: none if what it changes is going anyway.
fn ranges(r: &Review<'_>) -> Vec<Arc<Object>> {
    if r.old.is_some_and(api::meta::is_deleting) {
        return Vec::new();
    }
    r.server.cache.kind("", "limitranges").all(r.namespace)
}

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
        if r.gvr.resource != "pods" {
            return Ok(());
        }
        for range in ranges(r) {
            let defaults = defaults(range.value());
            let mut notes = Vec::new();
            for (list, word) in CONTAINERS {
                for c in r.object.pointer_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
                    complete(c, &defaults, word, &mut notes);
                }
            }
            if !notes.is_empty() {
                let text = format!("LimitRanger plugin set: {}", notes.join("; "));
                api::meta::set_annotation(r.object, "kubernetes.io/limit-ranger", text);
            }
        }
        Ok(())
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        // The first that has something against it is heard.
        for range in ranges(r) {
            let errors = violations(range.value(), &r.gvr.resource, r.object);
            match errors.as_slice() {
                [] => {}
                [one] => return Err(r.forbidden(one)),
                more => return Err(r.forbidden(format!("[{}]", more.join(", ")))),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
    fn what_is_left_out_is_filled_in() {
        let range = json!({"spec": {"limits": [
            {"type": "Container", "default": {"memory": "1Gi", "cpu": "500m"}, "defaultRequest": {"cpu": "100m"}},
            {"type": "Pod", "max": {"cpu": "1"}},
            {"type": "Container", "defaultRequest": {"cpu": "200m"}}]}});
        let limited = json!({"limits": {"cpu": "300m"}, "requests": {"cpu": "300m"}});
        for (resources, want, notes) in [
            (
                json!({}),
                json!({"requests": {"cpu": "200m"}, "limits": {"memory": "1Gi", "cpu": "500m"}}),
                json!(["cpu request for init container a", "cpu, memory limit for init container a"]),
            ),
            (
                limited,
                json!({"requests": {"cpu": "300m"}, "limits": {"cpu": "300m", "memory": "1Gi"}}),
                json!(["memory limit for init container a"]),
            ),
        ] {
            let mut c = json!({"name": "a", "resources": resources});
            let mut said = Vec::new();
            complete(&mut c, &defaults(&range), "init container", &mut said);
            assert_eq!((&c["resources"], json!(said)), (&want, notes));
        }
        let mut c = json!({"name": "a"});
        complete(&mut c, &defaults(&json!({})), "container", &mut Vec::new());
        assert_eq!(c, json!({"name": "a", "resources": {}}));
    }

    #[test]
    fn what_is_wrong_is_told_once() {
        let c = |request: Value, limit: Value| json!({"resources": {"requests": {"cpu": request}, "limits": {"cpu": limit}}});
        let pod = |containers: Value, init: Value, whole: Value| json!({"spec": {"containers": containers, "initContainers": init, "resources": whole}});
        let two = |one: Value| pod(json!([one]), json!([one]), json!(null));
        let claim = |requests: Value| json!({"spec": {"resources": {"requests": requests}}});
        let (container, of_pod) = ("Container", "Pod");
        let storage = json!({"storage": "1"});
        for (kind, bound, object, want) in [
            (
                container,
                json!({"max": {"cpu": "1"}}),
                two(c(json!("100m"), json!("2"))),
                vec!["maximum cpu usage per Container is 1, but limit is 2"],
            ),
            (
                container,
                json!({"max": {"cpu": "1"}}),
                two(json!({})),
                vec!["maximum cpu usage per Container is 1.  No limit is specified"],
            ),
            (
                container,
                json!({"min": {"cpu": "0.05"}}),
                two(c(json!("10m"), json!("1"))),
                vec!["minimum cpu usage per Container is 50m, but request is 10m"],
            ),
            (
                container,
                json!({"min": {"cpu": "1"}, "max": {"cpu": "2"}}),
                two(json!({})),
                vec![
                    "minimum cpu usage per Container is 1.  No request is specified",
                    "maximum cpu usage per Container is 2.  No limit is specified",
                ],
            ),
            (
                container,
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                two(c(json!("0"), json!("1"))),
                vec![
                    "cpu max limit to request ratio per Container is 2, but no request is specified or request is 0",
                ],
            ),
            (
                container,
                json!({"maxLimitRequestRatio": {"cpu": "2"}}),
                two(c(json!("1"), json!("0"))),
                vec![
                    "cpu max limit to request ratio per Container is 2, but no limit is specified or limit is 0",
                ],
            ),
            (
                container,
                json!({"maxLimitRequestRatio": {"cpu": "1500m"}}),
                two(c(json!("1"), json!("3"))),
                vec!["cpu max limit to request ratio per Container is 1500m, but provided ratio is 3.000000"],
            ),
            (
                of_pod,
                json!({"max": {"cpu": "2"}}),
                pod(json!([c(json!("1"), json!("1"))]), json!([]), json!({"limits": {"cpu": "3"}})),
                vec!["maximum cpu usage per Pod is 2, but limit is 3"],
            ),
            (
                "PersistentVolumeClaim",
                json!({"max": storage}),
                claim(json!({})),
                vec!["maximum storage usage per PersistentVolumeClaim is 1.  No request is specified"],
            ),
            (
                "PersistentVolumeClaim",
                json!({"max": storage, "maxLimitRequestRatio": storage}),
                claim(json!({"storage": "2"})),
                vec!["maximum storage usage per PersistentVolumeClaim is 1, but request is 2"],
            ),
            ("PersistentVolumeClaim", json!({"max": storage}), claim(json!({"storage": "1"})), vec![]),
        ] {
            let mut item = bound;
            item["type"] = json!(kind);
            let resource = if kind == "PersistentVolumeClaim" { "persistentvolumeclaims" } else { "pods" };
            let range = json!({"spec": {"limits": [item]}});
            assert_eq!(violations(&range, resource, &object), want, "{range} {object}");
        }
    }
}
