//! Tokens and certificates that somebody shows: a first byte says which.
#![no_main]

use std::sync::{Arc, LazyLock};

static PKI: LazyLock<(tempfile::TempDir, Arc<pki::Pki>)> = LazyLock::new(|| {
    let dir = fuzz::scratch();
    let pki = pki::Pki::open(dir.path()).unwrap();
    (dir, pki)
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [which, body @ ..] = bytes else { return };
    let text = std::str::from_utf8(body).unwrap_or_default();
    match which % 3 {
        0 => assert!(PKI.1.verify_token(text).is_err(), "nobody has signed it"),
        1 => {
            let _ = pki::user_of_certificate(&pki::CertificateDer::from(body));
            let _ = pki::not_after(text);
        }
        _ => {
            let _ = pki::Request::parse(body);
        }
    }
});
