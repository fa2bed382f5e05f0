//! Ingresses (also in their old shape), ingress classes, network policies, service CIDRs.

mod ingress;
mod policy;

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::service::balancers;
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
                vec![
                    name_cell(o),
                    or_none(text(&spec["ingressClassName"])),
                    json!(hosts),
                    json!(super::service::balanced(&o["status"]).join(",")),
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
        strategy: || Arc::new(ServiceCidr),
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
        strategy: || Arc::new(IpAddress),
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
        ingress::check(&mut errors, obj, &Value::Null);
        errors
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        ingress::check(&mut errors, new, old);
        errors
    }

    fn validate_create(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if let (Some(old), Some(class)) =
            (meta::annotation(obj, CLASS), obj["spec"]["ingressClassName"].as_str())
            && old != class
        {
            let at = Path::new("annotations").child(CLASS);
            errors.invalid_str(&at, old, "must match `ingressClassName` when both are specified");
        }
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let of = |obj: &Value| obj["status"]["loadBalancer"]["ingress"].clone();
        let at = Path::new("status").child("loadBalancer").child("ingress");
        balancers(&mut errors, items(&of(new)), items(&of(old)), &at);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

/// Where the class of an ingress was said before there was a field.
const CLASS: &str = "kubernetes.io/ingress.class";

struct IngressClass;

impl Strategy for IngressClass {
    fn default(&self, obj: &mut Value) {
        if let Some(p) =
            obj.get_mut("spec").and_then(|s| s.get_mut("parameters")).and_then(Value::as_object_mut)
        {
            set(p, "scope", "Cluster");
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        let controller = text(&spec["controller"]);
        if controller.len() > 250 {
            errors.too_long(&path.child("controller"), 250);
        }
        domain_prefixed_path(&mut errors, &path.child("controller"), controller);
        if !spec["parameters"].is_null() {
            check_parameters(&mut errors, &spec["parameters"], &path.child("parameters"));
        }
        errors
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

fn check_parameters(errors: &mut ErrorList, parameters: &Value, path: &Path) {
    ingress::reference(errors, parameters, path);
    let (scope, namespace) = (&parameters["scope"], &parameters["namespace"]);
    let (scope_at, at) = (path.child("scope"), path.child("namespace"));
    match text(scope) {
        _ if scope.is_null() => errors.required(&scope_at, ""),
        "Namespace" if namespace.is_null() => {
            errors.required(&at, "`parameters.scope` is set to 'Namespace'");
        }
        "Namespace" => each_why(errors, &at, namespace, validate::dns_label),
        "Cluster" if !namespace.is_null() => {
            errors.forbidden(&at, "`parameters.scope` is set to 'Cluster'");
        }
        "Cluster" => {}
        _ => errors.not_supported(&scope_at, scope, &["Cluster", "Namespace"]),
    }
}

struct ServiceCidr;

impl Strategy for ServiceCidr {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_cidrs(&mut errors, &obj["spec"]);
        errors
    }

    /// What is there stays; a range of the other family may come.
    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("cidrs");
        let (n, o) = (items(&new["spec"]["cidrs"]), items(&old["spec"]["cidrs"]));
        let grows = o.len() == 1 && n.len() == 2;
        if n.len() != o.len() && !grows {
            immutable(&mut errors, &path, &new["spec"]["cidrs"], &old["spec"]["cidrs"]);
        }
        if n.len() == o.len() || grows {
            for (i, (n, o)) in n.iter().zip(o).enumerate() {
                immutable(&mut errors, &path.index(i), n, o);
            }
        }
        if grows {
            check_cidrs(&mut errors, &new["spec"]);
        }
        errors
    }
}

fn check_cidrs(errors: &mut ErrorList, spec: &Value) {
    let (cidrs, path) = (items(&spec["cidrs"]), Path::new("spec").child("cidrs"));
    if cidrs.is_empty() {
        errors.required(&path, "at least one CIDR required");
        return;
    }
    if cidrs.len() > 2 {
        errors.invalid(&path, spec, "may only hold up to 2 values");
        return;
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        each_why(errors, &path.index(i), cidr, validate::canonical_cidr);
    }
    let known = cidrs.iter().all(|cidr| text(cidr).parse::<ipnet::IpNet>().is_ok());
    if known && !one_of_each_family(cidrs.iter().map(text)) {
        let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.invalid(&path, &spec["cidrs"], why);
    }
}

struct IpAddress;

impl Strategy for IpAddress {
    fn check_name(&self, name: &str, _: bool) -> Vec<String> {
        validate::canonical_ip(name)
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (parent, path) = (&obj["spec"]["parentRef"], Path::new("spec").child("parentRef"));
        if parent.is_null() {
            errors.required(&path, "");
            return errors;
        }
        if !empty(&parent["group"]) {
            each_why(&mut errors, &path.child("group"), &parent["group"], validate::dns_subdomain);
        }
        for field in ["resource", "name", "namespace"] {
            if !empty(&parent[field]) {
                each_why(&mut errors, &path.child(field), &parent[field], segment);
            } else if field != "namespace" {
                errors.required(&path.child(field), "");
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = Path::new("spec").child("parentRef");
        immutable(&mut errors, &at, &new["spec"]["parentRef"], &old["spec"]["parentRef"]);
        errors
    }
}

struct NetworkPolicy;

impl Strategy for NetworkPolicy {
    fn default(&self, obj: &mut Value) {
        let egress = !empty(&obj["spec"]["egress"]);
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
        policy::check(&mut errors, obj, &Value::Null);
        errors
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        policy::check(&mut errors, new, old);
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
