//! Pods' binding to a node, and their eviction as far as disruption budgets allow.

use std::sync::Arc;

use api::selector::Label;
use api::{Gvk, Object, Status, Value};
use http::{Response, StatusCode};
use serde_json::json;

use crate::ApiServer;
use crate::body::Body;
use crate::query::WriteOptions;
use crate::registry::{Context, DeleteOptions, Modify};
use crate::resource::Resolved;

/// Marks a pod that is being evicted as disrupted on purpose.
fn set_condition(pod: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let now = api::meta::time(base::clock::now());
    let conditions = api::meta::child(pod, "status").entry("conditions").or_insert_with(|| json!([]));
    let Some(list) = conditions.as_array_mut() else { return };
    list.retain(|c| c.get("type").and_then(Value::as_str) != Some(kind));
    let mut condition =
        json!({"type": kind, "status": status, "lastProbeTime": null, "lastTransitionTime": now});
    if !reason.is_empty() {
        condition["reason"] = json!(reason);
        condition["message"] = json!(message);
    }
    list.push(condition);
}

/// How often a pod that changes while it is judged is judged anew, as upstream.
const ATTEMPTS: usize = 20;

/// What lets a running pod be evicted.
enum Pass {
    /// A disruption of its budget, which is spent, or that it has no budget.
    Budget,
    /// That it is not ready; the name of the budget that this is enough for.
    Unready(String),
}

/// More evictions than the disruption controller can be behind with; upstream's figure.
const MAX_DISRUPTED: usize = 2000;

/// A refusal for the sake of a budget, with the seconds after which to try again; 0 if nobody knows.
fn violation(why: String, retry_after_seconds: u32) -> Status {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    Status::too_many_requests(text, retry_after_seconds).with_cause("DisruptionBudget", why, "")
}

/// What is refused as long as the budget's count is behind.
fn uncounted(budget: &str) -> Status {
    violation(format!("The disruption budget {budget} is still being processed by the server."), 10)
}

fn number(v: &Value, field: &str) -> i64 {
    v.get(field).and_then(Value::as_i64).unwrap_or(0)
}

/// Why a budget allows no disruption.
fn exhausted(budget: &Object) -> String {
    let (name, status) = (budget.name(), budget.status());
    let conditions = status.get("conditions").and_then(Value::as_array);
    let field = |c: &Value, f: &str| c.get(f).and_then(Value::as_str).unwrap_or("").to_owned();
    let told = conditions
        .into_iter()
        .flatten()
        .find(|c| field(c, "type") == "DisruptionAllowed")
        .filter(|c| field(c, "status") == "False" && !field(c, "message").is_empty());
    let (reason, message) = told.map(|c| (field(c, "reason"), field(c, "message"))).unwrap_or_default();
    let (needed, healthy) = (number(status, "desiredHealthy"), number(status, "currentHealthy"));
    // What it counts is not to be trusted where it could not count.
    if reason == "SyncFailed" {
        format!(
            "The disruption budget {name} does not allow evicting pods currently because it failed sync: {message}"
        )
    } else if healthy <= needed {
        format!("The disruption budget {name} needs {needed} healthy pods and has {healthy} currently")
    } else if told.is_some() {
        format!("The disruption budget {name} does not allow evicting pods currently ({reason}): {message}")
    } else {
        format!("The disruption budget {name} does not allow evicting pods currently")
    }
}

/// The budget with one disruption, that of `pod`, taken from it, or why that cannot be.
fn spent(budget: &Object, pod: &str, now: jiff::Timestamp) -> Result<Value, Status> {
    let status = budget.status();
    if api::meta::generation(budget.value()) > number(status, "observedGeneration") {
        return Err(uncounted(budget.name()));
    }
    let forbidden = |why: &str| {
        let budgets = api::Gvr::new("policy", "v1", "poddisruptionbudget");
        Status::forbidden(&budgets, budget.name(), why)
    };
    let allowed = number(status, "disruptionsAllowed");
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    let disrupted = status.get("disruptedPods").and_then(Value::as_object).map_or(0, api::Map::len);
    if disrupted > MAX_DISRUPTED {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    if allowed == 0 {
        return Err(violation(exhausted(budget), 0));
    }
    let mut new = budget.value().clone();
    let observed = status.get("observedGeneration").cloned();
    let now = api::meta::time(now);
    let status = api::meta::child(&mut new, "status");
    status.insert("disruptionsAllowed".into(), json!(allowed - 1));
    api::meta::entry(status, "disruptedPods").insert(pod.to_owned(), json!(now));
    if allowed == 1 {
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        if let Some(list) = conditions.as_array_mut() {
            let kind = "DisruptionAllowed";
            api::meta::set_condition(list, kind, "False", "InsufficientPods", "", &now);
            if let (Some(c), Some(at)) = (list.iter_mut().find(|c| c["type"] == kind), observed) {
                c["observedGeneration"] = at;
            }
        }
    }
    Ok(new)
}

fn success(code: StatusCode, r: &Resolved) -> Result<Response<Body>, Status> {
    let value = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": code.as_u16()});
    r.document(code, &value)
}

impl ApiServer {
    /// POST of a Binding, to the pod's subresource or to the collection of bindings.
    pub(crate) async fn bind(&self, r: &mut Resolved, gvk: &Gvk) -> Result<Response<Body>, Status> {
        let options = r.write_options()?;
        let mut binding = r.decode_as(gvk, &options).await?;
        let subresource = r.cx.info.subresource.clone();
        self.admit_document(r, &subresource, &mut binding, options.dry_run).await?;
        let text = |p: &str| binding.pointer(p).and_then(Value::as_str).unwrap_or("").to_owned();
        let name = if r.cx.info.name.is_empty() { text("/metadata/name") } else { r.cx.info.name.clone() };
        if text("/metadata/name") != name {
            return Err(Status::bad_request("name in URL does not match name in Binding object"));
        }
        let node = text("/target/name");
        let mut errors = api::ErrorList::new();
        let target = api::Path::new("target");
        if !matches!(text("/target/kind").as_str(), "" | "Node") {
            errors.not_supported(&target.child("kind"), &json!(text("/target/kind")), &["Node"]);
        }
        if node.is_empty() {
            errors.required(&target.child("name"), "");
        }
        if !errors.is_empty() {
            return Err(Status::invalid(&Gvk::new("", "v1", "Binding"), &name, &errors));
        }
        let pods = self.kinds.load().stored("", "pods").ok_or_else(Status::no_such_path)?;
        let mut cx = Context::internal(r.cx.user.clone(), pods, &r.cx.info.namespace, &name);
        cx.agent = r.cx.agent.clone();
        let gvr = api::Gvr::new("", "v1", "pods/binding");
        let (uid, revision) = (text("/metadata/uid"), text("/metadata/resourceVersion"));
        let annotations = binding.pointer("/metadata/annotations").and_then(Value::as_object).cloned();
        let labels = binding.pointer("/metadata/labels").and_then(Value::as_object).cloned();
        let mut change = |old: &Arc<Object>| {
            let conflict = |why: String| Status::conflict(&gvr, &name, &why);
            if !uid.is_empty() && uid != old.uid() {
                return Err(conflict(format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    old.uid()
                )));
            }
            if !revision.is_empty() && revision != old.revision().to_string() {
                return Err(conflict(format!(
                    "Precondition failed: ResourceVersion in precondition: {revision}, ResourceVersion in object meta: {}",
                    old.revision()
                )));
            }
            if old.is_deleting() {
                return Err(conflict(format!("pod {name} is being deleted, cannot be assigned to a host")));
            }
            if let Some(bound) = old.spec().get("nodeName").and_then(Value::as_str).filter(|n| !n.is_empty())
            {
                return Err(conflict(format!("pod {name} is already assigned to node \"{bound}\"")));
            }
            if old.spec().get("schedulingGates").and_then(Value::as_array).is_some_and(|g| !g.is_empty()) {
                return Err(conflict(format!("pod {name} has non-empty .spec.schedulingGates")));
            }
            let mut new = old.value().clone();
            api::meta::child(&mut new, "spec").insert("nodeName".into(), json!(node));
            for (k, v) in annotations.iter().flatten() {
                api::meta::set_annotation(&mut new, k, v.as_str().unwrap_or(""));
            }
            if let Some(labels) = &labels {
                let own = api::meta::entry(api::meta::of_mut(&mut new), "labels");
                own.extend(labels.iter().map(|(k, v)| (k.clone(), v.clone())));
            }
            api::meta::child(&mut new, "status").shift_remove("nominatedNodeName");
            set_condition(&mut new, "PodScheduled", "True", "", "");
            Ok(new)
        };
        let modify =
            Modify { name: &name, subresource: "binding", options: &options, applied: false, checked: false };
        self.modify(&mut cx, &modify, &mut change).await?;
        success(StatusCode::CREATED, r)
    }

    /// POST of an Eviction.
    pub(crate) async fn evict(&self, r: &mut Resolved, gvk: &Gvk) -> Result<Response<Body>, Status> {
        let mut options = r.write_options()?;
        let mut eviction = r.decode_as(gvk, &options).await?;
        let name = r.cx.info.name.clone();
        let given = api::meta::name(&eviction);
        if !given.is_empty() && given != name {
            return Err(Status::bad_request("name in URL does not match name in Eviction object"));
        }
        let asked =
            |eviction: &Value| DeleteOptions::of_body(eviction.get("deleteOptions").unwrap_or(&Value::Null));
        // Either of the options makes all of it a rehearsal, the budget's part too.
        options.dry_run |= asked(&eviction)?.dry_run;
        self.admit_document(r, "eviction", &mut eviction, options.dry_run).await?;
        let mut delete = asked(&eviction)?;
        options.dry_run |= delete.dry_run;
        delete.dry_run = options.dry_run;
        let mut cx = r.cx.clone();
        cx.info.subresource.clear();
        for attempt in 1.. {
            let pod = self.get_object(&cx, &name).await?;
            // What does not run, or is going anyway, disrupts nothing.
            let phase = pod.status().get("phase").and_then(Value::as_str).unwrap_or("");
            let exempt = matches!(phase, "Succeeded" | "Failed" | "Pending") || pod.is_deleting();
            // Whom its state lets pass it lets pass as long as it lasts.
            let (passing, budget) = if exempt {
                (phase == "Pending" && !pod.is_deleting(), None)
            } else {
                match self.spend_budget(&cx, &pod, &options).await? {
                    Pass::Budget => (false, None),
                    Pass::Unready(budget) => (true, Some(budget)),
                }
            };
            let mut one = delete.clone();
            one.uid = one.uid.or_else(|| Some(pod.uid().to_owned()));
            one.revision = one.revision.or_else(|| passing.then(|| pod.revision()));
            let last = attempt >= ATTEMPTS;
            match self.dispose(&mut cx, &name, one, &options).await {
                Ok(()) => break,
                Err(status) if status.code != 409 || delete.revision.is_some() || !passing => {
                    return Err(status);
                }
                Err(status) => match budget {
                    Some(budget) => return Err(uncounted(&budget)),
                    None if last => return Err(status),
                    None => {}
                },
            }
        }
        success(StatusCode::CREATED, r)
    }

    /// Notes on a pod that it is disrupted on purpose, and deletes it, if it is as the options say.
    async fn dispose(
        &self,
        cx: &mut Context,
        name: &str,
        mut delete: DeleteOptions,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        if !delete.dry_run {
            let gvr = cx.gvr();
            let expected = delete.clone();
            let mut change = |old: &Arc<Object>| {
                expected.check(&gvr, old)?;
                let mut new = old.value().clone();
                set_condition(
                    &mut new,
                    "DisruptionTarget",
                    "True",
                    "EvictionByEvictionAPI",
                    "Eviction API: evicting",
                );
                Ok(new)
            };
            let modify = Modify { name, subresource: "status", options, applied: false, checked: false };
            let noted = self.modify(cx, &modify, &mut change).await?;
            delete.revision = delete.revision.map(|_| noted.revision());
        }
        self.delete(cx, name, &delete).await.map(drop)
    }

    /// Takes one disruption from the budget that covers the pod, or says that there is none left. Says what lets the pod pass.
    async fn spend_budget(
        &self,
        cx: &Context,
        pod: &Arc<Object>,
        options: &WriteOptions,
    ) -> Result<Pass, Status> {
        let covers = |budget: &Arc<Object>| {
            let selector = budget.spec().get("selector").unwrap_or(&Value::Null);
            !selector.is_null() && Label::from_selector(selector).is_ok_and(|s| s.matches(pod.labels()))
        };
        let budgets: Vec<_> = self
            .cache
            .kind("policy", "poddisruptionbudgets")
            .all(pod.namespace())
            .into_iter()
            .filter(covers)
            .collect();
        if budgets.len() > 1 {
            let why = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::failure(500, "", why));
        }
        let Some(budget) = budgets.first() else { return Ok(Pass::Budget) };
        let ready = pod.status().get("conditions").and_then(Value::as_array).is_some_and(|c| {
            c.iter().any(|c| {
                c.get("type").and_then(Value::as_str) == Some("Ready")
                    && c.get("status").and_then(Value::as_str) == Some("True")
            })
        });
        if !ready {
            let always = budget.spec().get("unhealthyPodEvictionPolicy").and_then(Value::as_str)
                == Some("AlwaysAllow");
            let status = budget.status();
            if always
                || number(status, "currentHealthy") >= number(status, "desiredHealthy")
                    && number(status, "desiredHealthy") > 0
            {
                return Ok(Pass::Unready(budget.name().to_owned()));
            }
        }
        let kind =
            self.kinds.load().stored("policy", "poddisruptionbudgets").ok_or_else(Status::no_such_path)?;
        let mut inner = Context::internal(cx.user.clone(), kind, pod.namespace(), budget.name());
        let mut change = |old: &Arc<Object>| spent(old, pod.name(), base::clock::now());
        let name = budget.name().to_owned();
        let modify = Modify { name: &name, subresource: "status", options, applied: false, checked: false };
        self.modify(&mut inner, &modify, &mut change).await.map(|_| Pass::Budget)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_spent_or_says_why_not() {
        let counted = |allowed: i64, healthy: i64, needed: i64| {
            json!({"metadata": {"name": "b", "generation": 2}, "status": {"observedGeneration": 2,
                "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": needed}})
        };
        let told = |mut budget: Value, reason: &str, message: &str| {
            budget["status"]["conditions"] = json!([{"type": "DisruptionAllowed", "status": "False",
                "reason": reason, "message": message}]);
            budget
        };
        let spend = |budget: &Value| {
            spent(&Object::from_value(budget.clone()), "p", jiff::Timestamp::from_second(1).unwrap())
        };
        let mut behind = counted(1, 2, 1);
        behind["status"]["observedGeneration"] = json!(1);
        let mut crowded = counted(1, 2, 1);
        crowded["status"]["disruptedPods"] = (0..=2000).map(|i| (format!("p{i}"), json!("t"))).collect();
        let cannot = "The disruption budget b does not allow evicting pods currently";
        let short = "The disruption budget b needs 2 healthy pods and has 1 currently";
        for (budget, code, retry, why) in [
            (
                behind,
                429,
                Some(10),
                "The disruption budget b is still being processed by the server.".to_owned(),
            ),
            (counted(-1, 2, 1), 403, None, "pdb disruptions allowed is negative".to_owned()),
            (
                crowded,
                403,
                None,
                "DisruptedPods map too big - too many evictions not confirmed by PDB controller".to_owned(),
            ),
            (counted(0, 1, 2), 429, None, short.to_owned()),
            (
                told(counted(0, 1, 2), "SyncFailed", "m"),
                429,
                None,
                format!("{cannot} because it failed sync: m"),
            ),
            (told(counted(0, 1, 2), "Other", "m"), 429, None, short.to_owned()),
            (told(counted(0, 2, 1), "Other", "m"), 429, None, format!("{cannot} (Other): m")),
            (told(counted(0, 2, 1), "Other", ""), 429, None, cannot.to_owned()),
        ] {
            let status = spend(&budget).unwrap_err();
            let details = status.details.unwrap();
            assert_eq!((status.code, details.retry_after_seconds), (code, retry), "{budget}");
            if code == 403 {
                assert_eq!(status.message, format!("poddisruptionbudget.policy \"b\" is forbidden: {why}"));
            } else {
                assert_eq!(
                    (details.causes[0].reason.as_str(), &details.causes[0].message),
                    ("DisruptionBudget", &why)
                );
            }
        }
        let one = spend(&counted(1, 2, 1)).unwrap();
        let now = "1970-01-01T00:00:01Z";
        let condition = json!([{"type": "DisruptionAllowed", "status": "False", "lastTransitionTime": now,
            "reason": "InsufficientPods", "message": "", "observedGeneration": 2}]);
        assert_eq!(
            one["status"],
            json!({"observedGeneration": 2, "disruptionsAllowed": 0, "currentHealthy": 2, "desiredHealthy": 1,
                "disruptedPods": {"p": now}, "conditions": condition})
        );
        assert_eq!(spend(&counted(2, 3, 1)).unwrap()["status"].get("conditions"), None);
    }
}
