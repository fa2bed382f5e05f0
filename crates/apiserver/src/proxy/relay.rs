//! Copying bytes both ways on a connection whose protocol was switched.
//!
//! A WebSocket's frames go to the client each by a write of its own, which over TLS is a record of its own. Clients that wait
//! for their socket to become readable and then take one frame (the Python client, and what is built on it) never see what else
//! came in the same record: it waits in their TLS library, of which the socket says nothing.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// How much is read at a time, in bytes.
const PIECE: usize = 32 << 10;

/// Copies until both sides have ended, or one has failed.
pub(super) async fn relay<C, B>(client: C, backend: B, websocket: bool) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut client, mut backend) = (client, backend);
    if !websocket {
        return tokio::io::copy_bidirectional(&mut client, &mut backend).await.map(drop);
    }
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_backend, mut to_backend) = tokio::io::split(backend);
    let up = async {
        tokio::io::copy(&mut from_client, &mut to_backend).await?;
        to_backend.shutdown().await
    };
    let down = async {
        copy_frames(&mut from_backend, &mut to_client).await?;
        to_client.shutdown().await
    };
    tokio::try_join!(up, down).map(drop)
}

/// Copies a WebSocket's frames; no write holds bytes of two.
async fn copy_frames(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    let mut came = BytesMut::new();
    // What is still to come of the frame that has begun.
    let mut left = 0;
    loop {
        came.reserve(PIECE);
        if from.read_buf(&mut came).await? == 0 {
            // What is no whole head is passed on all the same: what it means is the client's matter.
            to.write_all(&came).await?;
            return to.flush().await;
        }
        loop {
            if left == 0 {
                let Some(length) = frame_length(&came) else { break };
                left = length;
            }
            if came.is_empty() {
                break;
            }
            let here = came.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            to.write_all(&came[..here]).await?;
            to.flush().await?;
            came.advance(here);
            left -= here as u64;
        }
    }
}

/// The length of a frame with its head, in bytes; None while the head is not whole (RFC 6455, section 5.2).
fn frame_length(bytes: &[u8]) -> Option<u64> {
    let second = *bytes.get(1)?;
    let (head, payload) = match second & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    let mask = if second & 0x80 == 0 { 0 } else { 4 };
    Some(payload.saturating_add(head + mask))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;

    /// A backend that sends these pieces.
    struct Sends(VecDeque<Vec<u8>>);

    impl AsyncRead for Sends {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            if let Some(mut first) = self.0.pop_front() {
                let rest = first.split_off(first.len().min(buf.remaining()));
                buf.put_slice(&first);
                if !rest.is_empty() {
                    self.0.push_front(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Sends {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// A client that says nothing and keeps each write.
    struct Writes<'a>(&'a mut Vec<Vec<u8>>);

    impl AsyncRead for Writes<'_> {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Writes<'_> {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            if !data.is_empty() {
                self.get_mut().0.push(data.to_vec());
            }
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What the client's side is written when the backend sends `pieces`.
    fn written(pieces: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut writes = Vec::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(relay(Writes(&mut writes), Sends(pieces.into()), true)).unwrap();
        writes
    }

    /// A final binary frame with `length` bytes of payload.
    fn frame(length: usize) -> Vec<u8> {
        let mut frame = vec![0x82];
        match length {
            0..=125 => frame.push(length as u8),
            126..=0xffff => {
                frame.push(126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend((0..length).map(|i| i as u8));
        frame
    }

    #[test]
    fn frames_that_came_together_are_written_apart() {
        let frames: Vec<Vec<u8>> = [1, 0, 125, 126, 5000].map(frame).into();
        assert_eq!(written(vec![frames.concat()]), frames);
    }

    #[test]
    fn what_is_no_whole_frame_comes_through() {
        assert_eq!(written(vec![[frame(3), vec![0x82]].concat()]), [frame(3), vec![0x82]]);
        assert_eq!(written(vec![vec![0x82, 0x85, 1, 2, 3, 4, 9]]), [[0x82, 0x85, 1, 2, 3, 4, 9]]);
    }

    /// Where pieces of these lengths end.
    fn ends(lengths: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
        let mut sum = 0;
        lengths
            .into_iter()
            .map(|n| {
                sum += n;
                sum
            })
            .collect()
    }

    #[test]
    fn frames_may_be_cut_anywhere() {
        let frames: Vec<Vec<u8>> = [0, 5, 126, 0, 70_000, 3].map(frame).into();
        let whole = frames.concat();
        for step in [1, 2, 7, 130, 33_000, 70_010] {
            let writes = written(whole.chunks(step).map(<[u8]>::to_vec).collect());
            assert!(writes.concat() == whole, "{step}");
            // No write goes over the end of a frame.
            assert!(
                ends(frames.iter().map(Vec::len)).is_subset(&ends(writes.iter().map(Vec::len))),
                "{step}"
            );
        }
    }
}
