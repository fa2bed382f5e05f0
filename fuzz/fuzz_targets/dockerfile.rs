//! Dockerfiles: parsed, planned, expanded, and made into a configuration.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| build::fuzz::dockerfile(text));
