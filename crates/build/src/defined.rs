//! What a stage's files are made of, told without making them: by it a step that takes files of the stage is found in
//! the cache, and then nobody needs the stage.
//!
//! Two stages of one definition may come out differently (a `RUN` may ask the network), as two runs of one step may:
//! which of them the cache holds counts for all, here as there.

use std::sync::atomic::Ordering;

use crate::cache;
use crate::error::{Error, Result};
use crate::stage::{Ground, Stage, inherited};
use crate::state::State;
use crate::steps::{run_key, workdir_key};
use crate::words;

/// A stage by its definition.
pub(crate) struct Defined {
    /// A name of its files.
    pub files: String,
    /// Its configuration and arguments; the layers are its base's.
    pub state: State,
}

impl Stage<'_> {
    /// Defines the stage; `None` if it is to be made anew whatever it is made of.
    pub async fn define(self) -> Result<Option<Defined>> {
        let job = self.job;
        if self.no_cache() {
            return Ok(None);
        }
        let ground = self.ground().await?;
        let (mut state, mut files) = match &ground {
            Ground::Stage(n) => match job.defined(*n).await {
                Some(other) => (inherited(&other.state), other.files.clone()),
                None => return Ok(None),
            },
            Ground::Given(other) => (inherited(other), other.chain()),
            Ground::Nothing => (self.fresh()?, String::new()),
            Ground::Image(name) => {
                let state = self.based(&*self.resolved(name).await?)?;
                let files = state.chain();
                (state, files)
            }
        };
        let mut lines = self.triggers(&mut state, &ground)?;
        lines.extend(job.plan.stages[self.index].lines.iter().cloned());
        for line in &lines {
            self.expanded.store(0, Ordering::Relaxed);
            match line.keyword {
                "ARG" => drop(self.declare(&mut state, line)?),
                "RUN" => {
                    let run = self.read_run(&state, line).await?;
                    let Some(mounts) = run.mounts.definition(&self).await? else { return Ok(None) };
                    files = run_key(&files, &run.said, &mounts);
                }
                "COPY" | "ADD" => {
                    let copying = self.read_copy(&state, line).await?;
                    let Some(sources) = copying.definition(&self).await? else { return Ok(None) };
                    // With or without `--link` it lies on what is below.
                    files = cache::key(&[files.as_bytes(), copying.key(&files, &sources).as_bytes()]);
                }
                "WORKDIR" => {
                    self.apply(&mut state, line)?;
                    files = workdir_key(&files, &state.run().working_dir, &state.run().user);
                }
                _ => drop(self.apply(&mut state, line)?),
            }
            words::bounded(state.bytes()).map_err(Error::Step)?;
        }
        Ok(Some(Defined { files, state }))
    }
}
