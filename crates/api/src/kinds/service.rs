//! Services.
//!
//! Cluster IPs and node ports are `apiserver`'s to allocate, after defaulting and before validation.

mod check;

use std::borrow::Cow;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::Strategy;
use super::common::*;
use super::registry::{Decl, PLAIN};
use crate::field::ErrorList;
use crate::selector::Label;
use crate::{meta, validate};

pub(super) const DECLS: &[Decl] = &[Decl {
    resource: "services",
    answers_deleted: true,
    short: &["svc"],
    categories: &["all"],
    strategy: || Arc::new(Service),
    columns: Columns::Coded {
        columns: &[
            Column::name(),
            Column::text("Type"),
            Column::text("Cluster-IP"),
            Column::text("External-IP"),
            Column::text("Port(s)"),
            Column::text("Age"),
            Column::text("Selector").wide(),
        ],
        cells: service_cells,
    },
    ..PLAIN
}];

/// The addresses of the load balancers of a service or an ingress, each once.
pub(super) fn balanced(status: &Value) -> Vec<&str> {
    let all = items(&status["loadBalancer"]["ingress"]).iter();
    let addresses: BTreeSet<&str> =
        all.map(|i| if text(&i["ip"]).is_empty() { text(&i["hostname"]) } else { text(&i["ip"]) }).collect();
    addresses.into_iter().filter(|a| !a.is_empty()).collect()
}

fn service_cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let kind = text(&spec["type"]);
    let cluster = items(&spec["clusterIPs"]).first().map(text).unwrap_or_else(|| text(&spec["clusterIP"]));
    let mut external = if kind == "LoadBalancer" { balanced(status) } else { Vec::new() };
    external.extend(items(&spec["externalIPs"]).iter().map(text));
    let external = match kind {
        "ExternalName" => text(&spec["externalName"]).to_owned(),
        "LoadBalancer" if external.is_empty() => "<pending>".to_owned(),
        _ if external.is_empty() => "<none>".to_owned(),
        _ => external.join(","),
    };
    let ports: Vec<String> = items(&spec["ports"])
        .iter()
        .map(|p| {
            let (port, protocol) = (int(&p["port"]), text(&p["protocol"]));
            match int(&p["nodePort"]) {
                0 => format!("{port}/{protocol}"),
                node => format!("{port}:{node}/{protocol}"),
            }
        })
        .collect();
    vec![
        name_cell(o),
        json!(kind),
        or_none(cluster),
        json!(external),
        or_none(&ports.join(",")),
        age_cell(o, now),
        or_none(&Label::from_match_labels(&spec["selector"]).to_string()),
    ]
}

pub(super) use check::balancers;

const SERVICE_FIELDS: &[Cow<'static, str>] = &[Cow::Borrowed("spec.clusterIP"), Cow::Borrowed("spec.type")];

/// Has a service of this type ports on every node?
fn has_node_ports(kind: &str) -> bool {
    matches!(kind, "NodePort" | "LoadBalancer")
}

/// Do clients from outside come to a service of this type and with these external addresses?
fn external_traffic(kind: &str, external_ips: &Value) -> bool {
    has_node_ports(kind) || kind == "ClusterIP" && !empty(external_ips)
}

/// Has a service of this type a port at which load balancers ask a node whether it has endpoints?
fn has_health_port(kind: &str, spec: &Value) -> bool {
    kind == "LoadBalancer" && spec["externalTrafficPolicy"] == "Local"
}

/// The node ports that a spec names.
fn node_ports(spec: &Value) -> impl Iterator<Item = i64> {
    items(&spec["ports"]).iter().map(|p| int(&p["nodePort"])).filter(|n| *n != 0)
}

struct Service;

impl Strategy for Service {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        set_text(spec, "sessionAffinity", "None");
        set_text(spec, "type", "ClusterIP");
        let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        match spec.get("sessionAffinity").and_then(Value::as_str) {
            Some("None") => drop(spec.shift_remove("sessionAffinityConfig")),
            Some("ClientIP") => {
                let config = meta::entry(meta::entry(spec, "sessionAffinityConfig"), "clientIP");
                set(config, "timeoutSeconds", 10800);
            }
            _ => {}
        }
        for port in each(spec, "ports") {
            set_text(port, "protocol", "TCP");
            let target = port.get("targetPort");
            if target.is_none_or(|t| t.is_null() || t == "" || t == 0)
                && let Some(n) = port.get("port").cloned()
            {
                port.insert("targetPort".to_owned(), n);
            }
        }
        if external_traffic(&kind, spec.get("externalIPs").unwrap_or(&Value::Null)) {
            set_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind != "ExternalName" {
            set_text(spec, "internalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            set(spec, "allocateLoadBalancerNodePorts", true);
        }
        set(meta::as_map(obj), "status", json!({"loadBalancer": {}}));
        if kind == "LoadBalancer" {
            for ingress in each(meta::entry(meta::child(obj, "status"), "loadBalancer"), "ingress") {
                if ingress.get("ip").is_some_and(|ip| !empty(ip)) {
                    set(ingress, "ipMode", "VIP");
                }
            }
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        meta::as_map(obj).insert("status".to_owned(), json!({"loadBalancer": {}}));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value) {
        // A client that does not know what was allocated does not take it away.
        let kind = text(&new["spec"]["type"]).to_owned();
        let was = text(&old["spec"]["type"]);
        let sent = new["spec"].clone();
        let (n, o) = (meta::child(new, "spec"), &old["spec"]);
        if kind != "ExternalName" && was != "ExternalName" {
            let same = |a: Option<&Value>, b: &Value| a.is_none_or(empty) || a == Some(b);
            if same(n.get("clusterIP"), &o["clusterIP"]) {
                for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                    if n.get(field).is_none_or(empty)
                        && let Some(v) = o.get(field)
                    {
                        n.insert(field.to_owned(), v.clone());
                    }
                }
            }
        }
        // What the new type has no use for goes, unless the client changed it: then it is refused.
        let mut forget = |gone: bool, fields: &[&str]| {
            for field in fields.iter().filter(|_| gone) {
                if n.get(*field) == o.get(*field) {
                    n.shift_remove(*field);
                }
            }
        };
        forget(
            kind == "ExternalName" && was != "ExternalName",
            &["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"],
        );
        let balanced = was == "LoadBalancer" && kind != "LoadBalancer";
        forget(balanced, &["allocateLoadBalancerNodePorts", "loadBalancerClass"]);
        forget(has_health_port(was, o) && !has_health_port(&kind, &sent), &["healthCheckNodePort"]);
        forget(
            external_traffic(was, &o["externalIPs"]) && !external_traffic(&kind, &sent["externalIPs"]),
            &["externalTrafficPolicy"],
        );
        if has_health_port(was, o) && has_health_port(&kind, &sent) && int(&sent["healthCheckNodePort"]) == 0
        {
            set(n, "healthCheckNodePort", o["healthCheckNodePort"].clone());
        }
        let had: HashSet<i64> = node_ports(o).collect();
        match (has_node_ports(was), has_node_ports(&kind)) {
            (true, true) => {
                let mut used: HashSet<i64> = node_ports(&sent).filter(|p| had.contains(p)).collect();
                for port in each(n, "ports").filter(|p| p.get("nodePort").is_none_or(|n| int(n) == 0)) {
                    let name = port.get("name").map(text).unwrap_or_default();
                    let before = items(&o["ports"]).iter().rfind(|p| text(&p["name"]) == name);
                    let before = before.map_or(0, |p| int(&p["nodePort"]));
                    if before != 0 && used.insert(before) {
                        port.insert("nodePort".to_owned(), json!(before));
                    }
                }
            }
            (true, false) if node_ports(&sent).all(|p| had.contains(&p)) => {
                each(n, "ports").for_each(|port| drop(port.shift_remove("nodePort")));
            }
            _ => {}
        }
        if kind != "LoadBalancer" {
            meta::child(new, "status").insert("loadBalancer".to_owned(), json!({}));
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::service(&mut errors, obj, &Value::Null);
        errors
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::service(&mut errors, new, old);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::update(&mut errors, &new["spec"], &old["spec"]);
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (n, o) = (&new["status"]["loadBalancer"], &old["status"]["loadBalancer"]);
        check::load_balancer(&mut errors, n, o, text(&new["spec"]["type"]));
        errors
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        check::warnings(obj)
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::dns_label_name(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        SERVICE_FIELDS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    #[test]
    fn addresses_of_load_balancers_are_shown_once() {
        let ingress = json!([{"ip": "10.0.0.9"}, {"hostname": "b.example"}, {"ip": "10.0.0.10"}, {}, {"ip": "10.0.0.9"}]);
        let status = json!({"loadBalancer": {"ingress": ingress}});
        let service =
            json!({"spec": {"type": "LoadBalancer", "externalIPs": ["10.0.0.9"]}, "status": status});
        let all = "10.0.0.10,10.0.0.9,b.example";
        assert_eq!(service_cells(&service, Timestamp::UNIX_EPOCH)[3], format!("{all},10.0.0.9"));
        let pending = json!({"spec": {"type": "LoadBalancer"}});
        assert_eq!(service_cells(&pending, Timestamp::UNIX_EPOCH)[3], "<pending>");
        let kind = kinds::by_gvr(&gvr::INGRESSES).unwrap();
        let crate::table::Columns::Coded { cells, .. } = &kind.columns else {
            panic!("ingresses have columns")
        };
        assert_eq!(cells(&json!({"status": status}), Timestamp::UNIX_EPOCH)[3], all);
    }

    #[test]
    fn a_service_is_defaulted_and_keeps_what_was_allocated() {
        let kind = kinds::by_gvr(&gvr::SERVICES).unwrap();
        let mut obj = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"ports": [{"port": 80}]}});
        kind.default(&mut obj);
        assert!(kind.validate_create(&obj).is_empty());
        assert_eq!(obj["spec"]["ports"][0], json!({"port": 80, "protocol": "TCP", "targetPort": 80}));
        assert_eq!(
            (&obj["spec"]["type"], &obj["spec"]["internalTrafficPolicy"]),
            (&json!("ClusterIP"), &json!("Cluster"))
        );
        let mut old = obj.clone();
        old["spec"]["type"] = json!("NodePort");
        old["spec"]["clusterIP"] = json!("10.0.0.1");
        old["spec"]["clusterIPs"] = json!(["10.0.0.1"]);
        old["spec"]["externalTrafficPolicy"] = json!("Cluster");
        old["spec"]["ports"][0]["nodePort"] = json!(30001);
        let mut new = obj.clone();
        new["spec"]["type"] = json!("NodePort");
        kind.prepare_update(&mut new, &old, "");
        assert_eq!(new["spec"]["clusterIP"], "10.0.0.1");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        let mut other = old.clone();
        other["spec"]["clusterIP"] = json!("10.0.0.2");
        other["spec"]["clusterIPs"] = json!(["10.0.0.2"]);
        assert!(
            kind.validate_update(&other, &old, "")
                .message()
                .contains("spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set")
        );
        let mut back = old.clone();
        back["spec"]["type"] = json!("ClusterIP");
        kind.prepare_update(&mut back, &old, "");
        assert!(kind.validate_update(&back, &old, "").is_empty());
        assert!(back["spec"]["ports"][0].get("nodePort").is_none());
    }

    #[test]
    fn what_a_type_has_no_use_for_goes_with_the_type() {
        let kind = kinds::by_gvr(&gvr::SERVICES).unwrap();
        let service = |spec: Value| {
            let mut obj = json!({"metadata": {"name": "s", "namespace": "n"}, "spec": spec,
                "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "h"}]}}});
            kind.default(&mut obj);
            obj
        };
        let ports = json!([{"port": 80, "name": "a", "nodePort": 30001}, {"port": 81, "name": "b", "nodePort": 30002}]);
        let old = service(json!({"type": "LoadBalancer", "ports": ports, "clusterIP": "10.0.0.1",
            "loadBalancerClass": "example.com/lb", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30003}));
        assert_eq!(
            old["status"]["loadBalancer"]["ingress"],
            json!([{"ip": "192.0.2.1", "ipMode": "VIP"}, {"hostname": "h"}])
        );
        let change = |edit: fn(&mut Value)| {
            let mut new = old.clone();
            edit(&mut new["spec"]);
            kind.default(&mut new);
            kind.prepare_update(&mut new, &old, "");
            new
        };
        let balanced = ["allocateLoadBalancerNodePorts", "loadBalancerClass", "healthCheckNodePort"];
        let node = change(|s| s["type"] = json!("NodePort"));
        assert!(balanced.iter().all(|f| node["spec"].get(*f).is_none()), "{node}");
        assert_eq!(node["spec"]["externalTrafficPolicy"], "Local");
        assert_eq!(node["spec"]["ports"][1]["nodePort"], 30002);
        assert_eq!(node["status"]["loadBalancer"], json!({}));

        let inside = change(|s| s["type"] = json!("ClusterIP"));
        assert!(inside["spec"].get("externalTrafficPolicy").is_none());
        assert!(inside["spec"]["ports"][0].get("nodePort").is_none());
        let outside = change(|s| {
            s["type"] = json!("ClusterIP");
            s["externalIPs"] = json!(["192.0.2.7"]);
        });
        assert_eq!(outside["spec"]["externalTrafficPolicy"], "Local", "clients still come from outside");

        // A port keeps its node port by its name, whatever else of it changes.
        let moved = change(|s| {
            s["ports"] =
                json!([{"port": 91, "name": "b"}, {"port": 90, "name": "a"}, {"port": 92, "name": "c"}]);
            s.as_object_mut().unwrap().remove("healthCheckNodePort");
        });
        let shown: Vec<&Value> = items(&moved["spec"]["ports"]).iter().map(|p| &p["nodePort"]).collect();
        assert_eq!(shown, [&json!(30002), &json!(30001), &Value::Null]);
        assert_eq!(moved["spec"]["healthCheckNodePort"], 30003);
        assert_eq!(moved["status"], old["status"]);

        let sticky = service(json!({"ports": ports, "sessionAffinity": "ClientIP"}));
        assert_eq!(sticky["spec"]["sessionAffinityConfig"], json!({"clientIP": {"timeoutSeconds": 10800}}));
        let mut free = sticky.clone();
        free["spec"]["sessionAffinity"] = json!("None");
        kind.default(&mut free);
        assert!(free["spec"].get("sessionAffinityConfig").is_none());
    }
}
