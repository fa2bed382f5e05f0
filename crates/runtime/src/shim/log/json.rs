//! One entry in Docker's json-file form: `{"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.678Z"}` and a
//! newline.
//!
//! A container that writes hundreds of megabytes a second shares its processors with this code: what is the same for
//! all entries of one read is encoded once, and text is looked through in blocks.

use jiff::Timestamp;

use crate::Stream;

/// Encodes entries.
pub(super) struct Json {
    /// What is added to every entry: a JSON object, or nothing.
    attributes: Vec<u8>,
    /// What follows the text of an entry of this stream and time.
    end: Vec<u8>,
    end_of: Option<(Stream, Timestamp)>,
}

impl Json {
    pub(super) fn new(attributes: Vec<u8>) -> Self {
        Self { attributes, end: Vec::new(), end_of: None }
    }

    /// Appends one entry.
    pub(super) fn encode(&mut self, out: &mut Vec<u8>, text: &[u8], stream: Stream, time: Timestamp) {
        if self.end_of != Some((stream, time)) {
            self.make_end(stream, time);
        }
        out.reserve(text.len() + self.end.len() + 16);
        out.extend_from_slice(b"{\"log\":\"");
        escape(out, text);
        out.extend_from_slice(&self.end);
    }

    fn make_end(&mut self, stream: Stream, time: Timestamp) {
        self.end.clear();
        self.end.extend_from_slice(b"\",\"stream\":\"");
        self.end.extend_from_slice(stream.name().as_bytes());
        self.end.extend_from_slice(b"\",");
        if !self.attributes.is_empty() {
            self.end.extend_from_slice(b"\"attrs\":");
            self.end.extend_from_slice(&self.attributes);
            self.end.push(b',');
        }
        self.end.extend_from_slice(b"\"time\":\"");
        self.end.extend_from_slice(time.strftime("%Y-%m-%dT%H:%M:%S").to_string().as_bytes());
        let nanos = time.subsec_nanosecond();
        if nanos != 0 {
            let digits = format!(".{nanos:09}");
            self.end.extend_from_slice(digits.trim_end_matches('0').as_bytes());
        }
        self.end.extend_from_slice(b"Z\"}\n");
        self.end_of = Some((stream, time));
    }
}

/// Whether a byte does not stand for itself in a JSON string as Go's encoder writes it. Without branches, so that the
/// compiler looks at many at once.
const fn special(b: u8) -> bool {
    (b < 0x20) | (b == b'"') | (b == b'\\') | (b == b'<') | (b == b'>') | (b == b'&')
}

/// How many bytes stand for themselves before the first that does not.
fn plain(text: &[u8]) -> usize {
    /// What is quoted often has something special in every few bytes: those are looked at one by one.
    const FEW: usize = 16;
    const BLOCK: usize = 32;
    let first = &text[..FEW.min(text.len())];
    if let Some(at) = first.iter().position(|b| special(*b)) {
        return at;
    }
    let rest = &text[first.len()..];
    let is_plain = |block: &&[u8]| !block.iter().fold(false, |any, b| any | special(*b));
    let blocks = BLOCK * rest.chunks_exact(BLOCK).take_while(is_plain).count();
    let rest = &rest[blocks..];
    first.len() + blocks + rest.iter().position(|b| special(*b)).unwrap_or(rest.len())
}

/// JSON string content, escaped as Go's encoder does; bytes that are no UTF-8 become U+FFFD.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    if let Ok(text) = str::from_utf8(text) {
        return escape_valid(out, text);
    }
    for chunk in text.utf8_chunks() {
        escape_valid(out, chunk.valid());
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

fn escape_valid(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = text.as_bytes();
    loop {
        let (same, rest) = text.split_at(plain(text));
        out.extend_from_slice(same);
        let Some((b, rest)) = rest.split_first() else { return };
        match b {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            _ => {
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
            }
        }
        text = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(attributes: &[u8], text: &[u8], stream: Stream, time: &str) -> String {
        let mut out = Vec::new();
        Json::new(attributes.to_vec()).encode(&mut out, text, stream, time.parse().unwrap());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn times_drop_trailing_zeros() {
        let time = |t: &str| {
            let line = encoded(b"", b"", Stream::Stdout, t);
            line.split('"').nth(11).unwrap().to_owned()
        };
        assert_eq!(time("2026-01-02T03:04:05.120Z"), "2026-01-02T03:04:05.12Z");
        assert_eq!(time("2026-01-02T03:04:05.000000001Z"), "2026-01-02T03:04:05.000000001Z");
        assert_eq!(time("2026-01-02T03:04:06Z"), "2026-01-02T03:04:06Z");
    }

    #[test]
    fn attributes_stand_where_docker_has_them() {
        let want = r#"{"log":"a\n","stream":"stderr","attrs":{"tag":"x"},"time":"2026-01-02T03:04:06Z"}"#;
        let got = encoded(br#"{"tag":"x"}"#, b"a\n", Stream::Stderr, "2026-01-02T03:04:06Z");
        assert_eq!(got.trim_end(), want);
    }

    #[test]
    fn stream_and_time_are_each_entry_s_own() {
        let mut json = Json::new(Vec::new());
        let mut out = Vec::new();
        let [a, b]: [Timestamp; 2] =
            ["2026-01-02T03:04:06Z", "2026-01-02T03:04:06.5Z"].map(|t| t.parse().unwrap());
        for (stream, time) in
            [(Stream::Stdout, a), (Stream::Stdout, a), (Stream::Stderr, a), (Stream::Stdout, b)]
        {
            json.encode(&mut out, b"", stream, time);
        }
        let text = String::from_utf8(out).unwrap();
        let kinds: Vec<(bool, bool)> =
            text.lines().map(|l| (l.contains("\"stderr\""), l.contains(":06.5Z\""))).collect();
        assert_eq!(kinds, [(false, false), (false, false), (true, false), (false, true)]);
    }

    /// What is looked through in blocks is the same as what is looked at byte by byte, wherever the odd one stands.
    #[test]
    fn every_byte_at_every_place() {
        for length in [1, 31, 32, 33, 64, 70] {
            for at in 0..length {
                for byte in 0..=255u8 {
                    let mut text = vec![b'x'; length];
                    text[at] = byte;
                    let mut out = Vec::new();
                    escape(&mut out, &text);
                    let quoted = format!("\"{}\"", String::from_utf8(out).unwrap());
                    let back: String = serde_json::from_str(&quoted).unwrap();
                    assert_eq!(back, String::from_utf8_lossy(&text), "{byte:#x} at {at} of {length}");
                }
            }
        }
        for text in ["π < \u{1f600} & \"\\\t", "\u{7f}\u{80}", "é"] {
            for cut in 0..text.len() {
                let mut out = Vec::new();
                escape(&mut out, &text.as_bytes()[cut..]);
                let back: String =
                    serde_json::from_str(&format!("\"{}\"", String::from_utf8(out).unwrap())).unwrap();
                assert_eq!(back, String::from_utf8_lossy(&text.as_bytes()[cut..]), "{text:?} from {cut}");
            }
        }
    }
}
