//! The build context: received as a tar, unpacked into a folder of its own that goes with it.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use image::Bridge;
use image::archive::{ExtractOptions, extract_into, root};
use rustix::fs::OFlags;
use tokio::io::AsyncRead;

use crate::error::{Error, Result};
use crate::parse;
use crate::pattern::Ignore;

/// Where the files of a build come from.
pub enum Context {
    /// A tar, compressed or not, as the Docker client sends it.
    Tar(Box<dyn AsyncRead + Send + Unpin>),
    /// A folder, only read.
    Dir(PathBuf),
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Context::Tar(_) => f.write_str("Tar"),
            Context::Dir(d) => f.debug_tuple("Dir").field(d).finish(),
        }
    }
}

/// The context at rest.
#[derive(Debug)]
pub(crate) struct Files {
    pub path: PathBuf,
    pub ignore: Ignore,
    pub dockerfile: String,
    temporary: bool,
}

impl Drop for Files {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "a build context stays until the next start");
        }
    }
}

/// Receives the context below `scratch` and reads its Dockerfile.
pub(crate) async fn receive(context: Context, scratch: &Path, dockerfile: &str) -> Result<Files> {
    let (source, path, temporary) = match context {
        Context::Dir(path) => (None, path, false),
        Context::Tar(reader) => {
            (Some(Bridge::new(reader)), scratch.join(format!("context-{}", base::rng::hex(8))), true)
        }
    };
    let dockerfile = if dockerfile.is_empty() { "Dockerfile".to_string() } else { dockerfile.to_string() };
    let work = move || -> Result<Files> {
        let mut files = Files { path, ignore: Ignore::default(), dockerfile: String::new(), temporary };
        if let Some(source) = source {
            std::fs::create_dir_all(&files.path)?;
            let root = std::fs::File::open(&files.path)?;
            let options = ExtractOptions { owner: Some((0, 0)), ..ExtractOptions::default() };
            extract_into(root.as_fd(), Path::new("/"), source, &options)?;
        }
        let root = std::fs::File::open(&files.path).map_err(|e| {
            Error::Invalid(format!("unable to prepare context: {}: {e}", files.path.display()))
        })?;
        files.dockerfile = read_dockerfile(&root, &dockerfile)?;
        let own_ignore = format!("{dockerfile}.dockerignore");
        let ignore = match read(&root, &own_ignore)? {
            Some(text) => Some(text),
            None => read(&root, ".dockerignore")?,
        };
        if let Some(text) = ignore {
            files.ignore = Ignore::parse(&text).map_err(Error::Invalid)?;
        }
        Ok(files)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(files) => files,
        Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
        Err(_) => Err(Error::Cancelled),
    }
}

fn read_dockerfile(root: &std::fs::File, name: &str) -> Result<String> {
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
fn read(root: &std::fs::File, name: &str) -> Result<Option<String>> {
    let file = match root::open(root.as_fd(), Path::new(name), OFlags::RDONLY) {
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
    if bytes.len() > parse::SIZE_LIMIT {
        return Err(Error::Invalid(format!("{name} is larger than {} MiB", parse::SIZE_LIMIT >> 20)));
    }
    String::from_utf8(bytes).map(Some).map_err(|_| Error::Invalid(format!("{name} is not UTF-8 text")))
}
