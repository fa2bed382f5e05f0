//! The seam between a component and the API server: in the same process, or over HTTPS.

use std::pin::Pin;
use std::sync::Arc;

use api::selector::{Field, Label};
use api::{Gvr, Object};
use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{Error, Result};

/// The body of a streaming answer.
pub type BoxBody = http_body_util::combinators::UnsyncBoxBody<Bytes, Error>;
/// A stream of its own.
pub type BoxStream<'a, T> = Pin<Box<dyn Stream<Item = T> + Send + 'a>>;

/// A connection whose protocol has been switched: bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Only objects with such labels.
    pub labels: Label,
    /// Only objects with such fields.
    pub fields: Field,
    /// At most so many; 0: all.
    pub limit: u64,
    /// Where the previous part of the list ended, from its `ObjectList::next`; empty: at the beginning.
    pub next: String,
    /// Any state is good enough, however old (`resourceVersion=0`): what a cache wants at first.
    pub any_revision: bool,
}

/// A list.
#[derive(Debug, Clone, Default)]
pub struct ObjectList {
    /// The state that it shows: watch from here.
    pub revision: u64,
    /// The objects, by namespace and name.
    pub items: Vec<Arc<Object>>,
    /// What `ListOptions::next` must be for the next part; empty: this was the last.
    pub next: String,
}

/// What to watch.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// Events after this revision; 0: first every object there is, as added, then events.
    pub revision: u64,
    /// Only objects with such labels.
    pub labels: Label,
    /// Only objects with such fields.
    pub fields: Field,
    /// Send bookmarks too.
    pub bookmarks: bool,
}

/// What happened to an object, as seen through the watch's selectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchKind {
    /// It is new, or matches now.
    Added,
    /// It changed.
    Modified,
    /// It is gone, or no longer matches; the event has its last state, with the revision of its end.
    Deleted,
    /// Nothing happened; the object has only a revision, up to which everything has been sent.
    Bookmark,
}

/// One event of a watch.
#[derive(Debug, Clone)]
pub struct WatchEvent {
    /// What happened.
    pub kind: WatchKind,
    /// To what.
    pub object: Arc<Object>,
}

/// The way to an API server, as one user.
#[async_trait]
pub trait Transport: Send + Sync + 'static {
    /// One request, one answer; the body is read whole. Answers of any HTTP status are `Ok`.
    async fn call(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>>;

    /// A request whose answer goes on (logs).
    async fn open(&self, request: http::Request<Bytes>) -> Result<http::Response<BoxBody>>;

    /// A request that switches protocols (exec, attach, port-forward). If the server refuses, the error is its `Status`.
    async fn upgrade(&self, request: http::Request<()>) -> Result<(http::Response<()>, Box<dyn Duplex>)>;

    /// Objects of one resource, in one namespace or in all; in process these are the server's own.
    async fn list(&self, gvr: &Gvr, ns: Option<&str>, options: &ListOptions) -> Result<ObjectList>;

    /// Their changes. The stream ends when the server ends it: watch again from the last revision seen. An `Err` with
    /// [`Error::is_expired`] says to list again.
    async fn watch(
        &self,
        gvr: &Gvr,
        ns: Option<&str>,
        options: &WatchOptions,
    ) -> Result<BoxStream<'static, Result<WatchEvent>>>;
}
