//! `syslog`: to the machine's own or another's, by datagrams or a stream, in the forms of RFC 3164 and RFC 5424.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::io::AsyncWriteExt;
use tokio::net::{UdpSocket, UnixDatagram};

use super::net::{self, Duplex, TlsFiles};
use super::values::Url;
use super::{Driver, Entry, Kind, Options, Sender};
use crate::{RemoteLog, Stream};

pub(super) const DRIVER: Driver = Driver {
    name: "syslog",
    options: &[
        "syslog-address",
        "syslog-facility",
        "syslog-format",
        "syslog-tls-ca-cert",
        "syslog-tls-cert",
        "syslog-tls-key",
        "syslog-tls-skip-verify",
    ],
    check: |options| {
        target(options)?;
        facility(options)?;
        Form::of(options).map(drop)
    },
    kind: Kind::Sent {
        connect: |log| {
            Box::pin(async {
                let syslog = Syslog::connect(log).await?;
                Ok(Box::new(syslog) as Box<dyn Sender>)
            })
        },
        buffer: |_| None,
    },
};

const FACILITIES: &[&str] = &[
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "",
    "", "", "", "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
];
const DAEMON: u8 = 3;
const PORT: u16 = 514;
/// Where the machine's own may listen.
const LOCAL: &[&str] = &["/dev/log", "/var/run/syslog", "/var/run/log"];
const ERROR: u8 = 3;
const INFORMATION: u8 = 6;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Local,
    Unix(String),
    Unixgram(String),
    Udp(String, u16),
    Tcp(String, u16),
    Tls(String, u16),
}

fn target(options: &Options) -> Result<Target, String> {
    let Some(text) = options.get("syslog-address").filter(|a| !a.is_empty()) else {
        return Ok(Target::Local);
    };
    let url = Url::parse(text);
    let host_port = || match url.host_port() {
        Some((host, port)) => Ok((host.to_owned(), port)),
        None if url.host.contains(':') && !url.host.starts_with('[') => {
            Err(format!("address {}: invalid port", url.host))
        }
        None => Ok((url.host.trim_matches(['[', ']']).to_owned(), PORT)),
    };
    match url.scheme.as_str() {
        "unix" | "unixgram" => {
            if let Err(e) = std::fs::metadata(&url.path) {
                return Err(format!("stat {}: {}", url.path, crate::protocol::plain(&e)));
            }
            Ok(if url.scheme == "unix" { Target::Unix(url.path) } else { Target::Unixgram(url.path) })
        }
        "udp" => host_port().map(|(h, p)| Target::Udp(h, p)),
        "tcp" => host_port().map(|(h, p)| Target::Tcp(h, p)),
        "tcp+tls" => host_port().map(|(h, p)| Target::Tls(h, p)),
        other => Err(format!("unsupported scheme: '{other}'")),
    }
}

fn facility(options: &Options) -> Result<u8, String> {
    let Some(text) = options.get("syslog-facility").filter(|f| !f.is_empty()) else { return Ok(DAEMON) };
    if let Some(n) = FACILITIES.iter().position(|name| name == text) {
        return Ok(n as u8);
    }
    text.parse().ok().filter(|n| *n <= 23).ok_or_else(|| "invalid syslog facility".into())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Local,
    Rfc3164,
    Rfc5424,
    Rfc5424Micro,
}

impl Form {
    fn of(options: &Options) -> Result<Form, String> {
        match options.get("syslog-format").map_or("", String::as_str) {
            "" => Ok(Form::Local),
            "rfc3164" => Ok(Form::Rfc3164),
            "rfc5424" => Ok(Form::Rfc5424),
            "rfc5424micro" => Ok(Form::Rfc5424Micro),
            _ => Err("Invalid syslog format".into()),
        }
    }

    fn is_5424(self) -> bool {
        matches!(self, Form::Rfc5424 | Form::Rfc5424Micro)
    }
}

enum Connection {
    Stream(Box<dyn Duplex>),
    Udp(UdpSocket),
    Gram(UnixDatagram),
}

struct Syslog {
    target: Target,
    tls: Option<Arc<rustls::ClientConfig>>,
    facility: u8,
    form: Form,
    tag: String,
    hostname: String,
    zone: TimeZone,
    connection: Option<Connection>,
}

impl Syslog {
    async fn connect(log: RemoteLog) -> io::Result<Self> {
        let options = &log.options;
        let target = target(options).map_err(io::Error::other)?;
        let file = |key: &str| options.get(key).map(String::as_str).filter(|f| !f.is_empty());
        let tls = match target {
            Target::Tls(..) => Some(net::tls_config(&TlsFiles {
                ca: file("syslog-tls-ca-cert"),
                identity: file("syslog-tls-cert").zip(file("syslog-tls-key")),
                skip_verify: options.contains_key("syslog-tls-skip-verify"),
            })?),
            _ => None,
        };
        let mut made = Self {
            target,
            tls,
            facility: facility(options).map_err(io::Error::other)?,
            form: Form::of(options).map_err(io::Error::other)?,
            tag: log.tag,
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            zone: TimeZone::system(),
            connection: None,
        };
        made.connection = Some(made.dial().await?);
        Ok(made)
    }

    async fn dial(&self) -> io::Result<Connection> {
        let gram = |path: &str| -> io::Result<Connection> {
            let socket = UnixDatagram::unbound()?;
            socket.connect(path).map_err(|e| {
                io::Error::other(format!("dial unixgram {path}: {}", crate::protocol::plain(&e)))
            })?;
            Ok(Connection::Gram(socket))
        };
        Ok(match &self.target {
            Target::Local => {
                for path in LOCAL {
                    if let Ok(connection) = gram(path) {
                        return Ok(connection);
                    }
                    if let Ok(stream) = net::unix(path).await {
                        return Ok(Connection::Stream(Box::new(stream)));
                    }
                }
                return Err(io::Error::other("Unix syslog delivery error"));
            }
            Target::Unixgram(path) => gram(path)?,
            Target::Unix(path) => Connection::Stream(Box::new(net::unix(path).await?)),
            Target::Udp(host, port) => Connection::Udp(net::udp(host, *port).await?),
            Target::Tcp(host, port) => Connection::Stream(Box::new(net::tcp(host, *port).await?)),
            Target::Tls(host, port) => {
                let config = self.tls.clone().ok_or(io::ErrorKind::InvalidInput)?;
                Connection::Stream(net::tls(host, *port, config).await?)
            }
        })
    }

    /// A message as it goes over the wire.
    fn message(&self, entry: &Entry) -> Vec<u8> {
        let severity = if entry.stream == Stream::Stderr { ERROR } else { INFORMATION };
        let priority = u32::from(self.facility) * 8 + u32::from(severity);
        let (tag, host, pid) = (&self.tag, &self.hostname, std::process::id());
        let when = |form: &str| entry.time.to_zoned(self.zone.clone()).strftime(form).to_string();
        let head = match self.form {
            Form::Local => format!("<{priority}>{} {tag}[{pid}]: ", when("%b %e %H:%M:%S")),
            Form::Rfc3164 => format!("<{priority}>{} {host} {tag}[{pid}]: ", when("%b %e %H:%M:%S")),
            Form::Rfc5424 | Form::Rfc5424Micro => {
                let form =
                    if self.form == Form::Rfc5424 { "%Y-%m-%dT%H:%M:%S" } else { "%Y-%m-%dT%H:%M:%S.%6f" };
                let zone = offset(entry.time, &self.zone);
                format!("<{priority}>1 {}{zone} {host} {tag} {pid} {tag} - ", when(form))
            }
        };
        let mut message = head.into_bytes();
        message.extend_from_slice(&entry.line);
        if !entry.line.ends_with(b"\n") {
            message.push(b'\n');
        }
        if self.form.is_5424() && matches!(self.target, Target::Tls(..)) {
            // RFC 5425: each message is preceded by its length.
            let mut framed = format!("{} ", message.len()).into_bytes();
            framed.append(&mut message);
            return framed;
        }
        message
    }

    async fn write(&mut self, message: &[u8]) -> io::Result<()> {
        match &mut self.connection {
            Some(Connection::Stream(stream)) => {
                stream.write_all(message).await?;
                stream.flush().await
            }
            Some(Connection::Udp(socket)) => socket.send(message).await.map(drop),
            Some(Connection::Gram(socket)) => socket.send(message).await.map(drop),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// `Z` or `+02:00`.
fn offset(time: Timestamp, zone: &TimeZone) -> String {
    match zone.to_offset(time).seconds() {
        0 => "Z".into(),
        _ => time.to_zoned(zone.clone()).strftime("%:z").to_string(),
    }
}

#[async_trait]
impl Sender for Syslog {
    async fn send(&mut self, entry: Entry) -> io::Result<()> {
        if entry.line.is_empty() {
            return Ok(());
        }
        let message = self.message(&entry);
        if self.connection.is_some() && self.write(&message).await.is_ok() {
            return Ok(());
        }
        self.connection = None;
        self.connection = Some(self.dial().await?);
        self.write(&message).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syslog(form: Form, target: Target) -> Syslog {
        Syslog {
            target,
            tls: None,
            facility: DAEMON,
            form,
            tag: "web".into(),
            hostname: "host".into(),
            zone: TimeZone::UTC,
            connection: None,
        }
    }

    #[test]
    fn forms() {
        let entry = Entry {
            stream: Stream::Stderr,
            time: "2026-01-02T03:04:05.678Z".parse().unwrap(),
            line: "hello".into(),
            piece: None,
            attributes: Default::default(),
        };
        let pid = std::process::id();
        let text = |form, target| String::from_utf8(syslog(form, target).message(&entry)).unwrap();
        assert_eq!(text(Form::Local, Target::Local), format!("<27>Jan  2 03:04:05 web[{pid}]: hello\n"));
        assert_eq!(
            text(Form::Rfc3164, Target::Local),
            format!("<27>Jan  2 03:04:05 host web[{pid}]: hello\n")
        );
        let long = format!("<27>1 2026-01-02T03:04:05Z host web {pid} web - hello\n");
        assert_eq!(text(Form::Rfc5424, Target::Local), long);
        let tls = Target::Tls("h".into(), 1);
        assert_eq!(text(Form::Rfc5424, tls), format!("{} {long}", long.len()));
        assert!(text(Form::Rfc5424Micro, Target::Local).contains("03:04:05.678000Z"));
    }
}
