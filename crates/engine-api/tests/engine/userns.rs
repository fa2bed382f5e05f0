//! `userns-remap`: root of a container is nobody on the machine, and nobody notices inside.

use std::os::unix::fs::MetadataExt;

use serde_json::{Value, json};

use crate::support::{Engine, frames};

const SETTINGS: &str = r#"{"userns-remap": "boxes"}"#;
const ETC: [(&str, &str); 4] = [
    ("passwd", "root:x:0:0:root:/root:/bin/sh\nboxes:x:900:900::/:/bin/false\n"),
    ("group", "root:x:0:\nboxes:x:900:\n"),
    ("subuid", "boxes:300000:1000\nboxes:400000:64536\n"),
    ("subgid", "boxes:500000:65536\n"),
];

/// What a container with this in its HostConfig prints.
fn run(engine: &Engine, script: &str, host: Value) -> (i64, String) {
    let id =
        engine.create("", &json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script], "HostConfig": host}));
    let started = engine.post(&format!("/containers/{id}/start"), &json!({}));
    assert_eq!(started.status, 204, "{started:?}");
    let code =
        engine.post(&format!("/containers/{id}/wait"), &json!({})).json()["StatusCode"].as_i64().unwrap();
    let log = engine.get(&format!("/containers/{id}/logs?stdout=1&stderr=1"));
    let removed = engine.delete(&format!("/containers/{id}?v=1"));
    assert_eq!(removed.status, 204, "{removed:?}");
    let text =
        frames(&mut &log.body[..]).into_iter().map(|(_, data)| String::from_utf8(data).unwrap()).collect();
    (code, text)
}

#[test]
fn containers_have_ids_of_their_own() {
    skip_if_lacking!();
    let engine = Engine::start_with_etc(SETTINGS, &ETC);
    assert!(engine.get("/info").json()["SecurityOptions"].to_string().contains("\"name=userns\""));
    let script = "id -u; cat /proc/self/uid_map; ls -ln /etc/hosts /bin/busybox | grep -c ' 0  *0 '; echo x >> /etc/hosts; \
        touch /volume/made; echo out > /dev/stdout";
    let (code, text) = run(&engine, script, json!({"Binds": ["data:/volume"]}));
    let expected = "0\n         0     300000       1000\n      1000     400000      64536\n2\nout\n";
    assert_eq!((code, text.as_str()), (0, expected));
    let made = std::fs::metadata(engine.path().join("data/volumes/data/_data/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (300_000, 500_000));
    let (_, text) = run(&engine, "cat /proc/self/uid_map", json!({"UsernsMode": "host", "Privileged": true}));
    assert!(text.contains("4294967295"), "{text}");
    for (host, why) in [
        (json!({"Privileged": true}), "privileged mode is incompatible with user namespaces"),
        (
            json!({"NetworkMode": "host"}),
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        (json!({"PidMode": "host"}), "cannot share the host PID namespace when user namespaces are enabled"),
    ] {
        let refused =
            engine.post("/containers/create", &json!({"Image": "busybox:test", "HostConfig": host}));
        assert_eq!((refused.status, refused.message().contains(why)), (400, true), "{refused:?}");
    }
}

/// `cp` in and out, commit, and whoever joins its namespaces see the container's ids; so does the next daemon.
#[test]
fn the_ids_are_the_same_from_everywhere() {
    skip_if_lacking!();
    let mut engine = Engine::start_with_etc(SETTINGS, &ETC);
    let body =
        json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "HostConfig": {"IpcMode": "shareable"}});
    let id = engine.create("one", &body);
    assert_eq!(engine.post("/containers/one/start", &json!({})).status, 204);
    let mut archive = tar::Builder::new(Vec::new());
    for (name, owner) in [("root", 0), ("app", 1500)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_mode(0o600);
        header.set_uid(owner);
        header.set_gid(owner);
        archive.append_data(&mut header, name, std::io::empty()).unwrap();
    }
    let archive = archive.into_inner().unwrap();
    let owners = |engine: &Engine| {
        let answer = engine.get("/containers/one/archive?path=/tmp");
        let mut found: Vec<(String, u64, u64)> = Vec::new();
        for entry in tar::Archive::new(&answer.body[..]).entries().unwrap() {
            let entry = entry.unwrap();
            let header = entry.header();
            found.push((
                entry.path().unwrap().display().to_string(),
                header.uid().unwrap(),
                header.gid().unwrap(),
            ));
        }
        found.sort();
        found
    };
    let put = engine.call("PUT", "/containers/one/archive?path=/tmp", "application/x-tar", &archive);
    assert_eq!(put.status, 200, "{put:?}");
    let expected = [("tmp/", 0, 0), ("tmp/app", 1500, 1500), ("tmp/root", 0, 0)];
    let expected = expected.map(|(n, u, g)| (n.to_owned(), u, g));
    assert_eq!(owners(&engine), expected);
    let shared =
        json!({"NetworkMode": "container:one", "PidMode": "container:one", "IpcMode": "container:one"});
    let (code, text) = run(&engine, "cat /proc/self/uid_map; ps | grep -c 'sleep 100[0]'", shared.clone());
    assert_eq!((code, text.ends_with("\n1\n"), text.contains("300000")), (0, true, true), "{text}");
    let host = json!({"UsernsMode": "host", "NetworkMode": "container:one"});
    assert_eq!(run(&engine, "true", host).0, 0, "the machine's root goes anywhere");

    // The setting goes, the container stays as it was created.
    engine.kill();
    std::fs::write(engine.path().join("data/daemon.json"), "{}").unwrap();
    engine.start_again();
    assert_eq!(owners(&engine), expected);
    assert_eq!(engine.post("/containers/one/restart?t=0", &json!({})).status, 204);
    let pid = engine.get("/containers/one/json").json()["State"]["Pid"].as_u64().unwrap();
    assert_eq!(std::fs::metadata(format!("/proc/{pid}")).unwrap().uid(), 300_000);
    let other =
        engine.create("", &json!({"Image": "busybox:test", "HostConfig": {"NetworkMode": "container:one"}}));
    assert_eq!(engine.post(&format!("/containers/{other}/start"), &json!({})).status, 204);
    assert_eq!(engine.post(&format!("/containers/{id}/stop?t=0"), &json!({})).status, 204);
    assert_eq!(owners(&engine), expected, "of a stopped one");
}

/// A step of a build has ids of its own, too, except with the machine's network, which only the machine's root may use.
#[test]
fn steps_of_builds() {
    skip_if_lacking!();
    let engine = Engine::start_with_etc(SETTINGS, &ETC);
    for (network, map) in [("default", "300000"), ("host", "4294967295")] {
        let file = format!(
            "FROM busybox:test\nUSER 7:8\nWORKDIR /home/app\nUSER root\nRUN cat /proc/self/uid_map && ls -lnd /bin/busybox && \\\n\
             ls /sys/class/net && hostname && touch /made && chown 1500 /made && echo {network}\nRUN ls -ln / | grep made\n"
        );
        let context = image::archive::tar::archive(&[("Dockerfile", file.as_bytes())]).unwrap();
        let path = format!("/build?networkmode={network}&t=step-{network}");
        let built = engine.call("POST", &path, "application/x-tar", &context);
        let text = String::from_utf8_lossy(&built.body);
        assert!(text.contains(map) && text.contains("Successfully tagged"), "{text}");
        assert!(text.contains(" 1500     0 "), "{text}");
    }
}
