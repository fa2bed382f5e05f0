//! `gelf`: Graylog's format, over UDP (compressed, in chunks) or TCP (each message ended by a zero byte).

use std::io::{self, Write};
use std::time::Duration;

use async_trait::async_trait;
use flate2::Compression;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket};

use super::values::Url;
use super::{Driver, Entry, Kind, Options, Sender, net};
use crate::{RemoteLog, Stream};

pub(super) const DRIVER: Driver = Driver {
    name: "gelf",
    options: &[
        "gelf-address",
        "gelf-compression-type",
        "gelf-compression-level",
        "gelf-tcp-max-reconnect",
        "gelf-tcp-reconnect-delay",
    ],
    check,
    kind: Kind::Sent {
        connect: |log| Box::pin(async { Ok(Box::new(Gelf::connect(log).await?) as Box<dyn Sender>) }),
        buffer: |_| None,
    },
};

/// The longest datagram, and what of one is a chunk's header.
const DATAGRAM: usize = 1420;
const HEADER: usize = 12;
const MAGIC: [u8; 2] = [0x1e, 0x0f];
const MAX_CHUNKS: usize = 128;
const RECONNECTS: u32 = 3;
const ERROR: u8 = 3;
const INFORMATION: u8 = 6;

fn address(options: &Options) -> Result<(Url, String, u16), String> {
    let Some(text) = options.get("gelf-address").filter(|a| !a.is_empty()) else {
        return Err("gelf-address is a required parameter".into());
    };
    let url = Url::parse(text);
    if url.scheme != "udp" && url.scheme != "tcp" {
        return Err("gelf: endpoint needs to be TCP or UDP".into());
    }
    let Some((host, port)) = url.host_port() else {
        return Err("gelf: please provide gelf-address as proto://host:port".into());
    };
    let host = host.to_owned();
    Ok((url, host, port))
}

fn check(options: &Options) -> Result<(), String> {
    let (url, ..) = address(options)?;
    for (key, value) in options {
        let unknown = || Err(format!("unknown value {value:?} for log opt {key:?} for gelf log driver"));
        match key.as_str() {
            "gelf-compression-level" | "gelf-compression-type" if url.scheme != "udp" => {
                return Err("compression is only supported on UDP".into());
            }
            "gelf-compression-level" if !value.parse().is_ok_and(|n: i32| (-1..=9).contains(&n)) => {
                return unknown();
            }
            "gelf-compression-type" if !["gzip", "zlib", "none"].contains(&value.as_str()) => {
                return unknown();
            }
            "gelf-tcp-max-reconnect" | "gelf-tcp-reconnect-delay" => {
                if url.scheme != "tcp" {
                    return Err(format!("{key:?} is only valid for TCP"));
                }
                if value.parse::<u32>().is_err() {
                    return Err(format!("{key:?} must be a positive integer"));
                }
            }
            _ => {}
        }
    }
    Ok(())
}

enum Connection {
    Udp(UdpSocket),
    Tcp(Option<TcpStream>),
}

#[derive(Clone, Copy)]
enum Pack {
    Gzip,
    Zlib,
    None,
}

struct Gelf {
    connection: Connection,
    host: String,
    port: u16,
    hostname: String,
    /// The fields that every message has.
    extra: Map<String, Value>,
    pack: Pack,
    level: Compression,
    reconnects: u32,
    delay: Duration,
}

impl Gelf {
    async fn connect(log: RemoteLog) -> io::Result<Self> {
        let options = &log.options;
        let (url, host, port) = address(options).map_err(io::Error::other)?;
        let said = |e: io::Error| {
            io::Error::other(format!("gelf: cannot connect to GELF endpoint: {}:{} {e}", host, port))
        };
        let connection = match url.scheme.as_str() {
            "udp" => Connection::Udp(net::udp(&host, port).await.map_err(said)?),
            _ => Connection::Tcp(Some(net::tcp(&host, port).await.map_err(said)?)),
        };
        let number = |key: &str| options.get(key).and_then(|v| v.parse::<u32>().ok());
        let c = &log.container;
        let mut extra = Map::new();
        for (key, value) in [
            ("_container_id", &c.id),
            ("_container_name", &c.name),
            ("_image_id", &c.image_id),
            ("_image_name", &c.image_name),
            ("_command", &c.command),
            ("_tag", &log.tag),
            ("_created", &c.created),
        ] {
            extra.insert(key.into(), json!(value));
        }
        for (key, value) in &log.attributes {
            let key = if key.starts_with('_') { key.clone() } else { format!("_{key}") };
            extra.insert(key, json!(value));
        }
        Ok(Self {
            connection,
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            extra,
            pack: match options.get("gelf-compression-type").map(String::as_str) {
                Some("none") => Pack::None,
                Some("zlib") => Pack::Zlib,
                _ => Pack::Gzip,
            },
            level: match number("gelf-compression-level") {
                Some(level) => Compression::new(level),
                None if options.contains_key("gelf-compression-level") => Compression::default(),
                None => Compression::fast(),
            },
            reconnects: number("gelf-tcp-max-reconnect").unwrap_or(RECONNECTS),
            delay: Duration::from_secs(u64::from(number("gelf-tcp-reconnect-delay").unwrap_or(1))),
            host,
            port,
        })
    }

    fn message(&self, entry: &Entry) -> Vec<u8> {
        let level = if entry.stream == Stream::Stderr { ERROR } else { INFORMATION };
        let mut message = json!({
            "version": "1.1", "host": self.hostname, "short_message": String::from_utf8_lossy(&entry.line),
            "timestamp": entry.time.as_millisecond() as f64 / 1000.0, "level": level,
        });
        if let Value::Object(fields) = &mut message {
            fields.extend(self.extra.clone());
        }
        message.to_string().into_bytes()
    }

    fn packed(&self, message: Vec<u8>) -> io::Result<Vec<u8>> {
        match self.pack {
            Pack::None => Ok(message),
            Pack::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), self.level);
                encoder.write_all(&message)?;
                encoder.finish()
            }
            Pack::Zlib => {
                let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), self.level);
                encoder.write_all(&message)?;
                encoder.finish()
            }
        }
    }
}

/// The datagrams of one message.
fn datagrams(message: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    if message.len() <= DATAGRAM {
        return Ok(vec![message.to_vec()]);
    }
    let count = message.len().div_ceil(DATAGRAM - HEADER);
    if count > MAX_CHUNKS {
        return Err(io::Error::other(format!(
            "gelf: the message needs {count} chunks, at most {MAX_CHUNKS} are allowed"
        )));
    }
    let mut id = [0; 8];
    base::rng::fill(&mut id);
    let chunks = message.chunks(DATAGRAM - HEADER).enumerate().map(|(n, data)| {
        let mut chunk = Vec::with_capacity(DATAGRAM);
        chunk.extend_from_slice(&MAGIC);
        chunk.extend_from_slice(&id);
        chunk.extend_from_slice(&[n as u8, count as u8]);
        chunk.extend_from_slice(data);
        chunk
    });
    Ok(chunks.collect())
}

#[async_trait]
impl Sender for Gelf {
    async fn send(&mut self, entry: Entry) -> io::Result<()> {
        if entry.line.is_empty() {
            return Ok(());
        }
        let mut message = self.message(&entry);
        if let Connection::Udp(socket) = &self.connection {
            for datagram in datagrams(&self.packed(message)?)? {
                socket.send(&datagram).await?;
            }
            return Ok(());
        }
        let Connection::Tcp(stream) = &mut self.connection else { return Ok(()) };
        message.push(0);
        let mut last = io::Error::from(io::ErrorKind::NotConnected);
        for attempt in 0..=self.reconnects {
            if stream.is_none() {
                if attempt > 0 {
                    // The pause that was asked for between two attempts.
                    tokio::time::sleep(self.delay).await;
                }
                match net::tcp(&self.host, self.port).await {
                    Ok(new) => *stream = Some(new),
                    Err(e) => {
                        last = e;
                        continue;
                    }
                }
            }
            if let Some(open) = stream {
                match open.write_all(&message).await {
                    Ok(()) => return Ok(()),
                    Err(e) => (*stream, last) = (None, e),
                }
            }
        }
        Err(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks() {
        assert_eq!(datagrams(&[7; DATAGRAM]).unwrap().len(), 1);
        let all = datagrams(&[7; DATAGRAM + 1]).unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((&all[0][..2], &all[0][10..12], &all[1][10..12]), (&MAGIC[..], &[0, 2][..], &[1, 2][..]));
        assert_eq!(all[0][2..10], all[1][2..10]);
        assert_eq!(all.iter().map(|c| c.len() - HEADER).sum::<usize>(), DATAGRAM + 1);
        assert!(datagrams(&vec![0; MAX_CHUNKS * DATAGRAM]).is_err());
    }
}
