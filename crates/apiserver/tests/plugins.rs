//! The stock admission plugins, each with what it lets through, changes and refuses.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::time::Duration;

use api::Value;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use common::hook::Hook;
use common::{Answer, Cluster, account, made, pod};
use serde_json::json;

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";
const PRIORITIES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

/// A server with the service account that pods run as.
async fn start() -> Cluster {
    let c = Cluster::start().await;
    account(&c).await;
    c
}

#[track_caller]
fn refused(answer: &Answer, code: u16, text: &str) {
    assert!(answer.code == code && answer.message().contains(text), "{} {}", answer.code, answer.message());
}

#[tokio::test]
async fn claims_get_the_default_class() {
    let c = start().await;
    let class = |name: &str, default: &str| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "provisioner": "p",
            "metadata": {"name": name, "annotations": {"storageclass.kubernetes.io/is-default-class": default}}})
    };
    let claim = |name: &str, spec: Value| {
        let mut claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        api::patch::merge_patch(&mut claim["spec"], &spec);
        claim
    };
    let class_of = |claim: &Value| claim["spec"].get("storageClassName").cloned();
    made(&c, CLASSES, class("plain", "false")).await;
    let without = made(&c, CLAIMS, claim("none", json!({}))).await;
    assert_eq!(class_of(&without), None, "no class is the default");
    made(&c, CLASSES, class("b", "true")).await;
    assert_eq!(class_of(&made(&c, CLAIMS, claim("one", json!({}))).await), Some(json!("b")));
    for (name, asked) in [("other", "plain"), ("no", "")] {
        let given = made(&c, CLAIMS, claim(name, json!({"storageClassName": asked}))).await;
        assert_eq!(class_of(&given), Some(json!(asked)), "who asks gets what was asked for");
    }
    let mut old = claim("old", json!({}));
    old["metadata"]["annotations"] = json!({"volume.beta.kubernetes.io/storage-class": "plain"});
    assert_eq!(class_of(&made(&c, CLAIMS, old).await), None);
    // Of several the youngest; of those of one second the first by name.
    let seconds = base::clock::now().as_second();
    while base::clock::now().as_second() == seconds {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    made(&c, CLASSES, class("z", "true")).await;
    assert_eq!(class_of(&made(&c, CLAIMS, claim("two", json!({}))).await), Some(json!("z")));
    assert_eq!(class_of(&c.get(&format!("{CLAIMS}/none")).await.value), None, "what is there stays as it is");
}

#[tokio::test]
async fn pods_get_the_priority_of_their_class() {
    let c = start().await;
    let class = |name: &str, value: i64, more: Value| {
        let mut class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value});
        api::patch::merge_patch(&mut class, &more);
        class
    };
    let seen = |pod: &Value| {
        let spec = &pod["spec"];
        [&spec["priorityClassName"], &spec["priority"], &spec["preemptionPolicy"]].map(Clone::clone)
    };
    let plain = made(&c, PODS, pod("plain", json!({}))).await;
    assert_eq!(seen(&plain), [Value::Null, json!(0), json!("PreemptLowerPriority")]);
    let node = made(
        &c,
        "/api/v1/namespaces/kube-system/serviceaccounts",
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}),
    )
    .await;
    assert_eq!(node["metadata"]["name"], "default");
    let critical = pod("critical", json!({"priorityClassName": "system-node-critical"}));
    let critical = made(&c, "/api/v1/namespaces/kube-system/pods", critical).await;
    assert_eq!(critical["spec"]["priority"], 2_000_001_000);
    for (bad, text) in [
        (class("system-mine", 5, json!({})), "are reserved for system use only"),
        (
            class("huge", 1_000_000_001, json!({})),
            "maximum allowed value of a user defined priority is 1000000000",
        ),
        (class("odd", 1, json!({"preemptionPolicy": "Sometimes"})), "preemptionPolicy"),
    ] {
        let answer = c.post(PRIORITIES, bad).await;
        assert!(matches!(answer.code, 403 | 422) && answer.message().contains(text), "{}", answer.value);
    }
    made(&c, PRIORITIES, class("calm", 100, json!({"preemptionPolicy": "Never"}))).await;
    let calm = made(&c, PODS, pod("calm", json!({"priorityClassName": "calm"}))).await;
    assert_eq!(seen(&calm), [json!("calm"), json!(100), json!("Never")]);
    // The same said by hand is no contradiction; anything else is.
    let same = json!({"priorityClassName": "calm", "priority": 100, "preemptionPolicy": "Never"});
    made(&c, PODS, pod("same", same)).await;
    for (spec, text) in [
        (
            json!({"priority": 7}),
            "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name",
        ),
        (
            json!({"priorityClassName": "calm", "priority": 99}),
            "the integer value of priority (99) must not be provided",
        ),
        (
            json!({"priorityClassName": "calm", "preemptionPolicy": "PreemptLowerPriority"}),
            "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in pod spec; priority admission controller computed Never from the given PriorityClass name",
        ),
        (json!({"priorityClassName": "nope"}), "no PriorityClass with name nope was found"),
    ] {
        refused(&c.post(PODS, pod("bad", spec)).await, 403, text);
    }
    made(&c, PRIORITIES, class("usual", 10, json!({"globalDefault": true}))).await;
    let usual = made(&c, PODS, pod("usual", json!({}))).await;
    assert_eq!(seen(&usual), [json!("usual"), json!(10), json!("PreemptLowerPriority")]);
    let second = c.post(PRIORITIES, class("second", 20, json!({"globalDefault": true}))).await;
    refused(&second, 403, "PriorityClass usual is already marked as default. Only one default can exist");
    let value = c.patch(&format!("{PRIORITIES}/usual"), "merge-patch+json", json!({"value": 11})).await;
    assert!(value.code == 422 || value.code == 403, "a class's value stays: {}", value.value);
    // A class that changes or goes leaves the pods that have its priority alone.
    assert_eq!(c.delete(&format!("{PRIORITIES}/usual")).await.code, 200);
    let kept = c
        .patch(&format!("{PODS}/usual"), "merge-patch+json", json!({"metadata": {"labels": {"a": "b"}}}))
        .await;
    assert_eq!((kept.code, &kept.value["spec"]["priority"]), (200, &json!(10)), "{}", kept.value);
}

#[tokio::test]
async fn nodes_start_tainted() {
    let c = start().await;
    let node = |name: &str, more: Value| {
        let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        api::patch::merge_patch(&mut node, &more);
        node
    };
    let not_ready = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let fresh = made(&c, "/api/v1/nodes", node("fresh", json!({}))).await;
    assert_eq!(fresh["spec"]["taints"], json!([not_ready]));
    let own = json!({"key": "own", "value": "v", "effect": "NoExecute"});
    let tainted = json!({"spec": {"taints": [own, not_ready]}});
    let tainted = made(&c, "/api/v1/nodes", node("tainted", tainted)).await;
    assert_eq!(tainted["spec"]["taints"], json!([own, not_ready]), "once is enough");
    let condition = |status: &str| json!({"status": {"conditions": [{"type": "Ready", "status": status}]}});
    for status in ["False", "True"] {
        let told = made(&c, "/api/v1/nodes", node(&status.to_lowercase(), condition(status))).await;
        assert_eq!(told["spec"]["taints"], json!([not_ready]), "lifting it is the node controller's");
    }
    // An update is not a creation.
    let lifted = c.patch("/api/v1/nodes/fresh", "merge-patch+json", json!({"spec": {"taints": null}})).await;
    assert!(lifted.value["spec"].get("taints").is_none(), "{}", lifted.value);
}

#[tokio::test]
async fn runtime_classes_give_overhead_and_place() {
    let c = start().await;
    let class = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "vm"}, "handler": "vm",
        "overhead": {"podFixed": {"cpu": "250m", "memory": "64Mi"}},
        "scheduling": {"nodeSelector": {"vm": "yes"}, "tolerations": [{"key": "vm", "operator": "Exists"}]}});
    made(&c, "/apis/node.k8s.io/v1/runtimeclasses", class).await;
    let light = json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "light"}, "handler": "runc"});
    made(&c, "/apis/node.k8s.io/v1/runtimeclasses", light).await;
    let own = json!({"runtimeClassName": "vm", "nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "own", "operator": "Exists"}]});
    let placed = made(&c, PODS, pod("placed", own)).await;
    let spec = &placed["spec"];
    assert_eq!(spec["overhead"], json!({"cpu": "250m", "memory": "64Mi"}));
    assert_eq!(spec["nodeSelector"], json!({"disk": "ssd", "vm": "yes"}));
    let keys: Vec<&str> =
        spec["tolerations"].as_array().unwrap().iter().filter_map(|t| t["key"].as_str()).collect();
    assert!(keys.contains(&"own") && keys.contains(&"vm"), "{keys:?}");
    let same = json!({"runtimeClassName": "vm", "overhead": {"cpu": "0.25", "memory": "64Mi"}});
    made(&c, PODS, pod("same", same)).await;
    for (spec, text) in [
        (json!({"runtimeClassName": "nope"}), "RuntimeClass \"nope\" not found"),
        (
            json!({"runtimeClassName": "vm", "overhead": {"cpu": "1"}}),
            "Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            json!({"runtimeClassName": "light", "overhead": {"cpu": "1"}}),
            "Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            json!({"overhead": {"cpu": "1"}}),
            "Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = no",
        ),
    ] {
        refused(&c.post(PODS, pod("bad", spec)).await, 403, text);
    }
    // A pod's overhead counts where what it asks for is counted.
    quota(&c, "small", json!({"hard": {"requests.cpu": "1"}}), json!({"requests.cpu": "1"})).await;
    let asks = |cpu: &str| json!({"runtimeClassName": "vm", "containers": [{"name": "a", "image": "b", "resources": {"requests": {"cpu": cpu}}}]});
    refused(
        &c.post(PODS, pod("much", asks("800m"))).await,
        403,
        "exceeded quota: small, requested: requests.cpu=1050m, used: requests.cpu=0, limited: requests.cpu=1",
    );
    made(&c, PODS, pod("fits", asks("750m"))).await;
}

/// A quota as its controller has counted it: nothing is used.
#[tokio::test]
async fn service_accounts_may_hold_their_pods_to_the_secrets_they_mention() {
    let c = start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "strict", "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "ours"}], "imagePullSecrets": [{"name": "pull"}]});
    made(&c, "/api/v1/namespaces/default/serviceaccounts", account).await;
    let volume = |secret: &str| json!([{"name": "v", "secret": {"secretName": secret}}]);
    let env =
        |secret: &str| json!([{"name": "E", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]);
    let run = |env: Value, from: &str| {
        let from = if from.is_empty() { json!([]) } else { json!([{"secretRef": {"name": from}}]) };
        json!([{"name": "i", "image": "b", "env": env, "envFrom": from}])
    };
    let none = json!([]);
    for (name, spec, why) in [
        ("ours", json!({"volumes": volume("ours"), "containers": run(env("ours"), "ours")}), ""),
        ("pulls", json!({"imagePullSecrets": [{"name": "pull"}]}), ""),
        ("volume", json!({"volumes": volume("theirs")}), "volume with secret.secretName=\"theirs\""),
        (
            "env",
            json!({"containers": run(env("theirs"), "")}),
            "container i with envVar E referencing secret.secretName=\"theirs\"",
        ),
        (
            "init",
            json!({"initContainers": run(none.clone(), "theirs")}),
            "init container i with envFrom referencing secret.secretName=\"theirs\"",
        ),
        (
            "pull",
            json!({"imagePullSecrets": [{"name": "pull"}, {"name": "other"}]}),
            "imagePullSecrets[1].name=\"other\" is not allowed because service account strict does not reference that imagePullSecret",
        ),
    ] {
        let free = c.post(PODS, pod(&format!("free-{name}"), spec.clone())).await;
        assert_eq!(free.code, 201, "another account minds nothing: {}", free.value);
        let mut held = pod(name, spec);
        held["spec"]["serviceAccountName"] = json!("strict");
        let answer = c.post(PODS, held).await;
        match why {
            "" => assert_eq!(answer.code, 201, "{}", answer.value),
            why => refused(&answer, 403, why),
        }
    }
    for (pod, code) in [("ours", 403), ("free-ours", 200)] {
        let mut more = json!({"spec": {"ephemeralContainers": run(env("theirs"), "")}});
        more["spec"]["ephemeralContainers"][0]["name"] = json!("e");
        let answer =
            c.patch(&format!("{PODS}/{pod}/ephemeralcontainers"), "strategic-merge-patch+json", more).await;
        assert_eq!(answer.code, code, "{pod}: {}", answer.value);
    }
    // Nor may pods that stand for what a node runs by itself have any, whoever makes them.
    for (spec, why) in [
        (json!({"serviceAccountName": "strict"}), "a mirror pod may not reference service accounts"),
        (json!({"containers": run(none.clone(), "ours")}), "a mirror pod may not reference secrets"),
    ] {
        let mut mirror = pod("mirror", spec);
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        mirror["spec"]["nodeName"] = json!("n");
        refused(&c.post(PODS, mirror).await, 403, why);
    }
}

#[tokio::test]
async fn pods_are_told_where_their_node_is() {
    let c = start().await;
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "labels": {
        "topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r", "x": "y"}}});
    made(&c, "/api/v1/nodes", node).await;
    let mut later = pod("later", json!({}));
    later["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "mine", "a": "b"});
    made(&c, PODS, later).await;
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "later", "labels": {"b": "c"}},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "n"}});
    let mut stale = binding.clone();
    stale["metadata"]["resourceVersion"] = json!("1");
    let path = format!("{PODS}/later/binding");
    refused(
        &c.post(&path, stale).await,
        409,
        "ResourceVersion in precondition: 1, ResourceVersion in object meta:",
    );
    made(&c, &path, binding).await;
    let mut known = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r"});
    let placed = made(&c, PODS, pod("placed", json!({"nodeName": "n"}))).await;
    assert_eq!(placed["metadata"]["labels"], known);
    api::patch::merge_patch(&mut known, &json!({"a": "b", "b": "c"}));
    let labels = c.get(&format!("{PODS}/later")).await.value["metadata"]["labels"].clone();
    assert_eq!(labels, known, "where it is, is told by its node alone");
}

async fn quota(c: &Cluster, name: &str, spec: Value, hard: Value) {
    let path = "/api/v1/namespaces/default/resourcequotas";
    let quota =
        json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": name}, "spec": spec});
    made(c, path, quota).await;
    let mut used = hard.clone();
    for amount in used.as_object_mut().unwrap().values_mut() {
        *amount = json!("0");
    }
    let status = json!({"status": {"hard": hard, "used": used}});
    let answer = c.patch(&format!("{path}/{name}/status"), "merge-patch+json", status).await;
    assert_eq!(answer.code, 200, "{}", answer.value);
}

#[tokio::test]
async fn quotas_count_what_is_in_their_scopes() {
    let c = start().await;
    let asks = |cpu: &str| json!({"containers": [{"name": "a", "image": "b", "resources": {"requests": {"cpu": cpu}}}]});
    let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": "high"}, "value": 1000});
    made(&c, PRIORITIES, class).await;
    let pods = || json!({"pods": "1"});
    for (name, scope) in [("best", "BestEffort"), ("burst", "NotBestEffort"), ("ends", "Terminating")] {
        quota(&c, name, json!({"hard": pods(), "scopes": [scope]}), pods()).await;
    }
    let high = json!({"hard": pods(), "scopeSelector": {"matchExpressions": [
        {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]}});
    quota(&c, "high", high, pods()).await;
    made(&c, PODS, pod("best", json!({}))).await;
    let over =
        |name: &str| format!("exceeded quota: {name}, requested: pods=1, used: pods=1, limited: pods=1");
    refused(&c.post(PODS, pod("best2", json!({}))).await, 403, &over("best"));
    made(&c, PODS, pod("burst", asks("1m"))).await;
    refused(&c.post(PODS, pod("burst2", asks("1m"))).await, 403, &over("burst"));
    // Who is in two scopes is counted in both, and refused by either; what was refused is not counted.
    let status = async |name: &str| {
        let quota = c.get(&format!("/api/v1/namespaces/default/resourcequotas/{name}")).await.value;
        quota["status"]["used"]["pods"].as_str().unwrap().to_owned()
    };
    let ends = json!({"activeDeadlineSeconds": 5});
    refused(&c.post(PODS, pod("ends", ends)).await, 403, &over("best"));
    assert_eq!((status("ends").await, status("high").await), ("0".into(), "0".into()));
    let elsewhere = c
        .patch(
            "/api/v1/namespaces/default/resourcequotas/best",
            "merge-patch+json",
            json!({"spec": {"hard": {"pods": "5"}}}),
        )
        .await;
    assert_eq!(elsewhere.code, 200, "{}", elsewhere.value);
    let raised = json!({"status": {"hard": {"pods": "5"}}});
    c.patch("/api/v1/namespaces/default/resourcequotas/best/status", "merge-patch+json", raised).await;
    made(&c, PODS, pod("high", json!({"priorityClassName": "high", "activeDeadlineSeconds": 5}))).await;
    assert_eq!(
        (status("best").await, status("ends").await, status("high").await),
        ("2".into(), "1".into(), "1".into())
    );
    // A dry run is judged and not counted.
    assert_eq!(c.post(&format!("{PODS}?dryRun=All"), pod("dry", json!({}))).await.code, 201);
    assert_eq!(status("best").await, "2");
    refused(&c.post(PODS, pod("high2", json!({"priorityClassName": "high"}))).await, 403, &over("high"));
    // A scope and what it cannot count do not go together, nor an operator and what it cannot compare.
    let by = |scope: &str, operator: &str, values: Value| {
        json!({"hard": {"pods": "1"}, "scopeSelector": {"matchExpressions": [
            {"scopeName": scope, "operator": operator, "values": values}]}})
    };
    for (spec, text) in [
        (
            json!({"hard": {"requests.cpu": "1"}, "scopes": ["BestEffort"]}),
            "unsupported scope applied to resource",
        ),
        (json!({"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}), "conflicting scopes"),
        (json!({"hard": {"pods": "1"}, "scopes": ["Sometimes"]}), "unsupported scope"),
        (
            json!({"hard": {"services": "1"}, "scopes": ["Terminating"]}),
            "unsupported scope applied to resource",
        ),
        (by("PriorityClass", "In", json!([])), "must be at least one value"),
        (by("PriorityClass", "Exists", json!(["a"])), "must be no value"),
        (by("Terminating", "In", json!(["a"])), "must be 'Exists' when scope is any of"),
        (by("PriorityClass", "Like", json!(["a"])), "not a valid selector operator"),
    ] {
        let bad =
            json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "bad"}, "spec": spec});
        refused(&c.post("/api/v1/namespaces/default/resourcequotas", bad).await, 422, text);
    }
}

/// What a webhook answers, with a JSON patch.
fn reviewed(review: &Value, patch: &Value) -> Value {
    let mut response = json!({"uid": review["request"]["uid"], "allowed": true});
    if patch.as_array().is_some_and(|p| !p.is_empty()) {
        response["patchType"] = json!("JSONPatch");
        response["patch"] = json!(STANDARD.encode(patch.to_string()));
    }
    json!({"kind": "AdmissionReview", "apiVersion": review["apiVersion"], "response": response})
}

async fn webhooks(c: &Cluster, kind: &str, hooks: &[(&str, &Hook, Value)], resource: &str) {
    for (name, hook, more) in hooks {
        let mut one = json!({"name": format!("{name}.example.com"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": hook.config("x"), "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": [resource]}]});
        api::patch::merge_patch(&mut one, more);
        let configuration = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": format!("{kind}WebhookConfiguration"),
            "metadata": {"name": name}, "webhooks": [one]});
        let path =
            format!("/apis/admissionregistration.k8s.io/v1/{}webhookconfigurations", kind.to_lowercase());
        made(c, &path, configuration).await;
    }
}

#[tokio::test]
async fn webhooks_are_asked_again_when_others_change_the_object() {
    let c = start().await;
    // Each notes how many containers it saw; the second adds one the first time it is asked.
    let counts = |r: &Value| {
        let n = r["request"]["object"]["spec"]["containers"].as_array().unwrap().len();
        reviewed(
            r,
            &json!([{"op": "add", "path": "/metadata/annotations", "value": {"seen": n.to_string()}}]),
        )
    };
    let first = Hook::start(&c.pki, counts).await;
    let never = Hook::start(&c.pki, |r| reviewed(r, &json!([]))).await;
    let adds = Hook::start(&c.pki, |r| {
        let sidecar = json!({"name": "sidecar", "image": "s"});
        let there = r["request"]["object"]["spec"]["containers"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["name"] == "sidecar");
        let patch = if there {
            json!([])
        } else {
            json!([{"op": "add", "path": "/spec/containers/-", "value": sidecar}])
        };
        reviewed(r, &patch)
    })
    .await;
    let last = Hook::start(&c.pki, |r| reviewed(r, &json!([]))).await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let hooks = [
        ("a-first", &first, again.clone()),
        ("b-never", &never, json!({"reinvocationPolicy": "Never"})),
        ("c-adds", &adds, again.clone()),
        ("d-last", &last, again),
    ];
    webhooks(&c, "Mutating", &hooks, "pods").await;
    let range = json!({"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "l"},
        "spec": {"limits": [{"type": "Container", "default": {"cpu": "100m"}}]}});
    made(&c, "/api/v1/namespaces/default/limitranges", range).await;
    let pod = made(&c, PODS, pod("p", json!({}))).await;
    assert_eq!(pod["metadata"]["annotations"]["seen"], "2", "the first saw what was added after it");
    assert_eq!((first.asked().len(), never.asked().len()), (2, 1));
    // What was put there gets its defaults as everything else: a limit, and the token; which the last one then sees.
    let sidecar =
        pod["spec"]["containers"].as_array().unwrap().iter().find(|c| c["name"] == "sidecar").unwrap();
    assert_eq!(sidecar["resources"]["limits"]["cpu"], "100m", "{sidecar}");
    assert_eq!(sidecar["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    let seen = last.asked();
    assert_eq!(seen.len(), 2);
    let of = |review: &Value| {
        review["request"]["object"]["spec"]["containers"][1]["resources"]["limits"]["cpu"].clone()
    };
    assert_eq!((of(&seen[0]), of(&seen[1])), (Value::Null, json!("100m")));
    assert_eq!(adds.asked().len(), 2, "another plugin changed the object after it");
}

#[tokio::test]
async fn nobody_is_asked_again_without_need() {
    let c = start().await;
    let quiet = Hook::start(&c.pki, |r| reviewed(r, &json!([]))).await;
    let labels = Hook::start(&c.pki, |r| {
        reviewed(r, &json!([{"op": "add", "path": "/metadata/labels", "value": {"a": "b"}}]))
    })
    .await;
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    webhooks(&c, "Mutating", &[("a", &labels, again.clone()), ("b", &quiet, again)], "configmaps").await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}});
    assert_eq!(made(&c, MAPS, map).await["metadata"]["labels"]["a"], "b");
    // The one that changed it was the first: nobody before it has seen anything else.
    assert_eq!((labels.asked().len(), quiet.asked().len()), (1, 1));
}

#[tokio::test]
async fn a_webhook_has_its_time() {
    let c = start().await;
    let (_hold, held) = tokio::sync::watch::channel(false);
    let slow = Hook::start_slow(&c.pki, held, |r| reviewed(r, &json!([]))).await;
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    for kind in ["Mutating", "Validating"] {
        let name = kind.to_lowercase();
        let path = format!("/apis/admissionregistration.k8s.io/v1/{name}webhookconfigurations/slow");
        webhooks(&c, kind, &[("slow", &slow, json!({"timeoutSeconds": 1}))], "configmaps").await;
        let started = tokio::time::Instant::now();
        let late = c.post(MAPS, map(&name)).await;
        assert!(started.elapsed() >= Duration::from_secs(1) && started.elapsed() < Duration::from_secs(9));
        refused(
            &late,
            500,
            "failed calling webhook \"slow.example.com\": failed to call webhook: Post \"https://127.0.0.1:",
        );
        refused(&late, 500, "/x?timeout=1s\": context deadline exceeded");
        assert_eq!(c.get(&format!("{MAPS}/{name}")).await.code, 404);
        let ignore = json!([{"op": "replace", "path": "/webhooks/0/failurePolicy", "value": "Ignore"}]);
        assert_eq!(c.patch(&path, "json-patch+json", ignore).await.code, 200);
        made(&c, MAPS, map(&name)).await;
        assert_eq!(c.delete(&path).await.code, 200);
    }
    // Limits of the limit.
    for seconds in [0, 31] {
        let bad = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
            "metadata": {"name": "bad"}, "webhooks": [{"name": "bad.example.com", "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "timeoutSeconds": seconds, "clientConfig": slow.config("x"), "rules": []}]});
        let answer =
            c.post("/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations", bad).await;
        refused(&answer, 422, "the timeout value must be between 1 and 30 seconds");
    }
}

#[tokio::test]
async fn answers_that_are_no_good_count_as_failures() {
    let c = start().await;
    let patch = |p: Value| move |r: &Value| reviewed(r, &p);
    let bad = Hook::start(&c.pki, patch(json!([{"op": "remove", "path": "/spec/nothing"}]))).await;
    let breaks =
        Hook::start(&c.pki, patch(json!([{"op": "add", "path": "/data", "value": {"a b": "c"}}]))).await;
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    webhooks(&c, "Mutating", &[("bad", &bad, json!({}))], "configmaps").await;
    let answer = c.post(MAPS, map("a")).await;
    assert_eq!(answer.code, 500, "{}", answer.value);
    c.delete("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/bad").await;
    webhooks(&c, "Mutating", &[("breaks", &breaks, json!({}))], "configmaps").await;
    refused(&c.post(MAPS, map("a")).await, 422, "data[a b]");
}

/// Keeps what it is given.
#[derive(Debug, Default)]
struct Kept(std::sync::Mutex<Vec<Told>>);

/// A request's path, whether it was allowed, and its annotations.
type Told = (String, bool, Vec<(String, String)>);

impl apiserver::audit::Sink for Kept {
    fn take(&self, event: &apiserver::audit::Event<'_>) {
        let what = format!("{} {} {}/{}", event.operation, event.resource, event.namespace, event.name);
        self.0.lock().unwrap().push((what, event.admitted, event.annotations.clone()));
    }
}

#[tokio::test]
async fn what_admission_notes_is_handed_on() {
    let kept = std::sync::Arc::new(Kept::default());
    let sink = kept.clone();
    let c = Cluster::start_as(store::memory(), |o| o.audit = sink).await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    made(&c, "/api/v1/namespaces/default/serviceaccounts", account).await;
    let noting = Hook::start(&c.pki, |r| {
        let mut answer = reviewed(r, &json!([]));
        answer["response"]["allowed"] = json!(r["request"]["name"] != "bad");
        answer["response"]["auditAnnotations"] = json!({"why": "because"});
        answer
    })
    .await;
    webhooks(&c, "Validating", &[("noting", &noting, json!({}))], "configmaps").await;
    webhooks(&c, "Mutating", &[("first", &noting, json!({}))], "secrets").await;
    let object =
        |kind: &str, name: &str| json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}});
    made(&c, MAPS, object("ConfigMap", "good")).await;
    assert_eq!(c.post(MAPS, object("ConfigMap", "bad")).await.code, 400);
    assert_eq!(c.post("/api/v1/namespaces/default/secrets", object("Secret", "bad")).await.code, 400);
    let audited = json!({"metadata": {"labels": {"pod-security.kubernetes.io/audit": "restricted"}}});
    assert_eq!(c.patch("/api/v1/namespaces/default", "merge-patch+json", audited).await.code, 200);
    made(&c, PODS, pod("loose", json!({}))).await;
    let events = kept.0.lock().unwrap().clone();
    let of = |what: &str| events.iter().filter(|e| e.0 == what).collect::<Vec<_>>();
    let note = |name: &str| vec![(format!("{name}.example.com/why"), "because".to_owned())];
    let [good] = of("CREATE configmaps default/good")[..] else { panic!("{events:?}") };
    assert_eq!((good.1, &good.2), (true, &note("noting")));
    let [bad] = of("CREATE configmaps default/bad")[..] else { panic!("{events:?}") };
    assert_eq!((bad.1, &bad.2), (false, &note("noting")));
    let [secret] = of("CREATE secrets default/bad")[..] else { panic!("{events:?}") };
    assert_eq!(
        (secret.1, &secret.2),
        (false, &note("first")),
        "what mutating webhooks note of what they refuse, too"
    );
    let [pod] = of("CREATE pods default/loose")[..] else { panic!("{events:?}") };
    let violations =
        pod.2.iter().find(|(key, _)| key == "pod-security.kubernetes.io/audit-violations").unwrap();
    assert!(violations.1.starts_with("would violate PodSecurity \"restricted:latest\""), "{violations:?}");
}
