//! Connecting containers to networks: addresses, interfaces, names, published ports; at start, and live.

mod links;
mod live;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use indexmap::IndexMap;
use ipnet::IpNet;
use network::{PortRequest, RouteSpec};

use crate::container::{Attached, Container};
use crate::error::{Error, Result, forbidden, invalid, system};
use crate::model::EndpointSettings;
use crate::networks::{Driver, GatewayMode, Net, user_defined};
use crate::ports::{self, Published};
use crate::{Engine, networks, resolver};

pub(crate) use links::Links;

pub(crate) fn netns(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/ns/net"))
}

/// Who has an address: the container and this connection of it.
fn owner(container: &Container, endpoint: &str) -> String {
    format!("{}/{endpoint}", container.id)
}

/// The error of a start that its networks fail, in the original's words.
fn networking(error: Error) -> Error {
    error.map(|text| format!("failed to set up container networking: {text}"))
}

impl Engine {
    /// Takes addresses on every network of the container, and resolves its links.
    pub(crate) async fn prepare_endpoints(self: &Arc<Self>, container: &Arc<Container>) -> Result<Links> {
        let leaving = std::mem::take(&mut *container.leaving.lock());
        for one in leaving {
            let _ = one.await; // a task that panicked has said so
        }
        let asked = self.wanted_endpoints(container);
        let last = {
            let life = &mut container.lock().life;
            let mut last = std::mem::take(&mut life.detached);
            // Of a start that a daemon before this one did not come to the end of.
            last.extend(std::mem::take(&mut life.attached));
            last
        };
        for (name, settings) in &asked {
            let one = async {
                let net = self.networks.get(name)?;
                networks::check_endpoint(&net.record.name, Some(&net), settings)?;
                let take = || self.allocate(container, &net, settings, last.get(name));
                let attached = net.when_free(take).await?;
                container.lock().life.attached.insert(name.clone(), attached);
                Ok(())
            };
            if let Err(error) = one.await {
                self.disconnect_all(container).await;
                return Err(networking(error));
            }
        }
        self.links(container)
    }

    /// The networks that a container is on when it runs: those that it asks for, but the default one where there is none.
    fn wanted_endpoints(&self, container: &Container) -> IndexMap<String, EndpointSettings> {
        let mut asked = container.lock().asked.endpoints.clone();
        if self.settings().without_bridge() {
            asked.shift_remove("bridge");
        }
        asked
    }

    /// Takes addresses for one connection. Takes none if it fails.
    fn allocate(
        &self,
        container: &Container,
        net: &Net,
        settings: &EndpointSettings,
        last: Option<&Attached>,
    ) -> Result<Attached> {
        let (without6, ifname) = {
            let inner = container.lock();
            let off = |key: &str| inner.asked.host.sysctls.get(key).is_some_and(|v| v == "1");
            let taken = |name: &str| inner.life.attached.values().any(|a| a.ifname == name);
            let prefix = net.bridge().map_or("eth", |o| o.prefix.as_str());
            let ifname = match networks::interface_name(settings) {
                Some(name) if taken(name) => {
                    return Err(invalid(format!("interface name {name} is already used in the container")));
                }
                Some(name) => name.to_owned(),
                None => (0..).map(|n| format!("{prefix}{n}")).find(|n| !taken(n)).unwrap_or_default(),
            };
            (off("net.ipv6.conf.all.disable_ipv6"), ifname)
        };
        let endpoint_id = base::rng::hex(32);
        let who = owner(container, &endpoint_id);
        let mut attached = Attached {
            network_id: net.record.id.clone(),
            endpoint_id,
            address: IpNet::V4(Default::default()),
            address6: None,
            gateway: None,
            gateway6: None,
            mac: settings.mac_address.clone(),
            made: false,
            host_ifname: String::new(),
            ifname,
        };
        let ipam = settings.ipam_config.clone().unwrap_or_default();
        for v6 in [false, true] {
            if net.family(v6).next().is_none() || (v6 && without6) {
                continue;
            }
            let text = if v6 { &ipam.ipv6_address } else { &ipam.ipv4_address };
            let before = last.and_then(|l| if v6 { l.address6 } else { l.address4() }).map(|a| a.addr());
            let (address, gateway) =
                address(net, v6, &who, text, before).inspect_err(|_| net.release(&who))?;
            let gateway = gateway.filter(|_| !net.record.internal);
            if v6 {
                (attached.address6, attached.gateway6) = (Some(address), gateway);
            } else {
                (attached.address, attached.gateway) = (address, gateway);
            }
        }
        Ok(attached)
    }

    /// Creates the container in the runtime; its network is wired as soon as its namespaces are there.
    pub(crate) async fn create_connected(
        self: &Arc<Self>,
        container: &Arc<Container>,
        spec: &runtime::ContainerSpec,
    ) -> Result<()> {
        let (born, pid) = tokio::sync::oneshot::channel();
        let connect = async {
            // Without a process there is nothing to connect, and creating it has failed.
            let Ok(pid) = pid.await else { return Ok(()) };
            container.lock().life.pid = pid;
            self.connect_all(container, pid).await
        };
        // Each to its end: what one has begun must be whole before the other's failure takes it back.
        let (created, connected) = tokio::join!(self.runtime.create_telling(spec, born), connect);
        created?;
        connected
    }

    /// Makes the interfaces, enters the names, publishes the ports.
    async fn connect_all(self: &Arc<Self>, container: &Arc<Container>, pid: u32) -> Result<()> {
        let asked = self.wanted_endpoints(container);
        let mode = container.lock().asked.host.network_mode.clone();
        if mode == "host" || mode.starts_with("container:") {
            return Ok(());
        }
        if asked.keys().all(|n| n == "none") {
            return Ok(self.network.loopback_up(&netns(pid)).await?);
        }
        let gateways = self.gateways(container);
        container.lock().life.gateways.clone_from(&gateways);
        for (name, settings) in &asked {
            let net = self.networks.get(name)?;
            let leads = |g: &Option<String>| g.as_deref() == Some(name.as_str());
            let default = [leads(&gateways[0]), leads(&gateways[1])];
            self.plug(container, &net, settings, pid, default).await.map_err(networking)?;
        }
        self.publish(container).map_err(networking)?;
        self.serve_names(container, pid).await;
        Ok(())
    }

    /// The networks that the default routes of IPv4 and IPv6 lead to: the highest priority first, then those that have
    /// both families, then by name.
    fn gateways(&self, container: &Container) -> [Option<String>; 2] {
        let inner = container.lock();
        let mut candidates = Vec::new();
        for (name, settings) in &inner.asked.endpoints {
            let Some(attached) = inner.life.attached.get(name) else { continue };
            let Ok(net) = self.networks.get(name) else { continue };
            if net.record.internal {
                continue;
            }
            let outside = matches!(net.driver, Driver::Vlan(_));
            let has = [
                attached.gateway.is_some() || (outside && attached.address4().is_some()),
                attached.gateway6.is_some() || (outside && attached.address6.is_some()),
            ];
            candidates.push((name.clone(), settings.gw_priority, has));
        }
        candidates.sort_by(|(a, p, has), (b, q, had)| {
            let both = |has: &[bool; 2]| has[0] && has[1];
            q.cmp(p).then_with(|| both(had).cmp(&both(has))).then_with(|| a.cmp(b))
        });
        [0, 1].map(|v6| candidates.iter().find(|(_, _, has)| has[v6]).map(|(name, _, _)| name.clone()))
    }

    /// Makes one interface; `default` says for IPv4 and IPv6 whether the default route leads to this network.
    async fn plug(
        self: &Arc<Self>,
        container: &Arc<Container>,
        net: &Arc<Net>,
        settings: &EndpointSettings,
        pid: u32,
        default: [bool; 2],
    ) -> Result<()> {
        let name = &net.record.name;
        let Some(attached) = container.lock().life.attached.get(name).cloned() else { return Ok(()) };
        let ipvlan = matches!(&net.driver, Driver::Vlan(options) if options.shares_address());
        if ipvlan && !settings.mac_address.is_empty() {
            return Err(system(format!(
                "failed to create endpoint {} on network {name}: ipvlan interfaces do not support custom mac address \
                 assignment",
                container.name()
            )));
        }
        let uplink = match &net.driver {
            Driver::Bridge(_) => None,
            Driver::Vlan(options) => Some(options.uplink(&net.record.bridge)),
            Driver::Host | Driver::Null => return Ok(()),
        };
        self.link_up(net).await?;
        let mut routes = Vec::new();
        if let Driver::Vlan(options) = &net.driver
            && options.routes_itself()
        {
            let all = [IpNet::V4(Default::default()), IpNet::V6(Default::default())];
            let wanted = all.into_iter().zip(default).filter(|(_, wanted)| *wanted);
            routes.extend(wanted.map(|(destination, _)| RouteSpec { destination, via: None }));
        }
        let v6 = |gateway: IpAddr| match gateway {
            IpAddr::V6(a) => Some(a),
            IpAddr::V4(_) => None,
        };
        let spec = network::AttachSpec {
            netns: netns(pid),
            bridge: net.record.bridge.clone(),
            ifname: attached.ifname.clone(),
            mac: networks::mac(&settings.mac_address),
            addresses: attached.addresses().chain(link_local(settings)).collect(),
            gateway: attached.gateway.filter(|_| default[0]),
            gateway6: attached.gateway6.filter(|_| default[1]).and_then(v6),
            routes,
            sysctls: networks::interface_parameters(settings, &attached.ifname),
            uplink,
            // Where rules do not see what goes from port to port, nothing does.
            port_isolated: net.bridge().is_some_and(|o| !o.icc) && !network::link::filters_bridged(),
            ..network::AttachSpec::default()
        };
        let made = self.network.attach(&spec).await?;
        let mac: Vec<String> = made.mac.iter().map(|b| format!("{b:02x}")).collect();
        {
            let mut inner = container.lock();
            if let Some(a) = inner.life.attached.get_mut(name) {
                a.host_ifname = made.host_ifname;
                a.made = true;
                a.mac = if ipvlan { String::new() } else { mac.join(":") };
            }
        }
        self.enter_names(container, net, settings);
        self.network_event(net, "connect", &[("container", container.id.clone())]);
        Ok(())
    }

    /// Enters a container's names for its addresses on a network, in place of those it had there.
    pub(crate) fn enter_names(&self, container: &Container, net: &Net, settings: &EndpointSettings) {
        net.leave(&container.id);
        if !net.user_defined() {
            return;
        }
        let names = self.dns_names(container, settings);
        let Some(attached) = container.lock().life.attached.get(&net.record.name).cloned() else { return };
        net.enter(&container.id, &names, &attached);
    }

    /// The names by which others on the same network find the container.
    fn dns_names(&self, container: &Container, settings: &EndpointSettings) -> Vec<String> {
        crate::inspect::dns_names(&container.lock(), settings, container.short())
    }

    /// Where published ports lead, for IPv4 and IPv6: to the addresses on the networks of the default routes.
    fn targets(&self, container: &Container) -> [Option<(Arc<Net>, IpAddr)>; 2] {
        let inner = container.lock();
        [0, 1].map(|v6| {
            let name = inner.life.gateways[v6].as_ref()?;
            let attached = inner.life.attached.get(name)?;
            let address = if v6 == 1 { attached.address6 } else { attached.address4() }?;
            let net = self.networks.get(name).ok()?;
            net.bridge()?;
            Some((net, address.addr()))
        })
    }

    /// Publishes the container's ports; what it had published before is as it is asked for now.
    fn publish(&self, container: &Container) -> Result<()> {
        let wanted = {
            let inner = container.lock();
            ports::wanted(&inner.asked.config, &inner.asked.host)?
        };
        let targets = self.targets(container);
        if wanted.is_empty() || targets.iter().all(Option::is_none) {
            return Ok(());
        }
        let mode = |v6: usize| {
            let options = targets[v6].as_ref().and_then(|(net, _)| net.bridge());
            options.map_or(GatewayMode::Nat, |o| o.modes[v6])
        };
        let binding = targets.iter().flatten().find_map(|(net, _)| net.bridge()?.binding);
        let mut requests = Vec::new();
        let mut exposed = Vec::new();
        let mut published: Vec<Published> = Vec::new();
        let mut ipv6 = None;
        for w in &wanted {
            let mut pairs = Vec::new();
            for v6 in [0, 1] {
                // A container without IPv6 is reached from there all the same, by passing on.
                let own = targets[v6].as_ref().map(|(_, address)| *address);
                let target = own.or_else(|| targets[0].as_ref().filter(|_| v6 == 1).map(|(_, a)| *a));
                let (Some(target), Some(host)) = (target, w.host_address(v6 == 1, binding)) else { continue };
                if own.is_some() && mode(v6) == GatewayMode::Routed {
                    exposed.push((w.port.proto.proto(), target, w.port.number));
                    published.push(Published { port: w.port, host_ip: ports::any(v6 == 1), host_port: 0 });
                } else if v6 == 0 || *ipv6.get_or_insert_with(network::ports::ipv6) {
                    pairs.push((host, target));
                }
            }
            if !pairs.is_empty() {
                let (proto, container_port) = (w.port.proto.proto(), w.port.number);
                requests.push(PortRequest { proto, container_port, from: w.from, to: w.to, pairs });
            }
        }
        let made = self
            .network
            .ports()
            .expose(&container.id, &exposed)
            .and_then(|()| self.network.ports().request(&container.id, &requests))
            .map_err(|e| {
                let _ = self.network.ports().unpublish(&container.id);
                self.port_error(container, e)
            })?;
        published.extend(made.into_iter().map(|m| Published {
            port: ports::Port { number: m.container_port, proto: m.proto.into() },
            host_ip: m.host_ip,
            host_port: m.host_port,
        }));
        published.sort_by_key(|p| (p.port, p.host_ip, p.host_port));
        container.lock().life.ports = published;
        Ok(())
    }

    /// Why ports could not be published, with the name of whoever has them.
    fn port_error(&self, container: &Container, error: network::Error) -> Error {
        let text = match &error {
            network::Error::PortTaken { host_ip, host_port, owner, .. } => {
                let holder = match (self.by_id(owner), owner.strip_prefix("pod:")) {
                    (Some(other), _) if other.id == container.id => "this container itself".to_owned(),
                    (Some(other), _) => format!("container {}", other.name()),
                    (None, Some(pod)) => format!("pod {pod}"),
                    (None, None) => owner.clone(),
                };
                let place = std::net::SocketAddr::new(*host_ip, *host_port);
                format!("Bind for {place} failed: port is already allocated (by {holder})")
            }
            other => base::errno::words(other.to_string()),
        };
        let endpoint = {
            let inner = container.lock();
            let name = inner.life.gateways.iter().flatten().next();
            name.and_then(|n| inner.life.attached.get(n)).map(|a| a.endpoint_id.clone()).unwrap_or_default()
        };
        system(format!(
            "driver failed programming external connectivity on endpoint {} ({endpoint}): {text}",
            container.name()
        ))
    }

    /// Serves names inside a container of user networks.
    async fn serve_names(self: &Arc<Self>, container: &Arc<Container>, pid: u32) {
        let user = container.lock().life.attached.keys().any(|n| user_defined(n));
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

    /// After a restart of the daemon: the addresses that a container has are its own.
    pub(crate) fn claim_addresses(&self, container: &Container) {
        let attached = container.lock().life.attached.clone();
        for (name, one) in &attached {
            let Ok(net) = self.networks.get(name) else { continue };
            for address in one.addresses() {
                let Some(pool) = net.pool_of(address.addr()) else { continue };
                let who = owner(container, &one.endpoint_id);
                if let Err(error) = pool.addresses.allocate(&who, Some(address.addr())) {
                    tracing::error!(container = %container.short(), %error, "its address is not its own any more");
                }
            }
        }
    }

    /// After a restart of the daemon: what a running container has is entered again.
    pub(crate) async fn rejoin(self: &Arc<Self>, container: &Arc<Container>) {
        let (attached, asked, pid, published) = {
            let inner = container.lock();
            let life = &inner.life;
            (life.attached.clone(), inner.asked.endpoints.clone(), life.pid, life.ports.clone())
        };
        for name in attached.keys() {
            let Ok(net) = self.networks.get(name) else { continue };
            if let Err(error) = self.link_up(&net).await {
                tracing::error!(network = %name, %error, "the network's link is not as it should be");
            }
            self.enter_names(container, &net, &asked.get(name).cloned().unwrap_or_default());
        }
        if let Err(error) = self.publish_again(container, &published) {
            tracing::error!(container = %container.short(), %error, "its ports are not as they were");
        }
        self.serve_names(container, pid).await;
    }

    /// Publishes the same ports at the same places: the kernel's table still has most of them, but not those whose
    /// connections are passed on.
    fn publish_again(&self, container: &Container, published: &[Published]) -> Result<()> {
        let targets = self.targets(container).map(|t| t.map(|(_, address)| address));
        let requests: Vec<PortRequest> = published
            .iter()
            .filter(|p| p.host_port != 0)
            .filter_map(|p| {
                let target = targets[usize::from(p.host_ip.is_ipv6())].or(targets[0])?;
                Some(PortRequest {
                    proto: p.port.proto.proto(),
                    container_port: p.port.number,
                    from: p.host_port,
                    to: p.host_port,
                    pairs: vec![(p.host_ip, target)],
                })
            })
            .collect();
        self.network.ports().request(&container.id, &requests)?;
        Ok(())
    }

    /// Gives back what a container has on its networks, and its volumes. Its interfaces go with its namespace, but that may take a
    /// while or be shared, so they are removed by name, in the background; the addresses are free after that, which whoever
    /// wants them waits for.
    pub(crate) async fn disconnect_all(self: &Arc<Self>, container: &Arc<Container>) {
        let attached = {
            let mut inner = container.lock();
            inner.life.ports.clear();
            inner.life.gateways = Default::default();
            inner.life.detached = inner.life.attached.clone();
            std::mem::take(&mut inner.life.attached)
        };
        if let Err(error) = self.network.ports().unpublish(&container.id) {
            tracing::warn!(container = %container.short(), %error, "its ports could not be taken back");
        }
        self.release_volumes(container, true).await;
        for (name, one) in attached {
            let Ok(net) = self.networks.get(&name) else { continue };
            net.leave(&container.id);
            if one.made || !one.mac.is_empty() {
                self.network_event(&net, "disconnect", &[("container", container.id.clone())]);
            }
            let leaving = net.leaves(owner(container, &one.endpoint_id));
            let (engine, gone) = (self.clone(), container.clone());
            let detach = async move {
                if let Err(error) = engine.network.detach(&one.host_ifname).await {
                    tracing::warn!(container = %gone.short(), %error, "its interface could not be removed");
                }
                drop(leaving);
            };
            container.leaving.lock().push(self.tasks.spawn(detach));
        }
    }
}

/// The link-local addresses that are asked for, with the sizes that their kinds have.
fn link_local(settings: &EndpointSettings) -> impl Iterator<Item = IpNet> {
    let asked = settings.ipam_config.iter().flat_map(|ipam| &ipam.link_local_ips);
    asked.filter_map(|text| {
        let address: IpAddr = text.parse().ok()?;
        IpNet::new(address, if address.is_ipv4() { 16 } else { 64 }).ok()
    })
}

/// Takes an address of one family: the one that is asked for, or the one it had before if nobody took it meanwhile, or
/// the next free one; and the router that belongs to it.
fn address(
    net: &Net,
    v6: bool,
    who: &str,
    fixed: &str,
    before: Option<IpAddr>,
) -> Result<(IpNet, Option<IpAddr>)> {
    let take = |pool: &networks::Pool, wanted: Option<IpAddr>| {
        let address = pool.addresses.allocate(who, wanted)?;
        let prefix = pool.subnet.prefix_len();
        let net =
            IpNet::new(address, prefix).map_err(|e| network::Error::Invalid(format!("{address}: {e}")))?;
        Ok((net, pool.gateway))
    };
    let refused = |e: network::Error| match e {
        network::Error::AddressTaken { .. } => forbidden("Address already in use"),
        // The gateway's and auxiliary addresses are taken as well, if not by a container.
        network::Error::AddressInvalid { .. } => forbidden("Address already in use"),
        network::Error::SubnetFull { .. } => {
            Error::Unavailable("no available addresses on this pool".to_owned())
        }
        other => other.into(),
    };
    if !fixed.is_empty() {
        let address: IpAddr = fixed.parse().map_err(|_| invalid(format!("invalid IP address: {fixed}")))?;
        let pool = net.pool_of(address).ok_or_else(|| invalid("requested address is out of range"))?;
        return take(pool, Some(address)).map_err(refused);
    }
    if let Some(pool) = before.and_then(|b| net.pool_of(b))
        && let Ok(taken) = take(pool, before)
    {
        return Ok(taken);
    }
    let mut last = network::Error::Invalid(format!("network {} has no addresses", net.record.name));
    for pool in net.family(v6) {
        match take(pool, None) {
            Ok(taken) => return Ok(taken),
            Err(e) => last = e,
        }
    }
    Err(refused(last))
}
