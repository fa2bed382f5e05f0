//! Links by rtnetlink, encoded by hand: several requests travel in one datagram, so that a container's interface
//! costs two system calls on this side and a handful inside its namespace.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use parking_lot::Mutex;

use super::requests::{
    DELLINK, GETADDR, GETLINK, GETROUTE, IFF_UP, NEWADDR, NEWLINK, NEWROUTE, Requests, ifinfo, octets, rtmsg,
};
use super::{BridgeLink, Endpoint, Link, LinkInfo, Parent, ParentKind, Route, Uplink};
use crate::error::{Error, Result};
use crate::netns::in_netns;
use crate::nft::Family;
use crate::wire::{Channel, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Writer, attribute, attributes, text};

const NETLINK_ROUTE: isize = 0;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_OPERSTATE: u16 = 16;
const OPER_UNKNOWN: u8 = 0;
const OPER_UP: u8 = 6;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_NET_NS_FD: u16 = 28;
const INFO_KIND: u16 = 1;
const INFO_DATA: u16 = 2;
const INFO_SLAVE_KIND: u16 = 4;
const INFO_SLAVE_DATA: u16 = 5;
const BR_NF_CALL_IPTABLES: u16 = 36;
const BR_NF_CALL_IP6TABLES: u16 = 37;
const BRPORT_MODE: u16 = 4;
const BRPORT_ISOLATED: u16 = 33;
const VETH_PEER: u16 = 1;

const ENODEV: i32 = 19;
const EEXIST: i32 = 17;
const ESRCH: i32 = 3;

/// rtnetlink of the network namespace in which it was opened.
pub struct NetlinkLink {
    inner: Arc<Inner>,
}

struct Inner {
    channel: Mutex<Channel>,
    /// Removing a device waits tens of milliseconds for the kernel; nobody else should.
    deletions: Mutex<Channel>,
}

impl NetlinkLink {
    /// Opens the socket in the calling thread's network namespace.
    pub fn open() -> Result<Self> {
        let open = || Channel::open(NETLINK_ROUTE).map(Mutex::new);
        Ok(Self { inner: Arc::new(Inner { channel: open()?, deletions: open()? }) })
    }

    /// Requests wait for the kernel's one lock over all links, which others may hold for milliseconds.
    async fn blocking<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Inner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let inner = self.inner.clone();
        match tokio::task::spawn_blocking(move || f(&inner)).await {
            Ok(result) => result,
            Err(e) => Err(Error::io("a task that speaks netlink", std::io::Error::other(e))),
        }
    }
}

#[async_trait]
impl Link for NetlinkLink {
    async fn ensure_bridge(&self, bridge: &BridgeLink) -> Result<()> {
        let bridge = bridge.clone();
        self.blocking(move |i| i.ensure_bridge(&bridge)).await
    }
    async fn add_parent(&self, parent: &Parent, alias: &str) -> Result<()> {
        let (parent, alias) = (parent.clone(), alias.to_owned());
        self.blocking(move |i| i.add_parent(&parent, &alias)).await
    }
    async fn attach(&self, endpoint: &Endpoint) -> Result<[u8; 6]> {
        let endpoint = endpoint.clone();
        self.blocking(move |i| i.attach(&endpoint)).await
    }
    async fn loopback_up(&self, netns: &Path) -> Result<()> {
        let netns = netns.to_owned();
        self.blocking(move |_| {
            in_netns(&netns, || {
                let mut requests = Requests::default();
                requests.up("bring lo up".into(), LOOPBACK);
                requests.run(&mut Channel::open(NETLINK_ROUTE)?)
            })
        })
        .await
    }
    async fn delete(&self, name: &str) -> Result<()> {
        let name = name.to_owned();
        self.blocking(move |i| delete(&mut i.deletions.lock(), &name)).await
    }
    async fn delete_in(&self, netns: &Path, name: &str) -> Result<()> {
        let (netns, name): (PathBuf, String) = (netns.to_owned(), name.to_owned());
        self.blocking(move |_| in_netns(&netns, || delete(&mut Channel::open(NETLINK_ROUTE)?, &name))).await
    }
    async fn addresses(&self, name: &str) -> Result<Vec<IpNet>> {
        let name = name.to_owned();
        self.blocking(move |i| {
            let mut channel = i.channel.lock();
            match find(&mut channel, &name)? {
                Some(link) => addresses(&mut channel, link.index),
                None => Ok(Vec::new()),
            }
        })
        .await
    }
    async fn list(&self) -> Result<Vec<LinkInfo>> {
        self.blocking(|i| i.list()).await
    }
    async fn ensure_route(&self, link: &str, route: &Route) -> Result<()> {
        let (link, route) = (link.to_owned(), route.clone());
        self.blocking(move |i| ensure_route(&mut i.channel.lock(), &link, &route)).await
    }
    async fn ensure_route_in(&self, netns: &Path, link: &str, route: &Route) -> Result<()> {
        let (netns, link, route) = (netns.to_owned(), link.to_owned(), route.clone());
        self.blocking(move |_| {
            in_netns(&netns, || ensure_route(&mut Channel::open(NETLINK_ROUTE)?, &link, &route))
        })
        .await
    }
    async fn default_mtu(&self) -> Result<Option<u32>> {
        self.blocking(|i| i.default_mtu()).await
    }
    async fn sysctl(&self, name: &str, value: &str) -> Result<bool> {
        let (name, value) = (name.to_owned(), value.to_owned());
        self.blocking(move |_| write_sysctl(&name, &value)).await
    }
}

/// `lo` is the first link of every namespace.
const LOOPBACK: u32 = 1;

impl Inner {
    fn ensure_bridge(&self, b: &BridgeLink) -> Result<()> {
        let mut channel = self.channel.lock();
        let existing = find(&mut channel, &b.name)?;
        if let Some(other) = existing.as_ref().filter(|l| l.kind != "bridge") {
            let kind = if other.kind.is_empty() { "hardware" } else { &other.kind };
            return Err(Error::Invalid(format!(
                "link {} exists and is no bridge but {kind}: rename or remove it",
                b.name
            )));
        }
        if existing.is_none() {
            let mut make = Requests::default();
            make.message(
                format!("add bridge {}", b.name),
                NEWLINK,
                NLM_F_CREATE | NLM_F_EXCL,
                &ifinfo(0, 0),
                |w| {
                    w.string(IFLA_IFNAME, &b.name);
                    w.bytes(IFLA_ADDRESS, &b.mac);
                    b.mtu.iter().for_each(|mtu| w.u32(IFLA_MTU, *mtu));
                    w.nest(IFLA_LINKINFO, |w| w.string(INFO_KIND, "bridge"));
                },
            );
            // The kernel takes no alias with a creation; both go in one datagram, so that no crash comes between.
            make.message(format!("set alias of {}", b.name), NEWLINK, 0, &ifinfo(0, 0), |w| {
                w.string(IFLA_IFNAME, &b.name);
                w.string(IFLA_IFALIAS, &b.alias);
            });
            make.run(&mut channel)?;
        }
        let theirs = existing.is_some_and(|l| l.alias != b.alias);
        let index = find(&mut channel, &b.name)?.ok_or_else(|| no_link(&b.name))?.index;
        // Packets between two ports must pass our rules as routed ones do. Without the module the kernel takes the wish and
        // does nothing.
        if !super::filters_bridged() {
            tracing::warn!(
                "traffic between containers of the network of {} is not filtered, and published ports cannot be \
                 reached from them by the machine's address: load the kernel module br_netfilter",
                b.name
            );
        }
        let mut filter = Requests::default();
        filter.message(format!("filter bridged packets of {}", b.name), NEWLINK, 0, &ifinfo(index, 0), |w| {
            w.nest(IFLA_LINKINFO, |w| {
                w.string(INFO_KIND, "bridge");
                w.nest(INFO_DATA, |w| {
                    w.u8(BR_NF_CALL_IPTABLES, 1);
                    w.u8(BR_NF_CALL_IP6TABLES, 1);
                });
            });
        });
        if let Err(e) = filter.run(&mut channel) {
            tracing::warn!("{e}: traffic between containers of one network is not filtered");
        }
        let mut requests = Requests::default();
        requests.message(format!("set up bridge {}", b.name), NEWLINK, 0, &ifinfo(index, IFF_UP), |w| {
            if !theirs {
                w.bytes(IFLA_ADDRESS, &b.mac);
            }
            b.mtu.iter().for_each(|mtu| w.u32(IFLA_MTU, *mtu));
        });
        let present = addresses(&mut channel, index)?;
        for address in present.iter().filter(|a| !theirs && !b.addresses.contains(a)) {
            requests.address(&b.name, index, *address, false);
        }
        if b.addresses.iter().any(|a| a.addr().is_ipv6()) {
            no_generated_address(&b.name);
            if !theirs {
                requests.address(&b.name, index, link_local(b.mac), true);
            }
        }
        for address in b.addresses.iter().filter(|a| !present.contains(a)) {
            requests.address(&b.name, index, *address, true);
        }
        requests.run(&mut channel)?;
        // Link-local ones cannot be asked for without their link; they are given before the others.
        wait_received(&mut channel, b.addresses.iter().map(IpNet::addr))
    }

    fn add_parent(&self, p: &Parent, alias: &str) -> Result<()> {
        let mut channel = self.channel.lock();
        let (kind, of) = match &p.kind {
            ParentKind::Nowhere => ("bridge", None),
            ParentKind::Vlan { of, id } => {
                let below = find(&mut channel, of)?.ok_or_else(|| no_link(of))?;
                ("vlan", Some((below.index, *id)))
            }
        };
        let mut requests = Requests::default();
        let new = NLM_F_CREATE | NLM_F_EXCL;
        requests.message(format!("add {kind} link {}", p.name), NEWLINK, new, &ifinfo(0, IFF_UP), |w| {
            w.string(IFLA_IFNAME, &p.name);
            of.iter().for_each(|(index, _)| w.u32(IFLA_LINK, *index));
            w.nest(IFLA_LINKINFO, |w| {
                w.string(INFO_KIND, kind);
                of.iter().for_each(|(_, id)| w.nest(INFO_DATA, |w| w.u16(1, *id)));
            });
        });
        // The alias cannot be given with the link's creation.
        requests.message(format!("set alias of {}", p.name), NEWLINK, 0, &ifinfo(0, 0), |w| {
            w.string(IFLA_IFNAME, &p.name);
            w.string(IFLA_IFALIAS, alias);
        });
        requests.run(&mut channel)
    }

    fn attach(&self, e: &Endpoint) -> Result<[u8; 6]> {
        let file = File::open(&e.netns)
            .map_err(|err| Error::io(format!("open network namespace {}", e.netns.display()), err))?;
        let mut make = Requests::default();
        // Most kernels refuse a name that a link of this machine has, though the new one goes elsewhere:
        // what is made by a request of its own gets its name in there.
        let first = format!("tug{}", base::rng::hex(5));
        {
            let mut channel = self.channel.lock();
            let parent = match &e.uplink {
                Uplink::Bridge { bridge: p, .. }
                | Uplink::Macvlan { parent: p, .. }
                | Uplink::Ipvlan { parent: p, .. } => p,
            };
            let parent = find(&mut channel, parent)?.ok_or_else(|| no_link(parent))?;
            let inside = |w: &mut Writer, name: &str| {
                w.string(IFLA_IFNAME, name);
                w.u32(IFLA_NET_NS_FD, file.as_raw_fd() as u32);
                e.mac.iter().for_each(|mac| w.bytes(IFLA_ADDRESS, mac));
                e.mtu.iter().for_each(|mtu| w.u32(IFLA_MTU, *mtu));
            };
            let new = NLM_F_CREATE | NLM_F_EXCL;
            match &e.uplink {
                Uplink::Bridge { host, isolated, .. } => {
                    make.message(format!("add veth {host}"), NEWLINK, new, &ifinfo(0, IFF_UP), |w| {
                        w.string(IFLA_IFNAME, host);
                        w.u32(IFLA_MASTER, parent.index);
                        e.mtu.iter().for_each(|mtu| w.u32(IFLA_MTU, *mtu));
                        w.nest(IFLA_LINKINFO, |w| {
                            w.string(INFO_KIND, "veth");
                            w.nest(INFO_DATA, |w| {
                                w.nest(VETH_PEER, |w| {
                                    w.raw(&ifinfo(0, 0));
                                    inside(w, &e.ifname);
                                });
                            });
                        });
                    });
                    // Hairpin: a container that calls its own published port gets its packet back through this port.
                    make.message(format!("set up bridge port {host}"), NEWLINK, 0, &ifinfo(0, 0), |w| {
                        w.string(IFLA_IFNAME, host);
                        w.nest(IFLA_LINKINFO, |w| {
                            w.string(INFO_SLAVE_KIND, "bridge");
                            w.nest(INFO_SLAVE_DATA, |w| {
                                w.u8(BRPORT_MODE, 1);
                                w.u8(BRPORT_ISOLATED, u8::from(*isolated));
                            });
                        });
                    });
                }
                Uplink::Macvlan { mode, .. } => {
                    make.message(format!("add macvlan {}", e.ifname), NEWLINK, new, &ifinfo(0, 0), |w| {
                        inside(w, &first);
                        w.u32(IFLA_LINK, parent.index);
                        w.nest(IFLA_LINKINFO, |w| {
                            w.string(INFO_KIND, "macvlan");
                            w.nest(INFO_DATA, |w| w.u32(1, *mode));
                        });
                    });
                }
                Uplink::Ipvlan { mode, flags, .. } => {
                    make.message(format!("add ipvlan {}", e.ifname), NEWLINK, new, &ifinfo(0, 0), |w| {
                        inside(w, &first);
                        w.u32(IFLA_LINK, parent.index);
                        w.nest(IFLA_LINKINFO, |w| {
                            w.string(INFO_KIND, "ipvlan");
                            w.nest(INFO_DATA, |w| {
                                w.u16(1, *mode);
                                w.u16(2, *flags);
                            });
                        });
                    });
                }
            }
            if let Err(err) = make.run(&mut channel) {
                // What exists already is somebody's; and of macvlans and ipvlans nothing was made.
                if err.errno() != Some(EEXIST) && matches!(e.uplink, Uplink::Bridge { .. }) {
                    self.undo(&mut channel, e);
                }
                return Err(err);
            }
        }
        if !matches!(e.uplink, Uplink::Bridge { .. }) {
            in_netns(&e.netns, || rename(&first, &e.ifname))?;
        }
        let up = || {
            let mac = in_netns(&e.netns, || set_up(e))?;
            if let Uplink::Bridge { host, bridge, .. } = &e.uplink {
                // In this order: the first port gives the bridge its carrier.
                for link in [host, bridge] {
                    let running = is_running(&mut self.channel.lock(), link)?;
                    if !running {
                        wait_running(link)?;
                    }
                }
            }
            Ok(mac)
        };
        up().inspect_err(|_| self.undo(&mut self.channel.lock(), e))
    }

    /// Removes what a failed `attach` may have made.
    fn undo(&self, channel: &mut Channel, e: &Endpoint) {
        let removed = match &e.uplink {
            Uplink::Bridge { host, .. } => delete(channel, host),
            _ => in_netns(&e.netns, || delete(&mut Channel::open(NETLINK_ROUTE)?, &e.ifname)),
        };
        if let Err(e) = removed {
            tracing::warn!("after a failed attach: {e}");
        }
    }

    fn list(&self) -> Result<Vec<LinkInfo>> {
        let messages = self.channel.lock().dump("list links", |w, seq| {
            w.begin(GETLINK, NLM_F_DUMP, seq, &ifinfo(0, 0));
            w.end();
        })?;
        Ok(messages.iter().filter(|m| m.kind == NEWLINK).filter_map(|m| link_info(&m.payload)).collect())
    }

    fn default_mtu(&self) -> Result<Option<u32>> {
        let messages = self.channel.lock().dump("list routes", |w, seq| {
            w.begin(GETROUTE, NLM_F_DUMP, seq, &rtmsg(Family::V4, 0, 0));
            w.end();
        })?;
        const OIF: u16 = 4;
        const MAIN: u8 = 254;
        let index = messages.iter().filter(|m| m.kind == NEWROUTE && m.payload.len() >= 12).find_map(|m| {
            let default = m.payload[1] == 0 && m.payload[4] == MAIN;
            default.then(|| attribute(&m.payload[12..], OIF)).flatten().and_then(number)
        });
        let Some(index) = index else { return Ok(None) };
        Ok(self.list()?.into_iter().find(|l| l.index == index).map(|l| l.mtu))
    }
}

/// Gives a new link of this thread's namespace its name; it is removed if it cannot have that.
fn rename(link: &str, name: &str) -> Result<()> {
    let mut channel = Channel::open(NETLINK_ROUTE)?;
    let index = find(&mut channel, link)?.ok_or_else(|| no_link(link))?.index;
    let mut requests = Requests::default();
    requests.message(format!("name a link {name}"), NEWLINK, 0, &ifinfo(index, 0), |w| {
        w.string(IFLA_IFNAME, name);
    });
    requests.run(&mut channel).inspect_err(|_| {
        if let Err(e) = delete(&mut channel, link) {
            tracing::warn!("after a failed attach: {e}");
        }
    })
}

/// Inside the namespace: parameters, addresses, up, routes.
fn set_up(e: &Endpoint) -> Result<[u8; 6]> {
    let mut channel = Channel::open(NETLINK_ROUTE)?;
    let link = find(&mut channel, &e.ifname)?.ok_or_else(|| no_link(&e.ifname))?;
    for (name, value) in &e.sysctls {
        write_sysctl(name, value)?;
    }
    let mut requests = Requests::default();
    requests.up("bring lo up".into(), LOOPBACK);
    let mac = link.mac.first_chunk().copied().unwrap_or_default();
    // From an ipvlan's hardware address, which all with its parent share, the kernel itself makes addresses of their own.
    if e.addresses.iter().any(|a| a.addr().is_ipv6()) && !matches!(e.uplink, Uplink::Ipvlan { .. }) {
        no_generated_address(&e.ifname);
        requests.address(&e.ifname, link.index, link_local(mac), true);
    }
    for address in &e.addresses {
        requests.address(&e.ifname, link.index, *address, true);
    }
    requests.up(format!("bring {} up", e.ifname), link.index);
    for route in &e.routes {
        requests.route(link.index, route);
    }
    requests.run(&mut channel)?;
    wait_received(&mut channel, e.addresses.iter().map(IpNet::addr))?;
    if !is_running(&mut channel, &e.ifname)? {
        wait_running(&e.ifname)?;
    }
    Ok(mac)
}

/// Whether a link passes packets. The kernel lets them through only when its own work queue has noticed the carrier;
/// what is sent before is lost, and a lost first packet costs a TCP client a second. Asking for the link makes recent
/// kernels (6.9) notice at once; older ones tell when they have.
fn is_running(channel: &mut Channel, name: &str) -> Result<bool> {
    Ok(find(channel, name)?.is_none_or(|l| l.running))
}

/// Waits until a link of this thread's namespace passes packets.
fn wait_running(name: &str) -> Result<()> {
    const GROUP_LINK: u32 = 1;
    if !wait_until(GROUP_LINK, |channel| is_running(channel, name))? {
        tracing::warn!("link {name} has had no carrier for a second");
    }
    Ok(())
}

/// Waits until the IPv6 addresses among `addresses` receive packets: the kernel inserts their local routes in a work
/// queue of its own, and tells when it has.
fn wait_received(channel: &mut Channel, addresses: impl Iterator<Item = IpAddr>) -> Result<()> {
    const GROUP_IPV6_ADDRESS: u32 = 9;
    for address in addresses.filter(IpAddr::is_ipv6) {
        if !is_local(channel, address)? && !wait_until(GROUP_IPV6_ADDRESS, |c| is_local(c, address))? {
            tracing::warn!("address {address} has received nothing for a second");
        }
    }
    Ok(())
}

/// Waits for `done`, asking again after each news of `group`; false if there were none for a second. A limit, because the
/// kernel says nothing of a link that will never have a carrier.
fn wait_until(group: u32, done: impl Fn(&mut Channel) -> Result<bool>) -> Result<bool> {
    const LIMIT_MS: u16 = 1000;
    let (mut channel, mut news) = (Channel::open(NETLINK_ROUTE)?, Channel::open(NETLINK_ROUTE)?);
    news.join(group)?;
    while !done(&mut channel)? {
        if !news.wait(LIMIT_MS)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether the routing table says that an address is this namespace's own.
fn is_local(channel: &mut Channel, address: IpAddr) -> Result<bool> {
    const LOCAL: u8 = 2;
    let seq = channel.sequence(1);
    let mut w = Writer::new();
    let family = Family::of(address);
    let bytes = octets(address);
    w.begin(GETROUTE, 0, seq, &[family.number(), (bytes.len() * 8) as u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    w.bytes(1, &bytes);
    w.end();
    let (_, messages, _) = channel.exchange(&w.buf)?;
    Ok(messages.iter().any(|m| m.seq == seq && m.kind == NEWROUTE && m.payload.get(7) == Some(&LOCAL)))
}

fn ensure_route(channel: &mut Channel, link: &str, route: &Route) -> Result<()> {
    let index = find(channel, link)?.ok_or_else(|| no_link(link))?.index;
    let mut requests = Requests::default();
    requests.route(index, route);
    requests.run(channel)
}

fn no_link(name: &str) -> Error {
    Error::Kernel { op: format!("find link {name}"), errno: ENODEV, detail: String::new() }
}

fn find(channel: &mut Channel, name: &str) -> Result<Option<LinkInfo>> {
    let seq = channel.sequence(1);
    let mut w = Writer::new();
    w.begin(GETLINK, 0, seq, &ifinfo(0, 0));
    w.string(IFLA_IFNAME, name);
    w.end();
    let (answers, messages, _) = channel.exchange(&w.buf)?;
    match answers.iter().find(|a| a.seq == seq && a.errno != 0) {
        Some(a) if a.errno == ENODEV => Ok(None),
        Some(a) => {
            Err(Error::Kernel { op: format!("find link {name}"), errno: a.errno, detail: a.detail.clone() })
        }
        None => Ok(messages.iter().find(|m| m.seq == seq).and_then(|m| link_info(&m.payload))),
    }
}

fn delete(channel: &mut Channel, name: &str) -> Result<()> {
    let mut requests = Requests::default();
    requests
        .message(format!("delete link {name}"), DELLINK, 0, &ifinfo(0, 0), |w| w.string(IFLA_IFNAME, name));
    requests.tolerate(&[ENODEV, ESRCH]);
    requests.run(channel)
}

/// The addresses of a link that are not the kernel's own link-local ones.
fn addresses(channel: &mut Channel, index: u32) -> Result<Vec<IpNet>> {
    let messages = channel.dump("list addresses", |w, seq| {
        w.begin(GETADDR, NLM_F_DUMP, seq, &[0; 8]);
        w.end();
    })?;
    let mut found = Vec::new();
    for m in messages.iter().filter(|m| m.kind == NEWADDR && m.payload.len() >= 8) {
        let p = &m.payload;
        const LINK_SCOPE: u8 = 253;
        if u32::from_ne_bytes([p[4], p[5], p[6], p[7]]) != index || p[3] == LINK_SCOPE {
            continue;
        }
        let value = attribute(&p[8..], 2).or_else(|| attribute(&p[8..], 1));
        let ip: Option<IpAddr> = match value {
            Some(v) if v.len() == 4 => v.first_chunk::<4>().map(|a| IpAddr::from(*a)),
            Some(v) => v.first_chunk::<16>().map(|a| IpAddr::from(*a)),
            None => None,
        };
        found.extend(ip.and_then(|ip| IpNet::new(ip, p[1]).ok()));
    }
    Ok(found)
}

fn link_info(payload: &[u8]) -> Option<LinkInfo> {
    let header = payload.get(..16)?;
    let at = |i: usize| u32::from_ne_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    let mut link = LinkInfo { index: at(4), up: at(8) & IFF_UP != 0, ..LinkInfo::default() };
    for (kind, value) in attributes(&payload[16..]) {
        match kind {
            IFLA_IFNAME => link.name = text(value),
            IFLA_IFALIAS => link.alias = text(value),
            IFLA_ADDRESS => link.mac = value.to_vec(),
            IFLA_MTU => link.mtu = number(value).unwrap_or(0),
            IFLA_OPERSTATE => {
                link.running = value.first().is_some_and(|s| *s == OPER_UNKNOWN || *s == OPER_UP)
            }
            IFLA_MASTER => link.master = number(value).unwrap_or(0),
            IFLA_LINKINFO => link.kind = attribute(value, INFO_KIND).map(text).unwrap_or_default(),
            _ => {}
        }
    }
    Some(link)
}

/// The link-local address that the kernel would make of a hardware address (RFC 4291 appendix A). We give it
/// ourselves, because the kernel's own is usable only after a while in a work queue, and without one no neighbour can
/// be asked for.
fn link_local(mac: [u8; 6]) -> IpNet {
    let [a, b, c, d, e, f] = mac;
    let tail = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..].copy_from_slice(&tail);
    IpNet::V6(ipnet::Ipv6Net::new_assert(octets.into(), 64))
}

/// Keeps the kernel from making a link-local address beside ours. If it cannot be kept from it, there are two.
fn no_generated_address(name: &str) {
    const NONE: &str = "1";
    let _ = write_sysctl(&format!("net.ipv6.conf.{}.addr_gen_mode", name.replace('.', "/")), NONE);
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|b| u32::from_ne_bytes(*b))
}

/// Writes below /proc/sys of the calling thread's namespace. A dot in an interface's name is written as a slash.
fn write_sysctl(name: &str, value: &str) -> Result<bool> {
    let path: String = name
        .chars()
        .map(|c| {
            if c == '.' {
                '/'
            } else if c == '/' {
                '.'
            } else {
                c
            }
        })
        .collect();
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return Err(Error::Invalid(format!("{name} is no kernel parameter's name")));
    }
    let path = Path::new("/proc/sys").join(&path);
    // What has the value need not be writable.
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(false);
    }
    fs::write(&path, value).map_err(|e| Error::io(format!("set {name} to {value}"), e))?;
    Ok(true)
}
