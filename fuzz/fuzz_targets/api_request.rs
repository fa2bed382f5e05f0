//! Requests to the API server before anybody knows who sent them: path, query, accepted types, body.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| apiserver::fuzz::request(bytes));
