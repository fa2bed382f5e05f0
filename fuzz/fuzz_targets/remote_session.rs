//! Whole connections of exec, attach and port-forward, and the queries that ask for them.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    remotecommand::fuzz::session(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        remotecommand::fuzz::query(text);
    }
});
