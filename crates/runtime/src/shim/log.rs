//! Splits output into entries and hands them to the log's file, to the sender of a driver that sends, or to both.
//!
//! A line of more than 16 KiB becomes pieces, of which only the last has the newline; they share an id and the time of
//! the first. Output without a final newline is logged as it is when the stream ends. Nothing here grows with what a
//! container writes: a file that cannot be written and a sender that does not take lose entries or make the container
//! wait, and say so.

mod file;
mod json;
mod pipe;

use std::io;
use std::os::fd::BorrowedFd;

use jiff::Timestamp;

use crate::logs::entry::{self, Piece};
use crate::{LogSpec, Stream};
use file::FileLog;
pub(super) use file::compress;
use pipe::Pipe;

/// The longest piece of a line that is written as one entry.
const PIECE: usize = 16 * 1024;

/// The log of one container.
pub(super) struct Log {
    file: Option<FileLog>,
    pipe: Option<Pipe>,
    lines: [Line; 2],
}

/// What of a stream's current line has not been written yet, and which piece of it comes next.
#[derive(Default)]
struct Line {
    rest: Vec<u8>,
    /// Set while pieces of the line have been written: the next one's number, and the first one's time.
    piece: Option<(Piece, Timestamp)>,
}

impl Log {
    /// Opens the log; with a driver that sends, its sender is ready (or tries on by itself) when this returns.
    pub(super) fn open(spec: &LogSpec) -> io::Result<Option<Self>> {
        let (file, pipe) = match spec {
            LogSpec::None => return Ok(None),
            LogSpec::JsonFile(file) => (Some(FileLog::open(file, file::Form::Json)?), None),
            LogSpec::Local(file) => (Some(FileLog::open(file, file::Form::Local)?), None),
            LogSpec::Remote(remote) => {
                let cache = remote.cache.as_ref();
                let cache = cache.map(|file| FileLog::open(file, file::Form::Local)).transpose()?;
                (cache, Some(Pipe::open(remote.buffer.is_none())?))
            }
        };
        Ok(Some(Self { file, pipe, lines: Default::default() }))
    }

    /// Whether so much waits for the sender that the container has to wait.
    pub(super) fn congested(&self) -> bool {
        self.pipe.as_ref().is_some_and(Pipe::congested)
    }

    /// At most so many bytes are to be read from the container at once, so that what waits for the sender stays small.
    pub(super) fn appetite(&self) -> usize {
        // Lines of one byte are forty times as long as entries.
        if self.pipe.as_ref().is_some_and(Pipe::blocking) { 16 * 1024 } else { usize::MAX }
    }

    /// What to watch for being writable, if something waits for the sender.
    pub(super) fn waits_for(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().and_then(Pipe::waits_for)
    }

    /// Gives the sender what waits for it.
    pub(super) fn flush_sender(&mut self) {
        if let Some(pipe) = &mut self.pipe {
            pipe.flush();
        }
    }

    /// The last words to the sender, for which there is a limited time.
    pub(super) fn close(&mut self) {
        if let Some(pipe) = &mut self.pipe {
            pipe.close();
        }
    }

    /// A child of the shim has ended that is none of the container's.
    pub(super) fn child_ended(&mut self, pid: i32, well: bool) {
        if let Some(file) = &mut self.file {
            file.child_ended(pid, well);
        }
    }

    /// Takes what was read; complete lines are in the file when this returns, if it can be written.
    pub(super) fn write(&mut self, stream: Stream, mut data: &[u8]) {
        let now = base::clock::now();
        while !data.is_empty() {
            let line = &mut self.lines[stream as usize];
            let room = PIECE - line.rest.len();
            let window = &data[..room.min(data.len())];
            match memchr::memchr(b'\n', window) {
                Some(at) => {
                    let (text, after) = data.split_at(at + 1);
                    data = after;
                    let mut whole = std::mem::take(&mut line.rest);
                    if whole.is_empty() {
                        self.entry(stream, now, text, true);
                    } else {
                        whole.extend_from_slice(text);
                        self.entry(stream, now, &whole, true);
                    }
                }
                None if window.len() == room => {
                    let mut whole = std::mem::take(&mut line.rest);
                    whole.extend_from_slice(window);
                    data = &data[room..];
                    self.entry(stream, now, &whole, false);
                }
                None => {
                    line.rest.extend_from_slice(window);
                    data = &[];
                }
            }
        }
        self.flush();
    }

    /// Writes what is left of the last lines.
    pub(super) fn finish(&mut self) {
        let now = base::clock::now();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let rest = std::mem::take(&mut self.lines[stream as usize].rest);
            if !rest.is_empty() {
                self.entry(stream, now, &rest, false);
            }
        }
        self.flush();
    }

    /// One entry: a line with its newline (`ends`), or a piece of one without.
    fn entry(&mut self, stream: Stream, now: Timestamp, text: &[u8], ends: bool) {
        let line = &mut self.lines[stream as usize];
        let (piece, time) = match (line.piece.take(), ends) {
            (None, true) => (None, now),
            (begun, _) => {
                let (mut piece, time) =
                    begun.unwrap_or_else(|| (Piece { id: base::rng::hex(32), ordinal: 1, last: false }, now));
                piece.last = ends;
                if !ends {
                    line.piece = Some((Piece { ordinal: piece.ordinal + 1, ..piece.clone() }, time));
                }
                (Some(piece), time)
            }
        };
        if let Some(file) = &mut self.file {
            file.entry(stream, time, text, piece.as_ref());
        }
        if let Some(pipe) = &mut self.pipe {
            let bare = text.strip_suffix(b"\n").unwrap_or(text);
            pipe.push(|out| entry::encode(out, bare, stream, time, piece.as_ref(), &[]));
        }
    }

    fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            file.flush();
        }
        self.flush_sender();
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::LogFile;

    fn spec(path: &Path, max_size: Option<u64>, max_files: u32) -> LogSpec {
        LogSpec::json_file(path.into(), max_size, max_files)
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
        log.write(Stream::Stdout, b"one\ntw");
        log.write(Stream::Stderr, b"err\n");
        log.write(Stream::Stdout, b"o\n\"<\xff\t\n");
        let long = vec![b'x'; PIECE + 5];
        log.write(Stream::Stdout, &long);
        log.write(Stream::Stdout, b"end\nrest");
        log.finish();
        let got = lines(&path);
        assert_eq!(got[..4], ["one\n", "err\n", "two\n", "\"<\u{fffd}\t\n"]);
        assert_eq!(got[4], "x".repeat(PIECE));
        assert_eq!(got[5..], ["xxxxxend\n", "rest"]);
    }

    #[test]
    fn the_compact_form_says_which_piece_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let attributes = [("tag".to_owned(), "t".to_owned())].into();
        let file = LogFile { path: path.clone(), max_size: None, max_files: 1, compress: false, attributes };
        let mut log = Log::open(&LogSpec::Local(file)).unwrap().unwrap();
        log.write(Stream::Stderr, &vec![b'x'; 2 * PIECE]);
        log.write(Stream::Stderr, b"y\nnext\n");
        let bytes = fs::read(&path).unwrap();
        let mut rest = &bytes[..];
        let mut got = Vec::new();
        while let entry::Record::Whole(n, Some(entry)) = entry::decode(rest) {
            got.push(entry);
            rest = &rest[n..];
        }
        let pieces: Vec<_> = got.iter().map(|e| e.piece.as_ref().map(|p| (p.ordinal, p.last))).collect();
        assert_eq!(pieces, [Some((1, false)), Some((2, false)), Some((3, true)), None]);
        assert_eq!(got[0].piece.as_ref().unwrap().id, got[2].piece.as_ref().unwrap().id);
        assert_eq!((got[0].time, &got[2].line[..], &got[3].line[..]), (got[2].time, &b"y"[..], &b"next"[..]));
        assert_eq!(got[3].attributes["tag"], "t");
    }

    #[test]
    fn a_full_piece_then_newline_is_its_own_entry() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&spec(&path, None, 1)).unwrap().unwrap();
        let mut line = vec![b'x'; PIECE];
        line.push(b'\n');
        log.write(Stream::Stdout, &line);
        assert_eq!(lines(&path), [&"x".repeat(PIECE), "\n"]);
    }

    #[test]
    fn rotates() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = Log::open(&spec(&path, Some(1000), 3)).unwrap().unwrap();
        for i in 0..200 {
            log.write(Stream::Stdout, format!("line {i}\n").as_bytes());
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

    /// A tmpfs of 256 KiB; unmounted when dropped.
    struct SmallDisk(tempfile::TempDir);

    impl SmallDisk {
        fn mount() -> Option<Self> {
            let dir = tempfile::tempdir().unwrap();
            let flags = nix::mount::MsFlags::empty();
            match nix::mount::mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, Some("size=256k")) {
                Ok(()) => Some(Self(dir)),
                Err(e) => {
                    println!("skipped: needs root to mount a tmpfs ({e})");
                    None
                }
            }
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let _ = nix::mount::umount(self.0.path());
        }
    }

    #[test]
    fn a_full_disk_costs_entries_and_no_memory() {
        let Some(disk) = SmallDisk::mount() else { return };
        for form in ["json", "local"] {
            let path = disk.0.path().join(form);
            let ballast = disk.0.path().join("ballast");
            fs::write(&ballast, vec![0; 160 * 1024]).unwrap();
            let file = LogFile {
                path: path.clone(),
                max_size: None,
                max_files: 1,
                compress: false,
                attributes: Default::default(),
            };
            let spec = if form == "json" { LogSpec::JsonFile(file) } else { LogSpec::Local(file) };
            let mut log = Log::open(&spec).unwrap().unwrap();
            let mut n = 0;
            let mut write = |log: &mut Log, lines: u32| {
                for _ in 0..lines {
                    log.write(Stream::Stdout, format!("line {n}\n").as_bytes());
                    n += 1;
                }
            };
            write(&mut log, 20_000);
            let waiting = log.file.as_ref().unwrap().waiting();
            assert!(waiting <= 5 * PIECE, "{waiting} bytes wait in memory");
            fs::remove_file(&ballast).unwrap();
            write(&mut log, 1);
            let bytes = fs::read(&path).unwrap();
            let mut numbers = Vec::new();
            let mut number =
                |line: &str| numbers.push(line.trim().strip_prefix("line ").unwrap().parse::<u32>().unwrap());
            if form == "json" {
                lines(&path).iter().for_each(|l| number(l));
            } else {
                let mut rest = &bytes[..];
                while let entry::Record::Whole(n, Some(entry)) = entry::decode(rest) {
                    number(std::str::from_utf8(&entry.line).unwrap());
                    rest = &rest[n..];
                }
                assert!(rest.is_empty(), "nothing torn is left");
            }
            // Nothing twice, nothing out of order, nothing lost before the disk was full.
            assert!(numbers.windows(2).all(|w| w[0] < w[1]), "{form}: {numbers:?}");
            assert!(numbers.len() > 300, "{form}: {}", numbers.len());
            assert_eq!(numbers[..300], (0..300).collect::<Vec<_>>()[..], "{form}");
            assert_eq!(*numbers.last().unwrap(), 20_000, "{form}: it goes on when there is room");
            drop(log);
            fs::remove_file(&path).unwrap();
        }
    }
}
