//! Containers of every list: what all have in common, and what only some may have.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::{Spec, among, env, probes, relative_path, resources, security};
use crate::field::{ErrorList, Path};
use crate::kinds::common::*;
use crate::validate;

type Volumes<'a> = HashMap<&'a str, &'a Value>;

/// All of a pod's.
pub(super) fn check(errors: &mut ErrorList, of: &Spec<'_>, volumes: &Volumes<'_>, path: &Path) {
    let spec = of.spec;
    let all = path.child("containers");
    let containers = items(&spec["containers"]);
    if containers.is_empty() {
        errors.required(&all, "");
    }
    let mut names = HashSet::new();
    for (i, c) in containers.iter().enumerate() {
        let at = all.index(i);
        common(errors, c, of, volumes, &at);
        unique_name(errors, c, &mut names, &at);
        probes::check(errors, c, &at, spec);
        probes::check_restarts(errors, c, &at);
    }
    let mut taken = HashSet::new();
    for (i, c) in containers.iter().enumerate() {
        host_ports(errors, c, &mut taken, &all.index(i));
    }
    let all = path.child("initContainers");
    for (i, c) in items(&spec["initContainers"]).iter().enumerate() {
        let at = all.index(i);
        common(errors, c, of, volumes, &at);
        init_restarts(errors, c, &at);
        unique_name(errors, c, &mut names, &at);
        // They run one by one.
        host_ports(errors, c, &mut HashSet::new(), &at);
        if c["restartPolicy"] == "Always" {
            probes::check(errors, c, &at, spec);
            continue;
        }
        probes::check_none(errors, c, &at);
        for (j, policy) in items(&c["resizePolicy"]).iter().enumerate() {
            if policy["restartPolicy"] == "RestartContainer" {
                let at = at.child("resizePolicy").index(j).child("restartPolicy");
                let why = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                errors.invalid(&at, &policy["restartPolicy"], why);
            }
        }
    }
    let all = path.child("ephemeralContainers");
    let others = names.clone();
    for (i, c) in items(&spec["ephemeralContainers"]).iter().enumerate() {
        let at = all.index(i);
        common(errors, c, of, volumes, &at);
        image_of_pod(errors, c, &at);
        unique_name(errors, c, &mut names, &at);
        ephemeral(errors, c, &others, &at);
    }
}

fn unique_name<'a>(errors: &mut ErrorList, c: &'a Value, names: &mut HashSet<&'a str>, path: &Path) {
    let name = text(&c["name"]);
    if !name.is_empty() && !names.insert(name) {
        errors.duplicate(&path.child("name"), &c["name"]);
    }
}

fn init_restarts(errors: &mut ErrorList, c: &Value, path: &Path) {
    if c["restartPolicy"] == "Always" && !empty(&c["restartPolicyRules"]) {
        let why = "restartPolicyRules are not allowed for init containers with restart policy Always";
        errors.forbidden(&path.child("restartPolicyRules"), why);
    } else {
        probes::check_restarts(errors, c, path);
    }
}

/// In a template any text may stand for an image that somebody fills in.
pub(super) fn image_of_pod(errors: &mut ErrorList, c: &Value, path: &Path) {
    let image = text(&c["image"]);
    if image.trim() != image {
        errors.invalid_str(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
}

const NOT_EPHEMERAL: [&str; 9] = [
    "ports",
    "resources",
    "resizePolicy",
    "restartPolicy",
    "restartPolicyRules",
    "livenessProbe",
    "readinessProbe",
    "startupProbe",
    "lifecycle",
];

fn ephemeral(errors: &mut ErrorList, c: &Value, others: &HashSet<&str>, path: &Path) {
    let target = text(&c["targetContainerName"]);
    if !target.is_empty() && !others.contains(target) {
        errors.not_found(&path.child("targetContainerName"), &json!(target));
    }
    let why = "cannot be set for an Ephemeral Container";
    let given = |field: &str| match &c[field] {
        // Every container has some; what counts is whether they say anything.
        Value::Object(amounts) if field == "resources" => amounts.values().any(|v| !empty(v)),
        Value::Object(_) => true,
        other => !empty(other),
    };
    for field in NOT_EPHEMERAL.into_iter().filter(|f| given(f)) {
        errors.forbidden(&path.child(field), why);
    }
    for (i, mount) in items(&c["volumeMounts"]).iter().enumerate() {
        for field in ["subPath", "subPathExpr"].into_iter().filter(|f| !empty(&mount[*f])) {
            errors.forbidden(&path.child("volumeMounts").index(i).child(field), why);
        }
    }
}

fn common(errors: &mut ErrorList, c: &Value, of: &Spec<'_>, volumes: &Volumes<'_>, path: &Path) {
    let name = text(&c["name"]);
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        super::dns_label(errors, name, &path.child("name"));
    }
    if empty(&c["image"]) {
        errors.required(&path.child("image"), "");
    }
    for (field, supported) in [
        ("terminationMessagePolicy", &["File", "FallbackToLogsOnError"] as &[&str]),
        ("imagePullPolicy", &["Always", "IfNotPresent", "Never"]),
    ] {
        one_of(errors, &path.child(field), &c[field], supported);
    }
    ports(errors, c, path);
    env::check(errors, c, path);
    mounts(errors, c, volumes, &path.child("volumeMounts"));
    devices(errors, c, volumes, &path.child("volumeDevices"));
    resources::check(errors, &c["resources"], &path.child("resources"), &of.claims);
    probes::check_resize(errors, c, path, of.spec);
    let host_users = of.spec["hostUsers"] != false;
    security::check(errors, &c["securityContext"], &path.child("securityContext"), host_users);
}

fn ports(errors: &mut ErrorList, c: &Value, path: &Path) {
    let mut names = HashSet::new();
    for (i, p) in items(&c["ports"]).iter().enumerate() {
        let at = path.child("ports").index(i);
        let name = text(&p["name"]);
        if !name.is_empty() {
            let whys = validate::port_name(name);
            if whys.is_empty() && !names.insert(name) {
                errors.duplicate(&at.child("name"), &p["name"]);
            }
            for why in whys {
                errors.invalid_str(&at.child("name"), name, why);
            }
        }
        if int(&p["containerPort"]) == 0 {
            errors.required(&at.child("containerPort"), "");
        }
        for field in ["containerPort", "hostPort"].into_iter().filter(|f| int(&p[*f]) != 0) {
            for why in validate::port_number(int(&p[field])) {
                errors.invalid(&at.child(field), &p[field], why);
            }
        }
        one_of(errors, &at.child("protocol"), &p["protocol"], &["TCP", "UDP", "SCTP"]);
    }
}

/// Ports of the node that nobody else may have.
fn host_ports(errors: &mut ErrorList, c: &Value, taken: &mut HashSet<String>, path: &Path) {
    for (i, p) in items(&c["ports"]).iter().enumerate() {
        let port = int(&p["hostPort"]);
        let this = format!("{}/{}/{port}", text(&p["protocol"]), text(&p["hostIP"]));
        if port != 0 && !taken.insert(this.clone()) {
            errors.duplicate(&path.child("ports").index(i).child("hostPort"), &json!(this));
        }
    }
}

/// On the host's network a port has one number. A template may leave the second one out: its pods get it.
pub(super) fn check_host_network(errors: &mut ErrorList, of: &Spec<'_>, path: &Path) {
    if of.spec["hostNetwork"] != true {
        return;
    }
    for (i, c) in items(&of.spec["containers"]).iter().enumerate() {
        for (j, p) in items(&c["ports"]).iter().enumerate() {
            let (host, own) = (int(&p["hostPort"]), int(&p["containerPort"]));
            if (of.pod.is_some() || host != 0) && host != own {
                let at = path.child("containers").index(i).child("ports").index(j).child("hostPort");
                let why = "must match `containerPort` when `hostNetwork` is true";
                errors.invalid(&at, &json!(host), why);
            }
        }
    }
}

/// Of some errors upstream says only that they are in one of the mounts.
fn mounts(errors: &mut ErrorList, c: &Value, volumes: &Volumes<'_>, path: &Path) {
    let (names, paths) = pairs(c, "volumeDevices", "devicePath");
    let mut seen = HashSet::new();
    for (i, m) in items(&c["volumeMounts"]).iter().enumerate() {
        let at = path.index(i);
        let (name, mount) = (text(&m["name"]), text(&m["mountPath"]));
        let (name_at, mount_at) = (at.child("name"), at.child("mountPath"));
        if name.is_empty() {
            errors.required(&name_at, "");
        }
        if !volumes.contains_key(name) {
            errors.not_found(&name_at, &json!(name));
        }
        if mount.is_empty() {
            errors.required(&mount_at, "");
        }
        if !seen.insert(mount) {
            errors.invalid_str(&mount_at, mount, "must be unique");
        }
        if names.contains(name) {
            errors.invalid_str(&name_at, name, "must not already exist in volumeDevices");
        }
        if paths.contains(mount) {
            errors.invalid_str(&mount_at, mount, "must not already exist as a path in volumeDevices");
        }
        relative_path(errors, text(&m["subPath"]), &path.child("subPath"));
        let expression = text(&m["subPathExpr"]);
        if !expression.is_empty() && !empty(&m["subPath"]) {
            let why = "subPathExpr and subPath are mutually exclusive";
            errors.invalid_str(&at.child("subPathExpr"), expression, why);
        }
        relative_path(errors, expression, &path.child("subPathExpr"));
        propagation(errors, m, c, path);
    }
}

fn propagation(errors: &mut ErrorList, mount: &Value, c: &Value, path: &Path) {
    let (propagation, at) = (&mount["mountPropagation"], path.child("mountPropagation"));
    among(errors, propagation, &at, &["Bidirectional", "HostToContainer", "None"]);
    if *propagation == "Bidirectional" && c["securityContext"]["privileged"] != true {
        let why = "Bidirectional mount propagation is available only to privileged containers";
        errors.forbidden(&at, why);
    }
    let (read_only, at) = (&mount["recursiveReadOnly"], path.child("recursiveReadOnly"));
    among(errors, read_only, &at, &["Disabled", "Enabled", "IfPossible"]);
    if matches!(text(read_only), "Enabled" | "IfPossible") {
        if mount["readOnly"] != true {
            errors.forbidden(&at, "may only be specified when readOnly is true");
        }
        if !propagation.is_null() && *propagation != "None" {
            let why = "may only be specified when mountPropagation is None or not specified";
            errors.forbidden(&at, why);
        }
    }
}

/// Names and paths of a list of mounts or devices.
fn pairs<'a>(c: &'a Value, list: &str, path: &str) -> (HashSet<&'a str>, HashSet<&'a str>) {
    items(&c[list]).iter().map(|m| (text(&m["name"]), text(&m[path]))).unzip()
}

fn devices(errors: &mut ErrorList, c: &Value, volumes: &Volumes<'_>, path: &Path) {
    let (names, paths) = pairs(c, "volumeMounts", "mountPath");
    let (mut seen, mut seen_paths) = (HashSet::new(), HashSet::new());
    for (i, d) in items(&c["volumeDevices"]).iter().enumerate() {
        let at = path.index(i);
        let (name, device) = (text(&d["name"]), text(&d["devicePath"]));
        let (name_at, device_at) = (at.child("name"), at.child("devicePath"));
        if name.is_empty() {
            errors.required(&name_at, "");
        } else if !seen.insert(name) {
            errors.invalid_str(&name_at, name, "must be unique");
        }
        match volumes.get(name) {
            None => errors.not_found(&name_at, &json!(name)),
            Some(v) if v["persistentVolumeClaim"].is_null() && v["ephemeral"].is_null() => {
                let why =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid_str(&name_at, name, why);
            }
            Some(_) => {}
        }
        if device.is_empty() {
            errors.required(&device_at, "");
        }
        if seen_paths.contains(device) {
            errors.invalid_str(&device_at, device, "must be unique");
        }
        if validate::path_without_backsteps(device).is_empty() {
            seen_paths.insert(device);
        } else {
            errors.invalid_str(&device_at, device, "can not contain backsteps ('..')");
        }
        if names.contains(name) {
            errors.invalid_str(&name_at, name, "must not already exist in volumeMounts");
        }
        if paths.contains(device) {
            errors.invalid_str(&device_at, device, "must not already exist as a path in volumeMounts");
        }
    }
}
