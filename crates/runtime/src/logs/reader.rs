//! The blocking half: batches of lines from the files of one log, over rotations, in either form.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;

use super::LogLine;
use super::entry::{self, Record};
use super::files::{compressed, numbered};
use crate::Stream;

/// Bytes read at once.
const BLOCK: usize = 128 * 1024;
/// A rotated file with a higher number is not looked for.
const MAX_FILES: u32 = 1000;

/// How a file's entries are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Local,
}

pub(super) struct Reader {
    path: PathBuf,
    form: Form,
    tail: Option<u64>,
    open: Option<Open>,
    /// Whether the first look has been taken.
    begun: bool,
    /// The beginning of a line whose end has not been read.
    rest: Vec<u8>,
}

struct Open {
    file: File,
    /// Of the file as it was written, also if this one is what came out of a compressed one.
    inode: u64,
    /// Which older file it was when it was opened.
    number: u32,
    offset: u64,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    stream: Stream,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
    time: Timestamp,
}

fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Opens the `n`th older file, plain or compressed; a compressed one becomes a plain one without a name.
fn open(path: &Path, n: u32) -> io::Result<Option<Open>> {
    if let Some(file) = found(File::open(numbered(path, n)))? {
        let inode = file.metadata()?.ino();
        return Ok(Some(Open { file, inode, number: n, offset: 0 }));
    }
    if n == 0 {
        return Ok(None);
    }
    let Some(source) = found(File::open(compressed(path, n)))? else { return Ok(None) };
    let mut decoder = flate2::read::GzDecoder::new(source);
    let inode = inode_in(&decoder);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = rustix::fs::OFlags::TMPFILE | rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(folder, flags, rustix::fs::Mode::from_raw_mode(0o600))?);
    io::copy(&mut decoder, &mut file)?;
    file.seek(SeekFrom::Start(0))?;
    Ok(Some(Open { file, inode, number: n, offset: 0 }))
}

/// The inode number that the writer left in a compressed file's header.
fn inode_in<R: Read>(decoder: &flate2::read::GzDecoder<R>) -> u64 {
    let extra = decoder.header().and_then(|h| h.extra()).and_then(|e| e.try_into().ok());
    extra.map_or(0, u64::from_le_bytes)
}

impl Reader {
    pub(super) fn new(path: PathBuf, form: Form, tail: Option<u64>) -> Self {
        Self { path, form, tail, open: None, begun: false, rest: Vec::new() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many rotated files there are.
    fn oldest(&self) -> u32 {
        let there = |n: &u32| numbered(&self.path, *n).exists() || compressed(&self.path, *n).exists();
        (1..MAX_FILES).take_while(there).last().unwrap_or(0)
    }

    /// The number of the file as whose `n`th older one this inode was written.
    fn inode_of(&self, n: u32) -> Option<u64> {
        if let Ok(plain) = std::fs::metadata(numbered(&self.path, n)) {
            return Some(plain.ino());
        }
        let file = File::open(compressed(&self.path, n)).ok().filter(|_| n > 0)?;
        Some(inode_in(&flate2::read::GzDecoder::new(file)))
    }

    /// The next lines; none at the end of what is there now.
    pub(super) fn batch(&mut self) -> io::Result<Vec<LogLine>> {
        if !self.begun {
            self.begin()?;
        }
        let mut lines = Vec::new();
        while lines.is_empty() {
            let Some(current) = &mut self.open else {
                // It was not there before.
                self.open = open(&self.path, 0)?;
                if self.open.is_none() {
                    return Ok(lines);
                }
                continue;
            };
            if current.file.metadata()?.len() < current.offset {
                // Truncated: begun anew under the same name.
                current.offset = current.file.seek(SeekFrom::Start(0))?;
                self.rest.clear();
            }
            let old = self.rest.len();
            self.rest.resize(old + BLOCK, 0);
            let n = current.file.read(&mut self.rest[old..])?;
            self.rest.truncate(old + n);
            current.offset += n as u64;
            if n == 0 {
                if !self.follow_rotation()? {
                    self.rest.shrink_to(BLOCK / 8);
                    return Ok(lines);
                }
                continue;
            }
            match self.form {
                Form::Json => {
                    let Some(end) = memchr::memrchr(b'\n', &self.rest) else { continue };
                    lines.extend(self.rest[..end].split(|b| *b == b'\n').filter_map(parse));
                    self.rest.drain(..=end);
                }
                Form::Local => {
                    let mut done = 0;
                    loop {
                        match entry::decode(&self.rest[done..]) {
                            Record::Whole(length, entry) => {
                                done += length;
                                lines.extend(entry.map(line_of));
                            }
                            Record::Torn => break,
                            Record::Garbage => {
                                // Where the next record begins cannot be known: what is left of this file is left out.
                                current.offset = current.file.seek(SeekFrom::End(0))?;
                                done = self.rest.len();
                                break;
                            }
                        }
                    }
                    self.rest.drain(..done);
                }
            }
        }
        Ok(lines)
    }

    /// At the end of the open file: goes on with the next newer one, if there is.
    fn follow_rotation(&mut self) -> io::Result<bool> {
        let Some(current) = &self.open else { return Ok(false) };
        let oldest = self.oldest();
        // A file's number only grows. Below the one that it had, the same inode is a newer file's: that of one which has
        // been compressed is given to the next that is made. One that has been removed was older than all that are left.
        let next = match (current.number..=oldest).find(|n| self.inode_of(*n) == Some(current.inode)) {
            Some(0) => return Ok(false),
            Some(n) => n - 1,
            None => oldest,
        };
        match open(&self.path, next)? {
            Some(opened) => {
                self.open = Some(opened);
                self.rest.clear();
                Ok(true)
            }
            None => Ok(false), // between the renaming and the making of the new file: there will be an event
        }
    }

    /// Finds where to begin.
    fn begin(&mut self) -> io::Result<()> {
        self.begun = true;
        let oldest = self.oldest();
        let Some(mut wanted) = self.tail else {
            self.open = open(&self.path, oldest)?;
            return Ok(());
        };
        for n in 0..=oldest {
            let Some(mut opened) = open(&self.path, n)? else { continue };
            let (offset, found) = match self.form {
                Form::Json => tail_of(&mut opened.file, wanted)?,
                Form::Local => records_tail(&mut opened.file, wanted)?,
            };
            wanted -= found;
            opened.offset = opened.file.seek(SeekFrom::Start(offset))?;
            self.open = Some(opened);
            if wanted == 0 {
                break;
            }
        }
        Ok(())
    }
}

/// Where the last `wanted` complete lines of a file begin, and how many there are.
fn tail_of(file: &mut File, wanted: u64) -> io::Result<(u64, u64)> {
    let mut at = file.metadata()?.len();
    let mut newlines = 0;
    let mut block = vec![0; BLOCK];
    while at > 0 {
        let size = BLOCK.min(at as usize);
        at -= size as u64;
        file.seek(SeekFrom::Start(at))?;
        let block = &mut block[..size];
        file.read_exact(block)?;
        for i in (0..size).rev().filter(|i| block[*i] == b'\n') {
            // The newline before the wanted lines is where they begin; the very last one only ends the last line.
            if newlines == wanted {
                return Ok((at + i as u64 + 1, wanted));
            }
            newlines += 1;
        }
    }
    Ok((0, newlines))
}

/// As [`tail_of`], of records: backwards by the lengths behind them, or, if the last one is torn, from the beginning.
fn records_tail(file: &mut File, wanted: u64) -> io::Result<(u64, u64)> {
    let mut number = [0; 4];
    let mut at = file.metadata()?.len();
    let mut count = 0;
    while at > 8 && count < wanted {
        file.seek(SeekFrom::Start(at - 4))?;
        file.read_exact(&mut number)?;
        let begin = entry::length_before(number).and_then(|length| at.checked_sub(length));
        let Some(begin) = begin else { return records_tail_forward(file, wanted) };
        let behind = number;
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut number)?;
        if number != behind {
            return records_tail_forward(file, wanted);
        }
        at = begin;
        count += 1;
    }
    Ok((at, count))
}

fn records_tail_forward(file: &mut File, wanted: u64) -> io::Result<(u64, u64)> {
    let end = file.metadata()?.len();
    let mut begins = std::collections::VecDeque::new();
    let (mut at, mut number) = (0, [0; 4]);
    while at + 8 < end {
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut number)?;
        let Some(length) = entry::length_before(number).filter(|length| at + length <= end) else { break };
        begins.push_back(at);
        if begins.len() as u64 > wanted {
            begins.pop_front();
        }
        at += length;
    }
    Ok((begins.front().copied().unwrap_or(at), begins.len() as u64))
}

pub(crate) fn parse(line: &[u8]) -> Option<LogLine> {
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    let line = Bytes::from(entry.log.into_owned());
    Some(LogLine { stream: entry.stream, time: entry.time, line, attributes: entry.attrs })
}

/// The newline comes back that the record leaves out.
fn line_of(entry: entry::Entry) -> LogLine {
    let line = if entry.piece.is_some_and(|p| !p.last) {
        entry.line
    } else {
        let mut line = Vec::with_capacity(entry.line.len() + 1);
        line.extend_from_slice(&entry.line);
        line.push(b'\n');
        line.into()
    };
    LogLine { stream: entry.stream, time: entry.time, line, attributes: entry.attributes }
}
