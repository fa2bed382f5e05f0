//! ReplicaSets and ReplicationControllers.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::deployment::{check_lasting_template, replica_paths};
use super::registry::{Decl, PLAIN};
use super::strategy::ScalePaths;
use super::{Strategy, podspec};
use crate::field::{ErrorList, Path};
use crate::selector::Label;
use crate::{meta, validate};

const COLUMNS: &[Column] = &[
    Column::name(),
    Column::int("Desired"),
    Column::int("Current"),
    Column::int("Ready"),
    Column::text("Age"),
    Column::text("Containers").wide(),
    Column::text("Images").wide(),
    Column::text("Selector").wide(),
];

pub(super) const DECLS: &[Decl] = &[
    Decl {
        group: "apps",
        resource: "replicasets",
        template: Some("/spec/template"),
        short: &["rs"],
        categories: &["all"],
        strategy: || Arc::new(ReplicaSet),
        columns: Columns::Coded {
            columns: COLUMNS,
            cells: |o, now| cells(o, now, selector_cell(&o["spec"]["selector"])),
        },
        ..PLAIN
    },
    Decl {
        resource: "replicationcontrollers",
        template: Some("/spec/template"),
        short: &["rc"],
        categories: &["all"],
        strategy: || Arc::new(ReplicationController),
        columns: Columns::Coded {
            columns: COLUMNS,
            cells: |o, now| {
                cells(o, now, or_none(&Label::from_match_labels(&o["spec"]["selector"]).to_string()))
            },
        },
        ..PLAIN
    },
];

fn cells(o: &Value, now: Timestamp, selector: Value) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let [names, images] = containers_cells(&spec["template"]["spec"]);
    vec![
        name_cell(o),
        json!(int(&spec["replicas"])),
        json!(int(&status["replicas"])),
        json!(int(&status["readyReplicas"])),
        age_cell(o, now),
        names,
        images,
        selector,
    ]
}

const SELECTABLE: &[Cow<'static, str>] = &[Cow::Borrowed("status.replicas")];

fn check_status(new: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let status = &new["status"];
    let counts = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ];
    check_counts(&mut errors, status, &counts);
    for field in ["fullyLabeledReplicas", "readyReplicas", "availableReplicas"] {
        at_most(&mut errors, status, field, "replicas", "status.replicas");
    }
    at_most(&mut errors, status, "availableReplicas", "readyReplicas", "readyReplicas");
    errors
}

struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        set(spec, "replicas", 1);
        podspec::default(meta::entry(meta::entry(spec, "template"), "spec"));
    }

    fn prepare_create(&self, obj: &mut Value) {
        meta::as_map(obj).insert("status".to_owned(), json!({"replicas": 0}));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        for field in ["replicas", "minReadySeconds"] {
            non_negative(&mut errors, &path.child(field), &spec[field]);
        }
        // So upstream calls it.
        check_template_selector(&mut errors, spec, "deployment");
        check_lasting_template(&mut errors, &spec["template"], "ReplicaSet");
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        check_status(new)
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        name_in_hostnames(obj)
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

    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        SELECTABLE
    }

    fn scale_paths(&self) -> Option<ScalePaths> {
        replica_paths()
    }
}

struct ReplicationController;

impl Strategy for ReplicationController {
    fn orphans(&self, api_version: &str) -> bool {
        api_version == "v1"
    }

    fn default(&self, obj: &mut Value) {
        let labels = obj["spec"]["template"]["metadata"]["labels"].clone();
        if !empty(&labels) {
            if empty(&obj["spec"]["selector"]) {
                meta::child(obj, "spec").insert("selector".to_owned(), labels.clone());
            }
            if empty(&meta::of(obj)["labels"]) {
                meta::of_mut(obj).insert("labels".to_owned(), labels);
            }
        }
        let spec = meta::child(obj, "spec");
        set(spec, "replicas", 1);
        if let Some(template) = sub(spec, "template") {
            podspec::default(meta::entry(template, "spec"));
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        meta::as_map(obj).insert("status".to_owned(), json!({"replicas": 0}));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        non_negative(&mut errors, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
        let (selector, template) = (&spec["selector"], &spec["template"]);
        if empty(selector) {
            errors.required(&path.child("selector"), "");
        }
        non_negative(&mut errors, &path.child("replicas"), &spec["replicas"]);
        let at = path.child("template");
        if template.is_null() {
            errors.required(&at, "");
            return errors;
        }
        let labels = &template["metadata"]["labels"];
        if !empty(selector) && !Label::from_match_labels(selector).matches(labels) {
            let at = at.child("metadata").child("labels");
            errors.invalid(&at, labels, "`selector` does not match template `labels`");
        }
        check_lasting_template(&mut errors, template, "ReplicationController");
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        check_status(new)
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        name_in_hostnames(obj)
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::dns_subdomain_name(name, prefix)
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        SELECTABLE
    }

    fn scale_paths(&self) -> Option<ScalePaths> {
        replica_paths()
    }
}
