//! Standard streams: input's end, terminals, several readers, logs.

use std::time::Duration;

use futures::StreamExt;
use runtime::{LogSpec, Runtime, Status, StdinMode};
use tokio::io::AsyncWriteExt;

use super::{as_user, process_of};
use crate::world::{World, collect};

pub async fn stdin_half_close(w: &World) {
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

pub async fn stdin_open_once(w: &World) {
    for mode in [StdinMode::OpenOnce, StdinMode::Open] {
        let mut spec = w.sh("cat; exit 3");
        spec.io.stdin = mode;
        let io = w.begin(&spec).await;
        drop(io);
        if mode == StdinMode::OpenOnce {
            assert_eq!(w.runtime.wait(&spec.id).await.unwrap().code, 3);
        } else {
            let open = tokio::time::timeout(Duration::from_millis(500), w.runtime.wait(&spec.id)).await;
            assert!(open.is_err(), "the input ended with who gave it: {open:?}");
        }
    }
}

/// Whoever watches without input leaves the input open for others.
pub async fn watcher_ends_no_input(w: &World) {
    let mut spec = w.sh("read line; echo got $line; cat; exit 3");
    spec.io.stdin = StdinMode::OpenOnce;
    let mut io = w.begin(&spec).await;
    let watcher = w.runtime.watch(&spec.id).await.unwrap();
    assert!(watcher.stdin.is_none());
    drop(watcher);
    // The shim has seen the watcher go when it answers the next one.
    let mut second = w.runtime.watch(&spec.id).await.unwrap();
    io.stdin.as_mut().unwrap().write_all(b"it\n").await.unwrap();
    assert_eq!(&second.output.recv().await.unwrap().data[..], b"got it\n");
    drop(second);
    let open = tokio::time::timeout(Duration::from_millis(300), w.runtime.wait(&spec.id)).await;
    assert!(open.is_err(), "the input ended with a watcher: {open:?}");
    drop(io);
    assert_eq!(w.runtime.wait(&spec.id).await.unwrap().code, 3);
}

pub async fn terminal(w: &World) {
    let mut spec = w.sh("stty size; test -t 0 && test -t 1 && echo tty; read a; echo \"got $a\"; stty size; tty; ls -l /dev/console");
    spec.io.tty = true;
    spec.io.stdin = StdinMode::Open;
    spec.io.size = Some((33, 77));
    process_of(&mut spec).set_user(as_user("app"));
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

pub async fn attach_twice(w: &World) {
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

pub async fn slow_reader_stalls_only_its_container(w: &World) {
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

pub async fn log_rotation_and_follow(w: &World) {
    let mut spec = w.sh("i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done; sleep 0.2; echo last");
    let log = w.dir.path().join("logs/rotated.log");
    std::fs::create_dir(log.parent().unwrap()).unwrap();
    spec.io.log = LogSpec::json_file(log.clone(), Some(10_000), 3);
    drop(w.begin(&spec).await);
    let done = {
        let (runtime, id) = (w.runtime.clone(), spec.id.clone());
        async move {
            runtime.wait(&id).await.unwrap();
        }
    };
    let options = runtime::logs::ReadOptions { follow: true, ..Default::default() };
    let lines: Vec<_> =
        runtime::logs::read(&spec.io.log, options, done).map(|l| l.unwrap().line).collect().await;
    assert_eq!(lines.last().unwrap(), "last\n");
    assert!(log.with_file_name("rotated.log.2").exists());
    assert!(!log.with_file_name("rotated.log.3").exists());
    let options = runtime::logs::ReadOptions { tail: Some(2), ..Default::default() };
    let tail: Vec<_> = runtime::logs::read(&spec.io.log, options, std::future::pending())
        .map(|l| l.unwrap().line)
        .collect()
        .await;
    assert_eq!(tail, ["line 499\n", "last\n"]);
}

pub async fn fast_writer(w: &World) {
    let mut spec = w.sh("yes 0123456789012345678901234567890123456789012345678901234567890 | head -c 8000000; yes | tr -d '\\n' | head -c 1000000");
    spec.io.log = LogSpec::json_file(w.log("fast"), Some(1 << 20), 2);
    w.runtime.create(&spec).await.unwrap();
    w.runtime.start(&spec.id).await.unwrap();
    assert_eq!(w.runtime.wait(&spec.id).await.unwrap().code, 0);
    let last = std::fs::read_to_string(w.log("fast")).unwrap();
    let last: serde_json::Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert!(last["log"].as_str().unwrap().bytes().all(|b| b == b'y'));
}
