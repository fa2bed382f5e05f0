//! A machine for one test: an instance of Tug in folders and a network namespace of its own, and the real clients.
#![allow(clippy::unwrap_used)] // a test fails by panicking
#![allow(dead_code)] // each test file uses a part of it

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;

/// The instance. Everything of it is stopped and removed when this is dropped.
pub struct Machine {
    netns: String,
    folder: TempDir,
}

/// Why the tests with real containers cannot run here; reports it as skipped.
pub fn lacking(programs: &[&str]) -> bool {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("root".to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for program in ["ip"].iter().chain(programs) {
        if !std::env::split_paths(&path).any(|dir| dir.join(program).is_file()) {
            missing.push((*program).to_owned());
        }
    }
    if missing.is_empty() {
        return false;
    }
    println!("skipped: this machine lacks {}", missing.join(", "));
    true
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

fn must(command: &mut Command) -> String {
    let output = run(command);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{out}\n{err}", output.status);
    out.into_owned()
}

impl Machine {
    /// A machine on which nothing runs yet. `link`: whether it has an address besides the loopback's.
    pub fn new(name: &str, link: bool) -> Self {
        let netns = format!("tugt-{}-{name}", std::process::id());
        must(Command::new("ip").args(["netns", "add", &netns]));
        let machine = Self { netns, folder: TempDir::with_prefix("tug-test-").unwrap() };
        must(machine.command("ip").args(["link", "set", "lo", "up"]));
        if link {
            must(machine.command("ip").args(["link", "add", "uplink0", "type", "bridge"]));
            must(machine.command("ip").args(["addr", "add", "198.18.0.1/24", "dev", "uplink0"]));
            must(machine.command("ip").args(["link", "set", "uplink0", "up"]));
            must(machine.command("ip").args(["route", "add", "default", "via", "198.18.0.254"]));
        }
        machine
    }

    /// A program in the machine's network namespace, with the clients' environment.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.netns, program])
            .env("DOCKER_HOST", format!("unix://{}", self.run_dir().join("docker.sock").display()))
            .env("KUBECONFIG", self.data_dir().join("kubeconfig"))
            .env("DOCKER_BUILDKIT", "0")
            .env("DOCKER_CLI_HINTS", "false")
            .env("HOME", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    /// The same, but with the mounts of whoever calls.
    pub fn beside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.netns)).arg(program);
        command.env("HOME", self.folder.path()).stdin(Stdio::null());
        command
    }

    /// Moves the calling thread into the machine's network namespace.
    pub fn enter(&self) {
        let namespace = std::fs::File::open(Path::new("/run/netns").join(&self.netns)).unwrap();
        let kind = Some(rustix::thread::LinkNameSpaceType::Network);
        rustix::thread::move_into_link_name_space(namespace.as_fd(), kind).unwrap();
    }

    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A tug command for this instance.
    pub fn tug_command(&self, command: &str) -> Command {
        let mut tug = self.command(env!("CARGO_BIN_EXE_tug"));
        tug.arg(command).arg("--data-dir").arg(self.data_dir()).arg("--run-dir").arg(self.run_dir());
        tug
    }

    /// Runs it; it must succeed.
    pub fn tug(&self, command: &str) -> String {
        must(&mut self.tug_command(command))
    }

    /// Runs docker; it must succeed.
    pub fn docker(&self, arguments: &[&str]) -> String {
        must(self.command("docker").args(arguments))
    }

    /// Runs docker, which must fail; its error text.
    pub fn docker_refuses(&self, arguments: &[&str]) -> String {
        let output = run(self.command("docker").args(arguments));
        assert!(!output.status.success(), "docker {arguments:?} was not refused");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs kubectl; it must succeed.
    pub fn kubectl(&self, arguments: &[&str]) -> String {
        must(self.command("kubectl").args(arguments))
    }

    /// Feeds `input` to a client; it must succeed.
    pub fn feed(&self, program: &str, arguments: &[&str], input: &[u8]) -> String {
        let mut child = self
            .command(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {arguments:?}: {}\n{err}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Imports busybox as the image `busybox:1`.
    pub fn import_busybox(&self) {
        let busybox =
            ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|p| std::fs::read(p).ok()).expect("busybox");
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(busybox.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, "bin/busybox", busybox.as_slice()).unwrap();
        for applet in [
            "sh", "true", "echo", "sleep", "cat", "hostname", "ls", "wget", "httpd", "nslookup", "id", "ps",
            "test",
        ] {
            let mut link = tar::Header::new_gnu();
            link.set_entry_type(tar::EntryType::Symlink);
            link.set_size(0);
            link.set_mode(0o777);
            archive.append_link(&mut link, format!("bin/{applet}"), "busybox").unwrap();
        }
        self.feed(
            "docker",
            &["import", "-c", "ENV PATH=/bin", "-", "busybox:1"],
            &archive.into_inner().unwrap(),
        );
    }

    /// The process id of the instance's server.
    pub fn server_pid(&self) -> i32 {
        std::fs::read_to_string(self.run_dir().join("server.lock")).unwrap().trim().parse().unwrap()
    }

    /// Calls `probe` until it answers, for things that clients can only ask for again and again.
    pub fn eventually<T>(&self, what: &str, within: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let begun = tokio::time::Instant::now();
        loop {
            if let Some(value) = probe() {
                return value;
            }
            assert!(begun.elapsed() < within, "{what}: not within {within:?}\n{}", self.log_tail());
            runtime.block_on(async { tokio::time::sleep(Duration::from_millis(50)).await });
        }
    }

    fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.run_dir().join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // A failing test should say first why it failed; what is left afterwards is cleaned up all the same.
        let down = run(self.tug_command("down").args(["--timeout", "0"]));
        if !down.status.success() {
            eprintln!("tug down: {}", String::from_utf8_lossy(&down.stderr));
        }
        run(Command::new("ip").args(["netns", "del", &self.netns]));
    }
}
