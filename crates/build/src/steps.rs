//! The steps that bring files: `RUN` and `WORKDIR`, and what `COPY` and `ADD` share with them.
//!
//! Each is read first, which looks at no other stage's files, and then carried out, unless its result is known.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Config, ImageStore, Layer, Platform};

use crate::cache::{self, Made};
use crate::context::{Named, Tree};
use crate::copy;
use crate::error::{Error, Result};
use crate::flight::Work;
use crate::instruction::Command;
use crate::job::PREDEFINED;
use crate::mounts::{self, Mounts, Script};
use crate::parse::{self, Line};
use crate::report::Told;
use crate::runner::Step;
use crate::stage::Stage;
use crate::state::State;
use crate::{blocking, plan};

/// A step's snapshot, discarded unless it is sealed.
pub(crate) struct Scratch {
    images: Arc<ImageStore>,
    pub key: String,
    sealed: bool,
}

impl Scratch {
    /// A fresh writable layer above others.
    pub async fn new(images: &Arc<ImageStore>, key: String, below: &[Layer]) -> Result<Self> {
        images.prepare_layers(&key, below).await?;
        Ok(Self { images: images.clone(), key, sealed: false })
    }

    /// The layer that it has become; `None` if nothing changed.
    pub async fn seal(mut self) -> Result<Option<Layer>> {
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

/// Where the files of a `COPY` or a mount come from.
#[derive(Clone)]
pub(crate) enum Origin {
    /// Files of a context.
    Tree(Arc<Tree>),
    /// Layers of an image or a stage.
    Layers(Vec<Layer>),
}

impl Origin {
    /// Their root. Blocking.
    pub fn root(&self, images: &Arc<ImageStore>) -> Result<OwnedFd> {
        match self {
            Origin::Tree(tree) => tree.open(),
            Origin::Layers(layers) => {
                let ids: Vec<String> = layers.iter().map(|l| l.diff_id.clone()).collect();
                Ok(images.mount_layers(&ids)?)
            }
        }
    }

    /// The context that it is.
    pub fn tree(&self) -> Option<&Tree> {
        match self {
            Origin::Tree(tree) => Some(tree),
            Origin::Layers(_) => None,
        }
    }
}

/// What a `--from` or `from=` names.
#[derive(Clone)]
pub(crate) enum Place {
    /// Files that are here.
    Here(Origin),
    /// Those of an earlier stage, which may not be made.
    Stage(usize),
}

impl Stage<'_> {
    /// What a `--from` or `from=` names: a stage, something that the build was given, or an image.
    pub async fn place(&self, name: &str) -> Result<Place> {
        let job = self.job;
        Ok(Place::Here(match job.contexts.named(name).await? {
            Some(Named::Tree(tree)) => Origin::Tree(tree),
            Some(Named::State(state)) => Origin::Layers(state.layers.clone()),
            Some(Named::Image(image)) => self.image_origin(&image).await?,
            None => return self.stage_or_image(name).await,
        }))
    }

    async fn stage_or_image(&self, name: &str) -> Result<Place> {
        match plan::find(&self.job.plan.stages, name, self.index) {
            Some(n) => Ok(Place::Stage(n)),
            None if name.parse::<usize>().is_ok() => Err(Error::Step(format!(
                "invalid from flag value {name}: refers to current build stage or a later one"
            ))),
            None if name == "scratch" => Ok(Place::Here(Origin::Layers(Vec::new()))),
            None => Ok(Place::Here(self.image_origin(name).await?)),
        }
    }

    /// The files that are there, made if need be.
    pub async fn files(&self, place: &Place) -> Result<Origin> {
        match place {
            Place::Here(origin) => Ok(origin.clone()),
            Place::Stage(_) if self.known_only => Err(Error::NotMade),
            Place::Stage(n) => {
                self.wanted();
                Ok(Origin::Layers(self.job.earlier(*n).await?.layers.clone()))
            }
        }
    }

    /// Asks for the stages that this step and those after it take files of: a step that is not known makes what comes
    /// after it new.
    fn wanted(&self) {
        let stages = &self.job.plan.stages;
        plan::sources(stages, self.index, self.line).for_each(|n| self.job.want(n));
    }

    /// What is known of a step by its definition: its key, and what came out.
    pub async fn known_by(
        &self,
        definition: Option<&String>,
        state: &State,
        created_by: &str,
    ) -> Result<Option<(String, Made)>> {
        let Some(definition) = definition.filter(|_| !self.no_cache()) else { return Ok(None) };
        let Some(key) = self.job.builder.cache.key_of(definition)? else { return Ok(None) };
        Ok(self.known(&key, state, created_by).await?.map(|made| (key, made)))
    }

    /// Notes what a step made, and that it is found by its definition from now on.
    pub fn remember(
        &self,
        state: &mut State,
        key: String,
        definition: Option<String>,
        description: String,
        made: &Made,
    ) {
        if let Some(definition) = &definition {
            self.job.builder.cache.define(definition, &key);
        }
        state.record(key, definition, description, made);
    }

    async fn image_origin(&self, name: &str) -> Result<Origin> {
        let image = self.job.base_image(self.index, name, &self.job.platform).await?;
        Ok(Origin::Layers(self.job.builder.images.layers_of(&image)?))
    }

    /// Takes a step from the cache or from another build, or does it.
    pub async fn done(
        &self,
        key: &str,
        state: &State,
        created_by: &str,
        description: &str,
        work: Work,
    ) -> Result<Made> {
        match self.known(key, state, created_by).await? {
            Some(made) => Ok(made),
            None => self.fly(key, description, work).await,
        }
    }

    /// Does a step that is not in the cache, or waits for another build that does it.
    async fn fly(&self, key: &str, description: &str, work: Work) -> Result<Made> {
        if self.known_only {
            return Err(Error::NotMade);
        }
        self.wanted();
        let builder = self.job.builder.clone();
        let shared = (!self.no_cache()).then_some(key);
        let (own_key, description, again) = (key.to_string(), description.to_string(), shared.is_none());
        let remembering: Work = Box::new(move |out, cancel| {
            Box::pin(async move {
                // Another build may have done it since the cache was asked.
                if !again && let Some(made) = builder.cache.get(&own_key)? {
                    return Ok(made);
                }
                let made = work(out, cancel).await?;
                builder.cache.put(&own_key, &description, &made);
                Ok(made)
            })
        });
        self.job.builder.flights.run(shared, remembering, |piece| self.tell(Told::Output(piece))).await
    }

    /// Reads a `RUN`.
    pub async fn read_run(&self, state: &State, line: &Line) -> Result<Run> {
        let job = self.job;
        let flag = |name: &str| line.flags.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.as_deref());
        let allows = |entitlement| job.holder.as_ref().is_some_and(|h| h.allows(entitlement));
        let network = match flag("network") {
            None | Some("default") => job.options.network_mode.clone(),
            // What the client chose for the whole build, a step may have by its name, too.
            Some(mode) if mode == "none" || mode == job.options.network_mode => mode.to_string(),
            Some("host") if allows("network.host") => "host".into(),
            Some("host") => {
                return Err(Error::Step(
                    "network.host is not allowed: build with --network host or --allow network.host".into(),
                ));
            }
            Some(other) => {
                return Err(Error::Step(format!(
                    "invalid network mode {other:?}: it is default, none or host; others are for --network of the build"
                )));
            }
        };
        let privileged = match flag("security") {
            None | Some("sandbox") => false,
            Some("insecure") if allows("security.insecure") => true,
            Some("insecure") => {
                return Err(Error::Step(
                    "security.insecure is not allowed: build with --allow security.insecure".into(),
                ));
            }
            Some(other) => return Err(Error::Step(format!("security {other:?} is not supported"))),
        };
        let (args, script) = run_command(line, state.run());
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
        let mut created_by = match shown.len() {
            0 => command.clone(),
            n => format!("|{n} {} {command}", shown.join(" ")),
        };
        if !job.classic {
            created_by = format!("RUN {created_by} # buildkit");
        }
        let wanted = mounts::parse(line, &state.run().working_dir, |w| self.expand(state, w))?;
        let config = state.run();
        let visible: Vec<String> =
            config.env.iter().cloned().chain(shown.iter().map(ToString::to_string)).collect();
        let mut env = config.env.clone();
        env.extend(declared.iter().cloned());
        for (name, value) in &job.given {
            if PREDEFINED.contains(&name.as_str()) && state.env(name).is_none() {
                env.push(format!("{name}={value}"));
            }
        }
        let step = Step {
            id: base::rng::hex(32),
            args,
            env,
            working_dir: config.working_dir.clone(),
            user: config.user.clone(),
            network_mode: network,
            extra_hosts: job.options.extra_hosts.clone(),
            shm_size: job.options.shm_size,
            mounts: Vec::new(),
            resources: job.options.resources.clone(),
            ulimits: job.options.ulimits.clone(),
            cgroup_parent: job.options.cgroup_parent.clone(),
            privileged,
        };
        let script_text = script.as_ref().map(|s| s.content.as_str()).unwrap_or_default();
        let said = said(&step, &visible, script_text, &job.platform)?;
        let mounts = Mounts::plan(self, wanted, script).await?;
        Ok(Run { step, command, created_by, said, mounts })
    }

    pub async fn run(&mut self, state: &mut State, line: &Line) -> Result<()> {
        let job = self.job;
        let Run { step, command, created_by, said, mounts } = self.read_run(state, line).await?;
        let description = format!("mount / from exec {command}");
        let definition = match mounts.take_of_stages() && !job.classic {
            true => mounts.definition(self).await?.map(|mounts| run_key(&state.chain(), &said, &mounts)),
            false => None,
        };
        if let Some((key, made)) = self.known_by(definition.as_ref(), state, &created_by).await? {
            self.commit(state, &made, created_by)?;
            state.record(key, definition, description, &made);
            return Ok(());
        }
        let mounts = mounts.settle(self).await?;
        let key = run_key(&state.chain(), &said, &mounts.key().await?);
        if let Some(made) = self.known(&key, state, &created_by).await? {
            self.commit(state, &made, created_by)?;
            self.remember(state, key, definition, description, &made);
            return Ok(());
        }
        let id = step.id.clone();
        self.tell(Told::Running(id.clone())).await?;
        let (builder, layers, classic) = (job.builder.clone(), state.layers.clone(), job.classic);
        let holder = job.holder.clone();
        let said = command.clone();
        let work: Work = Box::new(move |out, cancel| {
            Box::pin(async move {
                let mut step = step;
                let scratch = Scratch::new(&builder.images, step.id.clone(), &layers).await?;
                let prepared = mounts.prepare(&builder, holder.as_ref(), &scratch.key).await?;
                step.mounts = prepared.mounts.clone();
                step.env.extend(prepared.env.iter().cloned());
                let code = builder.runner.run(step, out, cancel.clone()).await.map_err(Error::Runner)?;
                if cancel.is_cancelled() {
                    return Err(Error::Cancelled);
                }
                if code != 0 {
                    return Err(if classic {
                        Error::Run { command: said, code }
                    } else {
                        Error::Process { command: said, code }
                    });
                }
                prepared.finish(&builder, &scratch.key).await?;
                Ok(Made { layer: scratch.seal().await?, created: base::clock::now() })
            })
        });
        let made = self.fly(&key, &description, work).await?;
        self.tell(Told::Ran(id)).await?;
        self.commit(state, &made, created_by)?;
        self.remember(state, key, definition, description, &made);
        Ok(())
    }

    pub async fn workdir(&mut self, state: &mut State, line: &Line) -> Result<()> {
        let text = self.apply(state, line)?;
        let created_by = self.nop(state, &format!(" {text}"));
        let path = PathBuf::from(&state.run().working_dir);
        // Whose it becomes: the classic builder's are root's.
        let user = if self.job.classic { String::new() } else { state.run().user.clone() };
        let key = workdir_key(&state.chain(), &state.run().working_dir, &user);
        let (builder, layers) = (self.job.builder.clone(), state.layers.clone());
        let work: Work = Box::new(move |_, _| {
            Box::pin(async move {
                let (images, shown, below) = (builder.images.clone(), path.clone(), layers.clone());
                let exists = blocking(move || {
                    if below.is_empty() {
                        return Ok(shown == Path::new("/"));
                    }
                    let root = Origin::Layers(below).root(&images)?;
                    Ok(image::archive::root::stat(root.as_fd(), &shown, true).is_ok())
                })
                .await?;
                let mut layer = None;
                if !exists {
                    let scratch = Scratch::new(&builder.images, base::rng::hex(32), &layers).await?;
                    let snapshot = builder.images.snapshot(&scratch.key)?;
                    blocking(move || {
                        let root = snapshot.mount(true)?;
                        // A user that is not there yet is nobody's mistake so far.
                        let owner = copy::owner(&root, &user, false).unwrap_or((0, 0));
                        image::archive::root::make_dirs(root.as_fd(), &path, 0o755, owner).map_err(|e| {
                            Error::Step(format!("cannot make the working directory {}: {e}", path.display()))
                        })?;
                        Ok(())
                    })
                    .await?;
                    layer = scratch.seal().await?;
                }
                Ok(Made { layer, created: base::clock::now() })
            })
        });
        let made = self.done(&key, state, &created_by, &text, work).await?;
        self.commit(state, &made, created_by)?;
        state.record(key, None, text, &made);
        Ok(())
    }
}

/// A `RUN` with its variables resolved.
pub(crate) struct Run {
    step: Step,
    command: String,
    created_by: String,
    /// A digest of all that is said of it.
    pub said: String,
    pub mounts: Mounts,
}

/// A digest of what counts of a step, apart from its files. Each field is named here, so that a new one is thought of.
fn said(step: &Step, visible: &[String], script: &str, platform: &Platform) -> Result<String> {
    let Step {
        // A name of its own each time.
        id: _,
        args,
        // Of the environment counts what is visible: proxies are this machine's affair.
        env: _,
        working_dir,
        user,
        network_mode,
        extra_hosts,
        // They have a key of their own.
        mounts: _,
        // Limits say how much a step may take, not what it makes.
        shm_size: _,
        resources: _,
        ulimits: _,
        cgroup_parent: _,
        privileged,
    } = step;
    let list = |l: &[String]| serde_json::to_vec(l).map_err(image::Error::from);
    Ok(cache::key(&[
        &list(args)?,
        script.as_bytes(),
        &list(visible)?,
        working_dir.as_bytes(),
        user.as_bytes(),
        network_mode.as_bytes(),
        &list(extra_hosts)?,
        platform.to_string().as_bytes(),
        &[u8::from(*privileged)],
    ]))
}

/// The key of a `RUN` above files of that name.
pub(crate) fn run_key(below: &str, said: &str, mounts: &str) -> String {
    cache::key(&[b"run", below.as_bytes(), said.as_bytes(), mounts.as_bytes()])
}

/// The key of a `WORKDIR` above files of that name.
pub(crate) fn workdir_key(below: &str, path: &str, user: &str) -> String {
    cache::key(&[b"workdir", below.as_bytes(), path.as_bytes(), user.as_bytes()])
}

/// The command of a `RUN`, here-documents included; and a script that has to be there as a file, because it names its
/// own interpreter.
fn run_command(line: &Line, config: &Config) -> (Vec<String>, Option<Script>) {
    if line.heredocs.is_empty() {
        return (Command::parse(&line.arguments).argv(config), None);
    }
    let only = line.heredocs.len() == 1 && parse::heredoc(&line.arguments).is_some();
    let script = if only {
        let content = line.heredocs[0].content.clone();
        if content.starts_with("#!") {
            // Its name may be any text, also a path.
            let name = Path::new(&line.heredocs[0].name).file_name().and_then(|n| n.to_str());
            let name = name.unwrap_or("script").to_string();
            return (vec![format!("{}/{name}", mounts::SCRIPTS)], Some(Script { name, content }));
        }
        content
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
    (Command::Shell(script).argv(config), None)
}
