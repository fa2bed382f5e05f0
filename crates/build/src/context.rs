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

/// How the folders of contexts begin, and those of contexts that are being removed.
pub(crate) const BEGIN: &str = "context-";
pub(crate) const GONE: &str = "gone-";

/// Files at rest.
#[derive(Debug)]
pub(crate) struct Tree {
    pub path: PathBuf,
    pub ignore: Ignore,
    /// What is removed with it.
    pub temporary: Option<PathBuf>,
    /// Digests of what it holds, by what was asked for.
    pub digests: parking_lot::Mutex<std::collections::HashMap<String, String>>,
}

impl Drop for Tree {
    fn drop(&mut self) {
        let Some(path) = self.temporary.take() else { return };
        let remove = |path: PathBuf| {
            if let Err(error) = sys::tree::remove(&path) {
                tracing::warn!(%error, path = %path.display(), "a build context stays until the next start");
            }
        };
        // Of many files that takes long. At once it is in nobody's way, and known as what nobody needs.
        let gone = path.with_file_name(format!("{GONE}{}", base::rng::hex(8)));
        match (tokio::runtime::Handle::try_current(), std::fs::rename(&path, &gone)) {
            (Ok(handle), Ok(())) => drop(handle.spawn_blocking(move || remove(gone))),
            (Err(_), Ok(())) => remove(gone),
            (_, Err(_)) => remove(path),
        }
    }
}

impl Tree {
    /// A folder that stays, nothing of it left out.
    pub fn at(path: PathBuf) -> Self {
        Self { path, ignore: Ignore::default(), temporary: None, digests: parking_lot::Mutex::default() }
    }

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
    let path = scratch.join(format!("{BEGIN}{}", base::rng::hex(8)));
    std::fs::create_dir_all(&path)?;
    let mut tree = Tree::at(path.clone());
    tree.temporary = Some(path);
    Ok(tree)
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
        Context::Dir(path) => Tree::at(path),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removing_a_context_holds_up_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let names = || {
            let all = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
            all.map(|n| n.to_string_lossy().into_owned()).collect::<Vec<_>>()
        };
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let tree = folder(dir.path()).unwrap();
            std::fs::write(tree.path.join("file"), "content").unwrap();
            // The one thread for such work is busy: what is gone all the same was removed on this one.
            let (go, wait) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || wait.recv());
            drop(tree);
            let left = names();
            assert!(left.len() == 1 && left[0].starts_with(GONE), "{left:?}");
            go.send(()).unwrap();
            busy.await.unwrap().unwrap();
            // Its queue is in order.
            tokio::task::spawn_blocking(|| ()).await.unwrap();
            assert!(names().is_empty());
        });
        // Where no runtime is, it is removed at once.
        drop(folder(dir.path()).unwrap());
        assert!(names().is_empty());
    }
}
