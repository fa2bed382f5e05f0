//! The log's file: Docker's json-file or local format, with rotation, compression of what has been rotated, and an
//! answer to a full disk.
//!
//! json-file is [`super::json`], local is [`crate::logs::entry`]. The file ends with a whole entry at any time: one that
//! could not be written to its end is cut off again. While nothing can be written, entries wait up to a limit and are
//! dropped beyond it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use jiff::Timestamp;

use super::PIECE;
use super::json::Json;
use crate::logs::entry::{self, Piece};
use crate::logs::files::{compressed, numbered};
use crate::{LogFile, Stream};

/// Bytes of entries that are written at once, and that wait at most while nothing can be written.
const WAITING: usize = 4 * PIECE;

/// How entries are written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Local,
}

/// What encodes entries.
enum Encoder {
    Json(Json),
    /// With what is added to every entry, encoded.
    Local(Vec<u8>),
}

pub(super) struct FileLog {
    encoder: Encoder,
    path: PathBuf,
    /// None when rotation moved the old file away and no new one could be made yet.
    file: Option<File>,
    size: u64,
    max_size: Option<u64>,
    max_files: u32,
    compress: bool,
    /// Entries to be written, and where each ends.
    out: Vec<u8>,
    ends: Vec<usize>,
    failing: bool,
    lost: u64,
    compressor: Option<Compressor>,
}

/// A child that compresses a rotated file beside the container's work.
struct Compressor {
    pid: i32,
    /// Which file it is by now; it goes up with each rotation.
    number: u32,
}

impl FileLog {
    pub(super) fn open(spec: &LogFile, form: Form) -> io::Result<Self> {
        let file = append(&spec.path)?;
        let size = file.metadata()?.len();
        // What a compressor left that did not come to its end.
        let _ = fs::remove_file(unfinished(&spec.path));
        let encoder = match form {
            Form::Json if spec.attributes.is_empty() => Encoder::Json(Json::new(Vec::new())),
            Form::Json => Encoder::Json(Json::new(serde_json::to_vec(&spec.attributes)?)),
            Form::Local => Encoder::Local(entry::attributes(&spec.attributes)),
        };
        Ok(Self {
            encoder,
            path: spec.path.clone(),
            file: Some(file),
            size,
            max_size: spec.max_size,
            max_files: spec.max_files.max(1),
            compress: spec.compress && spec.max_files > 1,
            out: Vec::new(),
            ends: Vec::new(),
            failing: false,
            lost: 0,
            compressor: None,
        })
    }

    /// Takes an entry; it is written with the next flush.
    pub(super) fn entry(&mut self, stream: Stream, time: Timestamp, text: &[u8], piece: Option<&Piece>) {
        if self.out.len() >= WAITING {
            self.flush();
            if self.out.len() >= WAITING {
                self.lost += 1;
                return;
            }
        }
        match &mut self.encoder {
            Encoder::Json(json) => json.encode(&mut self.out, text, stream, time),
            Encoder::Local(attributes) => {
                let bare = text.strip_suffix(b"\n").unwrap_or(text);
                entry::encode(&mut self.out, bare, stream, time, piece, attributes);
            }
        }
        self.ends.push(self.out.len());
    }

    /// Writes what waits. A failure is told once, in the shim's own log; what has been written is not written again.
    pub(super) fn flush(&mut self) {
        if self.ends.is_empty() {
            return;
        }
        let (mut from, mut next) = (0, 0);
        let result = loop {
            if next == self.ends.len() {
                break Ok(());
            }
            match self.write_some(from, next) {
                Ok(count) => next += count,
                Err((count, e)) => {
                    next += count;
                    break Err(e);
                }
            }
            from = self.ends[next - 1];
        };
        let written = if next == 0 { 0 } else { self.ends[next - 1] };
        if written == self.out.len() {
            self.out.clear();
            self.ends.clear();
            self.out.shrink_to(WAITING);
            self.ends.shrink_to(1024);
        } else {
            self.out.drain(..written);
            self.ends.drain(..next);
            self.ends.iter_mut().for_each(|end| *end -= written);
        }
        match result {
            Ok(()) if self.failing => {
                eprintln!("log {}: written again; {} entries were lost", self.path.display(), self.lost);
                (self.failing, self.lost) = (false, 0);
            }
            Err(e) if !self.failing => {
                eprintln!("log {}: {e}", self.path.display());
                self.failing = true;
            }
            _ => {}
        }
    }

    /// Writes entries from the `next`th on, which begins at `from`: as many as fit into the file. How many were written,
    /// also beside an error.
    fn write_some(&mut self, from: usize, next: usize) -> Result<usize, (usize, io::Error)> {
        let first = (self.ends[next] - from) as u64;
        if self.max_size.is_some_and(|max| self.size > 0 && self.size + first > max) {
            self.rotate().map_err(|e| (0, e))?;
        }
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(append(&self.path).map_err(|e| (0, e))?),
        };
        // At least one, or a limit below an entry's size would stop everything.
        let count = match self.max_size {
            Some(max) => {
                let room = usize::try_from(max.saturating_sub(self.size)).unwrap_or(usize::MAX);
                self.ends[next..].partition_point(|end| end - from <= room).max(1)
            }
            None => self.ends.len() - next,
        };
        let (done, result) = write_all(file, &self.out[from..self.ends[next + count - 1]]);
        let Err(e) = result else {
            self.size += done as u64;
            return Ok(count);
        };
        let whole = self.ends[next..].partition_point(|end| end - from <= done);
        let kept = if whole == 0 { 0 } else { self.ends[next + whole - 1] - from };
        if done > kept {
            // Asked of the file, not of `size`: somebody may have truncated it.
            let length = file.metadata().map_or(0, |m| m.len());
            let _ = file.set_len(length.saturating_sub((done - kept) as u64));
        }
        self.size += kept as u64;
        Err((whole, e))
    }

    /// `log` becomes `log.1`, `log.1` becomes `log.2`, … and the last one goes.
    fn rotate(&mut self) -> io::Result<()> {
        if self.max_files == 1 {
            if let Some(file) = &self.file {
                file.set_len(0)?;
            }
            self.size = 0;
            return Ok(());
        }
        // Without an open file the last rotation has got as far as this.
        if self.file.is_some() {
            let last = self.max_files - 1;
            for gone in [numbered(&self.path, last), compressed(&self.path, last)] {
                ignore_missing(fs::remove_file(gone))?;
            }
            for n in (1..last).rev() {
                ignore_missing(fs::rename(numbered(&self.path, n), numbered(&self.path, n + 1)))?;
                ignore_missing(fs::rename(compressed(&self.path, n), compressed(&self.path, n + 1)))?;
            }
            ignore_missing(fs::rename(&self.path, numbered(&self.path, 1)))?;
            self.file = None;
            self.size = 0;
            match &mut self.compressor {
                // Too busy for this one: it stays as it is.
                Some(busy) => busy.number += 1,
                None if self.compress => self.start_compressor(),
                None => {}
            }
        }
        self.file = Some(append(&self.path)?);
        Ok(())
    }

    fn start_compressor(&mut self) {
        // Opened here: by the time the child runs, the next rotation may have given the name to another file.
        let started = File::open(numbered(&self.path, 1)).and_then(|from| {
            let to = unfinished(&self.path);
            super::super::helper::start(&["--log-compress".as_ref(), to.as_os_str()], Some(from.into()))
        });
        match started {
            Ok(pid) => self.compressor = Some(Compressor { pid, number: 1 }),
            Err(e) => eprintln!("log {}: compress: {e}", self.path.display()),
        }
    }

    /// Puts a compressed file in its place.
    pub(super) fn child_ended(&mut self, pid: i32, well: bool) {
        let Some(done) = self.compressor.take_if(|c| c.pid == pid) else { return };
        let result = unfinished(&self.path);
        let plain = numbered(&self.path, done.number);
        if well && done.number < self.max_files && plain.exists() {
            let placed = fs::rename(&result, compressed(&self.path, done.number))
                .and_then(|()| fs::remove_file(plain));
            if let Err(e) = placed {
                eprintln!("log {}: compress: {e}", self.path.display());
            }
        } else {
            let _ = fs::remove_file(result);
        }
    }

    /// Bytes that wait to be written.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.out.len()
    }
}

/// Where a compressor writes.
fn unfinished(path: &std::path::Path) -> PathBuf {
    let mut name = path.to_path_buf().into_os_string();
    name.push(".compressing");
    name.into()
}

/// As `Write::write_all`, but says how far it got.
fn write_all(file: &mut File, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut done = 0;
    while done < bytes.len() {
        match file.write(&bytes[done..]) {
            Ok(0) => return (done, Err(io::ErrorKind::WriteZero.into())),
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return (done, Err(e)),
        }
    }
    (done, Ok(()))
}

fn ignore_missing(r: io::Result<()>) -> io::Result<()> {
    match r {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn append(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// What the child of a rotation does: `from` into `to`, by gzip. The header keeps the inode number of `from`, by which a
/// reader that follows knows which of the files it has read already.
pub(in crate::shim) fn compress(from: impl AsFd, to: &std::path::Path) -> io::Result<()> {
    let mut source = File::from(from.as_fd().try_clone_to_owned()?);
    let inode = source.metadata()?.ino();
    let target = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(to)?;
    let level = flate2::Compression::fast();
    let mut encoder = flate2::GzBuilder::new().extra(inode.to_le_bytes().to_vec()).write(target, level);
    io::copy(&mut source, &mut encoder)?;
    encoder.finish()?.flush()
}
