//! A DNS server without records: the loop over its sockets (UDP and TCP, RFC 1035, 6891, 7766) and the forwarding of
//! what its [`Answerer`] does not know.
//!
//! The cluster's DNS and the engine's embedded one are answerers of this one server. It promises that an answer fits
//! what the client can take, that negative answers carry their SOA (RFC 2308), that aliases are followed to their end,
//! and that no client can keep it from serving the others. Names and records are the answerers' own.

mod forward;
mod server;
mod sockets;
mod upstreams;

use std::net::SocketAddr;

#[cfg(any(test, fuzzing))]
pub(crate) use forward::try_out as try_forwarder;
#[cfg(any(test, fuzzing))]
pub(crate) use server::try_out as try_server;
#[cfg(any(test, fuzzing))]
pub(crate) use upstreams::try_out as try_resolv_conf;

pub use forward::Forwarder;
pub use hickory_proto::rr::{Name, RData, Record, RecordType, rdata};
pub use server::serve;
pub use sockets::Sockets;
pub use upstreams::Upstreams;

/// One question.
#[derive(Debug, Clone)]
pub struct Question {
    /// The name as it was asked (answers repeat its spelling).
    pub name: Name,
    /// The name in lower case, without the final dot: `web.default.svc.cluster.local`.
    pub lower: String,
    /// The kind of record.
    pub kind: RecordType,
    /// Who asks.
    pub client: Option<SocketAddr>,
}

impl Question {
    /// A question of our own.
    pub fn new(name: Name, kind: RecordType) -> Self {
        let lower = name.to_lowercase().to_ascii().trim_end_matches('.').to_owned();
        Self { name, lower, kind, client: None }
    }

    /// A record that answers it.
    pub fn record(&self, ttl: u32, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), ttl, data)
    }
}

/// What an answerer says.
#[allow(clippy::large_enum_variant)] // there is one for each question, and not for long
#[derive(Debug, Clone)]
pub enum Answer {
    /// These records, and others that will be asked for next. Authoritative.
    Records {
        /// The answer.
        answers: Vec<Record>,
        /// What will be asked for next.
        additionals: Vec<Record>,
    },
    /// The name is another name's alias; the server follows it.
    Alias {
        /// The CNAME record.
        record: Record,
        /// What it points at.
        target: Name,
    },
    /// The name has no record of this kind (`exists`), or there is no such name.
    Nothing {
        /// Whether the name has records of other kinds, or names below it.
        exists: bool,
        /// The zone's SOA, whose TTL says how long this may be remembered.
        soa: Box<Record>,
    },
    /// Not ours: ask the upstream servers.
    Forward,
    /// Cannot be said now.
    Failure,
}

/// Who knows the answers. Called for every question, so it must not block.
pub trait Answerer: Send + Sync + 'static {
    /// The answer to a question.
    fn answer(&self, question: &Question) -> Answer;
}
