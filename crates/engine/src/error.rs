//! The engine's errors: one variant per class of answer that the Docker API knows, each with the text its
//! clients show. The HTTP layer maps a variant to a status code and nothing else.

/// What went wrong, in the words that the client prints.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong (400).
    #[error("{0}")]
    Invalid(String),
    /// Credentials are missing or wrong (401).
    #[error("{0}")]
    Unauthorized(String),
    /// The operation is not allowed on this object (403).
    #[error("{0}")]
    Forbidden(String),
    /// No such object (404).
    #[error("{0}")]
    NotFound(String),
    /// The object's state does not permit it (409).
    #[error("{0}")]
    Conflict(String),
    /// Nothing to do: it is so already (304).
    #[error("{0}")]
    NotModified(String),
    /// The engine failed (500).
    #[error("{0}")]
    System(String),
    /// This engine or machine cannot do that (501).
    #[error("{0}")]
    NotImplemented(String),
    /// Something needed is not there for now (503).
    #[error("{0}")]
    Unavailable(String),
}

/// The crate's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// The HTTP status code of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Error::Invalid(_) => 400,
            Error::Unauthorized(_) => 401,
            Error::Forbidden(_) => 403,
            Error::NotFound(_) => 404,
            Error::Conflict(_) => 409,
            Error::NotModified(_) => 304,
            Error::System(_) => 500,
            Error::NotImplemented(_) => 501,
            Error::Unavailable(_) => 503,
        }
    }

    /// A failure of the machine while doing `what`.
    pub fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Error {
        move |e| Error::System(format!("{what}: {}", base::errno::words(e.to_string())))
    }

    /// The same error in other words.
    pub(crate) fn map(self, words: impl FnOnce(String) -> String) -> Error {
        match self {
            Error::Invalid(t) => Error::Invalid(words(t)),
            Error::Unauthorized(t) => Error::Unauthorized(words(t)),
            Error::Forbidden(t) => Error::Forbidden(words(t)),
            Error::NotFound(t) => Error::NotFound(words(t)),
            Error::Conflict(t) => Error::Conflict(words(t)),
            Error::NotModified(t) => Error::NotModified(words(t)),
            Error::System(t) => Error::System(words(t)),
            Error::NotImplemented(t) => Error::NotImplemented(words(t)),
            Error::Unavailable(t) => Error::Unavailable(words(t)),
        }
    }

    pub(crate) fn no_container(reference: &str) -> Error {
        Error::NotFound(format!("No such container: {reference}"))
    }
}

macro_rules! constructor {
    ($($name:ident => $variant:ident),*) => {$(
        #[doc = concat!("An [`Error::", stringify!($variant), "`].")]
        pub(crate) fn $name(message: impl Into<String>) -> Error {
            Error::$variant(message.into())
        }
    )*};
}
constructor!(invalid => Invalid, forbidden => Forbidden, not_found => NotFound, conflict => Conflict, system => System);

impl From<image::Error> for Error {
    fn from(e: image::Error) -> Self {
        let text = base::errno::words(e.to_string());
        match e {
            image::Error::NoSuchImage(_) | image::Error::NotFound(_) => Error::NotFound(text),
            image::Error::Invalid(_) | image::Error::Corrupt(_) => Error::Invalid(text),
            image::Error::Conflict(_) => Error::Conflict(text),
            image::Error::Denied(_) => Error::NotFound(text),
            _ => Error::System(text),
        }
    }
}

impl From<network::Error> for Error {
    fn from(e: network::Error) -> Self {
        let text = base::errno::words(e.to_string());
        match e {
            network::Error::AddressInvalid { .. } | network::Error::Invalid(_) => Error::Invalid(text),
            network::Error::AddressTaken { .. } => Error::Forbidden(text),
            _ => Error::System(text),
        }
    }
}

impl From<runtime::Error> for Error {
    fn from(e: runtime::Error) -> Self {
        let text = base::errno::words(e.to_string());
        match e {
            runtime::Error::NotFound { .. } => Error::NotFound(text),
            runtime::Error::Exec { .. } | runtime::Error::Invalid { .. } => Error::Invalid(text),
            runtime::Error::InvalidState { .. } => Error::Conflict(text),
            _ => Error::System(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let missing = std::io::Error::from_raw_os_error(2);
        assert_eq!(Error::io("open /x")(missing).to_string(), "open /x: no such file or directory");
    }
}
