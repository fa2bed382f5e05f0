//! The Dockerfile frontend as BuildKit's clients call it: options by name, files from the client's session.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use image::{Image, Platform, reference};
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::control::{at_lines, status};
use super::progress::{Line, Log, Vertices};
use super::proto::{self, CacheOptionsEntry};
use super::rpc::{self, INVALID, Status, UNIMPLEMENTED};
use super::session::{Held, Session, Wanted};
use crate::blocking;
use crate::builder::Builder;
use crate::context::{self, Contexts, Named, Tree};
use crate::error::{Error, Result};
use crate::job::Job;
use crate::mounts::Holder;
use crate::options::{Options, Ulimit};
use crate::pattern::Ignore;
use crate::remote;
use crate::state::{Part, State};

/// Something that a build was given under a name.
#[derive(Clone)]
pub(crate) enum Input {
    State(Arc<State>),
    /// `docker-image://`, `git://`, `https://`, `local://`
    Source(String),
}

/// What a client asks to build.
pub(crate) struct Request {
    pub options: HashMap<String, String>,
    pub inputs: HashMap<String, Input>,
    pub session: Option<Arc<Session>>,
    pub entitlements: Vec<String>,
    pub imports: Vec<CacheOptionsEntry>,
    pub cancel: CancellationToken,
}

/// The client's folders and whatever else was named.
struct Locals {
    builder: Arc<Builder>,
    session: Option<Arc<Session>>,
    options: HashMap<String, String>,
    inputs: HashMap<String, Input>,
    log: Arc<Log>,
    salt: String,
    /// What the main context leaves out, as patterns for the client.
    exclude: Mutex<Vec<String>>,
    /// The paths of the context that are used, where they are all known; else everything.
    follow: Mutex<Vec<String>>,
    main: OnceCell<Arc<Tree>>,
    named: tokio::sync::Mutex<HashMap<String, Arc<Tree>>>,
}

impl Locals {
    fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// Receives one of the client's folders.
    async fn local(&self, line: &str, what: &str, wanted: &Wanted) -> Result<Tree> {
        let session = self
            .session
            .as_ref()
            .ok_or_else(|| Error::Session(format!("no session to read the folder {} from", wanted.name)))?;
        let tree = context::folder(&self.builder.scratch)?;
        let line = Line::begin(&self.log, &self.salt, line);
        let id = format!("transferring {what}:");
        let mut told = 0;
        let received = session
            .receive(wanted, &tree.path, |bytes| {
                if bytes > told + (1 << 20) {
                    told = bytes;
                    line.status(&id, bytes, 0, false);
                }
            })
            .await;
        if let Ok(bytes) = &received {
            line.status(&id, *bytes, 0, true);
        }
        line.ends(received.map(|_| tree))
    }

    /// A context at an address: a repository, a tar, or something that the client uploads.
    async fn address(&self, address: &str) -> Result<remote::Fetched> {
        let line =
            Line::begin(&self.log, &self.salt, &format!("[internal] load remote build context {address}"));
        let fetched = match address.strip_prefix("http://buildkit-session/") {
            Some(id) => self.upload(id).await,
            None => remote::fetch(address, &self.builder.scratch).await,
        };
        line.ends(fetched)
    }

    async fn upload(&self, id: &str) -> Result<remote::Fetched> {
        let session =
            self.session.as_ref().ok_or_else(|| Error::Session("no session to upload from".into()))?;
        let mut reader = session.upload(&format!("/{id}")).await?;
        let mut file = tokio::fs::File::from_std(tempfile::tempfile_in(&self.builder.scratch)?);
        tokio::io::copy(&mut reader, &mut file).await?;
        tokio::io::AsyncWriteExt::flush(&mut file).await?;
        let file = file.into_std().await;
        let scratch = self.builder.scratch.clone();
        blocking(move || {
            use std::io::{Read, Seek};
            let mut file = file;
            file.rewind()?;
            if crate::copy::is_archive(file.try_clone()?) {
                file.rewind()?;
                return context::unpack(file, &scratch).map(remote::Fetched::Tree);
            }
            file.rewind()?;
            let mut bytes = Vec::new();
            file.take(crate::parse::SIZE_LIMIT as u64 + 1).read_to_end(&mut bytes)?;
            context::text("the uploaded Dockerfile", bytes).map(remote::Fetched::Dockerfile)
        })
        .await
    }

    /// The Dockerfile's name and text.
    async fn dockerfile(&self) -> Result<(String, String)> {
        let name = self.option("filename").unwrap_or("Dockerfile").to_string();
        if let Some(input) = self.inputs.get("dockerfile")
            && let Some(Named::Tree(tree)) = self.resolve("dockerfile", input.clone()).await?
        {
            return read(&tree, &name, &Mutex::default()).await.map(|t| (name, t));
        }
        let address = self.option("context").filter(|c| c.contains("://") || remote::Git::parse(c).is_some());
        if let Some(address) = address.filter(|_| self.option("dockerfilekey").is_none()) {
            return match self.address(address).await? {
                remote::Fetched::Dockerfile(text) => {
                    let _ = self.main.set(Arc::new(context::folder(&self.builder.scratch)?));
                    Ok((name, text))
                }
                remote::Fetched::Tree(mut tree) => {
                    let (text, ignore) = {
                        let (root, name) = (tree.open()?, name.clone());
                        blocking(move || {
                            Ok((context::read_dockerfile(&root, &name)?, context::read_ignore(&root, &name)?))
                        })
                        .await?
                    };
                    tree.ignore = ignore;
                    let _ = self.main.set(Arc::new(tree));
                    Ok((name, text))
                }
            };
        }
        let key = self.option("dockerfilekey").unwrap_or("dockerfile").to_string();
        let mut follow = vec![name.clone(), format!("{name}.dockerignore")];
        if name == "Dockerfile" {
            follow.push("dockerfile".into());
        }
        let wanted = Wanted { name: key, follow, ..Wanted::default() };
        let line =
            format!("[internal] load build definition from {}", name.rsplit('/').next().unwrap_or(&name));
        let tree = self.local(&line, "dockerfile", &wanted).await?;
        let text = read(&tree, &name, &self.exclude).await?;
        Ok((name, text))
    }

    /// Reads the ignore file of the context, unless the Dockerfile has one of its own.
    async fn ignore(&self) -> Result<()> {
        if self.main.initialized() || self.session.is_none() || !self.exclude.lock().is_empty() {
            return Ok(());
        }
        if self.inputs.contains_key("context") || self.option("context").is_some_and(|c| c.contains("://")) {
            return Ok(());
        }
        let wanted = Wanted {
            name: self.option("contextkey").unwrap_or("context").into(),
            follow: vec![".dockerignore".into()],
            ..Wanted::default()
        };
        let tree = self.local("[internal] load .dockerignore", "context", &wanted).await?;
        let root = tree.open()?;
        if let Some(text) = blocking(move || context::read(&root, ".dockerignore")).await? {
            Ignore::parse(&text).map_err(Error::Invalid)?;
            *self.exclude.lock() = patterns(&text);
        }
        Ok(())
    }

    async fn resolve(&self, name: &str, input: Input) -> Result<Option<Named>> {
        let source = match input {
            Input::State(state) => return Ok(Some(Named::State(state))),
            Input::Source(source) => source,
        };
        if let Some(image) = source.strip_prefix("docker-image://") {
            return Ok(Some(Named::Image(image.into())));
        }
        if let Some(key) = source.strip_prefix("input:") {
            let key = key.strip_prefix("//").unwrap_or(key);
            let input = self.inputs.get(key).cloned();
            let input = input.ok_or_else(|| Error::Invalid(format!("invalid input {key} for {name}")))?;
            return match input {
                Input::Source(s) if s.starts_with("input:") => Ok(None),
                other => Box::pin(self.resolve(name, other)).await,
            };
        }
        let mut known = self.named.lock().await;
        if let Some(tree) = known.get(name) {
            return Ok(Some(Named::Tree(tree.clone())));
        }
        let tree = if let Some(local) = source.strip_prefix("local:") {
            let local = local.strip_prefix("//").unwrap_or(local);
            let ignore =
                Wanted { name: local.into(), follow: vec![".dockerignore".into()], ..Wanted::default() };
            let tree = self.local(&format!("[context {name}] load .dockerignore"), name, &ignore).await?;
            let root = tree.open()?;
            let text = blocking(move || context::read(&root, ".dockerignore")).await?;
            let exclude = text.as_deref().map(patterns).unwrap_or_default();
            let wanted = Wanted { name: local.into(), exclude, ..Wanted::default() };
            self.local(&format!("[context {name}] load from client"), name, &wanted).await?
        } else if source.starts_with("oci-layout:") {
            return Err(Error::Invalid(format!(
                "context {name}: OCI layouts of the client are not read: load the image and use docker-image://"
            )));
        } else {
            match self.address(&source).await? {
                remote::Fetched::Tree(tree) => tree,
                remote::Fetched::Dockerfile(_) => {
                    return Err(Error::Invalid(format!("context {name}: {source} is no archive")));
                }
            }
        };
        let tree = Arc::new(tree);
        known.insert(name.to_string(), tree.clone());
        Ok(Some(Named::Tree(tree)))
    }
}

/// The Dockerfile of a folder; its own ignore file's patterns go to `exclude`.
async fn read(tree: &Tree, name: &str, exclude: &Mutex<Vec<String>>) -> Result<String> {
    let (root, own) = (tree.open()?, name.to_string());
    let (text, ignore) = blocking(move || {
        let text = context::read_dockerfile(&root, &own).map_err(|e| match e {
            Error::Invalid(why) if why.starts_with("Cannot locate") => {
                Error::Invalid(format!("failed to read dockerfile: open {own}: no such file or directory"))
            }
            other => other,
        })?;
        Ok((text, context::read(&root, &format!("{own}.dockerignore"))?))
    })
    .await?;
    if let Some(ignore) = ignore {
        Ignore::parse(&ignore).map_err(Error::Invalid)?;
        *exclude.lock() = patterns(&ignore);
    }
    Ok(text)
}

/// The patterns of an ignore file, as the client's matcher takes them.
fn patterns(text: &str) -> Vec<String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#'));
    lines
        .filter_map(|line| {
            let (not, rest) = match line.strip_prefix('!') {
                Some(rest) => ("!", rest.trim()),
                None => ("", line),
            };
            let clean = image::archive::root::clean(&Path::new("/").join(rest));
            let clean = clean.to_string_lossy();
            let clean = clean.trim_start_matches('/');
            (!rest.is_empty()).then(|| format!("{not}{}", if clean.is_empty() { "." } else { clean }))
        })
        .collect()
}

/// What is the same for every platform that a build is for, seen by one of them.
struct ForPlatform {
    locals: Arc<Locals>,
    /// Of a build for several.
    platform: Option<Platform>,
}

#[async_trait]
impl Contexts for ForPlatform {
    async fn main(&self) -> Result<Arc<Tree>> {
        self.locals.main().await
    }

    async fn named(&self, name: &str) -> Result<Option<Named>> {
        self.locals.named(name, self.platform.as_ref()).await
    }
}

impl Locals {
    async fn main(&self) -> Result<Arc<Tree>> {
        let get = || async {
            if let Some(input) = self.inputs.get("context") {
                return match self.resolve("context", input.clone()).await? {
                    Some(Named::Tree(tree)) => Ok(tree),
                    _ => Err(Error::Invalid("the context is an image and no folder of files".into())),
                };
            }
            let address =
                self.option("context").filter(|c| c.contains("://") || remote::Git::parse(c).is_some());
            if let Some(address) = address {
                return match self.address(address).await? {
                    remote::Fetched::Tree(tree) => Ok(Arc::new(tree)),
                    remote::Fetched::Dockerfile(_) => Ok(Arc::new(context::folder(&self.builder.scratch)?)),
                };
            }
            let wanted = Wanted {
                name: self.option("contextkey").unwrap_or("context").into(),
                exclude: self.exclude.lock().clone(),
                follow: self.follow.lock().clone(),
                ..Wanted::default()
            };
            Ok(Arc::new(self.local("[internal] load build context", "context", &wanted).await?))
        };
        self.main.get_or_try_init(get).await.cloned()
    }

    async fn named(&self, name: &str, platform: Option<&Platform>) -> Result<Option<Named>> {
        let mut names = vec![name.to_string(), name.to_ascii_lowercase()];
        if let Ok(r) = reference::parse(name) {
            names.extend([r.familiar(), r.to_string()]);
            let tagged = r.with_default_tag();
            names.extend([tagged.familiar(), tagged.to_string()]);
        }
        let of_platform = |n: &String| platform.map(|p| format!("{n}::{p}"));
        let own: Vec<String> = names.iter().filter_map(of_platform).collect();
        for candidate in own.into_iter().chain(names) {
            if let Some(source) = self.option(&format!("context:{candidate}")) {
                return self.resolve(name, Input::Source(source.to_string())).await;
            }
        }
        Ok(None)
    }
}

/// The options of a build, and the platforms that it is for if the client names any.
fn options(given: &HashMap<String, String>) -> Result<(Options, Vec<Platform>)> {
    let wrong =
        |name: &str, value: &str| Error::Invalid(format!("invalid value {value:?} of the option {name}"));
    let (mut o, mut platforms) = (Options::default(), Vec::new());
    for (key, value) in given {
        if let Some(name) = key.strip_prefix("build-arg:") {
            o.build_args.insert(name.to_string(), Some(value.clone()));
        } else if let Some(name) = key.strip_prefix("label:") {
            o.labels.insert(name.to_string(), value.clone());
        } else {
            match key.as_str() {
                "target" => o.target.clone_from(value),
                "filename" => o.dockerfile.clone_from(value),
                "no-cache" if value.is_empty() => o.no_cache = true,
                "no-cache" => o.no_cache_stages = value.split(',').map(ToString::to_string).collect(),
                "image-resolve-mode" => o.pull = value == "pull",
                "platform" => {
                    for one in value.split(',').filter(|p| !p.is_empty()) {
                        let platform = Platform::parse(one)?;
                        if !platforms.contains(&platform) {
                            platforms.push(platform);
                        }
                    }
                }
                "multi-platform" => {
                    o.of_several = value.parse().map_err(|_| wrong(key, value))?;
                }
                "cgroup-parent" => o.cgroup_parent.clone_from(value),
                "force-network-mode" => o.network_mode.clone_from(value),
                "add-hosts" => {
                    o.extra_hosts = value
                        .split(',')
                        .filter(|h| !h.is_empty())
                        .map(|h| {
                            h.split_once('=').map(|(h, a)| format!("{h}:{a}")).ok_or_else(|| wrong(key, h))
                        })
                        .collect::<Result<_>>()?;
                }
                "shm-size" => o.shm_size = Some(value.parse().map_err(|_| wrong(key, value))?),
                "ulimit" => {
                    for one in value.split(',').filter(|u| !u.is_empty()) {
                        let (name, limits) = one.split_once('=').ok_or_else(|| wrong(key, one))?;
                        let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
                        let number = |n: &str| n.parse().map_err(|_| wrong(key, one));
                        o.ulimits.push(Ulimit {
                            name: name.into(),
                            soft: number(soft)?,
                            hard: number(hard)?,
                        });
                    }
                }
                _ => {}
            }
        }
    }
    Ok((o, platforms))
}

/// The paths of the main context that the stages to be built use; nothing where that is not known beforehand.
fn used_paths(job: &Job) -> Vec<String> {
    let mut all = Vec::new();
    for i in job.needed() {
        for line in &job.plan.stages[i].lines {
            match line.keyword {
                "RUN" => {
                    let binds = line.flags.iter().filter(|(n, _)| n == "mount").any(|(_, v)| {
                        v.as_deref().is_none_or(|v| {
                            !v.contains("from=") && (!v.contains("type=") || v.contains("type=bind"))
                        })
                    });
                    if binds {
                        return Vec::new();
                    }
                }
                "COPY" | "ADD" if !line.flags.iter().any(|(n, _)| n == "from") => {
                    let Ok((sources, _)) = crate::instruction::sources(line, job.escape) else {
                        return Vec::new();
                    };
                    for source in sources {
                        let clean = image::archive::root::clean(&Path::new("/").join(&source));
                        let clean = clean.to_string_lossy().trim_start_matches('/').to_string();
                        if clean.is_empty() || source.contains(['$', '\\', '"', '\'', '*', '?', '[']) {
                            return Vec::new();
                        }
                        if !source.contains("://") {
                            all.push(clean);
                        }
                    }
                }
                "ONBUILD" => {}
                _ => {}
            }
        }
        // A base image may bring triggers, which may use any file.
        let base = &job.plan.stages[i].base;
        let outside = !job.plan.stages.iter().any(|s| s.name.as_deref() == Some(&base.to_ascii_lowercase()));
        let triggers = |image: Arc<Image>| !image.run_config().on_build.is_empty();
        if outside && base != "scratch" && job.builder.images.get(base).map_or(true, triggers) {
            return Vec::new();
        }
    }
    all
}

/// Builds what a client asks for: one result, or one for each platform.
pub(crate) async fn build(
    builder: &Arc<Builder>,
    log: &Arc<Log>,
    request: Request,
) -> rpc::Result<Vec<Part>> {
    if let Some(kind) = request.options.get("requestid") {
        return Err(Status::new(UNIMPLEMENTED, format!("unsupported request {kind}")));
    }
    let (mut options, platforms) =
        options(&request.options).map_err(|e| Status::new(INVALID, e.to_string()))?;
    options.of_several |= platforms.len() > 1;
    let locals = Arc::new(Locals {
        builder: builder.clone(),
        session: request.session.clone(),
        options: request.options,
        inputs: request.inputs,
        log: log.clone(),
        salt: base::rng::hex(8),
        exclude: Mutex::default(),
        follow: Mutex::default(),
        main: OnceCell::new(),
        named: tokio::sync::Mutex::default(),
    });
    let (name, text) = locals.dockerfile().await.map_err(|e| status(&e))?;
    let (session, entitlements) = (request.session, request.entitlements);
    let holder: Option<Arc<dyn Holder>> = session.clone().map(|session| {
        let held: Arc<dyn Holder> = Arc::new(Held { session, entitlements });
        held
    });
    super::caching::import(builder, log, holder.as_ref(), session.as_deref(), &request.imports).await;
    let wanted: Vec<Option<Platform>> = match platforms.is_empty() {
        true => vec![None],
        false => platforms.into_iter().map(Some).collect(),
    };
    // One that fails ends them all.
    let cancel = request.cancel.child_token();
    let mut jobs = Vec::with_capacity(wanted.len());
    for platform in wanted {
        let listener = Arc::new(Vertices::new(log.clone()));
        let several = options.of_several;
        let contexts = ForPlatform { locals: locals.clone(), platform: platform.clone().filter(|_| several) };
        let job = Job::new(
            builder.clone(),
            Options { platform, ..options.clone() },
            &text,
            Arc::new(contexts),
            listener.clone(),
            holder.clone(),
            false,
            cancel.clone(),
        )
        .await
        .map_err(|e| at_lines(&e, &name, &text, None, None))?;
        jobs.push((job, listener));
    }
    locals.ignore().await.map_err(|e| status(&e))?;
    let used: Vec<Vec<String>> = jobs.iter().map(|(job, _)| used_paths(job)).collect();
    // Where one of them may use any file, all come.
    if !used.iter().any(Vec::is_empty) {
        *locals.follow.lock() = used.concat();
    }
    let done = futures::future::join_all(jobs.iter().map(|(job, _)| job.run_all())).await;
    // Those that were cancelled say nothing of why.
    let failed = done.iter().position(|r| r.as_ref().is_err_and(|e| !matches!(e.root(), Error::Cancelled)));
    let failed = failed.or_else(|| done.iter().position(std::result::Result::is_err));
    if let Some((Err(error), (job, listener))) = failed.map(|i| (&done[i], &jobs[i])) {
        return Err(at_lines(error, &name, &text, job.failed_lines(), listener.failed()));
    }
    if let Some(warning) = jobs.first().and_then(|(job, _)| job.unused_args()) {
        let warning =
            proto::VertexWarning { level: 1, short: warning.into_bytes(), ..proto::VertexWarning::default() };
        log.push(proto::StatusResponse { warnings: vec![warning], ..proto::StatusResponse::default() });
    }
    let mut parts = Vec::with_capacity(jobs.len());
    for ((job, _), state) in jobs.iter().zip(done) {
        let state = state.map_err(|e| status(&e))?;
        let mut others = job.steps();
        others.retain(|o| !state.steps.iter().any(|s| s.key == o.key));
        let state = if others.is_empty() { state } else { Arc::new(State { others, ..(*state).clone() }) };
        parts.push(Part { platform: Some(job.platform.clone()).filter(|_| options.of_several), state });
    }
    Ok(parts)
}

/// Builds a Dockerfile that needs no files.
pub(crate) async fn plain(builder: &Arc<Builder>, log: &Arc<Log>, text: &str) -> rpc::Result<Arc<State>> {
    let listener = Arc::new(Vertices::new(log.clone()));
    let tree = Arc::new(context::folder(&builder.scratch).map_err(|e| status(&e))?);
    let job = Job::new(
        builder.clone(),
        Options::default(),
        text,
        Arc::new(context::Single(tree)),
        listener,
        None,
        false,
        CancellationToken::new(),
    )
    .await
    .map_err(|e| status(&e))?;
    job.run_all().await.map_err(|e| status(&e))
}

/// The configuration of an image, pulled if it is not here.
pub(crate) async fn image_config(
    builder: &Arc<Builder>,
    session: Option<Arc<Session>>,
    name: &str,
    pull: bool,
    platform: Option<proto::Platform>,
) -> rpc::Result<Arc<Image>> {
    if !pull && let Ok(image) = builder.images.get(name) {
        return Ok(image);
    }
    let platform = platform.filter(|p| !p.os.is_empty()).map_or_else(Platform::host, |p| Platform {
        os: p.os,
        architecture: p.architecture,
        variant: p.variant,
    });
    let whole = reference::parse_tagged(name).map_err(|e| Status::new(INVALID, e.to_string()))?;
    let auth = match session {
        Some(session) => {
            let held = Held { session, entitlements: Vec::new() };
            held.credentials(&whole.domain).await.map_err(|e| status(&e))?
        }
        None => None,
    };
    // Nobody looks at the progress of this.
    let (tx, mut rx) = tokio::sync::mpsc::channel(64);
    let whole = whole.to_string();
    let pulling = builder.images.pull(&whole, auth, Some(platform), tx);
    let (image, ()) = tokio::join!(pulling, async { while rx.recv().await.is_some() {} });
    image.map_err(|e| status(&e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignore_patterns_for_the_client() {
        assert_eq!(patterns("# c\n\n/a/b/\n!./c\n ** \n"), ["a/b", "!c", "**"]);
    }

    #[test]
    fn reads_options() {
        let given = [
            ("build-arg:A", "1"),
            ("label:l", "v"),
            ("no-cache", ""),
            ("add-hosts", "h=1.2.3.4,i=5.6.7.8"),
            ("ulimit", "nofile=1:2,nproc=3"),
            ("platform", "linux/amd64,linux/arm64,linux/amd64"),
        ];
        let given = given.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let (o, platforms) = options(&given).unwrap();
        assert_eq!(
            platforms.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["linux/amd64", "linux/arm64"]
        );
        assert_eq!(o.build_args["A"].as_deref(), Some("1"));
        assert_eq!(o.extra_hosts, ["h:1.2.3.4", "i:5.6.7.8"]);
        assert_eq!((o.ulimits[0].soft, o.ulimits[0].hard, o.ulimits[1].hard), (1, 2, 3));
        assert!(o.no_cache && o.labels["l"] == "v");
    }
}
