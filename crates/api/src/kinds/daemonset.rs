//! DaemonSets, StatefulSets, and the ControllerRevisions in which both keep their history.

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::deployment::{
    check_amount, check_at_most_all, check_lasting_template, is_none_of, replica_paths, shown_strategy,
};
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

    fn validate_create(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        match &obj["data"] {
            Value::Object(_) => {}
            Value::Null => errors.required(&Path::new("data"), "data is mandatory"),
            _ => errors.required(&Path::new("data"), "data must be a valid JSON object"),
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(&mut errors, &Path::new("data"), &new["data"], &old["data"]);
        errors
    }
}

struct DaemonSet;

/// How often the template of a daemon set has changed: once a field, and still told to who looks for it.
const TEMPLATES: &str = "deprecated.daemonset.template.generation";

fn templates(obj: &Value) -> i64 {
    meta::annotation(obj, TEMPLATES).and_then(|n| n.parse().ok()).unwrap_or(0)
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

    fn prepare_create(&self, obj: &mut Value) {
        let n = templates(obj).max(1);
        meta::set_annotation(obj, TEMPLATES, n.to_string());
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        let changed = new["spec"]["template"] != old["spec"]["template"];
        meta::set_annotation(new, TEMPLATES, (templates(old) + i64::from(changed)).to_string());
    }

    fn prepare_status(&self, new: &mut Value, old: &Value) {
        meta::set_annotation(new, TEMPLATES, templates(old).to_string());
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        let (selector, at) = (&spec["selector"], path.child("selector"));
        check_selector(&mut errors, &at, selector);
        check_selects(&mut errors, spec);
        if !selector.is_null() && empty(&selector["matchLabels"]) && empty(&selector["matchExpressions"]) {
            errors.invalid(&at, selector, "empty selector is invalid for daemonset");
        }
        check_lasting_template(&mut errors, &spec["template"], "DaemonSet");
        non_negative(&mut errors, &path.child("minReadySeconds"), &spec["minReadySeconds"]);
        check_strategy(&mut errors, &spec["updateStrategy"], &path.child("updateStrategy"));
        non_negative(&mut errors, &path.child("revisionHistoryLimit"), &spec["revisionHistoryLimit"]);
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let counts = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        check_counts(&mut errors, &new["status"], &counts);
        check_collisions(&mut errors, new, old);
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

fn check_strategy(errors: &mut ErrorList, strategy: &Value, path: &Path) {
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(&strategy["type"]) {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => errors.required(&at, ""),
        "RollingUpdate" => {
            let (gone, more) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
            let (gone_at, more_at) = (at.child("maxUnavailable"), at.child("maxSurge"));
            for check in [check_amount, check_at_most_all] {
                check(errors, &gone_at, gone);
                check(errors, &more_at, more);
            }
            match (is_none_of(gone), is_none_of(more)) {
                (false, false) => {
                    errors.invalid(&more_at, more, "may not be set when maxUnavailable is non-zero");
                }
                (true, true) => errors.required(&gone_at, "cannot be 0 when maxSurge is 0"),
                _ => {}
            }
        }
        _ => errors.not_supported(path, &shown_strategy(strategy), &["RollingUpdate", "OnDelete"]),
    }
}

fn check_set_strategy(errors: &mut ErrorList, strategy: &Value, path: &Path) {
    let (rolling, at) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
    match text(&strategy["type"]) {
        "" => errors.required(path, ""),
        "OnDelete" if !rolling.is_null() => {
            errors.invalid(&at, rolling, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            non_negative(errors, &at.child("partition"), &rolling["partition"]);
            let (gone, at) = (&rolling["maxUnavailable"], at.child("maxUnavailable"));
            if !gone.is_null() {
                check_amount(errors, &at, gone);
                if is_none_of(gone) {
                    errors.invalid(&at, gone, "cannot be 0");
                }
                check_at_most_all(errors, &at, gone);
            }
        }
        _ => {
            let why = "must be 'RollingUpdate' or 'OnDelete'";
            errors.invalid(path, &shown_strategy(strategy), why);
        }
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
        if strategy.get("type").is_none_or(empty) {
            set_text(strategy, "type", "RollingUpdate");
            meta::entry(strategy, "rollingUpdate");
        }
        let rolling = strategy.get("type").is_some_and(|t| t == "RollingUpdate");
        if let Some(rolling) = sub(strategy, "rollingUpdate").filter(|_| rolling) {
            set(rolling, "partition", 0);
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
        let (policy, at) = (&spec["podManagementPolicy"], path.child("podManagementPolicy"));
        match text(policy) {
            "OrderedReady" | "Parallel" => {}
            "" => errors.required(&at, ""),
            _ => errors.invalid(&at, policy, "must be 'OrderedReady' or 'Parallel'"),
        }
        check_set_strategy(&mut errors, &spec["updateStrategy"], &path.child("updateStrategy"));
        let retention = &spec["persistentVolumeClaimRetentionPolicy"];
        for field in ["whenDeleted", "whenScaled"].into_iter().filter(|_| !retention.is_null()) {
            let (policy, policies) = (&retention[field], ["Retain", "Delete"]);
            if !policies.contains(&text(policy)) {
                let at = path.child("persistentVolumeClaimRetentionPolicy").child(field);
                errors.not_supported(&at, policy, &policies);
            }
        }
        for field in ["replicas", "minReadySeconds"] {
            non_negative(&mut errors, &path.child(field), &spec[field]);
        }
        non_negative(&mut errors, &path.child("ordinals.start"), &spec["ordinals"]["start"]);
        check_template_selector(&mut errors, spec, "statefulset");
        let mut template = podspec::with_claims(spec);
        // Each of its pods has its own.
        if let Some(pod) = template.get_mut("spec").and_then(Value::as_object_mut) {
            pod.shift_remove("hostname");
            pod.shift_remove("subdomain");
        }
        check_lasting_template(&mut errors, &template, "StatefulSet");
        errors
    }

    /// What cannot change later may have been otherwise before.
    fn validate_create(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        for (i, claim) in items(&spec["volumeClaimTemplates"]).iter().enumerate() {
            let at = path.child("volumeClaimTemplates").index(i);
            for e in volumes::check_claim(claim) {
                errors.push(e.kind, &at.child(&e.field), e.value, e.detail);
            }
        }
        if !empty(&spec["serviceName"]) {
            let at = path.child("serviceName");
            each_why(&mut errors, &at, &spec["serviceName"], crate::validate::dns_label);
        }
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let status = &new["status"];
        let counts = [
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ];
        check_counts(&mut errors, status, &counts);
        for field in ["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"] {
            at_most(&mut errors, status, field, "replicas", "status.replicas");
        }
        at_most(&mut errors, status, "availableReplicas", "readyReplicas", "status.readyReplicas");
        check_collisions(&mut errors, new, old);
        errors
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        let limit = int(&obj["spec"]["revisionHistoryLimit"]);
        let told = "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended";
        (limit < 0).then(|| told.to_owned()).into_iter().collect()
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
