//! What is too large, too deep or too costly is refused in the protocol's own shape, and costs the server little.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::fmt::Write;
use std::sync::Arc;

use api::Value;
use common::{Answer, Cluster};
use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const MERGE: &str = "merge-patch+json";
const PATCH: &str = "json-patch+json";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

/// A connection of an administrator, over the socket.
async fn connect(c: &Cluster) -> tokio_rustls::client::TlsStream<tokio::net::TcpStream> {
    let admin = c.pki.issue_client("admin", &["system:masters".to_owned()]).unwrap();
    let mut config = c.pki.client_config(Some(&admin)).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = tokio::net::TcpStream::connect(c.server.address()).await.unwrap();
    let name = "localhost".try_into().unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Sends a head and as much of `body` chunks as is taken until the answer comes; how many bytes of it were sent.
async fn send(c: &Cluster, head: &str, chunk: &[u8], most: usize) -> (String, usize) {
    let (mut reader, mut writer) = tokio::io::split(connect(c).await);
    writer.write_all(head.as_bytes()).await.unwrap();
    writer.flush().await.unwrap();
    let mut answer = Vec::new();
    let mut sent = 0;
    let mut buffer = [0; 4096];
    let sending = async {
        while sent < most && writer.write_all(chunk).await.is_ok() && writer.flush().await.is_ok() {
            sent += chunk.len();
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        while let Ok(n) = reader.read(&mut buffer).await {
            answer.extend_from_slice(&buffer[..n]);
            if n == 0 || answer.ends_with(b"}") || answer.ends_with(b"}\n") {
                break;
            }
        }
    };
    tokio::select! { () = sending => {}, () = reading => {} }
    (String::from_utf8_lossy(&answer).into_owned(), sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_beyond_the_limit_are_not_read() {
    let c = Cluster::start().await;
    let head = |rest: &str| {
        format!("POST {MAPS} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{rest}\r\n\r\n")
    };
    // One that says that it is 100 MB long: nothing of it is waited for.
    let (answer, _) = send(&c, &head("Content-Length: 100000000"), b"", 0).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(answer.contains("\"reason\":\"RequestEntityTooLarge\""), "{answer}");
    assert!(answer.contains("Request entity too large: limit is 3145728"), "{answer}");
    // One that does not say: read up to the limit.
    let mut chunk = b"10000\r\n".to_vec();
    chunk.extend_from_slice(&vec![b' '; 1 << 16]);
    chunk.extend_from_slice(b"\r\n");
    let (answer, sent) = send(&c, &head("Transfer-Encoding: chunked"), &chunk, 100 << 20).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(sent < 64 << 20, "the server took {sent} bytes");
    // The limit is the same for who needs no socket.
    let big = map("big", json!({"x": "y".repeat(3 << 20)}));
    let refused = c.post(MAPS, big).await;
    assert_eq!((refused.code, refused.value["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
}

#[tokio::test]
async fn objects_beyond_the_limit_are_not_stored() {
    let c = Cluster::start().await;
    // Roles have no limit of their own, as config maps do.
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let role = |n: usize| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "r"},
            "rules": [{"apiGroups": [""], "verbs": ["get"], "resources": ["pods"], "resourceNames": ["x".repeat(n)]}]})
    };
    let refused = c.post(roles, role(1600 << 10)).await;
    assert_eq!((refused.code, refused.value["reason"].as_str()), (413, Some("RequestEntityTooLarge")));
    assert_eq!(c.get(&format!("{roles}/r")).await.code, 404);
    assert_eq!(c.post(roles, role(1 << 20)).await.code, 201);
    // Nor can a patch make one.
    let more = json!([{"op": "copy", "from": "/rules/0", "path": "/rules/-"}]);
    let refused = c.patch(&format!("{roles}/r"), PATCH, more).await;
    assert_eq!(refused.code, 413, "{}", refused.value["message"]);
    let maps = c.post(MAPS, map("m", json!({"x": "y".repeat(1100 << 10)}))).await;
    assert_eq!(maps.code, 422, "{}", maps.value["message"]);
    assert!(maps.message().contains("Too long: may not be more than 1048576 bytes"), "{}", maps.message());
}

#[tokio::test]
async fn deep_documents_are_refused() {
    let c = Cluster::start().await;
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
    for body in [nested("[", "]"), nested("{\"a\":", "}"), "[".repeat(100_000)] {
        for (media, method, path) in [
            ("application/json", Method::POST, MAPS),
            ("application/yaml", Method::POST, MAPS),
            ("application/merge-patch+json", Method::PATCH, "/api/v1/namespaces/default"),
            ("application/strategic-merge-patch+json", Method::PATCH, "/api/v1/namespaces/default"),
            ("application/json-patch+json", Method::PATCH, "/api/v1/namespaces/default"),
            ("application/apply-patch+yaml", Method::PATCH, "/api/v1/namespaces/default?fieldManager=x"),
        ] {
            let answer = c.call(method, path, &[("content-type", media)], body.clone()).await;
            assert_eq!((answer.code, answer.value["kind"].as_str()), (400, Some("Status")), "{media}");
        }
    }
}

#[tokio::test]
async fn yaml_aliases_do_not_explode() {
    let c = Cluster::start().await;
    let mut bomb = String::from(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\na0: &a0 [x,x,x,x,x,x,x,x,x]\n",
    );
    for i in 1..30 {
        let before = i - 1;
        let list = vec![format!("*a{before}"); 9].join(",");
        writeln!(bomb, "a{i}: &a{i} [{list}]").unwrap();
    }
    let answer = c.call(Method::POST, MAPS, &[("content-type", "application/yaml")], bomb.clone()).await;
    assert_eq!(answer.code, 400, "{}", answer.value);
    assert!(answer.message().starts_with("error converting YAML to JSON: yaml: "), "{}", answer.message());
    let apply = [("content-type", "application/apply-patch+yaml")];
    let answer = c.call(Method::PATCH, &format!("{MAPS}/bomb?fieldManager=x"), &apply, bomb).await;
    assert_eq!(answer.code, 400, "{}", answer.value);
}

/// A kind whose objects may be of any shape.
async fn anything(c: &Cluster, rules: Value) -> String {
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "x-kubernetes-preserve-unknown-fields": true,
                 "properties": {"list": {"type": "array", "items": {"type": "string"}}},
                 "x-kubernetes-validations": rules}}}]}});
    let made = c.post(CRDS, crd).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let path = "/apis/example.com/v1/namespaces/default/things".to_owned();
    for _ in 0..500 {
        if c.get(&path).await.code == 200 {
            return path;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the definition is not served");
}

#[tokio::test]
async fn patches_do_not_grow_objects_without_bounds() {
    let c = Cluster::start().await;
    let path = anything(&c, json!([])).await;
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a"},
        "text": "x".repeat(1000)});
    assert_eq!(c.post(&path, thing).await.code, 201);
    let one = format!("{path}/a");
    // Each copy doubles the object.
    let copies: Vec<Value> =
        (0..60).map(|i| json!({"op": "copy", "from": "", "path": format!("/c{i}")})).collect();
    let refused = c.patch(&one, PATCH, json!(copies)).await;
    assert_eq!(
        (refused.code, refused.message()),
        (422, "the server rejected our request due to an error in our request")
    );
    // Each addition goes a hundred levels deeper.
    let nested = (0..100).fold(json!({}), |v, _| json!({"a": v}));
    let deep: Vec<Value> = (0..50)
        .map(|i| json!({"op": "add", "path": format!("/a{}", "/a".repeat(100 * i)), "value": nested}))
        .collect();
    let refused = c.patch(&one, PATCH, json!(deep)).await;
    assert_eq!(refused.code, 422, "{}", refused.value);
    // Even where each step is within bounds, what cannot be read again is not written.
    assert_eq!(c.patch(&one, MERGE, json!({"a": nested})).await.code, 200);
    let tests = vec![json!({"op": "test", "path": "/text", "value": "y"}); 10_001];
    let refused = c.patch(&one, PATCH, json!(tests)).await;
    assert_eq!(refused.code, 413);
    assert_eq!(refused.message(), "The allowed maximum operations in a JSON patch is 10000, got 10001");
    let adds: Vec<Value> =
        (0..9_000).map(|_| json!({"op": "add", "path": "/list2", "value": "z".repeat(200)})).collect();
    assert_eq!(c.patch(&one, PATCH, json!(adds)).await.code, 200, "many operations are no fault");
    let read = c.get(&one).await;
    assert_eq!((read.code, read.value["text"].as_str().map(str::len)), (200, Some(1000)));
}

#[tokio::test]
async fn selectors_may_be_long_and_are_judged_once() {
    let c = Cluster::start().await;
    c.post(MAPS, map("a", json!({}))).await;
    let values: Vec<String> = (0..5_000).map(|i| format!("v{i}")).collect();
    let get = async |selector: &str| -> Answer {
        let encoded: String = selector
            .bytes()
            .map(|b| {
                if b.is_ascii_alphanumeric() || b == b'-' {
                    char::from(b).to_string()
                } else {
                    format!("%{b:02X}")
                }
            })
            .collect();
        c.get(&format!("{MAPS}?labelSelector={encoded}")).await
    };
    let answer = get(&format!("app in ({})", values.join(","))).await;
    assert_eq!((answer.code, answer.value["items"].as_array().map(Vec::len)), (200, Some(0)));
    let answer = get(&format!("app notin ({})", values.join(","))).await;
    assert_eq!(answer.code, 200);
    for bad in
        ["app in (", "a,,b", "=x", &"(".repeat(9_000), &"!".repeat(9_000), &format!("a={}", "x".repeat(64))]
    {
        let answer = get(bad).await;
        assert_eq!((answer.code, answer.value["reason"].as_str()), (400, Some("BadRequest")), "{bad:.40}");
    }
}

#[tokio::test]
async fn continue_tokens() {
    let c = Cluster::start().await;
    for i in 0..6 {
        c.post(MAPS, map(&format!("m{i}"), json!({}))).await;
    }
    let names = |a: &Answer| -> Vec<String> {
        a.value["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|o| o["metadata"]["name"].as_str().unwrap().to_owned())
            .collect()
    };
    let first = c.get(&format!("{MAPS}?limit=2")).await;
    let token = first.value["metadata"]["continue"].as_str().unwrap().to_owned();
    for bad in ["x", "%00", "e30", "eyJ2IjoibWV0YS5rOHMuaW8vdjIifQ", &"a".repeat(50_000)] {
        let answer = c.get(&format!("{MAPS}?limit=2&continue={bad}")).await;
        assert_eq!((answer.code, answer.value["reason"].as_str()), (400, Some("BadRequest")), "{bad:.20}");
        assert!(answer.message().contains("continue key is not valid"), "{}", answer.message());
    }
    let both = c.get(&format!("{MAPS}?limit=2&resourceVersion=1&continue={token}")).await;
    assert_eq!(both.code, 400, "{}", both.value);
    // The list goes on as it was, until its revision is compacted.
    c.delete(&format!("{MAPS}/m2")).await;
    let second = c.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(second.value["metadata"]["resourceVersion"], first.value["metadata"]["resourceVersion"]);
    assert_eq!(names(&second), ["m2", "m3"], "what is gone now was there then");
    let last = c.post(MAPS, map("m9", json!({}))).await.value["metadata"]["resourceVersion"].clone();
    c.store.compact(last.as_str().unwrap().parse().unwrap()).await.unwrap();
    let expired = c.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((expired.code, expired.value["reason"].as_str()), (410, Some("Expired")));
    assert!(
        expired.message().starts_with("The provided continue parameter is too old"),
        "{}",
        expired.message()
    );
    let fresh = expired.value["metadata"]["continue"].as_str().unwrap();
    let rest = c.get(&format!("{MAPS}?limit=100&continue={fresh}")).await;
    assert_eq!(rest.code, 200, "{}", rest.value);
    assert_eq!(names(&rest), ["m3", "m4", "m5", "m9"], "what comes after the last one seen, as it is now");
    assert_eq!(names(&first), ["m0", "m1"]);
}

#[tokio::test]
async fn a_continue_token_does_not_lead_out_of_its_namespace() {
    let c = Cluster::start().await;
    for namespace in ["a", "b"] {
        let made = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        assert_eq!(c.post("/api/v1/namespaces", made).await.code, 201);
        let secret =
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": format!("of-{namespace}")}});
        let path = format!("/api/v1/namespaces/{namespace}/secrets");
        assert_eq!(c.post(&path, secret).await.code, 201);
    }
    let list = "/api/v1/namespaces/b/secrets";
    let revision: u64 =
        c.get(list).await.value["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later"}});
    assert_eq!(c.post(list, other).await.code, 201);
    for (revision, start, code) in [
        (revision.into(), "a/", 400),
        (json!(-1), "a/", 400),
        (json!(revision + 1), "a/", 400),
        (json!(revision), "b/a", 200),
    ] {
        let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start}).to_string();
        let token = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, token);
        let answer = c.get(&format!("{list}?continue={token}")).await;
        assert_eq!(answer.code, code, "{start} at {revision}: {}", answer.value);
        let names = answer.value["items"].to_string();
        assert_eq!((names.contains("of-a"), names.contains("of-b")), (false, code == 200), "{names}");
    }
}

#[tokio::test]
async fn expressions_cost_no_more_than_they_are_given() {
    let c = Cluster::start().await;
    let nested = "self.list.all(a, self.list.all(b, self.list.all(c, a + b != c)))";
    let crd = |rule: &str| {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "bombs.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "bombs", "kind": "Bomb"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                    {"type": "object", "properties": {"list": {"type": "array", "items": {"type": "string"}}},
                     "x-kubernetes-validations": [{"rule": rule}]}}}]}})
    };
    let refused = c.post(CRDS, crd(nested)).await;
    assert_eq!(refused.code, 422, "{}", refused.value);
    assert!(refused.message().contains("estimated rule cost exceeds budget"), "{}", refused.message());
    let deep = format!("{}true{}", "(".repeat(50_000), ")".repeat(50_000));
    for bad in [deep.as_str(), &"!".repeat(100_001), &"1+".repeat(40_000), "[1,2].map(x, y)"] {
        let refused = c.post(CRDS, crd(bad)).await;
        assert_eq!(refused.code, 422, "{bad:.20}");
        assert!(refused.message().contains("compilation failed"), "{bad:.20}: {:.300}", refused.message());
    }
    // What nothing tells beforehand is stopped when it runs.
    let hook = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "bomb"}, "webhooks": [{"name": "bomb.example.com", "admissionReviewVersions": ["v1"],
            "sideEffects": "None", "clientConfig": {"url": "https://127.0.0.1:1/"},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}],
            "matchConditions": [{"name": "bomb",
                "expression": "object.data.all(a, object.data.all(b, object.data.all(c, a + b != c)))"}]}]});
    let made = c.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", hook).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let data: Value = (0..2000).map(|i| (format!("key-{i}"), json!("v"))).collect();
    let refused = c.post(MAPS, map("m", data)).await;
    assert_eq!(refused.code, 403, "{:.300}", refused.message());
    assert!(refused.message().contains("cost limit exceeded"), "{:.300}", refused.message());
}
