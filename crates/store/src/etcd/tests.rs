//! Against a real etcd, started on loopback for each test.

use std::path::PathBuf;
use std::sync::Mutex;

use bytes::Bytes;
use futures::StreamExt;

use super::testing::{Server, free_port, there};
use super::*;

fn connect(server: &Server) -> Arc<dyn Store> {
    open(Options { endpoints: server.url(), tls: None }).unwrap()
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> Result<u64> {
    let op = Op::Put { value: Bytes::copy_from_slice(value.as_bytes()), lease: None };
    store.txn(Txn { key: key.into(), expect: Expect::Any, op }).await.map(|r| r.revision)
}

async fn next(watch: &mut WatchStream) -> (String, u64) {
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!(batch.events.len(), 1);
    (String::from_utf8(batch.events[0].kv.key.clone()).unwrap(), batch.events[0].kv.mod_revision)
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    if !there() {
        return;
    }
    let servers = Mutex::new(Vec::new());
    let fresh = || {
        let server = Server::start().unwrap();
        let store = connect(&server);
        servers.lock().unwrap().push(server);
        store
    };
    crate::conformance::all(fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_and_a_reader_outlive_a_restart() {
    let Some(mut server) = Server::start() else { return };
    let store = connect(&server);
    let first = put(&store, "/a/1", "1").await.unwrap();
    let mut watch = store.watch(b"/a/".to_vec(), first).await.unwrap();
    assert_eq!(next(&mut watch).await, ("/a/1".into(), first));
    server.kill();
    let reader = tokio::spawn({
        let store = store.clone();
        async move { store.range(Range::prefix("/a/")).await.unwrap().count }
    });
    server.run();
    assert_eq!(reader.await.unwrap(), 1, "asked while etcd was away, answered when it was back");
    let second = put(&store, "/a/2", "2").await.unwrap();
    assert_eq!(second, first + 1);
    assert_eq!(next(&mut watch).await, ("/a/2".into(), second));
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_was_set_back_ends_a_watch() {
    let Some(mut server) = Server::start() else { return };
    let store = connect(&server);
    for _ in 0..5 {
        put(&store, "/a", "1").await.unwrap();
    }
    let mut watch = store.watch(b"/a".to_vec(), 1).await.unwrap();
    while watch.next().await.unwrap().unwrap().revision < 6 {}
    server.kill();
    server.forget();
    server.run();
    let error = watch.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("set back"), "{error}");
    assert!(watch.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_member_is_asked() {
    let Some(server) = Server::start() else { return };
    let endpoints = format!("http://127.0.0.1:{},{}", free_port(), server.url());
    let store = open(Options { endpoints: endpoints.clone(), tls: None }).unwrap();
    put(&store, "/a", "1").await.unwrap();
    let all = status(Options { endpoints, tls: None }).await.unwrap();
    assert!(all[0].1.is_err());
    let member = all[1].1.as_ref().unwrap();
    assert!(member.version.starts_with("3.") && member.has_leader && member.revision == 2, "{member:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_client_certificates() {
    let keys = tempfile::tempdir().unwrap();
    let pki = pki::Pki::open(keys.path()).unwrap();
    let server = Server::start_with("https", |dir| {
        let write = |name: &str, text: &str| {
            let path: PathBuf = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let identity = pki.issue_server("etcd", &[], &[[127, 0, 0, 1].into()]).unwrap();
        vec![
            "--client-cert-auth".into(),
            format!("--trusted-ca-file={}", write("ca.crt", pki.ca_pem())),
            format!("--cert-file={}", write("tls.crt", &identity.cert_pem)),
            format!("--key-file={}", write("tls.key", &identity.key_pem)),
        ]
    });
    let Some(server) = server else { return };
    let with = |identity: Option<&pki::Identity>| {
        let tls = pki::client_config(&pki::Trust::Only(pki.ca_pem().into()), identity).unwrap();
        open(Options { endpoints: server.url(), tls: Some(tls) }).unwrap()
    };
    let identity = pki.issue_client("tug", &[]).unwrap();
    let store = with(Some(&identity));
    let first = put(&store, "/a", "1").await.unwrap();
    let mut watch = store.watch(b"/a".to_vec(), first).await.unwrap();
    assert_eq!(next(&mut watch).await.1, first);
    // Without one nothing is served, and the reason is told.
    let refused = with(None).range(Range::key("/a")).await.unwrap_err();
    assert!(matches!(refused, Error::Backend(_)), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_is_too_large_is_refused_and_a_large_range_is_read() {
    let Some(server) = Server::start() else { return };
    let store = connect(&server);
    for size in [1_600_000, 3 << 20] {
        let large = put(&store, "/large", &"x".repeat(size)).await.unwrap_err();
        assert!(matches!(large, Error::TooLarge), "{large}");
    }
    let writes = (0..2 * PAGE + 10).map(|i| {
        let store = store.clone();
        async move { put(&store, &format!("/p/{i:05}"), &"y".repeat(1000)).await.unwrap() }
    });
    futures::stream::iter(writes).buffer_unordered(64).collect::<Vec<_>>().await;
    let all = store.range(Range::prefix("/p/")).await.unwrap();
    assert_eq!((all.items.len() as u64, all.count, all.more), (2 * PAGE + 10, 2 * PAGE + 10, false));
    assert!(all.items.is_sorted_by(|a, b| a.key < b.key));
    let some = store.range(Range { limit: PAGE + 1, ..Range::prefix("/p/") }).await.unwrap();
    assert_eq!((some.items.len() as u64, some.more), (PAGE + 1, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_one_of_several_compacts() {
    let Some(server) = Server::start() else { return };
    let store = connect(&server);
    let another = || Etcd { peers: Arc::new(Peers::new(&server.url(), None).unwrap()) };
    let (a, b) = (another(), another());
    let first = put(&store, "/a", "1").await.unwrap();
    let a1 = compactor::step(&a, 0, 0).await.unwrap();
    let b1 = compactor::step(&b, 0, 0).await.unwrap();
    assert_eq!((a1.0, b1.0), (1, 1));
    let second = put(&store, "/a", "2").await.unwrap();
    // One interval later one of them compacts what was there an interval ago, and the other sees that it did.
    let a2 = compactor::step(&a, a1.0, a1.1).await.unwrap();
    let b2 = compactor::step(&b, b1.0, b1.1).await.unwrap();
    assert_eq!((a2.0, b2.0), (2, 2));
    let past = |revision| store.range(Range { revision, ..Range::key("/a") });
    assert!(matches!(past(first).await, Err(Error::Compacted { compacted, .. }) if compacted == a1.1));
    assert_eq!(past(second).await.unwrap().items[0].value, "2");
}
