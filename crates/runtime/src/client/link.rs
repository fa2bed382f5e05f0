//! The control connection to one shim: requests, answers, and the frames that are neither.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use crate::protocol::{self, Answer, Failure, HEADER, MAX_FRAME, Op, Reply, Request};
use crate::{Error, Result};

type Outcome = std::result::Result<Answer, Failure>;

/// The writing side, and who waits for which answer.
#[derive(Debug)]
pub(super) struct Link {
    id: String,
    /// To the task that writes: a caller that is given up while it waits must not leave half a frame behind.
    requests: mpsc::UnboundedSender<Vec<u8>>,
    next: AtomicU64,
    /// None once the connection has ended.
    waiting: Mutex<Option<HashMap<u64, Waiting>>>,
}

#[derive(Debug)]
struct Waiting {
    start: bool,
    answer: oneshot::Sender<Outcome>,
}

impl Link {
    pub(super) fn new(id: &str, mut writer: OwnedWriteHalf) -> Self {
        let (requests, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
        tokio::spawn(async move {
            while let Some(frame) = queue.recv().await {
                if writer.write_all(&frame).await.is_err() {
                    return; // whoever reads sees the end, too, and tells those who wait
                }
            }
        });
        Self { id: id.into(), requests, next: AtomicU64::new(1), waiting: Mutex::new(Some(HashMap::new())) }
    }

    fn gone(&self) -> Error {
        Error::Shim { id: self.id.clone(), message: "it has ended".into() }
    }

    /// Sends a request and waits for its answer.
    pub(super) async fn call(&self, op: Op) -> Result<Outcome> {
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, wait) = oneshot::channel();
        let start = matches!(op, Op::Start);
        match &mut *self.waiting.lock() {
            Some(waiting) => waiting.insert(seq, Waiting { start, answer }),
            None => return Err(self.gone()),
        };
        let mut out = Vec::new();
        protocol::json_frame(&mut out, protocol::REQUEST, &Request { seq, op, output_only: false });
        self.requests.send(out).map_err(|_| self.gone())?;
        wait.await.map_err(|_| self.gone())
    }

    /// Delivers an answer; `on_start` is called first if it is to a start that has succeeded, so that the state is
    /// right when the caller goes on, and before any later event.
    pub(super) fn deliver(&self, reply: Reply, on_start: impl FnOnce(&Answer)) {
        let waiting = self.waiting.lock().as_mut().and_then(|w| w.remove(&reply.seq));
        let Some(waiting) = waiting else { return };
        if let (true, Ok(answer)) = (waiting.start, &reply.result) {
            on_start(answer);
        }
        // Whoever asked may have gone.
        let _ = waiting.answer.send(reply.result);
    }

    /// The connection has ended: nobody who waits will be answered.
    pub(super) fn close(&self) {
        self.waiting.lock().take();
    }

    /// Whether the connection has ended.
    pub(super) fn closed(&self) -> bool {
        self.waiting.lock().is_none()
    }
}

/// Reads one frame; none at the end of the connection.
pub(super) async fn read_frame(reader: &mut OwnedReadHalf) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut header = [0u8; HEADER];
    match reader.read_exact(&mut header).await {
        Ok(_) => {}
        Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    }
    let (kind, length) = protocol::header(&header).ok_or(io::ErrorKind::UnexpectedEof)?;
    if length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {length} bytes")));
    }
    let mut content = vec![0u8; length];
    match reader.read_exact(&mut content).await {
        Ok(_) => Ok(Some((kind, content))),
        Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Connects to the shim of a bundle, which takes for ever if the shim does not take connections and many wait already.
pub(super) fn connect(bundle: &std::path::Path) -> io::Result<std::os::unix::net::UnixStream> {
    connect_by(bundle, rustix::net::SocketFlags::CLOEXEC)
}

/// As [`connect`], but `WouldBlock` where that would have to wait; the connection does not block either.
pub(super) fn connect_now(bundle: &std::path::Path) -> io::Result<std::os::unix::net::UnixStream> {
    connect_by(bundle, rustix::net::SocketFlags::CLOEXEC | rustix::net::SocketFlags::NONBLOCK)
}

/// The bundle is named by a descriptor, since a socket's name is limited to 107 bytes.
fn connect_by(
    bundle: &std::path::Path,
    flags: rustix::net::SocketFlags,
) -> io::Result<std::os::unix::net::UnixStream> {
    use rustix::fs::{Mode, OFlags};
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
    use std::os::fd::AsRawFd;
    let dir = rustix::fs::open(bundle, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}/sock", dir.as_raw_fd()))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

/// Asks a shim who it is, by blocking: for start-up. None if it has ended, which only the kernel's word for that says:
/// no descriptor left, or no answer in time, is no sign of an end.
pub(super) fn greet(
    bundle: &std::path::Path,
) -> io::Result<Option<(protocol::Event, std::os::unix::net::UnixStream)>> {
    use io::ErrorKind as K;
    match connect(bundle).and_then(|socket| Ok((read_hello(&socket)?, socket))) {
        Ok(answer) => Ok(Some(answer)),
        Err(e) => match e.kind() {
            K::NotFound | K::ConnectionRefused | K::ConnectionReset | K::BrokenPipe | K::UnexpectedEof => {
                Ok(None)
            }
            _ => Err(e),
        },
    }
}

/// For tokio.
pub(super) fn to_tokio(socket: std::os::unix::net::UnixStream) -> io::Result<UnixStream> {
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// How long a shim may take to answer. It answers at once but while it writes an exit to a disk that is busy; taken for
/// dead then, its container's exit status would be lost. The connection of one that is dead ends by itself.
const ANSWER: std::time::Duration = std::time::Duration::from_secs(60);

/// Reads the first frame of a fresh connection by blocking: for start-up.
fn read_hello(socket: &std::os::unix::net::UnixStream) -> io::Result<protocol::Event> {
    use std::io::Read;
    socket.set_read_timeout(Some(ANSWER))?;
    let mut header = [0u8; HEADER];
    (&*socket).read_exact(&mut header)?;
    let (kind, length) = protocol::header(&header).ok_or(io::ErrorKind::UnexpectedEof)?;
    if kind != protocol::EVENT || length > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a shim"));
    }
    let mut content = vec![0u8; length];
    (&*socket).read_exact(&mut content)?;
    Ok(serde_json::from_slice(&content)?)
}
