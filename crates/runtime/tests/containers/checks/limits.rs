//! Control groups: limits, their change, pauses, figures.

use std::time::Duration;

use oci_spec::runtime::{LinuxBlockIo, LinuxPids, LinuxResources, LinuxThrottleDeviceBuilder};
use runtime::{EventKind, Runtime, Status, defaults};

use super::{memory, with_cgroup_namespace};
use crate::world::World;

pub async fn killed_for_memory(w: &World) {
    let mut spec = w.sh("x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo ${#x}");
    let mut resources = memory(16 << 20);
    resources.set_devices(Some(defaults::device_rules()));
    spec.oci.linux_mut().as_mut().unwrap().set_resources(Some(resources));
    let mut events = w.runtime.events();
    let (exit, _) = w.run(&spec).await;
    assert_eq!((exit.code, exit.oom_killed), (137, true));
    let mut oom = false;
    while let Ok(event) = events.try_recv() {
        oom |= event.kind == EventKind::Oom;
    }
    assert!(oom, "there was no event");
}

pub async fn pids_limit(w: &World) {
    let mut spec = w.sh("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 5 & done; wait");
    let mut pids = LinuxPids::default();
    pids.set_limit(5);
    let mut resources = LinuxResources::default();
    resources.set_pids(Some(pids));
    spec.oci.linux_mut().as_mut().unwrap().set_resources(Some(resources));
    let (exit, output) = w.run(&spec).await;
    assert_ne!(exit.code, 0);
    assert!(output.stderr.contains("can't fork"), "{output:?}");
}

pub async fn pause_and_stats(w: &World) {
    let spec = w.sh("while :; do :; done");
    drop(w.begin(&spec).await);
    w.runtime.pause(&spec.id).await.unwrap();
    assert_eq!(w.runtime.state(&spec.id).await.unwrap().status, Status::Paused);
    let before = w.runtime.stats(&spec.id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let after = w.runtime.stats(&spec.id).await.unwrap();
    assert_eq!(before.cpu.usage_ns, after.cpu.usage_ns, "it ran while paused");
    assert!(after.memory.usage > 0 && after.pids_current >= 1, "{after:?}");
    assert!(w.runtime.pause(&spec.id).await.is_err());
    // The next daemon sees it as well.
    assert_eq!(w.reopened().state(&spec.id).await.unwrap().status, Status::Paused);
    w.runtime.resume(&spec.id).await.unwrap();
    assert_eq!(w.runtime.state(&spec.id).await.unwrap().status, Status::Running);
    w.runtime.pause(&spec.id).await.unwrap();
    // A frozen one can be killed.
    w.runtime.signal(&spec.id, 9, false).await.unwrap();
    assert_eq!(w.runtime.wait(&spec.id).await.unwrap().code, 137);
}

pub async fn update(w: &World) {
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    for mib in [64, 256, 32] {
        w.runtime.update(&spec.id, &memory(mib << 20)).await.unwrap();
        assert_eq!(w.runtime.stats(&spec.id).await.unwrap().memory.limit, (mib << 20) as u64);
    }
    // What is not named stays: the period with a new quota, the quota with a new period.
    let part = |quota: Option<i64>, period: Option<u64>| {
        let mut cpu = oci_spec::runtime::LinuxCpu::default();
        cpu.set_quota(quota).set_period(period);
        let mut resources = LinuxResources::default();
        resources.set_cpu(Some(cpu));
        resources
    };
    for (quota, period, now) in [
        (Some(10_000), Some(50_000), "10000 50000"),
        (Some(20_000), None, "20000 50000"),
        (None, Some(80_000), "20000 80000"),
    ] {
        w.runtime.update(&spec.id, &part(quota, period)).await.unwrap();
        let hierarchies = sys::cgroup::Hierarchies::find().unwrap();
        let folders = sys::cgroup::Cgroup::at(&hierarchies, &w.cgroup(&spec.id)).unwrap().folders();
        let told = folders.iter().find_map(|(_, folder)| {
            let read = |file: &str| std::fs::read_to_string(folder.join(file)).ok();
            let old = || Some(read("cpu.cfs_quota_us")? + &read("cpu.cfs_period_us")?);
            read("cpu.max").or_else(old)
        });
        let Some(told) = told else {
            println!("skipped: this kernel limits no CPU time");
            break;
        };
        assert_eq!(told.split_whitespace().collect::<Vec<_>>().join(" "), now);
    }
    let mut cpu = oci_spec::runtime::LinuxCpu::default();
    cpu.set_shares(Some(512_u64))
        .set_quota(Some(50_000_i64))
        .set_period(Some(100_000_u64))
        .set_cpus(Some("0".into()));
    let mut resources = LinuxResources::default();
    resources.set_cpu(Some(cpu));
    w.runtime.update(&spec.id, &resources).await.unwrap();
    let pid = w.runtime.state(&spec.id).await.unwrap().pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
}

/// A disk's limits, as the container's own group has them.
pub async fn disk_limits(w: &World) {
    let disk = std::fs::read_dir("/sys/block").unwrap().flatten().find_map(|entry| {
        let name = entry.file_name().into_string().unwrap();
        let real = ["vd", "sd", "nvme"].iter().any(|kind| name.starts_with(kind));
        real.then(|| std::fs::read_to_string(entry.path().join("dev")).unwrap().trim().to_owned())
    });
    let Some(disk) = disk else { return println!("skipped: this machine has no disk") };
    let (major, minor) = disk.split_once(':').unwrap();
    let limit = |rate: u64| {
        let device = LinuxThrottleDeviceBuilder::default()
            .major(major.parse::<i64>().unwrap())
            .minor(minor.parse::<i64>().unwrap())
            .rate(rate)
            .build()
            .unwrap();
        vec![device]
    };
    let resources = |bytes: u64| {
        let mut io = LinuxBlockIo::default();
        io.set_throttle_write_bps_device(Some(limit(bytes))).set_throttle_read_iops_device(Some(limit(77)));
        io.set_weight(Some(300_u16));
        let mut resources = LinuxResources::default();
        resources.set_block_io(Some(io)).set_devices(Some(defaults::device_rules()));
        resources
    };
    let mut spec = w.sh(
        "read line; cd /sys/fs/cgroup; cat io.max blkio/blkio.throttle.write_bps_device blkio/blkio.throttle.read_iops_device 2>/dev/null; \
         for f in io.bfq.weight io.weight blkio/blkio.bfq.weight blkio/blkio.weight; do [ -e $f ] && head -n 1 $f && break; done; true",
    );
    spec.io.stdin = runtime::StdinMode::Open;
    with_cgroup_namespace(&mut spec);
    spec.oci.linux_mut().as_mut().unwrap().set_resources(Some(resources(1 << 20)));
    let mut io = w.begin(&spec).await;
    w.runtime.update(&spec.id, &resources(2 << 20)).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(io.stdin.as_mut().unwrap(), b"\n").await.unwrap();
    let out = crate::world::collect(io).await.stdout;
    let unified = format!("{disk} rbps=max wbps=2097152 riops=77 wiops=max\n");
    let old = format!("{disk} 2097152\n{disk} 77\n");
    // What knows weights, if anything does, has been told the one that was asked for in its own measure.
    let weight = out.strip_prefix(&unified).or_else(|| out.strip_prefix(&old));
    assert!(weight.is_some_and(|w| ["", "300\n", "default 300\n", "default 2930\n"].contains(&w)), "{out:?}");
}

/// Its own group is the root of what it sees; in version 2 it sees the machine's groups without a namespace, and changes
/// none.
pub async fn cgroup_namespace(w: &World) {
    let script = "cat /proc/self/cgroup; ls /sys/fs/cgroup | head -3";
    let mut spec = w.sh(script);
    with_cgroup_namespace(&mut spec);
    let out = w.output_of(&spec).await;
    assert!(!out.contains(&spec.id) && out.contains(":/\n"), "{out}");
    let spec = w.sh("cat /proc/self/cgroup; cd /sys/fs/cgroup$(sed s/0::// /proc/self/cgroup) && grep -x 1 cgroup.procs; mkdir x 2>&1");
    if defaults::unified_cgroups() {
        let (_, output) = w.run(&spec).await;
        assert!(output.stdout.starts_with(&format!("0::{}\n1\n", w.cgroup(&spec.id))), "{output:?}");
        assert!(
            output.stdout.contains("mkdir: can't create directory 'x': Read-only file system"),
            "{output:?}"
        );
    }
}
