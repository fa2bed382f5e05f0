//! `spec.podFailurePolicy`: which failures of pods do not count, and which end the Job.

use api::{Object, Value};

use crate::view;

/// The first rule that fits a failed pod.
fn rule<'a>(job: &'a Object, pod: &Object) -> Option<(usize, &'a Value)> {
    if view::phase(pod) != "Failed" {
        return None;
    }
    view::list(job, &["spec", "podFailurePolicy", "rules"]).iter().enumerate().find(|(_, r)| fits(r, pod))
}

fn fits(rule: &Value, pod: &Object) -> bool {
    if let Some(codes) = rule["onExitCodes"].as_object() {
        let values: Vec<i64> =
            codes["values"].as_array().into_iter().flatten().filter_map(Value::as_i64).collect();
        let inside = codes["operator"] == "In";
        let only = codes.get("containerName").and_then(Value::as_str);
        let states = ["containerStatuses", "initContainerStatuses"]
            .into_iter()
            .flat_map(|f| view::list(pod, &["status", f]));
        return states.filter(|s| only.is_none_or(|name| s["name"] == name)).any(|s| {
            let code = s["state"]["terminated"]["exitCode"].as_i64();
            code.is_some_and(|c| c != 0 && values.contains(&c) == inside)
        });
    }
    rule["onPodConditions"].as_array().into_iter().flatten().any(|want| {
        let status = want["status"].as_str().unwrap_or("True");
        want["type"].as_str().and_then(|t| view::condition(pod, t)).is_some_and(|c| c["status"] == status)
    })
}

/// Whether the pod's failure does not count.
pub(super) fn ignores(job: &Object, pod: &Object) -> bool {
    rule(job, pod).is_some_and(|(_, r)| r["action"] == "Ignore")
}

/// The message, if the pod's failure ends the Job.
pub(super) fn fails_job(job: &Object, pod: &Object) -> Option<String> {
    let (i, _) = rule(job, pod).filter(|(_, r)| r["action"] == "FailJob")?;
    Some(format!("Pod {} matching FailJob rule at index {i}", pod.key()))
}

/// A reason that a condition has, as one of ours.
pub(super) fn known_reason(reason: &str) -> &'static str {
    let known = ["BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"];
    known.into_iter().find(|k| *k == reason).unwrap_or("JobFailed")
}
