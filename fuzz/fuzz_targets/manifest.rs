//! Manifests and indexes: any bytes give one or an error, and what is chosen of an index is in it.
#![no_main]

use image::Platform;
use image::registry::manifest::{Index, Manifest, is_index};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    for media_type in ["", "application/vnd.oci.image.index.v1+json", "x"] {
        let _ = is_index(media_type, bytes);
    }
    if let Ok(m) = Manifest::parse(bytes, "it") {
        let _ = m.is_image();
    }
    if let Ok(index) = Index::parse(bytes, "it")
        && let Some(chosen) = index.choose(&Platform::host())
    {
        let _ = chosen.name();
        assert!(index.manifests.contains(chosen));
    }
});
