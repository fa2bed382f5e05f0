//! The tar format: a reader that can tell its exact bytes apart from files' contents, and a writer.
//!
//! Read are v7, ustar, GNU (long names, sparse files) and pax (with `SCHILY.xattr` and sparse files); written are ustar
//! and pax as Go's archive/tar writes them. The reader is total: any bytes give entries or an error, in bounded memory.

mod pax;
mod read;
mod write;

use std::io;

pub(crate) use read::is_header;
pub use read::{Reader, Tee};
pub use write::{END, archive, header, pad, write_entry};

const BLOCK: usize = 512;
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

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("archive/tar: {what}"))
}

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

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

    /// A header with a right checksum.
    fn special(kind: u8, data: &[u8]) -> Vec<u8> {
        let mut e = Entry::new("x", Kind::File);
        e.size = data.len() as u64;
        let mut out = header(&e);
        out[156] = kind;
        out[148..156].copy_from_slice(b"        ");
        let sum: u32 = out[..512].iter().map(|b| u32::from(*b)).sum();
        out[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        out.extend_from_slice(data);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
        out
    }

    fn record(key: &str, value: &str) -> String {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len() + 1;
        while length != rest.len() + length.to_string().len() {
            length = rest.len() + length.to_string().len();
        }
        format!("{length}{rest}")
    }

    #[test]
    fn what_is_said_of_all_entries_is_short() {
        let file = special(b'0', b"abc");
        let with = |value: &str| [special(b'g', record("comment", value).as_bytes()), file.clone()].concat();
        assert_eq!(read_all(&with("a commit")).unwrap()[0].1, b"abc");
        let e = read_all(&with(&"x".repeat(70_000))).unwrap_err().to_string();
        assert!(e.contains("header fields too long"), "{e}");
    }

    #[test]
    fn a_sparse_map_is_looked_through_once() {
        let pax = [record("GNU.sparse.major", "1"), record("GNU.sparse.realsize", "4")].concat();
        let of = |map: &[u8]| [special(b'x', pax.as_bytes()), special(b'0', map)].concat();
        let mut small = b"1\n0\n4\n".to_vec();
        small.resize(BLOCK, 0);
        small.extend_from_slice(b"data");
        assert_eq!(read_all(&of(&small)).unwrap()[0].0.sparse, Some((vec![(0, 4)], 4)));
        // A number of a megabyte, with so many blocks looked through for its end, each from the front again.
        let mut long = [vec![b'0'; 1 << 20], b"1\n0\n4\n".to_vec()].concat();
        long.resize(long.len().next_multiple_of(BLOCK), 0);
        long.extend_from_slice(b"data");
        assert_eq!(read_all(&of(&long)).unwrap_err().to_string(), "archive/tar: invalid sparse map");
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
