//! An instance of Tug in a temporary folder, and what its processes use.

use std::ffi::OsString;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::time::Instant;

/// How long a start may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running instance; stopped by `stop`.
pub struct Instance {
    tug: PathBuf,
    folder: TempDir,
    /// `tug engine`, if it is one.
    engine: Option<Child>,
}

/// Builds the release binary of this tree.
pub fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--release", "--package", "tug"])
        .status()
        .context("cargo build")?;
    if !status.success() {
        bail!("cargo build --release --package tug: {status}");
    }
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| here.join("target"), PathBuf::from);
    Ok(target.join("x86_64-unknown-linux-gnu/release/tug"))
}

impl Instance {
    /// Starts one on an empty data folder; says how long `tug up` took to return.
    pub fn start(tug: &Path) -> Result<(Self, Duration)> {
        let folder = TempDir::with_prefix("tug-bench-")?;
        let instance = Self { tug: tug.into(), folder, engine: None };
        let begun = Instant::now();
        instance.tug("up")?;
        Ok((instance, begun.elapsed()))
    }

    /// Starts an engine alone on an empty data folder, with its bridge at `bip`; says how long it took to listen.
    pub fn engine(tug: &Path, bip: &str) -> Result<(Self, Duration)> {
        let folder = TempDir::with_prefix("tug-bench-")?;
        let mut instance = Self { tug: tug.into(), folder, engine: None };
        let notices = UnixDatagram::bind(instance.folder.path().join("notify"))?;
        let log = fs::File::create(instance.folder.path().join("log"))?;
        let begun = Instant::now();
        let child = Command::new(&instance.tug)
            .arg("engine")
            .args(instance.flags())
            .args(["--bip", bip])
            .env("NOTIFY_SOCKET", instance.folder.path().join("notify"))
            .stderr(log)
            .spawn()
            .with_context(|| instance.tug.display().to_string())?;
        instance.engine = Some(child);
        notices.set_read_timeout(Some(PATIENCE))?;
        let mut word = [0; 256];
        loop {
            let n = notices.recv(&mut word).context("tug engine did not become ready")?;
            if &word[..n] == b"READY=1" {
                return Ok((instance, begun.elapsed()));
            }
        }
    }

    /// Stops it and removes its folders.
    pub fn stop(mut self) -> Result<()> {
        self.tug("down")?;
        if let Some(engine) = &mut self.engine {
            engine.wait()?;
        }
        self.folder.close().context("removing the benchmark's folder")
    }

    fn tug(&self, command: &str) -> Result<()> {
        let output = Command::new(&self.tug)
            .arg(command)
            .args(self.flags())
            .output()
            .with_context(|| self.tug.display().to_string())?;
        if !output.status.success() {
            bail!("tug {command}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    fn flags(&self) -> [OsString; 4] {
        ["--data-dir".into(), self.data_dir().into(), "--run-dir".into(), self.run_dir().into()]
    }

    fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn run_dir(&self) -> PathBuf {
        self.folder.path().join("run")
    }

    /// What DOCKER_HOST must be.
    pub fn docker_host(&self) -> String {
        format!("unix://{}", self.run_dir().join("docker.sock").display())
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("kubeconfig")
    }

    /// The instance's own processes: those of the binary that name its folder on their command line.
    fn processes(&self) -> Result<Vec<PathBuf>> {
        let folder = self.folder.path().as_os_str().as_encoded_bytes().to_vec();
        let executable = fs::canonicalize(&self.tug)?;
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            // Processes come and go while the folder is read; one that is gone is none of ours.
            let Ok(command) = fs::read(path.join("cmdline")) else { continue };
            let ours = fs::read_link(path.join("exe")).is_ok_and(|exe| exe == executable)
                && command.windows(folder.len()).any(|w| w == folder);
            if ours {
                found.push(path);
            }
        }
        if found.is_empty() {
            bail!("no process of {} runs", executable.display());
        }
        Ok(found)
    }

    /// Proportional set size of all its processes, MiB.
    pub fn pss_mib(&self) -> Result<f64> {
        let mut sum = 0.0;
        for process in self.processes()? {
            sum += pss_mib(&process)?;
        }
        Ok(sum)
    }

    /// That of the engine's daemon.
    pub fn daemon_pss_mib(&self) -> Result<f64> {
        let engine = self.engine.as_ref().context("not an engine alone")?;
        pss_mib(&PathBuf::from(format!("/proc/{}", engine.id())))
    }

    /// That of each of its shims.
    pub fn shims_pss_mib(&self) -> Result<Vec<f64>> {
        let bundles = self.run_dir().into_os_string().into_encoded_bytes();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let path = entry?.path();
            // Processes come and go while the folder is read; one that is gone is none of ours.
            let Ok(command) = fs::read(path.join("cmdline")) else { continue };
            let mut words = command.split(|b| *b == 0).skip(1);
            if words.next() == Some(b"shim") && words.next().is_some_and(|b| b.starts_with(&bundles)) {
                found.push(pss_mib(&path)?);
            }
        }
        Ok(found)
    }

    /// The server's memory now and at its peak since `forget_peak`, MiB.
    pub fn server_mib(&self) -> Result<(f64, f64)> {
        let text = fs::read_to_string(self.server()?.join("status"))?;
        let field = |name: &str| -> Result<f64> {
            let line = text.lines().find_map(|l| l.strip_prefix(name)).context("no such line in status")?;
            Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
        };
        Ok((field("VmRSS:")?, field("VmHWM:")?))
    }

    /// Begins a new measurement of the server's peak (proc_pid_clear_refs(5)).
    pub fn forget_peak(&self) -> Result<()> {
        Ok(fs::write(self.server()?.join("clear_refs"), "5")?)
    }

    fn server(&self) -> Result<PathBuf> {
        let pid = fs::read_to_string(self.run_dir().join("server.lock"))?;
        Ok(Path::new("/proc").join(pid.trim()))
    }

    /// The binary that is measured.
    pub fn binary(&self) -> &Path {
        &self.tug
    }

    /// Processor time that its processes have used, seconds.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let mut ticks = 0u64;
        for process in self.processes()? {
            let text = fs::read_to_string(process.join("stat"))?;
            // After the command's name in parentheses: fields 3 and on of proc_pid_stat(5); 14 and 15 are the times.
            let rest = text.rsplit_once(')').context("stat")?.1;
            for field in rest.split_whitespace().skip(11).take(2) {
                ticks += field.parse::<u64>()?;
            }
        }
        let per_second = rustix::param::clock_ticks_per_second();
        Ok(ticks as f64 / per_second as f64)
    }
}

/// Proportional set size of a process, MiB.
fn pss_mib(process: &Path) -> Result<f64> {
    let text = fs::read_to_string(process.join("smaps_rollup"))?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pss:")).context("smaps_rollup has no Pss")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? as f64 / 1024.0)
}
