//! `info`, `version` and `system df`.

use std::path::Path;
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::Engine;
use crate::container::Phase;
use crate::error::Result;
use crate::{API_VERSION, spec};

/// This machine's host name.
pub(crate) fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// What the kernel offers; the files do not change while the machine runs.
struct Machine {
    operating_system: String,
    os_version: String,
    total_memory: u64,
}

fn machine() -> &'static Machine {
    static MACHINE: OnceLock<Machine> = OnceLock::new();
    MACHINE.get_or_init(|| {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let field = |key: &str| {
            release
                .lines()
                .find_map(|l| l.strip_prefix(key)?.strip_prefix('='))
                .map(|v| v.trim_matches('"').to_owned())
                .unwrap_or_default()
        };
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = memory
            .lines()
            .find_map(|l| l.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse::<u64>().ok());
        Machine {
            operating_system: field("PRETTY_NAME"),
            os_version: field("VERSION_ID"),
            total_memory: kib.unwrap_or(0) * 1024,
        }
    })
}

/// This machine's memory, bytes; 0 if unknown.
pub(crate) fn total_memory() -> u64 {
    machine().total_memory
}

/// Clients compare the version with Docker's releases, so it says which of them it stands for.
pub(crate) fn stands_for() -> String {
    format!("28.2.2+tug.{}", env!("CARGO_PKG_VERSION"))
}

/// Whether a switch of the kernel is on; no if it has none of the kind.
fn switched_on(path: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| matches!(text.trim(), "1" | "Y"))
}

/// A proxy's URL as everybody may read it.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(s, r)| (s, r));
    match rest.rsplit_once('@') {
        Some((_, host)) if !scheme.is_empty() => format!("{scheme}://xxxxx:xxxxx@{host}"),
        _ => url.to_owned(),
    }
}

/// The name of the file system that a folder is on.
pub(crate) fn backing(folder: &Path) -> &'static str {
    let kind = rustix::fs::statfs(folder).map_or(0, |s| s.f_type as u64 & 0xffff_ffff);
    match kind {
        0xef53 => "extfs",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x0102_1994 => "tmpfs",
        0x794c_7630 => "overlayfs",
        0x2fc1_2fc1 => "zfs",
        0xf2f5_2010 => "f2fs",
        _ => "<unknown>",
    }
}

/// What is told of the storage.
fn storage(folder: &Path) -> Value {
    let backing = backing(folder);
    // The kind of a file must be told with its name, or whiteouts cannot be.
    let d_type = || -> rustix::io::Result<bool> {
        let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let mut entries =
            rustix::fs::Dir::read_from(rustix::fs::open(folder, flags, rustix::fs::Mode::empty())?)?;
        Ok(entries.all(|e| e.is_ok_and(|e| e.file_type() != rustix::fs::FileType::Unknown)))
    };
    let d_type = d_type().unwrap_or(false);
    let module = |name: &str| switched_on(&format!("/sys/module/overlay/parameters/{name}"));
    json!([
        ["Backing Filesystem", backing],
        ["Supports d_type", d_type.to_string()],
        ["Using metacopy", module("metacopy").to_string()],
        ["Native Overlay Diff", (!module("redirect_dir")).to_string()],
        ["userxattr", "false"],
    ])
}

impl Engine {
    /// Whether images and layers lie on XFS, the only file system on which layers have a quota.
    pub(crate) fn on_xfs(&self) -> bool {
        backing(&self.instance().data_dir) == "xfs"
    }

    /// The time, memory and processors of this machine, for measurements.
    pub(crate) fn machine_size() -> (usize, u64, String) {
        (spec::cpus(), machine().total_memory, machine().operating_system.clone())
    }

    /// `GET /version`
    pub fn version(&self) -> Value {
        let uname = rustix::system::uname();
        let kernel = uname.release().to_string_lossy().into_owned();
        let (architecture, _) = image::config::host_platform();
        let api = format!("{}.{}", API_VERSION.0, API_VERSION.1);
        let oldest = self.settings().oldest_api();
        let oldest = format!("{}.{}", oldest.0, oldest.1);
        let stands_for = stands_for();
        json!({
            "Platform": {"Name": "Tug"},
            "Components": [{
                "Name": "Engine", "Version": stands_for,
                "Details": {
                    "ApiVersion": api, "MinAPIVersion": oldest, "Arch": architecture, "Os": "linux",
                    "KernelVersion": kernel, "Experimental": "false", "GitCommit": "", "GoVersion": "", "BuildTime": "",
                },
            }],
            "Version": stands_for, "ApiVersion": api, "MinAPIVersion": oldest, "GitCommit": "", "GoVersion": "",
            "Os": "linux", "Arch": architecture, "KernelVersion": kernel, "BuildTime": "",
        })
    }

    /// `GET /info`
    pub fn info(&self) -> Value {
        let m = machine();
        let uname = rustix::system::uname();
        let (mut running, mut paused, mut stopped) = (0, 0, 0);
        for container in self.all() {
            match container.phase() {
                Phase::Running | Phase::Restarting => running += 1,
                Phase::Paused => paused += 1,
                _ => stopped += 1,
            }
        }
        for state in self.foreign.list() {
            match state.status {
                runtime::Status::Running => running += 1,
                runtime::Status::Paused => paused += 1,
                _ => stopped += 1,
            }
        }
        let v2 = runtime::defaults::unified_cgroups();
        let can = crate::limits::abilities();
        let forwarding = switched_on("/proc/sys/net/ipv4/ip_forward");
        let settings = self.settings();
        let mut warnings: Vec<String> =
            can.lacking(v2).into_iter().map(|lacking| format!("WARNING: No {lacking} support")).collect();
        if !forwarding {
            warnings.push("WARNING: IPv4 forwarding is disabled".to_owned());
        }
        warnings.extend(settings.exposed());
        let profile = if settings.seccomp_profile.is_empty() { "builtin" } else { &settings.seccomp_profile };
        let mut security = vec![format!("name=seccomp,profile={profile}")];
        if Path::new("/proc/self/ns/cgroup").exists() {
            security.push("name=cgroupns".to_owned());
        }
        if self.ids.is_some() {
            security.push("name=userns".to_owned());
        }
        if settings.no_new_privileges {
            security.push("name=no-new-privileges".to_owned());
        }
        let [http_proxy, https_proxy, no_proxy] = image::http::proxies_in_use().map(|p| without_password(&p));
        let mut runtimes = json!({"tug": {"path": "tug"}, "io.containerd.runc.v2": {"path": "tug"}});
        if let Ok(Some(path)) = crate::runtimes::find("runc") {
            runtimes["runc"] = json!({"path": path});
        }
        for (name, runtime) in &settings.runtimes {
            runtimes[name] = json!({"path": runtime.path});
        }
        json!({
            "ID": self.id, "Name": hostname(), "Containers": running + paused + stopped,
            "ContainersRunning": running, "ContainersPaused": paused, "ContainersStopped": stopped,
            "Images": self.images.list().len(), "Driver": "overlay2",
            "DriverStatus": storage(&self.instance().data_dir),
            "Plugins": {"Volume": self.volume_drivers(), "Network": ["bridge", "host", "ipvlan", "macvlan", "null"], "Authorization": null, "Log": runtime::logs::drivers::names()},
            "MemoryLimit": can.memory, "SwapLimit": can.swap, "CpuCfsPeriod": can.quota, "CpuCfsQuota": can.quota,
            "CPUShares": can.shares, "CPUSet": can.cpuset, "PidsLimit": can.pids, "IPv4Forwarding": forwarding, "OomKillDisable": can.oom_kill_disable,
            "Debug": settings.debug, "NFd": std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            "NGoroutines": tokio::runtime::Handle::try_current().map_or(0, |h| h.metrics().num_alive_tasks()), "SystemTime": base::clock::now_nano(), "LoggingDriver": settings.log_driver,
            "CgroupDriver": "cgroupfs", "CgroupVersion": if v2 { "2" } else { "1" }, "NEventsListener": self.events.listeners(),
            "KernelVersion": uname.release().to_string_lossy(), "OperatingSystem": m.operating_system,
            "OSVersion": m.os_version, "OSType": "linux", "Architecture": uname.machine().to_string_lossy(),
            "IndexServerAddress": "https://index.docker.io/v1/",
            "RegistryConfig": self.registries(),
            "NCPU": spec::cpus(), "MemTotal": m.total_memory, "GenericResources": null,
            "DockerRootDir": self.instance().data_dir, "HttpProxy": http_proxy, "HttpsProxy": https_proxy, "NoProxy": no_proxy, "Labels": settings.labels,
            "ExperimentalBuild": false, "ServerVersion": stands_for(),
            "Runtimes": runtimes, "DefaultRuntime": settings.default_runtime(),
            "Swarm": {"NodeID": "", "NodeAddr": "", "LocalNodeState": "inactive", "ControlAvailable": false, "Error": "", "RemoteManagers": null},
            "LiveRestoreEnabled": true, "Isolation": "", "InitBinary": "tug",
            "ContainerdCommit": {"ID": ""}, "RuncCommit": {"ID": ""}, "InitCommit": {"ID": ""},
            "SecurityOptions": security, "FirewallBackend": {"Driver": "nftables"},
            "DefaultAddressPools": settings.default_address_pools, "CDISpecDirs": settings.cdi_dirs(), "Warnings": if warnings.is_empty() { Value::Null } else { json!(warnings) },
        })
    }

    fn registries(&self) -> Value {
        let config = self.images.registry_config();
        let mirrors = |list: &[String]| if list.is_empty() { Value::Null } else { json!(list) };
        let mut ranges = vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()];
        let mut indexes = json!({
            "docker.io": {"Mirrors": config.mirrors, "Name": "docker.io", "Official": true, "Secure": true},
        });
        for host in &config.insecure {
            if host.contains('/') {
                ranges.push(host.clone());
            } else {
                indexes[host] = json!({"Mirrors": [], "Name": host, "Official": false, "Secure": false});
            }
        }
        json!({"IndexConfigs": indexes, "InsecureRegistryCIDRs": ranges, "Mirrors": mirrors(&config.mirrors)})
    }

    /// `GET /system/df`
    pub async fn disk_usage(&self, types: &[String]) -> Result<Value> {
        let wanted = |kind: &str| types.is_empty() || types.iter().any(|t| t == kind);
        let mut out =
            json!({"LayersSize": 0, "Images": null, "Containers": null, "Volumes": null, "BuildCache": null});
        if wanted("image") {
            let disk = self.images.on_disk().await?;
            let mut images = self.image_list(
                &crate::filters::Filters::default(),
                &crate::ImageListOptions { all: false, shared: true, manifests: false, virtual_size: true },
            )?;
            let all = self.all();
            for image in &mut images {
                image.set_containers(all.iter().filter(|c| c.lock().asked.image == image.id()).count());
            }
            out["Images"] = json!(images);
            out["LayersSize"] = json!(disk.images + disk.loose + disk.copies);
        }
        if wanted("container") {
            let options = crate::ListOptions { all: true, size: true, ..crate::ListOptions::default() };
            out["Containers"] = self.list(&options).await?;
        }
        if wanted("volume") {
            out["Volumes"] = Value::Array(self.volume_usage().await?);
        }
        if wanted("build-cache") {
            out["BuildCache"] = json!([]);
        }
        Ok(out)
    }
}
