//! The blocking half: batches of lines from the files of one log, over rotations.

use std::borrow::Cow;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use jiff::Timestamp;
use serde::Deserialize;

use super::LogLine;
use crate::Stream;

/// Bytes read at once.
const BLOCK: usize = 128 * 1024;
/// A rotated file with a higher number is not looked for.
const MAX_FILES: u32 = 1000;

pub(super) struct Reader {
    path: PathBuf,
    tail: Option<u64>,
    open: Option<Open>,
    /// Whether the first look has been taken.
    begun: bool,
    /// The beginning of a line whose end has not been read.
    rest: Vec<u8>,
}

struct Open {
    file: File,
    inode: u64,
    offset: u64,
}

#[derive(Deserialize)]
struct Entry<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    stream: Stream,
    time: Timestamp,
}

fn open(path: &Path) -> io::Result<Option<Open>> {
    match File::open(path) {
        Ok(file) => {
            let inode = file.metadata()?.ino();
            Ok(Some(Open { file, inode, offset: 0 }))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

impl Reader {
    pub(super) fn new(path: PathBuf, tail: Option<u64>) -> Self {
        Self { path, tail, open: None, begun: false, rest: Vec::new() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn numbered(&self, n: u32) -> PathBuf {
        if n == 0 {
            return self.path.clone();
        }
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }

    /// How many rotated files there are.
    fn oldest(&self) -> u32 {
        (1..MAX_FILES).take_while(|n| self.numbered(*n).exists()).last().unwrap_or(0)
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
                self.open = open(&self.path)?;
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
            let Some(end) = self.rest.iter().rposition(|b| *b == b'\n') else { continue };
            lines.extend(self.rest[..end].split(|b| *b == b'\n').filter_map(parse));
            self.rest.drain(..=end);
        }
        Ok(lines)
    }

    /// At the end of the open file: goes on with the next newer one, if there is.
    fn follow_rotation(&mut self) -> io::Result<bool> {
        let Some(current) = &self.open else { return Ok(false) };
        let inode_of = |n: u32| std::fs::metadata(self.numbered(n)).map(|m| m.ino()).ok();
        if inode_of(0) == Some(current.inode) {
            return Ok(false);
        }
        let oldest = self.oldest();
        // One that has been removed meanwhile was older than all that are left.
        let next = match (1..=oldest).find(|n| inode_of(*n) == Some(current.inode)) {
            Some(n) => n - 1,
            None => oldest,
        };
        match open(&self.numbered(next))? {
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
            self.open = open(&self.numbered(oldest))?;
            return Ok(());
        };
        for n in 0..=oldest {
            let Some(mut opened) = open(&self.numbered(n))? else { continue };
            let (offset, found) = tail_of(&mut opened.file, wanted)?;
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

fn parse(line: &[u8]) -> Option<LogLine> {
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    let line = Bytes::from(entry.log.into_owned());
    Some(LogLine { stream: entry.stream, time: entry.time, line })
}
