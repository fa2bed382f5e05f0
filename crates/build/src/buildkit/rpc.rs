//! gRPC over HTTP/2 in both directions, on a connection that HTTP/1 has given away: length-prefixed messages, and a
//! status in the trailers (gRPC over HTTP2, protocol specification).

use std::io;

use base64::Engine as _;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::proto;

/// The largest message that is taken.
const LARGEST: usize = 64 << 20;

/// A message with its status.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Status {
    pub code: i32,
    pub message: String,
    /// `google.protobuf.Any`s that tell more.
    pub details: Vec<proto::Any>,
}

pub(crate) const CANCELLED: i32 = 1;
pub(crate) const UNKNOWN: i32 = 2;
pub(crate) const INVALID: i32 = 3;
pub(crate) const NOT_FOUND: i32 = 5;
pub(crate) const ALREADY_EXISTS: i32 = 6;
pub(crate) const UNIMPLEMENTED: i32 = 12;
pub(crate) const INTERNAL: i32 = 13;
pub(crate) const UNAVAILABLE: i32 = 14;

impl Status {
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), details: Vec::new() }
    }

    fn trailers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from(self.code));
        if !self.message.is_empty() {
            let message =
                percent_encoding::utf8_percent_encode(&self.message, percent_encoding::NON_ALPHANUMERIC)
                    .to_string();
            if let Ok(value) = HeaderValue::from_str(&message) {
                headers.insert("grpc-message", value);
            }
        }
        if !self.details.is_empty() {
            let status = proto::Status {
                code: self.code,
                message: self.message.clone(),
                details: self.details.clone(),
            };
            let text = base64::engine::general_purpose::STANDARD_NO_PAD.encode(status.encode_to_vec());
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.insert("grpc-status-details-bin", value);
            }
        }
        headers
    }

    /// Reads the trailers; `None` is success.
    fn of(trailers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| trailers.get(name).and_then(|v| v.to_str().ok());
        let code: i32 = text("grpc-status").and_then(|c| c.parse().ok()).unwrap_or(UNKNOWN);
        if code == 0 {
            return None;
        }
        let message = text("grpc-message").unwrap_or_default();
        let message = percent_encoding::percent_decode_str(message).decode_utf8_lossy().into_owned();
        let details = text("grpc-status-details-bin").map(|t| t.trim_end_matches('='));
        let details = details.and_then(|t| base64::engine::general_purpose::STANDARD_NO_PAD.decode(t).ok());
        let details = details.and_then(|bytes| proto::Status::decode(bytes.as_slice()).ok());
        Some(Self { code, message, details: details.map(|s| s.details).unwrap_or_default() })
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)
    }
}

pub(crate) type Result<T> = std::result::Result<T, Status>;

fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(length + 5);
    out.put_u8(0);
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    // There is room for it.
    let _ = message.encode(&mut out);
    out.freeze()
}

/// The messages of a body, one by one.
pub(crate) struct Messages {
    body: Coming,
    rest: BytesMut,
    trailers: Option<HeaderMap>,
}

/// A body, or what it will come from: a peer may say nothing at all before it has heard something.
enum Coming {
    Later(BoxFuture<'static, Result<Incoming>>),
    Here(Incoming),
}

impl Messages {
    fn new(body: Coming) -> Self {
        Self { body, rest: BytesMut::new(), trailers: None }
    }

    /// The next message; `None` at the end, if it was a good one.
    pub async fn next<M: Message + Default>(&mut self) -> Result<Option<M>> {
        let broken = |e: hyper::Error| Status::new(UNAVAILABLE, format!("the connection broke off: {e}"));
        loop {
            if self.rest.len() >= 5 {
                let compressed = self.rest[0] != 0;
                let length =
                    u32::from_be_bytes([self.rest[1], self.rest[2], self.rest[3], self.rest[4]]) as usize;
                if compressed {
                    return Err(Status::new(UNIMPLEMENTED, "compressed messages are not taken"));
                }
                if length > LARGEST {
                    return Err(Status::new(8, format!("a message of {length} bytes is too large")));
                }
                if self.rest.len() >= 5 + length {
                    self.rest.advance(5);
                    let bytes = self.rest.split_to(length).freeze();
                    return M::decode(bytes)
                        .map(Some)
                        .map_err(|e| Status::new(INTERNAL, format!("a message that is none: {e}")));
                }
            }
            let body = match &mut self.body {
                Coming::Here(body) => body,
                Coming::Later(later) => {
                    let body = later.await?;
                    self.body = Coming::Here(body);
                    continue;
                }
            };
            match body.frame().await {
                None => {
                    return match self.trailers.as_ref().and_then(Status::of) {
                        Some(status) => Err(status),
                        None => Ok(None),
                    };
                }
                Some(frame) => match frame.map_err(broken)?.into_data() {
                    Ok(data) => self.rest.extend_from_slice(&data),
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
    }
}

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The answer to a call.
pub(crate) enum Answer {
    /// One message.
    One(Bytes),
    /// Several, as they come.
    Many(futures::stream::BoxStream<'static, Result<Bytes>>),
}

impl Answer {
    pub fn one(message: &impl Message) -> Result<Answer> {
        Ok(Answer::One(frame(message)))
    }

    pub fn many<M: Message + 'static>(messages: impl Stream<Item = Result<M>> + Send + 'static) -> Answer {
        Answer::Many(messages.map(|m| m.map(|m| frame(&m))).boxed())
    }
}

/// A call that came in.
pub(crate) struct Call {
    /// `/moby.buildkit.v1.Control/Solve`
    pub path: String,
    pub headers: HeaderMap,
    messages: Messages,
}

impl Call {
    /// Its one message.
    pub async fn message<M: Message + Default>(&mut self) -> Result<M> {
        Ok(self.messages.next().await?.unwrap_or_default())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// Serves calls on a connection until it ends.
pub(crate) async fn serve<S, H, F>(stream: S, handler: H)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Call) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Answer>> + Send + 'static,
{
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let (head, body) = request.into_parts();
        let call = Call {
            path: head.uri.path().to_string(),
            headers: head.headers,
            messages: Messages::new(Coming::Here(body)),
        };
        let answer = handler(call);
        async move { Ok::<_, std::convert::Infallible>(respond(answer.await)) }
    });
    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_header_list_size(1 << 20)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of a build client ended");
    }
}

fn respond(answer: Result<Answer>) -> Response<Body> {
    let ok = || HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from(0))]);
    let frames: futures::stream::BoxStream<'static, io::Result<Frame<Bytes>>> = match answer {
        Err(status) => {
            // An answer of trailers alone: they are the headers.
            let empty = http_body_util::Empty::new().map_err(|e| match e {}).boxed_unsync();
            let mut response = Response::new(empty);
            *response.headers_mut() = status.trailers();
            response
                .headers_mut()
                .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            return response;
        }
        Ok(Answer::One(bytes)) => {
            futures::stream::iter([Ok(Frame::data(bytes)), Ok(Frame::trailers(ok()))]).boxed()
        }
        Ok(Answer::Many(messages)) => {
            let mut failed = false;
            let pieces = messages
                .take_while(move |m| {
                    // The first failure is the last thing that is said.
                    let go_on = !failed;
                    failed |= m.is_err();
                    std::future::ready(go_on)
                })
                .map(|m| match m {
                    Ok(bytes) => (Frame::data(bytes), true),
                    Err(status) => (Frame::trailers(status.trailers()), false),
                });
            let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
            let seen = ended.clone();
            let pieces = pieces.map(move |(frame, good)| {
                if !good {
                    seen.store(true, std::sync::atomic::Ordering::Relaxed);
                }
                Ok(frame)
            });
            let last = futures::stream::once(async move {
                (!ended.load(std::sync::atomic::Ordering::Relaxed)).then(|| Ok(Frame::trailers(ok())))
            });
            pieces.chain(last.filter_map(std::future::ready)).boxed()
        }
    };
    let mut response = Response::new(BodyExt::boxed_unsync(StreamBody::new(frames)));
    response.headers_mut().insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// The calling side of a connection.
#[derive(Clone)]
pub(crate) struct Caller {
    sender: hyper::client::conn::http2::SendRequest<Body>,
}

impl Caller {
    /// Begins to call over a connection; the future drives it and ends with it.
    pub async fn new<S>(stream: S) -> Result<(Self, impl Future<Output = ()>)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| Status::new(UNAVAILABLE, format!("the client does not speak HTTP/2: {e}")))?;
        let drive = async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a session ended");
            }
        };
        Ok((Self { sender }, drive))
    }

    async fn open(&self, path: &str, metadata: &[(String, String)], body: Body) -> Result<Messages> {
        let mut request = Request::post(format!("http://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in metadata {
            request = request.header(name, value);
        }
        let request =
            request.body(body).map_err(|e| Status::new(INTERNAL, format!("a call of {path}: {e}")))?;
        let mut sender = self.sender.clone();
        let gone = |e: hyper::Error| Status::new(UNAVAILABLE, format!("the client's session has ended: {e}"));
        sender.ready().await.map_err(gone)?;
        let (sent, path) = (sender.send_request(request), path.to_string());
        let later = async move {
            let response = sent.await.map_err(gone)?;
            let early = response.headers().contains_key("grpc-status");
            if let Some(status) = early.then(|| Status::of(response.headers())).flatten() {
                return Err(status);
            }
            if !response.status().is_success() {
                return Err(Status::new(UNAVAILABLE, format!("{path}: HTTP status {}", response.status())));
            }
            Ok(response.into_body())
        };
        // On a task of its own, so that what is sent goes out although nobody waits for the answer yet.
        let task = AbortOnDropHandle::new(tokio::spawn(later));
        Ok(Messages::new(Coming::Later(Box::pin(async move {
            task.await.map_err(|e| Status::new(INTERNAL, e.to_string()))?
        }))))
    }

    /// A call with one message each way.
    pub async fn unary<A: Message, B: Message + Default>(&self, path: &str, message: &A) -> Result<B> {
        let frames = futures::stream::iter([Ok(Frame::data(frame(message)))]);
        let body = BodyExt::boxed_unsync(StreamBody::new(frames));
        let mut messages = self.open(path, &[], body).await?;
        let answer = messages.next().await?.unwrap_or_default();
        // The status comes after it.
        while messages.next::<B>().await?.is_some() {}
        Ok(answer)
    }

    /// A call with messages in both directions at once. Dropping the sender says that there are no more.
    pub async fn stream<A: Message + 'static>(
        &self,
        path: &str,
        metadata: &[(String, String)],
        ahead: usize,
    ) -> Result<(mpsc::Sender<A>, Messages)> {
        let (tx, rx) = mpsc::channel::<A>(ahead);
        let frames = futures::stream::unfold(rx, |mut rx| async move {
            rx.recv().await.map(|m| (Ok(Frame::data(frame(&m))), rx))
        });
        let messages = self.open(path, metadata, BodyExt::boxed_unsync(StreamBody::new(frames))).await?;
        Ok((tx, messages))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn calls_and_answers() {
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(serve(far, |mut call: Call| async move {
            let got: proto::BytesMessage = call.message().await?;
            match call.path.as_str() {
                "/t/Echo" => Answer::one(&got),
                "/t/Thrice" => {
                    let all = vec![Ok(got.clone()), Ok(got), Err(Status::new(NOT_FOUND, "über"))];
                    Ok(Answer::many(futures::stream::iter(all)))
                }
                _ => Err(Status::new(UNIMPLEMENTED, "no such method")),
            }
        }));
        let (caller, drive) = Caller::new(near).await.unwrap();
        tokio::spawn(drive);
        let message = proto::BytesMessage { data: b"hello".to_vec() };
        let back: proto::BytesMessage = caller.unary("/t/Echo", &message).await.unwrap();
        assert_eq!(back, message);
        let no = caller.unary::<_, proto::BytesMessage>("/t/No", &message).await.unwrap_err();
        assert_eq!((no.code, no.message.as_str()), (UNIMPLEMENTED, "no such method"));
        let (tx, mut messages) = caller.stream("/t/Thrice", &[], 1).await.unwrap();
        tx.send(message.clone()).await.unwrap();
        drop(tx);
        assert_eq!(messages.next::<proto::BytesMessage>().await.unwrap().unwrap(), message);
        assert_eq!(messages.next::<proto::BytesMessage>().await.unwrap().unwrap(), message);
        let end = messages.next::<proto::BytesMessage>().await.unwrap_err();
        assert_eq!((end.code, end.message.as_str()), (NOT_FOUND, "über"));
    }
}
