//! What every part of the kubelet works with: the options, the caches of objects, the places on disk.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use client::{Client, Informer, Informers, Recorder, gvr};
use ipnet::IpNet;
use network::Ipam;
use tokio_util::sync::CancellationToken;

use crate::Options;
use crate::env::{Facts, Sources};
use crate::machine::Machine;
use crate::pod::registry::Registry;
use crate::pulls::Pulls;
use crate::volumes::Tokens;

/// The pods' network on this node.
pub struct PodNetwork {
    /// Who has which address.
    pub ipam: Ipam,
    /// The node's own address in it, with its size.
    pub gateway: IpNet,
}

/// Shared by all tasks of one kubelet.
pub struct Context {
    /// As given to `run`.
    pub options: Options,
    /// The API.
    pub client: Client,
    /// Events.
    pub recorder: Recorder,
    /// ConfigMaps.
    pub config_maps: Arc<Informer>,
    /// Secrets.
    pub secrets: Arc<Informer>,
    /// Services.
    pub services: Arc<Informer>,
    /// What the machine has.
    pub machine: Machine,
    /// Service account tokens.
    pub tokens: Tokens,
    /// Images on their way.
    pub pulls: Pulls,
    /// The pods of this node.
    pub registry: Registry,
    /// Ends everything that belongs to this kubelet.
    pub shutdown: CancellationToken,
    /// Set once the node has its range.
    pub network: OnceLock<PodNetwork>,
}

impl Context {
    /// For these options.
    pub fn new(
        options: Options,
        client: Client,
        informers: &Informers,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let recorder = Recorder::new(client.clone(), "kubelet", &options.instance.node_name);
        let machine = Machine::here(&options.instance.data_dir);
        Arc::new(Self {
            recorder,
            config_maps: informers.of(&gvr::CONFIG_MAPS),
            secrets: informers.of(&gvr::SECRETS),
            services: informers.of(&gvr::SERVICES),
            machine,
            tokens: Tokens::default(),
            pulls: Pulls::default(),
            registry: Registry::default(),
            shutdown,
            network: OnceLock::new(),
            options,
            client,
        })
    }

    /// The node's name.
    pub fn node(&self) -> &str {
        &self.options.instance.node_name
    }

    /// The node's addresses.
    pub fn host_ips(&self) -> Vec<IpAddr> {
        vec![self.options.instance.node_ip]
    }

    /// What pods learn about their node and themselves.
    pub fn facts(&self, pod_ips: &[IpAddr]) -> Facts {
        Facts {
            node: self.node().to_owned(),
            host_ips: self.host_ips(),
            pod_ips: pod_ips.to_vec(),
            cpu_milli: self.machine.cpu_milli,
            memory: self.machine.memory,
        }
    }

    /// Where pods' folders are that last.
    pub fn durable_root(&self) -> PathBuf {
        self.options.instance.data_dir.join("kubelet/pods")
    }

    /// Where pods' folders are that a reboot takes.
    pub fn volatile_root(&self) -> PathBuf {
        self.options.instance.run_dir.join("kubelet/pods")
    }

    /// A pod's folder that lasts.
    pub fn durable(&self, uid: &str) -> PathBuf {
        self.durable_root().join(uid)
    }

    /// A pod's folder that a reboot takes.
    pub fn volatile(&self, uid: &str) -> PathBuf {
        self.volatile_root().join(uid)
    }

    /// The file that holds the id of a pod's sandbox once its network and files are complete. A sandbox that a daemon
    /// left half made is not named there.
    pub fn sandbox_mark(&self, uid: &str) -> PathBuf {
        self.volatile(uid).join("sandbox")
    }

    /// The log of one run of a container.
    pub fn log_path(&self, uid: &str, container: &str, attempt: u32) -> PathBuf {
        self.durable(uid).join("logs").join(container).join(format!("{attempt}.log"))
    }

    /// The objects of a namespace that environments and volumes refer to.
    pub fn sources<'a>(&'a self, namespace: &'a str) -> impl Sources + Send + Sync + 'a {
        Of { context: self, namespace }
    }

    /// The machine's resolv.conf; not the stub that only answers on the machine itself.
    pub fn host_resolv_conf(&self) -> String {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let own = read("/etc/resolv.conf");
        if own.lines().any(|l| l.trim() == "nameserver 127.0.0.53") {
            let real = read("/run/systemd/resolve/resolv.conf");
            if !real.is_empty() {
                return real;
            }
        }
        own
    }
}

struct Of<'a> {
    context: &'a Context,
    namespace: &'a str,
}

impl Sources for Of<'_> {
    fn config_map(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let object = self.context.config_maps.get(self.namespace, name)?;
        let mut out = BTreeMap::new();
        if let Some(data) = object.value()["data"].as_object() {
            out.extend(
                data.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().as_bytes().to_vec())),
            );
        }
        out.extend(decoded(&object.value()["binaryData"]));
        Some(out)
    }

    fn secret(&self, name: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let object = self.context.secrets.get(self.namespace, name)?;
        Some(decoded(&object.value()["data"]))
    }

    fn services(&self) -> Vec<Arc<api::Object>> {
        let mut list = Vec::new();
        if self.namespace != "default" {
            list.extend(self.context.services.get("default", "kubernetes"));
        }
        list.extend(self.context.services.list(self.namespace));
        list
    }
}

fn decoded(data: &serde_json::Value) -> BTreeMap<String, Vec<u8>> {
    let entries = data.as_object().into_iter().flatten();
    entries.filter_map(|(k, v)| Some((k.clone(), STANDARD.decode(v.as_str()?).ok()?))).collect()
}
