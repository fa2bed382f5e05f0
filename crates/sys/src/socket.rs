//! What a socket's other end has taken.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Bytes that were sent and not yet taken; 0 means that everything has been. On a Unix socket they are taken when the
/// peer has read them, and count with the kernel's own overhead (unix(7), SIOCOUTQ); on a TCP socket when its kernel has
/// acknowledged them (tcp(7)), read or not.
pub fn untaken_by_peer(socket: impl AsFd) -> io::Result<usize> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the call, and TIOCOUTQ (SIOCOUTQ) writes one int.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &mut waiting) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(waiting).unwrap_or(0))
}

/// How far the other end of a TCP connection is with what was sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TcpPeer {
    /// It has read everything.
    HasRead,
    /// Its kernel has acknowledged everything; whether it has read it cannot be seen from this network namespace.
    HasAcknowledged,
    /// Something is on its way or waits for it.
    Behind,
}

/// How far the other end of a TCP connection is. If it lies in this network namespace its own socket is looked at, by
/// sock_diag(7).
pub fn tcp_peer(socket: impl AsFd, local: SocketAddr, peer: SocketAddr) -> io::Result<TcpPeer> {
    let ends = TcpEnd::find(local, peer).ok().flatten().zip(TcpEnd::find(peer, local).ok().flatten());
    Ok(match ends {
        // Not by acknowledgements: one end delays them, for up to 40 ms, when it expects to send something soon.
        Some((ours, theirs)) if theirs.received >= ours.sent && theirs.unread == 0 => TcpPeer::HasRead,
        Some(_) => TcpPeer::Behind,
        None if untaken_by_peer(socket)? == 0 => TcpPeer::HasAcknowledged,
        None => TcpPeer::Behind,
    })
}

/// One end of a TCP connection, as the kernel counts its bytes.
#[derive(Debug, Clone, Copy)]
struct TcpEnd {
    /// In its receive queue.
    unread: u32,
    /// That came, in order.
    received: u64,
    /// That were written and sent or wait to be, each once.
    sent: u64,
}

/// The socket by which ends are asked for, since closing one takes the kernel milliseconds.
static DIAG: Mutex<Option<OwnedFd>> = Mutex::new(None);

// linux/sock_diag.h, linux/inet_diag.h, linux/tcp.h
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const INET_DIAG_INFO: u16 = 2;
/// `nlmsghdr`, `inet_diag_req_v2`.
const REQUEST: usize = 16 + 56;
/// Where attributes begin: `nlmsghdr`, `inet_diag_msg`.
const ATTRIBUTES: usize = 16 + 72;
/// `idiag_rqueue` in an answer.
const RQUEUE: usize = 16 + 56;
// In `tcp_info`.
const BYTES_RECEIVED: usize = 128;
const NOTSENT_BYTES: usize = 144;
const BYTES_SENT: usize = 200;
const BYTES_RETRANS: usize = 208;

impl TcpEnd {
    /// The end that has the address `at`; none if it does not lie in this network namespace.
    fn find(at: SocketAddr, peer: SocketAddr) -> io::Result<Option<TcpEnd>> {
        let request = Self::request(at, peer);
        let mut answer = [0u8; 1024];
        let length = {
            let mut diag = DIAG.lock().unwrap_or_else(PoisonError::into_inner);
            let socket = match &*diag {
                Some(socket) => socket,
                None => {
                    let kind = (AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC);
                    diag.insert(rustix::net::socket_with(kind.0, kind.1, kind.2, Some(SOCK_DIAG))?)
                }
            };
            let kernel = SocketAddrNetlink::new(0, 0);
            rustix::net::sendto(socket, &request, SendFlags::empty(), &kernel)?;
            // The kernel answers before sending returns.
            rustix::net::recv(socket, &mut answer, RecvFlags::DONTWAIT)?.0
        };
        Self::parse(&answer[..length])
    }

    fn request(at: SocketAddr, peer: SocketAddr) -> Vec<u8> {
        let mut out = Vec::with_capacity(REQUEST);
        out.extend_from_slice(&(REQUEST as u32).to_ne_bytes());
        out.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        out.extend_from_slice(&NLM_F_REQUEST.to_ne_bytes());
        out.extend_from_slice(&[0; 8]); // sequence, port
        let (from, to) = (at.ip().to_canonical(), peer.ip().to_canonical());
        let family = if from.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        out.extend_from_slice(&[family as u8, libc::IPPROTO_TCP as u8, 1 << (INET_DIAG_INFO - 1), 0]);
        out.extend_from_slice(&u32::MAX.to_ne_bytes()); // in whatever state
        out.extend_from_slice(&at.port().to_be_bytes());
        out.extend_from_slice(&peer.port().to_be_bytes());
        for address in [from, to] {
            let mut bytes = [0; 16];
            match address {
                IpAddr::V4(a) => bytes[..4].copy_from_slice(&a.octets()),
                IpAddr::V6(a) => bytes = a.octets(),
            }
            out.extend_from_slice(&bytes);
        }
        let interface = match at {
            SocketAddr::V6(a) => a.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        out.extend_from_slice(&interface.to_ne_bytes());
        out.extend_from_slice(&[0xff; 8]); // no cookie
        out
    }

    fn parse(answer: &[u8]) -> io::Result<Option<TcpEnd>> {
        let short = || io::Error::from(io::ErrorKind::UnexpectedEof);
        let u16_at = |bytes: &[u8], at: usize| {
            bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes).ok_or_else(short)
        };
        let u32_at = |bytes: &[u8], at: usize| {
            bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes).ok_or_else(short)
        };
        let u64_at = |bytes: &[u8], at: usize| {
            bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_ne_bytes).ok_or_else(short)
        };
        if u16_at(answer, 4)? == NLMSG_ERROR {
            let errno = (u32_at(answer, 16)? as i32).wrapping_neg();
            return if errno == libc::ENOENT { Ok(None) } else { Err(io::Error::from_raw_os_error(errno)) };
        }
        let unread = u32_at(answer, RQUEUE)?;
        let mut rest = answer.get(ATTRIBUTES..).ok_or_else(short)?;
        while !rest.is_empty() {
            let length = usize::from(u16_at(rest, 0)?);
            if u16_at(rest, 2)? == INET_DIAG_INFO {
                let info = rest.get(4..length).ok_or_else(short)?;
                let sent = u64_at(info, BYTES_SENT)?.saturating_sub(u64_at(info, BYTES_RETRANS)?);
                let unsent = u64::from(u32_at(info, NOTSENT_BYTES)?);
                return Ok(Some(Self {
                    unread,
                    received: u64_at(info, BYTES_RECEIVED)?,
                    sent: sent + unsent,
                }));
            }
            rest = rest.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
        }
        Err(short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    #[test]
    fn tells_what_was_not_read() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        assert_eq!(untaken_by_peer(&a).unwrap(), 0);
        a.write_all(b"abc").unwrap();
        assert!(untaken_by_peer(&a).unwrap() >= 3);
        b.read_exact(&mut [0; 3]).unwrap();
        assert_eq!(untaken_by_peer(&a).unwrap(), 0);
    }

    #[test]
    fn sees_the_other_end_of_a_local_connection() {
        // The last is what a client over IPv4 is to a listener for both.
        for (listens, client) in [("127.0.0.1:0", "127.0.0.1"), ("[::1]:0", "::1"), ("[::]:0", "127.0.0.1")] {
            let Ok(listener) = TcpListener::bind(listens) else {
                assert_ne!(listens, "127.0.0.1:0");
                continue; // a machine without IPv6
            };
            let port = listener.local_addr().unwrap().port();
            let mut theirs = TcpStream::connect((client, port)).unwrap();
            let (mut ours, peer) = listener.accept().unwrap();
            let local = ours.local_addr().unwrap();
            let state = || tcp_peer(&ours, local, peer).unwrap();
            assert_eq!(state(), TcpPeer::HasRead, "{listens}");
            (&ours).write_all(b"abc").unwrap();
            assert_eq!(state(), TcpPeer::Behind, "{listens}");
            theirs.read_exact(&mut [0; 2]).unwrap();
            assert_eq!(state(), TcpPeer::Behind, "{listens}");
            theirs.read_exact(&mut [0; 1]).unwrap();
            assert_eq!(state(), TcpPeer::HasRead, "{listens}");
            // More than buffers hold, so that a part waits on this side.
            ours.set_nonblocking(true).unwrap();
            let mut total = 0;
            while let Ok(n) = ours.write(&[0; 65536]) {
                total += n;
            }
            assert_eq!(tcp_peer(&ours, local, peer).unwrap(), TcpPeer::Behind);
            theirs.read_exact(&mut vec![0; total]).unwrap();
            assert_eq!(tcp_peer(&ours, local, peer).unwrap(), TcpPeer::HasRead);
        }
    }

    #[test]
    fn an_end_elsewhere_has_none() {
        let (at, peer) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        assert!(TcpEnd::find(at, peer).unwrap().is_none());
        assert!(TcpEnd::parse(&[0; 20]).is_err(), "cut short");
    }
}
