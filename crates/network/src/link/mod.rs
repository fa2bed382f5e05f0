//! Links, addresses and routes: the seam between what a network wants and rtnetlink.

mod netlink;
mod recording;
mod requests;

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use ipnet::IpNet;

pub use netlink::NetlinkLink;
pub use recording::RecordingLink;

use crate::error::Result;

/// What a bridge of ours should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeLink {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Kept as the link's alias: whose it is.
    pub alias: String,
    /// Its own hardware address; without one it would change as ports come and go.
    pub mac: [u8; 6],
    /// Bytes; `None` leaves it at the kernel's 1500.
    pub mtu: Option<u32>,
    /// The addresses that it should have, and no others of global scope.
    pub addresses: Vec<IpNet>,
}

/// How one end of a container's interface hangs on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    /// A veth pair whose host end is a port of a bridge.
    Bridge {
        /// The bridge.
        bridge: String,
        /// The host end's name.
        host: String,
        /// Ports cannot talk to each other, only to the bridge itself.
        isolated: bool,
    },
    /// A macvlan of a parent link.
    Macvlan {
        /// The parent link.
        parent: String,
        /// IFLA_MACVLAN_MODE: 1 private, 2 vepa, 4 bridge, 8 passthru.
        mode: u32,
    },
    /// An ipvlan of a parent link.
    Ipvlan {
        /// The parent link.
        parent: String,
        /// IFLA_IPVLAN_MODE: 0 L2, 1 L3, 2 L3S.
        mode: u16,
        /// IFLA_IPVLAN_FLAGS: 0 bridge, 1 private, 2 vepa.
        flags: u16,
    },
}

/// A link that macvlans and ipvlans hang on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// What it is when it has to be made.
    pub kind: ParentKind,
}

/// What a parent link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParentKind {
    /// Leads nowhere: what hangs on it can talk to each other only. A bridge without ports, since kernels may lack
    /// dummy links.
    Nowhere,
    /// A VLAN of another link.
    Vlan {
        /// That link.
        of: String,
        /// 1 to 4094.
        id: u16,
    },
}

/// A route of a container, or of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: IpNet,
    /// The next router; `None` if the destination is on the link itself.
    pub via: Option<IpAddr>,
    /// The source address preferred for what this machine sends there.
    pub source: Option<IpAddr>,
}

/// An interface inside a network namespace and everything on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// How it hangs on this machine.
    pub uplink: Uplink,
    /// The namespace.
    pub netns: PathBuf,
    /// Its name in there.
    pub ifname: String,
    /// Its hardware address; `None` lets the kernel choose (and is needed for ipvlan).
    pub mac: Option<[u8; 6]>,
    /// Bytes; `None` takes what the kernel gives.
    pub mtu: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
    /// Its routes, in the order in which they can be added.
    pub routes: Vec<Route>,
    /// Written before the interface comes up: (`net.ipv4.conf.eth0.arp_notify`, value).
    pub sysctls: Vec<(String, String)>,
}

/// One link of this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// `bridge`, `veth`, ...; empty for hardware.
    pub kind: String,
    /// What was written as its alias.
    pub alias: String,
    /// The index of the bridge that it is a port of; 0 if it is none.
    pub master: u32,
    /// Bytes.
    pub mtu: u32,
    /// Its hardware address.
    pub mac: Vec<u8>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether packets pass (IFLA_OPERSTATE is up, or unknown for links without a carrier).
    pub running: bool,
}

/// Links, addresses and routes of the network namespace that this process runs in, and the ends that hang in others.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// Makes the bridge or brings one of that name to what it should be. One with another alias is somebody else's: it
    /// gets the addresses beside its own.
    async fn ensure_bridge(&self, bridge: &BridgeLink) -> Result<()>;
    /// Makes a link for others to hang on, with an alias that says whose it is, and brings it up.
    async fn add_parent(&self, parent: &Parent, alias: &str) -> Result<()>;
    /// Makes the interface in its namespace, sets it up and returns its hardware address. Leaves nothing if it fails.
    async fn attach(&self, endpoint: &Endpoint) -> Result<[u8; 6]>;
    /// Brings `lo` up in a namespace.
    async fn loopback_up(&self, netns: &Path) -> Result<()>;
    /// Removes a link of this machine; nothing happens if there is none.
    async fn delete(&self, name: &str) -> Result<()>;
    /// Removes a link inside a namespace; nothing happens if there is none.
    async fn delete_in(&self, netns: &Path, name: &str) -> Result<()>;
    /// The addresses of a link of this machine that are not the kernel's own link-local ones; none if there is no link.
    async fn addresses(&self, name: &str) -> Result<Vec<IpNet>>;
    /// Every link of this machine.
    async fn list(&self) -> Result<Vec<LinkInfo>>;
    /// Adds or replaces a route of this machine through `link`.
    async fn ensure_route(&self, link: &str, route: &Route) -> Result<()>;
    /// Adds or replaces a route inside a namespace, through its link of that name.
    async fn ensure_route_in(&self, netns: &Path, link: &str, route: &Route) -> Result<()>;
    /// The MTU of the link that the default route leaves by; `None` without such a route.
    async fn default_mtu(&self) -> Result<Option<u32>>;
    /// Sets a kernel parameter of this machine's network: (`net.ipv4.ip_forward`, `1`). True if it had another value.
    async fn sysctl(&self, name: &str, value: &str) -> Result<bool>;
}
/// Whether firewall rules see what goes from one port of a bridge to another, which takes the kernel's module br_netfilter;
/// it is loaded if it can be.
pub fn filters_bridged() -> bool {
    static LOADED: std::sync::Once = std::sync::Once::new();
    let there = || std::path::Path::new("/proc/sys/net/bridge").exists();
    if !there() {
        LOADED.call_once(|| {
            // Containers' networks work without it, so why it cannot be loaded is told by whoever misses it.
            let _ = std::process::Command::new("modprobe").args(["-q", "br_netfilter"]).status();
        });
    }
    there()
}
