use super::*;
use api::meta;

use crate::testing::World;
use client::gvr;

#[test]
fn verdicts() {
    use Owner::{Gone, Solid, Waiting};
    let object = |finalizers: Value, deleting: bool| {
        let at = if deleting { json!("2026-01-01T00:00:00Z") } else { Value::Null };
        Object::from_value(
            json!({"metadata": {"name": "o", "finalizers": finalizers, "deletionTimestamp": at}}),
        )
    };
    let plain = || object(Value::Null, false);
    let delete = Verdict::Delete;
    for (what, object, owners, blocks, want) in [
        ("nobody's", plain(), vec![], false, Verdict::Nothing),
        ("its owner is there", plain(), vec![Solid], false, Verdict::Nothing),
        ("its owner is gone", plain(), vec![Gone], false, delete(Propagation::Background)),
        ("one of two is gone", plain(), vec![Solid, Gone], false, Verdict::Disown(vec!["u1".into()])),
        ("its owner waits", plain(), vec![Waiting], false, delete(Propagation::Background)),
        (
            "its owner waits, and it has its own",
            plain(),
            vec![Waiting],
            true,
            delete(Propagation::Foreground),
        ),
        ("one waits, one stays", plain(), vec![Waiting, Solid], true, Verdict::Disown(vec!["u0".into()])),
        ("on its way already", object(Value::Null, true), vec![Gone], false, Verdict::Nothing),
        (
            "with a wish of its own",
            object(json!(["orphan"]), false),
            vec![Gone],
            false,
            delete(Propagation::Orphan),
        ),
    ] {
        let owners: Vec<_> = owners
            .into_iter()
            .enumerate()
            .map(|(i, state)| {
                let r = OwnerReference {
                    api_version: "v1".into(),
                    kind: "X".into(),
                    name: "x".into(),
                    uid: format!("u{i}"),
                    controller: None,
                    block_owner_deletion: Some(true),
                };
                (r, state)
            })
            .collect();
        let verdict = verdict(&Ties::of(&object), object.is_deleting(), &owners, blocks);
        assert_eq!(verdict, want, "{what}");
    }
}

fn resources() -> Vec<discovery::Resource> {
    let resource = |g: &Gvr, kind: &str| discovery::Resource {
        gvr: g.clone(),
        kind: kind.into(),
        namespaced: true,
        verbs: ["list", "watch", "delete"].map(String::from).to_vec(),
    };
    vec![
        resource(&gvr::PODS, "Pod"),
        resource(&gvr::CONFIG_MAPS, "ConfigMap"),
        resource(&gvr::REPLICA_SETS, "ReplicaSet"),
        resource(&gvr::DEPLOYMENTS, "Deployment"),
    ]
}

/// Deployment d owns set s owns pods p and q; p also belongs to a config map c.
fn family(world: &World) {
    world.fake.serve(resources());
    let put = |g: &Gvr, kind: &str, name: &str, owners: Value| {
        world.fake.put(g, json!({"apiVersion": g.api_version(), "kind": kind, "metadata": {"name": name, "namespace": "ns", "uid": name, "ownerReferences": owners}}));
    };
    let owner = |api: &str, kind: &str, name: &str| json!({"apiVersion": api, "kind": kind, "name": name, "uid": name, "controller": true, "blockOwnerDeletion": true});
    put(&gvr::DEPLOYMENTS, "Deployment", "d", json!([]));
    put(&gvr::REPLICA_SETS, "ReplicaSet", "s", json!([owner("apps/v1", "Deployment", "d")]));
    put(&gvr::CONFIG_MAPS, "ConfigMap", "c", json!([]));
    put(&gvr::PODS, "Pod", "p", json!([owner("apps/v1", "ReplicaSet", "s"), owner("v1", "ConfigMap", "c")]));
    put(&gvr::PODS, "Pod", "q", json!([owner("apps/v1", "ReplicaSet", "s")]));
}

async fn deleted(propagation: Propagation) -> (Vec<String>, World) {
    let world = World::new();
    family(&world);
    start(&world.machine);
    world.settle().await;
    let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
    world.machine.client().delete(&gvr::DEPLOYMENTS, "ns", "d", &options).await.unwrap();
    world.settle().await;
    let all = [gvr::DEPLOYMENTS, gvr::REPLICA_SETS, gvr::PODS]
        .iter()
        .flat_map(|g| world.fake.all(g))
        .map(|o| o.name().to_owned())
        .collect();
    (all, world)
}

#[tokio::test(start_paused = true)]
async fn background_takes_all_that_belongs_to_nobody_else() {
    let (left, world) = deleted(Propagation::Background).await;
    assert_eq!(left, ["p"]);
    let p = world.fake.get(&gvr::PODS, "ns", "p").unwrap();
    let owners: Vec<String> = meta::owner_references(p.value()).into_iter().map(|o| o.name).collect();
    assert_eq!(owners, ["c"]);
}

#[tokio::test(start_paused = true)]
async fn foreground_takes_the_owner_last() {
    let world = World::new();
    family(&world);
    // A pod that takes its time to end.
    let mut slow = world.fake.get(&gvr::PODS, "ns", "q").unwrap().value().clone();
    slow["spec"]["nodeName"] = "n".into();
    world.fake.put(&gvr::PODS, slow);
    start(&world.machine);
    world.settle().await;
    let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    world.machine.client().delete(&gvr::DEPLOYMENTS, "ns", "d", &options).await.unwrap();
    world.settle().await;
    assert!(world.fake.get(&gvr::PODS, "ns", "q").unwrap().is_deleting());
    assert!(world.fake.get(&gvr::REPLICA_SETS, "ns", "s").unwrap().is_deleting());
    assert!(world.fake.get(&gvr::DEPLOYMENTS, "ns", "d").is_some());
    world.fake.remove(&gvr::PODS, "ns", "q");
    world.settle().await;
    assert!(world.fake.get(&gvr::REPLICA_SETS, "ns", "s").is_none());
    assert!(world.fake.get(&gvr::DEPLOYMENTS, "ns", "d").is_none());
}

#[tokio::test(start_paused = true)]
async fn orphans_stay() {
    let (left, world) = deleted(Propagation::Orphan).await;
    assert_eq!(left, ["s", "p", "q"]);
    let s = world.fake.get(&gvr::REPLICA_SETS, "ns", "s").unwrap();
    assert!(meta::owner_references(s.value()).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_orphaned_while_nobody_looked_is_found() {
    let world = World::new();
    family(&world);
    world.fake.remove(&gvr::DEPLOYMENTS, "ns", "d");
    start(&world.machine);
    world.settle().await;
    assert!(world.fake.get(&gvr::REPLICA_SETS, "ns", "s").is_none());
    assert!(world.fake.get(&gvr::PODS, "ns", "q").is_none());
}

#[tokio::test(start_paused = true)]
async fn a_circle_holds_nobody_up() {
    let world = World::new();
    world.fake.serve(vec![discovery::Resource {
        gvr: gvr::PODS,
        kind: "Pod".into(),
        namespaced: true,
        verbs: ["list", "watch", "delete"].map(String::from).to_vec(),
    }]);
    for (name, owner) in [("a", "c"), ("b", "a"), ("c", "b")] {
        let owners = json!([{"apiVersion": "v1", "kind": "Pod", "name": owner, "uid": owner, "blockOwnerDeletion": true}]);
        world.fake.put(
            &gvr::PODS,
            json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "ns", "uid": name, "ownerReferences": owners}}),
        );
    }
    start(&world.machine);
    world.settle().await;
    let options = DeleteOptions { propagation: Some(Propagation::Foreground), ..DeleteOptions::default() };
    world.machine.client().delete(&gvr::PODS, "ns", "a", &options).await.unwrap();
    world.settle().await;
    let left: Vec<String> = world.fake.all(&gvr::PODS).iter().map(|o| o.name().to_owned()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn an_owner_of_another_namespace_is_none_and_what_lies_in_none_has_none_there() {
    let world = World::new();
    family(&world);
    let object = |api: &str, kind: &str, name: &str, ns: Option<&str>| {
        json!({"apiVersion": api, "kind": kind, "metadata": {"name": name, "namespace": ns, "uid": name, "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "c", "uid": "c"}]}})
    };
    let nodes = discovery::Resource {
        gvr: gvr::NODES,
        kind: "Node".into(),
        namespaced: false,
        verbs: ["list", "watch", "delete"].map(String::from).to_vec(),
    };
    let mut served = resources();
    served.push(nodes);
    world.fake.serve(served);
    world.fake.put(&gvr::NODES, object("v1", "Node", "n", None));
    world.fake.put(&gvr::PODS, object("v1", "Pod", "elsewhere", Some("other")));
    world.fake.put(&gvr::PODS, object("v1", "Pod", "here", Some("ns")));
    start(&world.machine);
    world.settle().await;
    assert!(
        world.fake.get(&gvr::NODES, "", "n").is_some(),
        "in which namespace its owner would be, nobody knows"
    );
    assert!(world.fake.get(&gvr::PODS, "other", "elsewhere").is_none());
    assert!(world.fake.get(&gvr::PODS, "ns", "here").is_some());
    let mut events: Vec<String> = world
        .fake
        .all(&gvr::EVENTS)
        .iter()
        .map(|e| e.value()["reason"].as_str().unwrap_or_default().to_owned())
        .collect();
    events.dedup();
    assert_eq!(events, ["OwnerRefInvalidNamespace"]);
}
