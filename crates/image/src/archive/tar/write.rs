//! Writing archives.

use std::io::{self, Write};

use super::{BLOCK, Entry, Kind, ZEROS, padding};

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

/// A whole archive of a few files at hand: paths and their content. A path that ends with a slash is a folder.
pub fn archive(files: &[(&str, &[u8])]) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    for (path, content) in files {
        let folder = path.ends_with('/');
        let mut e = Entry::new(*path, if folder { Kind::Dir } else { Kind::File });
        e.size = if folder { 0 } else { content.len() as u64 };
        write_entry(&mut out, &e, if folder { &[] } else { content })?;
    }
    out.extend_from_slice(&END);
    Ok(out)
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
