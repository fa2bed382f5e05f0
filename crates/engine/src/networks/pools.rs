//! Which addresses a network has: what was asked for, checked, and what it is given where nothing was.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use crate::error::{Result, forbidden, invalid};
use crate::model::{Ipam, IpamPool};

/// Where networks get their subnets from: blocks, each to be cut into subnets of one size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressPools(Vec<(IpNet, u8)>);

impl AddressPools {
    /// The given blocks, or Docker's if there are none; each must be at least as large as one subnet of it.
    pub fn new(blocks: Vec<(IpNet, u8)>) -> Result<AddressPools> {
        if blocks.is_empty() {
            return Ok(AddressPools::standard());
        }
        for (base, size) in &blocks {
            if *base != base.trunc() || *size < base.prefix_len() || *size > base.max_prefix_len() {
                return Err(invalid(format!(
                    "default-address-pools: {base} cannot be cut into subnets of size /{size}"
                )));
            }
        }
        Ok(AddressPools(blocks))
    }

    /// Docker's for IPv4.
    pub fn standard() -> AddressPools {
        let block = |a: [u8; 4], len, size| (IpNet::V4(Ipv4Net::new_assert(a.into(), len)), size);
        AddressPools(vec![
            block([172, 17, 0, 0], 16, 16),
            block([172, 18, 0, 0], 16, 16),
            block([172, 19, 0, 0], 16, 16),
            block([172, 20, 0, 0], 14, 16),
            block([172, 24, 0, 0], 14, 16),
            block([172, 28, 0, 0], 14, 16),
            block([192, 168, 0, 0], 16, 20),
        ])
    }

    /// With a block of unique local addresses (RFC 4193) that follows from the engine's id, if it has none of IPv6.
    pub(crate) fn with_local6(mut self, id: &str) -> AddressPools {
        if !self.0.iter().any(|(base, _)| matches!(base, IpNet::V6(_))) {
            let digest = Sha256::digest(id.as_bytes());
            let mut octets = [0; 16];
            octets[0] = 0xfd;
            octets[1..6].copy_from_slice(&digest[3..8]);
            self.0.push((IpNet::V6(Ipv6Net::new_assert(octets.into(), 48)), 64));
        }
        self
    }

    /// The first subnet that overlaps nothing of `taken`; of that size, if one is asked for.
    pub(super) fn free(&self, v6: bool, size: Option<u8>, taken: &[IpNet]) -> Result<IpNet> {
        let blocks = self.0.iter().filter(|(base, _)| matches!(base, IpNet::V6(_)) == v6);
        for (base, standard) in blocks {
            if let Some(found) = gap(*base, size.unwrap_or(*standard), taken) {
                return Ok(found);
            }
        }
        Err(invalid("all predefined address pools have been fully subnetted"))
    }
}

impl Default for AddressPools {
    fn default() -> Self {
        AddressPools::standard()
    }
}

/// The first subnet of a block that overlaps nothing of `taken`.
fn gap(base: IpNet, size: u8, taken: &[IpNet]) -> Option<IpNet> {
    let number = |address: IpAddr| match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    };
    if size < base.prefix_len() || size > base.max_prefix_len() {
        return None;
    }
    let step = 1u128.checked_shl(u32::from(base.max_prefix_len() - size))?;
    let mut at = number(base.network());
    while at <= number(base.broadcast()) {
        let address = match base {
            IpNet::V4(_) => IpAddr::from(Ipv4Addr::from(u32::try_from(at).ok()?)),
            IpNet::V6(_) => IpAddr::from(Ipv6Addr::from(at)),
        };
        let candidate = IpNet::new(address, size).ok()?;
        // On with the subnet behind the last one that is in the way.
        match taken.iter().filter(|t| overlap(candidate, **t)).map(|t| number(t.broadcast())).max() {
            None => return Some(candidate),
            Some(last) => {
                at = at.checked_add(step)?.max(last.checked_add(1)?.checked_next_multiple_of(step)?)
            }
        }
    }
    None
}

pub(super) fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The first usable address of a subnet; of an address range inside of one, its very first.
pub(super) fn first(subnet: IpNet, range: Option<IpNet>) -> IpAddr {
    match range.filter(|r| r.network() != subnet.network()) {
        Some(range) => range.network(),
        None => match subnet {
            IpNet::V4(n) if n.prefix_len() > 30 => n.network().into(),
            IpNet::V4(n) => Ipv4Addr::from(u32::from(n.network()) + 1).into(),
            IpNet::V6(n) if n.prefix_len() > 126 => n.network().into(),
            IpNet::V6(n) => Ipv6Addr::from(u128::from(n.network()) + 1).into(),
        },
    }
}

/// One pool with its texts read.
#[derive(Debug, Clone)]
pub(super) struct Parsed {
    pub subnet: Option<IpNet>,
    pub range: Option<IpNet>,
    pub gateway: Option<IpAddr>,
    pub aux: Vec<IpAddr>,
}

/// Reads a pool's texts.
pub(super) fn parse(pool: &IpamPool) -> Result<Parsed> {
    let net = |text: &str| -> Result<Option<IpNet>> {
        if text.is_empty() {
            return Ok(None);
        }
        let bad = || {
            let what = if text.contains('/') { "unable to parse IP" } else { "no '/'" };
            invalid(format!("invalid network config: netip.ParsePrefix(\"{text}\"): {what}"))
        };
        text.parse().map(Some).map_err(|_| bad())
    };
    let address = |text: &str| -> Result<IpAddr> {
        text.parse().map_err(|_| {
            invalid(format!("invalid network config: ParseAddr(\"{text}\"): unable to parse IP"))
        })
    };
    Ok(Parsed {
        subnet: net(&pool.subnet)?,
        range: net(&pool.ip_range)?,
        gateway: Some(&pool.gateway).filter(|g| !g.is_empty()).map(|g| address(g)).transpose()?,
        aux: pool.aux_addresses.values().map(|a| address(a)).collect::<Result<_>>()?,
    })
}

/// Everything that is wrong with the pools asked for, at once.
pub(super) fn check(ipam: &Ipam, enable_ipv6: bool) -> Result<()> {
    let mut errors = Vec::new();
    for pool in &ipam.config {
        let parsed = parse(pool)?;
        let Some(subnet) = parsed.subnet else {
            if parsed.gateway.is_some() || parsed.range.is_some() || !parsed.aux.is_empty() {
                return Err(invalid(
                    "invalid network config: a gateway, range or auxiliary address needs a subnet",
                ));
            }
            continue;
        };
        let v6 = matches!(subnet, IpNet::V6(_));
        if v6 && !enable_ipv6 {
            continue;
        }
        let family = if v6 { 6 } else { 4 };
        if subnet != subnet.trunc() {
            errors.push(format!("invalid subnet {subnet}: it should be {}", subnet.trunc()));
        }
        if let Some(range) = parsed.range {
            if matches!(range, IpNet::V6(_)) != v6 {
                errors.push(format!("invalid ip-range {range}: parent subnet is an IPv{family} block"));
            } else {
                if range.prefix_len() < subnet.prefix_len() {
                    errors.push(format!(
                        "invalid ip-range {range}: CIDR block is bigger than its parent subnet {subnet}"
                    ));
                }
                if range != range.trunc() {
                    errors.push(format!("invalid ip-range {range}: it should be {}", range.trunc()));
                }
                if !overlap(subnet, range) {
                    errors.push(format!(
                        "invalid ip-range {range}: parent subnet {subnet} doesn't contain ip-range"
                    ));
                }
            }
        }
        let outside = |address: IpAddr| {
            if address.is_ipv6() != v6 {
                Some(format!("parent subnet is an IPv{family} block"))
            } else if !subnet.contains(&address) {
                Some(format!("parent subnet {subnet} doesn't contain this address"))
            } else {
                None
            }
        };
        if let Some((gateway, why)) = parsed.gateway.and_then(|g| Some((g, outside(g)?))) {
            errors.push(format!("invalid gateway {gateway}: {why}"));
        }
        for (name, address) in pool.aux_addresses.keys().zip(&parsed.aux) {
            if let Some(why) = outside(*address) {
                errors.push(format!("invalid auxiliary address {name}: {why}"));
            }
        }
    }
    joined("invalid network config", &errors)
}

/// Several errors as one, in the original's shape.
pub(super) fn joined(what: &str, errors: &[String]) -> Result<()> {
    match errors {
        [] => Ok(()),
        [one] => Err(invalid(format!("{what}:\n{one}"))),
        all => Err(invalid(format!("{what}:\n* {}", all.join("\n* ")))),
    }
}

/// What is to be given to a network.
pub(super) struct Wanted<'a> {
    pub pools: &'a AddressPools,
    pub v4: bool,
    pub v6: bool,
    /// Whether a gateway is chosen where none is named, for IPv4 and IPv6.
    pub gateways: [bool; 2],
    /// The subnets of other networks, with their names.
    pub others: &'a [(IpNet, String)],
    /// What else is not given away by itself: routes and name servers of this machine.
    pub reserved: &'a [IpNet],
}

/// Completes the pools: each enabled family has at least one, each pool a subnet and, where wanted, a gateway.
pub(super) fn allocate(ipam: &mut Ipam, wanted: &Wanted<'_>) -> Result<()> {
    let mut out: Vec<IpamPool> = Vec::new();
    let mut own: Vec<IpNet> = Vec::new();
    for v6 in [false, true] {
        if !(if v6 { wanted.v6 } else { wanted.v4 }) {
            continue;
        }
        let mut mine = Vec::new();
        for pool in &ipam.config {
            let family = parse(pool)?.subnet.is_some_and(|s| matches!(s, IpNet::V6(_)));
            if family == v6 {
                mine.push(pool.clone());
            }
        }
        if mine.is_empty() {
            mine.push(IpamPool::default());
        }
        for mut pool in mine {
            let parsed = parse(&pool)?;
            let asked = parsed.subnet.filter(|s| !s.addr().is_unspecified());
            let subnet = match asked {
                Some(subnet) => {
                    let taken = wanted.others.iter().find(|(other, _)| overlap(*other, subnet));
                    if let Some((other, name)) = taken {
                        return Err(forbidden(format!(
                            "invalid pool request: Pool overlaps with other one on this address space ({other} of network {name})"
                        )));
                    }
                    if own.iter().any(|o| overlap(*o, subnet)) {
                        return Err(forbidden(
                            "invalid pool request: Pool overlaps with other one on this address space",
                        ));
                    }
                    subnet
                }
                None => {
                    let taken: Vec<IpNet> = wanted
                        .others
                        .iter()
                        .map(|(net, _)| *net)
                        .chain(wanted.reserved.iter().copied())
                        .chain(own.iter().copied())
                        .collect();
                    let size = parsed.subnet.map(|s| s.prefix_len()).filter(|s| *s > 0);
                    wanted.pools.free(v6, size, &taken)?
                }
            };
            own.push(subnet);
            pool.subnet = subnet.to_string();
            if pool.gateway.is_empty() && wanted.gateways[usize::from(v6)] {
                pool.gateway = first(subnet, parsed.range).to_string();
            }
            out.push(pool);
        }
    }
    ipam.config = out;
    Ok(())
}

/// What this machine needs for itself: destinations on its links (of /proc/net/route) and its name servers.
pub(super) fn reserved(route: &str, resolv: &str) -> Vec<IpNet> {
    let hex = |text: &str| u32::from_str_radix(text, 16).ok().map(u32::from_be).map(Ipv4Addr::from);
    let routes = route.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (destination, router) = (hex(fields.next()?)?, hex(fields.next()?)?);
        let mask = hex(fields.nth(4)?)?;
        let net = Ipv4Net::with_netmask(destination, mask).ok()?;
        (net.prefix_len() > 0 && router.is_unspecified()).then_some(IpNet::V4(net))
    });
    let servers = crate::files::Resolv::parse(resolv).servers;
    routes.chain(servers.iter().filter_map(|s| s.parse::<IpAddr>().ok()).map(IpNet::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn pool(subnet: &str) -> IpamPool {
        IpamPool { subnet: subnet.into(), ..IpamPool::default() }
    }

    fn ipam(config: Vec<IpamPool>) -> Ipam {
        Ipam { config, ..Ipam::default() }
    }

    #[test]
    fn what_the_machine_uses() {
        let table = "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n\
                     eth0\t00000000\t010011AC\t0003\t0\t0\t0\t00000000\n\
                     eth0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\n\
                     eth0\t0000000A\t010011AC\t0003\t0\t0\t0\t000000FF\n";
        let got = reserved(table, "nameserver 192.168.1.1\n");
        assert_eq!(got, [net("172.17.0.0/16"), net("192.168.1.1/32")], "what lies behind a router is free");
        assert!(overlap(net("10.0.0.0/8"), net("10.1.0.0/16")));
        assert!(!overlap(net("10.0.0.0/16"), net("10.1.0.0/16")));
    }

    #[test]
    fn every_error_at_once() {
        let bad = IpamPool {
            ip_range: "10.2.0.0/16".into(),
            gateway: "10.9.0.1".into(),
            aux_addresses: [("x".to_owned(), "fd00::1".to_owned())].into(),
            ..pool("10.1.0.5/24")
        };
        let text = check(&ipam(vec![bad]), false).unwrap_err().to_string();
        assert_eq!(
            text,
            "invalid network config:\n* invalid subnet 10.1.0.5/24: it should be 10.1.0.0/24\n\
             * invalid ip-range 10.2.0.0/16: CIDR block is bigger than its parent subnet 10.1.0.5/24\n\
             * invalid ip-range 10.2.0.0/16: parent subnet 10.1.0.5/24 doesn't contain ip-range\n\
             * invalid gateway 10.9.0.1: parent subnet 10.1.0.5/24 doesn't contain this address\n\
             * invalid auxiliary address x: parent subnet is an IPv4 block"
        );
        assert!(check(&ipam(vec![pool("fd00::5/64")]), false).is_ok(), "no matter while IPv6 is off");
        assert!(check(&ipam(vec![pool("nonsense")]), false).is_err());
    }

    #[test]
    fn allocation() {
        let pools = AddressPools::standard().with_local6("some id");
        let others = [(net("172.17.0.0/16"), "bridge".to_owned())];
        let wanted =
            |v4, v6| Wanted { pools: &pools, v4, v6, gateways: [true; 2], others: &others, reserved: &[] };
        let mut both = ipam(vec![]);
        allocate(&mut both, &wanted(true, true)).unwrap();
        assert_eq!(
            (both.config[0].subnet.as_str(), both.config[0].gateway.as_str()),
            ("172.18.0.0/16", "172.18.0.1")
        );
        assert!(both.config[1].subnet.starts_with("fd") && both.config[1].subnet.ends_with("/64"));
        let mut six = ipam(vec![pool("10.1.0.0/16"), pool("fd00:1::/64")]);
        allocate(&mut six, &wanted(false, true)).unwrap();
        assert_eq!(six.config.len(), 1);
        assert_eq!(six.config[0].gateway, "fd00:1::1");
        let mut sized = ipam(vec![pool("0.0.0.0/24")]);
        allocate(&mut sized, &wanted(true, false)).unwrap();
        assert_eq!(sized.config[0].subnet, "172.18.0.0/24");
        let taken = allocate(&mut ipam(vec![pool("172.17.3.0/24")]), &wanted(true, false)).unwrap_err();
        assert_eq!(taken.status(), 403);
        let mut ranged = ipam(vec![IpamPool { ip_range: "10.1.5.0/24".into(), ..pool("10.1.0.0/16") }]);
        allocate(&mut ranged, &wanted(true, false)).unwrap();
        assert_eq!(ranged.config[0].gateway, "10.1.5.0");
        let large = AddressPools::new(vec![(net("10.0.0.0/8"), 24)]).unwrap();
        assert_eq!(
            large.free(false, None, &[net("10.0.0.0/9"), net("10.128.0.7/32")]).unwrap(),
            net("10.128.1.0/24")
        );
        let few = AddressPools::new(vec![(net("172.17.0.0/16"), 16)]).unwrap();
        assert!(few.free(false, None, &[net("172.17.0.0/16")]).is_err());
        assert!(AddressPools::new(vec![(net("172.17.0.0/16"), 8)]).is_err());
    }
}
