//! `tug doctor`: what this machine has and lacks for running containers, and the remedy.

use std::borrow::Cow;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use network::nft::{ForeignPolicy, Hook, Manager};

use crate::options::Place;
use crate::server;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Grade {
    /// As it should be.
    Fine,
    /// Works without, but something is missing.
    Lacking,
    /// Tug cannot run.
    Fatal,
}

struct Finding {
    grade: Grade,
    what: &'static str,
    found: String,
    remedy: Cow<'static, str>,
}

/// Runs `tug doctor`: exit status 1 if something fatal is lacking.
pub fn run(place: &Place) -> Result<ExitCode> {
    let mut findings = vec![
        root(),
        kernel(),
        cgroups(),
        overlay(),
        nftables(),
        bridge(),
        bridged(),
        seccomp(),
        capabilities(),
    ];
    if !server::is_running(&place.run_dir)? {
        findings.push(port(place.api_port, "API server port", "stop it or give another --api-port"));
        findings.push(port(place.kubelet_port, "kubelet port", "stop it or give another --kubelet-port"));
    }
    findings.push(space(&place.data_dir));
    findings.push(firewall(&place.instance()?.link("0")));
    for finding in &findings {
        let mark = match finding.grade {
            Grade::Fine => "ok   ",
            Grade::Lacking => "lacks",
            Grade::Fatal => "FATAL",
        };
        println!("{mark}  {:<18} {}", finding.what, finding.found);
        if finding.grade != Grade::Fine {
            println!("       {:<18} remedy: {}", "", finding.remedy);
        }
    }
    let fatal = findings.iter().any(|f| f.grade == Grade::Fatal);
    Ok(if fatal { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn finding(
    what: &'static str,
    grade: Grade,
    found: impl Into<String>,
    remedy: impl Into<Cow<'static, str>>,
) -> Finding {
    Finding { grade, what, found: found.into(), remedy: remedy.into() }
}

fn root() -> Finding {
    let is = rustix::process::geteuid().is_root();
    finding(
        "user",
        if is { Grade::Fine } else { Grade::Fatal },
        if is { "root" } else { "not root" },
        "run tug as root",
    )
}

fn kernel() -> Finding {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let number = |part: Option<&str>| part.and_then(|p| p.parse::<u32>().ok()).unwrap_or(0);
    let mut parts = release.split(['.', '-']);
    let version = (number(parts.next()), number(parts.next()));
    let grade = if version >= (5, 10) { Grade::Fine } else { Grade::Fatal };
    finding(
        "kernel",
        grade,
        release,
        "Linux 5.10 or newer is needed (clone3, pidfd, the mount API, time namespaces)",
    )
}

fn cgroups() -> Finding {
    let v2 = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").ok();
    let has = |name: &str| match &v2 {
        Some(controllers) => {
            controllers.split_whitespace().any(|c| c == name || (name == "cpu" && c == "cpuset"))
        }
        None => Path::new("/sys/fs/cgroup").join(name).is_dir(),
    };
    let wanted = ["cpu", "cpuset", "memory", "pids"];
    let missing: Vec<&str> = wanted.into_iter().filter(|c| !has(c)).collect();
    if sys::cgroup::Hierarchies::find().is_ok_and(|h| h == sys::cgroup::Hierarchies::default()) {
        return finding(
            "cgroups",
            Grade::Lacking,
            "none is mounted here",
            "containers run without any limits; mount them at /sys/fs/cgroup, or, in a network namespace, use nsenter --net, \
             since ip netns exec covers /sys",
        );
    }
    let version = if v2.is_some() { "v2" } else { "v1" };
    if missing.is_empty() {
        return finding("cgroups", Grade::Fine, version, "");
    }
    let found = format!("{version}, without {}", missing.join(", "));
    finding(
        "cgroups",
        Grade::Lacking,
        found,
        "limits of these kinds are not enforced; add the controllers on the kernel's command line",
    )
}

fn overlay() -> Finding {
    let has =
        fs::read_to_string("/proc/filesystems").is_ok_and(|t| t.lines().any(|l| l.ends_with("\toverlay")));
    finding("overlayfs", grade(has, Grade::Fatal), yes(has), "modprobe overlay")
}

fn nftables() -> Finding {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netlink, socket_with};
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::NETFILTER));
    let has = socket.is_ok();
    finding("nftables", grade(has, Grade::Fatal), yes(has), "modprobe nf_tables")
}

fn bridge() -> Finding {
    let has = Path::new("/sys/module/bridge").exists() || Path::new("/proc/sys/net/bridge").exists() || {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let list =
            |file: &str| fs::read_to_string(format!("/lib/modules/{release}/{file}")).unwrap_or_default();
        // Without a modules folder the kernel has all it needs built in, or has it not: the engine will say.
        let (builtin, loadable) = (list("modules.builtin"), list("modules.dep"));
        builtin.is_empty() && loadable.is_empty()
            || builtin.contains("/bridge.ko")
            || loadable.contains("/bridge.ko")
    };
    finding("bridges", grade(has, Grade::Fatal), yes(has), "modprobe bridge")
}

fn bridged() -> Finding {
    let has = network::link::filters_bridged();
    finding(
        "rules for bridged packets",
        grade(has, Grade::Lacking),
        yes(has),
        "containers do not reach published ports by the machine's address, and links do not work where containers are \
         kept apart; modprobe br_netfilter",
    )
}

fn seccomp() -> Finding {
    let has = Path::new("/proc/sys/kernel/seccomp").is_dir();
    finding(
        "seccomp",
        grade(has, Grade::Lacking),
        yes(has),
        "containers run unfiltered; a kernel with CONFIG_SECCOMP_FILTER filters them",
    )
}

fn capabilities() -> Finding {
    let last =
        fs::read_to_string("/proc/sys/kernel/cap_last_cap").ok().and_then(|t| t.trim().parse::<u32>().ok());
    let bounding = fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|t| t.lines().find_map(|l| l.strip_prefix("CapBnd:").map(str::trim).map(str::to_owned)))
        .and_then(|hex| u64::from_str_radix(&hex, 16).ok());
    let (Some(last), Some(bounding)) = (last, bounding) else {
        return finding("capabilities", Grade::Lacking, "unknown", "mount /proc");
    };
    let missing: Vec<String> =
        (0..=last).filter(|c| bounding & (1 << c) == 0).map(|c| c.to_string()).collect();
    if missing.is_empty() {
        return finding("capabilities", Grade::Fine, "all", "");
    }
    let found = format!("without number {} (see capabilities(7))", missing.join(", "));
    finding(
        "capabilities",
        Grade::Lacking,
        found,
        "privileged containers get what there is; start tug with all capabilities to have them",
    )
}

fn port(port: u16, what: &'static str, remedy: &'static str) -> Finding {
    match who_listens(port) {
        Some(holder) => finding(what, Grade::Fatal, format!("{port} is taken by {holder}"), remedy),
        None => finding(what, Grade::Fine, format!("{port} is free"), ""),
    }
}

fn space(data_dir: &Path) -> Finding {
    let existing = data_dir.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(existing) {
        Ok(stat) => {
            let free = stat.f_bavail * stat.f_frsize / (1 << 20);
            let grade = if free >= 2048 { Grade::Fine } else { Grade::Lacking };
            finding(
                "disk",
                grade,
                format!("{free} MiB free below {}", existing.display()),
                "free some room or give another --data-dir",
            )
        }
        Err(e) => {
            finding("disk", Grade::Lacking, format!("{}: {e}", existing.display()), "give another --data-dir")
        }
    }
}

/// What the machine's own firewall does with published ports.
fn firewall(bridge: &str) -> Finding {
    let asked =
        network::nft::Nft::open("tug-doctor").and_then(|nft| Ok((nft.foreign_policies()?, nft.manager()?)));
    match asked {
        Ok((policies, manager)) => judge(&policies, manager, bridge),
        Err(e) => finding("host firewall", Grade::Lacking, format!("unknown: {e}"), "run tug doctor as root"),
    }
}

/// A packet passes only if every table lets it pass, so nothing of ours overrules the machine's firewall. Published ports
/// are forwarded: what filters packets for the machine itself (input) does not see them.
fn judge(policies: &[ForeignPolicy], manager: Option<Manager>, bridge: &str) -> Finding {
    let what = "host firewall";
    let names = |hook: Hook| -> Vec<String> {
        policies.iter().filter(|p| p.hook == hook).map(|p| format!("{} {}", p.table, p.chain)).collect()
    };
    let (forward, input) = (names(Hook::Forward), names(Hook::Input));
    let closed =
        "published ports are closed to others, and containers cannot reach out, until it allows that";
    match manager {
        Some(Manager::Firewalld) => {
            let remedy = format!(
                "firewall-cmd --permanent --zone=trusted --add-interface={bridge} (and br-… of networks of your own), then firewall-cmd --reload"
            );
            return finding(
                what,
                Grade::Lacking,
                format!("firewalld decides what is forwarded: {closed}"),
                remedy,
            );
        }
        Some(Manager::Ufw) if !forward.is_empty() => {
            let remedy = format!(
                "ufw route allow in on {bridge}; and for each published port: ufw route allow proto tcp to CONTAINER-ADDRESS port CONTAINER-PORT"
            );
            return finding(what, Grade::Lacking, format!("ufw drops what is forwarded: {closed}"), remedy);
        }
        _ => {}
    }
    if let Some(chain) = forward.first() {
        let found = format!("dropped by policy in {}: {closed}", forward.join(", "));
        let remedy = format!(
            "nft insert rule {chain} ct state established,related accept; nft insert rule {chain} iifname {bridge} accept; and for published ports: nft insert rule {chain} ct status dnat oifname {bridge} accept"
        );
        return finding(what, Grade::Lacking, found, remedy);
    }
    if !input.is_empty() {
        let found = format!(
            "{} drops what comes to this machine, nothing drops what is forwarded: published ports are open to whoever reaches the machine",
            input.join(", ")
        );
        return finding(
            what,
            Grade::Lacking,
            found,
            "publish at the loopback (-p 127.0.0.1:80:80, or \"ip\": \"127.0.0.1\" in daemon.json), or drop by policy in a chain of the hook forward, which published ports do not bypass",
        );
    }
    finding(what, Grade::Fine, "no other table drops what is forwarded", "")
}

fn grade(has: bool, without: Grade) -> Grade {
    if has { Grade::Fine } else { without }
}

fn yes(has: bool) -> &'static str {
    if has { "yes" } else { "no" }
}

/// Which process listens at a TCP port of this network namespace, as `name (pid N)`, if the system tells us.
pub fn who_listens(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|file| fs::read_to_string(file).ok())
        .find_map(|table| listening_inode(&table, port))?;
    let wanted = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            if fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()) {
                let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("{} (pid {pid})", name.trim()));
            }
        }
    }
    Some("a process of another namespace or user".into())
}

/// The inode of the socket that listens at `port` in a table of proc_net_tcp(5).
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        let local = fields.nth(1)?.rsplit_once(':')?.1;
        let state = fields.nth(1)?;
        let listens = state == "0A" && u16::from_str_radix(local, 16).ok()? == port;
        if listens { fields.nth(5)?.parse().ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_told_from_connections() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 0100007F:0050 01 00000000:00000000 00:00000000 00000000 0 0 111 1\n\
            1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 222 1\n";
        assert_eq!(listening_inode(table, 8080), Some(222));
        assert_eq!(listening_inode(table, 80), None);
    }

    #[test]
    fn firewalls_and_their_remedies() {
        let policy = |hook| ForeignPolicy { table: "ip filter".into(), chain: "FORWARD".into(), hook };
        let told = |policies: &[ForeignPolicy], manager| {
            let finding = judge(policies, manager, "tug0");
            (finding.grade, format!("{} | {}", finding.found, finding.remedy))
        };
        assert_eq!(told(&[], None).0, Grade::Fine);
        assert_eq!(told(&[], Some(Manager::Ufw)).0, Grade::Fine, "it lets everything through");
        for (policies, manager, words) in [
            (&[policy(Hook::Forward)][..], None, "nft insert rule ip filter FORWARD iifname tug0 accept"),
            (&[policy(Hook::Forward), policy(Hook::Input)], Some(Manager::Ufw), "ufw route allow in on tug0"),
            (&[], Some(Manager::Firewalld), "--add-interface=tug0"),
            (&[policy(Hook::Input)], None, "open to whoever reaches the machine"),
            (&[policy(Hook::Input)], None, "127.0.0.1:80:80"),
        ] {
            let (grade, text) = told(policies, manager);
            assert!(grade == Grade::Lacking && text.contains(words), "{text}");
        }
    }

    #[test]
    fn a_listener_is_named() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let holder = who_listens(listener.local_addr().unwrap().port()).unwrap();
        assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
    }
}
