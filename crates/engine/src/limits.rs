//! Limits: those that make no sense are refused, those that this machine cannot keep are taken out with a warning, both
//! in Docker's words.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sys::cgroup::Hierarchies;

use crate::error::{Result, invalid};
use crate::model::HostConfig;

/// The least memory a container can be given: 6 MiB.
const MINIMUM_MEMORY: i64 = 6 * 1024 * 1024;

/// Which limits this machine's control groups can keep; that does not change while it runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    pub memory: bool,
    pub swap: bool,
    pub reservation: bool,
    pub swappiness: bool,
    pub oom_kill_disable: bool,
    pub shares: bool,
    pub quota: bool,
    pub realtime: bool,
    pub cpuset: bool,
    pub pids: bool,
    pub weight: bool,
    pub weight_device: bool,
    pub read_bps: bool,
    pub write_bps: bool,
    pub read_iops: bool,
    pub write_iops: bool,
    /// Whether CPUs and memory nodes outside of these are refused; empty if unknown.
    pub cpus: String,
    pub mems: String,
}

/// This machine's.
pub(crate) fn abilities() -> &'static Abilities {
    static ABILITIES: OnceLock<Abilities> = OnceLock::new();
    ABILITIES.get_or_init(|| Abilities::find(&Hierarchies::find().unwrap_or_default()))
}

impl Abilities {
    fn find(hierarchies: &Hierarchies) -> Abilities {
        let text = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        if let (true, Some(root)) = (hierarchies.v1.is_empty(), &hierarchies.v2) {
            let controllers = text(root.join("cgroup.controllers"));
            let has = |name: &str| controllers.split_whitespace().any(|c| c == name);
            return Abilities {
                memory: has("memory"),
                swap: has("memory") && below(root, "memory.swap.max"),
                reservation: has("memory"),
                shares: has("cpu"),
                quota: has("cpu"),
                cpuset: has("cpuset"),
                pids: has("pids"),
                weight: has("io"),
                weight_device: has("io"),
                read_bps: has("io"),
                write_bps: has("io"),
                read_iops: has("io"),
                write_iops: has("io"),
                cpus: text(root.join("cpuset.cpus.effective")),
                mems: text(root.join("cpuset.mems.effective")),
                ..Abilities::default()
            };
        }
        let mount = |controller: &str| {
            hierarchies.v1.iter().find(|(all, _)| all.iter().any(|c| c == controller)).map(|(_, path)| path)
        };
        let has = |controller: &str, file: &str| mount(controller).is_some_and(|m| m.join(file).exists());
        let set = |file: &str| mount("cpuset").map(|m| text(m.join(file))).unwrap_or_default();
        Abilities {
            memory: mount("memory").is_some(),
            swap: has("memory", "memory.memsw.limit_in_bytes"),
            reservation: has("memory", "memory.soft_limit_in_bytes"),
            swappiness: has("memory", "memory.swappiness"),
            oom_kill_disable: has("memory", "memory.oom_control"),
            shares: has("cpu", "cpu.shares"),
            quota: has("cpu", "cpu.cfs_quota_us"),
            realtime: has("cpu", "cpu.rt_period_us"),
            cpuset: mount("cpuset").is_some(),
            pids: mount("pids").is_some(),
            weight: has("blkio", "blkio.weight") || has("blkio", "blkio.bfq.weight"),
            weight_device: has("blkio", "blkio.weight_device") || has("blkio", "blkio.bfq.weight_device"),
            read_bps: has("blkio", "blkio.throttle.read_bps_device"),
            write_bps: has("blkio", "blkio.throttle.write_bps_device"),
            read_iops: has("blkio", "blkio.throttle.read_iops_device"),
            write_iops: has("blkio", "blkio.throttle.write_iops_device"),
            cpus: set("cpuset.cpus"),
            mems: set("cpuset.mems"),
        }
    }

    /// What cannot be limited, in the original's words; `v2`: as they are for cgroup version 2.
    pub(crate) fn lacking(&self, v2: bool) -> Vec<&'static str> {
        let io = |v2_name, v1_name| if v2 { v2_name } else { v1_name };
        let all = [
            (self.memory, "memory limit"),
            (self.swap, "swap limit"),
            (self.oom_kill_disable || v2, "oom kill disable"),
            (self.quota, "cpu cfs quota"),
            (self.quota, "cpu cfs period"),
            (self.shares, "cpu shares"),
            (self.cpuset, "cpuset"),
            (self.weight || !v2, "io.weight"),
            (self.weight_device || !v2, "io.weight (per device)"),
            (self.read_bps, io("io.max (rbps)", "blkio throttle.read_bps_device")),
            (self.write_bps, io("io.max (wbps)", "blkio throttle.write_bps_device")),
            (self.read_iops, io("io.max (riops)", "blkio throttle.read_iops_device")),
            (self.write_iops, io("io.max (wiops)", "blkio throttle.write_iops_device")),
        ];
        all.into_iter().filter(|(has, _)| !has).map(|(_, name)| name).collect()
    }

    /// Tells in the log that containers will run without limits, if they will.
    pub(crate) fn tell_lacking(&self) {
        if *self == Abilities::default() {
            tracing::warn!(
                "no cgroup hierarchy is mounted here: containers run without any limits and are not measured"
            );
        } else if !(self.memory && self.quota && self.pids) {
            let lacking = self.lacking(runtime::defaults::unified_cgroups()).join(", ");
            tracing::warn!("the kernel's control groups lack what limits containers: {lacking}");
        }
    }
}

/// Whether a file is in some group below the root (the root group of version 2 has no limits itself).
fn below(root: &Path, file: &str) -> bool {
    std::fs::read_dir(root).into_iter().flatten().flatten().any(|entry| entry.path().join(file).exists())
}

/// Checks limits, and takes out those that cannot be kept; the warnings that say so. An `update` may set the swap limit
/// alone, because the memory limit may be there already.
pub(crate) fn check(host: &mut HostConfig, update: bool) -> Result<Vec<String>> {
    check_by(abilities(), crate::spec::cpus(), host, update)
}

fn check_by(can: &Abilities, cpus: usize, host: &mut HostConfig, update: bool) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    memory(can, host, update, &mut warnings)?;
    processor(can, cpus, host, &mut warnings)?;
    block(can, host, &mut warnings)?;
    if let Some(limit) = host.pids_limit
        && !can.pids
    {
        if limit > 0 {
            warnings.push(no("PIDs limit capabilities", "PIDs limit discarded"));
        }
        host.pids_limit = None;
    }
    Ok(warnings)
}

fn no(what: &str, consequence: &str) -> String {
    format!("Your kernel does not support {what} or the cgroup is not mounted. {consequence}.")
}

fn memory(can: &Abilities, host: &mut HostConfig, update: bool, warnings: &mut Vec<String>) -> Result<()> {
    // Old clients say -1 for "not set".
    if host.memory_swappiness == Some(-1) {
        host.memory_swappiness = None;
    }
    if host.memory != 0 && host.memory < MINIMUM_MEMORY {
        return Err(invalid("Minimum memory limit allowed is 6MB"));
    }
    if host.memory > 0 && !can.memory {
        warnings.push(no("memory limit capabilities", "Limitation discarded"));
        (host.memory, host.memory_swap) = (0, -1);
    }
    if host.memory > 0 && host.memory_swap != -1 && !can.swap {
        warnings.push(no("swap limit capabilities", "Memory limited without swap"));
        host.memory_swap = -1;
    }
    if host.memory > 0 && host.memory_swap > 0 && host.memory_swap < host.memory {
        return Err(invalid("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    if host.memory == 0 && host.memory_swap > 0 && !update {
        return Err(invalid("You should always set the Memory limit when using Memoryswap limit, see usage"));
    }
    if host.memory_swappiness.is_some() && !can.swappiness {
        warnings.push(no("memory swappiness capabilities", "Memory swappiness discarded"));
        host.memory_swappiness = None;
    }
    if let Some(swappiness) = host.memory_swappiness
        && !(0..=100).contains(&swappiness)
    {
        return Err(invalid(format!("Invalid value: {swappiness}, valid memory swappiness range is 0-100")));
    }
    if host.memory_reservation > 0 && !can.reservation {
        warnings.push(no("memory soft limit capabilities", "Limitation discarded"));
        host.memory_reservation = 0;
    }
    if host.memory_reservation > 0 && host.memory_reservation < MINIMUM_MEMORY {
        return Err(invalid("Minimum memory reservation allowed is 6MB"));
    }
    if host.memory > 0 && host.memory_reservation > host.memory {
        return Err(invalid("Minimum memory limit can not be less than memory reservation limit, see usage"));
    }
    if host.oom_kill_disable.is_some() && !can.oom_kill_disable {
        if host.oom_kill_disable == Some(true) {
            warnings
                .push("Your kernel does not support OomKillDisable. OomKillDisable discarded.".to_owned());
        }
        host.oom_kill_disable = None;
    }
    if host.oom_kill_disable == Some(true) && host.memory == 0 {
        warnings.push(
            "OOM killer is disabled for the container, but no memory limit is set, this can result in the system running out of resources."
                .to_owned(),
        );
    }
    Ok(())
}

fn processor(can: &Abilities, cpus: usize, host: &mut HostConfig, warnings: &mut Vec<String>) -> Result<()> {
    if host.nano_cpus > 0 && host.cpu_period > 0 {
        return Err(invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set"));
    }
    if host.nano_cpus > 0 && host.cpu_quota > 0 {
        return Err(invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set"));
    }
    if host.nano_cpus > 0 && !can.quota {
        return Err(invalid(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        ));
    }
    let most = i64::try_from(cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    if host.nano_cpus < 0 || host.nano_cpus > most {
        return Err(invalid(format!(
            "range of CPUs is from 0.01 to {cpus}.00, as there are only {cpus} CPUs available"
        )));
    }
    if host.cpu_shares < 0 {
        return Err(invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            host.cpu_shares
        )));
    }
    if host.cpu_shares > 0 && !can.shares {
        warnings.push(no("CPU shares", "Shares discarded"));
        host.cpu_shares = 0;
    }
    if (host.cpu_period != 0 || host.cpu_quota != 0) && !can.quota {
        warnings
            .push("Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.".to_owned());
        (host.cpu_period, host.cpu_quota) = (0, 0);
    }
    if host.cpu_period != 0 && !(1000..=1_000_000).contains(&host.cpu_period) {
        return Err(invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if host.cpu_quota > 0 && host.cpu_quota < 1000 {
        return Err(invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if host.cpu_percent > 0 {
        warnings.push("linux does not support CPU percent. Percent discarded.".to_owned());
        host.cpu_percent = 0;
    }
    if (host.cpu_realtime_period != 0 || host.cpu_realtime_runtime != 0) && !can.realtime {
        return Err(invalid("kernel does not support CPU real-time scheduler"));
    }
    if host.cpu_realtime_period != 0
        && host.cpu_realtime_runtime != 0
        && host.cpu_realtime_runtime > host.cpu_realtime_period
    {
        return Err(invalid("cpu real-time runtime cannot be higher than cpu real-time period"));
    }
    if (!host.cpuset_cpus.is_empty() || !host.cpuset_mems.is_empty()) && !can.cpuset {
        warnings.push(no("cpuset", "Cpuset discarded"));
        host.cpuset_cpus.clear();
        host.cpuset_mems.clear();
    }
    let sets = [
        ("cpus", "CPUs", &host.cpuset_cpus, &can.cpus),
        ("mems", "memory nodes", &host.cpuset_mems, &can.mems),
    ];
    for (name, what, wanted, there) in sets {
        if wanted.is_empty() {
            continue;
        }
        let Some(list) = crate::spec::number_list(wanted) else {
            return Err(invalid(format!("Invalid value {wanted} for cpuset {name}")));
        };
        let available = crate::spec::number_list(there).unwrap_or_default();
        if !available.is_empty() && list.iter().any(|n| !available.contains(n)) {
            return Err(invalid(format!(
                "Requested {what} are not available - requested {wanted}, available: {there}"
            )));
        }
    }
    Ok(())
}

fn block(can: &Abilities, host: &mut HostConfig, warnings: &mut Vec<String>) -> Result<()> {
    if host.blkio_weight > 0 && !can.weight {
        warnings.push(no("Block I/O weight", "Weight discarded"));
        host.blkio_weight = 0;
    }
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return Err(invalid("Range of blkio weight is from 10 to 1000"));
    }
    if host.io_maximum_bandwidth != 0 {
        return Err(invalid("invalid option: QoS maximum bandwidth configuration is not supported on linux"));
    }
    if host.io_maximum_iops != 0 {
        return Err(invalid("invalid option: QoS maximum IOPs configuration is not supported on linux"));
    }
    if !host.blkio_weight_device.is_empty() && !can.weight_device {
        warnings.push(no("Block I/O weight_device", "Weight-device discarded"));
        host.blkio_weight_device.clear();
    }
    let throttles = [
        (
            &mut host.blkio_device_read_bps,
            can.read_bps,
            "BPS Block I/O read limit",
            "Block I/O BPS read limit",
        ),
        (
            &mut host.blkio_device_write_bps,
            can.write_bps,
            "BPS Block I/O write limit",
            "Block I/O BPS write limit",
        ),
        (
            &mut host.blkio_device_read_iops,
            can.read_iops,
            "IOPS Block read limit",
            "Block I/O IOPS read limit",
        ),
        (
            &mut host.blkio_device_write_iops,
            can.write_iops,
            "IOPS Block write limit",
            "Block I/O IOPS write limit",
        ),
    ];
    for (list, can, what, short) in throttles {
        if !list.is_empty() && !can {
            warnings.push(no(what, &format!("{short} discarded")));
            list.clear();
        }
    }
    let weights = host.blkio_weight_device.iter().map(|d| &d.path);
    let rates = [
        &host.blkio_device_read_bps,
        &host.blkio_device_write_bps,
        &host.blkio_device_read_iops,
        &host.blkio_device_write_iops,
    ];
    for path in weights.chain(rates.into_iter().flatten().map(|d| &d.path)) {
        if let Err(e) = std::fs::metadata(path) {
            return Err(invalid(format!("block device {path} of a limit: {e}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Abilities {
        Abilities {
            memory: true,
            swap: true,
            reservation: true,
            swappiness: true,
            oom_kill_disable: true,
            shares: true,
            quota: true,
            realtime: false,
            cpuset: true,
            pids: true,
            weight: true,
            weight_device: true,
            read_bps: true,
            write_bps: true,
            read_iops: true,
            write_iops: true,
            cpus: "0-1".into(),
            mems: "0".into(),
        }
    }

    type Change = fn(&mut HostConfig);

    fn verdict(can: &Abilities, change: Change) -> (HostConfig, String) {
        let mut host = HostConfig::default();
        change(&mut host);
        let text = match check_by(can, 2, &mut host, false) {
            Ok(warnings) => warnings.join("|"),
            Err(e) => e.to_string(),
        };
        (host, text)
    }

    #[test]
    fn nonsense_is_refused() {
        let cases: [(Change, &str); 14] = [
            (|h| h.memory = 1, "Minimum memory limit allowed is 6MB"),
            (|h| (h.memory, h.memory_swap) = (1 << 30, 1 << 29), "should be larger than memory limit"),
            (|h| h.memory_swap = 1 << 30, "always set the Memory limit"),
            (|h| h.memory_swappiness = Some(101), "valid memory swappiness range is 0-100"),
            (|h| h.memory_reservation = 1, "Minimum memory reservation allowed is 6MB"),
            (
                |h| (h.memory, h.memory_reservation) = (1 << 25, 1 << 26),
                "can not be less than memory reservation",
            ),
            (|h| h.nano_cpus = 3_000_000_000, "range of CPUs is from 0.01 to 2.00"),
            (|h| (h.nano_cpus, h.cpu_quota) = (1, 5000), "Nano CPUs and CPU Quota"),
            (|h| h.cpu_period = 10, "CPU cfs period"),
            (|h| h.cpu_shares = -1, "invalid CPU shares (-1)"),
            (
                |h| h.cpuset_cpus = "0-2".into(),
                "Requested CPUs are not available - requested 0-2, available: 0-1",
            ),
            (|h| h.cpuset_mems = "x".into(), "Invalid value x for cpuset mems"),
            (|h| h.blkio_weight = 5, "Range of blkio weight is from 10 to 1000"),
            (|h| h.cpu_realtime_period = 1, "kernel does not support CPU real-time scheduler"),
        ];
        for (change, text) in cases {
            let got = verdict(&all(), change).1;
            assert!(got.contains(text), "{got:?} lacks {text:?}");
        }
        assert_eq!(
            verdict(&all(), |h| h.memory_swappiness = Some(-1)),
            (HostConfig::default(), String::new())
        );
    }

    #[test]
    fn what_cannot_be_kept_is_taken_out() {
        let can = Abilities::default();
        let (host, text) = verdict(&can, |h| {
            h.memory = 1 << 26;
            h.pids_limit = Some(5);
            h.cpu_shares = 7;
            h.cpuset_cpus = "0".into();
            h.blkio_weight = 300;
        });
        assert_eq!((host.memory, host.pids_limit, host.cpu_shares, host.blkio_weight), (0, None, 0, 0));
        assert!(host.cpuset_cpus.is_empty());
        for part in
            ["memory limit capabilities", "PIDs limit discarded", "Shares discarded", "Cpuset discarded"]
        {
            assert!(text.contains(part), "{text}");
        }
        let no_swap = Abilities { swap: false, ..all() };
        let (host, text) = verdict(&no_swap, |h| (h.memory, h.memory_swap) = (1 << 26, 1 << 27));
        assert_eq!((host.memory_swap, text.contains("Memory limited without swap")), (-1, true));
        let (_, text) = verdict(&all(), |h| h.oom_kill_disable = Some(true));
        assert!(text.starts_with("OOM killer is disabled"), "{text}");
    }

    #[test]
    fn what_lacks_is_told() {
        let none = Abilities::default();
        assert_eq!(none.lacking(false)[..3], ["memory limit", "swap limit", "oom kill disable"]);
        assert!(none.lacking(false).contains(&"blkio throttle.read_bps_device"));
        assert_eq!(all().lacking(false), Vec::<&str>::new());
        let unified = Abilities { oom_kill_disable: false, weight: false, ..all() };
        assert_eq!(unified.lacking(true), ["io.weight"]);
    }
}
