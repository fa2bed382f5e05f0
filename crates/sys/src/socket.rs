//! What a socket's other end has taken.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

/// Bytes (with the kernel's own overhead) that were sent on a Unix socket and not yet read by its peer; 0 means that
/// the peer has read everything (unix(7), SIOCOUTQ).
pub fn unread_by_peer(socket: impl AsFd) -> io::Result<usize> {
    let mut waiting: libc::c_int = 0;
    // SAFETY: the descriptor is borrowed for the call, and TIOCOUTQ (SIOCOUTQ) writes one int.
    let done = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &mut waiting) };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(waiting).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    #[test]
    fn tells_what_was_not_read() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        assert_eq!(unread_by_peer(&a).unwrap(), 0);
        a.write_all(b"abc").unwrap();
        assert!(unread_by_peer(&a).unwrap() >= 3);
        b.read_exact(&mut [0; 3]).unwrap();
        assert_eq!(unread_by_peer(&a).unwrap(), 0);
    }
}
