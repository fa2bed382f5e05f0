//! A real etcd on loopback, for tests of this crate and of who stores in it.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// An etcd process of one test; it ends with this value.
#[derive(Debug)]
pub struct Server {
    process: Option<Child>,
    dir: tempfile::TempDir,
    scheme: &'static str,
    port: u16,
    peer_port: u16,
    flags: Vec<String>,
}

/// Whether the machine has etcd; says so if not.
pub fn there() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join("etcd").is_file());
    if !found {
        eprintln!("skipped: etcd is not installed (Debian's package etcd-server has it)");
    }
    found
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// A running one. Nothing, and a word about it, where the machine has none.
    pub fn start() -> Option<Self> {
        Self::start_with("http", |_| Vec::new())
    }

    /// The same, with flags of its own; files for them may be put into the folder that it is given.
    pub fn start_with(scheme: &'static str, flags: impl FnOnce(&Path) -> Vec<String>) -> Option<Self> {
        if !there() {
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let flags = flags(dir.path());
        let mut server =
            Self { process: None, dir, scheme, port: free_port(), peer_port: free_port(), flags };
        server.run();
        Some(server)
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    /// Starts it again, on what it has stored.
    pub fn run(&mut self) {
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log"));
        let process = Command::new("etcd")
            .args(["--name", "t", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("t={peer}")])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    /// Ends it, without a chance to prepare for that.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Takes away what it has stored.
    pub fn forget(&self) {
        std::fs::remove_dir_all(self.dir.path().join("data")).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
