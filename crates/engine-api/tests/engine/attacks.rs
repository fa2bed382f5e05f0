//! The engine against what broke others: paths that lead out, descriptors that leak, names with newlines, floods.

use std::collections::HashSet;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Engine, frames, read_head};
use crate::survival::until;

fn start(engine: &Engine, name: &str, body: &Value) -> (u16, String) {
    let id = engine.create(name, body);
    let answer = engine.post(&format!("/containers/{id}/start"), &Value::Null);
    let text = if answer.body.is_empty() { String::new() } else { answer.message() };
    (answer.status, text)
}

/// Runs a command in a new container until it ends; its exit status and its output.
fn run(engine: &Engine, body: &Value) -> (i64, String) {
    let mut body = body.clone();
    if body["HostConfig"]["NetworkMode"].is_null() {
        body["HostConfig"]["NetworkMode"] = json!("none");
    }
    if body["Image"].is_null() {
        body["Image"] = json!("busybox:test");
    }
    let answer = engine.post("/containers/create", &body);
    assert_eq!(answer.status, 201, "{}", answer.message());
    let id = answer.json()["Id"].as_str().unwrap().to_owned();
    let started = engine.post(&format!("/containers/{id}/start"), &Value::Null);
    if started.status != 204 {
        return (-1, started.message());
    }
    let code = engine.post(&format!("/containers/{id}/wait"), &Value::Null).json()["StatusCode"].as_i64();
    let log = engine.get(&format!("/containers/{id}/logs?stdout=1&stderr=1"));
    let out: Vec<u8> = frames(&mut log.body.as_slice()).into_iter().flat_map(|(_, d)| d).collect();
    engine.delete(&format!("/containers/{id}?v=1"));
    (code.unwrap(), String::from_utf8_lossy(&out).into_owned())
}

fn exec(engine: &Engine, container: &str, command: &[&str]) -> String {
    let made = engine.post(
        &format!("/containers/{container}/exec"),
        &json!({"Cmd": command, "AttachStdout": true, "AttachStderr": true}),
    );
    let id = made.json()["Id"].as_str().unwrap().to_owned();
    let answer = engine.post(&format!("/exec/{id}/start"), &json!({"Detach": false}));
    let out: Vec<u8> = frames(&mut answer.body.as_slice()).into_iter().flat_map(|(_, d)| d).collect();
    String::from_utf8_lossy(&out).into_owned()
}

/// One header and content of a tar archive, with a name that tar(1) would not write.
fn tar_entry(name: &str, kind: u8, link: &str, data: &[u8]) -> Vec<u8> {
    let mut head = [0u8; 512];
    let put = |head: &mut [u8; 512], at: usize, text: &str| {
        head[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(&mut head, 0, name);
    put(&mut head, 100, "0000644\0");
    put(&mut head, 108, "0000000\0");
    put(&mut head, 116, "0000000\0");
    put(&mut head, 124, &format!("{:011o}\0", data.len()));
    put(&mut head, 136, "00000000000\0");
    head[156] = kind;
    put(&mut head, 157, link);
    put(&mut head, 257, "ustar\x0000");
    if kind == b'3' || kind == b'4' {
        put(&mut head, 329, "0000001\0");
        put(&mut head, 337, "0000001\0");
    }
    put(&mut head, 148, "        ");
    let sum: u32 = head.iter().map(|b| u32::from(*b)).sum();
    put(&mut head, 148, &format!("{sum:06o}\0 "));
    let mut out = head.to_vec();
    out.extend_from_slice(data);
    out.resize(out.len().div_ceil(512) * 512, 0);
    out
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    let mut out = entries.concat();
    out.extend_from_slice(&[0; 1024]);
    out
}

#[test]
fn an_image_does_not_write_out_of_its_root() {
    skip_if_lacking!();
    let engine = Engine::start();
    let target = engine.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let outside = target.to_str().unwrap().to_owned();
    let up = format!("../../../../../../../../../../..{outside}/dots");
    let entries = [
        tar_entry("link", b'2', &outside, b""),
        tar_entry("link/through", b'0', "", b"evil"),
        tar_entry(&up, b'0', "", b"evil"),
        tar_entry(&format!("{outside}/absolute"), b'0', "", b"evil"),
        tar_entry("hard", b'1', "/etc/passwd", b""),
        tar_entry("dots", b'2', "../../../../../../../../..", b""),
        tar_entry("dots/tmp/tug-escaped", b'0', "", b"evil"),
    ];
    // Refused or contained, both are well.
    let path = "/images/create?fromSrc=-&repo=evil&tag=1";
    engine.call("POST", path, "application/x-tar", &archive(&entries));
    engine.create("cp", &json!({"Image": "busybox:test"}));
    engine.call("PUT", "/containers/cp/archive?path=/", "application/x-tar", &archive(&entries));
    let found: Vec<_> = std::fs::read_dir(&target).unwrap().collect();
    assert!(found.is_empty(), "{found:?}");
    assert!(!Path::new("/tmp/tug-escaped").exists());
    let stolen = engine.get("/containers/cp/archive?path=/hard");
    let passwd = std::fs::read("/etc/passwd").unwrap();
    assert!(
        !stolen.body.windows(passwd.len()).any(|w| w == passwd),
        "a hard link reached the machine's file"
    );
}

#[test]
fn proc_is_really_proc() {
    skip_if_lacking!();
    let engine = Engine::start();
    // An image whose /proc is a link to a folder of its own, with files where the masks would be.
    let root = engine.path().join("root");
    let fake = root.join("fake/self/attr");
    std::fs::create_dir_all(&fake).unwrap();
    std::os::unix::fs::symlink("/fake", root.join("proc")).unwrap();
    std::os::unix::fs::symlink("/fake", root.join("sys")).unwrap();
    let tar = Command::new("tar").arg("-C").arg(&root).args(["-c", "."]).output().unwrap();
    let path = "/images/create?fromSrc=-&repo=proc&tag=link&changes=ENV%20PATH=/bin";
    assert_eq!(engine.call("POST", path, "application/x-tar", &tar.stdout).status, 200);
    let (code, said) = run(&engine, &json!({"Image": "proc:link", "Cmd": ["cat", "/proc/self/comm"]}));
    assert!(code == -1 || said == "cat\n", "{code}: {said}");
    for (target, file) in [("/proc", "/proc/self/comm"), ("/proc/sys", "/proc/sys/kernel/ostype")] {
        let body =
            json!({"Cmd": ["cat", file], "HostConfig": {"Binds": [format!("{}:{target}", root.display())]}});
        let (code, said) = run(&engine, &body);
        assert!(code != 0 || !said.is_empty(), "{target} was replaced: {code} {said}");
        assert!(code == -1, "something is mounted at {target}: {said}");
    }
    // Masks and read-only paths hold.
    let (_, said) = run(
        &engine,
        &json!({"Cmd": ["sh", "-c", "cat /proc/kcore | wc -c; echo 1 > /proc/sys/kernel/panic"]}),
    );
    assert!(said.contains("Read-only file system") || said.contains("nonexistent"), "{said}");
}

#[test]
fn no_descriptor_leads_to_the_machine() {
    skip_if_lacking!();
    let engine = Engine::start();
    let secret = engine.path().join("secret");
    std::fs::write(&secret, "secret").unwrap();
    let up = format!("../../../../../../../..{}", secret.display());
    let script = format!("cat '{up}'; cat '/proc/self/fd/3/{up}'");
    assert_eq!(
        start(
            &engine,
            "box",
            &json!({"Image": "busybox:test", "Cmd": ["sleep", "1000"], "HostConfig": {"NetworkMode": "none"}})
        )
        .0,
        204
    );
    for n in 0..24 {
        let folder = format!("/proc/self/fd/{n}");
        let body = json!({"Cmd": ["sh", "-c", script], "WorkingDir": folder});
        let (_, said) = run(&engine, &body);
        assert!(!said.lines().any(|l| l == "secret"), "descriptor {n}: {said}");
        let made = engine.post(
            "/containers/box/exec",
            &json!({"Cmd": ["sh", "-c", script], "WorkingDir": folder, "AttachStdout": true}),
        );
        let id = made.json()["Id"].as_str().unwrap().to_owned();
        let answer = engine.post(&format!("/exec/{id}/start"), &json!({"Detach": false}));
        assert!(!answer.body.windows(6).any(|w| w == b"secret"), "descriptor {n} of an exec");
    }
    let open = exec(&engine, "box", &["ls", "/proc/self/fd"]);
    assert_eq!(
        open.split_whitespace().collect::<HashSet<_>>(),
        HashSet::from(["0", "1", "2", "3"]),
        "{open}"
    );
}

#[test]
fn the_runtime_is_not_overwritten_from_inside() {
    skip_if_lacking!();
    let engine = Engine::start();
    let binary = engine.binary();
    let before = (std::fs::metadata(&binary).unwrap().len(), std::fs::read(&binary).unwrap());
    let script = "while :; do for p in /proc/[0-9]*; do (echo owned > $p/exe) 2>/dev/null; \
                  (exec 9<$p/exe; echo owned > /proc/self/fd/9) 2>/dev/null; done; done";
    let body =
        json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}});
    assert_eq!(start(&engine, "evil", &body).0, 204);
    for _ in 0..20 {
        // The program is the runtime itself while it becomes the program.
        exec(&engine, "evil", &["/proc/self/exe"]);
        exec(&engine, "evil", &["true"]);
    }
    engine.delete("/containers/evil?force=1");
    let init = json!({"Cmd": ["sh", "-c", "for p in /proc/[0-9]*; do (echo owned > $p/exe) 2>/dev/null; done; true"], "HostConfig": {"Init": true}});
    assert_eq!(run(&engine, &init).0, 0);
    let after = std::fs::read(&binary).unwrap();
    assert!(before == (after.len() as u64, after), "the binary has changed");
    assert_eq!(run(&engine, &json!({"Cmd": ["true"]})).0, 0);
}

#[test]
fn a_changing_path_does_not_mislead_cp() {
    skip_if_lacking!();
    let engine = Engine::start();
    let target = engine.path().join("target");
    std::fs::create_dir(&target).unwrap();
    std::fs::write(target.join("secret"), "secret").unwrap();
    let outside = target.display();
    let script = format!(
        "cd /tmp; /bin/busybox mkdir -p real; echo mine > real/secret; /bin/busybox ln -s {outside} link; \
         while :; do /bin/busybox mv -T real d; /bin/busybox mv -T d real; /bin/busybox mv -T link d; /bin/busybox mv -T d link; done"
    );
    let body =
        json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}});
    assert_eq!(start(&engine, "racer", &body).0, 204);
    let evil = archive(&[tar_entry("evil", b'0', "", b"evil")]);
    for _ in 0..150 {
        let got = engine.get("/containers/racer/archive?path=/tmp/d/secret");
        assert!(
            !got.body.windows(6).any(|w| w == b"secret" && got.status == 200 && contains_data(&got.body)),
            "read from outside"
        );
        engine.call("PUT", "/containers/racer/archive?path=/tmp/d", "application/x-tar", &evil);
        assert!(!target.join("evil").exists(), "written outside");
    }
}

/// Whether an archive's content (behind its header) is the machine's file.
fn contains_data(tar: &[u8]) -> bool {
    tar.get(512..518) == Some(b"secret")
}

#[test]
fn names_with_newlines_are_refused() {
    skip_if_lacking!();
    let engine = Engine::start();
    let evil = "a\n6.6.6.6 bank";
    let bodies = [
        json!({"Hostname": evil}),
        json!({"Domainname": evil}),
        json!({"HostConfig": {"ExtraHosts": [format!("{evil}:1.2.3.4")]}}),
        json!({"HostConfig": {"Dns": ["1.1.1.1\nnameserver 6.6.6.6"]}}),
        json!({"HostConfig": {"DnsSearch": ["x\nnameserver 6.6.6.6"]}}),
        json!({"HostConfig": {"DnsOptions": ["ndots:1\nnameserver 6.6.6.6"]}}),
        json!({"HostConfig": {"Links": [format!("other:{evil}")]}}),
    ];
    engine.create("other", &json!({"Image": "busybox:test"}));
    for mut body in bodies {
        body["Image"] = json!("busybox:test");
        let answer = engine.post("/containers/create", &body);
        assert_eq!(answer.status, 400, "{body}: {}", String::from_utf8_lossy(&answer.body));
    }
    assert_eq!(engine.post("/containers/create?name=a%0ab", &json!({"Image": "busybox:test"})).status, 400);
    assert_eq!(engine.post("/containers/other/rename?name=a%0ab", &Value::Null).status, 400);
    assert_eq!(engine.post("/networks/create", &json!({"Name": "a\nb"})).status, 400);
    assert_eq!(engine.post("/volumes/create", &json!({"Name": "a\nb"})).status, 400);
    assert_eq!(engine.get("/containers/json?all=1").json().as_array().unwrap().len(), 1, "nothing was made");
    // A line of a log stays one line of its file.
    let (_, said) = run(&engine, &json!({"Cmd": ["sh", "-c", r#"printf '{"log":"fake"}\r\n\0\nx'"#]}));
    assert_eq!(said, "{\"log\":\"fake\"}\r\n\0\nx");
}

#[test]
fn a_device_file_opens_no_device() {
    skip_if_lacking!();
    if !Path::new("/sys/fs/cgroup/devices").exists()
        && !Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
    {
        println!("skipped: needs a devices cgroup");
        return;
    }
    let engine = Engine::start();
    // Made inside, where mknod is allowed, and brought along by cp: /dev/mem is character device 1:1.
    let script =
        "/bin/busybox mknod /mem c 1 1 && cat /mem; /bin/busybox mknod /null c 1 3 && cat /null && echo fine";
    let (_, said) = run(&engine, &json!({"Cmd": ["sh", "-c", script]}));
    assert!(said.contains("Operation not permitted") && said.contains("fine"), "{said}");
    engine.create(
        "carrier",
        &json!({"Image": "busybox:test", "Cmd": ["cat", "/smuggled"], "HostConfig": {"NetworkMode": "none"}}),
    );
    let tar = archive(&[tar_entry("smuggled", b'3', "", b"")]);
    engine.call("PUT", "/containers/carrier/archive?path=/", "application/x-tar", &tar);
    assert_eq!(engine.post("/containers/carrier/start", &Value::Null).status, 204);
    assert_ne!(engine.post("/containers/carrier/wait", &Value::Null).json()["StatusCode"], 0);
}

/// Kilobytes of memory that a process holds for itself.
pub fn resident(pid: u32) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |key: &str| {
        rollup.lines().find_map(|l| l.strip_prefix(key)?.split_whitespace().next()?.parse::<u64>().ok())
    };
    of("Private_Dirty:").unwrap_or(0)
}

#[test]
fn a_line_that_hardly_ends_fills_neither_memory_nor_disk() {
    skip_if_lacking!();
    let engine = Engine::start();
    let script = "/bin/busybox dd if=/dev/zero bs=65536 count=4096 2>/dev/null; echo; echo end";
    let body =
        json!({"Image": "busybox:test", "Cmd": ["sh", "-c", script], "HostConfig": {"NetworkMode": "none"}});
    assert_eq!(start(&engine, "loud", &body).0, 204);
    let document = engine.get("/containers/loud/json").json();
    let log = document["LogPath"].as_str().unwrap().to_owned();
    let pid = document["State"]["Pid"].as_u64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let shim: u32 = status.lines().find_map(|l| l.strip_prefix("PPid:")?.trim().parse().ok()).unwrap_or(0);
    let mut most = (0, 0);
    until("it has said everything", || {
        most = (most.0.max(resident(shim)), most.1.max(resident(engine.pid())));
        engine.get("/containers/loud/json").json()["State"]["Status"] != "running"
    });
    assert!(most.0 < 32 << 10, "the shim held {} KiB", most.0);
    assert!(most.1 < 128 << 10, "the daemon held {} KiB", most.1);
    let folder = Path::new(&log).parent().unwrap();
    let bytes: u64 = std::fs::read_dir(folder).unwrap().flatten().map(|e| e.metadata().unwrap().len()).sum();
    assert!(bytes < 60_000_000, "the log takes {bytes} bytes");
    let tail = engine.get("/containers/loud/logs?stdout=1&tail=1");
    assert_eq!(frames(&mut tail.body.as_slice()), [(1, b"end\n".to_vec())]);
}

#[test]
fn ten_thousand_idle_attachments() {
    skip_if_lacking!();
    let engine = Engine::start();
    let body = json!({"Image": "busybox:test", "Cmd": ["sh", "-c", "read line; echo $line; sleep 1000"], "OpenStdin": true, "HostConfig": {"NetworkMode": "none"}});
    assert_eq!(start(&engine, "crowded", &body).0, 204);
    let (_, most) = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
    let count = usize::try_from(most).unwrap_or(usize::MAX).saturating_sub(200).min(10_000);
    nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, most, most).unwrap();
    let mut idle = Vec::new();
    let mut refused = 0;
    for _ in 0..count {
        let mut one = engine.open(
            "POST",
            "/containers/crowded/attach?stream=1&stdout=1",
            "Connection: Upgrade\r\nUpgrade: tcp\r\n",
            b"",
        );
        match read_head(&mut one).0 {
            101 => idle.push(one),
            503 => refused += 1,
            other => panic!("after {} attachments: {other}", idle.len()),
        }
    }
    println!("{} attached, {refused} refused", idle.len());
    assert!(idle.len() >= 1000 || refused == 0, "{} attached", idle.len());
    // Everybody else is served as before.
    assert_eq!(engine.get("/containers/crowded/json").status, 200);
    assert_eq!(run(&engine, &json!({"Cmd": ["true"]})).0, 0);
    assert!(resident(engine.pid()) < 512 << 10, "the daemon holds {} KiB", resident(engine.pid()));
    let last = idle.pop();
    drop(idle);
    until("there is room again", || {
        let mut one = engine.open(
            "POST",
            "/containers/crowded/attach?stream=1&stdout=1",
            "Connection: Upgrade\r\nUpgrade: tcp\r\n",
            b"",
        );
        read_head(&mut one).0 == 101
    });
    assert_eq!(engine.delete("/containers/crowded?force=1").status, 204);
    let mut rest = Vec::new();
    last.unwrap().read_to_end(&mut rest).unwrap();
}
