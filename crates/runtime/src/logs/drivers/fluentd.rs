//! `fluentd`: the forward protocol, one message at a time, over TCP, TLS or a Unix socket.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::net::{self, Duplex, TlsFiles};
use super::values::{Url, boolean, duration};
use super::{Driver, Entry, Kind, Options, Sender, binary_size};
use crate::RemoteLog;

pub(super) const DRIVER: Driver = Driver {
    name: "fluentd",
    options: &[
        "fluentd-address",
        "fluentd-async",
        "fluentd-async-reconnect-interval",
        "fluentd-buffer-limit",
        "fluentd-max-retries",
        "fluentd-request-ack",
        "fluentd-retry-wait",
        "fluentd-sub-second-precision",
        "fluentd-write-timeout",
        "fluentd-read-timeout",
    ],
    check: |options| Config::of(options).map(drop),
    kind: Kind::Sent {
        connect: |log| Box::pin(async { Ok(Box::new(Fluentd::open(log).await?) as Box<dyn Sender>) }),
        // Asynchronous is what non-blocking is elsewhere.
        buffer: |options| Config::of(options).ok().filter(|c| c.asynchronous).map(|c| c.buffer_limit),
    },
};

const HOST: &str = "127.0.0.1";
const PORT: u16 = 24224;
const BUFFER_LIMIT: u64 = 1 << 20;
/// The longest pause between two attempts, and by how much each is longer than the one before.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
const LONGER: f64 = 1.5;

#[derive(Debug, Clone)]
enum Target {
    Tcp(String, u16),
    Tls(String, u16),
    Unix(String),
}

#[derive(Debug, Clone)]
struct Config {
    target: Target,
    asynchronous: bool,
    reconnect: Option<Duration>,
    buffer_limit: u64,
    max_retries: u32,
    retry_wait: Duration,
    request_ack: bool,
    sub_second: bool,
    write_timeout: Option<Duration>,
    read_timeout: Option<Duration>,
}

impl Config {
    fn of(options: &Options) -> Result<Config, String> {
        let text = |key: &str| options.get(key).map(String::as_str).filter(|v| !v.is_empty());
        let flag = |key: &str| text(key).map(boolean).transpose().map(Option::unwrap_or_default);
        let address = text("fluentd-address").unwrap_or("");
        let target = target(address).map_err(|e| format!("invalid fluentd-address ({address}): {e}"))?;
        let time = |key: &str| {
            let parse =
                |v| duration(v).map_err(|_| format!("invalid value for {key}: value must be a duration"));
            text(key).map(parse).transpose().map(|d| d.filter(|d| !d.is_zero()))
        };
        let reconnect = time("fluentd-async-reconnect-interval")?;
        if reconnect.is_some_and(|r| r < Duration::from_millis(100) || r > Duration::from_secs(10)) {
            return Err(format!(
                "invalid value for fluentd-async-reconnect-interval: value ({:?}) must be between 100ms and 10s",
                text("fluentd-async-reconnect-interval").unwrap_or("")
            ));
        }
        let retries = |v: &str| match v.parse::<u32>() {
            Ok(n) if n <= i32::MAX as u32 => Ok(n),
            _ => Err("invalid fluentd-max-retries: value out of range".to_owned()),
        };
        Ok(Config {
            target,
            asynchronous: flag("fluentd-async")?,
            reconnect,
            buffer_limit: text("fluentd-buffer-limit").map(binary_size).transpose()?.unwrap_or(BUFFER_LIMIT),
            max_retries: text("fluentd-max-retries").map(retries).transpose()?.unwrap_or(i32::MAX as u32),
            retry_wait: text("fluentd-retry-wait")
                .map(duration)
                .transpose()?
                .unwrap_or(Duration::from_secs(1)),
            request_ack: flag("fluentd-request-ack")?,
            sub_second: flag("fluentd-sub-second-precision")?,
            write_timeout: time("fluentd-write-timeout")?,
            read_timeout: time("fluentd-read-timeout")?,
        })
    }
}

fn target(address: &str) -> Result<Target, String> {
    if address.is_empty() {
        return Ok(Target::Tcp(HOST.into(), PORT));
    }
    let mut url = Url::parse(address);
    if url.scheme.is_empty() {
        url.scheme = "tcp".into();
    }
    match url.scheme.as_str() {
        "unix" if url.path.trim_start_matches('/').is_empty() => return Err("path is empty".into()),
        "unix" => return Ok(Target::Unix(url.path)),
        "tcp" | "tls" => {}
        other => return Err(format!("unsupported scheme: '{other}'")),
    }
    if !url.path.is_empty() {
        return Err("should not contain a path element".into());
    }
    let (host, port) = match url.host_port() {
        Some((host, port)) => (host.to_owned(), port),
        None if url.host.starts_with('[') && url.host.ends_with(']') => {
            (url.host.trim_matches(['[', ']']).to_owned(), PORT)
        }
        None if url.host.contains(':') => return Err(format!("invalid port in {:?}", url.host)),
        None => (url.host.clone(), PORT),
    };
    let host = if host.is_empty() { HOST.to_owned() } else { host };
    Ok(if url.scheme == "tls" { Target::Tls(host, port) } else { Target::Tcp(host, port) })
}

struct Fluentd {
    config: Config,
    tls: Option<Arc<rustls::ClientConfig>>,
    log: RemoteLog,
    connection: Option<Box<dyn Duplex>>,
    connected: tokio::time::Instant,
}

impl Fluentd {
    async fn open(log: RemoteLog) -> io::Result<Self> {
        let config = Config::of(&log.options).map_err(io::Error::other)?;
        let tls = match config.target {
            Target::Tls(..) => Some(net::tls_config(&TlsFiles::default())?),
            _ => None,
        };
        let mut made = Self { config, tls, log, connection: None, connected: tokio::time::Instant::now() };
        if !made.config.asynchronous {
            made.connection = Some(made.dial().await?);
        }
        Ok(made)
    }

    async fn dial(&mut self) -> io::Result<Box<dyn Duplex>> {
        self.connected = tokio::time::Instant::now();
        Ok(match &self.config.target {
            Target::Tcp(host, port) => Box::new(net::tcp(host, *port).await?),
            Target::Unix(path) => Box::new(net::unix(path).await?),
            Target::Tls(host, port) => {
                let config = self.tls.clone().ok_or(io::ErrorKind::InvalidInput)?;
                net::tls(host, *port, config).await?
            }
        })
    }

    /// `[tag, time, {…}, {"chunk": …}]`, the last one if an answer is wanted.
    fn message(&self, entry: &Entry, chunk: Option<&str>) -> Vec<u8> {
        let mut out = Vec::with_capacity(entry.line.len() + 512);
        out.push(if chunk.is_some() { 0x94 } else { 0x93 });
        pack::text(&mut out, self.log.tag.as_bytes());
        if self.config.sub_second {
            pack::event_time(&mut out, entry.time.as_second(), entry.time.subsec_nanosecond());
        } else {
            pack::number(&mut out, entry.time.as_second());
        }
        let c = &self.log.container;
        let name = format!("/{}", c.name);
        let mut record: Vec<(&str, &[u8])> = vec![
            ("container_id", c.id.as_bytes()),
            ("container_name", name.as_bytes()),
            ("source", entry.stream.name().as_bytes()),
            ("log", &entry.line),
        ];
        record.extend(self.log.attributes.iter().map(|(k, v)| (k.as_str(), v.as_bytes())));
        let ordinal = entry.piece.as_ref().map(|p| p.ordinal.to_string()).unwrap_or_default();
        if let Some(piece) = &entry.piece {
            record.push(("partial_message", b"true"));
            record.push(("partial_id", piece.id.as_bytes()));
            record.push(("partial_ordinal", ordinal.as_bytes()));
            record.push(("partial_last", if piece.last { b"true" } else { b"false" }));
        }
        pack::map(&mut out, record.len());
        for (key, value) in record {
            pack::text(&mut out, key.as_bytes());
            pack::text(&mut out, value);
        }
        if let Some(chunk) = chunk {
            pack::map(&mut out, 1);
            pack::text(&mut out, b"chunk");
            pack::text(&mut out, chunk.as_bytes());
        }
        out
    }

    async fn attempt(&mut self, message: &[u8], chunk: Option<&str>) -> io::Result<()> {
        let due = self.config.reconnect.is_some_and(|every| self.connected.elapsed() >= every);
        if due || self.connection.is_none() {
            self.connection = None;
            self.connection = Some(self.dial().await?);
        }
        let Some(connection) = &mut self.connection else { return Err(io::ErrorKind::NotConnected.into()) };
        within(self.config.write_timeout, async {
            connection.write_all(message).await?;
            connection.flush().await
        })
        .await?;
        let Some(chunk) = chunk else { return Ok(()) };
        within(self.config.read_timeout, async {
            // `{"ack": chunk}`; nothing else is ever sent to us, so the chunk's name is all there is to look for.
            let mut answer = Vec::new();
            while !answer.windows(chunk.len()).any(|w| w == chunk.as_bytes()) {
                if answer.len() > 1024 || connection.read_buf(&mut answer).await? == 0 {
                    return Err(io::Error::other("fluentd did not confirm the message"));
                }
            }
            Ok(())
        })
        .await
    }
}

/// A limit that the user asked for.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.map_err(|_| io::ErrorKind::TimedOut)?,
        None => work.await,
    }
}

#[async_trait]
impl Sender for Fluentd {
    async fn send(&mut self, entry: Entry) -> io::Result<()> {
        let chunk = self.config.request_ack.then(|| {
            let mut id = [0; 16];
            base::rng::fill(&mut id);
            base64::engine::general_purpose::STANDARD.encode(id)
        });
        let message = self.message(&entry, chunk.as_deref());
        let mut wait = self.config.retry_wait;
        let mut tried = 0;
        loop {
            let Err(e) = self.attempt(&message, chunk.as_deref()).await else { return Ok(()) };
            self.connection = None;
            tried += 1;
            if tried >= self.config.max_retries {
                return Err(e);
            }
            // The pause that was asked for between two attempts.
            tokio::time::sleep(wait).await;
            wait = wait.mul_f64(LONGER).min(LONGEST_WAIT);
        }
    }
}

mod pack {
    //! The parts of MessagePack that the protocol needs.

    pub(super) fn text(out: &mut Vec<u8>, bytes: &[u8]) {
        match bytes.len() {
            n @ 0..=31 => out.push(0xa0 | n as u8),
            n @ 32..=255 => out.extend_from_slice(&[0xd9, n as u8]),
            n @ 256..=65535 => {
                out.push(0xda);
                out.extend_from_slice(&(n as u16).to_be_bytes());
            }
            n => {
                out.push(0xdb);
                out.extend_from_slice(&(n as u32).to_be_bytes());
            }
        }
        out.extend_from_slice(bytes);
    }

    pub(super) fn number(out: &mut Vec<u8>, n: i64) {
        out.push(0xd3);
        out.extend_from_slice(&n.to_be_bytes());
    }

    pub(super) fn map(out: &mut Vec<u8>, n: usize) {
        if n < 16 {
            out.push(0x80 | n as u8);
        } else {
            out.push(0xde);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
    }

    /// The protocol's extension type 0: seconds and nanoseconds.
    pub(super) fn event_time(out: &mut Vec<u8>, seconds: i64, nanoseconds: i32) {
        out.extend_from_slice(&[0xd7, 0x00]);
        out.extend_from_slice(&(seconds as u32).to_be_bytes());
        out.extend_from_slice(&nanoseconds.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stream;

    #[tokio::test]
    async fn messages_and_confirmations() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fluentd");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let options: Options = [
            ("fluentd-address".to_owned(), format!("unix://{}", path.display())),
            ("fluentd-request-ack".to_owned(), "true".to_owned()),
            ("fluentd-sub-second-precision".to_owned(), "true".to_owned()),
        ]
        .into();
        let container = crate::LoggedContainer { id: "c1".into(), name: "web".into(), ..Default::default() };
        let log = RemoteLog {
            driver: "fluentd".into(),
            options,
            tag: "t".into(),
            attributes: Default::default(),
            container,
            cache: None,
            buffer: None,
        };
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut got = vec![0; 4096];
            let n = stream.read(&mut got).await.unwrap();
            got.truncate(n);
            // The chunk's name is the last thing in the message, 24 characters of base64.
            let chunk = got[n - 24..].to_vec();
            let mut answer = vec![0x81, 0xa3];
            answer.extend_from_slice(b"ack");
            answer.push(0xa0 | 24);
            answer.extend_from_slice(&chunk);
            stream.write_all(&answer).await.unwrap();
            got
        };
        let client = async {
            let mut sender = Fluentd::open(log).await.unwrap();
            let entry = Entry {
                stream: Stream::Stdout,
                time: jiff::Timestamp::new(1, 500).unwrap(),
                line: "hello".into(),
                piece: None,
                attributes: Default::default(),
            };
            sender.send(entry).await.unwrap();
        };
        let (got, ()) = tokio::join!(server, client);
        let mut want = vec![0x94, 0xa1, b't', 0xd7, 0, 0, 0, 0, 1, 0, 0, 1, 0xf4, 0x84];
        for (k, v) in
            [("container_id", "c1"), ("container_name", "/web"), ("source", "stdout"), ("log", "hello")]
        {
            pack::text(&mut want, k.as_bytes());
            pack::text(&mut want, v.as_bytes());
        }
        assert_eq!(got[..want.len()], want);
    }
}
