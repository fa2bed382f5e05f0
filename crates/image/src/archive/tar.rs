//! The tar format: a reader that can tell its exact bytes apart from files' contents, and a writer.
//!
//! Read are v7, ustar, GNU (long names, sparse files) and pax (with `SCHILY.xattr` and sparse files); written are ustar
//! and pax as Go's archive/tar writes them. The reader is total: any bytes give entries or an error, in bounded memory.

use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

const BLOCK: usize = 512;
/// The most that a long name or a pax header may take, as in Go.
const SPECIAL_LIMIT: u64 = 1 << 20;
/// The most pieces a sparse file may have.
const SPARSE_LIMIT: usize = 1 << 16;
const ZEROS: [u8; BLOCK] = [0; BLOCK];

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A second name of an earlier entry.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A folder.
    Dir,
    /// A named pipe.
    Fifo,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As in the archive, not cleaned.
    pub path: Vec<u8>,
    /// Target of a link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of data in the archive.
    pub size: u64,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Major and minor number.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For a sparse file: the pieces that have data (offset, length), and the whole length.
    pub sparse: Option<(Vec<(u64, u64)>, u64)>,
}

impl Entry {
    /// An entry with nothing but a name and a kind.
    pub fn new(path: impl Into<Vec<u8>>, kind: Kind) -> Self {
        Self {
            path: path.into(),
            link: Vec::new(),
            kind,
            mode: if kind == Kind::Dir { 0o755 } else { 0o644 },
            uid: 0,
            gid: 0,
            size: 0,
            mtime: (0, 0),
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}

/// Gets every byte of an archive as it is read, except the data of files that the caller refers to by name.
pub trait Tee: Send {
    /// These bytes come next.
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Next come `size` bytes that can be found in the extracted file `path`.
    fn file(&mut self, path: &[u8], size: u64) -> io::Result<()>;
    /// What stands as `name` in the folder `parent`, extracted before as `path`, is about to be replaced: put it away.
    fn replaced(&mut self, parent: BorrowedFd<'_>, name: &OsStr, path: &[u8]) -> io::Result<()>;
}

/// Reads entries one after the other; between two calls of `next_entry` it reads as the current entry's data.
pub struct Reader<'t, R> {
    inner: R,
    tee: Option<&'t mut dyn Tee>,
    /// Data of the current entry not read yet, and the padding after it.
    left: u64,
    padding: u64,
    quiet: bool,
    global: Pax,
    ended: bool,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("archive/tar: {what}"))
}

impl<'t, R: Read> Reader<'t, R> {
    /// Reads `inner`, which must be uncompressed.
    pub fn new(inner: R) -> Self {
        Self { inner, tee: None, left: 0, padding: 0, quiet: false, global: Pax::default(), ended: false }
    }

    /// As `new`, telling `tee` all bytes.
    pub fn with_tee(inner: R, tee: &'t mut dyn Tee) -> Self {
        Self { tee: Some(tee), ..Self::new(inner) }
    }

    /// The data of the current entry is not for the tee: the caller has told it where the data will lie.
    pub fn keep_data_from_tee(&mut self) {
        self.quiet = true;
    }

    /// The tee, if there is one.
    pub fn tee(&mut self) -> Option<&mut dyn Tee> {
        match &mut self.tee {
            Some(tee) => Some(&mut **tee),
            None => None,
        }
    }

    fn fill(&mut self, buf: &mut [u8]) -> io::Result<()> {
        self.inner.read_exact(buf).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => io::Error::new(e.kind(), "unexpected EOF in the archive"),
            _ => e,
        })?;
        match &mut self.tee {
            Some(tee) => tee.raw(buf),
            None => Ok(()),
        }
    }

    /// Reads a header block; `None` at the end of the archive or of the stream.
    fn block(&mut self) -> io::Result<Option<[u8; BLOCK]>> {
        let mut b = [0u8; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            match self.inner.read(&mut b[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "unexpected EOF in the archive",
                    ));
                }
                Ok(n) => have += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        if let Some(tee) = &mut self.tee {
            tee.raw(&b)?;
        }
        Ok(Some(b))
    }

    fn skip_rest(&mut self) -> io::Result<()> {
        let mut buf = [0u8; 8192];
        while self.left > 0 {
            if self.read(&mut buf)? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF in the archive"));
            }
        }
        self.quiet = false;
        // docker's own archives of build contexts end with the last file's data, without padding or end marker.
        while self.padding > 0 {
            let want = self.padding as usize;
            let n = self.inner.read(&mut buf[..want])?;
            if n == 0 {
                self.padding = 0;
                return Ok(());
            }
            self.padding -= n as u64;
            if let Some(tee) = &mut self.tee {
                tee.raw(&buf[..n])?;
            }
        }
        Ok(())
    }

    fn special(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > SPECIAL_LIMIT {
            return Err(bad("header field too long"));
        }
        let mut data = vec![0u8; size as usize];
        self.fill(&mut data)?;
        let mut pad = [0u8; BLOCK];
        self.fill(&mut pad[..padding(size) as usize])?;
        Ok(data)
    }

    /// The next entry, or `None` after the last; then everything up to the end of the stream has been read.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        if self.ended {
            return Ok(None);
        }
        self.skip_rest()?;
        let (mut long_name, mut long_link) = (None, None);
        let mut pax = Pax::default();
        loop {
            let Some(h) = self.block()? else {
                self.ended = true;
                return Ok(None);
            };
            if h == ZEROS {
                self.ended = true;
                let mut buf = vec![0u8; 32 * 1024];
                loop {
                    let n = self.inner.read(&mut buf)?;
                    if n == 0 {
                        return Ok(None);
                    }
                    if let Some(tee) = &mut self.tee {
                        tee.raw(&buf[..n])?;
                    }
                }
            }
            check_sum(&h)?;
            let size = number(&h[124..136])?;
            match h[156] {
                b'L' => long_name = Some(text(&self.special(size)?)),
                b'K' => long_link = Some(text(&self.special(size)?)),
                b'x' | b'X' => pax.parse(&self.special(size)?)?,
                b'g' => {
                    let data = self.special(size)?;
                    self.global.parse(&data)?;
                }
                _ => return self.entry(&h, size, pax, long_name, long_link).map(Some),
            }
        }
    }

    fn entry(
        &mut self,
        h: &[u8; BLOCK],
        size: u64,
        pax: Pax,
        long_name: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> io::Result<Entry> {
        let pax = pax.over(&self.global);
        let ustar = &h[257..263] == b"ustar\0";
        let mut path = text(&h[..100]);
        if ustar && h[345] != 0 {
            let mut whole = text(&h[345..500]);
            whole.push(b'/');
            whole.append(&mut path);
            path = whole;
        }
        let path = pax.path.or(long_name).unwrap_or(path);
        let link = pax.link.or(long_link).unwrap_or_else(|| text(&h[157..257]));
        let kind = match h[156] {
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Char,
            b'4' => Kind::Block,
            b'5' => Kind::Dir,
            b'6' => Kind::Fifo,
            b'0' | 0 if path.ends_with(b"/") => Kind::Dir,
            // Unknown types are files, by POSIX.
            _ => Kind::File,
        };
        // Only files have data; a size elsewhere is a remark (as in old archives' hard links).
        let size = if kind == Kind::File { pax.size.unwrap_or(size) } else { 0 };
        if size > i64::MAX as u64 {
            return Err(bad("invalid tar header"));
        }
        let id = |field: &[u8], pax: Option<u64>| -> io::Result<u32> {
            u32::try_from(pax.map_or_else(|| number(field), Ok)?).map_err(|_| bad("owner out of range"))
        };
        let device = |field: &[u8]| number(field).map(|n| n as u32).unwrap_or(0);
        let mut e = Entry {
            kind,
            mode: (number(&h[100..108])? & 0o7777) as u32,
            uid: id(&h[108..116], pax.uid)?,
            gid: id(&h[116..124], pax.gid)?,
            size,
            mtime: pax.mtime.unwrap_or((signed(&h[136..148]), 0)),
            device: (device(&h[329..337]), device(&h[337..345])),
            xattrs: pax.xattrs,
            sparse: None,
            path,
            link,
        };
        self.left = size;
        self.padding = padding(size);
        if h[156] == b'S' {
            e.sparse = Some(self.old_sparse(h)?);
        } else if kind == Kind::File
            && let Some(s) = pax.sparse
        {
            if let Some(name) = s.name {
                e.path = name;
            }
            let map = if s.in_data { self.sparse_in_data()? } else { s.map };
            e.size = self.left;
            e.sparse = Some((check_sparse(map, s.size, self.left)?, s.size));
        }
        Ok(e)
    }

    /// GNU's first form: pieces in the header and in blocks after it.
    fn old_sparse(&mut self, h: &[u8; BLOCK]) -> io::Result<(Vec<(u64, u64)>, u64)> {
        let whole = number(&h[483..495])?;
        let mut map = Vec::new();
        let mut take = |area: &[u8]| -> io::Result<()> {
            for piece in area.chunks_exact(24) {
                if piece[0] == 0 {
                    break;
                }
                map.push((number(&piece[..12])?, number(&piece[12..24])?));
            }
            if map.len() > SPARSE_LIMIT { Err(bad("too many pieces in a sparse file")) } else { Ok(()) }
        };
        take(&h[386..482])?;
        let mut more = h[482] != 0;
        while more {
            let Some(b) = self.block()? else { return Err(bad("unexpected EOF in a sparse map")) };
            take(&b[..504])?;
            more = b[504] != 0;
        }
        let map = check_sparse(map, whole, self.left)?;
        Ok((map, whole))
    }

    /// Pax's form 1.0: decimal lines before the data, padded to a block.
    fn sparse_in_data(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut data: Vec<u8> = Vec::new();
        let mut at = 0;
        let mut line = |reader: &mut Self| -> io::Result<u64> {
            loop {
                if let Some(n) = data[at..].iter().position(|b| *b == b'\n') {
                    let value = decimal(&data[at..at + n]).ok_or_else(|| bad("invalid sparse map"));
                    at += n + 1;
                    return value;
                }
                if data.len() as u64 >= 2 * SPECIAL_LIMIT || reader.left < BLOCK as u64 {
                    return Err(bad("invalid sparse map"));
                }
                let mut b = [0u8; BLOCK];
                reader.fill(&mut b)?;
                reader.left -= BLOCK as u64;
                data.extend_from_slice(&b);
            }
        };
        let count = line(self)? as usize;
        if count > SPARSE_LIMIT {
            return Err(bad("too many pieces in a sparse file"));
        }
        (0..count).map(|_| Ok((line(self)?, line(self)?))).collect()
    }
}

impl<R: Read> Read for Reader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buf[..want])?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "unexpected EOF in the archive"));
        }
        self.left -= n as u64;
        if let (Some(tee), false) = (&mut self.tee, self.quiet) {
            tee.raw(&buf[..n])?;
        }
        Ok(n)
    }
}

fn check_sparse(map: Vec<(u64, u64)>, whole: u64, data: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut end = 0u64;
    let mut sum = 0u64;
    for (offset, length) in &map {
        let piece_end = offset.checked_add(*length).filter(|e| *offset >= end && *e <= whole);
        end = piece_end.ok_or_else(|| bad("invalid sparse map"))?;
        sum += length;
    }
    if sum != data || whole > i64::MAX as u64 {
        return Err(bad("invalid sparse map"));
    }
    Ok(map)
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn check_sum(h: &[u8; BLOCK]) -> io::Result<()> {
    let want = number(&h[148..156])? as i64;
    let of = |f: fn(u8) -> i64| -> i64 {
        h.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { f(*b) }).sum()
    };
    // Some old programs added signed bytes.
    if want == of(i64::from) || want == of(|b| i64::from(b as i8)) {
        Ok(())
    } else {
        Err(bad("invalid tar header"))
    }
}

/// Up to the first NUL.
fn text(field: &[u8]) -> Vec<u8> {
    field.split(|b| *b == 0).next().unwrap_or_default().to_vec()
}

/// Octal digits, or GNU's base 256.
fn number(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        return u64::try_from(signed(field)).map_err(|_| bad("invalid tar header"));
    }
    let digits = text(field);
    let digits = digits.trim_ascii();
    let mut n = 0u64;
    for d in digits {
        if !(b'0'..=b'7').contains(d) {
            return Err(bad("invalid tar header"));
        }
        n = n.checked_mul(8).ok_or_else(|| bad("invalid tar header"))? + u64::from(d - b'0');
    }
    Ok(n)
}

/// As `number`, where base 256 may be negative; what is no number is zero.
fn signed(field: &[u8]) -> i64 {
    if field[0] & 0x80 == 0 {
        return number(field).map_or(0, |n| i64::try_from(n).unwrap_or(i64::MAX));
    }
    let negative = field[0] & 0x40 != 0;
    let mut n: i128 = if negative { -1 } else { 0 };
    for (i, b) in field.iter().enumerate() {
        let b = if i == 0 && !negative { b & 0x7f } else { *b };
        n = (n << 8 | i128::from(b)).clamp(i128::from(i64::MIN), i128::from(i64::MAX));
    }
    n as i64
}

fn decimal(b: &[u8]) -> Option<u64> {
    std::str::from_utf8(b).ok()?.parse().ok()
}

/// The records of pax headers that we know.
#[derive(Debug, Clone, Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: Option<PaxSparse>,
}

#[derive(Debug, Clone, Default)]
struct PaxSparse {
    name: Option<Vec<u8>>,
    size: u64,
    map: Vec<(u64, u64)>,
    in_data: bool,
    offset: u64,
}

impl Pax {
    fn parse(&mut self, mut data: &[u8]) -> io::Result<()> {
        let invalid = || bad("invalid pax record");
        while !data.is_empty() && data[0] != 0 {
            let space = data.iter().take(20).position(|b| *b == b' ').ok_or_else(invalid)?;
            let length = decimal(&data[..space]).ok_or_else(invalid)? as usize;
            if length <= space + 1 || length > data.len() || data[length - 1] != b'\n' {
                return Err(invalid());
            }
            let record = &data[space + 1..length - 1];
            data = &data[length..];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(invalid)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            self.record(key, value).ok_or_else(invalid)?;
        }
        Ok(())
    }

    fn record(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let sparse = |s: &mut Option<PaxSparse>| s.take().unwrap_or_default();
        match key {
            b"path" | b"linkpath" if value.contains(&0) => return None,
            b"path" => self.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => self.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"uid" => self.uid = Some(decimal(value)?),
            b"gid" => self.gid = Some(decimal(value)?),
            b"mtime" => self.mtime = Some(pax_time(value)?),
            b"GNU.sparse.name" => {
                let s = sparse(&mut self.sparse);
                self.sparse = Some(PaxSparse { name: Some(value.to_vec()), ..s });
            }
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                let s = sparse(&mut self.sparse);
                self.sparse = Some(PaxSparse { size: decimal(value)?, ..s });
            }
            b"GNU.sparse.major" => {
                let s = sparse(&mut self.sparse);
                self.sparse = Some(PaxSparse { in_data: value == b"1", ..s });
            }
            b"GNU.sparse.map" => {
                let mut s = sparse(&mut self.sparse);
                let numbers: Option<Vec<u64>> = value.split(|b| *b == b',').map(decimal).collect();
                s.map = numbers?.chunks_exact(2).map(|p| (p[0], p[1])).collect();
                self.sparse = Some(s);
            }
            b"GNU.sparse.offset" => {
                let s = sparse(&mut self.sparse);
                self.sparse = Some(PaxSparse { offset: decimal(value)?, ..s });
            }
            b"GNU.sparse.numbytes" => {
                let mut s = sparse(&mut self.sparse);
                s.map.push((s.offset, decimal(value)?));
                self.sparse = Some(s);
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Some(())
    }

    fn over(self, global: &Pax) -> Pax {
        Pax {
            path: self.path.or_else(|| global.path.clone()),
            link: self.link.or_else(|| global.link.clone()),
            size: self.size.or(global.size),
            uid: self.uid.or(global.uid),
            gid: self.gid.or(global.gid),
            mtime: self.mtime.or(global.mtime),
            xattrs: if self.xattrs.is_empty() { global.xattrs.clone() } else { self.xattrs },
            sparse: self.sparse,
        }
    }
}

fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let s = std::str::from_utf8(value).ok()?;
    let (whole, fraction) = s.split_once('.').unwrap_or((s, ""));
    let seconds: i64 = whole.parse().ok()?;
    let mut nanos = 0u32;
    for i in 0..9 {
        let digit = fraction.as_bytes().get(i).copied().unwrap_or(b'0');
        nanos = nanos * 10 + u32::from(digit.checked_sub(b'0').filter(|d| *d < 10)?);
    }
    if whole.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

/// The header blocks of an entry, in ustar where it fits and pax where it does not. Times are cut to seconds.
pub fn header(e: &Entry) -> Vec<u8> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let fits = |n: u64, digits: u32| n < 1 << (3 * digits);
    let mut out = Vec::with_capacity(BLOCK);
    let (prefix, name) = match split_name(&e.path) {
        Some(split) => split,
        None => {
            records.push((b"path".to_vec(), e.path.clone()));
            (&[][..], &e.path[..e.path.len().min(100)])
        }
    };
    if e.link.len() > 100 || !e.link.is_ascii() {
        records.push((b"linkpath".to_vec(), e.link.clone()));
    }
    let decimal = |n: u64| n.to_string().into_bytes();
    if !fits(e.size, 11) {
        records.push((b"size".to_vec(), decimal(e.size)));
    }
    if !fits(u64::from(e.uid), 7) {
        records.push((b"uid".to_vec(), decimal(u64::from(e.uid))));
    }
    if !fits(u64::from(e.gid), 7) {
        records.push((b"gid".to_vec(), decimal(u64::from(e.gid))));
    }
    if e.mtime.0 < 0 || !fits(e.mtime.0 as u64, 11) {
        records.push((b"mtime".to_vec(), e.mtime.0.to_string().into_bytes()));
    }
    for (k, v) in &e.xattrs {
        records.push(([b"SCHILY.xattr.", k.as_slice()].concat(), v.clone()));
    }
    let is_pax = !records.is_empty();
    if is_pax {
        records.sort();
        let mut data = Vec::new();
        for (k, v) in records {
            let rest = k.len() + v.len() + 3;
            let mut length = rest + 1;
            while length.to_string().len() + rest != length {
                length = length.to_string().len() + rest;
            }
            data.extend_from_slice(length.to_string().as_bytes());
            data.push(b' ');
            data.extend_from_slice(&k);
            data.push(b'=');
            data.extend_from_slice(&v);
            data.push(b'\n');
        }
        let trimmed = e.path.strip_suffix(b"/").unwrap_or(&e.path);
        let (dir, base) = match trimmed.iter().rposition(|b| *b == b'/') {
            Some(i) => trimmed.split_at(i + 1),
            None => (&[][..], trimmed),
        };
        let mut pax_name = [dir, b"PaxHeaders.0/", base].concat();
        pax_name.retain(u8::is_ascii);
        pax_name.truncate(100);
        block(
            &mut out,
            &[],
            &pax_name,
            b'x',
            &Entry { size: data.len() as u64, mode: 0, ..Entry::new("", Kind::File) },
        );
        let pad = padding(data.len() as u64) as usize;
        out.extend_from_slice(&data);
        out.extend_from_slice(&ZEROS[..pad]);
    }
    let flag = match e.kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Char => b'3',
        Kind::Block => b'4',
        Kind::Dir => b'5',
        Kind::Fifo => b'6',
    };
    block(&mut out, prefix, name, flag, e);
    out
}

/// The zeros after `size` bytes of data.
pub fn pad(size: u64) -> &'static [u8] {
    static PAD: [u8; BLOCK] = [0; BLOCK];
    &PAD[..padding(size) as usize]
}

/// The end of an archive.
pub const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// Writes an entry with its data; `data` must give `e.size` bytes.
pub fn write_entry(out: &mut dyn Write, e: &Entry, data: &[u8]) -> io::Result<()> {
    out.write_all(&header(e))?;
    out.write_all(data)?;
    out.write_all(pad(data.len() as u64))
}

/// Prefix and name as ustar has them, if the path fits.
fn split_name(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if !path.is_ascii() {
        return None;
    }
    if path.len() <= 100 {
        return Some((&[], path));
    }
    if path.len() > 256 {
        return None;
    }
    let body = path.strip_suffix(b"/").unwrap_or(path);
    let limit = body.len().min(156);
    let slash = body[..limit].iter().rposition(|b| *b == b'/')?;
    (slash > 0 && path.len() - slash - 1 <= 100 && slash <= 155).then(|| (&path[..slash], &path[slash + 1..]))
}

fn block(out: &mut Vec<u8>, prefix: &[u8], name: &[u8], flag: u8, e: &Entry) {
    let mut h = [0u8; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| h[at..at + bytes.len()].copy_from_slice(bytes);
    let octal = |n: u64, digits: usize| {
        // What does not fit stands in a pax record; the field is then zero, as Go has it.
        let n = if n < 1 << (3 * digits) { n } else { 0 };
        format!("{n:0digits$o}\0").into_bytes()
    };
    put(0, name);
    put(100, &octal(u64::from(e.mode), 7));
    put(108, &octal(u64::from(e.uid), 7));
    put(116, &octal(u64::from(e.gid), 7));
    put(124, &octal(e.size, 11));
    put(136, &octal(u64::try_from(e.mtime.0).unwrap_or(0), 11));
    put(148, b"        ");
    put(156, &[flag]);
    if flag != b'x' {
        let link: Vec<u8> = e.link.iter().copied().filter(u8::is_ascii).take(100).collect();
        put(157, &link);
    }
    put(257, b"ustar\x0000");
    put(329, &octal(u64::from(e.device.0), 7));
    put(337, &octal(u64::from(e.device.1), 7));
    put(345, prefix);
    let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
    h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&h);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(bytes: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
        let mut r = Reader::new(bytes);
        let mut all = Vec::new();
        while let Some(e) = r.next_entry()? {
            let mut data = Vec::new();
            r.read_to_end(&mut data)?;
            all.push((e, data));
        }
        Ok(all)
    }

    #[test]
    fn the_end_may_lack_padding_and_marker_but_not_data() {
        let mut out = Vec::new();
        let mut e = Entry::new("a", Kind::File);
        e.size = 3;
        write_entry(&mut out, &e, b"abc").unwrap();
        let unpadded = out.len() - (BLOCK - 3);
        assert_eq!(read_all(&out[..unpadded]).unwrap()[0].1, b"abc");
        assert!(read_all(&out[..unpadded - 1]).is_err());
    }

    #[test]
    fn round_trip() {
        let mut out = Vec::new();
        let long = format!("{}/{}", "d".repeat(120), "f".repeat(90));
        let longer = format!("{}/é", "x".repeat(300));
        let mut want = Vec::new();
        for (path, kind) in [
            ("a", Kind::File),
            ("dir/", Kind::Dir),
            (long.as_str(), Kind::File),
            (longer.as_str(), Kind::File),
            ("s", Kind::Symlink),
            ("n", Kind::Char),
        ] {
            let mut e = Entry::new(path, kind);
            e.mtime = (1_700_000_000, 0);
            (e.uid, e.gid, e.mode) = (1000, 4_000_000, 0o4755);
            let data = if kind == Kind::File { path.as_bytes() } else { b"" };
            e.size = data.len() as u64;
            if kind == Kind::Symlink {
                e.link = longer.clone().into_bytes();
            }
            if kind == Kind::Char {
                e.device = (5, 1);
            }
            e.xattrs = vec![(b"user.k".to_vec(), b"v\n=\0".to_vec())];
            write_entry(&mut out, &e, data).unwrap();
            want.push((e, data.to_vec()));
        }
        out.extend_from_slice(&END);
        assert_eq!(read_all(&out).unwrap(), want);
    }

    #[test]
    fn broken_ones_are_errors() {
        let mut e = Entry::new("a", Kind::File);
        e.size = 600;
        let mut out = Vec::new();
        write_entry(&mut out, &e, &[7; 600]).unwrap();
        assert!(read_all(&out).is_ok());
        for cut in [1, 511, 513, 1000, 1111] {
            assert!(read_all(&out[..cut]).is_err(), "{cut}");
        }
        out[3] ^= 1;
        assert_eq!(read_all(&out).unwrap_err().to_string(), "archive/tar: invalid tar header");
    }

    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..3000), flag in 0u8..255) {
            let mut e = Entry::new("x", Kind::File);
            e.size = bytes.len() as u64;
            let mut out = header(&e);
            // Any type flag and any data, with a right checksum, so that the parsers behind it are reached.
            out[156] = flag;
            out[148..156].copy_from_slice(b"        ");
            let sum: u32 = out[..512].iter().map(|b| u32::from(*b)).sum();
            out[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            out.extend_from_slice(&bytes);
            let _ = read_all(&out);
            let _ = read_all(&bytes);
        }
    }
}
