//! Environment variables, and the fields and amounts that they and files take from the pod.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::{qualified_name, secret_name};
use crate::field::{ErrorList, Path};
use crate::kinds::common::*;
use crate::quantity::Quantity;
use crate::validate;

/// The fields that variables may take, beside single labels and annotations.
const FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Fields of pods that have a name of their own in field paths, beside [`FIELDS`].
const OTHER_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "spec.restartPolicy", "spec.schedulerName", "status.phase"];

const AMOUNTS: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

pub(super) fn check(errors: &mut ErrorList, container: &Value, path: &Path) {
    for (i, variable) in items(&container["env"]).iter().enumerate() {
        let at = path.child("env").index(i);
        let name = text(&variable["name"]);
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            for why in validate::env_name(name) {
                errors.invalid_str(&at.child("name"), name, why);
            }
        }
        if !variable["valueFrom"].is_null() {
            value_from(errors, variable, &at.child("valueFrom"));
        }
    }
    for (i, from) in items(&container["envFrom"]).iter().enumerate() {
        let all = path.child("envFrom");
        let at = all.index(i);
        let prefix = text(&from["prefix"]);
        if !prefix.is_empty() {
            for why in validate::env_name(prefix) {
                errors.invalid_str(&at.child("prefix"), prefix, why);
            }
        }
        let given: Vec<&str> =
            ["configMapRef", "secretRef"].into_iter().filter(|k| !from[*k].is_null()).collect();
        for kind in &given {
            let at = at.child(kind).child("name");
            match text(&from[*kind]["name"]) {
                "" => errors.required(&at, ""),
                name => {
                    for why in validate::dns_subdomain_name(name, true) {
                        errors.invalid_str(&at, name, why);
                    }
                }
            }
        }
        match given.len() {
            0 => errors.invalid_str(&all, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid_str(&all, "", "may not have more than one field specified at a time"),
        }
    }
}

fn value_from(errors: &mut ErrorList, variable: &Value, path: &Path) {
    type Rule = fn(&mut ErrorList, &Value, &Path);
    const SOURCES: [(&str, Rule); 5] = [
        ("fieldRef", |errors, source, at| field_ref(errors, source, at, &FIELDS)),
        ("resourceFieldRef", |errors, source, at| resource_ref(errors, source, at, false)),
        ("configMapKeyRef", key_ref),
        ("secretKeyRef", key_ref),
        ("fileKeyRef", file_key),
    ];
    let from = &variable["valueFrom"];
    let mut given = 0;
    for (kind, rule) in SOURCES.iter().filter(|(kind, _)| !from[*kind].is_null()) {
        given += 1;
        rule(errors, &from[*kind], &path.child(kind));
    }
    if given == 0 {
        errors.invalid_str(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`");
    } else if !empty(&variable["value"]) {
        errors.invalid_str(path, "", "may not be specified when `value` is not empty");
    } else if given > 1 {
        errors.invalid_str(path, "", "may not have more than one field specified at a time");
    }
}

/// A field of the pod, which must be one of `supported`, or a single label or annotation.
pub(super) fn field_ref(errors: &mut ErrorList, source: &Value, path: &Path, supported: &[&str]) {
    let (version, field, at) =
        (text(&source["apiVersion"]), text(&source["fieldPath"]), path.child("fieldPath"));
    if version.is_empty() {
        return errors.required(&path.child("apiVersion"), "");
    }
    if field.is_empty() {
        return errors.required(&at, "");
    }
    let unknown = if version != "v1" {
        format!("unsupported pod version: {version}")
    } else if let Some((whole, key)) = subscript(field) {
        match whole {
            "metadata.annotations" => return qualified_name(errors, &key.to_lowercase(), path),
            "metadata.labels" => return qualified_name(errors, key, path),
            _ => format!("field label does not support subscript: {field}"),
        }
    } else {
        // What `spec.nodeName` was called in the beginning.
        let field = if field == "spec.host" { "spec.nodeName" } else { field };
        if supported.contains(&field) {
            return;
        }
        if FIELDS.contains(&field) || OTHER_FIELDS.contains(&field) {
            return errors.not_supported(&at, &json!(field), supported);
        }
        format!("field label not supported: {field}")
    };
    errors.invalid_str(&at, field, format!("error converting fieldPath: {unknown}"));
}

/// `metadata.labels` and `app` of `metadata.labels['app']`.
fn subscript(field: &str) -> Option<(&str, &str)> {
    field.strip_suffix("']")?.split_once("['").filter(|(whole, _)| !whole.is_empty())
}

/// An amount of a container: `whose` it is must be said where no container is meant by itself.
pub(super) fn resource_ref(errors: &mut ErrorList, source: &Value, path: &Path, whose: bool) {
    let resource = text(&source["resource"]);
    let pages = resource.starts_with("requests.hugepages-") || resource.starts_with("limits.hugepages-");
    if whose && empty(&source["containerName"]) {
        errors.required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errors.required(&path.child("resource"), "");
    } else if !AMOUNTS.contains(&resource) && !pages {
        errors.not_supported(&path.child("resource"), &source["resource"], &AMOUNTS);
    }
    let Ok(divisor) = Quantity::of_value(&source["divisor"]) else { return };
    if divisor.is_zero() {
        return;
    }
    const BYTES: [&str; 13] =
        ["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let written = divisor.to_string();
    let name = resource.split_once('.').map_or("", |(_, name)| name);
    let what = match name {
        "cpu" => {
            if !["1m", "1"].contains(&written.as_str()) {
                let why = "only divisor's values 1m and 1 are supported with the cpu resource";
                errors.invalid_str(&path.child("divisor"), resource, why);
            }
            return;
        }
        "memory" => "memory",
        "ephemeral-storage" => "local ephemeral storage",
        _ if pages => "hugepages",
        _ => return,
    };
    if !BYTES.contains(&written.as_str()) {
        let why =
            format!("only divisor's values {} are supported with the {what} resource", BYTES.join(", "));
        errors.invalid_str(&path.child("divisor"), resource, why);
    }
}

/// A key of a ConfigMap or Secret.
fn key_ref(errors: &mut ErrorList, source: &Value, path: &Path) {
    secret_name(errors, text(&source["name"]), &path.child("name"));
    let at = path.child("key");
    match text(&source["key"]) {
        "" => errors.required(&at, ""),
        key => {
            for why in validate::config_key(key) {
                errors.invalid_str(&at, key, why);
            }
        }
    }
}

/// A variable in a file of a volume.
fn file_key(errors: &mut ErrorList, source: &Value, path: &Path) {
    type Rule = fn(&str) -> Vec<String>;
    const FIELDS: [(&str, Rule); 3] = [
        ("key", validate::env_name),
        ("volumeName", validate::dns_label),
        ("path", validate::path_without_backsteps),
    ];
    for (field, rule) in FIELDS {
        let (value, at) = (text(&source[field]), path.child(field));
        if value.is_empty() {
            errors.required(&at, "");
            continue;
        }
        for why in rule(value) {
            errors.invalid_str(&at, value, why);
        }
    }
}

/// Files with variables lie in volumes that the pod alone writes.
pub(super) fn check_files(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let volumes: HashMap<&str, &Value> =
        items(&spec["volumes"]).iter().map(|v| (text(&v["name"]), v)).collect();
    for (container, at) in super::every_container(spec, path) {
        for (i, variable) in items(&container["env"]).iter().enumerate() {
            let file = &variable["valueFrom"]["fileKeyRef"];
            if file.is_null() {
                continue;
            }
            let name = text(&file["volumeName"]);
            let at = at.child("env").index(i).child("valueFrom").child("fileKeyRef").child("volumeName");
            match volumes.get(name) {
                None => errors.not_found(&at, &json!(name)),
                Some(v) if v["emptyDir"].is_null() => {
                    errors.invalid_str(&at, name, "referenced volume must be of type emptyDir");
                }
                Some(_) => {}
            }
        }
    }
}
