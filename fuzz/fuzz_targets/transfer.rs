//! Files that a client sends over its session: nothing outside of the folder changes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let scratch = fuzz::scratch();
    build::fuzz::transfer(bytes, scratch.path());
});
