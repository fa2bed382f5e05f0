//! What can go wrong in a build, in the classic builder's words.

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error of a build.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Dockerfile, an option or the context is wrong (HTTP 400 before the first step).
    #[error("{0}")]
    Invalid(String),
    /// A line of the Dockerfile is wrong.
    #[error("dockerfile parse error on line {line}: {message}")]
    Parse {
        /// Counted from one.
        line: usize,
        /// Why.
        message: String,
    },
    /// A step failed.
    #[error("{0}")]
    Step(String),
    /// A `RUN` ended with another status than zero.
    #[error("The command '{command}' returned a non-zero code: {code}")]
    Run {
        /// The command as shown.
        command: String,
        /// Its exit status.
        code: i32,
    },
    /// As `Run`, in the words of the newer builder.
    #[error("process {command:?} did not complete successfully: exit code: {code}")]
    Process {
        /// The command as shown.
        command: String,
        /// Its exit status.
        code: i32,
    },
    /// The client that holds secrets, files or credentials failed or refused.
    #[error("{0}")]
    Session(String),
    /// A failure that several builds share.
    #[error("{0}")]
    Shared(std::sync::Arc<Error>),
    /// A step is not known, and was only to be looked up.
    #[error("the step was not done")]
    NotMade,
    /// The caller went away.
    #[error("the build was cancelled")]
    Cancelled,
    /// The image store failed.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// The engine failed to run a step.
    #[error("{0}")]
    Runner(String),
    /// The file system failed.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// The build cache failed.
    #[error("build cache: {0}")]
    Cache(#[from] rusqlite::Error),
}

impl Error {
    /// The failure itself, where several builds share it.
    pub fn root(&self) -> &Error {
        match self {
            Error::Shared(inner) => inner.root(),
            other => other,
        }
    }
}
