//! Configurations: what parses is the same when it is written down and parsed again.
#![no_main]

use image::ImageConfig;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = ImageConfig::parse(bytes, "it") {
        let text = serde_json::to_vec(&config).unwrap();
        assert_eq!(ImageConfig::parse(&text, "it").unwrap(), config);
    }
});
