//! Headers and addresses that a registry answers with.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| image::fuzz::answer(text));
