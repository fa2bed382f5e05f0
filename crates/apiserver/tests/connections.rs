//! Connections to webhooks and to servers behind this one are kept, replaced when they are dead, and given up when what they
//! were made by changes.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::net::IpAddr;
use std::time::Duration;

use api::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use common::hook::Hook;
use common::{Cluster, call};
use http::Method;
use serde_json::json;
use tokio::io::AsyncReadExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CONFIGURATION: &str = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/judge";

fn allowed(review: &Value) -> Value {
    json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"],
        "response": {"uid": review["request"]["uid"], "allowed": true}})
}

/// A webhook that judges config maps.
async fn judge(c: &Cluster, hook: &Hook, effects: &str) {
    let rules =
        json!([{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["configmaps"]}]);
    let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "judge"}, "webhooks": [{"name": "judge.example.com", "admissionReviewVersions": ["v1"],
            "sideEffects": effects, "clientConfig": hook.config("judge"), "rules": rules}]});
    let made = c.post(CONFIGURATION.rsplit_once('/').unwrap().0, configuration).await;
    assert_eq!(made.code, 201, "{}", made.value);
}

async fn make(c: &Cluster, name: &str) -> u16 {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    c.post(MAPS, map).await.code
}

#[tokio::test]
async fn a_webhook_is_asked_over_the_same_connection() {
    let c = Cluster::start().await;
    let (release, released) = tokio::sync::watch::channel(true);
    let hook = Hook::start_slow(&c.pki, released, allowed).await;
    judge(&c, &hook, "None").await;
    for i in 0..5 {
        assert_eq!(make(&c, &format!("a{i}")).await, 201);
    }
    assert_eq!((hook.accepted(), hook.asked().len()), (1, 5));
    // Calls at once need a connection each; later ones find them.
    let at_once = async |round: &str| {
        release.send_replace(false);
        let names: Vec<String> = (0..4).map(|i| format!("{round}{i}")).collect();
        let calls = futures::future::join_all(names.iter().map(|name| make(&c, name)));
        let freed = async {
            while hook.asked_so_far() < 4 {
                tokio::task::yield_now().await;
            }
            release.send_replace(true);
        };
        let (codes, ()) = tokio::join!(calls, freed);
        assert_eq!(codes, [201; 4]);
        hook.asked();
    };
    at_once("b").await;
    assert_eq!(hook.accepted(), 4);
    at_once("c").await;
    assert_eq!(hook.accepted(), 4);
    hook.holds(4).await;
}

#[tokio::test]
async fn a_dead_connection_is_replaced() {
    for effects in ["None", "NoneOnDryRun"] {
        let c = Cluster::start().await;
        let hook = Hook::start(&c.pki, allowed).await;
        judge(&c, &hook, effects).await;
        assert_eq!(make(&c, "a").await, 201);
        hook.hang_up().await;
        // That it has ended comes through the kernel, and nothing here tells when it has come.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(make(&c, "b").await, 201, "the call does not notice");
        assert_eq!((hook.accepted(), hook.asked().len()), (2, 2), "nobody is asked twice");
        // What listens no more is no dead connection.
        drop(hook);
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}});
        let refused = c.post(MAPS, map).await;
        assert_eq!(refused.code, 500, "{}", refused.value);
        assert!(
            refused.message().contains("failed calling webhook \"judge.example.com\""),
            "{}",
            refused.message()
        );
    }
}

#[tokio::test]
async fn a_changed_configuration_ends_connections() {
    let c = Cluster::start().await;
    let hook = Hook::start(&c.pki, allowed).await;
    judge(&c, &hook, "None").await;
    assert_eq!(make(&c, "a").await, 201);
    hook.holds(1).await;
    let patch = json!([{"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": 7}]);
    assert_eq!(c.patch(CONFIGURATION, "json-patch+json", patch).await.code, 200);
    hook.holds(0).await;
    assert_eq!((make(&c, "b").await, hook.accepted()), (201, 2));
    // Another authority: what the old one was believed for is believed no more.
    let dir = tempfile::tempdir().unwrap();
    let other = pki::Pki::open(dir.path()).unwrap();
    let bundle = STANDARD.encode(other.ca_pem());
    let patch = json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": bundle}]);
    assert_eq!(c.patch(CONFIGURATION, "json-patch+json", patch).await.code, 200);
    assert_eq!(make(&c, "c").await, 500);
    assert_eq!(c.delete(CONFIGURATION).await.code, 200);
    hook.holds(0).await;
    assert_eq!(make(&c, "d").await, 201);
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_nobody() {
    let c = Cluster::start().await;
    let hook = Hook::start(&c.pki, allowed).await;
    judge(&c, &hook, "None").await;
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let service = |bundle: &str| {
        json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": "v1.remote.example.com"}, "spec": {"group": "remote.example.com", "version": "v1",
                "groupPriorityMinimum": 100, "versionPriority": 10, "caBundle": bundle,
                "service": {"namespace": "default", "name": "hook"}}})
    };
    let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let definition = |bundle: &str| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "foos.example.com"}, "spec": {"group": "example.com", "scope": "Namespaced",
                "names": {"plural": "foos", "kind": "Foo"},
                "conversion": {"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v1"],
                    "clientConfig": {"url": "https://127.0.0.1:1/", "caBundle": bundle}}},
                "versions": [{"name": "v1", "served": true, "storage": true,
                    "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
    };
    // What is not even base64 is refused when it is written.
    let bundle =
        |text: &str| json!([{"op": "add", "path": "/webhooks/0/clientConfig/caBundle", "value": text}]);
    for answer in [
        c.patch(CONFIGURATION, "json-patch+json", bundle("%")).await,
        c.post(services, service("%")).await,
        c.post(definitions, definition("%")).await,
    ] {
        assert!((400..500).contains(&answer.code), "{}", answer.value);
        assert!(answer.message().contains("illegal base64 data"), "{}", answer.message());
    }
    // What holds no certificate is often put there to be replaced. Until then nobody is believed, the system's least.
    for text in ["\n", "nobody"] {
        let patch = bundle(&STANDARD.encode(text));
        assert_eq!(c.patch(CONFIGURATION, "json-patch+json", patch).await.code, 200);
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
        let answer = c.post(MAPS, map).await;
        assert!(answer.message().contains("unable to load root certificates"), "{}", answer.value);
    }
    assert_eq!(hook.accepted(), 0);
    let patch = bundle(&STANDARD.encode(c.pki.ca_pem()));
    assert_eq!(c.patch(CONFIGURATION, "json-patch+json", patch).await.code, 200);
    assert_eq!((make(&c, "a").await, hook.accepted()), (201, 1));

    assert_eq!(c.post(services, service("Cg==")).await.code, 201);
    let endless = Duration::from_secs(20);
    let available = async {
        loop {
            let read = c.get(&format!("{services}/v1.remote.example.com")).await.value;
            let condition = &read["status"]["conditions"][0];
            if !condition.is_null() {
                return condition.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let condition = tokio::time::timeout(endless, available).await.unwrap();
    assert_eq!(condition["status"], "False", "{condition}");

    // A definition whose objects nobody could convert is served when that is mended, and not broken afterwards.
    assert_eq!(c.post(definitions, definition("Cg==")).await.code, 201);
    let one = format!("{definitions}/foos.example.com");
    let established = async |want: &str| {
        let settled = async {
            loop {
                let read = c.get(&one).await.value;
                let found = read["status"]["conditions"].as_array().and_then(|l| {
                    l.iter().find(|c| c["type"] == "Established" && c["status"] == want).cloned()
                });
                if let Some(found) = found {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(endless, settled).await.unwrap()
    };
    assert_eq!(established("False").await["reason"], "InvalidCABundle");
    let foos = "/apis/example.com/v1/namespaces/default/foos";
    assert_eq!(c.get(foos).await.code, 404);
    let bundle =
        |text: &str| json!({"spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": text}}}}});
    let mended = bundle(&STANDARD.encode(c.pki.ca_pem()));
    assert_eq!(c.patch(&one, "merge-patch+json", mended).await.code, 200);
    established("True").await;
    let broken = c.patch(&one, "merge-patch+json", bundle("Cg==")).await;
    assert_eq!(broken.code, 422, "{}", broken.value);
    assert!(broken.message().contains("webhookClientConfig.caBundle"), "{}", broken.message());
}

#[tokio::test]
async fn what_nobody_uses_is_closed() {
    let c = Cluster::start().await;
    let hook = Hook::start(&c.pki, allowed).await;
    judge(&c, &hook, "None").await;
    assert_eq!(make(&c, "a").await, 201);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::time::resume();
    assert_eq!((make(&c, "b").await, hook.accepted()), (201, 1), "it is kept for longer than that");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(91)).await;
    tokio::time::resume();
    hook.holds(0).await;
    assert_eq!((make(&c, "c").await, hook.accepted()), (201, 2));
}

/// An address of this machine that is not loopback's, where endpoints may be: the one that it would send from.
fn own_address() -> Option<IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    socket.local_addr().ok().map(|a| a.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

async fn lead_to(c: &Cluster, hook: &Hook) {
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "hook"},
        "spec": {"ports": [{"port": 443, "targetPort": hook.address.port()}]}});
    assert_eq!(c.post("/api/v1/namespaces/default/services", service).await.code, 201);
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "hook"},
        "subsets": [{"addresses": [{"ip": hook.address.ip().to_string()}], "ports": [{"port": hook.address.port()}]}]});
    let made = c.post("/api/v1/namespaces/default/endpoints", endpoints).await;
    assert_eq!(made.code, 201, "{}", made.value);
}

#[tokio::test]
async fn a_server_behind_this_one_is_asked_over_the_same_connection() {
    let Some(ip) = own_address() else {
        eprintln!("skipped: this machine has no address but loopback's");
        return;
    };
    let c = Cluster::start().await;
    let (_at_once, released) = tokio::sync::watch::channel(true);
    let hook = Hook::start_at(&c.pki, ip, released, |asked| match asked.as_str() {
        Some("/apis/remote.example.com/v1") => json!({"kind": "APIResourceList", "apiVersion": "v1",
            "groupVersion": "remote.example.com/v1", "resources": [
                {"name": "things", "singularName": "thing", "namespaced": false, "kind": "Thing", "verbs": ["get", "create"]}]}),
        Some("/openapi/v3") => json!({"paths": {"apis/remote.example.com/v1":
            {"serverRelativeURL": "/openapi/v3/apis/remote.example.com/v1?hash=1234"}}}),
        Some("/openapi/v3/apis/remote.example.com/v1") => json!({"openapi": "3.0.0", "paths": {}, "by": "remote"}),
        Some("/openapi/v2") => json!({"swagger": "2.0", "definitions": {"com.example.Thing": {"type": "object"}}, "paths": {
            "/apis/remote.example.com/v1/things": {"get": {"operationId": "listThings"}},
            "/api/v1/pods": {"get": {"operationId": "notYours"}}}}),
        _ => json!({"kind": "Thing", "apiVersion": "remote.example.com/v1", "metadata": {"name": "a"}}),
    })
    .await;
    lead_to(&c, &hook).await;
    let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.remote.example.com"}, "spec": {"group": "remote.example.com", "version": "v1",
            "groupPriorityMinimum": 100, "versionPriority": 10, "caBundle": STANDARD.encode(c.pki.ca_pem()),
            "service": {"namespace": "default", "name": "hook"}}});
    let services = "/apis/apiregistration.k8s.io/v1/apiservices";
    let made = c.post(services, service).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let available = async |want: &str| {
        let (mut seen, until) = (Value::Null, tokio::time::Instant::now() + Duration::from_secs(20));
        while tokio::time::Instant::now() < until {
            seen = c.get(&format!("{services}/v1.remote.example.com")).await.value;
            if seen["status"]["conditions"][0]["status"] == want {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("not {want}: {seen}");
    };
    available("True").await;
    let things = "/apis/remote.example.com/v1/things";
    for _ in 0..3 {
        let read = c.get(&format!("{things}/a")).await;
        assert_eq!((read.code, &read.value["kind"]), (200, &json!("Thing")), "{}", read.value);
    }
    assert_eq!(c.post(things, json!({"kind": "Thing"})).await.code, 200);
    // Availability may be asked for at the same time, which takes a second connection.
    let asked = hook.asked().len();
    assert!(asked >= 5 && hook.accepted() <= 2, "{asked} calls over {} connections", hook.accepted());
    let before = hook.accepted();
    hook.hang_up().await;
    for _ in 0..3 {
        assert_eq!(c.get(&format!("{things}/a")).await.code, 200);
    }
    let more = hook.accepted() - before;
    assert!((1..=2).contains(&more), "{more} new connections");
    // Its discovery is part of the server's own.
    let headers = [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList")];
    let groups = call(c.admin.transport(), Method::GET, "/apis", &headers, "").await.value;
    let found =
        groups["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "remote.example.com");
    assert_eq!(found.unwrap()["versions"][0]["resources"][0]["resource"], "things", "{groups}");
    // So is what it says of its types.
    let index = c.get("/openapi/v3").await.value;
    let url = index["paths"]["apis/remote.example.com/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    assert_eq!(url, "/openapi/v3/apis/remote.example.com/v1?hash=1234");
    assert_eq!(c.get(&url).await.value["by"], "remote");
    let document = c.get("/openapi/v2").await.value;
    assert_eq!(document["paths"]["/apis/remote.example.com/v1/things"]["get"]["operationId"], "listThings");
    assert_ne!(document["paths"]["/api/v1/pods"]["get"]["operationId"], "notYours");
    assert!(document["definitions"].get("com.example.Thing").is_some());
    let headers = [("accept", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf")];
    let proto = call(c.admin.transport(), Method::GET, "/openapi/v2", &headers, "").await;
    let bytes = proto.response.body();
    assert!(bytes.windows(17).any(|w| w == b"com.example.Thing"), "{} bytes", bytes.len());
    // A definition that leads elsewhere is not served by old connections.
    let patch = json!({"spec": {"service": {"name": "nowhere"}}});
    let one = format!("{services}/v1.remote.example.com");
    assert_eq!(c.patch(&one, "merge-patch+json", patch).await.code, 200);
    hook.holds(0).await;
    let lost = c.get(&format!("{things}/a")).await;
    assert!(lost.code == 503 || lost.code == 404, "{}", lost.value);
    available("False").await;
    let told = c.get(&one).await.value["status"]["conditions"][0].clone();
    assert_eq!(told["reason"], "ServiceNotFound", "{told}");
    assert_eq!(told["message"], "service/nowhere in \"default\" is not present");
    let text = String::from_utf8(c.get("/metrics").await.response.into_body().to_vec()).unwrap();
    let name = "name=\"v1.remote.example.com\"";
    let value = |series: &str| {
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix(series)?.strip_prefix(' '))
            .unwrap_or_else(|| panic!("{series}: {text}"));
        line.parse::<u64>().unwrap()
    };
    assert_eq!(value(&format!("aggregator_unavailable_apiservice{{{name}}}")), 1);
    // A check that was under way may have failed, too.
    assert!(
        value(&format!("aggregator_unavailable_apiservice_total{{{name},reason=\"ServiceNotFound\"}}")) >= 1
    );
}

#[tokio::test]
async fn what_a_service_does_not_answer_ends_with_its_client() {
    let Some(ip) = own_address() else {
        eprintln!("skipped: this machine has no address but loopback's");
        return;
    };
    let c = Cluster::start().await;
    let silent = tokio::net::TcpListener::bind((ip, 0)).await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "silent"},
        "spec": {"ports": [{"port": 80, "targetPort": port}]}});
    assert_eq!(c.post("/api/v1/namespaces/default/services", service).await.code, 201);
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "silent"},
        "subsets": [{"addresses": [{"ip": ip.to_string()}], "ports": [{"port": port}]}]});
    assert_eq!(c.post("/api/v1/namespaces/default/endpoints", endpoints).await.code, 201);
    let request = http::Request::post("/api/v1/namespaces/default/services/silent:80/proxy/x");
    let (request, admin) = (request.body(Bytes::from_static(b"{}")).unwrap(), c.admin.transport().clone());
    let client = tokio::spawn(async move { admin.call(request).await });
    let limit = Duration::from_secs(20);
    let (mut stream, _) = tokio::time::timeout(limit, silent.accept()).await.unwrap().unwrap();
    let mut asked = [0; 5];
    stream.read_exact(&mut asked).await.unwrap();
    assert_eq!(&asked, b"POST ");
    client.abort();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(limit, stream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the connection outlives its client");
}
