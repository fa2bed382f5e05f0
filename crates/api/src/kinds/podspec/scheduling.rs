//! Where a pod may run: affinities, spreading, tolerations, gates.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::{Spec, among, qualified_name};
use crate::field::{ErrorList, Path};
use crate::kinds::common::*;
use crate::{meta, validate};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn affinity(errors: &mut ErrorList, affinity: &Value, path: &Path) {
    let (node, at) = (&affinity["nodeAffinity"], path.child("nodeAffinity"));
    node_selector(errors, &node[REQUIRED], &at.child(REQUIRED), true);
    for (i, t) in items(&node[PREFERRED]).iter().enumerate() {
        let at = at.child(PREFERRED).index(i);
        weight(errors, t, &at);
        // Any value may be preferred: with one node alone it does no harm.
        node_term(errors, &t["preference"], &at.child("preference"), false);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (pods, at) = (&affinity[kind], path.child(kind));
        for (i, term) in items(&pods[REQUIRED]).iter().enumerate() {
            pod_term(errors, term, &at.child(REQUIRED).index(i));
        }
        for (i, t) in items(&pods[PREFERRED]).iter().enumerate() {
            let at = at.child(PREFERRED).index(i);
            weight(errors, t, &at);
            pod_term(errors, &t["podAffinityTerm"], &at.child("podAffinityTerm"));
        }
    }
}

/// A NodeSelector, where there is one. `check_values`: also whether its values are such that a label can have.
pub(in crate::kinds) fn node_selector(
    errors: &mut ErrorList,
    selector: &Value,
    path: &Path,
    check_values: bool,
) {
    let terms_at = path.child("nodeSelectorTerms");
    if !selector.is_null() && empty(&selector["nodeSelectorTerms"]) {
        errors.required(&terms_at, "must have at least one node selector term");
    }
    for (i, term) in items(&selector["nodeSelectorTerms"]).iter().enumerate() {
        node_term(errors, term, &terms_at.index(i), check_values);
    }
}

fn weight(errors: &mut ErrorList, term: &Value, path: &Path) {
    let weight = int(&term["weight"]);
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), &json!(weight), "must be in the range 1-100");
    }
}

fn node_term(errors: &mut ErrorList, term: &Value, path: &Path, check_values: bool) {
    for (i, e) in items(&term["matchExpressions"]).iter().enumerate() {
        let at = path.child("matchExpressions").index(i);
        let (values, values_at) = (items(&e["values"]), at.child("values"));
        match text(&e["operator"]) {
            "In" | "NotIn" if values.is_empty() => {
                errors.required(&values_at, "must be specified when `operator` is 'In' or 'NotIn'");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let why = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&values_at, why);
            }
            "Gt" | "Lt" if values.len() != 1 => {
                let why = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.required(&values_at, why);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => errors.invalid_str(&at.child("operator"), other, "not a valid selector operator"),
        }
        qualified_name(errors, text(&e["key"]), &at.child("key"));
        for (j, v) in values.iter().enumerate().filter(|_| check_values) {
            for why in validate::label_value(text(v)) {
                errors.invalid(&values_at.index(j), v, why);
            }
        }
    }
    for (i, e) in items(&term["matchFields"]).iter().enumerate() {
        let at = path.child("matchFields").index(i);
        let values = items(&e["values"]);
        match text(&e["operator"]) {
            "In" | "NotIn" if values.len() != 1 => {
                let why = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(&at.child("values"), why);
            }
            "In" | "NotIn" => {}
            other => errors.invalid_str(&at.child("operator"), other, "not a valid selector operator"),
        }
        let key = text(&e["key"]);
        if key != "metadata.name" {
            errors.invalid_str(&at.child("key"), key, "not a valid field selector key");
            continue;
        }
        for (j, v) in values.iter().enumerate() {
            for why in validate::dns_subdomain(text(v)) {
                errors.invalid(&at.child("values").index(j), v, why);
            }
        }
    }
}

fn pod_term(errors: &mut ErrorList, term: &Value, path: &Path) {
    for selector in ["labelSelector", "namespaceSelector"] {
        check_selector(errors, &path.child(selector), &term[selector]);
    }
    for name in items(&term["namespaces"]) {
        for why in validate::dns_label(text(name)) {
            errors.invalid(&path.child("namespace"), name, why);
        }
    }
    label_keys(errors, term, path, None);
    let (key, at) = (text(&term["topologyKey"]), path.child("topologyKey"));
    if key.is_empty() {
        errors.required(&at, "can not be empty");
    }
    qualified_name(errors, key, &at);
}

/// Keys of labels whose values the pod itself has. `added`: labels of the pod for which the server adds a requirement to the
/// selector, where it has not been done yet.
fn label_keys(errors: &mut ErrorList, term: &Value, path: &Path, added: Option<&Value>) {
    let selector = &term["labelSelector"];
    for field in ["matchLabelKeys", "mismatchLabelKeys"] {
        let (keys, at) = (items(&term[field]), path.child(field));
        if !keys.is_empty() && selector.is_null() {
            errors.forbidden(&at, "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            qualified_name(errors, text(key), &at.index(i));
        }
    }
    let keys = items(&term["matchLabelKeys"]);
    let at: HashMap<&str, usize> = keys.iter().enumerate().map(|(i, k)| (text(k), i)).collect();
    let given = items(&selector["matchExpressions"]).iter().map(|e| text(&e["key"]));
    let added = keys.iter().map(text).filter(|k| added.is_some_and(|labels| labels.get(*k).is_some()));
    let mut seen: HashSet<&str> =
        selector["matchLabels"].as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect();
    for key in given.chain(added.filter(|_| !selector.is_null())) {
        if let Some(i) = at.get(key).filter(|_| seen.contains(key)) {
            errors.invalid_str(&path.index(*i), key, "exists in both matchLabelKeys and labelSelector");
        }
        seen.insert(key);
    }
    let unlike: HashSet<&str> = items(&term["mismatchLabelKeys"]).iter().map(text).collect();
    for (i, key) in keys.iter().enumerate().filter(|(_, k)| unlike.contains(text(k))) {
        let why = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(&path.child("matchLabelKeys").index(i), key, why);
    }
}

pub(super) fn spreading(errors: &mut ErrorList, of: &Spec<'_>, path: &Path) {
    let constraints = items(&of.spec["topologySpreadConstraints"]);
    let pair = |c: &Value| format!("{{{}, {}}}", text(&c["topologyKey"]), text(&c["whenUnsatisfiable"]));
    let mut left: HashMap<String, usize> = HashMap::new();
    for c in constraints {
        *left.entry(pair(c)).or_default() += 1;
    }
    for (i, c) in constraints.iter().enumerate() {
        let at = path.index(i);
        if int(&c["maxSkew"]) <= 0 {
            errors.invalid(&at.child("maxSkew"), &json!(int(&c["maxSkew"])), "must be greater than zero");
        }
        if empty(&c["topologyKey"]) {
            errors.required(&at.child("topologyKey"), "can not be empty");
        }
        let action = json!(text(&c["whenUnsatisfiable"]));
        among(errors, &action, &at.child("whenUnsatisfiable"), &["DoNotSchedule", "ScheduleAnyway"]);
        let this = pair(c);
        if let Some(n) = left.get_mut(&this) {
            *n -= 1;
            if *n > 0 {
                errors.duplicate(&at.child("{topologyKey, whenUnsatisfiable}"), &json!(this));
            }
        }
        let (domains, domains_at) = (&c["minDomains"], at.child("minDomains"));
        if !domains.is_null() {
            if int(domains) <= 0 {
                errors.invalid(&domains_at, domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let why = format!(
                    "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                    text(&action)
                );
                errors.invalid(&domains_at, domains, why);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            among(errors, &c[field], &at.child(field), &["Honor", "Ignore"]);
        }
        label_keys(errors, c, &at, of.pod.map(|pod| &meta::of(pod)["labels"]));
        check_selector(errors, &at.child("labelSelector"), &c["labelSelector"]);
    }
}

pub(in crate::kinds) fn tolerations(errors: &mut ErrorList, tolerations: &Value, path: &Path) {
    for (i, t) in items(tolerations).iter().enumerate() {
        let at = path.index(i);
        let (key, operator, value) = (text(&t["key"]), text(&t["operator"]), text(&t["value"]));
        let operator_at = at.child("operator");
        if !key.is_empty() {
            qualified_name(errors, key, &at.child("key"));
        } else if operator != "Exists" {
            let why =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.invalid_str(&operator_at, operator, why);
        }
        let effect = text(&t["effect"]);
        if !t["tolerationSeconds"].is_null() && effect != "NoExecute" {
            let why = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.invalid_str(&at.child("effect"), effect, why);
        }
        match operator {
            "" | "Equal" => {
                let whys = validate::label_value(value);
                if !whys.is_empty() {
                    errors.invalid_str(&operator_at, value, whys.join(";"));
                }
            }
            "Exists" if !value.is_empty() => {
                errors.invalid_str(&operator_at, value, "value must be empty when `operator` is 'Exists'");
            }
            "Exists" => {}
            _ => errors.not_supported(&operator_at, &t["operator"], &["Equal", "Exists"]),
        }
        if !effect.is_empty() {
            let effects = ["NoExecute", "NoSchedule", "PreferNoSchedule"];
            among(errors, &t["effect"], &at.child("effect"), &effects);
        }
    }
}

/// What must be said of a pod before it counts as ready, or before it is scheduled.
pub(super) fn gates(errors: &mut ErrorList, spec: &Value, path: &Path) {
    for (i, gate) in items(&spec["readinessGates"]).iter().enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        qualified_name(errors, text(&gate["conditionType"]), &at);
    }
    let mut seen = HashSet::new();
    for (i, gate) in items(&spec["schedulingGates"]).iter().enumerate() {
        let (at, name) = (path.child("schedulingGates").index(i), text(&gate["name"]));
        qualified_name(errors, name, &at);
        if !seen.insert(name) {
            errors.duplicate(&at, &json!(name));
        }
    }
}
