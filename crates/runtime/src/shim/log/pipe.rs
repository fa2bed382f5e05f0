//! The way to the sender: a process that carries what a network driver needs (TLS, name resolution, buffers), so that
//! the shim stays small and never waits for a network.
//!
//! Entries go over a socket pair. What the socket does not take waits here: in blocking mode the container's output is
//! not read while something waits; in non-blocking mode entries beyond a limit are dropped (the sender has the buffer
//! that the user sized). A sender that ends unasked is started again with the next entry, at most once a second.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::shim::helper;

/// Bytes that may wait in non-blocking mode.
const WAITING: usize = 64 * 1024;
/// The pause between two starts of a sender: time is all there is to tell whether another would fare better.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the last words may take, as with Docker.
const CLOSING: Duration = Duration::from_secs(10);

pub(super) struct Pipe {
    socket: Option<OwnedFd>,
    blocking: bool,
    queue: Vec<u8>,
    sent: usize,
    started: Timestamp,
    lost: u64,
}

impl Pipe {
    /// Starts the sender and waits for its word.
    pub(super) fn open(blocking: bool) -> io::Result<Self> {
        let socket = start()?;
        let mut word = Vec::new();
        loop {
            let mut buffer = [0u8; 512];
            match rustix::io::read(&socket, &mut buffer) {
                Ok(0) => break,
                Ok(n) => word.extend_from_slice(&buffer[..n]),
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            if word == helper::READY {
                rustix::io::ioctl_fionbio(&socket, true)?;
                let (queue, started) = (Vec::new(), base::clock::now());
                return Ok(Self { socket: Some(socket), blocking, queue, sent: 0, started, lost: 0 });
            }
        }
        let word = String::from_utf8_lossy(&word).into_owned();
        Err(io::Error::other(if word.is_empty() { "the log's sender ended".into() } else { word }))
    }

    /// Whether what waits is as much as may wait in non-blocking mode.
    fn full(&self) -> bool {
        !self.blocking && self.queue.len() - self.sent > WAITING
    }

    /// Whether the container waits for the sender.
    pub(super) fn blocking(&self) -> bool {
        self.blocking
    }

    pub(super) fn congested(&self) -> bool {
        self.blocking && !self.queue.is_empty()
    }

    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.socket.as_ref().filter(|_| !self.queue.is_empty()).map(|s| s.as_fd())
    }

    pub(super) fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
        if self.socket.is_none() {
            let pause_over = base::clock::between(self.started, base::clock::now()) >= PAUSE;
            match pause_over.then(start).transpose() {
                Ok(Some(socket)) if rustix::io::ioctl_fionbio(&socket, true).is_ok() => {
                    self.socket = Some(socket);
                    self.started = base::clock::now();
                    eprintln!("log: another sender; {} entries were lost", self.lost);
                    self.lost = 0;
                }
                Ok(_) => {}
                Err(e) => {
                    self.started = base::clock::now();
                    eprintln!("log: start a sender: {e}");
                }
            }
        }
        if self.full() {
            self.flush();
        }
        if self.socket.is_none() || self.full() {
            self.lost += 1;
            return;
        }
        encode(&mut self.queue);
    }

    pub(super) fn flush(&mut self) {
        let Some(socket) = &self.socket else { return };
        while self.sent < self.queue.len() {
            match rustix::net::send(socket, &self.queue[self.sent..], rustix::net::SendFlags::NOSIGNAL) {
                Ok(n) => self.sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.queue.drain(..self.sent);
                    self.sent = 0;
                    return;
                }
                Err(e) => {
                    eprintln!("log: the sender has ended: {e}");
                    self.socket = None;
                    break;
                }
            }
        }
        self.queue = Vec::new();
        self.sent = 0;
    }

    /// Gives the sender what is left, as long as there is time; it sends that when the shim has ended.
    pub(super) fn close(&mut self) {
        let deadline = base::clock::now() + CLOSING;
        loop {
            self.flush();
            let Some(socket) = self.waits_for() else { return };
            let left = base::clock::between(base::clock::now(), deadline);
            if left.is_zero() {
                eprintln!("log: the sender did not take the last entries");
                return;
            }
            let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            let _ = poll(&mut [PollFd::from_borrowed_fd(socket, PollFlags::OUT)], Some(&limit));
        }
    }
}

/// Starts a sender; our end of its socket.
fn start() -> io::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    helper::start(&["--log-sender".as_ref()], Some(theirs))?;
    Ok(ours)
}
