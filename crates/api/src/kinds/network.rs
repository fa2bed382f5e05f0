//! Ingresses (also in their old shape), ingress classes, network policies, service CIDRs.

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Strategy};
use crate::field::{ErrorList, Path};
use crate::{Map, meta, validate};

const OLD_INGRESS: Conversion =
    Conversion::Functions { to_storage: ingress_to_storage, from_storage: ingress_from_storage };

pub(super) const DECLS: &[Decl] = &[
    Decl {
        group: "networking.k8s.io",
        resource: "ingresses",
        short: &["ing"],
        also: &["extensions"],
        conversions: &[("networking.k8s.io", "v1beta1", OLD_INGRESS), ("extensions", "v1beta1", OLD_INGRESS)],
        strategy: || Arc::new(Ingress),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Class"),
                Column::text("Hosts"),
                Column::text("Address"),
                Column::text("Ports"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let spec = &o["spec"];
                let mut hosts: Vec<&str> = items(&spec["rules"])
                    .iter()
                    .map(|r| text(&r["host"]))
                    .filter(|h| !h.is_empty())
                    .collect();
                let more = hosts.len().saturating_sub(3);
                hosts.truncate(3);
                let mut hosts = if hosts.is_empty() { "*".to_owned() } else { hosts.join(",") };
                if more > 0 {
                    hosts.push_str(&format!(" + {more} more..."));
                }
                let addresses: Vec<&str> = items(&o["status"]["loadBalancer"]["ingress"])
                    .iter()
                    .map(|i| if text(&i["ip"]).is_empty() { text(&i["hostname"]) } else { text(&i["ip"]) })
                    .collect();
                vec![
                    name_cell(o),
                    or_none(text(&spec["ingressClassName"])),
                    json!(hosts),
                    json!(addresses.join(",")),
                    json!(if empty(&spec["tls"]) { "80" } else { "80, 443" }),
                    age_cell(o, now),
                ]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "networking.k8s.io",
        resource: "ingressclasses",
        strategy: || Arc::new(IngressClass),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Controller"),
                Column::text("Parameters"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let p = &o["spec"]["parameters"];
                let parameters = if p.is_null() {
                    "<none>".to_owned()
                } else {
                    let group = text(&p["apiGroup"]);
                    let dot = if group.is_empty() { "" } else { "." };
                    format!("{}{dot}{group}/{}", text(&p["kind"]), text(&p["name"]))
                };
                vec![name_cell(o), json!(text(&o["spec"]["controller"])), json!(parameters), age_cell(o, now)]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "networking.k8s.io",
        resource: "networkpolicies",
        short: &["netpol"],
        strategy: || Arc::new(NetworkPolicy),
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("Pod-Selector"), Column::text("Age")],
            cells: |o, now| vec![name_cell(o), selector_cell(&o["spec"]["podSelector"]), age_cell(o, now)],
        },
        ..PLAIN
    },
    Decl {
        group: "networking.k8s.io",
        resource: "servicecidrs",
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("CIDRs"), Column::text("Age")],
            cells: |o, now| {
                let cidrs: Vec<&str> = items(&o["spec"]["cidrs"]).iter().map(text).collect();
                vec![name_cell(o), json!(cidrs.join(",")), age_cell(o, now)]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "networking.k8s.io",
        resource: "ipaddresses",
        short: &["ip"],
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("ParentRef")],
            cells: |o, _| {
                let r = &o["spec"]["parentRef"];
                let (group, namespace) = (text(&r["group"]), text(&r["namespace"]));
                let dot = if group.is_empty() { "" } else { "." };
                let slash = if namespace.is_empty() { "" } else { "/" };
                let resource = text(&r["resource"]);
                let parent = format!("{resource}{dot}{group}{slash}{namespace}/{}", text(&r["name"]));
                vec![name_cell(o), or_none(if r.is_null() { "" } else { &parent })]
            },
        },
        ..PLAIN
    },
];

/// v1beta1 names a service by `serviceName` and `servicePort`.
fn backend_to_storage(backend: &mut Map) {
    let name = backend.shift_remove("serviceName");
    let port = backend.shift_remove("servicePort");
    if let Some(name) = name.filter(|n| !empty(n)) {
        let port = match port {
            Some(Value::String(s)) => json!({"name": s}),
            Some(n) if int(&n) != 0 => json!({"number": n}),
            _ => json!({}),
        };
        backend.insert("service".to_owned(), json!({"name": name, "port": port}));
    }
}

fn backend_from_storage(backend: &mut Map) {
    let Some(service) = backend.shift_remove("service") else { return };
    let port = &service["port"];
    backend.insert("serviceName".to_owned(), service["name"].clone());
    let port =
        if text(&port["name"]).is_empty() { json!(int(&port["number"])) } else { port["name"].clone() };
    backend.insert("servicePort".to_owned(), port);
}

fn each_backend(spec: &mut Map, change: fn(&mut Map)) {
    for rule in each(spec, "rules") {
        if let Some(http) = sub(rule, "http") {
            for path in each(http, "paths") {
                if let Some(backend) = sub(path, "backend") {
                    change(backend);
                }
            }
        }
    }
}

fn ingress_to_storage(obj: &mut Value) {
    let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(Value::Object(mut backend)) = spec.shift_remove("backend") {
        backend_to_storage(&mut backend);
        spec.insert("defaultBackend".to_owned(), Value::Object(backend));
    }
    each_backend(spec, backend_to_storage);
    // What v1 requires, v1beta1 defaults.
    for rule in each(spec, "rules") {
        if let Some(http) = sub(rule, "http") {
            for path in each(http, "paths") {
                set_text(path, "pathType", "ImplementationSpecific");
            }
        }
    }
}

fn ingress_from_storage(obj: &mut Value) {
    let Some(spec) = obj.get_mut("spec").and_then(Value::as_object_mut) else { return };
    if let Some(Value::Object(mut backend)) = spec.shift_remove("defaultBackend") {
        backend_from_storage(&mut backend);
        spec.insert("backend".to_owned(), Value::Object(backend));
    }
    each_backend(spec, backend_from_storage);
}

struct Ingress;

impl Strategy for Ingress {
    fn no_status(&self) -> Value {
        json!({"loadBalancer": {}})
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        if empty(&spec["rules"]) && spec["defaultBackend"].is_null() {
            errors.invalid(&path, spec, "either `defaultBackend` or `rules` must be specified");
        }
        if !spec["defaultBackend"].is_null() {
            check_backend(&mut errors, &path.child("defaultBackend"), &spec["defaultBackend"]);
        }
        for (i, rule) in items(&spec["rules"]).iter().enumerate() {
            let at = path.child("rules").index(i);
            let host = text(&rule["host"]);
            if !host.is_empty() {
                let rest = host.strip_prefix("*.").unwrap_or(host);
                if host.parse::<std::net::IpAddr>().is_ok() {
                    errors.invalid_str(&at.child("host"), host, "must be a DNS name, not an IP address");
                }
                for why in validate::dns_subdomain(rest) {
                    errors.invalid_str(&at.child("host"), host, why);
                }
            }
            let at = at.child("http").child("paths");
            if !rule["http"].is_null() && empty(&rule["http"]["paths"]) {
                errors.required(&at, "");
            }
            for (j, p) in items(&rule["http"]["paths"]).iter().enumerate() {
                let at = at.index(j);
                let url = text(&p["path"]);
                match text(&p["pathType"]) {
                    "" => errors.required(&at.child("pathType"), "pathType must be specified"),
                    "Exact" | "Prefix" => {
                        if !url.starts_with('/') {
                            errors.invalid_str(&at.child("path"), url, "must be an absolute path");
                        }
                        for bad in ["//", "/./", "/../", "%2f", "%2F"] {
                            if url.contains(bad) {
                                errors.invalid_str(
                                    &at.child("path"),
                                    url,
                                    format!("must not contain '{bad}'"),
                                );
                            }
                        }
                    }
                    "ImplementationSpecific" => {
                        if !url.is_empty() && !url.starts_with('/') {
                            errors.invalid_str(&at.child("path"), url, "must be an absolute path");
                        }
                    }
                    _ => errors.not_supported(
                        &at.child("pathType"),
                        &p["pathType"],
                        &["Exact", "ImplementationSpecific", "Prefix"],
                    ),
                }
                check_backend(&mut errors, &at.child("backend"), &p["backend"]);
            }
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

fn check_backend(errors: &mut ErrorList, path: &Path, backend: &Value) {
    let (service, resource) = (&backend["service"], &backend["resource"]);
    match (service.is_null(), resource.is_null()) {
        (true, true) => errors.required(path, "port name or number is required"),
        (false, false) => errors.invalid_str(path, "", "cannot set both resource and service backends"),
        (false, true) => {
            let at = path.child("service");
            let name = text(&service["name"]);
            if name.is_empty() {
                errors.required(&at.child("name"), "");
            } else {
                for why in validate::dns_1035_label(name) {
                    errors.invalid_str(&at.child("name"), name, why);
                }
            }
            let (name, number) = (text(&service["port"]["name"]), int(&service["port"]["number"]));
            if !name.is_empty() && number != 0 {
                errors.invalid_str(path, "", "cannot set both port name & port number");
            } else if !name.is_empty() {
                for why in validate::port_name(name) {
                    errors.invalid_str(&at.child("port").child("name"), name, why);
                }
            } else if number == 0 {
                errors.required(path, "port name or number is required");
            } else {
                for why in validate::port_number(number) {
                    errors.invalid(&at.child("port").child("number"), &json!(number), why);
                }
            }
        }
        (true, false) => {}
    }
}

struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, obj: &mut Value) {
        if let Some(p) =
            obj.get_mut("spec").and_then(|s| s.get_mut("parameters")).and_then(Value::as_object_mut)
        {
            set_text(p, "scope", "Cluster");
        }
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (n, o) = (&new["spec"]["controller"], &old["spec"]["controller"]);
        immutable(&mut errors, &Path::new("spec").child("controller"), n, o);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn default(&self, obj: &mut Value) {
        let egress = !obj["spec"]["egress"].is_null();
        let spec = meta::child(obj, "spec");
        set(spec, "podSelector", json!({}));
        if spec.get("policyTypes").is_none_or(empty) {
            spec.insert(
                "policyTypes".to_owned(),
                if egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) },
            );
        }
        for direction in ["ingress", "egress"] {
            for rule in each(spec, direction) {
                for port in each(rule, "ports") {
                    set_text(port, "protocol", "TCP");
                }
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        check_selector(&mut errors, &path.child("podSelector"), &spec["podSelector"]);
        for (i, t) in items(&spec["policyTypes"]).iter().enumerate() {
            one_of(&mut errors, &path.child("policyTypes").index(i), t, &["Egress", "Ingress"]);
        }
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for (i, rule) in items(&spec[direction]).iter().enumerate() {
                for (j, peer) in items(&rule[peers]).iter().enumerate() {
                    let at = path.child(direction).index(i).child(peers).index(j);
                    let selects = !peer["podSelector"].is_null() || !peer["namespaceSelector"].is_null();
                    let block = &peer["ipBlock"];
                    if !selects && block.is_null() {
                        errors.required(&at, "must specify a peer");
                    } else if selects && !block.is_null() {
                        errors.forbidden(&at, "may not specify both ipBlock and another peer");
                    } else if !block.is_null() {
                        for why in validate::cidr(text(&block["cidr"])) {
                            errors.invalid(&at.child("ipBlock").child("cidr"), &block["cidr"], why);
                        }
                    }
                }
            }
        }
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::{Gvr, gvr};

    #[test]
    fn an_ingress_reads_in_each_version() {
        let kind = kinds::by_gvr(&gvr::INGRESSES).unwrap();
        let old = json!({"apiVersion": "extensions/v1beta1", "kind": "Ingress", "metadata": {"name": "i", "namespace": "n"},
            "spec": {"backend": {"serviceName": "d", "servicePort": "http"},
                "rules": [{"host": "a.b", "http": {"paths": [{"path": "/x", "backend": {"serviceName": "s", "servicePort": 80}}]}}]}});
        let mut new = old.clone();
        kind.to_storage(&mut new).unwrap();
        assert_eq!(new["apiVersion"], "networking.k8s.io/v1");
        assert_eq!(
            new["spec"]["defaultBackend"],
            json!({"service": {"name": "d", "port": {"name": "http"}}})
        );
        assert_eq!(
            new["spec"]["rules"][0]["http"]["paths"][0],
            json!({"path": "/x", "backend": {"service": {"name": "s", "port": {"number": 80}}}, "pathType": "ImplementationSpecific"})
        );
        assert!(kind.validate_create(&new).is_empty());
        let beta = kind.served("networking.k8s.io", "v1beta1").unwrap();
        kind.from_storage(&mut new, beta);
        assert_eq!(new["spec"]["backend"], old["spec"]["backend"]);
        assert_eq!(
            new["spec"]["rules"][0]["http"]["paths"][0]["backend"],
            json!({"serviceName": "s", "servicePort": 80})
        );
        assert!(kinds::by_gvr(&Gvr::new("extensions", "v1beta1", "ingresses")).is_some());
    }
}
