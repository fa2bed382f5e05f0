//! One stage of a build: its base, then its lines one after the other, each told to whoever listens.

use std::collections::BTreeMap;
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
    expanded: AtomicUsize,
}

fn is_vertex(keyword: &str) -> bool {
    matches!(keyword, "RUN" | "COPY" | "ADD" | "WORKDIR")
}

impl<'a> Stage<'a> {
    pub fn new(job: &'a Job, index: usize) -> Self {
        Self { job, index, vertex: (0, 0), trigger: false, expanded: AtomicUsize::new(0) }
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
        let stages = &self.job.plan.stages[..self.index];
        let base_stage = plan::called(stages, &stage.base);
        let scratch = base_stage.is_none() && stage.base == "scratch";
        let outside = base_stage.is_none() && !scratch;
        let vertices = stage.lines.iter().filter(|l| is_vertex(l.keyword)).count();
        self.vertex.1 = vertices + usize::from(outside);
        let result = self.from(&stage, base_stage, number).await;
        let (mut state, triggers) = match result {
            Ok(done) => done,
            Err(e) => return Err(self.failed(&stage.from, e).await),
        };
        if !triggers.is_empty() {
            self.tell(Told::Triggers(triggers.len())).await?;
            let mut lines = Vec::new();
            for text in &triggers {
                lines.push(crate::parse::instruction(text, stage.from.number, self.job.escape)?);
            }
            self.vertex.1 += lines.iter().filter(|l| is_vertex(l.keyword)).count();
            self.trigger = true;
            for line in &lines {
                self.step(&mut state, line, None).await?;
            }
            self.trigger = false;
        }
        self.tell(Told::Done(state.id.as_ref().map(|i| image::short(i).to_string()).or(Some(String::new()))))
            .await?;
        for (n, line) in stage.lines.iter().enumerate() {
            self.step(&mut state, line, Some(number + 1 + n)).await?;
            if state.made.len() >= BATCH {
                self.job.builder.cache.flush(std::mem::take(&mut state.made)).await?;
            }
        }
        Ok(state)
    }

    async fn step(&mut self, state: &mut State, line: &Line, number: Option<usize>) -> Result<()> {
        let vertex = is_vertex(line.keyword).then(|| self.shown(state, line));
        self.announce(line, number, vertex).await?;
        self.expanded.store(0, Ordering::Relaxed);
        let done = self.dispatch(state, line).await;
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
        if !matches!(error, Error::Cancelled) {
            self.job.failed.lock().get_or_insert((line.number, line.end));
        }
        // Told even if the build is cancelled, so that no step seems to go on.
        let _ = self.job.listener.tell(self.index, Told::Failed(error.to_string())).await;
        error
    }

    /// The state that the stage starts from, and the triggers that came with it.
    async fn from(
        &mut self,
        stage: &plan::Stage,
        base_stage: Option<usize>,
        number: usize,
    ) -> Result<(State, Vec<String>)> {
        let job = self.job;
        let platform = match &stage.platform {
            Some(p) => Platform::parse(p)?,
            None => job.platform.clone(),
        };
        let fresh = || State {
            config: ImageConfig {
                os: platform.os.clone(),
                architecture: platform.architecture.clone(),
                variant: platform.variant.clone(),
                ..ImageConfig::scratch()
            },
            ..State::default()
        };
        let mut named = None;
        for name in stage.name.iter().chain(base_stage.is_none().then_some(&stage.base)) {
            if named.is_none() {
                named = job.contexts.named(name).await?;
            }
        }
        let mut state = match (named, base_stage) {
            (Some(Named::State(other)), _) => {
                self.announce(&stage.from, Some(number), None).await?;
                inherited(&other)
            }
            (Some(Named::Tree(_)), _) => {
                return Err(Error::Invalid(format!(
                    "the context for {} is a folder of files: FROM needs an image",
                    stage.base
                )));
            }
            (named, Some(n)) if named.is_none() => {
                self.announce(&stage.from, Some(number), None).await?;
                inherited(&*job.earlier(n).await?)
            }
            (None, None) if stage.base == "scratch" => {
                self.announce(&stage.from, Some(number), None).await?;
                fresh()
            }
            (named, _) => {
                let name = match named {
                    Some(Named::Image(name)) => name,
                    _ => stage.base.clone(),
                };
                if job.classic {
                    self.announce(&stage.from, Some(number), None).await?;
                }
                let image = {
                    let shown = reference::parse_tagged(&name).map_or(name.clone(), |r| r.to_string());
                    self.tell(Told::Resolving(shown.clone())).await?;
                    let image = job.base_image(self.index, &name, &platform).await?;
                    self.tell(Told::Resolved).await?;
                    if !job.classic {
                        let digest = image.repo_digests.iter().find_map(|d| d.split_once('@'));
                        let at = digest.map(|(_, d)| format!("@{d}")).filter(|_| !shown.contains('@'));
                        let text = format!("FROM {shown}{}", at.unwrap_or_default());
                        self.announce(&stage.from, Some(number), Some(text)).await?;
                        self.tell(Told::Cached).await?;
                    }
                    image
                };
                let layers = job.builder.images.layers_of(&image)?;
                State {
                    config: ImageConfig { other: serde_json::Map::new(), ..image.config.clone() },
                    base_layers: layers.len(),
                    layers,
                    id: Some(image.id.clone()),
                    created: image.created(),
                    ..State::default()
                }
            }
        };
        state.config.container = String::new();
        state.config.docker_version = String::new();
        state.config.comment = String::new();
        let triggers = match base_stage {
            Some(_) => Vec::new(),
            None => std::mem::take(&mut state.run_mut().on_build),
        };
        Ok((state, triggers))
    }

    async fn dispatch(&mut self, state: &mut State, line: &Line) -> Result<()> {
        match line.keyword {
            "ARG" => self.arg(state, line).await,
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

    async fn arg(&mut self, state: &mut State, line: &Line) -> Result<()> {
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
        self.metadata(state, format!("ARG {}", shown.join(" "))).await
    }
}

/// What a stage takes over from another.
fn inherited(other: &State) -> State {
    State { args: BTreeMap::new(), made: Vec::new(), cmd_set: false, ..other.clone() }
}
