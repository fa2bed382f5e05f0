//! Ignore files, patterns of files, and patterns in variables: the last line is what they are matched with.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| build::fuzz::ignore(text));
