//! From a Dockerfile to an image: the classic builder, with its exact stream of text.
//!
//! It promises that a step whose parent, instruction, files and resulting configuration are known is not done again,
//! and that a build that fails or is cancelled leaves finished steps in the cache and nothing half. Containers are the
//! engine's (`runner::StepRunner`); layers and images are `image`'s.

mod builder;
mod cache;
mod context;
mod copy;
mod download;
mod engine;
mod error;
mod instruction;
mod parse;
mod pattern;
mod plan;
mod runner;
mod words;

pub use builder::{Builder, Event, Options};
pub use context::Context;
pub use error::{Error, Result};
pub use instruction::changes;
pub use runner::{Output, Step, StepRunner};
