//! The name server at 127.0.0.11 inside containers of user networks: names, aliases and links of containers on the
//! same networks, their reverse names, and everything else from this machine's name servers.
//!
//! The sockets live in the container's network namespace; the questions are answered, and passed on, from ours.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::Engine;
use crate::container::Container;
use crate::error::{Error, Result};
use crate::files::Resolv;

/// Where it listens.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
/// How long other name servers have to answer.
const PATIENCE: Duration = Duration::from_secs(2);
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
pub(crate) fn serve(engine: &Arc<Engine>, container: &Arc<Container>, netns: &Path) -> Result<Guard> {
    let bind = || -> std::io::Result<(std::net::UdpSocket, std::net::TcpListener)> {
        let udp = std::net::UdpSocket::bind(ADDRESS)?;
        let tcp = std::net::TcpListener::bind(ADDRESS)?;
        udp.set_nonblocking(true)?;
        tcp.set_nonblocking(true)?;
        Ok((udp, tcp))
    };
    let (udp, tcp) = sys::netns::in_netns(netns, bind)
        .and_then(|bound| bound)
        .map_err(Error::io(format_args!("listening on {ADDRESS} in the container")))?;
    let udp = Arc::new(UdpSocket::from_std(udp).map_err(Error::io("name server"))?);
    let tcp = TcpListener::from_std(tcp).map_err(Error::io("name server"))?;
    let server = Arc::new(Server { engine: engine.clone(), container: container.clone(), turn: AtomicUsize::new(0) });
    let stop = CancellationToken::new();
    let (a, b) = (stop.clone(), stop.clone());
    let (udp_server, tcp_server) = (server.clone(), server);
    engine.spawn(async move {
        tokio::select! {
            () = serve_udp(udp_server, udp) => {}
            () = a.cancelled() => {}
        }
    });
    engine.spawn(async move {
        tokio::select! {
            () = serve_tcp(tcp_server, tcp) => {}
            () = b.cancelled() => {}
        }
    });
    Ok(Guard(stop.drop_guard()))
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An earlier answer's receiver was gone; anything else would come back at once for ever.
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(error) => {
                tracing::warn!(%error, "the name server of a container stops");
                return;
            }
        };
        let (query, server_of, socket_of) = (buffer[..length].to_vec(), server.clone(), socket.clone());
        server.engine.spawn(async move {
            if let Some(answer) = server_of.answer(&query, false).await {
                let _ = socket_of.send_to(&answer, peer).await; // it asks again
            }
        });
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        let server_of = server.clone();
        server.engine.spawn(async move {
            // A timer by nature: idle connections would stay for ever.
            let _ = tokio::time::timeout(Duration::from_secs(30), server_of.connection(stream)).await;
        });
    }
}

impl Server {
    async fn connection(&self, mut stream: TcpStream) -> std::io::Result<()> {
        loop {
            let length = stream.read_u16().await?;
            let mut query = vec![0; usize::from(length)];
            stream.read_exact(&mut query).await?;
            let Some(answer) = self.answer(&query, true).await else { return Ok(()) };
            let length = u16::try_from(answer.len()).map_err(std::io::Error::other)?;
            stream.write_u16(length).await?;
            stream.write_all(&answer).await?;
        }
    }

    /// The answer to a question; `None` if it is none.
    async fn answer(&self, query: &[u8], stream: bool) -> Option<Vec<u8>> {
        let question = Message::from_vec(query).ok()?;
        let asked = question.queries.first()?.clone();
        let name = asked.name.to_ascii().to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        let known = match asked.query_type {
            RecordType::A | RecordType::AAAA => self.names(name),
            RecordType::PTR => self.pointer(name),
            _ => Known::Nothing,
        };
        if known == Known::Nothing {
            if let Some(answer) = self.forward(query, stream).await {
                return Some(answer);
            }
        }
        let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
        answer.metadata.recursion_desired = question.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.add_query(asked.clone());
        match known {
            Known::Addresses(addresses) => {
                for address in addresses {
                    let data = match (address, asked.query_type) {
                        (IpAddr::V4(a), RecordType::A) => RData::A(A(a)),
                        (IpAddr::V6(a), RecordType::AAAA) => RData::AAAA(AAAA(a)),
                        _ => continue,
                    };
                    answer.add_answer(Record::from_rdata(asked.name.clone(), TTL, data));
                }
            }
            Known::Pointer(target) => {
                let target = Name::from_ascii(format!("{target}.")).ok()?;
                answer.add_answer(Record::from_rdata(asked.name.clone(), TTL, RData::PTR(PTR(target))));
            }
            Known::Nothing => answer.metadata.response_code = ResponseCode::NXDomain,
        }
        answer.to_vec().ok()
    }

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

    /// Asks the name servers that the container was given, or this machine's; `None` if none answers.
    async fn forward(&self, query: &[u8], stream: bool) -> Option<Vec<u8>> {
        let host = self.container.lock().asked.host.clone();
        for server in Resolv::of_host().with(&host).servers {
            let Ok(address) = server.parse::<IpAddr>() else { continue };
            let to = SocketAddr::new(address, 53);
            let asked = async { if stream { ask_tcp(to, query).await } else { ask_udp(to, query).await } };
            if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, asked).await {
                return Some(answer);
            }
        }
        None
    }
}

async fn ask_udp(to: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(to).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 65535];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if buffer[..length].get(..2) == query.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(to: SocketAddr, query: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(to).await?;
    stream.write_u16(u16::try_from(query.len()).map_err(std::io::Error::other)?).await?;
    stream.write_all(query).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// `2.0.17.172.in-addr.arpa` is 172.17.0.2.
fn reverse(name: &str) -> Option<IpAddr> {
    let mut octets: Vec<u8> = name.strip_suffix(REVERSE)?.split('.').map(|p| p.parse().ok()).collect::<Option<_>>()?;
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
