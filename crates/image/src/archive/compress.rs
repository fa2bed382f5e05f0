//! Compression: found out from the first bytes, undone and done while streaming.

use std::io::{self, BufReader, Read};
use std::sync::mpsc;

use sha2::{Digest, Sha256, Sha384, Sha512};

use crate::error::{Error, Result};

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
    /// The .xz format.
    Xz,
    /// The .bz2 format.
    Bzip2,
}

/// The largest window that a stream may have, as a power of two: 64 MiB. `xz -9` needs that, `zstd -19` 8 MiB, and at most
/// 32 MiB what registries hold; `zstd --long` and `--ultra -22` of more than that need twice as much.
const WINDOW: u32 = 26;
/// The same as the memory that an xz stream needs for it, in KiB.
const XZ_MEMORY: u32 = (1 << (WINDOW - 10)) + 6 * 1024;

/// A window above so many bytes is one of which there is room for one at a time: 8 MiB.
const LARGE: u64 = 8 << 20;
/// Bytes that are enough to tell a window: of a frame's header in zstd, of the first two in xz.
pub const HEAD: usize = 64;

/// What is held by whoever undoes a stream with a large window.
pub type Turn = parking_lot::ReentrantMutexGuard<'static, ()>;

static TURN: parking_lot::ReentrantMutex<()> = parking_lot::ReentrantMutex::new(());

/// Waits until no other stream with a large window is undone, if the one that begins with `head` has one; what comes back
/// is held until it is undone. Whoever has a turn waits for nobody but a registry, and has it again for what lies in the
/// stream. Blocking.
pub fn turn(head: &[u8]) -> Option<Turn> {
    has_large_window(head).then(|| TURN.lock())
}

/// Whether a stream that begins so needs a large window for its first frame or block; whether it may, where that is not
/// said so early.
pub fn has_large_window(head: &[u8]) -> bool {
    match sniff(head) {
        Compression::Zstd => zstd_window(head).is_none_or(|w| w > LARGE),
        Compression::Xz => xz_window(head).is_none_or(|w| w > LARGE),
        Compression::None | Compression::Gzip | Compression::Bzip2 => false,
    }
}

/// The window of a zstd frame (RFC 8878, 3.1.1.1); `None` of one to be skipped.
fn zstd_window(head: &[u8]) -> Option<u64> {
    let descriptor = *head.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?.first()?;
    let rest = &head[5..];
    if descriptor & 0x20 == 0 {
        let byte = u64::from(*rest.first()?);
        let base = 1u64 << (10 + (byte >> 3));
        return Some(base + base / 8 * (byte & 7));
    }
    // A single segment: the window is the content.
    let dictionary = [0, 1, 2, 4][usize::from(descriptor & 3)];
    let (size, more) = [(1, 0), (2, 256), (4, 0), (8, 0)][usize::from(descriptor >> 6)];
    let mut bytes = [0; 8];
    bytes[..size].copy_from_slice(rest.get(dictionary..dictionary + size)?);
    Some(u64::from_le_bytes(bytes).saturating_add(more))
}

/// The dictionary of the first block of an xz stream (the .xz file format, 3.1 and 5.3.1).
fn xz_window(head: &[u8]) -> Option<u64> {
    let block = head.get(12..)?;
    let flags = *block.get(1)?;
    let mut rest = &block[2..];
    // The sizes, where they are said.
    for said in [0x40, 0x80] {
        if flags & said != 0 {
            xz_number(&mut rest)?;
        }
    }
    for _ in 0..=flags & 3 {
        let (filter, length) = (xz_number(&mut rest)?, xz_number(&mut rest)?);
        if filter == 0x21 {
            let bits = u64::from(*rest.first()?);
            return (bits <= 40).then(|| (2 | (bits & 1)) << (bits / 2 + 11));
        }
        rest = rest.get(usize::try_from(length).ok()?..)?;
    }
    None
}

/// Takes an integer of the .xz format off (1.2): seven bits in a byte, the lowest first.
fn xz_number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for i in 0..9 {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The compression that the first bytes of a stream tell.
pub fn sniff(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        // A skippable frame starts a zstd stream too.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        // The second: a stream of nothing, which has an end and no block.
        [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, ..] => Compression::Bzip2,
        [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, ..] => Compression::Bzip2,
        _ => Compression::None,
    }
}

/// Reads up to `buf.len()` bytes; fewer only at the end.
pub fn read_head(r: &mut dyn Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut n = 0;
    while n < buf.len() {
        match r.read(&mut buf[n..]) {
            Ok(0) => break,
            Ok(m) => n += m,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(n)
}

/// Undoes whatever compression the stream has.
pub fn decoder<'a, R: Read + Send + 'a>(mut r: R) -> Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut head = [0u8; 6];
    let n = read_head(&mut r, &mut head)?;
    let kind = sniff(&head[..n]);
    let whole = io::Cursor::new(head).take(n as u64).chain(r);
    let buffered = || BufReader::with_capacity(64 * 1024, whole);
    Ok(match kind {
        Compression::None => (kind, Box::new(buffered()) as Box<dyn Read + Send>),
        Compression::Gzip => (kind, Box::new(flate2::bufread::MultiGzDecoder::new(buffered()))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered())?;
            decoder.window_log_max(WINDOW)?;
            (kind, Box::new(Bounded(decoder)))
        }
        Compression::Xz => {
            (kind, Box::new(Bounded(lzma_rust2::XzReader::new_mem_limit(buffered(), true, XZ_MEMORY))))
        }
        Compression::Bzip2 => (kind, Box::new(bzip2::bufread::MultiBzDecoder::new(buffered()))),
    })
}

/// A decoder whose window is bounded: says what to do about one that is too large.
struct Bounded<R>(R);

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf).map_err(|e| {
            // The one says it by its kind, the other in words alone.
            let large = e.kind() == io::ErrorKind::OutOfMemory
                || e.kind() == io::ErrorKind::Other && e.to_string().contains("requires too much memory");
            match large {
                true => io::Error::new(
                    io::ErrorKind::InvalidData,
                    format!(
                        "the compression needs a window of more than {} MiB to be undone: compress it with gzip, \
                         zstd -19 or xz -9",
                        1 << (WINDOW - 20)
                    ),
                ),
                false => e,
            }
        })
    }
}

/// A digest being computed, by whichever algorithm digests may name (OCI image-spec, descriptor).
#[derive(Clone)]
pub enum Hasher {
    /// `sha256:`
    Sha256(Sha256),
    /// `sha384:`
    Sha384(Sha384),
    /// `sha512:`
    Sha512(Sha512),
}

impl Hasher {
    /// By the algorithm of another digest (`sha512:...`), or else by sha256.
    pub fn like(digest: &str) -> Self {
        match digest.split_once(':').map(|(algorithm, _)| algorithm) {
            Some("sha512") => Self::Sha512(Sha512::new()),
            Some("sha384") => Self::Sha384(Sha384::new()),
            _ => Self::Sha256(Sha256::new()),
        }
    }

    /// Takes more bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha384(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// `sha256:...`
    pub fn finish(self) -> String {
        match self {
            Self::Sha256(hash) => format!("sha256:{}", hex::encode(hash.finalize())),
            Self::Sha384(hash) => format!("sha384:{}", hex::encode(hash.finalize())),
            Self::Sha512(hash) => format!("sha512:{}", hex::encode(hash.finalize())),
        }
    }
}

/// Counts and digests what passes.
pub struct Digesting<T> {
    inner: T,
    hash: Hasher,
    count: u64,
}

impl<T> Digesting<T> {
    /// Around `inner`, by sha256.
    pub fn new(inner: T) -> Self {
        Self::like(inner, "")
    }

    /// Around `inner`, by the algorithm of another digest.
    pub fn like(inner: T, digest: &str) -> Self {
        Self { inner, hash: Hasher::like(digest), count: 0 }
    }

    /// The digest of everything that passed, and its length.
    pub fn finish(self) -> (String, u64, T) {
        (self.hash.finish(), self.count, self.inner)
    }

    /// Bytes so far.
    pub fn count(&self) -> u64 {
        self.count
    }
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        self.count += n as u64;
        Ok(n)
    }
}

impl<W: io::Write> io::Write for Digesting<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hash.update(&buf[..n]);
        self.count += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// `sha256:...` of some bytes.
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// The digest of some bytes by the algorithm of another digest (`sha512:...`), or else by sha256.
pub fn digest_as(bytes: &[u8], like: &str) -> String {
    let mut hash = Hasher::like(like);
    hash.update(bytes);
    hash.finish()
}

/// What one processor compresses at a time.
const BLOCK: usize = 1 << 20;

/// Compresses a stream on several processors: each block is a gzip member of its own (RFC 1952, 2.2), so that the
/// result depends on the content alone. `told` hears how much has been read.
pub fn gzip_blocks(
    source: &mut dyn Read,
    out: &mut dyn io::Write,
    mut told: impl FnMut(u64),
) -> io::Result<()> {
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().clamp(1, 4));
    std::thread::scope(|scope| {
        let mut lines = Vec::new();
        for _ in 0..workers {
            let (to, work) = mpsc::sync_channel::<Vec<u8>>(1);
            let (done, from) = mpsc::sync_channel::<io::Result<Vec<u8>>>(1);
            scope.spawn(move || {
                while let Ok(block) = work.recv() {
                    let compressed = compress_block(&block);
                    if done.send(compressed).is_err() {
                        return;
                    }
                }
            });
            lines.push((to, from));
        }
        let gone = || io::Error::other("a thread that compresses has ended");
        let (mut sent, mut taken, mut bytes) = (0usize, 0usize, 0u64);
        loop {
            let mut block = vec![0u8; BLOCK];
            let n = read_head(source, &mut block)?;
            // Something is written even of nothing: an empty file is no gzip stream.
            let last = n == 0 && sent > 0;
            if !last {
                block.truncate(n);
                lines[sent % workers].0.send(block).map_err(|_| gone())?;
                sent += 1;
                bytes += n as u64;
                told(bytes);
            }
            // Two blocks for each processor are under way; the rest is waited for in order.
            while taken < sent && (last || sent - taken >= workers * 2) {
                out.write_all(&lines[taken % workers].1.recv().map_err(|_| gone())??)?;
                taken += 1;
            }
            if last {
                return Ok(());
            }
        }
    })
}

fn compress_block(block: &[u8]) -> io::Result<Vec<u8>> {
    let mut gzip =
        flate2::write::GzEncoder::new(Vec::with_capacity(block.len() / 2), flate2::Compression::new(1));
    io::Write::write_all(&mut gzip, block)?;
    gzip.finish()
}

const CHUNK: usize = 256 * 1024;
const AHEAD: usize = 4;

/// Runs `work` on what `source` gives while a second thread reads ahead and digests it (by the algorithm of the digest
/// `like`), at most a megabyte. Returns the digest and length of all that `source` gave; `work` must read to the end,
/// or the rest counts as an error.
pub fn read_ahead<T>(
    mut source: impl Read + Send,
    like: &str,
    work: impl FnOnce(&mut dyn Read) -> Result<T>,
) -> Result<(T, String, u64)> {
    std::thread::scope(|scope| {
        let (full_tx, full_rx) = mpsc::sync_channel::<io::Result<(Vec<u8>, usize)>>(AHEAD);
        let (empty_tx, empty_rx) = mpsc::channel::<Vec<u8>>();
        let reader = scope.spawn(move || {
            let mut hash = Hasher::like(like);
            let mut count = 0u64;
            loop {
                let mut buf = empty_rx.try_recv().unwrap_or_else(|_| vec![0u8; CHUNK]);
                match read_head(&mut source, &mut buf) {
                    Ok(0) => break,
                    Ok(n) => {
                        hash.update(&buf[..n]);
                        count += n as u64;
                        if full_tx.send(Ok((buf, n))).is_err() {
                            break;
                        }
                    }
                    Err(e) => {
                        // The worker reports it; if it is gone, it has an error of its own.
                        let _ = full_tx.send(Err(e));
                        break;
                    }
                }
            }
            (hash.finish(), count)
        });
        let mut stream =
            Ahead { full: full_rx, empty: empty_tx, current: (Vec::new(), 0), at: 0, ended: false };
        let value = work(&mut stream).and_then(|v| {
            let mut rest = [0u8; 4096];
            match stream.read(&mut rest)? {
                0 => Ok(v),
                _ => Err(Error::Corrupt("there is more data after the end of the archive".into())),
            }
        });
        drop(stream);
        let (digest, count) = match reader.join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        Ok((value?, digest, count))
    })
}

struct Ahead {
    full: mpsc::Receiver<io::Result<(Vec<u8>, usize)>>,
    empty: mpsc::Sender<Vec<u8>>,
    current: (Vec<u8>, usize),
    at: usize,
    ended: bool,
}

impl Read for Ahead {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.current.1 {
            if self.ended {
                return Ok(0);
            }
            let old = std::mem::take(&mut self.current.0);
            if !old.is_empty() {
                // The reader may have ended already.
                let _ = self.empty.send(old);
            }
            self.at = 0;
            self.current = match self.full.recv() {
                Ok(next) => next.inspect_err(|_| self.ended = true)?,
                Err(_) => {
                    self.ended = true;
                    (Vec::new(), 0)
                }
            };
        }
        let n = buf.len().min(self.current.1 - self.at);
        buf[..n].copy_from_slice(&self.current.0[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn undoes_each() {
        let text = b"hello ".repeat(100_000);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&text).unwrap();
        for (bytes, want) in [
            (text.clone(), Compression::None),
            (gz.finish().unwrap(), Compression::Gzip),
            (zstd::encode_all(&text[..], 1).unwrap(), Compression::Zstd),
        ] {
            let (kind, mut r) = decoder(&bytes[..]).unwrap();
            let mut out = Vec::new();
            r.read_to_end(&mut out).unwrap();
            assert_eq!((kind, out.len()), (want, text.len()));
        }
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(1)).unwrap();
        xz.write_all(&text).unwrap();
        let (kind, mut r) = decoder(io::Cursor::new(xz.finish().unwrap())).unwrap();
        let mut out = Vec::new();
        r.read_to_end(&mut out).unwrap();
        assert_eq!((kind, out == text), (Compression::Xz, true));
        for text in [&text[..], b""] {
            let mut bz = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            bz.write_all(text).unwrap();
            let (kind, mut r) = decoder(io::Cursor::new(bz.finish().unwrap())).unwrap();
            let mut out = Vec::new();
            r.read_to_end(&mut out).unwrap();
            assert_eq!((kind, out == text), (Compression::Bzip2, true));
        }
        let (_, mut cut) = decoder(&b"BZh91AY"[..]).unwrap();
        assert!(cut.read(&mut [0]).is_err());
    }

    #[test]
    fn windows_are_bounded() {
        let zstd_of = |log: u32| {
            let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
            zstd.window_log(log).unwrap();
            zstd.write_all(b"text").unwrap();
            zstd.finish().unwrap()
        };
        let xz_of = |dictionary: u32| {
            let mut options = lzma_rust2::XzOptions::with_preset(0);
            options.lzma_options.dict_size = dictionary;
            let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            xz.write_all(b"text").unwrap();
            xz.finish().unwrap()
        };
        for (name, bytes, fits) in [
            ("zstd of 8 MiB", zstd_of(23), true),
            ("zstd of 64 MiB", zstd_of(26), true),
            ("zstd of 128 MiB", zstd_of(27), false),
            ("xz of 64 MiB", xz_of(64 << 20), true),
            ("xz of 96 MiB", xz_of(96 << 20), false),
        ] {
            let mut out = Vec::new();
            match decoder(&bytes[..]).unwrap().1.read_to_end(&mut out) {
                Ok(_) => assert!(fits && out == b"text", "{name}"),
                Err(e) => {
                    assert!(!fits && e.kind() == io::ErrorKind::InvalidData, "{name}: {e}");
                    assert!(e.to_string().contains("more than 64 MiB to be undone: compress it with"), "{e}");
                }
            }
        }
    }

    #[test]
    fn large_windows_are_told_by_their_heads() {
        let zstd_of = |log: u32, size: Option<usize>| {
            let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
            zstd.window_log(log).unwrap();
            zstd.set_pledged_src_size(size.map(|n| n as u64)).unwrap();
            zstd.write_all(&vec![0; size.unwrap_or(4)]).unwrap();
            zstd.finish().unwrap()
        };
        let xz_of = |dictionary: u32, delta: bool| {
            let mut options = lzma_rust2::XzOptions::with_preset(0);
            options.lzma_options.dict_size = dictionary;
            if delta {
                options.prepend_pre_filter(lzma_rust2::FilterType::Delta, 4);
            }
            let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
            xz.write_all(b"text").unwrap();
            xz.finish().unwrap()
        };
        let skipped = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 9][..], &zstd_of(20, None)].concat();
        for (name, bytes, large) in [
            ("nothing", Vec::new(), false),
            ("gzip", vec![0x1f, 0x8b, 8], false),
            ("zstd of 8 MiB", zstd_of(23, None), false),
            ("zstd of 16 MiB", zstd_of(24, None), true),
            ("zstd in one segment of 200 bytes", zstd_of(26, Some(200)), false),
            ("zstd in one segment of 300 bytes", zstd_of(26, Some(300)), false),
            ("zstd in one segment of 100 kB", zstd_of(26, Some(100_000)), false),
            ("zstd in one segment of 9 MiB", zstd_of(26, Some(9 << 20)), true),
            ("zstd after what is skipped", skipped, true),
            ("zstd cut off", zstd_of(20, None)[..5].to_vec(), true),
            ("xz of 8 MiB", xz_of(8 << 20, false), false),
            ("xz of 12 MiB", xz_of(12 << 20, false), true),
            ("xz of 64 MiB", xz_of(64 << 20, false), true),
            ("xz of 1 MiB behind a filter", xz_of(1 << 20, true), false),
            ("xz of 16 MiB behind a filter", xz_of(16 << 20, true), true),
            ("xz cut off", xz_of(1 << 20, false)[..14].to_vec(), true),
        ] {
            assert_eq!(has_large_window(&bytes[..bytes.len().min(HEAD)]), large, "{name}");
        }
        assert!(turn(b"plain").is_none());
        let held = turn(&zstd_of(24, None));
        assert!(held.is_some() && turn(&zstd_of(24, None)).is_some());
        std::thread::spawn(|| assert!(TURN.try_lock().is_none())).join().unwrap();
    }

    #[test]
    fn blocks_are_one_gzip_stream() {
        for length in [0usize, 1, BLOCK - 1, BLOCK, 7 * BLOCK + 5] {
            let data: Vec<u8> = (0..length).map(|i| (i / 3 % 251) as u8).collect();
            let (mut out, mut told) = (Vec::new(), 0);
            gzip_blocks(&mut &data[..], &mut out, |n| told = n).unwrap();
            let mut back = Vec::new();
            flate2::read::MultiGzDecoder::new(&out[..]).read_to_end(&mut back).unwrap();
            assert!(back == data && told == length as u64, "{length}");
        }
        let broken = &mut (&b"abc"[..]).chain(Broken);
        assert!(gzip_blocks(broken, &mut Vec::new(), |_| {}).is_err());
    }

    struct Broken;

    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::Error::other("broken"))
        }
    }

    #[test]
    fn reads_ahead() {
        let data: Vec<u8> = (0..3_000_000u32).map(|i| i as u8).collect();
        let (n, digest, count) = read_ahead(&data[..], "", |r| Ok(io::copy(r, &mut io::sink())?)).unwrap();
        assert_eq!((n, count, digest), (3_000_000, 3_000_000, digest_of(&data)));
        assert!(read_ahead(&data[..], "", |_| Ok(())).is_err());
    }
}
