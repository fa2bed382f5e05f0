//! What a ResourceQuota counts: how much of what an object uses, and which objects a quota looks at.

use std::collections::BTreeMap;

use serde_json::json;

use crate::meta::items;
use crate::quantity::{Format, Quantity};
use crate::{Gvr, Value, meta};

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

/// What ends the name of what is counted per class of devices.
pub const DEVICES: &str = ".deviceclass.resource.k8s.io/devices";
/// How many devices one request can get at most; so many count where it asks for all there are.
const ALL_DEVICES: i64 = 32;

/// What an object uses, at the time `now`, of what quotas count.
pub fn usage(gvr: &Gvr, object: &Value, now: jiff::Timestamp) -> Amounts {
    let mut out = Amounts::new();
    let qualified = crate::status::qualified(&gvr.group, &gvr.resource);
    add(&mut out, &format!("count/{qualified}"), one());
    match (&*gvr.group, &*gvr.resource) {
        ("", "pods") if !is_over(object, now) => {
            add(&mut out, "pods", one());
            pod_compute(object, &mut out);
        }
        ("", "services") => service(object, &mut out),
        ("", "persistentvolumeclaims") => claim(object, &mut out),
        ("", name @ ("configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas")) => {
            add(&mut out, name, one());
        }
        ("resource.k8s.io", "resourceclaims") => devices(object, &mut out),
        _ => {}
    }
    out
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

fn count(n: usize) -> Quantity {
    Quantity::of(i64::try_from(n).unwrap_or(i64::MAX), Format::Decimal)
}

/// Has a pod come to its end, or should it have long ago? Such a one, on a node that is lost perhaps, must not keep others out.
fn is_over(pod: &Value, now: jiff::Timestamp) -> bool {
    let grace = meta::of(pod).get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    let ends = meta::deleted(pod).zip(grace).map(|(at, grace)| at.as_second().saturating_add(grace));
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
        || ends.is_some_and(|at| now.as_second() > at)
}

fn service(service: &Value, out: &mut Amounts) {
    add(out, "services", one());
    let balancer = text(service, "/spec/type") == "LoadBalancer";
    if balancer {
        add(out, "services.loadbalancers", one());
    }
    if balancer || text(service, "/spec/type") == "NodePort" {
        // Ports that get none by themselves may still ask for one.
        let asked = balancer && service.pointer("/spec/allocateLoadBalancerNodePorts") == Some(&json!(false));
        let has = |port: &&Value| !asked || port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0;
        add(out, "services.nodeports", count(items(service, "/spec/ports").filter(has).count()));
    }
}

fn claim(claim: &Value, out: &mut Amounts) {
    add(out, "persistentvolumeclaims", one());
    let class = meta::annotation(claim, "volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| text(claim, "/spec/storageClassName"));
    let per_class = |what: &str| format!("{class}.storageclass.storage.k8s.io/{what}");
    if !class.is_empty() {
        add(out, &per_class("persistentvolumeclaims"), one());
    }
    let Some(asked) = claim.pointer("/spec/resources/requests/storage").and_then(amount) else { return };
    // What has been promised for an expansion that did not come about still counts.
    let promised = claim.pointer("/status/allocatedResources/storage").and_then(amount);
    let most = promised.filter(|q| *q > asked).unwrap_or(asked);
    let bytes = Quantity::of(most.value(), most.format());
    add(out, "requests.storage", bytes);
    if !class.is_empty() {
        add(out, &per_class("requests.storage"), bytes);
    }
}

/// Of alternatives that a request gives, the one with the most devices of a class counts.
fn devices(claim: &Value, out: &mut Amounts) {
    for request in items(claim, "/spec/devices/requests") {
        let mut most = Amounts::new();
        for asked in items(request, "/firstAvailable").chain(request.get("exactly")) {
            let devices = match text(asked, "/allocationMode") {
                "ExactCount" => asked.get("count").and_then(Value::as_i64).unwrap_or(0),
                "All" => ALL_DEVICES,
                _ => 0,
            };
            let devices = Quantity::of(devices, Format::Decimal);
            let of_class =
                most.entry(format!("{}{DEVICES}", text(asked, "/deviceClassName"))).or_insert(devices);
            *of_class = (*of_class).max(devices);
        }
        for (name, devices) in most {
            add(out, &name, devices);
        }
    }
}

/// The `requests` or `limits` of a pod's containers: the sum of them (and of the sidecars), or what the pod needs while one of
/// its init containers runs, if that is more.
pub fn container_amounts(pod: &Value, field: &str) -> Amounts {
    let of = |c: &Value| amounts(c.pointer(&format!("/resources/{field}")));
    let mut sums = Amounts::new();
    for (k, q) in items(pod, "/spec/containers").flat_map(of) {
        add(&mut sums, &k, q);
    }
    let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
    for c in items(pod, "/spec/initContainers") {
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

/// May a pod ask for it as a whole?
pub fn is_of_pods(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Does the pod ask for something as a whole?
pub fn is_sized_as_a_whole(pod: &Value) -> bool {
    let of = |field: &str| pod.pointer(&format!("/spec/resources/{field}")).and_then(Value::as_object);
    ["requests", "limits"].into_iter().filter_map(of).flatten().any(|(name, _)| is_of_pods(name))
}

/// The `requests` or `limits` of a pod without its overhead: what it has as a whole, and its containers of what it says nothing
/// of as a whole.
pub fn pod_amounts(pod: &Value, field: &str) -> Amounts {
    let mut sums = container_amounts(pod, field);
    let whole = amounts(pod.pointer(&format!("/spec/resources/{field}")));
    sums.extend(whole.into_iter().filter(|(name, _)| is_of_pods(name)));
    sums
}

/// Requests and limits of a pod, with its overhead.
fn pod_compute(pod: &Value, out: &mut Amounts) {
    let overhead = amounts(pod.pointer("/spec/overhead"));
    let native = |name: &str| matches!(name, "cpu" | "memory" | "ephemeral-storage");
    let mut requests = pod_amounts(pod, "requests");
    for (k, q) in &overhead {
        add(&mut requests, k, *q);
    }
    for (k, q) in requests {
        add(out, &format!("requests.{k}"), q);
        if native(&k) || is_huge_pages(&k) {
            add(out, &k, q);
        }
    }
    for (k, mut q) in pod_amounts(pod, "limits").into_iter().filter(|(k, _)| native(k)) {
        if let Some(more) = overhead.get(&k).filter(|_| !q.is_zero()) {
            q = q.plus(*more);
        }
        add(out, &format!("limits.{k}"), q);
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

/// The classes of volume attributes that a claim has, had, or is to get.
fn attribute_classes(claim: &Value) -> Vec<&str> {
    let at = [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ];
    at.into_iter().map(|pointer| text(claim, pointer)).filter(|name| !name.is_empty()).collect()
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
    let matches = |s: &Value, names: &[&str]| {
        let values: Vec<&str> = items(s, "/values").filter_map(Value::as_str).collect();
        let among = |name: &&str| values.contains(name);
        match text(s, "/operator") {
            "In" => names.iter().any(among),
            "NotIn" => names.is_empty() || !names.iter().all(among),
            "DoesNotExist" => names.is_empty(),
            _ => !names.is_empty(),
        }
    };
    let pods = gvr.resource == "pods" && gvr.group.is_empty();
    let claims = gvr.resource == "persistentvolumeclaims" && gvr.group.is_empty();
    let best_effort = || crate::kinds::qos_class(object.get("spec").unwrap_or(&Value::Null)) == "BestEffort";
    scopes.iter().all(|s| match text(s, "/scopeName") {
        "VolumeAttributesClass" if claims => matches(s, &attribute_classes(object)),
        _ if !pods => false,
        "CrossNamespacePodAffinity" => crosses_namespaces(object),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        name @ ("Terminating" | "NotTerminating") => is_terminating(object) == (name == "Terminating"),
        "PriorityClass" => {
            let class = text(object, "/spec/priorityClassName");
            matches(s, &[class][..usize::from(!class.is_empty())])
        }
        _ => false,
    })
}

/// Is there a time after which a pod is to have ended?
pub fn is_terminating(pod: &Value) -> bool {
    pod.pointer("/spec/activeDeadlineSeconds").and_then(Value::as_i64).is_some_and(|n| n >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: jiff::Timestamp = jiff::Timestamp::UNIX_EPOCH;

    #[test]
    fn what_is_counted() {
        let shown = |group: &'static str, resource: &'static str, object: &Value| -> Value {
            let used = usage(&Gvr::new(group, "v1", resource), object, NOW);
            used.iter()
                .filter(|(k, _)| !k.starts_with("count/"))
                .map(|(k, q)| (k.clone(), json!(q.to_string())))
                .collect()
        };
        let whole = json!({"spec": {"resources": {"requests": {"cpu": "2"}, "limits": {"memory": "3Gi"}},
            "overhead": {"cpu": "1", "memory": "1Gi", "ephemeral-storage": "1Gi"},
            "containers": [{"resources": {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"x.io/gpu": "1"}}}]}});
        let pages = json!({"spec": {"containers": [{"resources": {"requests": {"hugepages-2Mi": "4Mi", "x.io/gpu": "1"},
            "limits": {"hugepages-2Mi": "4Mi", "x.io/gpu": "1"}}}]}});
        let going = |grace: i64| {
            json!({"metadata": {"deletionTimestamp": "1969-12-31T23:59:50Z",
            "deletionGracePeriodSeconds": grace}, "spec": {}})
        };
        let ports = |allocate: bool| {
            json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": allocate,
            "ports": [{"port": 1}, {"port": 2, "nodePort": 30000}]}})
        };
        let claim = json!({"metadata": {"annotations": {"volume.beta.kubernetes.io/storage-class": "old"}},
            "spec": {"storageClassName": "new", "resources": {"requests": {"storage": "1500m"}}},
            "status": {"allocatedResources": {"storage": "3"}}});
        let exactly = |class: &str, mode: &str, count: i64| json!({"deviceClassName": class, "allocationMode": mode, "count": count});
        let devices = json!({"spec": {"devices": {"requests": [
            {"exactly": exactly("a", "ExactCount", 2)}, {"exactly": exactly("b", "All", 0)},
            {"firstAvailable": [exactly("a", "ExactCount", 3), exactly("a", "ExactCount", 1), exactly("c", "New", 9)]}]}}});
        let class = |name: &str| format!("{name}.deviceclass.resource.k8s.io/devices");
        for (group, resource, object, want) in [
            (
                "",
                "pods",
                &whole,
                json!({"pods": "1", "cpu": "3", "requests.cpu": "3", "memory": "2Gi", "requests.memory": "2Gi",
                "ephemeral-storage": "1Gi", "requests.ephemeral-storage": "1Gi", "limits.memory": "4Gi"}),
            ),
            (
                "",
                "pods",
                &pages,
                json!({"pods": "1", "hugepages-2Mi": "4Mi", "requests.hugepages-2Mi": "4Mi",
                "requests.x.io/gpu": "1"}),
            ),
            ("", "pods", &going(10), json!({"pods": "1"})),
            ("", "pods", &going(9), json!({})),
            (
                "",
                "services",
                &ports(true),
                json!({"services": "1", "services.loadbalancers": "1", "services.nodeports": "2"}),
            ),
            (
                "",
                "services",
                &ports(false),
                json!({"services": "1", "services.loadbalancers": "1", "services.nodeports": "1"}),
            ),
            (
                "",
                "persistentvolumeclaims",
                &claim,
                json!({"persistentvolumeclaims": "1", "requests.storage": "3",
                "old.storageclass.storage.k8s.io/persistentvolumeclaims": "1", "old.storageclass.storage.k8s.io/requests.storage": "3"}),
            ),
            (
                "resource.k8s.io",
                "resourceclaims",
                &devices,
                json!({class("a"): "5", class("b"): "32", class("c"): "0"}),
            ),
        ] {
            let got = shown(group, resource, object);
            assert_eq!(got, want, "{object}");
        }
    }

    #[test]
    fn what_a_pod_uses() {
        let pod = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}},
            {"resources": {"requests": {"cpu": "200m", "memory": "1Gi"}}}], "initContainers": [{"resources": {"requests": {"cpu": "250m"}}}]}});
        let used = usage(&Gvr::new("", "v1", "pods"), &pod, NOW);
        let text = |name: &str| used.get(name).map(ToString::to_string).unwrap_or_default();
        assert_eq!(
            (text("pods"), text("requests.cpu"), text("limits.cpu"), text("memory")),
            ("1".into(), "300m".into(), "1".into(), "1Gi".into())
        );
        let mut ended = pod.clone();
        ended["status"]["phase"] = "Failed".into();
        assert!(!usage(&Gvr::new("", "v1", "pods"), &ended, NOW).contains_key("pods"));
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
        let changing = json!({"status": {"currentVolumeAttributesClassName": "iron",
            "modifyVolumeStatus": {"targetVolumeAttributesClassName": "gold"}}});
        let whole = json!({"spec": {"resources": {"requests": {"cpu": "1"}}, "containers": [{}]}});
        for (quota, gvr, object, want) in [
            (selector("PriorityClass", "In", json!(["high"])), &pods, &classed, true),
            (selector("PriorityClass", "NotIn", json!(["high"])), &pods, &classed, false),
            (selector("PriorityClass", "Exists", json!([])), &pods, &classed, true),
            (selector("PriorityClass", "DoesNotExist", json!([])), &pods, &far, true),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), &pods, &far, true),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), &pods, &classed, false),
            (selector("VolumeAttributesClass", "In", json!(["gold"])), &claims, &gold, true),
            (selector("VolumeAttributesClass", "In", json!(["iron"])), &claims, &gold, false),
            (selector("VolumeAttributesClass", "In", json!(["iron"])), &claims, &changing, true),
            (selector("VolumeAttributesClass", "NotIn", json!(["iron"])), &claims, &changing, true),
            (selector("VolumeAttributesClass", "NotIn", json!(["iron", "gold"])), &claims, &changing, false),
            (selector("VolumeAttributesClass", "Exists", json!([])), &claims, &changing, true),
            (selector("VolumeAttributesClass", "DoesNotExist", json!([])), &claims, &changing, false),
            (json!({"scopes": ["BestEffort"]}), &pods, &whole, false),
            (json!({"scopes": ["BestEffort"]}), &claims, &gold, false),
        ] {
            assert_eq!(in_scope(&quota, gvr, object), want, "{quota}");
        }
    }
}
