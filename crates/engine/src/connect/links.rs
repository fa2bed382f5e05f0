//! What links and extra hosts give a container: lines of its hosts file, and variables.

use crate::container::Container;
use crate::error::{Result, system};
use crate::files::Line;
use crate::networks::user_defined;
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
            if let Some(first) = exposed.first() {
                out.variables.push(format!(
                    "{prefix}_PORT={}://{address}:{}",
                    first.proto.name(),
                    first.number
                ));
            }
            for port in &exposed {
                let (kind, n) = (port.proto.name(), port.number);
                let stem = format!("{prefix}_PORT_{n}_{}", kind.to_ascii_uppercase());
                out.variables.push(format!("{stem}={kind}://{address}:{n}"));
                out.variables.push(format!("{stem}_ADDR={address}"));
                out.variables.push(format!("{stem}_PORT={n}"));
                out.variables.push(format!("{stem}_PROTO={kind}"));
            }
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
