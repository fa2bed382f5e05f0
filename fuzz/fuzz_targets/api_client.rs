//! What an API server answers to its clients: objects, lists, watches, refusals.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| client::fuzz::answer(bytes));
