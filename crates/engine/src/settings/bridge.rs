//! The addresses of the default bridge, as `bip`, `fixed-cidr`, `default-gateway`, `ipv6` and their kin say them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Settings;
use crate::model::{Ipam, IpamPool};

/// What the default bridge has when nothing says otherwise.
pub(super) const STANDARD: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 17, 0, 1), 16);

/// The default bridge's addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DefaultBridge {
    v4: IpamPool,
    /// None without IPv6; with one that names no subnet, the first free one is taken.
    v6: Option<IpamPool>,
}

/// The first address of a range, with its prefix.
pub(super) fn gateway_of(range: Ipv4Net) -> Option<Ipv4Net> {
    let first = range.trunc().hosts().next()?;
    Ipv4Net::new(first, range.prefix_len()).ok()
}

impl DefaultBridge {
    /// From the settings; `address` is the bridge's own.
    pub(crate) fn of(settings: &Settings, address: Ipv4Net) -> DefaultBridge {
        let mut v4 = IpamPool {
            subnet: address.trunc().to_string(),
            gateway: address.addr().to_string(),
            ip_range: settings.fixed_cidr.map_or(String::new(), |r| r.trunc().to_string()),
            ..IpamPool::default()
        };
        if let Some(router) = settings.default_gateway {
            v4.aux_addresses.insert("DefaultGatewayIPv4".into(), router.to_string());
        }
        let v6 = settings.ipv6.then(|| {
            let (own, range) = (settings.bip6, settings.fixed_cidr_v6.map(|r| r.trunc()));
            let subnet = own.map(|o| o.trunc()).or(range);
            let mut v6 = IpamPool {
                subnet: subnet.map_or(String::new(), |s| s.to_string()),
                gateway: own.map_or(String::new(), |o| o.addr().to_string()),
                ip_range: range.filter(|r| Some(*r) != subnet).map_or(String::new(), |r| r.to_string()),
                ..IpamPool::default()
            };
            if let Some(router) = settings.default_gateway_v6 {
                v6.aux_addresses.insert("DefaultGatewayIPv6".into(), router.to_string());
            }
            v6
        });
        DefaultBridge { v4, v6 }
    }

    /// Whether it has IPv6.
    pub(crate) fn ipv6(&self) -> bool {
        self.v6.is_some()
    }

    /// Refuses addresses that do not belong together. What lies outside of the bridge's subnet is told with both.
    pub(super) fn check(&self) -> Result<(), String> {
        let inside = |pool: &IpamPool, key: &str, text: &str, bip: &str| -> Result<(), String> {
            let Ok(subnet) = pool.subnet.parse::<IpNet>() else { return Ok(()) };
            let fits = match text.parse::<IpNet>() {
                Ok(range) => subnet.contains(&range),
                Err(_) => text.parse::<IpAddr>().is_ok_and(|a| subnet.contains(&a)),
            };
            match fits || text.is_empty() {
                true => Ok(()),
                false => {
                    Err(format!("{key} {text} is not in the default bridge's subnet {subnet}: see {bip}"))
                }
            }
        };
        let router = |pool: &IpamPool, key: &str| pool.aux_addresses.get(key).cloned().unwrap_or_default();
        inside(&self.v4, "fixed-cidr", &self.v4.ip_range, "bip")?;
        inside(&self.v4, "default-gateway", &router(&self.v4, "DefaultGatewayIPv4"), "bip")?;
        if let Some(v6) = &self.v6 {
            inside(v6, "fixed-cidr-v6", &v6.ip_range, "bip6")?;
            let router = router(v6, "DefaultGatewayIPv6");
            if v6.subnet.is_empty() && !router.is_empty() {
                return Err(format!(
                    "default-gateway-v6 {router} needs a subnet that it is in: give fixed-cidr-v6 or bip6"
                ));
            }
            inside(v6, "default-gateway-v6", &router, "bip6 and fixed-cidr-v6")?;
        }
        Ok(())
    }

    /// For the network's record. A subnet of IPv6 that nobody names is `found`, and stays once it is.
    pub(crate) fn ipam(
        &self,
        before: &Ipam,
        found: impl FnOnce() -> crate::Result<IpNet>,
    ) -> crate::Result<Ipam> {
        let mut config = vec![self.v4.clone()];
        if let Some(v6) = &self.v6 {
            let mut v6 = v6.clone();
            if v6.subnet.is_empty() {
                let kept = before.config.iter().find(|p| p.subnet.contains(':')).map(|p| p.subnet.clone());
                v6.subnet = match kept {
                    Some(subnet) => subnet,
                    None => found()?.to_string(),
                };
            }
            if let (true, Ok(subnet)) = (v6.gateway.is_empty(), v6.subnet.parse::<Ipv6Net>()) {
                v6.gateway = Ipv6Addr::from(u128::from(subnet.network()) + 1).to_string();
            }
            config.push(v6);
        }
        Ok(Ipam { driver: "default".into(), options: None, config })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(text: &str) -> Result<DefaultBridge, String> {
        Settings::parse(text).map(|s| DefaultBridge::of(&s, s.bridge_address().unwrap_or(STANDARD)))
    }

    fn pools(text: &str) -> Vec<IpamPool> {
        let free = || Ok("fd00:9::/64".parse().unwrap());
        bridge(text).unwrap().ipam(&Ipam::default(), free).unwrap().config
    }

    #[test]
    fn addresses() {
        let standard = pools("{}");
        assert_eq!((standard[0].subnet.as_str(), standard.len()), ("172.17.0.0/16", 1));
        let ranged =
            pools(r#"{"bip": "10.1.0.1/16", "fixed-cidr": "10.1.4.0/24", "default-gateway": "10.1.9.9"}"#);
        assert_eq!((ranged[0].gateway.as_str(), ranged[0].ip_range.as_str()), ("10.1.0.1", "10.1.4.0/24"));
        assert_eq!(ranged[0].aux_addresses["DefaultGatewayIPv4"], "10.1.9.9");
        let alone = pools(r#"{"fixed-cidr": "10.2.0.0/24"}"#);
        assert_eq!((alone[0].subnet.as_str(), alone[0].gateway.as_str()), ("10.2.0.0/24", "10.2.0.1"));
        let six = pools(r#"{"ipv6": true, "fixed-cidr-v6": "fd00:1::/80"}"#);
        assert_eq!(
            (six[1].subnet.as_str(), six[1].gateway.as_str(), six[1].ip_range.as_str()),
            ("fd00:1::/80", "fd00:1::1", "")
        );
        let own = pools(r#"{"ipv6": true, "bip6": "fd00:2::7/64", "fixed-cidr-v6": "fd00:2::1:0:0/96"}"#);
        assert_eq!(
            (own[1].subnet.as_str(), own[1].gateway.as_str(), own[1].ip_range.as_str()),
            ("fd00:2::/64", "fd00:2::7", "fd00:2::1:0:0/96")
        );
        assert_eq!(pools(r#"{"ipv6": true}"#)[1].gateway, "fd00:9::1");
    }

    #[test]
    fn a_subnet_that_was_found_stays() {
        let six = bridge(r#"{"ipv6": true}"#).unwrap();
        let first = six.ipam(&Ipam::default(), || Ok("fd00:9::/64".parse().unwrap())).unwrap();
        let again = six.ipam(&first, || panic!("it has one")).unwrap();
        assert_eq!(first, again);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        for (text, key) in [
            (r#"{"bip": "10.1.0.1/24", "fixed-cidr": "10.2.0.0/24"}"#, "fixed-cidr 10.2.0.0/24"),
            (r#"{"default-gateway": "10.9.9.9"}"#, "default-gateway 10.9.9.9"),
            (r#"{"ipv6": true, "default-gateway-v6": "fd00::1"}"#, "default-gateway-v6 fd00::1 needs"),
            (
                r#"{"ipv6": true, "fixed-cidr-v6": "fd00:1::/64", "default-gateway-v6": "fd00:2::1"}"#,
                "default-gateway-v6",
            ),
        ] {
            let error = bridge(text).unwrap_err();
            assert!(error.starts_with(key), "{error}");
        }
    }
}
