//! What pods get on their way in: tolerations, a priority, the overhead of a runtime class, where their node is; and the taint
//! that nodes start with.

use std::sync::Arc;

use api::{Object, Status, Value};
use async_trait::async_trait;
use serde_json::json;

use super::{Operation, Plugin, Review};

/// The priority of pods that name no class when no class is the default.
const DEFAULT_PRIORITY: i64 = 0;

pub(super) fn creates_pod(r: &Review<'_>) -> bool {
    r.operation == Operation::Create && r.is("pods")
}

pub(super) fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v.get(field).and_then(Value::as_str).unwrap_or("")
}

/// Adds to a list that may not be there.
pub(super) fn push(map: &mut api::Map, field: &str, item: Value) {
    let list = map.entry(field).or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    if let Some(list) = list.as_array_mut() {
        list.push(item);
    }
}

/// DefaultTolerationSeconds: a pod survives its node's being not ready or unreachable for five minutes, unless it says
/// otherwise.
pub struct DefaultTolerationSeconds;

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        matches!(r.operation, Operation::Create | Operation::Update) && r.is("pods")
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let spec = api::meta::child(r.object, "spec");
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let tolerated =
                spec.get("tolerations").and_then(Value::as_array).into_iter().flatten().any(|t| {
                    let (k, effect) = (text(t, "key"), text(t, "effect"));
                    (k == key || k.is_empty()) && (effect == "NoExecute" || effect.is_empty())
                });
            if !tolerated {
                push(
                    spec,
                    "tolerations",
                    json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
                );
            }
        }
        Ok(())
    }
}

/// Priority: the number behind a pod's priority class.
pub struct Priority;

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        matches!(r.operation, Operation::Create | Operation::Update)
            && (r.is("pods") || r.gvr.group == "scheduling.k8s.io" && r.subresource.is_empty())
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        if r.is("pods") && r.operation == Operation::Update {
            keep_priority(r.object, r.old.unwrap_or(&Value::Null));
        }
        if !creates_pod(r) {
            return Ok(());
        }
        let classes = r.server.cache.kind("scheduling.k8s.io", "priorityclasses");
        let spec = r.object.get("spec").unwrap_or(&Value::Null);
        let named = text(spec, "priorityClassName").to_owned();
        let class = if named.is_empty() {
            let default = |c: &std::sync::Arc<api::Object>| {
                c.value().get("globalDefault").and_then(Value::as_bool) == Some(true)
            };
            // Should there be two defaults, the lower one holds.
            let value = |c: &std::sync::Arc<api::Object>| c.value().get("value").and_then(Value::as_i64);
            classes.all("").into_iter().filter(default).min_by_key(value)
        } else {
            match classes.get(&named) {
                Some(class) => Some(class),
                None => {
                    return Err(r.forbidden(format!("no PriorityClass with name {named} was found")));
                }
            }
        };
        let (priority, preemption) = match &class {
            Some(c) => (
                c.value().get("value").and_then(Value::as_i64).unwrap_or(DEFAULT_PRIORITY),
                c.value()
                    .get("preemptionPolicy")
                    .and_then(Value::as_str)
                    .unwrap_or("PreemptLowerPriority")
                    .to_owned(),
            ),
            None => (DEFAULT_PRIORITY, "PreemptLowerPriority".to_owned()),
        };
        if let Some(given) = spec.get("priority").and_then(Value::as_i64)
            && given != priority
        {
            return Err(r.forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {priority} from the given PriorityClass name"
            )));
        }
        if let Some(given) = spec.get("preemptionPolicy").and_then(Value::as_str)
            && given != preemption
        {
            return Err(r.forbidden(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {preemption} from the given PriorityClass name"
            )));
        }
        let spec = api::meta::child(r.object, "spec");
        if let Some(class) = class {
            spec.insert("priorityClassName".into(), json!(class.name()));
        }
        spec.insert("priority".into(), json!(priority));
        spec.insert("preemptionPolicy".into(), json!(preemption));
        Ok(())
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        if r.gvr.resource != "priorityclasses" || r.object.get("globalDefault") != Some(&Value::Bool(true)) {
            return Ok(());
        }
        let other =
            r.server.cache.kind("scheduling.k8s.io", "priorityclasses").all("").into_iter().find(|c| {
                c.name() != r.name && c.value().get("globalDefault").and_then(Value::as_bool) == Some(true)
            });
        match other {
            Some(other) => Err(r.forbidden(format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other.name()
            ))),
            None => Ok(()),
        }
    }
}

/// Who changes a pod may leave out what it was given here.
fn keep_priority(new: &mut Value, old: &Value) {
    for field in ["priority", "preemptionPolicy"] {
        if let Some(had) = old.get("spec").and_then(|spec| spec.get(field)).filter(|v| !v.is_null()) {
            let has = api::meta::child(new, "spec").entry(field).or_insert(Value::Null);
            if has.is_null() {
                *has = had.clone();
            }
        }
    }
}

/// TaintNodesByCondition: a new node takes no pods before the node controller has seen that it is ready.
pub struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        r.operation == Operation::Create && r.is("nodes")
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let spec = api::meta::child(r.object, "spec");
        let key = "node.kubernetes.io/not-ready";
        let tainted = spec
            .get("taints")
            .and_then(Value::as_array)
            .is_some_and(|t| t.iter().any(|t| text(t, "key") == key && text(t, "effect") == "NoSchedule"));
        if !tainted {
            push(spec, "taints", json!({"key": key, "effect": "NoSchedule"}));
        }
        Ok(())
    }
}

/// Whether two maps of quantities mean the same, however they are written.
fn same_amounts(a: &Value, b: &Value) -> bool {
    let (a, b) = (api::quota::amounts(Some(a)), api::quota::amounts(Some(b)));
    a.len() == b.len() && a.iter().all(|(name, q)| b.get(name).is_some_and(|other| q.minus(*other).is_zero()))
}

fn is_nothing(amounts: &Value) -> bool {
    amounts.as_object().is_none_or(api::Map::is_empty)
}

/// The runtime class that a pod names.
fn runtime_class(r: &Review<'_>) -> Result<Option<Arc<Object>>, Status> {
    let name = text(r.object.get("spec").unwrap_or(&Value::Null), "runtimeClassName");
    if name.is_empty() {
        return Ok(None);
    }
    let class = r.server.cache.kind("node.k8s.io", "runtimeclasses").get(name);
    let missing = || r.forbidden(format!("pod rejected: RuntimeClass \"{name}\" not found"));
    class.ok_or_else(missing).map(Some)
}

const OTHER_OVERHEAD: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

/// What is wrong with the overhead of a pod of that class: others may have changed it since it was set.
fn wrong_overhead(pod: &Value, class: Option<&Value>) -> Option<&'static str> {
    let has = pod.pointer("/spec/overhead").unwrap_or(&Value::Null);
    match class.and_then(|class| class.pointer("/overhead/podFixed")) {
        Some(overhead) if same_amounts(has, overhead) => None,
        Some(_) => Some(OTHER_OVERHEAD),
        None if is_nothing(has) => None,
        None => Some("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"),
    }
}

/// RuntimeClass: the overhead and placement that a class asks for.
pub struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        creates_pod(r)
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let Some(class) = runtime_class(r)? else { return Ok(()) };
        let class = class.value();
        if let Some(overhead) = class.pointer("/overhead/podFixed") {
            let given = r.object.pointer("/spec/overhead").filter(|o| !is_nothing(o));
            if given.is_some_and(|given| !same_amounts(given, overhead)) {
                return Err(r.forbidden(OTHER_OVERHEAD));
            }
            api::meta::child(r.object, "spec").insert("overhead".into(), overhead.clone());
        }
        let spec = api::meta::child(r.object, "spec");
        if let Some(wanted) = class.pointer("/scheduling/nodeSelector").and_then(Value::as_object) {
            let have = api::meta::entry(spec, "nodeSelector");
            for (k, v) in wanted {
                if let Some(old) = have.get(k).filter(|old| *old != v) {
                    let show = |v: &Value| v.as_str().unwrap_or("").to_owned();
                    let why = format!(
                        "conflict: runtimeClass.scheduling.nodeSelector[{k}] = {}; pod.spec.nodeSelector[{k}] = {}",
                        show(v),
                        show(old)
                    );
                    return Err(r.forbidden(why));
                }
                have.insert(k.clone(), v.clone());
            }
        }
        for t in class.pointer("/scheduling/tolerations").and_then(Value::as_array).into_iter().flatten() {
            let there = spec.get("tolerations").and_then(Value::as_array).is_some_and(|all| all.contains(t));
            if !there {
                push(spec, "tolerations", t.clone());
            }
        }
        Ok(())
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let class = runtime_class(r)?;
        let wrong = wrong_overhead(r.object, class.as_ref().map(|class| class.value()));
        wrong.map_or(Ok(()), |why| Err(r.forbidden(why)))
    }
}

/// PodTopologyLabels: a pod can read by its labels in which zone and region it runs.
pub struct PodTopologyLabels;

/// The labels that a pod takes over from its node.
const TOPOLOGY: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

#[async_trait]
impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        let binds = r.subresource == "binding" && r.gvr.group.is_empty() && r.gvr.resource == "pods";
        creates_pod(r) || binds
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        // A binding hands its labels on to the pod.
        let node = match r.subresource {
            "" => r.object.pointer("/spec/nodeName"),
            _ => {
                r.object.pointer("/target").filter(|t| text(t, "kind") == "Node").and_then(|t| t.get("name"))
            }
        };
        let Some(node) = node.and_then(Value::as_str).filter(|n| !n.is_empty()) else { return Ok(()) };
        let Some(node) = r.server.cache.kind("", "nodes").get(node) else { return Ok(()) };
        for label in TOPOLOGY {
            if let Some(value) = node.labels().get(label) {
                let labels = api::meta::entry(api::meta::of_mut(r.object), "labels");
                labels.insert(label.to_owned(), json!(value));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_changes_a_pod_may_leave_its_priority_out() {
        let old = json!({"spec": {"priority": 7, "preemptionPolicy": "Never"}});
        for (new, want) in [
            (json!({}), json!({"spec": {"priority": 7, "preemptionPolicy": "Never"}})),
            (
                json!({"spec": {"priority": null, "preemptionPolicy": "Other"}}),
                json!({"spec": {"priority": 7, "preemptionPolicy": "Other"}}),
            ),
        ] {
            let mut kept = new.clone();
            keep_priority(&mut kept, &old);
            assert_eq!(kept, want, "{new}");
        }
    }

    #[test]
    fn overhead_is_that_of_the_class() {
        let pod = |overhead: Value| json!({"spec": {"overhead": overhead}});
        let class = |overhead: Value| json!({"overhead": {"podFixed": overhead}});
        let without = "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead";
        for (pod, class, want) in [
            (pod(json!({"cpu": "1"})), Some(class(json!({"cpu": "1000m"}))), None),
            (pod(json!({"cpu": "2"})), Some(class(json!({"cpu": "1"}))), Some(OTHER_OVERHEAD)),
            (pod(json!(null)), Some(class(json!({"cpu": "1"}))), Some(OTHER_OVERHEAD)),
            (pod(json!({"cpu": "1"})), Some(json!({})), Some(without)),
            (pod(json!({"cpu": "1"})), None, Some(without)),
            (pod(json!({})), None, None),
        ] {
            assert_eq!(wrong_overhead(&pod, class.as_ref()), want, "{pod} {class:?}");
        }
    }
}
