//! The short conversation between a shim and the child it has cloned, over a socket pair that keeps messages apart.
//! The child's end closes on execve, which is how success is told.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use crate::protocol::{Failure, Step};

/// What the two tell each other.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// Child: everything is made, waiting for `Go`.
    Ready,
    /// Child: everything is made but the root is still the machine's; waiting for `Go` while hooks are run.
    Hooks,
    /// Child: here is the terminal (with its descriptor).
    Terminal,
    /// Process between: this is the first process.
    Cloned(i32),
    /// Child: it did not work.
    Failed(Failure),
    /// Shim: go on.
    Go,
}

/// Two connected ends.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends a message, with a descriptor if there is one to hand over.
pub(super) fn send(to: &OwnedFd, message: &Message, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    if !fds.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&fds));
    }
    rustix::net::sendmsg(to.as_fd(), &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Waits for a message; none when the other end is closed.
pub(super) fn receive(from: &OwnedFd) -> io::Result<Option<(Message, Option<OwnedFd>)>> {
    let mut buffer = [0u8; 8192];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let got = loop {
        let mut parts = [IoSliceMut::new(&mut buffer)];
        match rustix::net::recvmsg(from.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok(None),
            other => break other?,
        }
    };
    let mut fd = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            fd = fds.last();
        }
    }
    if got.bytes == 0 {
        return Ok(None);
    }
    Ok(Some((serde_json::from_slice(&buffer[..got.bytes])?, fd)))
}

/// Takes the descriptor that another runtime sends over its console socket.
pub(super) fn receive_descriptor(from: &OwnedFd) -> Result<OwnedFd, Failure> {
    let mut buffer = [0u8; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(&mut buffer)];
    rustix::net::recvmsg(from.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)
        .step(|| "take the terminal".into())?;
    let fds = control.drain().filter_map(|m| match m {
        RecvAncillaryMessage::ScmRights(fds) => fds.last(),
        _ => None,
    });
    fds.last().ok_or_else(|| Failure::setup("the runtime sent no terminal"))
}
