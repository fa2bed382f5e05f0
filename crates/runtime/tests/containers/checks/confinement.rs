//! What a container must not reach, and what takes away its means.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxNamespaceType, LinuxResources, User};
use runtime::{ContainerSpec, Error, Rootfs, Runtime, SeccompProfile, defaults};

use super::{add_mount, all_capabilities, as_user, exec_spec, process_of};
use crate::world::{World, collect};

pub async fn capabilities(w: &World) {
    let caps = "grep Cap /proc/self/status";
    let out = w.out(caps).await;
    assert_eq!(
        out,
        "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n"
    );
    let mut spec = w.sh(caps);
    process_of(&mut spec).set_user(as_user("app"));
    let out = w.output_of(&spec).await;
    assert!(
        out.contains("CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb"),
        "{out}"
    );
    let mut spec = w.sh(caps);
    process_of(&mut spec).set_capabilities(Some(defaults::capabilities(["CAP_CHOWN", "NET_ADMIN"])));
    let out = w.output_of(&spec).await;
    assert!(out.contains("CapEff:\t0000000000001001"), "{out}");
    let mut spec = w.sh("mknod /tmp/n c 1 3 && chown 5 /tmp/n && ! mount -t tmpfs x /tmp 2>/dev/null");
    process_of(&mut spec).set_user(User::default());
    w.output_of(&spec).await;
}

pub async fn privileged(w: &World) {
    let mut spec = w.sh("mount -t tmpfs x /tmp && grep -c ' /tmp tmpfs' /proc/mounts; grep -E 'CapEff|Seccomp:' /proc/self/status; test -w /proc/sys/kernel && echo writable");
    all_capabilities(&mut spec);
    let linux = spec.oci.linux_mut().as_mut().unwrap();
    linux.set_masked_paths(None).set_readonly_paths(None);
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(defaults::all_devices()));
    linux.set_resources(Some(resources));
    let out = w.output_of(&spec).await;
    let bound = std::fs::read_to_string("/proc/self/status").unwrap();
    let bound = bound.lines().find_map(|l| l.strip_prefix("CapBnd:\t")).unwrap();
    assert_eq!(out, format!("1\nCapEff:\t{bound}\nSeccomp:\t0\nwritable\n"));
}

pub async fn seccomp(w: &World) {
    let out = w
        .out("grep Seccomp: /proc/self/status; unshare -n true 2>&1; mount -t tmpfs x /tmp 2>&1; true")
        .await;
    assert!(out.starts_with("Seccomp:\t2\n"), "{out}");
    assert!(out.contains("unshare") && out.contains("not permitted"), "{out}");
    let mut spec = w.sh("chmod 700 /tmp 2>&1; echo went on");
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod","fchmod","fchmodat"],"action":"SCMP_ACT_ERRNO"}]}"#;
    spec.seccomp = SeccompProfile::Docker(profile.into());
    let out = w.output_of(&spec).await;
    assert!(out.contains("Operation not permitted\nwent on"), "{out}");
    // A profile that is older than a call that making a container takes.
    let mut spec = w.sh("ls /proc/self/fd | tr '\\n' ' '");
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["close_range","faccessat2","clone3","openat2"],"action":"SCMP_ACT_ERRNO"}]}"#;
    spec.seccomp = SeccompProfile::Docker(profile.into());
    assert_eq!(w.output_of(&spec).await, "0 1 2 3 ");
    let mut spec = w.sh("true");
    spec.seccomp = SeccompProfile::Docker("{".into());
    let e = w.runtime.create(&spec).await.unwrap_err().to_string();
    assert!(e.contains("decoding seccomp profile failed"), "{e}");
}

pub async fn no_new_privileges(w: &World) {
    let mut spec = w.sh("grep -E 'NoNewPrivs|Seccomp:' /proc/self/status");
    process_of(&mut spec).set_no_new_privileges(Some(true)).set_user(as_user("app"));
    assert_eq!(w.output_of(&spec).await, "NoNewPrivs:\t1\nSeccomp:\t2\n");
    assert_eq!(w.out("grep NoNewPrivs /proc/self/status").await, "NoNewPrivs:\t0\n");
}

pub async fn links_cannot_lead_out(w: &World) {
    let outside = w.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let inside = w.dir.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let image = w.dir.path().join("image");
    std::os::unix::fs::symlink(&outside, image.join("evil")).unwrap();
    std::os::unix::fs::symlink("/", image.join("self")).unwrap();
    let mut spec = w.sh("touch /evil/mounted/x; ls -d /evil/made; ls /self/bin/sh");
    add_mount(&mut spec, defaults::bind(&inside, Path::new("/evil/mounted"), &[]));
    process_of(&mut spec).set_cwd("/evil/made".into());
    w.output_of(&spec).await;
    assert!(inside.join("x").exists());
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0, "something was made outside");
    // /proc and /sys must be plain folders; nothing may be mounted over what is in /proc.
    for (name, target) in [("proc", "tmp"), ("sys", "tmp")] {
        let spec = w.sh("true");
        let Rootfs::Overlay { upper, .. } = &spec.rootfs else { panic!() };
        std::os::unix::fs::symlink(target, upper.join(name)).unwrap();
        let e = w.runtime.create(&spec).await.unwrap_err().to_string();
        assert!(e.contains("must be a plain folder"), "{e}");
    }
    for target in ["/proc/sys", "/proc/self/attr", "/proc"] {
        let mut spec = w.sh("true");
        add_mount(&mut spec, defaults::bind(&inside, Path::new(target), &[]));
        let e = w.runtime.create(&spec).await.unwrap_err().to_string();
        assert!(e.contains("is inside /proc"), "{target}: {e}");
    }
}

/// Whoever writes to a volume decides what its parts are until the moment that they are mounted.
pub async fn parts_of_volumes(w: &World) {
    let volume = w.dir.path().join("volume");
    std::fs::create_dir_all(volume.join("real/part")).unwrap();
    std::fs::write(volume.join("real/part/file"), "inside\n").unwrap();
    std::fs::write(w.dir.path().join("secret"), "outside\n").unwrap();
    let links = [("short", "real/part"), ("absolute", "/etc"), ("up", ".."), ("magic", "/proc/self/root")];
    for (name, target) in links {
        std::os::unix::fs::symlink(target, volume.join(name)).unwrap();
    }
    let spec = |part: &str| {
        let mut spec = w.sh("cat /part/file; ls /part");
        let option = format!("{}{part}", runtime::SUBPATH);
        add_mount(&mut spec, defaults::bind(&volume, Path::new("/part"), &[&option]));
        spec
    };
    for part in ["real/part", "short"] {
        assert_eq!(w.output_of(&spec(part)).await, "inside\nfile\n", "{part}");
    }
    for part in ["absolute", "up", "up/secret", "magic/etc", "../volume", "none"] {
        let e = w.runtime.create(&spec(part)).await.unwrap_err().to_string();
        assert!(e.contains("at /part: open"), "{part}: {e}");
    }
}

pub async fn nothing_leaks_in(w: &World) {
    // ls itself has the folder open.
    assert_eq!(w.out("ls /proc/self/fd | tr '\\n' ' '").await, "0 1 2 3 ");
    let mut spec = w.sh("pwd");
    // A descriptor of the machine as working folder is the way out that others left open.
    for n in 3..12 {
        process_of(&mut spec).set_cwd(PathBuf::from(format!("/proc/self/fd/{n}")));
        let id = spec.id.clone();
        w.runtime.create(&spec).await.unwrap();
        let started = w.runtime.start(&id).await;
        assert!(matches!(started, Err(Error::Exec { .. })), "{n}: {started:?}");
        w.runtime.delete(&id, true).await.unwrap();
    }
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    let e = exec_spec(&spec, "fds", "ls /proc/1/fd | tr '\\n' ' '");
    let io = w.runtime.exec(&spec.id, &e).await.unwrap().io;
    assert_eq!(collect(io).await.stdout, "0 1 2 ");
    for n in 3..12 {
        let mut e = exec_spec(&spec, &format!("e{n}"), "pwd");
        e.process.set_cwd(PathBuf::from(format!("/proc/self/fd/{n}")));
        let started = w.runtime.exec(&spec.id, &e).await;
        assert!(matches!(started, Err(Error::Exec { .. })), "{n}: {started:?}");
    }
    // The shell adds two of its own.
    let keys = w.out("cat /proc/self/environ | tr '\\0' '\\n' | grep -v -e PWD -e SHLVL | sort").await;
    assert_eq!(keys, "HOME=/root\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n");
}

/// A container whose command is the runtime's own binary must not be able to write to it.
/// A container's root may change the null device that it has, and has none of the machine's: neither as its input, nor
/// over a hidden file.
pub async fn null_device_is_its_own(w: &World) {
    let before = std::fs::metadata("/dev/null").unwrap();
    let change = "for f in /proc/self/fd/0 /proc/kcore /proc/keys; do chmod 0642 $f; chown 1000 $f; done 2>/dev/null; \
                  echo x > /proc/keys 2>/dev/null; readlink /proc/self/fd/0; stat -c '%a %u' /dev/null";
    let spec = w.sh(&format!("{change}; exec sleep 100"));
    let mut io = w.begin(&spec).await;
    let first = io.output.recv().await.map(|chunk| String::from_utf8(chunk.data.to_vec()).unwrap());
    let second = w.runtime.exec(&spec.id, &exec_spec(&spec, "e", change)).await.unwrap().io;
    let second = collect(second).await.stdout;
    let after = std::fs::metadata("/dev/null").unwrap();
    std::fs::set_permissions("/dev/null", before.permissions()).unwrap();
    std::os::unix::fs::chown("/dev/null", Some(before.uid()), Some(before.gid())).unwrap();
    assert_eq!((after.mode(), after.uid()), (before.mode(), before.uid()), "{first:?} {second:?}");
    // With another runtime an exec's is the machine's, and cannot be changed.
    if crate::world::other_runtime().is_none() {
        assert!(first.is_some_and(|f| f.starts_with("/dev/null\n")));
        assert_eq!(second, "/dev/null\n642 1000\n");
    }
}

pub async fn executable_is_safe(w: &World) {
    let spec = w.sh("sleep 100");
    let created = w.runtime.create(&spec).await.unwrap();
    // While the first process waits it is still a copy of the shim.
    let exe = format!("/proc/{}/exe", created.pid);
    assert_eq!(std::fs::metadata(&exe).unwrap().ino(), std::fs::metadata("/proc/self/exe").unwrap().ino());
    let shim = std::fs::read_to_string(format!("/proc/{}/status", created.pid)).unwrap();
    let shim = shim.lines().find_map(|l| l.strip_prefix("PPid:\t")).unwrap();
    for exe in [exe, format!("/proc/{shim}/exe")] {
        std::fs::OpenOptions::new().write(true).open(&exe).unwrap_err();
        // Not only because it is being executed, which would end with its last process: its mount is read-only.
        let flags = rustix::fs::statvfs(&exe).unwrap().f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY), "{exe}: {flags:?}");
    }
}

const FIRST: u32 = 200_000;

/// Gives a container a user namespace: one of its own, or that of a process.
pub(super) fn mapped(spec: &mut ContainerSpec, of: Option<u32>) {
    let map = oci_spec::runtime::LinuxIdMappingBuilder::default()
        .container_id(0u32)
        .host_id(FIRST)
        .size(65536u32)
        .build()
        .unwrap();
    let linux = spec.oci.linux_mut().as_mut().unwrap();
    linux.set_uid_mappings(Some(vec![map])).set_gid_mappings(Some(vec![map]));
    let list = linux.namespaces_mut().as_mut().unwrap();
    list.push(defaults::namespace(LinuxNamespaceType::User));
    for namespace in list.iter_mut().filter(|_| of.is_some()) {
        let (kind, pid) = (namespace.typ(), of.unwrap());
        let name = match kind {
            LinuxNamespaceType::User => "user",
            LinuxNamespaceType::Network => "net",
            LinuxNamespaceType::Ipc => "ipc",
            LinuxNamespaceType::Pid => "pid",
            _ => continue,
        };
        namespace.set_path(Some(format!("/proc/{pid}/ns/{name}").into()));
    }
}

/// Root in the container is nobody on the machine; its layers hold its own ids.
pub async fn user_namespace(w: &World) {
    let mut spec =
        w.sh("id -u; cat /proc/self/uid_map; touch /made; ls -ln /made /bin/busybox | awk '{print $3}'; \
        rm /bin/ls; chown 7:8 /etc/passwd; /bin/busybox ls /dev | tr '\\n' ' '; echo x > /dev/null; \
        mount -t tmpfs x /tmp 2>&1; cat /proc/kcore 2>&1 | wc -c; hostname");
    mapped(&mut spec, None);
    spec.oci.set_hostname(Some("mapped".into()));
    std::fs::set_permissions(w.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let Rootfs::Overlay { upper, .. } = spec.rootfs.clone() else { panic!() };
    let out = w.output_of(&spec).await;
    assert!(out.starts_with("0\n         0     200000      65536\n0\n0\n"), "{out}");
    assert!(out.contains("null") && out.contains("urandom") && out.ends_with("mapped\n"), "{out}");
    let owner = |name: &str| {
        let meta = std::fs::symlink_metadata(upper.join(name)).unwrap();
        (meta.uid(), meta.gid())
    };
    assert_eq!((owner("made"), owner("bin/ls"), owner("etc/passwd")), ((0, 0), (0, 0), (7, 8)));
    let mut spec2 = spec.clone();
    spec2.id = "again".into();
    process_of(&mut spec2).set_args(Some(vec!["sleep".into(), "100".into()]));
    let file = w.dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    for (target, option) in [("/plain", "rbind"), ("/mapped", "bind,idmap")] {
        let mut bind = oci_spec::runtime::Mount::default();
        bind.set_destination(target.into()).set_typ(Some("bind".into())).set_source(Some(file.clone()));
        bind.set_options(Some(option.split(',').map(String::from).collect()));
        add_mount(&mut spec2, bind);
    }
    w.runtime.delete(&spec.id, false).await.unwrap();
    drop(w.begin(&spec2).await);
    let pid = w.runtime.state("again").await.unwrap().pid.unwrap();
    assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), FIRST);
    // Its streams belong to whoever it runs as, and a bind mount to whom the specification says.
    let mut exec = exec_spec(&spec2, "e", "id -u > /dev/stdout; ls -ln /plain /mapped | awk '{print $3}'");
    exec.process.set_user(as_user("app"));
    let started = w.runtime.exec("again", &exec).await.unwrap();
    assert_eq!(collect(started.io).await.stdout, "1000\n0\n65534\n");
}

/// Whoever joins the namespaces of a container with a user namespace joins that, too.
pub async fn user_namespace_joined(w: &World) {
    let mut first = w.sh("sleep 100");
    mapped(&mut first, None);
    drop(w.begin(&first).await);
    let pid = w.runtime.state(&first.id).await.unwrap().pid.unwrap();
    let mut second = w.sh("for n in user net pid ipc; do readlink /proc/self/ns/$n; done; \
        ls -ln /bin/busybox | awk '{print $3}'; test $$ != 1; kill -0 1; readlink /proc/1/ns/uts");
    mapped(&mut second, Some(pid));
    let out = w.output_of(&second).await;
    let of = |pid: u32, name: &str| {
        std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap().display().to_string()
    };
    let expected: Vec<String> = ["user", "net", "pid", "ipc"].map(|name| of(pid, name)).into();
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[..4], expected, "{out}");
    assert_eq!((lines[4], lines[5]), ("0", &*of(pid, "uts")), "{out}");
    let mut third = w.sh("sleep 100");
    mapped(&mut third, Some(pid));
    drop(w.begin(&third).await);
    let exec = exec_spec(&third, "e", "id -u; readlink /proc/self/ns/user");
    let started = w.runtime.exec(&third.id, &exec).await.unwrap();
    assert_eq!(collect(started.io).await.stdout, format!("0\n{}\n", of(pid, "user")));
}
