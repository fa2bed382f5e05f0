//! DaemonSets, StatefulSets, and the ControllerRevisions in which both keep their history.

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::deployment::{check_amount, replica_paths};
use super::registry::{Decl, PLAIN};
use super::strategy::ScalePaths;
use super::{Strategy, podspec, volumes};
use crate::field::{ErrorList, Path};
use crate::meta;

pub(super) const DECLS: &[Decl] = &[
    Decl {
        group: "apps",
        resource: "daemonsets",
        template: Some("/spec/template"),
        short: &["ds"],
        categories: &["all"],
        strategy: || Arc::new(DaemonSet),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::int("Desired"),
                Column::int("Current"),
                Column::int("Ready"),
                Column::int("Up-to-date"),
                Column::int("Available"),
                Column::text("Node Selector"),
                Column::text("Age"),
                Column::text("Containers").wide(),
                Column::text("Images").wide(),
                Column::text("Selector").wide(),
            ],
            cells: |o, now| {
                let (spec, status) = (&o["spec"], &o["status"]);
                let template = &spec["template"]["spec"];
                let [names, images] = containers_cells(template);
                let nodes = crate::selector::Label::from_match_labels(&template["nodeSelector"]).to_string();
                vec![
                    name_cell(o),
                    json!(int(&status["desiredNumberScheduled"])),
                    json!(int(&status["currentNumberScheduled"])),
                    json!(int(&status["numberReady"])),
                    json!(int(&status["updatedNumberScheduled"])),
                    json!(int(&status["numberAvailable"])),
                    or_none(&nodes),
                    age_cell(o, now),
                    names,
                    images,
                    selector_cell(&spec["selector"]),
                ]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "apps",
        resource: "statefulsets",
        template: Some("/spec/template"),
        short: &["sts"],
        categories: &["all"],
        strategy: || Arc::new(StatefulSet),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Ready"),
                Column::text("Age"),
                Column::text("Containers").wide(),
                Column::text("Images").wide(),
            ],
            cells: |o, now| {
                let [names, images] = containers_cells(&o["spec"]["template"]["spec"]);
                let ready = format!("{}/{}", int(&o["status"]["readyReplicas"]), int(&o["spec"]["replicas"]));
                vec![name_cell(o), json!(ready), age_cell(o, now), names, images]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "apps",
        resource: "controllerrevisions",
        strategy: || Arc::new(ControllerRevision),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Controller"),
                Column::text("Revision"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let owner = meta::controller_of(o).map_or_else(
                    || "<none>".to_owned(),
                    |r| {
                        let group =
                            r.api_version.split_once('/').map(|(g, _)| format!(".{g}")).unwrap_or_default();
                        format!("{}{group}/{}", r.kind.to_lowercase(), r.name)
                    },
                );
                vec![name_cell(o), json!(owner), json!(int(&o["revision"])), age_cell(o, now)]
            },
        },
        ..PLAIN
    },
];

struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        non_negative(&mut errors, &Path::new("revision"), &obj["revision"]);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(&mut errors, &Path::new("data"), &new["data"], &old["data"]);
        errors
    }
}

struct DaemonSet;

fn check_template(errors: &mut ErrorList, spec: &Value) {
    let at = Path::new("spec").child("template");
    podspec::validate_template(errors, &spec["template"], &at);
    let policy = &spec["template"]["spec"]["restartPolicy"];
    if policy != "Always" {
        errors.not_supported(&at.child("spec").child("restartPolicy"), policy, &["Always"]);
    }
}

impl Strategy for DaemonSet {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        set(spec, "revisionHistoryLimit", 10);
        let strategy = meta::entry(spec, "updateStrategy");
        set_text(strategy, "type", "RollingUpdate");
        if strategy.get("type").is_some_and(|t| t == "RollingUpdate") {
            let rolling = meta::entry(strategy, "rollingUpdate");
            set(rolling, "maxUnavailable", 1);
            set(rolling, "maxSurge", 0);
        }
        podspec::default(meta::entry(meta::entry(spec, "template"), "spec"));
    }

    fn no_status(&self) -> Value {
        json!({"currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0})
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        check_template_selector(&mut errors, spec);
        check_template(&mut errors, spec);
        for field in ["minReadySeconds", "revisionHistoryLimit"] {
            non_negative(&mut errors, &path.child(field), &spec[field]);
        }
        let (strategy, at) = (&spec["updateStrategy"], path.child("updateStrategy"));
        one_of(&mut errors, &at.child("type"), &strategy["type"], &["RollingUpdate", "OnDelete"]);
        if strategy["type"] == "RollingUpdate" {
            let at = at.child("rollingUpdate");
            for field in ["maxUnavailable", "maxSurge"] {
                check_amount(&mut errors, &at.child(field), &strategy["rollingUpdate"][field], true);
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(
            &mut errors,
            &Path::new("spec").child("selector"),
            &new["spec"]["selector"],
            &old["spec"]["selector"],
        );
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

struct StatefulSet;

impl Strategy for StatefulSet {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        set_text(spec, "podManagementPolicy", "OrderedReady");
        set(spec, "replicas", 1);
        set(spec, "revisionHistoryLimit", 10);
        let strategy = meta::entry(spec, "updateStrategy");
        set_text(strategy, "type", "RollingUpdate");
        if strategy.get("type").is_some_and(|t| t == "RollingUpdate") {
            set(meta::entry(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = meta::entry(spec, "persistentVolumeClaimRetentionPolicy");
        set_text(retention, "whenDeleted", "Retain");
        set_text(retention, "whenScaled", "Retain");
        podspec::default(meta::entry(meta::entry(spec, "template"), "spec"));
        for claim in each(spec, "volumeClaimTemplates") {
            claim.insert("apiVersion".to_owned(), json!("v1"));
            claim.insert("kind".to_owned(), json!("PersistentVolumeClaim"));
            volumes::default_claim(claim);
        }
    }

    /// Its pods are called after it, and by their names they are found.
    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        crate::validate::dns_label_name(name, prefix)
    }

    fn no_status(&self) -> Value {
        json!({"replicas": 0, "availableReplicas": 0})
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        one_of(
            &mut errors,
            &path.child("podManagementPolicy"),
            &spec["podManagementPolicy"],
            &["OrderedReady", "Parallel"],
        );
        one_of(
            &mut errors,
            &path.child("updateStrategy").child("type"),
            &spec["updateStrategy"]["type"],
            &["RollingUpdate", "OnDelete"],
        );
        let partition = &spec["updateStrategy"]["rollingUpdate"]["partition"];
        non_negative(
            &mut errors,
            &path.child("updateStrategy").child("rollingUpdate").child("partition"),
            partition,
        );
        for field in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
            non_negative(&mut errors, &path.child(field), &spec[field]);
        }
        check_template_selector(&mut errors, spec);
        check_template(&mut errors, &json!({"template": podspec::with_claims(spec)}));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut rest = new["spec"].clone();
        let map = meta::as_map(&mut rest);
        for field in [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
            "revisionHistoryLimit",
        ] {
            match old["spec"].get(field) {
                Some(v) => map.insert(field.to_owned(), v.clone()),
                None => map.shift_remove(field),
            };
        }
        if rest != old["spec"] {
            errors.forbidden(
                &Path::new("spec"),
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn scale_paths(&self) -> Option<ScalePaths> {
        replica_paths()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_stateful_sets_are_labels_of_hosts() {
        for (name, good) in [("web", true), ("web.example", false), ("Web", false)] {
            assert_eq!(StatefulSet.check_name(name, false).is_empty(), good, "{name}");
        }
        assert!(DaemonSet.check_name("web.example", false).is_empty());
        assert!(StatefulSet.check_name("web-", true).is_empty());
    }
}
