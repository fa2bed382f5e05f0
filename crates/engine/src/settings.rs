//! The engine's settings: a `daemon.json` with Docker's keys in their meaning.
//!
//! Every key that Docker's daemon knows is in [`KEYS`], with what it means here: honoured, without effect because what
//! it asks for is always so or has no counterpart (told in the log), or refused with the reason, where ignoring it would
//! change what the user relies on. An unknown key is refused in Docker's words. What a running engine can change is
//! changed by [`Engine::reload`](crate::Engine::reload).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use serde_json::Value;

pub(crate) use bridge::DefaultBridge;
use keys::KEYS;
use keys::Meaning::{Always, Honoured, Idle, Refused};

use crate::AddressPools;
use crate::model::{HostConfig, Map, Ulimit};

mod bridge;
mod check;
mod keys;
mod reload;

/// A structure with what holds for each of its fields if nothing is said of it: what follows the equals sign, or the type's
/// own default.
macro_rules! with_defaults {
    (
        $(#[$about:meta])*
        pub struct $name:ident {
            $($(#[$note:meta])* pub $field:ident: $kind:ty $(= $value:expr)?,)*
        }
    ) => {
        $(#[$about])*
        pub struct $name {
            $($(#[$note])* pub $field: $kind,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: with_defaults!(@ $($value)?),)* }
            }
        }
    };
    (@) => { Default::default() };
    (@ $value:expr) => { $value };
}

with_defaults! {
    /// The settings. [`Settings::default`] is what holds without a file.
    #[derive(Debug, Clone, PartialEq, Deserialize)]
    #[serde(default, rename_all = "kebab-case")]
    #[allow(missing_docs)] // Each is the key of the same name in Docker's documentation.
    pub struct Settings {
        pub allow_direct_routing: bool,
        /// A bridge of somebody else's for the default network, or `none`.
        pub bridge: String,
        /// `MARK` or `MARK/MASK`
        pub bridge_accept_fwmark: String,
        pub bip: Option<Ipv4Net>,
        pub bip6: Option<Ipv6Net>,
        pub cdi_spec_dirs: Option<Vec<PathBuf>>,
        pub builder: crate::gc::Builder,
        pub cgroup_parent: String,
        pub data_root: Option<std::path::PathBuf>,
        pub debug: bool,
        pub default_address_pools: Vec<AddressPool>,
        pub default_cgroupns_mode: String,
        pub default_gateway: Option<Ipv4Addr>,
        pub default_gateway_v6: Option<Ipv6Addr>,
        pub default_ipc_mode: String,
        /// By driver.
        pub default_network_opts: BTreeMap<String, Map>,
        pub default_runtime: String,
        #[serde(deserialize_with = "size")]
        pub default_shm_size: u64,
        pub default_ulimits: BTreeMap<String, Ulimit>,
        /// Bytes; this engine's own key.
        #[serde(deserialize_with = "some_size")]
        pub disk_budget: Option<u64>,
        pub dns: Vec<IpAddr>,
        pub dns_opts: Vec<String>,
        pub dns_search: Vec<String>,
        pub exec_opts: Vec<String>,
        pub features: BTreeMap<String, bool>,
        pub fixed_cidr: Option<Ipv4Net>,
        pub fixed_cidr_v6: Option<Ipv6Net>,
        pub group: String = "docker".into(),
        pub host_gateway_ip: Option<IpAddr>,
        pub host_gateway_ips: Vec<IpAddr>,
        pub hosts: Vec<String>,
        pub http_proxy: String,
        pub https_proxy: String,
        pub icc: bool = true,
        pub init: bool,
        pub insecure_registries: Vec<String>,
        pub ip: IpAddr = IpAddr::from([0, 0, 0, 0]),
        pub ip_forward: bool = true,
        pub ip_forward_no_drop: bool,
        pub ip_masq: bool = true,
        pub ipv6: bool,
        pub labels: Vec<String>,
        pub log_driver: String = "json-file".into(),
        pub log_format: String,
        pub log_level: String,
        pub log_opts: Map,
        pub max_concurrent_downloads: i64,
        pub max_concurrent_uploads: i64,
        pub max_download_attempts: i64,
        pub metrics_addr: String,
        pub min_api_version: String,
        pub mtu: i64 = 1500,
        pub no_new_privileges: bool,
        pub no_proxy: String,
        pub oom_score_adjust: i32,
        pub pidfile: Option<PathBuf>,
        pub proxies: Proxies,
        pub registry_mirrors: Vec<String>,
        pub runtimes: BTreeMap<String, OtherRuntime>,
        pub seccomp_profile: String,
        pub shutdown_timeout: i64 = 15,
        pub storage_driver: String,
        pub storage_opts: Vec<String>,
        pub tls: Option<bool>,
        pub tlscacert: String,
        pub tlscert: String,
        pub tlskey: String,
        pub tlsverify: Option<bool>,
        pub userns_remap: String,
        /// The keys that the file gives, for telling conflicts with flags.
        #[serde(skip)]
        pub given: Vec<String>,
    }
}

/// How registries are reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
#[allow(missing_docs)] // Each is the key of the same name in Docker's documentation.
pub struct Proxies {
    pub http_proxy: String,
    pub https_proxy: String,
    pub no_proxy: String,
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

fn some_size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u64>, D::Error> {
    size(from).map(|n| Some(n).filter(|n| *n > 0))
}

/// `"64M"`, or a number of bytes.
pub(crate) fn size<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
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
        Settings::load_with(Some(path), &serde_json::Map::new())
    }

    /// A file, if there is one, and what flags say under the same keys; what both say is refused.
    pub fn load_with(
        path: Option<&Path>,
        flags: &serde_json::Map<String, Value>,
    ) -> Result<Settings, String> {
        let mut keys = serde_json::Map::new();
        if let Some(path) = path {
            let load = || -> Result<serde_json::Map<String, Value>, String> {
                let keys = read(&std::fs::read_to_string(path).map_err(|e| e.to_string())?)?;
                Settings::of(&keys, true)?;
                let both: Vec<(&str, String, String)> = flags
                    .iter()
                    .filter_map(|(k, flag)| Some((k.as_str(), plain(flag), plain(keys.get(k)?))))
                    .collect();
                if both.is_empty() { Ok(keys) } else { Err(Settings::conflict(&both)) }
            };
            keys = load().map_err(|e| {
                format!("unable to configure the Docker daemon with file {}: {e}", path.display())
            })?;
        }
        let given = keys.keys().cloned().collect();
        keys.extend(flags.clone());
        Ok(Settings { given, ..Settings::of(&keys, false)? })
    }

    /// Reads the text of a file; an empty one is no settings.
    pub fn parse(text: &str) -> Result<Settings, String> {
        Settings::of(&read(text)?, false)
    }

    /// `quiet` leaves out what the log is told.
    fn of(keys: &serde_json::Map<String, Value>, quiet: bool) -> Result<Settings, String> {
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
                Idle(_) if quiet => {}
                Idle(why) => tracing::info!("daemon.json: {key} has no effect: {why}"),
                Refused(why) if !nothing => return Err(format!("{key}: {why}")),
                Always(why) if !matches!(value, Value::Bool(true) | Value::Null) => {
                    return Err(format!("{key} must be true: {why}"));
                }
                Refused(_) | Always(_) => {}
            }
        }
        let features = keys.get("features").and_then(Value::as_object).into_iter().flatten();
        for (name, _) in features.filter(|(name, _)| !quiet && *name != "buildkit") {
            tracing::info!("daemon.json: features: {name} has no effect: there is no such feature here");
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

    /// How much goes to registries and comes from them at once; zero is the default.
    pub(crate) fn transfers(&self) -> image::RegistryConfig {
        let default = image::RegistryConfig::default();
        let or = |own: i64, default: usize| usize::try_from(own).ok().filter(|n| *n > 0).unwrap_or(default);
        image::RegistryConfig {
            downloads: or(self.max_concurrent_downloads, default.downloads),
            uploads: or(self.max_concurrent_uploads, default.uploads),
            attempts: u32::try_from(self.max_download_attempts)
                .ok()
                .filter(|n| *n > 0)
                .unwrap_or(default.attempts),
            ..default
        }
    }

    /// The packets that enter bridges by their mark: (value, mask).
    pub(crate) fn admitted(&self) -> Option<(u32, u32)> {
        let number = |text: &str| match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            Some(hex) => u32::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        };
        match self.bridge_accept_fwmark.split_once('/') {
            Some((value, mask)) => Some((number(value)?, number(mask)?)),
            None => Some((number(&self.bridge_accept_fwmark)?, u32::MAX)),
        }
    }

    /// Whether there is no default network (`bridge: none`).
    pub(crate) fn without_bridge(&self) -> bool {
        self.bridge == "none"
    }

    /// The bridge that the default network is on, if it is not one of the engine's own; an error is the option that must
    /// not be given with it.
    pub(crate) fn own_bridge(&self) -> Result<Option<&str>, &'static str> {
        match self.bridge.as_str() {
            "" => Ok(None),
            _ if self.bip.is_some() => Err("bip"),
            _ if self.bip6.is_some() => Err("bip6"),
            "none" => Ok(None),
            name => Ok(Some(name)),
        }
    }

    /// Whether a build is BuildKit's unless its client says otherwise.
    pub fn prefers_buildkit(&self) -> bool {
        self.features.get("buildkit").copied().unwrap_or(true)
    }

    /// The binary of a runtime by its name and the arguments that it gets first; `None` is the built-in one.
    pub(crate) fn runtime(&self, name: &str) -> crate::Result<Option<(PathBuf, Vec<String>)>> {
        let (path, args) = match self.runtimes.get(name) {
            Some(named) => (named.path.as_str(), named.runtime_args.clone()),
            None => (name, Vec::new()),
        };
        Ok(crate::runtimes::find(path)?.map(|binary| (binary, args)))
    }

    /// How registries are reached: as `proxies` says, or the keys and flags of the single ones.
    pub fn proxies(&self) -> Proxies {
        let or = |group: &str, single: &str| if group.is_empty() { single } else { group }.to_owned();
        Proxies {
            http_proxy: or(&self.proxies.http_proxy, &self.http_proxy),
            https_proxy: or(&self.proxies.https_proxy, &self.https_proxy),
            no_proxy: or(&self.proxies.no_proxy, &self.no_proxy),
        }
    }

    /// Where devices are described.
    pub(crate) fn cdi_dirs(&self) -> Vec<PathBuf> {
        self.cdi_spec_dirs.clone().unwrap_or_else(|| crate::cdi::FOLDERS.map(PathBuf::from).into())
    }

    /// The oldest API version that is answered.
    pub fn oldest_api(&self) -> (u32, u32) {
        api_version(&self.min_api_version).unwrap_or(crate::MIN_API_VERSION)
    }

    /// What `host-gateway` stands for, of one family.
    pub(crate) fn host_gateway(&self, v6: bool) -> Option<IpAddr> {
        self.host_gateway_ips.iter().copied().chain(self.host_gateway_ip).find(|a| a.is_ipv6() == v6)
    }

    /// The address of the default bridge, if the settings say one: `bip`, or the first address of `fixed-cidr`.
    pub fn bridge_address(&self) -> Option<Ipv4Net> {
        self.bip.or_else(|| bridge::gateway_of(self.fixed_cidr?))
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
        // Before anything else is made of it: a name that nobody knows is refused.
        self.runtime(&host.runtime)?;
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

/// A file's text as an object; an empty one has no keys.
fn read(text: &str) -> Result<serde_json::Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Ok(serde_json::Map::new());
    }
    match serde_json::from_str(text).map_err(|e| e.to_string())? {
        Value::Object(keys) => Ok(keys),
        _ => Err("the file must hold a JSON object".into()),
    }
}

/// A value as an error shows it.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `1.44`
fn api_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests;
