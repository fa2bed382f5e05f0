//! Checking what is asked of one connection of a container to a network.

use std::net::IpAddr;

use super::{Net, PREDEFINED, pools::joined};
use crate::error::{Result, invalid};
use crate::model::EndpointSettings;

/// Kernel parameters of a container's interface, as a driver option: `net.ipv4.conf.IFNAME.forwarding=1,...`
const PARAMETERS: &str = "com.docker.network.endpoint.sysctls";
/// The interface's name in the container.
const NAME: &str = "com.docker.network.endpoint.ifname";

/// Checks what is asked of one connection to a network, which may not exist yet.
pub(crate) fn check_endpoint(name: &str, net: Option<&Net>, settings: &EndpointSettings) -> Result<()> {
    let ipam = settings.ipam_config.clone().unwrap_or_default();
    let mut errors = Vec::new();
    if PREDEFINED.contains(&name) {
        if !ipam.ipv4_address.is_empty() || !ipam.ipv6_address.is_empty() {
            errors.push("user-specified IP address is supported on user-defined networks only".to_owned());
        }
        if !settings.aliases.is_empty() {
            errors.push("network-scoped aliases are only supported for user-defined networks".to_owned());
        }
    }
    for (text, v6) in [(&ipam.ipv4_address, false), (&ipam.ipv6_address, true)] {
        if text.is_empty() {
            continue;
        }
        let family = if v6 { "IPv6" } else { "IPv4" };
        let address = text.parse::<IpAddr>().ok().filter(|a| a.is_ipv6() == v6 && !a.is_unspecified());
        match (address, net) {
            (None, _) => errors.push(format!("invalid {family} address: {text}")),
            (Some(address), Some(net)) if net.pool_of(address).is_none() => {
                errors.push(format!("no configured subnet contains IP address {address}"));
            }
            _ => {}
        }
    }
    for text in &ipam.link_local_ips {
        if !text.parse::<IpAddr>().is_ok_and(|a| !a.is_unspecified()) {
            errors.push(format!("invalid link-local IP address: {text}"));
        }
    }
    for option in options(settings) {
        let parts: Vec<&str> = option.splitn(5, '.').collect();
        let known = matches!(parts.as_slice(), [_, "ipv4" | "ipv6" | "mpls", _, "IFNAME" | "ifname", _]);
        if !known || !option.contains('=') {
            errors.push(format!(
                "unrecognised network interface sysctl '{option}'; represent 'net.X.Y.ethN.Z=V' as 'net.X.Y.IFNAME.Z=V', 'X' must be 'ipv4', 'ipv6' or 'mpls'"
            ));
        }
    }
    if let Some(name) = interface_name(settings)
        && (name.is_empty()
            || name.len() > 15
            || name.contains(['/', ' ', ':'])
            || matches!(name, "." | ".." | "lo"))
    {
        errors.push(format!(
            "invalid interface name {name:?}: 1 to 15 bytes without spaces, slashes and colons"
        ));
    }
    joined("invalid endpoint settings", &errors)?;
    if !settings.mac_address.is_empty() && mac(&settings.mac_address).is_none() {
        return Err(invalid(format!("invalid MAC address: {}", settings.mac_address)));
    }
    Ok(())
}

fn options(settings: &EndpointSettings) -> impl Iterator<Item = &str> {
    settings
        .driver_opts
        .get(PARAMETERS)
        .into_iter()
        .flat_map(|list| list.split(','))
        .filter(|o| !o.is_empty())
}

/// The name that is asked for the interface.
pub(crate) fn interface_name(settings: &EndpointSettings) -> Option<&str> {
    settings.driver_opts.get(NAME).map(String::as_str)
}

/// The kernel parameters asked for, for an interface of that name.
pub(crate) fn interface_parameters(settings: &EndpointSettings, ifname: &str) -> Vec<(String, String)> {
    let slashed = ifname.replace('.', "/");
    options(settings)
        .filter_map(|option| option.split_once('='))
        .map(|(key, value)| {
            let key = key.replacen(".IFNAME.", &format!(".{slashed}."), 1);
            (key.replacen(".ifname.", &format!(".{slashed}."), 1), value.to_owned())
        })
        .collect()
}

/// `02:42:ac:11:00:02`
pub(crate) fn mac(text: &str) -> Option<[u8; 6]> {
    let mut out = [0; 6];
    let mut parts = text.split([':', '-']);
    for byte in &mut out {
        let part = parts.next()?;
        *byte = u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2)?;
    }
    parts.next().is_none().then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EndpointIpam;

    #[test]
    fn hardware_addresses() {
        assert_eq!(mac("02:42:ac:11:00:02"), Some([2, 0x42, 0xac, 0x11, 0, 2]));
        assert_eq!(mac("02:42"), None);
        assert_eq!(mac("02:42:ac:11:00:02:03"), None);
    }

    #[test]
    fn settings_are_checked_together() {
        let fixed = |v4: &str, v6: &str| EndpointSettings {
            ipam_config: Some(EndpointIpam {
                ipv4_address: v4.into(),
                ipv6_address: v6.into(),
                ..EndpointIpam::default()
            }),
            ..EndpointSettings::default()
        };
        assert!(check_endpoint("n1", None, &fixed("10.0.0.5", "fd00::5")).is_ok());
        let bad = check_endpoint("bridge", None, &fixed("fd00::5", "")).unwrap_err().to_string();
        assert_eq!(
            bad,
            "invalid endpoint settings:\n* user-specified IP address is supported on user-defined networks only\n\
             * invalid IPv4 address: fd00::5"
        );
        let mut settings = EndpointSettings::default();
        settings.driver_opts.insert(PARAMETERS.into(), "net.ipv4.conf.IFNAME.log_martians=1".into());
        assert!(check_endpoint("n1", None, &settings).is_ok());
        assert_eq!(
            interface_parameters(&settings, "eth0.5"),
            [("net.ipv4.conf.eth0/5.log_martians".to_owned(), "1".to_owned())]
        );
        settings.driver_opts.insert(PARAMETERS.into(), "net.ipv4.conf.eth0.log_martians=1".into());
        assert!(check_endpoint("n1", None, &settings).is_err());
        settings.driver_opts.clear();
        settings.driver_opts.insert(NAME.into(), "a name of many bytes".into());
        assert!(check_endpoint("n1", None, &settings).is_err());
    }
}
