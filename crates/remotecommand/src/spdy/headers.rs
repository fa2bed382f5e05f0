//! Header blocks of SPDY/3 (draft 3.1, section 2.6.10): name/value pairs, compressed by one zlib stream for each
//! direction that starts from a fixed dictionary and is flushed after every block.
//!
//! Promises: memory is bounded by `MAX_BLOCK` whatever the peer sends; names come out in lower case as the
//! specification demands of the sender; several values of one name come out as several pairs.

use std::sync::LazyLock;

use bytes::{BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::Error;

/// The largest header block accepted after decompression, in bytes.
pub const MAX_BLOCK: usize = 4 * 1024;

/// Headers of one stream, in the order of the wire.
pub type Headers = Vec<(String, String)>;

/// The words of the dictionary in section 2.6.10.1; each is preceded by its length on the wire.
const WORDS: &str = "options|head|post|put|delete|trace|accept|accept-charset|accept-encoding|accept-language|\
accept-ranges|age|allow|authorization|cache-control|connection|content-base|content-encoding|content-language|\
content-length|content-location|content-md5|content-range|content-type|date|etag|expect|expires|from|host|if-match|\
if-modified-since|if-none-match|if-range|if-unmodified-since|last-modified|location|max-forwards|pragma|\
proxy-authenticate|proxy-authorization|range|referer|retry-after|server|te|trailer|transfer-encoding|upgrade|\
user-agent|vary|via|warning|www-authenticate|method|get|status|200 OK|version|HTTP/1.1|url|public|set-cookie|\
keep-alive|origin";

/// What follows the words, without lengths.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut out = Vec::with_capacity(1423);
    for word in WORDS.split('|') {
        out.extend_from_slice(&(word.len() as u32).to_be_bytes());
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(TAIL.as_bytes());
    out
});

/// The receiving side of one connection's header compression.
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflater {
    /// Decompresses and parses one block. After an error the connection is of no more use: the stream's state is lost.
    pub fn block(&mut self, compressed: &[u8]) -> Result<Headers, Error> {
        let mut plain = Vec::with_capacity(1024);
        let mut input = compressed;
        while !input.is_empty() {
            if plain.len() >= MAX_BLOCK {
                return Err(Error::Protocol("a header block is larger than 4 KiB"));
            }
            if plain.len() == plain.capacity() {
                plain.reserve(4096);
            }
            let (before_in, before_out) = (self.0.total_in(), plain.len());
            match self.0.decompress_vec(input, &mut plain, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(Error::Protocol("the header compression stream ended")),
                Ok(_) => {}
                Err(e) if e.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| Error::Protocol("foreign zlib dictionary"))?;
                    let used = (self.0.total_in() - before_in) as usize;
                    input = input.get(used..).unwrap_or_default();
                    continue;
                }
                Err(_) => return Err(Error::Protocol("a header block does not decompress")),
            }
            let used = (self.0.total_in() - before_in) as usize;
            input = input.get(used..).unwrap_or_default();
            if used == 0 && plain.len() == before_out && plain.len() < plain.capacity() {
                return Err(Error::Protocol("a header block does not decompress"));
            }
        }
        // The input may be used up while output is still held back: draw until the buffer stays unfilled.
        while plain.len() == plain.capacity() {
            if plain.len() >= MAX_BLOCK {
                return Err(Error::Protocol("a header block is larger than 4 KiB"));
            }
            plain.reserve(4096);
            let before = plain.len();
            match self.0.decompress_vec(&[], &mut plain, FlushDecompress::Sync) {
                Ok(Status::Ok | Status::BufError) if plain.len() > before => {}
                Ok(Status::Ok | Status::BufError) => break,
                _ => return Err(Error::Protocol("a header block does not decompress")),
            }
        }
        parse(&plain)
    }
}

/// The sending side of one connection's header compression.
pub struct Deflater {
    zlib: Compress,
    started: bool,
}

impl Default for Deflater {
    fn default() -> Self {
        Self { zlib: Compress::new(Compression::fast(), true), started: false }
    }
}

impl Deflater {
    /// Encodes and compresses one block.
    pub fn block(&mut self, headers: &Headers) -> Result<Bytes, Error> {
        if !self.started {
            self.started = true;
            self.zlib
                .set_dictionary(&DICTIONARY)
                .map_err(|_| Error::Protocol("zlib refuses the dictionary"))?;
        }
        let plain = print(headers);
        let mut out = Vec::with_capacity(plain.len() + 128);
        let start = self.zlib.total_in();
        loop {
            let used = (self.zlib.total_in() - start) as usize;
            self.zlib
                .compress_vec(&plain[used..], &mut out, FlushCompress::Sync)
                .map_err(|_| Error::Protocol("zlib cannot compress a header block"))?;
            if (self.zlib.total_in() - start) as usize == plain.len() && out.len() < out.capacity() {
                return Ok(out.into());
            }
            out.reserve(plain.len() + 128);
        }
    }
}

fn print(headers: &Headers) -> BytesMut {
    // One name must stand once; its values are joined by NUL (section 2.6.10).
    let mut merged: Vec<(String, String)> = Vec::with_capacity(headers.len());
    for (name, value) in headers {
        let name = name.to_ascii_lowercase();
        match merged.iter_mut().find(|(n, _)| *n == name) {
            Some((_, v)) => {
                v.push('\0');
                v.push_str(value);
            }
            None => merged.push((name, value.clone())),
        }
    }
    let mut out = BytesMut::new();
    out.put_u32(merged.len() as u32);
    for (name, value) in &merged {
        for text in [name, value] {
            out.put_u32(text.len() as u32);
            out.put_slice(text.as_bytes());
        }
    }
    out
}

fn parse(mut block: &[u8]) -> Result<Headers, Error> {
    fn number(block: &mut &[u8]) -> Result<usize, Error> {
        let (head, rest) = block.split_at_checked(4).ok_or(Error::Protocol("a header block is cut off"))?;
        *block = rest;
        Ok(u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize)
    }
    fn text(block: &mut &[u8]) -> Result<String, Error> {
        let length = number(block)?;
        let (head, rest) =
            block.split_at_checked(length).ok_or(Error::Protocol("a header block is cut off"))?;
        *block = rest;
        String::from_utf8(head.to_vec()).map_err(|_| Error::Protocol("a header is not UTF-8"))
    }
    let count = number(&mut block)?;
    let mut out = Vec::with_capacity(count.min(32));
    for _ in 0..count {
        let name = text(&mut block)?;
        let value = text(&mut block)?;
        if name.is_empty() {
            return Err(Error::Protocol("a header has no name"));
        }
        for one in value.split('\0') {
            out.push((name.to_ascii_lowercase(), one.to_owned()));
        }
    }
    if block.is_empty() { Ok(out) } else { Err(Error::Protocol("a header block has bytes left over")) }
}

/// The first value of `name` (lower case).
pub fn get<'a>(headers: &'a Headers, name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Headers {
        list.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect()
    }

    #[test]
    fn the_dictionary_is_the_specifications() {
        let (mut a, mut b) = (1u32, 0u32);
        for &byte in DICTIONARY.iter() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!(DICTIONARY.len(), 1423);
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_survive_the_round_trip_and_share_one_stream() {
        let (mut out, mut back) = (Deflater::default(), Inflater::default());
        for i in 0..50 {
            let headers = pairs(&[("streamtype", "data"), ("port", &i.to_string()), ("x", "a"), ("x", "b")]);
            let block = out.block(&headers).unwrap();
            assert_eq!(back.block(&block).unwrap(), headers);
        }
        let long = pairs(&[("long", &"0123456789abcdef".repeat(250))]);
        assert_eq!(back.block(&out.block(&long).unwrap()).unwrap(), long);
    }

    #[test]
    fn refuses_what_is_no_block() {
        for bad in [&b"\x00\x00\x00\x01"[..], b"\xff\xff\xff\xff", b"", b"\0\0\0\x01\0\0\0\x01a\0\0\0\x01bc"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(Inflater::default().block(b"not zlib at all").is_err());
        let mut bomb = Compress::new(Compression::best(), true);
        let mut out = Vec::with_capacity(1 << 20);
        bomb.set_dictionary(&DICTIONARY).unwrap();
        bomb.compress_vec(&vec![0u8; 8 << 20], &mut out, FlushCompress::Sync).unwrap();
        assert!(matches!(Inflater::default().block(&out), Err(Error::Protocol(m)) if m.contains("4 KiB")));
    }
}
