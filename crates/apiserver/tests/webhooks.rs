//! Webhooks: which are asked, what they see, what they may change, and what becomes of what they say.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::sync::Mutex;
use std::time::Duration;

use api::Value;
use apiserver::UserInfo;
use common::hook::{Hook, hooks, reviewed, rule};
use common::{Cluster, JSON, account, call, pod};
use http::Method;
use serde_json::json;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(name: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}}}})
}

#[tokio::test]
async fn rules_match_equivalent_versions_unless_they_are_exact() {
    let c = Cluster::start().await;
    let hook = Hook::start(&c.pki, |r| reviewed(r, json!({}))).await;
    // The rule asks for an older version than the request is made in.
    let old = rule("autoscaling", "v1", "horizontalpodautoscalers");
    hooks(&c, false, "equivalent", &hook, old.clone(), json!({})).await;
    let exact = Hook::start(&c.pki, |r| reviewed(r, json!({}))).await;
    hooks(&c, false, "exact", &exact, old, json!({"matchPolicy": "Exact"})).await;
    let scaler = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "a"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    let made = c.post("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", scaler).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let asked = hook.asked();
    let request = &asked[0]["request"];
    assert_eq!(
        request["kind"],
        json!({"group": "autoscaling", "version": "v1", "kind": "HorizontalPodAutoscaler"})
    );
    assert_eq!(request["requestKind"]["version"], "v2");
    assert_eq!(request["requestResource"]["version"], "v2");
    assert_eq!(request["object"]["apiVersion"], "autoscaling/v1", "{request}");
    assert_eq!(request["object"]["spec"]["targetCPUUtilizationPercentage"], 50);
    assert!(exact.asked().is_empty());
}

#[tokio::test]
async fn webhooks_see_the_documents_of_subresources() {
    let c = Cluster::start().await;
    account(&c).await;
    c.post(PODS, pod("a", json!({}))).await;
    c.post(DEPLOYMENTS, deployment("d")).await;
    // Whoever scales is given twice as much.
    let hook = Hook::start(&c.pki, |r| {
        let patch = "W3sib3AiOiJyZXBsYWNlIiwicGF0aCI6Ii9zcGVjL3JlcGxpY2FzIiwidmFsdWUiOjR9XQ==";
        match r["request"]["kind"]["kind"] == "Scale" {
            true => reviewed(r, json!({"patchType": "JSONPatch", "patch": patch})),
            false => reviewed(r, json!({"auditAnnotations": {"a": "b"}, "warnings": ["seen"]})),
        }
    })
    .await;
    hooks(&c, true, "scale", &hook, rule("apps", "*", "deployments/scale"), json!({})).await;
    let resources = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"],
        "resources": ["pods/binding", "pods/eviction", "serviceaccounts/token"]});
    hooks(&c, false, "documents", &hook, resources, json!({})).await;
    let scaled = c
        .patch(&format!("{DEPLOYMENTS}/d/scale"), "merge-patch+json", json!({"spec": {"replicas": 2}}))
        .await;
    assert_eq!((scaled.code, &scaled.value["spec"]["replicas"]), (200, &json!(4)), "{}", scaled.value);
    // As kubectl shows it.
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let shown = c.call(Method::GET, &format!("{DEPLOYMENTS}/d/scale"), &table, String::new()).await.value;
    let heads = shown["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].clone());
    assert_eq!(Value::from_iter(heads), json!(["Name", "Desired", "Available", "Age"]));
    assert_eq!(shown["rows"][0]["cells"].as_array().unwrap()[..3], [json!("d"), json!(4), json!(0)]);
    assert_eq!(shown["metadata"]["resourceVersion"], scaled.value["metadata"]["resourceVersion"]);
    let asked = hook.asked();
    assert_eq!(
        asked[0]["request"]["kind"],
        json!({"group": "autoscaling", "version": "v1", "kind": "Scale"})
    );
    assert_eq!(asked[0]["request"]["object"]["spec"]["replicas"], 2);
    assert_eq!(asked[0]["request"]["oldObject"]["spec"]["replicas"], 1);
    assert_eq!(asked[0]["request"]["resource"]["resource"], "deployments");
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "a"}, "target": {"kind": "Node", "name": "n"}});
    let bound = c.post(&format!("{PODS}/a/binding"), binding).await;
    assert_eq!(bound.code, 201, "{}", bound.value);
    assert_eq!(bound.header("warning"), "299 - \"seen\"");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    assert_eq!(c.post("/api/v1/namespaces/default/serviceaccounts/default/token", request).await.code, 201);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "a"}});
    assert_eq!(c.post(&format!("{PODS}/a/eviction"), eviction).await.code, 201);
    let kinds: Vec<Value> = hook.asked().iter().map(|r| r["request"]["kind"]["kind"].clone()).collect();
    assert_eq!(kinds, ["Binding", "TokenRequest", "Eviction"]);
}

#[tokio::test]
async fn webhooks_see_what_was_sent_and_the_server_what_they_made_of_it() {
    let c = Cluster::start().await;
    let hook = Hook::start(&c.pki, |r| {
        let (new, update) = (&r["request"]["object"], r["request"]["operation"] == "UPDATE");
        let ops = match update {
            // A label changes, and with it what is wanted and, were it allowed, what is.
            true => json!([{"op": "replace", "path": "/spec/replicas", "value": 3},
                {"op": "add", "path": "/status", "value": {"replicas": 99}}]),
            // What it does to the owners of fields is no good, and does not count.
            false => json!([{"op": "replace", "path": "/metadata/managedFields/0/operation", "value": "Steal"},
                {"op": "add", "path": "/metadata/labels", "value": {"named": new["metadata"]["name"].is_string().to_string(),
                "known": new["metadata"]["uid"].is_string().to_string(), "owned": new["metadata"]["managedFields"].is_array().to_string()}}]),
        };
        let patch = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ops.to_string());
        reviewed(r, json!({"patchType": "JSONPatch", "patch": patch}))
    })
    .await;
    hooks(&c, true, "change", &hook, rule("apps", "*", "deployments"), json!({})).await;
    let judge = Hook::start(&c.pki, |r| reviewed(r, json!({}))).await;
    hooks(&c, false, "judge", &judge, rule("apps", "*", "deployments"), json!({})).await;
    let mut generated = deployment("d");
    generated["metadata"] = json!({"generateName": "d-"});
    let made = c.post(DEPLOYMENTS, generated).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let asked = hook.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0]["request"].get("name"), None, "{}", asked[0]["request"]);
    let judged = &judge.asked()[0]["request"];
    assert_eq!(judged["name"], made.value["metadata"]["name"], "who judges knows what it is called");
    assert_eq!(
        made.value["metadata"]["labels"],
        json!({"named": "false", "known": "false", "owned": "true"}),
        "it has neither name nor uid yet, and its fields have an owner"
    );
    assert_eq!(made.value["metadata"]["generation"], 1);
    assert_eq!(made.value["metadata"]["managedFields"][0]["operation"], "Update");
    assert!(made.header("warning").contains("managedFields was in an invalid state after admission"));
    let path = format!("{DEPLOYMENTS}/{}", made.value["metadata"]["name"].as_str().unwrap());
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let changed = c.patch(&path, "merge-patch+json", label.clone()).await;
    assert_eq!((changed.code, &changed.value["spec"]["replicas"]), (200, &json!(3)), "{}", changed.value);
    assert_eq!(changed.value["metadata"]["generation"], 2, "what is wanted is another thing");
    assert_eq!(changed.value["status"].get("replicas"), None, "what is, is told by the subresource alone");
    let again = c.patch(&path, "merge-patch+json", json!({"spec": {"replicas": 7}})).await;
    assert_eq!(
        again.value["metadata"]["generation"], 2,
        "a change that is taken back is none: {}",
        again.value
    );
}

#[tokio::test]
async fn a_webhook_moves_nothing_into_another_namespace() {
    let c = Cluster::start().await;
    let hook = Hook::start(&c.pki, |r| {
        let ops = json!([{"op": "replace", "path": "/metadata/namespace", "value": "other"}]);
        let patch = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, ops.to_string());
        reviewed(r, json!({"patchType": "JSONPatch", "patch": patch}))
    })
    .await;
    hooks(&c, true, "move", &hook, rule("", "v1", "configmaps"), json!({})).await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    let refused = c.post("/api/v1/namespaces/default/configmaps", map).await;
    assert_eq!(refused.code, 400, "{}", refused.value);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_webhook_holds_up_its_own_service_alone() {
    let c = Cluster::start().await;
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = Mutex::new(released);
    let (judging, mut judged) = tokio::sync::mpsc::unbounded_channel();
    let hook = Hook::start(&c.pki, move |r| {
        let _ = judging.send(());
        let _ = released.lock().unwrap().recv_timeout(Duration::from_secs(20));
        reviewed(r, json!({}))
    })
    .await;
    let selector = json!({"objectSelector": {"matchLabels": {"slow": "true"}}, "timeoutSeconds": 25});
    hooks(&c, false, "slow", &hook, rule("", "v1", "services"), selector).await;
    let service = |name: &str, slow: &str| {
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "labels": {"slow": slow}},
            "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}})
    };
    let admin = c.admin.transport().clone();
    let body = service("slow", "true").to_string();
    let slow = tokio::spawn(async move { call(&admin, Method::POST, SERVICES, JSON, body).await });
    // It is being judged, and has its port by then.
    judged.recv().await.unwrap();
    let taken = c.post(SERVICES, service("same", "false"));
    let refused = tokio::time::timeout(Duration::from_secs(10), taken).await.expect("others are not held up");
    assert_eq!(refused.code, 422, "{}", refused.value);
    assert!(refused.message().contains("provided port is already allocated"), "{}", refused.message());
    let mut other = service("other", "false");
    other["spec"]["ports"][0]["nodePort"] = json!(30081);
    assert_eq!(c.post(SERVICES, other).await.code, 201);
    release.send(()).unwrap();
    let made = slow.await.unwrap();
    assert_eq!(made.code, 201, "{}", made.value);
    assert_eq!(
        c.post(SERVICES, service("late", "false")).await.code,
        422,
        "now the service itself has the port"
    );
}

#[tokio::test]
async fn policies_of_failure_dry_runs_and_conditions() {
    let c = Cluster::start().await;
    let hook =
        Hook::start(&c.pki, |r| reviewed(r, json!({"allowed": false, "status": {"message": "no"}}))).await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let conditions = json!({"sideEffects": "None", "matchConditions": [
        {"name": "not-admins", "expression": "!authorizer.group('').resource('nodes').check('delete').allowed()"},
        {"name": "not-free", "expression": "object.metadata.name != 'free'"}]});
    hooks(&c, false, "picky", &hook, rule("", "v1", "configmaps"), conditions).await;
    assert_eq!(c.post(maps, map("a")).await.code, 201, "the condition leaves administrators out");
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "e"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    assert_eq!(c.post(bindings, binding).await.code, 201);
    let ann = c.as_user(UserInfo::new("ann", &[]));
    let post = async |name: &str, query: &str| {
        call(&ann, Method::POST, &format!("{maps}{query}"), JSON, map(name).to_string()).await
    };
    assert_eq!(post("free", "").await.code, 201);
    let refused = post("b", "").await;
    assert_eq!(
        (refused.code, refused.message()),
        (400, "admission webhook \"picky.example.com\" denied the request: no")
    );
    // A webhook that is not there, and says what is to become of that.
    let gone = Hook::start(&c.pki, |_| json!({})).await;
    hooks(&c, false, "gone", &gone, rule("", "v1", "secrets"), json!({"failurePolicy": "Ignore"})).await;
    let secret = |name: &str| json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(
        c.post(secrets, secret("a")).await.code,
        201,
        "its answer is none, and its policy is to go on"
    );
    hooks(&c, false, "gone2", &gone, rule("", "v1", "secrets"), json!({"sideEffects": "NoneOnDryRun"})).await;
    let refused = c.post(secrets, secret("b")).await;
    assert_eq!(refused.code, 500);
    assert!(refused.message().contains("webhook response was absent"), "{}", refused.message());
    drop(gone);
    let refused = c.post(&format!("{secrets}?dryRun=All"), secret("c")).await;
    assert_eq!(refused.code, 500, "{}", refused.value);
    // Each call is counted for what came of it.
    let text = String::from_utf8(c.get("/metrics").await.response.into_body().to_vec()).unwrap();
    let of = |name: &str| format!("name=\"{name}.example.com\",operation=\"CREATE\",type=\"validating\"");
    let (picky, gone, gone2) = (of("picky"), of("gone"), of("gone2"));
    for line in [
        format!("request_total{{code=\"400\",{picky},rejected=\"true\"}} 1"),
        format!("request_total{{code=\"503\",{gone},rejected=\"false\"}} 3"),
        format!("request_total{{code=\"503\",{gone2},rejected=\"true\"}} 2"),
        format!("admission_duration_seconds_count{{{gone2},rejected=\"true\"}} 2"),
        format!("rejection_count{{error_type=\"no_error\",{picky},rejection_code=\"400\"}} 1"),
        format!("rejection_count{{error_type=\"calling_webhook_error\",{gone2},rejection_code=\"503\"}} 2"),
        "fail_open_count{name=\"gone.example.com\",type=\"validating\"} 3".to_owned(),
    ] {
        let line = format!("apiserver_admission_webhook_{line}");
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
}

#[tokio::test]
async fn patches_that_webhooks_may_not_send() {
    let c = Cluster::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    let patching = |patch: &str| {
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, patch);
        json!({"allowed": true, "patchType": "JSONPatch", "patch": encoded, "warnings": ["heard"]})
    };
    // What cannot be read is a failure, and the policy says what becomes of that.
    let garbled = Hook::start(&c.pki, move |r| reviewed(r, patching("["))).await;
    for (name, policy) in [("open", "Ignore"), ("closed", "Fail")] {
        let resource = if policy == "Fail" { "secrets" } else { "configmaps" };
        hooks(&c, true, name, &garbled, rule("", "v1", resource), json!({"failurePolicy": policy})).await;
    }
    let made = c.post(maps, map("a")).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let warned = made.response.headers().get("warning").unwrap().to_str().unwrap().to_owned();
    assert!(warned.contains("heard"), "{warned}");
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}});
    let refused = c.post("/api/v1/namespaces/default/secrets", secret).await;
    assert_eq!(refused.code, 500, "{}", refused.value);
    let why =
        "failed calling webhook \"closed.example.com\": received undecodable patch in webhook response: ";
    assert!(refused.message().contains(why), "{}", refused.message());
    // Of what goes nothing can be changed.
    let meddling =
        Hook::start(&c.pki, move |r| reviewed(r, patching(r#"[{"op": "remove", "path": "/data"}]"#))).await;
    let deletions = json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["configmaps"]});
    hooks(&c, true, "meddling", &meddling, deletions, json!({"failurePolicy": "Ignore"})).await;
    let refused = c.delete(&format!("{maps}/a")).await;
    let why = "admission webhook \"meddling.example.com\" attempted to modify the object, which is not supported for this operation";
    assert_eq!((refused.code, refused.message()), (500, format!("Internal error occurred: {why}").as_str()));
}

#[tokio::test]
async fn connections_are_shown_to_webhooks_and_reads_are_not() {
    let c = Cluster::start().await;
    account(&c).await;
    assert_eq!(c.post(PODS, pod("a", json!({}))).await.code, 201);
    let hook = Hook::start(&c.pki, |r| {
        let patch = json!([{"op": "replace", "path": "/container", "value": "other"}]).to_string();
        let patch = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, patch);
        reviewed(r, json!({"patchType": "JSONPatch", "patch": patch}))
    })
    .await;
    let all =
        json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CONNECT"], "resources": ["pods/*"]});
    hooks(&c, true, "connect", &hook, all, json!({})).await;
    let ran = c.get(&format!("{PODS}/a/exec?command=ls&stdout=1&container=a")).await;
    assert_eq!(ran.message(), "container other is not valid for pod a", "what is run is what was let pass");
    let asked = hook.asked();
    assert_eq!(asked[0]["request"]["object"]["command"], json!(["ls"]));
    assert_eq!(asked[0]["request"]["operation"], "CONNECT");
    let log = c.get(&format!("{PODS}/a/log?container=a")).await;
    assert_eq!(log.message(), "pod a does not have a host assigned");
    assert_eq!(hook.asked(), Vec::<Value>::new(), "who reads a log connects to nothing");
}

#[tokio::test]
async fn webhooks_see_reviews() {
    let c = Cluster::start().await;
    // Who asks about ann is told of bob; what is asked about carl is refused.
    let mutating = Hook::start(&c.pki, |r| {
        // [{"op": "replace", "path": "/spec/user", "value": "bob"}]
        let patch = "W3sib3AiOiAicmVwbGFjZSIsICJwYXRoIjogIi9zcGVjL3VzZXIiLCAidmFsdWUiOiAiYm9iIn1d";
        match r["request"]["object"]["spec"]["user"] == "ann" {
            true => reviewed(r, json!({"patchType": "JSONPatch", "patch": patch})),
            false => reviewed(r, json!({})),
        }
    })
    .await;
    let judging = Hook::start(&c.pki, |r| {
        reviewed(r, json!({"allowed": r["request"]["object"]["spec"]["user"] != "carl"}))
    })
    .await;
    for (changes, name, hook) in [(true, "changes", &mutating), (false, "judges", &judging)] {
        hooks(&c, changes, name, hook, rule("*", "*", "*"), json!({})).await;
    }
    let (authn, authz) = ("authentication.k8s.io", "authorization.k8s.io");
    let asked = |user: &str| json!({"user": user, "resourceAttributes": {"namespace": "default", "verb": "get", "resource": "pods"}});
    // What was written before is not asked of here.
    judging.asked();
    for (group, place, kind, spec, code) in [
        (authz, "", "SubjectAccessReview", asked("ann"), 201),
        (authz, "", "SubjectAccessReview", asked("carl"), 400),
        (authz, "/namespaces/default", "LocalSubjectAccessReview", asked("dan"), 201),
        (
            authz,
            "",
            "SelfSubjectAccessReview",
            json!({"nonResourceAttributes": {"verb": "get", "path": "/"}}),
            201,
        ),
        (authz, "", "SelfSubjectRulesReview", json!({"namespace": "default"}), 201),
        (authn, "", "TokenReview", json!({"token": "x"}), 201),
        (authn, "", "SelfSubjectReview", json!(null), 201),
    ] {
        let review = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec});
        let answer = c.post(&format!("/apis/{group}/v1{place}/{}s", kind.to_lowercase()), review).await;
        assert_eq!(answer.code, code, "{kind} {spec}: {}", answer.value);
        if spec["user"] == "ann" {
            assert_eq!(answer.value["spec"]["user"], "bob", "{}", answer.value);
        }
    }
    let kinds: Vec<Value> = judging.asked().iter().map(|r| r["request"]["kind"]["kind"].clone()).collect();
    assert_eq!(
        kinds,
        [
            "SubjectAccessReview",
            "SubjectAccessReview",
            "LocalSubjectAccessReview",
            "SelfSubjectAccessReview",
            "SelfSubjectRulesReview",
            "TokenReview",
            "SelfSubjectReview"
        ]
    );
}
