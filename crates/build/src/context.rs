//! Where the files of a build come from: a tar or a folder at rest, below a root of its own that goes with it.

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use image::Bridge;
use image::archive::{ExtractOptions, extract_into, root};
use rustix::fs::OFlags;
use tokio::io::AsyncRead;

use crate::error::{Error, Result};
use crate::parse;
use crate::pattern::Ignore;
use crate::state::State;
use crate::{blocking, blocking_on_stream};

/// Where the files of a build come from.
pub enum Context {
    /// A tar, compressed or not, as the Docker client sends it.
    Tar(Box<dyn AsyncRead + Send + Unpin>),
    /// A folder, only read.
    Dir(PathBuf),
    /// A repository (`https://host/repo.git#ref:folder`), a Dockerfile or a tar at an address.
    Remote(String),
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Context::Tar(_) => f.write_str("Tar"),
            Context::Dir(d) => f.debug_tuple("Dir").field(d).finish(),
            Context::Remote(u) => f.debug_tuple("Remote").field(u).finish(),
        }
    }
}

/// Files at rest.
#[derive(Debug)]
pub(crate) struct Tree {
    pub path: PathBuf,
    pub ignore: Ignore,
    /// What is removed with it.
    pub temporary: Option<PathBuf>,
}

impl Drop for Tree {
    fn drop(&mut self) {
        if let Some(path) = &self.temporary
            && let Err(error) = std::fs::remove_dir_all(path)
        {
            tracing::warn!(%error, path = %path.display(), "a build context stays until the next start");
        }
    }
}

impl Tree {
    pub fn open(&self) -> Result<OwnedFd> {
        let file = std::fs::File::open(&self.path).map_err(|e| {
            Error::Invalid(format!("unable to prepare context: {}: {e}", self.path.display()))
        })?;
        Ok(file.into())
    }
}

/// A name in `--from` or `FROM` that the build was given something else for.
pub(crate) enum Named {
    /// Files.
    Tree(Arc<Tree>),
    /// An image of that reference.
    Image(String),
    /// What another build made.
    State(Arc<State>),
}

/// The contexts of one build, each fetched when it is first needed.
#[async_trait]
pub(crate) trait Contexts: Send + Sync {
    /// The main context.
    async fn main(&self) -> Result<Arc<Tree>>;

    /// What a name stands for, if the build was given anything for it.
    async fn named(&self, name: &str) -> Result<Option<Named>>;
}

/// One context that is there already.
pub(crate) struct Single(pub Arc<Tree>);

#[async_trait]
impl Contexts for Single {
    async fn main(&self) -> Result<Arc<Tree>> {
        Ok(self.0.clone())
    }

    async fn named(&self, _: &str) -> Result<Option<Named>> {
        Ok(None)
    }
}

/// A folder of its own below `scratch`.
pub(crate) fn folder(scratch: &Path) -> Result<Tree> {
    let path = scratch.join(format!("context-{}", base::rng::hex(8)));
    std::fs::create_dir_all(&path)?;
    Ok(Tree { temporary: Some(path.clone()), path, ignore: Ignore::default() })
}

/// Unpacks a tar, compressed or not, below `scratch`. Blocking.
pub(crate) fn unpack(source: impl Read + Send, scratch: &Path) -> Result<Tree> {
    let tree = folder(scratch)?;
    let options = ExtractOptions { owner: Some((0, 0)), ..ExtractOptions::default() };
    extract_into(tree.open()?.as_fd(), Path::new("/"), source, &options)?;
    Ok(tree)
}

/// Receives the context below `scratch`; its files and its Dockerfile.
pub(crate) async fn receive(context: Context, scratch: &Path, dockerfile: &str) -> Result<(Tree, String)> {
    let name = if dockerfile.is_empty() { "Dockerfile".to_string() } else { dockerfile.to_string() };
    let tree = match context {
        Context::Dir(path) => Tree { path, ignore: Ignore::default(), temporary: None },
        Context::Remote(address) => match crate::remote::fetch(&address, scratch).await? {
            crate::remote::Fetched::Tree(tree) => tree,
            crate::remote::Fetched::Dockerfile(text) => return Ok((folder(scratch)?, text)),
        },
        Context::Tar(reader) => {
            let (source, scratch) = (Bridge::new(reader), scratch.to_path_buf());
            blocking_on_stream(move || unpack(source, &scratch)).await?
        }
    };
    blocking(move || {
        let mut tree = tree;
        let root = tree.open()?;
        let text = read_dockerfile(&root, &name)?;
        tree.ignore = read_ignore(&root, &name)?;
        Ok((tree, text))
    })
    .await
}

/// The rules of a Dockerfile's own ignore file, or else of the context's.
pub(crate) fn read_ignore(root: &OwnedFd, dockerfile: &str) -> Result<Ignore> {
    let text = match read(root, &format!("{dockerfile}.dockerignore"))? {
        Some(text) => Some(text),
        None => read(root, ".dockerignore")?,
    };
    match text {
        Some(text) => Ignore::parse(&text).map_err(Error::Invalid),
        None => Ok(Ignore::default()),
    }
}

/// The text of the Dockerfile.
pub(crate) fn read_dockerfile(root: &OwnedFd, name: &str) -> Result<String> {
    let text = match read(root, name)? {
        None if name == "Dockerfile" => read(root, "dockerfile")?,
        other => other,
    };
    let text = text.ok_or_else(|| Error::Invalid(format!("Cannot locate specified Dockerfile: {name}")))?;
    if text.is_empty() {
        return Err(Error::Invalid(format!("the Dockerfile ({name}) cannot be empty")));
    }
    Ok(text)
}

/// A text file of the context; `None` if it is not there.
pub(crate) fn read(root: &OwnedFd, name: &str) -> Result<Option<String>> {
    let file = match root::open(root.as_fd(), Path::new(name), OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(fd) => std::fs::File::from(fd),
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(e) => return Err(e.into()),
    };
    if !file.metadata()?.is_file() {
        return Err(Error::Invalid(format!("{name} of the build context is not a file")));
    }
    let mut bytes = Vec::new();
    file.take(parse::SIZE_LIMIT as u64 + 1).read_to_end(&mut bytes)?;
    text(name, bytes).map(Some)
}

/// Bytes as the text of a Dockerfile or ignore file.
pub(crate) fn text(name: &str, bytes: Vec<u8>) -> Result<String> {
    if bytes.len() > parse::SIZE_LIMIT {
        return Err(Error::Invalid(format!("{name} is larger than {} MiB", parse::SIZE_LIMIT >> 20)));
    }
    String::from_utf8(bytes).map_err(|_| Error::Invalid(format!("{name} is not UTF-8 text")))
}
