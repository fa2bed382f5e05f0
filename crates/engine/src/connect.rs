//! Connecting containers to networks: addresses, interfaces, names, published ports; at start, and live.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use indexmap::IndexMap;
use ipnet::IpNet;

use crate::container::{Attached, Container, Phase};
use crate::error::{Error, Result, conflict, forbidden, invalid, not_found, system};
use crate::files::Line;
use crate::model::{EndpointSettings, NetworkConnect};
use crate::networks::Net;
use crate::ports::{self, Published};
use crate::{Engine, create, networks, resolver, validate};

/// What links and extra hosts give a container.
#[derive(Debug, Clone, Default)]
pub(crate) struct Links {
    /// Lines of /etc/hosts.
    pub extra: Vec<Line>,
    /// `DB_PORT_5432_TCP_ADDR=...`
    pub variables: Vec<String>,
}

fn netns(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// Who has an address: the container and this connection of it.
fn owner(container: &Container, endpoint: &str) -> String {
    format!("{}/{endpoint}", container.id)
}

impl Engine {
    /// Takes addresses on every network of the container, and resolves its links.
    pub(crate) async fn prepare_endpoints(self: &Arc<Self>, container: &Arc<Container>) -> Result<Links> {
        let asked = container.lock().asked.endpoints.clone();
        let mut attached = IndexMap::new();
        let last: IndexMap<String, Attached> = container.lock().life.attached.clone();
        for (number, (name, settings)) in asked.iter().enumerate() {
            let net = self.networks.get(name)?;
            let result = self.allocate(container, &net, settings, last.get(name), number);
            match result {
                Ok(one) => {
                    attached.insert(name.clone(), one);
                }
                Err(error) => {
                    container.lock().life.attached = attached;
                    self.disconnect_all(container).await;
                    return Err(error);
                }
            }
        }
        container.lock().life.attached = attached;
        self.links(container)
    }

    fn allocate(
        &self,
        container: &Container,
        net: &Net,
        settings: &EndpointSettings,
        last: Option<&Attached>,
        number: usize,
    ) -> Result<Attached> {
        let endpoint_id = base::rng::hex(32);
        let mut attached = Attached {
            network_id: net.record.id.clone(),
            endpoint_id: endpoint_id.clone(),
            address: IpNet::V4(Default::default()),
            gateway: None,
            mac: settings.mac_address.clone(),
            host_ifname: String::new(),
            ifname: format!("eth{number}"),
        };
        let Some(pool) = net.v4() else { return Ok(attached) };
        let who = owner(container, &endpoint_id);
        let fixed = settings.ipam_config.as_ref().map(|i| i.ipv4_address.as_str()).filter(|a| !a.is_empty());
        let address = match fixed {
            Some(text) => {
                let address: IpAddr =
                    text.parse().map_err(|_| invalid(format!("invalid IPv4 address: {text}")))?;
                pool.addresses.allocate(&who, Some(address))?
            }
            // The address it had before, if nobody took it meanwhile.
            None => match last.map(|l| pool.addresses.allocate(&who, Some(l.address.addr()))) {
                Some(Ok(address)) => address,
                _ => pool.addresses.allocate(&who, None)?,
            },
        };
        attached.address =
            IpNet::new(address, pool.subnet.prefix_len()).map_err(|e| system(format!("{address}: {e}")))?;
        attached.gateway = Some(pool.gateway).filter(|_| !net.record.internal);
        Ok(attached)
    }

    /// Makes the interfaces, enters the names, publishes the ports.
    pub(crate) async fn connect_all(self: &Arc<Self>, container: &Arc<Container>, pid: u32) -> Result<()> {
        let (asked, mode) = {
            let inner = container.lock();
            (inner.asked.endpoints.clone(), inner.asked.host.network_mode.clone())
        };
        if mode == "host" || mode.starts_with("container:") {
            return Ok(());
        }
        if asked.keys().all(|n| n == "none") {
            return Ok(self.network.loopback_up(&netns(pid)).await?);
        }
        let gateway_of = self.gateway_network(container);
        for (name, settings) in &asked {
            let net = self.networks.get(name)?;
            self.plug(container, &net, settings, pid, gateway_of.as_deref() == Some(name.as_str())).await?;
        }
        self.publish(container)?;
        self.serve_names(container, pid).await;
        Ok(())
    }

    /// The network that the default route leads to: the highest priority, else the first that is not internal.
    fn gateway_network(&self, container: &Container) -> Option<String> {
        let inner = container.lock();
        let mut best: Option<(&String, i64)> = None;
        for (name, settings) in &inner.asked.endpoints {
            let has_gateway = inner.life.attached.get(name).is_some_and(|a| a.gateway.is_some());
            if has_gateway && best.is_none_or(|(_, priority)| settings.gw_priority > priority) {
                best = Some((name, settings.gw_priority));
            }
        }
        best.map(|(name, _)| name.clone())
    }

    async fn plug(
        self: &Arc<Self>,
        container: &Arc<Container>,
        net: &Arc<Net>,
        settings: &EndpointSettings,
        pid: u32,
        default_route: bool,
    ) -> Result<()> {
        let name = &net.record.name;
        let Some(attached) = container.lock().life.attached.get(name).cloned() else { return Ok(()) };
        if net.record.bridge.is_empty() {
            return Ok(());
        }
        self.bridge_up(net).await?;
        let spec = network::AttachSpec {
            netns: netns(pid),
            bridge: net.record.bridge.clone(),
            ifname: attached.ifname.clone(),
            mac: networks::mac(&settings.mac_address),
            addresses: vec![attached.address],
            gateway: attached.gateway.filter(|_| default_route),
            ..network::AttachSpec::default()
        };
        let made = self.network.attach(&spec).await?;
        let mac: Vec<String> = made.mac.iter().map(|b| format!("{b:02x}")).collect();
        {
            let mut inner = container.lock();
            if let Some(a) = inner.life.attached.get_mut(name) {
                a.host_ifname = made.host_ifname;
                a.mac = mac.join(":");
            }
        }
        if net.user_defined() {
            net.enter(&container.id, &self.dns_names(container, settings), attached.address.addr());
        }
        self.network_event(net, "connect", &[("container", container.id.clone())]);
        Ok(())
    }

    /// The names by which others on the same network find the container.
    pub(crate) fn dns_names(&self, container: &Container, settings: &EndpointSettings) -> Vec<String> {
        let inner = container.lock();
        let mut names = vec![inner.asked.name.clone()];
        names.extend(settings.aliases.iter().cloned());
        names.push(container.short().to_owned());
        if !inner.asked.config.hostname.is_empty() {
            names.push(inner.asked.config.hostname.clone());
        }
        let mut seen = std::collections::HashSet::new();
        names.retain(|n| seen.insert(n.clone()));
        names
    }

    /// Publishes the container's ports at the address of its default route.
    fn publish(&self, container: &Container) -> Result<()> {
        let gateway_of = self.gateway_network(container);
        let (wanted, target) = {
            let inner = container.lock();
            let wanted = ports::wanted(&inner.asked.config, &inner.asked.host)?;
            let target = gateway_of.and_then(|n| inner.life.attached.get(&n).map(|a| a.address.addr()));
            (wanted, target)
        };
        let (Some(target), false) = (target, wanted.is_empty()) else { return Ok(()) };
        // One call for all of them unless a range lets us choose; then each of it is tried in turn.
        let mut mappings = Vec::new();
        let mut published: Vec<Published> = Vec::new();
        let failed = |e: network::Error| {
            let _ = self.network.ports().unpublish(&container.id);
            system(format!(
                "driver failed programming external connectivity on endpoint {} ({}): {e}",
                container.name(),
                container.short()
            ))
        };
        let done = |made: Vec<network::PortMapping>, published: &mut Vec<Published>| {
            for m in made {
                let kind = match m.proto {
                    network::Proto::Tcp => ports::Kind::Tcp,
                    network::Proto::Udp => ports::Kind::Udp,
                    network::Proto::Sctp => ports::Kind::Sctp,
                };
                let port = ports::Port { number: m.container_port, proto: kind };
                published.push(Published { port, host_ip: m.host_ip, host_port: m.host_port });
            }
        };
        for w in wanted {
            if w.host_ip == ports::ANY6 || w.host_ip.is_ipv6() != target.is_ipv6() {
                continue;
            }
            let mapping = |host_port| network::PortMapping {
                proto: w.port.proto.proto(),
                host_ip: w.host_ip,
                host_port,
                container_ip: target,
                container_port: w.port.number,
            };
            if w.from == w.to {
                mappings.push(mapping(w.from));
                continue;
            }
            let mut last = None;
            for port in w.from..=w.to {
                match self.network.ports().publish(&container.id, &[mapping(port)]) {
                    Ok(made) => {
                        done(made, &mut published);
                        last = None;
                        break;
                    }
                    Err(e) => last = Some(e),
                }
            }
            if let Some(e) = last {
                return Err(failed(e));
            }
        }
        if !mappings.is_empty() {
            done(self.network.ports().publish(&container.id, &mappings).map_err(failed)?, &mut published);
        }
        published.sort_by_key(|p| (p.port, p.host_ip, p.host_port));
        container.lock().life.ports = published;
        Ok(())
    }

    /// Serves names inside a container of user networks.
    async fn serve_names(self: &Arc<Self>, container: &Arc<Container>, pid: u32) {
        let user = container.lock().life.attached.keys().any(|n| !networks::PREDEFINED.contains(&n.as_str()));
        if !user || container.resolver.lock().is_some() {
            return;
        }
        match resolver::serve(self, container, netns(pid)).await {
            Ok(guard) => *container.resolver.lock() = Some(guard),
            Err(error) => {
                tracing::warn!(container = %container.short(), %error, "names do not resolve in it");
            }
        }
    }

    /// After a restart of the daemon: what a running container has is entered again.
    pub(crate) async fn rejoin(self: &Arc<Self>, container: &Arc<Container>) {
        let (attached, asked, pid) = {
            let inner = container.lock();
            (inner.life.attached.clone(), inner.asked.endpoints.clone(), inner.life.pid)
        };
        for (name, one) in &attached {
            let Ok(net) = self.networks.get(name) else { continue };
            if let Some(pool) = net.v4()
                && let Err(error) =
                    pool.addresses.allocate(&owner(container, &one.endpoint_id), Some(one.address.addr()))
            {
                tracing::error!(container = %container.short(), %error, "its address is not its own any more");
            }
            if net.user_defined() {
                let settings = asked.get(name).cloned().unwrap_or_default();
                net.enter(&container.id, &self.dns_names(container, &settings), one.address.addr());
            }
        }
        self.serve_names(container, pid).await;
    }

    /// Gives back what a container has on its networks. Its interfaces go with its namespace, but that may take a
    /// while or be shared, so they are removed by name, in the background; the addresses are free after that.
    pub(crate) async fn disconnect_all(self: &Arc<Self>, container: &Arc<Container>) {
        let attached = {
            let mut inner = container.lock();
            inner.life.ports.clear();
            std::mem::take(&mut inner.life.attached)
        };
        if let Err(error) = self.network.ports().unpublish(&container.id) {
            tracing::warn!(container = %container.short(), %error, "its ports could not be taken back");
        }
        for (name, one) in attached {
            let Ok(net) = self.networks.get(&name) else { continue };
            net.leave(&container.id);
            if !one.host_ifname.is_empty() {
                self.network_event(&net, "disconnect", &[("container", container.id.clone())]);
            }
            let (engine, container) = (self.clone(), container.clone());
            let detach = async move {
                if let Err(error) = engine.network.detach(&one.host_ifname).await {
                    tracing::warn!(container = %container.short(), %error, "its interface could not be removed");
                }
                if let Some(pool) = net.v4() {
                    pool.addresses.release(&owner(&container, &one.endpoint_id));
                }
            };
            self.tasks.spawn(detach);
        }
    }

    /// The address at which containers of the default network reach this machine.
    pub fn host_gateway(&self) -> Option<String> {
        Some(self.networks.get("bridge").ok()?.v4()?.gateway.to_string())
    }

    /// Hosts and variables of links, and extra hosts.
    fn links(&self, container: &Container) -> Result<Links> {
        let (host, name) = {
            let inner = container.lock();
            (inner.asked.host.clone(), inner.asked.name.clone())
        };
        let mut out = Links::default();
        for entry in &host.extra_hosts {
            let (host_name, address) = validate::extra_host(entry)?;
            let address = if address == "host-gateway" {
                self.host_gateway().unwrap_or_default()
            } else {
                address.to_owned()
            };
            out.extra.push((address, vec![host_name.to_owned()]));
        }
        for link in &host.links {
            let (target, alias) = create::parse_link(link)?;
            let other = self.find(target)?;
            let inner = other.lock();
            if !inner.life.phase.alive() {
                return Err(conflict(format!(
                    "Cannot link to a non running container: /{} AS /{name}/{alias}",
                    inner.asked.name
                )));
            }
            let Some(attached) = inner.life.attached.values().next() else { continue };
            let address = attached.address.addr().to_string();
            let names = vec![alias.to_owned(), other.short().to_owned(), inner.asked.name.clone()];
            out.extra.push((address.clone(), names));
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

    /// `docker network connect`.
    pub async fn network_connect(self: &Arc<Self>, reference: &str, request: NetworkConnect) -> Result<()> {
        let net = self.networks.get(reference)?;
        let container = self.find(&request.container)?;
        let _op = container.op.lock().await;
        let settings = request.endpoint_config;
        networks::check_endpoint(&net, &settings)?;
        let name = net.record.name.clone();
        let (mode, phase, already) = {
            let inner = container.lock();
            (
                inner.asked.host.network_mode.clone(),
                inner.life.phase,
                inner.asked.endpoints.contains_key(&name),
            )
        };
        validate::not_going(phase, "connected to a network")?;
        if mode.starts_with("container:") {
            return Err(forbidden(
                "container sharing network namespace with another container or host cannot be connected to any other network",
            ));
        }
        if mode == "host" || name == "host" {
            return Err(forbidden(
                "container cannot be disconnected from host network or connected to host network",
            ));
        }
        if name == "none" || (mode == "none" && phase.alive()) {
            return Err(forbidden(
                "container cannot be connected to multiple networks with one of the networks in private (none) mode",
            ));
        }
        if already {
            return Err(forbidden(format!(
                "endpoint with name {} already exists in network {name}",
                container.name()
            )));
        }
        if phase.alive() {
            let number = {
                let inner = container.lock();
                (0..)
                    .find(|n| !inner.life.attached.values().any(|a| a.ifname == format!("eth{n}")))
                    .unwrap_or(0)
            };
            let attached = self.allocate(&container, &net, &settings, None, number)?;
            let (pid, endpoint, first) = {
                let mut inner = container.lock();
                let first = inner.life.attached.values().all(|a| a.gateway.is_none());
                let endpoint = attached.endpoint_id.clone();
                inner.life.attached.insert(name.clone(), attached);
                (inner.life.pid, endpoint, first)
            };
            if let Err(error) = self.plug(&container, &net, &settings, pid, first).await {
                container.lock().life.attached.shift_remove(&name);
                if let Some(pool) = net.v4() {
                    pool.addresses.release(&owner(&container, &endpoint));
                }
                return Err(error);
            }
            if net.user_defined() && container.resolver.lock().is_none() {
                // Its resolv.conf is the file that it has mounted: written in place it is seen at once.
                let host = container.lock().asked.host.clone();
                crate::files::write(&container.dir, "resolv.conf", &crate::files::resolv(&host, true))?;
                self.serve_names(&container, pid).await;
            }
        } else {
            self.network_event(&net, "connect", &[("container", container.id.clone())]);
        }
        {
            let mut inner = container.lock();
            if inner.asked.endpoints.keys().all(|n| n == "none") {
                inner.asked.endpoints.clear();
                inner.asked.host.network_mode.clone_from(&name);
            }
            inner.asked.endpoints.insert(name, settings);
        }
        container.save_life();
        container.save_asked()
    }

    /// `docker network disconnect`.
    pub async fn network_disconnect(
        self: &Arc<Self>,
        reference: &str,
        container: &str,
        force: bool,
    ) -> Result<()> {
        let net = self.networks.get(reference)?;
        let container = match self.find(container) {
            Err(Error::NotFound(_)) if force => return Ok(()),
            other => other?,
        };
        let _op = container.op.lock().await;
        let name = net.record.name.clone();
        if name == "host" {
            return Err(forbidden(
                "container cannot be disconnected from host network or connected to host network",
            ));
        }
        let (known, attached, phase) = {
            let mut inner = container.lock();
            let known = inner.asked.endpoints.shift_remove(&name).is_some();
            let attached = inner.life.attached.shift_remove(&name);
            (known, attached, inner.life.phase)
        };
        if !known {
            return Err(not_found(format!("container {} is not connected to network {name}", container.id)));
        }
        net.leave(&container.id);
        if let Some(one) = attached.filter(|_| phase.alive() || phase == Phase::Created) {
            let published = !container.lock().life.ports.is_empty();
            self.network.detach(&one.host_ifname).await?;
            if let Some(pool) = net.v4() {
                pool.addresses.release(&owner(&container, &one.endpoint_id));
            }
            if published {
                // They led to that address; another network's address takes over if there is one.
                self.network.ports().unpublish(&container.id)?;
                container.lock().life.ports.clear();
                self.publish(&container)?;
            }
        }
        self.network_event(&net, "disconnect", &[("container", container.id.clone())]);
        container.save_life();
        container.save_asked()
    }
}
