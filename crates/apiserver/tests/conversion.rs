//! Custom resources in several versions, with and without a conversion webhook.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use api::Value;
use common::hook::{Hook, addresses_converted};
use common::{Cluster, call};
use futures::StreamExt;
use http::Method;
use serde_json::json;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn crd(stored: &str, conversion: Value) -> Value {
    let text = json!({"type": "string"});
    let version = |name: &str, properties: Value| {
        json!({"name": name, "served": true, "storage": name == stored, "subresources": {"status": {}},
            "additionalPrinterColumns": [{"name": format!("Of-{name}"), "type": "string",
                "jsonPath": if name == "v1" { ".hostPort" } else { ".host" }}],
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    };
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "addresses.stable.example.com"},
        "spec": {"group": "stable.example.com", "scope": "Namespaced",
            "names": {"plural": "addresses", "kind": "Address"}, "conversion": conversion,
            "versions": [
                version("v1", json!({"hostPort": text, "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}})),
                version("v2", json!({"host": text, "port": {"type": "string", "maxLength": 5},
                    "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}))]}})
}

fn webhook(hook: &Hook, reviews: Value) -> Value {
    json!({"strategy": "Webhook",
        "webhook": {"clientConfig": hook.config("crdconvert"), "conversionReviewVersions": reviews}})
}

fn path(version: &str) -> String {
    format!("/apis/stable.example.com/{version}/namespaces/default/addresses")
}

async fn served(c: &Cluster, crd: Value) {
    let name = format!("{CRDS}/addresses.stable.example.com");
    let now = c.get(&name).await;
    let answer = if now.code == 404 {
        c.post(CRDS, crd).await
    } else {
        let mut crd = crd;
        crd["metadata"]["resourceVersion"] = now.value["metadata"]["resourceVersion"].clone();
        c.put(&name, crd).await
    };
    assert!(answer.code < 300, "{}", answer.value);
    // What is served follows the definition by its event; the version in discovery says that it has.
    let stored = answer.value["spec"]["versions"].as_array().unwrap().iter().find(|v| v["storage"] == true);
    let stored = stored.unwrap()["name"].clone();
    for _ in 0..200 {
        let status = c.get(&name).await.value["status"].clone();
        let settled = status["storedVersions"].as_array().is_some_and(|v| v.contains(&stored));
        if settled && c.get(&path("v2")).await.code == 200 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the definition is not served");
}

fn address(version: &str, name: &str, fields: Value) -> Value {
    let mut object = json!({"apiVersion": format!("stable.example.com/{version}"), "kind": "Address",
        "metadata": {"name": name, "labels": {"of": version}}});
    object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    object
}

#[tokio::test]
async fn objects_are_converted_by_the_webhook() {
    for reviews in [json!(["v1", "v1beta1"]), json!(["v1beta1"])] {
        let c = Cluster::start().await;
        let hook = Hook::start(&c.pki, addresses_converted).await;
        served(&c, crd("v1", webhook(&hook, reviews.clone()))).await;
        let made = c.post(&path("v1"), address("v1", "a", json!({"hostPort": "localhost:8080"}))).await;
        assert_eq!(made.code, 201, "{}", made.value);
        assert!(hook.asked().is_empty(), "nothing is converted that need not be");
        let read = c.get(&format!("{}/a", path("v2"))).await.value;
        assert_eq!((&read["host"], &read["port"]), (&json!("localhost"), &json!("8080")), "{read}");
        assert_eq!(read["apiVersion"], "stable.example.com/v2");
        assert_eq!(read["metadata"]["uid"], made.value["metadata"]["uid"]);
        let asked = hook.asked();
        assert_eq!(asked.len(), 1);
        let version = format!("apiextensions.k8s.io/{}", reviews[0].as_str().unwrap());
        assert_eq!(asked[0]["apiVersion"], json!(version));
        // Through the other version: updates, patches, status.
        let mut changed = read.clone();
        changed["port"] = json!("9090");
        let put = c.put(&format!("{}/a", path("v2")), changed.clone()).await;
        assert_eq!((put.code, &put.value["port"]), (200, &json!("9090")), "{}", put.value);
        assert_eq!(c.get(&format!("{}/a", path("v1"))).await.value["hostPort"], "localhost:9090");
        changed["port"] = json!("much-too-long");
        changed["metadata"]["resourceVersion"] = put.value["metadata"]["resourceVersion"].clone();
        let refused = c.put(&format!("{}/a", path("v2")), changed).await;
        assert_eq!(refused.code, 422, "the schema of the request's version holds: {}", refused.value);
        let patched =
            c.patch(&format!("{}/a", path("v2")), "merge-patch+json", json!({"host": "example.com"})).await;
        assert_eq!(patched.value["host"], "example.com", "{}", patched.value);
        let status = json!({"status": {"ready": true}});
        let patched = c.patch(&format!("{}/a/status", path("v2")), "merge-patch+json", status).await;
        assert_eq!(patched.value["status"]["ready"], true, "{}", patched.value);
        let read = c.get(&format!("{}/a", path("v1"))).await.value;
        assert_eq!((&read["hostPort"], &read["status"]["ready"]), (&json!("example.com:9090"), &json!(true)));
        let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        let table = c.call(Method::GET, &path("v2"), &table, "").await.value;
        assert_eq!(table["columnDefinitions"][1]["name"], "Of-v2", "{table}");
        assert_eq!(table["rows"][0]["cells"][1], "example.com");
        let gone = c.delete(&format!("{}/a", path("v2"))).await;
        assert_eq!(gone.code, 200, "{}", gone.value);
    }
}

#[tokio::test]
async fn a_mixed_list_is_converted_and_storage_migrates() {
    let c = Cluster::start().await;
    let hook = Hook::start(&c.pki, addresses_converted).await;
    let conversion = webhook(&hook, json!(["v1"]));
    served(&c, crd("v1", conversion.clone())).await;
    c.post(&path("v1"), address("v1", "one", json!({"hostPort": "localhost:1"}))).await;
    served(&c, crd("v2", conversion)).await;
    let status = c.get(&format!("{CRDS}/addresses.stable.example.com")).await.value["status"].clone();
    assert_eq!(status["storedVersions"], json!(["v1", "v2"]));
    let made = c.post(&path("v1"), address("v1", "two", json!({"hostPort": "localhost:2"}))).await;
    assert_eq!((made.code, &made.value["hostPort"]), (201, &json!("localhost:2")), "{}", made.value);
    hook.asked();
    let list = c.get(&path("v1")).await.value;
    let ports: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|o| &o["hostPort"]).collect();
    assert_eq!(ports, [&json!("localhost:1"), &json!("localhost:2")], "{list}");
    let asked = hook.asked();
    assert_eq!(asked.len(), 1, "one call for a list");
    assert_eq!(
        asked[0]["request"]["objects"].as_array().unwrap().len(),
        1,
        "only what is stored in the other one"
    );
    let list = c.get(&format!("{}?labelSelector=of%3Dv1", path("v2"))).await.value;
    let ports: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|o| &o["port"]).collect();
    assert_eq!(ports, [&json!("1"), &json!("2")], "{list}");
    // A write that changes nothing brings an object into the version that is stored now.
    let one = c.get(&format!("{}/one", path("v2"))).await.value;
    let same = c.put(&format!("{}/one", path("v2")), one.clone()).await.value;
    assert_ne!(same["metadata"]["resourceVersion"], one["metadata"]["resourceVersion"]);
    hook.asked();
    let list = c.get(&path("v2")).await.value;
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    assert!(hook.asked().is_empty(), "everything is stored in v2");
    let again = c.put(&format!("{}/one", path("v2")), same.clone()).await.value;
    assert_eq!(again["metadata"]["resourceVersion"], same["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn watches_are_of_the_version_asked_for() {
    let c = Cluster::start().await;
    let hook = Hook::start(&c.pki, addresses_converted).await;
    served(&c, crd("v1", webhook(&hook, json!(["v1"])))).await;
    c.post(&path("v1"), address("v1", "a", json!({"hostPort": "localhost:1"}))).await;
    hook.asked();
    let open = async || {
        let request =
            http::Request::get(format!("{}?watch=true", path("v2"))).body(Default::default()).unwrap();
        c.admin.transport().open(request).await.unwrap().into_body()
    };
    let mut bodies = [open().await, open().await];
    let mut events = Vec::new();
    for body in &mut bodies {
        events.push(next_event(body).await);
    }
    let patch = json!({"hostPort": "localhost:2"});
    c.patch(&format!("{}/a", path("v1")), "merge-patch+json", patch).await;
    hook.asked();
    for body in &mut bodies {
        events.push(next_event(body).await);
    }
    let seen: Vec<(&str, &str)> =
        events.iter().map(|e| (e["type"].as_str().unwrap(), e["object"]["port"].as_str().unwrap())).collect();
    assert_eq!(seen, [("ADDED", "1"), ("ADDED", "1"), ("MODIFIED", "2"), ("MODIFIED", "2")]);
    assert!(events.iter().all(|e| e["object"]["apiVersion"] == "stable.example.com/v2"));
}

async fn next_event(body: &mut client::BoxBody) -> Value {
    let mut text = Vec::new();
    while !text.ends_with(b"\n") {
        let stream = http_body_util::BodyStream::new(&mut *body);
        let mut stream = std::pin::pin!(stream);
        let next = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
        text.extend_from_slice(&next.expect("an event in time").unwrap().unwrap().into_data().unwrap());
    }
    serde_json::from_slice(&text).unwrap()
}

#[tokio::test]
async fn a_webhook_that_fails_is_said_to() {
    let c = Cluster::start().await;
    let broken = Arc::new(AtomicBool::new(false));
    let flag = broken.clone();
    let hook = Hook::start(&c.pki, move |review| {
        let mut reply = addresses_converted(review);
        if flag.load(Ordering::SeqCst) {
            reply["response"]["convertedObjects"][0]["metadata"]["name"] = json!("another");
        }
        reply
    })
    .await;
    served(&c, crd("v1", webhook(&hook, json!(["v1"])))).await;
    c.post(&path("v1"), address("v1", "a", json!({"hostPort": "localhost:1"}))).await;
    broken.store(true, Ordering::SeqCst);
    let answer = c.get(&format!("{}/a", path("v2"))).await;
    assert_eq!(answer.code, 500);
    assert_eq!(
        answer.message(),
        "conversion webhook for stable.example.com/v1, Kind=Address returned invalid converted object at index 0: must have the same name: a != another"
    );
    assert_eq!(c.get(&format!("{}/a", path("v1"))).await.code, 200, "what needs no webhook goes on");
    drop(hook);
    let answer = c.get(&path("v2")).await;
    assert_eq!(answer.code, 500, "{}", answer.value);
    assert!(
        answer.message().starts_with(
            "conversion webhook for stable.example.com/v1, Kind=Address failed: Post \"https://127.0.0.1:"
        ),
        "{}",
        answer.message()
    );
    // A definition whose webhook is gone can still be deleted, with all its objects.
    c.delete(&format!("{CRDS}/addresses.stable.example.com")).await;
    for _ in 0..500 {
        if c.get(&format!("{CRDS}/addresses.stable.example.com")).await.code == 404 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the definition stays");
}

#[tokio::test]
async fn without_a_webhook_only_the_name_of_the_version_changes() {
    let c = Cluster::start().await;
    served(&c, crd("v1", json!({"strategy": "None"}))).await;
    c.post(&path("v1"), address("v1", "a", json!({"hostPort": "localhost:1"}))).await;
    let read = c.get(&format!("{}/a", path("v2"))).await.value;
    assert_eq!(read["apiVersion"], "stable.example.com/v2");
    assert!(read.get("hostPort").is_none(), "what v2 does not have is not shown: {read}");
    for (bad, want) in [
        (json!({"strategy": "Webhook"}), "webhookClientConfig: Required value"),
        (
            json!({"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://h/"}, "conversionReviewVersions": ["v9"]}}),
            "must include at least one of v1, v1beta1",
        ),
    ] {
        let mut other = crd("v1", bad);
        other["metadata"]["name"] = json!("others.stable.example.com");
        other["spec"]["names"] = json!({"plural": "others", "kind": "Other"});
        let refused = call(c.admin.transport(), Method::POST, CRDS, common::JSON, other.to_string()).await;
        assert_eq!(refused.code, 422, "{}", refused.value);
        assert!(refused.message().contains(want), "{}", refused.message());
    }
}
