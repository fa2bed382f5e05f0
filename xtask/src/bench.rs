//! `cargo xtask bench`: a table of medians, of an instance of our own and, when named, of another engine and another
//! cluster beside it.
//!
//! Each row is measured in rounds that alternate between the candidates, because machines drift: a ratio within one
//! run means more than two figures from two runs.

mod builds;
mod cluster;
mod engine;
mod images;
mod instance;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use instance::Instance;

/// The flags of `cargo xtask bench`.
#[derive(Debug, Args)]
pub struct Options {
    /// Another engine to measure beside ours, as DOCKER_HOST has it (`unix:///var/run/docker.sock`).
    #[arg(long)]
    docker_host: Option<String>,
    /// Another cluster to measure beside ours; its nodes must have the image of --image.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// The image of the pods on the other cluster.
    #[arg(long, default_value = "tug-bench:1")]
    image: String,
    /// Rounds per row.
    #[arg(long, default_value_t = 15)]
    rounds: usize,
    /// How long the idle instance is left alone before its memory and processor time are read.
    #[arg(long, default_value_t = 60)]
    idle_seconds: u64,
    /// How many stopped containers the engine has that is measured for growth.
    #[arg(long, default_value_t = 2000)]
    stopped: usize,
    /// Only rows whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// The tug to measure [default: a release build of this tree].
    #[arg(long)]
    tug: Option<PathBuf>,
}

/// One row of the table.
struct Row {
    name: String,
    unit: &'static str,
    promised: f64,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

/// The address of the bridge of an engine alone; of a second one beside it.
const BRIDGES: [&str; 2] = ["172.17.0.1/16", "172.18.0.1/16"];
const ENGINE_START: &str = "engine-start: tug engine -> answers";
const ENGINE_MEMORY: [&str; 3] =
    ["engine-memory: daemon, PSS, idle", "engine-memory: with 50 containers", "engine-memory: of one shim"];
/// How long an engine has had nothing to do when its memory is read: longer than idle threads live.
const REST: Duration = Duration::from_secs(15);
const BURSTS: [(&str, f64, usize); 2] =
    [("burst: 100 x run -d, one by one", 4000.0, 1), ("burst-20: the same, 20 at once", 2000.0, 20)];
const START: &str = "start: up -> node Ready";
const MEMORY: &str = "memory: idle, PSS of all";
const CPU: &str = "cpu: idle, of a core";
type OfCluster = fn(&cluster::Cluster) -> Result<Duration>;
const CLUSTER: [(&str, f64, OfCluster, usize); 2] = [
    ("pod: create -> Running", 100.0, cluster::Cluster::pod, usize::MAX),
    ("deployment: 0 -> 30 Ready", 3000.0, cluster::Cluster::deployment, 3),
];

/// Runs the benchmarks.
pub fn run(options: &Options) -> Result<()> {
    let tug = match &options.tug {
        Some(path) => path.clone(),
        None => instance::build()?,
    };
    let mut bench = Bench { options, tug, rows: Vec::new() };
    bench.engine()?;
    bench.growth()?;
    bench.platform()?;
    print(&bench.rows);
    Ok(())
}

struct Bench<'a> {
    options: &'a Options,
    tug: PathBuf,
    rows: Vec<Row>,
}

impl Bench<'_> {
    fn wanted(&self, name: &str) -> bool {
        self.options.only.as_deref().is_none_or(|only| name.contains(only))
    }

    fn row(&mut self, name: &str, unit: &'static str, promised: f64, ours: Vec<f64>, theirs: Vec<f64>) {
        if self.wanted(name) {
            self.rows.push(Row { name: name.into(), unit, promised, ours, theirs });
        }
    }

    /// Measures in rounds that alternate between the candidates.
    fn alternate<T>(
        &self,
        rounds: usize,
        candidates: &[T],
        measure: impl Fn(&T) -> Result<Duration>,
    ) -> Result<(Vec<f64>, Vec<f64>)> {
        let mut samples = vec![Vec::new(); candidates.len().max(2)];
        for _ in 0..rounds {
            for (candidate, samples) in candidates.iter().zip(&mut samples) {
                samples.push(measure(candidate)?.as_secs_f64() * 1e3);
            }
        }
        let second = samples.remove(1);
        Ok((samples.remove(0), second))
    }

    /// The engine alone, through the docker command.
    fn engine(&mut self) -> Result<()> {
        let operations = engine::OPERATIONS.map(|o| o.0);
        let mut names = [ENGINE_START, engine::LIST.0]
            .into_iter()
            .chain(ENGINE_MEMORY)
            .chain(BURSTS.map(|b| b.0))
            .chain(operations);
        if !names.any(|n| self.wanted(n)) {
            return Ok(());
        }
        let mut starts = Vec::new();
        for _ in 0..3 {
            let (instance, took) = Instance::engine(&self.tug, BRIDGES[0])?;
            starts.push(took.as_secs_f64() * 1e3);
            instance.stop()?;
        }
        self.row(ENGINE_START, "ms", 100.0, starts, vec![]);
        let (instance, _) = Instance::engine(&self.tug, BRIDGES[0])?;
        let measured = self.engine_on(&instance);
        instance.stop()?;
        measured
    }

    fn engine_on(&mut self, instance: &Instance) -> Result<()> {
        let mut engines = vec![engine::Engine::new(&instance.docker_host())];
        engines.extend(self.options.docker_host.as_deref().map(engine::Engine::new));
        for engine in &engines {
            engine.import_image().context("importing the benchmark's image")?;
        }
        if ENGINE_MEMORY.into_iter().any(|n| self.wanted(n)) {
            pause(REST)?;
            let idle = instance.daemon_pss_mib()?;
            self.row(ENGINE_MEMORY[0], "MiB", 15.0, vec![idle], vec![]);
            let ids = engines[0].populate(50, 4, &["run", "-d", engine::IMAGE])?;
            pause(REST)?;
            let busy = instance.daemon_pss_mib()?;
            self.row(ENGINE_MEMORY[1], "MiB", 20.0, vec![busy], vec![]);
            let shims = instance.shims_pss_mib()?;
            self.row(ENGINE_MEMORY[2], "MiB", 0.5, shims, vec![]);
            engines[0].remove(&ids)?;
        }
        for (name, promised, operation) in engine::OPERATIONS {
            if self.wanted(name) {
                self.alternate(1, &engines, operation)?; // warms caches on both sides
                let (ours, theirs) = self.alternate(self.options.rounds, &engines, operation)?;
                self.row(name, "ms", promised, ours, theirs);
            }
        }
        let (name, promised, list) = engine::LIST;
        if self.wanted(name) {
            let mut made = Vec::new();
            for engine in &engines {
                let mut ids = engine.populate(20, 4, &["run", "-d", engine::IMAGE])?;
                ids.extend(engine.populate(100, 4, &["run", "-d", engine::IMAGE, "true"])?);
                made.push(ids);
            }
            let (ours, theirs) = self.alternate(self.options.rounds, &engines, list)?;
            self.row(name, "ms", promised, ours, theirs);
            for (engine, ids) in engines.iter().zip(&made) {
                engine.remove(ids)?;
            }
        }
        for (name, promised, at_once) in BURSTS {
            if self.wanted(name) {
                let (ours, theirs) = self.alternate(3, &engines, |e| e.many(100, at_once))?;
                self.row(name, "ms", promised, ours, theirs);
            }
        }
        Ok(())
    }

    /// What is slower on an engine with many stopped containers than on one without.
    fn growth(&mut self) -> Result<()> {
        let name = |operation: &str| format!("growth of {}", operation.split(':').next().unwrap_or_default());
        let operations = || engine::OPERATIONS.into_iter().chain([engine::LIST]);
        if !operations().any(|(n, ..)| self.wanted(&name(n))) {
            return Ok(());
        }
        let instances =
            [Instance::engine(&self.tug, BRIDGES[0])?.0, Instance::engine(&self.tug, BRIDGES[1])?.0];
        let mut measure = || -> Result<()> {
            let engines = instances.each_ref().map(|i| engine::Engine::new(&i.docker_host()));
            for engine in &engines {
                engine.import_image().context("importing the benchmark's image")?;
            }
            let stopped = ["run", "-d", "--network", "none", engine::IMAGE, "true"];
            engines[1].populate(self.options.stopped, 4, &stopped)?;
            for (operation, _, measure) in operations() {
                if self.wanted(&name(operation)) {
                    let (few, many) = self.alternate(self.options.rounds, &engines, measure)?;
                    if let (Some(few), Some(many)) = (median(&few), median(&many)) {
                        self.row(&name(operation), "%", 10.0, vec![(many / few - 1.0) * 100.0], vec![]);
                    }
                }
            }
            Ok(())
        };
        let measured = measure();
        for instance in instances {
            instance.stop()?;
        }
        measured
    }

    /// Engine, control plane and node together.
    fn platform(&mut self) -> Result<()> {
        if self.wanted(START) {
            let mut ours = Vec::new();
            for _ in 0..3 {
                let (instance, took) = Instance::start(&self.tug)?;
                ours.push(took.as_secs_f64() * 1e3);
                instance.stop()?;
            }
            self.row(START, "ms", 1500.0, ours, vec![]);
        }
        let mut names = [MEMORY, CPU]
            .into_iter()
            .chain(CLUSTER.map(|c| c.0))
            .chain(images::names())
            .chain(builds::names());
        if !names.any(|n| self.wanted(n)) {
            return Ok(());
        }
        let (instance, _) = Instance::start(&self.tug)?;
        let measured = self.platform_on(&instance);
        instance.stop()?;
        measured
    }

    fn platform_on(&mut self, instance: &Instance) -> Result<()> {
        if self.wanted(MEMORY) || self.wanted(CPU) {
            let before = instance.cpu_seconds()?;
            pause(Duration::from_secs(self.options.idle_seconds))?;
            let busy = (instance.cpu_seconds()? - before) / self.options.idle_seconds as f64 * 100.0;
            let pss = instance.pss_mib()?;
            self.row(MEMORY, "MiB", 70.0, vec![pss], vec![]);
            self.row(CPU, "%", 0.5, vec![busy], vec![]);
        }
        let mut engines = vec![engine::Engine::new(&instance.docker_host())];
        engines.extend(self.options.docker_host.as_deref().map(engine::Engine::new));
        for engine in &engines {
            engine.import_image().context("importing the benchmark's image")?;
        }
        let only = self.options.only.clone();
        let wanted = |name: &str| only.as_deref().is_none_or(|only| name.contains(only));
        images::measure(self.options.rounds.min(5), &engines, instance, &wanted, &mut self.rows)?;
        builds::measure(self.options.rounds, &engines, &wanted, &mut self.rows)?;
        let mut clusters = vec![cluster::Cluster::new(&instance.kubeconfig(), engine::IMAGE)?];
        if let Some(path) = &self.options.kubeconfig {
            clusters.push(cluster::Cluster::new(path, &self.options.image)?);
        }
        for (name, promised, measure, most) in CLUSTER {
            if self.wanted(name) {
                let (ours, theirs) = self.alternate(self.options.rounds.min(most), &clusters, measure)?;
                self.row(name, "ms", promised, ours, theirs);
            }
        }
        Ok(())
    }
}

/// Waits: idleness has no event to wait for.
fn pause(duration: Duration) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async { tokio::time::sleep(duration).await });
    Ok(())
}

fn print(rows: &[Row]) {
    println!(
        "| {:<36} | {:>9} | {:>12} | {:>7} | {:>12} | {:>6} |",
        "medians", "promised", "ours", "spread", "other", "ratio"
    );
    println!("|{:-<38}|{:->10}:|{:->13}:|{:->8}:|{:->13}:|{:->7}:|", "", "", "", "", "", "");
    for row in rows {
        let (ours, theirs) = (median(&row.ours), median(&row.theirs));
        let spread = match (
            ours,
            row.ours.iter().copied().reduce(f64::max),
            row.ours.iter().copied().reduce(f64::min),
        ) {
            (Some(m), Some(max), Some(min)) if m > 0.0 => format!("{:.0} %", (max - min) / m * 100.0),
            _ => "-".into(),
        };
        let figure = |v: Option<f64>| v.map_or("-".into(), |v| format!("{v:.1} {}", row.unit));
        let ratio = match (ours, theirs) {
            (Some(o), Some(t)) if t > 0.0 => format!("{:.2}", o / t),
            _ => "-".into(),
        };
        let promised = format!("{} {}", row.promised, row.unit);
        println!(
            "| {:<36} | {promised:>9} | {:>12} | {spread:>7} | {:>12} | {ratio:>6} |",
            row.name,
            figure(ours),
            figure(theirs)
        );
    }
}

/// The middle of the samples; the mean of the two middle ones if their number is even.
fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
