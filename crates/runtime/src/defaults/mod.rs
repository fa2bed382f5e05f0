//! What a container has unless told otherwise: Docker's defaults.

mod calls;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilities, LinuxCapabilitiesBuilder, LinuxDeviceCgroup,
    LinuxDeviceType, LinuxNamespace, LinuxNamespaceType, LinuxResources, Mount, Process, Spec, User,
};

pub(crate) use calls::seccomp_profile;

/// The capabilities of a container's process.
pub const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Paths that a container sees empty.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that a container cannot write.
pub const READONLY_PATHS: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// PATH when the image has none.
pub const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The five sets of a process that has these capabilities (with or without `CAP_`); unknown names are left out.
/// As Docker does: bounding, effective and permitted, but not inheritable (CVE-2022-24769) or ambient.
pub fn capabilities<'a>(names: impl IntoIterator<Item = &'a str>) -> LinuxCapabilities {
    let known = |name: &str| {
        let name = name.to_ascii_uppercase();
        name.strip_prefix("CAP_").unwrap_or(&name).parse::<Capability>().ok()
    };
    let set: HashSet<Capability> = names.into_iter().filter_map(known).collect();
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
        .expect("every field of the builder is set")
}

/// Every capability that this machine can give, by name with `CAP_`: what `--privileged` and `--cap-add ALL` mean.
pub fn all_capabilities() -> Vec<String> {
    sys::caps::available().map(sys::caps::Set::names).unwrap_or_default()
}

fn mount(target: &str, kind: &str, source: &str, options: &[&str]) -> Mount {
    let mut m = Mount::default();
    m.set_destination(PathBuf::from(target))
        .set_typ(Some(kind.into()))
        .set_source(Some(PathBuf::from(source)))
        .set_options(Some(options.iter().map(|o| (*o).to_string()).collect()));
    m
}

/// A bind mount; options beside `rbind` and `rprivate` are the caller's (`ro`, say).
pub fn bind(source: &Path, target: &Path, options: &[&str]) -> Mount {
    let mut all = vec!["rbind", "rprivate"];
    all.extend(options);
    let mut m = mount("/", "bind", "/", &all);
    m.set_destination(target.into()).set_source(Some(source.into()));
    m
}

/// /proc, /dev and what is below it, /sys, /sys/fs/cgroup, in the order in which they are made. `shm_size` in bytes.
pub fn mounts(shm_size: u64) -> Vec<Mount> {
    let shm = format!("size={shm_size}");
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
    ]
}

/// Docker's size of /dev/shm, bytes.
pub const SHM_SIZE: u64 = 64 << 20;

fn device(
    allow: bool,
    kind: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut d = LinuxDeviceCgroup::default();
    d.set_allow(allow).set_typ(Some(kind)).set_major(major).set_minor(minor).set_access(Some(access.into()));
    d
}

/// Which device files may be used: any may be made, only the harmless ones opened.
pub fn device_rules() -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{A, B, C};
    let mut rules = vec![
        device(false, A, None, None, "rwm"),
        device(true, C, None, None, "m"),
        device(true, B, None, None, "m"),
    ];
    let usable: [(i64, Option<i64>); 9] = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(1)),
        (5, Some(2)),
        (136, None),
    ];
    rules.extend(usable.map(|(major, minor)| device(true, C, Some(major), minor, "rwm")));
    rules
}

/// Rules under which the devices that every container has can be made and used, whatever else the rules say: the
/// specification wants them there, and its runtimes allow them so.
pub fn with_standard_devices(rules: &[LinuxDeviceCgroup]) -> Vec<LinuxDeviceCgroup> {
    let mut all = rules.to_vec();
    if rules.iter().any(|rule| !rule.allow()) {
        all.extend(device_rules().into_iter().filter(|rule| rule.allow() && !rules.contains(rule)));
    }
    all
}

/// Device rules of a privileged container: everything.
pub fn all_devices() -> Vec<LinuxDeviceCgroup> {
    vec![device(true, LinuxDeviceType::A, None, None, "rwm")]
}

/// Whether this machine has cgroup version 2 only.
pub fn unified_cgroups() -> bool {
    static UNIFIED: OnceLock<bool> = OnceLock::new();
    *UNIFIED.get_or_init(|| Path::new("/sys/fs/cgroup/cgroup.controllers").exists())
}

/// A namespace to make.
pub fn namespace(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut n = LinuxNamespace::default();
    n.set_typ(kind).set_path(None);
    n
}

/// A namespace to join, such as `/proc/PID/ns/net`.
pub fn namespace_at(kind: LinuxNamespaceType, path: &Path) -> LinuxNamespace {
    let mut n = namespace(kind);
    n.set_path(Some(path.into()));
    n
}

/// A container of Docker's default shape that lacks its arguments, its cgroup's path and its host name: namespaces of
/// its own for mounts, pids, network, IPC and host name, root as user.
pub fn spec() -> Spec {
    let mut process = Process::default();
    process
        .set_terminal(Some(false))
        .set_user(User::default())
        .set_args(Some(Vec::new()))
        .set_env(Some(vec![PATH.into()]))
        .set_cwd(PathBuf::from("/"))
        .set_capabilities(Some(capabilities(CAPABILITIES)))
        .set_no_new_privileges(Some(false))
        .set_rlimits(None)
        .set_oom_score_adj(None);
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(device_rules()));
    let strings = |list: &[&str]| list.iter().map(|s| (*s).to_string()).collect::<Vec<_>>();
    let linux = LinuxBuilder::default()
        .namespaces(
            [
                LinuxNamespaceType::Mount,
                LinuxNamespaceType::Network,
                LinuxNamespaceType::Uts,
                LinuxNamespaceType::Pid,
                LinuxNamespaceType::Ipc,
            ]
            .map(namespace),
        )
        .masked_paths(strings(&MASKED_PATHS))
        .readonly_paths(strings(&READONLY_PATHS))
        .resources(resources)
        .build()
        .expect("every field of the builder is optional");
    let mut spec = Spec::default();
    spec.set_version("1.0.2".into())
        .set_root(None)
        .set_hostname(None)
        .set_process(Some(process))
        .set_mounts(Some(mounts(SHM_SIZE)))
        .set_linux(Some(linux));
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes() {
        let spec = spec();
        let caps = spec.process().as_ref().unwrap().capabilities().as_ref().unwrap();
        assert_eq!(caps.bounding().as_ref().unwrap().len(), 14);
        assert!(caps.inheritable().as_ref().unwrap().is_empty());
        assert_eq!(
            capabilities(["cap_sys_admin", "NET_ADMIN", "nope"]).effective().as_ref().unwrap().len(),
            2
        );
        let round: Spec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(round, spec);
    }
}
