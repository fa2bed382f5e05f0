//! The checks.

use std::future::Future;
use std::pin::Pin;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use oci_spec::runtime::{
    LinuxMemory, LinuxNamespaceType, LinuxPids, LinuxResources, Mount, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType, Process, User,
};
use runtime::{
    ContainerSpec, Error, EventKind, ExecErrorKind, ExecSpec, LogSpec, Rootfs, Runtime, SandboxSpec,
    SeccompProfile, Status, StdinMode, defaults,
};
use tokio::io::AsyncWriteExt;

use crate::world::{World, collect};

type Check = for<'a> fn(&'a World) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

macro_rules! checks {
    ($($name:ident),* $(,)?) => {
        /// Every check and its name.
        pub fn all() -> Vec<(&'static str, Check)> {
            vec![$((stringify!($name), |w| Box::pin($name(w)))),*]
        }
    };
}

checks![
    echo,
    exit_codes,
    bad_commands,
    environment,
    users,
    setup_errors,
    stdin_half_close,
    stdin_open_once,
    terminal,
    exec,
    exec_in_terminal,
    signals,
    killed_for_memory,
    pids_limit,
    read_only_root,
    hidden_paths,
    capabilities,
    privileged,
    seccomp,
    no_new_privileges,
    devices,
    mounts,
    links_cannot_lead_out,
    nothing_leaks_in,
    executable_is_safe,
    sysctls_and_names,
    rlimits,
    pause_and_stats,
    update,
    attach_twice,
    slow_reader_stalls_only_its_container,
    init_reaps,
    restart_finds_everything,
    killed_shim,
    half_made,
    sandbox,
    sandbox_with_shared_pids,
    log_rotation_and_follow,
    fast_writer,
    events,
    delete,
    many_layers,
    shim_is_small,
    other_runtimes,
    user_namespace,
    cgroup_namespace,
];

async fn echo(w: &World) {
    let spec = w.spec(&["echo", "hello"]);
    let (exit, output) = w.run(&spec).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (0, None, false));
    assert_eq!(output.stdout, "hello\n");
    let state = w.runtime.state(&spec.id).await.unwrap();
    assert_eq!((state.status, state.pid), (Status::Stopped, None));
    assert_eq!(state.exit, Some(exit));
    let log = std::fs::read_to_string(w.log(&spec.id)).unwrap();
    assert!(log.starts_with("{\"log\":\"hello\\n\",\"stream\":\"stdout\",\"time\":\""), "{log}");
}

async fn exit_codes(w: &World) {
    for code in [1, 42, 255] {
        let (exit, _) = w.run(&w.sh(&format!("exit {code}"))).await;
        assert_eq!(exit.code, code);
    }
    let (exit, _) = w.run(&w.sh("sh -c 'kill -9 $$'; exit $?")).await;
    assert_eq!(exit.code, 137);
}

async fn bad_commands(w: &World) {
    for (args, kind, text) in [
        (&["nope"][..], ExecErrorKind::NotFound, "exec: \"nope\": executable file not found in $PATH"),
        (&["/nope"][..], ExecErrorKind::NotFound, "exec: \"/nope\": stat /nope: no such file or directory"),
        (&["/etc"][..], ExecErrorKind::NotExecutable, "exec: \"/etc\": is a directory"),
        (&["/etc/passwd"][..], ExecErrorKind::NotExecutable, "exec: \"/etc/passwd\": permission denied"),
    ] {
        let spec = w.spec(args);
        w.runtime.create(&spec).await.unwrap();
        match w.runtime.start(&spec.id).await {
            Err(Error::Exec { kind: k, message }) => assert_eq!((k, message.as_str()), (kind, text)),
            other => panic!("{other:?}"),
        }
        let exit = w.runtime.wait(&spec.id).await.unwrap();
        assert_eq!(exit.code, if kind == ExecErrorKind::NotFound { 127 } else { 126 });
        assert_eq!(w.runtime.state(&spec.id).await.unwrap().status, Status::Stopped);
    }
}

async fn environment(w: &World) {
    let mut spec = w.sh("echo $A $HOME; pwd; id -u; id -g; id -G");
    let process = spec.oci.process_mut().as_mut().unwrap();
    process.set_env(Some(vec![runtime::defaults::PATH.into(), "A=b".into()]));
    process.set_cwd("/made/for/me".into());
    let mut user = oci_spec::runtime::User::default();
    user.set_username(Some("app".into()));
    process.set_user(user);
    assert_eq!(w.output_of(&spec).await, "b /home/app\n/made/for/me\n1000\n1001\n1001 29\n");
}

fn process(spec: &mut ContainerSpec) -> &mut Process {
    spec.oci.process_mut().as_mut().unwrap()
}

fn as_user(text: &str) -> User {
    let mut user = User::default();
    user.set_username(Some(text.into()));
    user
}

fn exec_spec(w: &ContainerSpec, id: &str, script: &str) -> ExecSpec {
    let mut process = w.oci.process().clone().unwrap();
    process.set_args(Some(vec!["sh".into(), "-c".into(), script.into()]));
    ExecSpec { exec_id: id.into(), process, tty: false, stdin: false, size: None, unconfined: false }
}

fn memory(bytes: i64) -> LinuxResources {
    let mut memory = LinuxMemory::default();
    memory.set_limit(Some(bytes)).set_swap(Some(bytes));
    let mut resources = LinuxResources::default();
    resources.set_memory(Some(memory));
    resources
}

fn add_mount(spec: &mut ContainerSpec, mount: Mount) {
    spec.oci.mounts_mut().as_mut().unwrap().push(mount);
}

/// Waits until something is true that has no event of its own in a test.
async fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    for _ in 0..500 {
        if is() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never happened: {what}");
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

async fn users(w: &World) {
    for (expression, want) in
        [("1000:audio", "1000 29 29"), ("4242", "4242 0 0"), ("app:77", "1000 77 77"), ("root", "0 0 0")]
    {
        let mut spec = w.sh("echo $(id -u) $(id -g) $(id -G)");
        process(&mut spec).set_user(as_user(expression));
        assert_eq!(w.output_of(&spec).await, format!("{want}\n"), "{expression}");
    }
    let mut spec = w.sh("true");
    process(&mut spec).set_user(as_user("nope"));
    w.runtime.create(&spec).await.unwrap();
    let e = w.runtime.start(&spec.id).await.unwrap_err().to_string();
    assert_eq!(e, "unable to find user nope: no matching entries in passwd file");
    // A user who is not root may write to its own standard output by name.
    let mut spec = w.sh("echo through > /dev/stdout");
    process(&mut spec).set_user(as_user("app"));
    assert_eq!(w.output_of(&spec).await, "through\n");
}

async fn setup_errors(w: &World) {
    let mut spec = w.sh("true");
    add_mount(&mut spec, defaults::bind(Path::new("/no/such/folder"), Path::new("/x"), &[]));
    let e = w.runtime.create(&spec).await.unwrap_err().to_string();
    assert!(e.contains("mount /no/such/folder at /x") && e.contains("no such file or directory"), "{e}");
    assert!(w.runtime.state(&spec.id).await.unwrap_err().is_not_found());
    // The id is free again.
    let id = spec.id.clone();
    let mut spec = w.sh("echo again");
    spec.id = id;
    assert_eq!(w.output_of(&spec).await, "again\n");
    assert!(matches!(w.runtime.create(&spec).await, Err(Error::AlreadyExists { .. })));
    let mut spec = w.sh("true");
    spec.id = "../x".into();
    assert!(matches!(w.runtime.create(&spec).await, Err(Error::Invalid { field: "id", .. })));
    let spec = w.spec(&[]);
    assert!(matches!(w.runtime.create(&spec).await, Err(Error::Invalid { .. })));
    let mut spec = w.sh("true");
    process(&mut spec).set_cwd("/etc/passwd".into());
    w.runtime.create(&spec).await.unwrap();
    let e = w.runtime.start(&spec.id).await.unwrap_err().to_string();
    assert!(e.contains("chdir to cwd (\"/etc/passwd\")") && e.contains("not a directory"), "{e}");
}

async fn stdin_half_close(w: &World) {
    let mut spec = w.sh("cat; echo end");
    spec.io.stdin = StdinMode::OpenOnce;
    let mut io = w.begin(&spec).await;
    let mut stdin = io.stdin.take().unwrap();
    let data = "x".repeat(300_000);
    let write = tokio::spawn({
        let data = data.clone();
        async move {
            stdin.write_all(data.as_bytes()).await.unwrap();
            stdin.shutdown().await.unwrap();
        }
    });
    let output = collect(io).await;
    write.await.unwrap();
    assert_eq!(output.stdout, format!("{data}end\n"));
}

async fn stdin_open_once(w: &World) {
    for (mode, ends) in [(StdinMode::OpenOnce, true), (StdinMode::Open, false)] {
        let mut spec = w.sh("cat; exit 3");
        spec.io.stdin = mode;
        let io = w.begin(&spec).await;
        drop(io);
        let wait = tokio::time::timeout(Duration::from_millis(500), w.runtime.wait(&spec.id)).await;
        assert_eq!(wait.is_ok_and(|e| e.unwrap().code == 3), ends, "{mode:?}");
    }
}

async fn terminal(w: &World) {
    let mut spec = w.sh("stty size; test -t 0 && test -t 1 && echo tty; read a; echo \"got $a\"; stty size; tty; ls -l /dev/console");
    spec.io.tty = true;
    spec.io.stdin = StdinMode::Open;
    spec.io.size = Some((33, 77));
    process(&mut spec).set_user(as_user("app"));
    let mut io = w.begin(&spec).await;
    let mut seen = String::new();
    while !seen.contains("tty") {
        seen.push_str(std::str::from_utf8(&io.output.recv().await.unwrap().data).unwrap());
    }
    assert!(seen.starts_with("33 77\r\n"), "{seen:?}");
    w.runtime.resize(&spec.id, None, 40, 100).await.unwrap();
    io.stdin.as_mut().unwrap().write_all(b"hello\n").await.unwrap();
    let rest = collect(io).await;
    assert!(rest.stdout.contains("got hello\r\n40 100\r\n/dev/pts/0\r\n"), "{rest:?}");
    assert_eq!(w.runtime.wait(&spec.id).await.unwrap().code, 0);
}

async fn exec(w: &World) {
    let spec = w.sh("echo $$ > /tmp/first; sleep 100");
    drop(w.begin(&spec).await);
    let run = async |e: ExecSpec| {
        let started = w.runtime.exec(&spec.id, &e).await.unwrap();
        assert!(alive(started.pid) || started.io.exit.is_some());
        let mut io = started.io;
        let exit = io.exit.take().unwrap();
        let output = collect(io).await;
        (output, exit.await.unwrap().code)
    };
    let (output, code) = run(exec_spec(&spec, "e1", "echo $$ $(cat /tmp/first); echo err >&2; exit 7")).await;
    assert_eq!((output.stderr.as_str(), code), ("err\n", 7));
    assert!(output.stdout.ends_with(" 1\n"), "{output:?}");
    let mut e = exec_spec(&spec, "e2", "echo $(id -u):$(id -g) $(pwd) $X; hostname");
    e.process.set_user(as_user("app")).set_cwd("/tmp".into());
    e.process.set_env(Some(vec![defaults::PATH.into(), "X=y".into()]));
    let (output, code) = run(e).await;
    assert_eq!(code, 0, "{output:?}");
    assert!(output.stdout.starts_with("1000:1001 /tmp y\n"), "{output:?}");
    let mut e = exec_spec(&spec, "e3", "cat");
    e.stdin = true;
    let mut started = w.runtime.exec(&spec.id, &e).await.unwrap();
    let mut stdin = started.io.stdin.take().unwrap();
    stdin.write_all(b"through").await.unwrap();
    stdin.shutdown().await.unwrap();
    assert_eq!(collect(started.io).await.stdout, "through");
    // It has the container's confinement.
    let (output, _) =
        run(exec_spec(&spec, "e4", "grep -E 'CapBnd|Seccomp:' /proc/self/status; cat /proc/self/cgroup"))
            .await;
    assert!(output.stdout.contains("CapBnd:\t00000000a80425fb\nSeccomp:\t2\n"), "{output:?}");
    assert!(output.stdout.contains(&w.cgroup(&spec.id)), "{output:?}");
    let mut e = exec_spec(&spec, "e5", "");
    e.process.set_args(Some(vec!["nope".into()]));
    match w.runtime.exec(&spec.id, &e).await {
        Err(Error::Exec { kind: ExecErrorKind::NotFound, message }) => {
            assert_eq!(message, "exec: \"nope\": executable file not found in $PATH");
        }
        other => panic!("{other:?}"),
    }
    // What an exec leaves behind does not hold up its end.
    let (output, code) = run(exec_spec(&spec, "e6", "sleep 50 & echo done")).await;
    assert_eq!((output.stdout.as_str(), code), ("done\n", 0));
    assert!(w.runtime.pids(&spec.id).await.unwrap().len() >= 2);
    w.runtime.signal(&spec.id, 9, false).await.unwrap();
    assert_eq!(w.runtime.wait(&spec.id).await.unwrap().code, 137);
    let e = w.runtime.exec(&spec.id, &exec_spec(&spec, "e7", "true")).await.unwrap_err();
    assert!(matches!(e, Error::InvalidState { state: "stopped", .. }), "{e}");
}

async fn exec_in_terminal(w: &World) {
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    let mut e = exec_spec(&spec, "t", "stty size; read x; stty size; tty");
    e.tty = true;
    e.stdin = true;
    e.size = Some((11, 22));
    let mut started = w.runtime.exec(&spec.id, &e).await.unwrap();
    let mut first = Vec::new();
    while !first.ends_with(b"\n") {
        first.extend_from_slice(&started.io.output.recv().await.unwrap().data);
    }
    assert_eq!(first, b"11 22\r\n");
    w.runtime.resize(&spec.id, Some("t"), 12, 34).await.unwrap();
    started.io.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    let output = collect(started.io).await;
    assert!(output.stdout.ends_with("12 34\r\n/dev/pts/0\r\n"), "{output:?}");
    assert!(w.runtime.resize(&spec.id, Some("none"), 1, 1).await.unwrap_err().is_not_found());
}

async fn signals(w: &World) {
    let spec = w.sh("trap 'echo usr1; exit 5' USR1; echo ready; while :; do sleep 0.05; done");
    let mut io = w.begin(&spec).await;
    assert_eq!(&io.output.recv().await.unwrap().data[..], b"ready\n");
    w.runtime.signal(&spec.id, 10, false).await.unwrap();
    assert_eq!(collect(io).await.stdout, "usr1\n");
    assert_eq!(w.runtime.wait(&spec.id).await.unwrap().code, 5);
    assert!(w.runtime.signal(&spec.id, 9, false).await.is_err());
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    w.runtime.signal(&spec.id, 9, true).await.unwrap();
    let exit = w.runtime.wait(&spec.id).await.unwrap();
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (137, Some(9), false));
}

async fn killed_for_memory(w: &World) {
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

async fn pids_limit(w: &World) {
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

async fn read_only_root(w: &World) {
    let mut spec = w.sh("touch /x 2>&1; touch /dev/shm/ok && echo shm; touch /data/ok && echo data");
    if let Rootfs::Overlay { readonly, .. } = &mut spec.rootfs {
        *readonly = true;
    }
    let data = w.dir.path().join("data");
    std::fs::create_dir(&data).unwrap();
    add_mount(&mut spec, defaults::bind(&data, Path::new("/data"), &[]));
    assert_eq!(w.output_of(&spec).await, "touch: /x: Read-only file system\nshm\ndata\n");
}

async fn hidden_paths(w: &World) {
    let out = w
        .out("cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | wc -c; ls /sys/firmware /proc/acpi 2>/dev/null | grep -v : | wc -w; \
              echo 1 2>/dev/null > /proc/sys/kernel/panic || echo denied; echo h 2>/dev/null > /proc/sysrq-trigger || echo denied; \
              touch /sys/x 2>/dev/null || echo denied; ls /sys/fs/cgroup | head -1")
        .await;
    let mut lines = out.lines();
    assert_eq!([lines.next(), lines.next()], [Some("0"), Some("0")], "{out}");
    assert_eq!(lines.by_ref().take(3).collect::<Vec<_>>(), ["denied"; 3], "{out}");
    assert!(lines.next().is_some(), "no cgroups in sight");
}

async fn capabilities(w: &World) {
    let caps = "grep Cap /proc/self/status";
    let out = w.out(caps).await;
    assert_eq!(
        out,
        "CapInh:\t0000000000000000\nCapPrm:\t00000000a80425fb\nCapEff:\t00000000a80425fb\nCapBnd:\t00000000a80425fb\nCapAmb:\t0000000000000000\n"
    );
    let mut spec = w.sh(caps);
    process(&mut spec).set_user(as_user("app"));
    let out = w.output_of(&spec).await;
    assert!(
        out.contains("CapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t00000000a80425fb"),
        "{out}"
    );
    let mut spec = w.sh(caps);
    process(&mut spec).set_capabilities(Some(defaults::capabilities(["CAP_CHOWN", "NET_ADMIN"])));
    let out = w.output_of(&spec).await;
    assert!(out.contains("CapEff:\t0000000000001001"), "{out}");
    let mut spec = w.sh("mknod /tmp/n c 1 3 && chown 5 /tmp/n && ! mount -t tmpfs x /tmp 2>/dev/null");
    process(&mut spec).set_user(User::default());
    w.output_of(&spec).await;
}

async fn privileged(w: &World) {
    let mut spec = w.sh("mount -t tmpfs x /tmp && grep -c ' /tmp tmpfs' /proc/mounts; grep -E 'CapEff|Seccomp:' /proc/self/status; test -w /proc/sys/kernel && echo writable");
    let all = defaults::all_capabilities();
    process(&mut spec).set_capabilities(Some(defaults::capabilities(all.iter().map(String::as_str))));
    spec.seccomp = SeccompProfile::Unconfined;
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

async fn seccomp(w: &World) {
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
    let mut spec = w.sh("true");
    spec.seccomp = SeccompProfile::Docker("{".into());
    let e = w.runtime.create(&spec).await.unwrap_err().to_string();
    assert!(e.contains("decoding seccomp profile failed"), "{e}");
}

async fn no_new_privileges(w: &World) {
    let mut spec = w.sh("grep -E 'NoNewPrivs|Seccomp:' /proc/self/status");
    process(&mut spec).set_no_new_privileges(Some(true)).set_user(as_user("app"));
    assert_eq!(w.output_of(&spec).await, "NoNewPrivs:\t1\nSeccomp:\t2\n");
    assert_eq!(w.out("grep NoNewPrivs /proc/self/status").await, "NoNewPrivs:\t0\n");
}

async fn devices(w: &World) {
    let out = w
        .out("for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done; for l in ptmx fd stdin; do readlink /dev/$l; done; \
              head -c 3 /dev/zero | wc -c; mknod /tmp/kmsg c 1 11 && (head -c 1 /tmp/kmsg 2>&1); true")
        .await;
    assert!(
        out.starts_with("/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n/dev/tty 5:0 666\npts/ptmx\n/proc/self/fd\n/proc/self/fd/0\n3\n"),
        "{out}"
    );
    // It may be made, as Docker lets it, and not be opened.
    assert!(out.contains("Operation not permitted"), "{out}");
}

async fn mounts(w: &World) {
    let host = w.dir.path().join("host");
    std::fs::create_dir(&host).unwrap();
    std::fs::write(host.join("file"), "from the machine\n").unwrap();
    let mut spec = w.sh("cat /a/b/host/file /single; touch /a/b/host/x 2>&1; echo w > /rw/made; grep -c ' /tmp/t tmpfs rw,nosuid,nodev,noexec' /proc/mounts; stat -c %a /tmp/t");
    add_mount(&mut spec, defaults::bind(&host, Path::new("/a/b/host"), &["ro"]));
    add_mount(&mut spec, defaults::bind(&host.join("file"), Path::new("/single"), &["ro"]));
    add_mount(&mut spec, defaults::bind(&host, Path::new("/rw"), &[]));
    let mut tmpfs = Mount::default();
    tmpfs
        .set_destination("/tmp/t".into())
        .set_typ(Some("tmpfs".into()))
        .set_source(Some("tmpfs".into()))
        .set_options(Some(["nosuid", "nodev", "noexec", "size=1m", "mode=751"].map(String::from).to_vec()));
    add_mount(&mut spec, tmpfs);
    assert_eq!(
        w.output_of(&spec).await,
        "from the machine\nfrom the machine\ntouch: /a/b/host/x: Read-only file system\n1\n751\n"
    );
    assert_eq!(std::fs::read_to_string(host.join("made")).unwrap(), "w\n");
    // Nothing of it is in sight on the machine.
    let here = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!here.contains(w.dir.path().to_str().unwrap()), "{here}");
}

async fn links_cannot_lead_out(w: &World) {
    let outside = w.dir.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    let inside = w.dir.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    let image = w.dir.path().join("image");
    std::os::unix::fs::symlink(&outside, image.join("evil")).unwrap();
    std::os::unix::fs::symlink("/", image.join("self")).unwrap();
    let mut spec = w.sh("touch /evil/mounted/x; ls -d /evil/made; ls /self/bin/sh");
    add_mount(&mut spec, defaults::bind(&inside, Path::new("/evil/mounted"), &[]));
    process(&mut spec).set_cwd("/evil/made".into());
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

async fn nothing_leaks_in(w: &World) {
    // ls itself has the folder open.
    assert_eq!(w.out("ls /proc/self/fd | tr '\\n' ' '").await, "0 1 2 3 ");
    let mut spec = w.sh("pwd");
    // A descriptor of the machine as working folder is the way out that others left open.
    for n in 3..12 {
        process(&mut spec).set_cwd(PathBuf::from(format!("/proc/self/fd/{n}")));
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
async fn executable_is_safe(w: &World) {
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

async fn sysctls_and_names(w: &World) {
    let mut spec = w.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax; hostname; cat /proc/sys/kernel/domainname");
    let sysctls = [("net.ipv4.ip_unprivileged_port_start", "80"), ("kernel.shmmax", "123456")];
    let sysctls = sysctls.map(|(k, v)| (k.to_string(), v.to_string())).into();
    spec.oci.linux_mut().as_mut().unwrap().set_sysctl(Some(sysctls));
    spec.oci.set_hostname(Some("box".into())).set_domainname(Some("example".into()));
    assert_eq!(w.output_of(&spec).await, "80\n123456\nbox\nexample\n");
}

fn limit(kind: PosixRlimitType, soft: u64, hard: u64) -> PosixRlimit {
    PosixRlimitBuilder::default().typ(kind).soft(soft).hard(hard).build().unwrap()
}

async fn rlimits(w: &World) {
    let mut spec = w.sh("ulimit -Sn; ulimit -Hn; ulimit -c");
    let files = limit(PosixRlimitType::RlimitNofile, 100, 200);
    let core = limit(PosixRlimitType::RlimitCore, 0, 0);
    process(&mut spec).set_rlimits(Some(vec![files, core]));
    assert_eq!(w.output_of(&spec).await, "100\n200\n0\n");
    // More than this machine can give: what there is.
    let mut spec = w.sh("ulimit -Hn");
    let files = limit(PosixRlimitType::RlimitNofile, 1 << 30, 1 << 30);
    process(&mut spec).set_rlimits(Some(vec![files]));
    assert_ne!(w.output_of(&spec).await, "");
}

async fn pause_and_stats(w: &World) {
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

async fn update(w: &World) {
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    for mib in [64, 256, 32] {
        w.runtime.update(&spec.id, &memory(mib << 20)).await.unwrap();
        assert_eq!(w.runtime.stats(&spec.id).await.unwrap().memory.limit, (mib << 20) as u64);
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

async fn attach_twice(w: &World) {
    let mut spec = w.sh("read a; echo one $a; read b; echo two $b");
    spec.io.stdin = StdinMode::Open;
    let mut first = w.begin(&spec).await;
    let mut second = w.runtime.attach(&spec.id).await.unwrap();
    first.stdin.as_mut().unwrap().write_all(b"x\n").await.unwrap();
    assert_eq!(&first.output.recv().await.unwrap().data[..], b"one x\n");
    assert_eq!(&second.output.recv().await.unwrap().data[..], b"one x\n");
    drop(first);
    second.stdin.as_mut().unwrap().write_all(b"y\n").await.unwrap();
    assert_eq!(collect(second).await.stdout, "two y\n");
}

async fn slow_reader_stalls_only_its_container(w: &World) {
    let mut spec = w.sh("yes | head -c 8000000; echo end > /tmp/end");
    spec.io.log = LogSpec::None;
    let io = w.begin(&spec).await;
    let shim_kib = |pid: u32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let pid = w.runtime.state(&spec.id).await.unwrap().pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim: u32 = status.lines().find_map(|l| l.strip_prefix("PPid:\t")).unwrap().parse().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(shim_kib(shim) < 4096, "the shim hoards {} KiB", shim_kib(shim));
    assert_eq!(w.runtime.state(&spec.id).await.unwrap().status, Status::Running);
    let other = w.out("echo fine").await;
    assert_eq!(other, "fine\n");
    assert_eq!(collect(io).await.stdout.len(), 8_000_000);
}

async fn init_reaps(w: &World) {
    let mut spec = w.sh(
        "(sleep 0.01 &); sleep 0.1; ps -o pid,stat,comm | grep -c Z; cat /proc/1/comm; echo $PPID; exit 9",
    );
    spec.init = true;
    let (exit, output) = w.run(&spec).await;
    assert_eq!((exit.code, output.stdout.as_str()), (9, "0\ndocker-init\n1\n"));
    let mut spec = w.sh("trap 'echo term; exit 4' TERM; echo ready; while :; do sleep 0.02; done");
    spec.init = true;
    let mut io = w.begin(&spec).await;
    io.output.recv().await.unwrap();
    w.runtime.signal(&spec.id, 15, false).await.unwrap();
    assert_eq!(collect(io).await.stdout, "term\n");
    assert_eq!(w.runtime.wait(&spec.id).await.unwrap().code, 4);
    let mut spec = w.spec(&["nope"]);
    spec.init = true;
    w.runtime.create(&spec).await.unwrap();
    assert!(matches!(
        w.runtime.start(&spec.id).await,
        Err(Error::Exec { kind: ExecErrorKind::NotFound, .. })
    ));
}

async fn restart_finds_everything(w: &World) {
    let running = w.sh("echo before; sleep 0.4; echo after; sleep 100");
    drop(w.begin(&running).await);
    let ending = w.sh("sleep 0.2; exit 6");
    drop(w.begin(&ending).await);
    let ended = w.sh("exit 3");
    w.run(&ended).await;
    let created = w.sh("exit 4");
    w.runtime.create(&created).await.unwrap();
    let old = w.runtime.state(&running.id).await.unwrap();
    // The first daemon stays, which is harder: the second must work beside it.
    let next = w.reopened();
    let states = next.list().await.unwrap();
    let status = |id: &str| states.iter().find(|s| s.id == id).map(|s| s.status);
    assert_eq!(status(&running.id), Some(Status::Running));
    assert_eq!(status(&ended.id), Some(Status::Stopped));
    assert_eq!(status(&created.id), Some(Status::Created));
    let new = next.state(&running.id).await.unwrap();
    assert_eq!((new.pid, new.started_at, new.created_at), (old.pid, old.started_at, old.created_at));
    assert_eq!(*new.spec, *old.spec);
    assert_eq!(next.wait(&ended.id).await.unwrap().code, 3);
    assert_eq!(next.wait(&ending.id).await.unwrap().code, 6);
    let third = w.reopened();
    assert_eq!(third.wait(&ending.id).await.unwrap(), next.wait(&ending.id).await.unwrap());
    next.start(&created.id).await.unwrap();
    assert_eq!(next.wait(&created.id).await.unwrap().code, 4);
    eventually("the log went on", || std::fs::read_to_string(w.log(&running.id)).unwrap().contains("after"))
        .await;
    let mut io = next.exec(&running.id, &exec_spec(&running, "e", "echo still here")).await.unwrap().io;
    assert_eq!(&io.output.recv().await.unwrap().data[..], b"still here\n");
}

async fn killed_shim(w: &World) {
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    let pid = w.runtime.state(&spec.id).await.unwrap().pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim: i32 = status.lines().find_map(|l| l.strip_prefix("PPid:\t")).unwrap().parse().unwrap();
    sys::process::kill(shim, 9).unwrap();
    let exit = w.runtime.wait(&spec.id).await.unwrap();
    assert_eq!(exit.code, 137);
    eventually("the container ended", || !alive(pid)).await;
    eventually("its end was recorded", || w.dir.path().join(format!("state/{}.json", spec.id)).exists())
        .await;
    assert_eq!(w.reopened().wait(&spec.id).await.unwrap(), exit);
}

async fn half_made(w: &World) {
    let bundle = w.dir.path().join("run/containers/half");
    std::fs::create_dir_all(bundle.join("rootfs")).unwrap();
    std::fs::write(bundle.join("container.json"), "{\"id\":").unwrap();
    let next = w.reopened();
    assert!(!bundle.exists());
    assert!(next.list().await.unwrap().is_empty());
}

fn sandbox_spec(w: &World) -> SandboxSpec {
    SandboxSpec {
        id: "pod".into(),
        hostname: "pod-host".into(),
        sysctls: [("net.ipv4.ip_unprivileged_port_start".to_string(), "99".to_string())].into(),
        cgroup: w.cgroup("pod"),
        ..Default::default()
    }
}

fn join(spec: &mut ContainerSpec, w: &World, pid: u32, kinds: &[(LinuxNamespaceType, &str)]) {
    let linux = spec.oci.linux_mut().as_mut().unwrap();
    for namespace in linux.namespaces_mut().as_mut().unwrap() {
        if let Some((_, name)) = kinds.iter().find(|(k, _)| *k == namespace.typ()) {
            namespace.set_path(Some(PathBuf::from(format!("/proc/{pid}/ns/{name}"))));
        }
    }
    linux.set_cgroups_path(Some(PathBuf::from(w.cgroup(&format!("pod/{}", spec.id)))));
}

const POD: [(LinuxNamespaceType, &str); 3] = [
    (LinuxNamespaceType::Network, "net"),
    (LinuxNamespaceType::Ipc, "ipc"),
    (LinuxNamespaceType::Uts, "uts"),
];

async fn sandbox(w: &World) {
    let sandbox = w.runtime.sandbox_create(&sandbox_spec(w)).await.unwrap();
    let script =
        "hostname; readlink /proc/self/ns/net; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; echo $$";
    let mut spec = w.sh(script);
    join(&mut spec, w, sandbox.pid, &POD);
    let net = std::fs::read_link(&sandbox.netns).unwrap();
    assert_eq!(w.output_of(&spec).await, format!("pod-host\n{}\n99\n1\n", net.display()));
    assert_ne!(net, std::fs::read_link("/proc/self/ns/net").unwrap());
    assert!(matches!(w.runtime.sandbox_create(&sandbox_spec(w)).await, Err(Error::AlreadyExists { .. })));
    let next = w.reopened();
    assert_eq!(next.sandboxes().await.unwrap(), vec![sandbox.clone()]);
    assert_eq!(next.sandbox_spec("pod").await.unwrap(), sandbox_spec(w));
    w.runtime.delete(&spec.id, false).await.unwrap();
    next.sandbox_delete("pod").await.unwrap();
    next.sandbox_delete("pod").await.unwrap();
    assert!(next.sandboxes().await.unwrap().is_empty());
    eventually("the holder is gone", || !alive(sandbox.pid)).await;
    w.runtime.sandbox_delete("pod").await.unwrap();
}

async fn sandbox_with_shared_pids(w: &World) {
    let sandbox =
        w.runtime.sandbox_create(&SandboxSpec { share_pid: true, ..sandbox_spec(w) }).await.unwrap();
    let mut kinds = POD.to_vec();
    kinds.push((LinuxNamespaceType::Pid, "pid"));
    let mut first = w.sh("(sleep 55 &); sleep 100");
    join(&mut first, w, sandbox.pid, &kinds);
    drop(w.begin(&first).await);
    let mut second = w.sh("ps -o args; cat /proc/1/comm");
    join(&mut second, w, sandbox.pid, &kinds);
    let out = w.output_of(&second).await;
    assert!(out.contains("sleep 100") && out.contains("sleep 55") && out.ends_with("tug-pause\n"), "{out}");
    let mut io = w.runtime.exec(&first.id, &exec_spec(&first, "e", "cat /proc/1/comm")).await.unwrap().io;
    assert_eq!(&io.output.recv().await.unwrap().data[..], b"tug-pause\n");
    // Its end takes along what it has left behind.
    w.runtime.signal(&first.id, 9, false).await.unwrap();
    w.runtime.wait(&first.id).await.unwrap();
    let mut third = w.sh("ps -o args");
    join(&mut third, w, sandbox.pid, &kinds);
    let out = w.output_of(&third).await;
    assert!(!out.contains("sleep 55"), "{out}");
}

async fn log_rotation_and_follow(w: &World) {
    let mut spec = w.sh("i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; sleep 0.2; echo last");
    let log = w.dir.path().join("logs/rotated.log");
    std::fs::create_dir(log.parent().unwrap()).unwrap();
    spec.io.log = LogSpec::JsonFile { path: log.clone(), max_size: Some(10_000), max_files: 3 };
    drop(w.begin(&spec).await);
    let done = {
        let (runtime, id) = (w.runtime.clone(), spec.id.clone());
        async move {
            runtime.wait(&id).await.unwrap();
        }
    };
    let options = runtime::logs::ReadOptions { follow: true, ..Default::default() };
    let lines: Vec<_> = runtime::logs::read(&log, options, done).map(|l| l.unwrap().line).collect().await;
    assert_eq!(lines.last().unwrap(), "last\n");
    assert!(log.with_file_name("rotated.log.2").exists());
    assert!(!log.with_file_name("rotated.log.3").exists());
    let options = runtime::logs::ReadOptions { tail: Some(2), ..Default::default() };
    let tail: Vec<_> =
        runtime::logs::read(&log, options, std::future::pending()).map(|l| l.unwrap().line).collect().await;
    assert_eq!(tail, ["line 499\n", "last\n"]);
}

async fn fast_writer(w: &World) {
    let mut spec = w.sh("yes 0123456789012345678901234567890123456789012345678901234567890 | head -c 8000000; yes | tr -d '\\n' | head -c 1000000");
    spec.io.log = LogSpec::JsonFile { path: w.log("fast"), max_size: Some(1 << 20), max_files: 2 };
    w.runtime.create(&spec).await.unwrap();
    w.runtime.start(&spec.id).await.unwrap();
    assert_eq!(w.runtime.wait(&spec.id).await.unwrap().code, 0);
    let last = std::fs::read_to_string(w.log("fast")).unwrap();
    let last: serde_json::Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert!(last["log"].as_str().unwrap().bytes().all(|b| b == b'y'));
}

async fn events(w: &World) {
    let mut events = w.runtime.events();
    let spec = w.sh("sleep 0.05; exit 2");
    drop(w.begin(&spec).await);
    let exit = w.runtime.wait(&spec.id).await.unwrap();
    w.runtime.delete(&spec.id, false).await.unwrap();
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        assert_eq!(event.id, spec.id);
        seen.push(event.kind);
    }
    let exited = EventKind::Exited { exec_id: None, exit };
    assert_eq!(seen, [EventKind::Created, EventKind::Started, exited, EventKind::Deleted]);
}

async fn delete(w: &World) {
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    assert!(matches!(w.runtime.delete(&spec.id, false).await, Err(Error::InvalidState { .. })));
    let pid = w.runtime.state(&spec.id).await.unwrap().pid.unwrap();
    w.runtime.delete(&spec.id, true).await.unwrap();
    w.runtime.delete(&spec.id, true).await.unwrap();
    assert!(!alive(pid));
    assert!(w.runtime.state(&spec.id).await.unwrap_err().is_not_found());
    // One that was never started, while somebody waits for it.
    let spec = w.sh("true");
    w.runtime.create(&spec).await.unwrap();
    let wait = w.runtime.wait(&spec.id);
    let delete = async {
        tokio::time::sleep(Duration::from_millis(10)).await;
        w.runtime.delete(&spec.id, true).await.unwrap();
    };
    let (waited, ()) = tokio::join!(wait, delete);
    assert_eq!(waited.unwrap().code, 137);
}

async fn many_layers(w: &World) {
    let mut spec = w.sh("cat /layer; ls /only | wc -l");
    let Rootfs::Overlay { lower, .. } = &mut spec.rootfs else { panic!() };
    for n in 0..120 {
        let layer = w.dir.path().join(format!("layers/a-rather-long-name-as-digests-have-{n:0>40}"));
        std::fs::create_dir_all(layer.join("only")).unwrap();
        std::fs::write(layer.join("layer"), format!("{n}\n")).unwrap();
        std::fs::write(layer.join(format!("only/{n}")), "").unwrap();
        lower.insert(0, layer);
    }
    assert_eq!(w.output_of(&spec).await, "119\n120\n");
}

async fn shim_is_small(w: &World) {
    let spec = w.sh("sleep 100");
    drop(w.begin(&spec).await);
    let pid = w.runtime.state(&spec.id).await.unwrap().pid.unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let shim = status.lines().find_map(|l| l.strip_prefix("PPid:\t")).unwrap();
    let rollup = std::fs::read_to_string(format!("/proc/{shim}/smaps_rollup")).unwrap();
    let kib = |key: &str| -> u64 {
        let line = rollup.lines().find_map(|l| l.strip_prefix(key)).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    if std::env::var_os("SMAPS").is_some() {
        println!("{}", std::fs::read_to_string(format!("/proc/{shim}/smaps")).unwrap());
    }
    println!("shim: {} KiB anonymous, {} KiB PSS (this build)", kib("Pss_Anon:"), kib("Pss:"));
    // What is its own; the binary's pages are shared by all and depend on the build.
    assert!(kib("Pss_Anon:") < 512, "{rollup}");
}

/// The same container by other runtimes looks the same from inside.
async fn other_runtimes(w: &World) {
    for binary in ["/usr/sbin/runc", "/usr/bin/crun"].map(PathBuf::from) {
        if !binary.exists() {
            println!("skipped: {} is not installed", binary.display());
            continue;
        }
        let script = "id; pwd; env | sort; hostname; grep -E 'Cap|Seccomp:|NoNewPrivs' /proc/self/status; \
             ls /dev | sort | tr '\\n' ' '; cat /proc/sys/net/ipv4/ip_unprivileged_port_start; \
             awk '{print $5, $9}' /proc/self/mountinfo | grep -v -e cgroup -e /proc/interrupts -e /proc/keys -e /proc/timer | sort -u; \
             for p in /proc/kcore /proc/keys; do head -c 1 $p | wc -c; done; \
             ulimit -n; cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; \
             touch /proc/sys/x 2>&1; exit 7";
        let make = |runtime: Option<PathBuf>| {
            let mut spec = w.sh(script);
            spec.runtime = runtime;
            process(&mut spec).set_user(as_user("app:audio")).set_cwd("/home/app".into());
            process(&mut spec).set_rlimits(Some(vec![limit(PosixRlimitType::RlimitNofile, 99, 100)]));
            let mut resources = memory(64 << 20);
            resources.set_devices(Some(defaults::device_rules()));
            let linux = spec.oci.linux_mut().as_mut().unwrap();
            linux.set_resources(Some(resources));
            let port = ("net.ipv4.ip_unprivileged_port_start".to_string(), "77".to_string());
            linux.set_sysctl(Some([port].into()));
            spec.oci.set_hostname(Some("same".into()));
            spec
        };
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
        let (ours, theirs) = (w.run(&make(None)).await, w.run(&make(Some(binary.clone()))).await);
        assert_eq!(ours.0.code, theirs.0.code);
        assert_eq!(ours.1, theirs.1, "{}", binary.display());
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
    }
}

/// Root in the container is nobody on the machine.
async fn user_namespace(w: &World) {
    let mut spec = w.sh("id -u; cat /proc/self/uid_map; touch /made; ls -ln /made | awk '{print $3}'; \
        ls /dev | tr '\\n' ' '; echo x > /dev/null; mount -t tmpfs x /tmp 2>&1; cat /proc/kcore 2>&1 | wc -c; hostname");
    const FIRST: u32 = 200_000;
    let map = oci_spec::runtime::LinuxIdMappingBuilder::default()
        .container_id(0u32)
        .host_id(FIRST)
        .size(65536u32)
        .build()
        .unwrap();
    let linux = spec.oci.linux_mut().as_mut().unwrap();
    linux.set_uid_mappings(Some(vec![map])).set_gid_mappings(Some(vec![map]));
    linux.namespaces_mut().as_mut().unwrap().push(defaults::namespace(LinuxNamespaceType::User));
    spec.oci.set_hostname(Some("mapped".into()));
    let Rootfs::Overlay { upper, .. } = &spec.rootfs else { panic!() };
    // What an engine with userns-remap does to its layers.
    for path in [upper.clone(), w.dir.path().join("image")] {
        std::os::unix::fs::chown(path, Some(FIRST), Some(FIRST)).unwrap();
    }
    std::fs::set_permissions(w.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let upper = upper.clone();
    let out = w.output_of(&spec).await;
    assert!(out.starts_with("0\n         0     200000      65536\n0\n"), "{out}");
    assert!(out.contains("null") && out.contains("urandom") && out.ends_with("mapped\n"), "{out}");
    assert_eq!(std::fs::metadata(upper.join("made")).unwrap().uid(), FIRST);
    let mut spec2 = spec.clone();
    spec2.id = "again".into();
    process(&mut spec2).set_args(Some(vec!["sleep".into(), "100".into()]));
    w.runtime.delete(&spec.id, false).await.unwrap();
    drop(w.begin(&spec2).await);
    let mut started =
        w.runtime.exec("again", &exec_spec(&spec2, "e", "id -u; readlink /proc/self/ns/user")).await.unwrap();
    assert!(started.io.output.recv().await.unwrap().data.starts_with(b"0\n"));
}

async fn cgroup_namespace(w: &World) {
    let mut spec = w.sh("cat /proc/self/cgroup; ls /sys/fs/cgroup | head -3");
    spec.oci
        .linux_mut()
        .as_mut()
        .unwrap()
        .namespaces_mut()
        .as_mut()
        .unwrap()
        .push(defaults::namespace(LinuxNamespaceType::Cgroup));
    let out = w.output_of(&spec).await;
    assert!(!out.contains(&spec.id) && out.contains(":/\n"), "{out}");
}
