//! What becomes of containers when the daemon is killed, and when the machine was restarted.

use std::io::{Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Engine, frames, patience, read_head};

fn state(engine: &Engine, name: &str) -> Value {
    engine.get(&format!("/containers/{name}/json")).json()["State"].clone()
}

/// Waits until something holds; a test has no other way to see what happens inside a container.
#[allow(clippy::disallowed_methods)] // a test watches from outside
pub fn until(what: &str, holds: impl FnMut() -> bool) {
    within(Duration::from_secs(600) * patience(), what, holds);
}

/// Waits until something holds, where a later end would mean that something else has brought it about.
#[allow(clippy::disallowed_methods)] // a test watches from outside
pub fn within(patience: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + patience;
    while !holds() {
        assert!(Instant::now() < end, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn run(engine: &Engine, name: &str, script: &str, more: Value) -> String {
    let mut host = json!({"NetworkMode": "none"});
    for (key, value) in more["HostConfig"].as_object().into_iter().flatten() {
        host[key] = value.clone();
    }
    let mut body = json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script]});
    for (key, value) in more.as_object().into_iter().flatten() {
        body[key] = value.clone();
    }
    body["HostConfig"] = host;
    let id = engine.create(name, &body);
    let started = engine.post(&format!("/containers/{id}/start"), &Value::Null);
    assert_eq!(started.status, 204, "{name}: {started:?}");
    id
}

fn policy(name: &str) -> Value {
    json!({"HostConfig": {"RestartPolicy": {"Name": name}}})
}

/// The process that is the parent of a container's first one.
fn shim_of(pid: &Value) -> i32 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    status.lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse().ok()).unwrap()
}

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn every_state_survives_a_killed_daemon() {
    skip_if_lacking!();
    let mut engine = Engine::start();
    let go = engine.path().join("go");
    std::fs::create_dir(&go).unwrap();
    let bind = format!("{}:/go", go.display());
    let wait_for_go = "until [ -e /go/now ]; do sleep 0.1; done";

    run(&engine, "running", "echo before; sleep 1000", Value::Null);
    run(&engine, "paused", "sleep 1000", Value::Null);
    assert_eq!(engine.post("/containers/paused/pause", &Value::Null).status, 204);
    run(&engine, "crashing", "exit 3", policy("always"));
    until("it has crashed a few times", || {
        engine.get("/containers/crashing/json").json()["RestartCount"].as_i64() >= Some(3)
    });
    let check = json!({"Test": ["CMD", "true"], "Interval": 200_000_000_i64});
    run(&engine, "healthy", "sleep 1000", json!({"Healthcheck": check}));
    until("it is healthy", || state(&engine, "healthy")["Health"]["Status"] == "healthy");
    run(&engine, "with-exec", "sleep 1000", Value::Null);
    let exec = engine.post("/containers/with-exec/exec", &json!({"Cmd": ["sleep", "999"]})).json();
    let exec = exec["Id"].as_str().unwrap().to_owned();
    assert_eq!(engine.post(&format!("/exec/{exec}/start"), &json!({"Detach": true})).status, 200);
    assert_eq!(engine.get(&format!("/exec/{exec}/json")).json()["Running"], true, "nobody needs to listen");
    let exec_pid = engine.get(&format!("/exec/{exec}/json")).json()["Pid"].as_i64().unwrap();
    run(&engine, "attached", "read line; echo got $line; sleep 1000", json!({"OpenStdin": true}));
    let upgrade = "Connection: Upgrade\r\nUpgrade: tcp\r\n";
    let attach = "/containers/attached/attach?stream=1&stdin=1&stdout=1";
    let mut lost = engine.open("POST", attach, upgrade, b"");
    assert_eq!(read_head(&mut lost).0, 101);
    run(&engine, "ended", "exit 7", Value::Null);
    until("it has ended", || state(&engine, "ended")["Status"] == "exited");
    engine.create("created", &json!({"Image": "busybox:test", "HostConfig": {"NetworkMode": "none"}}));
    let later = json!({"HostConfig": {"Binds": [bind]}});
    run(&engine, "ends-later", &format!("{wait_for_go}; echo late; exit 9"), later.clone());
    let mut passing = later.clone();
    passing["HostConfig"]["AutoRemove"] = json!(true);
    run(&engine, "passing", wait_for_go, passing);
    let mut stopping = later;
    stopping["HostConfig"]["RestartPolicy"] = json!({"Name": "always"});
    let slow = format!(
        "trap ': > /go/asked; {wait_for_go}; exit 0' TERM; : > /go/ready; while :; do sleep 0.1; done"
    );
    run(&engine, "stopping", &slow, stopping);
    // A first process that has no handler yet ignores the signal.
    until("it minds the signal", || go.join("ready").exists());
    // Somebody stops it and the daemon dies meanwhile: it must not be started again.
    let _stop = engine.open("POST", "/containers/stopping/stop?t=600", "", b"");
    let stopping = engine.get("/containers/stopping/json").json()["Id"].as_str().unwrap().to_owned();
    let life = engine.path().join(format!("data/engine/containers/{stopping}/life.json"));
    until("the stop is noted, and asked for", || {
        let noted = std::fs::read_to_string(&life).is_ok_and(|text| text.contains("\"by_hand\":true"));
        noted && go.join("asked").exists()
    });

    let names = ["running", "paused", "healthy", "with-exec", "attached", "ended", "created"];
    let before: Vec<Value> = names.iter().map(|n| state(&engine, n)).collect();
    let later_pid = state(&engine, "ends-later")["Pid"].clone();
    engine.kill();
    std::fs::write(go.join("now"), "").unwrap();
    until("it ended without a daemon", || !Path::new(&format!("/proc/{later_pid}/root/bin")).exists());
    // What a crash in the middle of a creation leaves.
    let half = engine.path().join("data/engine/containers").join("ab".repeat(32));
    std::fs::create_dir(&half).unwrap();
    std::fs::write(half.join("hostname"), "half").unwrap();
    engine.start_again();

    assert!(!half.exists(), "half-made containers are removed");
    for (name, before) in names.iter().zip(before) {
        let after = state(&engine, name);
        for field in ["Status", "Pid", "StartedAt", "FinishedAt", "ExitCode", "Paused"] {
            assert_eq!(before[field], after[field], "{name}: {field}");
        }
    }
    assert_eq!(state(&engine, "healthy")["Health"]["Status"], "healthy");
    assert_eq!(engine.post("/containers/ends-later/wait", &Value::Null).json()["StatusCode"], 9);
    let log = engine.get("/containers/ends-later/logs?stdout=1");
    assert_eq!(frames(&mut log.body.as_slice()), [(1, b"late\n".to_vec())]);
    until("--rm holds also for what ended meanwhile", || {
        engine.get("/containers/passing/json").status == 404
    });
    until("a stop holds over the daemon's end", || state(&engine, "stopping")["Status"] == "exited");
    assert_eq!(engine.get("/containers/stopping/json").json()["RestartCount"], 0);
    let restarts = engine.get("/containers/crashing/json").json()["RestartCount"].as_i64();
    assert!(restarts >= Some(3), "the count goes on: {restarts:?}");
    until("it crashes on", || {
        engine.get("/containers/crashing/json").json()["RestartCount"].as_i64() > restarts
    });
    assert!(Path::new(&format!("/proc/{exec_pid}")).exists(), "an exec goes on");
    assert_eq!(engine.post("/containers/paused/unpause", &Value::Null).status, 204);

    let mut again = engine.open("POST", attach, upgrade, b"");
    assert_eq!(read_head(&mut again).0, 101);
    again.get_mut().write_all(b"typed\n").unwrap();
    let mut head = [0; 8];
    again.read_exact(&mut head).unwrap();
    let mut line = vec![0; usize::from(head[7])];
    again.read_exact(&mut line).unwrap();
    assert_eq!(line, b"got typed\n");
}

#[test]
fn restart_policies_after_a_reboot() {
    skip_if_lacking!();
    let mut engine = Engine::start();
    let forever = "sleep 1000";
    for name in ["no", "always", "unless-stopped", "on-failure"] {
        run(&engine, &format!("up-{name}"), forever, policy(name));
        run(&engine, &format!("stopped-{name}"), forever, policy(name));
        let stopped = engine.post(&format!("/containers/stopped-{name}/stop?t=0"), &Value::Null);
        assert_eq!(stopped.status, 204, "{stopped:?}");
    }
    run(&engine, "passing", forever, json!({"HostConfig": {"AutoRemove": true}}));
    let names: Vec<String> =
        ["no", "always", "unless-stopped", "on-failure"].iter().map(|n| format!("up-{n}")).collect();
    let mut pids: Vec<Value> = names.iter().map(|n| state(&engine, n)["Pid"].clone()).collect();
    pids.push(state(&engine, "passing")["Pid"].clone());
    engine.kill();
    // As a restart of the machine has it: no process, nothing in the run folder.
    for pid in &pids {
        kill(shim_of(pid));
        kill(i32::try_from(pid.as_i64().unwrap()).unwrap());
    }
    for pid in &pids {
        until("its process is gone", || !Path::new(&format!("/proc/{pid}/root/bin")).exists());
    }
    std::fs::remove_dir_all(engine.path().join("run")).unwrap();
    engine.start_again();

    for name in ["up-always", "up-unless-stopped", "up-on-failure", "stopped-always"] {
        until(&format!("{name} runs again"), || state(&engine, name)["Status"] == "running");
    }
    for name in ["stopped-no", "stopped-unless-stopped", "stopped-on-failure"] {
        assert_eq!(state(&engine, name)["Status"], "exited", "{name}");
    }
    let no = state(&engine, "up-no");
    assert_eq!((no["Status"].as_str(), no["ExitCode"].as_i64()), (Some("exited"), Some(255)));
    until("--rm holds also after a reboot", || engine.get("/containers/passing/json").status == 404);
}

/// Whatever ends a container ends a frozen one, too, and at once.
#[test]
fn frozen_containers_end() {
    skip_if_lacking!();
    let engine = Engine::start();
    for name in ["killed", "stopped", "restarted", "removed"] {
        run(&engine, name, "sleep 1000", json!({}));
    }
    for name in ["killed-passing", "removed-passing"] {
        run(&engine, name, "sleep 1000", json!({"HostConfig": {"AutoRemove": true}}));
    }
    for name in ["killed", "stopped", "restarted", "removed", "killed-passing", "removed-passing"] {
        let paused = engine.post(&format!("/containers/{name}/pause"), &Value::Null);
        assert_eq!(paused.status, 204, "{name}: {paused:?}");
    }
    for (path, name) in [
        ("killed/kill", "killed"),
        ("stopped/stop?t=0", "stopped"),
        ("restarted/restart?t=0", "restarted"),
        ("killed-passing/kill", "killed-passing"),
    ] {
        let answer = engine.post(&format!("/containers/{path}"), &Value::Null);
        assert_eq!(answer.status, 204, "{name}: {answer:?}");
    }
    for name in ["killed", "stopped"] {
        let state = state(&engine, name);
        assert_eq!((&state["Status"], &state["ExitCode"]), (&json!("exited"), &json!(137)), "{name}");
    }
    assert_eq!(state(&engine, "restarted")["Status"], "running");
    for name in ["removed", "removed-passing"] {
        let answer = engine.delete(&format!("/containers/{name}?force=1"));
        assert_eq!(answer.status, 204, "{name}: {answer:?}");
        assert_eq!(engine.get(&format!("/containers/{name}/json")).status, 404, "{name}");
    }
    until("--rm holds for a frozen one", || engine.get("/containers/killed-passing/json").status == 404);
}

/// What a container whose shim does not answer as one has, nobody else gets.
#[test]
fn the_address_of_what_cannot_be_asked_is_not_free() {
    skip_if_lacking!();
    let mut engine = Engine::start();
    let on_bridge = json!({"HostConfig": {"NetworkMode": "bridge"}});
    let id = run(&engine, "first", "sleep 1000", on_bridge.clone());
    let address = |engine: &Engine, name: &str| {
        let all = engine.get(&format!("/containers/{name}/json")).json();
        all["NetworkSettings"]["Networks"]["bridge"]["IPAddress"].as_str().unwrap().to_owned()
    };
    let taken = address(&engine, "first");
    assert_eq!(taken, "172.17.0.2");
    let bundle = engine.path().join("run/containers").join(&id);
    engine.kill();
    std::fs::rename(bundle.join("sock"), bundle.join("sock.real")).unwrap();
    let other = std::os::unix::net::UnixListener::bind(bundle.join("sock")).unwrap();
    let talk = std::thread::spawn(move || other.accept().unwrap().0.write_all(b"220 ready\r\n").unwrap());
    engine.start_again();
    talk.join().unwrap();
    run(&engine, "second", "sleep 1000", on_bridge);
    assert_eq!(address(&engine, "second"), "172.17.0.3");
    // It cannot be ended either, and says why.
    let refused = engine.post("/containers/first/kill", &Value::Null);
    assert!(refused.status == 500 && refused.message().contains("could not be asked"), "{refused:?}");
    engine.kill();
    std::fs::remove_file(bundle.join("sock")).unwrap();
    std::fs::rename(bundle.join("sock.real"), bundle.join("sock")).unwrap();
    engine.start_again();
    assert_eq!((address(&engine, "first"), state(&engine, "first")["Running"].clone()), (taken, json!(true)));
}

/// One whose shim could not be asked may well run: whoever wants to end it is told, and does not wait for ever.
#[test]
fn what_could_not_be_asked_is_refused() {
    skip_if_lacking!();
    let mut engine = Engine::start();
    let id = run(&engine, "lost", "sleep 1000", policy("always"));
    let before = state(&engine, "lost");
    engine.kill();
    let bundle = engine.path().join(format!("run/containers/{id}/container.json"));
    let spec = std::fs::read(&bundle).unwrap();
    std::fs::write(&bundle, "{\"version\": \"another\"").unwrap();
    engine.start_again();
    for (method, path) in [
        ("POST", "/containers/lost/stop?t=0"),
        ("POST", "/containers/lost/kill"),
        ("POST", "/containers/lost/restart?t=0"),
        ("POST", "/containers/lost/pause"),
        ("POST", "/containers/lost/exec"),
        ("DELETE", "/containers/lost?force=1"),
    ] {
        let exec = path.ends_with("exec");
        // A body that nobody reads may not be sent to its end before the answer comes.
        let body = if exec { b"{\"Cmd\": [\"true\"]}".as_slice() } else { b"" };
        let mut answer = engine.call(method, path, "application/json", body);
        if exec {
            let exec = answer.json()["Id"].as_str().unwrap().to_owned();
            answer = engine.post(&format!("/exec/{exec}/start"), &json!({"Detach": true}));
        }
        assert_eq!(answer.status, 500, "{method} {path}: {answer:?}");
        assert!(answer.message().contains("could not be asked"), "{method} {path}: {}", answer.message());
    }
    engine.kill();
    std::fs::write(&bundle, spec).unwrap();
    engine.start_again();
    let after = state(&engine, "lost");
    for field in ["Status", "Pid", "StartedAt"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(engine.delete("/containers/lost?force=1").status, 204);
}

/// What was said of a container's end, and how often it may be tried again, holds while it waits for its next start.
#[test]
fn waiting_for_the_next_start_survives_a_killed_daemon() {
    skip_if_lacking!();
    let mut engine = Engine::start();
    let limited = json!({"HostConfig": {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 6}}});
    run(&engine, "failing", "exit 3", limited);
    let count =
        |engine: &Engine| engine.get("/containers/failing/json").json()["RestartCount"].as_i64().unwrap();
    until("it waits for a while", || {
        count(&engine) == 5 && state(&engine, "failing")["Status"] == "restarting"
    });
    let before = state(&engine, "failing");
    engine.kill();
    engine.start_again();
    let after = state(&engine, "failing");
    for field in ["Status", "Restarting", "ExitCode", "FinishedAt", "StartedAt"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    assert_eq!(count(&engine), 5);
    until("it is tried once more", || state(&engine, "failing")["Status"] == "exited");
    assert_eq!((count(&engine), state(&engine, "failing")["ExitCode"].as_i64()), (6, Some(3)));
    // And it can be told to give up.
    run(&engine, "told", "exit 3", policy("always"));
    until("it waits for a while", || {
        let shown = engine.get("/containers/told/json").json();
        shown["RestartCount"].as_i64() >= Some(5) && shown["State"]["Status"] == "restarting"
    });
    engine.kill();
    engine.start_again();
    assert_eq!(engine.post("/containers/told/stop", &Value::Null).status, 204);
    let state = state(&engine, "told");
    assert_eq!((&state["Status"], &state["ExitCode"]), (&json!("exited"), &json!(3)));
}

/// The file of a container with --rm is not brought to the disk; after a power cut half of it may be there.
#[test]
fn torn_files_of_passing_containers_are_removed_and_others_left_alone() {
    skip_if_lacking!();
    let mut engine = Engine::start();
    let passing = json!({"Image": "busybox:test", "HostConfig": {"AutoRemove": true, "NetworkMode": "none"}});
    let passing = engine.create("passing", &passing);
    let kept = run(&engine, "kept", "sleep 1000", Value::Null);
    let before = state(&engine, "kept");
    engine.kill();
    let folder = |id: &str| engine.path().join(format!("data/engine/containers/{id}"));
    let tear = |id: &str| {
        let file = folder(id).join("config.json");
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
        whole
    };
    tear(&passing);
    let whole = tear(&kept);
    let (gone, config) = (folder(&passing), folder(&kept).join("config.json"));
    let layers = engine.path().join("data/images/snapshots");
    engine.start_again();
    assert!(!gone.exists(), "what was to pass is gone");
    assert!(!layers.join(&passing).exists(), "with its layer");
    assert_eq!(engine.get("/containers/kept/json").status, 404);
    assert!(layers.join(&kept).exists() && config.exists(), "what cannot be read is left alone");
    engine.kill();
    std::fs::write(&config, whole).unwrap();
    engine.start_again();
    let after = state(&engine, "kept");
    assert_eq!(
        (&before["Status"], &before["Pid"]),
        (&after["Status"], &after["Pid"]),
        "and so is its process"
    );
}
