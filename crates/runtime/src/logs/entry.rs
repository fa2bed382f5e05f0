//! One entry of a log in Docker's binary form: what the `local` driver writes, and what a shim hands to the sender of
//! a driver that sends.
//!
//! A record is its length (4 bytes, big endian), a protobuf message, and the length again, so that a file can be read
//! from its end too. The message: 1 source, 2 time in nanoseconds, 3 the line without its newline, 4 whether it is a
//! piece of a longer line, 5 which piece (1 last, 2 id, 3 ordinal), 6 attributes (1 key, 2 value).

use std::collections::BTreeMap;

use bytes::Bytes;
use jiff::Timestamp;

use crate::Stream;

/// Bytes before and after the message.
const LENGTH: usize = 4;
/// A longer message is none of ours: a line has at most 16 KiB, attributes are a few hundred bytes.
const LONGEST: usize = 4 << 20;

/// Which piece of a line that was longer than one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The same for all pieces of the line.
    pub id: String,
    /// Counted from 1.
    pub ordinal: u32,
    /// Whether the line ends with it.
    pub last: bool,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Which output.
    pub stream: Stream,
    /// When it was written.
    pub time: Timestamp,
    /// The line without its newline.
    pub line: Bytes,
    /// Set if it is a piece of a longer line.
    pub piece: Option<Piece>,
    /// What the log's options add to every entry.
    pub attributes: BTreeMap<String, String>,
}

/// Appends a record. `attributes` is what [`attributes`] made.
pub(crate) fn encode(
    out: &mut Vec<u8>,
    line: &[u8],
    stream: Stream,
    time: Timestamp,
    piece: Option<&Piece>,
    attributes: &[u8],
) {
    let begin = out.len();
    out.extend_from_slice(&[0; LENGTH]);
    bytes_field(out, 1, stream.name().as_bytes());
    number_field(out, 2, i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX) as u64);
    bytes_field(out, 3, line);
    if let Some(piece) = piece {
        number_field(out, 4, 1);
        let mut inner = Vec::with_capacity(80);
        if piece.last {
            number_field(&mut inner, 1, 1);
        }
        bytes_field(&mut inner, 2, piece.id.as_bytes());
        number_field(&mut inner, 3, u64::from(piece.ordinal));
        bytes_field(out, 5, &inner);
    }
    out.extend_from_slice(attributes);
    let length = (out.len() - begin - LENGTH) as u32;
    out[begin..begin + LENGTH].copy_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
}

/// The attributes of every entry, encoded once.
pub(crate) fn attributes(map: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Vec::new();
    for (key, value) in map {
        let mut inner = Vec::new();
        bytes_field(&mut inner, 1, key.as_bytes());
        bytes_field(&mut inner, 2, value.as_bytes());
        bytes_field(&mut out, 6, &inner);
    }
    out
}

/// What the beginning of some bytes is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A record of so many bytes.
    Whole(usize, Option<Entry>),
    /// The beginning of one.
    Torn,
    /// None of ours.
    Garbage,
}

/// Takes the record at the beginning of `bytes` apart; one whose message is not understood is `Whole` without an entry.
pub(crate) fn decode(bytes: &[u8]) -> Record {
    let Some(head) = bytes.first_chunk::<LENGTH>() else { return Record::Torn };
    let length = u32::from_be_bytes(*head) as usize;
    if length > LONGEST {
        return Record::Garbage;
    }
    let Some(rest) = bytes.get(LENGTH + length..2 * LENGTH + length) else { return Record::Torn };
    if rest != head {
        return Record::Garbage;
    }
    Record::Whole(2 * LENGTH + length, message(&bytes[LENGTH..LENGTH + length]))
}

/// The length of the record that ends at the end of `bytes`, from its last four bytes.
pub(crate) fn length_before(end: [u8; LENGTH]) -> Option<u64> {
    let length = u32::from_be_bytes(end) as usize;
    (length <= LONGEST).then_some((length + 2 * LENGTH) as u64)
}

fn message(bytes: &[u8]) -> Option<Entry> {
    let mut entry = Entry {
        stream: Stream::Stdout,
        time: Timestamp::UNIX_EPOCH,
        line: Bytes::new(),
        piece: None,
        attributes: BTreeMap::new(),
    };
    let mut fields = Fields(bytes);
    while let Some((number, value)) = fields.next()? {
        match (number, value) {
            (1, Value::Bytes(b"stderr")) => entry.stream = Stream::Stderr,
            (2, Value::Number(n)) => entry.time = Timestamp::from_nanosecond(i128::from(n as i64)).ok()?,
            (3, Value::Bytes(line)) => entry.line = Bytes::copy_from_slice(line),
            (5, Value::Bytes(inner)) => {
                let mut piece = Piece { id: String::new(), ordinal: 0, last: false };
                let mut fields = Fields(inner);
                while let Some((number, value)) = fields.next()? {
                    match (number, value) {
                        (1, Value::Number(n)) => piece.last = n != 0,
                        (2, Value::Bytes(id)) => piece.id = String::from_utf8_lossy(id).into_owned(),
                        (3, Value::Number(n)) => piece.ordinal = u32::try_from(n).ok()?,
                        _ => {}
                    }
                }
                entry.piece = Some(piece);
            }
            (6, Value::Bytes(inner)) => {
                let (mut key, mut text) = (String::new(), String::new());
                let mut fields = Fields(inner);
                while let Some((number, value)) = fields.next()? {
                    if let Value::Bytes(b) = value {
                        let slot = if number == 1 { &mut key } else { &mut text };
                        *slot = String::from_utf8_lossy(b).into_owned();
                    }
                }
                entry.attributes.insert(key, text);
            }
            _ => {}
        }
    }
    Some(entry)
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// The next field; `Some(None)` at the end, `None` if the bytes are no message.
    fn next(&mut self) -> Option<Option<(u64, Value<'a>)>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                let (value, rest) = self.0.split_at_checked(length)?;
                self.0 = rest;
                Value::Bytes(value)
            }
            _ => return None,
        };
        Some(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn number_field(out: &mut Vec<u8>, number: u64, value: u64) {
    varint(out, number << 3);
    varint(out, value);
}

fn bytes_field(out: &mut Vec<u8>, number: u64, value: &[u8]) {
    varint(out, number << 3 | 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back() {
        let map = BTreeMap::from([("tag".to_owned(), "web".to_owned()), ("b".to_owned(), String::new())]);
        let piece = Piece { id: "abc".into(), ordinal: 300, last: true };
        let time: Timestamp = "2026-01-02T03:04:05.678901234Z".parse().unwrap();
        let mut out = Vec::new();
        encode(&mut out, b"\xff line", Stream::Stderr, time, Some(&piece), &attributes(&map));
        let first = out.len();
        encode(&mut out, b"", Stream::Stdout, time, None, &[]);
        let Record::Whole(length, Some(entry)) = decode(&out) else { panic!("{:?}", decode(&out)) };
        assert_eq!(length, first);
        assert_eq!(
            entry,
            Entry {
                stream: Stream::Stderr,
                time,
                line: (&b"\xff line"[..]).into(),
                piece: Some(piece),
                attributes: map
            }
        );
        assert!(matches!(decode(&out[first..]), Record::Whole(n, Some(_)) if n == out.len() - first));
        for cut in 0..first {
            assert_eq!(decode(&out[..cut]), Record::Torn, "{cut}");
        }
        assert_eq!(decode(b"\xff\xff\xff\xff1234"), Record::Garbage);
        let end = *out[..first].last_chunk::<4>().unwrap();
        assert_eq!(length_before(end), Some(first as u64));
    }
}
