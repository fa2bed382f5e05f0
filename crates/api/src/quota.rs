//! What a ResourceQuota counts: how much of what an object uses, and which objects a quota looks at.

use std::collections::BTreeMap;

use serde_json::json;

use crate::quantity::{Format, Quantity};
use crate::{Gvr, Value};

/// What is counted that is of a known sort: only of these is known in which scopes they can be.
pub const COUNTED: [&str; 19] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// Is it one of the names that a resource may have without a domain?
pub fn is_standard(name: &str) -> bool {
    COUNTED.contains(&name) || name == "storage" || is_huge_pages(name)
}

/// Are these pages of memory of a certain size, or what is requested of them?
pub fn is_huge_pages(name: &str) -> bool {
    name.strip_prefix("requests.").unwrap_or(name).starts_with("hugepages-")
}

/// Is it a resource of a node that Kubernetes knows nothing of, so that it comes in whole pieces?
pub fn is_extended(name: &str) -> bool {
    name.contains('/')
        && !name.contains("kubernetes.io/")
        && !name.starts_with("requests.")
        && crate::validate::qualified_name(&format!("requests.{name}")).is_empty()
}

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

/// The `requests` or `limits` of a pod without its overhead: the sum of its containers (and sidecars), or what the pod needs
/// while one of its init containers runs, if that is more.
pub fn pod_amounts(pod: &Value, field: &str) -> Amounts {
    let of = |c: &Value| amounts(c.pointer(&format!("/resources/{field}")));
    let list =
        |name: &str| pod.pointer(&format!("/spec/{name}")).and_then(Value::as_array).into_iter().flatten();
    let mut sums = Amounts::new();
    for (k, q) in list("containers").flat_map(of) {
        add(&mut sums, &k, q);
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for c in list("initContainers") {
        let mut then = sidecars.clone();
        let sidecar = c.get("restartPolicy").and_then(Value::as_str) == Some("Always");
        for (k, q) in of(c) {
            add(&mut then, &k, q);
            if sidecar {
                add(&mut sums, &k, q);
                add(&mut sidecars, &k, q);
            }
        }
        for (k, q) in then {
            if most.get(&k).is_none_or(|m| *m < q) {
                most.insert(k, q);
            }
        }
    }
    for (k, q) in most {
        if sums.get(&k).is_none_or(|s| *s < q) {
            sums.insert(k, q);
        }
    }
    sums
}

/// Requests and limits of a pod, with its overhead.
fn pod_compute(pod: &Value, out: &mut Amounts) {
    for (field, plain) in [("requests", true), ("limits", false)] {
        let mut sums = pod_amounts(pod, field);
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

/// Whether an affinity or anti-affinity of a pod looks into other namespaces.
fn crosses_namespaces(pod: &Value) -> bool {
    let list = |v: &Value, p: &str| v.pointer(p).and_then(Value::as_array).cloned().unwrap_or_default();
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let at = |mode: &str| format!("/spec/affinity/{kind}/{mode}DuringSchedulingIgnoredDuringExecution");
        let mut terms = list(pod, &at("required"));
        terms.extend(list(pod, &at("preferred")).iter().filter_map(|t| t.get("podAffinityTerm").cloned()));
        terms.iter().any(|t| {
            t.get("namespaces").and_then(Value::as_array).is_some_and(|n| !n.is_empty())
                || t.get("namespaceSelector").is_some_and(|s| !s.is_null())
        })
    })
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
    let text = |v: &Value, f: &str| v.get(f).and_then(Value::as_str).unwrap_or("").to_owned();
    let matches = |s: &Value, value: &str| {
        let values =
            s.get("values").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let among = { values }.any(|v| v == value);
        match text(s, "operator").as_str() {
            "In" => among,
            "NotIn" => !among,
            "DoesNotExist" => value.is_empty(),
            _ => !value.is_empty(),
        }
    };
    let pods = gvr.resource == "pods" && gvr.group.is_empty();
    let claims = gvr.resource == "persistentvolumeclaims" && gvr.group.is_empty();
    scopes.iter().all(|s| match text(s, "scopeName").as_str() {
        "VolumeAttributesClass" if claims => {
            let class = object.pointer("/spec/volumeAttributesClassName").and_then(Value::as_str);
            matches(s, class.unwrap_or(""))
        }
        _ if !pods => false,
        "CrossNamespacePodAffinity" => crosses_namespaces(object),
        "BestEffort" => is_best_effort(object),
        "NotBestEffort" => !is_best_effort(object),
        name @ ("Terminating" | "NotTerminating") => {
            let ends =
                object.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64).is_some_and(|n| n >= 0);
            ends == (name == "Terminating")
        }
        "PriorityClass" => {
            let class = object.pointer("/spec/priorityClassName").and_then(Value::as_str).unwrap_or("");
            matches(s, class)
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

    #[test]
    fn init_containers_and_sidecars() {
        let c = |cpu: &str, sidecar: bool| json!({"restartPolicy": if sidecar { "Always" } else { "" }, "resources": {"requests": {"cpu": cpu}}});
        for (init, want) in [
            (json!([]), "1"),
            (json!([c("3", false), c("2", false)]), "3"),
            (json!([c("1", true)]), "2"),
            // The sidecar runs while the one after it does.
            (json!([c("1", true), c("2", false)]), "3"),
            (json!([c("2", false), c("1", true)]), "2"),
        ] {
            let pod = json!({"spec": {"containers": [c("1", false)], "initContainers": init}});
            assert_eq!(pod_amounts(&pod, "requests")["cpu"].to_string(), want, "{init}");
        }
    }

    #[test]
    fn scopes() {
        let pods = Gvr::new("", "v1", "pods");
        let classed = json!({"spec": {"priorityClassName": "high"}});
        let far = json!({"spec": {"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [{"podAffinityTerm": {"namespaceSelector": {}}}]}}}});
        let selector = |name: &str, operator: &str, values: Value| json!({"scopeSelector": {"matchExpressions": [{"scopeName": name, "operator": operator, "values": values}]}});
        let claims = Gvr::new("", "v1", "persistentvolumeclaims");
        let gold = json!({"spec": {"volumeAttributesClassName": "gold"}});
        for (quota, gvr, object, want) in [
            (selector("PriorityClass", "In", json!(["high"])), &pods, &classed, true),
            (selector("PriorityClass", "NotIn", json!(["high"])), &pods, &classed, false),
            (selector("PriorityClass", "Exists", json!([])), &pods, &classed, true),
            (selector("PriorityClass", "DoesNotExist", json!([])), &pods, &far, true),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), &pods, &far, true),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), &pods, &classed, false),
            (selector("VolumeAttributesClass", "In", json!(["gold"])), &claims, &gold, true),
            (selector("VolumeAttributesClass", "In", json!(["iron"])), &claims, &gold, false),
            (json!({"scopes": ["BestEffort"]}), &claims, &gold, false),
        ] {
            assert_eq!(in_scope(&quota, gvr, object), want, "{quota}");
        }
    }
}
