//! One stage of a build: its base, then its lines one after the other, each told to whoever listens.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{Image, ImageConfig, Platform, reference};

use crate::context::Named;
use crate::error::{Error, Result};
use crate::job::Job;
use crate::parse::Line;
use crate::plan;
use crate::report::{Announced, Told};
use crate::state::State;
use crate::{instruction, words};

/// Images of steps that are stored at once.
const BATCH: usize = 64;

/// The remark in the history of what the newer front door builds.
const COMMENT: &str = "buildkit.dockerfile.v0";

/// One stage being built.
pub(crate) struct Stage<'a> {
    pub job: &'a Job,
    pub index: usize,
    /// Vertices announced so far, and in all.
    vertex: (usize, usize),
    /// Whether the step in hand is an `ONBUILD` trigger.
    trigger: bool,
    /// What variables have made of the words of the step in hand, in bytes.
    pub expanded: AtomicUsize,
    /// The line in hand, of the stage's own.
    pub line: usize,
    /// Whether steps are only looked up: nobody needs the stage's files.
    pub known_only: bool,
    /// Whether a step was not known, so that nothing is known of those after it.
    unmade: bool,
}

/// What a stage stands on.
pub(crate) enum Ground {
    /// An earlier stage.
    Stage(usize),
    /// What another build made.
    Given(Arc<State>),
    Image(String),
    /// `scratch`
    Nothing,
}

fn is_vertex(keyword: &str) -> bool {
    matches!(keyword, "RUN" | "COPY" | "ADD" | "WORKDIR")
}

impl<'a> Stage<'a> {
    pub fn new(job: &'a Job, index: usize) -> Self {
        Self {
            job,
            index,
            vertex: (0, 0),
            trigger: false,
            expanded: AtomicUsize::new(0),
            line: 0,
            known_only: false,
            unmade: false,
        }
    }

    /// One whose steps are only looked up.
    pub fn looked_up(job: &'a Job, index: usize) -> Self {
        Self { known_only: true, ..Self::new(job, index) }
    }

    pub async fn tell(&self, told: Told) -> Result<()> {
        if self.job.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        self.job.listener.tell(self.index, told).await
    }

    /// Whether every step of this stage is done again.
    pub fn no_cache(&self) -> bool {
        let stage = &self.job.plan.stages[self.index];
        self.job.options.no_cache
            || self.job.options.no_cache_stages.iter().any(|n| {
                stage.name.as_deref() == Some(n.to_ascii_lowercase().as_str())
                    || *n == format!("stage-{}", self.index)
            })
    }

    fn vertex_name(&mut self, text: &str) -> String {
        self.vertex.0 += 1;
        let (n, total) = self.vertex;
        let width = total.max(1).to_string().len();
        let trigger = if self.trigger { "ONBUILD " } else { "" };
        format!("[{}{n:>width$}/{total}] {trigger}{text}", self.job.stage_name(self.index))
    }

    async fn announce(&mut self, line: &Line, number: Option<usize>, vertex: Option<String>) -> Result<()> {
        let vertex = vertex.map(|text| self.vertex_name(&text));
        self.tell(Told::Begin(Announced { number, original: line.original.clone(), vertex })).await
    }

    /// Does all of it.
    pub async fn build(mut self) -> Result<State> {
        let stage = self.job.plan.stages[self.index].clone();
        let number = self.job.first_number(self.index);
        let vertices = stage.lines.iter().filter(|l| is_vertex(l.keyword)).count();
        let begun = async {
            let ground = self.ground().await?;
            self.vertex.1 = vertices + usize::from(matches!(ground, Ground::Image(_)));
            Ok((self.from(&stage, &ground, number).await?, ground))
        };
        let (mut state, ground) = match begun.await {
            Ok(begun) => begun,
            Err(e) => return Err(self.failed(&stage.from, e).await),
        };
        let triggers = self.triggers(&mut state, &ground)?;
        if !triggers.is_empty() {
            self.tell(Told::Triggers(triggers.len())).await?;
            self.vertex.1 += triggers.iter().filter(|l| is_vertex(l.keyword)).count();
            self.trigger = true;
            for line in &triggers {
                self.step(&mut state, line, None).await?;
            }
            self.trigger = false;
        }
        self.tell(Told::Done(state.id.as_ref().map(|i| image::short(i).to_string()).or(Some(String::new()))))
            .await?;
        for (n, line) in stage.lines.iter().enumerate() {
            self.line = n;
            self.step(&mut state, line, Some(number + 1 + n)).await?;
            if state.made.len() >= BATCH {
                self.job.builder.cache.flush(std::mem::take(&mut state.made)).await?;
            }
        }
        match self.unmade {
            true => Err(Error::NotMade),
            false => Ok(state),
        }
    }

    async fn step(&mut self, state: &mut State, line: &Line, number: Option<usize>) -> Result<()> {
        let vertex = is_vertex(line.keyword).then(|| self.shown(state, line));
        self.announce(line, number, vertex).await?;
        self.expanded.store(0, Ordering::Relaxed);
        let mut done = self.dispatch(state, line).await;
        if matches!(done, Err(Error::NotMade)) {
            // Nobody needs it, and what does not need to be done counts as done.
            self.unmade = true;
            done = self.tell(Told::Cached).await;
        }
        match done.and_then(|()| words::bounded(state.bytes()).map_err(Error::Step)) {
            Ok(()) => {
                // Triggers are a part of their `FROM`, which says what came of them.
                let id = if self.job.classic && !self.trigger {
                    Some(state.id.as_ref().map(|i| image::short(i).to_string()).unwrap_or_default())
                } else {
                    None
                };
                self.tell(Told::Done(id)).await
            }
            Err(e) => Err(self.failed(line, e).await),
        }
    }

    /// The step's text with the variables of its files resolved.
    fn shown(&self, state: &State, line: &Line) -> String {
        let rest = line.original.split_once(char::is_whitespace).map_or("", |(_, r)| r.trim_start());
        let rest = match line.keyword {
            "RUN" => rest.to_string(),
            _ => words::expand_text(rest, self.job.escape, &|n| state.lookup(n))
                .unwrap_or_else(|_| rest.to_string()),
        };
        let mut text = format!("{} {rest}", line.keyword);
        if line.keyword == "RUN"
            && let [only] = line.heredocs.as_slice()
            && let Some(first) = only.content.lines().find(|l| !l.trim().is_empty())
        {
            text.push_str(&format!(" ({}...)", first.trim()));
        }
        text
    }

    async fn failed(&self, line: &Line, error: Error) -> Error {
        if matches!(error, Error::NotMade) {
            return error;
        }
        if !matches!(error, Error::Cancelled) {
            self.job.failed.lock().get_or_insert((line.number, line.end));
        }
        // Told even if the build is cancelled, so that no step seems to go on.
        let _ = self.job.listener.tell(self.index, Told::Failed(error.to_string())).await;
        error
    }

    /// What the stage stands on.
    pub async fn ground(&self) -> Result<Ground> {
        let stages = &self.job.plan.stages;
        let stage = &stages[self.index];
        let base_stage = plan::called(&stages[..self.index], &stage.base);
        for name in stage.name.iter().chain(base_stage.is_none().then_some(&stage.base)) {
            match self.job.contexts.named(name).await? {
                Some(Named::State(other)) => return Ok(Ground::Given(other)),
                Some(Named::Image(name)) => return Ok(Ground::Image(name)),
                Some(Named::Tree(_)) => {
                    return Err(Error::Invalid(format!(
                        "the context for {} is a folder of files: FROM needs an image",
                        stage.base
                    )));
                }
                None => {}
            }
        }
        Ok(match base_stage {
            Some(n) => Ground::Stage(n),
            None if stage.base == "scratch" => Ground::Nothing,
            None => Ground::Image(stage.base.clone()),
        })
    }

    fn platform(&self) -> Result<Platform> {
        match &self.job.plan.stages[self.index].platform {
            Some(p) => Ok(Platform::parse(p)?),
            None => Ok(self.job.platform.clone()),
        }
    }

    /// An image to stand on.
    pub async fn resolved(&self, name: &str) -> Result<Arc<Image>> {
        self.tell(Told::Resolving(shown_name(name))).await?;
        let image = self.job.base_image(self.index, name, &self.platform()?).await?;
        self.tell(Told::Resolved).await?;
        Ok(image)
    }

    /// The state of a stage that has no files yet.
    pub fn fresh(&self) -> Result<State> {
        let platform = self.platform()?;
        Ok(State {
            config: ImageConfig {
                os: platform.os,
                architecture: platform.architecture,
                variant: platform.variant,
                ..ImageConfig::scratch()
            },
            ..State::default()
        })
    }

    /// The state of a stage on an image.
    pub fn based(&self, image: &Image) -> Result<State> {
        let layers = self.job.builder.images.layers_of(image)?;
        Ok(State {
            config: ImageConfig { other: serde_json::Map::new(), ..image.config.clone() },
            base_layers: layers.len(),
            layers,
            id: Some(image.id.clone()),
            created: image.created(),
            ..State::default()
        })
    }

    /// Tells of what the stage stands on; the state that it starts from.
    async fn from(&mut self, stage: &plan::Stage, ground: &Ground, number: usize) -> Result<State> {
        let job = self.job;
        let Ground::Image(name) = ground else {
            self.announce(&stage.from, Some(number), None).await?;
            return match ground {
                Ground::Stage(n) if self.known_only => match job.made(*n) {
                    Some(other) => Ok(inherited(&other)),
                    None => {
                        self.unmade = true;
                        let defined = job.defined(*n).await.ok_or(Error::NotMade)?;
                        Ok(inherited(&defined.state))
                    }
                },
                Ground::Stage(n) => Ok(inherited(&*job.earlier(*n).await?)),
                Ground::Given(other) => Ok(inherited(other)),
                _ => self.fresh(),
            };
        };
        if job.classic {
            self.announce(&stage.from, Some(number), None).await?;
        }
        let image = self.resolved(name).await?;
        if !job.classic {
            let shown = shown_name(name);
            let digest = image.repo_digests.iter().find_map(|d| d.split_once('@'));
            let at = digest.map(|(_, d)| format!("@{d}")).filter(|_| !shown.contains('@'));
            let text = format!("FROM {shown}{}", at.unwrap_or_default());
            self.announce(&stage.from, Some(number), Some(text)).await?;
            self.tell(Told::Cached).await?;
        }
        self.based(&image)
    }

    /// The lines that a stage's base brings, taken from its state.
    pub fn triggers(&self, state: &mut State, ground: &Ground) -> Result<Vec<Line>> {
        state.config.container = String::new();
        state.config.docker_version = String::new();
        state.config.comment = String::new();
        if matches!(ground, Ground::Stage(_)) {
            return Ok(Vec::new());
        }
        let number = self.job.plan.stages[self.index].from.number;
        let triggers = std::mem::take(&mut state.run_mut().on_build);
        triggers.iter().map(|text| crate::parse::trigger(text, number, self.job.escape)).collect()
    }

    async fn dispatch(&mut self, state: &mut State, line: &Line) -> Result<()> {
        match line.keyword {
            "ARG" => {
                let text = self.declare(state, line)?;
                self.metadata(state, text).await
            }
            "WORKDIR" if self.unmade => self.apply(state, line).and(Err(Error::NotMade)),
            "RUN" | "COPY" | "ADD" if self.unmade => Err(Error::NotMade),
            "RUN" => self.run(state, line).await,
            "COPY" | "ADD" => {
                let keyword = line.keyword;
                let classic = self.job.classic;
                self.copy(state, line).await.map_err(|e| match e {
                    Error::Step(why) if classic => Error::Step(format!("{keyword} failed: {why}")),
                    other => other,
                })
            }
            "WORKDIR" => self.workdir(state, line).await,
            _ => {
                let text = self.apply(state, line)?;
                self.metadata(state, text).await
            }
        }
    }

    pub fn apply(&self, state: &mut State, line: &Line) -> Result<String> {
        let before = state.clone();
        let lookup = |name: &str| before.lookup(name);
        let mut cmd_set = state.cmd_set;
        let text = instruction::apply(state.run_mut(), line, self.job.escape, &lookup, &mut cmd_set)
            .map_err(Error::Step)?;
        state.cmd_set = cmd_set;
        if line.keyword == "MAINTAINER" {
            state.config.author = line.arguments.clone();
        }
        Ok(text)
    }

    pub fn expand(&self, state: &State, word: &str) -> Result<String> {
        words::expand(word, self.job.escape, &|n| state.lookup(n))
            .and_then(|text| self.counted(text))
            .map_err(|e| Error::Step(format!("failed to process {word:?}: {e}")))
    }

    /// The same of a here-document.
    pub fn expand_text(&self, state: &State, text: &str) -> Result<String> {
        words::expand_text(text, self.job.escape, &|n| state.lookup(n))
            .and_then(|text| self.counted(text))
            .map_err(Error::Step)
    }

    /// A step may name many words that are short in the file and long by their variables.
    fn counted(&self, text: String) -> std::result::Result<String, String> {
        const MOST: usize = 2 * crate::parse::SIZE_LIMIT;
        match self.expanded.fetch_add(text.len(), Ordering::Relaxed) + text.len() {
            0..=MOST => Ok(text),
            _ => Err(format!("variables make the instruction longer than {} MiB", MOST >> 20)),
        }
    }

    /// What the history says of a step that runs nothing: `/bin/sh -c #(nop)  TEXT`, or just the text.
    pub fn nop(&self, state: &State, text: &str) -> String {
        if self.job.classic {
            format!("{} #(nop) {text}", instruction::shell_of(state.run()).join(" "))
        } else {
            text.trim().to_string()
        }
    }

    /// Adds a step that changes the configuration alone.
    pub async fn metadata(&self, state: &mut State, text: String) -> Result<()> {
        let created_by = self.nop(state, &format!(" {text}"));
        if !self.job.classic {
            let created = state.created.unwrap_or_else(base::clock::now);
            state.push(None, created, created_by, COMMENT);
            return Ok(());
        }
        let config = serde_json::to_vec(&state.config).map_err(image::Error::from)?;
        let parent = state.id.clone().unwrap_or_default();
        let key = crate::cache::key(&[b"metadata", parent.as_bytes(), created_by.as_bytes(), &config]);
        let made = match self.known(&key, state, &created_by).await? {
            Some(made) => made,
            None => {
                let made = crate::cache::Made { layer: None, created: base::clock::now() };
                self.job.builder.cache.put(&key, &created_by, &made);
                made
            }
        };
        self.commit(state, &made, created_by)
    }

    /// The cache's answer, or that of an image that may serve as one, told.
    pub async fn known(
        &self,
        key: &str,
        state: &State,
        created_by: &str,
    ) -> Result<Option<crate::cache::Made>> {
        if self.no_cache() {
            return Ok(None);
        }
        let mut made = self.job.builder.cache.get(key)?;
        if made.is_none()
            && self.job.classic
            && let Some(found) =
                self.job.sources.iter().find_map(|source| self.taken(source, state, created_by))
        {
            self.job.builder.cache.put(key, created_by, &found);
            made = Some(found);
        }
        if made.is_some() {
            self.tell(Told::Cached).await?;
        }
        Ok(made)
    }

    /// What an image says of a step: its history goes on from exactly what was done so far with this very line.
    fn taken(&self, source: &Image, state: &State, created_by: &str) -> Option<crate::cache::Made> {
        let (before, history) = (&state.config.history, &source.config.history);
        let line = history.get(before.len()).filter(|line| line.created_by == created_by)?;
        let below = state.diff_ids();
        if !history.starts_with(before) || !source.diff_ids().starts_with(&below) {
            return None;
        }
        let layer = match line.empty_layer {
            true => None,
            false => Some(self.job.builder.images.layer(source.diff_ids().get(below.len())?)?),
        };
        Some(crate::cache::Made { layer, created: line.created? })
    }

    /// Adds what a step made; in the classic builder as an image of its own.
    pub fn commit(&self, state: &mut State, made: &crate::cache::Made, created_by: String) -> Result<()> {
        let parent = state.id.clone();
        let comment = if self.job.classic { "" } else { COMMENT };
        state.push(made.layer.clone(), made.created, created_by, comment);
        if self.job.classic {
            let image = state.finished(parent);
            state.id = Some(image.encode()?.1);
            state.made.push(image);
        }
        Ok(())
    }

    /// Declares the arguments of an `ARG`, and returns the text for the history.
    pub fn declare(&self, state: &mut State, line: &Line) -> Result<String> {
        let (mut shown, mut bytes) = (Vec::new(), 0);
        for word in words::split(&line.arguments, self.job.escape) {
            let (name, default) = match word.split_once('=') {
                Some((n, d)) => (self.expand(state, n)?, Some(self.expand(state, d)?)),
                None => (self.expand(state, &word)?, None),
            };
            shown.push(default.as_ref().map_or_else(|| name.clone(), |d| format!("{name}={d}")));
            bytes += shown.last().map_or(0, String::len);
            words::bounded(bytes).map_err(Error::Step)?;
            let value = self
                .job
                .given
                .get(&name)
                .cloned()
                .or(default)
                .or_else(|| self.job.plan.global.get(&name).cloned().flatten());
            state.args.insert(name.clone(), value);
            self.job.consumed.lock().insert(name);
        }
        Ok(format!("ARG {}", shown.join(" ")))
    }
}

/// A reference as it is shown.
fn shown_name(name: &str) -> String {
    reference::parse_tagged(name).map_or_else(|_| name.to_string(), |r| r.to_string())
}

/// What a stage takes over from another.
pub(crate) fn inherited(other: &State) -> State {
    State { args: BTreeMap::new(), made: Vec::new(), cmd_set: false, ..other.clone() }
}
