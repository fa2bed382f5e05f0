//! The ways Kubernetes uses WebSocket: channels (exec and attach: the first byte of each message names the stream), tunnels
//! (port-forward: the messages' bytes are a SPDY connection), and pieces (logs and watches: each is one message).
//!
//! Promises: messages are at most `MAX_MESSAGE` bytes; a reader that does not read stops the connection from being read.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures::{Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// The largest message accepted, in bytes.
pub const MAX_MESSAGE: usize = 4 << 20;

/// The channel on which version 5 says that another channel is closed.
const CLOSE: u8 = 255;

/// Takes the server's part on an upgraded connection.
pub async fn accept<IO>(io: IO) -> WebSocketStream<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let config =
        WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE));
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
}

/// What the messages of [`send_pieces`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Binary messages.
    Binary,
    /// Text.
    Text,
    /// Text that is base64.
    Base64,
}

/// How long the other side's close is waited for.
const FAREWELL: std::time::Duration = std::time::Duration::from_secs(2);

/// Sends each piece as one message until there are no more, or the client closes the connection.
pub async fn send_pieces<IO>(io: IO, pieces: impl Stream<Item = Bytes> + Unpin, form: Form)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (mut out, mut incoming) = accept(io).await.split();
    let mut pieces = pieces;
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            message = incoming.next() => match message {
                None | Some(Err(_) | Ok(Message::Close(_))) => break,
                Some(Ok(_)) => continue,
            },
        };
        let Some(piece) = piece else { break };
        let message = match form {
            Form::Binary => Message::Binary(piece),
            Form::Base64 => Message::text(STANDARD.encode(&piece)),
            // A piece that is cut inside a character is still bytes.
            Form::Text => match String::from_utf8(piece.into()) {
                Ok(text) => Message::text(text),
                Err(e) => Message::binary(e.into_bytes()),
            },
        };
        if out.send(message).await.is_err() {
            return;
        }
    }
    let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    if out.send(Message::Close(Some(frame))).await.is_ok() {
        // RFC 6455 section 7.1.1: the client's own close comes before the connection's end, or it may lose what it has not
        // read yet. Nothing tells of a client that never answers.
        let _ =
            tokio::time::timeout(FAREWELL, async { while let Some(Ok(_)) = incoming.next().await {} }).await;
    }
}

/// What came over a channel connection.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    /// Bytes for a channel.
    Data(u8, Bytes),
    /// The client sends nothing more on this channel (version 5).
    Closed(u8),
}

/// Takes a message apart. None: nothing for us in it.
pub fn decode(message: Message, base64: bool) -> Option<Incoming> {
    let payload: Bytes = match message {
        Message::Binary(data) => data,
        Message::Text(text) => Bytes::from(text),
        _ => return None,
    };
    let (&first, _) = payload.split_first()?;
    let rest = payload.slice(1..);
    if base64 {
        let data = STANDARD.decode(&rest).ok()?;
        return Some(Incoming::Data(first.checked_sub(b'0')?, data.into()));
    }
    match first {
        CLOSE => rest.first().map(|channel| Incoming::Closed(*channel)),
        channel => Some(Incoming::Data(channel, rest)),
    }
}

/// Makes a message for a channel.
pub fn encode(channel: u8, data: &[u8], base64: bool) -> Message {
    if base64 {
        return Message::text(format!("{}{}", char::from(b'0' + channel), STANDARD.encode(data)));
    }
    let mut message = BytesMut::with_capacity(1 + data.len());
    message.extend_from_slice(&[channel]);
    message.extend_from_slice(data);
    Message::Binary(message.freeze())
}

/// What the sending task is told.
pub enum Outgoing {
    /// Bytes for a channel.
    Data(u8, Bytes),
}

/// Starts the sending task: it ends with a close message when the last sender is gone. Returns its input.
pub fn sender<IO>(
    mut sink: futures::stream::SplitSink<WebSocketStream<IO>, Message>,
    base64: bool,
) -> (mpsc::Sender<Outgoing>, tokio::task::JoinHandle<()>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (tx, mut rx) = mpsc::channel::<Outgoing>(4);
    let task = tokio::spawn(async move {
        while let Some(Outgoing::Data(channel, data)) = rx.recv().await {
            if sink.send(encode(channel, &data, base64)).await.is_err() {
                return;
            }
        }
        // kubectl takes any other code, or none, for a broken connection.
        let _ =
            sink.send(Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }))).await;
        let _ = sink.close().await;
    });
    (tx, task)
}

/// The stream of what comes in, ending with the connection.
pub fn receiver<IO>(
    stream: futures::stream::SplitStream<WebSocketStream<IO>>,
    base64: bool,
) -> impl Stream<Item = Incoming> + Send + Unpin
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    Box::pin(
        stream
            .take_while(|message| std::future::ready(message.is_ok()))
            .filter_map(move |message| std::future::ready(message.ok().and_then(|m| decode(m, base64)))),
    )
}

/// A byte stream inside the binary messages of a WebSocket.
pub struct Tunnel<IO> {
    socket: WebSocketStream<IO>,
    pending: Bytes,
}

impl<IO> Tunnel<IO> {
    /// Wraps a connection.
    pub fn new(socket: WebSocketStream<IO>) -> Self {
        Self { socket, pending: Bytes::new() }
    }
}

fn io_error(error: WsError) -> io::Error {
    match error {
        WsError::Io(error) => error,
        WsError::ConnectionClosed | WsError::AlreadyClosed => io::ErrorKind::BrokenPipe.into(),
        other => io::Error::other(other),
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.pending.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                Some(Ok(Message::Binary(data))) => self.pending = data,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(_)) => {}
                Some(Err(WsError::ConnectionClosed | WsError::AlreadyClosed)) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io_error(error))),
            }
        }
        let n = self.pending.len().min(buf.remaining());
        let piece = self.pending.split_to(n);
        buf.put_slice(&piece);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        ready!(Pin::new(&mut self.socket).poll_ready(cx)).map_err(io_error)?;
        let n = data.len().min(64 * 1024);
        let message = Message::Binary(Bytes::copy_from_slice(&data[..n]));
        Pin::new(&mut self.socket).start_send(message).map_err(io_error)?;
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(io_error)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx).map_err(io_error)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[test]
    fn messages() {
        let table = [
            (Message::binary(&b"\x00hi"[..]), false, Some(Incoming::Data(0, Bytes::from_static(b"hi")))),
            (Message::binary(&b"\xff\x00"[..]), false, Some(Incoming::Closed(0))),
            (Message::binary(&b"\xff"[..]), false, None),
            (Message::binary(&b""[..]), false, None),
            (Message::text("0aGk="), true, Some(Incoming::Data(0, Bytes::from_static(b"hi")))),
            (Message::text("0?"), true, None),
            (Message::text("\u{1}"), true, None),
        ];
        for (message, base64, want) in table {
            assert_eq!(decode(message, base64), want);
        }
        assert_eq!(encode(1, b"x", false), Message::binary(&b"\x01x"[..]));
        assert_eq!(encode(1, b"hi", true), Message::text("1aGk="));
    }

    #[tokio::test]
    async fn pieces_are_messages() {
        for (form, want) in [
            (Form::Binary, Message::binary(&b"hi"[..])),
            (Form::Text, Message::text("hi")),
            (Form::Base64, Message::text("aGk=")),
        ] {
            let (a, b) = tokio::io::duplex(4096);
            let pieces = futures::stream::iter([Bytes::from_static(b"hi")]);
            let (got, ()) = tokio::join!(
                async {
                    let client = WebSocketStream::from_raw_socket(b, Role::Client, None).await;
                    client.map(Result::unwrap).collect::<Vec<_>>().await
                },
                send_pieces(a, pieces, form)
            );
            assert_eq!(got[0], want);
            assert!(matches!(got[1], Message::Close(_)));
        }
    }

    #[tokio::test]
    async fn a_tunnel_carries_bytes_both_ways() {
        let (a, b) = tokio::io::duplex(4096);
        let mut server = Tunnel::new(accept(a).await);
        let mut client = Tunnel::new(WebSocketStream::from_raw_socket(b, Role::Client, None).await);
        let sent: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        let want = sent.clone();
        let writer = tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.flush().await.unwrap();
            let mut answer = [0; 2];
            client.read_exact(&mut answer).await.unwrap();
            answer
        });
        let mut got = vec![0; want.len()];
        server.read_exact(&mut got).await.unwrap();
        assert!(got == want);
        server.write_all(b"ok").await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(&writer.await.unwrap(), b"ok");
    }
}
