//! Published ports: elements of the table's port maps, and the sockets that keep those ports from others.
//!
//! The kernel's table is where they are kept: each element carries its owner, so that a new daemon finds what the
//! one before published, and connections go on meanwhile. Which owners still live is for the callers to say
//! ([`PortMapper::retain`]).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Error, Result};
use crate::nft::{Batch, Data, Element, Family, Firewall, Flow, key};
use crate::relay::Relay;
use crate::rules::{open_set, port_sets};

/// A transport protocol that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Proto {
    /// Its number in an IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
    /// The protocol of a number in an IP header.
    pub fn of(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|p| p.number() == number)
    }
}

impl fmt::Display for Proto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

impl std::str::FromStr for Proto {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        match s.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            "sctp" => Ok(Self::Sctp),
            _ => Err(Error::Invalid(format!("invalid protocol {s:?}: use tcp, udp or sctp"))),
        }
    }
}

/// One port of this machine that leads to a port of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortMapping {
    /// The protocol.
    pub proto: Proto,
    /// The address of this machine; unspecified (0.0.0.0, ::) for all of them.
    pub host_ip: IpAddr,
    /// The port of this machine; 0 asks for a free one.
    pub host_port: u16,
    /// The container's address. If it is of another family, connections are passed on by this process.
    pub container_ip: IpAddr,
    /// The container's port.
    pub container_port: u16,
}

/// A port of a container to be reached by one and the same port of several addresses of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRequest {
    /// The protocol.
    pub proto: Proto,
    /// The container's port.
    pub container_port: u16,
    /// The first port that will do; 0 (in both) leaves the choice to us.
    pub from: u16,
    /// The last port that will do.
    pub to: u16,
    /// Addresses of this machine, and the container's address that each leads to. Where the families differ,
    /// connections are passed on by this process.
    pub pairs: Vec<(IpAddr, IpAddr)>,
}

impl PortRequest {
    fn mappings(&self, port: u16) -> impl Iterator<Item = PortMapping> {
        self.pairs.iter().map(move |(host_ip, container_ip)| PortMapping {
            proto: self.proto,
            host_ip: *host_ip,
            host_port: port,
            container_ip: *container_ip,
            container_port: self.container_port,
        })
    }
}

impl From<&PortMapping> for PortRequest {
    fn from(m: &PortMapping) -> Self {
        Self {
            proto: m.proto,
            container_port: m.container_port,
            from: m.host_port,
            to: m.host_port,
            pairs: vec![(m.host_ip, m.container_ip)],
        }
    }
}

/// The published ports of one instance.
pub struct PortMapper {
    firewall: Arc<dyn Firewall>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: BTreeMap<Place, Held>,
    /// Containers' ports that may be reached at their own addresses, where the bridge's rules allow it.
    open: BTreeMap<Place, String>,
    /// The port that was chosen last.
    last: BTreeMap<Proto, u16>,
}

/// What can be taken only once.
type Place = (Proto, IpAddr, u16);

struct Held {
    owner: String,
    mapping: PortMapping,
    door: Door,
}

/// What keeps a port from other processes.
#[derive(Default)]
struct Door {
    /// Bound, never accepting by itself. There is none for SCTP where the kernel lacks that, nor for a port that could
    /// not be bound again after a restart.
    socket: Option<Socket>,
    _relay: Option<Relay>,
}

impl Door {
    /// A door that passes on what the kernel does not translate.
    fn open(socket: Option<Socket>, m: &PortMapping) -> Self {
        let relay = socket.as_ref().and_then(|s| {
            relay(s, m).unwrap_or_else(|e| {
                tracing::warn!("port {} of {} cannot be passed on: {e}", m.host_port, m.host_ip);
                None
            })
        });
        Self { socket, _relay: relay }
    }
}

fn relay(socket: &Socket, m: &PortMapping) -> std::io::Result<Option<Relay>> {
    let loopback6 = m.host_ip.is_ipv6() && (m.host_ip.is_unspecified() || m.host_ip.is_loopback());
    if (translated(m) && !loopback6) || tokio::runtime::Handle::try_current().is_err() {
        return Ok(None);
    }
    let target = SocketAddr::new(m.container_ip, m.container_port);
    let copy = socket.try_clone()?;
    Ok(match m.proto {
        Proto::Tcp => {
            copy.listen(1024)?;
            Some(Relay::tcp(copy.into(), target)?)
        }
        Proto::Udp => Some(Relay::udp(copy.into(), target)?),
        Proto::Sctp => None,
    })
}

impl PortMapper {
    /// Takes over what the table already holds.
    pub(crate) fn open(firewall: Arc<dyn Firewall>) -> Result<Self> {
        let mut state = State::default();
        for family in [Family::V4, Family::V6] {
            let (any, at, _) = port_sets(family);
            for (set, everywhere) in [(any, true), (at, false)] {
                for e in firewall.elements(set)? {
                    let Some(mapping) = decode(family, everywhere, &e) else {
                        tracing::warn!("an element of {set} is none of ours: {e:?}");
                        continue;
                    };
                    let socket = reserve(&mapping).unwrap_or_else(|e| {
                        tracing::warn!("published port kept, but not reserved: {e}");
                        None
                    });
                    let door = Door::open(socket, &mapping);
                    state.held.insert(place(&mapping), Held { owner: e.comment, mapping, door });
                }
            }
            for e in firewall.elements(open_set(family))? {
                if let Some(place) = decode_open(family, &e) {
                    state.open.insert(place, e.comment);
                }
            }
        }
        Ok(Self { firewall, state: Mutex::new(state) })
    }

    /// Publishes all of `mappings` or none, and returns them with the ports that were chosen. Publishing again what
    /// one has published succeeds.
    pub fn publish(&self, owner: &str, mappings: &[PortMapping]) -> Result<Vec<PortMapping>> {
        let requests: Vec<PortRequest> = mappings.iter().map(PortRequest::from).collect();
        self.request(owner, &requests)
    }

    /// Fulfils all requests or none, and returns what came of them, in their order. Asking again for what one has
    /// succeeds.
    pub fn request(&self, owner: &str, requests: &[PortRequest]) -> Result<Vec<PortMapping>> {
        let mut state = self.state.lock();
        let mut new: BTreeMap<Place, Held> = BTreeMap::new();
        let mut result = Vec::new();
        for r in requests {
            let (port, doors) = choose(&mut state, &new, owner, r)?;
            for (mapping, door) in r.mappings(port).zip(doors) {
                result.push(mapping);
                // Without a new reservation it is one's own already, as it is or led elsewhere.
                let same = state.held.get(&place(&mapping)).is_some_and(|h| h.mapping == mapping);
                if door.is_none() && same {
                    continue;
                }
                let door = Door { socket: door.flatten(), _relay: None };
                new.insert(place(&mapping), Held { owner: owner.into(), mapping, door });
            }
        }
        let mut batch = Batch::new();
        let mut left = BTreeSet::new();
        for (p, held) in &new {
            let m = &held.mapping;
            if let Some(Held { mapping: old, .. }) = state.held.get(p).filter(|h| translated(&h.mapping)) {
                batch.delete(set_of(old), vec![Element::new(key_of(old))]);
                left.insert(old.container_ip);
            }
            if translated(m) {
                batch.add(set_of(m), vec![Element::value(key_of(m), value_of(m)).comment(owner)]);
                batch.add(hairpin_of(m), vec![hairpin(m.container_ip)]);
            }
        }
        let stay = state.held.iter().filter(|(p, _)| !new.contains_key(p)).map(|(_, h)| h);
        for held in stay.chain(new.values()).filter(|h| translated(&h.mapping)) {
            left.remove(&held.mapping.container_ip);
        }
        for ip in left {
            batch.delete(port_sets(Family::of(ip)).2, vec![hairpin(ip)]);
        }
        let opened: Vec<Place> =
            open_places(result.iter().map(|m| (m.proto, m.container_ip, m.container_port)));
        let opened: Vec<Place> = opened.into_iter().filter(|p| !state.open.contains_key(p)).collect();
        for p in &opened {
            batch.add(open_set(Family::of(p.1)), vec![Element::new(open_key(p)).comment(owner)]);
        }
        self.firewall.apply(batch)?;
        // Datagrams that came before the port was published went elsewhere; their flows would go on doing so.
        self.forget_udp(new.values().map(|h| &h.mapping), |m, f| f.answers.0 != m.container_ip);
        for (p, mut held) in new {
            let socket = match held.door.socket.take() {
                Some(socket) => Some(socket),
                None => state.held.get_mut(&p).and_then(|old| {
                    old.door._relay = None;
                    old.door.socket.take()
                }),
            };
            held.door = Door::open(socket, &held.mapping);
            state.held.insert(p, held);
        }
        state.open.extend(opened.into_iter().map(|p| (p, owner.to_owned())));
        Ok(result)
    }

    /// Lets a container's ports be reached at its own address, as far as its bridge's rules allow: for networks that
    /// are routed to. `unpublish` takes it back.
    pub fn expose(&self, owner: &str, ports: &[(Proto, IpAddr, u16)]) -> Result<()> {
        let mut state = self.state.lock();
        let opened: Vec<Place> =
            open_places(ports.iter().copied()).into_iter().filter(|p| !state.open.contains_key(p)).collect();
        let mut batch = Batch::new();
        for p in &opened {
            batch.add(open_set(Family::of(p.1)), vec![Element::new(open_key(p)).comment(owner)]);
        }
        self.firewall.apply(batch)?;
        state.open.extend(opened.into_iter().map(|p| (p, owner.to_owned())));
        Ok(())
    }

    /// Takes back everything that `owner` has published.
    pub fn unpublish(&self, owner: &str) -> Result<()> {
        self.remove(|o| o == owner)
    }

    /// Takes back what owners who are not `alive` have published.
    pub fn retain(&self, alive: impl Fn(&str) -> bool) -> Result<()> {
        self.remove(|owner| !alive(owner))
    }

    fn remove(&self, goes: impl Fn(&str) -> bool) -> Result<()> {
        let mut state = self.state.lock();
        let mut batch = Batch::new();
        let gone: Vec<Place> = state.held.iter().filter(|(_, h)| goes(&h.owner)).map(|(p, _)| *p).collect();
        let mut addresses = BTreeSet::new();
        for p in &gone {
            let m = &state.held[p].mapping;
            if translated(m) {
                batch.delete(set_of(m), vec![Element::new(key_of(m))]);
                addresses.insert(m.container_ip);
            }
        }
        for held in state.held.values().filter(|h| !goes(&h.owner) && translated(&h.mapping)) {
            addresses.remove(&held.mapping.container_ip);
        }
        for ip in addresses {
            batch.delete(port_sets(Family::of(ip)).2, vec![hairpin(ip)]);
        }
        let closed: Vec<Place> = state.open.iter().filter(|(_, o)| goes(o)).map(|(p, _)| *p).collect();
        for p in &closed {
            batch.delete(open_set(Family::of(p.1)), vec![Element::new(open_key(p))]);
        }
        self.firewall.apply(batch)?;
        self.forget_udp(gone.iter().map(|p| &state.held[p].mapping), |m, f| f.answers.0 == m.container_ip);
        for p in &gone {
            state.held.remove(p);
        }
        for p in &closed {
            state.open.remove(p);
        }
        Ok(())
    }

    /// Forgets the UDP flows to ports of `mappings` that `stale` picks. They are a matter of clients that keep their
    /// port; that they cannot be forgotten must not undo what was asked for.
    fn forget_udp<'a>(
        &self,
        mappings: impl Iterator<Item = &'a PortMapping>,
        stale: impl Fn(&PortMapping, &Flow) -> bool,
    ) {
        let udp: Vec<_> = mappings.filter(|m| m.proto == Proto::Udp).collect();
        if udp.is_empty() {
            return;
        }
        let to = |m: &PortMapping, f: &Flow| {
            f.proto == Proto::Udp.number()
                && f.destination.1 == m.host_port
                && (m.host_ip.is_unspecified() || m.host_ip == f.destination.0)
        };
        if let Err(e) = self.firewall.forget(&|f| udp.iter().any(|m| to(m, f) && stale(m, f))) {
            tracing::warn!("{e}");
        }
    }

    /// What `owner` has published.
    pub fn published(&self, owner: &str) -> Vec<PortMapping> {
        self.state.lock().held.values().filter(|h| h.owner == owner).map(|h| h.mapping).collect()
    }

    /// Gives the ports back to other processes; the table goes with its own removal.
    pub(crate) fn close(&self) {
        *self.state.lock() = State::default();
    }
}

/// A port that serves the whole request, with a reservation for each address; `None` where the owner has the place
/// already.
fn choose(
    state: &mut State,
    new: &BTreeMap<Place, Held>,
    owner: &str,
    r: &PortRequest,
) -> Result<(u16, Vec<Option<Option<Socket>>>)> {
    if r.from == r.to && r.from != 0 {
        return Ok((r.from, take(state, new, owner, r, r.from)?));
    }
    let (from, to, reserved) = match (r.from, r.to) {
        (0, 0) => ephemeral(),
        (from, to) if from <= to && from > 0 => (from, to, Vec::new()),
        (from, to) => return Err(Error::Invalid(format!("invalid port range: {from}-{to}"))),
    };
    // Ports that we choose go up from the last one, so that a port is not given to somebody else at once.
    let last = if r.from == 0 { state.last.get(&r.proto).copied() } else { None };
    let first = last.filter(|l| (from..to).contains(l)).map_or(from, |l| l + 1);
    for port in (first..=to).chain(from..first) {
        if reserved.iter().any(|(a, b)| (*a..=*b).contains(&port)) {
            continue;
        }
        match take(state, new, owner, r, port) {
            Ok(doors) => {
                if r.from == 0 {
                    state.last.insert(r.proto, port);
                }
                return Ok((port, doors));
            }
            Err(Error::PortTaken { .. } | Error::PortInUse { .. }) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Error::NoFreePort { from, to })
}

fn take(
    state: &State,
    new: &BTreeMap<Place, Held>,
    owner: &str,
    r: &PortRequest,
    port: u16,
) -> Result<Vec<Option<Option<Socket>>>> {
    let mut doors = Vec::new();
    for m in r.mappings(port) {
        if let Some(other) = new.values().find(|h| overlap(&h.mapping, &m)) {
            return Err(taken(&m, &other.owner));
        }
        match state.held.values().find(|h| overlap(&h.mapping, &m)) {
            Some(h) if h.owner == owner && h.mapping.host_ip == m.host_ip => doors.push(None),
            Some(h) => return Err(taken(&m, &h.owner)),
            None => doors.push(Some(reserve(&m)?)),
        }
    }
    Ok(doors)
}

/// Whether two mappings cannot both be: the same port of the same address, or of every address.
fn overlap(a: &PortMapping, b: &PortMapping) -> bool {
    a.proto == b.proto
        && a.host_port == b.host_port
        && a.host_ip.is_ipv4() == b.host_ip.is_ipv4()
        && (a.host_ip == b.host_ip || a.host_ip.is_unspecified() || b.host_ip.is_unspecified())
}

/// The range of ports that the kernel gives away by itself, and which of it an administrator has reserved.
fn ephemeral() -> (u16, u16, Vec<(u16, u16)>) {
    let read = |name| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    let (from, to) = range(&read("ip_local_port_range")).unwrap_or((49153, 65535));
    (from, to, reserved(&read("ip_local_reserved_ports")))
}

fn range(text: &str) -> Option<(u16, u16)> {
    let mut numbers = text.split_whitespace().map(|n| n.parse().ok());
    Some((numbers.next()??, numbers.next()??)).filter(|(from, to)| from <= to && *from > 0)
}

/// `8080,9000-9010`
fn reserved(text: &str) -> Vec<(u16, u16)> {
    let one = |t: &str| {
        let (from, to) = t.split_once('-').unwrap_or((t, t));
        Some((from.parse().ok()?, to.parse().ok()?))
    };
    text.trim().split(',').filter_map(one).collect()
}

/// Whether packets over IPv6 can be received on this machine.
pub fn ipv6() -> bool {
    Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))
        .and_then(|s| {
            s.set_only_v6(true)?;
            s.bind(&SocketAddr::from(([0u16; 8], 0)).into())
        })
        .is_ok()
}

/// Whether the kernel's rules lead from the one address to the other.
fn translated(m: &PortMapping) -> bool {
    m.host_ip.is_ipv4() == m.container_ip.is_ipv4()
}

fn open_places(ports: impl Iterator<Item = (Proto, IpAddr, u16)>) -> Vec<Place> {
    ports.collect::<BTreeSet<_>>().into_iter().collect()
}

fn open_key(p: &Place) -> Vec<u8> {
    key::of(&[key::ip(p.1), key::proto(p.0.number()), key::port(p.2)])
}

fn decode_open(family: Family, e: &Element) -> Option<Place> {
    let size = if family == Family::V4 { 4 } else { 16 };
    let (address, rest) = e.key.split_at_checked(size)?;
    let address: IpAddr = match family {
        Family::V4 => IpAddr::from(*address.first_chunk::<4>()?),
        Family::V6 => IpAddr::from(*address.first_chunk::<16>()?),
    };
    let port = rest.get(4..)?.first_chunk::<2>().map(|p| u16::from_be_bytes(*p))?;
    Some((Proto::of(*rest.first()?)?, address, port))
}

fn place(m: &PortMapping) -> Place {
    (m.proto, m.host_ip, m.host_port)
}

fn taken(m: &PortMapping, owner: &str) -> Error {
    Error::PortTaken { host_ip: m.host_ip, host_port: m.host_port, proto: m.proto, owner: owner.into() }
}

fn set_of(m: &PortMapping) -> &'static str {
    let (any, at, _) = port_sets(Family::of(m.host_ip));
    if m.host_ip.is_unspecified() { any } else { at }
}

fn hairpin_of(m: &PortMapping) -> &'static str {
    port_sets(Family::of(m.container_ip)).2
}

fn hairpin(ip: IpAddr) -> Element {
    Element::new(key::of(&[key::ip(ip), key::ip(ip)]))
}

fn key_of(m: &PortMapping) -> Vec<u8> {
    let mut parts = vec![key::proto(m.proto.number()), key::port(m.host_port)];
    if !m.host_ip.is_unspecified() {
        parts.insert(0, key::ip(m.host_ip));
    }
    key::of(&parts)
}

fn value_of(m: &PortMapping) -> Vec<u8> {
    key::of(&[key::ip(m.container_ip), key::port(m.container_port)])
}

fn decode(family: Family, everywhere: bool, e: &Element) -> Option<PortMapping> {
    let ip = |b: &[u8]| -> Option<IpAddr> {
        match family {
            Family::V4 => b.first_chunk::<4>().map(|a| IpAddr::from(*a)),
            Family::V6 => b.first_chunk::<16>().map(|a| IpAddr::from(*a)),
        }
    };
    let size = if family == Family::V4 { 4 } else { 16 };
    let port = |b: &[u8]| b.first_chunk::<2>().map(|p| u16::from_be_bytes(*p));
    let unspecified = if family == Family::V4 { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
    let (host_ip, rest) =
        if everywhere { (unspecified, &e.key[..]) } else { (ip(&e.key)?, e.key.get(size..)?) };
    let Data::Value(value) = &e.data else { return None };
    Some(PortMapping {
        proto: Proto::of(*rest.first()?)?,
        host_ip,
        host_port: port(rest.get(4..)?)?,
        container_ip: ip(value)?,
        container_port: port(value.get(size..)?)?,
    })
}

/// Binds the port, so that no other process gets it. A TCP socket listens as well: bound sockets with SO_REUSEADDR
/// conflict only with listening ones. There is no socket for a protocol that the kernel lacks.
fn reserve(m: &PortMapping) -> Result<Option<Socket>> {
    let kind = match m.proto {
        Proto::Tcp => (Type::STREAM, Protocol::TCP),
        Proto::Udp => (Type::DGRAM, Protocol::UDP),
        Proto::Sctp => (Type::STREAM, Protocol::from(i32::from(Proto::Sctp.number()))),
    };
    let bind = || -> std::io::Result<Option<Socket>> {
        let domain = Domain::for_address(SocketAddr::new(m.host_ip, 0));
        let socket = match Socket::new(domain, kind.0.cloexec(), Some(kind.1)) {
            Err(e) if e.raw_os_error() == Some(nix::libc::EPROTONOSUPPORT) => return Ok(None),
            other => other?,
        };
        if m.host_ip.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if m.proto == Proto::Tcp {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&SocketAddr::new(m.host_ip, m.host_port).into())?;
        if m.proto != Proto::Udp {
            socket.listen(1)?;
        }
        Ok(Some(socket))
    };
    bind().map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            Error::PortInUse { host_ip: m.host_ip, host_port: m.host_port, proto: m.proto }
        }
        _ => Error::io(
            format!("failed to bind host port {}/{}", SocketAddr::new(m.host_ip, m.host_port), m.proto),
            e,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::RecordingFirewall;

    fn udp(host: &str, port: u16, to: &str) -> PortMapping {
        let (host_ip, container_ip) = (host.parse().unwrap(), to.parse().unwrap());
        PortMapping { proto: Proto::Udp, host_ip, host_port: port, container_ip, container_port: 53 }
    }

    fn table() -> Arc<RecordingFirewall> {
        let table = Arc::new(RecordingFirewall::new());
        table.apply(crate::rules::base()).unwrap();
        table
    }

    #[test]
    fn what_is_published_can_be_read_back() {
        let table = table();
        let ports = PortMapper::open(table.clone()).unwrap();
        let wanted = [
            udp("127.0.0.1", 0, "10.0.0.2"),
            udp("0.0.0.0", 0, "10.0.0.2"),
            udp("::", 0, "fd00::2"),
            udp("::1", 0, "fd00::3"),
        ];
        let mut got = ports.publish("c1", &wanted).unwrap();
        assert!(got.iter().all(|m| m.host_port > 0));
        drop(ports);
        let again = PortMapper::open(table.clone()).unwrap();
        let mut read = again.published("c1");
        got.sort();
        read.sort();
        assert_eq!(read, got);
        again.retain(|owner| owner != "c1").unwrap();
        let fresh = self::table();
        assert_eq!(table.state(), fresh.state(), "nothing is left, hairpins neither");
    }

    #[test]
    fn all_or_nothing() {
        let table = table();
        let ports = PortMapper::open(table.clone()).unwrap();
        let before = table.state();
        let first = ports.publish("c1", &[udp("127.0.0.1", 0, "10.0.0.2")]).unwrap()[0];
        let with = table.state();
        let error = ports.publish(
            "c2",
            &[udp("127.0.0.2", 0, "10.0.0.3"), PortMapping { container_ip: [10, 0, 0, 3].into(), ..first }],
        );
        assert!(matches!(error, Err(Error::PortTaken { ref owner, .. }) if owner == "c1"), "{error:?}");
        assert_eq!(table.state(), with);
        let changed = PortMapping { container_ip: [10, 0, 0, 4].into(), ..first };
        assert_eq!(ports.publish("c1", &[changed]).unwrap(), [changed], "one's own may be led elsewhere");
        assert_eq!(ports.published("c1"), [changed]);
        ports.unpublish("c1").unwrap();
        ports.unpublish("c1").unwrap();
        assert_eq!(table.state(), before);
    }

    fn request(from: u16, to: u16, pairs: &[(&str, &str)]) -> PortRequest {
        let pairs = pairs.iter().map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap())).collect();
        PortRequest { proto: Proto::Udp, container_port: 53, from, to, pairs }
    }

    #[test]
    fn one_port_for_every_address() {
        let ports = PortMapper::open(table()).unwrap();
        let asked = request(0, 0, &[("127.0.0.1", "10.0.0.2"), ("127.0.0.2", "10.0.0.2")]);
        let got = ports.request("c1", &[asked.clone(), asked]).unwrap();
        assert_eq!(got[0].host_port, got[1].host_port);
        assert_ne!(got[0].host_port, got[2].host_port);
        let (from, to, _) = ephemeral();
        assert!((from..=to).contains(&got[0].host_port));
        // A range holds as many as it has ports.
        let port = got[0].host_port;
        let last = got[2].host_port;
        let one = request(last, last, &[("127.0.0.1", "10.0.0.3")]);
        assert!(matches!(ports.request("c2", &[one]), Err(Error::PortTaken { .. })));
        let one = request(port, last + 1, &[("127.0.0.1", "10.0.0.3")]);
        let other = ports.request("c2", std::slice::from_ref(&one)).unwrap()[0].host_port;
        assert!(other > port && other != last);
        let one = request(port, port, &[("127.0.0.1", "10.0.0.3")]);
        let error = ports.request("c3", &[PortRequest { from: port, to: port, ..one }]).unwrap_err();
        assert!(matches!(error, Error::PortTaken { .. }), "{error}");
        let none = request(5, 4, &[("127.0.0.1", "10.0.0.3")]);
        assert!(matches!(ports.request("c3", &[none]), Err(Error::Invalid(_))));
        let everywhere = request(port, port, &[("0.0.0.0", "10.0.0.4")]);
        let error = ports.request("c3", &[everywhere]).unwrap_err();
        assert!(matches!(error, Error::PortTaken { ref owner, .. } if owner == "c1"), "{error}");
    }

    #[test]
    fn what_the_kernel_cannot_translate_has_no_rule() {
        let table = table();
        let ports = PortMapper::open(table.clone()).unwrap();
        let before = table.state();
        ports.request("c1", &[request(0, 0, &[("::1", "10.0.0.2")])]).unwrap();
        let with = table.state();
        let sets = |name: &str| (before.sets[name].len(), with.sets[name].len());
        assert_eq!((sets("ports6-at"), sets("hairpin"), sets("open")), ((0, 0), (0, 0), (0, 1)));
        ports.expose("c1", &[(Proto::Tcp, "fd00::2".parse().unwrap(), 80)]).unwrap();
        assert_eq!(table.state().sets["open6"].len(), 1);
        let again = PortMapper::open(table.clone()).unwrap();
        again.retain(|_| false).unwrap();
        assert_eq!(table.state(), before);
    }

    #[test]
    fn kernel_parameters() {
        assert_eq!(range("32768\t60999\n"), Some((32768, 60999)));
        assert_eq!(range(""), None);
        assert_eq!(reserved("8080,9000-9010\n"), [(8080, 8080), (9000, 9010)]);
        assert!(reserved("\n").is_empty());
    }
}
