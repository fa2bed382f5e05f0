//! What a build tells of its steps while it goes on, before a front door gives it its form.

use async_trait::async_trait;
use image::Progress;

use crate::error::Result;
use crate::runner::Output;

/// A step as it is announced.
#[derive(Debug, Clone)]
pub(crate) struct Announced {
    /// Counted from one over all stages that are built; none of an `ONBUILD` trigger.
    pub number: Option<usize>,
    /// The instruction as it stands in the file.
    pub original: String,
    /// `[builder 2/3] RUN make`, of instructions that bring files.
    pub vertex: Option<String>,
}

/// What is told.
#[derive(Debug, Clone)]
pub(crate) enum Told {
    /// A base image is looked up.
    Resolving(String),
    /// It was found.
    Resolved,
    /// A step begins.
    Begin(Announced),
    /// A base image brings that many `ONBUILD` triggers.
    Triggers(usize),
    /// The step's result was known.
    Cached,
    /// The step runs in a container of that id.
    Running(String),
    /// What it writes.
    Output(Output),
    /// Its container is gone.
    Ran(String),
    /// What is being pulled.
    Pull(Progress),
    /// The step is done; the short id of the image that it made, where each step makes one.
    Done(Option<String>),
    /// The step failed.
    Failed(String),
}

/// Who listens. An error ends the build.
#[async_trait]
pub(crate) trait Listener: Send + Sync {
    /// Tells what happens in a stage. Within one stage the calls come in order.
    async fn tell(&self, stage: usize, told: Told) -> Result<()>;

    /// Says that nothing more will be told of a stage.
    fn stage_ended(&self, _stage: usize) {}
}
