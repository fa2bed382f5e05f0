//! HorizontalPodAutoscalers, in all their shapes; stored as autoscaling/v2.

mod check;

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Strategy};
use crate::field::ErrorList;
use crate::quantity::Quantity;
use crate::schema::TypeId;
use crate::{Map, codec, meta};

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

/// What a metric can be of; which it is says its type.
const SOURCES: [&str; 5] = ["resource", "containerResource", "pods", "object", "external"];

/// The field of a metric spec or status that holds its source, by its type.
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
        let of_containers = matches!(field, "resource" | "containerResource");
        list.push(if field.is_empty() {
            "<unknown type>".to_owned()
        } else if of_containers && target["averageValue"].is_null() {
            let current = match &current["averageUtilization"] {
                Value::Null => "<unknown>".to_owned(),
                n => format!("{n}%"),
            };
            let target = match &target["averageUtilization"] {
                Value::Null => "<auto>".to_owned(),
                n => format!("{n}%"),
            };
            format!("{prefix}{current}/{target}")
        } else if !target["averageValue"].is_null() {
            format!(
                "{prefix}{}/{}{}",
                show(&current["averageValue"]),
                show(&target["averageValue"]),
                if matches!(field, "object" | "external") { " (avg)" } else { "" }
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
        for key in CARRIED {
            remove_annotation(obj, key);
        }
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
        check::autoscaler(&mut errors, obj, None);
        errors
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::autoscaler(&mut errors, new, Some(old));
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_counts(&mut errors, &new["status"], &["currentReplicas", "desiredReplicas"]);
        errors
    }
}

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// Annotations in which older versions carry what they have no field for. The storage version has fields for all of it: there they
/// say nothing and are not kept.
const CARRIED: [&str; 4] = [METRICS, CURRENT, CONDITIONS, BEHAVIOR];

fn remove_annotation(obj: &mut Value, key: &str) -> Option<Value> {
    let metadata = obj.get_mut("metadata")?.as_object_mut()?;
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let taken = annotations.shift_remove(key)?;
    if annotations.is_empty() {
        metadata.shift_remove("annotations");
    }
    Some(taken)
}

/// What an annotation carries; nothing if that is not of this type of the group.
fn take_annotation(obj: &mut Value, key: &str, of: &str) -> Option<Value> {
    let mut value = serde_json::from_str(remove_annotation(obj, key)?.as_str()?).ok()?;
    let schema = TypeId::named(&format!("io.k8s.api.autoscaling.{of}"))?.schema();
    let fit = match &mut value {
        Value::Array(list) if key != BEHAVIOR => list.iter_mut().all(|item| codec::fits(item, schema)),
        Value::Object(behavior) if key == BEHAVIOR => {
            recased(behavior, char::to_lowercase);
            codec::fits(&mut value, schema)
        }
        _ => false,
    };
    fit.then_some(value)
}

/// Gives every key another first letter. Upstream carries the behaviour in the form of its own program, whose fields begin with
/// capitals, and reads it either way.
fn recased<I: Iterator<Item = char>>(map: &mut Map, case: fn(char) -> I) {
    for (key, mut value) in std::mem::take(map) {
        match &mut value {
            Value::Object(inner) => recased(inner, case),
            Value::Array(list) => {
                list.iter_mut().filter_map(Value::as_object_mut).for_each(|item| recased(item, case))
            }
            _ => {}
        }
        let mut letters = key.chars();
        let key = letters.next().into_iter().flat_map(case).chain(letters).collect();
        map.insert(key, value);
    }
}

fn behavior_to_storage(obj: &mut Value) {
    let behavior = take_annotation(obj, BEHAVIOR, "v2.HorizontalPodAutoscalerBehavior");
    if let Some(behavior) = behavior.filter(|b| !empty(b)) {
        meta::child(obj, "spec").insert("behavior".to_owned(), behavior);
    }
}

fn behavior_from_storage(obj: &mut Value) {
    if let Some(Value::Object(mut behavior)) = meta::child(obj, "spec").shift_remove("behavior") {
        recased(&mut behavior, char::to_uppercase);
        meta::set_annotation(obj, BEHAVIOR, Value::Object(behavior).to_string());
    }
}

/// v1 knows one metric, CPU; all metrics and the rest of the status are carried in annotations, in v2beta1's shapes.
fn v1_to_storage(obj: &mut Value) {
    let mut lists = [(METRICS, "v2beta1.MetricSpec", "target"), (CURRENT, "v2beta1.MetricStatus", "current")]
        .map(|(key, of, noun)| {
            let mut list = take_annotation(obj, key, of)?;
            let metrics = list.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
            metrics.for_each(|metric| metric_to_storage(metric, noun));
            Some(list)
        });
    let conditions = take_annotation(obj, CONDITIONS, "v2.HorizontalPodAutoscalerCondition");
    behavior_to_storage(obj);
    let spec = meta::child(obj, "spec");
    let mut metrics = lists[0].take().unwrap_or_else(|| json!([]));
    if let (Some(percent), Some(list)) =
        (spec.shift_remove("targetCPUUtilizationPercentage"), metrics.as_array_mut())
    {
        // First, where most have it, so that a change through this version moves nothing there.
        list.insert(
            0,
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent}}}),
        );
    }
    if !empty(&metrics) {
        spec.insert("metrics".to_owned(), metrics);
    }
    if let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) {
        let cpu = status.shift_remove("currentCPUUtilizationPercentage").map(|percent| {
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}}])
        });
        if status.get("currentReplicas").is_some_and(|n| n == &json!(0)) {
            status.shift_remove("currentReplicas");
        }
        // The annotation knows more of CPU than the field.
        if let Some(current) = lists[1].take().or(cpu) {
            status.insert("currentMetrics".to_owned(), current);
        }
        if let Some(conditions) = conditions {
            status.insert("conditions".to_owned(), conditions);
        }
    }
}

/// Where in a list of metrics the first CPU utilization is.
fn cpu_at(list: &[Value], noun: &str) -> Option<usize> {
    list.iter().position(|m| {
        m["type"] == "Resource"
            && m["resource"]["name"] == "cpu"
            && !m["resource"][noun]["averageUtilization"].is_null()
    })
}

fn v1_from_storage(obj: &mut Value) {
    let mut notes: Vec<(&str, Value)> = Vec::new();
    let mut carry = |key: &'static str, noun: &str, mut list: Vec<Value>| {
        list.iter_mut().filter_map(Value::as_object_mut).for_each(|m| metric_from_storage(m, noun));
        if !list.is_empty() {
            notes.push((key, json!(list)));
        }
    };
    let spec = meta::child(obj, "spec");
    if let Some(Value::Array(mut metrics)) = spec.shift_remove("metrics") {
        if let Some(at) = cpu_at(&metrics, "target") {
            let cpu = metrics.remove(at);
            let percent = cpu["resource"]["target"]["averageUtilization"].clone();
            spec.insert("targetCPUUtilizationPercentage".to_owned(), percent);
        }
        carry(METRICS, "target", metrics);
    }
    if let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) {
        if let Some(Value::Array(current)) = status.shift_remove("currentMetrics") {
            if let Some(at) = cpu_at(&current, "current") {
                let percent = current[at]["resource"]["current"]["averageUtilization"].clone();
                status.insert("currentCPUUtilizationPercentage".to_owned(), percent);
            }
            carry(CURRENT, "current", current);
        }
        // There it is always said, and in v2 only if there are any.
        set(status, "currentReplicas", 0);
        if let Some(conditions) = status.shift_remove("conditions").filter(|c| !empty(c)) {
            notes.push((CONDITIONS, conditions));
        }
    }
    for (key, value) in notes {
        meta::set_annotation(obj, key, value.to_string());
    }
    behavior_from_storage(obj);
}

/// The lists of metrics, each with the noun that its fields have: what is wanted, and what is.
const LISTS: [(&str, &str, &str); 2] =
    [("spec", "metrics", "target"), ("status", "currentMetrics", "current")];

/// What v2beta1 calls the average of a source.
fn average(field: &str, noun: &str) -> String {
    if field == "object" { "averageValue".to_owned() } else { format!("{noun}AverageValue") }
}

/// The amount of a source that v2beta1 never leaves out; where there is none it is zero.
fn never_left_out(field: &str, noun: &str) -> Option<String> {
    match (noun, field) {
        ("target", "object") | ("current", "object" | "external") => Some(format!("{noun}Value")),
        ("target", "pods") | ("current", _) => Some(average(field, noun)),
        _ => None,
    }
}

/// v2beta1 has `targetAverageUtilization`, `targetAverageValue`, `targetValue`, `metricName`, `metricSelector` where v2 has a target
/// and a metric.
fn metric_to_storage(metric: &mut Map, noun: &str) {
    for field in SOURCES {
        let Some(source) = sub(metric, field) else { continue };
        let mut amount = Map::new();
        let mut take = |source: &mut Map, from: String, to: &str, kind: &str| {
            if let Some(v) = source.shift_remove(&from).filter(|v| !v.is_null()) {
                // Zero quantities are upstream's way of leaving a value out.
                if Quantity::of_value(&v).is_ok_and(Quantity::is_zero) && amount.contains_key("averageValue")
                {
                    return;
                }
                if noun == "target" && !amount.contains_key("type") {
                    amount.insert("type".to_owned(), json!(kind));
                }
                amount.insert(to.to_owned(), v);
            }
        };
        take(source, format!("{noun}AverageUtilization"), "averageUtilization", "Utilization");
        take(source, average(field, noun), "averageValue", "AverageValue");
        take(source, format!("{noun}Value"), "value", "Value");
        if field == "object"
            && let Some(described) = source.shift_remove("target")
        {
            source.insert("describedObject".to_owned(), described);
        }
        let name = source.shift_remove("metricName");
        let selector = source.shift_remove(if field == "external" { "metricSelector" } else { "selector" });
        if name.is_some() || selector.is_some() {
            let mut metric = Map::new();
            metric.extend(name.map(|n| ("name".to_owned(), n)));
            metric.extend(selector.map(|s| ("selector".to_owned(), s)));
            source.insert("metric".to_owned(), Value::Object(metric));
        }
        source.insert(noun.to_owned(), Value::Object(amount));
    }
}

fn metric_from_storage(metric: &mut Map, noun: &str) {
    for field in SOURCES {
        let Some(source) = sub(metric, field) else { continue };
        let amount = source.shift_remove(noun).unwrap_or_default();
        if let Some(described) = source.shift_remove("describedObject") {
            source.insert("target".to_owned(), described);
        }
        for (from, to) in [
            ("averageUtilization", format!("{noun}AverageUtilization")),
            ("averageValue", average(field, noun)),
            ("value", format!("{noun}Value")),
        ] {
            if !amount[from].is_null() {
                source.insert(to, amount[from].clone());
            }
        }
        if let Some(amount) = never_left_out(field, noun) {
            set(source, &amount, "0");
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

fn each_metric(obj: &mut Value, change: fn(&mut Map, &str)) {
    for (part, list, noun) in LISTS {
        let Some(part) = obj.get_mut(part).and_then(Value::as_object_mut) else { continue };
        each(part, list).for_each(|metric| change(metric, noun));
    }
}

/// v2beta1 has another shape of metrics, and carries the behaviour in an annotation.
fn v2beta1_to_storage(obj: &mut Value) {
    each_metric(obj, metric_to_storage);
    behavior_to_storage(obj);
}

fn v2beta1_from_storage(obj: &mut Value) {
    each_metric(obj, metric_from_storage);
    behavior_from_storage(obj);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_shown_with_what_they_are() {
        let one = |kind: &str, name: &str, target: Value, current: Value| {
            let field = source_field(kind);
            let spec = json!({"metrics": [{"type": kind, field: {"name": name, "target": target}}]});
            targets(&spec, &json!({"currentMetrics": [{field: {"current": current}}]}))
        };
        let none = json!(null);
        for (kind, name, target, current, want) in [
            (
                "Resource",
                "cpu",
                json!({"averageUtilization": 80}),
                json!({"averageUtilization": 5}),
                "cpu: 5%/80%",
            ),
            ("Resource", "cpu", json!({"averageUtilization": 80}), none.clone(), "cpu: <unknown>/80%"),
            ("Resource", "cpu", json!({}), json!({"averageUtilization": 5}), "cpu: 5%/<auto>"),
            ("Resource", "cpu", json!({"averageValue": "1"}), json!({"averageValue": "2"}), "cpu: 2/1"),
            ("ContainerResource", "cpu", json!({"averageValue": "1"}), none.clone(), "cpu: <unknown>/1"),
            ("ContainerResource", "cpu", json!({}), none.clone(), "cpu: <unknown>/<auto>"),
            ("Pods", "", json!({"averageValue": "1"}), json!({"averageValue": "2"}), "2/1"),
            ("Object", "", json!({"averageValue": "1"}), json!({"averageValue": "2"}), "2/1 (avg)"),
            ("Object", "", json!({"value": "1"}), json!({"value": "2"}), "2/1"),
            ("External", "", json!({"averageValue": "1"}), none.clone(), "<unknown>/1 (avg)"),
            ("External", "", json!({"value": "1"}), json!({"value": "2"}), "2/1"),
            ("Odd", "", none.clone(), none.clone(), "<unknown type>"),
        ] {
            assert_eq!(one(kind, name, target, current), want, "{kind}");
        }
    }

    /// All that the storage version can say.
    fn whole() -> Value {
        json!({"metadata": {"name": "h", "namespace": "n"}, "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
            "minReplicas": 2, "maxReplicas": 3,
            "metrics": [
                {"type": "Resource", "resource": {"name": "cpu",
                    "target": {"type": "Utilization", "averageUtilization": 80}}},
                {"type": "Pods", "pods": {"metric": {"name": "x", "selector": {"matchLabels": {"a": "b"}}},
                    "target": {"type": "AverageValue", "averageValue": "1"}}},
                {"type": "Object", "object": {"describedObject": {"kind": "S", "name": "s"}, "metric": {"name": "y"},
                    "target": {"type": "AverageValue", "averageValue": "2"}}},
                {"type": "External", "external": {"metric": {"name": "z", "selector": {"matchLabels": {"c": "d"}}},
                    "target": {"type": "Value", "value": "3"}}},
                {"type": "ContainerResource", "containerResource": {"name": "memory", "container": "c",
                    "target": {"type": "Utilization", "averageUtilization": 70}}}],
            "behavior": {"scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "tolerance": "100m",
                "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}}},
            "status": {"desiredReplicas": 2, "currentReplicas": 2,
                "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [
                    {"type": "Resource", "resource": {"name": "cpu",
                        "current": {"averageUtilization": 0, "averageValue": "0"}}},
                    {"type": "Pods", "pods": {"metric": {"name": "x"}, "current": {"averageValue": "1"}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "S", "name": "s"},
                        "metric": {"name": "y"}, "current": {"averageValue": "5"}}}]}})
    }

    const VERSIONS: [&str; 4] = ["v1", "v2beta1", "v2beta2", "v2"];

    fn kind() -> &'static crate::kinds::Kind {
        crate::kinds::by_gvr(&crate::names::Gvr::new("autoscaling", "v2", "horizontalpodautoscalers"))
            .unwrap()
    }

    #[test]
    fn nothing_is_lost_through_any_version() {
        for name in VERSIONS {
            let version = kind().served("autoscaling", name).unwrap();
            let mut sent = whole();
            sent["apiVersion"] = json!("autoscaling/v2");
            let old = sent.clone();
            kind().from_storage(&mut sent, version);
            assert!(codec::fits(&mut sent.clone(), version.schema()), "{name}: {sent}");
            kind().to_storage(&mut sent).unwrap();
            kind().keep_unsaid(version, &old, &mut sent);
            assert_eq!(sent, old, "{name}");
        }
    }

    #[test]
    fn annotations_are_in_the_shapes_that_upstream_reads() {
        let note = |obj: &Value, key: &str| -> Value {
            serde_json::from_str(meta::annotation(obj, key).unwrap()).unwrap()
        };
        let mut v1 = whole();
        v1_from_storage(&mut v1);
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 80);
        assert_eq!(v1["status"]["currentCPUUtilizationPercentage"], 0);
        assert!(v1["spec"].get("metrics").is_none());
        let metrics = note(&v1, METRICS);
        assert_eq!(metrics.as_array().unwrap().len(), 4);
        assert_eq!(
            metrics[0],
            json!({"type": "Pods", "pods": {"metricName": "x", "selector": {"matchLabels": {"a": "b"}}, "targetAverageValue": "1"}})
        );
        assert_eq!(
            metrics[1]["object"],
            json!({"target": {"kind": "S", "name": "s"}, "averageValue": "2", "targetValue": "0", "metricName": "y"})
        );
        // All of them, also the one that has a field: the annotation says more of it.
        let current = note(&v1, CURRENT);
        assert_eq!(
            current[0]["resource"],
            json!({"name": "cpu", "currentAverageUtilization": 0, "currentAverageValue": "0"})
        );
        assert_eq!(current.as_array().unwrap().len(), 3);
        assert_eq!(note(&v1, CONDITIONS), json!([{"type": "AbleToScale", "status": "True"}]));
        let behavior = json!({"ScaleUp": {"StabilizationWindowSeconds": 0, "SelectPolicy": "Max", "Tolerance": "100m",
            "Policies": [{"Type": "Pods", "Value": 4, "PeriodSeconds": 15}]}});
        assert_eq!(note(&v1, BEHAVIOR), behavior);
        let mut beta = whole();
        v2beta1_from_storage(&mut beta);
        assert_eq!(note(&beta, BEHAVIOR), behavior);
        assert!(meta::annotation(&beta, METRICS).is_none() && beta["spec"].get("behavior").is_none());
    }

    #[test]
    fn annotations_that_carry_nothing_sensible_are_dropped() {
        for (name, text) in [
            ("v1", "no JSON"),
            ("v1", "[{\"type\": 7}]"),
            ("v1", "{}"),
            ("v2beta1", "{\"ScaleUp\": 5}"),
            ("v2beta2", "[]"),
            ("v2", "[]"),
        ] {
            let mut sent = json!({"apiVersion": format!("autoscaling/{name}"), "metadata": {"name": "h"}, "spec": {
                "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3}});
            for key in CARRIED {
                meta::set_annotation(&mut sent, key, text);
            }
            kind().to_storage(&mut sent).unwrap();
            kind().default(&mut sent);
            assert!(sent["metadata"].get("annotations").is_none(), "{name}: {sent}");
            assert!(sent["spec"].get("behavior").is_none());
            assert_eq!(sent["spec"]["metrics"][0]["resource"]["name"], "cpu");
        }
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
