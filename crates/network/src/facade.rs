//! [`Network`]: what `engine` and `kubelet` call. It joins links and rules, and knows which of them are ours.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::Instance;
use ipnet::IpNet;
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::link::{BridgeLink, Endpoint, Link, NetlinkLink, Parent, Route, Uplink};
use crate::nft::{Family, Firewall, Nft};
use crate::ports::PortMapper;
use crate::rules;

/// How packets reach the containers of one subnet, and under which address they leave.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// They leave under this machine's address; only published ports are reached from elsewhere, by translation.
    #[default]
    Nat,
    /// As `Nat`, but nothing that arrives is dropped.
    Unprotected,
    /// They keep their own addresses; published ports are reached at those.
    Routed,
}

/// One subnet of a bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The gateway's address with the subnet's size.
    pub gateway: IpNet,
    /// Whether the bridge has that address. If not, the gateway is somebody else's, or there is none.
    pub on_bridge: bool,
    /// How packets come and go.
    pub mode: Mode,
    /// The address that masquerading gives; `None` takes that of the link by which a packet leaves.
    pub leave_as: Option<IpAddr>,
}

impl From<IpNet> for Subnet {
    fn from(gateway: IpNet) -> Self {
        Self { gateway, on_bridge: true, mode: Mode::Nat, leave_as: None }
    }
}

/// A bridge and how packets pass it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    /// The link's name, at most 15 bytes.
    pub name: String,
    /// Its subnets, of either family.
    pub subnets: Vec<Subnet>,
    /// Bytes; `None` takes that of the link of the default route, or 1500.
    pub mtu: Option<u32>,
    /// Containers leave the machine under its own address.
    pub masquerade: bool,
    /// Destinations which are reached under the containers' own addresses all the same (other nodes' pods).
    pub masquerade_except: Vec<IpNet>,
    /// Containers on it may talk to each other.
    pub icc: bool,
    /// Nothing enters it from elsewhere but through published ports and Services: Docker's networks are apart.
    /// Pods' networks are not isolated.
    pub isolated: bool,
    /// Nothing leaves it.
    pub internal: bool,
    /// Links of this machine from which published ports may be reached at the containers' own addresses too.
    pub trusted: Vec<String>,
    /// They may be reached so from everywhere.
    pub direct: bool,
    /// Packets whose mark, as far as the second number has bits, is the first one enter whatever they are for.
    pub admitted: Option<(u32, u32)>,
}

impl BridgeSpec {
    /// A bridge as Docker's default: masqueraded, isolated, its containers talk to each other.
    pub fn new(name: impl Into<String>, gateway: IpNet) -> Self {
        Self {
            name: name.into(),
            subnets: vec![gateway.into()],
            mtu: None,
            masquerade: true,
            masquerade_except: Vec::new(),
            icc: true,
            isolated: true,
            internal: false,
            trusted: Vec::new(),
            direct: false,
            admitted: None,
        }
    }

    /// The addresses that the bridge has.
    pub fn addresses(&self) -> impl Iterator<Item = IpNet> {
        self.subnets.iter().filter(|s| s.on_bridge).map(|s| s.gateway)
    }
}

/// A route of a container beside the default ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteSpec {
    /// Where it leads.
    pub destination: IpNet,
    /// The next router; `None` if on the link.
    pub via: Option<IpAddr>,
}

/// One interface of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachSpec {
    /// The container's network namespace: `/proc/PID/ns/net`.
    pub netns: PathBuf,
    /// The bridge (or, with `uplink`, ignored).
    pub bridge: String,
    /// Its name inside: `eth0`.
    pub ifname: String,
    /// `None`: derived from the first address, so that neighbours' caches survive a restart of the container.
    pub mac: Option<[u8; 6]>,
    /// Its addresses with their subnets' sizes.
    pub addresses: Vec<IpNet>,
    /// The default router; `None` for an internal network or when another interface has it.
    pub gateway: Option<IpAddr>,
    /// The default router of IPv6.
    pub gateway6: Option<Ipv6Addr>,
    /// Bytes; `None` takes the bridge's.
    pub mtu: Option<u32>,
    /// Further routes; `0.0.0.0/0` without a router leads everything to the link itself.
    pub routes: Vec<RouteSpec>,
    /// Kernel parameters written inside before the interface comes up: (`net.ipv4.conf.eth0.rp_filter`, `0`).
    pub sysctls: Vec<(String, String)>,
    /// Something else than a port of `bridge`: macvlan, ipvlan.
    pub uplink: Option<Uplink>,
    /// The port may talk to the bridge only, not to other ports.
    pub port_isolated: bool,
}

/// What came of an attach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The end on this machine, for `detach`; empty if there is none (macvlan, ipvlan).
    pub host_ifname: String,
    /// The interface's hardware address.
    pub mac: [u8; 6],
}

/// The network of one instance.
pub struct Network {
    instance: Instance,
    link: Arc<dyn Link>,
    firewall: Arc<dyn Firewall>,
    ports: PortMapper,
    bridges: Mutex<BTreeMap<String, BridgeState>>,
    /// The machine is made to pass packets on.
    forwarding: AtomicBool,
    /// And between others' links, too.
    let_pass: AtomicBool,
}

#[derive(Debug, Clone)]
struct BridgeState {
    mtu: Option<u32>,
}

impl Network {
    /// The network on the given kernel, or on fakes. Makes our table, or brings its static part up to date and takes
    /// over what the daemon before left in it.
    pub fn open(instance: &Instance, link: Arc<dyn Link>, firewall: Arc<dyn Firewall>) -> Result<Arc<Self>> {
        match firewall.apply(rules::base()) {
            Ok(()) => {}
            // A table of another version whose sets have another shape: it is replaced as a whole. Any other error may
            // pass, and the ports of what runs are in the table.
            Err(e) if e.other_shape() => {
                tracing::warn!("{e}: making the table anew");
                firewall.remove_table()?;
                firewall.apply(rules::base())?;
            }
            Err(e) => return Err(e),
        }
        let ports = PortMapper::open(firewall.clone())?;
        Ok(Arc::new(Self {
            instance: instance.clone(),
            link,
            firewall,
            ports,
            bridges: Mutex::default(),
            forwarding: AtomicBool::new(true),
            let_pass: AtomicBool::new(false),
        }))
    }

    /// The network of this machine (of the network namespace that the calling thread is in).
    pub async fn host(instance: &Instance) -> Result<Arc<Self>> {
        Self::open(instance, Arc::new(NetlinkLink::open()?), Arc::new(Nft::open(&instance.name())?))
    }

    /// Our table, for those who add chains of their own to its [`rules::hooks`].
    pub fn firewall(&self) -> &Arc<dyn Firewall> {
        &self.firewall
    }

    /// Links and routes.
    pub fn link(&self) -> &Arc<dyn Link> {
        &self.link
    }

    /// The instance.
    pub fn instance(&self) -> &Instance {
        &self.instance
    }

    /// Whether the machine is made to pass packets on between its links when a bridge needs it (at first it is). Without,
    /// whoever looks after the machine does that.
    pub fn set_forwarding(&self, on: bool) {
        self.forwarding.store(on, Ordering::Relaxed);
    }

    /// What the machine passes on between links that are none of ours, where we have made it pass packets on at all: nothing,
    /// unless told otherwise here. It was no router, and does not become one by our bridges.
    pub fn let_pass(&self) -> Result<()> {
        self.let_pass.store(true, Ordering::Relaxed);
        self.firewall.apply(rules::passing())
    }

    /// Makes the machine pass packets of a family on.
    async fn forward(&self, family: Family) -> Result<()> {
        let changed = self.link.sysctl(forwarding(family), "1").await?;
        if changed && !self.let_pass.load(Ordering::Relaxed) {
            self.firewall.apply(rules::no_router(family))?;
        }
        Ok(())
    }

    /// Published ports.
    pub fn ports(&self) -> &PortMapper {
        &self.ports
    }

    /// Makes a bridge or brings it to what it should be, with its rules.
    pub async fn ensure_bridge(&self, spec: &BridgeSpec) -> Result<()> {
        if spec.name.is_empty() || spec.name.len() > 15 || spec.name.contains(['/', ' ', ':']) {
            return Err(Error::Invalid(format!(
                "{:?} is no name of a network interface (1 to 15 bytes)",
                spec.name
            )));
        }
        let mtu = match spec.mtu {
            Some(mtu) => Some(mtu),
            None => self.link.default_mtu().await?,
        };
        if self.forwarding.load(Ordering::Relaxed) {
            self.forward(Family::V4).await?;
            if spec.subnets.iter().any(|s| s.gateway.addr().is_ipv6()) {
                self.forward(Family::V6).await?;
            }
        }
        // Rules first: no packet passes the new bridge before they hold.
        self.firewall.apply(rules::bridge(spec))?;
        let link = BridgeLink {
            name: spec.name.clone(),
            alias: self.instance.name(),
            mac: spec.subnets.first().map_or([2, 0x42, 0, 0, 0, 1], |s| mac_for(s.gateway.addr())),
            mtu,
            addresses: spec.addresses().collect(),
        };
        self.link.ensure_bridge(&link).await?;
        // Connections from this machine to a published port of 127.0.0.1 leave through the bridge.
        self.link.sysctl(&format!("net.ipv4.conf.{}.route_localnet", slashed(&spec.name)), "1").await?;
        self.bridges.lock().insert(spec.name.clone(), BridgeState { mtu });
        Ok(())
    }

    /// Makes the link that carries addresses of the Services' range which are answered on this machine itself (the
    /// cluster's DNS), and the route that leads the whole range to it: a connection from this machine to a Service
    /// needs a route before our rules can choose an endpoint, even on a machine without a default route.
    ///
    /// The link is a bridge without ports; kernels without dummy links have that.
    pub async fn ensure_service_link(&self, addresses: &[IpAddr]) -> Result<()> {
        let name = self.instance.link("s");
        let link = BridgeLink {
            name: name.clone(),
            alias: self.instance.name(),
            mac: mac_for(self.instance.dns_ip().into()),
            mtu: None,
            addresses: addresses.iter().map(|a| IpNet::from(*a)).collect(),
        };
        self.link.ensure_bridge(&link).await?;
        let all = IpNet::V4(self.instance.service_cidr.trunc());
        self.link.ensure_route(&name, &Route { destination: all, via: None, source: None }).await
    }

    /// Makes the link that macvlans and ipvlans hang on, if it does not exist; true if it was made, and is ours to remove.
    pub async fn ensure_parent(&self, parent: &Parent) -> Result<bool> {
        let links = self.link.list().await?;
        if let Some(found) = links.iter().find(|l| l.name == parent.name) {
            return Ok(found.alias == self.instance.name());
        }
        self.link.add_parent(parent, &self.instance.name()).await?;
        Ok(true)
    }

    /// Removes a link that we made; somebody else's of that name stays.
    pub async fn remove_parent(&self, name: &str) -> Result<()> {
        let alias = self.instance.name();
        if self.link.list().await?.iter().any(|l| l.name == name && l.alias == alias) {
            self.link.delete(name).await?;
        }
        Ok(())
    }

    /// Whether this machine has a link of that name.
    pub async fn link_exists(&self, name: &str) -> Result<bool> {
        Ok(self.link.list().await?.iter().any(|l| l.name == name))
    }

    /// Removes a bridge and its rules; nothing happens if there is none. A bridge that somebody else made stays.
    pub async fn remove_bridge(&self, name: &str) -> Result<()> {
        self.remove_parent(name).await?;
        self.bridges.lock().remove(name);
        let known = self.firewall.chains()?.iter().any(|c| rules::bridge_of_chain(c) == Some(name));
        if known { self.firewall.apply(rules::remove_bridge(name)) } else { Ok(()) }
    }

    /// Removes every bridge of ours that `keep` does not know: what a crash between two steps left behind. A caller
    /// must know the bridges of all who use this network (the engine's and the pods').
    pub async fn retain_bridges(&self, keep: impl Fn(&str) -> bool) -> Result<()> {
        let alias = self.instance.name();
        let links = self.link.list().await?;
        let services = self.instance.link("s");
        let ours = |l: &crate::link::LinkInfo| {
            matches!(l.kind.as_str(), "bridge" | "vlan") && l.alias == alias && l.name != services
        };
        let stray = links.into_iter().filter(ours).map(|l| l.name);
        let chains = self.firewall.chains()?;
        let ruled = chains.iter().filter_map(|c| rules::bridge_of_chain(c)).map(str::to_owned);
        let stray: std::collections::BTreeSet<_> = stray.chain(ruled).filter(|n| !keep(n)).collect();
        for name in stray {
            self.remove_bridge(&name).await?;
        }
        Ok(())
    }

    /// Gives a container an interface. Leaves nothing if it fails.
    pub async fn attach(&self, spec: &AttachSpec) -> Result<Attached> {
        let endpoint = self.endpoint(spec);
        let mac = self.link.attach(&endpoint).await?;
        let host_ifname = match endpoint.uplink {
            Uplink::Bridge { host, .. } => host,
            _ => String::new(),
        };
        Ok(Attached { host_ifname, mac })
    }

    fn endpoint(&self, spec: &AttachSpec) -> Endpoint {
        let uplink = spec.uplink.clone().unwrap_or_else(|| Uplink::Bridge {
            bridge: spec.bridge.clone(),
            host: format!("{}{}", self.veth_prefix(), base::rng::hex(4)),
            isolated: spec.port_isolated,
        });
        let mac = match &uplink {
            Uplink::Ipvlan { .. } => None,
            _ => spec.mac.or_else(|| spec.addresses.first().map(|a| mac_for(a.addr()))),
        };
        let mut routes = Vec::new();
        let defaults = [spec.gateway, spec.gateway6.map(IpAddr::V6)].into_iter().flatten();
        for gateway in defaults {
            // A gateway outside the interface's own subnets is on the link all the same.
            if !spec.addresses.iter().any(|net| net.contains(&gateway)) {
                routes.push(Route { destination: gateway.into(), via: None, source: None });
            }
            let all =
                if gateway.is_ipv4() { IpNet::V4(Default::default()) } else { IpNet::V6(Default::default()) };
            routes.push(Route { destination: all, via: Some(gateway), source: None });
        }
        routes.extend(spec.routes.iter().map(|r| Route {
            destination: r.destination,
            via: r.via,
            source: None,
        }));
        let ifname = slashed(&spec.ifname);
        let v6 = spec.addresses.iter().any(|a| a.addr().is_ipv6());
        let mut sysctls = vec![
            // Neighbours that knew a former owner of the address learn of the new one at once.
            (format!("net.ipv4.conf.{ifname}.arp_notify"), "1".into()),
            (format!("net.ipv6.conf.{ifname}.disable_ipv6"), if v6 { "0" } else { "1" }.into()),
        ];
        if v6 {
            // Nobody else can have our addresses, and a hairpin port would show the question back as an answer.
            sysctls.push((format!("net.ipv6.conf.{ifname}.accept_dad"), "0".into()));
        }
        if !Path::new("/proc/sys/net/ipv6").exists() {
            sysctls.truncate(1);
        }
        sysctls.extend(spec.sysctls.iter().cloned());
        let mtu = spec.mtu.or_else(|| self.bridges.lock().get(&spec.bridge).and_then(|b| b.mtu));
        Endpoint {
            uplink,
            netns: spec.netns.clone(),
            ifname: spec.ifname.clone(),
            mac,
            mtu,
            addresses: spec.addresses.clone(),
            routes,
            sysctls,
        }
    }

    /// Removes the end of an interface on this machine, and with it the whole interface. Nothing happens if it is
    /// gone, as it is when its namespace has ended, or if the name is empty.
    pub async fn detach(&self, host_ifname: &str) -> Result<()> {
        if host_ifname.is_empty() { Ok(()) } else { self.link.delete(host_ifname).await }
    }

    /// Removes an interface from inside a living container's namespace (macvlan, ipvlan).
    pub async fn detach_in(&self, netns: &Path, ifname: &str) -> Result<()> {
        self.link.delete_in(netns, ifname).await
    }

    /// Brings `lo` up in a namespace that gets no other interface.
    pub async fn loopback_up(&self, netns: &Path) -> Result<()> {
        self.link.loopback_up(netns).await
    }

    /// `tug down`: removes our table and every link of ours, and switches off what we switched on. Everything is tried; the
    /// first error is returned.
    pub async fn teardown(&self) -> Result<()> {
        let mut first = Ok(());
        let mut note = |r: Result<()>| {
            if let Err(e) = r {
                tracing::warn!("{e}");
                if first.is_ok() {
                    first = Err(e);
                }
            }
        };
        let (alias, prefix) = (self.instance.name(), self.veth_prefix());
        match self.link.list().await {
            Ok(links) => {
                let ours = |l: &crate::link::LinkInfo| {
                    l.alias == alias
                        || (l.kind == "veth"
                            && l.name.starts_with(&prefix)
                            && l.name.len() == prefix.len() + 8)
                };
                for link in links.iter().filter(|l| ours(l)) {
                    note(self.link.delete(&link.name).await);
                }
                // Without our rules the machine would be a router by now, if not for somebody else's bridge.
                let needed = links.iter().any(|l| l.kind == "bridge" && !ours(l));
                match self.firewall.chains() {
                    Ok(chains) => {
                        for family in [Family::V4, Family::V6] {
                            if chains.iter().any(|c| c == rules::switched_on(family)) && !needed {
                                note(self.link.sysctl(forwarding(family), "0").await.map(drop));
                            }
                        }
                    }
                    Err(e) => note(Err(e)),
                }
            }
            Err(e) => note(Err(e)),
        }
        self.ports.close();
        note(self.firewall.remove_table());
        self.bridges.lock().clear();
        first
    }

    /// What the names of our veths begin with: 15 bytes leave room for the instance and eight digits.
    fn veth_prefix(&self) -> String {
        match self.instance.suffix().as_str() {
            "" => "tugv".into(),
            suffix => format!("v{}", suffix.trim_start_matches('-')),
        }
    }
}

/// The parameter that makes the machine pass packets of a family on.
fn forwarding(family: Family) -> &'static str {
    if family == Family::V4 { "net.ipv4.ip_forward" } else { "net.ipv6.conf.all.forwarding" }
}

/// In a parameter's name the dots of an interface's name are written as slashes.
fn slashed(ifname: &str) -> String {
    ifname.replace('.', "/")
}

/// A locally administered hardware address that follows from the address, as Docker's do: 02:42 and the IPv4 address.
pub(crate) fn mac_for(address: IpAddr) -> [u8; 6] {
    let tail = match address {
        IpAddr::V4(a) => a.octets(),
        IpAddr::V6(a) => {
            let o = a.octets();
            [o[12], o[13], o[14], o[15]]
        }
    };
    [0x02, 0x42, tail[0], tail[1], tail[2], tail[3]]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::RecordingLink;
    use crate::nft::RecordingFirewall;

    fn open() -> (Arc<RecordingLink>, Arc<RecordingFirewall>, Arc<Network>) {
        let instance = Instance::new(Path::new("/a"), Path::new("/b"), "n", [127, 0, 0, 1].into());
        let (link, table) = (Arc::new(RecordingLink::new()), Arc::new(RecordingFirewall::new()));
        let network = Network::open(&instance, link.clone(), table.clone()).unwrap();
        (link, table, network)
    }

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }

    #[tokio::test]
    async fn rules_hold_before_a_bridge_is_up_and_go_with_it() {
        let (link, table, network) = open();
        table.take();
        network.ensure_bridge(&BridgeSpec::new("br.1", net("10.1.0.1/24"))).await.unwrap();
        assert_eq!(
            link.take(),
            ["net.ipv4.ip_forward=1", "bridge br.1 [10.1.0.1/24]", "net.ipv4.conf.br/1.route_localnet=1"]
        );
        assert!(table.state().chains.contains_key("to-br.1"));
        network.remove_bridge("br.1").await.unwrap();
        assert!(!table.state().chains.contains_key("to-br.1"));
        for bad in ["", "a-name-of-16-bytes", "a b", "a/b"] {
            let spec = BridgeSpec::new(bad, net("10.1.0.1/24"));
            assert!(matches!(network.ensure_bridge(&spec).await, Err(Error::Invalid(_))), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_machine_that_was_no_router_does_not_become_one() {
        let bridge = BridgeSpec::new("br.1", net("10.1.0.1/24"));
        for (told, dropped) in [(false, true), (true, false)] {
            let (_, table, network) = open();
            if told {
                network.let_pass().unwrap();
            }
            network.ensure_bridge(&bridge).await.unwrap();
            let of = |chain: &str| table.state().chains.get(chain).is_some_and(|rules| !rules.is_empty());
            assert_eq!(of("others"), dropped, "told to let pass: {told}");
            assert!(!of("others6"), "nothing was switched on for IPv6");
        }
        // Somebody else's router stays one.
        let (link, table, network) = open();
        link.sysctl("net.ipv4.ip_forward", "1").await.unwrap();
        network.ensure_bridge(&bridge).await.unwrap();
        assert!(table.state().chains.get("others").is_none_or(|rules| rules.is_empty()));
    }

    #[tokio::test]
    async fn endpoints() {
        let (_, _, network) = open();
        let e = network.endpoint(&AttachSpec {
            ifname: "eth0".into(),
            bridge: "b0".into(),
            addresses: vec![net("10.1.0.9/32"), net("fd00::9/64")],
            gateway: Some("10.1.0.1".parse().unwrap()),
            gateway6: Some("fd00::1".parse().unwrap()),
            routes: vec![RouteSpec { destination: net("10.9.0.0/16"), via: None }],
            ..AttachSpec::default()
        });
        let Uplink::Bridge { host, .. } = &e.uplink else { panic!("{:?}", e.uplink) };
        assert!(host.starts_with(&network.veth_prefix()) && host.len() <= 15, "{host}");
        assert_eq!(e.mac, Some([2, 0x42, 10, 1, 0, 9]));
        let routes: Vec<_> =
            e.routes.iter().map(|r| (r.destination.to_string(), r.via.map(|v| v.to_string()))).collect();
        let via = |s: &str| Some(s.to_owned());
        assert_eq!(
            routes,
            [
                ("10.1.0.1/32".to_string(), None),
                ("0.0.0.0/0".to_string(), via("10.1.0.1")),
                ("::/0".to_string(), via("fd00::1")),
                ("10.9.0.0/16".to_string(), None),
            ],
            "a gateway outside the subnet is on the link"
        );
        let macvlan = Uplink::Ipvlan { parent: "eth0".into(), mode: 0, flags: 0 };
        let e = network.endpoint(&AttachSpec {
            uplink: Some(macvlan),
            mac: Some([2; 6]),
            ..AttachSpec::default()
        });
        assert_eq!(e.mac, None, "an ipvlan has its parent's");
    }

    #[tokio::test]
    async fn what_was_switched_on_is_switched_off() {
        const FORWARD: &str = "net.ipv4.ip_forward";
        let b0 = BridgeSpec::new("b0", net("10.1.0.1/24"));
        let docker0 = BridgeLink {
            name: "docker0".into(),
            alias: String::new(),
            mac: [0; 6],
            mtu: None,
            addresses: vec![],
        };
        // Whether it was on before, whether others may be passed on, somebody else's bridge; what it is afterwards.
        for (before, told, other, after) in [
            (false, false, false, "0"),
            (true, false, false, "1"),
            (false, true, false, "1"),
            (false, false, true, "1"),
        ] {
            let (link, table, network) = open();
            if before {
                link.sysctl(FORWARD, "1").await.unwrap();
            }
            if other {
                link.ensure_bridge(&docker0).await.unwrap();
            }
            network.ensure_bridge(&b0).await.unwrap();
            if told {
                network.let_pass().unwrap();
            }
            // A daemon that comes after knows it, too.
            table.apply(rules::base()).unwrap();
            network.teardown().await.unwrap();
            assert!(!link.sysctl(FORWARD, after).await.unwrap(), "{before} {told} {other}");
        }
    }

    #[tokio::test]
    async fn teardown_removes_what_is_ours() {
        let (link, table, network) = open();
        network.ensure_bridge(&BridgeSpec::new("b0", net("10.1.0.1/24"))).await.unwrap();
        network.ensure_service_link(&[]).await.unwrap();
        let theirs = BridgeLink {
            name: "docker0".into(),
            alias: String::new(),
            mac: [0; 6],
            mtu: None,
            addresses: vec![],
        };
        link.ensure_bridge(&theirs).await.unwrap();
        network.teardown().await.unwrap();
        let left: Vec<_> = link.list().await.unwrap().into_iter().map(|l| l.name).collect();
        assert_eq!(left, ["docker0"]);
        assert!(table.state().chains.is_empty());
    }
}
