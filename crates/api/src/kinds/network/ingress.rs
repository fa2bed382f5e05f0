//! What an ingress may say: hosts, paths, and where they lead.

use serde_json::Value;

use super::super::common::*;
use crate::field::{ErrorList, Path};
use crate::validate;

/// A host, or all hosts of a domain.
fn host(errors: &mut ErrorList, path: &Path, host: &Value) {
    each_why(errors, path, host, if text(host).contains('*') { wildcard } else { validate::dns_subdomain });
}

fn wildcard(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > 253 {
        why.push("must be no more than 253 bytes".to_owned());
    }
    let form = |rest: &str| rest.len() > 253 || validate::dns_subdomain(rest).is_empty();
    if !text.strip_prefix("*.").is_some_and(form) {
        why.push("a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".to_owned());
    }
    why
}

fn secret_is_wrong(tls: &Value) -> bool {
    !empty(&tls["secretName"]) && !validate::dns_subdomain(text(&tls["secretName"])).is_empty()
}

/// `old`: what it changes. Names of secrets, and what is behind a wildcard, may stay as wrong as they were.
pub(super) fn check(errors: &mut ErrorList, obj: &Value, old: &Value) {
    let (spec, path) = (&obj["spec"], Path::new("spec"));
    let (backend, rules) = (&spec["defaultBackend"], items(&spec["rules"]));
    if rules.is_empty() && backend.is_null() {
        errors.invalid(&path, &spec["rules"], "either `defaultBackend` or `rules` must be specified");
    }
    if !backend.is_null() {
        check_backend(errors, &path.child("defaultBackend"), backend);
    }
    let wrong_before = items(&old["spec"]["rules"]).iter().any(|rule| {
        let mut wrong = ErrorList::new();
        check_paths(&mut wrong, &rule["http"], &Path::root());
        text(&rule["host"]).contains('*') && !wrong.is_empty()
    });
    for (i, rule) in rules.iter().enumerate() {
        let (at, name) = (path.child("rules").index(i), text(&rule["host"]));
        if !name.is_empty() {
            if name.parse::<std::net::IpAddr>().is_ok() {
                let why = "must be a DNS name, not an IP address";
                errors.invalid_str(&at.child("host"), name, why);
            }
            host(errors, &at.child("host"), &rule["host"]);
        }
        if !name.contains('*') || !wrong_before {
            check_paths(errors, &rule["http"], &at.child("http"));
        }
    }
    let secrets_before = items(&old["spec"]["tls"]).iter().any(secret_is_wrong);
    for (i, tls) in items(&spec["tls"]).iter().enumerate() {
        let at = path.child("tls").index(i);
        for (j, name) in items(&tls["hosts"]).iter().enumerate() {
            host(errors, &at.child("hosts").index(j), name);
        }
        if !secrets_before && !empty(&tls["secretName"]) {
            each_why(errors, &at.child("secretName"), &tls["secretName"], validate::dns_subdomain);
        }
    }
    let class = &spec["ingressClassName"];
    if !class.is_null() {
        each_why(errors, &path.child("ingressClassName"), class, validate::dns_subdomain);
    }
}

fn check_paths(errors: &mut ErrorList, http: &Value, path: &Path) {
    if http.is_null() {
        return;
    }
    let (paths, at) = (items(&http["paths"]), path.child("paths"));
    if paths.is_empty() {
        errors.required(&at, "");
    }
    for (i, p) in paths.iter().enumerate() {
        let at = at.index(i);
        if p["pathType"].is_null() {
            errors.required(&at.child("pathType"), "pathType must be specified");
            continue;
        }
        check_path(errors, text(&p["path"]), &p["pathType"], &at);
        check_backend(errors, &at.child("backend"), &p["backend"]);
    }
}

fn check_path(errors: &mut ErrorList, url: &str, kind: &Value, path: &Path) {
    let at = path.child("path");
    let kinds = ["Exact", "ImplementationSpecific", "Prefix"];
    if !kinds.contains(&text(kind)) {
        errors.not_supported(&path.child("pathType"), kind, &kinds);
        return;
    }
    let strict = kind != "ImplementationSpecific";
    if !url.starts_with('/') && (strict || !url.is_empty()) {
        errors.invalid_str(&at, url, "must be an absolute path");
    }
    for bad in ["//", "/./", "/../", "%2f", "%2F"].into_iter().filter(|bad| strict && url.contains(bad)) {
        errors.invalid_str(&at, url, format!("must not contain '{bad}'"));
    }
    for bad in ["/..", "/."].into_iter().filter(|bad| strict && url.ends_with(bad)) {
        errors.invalid_str(&at, url, format!("cannot end with '{bad}'"));
    }
}

fn check_backend(errors: &mut ErrorList, path: &Path, backend: &Value) {
    let (service, resource) = (&backend["service"], &backend["resource"]);
    match (service.is_null(), resource.is_null()) {
        (true, true) => errors.invalid_str(path, "", "resource or service backend is required"),
        (false, false) => errors.invalid_str(path, "", "cannot set both resource and service backends"),
        (true, false) => reference(errors, resource, &path.child("resource")),
        (false, true) => check_service(errors, path, service),
    }
}

fn check_service(errors: &mut ErrorList, path: &Path, service: &Value) {
    let at = path.child("service");
    if empty(&service["name"]) {
        errors.required(&at.child("name"), "");
    } else {
        each_why(errors, &at.child("name"), &service["name"], validate::dns_label);
    }
    let (name, number) = (&service["port"]["name"], int(&service["port"]["number"]));
    let at = at.child("port");
    match (empty(name), number) {
        (false, 0) => each_why(errors, &at.child("name"), name, validate::port_name),
        (false, _) => errors.invalid_str(path, "", "cannot set both port name & port number"),
        (true, 0) => errors.required(path, "port name or number is required"),
        (true, _) => {
            for why in validate::port_number(number) {
                errors.invalid(&at.child("number"), &service["port"]["number"], why);
            }
        }
    }
}

/// An object of a group, named by its kind.
pub(super) fn reference(errors: &mut ErrorList, reference: &Value, path: &Path) {
    if !reference["apiGroup"].is_null() {
        each_why(errors, &path.child("apiGroup"), &reference["apiGroup"], validate::dns_subdomain);
    }
    for field in ["kind", "name"] {
        if empty(&reference[field]) {
            errors.required(&path.child(field), "");
        } else {
            each_why(errors, &path.child(field), &reference[field], segment);
        }
    }
}
