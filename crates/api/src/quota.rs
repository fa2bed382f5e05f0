//! What a ResourceQuota counts: how much of what an object uses, and which objects a quota looks at.

use std::collections::BTreeMap;

use serde_json::json;

use crate::quantity::{Format, Quantity};
use crate::{Gvr, Value};

/// Amounts by resource name.
pub type Amounts = BTreeMap<String, Quantity>;

fn amount(v: &Value) -> Option<Quantity> {
    Quantity::of_value(v).ok()
}

/// The amounts in a map of quantities; what is none is left out.
pub fn amounts(v: Option<&Value>) -> Amounts {
    let map = v.and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(k, v)| Some((k.clone(), amount(v)?))).collect()
}

fn one() -> Quantity {
    Quantity::of(1, Format::Decimal)
}

/// Adds an amount.
pub fn add(into: &mut Amounts, name: &str, q: Quantity) {
    let sum = into.get(name).map_or(q, |s| s.plus(q));
    into.insert(name.to_owned(), sum);
}

/// What an object uses of what quotas count.
pub fn usage(gvr: &Gvr, object: &Value) -> Amounts {
    let mut out = Amounts::new();
    let qualified = crate::status::qualified(&gvr.group, &gvr.resource);
    add(&mut out, &format!("count/{qualified}"), one());
    let text = |p: &str| object.pointer(p).and_then(Value::as_str).unwrap_or("");
    match (&*gvr.group, &*gvr.resource) {
        ("", "pods") => {
            if matches!(text("/status/phase"), "Succeeded" | "Failed") {
                return out;
            }
            add(&mut out, "pods", one());
            pod_compute(object, &mut out);
        }
        ("", "services") => {
            add(&mut out, "services", one());
            let ports = object.pointer("/spec/ports").and_then(Value::as_array).map_or(0, Vec::len);
            let ports = i64::try_from(ports).unwrap_or(0);
            let balancer = text("/spec/type") == "LoadBalancer";
            if balancer {
                add(&mut out, "services.loadbalancers", one());
            }
            let without = object.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&json!(false));
            if text("/spec/type") == "NodePort" || balancer && !without {
                add(&mut out, "services.nodeports", Quantity::of(ports, Format::Decimal));
            }
        }
        ("", "persistentvolumeclaims") => {
            add(&mut out, "persistentvolumeclaims", one());
            let class = text("/spec/storageClassName").to_owned();
            let per_class = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
            if !class.is_empty() {
                add(&mut out, &per_class("persistentvolumeclaims"), one());
            }
            if let Some(q) = object.pointer("/spec/resources/requests/storage").and_then(amount) {
                add(&mut out, "requests.storage", q);
                if !class.is_empty() {
                    add(&mut out, &per_class("requests.storage"), q);
                }
            }
        }
        ("", name @ ("configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas")) => {
            add(&mut out, name, one());
        }
        _ => {}
    }
    out
}

/// Requests and limits of a pod: the sum of its containers (and sidecars), or the largest init container if that is more.
fn pod_compute(pod: &Value, out: &mut Amounts) {
    for (field, plain) in [("requests", true), ("limits", false)] {
        let mut sums = Amounts::new();
        let of = |c: &Value| amounts(c.pointer(&format!("/resources/{field}")));
        let list = |name: &str| {
            pod.pointer(&format!("/spec/{name}")).and_then(Value::as_array).cloned().unwrap_or_default()
        };
        for c in list("containers") {
            for (k, q) in of(&c) {
                add(&mut sums, &k, q);
            }
        }
        for c in list("initContainers") {
            if c.get("restartPolicy").and_then(Value::as_str) == Some("Always") {
                for (k, q) in of(&c) {
                    add(&mut sums, &k, q);
                }
                continue;
            }
            for (k, q) in of(&c) {
                if sums.get(&k).is_none_or(|s| *s < q) {
                    sums.insert(k, q);
                }
            }
        }
        for (k, q) in amounts(pod.pointer("/spec/overhead")) {
            if plain || sums.contains_key(&k) {
                add(&mut sums, &k, q);
            }
        }
        for (k, q) in sums {
            add(out, &format!("{field}.{k}"), q);
            if plain && matches!(k.as_str(), "cpu" | "memory" | "ephemeral-storage") {
                add(out, &k, q);
            }
        }
    }
}

fn is_best_effort(pod: &Value) -> bool {
    !["requests", "limits"].iter().any(|f| {
        ["containers", "initContainers"].iter().any(|list| {
            let items = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
            items.into_iter().flatten().any(|c| {
                let given = amounts(c.pointer(&format!("/resources/{f}")));
                given.iter().any(|(k, q)| matches!(k.as_str(), "cpu" | "memory") && !q.is_zero())
            })
        })
    })
}

/// Whether a quota with these scopes counts the object.
pub fn in_scope(quota: &Value, gvr: &Gvr, object: &Value) -> bool {
    let mut scopes: Vec<Value> = Vec::new();
    for s in quota.get("scopes").and_then(Value::as_array).into_iter().flatten() {
        scopes.push(json!({"scopeName": s, "operator": "Exists"}));
    }
    let more = quota.pointer("/scopeSelector/matchExpressions").and_then(Value::as_array);
    scopes.extend(more.into_iter().flatten().cloned());
    if scopes.is_empty() {
        return true;
    }
    if gvr.resource != "pods" || !gvr.group.is_empty() {
        return false;
    }
    let text = |v: &Value, f: &str| v.get(f).and_then(Value::as_str).unwrap_or("").to_owned();
    scopes.iter().all(|s| match text(s, "scopeName").as_str() {
        "BestEffort" => is_best_effort(object),
        "NotBestEffort" => !is_best_effort(object),
        name @ ("Terminating" | "NotTerminating") => {
            let ends = object.pointer("/spec/activeDeadlineSeconds").is_some_and(|v| !v.is_null());
            ends == (name == "Terminating")
        }
        "PriorityClass" => {
            let class = object.pointer("/spec/priorityClassName").and_then(Value::as_str).unwrap_or("");
            let values: Vec<&str> = s
                .get("values")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .collect();
            match text(s, "operator").as_str() {
                "In" => values.contains(&class),
                "NotIn" => !values.contains(&class),
                "DoesNotExist" => class.is_empty(),
                _ => !class.is_empty(),
            }
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_uses() {
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}},
            {"resources": {"requests": {"cpu": "200m", "memory": "1Gi"}}}], "initContainers": [{"resources": {"requests": {"cpu": "250m"}}}]}});
        let used = usage(&Gvr::new("", "v1", "pods"), &pod);
        let text = |name: &str| used.get(name).map(ToString::to_string).unwrap_or_default();
        assert_eq!(
            (text("pods"), text("requests.cpu"), text("limits.cpu"), text("memory")),
            ("1".into(), "300m".into(), "1".into(), "1Gi".into())
        );
        let mut ended = pod.clone();
        ended["status"]["phase"] = "Failed".into();
        assert!(!usage(&Gvr::new("", "v1", "pods"), &ended).contains_key("pods"));
        let quota = json!({"scopes": ["NotBestEffort", "NotTerminating"]});
        assert!(in_scope(&quota, &Gvr::new("", "v1", "pods"), &pod));
        assert!(!in_scope(&quota, &Gvr::new("", "v1", "secrets"), &pod));
    }
}
