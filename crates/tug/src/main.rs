//! Docker and Kubernetes in one binary: the command line, the roles, and how they are wired. No logic lives here.

mod cluster;
mod daemon;
mod datastore;
mod demo;
mod df;
mod dockerd;
mod doctor;
mod down;
mod memory;
mod options;
mod registry;
mod server;
mod status;
mod up;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use options::Place;

#[global_allocator]
static ALLOCATOR: sys::memory::SmallAs<mimalloc::MiMalloc> =
    sys::memory::SmallAs::new("shim", mimalloc::MiMalloc);

/// Docker and Kubernetes in one small binary.
#[derive(Debug, Parser)]
#[command(name = "tug", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the platform in the background and return when its node is Ready.
    Up(Place),
    /// Stop everything that was started: containers, mounts, links, tables, cgroups. Data stays.
    Down(down::Options),
    /// Run engine, control plane and this machine's node in the foreground. SIGTERM leaves containers running.
    Server(Place),
    /// Run the engine alone in the foreground: Docker without a cluster. SIGTERM leaves containers running.
    Engine(Place),
    /// Say what runs and where.
    Status(Place),
    /// Print the environment for docker and kubectl: eval "$(tug env)".
    Env(Place),
    /// Build, deploy and call an example application, to see it all work.
    Demo(demo::Options),
    /// Say what this machine has and lacks, and the remedy.
    Doctor(Place),
    /// Say what the data folder takes of the disk, part by part.
    Df(Place),
    /// The etcd that keeps the cluster's objects.
    #[command(subcommand)]
    Datastore(datastore::Command),
    /// Serve images to docker, podman, skopeo and containerd (OCI distribution).
    Registry(registry::Options),
}

fn main() -> ExitCode {
    // The shim must be a single thread when it forks, so it is told apart before anything else is set up.
    let mut arguments = std::env::args_os();
    if arguments.nth(1).as_deref() == Some(OsStr::new("shim")) {
        runtime::shim::main(arguments.collect());
    }
    let result = match Cli::parse().command {
        Command::Up(place) => up::run(&place),
        Command::Down(options) => down::run(&options),
        Command::Server(place) => server::run(&place, server::Roles::All),
        Command::Engine(place) => server::run(&place, server::Roles::Engine),
        Command::Status(place) => status::run(&place),
        Command::Env(place) => status::env(&place),
        Command::Demo(options) => demo::run(&options),
        Command::Doctor(place) => doctor::run(&place),
        Command::Df(place) => df::run(&place),
        Command::Datastore(command) => datastore::run(&command),
        Command::Registry(options) => registry::run(&options),
    };
    match result {
        Ok(code) => code,
        Err(e) => {
            eprintln!("tug: {e:#}");
            ExitCode::FAILURE
        }
    }
}
