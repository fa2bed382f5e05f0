//! What a name of the cluster's zone means.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A name, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    /// The zone, or a name in it that only has names below it.
    Branch,
    /// `dns-version.ZONE` (section 2.2)
    Version,
    /// `ns.dns.ZONE`: this server.
    Server,
    /// `SERVICE.NAMESPACE.svc.ZONE`
    Service { namespace: &'a str, service: &'a str },
    /// `HOSTNAME.SERVICE.NAMESPACE.svc.ZONE`
    Endpoint { namespace: &'a str, service: &'a str, hostname: &'a str },
    /// `_PORT._PROTOCOL.SERVICE.NAMESPACE.svc.ZONE`
    Port { namespace: &'a str, service: &'a str, port: &'a str, protocol: &'a str },
    /// `_PROTOCOL.SERVICE.NAMESPACE.svc.ZONE`: only has names below it.
    Protocol { namespace: &'a str, service: &'a str },
    /// `NAMESPACE.svc.ZONE` or `NAMESPACE.pod.ZONE`
    Namespace(&'a str),
    /// `1-2-3-4.NAMESPACE.pod.ZONE`
    Pod { namespace: &'a str, address: IpAddr },
    /// In the zone, and nothing.
    Nothing,
    /// `4.3.2.1.in-addr.arpa`, `….ip6.arpa`
    Reverse(IpAddr),
    /// Not ours.
    Foreign,
}

/// Takes `name` (lower case, no final dot) apart in the zone `zone`.
pub(crate) fn meaning<'a>(name: &'a str, zone: &str) -> Meaning<'a> {
    if let Some(address) = reverse(name) {
        return Meaning::Reverse(address);
    }
    let Some(rest) = name.strip_suffix(zone) else { return Meaning::Foreign };
    if rest.is_empty() {
        return Meaning::Branch;
    }
    let Some(rest) = rest.strip_suffix('.') else { return Meaning::Foreign };
    let labels: Vec<&str> = rest.split('.').collect();
    let underscored = |label: &'a str| label.strip_prefix('_').filter(|l| !l.is_empty());
    match labels[..] {
        ["svc" | "pod" | "dns"] => Meaning::Branch,
        ["dns-version"] => Meaning::Version,
        ["ns", "dns"] => Meaning::Server,
        [namespace, "svc" | "pod"] => Meaning::Namespace(namespace),
        [service, namespace, "svc"] => Meaning::Service { namespace, service },
        [hostname, service, namespace, "svc"] => match underscored(hostname) {
            Some(_) => Meaning::Protocol { namespace, service },
            None => Meaning::Endpoint { namespace, service, hostname },
        },
        [port, protocol, service, namespace, "svc"] => match (underscored(port), underscored(protocol)) {
            (Some(port), Some(protocol)) => Meaning::Port { namespace, service, port, protocol },
            _ => Meaning::Nothing,
        },
        [address, namespace, "pod"] => match dashed(address) {
            Some(address) => Meaning::Pod { namespace, address },
            None => Meaning::Nothing,
        },
        _ => Meaning::Nothing,
    }
}

/// `1-2-3-4`, or an IPv6 address with dashes for colons.
fn dashed(label: &str) -> Option<IpAddr> {
    let dots = label.replace('-', ".");
    dots.parse::<Ipv4Addr>()
        .map(IpAddr::from)
        .ok()
        .or_else(|| label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::from))
}

/// The label by which an endpoint without a hostname is known.
pub(crate) fn label_of(address: &IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut labels = digits.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = labels.next()?.parse().ok()?;
        }
        return labels.next().is_none().then(|| octets.into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut number = 0u128;
    let mut count = 0;
    for label in digits.split('.') {
        let digit = u128::from_str_radix(label, 16).ok().filter(|_| label.len() == 1)?;
        number |= digit << (4 * count);
        count += 1;
        if count > 32 {
            return None;
        }
    }
    (count == 32).then(|| Ipv6Addr::from(number).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_zone() {
        let (namespace, service) = ("ns", "web");
        let four = IpAddr::from([10, 244, 0, 7]);
        let cases = [
            ("cluster.local", Meaning::Branch),
            ("svc.cluster.local", Meaning::Branch),
            ("ns.svc.cluster.local", Meaning::Namespace("ns")),
            ("ns.pod.cluster.local", Meaning::Namespace("ns")),
            ("web.ns.svc.cluster.local", Meaning::Service { namespace, service }),
            ("web-0.web.ns.svc.cluster.local", Meaning::Endpoint { namespace, service, hostname: "web-0" }),
            ("_tcp.web.ns.svc.cluster.local", Meaning::Protocol { namespace, service }),
            (
                "_http._tcp.web.ns.svc.cluster.local",
                Meaning::Port { namespace, service, port: "http", protocol: "tcp" },
            ),
            ("10-244-0-7.ns.pod.cluster.local", Meaning::Pod { namespace, address: four }),
            ("fd00--7.ns.pod.cluster.local", Meaning::Pod { namespace, address: "fd00::7".parse().unwrap() }),
            ("dns-version.cluster.local", Meaning::Version),
            ("ns.dns.cluster.local", Meaning::Server),
            ("nonsense.ns.pod.cluster.local", Meaning::Nothing),
            ("a.b.c.d.e.f.svc.cluster.local", Meaning::Nothing),
            ("http.tcp.web.ns.svc.cluster.local", Meaning::Nothing),
            ("other.cluster.local", Meaning::Nothing),
            ("notcluster.local", Meaning::Foreign),
            ("example.com", Meaning::Foreign),
            ("", Meaning::Foreign),
            ("7.0.244.10.in-addr.arpa", Meaning::Reverse(four)),
            ("0.244.10.in-addr.arpa", Meaning::Foreign),
            ("300.0.244.10.in-addr.arpa", Meaning::Foreign),
        ];
        for (name, expected) in cases {
            assert_eq!(meaning(name, "cluster.local"), expected, "{name}");
        }
        let six = format!("7.{}0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(meaning(&six, "cluster.local"), Meaning::Foreign, "one digit short");
        let six = format!("7.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(meaning(&six, "cluster.local"), Meaning::Reverse("fd00::7".parse().unwrap()));
    }
}
