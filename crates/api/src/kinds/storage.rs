//! The kinds of storage.k8s.io.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Strategy;
use super::common::*;
use super::registry::{Decl, PLAIN};
use super::volumes::{check_spec, unset};
use crate::field::{ErrorList, Path};
use crate::quantity::Quantity;
use crate::{meta, validate};

pub(super) const DECLS: &[Decl] = &[
    Decl {
        group: "storage.k8s.io",
        resource: "storageclasses",
        answers_deleted: true,
        short: &["sc"],
        strategy: || Arc::new(StorageClass),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Provisioner"),
                Column::text("ReclaimPolicy"),
                Column::text("VolumeBindingMode"),
                Column::text("AllowVolumeExpansion"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let default = [
                    "storageclass.kubernetes.io/is-default-class",
                    "storageclass.beta.kubernetes.io/is-default-class",
                ]
                .iter()
                .any(|a| meta::annotation(o, a) == Some("true"));
                let name =
                    if default { format!("{} (default)", meta::name(o)) } else { meta::name(o).to_owned() };
                vec![
                    json!(name),
                    json!(text(&o["provisioner"])),
                    json!(text(&o["reclaimPolicy"])),
                    json!(text(&o["volumeBindingMode"])),
                    json!(o["allowVolumeExpansion"] == true),
                    age_cell(o, now),
                ]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "storage.k8s.io",
        resource: "csinodes",
        answers_deleted: true,
        strategy: || Arc::new(CsiNode),
        columns: Columns::Coded {
            columns: &[Column::name(), Column::int("Drivers"), Column::text("Age")],
            cells: |o, now| vec![name_cell(o), json!(items(&o["spec"]["drivers"]).len()), age_cell(o, now)],
        },
        ..PLAIN
    },
    Decl {
        group: "storage.k8s.io",
        resource: "csidrivers",
        answers_deleted: true,
        strategy: || Arc::new(CsiDriver),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("AttachRequired"),
                Column::text("PodInfoOnMount"),
                Column::text("StorageCapacity"),
                Column::text("TokenRequests"),
                Column::text("RequiresRepublish"),
                Column::text("Modes"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let spec = &o["spec"];
                let list = |v: &Value, f: &str| {
                    items(v)
                        .iter()
                        .map(|i| text(if f.is_empty() { i } else { &i[f] }))
                        .collect::<Vec<_>>()
                        .join(",")
                };
                let (tokens, modes) =
                    (list(&spec["tokenRequests"], "audience"), list(&spec["volumeLifecycleModes"], ""));
                vec![
                    name_cell(o),
                    json!(spec["attachRequired"] != false),
                    json!(spec["podInfoOnMount"] == true),
                    json!(spec["storageCapacity"] == true),
                    unset(&json!(tokens)),
                    json!(spec["requiresRepublish"] == true),
                    or_none(&modes),
                    age_cell(o, now),
                ]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "storage.k8s.io",
        resource: "csistoragecapacities",
        strategy: || Arc::new(Capacity),
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("StorageClassName"), Column::text("Capacity")],
            cells: |o, _| vec![name_cell(o), json!(text(&o["storageClassName"])), unset(&o["capacity"])],
        },
        ..PLAIN
    },
    Decl {
        group: "storage.k8s.io",
        resource: "volumeattachments",
        answers_deleted: true,
        strategy: || Arc::new(Attachment),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Attacher"),
                Column::text("PV"),
                Column::text("Node"),
                Column::text("Attached"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let spec = &o["spec"];
                vec![
                    name_cell(o),
                    json!(text(&spec["attacher"])),
                    json!(text(&spec["source"]["persistentVolumeName"])),
                    json!(text(&spec["nodeName"])),
                    json!(o["status"]["attached"] == true),
                    age_cell(o, now),
                ]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "storage.k8s.io",
        resource: "volumeattributesclasses",
        answers_deleted: true,
        strategy: || Arc::new(AttributesClass),
        short: &["vac"],
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("DriverName"), Column::text("Age")],
            cells: |o, now| vec![name_cell(o), json!(text(&o["driverName"])), age_cell(o, now)],
        },
        ..PLAIN
    },
];

struct StorageClass;

impl Strategy for StorageClass {
    fn default(&self, obj: &mut Value) {
        let map = meta::as_map(obj);
        set(map, "reclaimPolicy", "Delete");
        set(map, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        provisioner(&mut errors, &Path::new("provisioner"), text(&obj["provisioner"]));
        parameters(&mut errors, &Path::new("parameters"), &obj["parameters"]);
        let (policy, policies) = (&obj["reclaimPolicy"], ["Delete", "Retain"]);
        if !empty(policy) && !policies.contains(&text(policy)) {
            errors.not_supported(&Path::new("reclaimPolicy"), policy, &policies);
        }
        let (mode, modes) = (&obj["volumeBindingMode"], ["Immediate", "WaitForFirstConsumer"]);
        let at = Path::new("volumeBindingMode");
        if mode.is_null() {
            errors.required(&at, "");
        } else if !modes.contains(&text(mode)) {
            errors.not_supported(&at, mode, &modes);
        }
        topologies(&mut errors, &obj["allowedTopologies"], &Path::new("allowedTopologies"));
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            immutable(&mut errors, &Path::new(field), &new[field], &old[field]);
        }
        errors
    }
}

fn provisioner(errors: &mut ErrorList, path: &Path, name: &str) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let lower = name.to_lowercase();
    for why in validate::qualified_name(&lower) {
        errors.invalid_str(path, &lower, why);
    }
}

const MAX_PARAMETERS: usize = 512;
const MAX_SIZE: usize = 256 << 10;

fn parameters(errors: &mut ErrorList, path: &Path, given: &Value) {
    let given = || given.as_object().into_iter().flatten();
    if given().count() > MAX_PARAMETERS {
        errors.too_long(path, MAX_PARAMETERS);
        return;
    }
    if given().any(|(key, _)| key.is_empty()) {
        errors.invalid_str(path, "", "field can not be empty.");
    }
    if given().map(|(key, value)| key.len() + text(value).len()).sum::<usize>() > MAX_SIZE {
        errors.too_long(path, MAX_SIZE);
    }
}

/// Where volumes of a class can be.
fn topologies(errors: &mut ErrorList, terms: &Value, path: &Path) {
    let mut seen: Vec<Vec<(&str, Vec<&str>)>> = Vec::new();
    for (i, term) in items(terms).iter().enumerate() {
        let at = path.index(i).child("matchLabelExpressions");
        let mut keys: Vec<(&str, Vec<&str>)> = Vec::new();
        for (j, expression) in items(&term["matchLabelExpressions"]).iter().enumerate() {
            let (at, values) = (at.index(j), items(&expression["values"]));
            if values.is_empty() {
                errors.required(&at.child("values"), "");
            }
            let mut set = HashSet::new();
            for (k, value) in values.iter().enumerate() {
                if !set.insert(text(value)) {
                    errors.duplicate(&at.child("values").index(k), value);
                }
            }
            each_why(errors, &at.child("key"), &expression["key"], validate::qualified_name);
            let key = text(&expression["key"]);
            if keys.iter().any(|(k, _)| *k == key) {
                errors.duplicate(&at.child("key"), &expression["key"]);
            }
            let mut set: Vec<&str> = set.into_iter().collect();
            set.sort_unstable();
            keys.retain(|(k, _)| *k != key);
            keys.push((key, set));
        }
        keys.sort_unstable();
        if seen.contains(&keys) {
            errors.duplicate(&at, &json!(""));
        }
        seen.push(keys);
    }
}

struct AttributesClass;

impl Strategy for AttributesClass {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        provisioner(&mut errors, &Path::new("driverName"), text(&obj["driverName"]));
        let at = Path::new("parameters");
        parameters(&mut errors, &at, &obj["parameters"]);
        if empty(&obj["parameters"]) {
            errors.required(&at, "must contain at least one key/value pair");
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["driverName", "parameters"].into_iter().filter(|field| new[*field] != old[*field]) {
            errors.forbidden(&Path::new(field), format!("updates to {field} are forbidden."));
        }
        errors
    }
}

struct Attachment;

impl Strategy for Attachment {
    fn no_status(&self) -> Value {
        json!({"attached": false})
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        driver_name(&mut errors, &path.child("attacher"), text(&spec["attacher"]));
        let (source, at) = (&spec["source"], path.child("source"));
        let (inline, named) = (&source["inlineVolumeSpec"], &source["persistentVolumeName"]);
        const ONE: &str = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        match (inline.is_null(), named.is_null()) {
            (true, true) => errors.required(&at, ONE),
            (false, false) => errors.forbidden(&at, ONE),
            (true, false) if empty(named) => {
                let why = "must specify non empty persistentVolumeName";
                errors.required(&at.child("persistentVolumeName"), why);
            }
            (true, false) => {}
            (false, true) => check_spec(&mut errors, inline, &at.child("inlineVolumeSpec"), None, true),
        }
        each_why(&mut errors, &path.child("nodeName"), &spec["nodeName"], validate::dns_subdomain);
        check_attached(&mut errors, &obj["status"]);
        if !named.is_null() {
            each_why(&mut errors, &at.child("persistentVolumeName"), named, validate::dns_subdomain);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(&mut errors, &Path::new("spec"), &new["spec"], &old["spec"]);
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate(new)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn check_attached(errors: &mut ErrorList, status: &Value) {
    let path = Path::new("status");
    let metadata = status["attachmentMetadata"].as_object().into_iter().flatten();
    if metadata.map(|(key, value)| key.len() + text(value).len()).sum::<usize>() > MAX_SIZE {
        errors.too_long(&path.child("attachmentMetadata"), MAX_SIZE);
    }
    for field in ["attachError", "detachError"] {
        let (error, at) = (&status[field], path.child(field));
        if text(&error["message"]).len() > 1024 {
            // So upstream tells it.
            errors.too_long(&at.child("message"), MAX_SIZE);
        }
        if int(&error["errorCode"]) < 0 {
            let why = validate::between(0, i64::from(i32::MAX));
            errors.invalid(&at.child("errorCode"), &error["errorCode"], why);
        }
    }
}

struct CsiNode;

impl Strategy for CsiNode {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut names = HashSet::new();
        for (i, driver) in items(&obj["spec"]["drivers"]).iter().enumerate() {
            let at = Path::new("spec").child("drivers").index(i);
            driver_name(&mut errors, &at.child("name"), text(&driver["name"]));
            let (id, id_at) = (text(&driver["nodeID"]), at.child("nodeID"));
            if id.is_empty() {
                errors.required(&id_at, "");
            }
            if id.len() > 256 {
                errors.invalid_str(&id_at, id, "must be 256 characters or less");
            }
            let count = &driver["allocatable"]["count"];
            non_negative(&mut errors, &at.child("allocatable").child("count"), count);
            if !names.insert(text(&driver["name"])) {
                errors.duplicate(&at.child("name"), &driver["name"]);
            }
            let mut keys = HashSet::new();
            for key in items(&driver["topologyKeys"]) {
                if empty(key) {
                    errors.required(&at, "");
                }
                if !keys.insert(text(key)) {
                    errors.duplicate(&at, key);
                }
                each_why(&mut errors, &at, key, validate::qualified_name);
            }
        }
        errors
    }

    /// A driver stays as it is, but for how much it can take; it may come and go.
    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let plain = |driver: &Value| {
            let mut driver = driver.clone();
            driver.as_object_mut().map(|d| d.shift_remove("allocatable"));
            driver
        };
        for before in items(&old["spec"]["drivers"]) {
            for driver in items(&new["spec"]["drivers"]).iter().filter(|d| d["name"] == before["name"]) {
                let at = Path::new("spec").child("drivers");
                immutable(&mut errors, &at, &plain(driver), &plain(before));
            }
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

struct Capacity;

impl Strategy for Capacity {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_selector(&mut errors, &Path::new("nodeTopology"), &obj["nodeTopology"]);
        let (class, at) = (&obj["storageClassName"], Path::new("storageClassName"));
        each_why(&mut errors, &at, class, validate::dns_subdomain);
        if Quantity::of_value(&obj["capacity"]).is_ok_and(|q| q.signum() < 0) {
            let why = "must be greater than or equal to 0";
            errors.invalid(&Path::new("capacity"), &obj["capacity"], why);
        }
        errors
    }

    /// What a selector says that no label can have may stay.
    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let errors = self.validate(new);
        if new["nodeTopology"] == old["nodeTopology"] { without_odd_values(errors) } else { errors }
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["nodeTopology", "storageClassName"] {
            immutable(&mut errors, &Path::new(field), &new[field], &old[field]);
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

struct CsiDriver;

impl Strategy for CsiDriver {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        for (key, value) in [
            ("attachRequired", true),
            ("podInfoOnMount", false),
            ("storageCapacity", false),
            ("requiresRepublish", false),
            ("seLinuxMount", false),
        ] {
            set(spec, key, value);
        }
        set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.get("volumeLifecycleModes").is_none_or(empty) {
            spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
        }
    }

    /// What nothing here looks at yet is not kept.
    fn prepare_create(&self, obj: &mut Value) {
        meta::child(obj, "spec").shift_remove("preventPodSchedulingIfMissing");
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        if old["spec"]["preventPodSchedulingIfMissing"].is_null() {
            meta::child(new, "spec").shift_remove("preventPodSchedulingIfMissing");
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        let (policy, policies) = (&spec["fsGroupPolicy"], ["File", "None", "ReadWriteOnceWithFSType"]);
        if !policy.is_null() && !policies.contains(&text(policy)) {
            errors.not_supported(&path.child("fsGroupPolicy"), policy, &policies);
        }
        check_tokens(&mut errors, &spec["tokenRequests"], &path.child("tokenRequests"));
        let modes = ["Persistent", "Ephemeral"];
        for mode in items(&spec["volumeLifecycleModes"]).iter().filter(|m| !modes.contains(&text(m))) {
            errors.not_supported(&path.child("volumeLifecycleModes"), mode, &modes);
        }
        let period = &spec["nodeAllocatableUpdatePeriodSeconds"];
        if period.as_i64().is_some_and(|n| n < 10) {
            let why = "must be greater than or equal to 10 seconds";
            errors.invalid(&path.child("nodeAllocatableUpdatePeriodSeconds"), period, why);
        }
        let secrets = &spec["serviceAccountTokenInSecrets"];
        if !secrets.is_null() && empty(&spec["tokenRequests"]) {
            let why = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            errors.invalid(&path.child("serviceAccountTokenInSecrets"), secrets, why);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        // One of them upstream calls otherwise in its errors.
        for (field, shown) in
            [("attachRequired", "attachedRequired"), ("volumeLifecycleModes", "volumeLifecycleModes")]
        {
            let at = Path::new("spec").child(shown);
            immutable(&mut errors, &at, &new["spec"][field], &old["spec"][field]);
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn check_tokens(errors: &mut ErrorList, requests: &Value, path: &Path) {
    let mut audiences = HashSet::new();
    for (i, request) in items(requests).iter().enumerate() {
        let at = path.index(i);
        if !audiences.insert(text(&request["audience"])) {
            errors.duplicate(&at.child("audience"), &json!(text(&request["audience"])));
            continue;
        }
        let (seconds, at) = (&request["expirationSeconds"], at.child("expirationSeconds"));
        if seconds.as_i64().is_some_and(|n| n < 600) {
            errors.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
        }
        if int(seconds) > 1 << 32 {
            errors.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
}
