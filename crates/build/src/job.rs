//! One build: its stages side by side, each step from the cache, from another build that does the same, or done.
//!
//! Both front doors end here. What differs between them is how a step's line in the history reads, whether every step
//! makes an image of its own (the classic builder's), and who listens.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::sync::Arc;

use futures::future::BoxFuture;
use image::{Finished, Image, ImageConfig, Platform, reference};
use parking_lot::Mutex;
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;

use crate::builder::Builder;
use crate::context::{Contexts, Named};
use crate::error::{Error, Result};
use crate::instruction;
use crate::mounts::Holder;
use crate::options::Options;
use crate::parse::Line;
use crate::plan::{self, Plan};
use crate::report::{Announced, Listener, Told};
use crate::state::State;
use crate::{blocking, words};

/// Arguments that are there without `ARG` and that neither history nor cache keys show.
pub(crate) const PREDEFINED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// Images of steps that are stored at once.
const BATCH: usize = 64;

/// The remark in the history of what the newer front door builds.
const COMMENT: &str = "buildkit.dockerfile.v0";

type Outcome = std::result::Result<Arc<State>, Arc<Error>>;

/// A build under way.
pub(crate) struct Job {
    pub builder: Arc<Builder>,
    pub options: Options,
    pub plan: Plan,
    pub escape: char,
    pub platform: Platform,
    pub given: BTreeMap<String, String>,
    global: BTreeMap<String, Option<String>>,
    automatic: BTreeMap<String, String>,
    pub contexts: Arc<dyn Contexts>,
    pub listener: Arc<dyn Listener>,
    /// Who holds secrets and keys.
    pub holder: Option<Arc<dyn Holder>>,
    /// Whether every step makes an image.
    pub classic: bool,
    pub cancel: CancellationToken,
    /// Images whose steps may be taken over.
    sources: Vec<Arc<Image>>,
    stages: Vec<OnceCell<Outcome>>,
    consumed: Mutex<BTreeSet<String>>,
    bases: Mutex<HashMap<String, Arc<OnceCell<Arc<Image>>>>>,
    /// The lines of the step that failed first.
    failed: Mutex<Option<(usize, usize)>>,
    ended: CancellationToken,
}

/// One stage being built.
pub(crate) struct Stage<'a> {
    pub job: &'a Job,
    pub index: usize,
    /// Vertices announced so far, and in all.
    vertex: (usize, usize),
    /// Whether the step in hand is an `ONBUILD` trigger.
    trigger: bool,
}

impl Job {
    /// Parses and plans; what is wrong with the Dockerfile as it stands is said here.
    #[allow(clippy::too_many_arguments)] // each is a part of the world that the build stands in
    pub async fn new(
        builder: Arc<Builder>,
        options: Options,
        dockerfile: &str,
        contexts: Arc<dyn Contexts>,
        listener: Arc<dyn Listener>,
        holder: Option<Arc<dyn Holder>>,
        classic: bool,
        cancel: CancellationToken,
    ) -> Result<Self> {
        let text = dockerfile.to_string();
        let parsed = blocking(move || crate::parse::parse(&text)).await?;
        let escape = parsed.escape;
        let given: BTreeMap<String, String> =
            options.build_args.iter().filter_map(|(k, v)| Some((k.clone(), v.clone()?))).collect();
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let mut automatic = automatic_args(&platform);
        let target = if options.target.is_empty() { "default" } else { options.target.as_str() };
        automatic.insert("TARGETSTAGE".into(), target.to_string());
        let meta_value = |meta: &[Line], name: &str| {
            meta_args(meta, escape, &given, &automatic).get(name).cloned().flatten()
        };
        let mut plan = plan::plan(parsed, &options.target, &meta_value)?;
        if !options.labels.is_empty()
            && let Some(stage) = plan.needed.last().and_then(|i| plan.stages.get_mut(*i))
        {
            stage.lines.push(label_line(&options.labels, escape)?);
        }
        let global = meta_args(&plan.meta, escape, &given, &automatic);
        let stages = plan.stages.iter().map(|_| OnceCell::new()).collect();
        let mut consumed = BTreeSet::new();
        for line in &plan.meta {
            for word in words::split(&line.arguments, escape) {
                consumed.insert(word.split('=').next().unwrap_or_default().to_string());
            }
        }
        let sources = options.cache_from.iter().filter_map(|name| builder.images.get(name).ok()).collect();
        Ok(Self {
            sources,
            builder,
            options,
            plan,
            escape,
            platform,
            given,
            global,
            automatic,
            contexts,
            listener,
            holder,
            classic,
            cancel,
            stages,
            consumed: Mutex::new(consumed),
            bases: Mutex::default(),
            failed: Mutex::new(None),
            ended: CancellationToken::new(),
        })
    }

    /// How many steps there are.
    pub fn total(&self) -> usize {
        self.plan.meta.len()
            + self.plan.needed.iter().map(|i| 1 + self.plan.stages[*i].lines.len()).sum::<usize>()
    }

    /// The stages that are built, in order.
    pub fn needed(&self) -> Vec<usize> {
        self.plan.needed.clone()
    }

    /// The arguments before the first `FROM`.
    pub fn meta_lines(&self) -> &[Line] {
        &self.plan.meta
    }

    /// Waits until nothing more is done.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// The lines of the step that failed.
    pub fn failed_lines(&self) -> Option<(usize, usize)> {
        *self.failed.lock()
    }

    /// What to say of arguments that no instruction wanted.
    pub fn unused_args(&self) -> Option<String> {
        let consumed = self.consumed.lock();
        let unused: Vec<&str> = self
            .options
            .build_args
            .keys()
            .map(String::as_str)
            .filter(|n| {
                !consumed.contains(*n)
                    && !PREDEFINED.contains(n)
                    && !self.automatic.contains_key(*n)
                    && !n.starts_with("BUILDKIT_")
                    && *n != "SOURCE_DATE_EPOCH"
            })
            .collect();
        (!unused.is_empty())
            .then(|| format!("One or more build-args [{}] were not consumed", unused.join(" ")))
    }

    /// Builds every stage that is needed and returns the last one. What was made is on the disk when this returns,
    /// also if it fails.
    pub async fn run_all(self: &Job) -> Result<Arc<State>> {
        let result = self.all().await;
        self.ended.cancel();
        let flushed = self.flush().await;
        let state = result?;
        flushed?;
        Ok(state)
    }

    async fn all(&self) -> Result<Arc<State>> {
        use futures::StreamExt;
        let needed = self.needed();
        let mut running: futures::stream::FuturesUnordered<_> =
            needed.iter().map(|i| async move { (*i, self.stage(*i).await) }).collect();
        let mut done: BTreeMap<usize, Outcome> = BTreeMap::new();
        loop {
            // The classic stream tells stages in order, so the first stage that fails in that order counts.
            let mut failed = None;
            for i in &needed {
                match done.get(i) {
                    Some(Ok(_)) => {}
                    Some(Err(e)) => {
                        failed = Some(e.clone());
                        break;
                    }
                    None if self.classic => break,
                    None => {}
                }
            }
            if let Some(error) = failed {
                self.cancel.cancel();
                return Err(Error::Shared(error));
            }
            match running.next().await {
                Some((i, outcome)) => {
                    done.insert(i, outcome);
                }
                None => break,
            }
        }
        match needed.last().and_then(|i| done.remove(i)) {
            Some(Ok(state)) => Ok(state),
            _ => Err(Error::Invalid("No image was generated. Is your Dockerfile empty?".into())),
        }
    }

    /// Stores what was made so far.
    async fn flush(&self) -> Result<()> {
        let mut images: Vec<Finished> = Vec::new();
        for cell in &self.stages {
            if let Some(Ok(state)) = cell.get() {
                images.extend(state.made.iter().cloned());
            }
        }
        self.builder.cache.flush(images).await
    }

    /// Steps of all stages that were built.
    pub fn steps(&self) -> Vec<crate::state::StepRecord> {
        let done = self.stages.iter().filter_map(|cell| cell.get()?.as_ref().ok());
        done.flat_map(|state| state.steps.iter().cloned()).collect()
    }

    /// The result of a stage, which is built once.
    pub fn stage(&self, i: usize) -> BoxFuture<'_, Outcome> {
        Box::pin(async move {
            let outcome = self.stages[i]
                .get_or_init(|| async move {
                    let cancelled = async {
                        self.cancel.cancelled().await;
                        Err(Error::Cancelled)
                    };
                    let stage = Stage { job: self, index: i, vertex: (0, 0), trigger: false };
                    let result = tokio::select! {
                        result = stage.build() => result,
                        cancelled = cancelled => cancelled,
                    };
                    self.listener.stage_ended(i);
                    result.map(Arc::new).map_err(Arc::new)
                })
                .await;
            outcome.clone()
        })
    }

    /// The result of an earlier stage, as a part of another one.
    pub async fn earlier(&self, i: usize) -> Result<Arc<State>> {
        self.stage(i).await.map_err(Error::Shared)
    }

    /// One layer for everything above the base image; the new image's id.
    pub async fn squash(&self, state: &State) -> Result<Option<String>> {
        if state.layers.len() <= state.base_layers {
            return Ok(None);
        }
        let images = self.builder.images.clone();
        let key = base::rng::hex(32);
        let (below, above) = state.layers.split_at(state.base_layers);
        let scratch = crate::steps::Scratch::new(&images, key, below).await?;
        let snapshot = images.snapshot(&scratch.key)?;
        let (store, above) = (images.clone(), above.to_vec());
        blocking(move || {
            let upper = std::fs::File::open(&snapshot.upper)?;
            for layer in &above {
                let (tar, _) = store.read_layer(layer)?;
                let options = image::archive::ExtractOptions {
                    whiteouts: true,
                    ..image::archive::ExtractOptions::default()
                };
                image::archive::extract_into(upper.as_fd(), std::path::Path::new("/"), tar, &options)?;
            }
            Ok(())
        })
        .await?;
        let layer = scratch.seal().await?;
        let mut squashed = state.clone();
        squashed.layers = below.to_vec();
        for line in &mut squashed.config.history {
            line.empty_layer = true;
        }
        let mut left = state.base_layers;
        for line in state.config.history.iter().zip(&mut squashed.config.history) {
            if left > 0 && !line.0.empty_layer {
                line.1.empty_layer = false;
                left -= 1;
            }
        }
        let comment = format!("merge {} to base", state.id.clone().unwrap_or_default());
        squashed.push(layer, base::clock::now(), String::new(), &comment);
        let ids = images.add(vec![squashed.finished(None)], Vec::new()).await?;
        Ok(ids.into_iter().next())
    }

    /// The image of that name, pulled if it is not here (or `--pull`).
    pub async fn base_image(&self, stage: usize, name: &str, platform: &Platform) -> Result<Arc<Image>> {
        let cell = self.bases.lock().entry(format!("{name}|{platform}")).or_default().clone();
        cell.get_or_try_init(|| self.find_base(stage, name, platform)).await.cloned()
    }

    async fn find_base(&self, stage: usize, name: &str, platform: &Platform) -> Result<Arc<Image>> {
        match (self.builder.images.get_for(name, platform), self.options.pull) {
            (Ok(image), false) => {
                let c = &image.config;
                if (self.options.platform.is_some() || *platform != self.platform)
                    && !platform.accepts(&c.os, &c.architecture, &c.variant)
                {
                    tracing::debug!(image = name, %platform, "the local image is for another platform");
                } else {
                    return Ok(image);
                }
            }
            (Err(e), _) if !e.is_not_found() => return Err(e.into()),
            (Ok(image), true) if image.tags.is_empty() => return Ok(image),
            _ => {}
        }
        let reference = reference::parse_tagged(name)?;
        let auth = match self.options.auths.get(&reference.domain) {
            Some(auth) => Some(auth.clone()),
            None => match &self.holder {
                Some(holder) => holder.credentials(&reference.domain).await?,
                None => None,
            },
        };
        let (tx, mut rx) = mpsc::channel(64);
        let forward = async {
            let mut heard = Ok(());
            while let Some(p) = rx.recv().await {
                if heard.is_ok() {
                    heard = self.listener.tell(stage, Told::Pull(p)).await;
                }
            }
        };
        let whole = reference.to_string();
        let images = &self.builder.images;
        let host = Platform::host();
        let pull = async {
            match host.accepts(&platform.os, &platform.architecture, &platform.variant) || self.classic {
                true => images.pull(&whole, auth, Some(platform.clone()), tx).await,
                // What is built for another machine does not change what a name means on this one.
                false => images.pull_beside(&whole, auth, platform.clone(), tx).await,
            }
        };
        let (pulled, ()) = tokio::join!(pull, forward);
        Ok(pulled?)
    }

    /// The first step's number of a stage.
    fn first_number(&self, stage: usize) -> usize {
        let before = self.plan.needed.iter().take_while(|i| **i != stage);
        1 + self.plan.meta.len() + before.map(|i| 1 + self.plan.stages[*i].lines.len()).sum::<usize>()
    }

    /// How the stage is called in front of its steps; empty if it is the only one.
    fn stage_name(&self, i: usize) -> String {
        let platform = if self.options.of_several { format!("{} ", self.platform) } else { String::new() };
        match &self.plan.stages[i].name {
            _ if self.plan.stages.len() == 1 => platform,
            Some(name) => format!("{platform}{name} "),
            None => format!("{platform}stage-{i} "),
        }
    }
}

fn is_vertex(keyword: &str) -> bool {
    matches!(keyword, "RUN" | "COPY" | "ADD" | "WORKDIR")
}

impl Stage<'_> {
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

    async fn build(mut self) -> Result<State> {
        let stage = self.job.plan.stages[self.index].clone();
        let number = self.job.first_number(self.index);
        let stages = &self.job.plan.stages[..self.index];
        let base_stage =
            stages.iter().rposition(|s| s.name.as_deref() == Some(stage.base.to_ascii_lowercase().as_str()));
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
        match self.dispatch(state, line).await {
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
            .map_err(|e| Error::Step(format!("failed to process {word:?}: {e}")))
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
        let mut shown = Vec::new();
        for word in words::split(&line.arguments, self.job.escape) {
            let (name, default) = match word.split_once('=') {
                Some((n, d)) => (self.expand(state, n)?, Some(self.expand(state, d)?)),
                None => (self.expand(state, &word)?, None),
            };
            shown.push(default.as_ref().map_or_else(|| name.clone(), |d| format!("{name}={d}")));
            let value = self
                .job
                .given
                .get(&name)
                .cloned()
                .or(default)
                .or_else(|| self.job.global.get(&name).cloned().flatten());
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

/// `TARGETARCH` and its like.
fn automatic_args(target: &Platform) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for (prefix, p) in [("TARGET", target), ("BUILD", &Platform::host())] {
        all.insert(format!("{prefix}PLATFORM"), p.to_string());
        all.insert(format!("{prefix}OS"), p.os.clone());
        all.insert(format!("{prefix}ARCH"), p.architecture.clone());
        all.insert(format!("{prefix}VARIANT"), p.variant.clone());
    }
    all
}

/// The values of the arguments before the first `FROM`.
fn meta_args(
    meta: &[Line],
    escape: char,
    given: &BTreeMap<String, String>,
    automatic: &BTreeMap<String, String>,
) -> BTreeMap<String, Option<String>> {
    let mut values: BTreeMap<String, Option<String>> =
        automatic.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
    for line in meta {
        for word in words::split(&line.arguments, escape) {
            let (name, default) = word.split_once('=').map_or((word.as_str(), None), |(n, d)| (n, Some(d)));
            let value = given.get(name).cloned().or_else(|| {
                let lookup = |n: &str| values.get(n).cloned().flatten();
                default.and_then(|d| words::expand(d, escape, &lookup).ok())
            });
            values.insert(name.to_string(), value);
        }
    }
    values
}

fn label_line(labels: &BTreeMap<String, String>, escape: char) -> Result<Line> {
    let quote = |s: &str| {
        let mut q = String::from("\"");
        for c in s.chars() {
            if c == '"' || c == '$' || c == escape {
                q.push(escape);
            }
            q.push(c);
        }
        q + "\""
    };
    let pairs: Vec<_> = labels.iter().map(|(k, v)| format!("{}={}", quote(k), quote(v))).collect();
    crate::parse::instruction(&format!("LABEL {}", pairs.join(" ")), 0, escape)
}
