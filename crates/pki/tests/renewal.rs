//! What a year brings: certificates end, and those who are still running have others by then.

#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use base::clock;
use jiff::SignedDuration;
use pki::{ClientAuth, LEAF_DAYS, Pki, Trust};

/// Days that have passed.
static DAYS: AtomicI64 = AtomicI64::new(0);

/// A handshake in memory, with the time that the clock tells; the client's certificate as the server has seen it.
fn shown(
    server: &Arc<rustls::ServerConfig>,
    client: &Arc<rustls::ClientConfig>,
) -> pki::CertificateDer<'static> {
    let mut s = rustls::ServerConnection::new(server.clone()).unwrap();
    let mut c = rustls::ClientConnection::new(client.clone(), "localhost".try_into().unwrap()).unwrap();
    while s.is_handshaking() || c.is_handshaking() {
        let mut wire = Vec::new();
        while c.wants_write() {
            c.write_tls(&mut wire).unwrap();
        }
        s.read_tls(&mut wire.as_slice()).unwrap();
        s.process_new_packets().unwrap();
        wire.clear();
        while s.wants_write() {
            s.write_tls(&mut wire).unwrap();
        }
        c.read_tls(&mut wire.as_slice()).unwrap();
        c.process_new_packets().unwrap();
    }
    s.peer_certificates().unwrap()[0].clone().into_owned()
}

#[test]
fn a_client_that_runs_for_years_shows_a_certificate_that_is_good() {
    let began = clock::now();
    let passed = || SignedDuration::from_hours(24 * DAYS.load(Ordering::Relaxed));
    assert!(clock::set_source(move || began + passed()));
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    let identity = pki.client_identity("kube-apiserver", &["system:masters".into()]).unwrap();
    let config = Arc::new(identity.client_config(&Trust::Only(pki.ca_pem().into())).unwrap());
    let server = pki.server_config("s", &["localhost".into()], &[], ClientAuth::Required).unwrap();
    let server = Arc::new(server);
    let first = shown(&server, &config);
    assert_eq!(shown(&server, &config), first, "the same as long as it is good");
    // The verifiers of TLS go by the system's clock, which does not move here: what is seen is which one is shown.
    DAYS.store(LEAF_DAYS / 2, Ordering::Relaxed);
    assert_eq!(shown(&server, &config), first);
    DAYS.store(LEAF_DAYS * 2 / 3 + 1, Ordering::Relaxed);
    let resolved = rustls::client::ResolvesClientCert::resolve(&*identity, &[], &[]).unwrap();
    assert_ne!(resolved.cert[0], first, "another one in the last third");
    let user = pki::user_of_certificate(&resolved.cert[0]).unwrap();
    assert_eq!(user, ("kube-apiserver".to_owned(), vec!["system:masters".to_owned()]));
}
