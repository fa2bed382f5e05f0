//! The verbs of the generic registry, as a client sees them.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use api::Value;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use common::{Cluster, JSON};
use http::Method;
use serde_json::json;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn map(name: &str, data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn create() {
    let c = Cluster::start().await;
    let made = c.post(MAPS, map("a", json!({"x": "1"}))).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let meta = &made.value["metadata"];
    assert_eq!(meta["namespace"], "default");
    assert_eq!(meta["uid"].as_str().unwrap().len(), 36);
    assert!(meta["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap() > 1);
    assert!(meta["creationTimestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(c.get(&format!("{MAPS}/a")).await.value, made.value);

    let generated = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "g-"}});
    let one = c.post(MAPS, generated.clone()).await.value["metadata"]["name"].as_str().unwrap().to_owned();
    let two = c.post(MAPS, generated).await.value["metadata"]["name"].as_str().unwrap().to_owned();
    assert!(one.starts_with("g-") && one.len() == 7 && one != two);

    let dry = c.post(&format!("{MAPS}?dryRun=All"), map("dry", json!({}))).await;
    assert_eq!((dry.code, dry.value["metadata"]["name"].as_str()), (201, Some("dry")));
    assert_eq!(c.get(&format!("{MAPS}/dry")).await.code, 404);

    let mut versioned = map("v", json!({}));
    versioned["metadata"]["resourceVersion"] = json!("5");
    let mut elsewhere = map("e", json!({}));
    elsewhere["metadata"]["namespace"] = json!("kube-system");
    for (path, body, code, text) in [
        (MAPS, map("a", json!({})), 409, "configmaps \"a\" already exists"),
        (MAPS, map("A_", json!({})), 422, "metadata.name: Invalid value: \"A_\""),
        (MAPS, versioned, 400, "resourceVersion should not be set on objects to be created"),
        (MAPS, elsewhere, 400, "does not match the namespace sent on the request"),
        ("/api/v1/namespaces/nope/configmaps", map("a", json!({})), 404, "namespaces \"nope\" not found"),
        (
            "/api/v1/namespaces/default/nothings",
            map("a", json!({})),
            404,
            "could not find the requested resource",
        ),
        (&format!("{MAPS}?dryRun=Some"), map("d", json!({})), 422, "dryRun"),
    ] {
        let refused = c.post(path, body).await;
        assert_eq!(refused.code, code, "{}", refused.value);
        assert!(refused.message().contains(text), "{}", refused.message());
        assert_eq!(refused.value["kind"], "Status");
    }
    let wrong = c.call(Method::POST, MAPS, &[("content-type", "text/plain")], "x").await;
    assert_eq!(wrong.code, 415);
    let broken = c.call(Method::POST, MAPS, JSON, "{").await;
    assert_eq!(broken.code, 400, "{}", broken.value);
}

#[tokio::test]
async fn who_writes_says_what_and_nothing_that_is_the_server_s() {
    let c = Cluster::start().await;
    // What ends still has its name.
    let mut held = map("held", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    assert_eq!(c.post(MAPS, held).await.code, 201);
    assert_eq!(c.delete(&format!("{MAPS}/held")).await.code, 200);
    let refused = c.post(MAPS, map("held", json!({}))).await;
    assert_eq!(
        (refused.code, refused.message()),
        (409, "object is being deleted: configmaps \"held\" already exists")
    );
    assert_eq!(c.post(MAPS, map("a", json!({}))).await.code, 201);
    let ends = json!({"metadata": {"deletionTimestamp": "2020-01-01T00:00:00Z"}});
    let refused = c.patch(&format!("{MAPS}/a"), "merge-patch+json", ends).await;
    assert_eq!(refused.code, 422, "{}", refused.value);
    assert!(refused.message().contains("metadata.deletionTimestamp: Invalid value"), "{}", refused.message());
    // An update that creates.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
    let lease = |meta: Value| json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": meta, "spec": {}});
    let put = async |meta: Value| {
        let path = format!("{leases}/{}", meta["name"].as_str().unwrap());
        common::call(c.admin.transport(), Method::PUT, &path, JSON, lease(meta).to_string()).await
    };
    let refused = put(json!({"name": "x", "uid": "u"})).await;
    assert_eq!(refused.code, 409, "{}", refused.value);
    assert!(
        refused.message().contains("UID in precondition: u, UID in object meta: "),
        "{}",
        refused.message()
    );
    assert_eq!(put(json!({"name": "x", "resourceVersion": "5"})).await.code, 201);
    let refused = put(json!({"name": "x"})).await;
    assert_eq!(
        refused.message(),
        "leases.coordination.k8s.io \"x\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
    let apply = async |name: &str, config: Value| {
        let headers = [("content-type", "application/apply-patch+yaml")];
        let path = format!("{leases}/{name}?fieldManager=m");
        common::call(c.admin.transport(), Method::PATCH, &path, &headers, config.to_string()).await
    };
    let refused = apply("y", lease(json!({}))).await;
    assert_eq!(refused.code, 400, "{}", refused.value);
    assert!(refused.message().contains("was undeterminable: name must be provided"), "{}", refused.message());
    assert_eq!(apply("y", lease(json!({"name": "y"}))).await.code, 201);
    assert_eq!(apply("y", lease(json!({}))).await.code, 200, "what is there has its name");
}

#[tokio::test]
async fn scales_are_judged_as_objects_are() {
    let c = Cluster::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "a", "image": "b"}]}}}});
    assert_eq!(c.post(deployments, object).await.code, 201);
    let path = format!("{deployments}/d/scale");
    for (query, patch, code, why) in [
        ("", json!({"spec": {"replicas": "5"}}), 422, "patch: Invalid value"),
        ("", json!({"spec": {"replicas": 1_i64 << 33}}), 422, "patch: Invalid value"),
        ("?fieldValidation=Strict", json!({"spec": {"replica": 1}}), 422, "unknown field \"spec.replica\""),
        ("", json!({"metadata": {"name": "e"}}), 400, "does not match the name on the URL (d)"),
        ("", json!({"metadata": {"uid": "u"}}), 409, "UID in precondition: u"),
    ] {
        let refused = c.patch(&format!("{path}{query}"), "merge-patch+json", patch.clone()).await;
        assert_eq!(refused.code, code, "{patch}: {}", refused.value);
        assert!(refused.message().contains(why), "{patch}: {}", refused.message());
    }
    let warned = c.patch(&path, "merge-patch+json", json!({"spec": {"replicas": 3, "replica": 1}})).await;
    assert_eq!((warned.code, &warned.value["spec"]["replicas"]), (200, &json!(3)), "{}", warned.value);
    assert!(warned.header("warning").contains("unknown field"), "{}", warned.header("warning"));
    for (meta, code) in [
        (json!({}), 400),
        (json!({"name": "e"}), 400),
        (json!({"name": "d", "uid": "u"}), 409),
        (json!({"name": "d"}), 200),
    ] {
        let scale = json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": meta, "spec": {"replicas": 4}});
        let answer = common::call(c.admin.transport(), Method::PUT, &path, JSON, scale.to_string()).await;
        assert_eq!(answer.code, code, "{scale}: {}", answer.value);
    }
}

#[tokio::test]
async fn unknown_fields() {
    let c = Cluster::start().await;
    let body = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "dataz": {"x": "1"}});
    let strict = c.post(&format!("{MAPS}?fieldValidation=Strict"), body("s")).await;
    assert_eq!(strict.code, 400);
    assert!(strict.message().contains("unknown field \"dataz\""), "{}", strict.message());
    let warned = c.post(&format!("{MAPS}?fieldValidation=Warn"), body("w")).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.header("warning"), "299 - \"unknown field \\\"dataz\\\"\"");
    let ignored = c.post(&format!("{MAPS}?fieldValidation=Ignore"), body("i")).await;
    assert_eq!((ignored.code, ignored.header("warning")), (201, ""));
    assert_eq!(ignored.value.get("dataz"), None);
}

#[tokio::test]
async fn who_makes_or_changes_what_nothing_enforces_is_warned() {
    let c = Cluster::start().await;
    let policies = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies";
    let policy = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": "p"}, "spec": {"validations": [{"expression": "true"}],
        "matchConstraints": {"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]}}});
    let warned = "299 - \"stored, but this server does not enforce it yet\"";
    let made = c.post(policies, policy).await;
    assert_eq!((made.code, made.header("warning")), (201, warned), "{}", made.value);
    let change = json!({"spec": {"failurePolicy": "Ignore"}});
    let changed = c.patch(&format!("{policies}/p"), "merge-patch+json", change).await;
    assert_eq!((changed.code, changed.header("warning")), (200, warned), "{}", changed.value);
    assert_eq!(c.get(&format!("{policies}/p")).await.header("warning"), "");
}

#[tokio::test]
async fn update_is_guarded_by_the_version_read() {
    let c = Cluster::start().await;
    let first = c.post(MAPS, map("a", json!({"x": "1"}))).await.value;
    let path = format!("{MAPS}/a");
    let mut second = first.clone();
    second["data"]["x"] = json!("2");
    let updated = c.put(&path, second.clone()).await;
    assert_eq!((updated.code, updated.value["data"]["x"].as_str()), (200, Some("2")));
    assert_ne!(updated.value["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let stale = c.put(&path, second).await;
    assert_eq!((stale.code, stale.value["reason"].as_str()), (409, Some("Conflict")));
    assert!(stale.message().contains("the object has been modified"), "{}", stale.message());

    let unconditional = c.put(&path, map("a", json!({"x": "3"}))).await;
    assert_eq!(unconditional.code, 200);
    let same = c.put(&path, map("a", json!({"x": "3"}))).await;
    assert_eq!(
        same.value["metadata"]["resourceVersion"], unconditional.value["metadata"]["resourceVersion"],
        "an update that changes nothing writes nothing"
    );
    assert_eq!(same.value["metadata"]["uid"], first["metadata"]["uid"]);
    let mut other = map("a", json!({}));
    other["metadata"]["uid"] = json!("11111111-2222-4333-8444-555555555555");
    assert_eq!(c.put(&path, other).await.code, 409);
    assert_eq!(c.put(&path, map("b", json!({}))).await.code, 400);
    assert_eq!(c.put(&format!("{MAPS}/nope"), map("nope", json!({}))).await.code, 404);
}

#[tokio::test]
async fn patches() {
    let c = Cluster::start().await;
    c.post(MAPS, map("a", json!({"x": "1", "y": "1"}))).await;
    let path = format!("{MAPS}/a");
    let merged = c.patch(&path, "merge-patch+json", json!({"data": {"x": null, "z": "2"}})).await;
    assert_eq!(merged.value["data"], json!({"y": "1", "z": "2"}), "{}", merged.value);
    let json_patch = json!([{"op": "test", "path": "/data/y", "value": "1"}, {"op": "replace", "path": "/data/y", "value": "3"}]);
    let patched = c.patch(&path, "json-patch+json", json_patch.clone()).await;
    assert_eq!(patched.value["data"]["y"], "3", "{}", patched.value);
    assert_eq!(c.patch(&path, "json-patch+json", json_patch).await.code, 422);
    let strategic =
        c.patch(&path, "strategic-merge-patch+json", json!({"metadata": {"labels": {"l": "1"}}})).await;
    assert_eq!(strategic.value["metadata"]["labels"], json!({"l": "1"}), "{}", strategic.value);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"x": "9"}});
    assert_eq!(c.patch(&path, "merge-patch+json", stale).await.code, 409);
    assert_eq!(c.patch(&path, "unknown", json!({})).await.code, 415);
    assert_eq!(c.patch(&format!("{MAPS}/b"), "merge-patch+json", json!({})).await.code, 404);
    assert_eq!(c.patch(&path, "merge-patch+json", json!({"metadata": {"name": "b"}})).await.code, 400);
}

#[tokio::test]
async fn concurrent_patches_all_arrive() {
    let c = std::sync::Arc::new(Cluster::start().await);
    c.post(MAPS, map("a", json!({}))).await;
    let mut tasks = Vec::new();
    for i in 0..32 {
        let c = c.clone();
        tasks.push(tokio::spawn(async move {
            let patch = json!({"data": {format!("k{i}"): "v"}});
            c.patch(&format!("{MAPS}/a"), "merge-patch+json", patch).await.code
        }));
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), 200);
    }
    assert_eq!(c.get(&format!("{MAPS}/a")).await.value["data"].as_object().unwrap().len(), 32);
}

#[tokio::test]
async fn lists_are_selected_and_paged() {
    let c = Cluster::start().await;
    for i in 0..7 {
        let mut object = map(&format!("m{i}"), json!({}));
        object["metadata"]["labels"] = json!({"parity": (i % 2).to_string()});
        c.post(MAPS, object).await;
    }
    let names = |v: &Value| {
        let items = v["items"].as_array().unwrap();
        items.iter().map(|i| i["metadata"]["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let odd = c.get(&format!("{MAPS}?labelSelector=parity%3D1")).await;
    assert_eq!(names(&odd.value), ["m1", "m3", "m5"]);
    assert_eq!(odd.value["kind"], "ConfigMapList");
    let one = c.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm4")).await;
    assert_eq!(names(&one.value), ["m4"]);
    assert_eq!(c.get(&format!("{MAPS}?fieldSelector=data.x%3D1")).await.code, 400);
    assert_eq!(c.get(&format!("{MAPS}?labelSelector=%3D%3D")).await.code, 400);

    let mut seen = Vec::new();
    let whatever = c.get(&format!("{MAPS}?limit=3&resourceVersion=0")).await.value;
    let all = c.get(MAPS).await.value;
    assert_eq!((&whatever["items"], &whatever["metadata"]["continue"]), (&all["items"], &json!(null)));
    let first = c.get(&format!("{MAPS}?limit=3")).await.value;
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    seen.extend(names(&first));
    let mut token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    // What happens between two pages does not show in the later ones.
    c.delete(&format!("{MAPS}/m6")).await;
    c.post(MAPS, map("m5x", json!({}))).await;
    while !token.is_empty() {
        let page = c.get(&format!("{MAPS}?limit=3&continue={token}")).await.value;
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
        seen.extend(names(&page));
        token = page["metadata"]["continue"].as_str().unwrap_or("").to_owned();
    }
    assert_eq!(seen, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    let exact = c
        .get(&format!(
            "{MAPS}?resourceVersionMatch=Exact&resourceVersion={}",
            first["metadata"]["resourceVersion"].as_str().unwrap()
        ))
        .await;
    assert_eq!(names(&exact.value), seen);
    assert_eq!(c.get(&format!("{MAPS}?continue=rubbish")).await.code, 400);
    // A token is the client's to make up: it leads nowhere outside of the list's namespace.
    let revision: u64 = first["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    for start in ["a/", "defaul", "default0", "zoo/m"] {
        let token = json!({"v": "meta.k8s.io/v1", "rv": revision, "start": start});
        let token = URL_SAFE_NO_PAD.encode(token.to_string());
        assert_eq!(c.get(&format!("{MAPS}?continue={token}")).await.code, 400, "{start}");
    }
    let everywhere = c.get("/api/v1/configmaps").await.value;
    let ours = |i: &&Value| i["metadata"]["namespace"] == "default";
    assert_eq!(everywhere["items"].as_array().unwrap().iter().filter(ours).count(), 7);
}

#[tokio::test]
async fn delete_with_preconditions_and_finalizers() {
    let c = Cluster::start().await;
    let path = format!("{MAPS}/a");
    let made = c.post(MAPS, map("a", json!({}))).await.value;
    let wrong = json!({"preconditions": {"uid": "other"}});
    let refused = c.call(Method::DELETE, &path, JSON, wrong.to_string()).await;
    assert_eq!(refused.code, 409);
    assert!(
        refused.message().contains("the UID in the precondition (other) does not match"),
        "{}",
        refused.message()
    );
    let right = json!({"preconditions": {"uid": made["metadata"]["uid"]}});
    let done = c.call(Method::DELETE, &path, JSON, right.to_string()).await;
    assert_eq!((done.code, done.value["status"].as_str()), (200, Some("Success")));
    assert_eq!(c.delete(&path).await.code, 404);

    let mut held = map("a", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    c.post(MAPS, held).await;
    let going = c.delete(&path).await;
    assert!(going.value["metadata"]["deletionTimestamp"].is_string(), "{}", going.value);
    assert_eq!(c.get(&path).await.code, 200);
    let freed = c.patch(&path, "merge-patch+json", json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(freed.code, 200);
    assert_eq!(c.get(&path).await.code, 404);

    c.post(MAPS, map("b", json!({}))).await;
    let foreground = json!({"propagationPolicy": "Foreground"});
    let going = c.call(Method::DELETE, &format!("{MAPS}/b"), JSON, foreground.to_string()).await;
    assert_eq!(going.value["metadata"]["finalizers"], json!(["foregroundDeletion"]));

    // The garbage collector does not look after events.
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "name": "p", "namespace": "default"}});
    let events = "/api/v1/namespaces/default/events";
    assert_eq!(c.post(events, event).await.code, 201);
    let gone = c.call(Method::DELETE, &format!("{events}/e"), JSON, foreground.to_string()).await;
    assert_eq!(gone.value["status"], "Success", "{}", gone.value);

    // Some kinds answer with what was deleted.
    let classes = "/apis/storage.k8s.io/v1/storageclasses";
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "s"},
        "provisioner": "p"});
    assert_eq!(c.post(classes, class).await.code, 201);
    assert_eq!(c.delete(&format!("{classes}/s")).await.value["kind"], "StorageClass");

    for i in 0..3 {
        let mut object = map(&format!("c{i}"), json!({}));
        object["metadata"]["labels"] = json!({"bulk": "yes"});
        c.post(MAPS, object).await;
    }
    let bulk = c.delete(&format!("{MAPS}?labelSelector=bulk%3Dyes")).await;
    assert_eq!(bulk.value["items"].as_array().unwrap().len(), 3);
    let left = c.get(&format!("{MAPS}?labelSelector=bulk%3Dyes")).await;
    assert_eq!(left.value["items"], json!([]));
}

#[tokio::test]
async fn pods_are_bound_once_and_end_gracefully() {
    let c = Cluster::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    c.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}], "terminationGracePeriodSeconds": 20}});
    let made = c.post(pods, pod).await;
    assert_eq!(made.code, 201, "{}", made.value);
    assert_eq!(made.value["spec"]["serviceAccountName"], "default");
    assert_eq!(made.value["spec"]["tolerations"].as_array().unwrap().len(), 2);
    assert_eq!(
        made.value["spec"]["containers"][0]["volumeMounts"][0]["mountPath"],
        "/var/run/secrets/kubernetes.io/serviceaccount"
    );
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "node"}});
    let bound = c.post(&format!("{pods}/p/binding"), binding.clone()).await;
    assert_eq!(bound.code, 201, "{}", bound.value);
    let twice = c.post(&format!("{pods}/p/binding"), binding).await;
    assert!(twice.message().contains("is already assigned to node \"node\""), "{}", twice.message());
    let now = c.get(&format!("{pods}/p")).await.value;
    assert_eq!(now["spec"]["nodeName"], "node");
    assert_eq!(now["status"]["conditions"][0]["type"], "PodScheduled");

    let going = c.delete(&format!("{pods}/p")).await.value;
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 20, "{going}");
    let shorter = c.delete(&format!("{pods}/p?gracePeriodSeconds=5")).await.value;
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    // No other delete than a shorter one changes what ends already, not even how its dependents go.
    for query in ["", "?gracePeriodSeconds=50", "?gracePeriodSeconds=5", "?propagationPolicy=Foreground"] {
        assert_eq!(c.delete(&format!("{pods}/p{query}")).await.value, shorter, "{query}");
    }
    let short = json!({"spec": {"terminationGracePeriodSeconds": 2}, "status": {"phase": "Failed"}});
    let failed = c.patch(&format!("{pods}/p/status"), "merge-patch+json", short).await.value;
    assert_eq!(c.delete(&format!("{pods}/p")).await.value, failed);
    let shorter = c.delete(&format!("{pods}/p?gracePeriodSeconds=4")).await.value;
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 4, "{shorter}");
    assert_eq!(c.get(&format!("{pods}/p")).await.code, 200);
    c.delete(&format!("{pods}/p?gracePeriodSeconds=0")).await;
    assert_eq!(c.get(&format!("{pods}/p")).await.code, 404);
}

#[tokio::test]
async fn services_have_addresses_and_ports() {
    let c = Cluster::start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec});
    let a = c.post(services, service("a", json!({"ports": [{"port": 80}]}))).await;
    assert_eq!(a.code, 201, "{}", a.value);
    let ip = a.value["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10."), "{ip}");
    let taken = c.post(services, service("b", json!({"clusterIP": ip, "ports": [{"port": 80}]}))).await;
    assert!(taken.message().contains("provided IP is already allocated"), "{}", taken.message());
    let node_port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30123}]});
    assert_eq!(c.post(services, service("n", node_port.clone())).await.code, 201);
    let again = c.post(services, service("m", node_port)).await;
    assert!(again.message().contains("provided port is already allocated"), "{}", again.message());
    c.delete(&format!("{services}/a")).await;
    let reused = c.post(services, service("b", json!({"clusterIP": ip, "ports": [{"port": 80}]}))).await;
    assert_eq!(reused.code, 201, "an address is free when its service is gone");
    let kubernetes = c.get(&format!("{services}/kubernetes")).await.value;
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.96.0.1");
}

#[tokio::test]
async fn large_answers_are_compressed_for_who_takes_it() {
    use std::io::Read;
    let c = Cluster::start().await;
    let plain = async |path: &str| c.get(path).await.response.into_body();
    let zipped = async |path: &str, accept: &str| {
        let headers = [("accept-encoding", "br, gzip"), ("accept", accept)];
        c.call(Method::GET, path, &headers, "").await.response
    };
    for i in 0..300 {
        let data = json!({"x": format!("{i}-").repeat(200)});
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("m{i}")}, "data": data});
        assert_eq!(c.post(MAPS, map).await.code, 201);
    }
    let whole = plain(MAPS).await;
    let small = zipped(MAPS, "application/json").await;
    assert_eq!(small.headers()["content-encoding"], "gzip");
    assert_eq!(small.headers()["vary"], "Accept-Encoding");
    assert!(small.body().len() * 4 < whole.len(), "{} of {}", small.body().len(), whole.len());
    let mut out = Vec::new();
    flate2::read::GzDecoder::new(&small.body()[..]).read_to_end(&mut out).unwrap();
    assert_eq!(out, whole);
    let yaml = zipped(MAPS, "application/yaml").await;
    assert_eq!(yaml.headers()["content-encoding"], "gzip");
    // One object is not worth it, nor is a list that nobody wants compressed.
    assert!(
        zipped(&format!("{MAPS}/m0"), "application/json").await.headers().get("content-encoding").is_none()
    );
    assert!(c.get(MAPS).await.response.headers().get("content-encoding").is_none());
}

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn definition(plural: &str, kind: &str) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.x.io")}, "spec": {"group": "x.io", "scope": "Namespaced",
            "names": {"plural": plural, "kind": kind}, "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]}})
}

fn condition<'a>(crd: &'a Value, kind: &str) -> &'a Value {
    let all = crd["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|c| c["type"] == kind).unwrap_or(&Value::Null)
}

/// Asks until `good` says that this is the answer.
async fn until(c: &Cluster, path: &str, good: impl Fn(&common::Answer) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..1000 {
        let answer = c.get(path).await;
        if good(&answer) {
            return answer.value;
        }
        last = answer.value;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{path}: {last}");
}

#[tokio::test]
async fn a_definition_that_goes_takes_its_objects_along() {
    let c = Cluster::start().await;
    let made = c.post(CRDS, definition("foos", "Foo")).await;
    assert_eq!((made.code, &made.value["metadata"]["finalizers"]), (201, &Value::Null), "{}", made.value);
    let foos = "/apis/x.io/v1/namespaces/default/foos";
    until(&c, foos, |a| a.code == 200).await;
    let foo = |name: &str, finalizers: Value| json!({"apiVersion": "x.io/v1", "kind": "Foo", "metadata": {"name": name, "finalizers": finalizers}});
    for (name, finalizers) in [("a", json!([])), ("b", json!(["x.io/held"]))] {
        assert_eq!(c.post(foos, foo(name, finalizers)).await.code, 201);
    }
    // Nobody is asked: this one would refuse by not being there.
    let nowhere = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "w"}, "webhooks": [{"name": "w.x.io", "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {"url": "https://127.0.0.1:1/"}, "failurePolicy": "Fail",
            "rules": [{"apiGroups": ["x.io"], "apiVersions": ["*"], "operations": ["DELETE"], "resources": ["*"]}]}]});
    let hooks = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations";
    assert_eq!(c.post(hooks, nowhere).await.code, 201);
    assert_eq!(c.delete(&format!("{foos}/a")).await.code, 500, "the webhook is asked of what clients delete");
    let one = format!("{CRDS}/foos.x.io");
    let going = c.delete(&one).await;
    assert_eq!(going.code, 200);
    assert_eq!(going.value["metadata"]["finalizers"], json!(["customresourcecleanup.apiextensions.k8s.io"]));
    assert_eq!(condition(&going.value, "Terminating")["reason"], "InstanceDeletionPending");
    until(&c, &one, |a| condition(&a.value, "Terminating")["reason"] == "InstanceDeletionInProgress").await;
    until(&c, &format!("{foos}/a"), |a| a.code == 404).await;
    let refused = c.post(foos, foo("c", json!([]))).await;
    assert_eq!(refused.code, 405, "{}", refused.value);
    assert_eq!(refused.message(), "create not allowed while custom resource definition is terminating");
    // What holds an object holds its definition.
    let free = json!({"metadata": {"finalizers": null}});
    assert_eq!(c.patch(&format!("{foos}/b"), "merge-patch+json", free).await.code, 200);
    until(&c, &one, |a| a.code == 404).await;
    until(&c, foos, |a| a.code == 404).await;
}

#[tokio::test]
async fn definitions_that_come_together_do_not_share_a_name() {
    let c = Cluster::start().await;
    let names = ["ones", "twos", "threes", "fours"];
    let posts = names.map(|plural| c.post(CRDS, definition(plural, "Same")));
    for answer in futures::future::join_all(posts).await {
        assert_eq!(answer.code, 201, "{}", answer.value);
    }
    let mut established = 0;
    for plural in names {
        let path = format!("{CRDS}/{plural}.x.io");
        let crd = until(&c, &path, |a| !condition(&a.value, "NamesAccepted").is_null()).await;
        established += usize::from(condition(&crd, "Established")["status"] == "True");
    }
    assert_eq!(established, 1);
}

#[tokio::test]
async fn of_custom_objects_nulls_are_nothing_and_parts_are_whole_objects() {
    let c = Cluster::start().await;
    let mut crd = definition("foos", "Foo");
    let version = &mut crd["spec"]["versions"][0];
    version["subresources"] = json!({"status": {}});
    version["deprecated"] = json!(true);
    version["schema"] = json!({"openAPIV3Schema": {"type": "object", "properties": {
        "spec": {"type": "object", "required": ["a"], "properties": {
            "a": {"type": "string", "maxLength": 3}, "b": {"type": "string"}, "c": {"type": "string", "nullable": true},
            "when": {"type": "string", "format": "moon-phase"},
            "part": {"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}},
        "status": {"type": "object", "properties": {"n": {"type": "integer", "x-kubernetes-validations": [
            {"rule": "self >= 0", "message": "n counts"}]}}}}}});
    let mut newer = version.clone();
    newer["name"] = json!("v2");
    (newer["storage"], newer["deprecated"]) = (json!(false), json!(false));
    crd["spec"]["versions"].as_array_mut().unwrap().push(newer);
    let made = c.post(CRDS, crd).await;
    assert_eq!(made.code, 201, "{}", made.value);
    assert!(made.header("warning").contains("unrecognized format"), "{}", made.header("warning"));
    let foos = "/apis/x.io/v1/namespaces/default/foos";
    until(&c, foos, |a| a.code == 200).await;
    let foo = |spec: Value| json!({"apiVersion": "x.io/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": spec});
    for (spec, why) in [
        (json!({"a": null}), "spec.a: Required value"),
        (json!({"a": "x", "part": {"kind": "Pod"}}), "spec.part.apiVersion: Required value"),
        (
            json!({"a": "long", "b": 1}),
            "spec.a: Too long: may not be more than 3 bytes, spec.b: Invalid value: \"integer\": spec.b in body must be of type string: \"integer\"",
        ),
    ] {
        let refused = c.post(foos, foo(spec)).await;
        let want = format!(
            "Foo.x.io \"a\" is invalid: [{why}, <nil>: Invalid value: null: some validation rules were not checked because the object was invalid; correct the existing errors to complete validation]"
        );
        assert_eq!((refused.code, refused.message()), (422, want.as_str()), "{}", refused.value);
    }
    let made = c.post(foos, foo(json!({"a": "x", "b": null, "c": null}))).await;
    assert_eq!((made.code, &made.value["spec"]), (201, &json!({"a": "x", "c": null})), "{}", made.value);
    assert_eq!(made.header("warning"), "299 - \"x.io/v1 Foo is deprecated; use x.io/v2 Foo\"");
    let mut told = made.value;
    told["status"] = json!({"n": -1});
    let refused = c.put(&format!("{foos}/a/status"), told).await;
    assert_eq!(refused.message(), "Foo.x.io \"a\" is invalid: status.n: Invalid value: -1: n counts");
    let (explained, group) = (c.get("/openapi/v3/apis/x.io/v1").await.value, "x.io/v1");
    let schema = &explained["components"]["schemas"]["io.x.v1.Foo"];
    assert_eq!(schema["properties"]["spec"]["properties"]["a"]["maxLength"], 3, "{group}: {schema}");
    let list = &explained["paths"]["/apis/x.io/v1/namespaces/{namespace}/foos"]["get"];
    assert_eq!(list["operationId"], "listXIoV1NamespacedFoo");
}

#[tokio::test]
async fn custom_objects_scale_within_bounds_and_show_their_age() {
    let c = Cluster::start().await;
    let mut crd = definition("foos", "Foo");
    let version = &mut crd["spec"]["versions"][0];
    let scale = json!({"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"});
    version["subresources"] = json!({"status": {}, "scale": scale});
    version["schema"] =
        json!({"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}});
    assert_eq!(c.post(CRDS, crd).await.code, 201);
    let foos = "/apis/x.io/v1/namespaces/default/foos";
    until(&c, foos, |a| a.code == 200).await;
    let foo = |replicas: Value| json!({"apiVersion": "x.io/v1", "kind": "Foo", "metadata": {"name": "a"}, "spec": {"replicas": replicas}});
    for (replicas, why) in [
        (json!(-1), ".spec.replicas: Invalid value: -1: should be a non-negative integer"),
        (
            json!(1u64 << 31),
            ".spec.replicas: Invalid value: 2147483648: should be less than or equal to 2147483647",
        ),
    ] {
        let refused = c.post(foos, foo(replicas)).await;
        assert_eq!(refused.code, 422);
        assert!(refused.message().ends_with(why), "{}", refused.value);
    }
    let made = c.post(foos, foo(json!(2))).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let mut told = made.value;
    told["status"] = json!({"replicas": -2});
    let refused = c.put(&format!("{foos}/a/status"), told).await;
    assert!(refused.message().contains(".status.replicas: Invalid value: -2"), "{}", refused.value);
    let headers = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = common::call(c.admin.transport(), Method::GET, foos, &headers, String::new()).await.value;
    let columns: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(columns, ["Name", "Age"]);
    assert_eq!(table["rows"][0]["cells"][0], "a");
}

#[tokio::test]
async fn owners_are_named_once_and_old_clients_told_that_it_takes_a_while() {
    let c = Cluster::start().await;
    let owner = |uid: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "o", "uid": uid});
    let mut owned = map("owned", json!({}));
    owned["metadata"]["ownerReferences"] = json!([owner("1"), owner("2"), owner("1")]);
    owned["metadata"]["finalizers"] = json!(["example.com/wait"]);
    let made = c.post(MAPS, owned.clone()).await;
    assert_eq!(made.code, 201, "{}", made.value);
    assert_eq!(made.value["metadata"]["ownerReferences"], json!([owner("1"), owner("2")]));
    let told = "299 - \".metadata.ownerReferences contains duplicate entries; API server dedups";
    let warning = made.header("warning").to_owned();
    assert!(warning.starts_with(told) && warning.ends_with("duplicate UID(s) observed: 1\""), "{warning}");
    assert_eq!(c.put(&format!("{MAPS}/owned"), owned).await.header("warning"), warning);
    let going = c.delete(&format!("{MAPS}/owned?orphanDependents=false")).await;
    assert_eq!((going.code, going.value["kind"].as_str()), (202, Some("ConfigMap")));
    assert_eq!(c.delete(&format!("{MAPS}/owned?propagationPolicy=Background")).await.code, 200);
    // What a person reads is set out.
    let read = c.call(Method::GET, &format!("{MAPS}/owned?pretty=true"), &[], "").await;
    let text = String::from_utf8(read.response.into_body().to_vec()).unwrap();
    assert_eq!(text, serde_json::to_string_pretty(&read.value).unwrap());
}
