//! Tokens: those of pods outlive their time for programs that read them once; those out of secrets are good until they are marked.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use common::{Cluster, account, call, made};
use http::Method;
use serde_json::{Value, json};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const PODS: &str = "/api/v1/namespaces/default/pods";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn claims(token: &str) -> Value {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

#[tokio::test]
async fn tokens_of_pods_are_good_for_longer_than_they_say() {
    let c = Cluster::start().await;
    account(&c).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "image": "b"}]}});
    made(&c, PODS, pod).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "name": "p"});
    for (spec, extended) in [
        (json!({"expirationSeconds": 3607, "boundObjectRef": pod}), true),
        (json!({"expirationSeconds": 3600, "boundObjectRef": pod}), false),
        (json!({"expirationSeconds": 3607}), false),
        (json!({"expirationSeconds": 3607, "boundObjectRef": pod, "audiences": ["vault"]}), false),
    ] {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let answer = made(&c, &format!("{ACCOUNTS}/default/token"), request).await;
        let token = claims(answer["status"]["token"].as_str().unwrap());
        let time = |claim: &Value| claim.as_i64().unwrap() - token["iat"].as_i64().unwrap();
        let asked = spec["expirationSeconds"].as_i64().unwrap();
        assert_eq!(time(&token["exp"]), if extended { 365 * 24 * 3600 } else { asked }, "{spec}");
        let warned = &token["kubernetes.io"]["warnafter"];
        assert_eq!(if extended { time(warned) } else { asked }, asked, "{spec}: {warned}");
        assert_eq!(warned.is_null(), !extended, "{spec}");
        // Whoever asked gets a new one as if it ended in time.
        let told: jiff::Timestamp =
            answer["status"]["expirationTimestamp"].as_str().unwrap().parse().unwrap();
        assert_eq!(told.as_second() - token["iat"].as_i64().unwrap(), asked, "{spec}");
    }
}

#[tokio::test]
async fn a_token_out_of_a_secret_is_good_until_it_is_marked() {
    let c = Cluster::start().await;
    let account = account(&c).await;
    let old = json!({"iss": "kubernetes/serviceaccount", "sub": "system:serviceaccount:default:default",
        "kubernetes.io/serviceaccount/namespace": "default", "kubernetes.io/serviceaccount/secret.name": "s",
        "kubernetes.io/serviceaccount/service-account.name": "default",
        "kubernetes.io/serviceaccount/service-account.uid": account["metadata"]["uid"]});
    let token = c.pki.sign_token(&old).unwrap();
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/service-account-token",
        "metadata": {"name": "s", "annotations": {"kubernetes.io/service-account.name": "default"}},
        "data": {"token": STANDARD.encode(&token)}});
    made(&c, SECRETS, secret).await;
    let (nobody, bearer) = (c.nobody().await, format!("Bearer {token}"));
    let ask = async || {
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        call(&nobody, Method::POST, path, &headers, body).await
    };
    let good = ask().await;
    assert_eq!(
        good.value["status"]["userInfo"]["username"], "system:serviceaccount:default:default",
        "{}",
        good.value
    );
    let one = format!("{SECRETS}/s");
    let today = base::clock::now().to_string()[..10].to_owned();
    let noted = async {
        loop {
            let labels = c.get(&one).await.value["metadata"]["labels"].clone();
            if labels["kubernetes.io/legacy-token-last-used"].is_string() {
                break labels;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let labels = tokio::time::timeout(Duration::from_secs(20), noted).await.unwrap();
    assert_eq!(labels["kubernetes.io/legacy-token-last-used"], json!(today));
    let since = c.get(
        "/api/v1/namespaces/kube-system/configmaps/kube-apiserver-legacy-service-account-token-tracking",
    );
    assert_eq!(since.await.value["data"]["since"], json!(today));
    let mark = json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": today}}});
    assert_eq!(c.patch(&one, "merge-patch+json", mark).await.code, 200);
    assert_eq!(ask().await.code, 401);
    let unmark = json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": null}}});
    assert_eq!(c.patch(&one, "merge-patch+json", unmark).await.code, 200);
    assert_eq!(ask().await.code, 201);
    let uses = async |what: &str| {
        let text = c.get("/metrics").await.response.into_body();
        let name = format!("serviceaccount_{what}_total ");
        let found = std::str::from_utf8(&text)
            .unwrap()
            .lines()
            .find_map(|l| l.strip_prefix(&name))
            .unwrap()
            .to_owned();
        found.parse::<u64>().unwrap()
    };
    assert_eq!((uses("legacy_tokens").await, uses("legacy_manual_token_uses").await), (2, 2));
    assert_eq!((uses("legacy_auto_token_uses").await, uses("invalid_legacy_auto_token_uses").await), (0, 0));
    // One that the account names was made for it.
    let named = json!({"secrets": [{"name": "s"}]});
    let path = "/api/v1/namespaces/default/serviceaccounts/default";
    assert_eq!(c.patch(path, "merge-patch+json", named).await.code, 200);
    assert_eq!(ask().await.code, 201);
    let mark = json!({"metadata": {"labels": {"kubernetes.io/legacy-token-invalid-since": today}}});
    assert_eq!(c.patch(&one, "merge-patch+json", mark).await.code, 200);
    assert_eq!(ask().await.code, 401);
    assert_eq!((uses("legacy_tokens").await, uses("legacy_manual_token_uses").await), (3, 2));
    assert_eq!((uses("legacy_auto_token_uses").await, uses("invalid_legacy_auto_token_uses").await), (1, 1));
    assert_eq!((uses("valid_tokens").await, uses("stale_tokens").await), (0, 0));
    // Of those that outlive what their bearer is told, a use after that is stale.
    let now = base::clock::now().as_second();
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let given = made(&c, &format!("{ACCOUNTS}/default/token"), request).await;
    let issuer = claims(given["status"]["token"].as_str().unwrap())["iss"].clone();
    for (told, valid, stale) in [(now + 600, 1, 0), (now - 600, 1, 1)] {
        let claims = json!({"aud": [issuer], "exp": now + 6000, "iat": now - 1000, "nbf": now - 1000,
            "iss": issuer, "sub": "system:serviceaccount:default:default",
            "kubernetes.io": {"namespace": "default", "warnafter": told,
                "serviceaccount": {"name": "default", "uid": account["metadata"]["uid"]}}});
        let bearer = format!("Bearer {}", c.pki.sign_token(&claims).unwrap());
        let headers = [("authorization", bearer.as_str())];
        assert_eq!(call(&nobody, Method::GET, "/version", &headers, "").await.code, 200);
        assert_eq!((uses("valid_tokens").await, uses("stale_tokens").await), (valid, stale));
    }
}

#[tokio::test]
async fn a_token_is_asked_for_the_account_that_is_meant() {
    for (release, conflict) in [("1.36", true), ("1.33", false)] {
        let c = Cluster::start_as(store::memory(), |o| o.release = release.parse().unwrap()).await;
        let account = account(&c).await;
        let uid = &account["metadata"]["uid"];
        let ask = async |metadata: Value, spec: Value| {
            let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": metadata, "spec": spec});
            c.post(&format!("{ACCOUNTS}/default/token"), request).await
        };
        for (metadata, code, why) in [
            (json!({}), 201, ""),
            (json!({"name": "default", "namespace": "default", "uid": uid}), 201, ""),
            (
                json!({"name": "other"}),
                422,
                "metadata.name: Invalid value: \"other\": must match the service account name if specified",
            ),
            (json!({"namespace": "other"}), 422, "must match the service account namespace if specified"),
            (
                json!({"uid": "earlier"}),
                if conflict { 409 } else { 201 },
                "the UID in the token request (earlier) does not match the UID of the service account",
            ),
        ] {
            let answer = ask(metadata.clone(), json!({})).await;
            assert_eq!(answer.code, code, "{metadata}: {}", answer.value);
            let said = if code == 201 { answer.header("warning") } else { answer.message() };
            assert!(said.contains(why), "{metadata}: {said}");
            if why.is_empty() {
                assert_eq!((&answer.value["metadata"]["uid"], said), (uid, ""), "{metadata}");
            }
        }
    }
}

#[tokio::test]
async fn what_a_token_is_bound_to_is_told() {
    let c = Cluster::start().await;
    account(&c).await;
    let ask = async |reference: Value| {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": reference}});
        c.post(&format!("{ACCOUNTS}/default/token"), request).await
    };
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "gone", "containers": [{"name": "a", "image": "b"}]}});
    made(&c, PODS, pod).await;
    for (reference, code, why) in [
        (
            json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "x"}),
            400,
            "cannot bind token to object of type /v1, Kind=ConfigMap",
        ),
        (
            json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}),
            400,
            "cannot bind token to object of type apps/v1, Kind=Deployment",
        ),
        (
            json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "earlier"}),
            409,
            "Operation cannot be fulfilled on Pod \"p\": the UID in the bound object reference (earlier)",
        ),
    ] {
        let refused = ask(reference).await;
        assert_eq!(refused.code, code, "{}", refused.value);
        assert!(refused.message().contains(why), "{}", refused.message());
    }
    // A node that is not there is told by its name.
    let answer = ask(json!({"apiVersion": "v1", "kind": "Pod", "name": "p"})).await;
    let token = answer.value["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(claims(&token)["kubernetes.io"]["node"], json!({"name": "gone"}));
    let review =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let known = made(&c, "/apis/authentication.k8s.io/v1/tokenreviews", review).await["status"].clone();
    let extra = &known["user"]["extra"];
    assert_eq!(extra["authentication.kubernetes.io/node-name"], json!(["gone"]), "{known}");
    assert_eq!(extra["authentication.kubernetes.io/node-uid"], json!(null));
}

#[tokio::test]
async fn clocks_may_be_a_minute_apart() {
    let c = Cluster::start().await;
    let account = account(&c).await;
    let now = base::clock::now().as_second();
    let issuer = {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer = made(&c, &format!("{ACCOUNTS}/default/token"), request).await;
        claims(answer["status"]["token"].as_str().unwrap())["iss"].clone()
    };
    for (times, why) in [
        ((now - 600, now - 600, now - 50), ""),
        ((now - 600, now - 600, now - 90), "service account token has expired"),
        ((now - 600, now + 50, now + 600), ""),
        ((now - 600, now + 90, now + 600), "service account token is not valid yet"),
        ((now + 90, now, now + 600), "service account token is issued in the future"),
    ] {
        let token = json!({"iss": issuer, "aud": [issuer], "sub": "system:serviceaccount:default:default",
            "iat": times.0, "nbf": times.1, "exp": times.2, "kubernetes.io": {"namespace": "default",
                "serviceaccount": {"name": "default", "uid": account["metadata"]["uid"]}}});
        let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": c.pki.sign_token(&token).unwrap()}});
        let status = made(&c, "/apis/authentication.k8s.io/v1/tokenreviews", review).await["status"].clone();
        assert_eq!(status["authenticated"], why.is_empty(), "{token}: {status}");
        assert!(status["error"].as_str().unwrap_or("").contains(why), "{status}");
    }
}
