//! Runs one container at a time: its shim, its first process, exec, standard streams, logs, statistics.
//!
//! Promises: the process that uses this crate never forks a container (a shim, which is a re-execution of the binary
//! with one thread, does); a container outlives the process that started it, and its log, exit code and time are
//! found again by the next one; ends are pushed as [`Event`]s, nothing is polled.
//! Leaves to others: images and their layers (`image`), wiring the network namespace (`network`), names, restart
//! policies and everything else that Docker or Kubernetes users see (`engine`, `kubelet`).

mod client;
pub mod defaults;
mod error;
pub mod fake;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod logs;
mod protocol;
mod seccomp;
pub mod shim;
mod spec;
mod stream;
pub mod sysctl;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, oneshot};

pub use client::{ShimCommand, ShimRuntime};
pub use error::{Error, ExecErrorKind, Result};
pub use spec::{
    ContainerSpec, ExecSpec, IoSpec, LogFile, LogSpec, LoggedContainer, RemoteLog, Rootfs, SUBPATH,
    SandboxSpec, SeccompProfile, StdinMode,
};
pub use stream::{Chunk, IoStream, StdinWriter, Stream};
pub use sys::cgroup::{BlockStats, CpuStats, MemoryStats, Stats};

/// The answer to [`Runtime::create`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Created {
    /// The first process, in the machine's pid namespace; `/proc/PID/ns/*` are the container's namespaces.
    pub pid: u32,
}

/// How a container or an exec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit status, or 128 + the signal that ended it.
    pub code: i32,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// When the process was reaped.
    pub at: jiff::Timestamp,
    /// Whether the kernel killed a process of the container for lack of memory.
    pub oom_killed: bool,
}

/// What a container is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// Namespaces and root are made; the first process waits for [`Runtime::start`].
    Created,
    /// Its first process runs.
    Running,
    /// Frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

/// What is known of one container.
#[derive(Debug, Clone)]
pub struct State {
    /// The container's id.
    pub id: String,
    /// The first process; none once it has ended.
    pub pid: Option<u32>,
    /// What it is doing.
    pub status: Status,
    /// When it was created.
    pub created_at: jiff::Timestamp,
    /// When its first process was started.
    pub started_at: Option<jiff::Timestamp>,
    /// How it ended, once it has.
    pub exit: Option<Exit>,
    /// What it was created from.
    pub spec: Arc<ContainerSpec>,
}

/// Something happened to a container.
#[derive(Debug, Clone)]
pub struct Event {
    /// The container's id.
    pub id: String,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventKind {
    /// It was created.
    Created,
    /// Its first process was started.
    Started,
    /// Its first process (`exec_id` none) or an exec ended; all its output has been logged.
    Exited {
        /// Which exec, if it was one.
        exec_id: Option<String>,
        /// How it ended.
        exit: Exit,
    },
    /// The kernel ran into its memory limit and killed a process.
    Oom,
    /// It was frozen.
    Paused,
    /// It was thawed.
    Resumed,
    /// It was deleted.
    Deleted,
}

/// An exec was started.
#[derive(Debug)]
pub struct ExecStarted {
    /// Its process, in the machine's pid namespace.
    pub pid: u32,
    /// Its standard streams and its end.
    pub io: IoStream,
}

/// A pod's sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// The pod's id.
    pub id: String,
    /// The process that holds the pod's namespaces; with a shared pid namespace, that namespace's first process.
    pub pid: u32,
    /// The pod's network namespace, `/proc/PID/ns/net`.
    pub netns: PathBuf,
}

/// Whoever runs containers: the built-in one ([`ShimRuntime`]) or a fake for simulation and tests
/// ([`fake::FakeRuntime`]).
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Makes the container's namespaces, cgroup and root; its first process waits for [`Runtime::start`].
    async fn create(&self, spec: &ContainerSpec) -> Result<Created>;
    /// As [`Runtime::create`]. `born` is told the first process as soon as its namespaces are there, so that its network
    /// can be wired while the rest is made; it is dropped if that never comes.
    async fn create_telling(&self, spec: &ContainerSpec, born: oneshot::Sender<u32>) -> Result<Created> {
        let created = self.create(spec).await?;
        let _ = born.send(created.pid); // who asked may have given up
        Ok(created)
    }
    /// Executes the first process; returns when execve(2) has succeeded. [`Error::Exec`] says what is wrong with the
    /// command otherwise, and the container is then stopped.
    async fn start(&self, id: &str) -> Result<()>;
    /// Sends a signal to the first process, or to every process of the container.
    async fn signal(&self, id: &str, signal: i32, all: bool) -> Result<()>;
    /// Runs one more process in a running container.
    async fn exec(&self, id: &str, exec: &ExecSpec) -> Result<ExecStarted>;
    /// The container's output from now on, and its input. Attach between create and start to miss nothing.
    async fn attach(&self, id: &str) -> Result<IoStream>;
    /// The container's output from now on. Whoever only watches ends no input by leaving.
    async fn watch(&self, id: &str) -> Result<IoStream> {
        let mut io = self.attach(id).await?;
        io.stdin = None;
        Ok(io)
    }
    /// Waits until what the container has written up to this moment is in its log, as far as that can be.
    async fn flush_log(&self, _id: &str) {}
    /// Sets the terminal's size, of the first process or of an exec.
    async fn resize(&self, id: &str, exec_id: Option<&str>, rows: u16, cols: u16) -> Result<()>;
    /// Freezes every process.
    async fn pause(&self, id: &str) -> Result<()>;
    /// Thaws every process.
    async fn resume(&self, id: &str) -> Result<()>;
    /// Changes limits; what is none stays.
    async fn update(&self, id: &str, resources: &oci_spec::runtime::LinuxResources) -> Result<()>;
    /// What it uses.
    async fn stats(&self, id: &str) -> Result<Stats>;
    /// Its processes, in the machine's pid namespace.
    async fn pids(&self, id: &str) -> Result<Vec<u32>>;
    /// What is known of it.
    async fn state(&self, id: &str) -> Result<State>;
    /// What is known of every container that was created and not deleted since the machine's start.
    async fn list(&self) -> Result<Vec<State>>;
    /// The ids of containers whose state could not be asked for when the daemon started; nothing else is known of them.
    fn unreached(&self) -> Vec<String> {
        Vec::new()
    }
    /// Removes a container that has ended (any, with `force`): processes, cgroup, bundle. Idempotent.
    async fn delete(&self, id: &str, force: bool) -> Result<()>;
    /// What happens from now on.
    fn events(&self) -> broadcast::Receiver<Event>;
    /// Makes a pod's namespaces and the process that holds them.
    async fn sandbox_create(&self, spec: &SandboxSpec) -> Result<Sandbox>;
    /// Removes them. Its containers must be deleted first. Idempotent.
    async fn sandbox_delete(&self, id: &str) -> Result<()>;
    /// Resolves when the process that holds them has ended, and with it whatever no container holds; at once if it has.
    /// What is left of it goes with [`Runtime::sandbox_delete`].
    async fn sandbox_wait(&self, id: &str) -> Result<()>;
    /// Every sandbox that was created since the machine's start and has not ended.
    async fn sandboxes(&self) -> Result<Vec<Sandbox>>;
    /// The sandboxes that could not be asked when the daemon started. They may well be in use: what was given to them is
    /// not free.
    fn unreached_sandboxes(&self) -> Vec<SandboxSpec> {
        Vec::new()
    }
    /// What a sandbox was created from.
    async fn sandbox_spec(&self, id: &str) -> Result<SandboxSpec>;
    /// Resolves when the container's first process has ended; at once if it has.
    async fn wait(&self, id: &str) -> Result<Exit>;
}
