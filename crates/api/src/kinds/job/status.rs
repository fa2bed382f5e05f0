//! What may be said of how a job is doing. What was wrong before and is not touched may stay.

use std::collections::HashSet;

use serde_json::Value;

use super::super::common::*;
use super::indexes;
use crate::field::{ErrorList, Path};
use jiff::Timestamp;

/// Is there a condition of this type and status?
pub(super) fn holds(job: &Value, kind: &str, status: &str) -> bool {
    items(&job["status"]["conditions"]).iter().any(|c| c["type"] == kind && c["status"] == status)
}

fn is(job: &Value, kind: &str) -> bool {
    holds(job, kind, "True")
}

fn finished(job: &Value) -> bool {
    is(job, "Complete") || is(job, "Failed")
}

fn changed(new: &Value, old: &Value, field: &str) -> bool {
    new["status"][field] != old["status"][field]
}

/// Are its pods tracked until they have been counted? Controllers before 1.26 need not: they count the pods that there are, which
/// may become fewer, and come to an end without saying first what it will be.
fn tracked(job: &Value) -> bool {
    !job["status"]["uncountedTerminatedPods"].is_null()
}

fn time(value: &Value) -> Option<Timestamp> {
    text(value).parse().ok()
}

pub(super) fn check(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (path, status) = (Path::new("status"), &new["status"]);
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        non_negative(&mut errors, &path.child(field), &status[field]);
    }
    check_uncounted(&mut errors, &status["uncountedTerminatedPods"], &path.child("uncountedTerminatedPods"));
    check_end(&mut errors, new, old, &path);
    check_counts(&mut errors, new, old, &path);
    check_listed(&mut errors, new, old, &path);
    check_success(&mut errors, new, &path);
    check_change(&mut errors, new, old, &path);
    errors
}

fn check_uncounted(errors: &mut ErrorList, uncounted: &Value, path: &Path) {
    let mut seen = HashSet::new();
    for list in ["succeeded", "failed"] {
        for (i, uid) in items(&uncounted[list]).iter().enumerate() {
            let at = path.child(list).index(i);
            if text(uid).is_empty() {
                errors.invalid(&at, uid, "must not be empty");
            } else if !seen.insert(text(uid)) {
                errors.duplicate(&at, uid);
            }
        }
    }
}

/// Of its end: what goes with which condition.
fn check_end(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let became = |kind: &str| is(new, kind) != is(old, kind);
    let (complete, failed) = (is(new, "Complete"), is(new, "Failed"));
    let (conditions, at) = (path.child("conditions"), path.child("completionTime"));
    let (start, end) = (&new["status"]["startTime"], &new["status"]["completionTime"]);
    if (became("Complete") || became("Failed")) && complete && failed {
        errors.wrong(&conditions, "cannot set Complete=True and Failed=true conditions");
    }
    if (became("Complete") || became("FailureTarget")) && complete && is(new, "FailureTarget") {
        errors.wrong(&conditions, "cannot set Complete=True and FailureTarget=true conditions");
    }
    let timed = changed(new, old, "completionTime");
    if became("Complete") || timed {
        if !end.is_null() && !complete {
            let why = "cannot set completionTime when there is no Complete=True condition";
            errors.invalid(&at, end, why);
        }
        if end.is_null() && complete {
            errors.required(&at, "completionTime is required for Complete jobs");
        }
    }
    if (timed || changed(new, old, "startTime"))
        && let (Some(start), Some(end)) = (time(start), time(end))
        && end < start
    {
        errors.invalid(&at, &new["status"]["completionTime"], "must be equal to or after `startTime`");
    }
    if !tracked(new) {
        return;
    }
    if (became("Failed") || changed(new, old, "failedIndexes")) && failed && !is(new, "FailureTarget") {
        let why = "cannot set Failed=True condition without the FailureTarget=true condition";
        errors.wrong(&conditions, why);
    }
    if (became("Complete") || became("SuccessCriteriaMet")) && complete && !is(new, "SuccessCriteriaMet") {
        let why = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        errors.wrong(&conditions, why);
    }
}

/// Of its pods: how many there may be at its end.
fn check_counts(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let status = &new["status"];
    let (ended, just) = (finished(new), finished(new) != finished(old));
    let touched = |field: &str| just || changed(new, old, field);
    if touched("active") && ended && int(&status["active"]) > 0 {
        errors.invalid(&path.child("active"), &status["active"], "active>0 is invalid for finished job");
    }
    let nothing_to_do = new["spec"]["suspend"] == true && new["spec"]["completions"].as_i64() == Some(0);
    if touched("startTime") && !nothing_to_do && ended && status["startTime"].is_null() {
        errors.required(&path.child("startTime"), "startTime is required for finished job");
    }
    let uncounted = &status["uncountedTerminatedPods"];
    let some = !empty(&uncounted["failed"]) || !empty(&uncounted["succeeded"]);
    if touched("uncountedTerminatedPods") && ended && some {
        let why = "must be empty for finished job";
        errors.invalid(&path.child("uncountedTerminatedPods"), uncounted, why);
    }
}

/// Of its indexes.
fn check_listed(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let (spec, status) = (&new["spec"], &new["status"]);
    let (completed, failed) = (text(&status["completedIndexes"]), status["failedIndexes"].as_str());
    let (completed_at, failed_at) = (path.child("completedIndexes"), path.child("failedIndexes"));
    let done = changed(new, old, "completedIndexes");
    let lost = changed(new, old, "failedIndexes");
    let completions = spec["completions"].as_i64();
    if let Some(n) = completions.filter(|_| done)
        && let Err(why) = indexes::count(completed, n)
    {
        errors.invalid_str(&completed_at, completed, format!("error parsing completedIndexes: {why}"));
    }
    if let (Some(n), Some(failed)) = (completions.filter(|_| lost), failed)
        && !spec["backoffLimitPerIndex"].is_null()
        && let Err(why) = indexes::count(failed, n)
    {
        errors.invalid_str(&failed_at, failed, format!("error parsing failedIndexes: {why}"));
    }
    if done && !completed.is_empty() && spec["completionMode"] != "Indexed" {
        let why = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid_str(&completed_at, completed, why);
    }
    let Some(failed) = failed else { return };
    if lost && spec["backoffLimitPerIndex"].is_null() {
        let why = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid_str(&failed_at, failed, why);
    }
    if let Some(n) = completions.filter(|_| done || lost)
        && let Some(index) = indexes::common(completed, failed, n)
    {
        let why = format!("failedIndexes and completedIndexes overlap at index: {index}");
        errors.invalid_str(&failed_at, failed, why);
    }
}

fn check_success(errors: &mut ErrorList, job: &Value, path: &Path) {
    let at = path.child("conditions");
    let met = is(job, "SuccessCriteriaMet");
    if met && is(job, "Failed") {
        errors.wrong(&at, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    }
    if met && is(job, "FailureTarget") {
        errors.wrong(&at, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    }
    if !met && !job["spec"]["successPolicy"].is_null() && is(job, "Complete") {
        let why = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        errors.wrong(&at, why);
    }
}

/// What has been counted or decided is not taken back.
fn check_change(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let (n, o, spec) = (&new["status"], &old["status"], &new["spec"]);
    let touched = |field: &str| finished(new) != finished(old) || changed(new, old, field);
    if touched("terminating") && finished(new) && int(&n["terminating"]) > 0 {
        let why = "terminating>0 is invalid for finished job";
        errors.invalid(&path.child("terminating"), &n["terminating"], why);
    }
    let watched = changed(new, old, "ready") || changed(new, old, "active");
    if watched && n["ready"].as_i64().is_some_and(|ready| ready > int(&n["active"])) {
        errors.invalid(&path.child("ready"), &n["ready"], "cannot set more ready pods than active");
    }
    let conditions = path.child("conditions");
    for kind in ["Failed", "Complete", "FailureTarget"] {
        if is(old, kind) && !is(new, kind) {
            errors.wrong(&conditions, format!("cannot disable the terminal {kind}=True condition"));
        }
    }
    // A job whose pods run all at once may be made smaller.
    let elastic = spec["completionMode"] == "Indexed" && spec["completions"] == spec["parallelism"];
    for (field, may_fall) in [("failed", false), ("succeeded", elastic)] {
        if tracked(old) && !may_fall && int(&n[field]) < int(&o[field]) {
            let why = format!("cannot decrease the {field} counter");
            errors.invalid(&path.child(field), &n[field], why);
        }
    }
    let (end, before) = (&n["completionTime"], &o["completionTime"]);
    if !end.is_null() && !before.is_null() && end != before {
        errors.invalid(&path.child("completionTime"), end, "field is immutable");
    }
    let resumed = holds(old, "Suspended", "True") && holds(new, "Suspended", "False");
    if changed(new, old, "startTime") && !resumed && !o["startTime"].is_null() && spec["suspend"] != true {
        let why = "field is immutable for unsuspended job once set";
        errors.invalid(&path.child("startTime"), &n["startTime"], why);
    }
    let (was, met) = (is(old, "SuccessCriteriaMet"), is(new, "SuccessCriteriaMet"));
    if was && !met {
        errors.wrong(&conditions, "cannot disable the SuccessCriteriaMet=True condition");
    }
    if is(old, "Complete") && !was && met {
        let why = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.wrong(&conditions, why);
    }
}
