//! What a network policy may say.

use std::collections::HashSet;

use ipnet::IpNet;
use serde_json::Value;

use super::super::common::*;
use crate::field::{ErrorList, Path};
use crate::validate;

const DIRECTIONS: [(&str, &str); 2] = [("ingress", "from"), ("egress", "to")];

/// The ranges that a policy names, wherever.
fn ranges(policy: &Value) -> HashSet<&str> {
    let rules = DIRECTIONS.iter().flat_map(|(direction, peers)| {
        items(&policy["spec"][*direction]).iter().flat_map(|rule| items(&rule[*peers]))
    });
    let blocks = rules.map(|peer| &peer["ipBlock"]);
    blocks.flat_map(|b| items(&b["except"]).iter().chain([&b["cidr"]])).map(text).collect()
}

/// `old`: what it changes. Ranges, and values in selectors, may stay as wrong as they were.
pub(super) fn check(errors: &mut ErrorList, obj: &Value, old: &Value) {
    let (spec, path) = (&obj["spec"], Path::new("spec"));
    let mut before = ErrorList::new();
    check_selector(&mut before, &Path::root(), &old["spec"]["podSelector"]);
    let odd = !before.is_empty();
    let selector = |errors: &mut ErrorList, at: &Path, selector: &Value| {
        let mut wrong = ErrorList::new();
        check_selector(&mut wrong, at, selector);
        errors.append(if odd { without_odd_values(wrong) } else { wrong });
    };
    selector(errors, &path.child("podSelector"), &spec["podSelector"]);
    let known = ranges(old);
    for (direction, peers) in DIRECTIONS {
        for (i, rule) in items(&spec[direction]).iter().enumerate() {
            let at = path.child(direction).index(i);
            for (j, port) in items(&rule["ports"]).iter().enumerate() {
                check_port(errors, port, &at.child("ports").index(j));
            }
            for (j, peer) in items(&rule[peers]).iter().enumerate() {
                let at = at.child(peers).index(j);
                let selects = ["podSelector", "namespaceSelector"].map(|field| {
                    selector(errors, &at.child(field), &peer[field]);
                    !peer[field].is_null()
                });
                let (selects, block) = (selects.contains(&true), &peer["ipBlock"]);
                if !block.is_null() {
                    check_block(errors, block, &at.child("ipBlock"), &known);
                }
                if !selects && block.is_null() {
                    errors.required(&at, "must specify a peer");
                } else if selects && !block.is_null() {
                    errors.forbidden(&at, "may not specify both ipBlock and another peer");
                }
            }
        }
    }
    let (types, at) = (items(&spec["policyTypes"]), path.child("policyTypes"));
    if types.len() > 2 {
        errors.invalid(&at, &spec["policyTypes"], "may not specify more than two policyTypes");
        return;
    }
    for (i, t) in types.iter().enumerate().filter(|(_, t)| !["Ingress", "Egress"].contains(&text(t))) {
        errors.not_supported(&at.index(i), t, &["Ingress", "Egress"]);
    }
}

fn check_port(errors: &mut ErrorList, port: &Value, path: &Path) {
    let (protocol, protocols) = (&port["protocol"], ["TCP", "UDP", "SCTP"]);
    if !protocol.is_null() && !protocols.contains(&text(protocol)) {
        errors.not_supported(&path.child("protocol"), protocol, &protocols);
    }
    let (first, last) = (&port["port"], &port["endPort"]);
    let (at, last_at) = (path.child("port"), path.child("endPort"));
    match first {
        Value::Null if !last.is_null() => {
            errors.invalid(&last_at, last, "may not be specified when `port` is not specified");
        }
        Value::Null => {}
        Value::String(_) => {
            if !last.is_null() {
                errors.invalid(&last_at, last, "may not be specified when `port` is non-numeric");
            }
            each_why(errors, &at, first, validate::port_name);
        }
        _ => {
            for why in validate::port_number(int(first)) {
                errors.invalid(&at, first, why);
            }
            if last.is_null() {
                return;
            }
            if int(last) < int(first) {
                errors.invalid(&last_at, first, "must be greater than or equal to `port`");
            }
            for why in validate::port_number(int(last)) {
                errors.invalid(&last_at, last, why);
            }
        }
    }
}

fn check_block(errors: &mut ErrorList, block: &Value, path: &Path, known: &HashSet<&str>) {
    let at = path.child("cidr");
    if empty(&block["cidr"]) {
        errors.required(&at, "");
        return;
    }
    let range = |errors: &mut ErrorList, at: &Path, range: &Value| {
        if !known.contains(text(range)) {
            each_why(errors, at, range, validate::strict_cidr);
        }
    };
    range(errors, &at, &block["cidr"]);
    let Ok(whole) = text(&block["cidr"]).parse::<IpNet>() else { return };
    for (i, except) in items(&block["except"]).iter().enumerate() {
        let at = path.child("except").index(i);
        range(errors, &at, except);
        let Ok(part) = text(except).parse::<IpNet>() else { continue };
        if !whole.contains(&part) || whole.prefix_len() >= part.prefix_len() {
            errors.invalid(&at, except, "must be a strict subset of `cidr`");
        }
    }
}
