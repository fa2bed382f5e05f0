//! Other OCI runtimes behind the same shim.

use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oci_spec::runtime::{LinuxCpu, LinuxNamespaceType, LinuxPids, LinuxResources, Mount, PosixRlimitType};
use runtime::{ContainerSpec, Error, ExecErrorKind, Rootfs, Runtime, SeccompProfile, StdinMode, defaults};
use tokio::io::AsyncWriteExt;

use super::{
    add_mount, all_capabilities, as_user, exec_spec, limit, memory, process_of, with_cgroup_namespace,
};
use crate::world::{World, collect};

/// What a container sees of itself: who it is, what it may, its mounts, devices, limits and namespaces. Left out is what
/// covers hidden files (a null device, whose is the runtime's choice) and the tunnel device, which older runtimes let
/// everyone use.
const LOOK: &str = "id; pwd; env | sort; hostname; umask; cat /proc/self/oom_score_adj /proc/self/uid_map; \
    grep -E 'Cap|Seccomp:|NoNewPrivs|Groups' /proc/self/status; \
    for d in $(find /dev ! -name mqueue | sort); do stat -c '%n %F %t:%T %a %u:%g' $d; done; \
    awk '{print $5, $6, $9}' /proc/self/mountinfo | grep -v -e cgroup -e /proc/interrupts -e /proc/kcore -e /proc/keys -e /proc/timer | sort -u; \
    for p in /proc/kcore /proc/keys /proc/timer_list; do head -c 1 $p 2>&1 | wc -c; done; \
    for p in /proc/sys/x /sys/x /x /dev/x; do touch $p 2>&1; done; \
    ulimit -a; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; ls /sys/firmware 2>&1 | wc -l; \
    for f in memory/memory.limit_in_bytes memory/memory.memsw.limit_in_bytes memory/memory.soft_limit_in_bytes \
        cpu/cpu.shares cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpuset/cpuset.cpus pids/pids.max \
        memory/memory.swappiness memory/memory.oom_control; do \
        [ -e /sys/fs/cgroup/$f ] && echo group $f $(cat /sys/fs/cgroup/$f); done; \
    sort /sys/fs/cgroup/devices/devices.list 2>/dev/null | grep -v 10:200; \
    for f in memory.max memory.swap.max memory.low cpu.max cpu.weight cpuset.cpus pids.max; do [ -e /sys/fs/cgroup/$f ] && echo group $f $(cat /sys/fs/cgroup/$f); done; \
    for c in 'unshare -U true' 'unshare -n true' 'umount -l /dev/mqueue' 'mknod /node b 8 0' 'chroot / true' \
        'chown 7:8 /tmp' 'ip link set lo mtu 1400' 'chmod 700 /tmp'; do \
        $c > /dev/null 2>&1; echo \"$c: $?\"; done; \
    for n in net ipc pid uts user mnt; do readlink /proc/self/ns/$n; done | grep -n -F -f /shared-namespaces 2>/dev/null; \
    ls /proc/self/fd | wc -l; trap '' TERM; cat /proc/self/comm; exit 7";

type Change = fn(&mut ContainerSpec, &World);

fn linux(spec: &mut ContainerSpec) -> &mut oci_spec::runtime::Linux {
    spec.oci.linux_mut().as_mut().unwrap()
}

/// Version 1 shows a container its own groups' files in any case.
fn with_group_in_sight(spec: &mut ContainerSpec) {
    if defaults::unified_cgroups() {
        with_cgroup_namespace(spec);
    }
}

/// The kinds of containers that the other checks make.
const KINDS: &[(&str, Change)] = &[
    ("plain", |_, _| {}),
    ("another user", |spec, _| {
        process_of(spec).set_user(as_user("app:audio")).set_cwd("/home/app".into());
        process_of(spec).set_oom_score_adj(Some(100));
        spec.oci.set_hostname(Some("same".into()));
        let port = ("net.ipv4.ip_unprivileged_port_start".to_string(), "77".to_string());
        linux(spec).set_sysctl(Some([port].into()));
    }),
    ("limits", |spec, _| {
        with_group_in_sight(spec);
        process_of(spec).set_rlimits(Some(vec![
            limit(PosixRlimitType::RlimitNofile, 99, 100),
            limit(PosixRlimitType::RlimitCore, 0, 0),
        ]));
        let mut resources = memory(64 << 20);
        let (mut cpu, mut pids) = (LinuxCpu::default(), LinuxPids::default());
        cpu.set_shares(Some(512))
            .set_quota(Some(50_000))
            .set_period(Some(100_000))
            .set_cpus(Some("0".into()));
        pids.set_limit(77);
        resources.set_cpu(Some(cpu)).set_pids(Some(pids)).set_devices(Some(defaults::device_rules()));
        linux(spec).set_resources(Some(resources));
    }),
    ("read-only root", |spec, _| {
        if let Rootfs::Overlay { readonly, .. } = &mut spec.rootfs {
            *readonly = true;
        }
    }),
    ("mounts", |spec, w| {
        let host = w.dir.path().join("shared-folder");
        std::fs::create_dir_all(&host).unwrap();
        add_mount(spec, defaults::bind(&host, Path::new("/ro"), &["ro"]));
        add_mount(spec, defaults::bind(&host, Path::new("/rw"), &["nosuid", "noexec"]));
        let mut tmpfs = Mount::default();
        let options = ["nosuid", "nodev", "noexec", "size=1m", "mode=751"].map(String::from).to_vec();
        tmpfs.set_destination("/tmp/t".into()).set_typ(Some("tmpfs".into()));
        tmpfs.set_source(Some("tmpfs".into())).set_options(Some(options));
        add_mount(spec, tmpfs);
    }),
    ("few capabilities", |spec, _| {
        let few = defaults::capabilities(["CAP_CHOWN", "CAP_NET_ADMIN"]);
        process_of(spec).set_capabilities(Some(few)).set_no_new_privileges(Some(true));
    }),
    ("no filter", |spec, _| spec.seccomp = SeccompProfile::Unconfined),
    ("everything allowed", |spec, _| {
        all_capabilities(spec);
        let mut resources = LinuxResources::default();
        resources.set_devices(Some(defaults::all_devices()));
        linux(spec).set_resources(Some(resources)).set_masked_paths(None).set_readonly_paths(None);
    }),
    ("own cgroup namespace", |spec, _| with_cgroup_namespace(spec)),
    ("the machine's network and processes", |spec, _| {
        let shared = [LinuxNamespaceType::Network, LinuxNamespaceType::Pid, LinuxNamespaceType::Uts];
        linux(spec).namespaces_mut().as_mut().unwrap().retain(|n| !shared.contains(&n.typ()));
        spec.oci.set_hostname(None);
    }),
    ("a user namespace", |spec, w| {
        std::fs::set_permissions(w.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        super::confinement::mapped(spec, None);
    }),
    ("a user without new privileges", |spec, _| {
        process_of(spec).set_user(as_user("1000:29")).set_no_new_privileges(Some(true));
        process_of(spec).set_env(Some(vec![
            "PATH=/bin".into(),
            "A=1".into(),
            "A=2".into(),
            "HOME=/tmp".into(),
        ]));
        process_of(spec).set_cwd("/made/for/it".into());
    }),
    ("additional groups and a mask", |spec, _| {
        let mut user = oci_spec::runtime::User::default();
        user.set_uid(1000).set_gid(1001).set_additional_gids(Some(vec![29, 4000])).set_umask(Some(0o27));
        process_of(spec).set_user(user);
    }),
    ("a profile of its own", |spec, _| {
        let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["chmod","fchmod","fchmodat","fchmodat2"],"action":"SCMP_ACT_ERRNO","errnoRet":13},
            {"names":["unshare"],"action":"SCMP_ACT_ERRNO","args":[{"index":0,"value":1073741824,"op":"SCMP_CMP_EQ"}]}]}"#;
        spec.seccomp = SeccompProfile::Docker(profile.into());
    }),
    ("other paths hidden", |spec, _| {
        linux(spec)
            .set_masked_paths(Some(["/proc/kcore", "/tmp", "/nowhere"].map(String::from).into()))
            .set_readonly_paths(Some(["/proc/sys", "/home", "/nowhere"].map(String::from).into()));
    }),
    ("more devices", |spec, _| {
        let mut device = oci_spec::runtime::LinuxDevice::default();
        device.set_path("/dev/deeper/fuse".into()).set_typ(oci_spec::runtime::LinuxDeviceType::C);
        device.set_major(10).set_minor(229).set_file_mode(Some(0o640)).set_uid(Some(5)).set_gid(Some(6));
        linux(spec).set_devices(Some(vec![device]));
        let mut rules = defaults::device_rules();
        let mut rule = rules[3].clone();
        rule.set_major(Some(10)).set_minor(Some(229)).set_access(Some("rw".into()));
        rules.push(rule);
        let mut resources = LinuxResources::default();
        resources.set_devices(Some(rules));
        linux(spec).set_resources(Some(resources));
    }),
    ("mounts in mounts", |spec, w| {
        let host = w.dir.path().join("nested");
        std::fs::create_dir_all(host.join("inner")).unwrap();
        std::fs::write(host.join("file"), "").unwrap();
        add_mount(spec, defaults::bind(&host, Path::new("/data"), &["ro", "rslave"]));
        add_mount(spec, defaults::bind(&host.join("file"), Path::new("/etc/single"), &["ro", "nodev"]));
        let mut tmpfs = Mount::default();
        tmpfs.set_destination("/data/inner".into()).set_typ(Some("tmpfs".into()));
        tmpfs.set_source(Some("tmpfs".into())).set_options(Some(vec!["ro".into(), "size=64k".into()]));
        add_mount(spec, tmpfs);
        add_mount(spec, defaults::bind(&host, Path::new("/etc/over"), &["noexec", "nosuid", "private"]));
    }),
    ("more swap, a reservation, shares alone", |spec, _| {
        with_group_in_sight(spec);
        let mut resources = memory(64 << 20);
        let mut memory = resources.memory().unwrap();
        memory.set_swap(Some(128 << 20)).set_reservation(Some(32 << 20));
        let mut cpu = LinuxCpu::default();
        cpu.set_shares(Some(2048));
        resources.set_memory(Some(memory)).set_cpu(Some(cpu)).set_devices(Some(defaults::device_rules()));
        linux(spec).set_resources(Some(resources));
    }),
    ("another container's namespaces", |spec, w| {
        let pid = w.holder.load(std::sync::atomic::Ordering::Relaxed);
        let names = [
            (LinuxNamespaceType::Network, "net"),
            (LinuxNamespaceType::Ipc, "ipc"),
            (LinuxNamespaceType::Pid, "pid"),
            (LinuxNamespaceType::Uts, "uts"),
        ];
        let mut shared = String::new();
        for namespace in linux(spec).namespaces_mut().as_mut().unwrap() {
            let Some((_, name)) = names.iter().find(|(kind, _)| *kind == namespace.typ()) else { continue };
            let path = format!("/proc/{pid}/ns/{name}");
            shared += &format!("{}\n", std::fs::read_link(&path).unwrap().display());
            namespace.set_path(Some(path.into()));
        }
        // By which the container tells which of its own are those.
        std::fs::write(w.dir.path().join("image/shared-namespaces"), shared).unwrap();
        spec.oci.set_hostname(None);
    }),
    ("not there", |spec, _| {
        process_of(spec).set_args(Some(vec!["nope".into()]));
    }),
    ("a folder instead of a program", |spec, _| {
        process_of(spec).set_args(Some(vec!["/etc".into()]));
    }),
    ("killed", |spec, _| {
        process_of(spec).set_args(Some(["sh", "-c", "echo before; kill -9 $$"].map(String::from).into()));
    }),
    ("not executable", |spec, _| {
        process_of(spec).set_args(Some(vec!["/etc/passwd".into()]));
    }),
];

/// What became of a container: its exit status or why it could not be, and what it has printed.
async fn outcome(w: &World, spec: &ContainerSpec) -> Result<(i32, String), Error> {
    w.runtime.create(spec).await?;
    let io = w.runtime.attach(&spec.id).await?;
    w.runtime.start(&spec.id).await?;
    let output = collect(io).await;
    // The id is in nothing that is compared but the path of its cgroup.
    let text = format!("{}\n{}\n", output.stdout, output.stderr).replace(&spec.id, "ID");
    Ok((w.runtime.wait(&spec.id).await?.code, text))
}

/// Where runc and crun differ the built-in runtime does as runc. crun binds the read-only parts of /proc without the
/// flags of /proc, devices in a user namespace with more flags than they have, and gives the null device that is a
/// container's input to the container's user.
fn as_both_have_it(binary: &Path, line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        _ if !binary.ends_with("crun") => line.into(),
        [path, flags, source @ ("proc" | "dev" | "devtmpfs")] if path.matches('/').count() > 1 => {
            format!("{path} {} {source}", &flags[..2])
        }
        ["/dev/null", .., _owner] => words[..words.len() - 1].join(" "),
        _ => line.into(),
    }
}

/// Every kind of container by other runtimes is the same, from inside and by its end.
pub async fn the_same_by_other_runtimes(w: &World) {
    // Programs in Go raise their own limit of open files as far as they may, and containers without one inherit that.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
    let holder = w.sh("sleep 100000");
    drop(w.begin(&holder).await);
    let pid = w.runtime.state(&holder.id).await.unwrap().pid.unwrap();
    w.holder.store(pid, std::sync::atomic::Ordering::Relaxed);
    let mut wrong = Vec::new();
    let mut compared = 0;
    for binary in present() {
        for (kind, change) in KINDS {
            let make = |runtime: Option<PathBuf>| {
                let mut spec = w.sh(LOOK);
                spec.runtime = runtime;
                change(&mut spec, w);
                spec
            };
            let ours = outcome(w, &make(None)).await;
            let theirs = outcome(w, &make(Some(binary.clone()))).await;
            match (ours, theirs) {
                // crun, of version 1 and version 2 side by side.
                (_, Err(Error::Create { message })) if message.contains("hybrid mode not supported") => {
                    println!("skipped: {}: {message}", binary.display());
                    break;
                }
                // crun sets the propagation before it mounts, at a place that is no mount yet.
                (Ok(_), Err(Error::Create { message }))
                    if binary.ends_with("crun") && message.contains("set propagation") =>
                {
                    println!("skipped: {kind}: {}: {message}", binary.display());
                }
                // A capability that this machine lacks is left out by the built-in runtime, and refused by others.
                (Ok(_), Err(Error::Create { message }))
                    if lacks_capabilities() && message.contains("unable to apply caps") =>
                {
                    println!("skipped: {kind}: {}: {message}", binary.display());
                }
                (Ok((code, text)), Ok((their_code, their_text))) => {
                    let comparable = |text: &str| {
                        text.lines().map(|l| as_both_have_it(&binary, l) + "\n").collect::<String>()
                    };
                    let (text, their_text) = (comparable(&text), comparable(&their_text));
                    compared += 1;
                    let differ: Vec<_> = text
                        .lines()
                        .zip(their_text.lines())
                        .filter(|(a, b)| a != b)
                        .map(|(a, b)| format!("ours {a:?}, theirs {b:?}"))
                        .collect();
                    if (code, &text) != (their_code, &their_text) {
                        let lengths = (text.lines().count(), their_text.lines().count());
                        let name = binary.display();
                        wrong.push(format!("{kind}: {name}: {code}, {their_code}: {lengths:?} {differ:#?}"));
                    }
                }
                (Err(Error::Exec { kind: a, .. }), Err(Error::Exec { kind: b, .. })) if a == b => {
                    compared += 1
                }
                (ours, theirs) => {
                    wrong.push(format!("{kind}: {}: ours {ours:?}, theirs {theirs:?}", binary.display()));
                }
            }
        }
    }
    println!("{compared} containers compared");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn lacks_capabilities() -> bool {
    let all = defaults::all_capabilities();
    let has = sys::caps::available().unwrap();
    all.iter().filter_map(|c| sys::caps::Set::by_name(c)).any(|c| !has.has(c))
}

/// Those that are installed; the others are told.
fn present() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for binary in ["/usr/sbin/runc", "/usr/bin/crun"].map(PathBuf::from) {
        if binary.exists() {
            found.push(binary);
        } else {
            println!("skipped: {} is not installed", binary.display());
        }
    }
    found
}

/// Terminals, execs, freezing and statistics of containers that other runtimes have made.
pub async fn other_runtimes(w: &World) {
    for binary in present() {
        let mut spec = w.spec(&["nope"]);
        spec.runtime = Some(binary.clone());
        let failed = match w.runtime.create(&spec).await {
            // crun, of version 1 and version 2 side by side.
            Err(Error::Create { message }) if message.contains("hybrid mode not supported") => {
                println!("skipped: {}: {message}", binary.display());
                continue;
            }
            Ok(_) => w.runtime.start(&spec.id).await.unwrap_err(),
            Err(e) => e,
        };
        assert!(matches!(failed, Error::Exec { kind: ExecErrorKind::NotFound, .. }), "{failed:?}");
        let mut spec = w.sh("stty size; read x; echo got $x");
        spec.runtime = Some(binary.clone());
        spec.io.tty = true;
        spec.io.stdin = StdinMode::Open;
        spec.io.size = Some((22, 66));
        let mut io = w.begin(&spec).await;
        let mut exec = exec_spec(&spec, "e", "id -u; echo $$; exit 4");
        exec.process.set_user(as_user("app"));
        let mut started = w.runtime.exec(&spec.id, &exec).await.unwrap().io;
        let exit = started.exit.take().unwrap();
        assert!(collect(started).await.stdout.starts_with("1000\n"));
        assert_eq!(exit.await.unwrap().code, 4);
        io.stdin.as_mut().unwrap().write_all(b"it\n").await.unwrap();
        let out = collect(io).await.stdout;
        assert!(out.contains("22 66\r\n") && out.contains("got it\r\n"), "{out:?}");
        let mut spec = w.sh("sleep 100");
        spec.runtime = Some(binary.clone());
        drop(w.begin(&spec).await);
        w.runtime.pause(&spec.id).await.unwrap();
        w.runtime.resume(&spec.id).await.unwrap();
        assert!(w.runtime.stats(&spec.id).await.unwrap().memory.usage > 0);
        w.runtime.delete(&spec.id, true).await.unwrap();
        // What its child leaves behind comes to the first process, which is ours and reaps it.
        let mut spec = w.sh("cat /proc/1/comm; sh -c 'true & echo $! > /tmp/pid'; \
            while [ -e /proc/$(cat /tmp/pid) ]; do :; done; kill -TERM 1; sleep 100");
        (spec.runtime, spec.init) = (Some(binary.clone()), true);
        let (code, text) = outcome(w, &spec).await.unwrap();
        assert_eq!((code, text.trim()), (143, "docker-init"), "{}", binary.display());
        let mut spec = w.spec(&["nope"]);
        (spec.runtime, spec.init) = (Some(binary.clone()), true);
        let (code, text) = outcome(w, &spec).await.unwrap();
        assert_eq!((code, text.trim()), (127, "docker-init: exec nope: no such file or directory"));
    }
}
