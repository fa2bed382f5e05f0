//! References and platforms: what parses means the same when it is written down and parsed again.
#![no_main]

use image::reference;

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(r) = reference::parse(text) {
        assert_eq!(reference::parse(&r.to_string()).unwrap(), r);
        assert_eq!(reference::parse(&r.familiar()).unwrap(), r);
    }
    if let Ok(p) = image::Platform::parse(text) {
        assert_eq!(image::Platform::parse(&p.to_string()).unwrap(), p);
    }
});
