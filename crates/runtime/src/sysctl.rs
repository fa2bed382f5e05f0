//! Kernel parameters: which of them a namespace has of its own, and where they are below /proc/sys (sysctl(8)).

use std::path::PathBuf;

use oci_spec::runtime::LinuxNamespaceType;

/// The IPC namespace's parameters outside of `fs.mqueue` (ipc_namespaces(7)).
const IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The kind of namespace that has the parameter `name` of its own; none if the whole machine shares it, or if it is no
/// name of a parameter.
pub fn namespace(name: &str) -> Option<LinuxNamespaceType> {
    let path = path(name)?;
    let dotted = path.to_str()?.replace('/', ".");
    if dotted.starts_with("net.") {
        Some(LinuxNamespaceType::Network)
    } else if dotted.starts_with("fs.mqueue.") || IPC.contains(&dotted.as_str()) {
        Some(LinuxNamespaceType::Ipc)
    } else {
        None
    }
}

/// Where it is below /proc/sys. `net.ipv4.ip_forward` or `net/ipv4/ip_forward`: whichever separator comes first is it, the
/// other one stands for a dot in a name. None of what leads elsewhere.
pub(crate) fn path(name: &str) -> Option<PathBuf> {
    let path: String = match name.find(['.', '/']) {
        Some(at) if name.as_bytes().get(at) == Some(&b'.') => name
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect(),
        _ => name.to_owned(),
    };
    let plain = path.split('/').all(|part| !matches!(part, "" | "." | "..")) && !path.contains('\0');
    plain.then(|| path.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_to_one_parameter() {
        for (name, want) in [
            ("net.ipv4.ip_forward", Some("net/ipv4/ip_forward")),
            ("net/ipv4/conf/eth0.1/rp_filter", Some("net/ipv4/conf/eth0.1/rp_filter")),
            ("net.ipv4.conf.eth0/1.rp_filter", Some("net/ipv4/conf/eth0.1/rp_filter")),
            ("net.//.kernel.core_pattern", None),
            ("net/../kernel/core_pattern", None),
            ("net..x", None),
            ("/net", None),
            ("", None),
        ] {
            assert_eq!(path(name), want.map(PathBuf::from), "{name}");
        }
    }

    #[test]
    fn what_the_machine_shares_is_nobody_s() {
        let (net, ipc) = (Some(LinuxNamespaceType::Network), Some(LinuxNamespaceType::Ipc));
        for (name, want) in [
            ("net.ipv4.ip_forward", net),
            ("net/core/somaxconn", net),
            ("fs.mqueue.msg_max", ipc),
            ("kernel.sem", ipc),
            ("kernel/shmmax", ipc),
            ("kernel.core_pattern", None),
            ("vm.max_map_count", None),
            ("net.//.kernel.core_pattern", None),
            ("net", None),
        ] {
            assert_eq!(namespace(name), want, "{name}");
        }
    }
}
