//! What links and extra hosts give a container: lines of its hosts file, and variables.

use crate::container::Container;
use crate::error::{Result, system};
use crate::files::Line;
use crate::networks::user_defined;
use crate::ports::{Kind, Port};
use crate::{Engine, create, ports, validate};

/// What links and extra hosts give a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Links {
    /// Lines of /etc/hosts.
    pub extra: Vec<Line>,
    /// `DB_PORT_5432_TCP_ADDR=...`
    pub variables: Vec<String>,
}

impl Engine {
    /// The address at which containers of the default network reach this machine.
    pub fn host_gateway(&self) -> Option<String> {
        self.host_gateways().into_iter().next()
    }

    /// The same of both families: what `host-gateway` stands for.
    fn host_gateways(&self) -> Vec<String> {
        let settings = self.settings();
        let told: Vec<String> = [false, true]
            .into_iter()
            .filter_map(|v6| settings.host_gateway(v6))
            .map(|a| a.to_string())
            .collect();
        if !told.is_empty() {
            return told;
        }
        let Ok(bridge) = self.networks.get("bridge") else { return Vec::new() };
        let of = |v6| bridge.family(v6).find_map(|p| p.own).map(|g| g.to_string());
        [false, true].into_iter().filter_map(of).collect()
    }

    /// Hosts and variables of links, and extra hosts.
    pub(super) fn links(&self, container: &Container) -> Result<Links> {
        let (host, name) = {
            let inner = container.lock();
            (inner.asked.host.clone(), inner.asked.name.clone())
        };
        let mut out = Links::default();
        for entry in &host.extra_hosts {
            let (host_name, address) = validate::extra_host(entry)?;
            let addresses = match address {
                "host-gateway" => self.host_gateways(),
                address => vec![address.to_owned()],
            };
            out.extra.extend(addresses.into_iter().map(|a| (a, vec![host_name.to_owned()])));
        }
        // On a network of their own containers find each other by name; there a link is an alias.
        for link in host.links.iter().filter(|_| !user_defined(&host.network_mode)) {
            let (target, alias) = create::parse_link(link)?;
            let other = self.find(target)?;
            let inner = other.lock();
            if !inner.life.phase.alive() {
                return Err(system(format!(
                    "Cannot link to a non running container: /{} AS /{name}/{alias}",
                    inner.asked.name
                )));
            }
            let Some(attached) = inner.life.attached.get("bridge") else {
                return Err(system(format!(
                    "Cannot link to /{}, as it does not belong to the default network",
                    inner.asked.name
                )));
            };
            let mut names = vec![alias.to_owned(), inner.asked.config.hostname.clone()];
            if alias != inner.asked.name {
                names.push(inner.asked.name.clone());
            }
            names.retain(|n| !n.is_empty());
            out.extra.extend(attached.addresses().map(|a| (a.addr().to_string(), names.clone())));
            let address = attached.address.addr().to_string();
            let prefix = alias.replace('-', "_").to_ascii_uppercase();
            let exposed = ports::exposed(&inner.asked.config, &inner.asked.host)?;
            out.variables.extend(port_variables(&prefix, &address, exposed.into_iter().collect()));
            out.variables.push(format!("{prefix}_NAME=/{name}/{alias}"));
            for variable in &inner.asked.config.env {
                if !variable.starts_with("PATH=") && !variable.starts_with("HOME=") {
                    out.variables.push(format!("{prefix}_ENV_{variable}"));
                }
            }
        }
        Ok(out)
    }
}

/// What a link tells of the other's ports: the first one (those of TCP come first), each, and where ranges begin and end.
fn port_variables(prefix: &str, address: &str, mut ports: Vec<Port>) -> Vec<String> {
    ports.sort_by_key(|p| (p.proto != Kind::Tcp, p.proto.name(), p.number));
    let mut out = Vec::new();
    let url = |p: &Port| format!("{}://{address}:{}", p.proto.name(), p.number);
    let stem = |p: &Port| format!("{prefix}_PORT_{}_{}", p.number, p.proto.name().to_ascii_uppercase());
    if let Some(first) = ports.first() {
        out.push(format!("{prefix}_PORT={}", url(first)));
    }
    for port in &ports {
        let stem = stem(port);
        out.push(format!("{stem}={}", url(port)));
        out.push(format!("{stem}_ADDR={address}"));
        out.push(format!("{stem}_PORT={}", port.number));
        out.push(format!("{stem}_PROTO={}", port.proto.name()));
    }
    let follows = |a: &Port, b: &Port| a.proto == b.proto && a.number.checked_add(1) == Some(b.number);
    for range in ports.chunk_by(follows) {
        if let [first, .., last] = range {
            let stem = stem(first);
            out.push(format!("{stem}_START={}", url(first)));
            out.push(format!("{stem}_PORT_START={}", first.number));
            out.push(format!("{stem}_END={}", url(last)));
            out.push(format!("{stem}_PORT_END={}", last.number));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_link() {
        let port = |number, proto| Port { number, proto };
        let all = vec![port(53, Kind::Udp), port(80, Kind::Tcp), port(81, Kind::Tcp)];
        let text = port_variables("DB", "10.0.0.2", all).join(" ");
        assert!(text.starts_with("DB_PORT=tcp://10.0.0.2:80 DB_PORT_80_TCP=tcp://10.0.0.2:80 "), "{text}");
        assert!(text.ends_with(
            "DB_PORT_80_TCP_START=tcp://10.0.0.2:80 DB_PORT_80_TCP_PORT_START=80 DB_PORT_80_TCP_END=tcp://10.0.0.2:81 DB_PORT_80_TCP_PORT_END=81"
        ), "{text}");
        assert!(text.contains("DB_PORT_53_UDP_PROTO=udp") && !text.contains("UDP_START"));
    }
}
