//! What a job may say: how its pods' failures and successes count, and what goes with indexes.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::common::*;
use super::super::podspec;
use super::indexes;
use crate::field::{ErrorList, Path};
use crate::validate;

pub(super) fn check(errors: &mut ErrorList, spec: &Value, path: &Path) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        non_negative(errors, &path.child(field), &spec[field]);
    }
    if !spec["maxFailedIndexes"].is_null() && spec["backoffLimitPerIndex"].is_null() {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = spec["managedBy"].as_str() {
        domain_prefixed_path(errors, &path.child("managedBy"), manager);
        if manager.len() > 63 {
            errors.too_long(&path.child("managedBy"), 63);
        }
    }
    check_indexes(errors, spec, path);
    if !spec["podFailurePolicy"].is_null() {
        check_failures(errors, spec, &path.child("podFailurePolicy").child("rules"));
    }
    if !spec["successPolicy"].is_null() {
        let at = path.child("successPolicy");
        if spec["completionMode"] == "Indexed" {
            check_successes(errors, spec, &at.child("rules"));
        } else {
            errors.invalid(&at, &spec["successPolicy"], "requires indexed completion mode");
        }
    }
    let failures = !spec["podFailurePolicy"].is_null();
    let replacement = &spec["podReplacementPolicy"];
    let known: &[&str] = if failures { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    if !replacement.is_null() && !known.contains(&text(replacement)) {
        errors.not_supported(&path.child("podReplacementPolicy"), replacement, known);
    }
    let at = path.child("template");
    podspec::validate_template(errors, &spec["template"], &at);
    let policy = &spec["template"]["spec"]["restartPolicy"];
    let at = at.child("spec").child("restartPolicy");
    match text(policy) {
        "" | "Always" => errors.required(&at, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if failures => {
            errors.invalid(&at, policy, "only \"Never\" is supported when podFailurePolicy is specified");
        }
        "OnFailure" | "Never" => {}
        _ => errors.not_supported(&at, policy, &["OnFailure", "Never"]),
    }
}

/// More completions than this are many.
const MANY_COMPLETIONS: i64 = 100_000;

/// Checks what goes with the completion mode: some things only jobs have whose pods have an index.
fn check_indexes(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let mode = &spec["completionMode"];
    if !mode.is_null() && !matches!(text(mode), "NonIndexed" | "Indexed") {
        errors.not_supported(&path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode.is_null() || mode == "NonIndexed" {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if !spec[field].is_null() {
                errors.invalid(&path.child(field), &spec[field], "requires indexed completion mode");
            }
        }
    }
    if mode != "Indexed" {
        return;
    }
    if spec["completions"].is_null() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    let (completions, failed) = (int(&spec["completions"]), &spec["maxFailedIndexes"]);
    let parallelism = &spec["parallelism"];
    let at = path.child("parallelism");
    if int(parallelism) > 100_000 {
        let why = "must be less than or equal to 100000 when completion mode is Indexed";
        errors.invalid(&at, parallelism, why);
    }
    let failed_at = path.child("maxFailedIndexes");
    if !spec["completions"].is_null() && int(failed) > completions {
        errors.invalid(&failed_at, failed, "must be less than or equal to completions");
    }
    if int(failed) > 100_000 {
        errors.invalid(&failed_at, failed, "must be less than or equal to 100000");
    }
    if completions > MANY_COMPLETIONS && !spec["backoffLimitPerIndex"].is_null() {
        if failed.is_null() {
            let why = format!("must be specified when completions is above {MANY_COMPLETIONS}");
            errors.required(&failed_at, why);
        }
        for (at, value) in [(&at, parallelism), (&failed_at, failed)] {
            if int(value) > 10_000 {
                let why = format!(
                    "must be less than or equal to 10000 when completions are above {MANY_COMPLETIONS} and used with backoff limit per index"
                );
                errors.invalid(at, value, why);
            }
        }
    }
}

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const CONDITIONS: [&str; 3] = ["False", "True", "Unknown"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
/// How many rules of either policy, and how many conditions of a rule, there may be.
const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;

/// A text that is one of a few; where there is none, upstream says in its own way which there are.
fn word(errors: &mut ErrorList, path: &Path, value: &Value, supported: &[&str]) {
    if text(value).is_empty() {
        let list: Vec<String> = supported.iter().map(|s| format!("\"{s}\"")).collect();
        errors.required(path, format!("valid values: [{}]", list.join(" ")));
    } else if !supported.contains(&text(value)) {
        errors.not_supported(path, value, supported);
    }
}

fn check_failures(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let rules = items(&spec["podFailurePolicy"]["rules"]);
    if rules.len() > MAX_RULES {
        errors.too_many(path, rules.len(), MAX_RULES);
    }
    let pod = &spec["template"]["spec"];
    let containers: HashSet<&str> = items(&pod["containers"])
        .iter()
        .chain(items(&pod["initContainers"]))
        .map(|c| text(&c["name"]))
        .collect();
    for (i, rule) in rules.iter().enumerate() {
        let at = path.index(i);
        if rule["action"] != "FailIndex" {
            word(errors, &at.child("action"), &rule["action"], &ACTIONS);
        } else if spec["backoffLimitPerIndex"].is_null() {
            let why = "requires the backoffLimitPerIndex to be set";
            errors.invalid(&at.child("action"), &rule["action"], why);
        }
        let (codes, conditions) = (&rule["onExitCodes"], items(&rule["onPodConditions"]));
        if !codes.is_null() {
            check_exit_codes(errors, codes, &at.child("onExitCodes"), &containers);
        }
        let conditions_at = at.child("onPodConditions");
        if conditions.len() > MAX_RULES {
            errors.too_many(&conditions_at, conditions.len(), MAX_RULES);
        }
        for (j, pattern) in conditions.iter().enumerate() {
            let at = conditions_at.index(j);
            for why in validate::qualified_name(text(&pattern["type"])) {
                errors.invalid_str(&at.child("type"), text(&pattern["type"]), why);
            }
            word(errors, &at.child("status"), &pattern["status"], &CONDITIONS);
        }
        match (codes.is_null(), conditions.is_empty()) {
            (false, false) => {
                errors.wrong(&at, "specifying both OnExitCodes and OnPodConditions is not supported");
            }
            (true, true) => {
                errors.wrong(&at, "specifying one of OnExitCodes and OnPodConditions is required");
            }
            _ => {}
        }
    }
}

fn check_exit_codes(errors: &mut ErrorList, codes: &Value, path: &Path, containers: &HashSet<&str>) {
    word(errors, &path.child("operator"), &codes["operator"], &OPERATORS);
    if let Some(name) = codes["containerName"].as_str().filter(|name| !containers.contains(name)) {
        let why = "must be one of the container or initContainer names in the pod template";
        errors.invalid_str(&path.child("containerName"), name, why);
    }
    let (values, at) = (items(&codes["values"]), path.child("values"));
    if values.is_empty() {
        errors.invalid(&at, &codes["values"], "at least one value is required");
    } else if values.len() > MAX_EXIT_CODES {
        errors.too_many(&at, values.len(), MAX_EXIT_CODES);
    }
    let mut seen = HashSet::new();
    for (i, value) in values.iter().enumerate() {
        if codes["operator"] == "In" && int(value) == 0 {
            errors.invalid(&at.index(i), value, "must not be 0 for the In operator");
        }
        if !seen.insert(int(value)) {
            errors.duplicate(&at.index(i), value);
        }
    }
    if !values.is_sorted_by_key(int) {
        errors.invalid(&at, &codes["values"], "must be ordered");
    }
}

fn check_successes(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let rules = items(&spec["successPolicy"]["rules"]);
    if rules.is_empty() {
        errors.required(path, "at least one rules must be specified when the successPolicy is specified");
    }
    if rules.len() > MAX_RULES {
        errors.too_many(path, rules.len(), MAX_RULES);
    }
    // Where nobody says how many there are, that is what is wrong.
    let Some(completions) = spec["completions"].as_i64() else { return };
    for (i, rule) in rules.iter().enumerate() {
        let at = path.index(i);
        let (given, count) = (rule["succeededIndexes"].as_str(), &rule["succeededCount"]);
        if given.is_none() && count.is_null() {
            let why = "at least one of succeededCount or succeededIndexes must be specified";
            errors.required(&at, why);
        }
        let mut among = 0;
        if let Some(given) = given {
            let at = at.child("succeededIndexes");
            if given.len() > 64 << 10 {
                errors.too_long(&at, 64 << 10);
            }
            match indexes::count(given, completions) {
                Ok(n) => among = n,
                Err(why) => {
                    errors.invalid_str(&at, given, format!("error parsing succeededIndexes: {why}"));
                }
            }
        }
        let at = at.child("succeededCount");
        non_negative(errors, &at, count);
        if int(count) > completions {
            let why =
                format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.invalid(&at, count, why);
        }
        if given.is_some() && int(count) > among {
            let why = format!(
                "must be less than or equal to {among} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.invalid(&at, count, why);
        }
    }
}

/// What may change of a job's spec.
pub(super) fn check_update(errors: &mut ErrorList, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (n, o) = (&new["spec"], &old["spec"]);
    let (completions, at) = (&n["completions"], path.child("completions"));
    if n["completionMode"] != "Indexed" {
        immutable(errors, &at, completions, &o["completions"]);
    } else if !completions.is_null() && *completions != o["completions"] && *completions != n["parallelism"] {
        errors.invalid(&at, completions, "can only be modified in tandem with spec.parallelism");
    }
    immutable(errors, &path.child("selector"), &n["selector"], &o["selector"]);
    check_template(errors, &n["template"], old, &path);
    for field in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        immutable(errors, &path.child(field), &n[field], &o[field]);
    }
}

/// A job that is suspended and has no pods may change where they go and what they ask for.
fn check_template(errors: &mut ErrorList, new: &Value, old: &Value, path: &Path) {
    let (mut template, status) = (old["spec"]["template"].clone(), &old["status"]);
    let resting = status["startTime"].is_null() || super::status::holds(old, "Suspended", "True");
    if old["spec"]["suspend"] != true || !resting || int(&status["active"]) != 0 {
        immutable(errors, &path.child("template"), new, &template);
        return;
    }
    let keep = |into: &mut Value, from: &Value, field: &str| {
        if let Some(into) = into.as_object_mut() {
            match from.get(field) {
                Some(v) => into.insert(field.to_owned(), v.clone()),
                None => into.shift_remove(field),
            };
        }
    };
    let (Some(spec), wanted) = (template.get_mut("spec"), &new["spec"]) else { return };
    let affinity = &wanted["affinity"];
    if affinity.is_null() {
        // Whoever takes all of it away takes away where the pods go; what says more than that stays.
        if let Some(before) = spec.get_mut("affinity").and_then(Value::as_object_mut) {
            before.shift_remove("nodeAffinity");
            if before.is_empty() {
                keep(spec, &Value::Null, "affinity");
            }
        }
    } else {
        if spec["affinity"].is_null() {
            spec["affinity"] = json!({});
        }
        keep(&mut spec["affinity"], affinity, "nodeAffinity");
    }
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        keep(spec, wanted, field);
    }
    for list in ["containers", "initContainers"] {
        let wanted = items(&wanted[list]);
        let Some(before) = spec.get_mut(list).and_then(Value::as_array_mut) else { continue };
        if before.len() == wanted.len() {
            for (container, wanted) in before.iter_mut().zip(wanted) {
                if container["name"] == wanted["name"] {
                    keep(container, wanted, "resources");
                }
            }
        }
    }
    // So upstream calls the field here. What is beside the spec may be anything.
    immutable(errors, &path.child("template.spec"), wanted, spec);
}
