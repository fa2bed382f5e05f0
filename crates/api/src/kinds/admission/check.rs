//! What policies of admission, and their bindings, may say. Expressions are read, not judged by their types.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::common::*;
use super::super::webhook::{check_conditions as match_conditions, check_rule};
use crate::cel::{Program, RESERVED};
use crate::field::{ErrorList, Path};
use crate::{meta, names, validate};

/// `old`: what it changes. Conditions that have not changed may stay.
pub(super) fn policy(errors: &mut ErrorList, obj: &Value, old: &Value, mutating: bool) {
    let (spec, before, path) = (&obj["spec"], &old["spec"], Path::new("spec"));
    one_of(errors, &path.child("failurePolicy"), &spec["failurePolicy"], &["Fail", "Ignore"]);
    if !spec["paramKind"].is_null() {
        check_kind(errors, &spec["paramKind"], &path.child("paramKind"));
    }
    let (constraints, at) = (&spec["matchConstraints"], path.child("matchConstraints"));
    if constraints.is_null() {
        errors.required(&at, "");
    } else {
        check_resources(errors, constraints, &at, mutating);
        if empty(&constraints["resourceRules"]) {
            errors.required(&at.child("resourceRules"), "");
        }
    }
    let same = ["paramKind", "matchConditions"].iter().all(|field| spec[*field] == before[*field]);
    if old.is_null() || !same {
        let more: &[&str] =
            if spec["paramKind"].is_null() { &["namespaceObject"] } else { &["namespaceObject", "params"] };
        match_conditions(errors, &path.child("matchConditions"), &spec["matchConditions"], more);
    }
    for (i, variable) in items(&spec["variables"]).iter().enumerate() {
        let at = path.child("variables").index(i);
        let name = text(&variable["name"]);
        if name.trim().is_empty() {
            errors.required(&at.child("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid_str(&at.child("name"), name, "must be a valid CEL identifier");
        }
        expression(errors, &variable["expression"], &at.child("expression"), "expression is not specified");
    }
    if mutating {
        check_mutations(errors, spec, &path);
    } else {
        check_validations(errors, obj, &path);
    }
}

fn is_identifier(name: &str) -> bool {
    let form = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_');
    form && !RESERVED.contains(&name)
}

fn expression(errors: &mut ErrorList, given: &Value, path: &Path, none: &str) {
    if text(given).trim().is_empty() {
        errors.required(path, none);
    } else if let Err(why) = Program::parse(text(given)) {
        errors.invalid(path, given, format!("compilation failed: {why}"));
    }
}

fn check_kind(errors: &mut ErrorList, kind: &Value, path: &Path) {
    let (given, at) = (text(&kind["apiVersion"]), path.child("apiVersion"));
    let (group, version) = names::split_api_version(given);
    if given.is_empty() {
        errors.required(&at, "");
    } else if given.matches('/').count() > 1 {
        errors.invalid_str(&at, given, format!("unexpected GroupVersion string: {given}"));
    } else {
        let joined = |errors: &mut ErrorList, part: &str, wrong: Vec<String>| {
            if !wrong.is_empty() {
                errors.invalid_str(&at, part, wrong.join(","));
            }
        };
        if !group.is_empty() {
            joined(errors, group, validate::dns_subdomain(group));
        }
        if version.is_empty() {
            errors.invalid_str(&at, given, "version must be specified");
        } else {
            joined(errors, version, validate::dns_1035_label(version));
        }
    }
    let (name, at) = (text(&kind["kind"]), path.child("kind"));
    let wrong = validate::dns_1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.required(&at, "");
    } else if !wrong.is_empty() {
        let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
        errors.invalid_str(&at, name, why);
    }
}

fn check_resources(errors: &mut ErrorList, matches: &Value, path: &Path, mutating: bool) {
    one_of(errors, &path.child("matchPolicy"), &matches["matchPolicy"], &["Equivalent", "Exact"]);
    for field in ["namespaceSelector", "objectSelector"] {
        if matches[field].is_null() {
            errors.required(&path.child(field), "");
        } else {
            check_selector(errors, &path.child(field), &matches[field]);
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in items(&matches[list]).iter().enumerate() {
            let at = path.child(list).index(i);
            let mut seen = HashSet::new();
            for (j, name) in items(&rule["resourceNames"]).iter().enumerate() {
                let at = at.child("resourceNames").index(j);
                each_why(errors, &at, name, segment);
                if !seen.insert(text(name)) {
                    errors.duplicate(&at, name);
                }
            }
            check_rule(errors, &at, rule);
        }
    }
    // What connects, or goes, cannot be changed on its way.
    let known = ["*", "CREATE", "UPDATE"];
    let operations = items(&matches["resourceRules"]).iter().flat_map(|rule| items(&rule["operations"]));
    for operation in operations.filter(|o| mutating && !known.contains(&text(o))) {
        let at = path.child("resourceRules").child("operations");
        errors.not_supported(&at, operation, &known);
    }
}

fn check_validations(errors: &mut ErrorList, obj: &Value, path: &Path) {
    let spec = &obj["spec"];
    let (validations, notes) = (items(&spec["validations"]), items(&spec["auditAnnotations"]));
    if validations.is_empty() && notes.is_empty() {
        for field in ["validations", "auditAnnotations"] {
            let why = "validations or auditAnnotations must contain at least one item";
            errors.required(&path.child(field), why);
        }
        return;
    }
    for (i, validation) in validations.iter().enumerate() {
        let at = path.child("validations").index(i);
        expression(errors, &validation["expression"], &at.child("expression"), "expression is not specified");
        let (told, told_at) = (&validation["messageExpression"], at.child("messageExpression"));
        if !empty(told) && text(told).trim().is_empty() {
            errors.invalid(&told_at, told, "must be non-empty if specified");
        } else if !empty(told) {
            expression(errors, told, &told_at, "");
        }
        let (message, at) = (&validation["message"], at.child("message"));
        if !empty(message) && text(message).trim().is_empty() {
            errors.invalid(&at, message, "must be non-empty if specified");
        } else if text(message).trim().contains(['\r', '\n']) {
            errors.invalid(&at, message, "must not contain line breaks");
        }
        let (reason, reasons) =
            (&validation["reason"], ["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"]);
        if !reason.is_null() && !reasons.contains(&text(reason)) {
            let at = path.child("validations").index(i).child("reason");
            errors.not_supported(&at, reason, &reasons);
        }
    }
    check_notes(errors, meta::name(obj), &spec["auditAnnotations"], &path.child("auditAnnotations"));
}

fn check_notes(errors: &mut ErrorList, policy: &str, notes: &Value, path: &Path) {
    const MOST_BYTES: usize = 5 << 10;
    if items(notes).len() > 20 {
        errors.invalid(path, notes, "must not have more than 20 auditAnnotations");
    }
    let mut keys = HashSet::new();
    for (i, note) in items(notes).iter().enumerate() {
        let (at, key) = (path.index(i), text(&note["key"]));
        if policy.is_empty() {
            errors.invalid_str(&at.child("key"), key, "requires metadata.name be non-empty");
        } else {
            each_why(errors, &at.child("key"), &json!(format!("{policy}/{key}")), validate::qualified_name);
        }
        let value_at = at.child("valueExpression");
        if text(&note["valueExpression"]).trim().len() > MOST_BYTES {
            errors.required(&value_at, format!("must not exceed {MOST_BYTES} bytes in length"));
        } else {
            expression(errors, &note["valueExpression"], &value_at, "valueExpression is not specified");
        }
        if !keys.insert(key) {
            errors.duplicate(&at.child("key"), &note["key"]);
        }
    }
}

fn check_mutations(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let (mutations, at) = (items(&spec["mutations"]), path.child("mutations"));
    if mutations.is_empty() {
        errors.required(&at, "mutations must contain at least one item");
    }
    for (i, mutation) in mutations.iter().enumerate() {
        let (at, kind) = (at.index(i), &mutation["patchType"]);
        let (field, other) = match text(kind) {
            "" => {
                errors.required(&at.child("patchType"), "");
                continue;
            }
            "JSONPatch" => ("jsonPatch", "applyConfiguration"),
            "ApplyConfiguration" => ("applyConfiguration", "jsonPatch"),
            _ => {
                let kinds = ["ApplyConfiguration", "JSONPatch"];
                errors.not_supported(&at.child("patchType"), kind, &kinds);
                continue;
            }
        };
        let when = format!("be specified when patchType is {}", text(kind));
        if mutation[field].is_null() {
            errors.required(&at.child(field), format!("must {when}"));
        } else {
            expression(errors, &mutation[field]["expression"], &at.child(field).child("expression"), "");
        }
        if !mutation[other].is_null() {
            errors.invalid_str(&at.child(other), &format!("{{{other}}}"), format!("must not {when}"));
        }
    }
    let policies = ["IfNeeded", "Never"];
    one_of(errors, &path.child("reinvocationPolicy"), &spec["reinvocationPolicy"], &policies);
}

pub(super) fn binding(errors: &mut ErrorList, spec: &Value, mutating: bool) {
    let path = Path::new("spec");
    let (policy, at) = (&spec["policyName"], path.child("policyName"));
    if empty(policy) {
        errors.required(&at, "");
    } else {
        each_why(errors, &at, policy, validate::dns_subdomain);
    }
    if !spec["paramRef"].is_null() {
        check_parameter(errors, &spec["paramRef"], &path.child("paramRef"));
    }
    if !spec["matchResources"].is_null() {
        check_resources(errors, &spec["matchResources"], &path.child("matchResources"), mutating);
    }
    if mutating {
        return;
    }
    let (actions, at) = (&spec["validationActions"], path.child("validationActions"));
    let known = ["Audit", "Deny", "Warn"];
    let mut seen = HashSet::new();
    for (i, action) in items(actions).iter().enumerate() {
        if !known.contains(&text(action)) {
            errors.not_supported(&at.index(i), action, &known);
        }
        if !seen.insert(text(action)) {
            errors.duplicate(&at.index(i), action);
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        let why = "must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)";
        errors.invalid(&at, actions, why);
    }
    if seen.is_empty() {
        errors.required(&at, "at least one validation action is required");
    }
}

fn check_parameter(errors: &mut ErrorList, parameter: &Value, path: &Path) {
    const BOTH: &str = "name and selector are mutually exclusive";
    let (name, selector) = (&parameter["name"], &parameter["selector"]);
    let both = !empty(name) && !selector.is_null();
    if !empty(name) {
        each_why(errors, &path.child("name"), name, segment);
    }
    if both {
        errors.forbidden(&path.child("name"), BOTH);
    }
    if !selector.is_null() {
        check_selector(errors, &path.child("selector"), selector);
    }
    if both {
        errors.forbidden(&path.child("selector"), BOTH);
    }
    if empty(name) && selector.is_null() {
        errors.required(path, "one of name or selector must be specified");
    }
    let (action, at) = (&parameter["parameterNotFoundAction"], path.child("parameterNotFoundAction"));
    if action.is_null() {
        errors.required(&at, "");
    } else {
        one_of(errors, &at, action, &["Deny", "Allow"]);
    }
}

pub(super) fn status(errors: &mut ErrorList, status: &Value) {
    let path = Path::new("status");
    let at = path.child("typeChecking").child("expressionWarnings");
    for (i, warning) in items(&status["typeChecking"]["expressionWarnings"]).iter().enumerate() {
        for field in
            ["warning", "fieldRef"].into_iter().filter(|field| text(&warning[*field]).trim().is_empty())
        {
            errors.required(&at.index(i).child(field), "");
        }
    }
    check_conditions(errors, &status["conditions"], &path.child("conditions"));
}
