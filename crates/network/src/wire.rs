//! Netlink as bytes: messages and attributes encoded by hand, and a socket that needs no task of its own.
//!
//! The kernel handles both families we speak (rtnetlink, nf_tables) inside `sendmsg(2)`: when it returns, the answers
//! wait in our socket. So a request is one send and some receives that never block, and there is nothing to await.

use std::io;
use std::os::fd::AsFd;

use netlink_sys::Socket;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{setsockopt, sockopt};

use crate::error::{Error, Result};

pub(crate) const NLM_F_REQUEST: u16 = 1;
pub(crate) const NLM_F_ACK: u16 = 4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;
pub(crate) const NLM_F_APPEND: u16 = 0x800;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSGERR_ATTR_MSG: u16 = 1;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;
const HEADER: usize = 16;
const DONTWAIT: i32 = 0x40;

/// Netlink messages, one behind the other, ready to be sent.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    pub buf: Vec<u8>,
    start: usize,
}

impl Writer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins a message; `header` is the family's fixed part (`nfgenmsg`, `ifinfomsg`, ...).
    pub fn begin(&mut self, kind: u16, flags: u16, seq: u32, header: &[u8]) {
        self.start = self.buf.len();
        self.buf.extend_from_slice(&0u32.to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.buf.extend_from_slice(&seq.to_ne_bytes());
        self.buf.extend_from_slice(&0u32.to_ne_bytes());
        self.buf.extend_from_slice(header);
        self.pad();
    }

    /// Ends the message: writes its length.
    pub fn end(&mut self) {
        let len = (self.buf.len() - self.start) as u32;
        self.buf[self.start..self.start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Sets flags of the message begun last, after the fact (the acknowledgement of a batch's last message).
    pub fn add_flags(&mut self, flags: u16) {
        let at = self.start + 6;
        let old = u16::from_ne_bytes([self.buf[at], self.buf[at + 1]]);
        self.buf[at..at + 2].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.buf.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value);
        self.pad();
    }

    /// A NUL-terminated string.
    pub fn string(&mut self, kind: u16, value: &str) {
        self.buf.extend_from_slice(&((value.len() + 5) as u16).to_ne_bytes());
        self.buf.extend_from_slice(&kind.to_ne_bytes());
        self.buf.extend_from_slice(value.as_bytes());
        self.buf.push(0);
        self.pad();
    }

    pub fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }
    pub fn u16(&mut self, kind: u16, value: u16) {
        self.bytes(kind, &value.to_ne_bytes());
    }
    pub fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }
    pub fn be32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }
    pub fn be64(&mut self, kind: u16, value: u64) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute that holds the attributes which `inner` writes.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let at = self.buf.len();
        self.buf.extend_from_slice(&0u16.to_ne_bytes());
        self.buf.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        inner(self);
        let len = (self.buf.len() - at) as u16;
        self.buf[at..at + 2].copy_from_slice(&len.to_ne_bytes());
    }

    /// Bytes without an attribute header (the `ifinfomsg` inside VETH_INFO_PEER).
    pub fn raw(&mut self, value: &[u8]) {
        self.buf.extend_from_slice(value);
        self.pad();
    }

    fn pad(&mut self) {
        self.buf.resize(self.buf.len().next_multiple_of(4), 0);
    }
}

/// The attributes in `buf`, as (type without flags, value).
pub(crate) fn attributes(mut buf: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = u16::from_ne_bytes([*buf.first()?, *buf.get(1)?]) as usize;
        let kind = u16::from_ne_bytes([*buf.get(2)?, *buf.get(3)?]) & NLA_TYPE_MASK;
        let value = buf.get(4..len)?;
        buf = buf.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The first attribute of type `kind` in `buf`.
pub(crate) fn attribute(buf: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(buf).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// A string attribute without its NUL.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// One received message.
#[derive(Debug)]
pub(crate) struct Message {
    pub kind: u16,
    pub seq: u32,
    pub payload: Vec<u8>,
}

/// An answer with an error number; 0 is an acknowledgement.
#[derive(Debug)]
pub(crate) struct Answer {
    pub seq: u32,
    pub errno: i32,
    pub detail: String,
}

/// A netlink socket in the network namespace of the thread that opened it.
pub(crate) struct Channel {
    socket: Socket,
    seq: u32,
    receive: Vec<u8>,
    send_limit: usize,
}

impl Channel {
    pub fn open(protocol: isize) -> Result<Self> {
        let io = |what: &str, e| Error::io(format!("{what} a netlink socket"), e);
        let mut socket = Socket::new(protocol).map_err(|e| io("open", e))?;
        socket.bind_auto().map_err(|e| io("bind", e))?;
        // Both are refinements of error messages that old kernels lack.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self { socket, seq: 1, receive: vec![0; 64 << 10], send_limit: 64 << 10 })
    }

    /// Makes this socket hear the news of a multicast group.
    pub fn join(&mut self, group: u32) -> Result<()> {
        self.socket.add_membership(group).map_err(|e| Error::io("listen to netlink news", e))
    }

    /// Waits for news, drops them and says whether there were any within `ms` milliseconds.
    pub fn wait(&mut self, ms: u16) -> Result<bool> {
        let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, ms).map_err(|e| Error::io("wait for netlink news", e.into()))?;
        if ready > 0 {
            let mut window = &mut self.receive[..];
            let _ = self.socket.recv(&mut window, DONTWAIT);
        }
        Ok(ready > 0)
    }

    /// `n` consecutive sequence numbers; the first of them is returned.
    pub fn sequence(&mut self, n: u32) -> u32 {
        if self.seq > u32::MAX - n {
            self.seq = 1;
        }
        let first = self.seq;
        self.seq += n;
        first
    }

    /// Sends `buf` in one piece and returns every answer and message that came back.
    pub fn exchange(&mut self, buf: &[u8]) -> Result<(Vec<Answer>, Vec<Message>, bool)> {
        if buf.len() > self.send_limit {
            // A transaction must be one datagram. Twice the size: the kernel counts its own overhead too.
            let size = buf.len().next_power_of_two() * 2;
            setsockopt(&self.socket.as_fd(), sockopt::SndBufForce, &size)
                .or_else(|_| setsockopt(&self.socket.as_fd(), sockopt::SndBuf, &size))
                .map_err(|e| {
                    Error::io(format!("enlarge the netlink send buffer to {size} bytes"), e.into())
                })?;
            self.send_limit = size / 2;
        }
        loop {
            match self.socket.send(buf, 0) {
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::io("send to netlink", e)),
            }
        }
        let (mut answers, mut messages, mut interrupted) = (Vec::new(), Vec::new(), false);
        loop {
            let mut window = &mut self.receive[..];
            let n = match self.socket.recv(&mut window, DONTWAIT) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                // So many errors that they did not fit: the first ones are there and are what matters.
                Err(e) if e.raw_os_error() == Some(nix::libc::ENOBUFS) => continue,
                Err(e) => return Err(Error::io("receive from netlink", e)),
            };
            parse(&self.receive[..n], &mut answers, &mut messages, &mut interrupted);
        }
        Ok((answers, messages, interrupted))
    }

    /// Sends a dump request made by `request(writer, sequence number)` and returns its messages. The dump is asked
    /// for again when the kernel says that it changed meanwhile.
    pub fn dump(&mut self, op: &str, request: impl Fn(&mut Writer, u32)) -> Result<Vec<Message>> {
        loop {
            let seq = self.sequence(1);
            let mut writer = Writer::new();
            request(&mut writer, seq);
            let (answers, messages, interrupted) = self.exchange(&writer.buf)?;
            if let Some(bad) = answers.iter().find(|a| a.errno != 0) {
                return Err(Error::Kernel { op: op.into(), errno: bad.errno, detail: bad.detail.clone() });
            }
            if !interrupted {
                return Ok(messages.into_iter().filter(|m| m.seq == seq).collect());
            }
        }
    }
}

fn parse(mut buf: &[u8], answers: &mut Vec<Answer>, messages: &mut Vec<Message>, interrupted: &mut bool) {
    while buf.len() >= HEADER {
        let u32_at = |i: usize| u32::from_ne_bytes([buf[i], buf[i + 1], buf[i + 2], buf[i + 3]]);
        let len = u32_at(0) as usize;
        if len < HEADER || len > buf.len() {
            return;
        }
        let kind = u16::from_ne_bytes([buf[4], buf[5]]);
        let flags = u16::from_ne_bytes([buf[6], buf[7]]);
        let seq = u32_at(8);
        let payload = &buf[HEADER..len];
        *interrupted |= flags & NLM_F_DUMP_INTR != 0;
        match kind {
            NLMSG_ERROR if payload.len() >= 4 => {
                let errno = -i32::from_ne_bytes([payload[0], payload[1], payload[2], payload[3]]);
                answers.push(Answer { seq, errno, detail: detail(payload, flags) });
            }
            NLMSG_DONE => {
                // A dump that fails half-way says so here.
                if let Some(code) =
                    payload.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b)).filter(|c| *c < 0)
                {
                    answers.push(Answer { seq, errno: -code, detail: String::new() });
                }
            }
            _ => messages.push(Message { kind, seq, payload: payload.to_vec() }),
        }
        buf = buf.get(len.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// The kernel's words in an extended acknowledgement.
fn detail(payload: &[u8], flags: u16) -> String {
    if flags & NLM_F_ACK_TLVS == 0 || payload.len() < 4 + HEADER {
        return String::new();
    }
    let original = u32::from_ne_bytes([payload[4], payload[5], payload[6], payload[7]]) as usize;
    let skip = if flags & NLM_F_CAPPED != 0 { HEADER } else { original.next_multiple_of(4) };
    payload.get(4 + skip..).and_then(|tlvs| attribute(tlvs, NLMSGERR_ATTR_MSG)).map(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_round_trip() {
        let mut w = Writer::new();
        w.begin(3, NLM_F_ACK, 9, &[1, 0, 0, 0]);
        w.string(1, "abc");
        w.nest(2, |w| {
            w.be32(1, 7);
            w.u8(2, 5);
        });
        w.end();
        assert_eq!(u32::from_ne_bytes(w.buf[..4].try_into().unwrap()) as usize, w.buf.len());
        let attrs = &w.buf[HEADER + 4..];
        assert_eq!(text(attribute(attrs, 1).unwrap()), "abc");
        let inner = attribute(attrs, 2).unwrap();
        assert_eq!(attribute(inner, 1).unwrap(), [0, 0, 0, 7]);
        assert_eq!(attribute(inner, 2).unwrap(), [5]);
        assert!(attribute(attrs, 3).is_none());
    }

    #[test]
    fn broken_input_ends_the_walk() {
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[0, 0, 1, 0]).count(), 0);
        let (mut a, mut m, mut i) = (vec![], vec![], false);
        parse(&[1; 40], &mut a, &mut m, &mut i);
        assert!(a.is_empty() && m.is_empty());
    }
}
