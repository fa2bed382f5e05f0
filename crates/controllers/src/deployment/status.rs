//! A Deployment's status: numbers, and whether it is available and getting on.

use api::{Object, Value, meta};
use serde_json::json;

use super::Rollout;
use crate::{Action, Decision, view};
use client::gvr;

/// Seconds without progress after which a rollout counts as stuck; `None`: never.
pub(super) fn deadline(deployment: &Object) -> Option<u64> {
    let seconds = deployment.at(&["spec", "progressDeadlineSeconds"]).as_u64()?;
    (seconds != i32::MAX as u64).then_some(seconds)
}

pub(super) fn progressing(deployment: &Object) -> Option<&Value> {
    view::condition(deployment, "Progressing")
}

/// Sets a condition as Deployments have them, with `lastUpdateTime`.
fn set(conditions: &mut Vec<Value>, kind: &str, status: &str, reason: &str, message: &str, now: &str) {
    let old = conditions.iter().find(|c| c["type"] == kind);
    if old.is_some_and(|c| {
        c["status"] == status && c["reason"] == reason && (kind != "Progressing" || c["message"] == message)
    }) {
        return;
    }
    let transition = match old {
        Some(c) if c["status"] == status => c["lastTransitionTime"].clone(),
        _ => now.into(),
    };
    conditions.retain(|c| c["type"] != kind);
    conditions.push(
        json!({"type": kind, "status": status, "lastUpdateTime": now, "lastTransitionTime": transition,
        "reason": reason, "message": message}),
    );
}

/// Writes the status if it has changed.
pub(super) fn write(r: &mut Rollout<'_>, decision: &mut Decision) {
    if r.actions.iter().any(|a| matches!(a, Action::UpdateSub { .. })) {
        return; // a collision is being counted; the next round sees it
    }
    let d = r.o.deployment;
    let sum = |field| r.all().map(|s| view::int(&s.object, &["status", field], 0)).sum::<i64>();
    let (replicas, ready, available) = (sum("replicas"), sum("readyReplicas"), sum("availableReplicas"));
    let updated = r.new.as_ref().map_or(0, |n| view::int(&n.object, &["status", "replicas"], 0));
    let wanted: i64 = r.all().map(|s| s.replicas).sum();
    let unavailable = (wanted - available).max(0);
    let mut status = json!({"observedGeneration": meta::generation(d.value())});
    for (field, n) in [
        ("replicas", replicas),
        ("updatedReplicas", updated),
        ("readyReplicas", ready),
        ("availableReplicas", available),
        ("unavailableReplicas", unavailable),
        ("collisionCount", view::int(d, &["status", "collisionCount"], 0)),
    ] {
        if n != 0 {
            status[field] = n.into();
        }
    }
    let now = meta::time(r.o.now);
    let mut conditions = view::list(d, &["status", "conditions"]).to_vec();
    for (kind, status, reason, message) in std::mem::take(&mut r.conditions) {
        set(&mut conditions, kind, status, reason, &message, &now);
    }
    let least = r.plan.replicas - r.plan.unavailable;
    if available >= least {
        let text = "Deployment has minimum availability.";
        set(&mut conditions, "Available", "True", "MinimumReplicasAvailable", text, &now);
    } else {
        let text = "Deployment does not have minimum availability.";
        set(&mut conditions, "Available", "False", "MinimumReplicasUnavailable", text, &now);
    }
    progress(r, &mut conditions, &now, (replicas, updated, ready, available), decision);
    let failure = r.new.iter().chain(&r.old).find_map(|s| view::condition(&s.object, "ReplicaFailure"));
    match failure {
        Some(f) => {
            let text = |k: &str| f[k].as_str().unwrap_or_default().to_owned();
            set(&mut conditions, "ReplicaFailure", "True", &text("reason"), &text("message"), &now);
        }
        None => conditions.retain(|c| c["type"] != "ReplicaFailure"),
    }
    status["conditions"] = conditions.into();
    if view::status_differs(d, &status) {
        r.actions.push(Action::status(&gvr::DEPLOYMENTS, d, status));
    }
}

fn progress(
    r: &Rollout<'_>,
    conditions: &mut Vec<Value>,
    now: &str,
    (replicas, updated, ready, available): (i64, i64, i64, i64),
    decision: &mut Decision,
) {
    let d = r.o.deployment;
    let Some(deadline) = deadline(d) else {
        conditions.retain(|c| c["type"] != "Progressing");
        return;
    };
    let reason = |conditions: &[Value]| {
        let c = conditions.iter().find(|c| c["type"] == "Progressing");
        c.and_then(|c| c["reason"].as_str()).unwrap_or_default().to_owned()
    };
    let current = reason(conditions);
    if r.paused() {
        if current != "ProgressDeadlineExceeded" && current != "DeploymentPaused" {
            set(conditions, "Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now);
        }
        return;
    }
    if current == "DeploymentPaused" {
        set(conditions, "Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now);
    }
    let name = match &r.new {
        Some(n) => format!("ReplicaSet \"{}\"", n.object.name()),
        None => format!("Deployment \"{}\"", d.name()),
    };
    // Scaling a finished rollout does not begin another one.
    let finished = updated == replicas && current == "NewReplicaSetAvailable";
    if finished {
        return;
    }
    let old = |f| view::int(d, &["status", f], 0);
    let complete = updated == r.plan.replicas && replicas == r.plan.replicas && available == r.plan.replicas;
    let moved = updated > old("updatedReplicas")
        || replicas - updated < old("replicas") - old("updatedReplicas")
        || ready > old("readyReplicas")
        || available > old("availableReplicas");
    if complete {
        let text = format!("{name} has successfully progressed.");
        set(conditions, "Progressing", "True", "NewReplicaSetAvailable", &text, now);
    } else if moved {
        let text = format!("{name} is progressing.");
        // Each progress starts the deadline anew.
        let transition = conditions
            .iter()
            .find(|c| c["type"] == "Progressing" && c["status"] == "True")
            .map_or_else(|| Value::from(now), |c| c["lastTransitionTime"].clone());
        conditions.retain(|c| c["type"] != "Progressing");
        conditions.push(json!({"type": "Progressing", "status": "True", "lastUpdateTime": now,
            "lastTransitionTime": transition, "reason": "ReplicaSetUpdated", "message": text}));
        decision.after(std::time::Duration::from_secs(deadline));
    } else if let Some(c) = conditions.iter().find(|c| c["type"] == "Progressing") {
        if c["reason"] == "ProgressDeadlineExceeded" {
            return;
        }
        let since = view::time(&c["lastUpdateTime"]).unwrap_or(r.o.now);
        let limit = std::time::Duration::from_secs(deadline);
        let passed = base::clock::between(since, r.o.now);
        if passed >= limit {
            let text = format!("{name} has timed out progressing.");
            set(conditions, "Progressing", "False", "ProgressDeadlineExceeded", &text, now);
        } else {
            decision.after(limit - passed);
        }
    }
}
