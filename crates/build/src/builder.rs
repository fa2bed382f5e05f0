//! The build itself: stage after stage, step after step, each from the cache or done.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Auth, Config, History, Image, ImageStore, Layer, NewImage, Platform, Progress, reference};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cache::{self, Cache};
use crate::context::{self, Context, Files};
use crate::copy::{self, From, Source, Target};
use crate::error::{Error, Result};
use crate::instruction::{self, Command};
use crate::parse::Line;
use crate::plan::{self, Plan};
use crate::runner::{Output, Step, StepRunner};
use crate::{download, words};

/// Arguments that are there without `ARG` and that neither history nor cache keys show.
const PREDEFINED: [&str; 10] = [
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

/// What a build is asked for.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Path in the context; empty is `Dockerfile`.
    pub dockerfile: String,
    /// Names for the result.
    pub tags: Vec<String>,
    /// `--build-arg`; a name without a value counts as not given.
    pub build_args: BTreeMap<String, Option<String>>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--target`; empty is the last stage.
    pub target: String,
    /// Do every step again.
    pub no_cache: bool,
    /// Look for newer base images.
    pub pull: bool,
    /// Say the result's id and nothing else.
    pub quiet: bool,
    /// Network of `RUN`.
    pub network_mode: String,
    /// `name:address` lines for `RUN`.
    pub extra_hosts: Vec<String>,
    /// Bytes of /dev/shm in `RUN`.
    pub shm_size: Option<u64>,
    /// Limits of `RUN`.
    pub resources: Option<oci_spec::runtime::LinuxResources>,
    /// `--platform`.
    pub platform: Option<Platform>,
    /// Credentials by registry.
    pub auths: HashMap<String, Auth>,
}

/// What a build tells while it goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Text for the user.
    Stream(String),
    /// A base image being pulled.
    Progress(Progress),
    /// The id of the result.
    Built(String),
}

/// Builds images. One per instance; builds may run at the same time.
pub struct Builder {
    images: Arc<ImageStore>,
    runner: Arc<dyn StepRunner>,
    cache: Cache,
    scratch: PathBuf,
}

impl Builder {
    /// Opens the cache below `data_dir` and removes what interrupted builds left.
    pub fn open(images: Arc<ImageStore>, runner: Arc<dyn StepRunner>, data_dir: &Path) -> Result<Arc<Self>> {
        let scratch = data_dir.join("build");
        std::fs::create_dir_all(&scratch)?;
        for entry in std::fs::read_dir(&scratch)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b"context-") {
                std::fs::remove_dir_all(entry.path())?;
            } else if entry.file_name().as_encoded_bytes().starts_with(b".tmp") {
                std::fs::remove_file(entry.path())?;
            }
        }
        let cache = Cache::open(&scratch.join("cache.db"))?;
        Ok(Arc::new(Self { images, runner, cache, scratch }))
    }

    /// Forgets cached steps: all, or those whose image is gone. Returns how many.
    pub fn prune_cache(&self, all: bool) -> Result<usize> {
        self.cache.prune(|image| !all && self.images.get(image).is_ok())
    }

    /// Builds and returns the image's id. Text goes to `out`; a closed `out` or `cancel` ends the build.
    pub async fn build(
        &self,
        context: Context,
        options: Options,
        out: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) -> Result<String> {
        let tags = options
            .tags
            .iter()
            .map(|t| {
                let r = reference::parse_tagged(t)?;
                if r.digest.is_some() {
                    return Err(image::Error::Invalid("build tag cannot contain a digest".into()));
                }
                Ok(r)
            })
            .collect::<image::Result<Vec<_>>>()?;
        let files = context::receive(context, &self.scratch, &options.dockerfile).await?;
        let parsed = crate::parse::parse(&files.dockerfile)?;
        let escape = parsed.escape;
        let given = given_args(&options);
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let automatic = automatic_args(&platform);
        let meta_value = |meta: &[Line], name: &str| {
            meta_args(meta, escape, &given, &automatic).get(name).cloned().flatten()
        };
        let mut plan = plan::plan(parsed, &options.target, &meta_value)?;
        if !options.labels.is_empty()
            && let Some(stage) = plan.needed.last().and_then(|i| plan.stages.get_mut(*i))
        {
            stage.lines.push(label_line(&options.labels, escape)?);
        }
        let total =
            plan.meta.len() + plan.needed.iter().map(|i| 1 + plan.stages[*i].lines.len()).sum::<usize>();
        let global = meta_args(&plan.meta, escape, &given, &automatic);
        let mut run = Run {
            b: self,
            options: &options,
            out: &out,
            cancel,
            files: Arc::new(files),
            plan,
            escape,
            platform,
            given,
            global,
            automatic,
            consumed: BTreeSet::new(),
            step: 0,
            total,
            done: HashMap::new(),
        };
        let id = run.all().await?;
        for tag in &tags {
            self.images.tag(&id, &tag.to_string()).await?;
        }
        if options.quiet {
            send(&out, Event::Stream(format!("{id}\n"))).await?;
            return Ok(id);
        }
        send(&out, Event::Built(id.clone())).await?;
        send(&out, Event::Stream(format!("Successfully built {}\n", image::short(&id)))).await?;
        for tag in &tags {
            send(&out, Event::Stream(format!("Successfully tagged {}\n", tag.familiar()))).await?;
        }
        Ok(id)
    }
}

async fn send(out: &mpsc::Sender<Event>, event: Event) -> Result<()> {
    out.send(event).await.map_err(|_| Error::Cancelled)
}

fn given_args(options: &Options) -> BTreeMap<String, String> {
    options.build_args.iter().filter_map(|(k, v)| Some((k.clone(), v.clone()?))).collect()
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

/// A stage while it is built.
#[derive(Clone, Default)]
struct State {
    image: Option<Arc<Image>>,
    config: Config,
    /// Declared arguments with their values.
    args: BTreeMap<String, Option<String>>,
    cmd_set: bool,
}

impl State {
    fn env(&self, name: &str) -> Option<String> {
        self.config
            .env
            .iter()
            .find_map(|e| e.split_once('=').filter(|(n, _)| *n == name).map(|(_, v)| v.to_string()))
    }

    fn lookup(&self, name: &str) -> Option<String> {
        self.env(name).or_else(|| self.args.get(name).cloned().flatten())
    }
}

struct Run<'a> {
    b: &'a Builder,
    options: &'a Options,
    out: &'a mpsc::Sender<Event>,
    cancel: CancellationToken,
    files: Arc<Files>,
    plan: Plan,
    escape: char,
    platform: Platform,
    given: BTreeMap<String, String>,
    global: BTreeMap<String, Option<String>>,
    automatic: BTreeMap<String, String>,
    consumed: BTreeSet<String>,
    step: usize,
    total: usize,
    done: HashMap<usize, State>,
}

impl Run<'_> {
    async fn say(&self, text: String) -> Result<()> {
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if self.options.quiet { Ok(()) } else { send(self.out, Event::Stream(text)).await }
    }

    async fn announce(&mut self, line: &Line) -> Result<()> {
        self.step += 1;
        self.say(format!("Step {}/{} : {}\n", self.step, self.total, line.original)).await
    }

    async fn all(&mut self) -> Result<String> {
        for line in self.plan.meta.clone() {
            self.announce(&line).await?;
            for word in words::split(&line.arguments, self.escape) {
                let name = word.split('=').next().unwrap_or_default().to_string();
                self.consumed.insert(name);
            }
        }
        let mut last = None;
        for i in self.plan.needed.clone() {
            let state = self.stage(i).await?;
            last = state.image.clone();
            self.done.insert(i, state);
        }
        let unused: Vec<&str> = self
            .options
            .build_args
            .keys()
            .map(String::as_str)
            .filter(|n| {
                !self.consumed.contains(*n) && !PREDEFINED.contains(n) && !self.automatic.contains_key(*n)
            })
            .collect();
        if !unused.is_empty() {
            self.say(format!("[Warning] One or more build-args [{}] were not consumed\n", unused.join(" ")))
                .await?;
        }
        match last {
            Some(image) => Ok(image.id.clone()),
            None => Err(Error::Invalid("No image was generated. Is your Dockerfile empty?".into())),
        }
    }

    async fn stage(&mut self, i: usize) -> Result<State> {
        let stage = self.plan.stages[i].clone();
        self.announce(&stage.from).await?;
        let mut state = State::default();
        let platform = match &stage.platform {
            Some(p) => Platform::parse(p)?,
            None => self.platform.clone(),
        };
        let base_stage = self.plan.stages[..i]
            .iter()
            .rposition(|s| s.name.as_deref() == Some(stage.base.to_ascii_lowercase().as_str()));
        state.image = match base_stage {
            Some(n) => self.done.get(&n).and_then(|s| s.image.clone()),
            None if stage.base == "scratch" => None,
            None => Some(self.base_image(&stage.base, &platform).await?),
        };
        let mut triggers = Vec::new();
        if let Some(image) = &state.image {
            state.config = image.run_config().clone();
            if base_stage.is_none() {
                triggers = std::mem::take(&mut state.config.on_build);
            }
        }
        let shown = state.image.as_ref().map(|i| i.short_id().to_string()).unwrap_or_default();
        if !triggers.is_empty() {
            let plural = if triggers.len() == 1 { "" } else { "s" };
            self.say(format!("# Executing {} build trigger{plural}\n", triggers.len())).await?;
            for text in &triggers {
                let line = crate::parse::instruction(text, stage.from.number, self.escape)?;
                self.dispatch(&mut state, &line, i).await?;
            }
        }
        self.say(format!(" ---> {shown}\n")).await?;
        for line in &stage.lines {
            self.announce(line).await?;
            self.dispatch(&mut state, line, i).await?;
        }
        if state.image.is_none() && !stage.lines.is_empty() {
            // Only arguments: still an image, an empty one.
            self.commit(&mut state, None, "FROM scratch".into(), None).await?;
        }
        Ok(state)
    }

    /// The image of that name, pulled if it is not here (or `--pull`).
    async fn base_image(&self, name: &str, platform: &Platform) -> Result<Arc<Image>> {
        let local = self.b.images.get(name);
        match (local, self.options.pull) {
            (Ok(image), false) => {
                let c = &image.config;
                if self.options.platform.is_some() && !platform.accepts(&c.os, &c.architecture, &c.variant) {
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
        let auth = self.options.auths.get(&reference.domain).cloned();
        let (tx, mut rx) = mpsc::channel(64);
        let out = self.out.clone();
        let quiet = self.options.quiet;
        let forward = tokio::spawn(async move {
            while let Some(p) = rx.recv().await {
                if !quiet && out.send(Event::Progress(p)).await.is_err() {
                    break;
                }
            }
        });
        let pulled = self.b.images.pull(&reference.to_string(), auth, Some(platform.clone()), tx).await;
        // The sender is gone, so the forwarder ends as soon as it has told everything.
        let _ = forward.await;
        Ok(pulled?)
    }

    async fn dispatch(&mut self, state: &mut State, line: &Line, stage: usize) -> Result<()> {
        match line.keyword {
            "ARG" => self.arg(state, line).await,
            "RUN" => self.run(state, line).await,
            "COPY" | "ADD" => {
                let keyword = line.keyword;
                self.copy(state, line, stage).await.map_err(|e| match e {
                    Error::Step(why) => Error::Step(format!("{keyword} failed: {why}")),
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

    fn apply(&self, state: &mut State, line: &Line) -> Result<String> {
        let before = state.clone();
        let lookup = |name: &str| before.lookup(name);
        instruction::apply(&mut state.config, line, self.escape, &lookup, &mut state.cmd_set)
            .map_err(Error::Step)
    }

    fn expand(&self, state: &State, word: &str) -> Result<String> {
        words::expand(word, self.escape, &|n| state.lookup(n))
            .map_err(|e| Error::Step(format!("failed to process {word:?}: {e}")))
    }

    /// `/bin/sh -c #(nop)  TEXT`: what the history says of a step that runs nothing.
    fn nop(state: &State, text: &str) -> String {
        format!("{} #(nop) {text}", instruction::shell_of(&state.config).join(" "))
    }

    async fn metadata(&self, state: &mut State, text: String) -> Result<()> {
        let created_by = Self::nop(state, &format!(" {text}"));
        let Some(key) = self.probe(state, &created_by).await? else { return Ok(()) };
        self.commit(state, None, created_by, Some(key)).await
    }

    async fn arg(&mut self, state: &mut State, line: &Line) -> Result<()> {
        let mut shown = Vec::new();
        for word in words::split(&line.arguments, self.escape) {
            let (name, default) = match word.split_once('=') {
                Some((n, d)) => (self.expand(state, n)?, Some(self.expand(state, d)?)),
                None => (self.expand(state, &word)?, None),
            };
            shown.push(default.as_ref().map_or_else(|| name.clone(), |d| format!("{name}={d}")));
            let value = self
                .given
                .get(&name)
                .cloned()
                .or(default)
                .or_else(|| self.global.get(&name).cloned().flatten());
            state.args.insert(name.clone(), value);
            self.consumed.insert(name);
        }
        self.metadata(state, format!("ARG {}", shown.join(" "))).await
    }

    /// The key of a step, or `None` if the cache had its result, which is then the state's image.
    async fn probe(&self, state: &mut State, created_by: &str) -> Result<Option<String>> {
        let parent = state.image.as_ref().map_or("", |i| i.id.as_str());
        let config = serde_json::to_vec(&state.config).map_err(image::Error::from)?;
        let platform = self.platform.to_string();
        let key = cache::key(&[parent.as_bytes(), created_by.as_bytes(), &config, platform.as_bytes()]);
        if self.options.no_cache {
            return Ok(Some(key));
        }
        let Some(image) = self.b.cache.get(&key)?.and_then(|id| self.b.images.get(&id).ok()) else {
            return Ok(Some(key));
        };
        self.say(" ---> Using cache\n".into()).await?;
        self.say(format!(" ---> {}\n", image.short_id())).await?;
        state.image = Some(image);
        Ok(None)
    }

    async fn commit(
        &self,
        state: &mut State,
        layer: Option<Layer>,
        created_by: String,
        key: Option<String>,
    ) -> Result<()> {
        let author = match created_by.split_once("#(nop)  MAINTAINER ") {
            Some((_, author)) => author.to_string(),
            None => String::new(),
        };
        let image = self
            .b
            .images
            .create(NewImage {
                parent: state.image.as_ref().map(|i| i.id.clone()),
                layer,
                config: state.config.clone(),
                history: History { created_by, ..History::default() },
                author,
                comment: String::new(),
                platform: state.image.is_none().then(|| self.platform.clone()),
                keep_parent: true,
            })
            .await?;
        if let Some(key) = key {
            self.b.cache.put(&key, &image.id)?;
        }
        self.say(format!(" ---> {}\n", image.short_id())).await?;
        state.image = Some(image);
        Ok(())
    }

    /// A fresh writable layer above the state's image.
    async fn prepare(&self, state: &State) -> Result<Scratch> {
        let key = base::rng::hex(32);
        match &state.image {
            Some(image) => self.b.images.prepare(&key, image).await?,
            None => self.b.images.prepare_layers(&key, &[]).await?,
        };
        Ok(Scratch { images: self.b.images.clone(), key, sealed: false })
    }

    async fn run(&mut self, state: &mut State, line: &Line) -> Result<()> {
        if let Some((name, _)) = line.flags.iter().find(|(n, v)| n != "network" || v.is_none()) {
            return Err(Error::Step(format!(
                "the --{name} option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/ to learn how to \
                 build images with BuildKit enabled"
            )));
        }
        let network = line.flags.iter().find_map(|(n, v)| (n == "network").then(|| v.clone()).flatten());
        let args = run_command(line, &state.config);
        let mut declared: Vec<String> = state
            .args
            .iter()
            .filter(|(name, _)| state.env(name).is_none())
            .filter_map(|(name, value)| Some(format!("{name}={}", value.as_ref()?)))
            .collect();
        declared.sort();
        let shown: Vec<&str> = declared
            .iter()
            .map(String::as_str)
            .filter(|d| !PREDEFINED.contains(&d.split('=').next().unwrap_or_default()))
            .collect();
        let command = args.join(" ");
        let created_by = match shown.len() {
            0 => command.clone(),
            n => format!("|{n} {} {command}", shown.join(" ")),
        };
        let Some(key) = self.probe(state, &created_by).await? else { return Ok(()) };
        let mut env = state.config.env.clone();
        env.extend(declared);
        for (name, value) in &self.given {
            if PREDEFINED.contains(&name.as_str()) && state.env(name).is_none() {
                env.push(format!("{name}={value}"));
            }
        }
        let mut scratch = self.prepare(state).await?;
        self.say(format!(" ---> Running in {}\n", &scratch.key[..12])).await?;
        let step = Step {
            id: scratch.key.clone(),
            args,
            env,
            working_dir: state.config.working_dir.clone(),
            user: state.config.user.clone(),
            network_mode: match network.as_deref() {
                Some("default") | None => self.options.network_mode.clone(),
                Some(mode) => mode.to_string(),
            },
            extra_hosts: self.options.extra_hosts.clone(),
            shm_size: self.options.shm_size,
            mounts: Vec::new(),
            resources: self.options.resources.clone(),
        };
        let (tx, rx) = mpsc::channel(64);
        let running = self.b.runner.run(step, tx, self.cancel.clone());
        let (code, told) = tokio::join!(running, self.tell(rx));
        let code = code.map_err(Error::Runner)?;
        told?;
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        if code != 0 {
            return Err(Error::Run { command, code });
        }
        let id = scratch.key[..12].to_string();
        let layer = scratch.seal().await?;
        self.say(format!(" ---> Removed intermediate container {id}\n")).await?;
        self.commit(state, layer, created_by, Some(key)).await
    }

    /// Passes a step's output on; the error stream in red, as the classic builder shows it.
    async fn tell(&self, mut output: mpsc::Receiver<Output>) -> Result<()> {
        let mut rest: [Vec<u8>; 2] = Default::default();
        let mut result = Ok(());
        while let Some(piece) = output.recv().await {
            let buf = &mut rest[usize::from(piece.stderr)];
            buf.extend_from_slice(&piece.data);
            let text = whole_characters(buf);
            if !text.is_empty() && result.is_ok() {
                result = self.say(if piece.stderr { format!("\x1b[91m{text}\x1b[0m") } else { text }).await;
                if result.is_err() {
                    // Nobody listens any more: end the step, but take its output so that it can end.
                    self.cancel.cancel();
                }
            }
        }
        for buf in rest.iter().filter(|b| !b.is_empty()) {
            if result.is_ok() {
                result = self.say(String::from_utf8_lossy(buf).into_owned()).await;
            }
        }
        result
    }

    async fn workdir(&mut self, state: &mut State, line: &Line) -> Result<()> {
        let text = self.apply(state, line)?;
        let created_by = Self::nop(state, &format!(" {text}"));
        let Some(key) = self.probe(state, &created_by).await? else { return Ok(()) };
        let path = PathBuf::from(&state.config.working_dir);
        let exists = match &state.image {
            Some(image) => {
                let (images, image, path) = (self.b.images.clone(), image.clone(), path.clone());
                blocking(move || {
                    let root = images.mount_image(&image)?;
                    Ok(image::archive::root::stat(root.as_fd(), &path, true).is_ok())
                })
                .await?
            }
            None => path == Path::new("/"),
        };
        let mut layer = None;
        if !exists {
            let mut scratch = self.prepare(state).await?;
            let snapshot = self.b.images.snapshot(&scratch.key)?;
            blocking(move || {
                let root = snapshot.mount(true)?;
                image::archive::root::make_dirs(root.as_fd(), &path, 0o755, (0, 0)).map_err(|e| {
                    Error::Step(format!("cannot make the working directory {}: {e}", path.display()))
                })?;
                Ok(())
            })
            .await?;
            layer = scratch.seal().await?;
        }
        self.commit(state, layer, created_by, Some(key)).await
    }

    async fn copy(&mut self, state: &mut State, line: &Line, stage: usize) -> Result<()> {
        let flag = |name: &str| line.flags.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.as_deref());
        for unsupported in ["parents", "exclude", "checksum"] {
            if line.flags.iter().any(|(n, _)| n == unsupported) {
                return Err(Error::Step(format!("the --{unsupported} option is not supported")));
            }
        }
        let (source_words, dest) = instruction::sources(line, self.escape).map_err(Error::Step)?;
        let dest = self.expand(state, &dest)?;
        let mut found = Vec::new();
        // Where sources come from: a stage, an image, or the context.
        let mut leases: Option<Arc<Image>> = None;
        let from_context = flag("from").is_none();
        let root: OwnedFd = match flag("from") {
            Some(name) => {
                let name = self.expand(state, name)?;
                let image = match plan::find(&self.plan.stages, &name, stage) {
                    Some(n) => self.done.get(&n).and_then(|s| s.image.clone()).ok_or_else(|| {
                        Error::Step(format!("stage {name} has no files: it is FROM scratch without any step"))
                    })?,
                    None if name.parse::<usize>().is_ok() => {
                        return Err(Error::Step(format!(
                            "invalid from flag value {name}: refers to current build stage or a later one"
                        )));
                    }
                    None => self.base_image(&name, &self.platform.clone()).await?,
                };
                leases = Some(image.clone());
                let images = self.b.images.clone();
                blocking(move || Ok(images.mount_image(&image)?)).await?
            }
            None => std::fs::File::open(&self.files.path)?.into(),
        };
        for heredoc in &line.heredocs {
            let content = if heredoc.expand {
                words::expand_text(&heredoc.content, self.escape, &|n| state.lookup(n))
                    .map_err(Error::Step)?
            } else {
                heredoc.content.clone()
            };
            found.push(Source::Inline { name: heredoc.name.clone(), content });
        }
        let mut paths = Vec::new();
        for word in &source_words {
            let word = self.expand(state, word)?;
            if line.keyword == "ADD" && (word.starts_with("http://") || word.starts_with("https://")) {
                let got = download::get(&word, &self.b.scratch).await.map_err(Error::Step)?;
                let folder = dest.ends_with('/');
                if got.name.is_empty() && folder {
                    return Err(Error::Step(format!("cannot determine filename from url: {word}")));
                }
                found.push(Source::Download { name: got.name, file: got.file, mtime: got.mtime });
            } else {
                paths.push(word);
            }
        }
        let files = self.files.clone();
        let (root, sources, digest) = blocking(move || {
            let from = From { root: &root, ignore: from_context.then_some(&files.ignore) };
            let mut all = found;
            for word in &paths {
                all.extend(from.find(word).map_err(Error::Step)?);
            }
            if all.is_empty() {
                return Err(Error::Step("no source files were specified".into()));
            }
            let digest = from.digest(&all).map_err(Error::Step)?;
            Ok((root, all, digest))
        })
        .await?;
        let written_as_folder = dest.ends_with('/') || dest == "." || dest.ends_with("/.");
        if sources.len() > 1 && !written_as_folder {
            return Err(Error::Step(format!(
                "When using {} with more than one source file, the destination must be a directory and end with a /",
                line.keyword
            )));
        }
        let chown = flag("chown").map(|c| self.expand(state, c)).transpose()?;
        let chmod = flag("chmod").map(|c| self.expand(state, c)).transpose()?;
        let mode = chmod
            .as_deref()
            .map(|m| {
                u32::from_str_radix(m, 8).ok().filter(|m| *m <= 0o7777).ok_or_else(|| {
                    Error::Step(format!(
                        "invalid chmod parameter: '{m}'. it should be octal string and between 0 and 07777"
                    ))
                })
            })
            .transpose()?;
        let target_path = instruction::absolute(&state.config.working_dir, &dest);
        let mut text = line.keyword.to_string();
        for (name, value) in [("chown", &chown), ("chmod", &chmod)] {
            if let Some(v) = value {
                text.push_str(&format!(" --{name}={v}"));
            }
        }
        // The destination as a path of the image, because the working directory is part of what is done.
        let slash = if written_as_folder && target_path != "/" { "/" } else { "" };
        let created_by = Self::nop(state, &format!("{text} {digest} in {target_path}{slash} "));
        let Some(key) = self.probe(state, &created_by).await? else { return Ok(()) };
        let mut scratch = self.prepare(state).await?;
        let snapshot = self.b.images.snapshot(&scratch.key)?;
        let files = self.files.clone();
        let unpack = line.keyword == "ADD";
        blocking(move || {
            let merged = snapshot.mount(true)?;
            let target = Target {
                path: target_path,
                folder: written_as_folder,
                owner: chown
                    .as_deref()
                    .map(|c| copy::owner(&merged, c))
                    .transpose()
                    .map_err(Error::Step)?
                    .unwrap_or((0, 0)),
                owner_given: chown.is_some(),
                mode,
                unpack,
            };
            let from = From { root: &root, ignore: from_context.then_some(&files.ignore) };
            from.write(&sources, &merged, &target).map_err(Error::Step)
        })
        .await?;
        drop(leases);
        let layer = scratch.seal().await?;
        self.commit(state, layer, created_by, Some(key)).await
    }
}

/// The command of a `RUN`, here-documents included.
fn run_command(line: &Line, config: &Config) -> Vec<String> {
    if line.heredocs.is_empty() {
        return Command::parse(&line.arguments).argv(config);
    }
    let only = line.heredocs.len() == 1 && {
        let rest = line.arguments.trim_start_matches("<<").trim_start_matches('-');
        rest.trim_matches(['"', '\'']) == line.heredocs[0].name
    };
    let script = if only {
        line.heredocs[0].content.clone()
    } else {
        // The shell reads its here-documents itself.
        let mut text = line.arguments.clone();
        text.push('\n');
        for h in &line.heredocs {
            text.push_str(&h.content);
            text.push_str(&h.name);
            text.push('\n');
        }
        text
    };
    Command::Shell(script).argv(config)
}

/// Takes what is complete UTF-8 from the front of a buffer; what can never be is replaced.
fn whole_characters(buf: &mut Vec<u8>) -> String {
    let keep = match std::str::from_utf8(buf) {
        Err(e) if e.error_len().is_none() => buf.len() - e.valid_up_to(),
        _ => 0,
    };
    let rest = buf.split_off(buf.len() - keep);
    let text = String::from_utf8_lossy(buf).into_owned();
    *buf = rest;
    text
}

/// A step's snapshot, discarded unless it is sealed.
struct Scratch {
    images: Arc<ImageStore>,
    key: String,
    sealed: bool,
}

impl Scratch {
    async fn seal(&mut self) -> Result<Option<Layer>> {
        let layer = self.images.seal_snapshot(&self.key).await?;
        self.sealed = true;
        Ok(layer)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.sealed {
            return;
        }
        let (images, key) = (self.images.clone(), self.key.clone());
        if let Ok(handle) = tokio::runtime::Handle::try_current() {
            handle.spawn(async move {
                if let Err(error) = images.discard(&key).await {
                    tracing::warn!(%error, key, "a build step's snapshot stays until the next start");
                }
            });
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(Error::Cancelled),
    }
}
