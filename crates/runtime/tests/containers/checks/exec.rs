//! Further processes in a running container.

use runtime::{Error, ExecErrorKind, ExecSpec, Runtime, defaults};
use tokio::io::AsyncWriteExt;

use super::{alive, as_user, exec_spec};
use crate::world::{World, collect};

pub async fn exec(w: &World) {
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
    // Nor does one that writes as fast as it can.
    let (_, code) = run(exec_spec(&spec, "e7", "yes & true")).await;
    assert_eq!(code, 0);
    assert!(w.runtime.pids(&spec.id).await.unwrap().len() >= 2);
    w.runtime.signal(&spec.id, 9, false).await.unwrap();
    assert_eq!(w.runtime.wait(&spec.id).await.unwrap().code, 137);
    let e = w.runtime.exec(&spec.id, &exec_spec(&spec, "e8", "true")).await.unwrap_err();
    assert!(matches!(e, Error::InvalidState { state: "stopped", .. }), "{e}");
}

pub async fn exec_in_terminal(w: &World) {
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

/// A command that ends at once: its only line must not go with its terminal.
pub async fn short_execs_in_terminals(w: &World) {
    let spec = w.sh("sleep 10000");
    drop(w.begin(&spec).await);
    for n in 0..200 {
        let mut exec = exec_spec(&spec, &format!("e{n}"), "");
        exec.process.set_args(Some(vec!["echo".into(), "hi".into()]));
        (exec.tty, exec.stdin) = (true, true);
        let started = w.runtime.exec(&spec.id, &exec).await.unwrap();
        assert_eq!(collect(started.io).await.stdout, "hi\r\n", "round {n}");
    }
}
