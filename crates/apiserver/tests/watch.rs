//! Watches as a client sees them.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::time::Duration;

use api::Value;
use bytes::Bytes;
use common::Cluster;
use futures::StreamExt;
use http::Request;
use serde_json::json;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// The lines of a watch, decoded, as they come.
struct Lines {
    body: http_body_util::BodyStream<client::BoxBody>,
    rest: Vec<u8>,
}

impl Lines {
    async fn open(c: &Cluster, query: &str) -> Self {
        Self::of(c, MAPS, query).await
    }

    async fn of(c: &Cluster, path: &str, query: &str) -> Self {
        let request = Request::get(format!("{path}?watch=true&{query}")).body(Bytes::new()).unwrap();
        let response = c.admin.open(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Self { body: http_body_util::BodyStream::new(response.into_body()), rest: Vec::new() }
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(Duration::from_secs(10), self.body.next()).await.unwrap()?;
            self.rest.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    async fn brief(&mut self) -> String {
        match self.next().await {
            Some(e) => format!(
                "{} {}",
                e["type"].as_str().unwrap(),
                e["object"]["metadata"]["name"].as_str().unwrap_or("-")
            ),
            None => "end".into(),
        }
    }
}

fn map(name: &str, label: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"l": label}}})
}

#[tokio::test]
async fn from_now_and_from_a_version() {
    let c = Cluster::start().await;
    let first = c.post(MAPS, map("a", "1")).await.value;
    let mut all = Lines::open(&c, "").await;
    assert_eq!(all.brief().await, "ADDED a");
    c.post(MAPS, map("b", "1")).await;
    c.patch(&format!("{MAPS}/b"), "merge-patch+json", json!({"data": {"x": "1"}})).await;
    c.delete(&format!("{MAPS}/b")).await;
    assert_eq!(all.brief().await, "ADDED b");
    assert_eq!(all.brief().await, "MODIFIED b");
    let gone = all.next().await.unwrap();
    assert_eq!((gone["type"].as_str(), gone["object"]["data"]["x"].as_str()), (Some("DELETED"), Some("1")));
    let from = first["metadata"]["resourceVersion"].as_str().unwrap();
    let mut later = Lines::open(&c, &format!("resourceVersion={from}")).await;
    assert_eq!(later.brief().await, "ADDED b");
    assert_eq!(later.brief().await, "MODIFIED b");
    assert_eq!(later.brief().await, "DELETED b");
}

#[tokio::test]
async fn objects_enter_and_leave_a_selection() {
    let c = Cluster::start().await;
    let mut ones = Lines::open(&c, "labelSelector=l%3D1").await;
    c.post(MAPS, map("a", "2")).await;
    c.patch(&format!("{MAPS}/a"), "merge-patch+json", json!({"metadata": {"labels": {"l": "1"}}})).await;
    assert_eq!(ones.brief().await, "ADDED a");
    let left =
        c.patch(&format!("{MAPS}/a"), "merge-patch+json", json!({"metadata": {"labels": {"l": "2"}}})).await;
    let event = ones.next().await.unwrap();
    assert_eq!(event["type"], "DELETED");
    assert_eq!(event["object"]["metadata"]["labels"]["l"], "1", "as it was when it was last seen");
    assert_eq!(event["object"]["metadata"]["resourceVersion"], left.value["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn a_name_is_one_of_the_terms_of_a_selector() {
    let c = Cluster::start().await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"containers": [{"name": "a", "image": "b"}]}})
    };
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    c.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    for name in ["a", "b"] {
        assert_eq!(c.post(pods, pod(name)).await.code, 201);
    }
    let mut lines = Lines::of(&c, pods, "fieldSelector=metadata.name%3Da,status.phase%3DRunning").await;
    for (name, phase) in [("b", "Running"), ("a", "Running"), ("a", "Succeeded")] {
        let status = json!({"status": {"phase": phase}});
        assert_eq!(c.patch(&format!("{pods}/{name}/status"), "merge-patch+json", status).await.code, 200);
    }
    assert_eq!(lines.brief().await, "ADDED a", "the pod was pending before");
    assert_eq!(lines.brief().await, "DELETED a");
}

#[tokio::test]
async fn too_old_a_version_is_said_in_the_stream() {
    let c = Cluster::start().await;
    c.post(MAPS, map("a", "1")).await;
    let mut lines = Lines::open(&c, "resourceVersion=1").await;
    let event = lines.next().await.unwrap();
    // The ring of this kind may reach back to the server's start, but never before it.
    if event["type"] == "ERROR" {
        assert_eq!(event["object"]["code"], 410);
        assert!(lines.next().await.is_none());
    } else {
        assert_eq!(event["object"]["metadata"]["name"], "a");
    }
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let c = Cluster::start().await;
    c.post(MAPS, map("a", "1")).await;
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut lines = Lines::open(&c, query).await;
    assert_eq!(lines.brief().await, "ADDED a");
    let end = lines.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    c.post(MAPS, map("b", "1")).await;
    assert_eq!(lines.brief().await, "ADDED b");
}

#[tokio::test]
async fn many_initial_events_all_come() {
    let c = Cluster::start().await;
    for i in 0..150 {
        c.post(MAPS, map(&format!("m{i:03}"), "1")).await;
    }
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut lines = Lines::open(&c, query).await;
    c.post(MAPS, map("later", "1")).await;
    for i in 0..150 {
        assert_eq!(lines.brief().await, format!("ADDED m{i:03}"));
    }
    assert_eq!(lines.next().await.unwrap()["type"], "BOOKMARK");
    assert_eq!(lines.brief().await, "ADDED later");
}

#[tokio::test]
async fn a_name_among_other_fields_does_not_hide_them() {
    let c = Cluster::start().await;
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    c.post("/api/v1/namespaces/default/serviceaccounts", account).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"automountServiceAccountToken": false, "containers": [{"name": "c", "image": "i"}]}});
    assert_eq!(c.post(pods, pod).await.code, 201);
    let fields = "fieldSelector=metadata.name%3Dp%2Cstatus.phase%3DRunning";
    let request = Request::get(format!("{pods}?watch=true&{fields}")).body(Bytes::new()).unwrap();
    let response = c.admin.open(request).await.unwrap();
    let mut running = Lines { body: http_body_util::BodyStream::new(response.into_body()), rest: Vec::new() };
    let status = json!({"status": {"phase": "Running"}});
    c.patch(&format!("{pods}/p/status"), "merge-patch+json", status).await;
    let event = running.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["status"]["phase"]), (&json!("ADDED"), &json!("Running")));
}

#[tokio::test]
async fn ends_when_asked_to() {
    let c = Cluster::start().await;
    let mut lines = Lines::open(&c, "timeoutSeconds=1&allowWatchBookmarks=true").await;
    let last = lines.next().await;
    assert!(last.is_none_or(|e| e["type"] == "BOOKMARK"));
}

#[tokio::test]
async fn every_watcher_sees_every_change() {
    let c = Cluster::start().await;
    let mut watchers = Vec::new();
    for _ in 0..20 {
        watchers.push(Lines::open(&c, "").await);
    }
    for i in 0..50 {
        c.post(MAPS, map(&format!("m{i:02}"), "1")).await;
    }
    for w in &mut watchers {
        for i in 0..50 {
            assert_eq!(w.brief().await, format!("ADDED m{i:02}"));
        }
    }
}

#[tokio::test]
async fn a_watch_may_be_asked_for_for_ever() {
    let c = Cluster::start().await;
    c.post(MAPS, map("a", "1")).await;
    let mut lines = Lines::open(&c, "timeoutSeconds=9223372036854775807&allowWatchBookmarks=true").await;
    assert_eq!(lines.brief().await, "ADDED a");
}

/// The events of a watch to its end: how each is framed, and its bytes.
async fn whole_watch(c: &Cluster, path: &str, accept: &str) -> (String, Vec<Vec<u8>>) {
    let query = "watch=true&timeoutSeconds=1&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let request = Request::get(format!("{path}?{query}")).header("accept", accept);
    let response = c.admin.open(request.body(Bytes::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 200, "{path} {accept}");
    let media = response.headers()["content-type"].to_str().unwrap().to_owned();
    let mut body = http_body_util::BodyStream::new(response.into_body());
    let mut bytes = Vec::new();
    while let Some(frame) = tokio::time::timeout(Duration::from_secs(30), body.next()).await.unwrap() {
        let frame = frame.unwrap_or_else(|e| panic!("{path} {accept} is broken off: {e}"));
        bytes.extend_from_slice(&frame.into_data().unwrap());
    }
    let mut events = Vec::new();
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let length = match media.contains("protobuf") {
            true => 4 + u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize,
            false => 1 + rest.iter().position(|b| *b == b'\n').unwrap(),
        };
        let (event, more) = rest.split_at(length);
        events.push(event.to_vec());
        rest = more;
    }
    (media, events)
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

const PROTO: &str = "application/vnd.kubernetes.protobuf";

/// As stock controllers watch: a stream that is agreed on ends when its time is over, and is never broken off, whatever the kind.
#[tokio::test]
async fn each_kind_is_watched_in_each_form_to_the_end() {
    let c = Cluster::start_as(store::memory(), |o| o.release = "1.20".parse().unwrap()).await;
    let any = json!({"rule": "RunAsAny"});
    let policy = json!({"apiVersion": "policy/v1beta1", "kind": "PodSecurityPolicy", "metadata": {"name": "free"},
        "spec": {"seLinux": any, "supplementalGroups": any, "runAsUser": any, "fsGroup": any}});
    let made = c.post("/apis/policy/v1beta1/podsecuritypolicies", policy).await;
    assert_eq!(made.code, 201, "{}", made.value);
    let metadata = ["v1", "v1beta1"]
        .map(|v| format!("{PROTO};as=PartialObjectMetadata;g=meta.k8s.io;v={v},application/json"));
    let forms = [format!("{PROTO}, */*"), format!("{PROTO},application/json"), "application/json".into()];
    let mut watches = Vec::new();
    for kind in api::kinds::all() {
        for version in kind.versions.iter().filter(|v| v.served && v.has_verb("watch")) {
            let path = version.gvr(kind).path(None);
            if c.get(&path).await.code == 404 {
                continue; // not of this release
            }
            let protobuf = version.schema().type_id().is_some_and(api::schema::TypeId::has_proto);
            for accept in forms.iter().chain(&metadata) {
                let expected = accept.contains("as=") || protobuf && accept.starts_with(PROTO);
                watches.push((path.clone(), accept, expected));
            }
        }
    }
    assert!(watches.len() > 300, "{}", watches.len());
    let done = watches.iter().map(async |(path, accept, expected)| {
        let (media, events) = whole_watch(&c, path, accept).await;
        assert_eq!(media.contains("protobuf"), *expected, "{path} {accept}: {media}");
        let last = events.last().unwrap_or_else(|| panic!("{path} {accept}: no bookmark"));
        assert!(contains(last, "BOOKMARK"), "{path} {accept}");
        if path.ends_with("/podsecuritypolicies") {
            assert!(contains(&events[0], "ADDED") && contains(&events[0], "free"), "{accept}");
        }
    });
    futures::future::join_all(done).await;
}
