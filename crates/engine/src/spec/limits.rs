//! What a container may use of memory, processors, processes and disks.

use std::os::unix::fs::MetadataExt;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDeviceBuilder,
    LinuxWeightDeviceBuilder,
};

use crate::model::HostConfig;

/// Limits for the runtime; what is not asked for is none.
pub(crate) fn resources(host: &HostConfig) -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    let positive = |n: i64| (n > 0).then_some(n);
    let mut memory = LinuxMemory::default();
    memory
        .set_limit(positive(host.memory))
        .set_reservation(positive(host.memory_reservation))
        .set_swap(Some(host.memory_swap).filter(|s| *s != 0))
        .set_swappiness(host.memory_swappiness.and_then(|s| u64::try_from(s).ok()))
        .set_disable_oom_killer(host.oom_kill_disable.filter(|d| *d));
    if memory != LinuxMemory::default() {
        resources.set_memory(Some(memory));
    }
    let mut cpu = LinuxCpu::default();
    let unsigned = |n: i64| u64::try_from(n).ok().filter(|n| *n > 0);
    cpu.set_shares(unsigned(host.cpu_shares))
        .set_quota(Some(host.cpu_quota).filter(|q| *q != 0))
        .set_period(unsigned(host.cpu_period))
        .set_realtime_period(unsigned(host.cpu_realtime_period))
        .set_realtime_runtime(positive(host.cpu_realtime_runtime))
        .set_cpus(Some(host.cpuset_cpus.clone()).filter(|s| !s.is_empty()))
        .set_mems(Some(host.cpuset_mems.clone()).filter(|s| !s.is_empty()));
    if host.nano_cpus > 0 {
        cpu.set_period(Some(100_000)).set_quota(Some(host.nano_cpus / 10_000));
    }
    if cpu != LinuxCpu::default() {
        resources.set_cpu(Some(cpu));
    }
    if let Some(limit) = host.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(if limit > 0 { limit } else { -1 });
        resources.set_pids(Some(pids));
    }
    let mut block = LinuxBlockIo::default();
    block.set_weight(Some(host.blkio_weight).filter(|w| *w != 0));
    let numbers = |path: &str| {
        std::fs::metadata(path)
            .ok()
            .map(|m| (rustix::fs::major(m.rdev()) as i64, rustix::fs::minor(m.rdev()) as i64))
    };
    let weights: Vec<_> = host
        .blkio_weight_device
        .iter()
        .filter_map(|d| {
            let (major, minor) = numbers(&d.path)?;
            LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(d.weight).build().ok()
        })
        .collect();
    let throttles = |list: &[crate::model::ThrottleDevice]| {
        let list: Vec<_> = list
            .iter()
            .filter_map(|d| {
                let (major, minor) = numbers(&d.path)?;
                LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(d.rate).build().ok()
            })
            .collect();
        (!list.is_empty()).then_some(list)
    };
    block
        .set_weight_device((!weights.is_empty()).then_some(weights))
        .set_throttle_read_bps_device(throttles(&host.blkio_device_read_bps))
        .set_throttle_write_bps_device(throttles(&host.blkio_device_write_bps))
        .set_throttle_read_iops_device(throttles(&host.blkio_device_read_iops))
        .set_throttle_write_iops_device(throttles(&host.blkio_device_write_iops));
    if block != LinuxBlockIo::default() {
        resources.set_block_io(Some(block));
    }
    resources
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let host = HostConfig {
            nano_cpus: 1_500_000_000,
            memory: 1 << 25,
            pids_limit: Some(5),
            ..HostConfig::default()
        };
        let r = resources(&host);
        assert_eq!(r.cpu().as_ref().unwrap().quota(), Some(150_000));
        assert_eq!(r.memory().as_ref().unwrap().limit(), Some(1 << 25));
        assert_eq!(r.pids().as_ref().unwrap().limit(), 5);
        assert!(resources(&HostConfig::default()).memory().is_none());
    }
}
