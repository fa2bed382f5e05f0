//! One instance of Tug on this machine: every path, port, address range, cgroup, bridge and table it may touch.
//!
//! Two instances with different run folders share no name, so that they can live side by side (each in a network
//! namespace of its own if both use the default ports and ranges).

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The default data folder.
pub const DATA_DIR: &str = "/var/lib/tug";
/// The default run folder.
pub const RUN_DIR: &str = "/run/tug";

/// The names and places of one instance. Built by the command line, read by everything else. The record that a server
/// leaves may be of another version: what it does not say is as by default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Instance {
    /// What must survive a reboot: images, containers' writable layers and logs, volumes, the object store, keys.
    pub data_dir: PathBuf,
    /// What must not: sockets, shims' state, mounts.
    pub run_dir: PathBuf,
    /// This machine's name in the cluster.
    pub node_name: String,
    /// The address under which other machines reach this node.
    pub node_ip: IpAddr,
    /// Where the API server listens (HTTPS).
    pub api_port: u16,
    /// Where the kubelet listens (HTTPS).
    pub kubelet_port: u16,
    /// The engine's socket.
    pub docker_socket: PathBuf,
    /// Pods' addresses, whole cluster; each node has a /24 of it.
    pub cluster_cidr: Ipv4Net,
    /// Services' addresses.
    pub service_cidr: Ipv4Net,
    /// The DNS suffix of the cluster.
    pub cluster_domain: String,
    /// Gateway address and size of the engine's default bridge.
    pub bridge_ip: Ipv4Net,
    /// Where the engine's networks get their subnets from: blocks, and the size that each is cut into. Empty for Docker's.
    #[serde(default)]
    pub address_pools: Vec<(IpNet, u8)>,
}

impl Default for Instance {
    fn default() -> Self {
        Self::new(Path::new(DATA_DIR), Path::new(RUN_DIR), "", Ipv4Addr::LOCALHOST.into())
    }
}

impl Instance {
    /// An instance with every default, in the given folders.
    pub fn new(data_dir: &Path, run_dir: &Path, node_name: &str, node_ip: IpAddr) -> Self {
        let net = |a: [u8; 4], len| Ipv4Net::new_assert(Ipv4Addr::from(a), len);
        Self {
            data_dir: data_dir.into(),
            run_dir: run_dir.into(),
            node_name: node_name.into(),
            node_ip,
            api_port: 6443,
            kubelet_port: 10250,
            docker_socket: run_dir.join("docker.sock"),
            cluster_cidr: net([10, 244, 0, 0], 16),
            service_cidr: net([10, 96, 0, 0], 12),
            cluster_domain: "cluster.local".into(),
            bridge_ip: net([172, 17, 0, 1], 16),
            address_pools: Vec::new(),
        }
    }

    /// Empty for the default instance, else a dash and six hexadecimal digits derived from the run folder.
    pub fn suffix(&self) -> String {
        if self.run_dir == Path::new(RUN_DIR) {
            return String::new();
        }
        let digest = Sha256::digest(self.run_dir.as_os_str().as_encoded_bytes());
        format!("-{}", hex::encode(&digest[..3]))
    }

    /// `tug` or `tug-1a2b3c`: the name of our nftables table and of the cgroup everything runs under.
    pub fn name(&self) -> String {
        format!("tug{}", self.suffix())
    }

    /// A network interface name of at most 15 bytes: `tug` + `kind` (at most 5 characters) + the suffix;
    /// `link("0")` is the engine's default bridge, `link("p")` the pods'.
    pub fn link(&self, kind: &str) -> String {
        let name = format!("tug{kind}{}", self.suffix());
        assert!(name.len() <= 15, "interface name {name} is longer than 15 bytes");
        name
    }

    /// The cgroup, relative to each hierarchy's root, below which every cgroup of this instance lies.
    pub fn cgroup_parent(&self) -> String {
        format!("/{}", self.name())
    }

    /// The address of the cluster's DNS server: the tenth of the services' range.
    pub fn dns_ip(&self) -> Ipv4Addr {
        nth(self.service_cidr, 10)
    }

    /// The address of the `kubernetes` Service: the first of the services' range.
    pub fn kubernetes_ip(&self) -> Ipv4Addr {
        nth(self.service_cidr, 1)
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir.join("kubeconfig")
    }

    /// The folder of keys and certificates.
    pub fn pki_dir(&self) -> PathBuf {
        self.data_dir.join("pki")
    }
}

/// The `n`th address of `net`, counted from its network address.
fn nth(net: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(net.network()) + n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_from_the_run_folder() {
        let ip = IpAddr::from([127, 0, 0, 1]);
        let a = Instance::new(Path::new(DATA_DIR), Path::new(RUN_DIR), "n", ip);
        assert_eq!((a.name().as_str(), a.link("0").as_str()), ("tug", "tug0"));
        assert_eq!(a.dns_ip(), Ipv4Addr::new(10, 96, 0, 10));
        assert_eq!(a.kubernetes_ip(), Ipv4Addr::new(10, 96, 0, 1));
        let b = Instance::new(Path::new("/a"), Path::new("/b"), "n", ip);
        assert_ne!(a.name(), b.name());
        assert!(b.link("br0").len() <= 15);
    }

    #[test]
    fn a_record_of_another_version_is_read() {
        let made: Instance =
            serde_json::from_str(r#"{"run-dir": "/r", "node-name": "n", "of-tomorrow": 1}"#).unwrap();
        assert_eq!((made.run_dir.as_path(), made.api_port), (Path::new("/r"), 6443));
    }
}
