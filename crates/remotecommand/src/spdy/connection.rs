//! Moves the bytes of a `Session`: one task for each connection, handles for its streams.
//!
//! Promises: memory is bounded. A writer waits until its bytes are on the wire; a reader that does not read stops the
//! whole connection from being read, as TCP's own flow control then tells a peer that knows no other. Dropping every
//! handle closes the connection with GOAWAY after what was sent.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use super::Error;
use super::headers::Headers;
use super::session::{Event, Session};

/// Pieces that may lie between the wire and a reader.
const READ_AHEAD: usize = 8;
/// What may wait to be written, in bytes, while more is read: answers to pings and refused streams are part of it.
const MAX_OUTPUT: usize = 256 * 1024;
/// How long a peer may take to close after we have: a limit of the protocol, there is no event for "never".
const LINGER: Duration = Duration::from_secs(2);

enum Command {
    Send(u32, Bytes, oneshot::Sender<()>),
    Finish(u32),
    Reset(u32),
    Consumed(u32, u32),
    Close,
}

/// The receiving half of a stream.
pub struct Reader {
    id: u32,
    data: mpsc::Receiver<Bytes>,
    commands: mpsc::UnboundedSender<Command>,
}

impl Reader {
    /// The next bytes; None when the peer has finished or the connection ended.
    pub async fn recv(&mut self) -> Option<Bytes> {
        let data = self.data.recv().await?;
        let _ = self.commands.send(Command::Consumed(self.id, data.len() as u32));
        Some(data)
    }
}

/// The sending half of a stream. Dropping it finishes the stream.
pub struct Writer {
    id: u32,
    commands: mpsc::UnboundedSender<Command>,
}

impl Writer {
    /// Sends `data`; returns when it has been handed to the connection below.
    pub async fn send(&mut self, data: Bytes) -> Result<(), Error> {
        let (token, sent) = oneshot::channel();
        self.commands.send(Command::Send(self.id, data, token)).map_err(|_| Error::Closed)?;
        sent.await.map_err(|_| Error::Closed)
    }

    /// Ends the stream abnormally in both directions.
    pub fn reset(&mut self) {
        let _ = self.commands.send(Command::Reset(self.id));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Finish(self.id));
    }
}

/// A stream that the peer opened and that has been accepted.
pub struct Stream {
    /// What the peer said about it.
    pub headers: Headers,
    /// What comes in.
    pub reader: Reader,
    /// What goes out.
    pub writer: Writer,
}

/// A connection whose bytes are being moved by a task.
pub struct Connection {
    incoming: mpsc::UnboundedReceiver<Stream>,
    commands: mpsc::UnboundedSender<Command>,
    task: tokio::task::JoinHandle<()>,
}

impl Connection {
    /// Starts to serve `io`.
    pub fn serve<IO>(io: IO) -> Self
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sender, incoming) = mpsc::unbounded_channel();
        let (commands, received) = mpsc::unbounded_channel();
        let weak = commands.downgrade();
        let task = tokio::spawn(async move {
            if let Err(error) = drive(io, sender, weak, received).await {
                tracing::debug!(%error, "SPDY connection ended");
            }
        });
        Self { incoming, commands, task }
    }

    /// The next stream that the peer opens; None when it will open no more.
    pub async fn accept(&mut self) -> Option<Stream> {
        self.incoming.recv().await
    }

    /// Ends every stream and waits until everything sent before has left.
    pub async fn close(self) {
        let _ = self.commands.send(Command::Close);
        let _ = self.task.await;
    }
}

async fn drive<IO>(
    io: IO,
    incoming: mpsc::UnboundedSender<Stream>,
    weak: mpsc::WeakUnboundedSender<Command>,
    mut received: mpsc::UnboundedReceiver<Command>,
) -> Result<(), Error>
where
    IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut read, mut write) = tokio::io::split(io);
    let mut session = Session::<oneshot::Sender<()>>::default();
    let mut readers: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    let mut blocked: Option<(u32, mpsc::Sender<Bytes>, Bytes)> = None;
    let mut flushing = Vec::new();
    let mut buffer = vec![0u8; 32 * 1024];
    loop {
        while blocked.is_none() {
            match session.event()? {
                None => break,
                Some(Event::Opened { id, headers }) => {
                    let (data, receiver) = mpsc::channel(READ_AHEAD);
                    let Some(commands) = weak.upgrade() else { continue };
                    let stream = Stream {
                        headers,
                        reader: Reader { id, data: receiver, commands: commands.clone() },
                        writer: Writer { id, commands },
                    };
                    session.reply(id)?;
                    readers.insert(id, data);
                    if incoming.send(stream).is_err() {
                        session.reset(id)?;
                        readers.remove(&id);
                    }
                }
                Some(Event::Data { id, data }) => match readers.get(&id) {
                    Some(reader) => match reader.try_send(data) {
                        Ok(()) => {}
                        Err(mpsc::error::TrySendError::Full(data)) => {
                            blocked = Some((id, reader.clone(), data))
                        }
                        Err(mpsc::error::TrySendError::Closed(data)) => {
                            session.consumed(id, data.len() as u32)?
                        }
                    },
                    None => session.consumed(id, data.len() as u32)?,
                },
                Some(Event::Finished { id } | Event::Reset { id }) => {
                    readers.remove(&id);
                }
            }
        }
        flushing.append(&mut session.sent());
        let pending = !session.output().is_empty();
        // Who does not read what it is answered is not read from either.
        let answers = session.output().len() < MAX_OUTPUT;
        if !pending && !flushing.is_empty() {
            write.flush().await?;
            flushing.drain(..).for_each(|token| {
                // Who no longer waits has dropped its half.
                let _ = token.send(());
            });
        }
        tokio::select! {
            written = write.write_buf(session.output()), if pending => {
                if written? == 0 {
                    return Err(Error::Closed);
                }
                if session.output().is_empty() {
                    write.flush().await?;
                }
            }
            command = received.recv() => match command {
                Some(Command::Send(id, data, token)) => session.send(id, data, token)?,
                Some(Command::Finish(id)) => session.finish(id)?,
                Some(Command::Reset(id)) => {
                    readers.remove(&id);
                    session.reset(id)?;
                }
                Some(Command::Consumed(id, bytes)) => session.consumed(id, bytes)?,
                Some(Command::Close) | None => break,
            },
            room = room(&blocked), if blocked.is_some() => {
                if let Some((id, _, data)) = blocked.take() {
                    match room {
                        Some(permit) => drop(permit.send(data)),
                        None => session.consumed(id, data.len() as u32)?,
                    }
                }
            }
            got = read.read(&mut buffer), if blocked.is_none() && answers => match got? {
                0 => return Ok(()),
                n => session.receive(&buffer[..n]),
            },
        }
    }
    session.go_away()?;
    let linger = async {
        write.write_all_buf(session.output()).await?;
        write.flush().await?;
        // The peer closes first, when it has all it wants: kubectl's library, once it sees the connection's end, takes
        // from its own readers what they have not read yet.
        while read.read(&mut buffer).await? > 0 {}
        write.shutdown().await?;
        Ok(())
    };
    tokio::time::timeout(LINGER, linger).await.unwrap_or(Ok(()))
}

async fn room(blocked: &Option<(u32, mpsc::Sender<Bytes>, Bytes)>) -> Option<mpsc::OwnedPermit<Bytes>> {
    match blocked {
        Some((_, sender, _)) => sender.clone().reserve_owned().await.ok(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::frame::{Decoder, Encoder, Frame};
    use super::*;

    async fn next(decoder: &mut Decoder, io: &mut (impl AsyncRead + Unpin)) -> Option<Frame> {
        loop {
            if let Some(frame) = decoder.decode().unwrap() {
                return Some(frame);
            }
            let mut buffer = [0u8; 4096];
            match io.read(&mut buffer).await.unwrap() {
                0 => return None,
                n => decoder.feed(&buffer[..n]),
            }
        }
    }

    #[tokio::test]
    async fn an_echo() {
        let (mut client, server) = tokio::io::duplex(1000);
        let mut connection = Connection::serve(server);
        let (mut encoder, mut out, mut decoder) = (Encoder::default(), BytesMut::new(), Decoder::default());
        encoder
            .put(
                &Frame::SynStream {
                    id: 1,
                    fin: false,
                    unidirectional: false,
                    headers: vec![("a".into(), "b".into())],
                },
                &mut out,
            )
            .unwrap();
        client.write_all(&out.split()).await.unwrap();
        let mut stream = connection.accept().await.unwrap();
        assert_eq!(stream.headers, [("a".to_string(), "b".to_string())]);
        let echo = tokio::spawn(async move {
            while let Some(data) = stream.reader.recv().await {
                stream.writer.send(data).await.unwrap();
            }
            drop(stream);
            connection.close().await;
        });
        assert!(matches!(next(&mut decoder, &mut client).await, Some(Frame::SynReply { id: 1, .. })));
        let (mut receive, mut send) = tokio::io::split(client);
        let sender = tokio::spawn(async move {
            for i in 0..100u8 {
                encoder
                    .put(&Frame::Data { id: 1, fin: i == 99, data: Bytes::from(vec![i; 3000]) }, &mut out)
                    .unwrap();
                send.write_all(&out.split()).await.unwrap();
            }
            send
        });
        let (mut total, mut finished, mut gone) = (0, false, false);
        while let Some(frame) = next(&mut decoder, &mut receive).await {
            match frame {
                Frame::Data { data, fin, .. } => (total, finished) = (total + data.len(), fin),
                Frame::GoAway { last: 1, status: 0 } => {
                    gone = true;
                    break; // the connection ends when this side has seen enough
                }
                Frame::WindowUpdate { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((total, finished, gone), (300_000, true, true));
        drop(receive.unsplit(sender.await.unwrap()));
        echo.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_peer_closes_first() {
        let (mut client, server) = tokio::io::duplex(1000);
        let closed = tokio::spawn(Connection::serve(server).close());
        let mut decoder = Decoder::default();
        assert!(matches!(next(&mut decoder, &mut client).await, Some(Frame::GoAway { .. })));
        let end = tokio::time::timeout(LINGER / 2, next(&mut decoder, &mut client)).await;
        assert!(end.is_err(), "the connection ended under a peer that may still be reading");
        drop(client);
        closed.await.unwrap();
    }

    #[tokio::test]
    async fn a_reader_that_sleeps_stops_the_wire_and_one_that_is_gone_does_not() {
        let (client, server) = tokio::io::duplex(4096);
        let mut connection = Connection::serve(server);
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        encoder
            .put(&Frame::SynStream { id: 1, fin: false, unidirectional: false, headers: vec![] }, &mut out)
            .unwrap();
        for _ in 0..64 {
            encoder
                .put(&Frame::Data { id: 1, fin: false, data: Bytes::from(vec![0; 32 * 1024]) }, &mut out)
                .unwrap();
        }
        let (mut receive, mut send) = tokio::io::split(client);
        let (done, mut all_sent) = oneshot::channel();
        tokio::spawn(async move {
            send.write_all(&out).await.unwrap();
            let _ = done.send(send);
        });
        tokio::spawn(async move { while receive.read(&mut [0; 4096]).await.unwrap_or(0) > 0 {} });
        let stream = connection.accept().await.unwrap();
        // Everything that can happen without the reader has happened once the scheduler runs idle.
        for _ in 0..10_000 {
            tokio::task::yield_now().await;
        }
        assert!(all_sent.try_recv().is_err());
        drop(stream.reader);
        assert!(all_sent.await.is_ok());
    }
}
