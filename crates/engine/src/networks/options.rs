//! What the options of a network's driver say, read once and checked.
//!
//! The words and the errors are the original's; unknown options are kept and have no meaning, as there.

use std::net::IpAddr;

use network::{Mode, Uplink};

use crate::error::{Result, invalid, system};
use crate::model::Map;

/// What kind of network it is, with what its options say.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Driver {
    Bridge(Bridge),
    Vlan(Vlan),
    /// The machine's own network.
    Host,
    /// No network; also what a configuration for other networks is.
    Null,
}

/// How packets reach a bridge's containers, for one family.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum GatewayMode {
    #[default]
    Nat,
    Unprotected,
    Routed,
    /// The bridge itself has no address.
    Isolated,
}

impl GatewayMode {
    pub(crate) fn mode(self) -> Mode {
        match self {
            GatewayMode::Nat | GatewayMode::Isolated => Mode::Nat,
            GatewayMode::Unprotected => Mode::Unprotected,
            GatewayMode::Routed => Mode::Routed,
        }
    }
}

/// Options of the driver `bridge`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bridge {
    /// The link's name, where it is not ours to choose.
    pub name: Option<String>,
    pub mtu: Option<u32>,
    pub masquerade: bool,
    pub icc: bool,
    /// The bridge gets no IPv4 address.
    pub inhibit_ipv4: bool,
    /// For IPv4 and IPv6.
    pub modes: [GatewayMode; 2],
    /// Where ports are published that name no address.
    pub binding: Option<IpAddr>,
    /// What the names of interfaces in containers begin with.
    pub prefix: String,
    /// The addresses under which containers leave this machine, for IPv4 and IPv6.
    pub leave_as: [Option<IpAddr>; 2],
    /// Links from which published ports may be reached at the containers' own addresses.
    pub trusted: Vec<String>,
}

/// Options of the drivers `macvlan` and `ipvlan`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vlan {
    /// The link they hang on; `None` is one that leads nowhere.
    pub parent: Option<String>,
    pub kind: VlanKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum VlanKind {
    /// IFLA_MACVLAN_MODE
    Macvlan(u32),
    /// IFLA_IPVLAN_MODE and IFLA_IPVLAN_FLAGS
    Ipvlan(u16, u16),
}

const PASSTHRU: u32 = 8;

impl Vlan {
    pub(crate) fn uplink(&self, parent: &str) -> Uplink {
        let parent = parent.to_owned();
        match self.kind {
            VlanKind::Macvlan(mode) => Uplink::Macvlan { parent, mode },
            VlanKind::Ipvlan(mode, flags) => Uplink::Ipvlan { parent, mode, flags },
        }
    }

    /// Whether packets for elsewhere go straight to the link, without a router.
    pub(crate) fn routes_itself(&self) -> bool {
        matches!(self.kind, VlanKind::Ipvlan(1 | 2, _))
    }

    /// Whether its interfaces have the parent's hardware address, and none of their own.
    pub(crate) fn shares_address(&self) -> bool {
        matches!(self.kind, VlanKind::Ipvlan(..))
    }

    /// Whether nobody else may hang on the same parent.
    pub(crate) fn exclusive(&self) -> bool {
        matches!(self.kind, VlanKind::Macvlan(PASSTHRU) | VlanKind::Ipvlan(..))
    }
}

/// Whether containers can be connected by this driver; `None` if there is none of that name.
pub(super) fn parse(driver: &str, options: &Map) -> Result<Option<Driver>> {
    Ok(Some(match driver {
        "bridge" => Driver::Bridge(bridge(options)?),
        "macvlan" => Driver::Vlan(macvlan(options)?),
        "ipvlan" => Driver::Vlan(ipvlan(options)?),
        "host" => Driver::Host,
        "null" => Driver::Null,
        _ => return Ok(None),
    }))
}

fn bridge(options: &Map) -> Result<Bridge> {
    let mut out = Bridge {
        name: None,
        mtu: None,
        masquerade: true,
        icc: true,
        inhibit_ipv4: false,
        modes: [GatewayMode::Nat; 2],
        binding: None,
        prefix: "eth".into(),
        leave_as: [None; 2],
        trusted: Vec::new(),
    };
    for (key, value) in options {
        let bad = |why: String| invalid(format!("failed to parse {key} value: {value} ({why})"));
        let flag = || truth(value).ok_or_else(|| bad(go_syntax("ParseBool", value)));
        let mode = || match value.as_str() {
            "nat" => Ok(GatewayMode::Nat),
            "nat-unprotected" => Ok(GatewayMode::Unprotected),
            "routed" => Ok(GatewayMode::Routed),
            "isolated" => Ok(GatewayMode::Isolated),
            other => Err(bad(format!("unknown gateway mode {other}"))),
        };
        let address = || value.parse::<IpAddr>().map_err(|_| bad("nil ip".into()));
        match key.as_str() {
            "com.docker.network.bridge.name" => out.name = Some(value.clone()).filter(|n| !n.is_empty()),
            "com.docker.network.driver.mtu" => {
                let mtu: i64 = value.parse().map_err(|_| bad(go_syntax("Atoi", value)))?;
                let mtu = u32::try_from(mtu).map_err(|_| invalid(format!("invalid MTU number: {mtu}")))?;
                out.mtu = Some(mtu).filter(|m| *m > 0);
            }
            "com.docker.network.bridge.enable_ip_masquerade" => out.masquerade = flag()?,
            "com.docker.network.bridge.enable_icc" => out.icc = flag()?,
            "com.docker.network.bridge.inhibit_ipv4" => out.inhibit_ipv4 = flag()?,
            "com.docker.network.bridge.default_bridge" => {
                flag()?;
            }
            "com.docker.network.bridge.gateway_mode_ipv4" => out.modes[0] = mode()?,
            "com.docker.network.bridge.gateway_mode_ipv6" => out.modes[1] = mode()?,
            "com.docker.network.bridge.host_binding_ipv4" => out.binding = Some(address()?),
            "com.docker.network.bridge.trusted_host_interfaces" => {
                out.trusted = value.split(':').filter(|n| !n.is_empty()).map(str::to_owned).collect();
            }
            "com.docker.network.container_iface_prefix" if !value.is_empty() => out.prefix.clone_from(value),
            "com.docker.network.host_ipv4" => out.leave_as[0] = Some(address()?).filter(IpAddr::is_ipv4),
            "com.docker.network.host_ipv6" => out.leave_as[1] = Some(address()?).filter(IpAddr::is_ipv6),
            _ => {}
        }
    }
    Ok(out)
}

fn parent(options: &Map, driver: &str) -> Result<Option<String>> {
    match options.get("parent").map(String::as_str) {
        Some("lo") => Err(system(format!("loopback interface is not a valid {driver} parent link"))),
        None | Some("") => Ok(None),
        Some(name) => Ok(Some(name.to_owned())),
    }
}

fn macvlan(options: &Map) -> Result<Vlan> {
    let mode = match options.get("macvlan_mode").map_or("", String::as_str) {
        "" | "bridge" => 4,
        "private" => 1,
        "vepa" => 2,
        "passthru" => PASSTHRU,
        other => {
            return Err(system(format!(
                "requested macvlan mode '{other}' is not valid, 'bridge' mode is the macvlan driver default"
            )));
        }
    };
    Ok(Vlan { parent: parent(options, "macvlan")?, kind: VlanKind::Macvlan(mode) })
}

fn ipvlan(options: &Map) -> Result<Vlan> {
    let mode = match options.get("ipvlan_mode").map_or("", String::as_str) {
        "" | "l2" => 0,
        "l3" => 1,
        "l3s" => 2,
        other => {
            return Err(system(format!(
                "requested ipvlan mode '{other}' is not valid, 'l2' mode is the ipvlan driver default"
            )));
        }
    };
    let flags = match options.get("ipvlan_flag").map_or("", String::as_str) {
        "" | "bridge" => 0,
        "private" => 1,
        "vepa" => 2,
        other => {
            return Err(system(format!(
                "requested ipvlan flag '{other}' is not valid, 'bridge' is the ipvlan driver default"
            )));
        }
    };
    Ok(Vlan { parent: parent(options, "ipvlan")?, kind: VlanKind::Ipvlan(mode, flags) })
}

/// The link and number that a VLAN link's name says: `eth0.10`.
pub(super) fn vlan(name: &str) -> Result<(String, u16)> {
    let bad = || system(format!("invalid subinterface vlan name {name}, example formatting is eth0.10"));
    let (of, id) = name.split_once('.').ok_or_else(bad)?;
    let id: i64 = id.parse().map_err(|_| bad())?;
    match u16::try_from(id) {
        Ok(id @ 1..=4094) if !of.is_empty() => Ok((of.to_owned(), id)),
        _ => Err(system(format!("vlan id must be between 1-4094, received: {id}"))),
    }
}

/// Go's `strconv.ParseBool`.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// The words of Go's `strconv` for what it cannot read.
fn go_syntax(function: &str, text: &str) -> String {
    format!("strconv.{function}: parsing \"{text}\": invalid syntax")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> Map {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn bridges() {
        let read = bridge(&map(&[
            ("com.docker.network.bridge.enable_icc", "false"),
            ("com.docker.network.driver.mtu", "1400"),
            ("com.docker.network.bridge.gateway_mode_ipv6", "routed"),
            ("com.docker.network.bridge.trusted_host_interfaces", "eth0:wg0"),
            ("com.docker.network.bridge.host_binding_ipv4", "127.0.0.1"),
            ("whatever", "x"),
        ]))
        .unwrap();
        assert!(!read.icc && read.masquerade);
        assert_eq!((read.mtu, read.modes), (Some(1400), [GatewayMode::Nat, GatewayMode::Routed]));
        assert_eq!(read.trusted, ["eth0", "wg0"]);
        assert!(read.binding.unwrap().is_loopback());
        let error = |key: &str, value: &str| bridge(&map(&[(key, value)])).unwrap_err();
        let bad = error("com.docker.network.bridge.enable_icc", "no");
        assert_eq!(
            (bad.status(), bad.to_string().as_str()),
            (
                400,
                "failed to parse com.docker.network.bridge.enable_icc value: no (strconv.ParseBool: parsing \"no\": invalid syntax)"
            )
        );
        assert_eq!(error("com.docker.network.driver.mtu", "-1").to_string(), "invalid MTU number: -1");
        assert!(error("com.docker.network.bridge.host_binding_ipv4", "x").to_string().contains("nil ip"));
    }

    #[test]
    fn vlans() {
        assert_eq!(vlan("eth0.10").unwrap(), ("eth0".into(), 10));
        for bad in ["eth0", "eth0.x", "eth0.4095", "eth0.0", ".7"] {
            assert!(vlan(bad).is_err(), "{bad}");
        }
        let l3 = ipvlan(&map(&[("ipvlan_mode", "l3s"), ("parent", "eth0")])).unwrap();
        assert!(l3.routes_itself() && l3.exclusive());
        assert_eq!(l3.parent.as_deref(), Some("eth0"));
        let plain = macvlan(&Map::new()).unwrap();
        assert_eq!((plain.parent.as_deref(), plain.exclusive()), (None, false));
        assert!(macvlan(&map(&[("parent", "lo")])).is_err());
        assert!(macvlan(&map(&[("macvlan_mode", "l2")])).is_err());
    }
}
