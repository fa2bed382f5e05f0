//! ResourceQuota: what a namespace may use in sum. Usage is counted up when objects are admitted, by a conditional write of
//! the quota's status, so that two writers cannot both take the last of something; the quota controller counts anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::quantity::Quantity;
use api::quota::{Amounts, amounts, in_scope, is_sized_as_a_whole, is_terminating, usage};
use api::{Gvr, Object, Status, Value};
use async_trait::async_trait;
use serde_json::json;

use super::{Operation, Plugin, Review};
use crate::ApiServer;
use crate::registry::Own;

/// See the module.
#[derive(Default)]
pub struct ResourceQuota;

fn show(amounts: &Amounts) -> String {
    amounts.iter().map(|(k, q)| format!("{k}={q}")).collect::<Vec<_>>().join(",")
}

#[async_trait]
impl Plugin for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        let old = r.old.unwrap_or(&Value::Null);
        counts(r.gvr, r.operation, r.subresource, old, r.object)
            && !r.namespace.is_empty()
            && r.kind.is_stored()
            && !r.server.cache.kind("", "resourcequotas").is_empty()
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let now = base::clock::now();
        let whole = usage(r.gvr, r.object, now);
        let grown = r.old.map(|old| beyond(&whole, &usage(r.gvr, old, now)));
        r.server.cache.caught_up().await.map_err(crate::registry::store_failure)?;
        let quotas = r.server.cache.kind("", "resourcequotas").all(r.namespace);
        let gvr = r.gvr.clone();
        let mut wanting = Vec::new();
        for quota in quotas.iter().filter(|q| in_scope(q.spec(), &gvr, r.object)) {
            let hard = amounts(quota.spec().get("hard"));
            if gvr.resource == "pods" && gvr.group.is_empty() {
                let missing = must_specify(r.object, &hard);
                if !missing.is_empty() {
                    let why = format!("failed quota: {}: must specify {missing}", quota.name());
                    return Err(r.forbidden(why));
                }
            }
            // What it did not look at before comes to it as a whole.
            let delta = match (&grown, r.old) {
                (Some(grown), Some(old)) if in_scope(quota.spec(), &gvr, old) => grown,
                _ => &whole,
            };
            let delta: Amounts = { delta.iter() }
                .filter(|(k, q)| q.signum() > 0 && hard.contains_key(*k))
                .map(|(k, q)| (k.clone(), *q))
                .collect();
            if !delta.is_empty() {
                wanting.push((quota, delta));
            }
        }
        // All are asked before one is charged: what one refuses must not use up another.
        for (quota, delta) in &wanting {
            charged(r.gvr, r.shown_name(), quota, delta, r.subresource != "status")?;
        }
        for (quota, delta) in wanting {
            charge(r, quota, &delta).await?;
            if !r.dry_run {
                r.progress.charges.0.push((quota.name().to_owned(), delta));
            }
        }
        Ok(())
    }
}

/// What a write has been charged to quotas, by their names.
#[derive(Debug, Default)]
#[must_use = "what was charged is given back if nothing is written"]
pub struct Charges(Vec<(String, Amounts)>);

impl Charges {
    /// The outcome of the write; if that did not come about, what was charged for it is given back.
    pub async fn settle<T, E>(
        self,
        server: &ApiServer,
        namespace: &str,
        outcome: Result<T, E>,
    ) -> Result<T, E> {
        if outcome.is_err() {
            for (quota, delta) in self.0 {
                give_back(server, namespace, &quota, &delta).await;
            }
        }
        outcome
    }
}

/// Takes what was charged off a quota's usage. The quota controller counts anew when it sees this.
async fn give_back(server: &ApiServer, namespace: &str, quota: &str, delta: &Amounts) {
    let mut change = |old: &Arc<Object>| {
        let used = amounts(old.status().get("used"));
        let mut new = old.value().clone();
        let into = api::meta::entry(api::meta::child(&mut new, "status"), "used");
        for (k, q) in delta {
            // Counted anew meanwhile, it is given back already.
            if let Some(left) = used.get(k).map(|u| u.minus(*q)).filter(|left| left.signum() >= 0) {
                into.insert(k.clone(), json!(left.to_string()));
            }
        }
        Ok(new)
    };
    if let Err(status) = server.modify_own(&status_of(namespace, quota, false), &mut change).await {
        tracing::warn!(
            quota,
            namespace,
            error = %status.message,
            "a quota stays charged for what was not written, until it is counted anew"
        );
    }
}

/// The status of a quota. One that has been deleted limits nothing any more.
fn status_of<'a>(namespace: &'a str, name: &'a str, dry_run: bool) -> Own<'a> {
    Own { resource: ("", "resourcequotas"), namespace, name, subresource: "status", dry_run }
}

/// Whether a write may change what is counted: that of a pod is settled when it is made, when it is resized, and when it is
/// given a time to end; so is the number of everything.
fn counts(gvr: &Gvr, operation: Operation, subresource: &str, old: &Value, new: &Value) -> bool {
    match (operation, subresource, &*gvr.group, &*gvr.resource) {
        // Of events there may be as many as come.
        (Operation::Create, "", "" | "events.k8s.io", "events") => false,
        (Operation::Create, "", _, _)
        | (Operation::Update, "", "", "services" | "persistentvolumeclaims")
        | (Operation::Update, "", "resource.k8s.io", "resourceclaims")
        | (Operation::Update, "resize", "", "pods") => true,
        (Operation::Update, "", "", "pods") => is_terminating(old) != is_terminating(new),
        (Operation::Update, "status", "", "persistentvolumeclaims") => {
            let of = |v: &Value| CLAIMED.map(|pointer| v.pointer(pointer).cloned());
            of(old) != of(new)
        }
        _ => false,
    }
}

/// What of a claim's status counts.
const CLAIMED: [&str; 3] = [
    "/status/allocatedResources/storage",
    "/status/currentVolumeAttributesClassName",
    "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
];

/// What of `new` goes beyond `old`.
fn beyond(new: &Amounts, old: &Amounts) -> Amounts {
    new.iter().map(|(k, q)| (k.clone(), old.get(k).map_or(*q, |old| q.minus(*old)))).collect()
}

/// What the containers of a pod have to say of themselves under a quota of cpu or memory, unless the pod does as a whole.
fn must_specify(pod: &Value, hard: &Amounts) -> String {
    if is_sized_as_a_whole(pod) {
        return String::new();
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for name in hard.keys() {
        let pointer = match name.as_str() {
            "cpu" | "memory" => format!("/resources/requests/{name}"),
            "requests.cpu" | "requests.memory" | "limits.cpu" | "limits.memory" => {
                format!("/resources/{}", name.replace('.', "/"))
            }
            _ => continue,
        };
        let lists = ["/spec/containers", "/spec/initContainers"].map(|list| pod.pointer(list));
        let containers = lists.into_iter().flatten().filter_map(Value::as_array).flatten();
        for c in containers.filter(|c| c.pointer(&pointer).is_none()) {
            let container = c.get("name").and_then(Value::as_str).unwrap_or("");
            missing.entry(name).or_default().insert(container);
        }
    }
    let text = |(name, containers): (&str, BTreeSet<&str>)| {
        format!("{name} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    };
    missing.into_iter().map(text).collect::<Vec<_>>().join("; ")
}

/// The quota with `delta` added to its usage, or why that would be too much, if it is `limited`.
fn charged(gvr: &Gvr, name: &str, quota: &Object, delta: &Amounts, limited: bool) -> Result<Value, Status> {
    let hard = amounts(quota.status().get("hard"));
    let mut used = amounts(quota.status().get("used"));
    let mut over = (Amounts::new(), Amounts::new(), Amounts::new());
    for (k, q) in delta {
        // What the quota controller has not counted yet cannot be judged.
        let Some(limit) = hard.get(k) else {
            let why = format!("status unknown for quota: {}, resources: {k}", quota.name());
            return Err(Status::forbidden(gvr, name, &why));
        };
        let before = used.get(k).copied().unwrap_or_else(|| Quantity::of(0, q.format()));
        let after = before.plus(*q);
        if limited && after > *limit {
            over.0.insert(k.clone(), *q);
            over.1.insert(k.clone(), before);
            over.2.insert(k.clone(), *limit);
        }
        used.insert(k.clone(), after);
    }
    if !over.0.is_empty() {
        let why = format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            quota.name(),
            show(&over.0),
            show(&over.1),
            show(&over.2)
        );
        return Err(Status::forbidden(gvr, name, &why));
    }
    let mut new = quota.value().clone();
    let into = api::meta::entry(api::meta::child(&mut new, "status"), "used");
    for k in delta.keys() {
        if let Some(q) = used.get(k) {
            into.insert(k.clone(), json!(q.to_string()));
        }
    }
    Ok(new)
}

/// Adds `delta` to the quota's usage, or says that it would be too much.
async fn charge(r: &Review<'_>, quota: &Object, delta: &Amounts) -> Result<(), Status> {
    let (gvr, name) = (r.gvr.clone(), r.name.to_owned());
    // What has come about already, as a status says, is counted and not refused.
    let limited = r.subresource != "status";
    let mut change = |old: &Arc<Object>| charged(&gvr, &name, old, delta, limited);
    r.server.modify_own(&status_of(r.namespace, quota.name(), r.dry_run), &mut change).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_say_what_they_want() {
        let sized =
            |name: &str, kind: &str| json!({"name": name, "resources": {kind: {"cpu": "1", "memory": "1"}}});
        let pod = json!({"spec": {"containers": [sized("b", "limits"), sized("a", "requests"), {"name": "c"}],
            "initContainers": [{"name": "i"}, sized("j", "requests"), {"name": "c"}]}});
        let mut whole = pod.clone();
        whole["spec"]["resources"] = json!({"limits": {"memory": "1"}});
        let hard =
            |names: &[&str]| amounts(Some(&names.iter().map(|n| ((*n).to_owned(), json!("1"))).collect()));
        for (pod, names, want) in [
            (
                &pod,
                &["requests.cpu", "limits.memory", "pods"][..],
                "limits.memory for: a,c,i,j; requests.cpu for: b,c,i",
            ),
            (&pod, &["memory"], "memory for: b,c,i"),
            (&pod, &["ephemeral-storage", "requests.storage"], ""),
            (&whole, &["requests.cpu"], ""),
        ] {
            assert_eq!(must_specify(pod, &hard(names)), want, "{names:?}");
        }
    }

    #[test]
    fn writes_that_count() {
        use Operation::{Create, Update};
        let (pods, claims) = (api::names::gvr::PODS, Gvr::new("", "v1", "persistentvolumeclaims"));
        let devices = Gvr::new("resource.k8s.io", "v1", "resourceclaims");
        let ends = json!({"spec": {"activeDeadlineSeconds": 5}});
        let grown = json!({"status": {"allocatedResources": {"storage": "2"}}});
        let classed = json!({"status": {"currentVolumeAttributesClassName": "a"}});
        for (gvr, operation, subresource, new, want) in [
            (&pods, Create, "", &ends, true),
            (&pods, Update, "", &json!({}), false),
            (&pods, Update, "", &ends, true),
            (&pods, Update, "resize", &json!({}), true),
            (&pods, Update, "status", &ends, false),
            (&claims, Update, "", &json!({}), true),
            (&claims, Update, "status", &json!({"status": {"phase": "Bound"}}), false),
            (&claims, Update, "status", &grown, true),
            (&claims, Update, "status", &classed, true),
            (&devices, Update, "", &json!({}), true),
        ] {
            assert_eq!(
                counts(gvr, operation, subresource, &json!({}), new),
                want,
                "{gvr:?} {subresource} {new}"
            );
        }
    }

    #[test]
    fn what_objects_use() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        let pods = api::names::gvr::PODS;
        let pod = json!({"spec": {"containers": [
            {"resources": {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"cpu": "1"}}},
            {"resources": {"requests": {"cpu": "200m"}}}],
            "initContainers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        let used = usage(&pods, &pod, now);
        let of = |k: &str| used.get(k).map(|q| q.milli());
        assert_eq!(of("pods"), Some(1000));
        assert_eq!(of("count/pods"), Some(1000));
        assert_eq!(of("cpu"), Some(1000), "the init container wants more than the sum");
        assert_eq!(of("requests.memory"), Some(1000 << 30));
        assert_eq!(of("limits.cpu"), Some(1000));
        let service = json!({"spec": {"type": "NodePort", "ports": [{}, {}]}});
        let used = usage(&api::names::gvr::SERVICES, &service, now);
        assert_eq!(used.get("services.nodeports").map(|q| q.value()), Some(2));
        let deployment = usage(&api::names::gvr::DEPLOYMENTS, &json!({}), now);
        assert!(deployment.contains_key("count/deployments.apps"));
    }

    #[test]
    fn scopes() {
        let pods = api::names::gvr::PODS;
        let effort = json!({"spec": {"containers": [{"resources": {"requests": {"cpu": "1"}}}]}});
        let best = json!({"spec": {"containers": [{}], "activeDeadlineSeconds": 5}});
        for (quota, object, want) in [
            (json!({"scopes": ["BestEffort"]}), &best, true),
            (json!({"scopes": ["BestEffort"]}), &effort, false),
            (json!({"scopes": ["NotBestEffort"]}), &effort, true),
            (json!({"scopes": ["Terminating"]}), &best, true),
            (json!({"scopes": ["NotTerminating"]}), &best, false),
            (json!({}), &best, true),
        ] {
            assert_eq!(in_scope(&quota, &pods, object), want, "{quota}");
        }
        assert!(!in_scope(&json!({"scopes": ["BestEffort"]}), &api::names::gvr::SERVICES, &best));
    }
}
