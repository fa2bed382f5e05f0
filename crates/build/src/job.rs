//! One build: its stages side by side, each step from the cache, from another build that does the same, or done.
//!
//! Both front doors end here. What differs between them is how a step's line in the history reads, whether every step
//! makes an image of its own (the classic builder's), and who listens.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use image::{Finished, Image, Platform};
use parking_lot::Mutex;
use tokio::sync::{SetOnce, mpsc};
use tokio_util::sync::CancellationToken;

use crate::bases::Once;
use crate::builder::Builder;
use crate::context::{Contexts, Tree};
use crate::defined::Defined;
use crate::download::Download;
use crate::error::{Error, Result};
use crate::mounts::Holder;
use crate::options::Options;
use crate::parse::Line;
use crate::plan::{self, Plan};
use crate::report::Listener;
use crate::stage::Stage;
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

type Outcome = std::result::Result<Arc<State>, Arc<Error>>;

/// A build under way.
pub(crate) struct Job {
    pub builder: Arc<Builder>,
    pub options: Options,
    pub plan: Plan,
    pub escape: char,
    pub platform: Platform,
    pub given: BTreeMap<String, String>,
    automatic: BTreeMap<String, String>,
    pub contexts: Arc<dyn Contexts>,
    pub listener: Arc<dyn Listener>,
    /// Who holds secrets and keys.
    pub holder: Option<Arc<dyn Holder>>,
    /// Whether every step makes an image.
    pub classic: bool,
    pub cancel: CancellationToken,
    /// Images whose steps may be taken over.
    pub sources: Vec<Arc<Image>>,
    stages: Vec<SetOnce<Outcome>>,
    defined: Vec<SetOnce<Option<Arc<Defined>>>>,
    /// Stages that somebody needs.
    wanted: mpsc::UnboundedSender<usize>,
    wants: Mutex<Option<mpsc::UnboundedReceiver<usize>>>,
    pub downloads: Once<Download>,
    pub checkouts: Once<Tree>,
    pub consumed: Mutex<BTreeSet<String>>,
    pub bases: Once<Image>,
    /// The lines of the step that failed first.
    pub failed: Mutex<Option<(usize, usize)>>,
    ended: CancellationToken,
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
        let mut plan = {
            let (target, given, automatic) = (options.target.clone(), given.clone(), automatic.clone());
            let args = move |meta: &[Line]| meta_args(meta, escape, &given, &automatic);
            blocking(move || plan::plan(parsed, &target, &args)).await?
        };
        if classic {
            // It does every stage up to the target, needed or not, and counts them.
            plan.needed = (0..=plan.needed.last().copied().unwrap_or(0)).collect();
        }
        // The classic builder takes a step for each.
        if classic
            && !options.labels.is_empty()
            && let Some(stage) = plan.needed.last().and_then(|i| plan.stages.get_mut(*i))
        {
            for (name, value) in &options.labels {
                stage.lines.push(label_line(name, value, escape)?);
            }
        }
        let stages = plan.stages.iter().map(|_| SetOnce::new()).collect();
        let defined = plan.stages.iter().map(|_| SetOnce::new()).collect();
        let (wanted, wants) = mpsc::unbounded_channel();
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
            automatic,
            contexts,
            listener,
            holder,
            classic,
            cancel,
            stages,
            defined,
            wanted,
            wants: Mutex::new(Some(wants)),
            downloads: Mutex::default(),
            checkouts: Mutex::default(),
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
        let needed = self.needed();
        let none = || Error::Invalid("No image was generated. Is your Dockerfile empty?".into());
        let (Some(last), Some(mut wants)) = (needed.last().copied(), self.wants.lock().take()) else {
            return Err(none());
        };
        // Where no step is known by its definition, every stage will be needed.
        if self.classic || !self.builder.cache.any_defined()? {
            needed.iter().for_each(|i| self.want(*i));
        }
        self.want(last);
        let (mut running, mut begun) = (FuturesUnordered::new(), BTreeSet::new());
        // Each waits for those before it, and none makes another's, however many stand one upon the other.
        let mut defining: FuturesUnordered<_> =
            needed.iter().filter(|i| !self.classic && **i != last).map(|i| self.define(*i)).collect();
        loop {
            tokio::select! {
                biased;
                Some(i) = wants.recv() => if begun.insert(i) {
                    running.push(self.make(i));
                },
                Some(()) = running.next() => {
                    // The classic stream tells stages in order, so the first stage that fails in that order counts.
                    for i in &needed {
                        match self.stages[*i].get() {
                            Some(Ok(_)) => {}
                            Some(Err(error)) => {
                                self.cancel.cancel();
                                return Err(Error::Shared(error.clone()));
                            }
                            None if self.classic => break,
                            None => {}
                        }
                    }
                    let done = |i: &usize| self.stages[*i].get().is_some();
                    if if self.classic { needed.iter().all(done) } else { done(&last) } {
                        break;
                    }
                }
                Some(()) = defining.next() => {}
            }
        }
        // Nobody drives them any more, and they may be at what the rest waits for.
        drop((running, defining));
        for i in begun.iter().filter(|i| self.stages[**i].get().is_none()) {
            self.listener.stage_ended(*i);
        }
        let mut state = self.made(last).ok_or_else(none)?;
        if !self.classic && !self.options.labels.is_empty() {
            Arc::make_mut(&mut state).run_mut().labels.extend(self.options.labels.clone());
        }
        let defined = |i: &usize| matches!(self.defined[*i].get(), Some(Some(_)));
        for i in needed.into_iter().filter(|i| !begun.contains(i) && defined(i)) {
            Box::pin(self.look_up(i)).await?;
        }
        Ok(state)
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

    /// Does the steps of a stage, unless the build is cancelled.
    async fn build(&self, stage: Stage<'_>) -> Result<State> {
        let i = stage.index;
        let result = tokio::select! {
            result = stage.build() => result,
            () = self.cancel.cancelled() => Err(Error::Cancelled),
        };
        self.listener.stage_ended(i);
        result
    }

    /// Makes a stage.
    async fn make(&self, i: usize) {
        let result = self.build(Stage::new(self, i)).await;
        // Nobody else makes it.
        let _ = self.stages[i].set(result.map(Arc::new).map_err(Arc::new));
    }

    /// Tells of a stage that nobody needed. As far as its steps are known they are a part of the build's cache.
    async fn look_up(&self, i: usize) -> Result<()> {
        match self.build(Stage::looked_up(self, i)).await {
            Ok(state) => {
                let _ = self.stages[i].set(Ok(Arc::new(state))); // nobody else makes it
                Ok(())
            }
            Err(Error::NotMade) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// Defines a stage. What is wrong with it is told when it is made.
    async fn define(&self, i: usize) {
        let defined = Stage::new(self, i).define().await.unwrap_or_else(|error| {
            tracing::debug!(%error, stage = i, "a stage has no definition");
            None
        });
        let _ = self.defined[i].set(defined.map(Arc::new)); // nobody else does
    }

    /// What an earlier stage is made of, if that can be said. A stage that only a variable names was not foreseen.
    pub async fn defined(&self, i: usize) -> Option<Arc<Defined>> {
        if !self.plan.needed.contains(&i) {
            return None;
        }
        self.defined[i].wait().await.clone()
    }

    /// Asks for a stage to be made.
    pub fn want(&self, i: usize) {
        // Nobody listens any more only when the build has ended.
        let _ = self.wanted.send(i);
    }

    /// A stage's result, if it is there.
    pub fn made(&self, i: usize) -> Option<Arc<State>> {
        self.stages[i].get()?.as_ref().ok().cloned()
    }

    /// The result of an earlier stage, as a part of another one.
    pub async fn earlier(&self, i: usize) -> Result<Arc<State>> {
        self.want(i);
        self.stages[i].wait().await.clone().map_err(Error::Shared)
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

    /// The first step's number of a stage.
    pub fn first_number(&self, stage: usize) -> usize {
        let before = self.plan.needed.iter().take_while(|i| **i != stage);
        1 + self.plan.meta.len() + before.map(|i| 1 + self.plan.stages[*i].lines.len()).sum::<usize>()
    }

    /// How the stage is called in front of its steps; empty if it is the only one.
    pub fn stage_name(&self, i: usize) -> String {
        let platform = if self.options.of_several { format!("{} ", self.platform) } else { String::new() };
        match &self.plan.stages[i].name {
            _ if self.plan.stages.len() == 1 => platform,
            Some(name) => format!("{platform}{name} "),
            None => format!("{platform}stage-{i} "),
        }
    }
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
pub(crate) fn meta_args(
    meta: &[Line],
    escape: char,
    given: &BTreeMap<String, String>,
    automatic: &BTreeMap<String, String>,
) -> Result<plan::Args> {
    let mut values: plan::Args = automatic.iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
    let mut bytes = 0;
    for line in meta {
        let wrong = |message: String| Error::Parse { line: line.number, message };
        for word in words::split(&line.arguments, escape) {
            let (name, default) = word.split_once('=').map_or((word.as_str(), None), |(n, d)| (n, Some(d)));
            let value = match (given.get(name), default) {
                (Some(value), _) => Some(value.clone()),
                (None, Some(text)) => {
                    let lookup = |n: &str| values.get(n).cloned().flatten();
                    let value = words::expand(text, escape, &lookup);
                    Some(value.map_err(|e| wrong(format!("failed to process {text:?}: {e}")))?)
                }
                (None, None) => None,
            };
            bytes += name.len() + value.as_ref().map_or(0, String::len);
            words::bounded(bytes).map_err(wrong)?;
            values.insert(name.to_string(), value);
        }
    }
    Ok(values)
}

fn label_line(name: &str, value: &str, escape: char) -> Result<Line> {
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
    let line = crate::parse::instruction(&format!("LABEL {}={}", quote(name), quote(value)), 0, escape)?;
    Ok(Line { original: format!("LABEL {name}={value}"), ..line })
}
