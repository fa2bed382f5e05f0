//! What a container is made of besides its files: users of its image, seccomp profiles, tags of its log.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [which, body @ ..] = bytes else { return };
    let Ok(text) = std::str::from_utf8(body) else { return };
    match which % 3 {
        0 => runtime::fuzz::users(text),
        1 => runtime::fuzz::seccomp(text),
        _ => runtime::fuzz::tag(text),
    }
});
