//! The Kubernetes API as data: kinds, schema, codecs, defaults, validation, selectors, patches, tables, documents.
//!
//! Promises: pure and total. Bytes go in, a result comes out; there is no async, no I/O, no clock, no randomness
//! and no panic on any input. What needs the time of day (ages, timestamps of managed fields) takes it as an argument.
//! Leaves to others: storage, admission, authorization, allocation of addresses and ports (`apiserver`), and the
//! prose of the OpenAPI documents (`api-docs`).

pub mod access;
pub mod cel;
pub mod codec;
pub mod discovery;
pub mod duration;
pub mod field;
pub mod intstr;
pub mod jsonpath;
pub mod kinds;
pub mod meta;
pub mod names;
pub mod object;
pub mod openapi;
pub mod patch;
mod pattern;
pub mod podrefs;
pub mod quantity;
pub mod quota;
pub mod regexp;
pub mod release;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod validate;

pub use field::{ErrorList, FieldError, Path};
pub use kinds::{Kind, Strategy};
pub use names::{Gvk, Gvr, Key};
pub use object::Object;
pub use release::Release;
pub use serde_json::Value;
pub use status::Status;

/// A JSON object, in the order its fields were given.
pub type Map = serde_json::Map<String, Value>;

/// What can go wrong below this crate's surface. Most functions return a [`Status`] instead, because their failure is
/// the answer that a client gets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes are not of the format they claim.
    #[error("{0}")]
    Malformed(String),
    /// The bytes are well formed, their content is not an object of the kind.
    #[error("{0}")]
    Invalid(String),
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The version that `/version` reports, without the build's suffix: that of the tables this crate is derived from.
pub const KUBERNETES_VERSION: &str = "v1.36.0";
