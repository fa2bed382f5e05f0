//! `StepRunner` by the engine: a `RUN` is a container of its own for as long as it takes.

use std::sync::Arc;

use async_trait::async_trait;
use engine::Engine;
use engine::step::StepSpec;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::builder::Builder;
use crate::error::Result;
use crate::runner::{Output, Step, StepRunner};

/// Chunks of output that may wait for a slow reader.
const AHEAD: usize = 64;

struct EngineRunner(Arc<Engine>);

impl Builder {
    /// The builder of an engine, with its cache below the engine's data folder.
    pub fn for_engine(engine: &Arc<Engine>) -> Result<Arc<Self>> {
        let runner = Arc::new(EngineRunner(engine.clone()));
        Self::open(engine.images().clone(), runner, &engine.instance().data_dir)
    }
}

#[async_trait]
impl StepRunner for EngineRunner {
    async fn run(
        &self,
        step: Step,
        output: mpsc::Sender<Output>,
        cancel: CancellationToken,
    ) -> std::result::Result<i32, String> {
        let (tx, mut rx) = mpsc::channel::<runtime::Chunk>(AHEAD);
        let spec = StepSpec {
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
            privileged: false,
        };
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
}
