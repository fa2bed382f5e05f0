//! The engine's settings: a `daemon.json` with Docker's keys in their meaning.
//!
//! Every key that Docker's daemon knows is in [`KEYS`], with what it means here: honoured, without effect because what
//! it asks for is always so or has no counterpart (told in the log), or refused with the reason, where ignoring it would
//! change what the user relies on. An unknown key is refused in Docker's words. What a running engine can change is
//! changed by [`Engine::reload`](crate::Engine::reload).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};
use serde::Deserialize;
use serde_json::Value;

use crate::AddressPools;
use crate::model::{HostConfig, Map, Ulimit};

/// What a key means here.
enum Meaning {
    /// As with Docker.
    Honoured,
    /// Accepted without effect; why.
    Idle(&'static str),
    /// Refused unless it asks for nothing (empty, false); why, and what to do.
    Refused(&'static str),
    /// Refused unless it asks for what is always so (true); why.
    Always(&'static str),
}

use Meaning::{Always, Honoured, Idle, Refused};

/// Every key of Docker's daemon.json.
const KEYS: &[(&str, Meaning)] = &[
    ("allow-nondistributable-artifacts", Idle("images are pushed whole")),
    (
        "api-cors-header",
        Refused("answers to browsers of other origins are not given: put a proxy before the engine"),
    ),
    ("authorization-plugins", Refused("there are no authorization plugins: use TLS client certificates")),
    ("bip", Honoured),
    ("bip6", Refused("the default bridge has IPv4 only: use a network of your own with --ipv6")),
    ("bridge", Refused("the default bridge is the instance's own: set its address with bip")),
    ("bridge-accept-fwmark", Refused("packets by firewall mark are not let through: publish ports")),
    ("builder", Idle("the build cache is limited by docker builder prune")),
    ("cdi-spec-dirs", Refused("devices are described in /etc/cdi and /var/run/cdi")),
    ("cgroup-parent", Honoured),
    ("cluster-advertise", Refused("there is no swarm: use Kubernetes, which this engine has")),
    ("cluster-store", Refused("there is no swarm: use Kubernetes, which this engine has")),
    ("containerd", Idle("there is no containerd")),
    ("containerd-namespace", Idle("there is no containerd")),
    ("containerd-plugin-namespace", Idle("there is no containerd")),
    ("cpu-rt-period", Refused("real-time scheduling is not given to containers")),
    ("cpu-rt-runtime", Refused("real-time scheduling is not given to containers")),
    ("data-root", Honoured),
    ("debug", Honoured),
    ("default-address-pools", Honoured),
    ("default-cgroupns-mode", Honoured),
    ("default-gateway", Refused("the default bridge's gateway is bip")),
    ("default-gateway-v6", Refused("the default bridge has IPv4 only")),
    ("default-ipc-mode", Honoured),
    ("default-network-opts", Honoured),
    ("default-runtime", Honoured),
    ("default-shm-size", Honoured),
    ("default-ulimits", Honoured),
    ("deprecated-key-path", Idle("the engine has no such key")),
    ("dns", Honoured),
    ("dns-opts", Honoured),
    ("dns-search", Honoured),
    ("exec-opts", Honoured),
    ("exec-root", Idle("it is the run folder")),
    ("experimental", Idle("nothing here is experimental")),
    ("features", Idle("there are no features to choose from")),
    ("firewall-backend", Idle("it is nftables")),
    (
        "fixed-cidr",
        Refused("the default bridge gives all addresses of bip: use a network of your own with --ip-range"),
    ),
    ("fixed-cidr-v6", Refused("the default bridge has IPv4 only: use a network of your own with --ipv6")),
    ("group", Honoured),
    ("host-gateway-ip", Honoured),
    ("host-gateway-ips", Refused("give one address as host-gateway-ip")),
    ("hosts", Honoured),
    ("http-proxy", Refused("registries are reached directly: use registry-mirrors")),
    ("https-proxy", Refused("registries are reached directly: use registry-mirrors")),
    ("icc", Honoured),
    ("init", Honoured),
    ("init-path", Idle("the first process of --init is built in")),
    ("insecure-registries", Honoured),
    ("ip", Honoured),
    ("ip-forward", Always("containers cannot be reached without it")),
    ("ip-forward-no-drop", Idle("the machine's own forward policy is not changed")),
    ("ip-masq", Honoured),
    ("ip6tables", Idle("published ports of IPv6 networks need it")),
    ("iptables", Always("published ports need the engine's own nftables table, and it touches no other")),
    ("ipv6", Refused("the default bridge has IPv4 only: use a network of your own with --ipv6")),
    ("isolation", Refused("that is for Windows")),
    ("labels", Honoured),
    ("live-restore", Idle("containers always outlive the engine")),
    ("log-driver", Honoured),
    ("log-format", Idle("the engine's log is text")),
    ("log-level", Honoured),
    ("log-opts", Honoured),
    ("max-concurrent-downloads", Idle("layers come as fast as the registry gives them")),
    ("max-concurrent-uploads", Idle("layers go as fast as the registry takes them")),
    ("max-download-attempts", Idle("a broken download goes on where it broke off")),
    ("metrics-addr", Honoured),
    ("min-api-version", Idle("all versions from 1.24 on are served")),
    ("mtu", Honoured),
    ("network-control-plane-mtu", Idle("there is no swarm")),
    ("no-new-privileges", Honoured),
    ("no-proxy", Idle("registries are reached directly")),
    ("node-generic-resources", Idle("there is no swarm")),
    ("oom-score-adjust", Refused("set it where the engine is started, as with OOMScoreAdjust= of its unit")),
    ("pidfile", Idle("RUN-DIR/server.lock holds the process id")),
    ("proxies", Refused("registries are reached directly: use registry-mirrors")),
    ("raw-logs", Idle("the engine's log has no colours")),
    ("registry-mirrors", Honoured),
    ("rootless", Refused("the engine runs as root")),
    ("runtimes", Honoured),
    ("seccomp-profile", Honoured),
    ("selinux-enabled", Refused("containers get no SELinux labels")),
    (
        "shutdown-timeout",
        Idle("containers outlive the engine; tug down waits for each as long as it asks for"),
    ),
    ("storage-driver", Honoured),
    ("storage-opts", Refused("overlay2 has no options here")),
    ("swarm-default-advertise-addr", Idle("there is no swarm")),
    ("tls", Honoured),
    ("tlscacert", Honoured),
    ("tlscert", Honoured),
    ("tlskey", Honoured),
    ("tlsverify", Honoured),
    ("userland-proxy", Idle("ports are published without a process")),
    ("userland-proxy-path", Idle("ports are published without a process")),
    ("userns-remap", Refused("containers' ids are the machine's: run them as another user with --user")),
    ("validate", Idle("that is a flag")),
];

/// The settings. [`Settings::default`] is what holds without a file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
#[allow(missing_docs)] // Each is the key of the same name in Docker's documentation.
pub struct Settings {
    pub bip: Option<Ipv4Net>,
    pub cgroup_parent: String,
    pub data_root: Option<std::path::PathBuf>,
    pub debug: bool,
    pub default_address_pools: Vec<AddressPool>,
    pub default_cgroupns_mode: String,
    pub default_ipc_mode: String,
    /// By driver.
    pub default_network_opts: BTreeMap<String, Map>,
    pub default_runtime: String,
    #[serde(deserialize_with = "size")]
    pub default_shm_size: u64,
    pub default_ulimits: BTreeMap<String, Ulimit>,
    pub dns: Vec<IpAddr>,
    pub dns_opts: Vec<String>,
    pub dns_search: Vec<String>,
    pub exec_opts: Vec<String>,
    pub group: String,
    pub host_gateway_ip: Option<IpAddr>,
    pub hosts: Vec<String>,
    pub icc: bool,
    pub init: bool,
    pub insecure_registries: Vec<String>,
    pub ip: IpAddr,
    pub ip_masq: bool,
    pub labels: Vec<String>,
    pub log_driver: String,
    pub log_level: String,
    pub log_opts: Map,
    pub metrics_addr: String,
    pub mtu: u32,
    pub no_new_privileges: bool,
    pub registry_mirrors: Vec<String>,
    pub runtimes: BTreeMap<String, OtherRuntime>,
    pub seccomp_profile: String,
    pub storage_driver: String,
    pub tls: Option<bool>,
    pub tlscacert: String,
    pub tlscert: String,
    pub tlskey: String,
    pub tlsverify: Option<bool>,
    /// The keys that the file gives, for telling conflicts with flags.
    #[serde(skip)]
    pub given: Vec<String>,
}

/// Where networks get their subnets from, unless they name them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(rename_all(serialize = "PascalCase"))]
pub struct AddressPool {
    /// The whole block.
    pub base: IpNet,
    /// The prefix length of each network's part of it.
    pub size: u8,
}

/// An OCI runtime by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OtherRuntime {
    /// Its binary.
    pub path: String,
    /// Arguments before its own.
    pub runtime_args: Vec<String>,
    /// A containerd shim, which there is none of here.
    pub runtime_type: String,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            bip: None,
            cgroup_parent: String::new(),
            data_root: None,
            debug: false,
            default_address_pools: Vec::new(),
            default_cgroupns_mode: String::new(),
            default_ipc_mode: String::new(),
            default_network_opts: BTreeMap::new(),
            default_runtime: String::new(),
            default_shm_size: 0,
            default_ulimits: BTreeMap::new(),
            dns: Vec::new(),
            dns_opts: Vec::new(),
            dns_search: Vec::new(),
            exec_opts: Vec::new(),
            group: "docker".into(),
            host_gateway_ip: None,
            hosts: Vec::new(),
            icc: true,
            init: false,
            insecure_registries: Vec::new(),
            ip: IpAddr::from([0, 0, 0, 0]),
            ip_masq: true,
            labels: Vec::new(),
            log_driver: "json-file".into(),
            log_level: String::new(),
            log_opts: Map::new(),
            metrics_addr: String::new(),
            mtu: 1500,
            no_new_privileges: false,
            registry_mirrors: Vec::new(),
            runtimes: BTreeMap::new(),
            seccomp_profile: String::new(),
            storage_driver: String::new(),
            tls: None,
            tlscacert: String::new(),
            tlscert: String::new(),
            tlskey: String::new(),
            tlsverify: None,
            given: Vec::new(),
        }
    }
}

/// `"64M"`, or a number of bytes.
fn size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    use serde::de::Error as _;
    match Value::deserialize(from)? {
        Value::Number(n) => n.as_u64().ok_or_else(|| D::Error::custom(format!("invalid size: '{n}'"))),
        Value::String(text) => runtime::logs::drivers::binary_size(&text).map_err(D::Error::custom),
        other => Err(D::Error::custom(format!("invalid size: '{other}'"))),
    }
}

impl Settings {
    /// Reads a file. The error names it, in Docker's words.
    pub fn load(path: &Path) -> Result<Settings, String> {
        let failed =
            |e: String| format!("unable to configure the Docker daemon with file {}: {e}", path.display());
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        Settings::parse(&text).map_err(failed)
    }

    /// Reads the text of a file; an empty one is no settings.
    pub fn parse(text: &str) -> Result<Settings, String> {
        if text.trim().is_empty() {
            return Ok(Settings::default());
        }
        let document: Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
        let Value::Object(keys) = &document else { return Err("the file must hold a JSON object".into()) };
        let unknown: Vec<&str> =
            keys.keys().map(String::as_str).filter(|k| !KEYS.iter().any(|(known, _)| known == k)).collect();
        if !unknown.is_empty() {
            return Err(format!(
                "the following directives don't match any configuration option: {}",
                unknown.join(", ")
            ));
        }
        for (key, value) in keys {
            let Some((_, meaning)) = KEYS.iter().find(|(known, _)| known == key) else { continue };
            let nothing = match value {
                Value::Null | Value::Bool(false) => true,
                Value::String(s) => s.is_empty(),
                Value::Array(a) => a.is_empty(),
                Value::Object(o) => o.is_empty(),
                Value::Number(n) => n.as_f64() == Some(0.0),
                Value::Bool(true) => false,
            };
            match meaning {
                Honoured => {}
                Idle(why) => tracing::info!("daemon.json: {key} has no effect: {why}"),
                Refused(why) if !nothing => return Err(format!("{key}: {why}")),
                Always(why) if *value != Value::Bool(true) => {
                    return Err(format!("{key} must be true: {why}"));
                }
                Refused(_) | Always(_) => {}
            }
        }
        let given = keys.keys().cloned().collect();
        // A null is as good as nothing, as with Go.
        let document: serde_json::Map<String, Value> =
            keys.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (k.clone(), v.clone())).collect();
        let mut settings: Settings = serde_json::from_value(document.into()).map_err(|e| e.to_string())?;
        settings.given = given;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        for label in &self.labels {
            let mut same = self
                .labels
                .iter()
                .filter_map(|l| l.split_once('='))
                .filter(|(k, _)| label.starts_with(&format!("{k}=")));
            match label.split_once('=') {
                None | Some(("", _)) => return Err(format!("bad attribute format: {label}")),
                Some((key, value)) if same.any(|(_, other)| other != value) => {
                    return Err(format!("conflict labels for {key}={value}"));
                }
                Some(_) => {}
            }
        }
        self.address_pools().map_err(|e| e.to_string())?;
        for (name, runtime) in &self.runtimes {
            if ["tug", "runc", "io.containerd.runc.v2"].contains(&name.as_str()) {
                return Err(format!("runtime name '{name}' is reserved"));
            }
            if !runtime.runtime_type.is_empty() || runtime.path.is_empty() {
                return Err(format!("runtimes: {name}: give the path of an OCI runtime's binary"));
            }
            if !runtime.runtime_args.is_empty() {
                return Err(format!(
                    "runtimes: {name}: runtimeArgs are not supported: name a script that adds them"
                ));
            }
        }
        let known = ["", "tug", "runc", "io.containerd.runc.v2"];
        if !known.contains(&self.default_runtime.as_str())
            && !self.runtimes.contains_key(&self.default_runtime)
        {
            return Err(format!("specified default runtime '{}' does not exist", self.default_runtime));
        }
        for option in &self.exec_opts {
            match option.split_once('=').map(|(k, v)| (k.trim(), v.trim())) {
                Some(("native.cgroupdriver", "cgroupfs" | "")) => {}
                Some(("native.cgroupdriver", "systemd")) => {
                    return Err(
                        "exec-opts: cgroups are made directly: native.cgroupdriver must be cgroupfs".into()
                    );
                }
                Some(("native.cgroupdriver", other)) => {
                    return Err(format!(
                        "invalid cgroup driver: {other}. supported cgroup drivers: cgroupfs"
                    ));
                }
                Some((key, _)) => return Err(format!("invalid exec-opt {option}: unknown option {key}")),
                None => return Err(format!("unable to parse key/value option {option}")),
            }
        }
        if !matches!(self.storage_driver.as_str(), "" | "overlay2" | "overlayfs") {
            return Err(format!(
                "storage-driver: {}: layers are overlay mounts: use overlay2",
                self.storage_driver
            ));
        }
        if !matches!(self.default_ipc_mode.as_str(), "" | "private" | "shareable") {
            return Err(format!("IPC mode setting '{}' is invalid", self.default_ipc_mode));
        }
        if !matches!(self.default_cgroupns_mode.as_str(), "" | "private" | "host") {
            return Err(format!("default cgroup namespace mode ({}) is invalid", self.default_cgroupns_mode));
        }
        if !matches!(self.log_level.as_str(), "" | "debug" | "info" | "warn" | "error" | "fatal") {
            return Err(format!("invalid logging level: {}", self.log_level));
        }
        if !matches!(self.seccomp_profile.as_str(), "" | "builtin" | "unconfined") {
            std::fs::read_to_string(&self.seccomp_profile)
                .map_err(|e| format!("opening seccomp profile ({}) failed: {e}", self.seccomp_profile))?;
        }
        for mirror in &self.registry_mirrors {
            let plain = mirror.strip_prefix("https://").or_else(|| mirror.strip_prefix("http://"));
            let host = plain.map(|p| p.trim_end_matches('/')).filter(|h| !h.is_empty());
            if host.is_none_or(|h| h.contains(['/', '?', '#', '@'])) {
                return Err(format!("invalid mirror: {mirror:?}: it is http:// or https:// and a host"));
            }
        }
        for registry in &self.insecure_registries {
            if registry.contains("://") {
                return Err(format!("insecure registry {registry} should not contain '://'"));
            }
        }
        runtime::logs::drivers::validate(&self.log_driver, &self.log_opts)
    }

    /// Says in Docker's words that something is given both in the file and by flags: (key, flag's value, file's value).
    pub fn conflict(both: &[(&str, String, String)]) -> String {
        let list: Vec<String> = both
            .iter()
            .map(|(key, flag, file)| format!("{key}: (from flag: {flag}, from file: {file})"))
            .collect();
        format!(
            "the following directives are specified both as a flag and in the configuration file: {}",
            list.join(", ")
        )
    }

    /// Takes the keys over that a running engine can change.
    pub fn reloaded(&self, new: &Settings) -> Settings {
        Settings {
            debug: new.debug,
            default_runtime: new.default_runtime.clone(),
            insecure_registries: new.insecure_registries.clone(),
            labels: new.labels.clone(),
            registry_mirrors: new.registry_mirrors.clone(),
            runtimes: new.runtimes.clone(),
            ..self.clone()
        }
    }

    /// What the event of a reload tells.
    pub(crate) fn reload_attributes(&self) -> Map {
        Map::from(
            [
                ("name", crate::system::hostname()),
                ("debug", self.debug.to_string()),
                ("default-runtime", self.default_runtime().to_owned()),
                ("default-shm-size", self.default_shm_size.to_string()),
                ("default-ipc-mode", self.default_ipc_mode.clone()),
                ("insecure-registries", json(&self.insecure_registries)),
                ("labels", json(&self.labels)),
                ("live-restore", "true".to_owned()),
                ("registry-mirrors", json(&self.registry_mirrors)),
                ("runtimes", json(&self.runtimes.keys().collect::<Vec<_>>())),
            ]
            .map(|(k, v)| (k.to_owned(), v)),
        )
    }

    /// Whether the API may be reached over TCP by whoever can connect, for the warnings of `docker info`.
    pub(crate) fn exposed(&self) -> Vec<String> {
        let tcp = self.hosts.iter().filter(|h| h.starts_with("tcp://"));
        let risk = "Access to the remote API is equivalent to root access on the host. Refer to the 'Docker daemon attack surface' section in the documentation for more information: https://docs.docker.com/go/attack-surface/";
        match (self.tlsverify, self.tls) {
            (Some(true), _) => Vec::new(),
            (_, Some(true)) => {
                tcp.map(|h| format!("[DEPRECATION NOTICE]: API is accessible on {h} without client verification.\n         {risk}")).collect()
            }
            _ => tcp.map(|h| format!("[DEPRECATION NOTICE]: API is accessible on {h} without encryption.\n         {risk}")).collect(),
        }
    }

    /// The name of the runtime of containers that name none.
    pub fn default_runtime(&self) -> &str {
        if self.default_runtime.is_empty() { "tug" } else { &self.default_runtime }
    }

    /// Fills in what a request leaves to the settings.
    pub(crate) fn fill(&self, host: &mut HostConfig) -> crate::Result<()> {
        let log = &mut host.log_config;
        if log.driver.is_empty() {
            log.driver.clone_from(&self.log_driver);
        }
        for (key, value) in &self.log_opts {
            if log.driver == self.log_driver || key.starts_with("cache-") {
                log.config.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        let text = |own: &mut String, default: &str| {
            if own.is_empty() {
                default.clone_into(own);
            }
        };
        text(&mut host.ipc_mode, &self.default_ipc_mode);
        text(&mut host.cgroupns_mode, &self.default_cgroupns_mode);
        text(&mut host.cgroup_parent, &self.cgroup_parent);
        text(&mut host.runtime, self.default_runtime());
        if let Some(named) = self.runtimes.get(&host.runtime) {
            host.runtime.clone_from(&named.path);
        }
        if !host.network_mode.starts_with("container:") {
            if host.dns.is_empty() {
                host.dns = self.dns.iter().map(ToString::to_string).collect();
            }
            if host.dns_search.is_empty() {
                host.dns_search.clone_from(&self.dns_search);
            }
            if host.dns_options.is_empty() {
                host.dns_options.clone_from(&self.dns_opts);
            }
        }
        if host.shm_size == 0 {
            host.shm_size = i64::try_from(self.default_shm_size).unwrap_or(i64::MAX);
        }
        for (name, limit) in &self.default_ulimits {
            if !host.ulimits.iter().any(|own| own.name == *name) {
                host.ulimits.push(Ulimit { name: name.clone(), ..limit.clone() });
            }
        }
        if self.init && host.init.is_none() {
            host.init = Some(true);
        }
        let asked = |host: &HostConfig, what: &str| {
            host.security_opt.iter().any(|o| o.split(['=', ':']).next() == Some(what))
        };
        if self.no_new_privileges && !asked(host, "no-new-privileges") {
            host.security_opt.push("no-new-privileges".into());
        }
        if !matches!(self.seccomp_profile.as_str(), "" | "builtin")
            && !asked(host, "seccomp")
            && !host.privileged
        {
            let profile = match self.seccomp_profile.as_str() {
                "unconfined" => "unconfined".to_owned(),
                path => std::fs::read_to_string(path).map_err(crate::Error::io(path))?,
            };
            host.security_opt.push(format!("seccomp={profile}"));
        }
        Ok(())
    }
}

impl Settings {
    /// Where networks get their subnets from.
    pub(crate) fn address_pools(&self) -> crate::Result<AddressPools> {
        if self.default_address_pools.is_empty() {
            return Ok(AddressPools::standard());
        }
        AddressPools::new(self.default_address_pools.iter().map(|p| (p.base, p.size)).collect())
    }

    /// The options of the default bridge.
    pub(crate) fn bridge_options(&self) -> [(&'static str, String); 4] {
        [
            ("com.docker.network.bridge.enable_icc", self.icc.to_string()),
            ("com.docker.network.bridge.enable_ip_masquerade", self.ip_masq.to_string()),
            ("com.docker.network.bridge.host_binding_ipv4", self.ip.to_string()),
            ("com.docker.network.driver.mtu", self.mtu.to_string()),
        ]
    }
}

/// Lists and maps as the events' attributes have them.
fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals() {
        let refused = |text: &str| Settings::parse(text).unwrap_err();
        assert_eq!(
            refused(r#"{"debug": true, "colour": 1}"#),
            "the following directives don't match any configuration option: colour"
        );
        assert!(refused(r#"{"iptables": false}"#).contains("must be true"));
        assert!(refused(r#"{"selinux-enabled": true}"#).contains("SELinux"));
        assert!(refused(r#"{"log-driver": "splunk"}"#).contains("no log driver named 'splunk'"));
        assert!(refused(r#"{"log-opts": {"x": "1"}}"#).contains("unknown log opt 'x' for json-file"));
        assert!(
            refused(r#"{"default-runtime": "kata"}"#)
                .contains("specified default runtime 'kata' does not exist")
        );
        assert!(refused(r#"{"labels": ["a"]}"#).contains("bad attribute format: a"));
        assert!(refused(r#"{"labels": ["a=1", "a=2"]}"#).contains("conflict labels"));
        let pool = r#"{"default-address-pools": [{"base": "10.0.0.0/16", "size": 8}]}"#;
        assert!(refused(pool).contains("cannot be cut into subnets"));
        assert!(refused(r#"{"exec-opts": ["native.cgroupdriver=systemd"]}"#).contains("cgroupfs"));
        assert!(refused(r#"{"registry-mirrors": ["mirror"]}"#).contains("invalid mirror"));
        assert!(refused("[]").contains("object"));
        assert!(refused(r#"{"debug": "yes"}"#).contains("invalid type"));
        for fine in
            ["", "{}", r#"{"live-restore": false, "iptables": true, "selinux-enabled": false, "dns": null}"#]
        {
            Settings::parse(fine).unwrap();
        }
    }

    #[test]
    fn what_a_container_is_given() {
        let text = r#"{"log-driver": "local", "log-opts": {"max-size": "1m"}, "default-shm-size": "1M", "init": true,
            "default-ulimits": {"nofile": {"Name": "nofile", "Hard": 64000, "Soft": 64000}}, "no-new-privileges": true,
            "cgroup-parent": "/box", "default-ipc-mode": "shareable", "runtimes": {"crun": {"path": "/usr/bin/crun"}},
            "default-runtime": "crun"}"#;
        let settings = Settings::parse(text).unwrap();
        let mut host = HostConfig::default();
        settings.fill(&mut host).unwrap();
        assert_eq!(
            (host.log_config.driver.as_str(), host.log_config.config["max-size"].as_str()),
            ("local", "1m")
        );
        assert_eq!((host.shm_size, host.init, host.ulimits[0].hard), (1 << 20, Some(true), 64000));
        assert_eq!(
            (host.cgroup_parent.as_str(), host.ipc_mode.as_str(), host.runtime.as_str()),
            ("/box", "shareable", "/usr/bin/crun")
        );
        assert_eq!(host.security_opt, ["no-new-privileges"]);
        let mut own = HostConfig { shm_size: 7, init: Some(false), ..HostConfig::default() };
        own.log_config.driver = "json-file".into();
        settings.fill(&mut own).unwrap();
        assert_eq!((own.shm_size, own.init, own.log_config.config.len()), (7, Some(false), 0));
    }

    #[test]
    fn a_reload_changes_what_it_can() {
        let old = Settings::parse(r#"{"log-driver": "local", "labels": ["a=1"]}"#).unwrap();
        let new = Settings::parse(r#"{"log-driver": "none", "labels": ["a=2"], "debug": true}"#).unwrap();
        let now = old.reloaded(&new);
        assert_eq!((now.log_driver.as_str(), now.debug), ("local", true));
        assert_eq!(now.labels, ["a=2"]);
    }
}
