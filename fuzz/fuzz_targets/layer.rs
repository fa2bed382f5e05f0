//! Layers, described by the input: nothing outside of the root changes, and what was unpacked gives the same tar again.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let scratch = fuzz::scratch();
    let tar = image::fuzz::layer_of(bytes, &scratch.path().join("outside"));
    image::fuzz::layer(&tar, scratch.path());
});
