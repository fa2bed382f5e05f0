//! The API against a real engine with real containers, over plain HTTP.

use std::io::{Read, Write};

use crate::support::{Engine, frames, read_head};
use serde_json::json;

#[test]
fn protocol() {
    skip_if_lacking!();
    let engine = Engine::start();
    let ping = engine.get("/_ping");
    assert_eq!((ping.status, ping.body.as_slice()), (200, b"OK".as_slice()));
    assert_eq!(ping.header("api-version"), Some("1.51"));
    assert_eq!(engine.call("HEAD", "/v1.40/_ping", "", b"").status, 200);
    let new = engine.get("/v1.99/info");
    assert_eq!((new.status, new.message().contains("too new")), (400, true));
    assert_eq!(engine.get("/v1.12/info").status, 400);
    let unknown = engine.get("/nothing");
    assert_eq!((unknown.status, unknown.message().as_str()), (404, "page not found"));
    assert_eq!(engine.get("/version").json()["MinAPIVersion"], "1.24");
    assert_eq!(engine.get("/info").json()["Swarm"]["LocalNodeState"], "inactive");
}

#[test]
fn refusals_change_nothing() {
    skip_if_lacking!();
    let engine = Engine::start();
    let create = |body: serde_json::Value| {
        let answer = engine.post("/containers/create?name=web", &body);
        (answer.status, answer.message())
    };
    assert_eq!(create(json!({"Image": "nothing:1"})), (404, "No such image: nothing:1".into()));
    assert_eq!(create(json!({})).0, 400);
    assert_eq!(engine.call("POST", "/containers/create", "application/json", b"{").status, 400);
    let memory = create(json!({"Image": "busybox:test", "HostConfig": {"Memory": 1}}));
    assert_eq!(memory, (400, "Minimum memory limit allowed is 6MB".into()));
    assert_eq!(create(json!({"Image": "busybox:test", "HostConfig": {"Binds": ["x:y"]}})).0, 400);
    let mount = json!([{"Type": "bind", "Source": "/does/not/exist", "Target": "/n"}]);
    let (status, message) = create(json!({"Image": "busybox:test", "HostConfig": {"Mounts": mount}}));
    assert_eq!((status, message.contains("does not exist")), (400, true));
    assert_eq!(engine.post("/containers/create?name=a%0ab", &json!({"Image": "busybox:test"})).status, 400);
    assert_eq!(engine.get("/containers/json?all=1").json(), json!([]), "nothing was made");
    assert_eq!(engine.get("/volumes").json()["Volumes"], json!([]));

    engine.create("web", &json!({"Image": "busybox:test"}));
    let (status, message) = create(json!({"Image": "busybox:test"}));
    assert_eq!((status, message.contains("already in use")), (409, true));
    assert_eq!(engine.get("/containers/nothing/json").message(), "No such container: nothing");
    assert_eq!(engine.get("/containers/json?filters=%7B%22colour%22:%5B%22red%22%5D%7D").status, 400);
    assert_eq!(engine.post("/containers/web/kill", &json!(null)).status, 409);
    assert_eq!(engine.post("/containers/web/stop", &json!(null)).status, 304);
    assert_eq!(engine.post("/containers/web/exec", &json!({"Cmd": ["true"]})).status, 409);
    let lost = json!({"Image": "busybox:test", "HostConfig": {"NetworkMode": "nowhere"}});
    let lost = engine.create("lost", &lost);
    let refused = engine.post(&format!("/containers/{lost}/start"), &json!(null));
    assert_eq!(
        (refused.status, refused.message().as_str()),
        (404, "failed to set up container networking: network nowhere not found")
    );
    assert_eq!(engine.delete("/networks/bridge").status, 403);
    assert_eq!(engine.delete("/volumes/nothing").status, 404);
}

#[test]
fn attach_start_wait() {
    skip_if_lacking!();
    let engine = Engine::start();
    let id = engine.create(
        "io",
        &json!({"Image": "busybox:test", "Cmd": ["sh", "-c", "cat; echo err >&2; exit 3"], "OpenStdin": true,
                "StdinOnce": true, "HostConfig": {"NetworkMode": "none"}}),
    );
    let mut attached = engine.open(
        "POST",
        &format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1"),
        "Connection: Upgrade\r\nUpgrade: tcp\r\n",
        b"",
    );
    let (status, headers) = read_head(&mut attached);
    assert_eq!(status, 101);
    assert!(headers.iter().any(|(_, v)| v == "application/vnd.docker.multiplexed-stream"));
    // The head of the wait's answer comes at once, its body when the container has ended.
    let mut waiting = engine.open(
        "POST",
        &format!("/containers/{id}/wait?condition=next-exit"),
        "Connection: close\r\n",
        b"",
    );
    assert_eq!(read_head(&mut waiting).0, 200);
    assert_eq!(engine.post(&format!("/containers/{id}/start"), &json!(null)).status, 204);
    attached.get_mut().write_all(b"typed\n").unwrap();
    attached.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
    let got = frames(&mut attached);
    let of = |n: u8| got.iter().filter(|(s, _)| *s == n).flat_map(|(_, d)| d.clone()).collect::<Vec<u8>>();
    assert_eq!((of(1), of(2)), (b"typed\n".to_vec(), b"err\n".to_vec()));
    let mut end = String::new();
    waiting.read_to_string(&mut end).unwrap();
    assert!(end.contains("{\"StatusCode\":3}"), "{end}");
    let state = engine.get(&format!("/containers/{id}/json")).json()["State"].clone();
    assert_eq!((state["Status"].as_str(), state["ExitCode"].as_i64()), (Some("exited"), Some(3)));
    let logs = engine.get(&format!("/containers/{id}/logs?stdout=1&stderr=1"));
    assert_eq!(frames(&mut logs.body.as_slice()).len(), 2);
    assert_eq!(engine.delete(&format!("/containers/{id}")).status, 204);
    assert_eq!(engine.get(&format!("/containers/{id}/json")).status, 404);
}

#[test]
fn files_do_not_lead_out_of_the_root() {
    skip_if_lacking!();
    let engine = Engine::start();
    let secret = engine.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let script = format!("touch /mine; ln -s {} /link; ln -s / /root-link; sleep 1000", secret.display());
    let script = script.replace("ln ", "/bin/busybox ln ");
    let id = engine.create(
        "files",
        &json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}}),
    );
    let started = engine.post(&format!("/containers/{id}/start"), &json!(null));
    assert_eq!(started.status, 204, "{started:?}");
    let exec = engine.post(
        &format!("/containers/{id}/exec"),
        &json!({"Cmd": ["sh", "-c", "until [ -L /root-link ]; do :; done"]}),
    );
    let exec = exec.json()["Id"].as_str().unwrap().to_owned();
    assert_eq!(engine.post(&format!("/exec/{exec}/start"), &json!({"Detach": false})).status, 200);
    for state in ["running", "stopped"] {
        if state == "stopped" {
            assert_eq!(engine.post(&format!("/containers/{id}/kill"), &json!(null)).status, 204);
        }
        let get = |path: &str| engine.get(&format!("/containers/{id}/archive?path={path}"));
        assert_eq!(get("/mine").status, 200, "{state}");
        let link = get("/link");
        assert!(!link.body.windows(6).any(|w| w == b"secret" && link.status != 200), "{state}");
        assert_eq!(
            get(&format!("/root-link{}", secret.display())).status,
            404,
            "{state}: a link to / stays inside"
        );
        assert_eq!(get(&format!("/../../..{}", secret.display())).status, 404, "{state}");
        // Extracting through a link that points outside must not write outside.
        let tar = std::process::Command::new("tar")
            .arg("-C")
            .arg(engine.path())
            .args(["-c", "secret"])
            .output()
            .unwrap();
        let path = format!("/containers/{id}/archive?path=/root-link");
        assert_eq!(engine.call("PUT", &path, "application/x-tar", &tar.stdout).status, 200, "{state}");
        assert!(!std::path::Path::new("/secret").exists(), "{state}: written outside of the container");
        assert_eq!(get("/secret").status, 200, "{state}: written inside");
    }
    let changes = engine.get(&format!("/containers/{id}/changes")).json();
    assert!(changes.as_array().unwrap().iter().any(|c| c["Path"] == "/mine" && c["Kind"] == 1), "{changes}");
}

#[test]
fn survives_being_killed() {
    skip_if_lacking!();
    let mut engine = Engine::start();
    let run = |name: &str, script: &str| {
        let id = engine.create(
            name,
            &json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}}),
        );
        assert_eq!(engine.post(&format!("/containers/{id}/start"), &json!(null)).status, 204);
        id
    };
    let go = engine.path().join("go");
    std::fs::create_dir(&go).unwrap();
    let forever = run("forever", "echo before; sleep 1000");
    // It ends when there is no daemon: when its folder is told to from outside.
    let short = engine.create(
        "short",
        &json!({"Image": "busybox:test", "Cmd": ["sh", "-c", "until [ -e /go/now ]; do :; done; echo late; exit 9"],
                "HostConfig": {"NetworkMode": "none", "Binds": [format!("{}:/go", go.display())]}}),
    );
    assert_eq!(engine.post(&format!("/containers/{short}/start"), &json!(null)).status, 204);
    let before = engine.get(&format!("/containers/{forever}/json")).json()["State"].clone();
    let short_pid = engine.get(&format!("/containers/{short}/json")).json()["State"]["Pid"].as_i64().unwrap();
    engine.kill();
    std::fs::write(go.join("now"), "").unwrap();
    while std::path::Path::new(&format!("/proc/{short_pid}/cmdline")).exists() {
        std::thread::yield_now();
    }
    engine.start_again();
    let after = engine.get(&format!("/containers/{forever}/json")).json()["State"].clone();
    assert_eq!(
        (before["Pid"].clone(), before["StartedAt"].clone()),
        (after["Pid"].clone(), after["StartedAt"].clone())
    );
    assert_eq!(after["Status"], "running");
    let ended = engine.post(&format!("/containers/{short}/wait"), &json!(null)).json();
    assert_eq!(ended["StatusCode"], 9);
    let logs = engine.get(&format!("/containers/{short}/logs?stdout=1"));
    assert_eq!(frames(&mut logs.body.as_slice()), [(1, b"late\n".to_vec())]);
    let stopped = engine.post(&format!("/containers/{forever}/kill"), &json!(null));
    assert_eq!(stopped.status, 204);
}

/// A client sets a terminal's size as soon as it has asked for the start, and sometimes before that has arrived.
#[test]
fn terminals_are_resized_at_once() {
    skip_if_lacking!();
    let engine = Engine::start();
    let upgrade = "Content-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n";
    let script = ["sh", "-c", "read line; /bin/busybox stty size"];
    let until_end = |mut stream: std::io::BufReader<std::os::unix::net::UnixStream>| {
        assert_eq!(read_head(&mut stream).0, 101);
        stream.get_mut().write_all(b"\n").unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        said
    };
    let body =
        json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}});
    engine.create("box", &body);
    assert_eq!(engine.post("/containers/box/start", &json!(null)).status, 204);
    for round in 0..20 {
        let asked = json!({"Cmd": script, "Tty": true, "AttachStdin": true, "AttachStdout": true});
        let exec = engine.post("/containers/box/exec", &asked).json()["Id"].as_str().unwrap().to_owned();
        let resize = format!("/exec/{exec}/resize?h=33&w=7{}", round % 10);
        let start = || {
            let started = json!({"Detach": false, "Tty": true}).to_string();
            engine.open("POST", &format!("/exec/{exec}/start"), upgrade, started.as_bytes())
        };
        let stream = std::thread::scope(|scope| {
            let early = (round % 2 == 1).then(|| scope.spawn(|| engine.post(&resize, &json!(null))));
            let stream = start();
            let resized = match early {
                Some(early) => early.join().unwrap(),
                None => engine.post(&resize, &json!(null)),
            };
            assert_eq!(resized.status, 200, "round {round}: {resized:?}");
            stream
        });
        let said = until_end(stream);
        assert!(said.contains(&format!("33 7{}\r\n", round % 10)), "round {round}: {said:?}");
    }
    let body = json!({"Image": "busybox:test", "Cmd": script, "Tty": true, "OpenStdin": true,
                      "HostConfig": {"NetworkMode": "none"}});
    let id = engine.create("tty", &body);
    let stream =
        engine.open("POST", &format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1"), upgrade, b"");
    assert_eq!(engine.post(&format!("/containers/{id}/start"), &json!(null)).status, 204);
    assert_eq!(engine.post(&format!("/containers/{id}/resize?h=44&w=88"), &json!(null)).status, 200);
    let said = until_end(stream);
    assert!(said.contains("44 88\r\n"), "{said:?}");
}

#[test]
fn volumes_and_networks() {
    skip_if_lacking!();
    let engine = Engine::start();
    assert_eq!(engine.post("/volumes/create", &json!({"Name": "data"})).status, 201);
    let id = engine.create("user", &json!({"Image": "busybox:test", "HostConfig": {"Binds": ["data:/etc"]}}));
    assert_eq!(engine.delete("/volumes/data").status, 409);
    let mountpoint = engine.get("/volumes/data").json()["Mountpoint"].as_str().unwrap().to_owned();
    assert!(
        std::path::Path::new(&mountpoint).join("passwd").exists(),
        "an empty volume gets the image's content"
    );
    assert_eq!(engine.delete(&format!("/containers/{id}?v=1")).status, 204);
    assert_eq!(engine.delete("/volumes/data").status, 204, "a named volume stays, and can be removed then");

    let pool = json!({"Config": [{"Subnet": "10.231.9.0/24"}]});
    let net = engine.post("/networks/create", &json!({"Name": "n1", "IPAM": pool}));
    assert_eq!(net.status, 201, "{net:?}");
    assert_eq!(engine.post("/networks/create", &json!({"Name": "n1"})).status, 409);
    assert_eq!(
        engine.post("/networks/create", &json!({"Name": "n2", "IPAM": pool})).status,
        403,
        "it overlaps"
    );
    let endpoint = json!({"EndpointsConfig": {"n1": {"IPAMConfig": {"IPv4Address": "10.231.9.9"}}}});
    let id = engine.create(
        "member",
        &json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "n1"}, "NetworkingConfig": endpoint}),
    );
    let started = engine.post(&format!("/containers/{id}/start"), &json!(null));
    assert_eq!(started.status, 204, "{started:?}");
    let settings =
        engine.get(&format!("/containers/{id}/json")).json()["NetworkSettings"]["Networks"]["n1"].clone();
    assert_eq!(
        (settings["IPAddress"].as_str(), settings["Gateway"].as_str()),
        (Some("10.231.9.9"), Some("10.231.9.1"))
    );
    assert_eq!(engine.delete("/networks/n1").status, 403);
    assert_eq!(engine.delete(&format!("/containers/{id}?force=1")).status, 204);
    assert_eq!(engine.delete("/networks/n1").status, 204);
}

/// Whoever sends much that is refused at its beginning gets the answer, not a broken connection.
#[test]
fn refused_uploads_are_answered() {
    skip_if_lacking!();
    let engine = Engine::start();
    engine.create("plain", &json!({"Image": "busybox:test"}));
    engine.create("fixed", &json!({"Image": "busybox:test", "HostConfig": {"ReadonlyRootfs": true}}));
    let garbage = vec![b'x'; 8 << 20];
    for (method, path, status) in [
        ("PUT", "/containers/plain/archive?path=/tmp", 400),
        ("PUT", "/containers/fixed/archive?path=/tmp", 403),
        ("PUT", "/containers/nobody/archive?path=/tmp", 404),
        ("POST", "/images/create?fromSrc=-&repo=x", 400),
        ("POST", "/images/load", 200),
        ("POST", "/build?t=x", 500),
    ] {
        let answer = engine.call(method, path, "application/x-tar", &garbage);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert!(
            String::from_utf8_lossy(&answer.body).contains("\"message\":\""),
            "{method} {path}: {answer:?}"
        );
    }
}
