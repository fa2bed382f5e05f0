//! How to make a layer's exact tar again from its unpacked folder, so that no copy of the tar is kept.
//!
//! A recipe is a zstd stream of records: `0 LENGTH BYTES` (headers, padding), `1 LENGTH PATH SIZE` (the content of an
//! extracted file), `2 LENGTH PATH NUMBER` (what stood at PATH until here lies in `old/NUMBER` now, because a later
//! entry of the same tar replaced it). The reader of a tar made again verifies its digest.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::room::Guarded;
use super::{root, tar::Tee};

const RAW: u8 = 0;
const FILE: u8 = 1;
const REPLACED: u8 = 2;
const RAW_MAX: usize = 64 * 1024;
/// How many entries of one tar may replace earlier ones, and the bytes of their paths together: what is put away is
/// remembered while the tar is made again.
const REPLACED_LIMIT: u32 = 100_000;
const REPLACED_BYTES: usize = 16 << 20;

/// Writes a recipe into a layer's folder.
pub(crate) struct Writer {
    out: zstd::stream::write::Encoder<'static, BufWriter<Guarded>>,
    raw: Vec<u8>,
    dir: PathBuf,
    old: Option<(OwnedFd, u32)>,
    old_bytes: usize,
}

impl Writer {
    /// Of the layer in `dir`.
    pub fn create(dir: &Path) -> io::Result<Self> {
        let file = Guarded::new(File::create_new(dir.join("recipe"))?)?;
        let out = zstd::stream::write::Encoder::new(BufWriter::new(file), 1)?;
        Ok(Self { out, raw: Vec::with_capacity(RAW_MAX), dir: dir.into(), old: None, old_bytes: 0 })
    }

    /// Ends the recipe.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush_raw()?;
        self.out.finish()?.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(())
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if !self.raw.is_empty() {
            self.out.write_all(&[RAW])?;
            self.out.write_all(&(self.raw.len() as u32).to_le_bytes())?;
            self.out.write_all(&self.raw)?;
            self.raw.clear();
        }
        Ok(())
    }

    fn record(&mut self, tag: u8, path: &[u8], value: &[u8]) -> io::Result<()> {
        self.flush_raw()?;
        self.out.write_all(&[tag])?;
        self.out.write_all(&(path.len() as u32).to_le_bytes())?;
        self.out.write_all(path)?;
        self.out.write_all(value)
    }
}

impl Tee for Writer {
    fn raw(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let n = bytes.len().min(RAW_MAX - self.raw.len());
            self.raw.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.raw.len() == RAW_MAX {
                self.flush_raw()?;
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &[u8], size: u64) -> io::Result<()> {
        self.record(FILE, path, &size.to_le_bytes())
    }

    fn replaced(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> io::Result<()> {
        if self.old.is_none() {
            let dir = self.dir.join("old");
            std::fs::create_dir(&dir)?;
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            self.old = Some((rustix::fs::open(&dir, flags, Mode::empty())?, 0));
        }
        let Some((old, next)) = &mut self.old else { return Ok(()) };
        let number = *next;
        *next += 1;
        self.old_bytes += path.len();
        if number >= REPLACED_LIMIT || self.old_bytes > REPLACED_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("more than {REPLACED_LIMIT} entries (or 16 MiB of their names) replace earlier ones"),
            ));
        }
        rustix::fs::renameat(parent, name, old.as_fd(), number.to_string())?;
        self.record(REPLACED, path, &number.to_le_bytes())
    }
}

/// Reads as the layer's tar.
pub(crate) struct Rebuilt {
    records: Records,
    /// What was put away, by path: from which record on, under which number.
    old: HashMap<Vec<u8>, Vec<(u64, u32)>>,
    fs: OwnedFd,
    dir: OwnedFd,
    raw: io::Cursor<Vec<u8>>,
    file: Option<(File, u64)>,
}

struct Records {
    input: zstd::stream::read::Decoder<'static, BufReader<File>>,
    next: u64,
}

enum Record {
    Raw(Vec<u8>),
    File(Vec<u8>, u64),
    Replaced(Vec<u8>, u32),
}

impl Records {
    fn open(dir: &Path) -> io::Result<Self> {
        let input = zstd::stream::read::Decoder::new(File::open(dir.join("recipe"))?)?;
        Ok(Self { input, next: 0 })
    }

    fn next(&mut self) -> io::Result<Option<Record>> {
        let mut tag = [0u8; 1];
        if self.input.read(&mut tag)? == 0 {
            return Ok(None);
        }
        self.next += 1;
        let mut four = [0u8; 4];
        self.input.read_exact(&mut four)?;
        let length = u32::from_le_bytes(four) as usize;
        if length > 1 << 21 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "broken layer recipe"));
        }
        let mut bytes = vec![0u8; length];
        self.input.read_exact(&mut bytes)?;
        let mut eight = [0u8; 8];
        Ok(Some(match tag[0] {
            RAW => Record::Raw(bytes),
            FILE => {
                self.input.read_exact(&mut eight)?;
                Record::File(bytes, u64::from_le_bytes(eight))
            }
            REPLACED => {
                self.input.read_exact(&mut four)?;
                Record::Replaced(bytes, u32::from_le_bytes(four))
            }
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "broken layer recipe")),
        }))
    }
}

impl Rebuilt {
    /// Of the layer in `dir`.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let mut old: HashMap<Vec<u8>, Vec<(u64, u32)>> = HashMap::new();
        if dir.join("old").exists() {
            let mut records = Records::open(dir)?;
            while let Some(record) = records.next()? {
                if let Record::Replaced(path, number) = record {
                    old.entry(path).or_default().push((records.next, number));
                }
            }
        }
        let open =
            |p: &Path| rustix::fs::open(p, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self {
            records: Records::open(dir)?,
            old,
            fs: open(&dir.join("fs"))?,
            dir: open(dir)?,
            raw: io::Cursor::default(),
            file: None,
        })
    }

    fn open_file(&self, path: &[u8]) -> io::Result<File> {
        let at = self.records.next;
        // The path itself or a folder above it may have been put away since, the first time counts.
        let mut first: Option<(u64, u32, usize)> = None;
        let ends = (0..path.len()).filter(|i| path[*i] == b'/').chain([path.len()]);
        for end in ends.filter(|_| !self.old.is_empty()) {
            let Some(times) = self.old.get(&path[..end]) else { continue };
            let next = times.partition_point(|(since, _)| *since <= at);
            if let Some((since, number)) = times.get(next)
                && first.is_none_or(|(best, ..)| *since < best)
            {
                first = Some((*since, *number, end));
            }
        }
        if let Some((_, number, end)) = first {
            let mut p = format!("old/{number}").into_bytes();
            p.extend_from_slice(&path[end..]);
            return root::open(self.dir.as_fd(), Path::new(OsStr::from_bytes(&p)), OFlags::RDONLY)
                .map(File::from);
        }
        let path = Path::new(OsStr::from_bytes(path));
        root::open(self.fs.as_fd(), path, OFlags::RDONLY).map(File::from)
    }
}

impl Read for Rebuilt {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            match self.raw.read(buf)? {
                0 => {}
                n => return Ok(n),
            }
            if let Some((file, left)) = &mut self.file {
                if *left > 0 {
                    let n = buf.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let n = file.read(&mut buf[..n])?;
                    if n == 0 {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "a file of the layer is shorter than it was",
                        ));
                    }
                    *left -= n as u64;
                    return Ok(n);
                }
                self.file = None;
            }
            match self.records.next()? {
                None => return Ok(0),
                Some(Record::Raw(bytes)) => self.raw = io::Cursor::new(bytes),
                Some(Record::File(path, size)) => self.file = Some((self.open_file(&path)?, size)),
                Some(Record::Replaced(..)) => {}
            }
        }
    }
}
