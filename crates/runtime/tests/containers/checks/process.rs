//! What a container's process is born with, how its end is told, and what it may ask for.

use std::path::Path;

use oci_spec::runtime::PosixRlimitType;
use runtime::{Error, ExecErrorKind, Runtime, Status, StdinMode, defaults};
use tokio::io::AsyncWriteExt;

use super::{add_mount, as_user, limit, process_of};
use crate::world::{World, collect};

pub async fn echo(w: &World) {
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

pub async fn exit_codes(w: &World) {
    for code in [1, 42, 255] {
        let (exit, _) = w.run(&w.sh(&format!("exit {code}"))).await;
        assert_eq!(exit.code, code);
    }
    let (exit, _) = w.run(&w.sh("sh -c 'kill -9 $$'; exit $?")).await;
    assert_eq!(exit.code, 137);
}

pub async fn bad_commands(w: &World) {
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

pub async fn environment(w: &World) {
    let mut spec = w.sh("echo $A $HOME; pwd; id -u; id -g; id -G");
    let process = spec.oci.process_mut().as_mut().unwrap();
    process.set_env(Some(vec![runtime::defaults::PATH.into(), "A=b".into()]));
    process.set_cwd("/made/for/me".into());
    let mut user = oci_spec::runtime::User::default();
    user.set_username(Some("app".into()));
    process.set_user(user);
    assert_eq!(w.output_of(&spec).await, "b /home/app\n/made/for/me\n1000\n1001\n1001 29\n");
}

pub async fn users(w: &World) {
    for (expression, want) in
        [("1000:audio", "1000 29 29"), ("4242", "4242 0 0"), ("app:77", "1000 77 77"), ("root", "0 0 0")]
    {
        let mut spec = w.sh("echo $(id -u) $(id -g) $(id -G)");
        process_of(&mut spec).set_user(as_user(expression));
        assert_eq!(w.output_of(&spec).await, format!("{want}\n"), "{expression}");
    }
    let mut spec = w.sh("true");
    process_of(&mut spec).set_user(as_user("nope"));
    w.runtime.create(&spec).await.unwrap();
    let e = w.runtime.start(&spec.id).await.unwrap_err().to_string();
    assert_eq!(e, "unable to find user nope: no matching entries in passwd file");
    // A user who is not root may write to its own standard output by name.
    let mut spec = w.sh("echo through > /dev/stdout");
    process_of(&mut spec).set_user(as_user("app"));
    assert_eq!(w.output_of(&spec).await, "through\n");
}

pub async fn setup_errors(w: &World) {
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
    process_of(&mut spec).set_cwd("/etc/passwd".into());
    w.runtime.create(&spec).await.unwrap();
    let e = w.runtime.start(&spec.id).await.unwrap_err().to_string();
    assert!(e.contains("chdir to cwd (\"/etc/passwd\")") && e.contains("not a directory"), "{e}");
}

pub async fn signals(w: &World) {
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

pub async fn rlimits(w: &World) {
    let mut spec = w.sh("ulimit -Sn; ulimit -Hn; ulimit -c");
    let files = limit(PosixRlimitType::RlimitNofile, 100, 200);
    let core = limit(PosixRlimitType::RlimitCore, 0, 0);
    process_of(&mut spec).set_rlimits(Some(vec![files, core]));
    assert_eq!(w.output_of(&spec).await, "100\n200\n0\n");
    // Fewer files than it takes to make a container.
    process_of(&mut spec).set_args(Some(vec!["sh".into(), "-c".into(), "ulimit -Sn; ulimit -Hn".into()]));
    process_of(&mut spec).set_rlimits(Some(vec![limit(PosixRlimitType::RlimitNofile, 4, 10)]));
    spec.id = "few".into();
    assert_eq!(w.output_of(&spec).await, "4\n10\n");
    // More than this machine can give: what there is.
    let mut spec = w.sh("ulimit -Hn");
    let files = limit(PosixRlimitType::RlimitNofile, 1 << 30, 1 << 30);
    process_of(&mut spec).set_rlimits(Some(vec![files]));
    assert_ne!(w.output_of(&spec).await, "");
}

pub async fn sysctls_and_names(w: &World) {
    let mut spec = w.sh("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shmmax; hostname; cat /proc/sys/kernel/domainname");
    let sysctls = [("net.ipv4.ip_unprivileged_port_start", "80"), ("kernel.shmmax", "123456")];
    let sysctls = sysctls.map(|(k, v)| (k.to_string(), v.to_string())).into();
    spec.oci.linux_mut().as_mut().unwrap().set_sysctl(Some(sysctls));
    spec.oci.set_hostname(Some("box".into())).set_domainname(Some("example".into()));
    assert_eq!(w.output_of(&spec).await, "80\n123456\nbox\nexample\n");
}

pub async fn init_reaps(w: &World) {
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
    // A signal that has no name.
    let mut spec = w.sh("sleep 1000");
    spec.init = true;
    drop(w.begin(&spec).await);
    w.runtime.signal(&spec.id, 37, false).await.unwrap();
    assert_eq!(w.runtime.wait(&spec.id).await.unwrap().code, 128 + 37);
    // In a terminal; and nothing of the machine's is to be had of the first process.
    let mut spec =
        w.sh("cat /proc/1/environ /proc/1/fd/2 2>&1 | grep -c denied; read x; echo got $x; exit 3");
    (spec.init, spec.io.tty, spec.io.stdin) = (true, true, StdinMode::Open);
    let mut io = w.begin(&spec).await;
    io.stdin.as_mut().unwrap().write_all(b"it\n").await.unwrap();
    let output = collect(io).await.stdout;
    // What was typed is shown before or after it.
    assert!(output.lines().any(|l| l == "2") && output.contains("got it\r\n"), "{output:?}");
    assert_eq!(w.runtime.wait(&spec.id).await.unwrap().code, 3);
    let mut spec = w.spec(&["nope"]);
    spec.init = true;
    w.runtime.create(&spec).await.unwrap();
    assert!(matches!(
        w.runtime.start(&spec.id).await,
        Err(Error::Exec { kind: ExecErrorKind::NotFound, .. })
    ));
}
