//! What fuzz targets call: the parsers of what clients send, each with what is done with the result.

use crate::digest::Digest;
use crate::handlers::blobs::parse_range;
use crate::manifest::Outline;

/// A `Range` header for a blob of so many bytes: what comes of it lies in the blob.
pub fn range(text: &str, length: u64) {
    if let Ok(Some((from, to))) = parse_range(text, length) {
        assert!(from < to && to <= length, "{from}-{to} of {length}");
    }
}

/// A manifest as a client pushes it.
pub fn manifest(bytes: &[u8]) {
    if let Ok(outline) = Outline::parse(bytes) {
        let _ = outline.about();
        for kind in ["application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"]
        {
            if let Ok(needed) = outline.needed(kind, bytes) {
                assert!(needed.iter().all(|d| outline.named().any(|n| n == d.as_str())));
            }
        }
    }
    if let Ok(digest) =
        std::str::from_utf8(bytes).map_err(|_| ()).and_then(|t| Digest::parse(t).map_err(|_| ()))
    {
        let path = digest.path();
        assert!(!path.contains("..") && path.matches('/').count() == 1, "a digest names one file: {path}");
    }
}
