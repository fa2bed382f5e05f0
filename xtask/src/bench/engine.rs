//! An engine, measured through the real docker command.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

/// The image of the benchmarks: busybox and nothing else.
pub const IMAGE: &str = "tug-bench:1";

/// An engine.
pub struct Engine {
    host: String,
}

impl Engine {
    /// The engine that DOCKER_HOST would name.
    pub fn new(host: &str) -> Self {
        Self { host: host.into() }
    }

    /// The real client, speaking to this engine.
    pub fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", &self.host).env("DOCKER_CLI_HINTS", "false");
        command
    }

    /// Imports the image from the machine's static busybox.
    pub fn import_image(&self) -> Result<()> {
        let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|p| std::fs::read(p).ok());
        let busybox = busybox.context("/bin/busybox is needed: apt-get install busybox-static")?;
        let mut child = self
            .docker()
            .args(["import", "-c", r#"CMD ["/bin/sleep", "1000000"]"#, "-c", "ENV PATH=/bin", "-", IMAGE])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("docker")?;
        let mut archive = tar::Builder::new(child.stdin.take().context("standard input")?);
        let mut header = tar::Header::new_gnu();
        header.set_size(busybox.len() as u64);
        header.set_mode(0o755);
        archive.append_data(&mut header, "bin/busybox", busybox.as_slice())?;
        for applet in ["sh", "true", "sleep", "cat", "echo"] {
            let mut link = tar::Header::new_gnu();
            link.set_entry_type(tar::EntryType::Symlink);
            link.set_size(0);
            link.set_mode(0o777);
            archive.append_link(&mut link, format!("bin/{applet}"), "busybox")?;
        }
        archive.into_inner()?.flush()?;
        let status = child.wait()?;
        if !status.success() {
            bail!("docker import at {}: {status}", self.host);
        }
        Ok(())
    }

    /// Runs docker; its time from start to end, and what it printed.
    fn timed(&self, arguments: &[&str]) -> Result<(Duration, String)> {
        let begun = Instant::now();
        let output = self.docker().args(arguments).output().context("docker")?;
        let took = begun.elapsed();
        if !output.status.success() {
            bail!(
                "docker {} at {}: {}",
                arguments.join(" "),
                self.host,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok((took, String::from_utf8_lossy(&output.stdout).trim().to_owned()))
    }

    /// `docker run --rm IMAGE true`.
    pub fn run(&self) -> Result<Duration> {
        Ok(self.timed(&["run", "--rm", IMAGE, "true"])?.0)
    }

    /// The same without a network.
    pub fn run_without_network(&self) -> Result<Duration> {
        Ok(self.timed(&["run", "--rm", "--network", "none", IMAGE, "true"])?.0)
    }

    /// `docker run -d`.
    pub fn run_detached(&self) -> Result<Duration> {
        let (took, id) = self.timed(&["run", "-d", IMAGE])?;
        self.remove(&[id])?;
        Ok(took)
    }

    /// `docker exec CONTAINER true`, in a container that stays for the next round.
    pub fn exec(&self) -> Result<Duration> {
        const NAME: &str = "bench-exec";
        if self.timed(&["ps", "-q", "--filter", "name=^bench-exec$"])?.1.is_empty() {
            self.timed(&["run", "-d", "--name", NAME, IMAGE])?;
        }
        Ok(self.timed(&["exec", NAME, "true"])?.0)
    }

    /// `docker create`.
    pub fn create(&self) -> Result<Duration> {
        let (took, id) = self.timed(&["create", IMAGE])?;
        self.remove(&[id])?;
        Ok(took)
    }

    /// `docker start`.
    pub fn start(&self) -> Result<Duration> {
        let (_, id) = self.timed(&["create", IMAGE])?;
        let (took, _) = self.timed(&["start", &id])?;
        self.remove(&[id])?;
        Ok(took)
    }

    /// `docker stop -t 0`.
    pub fn stop(&self) -> Result<Duration> {
        let (_, id) = self.timed(&["run", "-d", IMAGE])?;
        let (took, _) = self.timed(&["stop", "-t", "0", &id])?;
        self.remove(&[id])?;
        Ok(took)
    }

    /// `docker rm -f` of a container that runs.
    pub fn remove_running(&self) -> Result<Duration> {
        let (_, id) = self.timed(&["run", "-d", IMAGE])?;
        Ok(self.timed(&["rm", "-f", &id])?.0)
    }

    /// `docker ps`.
    pub fn list(&self) -> Result<Duration> {
        Ok(self.timed(&["ps"])?.0)
    }

    /// `docker run -d` so many times, `at_once` of them at a time; the whole of it.
    pub fn many(&self, count: usize, at_once: usize) -> Result<Duration> {
        let begun = Instant::now();
        let ids = self.populate(count, at_once, &["run", "-d", IMAGE])?;
        let took = begun.elapsed();
        self.remove(&ids)?;
        Ok(took)
    }

    /// Runs docker so many times; what it printed.
    pub fn populate(&self, count: usize, at_once: usize, arguments: &[&str]) -> Result<Vec<String>> {
        let next = AtomicUsize::new(0);
        let worker = || -> Result<Vec<String>> {
            let mut ids = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < count {
                ids.push(self.timed(arguments)?.1);
            }
            Ok(ids)
        };
        std::thread::scope(|scope| {
            let workers: Vec<_> = (0..at_once).map(|_| scope.spawn(worker)).collect();
            let mut ids = Vec::new();
            for worker in workers {
                ids.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
            }
            Ok(ids)
        })
    }

    /// `docker rm -f`.
    pub fn remove(&self, ids: &[String]) -> Result<()> {
        // One after another: a command line may not be arbitrarily long.
        for some in ids.chunks(100) {
            let arguments: Vec<&str> =
                ["rm", "-f"].into_iter().chain(some.iter().map(String::as_str)).collect();
            self.timed(&arguments)?;
        }
        Ok(())
    }
}

/// What is measured of an engine: the row's name, milliseconds promised, and how.
pub type Operation = (&'static str, f64, fn(&Engine) -> Result<Duration>);

/// The list of containers.
pub const LIST: Operation = ("ps: 20 running, 100 exited", 16.0, Engine::list);

/// One container at a time.
pub const OPERATIONS: [Operation; 8] = [
    ("run: docker run --rm, bridge", 45.0, Engine::run),
    ("run-none: the same, no network", 35.0, Engine::run_without_network),
    ("run-d: docker run -d", 40.0, Engine::run_detached),
    ("exec: docker exec true", 22.0, Engine::exec),
    ("create: docker create", 18.0, Engine::create),
    ("start: docker start", 30.0, Engine::start),
    ("stop: docker stop -t 0", 30.0, Engine::stop),
    ("rm: docker rm -f, running", 30.0, Engine::remove_running),
];
