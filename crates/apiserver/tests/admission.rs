//! Admission: webhooks, and the plugins that need the cluster's state.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::sync::Mutex;
use std::time::Duration;

use api::Value;
use apiserver::UserInfo;
use common::hook::Hook;
use common::{Answer, Cluster, JSON, call};
use http::Method;
use serde_json::json;

const PODS: &str = "/api/v1/namespaces/default/pods";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn reviewed(review: &Value, response: Value) -> Value {
    let mut all = json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"],
        "response": {"uid": review["request"]["uid"], "allowed": true}});
    api::patch::merge_patch(&mut all["response"], &response);
    all
}

async fn hooks(c: &Cluster, mutating: bool, name: &str, hook: &Hook, rules: Value, more: Value) {
    let resource = if mutating { "mutatingwebhookconfigurations" } else { "validatingwebhookconfigurations" };
    let kind = if mutating { "MutatingWebhookConfiguration" } else { "ValidatingWebhookConfiguration" };
    let mut one = json!({"name": format!("{name}.example.com"), "admissionReviewVersions": ["v1"],
        "sideEffects": "None", "clientConfig": hook.config("admit"), "rules": [rules]});
    api::patch::merge_patch(&mut one, &more);
    let all = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "webhooks": [one]});
    let made = c.post(&format!("/apis/admissionregistration.k8s.io/v1/{resource}"), all).await;
    assert_eq!(made.code, 201, "{}", made.value);
}

fn rule(group: &str, version: &str, resource: &str) -> Value {
    json!({"apiGroups": [group], "apiVersions": [version], "operations": ["*"], "resources": [resource]})
}

async fn account(c: &Cluster) {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    assert_eq!(c.post("/api/v1/namespaces/default/serviceaccounts", account).await.code, 201);
}

fn pod(name: &str, spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "a", "image": "b"}]}});
    api::patch::merge_patch(&mut pod["spec"], &spec);
    pod
}

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
async fn nodes_change_only_what_is_theirs() {
    let c = Cluster::start().await;
    account(&c).await;
    let node = c.as_user(UserInfo::new("system:node:n1", &["system:nodes"]));
    let nodes = "/api/v1/nodes";
    let send = async |method: Method, path: &str, body: Value| -> Answer {
        let media = if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        call(&node, method, path, &[("content-type", media)], body.to_string()).await
    };
    let object = |name: &str, labels: Value| json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}});
    let refused = send(Method::POST, nodes, object("n1", json!({"node-role.kubernetes.io/x": ""}))).await;
    assert!(
        refused.message().contains("is not allowed to set the following labels: node-role.kubernetes.io/x"),
        "{}",
        refused.message()
    );
    assert_eq!(send(Method::POST, nodes, object("n2", json!({}))).await.code, 403);
    assert_eq!(
        send(Method::POST, nodes, object("n1", json!({"kubernetes.io/hostname": "n1", "x": "y"}))).await.code,
        201
    );
    let one = format!("{nodes}/n1");
    let taints = send(Method::PATCH, &one, json!({"spec": {"taints": []}})).await;
    assert!(taints.message().contains("is not allowed to modify taints"), "{}", taints.message());
    let labels =
        send(Method::PATCH, &one, json!({"metadata": {"labels": {"x": "z", "a.k8s.io/b": "c"}}})).await;
    assert!(labels.message().contains("is not allowed to modify labels: a.k8s.io/b"), "{}", labels.message());
    assert_eq!(send(Method::PATCH, &one, json!({"metadata": {"labels": {"x": "z"}}})).await.code, 200);
    // Tokens are for pods that run here.
    for (name, to) in [("here", "n1"), ("there", "n2")] {
        let made = c.post(PODS, pod(name, json!({"nodeName": to}))).await;
        assert_eq!(made.code, 201, "{}", made.value);
        let uid = made.value["metadata"]["uid"].clone();
        let mut request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": name, "uid": uid}}});
        let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
        let answer = send(Method::POST, path, request.clone()).await;
        assert_eq!(answer.code, if to == "n1" { 201 } else { 403 }, "{}", answer.value);
        request["spec"] = json!({});
        let answer = send(Method::POST, path, request).await;
        assert_eq!(answer.code, 403);
    }
    // And for those for whom its volumes want them.
    let volume = json!({"name": "v", "projected": {"sources": [{"serviceAccountToken": {"audience": "vault", "path": "t"}}]}});
    let made = c.post(PODS, pod("vaulted", json!({"nodeName": "n1", "volumes": [volume]}))).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let uid = made.value["metadata"]["uid"].clone();
    for (audiences, why) in [
        (json!(["vault"]), ""),
        (json!([]), ""),
        (json!(["elsewhere"]), "audience \"elsewhere\" not found in pod spec volume"),
        (json!(["vault", "elsewhere"]), "node may only request 0 or 1 audiences"),
    ] {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": audiences,
            "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "vaulted", "uid": uid}}});
        let answer =
            send(Method::POST, "/api/v1/namespaces/default/serviceaccounts/default/token", request).await;
        assert_eq!(answer.code, if why.is_empty() { 201 } else { 403 }, "{audiences}: {}", answer.value);
        assert!(answer.message().contains(why), "{}", answer.message());
    }
    // It reads its own pods, and its own node.
    for (path, code) in [
        (format!("{PODS}/here"), 200),
        (format!("{PODS}/there"), 403),
        ("/api/v1/pods".to_owned(), 403),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1".to_owned(), 200),
        ("/api/v1/pods?fieldSelector=spec.nodeName%3Dn2".to_owned(), 403),
        (nodes.to_owned(), 403),
        (format!("{nodes}?fieldSelector=metadata.name%3Dn1"), 200),
        (one.clone(), 200),
    ] {
        assert_eq!(send(Method::GET, &path, Value::Null).await.code, code, "{path}");
    }
    let status = json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running"}});
    let answer =
        send(Method::PATCH, &format!("{PODS}/here/status"), json!({"status": {"phase": "Running"}})).await;
    assert_eq!(answer.code, 200, "{}", answer.value);
    assert_eq!(send(Method::PATCH, &format!("{PODS}/there/status"), status).await.code, 403);
    let lease = |name: &str| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": {}});
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    assert_eq!(send(Method::POST, leases, lease("n2")).await.code, 403);
    assert_eq!(send(Method::POST, leases, lease("n1")).await.code, 201);
    let mirror = |owner: Value| {
        let mut p = pod("mirror", json!({"nodeName": "n1"}));
        p["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        p["metadata"]["ownerReferences"] = json!([owner]);
        p
    };
    let uid = c.get(&one).await.value["metadata"]["uid"].clone();
    let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": uid, "controller": true});
    for (field, value, why) in [
        ("uid", json!("another"), "UID mismatch"),
        ("name", json!("n2"), "an owner reference set to itself"),
        ("kind", json!("Pod"), "an owner reference set to itself"),
        ("controller", json!(false), "a controller owner reference set to itself"),
        ("blockOwnerDeletion", json!(true), "must not set blockOwnerDeletion on an owner reference"),
    ] {
        let mut other = owner.clone();
        other[field] = value;
        let refused = send(Method::POST, PODS, mirror(other)).await;
        assert_eq!(refused.code, 403, "{field}: {}", refused.value);
        assert!(refused.message().contains(why), "{field}: {}", refused.message());
    }
    let made = send(Method::POST, PODS, mirror(owner)).await;
    assert_eq!(made.code, 201, "{}", made.value);
}

#[tokio::test]
async fn limits_quotas_classes_and_sizes() {
    let c = Cluster::start().await;
    account(&c).await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Pod", "max": {"cpu": "2"}, "maxLimitRequestRatio": {"memory": "2"}}]}});
    assert_eq!(c.post("/api/v1/namespaces/default/limitranges", range).await.code, 201);
    let needs = |cpu: &str| json!({"requests": {"cpu": cpu, "memory": "1Gi"}, "limits": {"cpu": cpu, "memory": "2Gi"}});
    let sized = |name: &str, init: &str, main: &str| {
        pod(
            name,
            json!({"initContainers": [{"name": "i", "image": "b", "resources": needs(init)}],
            "containers": [{"name": "a", "image": "b", "resources": needs(main)}]}),
        )
    };
    let refused = c.post(PODS, sized("big", "3", "1")).await;
    assert_eq!(refused.code, 403, "what an init container needs counts");
    assert!(
        refused.message().contains("maximum cpu usage per Pod is 2, but limit is 3"),
        "{}",
        refused.message()
    );
    assert_eq!(c.post(PODS, sized("fits", "2", "1")).await.code, 201);
    // Overhead comes from runtime classes alone.
    let refused = c
        .post(PODS, {
            let mut p = sized("over", "1", "1");
            p["spec"]["overhead"] = json!({"cpu": "1"});
            p
        })
        .await;
    assert!(
        refused.message().contains("Pod Overhead set without corresponding RuntimeClass"),
        "{}",
        refused.message()
    );
    // Claims grow only where their class lets them.
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    for (name, allowed) in [("stiff", false), ("soft", true)] {
        let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
            "provisioner": "p", "allowVolumeExpansion": allowed});
        assert_eq!(c.post("/apis/storage.k8s.io/v1/storageclasses", class).await.code, 201);
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"storageClassName": name, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        assert_eq!(c.post(claims, claim).await.code, 201);
        let one = format!("{claims}/{name}");
        let grow = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
        let early = c.patch(&one, "merge-patch+json", grow.clone()).await;
        assert!(early.code == 403 || early.code == 422, "{}", early.value);
        c.patch(&format!("{one}/status"), "merge-patch+json", json!({"status": {"phase": "Bound"}})).await;
        let bound = c.patch(&one, "merge-patch+json", json!({"spec": {"volumeName": "v"}})).await;
        assert_eq!(bound.code, 200, "{}", bound.value);
        let grown = c.patch(&one, "merge-patch+json", grow).await;
        assert_eq!(grown.code, if allowed { 200 } else { 403 }, "{}", grown.value);
        assert!(allowed || grown.message().contains("must support resize"), "{}", grown.message());
    }
    // What goes anyway is held to no range any more.
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "small"},
        "spec": {"limits": [{"type": "PersistentVolumeClaim", "max": {"storage": "1"}}]}});
    assert_eq!(c.post("/api/v1/namespaces/default/limitranges", range).await.code, 201);
    let one = format!("{claims}/soft");
    let noted = json!({"metadata": {"annotations": {"a": "b"}}});
    assert_eq!(c.patch(&one, "merge-patch+json", noted.clone()).await.code, 403);
    assert_eq!(c.delete(&one).await.code, 200);
    let going = c.patch(&one, "merge-patch+json", noted).await;
    assert_eq!(going.code, 200, "{}", going.value);
}

#[tokio::test]
async fn signers_are_for_who_may_use_them() {
    let c = Cluster::start().await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let made = |group: &str| {
        let pem = match group {
            "system:masters" => include_str!("data/masters.csr"),
            _ => include_str!("data/plain.csr"),
        };
        let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem);
        json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": "r"},
            "spec": {"request": encoded, "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]}})
    };
    let refused = c.post(requests, made("system:masters")).await;
    assert_eq!(refused.code, 403, "{}", refused.value);
    assert!(refused.message().contains("with system:masters group is not allowed"), "{}", refused.message());
    let good = c.post(requests, made("devs")).await;
    assert_eq!(good.code, 201, "{}", good.value);
    assert_eq!(good.value["spec"]["username"], "admin");
    for (field, value, why) in [
        ("request", json!("Y3Ny"), "spec.request"),
        ("usages", json!(["world peace"]), "spec.usages[0]: Unsupported value: \"world peace\""),
        ("usages", json!([]), "spec.usages: Required value"),
        ("signerName", json!("kubernetes.io/legacy-unknown"), "not allowed via this API version"),
    ] {
        let mut bad = made("devs");
        bad["metadata"]["name"] = json!("bad");
        bad["spec"][field] = value;
        let refused = c.post(requests, bad).await;
        assert_eq!(refused.code, 422, "{}", refused.value);
        assert!(refused.message().contains(why), "{}", refused.message());
    }
    let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "approver"},
        "rules": [{"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update", "patch"]}]});
    c.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", role).await;
    let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": "approver"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "approver"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"}]});
    c.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding).await;
    let ann = c.as_user(UserInfo::new("ann", &[]));
    let approval = json!({"status": {"conditions": [{"type": "Approved", "status": "True", "reason": "r", "message": "m"}]}});
    let approve = async || {
        let headers = [("content-type", "application/merge-patch+json")];
        call(&ann, Method::PATCH, &format!("{requests}/r/approval"), &headers, approval.to_string()).await
    };
    let refused = approve().await;
    assert!(
        refused.message().contains("user not permitted to approve requests with signerName"),
        "{}",
        refused.value
    );
    let signers = json!({"rules": [
        {"apiGroups": ["certificates.k8s.io"], "resources": ["certificatesigningrequests/approval"], "verbs": ["update", "patch"]},
        {"apiGroups": ["certificates.k8s.io"], "resources": ["signers"], "resourceNames": ["kubernetes.io/*"], "verbs": ["approve"]}]});
    c.patch("/apis/rbac.authorization.k8s.io/v1/clusterroles/approver", "merge-patch+json", signers).await;
    let approved = approve().await;
    assert_eq!(approved.code, 200, "{}", approved.value);
    let condition = &approved.value["status"]["conditions"][0];
    assert!(
        condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string(),
        "{condition}"
    );
    // Who signs does not approve, nor take back.
    let answer =
        json!({"status": {"certificate": "eA==", "conditions": [{"type": "Denied", "status": "True"}]}});
    let answered = c.patch(&format!("{requests}/r/status"), "merge-patch+json", answer).await;
    assert_eq!(answered.value["status"]["certificate"], "eA==", "{}", answered.value);
    assert_eq!(answered.value["status"]["conditions"], json!([condition]));
}

#[tokio::test]
async fn security_levels_have_versions() {
    let c = Cluster::start().await;
    account(&c).await;
    let ns = "/api/v1/namespaces/default";
    let label =
        async |labels: Value| c.patch(ns, "merge-patch+json", json!({"metadata": {"labels": labels}})).await;
    let p = "pod-security.kubernetes.io";
    for bad in [
        json!({format!("{p}/enforce"): "none"}),
        json!({format!("{p}/enforce-version"): "1.2"}),
        json!({format!("{p}/audit-version"): "v1.x"}),
    ] {
        let refused = label(bad).await;
        assert_eq!(refused.code, 422, "{}", refused.value);
    }
    let sysctl =
        pod("s", json!({"securityContext": {"sysctls": [{"name": "net.ipv4.tcp_rmem", "value": "1 2 3"}]}}));
    assert_eq!(
        label(json!({format!("{p}/enforce"): "baseline", format!("{p}/enforce-version"): "v1.31"}))
            .await
            .code,
        200
    );
    let refused = c.post(PODS, sysctl.clone()).await;
    assert!(
        refused.message().contains("violates PodSecurity \"baseline:v1.31\": forbidden sysctls"),
        "{}",
        refused.message()
    );
    assert_eq!(label(json!({format!("{p}/enforce-version"): "latest"})).await.code, 200);
    assert_eq!(c.post(PODS, sysctl).await.code, 201);
}

#[tokio::test]
async fn quotas_are_charged_for_what_is_written_and_nothing_else() {
    let c = Cluster::start().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let maps = "/api/v1/namespaces/default/configmaps";
    // Counted by nobody here: the controller is not running.
    for (name, hard) in [("a", json!({"configmaps": "20"})), ("b", json!({"count/configmaps": "2"}))] {
        let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": {"hard": hard}});
        assert_eq!(c.post(quotas, quota).await.code, 201);
        let status = json!({"status": {"hard": hard, "used": hard.as_object().unwrap().keys()
            .map(|k| (k.clone(), json!("0"))).collect::<api::Map>()}});
        assert_eq!(c.patch(&format!("{quotas}/{name}/status"), "merge-patch+json", status).await.code, 200);
    }
    let used = async |name: &str, what: &str| {
        c.get(&format!("{quotas}/{name}")).await.value["status"]["used"][what].as_str().unwrap().to_owned()
    };
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    // Of those that race for a name one gets it, and is charged for.
    let racing = futures::future::join_all((0..8).map(|_| c.post(maps, map("first")))).await;
    assert_eq!(racing.iter().filter(|a| a.code == 201).count(), 1);
    assert_eq!(
        (used("a", "configmaps").await.as_str(), used("b", "count/configmaps").await.as_str()),
        ("1", "1")
    );
    assert_eq!(c.post(maps, map("second")).await.code, 201);
    // What one quota refuses uses up no other.
    for i in 0..30 {
        let refused = c.post(maps, map(&format!("more-{i}"))).await;
        assert_eq!(refused.code, 403, "{}", refused.value);
        assert!(refused.message().contains("exceeded quota: b"), "{}", refused.message());
    }
    assert_eq!(
        (used("a", "configmaps").await.as_str(), used("b", "count/configmaps").await.as_str()),
        ("2", "2")
    );
}

#[tokio::test]
async fn a_rehearsed_eviction_spends_no_budget() {
    let c = Cluster::start().await;
    account(&c).await;
    let mut one = pod("p", json!({}));
    one["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(c.post(PODS, one).await.code, 201);
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(c.patch(&format!("{PODS}/p/status"), "merge-patch+json", ready).await.code, 200);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    assert_eq!(c.post(budgets, budget).await.code, 201);
    let counted = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 1, "currentHealthy": 1,
        "desiredHealthy": 0, "expectedPods": 1}});
    assert_eq!(c.patch(&format!("{budgets}/b/status"), "merge-patch+json", counted).await.code, 200);
    let evict = async |query: &str, options: Value| {
        let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"},
            "deleteOptions": options});
        c.post(&format!("{PODS}/p/eviction{query}"), eviction).await
    };
    for (query, options) in [("", json!({"dryRun": ["All"]})), ("?dryRun=All", json!({}))] {
        let answer = evict(query, options).await;
        assert_eq!(answer.code, 201, "{}", answer.value);
        let status = c.get(&format!("{budgets}/b")).await.value["status"].clone();
        assert_eq!(
            (&status["disruptionsAllowed"], &status["disruptedPods"]),
            (&json!(1), &json!(null)),
            "{query}"
        );
        let pod = c.get(&format!("{PODS}/p")).await.value;
        assert_eq!(pod["metadata"]["deletionTimestamp"], json!(null));
        assert!(!pod["status"].to_string().contains("DisruptionTarget"), "{pod}");
    }
    assert_eq!(evict("", json!({})).await.code, 201);
    let status = c.get(&format!("{budgets}/b")).await.value["status"].clone();
    assert_eq!(status["disruptionsAllowed"], 0, "{status}");
    let mut two = pod("q", json!({}));
    two["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(c.post(PODS, two).await.code, 201);
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(c.patch(&format!("{PODS}/q/status"), "merge-patch+json", ready).await.code, 200);
    let other = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "c"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    assert_eq!(c.post(budgets, other).await.code, 201);
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "q"}});
    let answer = c.post(&format!("{PODS}/q/eviction"), eviction).await.value;
    assert_eq!(
        (&answer["code"], &answer["reason"], &answer["details"], &answer["message"]),
        (
            &json!(500),
            &json!(null),
            &json!(null),
            &json!(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."
            )
        )
    );
}

#[tokio::test]
async fn a_pod_that_changes_while_it_is_evicted_is_judged_anew() {
    let c = std::sync::Arc::new(Cluster::start().await);
    account(&c).await;
    let mut one = pod("p", json!({}));
    one["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(c.post(PODS, one).await.code, 201);
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "b"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"a": "b"}}}});
    assert_eq!(c.post(budgets, budget).await.code, 201);
    let counted = json!({"status": {"observedGeneration": 1, "disruptionsAllowed": 0, "currentHealthy": 1,
        "desiredHealthy": 1, "expectedPods": 1}});
    assert_eq!(c.patch(&format!("{budgets}/b/status"), "merge-patch+json", counted).await.code, 200);
    let (release, released) = tokio::sync::watch::channel(false);
    let hook = Hook::start_slow(&c.pki, released, |r| reviewed(r, json!({}))).await;
    let deletions =
        json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["DELETE"], "resources": ["pods"]});
    hooks(&c, false, "slow", &hook, deletions, json!({})).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let evicting = tokio::spawn({
        let c = c.clone();
        async move { c.post(&format!("{PODS}/p/eviction"), eviction).await }
    });
    while hook.asked().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // It was pending when it was judged, and runs when it would go.
    let ready = json!({"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
    assert_eq!(c.patch(&format!("{PODS}/p/status"), "merge-patch+json", ready).await.code, 200);
    release.send(true).unwrap();
    let answer = evicting.await.unwrap();
    assert_eq!(answer.code, 429, "{}", answer.value);
    // The budget has nothing left, and nobody knows when it will.
    assert_eq!(answer.value["details"]["retryAfterSeconds"], json!(null));
    assert_eq!(c.get(&format!("{PODS}/p")).await.value["metadata"]["deletionTimestamp"], json!(null));
}

#[tokio::test]
async fn parts_of_pods_are_judged_as_pods_are() {
    let c = Cluster::start().await;
    account(&c).await;
    let sized = json!({"resources": {"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}});
    assert_eq!(
        c.post(
            PODS,
            pod("p", json!({"containers": [{"name": "a", "image": "b", "resources": sized["resources"]}]}))
        )
        .await
        .code,
        201
    );
    let one = format!("{PODS}/p");
    let resize = async |cpu: &str| {
        let patch = json!({"spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}});
        c.patch(&format!("{one}/resize"), "strategic-merge-patch+json", patch).await
    };
    for (cpu, why) in
        [("-1", "must be greater than or equal to 0"), ("3", "must be less than or equal to cpu limit of 2")]
    {
        let refused = resize(cpu).await;
        assert_eq!(refused.code, 422, "{}", refused.value);
        assert!(refused.message().contains(why), "{}", refused.message());
    }
    let grown = resize("1500m").await;
    assert_eq!((grown.code, &grown.value["metadata"]["generation"]), (200, &json!(2)), "{}", grown.value);
    let ranges = "/api/v1/namespaces/default/limitranges";
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}});
    assert_eq!(c.post(ranges, range).await.code, 201);
    let refused = resize("1700m").await;
    assert_eq!(refused.code, 403, "{}", refused.value);
    assert!(refused.message().contains("maximum cpu usage per Container is 1"), "{}", refused.message());
    assert_eq!(c.delete(&format!("{ranges}/l")).await.code, 200);
    // What is left out is filled in then, too.
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "d"},
        "spec": {"limits": [{"type": "Container", "default": {"memory": "1Gi"}}]}});
    assert_eq!(c.post(ranges, range).await.code, 201);
    let filled = resize("1400m").await;
    assert_eq!(filled.code, 200, "{}", filled.value);
    let limits = &filled.value["spec"]["containers"][0]["resources"]["limits"];
    assert_eq!(*limits, json!({"cpu": "2", "memory": "1Gi"}));
    assert_eq!(c.delete(&format!("{ranges}/d")).await.code, 200);
    let debug = async |containers: Value| {
        let patch = json!({"spec": {"ephemeralContainers": containers}});
        c.patch(&format!("{one}/ephemeralcontainers"), "merge-patch+json", patch).await
    };
    let e = |name: &str, image: &str| json!({"name": name, "image": image});
    let added = debug(json!([e("e", "i")])).await;
    assert_eq!((added.code, &added.value["metadata"]["generation"]), (200, &json!(4)), "{}", added.value);
    for (containers, why) in [
        (json!([e("e", "other")]), "may not be changed"),
        (json!([]), "may not be removed"),
        (json!([e("e", "i"), e("a", "i")]), "Duplicate value"),
        (
            json!([e("e", "i"), {"name": "f", "image": "i", "ports": [{"containerPort": 1}]}]),
            "cannot be set for an Ephemeral",
        ),
    ] {
        let refused = debug(containers).await;
        assert_eq!(refused.code, 422, "{}", refused.value);
        assert!(refused.message().contains(why), "{}", refused.message());
    }
    // A node that says nothing of what its containers have been given cannot change it.
    let running = json!({"status": {"containerStatuses": [{"name": "a", "image": "b", "imageID": "", "ready": true,
        "restartCount": 0, "state": {"running": {}}}]}});
    assert_eq!(c.patch(&format!("{one}/status"), "merge-patch+json", running).await.code, 200);
    let refused = resize("1200m").await;
    assert!(
        refused.message().contains("Pod running on node without support for resize"),
        "{}",
        refused.value
    );
}

#[tokio::test]
async fn the_class_of_ingresses_is_for_those_of_its_group() {
    let c = Cluster::start().await;
    let class = json!({"apiVersion": "networking.k8s.io/v1", "kind": "IngressClass", "spec": {"controller": "x.io/y"},
        "metadata": {"name": "c", "annotations": {"ingressclass.kubernetes.io/is-default-class": "true"}}});
    assert_eq!(c.post("/apis/networking.k8s.io/v1/ingressclasses", class).await.code, 201);
    let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "ingresses.x.io"}, "spec": {"group": "x.io", "scope": "Namespaced",
            "names": {"plural": "ingresses", "kind": "Ingress"}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}});
    assert_eq!(c.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd).await.code, 201);
    for (group, want) in [("networking.k8s.io", json!("c")), ("x.io", json!(null))] {
        let path = format!("/apis/{group}/v1/namespaces/default/ingresses");
        let ingress = json!({"apiVersion": format!("{group}/v1"), "kind": "Ingress", "metadata": {"name": "i"},
            "spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}});
        let mut made = c.post(&path, ingress.clone()).await;
        for _ in 0..500 {
            if made.code != 404 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            made = c.post(&path, ingress.clone()).await;
        }
        assert_eq!(made.code, 201, "{}", made.value);
        assert_eq!(made.value["spec"]["ingressClassName"], want, "{group}");
    }
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
