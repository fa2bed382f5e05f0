//! Where a server listens.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use crate::error::{Error, Result};
use crate::netns::in_netns;
use crate::nft::{Batch, Family, Firewall, Hook, Kind, Nft, Op, Reg, Rule, key};

/// A server's two sockets.
pub struct Sockets {
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
    /// Keeps the rules' socket open as long as the others: closing it costs milliseconds.
    pub(super) rules: Option<Nft>,
}

/// The address of an engine's embedded DNS inside a container.
pub const EMBEDDED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

impl Sockets {
    /// Listens on an address of this machine, over UDP and TCP.
    pub fn bind(address: SocketAddr) -> Result<Self> {
        let io = |e| Error::io(format!("listen for DNS on {address}"), e);
        let udp = UdpSocket::bind(address).map_err(io)?;
        let tcp = TcpListener::bind(address).map_err(io)?;
        udp.set_nonblocking(true).and_then(|()| tcp.set_nonblocking(true)).map_err(io)?;
        Ok(Self { udp, tcp, rules: None })
    }

    /// Listens inside a container's network namespace on 127.0.0.11, port 53. The sockets themselves have other
    /// ports, to which a rule of the namespace's own table leads: a container may want port 53 for itself.
    ///
    /// They keep the namespace alive: end the server when the container has ended.
    pub fn embedded(netns: &Path) -> Result<Self> {
        in_netns(netns, || {
            let mut sockets = Self::bind((IpAddr::from(EMBEDDED), 0).into()).or_else(|_| {
                // The port that UDP got is taken by TCP: ask for each by itself.
                let any = SocketAddr::from((EMBEDDED, 0));
                let io = |e| Error::io("listen for DNS on 127.0.0.11", e);
                let (udp, tcp) = (UdpSocket::bind(any).map_err(io)?, TcpListener::bind(any).map_err(io)?);
                udp.set_nonblocking(true).and_then(|()| tcp.set_nonblocking(true)).map_err(io)?;
                Ok::<_, Error>(Self { udp, tcp, rules: None })
            })?;
            let io = |e| Error::io("ask for the port of a DNS socket", e);
            let udp = sockets.udp.local_addr().map_err(io)?.port();
            let tcp = sockets.tcp.local_addr().map_err(io)?.port();
            let nft = Nft::open("tug-dns")?;
            let mut b = Batch::new();
            b.op(Op::AddTable).base_chain("output", Kind::Nat, Hook::Output, -100);
            let mut rules = Vec::new();
            for (proto, port) in [(17, udp), (6, tcp)] {
                let asked =
                    Rule::new("output").daddr(true, IpAddr::from(EMBEDDED).into()).l4proto(proto).dport(53);
                let to = asked.load(Reg(4), key::ip(EMBEDDED.into())).load(Reg(5), key::port(port));
                rules.push(to.dnat(Family::V4, Reg(4), Some(Reg(5))));
            }
            b.replace_chain("output", rules);
            nft.apply(b)?;
            sockets.rules = Some(nft);
            Ok(sockets)
        })
    }
}
