//! Connections to published ports that the kernel cannot translate, passed on by this process: those from and to `::1`,
//! which no packet may leave the loopback link with, and those over IPv6 to a container that has IPv4 only.
//!
//! One task for each such port, woken by a connection; nothing runs for the ports that the rules serve alone. Other
//! connections survive this process, these do not.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::ReadBuf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How many connections or peers one port may have.
const CROWD: usize = 1024;
/// How long a peer's datagrams keep their way back. A timer, because silence is the only sign that a peer is gone.
const QUIET: Duration = Duration::from_secs(90);

/// A socket that a task uses and that can be closed from outside of it: whoever takes a port back may give it away at
/// once, and cannot wait until the task has noticed.
type Shared<T> = Arc<Mutex<Option<T>>>;

/// Relays until it is dropped; its socket is closed by then.
pub(crate) struct Relay {
    task: JoinHandle<()>,
    socket: Socket,
}

enum Socket {
    Tcp(Shared<TcpListener>),
    Udp(Shared<UdpSocket>),
}

impl Drop for Relay {
    fn drop(&mut self) {
        match &self.socket {
            Socket::Tcp(socket) => drop(socket.lock().take()),
            Socket::Udp(socket) => drop(socket.lock().take()),
        }
        self.task.abort();
    }
}

impl Relay {
    /// Passes on what comes to a listening socket. Needs a tokio runtime.
    pub fn tcp(listener: std::net::TcpListener, target: SocketAddr) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let listener = Arc::new(Mutex::new(Some(TcpListener::from_std(listener)?)));
        let task = tokio::spawn(accept(listener.clone(), target));
        Ok(Self { task, socket: Socket::Tcp(listener) })
    }

    /// Passes on what comes to a bound socket, and the answers back.
    pub fn udp(socket: std::net::UdpSocket, target: SocketAddr) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let socket = Arc::new(Mutex::new(Some(UdpSocket::from_std(socket)?)));
        let task = tokio::spawn(datagrams(socket.clone(), target));
        Ok(Self { task, socket: Socket::Udp(socket) })
    }
}

/// Waits for a shared socket; `None` once it is closed.
async fn on<T, R>(
    socket: &Shared<T>,
    mut ready: impl FnMut(&T, &mut Context<'_>) -> Poll<io::Result<R>>,
) -> Option<io::Result<R>> {
    std::future::poll_fn(|cx| match socket.lock().as_ref() {
        Some(socket) => ready(socket, cx).map(Some),
        None => Poll::Ready(None),
    })
    .await
}

async fn accept(listener: Shared<TcpListener>, target: SocketAddr) {
    let crowd = Arc::new(Semaphore::new(CROWD));
    // Ends with the relay: a connection must not outlive the port it came by.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(place) = crowd.clone().acquire_owned().await else { return };
        tokio::select! {
            accepted = on(&listener, |l, cx| l.poll_accept(cx)) => {
                let mut client = match accepted {
                    Some(Ok((client, _))) => client,
                    Some(Err(e)) => {
                        sockets::accept_failed("published port", &e).await;
                        continue;
                    }
                    None => return,
                };
                connections.spawn(async move {
                    let _place = place;
                    if let Ok(mut server) = TcpStream::connect(target).await {
                        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn datagrams(socket: Shared<UdpSocket>, target: SocketAddr) {
    let peers: Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>> = Arc::default();
    let mut ways = tokio::task::JoinSet::new();
    let mut buf = vec![0; 65536];
    loop {
        let receive = |s: &UdpSocket, cx: &mut Context<'_>| {
            let mut room = ReadBuf::new(&mut buf);
            s.poll_recv_from(cx, &mut room).map_ok(|peer| (room.filled().len(), peer))
        };
        let (n, peer) = tokio::select! {
            received = on(&socket, receive) => match received {
                Some(Ok(received)) => received,
                Some(Err(e)) => {
                    sockets::accept_failed("published port", &e).await;
                    continue;
                }
                None => return,
            },
            Some(_) = ways.join_next() => continue,
        };
        let known = peers.lock().get(&peer).cloned();
        let way = match known {
            Some(way) => way,
            None if ways.len() >= CROWD => continue,
            None => {
                let Ok(way) = connect(target).await else { continue };
                let way = Arc::new(way);
                peers.lock().insert(peer, way.clone());
                let (back, socket, peers) = (way.clone(), socket.clone(), peers.clone());
                ways.spawn(async move {
                    let mut buf = vec![0; 65536];
                    while let Ok(Ok(n)) = timeout(QUIET, back.recv(&mut buf)).await {
                        // Lost where there is no room, as datagrams are.
                        let _ = socket.lock().as_ref().map(|s| s.try_send_to(&buf[..n], peer));
                    }
                    peers.lock().remove(&peer);
                });
                way
            }
        };
        let _ = way.send(&buf[..n]).await;
    }
}

async fn connect(target: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = if target.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(target).await?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn both_ways() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = server.accept().await.unwrap();
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            all.reverse();
            stream.write_all(&all).await.unwrap();
        });
        let door = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = door.local_addr().unwrap();
        let relay = Relay::tcp(door, target).unwrap();
        let mut client = TcpStream::connect(at).await.unwrap();
        client.write_all(b"abc").await.unwrap();
        client.shutdown().await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "cba", "a half-closed connection still brings the answer");
        drop(relay);
        std::net::TcpListener::bind(at).expect("the port is free at once");
    }

    #[tokio::test]
    async fn peers_are_told_apart() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let target = server.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buf = [0; 10];
            loop {
                let (n, from) = server.recv_from(&mut buf).await.unwrap();
                server.send_to(&buf[..n], from).await.unwrap();
            }
        });
        let door = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = door.local_addr().unwrap();
        let _relay = Relay::udp(door, target).unwrap();
        let (a, b) = (connect(at).await.unwrap(), connect(at).await.unwrap());
        a.send(b"a").await.unwrap();
        b.send(b"b").await.unwrap();
        let mut buf = [0; 10];
        assert_eq!(a.recv(&mut buf).await.unwrap(), 1);
        assert_eq!(&buf[..1], b"a");
        assert_eq!(b.recv(&mut buf).await.unwrap(), 1);
        assert_eq!(&buf[..1], b"b");
    }
}
