//! The steps that bring files: `RUN`, `WORKDIR`, `COPY` and `ADD`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use image::{Config, ImageStore, Layer};

use crate::cache::{self, Made};
use crate::context::{Named, Tree};
use crate::copy::{self, From, Source, Target};
use crate::error::{Error, Result};
use crate::flight::Work;
use crate::instruction::{self, Command};
use crate::job::PREDEFINED;
use crate::mounts::{self, Mounts, Script};
use crate::parse::{self, Line};
use crate::pattern::Ignore;
use crate::report::Told;
use crate::runner::Step;
use crate::stage::Stage;
use crate::state::State;
use crate::{blocking, download, plan, remote};

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

    fn ignore(&self) -> Option<&Ignore> {
        match self {
            Origin::Tree(tree) => Some(&tree.ignore),
            Origin::Layers(_) => None,
        }
    }
}

impl Stage<'_> {
    /// What a `--from` or `from=` names: a stage, something that the build was given, or an image.
    pub async fn origin(&self, name: &str) -> Result<Origin> {
        let job = self.job;
        match job.contexts.named(name).await? {
            Some(Named::Tree(tree)) => return Ok(Origin::Tree(tree)),
            Some(Named::State(state)) => return Ok(Origin::Layers(state.layers.clone())),
            Some(Named::Image(image)) => return self.image_origin(&image).await,
            None => {}
        }
        match plan::find(&job.plan.stages, name, self.index) {
            Some(n) => Ok(Origin::Layers(job.earlier(n).await?.layers.clone())),
            None if name.parse::<usize>().is_ok() => Err(Error::Step(format!(
                "invalid from flag value {name}: refers to current build stage or a later one"
            ))),
            None if name == "scratch" => Ok(Origin::Layers(Vec::new())),
            None => self.image_origin(name).await,
        }
    }

    async fn image_origin(&self, name: &str) -> Result<Origin> {
        let image = self.job.base_image(self.index, name, &self.job.platform).await?;
        Ok(Origin::Layers(self.job.builder.images.layers_of(&image)?))
    }

    /// Takes a step from the cache or from another build, or does it.
    async fn done(
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

    pub async fn run(&mut self, state: &mut State, line: &Line) -> Result<()> {
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
        let mut mounts = Mounts::plan(self, wanted).await?;
        let config = state.run().clone();
        let key = {
            let visible: Vec<String> =
                config.env.iter().cloned().chain(shown.iter().map(ToString::to_string)).collect();
            let list = |l: &[String]| serde_json::to_vec(l).map_err(image::Error::from);
            cache::key(&[
                b"run",
                state.chain().as_bytes(),
                &list(&args)?,
                script.as_ref().map(|s| s.content.as_str()).unwrap_or_default().as_bytes(),
                &list(&visible)?,
                config.working_dir.as_bytes(),
                config.user.as_bytes(),
                network.as_bytes(),
                &list(&job.options.extra_hosts)?,
                mounts.key().await?.as_bytes(),
                job.platform.to_string().as_bytes(),
                &[u8::from(privileged)],
            ])
        };
        mounts.script(script);
        let mut env = config.env.clone();
        env.extend(declared.iter().cloned());
        for (name, value) in &job.given {
            if PREDEFINED.contains(&name.as_str()) && state.env(name).is_none() {
                env.push(format!("{name}={value}"));
            }
        }
        let id = base::rng::hex(32);
        let step = Step {
            id: id.clone(),
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
        let description = format!("mount / from exec {command}");
        if let Some(made) = self.known(&key, state, &created_by).await? {
            self.commit(state, &made, created_by)?;
            state.record(key, description, &made);
            return Ok(());
        }
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
        state.record(key, description, &made);
        Ok(())
    }

    pub async fn workdir(&mut self, state: &mut State, line: &Line) -> Result<()> {
        let text = self.apply(state, line)?;
        let created_by = self.nop(state, &format!(" {text}"));
        let path = PathBuf::from(&state.run().working_dir);
        // Whose it becomes: the classic builder's are root's.
        let user = if self.job.classic { String::new() } else { state.run().user.clone() };
        let key = cache::key(&[
            b"workdir",
            state.chain().as_bytes(),
            path.as_os_str().as_encoded_bytes(),
            user.as_bytes(),
        ]);
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
        state.record(key, text, &made);
        Ok(())
    }

    pub async fn copy(&mut self, state: &mut State, line: &Line) -> Result<()> {
        let job = self.job;
        let flag = |name: &str| line.flags.iter().find(|(n, _)| n == name).and_then(|(_, v)| v.as_deref());
        let switch = |name: &str| switch(line, name);
        let (source_words, dest) = instruction::sources(line, job.escape).map_err(Error::Step)?;
        let dest = self.expand(state, &dest)?;
        let mut found = Vec::new();
        for heredoc in &line.heredocs {
            if Path::new(&heredoc.name).file_name() != Some(heredoc.name.as_ref()) {
                return Err(Error::Step(format!(
                    "here-document {:?}: its name is that of a file, without folders",
                    heredoc.name
                )));
            }
            let content = if heredoc.expand {
                self.expand_text(state, &heredoc.content)?
            } else {
                heredoc.content.clone()
            };
            found.push(Source::Inline { name: heredoc.name.clone(), content });
        }
        let checksum = flag("checksum").map(|c| self.expand(state, c)).transpose()?;
        let mut paths = Vec::new();
        let mut clones: Vec<Arc<Tree>> = Vec::new();
        for word in &source_words {
            let word = self.expand(state, word)?;
            if line.keyword == "ADD"
                && let Some(git) = remote::Git::parse(&word)
            {
                clones.push(Arc::new(git.checkout(&job.builder.scratch, switch("keep-git-dir")?).await?));
            } else if line.keyword == "ADD" && (word.starts_with("http://") || word.starts_with("https://")) {
                let got = download::get(&word, &job.builder.scratch).await.map_err(Error::Step)?;
                if let Some(wanted) = &checksum {
                    let file = got.file.reopen()?;
                    let digest = blocking(move || copy::digest_of_file(file)).await?;
                    if digest != *wanted {
                        return Err(Error::Step(format!("digest mismatch {digest}: {wanted}")));
                    }
                }
                if got.name.is_empty() && dest.ends_with('/') {
                    return Err(Error::Step(format!("cannot determine filename from url: {word}")));
                }
                found.push(Source::Download { name: got.name, file: got.file, mtime: got.mtime });
            } else {
                paths.push(word);
            }
        }
        if checksum.is_some() && !paths.is_empty() {
            return Err(Error::Step("checksum can't be specified for non-HTTP(S) sources".into()));
        }
        let origin = match flag("from") {
            Some(name) => self.origin(&self.expand(state, name)?).await?,
            // Without paths no file of the context is wanted, so it is not fetched.
            None if paths.is_empty() => Origin::Tree(Arc::new(remote::at(job.builder.scratch.clone()))),
            None => Origin::Tree(job.contexts.main().await?),
        };
        let mut excludes = Vec::new();
        for (_, value) in line.flags.iter().filter(|(n, _)| n == "exclude") {
            excludes.push(self.expand(state, value.as_deref().unwrap_or_default())?);
        }
        let exclude = if excludes.is_empty() {
            None
        } else {
            Some(Ignore::parse(&excludes.join("\n")).map_err(Error::Step)?)
        };
        let parents = switch("parents")?;
        let images = job.builder.images.clone();
        let (clones_in, classic) = (clones.clone(), job.classic);
        let (origin, root, sources, digest) = blocking(move || {
            let root = origin.root(&images)?;
            let from = From { root: &root, ignore: origin.ignore(), exclude: exclude.as_ref(), parents };
            let mut all = found;
            for word in &paths {
                if classic && origin.ignore().is_some() && copy::escapes(word) {
                    return Err(Error::Step(format!("forbidden path outside the build context: {word} ()")));
                }
                all.extend(from.find(word).map_err(|e| missing(classic, word, e))?);
            }
            if all.is_empty() && clones_in.is_empty() {
                return Err(Error::Step("no source files were specified".into()));
            }
            let mut digests = Vec::new();
            if !all.is_empty() {
                digests.push(from.digest(&all).map_err(Error::Step)?);
            }
            for clone in &clones_in {
                let root = clone.open()?;
                let from = From { root: &root, ignore: None, exclude: exclude.as_ref(), parents: false };
                let all = from.find(".").map_err(Error::Step)?;
                digests.push(from.digest(&all).map_err(Error::Step)?);
            }
            Ok((origin, (root, exclude), all, digests.join(",")))
        })
        .await?;
        let written_as_folder =
            dest.ends_with('/') || dest == "." || dest == ".." || dest.ends_with("/.") || parents;
        if sources.len() + clones.len() > 1 && !written_as_folder {
            return Err(Error::Step(format!(
                "When using {} with more than one source file, the destination must be a directory and end with a /",
                line.keyword
            )));
        }
        let chown = flag("chown").map(|c| self.expand(state, c)).transpose()?;
        let chmod = flag("chmod").map(|c| self.expand(state, c)).transpose()?;
        let mode = chmod.as_deref().map(copy::mode).transpose().map_err(Error::Step)?;
        let target_path = instruction::absolute(&state.run().working_dir, &dest);
        // Files that don't depend on what is below them keep their cache when that changes.
        let link = switch("link")? && chown.as_deref().is_none_or(copy::is_numeric);
        let below = if link { Vec::new() } else { state.layers.clone() };
        let slash = if written_as_folder && target_path != "/" { "/" } else { "" };
        // What is not said: archives of the context are unpacked, downloaded ones are not.
        let unpack_downloads = switch("unpack")?;
        let said = line.flags.iter().any(|(name, _)| name == "unpack");
        let unpack = if said { unpack_downloads } else { line.keyword == "ADD" };
        let created_by = if job.classic {
            let mut text = line.keyword.to_string();
            for (name, value) in [("chown", &chown), ("chmod", &chmod)] {
                if let Some(v) = value {
                    text.push_str(&format!(" --{name}={v}"));
                }
            }
            // The destination as a path of the image, because the working directory is part of what is done.
            self.nop(state, &format!("{text} {digest} in {target_path}{slash} "))
        } else {
            let words = line.original.split_once(char::is_whitespace).map_or("", |(_, r)| r.trim());
            let words = crate::words::expand_text(words, job.escape, &|n| state.lookup(n))
                .unwrap_or_else(|_| words.to_string());
            format!("{} {words} # buildkit", line.keyword)
        };
        let chain = below.iter().map(|l| l.diff_id.as_str()).collect::<Vec<_>>().join(",");
        let key = cache::key(&[
            b"copy",
            chain.as_bytes(),
            digest.as_bytes(),
            target_path.as_bytes(),
            slash.as_bytes(),
            chown.as_deref().unwrap_or_default().as_bytes(),
            // Which group a user has by name alone.
            &[u8::from(classic && chown.is_some())],
            chmod.as_deref().unwrap_or_default().as_bytes(),
            &[u8::from(unpack), u8::from(unpack_downloads), u8::from(parents), u8::from(link)],
        ]);
        let builder = job.builder.clone();
        let work: Work = Box::new(move |_, _| {
            Box::pin(async move {
                let scratch = Scratch::new(&builder.images, base::rng::hex(32), &below).await?;
                let snapshot = builder.images.snapshot(&scratch.key)?;
                blocking(move || {
                    let merged = snapshot.mount(true)?;
                    let owner = chown.as_deref().map(|c| copy::owner(&merged, c, classic)).transpose();
                    let owner = owner.map_err(Error::Step)?;
                    let target = Target {
                        path: target_path,
                        folder: written_as_folder,
                        owner: owner.unwrap_or((0, 0)),
                        owner_given: owner.is_some(),
                        mode,
                        unpack,
                        unpack_downloads,
                    };
                    let (root, exclude) = &root;
                    let from = From { root, ignore: origin.ignore(), exclude: exclude.as_ref(), parents };
                    from.write(&sources, &merged, &target).map_err(Error::Step)?;
                    for clone in &clones {
                        let root = clone.open()?;
                        let from =
                            From { root: &root, ignore: None, exclude: exclude.as_ref(), parents: false };
                        let all = from.find(".").map_err(Error::Step)?;
                        from.write(&all, &merged, &target).map_err(Error::Step)?;
                    }
                    Ok(())
                })
                .await?;
                Ok(Made { layer: scratch.seal().await?, created: base::clock::now() })
            })
        });
        let description = created_by.trim_end_matches(" # buildkit").to_string();
        let made = self.done(&key, state, &created_by, &description, work).await?;
        self.commit(state, &made, created_by)?;
        state.record(key, description, &made);
        Ok(())
    }
}

/// A source that is not there, in each builder's words.
fn missing(classic: bool, word: &str, why: String) -> Error {
    if classic || !why.ends_with("file does not exist") {
        return Error::Step(why);
    }
    let path = image::archive::root::clean(&Path::new("/").join(word));
    Error::Step(format!("failed to compute cache key: {:?}: not found", path.display().to_string()))
}

/// A flag that is there or not, or says so.
fn switch(line: &Line, name: &str) -> Result<bool> {
    match line.flags.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_deref()) {
        None => Ok(false),
        Some(None | Some("true" | "1")) => Ok(true),
        Some(Some("false" | "0")) => Ok(false),
        Some(Some(other)) => {
            Err(Error::Step(format!("expecting boolean value for flag {name}, not: {other}")))
        }
    }
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
