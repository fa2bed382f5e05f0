use super::*;
use crate::replicas::ReplicaSets;
use crate::testing::{World, summary};
use client::PatchType;
use std::time::Duration;

fn deployment(replicas: i64, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "kubia", "namespace": "ns", "uid": "d", "generation": 1, "resourceVersion": "1"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "kubia"}}, "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
            "template": {"metadata": {"labels": {"app": "kubia"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
}

/// A set of the Deployment: its image, size, how many are available, its revision.
fn set(image: &str, replicas: i64, available: i64, revision: i64, of: i64) -> Arc<Object> {
    let d = Object::from_value(deployment(of, image));
    let plan = Plan::of(&d);
    let mut value = new_set(&d, &template_hash(&d), revision, replicas, &plan);
    value["metadata"]["uid"] = image.into();
    value["metadata"]["creationTimestamp"] = format!("2026-01-01T00:00:{revision:02}Z").into();
    value["status"] =
        json!({"replicas": replicas, "availableReplicas": available, "readyReplicas": available});
    Object::from_value(value)
}

fn run(d: Value, sets: Vec<Arc<Object>>, old_pods: bool) -> Vec<String> {
    let d = Object::from_value(d);
    let now = "2026-01-01T01:00:00Z".parse().unwrap();
    let decision = decide(&Observed { deployment: &d, sets, taken: None, old_pods_run: &|_| old_pods, now });
    // Names carry a hash; sizes are what matters here.
    let say = |a: &Action| match a {
        Action::Patch { gvr, key, patch, .. } if gvr.resource == "replicasets" => {
            let which = if key.name == format!("kubia-{}", template_hash(&d)) { "new" } else { "old" };
            match patch["spec"]["replicas"].as_i64() {
                Some(n) => Some(format!("{which}={n}")),
                None => Some(format!("{which} noted")),
            }
        }
        Action::Create { object, .. } => Some(format!("make {}", object["spec"]["replicas"])),
        Action::Delete { object, .. } => Some(format!("delete {}", object.uid())),
        _ => None,
    };
    decision.actions.iter().filter_map(say).collect()
}

#[test]
fn steps_of_a_rolling_update() {
    let d = |n| deployment(n, "v2");
    for (what, d, sets, want) in [
        ("first", d(3), vec![], "make 3"),
        ("begins with the surge", d(3), vec![set("v1", 3, 3, 1, 3)], "make 1"),
        ("the new one is not up yet", d(3), vec![set("v1", 3, 3, 1, 3), set("v2", 1, 0, 2, 3)], ""),
        ("one old may go", d(3), vec![set("v1", 3, 3, 1, 3), set("v2", 1, 1, 2, 3)], "old=2"),
        ("one new may come", d(3), vec![set("v1", 2, 2, 1, 3), set("v2", 1, 1, 2, 3)], "new=2"),
        ("the last", d(3), vec![set("v1", 1, 1, 1, 3), set("v2", 3, 3, 2, 3)], "old=0"),
        ("done", d(3), vec![set("v1", 0, 0, 1, 3), set("v2", 3, 3, 2, 3)], ""),
        ("sick old ones go first", d(4), vec![set("v1", 4, 2, 1, 4), set("v2", 1, 0, 2, 4)], "old=3"),
        ("25% of 10, of both", d(10), vec![set("v1", 10, 10, 1, 10), set("v2", 3, 0, 2, 10)], "old=8"),
    ] {
        assert_eq!(run(d, sets, false).join(" "), want, "{what}");
    }
}

#[test]
fn scaling_and_pausing() {
    let mut paused = deployment(6, "v2");
    paused["spec"]["paused"] = true.into();
    for (what, d, sets, want) in [
        ("one set is simply scaled", deployment(5, "v1"), vec![set("v1", 3, 3, 1, 3)], "new=5"),
        ("down to nothing", deployment(0, "v1"), vec![set("v1", 3, 3, 1, 3)], "new=0"),
        (
            "in the middle of a rollout: in proportion",
            deployment(20, "v2"),
            vec![set("v1", 8, 8, 1, 10), set("v2", 5, 5, 2, 10)],
            "old=15 new=10",
        ),
        (
            "a pause stops the rollout, not the scaling",
            paused.clone(),
            vec![set("v1", 3, 3, 1, 3), set("v2", 1, 1, 2, 3)],
            "old=6 new=2",
        ),
        ("a paused one makes no new set", paused, vec![set("v1", 6, 6, 1, 6)], ""),
    ] {
        assert_eq!(run(d, sets, false).join(" "), want, "{what}");
    }
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut d = deployment(3, "v2");
    d["spec"]["strategy"] = json!({"type": "Recreate"});
    assert_eq!(run(d.clone(), vec![set("v1", 3, 3, 1, 3)], true), ["old=0"]);
    assert_eq!(run(d.clone(), vec![set("v1", 0, 0, 1, 3)], true).len(), 0);
    assert_eq!(run(d, vec![set("v1", 0, 0, 1, 3)], false), ["make 3"]);
}

#[test]
fn old_templates_are_forgotten_beyond_the_limit() {
    let mut d = deployment(1, "v4");
    d["spec"]["revisionHistoryLimit"] = 1.into();
    let sets =
        vec![set("v1", 0, 0, 1, 1), set("v2", 0, 0, 2, 1), set("v3", 0, 0, 3, 1), set("v4", 1, 1, 4, 1)];
    assert_eq!(run(d, sets, false), ["delete v1", "delete v2"]);
}

#[test]
fn going_back_makes_the_old_set_the_newest() {
    let d = Object::from_value(deployment(3, "v1"));
    let sets = vec![set("v1", 0, 0, 1, 3), set("v2", 3, 3, 2, 3)];
    let o =
        Observed { deployment: &d, sets, taken: None, old_pods_run: &|_| false, now: Timestamp::UNIX_EPOCH };
    let decision = decide(&o);
    let Action::Patch { patch, .. } = &decision.actions[0] else { panic!() };
    assert_eq!(patch["metadata"]["annotations"][REVISION], "3");
    assert_eq!(patch["metadata"]["annotations"][REVISION_HISTORY], "1");
    assert!(
        summary(&decision.actions)
            .iter()
            .any(|s| s.contains("patch deployments/kubia") && s.contains("\"3\""))
    );
}

#[test]
fn a_rollout_that_does_not_move_is_called_stuck() {
    let mut d = deployment(1, "v1");
    d["status"] = json!({"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "unavailableReplicas": 1, "conditions": [
        {"type": "Progressing", "status": "True", "reason": "ReplicaSetUpdated", "message": "m", "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"}]});
    let d = Object::from_value(d);
    let at = |now: &str| {
        let o = Observed {
            deployment: &d,
            sets: vec![set("v1", 1, 0, 1, 1)],
            taken: None,
            old_pods_run: &|_| false,
            now: now.parse().unwrap(),
        };
        decide(&o)
    };
    assert_eq!(at("2026-01-01T00:09:00Z").again, Some(Duration::from_secs(60)));
    let late = at("2026-01-01T00:10:00Z");
    let Some(Action::UpdateSub { object, .. }) =
        late.actions.iter().find(|a| matches!(a, Action::UpdateSub { .. }))
    else {
        panic!()
    };
    let c = object["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .find(|c| c["type"] == "Progressing")
        .unwrap();
    assert_eq!(
        (c["status"].as_str(), c["reason"].as_str()),
        (Some("False"), Some("ProgressDeadlineExceeded"))
    );
}

#[test]
fn a_taken_name_is_counted_as_a_collision() {
    let d = Object::from_value(deployment(1, "v1"));
    let taken = Some(set("other", 1, 1, 1, 1));
    let o = Observed {
        deployment: &d,
        sets: vec![],
        taken,
        old_pods_run: &|_| false,
        now: Timestamp::UNIX_EPOCH,
    };
    let decision = decide(&o);
    let [Action::UpdateSub { object, .. }] = decision.actions.as_slice() else {
        panic!("{:?}", decision.actions)
    };
    assert_eq!(object["status"]["collisionCount"], 1);
    assert_ne!(template_hash(&d), template_hash(&Object::from_value(object.clone())));
}

/// Plays the kubelet: every pod that is not ready becomes ready, every one that is to go goes.
async fn kubelet(world: &World) {
    for pod in world.fake.all(&gvr::PODS) {
        if !view::is_ready(&pod) {
            let mut value = pod.value().clone();
            value["status"] =
                json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
            world.fake.put(&gvr::PODS, value);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_whole_rollout_and_back() {
    let world = World::new();
    world.machine.start(ReplicaSets::new(&world.machine));
    world.machine.start(Deployments::new(&world.machine));
    world.fake.put(&gvr::DEPLOYMENTS, deployment(3, "v1"));
    let finish = async |image: &str, revision: &str| {
        for _ in 0..20 {
            world.settle().await;
            kubelet(&world).await;
            let (pods, d) =
                (world.fake.all(&gvr::PODS), world.fake.get(&gvr::DEPLOYMENTS, "ns", "kubia").unwrap());
            let ready = pods.iter().filter(|p| view::is_ready(p)).count();
            assert!(pods.len() <= 4 && (ready >= 2 || revision == "1"), "{} pods, {ready} ready", pods.len());
            let complete = d.status()["updatedReplicas"] == 3
                && d.status()["availableReplicas"] == 3
                && d.status()["replicas"] == 3;
            if complete && pods.iter().all(|p| p.at(&["spec", "containers"])[0]["image"] == image) {
                assert_eq!(d.annotation(REVISION), Some(revision));
                assert!(view::is_true(&d, "Available"));
                assert_eq!(view::condition(&d, "Progressing").unwrap()["reason"], "NewReplicaSetAvailable");
                return;
            }
        }
        panic!("the rollout to {image} does not end");
    };
    finish("v1", "1").await;
    let image = async |image: &str| {
        let patch = json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        world
            .machine
            .client()
            .patch(&gvr::DEPLOYMENTS, "ns", "kubia", PatchType::Merge, &patch)
            .await
            .unwrap();
    };
    image("v2").await;
    finish("v2", "2").await;
    assert_eq!(world.fake.all(&gvr::REPLICA_SETS).len(), 2, "the old set is kept");
    image("v1").await;
    finish("v1", "3").await;
    assert_eq!(world.fake.all(&gvr::REPLICA_SETS).len(), 2, "and used again");
    let events = world.fake.all(&gvr::EVENTS);
    assert!(events.iter().any(|e| e.value()["message"].as_str().unwrap().ends_with("from 0 to 3")));
    world.fake.remove(&gvr::DEPLOYMENTS, "ns", "kubia");
}
