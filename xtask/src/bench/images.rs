//! A large image on its ways in and out: load, save, push and pull; and a list of many.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::Instant;

use super::Row;
use super::engine::Engine;
use super::instance::Instance;

const NAME: &str = "tug-bench-large:1";
const LAYERS: u32 = 4;
const FILES: u32 = 5_000;
const FILE_SIZE: usize = 24_850;
const MANY: u32 = 1_000;

const LARGE: [(&str, f64); 4] = [
    ("image-load: 497 MB, 20,000 files", 1500.0),
    ("image-save: the same", 1000.0),
    ("image-push: the same", 2000.0),
    ("image-pull: the same", 2500.0),
];
const PEAKS: [&str; 2] = ["image-load: growth at its peak", "image-pull: growth at its peak"];
const LIST: &str = "images: a list of 1,000";

/// The rows' names.
pub fn names() -> impl Iterator<Item = &'static str> {
    LARGE.into_iter().map(|l| l.0).chain(PEAKS).chain([LIST])
}

/// Measures what `wanted` names and adds the rows.
pub fn measure(
    rounds: usize,
    engines: &[Engine],
    instance: &Instance,
    wanted: &dyn Fn(&str) -> bool,
    rows: &mut Vec<Row>,
) -> Result<()> {
    if LARGE.iter().any(|(name, _)| wanted(name)) {
        let folder = TempDir::with_prefix("tug-bench-image-")?;
        let archive = folder.path().join("large.tar");
        large(&archive).context("making the large image")?;
        let mut samples = vec![vec![Vec::new(); LARGE.len()]; engines.len()];
        let mut peaks = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (i, (engine, samples)) in engines.iter().zip(&mut samples).enumerate() {
                let mut tell = |what: usize, took: Duration| samples[what].push(took.as_secs_f64() * 1e3);
                let registry = Registry::start(instance.binary())?;
                let name = format!("{}/large:1", registry.address);
                let before = peak_from(instance, i)?;
                tell(0, settled(engine.docker().arg("load").arg("-i").arg(&archive))?);
                peaks[0].extend(peak_since(instance, i, before)?);
                let saved = folder.path().join("saved.tar");
                tell(1, settled(engine.docker().arg("save").arg("-o").arg(&saved).arg(NAME))?);
                fs::remove_file(saved)?;
                timed(engine.docker().args(["tag", NAME, &name]))?;
                tell(2, settled(engine.docker().args(["push", &name]))?);
                timed(engine.docker().args(["rmi", &name, NAME]))?;
                let before = peak_from(instance, i)?;
                tell(3, settled(engine.docker().args(["pull", &name]))?);
                peaks[1].extend(peak_since(instance, i, before)?);
                timed(engine.docker().args(["rmi", &name]))?;
                registry.stop()?;
            }
        }
        let [ours, theirs @ ..] = samples.as_slice() else { bail!("there is no engine") };
        for (i, (name, promised)) in LARGE.into_iter().enumerate() {
            let theirs = theirs.first().map_or_else(Vec::new, |t| t[i].clone());
            rows.push(Row { name: name.into(), unit: "ms", promised, ours: ours[i].clone(), theirs });
        }
        let [load, pull] = peaks;
        for (name, ours) in PEAKS.into_iter().zip([load, pull]) {
            rows.push(Row { name: name.into(), unit: "MiB", promised: 60.0, ours, theirs: vec![] });
        }
    }
    if wanted(LIST) {
        let mut samples = vec![Vec::new(); engines.len()];
        for (engine, samples) in engines.iter().zip(&mut samples) {
            let folder = TempDir::with_prefix("tug-bench-images-")?;
            let archive = folder.path().join("many.tar");
            many(&archive)?;
            timed(engine.docker().arg("load").arg("-q").arg("-i").arg(&archive))?;
            rustix::fs::sync();
            for _ in 0..rounds * 3 {
                samples.push(timed(engine.docker().arg("images"))?.as_secs_f64() * 1e3);
            }
            let names: Vec<String> = (0..MANY).map(|i| format!("tug-bench-many:{i}")).collect();
            timed(engine.docker().arg("rmi").args(names))?;
        }
        let mut samples = samples.into_iter();
        let (ours, theirs) = (samples.next().unwrap_or_default(), samples.next().unwrap_or_default());
        rows.push(Row { name: LIST.into(), unit: "ms", promised: 30.0, ours, theirs });
    }
    Ok(())
}

/// Our own memory alone is looked at.
fn peak_from(instance: &Instance, engine: usize) -> Result<f64> {
    if engine > 0 {
        return Ok(0.0);
    }
    instance.forget_peak()?;
    Ok(instance.server_mib()?.0)
}

fn peak_since(instance: &Instance, engine: usize, before: f64) -> Result<Option<f64>> {
    if engine > 0 {
        return Ok(None);
    }
    Ok(Some(instance.server_mib()?.1 - before))
}

/// What the command before has left to be written is not this one's to wait for.
fn settled(command: &mut Command) -> Result<Duration> {
    rustix::fs::sync();
    timed(command)
}

pub(super) fn timed(command: &mut Command) -> Result<Duration> {
    let begun = Instant::now();
    let output = command.stdout(Stdio::null()).output().context("docker")?;
    let took = begun.elapsed();
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(took)
}

/// `tug registry` on a folder of its own.
struct Registry {
    process: Child,
    address: String,
    folder: TempDir,
}

impl Registry {
    fn start(tug: &Path) -> Result<Self> {
        let folder = TempDir::with_prefix("tug-bench-registry-")?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let process = Command::new(tug)
            .args(["registry", "--listen", &address, "--data-dir"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .spawn()
            .context("tug registry")?;
        let registry = Self { process, address, folder };
        let begun = Instant::now();
        // It says nowhere that it listens but by listening.
        while std::net::TcpStream::connect(&registry.address).is_err() {
            if begun.elapsed() > Duration::from_secs(10) {
                bail!("tug registry does not listen at {}", registry.address);
            }
            super::pause(Duration::from_millis(5))?;
        }
        Ok(registry)
    }

    fn stop(mut self) -> Result<()> {
        self.process.kill()?;
        self.process.wait()?;
        self.folder.close().context("removing the registry's folder")
    }
}

/// Text and noise in equal parts, the same each time: it compresses as programs and libraries do.
fn content(state: &mut u64, out: &mut Vec<u8>) {
    out.clear();
    while out.len() < FILE_SIZE {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        out.extend_from_slice(&state.to_le_bytes());
        let text: &[u8] = match (*state >> 60) & 3 {
            0 => b"/usr/lib/x86_64-linux-gnu/",
            1 => b"undefined",
            2 => b"\0\0\0\0\0\0\0\0",
            _ => b"function",
        };
        out.extend_from_slice(text);
    }
    out.truncate(FILE_SIZE);
}

fn large(path: &Path) -> Result<()> {
    let folder = path.parent().context("a folder")?;
    let mut out = tar::Builder::new(BufWriter::with_capacity(1 << 20, File::create(path)?));
    let (mut state, mut data) = (1u64, Vec::new());
    let (mut names, mut digests) = (Vec::new(), Vec::new());
    for layer in 0..LAYERS {
        let file = folder.join("layer.tar");
        let mut tar = tar::Builder::new(BufWriter::with_capacity(1 << 20, File::create(&file)?));
        for i in 0..FILES {
            content(&mut state, &mut data);
            let mut header = tar::Header::new_gnu();
            header.set_size(data.len() as u64);
            header.set_mode(0o644);
            tar.append_data(&mut header, format!("opt/layer{layer}/d{}/f{i}", i / 100), data.as_slice())?;
        }
        tar.into_inner()?.flush()?;
        digests.push(digest(&file)?);
        let name = format!("layer{layer}/layer.tar");
        out.append_path_with_name(&file, &name)?;
        fs::remove_file(&file)?;
        names.push(name);
    }
    describe(&mut out, "config.json", json!(digests), 0)?;
    let manifest = json!([{"Config": "config.json", "RepoTags": [NAME], "Layers": names}]);
    append(&mut out, "manifest.json", manifest.to_string().as_bytes())?;
    Ok(out.into_inner()?.flush()?)
}

/// A thousand images of one layer.
fn many(path: &Path) -> Result<()> {
    let folder = path.parent().context("a folder")?;
    let mut out = tar::Builder::new(BufWriter::new(File::create(path)?));
    let file = folder.join("layer.tar");
    let mut tar = tar::Builder::new(File::create(&file)?);
    append(&mut tar, "file", b"content")?;
    tar.into_inner()?.flush()?;
    let digests = json!([digest(&file)?]);
    out.append_path_with_name(&file, "layer.tar")?;
    let mut items = Vec::new();
    for i in 0..MANY {
        let name = format!("{i}.json");
        describe(&mut out, &name, digests.clone(), i)?;
        items.push(
            json!({"Config": name, "RepoTags": [format!("tug-bench-many:{i}")], "Layers": ["layer.tar"]}),
        );
    }
    append(&mut out, "manifest.json", json!(items).to_string().as_bytes())?;
    Ok(out.into_inner()?.flush()?)
}

fn describe(
    out: &mut tar::Builder<impl Write>,
    name: &str,
    digests: serde_json::Value,
    number: u32,
) -> Result<()> {
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "created": format!("2024-01-01T{:02}:{:02}:{:02}Z", number / 3600, number / 60 % 60, number % 60),
        "config": {"Cmd": ["sh"]}, "rootfs": {"type": "layers", "diff_ids": digests},
    });
    append(out, name, config.to_string().as_bytes())
}

fn append(out: &mut tar::Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    Ok(out.append_data(&mut header, name, bytes)?)
}

fn digest(path: &Path) -> Result<String> {
    use sha2::Digest as _;
    let mut hash = sha2::Sha256::new();
    io::copy(&mut File::open(path)?, &mut hash)?;
    let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok(format!("sha256:{hex}"))
}
