//! Against a real etcd, started on loopback for each test.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use bytes::Bytes;
use futures::StreamExt;

use super::*;

/// An etcd process of one test; it ends with this value.
struct Server {
    process: Option<Child>,
    dir: tempfile::TempDir,
    scheme: &'static str,
    port: u16,
    peer_port: u16,
    flags: Vec<String>,
}

/// Whether the machine has etcd; says so if not.
fn there() -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("etcd").is_file()));
    if !found {
        eprintln!("skipped: etcd is not installed (Debian's package etcd-server has it)");
    }
    found
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    fn new() -> Self {
        Self::with("http", |_| Vec::new())
    }

    fn with(scheme: &'static str, flags: impl FnOnce(&Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = flags(dir.path());
        let mut server =
            Self { process: None, dir, scheme, port: free_port(), peer_port: free_port(), flags };
        server.start();
        server
    }

    fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    fn start(&mut self) {
        let peer = format!("http://127.0.0.1:{}", self.peer_port);
        let log = std::fs::File::options().create(true).append(true).open(self.dir.path().join("log"));
        let process = Command::new("etcd")
            .args(["--name", "t", "--data-dir"])
            .arg(self.dir.path().join("data"))
            .args(["--listen-client-urls", &self.url(), "--advertise-client-urls", &self.url()])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("t={peer}")])
            .args(&self.flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn()
            .unwrap();
        self.process = Some(process);
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    fn open(&self) -> Arc<dyn Store> {
        open(Options { endpoints: self.url(), tls: None }).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
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
        let server = Server::new();
        let store = server.open();
        servers.lock().unwrap().push(server);
        store
    };
    crate::conformance::all(fresh).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_and_a_reader_outlive_a_restart() {
    if !there() {
        return;
    }
    let mut server = Server::new();
    let store = server.open();
    let first = put(&store, "/a/1", "1").await.unwrap();
    let mut watch = store.watch(b"/a/".to_vec(), first).await.unwrap();
    assert_eq!(next(&mut watch).await, ("/a/1".into(), first));
    server.kill();
    let reader = tokio::spawn({
        let store = store.clone();
        async move { store.range(Range::prefix("/a/")).await.unwrap().count }
    });
    server.start();
    assert_eq!(reader.await.unwrap(), 1, "asked while etcd was away, answered when it was back");
    let second = put(&store, "/a/2", "2").await.unwrap();
    assert_eq!(second, first + 1);
    assert_eq!(next(&mut watch).await, ("/a/2".into(), second));
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_was_set_back_ends_a_watch() {
    if !there() {
        return;
    }
    let mut server = Server::new();
    let store = server.open();
    for _ in 0..5 {
        put(&store, "/a", "1").await.unwrap();
    }
    let mut watch = store.watch(b"/a".to_vec(), 1).await.unwrap();
    while watch.next().await.unwrap().unwrap().revision < 6 {}
    server.kill();
    std::fs::remove_dir_all(server.dir.path().join("data")).unwrap();
    server.start();
    let error = watch.next().await.unwrap().unwrap_err().to_string();
    assert!(error.contains("set back"), "{error}");
    assert!(watch.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_member_is_asked() {
    if !there() {
        return;
    }
    let server = Server::new();
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
    if !there() {
        return;
    }
    let keys = tempfile::tempdir().unwrap();
    let pki = pki::Pki::open(keys.path()).unwrap();
    let server = Server::with("https", |dir| {
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
    if !there() {
        return;
    }
    let server = Server::new();
    let store = server.open();
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
    if !there() {
        return;
    }
    let server = Server::new();
    let store = server.open();
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
