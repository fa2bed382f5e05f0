//! Raw streams over a taken-over connection: attach and exec.
//!
//! Without a terminal output is framed: one byte for the stream (1 output, 2 error), three zeroes, four bytes of
//! length, big-endian (API documentation, "Stream format"). With a terminal it is raw. The client's end of file is
//! the process's end of input; its output goes on.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use engine::attach::DetachKeys;
use futures::StreamExt;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use runtime::{IoStream, StdinWriter, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::server::TlsStream;

use crate::body::{self, Answer};
use crate::hangup::Hangup;

/// A connection that was taken over, and what the client sent on it already.
pub(crate) type Raw = Box<dyn Duplex>;

/// Both directions of a connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// How long a client is given to read the head of an answer. A timer, because one that never reads says nothing.
const HEAD_READ: Duration = Duration::from_secs(1);
/// How long a client may take to read what has come to its machine, where that cannot be seen: nothing but time tells.
/// Docker starts a process only after the head, which takes longer.
const UNSEEN_READ: Duration = Duration::from_millis(30);
/// The kernel tells nobody when a peer has read, so it is asked again after a while.
const ASK_AGAIN: Duration = Duration::from_micros(300);

/// The raw connection, once the client has read the head of the answer: clients that read it through a buffer and go
/// on without that buffer (docker-py) would lose what comes with it.
pub(crate) async fn taken(upgrade: OnUpgrade) -> Option<(Raw, Hangup)> {
    let upgraded = upgrade.await.ok()?;
    let upgraded = match upgraded.downcast::<TokioIo<UnixStream>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            in_time(async {
                while sys::socket::untaken_by_peer(&stream).is_ok_and(|n| n > 0) {
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            })
            .await;
            let hangup = Hangup::of(&stream);
            return Some((joined(parts.read_buf, stream.into_split()), hangup));
        }
        Err(upgraded) => upgraded,
    };
    let upgraded = match upgraded.downcast::<TokioIo<TcpStream>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            in_time(head_read_over_tcp(&stream)).await;
            let hangup = Hangup::of(&stream);
            return Some((joined(parts.read_buf, stream.into_split()), hangup));
        }
        Err(upgraded) => upgraded,
    };
    match upgraded.downcast::<TokioIo<TlsStream<TcpStream>>>() {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            in_time(head_read_over_tcp(stream.get_ref().0)).await;
            let hangup = Hangup::below_tls(stream.get_ref().0);
            Some((joined(parts.read_buf, tokio::io::split(stream)), hangup))
        }
        Err(upgraded) => Some((Box::new(TokioIo::new(upgraded)), Hangup::never())),
    }
}

/// Waits for the head of an answer to be read, but not for ever.
async fn in_time(read: impl Future<Output = ()>) {
    let _ = tokio::time::timeout(HEAD_READ, read).await; // a client that reads later has to cope
}

/// Resolves when a client has read what was sent to it. Of one on another machine (or in another network namespace) only
/// what its kernel has acknowledged is known.
async fn head_read_over_tcp(stream: &TcpStream) {
    use sys::socket::{TcpPeer, tcp_peer};
    let (Ok(local), Ok(peer)) = (stream.local_addr(), stream.peer_addr()) else { return };
    loop {
        match tcp_peer(stream, local, peer) {
            Ok(TcpPeer::Behind) => tokio::time::sleep(ASK_AGAIN).await,
            Ok(TcpPeer::HasAcknowledged) => return tokio::time::sleep(UNSEEN_READ).await,
            Ok(TcpPeer::HasRead) | Err(_) => return,
        }
    }
}

/// The halves of a connection, behind what was read of it already.
fn joined<R, W>(early: bytes::Bytes, (reader, writer): (R, W)) -> Raw
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    Box::new(tokio::io::join(std::io::Cursor::new(early).chain(reader), writer))
}

/// Descriptors that everything but streams may need.
const RESERVED: u64 = 2048;
/// Descriptors that one stream takes: the client's connection and the shim's.
const PER_STREAM: u64 = 2;

/// Takes as many open files as this process may have. Before anything is opened: each running container takes one
/// descriptor when the daemon finds it again.
pub fn make_room() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, hard, "the limit of open files could not be raised");
    }
}

/// A place among the streams that are open at once. Their number is limited so that a crowd of idle ones does not take
/// the descriptors by which everybody else is served.
pub(crate) fn place() -> crate::Result<OwnedSemaphorePermit> {
    static PLACES: OnceLock<Arc<Semaphore>> = OnceLock::new();
    let places = PLACES.get_or_init(|| {
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let files = limit.map_or(1024, |(soft, _)| soft);
        let streams = files.saturating_sub(RESERVED.min(files / 2)) / PER_STREAM;
        Arc::new(Semaphore::new(usize::try_from(streams).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS)))
    });
    places.clone().try_acquire_owned().map_err(|_| {
        engine::Error::Unavailable(
            "too many attached streams: raise the engine's limit of open files (ulimit -n, LimitNOFILE=)"
                .into(),
        )
        .into()
    })
}

/// What of the streams the client wants.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
    /// Whether output is framed: as the client asks, which is not always what the terminal asks for.
    pub framed: bool,
    /// What a user types to detach; with a terminal only.
    pub keys: Option<DetachKeys>,
}

impl Wanted {
    fn has(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }
}

/// A frame's header.
pub(crate) fn frame(stream: Stream, length: usize) -> [u8; 8] {
    let number = match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    };
    let [a, b, c, d] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    [number, 0, 0, 0, a, b, c, d]
}

/// The type of a stream: multiplexed since API 1.42, unless it is a terminal's.
pub(crate) fn content_type(version: (u32, u32), tty: bool) -> &'static str {
    if version >= (1, 42) && !tty {
        "application/vnd.docker.multiplexed-stream"
    } else {
        "application/vnd.docker.raw-stream"
    }
}

/// Whether the client asks to take the connection over.
fn asks(headers: &HeaderMap) -> bool {
    headers.get(UPGRADE).is_some()
}

/// Takes the connection over, if the client asks for it; the answer, and what becomes the raw stream once it is sent.
pub(crate) fn take_over<B>(request: &mut Request<B>, kind: &'static str) -> Option<(Answer, OnUpgrade)> {
    if !asks(request.headers()) {
        return None;
    }
    let upgrade = hyper::upgrade::on(request);
    let mut answer: Answer = body::empty(StatusCode::SWITCHING_PROTOCOLS);
    let headers = answer.headers_mut();
    headers.clear();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("tcp"));
    Some((answer, upgrade))
}

/// For a client that does not take the connection over: the output as the answer's body, the request's body as input.
pub(crate) fn as_body(
    kind: &'static str,
    request: Request<Incoming>,
    io: IoStream,
    wanted: Wanted,
) -> Answer {
    let IoStream { stdin, output, .. } = io;
    if let (Some(mut stdin), true) = (stdin, wanted.stdin) {
        let mut input = body::reader(request.into_body());
        tokio::spawn(async move {
            // Either side may end first; both are fine.
            let _ = tokio::io::copy(&mut input, &mut stdin).await;
            let _ = stdin.shutdown().await;
        });
    }
    pieces(kind, output, wanted)
}

/// The output of a process that has no input, as the answer's body.
pub(crate) fn output_body(kind: &'static str, io: IoStream, wanted: Wanted) -> Answer {
    // Dropping the input detaches it; a process that waits for it reads the end.
    pieces(kind, io.output, wanted)
}

fn pieces(kind: &'static str, output: tokio::sync::mpsc::Receiver<runtime::Chunk>, wanted: Wanted) -> Answer {
    let pieces = body::channel(output).filter_map(move |chunk| {
        let piece = wanted.has(chunk.stream).then(|| {
            if !wanted.framed {
                return Ok(chunk.data);
            }
            let mut framed = Vec::with_capacity(chunk.data.len() + 8);
            framed.extend_from_slice(&frame(chunk.stream, chunk.data.len()));
            framed.extend_from_slice(&chunk.data);
            Ok(framed.into())
        });
        async move { piece }
    });
    body::stream(kind, pieces)
}

/// How long a process has to read what a client sent that has left.
pub(crate) const LAST_INPUT: Duration = Duration::from_secs(10);

/// Carries bytes between a taken-over connection and a process until its output ends, the client goes, or the
/// detach keys are typed, which it tells.
pub(crate) async fn carry(
    client: impl AsyncRead + AsyncWrite,
    mut hangup: Hangup,
    io: IoStream,
    wanted: Wanted,
) -> bool {
    let (reader, mut writer) = tokio::io::split(client);
    let IoStream { stdin, output, exit } = io;
    let keys = wanted.keys.clone().filter(|_| wanted.tty);
    let input = async {
        match stdin {
            Some(stdin) if wanted.stdin => feed(reader, stdin, keys).await,
            _ => Fed::Ended,
        }
    };
    tokio::pin!(input);
    let (mut detached, mut gone) = (false, false);
    {
        let output = drain(output, &mut writer, &wanted);
        tokio::pin!(output);
        tokio::select! {
            () = &mut output => {}
            () = hangup.happened() => {
                gone = true;
                // What it sent before it left is the process's, which may never read it: nothing tells but time.
                let _ = tokio::time::timeout(LAST_INPUT, &mut input).await;
            }
            fed = &mut input => match fed {
                Fed::Ended => tokio::select! {
                    () = &mut output => {}
                    () = hangup.happened() => gone = true,
                },
                Fed::Detached => detached = true,
            },
        }
    }
    if let (Some(exit), false) = (exit, detached || gone) {
        // The client asks for an exec's status as soon as its stream has ended: it must be known by then.
        tokio::select! {
            _ = exit => {}
            () = hangup.happened() => {}
        }
    }
    let _ = writer.shutdown().await; // the client may be gone
    detached
}

enum Fed {
    /// The client said that there is no more.
    Ended,
    /// The detach keys were typed.
    Detached,
}

async fn feed(
    mut reader: impl AsyncRead + Unpin,
    mut stdin: StdinWriter,
    mut keys: Option<DetachKeys>,
) -> Fed {
    let mut buffer = vec![0; 8192];
    loop {
        let length = match reader.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        let (typed, detached) = match &mut keys {
            Some(keys) => keys.feed(&buffer[..length]),
            None => (buffer[..length].to_vec(), false),
        };
        if stdin.write_all(&typed).await.is_err() || stdin.flush().await.is_err() {
            return Fed::Ended; // the process reads no more
        }
        if detached {
            return Fed::Detached;
        }
    }
    let _ = stdin.shutdown().await;
    Fed::Ended
}

async fn drain(
    mut output: tokio::sync::mpsc::Receiver<runtime::Chunk>,
    writer: &mut (impl AsyncWrite + Unpin),
    wanted: &Wanted,
) {
    let mut buffer = Vec::new();
    while let Some(chunk) = output.recv().await {
        if !wanted.has(chunk.stream) {
            continue;
        }
        buffer.clear();
        if wanted.framed {
            buffer.extend_from_slice(&frame(chunk.stream, chunk.data.len()));
        }
        buffer.extend_from_slice(&chunk.data);
        // What is there already goes with it, up to what one write should have.
        while buffer.len() < 1 << 16 {
            let Ok(more) = output.try_recv() else { break };
            if wanted.has(more.stream) {
                if wanted.framed {
                    buffer.extend_from_slice(&frame(more.stream, more.data.len()));
                }
                buffer.extend_from_slice(&more.data);
            }
        }
        if writer.write_all(&buffer).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

/// Writes an error into a taken-over connection: there is no status code any more.
pub(crate) async fn complain(mut io: impl AsyncWrite + Unpin, message: &str, tty: bool) {
    let text = format!("{message}\r\n");
    let mut bytes = Vec::new();
    if !tty {
        // As the original: it is what the program would have said.
        bytes.extend_from_slice(&frame(Stream::Stdout, text.len()));
    }
    bytes.extend_from_slice(text.as_bytes());
    let _ = io.write_all(&bytes).await; // the client may be gone
    let _ = io.shutdown().await;
}

/// The answer that begins a WebSocket (RFC 6455 section 4.2.2).
pub(crate) fn websocket(request: &mut Request<Incoming>) -> crate::Result<(Answer, OnUpgrade)> {
    let key = request.headers().get("sec-websocket-key").ok_or_else(|| {
        crate::Error::invalid("this path needs a WebSocket handshake: Sec-WebSocket-Key is missing")
    })?;
    let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(request);
    let built = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "websocket")
        .header("sec-websocket-accept", accept)
        .body(body::empty(StatusCode::OK).into_body());
    match built {
        Ok(answer) => Ok((answer, upgrade)),
        Err(e) => Err(crate::Error::Body(e.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::Chunk;

    fn wanted(tty: bool) -> Wanted {
        Wanted { stdin: true, stdout: true, stderr: true, tty, framed: !tty, keys: None }
    }

    #[tokio::test]
    async fn frames() {
        let (sender, receiver) = tokio::sync::mpsc::channel(8);
        sender.send(Chunk { stream: Stream::Stdout, data: "ab".into() }).await.unwrap();
        sender.send(Chunk { stream: Stream::Stderr, data: "c".into() }).await.unwrap();
        drop(sender);
        let mut out = Vec::new();
        drain(receiver, &mut out, &wanted(false)).await;
        assert_eq!(out, b"\x01\0\0\0\0\0\0\x02ab\x02\0\0\0\0\0\0\x01c");
    }

    #[tokio::test]
    async fn a_terminal_is_raw_and_can_be_left() {
        let (mut client, server) = tokio::io::duplex(64);
        let (stdin, mut typed) = tokio::io::duplex(64);
        let keys = DetachKeys::parse("").unwrap();
        client.write_all(b"ls\x10\x11more").await.unwrap();
        assert!(matches!(feed(server, StdinWriter::new(stdin), Some(keys)).await, Fed::Detached));
        let mut got = Vec::new();
        typed.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"ls");
    }

    #[test]
    fn types() {
        assert_eq!(content_type((1, 43), false), "application/vnd.docker.multiplexed-stream");
        assert_eq!(content_type((1, 43), true), "application/vnd.docker.raw-stream");
        assert_eq!(content_type((1, 41), false), "application/vnd.docker.raw-stream");
    }

    /// Answers a request on `stream` with one that takes the connection over, and says something on it at once.
    async fn answer(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let service = hyper::service::service_fn(|mut request: Request<Incoming>| async move {
            let (answer, upgrade) = take_over(&mut request, "application/vnd.docker.raw-stream").unwrap();
            tokio::spawn(async move {
                let (mut io, _) = taken(upgrade).await.unwrap();
                io.write_all(b"output").await.unwrap();
                io.shutdown().await.unwrap();
            });
            Ok::<_, std::convert::Infallible>(answer)
        });
        let http = hyper::server::conn::http1::Builder::new();
        http.serve_connection(TokioIo::new(stream), service).with_upgrades().await.unwrap();
    }

    /// What docker-py does: the head is read by one call with a large buffer, which is thrown away with what else it has.
    async fn ask(mut stream: impl AsyncRead + AsyncWrite + Unpin, who: &str) {
        let head = b"POST / HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
        stream.write_all(head).await.unwrap();
        // The machine is busy: it gets to reading when everything that was to be said could have been.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut buffer = [0; 8192];
        let length = stream.read(&mut buffer).await.unwrap();
        let head = String::from_utf8_lossy(&buffer[..length]);
        assert!(head.starts_with("HTTP/1.1 101") && head.ends_with("\r\n\r\n"), "{who}: {head}");
        let mut output = Vec::new();
        stream.read_to_end(&mut output).await.unwrap();
        assert_eq!(output, b"output", "{who}");
    }

    #[tokio::test]
    async fn nothing_comes_with_the_head() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::join!(answer(ours), ask(theirs, "a Unix socket"));

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap());
        let (theirs, ours) = tokio::join!(connect(), listener.accept());
        tokio::join!(answer(ours.unwrap().0), ask(theirs.unwrap(), "TCP"));

        let made = rcgen::generate_simple_self_signed(["engine".to_owned()]).unwrap();
        let (cert, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.clone()], key.try_into().unwrap())
            .unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(cert).unwrap();
        let client = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let (theirs, ours) = tokio::join!(connect(), listener.accept());
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        let name = "engine".try_into().unwrap();
        let (theirs, ours) =
            tokio::join!(connector.connect(name, theirs.unwrap()), acceptor.accept(ours.unwrap().0));
        tokio::join!(answer(ours.unwrap()), ask(theirs.unwrap(), "TLS"));
    }
}
