//! What is asked of a container while something else is happening to it.

use std::io::{Read, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Engine, read_head};
use crate::survival::until;

fn state(engine: &Engine, name: &str) -> Value {
    engine.get(&format!("/containers/{name}/json")).json()["State"].clone()
}

fn post(engine: &Engine, path: &str) -> u16 {
    engine.post(path, &Value::Null).status
}

/// A container crashes, and while it is cleaned up somebody stops it: it must not come back.
#[test]
fn a_stop_is_not_lost_while_a_container_crashes() {
    skip_if_lacking!();
    let engine = Engine::start();
    let host = json!({"RestartPolicy": {"Name": "always"}, "PortBindings": {"80/tcp": [{"HostPort": ""}]}});
    let body = json!({"Image": "busybox:test", "Cmd": ["false"], "ExposedPorts": {"80/tcp": {}}, "HostConfig": host});
    engine.create("crashing", &body);
    for round in 0..60 {
        assert_eq!(post(&engine, "/containers/crashing/start"), 204, "round {round}");
        // At another moment of its end each time.
        for _ in 0..round % 4 {
            state(&engine, "crashing");
        }
        let (ask, path) = match round % 2 {
            0 => ("stop", "/containers/crashing/stop"),
            _ => ("kill", "/containers/crashing/kill"),
        };
        let answer = post(&engine, path);
        // It has ended by itself, or it was about to be started again and no more is.
        assert!(matches!(answer, 204 | 304 | 409), "round {round}: {ask}: {answer}");
        let state = state(&engine, "crashing");
        assert_eq!(state["Status"], "exited", "round {round}: {ask}: {answer}: {state}");
    }
}

/// A frozen container goes on when it is to end, not for any other signal.
#[test]
fn a_signal_that_does_not_end_it_leaves_it_frozen() {
    skip_if_lacking!();
    let engine = Engine::start();
    let body = json!({"Image": "busybox:test", "Cmd": ["sh", "-c", "trap 'exit 4' QUIT; trap : USR1; >/ready; while :; do sleep 0.1; done"],
                      "StopSignal": "SIGQUIT", "HostConfig": {"NetworkMode": "none"}});
    let id = engine.create("frozen", &body);
    assert_eq!(post(&engine, "/containers/frozen/start"), 204);
    // The first process of a container is not hurt by a signal that it does not know yet.
    let ready = engine.path().join(format!("data/images/snapshots/{id}/fs/ready"));
    until("its traps are set", || ready.exists());
    assert_eq!(post(&engine, "/containers/frozen/pause"), 204);
    assert_eq!(post(&engine, "/containers/frozen/kill?signal=USR1"), 204);
    assert_eq!(state(&engine, "frozen")["Status"], "paused");
    assert_eq!(post(&engine, "/containers/frozen/kill?signal=QUIT"), 204);
    until("it ends", || state(&engine, "frozen")["Status"] == "exited");
}

/// What is copied out of a container that does not run, with what is on its volumes, may be read slowly.
#[test]
fn a_start_does_not_wait_for_what_is_copied_out() {
    skip_if_lacking!();
    let engine = Engine::start();
    let shared = engine.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    // Neither has a place in the image.
    let body = json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none",
        "Binds": ["slow:/deep/volume", format!("{}:/deep/bind", shared.display())]}});
    let id = engine.create("slow", &body);
    let content = vec![b'x'; 8 << 20];
    let tar = image::archive::tar::archive(&[("large", &content)]).unwrap();
    let path = format!("/containers/{id}/archive?path=/deep");
    for place in ["volume", "bind"] {
        assert_eq!(engine.call("PUT", &format!("{path}/{place}"), "application/x-tar", &tar).status, 200);
    }
    // The places are made anew by who reads.
    std::fs::remove_dir_all(engine.path().join(format!("data/images/snapshots/{id}/fs/deep"))).unwrap();
    let mut reading = engine.open("GET", &path, "Connection: close\r\n", b"");
    assert_eq!(read_head(&mut reading).0, 200);
    assert_eq!(post(&engine, "/containers/slow/start"), 204);
    assert_eq!(engine.delete("/containers/slow?force=1").status, 204);
    let mut rest = Vec::new();
    reading.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > 16 << 20, "both are in it: {}", rest.len());
}

/// Files are copied into the layers of a container that does not run: it must not be started on them meanwhile.
#[test]
fn a_start_waits_for_what_is_copied_in() {
    skip_if_lacking!();
    let engine = Engine::start();
    let body = json!({"Image": "busybox:test", "Cmd": ["cat", "/tmp/second"], "HostConfig": {"NetworkMode": "none"}});
    let id = engine.create("filled", &body);
    let content = vec![b'x'; 1 << 20];
    let tar = image::archive::tar::archive(&[("first", &content), ("second", &content)]).unwrap();
    let (one, rest) = tar.split_at((1 << 20) + 4096);
    let head = format!(
        "PUT /containers/{id}/archive?path=/tmp HTTP/1.1\r\nHost: docker\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        tar.len()
    );
    let mut upload = std::os::unix::net::UnixStream::connect(engine.socket()).unwrap();
    upload.write_all(head.as_bytes()).unwrap();
    upload.write_all(one).unwrap();
    let first = engine.path().join(format!("data/images/snapshots/{id}/fs/tmp/first"));
    until("the first file is there", || first.metadata().is_ok_and(|m| m.len() == 1 << 20));

    let mut start = engine.open("POST", &format!("/containers/{id}/start"), "Connection: close\r\n", b"");
    start.get_mut().set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let early = start.read(&mut [0; 1]).map_err(|e| e.kind());
    assert_eq!(early, Err(std::io::ErrorKind::WouldBlock), "started into the middle of it");
    assert_eq!(state(&engine, "filled")["Status"], "created");
    upload.write_all(rest).unwrap();
    let mut answer = String::new();
    upload.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    start.get_mut().set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    assert_eq!(read_head(&mut start).0, 204);
    assert_eq!(engine.post("/containers/filled/wait", &Value::Null).json()["StatusCode"], 0);

    // Into one that runs files are copied as they come, and it can be stopped and removed meanwhile.
    let body =
        json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}});
    let id = engine.create("running", &body);
    assert_eq!(post(&engine, "/containers/running/start"), 204);
    let mut upload = std::os::unix::net::UnixStream::connect(engine.socket()).unwrap();
    upload.write_all(head.replace(&head[16..80], &id).as_bytes()).unwrap();
    upload.write_all(one).unwrap();
    let first = engine.path().join(format!("data/images/snapshots/{id}/fs/tmp/first"));
    until("the first file is there", || first.metadata().is_ok_and(|m| m.len() == 1 << 20));
    assert_eq!(post(&engine, "/containers/running/stop?t=0"), 204);
    drop(upload);
    assert_eq!(post(&engine, "/containers/running/start"), 204);
    assert_eq!(engine.delete("/containers/running?force=1").status, 204);
}

/// What was prepared and never started does not pile up, and what failed says so at once.
#[test]
fn execs_that_are_not_started_are_forgotten() {
    skip_if_lacking!();
    let engine = Engine::start();
    let body =
        json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}});
    engine.create("box", &body);
    assert_eq!(post(&engine, "/containers/box/start"), 204);
    let exec = |command: Value| {
        let answer = engine.post("/containers/box/exec", &command);
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["Id"].as_str().unwrap().to_owned()
    };
    let first = exec(json!({"Cmd": ["true"]}));
    let mut last = String::new();
    for _ in 0..1100 {
        last = exec(json!({"Cmd": ["true"]}));
    }
    assert_eq!(engine.get(&format!("/exec/{first}/json")).status, 404, "the oldest is forgotten");
    let known = engine.get("/containers/box/json").json()["ExecIDs"].as_array().unwrap().len();
    assert!(known <= 1024, "{known} are kept");
    assert_eq!(engine.post(&format!("/exec/{last}/start"), &json!({"Detach": true})).status, 200);

    let odd = exec(json!({"Cmd": ["true"], "WorkingDir": "relative"}));
    assert_eq!(engine.post(&format!("/exec/{odd}/start"), &json!({"Detach": true})).status, 400);
    let resized = engine.post(&format!("/exec/{odd}/resize?h=10&w=10"), &Value::Null);
    assert_eq!(resized.status, 409, "{resized:?}");
    let shown = engine.get(&format!("/exec/{odd}/json")).json();
    assert_eq!((&shown["Running"], &shown["ExitCode"]), (&json!(false), &json!(126)), "{shown}");
    let left = exec(json!({"Cmd": ["true"]}));
    assert_eq!(post(&engine, "/containers/box/kill"), 204);
    until("it goes with the container's process", || engine.get(&format!("/exec/{left}/json")).status == 404);
}
