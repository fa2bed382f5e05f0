//! Bodies of answers: whole, a list put together while it is sent, or a stream.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use api::object::Encoded;
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::BoxStream;
use http_body::{Frame, SizeHint};

/// Whatever breaks a stream off.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How much of a list is put together at a time: big enough that the cost per chunk vanishes, small enough for caches.
const CHUNK: usize = 128 << 10;

/// How much of a list is handed to the connection at a time: what fills one TLS record of 2^14 bytes together with the header
/// of an HTTP/2 frame (RFC 9113, section 4.1). A frame that is any larger costs a second record for its last nine bytes.
const FRAME: usize = (1 << 14) - 9;

/// The body of an answer.
pub enum Body {
    /// Everything at once.
    Full(Bytes),
    /// A list of encoded objects.
    List(ListBody),
    /// Either of these, compressed while it is sent.
    Gzip(Box<crate::compress::Gzip>),
    /// Chunks as they come.
    Stream(BoxStream<'static, Result<Bytes, BoxError>>),
    /// Another body's frames, passed on.
    Proxied(http_body_util::combinators::UnsyncBoxBody<Bytes, BoxError>),
}

impl Default for Body {
    fn default() -> Self {
        Self::Full(Bytes::new())
    }
}

impl From<Vec<u8>> for Body {
    fn from(v: Vec<u8>) -> Self {
        Self::Full(v.into())
    }
}

impl From<Bytes> for Body {
    fn from(v: Bytes) -> Self {
        Self::Full(v)
    }
}

impl From<String> for Body {
    fn from(v: String) -> Self {
        Self::Full(v.into())
    }
}

impl From<&'static str> for Body {
    fn from(v: &'static str) -> Self {
        Self::Full(Bytes::from_static(v.as_bytes()))
    }
}

/// A list that is put together chunk by chunk from the bytes that the watch cache holds.
pub struct ListBody {
    head: Bytes,
    items: Vec<Arc<Encoded>>,
    next: usize,
    /// What has been put together and not been taken.
    ready: Bytes,
    left: u64,
    done: bool,
}

impl ListBody {
    /// `head` is everything up to and including `"items":[`; the end is added here.
    pub fn new(head: Vec<u8>, items: Vec<Arc<Encoded>>) -> Self {
        let commas = items.len().saturating_sub(1);
        let objects: usize = items.iter().map(|o| o.json().len()).sum();
        let left = (head.len() + objects + commas + TAIL.len()) as u64;
        Self { head: head.into(), items, next: 0, ready: Bytes::new(), left, done: false }
    }

    /// The length in bytes of what has not been taken.
    pub fn len(&self) -> u64 {
        self.left + self.ready.len() as u64
    }

    /// Whether everything has been taken.
    pub fn is_empty(&self) -> bool {
        self.done && self.ready.is_empty()
    }

    /// The next part of the text, as large as suits a connection.
    fn frame(&mut self) -> Option<Bytes> {
        if self.ready.is_empty() {
            self.ready = self.chunk()?;
        }
        Some(self.ready.split_to(FRAME.min(self.ready.len())))
    }

    /// The next part of the text.
    pub(crate) fn chunk(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out =
            BytesMut::with_capacity(usize::try_from(self.left).map_or(CHUNK, |l| l.min(CHUNK + 16384)));
        out.put_slice(&std::mem::take(&mut self.head));
        while let Some(item) = self.items.get(self.next) {
            if self.next > 0 {
                out.put_u8(b',');
            }
            out.put_slice(item.json());
            self.next += 1;
            if out.len() >= CHUNK {
                break;
            }
        }
        if self.next == self.items.len() {
            out.put_slice(TAIL);
            self.done = true;
        }
        self.left -= out.len() as u64;
        Some(out.freeze())
    }

    /// The whole rest at once.
    pub fn collect(mut self) -> Bytes {
        let mut out = BytesMut::with_capacity(usize::try_from(self.len()).unwrap_or(0));
        out.put_slice(&std::mem::take(&mut self.ready));
        while let Some(chunk) = self.chunk() {
            out.put_slice(&chunk);
        }
        out.freeze()
    }
}

const TAIL: &[u8] = b"]}\n";

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Full(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Full(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::List(list) => Poll::Ready(list.frame().map(|c| Ok(Frame::data(c)))),
            Self::Gzip(gzip) => Poll::Ready(gzip.chunk().map(|c| c.map(Frame::data))),
            Self::Stream(stream) => {
                stream.as_mut().poll_next(cx).map(|item| item.map(|chunk| chunk.map(Frame::data)))
            }
            Self::Proxied(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Full(bytes) => bytes.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Gzip(gzip) => gzip.is_done(),
            Self::Stream(_) => false,
            Self::Proxied(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::List(list) => SizeHint::with_exact(list.len()),
            Self::Gzip(_) | Self::Stream(_) => SizeHint::default(),
            Self::Proxied(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Object;
    use futures::FutureExt;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    #[test]
    fn a_list_is_whole_and_as_long_as_it_says() {
        for n in [0, 1, 3, 5000] {
            let items: Vec<Arc<Encoded>> = (0..n)
                .map(|i| json!({"metadata": {"name": format!("object-{i}")}}))
                .map(|v| Object::from_value(v).encoded().clone())
                .collect();
            let list = || ListBody::new(b"{\"items\":[".to_vec(), items.clone());
            let length = list().len();
            let bytes = list().collect();
            assert_eq!(bytes.len() as u64, length);
            let mut body = Body::List(list());
            let mut sent = Vec::new();
            while let Some(frame) = body.frame().now_or_never().unwrap() {
                let frame = frame.unwrap().into_data().unwrap();
                assert!(!frame.is_empty() && frame.len() <= FRAME);
                sent.extend_from_slice(&frame);
                let left = http_body::Body::size_hint(&body).exact().unwrap();
                assert_eq!(sent.len() as u64 + left, length);
                assert_eq!(http_body::Body::is_end_stream(&body), left == 0);
            }
            assert_eq!(sent, bytes);
            let value: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(value["items"].as_array().unwrap().len(), n);
        }
    }
}
