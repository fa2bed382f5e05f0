//! What is told of a field that is left out: what upstream's types are marked with, and what Go makes of nothing.
//!
//! The tables do not say which fields are pointers in Go, where nothing stays nothing. Fields that are required are none, but for a
//! few; of those that may be left out the ones that are none are named here.

use serde_json::{Value, json};

use crate::schema::{Base, Field, TypeId, Wrap};

/// Marked defaults: of the field of types of these names, in every version.
const MARKED: [(&[&str], &str, &str); 16] = [
    (&["ContainerPort", "ServicePort"], "protocol", "\"TCP\""),
    (&["GRPCAction"], "service", "\"\""),
    (
        &[
            "LocalObjectReference",
            "ConfigMapEnvSource",
            "ConfigMapKeySelector",
            "ConfigMapProjection",
            "ConfigMapVolumeSource",
            "SecretEnvSource",
            "SecretKeySelector",
            "SecretProjection",
        ],
        "name",
        "\"\"",
    ),
    (&["FileKeySelector"], "optional", "false"),
    (&["ISCSIVolumeSource", "ISCSIPersistentVolumeSource"], "iscsiInterface", "\"default\""),
    (&["RBDVolumeSource", "RBDPersistentVolumeSource"], "pool", "\"rbd\""),
    (&["RBDVolumeSource", "RBDPersistentVolumeSource"], "user", "\"admin\""),
    (&["RBDVolumeSource", "RBDPersistentVolumeSource"], "keyring", "\"/etc/ceph/keyring\""),
    (&["ScaleIOVolumeSource", "ScaleIOPersistentVolumeSource"], "storageMode", "\"ThinProvisioned\""),
    (&["ScaleIOVolumeSource", "ScaleIOPersistentVolumeSource"], "fsType", "\"xfs\""),
    (&["AzureDiskVolumeSource"], "cachingMode", "\"ReadWrite\""),
    (&["AzureDiskVolumeSource"], "kind", "\"Shared\""),
    (&["AzureDiskVolumeSource"], "fsType", "\"ext4\""),
    (&["AzureDiskVolumeSource"], "readOnly", "false"),
    (&["DeviceToleration"], "operator", "\"Equal\""),
    (&["Container", "EphemeralContainer"], "resources", "{}"),
];

/// Required fields that are pointers all the same.
const POINTERS: [&str; 3] = ["parentRef", "secretRef", "selector"];

/// What Go makes of nothing, where it is no pointer, list or map and has no form of its own in JSON.
pub(super) fn zero(base: Base) -> Option<Value> {
    match base {
        Base::String => Some(json!("")),
        Base::Int32 | Base::Int64 | Base::Double => Some(json!(0)),
        Base::Bool => Some(json!(false)),
        Base::Type(_) => Some(json!({})),
        _ => None,
    }
}

/// What a field of a type is if it is left out.
pub(super) fn of(owner: TypeId, field: &Field) -> Option<Value> {
    let marked =
        MARKED.iter().find(|(types, name, _)| *name == field.name && types.contains(&owner.short_name()));
    if let Some((_, _, value)) = marked {
        return serde_json::from_str(value).ok();
    }
    let object = matches!(field.ty.base, Base::Type(_));
    // Every object has its metadata, spec and status in itself.
    let part = matches!(field.name, "metadata" | "spec" | "status") && owner.gvks().next().is_some();
    let there = field.required && !(object && POINTERS.contains(&field.name)) || object && part;
    if there && field.ty.wrap == Wrap::None { zero(field.ty.base) } else { None }
}

/// The types and fields of the marked defaults.
#[cfg(test)]
pub(super) fn rows() -> impl Iterator<Item = (&'static str, &'static str)> {
    MARKED.iter().flat_map(|(types, field, _)| types.iter().map(|name| (*name, *field)))
}
