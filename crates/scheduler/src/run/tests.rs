use super::*;
use client::fake::Fake;
use std::time::Duration;

struct World {
    fake: Fake,
    client: Client,
    shutdown: CancellationToken,
}

impl World {
    fn new() -> World {
        let (fake, client) = Fake::new();
        let shutdown = CancellationToken::new();
        let informers = Informers::new(client.clone(), shutdown.clone());
        tokio::spawn(run(Options::default(), client.clone(), informers, shutdown.clone()));
        World { fake, client, shutdown }
    }

    fn node(&self, name: &str, cpu: &str, change: impl Fn(&mut Value)) {
        let mut node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
            "spec": {}, "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"}}});
        change(&mut node);
        self.fake.put(&gvr::NODES, node);
    }

    fn pod(&self, name: &str, change: impl Fn(&mut Value)) {
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "ns", "labels": {"app": name}},
            "spec": {"schedulerName": "default-scheduler", "containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "Pending"}});
        change(&mut pod);
        self.fake.put(&gvr::PODS, pod);
    }

    /// Where the pod is; if nowhere, what it says of that.
    async fn place(&self, name: &str) -> String {
        tokio::time::sleep(Duration::from_secs(30)).await; // virtual
        let Some(pod) = self.fake.get(&gvr::PODS, "ns", name) else { return "gone".into() };
        if let Some(node) = pod.at(&["spec", "nodeName"]).as_str() {
            return node.into();
        }
        pod.status()["conditions"][0]["message"].as_str().unwrap_or_default().into()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn cpu(amount: &'static str) -> impl Fn(&mut Value) {
    move |p| p["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": amount}})
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_a_node_and_says_so() {
    let w = World::new();
    w.pod("p", |_| {});
    assert_eq!(w.place("p").await, "no nodes available to schedule pods");
    w.node("n", "1", |n| n["spec"]["taints"] = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]));
    assert_eq!(
        w.place("p").await,
        "0/1 nodes are available: 1 node(s) had untolerated taint {k: v}. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
    w.node("n", "1", |_| {});
    assert_eq!(w.place("p").await, "n");
    let events = w.fake.all(&gvr::EVENTS);
    let reasons: Vec<&str> = events.iter().map(|e| e.value()["message"].as_str().unwrap()).collect();
    assert!(reasons.contains(&"Successfully assigned ns/p to n"), "{reasons:?}");
    assert!(reasons.iter().any(|r| r.starts_with("no nodes available")), "{reasons:?}");
}

#[tokio::test(start_paused = true)]
async fn room_is_counted_before_the_api_shows_it() {
    let w = World::new();
    w.node("n", "1", |_| {});
    for i in 0..3 {
        w.pod(&format!("p{i}"), cpu("500m"));
    }
    let mut places = Vec::new();
    for i in 0..3 {
        places.push(w.place(&format!("p{i}")).await);
    }
    assert_eq!(places.iter().filter(|p| *p == "n").count(), 2);
    let waiting = places.iter().position(|p| p != "n").unwrap();
    assert!(places[waiting].starts_with("0/1 nodes are available: 1 Insufficient cpu."), "{places:?}");
    w.fake.remove(&gvr::PODS, "ns", &format!("p{}", (waiting + 1) % 3));
    assert_eq!(w.place(&format!("p{waiting}")).await, "n");
}

#[tokio::test(start_paused = true)]
async fn plugins_choose() {
    let w = World::new();
    w.node("small", "1", |_| {});
    w.node("large", "8", |n| n["metadata"]["labels"]["disk"] = "ssd".into());
    w.pod("roomy", |_| {});
    assert_eq!(w.place("roomy").await, "large", "more is left over there");
    w.pod("selects", |p| p["spec"]["nodeSelector"] = json!({"disk": "ssd"}));
    assert_eq!(w.place("selects").await, "large");
    let term = json!({"matchExpressions": [{"key": "disk", "operator": "DoesNotExist"}]});
    w.pod("affine", |p| {
        p["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!({"nodeSelectorTerms": [term]})
    });
    assert_eq!(w.place("affine").await, "small");
    let port =
        |p: &mut Value| p["spec"]["containers"][0]["ports"] = json!([{"hostPort": 80, "containerPort": 80}]);
    w.pod("port1", port);
    w.pod("port2", port);
    assert_ne!(w.place("port1").await, w.place("port2").await);
    w.pod("port3", port);
    assert!(w.place("port3").await.contains("2 node(s) didn't have free ports"));
    let near = |to: &'static str| {
        move |p: &mut Value| {
            p["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": to}}}]);
        }
    };
    w.pod("near", near("affine"));
    assert_eq!(w.place("near").await, "small");
    w.pod("nearnone", near("nobody"));
    assert!(w.place("nearnone").await.contains("didn't match pod affinity rules"));
    w.pod("nearself", near("nearself"));
    assert_ne!(w.place("nearself").await.len(), 0);
    let apart = |p: &mut Value| {
        p["metadata"]["labels"]["app"] = "apart".into();
        p["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "apart"}}}]);
    };
    w.pod("apart1", apart);
    w.pod("apart2", apart);
    w.pod("apart3", apart);
    let mut places = vec![w.place("apart1").await, w.place("apart2").await, w.place("apart3").await];
    places.sort();
    assert!(places[0].contains("2 node(s) didn't match pod anti-affinity rules"), "{places:?}");
    assert_eq!(places[1..], ["large", "small"]);
}

#[tokio::test(start_paused = true)]
async fn spreads_evenly() {
    let w = World::new();
    w.node("a", "100", |_| {});
    w.node("b", "1", |_| {});
    for i in 0..6 {
        w.pod(&format!("p{i}"), |p| {
            p["metadata"]["labels"]["app"] = "s".into();
            p["spec"]["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "s"}}}]);
        });
    }
    let mut on_a = 0;
    for i in 0..6 {
        on_a += usize::from(w.place(&format!("p{i}")).await == "a");
    }
    assert_eq!(on_a, 3);
}

#[tokio::test(start_paused = true)]
async fn the_important_push_the_others_out() {
    let w = World::new();
    w.node("n", "1", |_| {});
    w.pod("low", cpu("800m"));
    assert_eq!(w.place("low").await, "n");
    w.pod("same", cpu("800m"));
    assert!(w.place("same").await.contains("No preemption victims found"));
    w.fake.remove(&gvr::PODS, "ns", "same");
    w.pod("high", |p| {
        cpu("800m")(p);
        p["spec"]["priority"] = 1000.into();
    });
    w.place("high").await;
    let low = w.fake.get(&gvr::PODS, "ns", "low").unwrap();
    assert!(low.is_deleting());
    assert_eq!(w.fake.get(&gvr::PODS, "ns", "high").unwrap().status()["nominatedNodeName"], "n");
    w.fake.remove(&gvr::PODS, "ns", "low");
    assert_eq!(w.place("high").await, "n");
}

#[tokio::test(start_paused = true)]
async fn failed_bindings_are_tried_again_and_claims_waited_for() {
    let w = World::new();
    w.node("n", "1", |_| {});
    w.fake.fail_next("POST", "pods/binding", api::Status::unavailable("later"));
    w.pod("p", |_| {});
    assert_eq!(w.place("p").await, "n");
    w.pod("claims", |p| {
        p["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}])
    });
    assert!(w.place("claims").await.contains("persistentvolumeclaim \"c\" not found"));
    let claim = |volume: Value, phase: &str| {
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "c", "namespace": "ns"}, "spec": {"volumeName": volume}, "status": {"phase": phase}})
    };
    w.fake.put(&gvr::PERSISTENT_VOLUME_CLAIMS, claim(Value::Null, "Pending"));
    assert!(w.place("claims").await.contains("pod has unbound immediate PersistentVolumeClaims"));
    w.fake.put(
        &gvr::PERSISTENT_VOLUMES,
        json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": {}}),
    );
    w.fake.put(&gvr::PERSISTENT_VOLUME_CLAIMS, claim("v".into(), "Bound"));
    assert_eq!(w.place("claims").await, "n");
    let _ = &w.client;
}

#[tokio::test(start_paused = true)]
async fn others_pods_and_gated_ones_are_left_alone() {
    let w = World::new();
    w.node("n", "1", |_| {});
    w.pod("other", |p| p["spec"]["schedulerName"] = "mine".into());
    w.pod("gated", |p| p["spec"]["schedulingGates"] = json!([{"name": "g"}]));
    assert_eq!((w.place("other").await, w.place("gated").await), (String::new(), String::new()));
}

fn important(amount: &'static str, priority: i64) -> impl Fn(&mut Value) {
    move |p| {
        cpu(amount)(p);
        p["spec"]["priority"] = priority.into();
    }
}

/// Room that was made for a pod is not taken by those that its victims are replaced with, and it waits for no more than their end.
#[tokio::test(start_paused = true)]
async fn room_that_was_made_is_kept() {
    let w = World::new();
    w.node("n", "1", |_| {});
    w.pod("low", |p| {
        cpu("800m")(p);
        p["metadata"]["finalizers"] = json!(["test/slow"]); // takes its time to end
    });
    assert_eq!(w.place("low").await, "n");
    w.pod("high", important("800m", 1000));
    w.place("high").await;
    assert!(w.fake.get(&gvr::PODS, "ns", "low").unwrap().is_deleting());
    w.pod("replacement", cpu("800m"));
    assert!(w.place("replacement").await.contains("Insufficient cpu"));
    // The victim ends; the replacement came first to know, but the room is not its.
    w.fake.remove(&gvr::PODS, "ns", "low");
    tokio::time::sleep(Duration::from_millis(100)).await; // virtual; a failed pod would wait a second at least
    let high = w.fake.get(&gvr::PODS, "ns", "high").unwrap();
    assert_eq!(high.at(&["spec", "nodeName"]), "n");
    assert!(w.place("replacement").await.contains("Insufficient cpu"));
    let preempted = w.fake.all(&gvr::EVENTS).iter().filter(|e| e.value()["reason"] == "Preempted").count();
    assert_eq!(preempted, 1, "one victim, told once");
}

#[tokio::test(start_paused = true)]
async fn a_nomination_that_others_overtake_is_taken_back() {
    let w = World::new();
    w.node("n", "1", |_| {});
    w.pod("low", |p| {
        cpu("800m")(p);
        p["metadata"]["finalizers"] = json!(["test/slow"]);
    });
    assert_eq!(w.place("low").await, "n");
    w.pod("middle", important("800m", 10));
    w.place("middle").await;
    let nominated = |name: &str| {
        let pod = w.fake.get(&gvr::PODS, "ns", name).unwrap();
        pod.status()["nominatedNodeName"].as_str().unwrap_or_default().to_owned()
    };
    assert_eq!(nominated("middle"), "n");
    w.pod("high", important("800m", 1000));
    w.place("high").await;
    assert_eq!((nominated("middle").as_str(), nominated("high").as_str()), ("", "n"));
    w.fake.remove(&gvr::PODS, "ns", "low");
    assert_eq!(w.place("high").await, "n");
    assert!(w.place("middle").await.contains("Insufficient cpu"));
}

#[tokio::test(start_paused = true)]
async fn who_is_not_to_be_disrupted_is_pushed_out_last() {
    let w = World::new();
    w.node("a", "1", |n| n["metadata"]["labels"]["keep"] = "yes".into());
    w.node("b", "1", |_| {});
    let on = |node: &'static str, app: &'static str, priority: i64| {
        move |p: &mut Value| {
            important("800m", priority)(p);
            p["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": node});
            p["metadata"]["labels"]["app"] = app.into();
        }
    };
    // The less important one is the one that a budget keeps.
    w.pod("kept", on("a", "kept", 1));
    w.pod("free", on("b", "free", 2));
    assert_eq!((w.place("kept").await.as_str(), w.place("free").await.as_str()), ("a", "b"));
    w.fake.put(&gvr::POD_DISRUPTION_BUDGETS, json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "keep", "namespace": "ns"}, "spec": {"selector": {"matchLabels": {"app": "kept"}}},
        "status": {"disruptionsAllowed": 0}}));
    w.pod("high", important("800m", 1000));
    w.place("high").await;
    assert!(!w.fake.get(&gvr::PODS, "ns", "kept").unwrap().is_deleting());
    w.fake.remove(&gvr::PODS, "ns", "free");
    assert_eq!(w.place("high").await, "b");
}

#[tokio::test(start_paused = true)]
async fn labels_of_a_namespace_may_be_what_a_pod_waits_for() {
    let w = World::new();
    w.node("n", "1", |_| {});
    w.pod("there", |_| {});
    assert_eq!(w.place("there").await, "n");
    w.pod("near", |p| {
        p["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = json!([{
            "topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "there"}},
            "namespaceSelector": {"matchLabels": {"team": "a"}}}]);
    });
    assert!(w.place("near").await.contains("didn't match pod affinity rules"));
    w.fake.put(&gvr::NAMESPACES, json!({"metadata": {"name": "ns", "labels": {"team": "a"}}}));
    assert_eq!(w.place("near").await, "n");
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_waits_is_told_a_node_that_its_volumes_reach() {
    let w = World::new();
    for name in ["a", "b", "c"] {
        w.node(name, "8", |_| {});
    }
    w.fake.put(
        &gvr::STORAGE_CLASSES,
        json!({"metadata": {"name": "local"}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"}),
    );
    let volume = |name: &str, node: &str, size: &str| {
        w.fake.put(&gvr::PERSISTENT_VOLUMES, json!({"metadata": {"name": name}, "spec": {"storageClassName": "local",
            "capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]}}}}));
    };
    let claim = |name: &str| {
        w.fake.put(&gvr::PERSISTENT_VOLUME_CLAIMS, json!({"metadata": {"name": name, "namespace": "ns"},
            "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}));
    };
    claim("one");
    claim("two");
    w.pod("p", |p| {
        p["spec"]["volumes"] = json!([{"name": "v", "persistentVolumeClaim": {"claimName": "one"}},
            {"name": "w", "persistentVolumeClaim": {"claimName": "two"}}]);
    });
    volume("a1", "a", "1Gi");
    volume("b1", "b", "1Gi");
    assert!(
        w.place("p").await.contains("3 node(s) didn't find available persistent volumes to bind"),
        "each has one at most"
    );
    volume("b2", "b", "2Gi");
    w.place("p").await;
    for name in ["one", "two"] {
        let claim = w.fake.get(&gvr::PERSISTENT_VOLUME_CLAIMS, "ns", name).unwrap();
        assert_eq!(claim.annotation("volume.kubernetes.io/selected-node"), Some("b"), "{name}");
    }
    // The choice stays while it is being carried out, though others would do as well now.
    volume("c1", "c", "1Gi");
    volume("c2", "c", "1Gi");
    w.place("p").await;
    let claim = w.fake.get(&gvr::PERSISTENT_VOLUME_CLAIMS, "ns", "one").unwrap();
    assert_eq!(claim.annotation("volume.kubernetes.io/selected-node"), Some("b"));
}
