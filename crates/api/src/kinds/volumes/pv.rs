//! What a persistent volume may say: of what it holds, of where that is, and of where it can be used.

use serde_json::Value;

use super::super::common::*;
use super::super::podspec;
use super::{MODES, check_modes, check_positive};
use crate::field::{ErrorList, Path};
use crate::{meta, validate};

/// The rules of a type of volume, beyond those that it has in pods.
struct Type {
    field: &'static str,
    /// What may not be empty.
    required: &'static [&'static str],
    /// What else must hold of the source, in a volume of this name.
    more: fn(&mut ErrorList, source: &Value, path: &Path, name: &str),
}

const fn plain(field: &'static str, required: &'static [&'static str]) -> Type {
    Type { field, required, more: |_, _, _, _| {} }
}

/// As in pods.
const fn alike(field: &'static str) -> Type {
    Type { field, required: &[], more: |_, _, _, _| {} }
}

/// In upstream's order: of several sources the first one counts, and the others are told.
const TYPES: [Type; 22] = [
    alike("hostPath"),
    alike("gcePersistentDisk"),
    alike("awsElasticBlockStore"),
    Type { field: "glusterfs", required: &["endpoints", "path"], more: glusterfs },
    alike("flocker"),
    alike("nfs"),
    plain("rbd", &["monitors", "image"]),
    alike("quobyte"),
    plain("cephfs", &["monitors"]),
    Type { field: "iscsi", required: &["targetPortal"], more: iscsi },
    Type { field: "cinder", required: &["volumeID"], more: secret },
    alike("fc"),
    alike("flexVolume"),
    Type { field: "azureFile", required: &["secretName", "shareName"], more: azure_file },
    alike("vsphereVolume"),
    alike("photonPersistentDisk"),
    alike("portworxVolume"),
    alike("azureDisk"),
    plain("scaleIO", &["gateway", "system", "volumeName"]),
    Type { field: "local", required: &["path"], more: local },
    Type { field: "storageos", required: &["volumeName"], more: storage_os },
    Type { field: "csi", required: &[], more: csi },
];

/// Types that have been told how to mount by an annotation.
const MOUNTED: [&str; 13] = [
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "glusterfs",
    "nfs",
    "rbd",
    "quobyte",
    "iscsi",
    "cinder",
    "cephfs",
    "azureFile",
    "vsphereVolume",
    "azureDisk",
    "photonPersistentDisk",
];

fn glusterfs(errors: &mut ErrorList, source: &Value, path: &Path, _: &str) {
    let (namespace, at) = (&source["endpointsNamespace"], path.child("endpointsNamespace"));
    if namespace == "" {
        let why = "if the endpointnamespace is set, it must be a valid namespace name";
        errors.invalid(&at, namespace, why);
    } else if !namespace.is_null() {
        each_why(errors, &at, namespace, validate::dns_label);
    }
}

fn iscsi(errors: &mut ErrorList, source: &Value, path: &Path, name: &str) {
    let (portal, initiator) = (text(&source["targetPortal"]), source["initiatorName"].as_str());
    if initiator.is_some() && name.len() + 1 + portal.len() > 64 {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        errors.invalid_str(&path.child("targetportal"), portal, why);
    }
    if empty(&source["iqn"]) {
        errors.required(&path.child("iqn"), "");
    }
    let iqn = source["iqn"].as_str().filter(|iqn| !iqn.is_empty());
    for (field, name) in [("iqn", iqn), ("initiatorname", initiator)] {
        if let Some(name) = name.filter(|name| podspec::iscsi_name(name).is_some()) {
            errors.invalid_str(&path.child(field), name, "must be valid format");
        }
    }
    if !(0..=255).contains(&int(&source["lun"])) {
        errors.invalid(&path.child("lun"), &source["lun"], validate::between(0, 255));
    }
    let secret = &source["secretRef"];
    let chap = source["chapAuthDiscovery"] == true || source["chapAuthSession"] == true;
    if chap && secret.is_null() {
        errors.required(&path.child("secretRef"), "");
    }
    if !secret.is_null() && empty(&secret["name"]) {
        errors.required(&path.child("secretRef").child("name"), "");
    }
}

/// A secret is named with its namespace.
fn secret(errors: &mut ErrorList, source: &Value, path: &Path, _: &str) {
    let secret = &source["secretRef"];
    for field in ["name", "namespace"].into_iter().filter(|_| !secret.is_null()) {
        if empty(&secret[field]) {
            errors.required(&path.child("secretRef").child(field), "");
        }
    }
}

fn azure_file(errors: &mut ErrorList, source: &Value, path: &Path, _: &str) {
    if source["secretNamespace"] == "" {
        errors.required(&path.child("secretNamespace"), "");
    }
}

fn local(errors: &mut ErrorList, source: &Value, path: &Path, _: &str) {
    each_why(errors, &path.child("path"), &source["path"], validate::path_without_backsteps);
}

fn storage_os(errors: &mut ErrorList, source: &Value, path: &Path, name: &str) {
    for field in ["volumeName", "volumeNamespace"].into_iter().filter(|field| !empty(&source[*field])) {
        each_why(errors, &path.child(field), &source[field], validate::dns_label);
    }
    secret(errors, source, path, name);
}

fn csi(errors: &mut ErrorList, source: &Value, path: &Path, _: &str) {
    driver_name(errors, &path.child("driver"), text(&source["driver"]));
    if empty(&source["volumeHandle"]) {
        errors.required(&path.child("volumeHandle"), "");
    }
    for field in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let (secret, at) = (&source[field], path.child(field));
        if secret.is_null() {
            continue;
        }
        let rules: [(&str, NameRule); 2] =
            [("name", validate::dns_subdomain), ("namespace", validate::dns_label)];
        for (field, rule) in rules {
            if empty(&secret[field]) {
                errors.required(&at.child(field), "");
            } else {
                each_why(errors, &at.child(field), &secret[field], rule);
            }
        }
    }
}

/// What is wrong with a volume by itself. `values_too`: also with the labels that nodes must have to use it.
pub(super) fn check(errors: &mut ErrorList, obj: &Value, values_too: bool) {
    check_spec(errors, &obj["spec"], &Path::new("spec"), Some(meta::name(obj)), values_too);
    const OPTIONS: &str = "volume.beta.kubernetes.io/mount-options";
    let mounted = || MOUNTED.iter().any(|field| !obj["spec"][field].is_null());
    if meta::annotation(obj, OPTIONS).is_some() && !mounted() {
        let at = Path::new("metadata").child("annotations").child(OPTIONS);
        errors.forbidden(&at, "may not specify mount options for this volume type");
    }
}

const INLINE: &str = "may not be specified in the context of inline volumes";

/// `name`: of the volume; one that stands in an attachment has none, and may say less.
pub(in crate::kinds) fn check_spec(
    errors: &mut ErrorList,
    spec: &Value,
    path: &Path,
    name: Option<&str>,
    values_too: bool,
) {
    let inline = name.is_none();
    if inline {
        for field in ["claimRef", "capacity"].into_iter().filter(|field| !empty(&spec[*field])) {
            errors.forbidden(&path.child(field), INLINE);
        }
        if spec["csi"].is_null() {
            errors.required(&path.child("csi"), "has to be specified in the context of inline volumes");
        }
    }
    check_modes(errors, &path.child("accessModes"), &spec["accessModes"], "");
    if !inline {
        check_capacity(errors, &spec["capacity"], &path.child("capacity"));
    }
    let (policy, at) = (&spec["persistentVolumeReclaimPolicy"], path.child("persistentVolumeReclaimPolicy"));
    let policies = ["Delete", "Recycle", "Retain"];
    if inline && !empty(policy) && policy != "Retain" {
        errors.forbidden(&at, "may only be Retain in the context of inline volumes");
    } else if !inline && !empty(policy) && !policies.contains(&text(policy)) {
        errors.not_supported(&at, policy, &policies);
    }
    let (affinity, affinity_at) = (&spec["nodeAffinity"], path.child("nodeAffinity"));
    if inline && !affinity.is_null() {
        errors.forbidden(&affinity_at, INLINE);
    } else if !affinity.is_null() {
        let required = &affinity["required"];
        if required.is_null() {
            errors.required(&affinity_at.child("required"), "must specify required node constraints");
        } else {
            podspec::node_selector(errors, required, &affinity_at.child("required"), values_too);
        }
    }
    check_source(errors, spec, path, name.unwrap_or_default());
    if text(&spec["hostPath"]["path"]).trim_matches('/').is_empty()
        && !empty(&spec["hostPath"]["path"])
        && policy == "Recycle"
    {
        errors.forbidden(&at, "may not be 'recycle' for a hostPath mount of '/'");
    }
    let (class, class_at) = (&spec["storageClassName"], path.child("storageClassName"));
    if inline && !empty(class) {
        errors.forbidden(&class_at, INLINE);
    } else if !empty(class) {
        each_why(errors, &class_at, class, validate::dns_subdomain);
    }
    let (mode, mode_at) = (&spec["volumeMode"], path.child("volumeMode"));
    if inline && !mode.is_null() && mode != "Filesystem" {
        let why = "may not specify volumeMode other than Filesystem in the context of inline volumes";
        errors.forbidden(&mode_at, why);
    } else if !inline && !mode.is_null() && !["Block", "Filesystem"].contains(&text(mode)) {
        errors.not_supported(&mode_at, mode, &["Block", "Filesystem"]);
    }
    let (class, class_at) = (&spec["volumeAttributesClassName"], path.child("volumeAttributesClassName"));
    if !class.is_null() && !inline {
        if empty(class) {
            errors.required(&class_at, "an empty string is disallowed");
        } else {
            each_why(errors, &class_at, class, validate::dns_subdomain);
        }
        if spec["csi"].is_null() {
            let why = "has to be specified when using volumeAttributesClassName";
            errors.required(&path.child("csi"), why);
        }
    }
}

fn check_capacity(errors: &mut ErrorList, capacity: &Value, path: &Path) {
    if empty(capacity) {
        errors.required(path, "");
    }
    let names = capacity.as_object().map_or(0, crate::Map::len);
    if capacity["storage"].is_null() || names > 1 {
        errors.not_supported(path, capacity, &["storage"]);
    }
    for (name, amount) in capacity.as_object().into_iter().flatten() {
        check_positive(errors, &path.key(name), amount);
    }
}

fn check_source(errors: &mut ErrorList, spec: &Value, path: &Path, name: &str) {
    let mut given = TYPES.iter().filter(|t| !spec[t.field].is_null());
    let Some(first) = given.next() else {
        errors.required(path, "must specify a volume type");
        return;
    };
    let source = &spec[first.field];
    // So upstream calls it in its errors.
    let shown = if first.field == "gcePersistentDisk" { "persistentDisk" } else { first.field };
    let at = path.child(shown);
    let shared = first.required.is_empty() && first.field != "csi";
    if shared {
        podspec::volume_source(errors, first.field, source, &at);
    }
    for field in first.required.iter().filter(|field| empty(&source[**field])) {
        errors.required(&at.child(field), "");
    }
    (first.more)(errors, source, &at, name);
    if first.field == "local" && spec["nodeAffinity"].is_null() {
        errors.required(&path.child("nodeAffinity"), "Local volume requires node affinity");
    }
    for other in given {
        errors.forbidden(&path.child(other.field), "may not specify more than 1 volume type");
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

/// Is an affinity the one that was, but for labels that got the names of today?
fn same_place(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(n), Value::Object(o)) => {
            n.len() == o.len() && n.iter().all(|(k, v)| o.get(k).is_some_and(|b| same_place_of(k, v, b)))
        }
        (Value::Array(n), Value::Array(o)) => {
            n.len() == o.len() && n.iter().zip(o).all(|(n, o)| same_place(n, o))
        }
        _ => new == old,
    }
}

fn same_place_of(field: &str, new: &Value, old: &Value) -> bool {
    let renamed = || RENAMED.iter().any(|(before, today)| old == before && new == today);
    same_place(new, old) || field == "key" && renamed()
}

/// What may not change.
pub(super) fn check_update(errors: &mut ErrorList, new: &Value, old: &Value) {
    let path = Path::new("spec");
    let (n, o) = (&new["spec"], &old["spec"]);
    let same = |field: &str| {
        let (mut n, o) = (n[field].clone(), &o[field]);
        // It may be told later which secret is needed to make it larger.
        if field == "csi"
            && o["controllerExpandSecretRef"].is_null()
            && let Some(csi) = n.as_object_mut().filter(|_| !o.is_null())
        {
            csi.shift_remove("controllerExpandSecretRef");
        }
        n == *o
    };
    if !TYPES.iter().all(|t| same(t.field)) {
        errors.forbidden(
            &path.child("persistentvolumesource"),
            "spec.persistentvolumesource is immutable after creation",
        );
    }
    immutable(errors, &Path::new("volumeMode"), &n["volumeMode"], &o["volumeMode"]);
    let (affinity, before) = (&n["nodeAffinity"], &o["nodeAffinity"]);
    if !before.is_null() && !same_place(affinity, before) {
        let why = "field is immutable, except for updating from beta label to GA";
        errors.invalid(&Path::new("nodeAffinity"), affinity, why);
    }
    const CLASS: &str = "volumeAttributesClassName";
    if !o[CLASS].is_null() && n[CLASS].is_null() {
        errors.forbidden(&path.child(CLASS), "update from non-nil value to nil is forbidden");
    }
}

/// Access modes that go together: where one pod alone has a volume, nobody else can.
pub(super) fn check_together(errors: &mut ErrorList, path: &Path, list: &Value) {
    let has = |alone: bool| {
        items(list).iter().any(|m| MODES.contains(&text(m)) && (m == "ReadWriteOncePod") == alone)
    };
    if has(true) && has(false) {
        errors.forbidden(path, "may not use ReadWriteOncePod with other access modes");
    }
}
