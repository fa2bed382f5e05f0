//! Published ports: reading `ExposedPorts` and `PortBindings`, choosing host ports, and what `port` and `ps` show.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use indexmap::IndexMap;
use network::Proto;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Result, invalid};
use crate::model::{Config, HostConfig, PortBinding};

/// A container's port, `80/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Port {
    /// The number; 0 is not a port.
    pub number: u16,
    /// The protocol.
    pub proto: Kind,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

impl Kind {
    /// `tcp`, `udp` or `sctp`.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Tcp => "tcp",
            Kind::Udp => "udp",
            Kind::Sctp => "sctp",
        }
    }

    pub(crate) fn proto(self) -> Proto {
        match self {
            Kind::Tcp => Proto::Tcp,
            Kind::Udp => Proto::Udp,
            Kind::Sctp => Proto::Sctp,
        }
    }
}

impl std::fmt::Display for Port {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.number, self.proto.name())
    }
}

/// One published port of a running container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// The container's port.
    pub port: Port,
    /// The host's address.
    pub host_ip: IpAddr,
    /// The host's port.
    pub host_port: u16,
}

/// A binding as asked for: the host's port may be a range, to choose from, or 0, any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub port: Port,
    /// `None` is every address, or what the network says.
    pub host_ip: Option<IpAddr>,
    pub from: u16,
    pub to: u16,
}

impl Wanted {
    /// The host's address of one family; `None` if it is not published there. `binding` is the network's default.
    pub(crate) fn host_address(&self, v6: bool, binding: Option<IpAddr>) -> Option<IpAddr> {
        match self.host_ip.or(binding) {
            Some(address) if address.is_ipv6() == v6 => Some(address),
            // 0.0.0.0 as a default means IPv6 as well, asked for explicitly it does not.
            Some(address) if self.host_ip.is_none() && address == any(false) => Some(any(v6)),
            Some(_) => None,
            None => Some(any(v6)),
        }
    }
}

/// Every address of this machine, of one family.
pub(crate) fn any(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() }
}

impl From<Proto> for Kind {
    fn from(proto: Proto) -> Kind {
        match proto {
            Proto::Tcp => Kind::Tcp,
            Proto::Udp => Kind::Udp,
            Proto::Sctp => Kind::Sctp,
        }
    }
}

/// `80`, `80/udp`, `8000-8010/tcp`.
pub(crate) fn parse(text: &str) -> Result<Vec<Port>> {
    let bad = || invalid(format!("invalid port specification: \"{text}\""));
    let (numbers, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    let proto = match proto.to_ascii_lowercase().as_str() {
        "tcp" | "" => Kind::Tcp,
        "udp" => Kind::Udp,
        "sctp" => Kind::Sctp,
        _ => return Err(bad()),
    };
    let (from, to) = range(numbers).ok_or_else(bad)?;
    if from == 0 {
        return Err(bad());
    }
    Ok((from..=to).map(|number| Port { number, proto }).collect())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let (from, to) = (from.parse().ok()?, to.parse().ok()?);
    (from <= to).then_some((from, to))
}

/// How often ports may be named: an image may declare ranges, and any number of them.
const NAMED: usize = 1 << 20;

/// Every port the container declares or publishes.
pub(crate) fn exposed(config: &Config, host: &HostConfig) -> Result<BTreeSet<Port>> {
    let (mut all, mut named) = (BTreeSet::new(), 0);
    for text in config.exposed_ports.keys().chain(host.port_bindings.keys()) {
        let ports = parse(text)?;
        named += ports.len();
        if named > NAMED {
            return Err(invalid(format!("the image and the request name ports more than {NAMED} times")));
        }
        all.extend(ports);
    }
    Ok(all)
}

/// What is to be published, from bindings and `PublishAllPorts`.
pub(crate) fn wanted(config: &Config, host: &HostConfig) -> Result<Vec<Wanted>> {
    let mut out = Vec::new();
    let mut bound = BTreeSet::new();
    for (text, bindings) in &host.port_bindings {
        for port in parse(text)? {
            for binding in bindings {
                bound.insert(port);
                out.extend(one(port, binding)?);
            }
        }
    }
    if host.publish_all_ports {
        for port in exposed(config, host)?.difference(&bound) {
            out.extend(one(*port, &PortBinding::default())?);
        }
    }
    Ok(out)
}

fn one(port: Port, binding: &PortBinding) -> Result<Vec<Wanted>> {
    let (from, to) = match binding.host_port.as_str() {
        "" => (0, 0),
        text => range(text).ok_or_else(|| invalid(format!("invalid port specification: \"{text}\"")))?,
    };
    let host_ip = match binding.host_ip.as_str() {
        "" => None,
        text => {
            let bad = |_| invalid(format!("invalid IP address {text} in port binding of {port}"));
            Some(text.trim_matches(['[', ']']).parse().map_err(bad)?)
        }
    };
    Ok(vec![Wanted { port, host_ip, from, to }])
}

/// `NetworkSettings.Ports`: every exposed port, with its host side where it has one.
pub(crate) fn settings(exposed: &BTreeSet<Port>, published: &[Published]) -> Value {
    let mut out: IndexMap<String, Value> = exposed.iter().map(|p| (p.to_string(), Value::Null)).collect();
    for p in published {
        let entry = out.entry(p.port.to_string()).or_insert(Value::Null);
        // What is routed to has no port of this machine.
        let host_port = if p.host_port == 0 { String::new() } else { p.host_port.to_string() };
        let binding = json!({"HostIp": p.host_ip.to_string(), "HostPort": host_port});
        match entry {
            Value::Array(list) => list.push(binding),
            other => *other = Value::Array(vec![binding]),
        }
    }
    json!(out)
}

/// `Ports` of `docker ps`.
pub(crate) fn summary(exposed: &BTreeSet<Port>, published: &[Published]) -> Value {
    let mut out = Vec::new();
    for port in exposed {
        let mut bare = true;
        for p in published.iter().filter(|p| p.port == *port && p.host_port != 0) {
            bare = false;
            out.push(json!({
                "IP": p.host_ip.to_string(), "PrivatePort": port.number, "PublicPort": p.host_port,
                "Type": port.proto.name(),
            }));
        }
        if bare {
            out.push(json!({"PrivatePort": port.number, "Type": port.proto.name()}));
        }
    }
    Value::Array(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        assert_eq!(parse("80").unwrap()[0].to_string(), "80/tcp");
        assert_eq!(parse("53/udp").unwrap()[0].to_string(), "53/udp");
        assert_eq!(parse("8000-8002").unwrap().len(), 3);
        for bad in ["", "0", "x", "80/icmp", "9-8", "70000"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn publishes_all() {
        let config = Config {
            exposed_ports: [
                ("80/tcp".to_owned(), Default::default()),
                ("53/udp".to_owned(), Default::default()),
            ]
            .into(),
            ..Config::default()
        };
        let binding = PortBinding { host_ip: "127.0.0.1".into(), host_port: "8080-8090".into() };
        let host = HostConfig {
            port_bindings: [("80/tcp".to_owned(), vec![binding])].into_iter().collect(),
            publish_all_ports: true,
            ..HostConfig::default()
        };
        let wanted = wanted(&config, &host).unwrap();
        assert_eq!(wanted.len(), 2);
        assert_eq!((wanted[0].from, wanted[0].to), (8080, 8090));
        let at = |i: usize, v6, binding: Option<&str>| {
            let binding = binding.map(|b| b.parse().unwrap());
            wanted[i].host_address(v6, binding).map(|a: IpAddr| a.to_string()).unwrap_or_default()
        };
        assert_eq!((at(0, false, None), at(0, true, None)), ("127.0.0.1".into(), String::new()));
        assert_eq!((at(1, false, None), at(1, true, None)), ("0.0.0.0".into(), "::".into()));
        assert_eq!(
            (at(1, false, Some("0.0.0.0")), at(1, true, Some("0.0.0.0"))),
            ("0.0.0.0".into(), "::".into())
        );
        assert_eq!(
            (at(1, false, Some("10.0.0.1")), at(1, true, Some("10.0.0.1"))),
            ("10.0.0.1".into(), String::new())
        );
        assert_eq!((wanted[1].from, wanted[1].port.to_string().as_str()), (0, "53/udp"));
        let exposed = exposed(&config, &host).unwrap();
        let loopback = wanted[0].host_ip.unwrap();
        let published = [Published { port: wanted[0].port, host_ip: loopback, host_port: 8080 }];
        assert_eq!(
            settings(&exposed, &published),
            json!({"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "53/udp": null})
        );
    }

    #[test]
    fn an_image_may_not_name_ports_without_end() {
        let mut config = Config::default();
        for i in 1..=20_000 {
            config.exposed_ports.insert(format!("{i}-65535"), Default::default());
        }
        let e = exposed(&config, &HostConfig::default()).unwrap_err().to_string();
        assert!(e.contains("name ports more than"), "{e}");
        config.exposed_ports.retain(|text, _| text == "1-65535");
        assert_eq!(exposed(&config, &HostConfig::default()).unwrap().len(), 65535);
    }
}
