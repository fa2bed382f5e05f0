//! Log drivers with real containers.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Engine, frames};
use crate::survival::until;

/// Runs a container to its end; its id.
fn run(engine: &Engine, name: &str, script: &str, log: Value, labels: Value) -> String {
    let id = engine.create(
        name,
        &json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script], "Labels": labels,
                "HostConfig": {"NetworkMode": "none", "LogConfig": log}}),
    );
    let started = engine.post(&format!("/containers/{id}/start"), &json!(null));
    assert_eq!(started.status, 204, "{}", started.message());
    assert_eq!(engine.post(&format!("/containers/{id}/wait"), &json!(null)).json()["StatusCode"], 0);
    id
}

fn logs(engine: &Engine, id: &str, more: &str) -> Vec<(u8, String)> {
    let answer = engine.get(&format!("/containers/{id}/logs?stdout=1&stderr=1{more}"));
    assert_eq!(answer.status, 200, "{answer:?}");
    let text = |d: Vec<u8>| String::from_utf8(d).unwrap();
    frames(&mut answer.body.as_slice()).into_iter().map(|(s, d)| (s, text(d))).collect()
}

#[test]
fn local_and_json_file_say_what_they_were_asked_to() {
    skip_if_lacking!();
    let engine = Engine::start();
    let labels = json!({"team": "a"});
    let config = json!({"labels": "team", "tag": "{{.Name}}"});
    for driver in ["local", "json-file"] {
        let log = json!({"Type": driver, "Config": config});
        let id = run(&engine, driver, "echo one; echo two", log, labels.clone());
        let lines = logs(&engine, &id, "&details=1&tail=1");
        assert_eq!(lines, [(1, format!("tag={driver},team=a two\n"))]);
        assert_eq!(logs(&engine, &id, "").len(), 2);
    }
    let none = run(&engine, "none", "echo one", json!({"Type": "none"}), json!({}));
    let refused = engine.get(&format!("/containers/{none}/logs?stdout=1"));
    assert_eq!(refused.message(), "configured logging driver does not support reading");
}

/// Everything that was written before a log is asked for is in the answer, also if the shim has not read it yet.
#[test]
#[allow(clippy::disallowed_methods)] // the shim is held up for a while
fn what_was_just_written_is_there() {
    use nix::sys::signal::{Signal, kill};
    skip_if_lacking!();
    let engine = Engine::start();
    let ways = [("GET", "logs?"), ("POST", "attach?logs=1&")];
    for (tty, (method, way)) in [false, true].into_iter().flat_map(|tty| ways.map(|way| (tty, way))) {
        let shared = engine.path().join(format!("shared-{tty}-{method}"));
        std::fs::create_dir(&shared).unwrap();
        let script = "until [ -e /v/go ]; do sleep 0.02; done; echo said; touch /v/done; exec sleep 1000";
        let name = format!("says-{tty}-{method}");
        let body = json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script], "Tty": tty,
            "HostConfig": {"NetworkMode": "none", "Binds": [format!("{}:/v", shared.display())]}});
        engine.create(&name, &body);
        assert_eq!(engine.post(&format!("/containers/{name}/start"), &json!(null)).status, 204);
        let pid = engine.get(&format!("/containers/{name}/json")).json()["State"]["Pid"].clone();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let parent: i32 = stat.rsplit(')').next().unwrap().split(' ').nth(2).unwrap().parse().unwrap();
        let shim = nix::unistd::Pid::from_raw(parent);

        kill(shim, Signal::SIGSTOP).unwrap();
        std::fs::write(shared.join("go"), "").unwrap();
        until("it says something", || shared.join("done").exists());
        let path = format!("/containers/{name}/{way}stdout=1");
        let answer = std::thread::scope(|scope| {
            let asked = scope.spawn(|| engine.call(method, &path, "application/json", b""));
            // Long enough for an answer that waits for nothing.
            std::thread::sleep(Duration::from_millis(200));
            kill(shim, Signal::SIGCONT).unwrap();
            asked.join().unwrap()
        });
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains("said"), "{way} with a terminal {tty}: {text:?}");
    }
    // Of one that has ended all is there when its end is told.
    for number in 0..20 {
        let id = run(&engine, &format!("ends-{number}"), "echo last words", json!({}), json!({}));
        assert_eq!(logs(&engine, &id, ""), [(1, "last words\n".to_owned())]);
    }
}

#[test]
fn rotated_and_compressed_logs_are_read_whole() {
    skip_if_lacking!();
    let engine = Engine::start();
    let log = json!({"Type": "local", "Config": {"max-size": "20k", "max-file": "500", "compress": "true"}});
    let script = "i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done";
    let id = run(&engine, "many", script, log, json!({}));
    let lines = logs(&engine, &id, "");
    let want: Vec<_> = (0..3000).map(|i| (1, format!("line {i}\n"))).collect();
    assert_eq!(lines.len(), 3000);
    assert_eq!(lines, want);
    let tail = logs(&engine, &id, "&tail=1500");
    assert_eq!(tail, want[1500..]);
}

#[test]
fn syslog_sends_and_can_still_be_read() {
    skip_if_lacking!();
    let engine = Engine::start();
    let path = engine.path().join("syslog");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let config = json!({
        "syslog-address": format!("unixgram://{}", path.display()), "syslog-facility": "local3",
        "syslog-format": "rfc5424micro", "tag": "{{.Name}}",
    });
    let log = json!({"Type": "syslog", "Config": config});
    let id = run(&engine, "sent", "echo out; echo err >&2", log.clone(), json!({}));
    let mut got = Vec::new();
    for _ in 0..2 {
        let mut buffer = [0; 4096];
        let n = socket.recv(&mut buffer).unwrap();
        got.push(String::from_utf8(buffer[..n].to_vec()).unwrap());
    }
    got.sort();
    assert!(got[0].starts_with("<155>1 ") && got[0].ends_with(" sent - err\n"), "{got:?}");
    assert!(got[1].starts_with("<158>1 ") && got[1].ends_with(" sent - out\n"), "{got:?}");
    let mut read = logs(&engine, &id, "");
    read.sort();
    assert_eq!(read, [(1, "out\n".into()), (2, "err\n".into())]);

    // What nobody takes keeps the container from starting, and says why.
    drop(socket);
    std::fs::remove_file(&path).unwrap();
    let id = engine.create(
        "gone",
        &json!({"Image": "busybox:test", "HostConfig": {"NetworkMode": "none",
        "LogConfig": {"Type": "gelf", "Config": {"gelf-address": "tcp://127.0.0.1:9"}}}}),
    );
    let refused = engine.post(&format!("/containers/{id}/start"), &json!(null));
    assert!(refused.status >= 400, "{refused:?}");
    assert!(refused.message().contains("failed to initialize logging driver"), "{}", refused.message());
    assert!(refused.message().contains("connection refused"), "{}", refused.message());
    let unknown = engine.post(
        "/containers/create",
        &json!({"Image": "busybox:test",
        "HostConfig": {"LogConfig": {"Type": "splunk"}}}),
    );
    assert_eq!(
        (unknown.status, unknown.message().as_str()),
        (400, "logger: no log driver named 'splunk' is registered")
    );
}

/// Memory of a process that is its own, KiB.
fn anonymous(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Anonymous:"));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// The shim of a running container: the parent of its first process.
fn shim(engine: &Engine, id: &str) -> u32 {
    let state = engine.get(&format!("/containers/{id}/json")).json()["State"].clone();
    let status = std::fs::read_to_string(format!("/proc/{}/status", state["Pid"])).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap().trim().parse().unwrap()
}

#[test]
fn a_fast_writer_fills_no_memory_and_the_engine_answers() {
    skip_if_lacking!();
    let engine = Engine::start();
    let script = "/bin/busybox yes 0123456789012345678901234567890123456789 | /bin/busybox head -c 300000000";
    let id = engine.create(
        "fast",
        &json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}}),
    );
    // Somebody follows and does not read.
    assert_eq!(engine.post(&format!("/containers/{id}/start"), &json!(null)).status, 204);
    let _idle = engine.open("GET", &format!("/containers/{id}/logs?follow=1&stdout=1"), "", b"");
    // What a shim has before anything is written is the binary's own affair.
    let idle = engine.create(
        "idle",
        &json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}}),
    );
    assert_eq!(engine.post(&format!("/containers/{idle}/start"), &json!(null)).status, 204);
    let (shim, idle) = (shim(&engine, &id), anonymous(shim(&engine, &idle)));
    let before = anonymous(engine.pid());
    let (mut most, mut daemon) = (0, 0);
    while engine.get(&format!("/containers/{id}/json")).json()["State"]["Running"] == true {
        assert_eq!(engine.get("/_ping").status, 200);
        most = most.max(anonymous(shim));
        daemon = daemon.max(anonymous(engine.pid()));
    }
    assert!(idle > 0 && most < idle + 1024, "the shim grew from {idle} to {most} KiB");
    assert!(daemon < before + 64 * 1024, "the engine grew from {before} to {daemon} KiB");
    let folder = engine.path().join(format!("data/engine/containers/{id}"));
    let sizes: u64 = std::fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.file_name().to_string_lossy().contains("-json.log"))
        .map(|e| e.metadata().unwrap().len())
        .sum();
    assert!((40_000_000..=50_000_000).contains(&sizes), "{sizes} bytes of log");
}

/// What was logged comes first and then what is written, each line once, however long the log is; and the daemon holds no
/// more of it than is on its way.
#[test]
fn attaching_with_the_log() {
    skip_if_lacking!();
    let engine = Engine::start();
    let script = "i=0; while [ $i -lt 30000 ]; do echo line $i; i=$((i+1)); done; \
                  while :; do echo line $i; i=$((i+1)); sleep 0.01; done";
    let log = json!({"Type": "json-file", "Config": {"max-size": "100m"}});
    let body = json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script],
                      "HostConfig": {"NetworkMode": "none", "LogConfig": log}});
    let id = engine.create("talking", &body);
    assert_eq!(engine.post(&format!("/containers/{id}/start"), &json!(null)).status, 204);
    let said = || {
        let last = logs(&engine, &id, "&tail=1");
        last.first().map_or(0, |(_, line)| line["line ".len()..].trim_end().parse::<u64>().unwrap())
    };
    until("it has said much", || said() > 30_000);
    let path = format!("/containers/{id}/attach?logs=1&stream=1&stdout=1");
    let mut attached = engine.open("POST", &path, "Connection: Upgrade\r\nUpgrade: tcp\r\n", b"");
    assert_eq!(crate::support::read_head(&mut attached).0, 101);
    // What is written while the client takes its time is in the stream, not in the log that comes first.
    let then = said();
    until("it has said more", || said() > then + 300);
    let (mut next, mut twice) = (0, 0);
    let mut rest = String::new();
    while next < then + 320 {
        let mut head = [0; 8];
        std::io::Read::read_exact(&mut attached, &mut head).unwrap();
        let mut data = vec![0; u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize];
        std::io::Read::read_exact(&mut attached, &mut data).unwrap();
        rest.push_str(std::str::from_utf8(&data).unwrap());
        while let Some((line, more)) = rest.split_once('\n') {
            let number: u64 = line.strip_prefix("line ").unwrap().parse().unwrap();
            assert!(number <= next, "{next} is missing, {number} comes");
            twice += u64::from(number < next);
            next = next.max(number + 1);
            rest = more.to_owned();
        }
    }
    // Only what is written in the very moment of attaching may be in both.
    assert!(twice <= 100, "{twice} lines came twice");
    drop(attached);
    assert_eq!(engine.delete(&format!("/containers/{id}?force=1")).status, 204);

    let script = "/bin/busybox yes 0123456789012345678901234567890123456789012345678901234567890 | /bin/busybox head -c 20000000";
    let body = json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script],
                      "HostConfig": {"NetworkMode": "none", "LogConfig": log}});
    let id = engine.create("long", &body);
    assert_eq!(engine.post(&format!("/containers/{id}/start"), &json!(null)).status, 204);
    assert_eq!(engine.post(&format!("/containers/{id}/wait"), &json!(null)).json()["StatusCode"], 0);
    let path = format!("/containers/{id}/attach?logs=1&stdout=1");
    let mut attached = engine.open("POST", &path, "Connection: Upgrade\r\nUpgrade: tcp\r\n", b"");
    assert_eq!(crate::support::read_head(&mut attached).0, 101);
    let mut first = [0; 8];
    std::io::Read::read_exact(&mut attached, &mut first).unwrap();
    let held = crate::attacks::resident(engine.pid());
    assert!(held < 32 << 10, "the daemon holds {held} KiB");
    let mut bytes = 0;
    loop {
        let length = u32::from_be_bytes([first[4], first[5], first[6], first[7]]) as usize;
        std::io::Read::read_exact(&mut attached, &mut vec![0; length]).unwrap();
        bytes += length;
        if std::io::Read::read_exact(&mut attached, &mut first).is_err() {
            break;
        }
    }
    assert_eq!(bytes, 20_000_000);
}
