//! Images and builds through the whole engine: the disk that they take, imports from elsewhere, and a daemon that is
//! killed while it builds.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use image::archive::tar;
use serde_json::{Value, json};

use crate::support::Engine;

fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
    tar::archive(files).unwrap()
}

fn du(paths: &[&Path]) -> u64 {
    let output = Command::new("du").args(["-scB1"]).args(paths).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().last().unwrap().split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn the_disk_is_told_as_du_counts_it() {
    skip_if_lacking!();
    let engine = Engine::start();
    let mut noise = vec![0u8; 6 << 20];
    base::rng::fill(&mut noise);
    for (tag, size) in [("kept", 3 << 20), ("gone", 5 << 20)] {
        let file = b"FROM busybox:test\nCOPY f /f\nRUN mkdir d && for i in 1 2 3 4 5 6 7 8 9; do cat etc/passwd > d/$i; done\n";
        let context = archive(&[("Dockerfile", file), ("f", &noise[..size])]);
        let answer = engine.call("POST", &format!("/build?t={tag}"), "application/x-tar", &context);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(text.contains(&format!("Successfully tagged {tag}:latest")), "{text}");
    }
    assert_eq!(engine.delete("/images/gone?force=1").status, 200);
    let df = engine.get("/system/df").json();
    let sum = |list: &Value| -> u64 {
        list.as_array()
            .unwrap()
            .iter()
            .filter(|r| r["Shared"] == false)
            .map(|r| r["Size"].as_u64().unwrap())
            .sum()
    };
    let cache = sum(&df["BuildCache"]);
    assert!(cache > 5 << 20, "{df}");
    let told = df["LayersSize"].as_u64().unwrap() + cache;
    let data = engine.path().join("data");
    let counted = du(&[&data.join("images/layers"), &data.join("images/blobs"), &data.join("build/caches")]);
    assert!(told.abs_diff(counted) * 100 <= counted, "{told} and {counted}");
    // A filter that nothing fits takes nothing; one that is not known is refused.
    let filtered =
        |filters: &str| engine.post(&format!("/build/prune?all=1&filters={filters}"), &Value::Null);
    assert_eq!(filtered("%7B%22type%22%3A%5B%22exec.cachemount%22%5D%7D").json()["SpaceReclaimed"], 0);
    assert_eq!(filtered("%7B%22nope%22%3A%5B%22x%22%5D%7D").status, 400);
    let much = engine.post("/build/prune?all=1&max-used-space=999999999999", &Value::Null).json();
    assert_eq!(much["SpaceReclaimed"], 0);
    // The cache alone goes, and with it what it took.
    let pruned = engine.post("/build/prune?all=1", &Value::Null).json();
    assert!(pruned["SpaceReclaimed"].as_u64().unwrap().abs_diff(cache) * 100 <= cache, "{pruned} of {cache}");
    assert_eq!(sum(&engine.get("/system/df").json()["BuildCache"]), 0);
}

/// As `docker build` asks for BuildKit where it has no buildx, but with the context as the body.
#[test]
fn a_build_of_version_two() {
    skip_if_lacking!();
    let engine = Engine::start();
    let build = |query: &str, file: &[u8]| {
        let context = archive(&[("Dockerfile", file), ("f", b"content\n")]);
        let answer = engine.call("POST", &format!("/build?version=2&{query}"), "application/x-tar", &context);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let lines = text.lines().filter(|l| !l.is_empty());
        (answer.status, lines.map(|l| serde_json::from_str::<Value>(l).unwrap()).collect::<Vec<_>>())
    };
    let file = b"FROM busybox:test\nARG A\nCOPY f /f\nRUN echo $A >> f && cat f\n";
    let query = "t=two:1&buildid=b1&buildargs=%7B%22A%22%3A%22more%22%7D&labels=%7B%22l%22%3A%22v%22%7D";
    let (status, lines) = build(query, file);
    assert_eq!(status, 200, "{lines:?}");
    let (last, traces) = lines.split_last().unwrap();
    assert!(!traces.is_empty() && traces.iter().all(|t| t["id"] == "moby.buildkit.trace"), "{lines:?}");
    let traced: Vec<u8> = traces
        .iter()
        .flat_map(|t| {
            base64::Engine::decode(&base64::engine::general_purpose::STANDARD, t["aux"].as_str().unwrap())
                .unwrap()
        })
        .collect();
    let traced = String::from_utf8_lossy(&traced).into_owned();
    assert!(traced.contains("RUN echo $A >> f && cat f") && traced.contains("content\nmore"), "{traced}");
    assert_eq!(last["id"], "moby.image.id");
    let image = engine.get("/images/two:1/json").json();
    assert_eq!(last["aux"]["ID"], image["Id"]);
    assert_eq!(image["Config"]["Labels"]["l"], "v");
    // What is wrong is told within the stream, or before it.
    let (_, lines) = build("t=two:2", b"FROM busybox:test\nRUN exit 7\n");
    let error = lines.last().unwrap()["error"].as_str().unwrap().to_owned();
    assert!(error.contains("exit code: 7"), "{error}");
    // Nothing but the cache is kept, however the output is written.
    for outputs in ["%5B%7B%22Type%22%3A%22cacheonly%22%7D%5D", "%5B%7B%22type%22%3A%22cacheonly%22%7D%5D"] {
        let (status, lines) = build(&format!("t=two:3&outputs={outputs}"), file);
        assert_eq!(status, 200, "{lines:?}");
        assert_eq!(lines.last().unwrap()["id"], "moby.buildkit.trace");
        assert_eq!(engine.get("/images/two:3/json").status, 404);
    }
    let (status, lines) = build("networkmode=container:x", file);
    assert_eq!(status, 400, "{lines:?}");
    assert_eq!(engine.call("POST", "/build?version=3", "application/x-tar", b"").status, 400);
    assert_eq!(engine.post("/build/cancel?id=b1", &Value::Null).status, 200);
    assert_eq!(engine.post("/build/cancel", &Value::Null).status, 400);
}

#[test]
fn an_import_from_an_address() {
    skip_if_lacking!();
    let engine = Engine::start();
    let web = engine.path().join("web");
    std::fs::create_dir(&web).unwrap();
    std::fs::write(web.join("root.tar"), archive(&[("etc/motd", b"hello\n")])).unwrap();
    let mut server = engine
        .inside("busybox")
        .args(["httpd", "-f", "-p", "127.0.0.1:8000", "-h"])
        .arg(&web)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    // It says nowhere that it listens but by listening.
    let probe = ["busybox", "wget", "-qO", "/dev/null", "http://127.0.0.1:8000/root.tar"];
    for _ in 0..200 {
        if engine.beside(&probe).is_empty() {
            break;
        }
    }
    let path = "/images/create?fromSrc=http://127.0.0.1:8000/root.tar&repo=web&changes=CMD%20x";
    let answer = engine.call("POST", path, "text/plain", b"");
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    let missing = engine.call("POST", "/images/create?fromSrc=127.0.0.1:8000/none.tar", "text/plain", b"");
    let other = engine.call("POST", "/images/create?fromSrc=ftp://host/x", "text/plain", b"");
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(answer.status, 200, "{text}");
    let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!(lines[0]["status"], "Downloading from http://127.0.0.1:8000/root.tar");
    let image = engine.get("/images/web/json").json();
    assert_eq!(lines.last().unwrap()["status"], image["Id"]);
    assert_eq!(image["Config"]["Cmd"], serde_json::json!(["/bin/sh", "-c", "x"]));
    assert!(missing.status >= 400 && missing.message().contains("404"), "{missing:?}");
    assert!(other.status == 400 && other.message().contains("ftp://host/x"), "{other:?}");
}

/// What an image does not have for a platform is neither looked at, nor saved, pushed, loaded or removed; older versions
/// of the API do not know the parameters.
#[test]
fn an_image_for_another_platform() {
    skip_if_lacking!();
    let engine = Engine::start();
    let own = engine.get("/images/busybox:test/json").json();
    let json = |os: &str, architecture: &str| {
        format!("%7B%22os%22:%22{os}%22,%22architecture%22:%22{architecture}%22%7D")
    };
    let (here, there) = (json("linux", own["Architecture"].as_str().unwrap()), json("linux", "s390x"));
    let ask = |method: &str, path: &str, platform: &str| {
        let path = path.replace("PLATFORM", platform);
        engine.call(method, &path, "application/x-tar", b"")
    };
    let lacking = "image with reference busybox:test was found but does not provide the specified platform (linux/s390x)";
    for (method, path, why) in [
        ("GET", "/v1.49/images/busybox:test/json?platform=PLATFORM", lacking),
        ("GET", "/v1.48/images/busybox:test/history?platform=PLATFORM", lacking),
        ("GET", "/v1.48/images/busybox:test/get?platform=PLATFORM", lacking),
        (
            "GET",
            "/v1.48/images/get?names=busybox:test&platform=PLATFORM",
            "no suitable export target found: ",
        ),
        ("POST", "/v1.46/images/busybox/push?tag=test&platform=PLATFORM", lacking),
        (
            "DELETE",
            "/v1.50/images/busybox:test?platforms=PLATFORM",
            "failed to delete platform linux/s390x for image ",
        ),
    ] {
        let answer = ask(method, path, &there);
        assert!(answer.status == 404 && answer.message().contains(why), "{path}: {answer:?}");
        let answer = ask(method, path, "linux");
        assert!(
            answer.status == 400 && answer.message().contains("failed to parse platform: "),
            "{answer:?}"
        );
        // One version earlier nothing asks for it.
        let (major, minor) = path[2..6].split_once('.').unwrap();
        let before =
            path.replacen(&path[..6], &format!("/v{major}.{}", minor.parse::<u32>().unwrap() - 1), 1);
        if method == "GET" {
            assert_eq!(ask(method, &before, &there).status, 200, "{before}");
            assert_eq!(ask(method, path, &here).status, 200, "{path}");
        }
    }
    let two = "/v1.51/images/get?names=busybox:test&platform=PLATFORM&platform=PLATFORM";
    let answer = ask("GET", two, &here);
    assert!(answer.status == 400 && answer.message().contains("use API version 1.52 or later"), "{answer:?}");
    let both = ask("GET", "/v1.51/images/busybox:test/json?manifests=1&platform=PLATFORM", &here);
    assert!(both.status == 400 && both.message().contains("cannot both be set"), "{both:?}");
    let told = engine.get("/v1.51/images/busybox:test/json?manifests=1").json();
    assert_eq!(told["Manifests"][0]["ImageData"]["Platform"]["architecture"], own["Architecture"], "{told}");
    assert!(engine.get("/v1.47/images/busybox:test/json?manifests=1").json().get("Manifests").is_none());
    let archive = ask("GET", "/v1.51/images/busybox:test/get?platform=PLATFORM", &here).body;
    let load = |platform: &str| {
        let path = format!("/v1.51/images/load?platform={platform}");
        String::from_utf8_lossy(&engine.call("POST", &path, "application/x-tar", &archive).body).into_owned()
    };
    let none = load(&there);
    assert!(none.contains("no images providing the requested platform(s) found: [linux/s390x]"), "{none}");
    assert!(load(&here).contains("Loaded image: busybox:test"));
    let gone = ask("DELETE", "/v1.51/images/busybox:test?force=1&platforms=PLATFORM", &here);
    assert!(gone.status == 200 && gone.json()[0]["Untagged"] == "busybox:test", "{gone:?}");
}

/// Builds until the daemon goes; what it acknowledged.
fn builds(socket: &Path, name: &str, from: u64) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in from..from + 1000 {
        let file = format!(
            "FROM busybox:test AS one\nRUN echo {n} > /a\nCOPY f /f\nFROM busybox:test\nRUN echo shared{} > /s\nCOPY --from=one /a /a\nRUN cat /a /s > /b\n",
            n / 3
        );
        let context = archive(&[("Dockerfile", file.as_bytes()), ("f", &vec![b'x'; 20_000 + n as usize])]);
        let tag = format!("{name}{n}");
        let head = format!(
            "POST /build?t={tag} HTTP/1.1\r\nHost: docker\r\nContent-Type: application/x-tar\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n",
            context.len()
        );
        let mut answer = Vec::new();
        let asked = UnixStream::connect(socket).and_then(|mut s| {
            s.write_all(head.as_bytes())?;
            s.write_all(&context)?;
            s.read_to_end(&mut answer)
        });
        if String::from_utf8_lossy(&answer).contains(&format!("Successfully tagged {tag}:latest")) {
            acknowledged.push(tag);
        } else {
            // Cut off; what came before the end may say why it failed otherwise.
            let text = String::from_utf8_lossy(&answer).into_owned();
            assert!(!text.contains("errorDetail") || asked.is_err(), "{text}");
            return acknowledged;
        }
    }
    acknowledged
}

/// `TUG_CRASH_KILLS` says how often.
#[test]
fn a_daemon_that_is_killed_while_it_builds() {
    skip_if_lacking!();
    let kills: u64 = std::env::var("TUG_CRASH_KILLS").ok().and_then(|k| k.parse().ok()).unwrap_or(6);
    let mut engine = Engine::start();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let mut known: BTreeMap<String, u64> = BTreeMap::new();
    for round in 0..kills {
        let socket = engine.socket();
        // Two that share steps, so that one waits for the other's.
        let building: Vec<_> = ["a", "b"]
            .map(|name| {
                let socket = socket.clone();
                std::thread::spawn(move || builds(&socket, name, round * 1000))
            })
            .into();
        let moment = Duration::from_millis(50 + base::rng::below(1500)) * crate::support::patience();
        runtime.block_on(async { tokio::time::sleep(moment).await });
        engine.kill();
        for one in building {
            known.extend(one.join().unwrap().into_iter().map(|tag| (tag, round)));
        }
        let wrong = runtime.block_on(async {
            let store = image::ImageStore::open(&engine.path().join("data")).await.unwrap();
            let mut wrong = store.verify().await.unwrap();
            let lost = known.iter().filter(|(tag, _)| store.get(tag).is_err());
            wrong.extend(lost.map(|(tag, since)| format!("{tag} of round {since} is lost")));
            wrong
        });
        engine.start_again();
        assert_eq!(wrong, Vec::<String>::new(), "round {round}");
    }
    assert!(!known.is_empty(), "nothing was ever built");
    // Nothing of a step that was cut off runs on or lies about, once the daemon answers.
    assert_eq!(engine.get("/_ping").status, 200);
    let left: Vec<_> = std::fs::read_dir(engine.path().join("data/build"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| !n.starts_with("cache"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let snapshots = std::fs::read_dir(engine.path().join("data/images/snapshots")).unwrap().count();
    assert_eq!(snapshots, 0, "snapshots of builds");
    let tag = known.keys().next().unwrap();
    let id = engine.create(
        "last",
        &serde_json::json!({"Image": tag, "Cmd": ["cat", "/b"], "HostConfig": {"NetworkMode": "none"}}),
    );
    assert_eq!(engine.post(&format!("/containers/{id}/start"), &Value::Null).status, 204);
    assert_eq!(engine.post(&format!("/containers/{id}/wait"), &Value::Null).json()["StatusCode"], 0);
}

/// Who pauses a container while it is committed waits, instead of meeting the commit's own pause.
#[test]
fn a_commit_is_alone_with_its_container() {
    skip_if_lacking!();
    let engine = Engine::start();
    let script = "busybox head -c 64m /dev/urandom > /big; touch /tmp/done; sleep 1000";
    engine.create("busy", &json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script]}));
    assert_eq!(engine.post("/containers/busy/start", &json!(null)).status, 204);
    let written = || engine.get("/containers/busy/archive?path=/tmp/done").status == 200;
    crate::survival::until("the file is written", written);
    let mut events =
        engine.open("GET", "/events?filters=%7B%22event%22:%5B%22pause%22,%22unpause%22%5D%7D", "", b"");
    assert_eq!(crate::support::read_head(&mut events).0, 200);
    let mut next = || loop {
        let mut line = String::new();
        events.read_line(&mut line).unwrap();
        if let Ok(event) = serde_json::from_str::<Value>(line.trim())
            && event["Action"].is_string()
        {
            return event["Action"].as_str().unwrap().to_owned();
        }
    };
    std::thread::scope(|scope| {
        let committing = scope.spawn(|| engine.post("/commit?container=busy&repo=made", &json!({})));
        assert_eq!(next(), "pause");
        let paused = engine.post("/containers/busy/pause", &json!(null));
        assert_eq!(paused.status, 204, "{paused:?}");
        let committed = committing.join().unwrap();
        assert_eq!(committed.status, 201, "{committed:?}");
    });
    assert_eq!((next(), next()), ("unpause".to_owned(), "pause".to_owned()));
    let state = engine.get("/containers/busy/json").json()["State"]["Status"].clone();
    assert_eq!(state, "paused");
    assert_eq!(engine.post("/containers/busy/unpause", &json!(null)).status, 204);
}
