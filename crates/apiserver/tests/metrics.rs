//! `/metrics` over the socket, in the form that Prometheus reads, with the names that dashboards ask for.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::sync::Arc;

use client::Transport;
use common::{Cluster, call};
use futures::StreamExt;
use http::Method;
use serde_json::json;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn scrape(c: &Cluster) -> String {
    let answer = c.get("/metrics").await;
    assert_eq!(
        (answer.code, answer.header("content-type")),
        (200, "text/plain; version=0.0.4; charset=utf-8")
    );
    String::from_utf8(answer.response.into_body().to_vec()).unwrap()
}

/// The value of the one line that has this name and all these labels.
fn value(text: &str, name: &str, labels: &[&str]) -> f64 {
    let found: Vec<&str> = text
        .lines()
        .filter(|l| l.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|l| labels.iter().all(|label| l.contains(label)))
        .collect();
    let [one] = found[..] else { panic!("{name} {labels:?}: {found:?}") };
    one.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn requests_are_counted_under_upstream_s_names() {
    let c = Cluster::start().await;
    // A cluster starts with some of its own.
    let stored = |text: &str| value(text, "apiserver_storage_objects", &["resource=\"configmaps\""]);
    let created = |text: &str| {
        let labels = ["operation=\"create\"", "group=\"\"", "resource=\"configmaps\""];
        value(text, "etcd_request_duration_seconds_count", &labels)
    };
    let fresh = scrape(&c).await;
    let before = (stored(&fresh), created(&fresh));
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    assert_eq!(c.post(MAPS, map.clone()).await.code, 201);
    assert_eq!(c.post(MAPS, map).await.code, 409);
    assert_eq!(c.get(MAPS).await.code, 200);
    let apply = [("content-type", "application/apply-patch+yaml")];
    let config = r#"{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}}"#;
    let path = format!("{MAPS}/b?fieldManager=m&dryRun=All");
    assert_eq!(call(c.admin.transport(), Method::PATCH, &path, &apply, config).await.code, 201);
    let request = http::Request::get(format!("{MAPS}?watch=true")).body(Default::default()).unwrap();
    let mut watch =
        http_body_util::BodyStream::new(c.admin.transport().open(request).await.unwrap().into_body());
    watch.next().await.unwrap().unwrap();
    let text = scrape(&c).await;
    let maps = "resource=\"configmaps\"";
    for (verb, code, scope, dry_run) in [
        ("POST", 201, "namespace", ""),
        ("POST", 409, "namespace", ""),
        ("LIST", 200, "namespace", ""),
        ("APPLY", 201, "resource", "All"),
    ] {
        let labels = [
            format!("verb=\"{verb}\""),
            format!("code=\"{code}\""),
            format!("scope=\"{scope}\""),
            format!("dry_run=\"{dry_run}\""),
        ];
        let labels: Vec<&str> =
            labels.iter().map(String::as_str).chain([maps, "version=\"v1\"", "group=\"\""]).collect();
        assert_eq!(value(&text, "apiserver_request_total", &labels), 1.0, "{labels:?}");
    }
    let post = ["verb=\"POST\"", maps];
    assert_eq!(value(&text, "apiserver_request_duration_seconds_count", &post), 2.0);
    assert_eq!(
        value(&text, "apiserver_request_duration_seconds_bucket", &["verb=\"POST\"", maps, "le=\"+Inf\""]),
        2.0
    );
    assert_eq!((stored(&text), created(&text)), (before.0 + 1.0, before.1 + 1.0));
    assert_eq!(value(&text, "apiserver_resource_objects", &["group=\"\"", maps]), before.0 + 1.0);
    // Dry runs are none of the time that is promised; sizes are those of what is read.
    assert_eq!(value(&text, "apiserver_request_sli_duration_seconds_count", &post), 2.0);
    let apply = ["verb=\"APPLY\"", maps];
    assert!(!text.lines().any(|l| l.contains("_sli_") && apply.iter().all(|label| l.contains(label))));
    let list = ["verb=\"LIST\"", maps, "scope=\"namespace\""];
    assert_eq!(value(&text, "apiserver_response_sizes_count", &list), 1.0);
    assert!(value(&text, "apiserver_response_sizes_sum", &list) > 100.0);
    assert!(!text.lines().any(|l| l.starts_with("apiserver_response_sizes") && l.contains("POST")));
    assert!(value(&text, "apiserver_storage_size_bytes", &["storage_cluster_id=\"etcd-0\""]) > 1000.0);
    let lifecycle = |rejected: &str| {
        let labels = ["name=\"NamespaceLifecycle\"", "operation=\"CREATE\"", "type=\"admit\"", rejected];
        value(&text, "apiserver_admission_controller_admission_duration_seconds_count", &labels)
    };
    assert!(lifecycle("rejected=\"false\"") >= 2.0);
    let step = ["operation=\"CREATE\"", "type=\"validate\"", "rejected=\"false\""];
    assert!(value(&text, "apiserver_admission_step_admission_duration_seconds_count", &step) >= 2.0);
    assert!(value(&text, "authenticated_user_requests", &["username=\"admin\""]) >= 5.0);
    assert!(value(&text, "authentication_attempts", &["result=\"success\""]) >= 5.0);
    assert!(value(&text, "authorization_attempts_total", &["result=\"allowed\""]) >= 5.0);
    assert_eq!(value(&text, "aggregator_unavailable_apiservice", &["name=\"v1.apps\""]), 0.0);
    assert_eq!(c.get("/apis/policy/v1beta1/poddisruptionbudgets").await.code, 200);
    let deprecated = ["group=\"policy\"", "version=\"v1beta1\"", "removed_release=\"1.25\""];
    let budgets = "resource=\"poddisruptionbudgets\"";
    let deprecated: Vec<&str> = deprecated.into_iter().chain([budgets, "subresource=\"\""]).collect();
    assert_eq!(value(&scrape(&c).await, "apiserver_requested_deprecated_apis", &deprecated), 1.0);
    let watching = ["verb=\"WATCH\"", maps];
    assert_eq!(value(&text, "apiserver_longrunning_requests", &watching), 1.0);
    assert_eq!(value(&text, "apiserver_watch_events_total", &[maps]), 1.0);
    let small = [maps, "group=\"\"", "version=\"v1\"", "le=\"1024\""];
    assert_eq!(value(&text, "apiserver_watch_events_sizes_bucket", &small), 1.0);
    assert_eq!(value(&text, "apiserver_watch_events_sizes_count", &[maps]), 1.0);
    assert_eq!(value(&text, "apiserver_tls_handshake_errors_total", &[]), 0.0);
    assert_eq!(value(&text, "apiserver_current_inflight_requests", &["request_kind=\"mutating\""]), 0.0);
    assert_eq!(
        value(&text, "apiserver_current_inflight_requests", &["request_kind=\"readOnly\""]),
        1.0,
        "this one"
    );
    assert!(
        value(
            &text,
            "rest_client_requests_total",
            &["host=\"in-process\"", "code=\"409\"", "method=\"POST\""]
        ) >= 1.0
    );
    assert!(value(&text, "process_resident_memory_bytes", &[]) > 1e6);
    // Every family says what it is, and every line is of a family.
    for family in [
        "rest_client_request_duration_seconds",
        "workqueue_adds_total",
        "workqueue_depth",
        "workqueue_queue_duration_seconds",
        "workqueue_work_duration_seconds",
        "workqueue_retries_total",
        "process_cpu_seconds_total",
        "process_start_time_seconds",
        "kubernetes_build_info",
    ] {
        assert!(text.contains(&format!("# TYPE {family} ")), "{family}");
    }
    let families: Vec<&str> =
        text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name);
        assert!(families.contains(&name) || families.contains(&base), "{line}");
    }
    // A watch that ends runs no more.
    drop(watch);
    assert_eq!(value(&scrape(&c).await, "apiserver_longrunning_requests", &watching), 0.0);
}

#[tokio::test]
async fn lists_by_watch_and_what_writes_ask_for_are_counted() {
    let c = Cluster::start().await;
    let maps = "resource=\"configmaps\"";
    let received = |text: &str| value(text, "apiserver_storage_events_received_total", &[maps, "group=\"\""]);
    let map = |name: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    assert_eq!(c.post(MAPS, map("a")).await.code, 201);
    let before = received(&scrape(&c).await);
    for (validation, code) in [("Strict", 201), ("Warn", 409), ("Warn", 409), ("Wrong", 422)] {
        assert_eq!(c.post(&format!("{MAPS}?fieldValidation={validation}"), map("b")).await.code, code);
    }
    assert_eq!(c.get(MAPS).await.code, 200);
    for query in ["", "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"] {
        let path = format!("{MAPS}?watch=true&timeoutSeconds=1{query}");
        let request = http::Request::get(path).body(Default::default()).unwrap();
        let body = c.admin.transport().open(request).await.unwrap().into_body();
        http_body_util::BodyStream::new(body).for_each(|frame| async { drop(frame.unwrap()) }).await;
    }
    let text = scrape(&c).await;
    let of_list = [maps, "scope=\"namespace\"", "version=\"v1\"", "group=\"\""];
    assert_eq!(value(&text, "apiserver_watch_list_duration_seconds_count", &of_list), 1.0);
    for (validation, n) in [("Strict", 1.0), ("Warn", 2.0), ("invalid", 1.0)] {
        let label = format!("field_validation=\"{validation}\"");
        assert_eq!(value(&text, "field_validation_request_duration_seconds_count", &[&label]), n, "{label}");
    }
    assert_eq!(received(&text), before + 1.0);
}

#[tokio::test]
async fn invented_paths_take_no_memory() {
    let c = Cluster::start().await;
    let nobody: Arc<dyn Transport> = c.nobody().await;
    let before = scrape(&c).await.lines().count();
    for i in 0..50 {
        let code = call(&nobody, Method::GET, &format!("/apis/g{i}.example.com/v1/things%22{i}"), &[], "")
            .await
            .code;
        assert_eq!(code, 403);
        assert_eq!(c.get(&format!("/api/v1/namespaces/default/pods/p/sub{i}")).await.code, 404);
    }
    let after = scrape(&c).await;
    assert!(after.lines().count() < before + 300 && !after.contains("example.com"), "{after}");
}
