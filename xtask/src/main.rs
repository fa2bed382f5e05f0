//! Tasks of the project: `cargo xtask bench`, `cargo xtask bench-api`, `cargo xtask vm-test`, `cargo xtask tables`.

mod api;
mod bench;
mod tables;
mod vm;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the project.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Measure speed and memory; print a table of medians.
    Bench(bench::Options),
    /// Measure an API server: rates, lists, watch latency, memory.
    BenchApi(api::Options),
    /// Run container tests in a virtual machine with cgroup v2.
    VmTest(vm::Options),
    /// Derive the committed tables of the Kubernetes API from these files of facts.
    Tables {
        /// Files of facts (JSON), newest first.
        facts: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let result = match Cli::parse().task {
        Task::Bench(options) => bench::run(&options),
        Task::BenchApi(options) => api::run(options),
        Task::VmTest(options) => vm::run(&options, root),
        Task::Tables { facts } => tables::run(&facts, root),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}
