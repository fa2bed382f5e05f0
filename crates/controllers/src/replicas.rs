//! ReplicaSet and ReplicationController: so many pods of one template. They differ in how their selector is written and in
//! nothing else.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use api::selector::Label;
use api::{Gvr, Key, Object, Value, meta};
use async_trait::async_trait;
use client::{DeleteOptions, Informer, Result, gvr};
use jiff::Timestamp;
use serde_json::json;

use crate::machine::BURST;
use crate::{Action, Announce, Controller, Decision, Machine, Source, children, view};

/// Pods with a lower number go first when there are too many.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

struct Kind {
    name: &'static str,
    kind: &'static str,
    gvr: Gvr,
    selector: children::SelectorOf,
}

/// The controller of one of the two kinds.
struct Replicas {
    kind: Kind,
    owners: Arc<Informer>,
    pods: Arc<Informer>,
}

impl Replicas {
    fn new(machine: &Machine, kind: Kind) -> Self {
        let (owners, pods) = (machine.informer(&kind.gvr), machine.informer(&gvr::PODS));
        children::prepare(&pods);
        Self { kind, owners, pods }
    }

    fn sources(&self) -> Vec<Source> {
        vec![
            Source::own(&self.owners),
            children::source(&self.pods, self.kind.kind, &self.owners, self.kind.selector),
        ]
    }

    fn reconcile(&self, key: &Key, failure: Option<&str>) -> Decision {
        let Some(owner) = self.owners.get(&key.namespace, &key.name) else { return Decision::default() };
        let selector = (self.kind.selector)(&owner);
        let pods = children::of(&self.pods, &owner);
        let observed =
            Observed { gvr: &self.kind.gvr, owner: &owner, selector, pods, now: base::clock::now(), failure };
        decide(&observed)
    }
}

macro_rules! controller {
    ($(#[$doc:meta])* $type:ident, $kind:expr) => {
        $(#[$doc])*
        pub(crate) struct $type(Replicas);

        impl $type {
            pub(crate) fn new(machine: &Machine) -> Self {
                Self(Replicas::new(machine, $kind))
            }
        }

        #[async_trait]
        impl Controller for $type {
            fn name(&self) -> &'static str {
                self.0.kind.name
            }

            fn sources(&self) -> Vec<Source> {
                self.0.sources()
            }

            async fn reconcile(&self, key: &Key, failure: Option<&str>) -> Result<Decision> {
                Ok(self.0.reconcile(key, failure))
            }
        }
    };
}

controller!(
    /// apps/v1 ReplicaSet.
    ReplicaSets,
    Kind {
        name: "replicaset-controller",
        kind: "ReplicaSet",
        gvr: gvr::REPLICA_SETS,
        selector: children::selector,
    }
);

controller!(
    /// v1 ReplicationController.
    ReplicationControllers,
    Kind {
        name: "replication-controller",
        kind: "ReplicationController",
        gvr: gvr::REPLICATION_CONTROLLERS,
        selector: match_labels,
    }
);

/// The selector of kinds that have a plain map of labels; an empty one matches nothing.
pub(crate) fn match_labels(owner: &Object) -> Label {
    match owner.at(&["spec", "selector"]) {
        Value::Object(m) if !m.is_empty() => Label::from_match_labels(owner.at(&["spec", "selector"])),
        _ => Label::nothing(),
    }
}

struct Observed<'a> {
    gvr: &'a Gvr,
    owner: &'a Arc<Object>,
    selector: Label,
    /// The owner's and nobody's.
    pods: Vec<Arc<Object>>,
    now: Timestamp,
    failure: Option<&'a str>,
}

fn decide(o: &Observed<'_>) -> Decision {
    let (mine, mut actions) = children::claim(&gvr::PODS, o.owner, &o.selector, &o.pods);
    let active: Vec<Arc<Object>> = mine.into_iter().filter(|p| view::is_active(p)).collect();
    let want = view::int(o.owner, &["spec", "replicas"], 1).max(0) as usize;
    let mut manage = Vec::new();
    if !o.owner.is_deleting() {
        if active.len() < want {
            manage = create(o.owner, (want - active.len()).min(BURST));
        } else if active.len() > want {
            let excess = (active.len() - want).min(BURST);
            let rest = rank(&active, o.now).into_iter().take(excess);
            manage = rest.map(|p| delete(o.owner, &p)).collect();
        }
    }
    let mut decision = Decision::default();
    let status = status(o, &active, &mut decision);
    // While pods are being made or deleted the numbers are about to change; but a failure must be told.
    let told = manage.is_empty() || o.failure.is_some() || generation_is_new(o.owner);
    if told && view::status_differs(o.owner, &status) {
        actions.push(Action::status(o.gvr, o.owner, status));
    }
    actions.extend(manage);
    decision.actions = actions;
    decision
}

fn generation_is_new(owner: &Object) -> bool {
    view::int(owner, &["status", "observedGeneration"], 0) < meta::generation(owner.value())
}

fn create(owner: &Arc<Object>, n: usize) -> Vec<Action> {
    let reference = meta::OwnerReference::controller_of(owner);
    let template = owner.at(&["spec", "template"]);
    let pod = view::pod_from_template(template, owner.namespace(), &view::prefix(owner.name()), &reference);
    let announce = Announce::created(owner, "pod");
    let action = Action::Create { gvr: gvr::PODS, object: pod, announce };
    vec![action; n]
}

fn delete(owner: &Arc<Object>, pod: &Arc<Object>) -> Action {
    Action::Delete {
        gvr: gvr::PODS,
        object: pod.clone(),
        options: DeleteOptions::uid(pod.uid()),
        announce: Announce::deleted(owner, "pod"),
    }
}

/// The pods in the order in which they go when there are too many: those that do least good first.
fn rank(pods: &[Arc<Object>], now: Timestamp) -> Vec<Arc<Object>> {
    let mut on_node: HashMap<&str, i64> = HashMap::new();
    for pod in pods {
        *on_node.entry(view::text(pod, &["spec", "nodeName"])).or_default() += 1;
    }
    let mut ranked: Vec<Arc<Object>> = pods.to_vec();
    ranked.sort_by_cached_key(|p| {
        let node = view::text(p, &["spec", "nodeName"]);
        let phase = match view::phase(p) {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        };
        let ready = view::is_ready(p);
        let cost: i64 = p.annotation(DELETION_COST).and_then(|c| c.parse().ok()).unwrap_or(0);
        let since =
            view::condition(p, "Ready").and_then(|c| view::time(&c["lastTransitionTime"])).unwrap_or(now);
        let restarts = view::list(p, &["status", "containerStatuses"]);
        let restarts = restarts.iter().filter_map(|c| c["restartCount"].as_i64()).max().unwrap_or(0);
        let doubled = on_node.get(node).copied().unwrap_or(0);
        // A pod that has been ready for longer stays, and an older one.
        let ready_since = if ready { Reverse(since) } else { Reverse(Timestamp::MIN) };
        (
            (!node.is_empty(), phase, ready, cost, Reverse(doubled)),
            (ready_since, Reverse(restarts), Reverse(view::created(p))),
        )
    });
    ranked
}

fn status(o: &Observed<'_>, active: &[Arc<Object>], decision: &mut Decision) -> Value {
    let min_ready = view::int(o.owner, &["spec", "minReadySeconds"], 0);
    let labels = Label::from_match_labels(o.owner.at(&["spec", "template", "metadata", "labels"]));
    let (mut labeled, mut ready, mut available) = (0, 0, 0);
    for pod in active {
        labeled += i64::from(labels.matches(pod.labels()));
        match view::until_available(pod, min_ready, o.now) {
            Some(left) if left.is_zero() => (ready, available) = (ready + 1, available + 1),
            Some(left) => {
                ready += 1;
                decision.after(left);
            }
            None => {}
        }
    }
    let mut status = json!({"replicas": active.len()});
    for (field, n) in
        [("fullyLabeledReplicas", labeled), ("readyReplicas", ready), ("availableReplicas", available)]
    {
        if n > 0 {
            status[field] = n.into();
        }
    }
    let generation = meta::generation(o.owner.value());
    if generation > 0 {
        status["observedGeneration"] = generation.into();
    }
    let mut conditions = view::list(o.owner, &["status", "conditions"]).to_vec();
    match o.failure {
        Some(message) => {
            let now = meta::time(o.now);
            let reason = if active.len() as i64 <= view::int(o.owner, &["spec", "replicas"], 1) {
                "FailedCreate"
            } else {
                "FailedDelete"
            };
            meta::set_condition(&mut conditions, "ReplicaFailure", "True", reason, message, &now);
        }
        None => conditions.retain(|c| c["type"] != "ReplicaFailure"),
    }
    if !conditions.is_empty() {
        status["conditions"] = conditions.into();
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{World, summary};

    fn rs(replicas: i64) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": "r", "namespace": "ns", "uid": "r", "generation": 1, "resourceVersion": "1"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}}})
    }

    fn pod(name: &str, phase: &str, ready: bool, node: &str) -> Arc<Object> {
        Object::from_value(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"a": "b"}, "ownerReferences":
                [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]},
            "spec": {"nodeName": node},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" },
                "lastTransitionTime": "2026-01-01T00:00:00Z"}]}}))
    }

    fn check(owner: Value, pods: &[Arc<Object>], failure: Option<&str>) -> (Vec<String>, Decision) {
        let owner = Object::from_value(owner);
        let selector = children::selector(&owner);
        let now = "2026-01-01T00:00:10Z".parse().unwrap();
        let o =
            Observed { gvr: &gvr::REPLICA_SETS, owner: &owner, selector, pods: pods.to_vec(), now, failure };
        let decision = decide(&o);
        (summary(&decision.actions), decision)
    }

    #[test]
    fn decisions() {
        let done = json!({"replicas": 1, "fullyLabeledReplicas": 1, "readyReplicas": 1, "availableReplicas": 1, "observedGeneration": 1});
        let mut settled = rs(1);
        settled["status"] = done;
        let running = pod("p", "Running", true, "n");
        let mut deleting = rs(3);
        deleting["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        for (what, owner, pods, want) in [
            ("nothing there", rs(2), vec![], "status replicasets/r; create pods r-; create pods r-"),
            ("all is well", settled.clone(), vec![running.clone()], ""),
            (
                "a dead one does not count",
                settled.clone(),
                vec![pod("d", "Failed", false, "n")],
                "create pods r-",
            ),
            (
                "too many: the one without a node goes",
                settled,
                vec![running.clone(), pod("q", "Pending", false, "")],
                "delete pods/q",
            ),
            ("an owner that goes makes nothing", deleting, vec![], "status replicasets/r"),
        ] {
            assert_eq!(check(owner, &pods, None).0.join("; "), want, "{what}");
        }
    }

    #[test]
    fn a_failure_is_told_first_and_taken_back_later() {
        let (actions, d) = check(rs(1), &[], Some("quota"));
        assert_eq!(actions, ["status replicasets/r", "create pods r-"]);
        let Action::UpdateSub { object, .. } = &d.actions[0] else { panic!() };
        assert_eq!(object["status"]["conditions"][0]["message"], "quota");
        let mut owner = rs(1);
        owner["status"] = object["status"].clone();
        let (_, d) = check(owner, &[pod("p", "Running", true, "n")], None);
        let Action::UpdateSub { object, .. } = &d.actions[0] else { panic!() };
        assert!(object["status"]["conditions"].is_null());
    }

    #[test]
    fn readiness_takes_its_time() {
        let mut owner = rs(1);
        owner["spec"]["minReadySeconds"] = 15.into();
        let (_, d) = check(owner, &[pod("p", "Running", true, "n")], None);
        assert_eq!(d.again, Some(std::time::Duration::from_secs(5)));
        let Action::UpdateSub { object, .. } = &d.actions[0] else { panic!() };
        assert_eq!(
            (&object["status"]["readyReplicas"], &object["status"]["availableReplicas"]),
            (&json!(1), &Value::Null)
        );
    }

    #[test]
    fn the_order_of_deletion() {
        let now = "2026-01-01T00:00:10Z".parse().unwrap();
        let pods = [
            pod("ready", "Running", true, "n1"),
            pod("ready-doubled", "Running", true, "n2"),
            pod("starting", "Pending", false, "n2"),
            pod("unready", "Running", false, "n1"),
            pod("unbound", "Pending", false, ""),
            pod("n2", "Unknown", false, "n2"),
        ];
        let names: Vec<String> = rank(&pods, now).iter().map(|p| p.name().to_owned()).collect();
        assert_eq!(names, ["unbound", "starting", "n2", "unready", "ready-doubled", "ready"]);
    }

    #[tokio::test(start_paused = true)]
    async fn pods_are_made_replaced_and_never_doubled() {
        let world = World::new();
        world.machine.start(ReplicaSets::new(&world.machine));
        world.fake.put(&gvr::REPLICA_SETS, rs(5));
        world.settle().await;
        assert_eq!(world.fake.all(&gvr::PODS).len(), 5);
        let victim = world.fake.all(&gvr::PODS)[0].clone();
        assert!(victim.name().starts_with("r-") && victim.name().len() == 7);
        world.fake.remove(&gvr::PODS, "ns", victim.name());
        world.settle().await;
        assert_eq!(world.fake.all(&gvr::PODS).len(), 5);
        assert_eq!(world.fake.get(&gvr::REPLICA_SETS, "ns", "r").unwrap().status()["replicas"], 5);
        let events = world.fake.all(&gvr::EVENTS);
        assert!(events.iter().any(|e| e.value()["message"] == format!("Created pod: {}", victim.name())));
        assert_eq!(world.fake.requests().iter().filter(|r| *r == "POST pods").count(), 6);
        // A refusal does not stop it for good.
        world.fake.fail_next("POST", "pods", api::Status::forbidden(&gvr::PODS, "x", "exceeded quota"));
        world.fake.remove(&gvr::PODS, "ns", world.fake.all(&gvr::PODS)[0].name());
        world.settle().await;
        assert_eq!(world.fake.all(&gvr::PODS).len(), 5);
        assert!(world.fake.all(&gvr::EVENTS).iter().any(|e| e.value()["reason"] == "FailedCreate"));
        assert!(world.fake.get(&gvr::REPLICA_SETS, "ns", "r").unwrap().status()["conditions"].is_null());
    }
}
