//! Frames of SPDY/3.1 (draft 3.1, section 2.6): bytes to frames and back.
//!
//! Promises: no input panics; memory is bounded: control frames by `MAX_CONTROL`, data frames are handed out in
//! pieces as they arrive and never gathered. It leaves the meaning of frames to `session`.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Error;
use super::headers::{Deflater, Headers, Inflater};

/// The largest control frame accepted, in bytes.
pub const MAX_CONTROL: usize = 64 * 1024;
/// The last frame of this direction of the stream.
pub const FLAG_FIN: u8 = 1;
/// The peer of the stream must not answer on it.
pub const FLAG_UNIDIRECTIONAL: u8 = 2;
/// SETTINGS_INITIAL_WINDOW_SIZE (section 2.6.4).
pub const SETTINGS_INITIAL_WINDOW_SIZE: u32 = 7;

const HEADER: usize = 8;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Odd when the client opens it.
        id: u32,
        /// The opener sends nothing more.
        fin: bool,
        /// The opener wants no answer.
        unidirectional: bool,
        /// What the stream is for.
        headers: Headers,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        id: u32,
        /// The sender sends nothing more.
        fin: bool,
        /// Usually empty.
        headers: Headers,
    },
    /// Ends a stream abnormally.
    RstStream {
        /// The stream.
        id: u32,
        /// Section 2.6.3: 1 protocol error, 2 invalid stream, 3 refused, 5 cancel, 7 flow control error.
        status: u32,
    },
    /// Pairs of setting and value.
    Settings(Vec<(u32, u32)>),
    /// To be returned as it is by who did not send it first.
    Ping(u32),
    /// The sender accepts no more streams.
    GoAway {
        /// The last stream it has taken care of.
        last: u32,
        /// 0 is well.
        status: u32,
    },
    /// More headers of an open stream.
    Headers {
        /// The stream.
        id: u32,
        /// The sender sends nothing more.
        fin: bool,
        /// The headers.
        headers: Headers,
    },
    /// The receiver can take `delta` more bytes.
    WindowUpdate {
        /// The stream; 0 is the whole connection.
        id: u32,
        /// Bytes.
        delta: u32,
    },
    /// A piece of a data frame; `fin` only on its last piece.
    Data {
        /// The stream.
        id: u32,
        /// The sender sends nothing more.
        fin: bool,
        /// At most what one read brought.
        data: Bytes,
    },
    /// A control frame of a type that is to be ignored.
    Unknown(u16),
}

/// Bytes to frames.
#[derive(Default)]
pub struct Decoder {
    buffer: BytesMut,
    inflater: Inflater,
    /// What is still to come of the data frame begun: stream, fin flag, bytes.
    data: Option<(u32, bool, usize)>,
}

impl Decoder {
    /// Takes bytes from the wire. The caller draws `decode` until it answers None before it feeds more.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next frame, None if more bytes are needed. After an error the connection is of no more use.
    pub fn decode(&mut self) -> Result<Option<Frame>, Error> {
        if let Some((id, fin, left)) = self.data {
            if self.buffer.is_empty() {
                return Ok(None);
            }
            let data = self.buffer.split_to(left.min(self.buffer.len())).freeze();
            let left = left - data.len();
            self.data = (left > 0).then_some((id, fin, left));
            return Ok(Some(Frame::Data { id, fin: fin && left == 0, data }));
        }
        if self.buffer.len() < HEADER {
            return Ok(None);
        }
        let first = u32::from_be_bytes([self.buffer[0], self.buffer[1], self.buffer[2], self.buffer[3]]);
        let flags = self.buffer[4];
        let length = u32::from_be_bytes([0, self.buffer[5], self.buffer[6], self.buffer[7]]) as usize;
        if first & 0x8000_0000 == 0 {
            self.buffer.advance(HEADER);
            let fin = flags & FLAG_FIN != 0;
            if length == 0 {
                return Ok(Some(Frame::Data { id: first, fin, data: Bytes::new() }));
            }
            self.data = Some((first, fin, length));
            return self.decode();
        }
        if length > MAX_CONTROL {
            return Err(Error::Protocol("a control frame is larger than 64 KiB"));
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        self.buffer.advance(HEADER);
        let body = self.buffer.split_to(length).freeze();
        let (version, kind) = ((first >> 16 & 0x7fff) as u16, first as u16);
        if version != 3 {
            return Err(Error::Protocol("a frame is not of SPDY version 3"));
        }
        self.control(kind, flags, body).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, Error> {
        let fixed = match kind {
            1 => 10,
            2 | 4 | 6 | 8 => 4,
            3 | 7 | 9 => 8,
            _ => return Ok(Frame::Unknown(kind)),
        };
        if body.len() < fixed {
            return Err(Error::Protocol("a control frame is too short"));
        }
        let fin = flags & FLAG_FIN != 0;
        Ok(match kind {
            1 => {
                let id = body.get_u32() & 0x7fff_ffff;
                body.advance(6); // associated stream, priority, slot
                let headers = self.inflater.block(&body)?;
                Frame::SynStream { id, fin, unidirectional: flags & FLAG_UNIDIRECTIONAL != 0, headers }
            }
            2 => {
                let id = body.get_u32() & 0x7fff_ffff;
                Frame::SynReply { id, fin, headers: self.inflater.block(&body)? }
            }
            3 => Frame::RstStream { id: body.get_u32() & 0x7fff_ffff, status: body.get_u32() },
            4 => {
                let count = body.get_u32() as usize;
                if body.len() != count.saturating_mul(8) {
                    return Err(Error::Protocol("a SETTINGS frame lies about its length"));
                }
                Frame::Settings((0..count).map(|_| (body.get_u32() & 0x00ff_ffff, body.get_u32())).collect())
            }
            6 => Frame::Ping(body.get_u32()),
            7 => Frame::GoAway { last: body.get_u32() & 0x7fff_ffff, status: body.get_u32() },
            8 => {
                let id = body.get_u32() & 0x7fff_ffff;
                Frame::Headers { id, fin, headers: self.inflater.block(&body)? }
            }
            9 => {
                Frame::WindowUpdate { id: body.get_u32() & 0x7fff_ffff, delta: body.get_u32() & 0x7fff_ffff }
            }
            _ => Frame::Unknown(kind),
        })
    }
}

/// Frames to bytes.
#[derive(Default)]
pub struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    /// Appends `frame` to `out`.
    pub fn put(&mut self, frame: &Frame, out: &mut BytesMut) -> Result<(), Error> {
        let flag = |fin: &bool| if *fin { FLAG_FIN } else { 0 };
        match frame {
            Frame::Data { id, fin, data } => {
                // The length has 24 bits; callers send far less at a time, but a frame must never lie.
                let mut rest = data.clone();
                loop {
                    let piece = rest.split_to(rest.len().min(0x00ff_ffff));
                    out.put_u32(id & 0x7fff_ffff);
                    out.put_u32(piece.len() as u32 | u32::from(flag(&(*fin && rest.is_empty()))) << 24);
                    out.put_slice(&piece);
                    if rest.is_empty() {
                        return Ok(());
                    }
                }
            }
            Frame::SynStream { id, fin, unidirectional, headers } => {
                let block = self.deflater.block(headers)?;
                let flags = flag(fin) | if *unidirectional { FLAG_UNIDIRECTIONAL } else { 0 };
                control(out, 1, flags, 10 + block.len());
                out.put_u32(*id);
                out.put_u32(0);
                out.put_u16(0);
                out.put_slice(&block);
            }
            Frame::SynReply { id, fin, headers } => {
                let block = self.deflater.block(headers)?;
                control(out, 2, flag(fin), 4 + block.len());
                out.put_u32(*id);
                out.put_slice(&block);
            }
            Frame::Headers { id, fin, headers } => {
                let block = self.deflater.block(headers)?;
                control(out, 8, flag(fin), 4 + block.len());
                out.put_u32(*id);
                out.put_slice(&block);
            }
            Frame::RstStream { id, status } => two(out, 3, *id, *status),
            Frame::GoAway { last, status } => two(out, 7, *last, *status),
            Frame::WindowUpdate { id, delta } => two(out, 9, *id, *delta),
            Frame::Ping(id) => {
                control(out, 6, 0, 4);
                out.put_u32(*id);
            }
            Frame::Settings(entries) => {
                control(out, 4, 0, 4 + 8 * entries.len());
                out.put_u32(entries.len() as u32);
                for (id, value) in entries {
                    out.put_u32(*id);
                    out.put_u32(*value);
                }
            }
            Frame::Unknown(_) => {}
        }
        Ok(())
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32(length as u32 & 0x00ff_ffff | u32::from(flags) << 24);
}

fn two(out: &mut BytesMut, kind: u16, a: u32, b: u32) {
    control(out, kind, 0, 8);
    out.put_u32(a);
    out.put_u32(b);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(bytes: &[u8]) -> Result<Vec<Frame>, Error> {
        let mut decoder = Decoder::default();
        decoder.feed(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = decoder.decode()? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn bytes_of_the_specification() {
        let table: &[(&[u8], Frame)] = &[
            (b"\x80\x03\x00\x06\x00\x00\x00\x04\x00\x00\x00\x07", Frame::Ping(7)),
            (
                b"\x80\x03\x00\x03\x00\x00\x00\x08\x00\x00\x00\x05\x00\x00\x00\x01",
                Frame::RstStream { id: 5, status: 1 },
            ),
            (
                b"\x80\x03\x00\x07\x00\x00\x00\x08\x00\x00\x00\x05\x00\x00\x00\x00",
                Frame::GoAway { last: 5, status: 0 },
            ),
            (
                b"\x80\x03\x00\x09\x00\x00\x00\x08\x00\x00\x00\x05\x00\x01\x00\x00",
                Frame::WindowUpdate { id: 5, delta: 65536 },
            ),
            (
                b"\x80\x03\x00\x04\x00\x00\x00\x0c\x00\x00\x00\x01\x01\x00\x00\x07\x00\x00\x10\x00",
                Frame::Settings(vec![(7, 4096)]),
            ),
            (
                b"\x00\x00\x00\x03\x01\x00\x00\x02hi",
                Frame::Data { id: 3, fin: true, data: Bytes::from_static(b"hi") },
            ),
            (b"\x80\x03\x00\x63\x00\x00\x00\x01x", Frame::Unknown(99)),
        ];
        for (bytes, frame) in table {
            assert_eq!(decode(bytes).unwrap(), std::slice::from_ref(frame));
            // ... and cut anywhere, nothing comes out before its end and nothing breaks.
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for byte in *bytes {
                decoder.feed(&[*byte]);
                while let Some(frame) = decoder.decode().unwrap() {
                    got.push(frame);
                }
            }
            match frame {
                Frame::Data { .. } => assert!(matches!(got.last(), Some(Frame::Data { fin: true, .. }))),
                _ => assert_eq!(got, std::slice::from_ref(frame)),
            }
        }
    }

    #[test]
    fn frames_survive_the_round_trip() {
        let headers = vec![("streamtype".to_string(), "error".to_string())];
        let frames = vec![
            Frame::SynStream { id: 1, fin: false, unidirectional: true, headers: headers.clone() },
            Frame::SynReply { id: 1, fin: true, headers: vec![] },
            Frame::Headers { id: 1, fin: false, headers },
            Frame::Settings(vec![(4, 100), (7, 1)]),
            Frame::Data { id: 1, fin: true, data: Bytes::new() },
            Frame::Ping(2),
        ];
        let (mut encoder, mut out) = (Encoder::default(), BytesMut::new());
        for frame in &frames {
            encoder.put(frame, &mut out).unwrap();
        }
        assert_eq!(decode(&out).unwrap(), frames);
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_panic() {
        for bad in [
            &b"\x80\x02\x00\x06\x00\x00\x00\x04\x00\x00\x00\x07"[..], // version 2
            b"\x80\x03\x00\x06\x00\x00\x00\x00",                      // too short
            b"\x80\x03\x00\x01\x00\xff\xff\xff",                      // too long
            b"\x80\x03\x00\x04\x00\x00\x00\x04\xff\xff\xff\xff",      // a count that is a lie
            b"\x80\x03\x00\x01\x00\x00\x00\x0c\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00ab",
        ] {
            assert!(decode(bad).is_err(), "{bad:?}");
        }
        let mut seed = 1u64;
        for _ in 0..2000 {
            let noise: Vec<u8> = (0..64)
                .map(|i| {
                    seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    if i < 3 { [0x80, 3, 0][i] } else { (seed >> 33) as u8 }
                })
                .collect();
            let _ = decode(&noise);
        }
    }
}
