//! What can go wrong with images, in Docker's words where Docker has words for it.

use std::path::{Path, PathBuf};

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of the image store, an archive or a registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No image has that name or id (HTTP 404).
    #[error("No such image: {0}")]
    NoSuchImage(String),
    /// A name, digest, platform or option is malformed (HTTP 400).
    #[error("{0}")]
    Invalid(String),
    /// An archive, manifest or configuration is broken (HTTP 400 or 500, by who sent it).
    #[error("{0}")]
    Corrupt(String),
    /// The image is used by something that forbids the change (HTTP 409).
    #[error("{0}")]
    Conflict(String),
    /// The object asked for does not exist, image apart (HTTP 404).
    #[error("{0}")]
    NotFound(String),
    /// A registry refused the credentials (HTTP 401 or 403).
    #[error("{0}")]
    Denied(String),
    /// A registry misbehaved or the way to it broke; repeating may help.
    #[error("{0}")]
    Registry(String),
    /// Nobody listens there, or nobody has that name: repeating at once does not help.
    #[error("{0}")]
    Unreachable(String),
    /// The caller went away.
    #[error("{0} was cancelled")]
    Cancelled(String),
    /// A system call failed on a file.
    #[error("{action} {path}: {source}{remedy}", remedy = crate::archive::remedy(.source))]
    File {
        /// What was tried: `open`, `write`...
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A stream failed.
    #[error("{0}{remedy}", remedy = crate::archive::remedy(.0))]
    Io(#[from] std::io::Error),
    /// The metadata database failed.
    #[error("image metadata: {0}")]
    Database(#[from] rusqlite::Error),
    /// A document of ours could not be written or read.
    #[error("image metadata: {0}")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// That a name is here, but not for a platform.
    pub fn not_provided(name: &str, platform: &crate::Platform) -> Self {
        Self::NotFound(format!(
            "image with reference {name} was found but does not provide the specified platform ({platform})"
        ))
    }

    /// Wraps a failed system call on `path`.
    pub fn file(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Error {
        let path = path.as_ref().to_path_buf();
        move |source| Error::File { action, path, source }
    }

    /// Whether the object asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NoSuchImage(_) | Error::NotFound(_))
    }
}

impl From<rustix::io::Errno> for Error {
    fn from(e: rustix::io::Errno) -> Self {
        Error::Io(e.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_says_what_helps() {
        let full = || std::io::Error::from(rustix::io::Errno::NOSPC);
        let remedy = ": remove images or files, or use a larger disk";
        assert!(Error::file("write", "/x")(full()).to_string().ends_with(remedy));
        assert!(Error::from(full()).to_string().ends_with(remedy));
        assert!(!Error::from(std::io::Error::from(rustix::io::Errno::IO)).to_string().contains("remove"));
    }
}
