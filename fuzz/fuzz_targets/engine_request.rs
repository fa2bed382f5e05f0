//! Requests to the engine: a first byte says which.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [which, body @ ..] = bytes else { return };
    let text = std::str::from_utf8(body);
    match which % 6 {
        0 => engine::fuzz::create(body),
        1 => engine::fuzz::network(body),
        2 => engine_api::fuzz::request(body),
        3 => text.map(engine::fuzz::texts).unwrap_or_default(),
        4 => text.map(engine::fuzz::settings).unwrap_or_default(),
        _ => engine::fuzz::smaller(body),
    }
});
