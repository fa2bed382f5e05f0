//! The records of pax headers.

use std::io;

use super::bad;

/// A decimal number.
pub(super) fn decimal(b: &[u8]) -> Option<u64> {
    std::str::from_utf8(b).ok()?.parse().ok()
}

/// The records of pax headers that we know.
#[derive(Debug, Clone, Default)]
pub(super) struct Pax {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<u64>,
    pub uid: Option<u64>,
    pub gid: Option<u64>,
    pub mtime: Option<(i64, u32)>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: Option<PaxSparse>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct PaxSparse {
    pub name: Option<Vec<u8>>,
    pub size: u64,
    pub map: Vec<(u64, u64)>,
    pub in_data: bool,
    pub offset: u64,
}

impl Pax {
    pub fn parse(&mut self, mut data: &[u8]) -> io::Result<()> {
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

    pub fn over(self, global: &Pax) -> Pax {
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
