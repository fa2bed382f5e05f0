//! Real network namespaces for tests: each is held by a thread of its own and vanishes with it, so nothing can be
//! left behind on the machine.
#![allow(dead_code, clippy::unwrap_used)] // every test file uses another part

use std::future::Future;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use base::Instance;
use network::link::{BridgeLink, Link, NetlinkLink};
use network::netns::in_netns;
use network::{AttachSpec, Attached, BridgeSpec, Network};
use nix::sched::{CloneFlags, unshare};

/// A network namespace.
pub struct Ns {
    pub path: PathBuf,
    _hold: Sender<()>,
}

fn own_path() -> PathBuf {
    format!("/proc/{}/task/{}/ns/net", std::process::id(), nix::unistd::gettid()).into()
}

impl Ns {
    pub fn new() -> Self {
        let (hold, held) = channel::<()>();
        let (tell, told) = channel();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            tell.send(own_path()).unwrap();
            let _ = held.recv();
        });
        Self { path: told.recv().unwrap(), _hold: hold }
    }

    /// Runs `f` inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        in_netns(&self.path, || Ok(f())).unwrap()
    }

    /// Serves TCP connections: each gets `name`, a space and the client's address.
    pub fn serve(&self, name: &str, port: u16) {
        let listener = self.run(|| TcpListener::bind(("0.0.0.0", port)).unwrap());
        let name = name.to_owned();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let peer = stream.peer_addr().unwrap().ip();
                let _ = write!(stream, "{name} {peer}");
            }
        });
    }

    /// The same over IPv6.
    pub fn serve6(&self, name: &str, port: u16) {
        let listener = self.run(|| TcpListener::bind(("::", port)).unwrap());
        let name = name.to_owned();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = write!(stream, "{name}");
            }
        });
    }

    /// Answers UDP datagrams in the same way.
    pub fn serve_udp(&self, name: &str, port: u16) {
        let socket = self.run(|| UdpSocket::bind(("0.0.0.0", port)).unwrap());
        let name = name.to_owned();
        std::thread::spawn(move || {
            let mut buf = [0; 100];
            while let Ok((_, from)) = socket.recv_from(&mut buf) {
                let _ = socket.send_to(format!("{name} {}", from.ip()).as_bytes(), from);
            }
        });
    }

    /// The names of its links.
    pub fn links(&self) -> Vec<String> {
        let list = self.run(|| std::fs::read_to_string("/proc/thread-self/net/dev").unwrap());
        let mut names: Vec<String> =
            list.lines().skip(2).filter_map(|l| l.split(':').next()).map(|n| n.trim().to_owned()).collect();
        names.sort();
        names
    }

    pub fn call(&self, to: &str) -> Result<String, std::io::ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| call(to))
    }

    pub fn call_udp(&self, to: &str) -> Result<String, std::io::ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        self.run(|| call_udp(to))
    }
}

fn call(to: SocketAddr) -> Result<String, std::io::ErrorKind> {
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(400)).map_err(|e| e.kind())?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| e.kind())?;
    Ok(answer)
}

fn call_udp(to: SocketAddr) -> Result<String, std::io::ErrorKind> {
    let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
    socket.connect(to).map_err(|e| e.kind())?;
    socket.send(b"?").map_err(|e| e.kind())?;
    let mut buf = [0; 100];
    let n = socket.recv(&mut buf).map_err(|e| e.kind())?;
    Ok(String::from_utf8_lossy(&buf[..n]).into_owned())
}

/// Runs `f` in a machine of its own: a fresh namespace as the host, with `lo` up. Says so and returns if this process
/// may not make namespaces.
pub fn machine<F: Future<Output = ()>>(f: impl FnOnce(Machine) -> F + Send + 'static) {
    let run = std::thread::spawn(|| {
        if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("skipped: network namespaces cannot be made here: {e}");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let link = Arc::new(NetlinkLink::open().unwrap());
            link.loopback_up(&own_path()).await.unwrap();
            f(Machine { path: own_path(), link }).await;
        });
    });
    if let Err(panic) = run.join() {
        std::panic::resume_unwind(panic);
    }
}

pub struct Machine {
    pub path: PathBuf,
    pub link: Arc<NetlinkLink>,
}

impl Machine {
    pub fn instance(&self, run_dir: &str) -> Instance {
        Instance::new(Path::new("/nowhere"), Path::new(run_dir), "node", IpAddr::from([192, 168, 50, 1]))
    }

    pub fn network(&self, run_dir: &str) -> Arc<Network> {
        let instance = self.instance(run_dir);
        let rules = network::nft::Nft::open(&instance.name()).unwrap();
        Network::open(&instance, self.link.clone(), Arc::new(rules)).unwrap()
    }

    /// From the machine itself.
    pub fn call(&self, to: &str) -> Result<String, std::io::ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        in_netns(&self.path, || Ok(call(to))).unwrap()
    }

    /// The same while this runtime's own tasks go on.
    pub async fn call_while(&self, to: &str) -> Result<String, std::io::ErrorKind> {
        let (to, path): (SocketAddr, _) = (to.parse().unwrap(), self.path.clone());
        tokio::task::spawn_blocking(move || in_netns(&path, || Ok(call(to))).unwrap()).await.unwrap()
    }

    pub fn call_udp(&self, to: &str) -> Result<String, std::io::ErrorKind> {
        let to: SocketAddr = to.parse().unwrap();
        in_netns(&self.path, || Ok(call_udp(to))).unwrap()
    }

    /// Gives the machine a link with the name that containers' interfaces have.
    pub async fn link_called_eth0(&self) {
        let link = BridgeLink {
            name: "eth0".into(),
            alias: "someone else's".into(),
            mac: [2, 0, 0, 0, 0, 2],
            mtu: None,
            addresses: Vec::new(),
        };
        self.link.ensure_bridge(&link).await.unwrap();
    }

    /// A neighbour outside, 192.168.50.2, whose default router is this machine, 192.168.50.1 on `wan0`.
    pub async fn outside(&self, network: &Network) -> Ns {
        let wan = BridgeLink {
            name: "wan0".into(),
            alias: "someone else's".into(),
            mac: [2, 0, 0, 0, 0, 1],
            mtu: None,
            addresses: vec!["192.168.50.1/24".parse().unwrap(), "fd50::1/64".parse().unwrap()],
        };
        self.link.ensure_bridge(&wan).await.unwrap();
        let ns = Ns::new();
        network
            .attach(&AttachSpec {
                netns: ns.path.clone(),
                bridge: "wan0".into(),
                ifname: "eth0".into(),
                addresses: vec!["192.168.50.2/24".parse().unwrap(), "fd50::2/64".parse().unwrap()],
                gateway: Some("192.168.50.1".parse().unwrap()),
                gateway6: Some("fd50::1".parse().unwrap()),
                ..AttachSpec::default()
            })
            .await
            .unwrap();
        ns
    }
}

pub fn bridge(name: &str, gateway: &str) -> BridgeSpec {
    BridgeSpec::new(name, gateway.parse().unwrap())
}

/// A container on a bridge.
pub async fn container(network: &Network, bridge: &str, address: &str, gateway: &str) -> (Ns, Attached) {
    let ns = Ns::new();
    let attached = network
        .attach(&AttachSpec {
            netns: ns.path.clone(),
            bridge: bridge.into(),
            ifname: "eth0".into(),
            addresses: vec![address.parse().unwrap()],
            gateway: (!gateway.is_empty()).then(|| gateway.parse().unwrap()),
            ..AttachSpec::default()
        })
        .await
        .unwrap();
    (ns, attached)
}
