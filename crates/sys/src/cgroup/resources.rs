//! Writing limits: OCI's `linux.resources` into both versions' files.

use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::{Cgroup, context, device, read, write};

/// Collects what the machine could not do.
struct Warnings(Vec<String>);

impl Warnings {
    /// Sets a file; a file that is not there, or a value that the machine refuses as unsupported, is a warning.
    fn set(&mut self, dir: &Path, file: &str, value: impl ToString) -> io::Result<()> {
        let path = dir.join(file);
        match write(&path, &value.to_string()) {
            Ok(()) => Ok(()),
            Err(e) if missing(&e) => {
                self.0.push(format!("this machine has no {file}: the limit was ignored"));
                Ok(())
            }
            Err(e) => Err(context(&format!("set {} in", value.to_string()), &path)(e)),
        }
    }

    fn lacks(&mut self, controller: &str) {
        self.0.push(format!("this machine has no {controller} cgroup: its limits were ignored"));
    }
}

fn missing(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || matches!(e.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EACCES))
}

/// cpu.shares (2 to 262,144) as cpu.weight (1 to 10,000).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// blkio's weight (10 to 1,000) as io.weight (1 to 10,000).
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).clamp(10, 1_000) - 10) * 9_999 / 990
}

/// What unlimited is called: -1 in version 1, `max` in version 2.
fn or_max(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

impl Cgroup {
    /// Writes the limits that are given; others stay. Returns what the machine could not do.
    pub fn apply(&self, r: &LinuxResources) -> io::Result<Vec<String>> {
        let mut w = Warnings(Vec::new());
        if let Some(memory) = r.memory() {
            self.memory(memory, &mut w)?;
        }
        if let Some(cpu) = r.cpu() {
            self.cpu(cpu, &mut w)?;
        }
        if let Some(pids) = r.pids() {
            let value = if pids.limit() <= 0 { "max".to_string() } else { pids.limit().to_string() };
            match self.v1_dir("pids").or_else(|| self.v2_dir()) {
                Some(dir) => w.set(&dir, "pids.max", value)?,
                None => w.lacks("pids"),
            }
        }
        if let Some(io) = r.block_io() {
            self.block_io(io, &mut w)?;
        }
        for limit in r.hugepage_limits().iter().flatten() {
            let size = limit.page_size();
            match (self.demand("hugetlb")?, self.v2_dir()) {
                (Some(dir), _) => w.set(&dir, &format!("hugetlb.{size}.limit_in_bytes"), limit.limit())?,
                (None, Some(dir)) => w.set(&dir, &format!("hugetlb.{size}.max"), or_max(limit.limit()))?,
                (None, None) => w.lacks("hugetlb"),
            }
        }
        if let Some(class) = r.network().as_ref().and_then(|n| n.class_id()) {
            match self.demand("net_cls")? {
                Some(dir) => w.set(&dir, "net_cls.classid", class)?,
                None => w.lacks("net_cls"),
            }
        }
        if let Some(dir) = self.v2_dir() {
            for (file, value) in r.unified().iter().flatten() {
                if file.contains('/') {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("unified key {file:?}")));
                }
                w.set(&dir, file, value)?;
            }
        }
        Ok(w.0)
    }

    /// Says which device files its processes may use; the last rule that matches decides, none means no.
    pub fn set_devices(&self, rules: &[oci_spec::runtime::LinuxDeviceCgroup]) -> io::Result<()> {
        if let Some(dir) = self.v1_dir("devices") {
            for line in rules.iter().map(device::line) {
                let (file, text) = line?;
                write(&dir.join(file), &text)
                    .map_err(context(&format!("write {text:?} to"), &dir.join(file)))?;
            }
            return Ok(());
        }
        match self.v2_dir() {
            Some(dir) => device::attach(&dir, rules),
            None => Ok(()),
        }
    }

    fn memory(&self, m: &LinuxMemory, w: &mut Warnings) -> io::Result<()> {
        if let Some(dir) = self.v1_dir("memory") {
            const SWAP: &str = "memory.memsw.limit_in_bytes";
            let swap = m.swap().filter(|s| *s != 0);
            if let Some(limit) = m.limit().filter(|l| *l != 0) {
                let file = "memory.limit_in_bytes";
                if write(&dir.join(file), &limit.to_string()).is_err() {
                    // memory ≤ memory+swap holds at every moment: where the new limit is beyond the old sum, the
                    // sum has to go first.
                    if let Some(swap) = swap {
                        w.set(&dir, SWAP, swap)?;
                    }
                    let path = dir.join(file);
                    write(&path, &limit.to_string()).map_err(|e| match e.raw_os_error() {
                        Some(libc::EBUSY) => io::Error::new(
                            e.kind(),
                            format!(
                                "memory limit {limit} is below what is in use ({})",
                                read(&dir.join("memory.usage_in_bytes")).unwrap_or_default()
                            ),
                        ),
                        _ => context("set", &path)(e),
                    })?;
                }
            }
            if let Some(swap) = swap {
                w.set(&dir, SWAP, swap)?;
            }
            if let Some(v) = m.reservation().filter(|v| *v != 0) {
                w.set(&dir, "memory.soft_limit_in_bytes", v)?;
            }
            if let Some(v) = m.swappiness() {
                w.set(&dir, "memory.swappiness", v)?;
            }
            if m.disable_oom_killer() == Some(true) {
                w.set(&dir, "memory.oom_control", 1)?;
            }
            return Ok(());
        }
        let Some(dir) = self.v2_dir() else {
            w.lacks("memory");
            return Ok(());
        };
        if let Some(swap) = m.swap().filter(|s| *s != 0) {
            // Version 2 counts swap alone.
            let value = match m.limit() {
                _ if swap < 0 => "max".into(),
                Some(limit) if limit > 0 => (swap - limit).max(0).to_string(),
                _ => swap.to_string(),
            };
            w.set(&dir, "memory.swap.max", value)?;
        }
        if let Some(limit) = m.limit().filter(|l| *l != 0) {
            w.set(&dir, "memory.max", or_max(limit))?;
        }
        if let Some(v) = m.reservation().filter(|v| *v != 0) {
            w.set(&dir, "memory.low", or_max(v))?;
        }
        if m.swappiness().is_some() {
            w.0.push("cgroup v2 has no swappiness: it was ignored".into());
        }
        if m.disable_oom_killer() == Some(true) {
            w.0.push("cgroup v2 cannot disable the OOM killer: it was ignored".into());
        }
        Ok(())
    }

    fn cpu(&self, c: &LinuxCpu, w: &mut Warnings) -> io::Result<()> {
        let shares = c.shares().filter(|s| *s != 0);
        let quota = c.quota().filter(|q| *q != 0);
        let period = c.period().filter(|p| *p != 0);
        let wants_cpu = shares.is_some()
            || quota.is_some()
            || period.is_some()
            || c.realtime_runtime().is_some_and(|v| v != 0)
            || c.idle().is_some();
        if wants_cpu {
            match (self.demand("cpu")?, self.v2_dir()) {
                (Some(dir), _) => {
                    if let Some(v) = shares {
                        w.set(&dir, "cpu.shares", v)?;
                    }
                    if let Some(v) = period {
                        w.set(&dir, "cpu.cfs_period_us", v)?;
                    }
                    if let Some(v) = quota {
                        w.set(&dir, "cpu.cfs_quota_us", v)?;
                    }
                    if let Some(v) = c.realtime_period().filter(|v| *v != 0) {
                        w.set(&dir, "cpu.rt_period_us", v)?;
                    }
                    if let Some(v) = c.realtime_runtime().filter(|v| *v != 0) {
                        w.set(&dir, "cpu.rt_runtime_us", v)?;
                    }
                    if let Some(v) = c.idle() {
                        w.set(&dir, "cpu.idle", v)?;
                    }
                }
                (None, Some(dir)) => {
                    if let Some(v) = shares {
                        w.set(&dir, "cpu.weight", weight(v))?;
                    }
                    // One file has both, and what is not given stays: the kernel leaves the period alone, not the quota.
                    match (quota.map(or_max), period) {
                        (Some(quota), Some(period)) => w.set(&dir, "cpu.max", format!("{quota} {period}"))?,
                        (Some(quota), None) => w.set(&dir, "cpu.max", quota)?,
                        (None, Some(period)) => {
                            let now = read(&dir.join("cpu.max")).unwrap_or_default();
                            let quota = now.split_whitespace().next().unwrap_or("max");
                            w.set(&dir, "cpu.max", format!("{quota} {period}"))?;
                        }
                        (None, None) => {}
                    }
                    if let Some(v) = c.burst() {
                        w.set(&dir, "cpu.max.burst", v)?;
                    }
                    if let Some(v) = c.idle() {
                        w.set(&dir, "cpu.idle", v)?;
                    }
                }
                (None, None) => w.lacks("cpu"),
            }
        }
        let cpus = c.cpus().as_deref().filter(|s| !s.is_empty());
        let mems = c.mems().as_deref().filter(|s| !s.is_empty());
        if cpus.is_some() || mems.is_some() {
            match self.demand("cpuset")?.or_else(|| self.v2_dir()) {
                Some(dir) => {
                    if let Some(v) = cpus {
                        w.set(&dir, "cpuset.cpus", v)?;
                    }
                    if let Some(v) = mems {
                        w.set(&dir, "cpuset.mems", v)?;
                    }
                }
                None => w.lacks("cpuset"),
            }
        }
        Ok(())
    }

    fn block_io(&self, b: &LinuxBlockIo, w: &mut Warnings) -> io::Result<()> {
        let empty = Vec::new();
        let limits: [(&Vec<LinuxThrottleDevice>, &str, &str); 4] = [
            (
                b.throttle_read_bps_device().as_ref().unwrap_or(&empty),
                "blkio.throttle.read_bps_device",
                "rbps",
            ),
            (
                b.throttle_write_bps_device().as_ref().unwrap_or(&empty),
                "blkio.throttle.write_bps_device",
                "wbps",
            ),
            (
                b.throttle_read_iops_device().as_ref().unwrap_or(&empty),
                "blkio.throttle.read_iops_device",
                "riops",
            ),
            (
                b.throttle_write_iops_device().as_ref().unwrap_or(&empty),
                "blkio.throttle.write_iops_device",
                "wiops",
            ),
        ];
        let v1 = self.v1_dir("blkio");
        let v2 = self.v2_dir();
        let Some(dir) = v1.as_ref().or(v2.as_ref()) else {
            w.lacks("blkio");
            return Ok(());
        };
        for (list, old, new) in limits {
            for d in list {
                let device = format!("{}:{}", d.major(), d.minor());
                if v1.is_some() {
                    w.set(dir, old, format!("{device} {}", d.rate()))?;
                } else {
                    w.set(dir, "io.max", format!("{device} {new}={}", d.rate()))?;
                }
            }
        }
        // Where the scheduler BFQ is, it is the one that knows weights.
        let of_bfq =
            |plain: &'static str, bfq: &'static str| if dir.join(bfq).exists() { bfq } else { plain };
        let (file, by_device) = if v1.is_some() {
            (
                of_bfq("blkio.weight", "blkio.bfq.weight"),
                of_bfq("blkio.weight_device", "blkio.bfq.weight_device"),
            )
        } else {
            let file = of_bfq("io.weight", "io.bfq.weight");
            (file, file)
        };
        let value = |weight: u16| if file == "io.weight" { io_weight(weight) } else { u64::from(weight) };
        if let Some(weight) = b.weight().filter(|v| *v != 0) {
            w.set(dir, file, value(weight))?;
        }
        for d in b.weight_device().iter().flatten() {
            let Some(weight) = d.weight() else { continue };
            w.set(dir, by_device, format!("{}:{} {}", d.major(), d.minor(), value(weight)))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
        assert_eq!((io_weight(10), io_weight(500), io_weight(1_000)), (1, 4_950, 10_000));
        assert_eq!((or_max(-1), or_max(5)), ("max".into(), "5".into()));
    }
}
