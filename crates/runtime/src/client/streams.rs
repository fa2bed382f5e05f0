//! A stream connection: the standard streams of a container or an exec.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{mpsc, oneshot};

use super::link::read_frame;
use crate::protocol::{self, Answer, Failure, Op, Reply, Request};
use crate::{Chunk, Exit, IoStream, StdinWriter, Stream};

/// Chunks between the socket and a slow reader.
const QUEUE: usize = 16;
/// The most input that one frame carries.
const PIECE: usize = 64 * 1024;

/// Sends the one request of a fresh connection and reads its answer.
pub(super) async fn ask(
    reader: &mut OwnedReadHalf,
    writer: &mut OwnedWriteHalf,
    request: &Request,
) -> io::Result<Result<Answer, Failure>> {
    let mut out = Vec::new();
    protocol::json_frame(&mut out, protocol::REQUEST, request);
    writer.write_all(&out).await?;
    loop {
        match read_frame(reader).await? {
            Some((protocol::REPLY, content)) => {
                let reply: Reply = serde_json::from_slice(&content)?;
                return Ok(reply.result);
            }
            Some(_) => {} // the greeting, or an event from before the answer
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Turns a fresh connection into a stream connection by `op` (attach or exec). An error is the connection's.
pub(super) async fn open(
    id: &str,
    socket: UnixStream,
    op: Op,
    with_stdin: bool,
) -> io::Result<Result<(Answer, IoStream), Failure>> {
    // What is executed belongs to nobody's connection: it is heard to its end, whoever reads along.
    let lasting = matches!(op, Op::Exec(_));
    let (mut reader, mut writer) = socket.into_split();
    let request = Request { seq: 0, op, output_only: !with_stdin };
    let answer = match ask(&mut reader, &mut writer, &request).await? {
        Ok(answer) => answer,
        Err(failure) => return Ok(Err(failure)),
    };
    let (chunks, output) = mpsc::channel(QUEUE);
    let (exited, exit) = oneshot::channel();
    let stdin = FramedStdin { writer: Some(writer), pending: Vec::new(), sent: 0, ended: false };
    // Without input the writing half still has to live as long as the reading one: its end would be a detachment.
    let (stdin, rest) = if with_stdin { (Some(StdinWriter::new(stdin)), None) } else { (None, Some(stdin)) };
    let id = id.to_string();
    tokio::spawn(async move {
        if let Err(e) = pump(reader, chunks, exited, lasting).await {
            tracing::debug!("streams of {id}: {e}");
        }
        drop(rest);
    });
    Ok(Ok((answer, IoStream { stdin, output, exit: Some(exit) })))
}

async fn pump(
    mut reader: OwnedReadHalf,
    chunks: mpsc::Sender<Chunk>,
    exited: oneshot::Sender<Exit>,
    lasting: bool,
) -> io::Result<()> {
    loop {
        let frame = tokio::select! {
            frame = read_frame(&mut reader) => frame?,
            () = chunks.closed(), if !lasting => {
                // Detached. Shut down, because the writing half may still be held.
                let socket: &UnixStream = reader.as_ref();
                let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
                return Ok(());
            }
        };
        let (stream, data) = match frame {
            Some((protocol::STDOUT, data)) => (Stream::Stdout, data),
            Some((protocol::STDERR, data)) => (Stream::Stderr, data),
            Some((protocol::END, content)) => {
                drop(chunks);
                if let Ok(exit) = serde_json::from_slice(&content) {
                    let _ = exited.send(exit);
                }
                return Ok(());
            }
            Some(_) => continue,
            None => return Ok(()),
        };
        // A closed channel is found at the top of the loop, unless the end is waited for without a reader.
        let _ = chunks.send(Chunk { stream, data: Bytes::from(data) }).await;
    }
}

/// Puts input into frames.
struct FramedStdin {
    writer: Option<OwnedWriteHalf>,
    pending: Vec<u8>,
    sent: usize,
    ended: bool,
}

impl Drop for FramedStdin {
    fn drop(&mut self) {
        // Dropping the half as it is would shut the socket down, which detaches; only `shutdown` ends the input.
        if let Some(writer) = self.writer.take() {
            writer.forget();
        }
    }
}

impl FramedStdin {
    fn poll_pending(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(writer) = &mut self.writer else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        while self.sent < self.pending.len() {
            match Pin::new(&mut *writer).poll_write(cx, &self.pending[self.sent..]) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => self.sent += n,
                Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
                Poll::Pending => return Poll::Pending,
            }
        }
        self.pending.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FramedStdin {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.poll_pending(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(e)) => return Poll::Ready(Err(e)),
            Poll::Pending => return Poll::Pending,
        }
        let n = buf.len().min(PIECE);
        protocol::frame(&mut self.pending, protocol::STDIN, &buf[..n]);
        // Sent now as far as possible; the rest goes with the next call. A failure comes back then.
        let _ = self.poll_pending(cx);
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_pending(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            // Queued once, behind whatever is still unsent, however often this is called.
            self.ended = true;
            protocol::frame(&mut self.pending, protocol::STDIN_END, &[]);
        }
        self.poll_pending(cx)
    }
}
