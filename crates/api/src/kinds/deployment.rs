//! Deployments.

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::strategy::ScalePaths;
use super::{Strategy, podspec};
use crate::field::{ErrorList, Path};
use crate::{intstr, meta};

pub(super) const DECLS: &[Decl] = &[Decl {
    group: "apps",
    resource: "deployments",
    template: Some("/spec/template"),
    short: &["deploy"],
    categories: &["all"],
    strategy: || Arc::new(Deployment),
    columns: Columns::Coded {
        columns: &[
            Column::name(),
            Column::text("Ready"),
            Column::int("Up-to-date"),
            Column::int("Available"),
            Column::text("Age"),
            Column::text("Containers").wide(),
            Column::text("Images").wide(),
            Column::text("Selector").wide(),
        ],
        cells: |o, now| {
            let (spec, status) = (&o["spec"], &o["status"]);
            let [names, images] = containers_cells(&spec["template"]["spec"]);
            vec![
                name_cell(o),
                json!(format!("{}/{}", int(&status["readyReplicas"]), int(&spec["replicas"]))),
                json!(int(&status["updatedReplicas"])),
                json!(int(&status["availableReplicas"])),
                age_cell(o, now),
                names,
                images,
                selector_cell(&spec["selector"]),
            ]
        },
    },
    ..PLAIN
}];

/// Paths that all workloads with replicas share.
pub(super) fn replica_paths() -> Option<ScalePaths> {
    Some(ScalePaths {
        spec_replicas: "spec.replicas".into(),
        status_replicas: "status.replicas".into(),
        selector: Some("spec.selector".into()),
    })
}

/// A number or percentage that must not be negative, nor more than all.
pub(super) fn check_amount(errors: &mut ErrorList, path: &Path, value: &Value, at_most_all: bool) {
    match value {
        Value::String(_) if !intstr::is_percent(value) => {
            errors.invalid(path, value, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
        }
        Value::String(_) if at_most_all && intstr::scaled(value, 100, false).is_ok_and(|n| n > 100) => {
            errors.invalid(path, value, "must not be greater than 100%");
        }
        Value::Number(_) => non_negative(errors, path, value),
        _ => {}
    }
}

struct Deployment;

impl Strategy for Deployment {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        set(spec, "replicas", 1);
        set(spec, "revisionHistoryLimit", 10);
        set(spec, "progressDeadlineSeconds", 600);
        let strategy = meta::entry(spec, "strategy");
        set_text(strategy, "type", "RollingUpdate");
        if strategy.get("type").is_some_and(|t| t == "RollingUpdate") {
            let rolling = meta::entry(strategy, "rollingUpdate");
            set(rolling, "maxUnavailable", "25%");
            set(rolling, "maxSurge", "25%");
        }
        let template = meta::entry(spec, "template");
        podspec::default(meta::entry(template, "spec"));
    }

    fn no_status(&self) -> Value {
        json!({})
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
            non_negative(&mut errors, &path.child(field), &spec[field]);
        }
        check_template_selector(&mut errors, spec);
        let at = path.child("template");
        podspec::validate_template(&mut errors, &spec["template"], &at);
        let policy = &spec["template"]["spec"]["restartPolicy"];
        if policy != "Always" {
            errors.not_supported(&at.child("spec").child("restartPolicy"), policy, &["Always"]);
        }
        let (strategy, at) = (&spec["strategy"], path.child("strategy"));
        match text(&strategy["type"]) {
            "Recreate" => {
                if !strategy["rollingUpdate"].is_null() {
                    let why = "may not be specified when strategy `type` is 'Recreate'";
                    errors.forbidden(&at.child("rollingUpdate"), why);
                }
            }
            "RollingUpdate" => {
                let (rolling, at) = (&strategy["rollingUpdate"], at.child("rollingUpdate"));
                check_amount(&mut errors, &at.child("maxUnavailable"), &rolling["maxUnavailable"], true);
                check_amount(&mut errors, &at.child("maxSurge"), &rolling["maxSurge"], false);
                let zero = |v: &Value| v == &json!(0) || v == "0%";
                if zero(&rolling["maxUnavailable"]) && zero(&rolling["maxSurge"]) {
                    errors.invalid(
                        &at.child("maxUnavailable"),
                        &rolling["maxUnavailable"],
                        "may not be 0 when `maxSurge` is 0",
                    );
                }
            }
            _ => errors.not_supported(&at.child("type"), &strategy["type"], &["Recreate", "RollingUpdate"]),
        }
        let deadline = &spec["progressDeadlineSeconds"];
        non_negative(&mut errors, &path.child("progressDeadlineSeconds"), deadline);
        if int(deadline) <= int(&spec["minReadySeconds"]) {
            errors.invalid(
                &path.child("progressDeadlineSeconds"),
                deadline,
                "must be greater than minReadySeconds",
            );
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("selector");
        immutable(&mut errors, &path, &new["spec"]["selector"], &old["spec"]["selector"]);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    /// A rollout takes them over into its replica sets.
    fn annotations_raise_generation(&self) -> bool {
        true
    }

    fn scale_paths(&self) -> Option<ScalePaths> {
        replica_paths()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    #[test]
    fn defaults_selector_and_scale() {
        let kind = kinds::by_gvr(&gvr::DEPLOYMENTS).unwrap();
        let mut obj = json!({"metadata": {"name": "d", "namespace": "n"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}}}});
        kind.default(&mut obj);
        assert_eq!(kind.validate_create(&obj).message(), "[]");
        assert_eq!(
            obj["spec"]["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        let mut new = obj.clone();
        new["spec"]["selector"]["matchLabels"]["c"] = json!("d");
        let message = kind.validate_update(&new, &obj, "").message();
        assert!(message.contains("field is immutable"), "{message}");
        assert!(message.contains("`selector` does not match template `labels`"), "{message}");
        kind.set_scale(&mut new, 7);
        let scale = kind.scale_of(&new).unwrap();
        assert_eq!(scale["spec"], json!({"replicas": 7}));
        assert_eq!(scale["status"]["selector"], "a=b,c=d");
        let status = json!({"metadata": {"name": "d"}, "spec": {"replicas": 99}, "status": {"replicas": 1}});
        let mut update = status.clone();
        kind.prepare_update(&mut update, &obj, "status");
        assert_eq!((&update["spec"], &update["status"]), (&obj["spec"], &status["status"]));
        let mut update = obj.clone();
        update["status"] = json!({"replicas": 5});
        kind.prepare_update(&mut update, &obj, "");
        assert!(update.get("status").is_none());
    }
}
