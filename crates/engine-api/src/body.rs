//! Bodies: JSON documents, lines of JSON as they come, archives; and request bodies as readers.

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyDataStream, BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use serde::Serialize;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;

/// A response's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;
/// A response.
pub(crate) type Answer = Response<Body>;

/// The most that a JSON request may have: 16 MiB.
const LARGEST: usize = 16 << 20;

fn never(e: Infallible) -> io::Error {
    match e {}
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::new()).map_err(never).boxed_unsync());
    *answer.status_mut() = status;
    if status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED {
        answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    answer
}

/// `204 No Content`.
pub(crate) fn no_content() -> Answer {
    empty(StatusCode::NO_CONTENT)
}

/// A JSON document, with a final newline as Go's encoder writes it.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Answer {
    let mut bytes = serde_json::to_vec(document).unwrap_or_default();
    bytes.push(b'\n');
    let mut answer = Response::new(Full::new(Bytes::from(bytes)).map_err(never).boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// `200 OK` with a JSON document.
pub(crate) fn ok(document: &impl Serialize) -> Answer {
    json(StatusCode::OK, document)
}

/// A plain text.
pub(crate) fn text(content: &'static str) -> Answer {
    let mut answer =
        Response::new(Full::new(Bytes::from_static(content.as_bytes())).map_err(never).boxed_unsync());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

/// Pieces as they come.
pub(crate) fn stream(
    kind: &'static str,
    pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Answer {
    let body = StreamBody::new(pieces.map_ok(Frame::data));
    let mut answer = Response::new(BodyExt::boxed_unsync(body));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

/// What a channel receives, as a stream.
pub(crate) fn channel<T: Send + 'static>(
    receiver: mpsc::Receiver<T>,
) -> impl Stream<Item = T> + Send + 'static {
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

/// One line of a JSON stream. Docker ends them with CRLF.
pub(crate) fn line(document: &impl Serialize) -> Bytes {
    let mut bytes = serde_json::to_vec(document).unwrap_or_default();
    bytes.extend_from_slice(b"\r\n");
    bytes.into()
}

/// The whole body of a JSON request.
pub(crate) async fn read(body: Incoming) -> crate::Result<Bytes> {
    let limited = http_body_util::Limited::new(body, LARGEST);
    match limited.collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(e) => Err(crate::Error::Body(e.to_string())),
    }
}

/// A request's body as an asynchronous reader.
pub(crate) fn reader(body: Incoming) -> impl AsyncRead + Send + Unpin + 'static {
    watched(body, |_| {})
}

/// As [`reader`]; `seen` hears the length of each piece.
pub(crate) fn watched(
    body: Incoming,
    mut seen: impl FnMut(u64) + Send + Unpin + 'static,
) -> impl AsyncRead + Send + Unpin + 'static {
    let pieces = BodyDataStream::new(body).map_err(io::Error::other);
    StreamReader::new(pieces.inspect_ok(move |piece: &Bytes| seen(piece.len() as u64)))
}

/// The pieces of something large that is sent here. Who reads them may stop in the middle; the rest is then read and
/// thrown away, because a client whose connection is closed while it sends reports that instead of the answer.
fn upload(body: Incoming) -> mpsc::Receiver<io::Result<Bytes>> {
    let (to, from) = mpsc::channel(4);
    tokio::spawn(async move {
        let mut pieces = BodyDataStream::new(body);
        while let Some(piece) = pieces.next().await {
            // It ends with the client's connection at the latest.
            let _ = to.send(piece.map_err(io::Error::other)).await;
        }
    });
    from
}

/// An archive in a request's body as an asynchronous reader.
pub(crate) fn upload_reader(body: Incoming) -> impl AsyncRead + Send + Unpin + 'static {
    StreamReader::new(channel(upload(body)))
}

/// An archive in a request's body as a blocking reader, for a thread of its own.
pub(crate) fn blocking_reader(body: Incoming) -> BlockingReader {
    BlockingReader { from: upload(body), rest: Bytes::new() }
}

/// See [`blocking_reader`].
pub(crate) struct BlockingReader {
    from: mpsc::Receiver<io::Result<Bytes>>,
    rest: Bytes,
}

impl io::Read for BlockingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.rest.is_empty() {
            match self.from.blocking_recv() {
                Some(piece) => self.rest = piece?,
                None => return Ok(0),
            }
        }
        let length = self.rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&self.rest.split_to(length));
        Ok(length)
    }
}
