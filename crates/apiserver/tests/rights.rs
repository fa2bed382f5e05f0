//! What users and nodes are told they may do, and what a node may read for its pods.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::sync::Arc;

use api::Value;
use apiserver::UserInfo;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Transport;
use common::{Answer, Cluster, JSON, account, call, made};
use http::Method;
use serde_json::json;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn rules(who: &Arc<dyn Transport>, namespace: &str) -> Answer {
    let review = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectRulesReview", "spec": {"namespace": namespace}});
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    call(who, Method::POST, path, JSON, review.to_string()).await
}

fn has(answer: &Answer, list: &str, rule: &Value) -> bool {
    answer.value["status"][list].as_array().unwrap().contains(rule)
}

#[tokio::test]
async fn users_are_told_what_they_may_do() {
    let c = Cluster::start().await;
    let role = |kind: &str, rules: Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "r"}, "rules": rules});
    let binding = |kind: &str, to: &str| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": "b"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": to, "name": "r"},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "devs"}]})
    };
    let secrets = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["one"]});
    let nodes = json!({"verbs": ["*"], "apiGroups": [""], "resources": ["nodes"]});
    let logs = json!({"verbs": ["get"], "nonResourceURLs": ["/logs/*"]});
    let default = format!("{RBAC}/namespaces/default");
    made(&c, &format!("{default}/roles"), role("Role", json!([secrets]))).await;
    made(&c, &format!("{default}/rolebindings"), binding("RoleBinding", "Role")).await;
    made(&c, &format!("{RBAC}/clusterroles"), role("ClusterRole", json!([nodes, logs]))).await;
    made(&c, &format!("{RBAC}/clusterrolebindings"), binding("ClusterRoleBinding", "ClusterRole")).await;
    let ann = c.as_user(UserInfo::new("ann", &["devs"]));
    let here = rules(&ann, "default").await;
    assert_eq!(here.code, 201, "{}", here.value);
    assert!(has(&here, "resourceRules", &secrets) && has(&here, "resourceRules", &nodes), "{}", here.value);
    assert!(has(&here, "nonResourceRules", &logs), "{}", here.value);
    assert_eq!((&here.value["status"]["incomplete"], &here.value["spec"]), (&json!(false), &json!({})));
    let there = rules(&ann, "kube-system").await;
    assert!(
        !has(&there, "resourceRules", &secrets) && has(&there, "resourceRules", &nodes),
        "{}",
        there.value
    );
    // Everybody may ask about themselves, and nobody gets more by asking.
    let review = json!({"verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
        "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"]});
    let bob = c.as_user(UserInfo::new("bob", &[]));
    let his = rules(&bob, "default").await;
    assert!(has(&his, "resourceRules", &review) && !has(&his, "resourceRules", &nodes), "{}", his.value);
    let refused = rules(&bob, "").await;
    assert_eq!((refused.code, refused.message()), (400, "no namespace on request"));
    let nobody = c.nobody().await;
    assert_eq!(rules(&nobody, "default").await.code, 403);
    // Masters may do everything; what a node may read cannot be listed.
    let all = rules(c.admin.transport(), "default").await;
    assert!(
        has(&all, "resourceRules", &json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})),
        "{}",
        all.value
    );
    assert!(
        has(&all, "nonResourceRules", &json!({"verbs": ["*"], "nonResourceURLs": ["*"]})),
        "{}",
        all.value
    );
    // A role that is not there is told, and nothing is missing by that.
    let mut lost = binding("RoleBinding", "ClusterRole");
    lost["metadata"]["name"] = json!("lost");
    lost["roleRef"]["name"] = json!("gone");
    made(&c, &format!("{default}/rolebindings"), lost).await;
    let status = rules(&ann, "default").await.value["status"].clone();
    assert_eq!(
        (&status["incomplete"], &status["evaluationError"]),
        (&json!(false), &json!("clusterrole.rbac.authorization.k8s.io \"gone\" not found"))
    );
    let node = c.as_user(UserInfo::new("system:node:n1", &["system:nodes"]));
    let status = rules(&node, "default").await.value["status"].clone();
    assert_eq!(
        (&status["incomplete"], &status["evaluationError"]),
        (&json!(true), &json!("node authorizer does not support user rule resolution"))
    );
}

#[tokio::test]
async fn nodes_read_what_their_pods_volumes_need() {
    let c = Cluster::start().await;
    for namespace in ["vault", "other"] {
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}});
        made(&c, "/api/v1/namespaces", namespace).await;
    }
    account(&c).await;
    for (namespace, name) in [
        ("vault", "stage"),
        ("vault", "publish"),
        ("vault", "expand"),
        ("vault", "controller"),
        ("default", "share"),
        ("other", "stage"),
        ("vault", "unused"),
    ] {
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}});
        made(&c, &format!("/api/v1/namespaces/{namespace}/secrets"), secret).await;
    }
    let volume = |name: &str, claim: &str, source: Value| {
        let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
                "claimRef": {"namespace": "default", "name": claim}}});
        api::patch::merge_patch(&mut volume["spec"], &source);
        volume
    };
    let of = |name: &str| json!({"namespace": "vault", "name": name});
    let csi = json!({"csi": {"driver": "d.example.com", "volumeHandle": "h", "nodeStageSecretRef": of("stage"),
        "nodePublishSecretRef": of("publish"), "nodeExpandSecretRef": of("expand"),
        "controllerPublishSecretRef": of("controller")}});
    made(&c, "/api/v1/persistentvolumes", volume("csi", "data", csi)).await;
    let file = json!({"azureFile": {"shareName": "s", "secretName": "share"}});
    made(&c, "/api/v1/persistentvolumes", volume("file", "files", file)).await;
    let idle =
        json!({"csi": {"driver": "d.example.com", "volumeHandle": "i", "nodeStageSecretRef": of("unused")}});
    made(&c, "/api/v1/persistentvolumes", volume("idle", "nobody", idle)).await;
    let claims =
        ["data", "files"].map(|claim| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}}));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "b"}], "volumes": claims}});
    made(&c, "/api/v1/namespaces/default/pods", pod).await;
    for claim in ["data", "spare"] {
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": claim},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
        made(&c, "/api/v1/namespaces/default/persistentvolumeclaims", claim).await;
    }
    let attachments = "/apis/storage.k8s.io/v1/volumeattachments";
    for to in ["n1", "n2"] {
        let attachment = json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": to},
            "spec": {"attacher": "d.example.com", "nodeName": to, "source": {"persistentVolumeName": "csi"}}});
        made(&c, attachments, attachment).await;
    }
    let node = |name: &str| c.as_user(UserInfo::new(&format!("system:node:{name}"), &["system:nodes"]));
    let (own, other) = (node("n1"), node("n2"));
    let read = async |who: &Arc<dyn Transport>, path: &str| call(who, Method::GET, path, &[], "").await.code;
    for (path, code) in [
        ("/api/v1/namespaces/vault/secrets/stage", 200),
        ("/api/v1/namespaces/vault/secrets/publish", 200),
        ("/api/v1/namespaces/vault/secrets/expand", 200),
        ("/api/v1/namespaces/default/secrets/share", 200),
        // What only the controllers need, what is another one, and what no pod here uses.
        ("/api/v1/namespaces/vault/secrets/controller", 403),
        ("/api/v1/namespaces/other/secrets/stage", 403),
        ("/api/v1/namespaces/vault/secrets/unused", 403),
        ("/api/v1/namespaces/vault/secrets", 403),
        ("/api/v1/persistentvolumes/csi", 200),
        ("/api/v1/persistentvolumes/idle", 403),
        ("/api/v1/namespaces/default/persistentvolumeclaims/data", 200),
        ("/api/v1/namespaces/default/persistentvolumeclaims/spare", 403),
        ("/apis/storage.k8s.io/v1/volumeattachments/n1", 200),
        ("/apis/storage.k8s.io/v1/volumeattachments", 403),
    ] {
        assert_eq!(read(&own, path).await, code, "{path}");
        assert_eq!(read(&other, path).await, 403, "{path} by another node");
    }
    for (who, theirs) in [(&own, "n1"), (&other, "n2")] {
        for to in ["n1", "n2"] {
            let code = if to == theirs { 200 } else { 403 };
            assert_eq!(read(who, &format!("{attachments}/{to}")).await, code, "{to} by {theirs}");
        }
    }
    // The status of a claim is written by the node that mounts it, and nothing else of a claim is.
    let patch = [("content-type", "application/merge-patch+json")];
    let grown = json!({"status": {"capacity": {"storage": "1Gi"}}}).to_string();
    for (who, path, code) in [
        (&own, "data/status", 200),
        (&own, "spare/status", 403),
        (&own, "data", 403),
        (&other, "data/status", 403),
    ] {
        let path = format!("/api/v1/namespaces/default/persistentvolumeclaims/{path}");
        let answer = call(who, Method::PATCH, &path, &patch, grown.clone()).await;
        assert_eq!(answer.code, code, "{path}: {}", answer.value);
    }
    // With the pod goes the right.
    let gone = c.delete("/api/v1/namespaces/default/pods/p?gracePeriodSeconds=0").await;
    assert_eq!(gone.code, 200, "{}", gone.value);
    assert_eq!(read(&own, "/api/v1/namespaces/vault/secrets/stage").await, 403);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_told_so() {
    let c = Cluster::start().await;
    let dir = tempfile::tempdir().unwrap();
    let stranger = pki::Pki::open(dir.path()).unwrap();
    let masters = ["system:masters".to_owned()];
    let over = |identity: pki::Identity| {
        let endpoint = client::Endpoint {
            server: format!("https://127.0.0.1:{}", c.server.address().port()),
            ca_pem: c.pki.ca_pem().to_owned(),
            identity: Some(identity),
            ..client::Endpoint::default()
        };
        Arc::new(client::Https::new(&endpoint).unwrap()) as Arc<dyn Transport>
    };
    let good = over(c.pki.issue_client("admin", &masters).unwrap());
    assert_eq!(call(&good, Method::GET, "/api/v1/nodes", &[], "").await.code, 200);
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}).to_string();
    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let who = call(&good, Method::POST, reviews, JSON, review.clone()).await;
    let credential = &who.value["status"]["userInfo"]["extra"]["authentication.kubernetes.io/credential-id"];
    let digest = credential[0].as_str().and_then(|id| id.strip_prefix("X509SHA256=")).unwrap_or_default();
    assert_eq!(digest.len(), 64, "{}", who.value);
    // Its subject may bear the user's UID; one that names nobody is nobody's.
    let signed = |subject: Vec<(rcgen::DnType, &str)>| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind, value);
        }
        let key = rcgen::KeyPair::generate().unwrap();
        let asked = params.serialize_request(&key).unwrap().pem().unwrap();
        let asked = pki::Request::parse(asked.as_bytes()).unwrap();
        let lasts = jiff::SignedDuration::from_hours(1);
        let cert_pem = c.pki.sign_request(&asked, &["digital signature", "client auth"], lasts).unwrap();
        over(pki::Identity { cert_pem, key_pem: key.serialize_pem() })
    };
    let uid = rcgen::DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
    let ann = signed(vec![(rcgen::DnType::CommonName, "ann"), (uid, "7")]);
    let who = call(&ann, Method::POST, reviews, JSON, review.clone()).await;
    assert_eq!(who.value["status"]["userInfo"]["uid"], "7", "{}", who.value);
    let nameless = signed(vec![(rcgen::DnType::OrganizationName, "system:masters")]);
    assert_eq!(call(&nameless, Method::GET, "/version", &[], "").await.code, 200);
    let refused = call(&nameless, Method::GET, "/api/v1/nodes", &[], "").await;
    assert_eq!(refused.code, 403, "{}", refused.value);
    assert!(refused.message().contains("User \"system:anonymous\""), "{}", refused.message());
    let bad = over(stranger.issue_client("admin", &masters).unwrap());
    for path in ["/api/v1/nodes", "/version"] {
        let refused = call(&bad, Method::GET, path, &[], "").await;
        assert_eq!(
            (refused.code, &refused.value["reason"]),
            (401, &json!("Unauthorized")),
            "{path}: {}",
            refused.value
        );
        assert_eq!(refused.value["kind"], "Status");
    }
    // A token says who it is all the same.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "a"}});
    made(&c, "/api/v1/namespaces/default/serviceaccounts", account).await;
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token =
        made(&c, "/api/v1/namespaces/default/serviceaccounts/a/token", request).await["status"]["token"]
            .clone();
    let bearer = format!("Bearer {}", token.as_str().unwrap());
    let headers = [("authorization", bearer.as_str()), JSON[0]];
    let who = call(&bad, Method::POST, reviews, &headers, review).await;
    assert_eq!(
        who.value["status"]["userInfo"]["username"], "system:serviceaccount:default:a",
        "{}",
        who.value
    );
}

#[tokio::test]
async fn nodes_ask_for_certificates_of_their_own() {
    let c = Cluster::start().await;
    let node = c.as_user(UserInfo::new("system:node:n1", &["system:nodes"]));
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let ask = async |signer: &str, name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let asked = params.serialize_request(&rcgen::KeyPair::generate().unwrap()).unwrap().pem().unwrap();
        let body = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {"generateName": "csr-"},
            "spec": {"request": STANDARD.encode(asked), "signerName": signer, "usages": ["digital signature", "client auth"]}});
        call(&node, Method::POST, requests, JSON, body.to_string()).await
    };
    for (signer, name, code) in [
        ("kubernetes.io/kube-apiserver-client-kubelet", "system:node:n1", 201),
        ("kubernetes.io/kube-apiserver-client-kubelet", "system:node:n2", 403),
        ("kubernetes.io/kubelet-serving", "system:node:n1", 201),
        ("kubernetes.io/kubelet-serving", "n1", 403),
        ("example.com/mine", "anything", 201),
    ] {
        let answer = ask(signer, name).await;
        assert_eq!(answer.code, code, "{signer} {name}: {}", answer.value);
        if code == 403 {
            let why = "can only create a node CSR with CN=system:node:n1";
            assert!(answer.message().ends_with(why), "{}", answer.message());
        }
    }
}

#[tokio::test]
async fn nodes_publish_their_own_devices() {
    let c = Cluster::start().await;
    let node = c.as_user(UserInfo::new("system:node:n1", &["system:nodes"]));
    let slices = "/apis/resource.k8s.io/v1/resourceslices";
    let slice = |name: &str, node: &str| {
        json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name},
            "spec": {"driver": "d.example.com", "nodeName": node, "devices": [{"name": "d"}],
                "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}}})
    };
    made(&c, slices, slice("other", "n2")).await;
    let own = "?fieldSelector=spec.nodeName%3Dn1";
    for (method, path, body, code) in [
        (Method::POST, "", slice("mine", "n1").to_string(), 201),
        (Method::POST, "", slice("theirs", "n2").to_string(), 403),
        (Method::GET, "/mine", String::new(), 200),
        (Method::GET, "/other", String::new(), 403),
        (Method::DELETE, "/other", String::new(), 403),
        (Method::GET, "", String::new(), 403),
        (Method::GET, own, String::new(), 200),
        (Method::DELETE, "", String::new(), 403),
        (Method::DELETE, own, String::new(), 200),
        (Method::GET, "/mine", String::new(), 403),
    ] {
        let answer = call(&node, method.clone(), &format!("{slices}{path}"), JSON, body.clone()).await;
        assert_eq!(answer.code, code, "{method} {path} {body}: {}", answer.value);
        if method == Method::POST && code == 403 {
            let why = "can only create ResourceSlice with the same NodeName as the requesting node";
            assert!(answer.message().ends_with(why), "{}", answer.message());
        }
    }
    assert_eq!(c.get(&format!("{slices}/mine")).await.code, 404);
    assert_eq!(c.get(&format!("{slices}/other")).await.code, 200);
    // Which devices a pod has got is not for the node to say.
    account(&c).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"nodeName": "n1", "containers": [{"name": "a", "image": "b",
            "resources": {"limits": {"example.com/d": "1"}}}]}});
    made(&c, "/api/v1/namespaces/default/pods", pod).await;
    let merge = [("content-type", "application/merge-patch+json")];
    let status = json!({"status": {"extendedResourceClaimStatus": {"resourceClaimName": "x",
        "requestMappings": [{"containerName": "a", "resourceName": "example.com/d", "requestName": "r"}]}}});
    let path = "/api/v1/namespaces/default/pods/p/status";
    let refused = call(&node, Method::PATCH, path, &merge, status.to_string()).await;
    assert_eq!(refused.code, 403, "{}", refused.value);
    assert!(refused.message().ends_with("cannot update extended resource claim status"), "{}", refused.value);
}

#[tokio::test]
async fn bundles_of_a_signer_are_for_who_speaks_for_it() {
    let c = Cluster::start().await;
    let group = "certificates.k8s.io";
    let grant = async |name: &str, rules: Value| {
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name}, "rules": rules});
        made(&c, &format!("{RBAC}/clusterroles"), role).await;
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
            "metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]});
        made(&c, &format!("{RBAC}/clusterrolebindings"), binding).await;
        c.as_user(UserInfo::new(name, &[]))
    };
    let write = json!({"apiGroups": [group], "resources": ["clustertrustbundles"], "verbs": ["create", "update", "patch"]});
    let attest = |name: &str| json!({"apiGroups": [group], "resources": ["signers"], "resourceNames": [name], "verbs": ["attest"]});
    let writer = grant("writer", json!([write])).await;
    let one = grant("one", json!([write, attest("example.com/a")])).await;
    let domain = grant("domain", json!([write, attest("example.com/*")])).await;
    let bundles = format!("/apis/{group}/v1beta1/clustertrustbundles");
    let bundle = |name: &str, spec: Value| {
        json!({"apiVersion": format!("{group}/v1beta1"), "kind": "ClusterTrustBundle", "metadata": {"name": name}, "spec": spec})
            .to_string()
    };
    for (i, (who, signer, code)) in [
        (&writer, "example.com/a", 403),
        (&one, "example.com/a", 201),
        (&one, "example.com/b", 403),
        (&domain, "example.com/b", 201),
        (&domain, "example.org/b", 403),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("{}:{i}", signer.replace('/', ":"));
        let body = bundle(&name, json!({"signerName": signer, "trustBundle": c.pki.ca_pem()}));
        let answer = call(who, Method::POST, &bundles, JSON, body).await;
        assert_eq!(answer.code, code, "{name}: {}", answer.value);
        if code == 403 {
            let why = format!("user not permitted to attest for signerName \"{signer}\"");
            assert!(answer.message().ends_with(&why), "{}", answer.message());
        }
    }
    // What is nobody's needs nothing more; what is somebody's is changed by those alone, or collected.
    let free = bundle("free", json!({"trustBundle": c.pki.ca_pem()}));
    assert_eq!(call(&writer, Method::POST, &bundles, JSON, free).await.code, 201);
    let merge = [("content-type", "application/merge-patch+json")];
    for (who, change, code) in [
        (&writer, json!({"metadata": {"labels": {"a": "b"}}}), 403),
        (&writer, json!({"metadata": {"finalizers": ["example.com/a"]}}), 200),
        (&one, json!({"metadata": {"labels": {"a": "b"}}}), 200),
    ] {
        let path = format!("{bundles}/example.com:a:1");
        let answer = call(who, Method::PATCH, &path, &merge, change.to_string()).await;
        assert_eq!(answer.code, code, "{change}: {}", answer.value);
    }
}

#[tokio::test]
async fn stock_roles_and_bindings_get_back_what_they_lack() {
    let store = store::memory();
    let c = Cluster::start_with(store.clone()).await;
    let roles = format!("{RBAC}/clusterroles");
    let bindings = format!("{RBAC}/clusterrolebindings");
    let local = format!("{RBAC}/namespaces/kube-system/roles/extension-apiserver-authentication-reader");
    let rule = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
    let user = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "ann"});
    let out = "rbac.authorization.kubernetes.io/autoupdate";
    let (before, local_before) =
        (c.get(&format!("{roles}/system:kube-dns")).await.value, c.get(&local).await.value);
    for (path, change) in [
        (
            format!("{roles}/system:kube-dns"),
            json!({"rules": [rule], "metadata": {"labels": null, "annotations": {out: null}}}),
        ),
        (
            format!("{roles}/system:node-proxier"),
            json!({"rules": [rule], "metadata": {"annotations": {out: "false"}}}),
        ),
        (format!("{roles}/view"), json!({"aggregationRule": null})),
        (format!("{bindings}/system:kube-dns"), json!({"subjects": [user]})),
        (local.clone(), json!({"rules": []})),
    ] {
        let answer = c.patch(&path, "merge-patch+json", change).await;
        assert_eq!(answer.code, 200, "{path}: {}", answer.value);
    }
    let old = c.get(&format!("{bindings}/system:node-proxier")).await.value;
    c.delete(&format!("{bindings}/system:node-proxier")).await;
    let mut other = old.clone();
    other["metadata"] = json!({"name": "system:node-proxier"});
    other["roleRef"]["name"] = json!("view");
    made(&c, &bindings, other).await;
    drop(c);
    let c = Cluster::start_with(store).await;
    let after = c.get(&format!("{roles}/system:kube-dns")).await.value;
    assert_eq!(after["rules"][0], rule, "{after}");
    assert_eq!(after["rules"].as_array().unwrap().len(), 3, "{after}");
    assert_eq!(after["metadata"]["labels"], before["metadata"]["labels"]);
    assert_eq!(after["metadata"]["annotations"], before["metadata"]["annotations"]);
    let kept = c.get(&format!("{roles}/system:node-proxier")).await.value;
    assert_eq!(kept["rules"], json!([rule]), "{kept}");
    let view = c.get(&format!("{roles}/view")).await.value;
    let selectors = json!([{"matchLabels": {"rbac.authorization.k8s.io/aggregate-to-view": "true"}}]);
    assert_eq!(view["aggregationRule"]["clusterRoleSelectors"], selectors);
    let bound = c.get(&format!("{bindings}/system:kube-dns")).await.value;
    assert_eq!(bound["subjects"][0], user);
    assert_eq!(bound["subjects"][1]["name"], "kube-dns", "{bound}");
    assert_eq!(c.get(&format!("{bindings}/system:node-proxier")).await.value["roleRef"], old["roleRef"]);
    assert_eq!(c.get(&local).await.value["rules"], local_before["rules"]);
}

/// Asks what somebody may do, by a kind of review.
async fn access(c: &Cluster, kind: &str, namespace: &str, metadata: Value, spec: Value) -> Answer {
    let review =
        json!({"apiVersion": "authorization.k8s.io/v1", "kind": kind, "metadata": metadata, "spec": spec});
    let place = if namespace.is_empty() { String::new() } else { format!("/namespaces/{namespace}") };
    c.post(&format!("/apis/authorization.k8s.io/v1{place}/{}s", kind.to_lowercase()), review).await
}

#[tokio::test]
async fn questions_of_rights_are_checked() {
    let c = Cluster::start().await;
    let pods = |more: Value| {
        let mut spec = json!({"user": "ann", "resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}});
        api::patch::merge_patch(&mut spec["resourceAttributes"], &more);
        spec
    };
    let path = json!({"user": "ann", "nonResourceAttributes": {"verb": "get", "path": "/x"}});
    let (sar, local, own) = ("SubjectAccessReview", "LocalSubjectAccessReview", "SelfSubjectAccessReview");
    let both = json!({"rawSelector": "a=b", "requirements": [{"key": "a", "operator": "Exists"}]});
    for (kind, metadata, spec, want) in [
        (sar, json!({}), pods(json!({})), ""),
        (sar, json!({"name": "x"}), pods(json!({})), "must be empty"),
        (own, json!({"labels": {"a": "b"}}), pods(json!({})), "must be empty"),
        // What only a server sets is left out, as for all objects.
        (own, json!({"uid": "x", "creationTimestamp": "2001-02-03T04:05:06Z"}), pods(json!({})), ""),
        (own, json!({}), path.clone(), ""),
        (local, json!({"namespace": "default"}), pods(json!({})), ""),
        (local, json!({"name": "x"}), pods(json!({})), "must be empty except for namespace"),
        (
            local,
            json!({}),
            pods(json!({"namespace": "other"})),
            "spec.resourceAttributes.namespace: Invalid value: \"other\": must match metadata.namespace",
        ),
        (local, json!({}), path, "disallowed on this kind of request"),
        (
            sar,
            json!({}),
            json!({"user": "ann"}),
            "exactly one of nonResourceAttributes or resourceAttributes",
        ),
        (sar, json!({}), json!({"resourceAttributes": {"verb": "get"}}), "at least one of user or group"),
        (
            sar,
            json!({}),
            pods(json!({"fieldSelector": both})),
            "may not specified at the same time as requirements",
        ),
        (
            sar,
            json!({}),
            pods(json!({"labelSelector": both})),
            "may not specified at the same time as requirements",
        ),
        (
            sar,
            json!({}),
            pods(json!({"labelSelector": {}})),
            "spec.resourceAttributes.labelSelector.requirements: Required value: when spec.resourceAttributes.labelSelector is specified, requirements or rawSelector is required",
        ),
        (
            sar,
            json!({}),
            pods(json!({"fieldSelector": {"requirements": [{"key": "a", "operator": "In"}]}})),
            "spec.resourceAttributes.fieldSelector.requirements[0].values: Required value",
        ),
        (
            sar,
            json!({}),
            pods(json!({"labelSelector": {"requirements": [{"key": "-", "operator": "Exists"}]}})),
            "spec.resourceAttributes.labelSelector.requirements[0].key: Invalid value",
        ),
    ] {
        let namespace = if kind == local { "default" } else { "" };
        let answer = access(&c, kind, namespace, metadata.clone(), spec.clone()).await;
        let code = if want.is_empty() { 201 } else { 422 };
        assert_eq!(answer.code, code, "{kind} {metadata} {spec}: {}", answer.value);
        assert!(answer.message().contains(want), "{want}: {}", answer.message());
    }
    let elsewhere = access(&c, local, "default", json!({"namespace": "other"}), pods(json!({}))).await;
    assert_eq!(elsewhere.code, 400, "{}", elsewhere.value);
}

#[tokio::test]
async fn selectors_of_questions_count_as_far_as_they_are_understood() {
    let c = Cluster::start().await;
    let own = json!({"key": "spec.nodeName", "operator": "In", "values": ["n1"]});
    let unknown = json!({"key": "a", "operator": "Like", "values": ["b"]});
    let field = "spec.resourceAttributes.fieldSelector";
    let label = "spec.resourceAttributes.labelSelector";
    for (selectors, allowed, error) in [
        (json!({}), false, json!(null)),
        (json!({"fieldSelector": {"requirements": [own]}}), true, json!(null)),
        (json!({"fieldSelector": {"rawSelector": "spec.nodeName=n1"}}), true, json!(null)),
        (
            json!({"fieldSelector": {"requirements": [own, unknown]}}),
            true,
            json!(format!("{field} partially ignored due to parse error")),
        ),
        (
            json!({"fieldSelector": {"rawSelector": "nonsense"}, "labelSelector": {"rawSelector": "a in b"}}),
            false,
            json!(format!("{field} ignored due to parse error; {label} ignored due to parse error")),
        ),
        (
            json!({"labelSelector": {"requirements": [unknown, {"key": "a", "operator": "Exists"}]}}),
            false,
            json!(format!("{label} partially ignored due to parse error")),
        ),
    ] {
        let mut spec = json!({"user": "system:node:n1", "groups": ["system:nodes"],
            "resourceAttributes": {"verb": "list", "resource": "pods"}});
        api::patch::merge_patch(&mut spec["resourceAttributes"], &selectors);
        let answer = access(&c, "SubjectAccessReview", "", json!({}), spec).await;
        let status = &answer.value["status"];
        assert_eq!(
            (&status["allowed"], &status["evaluationError"]),
            (&json!(allowed), &error),
            "{selectors}"
        );
    }
}
