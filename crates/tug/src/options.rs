//! The flags that say which instance is meant, and the instance that follows from them.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base::{Instance, fsx, instance};
use clap::Args;
use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Serialize};

use crate::cluster::Cluster;
use crate::datastore::Datastore;
use crate::server::Roles;

/// Which instance: its folders, names, ports and ranges.
#[derive(Debug, Clone, Args)]
pub struct Place {
    /// What must survive a reboot: images, containers, volumes, the cluster's objects, keys.
    #[arg(long, env = "TUG_DATA_DIR", default_value = instance::DATA_DIR)]
    pub data_dir: PathBuf,
    /// Sockets and the state of what runs.
    #[arg(long, env = "TUG_RUN_DIR", default_value = instance::RUN_DIR)]
    pub run_dir: PathBuf,
    /// This machine's name in the cluster [default: the host name].
    #[arg(long)]
    pub node_name: Option<String>,
    /// The address under which other machines reach this node [default: that of the default route].
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Where the API server listens.
    #[arg(long, default_value_t = 6443)]
    pub api_port: u16,
    /// Where the kubelet listens.
    #[arg(long, default_value_t = 10250)]
    pub kubelet_port: u16,
    /// The engine's socket [default: RUN-DIR/docker.sock].
    #[arg(long)]
    pub docker_socket: Option<PathBuf>,
    /// Pods' addresses.
    #[arg(long, default_value = "10.244.0.0/16")]
    pub cluster_cidr: Ipv4Net,
    /// Services' addresses.
    #[arg(long, default_value = "10.96.0.0/12")]
    pub service_cidr: Ipv4Net,
    /// The DNS suffix of the cluster.
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Address and size of the engine's default bridge [default: 172.17.0.1/16].
    #[arg(long)]
    pub bip: Option<Ipv4Net>,
    /// Where networks get their subnets from: base=CIDR,size=BITS; may be repeated [default: Docker's].
    #[arg(long, value_name = "base=CIDR,size=BITS", value_parser = address_pool)]
    pub default_address_pool: Vec<(IpNet, u8)>,
    /// Where Ingresses are served over HTTP; 0: nowhere, so that containers can publish port 80.
    #[arg(long, default_value_t = 0)]
    pub ingress_http_port: u16,
    /// Where Ingresses are served over HTTPS; 0: nowhere.
    #[arg(long, default_value_t = 0)]
    pub ingress_https_port: u16,
    /// Where this node's own registry listens, on the loopback; 0: nowhere.
    #[arg(long, default_value_t = 5000)]
    pub registry_port: u16,
    /// A mirror of Docker Hub to ask first, as https://HOST; may be given several times.
    #[arg(long)]
    pub registry_mirror: Vec<String>,
    /// A registry (HOST:PORT) or range of addresses to speak to without TLS, or whatever its certificate.
    #[arg(long)]
    pub insecure_registry: Vec<String>,
    /// Where the cluster's objects are kept.
    #[command(flatten)]
    pub datastore: Datastore,
    /// Which parts of the cluster run, and like which release.
    #[command(flatten)]
    pub cluster: Cluster,
    /// The engine's settings.
    #[command(flatten)]
    pub engine: crate::daemon::Flags,
}

impl Place {
    /// The default flags with other folders.
    pub fn in_folders(data_dir: &Path, run_dir: &Path) -> Self {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            place: Place,
        }
        let arguments = [
            "tug".as_ref(),
            "--data-dir".as_ref(),
            data_dir.as_os_str(),
            "--run-dir".as_ref(),
            run_dir.as_os_str(),
        ];
        <Only as clap::Parser>::parse_from(arguments).place
    }

    /// The instance that these flags describe.
    pub fn instance(&self) -> Result<Instance> {
        let absolute = |p: &Path| std::path::absolute(p).with_context(|| format!("folder {}", p.display()));
        let (data_dir, run_dir) = (absolute(&self.data_dir)?, absolute(&self.run_dir)?);
        let node_name = match &self.node_name {
            Some(name) => name.clone(),
            None => rustix::system::uname().nodename().to_string_lossy().to_ascii_lowercase(),
        };
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if node_name.is_empty() || node_name.len() > 253 || !node_name.chars().all(legal) {
            bail!(
                "--node-name {node_name:?}: lower-case letters, digits, '-' and '.' make a node's name; give another"
            );
        }
        for (flag, net, least) in
            [("--cluster-cidr", self.cluster_cidr, 24), ("--service-cidr", self.service_cidr, 28)]
        {
            if net.prefix_len() > least {
                bail!("{flag} {net}: too small; a /{least} or larger range is needed");
            }
        }
        apart(&self.cluster_cidr, &self.service_cidr, "--cluster-cidr and --service-cidr")?;
        let mut made = Instance::new(
            &data_dir,
            &run_dir,
            &node_name,
            self.node_ip.unwrap_or_else(|| node_ip(self.cluster_cidr)),
        );
        made.api_port = self.api_port;
        made.kubelet_port = self.kubelet_port;
        if let Some(socket) = &self.docker_socket {
            made.docker_socket = absolute(socket)?;
        }
        made.cluster_cidr = self.cluster_cidr.trunc();
        made.service_cidr = self.service_cidr.trunc();
        made.cluster_domain = self.cluster_domain.clone();
        made.bridge_ip = self.bip.unwrap_or(made.bridge_ip);
        apart(&made.cluster_cidr, &made.bridge_ip, "--cluster-cidr and --bip")?;
        apart(&made.service_cidr, &made.bridge_ip, "--service-cidr and --bip")?;
        made.address_pools.clone_from(&self.default_address_pool);
        Ok(made)
    }

    /// The instance and its engine's settings, from the flags and from daemon.json.
    pub fn configured(&self) -> Result<(Instance, engine::Settings)> {
        let made = self.instance()?;
        let (mirrors, insecure) = (&self.registry_mirror, &self.insecure_registry);
        let settings = self.engine.settings(&made.data_dir, self.bip, mirrors, insecure)?;
        if !self.default_address_pool.is_empty() && !settings.default_address_pools.is_empty() {
            bail!("--default-address-pool and default-address-pools in daemon.json are both given; keep one");
        }
        match settings.bridge_address().filter(|_| self.bip.is_none()) {
            Some(bip) => Ok((Self { bip: Some(bip), ..self.clone() }.instance()?, settings)),
            None => Ok((made, settings)),
        }
    }

    /// The instance as its server wrote it down when it started, if it ever did since the last boot.
    pub fn running(&self) -> Result<Option<Instance>> {
        Ok(self.record()?.map(|r| r.instance))
    }

    /// The same with what it runs.
    pub fn record(&self) -> Result<Option<Record>> {
        let path = record(&std::path::absolute(&self.run_dir)?);
        match fs::read(&path) {
            Ok(bytes) => {
                Ok(Some(serde_json::from_slice(&bytes).with_context(|| path.display().to_string())?))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e).with_context(|| path.display().to_string()),
        }
    }

    /// The flags that make another process mean the same instance.
    pub fn to_arguments(&self) -> Vec<std::ffi::OsString> {
        let mut a: Vec<std::ffi::OsString> = Vec::new();
        let mut flag = |name: &str, value: std::ffi::OsString| a.extend([name.into(), value]);
        flag("--data-dir", self.data_dir.clone().into());
        flag("--run-dir", self.run_dir.clone().into());
        if let Some(name) = &self.node_name {
            flag("--node-name", name.into());
        }
        if let Some(ip) = &self.node_ip {
            flag("--node-ip", ip.to_string().into());
        }
        flag("--api-port", self.api_port.to_string().into());
        flag("--kubelet-port", self.kubelet_port.to_string().into());
        if let Some(socket) = &self.docker_socket {
            flag("--docker-socket", socket.clone().into());
        }
        flag("--cluster-cidr", self.cluster_cidr.to_string().into());
        flag("--service-cidr", self.service_cidr.to_string().into());
        flag("--cluster-domain", self.cluster_domain.clone().into());
        if let Some(bip) = &self.bip {
            flag("--bip", bip.to_string().into());
        }
        for (base, size) in &self.default_address_pool {
            flag("--default-address-pool", format!("base={base},size={size}").into());
        }
        flag("--ingress-http-port", self.ingress_http_port.to_string().into());
        flag("--ingress-https-port", self.ingress_https_port.to_string().into());
        flag("--registry-port", self.registry_port.to_string().into());
        for mirror in &self.registry_mirror {
            flag("--registry-mirror", mirror.into());
        }
        for host in &self.insecure_registry {
            flag("--insecure-registry", host.into());
        }
        a.extend(self.datastore.to_arguments());
        a.extend(self.cluster.to_arguments());
        a.extend(self.engine.to_arguments());
        a
    }
}

/// `base=10.10.0.0/16,size=24`
fn address_pool(text: &str) -> Result<(IpNet, u8), String> {
    let (mut base, mut size) = (None, None);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("base", net)) => base = Some(net.parse::<IpNet>().map_err(|e| format!("base {net}: {e}"))?),
            Some(("size", bits)) => size = Some(bits.parse().map_err(|e| format!("size {bits}: {e}"))?),
            _ => return Err(format!("{part}: use base=CIDR,size=BITS")),
        }
    }
    let (Some(base), Some(size)) = (base, size) else { return Err("use base=CIDR,size=BITS".into()) };
    if base != base.trunc() || size < base.prefix_len() || size > base.max_prefix_len() {
        return Err(format!("{base} cannot be cut into subnets of size /{size}"));
    }
    Ok((base, size))
}

/// Two ranges must not overlap.
fn apart(a: &Ipv4Net, b: &Ipv4Net, names: &str) -> Result<()> {
    if a.contains(&b.network()) || b.contains(&a.network()) {
        bail!("{names} overlap ({a} and {b}); give ranges that do not");
    }
    Ok(())
}

/// What a server says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// What it was started with.
    #[serde(flatten)]
    pub instance: Instance,
    /// There is an engine only, no cluster.
    #[serde(default)]
    pub engine_only: bool,
}

/// Writes down what a server was started with, for `env`, `status` and `down`.
pub fn write_record(made: &Instance, roles: Roles) -> Result<()> {
    let path = record(&made.run_dir);
    let said = Record { instance: made.clone(), engine_only: roles == Roles::Engine };
    fsx::write_volatile(&path, &serde_json::to_vec_pretty(&said)?, 0o644)
        .with_context(|| path.display().to_string())
}

fn record(run_dir: &Path) -> PathBuf {
    run_dir.join("instance.json")
}

/// The address of the interface with the default route, else of any other, else the pod bridge's own:
/// a node needs one that its pods can reach, and that is never the loopback's.
fn node_ip(cluster_cidr: Ipv4Net) -> IpAddr {
    // Connecting a datagram socket sends nothing: it only asks the kernel which source address it would use.
    let routed = std::net::UdpSocket::bind("0.0.0.0:0").and_then(|s| {
        s.connect("198.51.100.1:9")?;
        s.local_addr()
    });
    if let Ok(address) = routed
        && !address.ip().is_loopback()
    {
        return address.ip();
    }
    let usable = |ip: &Ipv4Addr| !ip.is_loopback() && !ip.is_link_local() && !cluster_cidr.contains(ip);
    nix::ifaddrs::getifaddrs()
        .into_iter()
        .flatten()
        .filter_map(|i| i.address?.as_sockaddr_in().map(|a| a.ip()))
        .find(usable)
        .unwrap_or_else(|| Ipv4Addr::from(u32::from(cluster_cidr.network()) + 1))
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Component;

    fn place() -> Place {
        Place::in_folders(Path::new("/tmp/a"), Path::new("/tmp/b"))
    }

    #[test]
    fn ranges_must_not_overlap() {
        let mut p = place();
        p.service_cidr = "10.244.0.0/16".parse().unwrap();
        let e = p.instance().unwrap_err().to_string();
        assert!(e.contains("--cluster-cidr and --service-cidr overlap"), "{e}");
    }

    #[test]
    fn names_are_checked() {
        let mut p = place();
        p.node_name = Some("Bad_Name".into());
        assert!(p.instance().unwrap_err().to_string().contains("--node-name"));
    }

    #[test]
    fn arguments_mean_the_same_instance() {
        #[derive(clap::Parser)]
        struct Only {
            #[command(flatten)]
            place: Place,
        }
        let mut p = place();
        p.api_port = 7000;
        p.registry_mirror = vec!["https://m".into()];
        p.default_address_pool = vec![address_pool("base=10.9.0.0/16,size=24").unwrap()];
        p.node_name = Some("n1".into());
        p.node_ip = Some([192, 0, 2, 7].into());
        p.cluster.emulated_version = api::Release::OLDEST;
        p.cluster.anonymous_auth = false;
        p.cluster.disable = vec![Component::Scheduler, Component::ControllerManager];
        p.bip = Some("10.1.0.1/24".parse().unwrap());
        p.engine.tls = Some(false);
        p.engine.host = vec!["tcp://127.0.0.1:2375".into()];
        let arguments = std::iter::once("tug".into()).chain(p.to_arguments());
        let again = <Only as clap::Parser>::try_parse_from(arguments).unwrap().place;
        assert_eq!(p.instance().unwrap(), again.instance().unwrap());
        assert_eq!(again.registry_mirror, ["https://m"]);
        assert_eq!(again.cluster.emulated_version, p.cluster.emulated_version);
        assert!(!again.cluster.anonymous_auth);
        assert!(!again.cluster.has(Component::Scheduler) && again.cluster.has(Component::Kubelet));
        assert_eq!((p.engine.tls, p.engine.host), (again.engine.tls, again.engine.host));
    }
}
