//! Persistent volumes, claims, and the kinds of storage.k8s.io.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::Strategy;
use super::common::*;
use super::podspec;
use super::registry::{Decl, PLAIN};
use crate::field::{ErrorList, Path};
use crate::quantity::Quantity;
use crate::{Map, meta};

pub(super) const DECLS: &[Decl] = &[
    Decl {
        resource: "persistentvolumes",
        answers_deleted: true,
        short: &["pv"],
        strategy: || Arc::new(PersistentVolume),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Capacity"),
                Column::text("Access Modes"),
                Column::text("Reclaim Policy"),
                Column::text("Status"),
                Column::text("Claim"),
                Column::text("StorageClass"),
                Column::text("VolumeAttributesClass"),
                Column::text("Reason"),
                Column::text("Age"),
                Column::text("VolumeMode").wide(),
            ],
            cells: |o, now| {
                let (spec, status) = (&o["spec"], &o["status"]);
                let claim = &spec["claimRef"];
                let claim = if claim.is_null() {
                    String::new()
                } else {
                    format!("{}/{}", text(&claim["namespace"]), text(&claim["name"]))
                };
                vec![
                    name_cell(o),
                    json!(text(&spec["capacity"]["storage"])),
                    json!(modes(&spec["accessModes"])),
                    json!(text(&spec["persistentVolumeReclaimPolicy"])),
                    json!(phase(o, status)),
                    json!(claim),
                    json!(class(o)),
                    unset(&spec["volumeAttributesClassName"]),
                    json!(text(&status["reason"])),
                    age_cell(o, now),
                    unset(&spec["volumeMode"]),
                ]
            },
        },
        ..PLAIN
    },
    Decl {
        resource: "persistentvolumeclaims",
        answers_deleted: true,
        short: &["pvc"],
        strategy: || Arc::new(Claim),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Status"),
                Column::text("Volume"),
                Column::text("Capacity"),
                Column::text("Access Modes"),
                Column::text("StorageClass"),
                Column::text("VolumeAttributesClass"),
                Column::text("Age"),
                Column::text("VolumeMode").wide(),
            ],
            cells: |o, now| {
                let (spec, status) = (&o["spec"], &o["status"]);
                let bound = !text(&spec["volumeName"]).is_empty();
                vec![
                    name_cell(o),
                    json!(phase(o, status)),
                    json!(text(&spec["volumeName"])),
                    json!(if bound { text(&status["capacity"]["storage"]) } else { "" }),
                    json!(if bound { modes(&status["accessModes"]) } else { String::new() }),
                    json!(class(o)),
                    unset(&spec["volumeAttributesClassName"]),
                    age_cell(o, now),
                    unset(&spec["volumeMode"]),
                ]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "storage.k8s.io",
        resource: "storageclasses",
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
        columns: Columns::Coded {
            columns: &[Column::name(), Column::int("Drivers"), Column::text("Age")],
            cells: |o, now| vec![name_cell(o), json!(items(&o["spec"]["drivers"]).len()), age_cell(o, now)],
        },
        ..PLAIN
    },
    Decl {
        group: "storage.k8s.io",
        resource: "csidrivers",
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
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("StorageClassName"), Column::text("Capacity")],
            cells: |o, _| vec![name_cell(o), json!(text(&o["storageClassName"])), unset(&o["capacity"])],
        },
        ..PLAIN
    },
    Decl {
        group: "storage.k8s.io",
        resource: "volumeattachments",
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
        short: &["vac"],
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("DriverName"), Column::text("Age")],
            cells: |o, now| vec![name_cell(o), json!(text(&o["driverName"])), age_cell(o, now)],
        },
        ..PLAIN
    },
];

fn unset(value: &Value) -> Value {
    json!(if text(value).is_empty() { "<unset>" } else { text(value) })
}

fn phase<'a>(o: &Value, status: &'a Value) -> &'a str {
    if meta::is_deleting(o) { "Terminating" } else { text(&status["phase"]) }
}

/// Access modes as columns show them: `RWO,ROX`.
fn modes(list: &Value) -> String {
    let short = |m: &Value| match text(m) {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    let given: Vec<&str> = items(list).iter().map(short).collect();
    ["RWO", "ROX", "RWX", "RWOP"].into_iter().filter(|m| given.contains(m)).collect::<Vec<_>>().join(",")
}

/// The storage class of a volume or claim; the old annotation counts.
fn class(o: &Value) -> String {
    meta::annotation(o, "volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| text(&o["spec"]["storageClassName"]))
        .to_owned()
}

const MODES: &[&str] = &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

fn check_modes(errors: &mut ErrorList, path: &Path, list: &Value) {
    if empty(list) {
        errors.required(path, "at least 1 access mode is required");
    }
    for mode in items(list) {
        if !MODES.contains(&text(mode)) {
            errors.not_supported(path, mode, MODES);
        }
    }
}

fn check_positive(errors: &mut ErrorList, path: &Path, value: &Value) {
    match Quantity::of_value(value) {
        Ok(q) if q.signum() <= 0 => errors.invalid(path, value, "must be greater than zero"),
        Ok(_) => {}
        Err(e) => errors.invalid(path, value, e.to_string()),
    }
}

/// Sets what was left out of where a volume comes from, as upstream's drivers of old took it.
pub(super) fn default_source(volume: &mut Map) {
    if let Some(iscsi) = sub(volume, "iscsi") {
        set_text(iscsi, "iscsiInterface", "default");
    }
    if let Some(rbd) = sub(volume, "rbd") {
        for (field, value) in [("pool", "rbd"), ("user", "admin"), ("keyring", "/etc/ceph/keyring")] {
            set_text(rbd, field, value);
        }
    }
    if let Some(disk) = sub(volume, "azureDisk") {
        for (field, value) in [("cachingMode", "ReadWrite"), ("kind", "Shared"), ("fsType", "ext4")] {
            set(disk, field, value);
        }
        set(disk, "readOnly", false);
    }
    if let Some(scale) = sub(volume, "scaleIO") {
        set_text(scale, "storageMode", "ThinProvisioned");
        set_text(scale, "fsType", "xfs");
    }
}

/// The labels of nodes that once had other names.
const RENAMED: [(&str, &str); 5] = [
    ("beta.kubernetes.io/arch", "kubernetes.io/arch"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
];

/// The affinity of a volume, with the names that labels have today.
fn renamed(affinity: &Value) -> Value {
    let mut affinity = affinity.clone();
    let required = affinity.get_mut("required").and_then(Value::as_object_mut);
    for term in required.into_iter().flat_map(|r| each(r, "nodeSelectorTerms")) {
        for expression in each(term, "matchExpressions") {
            let key = expression.get("key").map(text).unwrap_or_default();
            if let Some((_, today)) = RENAMED.iter().find(|(old, _)| *old == key) {
                expression.insert("key".to_owned(), json!(today));
            }
        }
    }
    affinity
}

struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        set_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_text(spec, "volumeMode", "Filesystem");
        if let Some(path) = sub(spec, "hostPath") {
            set(path, "type", "");
        }
        default_source(spec);
    }

    fn prepare_create(&self, obj: &mut Value) {
        meta::as_map(obj).insert("status".to_owned(), json!({"phase": "Pending"}));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        check_modes(&mut errors, &path.child("accessModes"), &spec["accessModes"]);
        let storage = &spec["capacity"]["storage"];
        if storage.is_null() {
            errors.required(&path.child("capacity"), "");
        } else {
            check_positive(&mut errors, &path.child("capacity").key("storage"), storage);
        }
        one_of(
            &mut errors,
            &path.child("persistentVolumeReclaimPolicy"),
            &spec["persistentVolumeReclaimPolicy"],
            &["Delete", "Recycle", "Retain"],
        );
        one_of(&mut errors, &path.child("volumeMode"), &spec["volumeMode"], &["Block", "Filesystem"]);
        let sources = sources(spec);
        match sources.as_slice() {
            [] => errors.required(&path, "must specify a volume type"),
            [_] => {}
            [_, more @ ..] => {
                for kind in more {
                    errors.forbidden(&path.child(kind), "may not specify more than 1 volume type");
                }
            }
        }
        if !spec["hostPath"].is_null() && text(&spec["hostPath"]["path"]).is_empty() {
            errors.required(&path.child("hostPath").child("path"), "");
        }
        if !spec["local"].is_null() && spec["nodeAffinity"].is_null() {
            errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let (n, o) = (&new["spec"], &old["spec"]);
        if sources(o).iter().chain(&sources(n)).any(|s| n[*s] != o[*s]) {
            errors.forbidden(
                &path.child("persistentvolumesource"),
                "spec.persistentvolumesource is immutable after creation",
            );
        }
        immutable(&mut errors, &path.child("volumeMode"), &n["volumeMode"], &o["volumeMode"]);
        let (new, old) = (&n["nodeAffinity"], &o["nodeAffinity"]);
        if !old.is_null() && new != old && *new != renamed(old) {
            let why = "field is immutable, except for updating from beta label to GA";
            errors.invalid(&Path::new("nodeAffinity"), new, why);
        }
        errors
    }
}

fn sources(spec: &Value) -> Vec<&str> {
    const OTHERS: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let map = spec.as_object().into_iter().flatten();
    map.filter(|(k, v)| !v.is_null() && !OTHERS.contains(&k.as_str())).map(|(k, _)| k.as_str()).collect()
}

/// What a claim, or a template of claims, leaves out.
pub(super) fn default_claim(claim: &mut Map) {
    set_text(meta::entry(claim, "spec"), "volumeMode", "Filesystem");
    set_text(meta::entry(claim, "status"), "phase", "Pending");
}

struct Claim;

const CLAIM_FIELDS: &[Cow<'static, str>] = &[];

impl Strategy for Claim {
    fn default(&self, obj: &mut Value) {
        default_claim(meta::as_map(obj));
    }

    fn prepare_create(&self, obj: &mut Value) {
        meta::as_map(obj).insert("status".to_owned(), json!({"phase": "Pending"}));
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        check_modes(&mut errors, &path.child("accessModes"), &spec["accessModes"]);
        let requests = path.child("resources").key("storage");
        let storage = &spec["resources"]["requests"]["storage"];
        if storage.is_null() {
            errors.required(&requests, "");
        } else {
            check_positive(&mut errors, &requests, storage);
        }
        if !spec["selector"].is_null() {
            check_selector(&mut errors, &path.child("selector"), &spec["selector"]);
        }
        podspec::validate_resources(&mut errors, &spec["resources"], &path.child("resources"));
        one_of(&mut errors, &path.child("volumeMode"), &spec["volumeMode"], &["Block", "Filesystem"]);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let (n, o) = (&new["spec"], &old["spec"]);
        let mut rest = n.clone();
        let map = meta::as_map(&mut rest);
        let keep = |map: &mut Map, field: &str| {
            match o.get(field) {
                Some(v) => map.insert(field.to_owned(), v.clone()),
                None => map.shift_remove(field),
            };
        };
        if text(&o["volumeName"]).is_empty() {
            keep(map, "volumeName");
        }
        if o["storageClassName"].is_null() {
            keep(map, "storageClassName");
        }
        keep(map, "volumeAttributesClassName");
        let (new_size, old_size) =
            (&n["resources"]["requests"]["storage"], &o["resources"]["requests"]["storage"]);
        if let (Ok(a), Ok(b)) = (Quantity::of_value(new_size), Quantity::of_value(old_size)) {
            if a < b {
                let at = path.child("resources").child("requests").child("storage");
                errors.forbidden(&at, "field can not be less than status.capacity");
            } else if old["status"]["phase"] == "Bound" || a == b {
                keep(map, "resources");
            }
        }
        if rest != *o {
            errors.forbidden(&path, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims");
        }
        errors
    }

    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        CLAIM_FIELDS
    }
}

struct StorageClass;

impl Strategy for StorageClass {
    fn default(&self, obj: &mut Value) {
        let map = meta::as_map(obj);
        set_text(map, "reclaimPolicy", "Delete");
        set_text(map, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if text(&obj["provisioner"]).is_empty() {
            errors.required(&Path::new("provisioner"), "");
        }
        one_of(&mut errors, &Path::new("reclaimPolicy"), &obj["reclaimPolicy"], &["Delete", "Retain"]);
        one_of(
            &mut errors,
            &Path::new("volumeBindingMode"),
            &obj["volumeBindingMode"],
            &["Immediate", "WaitForFirstConsumer"],
        );
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"] {
            if new[field] != old[field] {
                errors.forbidden(
                    &Path::new(field),
                    "updates to provisioner are forbidden.".replace("provisioner", field),
                );
            }
        }
        errors
    }
}

struct Attachment;

impl Strategy for Attachment {
    fn no_status(&self) -> Value {
        json!({"attached": false})
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
        set_text(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        if spec.get("volumeLifecycleModes").is_none_or(empty) {
            spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
        }
    }

    fn has_generation(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    fn volume(edit: Value) -> Value {
        let kind = kinds::by_gvr(&gvr::PERSISTENT_VOLUMES).unwrap();
        let mut volume = json!({"metadata": {"name": "v"}, "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}});
        meta::child(&mut volume, "spec").extend(edit.as_object().cloned().unwrap());
        kind.default(&mut volume);
        volume
    }

    #[test]
    fn sources_are_defaulted() {
        for (source, given, want) in [
            ("iscsi", json!({"lun": 0}), json!({"lun": 0, "iscsiInterface": "default"})),
            (
                "rbd",
                json!({"user": "u"}),
                json!({"user": "u", "pool": "rbd", "keyring": "/etc/ceph/keyring"}),
            ),
            (
                "azureDisk",
                json!({"diskName": "d"}),
                json!({"diskName": "d", "cachingMode": "ReadWrite", "kind": "Shared", "fsType": "ext4", "readOnly": false}),
            ),
            (
                "scaleIO",
                json!({"fsType": "ext4"}),
                json!({"fsType": "ext4", "storageMode": "ThinProvisioned"}),
            ),
        ] {
            assert_eq!(volume(json!({source: given}))["spec"][source], want);
        }
    }

    #[test]
    fn where_a_volume_is_does_not_change() {
        let kind = kinds::by_gvr(&gvr::PERSISTENT_VOLUMES).unwrap();
        let at = |key: &str, place: &str| {
            let terms = json!([{"matchExpressions": [{"key": key, "operator": "In", "values": [place]}]}]);
            volume(
                json!({"local": {"path": "/x"}, "nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}),
            )
        };
        let (beta, today) = ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone");
        let nowhere = volume(json!({"local": {"path": "/x"}}));
        for (old, new, good) in [
            (at(today, "a"), at(today, "a"), true),
            (at(beta, "a"), at(today, "a"), true),
            (nowhere.clone(), at(today, "a"), true),
            (at(today, "a"), at(today, "b"), false),
            (at(today, "a"), at(beta, "a"), false),
        ] {
            let message = kind.validate_update(&new, &old, "").message();
            assert_eq!(message == "[]", good, "{message}");
            assert!(
                good || message.ends_with("field is immutable, except for updating from beta label to GA")
            );
        }
        assert!(!kind.validate_update(&nowhere, &at(today, "a"), "").is_empty());
    }
}
