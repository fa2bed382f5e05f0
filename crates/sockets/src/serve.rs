//! HTTP connections that were accepted: how long one may hold a task and a descriptor without saying anything.
//!
//! hyper has no clock of its own, so without these settings a peer that stops speaking, or is gone, is waited for for ever.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep};

/// How long a client may take to send the head of a request, from the end of the one before: as long as Go's clients keep
/// a connection that they do not use. Nothing tells that no more will come.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often a peer is asked whether it is there: one that vanished says nothing.
const ASK: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const ANSWER: Duration = Duration::from_secs(20);
/// How many questions of the kernel stay without an answer before a connection has ended.
const QUESTIONS: u32 = 4;

/// How HTTP is spoken, in either version, on connections that are accepted.
pub fn http() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(ASK).keep_alive_timeout(ANSWER);
    builder
}

/// Has the kernel find out when the peer of a connection is gone, whatever is spoken on it: a watch that waits, or a protocol
/// that was switched to, sends nothing by which one could tell.
pub fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    let asked = socket2::TcpKeepalive::new().with_time(ASK).with_interval(ASK / 2).with_retries(QUESTIONS);
    socket2::SockRef::from(stream).set_tcp_keepalive(&asked)
}

/// What HTTP/2 begins with (RFC 9113 section 3.4); by it the versions are told apart.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection on which the version of HTTP has to show in time: until then none of [`http`]'s clocks runs.
pub fn patient<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> TokioIo<Patient<S>> {
    let until = Box::pin(tokio::time::sleep_until(Instant::now() + PATIENCE));
    TokioIo::new(Patient { stream, seen: 0, until: Some(until) })
}

/// See [`patient`].
pub struct Patient<S> {
    stream: S,
    /// How much of the preface has come.
    seen: usize,
    /// When the wait is over; nothing once the version is known.
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn note(&mut self, came: &[u8]) {
        let rest = PREFACE.get(self.seen..).unwrap_or_default();
        self.seen += came.len();
        if came.is_empty() || came.len() >= rest.len() || !rest.starts_with(came) {
            self.until = None;
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        let Some(until) = this.until.as_mut() else { return polled };
        match polled {
            Poll::Pending if until.as_mut().poll(cx).is_ready() => {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request came")))
            }
            Poll::Ready(Ok(())) => {
                this.note(buf.filled().get(before..).unwrap_or_default());
                polled
            }
            other => other,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use hyper_util::service::TowerToHyperService;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Serves one end of a pipe to its end, while `client` does what it does with the other; how long that took.
    async fn served<F>(client: impl FnOnce(tokio::io::DuplexStream) -> F) -> Duration
    where
        F: Future<Output = tokio::io::DuplexStream>,
    {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let answer = |_: hyper::Request<hyper::body::Incoming>| async {
            Ok::<_, Infallible>(hyper::Response::new(String::from("yes")))
        };
        let service = TowerToHyperService::new(tower::service_fn(answer));
        let began = Instant::now();
        let serving = tokio::spawn(async move {
            let _ = http().serve_connection_with_upgrades(patient(ours), service).await;
        });
        // Held open: the server ends it, or nobody does.
        let _open = client(theirs).await;
        let ended = tokio::time::timeout(Duration::from_secs(3600), serving).await;
        ended.expect("the connection was waited for for ever").unwrap();
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_says_nothing_is_not_waited_for_for_ever() {
        for said in [&b""[..], b"P", b"PRI * HT", b"G", b"GET / HTTP/1.1\r\nhost: a\r\n", PREFACE] {
            let took = served(|mut client| async move {
                client.write_all(said).await.unwrap();
                client
            });
            let took = took.await;
            assert!(took <= PATIENCE + ASK + ANSWER, "{:?}: {took:?}", String::from_utf8_lossy(said));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_in_time_is_answered() {
        let took = served(|mut client| async move {
            for _ in 0..3 {
                tokio::time::sleep(PATIENCE / 2).await;
                client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
                let mut answer = [0; 512];
                let n = client.read(&mut answer).await.unwrap();
                assert!(answer[..n].ends_with(b"yes"), "{:?}", String::from_utf8_lossy(&answer[..n]));
            }
            client
        });
        let took = took.await;
        assert!(took > PATIENCE * 2, "{took:?}: an idle connection stays as long as that");
    }

    #[tokio::test]
    async fn the_kernel_asks_for_a_peer_that_is_gone() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let _client = client.unwrap();
        let (stream, _) = accepted.unwrap();
        let socket = socket2::SockRef::from(&stream);
        assert!(!socket.keepalive().unwrap());
        keep_alive(&stream).unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), ASK);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), QUESTIONS);
    }
}
