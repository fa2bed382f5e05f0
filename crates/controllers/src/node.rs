//! Nodes that no longer answer: their conditions become unknown, taints keep pods away and, in time, drive them out.
//!
//! A node answers by renewing its Lease (or its status). How long it has been silent is told by our own clock, from the
//! moment that we saw its last answer: clocks of other machines may be wrong, and a controller that has just started has
//! not listened yet. Whoever tolerates a taint for a while only is deleted when that while is over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::{Key, Object, Value, meta};
use async_trait::async_trait;
use client::{Change, DeleteOptions, Informer, Result, gvr};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::json;
use tokio::time::Instant;

use crate::{Action, Controller, Decision, Machine, Source, view};

/// A node that has not answered for so long is no longer known to be well (upstream's node-monitor-grace-period).
const GRACE: Duration = Duration::from_secs(50);
/// Where nodes' Leases lie.
const LEASES: &str = "kube-node-lease";
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Conditions of a node that are taints too, where they are `True`.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];

/// The controller. Its keys are nodes.
pub(crate) struct Nodes {
    nodes: Arc<Informer>,
    leases: Arc<Informer>,
    pods: Arc<Informer>,
    heard: Arc<Heard>,
}

/// When each node was last seen to answer. Without a memory of it, silence counts from now.
#[derive(Default)]
struct Heard(Mutex<HashMap<String, Instant>>);

impl Heard {
    /// Notes an answer if `answer` is not what it was before the change.
    fn note(&self, name: &str, change: &Change, answer: fn(&Object) -> &Value) {
        let before = change.old.as_deref().map(answer);
        match change.new.as_deref().map(answer) {
            Some(now) if before != Some(now) => drop(self.0.lock().insert(name.to_owned(), Instant::now())),
            _ => {}
        }
    }

    fn silence(&self, name: &str) -> Duration {
        self.0.lock().entry(name.to_owned()).or_insert_with(Instant::now).elapsed()
    }

    fn forget(&self, name: &str) {
        self.0.lock().remove(name);
    }
}

fn renewed(lease: &Object) -> &Value {
    lease.at(&["spec", "renewTime"])
}

fn heartbeat(node: &Object) -> &Value {
    view::condition(node, "Ready").map_or(&Value::Null, |c| &c["lastHeartbeatTime"])
}

impl Nodes {
    pub(crate) fn new(machine: &Machine) -> Self {
        let pods = machine.informer(&gvr::PODS);
        pods.add_index(client::index::NODE, client::index::node);
        let (nodes, leases) = (machine.informer(&gvr::NODES), machine.informer(&gvr::LEASES));
        Self { nodes, leases, pods, heard: Arc::default() }
    }
}

#[async_trait]
impl Controller for Nodes {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn sources(&self) -> Vec<Source> {
        let (nodes, heard) = (self.nodes.clone(), self.heard.clone());
        // A renewed Lease matters only to a node that was thought to be lost; the time of the others is looked at in time.
        let renewed = Source::with(&self.leases, move |c| {
            let lease = c.object();
            if lease.namespace() != LEASES {
                return Vec::new();
            }
            heard.note(lease.name(), c, renewed);
            let lost = nodes.get("", lease.name()).is_some_and(|n| taint(&n, UNREACHABLE));
            if lost { vec![Key::new("", lease.name())] } else { Vec::new() }
        });
        let heard = self.heard.clone();
        let own = Source::with(&self.nodes, move |c| {
            // What we ourselves write into its status leaves the time of its heartbeat as it was.
            heard.note(c.object().name(), c, heartbeat);
            vec![c.object().key()]
        });
        let nodes = self.nodes.clone();
        let pods = Source::with(&self.pods, move |c| {
            let Some(pod) = &c.new else { return Vec::new() };
            let node = view::text(pod, &["spec", "nodeName"]);
            let was = c.old.as_ref().is_some_and(|o| view::text(o, &["spec", "nodeName"]) == node);
            let drives = || nodes.get("", node).is_some_and(|n| no_execute(&n).next().is_some());
            if !was && !node.is_empty() && drives() { vec![Key::new("", node)] } else { Vec::new() }
        });
        vec![own, renewed, pods]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(node) = self.nodes.get("", &key.name) else {
            self.heard.forget(&key.name);
            return Ok(Decision::default());
        };
        let pods = self.pods.by_index(client::index::NODE, &key.name);
        let silent = self.heard.silence(&key.name);
        Ok(decide(&Observed { node: &node, silent, pods, now: base::clock::now() }))
    }
}

struct Observed<'a> {
    node: &'a Arc<Object>,
    /// Since when the node has not answered.
    silent: Duration,
    pods: Vec<Arc<Object>>,
    now: Timestamp,
}

fn taint(node: &Object, key: &str) -> bool {
    view::list(node, &["spec", "taints"]).iter().any(|t| t["key"] == key)
}

fn no_execute(node: &Object) -> impl Iterator<Item = &Value> {
    view::list(node, &["spec", "taints"]).iter().filter(|t| t["effect"] == "NoExecute")
}

fn decide(o: &Observed<'_>) -> Decision {
    let mut decision = Decision::default();
    let lost = o.silent >= GRACE;
    if !lost {
        // A timer, because silence is what is waited for.
        decision.after(GRACE - o.silent);
    }
    let mut node = o.node.value().clone();
    if lost && conditions_unknown(o, &mut node) {
        if view::is_true(o.node, "Ready") {
            let text = format!("Node {} status is now: NodeNotReady", o.node.name());
            decision.actions.push(Action::event(o.node, "Normal", "NodeNotReady", text));
            decision.actions.extend(o.pods.iter().filter(|p| view::is_ready(p)).map(|p| unready(p, o.now)));
        }
        decision.actions.push(Action::status(&gvr::NODES, o.node, node["status"].clone()));
        decision.after(Duration::ZERO); // the taints follow from the conditions
        return decision;
    }
    let taints = taints(o);
    if taints.as_slice() != view::list(o.node, &["spec", "taints"]) {
        let list = if taints.is_empty() { Value::Null } else { taints.into() };
        let patch =
            json!({"metadata": {"resourceVersion": o.node.revision().to_string()}, "spec": {"taints": list}});
        decision.actions.push(Action::patch(&gvr::NODES, o.node, patch));
        decision.after(Duration::ZERO);
        return decision;
    }
    drive_out(o, &mut decision);
    decision
}

/// Sets the conditions that the node should have renewed to unknown. Gives whether that changed anything.
fn conditions_unknown(o: &Observed<'_>, node: &mut Value) -> bool {
    let now = meta::time(o.now);
    let mut conditions = view::list(o.node, &["status", "conditions"]).to_vec();
    let mut changed = false;
    for kind in ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"] {
        match conditions.iter_mut().find(|c| c["type"] == kind) {
            Some(c) if c["status"] == "Unknown" => {}
            Some(c) => {
                c["status"] = "Unknown".into();
                c["reason"] = "NodeStatusUnknown".into();
                c["message"] = "Kubelet stopped posting node status.".into();
                c["lastTransitionTime"] = now.as_str().into();
                changed = true;
            }
            None => {
                conditions.push(json!({"type": kind, "status": "Unknown", "reason": "NodeStatusNeverUpdated",
                    "message": "Kubelet never posted node status.", "lastHeartbeatTime": meta::time(view::created(o.node)),
                    "lastTransitionTime": now}));
                changed = true;
            }
        }
    }
    node["status"]["conditions"] = conditions.into();
    changed
}

/// A pod of a lost node is no longer known to be ready: services stop sending to it.
fn unready(pod: &Object, now: Timestamp) -> Action {
    let mut conditions = view::list(pod, &["status", "conditions"]).to_vec();
    for c in conditions.iter_mut().filter(|c| c["type"] == "Ready") {
        c["status"] = "False".into();
        c["lastTransitionTime"] = meta::time(now).into();
    }
    let patch = json!({"metadata": view::unchanged(pod), "status": {"conditions": conditions}});
    Action::Patch { gvr: gvr::PODS, key: pod.key(), sub: "status", patch }
}

/// The taints that the node should have: those of its conditions, and those that somebody else gave it.
fn taints(o: &Observed<'_>) -> Vec<Value> {
    let current = view::list(o.node, &["spec", "taints"]);
    let status = |kind: &str| view::condition(o.node, kind).and_then(|c| c["status"].as_str());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match status("Ready") {
        Some("True") => {}
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some(_) => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        // It has only just registered: nothing is to be put there, and nothing is there to be driven out.
        None => wanted.push((NOT_READY, "NoSchedule")),
    }
    for (condition, key) in PRESSURES {
        if status(condition) == Some("True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    if o.node.at(&["spec", "unschedulable"]) == true {
        wanted.push(("node.kubernetes.io/unschedulable", "NoSchedule"));
    }
    let ours = |key: &str| {
        key == NOT_READY
            || key == UNREACHABLE
            || key == "node.kubernetes.io/unschedulable"
            || PRESSURES.iter().any(|(_, k)| *k == key)
    };
    let is = |t: &Value, (key, effect): &(&str, &str)| t["key"] == *key && t["effect"] == *effect;
    let mut list: Vec<Value> = current
        .iter()
        .filter(|t| !ours(t["key"].as_str().unwrap_or_default()) || wanted.iter().any(|w| is(t, w)))
        .cloned()
        .collect();
    for w in &wanted {
        if !list.iter().any(|t| is(t, w)) {
            let mut taint = json!({"key": w.0, "effect": w.1});
            if w.1 == "NoExecute" || w.0.ends_with("unschedulable") {
                taint["timeAdded"] = meta::time(o.now).into();
            }
            list.push(taint);
        }
    }
    list
}

/// Deletes pods that do not tolerate the node's taints, or no longer.
fn drive_out(o: &Observed<'_>, decision: &mut Decision) {
    let taints: Vec<&Value> = no_execute(o.node).collect();
    if taints.is_empty() {
        return;
    }
    for pod in o.pods.iter().filter(|p| !p.is_deleting() && !view::is_terminal(p)) {
        // The shortest time that any taint leaves it; `None`: for ever.
        let mut left: Option<Duration> = None;
        for taint in &taints {
            let matching: Vec<&Value> =
                view::list(pod, &["spec", "tolerations"]).iter().filter(|t| tolerates(t, taint)).collect();
            let added = view::time(&taint["timeAdded"]).unwrap_or(o.now);
            let bounds = matching.iter().filter_map(|t| t["tolerationSeconds"].as_i64());
            let allowed = match (matching.is_empty(), bounds.min()) {
                (true, _) => Some(Duration::ZERO),
                (false, Some(seconds)) => Some(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
                (false, None) => None,
            };
            if let Some(allowed) = allowed {
                let rest = allowed.saturating_sub(base::clock::between(added, o.now));
                left = Some(left.map_or(rest, |l| l.min(rest)));
            }
        }
        match left {
            Some(left) if left.is_zero() => {
                let text = format!("Marking for deletion Pod {}", pod.key());
                decision.actions.push(Action::event(pod, "Normal", "TaintManagerEviction", text));
                let mut conditions = view::list(pod, &["status", "conditions"]).to_vec();
                let text = "Taint manager: deleting due to NoExecute taint";
                let now = meta::time(o.now);
                meta::set_condition(
                    &mut conditions,
                    "DisruptionTarget",
                    "True",
                    "DeletionByTaintManager",
                    text,
                    &now,
                );
                let patch = json!({"metadata": view::unchanged(pod), "status": {"conditions": conditions}});
                decision.actions.push(Action::Patch { gvr: gvr::PODS, key: pod.key(), sub: "status", patch });
                let options = DeleteOptions::uid(pod.uid());
                decision.actions.push(Action::Delete {
                    gvr: gvr::PODS,
                    object: pod.clone(),
                    options,
                    announce: None,
                });
            }
            Some(left) => decision.after(left),
            None => {}
        }
    }
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let (key, effect) = (text(&toleration["key"]), text(&toleration["effect"]));
    (effect.is_empty() || effect == text(&taint["effect"]))
        && (key.is_empty() || key == text(&taint["key"]))
        && (toleration["operator"] == "Exists" || text(&toleration["value"]) == text(&taint["value"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::summary;

    fn node(ready: &str, taints: Value) -> Arc<Object> {
        Object::from_value(
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z", "resourceVersion": "1"},
            "spec": {"taints": taints}, "status": {"conditions": [{"type": "Ready", "status": ready, "lastHeartbeatTime": "2026-01-01T00:00:00Z"}]}}),
        )
    }

    fn pod(seconds: Option<i64>) -> Arc<Object> {
        let mut t = json!({"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute"});
        if let Some(s) = seconds {
            t["tolerationSeconds"] = s.into();
        }
        Object::from_value(
            json!({"metadata": {"name": format!("p{}", seconds.unwrap_or(0)), "namespace": "ns", "uid": "p"},
            "spec": {"nodeName": "n", "tolerations": [t]}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
        )
    }

    fn run(node: &Arc<Object>, silent: Duration, pods: Vec<Arc<Object>>) -> (String, Decision) {
        let now = "2026-01-01T01:00:00Z".parse().unwrap();
        let d = decide(&Observed { node, silent, pods, now });
        (summary(&d.actions).join("; "), d)
    }

    const JUST: Duration = Duration::from_secs(10);
    const LONG_AGO: Duration = Duration::from_secs(50);

    #[tokio::test(start_paused = true)]
    async fn silence_is_told_by_our_own_clock() {
        let lease =
            |time: &str| Object::from_value(json!({"metadata": {"name": "n"}, "spec": {"renewTime": time}}));
        let heard = Heard::default();
        let change = |old: Option<&str>, new: &str| Change { old: old.map(lease), new: Some(lease(new)) };
        // The first sight of an old Lease counts as an answer; the same time seen again does not.
        heard.note("n", &change(None, "2020-01-01T00:00:00Z"), renewed);
        tokio::time::advance(Duration::from_secs(30)).await;
        heard.note("n", &change(Some("2020-01-01T00:00:00Z"), "2020-01-01T00:00:00Z"), renewed);
        assert_eq!(heard.silence("n"), Duration::from_secs(30));
        // A clock that is behind ours renews all the same.
        heard.note("n", &change(Some("2020-01-01T00:00:00Z"), "2020-01-01T00:00:10Z"), renewed);
        assert_eq!(heard.silence("n"), Duration::ZERO);
        tokio::time::advance(LONG_AGO).await;
        assert_eq!(heard.silence("n"), LONG_AGO);
        assert_eq!(heard.silence("never seen"), Duration::ZERO);
    }

    #[test]
    fn silence_makes_unknown_and_taints() {
        let (actions, d) = run(&node("True", Value::Null), JUST, vec![]);
        assert_eq!((actions.as_str(), d.again), ("", Some(Duration::from_secs(40))));
        let (actions, _) = run(&node("True", Value::Null), LONG_AGO, vec![pod(None)]);
        assert!(
            actions.starts_with("event NodeNotReady")
                && actions.contains("patch pods/p0")
                && actions.ends_with("status nodes/n"),
            "{actions}"
        );
    }

    #[test]
    fn taints_follow_the_conditions() {
        let keys = |n: &Arc<Object>, silent: Duration| {
            let (_, d) = run(n, silent, vec![]);
            let patch = d.actions.iter().find_map(|a| match a {
                Action::Patch { patch, .. } => Some(patch["spec"]["taints"].clone()),
                _ => None,
            });
            let list = patch.map(|t| {
                t.as_array()
                    .into_iter()
                    .flatten()
                    .map(|t| {
                        format!(
                            "{}:{}",
                            t["key"].as_str().unwrap().trim_start_matches("node.kubernetes.io/"),
                            t["effect"].as_str().unwrap()
                        )
                    })
                    .collect::<Vec<_>>()
                    .join(" ")
            });
            list.unwrap_or("as they are".into())
        };
        assert_eq!(keys(&node("False", Value::Null), JUST), "not-ready:NoSchedule not-ready:NoExecute");
        assert_eq!(
            keys(
                &node(
                    "True",
                    json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}, {"key": "mine", "effect": "NoSchedule"}])
                ),
                JUST
            ),
            "mine:NoSchedule"
        );
        assert_eq!(
            keys(&node("True", json!([{"key": "mine", "effect": "NoSchedule"}])), JUST),
            "as they are"
        );
    }

    #[test]
    fn pods_go_when_their_time_is_up() {
        let taints = json!([{"key": UNREACHABLE, "effect": "NoSchedule"}, {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": "2026-01-01T00:56:00Z"}]);
        let mut n = node("Unknown", taints).value().clone();
        for kind in ["MemoryPressure", "DiskPressure", "PIDPressure"] {
            n["status"]["conditions"]
                .as_array_mut()
                .unwrap()
                .push(json!({"type": kind, "status": "Unknown"}));
        }
        let n = Object::from_value(n);
        let (actions, d) = run(&n, LONG_AGO, vec![pod(Some(300)), pod(Some(200)), pod(None)]);
        assert!(
            actions.contains("delete pods/p200")
                && !actions.contains("pods/p300")
                && !actions.contains("delete pods/p0"),
            "{actions}"
        );
        assert_eq!(d.again, Some(Duration::from_secs(60)));
    }
}
