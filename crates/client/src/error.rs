//! Why a call failed, and whether the same call can succeed later.

use std::time::Duration;

use api::Status;

/// What a call to the API answers when it does not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The server refused; the `Status` says why.
    #[error("{}", .0.message)]
    Status(Box<Status>),
    /// The server could not be reached, or the connection broke: whether the call took effect is not known.
    #[error("the API server cannot be reached: {0}")]
    Transport(String),
    /// The server's answer is not what the protocol has.
    #[error("the API server's answer cannot be read: {0}")]
    Decode(String),
    /// A kubeconfig or a certificate that cannot be used.
    #[error("{0}")]
    Config(String),
    /// This transport does not carry such calls.
    #[error("{0} is not possible inside the server's own process")]
    Unsupported(&'static str),
}

/// What a fallible call of this crate gives.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Error::Status(Box::new(status))
    }
}

impl Error {
    /// The server's `Status`, if it gave one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Error::Status(s) => Some(s),
            _ => None,
        }
    }

    fn causes(&self) -> impl Iterator<Item = &api::status::Cause> {
        self.status().and_then(|s| s.details.as_ref()).into_iter().flat_map(|d| &d.causes)
    }

    fn reason_is(&self, reason: &str) -> bool {
        self.status().is_some_and(|s| s.reason == reason)
    }

    /// The object, or what it lies in, is not there.
    pub fn is_not_found(&self) -> bool {
        self.reason_is("NotFound")
    }

    /// Somebody changed the object in between, or another one has its name now: read it again.
    pub fn is_conflict(&self) -> bool {
        // A patch that names the uid it is for is judged as one that would change it.
        self.reason_is("Conflict")
            || self.reason_is("Invalid") && self.causes().any(|c| c.field == "metadata.uid")
    }

    /// The name is taken.
    pub fn is_already_exists(&self) -> bool {
        self.reason_is("AlreadyExists")
    }

    /// The revision is no longer kept: list again.
    pub fn is_expired(&self) -> bool {
        self.status().is_some_and(|s| s.code == 410)
    }

    /// The namespace is going away, nothing new may be made in it.
    pub fn is_namespace_terminating(&self) -> bool {
        self.causes().any(|c| c.reason == "NamespaceTerminating")
    }

    /// How long the server wants the client to wait before it tries again.
    pub fn retry_after(&self) -> Option<Duration> {
        let seconds = self.status()?.details.as_ref()?.retry_after_seconds?;
        Some(Duration::from_secs(seconds.into()))
    }

    /// Whether the same call may succeed later, without anybody changing the request.
    pub fn is_transient(&self) -> bool {
        match self {
            Error::Transport(_) => true,
            Error::Status(s) => s.code == 429 || s.code >= 500,
            _ => false,
        }
    }
}
