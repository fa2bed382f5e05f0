//! An engine, measured through the real docker command.

use std::io::Write;
use std::process::{Command, Stdio};
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

    /// `docker run --rm IMAGE true`, from the client's start to its end.
    pub fn run(&self, network: &str) -> Result<Duration> {
        let begun = Instant::now();
        let output = self
            .docker()
            .args(["run", "--rm", "--network", network, IMAGE, "true"])
            .output()
            .context("docker")?;
        let took = begun.elapsed();
        if !output.status.success() {
            bail!("docker run at {}: {}", self.host, String::from_utf8_lossy(&output.stderr));
        }
        Ok(took)
    }
}
