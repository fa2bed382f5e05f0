//! Writes output into the log: Docker's json-file format, with rotation.
//!
//! One JSON object per line: `{"log":"text\n","stream":"stdout","time":"2026-01-02T03:04:05.678Z"}`. A line of more
//! than 16 KiB is written in pieces, of which only the last has the newline. Output without a final newline is written
//! as it is when the stream ends.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::{LogSpec, Stream};

/// The longest piece of a line that is written as one entry.
const PIECE: usize = 16 * 1024;

/// The log of one container.
pub(super) struct Log {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: Option<u64>,
    max_files: u32,
    /// What of each stream's current line has not been written yet.
    rest: [Vec<u8>; 2],
    out: Vec<u8>,
    clock: Clock,
}

impl Log {
    pub(super) fn open(spec: &LogSpec) -> io::Result<Option<Self>> {
        match spec {
            LogSpec::None => Ok(None),
            LogSpec::JsonFile { path, max_size, max_files } => {
                let file = append(path)?;
                let size = file.metadata()?.len();
                Ok(Some(Self {
                    path: path.clone(),
                    file,
                    size,
                    max_size: *max_size,
                    max_files: (*max_files).max(1),
                    rest: [Vec::new(), Vec::new()],
                    out: Vec::new(),
                    clock: Clock::default(),
                }))
            }
        }
    }

    /// Takes what was read; complete lines are in the file when this returns.
    pub(super) fn write(&mut self, stream: Stream, mut data: &[u8]) -> io::Result<()> {
        self.clock.set(base::clock::now());
        while !data.is_empty() {
            let rest = &mut self.rest[stream as usize];
            let room = PIECE - rest.len();
            let window = &data[..room.min(data.len())];
            match window.iter().position(|b| *b == b'\n') {
                Some(at) => {
                    let (line, after) = data.split_at(at + 1);
                    data = after;
                    if rest.is_empty() {
                        entry(&mut self.out, line, stream, &self.clock);
                    } else {
                        rest.extend_from_slice(line);
                        entry(&mut self.out, rest, stream, &self.clock);
                        rest.clear();
                    }
                }
                None if window.len() == room => {
                    rest.extend_from_slice(window);
                    data = &data[room..];
                    entry(&mut self.out, rest, stream, &self.clock);
                    rest.clear();
                }
                None => {
                    rest.extend_from_slice(window);
                    data = &[];
                }
            }
            if self.out.len() >= 4 * PIECE {
                self.flush()?;
            }
        }
        self.flush()
    }

    /// Writes what is left of the last lines.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        self.clock.set(base::clock::now());
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.rest[stream as usize]);
            if !rest.is_empty() {
                entry(&mut self.out, &rest, stream, &self.clock);
            }
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let mut from = 0;
        while from < self.out.len() {
            let mut to = self.out.len();
            if let Some(max) = self.max_size {
                if self.size >= max {
                    self.rotate()?;
                }
                // As many entries as fit; at least one, or a limit below an entry's size would stop everything.
                let room = usize::try_from(max - self.size.min(max)).unwrap_or(usize::MAX);
                if to - from > room {
                    let fits = self.out[from..from + room].iter().rposition(|b| *b == b'\n');
                    let first = || self.out[from..].iter().position(|b| *b == b'\n');
                    to = match (fits, self.size) {
                        (Some(at), _) => from + at + 1,
                        (None, 0) => first().map_or(to, |at| from + at + 1),
                        (None, _) => {
                            self.rotate()?;
                            continue;
                        }
                    };
                }
            }
            self.file.write_all(&self.out[from..to])?;
            self.size += (to - from) as u64;
            from = to;
        }
        self.out.clear();
        self.out.shrink_to(4 * PIECE);
        Ok(())
    }

    /// `log` becomes `log.1`, `log.1` becomes `log.2`, … and the last one goes.
    fn rotate(&mut self) -> io::Result<()> {
        let numbered = |n: u32| {
            let mut name = self.path.clone().into_os_string();
            name.push(format!(".{n}"));
            PathBuf::from(name)
        };
        if self.max_files == 1 {
            self.file.set_len(0)?;
            self.size = 0;
            return Ok(());
        }
        for n in (1..self.max_files - 1).rev() {
            ignore_missing(fs::rename(numbered(n), numbered(n + 1)))?;
        }
        ignore_missing(fs::rename(&self.path, numbered(1)))?;
        self.file = append(&self.path)?;
        self.size = 0;
        Ok(())
    }
}

fn ignore_missing(r: io::Result<()>) -> io::Result<()> {
    match r {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// Appends one entry.
fn entry(out: &mut Vec<u8>, line: &[u8], stream: Stream, clock: &Clock) {
    out.extend_from_slice(b"{\"log\":\"");
    escape(out, line);
    out.extend_from_slice(b"\",\"stream\":\"");
    out.extend_from_slice(stream.name().as_bytes());
    out.extend_from_slice(b"\",\"time\":\"");
    clock.write(out);
    out.extend_from_slice(b"\"}\n");
}

/// JSON string content, escaped as Go's encoder does; bytes that are no UTF-8 become U+FFFD.
fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for chunk in text.utf8_chunks() {
        let bytes = chunk.valid().as_bytes();
        let mut from = 0;
        for (i, b) in bytes.iter().enumerate() {
            let short: &[u8] = match b {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\n' => b"\\n",
                b'\r' => b"\\r",
                0..0x20 | b'<' | b'>' | b'&' => b"",
                _ => continue,
            };
            out.extend_from_slice(&bytes[from..i]);
            from = i + 1;
            if short.is_empty() {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.extend_from_slice(&[HEX[usize::from(b >> 4)], HEX[usize::from(b & 15)]]);
            } else {
                out.extend_from_slice(short);
            }
        }
        out.extend_from_slice(&bytes[from..]);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// The time of the current entries; the part up to the seconds is formatted once a second.
#[derive(Default)]
struct Clock {
    second: i64,
    prefix: String,
    nanos: i32,
}

impl Clock {
    fn set(&mut self, now: Timestamp) {
        self.nanos = now.subsec_nanosecond();
        if self.second != now.as_second() || self.prefix.is_empty() {
            self.second = now.as_second();
            self.prefix = now.strftime("%Y-%m-%dT%H:%M:%S").to_string();
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.prefix.as_bytes());
        if self.nanos != 0 {
            let digits = format!(".{:09}", self.nanos);
            out.extend_from_slice(digits.trim_end_matches('0').as_bytes());
        }
        out.push(b'Z');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &Path, max_size: Option<u64>, max_files: u32) -> LogSpec {
        LogSpec::JsonFile { path: path.into(), max_size, max_files }
    }

    fn lines(path: &Path) -> Vec<String> {
        fs::read_to_string(path)
            .unwrap()
            .lines()
            .map(|l| {
                serde_json::from_str::<serde_json::Value>(l).unwrap()["log"].as_str().unwrap().to_string()
            })
            .collect()
    }

    #[test]
    fn splits_lines_and_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&spec(&path, None, 1)).unwrap().unwrap();
        log.write(Stream::Stdout, b"one\ntw").unwrap();
        log.write(Stream::Stderr, b"err\n").unwrap();
        log.write(Stream::Stdout, b"o\n\"<\xff\t\n").unwrap();
        let long = vec![b'x'; PIECE + 5];
        log.write(Stream::Stdout, &long).unwrap();
        log.write(Stream::Stdout, b"end\nrest").unwrap();
        log.finish().unwrap();
        let got = lines(&path);
        assert_eq!(got[..4], ["one\n", "err\n", "two\n", "\"<\u{fffd}\t\n"]);
        assert_eq!(got[4], "x".repeat(PIECE));
        assert_eq!(got[5..], ["xxxxxend\n", "rest"]);
    }

    #[test]
    fn a_full_piece_then_newline_is_its_own_entry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&spec(&path, None, 1)).unwrap().unwrap();
        let mut line = vec![b'x'; PIECE];
        line.push(b'\n');
        log.write(Stream::Stdout, &line).unwrap();
        assert_eq!(lines(&path), [&"x".repeat(PIECE), "\n"]);
    }

    #[test]
    fn rotates() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&spec(&path, Some(1000), 3)).unwrap().unwrap();
        for i in 0..200 {
            log.write(Stream::Stdout, format!("line {i}\n").as_bytes()).unwrap();
        }
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        assert_eq!(lines(&path).last().unwrap(), "line 199\n");
        for name in names {
            assert!(fs::metadata(dir.path().join(name)).unwrap().len() <= 1000);
        }
        let mut all = lines(&dir.path().join("log.1"));
        all.extend(lines(&path));
        let first: usize = all[0].trim()[5..].parse().unwrap();
        let want: Vec<String> = (first..200).map(|i| format!("line {i}\n")).collect();
        assert_eq!(all, want);
    }

    #[test]
    fn times_drop_trailing_zeros() {
        let mut clock = Clock::default();
        let mut text = |t: &str| {
            clock.set(t.parse().unwrap());
            let mut out = Vec::new();
            clock.write(&mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text("2026-01-02T03:04:05.120Z"), "2026-01-02T03:04:05.12Z");
        assert_eq!(text("2026-01-02T03:04:06Z"), "2026-01-02T03:04:06Z");
    }
}
