//! `cargo xtask bench`: a table of medians, of an instance of our own and, when named, of another engine and another
//! cluster beside it.
//!
//! Each row is measured in rounds that alternate between the candidates, because machines drift: a ratio within one
//! run means more than two figures from two runs.

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
    /// Only rows whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// The tug to measure [default: a release build of this tree].
    #[arg(long)]
    tug: Option<PathBuf>,
}

/// One row of the table.
struct Row {
    name: &'static str,
    unit: &'static str,
    promised: f64,
    ours: Vec<f64>,
    theirs: Vec<f64>,
}

/// Runs the benchmarks.
pub fn run(options: &Options) -> Result<()> {
    let tug = match &options.tug {
        Some(path) => path.clone(),
        None => instance::build()?,
    };
    let wanted = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    let mut rows = Vec::new();

    if wanted("start") {
        let mut ours = Vec::new();
        for _ in 0..3 {
            let (instance, took) = Instance::start(&tug)?;
            ours.push(took.as_secs_f64() * 1e3);
            instance.stop()?;
        }
        rows.push(Row {
            name: "start: up -> node Ready",
            unit: "ms",
            promised: 1500.0,
            ours,
            theirs: vec![],
        });
    }

    let (instance, _) = Instance::start(&tug)?;
    let measured = measure(options, &instance, &wanted, &mut rows);
    instance.stop()?;
    measured?;
    print(&rows);
    Ok(())
}

fn measure(
    options: &Options,
    instance: &Instance,
    wanted: &dyn Fn(&str) -> bool,
    rows: &mut Vec<Row>,
) -> Result<()> {
    if wanted("memory") || wanted("cpu") {
        let before = instance.cpu_seconds()?;
        pause(Duration::from_secs(options.idle_seconds))?;
        let busy = (instance.cpu_seconds()? - before) / options.idle_seconds as f64 * 100.0;
        let pss = instance.pss_mib()?;
        rows.push(Row {
            name: "memory: idle, PSS of all",
            unit: "MiB",
            promised: 70.0,
            ours: vec![pss],
            theirs: vec![],
        });
        rows.push(Row {
            name: "cpu: idle, of a core",
            unit: "%",
            promised: 0.5,
            ours: vec![busy],
            theirs: vec![],
        });
    }

    let mut engines = vec![engine::Engine::new(&instance.docker_host())];
    engines.extend(options.docker_host.as_deref().map(engine::Engine::new));
    for engine in &engines {
        engine.import_image().context("importing the benchmark's image")?;
    }
    for (name, network, promised) in
        [("run: docker run --rm, bridge", "bridge", 50.0), ("run-none: the same, no network", "none", 40.0)]
    {
        if wanted(name) {
            let mut samples = vec![Vec::new(); engines.len()];
            for engine in &engines {
                engine.run(network)?; // warms caches on both sides
            }
            for _ in 0..options.rounds {
                for (engine, samples) in engines.iter().zip(&mut samples) {
                    samples.push(engine.run(network)?.as_secs_f64() * 1e3);
                }
            }
            let mut samples = samples.into_iter();
            let (ours, theirs) = (samples.next().unwrap_or_default(), samples.next().unwrap_or_default());
            rows.push(Row { name, unit: "ms", promised, ours, theirs });
        }
    }

    images::measure(options.rounds.min(5), &engines, instance, wanted, rows)?;

    let mut clusters = vec![cluster::Cluster::new(&instance.kubeconfig(), engine::IMAGE)?];
    if let Some(path) = &options.kubeconfig {
        clusters.push(cluster::Cluster::new(path, &options.image)?);
    }
    type Measure = fn(&cluster::Cluster) -> Result<Duration>;
    let benches: [(&'static str, Measure, f64, usize); 2] = [
        ("pod: create -> Running", cluster::Cluster::pod, 100.0, options.rounds),
        ("deployment: 0 -> 30 Ready", cluster::Cluster::deployment, 3000.0, 3),
    ];
    for (name, bench, promised, rounds) in benches {
        if wanted(name) {
            let mut samples = vec![Vec::new(); clusters.len()];
            for _ in 0..rounds {
                for (cluster, samples) in clusters.iter().zip(&mut samples) {
                    samples.push(bench(cluster)?.as_secs_f64() * 1e3);
                }
            }
            let mut samples = samples.into_iter();
            let (ours, theirs) = (samples.next().unwrap_or_default(), samples.next().unwrap_or_default());
            rows.push(Row { name, unit: "ms", promised, ours, theirs });
        }
    }
    Ok(())
}

/// Waits: idleness has no event to wait for.
fn pause(duration: Duration) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    runtime.block_on(async { tokio::time::sleep(duration).await });
    Ok(())
}

fn print(rows: &[Row]) {
    println!(
        "| {:<34} | {:>9} | {:>12} | {:>7} | {:>12} | {:>6} |",
        "medians", "promised", "ours", "spread", "other", "ratio"
    );
    println!("|{:-<36}|{:->10}:|{:->13}:|{:->8}:|{:->13}:|{:->7}:|", "", "", "", "", "", "");
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
            "| {:<34} | {promised:>9} | {:>12} | {spread:>7} | {:>12} | {ratio:>6} |",
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
