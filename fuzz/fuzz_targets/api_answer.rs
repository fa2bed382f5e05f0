//! What webhooks and proxied servers answer to the API server.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| apiserver::fuzz::answer(bytes));
