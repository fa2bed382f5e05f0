//! Port-forward: pairs of SPDY streams, one of data and one for errors, for each connection to a pod's port; over
//! SPDY/3.1 itself or tunnelled through WebSocket (kubectl 1.31 and newer).
//!
//! `portforward_session` answers the request and yields `Forwards`; each `Forward` is one connection to be made. Where
//! it leads is the caller's.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::negotiate::{self, Carrier};
use crate::{Error, Rejection, spdy, websocket};

/// The subprotocol's name.
const PROTOCOL: &str = "portforward.k8s.io";
/// Its name when tunnelled.
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// The client's time to open the second stream of a pair, as upstream's.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// Pairs that may be half open.
const MAX_HALF_OPEN: usize = 1024;

/// Answers a port-forward request. The response must be sent; the future then yields the connections asked for.
pub fn portforward_session<B>(
    request: &mut Request<B>,
) -> Result<(Response<()>, impl Future<Output = Result<Forwards, Error>> + Send + 'static), Rejection> {
    let agreed = negotiate::agree(request.headers(), &[PROTOCOL], &[TUNNEL], PROTOCOL)?;
    let upgrade = hyper::upgrade::on(request);
    let carrier = agreed.carrier;
    let session = async move {
        let io = TokioIo::new(upgrade.await.map_err(|e| Error::Upgrade(e.to_string()))?);
        Ok(match carrier {
            Carrier::Spdy => Forwards::new(spdy::Connection::serve(io)),
            Carrier::WebSocket => {
                Forwards::new(spdy::Connection::serve(websocket::Tunnel::new(websocket::accept(io).await)))
            }
        })
    };
    Ok((agreed.response, session))
}

/// What a client asks for, connection by connection.
pub struct Forwards {
    connection: spdy::Connection,
    half: HashMap<String, Half>,
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
    pub reader: spdy::Reader,
    /// What the client gets.
    pub writer: spdy::Writer,
    error: spdy::Writer,
}

impl Forwards {
    fn new(connection: spdy::Connection) -> Self {
        Self { connection, half: HashMap::new() }
    }

    /// The next connection asked for; None when the client has gone.
    pub async fn next(&mut self) -> Option<Forward> {
        loop {
            let stream = self.connection.accept().await?;
            let now = tokio::time::Instant::now();
            // A pair whose second half never came is given up when the next one comes: no timer is needed.
            self.half.retain(|_, half| now - half.since < PAIR_TIMEOUT);
            if let Some(forward) = self.pair(stream, now) {
                return Some(forward);
            }
        }
    }

    fn pair(&mut self, mut stream: spdy::Stream, since: tokio::time::Instant) -> Option<Forward> {
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
        match self.half.remove(&request) {
            Some(half) if half.is_error != is_error => {
                let (data, error) = if is_error { (half.stream, stream) } else { (stream, half.stream) };
                let port = spdy::get(&data.headers, "port").and_then(|p| p.parse().ok())?;
                Some(Forward { port, reader: data.reader, writer: data.writer, error: error.writer })
            }
            _ if self.half.len() >= MAX_HALF_OPEN => {
                stream.writer.reset();
                None
            }
            _ => {
                self.half.insert(request, Half { since, stream, is_error });
                None
            }
        }
    }

    /// Closes the connection; every `Forward` must have been dropped or have run.
    pub async fn close(self) {
        drop(self.half);
        self.connection.close().await;
    }
}

impl Forward {
    /// Tells the client why there is no connection.
    pub async fn fail(mut self, message: &str) {
        let _ = self.error.send(Bytes::from(message.to_owned())).await;
        // Both halves end: the client must not wait for data.
        self.writer.reset();
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
        let mut forwards = Forwards::new(spdy::Connection::serve(server));
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
}
