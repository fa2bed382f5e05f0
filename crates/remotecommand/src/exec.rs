//! Exec and attach: up to five streams between a client and a process, over SPDY/3.1 or WebSocket.
//!
//! `exec_session` answers the request and yields the streams once the client has opened them; what is done with them is
//! the caller's. `Streams::finish` says how it ended, after everything that was written.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::sync::mpsc;

use crate::negotiate::{self, Carrier};
use crate::status::{self, Outcome};
use crate::stream::{Reader, Writer};
use crate::websocket::{self, Incoming, Outgoing};
use crate::{Error, Rejection, spdy};

/// The client's time to open its streams, as upstream's: a client that never does is no event.
const CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// The longest resize message.
const MAX_RESIZE: usize = 4096;

const SPDY: &[&str] = &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
const WEBSOCKET: &[&str] = &[
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "base64.channel.k8s.io",
    "channel.k8s.io",
];

/// Which streams the request asks for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The client will send input.
    pub stdin: bool,
    /// The client wants output.
    pub stdout: bool,
    /// The client wants errors; never with a terminal, where both are one.
    pub stderr: bool,
    /// The process has a terminal.
    pub tty: bool,
}

impl Wanted {
    /// From the query of `/exec` and `/attach`, in the API server's names (`stdin=true`) and the kubelet's (`input=1`).
    pub fn from_query(query: &str) -> Self {
        let mut wanted = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let on = matches!(value, "1" | "true" | "True" | "TRUE" | "t" | "T");
            match name {
                "stdin" | "input" => wanted.stdin = on,
                "stdout" | "output" => wanted.stdout = on,
                "stderr" | "error" => wanted.stderr = on,
                "tty" => wanted.tty = on,
                _ => {}
            }
        }
        if wanted.tty {
            wanted.stderr = false;
        }
        wanted
    }
}

/// A terminal's size. Its fields are read as Go reads them, whatever their case: `Width` of kubectl, `width` of browsers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Size {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> serde::de::Visitor<'de> for Fields {
            type Value = Size;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a terminal's size")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Size, A::Error> {
                let mut size = Size::default();
                while let Some(name) = map.next_key::<std::borrow::Cow<'_, str>>()? {
                    if name.eq_ignore_ascii_case("width") {
                        size.width = map.next_value()?;
                    } else if name.eq_ignore_ascii_case("height") {
                        size.height = map.next_value()?;
                    } else {
                        map.next_value::<serde::de::IgnoredAny>()?;
                    }
                }
                Ok(size)
            }
        }
        from.deserialize_map(Fields)
    }
}

/// What a client opened.
pub struct Streams {
    /// If asked for.
    pub stdin: Option<Reader>,
    /// If asked for.
    pub stdout: Option<Writer>,
    /// If asked for.
    pub stderr: Option<Writer>,
    /// With a terminal, from version 3 on.
    pub resize: Option<mpsc::Receiver<Size>>,
    error: Writer,
    version: u8,
    end: End,
}

enum End {
    Spdy(spdy::Connection),
    WebSocket(tokio::task::JoinHandle<()>),
}

impl Streams {
    /// Says how the command ended, and closes. Writers taken out must have been dropped, or the client waits for them.
    pub async fn finish(mut self, outcome: &Outcome) {
        drop((self.stdin.take(), self.stdout.take(), self.stderr.take(), self.resize.take()));
        let message = status::encode(outcome, self.version);
        if !message.is_empty()
            && let Err(error) = self.error.send(message).await
        {
            tracing::debug!(%error, "the client left before its command ended");
        }
        drop(self.error);
        match self.end {
            End::Spdy(connection) => connection.close().await,
            End::WebSocket(task) => {
                let _ = task.await;
            }
        }
    }
}

/// Answers an exec or attach request. The response must be sent; the future then yields the streams.
pub fn exec_session<B>(
    request: &mut Request<B>,
    wanted: Wanted,
) -> Result<(Response<()>, impl Future<Output = Result<Streams, Error>> + Send + 'static), Rejection> {
    let agreed = negotiate::agree(request.headers(), SPDY, WEBSOCKET, "")?;
    let upgrade = hyper::upgrade::on(request);
    let (carrier, protocol) = (agreed.carrier, agreed.protocol);
    let session = async move {
        let io = TokioIo::new(upgrade.await.map_err(|e| Error::Upgrade(e.to_string()))?);
        let version = version(&protocol);
        match carrier {
            Carrier::Spdy => tokio::time::timeout(CREATION_TIMEOUT, over_spdy(io, wanted, version))
                .await
                .map_err(|_| Error::Timeout)?,
            Carrier::WebSocket => over_websocket(io, wanted, version, protocol.contains("base64")).await,
        }
    };
    Ok((agreed.response, session))
}

fn version(protocol: &str) -> u8 {
    match protocol.strip_prefix('v').and_then(|p| p.as_bytes().first()) {
        Some(digit @ b'2'..=b'9') => digit - b'0',
        _ => 1,
    }
}

pub(crate) async fn over_spdy<IO>(io: IO, wanted: Wanted, version: u8) -> Result<Streams, Error>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let mut connection = spdy::Connection::serve(io);
    let (mut error, mut stdin, mut stdout, mut stderr, mut resize) = (None, None, None, None, None);
    let want_resize = wanted.tty && version >= 3;
    let writer = |s: spdy::Stream| Some(Writer::Spdy(s.writer));
    while error.is_none()
        || (wanted.stdin && stdin.is_none())
        || (wanted.stdout && stdout.is_none())
        || (wanted.stderr && stderr.is_none())
        || (want_resize && resize.is_none())
    {
        let stream = connection.accept().await.ok_or(Error::Closed)?;
        match spdy::get(&stream.headers, "streamtype").unwrap_or_default() {
            "error" => error = writer(stream),
            "stdout" => stdout = writer(stream),
            "stderr" => stderr = writer(stream),
            "stdin" => {
                let spdy::Stream { reader, writer, .. } = stream;
                stdin = Some(Reader::Spdy { reader, writer: Some(writer) });
            }
            "resize" => {
                let mut reader = stream.reader;
                let (tx, rx) = mpsc::channel(4);
                tokio::spawn(async move {
                    let mut sizes = Sizes::default();
                    while let Some(data) = reader.recv().await {
                        for size in sizes.feed(&data) {
                            if tx.send(size).await.is_err() {
                                return;
                            }
                        }
                    }
                });
                resize = Some(rx);
            }
            other => return Err(Error::Protocol(format!("unexpected stream type: {other:?}"))),
        }
    }
    let error = error.ok_or(Error::Closed)?;
    Ok(Streams { stdin, stdout, stderr, resize, error, version, end: End::Spdy(connection) })
}

pub(crate) async fn over_websocket<IO>(
    io: IO,
    wanted: Wanted,
    version: u8,
    base64: bool,
) -> Result<Streams, Error>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let (sink, stream) = websocket::accept(io).await.split();
    let (sender, task) = websocket::sender(sink, base64);
    let mut incoming = websocket::receiver(stream, base64);
    let (stdin_tx, stdin_rx) = mpsc::channel::<Bytes>(4);
    let (resize_tx, resize_rx) = mpsc::channel(4);
    let reading = task.abort_handle();
    tokio::spawn(async move {
        let mut stdin = wanted.stdin.then_some(stdin_tx);
        let mut sizes = Sizes::default();
        while let Some(message) = incoming.next().await {
            match message {
                Incoming::Data(0, data) => {
                    if let Some(tx) = &stdin
                        && !data.is_empty()
                        && tx.send(data).await.is_err()
                    {
                        stdin = None;
                    }
                }
                Incoming::Data(4, data) => {
                    for size in sizes.feed(&data) {
                        // A size that comes while four wait is overtaken by the next one anyway.
                        let _ = resize_tx.try_send(size);
                    }
                }
                Incoming::Closed(0) => stdin = None,
                Incoming::Data(..) | Incoming::Closed(_) => {}
            }
        }
        // The client is gone: whoever still writes learns it.
        reading.abort();
    });
    let writer = |channel: u8, on: bool| on.then(|| Writer::WebSocket(channel, sender.clone()));
    let (stdout, stderr) = (writer(1, wanted.stdout), writer(2, wanted.stderr));
    // An empty message on the first channel that goes out tells old clients that the connection stands.
    let first = if wanted.stdout {
        1
    } else if wanted.stderr {
        2
    } else {
        3
    };
    sender.send(Outgoing::Data(first, Bytes::new())).await.map_err(|_| Error::Closed)?;
    Ok(Streams {
        stdin: wanted.stdin.then_some(Reader::WebSocket(stdin_rx)),
        stdout,
        stderr,
        resize: wanted.tty.then_some(resize_rx),
        error: Writer::WebSocket(3, sender),
        version,
        end: End::WebSocket(task),
    })
}

/// Terminal sizes out of a stream of JSON objects that may be cut anywhere.
#[derive(Default)]
struct Sizes(BytesMut);

impl Sizes {
    fn feed(&mut self, data: &[u8]) -> Vec<Size> {
        self.0.extend_from_slice(data);
        let mut sizes = Vec::new();
        let mut stream = serde_json::Deserializer::from_slice(&self.0).into_iter::<Size>();
        let mut bad = false;
        for size in stream.by_ref() {
            match size {
                Ok(size) => sizes.push(size),
                Err(e) => {
                    bad = !e.is_eof();
                    break;
                }
            }
        }
        let used = stream.byte_offset();
        if bad || self.0.len() - used > MAX_RESIZE {
            self.0.clear();
        } else {
            let _ = self.0.split_to(used);
        }
        sizes
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use futures::SinkExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;
    use crate::spdy::frame::{Decoder, Encoder, Frame};

    #[test]
    fn queries() {
        let all = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
        assert_eq!(Wanted::from_query("command=a&input=1&output=1&error=1"), all);
        assert_eq!(Wanted::from_query("stdin=true&stdout=true&stderr=true"), all);
        assert_eq!(Wanted::from_query("stderr=true&tty=true"), Wanted { tty: true, ..Wanted::default() });
    }

    #[test]
    fn versions() {
        let table = [
            ("", 1),
            ("channel.k8s.io", 1),
            ("base64.channel.k8s.io", 1),
            ("v4.base64.channel.k8s.io", 4),
            ("v5.channel.k8s.io", 5),
        ];
        for (name, want) in table {
            assert_eq!(version(name), want, "{name}");
        }
    }

    #[test]
    fn sizes_may_be_cut_anywhere() {
        let mut sizes = Sizes::default();
        assert_eq!(sizes.feed(br#"{"Width":80,"Hei"#), []);
        let want = [Size { width: 80, height: 24 }, Size { width: 1, height: 2 }];
        assert_eq!(sizes.feed(b"ght\":24}\n{\"Width\":1,\"Height\":2}\n"), want);
        assert_eq!(sizes.feed(br#"{"width":80,"height":24}"#), want[..1]);
        assert_eq!(sizes.feed(b"nonsense"), []);
        assert_eq!(sizes.feed(br#"{"Width":1,"Height":2}"#), want[1..]);
        assert_eq!(sizes.feed(&[b' '; 2 * MAX_RESIZE]), []);
        assert!(sizes.0.len() <= MAX_RESIZE);
    }

    async fn cat(mut streams: Streams) {
        let (mut stdin, mut stdout) = (streams.stdin.take().unwrap(), streams.stdout.take().unwrap());
        while let Some(data) = stdin.recv().await {
            stdout.send(data).await.unwrap();
        }
        drop(stdout);
        streams.finish(&Outcome::Exit(3)).await;
    }

    const WANTED: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };

    #[tokio::test]
    async fn websocket_v5_half_close_and_status() {
        let (server, client) = tokio::io::duplex(64 * 1024);
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let task =
            tokio::spawn(async move { cat(over_websocket(server, WANTED, 5, false).await.unwrap()).await });
        client.send(Message::binary(&b"\x00hello"[..])).await.unwrap();
        client.send(Message::binary(&b"\xff\x00"[..])).await.unwrap();
        let mut channels: HashMap<u8, Vec<u8>> = HashMap::new();
        while let Some(Ok(message)) = client.next().await {
            if let Message::Binary(data) = message {
                channels.entry(data[0]).or_default().extend_from_slice(&data[1..]);
            }
        }
        assert_eq!(channels[&1], b"hello");
        assert_eq!(channels[&3], status::encode(&Outcome::Exit(3), 5));
        drop(client);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn spdy_v4() {
        let (server, mut client) = tokio::io::duplex(64 * 1024);
        let task = tokio::spawn(async move { cat(over_spdy(server, WANTED, 4).await.unwrap()).await });
        let (mut encoder, mut decoder, mut out) = (Encoder::default(), Decoder::default(), BytesMut::new());
        for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout")] {
            let headers = vec![("streamtype".to_string(), kind.to_string())];
            encoder
                .put(&Frame::SynStream { id, fin: false, unidirectional: false, headers }, &mut out)
                .unwrap();
        }
        encoder
            .put(&Frame::Data { id: 3, fin: false, data: Bytes::from_static(b"hello") }, &mut out)
            .unwrap();
        client.write_all(&out.split()).await.unwrap();
        let mut got: HashMap<u32, (Vec<u8>, bool)> = HashMap::new();
        let mut buffer = [0u8; 4096];
        'wire: loop {
            while let Some(frame) = decoder.decode().unwrap() {
                match frame {
                    Frame::Data { id, fin, data } => {
                        let entry = got.entry(id).or_default();
                        entry.0.extend_from_slice(&data);
                        entry.1 |= fin;
                        if id == 5 && !fin {
                            // kubectl sends no more input once its stream has been ended from here.
                            assert!(!got.contains_key(&3), "the input was ended before it was sent");
                            let end = Frame::Data { id: 3, fin: true, data: Bytes::new() };
                            encoder.put(&end, &mut out).unwrap();
                            client.write_all(&out.split()).await.unwrap();
                        }
                    }
                    Frame::GoAway { .. } => break 'wire,
                    _ => {}
                }
            }
            let n = client.read(&mut buffer).await.unwrap();
            assert!(n > 0);
            decoder.feed(&buffer[..n]);
        }
        assert_eq!(got[&5], (b"hello".to_vec(), true));
        assert_eq!(got[&1], (status::encode(&Outcome::Exit(3), 4).to_vec(), true));
        drop(client);
        task.await.unwrap();
    }
}
