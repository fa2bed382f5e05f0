//! What makes no sense in the settings is refused, in the original's words where it has some.

use super::{DefaultBridge, Settings, api_version, bridge};

impl Settings {
    pub(super) fn check(&self) -> Result<(), String> {
        // What a bridge of somebody else's has is only known when it is looked at.
        if self.own_bridge() == Ok(None) {
            DefaultBridge::of(self, self.bridge_address().unwrap_or(bridge::STANDARD)).check()?;
        }
        if !self.min_api_version.is_empty() {
            let version = api_version(&self.min_api_version)
                .ok_or_else(|| format!("invalid API version: {}", self.min_api_version))?;
            if !(crate::MIN_API_VERSION..=crate::API_VERSION).contains(&version) {
                let text = |v: (u32, u32)| format!("{}.{}", v.0, v.1);
                return Err(format!(
                    "min-api-version {}: this engine speaks the versions {} to {}",
                    self.min_api_version,
                    text(crate::MIN_API_VERSION),
                    text(crate::API_VERSION)
                ));
            }
        }
        for (what, number) in [
            ("default MTU", self.mtu),
            ("max concurrent downloads", self.max_concurrent_downloads),
            ("max concurrent uploads", self.max_concurrent_uploads),
            ("max download attempts", self.max_download_attempts),
        ] {
            if u32::try_from(number).is_err() {
                return Err(format!("invalid {what}: {number}"));
            }
        }
        if !matches!(self.log_format.as_str(), "" | "text" | "json") {
            return Err(format!("invalid log format: {}", self.log_format));
        }
        self.own_bridge().map_err(|option| {
            format!("You specified -b & --{option}, mutually exclusive options. Please specify only one")
        })?;
        if !self.bridge_accept_fwmark.is_empty() && self.admitted().is_none() {
            return Err(format!(
                "invalid bridge-accept-fwmark {}: it is MARK or MARK/MASK",
                self.bridge_accept_fwmark
            ));
        }
        crate::quota::default_size(&self.storage_opts)?;
        if !(-1000..=1000).contains(&self.oom_score_adjust) {
            return Err(format!("oom-score-adjust {}: it is -1000 to 1000", self.oom_score_adjust));
        }
        if self.host_gateway_ips.len() > 2
            || self.host_gateway_ips.iter().filter(|a| a.is_ipv4()).count() > 1
            || self.host_gateway_ips.iter().filter(|a| a.is_ipv6()).count() > 1
        {
            return Err("host-gateway-ips: only one IPv4 and one IPv6 address can be specified".into());
        }
        for (name, proxy) in
            [("http-proxy", self.proxies().http_proxy), ("https-proxy", self.proxies().https_proxy)]
        {
            let known = ["http://", "https://", "socks5://", "socks5h://"];
            if proxy.contains("://") && !known.iter().any(|k| proxy.starts_with(k)) {
                return Err(format!("invalid {name}: unsupported scheme: it is http://HOST:PORT"));
            }
        }
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
        self.builder.gc.check()?;
        for (name, runtime) in &self.runtimes {
            if ["tug", "runc", "io.containerd.runc.v2"].contains(&name.as_str()) {
                return Err(format!("runtime name '{name}' is reserved"));
            }
            if !runtime.runtime_type.is_empty() || runtime.path.is_empty() {
                return Err(format!("runtimes: {name}: give the path of an OCI runtime's binary"));
            }
        }
        let known = ["", "tug", "runc", "io.containerd.runc.v2"];
        if !known.contains(&self.default_runtime.as_str())
            && !self.runtimes.contains_key(&self.default_runtime)
        {
            return Err(format!("specified default runtime '{}' does not exist", self.default_runtime));
        }
        for option in &self.exec_opts {
            let pair = option.split_once('=').map(|(k, v)| (k.trim().to_ascii_lowercase(), v.trim()));
            match pair.as_ref().map(|(k, v)| (k.as_str(), *v)) {
                None | Some(("", _) | (_, "")) => {
                    return Err(format!("invalid exec-opt ({option}): must be formatted 'opt=value'"));
                }
                Some(("native.cgroupdriver", "cgroupfs")) => {}
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
                Some(("isolation", _)) => {
                    return Err(format!(
                        "invalid exec-opt ({option}): option 'isolation' is only supported on windows"
                    ));
                }
                Some((key, _)) => {
                    return Err(format!("invalid exec-opt ({option}): unknown option: '{key}'"));
                }
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
}
