//! Log drivers and their options.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| runtime::fuzz::log_driver(text));
