//! Two servers on one real etcd: what one writes the other serves, whichever of them, or etcd itself, goes away meanwhile.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use api::names::gvr;
use client::{WatchEvent, WatchKind, WatchOptions};
use common::Cluster;
use futures::StreamExt;
use serde_json::{Value, json};
use store::etcd::testing::Server as Etcd;
use tokio_util::sync::CancellationToken;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server with a connection of its own to an etcd.
async fn server(etcd: &Etcd, keys: &Arc<pki::Pki>, ip: [u8; 4]) -> Cluster {
    let options = store::etcd::Options { endpoints: etcd.url(), tls: None };
    let store = store::etcd::open(options).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let set = |o: &mut apiserver::Options| {
        o.shared_store = true;
        o.instance.node_ip = IpAddr::from(ip);
    };
    Cluster::start_in(dir, store, keys.clone(), set).await.unwrap()
}

fn map(name: &str, n: usize) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": n.to_string()}})
}

/// Waits for what another server has to hear of first.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert!(waited.await.is_ok(), "{what} does not come true");
}

async fn endpoints(c: &Cluster) -> Vec<String> {
    let value = c.get("/api/v1/namespaces/default/endpoints/kubernetes").await.value;
    // Servers on one port share a subset; these listen on different ones.
    let subsets = value["subsets"].as_array().into_iter().flatten();
    let addresses = subsets.flat_map(|s| s["addresses"].as_array().into_iter().flatten());
    let mut found: Vec<String> = addresses.filter_map(|a| a["ip"].as_str().map(str::to_owned)).collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_writes_the_other_serves() {
    let Some(etcd) = Etcd::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let keys = pki::Pki::open(dir.path()).unwrap();
    let one = server(&etcd, &keys, [10, 0, 0, 1]).await;
    let two = server(&etcd, &keys, [10, 0, 0, 2]).await;
    until("both are endpoints", async || endpoints(&one).await == ["10.0.0.1", "10.0.0.2"]).await;
    // Whoever reads after a write was answered sees it, wherever it was made.
    for n in 0..50 {
        let (writer, reader) = if n % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let made = writer.post(MAPS, map(&format!("m{n}"), n)).await;
        assert_eq!(made.code, 201, "{}", made.value);
        let read = reader.get(&format!("{MAPS}/m{n}")).await;
        assert_eq!((read.code, &read.value), (200, &made.value));
    }
    // Neither loses what the other has written.
    assert_eq!(one.post(MAPS, map("count", 0)).await.code, 201);
    let conflicts = AtomicUsize::new(0);
    let count = async |c: &Cluster| {
        for _ in 0..20 {
            loop {
                let mut now = c.get(&format!("{MAPS}/count")).await.value;
                let n: usize = now["data"]["n"].as_str().unwrap().parse().unwrap();
                now["data"]["n"] = json!((n + 1).to_string());
                match c.put(&format!("{MAPS}/count"), now).await.code {
                    200 => break,
                    409 => conflicts.fetch_add(1, Ordering::Relaxed),
                    other => panic!("{other}"),
                };
            }
        }
    };
    tokio::join!(count(&one), count(&two), count(&one), count(&two));
    assert_eq!(two.get(&format!("{MAPS}/count")).await.value["data"]["n"], "80");
    // A list that one began the other goes on with, as of the same moment.
    let first = one.get(&format!("{MAPS}?limit=20")).await.value;
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    assert_eq!(one.delete(&format!("{MAPS}/m9")).await.code, 200);
    let rest = two.get(&format!("{MAPS}?limit=500&continue={token}")).await.value;
    assert_eq!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let names = |list: &Value| {
        list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].clone()).collect::<Vec<_>>()
    };
    let all = [names(&first), names(&rest)].concat();
    assert!(all.contains(&json!("m9")), "it was there when the list began");
    assert_eq!(all.len(), 51, "{all:?}");
    // One that stops is no endpoint any more.
    drop(one);
    until("one is left", async || endpoints(&two).await == ["10.0.0.2"]).await;
}

/// The next event of a map, whose revisions only grow.
async fn next(
    watch: &mut client::BoxStream<'static, client::Result<WatchEvent>>,
    last: &mut u64,
) -> (WatchKind, String) {
    let event = tokio::time::timeout(Duration::from_secs(60), watch.next()).await.expect("an event in time");
    let event = event.expect("the watch goes on").unwrap();
    assert!(event.object.revision() > *last, "{} after {last}", event.object.revision());
    *last = event.object.revision();
    (event.kind, event.object.value()["data"]["n"].as_str().unwrap_or("").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_when_etcd_or_a_server_goes_away() {
    let Some(mut etcd) = Etcd::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let keys = pki::Pki::open(dir.path()).unwrap();
    let one = server(&etcd, &keys, [10, 0, 0, 1]).await;
    let two = server(&etcd, &keys, [10, 0, 0, 2]).await;
    let made = one.post(MAPS, map("m", 0)).await.value;
    let mut last: u64 = made["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let options = |revision: u64| WatchOptions { revision, ..WatchOptions::default() };
    let open = async |c: &Cluster, revision: u64| {
        c.admin.transport().watch(&gvr::CONFIG_MAPS, Some("default"), &options(revision)).await.unwrap()
    };
    let mut watch = open(&one, last).await;
    let write = async |c: &Cluster, n: usize| {
        c.patch(&format!("{MAPS}/m"), "merge-patch+json", json!({"data": {"n": n.to_string()}})).await.code
    };
    for n in 1..5 {
        assert_eq!(write(&two, n).await, 200);
    }
    for n in 1..5 {
        assert_eq!(next(&mut watch, &mut last).await, (WatchKind::Modified, n.to_string()));
    }
    // Killed and started again: the same watch, nothing missed, nothing twice.
    etcd.kill();
    assert!(write(&two, 5).await >= 500, "nothing is said to be written that is not");
    etcd.run();
    until("etcd is back", async || write(&two, 6).await == 200).await;
    assert_eq!(write(&one, 7).await, 200);
    let mut seen = Vec::new();
    while seen.last().is_none_or(|n| n != "7") {
        seen.push(next(&mut watch, &mut last).await.1);
    }
    // What was answered with an error may have been written all the same, once.
    assert!(matches!(&seen[..], [a, b] if a == "6" && b == "7") || seen == ["5", "6", "7"], "{seen:?}");
    // The server of the watch stops: another one takes it up where it was.
    drop(one);
    drop(watch);
    assert_eq!(write(&two, 8).await, 200);
    let mut watch = open(&two, last).await;
    assert_eq!(next(&mut watch, &mut last).await, (WatchKind::Modified, "8".into()));
    assert_eq!(two.delete(&format!("{MAPS}/m")).await.code, 200);
    assert_eq!(next(&mut watch, &mut last).await.0, WatchKind::Deleted);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cached_is_served_while_etcd_is_away() {
    let Some(mut etcd) = Etcd::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let keys = pki::Pki::open(dir.path()).unwrap();
    let one = server(&etcd, &keys, [10, 0, 0, 1]).await;
    let made = one.post(MAPS, map("m", 1)).await.value;
    let revision = made["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut last: u64 = revision.parse().unwrap();
    let options = WatchOptions { revision: last, ..WatchOptions::default() };
    let open = async || one.admin.transport().watch(&gvr::CONFIG_MAPS, Some("default"), &options).await;
    let mut before = open().await.unwrap();
    etcd.kill();
    let away = async {
        for path in [
            format!("{MAPS}/m?resourceVersion=0"),
            format!("{MAPS}/m?resourceVersion={revision}"),
            format!("{MAPS}?resourceVersion=0"),
            format!("{MAPS}?resourceVersion={revision}&resourceVersionMatch=NotOlderThan"),
            format!("{MAPS}?resourceVersion=0&fieldSelector=metadata.name%3Dm"),
            "/apis".to_owned(),
            "/metrics".to_owned(),
        ] {
            let answer = one.get(&path).await;
            assert_eq!(answer.code, 200, "{path}: {}", answer.value);
            if path.contains("configmaps/") {
                assert_eq!(answer.value, made, "{path}");
            } else if path.contains("configmaps") {
                assert!(
                    answer.value["items"].as_array().unwrap().contains(&made),
                    "{path}: {}",
                    answer.value
                );
            }
        }
        open().await.unwrap()
    };
    // At once, and not only when etcd is given up.
    let mut meanwhile =
        tokio::time::timeout(Duration::from_secs(5), away).await.expect("nobody waits for etcd");
    etcd.run();
    let patch = json!({"data": {"n": "2"}});
    let write = async || one.patch(&format!("{MAPS}/m"), "merge-patch+json", patch.clone()).await.code;
    until("etcd is back", async || write().await == 200).await;
    let at = last;
    for watch in [&mut before, &mut meanwhile] {
        last = at;
        assert_eq!(next(watch, &mut last).await, (WatchKind::Modified, "2".into()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_them_leads() {
    let Some(etcd) = Etcd::start() else { return };
    let dir = tempfile::tempdir().unwrap();
    let keys = pki::Pki::open(dir.path()).unwrap();
    let servers = [server(&etcd, &keys, [10, 0, 0, 1]).await, server(&etcd, &keys, [10, 0, 0, 2]).await];
    let leading: Arc<[AtomicUsize; 2]> = Arc::default();
    let terms: Arc<AtomicUsize> = Arc::default();
    let stops = [CancellationToken::new(), CancellationToken::new()];
    let mut tasks = Vec::new();
    for (i, server) in servers.iter().enumerate() {
        let (client, stop) = (server.admin.clone(), stops[i].clone());
        let (leading, terms) = (leading.clone(), terms.clone());
        tasks.push(tokio::spawn(async move {
            let election = client::election::Election {
                namespace: "kube-system".into(),
                name: "contended".into(),
                identity: format!("server-{i}"),
            };
            let role = |token: CancellationToken| {
                let (leading, terms) = (leading.clone(), terms.clone());
                async move {
                    terms.fetch_add(1, Ordering::SeqCst);
                    leading[i].store(1, Ordering::SeqCst);
                    assert_eq!(leading[1 - i].load(Ordering::SeqCst), 0, "two lead at once");
                    token.cancelled().await;
                    leading[i].store(0, Ordering::SeqCst);
                    Ok::<_, std::convert::Infallible>(())
                }
            };
            client::election::lead(&client, &election, &stop, role).await.unwrap();
        }));
    }
    let leader = || leading.iter().position(|l| l.load(Ordering::SeqCst) == 1);
    until("somebody leads", async || leader().is_some()).await;
    let first = leader().unwrap();
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/contended";
    // Both servers say who.
    for server in &servers {
        assert_eq!(server.get(lease).await.value["spec"]["holderIdentity"], format!("server-{first}"));
    }
    // Who stops lets go at once: the other need not wait until the lease has ended.
    let stopped = tokio::time::Instant::now();
    stops[first].cancel();
    until("the other leads", async || leader() == Some(1 - first)).await;
    assert!(stopped.elapsed() < Duration::from_secs(12), "{:?}", stopped.elapsed());
    let spec = servers[first].get(lease).await.value["spec"].clone();
    assert_eq!(
        (&spec["holderIdentity"], &spec["leaseTransitions"]),
        (&json!(format!("server-{}", 1 - first)), &json!(1))
    );
    assert_eq!(terms.load(Ordering::SeqCst), 2);
    stops[1 - first].cancel();
    for task in tasks {
        task.await.unwrap();
    }
}
