//! Persistent volumes and claims.

mod claim;
mod pv;

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
];

pub(super) fn unset(value: &Value) -> Value {
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

fn check_modes(errors: &mut ErrorList, path: &Path, list: &Value, none: &str) {
    if empty(list) {
        errors.required(path, none);
    }
    for mode in items(list) {
        if !MODES.contains(&text(mode)) {
            errors.not_supported(path, mode, MODES);
        }
    }
    pv::check_together(errors, path, list);
}

pub(super) use pv::check_spec;

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
        pv::check(&mut errors, obj, true);
        errors
    }

    /// Values that no label can have may stay where some were.
    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let (mut errors, mut before) = (ErrorList::new(), ErrorList::new());
        let required = &old["spec"]["nodeAffinity"]["required"];
        podspec::node_selector(&mut before, required, &Path::root(), true);
        let odd = before.0.iter().any(is_odd_value);
        pv::check(&mut errors, new, !odd);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        pv::check_update(&mut errors, new, old);
        errors
    }
}

/// What a claim, or a template of claims, leaves out.
pub(super) fn default_claim(claim: &mut Map) {
    set_text(meta::entry(claim, "spec"), "volumeMode", "Filesystem");
    set_text(meta::entry(claim, "status"), "phase", "Pending");
}

/// What is wrong with a claim, or a template of claims, by itself.
pub(super) fn check_claim(claim: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    claim::check(&mut errors, claim, &Value::Null);
    errors
}

struct Claim;

impl Strategy for Claim {
    fn default(&self, obj: &mut Value) {
        default_claim(meta::as_map(obj));
    }

    fn prepare_create(&self, obj: &mut Value) {
        meta::as_map(obj).insert("status".to_owned(), json!({"phase": "Pending"}));
        claim::prepare(obj, &Value::Null);
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        claim::prepare(new, old);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        check_claim(obj)
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        claim::check(&mut errors, new, old);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        claim::check_update(&mut errors, new, old);
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        claim::check_status(&mut errors, new);
        errors
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
