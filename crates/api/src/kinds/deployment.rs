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

/// A number or percentage that must not be negative.
pub(super) fn check_amount(errors: &mut ErrorList, path: &Path, value: &Value) {
    match value {
        Value::String(_) if !intstr::is_percent(value) => {
            errors.invalid(path, value, "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
        }
        Value::Number(_) => non_negative(errors, path, value),
        _ => {}
    }
}

/// No percentage of more than all.
pub(super) fn check_at_most_all(errors: &mut ErrorList, path: &Path, value: &Value) {
    if intstr::is_percent(value) && intstr::scaled(value, 100, false).is_ok_and(|n| n > 100) {
        errors.invalid(path, value, "must not be greater than 100%");
    }
}

/// Does it come to nothing of a hundred?
pub(super) fn is_none_of(value: &Value) -> bool {
    match value {
        Value::String(text) if !intstr::is_percent(value) => text.parse().unwrap_or(0) == 0,
        _ => intstr::scaled(value, 100, false).unwrap_or(0) == 0,
    }
}

/// The template of pods that run on and on. `of`: whose it is.
pub(super) fn check_lasting_template(errors: &mut ErrorList, template: &Value, of: &str) {
    let at = Path::new("spec").child("template");
    podspec::validate_template(errors, template, &at);
    let (policy, at) = (&template["spec"]["restartPolicy"], at.child("spec"));
    if policy != "Always" {
        errors.not_supported(&at.child("restartPolicy"), policy, &["Always"]);
    }
    if !template["spec"]["activeDeadlineSeconds"].is_null() {
        let why = format!("activeDeadlineSeconds in {of} is not Supported");
        errors.forbidden(&at.child("activeDeadlineSeconds"), why);
    }
}

/// How a strategy of an unknown type is shown: in upstream's own form of it.
pub(super) fn shown_strategy(strategy: &Value) -> Value {
    json!({"Type": text(&strategy["type"]), "RollingUpdate": strategy["rollingUpdate"]})
}

fn check_strategy(errors: &mut ErrorList, strategy: &Value, path: &Path) {
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(&strategy["type"]) {
        "Recreate" if !rolling.is_null() => {
            errors.forbidden(&at, "may not be specified when strategy `type` is 'Recreate'");
        }
        "Recreate" => {}
        "RollingUpdate" if rolling.is_null() => {
            errors.required(&at, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => {
            let (gone, more) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            check_amount(errors, &at.child("maxUnavailable"), gone);
            check_amount(errors, &at.child("maxSurge"), more);
            if is_none_of(gone) && is_none_of(more) {
                let why = "may not be 0 when `maxSurge` is 0";
                errors.invalid(&at.child("maxUnavailable"), gone, why);
            }
            check_at_most_all(errors, &at.child("maxUnavailable"), gone);
        }
        _ => errors.not_supported(path, &shown_strategy(strategy), &["Recreate", "RollingUpdate"]),
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

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        non_negative(&mut errors, &path.child("replicas"), &spec["replicas"]);
        check_template_selector(&mut errors, spec, "deployment");
        check_lasting_template(&mut errors, &spec["template"], "ReplicaSet");
        check_strategy(&mut errors, &spec["strategy"], &path.child("strategy"));
        for field in ["minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds"] {
            non_negative(&mut errors, &path.child(field), &spec[field]);
        }
        let deadline = &spec["progressDeadlineSeconds"];
        if deadline.as_i64().is_some_and(|n| n <= int(&spec["minReadySeconds"])) {
            let at = path.child("progressDeadlineSeconds");
            errors.invalid(&at, deadline, "must be greater than minReadySeconds");
        }
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let status = &new["status"];
        let counts = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ];
        check_counts(&mut errors, status, &counts);
        for field in ["updatedReplicas", "readyReplicas", "availableReplicas"] {
            at_most(&mut errors, status, field, "replicas", "status.replicas");
        }
        at_most(&mut errors, status, "availableReplicas", "readyReplicas", "readyReplicas");
        check_collisions(&mut errors, new, old);
        errors
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        name_in_hostnames(obj)
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
    fn raising_metadata(&self) -> &[&str] {
        &["annotations"]
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
