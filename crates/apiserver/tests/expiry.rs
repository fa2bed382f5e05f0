//! What happens when a client's certificate ends while its connection lasts.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use base::clock;
use common::Cluster;
use jiff::SignedDuration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Days that have passed.
static DAYS: AtomicI64 = AtomicI64::new(0);

#[tokio::test]
async fn a_certificate_is_judged_with_each_request() {
    let began = clock::now();
    assert!(clock::set_source(move || began + SignedDuration::from_hours(24 * DAYS.load(Ordering::Relaxed))));
    let c = Cluster::start().await;
    let admin = c.pki.issue_client("admin", &["system:masters".to_owned()]).unwrap();
    let mut config = c.pki.client_config(Some(&admin)).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = tokio::net::TcpStream::connect(c.server.address()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect("localhost".try_into().unwrap(), stream).await.unwrap();
    for (days, code) in [(0, "200"), (pki::LEAF_DAYS - 1, "200"), (pki::LEAF_DAYS + 1, "401")] {
        DAYS.store(days, Ordering::Relaxed);
        stream.write_all(b"GET /api/v1/namespaces/default HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"}") && !answer.ends_with(b"}\n") {
            let mut some = [0; 4096];
            let n = stream.read(&mut some).await.unwrap();
            assert_ne!(n, 0, "{}", String::from_utf8_lossy(&answer));
            answer.extend_from_slice(&some[..n]);
        }
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "after {days} days: {answer}");
    }
}
