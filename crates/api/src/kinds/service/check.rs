//! What a service may say, of its addresses, its ports and its traffic.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::super::common::*;
use super::super::podspec;
use super::{external_traffic, has_health_port, has_node_ports};
use crate::field::{ErrorList, Path};
use crate::{meta, validate};

fn headless(spec: &Value) -> bool {
    spec["clusterIPs"][0] == "None" || spec["clusterIP"] == "None" && empty(&spec["clusterIPs"])
}

/// `old`: what it changes. What once was no address by today's rules may stay.
pub(super) fn service(errors: &mut ErrorList, obj: &Value, old: &Value) {
    let (spec, before, path) = (&obj["spec"], &old["spec"], Path::new("spec"));
    check_hints(errors, obj);
    let kind = text(&spec["type"]);
    if empty(&spec["ports"]) && !headless(spec) && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    if has_node_ports(kind) && headless(spec) {
        let why = format!("may not be set to 'None' for {kind} services");
        errors.invalid_str(&path.child("clusterIPs").index(0), "None", why);
    }
    if kind == "ExternalName" {
        check_external_name(errors, spec, &path);
    }
    check_ports(errors, spec, &path);
    errors.append(super::super::rules::labels(&spec["selector"], &path.child("selector")));
    check_affinity(errors, spec, &path);
    if kind != "ExternalName" {
        check_cluster_ips(errors, spec, before, &path);
    }
    for (i, ip) in items(&spec["externalIPs"]).iter().enumerate() {
        let at = path.child("externalIPs").index(i);
        let mut wrong = Vec::new();
        if !items(&before["externalIPs"]).contains(ip) {
            wrong = validate::strict_ip(text(ip));
        }
        if wrong.is_empty() {
            wrong = validate::endpoint_ip(text(ip));
        }
        wrong.into_iter().for_each(|why| errors.invalid(&at, ip, why));
    }
    let kinds = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    one_of(errors, &path.child("type"), &spec["type"], &kinds);
    check_numbers(errors, spec, &path);
    check_ranges(errors, obj, old);
    check_balancing(errors, spec, &path);
    check_traffic(errors, spec, &path);
}

const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";

fn check_hints(errors: &mut ErrorList, obj: &Value) {
    if let (Some(hints), Some(mode)) = (meta::annotation(obj, HINTS), meta::annotation(obj, MODE))
        && hints != mode
    {
        let why = format!("must match annotations[{HINTS}] when both are specified");
        errors.invalid_str(&Path::new("metadata").child("annotations").key(MODE), mode, why);
    }
}

fn check_external_name(errors: &mut ErrorList, spec: &Value, path: &Path) {
    for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
        if !empty(&spec[field]) {
            errors.forbidden(&path.child(field), "may not be set for ExternalName services");
        }
    }
    let (name, at) = (text(&spec["externalName"]), path.child("externalName"));
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.is_empty() {
        errors.required(&at, "");
    } else {
        each_why(errors, &at, &json!(name), validate::dns_subdomain);
    }
}

fn check_ports(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let ports = items(&spec["ports"]);
    let mut names = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        let at = path.child("ports").index(i);
        let name = text(&port["name"]);
        if !name.is_empty() {
            each_why(errors, &at.child("name"), &port["name"], validate::dns_label);
            if !names.insert(name) {
                errors.duplicate(&at.child("name"), &port["name"]);
            }
        } else if ports.len() > 1 {
            errors.required(&at.child("name"), "");
        }
        for why in validate::port_number(int(&port["port"])) {
            errors.invalid(&at.child("port"), &json!(int(&port["port"])), why);
        }
        one_of(errors, &at.child("protocol"), &port["protocol"], &["SCTP", "TCP", "UDP"]);
        podspec::validate_port(errors, &port["targetPort"], &at.child("targetPort"));
        if !port["appProtocol"].is_null() {
            each_why(errors, &at.child("appProtocol"), &port["appProtocol"], validate::qualified_name);
        }
    }
}

/// Numbers that may occur once only.
fn check_numbers(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let (ports, at) = (items(&spec["ports"]), path.child("ports"));
    let node = |port: &Value| int(&port["nodePort"]);
    if spec["type"] == "ClusterIP" {
        for (i, _) in ports.iter().enumerate().filter(|(_, port)| node(port) != 0) {
            let why = "may not be used when `type` is 'ClusterIP'";
            errors.forbidden(&at.index(i).child("nodePort"), why);
        }
    }
    let mut seen = HashSet::new();
    for (i, port) in ports.iter().enumerate().filter(|(_, port)| node(port) != 0) {
        if !seen.insert((text(&port["protocol"]), node(port))) {
            errors.duplicate(&at.index(i).child("nodePort"), &port["nodePort"]);
        }
    }
    let mut seen = HashSet::new();
    for (i, port) in ports.iter().enumerate() {
        if !seen.insert((text(&port["protocol"]), int(&port["port"]))) {
            // Upstream shows its own form of it.
            let shown = json!({"Name": "", "Protocol": port["protocol"], "AppProtocol": null,
                "Port": port["port"], "TargetPort": 0, "NodePort": 0});
            errors.duplicate(&at.index(i), &shown);
        }
    }
}

fn check_affinity(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let affinity = &spec["sessionAffinity"];
    one_of(errors, &path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let (config, at) = (&spec["sessionAffinityConfig"], path.child("sessionAffinityConfig"));
    if affinity == "None" && !config.is_null() {
        errors.forbidden(&at, "must not be set when session affinity is None");
    }
    if affinity != "ClientIP" {
        return;
    }
    let (client, timeout) = (&config["clientIP"], &config["clientIP"]["timeoutSeconds"]);
    let client_at = at.child("clientIP");
    let timeout_at = client_at.child("timeoutSeconds");
    for (value, at) in [(config, &at), (client, &client_at), (timeout, &timeout_at)] {
        if value.is_null() {
            errors.required(at, "when session affinity type is ClientIP");
            return;
        }
    }
    if !(1..=86400).contains(&int(timeout)) {
        errors.invalid(&timeout_at, timeout, "must be greater than 0 and less than 86400");
    }
}

fn check_cluster_ips(errors: &mut ErrorList, spec: &Value, before: &Value, path: &Path) {
    let (one, all, at) = (text(&spec["clusterIP"]), &spec["clusterIPs"], path.child("clusterIPs"));
    let ips = items(all);
    match ips.first() {
        None if !one.is_empty() => errors.required(&at, ""),
        Some(_) if one.is_empty() => {
            errors.invalid(&at, all, "must be empty when `clusterIP` is not specified");
        }
        Some(first) if text(first) != one => {
            errors.invalid(&at, all, "first value must match `clusterIP`");
        }
        _ => {}
    }
    let (families, families_at) = (items(&spec["ipFamilies"]), path.child("ipFamilies"));
    let mut seen = HashSet::new();
    for (i, family) in families.iter().enumerate() {
        let at = families_at.index(i);
        if !["IPv4", "IPv6"].contains(&text(family)) {
            errors.not_supported(&at, family, &["IPv4", "IPv6"]);
        }
        if !seen.insert(text(family)) {
            errors.duplicate(&at, family);
        }
    }
    let (policy, policies) =
        (&spec["ipFamilyPolicy"], ["PreferDualStack", "RequireDualStack", "SingleStack"]);
    if !policy.is_null() && !policies.contains(&text(policy)) {
        errors.not_supported(&path.child("ipFamilyPolicy"), policy, &policies);
    }
    let mut good = true;
    for (i, ip) in ips.iter().enumerate() {
        if i == 0 && ip == "None" {
            if ips.len() > 1 {
                good = false;
                errors.invalid(&at, all, "'None' must be the first and only value");
            }
        } else if !items(&before["clusterIPs"]).contains(ip) {
            for why in validate::strict_ip(text(ip)) {
                good = false;
                errors.invalid(&at.index(i), ip, why);
            }
        }
    }
    if ips.len() > 2 {
        errors.invalid(&at, all, "may only hold up to 2 values");
    }
    if !good {
        return;
    }
    let sixes = ips.iter().filter(|ip| text(ip).contains(':')).count();
    if ips.len() > 1 && (sixes == 0 || sixes == ips.len()) {
        errors.invalid(&at, all, "may specify no more than one IP for each IP family");
    }
    if headless(spec) {
        return;
    }
    for (i, (ip, family)) in ips.iter().zip(families).enumerate() {
        let six = text(ip).contains(':');
        if family == "IPv4" && six || family == "IPv6" && !six {
            let why = format!("expected an {} value as indicated by `ipFamilies[{i}]`", text(family));
            errors.invalid(&at.index(i), ip, why);
        }
    }
}

const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

fn check_ranges(errors: &mut ErrorList, obj: &Value, old: &Value) {
    let (spec, before) = (&obj["spec"], &old["spec"]["loadBalancerSourceRanges"]);
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = spec["type"] == "LoadBalancer";
    let ranges = items(&spec["loadBalancerSourceRanges"]);
    if !ranges.is_empty() {
        // So upstream writes it.
        let at = Path::new("spec").child("LoadBalancerSourceRanges");
        if !balanced {
            errors.forbidden(&at, ONLY);
        }
        let before: HashSet<&str> = items(before).iter().map(|range| text(range).trim()).collect();
        for (i, range) in ranges.iter().map(|range| text(range).trim()).enumerate() {
            if !before.contains(range) {
                each_why(errors, &at.index(i), &json!(range), validate::strict_cidr);
            }
        }
        return;
    }
    let Some(given) = meta::annotation(obj, RANGES) else { return };
    let at = Path::new("metadata").child("annotations").key(RANGES);
    if !balanced {
        errors.forbidden(&at, ONLY);
    }
    if meta::annotation(old, RANGES) != Some(given) && !given.trim().is_empty() {
        for range in given.split(',').map(str::trim) {
            each_why(errors, &at, &json!(range), validate::strict_cidr);
        }
    }
}

/// What only a service with a load balancer has.
fn check_balancing(errors: &mut ErrorList, spec: &Value, path: &Path) {
    const ONLY: &str = "may only be used when `type` is 'LoadBalancer'";
    let balanced = spec["type"] == "LoadBalancer";
    let (ports, class) = (&spec["allocateLoadBalancerNodePorts"], &spec["loadBalancerClass"]);
    if !ports.is_null() && !balanced {
        errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY);
    }
    if ports.is_null() && balanced {
        errors.required(&Path::new("allocateLoadBalancerNodePorts"), "");
    }
    let at = path.child("loadBalancerClass");
    if !class.is_null() && balanced {
        each_why(errors, &at, class, validate::qualified_name);
    } else if !class.is_null() {
        errors.forbidden(&at, ONLY);
    }
}

fn check_traffic(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let kind = text(&spec["type"]);
    let policies = ["Cluster", "Local"];
    let (outside, at) = (&spec["externalTrafficPolicy"], path.child("externalTrafficPolicy"));
    if external_traffic(kind, &spec["externalIPs"]) {
        one_of(errors, &at, outside, &policies);
    } else if !empty(outside) {
        errors.invalid(&at, outside, "may only be set for externally-accessible services");
    }
    let (port, at) = (&spec["healthCheckNodePort"], path.child("healthCheckNodePort"));
    match (has_health_port(kind, spec), int(port)) {
        (true, 0) => errors.required(&at, ""),
        (true, n) => validate::port_number(n).into_iter().for_each(|why| errors.invalid(&at, port, why)),
        (false, 0) => {}
        (false, _) => {
            let why = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.invalid(&at, port, why);
        }
    }
    let (inside, at) = (&spec["internalTrafficPolicy"], path.child("internalTrafficPolicy"));
    if inside.is_null() && matches!(kind, "NodePort" | "LoadBalancer" | "ClusterIP") {
        errors.required(&at, "");
    }
    if !inside.is_null() && !policies.contains(&text(inside)) {
        errors.not_supported(&at, inside, &policies);
    }
    let (spread, known) = (&spec["trafficDistribution"], ["PreferClose", "PreferSameZone", "PreferSameNode"]);
    if !spread.is_null() && !known.contains(&text(spread)) {
        errors.not_supported(&path.child("trafficDistribution"), spread, &known);
    }
}

/// What stays once it is given.
pub(super) fn update(errors: &mut ErrorList, new: &Value, old: &Value) {
    const ONCE: &str = "may not change once set";
    let path = Path::new("spec");
    let named = |spec: &Value| spec["type"] == "ExternalName";
    let balanced = |spec: &Value| spec["type"] == "LoadBalancer";
    let same = named(new) || named(old) || headless(new) && headless(old);
    if !same {
        stays(errors, new, old, "clusterIPs", "clusterIP", ONCE);
    }
    if !same && headless(new) == headless(old) {
        stays(errors, new, old, "ipFamilies", "ipFamily", ONCE);
    }
    let class = &new["loadBalancerClass"];
    if balanced(new) && balanced(old) && *class != old["loadBalancerClass"] {
        errors.invalid(&path.child("loadBalancerClass"), class, ONCE);
    }
    let needs = |spec: &Value| has_health_port(text(&spec["type"]), spec);
    if needs(new) && needs(old) && int(&new["healthCheckNodePort"]) != int(&old["healthCheckNodePort"]) {
        errors.forbidden(&path.child("healthCheckNodePort"), "field is immutable");
    }
}

/// Of a list of at most two, which may get a second item and lose it again.
fn stays(errors: &mut ErrorList, new: &Value, old: &Value, list: &str, one: &str, once: &str) {
    let (n, o) = (items(&new[list]), items(&old[list]));
    let path = Path::new("spec");
    let at = path.child(list);
    if n.len() == o.len() {
        for i in (0..n.len()).filter(|i| n.get(*i) != o.get(*i)) {
            let at = at.index(if list == "clusterIPs" { i } else { 0 });
            errors.invalid(&at, &new[list], once);
        }
        return;
    }
    if n.len() < o.len() && empty(&new["clusterIPs"]) {
        errors.invalid(&at.index(0), &new[list], format!("primary {one} can not be unset"));
    }
    if let (Some(a), Some(b)) = (n.first(), o.first())
        && a != b
    {
        errors.invalid(&at.index(0), &new["clusterIPs"], once);
    }
    let policy = &new["ipFamilyPolicy"];
    if n.len() == 1 && o.len() > 1 && policy != "SingleStack" {
        let why = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        errors.invalid(&path.child("ipFamilyPolicy"), policy, why);
    }
}

/// Where a load balancer is, in the status of a service or an ingress.
pub(super) fn load_balancer(errors: &mut ErrorList, new: &Value, old: &Value, kind: &str) {
    let path = Path::new("status").child("loadBalancer").child("ingress");
    let list = items(&new["ingress"]);
    if kind != "LoadBalancer" && !list.is_empty() {
        errors.forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'");
        return;
    }
    balancers(errors, list, items(&old["ingress"]), &path);
    for (i, ingress) in list.iter().enumerate() {
        let (at, mode) = (path.index(i).child("ipMode"), &ingress["ipMode"]);
        match (mode.is_null(), empty(&ingress["ip"])) {
            (true, false) => errors.required(&at, "must be specified when `ip` is set"),
            (false, true) => errors.forbidden(&at, "may not be specified when `ip` is not set"),
            (false, false) if !["Proxy", "VIP"].contains(&text(mode)) => {
                errors.not_supported(&at, mode, &["Proxy", "VIP"]);
            }
            _ => {}
        }
    }
}

/// Addresses and names of load balancers. What once was no address by today's rules may stay.
pub(in crate::kinds) fn balancers(errors: &mut ErrorList, list: &[Value], before: &[Value], path: &Path) {
    for (i, ingress) in list.iter().enumerate() {
        let (at, ip, host) = (path.index(i), &ingress["ip"], text(&ingress["hostname"]));
        if !empty(ip) && !before.iter().any(|b| b["ip"] == *ip) {
            each_why(errors, &at.child("ip"), ip, validate::strict_ip);
        }
        if !host.is_empty() {
            each_why(errors, &at.child("hostname"), &ingress["hostname"], validate::dns_subdomain);
            if host.parse::<std::net::IpAddr>().is_ok() {
                errors.invalid_str(&at.child("hostname"), host, "must be a DNS name, not an IP address");
            }
        }
    }
}

pub(super) fn warnings(obj: &Value) -> Vec<String> {
    let spec = &obj["spec"];
    let mut told: Vec<String> = Vec::new();
    if meta::annotation(obj, HINTS).is_some() {
        told.push(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    let (named, some) = (spec["type"] == "ExternalName", !empty(&spec["externalIPs"]));
    if headless(spec) {
        for (ignored, field) in [
            (!empty(&spec["loadBalancerIP"]), "loadBalancerIP"),
            (some, "externalIPs"),
            (spec["sessionAffinity"] != "None", "SessionAffinity"),
        ] {
            if ignored {
                told.push(format!("spec.{field} is ignored for headless services"));
            }
        }
    } else if some && !named {
        told.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    if some && named {
        told.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !named && !empty(&spec["externalName"]) {
        told.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec["trafficDistribution"] == "PreferClose" {
        told.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
    told
}
