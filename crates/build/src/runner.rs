//! Running one `RUN`: what the builder asks of the engine.

use std::sync::Arc;

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
    /// Limits of its processes.
    pub ulimits: Vec<crate::Ulimit>,
    /// The cgroup below which its own is made; empty is the engine's.
    pub cgroup_parent: String,
    /// All capabilities and devices, no filter.
    pub privileged: bool,
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

    /// The address at which containers of the default network reach this machine.
    fn host_gateway(&self) -> Option<String> {
        None
    }

    /// Told when a build has made an image, and what it was called.
    fn made(&self, _image: &str, _names: &[String]) {}
}

/// Runs steps in the engine: a `RUN` is a container of its own for as long as it takes.
#[derive(Debug, Clone)]
pub struct EngineRunner(pub Arc<engine::Engine>);

/// Chunks of output that may wait for a slow reader.
const AHEAD: usize = 64;

#[async_trait]
impl StepRunner for EngineRunner {
    async fn run(
        &self,
        step: Step,
        output: mpsc::Sender<Output>,
        cancel: CancellationToken,
    ) -> Result<i32, String> {
        let ulimits = step.ulimits.into_iter();
        let spec = engine::step::StepSpec {
            id: step.id,
            args: step.args,
            env: step.env,
            working_dir: step.working_dir,
            user: step.user,
            hostname: String::new(),
            network_mode: step.network_mode,
            extra_hosts: step.extra_hosts,
            shm_size: step.shm_size,
            mounts: step.mounts,
            resources: step.resources,
            ulimits: ulimits
                .map(|u| engine::model::Ulimit { name: u.name, soft: u.soft, hard: u.hard })
                .collect(),
            cgroup_parent: step.cgroup_parent,
            privileged: step.privileged,
        };
        let (tx, mut rx) = mpsc::channel::<runtime::Chunk>(AHEAD);
        let forward = async move {
            while let Some(chunk) = rx.recv().await {
                let stderr = matches!(chunk.stream, runtime::Stream::Stderr);
                // A reader that is gone does not stop the step: its builder cancels it.
                let _ = output.send(Output { stderr, data: chunk.data }).await;
            }
        };
        let (code, ()) = tokio::join!(self.0.run_step(spec, tx, cancel), forward);
        code.map_err(|e| e.to_string())
    }

    fn host_gateway(&self) -> Option<String> {
        self.0.host_gateway()
    }

    fn made(&self, image: &str, names: &[String]) {
        self.0.image_built(image, names);
    }
}
