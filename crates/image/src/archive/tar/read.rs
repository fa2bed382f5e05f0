//! Reading archives.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use super::pax::{Pax, decimal};
use super::{BLOCK, Entry, Kind, ZEROS, bad, padding};

/// The most that a long name or a pax header may take, as in Go.
const SPECIAL_LIMIT: u64 = 1 << 20;
/// The most that all headers before one entry may take.
const SPECIALS_LIMIT: u64 = 4 << 20;
/// The most that all global headers of an archive may take: what they say is said of every entry again.
const GLOBAL_LIMIT: u64 = 64 << 10;
/// The most pieces a sparse file may have.
const SPARSE_LIMIT: usize = 1 << 16;

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
    /// Bytes of global headers so far.
    global_size: u64,
    ended: bool,
}

impl<'t, R: Read> Reader<'t, R> {
    /// Reads `inner`, which must be uncompressed.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            tee: None,
            left: 0,
            padding: 0,
            quiet: false,
            global: Pax::default(),
            global_size: 0,
            ended: false,
        }
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
        self.inner.read_exact(buf).map_err(cut)?;
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
                Err(e) => return Err(cut(e)),
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
            let n = self.inner.read(&mut buf[..want]).map_err(cut)?;
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
        let mut specials = 0;
        loop {
            let Some(h) = self.block()? else {
                self.ended = true;
                return Ok(None);
            };
            if h == ZEROS {
                self.ended = true;
                let mut buf = vec![0u8; 32 * 1024];
                loop {
                    let n = self.inner.read(&mut buf).map_err(cut)?;
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
            if matches!(h[156], b'L' | b'K' | b'x' | b'X') {
                specials = size.max(1).saturating_add(specials);
            } else if h[156] == b'g' {
                self.global_size = self.global_size.saturating_add(size);
            }
            if specials > SPECIALS_LIMIT || self.global_size > GLOBAL_LIMIT {
                return Err(bad("header fields too long"));
            }
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
                // No number is longer than a block, and what has none is not looked through again and again.
                let long = data.len() - at >= BLOCK || data.len() as u64 >= 2 * SPECIAL_LIMIT;
                if long || reader.left < BLOCK as u64 {
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

/// Decompressors say in their own words that their stream ends too early.
fn cut(e: io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(e.kind(), "unexpected EOF in the archive"),
        _ => e,
    }
}

impl<R: Read> Read for Reader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buf[..want]).map_err(cut)?;
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

/// Whether a block is an entry's header, by its sum.
pub fn is_header(block: &[u8; BLOCK]) -> bool {
    *block != ZEROS && check_sum(block).is_ok()
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
