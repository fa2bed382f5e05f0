//! Uploads: in one piece, in a stream, in chunks, or by a mount.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::OwnedMutexGuard;

use super::{Answer, Call, blocking, body, builder, created, made};
use crate::access::Action;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::storage::Upload;

/// Bytes of a body that are written at once.
const BATCH: usize = 1 << 20;
/// How long a client may send nothing of a body that it has begun.
const PATIENCE: Duration = Duration::from_secs(300);

/// `POST .../blobs/uploads/`: a mount, a whole blob, or the start of an upload.
pub(super) async fn begin(call: &Call, name: &str, incoming: Incoming) -> Result<Answer> {
    if let Some(digest) = call.parameter("mount") {
        let digest = Digest::parse(digest)?;
        let from = call.parameter("from").filter(|f| !f.is_empty()).map(ToString::to_string);
        let (shared, caller) = (call.shared.clone(), call.caller.clone());
        let (repository, d) = (name.to_string(), digest.clone());
        let mounted = blocking(move || {
            // Of what the caller may not read, it must not even learn that it is here.
            let may = |r: &str| shared.access.as_ref().is_none_or(|a| a.allows(&caller, r, Action::Pull));
            shared.storage.mount(&repository, &d, from.as_deref(), &may)
        })
        .await?;
        if mounted {
            return created(name, "blobs", &digest, &[]);
        }
    }
    let whole = call.parameter("digest").map(Digest::parse).transpose()?;
    let hasher = match (&whole, call.parameter("digest-algorithm")) {
        (Some(digest), _) => digest.hasher(),
        (None, Some(algorithm)) => Hasher::named(algorithm)?,
        (None, None) => Hasher::sha256(),
    };
    let (storage, repository) = (call.storage(), name.to_string());
    let id = blocking(move || storage.begin(&repository, hasher)).await?;
    let Some(digest) = whole else { return accepted(name, &id, 0, StatusCode::ACCEPTED) };
    if let Err(e) = receive(call, &id, incoming).await {
        // Nobody knows of this upload, so nobody could go on with it.
        let _ = cancel(call, &id).await;
        return Err(e);
    }
    finish(call, name, &id, digest).await
}

fn accepted(name: &str, id: &str, length: u64, status: StatusCode) -> Result<Answer> {
    let b = builder(status)
        .header(header::LOCATION, format!("/v2/{name}/blobs/uploads/{id}"))
        .header(header::RANGE, format!("0-{}", length.saturating_sub(1)))
        .header(header::CONTENT_LENGTH, 0)
        .header("docker-upload-uuid", id);
    made(b, body(""))
}

/// What is asked of an upload by its id.
pub(super) async fn upload(call: &Call, name: &str, id: &str, incoming: Incoming) -> Result<Answer> {
    let found = call.shared.storage.upload(id)?;
    {
        let upload = found.lock().await;
        if upload.repository != name {
            return Err(Error::upload_unknown(format!("blob upload {id} unknown to {name}")));
        }
        if call.reads() {
            return accepted(name, id, upload.length, StatusCode::NO_CONTENT);
        }
    }
    match call.method {
        Method::PATCH => {
            let length = receive(call, id, incoming).await?;
            accepted(name, id, length, StatusCode::ACCEPTED)
        }
        Method::PUT => {
            let digest =
                call.parameter("digest").ok_or_else(|| Error::digest_invalid("the digest is missing"))?;
            let digest = Digest::parse(digest)?;
            receive(call, id, incoming).await?;
            finish(call, name, id, digest).await
        }
        Method::DELETE => {
            cancel(call, id).await?;
            made(builder(StatusCode::NO_CONTENT), body(""))
        }
        _ => Err(call.wrong_method()),
    }
}

/// Forgets an upload; whoever is adding to it ends first.
async fn cancel(call: &Call, id: &str) -> Result<()> {
    let (storage, id) = (call.storage(), id.to_string());
    let mut upload = storage.upload(&id)?.lock_owned().await;
    blocking(move || storage.cancel(&id, &mut upload)).await
}

/// A chunk that says where it belongs must belong at the end of what is there.
fn check_position(call: &Call, upload: &Upload) -> Result<()> {
    let Some(range) = call.header("content-range") else { return Ok(()) };
    let bad = || Error::upload_invalid(format!("invalid Content-Range {range:?}"));
    let text = range.trim_start_matches("bytes").trim_start_matches([' ', '=']);
    let (from, to) = text.split('/').next().and_then(|r| r.split_once('-')).ok_or_else(bad)?;
    let from: u64 = from.trim().parse().map_err(|_| bad())?;
    let to: u64 = to.trim().parse().map_err(|_| bad())?;
    let said = call.header("content-length").and_then(|l| l.parse::<u64>().ok());
    if to < from || said.is_some_and(|s| Some(s) != (to - from).checked_add(1)) {
        return Err(bad());
    }
    let have = upload.length;
    if from != have {
        return Err(Error::range_invalid(format!("the chunk begins at {from}, but {have} bytes are here")));
    }
    Ok(())
}

/// An upload while a body is added to it: what has come is taken back unless it comes to its end. Wherever this is when
/// the request breaks off, it does so.
struct Adding {
    upload: OwnedMutexGuard<Upload>,
    start: u64,
    hash: Hasher,
    whole: bool,
}

impl Drop for Adding {
    fn drop(&mut self) {
        if !self.whole
            && let Err(error) = self.upload.rewind(self.start, self.hash.clone())
        {
            tracing::warn!(%error, "a part of an upload that broke off stays in it");
        }
        self.upload.rest();
    }
}

/// Appends the request's body to an upload; returns the upload's length. A body that breaks off appends nothing. Only
/// what has come occupies a thread, never the wait for more.
async fn receive(call: &Call, id: &str, mut incoming: Incoming) -> Result<u64> {
    let upload = call.shared.storage.upload(id)?.lock_owned().await;
    upload.check()?;
    // Not before it is ours alone: another chunk for the same place may have come first.
    check_position(call, &upload)?;
    let mut adding = Adding { start: upload.length, hash: upload.hash(), upload, whole: false };
    let mut pieces: Vec<Bytes> = Vec::new();
    let mut waiting = 0;
    loop {
        // A client that is gone says nothing, not even that: only time tells.
        let frame = match tokio::time::timeout(PATIENCE, incoming.frame()).await {
            Ok(Some(Ok(frame))) => Some(frame),
            Ok(None) => None,
            Ok(Some(Err(_))) | Err(_) => return Err(Error::upload_invalid("the upload broke off")),
        };
        let ended = frame.is_none();
        if let Some(Ok(data)) = frame.map(hyper::body::Frame::into_data) {
            waiting += data.len();
            pieces.push(data);
        }
        if waiting >= BATCH || (ended && waiting > 0) {
            let batch = std::mem::take(&mut pieces);
            waiting = 0;
            adding = blocking(move || {
                batch.iter().try_for_each(|piece| adding.upload.append(piece))?;
                Ok(adding)
            })
            .await?;
        }
        if ended {
            adding.whole = true;
            return Ok(adding.upload.length);
        }
    }
}

async fn finish(call: &Call, name: &str, id: &str, digest: Digest) -> Result<Answer> {
    let (storage, id, d) = (call.storage(), id.to_string(), digest.clone());
    let mut upload = storage.upload(&id)?.lock_owned().await;
    blocking(move || storage.finish(&id, &mut upload, &d)).await?;
    if let Some(written) = &call.shared.written {
        written.notify_one();
    }
    created(name, "blobs", &digest, &[])
}
