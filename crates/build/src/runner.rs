//! Running one `RUN`: what the builder asks of the engine.

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// One process in a snapshot that the builder has prepared.
#[derive(Debug, Clone, Default)]
pub struct Step {
    /// The container's id and the snapshot's key.
    pub id: String,
    /// The whole command.
    pub args: Vec<String>,
    /// The whole environment.
    pub env: Vec<String>,
    /// Where it starts.
    pub working_dir: String,
    /// Who runs it, as in an image.
    pub user: String,
    /// Network mode; empty is the default network.
    pub network_mode: String,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    /// Bytes of /dev/shm.
    pub shm_size: Option<u64>,
    /// Further mounts.
    pub mounts: Vec<oci_spec::runtime::Mount>,
    /// Limits.
    pub resources: Option<oci_spec::runtime::LinuxResources>,
}

/// A piece of a step's output.
#[derive(Debug, Clone)]
pub struct Output {
    /// Whether it is of the error stream.
    pub stderr: bool,
    /// The bytes.
    pub data: Bytes,
}

/// Runs steps. Implemented by the engine; a fake stands in for it in tests.
#[async_trait]
pub trait StepRunner: Send + Sync {
    /// Runs the process to its end and returns its exit status. All output has been sent when it returns.
    async fn run(
        &self,
        step: Step,
        output: mpsc::Sender<Output>,
        cancel: CancellationToken,
    ) -> Result<i32, String>;
}
