//! Tells when a client has closed its connection altogether.
//!
//! Who only reads (an attach without input) may end its writing half and go on reading, so the end of what it sends
//! says nothing, and an idle process writes nothing that would fail. The kernel tells a full close apart (`EPOLLHUP`);
//! one epoll instance of our own, beside tokio's, waits for that on any number of connections with one descriptor.
//!
//! Over TCP a full close looks like the end of one half until something is sent: the kernel asks by itself
//! ([`crate::listen`] tells it to) and is told. TLS has words of its own for the end of one half, so that the end of
//! what comes on the connection below it is the end of all.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

struct Watcher {
    epoll: Epoll,
    waiting: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    next: AtomicU64,
}

/// The end of one connection, to be waited for.
pub(crate) struct Hangup {
    token: u64,
    gone: Option<oneshot::Receiver<()>>,
}

impl Hangup {
    /// Of a connection that cannot be watched.
    pub(crate) fn never() -> Hangup {
        Hangup { token: 0, gone: None }
    }

    /// Of a connection. The kernel forgets it when it is closed here.
    pub(crate) fn of(connection: &impl AsFd) -> Hangup {
        Self::by(connection, EpollFlags::empty())
    }

    /// Of the connection below TLS.
    pub(crate) fn below_tls(connection: &impl AsFd) -> Hangup {
        Self::by(connection, EpollFlags::EPOLLRDHUP)
    }

    fn by(connection: &impl AsFd, signs: EpollFlags) -> Hangup {
        match watcher().and_then(|w| w.add(connection, signs)) {
            Ok(hangup) => hangup,
            Err(error) => {
                tracing::debug!(%error, "a client that goes away is noticed late");
                Hangup::never()
            }
        }
    }

    /// Resolves when the client has gone.
    pub(crate) async fn happened(&mut self) {
        match &mut self.gone {
            Some(gone) => {
                let told = gone.await.is_ok();
                self.gone = None;
                if !told {
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    }
}

impl Drop for Hangup {
    fn drop(&mut self) {
        if self.token != 0
            && let Some(Ok(watcher)) = WATCHER.get()
        {
            watcher.forget(self.token);
        }
    }
}

static WATCHER: OnceLock<Result<Watcher, io::ErrorKind>> = OnceLock::new();

/// The process's watcher; its task is begun with the first connection.
fn watcher() -> io::Result<&'static Watcher> {
    WATCHER.get_or_init(|| Watcher::new().map_err(|e| e.kind())).as_ref().map_err(|kind| (*kind).into())
}

impl Watcher {
    fn new() -> io::Result<Watcher> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        // Deprecated because its argument could be something that changes its descriptor; an OwnedFd does not. Its
        // successor is an unsafe function, which this crate may not call.
        #[allow(deprecated)]
        let watch = AsyncFd::with_interest(epoll.0.try_clone()?, tokio::io::Interest::READABLE)?;
        tokio::spawn(async move {
            while let Ok(mut ready) = watch.readable().await {
                let more = matches!(WATCHER.get(), Some(Ok(watcher)) if watcher.tell_all());
                if !more {
                    ready.clear_ready();
                }
            }
        });
        Ok(Watcher { epoll, waiting: Mutex::default(), next: AtomicU64::new(1) })
    }

    fn add(&self, connection: &impl AsFd, signs: EpollFlags) -> io::Result<Hangup> {
        let token = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, gone) = oneshot::channel();
        self.lock().insert(token, sender);
        // Hanging up is always told; once is enough.
        let event = EpollEvent::new(EpollFlags::EPOLLONESHOT | signs, token);
        if let Err(e) = self.epoll.add(connection, event) {
            self.forget(token);
            return Err(e.into());
        }
        Ok(Hangup { token, gone: Some(gone) })
    }

    /// Tells those who wait for the connections that have ended; false if there were none.
    fn tell_all(&self) -> bool {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for event in &events[..count] {
            if let Some(sender) = self.lock().remove(&event.data()) {
                let _ = sender.send(()); // nobody waits any more
            }
        }
        count > 0
    }

    fn forget(&self, token: u64) {
        self.lock().remove(&token);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<()>>> {
        self.waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream, UnixStream};

    // One test, because the watcher's task lives in the runtime that first had a connection.
    #[tokio::test]
    async fn the_end_of_a_connection_is_told_from_the_end_of_its_half() {
        over_a_unix_socket().await;
        over_tcp().await;
    }

    async fn over_a_unix_socket() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut hangup = Hangup::of(&ours);
        theirs.shutdown().await.unwrap();
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), hangup.happened()).await;
        assert!(early.is_err());
        drop(theirs);
        hangup.happened().await;
    }

    async fn over_tcp() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut theirs = TcpStream::connect(address).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        let mut whole = Hangup::below_tls(&ours);
        theirs.shutdown().await.unwrap();
        whole.happened().await;

        let mut theirs = TcpStream::connect(address).await.unwrap();
        let (mut ours, _) = listener.accept().await.unwrap();
        let mut half = Hangup::of(&ours);
        theirs.shutdown().await.unwrap();
        let early = tokio::time::timeout(std::time::Duration::from_millis(50), half.happened()).await;
        assert!(early.is_err(), "it may go on reading");
        drop(theirs);
        // As the kernel does by itself after a while.
        ours.write_all(b"still there?").await.unwrap();
        half.happened().await;
    }
}
