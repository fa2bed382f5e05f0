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
    assert_eq!(
        (refused.code, refused.message()),
        (
            406,
            "only the following media types are accepted: application/json;stream=watch, application/vnd.kubernetes.protobuf;stream=watch"
        )
    );
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
