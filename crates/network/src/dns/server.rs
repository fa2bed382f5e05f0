//! The loop over a server's sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{Answer, Answerer, Forwarder, Name, Question, RecordType, Sockets};
use crate::error::{Error, Result};

/// How long a TCP client may be silent (RFC 7766 section 6.2.3). A timer, because a client that is gone says nothing.
const IDLE: Duration = Duration::from_secs(10);
/// How many questions may wait for upstream servers, and how many TCP clients there may be.
const CROWD: usize = 512;
/// What we can take by UDP (DNS flag day 2020), and the most that we send.
const UDP_PAYLOAD: u16 = 1232;
/// How many aliases are followed.
const ALIASES: usize = 8;

/// Serves until `shutdown`. The sockets may belong to another network namespace; questions for others are forwarded
/// from this process's own.
pub async fn serve(
    sockets: Sockets,
    answerer: Arc<dyn Answerer>,
    forwarder: Arc<Forwarder>,
    shutdown: CancellationToken,
) -> Result<()> {
    let io = |e| Error::io("serve DNS", e);
    let Sockets { udp, tcp, rules } = sockets;
    let udp = Arc::new(UdpSocket::from_std(udp).map_err(io)?);
    let tcp = TcpListener::from_std(tcp).map_err(io)?;
    let server = Arc::new(Server { answerer, forwarder, waiting: Semaphore::new(CROWD) });
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = server.clone().serve_udp(udp) => {}
        () = server.serve_tcp(tcp, shutdown.clone()) => {}
    }
    if let Some(rules) = rules {
        // Closing a netfilter socket waits for the kernel; whoever ends the server need not.
        tokio::task::spawn_blocking(move || drop(rules));
    }
    Ok(())
}

struct Server {
    answerer: Arc<dyn Answerer>,
    forwarder: Arc<Forwarder>,
    waiting: Semaphore,
}

/// What becomes of a request.
#[allow(clippy::large_enum_variant)] // there is one for each question, and not for long
enum Outcome {
    Reply(Message),
    /// Passed on as it is.
    Forward,
    Follow(Message, Question, Name),
    /// Not even a DNS message, or an answer: answering it would invite loops.
    Ignore,
}

impl Server {
    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buf = vec![0; 4096];
        loop {
            // An error is that of an earlier answer (its client's port is closed); the next question may be fine.
            let (n, client) = match socket.recv_from(&mut buf).await {
                Ok(received) => received,
                Err(e) => {
                    sockets::accept_failed("DNS", &e).await;
                    continue;
                }
            };
            let request = &buf[..n];
            match self.begin(request, client) {
                Outcome::Reply(reply) => {
                    let _ = socket.try_send_to(&fit(&reply, request), client);
                }
                Outcome::Ignore => {}
                later => {
                    let (server, socket, request) = (self.clone(), socket.clone(), request.to_vec());
                    tokio::spawn(async move {
                        let reply = server.finish(later, &request, false).await;
                        let _ = socket.send_to(&reply, client).await;
                    });
                }
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener, shutdown: CancellationToken) {
        let crowd = Arc::new(Semaphore::new(CROWD));
        loop {
            let Ok(place) = crowd.clone().acquire_owned().await else { return };
            let (stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    sockets::accept_failed("DNS", &error).await;
                    continue;
                }
            };
            let (server, shutdown) = (self.clone(), shutdown.clone());
            tokio::spawn(async move {
                let _place = place;
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    _ = server.converse(stream, client) => {}
                }
            });
        }
    }

    async fn converse(&self, mut stream: TcpStream, client: SocketAddr) -> std::io::Result<()> {
        loop {
            let len = timeout(IDLE, stream.read_u16()).await??;
            let mut request = vec![0; len.into()];
            timeout(IDLE, stream.read_exact(&mut request)).await??;
            let reply = match self.begin(&request, client) {
                Outcome::Reply(reply) => reply.to_vec().unwrap_or_default(),
                Outcome::Ignore => return Ok(()),
                later => self.finish(later, &request, true).await,
            };
            let mut framed = (reply.len() as u16).to_be_bytes().to_vec();
            framed.extend_from_slice(&reply);
            timeout(IDLE, stream.write_all(&framed)).await??;
        }
    }

    fn begin(&self, request: &[u8], client: SocketAddr) -> Outcome {
        let Ok(message) = Message::from_vec(request) else {
            // Only a header that says it is a question deserves an answer.
            return match request {
                [a, b, flags, _, ..] if request.len() >= 12 && flags & 0x80 == 0 => {
                    let id = u16::from_be_bytes([*a, *b]);
                    Outcome::Reply(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr))
                }
                _ => Outcome::Ignore,
            };
        };
        if message.metadata.message_type != MessageType::Query {
            return Outcome::Ignore;
        }
        let mut reply = Message::response(message.metadata.id, message.metadata.op_code);
        reply.metadata.recursion_desired = message.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.add_queries(message.queries.iter().cloned());
        if message.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_PAYLOAD);
            reply.set_edns(edns);
        }
        if message.metadata.op_code != OpCode::Query {
            reply.metadata.response_code = ResponseCode::NotImp;
            return Outcome::Reply(reply);
        }
        let [query] = &message.queries[..] else {
            reply.metadata.response_code = ResponseCode::FormErr;
            return Outcome::Reply(reply);
        };
        let mut question = Question::new(query.name().clone(), query.query_type());
        question.client = Some(client);
        match self.answerer.answer(&question) {
            Answer::Forward => Outcome::Forward,
            Answer::Alias { record, target } => {
                reply.metadata.authoritative = true;
                reply.add_answer(record);
                if question.kind == RecordType::CNAME {
                    return Outcome::Reply(reply);
                }
                Outcome::Follow(reply, question, target)
            }
            other => {
                fill(&mut reply, other);
                Outcome::Reply(reply)
            }
        }
    }

    async fn finish(&self, later: Outcome, request: &[u8], tcp: bool) -> Vec<u8> {
        let Ok(_place) = self.waiting.try_acquire() else { return failure(request) };
        match later {
            Outcome::Forward => match self.forwarder.exchange(request, tcp).await {
                Ok(reply) => reply,
                Err(e) => {
                    tracing::debug!("a question could not be forwarded: {e}");
                    failure(request)
                }
            },
            Outcome::Follow(mut reply, mut question, mut target) => {
                for _ in 0..ALIASES {
                    question = Question { client: question.client, ..Question::new(target, question.kind) };
                    match self.answerer.answer(&question) {
                        Answer::Alias { record, target: next } => {
                            reply.add_answer(record);
                            target = next;
                            continue;
                        }
                        Answer::Forward => match self.forwarder.lookup(&question.name, question.kind).await {
                            Ok(records) => {
                                reply.add_answers(records);
                            }
                            // The alias itself is known; a client that can go on from there may.
                            Err(e) => tracing::debug!("{} could not be looked up: {e}", question.lower),
                        },
                        other => fill(&mut reply, other),
                    }
                    break;
                }
                if tcp { reply.to_vec().unwrap_or_default() } else { fit(&reply, request) }
            }
            Outcome::Reply(reply) => reply.to_vec().unwrap_or_default(),
            Outcome::Ignore => Vec::new(),
        }
    }
}

fn fill(reply: &mut Message, answer: Answer) {
    match answer {
        Answer::Records { answers, additionals } => {
            reply.metadata.authoritative = true;
            reply.add_answers(answers);
            reply.add_additionals(additionals);
        }
        Answer::Nothing { exists, soa } => {
            reply.metadata.authoritative = true;
            reply.metadata.response_code =
                if exists { ResponseCode::NoError } else { ResponseCode::NXDomain };
            reply.add_authority(*soa);
        }
        Answer::Failure | Answer::Forward | Answer::Alias { .. } => {
            reply.metadata.response_code = ResponseCode::ServFail;
        }
    }
}

/// The reply as the client can take it by UDP: without what is not asked for, or else marked as truncated.
fn fit(reply: &Message, request: &[u8]) -> Vec<u8> {
    let limit = Message::from_vec(request).ok().and_then(|m| m.edns.map(|e| e.max_payload())).unwrap_or(512);
    let limit = usize::from(limit.clamp(512, UDP_PAYLOAD));
    let bytes = reply.to_vec().unwrap_or_default();
    if bytes.len() <= limit {
        return bytes;
    }
    let mut slim = reply.clone();
    slim.additionals.clear();
    match slim.to_vec() {
        Ok(bytes) if bytes.len() <= limit => bytes,
        _ => reply.truncate().to_vec().unwrap_or_default(),
    }
}

fn failure(request: &[u8]) -> Vec<u8> {
    let Ok(message) = Message::from_vec(request) else { return Vec::new() };
    let mut reply = Message::error_msg(message.metadata.id, message.metadata.op_code, ResponseCode::ServFail);
    reply.metadata.recursion_desired = message.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.add_queries(message.queries);
    reply.to_vec().unwrap_or_default()
}

/// Answers a question by UDP and by TCP as a server that knows `a.example` alone.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_out(request: &[u8]) {
    use super::{RData, rdata};
    struct One;
    impl Answerer for One {
        fn answer(&self, q: &Question) -> Answer {
            let records =
                |n: u8| (0..n).map(|i| q.record(30, RData::A(rdata::A::new(10, 0, 0, i)))).collect();
            match q.lower.as_str() {
                "a.example" => Answer::Records { answers: records(1), additionals: records(2) },
                "many.example" => Answer::Records { answers: records(200), additionals: records(200) },
                "fail.example" => Answer::Failure,
                _ => Answer::Forward,
            }
        }
    }
    let server = Server {
        answerer: Arc::new(One),
        forwarder: Arc::new(Forwarder::fixed(Vec::new())),
        waiting: Semaphore::new(CROWD),
    };
    let client = SocketAddr::from(([127, 0, 0, 1], 53));
    if let Outcome::Reply(reply) = server.begin(request, client) {
        let bytes = fit(&reply, request);
        assert!(bytes.len() <= usize::from(UDP_PAYLOAD), "{} bytes", bytes.len());
        assert_eq!(bytes.get(..2), request.get(..2), "an answer has the question's number");
        let whole = reply.to_vec().unwrap_or_default();
        assert!(
            Message::from_vec(&whole).is_ok() && Message::from_vec(&bytes).is_ok(),
            "an answer is a message"
        );
    }
    let failed = failure(request);
    assert!(failed.is_empty() || Message::from_vec(&failed).is_ok());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::{RData, Record, rdata};
    use hickory_proto::op::Query;
    use std::io::{Read, Write};

    struct Table;
    impl Answerer for Table {
        fn answer(&self, q: &Question) -> Answer {
            let a = |last| q.record(5, RData::A(rdata::A::new(10, 0, 0, last)));
            let soa = rdata::SOA::new(Name::root(), Name::root(), 1, 2, 3, 4, 5);
            let soa = Box::new(Record::from_rdata(Name::from_ascii("test.").unwrap(), 5, RData::SOA(soa)));
            match q.lower.as_str() {
                "one.test" if q.kind == RecordType::A => {
                    Answer::Records { answers: vec![a(1)], additionals: vec![] }
                }
                "many.test" => Answer::Records { answers: (0..100).map(a).collect(), additionals: vec![] },
                "alias.test" => {
                    let target = Name::from_ascii("one.test.").unwrap();
                    let record = q.record(5, RData::CNAME(rdata::CNAME(target.clone())));
                    Answer::Alias { record, target }
                }
                "loop.test" => {
                    let target = q.name.clone();
                    Answer::Alias { record: q.record(5, RData::CNAME(rdata::CNAME(target.clone()))), target }
                }
                "away.test" => {
                    let target = Name::from_ascii("far.example.").unwrap();
                    let record = q.record(5, RData::CNAME(rdata::CNAME(target.clone())));
                    Answer::Alias { record, target }
                }
                name if name.ends_with("test") => Answer::Nothing { exists: name == "one.test", soa },
                "broken.local" => Answer::Failure,
                _ => Answer::Forward,
            }
        }
    }

    struct Upstream;
    impl Answerer for Upstream {
        fn answer(&self, q: &Question) -> Answer {
            let n = if q.lower == "big.example" { 100 } else { 1 };
            let a = |i| q.record(60, RData::A(rdata::A::new(192, 0, 2, i)));
            Answer::Records { answers: (0..n).map(a).collect(), additionals: vec![] }
        }
    }

    fn listen() -> (Sockets, SocketAddr) {
        // UDP's port may be taken for TCP: then the next one.
        loop {
            let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let at = udp.local_addr().unwrap();
            drop(udp);
            if let Ok(sockets) = Sockets::bind(at) {
                return (sockets, at);
            }
        }
    }

    async fn start() -> (SocketAddr, CancellationToken) {
        let (sockets, at) = listen();
        let (up, up_at) = listen();
        let stop = CancellationToken::new();
        let none = Arc::new(Forwarder::fixed(vec![]));
        tokio::spawn(serve(up, Arc::new(Upstream), none, stop.clone()));
        let silent: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let forwarder = Arc::new(Forwarder::fixed(vec![silent, up_at]));
        tokio::spawn(serve(sockets, Arc::new(Table), forwarder, stop.clone()));
        (at, stop)
    }

    fn query(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
        let mut m = Message::query();
        m.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        m.metadata.recursion_desired = true;
        if let Some(p) = payload {
            let mut e = Edns::new();
            e.set_max_payload(p);
            m.set_edns(e);
        }
        m.to_vec().unwrap()
    }

    async fn raw(at: SocketAddr, bytes: Vec<u8>) -> Option<Vec<u8>> {
        tokio::task::spawn_blocking(move || {
            let s = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            s.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
            s.send_to(&bytes, at).unwrap();
            let mut buf = vec![0; 65535];
            s.recv(&mut buf).ok().map(|n| buf[..n].to_vec())
        })
        .await
        .unwrap()
    }

    async fn ask(at: SocketAddr, name: &str, kind: RecordType) -> Message {
        let query = query(name, kind, None);
        let reply = Message::from_vec(&raw(at, query.clone()).await.unwrap()).unwrap();
        assert_eq!(query[..2], reply.metadata.id.to_be_bytes());
        reply
    }

    async fn ask_tcp(at: SocketAddr, queries: Vec<Vec<u8>>) -> Vec<Message> {
        tokio::task::spawn_blocking(move || {
            let mut s = std::net::TcpStream::connect(at).unwrap();
            let mut replies = Vec::new();
            for q in queries {
                s.write_all(&(q.len() as u16).to_be_bytes()).unwrap();
                s.write_all(&q).unwrap();
                let mut len = [0; 2];
                s.read_exact(&mut len).unwrap();
                let mut buf = vec![0; u16::from_be_bytes(len).into()];
                s.read_exact(&mut buf).unwrap();
                replies.push(Message::from_vec(&buf).unwrap());
            }
            replies
        })
        .await
        .unwrap()
    }

    #[tokio::test]
    async fn answers_and_refusals() {
        let (at, _stop) = start().await;
        let reply = ask(at, "OnE.test.", RecordType::A).await;
        assert_eq!(reply.answers.len(), 1);
        assert_eq!(reply.answers[0].name.to_ascii(), "OnE.test.", "the spelling of the question");
        assert!(reply.metadata.authoritative && reply.metadata.recursion_available);

        let reply = ask(at, "none.test.", RecordType::A).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(reply.authorities[0].record_type(), RecordType::SOA);
        let reply = ask(at, "one.test.", RecordType::AAAA).await;
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.answers.is_empty() && reply.authorities.len() == 1);
        assert_eq!(
            ask(at, "broken.local.", RecordType::A).await.metadata.response_code,
            ResponseCode::ServFail
        );

        let mut nonsense = query("one.test.", RecordType::A, None);
        nonsense.truncate(14);
        let reply = Message::from_vec(&raw(at, nonsense.clone()).await.unwrap()).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::FormErr);
        nonsense[2] |= 0x80;
        assert!(raw(at, nonsense).await.is_none(), "an answer is not answered");
        assert!(raw(at, b"x".to_vec()).await.is_none());
        let mut update = query("one.test.", RecordType::A, None);
        update[2] = (update[2] & 0x87) | (4 << 3); // opcode NOTIFY
        let reply = Message::from_vec(&raw(at, update).await.unwrap()).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::NotImp);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_truncated_and_comes_by_tcp() {
        let (at, _stop) = start().await;
        let reply = ask(at, "many.test.", RecordType::A).await;
        assert!(reply.metadata.truncation && reply.answers.is_empty());
        let queries =
            vec![query("many.test.", RecordType::A, None), query("big.example.", RecordType::A, None)];
        let replies = ask_tcp(at, queries).await;
        assert_eq!(replies[0].answers.len(), 100);
        assert_eq!(replies[1].answers.len(), 100, "forwarded over TCP too");
        let reply = raw(at, query("one.test.", RecordType::A, Some(4096))).await.unwrap();
        assert_eq!(Message::from_vec(&reply).unwrap().edns.unwrap().max_payload(), UDP_PAYLOAD);
    }

    #[tokio::test]
    async fn aliases_and_others() {
        let (at, _stop) = start().await;
        let kinds = |m: &Message| m.answers.iter().map(|r| r.record_type()).collect::<Vec<_>>();
        assert_eq!(kinds(&ask(at, "alias.test.", RecordType::A).await), [RecordType::CNAME, RecordType::A]);
        assert_eq!(kinds(&ask(at, "alias.test.", RecordType::CNAME).await), [RecordType::CNAME]);
        assert_eq!(kinds(&ask(at, "away.test.", RecordType::A).await), [RecordType::CNAME, RecordType::A]);
        assert_eq!(ask(at, "loop.test.", RecordType::A).await.answers.len(), 1 + ALIASES);
        let reply = ask(at, "far.example.", RecordType::A).await;
        assert_eq!(
            reply.answers[0].data,
            RData::A(rdata::A::new(192, 0, 2, 0)),
            "by the second upstream server"
        );
    }

    #[tokio::test]
    async fn without_upstream_servers() {
        let (sockets, at) = listen();
        let stop = CancellationToken::new();
        let none = Arc::new(Forwarder::fixed(vec![]));
        let served = tokio::spawn(serve(sockets, Arc::new(Table), none, stop.clone()));
        assert_eq!(
            ask(at, "far.example.", RecordType::A).await.metadata.response_code,
            ResponseCode::ServFail
        );
        stop.cancel();
        served.await.unwrap().unwrap();
    }
}
