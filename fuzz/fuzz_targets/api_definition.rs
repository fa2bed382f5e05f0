//! Whole definitions of custom resources, with objects of them: decoded, filled in, judged, patched, shown and described.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| apiserver::fuzz::definition(bytes));
