//! Asking the upstream servers, as messages that are passed on as they are.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::upstreams::Upstreams;
use super::{Name, Record, RecordType};
use crate::netns::in_netns;

/// How long an upstream server may take before the next one is asked. A timer, because silence is its only sign.
const PATIENCE: Duration = Duration::from_secs(2);

/// From which network namespace a server is asked; `None` is this process's own.
type Place = dyn Fn(SocketAddr) -> Option<PathBuf> + Send + Sync;

/// Asks the upstream servers.
pub struct Forwarder {
    upstreams: Upstreams,
    place: Option<Box<Place>>,
}

impl Forwarder {
    /// Asks these servers.
    pub fn new(upstreams: Upstreams) -> Self {
        Self { upstreams, place: None }
    }

    /// Asks the servers of /etc/resolv.conf without those in `exclude`.
    pub fn system(exclude: Vec<IpAddr>) -> Self {
        Self::new(Upstreams::system(exclude))
    }

    /// Asks these servers.
    pub fn fixed(servers: Vec<SocketAddr>) -> Self {
        Self::new(Upstreams::fixed(servers))
    }

    /// Asks each server from the network namespace that `place` says.
    pub fn from_place(
        mut self,
        place: impl Fn(SocketAddr) -> Option<PathBuf> + Send + Sync + 'static,
    ) -> Self {
        self.place = Some(Box::new(place));
        self
    }

    /// The servers as they are now.
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.upstreams.servers()
    }

    /// The answer to `query`, a whole message, from the first server that gives one. A server that fails or refuses is
    /// asked no further; its words are the answer only if no other server has any.
    pub async fn exchange(&self, query: &[u8], tcp: bool) -> io::Result<Vec<u8>> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "no upstream DNS server is configured");
        let mut refusal = None;
        for server in self.servers() {
            let place = self.place.as_ref().and_then(|place| place(server));
            let place = place.as_deref();
            let one = async {
                if tcp { over_tcp(server, query, place).await } else { over_udp(server, query, place).await }
            };
            match timeout(PATIENCE, one).await {
                Ok(Ok(answer)) if fails(&answer) => refusal = Some(answer),
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(e)) => last = e,
                Err(_) => last = io::Error::new(io::ErrorKind::TimedOut, format!("{server} does not answer")),
            }
        }
        refusal.ok_or(last)
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

/// Whether a server says that it cannot or will not answer.
fn fails(answer: &[u8]) -> bool {
    let code = answer.get(3).map_or(0, |b| u16::from(b & 0xf));
    [ResponseCode::ServFail, ResponseCode::Refused].iter().any(|c| u16::from(*c) == code)
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

async fn over_udp(server: SocketAddr, query: &[u8], place: Option<&Path>) -> io::Result<Vec<u8>> {
    let (own, original) = disguise(query)?;
    let any: SocketAddr = if server.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    // A socket for each query: its random port is as hard to guess as the number.
    let socket = match place {
        None => UdpSocket::bind(any).await?,
        Some(place) => {
            let socket = elsewhere(place, move || {
                let socket = std::net::UdpSocket::bind(any)?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            });
            UdpSocket::from_std(socket.await?)?
        }
    };
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

/// A socket of another network namespace.
async fn elsewhere<T: Send + 'static>(
    place: &Path,
    make: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let place = place.to_owned();
    let made = tokio::task::spawn_blocking(move || in_netns(&place, || Ok(make())));
    made.await.map_err(io::Error::other)?.map_err(io::Error::other)?
}

async fn over_tcp(server: SocketAddr, query: &[u8], place: Option<&Path>) -> io::Result<Vec<u8>> {
    let (own, original) = disguise(query)?;
    let mut stream = match place {
        None => TcpStream::connect(server).await?,
        Some(place) => {
            let stream = elsewhere(place, move || {
                let stream = std::net::TcpStream::connect_timeout(&server, PATIENCE)?;
                stream.set_nonblocking(true)?;
                Ok(stream)
            });
            TcpStream::from_std(stream.await?)?
        }
    };
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

/// Whatever a server may answer, and whatever was asked: both are looked at as they are.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_out(bytes: &[u8]) {
    let (query, answer) = bytes.split_at(bytes.len() / 2);
    let _ = fails(answer);
    if let Ok((own, original)) = disguise(query) {
        assert_eq!((own.len(), &own[2..]), (query.len(), &query[2..]));
        assert_eq!(original, query[..2]);
        let mut mirrored = own.clone();
        if let Some(flags) = mirrored.get_mut(2) {
            *flags |= 0x80;
        }
        for answer in [answer, &mirrored] {
            let _ = answers(&own, answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_server_that_fails_is_passed_over() {
        let answering = |code: u8| async move {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            tokio::spawn(async move {
                let mut buf = [0; 512];
                loop {
                    let (n, from) = socket.recv_from(&mut buf).await.unwrap();
                    buf[2] |= 0x80;
                    buf[3] = code;
                    socket.send_to(&buf[..n], from).await.unwrap();
                }
            });
            address
        };
        let (bad, good) = (answering(2).await, answering(0).await);
        let query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01";
        let answer = Forwarder::fixed(vec![bad, good]).exchange(query, false).await.unwrap();
        assert_eq!(answer[3], 0);
        let answer = Forwarder::fixed(vec![bad]).exchange(query, false).await.unwrap();
        assert_eq!(answer[3], 2, "its own words where nobody knows better");
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
