//! What can go wrong, in terms of the container.

use std::io;

/// Shorthand.
pub type Result<T> = std::result::Result<T, Error>;

/// What is wrong with a command that could not be executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ExecErrorKind {
    /// No such file: Docker's exit status 127.
    NotFound,
    /// It is there and cannot be executed: Docker's exit status 126.
    NotExecutable,
    /// Anything else (user, working directory, capabilities): Docker's exit status 126 or 128.
    Other,
}

/// A refused or failed operation.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No such container, sandbox or exec.
    #[error("no such {what}: {id}")]
    NotFound {
        /// `container`, `sandbox` or `exec`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The id is taken.
    #[error("{what} {id} already exists")]
    AlreadyExists {
        /// `container` or `sandbox`.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// The container is in the wrong state for this.
    #[error("cannot {action} container {id}: it is {state}")]
    InvalidState {
        /// Its id.
        id: String,
        /// `created`, `running`, `paused` or `stopped`.
        state: &'static str,
        /// What was asked for.
        action: &'static str,
    },
    /// The command could not be executed.
    #[error("{message}")]
    Exec {
        /// What is wrong with it.
        kind: ExecErrorKind,
        /// The message, as Docker words it.
        message: String,
    },
    /// The container could not be made: a mount, a namespace, a limit.
    #[error("OCI runtime create failed: {message}")]
    Create {
        /// Which step failed and why.
        message: String,
    },
    /// The specification asks for something impossible.
    #[error("invalid {field}: {message}")]
    Invalid {
        /// Which field.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The shim is gone or said something unexpected.
    #[error("shim of {id}: {message}")]
    Shim {
        /// The container's or sandbox's id.
        id: String,
        /// What happened.
        message: String,
    },
    /// The system refused something.
    #[error("{context}: {source}")]
    Io {
        /// What was being done.
        context: String,
        /// What the system said.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(context: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let context = context.into();
        move |source| Error::Io { context, source }
    }

    /// Whether it says that the container, sandbox or exec does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }
}
