//! What pods get on their way in: a service account and its token, tolerations, a priority, the overhead of a runtime class;
//! and the taint that nodes start with.

use std::time::Duration;

use api::{Status, Value};
use async_trait::async_trait;
use serde_json::json;

use super::{Operation, Plugin, Review};
use crate::cache::local_key;

/// Where containers find their service account's token.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A namespace's first pods may come before its default service account; how long they wait for its event.
const ACCOUNT_WAIT: Duration = Duration::from_secs(1);
/// The priority of pods that name no class when no class is the default.
const DEFAULT_PRIORITY: i64 = 0;

fn creates_pod(r: &Review<'_>) -> bool {
    r.operation == Operation::Create && r.is("pods")
}

fn is_mirror(pod: &Value) -> bool {
    api::meta::annotation(pod, "kubernetes.io/config.mirror").is_some()
}

fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v.get(field).and_then(Value::as_str).unwrap_or("")
}

/// ServiceAccount: every pod runs as one, and finds its token.
pub struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        creates_pod(r)
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        if is_mirror(r.object) {
            return Ok(());
        }
        let spec = api::meta::child(r.object, "spec");
        let named = match spec.get("serviceAccountName").and_then(Value::as_str) {
            Some(n) if !n.is_empty() => n.to_owned(),
            _ => spec.get("serviceAccount").and_then(Value::as_str).unwrap_or("").to_owned(),
        };
        let name = if named.is_empty() { "default".to_owned() } else { named };
        spec.insert("serviceAccountName".into(), json!(name));
        spec.insert("serviceAccount".into(), json!(name));
        let Some(account) = account(r, &name).await else {
            let ns = r.namespace;
            return Err(r.forbidden(format!(
                "error looking up service account {ns}/{name}: serviceaccount \"{name}\" not found"
            )));
        };
        let account = account.value();
        let spec = api::meta::child(r.object, "spec");
        let none = spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty);
        if none
            && let Some(secrets) =
                account.get("imagePullSecrets").filter(|s| s.as_array().is_some_and(|a| !a.is_empty()))
        {
            spec.insert("imagePullSecrets".into(), secrets.clone());
        }
        let automount = spec
            .get("automountServiceAccountToken")
            .or_else(|| account.get("automountServiceAccountToken"))
            .and_then(Value::as_bool)
            .unwrap_or(true);
        if automount {
            mount_token(r.object);
        }
        Ok(())
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        if !is_mirror(r.object) {
            return Ok(());
        }
        if !text(r.object.get("spec").unwrap_or(&Value::Null), "serviceAccountName").is_empty() {
            return Err(r.forbidden("a mirror pod may not reference service accounts"));
        }
        Ok(())
    }
}

/// The service account, waited for if it is the default one of a namespace that has just been made.
async fn account(r: &Review<'_>, name: &str) -> Option<std::sync::Arc<api::Object>> {
    let kind = r.server.cache.kind("", "serviceaccounts");
    let key = local_key(r.namespace, name);
    if let Some(found) = kind.get(&key) {
        return Some(found);
    }
    let (_, mut watcher) = r.server.cache.list_and_watch(kind.clone(), r.namespace);
    if name != "default" {
        let _ = r.server.cache.caught_up().await;
        return kind.get(&key);
    }
    let appears = async {
        loop {
            if let Some(found) = kind.get(&key) {
                return Some(found);
            }
            watcher.next().await.ok()?;
        }
    };
    tokio::time::timeout(ACCOUNT_WAIT, appears).await.ok().flatten()
}

/// Adds the projected volume with token, CA and namespace, and mounts it in every container that mounts nothing there.
fn mount_token(pod: &mut Value) {
    let spec = api::meta::child(pod, "spec");
    let wants = |c: &Value| {
        !c.get("volumeMounts")
            .and_then(Value::as_array)
            .is_some_and(|m| m.iter().any(|m| text(m, "mountPath") == TOKEN_PATH))
    };
    let lists = ["initContainers", "containers"];
    let any =
        lists.iter().any(|l| spec.get(*l).and_then(Value::as_array).is_some_and(|a| a.iter().any(wants)));
    if !any {
        return;
    }
    let existing = spec.get("volumes").and_then(Value::as_array).and_then(|v| {
        v.iter().map(|v| text(v, "name")).find(|n| n.starts_with("kube-api-access-")).map(str::to_owned)
    });
    let name = existing.clone().unwrap_or_else(|| format!("kube-api-access-{}", base::rng::suffix(5)));
    if existing.is_none() {
        let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": crate::sub::OF_PODS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}});
        push(spec, "volumes", volume);
    }
    for list in lists {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if wants(container) {
                let mount = json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH});
                push(api::meta::as_map(container), "volumeMounts", mount);
            }
        }
    }
}

fn push(map: &mut api::Map, field: &str, item: Value) {
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
        let spec = r.object.get("spec").unwrap_or(&Value::Null);
        let name = text(spec, "runtimeClassName").to_owned();
        let overhead = spec.get("overhead").and_then(Value::as_object).is_some_and(|m| !m.is_empty());
        if name.is_empty() {
            if overhead {
                return Err(r.forbidden(
                    "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
                ));
            }
            return Ok(());
        }
        let Some(class) = r.server.cache.kind("node.k8s.io", "runtimeclasses").get(&name) else {
            return Err(r.forbidden(format!("pod rejected: RuntimeClass \"{name}\" not found")));
        };
        let class = class.value();
        let spec = api::meta::child(r.object, "spec");
        if let Some(overhead) = class.pointer("/overhead/podFixed") {
            let given = spec.get("overhead").filter(|o| o.as_object().is_some_and(|m| !m.is_empty()));
            if given.is_some_and(|g| !same_amounts(g, overhead)) {
                return Err(r.forbidden(
                    "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
                ));
            }
            spec.insert("overhead".into(), overhead.clone());
        } else if overhead {
            return Err(r.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ));
        }
        if let Some(wanted) = class.pointer("/scheduling/nodeSelector").and_then(Value::as_object) {
            let have = api::meta::entry(spec, "nodeSelector");
            for (k, v) in wanted {
                if let Some(old) = have.get(k).filter(|old| *old != v) {
                    let show = |v: &Value| v.as_str().unwrap_or("").to_owned();
                    let why = format!(
                        "pod rejected: conflict: runtimeClass.scheduling.nodeSelector[{k}] = {}; pod.spec.nodeSelector[{k}] = {}",
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_once_and_not_over_something_else() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "x", "mountPath": TOKEN_PATH}]}]}});
        mount_token(&mut pod);
        let once = pod.clone();
        mount_token(&mut pod);
        assert_eq!(pod, once);
        assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], TOKEN_PATH);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    }
}
