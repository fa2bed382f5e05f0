//! Logs as they are read back.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| runtime::fuzz::log(bytes));
