//! The server's side of one SPDY/3.1 connection as a pure state machine: bytes in, events out; commands in, bytes out.
//!
//! Promises: no I/O, no clock, no panics; at most `MAX_STREAMS` streams; data is sent only as the peer's windows allow
//! and every received byte that was consumed is given back with WINDOW_UPDATE. Peers that take no part in flow control
//! (Go's spdystream, and so every kubectl, neither announces nor updates windows) are never made to wait for a window:
//! windows bind only after the peer's first SETTINGS with a window size or first WINDOW_UPDATE.

use std::collections::{BTreeMap, VecDeque};

use bytes::{Bytes, BytesMut};

use super::Error;
use super::frame::{Decoder, Encoder, Frame, SETTINGS_INITIAL_WINDOW_SIZE};
use super::headers::Headers;

/// How many streams one connection may have open.
pub const MAX_STREAMS: usize = 2048;
/// The window of section 2.6.8 where nothing else was said.
const DEFAULT_WINDOW: i64 = 64 * 1024;
/// Consumed bytes are given back when they reach half a window.
const GIVE_BACK: u32 = (DEFAULT_WINDOW / 2) as u32;
/// No data frame is longer: others get their turn.
const MAX_DATA: usize = 32 * 1024;

const PROTOCOL_ERROR: u32 = 1;
const REFUSED_STREAM: u32 = 3;
const INVALID_STREAM: u32 = 2;

/// What the peer did.
#[derive(Debug, PartialEq, Eq)]
pub enum Event {
    /// It opened a stream; answer with `reply` or `reset`.
    Opened {
        /// The stream.
        id: u32,
        /// What it is for.
        headers: Headers,
    },
    /// It sent data; report it with `consumed` when it has been used.
    Data {
        /// The stream.
        id: u32,
        /// Never empty.
        data: Bytes,
    },
    /// It will send nothing more on this stream.
    Finished {
        /// The stream.
        id: u32,
    },
    /// The stream is gone in both directions.
    Reset {
        /// The stream.
        id: u32,
    },
}

struct Stream<T> {
    receiving: bool,
    sending: bool,
    /// Bytes we may send, as the peer would have it.
    window: i64,
    /// Bytes the peer sent, used and not yet given back.
    used: u32,
    queue: VecDeque<(Bytes, T)>,
    finishing: bool,
}

/// One connection. `T` is a token that comes back from `sent` when the bytes given with it are in the output.
pub struct Session<T> {
    decoder: Decoder,
    encoder: Encoder,
    out: BytesMut,
    streams: BTreeMap<u32, Stream<T>>,
    events: VecDeque<Event>,
    sent: Vec<T>,
    last: u32,
    gone: bool,
    controlled: bool,
    initial: i64,
    window: i64,
    used: u32,
}

impl<T> Default for Session<T> {
    fn default() -> Self {
        Self {
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            out: BytesMut::new(),
            streams: BTreeMap::new(),
            events: VecDeque::new(),
            sent: Vec::new(),
            last: 0,
            gone: false,
            controlled: false,
            initial: DEFAULT_WINDOW,
            window: DEFAULT_WINDOW,
            used: 0,
        }
    }
}

impl<T> Session<T> {
    /// Takes bytes from the wire; draw `event` until None before giving more.
    pub fn receive(&mut self, bytes: &[u8]) {
        self.decoder.feed(bytes);
    }

    /// The next thing the peer did. After an error the connection must be closed.
    pub fn event(&mut self) -> Result<Option<Event>, Error> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.decoder.decode()? {
                Some(frame) => self.frame(frame)?,
                None => return Ok(None),
            }
        }
    }

    /// The bytes to write; the caller takes what it has written.
    pub fn output(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// The tokens of what has got into the output since the last call.
    pub fn sent(&mut self) -> Vec<T> {
        std::mem::take(&mut self.sent)
    }

    /// Accepts a stream.
    pub fn reply(&mut self, id: u32) -> Result<(), Error> {
        if self.streams.contains_key(&id) {
            self.encoder.put(&Frame::SynReply { id, fin: false, headers: Headers::new() }, &mut self.out)?;
        }
        Ok(())
    }

    /// Sends data. The token is dropped if the stream cannot send any more.
    pub fn send(&mut self, id: u32, data: Bytes, token: T) -> Result<(), Error> {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.sending
            && !stream.finishing
        {
            stream.queue.push_back((data, token));
            self.flush(id)?;
        }
        Ok(())
    }

    /// Says that nothing more will be sent, after what is queued.
    pub fn finish(&mut self, id: u32) -> Result<(), Error> {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.finishing = true;
            self.flush(id)?;
        }
        Ok(())
    }

    /// Ends a stream in both directions, now.
    pub fn reset(&mut self, id: u32) -> Result<(), Error> {
        const CANCEL: u32 = 5;
        if self.streams.remove(&id).is_some() {
            self.put(Frame::RstStream { id, status: CANCEL })?;
        }
        Ok(())
    }

    /// Gives `bytes` of received data back to the peer's window.
    pub fn consumed(&mut self, id: u32, bytes: u32) -> Result<(), Error> {
        self.used += bytes;
        if self.used >= GIVE_BACK {
            let delta = std::mem::take(&mut self.used);
            self.put(Frame::WindowUpdate { id: 0, delta })?;
        }
        if let Some(stream) = self.streams.get_mut(&id).filter(|s| s.receiving) {
            stream.used += bytes;
            if stream.used >= GIVE_BACK {
                let delta = std::mem::take(&mut stream.used);
                self.put(Frame::WindowUpdate { id, delta })?;
            }
        }
        Ok(())
    }

    /// Accepts no more streams.
    pub fn go_away(&mut self) -> Result<(), Error> {
        if !std::mem::replace(&mut self.gone, true) {
            self.put(Frame::GoAway { last: self.last, status: 0 })?;
        }
        Ok(())
    }

    fn put(&mut self, frame: Frame) -> Result<(), Error> {
        self.encoder.put(&frame, &mut self.out)
    }

    fn frame(&mut self, frame: Frame) -> Result<(), Error> {
        match frame {
            Frame::SynStream { id, fin, unidirectional, headers } => {
                if id % 2 == 0 || id <= self.last {
                    return self.put(Frame::RstStream { id, status: PROTOCOL_ERROR });
                }
                self.last = id;
                if self.gone || self.streams.len() >= MAX_STREAMS {
                    return self.put(Frame::RstStream { id, status: REFUSED_STREAM });
                }
                let stream = Stream {
                    receiving: !fin,
                    sending: !unidirectional,
                    window: self.initial,
                    used: 0,
                    queue: VecDeque::new(),
                    finishing: false,
                };
                self.streams.insert(id, stream);
                self.events.push_back(Event::Opened { id, headers });
                if fin {
                    self.events.push_back(Event::Finished { id });
                }
            }
            Frame::Data { id, fin, data } => match self.streams.get_mut(&id) {
                Some(stream) if stream.receiving => {
                    if !data.is_empty() {
                        self.events.push_back(Event::Data { id, data });
                    }
                    if fin {
                        self.remote_finished(id);
                    }
                }
                // A stream that was reset here may still have data under way; the whole connection's window must live on.
                Some(_) | None => {
                    self.consumed(id, data.len() as u32)?;
                    if id > self.last {
                        self.put(Frame::RstStream { id, status: INVALID_STREAM })?;
                    }
                }
            },
            Frame::Headers { id, fin: true, .. } | Frame::SynReply { id, fin: true, .. } => {
                self.remote_finished(id)
            }
            Frame::RstStream { id, .. } => {
                if self.streams.remove(&id).is_some() {
                    self.events.push_back(Event::Reset { id });
                }
            }
            Frame::Settings(entries) => {
                for (_, value) in entries.iter().filter(|(id, _)| *id == SETTINGS_INITIAL_WINDOW_SIZE) {
                    let size = i64::from(*value & 0x7fff_ffff);
                    let change = size - self.initial;
                    self.initial = size;
                    self.controlled = true;
                    self.streams.values_mut().for_each(|s| s.window += change);
                }
                self.flush_all()?;
            }
            // Even numbers are ours, and we never ask.
            Frame::Ping(id) if id % 2 == 1 => self.put(Frame::Ping(id))?,
            Frame::WindowUpdate { id, delta } => {
                self.controlled = true;
                let window = match self.streams.get_mut(&id) {
                    Some(stream) => &mut stream.window,
                    None if id == 0 => &mut self.window,
                    None => return Ok(()),
                };
                *window += i64::from(delta);
                if *window > 0x7fff_ffff {
                    return Err(Error::Protocol("a window grew beyond 2^31 - 1"));
                }
                self.flush_all()?;
            }
            Frame::GoAway { .. } => self.gone = true,
            Frame::Headers { .. } | Frame::SynReply { .. } | Frame::Ping(_) | Frame::Unknown(_) => {}
        }
        Ok(())
    }

    fn remote_finished(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && std::mem::replace(&mut stream.receiving, false)
        {
            self.events.push_back(Event::Finished { id });
            if !stream.sending {
                self.streams.remove(&id);
            }
        }
    }

    fn flush_all(&mut self) -> Result<(), Error> {
        let ids: Vec<u32> =
            self.streams.iter().filter(|(_, s)| !s.queue.is_empty()).map(|(id, _)| *id).collect();
        ids.into_iter().try_for_each(|id| self.flush(id))
    }

    /// Moves what the windows allow from a stream's queue to the output.
    fn flush(&mut self, id: u32) -> Result<(), Error> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        while let Some((data, _)) = stream.queue.front_mut() {
            let allowed =
                if self.controlled { stream.window.min(self.window).max(0) as usize } else { MAX_DATA };
            let piece = data.split_to(data.len().min(allowed).min(MAX_DATA));
            if piece.is_empty() && !data.is_empty() {
                return Ok(());
            }
            stream.window -= piece.len() as i64;
            self.window -= piece.len() as i64;
            if data.is_empty()
                && let Some((_, token)) = stream.queue.pop_front()
            {
                self.sent.push(token);
            }
            if !piece.is_empty() {
                self.encoder.put(&Frame::Data { id, fin: false, data: piece }, &mut self.out)?;
            }
        }
        if stream.finishing && std::mem::replace(&mut stream.sending, false) {
            self.encoder.put(&Frame::Data { id, fin: true, data: Bytes::new() }, &mut self.out)?;
            if !stream.receiving {
                self.streams.remove(&id);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(encoder: &mut Encoder, frames: &[Frame]) -> BytesMut {
        let mut out = BytesMut::new();
        frames.iter().for_each(|f| encoder.put(f, &mut out).unwrap());
        out
    }

    fn open(id: u32) -> Frame {
        Frame::SynStream {
            id,
            fin: false,
            unidirectional: false,
            headers: vec![("streamtype".into(), "data".into())],
        }
    }

    fn data(id: u32, n: usize, fin: bool) -> Frame {
        Frame::Data { id, fin, data: Bytes::from(vec![b'x'; n]) }
    }

    fn events(session: &mut Session<u8>) -> Vec<Event> {
        std::iter::from_fn(|| session.event().unwrap()).collect()
    }

    fn frames(decoder: &mut Decoder, session: &mut Session<u8>) -> Vec<Frame> {
        decoder.feed(&session.output().split());
        std::iter::from_fn(|| decoder.decode().unwrap()).collect()
    }

    #[test]
    fn a_stream_lives_and_ends() {
        let (mut e, mut d, mut s) = (Encoder::default(), Decoder::default(), Session::default());
        s.receive(&wire(&mut e, &[open(1), data(1, 2, true), Frame::Ping(5)]));
        let got = events(&mut s);
        assert!(matches!(&got[0], Event::Opened { id: 1, headers } if headers[0].1 == "data"));
        assert_eq!(got[1], Event::Data { id: 1, data: Bytes::from_static(b"xx") });
        assert_eq!(got[2], Event::Finished { id: 1 });
        s.reply(1).unwrap();
        s.send(1, Bytes::from_static(b"yes"), 7).unwrap();
        s.finish(1).unwrap();
        s.send(1, Bytes::from_static(b"too late"), 8).unwrap();
        assert_eq!(s.sent(), [7]);
        let got = frames(&mut d, &mut s);
        assert_eq!(got[0], Frame::Ping(5));
        assert!(matches!(got[1], Frame::SynReply { id: 1, .. }));
        assert_eq!(got[2], Frame::Data { id: 1, fin: false, data: Bytes::from_static(b"yes") });
        assert_eq!(got[3], Frame::Data { id: 1, fin: true, data: Bytes::new() });
        assert!(s.streams.is_empty());
    }

    #[test]
    fn windows_bind_a_peer_that_has_them() {
        let (mut e, mut d, mut s) = (Encoder::default(), Decoder::default(), Session::default());
        s.receive(&wire(&mut e, &[Frame::Settings(vec![(7, 10)]), open(1)]));
        events(&mut s);
        s.send(1, Bytes::from(vec![b'a'; 25]), 1).unwrap();
        s.finish(1).unwrap();
        let sizes = |frames: Vec<Frame>| -> Vec<(usize, bool)> {
            frames
                .iter()
                .filter_map(|f| {
                    if let Frame::Data { data, fin, .. } = f { Some((data.len(), *fin)) } else { None }
                })
                .collect()
        };
        assert_eq!(sizes(frames(&mut d, &mut s)), [(10, false)]);
        assert!(s.sent().is_empty(), "the rest waits for a window");
        s.receive(&wire(&mut e, &[Frame::WindowUpdate { id: 1, delta: 8 }]));
        events(&mut s);
        assert_eq!(sizes(frames(&mut d, &mut s)), [(8, false)]);
        s.receive(&wire(&mut e, &[Frame::WindowUpdate { id: 1, delta: 100 }]));
        events(&mut s);
        assert_eq!(sizes(frames(&mut d, &mut s)), [(7, false), (0, true)]);
        assert_eq!(s.sent(), [1]);
        s.receive(&wire(&mut e, &[Frame::WindowUpdate { id: 0, delta: 0x7fff_ffff }]));
        assert!(s.event().is_err());
    }

    #[test]
    fn a_peer_without_windows_never_waits() {
        let (mut e, mut d, mut s) = (Encoder::default(), Decoder::default(), Session::default());
        s.receive(&wire(&mut e, &[open(1)]));
        events(&mut s);
        for i in 0..20 {
            s.send(1, Bytes::from(vec![b'a'; 30_000]), i).unwrap();
        }
        assert_eq!(s.sent().len(), 20);
        let total: usize = frames(&mut d, &mut s)
            .iter()
            .map(|f| if let Frame::Data { data, .. } = f { data.len() } else { 0 })
            .sum();
        assert_eq!(total, 600_000);
    }

    #[test]
    fn consumed_bytes_are_given_back() {
        let (mut e, mut d, mut s) = (Encoder::default(), Decoder::default(), Session::<u8>::default());
        s.receive(&wire(&mut e, &[open(1), data(1, 40_000, false)]));
        events(&mut s);
        s.consumed(1, 40_000).unwrap();
        let got = frames(&mut d, &mut s);
        assert_eq!(
            got,
            [Frame::WindowUpdate { id: 0, delta: 40_000 }, Frame::WindowUpdate { id: 1, delta: 40_000 }]
        );
    }

    #[test]
    fn what_must_not_be_is_refused() {
        let (mut e, mut d, mut s) = (Encoder::default(), Decoder::default(), Session::default());
        s.receive(&wire(
            &mut e,
            &[open(3), open(1), open(4), data(99, 5, false), Frame::RstStream { id: 3, status: 5 }],
        ));
        let got = events(&mut s);
        assert_eq!(got.len(), 2, "{got:?}");
        assert_eq!(got[1], Event::Reset { id: 3 });
        assert_eq!(
            frames(&mut d, &mut s),
            [
                Frame::RstStream { id: 1, status: 1 },
                Frame::RstStream { id: 4, status: 1 },
                Frame::RstStream { id: 99, status: 2 }
            ]
        );
        let many: Vec<Frame> = (0..MAX_STREAMS as u32 + 1).map(|i| open(5 + 2 * i)).collect();
        s.receive(&wire(&mut e, &many));
        assert_eq!(events(&mut s).len(), MAX_STREAMS);
        assert!(matches!(frames(&mut d, &mut s)[..], [Frame::RstStream { status: 3, .. }]));
    }
}
