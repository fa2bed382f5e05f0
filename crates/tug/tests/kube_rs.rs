//! An operator's view of the cluster, by kube-rs: definitions made by derive, server-side apply, watches, exec,
//! port-forward, logs.
#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use std::time::Duration;

use common::{Machine, lacking};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{
    AttachParams, DeleteParams, ListParams, LogParams, Patch, PatchParams, PostParams, WatchEvent,
    WatchParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Config, CustomResource, CustomResourceExt, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// What an operator written with kube-rs declares.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "tug.example",
    version = "v1",
    kind = "Barge",
    namespaced,
    status = "BargeStatus",
    shortname = "bg"
)]
#[kube(scale(spec_replicas_path = ".spec.crew", status_replicas_path = ".status.aboard"))]
#[kube(validation = "self.metadata.name != 'titanic'")]
struct BargeSpec {
    /// How many are to be aboard.
    #[schemars(range(min = 0, max = 12))]
    crew: i32,
    cargo: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
struct BargeStatus {
    aboard: i32,
}

/// Runs `test` on a thread in the machine's network namespace.
fn inside<F: Future<Output = ()>>(machine: &Machine, test: impl FnOnce(Client) -> F + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            machine.enter();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let kubeconfig = Kubeconfig::read_from(machine.data_dir().join("kubeconfig")).unwrap();
                let config =
                    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
                let client = Client::try_from(config).unwrap();
                tokio::time::timeout(Duration::from_secs(120), test(client))
                    .await
                    .expect("within two minutes");
            });
        });
        thread.join().unwrap();
    });
}

#[test]
fn an_operator() {
    if lacking(&["docker", "busybox"]) {
        return;
    }
    let machine = Machine::new("kube-rs", false);
    machine.tug("up");
    machine.import_busybox();
    inside(&machine, |client| async move {
        definitions(client.clone()).await;
        watching(client.clone()).await;
        a_pod(client).await;
    });
}

async fn definitions(client: Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    let apply = PatchParams::apply("kube-rs-test");
    definitions.patch("barges.tug.example", &apply, &Patch::Apply(Barge::crd())).await.unwrap();
    await_condition(definitions.clone(), "barges.tug.example", conditions::is_crd_established())
        .await
        .unwrap();

    let barges: Api<Barge> = Api::default_namespaced(client);
    let wanted = Barge::new("anna", BargeSpec { crew: 3, cargo: None });
    let made = barges.create(&PostParams::default(), &wanted).await.unwrap();
    assert_eq!(made.metadata.generation, Some(1));
    let too_many = Barge::new("berta", BargeSpec { crew: 13, cargo: None });
    let refused = barges.create(&PostParams::default(), &too_many).await.unwrap_err();
    assert!(matches!(&refused, kube::Error::Api(status) if status.code == 422), "{refused}");
    let named = Barge::new("titanic", BargeSpec { crew: 1, cargo: None });
    assert!(barges.create(&PostParams::default(), &named).await.is_err());

    // Fields have owners: another manager's value is a conflict until it is forced.
    let cargo =
        json!({"apiVersion": "tug.example/v1", "kind": "Barge", "spec": {"crew": 3, "cargo": ["coal"]}});
    barges.patch("anna", &PatchParams::apply("one"), &Patch::Apply(&cargo)).await.unwrap();
    let other =
        json!({"apiVersion": "tug.example/v1", "kind": "Barge", "spec": {"crew": 5, "cargo": ["sand"]}});
    let conflict = barges.patch("anna", &PatchParams::apply("two"), &Patch::Apply(&other)).await.unwrap_err();
    assert!(matches!(&conflict, kube::Error::Api(status) if status.reason == "Conflict"), "{conflict}");
    let forced =
        barges.patch("anna", &PatchParams::apply("two").force(), &Patch::Apply(&other)).await.unwrap();
    assert_eq!((forced.spec.crew, forced.spec.cargo), (5, Some(vec!["sand".to_owned()])));

    let status = json!({"status": {"aboard": 4}});
    let shown = barges.patch_status("anna", &PatchParams::default(), &Patch::Merge(&status)).await.unwrap();
    assert_eq!(shown.status.unwrap().aboard, 4);
    assert_eq!(barges.get_scale("anna").await.unwrap().status.unwrap().replicas, 4);
    let scaled = json!({"spec": {"replicas": 7}});
    barges.patch_scale("anna", &PatchParams::default(), &Patch::Merge(&scaled)).await.unwrap();
    assert_eq!(barges.get("anna").await.unwrap().spec.crew, 7);

    let uid = definitions.get("barges.tug.example").await.unwrap().uid().unwrap();
    definitions.delete("barges.tug.example", &DeleteParams::foreground()).await.unwrap();
    await_condition(definitions, "barges.tug.example", conditions::is_deleted(&uid)).await.unwrap();
}

async fn watching(client: Client) {
    let maps: Api<ConfigMap> = Api::default_namespaced(client);
    let map = |name: &str| -> ConfigMap {
        serde_json::from_value(
            json!({"metadata": {"name": name, "labels": {"of": "kube-rs"}}, "data": {"n": "1"}}),
        )
        .unwrap()
    };
    maps.create(&PostParams::default(), &map("first")).await.unwrap();

    // The plain watch, from a list's revision, with bookmarks.
    let list = maps.list(&ListParams::default().labels("of=kube-rs")).await.unwrap();
    assert_eq!(list.items.len(), 1);
    let from = list.metadata.resource_version.unwrap();
    let params = WatchParams::default().labels("of=kube-rs").timeout(20);
    let mut events = maps.watch(&params, &from).await.unwrap().boxed();
    maps.create(&PostParams::default(), &map("second")).await.unwrap();
    let event = events.try_next().await.unwrap().unwrap();
    assert!(matches!(&event, WatchEvent::Added(map) if map.name_any() == "second"), "{event:?}");
    maps.delete("second", &DeleteParams::default()).await.unwrap();
    let event = events.try_next().await.unwrap().unwrap();
    assert!(matches!(&event, WatchEvent::Deleted(map) if map.name_any() == "second"), "{event:?}");

    // The runtime's watcher, by a list and by a streamed list.
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let mut seen = watcher(maps.clone(), config.labels("of=kube-rs")).applied_objects().boxed();
        assert_eq!(seen.try_next().await.unwrap().unwrap().name_any(), "first");
        let patch = json!({"data": {"n": "2"}});
        maps.patch("first", &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
        let changed = seen.try_next().await.unwrap().unwrap();
        assert_eq!(changed.data.unwrap()["n"], "2");
        let patch = json!([{"op": "replace", "path": "/data/n", "value": "1"}]);
        let patch: Patch<ConfigMap> = Patch::Json(serde_json::from_value(patch).unwrap());
        maps.patch("first", &PatchParams::default(), &patch).await.unwrap();
    }
    maps.delete_collection(&DeleteParams::default(), &ListParams::default().labels("of=kube-rs"))
        .await
        .unwrap();
    assert!(maps.get_opt("first").await.unwrap().is_none());
}

async fn a_pod(client: Client) {
    let pods: Api<Pod> = Api::default_namespaced(client);
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "shell"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": "busybox:1", "command": ["sh", "-c", "echo ready; httpd -p 8080 -h /; exec sleep 600"]}],
        },
    }))
    .unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    await_condition(pods.clone(), "shell", conditions::is_pod_running()).await.unwrap();
    let logs = pods.logs("shell", &LogParams { follow: false, ..LogParams::default() }).await.unwrap();
    assert_eq!(logs, "ready\n");

    let attach = AttachParams::default().stdin(true).stdout(true).stderr(false);
    let mut process = pods.exec("shell", ["sh", "-c", "cat; exit 3"], &attach).await.unwrap();
    let mut input = process.stdin().unwrap();
    input.write_all(b"ahoy\n").await.unwrap();
    input.shutdown().await.unwrap();
    drop(input);
    let output = tokio_util::io::ReaderStream::new(process.stdout().unwrap());
    let output: Vec<u8> = output.map_ok(|part| part.to_vec()).try_concat().await.unwrap();
    assert_eq!(output, b"ahoy\n");
    let status = process.take_status().unwrap().await.unwrap();
    assert_eq!(status.status.as_deref(), Some("Failure"));
    assert_eq!(status.reason.as_deref(), Some("NonZeroExitCode"), "{status:?}");
    process.join().await.unwrap();

    // Each port is a connection; what is wrong with one is told apart.
    let mut forwarder = pods.portforward("shell", &[8080, 81]).await.unwrap();
    let mut web = forwarder.take_stream(8080).unwrap();
    web.write_all(b"GET /none HTTP/1.0\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    web.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    let refused = forwarder.take_error(81).unwrap().await.unwrap();
    assert!(refused.contains("Connection refused"), "{refused}");
    drop((web, forwarder));

    let uid = pods.get("shell").await.unwrap().uid().unwrap();
    pods.delete("shell", &DeleteParams::default()).await.unwrap();
    await_condition(pods, "shell", conditions::is_deleted(&uid)).await.unwrap();
}
