//! The registry's paths, and its rules: any text gives an endpoint or nothing, and a name is a part of the path.
#![no_main]

use registry::access::{Action, Rules};
use registry::path::Endpoint;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Some(name) = Endpoint::parse(text).and_then(|e| e.name()) {
        assert!(text.contains(name));
    }
    if let Ok(rules) = Rules::parse(text) {
        let _ = rules.allow(Some("ann"), "team/app", Action::Pull);
    }
});
