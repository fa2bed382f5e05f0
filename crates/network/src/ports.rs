//! Published ports: elements of the table's port maps, and the sockets that keep those ports from others.
//!
//! The kernel's table is where they are kept: each element carries its owner, so that a new daemon finds what the
//! one before published, and connections go on meanwhile. Which owners still live is for the callers to say
//! ([`PortMapper::retain`]).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

use crate::error::{Error, Result};
use crate::nft::{Batch, Data, Element, Family, Firewall, Flow, key};
use crate::rules::port_sets;

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
    /// The port of this machine; 0 lets the kernel choose a free one.
    pub host_port: u16,
    /// The container's address, of the same family.
    pub container_ip: IpAddr,
    /// The container's port.
    pub container_port: u16,
}

/// The published ports of one instance.
pub struct PortMapper {
    firewall: Arc<dyn Firewall>,
    state: Mutex<BTreeMap<Place, Held>>,
}

/// What can be taken only once.
type Place = (Proto, IpAddr, u16);

struct Held {
    owner: String,
    mapping: PortMapping,
    /// Keeps the port from other processes; never accepts. SCTP has none, nor has a port that could not be bound
    /// again after a restart.
    _reservation: Option<Socket>,
}

impl PortMapper {
    /// Takes over what the table already holds.
    pub(crate) fn open(firewall: Arc<dyn Firewall>) -> Result<Self> {
        let mut state = BTreeMap::new();
        for family in [Family::V4, Family::V6] {
            let (any, at, _) = port_sets(family);
            for (set, everywhere) in [(any, true), (at, false)] {
                for e in firewall.elements(set)? {
                    let Some(mapping) = decode(family, everywhere, &e) else {
                        tracing::warn!("an element of {set} is none of ours: {e:?}");
                        continue;
                    };
                    let reservation = reserve(&mapping).map(|(s, _)| s).unwrap_or_else(|e| {
                        tracing::warn!("published port kept, but not reserved: {e}");
                        None
                    });
                    state.insert(
                        place(&mapping),
                        Held { owner: e.comment, mapping, _reservation: reservation },
                    );
                }
            }
        }
        Ok(Self { firewall, state: Mutex::new(state) })
    }

    /// Publishes all of `mappings` or none, and returns them with the ports that were chosen. Publishing again what
    /// one has published succeeds.
    pub fn publish(&self, owner: &str, mappings: &[PortMapping]) -> Result<Vec<PortMapping>> {
        let mut state = self.state.lock();
        let mut batch = Batch::new();
        let mut new: BTreeMap<Place, Held> = BTreeMap::new();
        let mut result = Vec::new();
        let mut left = Vec::new();
        for m in mappings {
            if m.host_ip.is_ipv4() != m.container_ip.is_ipv4() {
                let text = format!(
                    "port {} of {} cannot lead to {}: another family",
                    m.host_port, m.host_ip, m.container_ip
                );
                return Err(Error::Invalid(text));
            }
            let mut mapping = *m;
            if m.host_port != 0 {
                if let Some(held) = state.get(&place(m)) {
                    if held.owner != owner {
                        return Err(taken(m, &held.owner));
                    }
                    if held.mapping == *m {
                        result.push(*m);
                        continue;
                    }
                    batch.delete(set_of(m), vec![Element::new(key_of(m))]);
                    left.push((place(m), held.mapping.container_ip));
                }
                if new.contains_key(&place(m)) {
                    return Err(taken(m, owner));
                }
            }
            let replaced = state.get(&place(m)).is_some_and(|h| h.owner == owner);
            let reservation = if replaced {
                state.get_mut(&place(m)).and_then(|h| h._reservation.take())
            } else {
                let (socket, port) = reserve(m).map_err(|e| match e {
                    Error::PortTaken { .. } => taken(m, holder(&state, m).unwrap_or_default()),
                    e => e,
                })?;
                mapping.host_port = port;
                socket
            };
            batch.add(
                set_of(&mapping),
                vec![Element::value(key_of(&mapping), value_of(&mapping)).comment(owner)],
            );
            batch.add(hairpin_of(&mapping), vec![hairpin(mapping.container_ip)]);
            result.push(mapping);
            new.insert(place(&mapping), Held { owner: owner.into(), mapping, _reservation: reservation });
        }
        for (_, ip) in &left {
            let others = state.iter().filter(|(p, _)| !left.iter().any(|(l, _)| l == *p)).map(|(_, h)| h);
            if !others.chain(new.values()).any(|h| h.mapping.container_ip == *ip) {
                batch.delete(port_sets(Family::of(*ip)).2, vec![hairpin(*ip)]);
            }
        }
        self.firewall.apply(batch)?;
        // Datagrams that came before the port was published went elsewhere; their flows would go on doing so.
        self.forget_udp(new.values().map(|h| &h.mapping), |m, f| f.answers.0 != m.container_ip);
        state.extend(new);
        Ok(result)
    }

    /// Takes back everything that `owner` has published.
    pub fn unpublish(&self, owner: &str) -> Result<()> {
        self.remove(|held| held.owner == owner)
    }

    /// Takes back what owners who are not `alive` have published.
    pub fn retain(&self, alive: impl Fn(&str) -> bool) -> Result<()> {
        self.remove(|held| !alive(&held.owner))
    }

    fn remove(&self, goes: impl Fn(&Held) -> bool) -> Result<()> {
        let mut state = self.state.lock();
        let mut batch = Batch::new();
        let gone: Vec<Place> = state.iter().filter(|(_, h)| goes(h)).map(|(p, _)| *p).collect();
        let mut addresses = std::collections::BTreeSet::new();
        for p in &gone {
            let m = &state[p].mapping;
            batch.delete(set_of(m), vec![Element::new(key_of(m))]);
            addresses.insert(m.container_ip);
        }
        for held in state.values().filter(|h| !goes(h)) {
            addresses.remove(&held.mapping.container_ip);
        }
        for ip in addresses {
            batch.delete(port_sets(Family::of(ip)).2, vec![hairpin(ip)]);
        }
        self.firewall.apply(batch)?;
        self.forget_udp(gone.iter().map(|p| &state[p].mapping), |m, f| f.answers.0 == m.container_ip);
        gone.iter().for_each(|p| {
            state.remove(p);
        });
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
        self.state.lock().values().filter(|h| h.owner == owner).map(|h| h.mapping).collect()
    }

    /// Gives the ports back to other processes; the table goes with its own removal.
    pub(crate) fn close(&self) {
        self.state.lock().clear();
    }
}

/// Who of ours has the port at another address, or at every one.
fn holder<'a>(state: &'a BTreeMap<Place, Held>, m: &PortMapping) -> Option<&'a str> {
    let same = |h: &&Held| h.mapping.proto == m.proto && h.mapping.host_port == m.host_port;
    state.values().find(same).map(|h| h.owner.as_str())
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

/// Binds the port, so that no other process gets it, and says which one it is. A TCP socket listens as well: bound
/// sockets with SO_REUSEADDR conflict only with listening ones.
fn reserve(m: &PortMapping) -> Result<(Option<Socket>, u16)> {
    let kind = match m.proto {
        Proto::Tcp => (Type::STREAM, Protocol::TCP),
        Proto::Udp => (Type::DGRAM, Protocol::UDP),
        Proto::Sctp if m.host_port != 0 => return Ok((None, m.host_port)),
        Proto::Sctp => {
            return Err(Error::Invalid("an SCTP port must be named: none is chosen automatically".into()));
        }
    };
    let bind = || -> std::io::Result<(Socket, u16)> {
        let socket =
            Socket::new(Domain::for_address(SocketAddr::new(m.host_ip, 0)), kind.0.cloexec(), Some(kind.1))?;
        if m.host_ip.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        if m.proto == Proto::Tcp {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&SocketAddr::new(m.host_ip, m.host_port).into())?;
        if m.proto == Proto::Tcp {
            socket.listen(1)?;
        }
        let port = socket.local_addr()?.as_socket().map_or(m.host_port, |a| a.port());
        Ok((socket, port))
    };
    match bind() {
        Ok((socket, port)) => Ok((Some(socket), port)),
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse && m.host_port == 0 => {
            Err(Error::NoFreePort { from: 1, to: u16::MAX })
        }
        Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => Err(taken(m, "")),
        Err(e) => Err(Error::io(format!("Bind for {}:{} failed", m.host_ip, m.host_port), e)),
    }
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
        assert!(
            ports
                .publish("c", &[PortMapping { proto: Proto::Sctp, ..udp("0.0.0.0", 0, "10.0.0.2") }])
                .is_err()
        );
    }
}
