//! Admission plugins that need the cluster's state, and evictions. Webhooks have tests of their own.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::time::Duration;

use api::Value;
use apiserver::UserInfo;
use common::hook::{Hook, hooks, reviewed};
use common::{Answer, Cluster, account, call, pod};
use http::Method;
use serde_json::json;

const PODS: &str = "/api/v1/namespaces/default/pods";

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
