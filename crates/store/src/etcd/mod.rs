//! The store in a real etcd (3.4 or newer), which several servers may share.
//!
//! What is read is asked for again, of another member if need be, until it is answered or [`PATIENCE`] is over. A write is
//! repeated only where it is certain that it was not carried out; else its outcome is said to be unknown. A watch goes on
//! where it was when a member fails, restarts, or loses its leader; it ends only with an error that the caller has to act
//! on. History is compacted by age, by one of the servers that share it.

mod compactor;
mod messages;
mod peers;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod watch;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use http::uri::PathAndQuery;
use prost::Message;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

use self::messages as m;
use self::peers::{Peers, Wire};
use crate::{
    Error, Event, EventKind, Expect, KeyValue, LeaseId, Op, Range, RangeResult, Result, Store, Txn,
    TxnResult, WatchStream,
};

/// How long a request is tried for in all.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long one attempt may take: etcd itself gives up on a request after seven seconds.
const ATTEMPT: Duration = Duration::from_secs(10);
/// How many keys are read at once: a larger range is read in pages of one revision, so that others get their turn.
const PAGE: u64 = 2_000;

/// Where etcd is.
#[derive(Debug, Clone)]
pub struct Options {
    /// URLs of its members, separated by commas.
    pub endpoints: String,
    /// Whom to trust and what certificate to show; needed for `https://` members.
    pub tls: Option<rustls::ClientConfig>,
}

/// What one member says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberStatus {
    /// Its URL.
    pub endpoint: String,
    /// Its version.
    pub version: String,
    /// The size of its database in bytes.
    pub size: u64,
    /// The newest revision that it knows.
    pub revision: u64,
    /// Whether its cluster has a leader.
    pub has_leader: bool,
    /// What it complains of (lack of space, corruption).
    pub alarms: Vec<String>,
}

/// Opens the store; does not wait for etcd. To be called inside a tokio runtime; its timers end with the last reference.
pub fn open(options: Options) -> Result<Arc<dyn Store>> {
    let peers = Arc::new(Peers::new(&options.endpoints, options.tls)?);
    tokio::spawn(compactor::run(Arc::downgrade(&peers)));
    Ok(Arc::new(Etcd { peers }))
}

/// Asks each member how it is.
pub async fn status(options: Options) -> Result<Vec<(String, Result<MemberStatus>)>> {
    let peers = Peers::new(&options.endpoints, options.tls)?;
    let mut all = Vec::new();
    for endpoint in peers.origins() {
        let answer = async {
            let wire = peers.connection_to(&endpoint).await?;
            let answer: m::StatusResponse =
                call(&wire, "/etcdserverpb.Maintenance/Status", m::Empty {}).await.map_err(refused)?;
            Ok(MemberStatus {
                endpoint: endpoint.clone(),
                version: answer.version,
                size: unsigned(answer.db_size),
                revision: revision_of(&answer.header),
                has_leader: answer.leader != 0,
                alarms: answer.errors,
            })
        };
        all.push((endpoint.clone(), answer.await));
    }
    Ok(all)
}

#[derive(Clone)]
struct Etcd {
    peers: Arc<Peers>,
}

/// Whether a request may be made again when it is not known what became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Always,
    IfNotDone,
}

impl Etcd {
    async fn ask<Q, A>(&self, path: &'static str, request: Q, repeat: Repeat) -> Result<A>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.attempts(repeat, |wire| {
            let request = request.clone();
            async move { call(&wire, path, request).await }
        })
        .await
    }

    async fn attempts<A, F>(&self, repeat: Repeat, attempt: impl Fn(Wire) -> F) -> Result<A>
    where
        F: Future<Output = std::result::Result<A, Status>>,
    {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let wire = self.peers.connection(deadline).await?;
            let status = match attempt(wire.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(status) => status,
            };
            let Some(fault) = fault(&status) else { return Err(refused(status)) };
            if fault != Fault::Busy {
                self.peers.failed(&wire).await;
            }
            if Instant::now() >= deadline {
                return Err(refused(status));
            }
            if fault == Fault::Unknown && repeat == Repeat::IfNotDone {
                return Err(Error::Backend(format!(
                    "etcd {}: {}; whether the change was made is not known",
                    wire.origin,
                    status.message()
                )));
            }
            tracing::debug!(member = %wire.origin, status = status.message(), "asking etcd again");
            // A timer: neither a leader's election nor the end of a rush is announced to clients.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The newest revision: any linearized read tells it; this one has nothing else to say.
    async fn revision_now(&self) -> Result<u64> {
        let request = m::RangeRequest { key: b"/".to_vec(), count_only: true, ..m::RangeRequest::default() };
        let answer: m::RangeResponse = self.ask("/etcdserverpb.KV/Range", request, Repeat::Always).await?;
        Ok(revision_of(&answer.header))
    }

    /// Fails if the changes from revision `from` on are no longer all there. etcd itself says so only later, within the
    /// watch, and not where `from` is the compacted revision itself, whose deletions are gone.
    async fn still_there(&self, from: u64) -> Result<()> {
        if from < 2 {
            return Ok(());
        }
        let before = Range { count_only: true, ..Range::key("/") };
        match self.page(&before, before.start.clone(), 0, from - 1).await {
            Ok(_) | Err(Error::Future { .. }) => Ok(()),
            Err(Error::Compacted { compacted, .. }) => Err(Error::Compacted { requested: from, compacted }),
            Err(e) => Err(e),
        }
    }

    /// Fills in what etcd's refusals leave out.
    async fn explain(&self, error: Error, requested: u64) -> Error {
        match error {
            Error::Compacted { .. } => {
                Error::Compacted { requested, compacted: watch::compacted(self).await }
            }
            Error::Future { .. } => {
                Error::Future { requested, current: self.revision_now().await.unwrap_or_default() }
            }
            other => other,
        }
    }

    async fn page(
        &self,
        range: &Range,
        start: Vec<u8>,
        limit: u64,
        revision: u64,
    ) -> Result<m::RangeResponse> {
        let request = m::RangeRequest {
            key: start,
            range_end: range.end.clone(),
            limit: signed(limit),
            revision: signed(revision),
            keys_only: range.keys_only,
            count_only: range.count_only,
        };
        match self.ask("/etcdserverpb.KV/Range", request, Repeat::Always).await {
            Ok(answer) => Ok(answer),
            Err(e) => Err(self.explain(e, revision).await),
        }
    }
}

/// One request, one answer.
async fn call<Q, A>(wire: &Wire, path: &'static str, request: Q) -> std::result::Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    let mut grpc = grpc(wire);
    let exchange = async {
        grpc.ready().await.map_err(|e| Status::unavailable(format!("not sent: {e}")))?;
        let codec = ProstCodec::<Q, A>::default();
        let path = PathAndQuery::from_static(path);
        grpc.unary(tonic::Request::new(request), path, codec).await.map(tonic::Response::into_inner)
    };
    match tokio::time::timeout(ATTEMPT, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {ATTEMPT:?}"))),
    }
}

fn grpc(wire: &Wire) -> Grpc<Wire> {
    Grpc::with_origin(wire.clone(), wire.origin.clone()).max_decoding_message_size(usize::MAX)
}

/// Why an attempt failed although nothing is wrong with the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// It was certainly not carried out; another member may do it.
    NotDone,
    /// The member asks for patience.
    Busy,
    /// The connection or the member failed on the way.
    Unknown,
}

fn fault(status: &Status) -> Option<Fault> {
    let text = status.message();
    match status.code() {
        Code::Unavailable if text.contains("no leader") || text.starts_with("not sent") => {
            Some(Fault::NotDone)
        }
        Code::ResourceExhausted if text.contains("too many requests") => Some(Fault::Busy),
        // Also what tonic makes of a connection that broke: no answer of etcd's has these codes.
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Internal | Code::Unknown => {
            Some(Fault::Unknown)
        }
        _ => None,
    }
}

/// What a refusal means.
fn refused(status: Status) -> Error {
    let text = status.message();
    match status.code() {
        Code::OutOfRange if text.contains("compacted") => Error::Compacted { requested: 0, compacted: 0 },
        Code::OutOfRange => Error::Future { requested: 0, current: 0 },
        Code::NotFound if text.contains("lease") => Error::LeaseNotFound(0),
        Code::InvalidArgument if text.contains("request is too large") => Error::TooLarge,
        // Much too large: the message was not even read.
        Code::ResourceExhausted if text.contains("larger than max") => Error::TooLarge,
        Code::ResourceExhausted if text.contains("space exceeded") => Error::Backend(
            "etcd is out of space and takes no writes: compact and defragment it, or raise its \
             --quota-backend-bytes, then `etcdctl alarm disarm`"
                .into(),
        ),
        Code::Unauthenticated | Code::PermissionDenied => {
            Error::Config(format!("etcd refuses this server's certificate: {text}"))
        }
        _ => Error::Backend(format!("etcd: {text}")),
    }
}

fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// Revisions and limits beyond etcd's range do not exist there either.
fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn revision_of(header: &Option<m::Header>) -> u64 {
    header.as_ref().map_or(0, |h| unsigned(h.revision))
}

impl From<m::KeyValue> for KeyValue {
    fn from(kv: m::KeyValue) -> Self {
        KeyValue {
            key: kv.key,
            value: kv.value,
            create_revision: unsigned(kv.create_revision),
            mod_revision: unsigned(kv.mod_revision),
            version: unsigned(kv.version),
        }
    }
}

impl From<m::Event> for Event {
    fn from(event: m::Event) -> Self {
        Event {
            kind: if event.kind == m::DELETE { EventKind::Delete } else { EventKind::Put },
            kv: event.kv.unwrap_or_default().into(),
            prev: event.prev_kv.map(Into::into),
        }
    }
}

fn op(request: m::Request) -> Vec<m::RequestOp> {
    vec![m::RequestOp { request: Some(request) }]
}

fn transaction(txn: Txn) -> m::TxnRequest {
    let Txn { key, expect, op: change } = txn;
    let compare = |revision: u64| {
        let value = Some(m::Target::ModRevision(signed(revision)));
        vec![m::Compare { result: m::EQUAL, target: m::MOD, key: key.clone(), value }]
    };
    let read = m::RangeRequest { key: key.clone(), ..m::RangeRequest::default() };
    let (compare, failure) = match expect {
        Expect::Any => (Vec::new(), Vec::new()),
        Expect::Absent => (compare(0), op(m::Request::Range(read))),
        // To etcd, revision 0 is that of a key that is not there; to us there is none such.
        Expect::ModRevision(0) => (compare(u64::MAX), op(m::Request::Range(read))),
        Expect::ModRevision(r) => (compare(r), op(m::Request::Range(read))),
    };
    let success = op(match change {
        Op::Put { value, lease } => {
            m::Request::Put(m::PutRequest { key, value, lease: lease.unwrap_or(0), prev_kv: true })
        }
        Op::Delete => m::Request::Delete(m::DeleteRequest { key, prev_kv: true }),
    });
    m::TxnRequest { compare, success, failure }
}

#[async_trait]
impl Store for Etcd {
    async fn range(&self, range: Range) -> Result<RangeResult> {
        let single = range.end.is_empty() || range.count_only;
        let mut result = RangeResult::default();
        let mut start = range.start.clone();
        let mut revision = range.revision;
        loop {
            let left = range.limit.saturating_sub(result.items.len() as u64);
            let limit = match range.limit {
                _ if single => range.limit,
                0 => PAGE,
                _ => PAGE.min(left),
            };
            let page = self.page(&range, start, limit, revision).await?;
            if result.revision == 0 {
                result.revision = revision_of(&page.header);
                result.count = unsigned(page.count);
            }
            if revision == 0 {
                revision = result.revision;
            }
            result.items.extend(page.kvs.into_iter().map(KeyValue::from));
            result.more = page.more;
            let enough = range.limit != 0 && result.items.len() as u64 >= range.limit;
            let Some(last) = result.items.last().filter(|_| page.more && !enough && !single) else {
                return Ok(result);
            };
            start = [last.key.as_slice(), &[0]].concat();
        }
    }

    async fn txn(&self, txn: Txn) -> Result<TxnResult> {
        let lease = match &txn.op {
            Op::Put { lease, .. } => lease.unwrap_or(0),
            Op::Delete => 0,
        };
        let answer: Result<m::TxnResponse> =
            self.ask("/etcdserverpb.KV/Txn", transaction(txn), Repeat::IfNotDone).await;
        let answer = match answer {
            Err(Error::LeaseNotFound(_)) => return Err(Error::LeaseNotFound(lease)),
            other => other?,
        };
        let current = match answer.responses.into_iter().next().and_then(|r| r.response) {
            Some(m::Response::Range(r)) => r.kvs.into_iter().next(),
            Some(m::Response::Put(p)) => p.prev_kv,
            Some(m::Response::Delete(d)) => d.prev_kvs.into_iter().next(),
            None => None,
        };
        Ok(TxnResult {
            succeeded: answer.succeeded,
            revision: revision_of(&answer.header),
            current: current.map(Into::into),
        })
    }

    async fn watch(&self, prefix: Vec<u8>, from: u64) -> Result<WatchStream> {
        watch::watch(self.clone(), prefix, from).await
    }

    async fn revision(&self) -> Result<u64> {
        self.revision_now().await
    }

    async fn size(&self) -> Result<u64> {
        let answer: m::StatusResponse =
            self.ask("/etcdserverpb.Maintenance/Status", m::Empty {}, Repeat::Always).await?;
        Ok(unsigned(answer.db_size))
    }

    async fn compact(&self, revision: u64) -> Result<()> {
        let request = m::CompactionRequest { revision: signed(revision) };
        match self.ask::<_, m::Empty>("/etcdserverpb.KV/Compact", request, Repeat::Always).await {
            Ok(_) => Ok(()),
            Err(e) => Err(self.explain(e, revision).await),
        }
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId> {
        // A lease made twice costs nothing: nothing hangs on the first.
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let request = m::LeaseGrantRequest { ttl: signed(seconds.max(1)) };
        let answer: m::LeaseGrantResponse =
            self.ask("/etcdserverpb.Lease/LeaseGrant", request, Repeat::Always).await?;
        Ok(answer.id)
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<()> {
        let answer: m::LeaseKeepAliveResponse = self
            .attempts(Repeat::Always, |wire| async move {
                let mut grpc = grpc(&wire);
                let exchange = async {
                    grpc.ready().await.map_err(|e| Status::unavailable(format!("not sent: {e}")))?;
                    let requests = futures::stream::iter([m::LeaseRequest { id: lease }]);
                    let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
                    let codec = ProstCodec::default();
                    let answers = grpc.streaming(tonic::Request::new(requests), path, codec).await?;
                    let answer = answers.into_inner().message().await?;
                    answer.ok_or_else(|| Status::unavailable("the stream ended without an answer"))
                };
                match tokio::time::timeout(ATTEMPT, exchange).await {
                    Ok(answer) => answer,
                    Err(_) => Err(Status::deadline_exceeded(format!("no answer within {ATTEMPT:?}"))),
                }
            })
            .await?;
        if answer.ttl > 0 { Ok(()) } else { Err(Error::LeaseNotFound(lease)) }
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<()> {
        let request = m::LeaseRequest { id: lease };
        match self.ask::<_, m::Empty>("/etcdserverpb.Lease/LeaseRevoke", request, Repeat::IfNotDone).await {
            Ok(_) => Ok(()),
            Err(Error::LeaseNotFound(_)) => Err(Error::LeaseNotFound(lease)),
            Err(e) => Err(e),
        }
    }
}
