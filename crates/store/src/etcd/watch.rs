//! A watch that outlives the connection it runs on.

use http::uri::PathAndQuery;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

use super::messages as m;
use super::peers::Wire;
use super::{ATTEMPT, Etcd, PATIENCE, fault, grpc, refused, revision_of, signed, unsigned};
use crate::{Error, Event, Result, WatchBatch, WatchStream, prefix_end};

/// A watch that etcd has confirmed.
struct Open {
    wire: Wire,
    answers: Streaming<m::WatchResponse>,
    /// Held because etcd ends the watch when its requests end.
    _requests: mpsc::Sender<m::WatchRequest>,
}

struct Watch {
    etcd: Etcd,
    prefix: Vec<u8>,
    /// The first revision not yet delivered.
    next: u64,
    /// The newest revision known to have existed.
    seen: u64,
    open: Option<Open>,
    failed: bool,
}

/// A watch of `prefix` from revision `from` (0: from now) on.
pub(super) async fn watch(etcd: Etcd, prefix: Vec<u8>, from: u64) -> Result<WatchStream> {
    let next = match from {
        0 => etcd.revision_now().await? + 1,
        from => {
            etcd.still_there(from).await?;
            from
        }
    };
    let mut watch = Watch { etcd, prefix, next, seen: 0, open: None, failed: false };
    watch.open = Some(watch.reopen().await?);
    Ok(Box::pin(futures::stream::unfold(watch, |mut w| async move { w.step().await.map(|item| (item, w)) })))
}

/// The newest compacted revision, which etcd says only to a watch of the past; 0 if there is none.
pub(super) async fn compacted(etcd: &Etcd) -> u64 {
    let look = async {
        let wire = etcd.peers.connection(Instant::now() + ATTEMPT).await.ok()?;
        let mut open = create(&wire, b"/", 1).await.ok()?;
        loop {
            let answer = open.answers.message().await.ok()??;
            if answer.compact_revision > 0 {
                return Some(unsigned(answer.compact_revision));
            }
        }
    };
    // Silence is the answer where nothing has been compacted; etcd looks at watches of the past ten times a second.
    tokio::time::timeout(Duration::from_secs(2), look).await.ok().flatten().unwrap_or(0)
}

async fn create(wire: &Wire, prefix: &[u8], from: u64) -> std::result::Result<Open, Status> {
    let create = m::WatchCreate {
        key: prefix.to_vec(),
        range_end: prefix_end(prefix),
        start_revision: signed(from),
        progress_notify: true,
        prev_kv: true,
    };
    let (requests, queue) = mpsc::channel(1);
    // There is room for one.
    let _ = requests.try_send(m::WatchRequest { request: Some(m::WatchOp::Create(create)) });
    let mut request = tonic::Request::new(ReceiverStream::new(queue));
    // A member without a leader would keep a watch that never says anything again.
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    let mut grpc = grpc(wire);
    let exchange = async {
        grpc.ready().await.map_err(|e| Status::unavailable(format!("not sent: {e}")))?;
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let mut answers = grpc.streaming(request, path, ProstCodec::default()).await?.into_inner();
        let first: Option<m::WatchResponse> = answers.message().await?;
        match first {
            Some(first) if first.canceled => Err(Status::unavailable(first.cancel_reason)),
            Some(_) => Ok(answers),
            None => Err(Status::unavailable("etcd ended a new watch")),
        }
    };
    let answers = tokio::time::timeout(ATTEMPT, exchange).await.unwrap_or_else(|_| {
        Err(Status::deadline_exceeded(format!("etcd did not confirm a watch within {ATTEMPT:?}")))
    })?;
    Ok(Open { wire: wire.clone(), answers, _requests: requests })
}

impl Watch {
    /// Starts the watch on whichever member answers; tries until one does.
    async fn reopen(&mut self) -> Result<Open> {
        loop {
            let wire = match self.etcd.peers.connection(Instant::now() + PATIENCE).await {
                Ok(wire) => wire,
                Err(Error::Backend(reason)) => {
                    tracing::warn!("the watch waits for etcd: {reason}");
                    continue;
                }
                Err(e) => return Err(e),
            };
            let outcome = async {
                if self.seen > 0 {
                    self.not_gone_back().await?;
                }
                create(&wire, &self.prefix, self.next)
                    .await
                    .map_err(|status| (fault(&status).is_some(), refused(status)))
            };
            match outcome.await {
                Ok(open) => return Ok(open),
                Err((false, error)) => return Err(error),
                Err((true, error)) => {
                    tracing::debug!(%error, "a watch of etcd did not start");
                    self.etcd.peers.failed(&wire).await;
                    // A timer: an election's end is not announced.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Fails for good if etcd was set back to an older state: its revisions would then be given a second time.
    async fn not_gone_back(&self) -> std::result::Result<(), (bool, Error)> {
        let now = self.etcd.revision_now().await.map_err(|e| (e.is_transient(), e))?;
        if now >= self.seen {
            return Ok(());
        }
        let says =
            format!("etcd was at revision {} and is now at {now}: it was set back to a backup", self.seen);
        Err((false, Error::Backend(says)))
    }

    async fn step(&mut self) -> Option<Result<WatchBatch>> {
        while !self.failed {
            let open = match self.open.take() {
                Some(open) => self.open.insert(open),
                None => match self.reopen().await {
                    Ok(open) => self.open.insert(open),
                    Err(e) => {
                        self.failed = true;
                        return Some(Err(e));
                    }
                },
            };
            let (lost, wire) = match open.answers.message().await {
                Ok(Some(answer)) if answer.compact_revision > 0 => {
                    self.failed = true;
                    let compacted = unsigned(answer.compact_revision);
                    return Some(Err(Error::Compacted { requested: self.next, compacted }));
                }
                Ok(Some(answer)) if answer.canceled => {
                    (Status::new(Code::Unavailable, answer.cancel_reason), open.wire.clone())
                }
                Ok(Some(answer)) => match self.batch(answer) {
                    Some(batch) => return Some(Ok(batch)),
                    None => continue,
                },
                Ok(None) => (Status::unavailable("the stream ended"), open.wire.clone()),
                Err(status) => (status, open.wire.clone()),
            };
            tracing::debug!(member = %wire.origin, status = lost.message(), "a watch of etcd broke off");
            self.open = None;
            self.etcd.peers.failed(&wire).await;
        }
        None
    }

    fn batch(&mut self, answer: m::WatchResponse) -> Option<WatchBatch> {
        let mut events: Vec<Event> = answer.events.into_iter().map(Event::from).collect();
        // An answer with events may name a revision beyond them; one without is what says how far the watch is.
        let revision = events.last().map_or(revision_of(&answer.header), |e| e.kv.mod_revision);
        events.retain(|e| e.kv.mod_revision >= self.next);
        if answer.created || events.is_empty() && revision < self.next {
            return None;
        }
        self.next = revision + 1;
        self.seen = self.seen.max(revision);
        Some(WatchBatch { events, revision })
    }
}
