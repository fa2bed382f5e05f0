//! Kubeconfigs: what is understood names a server, or says what is missing.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(config) = client::Kubeconfig::parse(text) {
        let _ = config.current();
        let _ = config.context("a");
    }
});
