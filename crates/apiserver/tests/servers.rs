//! Several servers on one store, and clients that leave.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::hook::Hook;
use common::{Cluster, JSON};
use http::{Method, Request};
use serde_json::{Value, json};
use store::{Expect, Op, Store, Txn};

async fn server(
    store: &Arc<dyn Store>,
    pki: &Arc<pki::Pki>,
    ip: [u8; 4],
) -> Result<Cluster, apiserver::Error> {
    let dir = tempfile::tempdir().unwrap();
    Cluster::start_in(dir, store.clone(), pki.clone(), |o| {
        o.shared_store = true;
        o.instance.node_ip = IpAddr::from(ip);
    })
    .await
}

/// The addresses of the `kubernetes` Service, of Endpoints and slices, which must agree.
async fn addresses(c: &Cluster) -> Vec<String> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let list = |v: &Value| v.as_array().cloned().unwrap_or_default();
    let endpoints = c.get("/api/v1/namespaces/default/endpoints/kubernetes").await.value;
    let subsets = list(&endpoints["subsets"]);
    let mut by_endpoints: Vec<String> =
        subsets.iter().flat_map(|s| list(&s["addresses"])).map(|a| text(&a["ip"])).collect();
    let slices = c.get("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices").await.value;
    let mut by_slices: Vec<String> = list(&slices["items"])
        .iter()
        .flat_map(|s| list(&s["endpoints"]))
        .flat_map(|e| list(&e["addresses"]))
        .map(|a| text(&a))
        .collect();
    by_endpoints.sort();
    by_slices.sort();
    if by_endpoints == by_slices { by_endpoints } else { Vec::new() }
}

async fn until(c: &Cluster, want: &[&str]) {
    let mut seen = Vec::new();
    for _ in 0..600 {
        seen = addresses(c).await;
        if seen == want {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{seen:?}, not {want:?}");
}

#[tokio::test]
async fn a_webhook_that_is_not_there_keeps_no_server_from_starting() {
    let dir = tempfile::tempdir().unwrap();
    let keys = pki::Pki::open(dir.path()).unwrap();
    let store = store::memory();
    let first = server(&store, &keys, [10, 0, 0, 1]).await.unwrap();
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/view";
    assert_eq!(first.delete(role).await.code, 200);
    let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "all"}, "webhooks": [{"name": "all.example.com", "admissionReviewVersions": ["v1"],
            "sideEffects": "None", "clientConfig": {"url": "https://127.0.0.1:1/"},
            "rules": [{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"]}]}]});
    let made =
        first.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", hook).await;
    assert_eq!(made.code, 201, "{}", made.value);
    drop(first);
    let second = server(&store, &keys, [10, 0, 0, 2]).await.unwrap();
    assert_eq!(second.get(role).await.code, 200, "what is missing is there again");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    assert_eq!(second.post("/api/v1/namespaces/default/configmaps", map).await.code, 500, "now it is asked");
}

#[tokio::test]
async fn all_living_servers_are_endpoints() {
    let dir = tempfile::tempdir().unwrap();
    let keys = pki::Pki::open(dir.path()).unwrap();
    let store = store::memory();
    let first = server(&store, &keys, [10, 0, 0, 1]).await.unwrap();
    until(&first, &["10.0.0.1"]).await;
    let second = server(&store, &keys, [10, 0, 0, 2]).await.unwrap();
    until(&first, &["10.0.0.1", "10.0.0.2"]).await;
    // One that dies without a word is gone when its lease is.
    let lease = store.lease_grant(Duration::from_secs(1)).await.unwrap();
    let op = Op::Put { value: Bytes::new(), lease: Some(lease) };
    let key = b"/registry/masterleases/10.0.0.3_6443".to_vec();
    store.txn(Txn { key, expect: Expect::Any, op }).await.unwrap();
    until(&first, &["10.0.0.1", "10.0.0.2", "10.0.0.3"]).await;
    until(&second, &["10.0.0.1", "10.0.0.2"]).await;
    // One that stops says so.
    drop(first);
    until(&second, &["10.0.0.2"]).await;
    // What somebody deletes comes back.
    second.delete("/api/v1/namespaces/default/endpoints/kubernetes").await;
    until(&second, &["10.0.0.2"]).await;
    // So does what somebody writes over it.
    let path = "/api/v1/namespaces/default/endpoints/kubernetes";
    let mut endpoints = second.get(path).await.value;
    endpoints["subsets"][0]["addresses"] = json!([{"ip": "192.0.2.1"}]);
    assert_eq!(second.put(path, endpoints).await.code, 200);
    until(&second, &["10.0.0.2"]).await;
}

#[tokio::test]
async fn servers_of_one_store_have_the_same_keys() {
    let store = store::memory();
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [one, other] = [&dirs[0], &dirs[1]].map(|d| pki::Pki::open(d.path()).unwrap());
    let first = server(&store, &one, [10, 0, 0, 1]).await.unwrap();
    let why = server(&store, &other, [10, 0, 0, 2]).await.err().unwrap().to_string();
    assert!(
        why.starts_with("this datastore belongs to a cluster with another certificate authority"),
        "{why}"
    );
    assert!(why.contains("copy ca.crt and ca.key from the pki folder"), "{why}");
    for file in ["ca.crt", "ca.key"] {
        std::fs::copy(dirs[0].path().join(file), dirs[1].path().join(file)).unwrap();
    }
    let half = pki::Pki::open(dirs[1].path()).unwrap();
    let why = server(&store, &half, [10, 0, 0, 2]).await.err().unwrap().to_string();
    assert!(why.contains("another key of service-account tokens") && why.contains("copy sa.key"), "{why}");
    std::fs::copy(dirs[0].path().join("sa.key"), dirs[1].path().join("sa.key")).unwrap();
    let same = pki::Pki::open(dirs[1].path()).unwrap();
    let second = server(&store, &same, [10, 0, 0, 2]).await.unwrap();
    // A token of one is good with the other.
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}});
    assert_eq!(first.post(accounts, account).await.code, 201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = first.post(&format!("{accounts}/a/token"), request).await.value["status"]["token"].clone();
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let answer = second.post("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
    assert_eq!(answer.value["status"]["authenticated"], true, "{}", answer.value);
    // And two services made at once have two addresses.
    let service = |name: &str| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    let services = "/api/v1/namespaces/default/services";
    let made = futures::future::join_all((0..16).map(|i| {
        let c = if i % 2 == 0 { &first } else { &second };
        c.post(services, service(&format!("s{i}")))
    }))
    .await;
    let mut ips: Vec<String> =
        made.iter().map(|a| a.value["spec"]["clusterIP"].as_str().unwrap().to_owned()).collect();
    ips.sort();
    ips.dedup();
    assert_eq!(ips.len(), 16);
}

#[tokio::test]
async fn a_write_whose_client_leaves_is_done_to_its_end() {
    let c = Cluster::start().await;
    let (release, released) = tokio::sync::watch::channel(false);
    let hook = Hook::start_slow(&c.pki, released, |r| {
        json!({"kind": "AdmissionReview", "apiVersion": r["apiVersion"], "response": {"uid": r["request"]["uid"], "allowed": true}})
    })
    .await;
    let all = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "slow"}, "webhooks": [{"name": "slow.example.com", "admissionReviewVersions": ["v1"],
            "sideEffects": "None", "clientConfig": hook.config("admit"),
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]}]});
    c.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", all).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}}).to_string();
    // Another protocol that it speaks of makes no difference.
    let mut request = Request::builder().method(Method::POST).uri(maps).header("upgrade", "h2c");
    for (k, v) in JSON {
        request = request.header(*k, *v);
    }
    let request = request.body(Bytes::from(body)).unwrap();
    let admin = c.admin.transport().clone();
    let client = tokio::spawn(async move { admin.call(request).await });
    while hook.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.abort();
    assert!(client.await.unwrap_err().is_cancelled());
    release.send(true).unwrap();
    for _ in 0..500 {
        if c.get(&format!("{maps}/a")).await.code == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("half a write was left");
}
