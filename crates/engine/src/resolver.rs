//! The name server at 127.0.0.11 inside containers of user networks: names, aliases and links of containers on the
//! same networks, their reverse names, and everything else from this machine's name servers.
//!
//! The sockets live in the container's network namespace; the questions are answered, and passed on, from ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use network::dns::{
    Answer, Answerer, Forwarder, Name, Question, RData, Record, RecordType, Sockets, Upstreams, rdata,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Engine;
use crate::container::Container;
use crate::error::Result;
use crate::files::Resolv;
use crate::networks::{Driver, user_defined};
use crate::volumes::blocking;

/// Its address.
pub(crate) const OWN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// How long an answer may be kept, seconds: Docker's value.
const TTL: u32 = 600;
/// The suffixes of reverse names.
const REVERSE: [&str; 2] = [".in-addr.arpa", ".ip6.arpa"];

/// Serves until it is dropped.
#[derive(Debug)]
pub(crate) struct Guard(#[allow(dead_code)] DropGuard);

struct Server {
    engine: Arc<Engine>,
    container: Arc<Container>,
    /// A bare name that nobody has is not asked elsewhere: the client was told to complete it.
    completes: bool,
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
    let place = netns.clone();
    let sockets = blocking(move || Ok(Sockets::embedded(&place)?)).await?;
    let host = container.lock().asked.host.clone();
    let own: Vec<SocketAddr> = host
        .dns
        .iter()
        .filter_map(|s| s.parse().ok())
        .filter(|a| *a != IpAddr::V4(OWN))
        .map(|a| SocketAddr::new(a, 53))
        .collect();
    let given = !own.is_empty();
    let upstreams = if given { Upstreams::fixed(own) } else { engine.upstreams.clone() };
    let (of, whose) = (engine.clone(), container.clone());
    // A container that cannot get out must not get out by its questions. And what it was given as a server on loopback
    // is on its own loopback.
    let forwarder = Forwarder::new(upstreams).from_place(move |server| {
        let inside = (given && server.ip().is_loopback()) || !of.gets_out(&whose);
        inside.then(|| netns.clone())
    });
    let options = Resolv::of_host().with(&host).options;
    let server = Server {
        engine: engine.clone(),
        container: container.clone(),
        completes: options.iter().any(|o| ndots(o).is_some_and(|n| n > 0)),
        turn: AtomicUsize::new(0),
    };
    let stop = CancellationToken::new();
    let (until, short) = (stop.clone(), container.short().to_owned());
    engine.spawn(async move {
        if let Err(error) = network::dns::serve(sockets, Arc::new(server), Arc::new(forwarder), until).await {
            tracing::warn!(container = %short, %error, "names do not resolve in it any more");
        }
    });
    Ok(Guard(stop.drop_guard()))
}

fn ndots(option: &str) -> Option<u32> {
    option.strip_prefix("ndots:")?.parse().ok()
}

impl Engine {
    /// Whether a container is on a network that leads out.
    fn gets_out(&self, container: &Container) -> bool {
        let names: Vec<String> = container.lock().life.attached.keys().cloned().collect();
        names.iter().filter_map(|n| self.networks.get(n).ok()).any(|net| {
            let parentless = matches!(&net.driver, Driver::Vlan(o) if o.parent.is_none());
            !net.record.internal && !parentless
        })
    }
}

impl Answerer for Server {
    fn answer(&self, question: &Question) -> Answer {
        let known = match question.kind {
            // Whoever has addresses takes mail at them (RFC 5321 section 5.1), which an empty answer says.
            RecordType::A | RecordType::AAAA | RecordType::MX => self.names(&question.lower),
            RecordType::PTR => self.pointer(&question.lower),
            _ => Known::Nothing,
        };
        let bare = !question.lower.contains('.') && question.kind != RecordType::MX;
        let answers: Vec<Record> = match known {
            Known::Nothing if self.completes && bare => Vec::new(),
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
            let networks: Vec<String> =
                inner.life.attached.keys().filter(|n| user_defined(n)).cloned().collect();
            let links: Vec<String> = inner.asked.endpoints.values().flat_map(|e| e.links.clone()).collect();
            (networks, links)
        };
        for (bare, of) in readings(name) {
            let linked = links.iter().find_map(|link| {
                let (target, alias) = crate::create::parse_link(link).ok()?;
                let target = self.engine.find(target).map_or_else(|_| target.to_owned(), |c| c.name());
                (alias.eq_ignore_ascii_case(bare)).then(|| target.to_ascii_lowercase())
            });
            for network in networks.iter().filter(|n| of.is_none_or(|of| of == n.to_ascii_lowercase())) {
                let Ok(net) = self.engine.networks.get(network) else { continue };
                let Some(mut found) = net.lookup(linked.as_deref().unwrap_or(bare)) else { continue };
                found.dedup();
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % found.len().max(1);
                found.rotate_left(turn);
                return Known::Addresses(found);
            }
        }
        Known::Nothing
    }

    fn pointer(&self, name: &str) -> Known {
        let Some(address) = reverse(name) else { return Known::Nothing };
        let networks: Vec<String> = self.container.lock().life.attached.keys().cloned().collect();
        for network in networks.iter().filter(|n| user_defined(n)) {
            let owner = self.engine.networks.get(network).ok().and_then(|net| net.owner(address));
            let id = owner.as_deref().and_then(|o| o.split('/').next()).map(str::to_owned);
            if let Some(container) = id.and_then(|id| self.engine.by_id(&id)) {
                return Known::Pointer(format!("{}.{network}", container.name()));
            }
        }
        Known::Nothing
    }
}

/// What a name may mean: itself, or its beginning on the network that its end names. Both may have dots.
fn readings(name: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    let split = name.rmatch_indices('.').map(|(at, _)| (&name[..at], Some(&name[at + 1..])));
    std::iter::once((name, None)).chain(split)
}

/// `2.0.17.172.in-addr.arpa` is 172.17.0.2; an IPv6 address has its 32 digits there, the last one first.
pub(crate) fn reverse(name: &str) -> Option<IpAddr> {
    if let Some(rest) = name.strip_suffix(REVERSE[0]) {
        let mut octets: Vec<u8> = rest.split('.').map(|p| p.parse().ok()).collect::<Option<_>>()?;
        octets.reverse();
        let octets: [u8; 4] = octets.try_into().ok()?;
        return Some(Ipv4Addr::from(octets).into());
    }
    let digits: Vec<&str> = name.strip_suffix(REVERSE[1])?.split('.').collect();
    if digits.len() != 32 || digits.iter().any(|d| d.len() != 1) {
        return None;
    }
    let text: String = digits.into_iter().rev().collect();
    Some(Ipv6Addr::from(u128::from_str_radix(&text, 16).ok()?).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_names() {
        assert_eq!(reverse("2.0.17.172.in-addr.arpa"), Some(Ipv4Addr::new(172, 17, 0, 2).into()));
        assert_eq!(reverse("17.172.in-addr.arpa"), None);
        assert_eq!(reverse("example.org"), None);
        let six = "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa";
        assert_eq!(reverse(six), Some("fd00::2".parse().unwrap()));
        assert_eq!(reverse(&six[2..]), None);
    }

    #[test]
    fn a_name_may_name_its_network() {
        let got: Vec<_> = readings("web.app.my.net").collect();
        assert_eq!(
            got,
            [
                ("web.app.my.net", None),
                ("web.app.my", Some("net")),
                ("web.app", Some("my.net")),
                ("web", Some("app.my.net"))
            ]
        );
        assert_eq!((ndots("ndots:2"), ndots("rotate")), (Some(2), None));
    }
}
