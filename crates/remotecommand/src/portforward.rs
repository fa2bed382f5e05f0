//! Port-forward. Over SPDY/3.1, itself or tunnelled through WebSocket (kubectl 1.31 and newer), each connection to a port
//! is a pair of streams, one of data and one for errors. Over a WebSocket without a tunnel (kube-rs, the Python client)
//! each port that the query names is one connection: channel 2n carries its data, 2n + 1 its errors, and the first message
//! on each is the port, two bytes, the lower one first.
//!
//! `portforward_session` answers the request and yields `Forwards`; each `Forward` is one connection to be made. Where
//! it leads is the caller's.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::negotiate::{self, Carrier};
use crate::stream::{Reader, Writer};
use crate::websocket::{Incoming, Outgoing};
use crate::{Error, Rejection, spdy, websocket};

/// The subprotocol's name.
const PROTOCOL: &str = "portforward.k8s.io";
/// Its name when tunnelled.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// What is spoken over WebSocket, best first; a client that names none speaks the second.
const WEBSOCKET: &[&str] = &[TUNNEL, "v4.channel.k8s.io", BASE64];
/// Channels whose messages are text: the channel as one character counted from `0`, then base64.
const BASE64: &str = "v4.base64.channel.k8s.io";
/// Ports whose channels have a byte as their number.
const MAX_PORTS: usize = 127;
/// Ports whose channels have an ASCII character as their number.
const MAX_PORTS_BASE64: usize = 39;
/// The client's time to open the second stream of a pair, as upstream's.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// Pairs that may be half open.
const MAX_HALF_OPEN: usize = 1024;

/// Answers a port-forward request, whose query names the ports as a kubelet's does (`port=80,81` or `port=80&port=81`). The
/// response must be sent; the future then yields the connections asked for.
pub fn portforward_session<B>(
    request: &mut Request<B>,
) -> Result<(Response<()>, impl Future<Output = Result<Forwards, Error>> + Send + 'static), Rejection> {
    let agreed = negotiate::agree(request.headers(), &[PROTOCOL], WEBSOCKET, PROTOCOL)?;
    let (carrier, base64) = (agreed.carrier, agreed.protocol == BASE64);
    let channels = carrier == Carrier::WebSocket && agreed.protocol != TUNNEL;
    let ports = if channels {
        ports_of(request.uri().query().unwrap_or_default(), base64).map_err(|message| Rejection {
            status: StatusCode::BAD_REQUEST,
            message,
            accepted: PROTOCOL.to_owned(),
        })?
    } else {
        Vec::new()
    };
    let upgrade = hyper::upgrade::on(request);
    let session = async move {
        let io = TokioIo::new(upgrade.await.map_err(|e| Error::Upgrade(e.to_string()))?);
        Ok(match carrier {
            Carrier::Spdy => Forwards::pairs(spdy::Connection::serve(io)),
            Carrier::WebSocket if channels => Forwards::channels(io, &ports, base64).await?,
            Carrier::WebSocket => {
                Forwards::pairs(spdy::Connection::serve(websocket::Tunnel::new(websocket::accept(io).await)))
            }
        })
    };
    Ok((agreed.response, session))
}

/// The ports that a query names.
pub(crate) fn ports_of(query: &str, base64: bool) -> Result<Vec<u16>, String> {
    let mut ports = Vec::new();
    for (_, value) in query.split('&').filter_map(|p| p.split_once('=')).filter(|(name, _)| *name == "port") {
        let value = value.replace("%2C", ",").replace("%2c", ",");
        if value.is_empty() {
            return Err("query parameter \"port\" cannot be empty".into());
        }
        for port in value.split(',') {
            match port.parse() {
                Ok(0) => return Err(format!("port {port:?} must be > 0")),
                Ok(port) => ports.push(port),
                Err(e) => return Err(format!("unable to parse {value:?} as a port: {e}")),
            }
        }
    }
    let most = if base64 { MAX_PORTS_BASE64 } else { MAX_PORTS };
    match ports.len() {
        0 => Err("query parameter \"port\" is required".into()),
        n if n > most => Err(format!("{n} ports are too many for one connection: at most {most}")),
        _ => Ok(ports),
    }
}

/// What a client asks for, connection by connection.
pub struct Forwards(Kind);

enum Kind {
    Pairs {
        connection: spdy::Connection,
        half: HashMap<String, Half>,
    },
    /// The connections not taken yet, and what sends for all of them: it ends with the last of them, or with the client.
    Channels {
        waiting: std::vec::IntoIter<Forward>,
        sending: tokio::task::JoinHandle<()>,
    },
}

struct Half {
    since: tokio::time::Instant,
    stream: spdy::Stream,
    is_error: bool,
}

/// One connection to a port of the pod.
pub struct Forward {
    /// The port.
    pub port: u16,
    /// What the client sends.
    pub reader: Reader,
    /// What the client gets.
    pub writer: Writer,
    error: Writer,
}

impl Forwards {
    pub(crate) fn pairs(connection: spdy::Connection) -> Self {
        Self(Kind::Pairs { connection, half: HashMap::new() })
    }

    pub(crate) async fn channels<IO>(io: IO, ports: &[u16], base64: bool) -> Result<Self, Error>
    where
        IO: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sink, stream) = websocket::accept(io).await.split();
        let (sender, sending) = websocket::sender(sink, base64);
        let mut incoming = websocket::receiver(stream, base64);
        let (mut inputs, mut waiting) = (Vec::new(), Vec::new());
        for (&port, data) in ports.iter().zip((0..=u8::MAX).step_by(2)) {
            for channel in [data, data + 1] {
                let number = Bytes::copy_from_slice(&port.to_le_bytes());
                sender.send(Outgoing::Data(channel, number)).await.map_err(|_| Error::Closed)?;
            }
            let (input, reader) = mpsc::channel(4);
            inputs.push(Some(input));
            let writer = |channel| Writer::WebSocket(channel, sender.clone());
            let reader = Reader::WebSocket(reader);
            waiting.push(Forward { port, reader, writer: writer(data), error: writer(data + 1) });
        }
        let client = sending.abort_handle();
        tokio::spawn(async move {
            while let Some(message) = incoming.next().await {
                // Nothing is meant for us on a channel of errors.
                let Incoming::Data(channel, data) = message else { continue };
                let input = if channel % 2 == 0 { inputs.get_mut(usize::from(channel / 2)) } else { None };
                if let Some(input) = input
                    && !data.is_empty()
                    && let Some(to) = input
                    && to.send(data).await.is_err()
                {
                    *input = None;
                }
            }
            client.abort();
        });
        Ok(Self(Kind::Channels { waiting: waiting.into_iter(), sending }))
    }

    /// The next connection asked for; None when the client has gone, or when all that it can ask for have ended.
    pub async fn next(&mut self) -> Option<Forward> {
        match &mut self.0 {
            Kind::Pairs { connection, half } => loop {
                let stream = connection.accept().await?;
                let now = tokio::time::Instant::now();
                // A pair whose second half never came is given up when the next one comes: no timer is needed.
                half.retain(|_, half| now - half.since < PAIR_TIMEOUT);
                if let Some(forward) = pair(half, stream, now) {
                    return Some(forward);
                }
            },
            Kind::Channels { waiting, sending } => {
                let next = waiting.next();
                if next.is_none() && !sending.is_finished() {
                    let _ = sending.await;
                }
                next
            }
        }
    }

    /// Closes the connection; every `Forward` must have been dropped or have run.
    pub async fn close(self) {
        match self.0 {
            Kind::Pairs { connection, half } => {
                drop(half);
                connection.close().await;
            }
            Kind::Channels { waiting, sending } => {
                drop(waiting);
                if !sending.is_finished() {
                    let _ = sending.await;
                }
            }
        }
    }
}

/// The connection that a stream completes.
fn pair(
    halves: &mut HashMap<String, Half>,
    mut stream: spdy::Stream,
    since: tokio::time::Instant,
) -> Option<Forward> {
    let header = |name: &str| spdy::get(&stream.headers, name).unwrap_or_default();
    let is_error = match header("streamtype") {
        "error" => true,
        "data" => false,
        _ => {
            stream.writer.reset();
            return None;
        }
    };
    let Some(port) = header("port").parse::<u16>().ok().filter(|p| *p > 0) else {
        stream.writer.reset();
        return None;
    };
    // Clients that send no request id (before 1.1) have one pair for each port at a time.
    let request = match header("requestid") {
        "" => format!("port {port}"),
        id => id.to_owned(),
    };
    match halves.remove(&request) {
        Some(half) if half.is_error != is_error => {
            let (data, error) = if is_error { (half.stream, stream) } else { (stream, half.stream) };
            let port = spdy::get(&data.headers, "port").and_then(|p| p.parse().ok())?;
            let reader = Reader::Spdy { reader: data.reader, writer: None };
            Some(Forward {
                port,
                reader,
                writer: Writer::Spdy(data.writer),
                error: Writer::Spdy(error.writer),
            })
        }
        _ if halves.len() >= MAX_HALF_OPEN => {
            stream.writer.reset();
            None
        }
        _ => {
            halves.insert(request, Half { since, stream, is_error });
            None
        }
    }
}

impl Forward {
    /// Tells the client why there is no connection.
    pub async fn fail(mut self, message: &str) {
        let _ = self.error.send(Bytes::from(message.to_owned())).await;
        // Both halves end: the client must not wait for data.
        if let Writer::Spdy(writer) = &mut self.writer {
            writer.reset();
        }
    }

    /// Copies both ways until both sides have finished or one has gone.
    pub async fn run(self, socket: impl AsyncRead + AsyncWrite + Send) {
        let Self { mut reader, mut writer, mut error, .. } = self;
        let (mut from, mut to) = tokio::io::split(socket);
        let up = async {
            while let Some(data) = reader.recv().await {
                to.write_all(&data).await?;
            }
            to.shutdown().await
        };
        let down = async {
            let mut buffer = bytes::BytesMut::new();
            loop {
                buffer.reserve(32 * 1024);
                if from.read_buf(&mut buffer).await? == 0 {
                    return Ok::<_, std::io::Error>(());
                }
                if writer.send(buffer.split().freeze()).await.is_err() {
                    return Ok(());
                }
            }
        };
        // When the pod has finished nothing more can come of what the client sends.
        let result = tokio::select! {
            result = down => result,
            result = async {
                match up.await {
                    Ok(()) => std::future::pending().await,
                    Err(e) => Err(e),
                }
            } => result,
        };
        if let Err(e) = result {
            let _ = error.send(Bytes::from(format!("error forwarding port: {e}"))).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use futures::SinkExt;
    use tokio_tungstenite::WebSocketStream;
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::Role;
    use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

    use super::*;
    use crate::spdy::frame::{Decoder, Encoder, Frame};

    fn open(id: u32, kind: &str, port: &str, request: &str) -> Frame {
        let headers = [("streamtype", kind), ("port", port), ("requestID", request)]
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .to_vec();
        Frame::SynStream { id, fin: false, unidirectional: false, headers }
    }

    #[tokio::test]
    async fn pairs_and_errors() {
        let (server, mut client) = tokio::io::duplex(64 * 1024);
        let mut forwards = Forwards::pairs(spdy::Connection::serve(server));
        let (mut encoder, mut decoder, mut out) = (Encoder::default(), Decoder::default(), BytesMut::new());
        for frame in [
            open(1, "error", "80", "0"),
            open(3, "error", "81", "1"),
            open(5, "data", "81", "1"),
            open(7, "data", "80", "0"),
            open(9, "data", "nonsense", "2"),
            Frame::Data { id: 5, fin: false, data: Bytes::from_static(b"ping") },
        ] {
            encoder.put(&frame, &mut out).unwrap();
        }
        client.write_all(&out).await.unwrap();
        let first = forwards.next().await.unwrap();
        let second = forwards.next().await.unwrap();
        assert_eq!((first.port, second.port), (81, 80));
        let (near, mut far) = tokio::io::duplex(1024);
        let pod = tokio::spawn(async move {
            let mut got = [0; 4];
            far.read_exact(&mut got).await.unwrap();
            assert_eq!(&got, b"ping");
            far.write_all(b"pong").await.unwrap();
        });
        first.run(near).await;
        pod.await.unwrap();
        second.fail("connection refused").await;
        // What is left over is looked at when the next pair is asked for.
        assert!(tokio::time::timeout(Duration::from_millis(1), forwards.next()).await.is_err());
        let mut texts: HashMap<u32, Vec<u8>> = HashMap::new();
        let mut finished = Vec::new();
        let mut reset = Vec::new();
        let mut buffer = [0u8; 4096];
        while !(finished.contains(&5) && reset.contains(&9) && reset.contains(&7) && finished.contains(&1)) {
            let n = client.read(&mut buffer).await.unwrap();
            assert!(n > 0);
            decoder.feed(&buffer[..n]);
            while let Some(frame) = decoder.decode().unwrap() {
                match frame {
                    Frame::Data { id, fin, data } => {
                        texts.entry(id).or_default().extend_from_slice(&data);
                        if fin {
                            finished.push(id);
                        }
                    }
                    Frame::RstStream { id, .. } => reset.push(id),
                    _ => {}
                }
            }
        }
        assert_eq!(texts[&5], b"pong");
        assert_eq!(texts[&1], b"connection refused");
    }

    async fn answers(forwards: &mut Forwards) {
        while let Some(forward) = forwards.next().await {
            if forward.port == 81 {
                forward.fail("connection refused").await;
                continue;
            }
            let (near, mut far) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                let mut got = [0; 4];
                far.read_exact(&mut got).await.unwrap();
                assert_eq!(&got, b"ping");
                far.write_all(b"pong").await.unwrap();
            });
            tokio::spawn(forward.run(near));
        }
    }

    #[tokio::test]
    async fn channels_over_a_websocket() {
        for base64 in [false, true] {
            let (server, client) = tokio::io::duplex(64 * 1024);
            let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
            let mut forwards = Forwards::channels(server, &[80, 81], base64).await.unwrap();
            let task = tokio::spawn(async move {
                answers(&mut forwards).await;
                forwards.close().await;
            });
            // What is sent on a channel of errors, or on one that does not exist, is nobody's.
            for (channel, data) in [(1, &b"x"[..]), (7, b"x"), (2, b"x"), (0, b"pi"), (0, b""), (0, b"ng")] {
                client.send(websocket::encode(channel, data, base64)).await.unwrap();
            }
            let mut got: HashMap<u8, Vec<u8>> = HashMap::new();
            let mut end = None;
            while let Some(Ok(message)) = client.next().await {
                assert_eq!(message.is_text(), base64 && !message.is_close());
                match message {
                    Message::Close(frame) => end = frame.map(|f| f.code),
                    message => {
                        let Some(Incoming::Data(channel, data)) = websocket::decode(message, base64) else {
                            panic!("not of a channel");
                        };
                        got.entry(channel).or_default().extend_from_slice(&data);
                    }
                }
            }
            assert_eq!(got[&0], b"\x50\x00pong");
            assert_eq!(got[&1], b"\x50\x00");
            assert_eq!(got[&2], b"\x51\x00");
            assert_eq!(got[&3], b"\x51\x00connection refused");
            // Both ports have ended, and so has the connection.
            assert_eq!(end, Some(CloseCode::Normal));
            task.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_client_that_leaves_ends_its_channels() {
        let (server, client) = tokio::io::duplex(64 * 1024);
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let mut forwards = Forwards::channels(server, &[80], false).await.unwrap();
        let mut forward = forwards.next().await.unwrap();
        drop(client);
        assert!(forwards.next().await.is_none());
        assert!(forward.reader.recv().await.is_none());
        assert!(forward.writer.send(Bytes::from_static(b"x")).await.is_err());
    }

    #[test]
    fn ports_of_queries() {
        assert_eq!(ports_of("port=80%2C81&x=1&port=65535", false).unwrap(), [80, 81, 65535]);
        for (query, why) in [
            ("ports=80", "query parameter \"port\" is required"),
            ("port=", "query parameter \"port\" cannot be empty"),
            ("port=0", "port \"0\" must be > 0"),
            ("port=80,", "unable to parse \"80,\" as a port"),
            ("port=65536", "unable to parse \"65536\" as a port"),
        ] {
            let got = ports_of(query, false).unwrap_err();
            assert!(got.starts_with(why), "{query}: {got}");
        }
        let many = vec!["port=1"; MAX_PORTS].join("&");
        assert!(ports_of(&many, false).is_ok());
        assert!(ports_of(&format!("{many}&port=1"), false).is_err() && ports_of(&many, true).is_err());
    }
}
