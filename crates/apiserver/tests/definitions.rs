//! Definitions of custom resources while they come, change and go: what is served, registered and described.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use api::Value;
use bytes::Bytes;
use common::{Cluster, made};
use futures::StreamExt;
use http::{Method, Request};
use serde_json::json;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const ENDLESS: Duration = Duration::from_secs(20);

fn definition(group: &str, plural: &str, kind: &str, versions: &[&str]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .enumerate()
        .map(|(i, name)| {
            json!({"name": name, "served": true, "storage": i == 0, "schema": {"openAPIV3Schema": {
                "type": "object", "properties": {"size": {"type": "integer", "default": 3}}}}})
        })
        .collect();
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}")},
        "spec": {"group": group, "scope": "Cluster", "names": {"plural": plural, "kind": kind},
            "versions": versions}})
}

/// The events of a watch, as they come.
struct Events(http_body_util::BodyStream<client::BoxBody>, Vec<u8>);

impl Events {
    async fn of(c: &Cluster, path: &str) -> Self {
        let request = Request::get(format!("{path}?watch=true")).body(Bytes::new()).unwrap();
        let answer = c.admin.open(request).await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        Self(http_body_util::BodyStream::new(answer.into_body()), Vec::new())
    }

    /// Nothing where the watch has ended.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.1.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.1.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(ENDLESS, self.0.next()).await.unwrap()?;
            self.1.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }
}

/// Asks at each event of a collection until the answer is the one that is waited for.
async fn until(c: &Cluster, collection: &str, holds: impl AsyncFn() -> bool) {
    let mut events = Events::of(c, collection).await;
    while !holds().await {
        events.next().await.unwrap();
    }
}

fn condition(object: &Value, kind: &str) -> Value {
    let all = object["status"]["conditions"].as_array();
    all.into_iter().flatten().find(|c| c["type"] == kind).cloned().unwrap_or_default()
}

async fn established(c: &Cluster, definition: &Value) {
    let name = definition["metadata"]["name"].as_str().unwrap();
    let answer = c.post(CRDS, definition.clone()).await;
    assert_eq!(answer.code, 201, "{}", answer.value);
    until(c, CRDS, async || {
        condition(&c.get(&format!("{CRDS}/{name}")).await.value, "Established")["status"] == "True"
    })
    .await;
}

async fn service(c: &Cluster, name: &str) -> Option<Value> {
    let answer = c.get(&format!("{SERVICES}/{name}")).await;
    (answer.code == 200).then_some(answer.value)
}

async fn groups(c: &Cluster, accept: &str) -> Vec<String> {
    let answer = c.call(Method::GET, "/apis", &[("accept", accept)], "").await.value;
    let (list, name) =
        if accept.contains("discovery") { ("items", "/metadata/name") } else { ("groups", "/name") };
    let all = answer[list].as_array().unwrap().iter();
    all.map(|g| g.pointer(name).unwrap().as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_told_to_be_established_is_served() {
    let c = Cluster::start().await;
    let mut told = Events::of(&c, CRDS).await;
    let plurals: Vec<String> = ('a'..='z').map(|l| format!("{l}s")).collect();
    let create = async |plural: &String| {
        let kind = plural.to_uppercase();
        let made = definition("many.example", plural, &kind, &["v1"]);
        assert_eq!(c.post(CRDS, made).await.code, 201);
    };
    let follow = async {
        let mut left = plurals.len();
        while left > 0 {
            let object = told.next().await.unwrap()["object"].take();
            if condition(&object, "Established")["status"] == "True" {
                left -= 1;
                let plural = object["spec"]["names"]["plural"].as_str().unwrap();
                let path = format!("/apis/many.example/v1/{plural}");
                assert_eq!(c.get(&path).await.code, 200, "{path}");
                let known = c.get("/apis/many.example/v1").await.value;
                let mut known = known["resources"].as_array().unwrap().iter();
                assert!(known.any(|r| r["name"] == plural), "{plural}");
            }
        }
    };
    tokio::join!(futures::future::join_all(plurals.iter().map(create)), follow);
    // Whoever serves the same store next serves all of them as soon as it serves.
    let next = Cluster::start_with(c.store.clone()).await;
    for plural in &plurals {
        assert_eq!(next.get(&format!("/apis/many.example/v1/{plural}")).await.code, 200, "{plural}");
    }
}

#[tokio::test]
async fn a_change_of_one_definition_is_a_change_of_that_one() {
    let c = Cluster::start().await;
    established(&c, &definition("one.example", "foos", "Foo", &["v1"])).await;
    established(&c, &definition("two.example", "bars", "Bar", &["v1"])).await;
    let (foos, bars) = ("/apis/one.example/v1/foos", "/apis/two.example/v1/bars");
    let (mut of_foos, mut of_bars) = (Events::of(&c, foos).await, Events::of(&c, bars).await);
    let hash = async |path: &str| c.get("/openapi/v3").await.value["paths"][path].to_string();
    let before =
        [hash("apis/one.example/v1").await, hash("apis/apps/v1").await, hash("apis/two.example/v1").await];
    // A label changes nothing of a kind, another default does.
    let one = format!("{CRDS}/foos.one.example");
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    assert_eq!(c.patch(&one, "merge-patch+json", label).await.code, 200);
    let two = format!("{CRDS}/bars.two.example");
    let default = json!([{"op": "replace", "value": 4,
        "path": "/spec/versions/0/schema/openAPIV3Schema/properties/size/default"}]);
    assert_eq!(c.patch(&two, "json-patch+json", default).await.code, 200);
    assert!(of_bars.next().await.is_none(), "the watch of another kind ends");
    for (path, kind, size) in [(foos, "Foo", 3), (bars, "Bar", 4)] {
        let version = path.trim_start_matches("/apis/").rsplit_once('/').unwrap().0;
        let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "a"}});
        assert_eq!(c.post(path, object).await.value["size"], size);
    }
    assert_eq!(of_foos.next().await.unwrap()["type"], "ADDED", "the watch of what has not changed goes on");
    let after =
        [hash("apis/one.example/v1").await, hash("apis/apps/v1").await, hash("apis/two.example/v1").await];
    assert_eq!(before[..2], after[..2]);
    assert_ne!(before[2], after[2]);
    let document = c.get("/openapi/v3/apis/two.example/v1").await.value;
    let shown = &document["components"]["schemas"]["example.two.v1.Bar"]["properties"]["size"];
    assert_eq!(shown["default"], 4);
    assert!(c.get("/openapi/v2").await.value["definitions"]["example.one.v1.Foo"].is_object());
}

#[tokio::test]
async fn who_waits_for_a_name_gets_it_when_it_is_free() {
    let c = Cluster::start().await;
    established(&c, &definition("x.example", "foos", "Foo", &["v1"])).await;
    assert_eq!(c.post(CRDS, definition("x.example", "others", "Foo", &["v1"])).await.code, 201);
    let others = format!("{CRDS}/others.x.example");
    until(&c, CRDS, async || {
        condition(&c.get(&others).await.value, "NamesAccepted")["reason"] == "ListKindConflict"
    })
    .await;
    assert_eq!(c.get("/apis/x.example/v1/others").await.code, 404);
    assert_eq!(c.delete(&format!("{CRDS}/foos.x.example")).await.code, 200);
    until(&c, CRDS, async || condition(&c.get(&others).await.value, "Established")["status"] == "True").await;
    assert_eq!(c.get("/apis/x.example/v1/others").await.code, 200);
    assert_eq!(c.get("/apis/x.example/v1/foos").await.code, 404);
}

#[tokio::test]
async fn definitions_have_api_services() {
    let c = Cluster::start().await;
    // Somebody's own stays as it is, whatever comes later.
    let own = |name: &str, group: &str, priority: i64| {
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": name},
            "spec": {"group": group, "version": "v1", "groupPriorityMinimum": priority, "versionPriority": 7}})
    };
    assert_eq!(c.post(SERVICES, own("v1.early.example", "early.example", 17900)).await.code, 201);
    established(&c, &definition("early.example", "firsts", "First", &["v1", "v2"])).await;
    established(&c, &definition("y.example", "foos", "Foo", &["v1beta1", "v1", "v10", "v1alpha1"])).await;
    established(&c, &definition("y.example", "bars", "Bar", &["v1"])).await;
    established(&c, &definition("z.example", "zeds", "Zed", &["v1"])).await;
    established(&c, &definition("a.example", "as", "A", &["v1alpha1"])).await;
    until(&c, SERVICES, async || {
        let there = async |name: &str| {
            let found = service(&c, name).await.unwrap_or_default();
            condition(&found, "Available")["status"] == "True"
        };
        there("v10.y.example").await
            && there("v1.z.example").await
            && there("v2.early.example").await
            && there("v1alpha1.a.example").await
    })
    .await;
    let made = service(&c, "v10.y.example").await.unwrap();
    assert_eq!(made["metadata"]["labels"], json!({"kube-aggregator.kubernetes.io/automanaged": "true"}));
    let spec =
        json!({"group": "y.example", "version": "v10", "groupPriorityMinimum": 1000, "versionPriority": 100});
    assert_eq!(made["spec"], spec);
    let available = condition(&made, "Available");
    assert_eq!(available["reason"], "Local");
    assert_eq!(available["message"], "Local APIServices are always available");
    assert_eq!(service(&c, "v1.early.example").await.unwrap()["spec"]["versionPriority"], 7);
    let apps = service(&c, "v1.apps").await.unwrap();
    assert_eq!(apps["spec"]["groupPriorityMinimum"], 17800);
    assert_eq!(apps["metadata"]["labels"]["kube-aggregator.kubernetes.io/automanaged"], "onstart");
    assert!(service(&c, "v1.apiregistration.k8s.io").await.is_none(), "as with upstream");
    // Discovery is in the order that they say.
    let all = groups(&c, "application/json").await;
    assert_eq!(all[..3], ["apiregistration.k8s.io", "early.example", "apps"]);
    assert_eq!(all[all.len() - 3..], ["y.example", "z.example", "a.example"]);
    let aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let all = groups(&c, aggregated).await;
    assert_eq!(all[..3], ["apiregistration.k8s.io", "early.example", "apps"]);
    assert_eq!(all[all.len() - 3..], ["a.example", "y.example", "z.example"]);
    let group = c.get("/apis/y.example").await.value;
    let versions: Vec<&str> =
        group["versions"].as_array().unwrap().iter().map(|v| v["version"].as_str().unwrap()).collect();
    assert_eq!(versions, ["v10", "v1", "v1beta1", "v1alpha1"]);
    assert_eq!(group["preferredVersion"]["version"], "v10");
    // What is taken away or changed of ours comes back; what is no longer served goes, with the last that is.
    let z = format!("{SERVICES}/v1.z.example");
    let uid = service(&c, "v1.z.example").await.unwrap()["metadata"]["uid"].clone();
    assert_eq!(c.delete(&z).await.code, 200);
    until(&c, SERVICES, async || {
        service(&c, "v1.z.example").await.is_some_and(|s| s["metadata"]["uid"] != uid)
    })
    .await;
    let patch = json!({"spec": {"groupPriorityMinimum": 5}});
    assert_eq!(c.patch(&z, "merge-patch+json", patch).await.code, 200);
    until(&c, SERVICES, async || {
        service(&c, "v1.z.example").await.unwrap()["spec"]["groupPriorityMinimum"] == 1000
    })
    .await;
    assert_eq!(c.delete(&format!("{CRDS}/foos.y.example")).await.code, 200);
    until(&c, SERVICES, async || service(&c, "v10.y.example").await.is_none()).await;
    assert!(service(&c, "v1.y.example").await.is_some(), "the other has it");
    assert_eq!(c.delete(&format!("{CRDS}/bars.y.example")).await.code, 200);
    until(&c, SERVICES, async || service(&c, "v1.y.example").await.is_none()).await;
    assert_eq!(c.delete(&format!("{CRDS}/firsts.early.example")).await.code, 200);
    until(&c, SERVICES, async || service(&c, "v2.early.example").await.is_none()).await;
    assert!(service(&c, "v1.early.example").await.is_some());
    // One that leads to another server is who answers for that version, whatever definitions say.
    assert_eq!(c.get("/apis/z.example/v1/zeds").await.code, 200);
    let lead = json!({"metadata": {"labels": null},
        "spec": {"service": {"namespace": "default", "name": "none"}, "insecureSkipTLSVerify": true}});
    assert_eq!(c.patch(&z, "merge-patch+json", lead).await.code, 200);
    until(&c, SERVICES, async || {
        condition(&service(&c, "v1.z.example").await.unwrap(), "Available")["status"] == "False"
    })
    .await;
    assert_eq!(c.get("/apis/z.example/v1/zeds").await.code, 503);
    assert_eq!(c.get("/apis/z.example/v1").await.code, 503);
}

#[tokio::test]
async fn nothing_is_cleared_for_a_definition_of_none_of_its_own() {
    let c = Cluster::start().await;
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let ingress = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "real"},
        "spec": {"defaultBackend": backend}});
    made(&c, ingresses, ingress).await;
    made(&c, CRDS, definition("x.example", "foos", "Foo", &["v1"])).await;
    let unapproved = json!({"api-approved.kubernetes.io": "unapproved, over what is built in"});
    let mut over = definition("networking.k8s.io", "ingresses", "Ingress", &["v1"]);
    over["metadata"]["annotations"] = unapproved;
    // It has no name of its own left, and is never established.
    let never = definition("x.example", "bars", "Foo", &["v1"]);
    for (crd, reason, message) in [
        (over, "OverlappingBuiltInResource", "instances overlap with built-in resources in storage"),
        (never, "NeverEstablished", "resource was never established"),
    ] {
        let name = crd["metadata"]["name"].as_str().unwrap().to_owned();
        made(&c, CRDS, crd).await;
        until(&c, CRDS, async || {
            let told = c.get(&format!("{CRDS}/{name}")).await.value;
            condition(&told, "NamesAccepted")["status"] == "False"
        })
        .await;
        let mut told = Events::of(&c, CRDS).await;
        assert_eq!(c.delete(&format!("{CRDS}/{name}")).await.code, 200);
        let last = loop {
            let event = told.next().await.unwrap();
            if event["type"] == "DELETED" && event["object"]["metadata"]["name"] == name.as_str() {
                break event["object"].clone();
            }
        };
        let ended = condition(&last, "Terminating");
        assert_eq!(ended["status"], "False", "{name}");
        assert_eq!((&ended["reason"], &ended["message"]), (&json!(reason), &json!(message)), "{name}");
    }
    let real = c.get(&format!("{ingresses}/real")).await;
    assert_eq!((real.code, &real.value["metadata"]["deletionTimestamp"]), (200, &Value::Null));
}

#[tokio::test]
async fn what_a_definition_leaves_is_not_cleared_for_the_next_of_its_name() {
    let c = Cluster::start().await;
    let (foos, one) = ("/apis/x.example/v1/foos", format!("{CRDS}/foos.x.example"));
    let foo = |name: &str, finalizers: Value| {
        json!({"apiVersion": "x.example/v1", "kind": "Foo",
            "metadata": {"name": name, "finalizers": finalizers}})
    };
    established(&c, &definition("x.example", "foos", "Foo", &["v1"])).await;
    made(&c, foos, foo("held", json!(["x.example/hold"]))).await;
    assert_eq!(c.delete(&one).await.code, 200);
    until(&c, CRDS, async || {
        let told = condition(&c.get(&one).await.value, "Terminating");
        told["reason"] == "InstanceDeletionInProgress"
    })
    .await;
    // Somebody lets it go before its objects have gone, and makes it again.
    let release = json!({"metadata": {"finalizers": null}});
    assert_eq!(c.patch(&one, "merge-patch+json", release.clone()).await.code, 200);
    assert_eq!(c.get(&one).await.code, 404);
    established(&c, &definition("x.example", "foos", "Foo", &["v1"])).await;
    let mut events = Events::of(&c, foos).await;
    assert_eq!(events.next().await.unwrap()["object"]["metadata"]["name"], "held");
    made(&c, foos, foo("new", json!([]))).await;
    assert_eq!(events.next().await.unwrap()["type"], "ADDED");
    assert_eq!(c.patch(&format!("{foos}/held"), "merge-patch+json", release).await.code, 200);
    // Whoever cleared still would have had time to.
    made(&c, foos, foo("last", json!([]))).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|s| s != "ADDED last") {
        let event = events.next().await.unwrap();
        let name = event["object"]["metadata"]["name"].as_str().unwrap();
        seen.push(format!("{} {name}", event["type"].as_str().unwrap()));
    }
    assert_eq!(seen, ["DELETED held", "ADDED last"]);
    for name in ["new", "last"] {
        let there = c.get(&format!("{foos}/{name}")).await;
        assert_eq!(
            (there.code, &there.value["metadata"]["deletionTimestamp"]),
            (200, &Value::Null),
            "{name}"
        );
    }
    assert!(condition(&c.get(&one).await.value, "Terminating").is_null());
}

#[tokio::test]
async fn a_watch_sees_the_objects_go_with_their_definition() {
    let c = Cluster::start().await;
    established(&c, &definition("x.example", "foos", "Foo", &["v1"])).await;
    let foos = "/apis/x.example/v1/foos";
    for name in ["a", "b"] {
        made(&c, foos, json!({"apiVersion": "x.example/v1", "kind": "Foo", "metadata": {"name": name}}))
            .await;
    }
    let mut events = Events::of(&c, foos).await;
    for _ in 0..2 {
        assert_eq!(events.next().await.unwrap()["type"], "ADDED");
    }
    assert_eq!(c.delete(&format!("{CRDS}/foos.x.example")).await.code, 200);
    let mut gone = Vec::new();
    while let Some(event) = events.next().await {
        assert_eq!(event["type"], "DELETED");
        gone.push(event["object"]["metadata"]["name"].as_str().unwrap().to_owned());
    }
    gone.sort();
    assert_eq!(gone, ["a", "b"]);
}

/// A store that fails to write what has a key with this in it, so many times.
struct Failing(Arc<dyn store::Store>, &'static str, AtomicUsize);

#[async_trait::async_trait]
impl store::Store for Failing {
    async fn range(&self, range: store::Range) -> store::Result<store::RangeResult> {
        self.0.range(range).await
    }

    async fn txn(&self, txn: store::Txn) -> store::Result<store::TxnResult> {
        let fails = String::from_utf8_lossy(&txn.key).contains(self.1);
        if fails && self.2.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
            return Err(store::Error::Backend("it is away".into()));
        }
        self.0.txn(txn).await
    }

    async fn watch(&self, prefix: Vec<u8>, from: u64) -> store::Result<store::WatchStream> {
        self.0.watch(prefix, from).await
    }

    async fn revision(&self) -> store::Result<u64> {
        self.0.revision().await
    }

    async fn size(&self) -> store::Result<u64> {
        self.0.size().await
    }

    async fn compact(&self, revision: u64) -> store::Result<()> {
        self.0.compact(revision).await
    }

    async fn lease_grant(&self, ttl: Duration) -> store::Result<store::LeaseId> {
        self.0.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: store::LeaseId) -> store::Result<()> {
        self.0.lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: store::LeaseId) -> store::Result<()> {
        self.0.lease_revoke(lease).await
    }
}

#[tokio::test]
async fn an_api_service_that_failed_at_the_start_comes_later() {
    let store = Arc::new(Failing(store::memory(), "/apiservices/v1.apps", AtomicUsize::new(2)));
    let c = Cluster::start_with(store.clone()).await;
    until(&c, SERVICES, async || service(&c, "v1.apps").await.is_some()).await;
    assert_eq!(store.2.load(SeqCst), 0, "it has failed");
}
