//! Where the files of a client's build come from: its folders, what it names beside them, and addresses.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use image::{Platform, reference};
use parking_lot::Mutex;
use tokio::io::AsyncRead;
use tokio::sync::OnceCell;

use super::progress::{Line, Log};
use super::session::{Session, Wanted};
use crate::blocking;
use crate::builder::Builder;
use crate::context::{self, Contexts, Named, Tree};
use crate::error::{Error, Result};
use crate::pattern::Ignore;
use crate::remote;
use crate::state::State;

/// What a request brings along: it is read once.
pub type Body = Box<dyn AsyncRead + Send + Unpin>;

/// Something that a build was given under a name.
#[derive(Clone)]
pub(crate) enum Input {
    State(Arc<State>),
    /// `docker-image://`, `git://`, `https://`, `local://`
    Source(String),
}

/// The client's folders and whatever else was named.
pub(super) struct Locals {
    builder: Arc<Builder>,
    session: Option<Arc<Session>>,
    options: HashMap<String, String>,
    inputs: HashMap<String, Input>,
    body: Mutex<Option<Body>>,
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
    pub(super) fn new(
        builder: &Arc<Builder>,
        log: &Arc<Log>,
        session: Option<Arc<Session>>,
        options: HashMap<String, String>,
        inputs: HashMap<String, Input>,
        body: Option<Body>,
    ) -> Self {
        Self {
            builder: builder.clone(),
            session,
            options,
            inputs,
            body: Mutex::new(body),
            log: log.clone(),
            salt: base::rng::hex(8),
            exclude: Mutex::default(),
            follow: Mutex::default(),
            main: OnceCell::new(),
            named: tokio::sync::Mutex::default(),
        }
    }

    /// Nothing but these paths of the main context is used.
    pub(super) fn follow(&self, paths: Vec<String>) {
        *self.follow.lock() = paths;
    }

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
        let body = self.body.lock().take();
        let mut reader: Body = match (body, &self.session) {
            (Some(body), _) => body,
            (None, Some(session)) => Box::new(session.upload(&format!("/{id}")).await?),
            (None, None) => return Err(Error::Session("no session to upload from".into())),
        };
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
    pub(super) async fn dockerfile(&self) -> Result<(String, String)> {
        let name = self.option("filename").unwrap_or("Dockerfile").to_string();
        if let Some(input) = self.inputs.get("dockerfile")
            && let Some(Named::Tree(tree)) = self.resolve("dockerfile", input.clone(), None).await?
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
    pub(super) async fn ignore(&self) -> Result<()> {
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

    async fn resolve(&self, name: &str, input: Input, platform: Option<&Platform>) -> Result<Option<Named>> {
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
                other => Box::pin(self.resolve(name, other, platform)).await,
            };
        }
        if let Some(layout) = source.strip_prefix("oci-layout:") {
            let session = self.session.as_ref();
            let session = session
                .ok_or_else(|| Error::Session(format!("no session to read the context {name} from")))?;
            let asked = self.option("platform").and_then(|p| p.split(',').next());
            let platform = match (platform, asked) {
                (Some(platform), _) => platform.clone(),
                (None, Some(asked)) => Platform::parse(asked)?,
                (None, None) => Platform::host(),
            };
            let line = Line::begin(&self.log, &self.salt, &format!("[context {name}] OCI load from client"));
            let read = super::layouts::state(&self.builder, session, layout, &platform).await;
            return line.ends(read).map(|state| Some(Named::State(Arc::new(state))));
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
pub(super) fn patterns(text: &str) -> Vec<String> {
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
pub(super) struct ForPlatform {
    pub locals: Arc<Locals>,
    /// Of a build for several.
    pub platform: Option<Platform>,
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
                return match self.resolve("context", input.clone(), None).await? {
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
                return self.resolve(name, Input::Source(source.to_string()), platform).await;
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignore_patterns_for_the_client() {
        assert_eq!(patterns("# c\n\n/a/b/\n!./c\n ** \n"), ["a/b", "!c", "**"]);
    }
}
