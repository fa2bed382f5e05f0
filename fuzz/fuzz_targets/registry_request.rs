//! What clients send to the registry: ranges and manifests.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [length, body @ ..] = bytes else { return };
    registry::fuzz::manifest(body);
    if let Ok(text) = std::str::from_utf8(body) {
        registry::fuzz::range(text, u64::from(*length));
    }
});
