//! Errors on the wire: a status code and `{"message": "..."}`.

use http::StatusCode;

use crate::body::{self, Answer};

/// What ends a request early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine refused or failed.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// A build failed.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// The request's body broke off.
    #[error("reading the request: {0}")]
    Body(String),
    /// The listener failed.
    #[error("engine socket: {0}")]
    Listen(#[from] std::io::Error),
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A request that is wrong as it stands (400).
    pub(crate) fn invalid(message: impl Into<String>) -> Error {
        Error::Engine(engine::Error::Invalid(message.into()))
    }

    /// The last line of a stream that it ends.
    pub(crate) fn document(&self) -> serde_json::Value {
        let message = self.to_string();
        let mut detail = serde_json::json!({"message": message});
        if let Error::Build(e) = self
            && let build::Error::Run { code, .. } = e.root()
        {
            detail["code"] = serde_json::json!(code);
        }
        serde_json::json!({"errorDetail": detail, "error": message})
    }

    /// The answer that tells it.
    pub(crate) fn answer(&self) -> Answer {
        let status = match self {
            Error::Engine(e) => e.status(),
            Error::Build(e) if matches!(e.root(), build::Error::Invalid(_) | build::Error::Parse { .. }) => {
                400
            }
            Error::Body(_) => 400,
            Error::Build(_) => 500,
            Error::Listen(_) => 500,
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status == StatusCode::NOT_MODIFIED {
            return body::empty(status);
        }
        body::json(status, &serde_json::json!({"message": self.to_string()}))
    }
}

impl From<image::Error> for Error {
    fn from(e: image::Error) -> Self {
        Error::Engine(e.into())
    }
}
