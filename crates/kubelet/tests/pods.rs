//! A whole kubelet on fakes, under a paused clock: pods come, run, fail, end and are found again.
#![allow(clippy::unwrap_used)] // a test fails by panicking

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::Object;
use base::Instance;
use client::fake::Fake;
use client::{Client, Informers, gvr};
use image::{Config, ImageStore, NewImage};
use network::Network;
use network::link::RecordingLink;
use network::nft::RecordingFirewall;
use runtime::Runtime;
use runtime::fake::FakeRuntime;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

struct Rig {
    _temp: tempfile::TempDir,
    fake: Fake,
    client: Client,
    runtime: Arc<FakeRuntime>,
    options: kubelet::Options,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Rig {
    async fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let (data, run) = (temp.path().join("data"), temp.path().join("run"));
        std::fs::create_dir_all(&data).unwrap();
        let mut instance = Instance::new(&data, &run, "node", IpAddr::from([127, 0, 0, 1]));
        instance.kubelet_port = 0;
        let images = ImageStore::open(&data).await.unwrap();
        let config = Config { cmd: Some(vec!["serve".into()]), ..Config::default() };
        let image = images.create(NewImage { config, ..NewImage::default() }).await.unwrap();
        for name in ["app:1", "app:2"] {
            images.tag(&image.id, name).await.unwrap();
        }
        let network =
            Network::open(&instance, Arc::new(RecordingLink::new()), Arc::new(RecordingFirewall::new()))
                .unwrap();
        let pki = pki::Pki::open(&data.join("pki")).unwrap();
        let tls = pki.server_config("node", &[], &[instance.node_ip], pki::ClientAuth::Required).unwrap();
        let runtime = FakeRuntime::new();
        let (fake, client) = Fake::new();
        fake.validate_statuses();
        let options = kubelet::Options {
            instance,
            runtime: runtime.clone(),
            images,
            network,
            tls: Arc::new(tls),
            dns: None,
            version: "v1.36.0".into(),
        };
        let mut rig = Self { _temp: temp, fake, client, runtime, options, running: None };
        rig.start();
        rig
    }

    fn start(&mut self) {
        let shutdown = CancellationToken::new();
        let informers = Informers::new(self.client.clone(), shutdown.clone());
        let run = kubelet::run(self.options.clone(), self.client.clone(), informers, shutdown.clone());
        self.running = Some((shutdown, tokio::spawn(async move { run.await.unwrap() })));
    }

    /// What a reboot of the machine leaves: the cluster's word and what lies on the disk.
    async fn reboot(&mut self) {
        self.stop().await;
        let _ = std::fs::remove_dir_all(&self.options.instance.run_dir);
        self.runtime = FakeRuntime::new();
        self.options.runtime = self.runtime.clone();
        self.start();
    }

    /// The id of the latest run of a container.
    async fn id_of(&self, container: &str) -> String {
        let all = self.runtime.list().await.unwrap();
        let of = |s: &&runtime::State| s.spec.labels["io.kubernetes.container.name"] == container;
        all.iter().filter(of).max_by_key(|s| s.created_at).unwrap().id.clone()
    }

    async fn stop(&mut self) {
        if let Some((shutdown, task)) = self.running.take() {
            shutdown.cancel();
            task.await.unwrap();
        }
    }

    fn put(&self, name: &str, spec: Value) {
        let mut spec = spec;
        spec["nodeName"] = "node".into();
        self.fake.put(
            &gvr::PODS,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns"}, "spec": spec}),
        );
    }

    fn pod(&self, name: &str) -> Option<Arc<Object>> {
        self.fake.get(&gvr::PODS, "ns", name)
    }

    fn delete(&self, name: &str, grace: i64) {
        let mut pod = self.pod(name).unwrap().value().clone();
        pod["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        pod["metadata"]["deletionGracePeriodSeconds"] = grace.into();
        self.fake.put(&gvr::PODS, pod);
    }

    /// Waits, in virtual time, until the pod's status is as wanted.
    async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        for _ in 0..10_000 {
            if let Some(pod) = self.pod(name)
                && wanted(pod.status())
            {
                return pod.status().clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!(
            "{name} did not become {what}: {:#}",
            self.pod(name).map(|p| p.value().clone()).unwrap_or_default()
        );
    }

    async fn gone(&self, name: &str) {
        for _ in 0..10_000 {
            if self.pod(name).is_none() && self.runtime.sandbox_ids().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} is still there");
    }

    /// The ids of running containers.
    async fn ids(&self) -> Vec<String> {
        let list = self.runtime.list().await.unwrap();
        list.into_iter().filter(|s| s.status == runtime::Status::Running).map(|s| s.id).collect()
    }

    fn events(&self) -> Vec<String> {
        self.fake.all(&gvr::EVENTS).iter().map(|e| e.value()["reason"].as_str().unwrap().to_owned()).collect()
    }
}

fn one(extra: Value) -> Value {
    let mut container = json!({"name": "c", "image": "app:1", "imagePullPolicy": "IfNotPresent"});
    for (key, value) in extra.as_object().unwrap() {
        container[key] = value.clone();
    }
    json!({"containers": [container], "restartPolicy": "Always", "terminationGracePeriodSeconds": 5})
}

fn running(status: &Value) -> bool {
    status["containerStatuses"][0]["state"]["running"].is_object()
}

fn reason(status: &Value) -> &str {
    status["containerStatuses"][0]["state"]["waiting"]["reason"].as_str().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_pod_comes_and_goes() {
    let mut rig = Rig::new().await;
    rig.put("a", one(json!({})));
    let status = rig.until("a", "Running", |s| s["phase"] == "Running").await;
    assert_eq!(status["podIP"], "10.244.0.2");
    assert!(
        status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    );
    let node = rig.fake.get(&gvr::NODES, "", "node").unwrap();
    assert_eq!(node.spec()["podCIDR"], "10.244.0.0/24");
    assert!(rig.fake.get(&gvr::LEASES, "kube-node-lease", "node").is_some());
    let ids = rig.ids().await;
    let spec = rig.runtime.state(&ids[0]).await.unwrap().spec;
    assert_eq!(spec.labels["io.kubernetes.container.name"], "c");
    assert_eq!(spec.oci.process().as_ref().unwrap().args().as_ref().unwrap(), &["serve"]);
    rig.delete("a", 5);
    rig.gone("a").await;
    assert_eq!(rig.runtime.signals(&ids[0]).first().copied().unwrap_or(15), 15);
    assert!(rig.runtime.list().await.unwrap().is_empty());
    for reason in ["Pulled", "Created", "Started", "Killing"] {
        assert!(rig.events().iter().any(|r| r == reason), "{reason} of {:?}", rig.events());
    }
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn crashes_wait_longer_each_time() {
    let mut rig = Rig::new().await;
    rig.put("a", one(json!({})));
    for restarts in 0..2 {
        let is = |s: &Value| running(s) && s["containerStatuses"][0]["restartCount"] == restarts;
        rig.until("a", "running again", is).await;
        rig.runtime.exit(&rig.ids().await[0], 1);
    }
    let status = rig.until("a", "CrashLoopBackOff", |s| reason(s) == "CrashLoopBackOff").await;
    assert_eq!(status["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 1);
    assert_eq!(status["phase"], "Running");
    let began = tokio::time::Instant::now();
    rig.until("a", "running after the back-off", running).await;
    let waited = began.elapsed();
    assert!((9..=11).contains(&waited.as_secs()), "{waited:?}");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_new_kubelet_finds_everything_running() {
    let mut rig = Rig::new().await;
    rig.put("a", one(json!({})));
    rig.put("b", one(json!({})));
    for name in ["a", "b"] {
        rig.until(name, "Running", running).await;
    }
    let before = rig.ids().await;
    rig.stop().await;
    rig.fake.remove(&gvr::PODS, "ns", "b");
    rig.start();
    tokio::time::sleep(Duration::from_secs(10)).await;
    let status = rig.until("a", "Running", running).await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0);
    let after = rig.ids().await;
    assert_eq!(after.len(), 1);
    assert!(before.contains(&after[0]));
    // Its end is seen by the new one.
    rig.runtime.exit(&after[0], 0);
    rig.until("a", "restarted", |s| running(s) && s["containerStatuses"][0]["restartCount"] == 1).await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_others_say_of_a_running_pod_is_put_right() {
    let mut rig = Rig::new().await;
    let is = |status: &Value, kind: &str| {
        let list = status["conditions"].as_array().unwrap();
        list.iter().find(|c| c["type"] == kind).map(|c| c["status"] == "True")
    };
    rig.put("a", one(json!({})));
    rig.until("a", "ready", |s| running(s) && is(s, "Ready") == Some(true)).await;
    // A controller that has not heard of the node says so; a condition that is not the kubelet's stays.
    let mut pod = rig.pod("a").unwrap().value().clone();
    for condition in pod["status"]["conditions"].as_array_mut().unwrap() {
        if condition["type"] == "Ready" {
            condition["status"] = "False".into();
        }
    }
    pod["status"]["conditions"]
        .as_array_mut()
        .unwrap()
        .push(json!({"type": "example.org/Theirs", "status": "True"}));
    pod["status"]["containerStatuses"][0]["ready"] = false.into();
    rig.fake.put(&gvr::PODS, pod);
    let ready = |s: &Value| is(s, "Ready") == Some(true) && s["containerStatuses"][0]["ready"] == true;
    let status = rig.until("a", "ready again", ready).await;
    assert_eq!(is(&status, "example.org/Theirs"), Some(true));
    // Said once: nobody writes any more.
    let revision = rig.pod("a").unwrap().revision();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(rig.pod("a").unwrap().revision(), revision);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_was_thought_lost_says_that_it_is_not() {
    let mut rig = Rig::new().await;
    let ready = |rig: &Rig| {
        let node = rig.fake.get(&gvr::NODES, "", "node")?;
        let list = node.status()["conditions"].as_array()?.clone();
        list.iter().find(|c| c["type"] == "Ready").map(|c| c["status"] == "True")
    };
    while ready(&rig).is_none() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut node = rig.fake.get(&gvr::NODES, "", "node").unwrap().value().clone();
    for condition in node["status"]["conditions"].as_array_mut().unwrap() {
        condition["status"] = "Unknown".into();
    }
    let theirs = json!({"type": "NetworkUnavailable", "status": "False"});
    node["status"]["conditions"].as_array_mut().unwrap().push(theirs);
    rig.fake.put(&gvr::NODES, node);
    let began = tokio::time::Instant::now();
    while ready(&rig) != Some(true) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(began.elapsed() < Duration::from_secs(5), "the node does not look at itself");
    }
    let node = rig.fake.get(&gvr::NODES, "", "node").unwrap();
    let conditions = node.status()["conditions"].as_array().unwrap().clone();
    assert!(conditions.iter().any(|c| c["type"] == "NetworkUnavailable"), "{conditions:?}");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_grace_period_without_end_can_be_cut_short() {
    let mut rig = Rig::new().await;
    // The fake's containers end of SIGTERM and SIGKILL alone.
    rig.put("a", one(json!({"lifecycle": {"stopSignal": "SIGUSR1"}})));
    rig.until("a", "Running", running).await;
    rig.delete("a", i64::MAX);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(rig.ids().await.len(), 1);
    rig.delete("a", 1);
    rig.gone("a").await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_never_restarts_ends() {
    let mut rig = Rig::new().await;
    let mut spec = one(json!({}));
    spec["restartPolicy"] = "Never".into();
    rig.put("a", spec);
    rig.until("a", "Running", running).await;
    rig.runtime.exit(&rig.ids().await[0], 3);
    let status = rig.until("a", "Failed", |s| s["phase"] == "Failed").await;
    assert_eq!(status["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);
    rig.delete("a", 0);
    rig.gone("a").await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_image_is_another_run() {
    let mut rig = Rig::new().await;
    let mut spec = one(json!({}));
    spec["restartPolicy"] = "Never".into();
    rig.put("a", spec);
    rig.until("a", "Running", running).await;
    let mut pod = rig.pod("a").unwrap().value().clone();
    pod["spec"]["containers"][0]["image"] = "app:2".into();
    rig.fake.put(&gvr::PODS, pod);
    let new = |s: &Value| s["containerStatuses"][0]["image"] == "app:2";
    let status = rig.until("a", "the new image", |s| new(s) && running(s)).await;
    assert_eq!(status["containerStatuses"][0]["restartCount"], 1);
    assert!(status["containerStatuses"][0]["lastState"]["terminated"].is_object(), "{status}");
    assert_eq!(status["phase"], "Running");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_missing_is_said_and_waited_for() {
    let mut rig = Rig::new().await;
    rig.put("image", one(json!({"image": "none:1", "imagePullPolicy": "Never"})));
    rig.until("image", "ErrImageNeverPull", |s| reason(s) == "ErrImageNeverPull").await;
    rig.put("name", one(json!({"image": "NO GOOD"})));
    rig.until("name", "InvalidImageName", |s| reason(s) == "InvalidImageName").await;
    rig.put("map", one(json!({"envFrom": [{"configMapRef": {"name": "m"}}]})));
    rig.until("map", "CreateContainerConfigError", |s| reason(s) == "CreateContainerConfigError").await;
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m", "namespace": "ns"}, "data": {"K": "V"}});
    rig.fake.put(&gvr::CONFIG_MAPS, map);
    let began = tokio::time::Instant::now();
    rig.until("map", "Running", running).await;
    assert!(began.elapsed() < Duration::from_secs(2), "the change of the ConfigMap wakes the pod");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failing_liveness_probe_restarts_the_container() {
    let mut rig = Rig::new().await;
    rig.runtime.on_exec(|_, _| (b"no".to_vec(), 1));
    rig.put(
        "a",
        one(
            json!({"livenessProbe": {"exec": {"command": ["x"]}, "periodSeconds": 1, "failureThreshold": 2}}),
        ),
    );
    rig.until("a", "restarted", |s| running(s) && s["containerStatuses"][0]["restartCount"] == 1).await;
    assert!(rig.events().iter().any(|r| r == "Unhealthy"));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_its_probe() {
    let mut rig = Rig::new().await;
    let good = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let answer = good.clone();
    rig.runtime
        .on_exec(move |_, _| (Vec::new(), i32::from(!answer.load(std::sync::atomic::Ordering::Relaxed))));
    rig.put("a", one(json!({"readinessProbe": {"exec": {"command": ["x"]}, "periodSeconds": 1}})));
    let status = rig.until("a", "Running", running).await;
    assert_eq!(status["containerStatuses"][0]["ready"], false);
    good.store(true, std::sync::atomic::Ordering::Relaxed);
    rig.until("a", "ready", |s| s["containerStatuses"][0]["ready"] == true).await;
    good.store(false, std::sync::atomic::Ordering::Relaxed);
    rig.until("a", "not ready", |s| s["containerStatuses"][0]["ready"] == false).await;
    rig.stop().await;
}

fn container(name: &str) -> Value {
    json!({"name": name, "image": "app:1", "imagePullPolicy": "Never"})
}

/// What is said of a container of that name.
fn of<'a>(status: &'a Value, name: &str) -> &'a Value {
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let mut all = lists.iter().filter_map(|l| status[*l].as_array()).flatten();
    all.find(|c| c["name"] == name).unwrap_or(&Value::Null)
}

fn runs(status: &Value, name: &str) -> bool {
    of(status, name)["state"]["running"].is_object()
}

fn ended(status: &Value, name: &str) -> bool {
    of(status, name)["state"]["terminated"].is_object()
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_has_run_for_good() {
    let mut rig = Rig::new().await;
    let spec = json!({"restartPolicy": "Always", "containers": [container("c")],
        "ephemeralContainers": [container("done"), container("lost")]});
    rig.put("a", spec);
    rig.until("a", "running", |s| runs(s, "c") && runs(s, "done") && runs(s, "lost")).await;
    rig.runtime.exit(&rig.id_of("done").await, 0);
    let before = rig.until("a", "done", |s| ended(s, "done")).await;
    rig.reboot().await;
    let again = |s: &Value| runs(s, "c") && of(s, "c")["restartCount"] == 1 && s["podIP"].is_string();
    let status = rig.until("a", "running again", again).await;
    assert_eq!(of(&status, "done"), of(&before, "done"));
    let lost = &of(&status, "lost")["state"]["terminated"];
    assert_eq!((&lost["reason"], &lost["exitCode"]), (&json!("ContainerStatusUnknown"), &json!(137)));
    assert_eq!(of(&status, "c")["lastState"]["terminated"]["reason"], "ContainerStatusUnknown");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(rig.ids().await, [rig.id_of("c").await]);
    rig.delete("a", 1);
    rig.gone("a").await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_reboot_what_has_succeeded_is_not_done_again() {
    let mut rig = Rig::new().await;
    let spec = json!({"restartPolicy": "OnFailure", "initContainers": [container("i")],
        "containers": [container("done"), container("on")]});
    rig.put("a", spec);
    rig.until("a", "initializing", |s| runs(s, "i")).await;
    rig.runtime.exit(&rig.id_of("i").await, 0);
    rig.until("a", "running", |s| runs(s, "done") && runs(s, "on")).await;
    rig.runtime.exit(&rig.id_of("done").await, 0);
    let before = rig.until("a", "half done", |s| ended(s, "done")).await;
    rig.reboot().await;
    // A new sandbox is set up by the init containers, as the first one was; what was said of them stands.
    while rig.ids().await.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let init = rig.id_of("i").await;
    let ready = |s: &Value| {
        let mut conditions = s["conditions"].as_array().unwrap().iter();
        conditions.any(|c| c["type"] == "PodReadyToStartContainers" && c["status"] == "True")
    };
    let status = rig.until("a", "in a new sandbox", |s| ended(s, "on") && ready(s)).await;
    assert!(status["podIP"].is_string() && rig.ids().await == [init.clone()], "{status}");
    assert_eq!(of(&status, "i"), of(&before, "i"));
    rig.runtime.exit(&init, 0);
    let status = rig.until("a", "running again", |s| runs(s, "on") && of(s, "on")["restartCount"] == 1).await;
    assert_eq!(of(&status, "done"), of(&before, "done"));
    assert_eq!(rig.ids().await, [rig.id_of("on").await]);
    rig.runtime.exit(&rig.id_of("on").await, 0);
    rig.until("a", "Succeeded", |s| s["phase"] == "Succeeded").await;
    rig.delete("a", 0);
    rig.gone("a").await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_never_restarts_ends_with_a_reboot() {
    let mut rig = Rig::new().await;
    rig.put("a", json!({"restartPolicy": "Never", "containers": [container("done"), container("on")]}));
    rig.until("a", "running", |s| runs(s, "done") && runs(s, "on")).await;
    rig.runtime.exit(&rig.id_of("done").await, 0);
    rig.until("a", "half done", |s| ended(s, "done")).await;
    rig.reboot().await;
    let status = rig.until("a", "Failed", |s| s["phase"] == "Failed").await;
    assert_eq!(of(&status, "done")["state"]["terminated"]["exitCode"], 0);
    assert_eq!(of(&status, "on")["state"]["terminated"]["exitCode"], 137);
    assert!(rig.runtime.list().await.unwrap().is_empty());
    rig.delete("a", 0);
    rig.gone("a").await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn another_image_may_take_its_time() {
    let mut rig = Rig::new().await;
    rig.put("a", json!({"restartPolicy": "Never", "containers": [container("c")]}));
    rig.until("a", "Running", running).await;
    let mut pod = rig.pod("a").unwrap().value().clone();
    pod["spec"]["containers"][0]["image"] = "app:3".into();
    rig.fake.put(&gvr::PODS, pod);
    let status = rig.until("a", "waiting", |s| reason(s) == "ErrImageNeverPull").await;
    assert!(status["containerStatuses"][0]["lastState"]["terminated"].is_object(), "{status}");
    // A new kubelet knows too that it is not over.
    rig.stop().await;
    rig.start();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let id = rig.options.images.get("app:1").unwrap().id.clone();
    rig.options.images.tag(&id, "app:3").await.unwrap();
    let status = rig.until("a", "running", running).await;
    assert_eq!(
        (&status["phase"], &status["containerStatuses"][0]["image"]),
        (&json!("Running"), &json!("app:3"))
    );
    rig.delete("a", 1);
    rig.gone("a").await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_may_have_a_policy_of_its_own() {
    let mut rig = Rig::new().await;
    let with = |name: &str, extra: Value| {
        let mut c = container(name);
        c.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        c
    };
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let spec = json!({"restartPolicy": "Always", "containers": [
        with("never", json!({"restartPolicy": "Never"})),
        with("ruled", json!({"restartPolicy": "Never", "restartPolicyRules": rules})), container("on")]});
    rig.put("a", spec);
    rig.until("a", "running", |s| ["never", "ruled", "on"].iter().all(|c| runs(s, c))).await;
    rig.runtime.exit(&rig.id_of("never").await, 3);
    rig.runtime.exit(&rig.id_of("ruled").await, 42);
    let ruled = |s: &Value| runs(s, "ruled") && of(s, "ruled")["restartCount"] == 1;
    rig.until("a", "ruled", |s| ruled(s) && ended(s, "never")).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let status = rig.pod("a").unwrap().status().clone();
    assert!(ended(&status, "never") && status["phase"] == "Running", "{status}");
    rig.delete("a", 1);
    rig.gone("a").await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_sandbox_that_ends_is_made_anew() {
    let mut rig = Rig::new().await;
    let spec = json!({"restartPolicy": "Always", "containers": [container("c")],
        "ephemeralContainers": [container("e")]});
    rig.put("a", spec);
    rig.until("a", "running", |s| runs(s, "c") && runs(s, "e")).await;
    let (sandbox, old) = (rig.runtime.sandbox_ids(), rig.id_of("c").await);
    rig.runtime.end_sandbox(&sandbox[0]);
    let again = |s: &Value| runs(s, "c") && of(s, "c")["restartCount"] == 1 && s["podIP"].is_string();
    let status = rig.until("a", "running again", again).await;
    assert_eq!(of(&status, "c")["lastState"]["terminated"]["containerID"], format!("tug://{old}"));
    assert!(ended(&status, "e"), "{status}");
    let now = rig.runtime.sandbox_ids();
    assert!(now.len() == 1 && now != sandbox, "{now:?}");
    let new = rig.runtime.state(&rig.id_of("c").await).await.unwrap();
    let made = rig.runtime.sandboxes().await.unwrap();
    let joined = new.spec.oci.linux().as_ref().unwrap().namespaces().clone().unwrap();
    let joined: Vec<_> = joined.iter().filter_map(|n| n.path().clone()).collect();
    assert!(joined.contains(&made[0].netns), "{joined:?}");
    assert!(rig.events().iter().any(|r| r == "SandboxChanged"));
    // A kubelet that finds it hears of it too.
    rig.stop().await;
    rig.start();
    tokio::time::sleep(Duration::from_secs(5)).await;
    rig.runtime.end_sandbox(&now[0]);
    rig.until("a", "running once more", |s| runs(s, "c") && of(s, "c")["restartCount"] == 2).await;
    rig.delete("a", 1);
    rig.gone("a").await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_never_restarts_ends_with_its_sandbox() {
    let mut rig = Rig::new().await;
    rig.put("a", json!({"restartPolicy": "Never", "containers": [container("c")]}));
    rig.until("a", "Running", running).await;
    rig.runtime.end_sandbox(&rig.runtime.sandbox_ids()[0]);
    rig.until("a", "Failed", |s| s["phase"] == "Failed").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(rig.runtime.sandbox_ids().is_empty());
    rig.delete("a", 0);
    rig.gone("a").await;
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_class_of_another_runtime_is_not_ignored() {
    let mut rig = Rig::new().await;
    let class = |handler: &str| json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "safe"}, "handler": handler});
    rig.fake.put(&gvr::RUNTIME_CLASSES, class("kata"));
    let mut spec = one(json!({}));
    spec["runtimeClassName"] = "safe".into();
    rig.put("a", spec);
    let said = |e: &Arc<Object>| {
        e.value()["reason"] == "FailedCreatePodSandBox"
            && e.value()["message"]
                .as_str()
                .is_some_and(|m| m.contains("no runtime for \"kata\" is configured"))
    };
    while !rig.fake.all(&gvr::EVENTS).iter().any(said) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(rig.runtime.sandbox_ids().is_empty());
    rig.fake.put(&gvr::RUNTIME_CLASSES, class("runc"));
    rig.until("a", "Running", running).await;
    rig.delete("a", 1);
    rig.gone("a").await;
    rig.stop().await;
}
