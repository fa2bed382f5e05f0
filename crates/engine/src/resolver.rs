//! The name server at 127.0.0.11 inside containers of user networks: names, aliases and links of containers on the
//! same networks, their reverse names, and everything else from this machine's name servers.
//!
//! The sockets live in the container's network namespace; the questions are answered, and passed on, from ours.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use network::dns::{Answer, Answerer, Forwarder, Name, Question, RData, Record, RecordType, Sockets, rdata};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Engine;
use crate::container::Container;
use crate::error::Result;
use crate::files::Resolv;
use crate::volumes::blocking;

/// How long an answer may be kept, seconds: Docker's value.
const TTL: u32 = 600;
/// The suffix of reverse names.
const REVERSE: &str = ".in-addr.arpa";

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Guard(#[allow(dead_code)] DropGuard);

struct Server {
    engine: Arc<Engine>,
    container: Arc<Container>,
    turn: AtomicUsize,
}

/// What is known of a question.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    Addresses(Vec<IpAddr>),
    Pointer(String),
    Nothing,
}

/// Starts serving names in a network namespace.
pub(crate) async fn serve(engine: &Arc<Engine>, container: &Arc<Container>, netns: PathBuf) -> Result<Guard> {
    let sockets = blocking(move || Ok(Sockets::embedded(&netns)?)).await?;
    let host = container.lock().asked.host.clone();
    let upstream = Resolv::of_host().with(&host).servers;
    let upstream = upstream.iter().filter_map(|s| s.parse::<IpAddr>().ok());
    let forwarder = Arc::new(Forwarder::fixed(upstream.map(|a| SocketAddr::new(a, 53)).collect()));
    let server = Server { engine: engine.clone(), container: container.clone(), turn: AtomicUsize::new(0) };
    let stop = CancellationToken::new();
    let (until, short) = (stop.clone(), container.short().to_owned());
    engine.spawn(async move {
        if let Err(error) = network::dns::serve(sockets, Arc::new(server), forwarder, until).await {
            tracing::warn!(container = %short, %error, "names do not resolve in it any more");
        }
    });
    Ok(Guard(stop.drop_guard()))
}

impl Answerer for Server {
    fn answer(&self, question: &Question) -> Answer {
        let known = match question.kind {
            RecordType::A | RecordType::AAAA => self.names(&question.lower),
            RecordType::PTR => self.pointer(&question.lower),
            _ => Known::Nothing,
        };
        let answers: Vec<Record> = match known {
            Known::Nothing => return Answer::Forward,
            Known::Addresses(all) => all
                .into_iter()
                .filter_map(|address| match (address, question.kind) {
                    (IpAddr::V4(a), RecordType::A) => Some(RData::A(rdata::A(a))),
                    (IpAddr::V6(a), RecordType::AAAA) => Some(RData::AAAA(rdata::AAAA(a))),
                    _ => None,
                })
                .map(|data| question.record(TTL, data))
                .collect(),
            Known::Pointer(target) => match Name::from_ascii(format!("{target}.")) {
                Ok(name) => vec![question.record(TTL, RData::PTR(rdata::PTR(name)))],
                Err(_) => return Answer::Failure,
            },
        };
        Answer::Records { answers, additionals: Vec::new() }
    }
}

impl Server {
    /// The addresses of a name on the container's networks, another one first each time.
    fn names(&self, name: &str) -> Known {
        let (networks, links) = {
            let inner = self.container.lock();
            let networks: Vec<String> = inner.life.attached.keys().cloned().collect();
            let links: Vec<String> = inner.asked.endpoints.values().flat_map(|e| e.links.clone()).collect();
            (networks, links)
        };
        let linked = links.iter().find_map(|link| {
            let (target, alias) = crate::create::parse_link(link).ok()?;
            let target = self.engine.find(target).map_or_else(|_| target.to_owned(), |c| c.name());
            (alias.eq_ignore_ascii_case(name)).then(|| target.to_ascii_lowercase())
        });
        let mut found = Vec::new();
        for network in networks {
            let Ok(net) = self.engine.networks.get(&network) else { continue };
            if !net.user_defined() {
                continue;
            }
            // A name may be given with its network behind it.
            let bare = name.strip_suffix(&format!(".{}", network.to_ascii_lowercase())).unwrap_or(name);
            for candidate in linked.as_deref().into_iter().chain([name, bare]) {
                for address in net.lookup(candidate) {
                    if !found.contains(&address) {
                        found.push(address);
                    }
                }
            }
        }
        if found.is_empty() {
            return Known::Nothing;
        }
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % found.len();
        found.rotate_left(turn);
        Known::Addresses(found)
    }

    fn pointer(&self, name: &str) -> Known {
        let Some(address) = reverse(name) else { return Known::Nothing };
        let networks: Vec<String> = self.container.lock().life.attached.keys().cloned().collect();
        for network in networks {
            let owner = self.engine.networks.get(&network).ok().and_then(|net| net.owner(address));
            let id = owner.as_deref().and_then(|o| o.split('/').next()).map(str::to_owned);
            if let Some(container) = id.and_then(|id| self.engine.by_id(&id)) {
                return Known::Pointer(format!("{}.{network}", container.name()));
            }
        }
        Known::Nothing
    }
}

/// `2.0.17.172.in-addr.arpa` is 172.17.0.2.
fn reverse(name: &str) -> Option<IpAddr> {
    let mut octets: Vec<u8> =
        name.strip_suffix(REVERSE)?.split('.').map(|p| p.parse().ok()).collect::<Option<_>>()?;
    octets.reverse();
    let octets: [u8; 4] = octets.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_names() {
        assert_eq!(reverse("2.0.17.172.in-addr.arpa"), Some(Ipv4Addr::new(172, 17, 0, 2).into()));
        assert_eq!(reverse("17.172.in-addr.arpa"), None);
        assert_eq!(reverse("example.org"), None);
    }
}
