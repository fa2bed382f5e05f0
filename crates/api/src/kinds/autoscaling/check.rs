//! What an autoscaler may say: of what it scales, by what, and how fast.

use serde_json::{Value, json};

use super::super::common::*;
use super::super::podspec;
use super::{SOURCES, source_field};
use crate::field::{ErrorList, Path};
use crate::quantity::Quantity;
use crate::{names, validate};

/// `old`: what it changes. What was said of no version, or of no pods at all, may stay.
pub(super) fn autoscaler(errors: &mut ErrorList, obj: &Value, old: Option<&Value>) {
    let (spec, path) = (&obj["spec"], Path::new("spec"));
    let before = |field: &str| old.map_or(&Value::Null, |old| &old["spec"][field]);
    let (min, max) = (spec["minReplicas"].as_i64(), int(&spec["maxReplicas"]));
    let least = i64::from(before("minReplicas").as_i64() != Some(0));
    if min.is_some_and(|min| min < least) {
        let why = format!("must be greater than or equal to {least}");
        errors.invalid(&path.child("minReplicas"), &spec["minReplicas"], why);
    }
    let at = path.child("maxReplicas");
    if max == 0 {
        errors.required(&at, "must be set and greater than 0");
    } else if max < 0 {
        errors.invalid(&at, &json!(max), "must be greater than or equal to 1");
    }
    if min.is_some_and(|min| max < min) {
        errors.invalid(&at, &json!(max), "must be greater than or equal to `minReplicas`");
    }
    let (target, was) = (&spec["scaleTargetRef"], before("scaleTargetRef"));
    let kept = old.is_some() && ["apiVersion", "kind"].iter().all(|field| target[field] == was[field]);
    let group = if kept {
        Group::Any
    } else if target["kind"] == "ReplicationController" {
        Group::Core
    } else {
        Group::Needed
    };
    reference(errors, target, &path.child("scaleTargetRef"), group);
    let odd = |metric: &Value| {
        let mut wrong = ErrorList::new();
        let of = &metric["object"]["describedObject"];
        reference(&mut wrong, of, &Path::root(), Group::Core);
        metric["type"] == "Object" && wrong.0.iter().any(|e| e.field == "apiVersion")
    };
    let group = if items(before("metrics")).iter().any(odd) { Group::Any } else { Group::Core };
    let (metrics, at) = (items(&spec["metrics"]), path.child("metrics"));
    for (i, metric) in metrics.iter().enumerate() {
        check_metric(errors, metric, &at.index(i), group);
    }
    // Of nothing neither pods nor what they use can be measured.
    let outside = |metric: &Value| metric["type"] == "Object" || metric["type"] == "External";
    if min == Some(0) && !metrics.iter().any(outside) {
        let why = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(&at, why);
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = &spec["behavior"][direction];
        if !rules.is_null() {
            check_rules(errors, rules, &path.child("behavior").child(direction));
        }
    }
}

/// What a reference may say of the group it is to.
#[derive(Clone, Copy, PartialEq)]
enum Group {
    Any,
    /// It may be the core group.
    Core,
    Needed,
}

fn reference(errors: &mut ErrorList, to: &Value, path: &Path, group: Group) {
    for field in ["kind", "name"] {
        if empty(&to[field]) {
            errors.required(&path.child(field), "");
        } else {
            each_why(errors, &path.child(field), &to[field], segment);
        }
    }
    let version = text(&to["apiVersion"]);
    let why = if version.matches('/').count() > 1 {
        format!("unexpected GroupVersion string: {version}")
    } else if group == Group::Needed && names::split_api_version(version).0.is_empty() {
        "apiVersion must specify API group".to_owned()
    } else {
        return;
    };
    if group != Group::Any {
        errors.invalid_str(&path.child("apiVersion"), version, why);
    }
}

fn check_metric(errors: &mut ErrorList, metric: &Value, path: &Path, group: Group) {
    let (kind, field) = (&metric["type"], source_field(text(&metric["type"])));
    let at = path.child("type");
    if empty(kind) {
        errors.required(&at, "must specify a metric source type");
    }
    if field.is_empty() {
        let kinds = ["ContainerResource", "External", "Object", "Pods", "Resource"];
        errors.not_supported(&at, &json!(text(kind)), &kinds);
    }
    // In upstream's order: of several sources the first one is looked at.
    let order = ["object", "external", "pods", "resource", "containerResource"];
    let given: Vec<&str> = order.into_iter().filter(|field| !metric[*field].is_null()).collect();
    if let Some(first) = given.first() {
        check_source(errors, first, &metric[*first], &path.child(first), group);
    }
    if SOURCES.contains(&field) && metric[field].is_null() {
        let why = "must populate information for the given metric source";
        errors.required(&path.child(field), why);
    }
    if given.len() != 1 {
        for other in given.into_iter().filter(|other| *other != field) {
            errors.forbidden(&path.child(other), "must populate the given metric source only");
        }
    }
}

fn check_source(errors: &mut ErrorList, field: &str, source: &Value, path: &Path, group: Group) {
    let (target, at) = (&source["target"], path.child("target"));
    let has = |field: &str| !target[field].is_null();
    match field {
        "object" | "external" | "pods" => {
            if field == "object" {
                reference(errors, &source["describedObject"], &path.child("describedObject"), group);
            }
            let (name, name_at) = (&source["metric"]["name"], path.child("metric").child("name"));
            if empty(name) {
                errors.required(&name_at, "must specify a metric name");
            } else {
                each_why(errors, &name_at, name, segment);
            }
        }
        _ => {
            let (name, name_at) = (text(&source["name"]), path.child("name"));
            if name.is_empty() {
                errors.required(&name_at, "must specify a resource name");
            } else if field == "containerResource" {
                podspec::container_resource(errors, name, &name_at);
            }
            let (container, container_at) = (&source["container"], path.child("container"));
            if field == "containerResource" && empty(container) {
                errors.required(&container_at, "must specify a container");
            } else if field == "containerResource" {
                each_why(errors, &container_at, container, validate::dns_label);
            }
        }
    }
    check_target(errors, target, &at);
    let (value, average, share) = (has("value"), has("averageValue"), has("averageUtilization"));
    let average_at = at.child("averageValue");
    match field {
        "object" if !value && !average => {
            errors.required(&average_at, "must set either a target value or averageValue");
        }
        "external" if !value && !average => {
            let why = "must set either a target value for metric or a per-pod target";
            errors.required(&average_at, why);
        }
        "external" if value && average => {
            let why = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(&at.child("value"), why);
        }
        "pods" if !average => {
            errors.required(&average_at, "must specify a positive target averageValue");
        }
        "resource" | "containerResource" if !share && !average => {
            let why = "must set either a target raw value or a target utilization";
            errors.required(&at.child("averageUtilization"), why);
        }
        "resource" | "containerResource" if share && average => {
            let why = "may not set both a target raw value and a target utilization";
            errors.forbidden(&average_at, why);
        }
        _ => {}
    }
}

fn check_target(errors: &mut ErrorList, target: &Value, path: &Path) {
    let (kind, at) = (text(&target["type"]), path.child("type"));
    if kind.is_empty() {
        errors.required(&at, "must specify a metric target type");
    }
    if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        errors.invalid_str(&at, kind, "must be either Utilization, Value, or AverageValue");
    }
    for field in ["value", "averageValue"] {
        if Quantity::of_value(&target[field]).is_ok_and(|q| q.signum() <= 0) {
            errors.invalid(&path.child(field), &target[field], "must be positive");
        }
    }
    let share = &target["averageUtilization"];
    if share.as_i64().is_some_and(|n| n < 1) {
        errors.invalid(&path.child("averageUtilization"), share, "must be greater than 0");
    }
}

const MAX_WINDOW: i64 = 3600;
const MAX_PERIOD: i64 = 1800;

fn check_rules(errors: &mut ErrorList, rules: &Value, path: &Path) {
    let (window, at) = (&rules["stabilizationWindowSeconds"], path.child("stabilizationWindowSeconds"));
    if int(window) < 0 {
        errors.invalid(&at, window, "must be greater than or equal to zero");
    }
    if int(window) > MAX_WINDOW {
        errors.invalid(&at, window, format!("must be less than or equal to {MAX_WINDOW}"));
    }
    let (select, words) = (&rules["selectPolicy"], ["Disabled", "Max", "Min"]);
    if !select.is_null() && !words.contains(&text(select)) {
        errors.not_supported(&path.child("selectPolicy"), select, &words);
    }
    let (policies, at) = (items(&rules["policies"]), path.child("policies"));
    if policies.is_empty() {
        errors.required(&at, "must specify at least one Policy");
    }
    for (i, policy) in policies.iter().enumerate() {
        let at = at.index(i);
        if !["Percent", "Pods"].contains(&text(&policy["type"])) {
            errors.not_supported(&at.child("type"), &json!(text(&policy["type"])), &["Percent", "Pods"]);
        }
        for field in ["value", "periodSeconds"].into_iter().filter(|field| int(&policy[*field]) <= 0) {
            errors.invalid(&at.child(field), &json!(int(&policy[field])), "must be greater than zero");
        }
        let period = &policy["periodSeconds"];
        if int(period) > MAX_PERIOD {
            let why = format!("must be less than or equal to {MAX_PERIOD}");
            errors.invalid(&at.child("periodSeconds"), period, why);
        }
    }
    let tolerance = &rules["tolerance"];
    if Quantity::of_value(tolerance).is_ok_and(|q| q.signum() < 0) {
        errors.invalid(&path.child("tolerance"), tolerance, "must be greater than or equal to 0");
    }
}
