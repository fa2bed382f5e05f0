//! Compression of large answers for whoever takes it, as upstream's: gzip, at its fastest level, from 128 KiB on.
//!
//! A list is compressed chunk by chunk while it is sent, out of the bytes that the cache holds; nothing is put together first.

use std::io::Write;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Response, header};

use crate::body::{Body, BoxError, ListBody};

/// Shorter answers are sent as they are: the client would win nothing.
const THRESHOLD: usize = 128 << 10;
/// How much is compressed at a time.
const CHUNK: usize = 128 << 10;

/// Whether the client says that it takes gzip.
pub fn accepted(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|coding| coding.trim() == "gzip")
}

/// The answer, compressed if it is large and whole.
pub fn compress(mut response: Response<Body>) -> Response<Body> {
    if response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let source = match std::mem::take(response.body_mut()) {
        Body::Full(bytes) if bytes.len() > THRESHOLD => Source::Bytes(bytes),
        Body::List(list) if list.len() > THRESHOLD as u64 => Source::List(list),
        other => {
            *response.body_mut() = other;
            return response;
        }
    };
    let encoder = GzEncoder::new(Vec::with_capacity(CHUNK / 4), Compression::fast());
    *response.body_mut() =
        Body::Gzip(Box::new(Gzip { source, encoder: Some(encoder), sent: 0, at_end: None }));
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    response
}

enum Source {
    Bytes(Bytes),
    List(ListBody),
}

impl Source {
    fn chunk(&mut self) -> Option<Bytes> {
        match self {
            Self::Bytes(bytes) if bytes.is_empty() => None,
            Self::Bytes(bytes) => Some(bytes.split_to(CHUNK.min(bytes.len()))),
            Self::List(list) => list.chunk(),
        }
    }
}

/// A body that is compressed while it is sent.
pub struct Gzip {
    source: Source,
    /// Nothing: the end has been sent.
    encoder: Option<GzEncoder<Vec<u8>>>,
    /// How many bytes have been taken.
    sent: u64,
    at_end: Option<AtEnd>,
}

/// What is told how many bytes there were.
type AtEnd = Box<dyn FnOnce(u64) + Send>;

impl Gzip {
    /// Has this told of the length when everything has been taken.
    pub fn at_end(&mut self, told: AtEnd) {
        self.at_end = Some(told);
    }

    /// The next piece of compressed bytes.
    pub fn chunk(&mut self) -> Option<Result<Bytes, BoxError>> {
        let chunk = self.compressed();
        if let Some(Ok(bytes)) = &chunk {
            self.sent += bytes.len() as u64;
        }
        if self.is_done()
            && let Some(told) = self.at_end.take()
        {
            told(self.sent);
        }
        chunk
    }

    fn compressed(&mut self) -> Option<Result<Bytes, BoxError>> {
        loop {
            let encoder = self.encoder.as_mut()?;
            match self.source.chunk() {
                Some(plain) => {
                    if let Err(e) = encoder.write_all(&plain) {
                        self.encoder = None;
                        return Some(Err(Box::new(e)));
                    }
                    let out = std::mem::take(encoder.get_mut());
                    if !out.is_empty() {
                        return Some(Ok(out.into()));
                    }
                }
                None => {
                    let done = self.encoder.take().map(GzEncoder::finish);
                    return done.map(|d| d.map(Bytes::from).map_err(|e| Box::new(e) as BoxError));
                }
            }
        }
    }

    /// Whether everything has been taken.
    pub fn is_done(&self) -> bool {
        self.encoder.is_none()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::Arc;

    use super::*;
    use api::Object;
    use api::object::Encoded;
    use serde_json::json;

    fn taken(body: Body) -> Vec<u8> {
        let Body::Gzip(mut gzip) = body else { panic!("not compressed") };
        let mut out = Vec::new();
        while let Some(chunk) = gzip.chunk() {
            out.extend_from_slice(&chunk.unwrap());
        }
        assert!(gzip.is_done());
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&out[..]).read_to_end(&mut plain).unwrap();
        plain
    }

    #[test]
    fn what_is_compressed_is_the_same() {
        let items: Vec<Arc<Encoded>> = (0..5000)
            .map(|i| {
                Object::from_value(json!({"metadata": {"name": format!("object-{i}"), "uid": i * 7919}}))
                    .encoded()
                    .clone()
            })
            .collect();
        let list = || ListBody::new(b"{\"items\":[".to_vec(), items.clone());
        let response = compress(Response::new(Body::List(list())));
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        assert_eq!(taken(response.into_body()), list().collect());
        let text = "x".repeat(THRESHOLD + 1);
        let response = compress(Response::new(Body::from(text.clone())));
        assert_eq!(taken(response.into_body()), text.as_bytes());
    }

    #[test]
    fn small_or_compressed_answers_stay() {
        let small = compress(Response::new(Body::from("x".repeat(THRESHOLD))));
        assert!(matches!(small.body(), Body::Full(b) if b.len() == THRESHOLD));
        let mut already = Response::new(Body::from("x".repeat(THRESHOLD + 1)));
        already.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("br"));
        assert!(matches!(compress(already).body(), Body::Full(_)));
        let mut headers = HeaderMap::new();
        assert!(!accepted(&headers));
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("br, gzip"));
        assert!(accepted(&headers));
    }
}
