//! From a container's configuration to the runtime's specification.

mod devices;
mod limits;
mod mounts;
mod privilege;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, PosixRlimit,
    PosixRlimitBuilder, PosixRlimitType, Process, Spec, User,
};
use runtime::{ContainerSpec, IoSpec, LogSpec, Rootfs, StdinMode, defaults};

use devices::devices;
pub(crate) use devices::{node, parse_rule, rule};
pub(crate) use limits::resources;
use mounts::mounts;
pub(crate) use mounts::{inside, mount};
pub(crate) use privilege::{capabilities, capability, unmasked};
use privilege::{linux_capabilities, seccomp, security};

use crate::container::Asked;
use crate::error::{Result, invalid, system};
use crate::model::{Config, HostConfig};

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
    /// Another runtime's binary, and the arguments that it gets first.
    pub runtime: Option<(PathBuf, Vec<String>)>,
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
    let (runtime, runtime_args) = input.runtime.unzip();

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
        runtime_args: runtime_args.unwrap_or_default(),
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
        // Not the daemon's own, which may be protected.
        .set_oom_score_adj(i32::try_from(host.oom_score_adj).ok());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_parsers() {
        assert_eq!(number_list("0-2,5"), Some(vec![0, 1, 2, 5]));
        assert_eq!(number_list("2-1"), None);
    }

    #[test]
    fn environments() {
        let config = Config { env: vec!["PATH=/x".into(), "A=1".into()], tty: true, ..Config::default() };
        assert_eq!(environment(&config, "h", &[]), ["PATH=/x", "HOSTNAME=h", "TERM=xterm", "A=1"]);
        assert_eq!(merge_environment(vec!["A=1".into(), "B=2".into()], &["A".into(), "B=3".into()]), ["B=3"]);
    }
}
