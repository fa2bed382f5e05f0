//! Runtime classes, leases, and who could hold them.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Strategy, podspec};
use crate::field::{ErrorList, Path};
use crate::{meta, validate};

pub(super) const DECLS: &[Decl] = &[
    Decl {
        group: "coordination.k8s.io",
        resource: "leases",
        strategy: || Arc::new(Lease),
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("Holder"), Column::text("Age")],
            cells: |o, now| vec![name_cell(o), json!(text(&o["spec"]["holderIdentity"])), age_cell(o, now)],
        },
        ..PLAIN
    },
    Decl {
        group: "coordination.k8s.io",
        resource: "leasecandidates",
        strategy: || Arc::new(Candidate),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("LeaseName"),
                Column::text("BinaryVersion"),
                Column::text("EmulationVersion"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let spec = &o["spec"];
                vec![
                    name_cell(o),
                    json!(text(&spec["leaseName"])),
                    json!(text(&spec["binaryVersion"])),
                    json!(text(&spec["emulationVersion"])),
                    age_cell(o, now),
                ]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "node.k8s.io",
        resource: "runtimeclasses",
        strategy: || Arc::new(RuntimeClass),
        conversions: &[(
            "node.k8s.io",
            "v1alpha1",
            Conversion::Functions { to_storage: runtime_to_storage, from_storage: runtime_from_storage },
        )],
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("Handler"), Column::text("Age")],
            cells: |o, now| vec![name_cell(o), json!(text(&o["handler"])), age_cell(o, now)],
        },
        ..PLAIN
    },
];

struct Lease;

/// Who holds a lease is not chosen by the server here: what is said of it is not kept, unless it was.
const CHOSEN: [&str; 2] = ["strategy", "preferredHolder"];

impl Strategy for Lease {
    fn prepare_create(&self, obj: &mut Value) {
        self.prepare_update(obj, &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        let spec = meta::child(new, "spec");
        for field in CHOSEN.into_iter().filter(|field| old["spec"][*field].is_null()) {
            spec.shift_remove(field);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        let (seconds, transitions) = (&spec["leaseDurationSeconds"], &spec["leaseTransitions"]);
        if seconds.as_i64().is_some_and(|n| n <= 0) {
            errors.invalid(&path.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        non_negative(&mut errors, &path.child("leaseTransitions"), transitions);
        let strategy = &spec["strategy"];
        if !strategy.is_null() {
            check_strategy(&mut errors, strategy, &path.child("strategy"));
        }
        if !empty(&spec["preferredHolder"]) && empty(strategy) {
            let why = "may only be specified if `strategy` is defined";
            errors.forbidden(&path.child("preferredHolder"), why);
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

const OLDEST: &str = "OldestEmulationVersion";

fn check_strategy(errors: &mut ErrorList, strategy: &Value, path: &Path) {
    // So upstream writes it.
    let at = path.child("strategy");
    if text(strategy).contains('/') {
        each_why(errors, &at, strategy, validate::qualified_name);
    } else if strategy != OLDEST {
        errors.not_supported(&at, strategy, &[OLDEST]);
    }
}

struct Candidate;

impl Strategy for Candidate {
    fn check_name(&self, name: &str, _: bool) -> Vec<String> {
        validate::config_key(name)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        if empty(&spec["leaseName"]) {
            errors.required(&path.child("leaseName"), "");
        }
        let mut version = |field: &str| {
            let given = text(&spec[field]);
            let read = semver::Version::parse(given);
            if read.is_err() && !given.is_empty() {
                errors.invalid_str(&path.child(field), given, "must be a valid semantic version");
            }
            read.ok()
        };
        let emulated = version("emulationVersion");
        let binary = version("binaryVersion");
        if empty(&spec["binaryVersion"]) {
            errors.required(&path.child("binaryVersion"), "");
        } else if emulated.as_ref().is_some_and(|e| binary.is_none_or(|b| b < *e)) {
            let why = "must be greater than or equal to `emulationVersion`";
            errors.invalid(&path.child("binaryVersion"), &spec["binaryVersion"], why);
        }
        let (strategy, at) = (&spec["strategy"], path.child("strategy"));
        if empty(strategy) {
            errors.required(&at, "");
            return errors;
        }
        let none = semver::Version::new(0, 0, 0);
        if strategy == OLDEST && emulated.is_none_or(|e| e == none) {
            let why = "must be specified when `strategy` is 'OldestEmulationVersion'";
            errors.required(&path.child("emulationVersion"), why);
        }
        check_strategy(&mut errors, strategy, &at);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = Path::new("spec").child("leaseName");
        immutable(&mut errors, &at, &new["spec"]["leaseName"], &old["spec"]["leaseName"]);
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = Path::new("handler");
        if empty(&obj["handler"]) {
            errors.required(&at, "");
        } else {
            each_why(&mut errors, &at, &obj["handler"], validate::dns_label);
        }
        podspec::check_limits(&mut errors, &obj["overhead"]["podFixed"], &Path::new("overhead"));
        let (scheduling, path) = (&obj["scheduling"], Path::new("scheduling"));
        let nodes = &scheduling["nodeSelector"];
        errors.append(super::rules::labels(nodes, &path.child("nodeSelector")));
        let (tolerations, at) = (&scheduling["tolerations"], path.child("tolerations"));
        podspec::tolerations(&mut errors, tolerations, &at);
        let mut seen = HashSet::new();
        for (i, toleration) in items(tolerations).iter().enumerate() {
            if !seen.insert(["key", "operator", "value", "effect"].map(|field| text(&toleration[field]))) {
                errors.duplicate(&at.index(i), toleration);
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(&mut errors, &Path::new("handler"), &new["handler"], &old["handler"]);
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

/// v1alpha1 keeps everything below spec and calls the handler `runtimeHandler`.
fn runtime_to_storage(obj: &mut Value) {
    let map = meta::as_map(obj);
    let Some(Value::Object(spec)) = map.shift_remove("spec") else { return };
    for (key, value) in spec {
        map.insert(if key == "runtimeHandler" { "handler".to_owned() } else { key }, value);
    }
}

fn runtime_from_storage(obj: &mut Value) {
    let map = meta::as_map(obj);
    let mut spec = crate::Map::new();
    for (from, to) in [("handler", "runtimeHandler"), ("overhead", "overhead"), ("scheduling", "scheduling")]
    {
        if let Some(v) = map.shift_remove(from) {
            spec.insert(to.to_owned(), v);
        }
    }
    map.insert("spec".to_owned(), Value::Object(spec));
}
