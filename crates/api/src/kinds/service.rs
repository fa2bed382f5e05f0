//! Services, Endpoints, EndpointSlices.
//!
//! Cluster IPs and node ports are `apiserver`'s to allocate, after defaulting and before validation.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Strategy, podspec};
use crate::field::{ErrorList, Path};
use crate::selector::Label;
use crate::{Map, meta, validate};

pub(super) const DECLS: &[Decl] = &[
    Decl {
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
    },
    Decl {
        resource: "endpoints",
        short: &["ep"],
        strategy: || Arc::new(Endpoints),
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("Endpoints"), Column::text("Age")],
            cells: |o, now| vec![name_cell(o), json!(endpoints_cell(&o["subsets"])), age_cell(o, now)],
        },
        ..PLAIN
    },
    Decl {
        group: "discovery.k8s.io",
        resource: "endpointslices",
        strategy: || Arc::new(EndpointSlice),
        conversions: &[(
            "discovery.k8s.io",
            "v1beta1",
            Conversion::Functions { to_storage: slice_to_storage, from_storage: slice_from_storage },
        )],
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("AddressType"),
                Column::text("Ports"),
                Column::text("Endpoints"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let ports = items(&o["ports"]).iter().map(|p| match (&p["port"], &p["name"]) {
                    (Value::Number(n), _) => n.to_string(),
                    (_, Value::String(name)) => name.clone(),
                    _ => "*".to_owned(),
                });
                let addresses = items(&o["endpoints"])
                    .iter()
                    .flat_map(|e| items(&e["addresses"]))
                    .map(|a| text(a).to_owned());
                vec![
                    name_cell(o),
                    json!(text(&o["addressType"])),
                    json!(few(ports.collect(), "<unset>")),
                    json!(few(addresses.collect(), "<unset>")),
                    age_cell(o, now),
                ]
            },
        },
        ..PLAIN
    },
];

fn endpoints_cell(subsets: &Value) -> String {
    let mut list = Vec::new();
    for subset in items(subsets) {
        let ports = items(&subset["ports"]);
        for address in items(&subset["addresses"]) {
            let ip = text(&address["ip"]);
            if ports.is_empty() {
                list.push(ip.to_owned());
            }
            for port in ports {
                let port = int(&port["port"]);
                list.push(if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") });
            }
        }
    }
    few(list, "<none>")
}

fn service_cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&o["spec"], &o["status"]);
    let kind = text(&spec["type"]);
    let cluster = items(&spec["clusterIPs"]).first().map(text).unwrap_or_else(|| text(&spec["clusterIP"]));
    let mut external: Vec<String> = Vec::new();
    if kind == "LoadBalancer" {
        for ingress in items(&status["loadBalancer"]["ingress"]) {
            let name = if text(&ingress["ip"]).is_empty() {
                text(&ingress["hostname"])
            } else {
                text(&ingress["ip"])
            };
            external.push(name.to_owned());
        }
    }
    external.extend(items(&spec["externalIPs"]).iter().map(|ip| text(ip).to_owned()));
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
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        let kind = text(&spec["type"]);
        one_of(
            &mut errors,
            &path.child("type"),
            &spec["type"],
            &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        );
        one_of(&mut errors, &path.child("sessionAffinity"), &spec["sessionAffinity"], &["ClientIP", "None"]);
        let headless = spec["clusterIP"] == "None";
        let ports = items(&spec["ports"]);
        if ports.is_empty() && !headless && kind != "ExternalName" {
            errors.required(&path.child("ports"), "");
        }
        if kind == "ExternalName" {
            let name = text(&spec["externalName"]).trim_end_matches('.');
            if name.is_empty() {
                errors.required(&path.child("externalName"), "");
            } else {
                for why in validate::dns_subdomain(name) {
                    errors.invalid_str(&path.child("externalName"), name, why);
                }
            }
            if !text(&spec["clusterIP"]).is_empty() {
                errors.forbidden(
                    &path.child("clusterIPs").index(0),
                    "may not be set when `type` is 'ExternalName'",
                );
            }
        } else if headless && matches!(kind, "NodePort" | "LoadBalancer") {
            errors.invalid(
                &path.child("clusterIPs").index(0),
                &spec["clusterIP"],
                format!("may not be set to 'None' for {kind} services"),
            );
        } else if !headless && !text(&spec["clusterIP"]).is_empty() {
            for why in validate::ip(text(&spec["clusterIP"])) {
                errors.invalid(&path.child("clusterIPs").index(0), &spec["clusterIP"], why);
            }
        }
        let (mut names, mut numbers, mut node_ports) = (HashSet::new(), HashSet::new(), HashSet::new());
        for (i, p) in ports.iter().enumerate() {
            let at = path.child("ports").index(i);
            let name = text(&p["name"]);
            if name.is_empty() {
                if ports.len() > 1 {
                    errors.required(&at.child("name"), "");
                }
            } else {
                for why in validate::dns_label(name) {
                    errors.invalid_str(&at.child("name"), name, why);
                }
                if !names.insert(name) {
                    errors.duplicate(&at.child("name"), &p["name"]);
                }
            }
            for why in validate::port_number(int(&p["port"])) {
                errors.invalid(&at.child("port"), &p["port"], why);
            }
            one_of(&mut errors, &at.child("protocol"), &p["protocol"], &["SCTP", "TCP", "UDP"]);
            podspec::validate_port(&mut errors, &p["targetPort"], &at.child("targetPort"));
            let this = (int(&p["port"]), text(&p["protocol"]));
            if !numbers.insert(this) {
                errors.duplicate(
                    &at,
                    &json!({"protocol": this.1, "port": this.0, "targetPort": p["targetPort"]}),
                );
            }
            let node = int(&p["nodePort"]);
            if node != 0 {
                if matches!(kind, "ClusterIP" | "ExternalName") {
                    errors
                        .forbidden(&at.child("nodePort"), format!("may not be used when `type` is '{kind}'"));
                }
                if !node_ports.insert((node, this.1)) {
                    errors.duplicate(&at.child("nodePort"), &p["nodePort"]);
                }
            }
        }
        for (key, value) in spec["selector"].as_object().into_iter().flatten() {
            for why in validate::qualified_name(key) {
                errors.invalid_str(&path.child("selector"), key, why);
            }
            for why in validate::label_value(text(value)) {
                errors.invalid(&path.child("selector"), value, why);
            }
        }
        for (i, ip) in items(&spec["externalIPs"]).iter().enumerate() {
            for why in validate::non_special_ip(text(ip)) {
                errors.invalid(&path.child("externalIPs").index(i), ip, why);
            }
        }
        for (field, supported) in [
            ("externalTrafficPolicy", &["Cluster", "Local"][..]),
            ("internalTrafficPolicy", &["Cluster", "Local"]),
        ] {
            if !spec[field].is_null() {
                one_of(&mut errors, &path.child(field), &spec[field], supported);
            }
        }
        let timeout = &spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"];
        if spec["sessionAffinity"] == "ClientIP" && !(1..=86400).contains(&int(timeout)) {
            let at = path.child("sessionAffinityConfig").child("clientIP").child("timeoutSeconds");
            errors.invalid(&at, timeout, "must be greater than 0 and less than 86400");
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (n, o) = (&new["spec"], &old["spec"]);
        if n["type"] != "ExternalName" && o["type"] != "ExternalName" && !empty(&o["clusterIP"]) {
            let at = Path::new("spec").child("clusterIPs").index(0);
            immutable(&mut errors, &at, &n["clusterIP"], &o["clusterIP"]);
        }
        errors
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::dns_1035_name(name, prefix)
    }

    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        SERVICE_FIELDS
    }
}

struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, obj: &mut Value) {
        for subset in each(meta::as_map(obj), "subsets") {
            for port in each(subset, "ports") {
                set_text(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (i, subset) in items(&obj["subsets"]).iter().enumerate() {
            let at = Path::new("subsets").index(i);
            for list in ["addresses", "notReadyAddresses"] {
                for (j, a) in items(&subset[list]).iter().enumerate() {
                    for why in validate::non_special_ip(text(&a["ip"])) {
                        errors.invalid(&at.child(list).index(j).child("ip"), &a["ip"], why);
                    }
                }
            }
            for (j, p) in items(&subset["ports"]).iter().enumerate() {
                for why in validate::port_number(int(&p["port"])) {
                    errors.invalid(&at.child("ports").index(j).child("port"), &p["port"], why);
                }
            }
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

struct EndpointSlice;

impl Strategy for EndpointSlice {
    fn default(&self, obj: &mut Value) {
        let map = meta::as_map(obj);
        for port in each(map, "ports") {
            set(port, "name", "");
            set_text(port, "protocol", "TCP");
        }
        for endpoint in each(map, "endpoints") {
            set(endpoint, "conditions", json!({}));
        }
        // Never left out.
        for list in ["endpoints", "ports"] {
            set(map, list, Value::Null);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        one_of(&mut errors, &Path::new("addressType"), &obj["addressType"], &["FQDN", "IPv4", "IPv6"]);
        for (i, e) in items(&obj["endpoints"]).iter().enumerate() {
            let at = Path::new("endpoints").index(i).child("addresses");
            if empty(&e["addresses"]) {
                errors.required(&at, "must contain at least 1 address");
            }
            if obj["addressType"] != "FQDN" {
                for (j, a) in items(&e["addresses"]).iter().enumerate() {
                    for why in validate::non_special_ip(text(a)) {
                        errors.invalid(&at.index(j), a, why);
                    }
                }
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        immutable(&mut errors, &Path::new("addressType"), &new["addressType"], &old["addressType"]);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// v1beta1 keeps node and zone in a map of topology labels.
fn slice_to_storage(obj: &mut Value) {
    for endpoint in each(meta::as_map(obj), "endpoints") {
        let Some(Value::Object(mut topology)) = endpoint.shift_remove("topology") else { continue };
        for (label, field) in [(HOSTNAME, "nodeName"), (ZONE, "zone")] {
            if let Some(v) = topology.shift_remove(label) {
                set(endpoint, field, v);
            }
        }
        if !topology.is_empty() {
            endpoint.insert("deprecatedTopology".to_owned(), Value::Object(topology));
        }
    }
}

fn slice_from_storage(obj: &mut Value) {
    for endpoint in each(meta::as_map(obj), "endpoints") {
        let mut topology: BTreeMap<String, Value> = match endpoint.shift_remove("deprecatedTopology") {
            Some(Value::Object(map)) => map.into_iter().collect(),
            _ => BTreeMap::new(),
        };
        if let Some(node) = endpoint.get("nodeName") {
            topology.insert(HOSTNAME.to_owned(), node.clone());
        }
        if let Some(zone) = endpoint.shift_remove("zone") {
            topology.insert(ZONE.to_owned(), zone);
        }
        if !topology.is_empty() {
            let map: Map = topology.into_iter().collect();
            endpoint.insert("topology".to_owned(), Value::Object(map));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    #[test]
    fn nobody_is_led_to_the_machine_s_own_addresses() {
        let of = |gvr, object: Value| {
            let kind = kinds::by_gvr(&gvr).unwrap();
            let mut object = object;
            object["metadata"] = json!({"name": "s", "namespace": "n"});
            kind.default(&mut object);
            kind.validate_create(&object).message()
        };
        for (ip, why) in [
            ("127.0.0.1", "may not be in the loopback range (127.0.0.0/8, ::1/128)"),
            ("::1", "may not be in the loopback range"),
            ("::ffff:127.0.0.1", "may not be in the loopback range"),
            ("169.254.169.254", "may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
            ("fe80::1", "may not be in the link-local range"),
            ("224.0.0.5", "may not be in the link-local multicast range"),
            ("ff02::1", "may not be in the link-local multicast range"),
            ("0.0.0.0", "may not be unspecified (0.0.0.0)"),
            ("x", "must be a valid IP address"),
            ("10.0.0.1", ""),
            ("fd00::1", ""),
        ] {
            let family = if ip.contains(':') { "IPv6" } else { "IPv4" };
            let all = [
                of(gvr::ENDPOINTS, json!({"subsets": [{"addresses": [{"ip": ip}]}]})),
                of(gvr::ENDPOINTS, json!({"subsets": [{"notReadyAddresses": [{"ip": ip}]}]})),
                of(gvr::ENDPOINT_SLICES, json!({"addressType": family, "endpoints": [{"addresses": [ip]}]})),
                of(gvr::SERVICES, json!({"spec": {"ports": [{"port": 80}], "externalIPs": [ip]}})),
            ];
            for message in all {
                assert_eq!(message == "[]", why.is_empty(), "{ip}: {message}");
                assert!(message.contains(why), "{ip}: {message}");
            }
        }
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
        old["spec"]["ports"][0]["nodePort"] = json!(30001);
        let mut new = obj.clone();
        new["spec"]["type"] = json!("NodePort");
        kind.prepare_update(&mut new, &old, "");
        assert_eq!(new["spec"]["clusterIP"], "10.0.0.1");
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30001);
        let mut other = old.clone();
        other["spec"]["clusterIP"] = json!("10.0.0.2");
        assert!(
            kind.validate_update(&other, &old, "")
                .message()
                .contains("spec.clusterIPs[0]: Invalid value: \"10.0.0.2\": field is immutable")
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
