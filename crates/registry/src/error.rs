//! The protocol's errors: a code, a sentence, a status (OCI distribution-spec, "Error Codes").

use http::StatusCode;

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a request is refused, or why a registry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of the protocol's codes.
    #[error("{code}: {message}")]
    Protocol {
        /// The HTTP status.
        status: StatusCode,
        /// `BLOB_UNKNOWN`, ...
        code: &'static str,
        /// What exactly is wrong.
        message: String,
    },
    /// A file or option that says who may do what is wrong.
    #[error("{0}")]
    Configuration(String),
    /// The registry that this one is a cache of.
    #[error("upstream: {0}")]
    Upstream(#[from] image::Error),
    /// The disk failed.
    #[error("storage: {0}")]
    Io(#[from] std::io::Error),
    /// The metadata failed.
    #[error("metadata: {0}")]
    Database(#[from] rusqlite::Error),
}

macro_rules! codes {
    ($($name:ident => $status:ident $code:literal;)*) => {
        impl Error {
            $(pub(crate) fn $name(message: impl Into<String>) -> Self {
                Error::Protocol { status: StatusCode::$status, code: $code, message: message.into() }
            })*
        }
    };
}

codes! {
    blob_unknown => NOT_FOUND "BLOB_UNKNOWN";
    upload_unknown => NOT_FOUND "BLOB_UPLOAD_UNKNOWN";
    upload_invalid => BAD_REQUEST "BLOB_UPLOAD_INVALID";
    range_invalid => RANGE_NOT_SATISFIABLE "BLOB_UPLOAD_INVALID";
    digest_invalid => BAD_REQUEST "DIGEST_INVALID";
    manifest_unknown => NOT_FOUND "MANIFEST_UNKNOWN";
    manifest_invalid => BAD_REQUEST "MANIFEST_INVALID";
    manifest_blob_unknown => BAD_REQUEST "MANIFEST_BLOB_UNKNOWN";
    too_large => PAYLOAD_TOO_LARGE "SIZE_INVALID";
    name_invalid => BAD_REQUEST "NAME_INVALID";
    name_unknown => NOT_FOUND "NAME_UNKNOWN";
    tag_invalid => BAD_REQUEST "TAG_INVALID";
    unsupported => METHOD_NOT_ALLOWED "UNSUPPORTED";
    page_invalid => BAD_REQUEST "PAGINATION_NUMBER_INVALID";
    not_found => NOT_FOUND "UNSUPPORTED";
    unauthorized => UNAUTHORIZED "UNAUTHORIZED";
    denied => FORBIDDEN "DENIED";
    too_many => TOO_MANY_REQUESTS "TOOMANYREQUESTS";
}

impl Error {
    /// Status, code and sentence as they go over the wire.
    pub(crate) fn parts(&self) -> (StatusCode, &'static str, String) {
        let said = |status| (status, "UNKNOWN", self.to_string());
        match self {
            Error::Protocol { status, code, message } => (*status, code, message.clone()),
            Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => {
                said(StatusCode::INSUFFICIENT_STORAGE)
            }
            Error::Upstream(e) if e.is_not_found() => said(StatusCode::NOT_FOUND),
            Error::Upstream(_) => said(StatusCode::BAD_GATEWAY),
            _ => said(StatusCode::INTERNAL_SERVER_ERROR),
        }
    }

    /// Whether there is no room to keep something: by the quota, or on the disk.
    pub(crate) fn is_full(&self) -> bool {
        match self {
            Error::Protocol { code, .. } => *code == "DENIED",
            Error::Io(e) => e.kind() == std::io::ErrorKind::StorageFull,
            Error::Database(e) => e.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull),
            _ => false,
        }
    }

    /// Whether the thing asked for is not there.
    pub(crate) fn is_unknown(&self) -> bool {
        matches!(self, Error::Protocol { status: StatusCode::NOT_FOUND, .. })
    }
}
