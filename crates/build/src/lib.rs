//! From a Dockerfile to an image, by two front doors: the classic builder with its exact stream of text, and BuildKit's
//! services with their sessions and progress.
//!
//! It promises that a step whose parent, instruction, files and resulting configuration are known is not done again,
//! that two builds that do the same step at the same time do it once, and that a build that fails or is cancelled
//! leaves finished steps in the cache and nothing half. Containers are the engine's (`runner::StepRunner`); layers and
//! images are `image`'s.

mod bases;
mod builder;
mod buildkit;
mod cache;
mod caches;
mod context;
mod copy;
mod copying;
mod defined;
mod download;
mod error;
mod flight;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gc;
mod instruction;
mod job;
mod mounts;
mod options;
mod parse;
mod pattern;
mod plan;
mod remote;
mod report;
mod runner;
mod stage;
mod state;
mod steps;
mod text;
mod words;

pub use builder::{Builder, Pruned};
pub use buildkit::{Posted, SessionHead};
pub use cache::{Record, RecordKind};
pub use context::Context;
pub use error::{Error, Result};
pub use gc::Policy;
pub use instruction::changes;
pub use options::{Event, Options, Ulimit};
pub use runner::{EngineRunner, Output, Step, StepRunner};

/// Runs blocking work off the async threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    image::blocking(work).await
}

/// As [`blocking`], for work that waits for a stream.
pub(crate) async fn blocking_on_stream<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    image::blocking_on_stream(work).await
}
