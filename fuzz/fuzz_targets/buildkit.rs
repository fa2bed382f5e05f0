//! What BuildKit's clients send: a first byte says whether the rest is a message or what comes on a connection.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match bytes {
        [0, rest @ ..] => build::fuzz::grpc(rest),
        [_, rest @ ..] => build::fuzz::message(rest),
        [] => {}
    }
});
