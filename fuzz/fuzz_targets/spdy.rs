//! SPDY frames, as they come in two pieces: what is decoded can be encoded and decodes to the same.
#![no_main]

use bytes::BytesMut;
use remotecommand::spdy::frame::{Decoder, Encoder, Frame};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [at, rest @ ..] = bytes else { return };
    let (first, second) = rest.split_at(rest.len().min(usize::from(*at)));
    let (mut decoder, mut encoder, mut back) = (Decoder::default(), Encoder::default(), Decoder::default());
    for piece in [first, second] {
        decoder.feed(piece);
        loop {
            match decoder.decode() {
                Err(_) => return,
                Ok(None) => break,
                Ok(Some(Frame::Unknown(_))) => {}
                Ok(Some(frame)) => {
                    let mut out = BytesMut::new();
                    encoder.put(&frame, &mut out).unwrap();
                    back.feed(&out);
                    let again = back.decode().unwrap();
                    // Values of one name are put together.
                    let headers = matches!(
                        frame,
                        Frame::SynStream { .. } | Frame::SynReply { .. } | Frame::Headers { .. }
                    );
                    assert!(headers || again == Some(frame), "{again:?}");
                }
            }
        }
    }
});
