//! Blobs: whole, in part, and their removal.

use std::fs::File;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use http::response::Builder;
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use image::registry::BlobStream;

use super::{Answer, Body, Call, PIECE, blocking, body, builder, made};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::upstream::{Coming, Content, Fetched};

pub(super) async fn blob(call: &Call, name: &str, digest: &str) -> Result<Answer> {
    let digest = Digest::parse(digest)?;
    let (storage, repository, d) = (call.storage(), call.kept(name)?, digest.clone());
    if call.method == Method::DELETE {
        blocking(move || storage.delete_blob(&repository, &d)).await?;
        return made(builder(StatusCode::ACCEPTED).header(header::CONTENT_LENGTH, 0), body(""));
    }
    if !call.reads() {
        return Err(call.wrong_method());
    }
    let content = match &call.shared.upstream {
        Some(upstream) => upstream.blob(call.parameter("ns"), name, &digest, call.head()).await?,
        None => {
            let (file, length) = blocking(move || storage.blob(&repository, &d)).await?;
            Content::Kept(file, length)
        }
    };
    let mut b = builder(StatusCode::OK)
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .header(header::ETAG, format!("\"{digest}\""))
        .header("docker-content-digest", digest.as_str());
    let content = match content {
        Content::Kept(file, length) => {
            let (headed, from, to) = part(call, b, length)?;
            b = headed;
            stream_file(file, from, to - from)
        }
        Content::Coming(coming) => {
            let (headed, from, to) = part(call, b, coming.length)?;
            b = headed;
            stream_coming(coming, from, to)
        }
        // What passes has no parts: the answer is the whole.
        Content::Passing(stream, length) => {
            if let Some(length) = length {
                b = b.header(header::CONTENT_LENGTH, length);
            }
            stream_through(stream, digest)
        }
        Content::Told(length) => {
            b = b.header(header::CONTENT_LENGTH, length);
            body("")
        }
    };
    made(b, if call.head() { body("") } else { content })
}

/// The headers of an answer with the part of `length` bytes that was asked for, and where that begins and ends.
fn part(call: &Call, b: Builder, length: u64) -> Result<(Builder, u64, u64)> {
    let range = call.header("range").map_or(Ok(None), |range| parse_range(range, length))?;
    let (from, to) = range.unwrap_or((0, length));
    let b = b.header(header::CONTENT_LENGTH, to - from).header(header::ACCEPT_RANGES, "bytes");
    let Some(_) = range else { return Ok((b, from, to)) };
    let range = format!("bytes {from}-{}/{length}", to.saturating_sub(1));
    Ok((b.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range), from, to))
}

/// `bytes=A-B`, `bytes=A-`, `bytes=-N` as a half-open range. What is no single range of bytes is ignored, as RFC 9110
/// says (14.2): the answer is the whole.
pub(crate) fn parse_range(text: &str, length: u64) -> Result<Option<(u64, u64)>> {
    let Some((a, b)) = text.trim().strip_prefix("bytes=").and_then(|r| r.trim().split_once('-')) else {
        return Ok(None);
    };
    let number = |s: &str| -> Option<u64> {
        if s.is_empty() || !s.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        // More digits than fit are more bytes than there are.
        Some(s.parse().unwrap_or(u64::MAX))
    };
    let (from, to) = match (number(a), number(b)) {
        (None, Some(n)) if a.is_empty() => (length.saturating_sub(n), length),
        (Some(from), None) if b.is_empty() => (from, length),
        (Some(from), Some(to)) if from <= to => (from, to.saturating_add(1).min(length)),
        (Some(_), Some(_)) => (1, 0),
        _ => return Ok(None),
    };
    if from < to {
        return Ok(Some((from, to)));
    }
    Err(Error::range_invalid(format!("range {text:?} cannot be had of {length} bytes")))
}

/// A part of a file as a body. Each piece is read when the one before it is on its way, so that a client that reads
/// slowly occupies no thread.
fn stream_file(file: File, from: u64, length: u64) -> Body {
    let stream = futures::stream::unfold(Some((file, from, length)), |state| async move {
        let (file, at, left) = state.filter(|(.., left)| *left > 0)?;
        let n = PIECE.min(usize::try_from(left).unwrap_or(PIECE));
        let read = tokio::task::spawn_blocking(move || {
            let mut buf = vec![0u8; n];
            file.read_exact_at(&mut buf, at).map(|()| (buf, file))
        });
        // An error breaks the connection off, which tells the client that the body is not whole.
        Some(match read.await.map_err(std::io::Error::other).and_then(|read| read) {
            Ok((buf, file)) => {
                (Ok(Frame::data(Bytes::from(buf))), Some((file, at + n as u64, left - n as u64)))
            }
            Err(e) => (Err(e), None),
        })
    });
    StreamBody::new(stream).boxed_unsync()
}

/// A part of what is being fetched as a body. The last byte waits until the whole is known to be what it should be: of
/// anything else the client gets no end.
fn stream_coming(coming: Coming, from: u64, to: u64) -> Body {
    let stream = futures::stream::unfold(Some((coming, from)), move |state| async move {
        let (mut coming, at) = state.filter(|(_, at)| *at < to)?;
        let broken = |why: &str| Some((Err(std::io::Error::other(why.to_string())), None));
        loop {
            let Fetched { have, whole } = *coming.fetched.borrow_and_update();
            if whole && have != coming.length {
                return broken("the other registry gave the blob another length than it has");
            }
            let ready = if whole { to } else { have.min(to - 1) };
            if at < ready {
                let n = PIECE.min(usize::try_from(ready - at).unwrap_or(PIECE));
                let file = coming.file.clone();
                let read = tokio::task::spawn_blocking(move || {
                    let mut buf = vec![0u8; n];
                    file.read_exact_at(&mut buf, at).map(|()| buf)
                });
                return Some(match read.await.map_err(std::io::Error::other).and_then(|read| read) {
                    Ok(buf) => (Ok(Frame::data(Bytes::from(buf))), Some((coming, at + n as u64))),
                    Err(e) => (Err(e), None),
                });
            }
            if coming.fetched.changed().await.is_err() {
                return broken("the blob could not be fetched from elsewhere");
            }
        }
    });
    StreamBody::new(stream).boxed_unsync()
}

/// What comes from elsewhere as a body. The last piece waits until the whole is known to be what it should be: of anything
/// else the client gets no end.
fn stream_through(stream: BlobStream, digest: Digest) -> Body {
    let hash = digest.hasher();
    let stream = futures::stream::unfold(Some((stream, hash, None::<Bytes>)), move |state| {
        let digest = digest.clone();
        async move {
            let (mut stream, mut hash, mut last) = state?;
            loop {
                match stream.recv().await {
                    Some(Ok(piece)) => {
                        hash.update(&piece);
                        if let Some(ready) = last.replace(piece) {
                            return Some((Ok(Frame::data(ready)), Some((stream, hash, last))));
                        }
                    }
                    Some(Err(e)) => return Some((Err(std::io::Error::other(e)), None)),
                    None if hash.finish() == digest => return Some((Ok(Frame::data(last?)), None)),
                    None => {
                        let why = format!("blob {digest}: what came from elsewhere has another digest");
                        return Some((Err(std::io::Error::other(why)), None));
                    }
                }
            }
        }
    });
    StreamBody::new(stream).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let whole = None;
        for (text, want) in [
            ("bytes=0-9", Some(Some((0, 10)))),
            ("bytes=5-", Some(Some((5, 100)))),
            ("bytes=-10", Some(Some((90, 100)))),
            ("bytes=-1000", Some(Some((0, 100)))),
            ("bytes=90-99999999999999999999999", Some(Some((90, 100)))),
            ("bytes=100-", None),
            ("bytes=-0", None),
            ("bytes=9-3", None),
            ("x", Some(whole)),
            ("lines=1-2", Some(whole)),
            ("bytes=1-2,5-6", Some(whole)),
            ("bytes=-", Some(whole)),
        ] {
            assert_eq!(parse_range(text, 100).ok(), want, "{text}");
        }
    }
}
