//! Connections to webhooks and to servers behind this one, kept between calls: a handshake costs more than most calls do.
//!
//! A connection belongs to one [`Peer`]: where it is and by what both sides prove who they are, so that what is configured
//! otherwise is asked over another connection. It carries one call at a time, is kept for a while after it, and is closed
//! when a configuration changes. One that the peer has closed meanwhile is replaced without the call noticing, as long as
//! nothing of the call was sent. Whether a call may be made twice is its caller's to know.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use pki::Trust;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

use crate::ApiServer;
use crate::body::BoxError;
use crate::proxy::dial;

/// How long a connection is kept that nobody uses, as upstream's.
const IDLE: Duration = Duration::from_secs(90);
/// How many unused connections to one peer are kept.
const PER_PEER: usize = 16;
/// How many unused connections are kept in all.
const TOTAL: usize = 128;

/// The body of a request that is sent over a kept connection.
pub(crate) type Outgoing = UnsyncBoxBody<Bytes, BoxError>;
type Sender = hyper::client::conn::http1::SendRequest<Outgoing>;

/// Another server, and how it and this one prove who they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Peer {
    /// Address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The name its certificate must bear.
    pub name: String,
    /// Who may have signed that; without it anybody, by the user's own word.
    pub trust: Option<Trust>,
    /// Whether this server's client certificate is shown.
    pub identified: bool,
}

/// A connection that rests.
struct Idle {
    sender: Sender,
    since: Instant,
}

/// A peer that was asked lately.
struct Known {
    /// Remembers TLS sessions, so that further connections cost less.
    connector: TlsConnector,
    /// The longest unused first.
    idle: Vec<Idle>,
    used: Instant,
}

#[derive(Default)]
struct State {
    /// How often configurations have changed: what was connected before is not kept.
    epoch: u64,
    peers: HashMap<Peer, Known>,
    /// Whether somebody waits to close what nobody uses.
    watched: bool,
}

/// See the module.
pub(crate) struct Pool(Arc<Inner>);

struct Inner {
    identity: Arc<pki::ClientIdentity>,
    state: Mutex<State>,
}

/// Why a call over a kept connection failed.
pub(crate) struct Failed {
    /// What happened.
    pub why: String,
    /// The connection had served other calls: perhaps the peer closed it just when this one was sent.
    pub reused: bool,
}

/// The connection of an answer whose body is still to be read; dropped, it closes the connection.
pub(crate) struct Lease {
    pool: Arc<Inner>,
    peer: Peer,
    epoch: u64,
    sender: Sender,
}

impl Lease {
    /// The answer has been read to its end: the connection can be used again.
    pub fn done(self) {
        self.pool.keep(self.peer, self.sender, self.epoch);
    }
}

impl Pool {
    /// An empty one, for a server with this client certificate.
    pub fn new(identity: Arc<pki::ClientIdentity>) -> Self {
        Self(Arc::new(Inner { identity, state: Mutex::default() }))
    }

    /// Sends a request, over a connection that is there or a new one.
    pub async fn send(
        &self,
        to: &Peer,
        mut request: Request<Outgoing>,
    ) -> Result<(Response<Incoming>, Lease), Failed> {
        loop {
            let known = self.0.resting(to);
            let reused = known.is_some();
            let (mut sender, epoch) = match known {
                Some(known) => known,
                None => self.0.connect(to).await.map_err(|why| Failed { why, reused: false })?,
            };
            if sender.ready().await.is_err() && reused {
                continue;
            }
            match sender.try_send_request(request).await {
                Ok(response) => {
                    let lease = Lease { pool: self.0.clone(), peer: to.clone(), epoch, sender };
                    return Ok((response, lease));
                }
                Err(mut failure) => match failure.take_message() {
                    // Nothing of it was sent: the peer had closed the connection.
                    Some(unsent) if reused => request = unsent,
                    _ => return Err(Failed { why: failure.into_error().to_string(), reused }),
                },
            }
        }
    }

    /// Closes what rests, and what is in use when its call ends: how others are reached has changed.
    pub fn clear(&self) {
        let mut state = self.0.state.lock();
        state.epoch += 1;
        state.peers.clear();
    }
}

impl Inner {
    /// The connection that was used last: the longer one rests, the likelier the peer is about to close it.
    fn resting(&self, to: &Peer) -> Option<(Sender, u64)> {
        let mut state = self.state.lock();
        let epoch = state.epoch;
        let known = state.peers.get_mut(to)?;
        known.used = Instant::now();
        while let Some(idle) = known.idle.pop() {
            if !idle.sender.is_closed() {
                return Some((idle.sender, epoch));
            }
        }
        None
    }

    async fn connect(self: &Arc<Self>, to: &Peer) -> Result<(Sender, u64), String> {
        let (connector, epoch) = self.connector(to)?;
        let stream = dial(&to.host, to.port, Some((&connector, &to.name))).await;
        let stream = stream.map_err(|e| format!("dial tcp {}:{}: {e}", to.host, to.port))?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "a connection to another server ended");
            }
        });
        Ok((sender, epoch))
    }

    fn connector(self: &Arc<Self>, to: &Peer) -> Result<(TlsConnector, u64), String> {
        let mut state = self.state.lock();
        let epoch = state.epoch;
        if let Some(known) = state.peers.get(to) {
            return Ok((known.connector.clone(), epoch));
        }
        let config = match &to.trust {
            None => {
                let builder = sockets::AnyCertificate::client_config();
                Ok(if to.identified {
                    builder.with_client_cert_resolver(self.identity.clone())
                } else {
                    builder.with_no_client_auth()
                })
            }
            Some(trust) if to.identified => self.identity.client_config(trust),
            Some(trust) => pki::client_config(trust, None),
        };
        let config = config.map_err(|e| e.to_string())?;
        let connector = TlsConnector::from(Arc::new(config));
        let known = Known { connector: connector.clone(), idle: Vec::new(), used: Instant::now() };
        state.peers.insert(to.clone(), known);
        if !state.watched {
            state.watched = true;
            tokio::spawn(self.clone().forget_unused());
        }
        Ok((connector, epoch))
    }

    fn keep(&self, peer: Peer, sender: Sender, epoch: u64) {
        let mut state = self.state.lock();
        if sender.is_closed() || state.epoch != epoch {
            return;
        }
        let Some(known) = state.peers.get_mut(&peer) else { return };
        if known.idle.len() >= PER_PEER {
            known.idle.remove(0);
        }
        known.used = Instant::now();
        known.idle.push(Idle { sender, since: known.used });
        if state.peers.values().map(|k| k.idle.len()).sum::<usize>() > TOTAL {
            let oldest = state.peers.values_mut().filter(|k| !k.idle.is_empty());
            if let Some(known) = oldest.min_by_key(|k| k.idle.first().map(|i| i.since)) {
                known.idle.remove(0);
            }
        }
    }

    /// Closes what nobody has used for long, until nothing is left. A timer, because not being used is no event.
    async fn forget_unused(self: Arc<Self>) {
        loop {
            let next = {
                let mut state = self.state.lock();
                let now = Instant::now();
                state.peers.retain(|_, known| {
                    known.idle.retain(|i| i.since + IDLE > now && !i.sender.is_closed());
                    !known.idle.is_empty() || known.used + IDLE > now
                });
                let oldest = |k: &Known| k.idle.first().map_or(k.used, |i| i.since);
                let Some(oldest) = state.peers.values().map(oldest).min() else {
                    state.watched = false;
                    return;
                };
                oldest + IDLE
            };
            tokio::time::sleep_until(next).await;
        }
    }
}

/// The body of an answer; when it has been read to its end its connection is free for others.
pub(crate) struct Leased {
    body: Incoming,
    lease: Option<Lease>,
}

impl Leased {
    /// The body of an answer that came over `lease`.
    pub fn new(body: Incoming, lease: Lease) -> Self {
        let mut leased = Self { body, lease: Some(lease) };
        leased.settle();
        leased
    }

    /// Frees the connection if nothing more is to come: nobody asks for more than a body says that it has.
    fn settle(&mut self) {
        if self.body.is_end_stream()
            && let Some(lease) = self.lease.take()
        {
            lease.done();
        }
    }
}

impl Body for Leased {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(_))) => self.settle(),
            Poll::Ready(None) => {
                if let Some(lease) = self.lease.take() {
                    lease.done();
                }
            }
            Poll::Ready(Some(Err(_))) => self.lease = None,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The kinds whose objects say how others are reached; APIServices do too, and aggregation looks after them.
const CONFIGURATIONS: [(&str, &str); 3] = [
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
];

/// Closes kept connections when what they were made by has changed or is gone, until `shutdown`.
pub(crate) fn follow(server: &Arc<ApiServer>, shutdown: &CancellationToken) {
    for (group, plural) in CONFIGURATIONS {
        let (server, shutdown) = (server.clone(), shutdown.clone());
        let kind = server.cache.kind(group, plural);
        let (_, mut watcher) = server.cache.list_and_watch(kind.clone(), "");
        tokio::spawn(async move {
            loop {
                let events = tokio::select! {
                    () = shutdown.cancelled() => return,
                    events = watcher.next() => events,
                };
                let told = |o: &Arc<api::object::Encoded>| api::meta::generation(o.object().value());
                let changed = match &events {
                    // What is new has no connections yet; a changed status says nothing about them.
                    Ok(events) => events.iter().any(|e| {
                        e.change == crate::cache::Change::Deleted
                            || e.previous.as_ref().is_some_and(|p| told(p) != told(&e.object))
                    }),
                    Err(_) => true,
                };
                if changed {
                    server.pool.clear();
                }
                if events.is_err() {
                    (_, watcher) = server.cache.list_and_watch(kind.clone(), "");
                }
            }
        });
    }
}
