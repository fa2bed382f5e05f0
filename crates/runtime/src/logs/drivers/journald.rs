//! `journald`: datagrams of the journal's native protocol.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use async_trait::async_trait;
use tokio::net::UnixDatagram;

use super::{Driver, Entry, Kind, Sender};
use crate::{RemoteLog, Stream};

pub(super) const DRIVER: Driver = Driver {
    name: "journald",
    options: &[],
    check: |_| Ok(()),
    kind: Kind::Sent {
        connect: |log| {
            Box::pin(async move { Ok(Box::new(Journal::open(SOCKET.as_ref(), log)?) as Box<dyn Sender>) })
        },
        buffer: |_| None,
    },
};

const SOCKET: &str = "/run/systemd/journal/socket";

struct Journal {
    socket: UnixDatagram,
    /// The fields that every message has, encoded.
    fields: Vec<u8>,
    count: u64,
}

impl Journal {
    fn open(path: &Path, log: RemoteLog) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path).map_err(|_| io::Error::other("journald is not enabled on this host"))?;
        let c = &log.container;
        let mut all: BTreeMap<String, String> = [
            ("CONTAINER_ID", c.id.chars().take(12).collect()),
            ("CONTAINER_ID_FULL", c.id.clone()),
            ("CONTAINER_NAME", c.name.clone()),
            ("CONTAINER_TAG", log.tag.clone()),
            ("IMAGE_NAME", c.image_name.clone()),
            ("SYSLOG_IDENTIFIER", log.tag.clone()),
            ("CONTAINER_LOG_EPOCH", base::rng::hex(32)),
        ]
        .map(|(k, v)| (k.to_owned(), v))
        .into();
        all.extend(log.attributes.iter().map(|(k, v)| (field_name(k), v.clone())));
        let mut fields = Vec::new();
        for (name, value) in all {
            field(&mut fields, &name, value.as_bytes());
        }
        Ok(Self { socket, fields, count: 0 })
    }
}

/// Upper-case letters, digits and underscores, no underscore first.
fn field_name(name: &str) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    name.chars().map(legal).skip_while(|c| *c == '_').collect()
}

/// `NAME=value`, or, for a value of more than one line, its length before it.
fn field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    if value.contains(&b'\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value);
    out.push(b'\n');
}

#[async_trait]
impl Sender for Journal {
    async fn send(&mut self, entry: Entry) -> io::Result<()> {
        self.count += 1;
        let mut message = Vec::with_capacity(self.fields.len() + entry.line.len() + 256);
        field(&mut message, "MESSAGE", &entry.line);
        let priority: &[u8] = if entry.stream == Stream::Stderr { b"3" } else { b"6" };
        field(&mut message, "PRIORITY", priority);
        field(&mut message, "SYSLOG_TIMESTAMP", base::clock::rfc3339_nano(entry.time).as_bytes());
        field(&mut message, "CONTAINER_LOG_ORDINAL", self.count.to_string().as_bytes());
        if let Some(piece) = &entry.piece {
            field(&mut message, "CONTAINER_PARTIAL_ID", piece.id.as_bytes());
            field(&mut message, "CONTAINER_PARTIAL_ORDINAL", piece.ordinal.to_string().as_bytes());
            field(&mut message, "CONTAINER_PARTIAL_LAST", piece.last.to_string().as_bytes());
            if !piece.last {
                field(&mut message, "CONTAINER_PARTIAL_MESSAGE", b"true");
            }
        }
        message.extend_from_slice(&self.fields);
        self.socket.send(&message).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::entry::Piece;
    use super::*;

    #[tokio::test]
    async fn fields_as_the_journal_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let journal = UnixDatagram::bind(&path).unwrap();
        let container = crate::LoggedContainer {
            id: "0123456789abcdef".into(),
            name: "web".into(),
            ..Default::default()
        };
        let log = RemoteLog {
            driver: "journald".into(),
            options: Default::default(),
            tag: "t".into(),
            attributes: [("_my.label".to_owned(), "two\nlines".to_owned())].into(),
            container,
            cache: None,
            buffer: None,
        };
        let mut sender = Journal::open(&path, log.clone()).unwrap();
        let entry = Entry {
            stream: Stream::Stderr,
            time: "2026-01-02T03:04:05.678Z".parse().unwrap(),
            line: "hello".into(),
            piece: Some(Piece { id: "p".into(), ordinal: 2, last: false }),
            attributes: Default::default(),
        };
        sender.send(entry).await.unwrap();
        let mut buffer = vec![0; 65536];
        let n = journal.recv(&mut buffer).await.unwrap();
        let got = String::from_utf8_lossy(&buffer[..n]).into_owned();
        for want in [
            "MESSAGE=hello\nPRIORITY=3\nSYSLOG_TIMESTAMP=2026-01-02T03:04:05.678Z\nCONTAINER_LOG_ORDINAL=1\n",
            "CONTAINER_PARTIAL_ORDINAL=2\nCONTAINER_PARTIAL_LAST=false\nCONTAINER_PARTIAL_MESSAGE=true\n",
            "CONTAINER_ID=0123456789ab\nCONTAINER_ID_FULL=0123456789abcdef\n",
            "CONTAINER_NAME=web\n",
            "SYSLOG_IDENTIFIER=t\n",
            "MY_LABEL\n\t\0\0\0\0\0\0\0two\nlines\n",
        ] {
            assert!(got.contains(want), "{want:?} in {got:?}");
        }
        let gone = Journal::open(&dir.path().join("none"), log).err().unwrap();
        assert_eq!(gone.to_string(), "journald is not enabled on this host");
    }
}
