//! What a container's processes may do: capabilities, the system call filter, the kernel's files.

use std::collections::BTreeSet;

use oci_spec::runtime::{Capability, LinuxCapabilities};
use runtime::{SeccompProfile, defaults};

use crate::error::{Result, invalid};
use crate::model::HostConfig;

/// Whether the kernel's files are shown as they are (`--security-opt systempaths=unconfined`).
pub(crate) fn unmasked(host: &HostConfig) -> bool {
    host.privileged || security(host, "systempaths") == Some("unconfined")
}

/// A capability's name with `CAP_`; `None` is `ALL`.
pub(crate) fn capability(name: &str) -> Result<Option<String>> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if bare == "ALL" {
        return Ok(None);
    }
    match bare.parse::<Capability>() {
        Ok(_) => Ok(Some(format!("CAP_{bare}"))),
        Err(_) => Err(invalid(format!("unknown capability: \"{name}\""))),
    }
}

/// Docker's default set, changed by `--cap-add` and `--cap-drop`; everything if privileged.
pub(crate) fn capabilities(host: &HostConfig) -> Result<BTreeSet<String>> {
    if host.privileged {
        return Ok(defaults::all_capabilities().into_iter().collect());
    }
    let mut set: BTreeSet<String> = defaults::CAPABILITIES.iter().map(|c| (*c).to_owned()).collect();
    let all = |list: &[String]| list.iter().any(|c| matches!(capability(c), Ok(None)));
    if all(&host.cap_drop) {
        set.clear();
    }
    if all(&host.cap_add) {
        set = defaults::all_capabilities().into_iter().collect();
    }
    for name in &host.cap_drop {
        if let Some(c) = capability(name)? {
            set.remove(&c);
        }
    }
    for name in &host.cap_add {
        set.extend(capability(name)?);
    }
    Ok(set)
}

pub(super) fn linux_capabilities(host: &HostConfig) -> Result<LinuxCapabilities> {
    let names = capabilities(host)?;
    Ok(defaults::capabilities(names.iter().map(String::as_str)))
}

/// `--security-opt name=value` (or with a colon, as of old; or the name alone).
pub(super) fn security<'a>(host: &'a HostConfig, name: &str) -> Option<&'a str> {
    host.security_opt.iter().find_map(|option| {
        let rest = option.strip_prefix(name)?;
        if rest.is_empty() { Some("") } else { rest.strip_prefix(['=', ':']) }
    })
}

pub(super) fn seccomp(host: &HostConfig) -> Result<SeccompProfile> {
    if host.privileged {
        return Ok(SeccompProfile::Unconfined);
    }
    match security(host, "seccomp") {
        None | Some("builtin" | "") => Ok(SeccompProfile::Default),
        Some("unconfined") => Ok(SeccompProfile::Unconfined),
        Some(profile) => {
            serde_json::from_str::<serde_json::Value>(profile)
                .map_err(|e| invalid(format!("Decoding seccomp profile failed: {e}")))?;
            Ok(SeccompProfile::Docker(profile.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert!(capability("net_admin").unwrap().is_some());
        assert!(capability("ALL").unwrap().is_none());
        assert!(capability("fly").is_err());
    }

    #[test]
    fn capability_sets() {
        let set = |add: &[&str], drop: &[&str]| {
            let strings = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
            capabilities(&HostConfig {
                cap_add: strings(add),
                cap_drop: strings(drop),
                ..HostConfig::default()
            })
            .unwrap()
        };
        assert!(set(&[], &[]).contains("CAP_CHOWN"));
        assert!(!set(&[], &["CHOWN"]).contains("CAP_CHOWN"));
        assert_eq!(set(&["net_admin"], &["ALL"]), ["CAP_NET_ADMIN".to_owned()].into());
        assert_eq!(set(&["ALL"], &[]), runtime::defaults::all_capabilities().into_iter().collect());
    }
}
