//! A build of ten steps by the classic builder: each of them run, and each found in the cache.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::Row;
use super::engine::{Engine, IMAGE};
use super::images::timed;

const ROWS: [(&str, f64); 2] =
    [("build: 10 steps, all run", 700.0), ("build-cached: the same, all cached", 30.0)];

/// The rows' names.
pub fn names() -> impl Iterator<Item = &'static str> {
    ROWS.into_iter().map(|r| r.0)
}

/// Measures what `wanted` names and adds the rows.
pub fn measure(
    rounds: usize,
    engines: &[Engine],
    wanted: &dyn Fn(&str) -> bool,
    rows: &mut Vec<Row>,
) -> Result<()> {
    if !names().any(wanted) {
        return Ok(());
    }
    let folder = TempDir::with_prefix("tug-bench-build-").context("a folder for the context")?;
    fs::write(folder.path().join("a"), vec![b'a'; 100_000])?;
    fs::write(folder.path().join("b"), vec![b'b'; 100_000])?;
    let mut samples = vec![[Vec::new(), Vec::new()]; engines.len()];
    for round in 0..rounds {
        // What differs is at the beginning, so that nothing of an earlier round serves.
        let file = format!(
            "FROM {IMAGE}\nENV ROUND={round}-{}\nRUN echo 1 > /1\nRUN echo 2 > /2\nCOPY a /a\nRUN echo 3 > /3\n\
             WORKDIR /work\nCOPY b b\nRUN echo 4 > 4\nCMD [\"sh\"]\n",
            std::process::id()
        );
        fs::write(folder.path().join("Dockerfile"), file)?;
        for (engine, samples) in engines.iter().zip(&mut samples) {
            let build = || -> Result<Duration> {
                let mut docker = engine.docker();
                docker.env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", "tug-bench-built"]);
                timed(docker.arg(folder.path()))
            };
            for samples in samples {
                samples.push(build()?.as_secs_f64() * 1e3);
            }
        }
    }
    for engine in engines {
        timed(engine.docker().args(["rmi", "tug-bench-built"]))?;
    }
    let [ours, theirs @ ..] = samples.as_slice() else { anyhow::bail!("there is no engine") };
    for (i, (name, promised)) in ROWS.into_iter().enumerate().filter(|(_, (name, _))| wanted(name)) {
        let theirs = theirs.first().map_or_else(Vec::new, |t| t[i].clone());
        rows.push(Row { name: name.into(), unit: "ms", promised, ours: ours[i].clone(), theirs });
    }
    Ok(())
}
