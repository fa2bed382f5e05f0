//! Blobs on the road: downloads that go on where a connection broke, uploads that stream.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt;
use http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::BlobStream;
use super::client::{Payload, Remote, back_off, follow, length_of};
use crate::error::{Error, Result};

pub(super) const OCTETS: &str = "application/octet-stream";

impl Remote {
    pub(super) async fn open_blob(&self, digest: &str, from: u64) -> Result<(Response<Incoming>, u64)> {
        let mut headers = HeaderMap::new();
        if from > 0 {
            let range = format!("bytes={from}-");
            headers.insert(header::RANGE, range.parse().map_err(|e| Error::Registry(format!("{e}")))?);
        }
        let uri = self.repository_uri(&format!("blobs/{digest}"))?;
        let response = self.send(Method::GET, uri, headers, Payload::Empty).await?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = response.headers().get(header::CONTENT_RANGE).and_then(|v| v.to_str().ok());
                let begins =
                    range.and_then(|r| r.strip_prefix("bytes ")?.split_once('-')?.0.parse::<u64>().ok());
                match begins {
                    Some(n) if n != from => Err(Error::Registry(format!(
                        "blob {digest}: bytes from {from} were asked for, and bytes from {n} came"
                    ))),
                    _ => Ok((response, from)),
                }
            }
            // A registry without ranges begins again; what was had already is skipped.
            s if s.is_success() => Ok((response, 0)),
            _ => Err(self.failure(&format!("blob {digest}"), response).await),
        }
    }

    /// Sends a blob's pieces from the byte `done` on, going on where a connection broke. The first answer begins at `at`.
    pub(super) async fn download(
        self,
        digest: String,
        first: Response<Incoming>,
        mut at: u64,
        mut done: u64,
        out: mpsc::Sender<Result<Bytes>>,
    ) {
        let (mut response, mut failures) = (first, 0);
        loop {
            let want = length_of(&response);
            let start = at;
            let mut body = response.into_body();
            let broken = loop {
                // A peer that vanished sends nothing, not even an end: only time tells.
                match tokio::time::timeout(self.shared.patience, body.frame()).await {
                    Ok(Some(Ok(frame))) => {
                        let Ok(mut data) = frame.into_data() else { continue };
                        let skip = done.saturating_sub(at).min(data.len() as u64);
                        at += data.len() as u64;
                        let _ = data.split_to(skip as usize);
                        if data.is_empty() {
                            continue;
                        }
                        done += data.len() as u64;
                        failures = 0;
                        if out.send(Ok(data)).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) if want.is_none_or(|w| at - start >= w) => return,
                    Ok(None) => break "the connection was closed early".to_string(),
                    Ok(Some(Err(e))) => break e.to_string(),
                    Err(_) => break format!("nothing came for {} s", self.shared.patience.as_secs()),
                }
            };
            failures += 1;
            tracing::debug!(digest, at = done, broken, "resuming a download");
            let error = if failures >= self.shared.attempts {
                Error::Registry(format!("blob {digest}: {broken}"))
            } else {
                back_off(failures, None).await;
                match self.open_blob(&digest, done).await {
                    Ok((r, from)) => {
                        (response, at) = (r, from);
                        continue;
                    }
                    Err(e) => e,
                }
            };
            // If nobody reads any more, nobody needs the error.
            let _ = out.send(Err(error)).await;
            return;
        }
    }

    /// Sends a blob whose digest is known when its content has ended.
    pub(super) async fn send_blob(
        &self,
        content: BlobStream,
        digest: oneshot::Receiver<String>,
    ) -> Result<()> {
        let what = format!("upload to {}", self.shared.familiar);
        let base = self.repository_uri("blobs/uploads/")?;
        let nothing = || Payload::Whole(Bytes::new(), OCTETS.into());
        let response = self.send(Method::POST, base.clone(), HeaderMap::new(), nothing()).await?;
        if response.status() != StatusCode::ACCEPTED {
            return Err(self.failure(&what, response).await);
        }
        let location = location_of(&base, response.headers())?;
        let response = self.stream(location.clone(), content).await?;
        if !response.status().is_success() {
            return Err(self.failure(&what, response).await);
        }
        let location = location_of(&location, response.headers())?;
        let digest = digest.await.map_err(|_| Error::Cancelled("an upload".into()))?;
        let mark = if location.query().is_some() { '&' } else { '?' };
        let uri: Uri = format!("{location}{mark}digest={digest}")
            .parse()
            .map_err(|e| Error::Registry(format!("{location}: {e}")))?;
        let response = self.send(Method::PUT, uri, HeaderMap::new(), nothing()).await?;
        if response.status().is_success() { Ok(()) } else { Err(self.failure(&what, response).await) }
    }

    /// Sends content as it comes, as long as the registry takes it.
    async fn stream(&self, location: Uri, content: BlobStream) -> Result<Response<Incoming>> {
        let (moved, patience) = (Arc::new(Mutex::new(Instant::now())), self.shared.patience);
        let mark = moved.clone();
        let pieces = futures::stream::unfold(content, |mut rx| async move { Some((rx.recv().await?, rx)) });
        let pieces = pieces.map(move |piece| {
            *mark.lock() = Instant::now();
            match piece {
                Ok(data) => Ok(Frame::data(data)),
                Err(e) => Err(std::io::Error::other(e.to_string())),
            }
        });
        let body = BodyExt::boxed(StreamBody::new(SyncStream(Mutex::new(Box::pin(pieces)))));
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(OCTETS));
        let sending = self.send(Method::PATCH, location.clone(), headers, Payload::Stream(body));
        let mut sending = std::pin::pin!(sending);
        loop {
            match tokio::time::timeout(patience, &mut sending).await {
                Ok(answer) => return answer,
                // The last piece is followed by whatever the registry does with the whole.
                Err(_) if moved.lock().elapsed() < patience * 3 => {}
                Err(_) => {
                    return Err(Error::Registry(format!(
                        "{location}: the registry stopped taking the upload"
                    )));
                }
            }
        }
    }
}

/// Makes a stream usable where the HTTP library asks for `Sync`, by a lock that nobody else takes.
struct SyncStream<S>(Mutex<std::pin::Pin<Box<S>>>);

impl<S: futures::Stream> futures::Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        self.get_mut().0.get_mut().as_mut().poll_next(cx)
    }
}

fn location_of(base: &Uri, headers: &HeaderMap) -> Result<Uri> {
    let location = headers.get(header::LOCATION).and_then(|l| l.to_str().ok());
    follow(base, location.ok_or_else(|| Error::Registry(format!("{base}: an answer without a location")))?)
}
