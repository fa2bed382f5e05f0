//! Whose fields are whose, across versions: each manager's fields are kept in the version it spoke, and judged there.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use api::Value;
use common::hook::{Hook, addresses_converted};
use common::{Answer, Cluster, call};
use http::Method;
use serde_json::json;

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

async fn apply(c: &Cluster, path: &str, manager: &str, config: &Value) -> Answer {
    let headers = [("content-type", "application/apply-patch+yaml")];
    let path = format!("{path}{}fieldManager={manager}", if path.contains('?') { '&' } else { '?' });
    call(c.admin.transport(), Method::PATCH, &path, &headers, config.to_string()).await
}

/// The fields of a manager, and the version they are of.
fn owned(object: &Value, manager: &str) -> Vec<(String, Value)> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let of = |e: &Value| (e["apiVersion"].as_str().unwrap().to_owned(), e["fieldsV1"].clone());
    entries.iter().filter(|e| e["manager"] == manager).map(of).collect()
}

fn own(version: &str, fields: Value) -> Vec<(String, Value)> {
    vec![(version.to_owned(), fields)]
}

fn crd(plural: &str, conversion: Value, schemas: [Value; 2]) -> Value {
    let version = |i: usize, properties: &Value| {
        json!({"name": format!("v{}", i + 1), "served": true, "storage": i == 0,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    };
    let versions: Vec<Value> = schemas.iter().enumerate().map(|(i, s)| version(i, s)).collect();
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com")},
        "spec": {"group": "example.com", "scope": "Cluster", "names": {"plural": plural, "kind": "Thing"},
            "conversion": conversion, "versions": versions}})
}

async fn serve(c: &Cluster, crd: Value) {
    let made = c.post(CRDS, crd.clone()).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let plural = crd["spec"]["names"]["plural"].as_str().unwrap();
    until(c, &format!("/apis/example.com/v2/{plural}"), 200).await;
}

/// What is served follows a definition by its event.
async fn until(c: &Cluster, path: &str, code: u16) {
    for _ in 0..500 {
        if c.get(path).await.code == code {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{path} does not answer with {code}");
}

fn thing(version: &str, fields: Value) -> Value {
    let mut object =
        json!({"apiVersion": format!("example.com/{version}"), "kind": "Thing", "metadata": {"name": "a"}});
    object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    object
}

#[tokio::test]
async fn ownership_is_told_through_the_conversion_webhook() {
    let c = Cluster::start().await;
    let hook = Hook::start(&c.pki, addresses_converted).await;
    let conversion = json!({"strategy": "Webhook",
        "webhook": {"clientConfig": hook.config("convert"), "conversionReviewVersions": ["v1"]}});
    let text = json!({"type": "string"});
    let schemas = [json!({"hostPort": text, "more": text}), json!({"host": text, "port": text})];
    serve(&c, crd("things", conversion, schemas)).await;
    let (v1, v2) = ("/apis/example.com/v1/things/a", "/apis/example.com/v2/things/a");
    let made = apply(&c, v1, "x", &thing("v1", json!({"hostPort": "h:1"}))).await;
    assert_eq!(made.code, 201, "{}", made.value);
    // Another value in another version is another value for what x owns.
    let two = thing("v2", json!({"host": "h", "port": "2"}));
    let refused = apply(&c, v2, "y", &two).await;
    assert_eq!(refused.code, 409, "{}", refused.value);
    assert_eq!(refused.message(), "Apply failed with 1 conflict: conflict with \"x\": .hostPort");
    // The same value is none.
    let same = apply(&c, v2, "z", &thing("v2", json!({"host": "h", "port": "1"}))).await;
    assert_eq!(same.code, 200, "{}", same.value);
    assert_eq!(owned(&same.value, "x"), own("example.com/v1", json!({"f:hostPort": {}})));
    assert_eq!(owned(&same.value, "z"), own("example.com/v2", json!({"f:host": {}, "f:port": {}})));
    // By force x loses it, and z the half that has changed.
    let forced = apply(&c, &format!("{v2}?force=true"), "y", &two).await;
    assert_eq!((forced.code, &forced.value["port"]), (200, &json!("2")), "{}", forced.value);
    assert!(owned(&forced.value, "x").is_empty(), "{}", forced.value);
    assert_eq!(owned(&forced.value, "z"), own("example.com/v2", json!({"f:host": {}})));
    assert_eq!(owned(&forced.value, "y"), own("example.com/v2", json!({"f:host": {}, "f:port": {}})));
    // What one no longer states stays while another owns it in the other version, and goes when nobody does.
    assert_eq!(apply(&c, v1, "x", &thing("v1", json!({"hostPort": "h:2", "more": "m"}))).await.code, 200);
    for (manager, path, version) in [("z", v2, "v2"), ("y", v2, "v2")] {
        let left = apply(&c, path, manager, &thing(version, json!({}))).await;
        assert_eq!((&left.value["host"], &left.value["port"]), (&json!("h"), &json!("2")), "{}", left.value);
        assert!(owned(&left.value, manager).is_empty());
    }
    let gone = apply(&c, v1, "x", &thing("v1", json!({"more": "m"}))).await;
    assert!(gone.value.get("hostPort").is_none(), "{}", gone.value);
    assert_eq!(gone.value["more"], "m");
    // Who changes versions takes along what it owns.
    assert_eq!(apply(&c, v1, "x", &thing("v1", json!({"hostPort": "h:3", "more": "m"}))).await.code, 200);
    let moved = apply(&c, v2, "x", &thing("v2", json!({"host": "h", "port": "3"}))).await;
    assert_eq!(moved.code, 200, "{}", moved.value);
    assert_eq!(owned(&moved.value, "x"), own("example.com/v2", json!({"f:host": {}, "f:port": {}})));
    assert!(c.get(v1).await.value.get("more").is_none(), "what it stated in v1 alone is gone");
}

#[tokio::test]
async fn updates_take_fields_from_managers_of_other_versions() {
    let c = Cluster::start().await;
    let hook = Hook::start(&c.pki, addresses_converted).await;
    let conversion = json!({"strategy": "Webhook",
        "webhook": {"clientConfig": hook.config("convert"), "conversionReviewVersions": ["v1"]}});
    let text = json!({"type": "string"});
    serve(&c, crd("things", conversion, [json!({"hostPort": text}), json!({"host": text, "port": text})]))
        .await;
    let (v1, v2) = ("/apis/example.com/v1/things/a", "/apis/example.com/v2/things/a");
    assert_eq!(apply(&c, v1, "x", &thing("v1", json!({"hostPort": "h:1"}))).await.code, 201);
    let patched = c.patch(v2, "merge-patch+json", json!({"port": "5"})).await;
    assert_eq!(patched.code, 200, "{}", patched.value);
    assert!(owned(&patched.value, "x").is_empty(), "{}", patched.value);
    assert_eq!(owned(&patched.value, "test"), own("example.com/v2", json!({"f:port": {}})));
    let refused = apply(&c, v1, "x", &thing("v1", json!({"hostPort": "h:1"}))).await;
    assert_eq!(refused.code, 409, "{}", refused.value);
    assert!(
        refused
            .message()
            .starts_with("Apply failed with 1 conflict: conflict with \"test\" using example.com/v2 at ")
            && refused.message().ends_with(": .port"),
        "{}",
        refused.message()
    );
    // Who updates in two versions has an entry for each.
    let labelled = c.patch(v1, "merge-patch+json", json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(labelled.code, 200, "{}", labelled.value);
    assert_eq!(owned(&labelled.value, "test").len(), 2, "one for each version: {}", labelled.value);
    // A webhook that fails takes nobody's ownership, and does not stop who can do without it.
    drop(hook);
    let changed = c.patch(v1, "merge-patch+json", json!({"hostPort": "h:7"})).await;
    assert_eq!(changed.code, 200, "{}", changed.value);
    let kept = owned(&changed.value, "test");
    assert!(kept.contains(&("example.com/v2".into(), json!({"f:port": {}}))), "{kept:?}");
}

#[tokio::test]
async fn without_a_webhook_fields_of_one_name_are_one_field() {
    let c = Cluster::start().await;
    let number = json!({"type": "integer"});
    let schemas = [json!({"a": number, "c": number}), json!({"a": number, "b": number})];
    serve(&c, crd("things", json!({"strategy": "None"}), schemas)).await;
    let (v1, v2) = ("/apis/example.com/v1/things/a", "/apis/example.com/v2/things/a");
    assert_eq!(apply(&c, v1, "x", &thing("v1", json!({"a": 1, "c": 1}))).await.code, 201);
    let refused = apply(&c, v2, "y", &thing("v2", json!({"a": 2}))).await;
    assert_eq!(refused.code, 409, "{}", refused.value);
    let forced = apply(&c, &format!("{v2}?force=true"), "y", &thing("v2", json!({"a": 2, "b": 2}))).await;
    assert_eq!(forced.code, 200, "{}", forced.value);
    assert_eq!(owned(&forced.value, "x"), own("example.com/v1", json!({"f:c": {}})));
    assert_eq!(apply(&c, v1, "x", &thing("v1", json!({"a": 2, "c": 1}))).await.code, 200);
    let less = apply(&c, v2, "y", &thing("v2", json!({}))).await;
    assert_eq!(
        (&less.value["a"], less.value.get("b")),
        (&json!(2), None),
        "x still owns one: {}",
        less.value
    );
    // A version that is no more takes its managers along.
    let one = format!("{CRDS}/things.example.com");
    let storage = json!([{"op": "replace", "path": "/spec/versions/0/storage", "value": false},
        {"op": "replace", "path": "/spec/versions/1/storage", "value": true}]);
    assert_eq!(c.patch(&one, "json-patch+json", storage).await.code, 200);
    until(&c, v2, 200).await;
    let none = json!({"status": {"storedVersions": ["v2"]}});
    assert_eq!(c.patch(&format!("{one}/status"), "merge-patch+json", none).await.code, 200);
    let dropped =
        c.patch(&one, "json-patch+json", json!([{"op": "remove", "path": "/spec/versions/0"}])).await;
    assert_eq!(dropped.code, 200, "{}", dropped.value);
    until(&c, v1, 404).await;
    let after = apply(&c, v2, "y", &thing("v2", json!({"b": 3}))).await;
    assert_eq!(after.code, 200, "{}", after.value);
    assert!(owned(&after.value, "x").is_empty(), "{}", after.value);
    assert_eq!(owned(&after.value, "y"), own("example.com/v2", json!({"f:b": {}})));
}

#[tokio::test]
async fn built_in_kinds_own_by_the_names_of_the_version_spoken() {
    let c = Cluster::start().await;
    let at = |v: &str| format!("/apis/autoscaling/{v}/namespaces/default/horizontalpodautoscalers/a");
    let scaler = |v: &str, spec: Value| {
        let mut object = json!({"apiVersion": format!("autoscaling/{v}"), "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "a"}, "spec": {"maxReplicas": 3,
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
        api::patch::merge_patch(&mut object["spec"], &spec);
        object
    };
    let cpu = |n: i64| {
        json!({"metrics": [{"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": n}}}]})
    };
    let made = apply(&c, &at("v1"), "x", &scaler("v1", json!({"targetCPUUtilizationPercentage": 50}))).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let fields = owned(&c.get(&at("v2")).await.value, "x");
    assert_eq!(fields[0].0, "autoscaling/v1");
    assert!(fields[0].1["f:spec"].get("f:targetCPUUtilizationPercentage").is_some(), "{fields:?}");
    let refused = apply(&c, &at("v2"), "y", &scaler("v2", cpu(60))).await;
    assert_eq!(refused.code, 409, "{}", refused.value);
    assert!(refused.message().ends_with(": .spec.targetCPUUtilizationPercentage"), "{}", refused.message());
    assert_eq!(apply(&c, &at("v2"), "y", &scaler("v2", cpu(50))).await.code, 200);
    let forced = apply(&c, &format!("{}?force=true", at("v2")), "y", &scaler("v2", cpu(60))).await;
    assert_eq!(forced.code, 200, "{}", forced.value);
    let fields = owned(&forced.value, "x");
    assert!(fields[0].1["f:spec"].get("f:targetCPUUtilizationPercentage").is_none(), "{fields:?}");
    assert!(fields[0].1["f:spec"].get("f:maxReplicas").is_some(), "{fields:?}");
    // An old Ingress, changed in the old version.
    let old = json!({"apiVersion": "networking.k8s.io/v1beta1", "kind": "Ingress", "metadata": {"name": "i"},
        "spec": {"backend": {"serviceName": "s", "servicePort": 80}}});
    let path = |group: &str, v: &str| format!("/apis/{group}/{v}/namespaces/default/ingresses");
    let made = c.post(&path("networking.k8s.io", "v1beta1"), old).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let read = c.get(&format!("{}/i", path("networking.k8s.io", "v1"))).await.value;
    assert_eq!(
        owned(&read, "test"),
        own(
            "networking.k8s.io/v1beta1",
            json!({"f:spec": {"f:backend": {"f:serviceName": {}, "f:servicePort": {}}}})
        )
    );
    let new = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "i"},
        "spec": {"defaultBackend": {"service": {"name": "other", "port": {"number": 80}}}}});
    let one = format!("{}/i", path("networking.k8s.io", "v1"));
    let refused = apply(&c, &one, "z", &new).await;
    assert_eq!(refused.code, 409, "{}", refused.value);
    assert!(
        refused.message().contains("conflict with \"test\" using networking.k8s.io/v1beta1 at")
            && refused.message().ends_with(": .spec.backend.serviceName"),
        "{}",
        refused.message()
    );
    // A change of the annotations alone, in a third version, takes nothing.
    let note = json!({"metadata": {"annotations": {"n": "1"}}});
    let third = format!("{}/i", path("extensions", "v1beta1"));
    let noted = c.patch(&third, "merge-patch+json", note).await;
    assert_eq!(noted.code, 200, "{}", noted.value);
    let all = owned(&noted.value, "test");
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(
        all.iter().any(|(v, f)| v == "networking.k8s.io/v1beta1"
            && f["f:spec"]["f:backend"].get("f:servicePort").is_some())
    );
}

#[tokio::test]
async fn replicas_have_an_owner() {
    let c = Cluster::start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "a", "image": "b"}]}}}});
    assert_eq!(apply(&c, &format!("{deployments}/d"), "x", &deployment).await.code, 201);
    let scale = |n: i64| json!({"apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "d", "namespace": "default"}, "spec": {"replicas": n}});
    let path = format!("{deployments}/d/scale");
    let refused = apply(&c, &path, "y", &scale(3)).await;
    assert_eq!(
        (refused.code, refused.message()),
        (409, "Apply failed with 1 conflict: conflict with \"x\": .spec.replicas")
    );
    let negative = apply(&c, &format!("{path}?force=true"), "y", &scale(-1)).await;
    assert_eq!(negative.code, 422, "{}", negative.value);
    let forced = apply(&c, &format!("{path}?force=true"), "y", &scale(3)).await;
    assert_eq!((forced.code, &forced.value["spec"]["replicas"]), (200, &json!(3)), "{}", forced.value);
    let none = apply(&c, &path, "y", &scale(0)).await;
    let replicas =
        |answer: &Answer| answer.value["spec"].get("replicas").and_then(Value::as_i64).unwrap_or(0);
    assert_eq!((none.code, replicas(&none)), (200, 0), "{}", none.value);
    assert_eq!(c.get(&format!("{deployments}/d")).await.value["spec"]["replicas"], 0);
    assert_eq!(apply(&c, &path, "y", &scale(3)).await.code, 200);
    let read = c.get(&format!("{deployments}/d")).await.value;
    assert_eq!(owned(&read, "y"), own("apps/v1", json!({"f:spec": {"f:replicas": {}}})));
    let entry =
        read["metadata"]["managedFields"].as_array().unwrap().iter().find(|e| e["manager"] == "y").unwrap();
    assert_eq!((&entry["operation"], &entry["subresource"]), (&json!("Apply"), &json!("scale")));
    let mut less = deployment.clone();
    less["spec"].as_object_mut().unwrap().remove("replicas");
    let after = apply(&c, &format!("{deployments}/d"), "x", &less).await;
    assert_eq!(after.value["spec"]["replicas"], 3, "they are y's now: {}", after.value);
}

/// A client in Go writes neither false nor empty lists of fields that are no pointers, others do: taking turns, they change
/// nothing.
#[tokio::test]
async fn what_one_client_leaves_out_is_no_change() {
    let c = Cluster::start().await;
    let containers = |more: bool| match more {
        true => {
            json!([{"name": "c", "image": "i", "stdin": false, "env": [], "ports": [{"containerPort": 80, "hostPort": 0}]}])
        }
        false => json!([{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]),
    };
    let template = |more: bool| {
        let mut template =
            json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers(more)}});
        if more {
            template["metadata"]["annotations"] = json!({});
            template["spec"]["hostNetwork"] = json!(false);
            template["spec"]["nodeSelector"] = json!({});
        }
        template
    };
    let all = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template(true)}});
    let made = c.post(all, deployment).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let path = format!("{all}/d");
    for more in [false, true] {
        let mut now = c.get(&path).await.value;
        for (field, value) in template(more)["spec"].as_object().unwrap() {
            now["spec"]["template"]["spec"][field] = value.clone();
        }
        let put = c.put(&path, now).await;
        assert_eq!((put.code, &put.value["metadata"]["generation"]), (200, &json!(1)), "{}", put.value);
    }
    // Neither are they in what nobody may change.
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    c.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod =
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": template(true)["spec"]});
    let mut pod = c.post(pods, pod).await.value;
    pod["spec"]["hostNetwork"] = json!(false);
    pod["spec"]["containers"][0]["stdinOnce"] = json!(false);
    pod["metadata"]["labels"] = json!({"new": "yes"});
    let put = c.put(&format!("{pods}/p"), pod).await;
    assert_eq!(put.code, 200, "{}", put.value);
    // Whoever applies such a field owns it, and finds it as it is.
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template(true)}});
    let applied = apply(&c, &path, "m", &config).await;
    assert_eq!(
        (applied.code, &applied.value["metadata"]["generation"]),
        (200, &json!(1)),
        "{}",
        applied.value
    );
    let again = apply(&c, &path, "m", &config).await;
    assert_eq!(again.value["metadata"]["resourceVersion"], applied.value["metadata"]["resourceVersion"]);
    let managed = applied.value["metadata"]["managedFields"].to_string();
    assert!(managed.contains("f:hostNetwork"), "{managed}");
}

/// All keys of sets of fields, wherever they are.
fn names(fields: &Value, out: &mut Vec<String>) {
    for (key, inner) in fields.as_object().into_iter().flatten() {
        out.push(key.clone());
        names(inner, out);
    }
}

#[tokio::test]
async fn what_the_server_adds_is_nobody_s() {
    let c = Cluster::start().await;
    common::account(&c).await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "a", "image": "b"}]}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
    for (resource, object, set, not) in [
        (
            "pods",
            &pod,
            "f:restartPolicy",
            vec!["f:tolerations", "f:priority", "f:volumes", "f:volumeMounts", "f:serviceAccountName"],
        ),
        (
            "services",
            &service,
            "f:sessionAffinity",
            vec!["f:clusterIP", "f:clusterIPs", "f:nodePort", "f:ipFamilies"],
        ),
    ] {
        let path = format!("/api/v1/namespaces/default/{resource}");
        let made = c.post(&format!("{path}?fieldManager=m"), object.clone()).await;
        assert_eq!(made.code, 201, "{}", made.value);
        let mut fields = Vec::new();
        names(&owned(&made.value, "m")[0].1, &mut fields);
        assert!(fields.iter().any(|f| f == set), "the schema's defaults are the client's: {fields:?}");
        let added: Vec<&String> = fields.iter().filter(|f| not.contains(&f.as_str())).collect();
        assert!(added.is_empty(), "{resource}: {added:?}");
    }
    // So another manager may state what was chosen.
    let chosen =
        c.get("/api/v1/namespaces/default/services/s").await.value["spec"]["ports"][0]["nodePort"].clone();
    let wanted = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80, "protocol": "TCP", "nodePort": chosen.as_i64().unwrap() + 1}]}});
    let applied = apply(&c, "/api/v1/namespaces/default/services/s", "other", &wanted).await;
    assert_eq!(applied.code, 200, "{}", applied.value);
}

#[tokio::test]
async fn who_writes_a_status_takes_nothing_that_it_cannot_change() {
    let c = Cluster::start().await;
    let path = "/apis/apps/v1/namespaces/default/deployments/d";
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
    let config = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "labels": {"mine": "1"}},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let made = apply(&c, path, "x", &config).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let mine = owned(&made.value, "x");
    assert_eq!(mine[0].1["f:metadata"]["f:labels"]["f:mine"], json!({}));
    let status = format!("{path}/status?fieldManager=y");
    for labels in [json!({"mine": "2"}), json!({"mine": null})] {
        let patch =
            json!({"metadata": {"labels": labels}, "spec": {"replicas": 9}, "status": {"replicas": 1}});
        let answer = c.patch(&status, "merge-patch+json", patch).await;
        assert_eq!((answer.code, &answer.value["metadata"]["labels"]["mine"]), (200, &json!("1")));
        assert_eq!(owned(&answer.value, "x"), mine, "{}", answer.value);
        assert_eq!(owned(&answer.value, "y")[0].1, json!({"f:status": {"f:replicas": {}}}));
    }
    let before = c.get(path).await.value;
    let again = c.patch(&status, "merge-patch+json", json!({"metadata": {"labels": {"mine": "3"}}})).await;
    assert_eq!(again.value, before, "what changes nothing is not written");
}

#[tokio::test]
async fn what_nobody_keeps_count_of_is_not_counted_before_it_is_applied() {
    let c = Cluster::start().await;
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = |data: Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    assert_eq!(c.post(maps, map(json!({"x": "1"}))).await.code, 201);
    let path = format!("{maps}/a");
    for patch in [json!({"metadata": {"managedFields": [{}]}}), json!({"data": {"x": "2"}})] {
        let changed = c.patch(&path, "merge-patch+json", patch).await;
        assert_eq!((changed.code, changed.value["metadata"].get("managedFields")), (200, None));
    }
    let refused = apply(&c, &path, "m", &map(json!({"x": "3"}))).await;
    assert_eq!(refused.code, 409, "{}", refused.value);
    assert!(refused.message().contains("before-first-apply"), "{}", refused.message());
    let applied = apply(&c, &path, "m", &map(json!({"x": "2"}))).await;
    assert_eq!(applied.code, 200, "{}", applied.value);
}
