//! Kubernetes' own types: quantities, URLs, addresses, versions, named formats.

use std::cmp::Ordering;
use std::net::IpAddr;
use std::rc::Rc;

use ipnet::IpNet;

use super::super::value::{Key, Text, Val, no_overload};
use super::{Answer, overload};
use crate::kinds::crd::fits;
use crate::quantity::{Format, Quantity};
use crate::validate as check;

pub(super) fn quantity<'a>(name: &str, q: Quantity, args: &[Val<'a>]) -> Answer<'a> {
    let other = |v: &Val<'a>| match v {
        Val::Quantity(q) => Some(*q),
        Val::Int(i) => Some(Quantity::of(*i, Format::Decimal)),
        _ => None,
    };
    let whole = q.nanos() % 1_000_000_000 == 0 && i64::try_from(q.nanos() / 1_000_000_000).is_ok();
    Ok(match (name, args) {
        ("sign", []) => Val::Int(q.signum().into()),
        ("isInteger", []) => Val::Bool(whole),
        ("asInteger", []) if whole => Val::Int(q.value()),
        ("asInteger", []) => return Err("cannot convert value to integer".into()),
        ("asApproximateFloat", []) => Val::Double(q.as_f64()),
        ("isGreaterThan", [Val::Quantity(o)]) => Val::Bool(q > *o),
        ("isLessThan", [Val::Quantity(o)]) => Val::Bool(q < *o),
        ("compareTo", [Val::Quantity(o)]) => Val::Int(order(q.cmp(o))),
        ("add", [o]) => Val::Quantity(q.plus(other(o).ok_or_else(|| no_overload(name))?)),
        ("sub", [o]) => Val::Quantity(q.minus(other(o).ok_or_else(|| no_overload(name))?)),
        _ => return overload(name),
    })
}

pub(super) fn order(order: Ordering) -> i64 {
    match order {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    }
}

pub(super) fn parse_url(s: &str) -> Option<url::Url> {
    // As Go's url.ParseRequestURI: an absolute URL or an absolute path.
    if s.starts_with('/') {
        let base = url::Url::parse("path://").ok()?;
        return base.join(s).ok();
    }
    url::Url::parse(s).ok().filter(|u| s.len() > u.scheme().len() + 1)
}

pub(super) fn url<'a>(name: &str, u: &url::Url) -> Answer<'a> {
    let only_a_path = u.scheme() == "path";
    let host = u.host_str().unwrap_or("");
    let port = u.port().map(|p| p.to_string()).unwrap_or_default();
    Ok(match name {
        "getScheme" => Val::text(if only_a_path { "" } else { u.scheme() }),
        "getHost" => Val::text(if port.is_empty() { host.to_owned() } else { format!("{host}:{port}") }),
        "getHostname" => Val::text(host.trim_start_matches('[').trim_end_matches(']')),
        "getPort" => Val::text(port),
        "getEscapedPath" => Val::text(u.path()),
        "getQuery" => {
            let mut out: indexmap::IndexMap<Key<'a>, Val<'a>> = indexmap::IndexMap::new();
            for (k, v) in u.query_pairs() {
                let slot =
                    out.entry(Key::Text(Text::Made(k.into()))).or_insert_with(|| Val::list(Vec::new()));
                if let Val::List(list) = slot {
                    Rc::make_mut(list).push(Val::text(v.into_owned()));
                }
            }
            Val::Map(Rc::new(out))
        }
        _ => return overload(name),
    })
}

/// As Go's netip takes an address: no zone, no leading zeros, no IPv4 inside IPv6.
pub(super) fn parse_ip(s: &str) -> Option<IpAddr> {
    let ip: IpAddr = s.parse().ok()?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        ip => Some(ip),
    }
}

pub(super) fn address<'a>(name: &str, ip: IpAddr) -> Answer<'a> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    Ok(match name {
        "family" => Val::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(ip.is_unspecified()),
        "isLoopback" => Val::Bool(ip.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(link_multicast),
        "isLinkLocalUnicast" => Val::Bool(link_local),
        "isGlobalUnicast" => Val::Bool(
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local || broadcast),
        ),
        _ => return overload(name),
    })
}

pub(super) fn network<'a>(name: &str, net: IpNet, args: &[Val<'a>]) -> Answer<'a> {
    let parse = |s: &str| {
        parse_ip(s).ok_or_else(|| format!("IP Address \"{s}\" parse error during conversion from string"))
    };
    let parse_net = |s: &str| {
        s.parse::<IpNet>()
            .map_err(|e| format!("network address parse error during conversion from string: {e}"))
    };
    Ok(match (name, args) {
        ("containsIP", [Val::Ip(ip)]) => Val::Bool(net.contains(ip)),
        ("containsIP", [Val::Text(s)]) => Val::Bool(net.contains(&parse(s)?)),
        ("containsCIDR", [Val::Cidr(other)]) => Val::Bool(net.contains(other)),
        ("containsCIDR", [Val::Text(s)]) => Val::Bool(net.contains(&parse_net(s)?)),
        ("ip", []) => Val::Ip(net.addr()),
        ("masked", []) => Val::Cidr(net.trunc()),
        ("prefixLength", []) => Val::Int(net.prefix_len().into()),
        _ => return overload(name),
    })
}

pub(super) fn version<'a>(name: &str, v: &semver::Version, args: &[Val<'a>]) -> Answer<'a> {
    let number = |n: u64| Val::Int(i64::try_from(n).unwrap_or(i64::MAX));
    Ok(match (name, args) {
        ("major", []) => number(v.major),
        ("minor", []) => number(v.minor),
        ("patch", []) => number(v.patch),
        ("isLessThan", [Val::Semver(o)]) => Val::Bool(v.cmp_precedence(o) == Ordering::Less),
        ("isGreaterThan", [Val::Semver(o)]) => Val::Bool(v.cmp_precedence(o) == Ordering::Greater),
        ("compareTo", [Val::Semver(o)]) => Val::Int(order(v.cmp_precedence(o))),
        _ => return overload(name),
    })
}

/// A version, and leniently what is nearly one: `v1.2`, `1`.
pub(super) fn parse_version(s: &str, lenient: bool) -> Option<semver::Version> {
    if !lenient {
        return semver::Version::parse(s).ok();
    }
    let s = s.trim_start_matches('v');
    let end = s.find(['-', '+']).unwrap_or(s.len());
    let (numbers, rest) = s.split_at(end);
    let mut parts: Vec<String> = numbers.split('.').map(|p| p.trim_start_matches('0').to_owned()).collect();
    parts.resize(3, String::new());
    let parts: Vec<&str> = parts.iter().map(|p| if p.is_empty() { "0" } else { p.as_str() }).collect();
    semver::Version::parse(&format!("{}{rest}", parts.join("."))).ok()
}

pub(super) const FORMATS: [&str; 13] = [
    "dns1123Label",
    "dns1123LabelPrefix",
    "dns1123Subdomain",
    "dns1123SubdomainPrefix",
    "dns1035Label",
    "dns1035LabelPrefix",
    "qualifiedName",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

/// Nothing if the text is of the format, else what is wrong with it.
pub(super) fn validate<'a>(format: &str, s: &str) -> Val<'a> {
    // The beginning of a name may end in a dash, which the name may not.
    let begun = s.strip_suffix('-').map_or_else(|| s.to_owned(), |stem| format!("{stem}a"));
    let faults = match format {
        "dns1123Label" => check::dns_label(s),
        "dns1123LabelPrefix" => check::dns_label(&begun),
        "dns1123Subdomain" => check::dns_subdomain(s),
        "dns1123SubdomainPrefix" => check::dns_subdomain(&begun),
        "dns1035Label" => check::dns_1035_label(s),
        "dns1035LabelPrefix" => check::dns_1035_label(&begun),
        "qualifiedName" => check::qualified_name(s),
        "labelValue" => check::label_value(s),
        _ if fits(format, s) => Vec::new(),
        "uri" => vec![format!("parse {s:?}: invalid URI for request")],
        "uuid" => vec!["does not match the UUID format".to_owned()],
        "byte" => vec!["invalid base64".to_owned()],
        other => vec![format!("invalid {other}")],
    };
    if faults.is_empty() {
        return Val::Optional(None);
    }
    Val::some(Val::list(faults.into_iter().map(Val::text).collect()))
}
