//! HorizontalPodAutoscalers, in all their shapes; stored as autoscaling/v2.

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Strategy};
use crate::field::{ErrorList, Path};
use crate::quantity::Quantity;
use crate::{Map, meta};

pub(super) const DECLS: &[Decl] = &[Decl {
    group: "autoscaling",
    resource: "horizontalpodautoscalers",
    storage: "v2",
    short: &["hpa"],
    categories: &["all"],
    strategy: || Arc::new(Autoscaler),
    conversions: &[
        (
            "autoscaling",
            "v1",
            Conversion::Functions { to_storage: v1_to_storage, from_storage: v1_from_storage },
        ),
        (
            "autoscaling",
            "v2beta1",
            Conversion::Functions { to_storage: v2beta1_to_storage, from_storage: v2beta1_from_storage },
        ),
    ],
    columns: Columns::Coded {
        columns: &[
            Column::name(),
            Column::text("Reference"),
            Column::text("Targets"),
            Column::text("MinPods"),
            Column::int("MaxPods"),
            Column::int("Replicas"),
            Column::text("Age"),
        ],
        cells: |o, now| {
            let (spec, status) = (&o["spec"], &o["status"]);
            let target = &spec["scaleTargetRef"];
            let minimum = spec["minReplicas"].as_i64().map_or("<unset>".to_owned(), |n| n.to_string());
            vec![
                name_cell(o),
                json!(format!("{}/{}", text(&target["kind"]), text(&target["name"]))),
                json!(targets(spec, status)),
                json!(minimum),
                json!(int(&spec["maxReplicas"])),
                json!(int(&status["currentReplicas"])),
                age_cell(o, now),
            ]
        },
    },
    ..PLAIN
}];

/// The field of a metric spec or status that holds its source, by its type.
/// What a metric can be of; which it is says its type.
const SOURCES: [&str; 5] = ["resource", "containerResource", "pods", "object", "external"];

fn source_field(kind: &str) -> &'static str {
    match kind {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => "",
    }
}

fn targets(spec: &Value, status: &Value) -> String {
    let metrics = items(&spec["metrics"]);
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let mut list: Vec<String> = Vec::new();
    for (i, metric) in metrics.iter().enumerate() {
        let field = source_field(text(&metric["type"]));
        let target = &metric[field]["target"];
        let current = &status["currentMetrics"][i][field]["current"];
        let show = |v: &Value| match v {
            Value::Null => "<unknown>".to_owned(),
            Value::String(s) => s.clone(),
            other => other.to_string(),
        };
        let name = text(&metric[field]["name"]);
        let prefix = if name.is_empty() { String::new() } else { format!("{name}: ") };
        list.push(if !target["averageUtilization"].is_null() {
            let current = match &current["averageUtilization"] {
                Value::Null => "<unknown>".to_owned(),
                n => format!("{n}%"),
            };
            format!("{prefix}{current}/{}%", target["averageUtilization"])
        } else if !target["averageValue"].is_null() {
            format!(
                "{prefix}{}/{}{}",
                show(&current["averageValue"]),
                show(&target["averageValue"]),
                if field == "resource" { "" } else { " (avg)" }
            )
        } else {
            format!("{prefix}{}/{}", show(&current["value"]), show(&target["value"]))
        });
    }
    let more = list.len().saturating_sub(2);
    list.truncate(2);
    let shown = list.join(", ");
    if more > 0 { format!("{shown} + {more} more...") } else { shown }
}

struct Autoscaler;

impl Strategy for Autoscaler {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        set(spec, "minReplicas", 1);
        if spec.get("metrics").is_none_or(empty) {
            spec.insert(
                "metrics".to_owned(),
                json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}]),
            );
        }
        if let Some(behavior) = sub(spec, "behavior") {
            for (direction, policies) in [
                (
                    "scaleUp",
                    json!([{"type": "Pods", "value": 4, "periodSeconds": 15}, {"type": "Percent", "value": 100, "periodSeconds": 15}]),
                ),
                ("scaleDown", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}])),
            ] {
                let rules = meta::entry(behavior, direction);
                if direction == "scaleUp" {
                    set(rules, "stabilizationWindowSeconds", 0);
                }
                set_text(rules, "selectPolicy", "Max");
                if rules.get("policies").is_none_or(empty) {
                    rules.insert("policies".to_owned(), policies);
                }
            }
        }
    }

    fn no_status(&self) -> Value {
        json!({"desiredReplicas": 0, "currentMetrics": null})
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        let (min, max) = (int(&spec["minReplicas"]), int(&spec["maxReplicas"]));
        if min < 1 {
            errors.invalid(
                &path.child("minReplicas"),
                &spec["minReplicas"],
                "must be greater than or equal to 1",
            );
        }
        if max < 1 {
            errors.invalid(&path.child("maxReplicas"), &json!(max), "must be greater than 0");
        } else if max < min {
            errors.invalid(
                &path.child("maxReplicas"),
                &json!(max),
                "must be greater than or equal to `minReplicas`",
            );
        }
        for field in ["kind", "name"] {
            if text(&spec["scaleTargetRef"][field]).is_empty() {
                errors.required(&path.child("scaleTargetRef").child(field), "");
            }
        }
        for (i, metric) in items(&spec["metrics"]).iter().enumerate() {
            let at = path.child("metrics").index(i);
            let kind = text(&metric["type"]);
            let field = source_field(kind);
            if field.is_empty() {
                errors.not_supported(
                    &at.child("type"),
                    &metric["type"],
                    &["ContainerResource", "External", "Object", "Pods", "Resource"],
                );
            } else if metric[field].is_null() {
                errors.required(&at.child(field), "must populate information for the given metric source");
            }
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn take_annotation(obj: &mut Value, key: &str) -> Option<Value> {
    let metadata = meta::of_mut(obj);
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let taken = annotations.shift_remove(key)?;
    if annotations.is_empty() {
        metadata.shift_remove("annotations");
    }
    serde_json::from_str(taken.as_str()?).ok()
}

/// v1 knows one metric, CPU; the others and the rest of the status are carried in annotations.
fn v1_to_storage(obj: &mut Value) {
    let mut metrics = match take_annotation(obj, METRICS) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let mut current = match take_annotation(obj, CURRENT) {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let (conditions, behavior) = (take_annotation(obj, CONDITIONS), take_annotation(obj, BEHAVIOR));
    let spec = meta::child(obj, "spec");
    if let Some(percent) = spec.shift_remove("targetCPUUtilizationPercentage") {
        metrics.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}));
    }
    if !metrics.is_empty() {
        spec.insert("metrics".to_owned(), json!(metrics));
    }
    if let Some(behavior) = behavior {
        spec.insert("behavior".to_owned(), behavior);
    }
    if let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) {
        if let Some(percent) = status.shift_remove("currentCPUUtilizationPercentage") {
            current.insert(0, json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}));
        }
        if status.get("currentReplicas").is_some_and(|n| n == &json!(0)) {
            status.shift_remove("currentReplicas");
        }
        if !current.is_empty() {
            status.insert("currentMetrics".to_owned(), json!(current));
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".to_owned(), conditions);
        }
    }
}

/// Takes the first CPU utilization out of a list of metrics.
fn take_cpu(list: &mut Vec<Value>, field: &str) -> Option<Value> {
    let at = list.iter().position(|m| {
        m["type"] == "Resource"
            && m["resource"]["name"] == "cpu"
            && !m["resource"][field]["averageUtilization"].is_null()
    })?;
    let metric = list.remove(at);
    Some(metric["resource"][field]["averageUtilization"].clone())
}

fn v1_from_storage(obj: &mut Value) {
    let mut notes: Vec<(&str, Value)> = Vec::new();
    let spec = meta::child(obj, "spec");
    if let Some(Value::Array(mut metrics)) = spec.shift_remove("metrics") {
        if let Some(percent) = take_cpu(&mut metrics, "target") {
            spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
        }
        if !metrics.is_empty() {
            notes.push((METRICS, json!(metrics)));
        }
    }
    if let Some(behavior) = spec.shift_remove("behavior") {
        notes.push((BEHAVIOR, behavior));
    }
    if let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) {
        if let Some(Value::Array(mut current)) = status.shift_remove("currentMetrics") {
            if let Some(percent) = take_cpu(&mut current, "current") {
                status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
            }
            if !current.is_empty() {
                notes.push((CURRENT, json!(current)));
            }
        }
        // There it is always said, and in v2 only if there are any.
        set(status, "currentReplicas", 0);
        if let Some(conditions) = status.shift_remove("conditions") {
            notes.push((CONDITIONS, conditions));
        }
    }
    for (key, value) in notes {
        meta::set_annotation(obj, key, value.to_string());
    }
}

/// v2beta1 has `targetAverageUtilization`, `targetAverageValue`, `targetValue`, `metricName`, `metricSelector` where v2 has a target and a metric.
fn v2beta1_to_storage(obj: &mut Value) {
    for (part, list, noun, prefix) in
        [("spec", "metrics", "target", "target"), ("status", "currentMetrics", "current", "current")]
    {
        let Some(part) = obj.get_mut(part).and_then(Value::as_object_mut) else { continue };
        for metric in each(part, list) {
            for field in SOURCES {
                let Some(source) = sub(metric, field) else { continue };
                let mut amount = Map::new();
                let mut take = |source: &mut Map, from: String, to: &str, kind: &str| {
                    if let Some(v) = source.shift_remove(&from).filter(|v| !v.is_null()) {
                        // Zero quantities are upstream's way of leaving a value out.
                        if Quantity::of_value(&v).is_ok_and(Quantity::is_zero)
                            && amount.contains_key("averageValue")
                        {
                            return;
                        }
                        if prefix == "target" && !amount.contains_key("type") {
                            amount.insert("type".to_owned(), json!(kind));
                        }
                        amount.insert(to.to_owned(), v);
                    }
                };
                let average = if field == "object" {
                    "averageValue".to_owned()
                } else {
                    format!("{prefix}AverageValue")
                };
                take(source, format!("{prefix}AverageUtilization"), "averageUtilization", "Utilization");
                take(source, average, "averageValue", "AverageValue");
                take(source, format!("{prefix}Value"), "value", "Value");
                if field == "object"
                    && let Some(described) = source.shift_remove("target")
                {
                    source.insert("describedObject".to_owned(), described);
                }
                let name = source.shift_remove("metricName");
                let selector =
                    source.shift_remove(if field == "external" { "metricSelector" } else { "selector" });
                if name.is_some() || selector.is_some() {
                    let mut metric = Map::new();
                    metric.extend(name.map(|n| ("name".to_owned(), n)));
                    metric.extend(selector.map(|s| ("selector".to_owned(), s)));
                    source.insert("metric".to_owned(), Value::Object(metric));
                }
                source.insert(noun.to_owned(), Value::Object(amount));
            }
        }
    }
}

fn v2beta1_from_storage(obj: &mut Value) {
    for (part, list, noun, prefix) in
        [("spec", "metrics", "target", "target"), ("status", "currentMetrics", "current", "current")]
    {
        let Some(part) = obj.get_mut(part).and_then(Value::as_object_mut) else { continue };
        part.shift_remove("behavior");
        for metric in each(part, list) {
            for field in SOURCES {
                let Some(source) = sub(metric, field) else { continue };
                let amount = source.shift_remove(noun).unwrap_or_default();
                if let Some(described) = source.shift_remove("describedObject") {
                    source.insert("target".to_owned(), described);
                }
                let average = if field == "object" {
                    "averageValue".to_owned()
                } else {
                    format!("{prefix}AverageValue")
                };
                for (from, to) in [
                    ("averageUtilization", format!("{prefix}AverageUtilization")),
                    ("averageValue", average),
                    ("value", format!("{prefix}Value")),
                ] {
                    if !amount[from].is_null() {
                        source.insert(to, amount[from].clone());
                    }
                }
                if let Some(metric) = source.shift_remove("metric") {
                    if !metric["name"].is_null() {
                        source.insert("metricName".to_owned(), metric["name"].clone());
                    }
                    if !metric["selector"].is_null() {
                        let key = if field == "external" { "metricSelector" } else { "selector" };
                        source.insert(key.to_owned(), metric["selector"].clone());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_keeps_what_it_cannot_say() {
        let v2 = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
            {"type": "Pods", "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "1"}}}]},
            "status": {"conditions": [{"type": "AbleToScale"}]}});
        let mut v1 = v2.clone();
        v1_from_storage(&mut v1);
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 80);
        assert!(v1["spec"].get("metrics").is_none());
        v1_to_storage(&mut v1);
        assert_eq!(v1, v2);
    }

    #[test]
    fn v2beta1_has_other_names() {
        let v2 = json!({"spec": {"metrics": [
            {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}},
            {"type": "Pods", "pods": {"metric": {"name": "x"}, "target": {"type": "AverageValue", "averageValue": "1"}}},
            {"type": "Object", "object": {"describedObject": {"kind": "S"}, "metric": {"name": "y"}, "target": {"type": "Value", "value": "2"}}}]}});
        let mut beta = v2.clone();
        v2beta1_from_storage(&mut beta);
        assert_eq!(
            beta["spec"]["metrics"][0]["resource"],
            json!({"name": "cpu", "targetAverageUtilization": 80})
        );
        assert_eq!(
            beta["spec"]["metrics"][2]["object"],
            json!({"target": {"kind": "S"}, "targetValue": "2", "metricName": "y"})
        );
        v2beta1_to_storage(&mut beta);
        assert_eq!(beta, v2);
    }
}
