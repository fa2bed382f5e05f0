//! Host names: addresses as they are, `localhost` by RFC 6761 section 6.3, the rest by /etc/hosts and the machine's DNS
//! servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, OnceLock};
use std::task::{Context, Poll};

use hickory_resolver::TokioResolver;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::net::TcpStream;

/// Looks names up with the machine's configuration, read when it is first needed. Cheap to clone.
#[derive(Clone, Default)]
pub struct Resolver(Arc<OnceLock<Option<TokioResolver>>>);

impl Resolver {
    /// The addresses of `host`: an address (IPv6 with or without brackets) or a name. A name without any is
    /// [`io::ErrorKind::NotFound`].
    pub async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(ip) = bare.parse() {
            return Ok(vec![ip]);
        }
        let name = host.trim_end_matches('.');
        if name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost") {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let none = || io::Error::new(io::ErrorKind::NotFound, format!("lookup {host}: no such host"));
        let resolver =
            self.0.get_or_init(|| TokioResolver::builder_tokio().ok().and_then(|b| b.build().ok()));
        let resolver = resolver.as_ref().ok_or_else(none)?;
        let found = resolver.lookup_ip(host).await.map_err(|_| none())?;
        let all: Vec<_> = found.iter().collect();
        if all.is_empty() { Err(none()) } else { Ok(all) }
    }
}

impl tower::Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.clone();
        Box::pin(async move {
            let found = resolver.lookup(name.as_str()).await?;
            Ok(found.into_iter().map(|ip| SocketAddr::new(ip, 0)).collect::<Vec<_>>().into_iter())
        })
    }
}

/// Connects to a host, given as an address or a name, trying its addresses one after another; the error is that of the
/// last. It waits as long as the kernel does: the caller sets the limit.
pub async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    static RESOLVER: LazyLock<Resolver> = LazyLock::new(Resolver::default);
    let mut outcome = Err(io::ErrorKind::NotFound.into());
    for ip in RESOLVER.lookup(host).await? {
        outcome = TcpStream::connect(SocketAddr::new(ip, port)).await;
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_and_localhost_need_no_server() {
        let r = Resolver::default();
        assert_eq!(r.lookup("192.0.2.1").await.unwrap(), [IpAddr::from([192, 0, 2, 1])]);
        assert_eq!(r.lookup("[::1]").await.unwrap(), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        assert_eq!(r.lookup("::1").await.unwrap(), [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        assert!(r.lookup("a.LOCALHOST.").await.unwrap().contains(&Ipv4Addr::LOCALHOST.into()));
    }

    #[tokio::test]
    async fn connects_by_name_to_the_address_that_listens() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        connect("localhost", port).await.unwrap();
        drop(listener);
        assert_eq!(connect("127.0.0.1", port).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
