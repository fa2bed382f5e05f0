//! What a create or update request may ask for: refusals in Docker's words, and defaults filled in.

use oci_spec::runtime::LinuxNamespaceType;

use crate::error::{Result, conflict, invalid};
use crate::limits;
use crate::model::{Config, HostConfig, RestartPolicy};

/// /dev/shm unless told otherwise: 64 MiB.
pub(crate) const SHM_SIZE: i64 = 64 * 1024 * 1024;
/// A container's IPC namespace unless told otherwise.
pub(crate) const IPC_MODE: &str = "private";

/// A container's cgroup namespace unless told otherwise, as with the original: its own where there is cgroup v2 alone.
pub(crate) fn cgroupns_mode() -> &'static str {
    if runtime::defaults::unified_cgroups() { "private" } else { "host" }
}

/// Checks a container's own configuration.
pub(crate) fn config(config: &Config) -> Result<()> {
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    for variable in &config.env {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(invalid(format!("invalid environment variable: {variable}")));
        }
    }
    if let Some(signal) = &config.stop_signal
        && !signal.is_empty()
    {
        parse_signal(signal)?;
    }
    if config.hostname.len() > 64 {
        return Err(invalid(format!("hostname {:?} is too long (maximum 64 bytes)", config.hostname)));
    }
    if spoils_line(&config.hostname) {
        return Err(invalid(format!("invalid hostname: {:?}", config.hostname)));
    }
    if spoils_line(&config.domainname) {
        return Err(invalid(format!("invalid domain name: {:?}", config.domainname)));
    }
    if let Some(check) = &config.healthcheck {
        for (what, value) in [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
        ] {
            if value != 0 && value < 1_000_000 {
                return Err(invalid(format!("{what} in Healthcheck cannot be less than 1ms")));
            }
        }
        if check.retries < 0 {
            return Err(invalid("Retries in Healthcheck cannot be negative"));
        }
        if let Some(kind) = check.test.first()
            && !matches!(kind.as_str(), "" | "NONE" | "CMD" | "CMD-SHELL")
        {
            return Err(invalid(format!("Unknown health check type: {kind}")));
        }
    }
    Ok(())
}

/// Whether a text would be more than one word of a line in hosts or resolv.conf.
fn spoils_line(text: &str) -> bool {
    text.contains(|c: char| c.is_control() || c.is_whitespace())
}

/// Refuses combinations of the two configurations that contradict each other.
pub(crate) fn together(config: &Config, host: &HostConfig) -> Result<()> {
    if host.uts_mode == "host" && !config.hostname.is_empty() {
        return Err(invalid("conflicting options: hostname and the UTS mode"));
    }
    if !host.network_mode.starts_with("container:") {
        return Ok(());
    }
    if !config.hostname.is_empty() {
        return Err(invalid("conflicting options: hostname and the network mode"));
    }
    if !config.exposed_ports.is_empty() {
        return Err(invalid("conflicting options: port exposing and the container type network mode"));
    }
    Ok(())
}

/// Who judges each field, and who carries it out. Without `..`, so that the compiler asks whoever adds one; a field that
/// nobody is named for is taken from the client, shown to the next, and forgotten in between.
fn every_field(host: &HostConfig) {
    let HostConfig {
        // Judged by `host`; carried out by `start` and `restart`.
        restart_policy: _,
        auto_remove: _,
        runtime: _,
        isolation: _,
        annotations: _,
        log_config: _,
        // Judged by `mounts`, `storage_opt` by `create`; carried out by `spec::mounts` and `volumes`.
        binds: _,
        mounts: _,
        tmpfs: _,
        volumes_from: _,
        volume_driver: _,
        readonly_rootfs: _,
        storage_opt: _,
        shm_size: _,
        // Judged by `host`, ports by `ports`; carried out by `connect`, `ports` and `files`.
        network_mode: _,
        port_bindings: _,
        publish_all_ports: _,
        links: _,
        extra_hosts: _,
        dns: _,
        dns_options: _,
        dns_search: _,
        // Judged by `host`, `create` and `userns`; carried out by `spec`.
        ipc_mode: _,
        pid_mode: _,
        uts_mode: _,
        userns_mode: _,
        cgroupns_mode: _,
        cgroup_parent: _,
        oom_score_adj: _,
        sysctls: _,
        init: _,
        console_size: _,
        masked_paths: _,
        readonly_paths: _,
        ulimits: _,
        group_add: _,
        // Judged by `host`; carried out by `spec::privilege` and `spec::devices`.
        privileged: _,
        cap_add: _,
        cap_drop: _,
        security_opt: _,
        devices: _,
        device_cgroup_rules: _,
        device_requests: _,
        // Judged by `limits`; carried out by `spec::limits`, and by `lifecycle` when they change.
        cpu_shares: _,
        nano_cpus: _,
        cpu_period: _,
        cpu_quota: _,
        cpu_realtime_period: _,
        cpu_realtime_runtime: _,
        cpuset_cpus: _,
        cpuset_mems: _,
        memory: _,
        memory_reservation: _,
        memory_swap: _,
        memory_swappiness: _,
        oom_kill_disable: _,
        pids_limit: _,
        blkio_weight: _,
        blkio_weight_device: _,
        blkio_device_read_bps: _,
        blkio_device_write_bps: _,
        blkio_device_read_iops: _,
        blkio_device_write_iops: _,
        // Of Windows: without effect, the last three with a warning of `limits`.
        cpu_count: _,
        cpu_percent: _,
        io_maximum_iops: _,
        io_maximum_bandwidth: _,
        // The client's own; a cgroup to join, which the original has never carried out.
        container_id_file: _,
        cgroup: _,
    } = host;
}

/// Checks what it wants of the host, and fills in defaults; warnings say what this machine cannot do.
pub(crate) fn host(host: &mut HostConfig) -> Result<Vec<String>> {
    every_field(host);
    let mut warnings = limits::check(host, false)?;
    restart_policy(&host.restart_policy)?;
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return Err(invalid("can't create 'AutoRemove' container with restart policy"));
    }
    if !matches!(host.isolation.as_str(), "" | "default") {
        return Err(invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        )));
    }
    if host.annotations.contains_key("") {
        return Err(invalid("invalid Annotations: the empty string is not permitted as an annotation key"));
    }
    security_options(host)?;
    let labelled = host.security_opt.iter().any(|o| o.split('=').next() == Some("label"));
    if !labelled && (host.privileged || host.ipc_mode == "host" || host.pid_mode == "host") {
        host.security_opt.push("label=disable".into());
    }
    let profile =
        host.security_opt.iter().find_map(|o| o.strip_prefix("apparmor=").or(o.strip_prefix("apparmor:")));
    if profile.is_some_and(|p| !matches!(p, "" | "unconfined")) && apparmor() {
        warnings
            .push("AppArmor profiles are not applied to containers: the profile is discarded.".to_owned());
    }
    // Below this there is no limit at all.
    host.pids_limit = host.pids_limit.filter(|l| *l > 0);
    if host.restart_policy.name.is_empty() {
        host.restart_policy.name = "no".into();
    }
    if host.shm_size < 0 {
        return Err(invalid("SHM size can not be less than 0"));
    }
    if host.shm_size == 0 {
        host.shm_size = SHM_SIZE;
    }
    if host.memory > 0 && host.memory_swap == 0 {
        host.memory_swap = host.memory * 2;
    }
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        return Err(invalid(format!(
            "Invalid value {}, range for oom score adj is [-1000, 1000]",
            host.oom_score_adj
        )));
    }
    match host.network_mode.as_str() {
        "" | "default" => host.network_mode = "bridge".into(),
        _ => {}
    }
    if host.ipc_mode.is_empty() {
        host.ipc_mode = IPC_MODE.into();
    }
    if !matches!(host.ipc_mode.as_str(), "private" | "shareable" | "host" | "none")
        && !host.ipc_mode.starts_with("container:")
    {
        return Err(invalid(format!("invalid IPC mode: {}", host.ipc_mode)));
    }
    if !matches!(host.pid_mode.as_str(), "" | "host") && !host.pid_mode.starts_with("container:") {
        return Err(invalid(format!("invalid PID mode: {}", host.pid_mode)));
    }
    if !matches!(host.uts_mode.as_str(), "" | "host") {
        return Err(invalid(format!("invalid UTS mode: {}", host.uts_mode)));
    }
    if !matches!(host.userns_mode.as_str(), "" | "host") {
        return Err(invalid(format!("invalid user namespace mode: {}", host.userns_mode)));
    }
    if !matches!(host.cgroupns_mode.as_str(), "" | "host" | "private") {
        return Err(invalid(format!("invalid cgroup namespace mode: {}", host.cgroupns_mode)));
    }
    if host.cgroupns_mode.is_empty() {
        host.cgroupns_mode = cgroupns_mode().into();
    }
    if host.cgroupns_mode == "private" && !std::path::Path::new("/proc/self/ns/cgroup").exists() {
        warnings.push(
            "Your kernel does not support cgroup namespaces.  Cgroup namespace setting discarded.".to_owned(),
        );
        host.cgroupns_mode = "host".into();
    }
    if host.oom_kill_disable.is_none() && limits::abilities().oom_kill_disable {
        host.oom_kill_disable = Some(false);
    }
    if host.network_mode == "host" && !host.port_bindings.is_empty() {
        warnings.push("Published ports are discarded when using host network mode".to_owned());
    }
    if host.network_mode == "bridge" && !host.links.is_empty() {
        warnings.push("Links on the default bridge network are deprecated and will be removed in a future release. Use a custom network instead.".to_owned());
    }
    if !host.privileged && !crate::spec::unmasked(host) {
        let list = |paths: &[&str]| Some(paths.iter().map(|p| (*p).to_owned()).collect());
        if host.masked_paths.is_none() {
            host.masked_paths = list(&runtime::defaults::MASKED_PATHS);
        }
        if host.readonly_paths.is_none() {
            host.readonly_paths = list(&runtime::defaults::READONLY_PATHS);
        }
    }
    let container_net = host.network_mode.starts_with("container:");
    if host.network_mode == "container" || host.network_mode == "container:" {
        return Err(invalid("invalid network mode: invalid container format container:<name|id>"));
    }
    if container_net && (!host.port_bindings.is_empty() || host.publish_all_ports) {
        return Err(invalid("conflicting options: port publishing and the container type network mode"));
    }
    if container_net && !host.links.is_empty() {
        return Err(invalid(
            "conflicting options: container type network can't be used with links. This would result in undefined behavior",
        ));
    }
    if container_net && !host.dns.is_empty() {
        return Err(invalid("conflicting options: dns and the network mode"));
    }
    if container_net && !host.extra_hosts.is_empty() {
        return Err(invalid("conflicting options: custom host-to-IP mapping and the network mode"));
    }
    if host.runtime.is_empty() {
        host.runtime = "tug".into();
    }
    if host.log_config.driver.is_empty() {
        host.log_config.driver = "json-file".into();
    }
    runtime::logs::drivers::validate(&host.log_config.driver, &host.log_config.config).map_err(invalid)?;
    for entry in &host.extra_hosts {
        extra_host(entry)?;
    }
    for server in &host.dns {
        if server.parse::<std::net::IpAddr>().is_err() {
            return Err(invalid(format!("invalid DNS server {server:?}: it should be an IP address")));
        }
    }
    for (what, list) in [("search domain", &host.dns_search), ("option", &host.dns_options)] {
        if let Some(bad) = list.iter().find(|word| spoils_line(word)) {
            return Err(invalid(format!("invalid DNS {what}: {bad:?}")));
        }
    }
    for link in &host.links {
        if spoils_line(link) {
            return Err(invalid(format!("bad format for links: {link:?}")));
        }
    }
    for (list, field) in [(&host.cap_add, "CapAdd"), (&host.cap_drop, "CapDrop")] {
        for name in list {
            crate::spec::capability(name).map_err(|e| invalid(format!("invalid {field}: {e}")))?;
        }
    }
    for name in host.sysctls.keys() {
        let Some(namespace) = runtime::sysctl::namespace(name) else {
            return Err(invalid(format!(
                "sysctl '{name}' is not allowed: it is not in a separate kernel namespace"
            )));
        };
        let (whose, mode) = match namespace {
            LinuxNamespaceType::Network => ("network", &host.network_mode),
            _ => ("ipc", &host.ipc_mode),
        };
        if mode == "host" {
            return Err(invalid(format!("sysctl '{name}' not allowed in host {whose} namespace")));
        }
    }
    Ok(warnings)
}

/// Whether the kernel has AppArmor.
fn apparmor() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|t| t.trim() == "Y")
}

/// `--security-opt`: known names, and values that make sense.
fn security_options(host: &HostConfig) -> Result<()> {
    for option in &host.security_opt {
        let bad = |number: u8| invalid(format!("invalid --security-opt {number}: {option:?}"));
        if matches!(option.as_str(), "no-new-privileges" | "writable-cgroups" | "disable") {
            continue;
        }
        let separator = if option.contains('=') { '=' } else { ':' };
        let (name, value) = option.split_once(separator).ok_or_else(|| bad(1))?;
        match name {
            "label" | "apparmor" | "seccomp" => {}
            "systempaths" if value == "unconfined" => {}
            "no-new-privileges" | "writable-cgroups" => {
                crate::spec::truth(value).ok_or_else(|| bad(2))?;
            }
            _ => return Err(bad(2)),
        }
    }
    Ok(())
}

/// `name:address` or `name=address`.
pub(crate) fn extra_host(entry: &str) -> Result<(&str, &str)> {
    let split = entry.split_once('=').or_else(|| entry.split_once(':'));
    let bad = || invalid(format!("invalid extra host \"{entry}\": it should be name:address"));
    let (name, address) = split.ok_or_else(bad)?;
    let bare = address.trim_matches(['[', ']']);
    let legal = !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control());
    if legal && (bare == "host-gateway" || bare.parse::<std::net::IpAddr>().is_ok()) {
        return Ok((name, bare));
    }
    Err(bad())
}

/// Checks a restart policy.
pub(crate) fn restart_policy(policy: &RestartPolicy) -> Result<()> {
    match policy.name.as_str() {
        "always" | "unless-stopped" | "no" if policy.maximum_retry_count != 0 => {
            Err(invalid("invalid restart policy: maximum retry count can only be used with 'on-failure'"))
        }
        "on-failure" if policy.maximum_retry_count < 0 => {
            Err(invalid("invalid restart policy: maximum retry count cannot be negative"))
        }
        "" | "always" | "unless-stopped" | "no" | "on-failure" => Ok(()),
        other => Err(invalid(format!(
            "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
        ))),
    }
}

/// A signal by number or by name, with or without `SIG`.
pub(crate) fn parse_signal(text: &str) -> Result<i32> {
    let bad = || invalid(format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err(bad()) };
    }
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        return offset.parse::<i32>().ok().filter(|o| (0..=30).contains(o)).map(|o| 34 + o).ok_or_else(bad);
    }
    if let Some(offset) = name.strip_prefix("RTMAX-") {
        return offset.parse::<i32>().ok().filter(|o| (0..=30).contains(o)).map(|o| 64 - o).ok_or_else(bad);
    }
    match name {
        "RTMIN" => return Ok(34),
        "RTMAX" => return Ok(64),
        "CLD" => return Ok(17),
        "POLL" => return Ok(29),
        _ => {}
    }
    format!("SIG{name}").parse::<nix::sys::signal::Signal>().map(|s| s as i32).map_err(|_| bad())
}

/// Refuses a change to a container that is going away.
pub(crate) fn not_going(phase: crate::container::Phase, what: &str) -> Result<()> {
    use crate::container::Phase;
    if matches!(phase, Phase::Removing | Phase::Dead) {
        return Err(conflict(format!("container is marked for removal and cannot be {what}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let check = |change: fn(&mut HostConfig)| {
            let mut h = HostConfig::default();
            change(&mut h);
            host(&mut h).map(drop).map_err(|e| e.to_string())
        };
        assert!(check(|_| {}).is_ok());
        assert_eq!(check(|h| h.memory = 1).unwrap_err(), "Minimum memory limit allowed is 6MB");
        assert!(
            check(|h| h.security_opt = vec!["label=disable".into(), "no-new-privileges:true".into()]).is_ok()
        );
        for bad in ["whatever", "sec=comp", "no-new-privileges=perhaps"] {
            let mut h = HostConfig { security_opt: vec![bad.into()], ..HostConfig::default() };
            assert!(host(&mut h).unwrap_err().to_string().contains("invalid --security-opt"), "{bad}");
        }
        assert!(check(|h| h.isolation = "hyperv".into()).is_err());
        assert!(check(|h| h.cap_add = vec!["NOPE".into()]).unwrap_err().contains("CapAdd"));
        assert!(check(|h| h.restart_policy.name = "sometimes".into()).is_err());
        assert!(check(|h| h.extra_hosts = vec!["a\nb:1.2.3.4".into()]).is_err());
        assert!(
            check(|h| {
                h.auto_remove = true;
                h.restart_policy.name = "always".into();
            })
            .is_err()
        );
        assert!(
            check(|h| {
                h.sysctls.insert("kernel.panic".into(), "1".into());
            })
            .is_err()
        );
    }

    #[test]
    fn defaults() {
        let mut h = HostConfig { memory: 64 << 20, ..HostConfig::default() };
        host(&mut h).unwrap();
        assert_eq!(h.shm_size, 64 << 20);
        assert!(h.masked_paths.as_ref().is_some_and(|p| p.contains(&"/proc/kcore".to_owned())));
        assert_eq!((h.network_mode.as_str(), h.restart_policy.name.as_str()), ("bridge", "no"));
    }

    #[test]
    fn signals_and_sizes() {
        assert_eq!(parse_signal("KILL").unwrap(), 9);
        assert_eq!(parse_signal("sigusr1").unwrap(), 10);
        assert_eq!(parse_signal("15").unwrap(), 15);
        assert_eq!(parse_signal("RTMIN+3").unwrap(), 37);
        for bad in ["", "0", "99", "NOPE", "-1"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }
}
