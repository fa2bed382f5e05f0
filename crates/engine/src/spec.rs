//! From a container's configuration to the runtime's specification.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oci_spec::runtime::{
    Capability, LinuxBlockIo, LinuxCapabilities, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType,
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxPids,
    LinuxResources, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder, Mount, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType, Process, Spec, User,
};
use runtime::{ContainerSpec, IoSpec, LogSpec, Rootfs, SeccompProfile, StdinMode, defaults};

use crate::container::Asked;
use crate::error::{Error, Result, invalid, system};
use crate::model::{Config, HostConfig};
use crate::mounts::MountPoint;

/// Whether this machine has the unified cgroup hierarchy.
pub(crate) fn cgroup_v2() -> bool {
    static V2: OnceLock<bool> = OnceLock::new();
    *V2.get_or_init(|| Path::new("/sys/fs/cgroup/cgroup.controllers").exists())
}

/// How many CPUs this machine has.
pub(crate) fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// `0-2,5` as numbers.
pub(crate) fn number_list(text: &str) -> Option<Vec<u32>> {
    let mut out = Vec::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to): (u32, u32) = (from.trim().parse().ok()?, to.trim().parse().ok()?);
        if from > to || to > 8191 {
            return None;
        }
        out.extend(from..=to);
    }
    Some(out)
}

/// Go's `strconv.ParseBool`.
pub(crate) fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// Whether the kernel's files are shown as they are (`--security-opt systempaths=unconfined`).
pub(crate) fn unmasked(host: &HostConfig) -> bool {
    host.privileged || security(host, "systempaths") == Some("unconfined")
}

/// A capability's name with `CAP_`; `None` is `ALL`.
pub(crate) fn capability(name: &str) -> Result<Option<String>> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if bare == "ALL" {
        return Ok(None);
    }
    match bare.parse::<Capability>() {
        Ok(_) => Ok(Some(format!("CAP_{bare}"))),
        Err(_) => Err(invalid(format!("unknown capability: \"{name}\""))),
    }
}

/// Docker's default set, changed by `--cap-add` and `--cap-drop`; everything if privileged.
pub(crate) fn capabilities(host: &HostConfig) -> Result<BTreeSet<String>> {
    if host.privileged {
        return Ok(defaults::all_capabilities().into_iter().collect());
    }
    let mut set: BTreeSet<String> = defaults::CAPABILITIES.iter().map(|c| (*c).to_owned()).collect();
    let all = |list: &[String]| list.iter().any(|c| matches!(capability(c), Ok(None)));
    if all(&host.cap_drop) {
        set.clear();
    }
    if all(&host.cap_add) {
        set = defaults::all_capabilities().into_iter().collect();
    }
    for name in &host.cap_drop {
        if let Some(c) = capability(name)? {
            set.remove(&c);
        }
    }
    for name in &host.cap_add {
        set.extend(capability(name)?);
    }
    Ok(set)
}

fn linux_capabilities(host: &HostConfig) -> Result<LinuxCapabilities> {
    let names = capabilities(host)?;
    Ok(defaults::capabilities(names.iter().map(String::as_str)))
}

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

/// The environment: PATH, HOSTNAME and TERM, what links say, then what was asked for; later ones replace earlier.
pub(crate) fn environment(config: &Config, hostname: &str, links: &[String]) -> Vec<String> {
    let mut base = vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
    if !hostname.is_empty() {
        base.push(format!("HOSTNAME={hostname}"));
    }
    if config.tty {
        base.push("TERM=xterm".to_owned());
    }
    base.extend(links.iter().cloned());
    merge_environment(base, &config.env)
}

/// Adds variables to an environment; `NAME` alone removes one.
pub(crate) fn merge_environment(mut base: Vec<String>, more: &[String]) -> Vec<String> {
    for variable in more {
        let name = variable.split('=').next().unwrap_or(variable);
        let at = base.iter().position(|v| v.split('=').next() == Some(name));
        match (at, variable.contains('=')) {
            (Some(at), true) => base[at].clone_from(variable),
            (Some(at), false) => {
                base.remove(at);
            }
            (None, true) => base.push(variable.clone()),
            (None, false) => {}
        }
    }
    base
}

pub(crate) fn mount(destination: &str, kind: &str, source: impl Into<PathBuf>, options: &[&str]) -> Mount {
    let mut m = Mount::default();
    m.set_destination(destination.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.iter().map(|o| (*o).to_owned()).collect()));
    m
}

fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut ns = LinuxNamespace::default();
    ns.set_typ(kind);
    ns.set_path(path);
    ns
}

/// Where a container's namespaces come from, with `container:` references resolved to processes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Joined {
    /// The process whose network namespace is joined.
    pub net: Option<u32>,
    /// The process whose IPC namespace is joined.
    pub ipc: Option<u32>,
    /// The process whose pid namespace is joined.
    pub pid: Option<u32>,
}

/// Everything the specification is made from, beside the configuration.
pub(crate) struct Input<'a> {
    pub id: &'a str,
    pub asked: &'a Asked,
    pub rootfs: Rootfs,
    pub hostname: String,
    /// Links' variables.
    pub link_env: Vec<String>,
    /// Additional groups that were given by name.
    pub groups: Vec<u32>,
    pub joined: Joined,
    /// The folder with hostname, hosts and resolv.conf; none are mounted without it.
    pub files: Option<PathBuf>,
    pub log: LogSpec,
    /// The cgroup of this container.
    pub cgroup: String,
    /// The layers of images that are mounted, top first, by destination.
    pub image_mounts: HashMap<String, Vec<PathBuf>>,
    /// Where devices are described, for the Container Device Interface.
    pub cdi_dirs: Vec<PathBuf>,
}

/// Makes the specification.
pub(crate) fn build(input: Input<'_>) -> Result<ContainerSpec> {
    let (config, host) = (&input.asked.config, &input.asked.host);
    let mut spec: Spec = defaults::spec();
    let mut process = process(config, host, &input.hostname, &input.link_env, &input.groups)?;
    process.set_args(Some(input.asked.args.clone()));
    spec.set_process(Some(process));
    spec.set_hostname(Some(input.hostname.clone()).filter(|_| host.uts_mode != "host"));
    spec.set_domainname(Some(config.domainname.clone()).filter(|d| !d.is_empty()));

    let mut linux = spec.linux().clone().unwrap_or_default();
    linux.set_namespaces(Some(namespaces(host, &input.joined, input.asked.ids.is_some())));
    if let Some(ids) = &input.asked.ids {
        linux.set_uid_mappings(Some(mappings(&ids.uids)?)).set_gid_mappings(Some(mappings(&ids.gids)?));
    }
    linux.set_cgroups_path(Some(PathBuf::from(&input.cgroup)));
    linux.set_sysctl(Some(sysctls(host, input.asked.ids.is_some())).filter(|s| !s.is_empty()));
    let mut limits = resources(host);
    let (nodes, mut rules) = devices(host)?;
    if host.privileged {
        rules = defaults::all_devices();
    } else {
        let mut all = linux.resources().as_ref().and_then(|r| r.devices().clone()).unwrap_or_default();
        all.append(&mut rules);
        rules = all;
    }
    for text in &host.device_cgroup_rules {
        rules.push(parse_rule(text)?);
    }
    limits.set_devices(Some(rules));
    linux.set_resources(Some(limits));
    if !nodes.is_empty() {
        let mut all = linux.devices().clone().unwrap_or_default();
        all.retain(|d| !nodes.iter().any(|n| n.path() == d.path()));
        all.extend(nodes);
        linux.set_devices(Some(all));
    }
    if unmasked(host) {
        linux.set_masked_paths(None).set_readonly_paths(None);
    }
    if let Some(paths) = &host.masked_paths {
        linux.set_masked_paths(Some(paths.clone()));
    }
    if let Some(paths) = &host.readonly_paths {
        linux.set_readonly_paths(Some(paths.clone()));
    }
    linux.set_seccomp(None);
    let shared = input.asked.mounts.iter().any(|m| matches!(m.propagation.as_str(), "shared" | "rshared"));
    let slave = input.asked.mounts.iter().any(|m| matches!(m.propagation.as_str(), "slave" | "rslave"));
    linux.set_rootfs_propagation(match (shared, slave) {
        (true, _) => Some("shared".to_owned()),
        (_, true) => Some("rslave".to_owned()),
        _ => None,
    });
    spec.set_linux(Some(linux));
    let basic = spec.mounts().clone().unwrap_or_default();
    spec.set_mounts(Some(mounts(basic, &input)?));

    crate::cdi::inject(&input.cdi_dirs, &host.device_requests, &mut spec)?;
    let runtime = crate::runtimes::find(&host.runtime)?;

    let stdin = match (config.open_stdin, config.stdin_once) {
        (false, _) => StdinMode::Closed,
        (true, true) => StdinMode::OpenOnce,
        (true, false) => StdinMode::Open,
    };
    let size = match host.console_size {
        [0, _] | [_, 0] => None,
        [rows, columns] => Some((rows, columns)),
    };
    Ok(ContainerSpec {
        id: input.id.to_owned(),
        oci: spec,
        rootfs: input.rootfs,
        io: IoSpec { tty: config.tty, stdin, log: input.log, size },
        runtime,
        // In another's pid namespace there is somebody who reaps.
        init: host.init.unwrap_or(false) && host.pid_mode.is_empty(),
        seccomp: seccomp(host)?,
        annotations: host.annotations.clone(),
        labels: [(crate::OWNER_LABEL.to_owned(), "engine".to_owned())].into(),
    })
}

/// Kernel parameters: what was asked for, over what every container with a network of its own gets: sockets for ping
/// and low ports for everyone in it.
fn sysctls(host: &HostConfig, mapped: bool) -> HashMap<String, String> {
    let mut all = HashMap::new();
    if host.network_mode != "host" && !host.network_mode.starts_with("container:") {
        for (name, value) in
            [("net.ipv4.ping_group_range", "0 2147483647"), ("net.ipv4.ip_unprivileged_port_start", "0")]
        {
            // A range of groups that a user namespace does not have is refused.
            let possible = !(mapped && name.ends_with("ping_group_range"));
            if possible && Path::new("/proc/sys").join(name.replace('.', "/")).exists() {
                all.insert(name.to_owned(), value.to_owned());
            }
        }
    }
    all.extend(host.sysctls.clone());
    all
}

/// A process with everything but its arguments.
pub(crate) fn process(
    config: &Config,
    host: &HostConfig,
    hostname: &str,
    link_env: &[String],
    groups: &[u32],
) -> Result<Process> {
    let mut process = Process::default();
    process
        .set_terminal(Some(config.tty))
        .set_env(Some(environment(config, hostname, link_env)))
        .set_cwd(if config.working_dir.is_empty() { "/".into() } else { config.working_dir.clone().into() })
        .set_user(user(&config.user, groups))
        .set_capabilities(Some(linux_capabilities(host)?))
        .set_rlimits(Some(rlimits(host)?))
        .set_no_new_privileges(Some(
            security(host, "no-new-privileges").is_some_and(|v| v.is_empty() || truth(v) == Some(true)),
        ))
        .set_apparmor_profile(None)
        .set_oom_score_adj(i32::try_from(host.oom_score_adj).ok().filter(|a| *a != 0));
    Ok(process)
}

/// A user expression for the runtime, which looks names up inside the container's root.
pub(crate) fn user(expression: &str, groups: &[u32]) -> User {
    let mut user = User::default();
    user.set_username(Some(if expression.is_empty() { "0".to_owned() } else { expression.to_owned() }));
    if !groups.is_empty() {
        user.set_additional_gids(Some(groups.to_vec()));
    }
    user
}

/// `--security-opt name=value` (or with a colon, as of old; or the name alone).
fn security<'a>(host: &'a HostConfig, name: &str) -> Option<&'a str> {
    host.security_opt.iter().find_map(|option| {
        let rest = option.strip_prefix(name)?;
        if rest.is_empty() { Some("") } else { rest.strip_prefix(['=', ':']) }
    })
}

fn seccomp(host: &HostConfig) -> Result<SeccompProfile> {
    if host.privileged {
        return Ok(SeccompProfile::Unconfined);
    }
    match security(host, "seccomp") {
        None | Some("builtin" | "") => Ok(SeccompProfile::Default),
        Some("unconfined") => Ok(SeccompProfile::Unconfined),
        Some(profile) => {
            serde_json::from_str::<serde_json::Value>(profile)
                .map_err(|e| invalid(format!("Decoding seccomp profile failed: {e}")))?;
            Ok(SeccompProfile::Docker(profile.to_owned()))
        }
    }
}

fn rlimits(host: &HostConfig) -> Result<Vec<PosixRlimit>> {
    host.ulimits
        .iter()
        .map(|u| {
            let name = format!("RLIMIT_{}", u.name.to_ascii_uppercase());
            let kind: PosixRlimitType = serde_json::from_value(serde_json::Value::String(name))
                .map_err(|_| invalid(format!("invalid ulimit type: {}", u.name)))?;
            if u.soft > u.hard && u.hard >= 0 {
                return Err(invalid(format!(
                    "ulimit soft limit must be less than or equal to hard limit: {} > {}",
                    u.soft, u.hard
                )));
            }
            // -1 is RLIM_INFINITY
            PosixRlimitBuilder::default()
                .typ(kind)
                .soft(u.soft as u64)
                .hard(u.hard as u64)
                .build()
                .map_err(|e| invalid(format!("ulimit {}: {e}", u.name)))
        })
        .collect()
}

fn mappings(map: &[(u32, u32, u32)]) -> Result<Vec<LinuxIdMapping>> {
    map.iter()
        .map(|&(inside, outside, count)| {
            LinuxIdMappingBuilder::default()
                .container_id(inside)
                .host_id(outside)
                .size(count)
                .build()
                .map_err(|e| system(format!("id mapping: {e}")))
        })
        .collect()
}

fn namespaces(host: &HostConfig, joined: &Joined, mapped: bool) -> Vec<LinuxNamespace> {
    let of = |pid: u32, name: &str| Some(PathBuf::from(format!("/proc/{pid}/ns/{name}")));
    let mut out = vec![namespace(LinuxNamespaceType::Mount, None)];
    if mapped {
        // Whoever joins another's namespaces must be in the user namespace that they belong to.
        let owner = joined.net.or(joined.ipc).or(joined.pid);
        out.push(namespace(LinuxNamespaceType::User, owner.and_then(|p| of(p, "user"))));
    }
    if host.network_mode != "host" {
        out.push(namespace(LinuxNamespaceType::Network, joined.net.and_then(|p| of(p, "net"))));
    }
    if host.ipc_mode != "host" {
        out.push(namespace(LinuxNamespaceType::Ipc, joined.ipc.and_then(|p| of(p, "ipc"))));
    }
    if host.pid_mode != "host" {
        out.push(namespace(LinuxNamespaceType::Pid, joined.pid.and_then(|p| of(p, "pid"))));
    }
    if host.uts_mode != "host" {
        out.push(namespace(LinuxNamespaceType::Uts, None));
    }
    if host.cgroupns_mode == "private" {
        out.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    out
}

pub(crate) fn rule(
    kind: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(true);
    rule.set_typ(kind.or(Some(LinuxDeviceType::A)));
    rule.set_major(major);
    rule.set_minor(minor);
    rule.set_access(Some(access.to_owned()));
    rule
}

/// `c 42:* rmw`
fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let bad = || invalid(format!("invalid device cgroup rule format: '{text}'"));
    let mut words = text.split_whitespace();
    let (Some(kind), Some(numbers), Some(access), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(bad());
    };
    let kind = match kind {
        "a" => LinuxDeviceType::A,
        "b" => LinuxDeviceType::B,
        "c" => LinuxDeviceType::C,
        _ => return Err(bad()),
    };
    let number = |t: &str| if t == "*" { Ok(None) } else { t.parse().map(Some).map_err(|_| bad()) };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    if access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
        return Err(bad());
    }
    Ok(rule(Some(kind), number(major)?, number(minor)?, access))
}

/// Nodes to make and what the cgroup permits, from `--device` and, when privileged, all of this machine's.
fn devices(host: &HostConfig) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
    let mut nodes = Vec::new();
    let mut rules = Vec::new();
    if host.privileged {
        for path in device_files(Path::new("/dev")) {
            nodes.extend(node(&path, &path));
        }
    }
    for mapping in &host.devices {
        let source = Path::new(&mapping.path_on_host);
        let target = Path::new(if mapping.path_in_container.is_empty() {
            &mapping.path_on_host
        } else {
            &mapping.path_in_container
        });
        let access = if mapping.cgroup_permissions.is_empty() { "rwm" } else { &mapping.cgroup_permissions };
        let gather = |e: std::io::Error| {
            invalid(format!(
                "error gathering device information while adding custom device \"{}\": {e}",
                mapping.path_on_host
            ))
        };
        let real = std::fs::canonicalize(source).map_err(gather)?;
        let files = if real.is_dir() { device_files(&real) } else { vec![real.clone()] };
        for file in files {
            let inside = match file.strip_prefix(&real) {
                Ok(rest) if !rest.as_os_str().is_empty() => target.join(rest),
                _ => target.to_owned(),
            };
            let device = node(&file, &inside).ok_or_else(|| {
                invalid(format!(
                    "error gathering device information while adding custom device \"{}\": not a device node",
                    mapping.path_on_host
                ))
            })?;
            rules.push(rule(Some(device.typ()), Some(device.major()), Some(device.minor()), access));
            nodes.push(device);
        }
    }
    Ok((nodes, rules))
}

/// Device nodes below a folder; not terminals and not what the container has of its own.
fn device_files(dir: &Path) -> Vec<PathBuf> {
    let skip: BTreeSet<&str> =
        ["pts", "shm", "mqueue", "fd", "stdin", "stdout", "stderr", "console", "ptmx", "core"].into();
    let mut out = Vec::new();
    let mut stack = vec![dir.to_owned()];
    while let Some(dir) = stack.pop() {
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let name = entry.file_name();
            if name.to_str().is_some_and(|n| skip.contains(n)) {
                continue;
            }
            match entry.file_type() {
                Ok(t) if t.is_dir() => stack.push(entry.path()),
                Ok(t) if t.is_char_device() || t.is_block_device() => out.push(entry.path()),
                _ => {}
            }
        }
    }
    out
}

pub(crate) fn node(source: &Path, target: &Path) -> Option<LinuxDevice> {
    let meta = std::fs::metadata(source).ok()?;
    let kind = match meta.file_type() {
        t if t.is_char_device() => LinuxDeviceType::C,
        t if t.is_block_device() => LinuxDeviceType::B,
        _ => return None,
    };
    let mut device = LinuxDevice::default();
    device.set_path(target.to_owned());
    device.set_typ(kind);
    device.set_major(rustix::fs::major(meta.rdev()).into());
    device.set_minor(rustix::fs::minor(meta.rdev()).into());
    device.set_file_mode(Some(meta.mode() & 0o7777));
    device.set_uid(Some(meta.uid()));
    device.set_gid(Some(meta.gid()));
    Some(device)
}

fn mounts(mut all: Vec<Mount>, input: &Input<'_>) -> Result<Vec<Mount>> {
    let host = &input.asked.host;
    let writable_cgroups = security(host, "writable-cgroups")
        .map_or(host.privileged, |v| v.is_empty() || truth(v) == Some(true));
    for m in &mut all {
        match m.destination().to_str() {
            Some("/dev/shm") => {
                let size = format!("size={}", host.shm_size);
                *m = mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &size]);
            }
            Some("/sys/fs/cgroup") if writable_cgroups => {
                let mut options = m.options().clone().unwrap_or_default();
                options.retain(|o| o != "ro");
                m.set_options(Some(options));
            }
            Some("/sys") if host.privileged => {
                let mut options = m.options().clone().unwrap_or_default();
                options.retain(|o| o != "ro");
                m.set_options(Some(options));
            }
            _ => {}
        }
    }
    if host.ipc_mode == "none" {
        all.retain(|m| m.destination() != Path::new("/dev/shm"));
    }
    if let (Some(pid), Ok(None)) = (input.joined.ipc, crate::runtimes::find(&host.runtime)) {
        // What the IPC namespace is for the kernel, /dev/shm is for the C library.
        let theirs = format!("/proc/{pid}/root/dev/shm");
        all.retain(|m| m.destination() != Path::new("/dev/shm"));
        all.push(mount("/dev/shm", "bind", theirs, &["rbind", "rprivate"]));
    }
    if host.ipc_mode == "host" {
        all.retain(|m| !matches!(m.destination().to_str(), Some("/dev/shm" | "/dev/mqueue")));
        all.push(mount("/dev/shm", "bind", "/dev/shm", &["rbind", "rprivate"]));
        if Path::new("/dev/mqueue").exists() {
            all.push(mount("/dev/mqueue", "bind", "/dev/mqueue", &["rbind", "rprivate"]));
        }
    }
    let mut own = Vec::new();
    for point in &input.asked.mounts {
        own.push(user_mount(point, &input.image_mounts, input.asked.ids.is_some())?);
    }
    if let Some(dir) = &input.files {
        for (file, target) in
            [("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname"), ("hosts", "/etc/hosts")]
        {
            let taken = input.asked.mounts.iter().any(|m| m.destination == target);
            if !taken {
                let writable = if host.readonly_rootfs { "ro" } else { "rw" };
                all.push(mount(target, "bind", dir.join(file), &["rbind", "rprivate", writable]));
            }
        }
    }
    // What the user mounts wins over a default at the same place or below it.
    all.retain(|m| {
        !input.asked.mounts.iter().any(|p| {
            let below = p.destination != "/etc" && m.destination().starts_with(&p.destination);
            below || m.destination() == Path::new(&p.destination)
        })
    });
    // Mounts at or above /etc come before the three files in it.
    let (above, rest): (Vec<_>, Vec<_>) = own.into_iter().partition(|m| {
        all.iter().any(|d| d.destination().starts_with(m.destination()) && d.destination() != m.destination())
    });
    let first_file = all.iter().position(|m| m.destination().starts_with("/etc")).unwrap_or(all.len());
    for (n, m) in above.into_iter().enumerate() {
        all.insert(first_file + n, m);
    }
    all.extend(rest);
    Ok(all)
}

fn user_mount(point: &MountPoint, images: &HashMap<String, Vec<PathBuf>>, mapped: bool) -> Result<Mount> {
    match point.kind.as_str() {
        "tmpfs" => {
            let mut options = vec!["noexec", "nosuid", "nodev"];
            for given in &point.tmpfs {
                match given.as_str() {
                    "exec" => options.retain(|o| *o != "noexec"),
                    "suid" => options.retain(|o| *o != "nosuid"),
                    "dev" => options.retain(|o| *o != "nodev"),
                    "rw" => {}
                    other => options.push(other),
                }
            }
            if !point.rw {
                options.push("ro");
            }
            Ok(mount(&point.destination, "tmpfs", "tmpfs", &options))
        }
        "image" => {
            let layers = images.get(&point.destination).map_or(&[][..], Vec::as_slice);
            match layers {
                [] => Err(system(format!(
                    "image {} of mount {} is not prepared",
                    point.name, point.destination
                ))),
                [only] if mapped => {
                    Ok(mount(&point.destination, "bind", only, &["bind", "ro", "rprivate", "idmap"]))
                }
                [only] => Ok(mount(&point.destination, "bind", only, &["rbind", "ro", "rprivate"])),
                several if mapped => Err(Error::NotImplemented(format!(
                    "image {} of mount {} has {} layers, which cannot be mounted together for a container with user ids \
                     of its own (userns-remap): run it with --userns=host",
                    point.name,
                    point.destination,
                    several.len()
                ))),
                several => {
                    let list: Vec<String> = several.iter().map(|l| l.display().to_string()).collect();
                    Ok(mount(
                        &point.destination,
                        "overlay",
                        "overlay",
                        &["ro", &format!("lowerdir={}", list.join(":"))],
                    ))
                }
            }
        }
        _ => {
            let bind = if point.non_recursive { "bind" } else { "rbind" };
            let propagation = if point.propagation.is_empty() { "rprivate" } else { &point.propagation };
            let mut options = vec![bind, propagation];
            match (point.rw, point.read_only_top) {
                // What is read-only at its source stays so.
                (true, _) => {}
                (false, true) => options.push("ro"),
                // Read-only means what is mounted below it, too, unless the request says otherwise.
                (false, false) => options.push("rro"),
            }
            let part = format!("{}{}", runtime::SUBPATH, point.subpath.trim_start_matches('/'));
            if !point.subpath.is_empty() {
                inside(&point.source, &point.subpath, &point.name)?;
                options.push(&part);
            }
            Ok(mount(&point.destination, "bind", &point.source, &options))
        }
    }
}

/// A folder or file below a root; symbolic links must not lead out of it.
pub(crate) fn inside(root: &Path, subpath: &str, what: &str) -> Result<PathBuf> {
    let bad = |why: &str| invalid(format!("subpath {subpath:?} of {what}: {why}"));
    let root = std::fs::canonicalize(root).map_err(Error::io(root.display()))?;
    let real =
        std::fs::canonicalize(root.join(subpath.trim_start_matches('/'))).map_err(|e| bad(&e.to_string()))?;
    if !real.starts_with(&root) {
        return Err(bad("it leads out of its root"));
    }
    Ok(real)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_parsers() {
        assert_eq!(number_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(number_list("2-1"), None);
        assert!(parse_rule("c 42:* rmw").is_ok());
        assert!(parse_rule("c 42 rmw").is_err());
        assert!(capability("net_admin").unwrap().is_some());
        assert!(capability("ALL").unwrap().is_none());
        assert!(capability("fly").is_err());
    }

    #[test]
    fn capability_sets() {
        let set = |add: &[&str], drop: &[&str]| {
            let strings = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect();
            capabilities(&HostConfig {
                cap_add: strings(add),
                cap_drop: strings(drop),
                ..HostConfig::default()
            })
            .unwrap()
        };
        assert!(set(&[], &[]).contains("CAP_CHOWN"));
        assert!(!set(&[], &["CHOWN"]).contains("CAP_CHOWN"));
        assert_eq!(set(&["net_admin"], &["ALL"]), ["CAP_NET_ADMIN".to_owned()].into());
        assert_eq!(set(&["ALL"], &[]), runtime::defaults::all_capabilities().into_iter().collect());
    }

    #[test]
    fn environments() {
        let config = Config { env: vec!["PATH=/x".into(), "A=1".into()], tty: true, ..Config::default() };
        assert_eq!(environment(&config, "h", &[]), ["PATH=/x", "HOSTNAME=h", "TERM=xterm", "A=1"]);
        assert_eq!(merge_environment(vec!["A=1".into(), "B=2".into()], &["A".into(), "B=3".into()]), ["B=3"]);
    }

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
