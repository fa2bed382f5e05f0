//! BuildKit's services, as `docker buildx` and `docker build` call them: the control API and the gateway for a client
//! that drives the build itself, on one connection; and sessions, over which the client serves what it holds.
//!
//! It promises that a build by this door shares steps, cache and images with the classic one. Frontends other than the
//! Dockerfile's own are not run: a `syntax` directive is taken as the built-in one.

mod caching;
mod control;
mod definition;
mod export;
mod files;
mod frontend;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod inputs;
mod layouts;
mod locals;
mod posted;
mod progress;
mod proto;
mod rpc;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use crate::builder::Builder;
use control::Build;
pub(crate) use control::fits_any as fits;
pub use posted::Posted;
use session::Session;

/// How long a build waits for the session that it names: the client opens both at once.
const SESSION_WAIT: Duration = Duration::from_secs(10);
/// Finished builds whose progress can still be read.
const REMEMBERED: usize = 64;
/// Bytes that the progress of finished builds may take together; the last one's is always there.
const REMEMBERED_BYTES: usize = 4 << 20;
/// Builds that somebody asked for and that may never begin.
const EXPECTED: usize = 256;

/// Sessions that are open, and builds under way.
#[derive(Default)]
pub(crate) struct Desk {
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    came: Notify,
    builds: Mutex<Builds>,
}

#[derive(Default)]
struct Builds {
    by_ref: HashMap<String, Arc<Build>>,
    finished: VecDeque<String>,
}

impl Desk {
    /// The session of that id, once it is there.
    async fn session(&self, id: &str) -> rpc::Result<Arc<Session>> {
        let find = async {
            loop {
                let came = self.came.notified();
                if let Some(session) = self.sessions.lock().get(id).cloned() {
                    return session;
                }
                came.await;
            }
        };
        tokio::time::timeout(SESSION_WAIT, find).await.map_err(|_| {
            rpc::Status::new(
                rpc::UNAVAILABLE,
                format!("no active session for {id}: the client has not opened it"),
            )
        })
    }

    /// The build of that reference; whoever asks first makes its place.
    fn build(&self, reference: &str) -> Arc<Build> {
        let mut builds = self.builds.lock();
        let Builds { by_ref, finished } = &mut *builds;
        if by_ref.len() >= EXPECTED + REMEMBERED && !by_ref.contains_key(reference) {
            by_ref.retain(|name, build| Arc::strong_count(build) > 1 || finished.contains(name));
        }
        by_ref.entry(reference.to_string()).or_default().clone()
    }

    fn finished(&self, reference: &str) {
        let mut builds = self.builds.lock();
        let Builds { by_ref, finished } = &mut *builds;
        finished.retain(|name| name != reference);
        finished.push_back(reference.to_string());
        let bytes = |name: &String| by_ref.get(name).map_or(0, |build| build.log.bytes());
        let mut sum: usize = finished.iter().map(bytes).sum();
        while finished.len() > REMEMBERED || (sum > REMEMBERED_BYTES && finished.len() > 1) {
            let Some(build) = finished.pop_front().and_then(|old| by_ref.remove(&old)) else { continue };
            sum = sum.saturating_sub(build.log.bytes());
        }
    }
}

/// What a client says of a session when it opens one.
#[derive(Debug, Clone, Default)]
pub struct SessionHead {
    /// Its id.
    pub id: String,
    /// What it belongs to.
    pub name: String,
    /// The same for builds of the same folder.
    pub shared_key: String,
    /// The methods that the client serves, `/moby.filesync.v1.FileSync/DiffCopy`.
    pub methods: Vec<String>,
}

impl Builder {
    /// Serves BuildKit's control API on a connection until it ends.
    pub async fn serve_grpc<S>(self: &Arc<Self>, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let builder = self.clone();
        rpc::serve(stream, move |call| {
            let builder = builder.clone();
            async move { control::answer(&builder, call).await }
        })
        .await;
    }

    /// Keeps a session open until its connection ends.
    pub async fn serve_session<S>(self: &Arc<Self>, head: SessionHead, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let id = head.id.clone();
        let (session, drive) = match Session::open(head, stream).await {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(%error, session = id, "a session that did not begin");
                return;
            }
        };
        self.desk.sessions.lock().insert(id.clone(), Arc::new(session));
        self.desk.came.notify_waiters();
        drive.await;
        self.desk.sessions.lock().remove(&id);
    }
}
