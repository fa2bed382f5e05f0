//! Volumes and mounts.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use crate::support::Engine;
use crate::survival::until;

fn run(engine: &Engine, name: &str, host: Value, command: &str) -> String {
    let body = json!({"Image": "busybox:test", "Cmd": ["sh", "-c", command], "HostConfig": host});
    let id = engine.create(name, &body);
    let started = engine.post(&format!("/containers/{id}/start"), &json!(null));
    assert_eq!(started.status, 204, "{started:?}");
    id
}

fn output(engine: &Engine, id: &str) -> String {
    engine.post(&format!("/containers/{id}/wait"), &json!(null));
    let logs = engine.get(&format!("/containers/{id}/logs?stdout=1&stderr=1"));
    let frames = crate::support::frames(&mut logs.body.as_slice());
    frames.iter().map(|(_, data)| String::from_utf8_lossy(data).into_owned()).collect()
}

fn mounted(path: &Path) -> bool {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().contains(&path.display().to_string())
}

#[test]
fn local_volumes() {
    skip_if_lacking!();
    let engine = Engine::start();
    let make = |body: Value| {
        let answer = engine.post("/volumes/create", &body);
        (answer.status, if answer.status == 201 { String::new() } else { answer.message() })
    };
    assert_eq!(
        make(json!({"Name": "a"})).1,
        "create a: volume name is too short, names should be at least two alphanumeric characters"
    );
    assert_eq!(
        make(json!({"Name": "data", "DriverOpts": {"x": "y"}})),
        (400, "create data: invalid option: \"x\"".into())
    );
    assert_eq!(make(json!({"Name": "data", "DriverOpts": {"type": "nfs"}})).0, 400);
    assert_eq!(
        make(json!({"Name": "data", "Driver": "nope"})),
        (404, "create data: error looking up volume plugin nope: plugin \"nope\" not found".into())
    );
    assert_eq!(make(json!({"Name": "data", "DriverOpts": null, "Labels": {"k": "v"}})).0, 201);
    assert_eq!(
        make(json!({"Name": "data", "DriverOpts": {"type": "tmpfs", "device": "tmpfs"}})).0,
        201,
        "it exists"
    );

    // One file system for all who use it at the same time, gone after the last.
    let shared = json!({"type": "tmpfs", "device": "tmpfs", "o": "size=1m,mode=0711"});
    assert_eq!(make(json!({"Name": "shared", "DriverOpts": shared})).0, 201);
    let place = PathBuf::from(engine.get("/volumes/shared").json()["Mountpoint"].as_str().unwrap());
    let binds = json!({"Binds": ["shared:/s"]});
    let first = run(&engine, "first", binds.clone(), "echo hello > /s/f; sleep 1000");
    let second = run(&engine, "second", binds, "while ! cat /s/f; do sleep 0.1; done; mount | grep /s");
    let said = output(&engine, &second);
    assert!(said.contains("hello") && said.contains("tmpfs") && said.contains("size=1024k"), "{said}");
    assert!(mounted(&place));
    engine.delete(&format!("/containers/{second}"));
    engine.delete(&format!("/containers/{first}?force=1"));
    assert!(!mounted(&place), "nobody uses it any more");

    let source = engine.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("kept"), "bound").unwrap();
    let bound = json!({"type": "none", "device": source, "o": "bind,ro"});
    assert_eq!(make(json!({"Name": "bound", "DriverOpts": bound})).0, 201);
    let id = run(&engine, "bound", json!({"Binds": ["bound:/b"]}), "cat /b/kept; touch /b/x");
    let said = output(&engine, &id);
    assert!(said.contains("bound") && said.contains("Read-only file system"), "{said}");
    engine.delete(&format!("/containers/{id}"));
    let missing = json!({"type": "none", "device": "/does/not/exist", "o": "bind"});
    assert_eq!(make(json!({"Name": "missing", "DriverOpts": missing})).0, 201);
    let body = json!({"Image": "busybox:test", "HostConfig": {"Binds": ["missing:/b"]}});
    let refused = engine.post("/containers/create?name=mi", &body);
    assert!(
        refused.message().contains("failed to mount local volume: mount /does/not/exist:"),
        "{refused:?}"
    );

    // A part of a volume.
    let id = run(
        &engine,
        "ww",
        json!({"Binds": ["data:/d"]}),
        "echo part > /d/p; mkdir /d/sub; echo deep > /d/sub/f",
    );
    output(&engine, &id);
    let part = |subpath: &str| json!({"Mounts": [{"Type": "volume", "Source": "data", "Target": "/x", "VolumeOptions": {"Subpath": subpath}}]});
    let id2 = run(&engine, "part", part("sub"), "cat /x/f");
    assert_eq!(output(&engine, &id2), "deep\n");
    let bad =
        engine.post("/containers/create", &json!({"Image": "busybox:test", "HostConfig": part("../x")}));
    assert_eq!(bad.status, 400, "{bad:?}");

    let used = engine.delete("/volumes/data");
    assert_eq!(used.status, 409);
    assert!(used.message().starts_with("remove data: volume is in use - ["), "{}", used.message());
    for c in [id, id2] {
        engine.delete(&format!("/containers/{c}"));
    }
    let usage = engine.get("/system/df?type=volume").json();
    let names: Vec<_> = usage["Volumes"].as_array().unwrap().iter().map(|v| v["Name"].clone()).collect();
    assert_eq!(names, [json!("data")], "what is mounted from elsewhere takes no space here");
    let pruned = engine.post("/volumes/prune?filters={%22all%22:[%22true%22]}", &json!(null)).json();
    assert_eq!(pruned["VolumesDeleted"], json!(["data"]));
    assert_eq!(engine.delete("/volumes/bound").status, 204);
    assert!(source.join("kept").exists(), "what is mounted there is not ours to delete");
    assert_eq!(engine.delete("/volumes/nope").message(), "get nope: no such volume");
    assert_eq!(engine.delete("/volumes/nope?force=1").status, 204);
}

/// A volume plugin: what it was asked, in order.
struct Plugin {
    socket: PathBuf,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Plugin {
    /// Keeps its volumes as folders of `dir`.
    fn start(name: &str, dir: PathBuf) -> Plugin {
        std::fs::create_dir_all("/run/docker/plugins").unwrap();
        let socket = PathBuf::from(format!("/run/docker/plugins/{name}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let log = asked.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (dir, log) = (dir.clone(), log.clone());
                std::thread::spawn(move || {
                    let mut text = String::new();
                    let mut buffer = [0; 4096];
                    // A head, and a body of the length that it says.
                    let body = loop {
                        let n = stream.read(&mut buffer).unwrap();
                        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
                        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                        let length = head.lines().find_map(|l| {
                            l.to_lowercase().strip_prefix("content-length: ").map(str::to_owned)
                        });
                        if body.len() >= length.map_or(0, |l| l.parse().unwrap()) {
                            break body.to_owned();
                        }
                    };
                    let method = text.split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
                    let body: Value = serde_json::from_str(&body).unwrap_or_default();
                    let name = body["Name"].as_str().unwrap_or("").to_owned();
                    let place = dir.join(&name);
                    let volume = |name: &str| json!({"Name": name, "Mountpoint": dir.join(name), "Status": {"of": "plugin"}});
                    let asked = format!("{} {name}", method.trim_start_matches("VolumeDriver."));
                    log.lock().unwrap().push(asked.clone());
                    // Whoever asks this of it waits until the test lets it go on.
                    while dir.join(".held").is_dir() && dir.join(".held").join(&asked).exists() {
                        std::thread::yield_now();
                    }
                    let answer = match method.as_str() {
                        "Plugin.Activate" => json!({"Implements": ["VolumeDriver"]}),
                        "VolumeDriver.Capabilities" => json!({"Capabilities": {"Scope": "global"}}),
                        "VolumeDriver.Create" if name == "bad" => json!({"Err": "no room"}),
                        "VolumeDriver.Create" => {
                            std::fs::create_dir_all(&place).unwrap();
                            json!({})
                        }
                        "VolumeDriver.Remove" => {
                            std::fs::remove_dir_all(&place).unwrap();
                            json!({})
                        }
                        "VolumeDriver.Mount" | "VolumeDriver.Path" => json!({"Mountpoint": place}),
                        "VolumeDriver.Unmount" => json!({}),
                        "VolumeDriver.Get" if place.exists() => json!({"Volume": volume(&name)}),
                        "VolumeDriver.List" => {
                            let shown =
                                |e: &std::fs::DirEntry| !e.file_name().to_string_lossy().starts_with('.');
                            let names = std::fs::read_dir(&dir).unwrap().flatten().filter(shown);
                            let all: Vec<_> =
                                names.map(|e| volume(&e.file_name().to_string_lossy())).collect();
                            json!({"Volumes": all})
                        }
                        _ => json!({"Err": "what?"}),
                    };
                    let text = answer.to_string();
                    let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                });
            }
        });
        Plugin { socket, asked }
    }

    /// Holds up whoever asks `what` until the file that it returns is removed.
    fn hold(dir: &Path, what: &str) -> PathBuf {
        let file = dir.join(".held").join(what);
        std::fs::create_dir_all(dir.join(".held")).unwrap();
        std::fs::write(&file, "").unwrap();
        file
    }

    fn count(&self, what: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|a| *a == what).count()
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

#[test]
fn volumes_of_a_plugin() {
    skip_if_lacking!();
    let mut engine = Engine::start();
    let driver = format!("tug-test-{}", std::process::id());
    let dir = engine.path().join("plugin");
    std::fs::create_dir(&dir).unwrap();
    let plugin = Plugin::start(&driver, dir.clone());
    let made = engine
        .post("/volumes/create", &json!({"Name": "remote vol", "Driver": driver, "DriverOpts": {"a": "b"}}));
    assert_eq!(made.status, 201, "{made:?}");
    let refused = engine.post("/volumes/create", &json!({"Name": "bad", "Driver": driver}));
    assert_eq!((refused.status, refused.message().as_str()), (500, "create bad: no room"));
    let other = engine.post("/volumes/create", &json!({"Name": "remote vol", "Driver": "local"}));
    assert_eq!(other.status, 409);
    assert!(other.message().ends_with("volume name must be unique"), "{}", other.message());
    let shown = engine.get("/volumes/remote%20vol").json();
    assert_eq!(
        (&shown["Scope"], &shown["Status"]["of"], &shown["Options"]["a"]),
        (&json!("global"), &json!("plugin"), &json!("b"))
    );
    // One that the plugin has from elsewhere.
    std::fs::create_dir(dir.join("found")).unwrap();
    let list = engine.get(&format!("/volumes?filters={{%22driver%22:[%22{driver}%22]}}")).json();
    let names: Vec<_> = list["Volumes"].as_array().unwrap().iter().map(|v| v["Name"].clone()).collect();
    assert_eq!(names, [json!("found"), json!("remote vol")]);

    let host = json!({"Mounts": [{"Type": "volume", "Source": "remote vol", "Target": "/r", "VolumeOptions": {"DriverConfig": {"Name": driver}}}]});
    let id = run(&engine, "user", host, "echo there > /r/f; sleep 1000");
    assert_eq!(plugin.count("Mount remote vol") - plugin.count("Unmount remote vol"), 1);
    engine.kill();
    engine.start_again();
    engine.post(&format!("/containers/{id}/kill"), &json!(null));
    engine.post(&format!("/containers/{id}/wait"), &json!(null));
    assert_eq!(std::fs::read_to_string(dir.join("remote vol/f")).unwrap(), "there\n");
    assert_eq!(engine.delete("/volumes/remote%20vol").status, 409);
    engine.delete(&format!("/containers/{id}"));
    assert_eq!(plugin.count("Mount remote vol"), plugin.count("Unmount remote vol"), "{:?}", plugin.asked);
    assert_eq!(engine.delete("/volumes/remote%20vol").status, 204);
    assert!(!dir.join("remote vol").exists());
}

/// A container that is being made is not among the containers yet; its volumes are in use all the same. And a plugin that
/// takes its time holds up nobody but those who want that volume.
#[test]
fn a_slow_plugin() {
    skip_if_lacking!();
    let engine = Engine::start();
    let driver = format!("tug-slow-{}", std::process::id());
    let dir = engine.path().join("plugin");
    std::fs::create_dir(&dir).unwrap();
    let plugin = Plugin::start(&driver, dir.clone());
    let host = json!({"Mounts": [
        {"Type": "volume", "Source": "near", "Target": "/n"},
        {"Type": "volume", "Source": "far", "Target": "/r", "VolumeOptions": {"DriverConfig": {"Name": driver}}},
    ]});
    let body = json!({"Image": "busybox:test", "Volumes": {"/etc": {}}, "HostConfig": host}).to_string();
    let mounting = Plugin::hold(&dir, "Mount far");
    let more = "Content-Type: application/json\r\nConnection: close\r\n";
    let mut creation = engine.open("POST", "/containers/create?name=user", more, body.as_bytes());
    until("the plugin is asked", || plugin.count("Mount far") == 1);
    for name in ["near", "far"] {
        let used = engine.delete(&format!("/volumes/{name}"));
        assert_eq!(used.status, 409, "{name}: {used:?}");
        assert!(used.message().contains("volume is in use"), "{}", used.message());
    }
    let pruned = engine.post("/volumes/prune?filters={%22all%22:[%22true%22]}", &json!(null)).json();
    assert_eq!(pruned["VolumesDeleted"], json!([]));
    std::fs::remove_file(mounting).unwrap();
    assert_eq!(crate::support::read_head(&mut creation).0, 201);
    let points = engine.get("/containers/user/json").json()["Mounts"].clone();
    assert_eq!(points.as_array().unwrap().len(), 3);
    for point in points.as_array().unwrap() {
        let name = point["Name"].as_str().unwrap();
        assert_eq!(engine.get(&format!("/volumes/{name}")).status, 200, "{name}");
    }
    // One that could not be made leaves no volume behind that nobody named.
    let before = engine.get("/volumes").json()["Volumes"].as_array().unwrap().len();
    let bad = json!({"Image": "busybox:test", "Volumes": {"/etc": {}}, "HostConfig": {"Mounts": [
        {"Type": "volume", "Source": "bad", "Target": "/a/b", "VolumeOptions": {"DriverConfig": {"Name": driver}}}]}});
    let refused = engine.post("/containers/create?name=bad", &bad);
    assert_eq!((refused.status, refused.message().as_str()), (500, "create bad: no room"));
    assert_eq!(engine.get("/volumes").json()["Volumes"].as_array().unwrap().len(), before);

    let creating = Plugin::hold(&dir, "Create later");
    let wanted = json!({"Name": "later", "Driver": driver}).to_string();
    let mut later = engine.open("POST", "/volumes/create", more, wanted.as_bytes());
    until("the plugin is asked", || plugin.count("Create later") == 1);
    assert_eq!(engine.post("/volumes/create", &json!({"Name": "other", "Driver": "local"})).status, 201);
    assert_eq!(engine.delete("/volumes/other").status, 204);
    std::fs::remove_file(creating).unwrap();
    assert_eq!(crate::support::read_head(&mut later).0, 201);
}

/// More layers than fit into one option of mount(2)'s newer calls.
#[test]
fn an_image_of_many_layers_is_mounted() {
    skip_if_lacking!();
    let engine = Engine::start();
    let file = (0..12).fold("FROM busybox:test\n".to_owned(), |text, n| format!("{text}COPY f /f{n}\n"));
    let files = [("Dockerfile", file.as_bytes()), ("f", b"layer\n".as_slice())];
    let context = image::archive::tar::archive(&files).unwrap();
    let built = engine.call("POST", "/build?t=many", "application/x-tar", &context);
    let text = String::from_utf8_lossy(&built.body).into_owned();
    assert!(text.contains("Successfully tagged many:latest"), "{text}");
    let mounts =
        json!({"NetworkMode": "none", "Mounts": [{"Type": "image", "Source": "many", "Target": "/i"}]});
    let id = run(&engine, "many", mounts, "cat /i/f0 /i/f11 /i/etc/passwd; touch /i/x; echo $?");
    let said = output(&engine, &id);
    assert!(said.contains("layer\nlayer\nroot:x:0:0") && said.contains("Read-only file system"), "{said}");
}

#[test]
fn mounts() {
    skip_if_lacking!();
    let engine = Engine::start();
    let refused = |host: Value| {
        let answer = engine.post("/containers/create", &json!({"Image": "busybox:test", "HostConfig": host}));
        (answer.status, answer.message())
    };
    assert_eq!(refused(json!({"Binds": ["/x:/y:zz"]})), (400, "invalid mode: zz".into()));
    assert_eq!(refused(json!({"Binds": ["/x:ro"]})), (400, "invalid volume specification: '/x:ro'".into()));
    assert_eq!(
        refused(json!({"Mounts": [{"Type": "x", "Target": "/t"}]})),
        (400, "invalid mount config for type \"x\": mount type unknown".into())
    );
    assert_eq!(
        refused(json!({"Mounts": [{"Type": "bind", "Source": "/nope", "Target": "/t"}]})),
        (400, "invalid mount config for type \"bind\": bind source path does not exist: /nope".into())
    );
    assert_eq!(refused(json!({"Binds": ["/tmp:/t", "/var:/t"]})), (400, "Duplicate mount point: /t".into()));

    let source = engine.path().join("made/for/it");
    let id = run(&engine, "mm", json!({"Binds": [format!("{}:/m:z", source.display())]}), "touch /m/x");
    output(&engine, &id);
    assert!(source.join("x").exists(), "a missing source is made");
    let shown = engine.get(&format!("/containers/{id}/json")).json()["Mounts"][0].clone();
    assert_eq!((&shown["Mode"], &shown["Propagation"]), (&json!("z"), &json!("rprivate")));

    let mounts = json!({"Mounts": [
        {"Type": "image", "Source": "busybox:test", "Target": "/i", "ImageOptions": {"Subpath": "etc"}},
        {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1048576, "Mode": 448}},
    ]});
    let id = run(&engine, "ii", mounts, "cat /i/passwd; touch /i/x; mount | grep /t");
    let said = output(&engine, &id);
    assert!(said.contains("root:x:0:0") && said.contains("Read-only file system"), "{said}");
    assert!(said.contains("size=1024k") && said.contains("mode=700"), "{said}");
}

/// The names and contents of a tar's files; folders end in a slash.
fn entries(tar: &[u8]) -> std::collections::BTreeMap<String, String> {
    let mut out = std::collections::BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let mut text = String::new();
        let _ = entry.read_to_string(&mut text); // not all are text
        out.insert(entry.path().unwrap().display().to_string(), text);
    }
    out
}

/// `docker cp` sees in a container that does not run what its processes would see.
#[test]
fn copies_from_a_stopped_container_have_its_volumes() {
    skip_if_lacking!();
    let engine = Engine::start();
    let (fixed, file) = (engine.path().join("fixed"), engine.path().join("file"));
    std::fs::create_dir(&fixed).unwrap();
    std::fs::write(fixed.join("f"), "fixed").unwrap();
    std::fs::write(&file, "one file").unwrap();
    let binds = json!({"Binds": [
        // A volume in a volume, the inner one first.
        "inner:/srv/data/inner", "outer:/srv/data",
        format!("{}:/srv/fixed:ro", fixed.display()), format!("{}:/srv/file", file.display()),
    ]});
    let fill = "echo out > /srv/data/o; echo in > /srv/data/inner/i; echo layer > /srv/own";
    let id = run(&engine, "carrier", binds, fill);
    assert_eq!(output(&engine, &id), "");

    let path = "/containers/carrier/archive?path=";
    let srv = entries(&engine.get(&format!("{path}/srv")).body);
    for (name, text) in [
        ("srv/own", "layer\n"),
        ("srv/data/o", "out\n"),
        ("srv/data/inner/i", "in\n"),
        ("srv/fixed/f", "fixed"),
        ("srv/file", "one file"),
    ] {
        assert_eq!(srv.get(name).map(String::as_str), Some(text), "{name} of {srv:?}");
    }
    assert_eq!(entries(&engine.get(&format!("{path}/srv/data/inner/i")).body)["i"], "in\n");
    let root = entries(&engine.get(&format!("{path}/")).body);
    assert_eq!(root.get("./srv/data/inner/i").map(String::as_str), Some("in\n"), "{root:?}");

    let archive = |name: &str| {
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, &b"new"[..]).unwrap();
        archive.into_inner().unwrap()
    };
    let put = |to: &str, name: &str| {
        engine.call("PUT", &format!("{path}{to}"), "application/x-tar", &archive(name)).status
    };
    assert_eq!(put("/srv", "data/inner/put"), 200);
    assert_eq!(put("/", "srv/data/put"), 200);
    assert_eq!(put("/srv", "beside"), 200);
    assert_eq!((put("/srv", "fixed/x"), put("/srv/fixed", "x")), (403, 403));
    let volumes = engine.path().join("data/volumes");
    for place in ["inner/_data/put", "outer/_data/put"] {
        assert_eq!(std::fs::read_to_string(volumes.join(place)).unwrap(), "new", "{place}");
    }
    assert!(!fixed.join("x").exists());

    // What is the container's own is still only that.
    let exported = entries(&engine.get("/containers/carrier/export").body);
    assert!(exported.contains_key("srv/beside") && !exported.contains_key("srv/data/o"), "{exported:?}");
    let changes = engine.get("/containers/carrier/changes").json().to_string();
    assert!(changes.contains("/srv/beside") && !changes.contains("/srv/data/"), "{changes}");
    let held = std::fs::read_to_string(format!("/proc/{}/mountinfo", engine.pid())).unwrap();
    assert!(!held.contains("inner/_data"), "nothing stays mounted: {held}");
    assert_eq!(engine.post("/containers/carrier/start", &json!(null)).status, 204);

    // One that has never been started has no places to mount on yet.
    let binds = json!({"Binds": ["inner:/fresh/inner", format!("{}:/fresh/file", file.display())]});
    engine.create("fresh", &json!({"Image": "busybox:test", "HostConfig": binds}));
    let path = "/containers/fresh/archive?path=";
    let there = entries(&engine.get(&format!("{path}/fresh")).body);
    assert_eq!(
        (there["fresh/inner/i"].as_str(), there["fresh/file"].as_str()),
        ("in\n", "one file"),
        "{there:?}"
    );
    let put = engine.call("PUT", &format!("{path}/fresh/inner"), "application/x-tar", &archive("more"));
    assert_eq!(put.status, 200, "{put:?}");
    assert_eq!(std::fs::read_to_string(volumes.join("inner/_data/more")).unwrap(), "new");
}
