//! What may change of a pod, by itself and through its subresources.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::{MIRROR, qos_class, security, status};
use crate::field::{ErrorList, Path};
use crate::kinds::common::*;
use crate::{meta, validate};

/// Pods of a node's own files are not changed through the API.
fn is_static(pod: &Value) -> bool {
    meta::annotation(pod, MIRROR).is_some()
}

/// Are they the same, where nothing, an empty list and an empty map are?
fn alike(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            x.iter().all(|(k, v)| alike(v, y.get(k).unwrap_or(&Value::Null)))
                && y.iter().all(|(k, v)| x.contains_key(k) || alike(&Value::Null, v))
        }
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| alike(a, b)),
        _ => a == b || nothing(a) && nothing(b),
    }
}

fn nothing(v: &Value) -> bool {
    matches!(v, Value::Null | Value::Array(_) | Value::Object(_)) && empty(v)
}

fn keep(into: &mut Value, from: &Value, field: &str) {
    let map = meta::as_map(into);
    match from.get(field) {
        Some(v) => map.insert(field.to_owned(), v.clone()),
        None => map.shift_remove(field),
    };
}

/// Of a pod itself.
pub(in crate::kinds) fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    security::changed_annotations(&mut errors, new, old);
    let path = Path::new("spec");
    let (n, o) = (&new["spec"], &old["spec"]);
    for list in ["containers", "initContainers"] {
        if items(&n[list]).len() != items(&o[list]).len() {
            errors.forbidden(&path.child(list), "pod updates may not add or remove containers");
            return errors;
        }
    }
    let (deadline, before) = (&n["activeDeadlineSeconds"], &o["activeDeadlineSeconds"]);
    let at = path.child("activeDeadlineSeconds");
    match (deadline.as_i64(), before.as_i64()) {
        (Some(d), _) if !(0..=i64::from(i32::MAX)).contains(&d) => {
            errors.invalid(&at, deadline, validate::between(0, i64::from(i32::MAX)));
            return errors;
        }
        (Some(d), Some(b)) if d > b => {
            errors.invalid(&at, deadline, "must be less than or equal to previous value");
            return errors;
        }
        (None, Some(_)) => {
            errors.invalid(&at, &Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
    only_added_tolerations(&mut errors, &n["tolerations"], &o["tolerations"], &path.child("tolerations"));
    let gates: HashSet<&str> = items(&o["schedulingGates"]).iter().map(|g| text(&g["name"])).collect();
    for (i, gate) in items(&n["schedulingGates"]).iter().enumerate() {
        let name = text(&gate["name"]);
        if !gates.contains(name) {
            let why = format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.forbidden(&path.child("schedulingGates").index(i).child("name"), why);
        }
    }
    // What may change is made equal; what differs then may not.
    let mut rest = n.clone();
    meta::as_map(&mut rest);
    for list in ["containers", "initContainers"] {
        // Resources of a running pod change through the resize subresource.
        for (c, before) in rest[list].as_array_mut().into_iter().flatten().zip(items(&o[list])) {
            keep(c, before, "image");
        }
    }
    for field in ["activeDeadlineSeconds", "schedulingGates", "tolerations"] {
        keep(&mut rest, o, field);
    }
    if int(&o["terminationGracePeriodSeconds"]) < 0 && int(&n["terminationGracePeriodSeconds"]) == 1 {
        keep(&mut rest, o, "terminationGracePeriodSeconds");
    }
    if !gates.is_empty() {
        narrowed(&mut errors, n, o, &path);
        keep(&mut rest, o, "nodeSelector");
        if rest["affinity"].is_object() || !o["affinity"]["nodeAffinity"].is_null() {
            keep(&mut rest["affinity"], &o["affinity"], "nodeAffinity");
        }
    }
    if !alike(&rest, o) {
        errors.forbidden(
            &path,
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,\
             `spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),\
             `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
    errors
}

/// Of a toleration only the time may change; others may come.
fn only_added_tolerations(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let key = |t: &Value| ["key", "operator", "value", "effect"].map(|f| text(&t[f]).to_owned());
    let now: HashSet<_> = items(new).iter().map(key).collect();
    if items(old).iter().any(|t| !now.contains(&key(t))) {
        let why = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden(path, why);
    }
}

/// A pod that waits to be scheduled may be held to fewer nodes than it was.
fn narrowed(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let (n, o) = (&new["nodeSelector"], &old["nodeSelector"]);
    if o.as_object().into_iter().flatten().any(|(k, v)| n[k] != *v) {
        let why = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        errors.invalid(&path.child("nodeSelector"), n, why);
    }
    let terms = |spec: &Value| {
        let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        items(&required["nodeSelectorTerms"]).to_vec()
    };
    let (n, o) = (terms(new), terms(old));
    let at = path.child("affinity").child("nodeAffinity");
    let at = at.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
    if o.is_empty() {
        return;
    }
    if n.len() != o.len() {
        let why = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.invalid(&at, &Value::Array(n), why);
        return;
    }
    for (i, (n, o)) in n.iter().zip(&o).enumerate() {
        let lists = ["matchExpressions", "matchFields"];
        let begins = |list: &&str| items(&n[*list]).starts_with(items(&o[*list]));
        // A term that holds of no node must not come to hold of some.
        let none = |term: &Value| lists.iter().all(|list| empty(&term[*list]));
        if !lists.iter().all(begins) || none(o) && !none(n) {
            errors.invalid(&at.index(i), n, "only additions are allowed (no mutations or deletions)");
        }
    }
}

/// The items of a list by their names; of those that have the same one the first.
pub(in crate::kinds) fn by_name(list: &Value) -> HashMap<&str, &Value> {
    let mut named = HashMap::new();
    for item in items(list) {
        named.entry(text(&item["name"])).or_insert(item);
    }
    named
}

/// Ephemeral containers come, and stay as they came.
pub(in crate::kinds) fn validate_ephemeral(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if is_static(old) {
        errors.forbidden(&Path::root(), "static pods do not support ephemeral containers");
        return errors;
    }
    let path = Path::new("spec").child("ephemeralContainers");
    let now = by_name(&new["spec"]["ephemeralContainers"]);
    for before in items(&old["spec"]["ephemeralContainers"]) {
        let name = text(&before["name"]);
        match now.get(name) {
            None => errors
                .forbidden(&path, format!("existing ephemeral containers \"{name}\" may not be removed")),
            Some(now) if !alike(now, before) => errors
                .forbidden(&path, format!("existing ephemeral containers \"{name}\" may not be changed")),
            Some(_) => {}
        }
    }
    errors
}

/// Only amounts of cpu and memory change, none goes, and the pod stays in its class; what runs must be on a node that can.
pub(in crate::kinds) fn validate_resize(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let (n, o) = (&new["spec"], &old["spec"]);
    let whole = if !empty(&o["resources"]["requests"]) || !empty(&o["resources"]["limits"]) {
        "pods with pod-level resources cannot be resized"
    } else if is_static(old) {
        "static pods cannot be resized"
    } else if o["os"]["name"] == "windows" {
        "windows pods cannot be resized"
    } else {
        ""
    };
    if !whole.is_empty() {
        errors.forbidden(&Path::root(), whole);
        return errors;
    }
    let class = match text(&old["status"]["qosClass"]) {
        "" => qos_class(o),
        class => class,
    };
    if class != qos_class(n) {
        let why = "Pod QOS Class may not change as a result of resizing";
        errors.invalid(&path, &json!(qos_class(n)), why);
    }
    // Whether a node can is seen by what it says of the containers that it runs.
    let running =
        items(&old["status"]["containerStatuses"]).iter().find(|s| !s["state"]["running"].is_null());
    if running.is_some_and(|s| s["resources"].is_null()) {
        errors.forbidden(&path, "Pod running on node without support for resize");
    }
    for list in ["containers", "initContainers"] {
        for (i, (c, before)) in items(&n[list]).iter().zip(items(&o[list])).enumerate() {
            let at = path.child(list).index(i).child("resources");
            if list == "initContainers" && before["restartPolicy"] != "Always" {
                if !alike(c, before) {
                    errors.forbidden(&path, "resources for non-sidecar init containers are immutable");
                }
                continue;
            }
            let mut others_changed = !alike(&c["resources"]["claims"], &before["resources"]["claims"]);
            for kind in ["requests", "limits"] {
                let (now, was) = (&c["resources"][kind], &before["resources"][kind]);
                let names = |v: &Value| v.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect();
                let (now_names, was_names): (Vec<String>, Vec<String>) = (names(now), names(was));
                if was_names.iter().any(|k| now[k].is_null()) {
                    errors.forbidden(&at.child(kind), format!("resource {kind} cannot be removed"));
                }
                let mut all =
                    now_names.iter().chain(&was_names).filter(|k| !matches!(k.as_str(), "cpu" | "memory"));
                others_changed |= all.any(|k| now[k] != was[k]);
            }
            if others_changed && list == "containers" {
                errors.forbidden(&path, "only cpu and memory resources are mutable");
            } else if others_changed {
                let why = "only cpu and memory resources for init or sidecar containers are mutable";
                errors.forbidden(&path.child(list).index(i), why);
            }
        }
    }
    errors
}

/// Of the status: a kubelet, or whoever else writes it, cannot take back what has ended.
pub(in crate::kinds) fn validate_status(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    security::changed_annotations(&mut errors, new, old);
    let path = Path::new("status");
    let (n, o) = (&new["status"], &old["status"]);
    for (i, condition) in items(&n["conditions"]).iter().enumerate() {
        let (at, kind) = (path.child("conditions").index(i), text(&condition["type"]));
        generation(&mut errors, condition, &at);
        if !matches!(kind, "PodScheduled" | "Ready" | "Initialized") {
            super::qualified_name(&mut errors, kind, &at.child("Type"));
        }
    }
    generation(&mut errors, n, &path);
    let (node, at) = (&n["nominatedNodeName"], path.child("nominatedNodeName"));
    if *node != o["nominatedNodeName"] && !empty(node) {
        super::subdomain(&mut errors, text(node), &at);
        if !empty(&old["spec"]["nodeName"]) {
            errors.forbidden(&at, "may not be set on pods that are already bound to a node");
        }
    }
    if !empty(&o["qosClass"]) {
        immutable(&mut errors, &path.child("qosClass"), &n["qosClass"], &o["qosClass"]);
    }
    for (field, list) in [
        ("containerStatuses", "containers"),
        ("initContainerStatuses", "initContainers"),
        ("ephemeralContainerStatuses", "ephemeralContainers"),
    ] {
        let containers = by_name(&old["spec"][list]);
        let now = by_name(&n[field]);
        for (i, before) in items(&o[field]).iter().enumerate() {
            let Some(code) = before["state"]["terminated"]["exitCode"].as_i64() else { continue };
            let name = text(&before["name"]);
            let again = now.get(name).is_some_and(|s| s["state"]["terminated"].is_null());
            let container = containers.get(name).filter(|_| list != "ephemeralContainers");
            if again && !container.is_some_and(|c| restarts(c, &old["spec"], code)) {
                let why = "may not be transitioned to non-terminated state";
                errors.forbidden(&path.child(field).index(i).child("state"), why);
            }
        }
    }
    claims(&mut errors, new, &path.child("resourceClaimStatuses"));
    status::check(&mut errors, new, &path);
    for (field, one) in [("podIPs", Value::Null), ("hostIPs", n["hostIP"].clone())] {
        let (ips, at) = (items(&n[field]), path.child(field));
        if let Some(first) = ips.first().filter(|_| field == "hostIPs")
            && text(&first["ip"]) != text(&one)
        {
            errors.invalid(&at.index(0).child("ip"), &first["ip"], "must be equal to `hostIP`");
        }
        addresses(&mut errors, ips, items(&o[field]), &at);
    }
    errors
}

fn generation(errors: &mut ErrorList, of: &Value, path: &Path) {
    let generation = &of["observedGeneration"];
    if int(generation) < 0 {
        errors.invalid(&path.child("observedGeneration"), generation, "must be a non-negative integer");
    }
}

/// Is a container that has ended with this code started again?
fn restarts(container: &Value, spec: &Value, code: i64) -> bool {
    let own = &container["restartPolicy"];
    let policy = if own.is_null() { &spec["restartPolicy"] } else { own };
    let ruled = items(&container["restartPolicyRules"]).iter().any(|rule| {
        let codes = &rule["exitCodes"];
        let named = items(&codes["values"]).iter().any(|v| int(v) == code);
        match text(&codes["operator"]) {
            "In" => named,
            "NotIn" => !named,
            _ => false,
        }
    });
    ruled || *policy == "Always" || *policy == "OnFailure" && code != 0
}

fn claims(errors: &mut ErrorList, pod: &Value, path: &Path) {
    let of_spec = by_name(&pod["spec"]["resourceClaims"]);
    let mut seen = HashSet::new();
    for (i, status) in items(&pod["status"]["resourceClaimStatuses"]).iter().enumerate() {
        let (at, name) = (path.index(i), text(&status["name"]));
        if !of_spec.contains_key(name) {
            let why = "must match the name of an entry in `spec.resourceClaims`";
            errors.invalid_str(&at.child("name"), name, why);
        }
        if !seen.insert(name) {
            errors.duplicate(&at.child("name"), &json!(name));
        }
        if let Some(claim) = status["resourceClaimName"].as_str() {
            super::secret_name(errors, claim, &at.child("resourceClaimName"));
        }
    }
}

/// One address of each family at most. What is no address may stay.
fn addresses(errors: &mut ErrorList, ips: &[Value], before: &[Value], path: &Path) {
    for (i, ip) in ips.iter().enumerate().filter(|(_, ip)| !before.contains(ip)) {
        for why in validate::strict_ip(text(&ip["ip"])) {
            errors.invalid(&path.index(i), &ip["ip"], why);
        }
    }
    if !one_of_each_family(ips.iter().map(|ip| text(&ip["ip"]))) {
        let why = "may specify no more than one IP for each IP family";
        errors.invalid(path, &json!(ips), why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_are_compared_soon() {
        let list =
            |from: usize| (from..from + 20_000).map(|i| json!({"key": format!("k{i}")})).collect::<Value>();
        let wrong = |new: &Value, old: &Value| {
            let mut errors = ErrorList::new();
            only_added_tolerations(&mut errors, new, old, &Path::root());
            !errors.is_empty()
        };
        assert!(!wrong(&list(0), &list(0)) && wrong(&list(0), &list(1)));
        assert!(!wrong(&json!([{"key": "a"}]), &Value::Null) && wrong(&Value::Null, &json!([{"key": "a"}])));
        let named = json!([{"name": "a", "v": 1}, {"name": "a", "v": 2}, {"v": 3}]);
        assert_eq!(by_name(&named)["a"]["v"], 1);
        assert_eq!(by_name(&named)[""]["v"], 3);
    }

    #[test]
    fn nothing_is_as_good_as_an_empty_list() {
        for (a, b, want) in [
            (json!({"a": []}), json!({}), true),
            (json!({"a": {"b": null}}), json!({"a": {}}), true),
            (json!({"a": [{"b": {}}]}), json!({"a": [{}]}), true),
            (json!({"a": 0}), json!({}), false),
            (json!({"a": [1]}), json!({"a": [1, 2]}), false),
            (json!({"a": ""}), json!({"a": []}), false),
        ] {
            assert_eq!((alike(&a, &b), alike(&b, &a)), (want, want), "{a} {b}");
        }
    }
}
