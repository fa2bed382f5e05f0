//! Asking the upstream servers, as messages that are passed on as they are.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Message, Query};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{Name, Record, RecordType};

/// How long an upstream server may take before the next one is asked. A timer, because silence is its only sign.
const PATIENCE: Duration = Duration::from_secs(2);

/// The upstream servers.
pub struct Forwarder {
    /// The file that lists them, if they are not fixed.
    file: Option<PathBuf>,
    /// Addresses that would lead back to ourselves.
    exclude: Vec<IpAddr>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    modified: Option<SystemTime>,
    servers: Vec<SocketAddr>,
}

impl Forwarder {
    /// The servers of /etc/resolv.conf, which is read again whenever it has changed, without those in `exclude`.
    pub fn system(exclude: Vec<IpAddr>) -> Self {
        Self { file: Some("/etc/resolv.conf".into()), exclude, known: Mutex::default() }
    }

    /// These servers.
    pub fn fixed(servers: Vec<SocketAddr>) -> Self {
        Self { file: None, exclude: Vec::new(), known: Mutex::new(Known { modified: None, servers }) }
    }

    /// The servers as they are now.
    pub fn servers(&self) -> Vec<SocketAddr> {
        let mut known = self.known.lock();
        if let Some(file) = &self.file {
            let modified = std::fs::metadata(file).and_then(|m| m.modified()).ok();
            if modified.is_none() || modified != known.modified {
                let text = std::fs::read_to_string(file).unwrap_or_default();
                known.servers = parse(&text).filter(|a| !self.exclude.contains(&a.ip())).collect();
                known.modified = modified;
            }
        }
        known.servers.clone()
    }

    /// The answer to `query`, a whole message, from the first server that gives one.
    pub async fn exchange(&self, query: &[u8], tcp: bool) -> io::Result<Vec<u8>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no upstream DNS server is configured");
        for server in self.servers() {
            let one =
                async { if tcp { over_tcp(server, query).await } else { over_udp(server, query).await } };
            match timeout(PATIENCE, one).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(e)) => last = e,
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{server} does not answer")),
            }
        }
        Err(last)
    }

    /// The records of a name.
    pub(super) async fn lookup(&self, name: &Name, kind: RecordType) -> io::Result<Vec<Record>> {
        let mut message = Message::query();
        message.add_query(Query::query(name.clone(), kind));
        message.metadata.recursion_desired = true;
        let invalid = |e: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, e.to_string());
        let query = message.to_vec().map_err(|e| invalid(&e))?;
        let mut answer = self.exchange(&query, false).await?;
        if answer.get(2).is_some_and(|b| b & 2 != 0) {
            answer = self.exchange(&query, true).await?;
        }
        Ok(Message::from_vec(&answer).map_err(|e| invalid(&e))?.answers)
    }
}

fn parse(text: &str) -> impl Iterator<Item = SocketAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver"))
            .then(|| words.next())
            .flatten()?
            .parse::<IpAddr>()
            .ok()
            .map(|ip| (ip, 53).into())
    })
}

/// A query under a number of our own, so that nobody can guess it, and what its answer must repeat.
fn disguise(query: &[u8]) -> io::Result<(Vec<u8>, [u8; 2])> {
    let original = *query.first_chunk::<2>().ok_or(io::ErrorKind::InvalidInput)?;
    let mut own = query.to_vec();
    base::rng::fill(&mut own[..2]);
    Ok((own, original))
}

/// Whether `answer` answers `query`: number, direction and question are the same.
fn answers(query: &[u8], answer: &[u8]) -> bool {
    let question = |m: &[u8]| {
        let mut at = 12;
        while let Some(len @ 1..=63) = m.get(at) {
            at += usize::from(*len) + 1;
        }
        m.get(12..at + 5).map(<[u8]>::to_ascii_lowercase)
    };
    answer.len() >= 12
        && query[..2] == answer[..2]
        && answer[2] & 0x80 != 0
        && question(query).is_some_and(|q| question(answer).as_ref() == Some(&q))
}

async fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let (own, original) = disguise(query)?;
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    // A socket for each query: its random port is as hard to guess as the number.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(&own).await?;
    let mut buf = vec![0; 65535];
    loop {
        let n = socket.recv(&mut buf).await?;
        if answers(&own, &buf[..n]) {
            buf.truncate(n);
            buf[..2].copy_from_slice(&original);
            return Ok(buf);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let (own, original) = disguise(query)?;
    let mut stream = TcpStream::connect(server).await?;
    let mut framed = (own.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&own);
    stream.write_all(&framed).await?;
    let len = stream.read_u16().await?;
    let mut answer = vec![0; len.into()];
    stream.read_exact(&mut answer).await?;
    if !answers(&own, &answer) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{server} answered another question"),
        ));
    }
    answer[..2].copy_from_slice(&original);
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf() {
        let text = "# x\nsearch a b\nnameserver 10.0.0.1\n nameserver\t10.0.0.2 # two\nnameserver nonsense\nnameserver ::1\n";
        let got: Vec<_> = parse(text).map(|a| a.to_string()).collect();
        assert_eq!(got, ["10.0.0.1:53", "10.0.0.2:53", "[::1]:53"]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("resolv.conf");
        let f = Forwarder {
            file: Some(file.clone()),
            exclude: vec![[10, 96, 0, 10].into()],
            known: Mutex::default(),
        };
        assert!(f.servers().is_empty());
        std::fs::write(&file, "nameserver 10.96.0.10\nnameserver 1.1.1.1\n").unwrap();
        assert_eq!(f.servers(), [SocketAddr::from(([1, 1, 1, 1], 53))]);
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
        let mut answer = query.to_vec();
        assert!(!answers(query, &answer), "a question is no answer");
        answer[2] |= 0x80;
        assert!(answers(query, &answer));
        answer[13] = b'A';
        assert!(answers(query, &answer), "case does not matter");
        answer[13] = b'b';
        assert!(!answers(query, &answer));
        assert!(!answers(query, b"\x12\x34\x80"));
        assert!(!answers(&query[..12], &query[..12]));
    }
}
