//! An engine of its own for a test: own folders, own network namespace, and a client that speaks plain HTTP.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

/// Why a test with real containers cannot run here, if it cannot.
pub fn lacking() -> Option<&'static str> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root");
    }
    if which("busybox").is_none() {
        return Some("needs busybox (Debian: apt-get install busybox-static)");
    }
    if which("unshare").is_none() {
        return Some("needs unshare (Debian: apt-get install util-linux)");
    }
    None
}

/// How many times longer things may take than on a machine that is not emulated (`TUG_TEST_PATIENCE`).
pub fn patience() -> u32 {
    std::env::var("TUG_TEST_PATIENCE").ok().and_then(|t| t.parse().ok()).unwrap_or(1)
}

/// A program's path.
pub fn which(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|d| d.join(name)).find(|p| p.is_file())
}

/// Says that a test was left out, and why.
macro_rules! skip_if_lacking {
    () => {
        if let Some(reason) = $crate::support::lacking() {
            println!("skipped: {reason}");
            return;
        }
    };
}

/// What runs a program inside a namespace.
fn inside(namespace: &Holder) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", namespace.0.id())).arg("--");
    command
}

/// What holds a network namespace; it ends with whoever has it.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A running engine.
pub struct Engine {
    dir: tempfile::TempDir,
    process: Child,
    namespace: Holder,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The connection ended before the body did.
    pub cut: bool,
}

impl Answer {
    pub fn json(&self) -> Value {
        assert!(!self.cut, "the answer ends half-way: {:?}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    pub fn message(&self) -> String {
        self.json()["message"].as_str().unwrap_or("").to_owned()
    }
}

/// The engine's binary. It lies beside the tests' own folder; `cargo test` builds it too, unless a target is named:
/// then `cargo build --package engine-api --examples` does.
fn engined() -> PathBuf {
    let own = std::env::current_exe().expect("the test has a path");
    own.parent().and_then(Path::parent).expect("target/debug/deps").join("examples/engined")
}

/// A network namespace with `lo` up, for as long as the process lives.
fn namespace() -> Holder {
    let mut holder = Command::new("unshare")
        .args([
            "--net",
            "--",
            "busybox",
            "sh",
            "-c",
            "busybox ip link set lo up; echo; exec busybox sleep 100000",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("unshare runs");
    let mut line = String::new();
    let stdout = holder.stdout.take().expect("its output is piped");
    BufReader::new(stdout).read_line(&mut line).expect("its output can be read");
    Holder(holder)
}

fn start(dir: &Path, namespace: &Holder) -> Child {
    let engined = engined();
    let mut command = inside(namespace);
    if dir.join("etc").is_dir() {
        // Its own /etc: the machine's with a few files of its own.
        let own = "mount -t overlay overlay -o lowerdir=/etc,upperdir=$0/etc,workdir=$0/etc-work /etc && exec \"$@\"";
        command.args(["unshare", "--mount", "--", "sh", "-c", own]).arg(dir);
    }
    let mut process = command
        .arg(engined)
        .args([dir.join("data"), dir.join("run")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("nsenter runs");
    let mut line = String::new();
    let stdout = process.stdout.take().expect("its output is piped");
    BufReader::new(stdout).read_line(&mut line).expect("its output can be read");
    assert_eq!(line, "listening\n", "the engine does not start");
    process
}

impl Engine {
    /// Starts an engine with the image `busybox:test`.
    pub fn start() -> Engine {
        Self::start_with("")
    }

    /// The same with a daemon.json.
    pub fn start_with(settings: &str) -> Engine {
        Self::start_with_etc(settings, &[])
    }

    /// The same with files of its own in /etc.
    pub fn start_with_etc(settings: &str, etc: &[(&str, &str)]) -> Engine {
        let dir = tempfile::tempdir().expect("a temporary folder");
        if !etc.is_empty() {
            std::fs::create_dir(dir.path().join("etc-work")).expect("a folder");
            std::fs::create_dir(dir.path().join("etc")).expect("a folder");
        }
        for (name, content) in etc {
            std::fs::write(dir.path().join("etc").join(name), content).expect("a file");
        }
        std::fs::create_dir(dir.path().join("data")).expect("a data folder");
        std::fs::write(dir.path().join("data/daemon.json"), settings).expect("settings");
        let namespace = namespace();
        let process = start(dir.path(), &namespace);
        let engine = Engine { dir, process, namespace };
        engine.import();
        engine
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// What daemon and shims are executed from.
    pub fn binary(&self) -> PathBuf {
        engined()
    }

    /// The daemon's process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("run/docker.sock")
    }

    /// A program in the engine's network namespace.
    pub fn inside(&self, program: &str) -> Command {
        let mut command = inside(&self.namespace);
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// The daemon is killed; what it started goes on.
    pub fn kill(&mut self) {
        self.process.kill().expect("it can be killed");
        self.process.wait().expect("it can be reaped");
    }

    /// A new daemon on the same folders, in the same network namespace.
    pub fn start_again(&mut self) {
        self.process = start(self.dir.path(), &self.namespace);
    }

    /// What a program in the engine's network namespace prints.
    pub fn beside(&self, program: &[&str]) -> String {
        let output =
            inside(&self.namespace).args(program).stdin(Stdio::null()).output().expect("nsenter runs");
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// A TCP connection from within the engine's network namespace; it does not block.
    pub fn connect(&self, address: &str) -> std::net::TcpStream {
        let namespace = std::fs::File::open(format!("/proc/{}/ns/net", self.namespace.0.id())).unwrap();
        std::thread::scope(|scope| {
            // The thread ends in the other namespace, the socket stays there.
            let connecting = scope.spawn(|| {
                nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                std::net::TcpStream::connect(address).unwrap()
            });
            let socket = connecting.join().unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        })
    }

    fn import(&self) {
        let root = self.dir.path().join("root");
        std::fs::create_dir_all(root.join("bin")).unwrap();
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(root.join("tmp")).unwrap();
        std::fs::write(
            root.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        )
        .unwrap();
        std::fs::copy(which("busybox").unwrap(), root.join("bin/busybox")).unwrap();
        for applet in [
            "sh", "cat", "echo", "sleep", "true", "false", "ls", "id", "ps", "ip", "httpd", "wget", "touch",
            "nslookup", "grep", "mount", "nc",
        ] {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        let tar = Command::new("tar").arg("-C").arg(&root).args(["-c", "."]).output().expect("tar runs");
        assert!(tar.status.success());
        let path = "/images/create?fromSrc=-&repo=busybox&tag=test&changes=ENV%20PATH=/bin&changes=CMD%20sh";
        let answer = self.call("POST", path, "application/x-tar", &tar.stdout);
        assert_eq!(answer.status, 200, "{answer:?}");
    }

    /// A connection with a request on it.
    pub fn open(&self, method: &str, path: &str, more: &str, body: &[u8]) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(self.socket()).expect("the engine listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Length: {}\r\n{more}\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        BufReader::new(stream)
    }

    /// A request and its whole answer.
    pub fn call(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> Answer {
        let more = format!("Content-Type: {kind}\r\nConnection: close\r\n");
        let mut stream = self.open(method, path, &more, body);
        if stream.fill_buf().is_ok_and(<[u8]>::is_empty) {
            // It gave up before the first byte, as it must when what it was to send goes away at once.
            return Answer { status: 0, headers: Vec::new(), body: Vec::new(), cut: true };
        }
        let (status, headers) = read_head(&mut stream);
        let mut answer = Answer { status, headers, body: Vec::new(), cut: false };
        if method == "HEAD" {
            return answer;
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let mut size = String::new();
                if stream.read_line(&mut size).unwrap() == 0 {
                    // The engine gave up half-way: what is there is looked at by those who can expect this.
                    answer.cut = true;
                    break;
                }
                let size = usize::from_str_radix(size.trim(), 16).expect("a chunk's size");
                let mut chunk = vec![0; size + 2];
                stream.read_exact(&mut chunk).unwrap();
                answer.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        } else {
            stream.read_to_end(&mut answer.body).unwrap();
        }
        answer
    }

    pub fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "application/json", b"")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        let bytes = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self.call("POST", path, "application/json", &bytes)
    }

    pub fn delete(&self, path: &str) -> Answer {
        self.call("DELETE", path, "application/json", b"")
    }

    /// Makes a container; its id.
    pub fn create(&self, name: &str, body: &Value) -> String {
        let answer = self.post(&format!("/containers/create?name={name}"), body);
        assert_eq!(answer.status, 201, "{}", answer.message());
        answer.json()["Id"].as_str().unwrap().to_owned()
    }

    /// The docker client on this engine.
    pub fn docker(&self, arguments: &[&str]) -> Output {
        Command::new("docker")
            .args(arguments)
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_BUILDKIT", "0")
            .stdin(Stdio::null())
            .output()
            .expect("docker runs")
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A daemon that did not come back has failed the test already.
        if UnixStream::connect(self.socket()).is_ok() {
            let all = self.get("/containers/json?all=1");
            if let Ok(Value::Array(list)) = serde_json::from_slice::<Value>(&all.body) {
                for container in list {
                    self.delete(&format!(
                        "/containers/{}?force=1&v=1",
                        container["Id"].as_str().unwrap_or("")
                    ));
                }
            }
        }
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap_or(0));
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
        let _ = self.process.wait();
        let run = self.dir.path().join("run");
        let made = base::Instance::new(&self.dir.path().join("data"), &run, "node", [127, 0, 0, 1].into());
        if let Err(e) = sys::cgroup::remove_tree(&made.cgroup_parent()) {
            eprintln!("{}: {e}", made.cgroup_parent());
        }
    }
}

/// Status and headers of an answer.
pub fn read_head(stream: &mut BufReader<UnixStream>) -> (u16, Vec<(String, String)>) {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    let status =
        line.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("status line {line:?}"));
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).unwrap();
        match line.trim_end().split_once(": ") {
            Some((k, v)) => headers.push((k.to_owned(), v.to_owned())),
            None => return (status, headers),
        }
    }
}

/// The frames of a stream until its end: (stream, bytes).
pub fn frames(stream: &mut impl Read) -> Vec<(u8, Vec<u8>)> {
    let mut out = Vec::new();
    let mut head = [0; 8];
    while stream.read_exact(&mut head).is_ok() {
        let mut data = vec![0; u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize];
        stream.read_exact(&mut data).expect("a whole frame");
        out.push((head[0], data));
    }
    out
}
