//! Counting addresses of one subnet.
//!
//! The truth about who has which address lies with the users (containers, pods); at start they claim theirs again.
//! Addresses are handed out in ascending order and, unless the lowest is asked for, a freed one is not reused before
//! the range has been walked through, so that neighbours' ARP caches rarely hold a former owner.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use parking_lot::Mutex;

use crate::error::{Error, Result};

/// The addresses of one subnet and their owners.
#[derive(Debug)]
pub struct Ipam {
    subnet: IpNet,
    /// What automatic allocation draws from; equal to `subnet` or a part of it (`--ip-range`).
    range: IpNet,
    /// Automatic allocation gives the lowest free address instead of walking on.
    lowest: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    owners: BTreeMap<u128, String>,
    /// The offset into the range after the one handed out last.
    next: u128,
}

const RESERVED: &str = "(reserved)";

impl Ipam {
    /// All of `subnet` but its network address, its broadcast address and `reserved` (gateway, auxiliary addresses).
    pub fn new(subnet: IpNet, reserved: impl IntoIterator<Item = IpAddr>) -> Self {
        Self::with_range(subnet, subnet, reserved)
    }

    /// As `new`, but automatic allocation draws from `range` only; fixed addresses may be any of `subnet`.
    pub fn with_range(subnet: IpNet, range: IpNet, reserved: impl IntoIterator<Item = IpAddr>) -> Self {
        let owners = reserved.into_iter().map(|a| (number(a), RESERVED.to_owned())).collect();
        let state = Mutex::new(State { owners, next: 0 });
        Self { subnet: subnet.trunc(), range: range.trunc(), lowest: false, state }
    }

    /// Automatic allocation gives the lowest free address, as Docker does and its users expect.
    pub fn lowest_first(mut self) -> Self {
        self.lowest = true;
        self
    }

    /// The subnet.
    pub fn subnet(&self) -> IpNet {
        self.subnet
    }

    /// Gives `owner` the address `fixed`, or the next free one. Asking again for one's own fixed address succeeds.
    pub fn allocate(&self, owner: &str, fixed: Option<IpAddr>) -> Result<IpAddr> {
        let mut state = self.state.lock();
        if let Some(address) = fixed {
            self.check(address)?;
            return match state.owners.get(&number(address)) {
                Some(other) if other == RESERVED => Err(Error::AddressInvalid {
                    address,
                    reason: "it is reserved (the gateway's or an auxiliary address)".into(),
                }),
                Some(other) if other != owner => Err(Error::AddressTaken { address, owner: other.clone() }),
                _ => {
                    state.owners.insert(number(address), owner.to_owned());
                    Ok(address)
                }
            };
        }
        let size = size(self.range);
        let base = number(self.range.network());
        // At most one more address than there are owners in the range needs to be tried, plus the two edges.
        for step in 0..size.min(state.owners.len() as u128 + 3) {
            let begin = if self.lowest { 0 } else { state.next };
            let offset = (begin + step) % size;
            let candidate = base + offset;
            let address = address(candidate, self.subnet);
            if self.check(address).is_ok() && !state.owners.contains_key(&candidate) {
                state.next = offset + 1;
                state.owners.insert(candidate, owner.to_owned());
                return Ok(address);
            }
        }
        Err(Error::SubnetFull { subnet: self.range })
    }

    /// Frees every address of `owner`; nothing happens if it has none.
    pub fn release(&self, owner: &str) {
        self.state.lock().owners.retain(|_, o| o != owner || o == RESERVED);
    }

    /// Who has `address`; `None` if it is free or reserved.
    pub fn owner(&self, address: IpAddr) -> Option<String> {
        self.state.lock().owners.get(&number(address)).filter(|o| *o != RESERVED).cloned()
    }

    /// How many addresses are handed out, without the reserved ones.
    pub fn used(&self) -> usize {
        self.state.lock().owners.values().filter(|o| *o != RESERVED).count()
    }

    fn check(&self, address: IpAddr) -> Result<()> {
        let invalid = |reason: String| Err(Error::AddressInvalid { address, reason });
        if !self.subnet.contains(&address) {
            return invalid(format!("it is not in the subnet {}", self.subnet));
        }
        // A /31 or /32 (RFC 3021) has neither a network nor a broadcast address; IPv6 has no broadcast address.
        let host_bits = self.subnet.max_prefix_len() - self.subnet.prefix_len();
        if host_bits > 1 {
            if address == self.subnet.network() {
                return invalid(format!("it is the network address of {}", self.subnet));
            }
            if address.is_ipv4() && address == self.subnet.broadcast() {
                return invalid(format!("it is the broadcast address of {}", self.subnet));
            }
        }
        Ok(())
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

fn address(number: u128, like: IpNet) -> IpAddr {
    match like {
        IpNet::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

fn size(net: IpNet) -> u128 {
    match net.max_prefix_len() - net.prefix_len() {
        128 => u128::MAX,
        bits => 1 << bits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(s: &str) -> IpNet {
        s.parse().unwrap()
    }
    fn ip(s: &str) -> IpAddr {
        s.parse().unwrap()
    }

    #[test]
    fn hands_out_in_order_and_reuses_late() {
        let ipam = Ipam::new(net("10.0.0.0/29"), [ip("10.0.0.1")]);
        let got: Vec<_> =
            (0..5).map(|i| ipam.allocate(&format!("c{i}"), None).unwrap().to_string()).collect();
        assert_eq!(got, ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert!(matches!(ipam.allocate("more", None), Err(Error::SubnetFull { .. })));
        ipam.release("c3");
        assert_eq!(ipam.allocate("more", None).unwrap(), ip("10.0.0.5"));
        ipam.release("c0");
        ipam.release("c4");
        assert_eq!(
            ipam.allocate("x", None).unwrap(),
            ip("10.0.0.6"),
            "the walk goes on after the last one given"
        );
        assert_eq!(ipam.allocate("y", None).unwrap(), ip("10.0.0.2"));
        assert_eq!(ipam.used(), 5);
    }

    #[test]
    fn the_lowest_first() {
        let ipam = Ipam::new(net("10.0.0.0/29"), [ip("10.0.0.1")]).lowest_first();
        for owner in ["a", "b", "c"] {
            ipam.allocate(owner, None).unwrap();
        }
        ipam.release("a");
        assert_eq!(ipam.allocate("d", None).unwrap(), ip("10.0.0.2"));
        assert_eq!(ipam.allocate("e", None).unwrap(), ip("10.0.0.5"));
    }

    #[test]
    fn fixed_addresses() {
        let ipam = Ipam::new(net("10.0.0.0/24"), [ip("10.0.0.1")]);
        assert_eq!(ipam.allocate("a", Some(ip("10.0.0.9"))).unwrap(), ip("10.0.0.9"));
        assert_eq!(ipam.allocate("a", Some(ip("10.0.0.9"))).unwrap(), ip("10.0.0.9"));
        let taken = ipam.allocate("b", Some(ip("10.0.0.9"))).unwrap_err();
        assert_eq!(taken.to_string(), "Address already in use: 10.0.0.9 belongs to a");
        for bad in ["10.0.0.0", "10.0.0.255", "10.0.0.1", "10.0.1.1"] {
            assert!(matches!(ipam.allocate("b", Some(ip(bad))), Err(Error::AddressInvalid { .. })), "{bad}");
        }
        assert_eq!(ipam.owner(ip("10.0.0.9")).as_deref(), Some("a"));
        ipam.release("a");
        assert_eq!(ipam.owner(ip("10.0.0.9")), None);
        assert_eq!(ipam.owner(ip("10.0.0.1")), None, "a reserved address has no owner and is never freed");
    }

    #[test]
    fn ranges_and_families() {
        let ipam = Ipam::with_range(net("172.28.0.0/16"), net("172.28.5.0/30"), [ip("172.28.5.1")]);
        let got: Vec<_> = (0..3).map(|_| ipam.allocate("o", None).unwrap().to_string()).collect();
        assert_eq!(
            got,
            ["172.28.5.0", "172.28.5.2", "172.28.5.3"],
            "edges of a range inside the subnet are usable"
        );
        assert!(ipam.allocate("o", None).is_err());
        assert!(ipam.allocate("o", Some(ip("172.28.9.9"))).is_ok());
        let six = Ipam::new(net("fd00:7::/64"), [ip("fd00:7::1")]);
        assert_eq!(six.allocate("a", None).unwrap(), ip("fd00:7::2"));
        let point = Ipam::new(net("10.0.0.0/31"), []);
        assert_eq!(point.allocate("a", None).unwrap(), ip("10.0.0.0"));
        assert_eq!(point.allocate("b", None).unwrap(), ip("10.0.0.1"));
        let all = Ipam::new(net("::/0"), []);
        assert_eq!(all.allocate("a", None).unwrap(), ip("::1"));
    }
}
