//! What a request may be, and what every answer has, as upstream: methods, ids for audits, the time that there is.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::time::Duration;

use apiserver::UserInfo;
use common::hook::Hook;
use common::{Cluster, JSON, call};
use http::Method;
use serde_json::json;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

#[tokio::test]
async fn what_is_a_resource_has_no_head() {
    let c = Cluster::start().await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    assert_eq!(c.post(MAPS, map).await.code, 201);
    let one = format!("{MAPS}/a");
    for (path, code) in [
        ("/healthz", 200),
        ("/livez/ping", 200),
        ("/metrics", 200),
        ("/apis", 200),
        ("/openapi/v2", 200),
        ("/version", 405),
        ("/api", 405),
        ("/api/v1", 405),
        ("/apis/apps", 405),
        ("/apis/apps/v1", 405),
        (MAPS, 405),
        (one.as_str(), 405),
        ("/api/v1/namespaces/default/pods/none/log", 405),
        ("/apis/none/v1/things", 404),
    ] {
        let answer = c.call(Method::HEAD, path, &[], "").await;
        assert_eq!(answer.code, code, "{path}");
        assert!(answer.response.body().is_empty(), "{path}");
    }
    let ann = c.as_user(UserInfo::new("ann", &[]));
    assert_eq!(call(&ann, Method::HEAD, &one, &[], "").await.code, 403, "leave is asked for first");
}

#[tokio::test]
async fn answers_have_an_id_for_audits() {
    let c = Cluster::start().await;
    let nobody = c.nobody().await;
    let ask = async |path: &str, headers: &[(&str, &str)]| {
        let answer = call(&nobody, Method::GET, path, headers, "").await;
        (answer.code, answer.header("audit-id").to_owned())
    };
    let (first, second) = (ask("/healthz", &[]).await, ask("/healthz", &[]).await);
    assert_eq!((first.0, first.1.len()), (200, 36), "{first:?}");
    assert_ne!(first.1, second.1);
    assert_eq!(ask("/version", &[("audit-id", "mine")]).await, (200, "mine".to_owned()));
    assert_eq!(ask(MAPS, &[("audit-id", "mine")]).await, (403, "mine".to_owned()));
    let bad = ask(MAPS, &[("authorization", "Bearer x")]).await;
    assert_eq!((bad.0, bad.1.len()), (401, 36));
}

#[tokio::test]
async fn a_request_has_its_time() {
    let c = Cluster::start().await;
    for (timeout, code) in
        [("0s", 200), ("1h", 200), ("30s", 200), ("-1s", 200), ("x", 400), ("5", 400), ("", 200)]
    {
        let answer = c.get(&format!("{MAPS}?timeout={timeout}")).await;
        assert_eq!(answer.code, code, "{timeout}: {}", answer.value);
        if code == 400 {
            let want = format!(
                "invalid timeout specified in the request URL - time: invalid duration \"{timeout}\""
            );
            assert_eq!(answer.message(), want);
        }
    }
    // Whoever waits for a webhook is told so; the write is carried out all the same.
    let (release, released) = tokio::sync::watch::channel(false);
    let hook = Hook::start_slow(&c.pki, released, |review| {
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "response": {"uid": review["request"]["uid"], "allowed": true}})
    })
    .await;
    let webhook = json!({"name": "slow.example.com", "clientConfig": hook.config("x"), "sideEffects": "None",
        "admissionReviewVersions": ["v1"], "timeoutSeconds": 30,
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}]});
    let made = c
        .post(
            "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
            json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
                "metadata": {"name": "slow"}, "webhooks": [webhook]}),
        )
        .await;
    assert_eq!(made.code, 201, "{}", made.value);
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "slow"}});
    let late = c.post(&format!("{MAPS}?timeout=200ms"), map).await;
    assert_eq!((late.code, late.value["reason"].as_str().unwrap()), (504, "Timeout"));
    assert_eq!(late.message(), "Timeout: request did not complete within the allotted timeout");
    release.send_replace(true);
    let there = async {
        while c.get(&format!("{MAPS}/slow")).await.code != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), there).await.unwrap();
    let text = c.get("/metrics").await.response.into_body();
    let text = String::from_utf8(text.to_vec()).unwrap();
    let ended = text.lines().find(|l| l.starts_with("apiserver_request_terminations_total")).unwrap();
    assert!(
        ended.contains("verb=\"POST\"") && ended.contains("code=\"504\"") && ended.ends_with(" 1"),
        "{ended}"
    );
}

#[tokio::test]
async fn what_is_asked_for_is_had_or_refused() {
    let c = Cluster::start().await;
    let get = async |path: &str, accept: &str| {
        c.call(Method::GET, &format!("{MAPS}{path}"), &[("accept", accept)], "").await
    };
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let refused = get("?includeObject=All", table).await;
    assert_eq!(
        (refused.code, refused.message()),
        (
            400,
            "Unable to convert to Table as requested: includeObject: Invalid value: \"All\": must be 'Metadata', 'Object', 'None', or empty"
        )
    );
    assert_eq!(get("?includeObject=All", "application/json").await.code, 200, "only tables have it");
    let refused = get("?watch=true", "application/yaml").await;
    let why = "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch";
    assert_eq!((refused.code, told(&refused)), (406, (why.to_owned(), 406)));
    assert_eq!(get("", "application/yaml").await.code, 200);
}

#[tokio::test]
async fn a_delete_goes_by_its_body_or_its_query() {
    let c = Cluster::start().await;
    let one = format!("{MAPS}/a");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    assert_eq!(c.post(MAPS, map.clone()).await.code, 201);
    // Nothing has no format, and who says something in the body says nothing in the query.
    let dry =
        c.call(Method::DELETE, &format!("{one}?dryRun=All"), &[("content-type", "text/plain")], "").await;
    assert_eq!((dry.code, c.get(&one).await.code), (200, 200), "{}", dry.value);
    let gone = c.call(Method::DELETE, &format!("{one}?dryRun=All"), JSON, "{}").await;
    assert_eq!((gone.code, c.get(&one).await.code), (200, 404), "{}", gone.value);
}

const PROTO: &str = "application/vnd.kubernetes.protobuf";

/// The message and the code of a Status, in whatever form it is told.
fn told(answer: &common::Answer) -> (String, u64) {
    let body = answer.response.body();
    let status = match answer.header("content-type") {
        "application/json" => answer.value.clone(),
        "application/yaml" => api::codec::yaml::decode(body).unwrap(),
        PROTO => {
            let schema =
                api::schema::TypeId::named("io.k8s.apimachinery.pkg.apis.meta.v1.Status").unwrap().schema();
            api::codec::protobuf::decode(body, schema).unwrap()
        }
        other => panic!("{other}"),
    };
    assert_eq!((&status["kind"], &status["apiVersion"]), (&json!("Status"), &json!("v1")), "{status}");
    (status["message"].as_str().unwrap().to_owned(), status["code"].as_u64().unwrap())
}

#[tokio::test]
async fn failures_are_told_in_the_form_that_was_asked_for() {
    let c = Cluster::start().await;
    let ann = c.as_user(UserInfo::new("ann", &[]));
    let nobody = c.nobody().await;
    let metadata = format!("{PROTO};as=PartialObjectMetadata;g=meta.k8s.io;v=v1");
    let either = format!("{PROTO},application/json");
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/yaml".to_owned();
    let mixed = format!("{metadata},{either}");
    let none = format!("{MAPS}/none");
    let invalid = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "A B"}}).to_string();
    for (accept, media) in [
        (PROTO, PROTO),
        (either.as_str(), PROTO),
        (mixed.as_str(), PROTO),
        // A Status has no metadata to be told alone, nor a table.
        (metadata.as_str(), "application/json"),
        (table.as_str(), "application/yaml"),
        ("application/yaml", "application/yaml"),
        ("application/json", "application/json"),
        ("*/*", "application/json"),
    ] {
        let headers = [("accept", accept), ("content-type", "application/json")];
        let bad = [("accept", accept), ("authorization", "Bearer x")];
        for (answer, code) in [
            (c.call(Method::GET, &none, &headers, "").await, 404),
            (call(&ann, Method::GET, &none, &headers, "").await, 403),
            (call(&nobody, Method::GET, &none, &bad, "").await, 401),
            (c.call(Method::POST, MAPS, &headers, invalid.clone()).await, 422),
            (c.call(Method::POST, MAPS, &headers, "{").await, 400),
            (c.call(Method::GET, "/apis/none/v1/things", &headers, "").await, 404),
        ] {
            assert_eq!(answer.code, code, "{accept}");
            assert_eq!(answer.header("content-type"), media, "{accept}: {code}");
            assert_eq!(told(&answer).1, u64::from(code));
        }
    }
    // What cannot be had in any form that is asked for is told in JSON.
    let answer = c.call(Method::GET, &none, &[("accept", "text/html")], "").await;
    assert_eq!((answer.code, answer.header("content-type")), (406, "application/json"));
}

#[tokio::test]
async fn custom_resources_have_no_protobuf_form_but_their_metadata_have() {
    let c = Cluster::start().await;
    let schema = json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "foos.x.io"},
        "spec": {"group": "x.io", "scope": "Namespaced", "names": {"plural": "foos", "kind": "Foo"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": {"status": {}}}]}});
    assert_eq!(c.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd).await.code, 201);
    let foos = "/apis/x.io/v1/namespaces/default/foos";
    let served = async || {
        while c.get(foos).await.code != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), served()).await.unwrap();
    let foo = json!({"apiVersion": "x.io/v1", "kind": "Foo", "metadata": {"name": "a"}});
    assert_eq!(c.post(foos, foo).await.code, 201);
    let one = format!("{foos}/a");
    let as_form = |form: &str| format!("{PROTO};as={form};g=meta.k8s.io;v=v1");
    let (metadata, list) = (as_form("PartialObjectMetadata"), as_form("PartialObjectMetadataList"));
    let table = as_form("Table");
    for (path, accept, code, media) in [
        (one.as_str(), PROTO.to_owned(), 406, PROTO),
        (foos, PROTO.to_owned(), 406, PROTO),
        (one.as_str(), format!("{PROTO},application/json"), 200, "application/json"),
        (one.as_str(), format!("{PROTO}, */*"), 200, "application/json"),
        (one.as_str(), metadata.clone(), 200, PROTO),
        (foos, list, 200, PROTO),
        (one.as_str(), table.clone(), 406, "application/json"),
        (
            one.as_str(),
            format!("{table},application/json;as=Table;g=meta.k8s.io;v=v1"),
            200,
            "application/json",
        ),
    ] {
        let answer = c.call(Method::GET, path, &[("accept", accept.as_str())], "").await;
        assert_eq!((answer.code, answer.header("content-type")), (code, media), "{path} {accept}");
        if code == 406 {
            let want = format!(
                "only the following media types are accepted: application/json, application/yaml, {PROTO}"
            );
            assert_eq!(told(&answer), (want, 406));
        }
    }
    // What is told of a deletion has one, but goes by what its resource has.
    let accept = [("accept", "application/vnd.kubernetes.protobuf,application/json")];
    let gone = c.call(Method::DELETE, &one, &accept, "").await;
    assert_eq!((gone.code, gone.header("content-type")), (200, "application/json"));
    // The resource is told by the same hash in discovery, whatever version of it is looked at.
    let resources = c.get("/apis/x.io/v1").await.value["resources"].clone();
    assert_eq!(resources[0]["storageVersionHash"], "7NYA/lA9Fzk=", "{resources}");
    assert_eq!(resources[1].get("storageVersionHash"), None);
}
