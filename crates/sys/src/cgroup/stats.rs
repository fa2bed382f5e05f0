//! Reading what a group has used.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::{Cgroup, read};

/// What a group has used. Counters are since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// CPU.
    pub cpu: CpuStats,
    /// Memory.
    pub memory: MemoryStats,
    /// Number of tasks.
    pub pids_current: u64,
    /// Limit of tasks, none if there is none.
    pub pids_limit: Option<u64>,
    /// Disk traffic, per device.
    pub block: Vec<BlockStats>,
}

/// CPU time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuStats {
    /// Total, nanoseconds.
    pub usage_ns: u64,
    /// In user mode, nanoseconds.
    pub user_ns: u64,
    /// In the kernel, nanoseconds.
    pub system_ns: u64,
    /// Per CPU, nanoseconds (version 1 only).
    pub per_cpu_ns: Vec<u64>,
    /// Number of elapsed enforcement periods.
    pub periods: u64,
    /// Number of periods in which it was throttled.
    pub throttled_periods: u64,
    /// Time throttled, nanoseconds.
    pub throttled_ns: u64,
}

/// Memory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes in use, page cache included.
    pub usage: u64,
    /// The highest `usage` seen, 0 if the kernel does not tell.
    pub max_usage: u64,
    /// Limit in bytes; `u64::MAX` if there is none.
    pub limit: u64,
    /// Failures for lack of memory.
    pub failcnt: u64,
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
    /// The kernel's `memory.stat`, as it is.
    pub stat: BTreeMap<String, u64>,
}

impl MemoryStats {
    /// Bytes in use without the page cache that can go at once: what `docker stats` shows and what Kubernetes calls
    /// the working set.
    pub fn working_set(&self) -> u64 {
        let inactive = self.stat.get("total_inactive_file").or_else(|| self.stat.get("inactive_file"));
        self.usage.saturating_sub(inactive.copied().unwrap_or(0))
    }
}

/// Traffic of one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// Major device number.
    pub major: u64,
    /// Minor device number.
    pub minor: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub read_ios: u64,
    /// Write operations.
    pub write_ios: u64,
}

fn number(dir: &Path, file: &str) -> u64 {
    read(&dir.join(file)).ok().and_then(|s| s.parse().ok()).unwrap_or(0)
}

fn table(dir: &Path, file: &str) -> BTreeMap<String, u64> {
    let text = read(&dir.join(file)).unwrap_or_default();
    text.lines()
        .filter_map(|l| {
            let (k, v) = l.split_once(' ')?;
            Some((k.to_string(), v.trim().parse().ok()?))
        })
        .collect()
}

/// A limit file: `max` or a number near 2^63 is none.
fn limit(text: &str) -> Option<u64> {
    text.parse::<u64>().ok().filter(|v| *v < 1 << 62)
}

fn device(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

impl Cgroup {
    /// Reads everything. Files that are missing count as zero; a group that is missing is an error.
    pub fn stats(&self) -> io::Result<Stats> {
        if !self.exists() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("no cgroup {}", self.path())));
        }
        let mut s = Stats::default();
        s.memory.limit = u64::MAX;
        if let Some(dir) = self.v1_dir("cpuacct") {
            const NS_PER_TICK: u64 = 10_000_000; // USER_HZ is 100 on every architecture Linux has
            s.cpu.usage_ns = number(&dir, "cpuacct.usage");
            let times = table(&dir, "cpuacct.stat");
            s.cpu.user_ns = times.get("user").unwrap_or(&0) * NS_PER_TICK;
            s.cpu.system_ns = times.get("system").unwrap_or(&0) * NS_PER_TICK;
            let per_cpu = read(&dir.join("cpuacct.usage_percpu")).unwrap_or_default();
            s.cpu.per_cpu_ns = per_cpu.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        }
        if let Some(dir) = self.v1_dir("cpu") {
            let t = table(&dir, "cpu.stat");
            s.cpu.periods = t.get("nr_periods").copied().unwrap_or(0);
            s.cpu.throttled_periods = t.get("nr_throttled").copied().unwrap_or(0);
            s.cpu.throttled_ns = t.get("throttled_time").copied().unwrap_or(0);
        }
        if let Some(dir) = self.v1_dir("memory") {
            s.memory.usage = number(&dir, "memory.usage_in_bytes");
            s.memory.max_usage = number(&dir, "memory.max_usage_in_bytes");
            s.memory.failcnt = number(&dir, "memory.failcnt");
            s.memory.stat = table(&dir, "memory.stat");
            // A group's own limit may be above what its parents leave it.
            let own = read(&dir.join("memory.limit_in_bytes")).unwrap_or_default();
            let from_parents =
                s.memory.stat.get("hierarchical_memory_limit").copied().filter(|v| *v < 1 << 62);
            s.memory.limit = limit(&own).into_iter().chain(from_parents).min().unwrap_or(u64::MAX);
        }
        if let Some(dir) = self.v1_dir("pids") {
            s.pids_current = number(&dir, "pids.current");
            s.pids_limit = limit(&read(&dir.join("pids.max")).unwrap_or_default());
        }
        if let Some(dir) = self.v1_dir("blkio") {
            s.block = v1_block(&dir);
        }
        if let Some(dir) = self.v2_dir() {
            self.v2_stats(&dir, &mut s);
        }
        s.memory.oom_kills = self.oom_kills();
        Ok(s)
    }

    fn v2_stats(&self, dir: &Path, s: &mut Stats) {
        let cpu = table(dir, "cpu.stat");
        let get = |k: &str| cpu.get(k).copied().unwrap_or(0);
        s.cpu.usage_ns = get("usage_usec") * 1_000;
        s.cpu.user_ns = get("user_usec") * 1_000;
        s.cpu.system_ns = get("system_usec") * 1_000;
        s.cpu.periods = get("nr_periods");
        s.cpu.throttled_periods = get("nr_throttled");
        s.cpu.throttled_ns = get("throttled_usec") * 1_000;
        if self.v1_dir("memory").is_none() {
            s.memory.usage = number(dir, "memory.current");
            s.memory.max_usage = number(dir, "memory.peak");
            s.memory.limit = limit(&read(&dir.join("memory.max")).unwrap_or_default()).unwrap_or(u64::MAX);
            s.memory.failcnt = table(dir, "memory.events").get("max").copied().unwrap_or(0);
            s.memory.stat = table(dir, "memory.stat");
        }
        if self.v1_dir("pids").is_none() {
            s.pids_current = number(dir, "pids.current");
            s.pids_limit = limit(&read(&dir.join("pids.max")).unwrap_or_default());
        }
        if self.v1_dir("blkio").is_none() {
            for line in read(&dir.join("io.stat")).unwrap_or_default().lines() {
                let mut words = line.split(' ');
                let Some((major, minor)) = words.next().and_then(device) else { continue };
                let mut b = BlockStats { major, minor, ..Default::default() };
                for (key, value) in words.filter_map(|w| w.split_once('=')) {
                    let value = value.parse().unwrap_or(0);
                    match key {
                        "rbytes" => b.read_bytes = value,
                        "wbytes" => b.write_bytes = value,
                        "rios" => b.read_ios = value,
                        "wios" => b.write_ios = value,
                        _ => {}
                    }
                }
                s.block.push(b);
            }
        }
    }
}

fn v1_block(dir: &Path) -> Vec<BlockStats> {
    let mut out: BTreeMap<(u64, u64), BlockStats> = BTreeMap::new();
    for (file, bytes) in
        [("blkio.throttle.io_service_bytes_recursive", true), ("blkio.throttle.io_serviced_recursive", false)]
    {
        for line in read(&dir.join(file)).unwrap_or_default().lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [id, operation, value] = words[..] else { continue };
            let (Some((major, minor)), Ok(value)) = (device(id), value.parse::<u64>()) else { continue };
            let b = out.entry((major, minor)).or_insert(BlockStats { major, minor, ..Default::default() });
            match (operation, bytes) {
                ("Read", true) => b.read_bytes = value,
                ("Write", true) => b.write_bytes = value,
                ("Read", false) => b.read_ios = value,
                ("Write", false) => b.write_ios = value,
                _ => {}
            }
        }
    }
    out.into_values().collect()
}
