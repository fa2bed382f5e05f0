//! What this machine has and is, as its Node object says it.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// What there is to give to pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// CPUs, in thousandths.
    pub cpu_milli: i64,
    /// Bytes of memory.
    pub memory: i64,
    /// Bytes of disk where pods write.
    pub disk: i64,
    /// How many pods may run here.
    pub pods: i64,
    /// Where pods write.
    data_dir: PathBuf,
}

/// What the machine is about to run out of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressures {
    /// Less than 100 MiB of memory can be had, as upstream's default.
    pub memory: bool,
    /// Less than 1 GiB or 1 % of the inodes is left where pods write. Upstream's tenth is 25 GiB of a common disk.
    pub disk: bool,
    /// Less than a twentieth of the process numbers is left.
    pub pids: bool,
}

impl Machine {
    /// This one; `data_dir` is where pods write.
    pub fn here(data_dir: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let disk = rustix::fs::statvfs(data_dir).map_or(0, |s| s.f_blocks.saturating_mul(s.f_frsize));
        Self {
            cpu_milli: cpus as i64 * 1000,
            memory: meminfo("MemTotal") as i64,
            disk: disk as i64,
            pods: 110,
            data_dir: data_dir.into(),
        }
    }

    /// What is scarce now. What cannot be read is not scarce.
    pub fn pressures(&self) -> Pressures {
        let available = meminfo("MemAvailable");
        let disk = rustix::fs::statvfs(&self.data_dir).is_ok_and(|s| {
            // File systems without a fixed number of inodes (btrfs) report none.
            s.f_bavail.saturating_mul(s.f_frsize) < 1 << 30 || (s.f_files > 0 && s.f_favail < s.f_files / 100)
        });
        let number = |path: &str| fs::read_to_string(path).ok().and_then(|t| t.trim().parse::<u64>().ok());
        let most = number("/proc/sys/kernel/pid_max")
            .into_iter()
            .chain(number("/proc/sys/kernel/threads-max"))
            .min();
        // proc(5): the fourth field of loadavg is "running/existing".
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let tasks = load.split([' ', '/']).nth(4).and_then(|n| n.parse::<u64>().ok());
        Pressures {
            memory: available > 0 && available < 100 << 20,
            disk,
            pids: most.zip(tasks).is_some_and(|(most, tasks)| tasks > most / 20 * 19),
        }
    }

    /// `status.capacity`; nothing is kept back, so it is `status.allocatable` too.
    pub fn capacity(&self) -> Value {
        json!({
            "cpu": if self.cpu_milli % 1000 == 0 { (self.cpu_milli / 1000).to_string() } else { format!("{}m", self.cpu_milli) },
            "memory": format!("{}Ki", self.memory / 1024),
            "ephemeral-storage": format!("{}Ki", self.disk / 1024),
            "hugepages-1Gi": "0",
            "hugepages-2Mi": "0",
            "pods": self.pods.to_string(),
        })
    }
}

/// A line of /proc/meminfo, in bytes; 0 if there is none.
pub fn meminfo(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).unwrap_or_default();
    line.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// `status.nodeInfo`
pub fn node_info(version: &str) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let uname = rustix::system::uname();
    let release = read("/etc/os-release");
    let os = release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned());
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "machineID": read("/etc/machine-id"),
        "systemUUID": read("/sys/class/dmi/id/product_uuid"),
        "bootID": read("/proc/sys/kernel/random/boot_id"),
        "kernelVersion": uname.release().to_string_lossy(),
        "osImage": os,
        "containerRuntimeVersion": format!("tug://{}", env!("CARGO_PKG_VERSION")),
        "kubeletVersion": version,
        "kubeProxyVersion": version,
        "operatingSystem": "linux",
        "architecture": architecture,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_is_there() {
        let machine = Machine::here(Path::new("/"));
        assert!(machine.cpu_milli >= 1000 && machine.memory > 0 && machine.disk > 0, "{machine:?}");
        assert!(machine.capacity()["memory"].as_str().unwrap().ends_with("Ki"));
        assert_eq!(node_info("v1")["operatingSystem"], "linux");
        assert_eq!(meminfo("NoSuchLine"), 0);
        assert!(!machine.pressures().pids);
        let nothing = Machine { data_dir: "/proc".into(), ..machine };
        assert!(nothing.pressures().disk, "procfs has no room at all");
    }
}
