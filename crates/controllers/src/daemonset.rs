//! DaemonSet: one pod on every node that it fits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::{Key, Object, Value, meta};
use async_trait::async_trait;
use client::{DeleteOptions, Informer, Result, gvr};
use jiff::Timestamp;
use scheduler::{NodeView, PodView};
use serde_json::json;

use crate::machine::BURST;
use crate::revisions::{self, LABEL};
use crate::{Action, Announce, Controller, Decision, Machine, Source, children, view};

/// A pod that has failed is replaced when it is at least this old: else one that fails at once would be made without end.
const LEAST_AGE: Duration = Duration::from_secs(10);

/// The controller.
pub(crate) struct DaemonSets {
    sets: Arc<Informer>,
    pods: Arc<Informer>,
    nodes: Arc<Informer>,
    revisions: Arc<Informer>,
}

impl DaemonSets {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self {
            sets: machine.informer(&gvr::DAEMON_SETS),
            pods: machine.informer(&gvr::PODS),
            nodes: machine.informer(&gvr::NODES),
            revisions: machine.informer(&gvr::CONTROLLER_REVISIONS),
        }
    }
}

#[async_trait]
impl Controller for DaemonSets {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn sources(&self) -> Vec<Source> {
        let sets = self.sets.clone();
        let nodes = Source::with(&self.nodes, move |change| {
            let same = |f: fn(&Object) -> &Value| {
                change.old.as_ref().map(|o| f(o)) == change.new.as_ref().map(|n| f(n))
            };
            // Heartbeats place no pods.
            if same(|o| o.at(&["metadata", "labels"])) && same(|o| o.at(&["spec", "taints"])) {
                return Vec::new();
            }
            sets.list("").iter().map(|s| s.key()).collect()
        });
        vec![
            Source::own(&self.sets),
            children::source(&self.pods, "DaemonSet", &self.sets, children::selector),
            children::source(&self.revisions, "DaemonSet", &self.sets, |_| api::selector::Label::nothing()),
            nodes,
        ]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else { return Ok(Decision::default()) };
        let selector = children::selector(&set);
        if selector.is_everything() {
            let text = "This daemon set is selecting all pods. A non-empty selector is required.";
            return Ok(vec![Action::event(&set, "Warning", "SelectingAll", text)].into());
        }
        let candidates = children::of(&self.pods, &set);
        let (pods, claims) = children::claim(&gvr::PODS, &set, &selector, &candidates);
        if !claims.is_empty() {
            return Ok(claims.into());
        }
        let revisions = children::owned(&self.revisions, &set);
        Ok(decide(&Observed {
            set: &set,
            pods,
            nodes: self.nodes.list(""),
            revisions,
            now: base::clock::now(),
        }))
    }
}

struct Observed<'a> {
    set: &'a Arc<Object>,
    pods: Vec<Arc<Object>>,
    nodes: Vec<Arc<Object>>,
    revisions: Vec<Arc<Object>>,
    now: Timestamp,
}

/// What pods of DaemonSets put up with besides what their template says.
fn tolerations(host_network: bool) -> Vec<Value> {
    let one = |key: &str, effect: &str| json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": effect});
    let mut list = vec![
        one("not-ready", "NoExecute"),
        one("unreachable", "NoExecute"),
        one("disk-pressure", "NoSchedule"),
        one("memory-pressure", "NoSchedule"),
        one("pid-pressure", "NoSchedule"),
        one("unschedulable", "NoSchedule"),
    ];
    if host_network {
        list.push(one("network-unavailable", "NoSchedule"));
    }
    list
}

/// The pod for a node; which node that is stands in its affinity, so that the scheduler puts it there and nowhere else.
fn pod(set: &Object, node: &str, hash: &str) -> Value {
    let template = set.at(&["spec", "template"]);
    let owner = meta::OwnerReference::controller_of(set);
    let mut pod = view::pod_from_template(template, set.namespace(), &view::prefix(set.name()), &owner);
    pod["metadata"]["labels"][LABEL] = hash.into();
    let generation = meta::generation(set.value());
    if generation > 0 {
        pod["metadata"]["labels"]["pod-template-generation"] = generation.to_string().into();
    }
    let mut all = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    for t in tolerations(pod["spec"]["hostNetwork"] == true) {
        if !all.contains(&t) {
            all.push(t);
        }
    }
    pod["spec"]["tolerations"] = all.into();
    let field = json!([{"key": "metadata.name", "operator": "In", "values": [node]}]);
    let required =
        &mut pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    match required["nodeSelectorTerms"].as_array_mut().filter(|t| !t.is_empty()) {
        Some(terms) => terms.iter_mut().for_each(|t| t["matchFields"] = field.clone()),
        None => *required = json!({"nodeSelectorTerms": [{"matchFields": field}]}),
    }
    pod
}

/// The node that a pod is on, or is meant for.
fn node_of(pod: &Object) -> &str {
    let bound = view::text(pod, &["spec", "nodeName"]);
    if !bound.is_empty() {
        return bound;
    }
    let path = [
        "spec",
        "affinity",
        "nodeAffinity",
        "requiredDuringSchedulingIgnoredDuringExecution",
        "nodeSelectorTerms",
    ];
    let fields =
        view::list(pod, &path).iter().flat_map(|t| t["matchFields"].as_array().into_iter().flatten());
    let mut names = fields.filter(|f| f["key"] == "metadata.name").filter_map(|f| f["values"][0].as_str());
    names.next().unwrap_or_default()
}

/// Whether a pod should be put on the node; whether one that is there may stay.
fn belongs(template: &PodView, node: &NodeView) -> (bool, bool) {
    if !template.allows(node) {
        return (false, false);
    }
    let untolerated = |effect: &str| node.taints.iter().any(|t| t.effect == effect && !template.tolerates(t));
    (!untolerated("NoSchedule") && !untolerated("NoExecute"), !untolerated("NoExecute"))
}

struct Place {
    should: bool,
    may_stay: bool,
    pods: Vec<Arc<Object>>,
}

fn decide(o: &Observed<'_>) -> Decision {
    let used = |name: &str| o.pods.iter().any(|p| p.labels().get(LABEL).is_some_and(|h| name.ends_with(h)));
    let revisions = revisions::of(o.set, &o.revisions, &used);
    let mut decision = Decision { actions: revisions.actions, again: None };
    let mut sample = pod(o.set, "", &revisions.hash);
    // The template's own conditions only: the node's name is what is being looked for.
    let own = o.set.at(&["spec", "template", "spec", "affinity"]).clone();
    sample["spec"]["affinity"] = own;
    let template = PodView::new(&Object::from_value(sample));
    let mut places: BTreeMap<&str, Place> = BTreeMap::new();
    for node in &o.nodes {
        let (should, may_stay) = belongs(&template, &NodeView::new(node));
        places.insert(node.name(), Place { should, may_stay, pods: Vec::new() });
    }
    let mut homeless = Vec::new();
    for pod in &o.pods {
        match places.get_mut(node_of(pod)) {
            Some(place) => place.pods.push(pod.clone()),
            None => homeless.push(pod.clone()),
        }
    }
    let rollout =
        Rollout { o, hash: &revisions.hash, min_ready: view::int(o.set, &["spec", "minReadySeconds"], 0) };
    if !o.set.is_deleting() {
        let (create, delete) = rollout.manage(&places, homeless, &mut decision);
        let deletions = delete.into_iter().map(|p| Action::Delete {
            gvr: gvr::PODS,
            options: DeleteOptions::uid(p.uid()),
            object: p,
            announce: Announce::deleted(o.set, "pod"),
        });
        decision.actions.extend(deletions.take(BURST));
        decision.actions.extend(create.into_iter().take(BURST).map(|node| Action::Create {
            gvr: gvr::PODS,
            object: pod(o.set, node, &revisions.hash),
            announce: Announce::created(o.set, "pod"),
        }));
    }
    let status = rollout.status(&places, &mut decision);
    if view::status_differs(o.set, &status) {
        // First, because it is written onto the revision that was seen.
        decision.actions.insert(0, Action::status(&gvr::DAEMON_SETS, o.set, status));
    }
    decision
}

struct Rollout<'a> {
    o: &'a Observed<'a>,
    hash: &'a str,
    min_ready: i64,
}

impl Rollout<'_> {
    fn is_new(&self, pod: &Object) -> bool {
        pod.labels().get(LABEL) == Some(self.hash)
    }

    fn is_available(&self, pod: &Object) -> bool {
        view::is_active(pod)
            && view::until_available(pod, self.min_ready, self.o.now).is_some_and(|left| left.is_zero())
    }

    /// On which nodes to make pods, and which to delete.
    fn manage<'p>(
        &self,
        places: &BTreeMap<&'p str, Place>,
        homeless: Vec<Arc<Object>>,
        decision: &mut Decision,
    ) -> (Vec<&'p str>, Vec<Arc<Object>>) {
        let (mut create, mut delete) = (Vec::new(), Vec::new());
        // Nodes with nothing but an old pod that works.
        let mut outdated: Vec<(&str, Arc<Object>)> = Vec::new();
        let (mut unavailable, mut surging, mut desired) = (0, 0, 0);
        let strategy = |field| self.o.set.at(&["spec", "updateStrategy", "rollingUpdate", field]);
        let rolling = view::text(self.o.set, &["spec", "updateStrategy", "type"]) != "OnDelete";
        for (name, place) in places {
            let live: Vec<&Arc<Object>> = place.pods.iter().filter(|p| !p.is_deleting()).collect();
            if !place.should && (!place.may_stay || live.iter().all(|p| view::is_terminal(p))) {
                delete.extend(live.into_iter().cloned());
                continue;
            }
            desired += i64::from(place.should);
            let (failed, mut good): (Vec<&Arc<Object>>, Vec<_>) =
                live.iter().partition(|p| view::is_terminal(p));
            for pod in failed {
                let age = base::clock::between(view::created(pod), self.o.now);
                if age < LEAST_AGE {
                    decision.after(LEAST_AGE - age);
                    continue;
                }
                let text =
                    format!("Found failed daemon pod {} on node {name}, will try to kill it", pod.key());
                decision.actions.push(Action::event(self.o.set, "Warning", "FailedDaemonPod", text));
                delete.push(pod.clone());
            }
            if place.pods.is_empty() && place.should {
                create.push(*name);
                unavailable += 1;
                continue;
            }
            let surge_here =
                rolling && good.len() == 2 && good.iter().filter(|p| self.is_new(p)).count() == 1;
            if surge_here {
                good.sort_by_key(|p| self.is_new(p));
                if self.is_available(good[1]) || !self.is_available(good[0]) {
                    delete.push(good[0].clone());
                } else {
                    surging += 1;
                }
                continue;
            }
            good.sort_by_key(|p| (!view::is_ready(p), view::created(p)));
            delete.extend(good.iter().skip(1).map(|p| (*p).clone()));
            match good.first() {
                Some(pod) if rolling && !self.is_new(pod) => {
                    if self.is_available(pod) {
                        outdated.push((name, (*pod).clone()));
                    } else {
                        unavailable += 1;
                        delete.push((*pod).clone()); // it does no good: its replacement costs nothing
                    }
                }
                Some(pod) => unavailable += i64::from(!self.is_available(pod)),
                None => unavailable += 1,
            }
        }
        let surge = view::scaled(strategy("maxSurge"), desired, true, 0);
        if surge > 0 {
            let room = usize::try_from(surge - surging).unwrap_or(0);
            create.extend(outdated.iter().take(room).map(|(name, _)| *name));
        } else {
            let most = view::scaled(strategy("maxUnavailable"), desired, true, 1).max(1);
            let room = usize::try_from(most - unavailable).unwrap_or(0);
            delete.extend(outdated.into_iter().take(room).map(|(_, pod)| pod));
        }
        // Pods of nodes that are gone and were never bound; the pod collector sees to the others.
        delete.extend(
            homeless
                .into_iter()
                .filter(|p| !p.is_deleting() && view::text(p, &["spec", "nodeName"]).is_empty()),
        );
        (create, delete)
    }

    fn status(&self, places: &BTreeMap<&str, Place>, decision: &mut Decision) -> Value {
        let (mut desired, mut current, mut misplaced, mut ready, mut updated, mut available) =
            (0, 0, 0, 0, 0, 0);
        for place in places.values() {
            desired += i64::from(place.should);
            let mut pods: Vec<&Arc<Object>> = place.pods.iter().collect();
            pods.sort_by_key(|p| (!view::is_ready(p), p.is_deleting(), view::created(p)));
            let Some(pod) = pods.first() else { continue };
            if !place.should {
                misplaced += 1;
                continue;
            }
            current += 1;
            ready += i64::from(view::is_ready(pod) && view::is_active(pod));
            available += i64::from(self.is_available(pod));
            updated += i64::from(pods.iter().any(|p| self.is_new(p)));
            match view::until_available(pod, self.min_ready, self.o.now) {
                Some(left) if !left.is_zero() => decision.after(left),
                _ => {}
            }
        }
        let mut status = json!({
            "currentNumberScheduled": current, "numberMisscheduled": misplaced, "desiredNumberScheduled": desired,
            "numberReady": ready, "observedGeneration": meta::generation(self.o.set.value()),
        });
        for (field, n) in [
            ("updatedNumberScheduled", updated),
            ("numberAvailable", available),
            ("numberUnavailable", desired - available),
            ("collisionCount", view::int(self.o.set, &["status", "collisionCount"], 0)),
        ] {
            if n != 0 {
                status[field] = n.into();
            }
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn set(image: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "d", "namespace": "ns", "uid": "d", "generation": 1, "resourceVersion": "1"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"nodeSelector": {"disk": "ssd"}, "containers": [{"name": "c", "image": image}]}}}})
    }

    fn node(name: &str, disk: &str, taints: Value) -> Arc<Object> {
        Object::from_value(
            json!({"metadata": {"name": name, "labels": {"disk": disk}}, "spec": {"taints": taints}}),
        )
    }

    /// A pod of the set on a node; old ones have another hash.
    fn on(node: &str, set: &Value, old: bool, ready: bool) -> Arc<Object> {
        let set = Object::from_value(set.clone());
        let hash = if old { "old".to_owned() } else { revisions::of(&set, &[], &|_| true).hash };
        let mut p = pod(&set, node, &hash);
        p["metadata"]["name"] = format!("{}-{node}", if old { "old" } else { "new" }).into();
        p["metadata"]["uid"] = p["metadata"]["name"].clone();
        p["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]});
        Object::from_value(p)
    }

    fn run(set: &Value, nodes: &[Arc<Object>], pods: &[Arc<Object>]) -> (Vec<String>, Decision) {
        let set = Object::from_value(set.clone());
        let d = decide(&Observed {
            set: &set,
            pods: pods.to_vec(),
            nodes: nodes.to_vec(),
            revisions: vec![],
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
        });
        let say = |a: &Action| match a {
            Action::Create { gvr, object, .. } if gvr.resource == "pods" => {
                Some(format!("+{}", node_of(&Object::from_value(object.clone()))))
            }
            Action::Delete { object, .. } => Some(format!("-{}", object.name())),
            _ => None,
        };
        (d.actions.iter().filter_map(say).collect(), d)
    }

    #[test]
    fn one_on_every_node_that_fits() {
        let s = set("v1");
        let keep_out = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]);
        let drive_out = json!([{"key": "k", "value": "v", "effect": "NoExecute"}]);
        let not_ready = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoExecute"}, {"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}]);
        let ssd = |taints: &Value| vec![node("n", "ssd", taints.clone())];
        let here = || vec![on("n", &s, false, true)];
        for (what, nodes, pods, want) in [
            ("missing", ssd(&Value::Null), vec![], "+n"),
            ("there", ssd(&Value::Null), here(), ""),
            ("does not match", vec![node("n", "hdd", Value::Null)], vec![], ""),
            ("no longer matches", vec![node("n", "hdd", Value::Null)], here(), "-new-n"),
            ("taint that keeps out", ssd(&keep_out), vec![], ""),
            ("but lets stay", ssd(&keep_out), here(), ""),
            ("taint that drives out", ssd(&drive_out), here(), "-new-n"),
            ("taints that daemons bear", ssd(&not_ready), vec![], "+n"),
            (
                "two are one too many",
                ssd(&Value::Null),
                vec![on("n", &s, false, true), on("n", &s, false, false)],
                "-new-n",
            ),
            ("its node is gone", vec![], here(), "-new-n"),
        ] {
            assert_eq!(run(&s, &nodes, &pods).0.join(" "), want, "{what}");
        }
    }

    #[test]
    fn a_rolling_update_takes_one_at_a_time() {
        let s = set("v1");
        let nodes: Vec<_> = ["a", "b", "c"].iter().map(|n| node(n, "ssd", Value::Null)).collect();
        let old = |n: &str| on(n, &s, true, true);
        assert_eq!(run(&s, &nodes, &[old("a"), old("b"), old("c")]).0, ["-old-a"]);
        assert_eq!(
            run(&s, &nodes, &[on("a", &s, false, false), old("b"), old("c")]).0.len(),
            0,
            "the new one is not up"
        );
        assert_eq!(run(&s, &nodes, &[on("a", &s, false, true), old("b"), old("c")]).0, ["-old-b"]);
        assert_eq!(
            run(&s, &nodes, &[on("a", &s, true, false), old("b"), old("c")]).0,
            ["-old-a"],
            "a sick one first"
        );
        let mut surge = s.clone();
        surge["spec"]["updateStrategy"]["rollingUpdate"] = json!({"maxUnavailable": 0, "maxSurge": 1});
        let nodes = &nodes[..2];
        assert_eq!(run(&surge, nodes, &[old("a"), old("b")]).0, ["+a"]);
        assert_eq!(run(&surge, nodes, &[old("a"), on("a", &s, false, false), old("b")]).0.len(), 0);
        assert_eq!(run(&surge, nodes, &[old("a"), on("a", &s, false, true), old("b")]).0, ["-old-a", "+b"]);
        surge["spec"]["updateStrategy"] = json!({"type": "OnDelete"});
        assert_eq!(run(&surge, nodes, &[old("a"), old("b")]).0.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn labelling_a_node_brings_the_pod() {
        let world = World::new();
        world.machine.start(DaemonSets::new(&world.machine));
        world.fake.put(&gvr::NODES, node("n", "hdd", Value::Null).value().clone());
        world.fake.put(&gvr::DAEMON_SETS, set("v1"));
        world.settle().await;
        let status = || {
            world.fake.get(&gvr::DAEMON_SETS, "ns", "d").unwrap().status()["desiredNumberScheduled"].clone()
        };
        assert_eq!((world.fake.all(&gvr::PODS).len(), status()), (0, json!(0)));
        world.fake.put(&gvr::NODES, node("n", "ssd", Value::Null).value().clone());
        world.settle().await;
        assert_eq!((world.fake.all(&gvr::PODS).len(), status()), (1, json!(1)));
        assert_eq!(world.fake.all(&gvr::CONTROLLER_REVISIONS).len(), 1);
        world.fake.put(&gvr::NODES, node("n", "hdd", Value::Null).value().clone());
        world.settle().await;
        assert_eq!(world.fake.all(&gvr::PODS).len(), 0);
    }
}
