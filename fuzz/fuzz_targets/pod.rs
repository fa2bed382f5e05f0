//! What a node reads of a pod.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| kubelet::fuzz::pod(text));
