//! Endpoints and EndpointSlices.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Strategy};
use crate::field::{ErrorList, Path};
use crate::{Map, meta, validate};

pub(super) const DECLS: &[Decl] = &[
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
            check_subset(&mut errors, subset, &Path::new("subsets").index(i));
        }
        errors
    }

    /// What has not changed may stay as it is.
    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        if new["subsets"] == old["subsets"] { ErrorList::new() } else { self.validate(new) }
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

fn check_subset(errors: &mut ErrorList, subset: &Value, path: &Path) {
    if empty(&subset["addresses"]) && empty(&subset["notReadyAddresses"]) {
        errors.required(path, "must specify `addresses` or `notReadyAddresses`");
    }
    for list in ["addresses", "notReadyAddresses"] {
        for (i, address) in items(&subset[list]).iter().enumerate() {
            let at = path.child(list).index(i);
            let ip = text(&address["ip"]);
            for why in [validate::strict_ip(ip), validate::endpoint_ip(ip)].into_iter().flatten() {
                errors.invalid_str(&at.child("ip"), ip, why);
            }
            if !empty(&address["hostname"]) {
                each_why(errors, &at.child("hostname"), &address["hostname"], validate::dns_label);
            }
            if !address["nodeName"].is_null() {
                each_why(errors, &at.child("nodeName"), &address["nodeName"], validate::dns_subdomain);
            }
        }
    }
    let ports = items(&subset["ports"]);
    for (i, port) in ports.iter().enumerate() {
        let at = path.child("ports").index(i);
        if !empty(&port["name"]) {
            each_why(errors, &at.child("name"), &port["name"], validate::dns_label);
        } else if ports.len() > 1 {
            errors.required(&at.child("name"), "");
        }
        for why in validate::port_number(int(&port["port"])) {
            errors.invalid(&at.child("port"), &port["port"], why);
        }
        check_protocol(errors, port, &at);
    }
}

/// What the ports of endpoints and of slices have in common.
fn check_protocol(errors: &mut ErrorList, port: &Value, path: &Path) {
    one_of(errors, &path.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
    if !port["appProtocol"].is_null() {
        each_why(errors, &path.child("appProtocol"), &port["appProtocol"], validate::qualified_name);
    }
}

const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
const MAX_TOPOLOGY: usize = 16;
const MAX_HINTS: usize = 8;

fn check_slice(errors: &mut ErrorList, slice: &Value) {
    one_of(errors, &Path::new("addressType"), &slice["addressType"], &["FQDN", "IPv4", "IPv6"]);
    let (ports, path) = (items(&slice["ports"]), Path::new("ports"));
    if ports.len() > MAX_PORTS {
        errors.too_many(&path, ports.len(), MAX_PORTS);
        return;
    }
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let (at, name) = (path.index(i), text(&port["name"]));
        if !name.is_empty() {
            each_why(errors, &at.child("name"), &port["name"], validate::dns_label);
        }
        if !names.insert(name) {
            errors.duplicate(&at.child("name"), &json!(name));
        }
        check_protocol(errors, port, &at);
    }
}

fn check_endpoints(errors: &mut ErrorList, slice: &Value) {
    let (list, path) = (items(&slice["endpoints"]), Path::new("endpoints"));
    if list.len() > MAX_ENDPOINTS {
        errors.too_many(&path, list.len(), MAX_ENDPOINTS);
        return;
    }
    for (i, endpoint) in list.iter().enumerate() {
        let at = path.index(i);
        let (addresses, addresses_at) = (items(&endpoint["addresses"]), at.child("addresses"));
        if addresses.is_empty() {
            errors.required(&addresses_at, "must contain at least 1 address");
        } else if addresses.len() > MAX_ADDRESSES {
            errors.too_many(&addresses_at, addresses.len(), MAX_ADDRESSES);
        }
        for (j, address) in addresses.iter().map(text).enumerate() {
            check_address(errors, text(&slice["addressType"]), address, &addresses_at, j);
        }
        if !endpoint["nodeName"].is_null() {
            each_why(errors, &at.child("nodeName"), &endpoint["nodeName"], validate::dns_subdomain);
        }
        let (topology, topology_at) = (&endpoint["deprecatedTopology"], at.child("deprecatedTopology"));
        let labels = topology.as_object().map_or(0, Map::len);
        if labels > MAX_TOPOLOGY {
            errors.too_many(&topology_at, labels, MAX_TOPOLOGY);
        }
        errors.append(super::rules::labels(topology, &topology_at));
        if !endpoint["hostname"].is_null() {
            each_why(errors, &at.child("hostname"), &endpoint["hostname"], validate::dns_label);
        }
        check_hints(errors, &endpoint["hints"], &at.child("hints"));
    }
}

fn check_address(errors: &mut ErrorList, kind: &str, address: &str, path: &Path, i: usize) {
    let six = match kind {
        "IPv4" => false,
        "IPv6" => true,
        "FQDN" => return check_full_name(errors, address, &path.index(i)),
        _ => return,
    };
    let wrong = if six { validate::canonical_ip(address) } else { validate::strict_ip(address) };
    if !wrong.is_empty() {
        wrong.into_iter().for_each(|why| errors.invalid_str(&path.index(i), address, why));
        return;
    }
    if address.contains(':') != six {
        errors.invalid_str(path, address, format!("must be an {kind} address"));
    }
    for why in validate::non_special_ip(address) {
        errors.invalid_str(&path.index(i), address, why);
    }
}

fn check_full_name(errors: &mut ErrorList, name: &str, path: &Path) {
    if name.is_empty() {
        errors.required(path, "");
        return;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let wrong = validate::dns_subdomain(name);
    if !wrong.is_empty() {
        errors.invalid_str(path, name, wrong.join(","));
        return;
    }
    if !name.contains('.') {
        errors.invalid_str(path, name, "should be a domain with at least two segments separated by dots");
        return;
    }
    for label in name.split('.') {
        let wrong = validate::dns_label(label);
        if !wrong.is_empty() {
            errors.invalid_str(path, label, wrong.join(","));
        }
    }
}

/// For which zones and nodes an endpoint is.
fn check_hints(errors: &mut ErrorList, hints: &Value, path: &Path) {
    let rules: [(&str, NameRule); 2] =
        [("forZones", validate::label_value), ("forNodes", validate::dns_subdomain)];
    for (list, rule) in rules {
        let (given, at) = (items(&hints[list]), path.child(list));
        if given.len() > MAX_HINTS {
            errors.too_many(&at, given.len(), MAX_HINTS);
            return;
        }
        let mut seen = HashSet::new();
        for (i, hint) in given.iter().enumerate() {
            let at = at.index(i).child("name");
            if !seen.insert(text(&hint["name"])) {
                errors.duplicate(&at, &hint["name"]);
            }
            each_why(errors, &at, &hint["name"], rule);
        }
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
        check_slice(&mut errors, obj);
        check_endpoints(&mut errors, obj);
        errors
    }

    /// Endpoints that have not changed may stay as they are.
    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_slice(&mut errors, new);
        if new["endpoints"] != old["endpoints"] {
            check_endpoints(&mut errors, new);
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

    /// They say of which service it is.
    fn raising_metadata(&self) -> &[&str] {
        &["labels"]
    }

    fn warnings(&self, obj: &Value) -> Vec<String> {
        let deprecated = obj["addressType"] == "FQDN";
        deprecated.then(|| "spec.addressType: FQDN endpoints are deprecated".to_owned()).into_iter().collect()
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
            ("::ffff:127.0.0.1", "must not be an IPv4-mapped IPv6 address"),
            ("010.0.0.1", "must not have leading 0s"),
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
}
