//! The protocol's errors: a code, a sentence, a status (OCI distribution-spec, "Error Codes").

use http::StatusCode;

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a request is refused.
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
}

impl Error {
    /// Status, code and sentence as they go over the wire.
    pub(crate) fn parts(&self) -> (StatusCode, &'static str, String) {
        match self {
            Error::Protocol { status, code, message } => (*status, code, message.clone()),
            other => (StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", other.to_string()),
        }
    }
}
