//! Pods that nobody will see to any more: bound to nodes that are gone, or ended and far too many.

use std::sync::Arc;
use std::time::Duration;

use api::{Key, Object, meta};
use async_trait::async_trait;
use client::{DeleteOptions, Informer, Result, gvr};
use serde_json::json;

use crate::{Action, Controller, Decision, Machine, Source, view};

/// So many ended pods may stay for people to look at; the oldest beyond that go.
const ENDED: usize = 12_500;
/// How long a node must have been gone before its pods are given up: it may only be registering anew.
const QUARANTINE: Duration = Duration::from_secs(40);
/// The one key of the count of ended pods; others are names of nodes.
const COUNT: &str = "";

/// The controller. Its keys are nodes.
pub(crate) struct Collector {
    pods: Arc<Informer>,
    nodes: Arc<Informer>,
    /// When a node was first seen to be missing. A restart begins the quarantine anew: it only postpones.
    missing: parking_lot::Mutex<std::collections::HashMap<String, tokio::time::Instant>>,
}

impl Collector {
    pub(crate) fn new(machine: &Machine) -> Self {
        let pods = machine.informer(&gvr::PODS);
        pods.add_index(client::index::NODE, client::index::node);
        Self { pods, nodes: machine.informer(&gvr::NODES), missing: parking_lot::Mutex::default() }
    }
}

#[async_trait]
impl Controller for Collector {
    fn name(&self) -> &'static str {
        "pod-garbage-collector"
    }

    fn sources(&self) -> Vec<Source> {
        let (nodes, pods) = (self.nodes.clone(), self.pods.clone());
        let pods = Source::with(&self.pods, move |c| {
            let Some(pod) = &c.new else { return Vec::new() };
            let mut keys = Vec::new();
            let node = view::text(pod, &["spec", "nodeName"]);
            if !node.is_empty() && nodes.get("", node).is_none() {
                keys.push(Key::new("", node));
            }
            if view::is_terminal(pod) && pods.len() > ENDED {
                keys.push(Key::new("", COUNT));
            }
            keys
        });
        let gone = Source::with(&self.nodes, |c| vec![c.object().key()]);
        vec![pods, gone]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        if key.name == COUNT {
            return Ok(too_many(self.pods.list("")).into());
        }
        if self.nodes.get("", &key.name).is_some() {
            self.missing.lock().remove(&key.name);
            return Ok(Decision::default());
        }
        let pods = self.pods.by_index(client::index::NODE, &key.name);
        if pods.is_empty() {
            self.missing.lock().remove(&key.name);
            return Ok(Decision::default());
        }
        let now = tokio::time::Instant::now();
        let since = *self.missing.lock().entry(key.name.clone()).or_insert(now);
        Ok(orphaned(&key.name, &pods, now.duration_since(since), base::clock::now()))
    }
}

/// Pods of a node that has been gone for so long.
fn orphaned(node: &str, pods: &[Arc<Object>], gone_for: Duration, now: jiff::Timestamp) -> Decision {
    if gone_for < QUARANTINE {
        return Decision { actions: Vec::new(), again: Some(QUARANTINE - gone_for) };
    }
    let mut actions = Vec::new();
    for pod in pods {
        if !view::is_terminal(pod) {
            let now = meta::time(now);
            let mut conditions = view::list(pod, &["status", "conditions"]).to_vec();
            let text = format!("PodGC: node {node} no longer exists");
            meta::set_condition(&mut conditions, "DisruptionTarget", "True", "DeletionByPodGC", &text, &now);
            let status = json!({"conditions": conditions, "phase": "Failed"});
            let patch = json!({"metadata": view::unchanged(pod), "status": status});
            actions.push(Action::Patch { gvr: gvr::PODS, key: pod.key(), sub: "status", patch });
        }
        actions.push(at_once(pod));
    }
    actions.into()
}

fn at_once(pod: &Arc<Object>) -> Action {
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::uid(pod.uid()) };
    Action::Delete { gvr: gvr::PODS, object: pod.clone(), options, announce: None }
}

fn too_many(pods: Vec<Arc<Object>>) -> Vec<Action> {
    let mut ended: Vec<Arc<Object>> =
        pods.into_iter().filter(|p| view::is_terminal(p) && !p.is_deleting()).collect();
    ended.sort_by_key(|p| view::created(p));
    let excess = ended.len().saturating_sub(ENDED);
    ended.iter().take(excess).map(at_once).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[tokio::test(start_paused = true)]
    async fn pods_of_a_node_that_is_gone_go_after_a_while() {
        let world = World::new();
        world.machine.start(Collector::new(&world.machine));
        let pod = |name: &str, node: &str| {
            world.fake.put(&gvr::PODS, json!({"metadata": {"name": name, "namespace": "ns"}, "spec": {"nodeName": node}, "status": {"phase": "Running"}}));
        };
        world.fake.put(&gvr::NODES, json!({"metadata": {"name": "n"}}));
        pod("a", "n");
        pod("b", "gone");
        world.settle().await;
        assert_eq!(world.fake.all(&gvr::PODS).len(), 2);
        world.pass(QUARANTINE).await;
        assert_eq!(world.fake.all(&gvr::PODS).len(), 1);
        world.fake.remove(&gvr::NODES, "", "n");
        world.pass(Duration::from_secs(30)).await;
        world.fake.put(&gvr::NODES, json!({"metadata": {"name": "n"}}));
        world.pass(Duration::from_secs(30)).await;
        assert_eq!(world.fake.all(&gvr::PODS).len(), 1, "it came back in time");
    }

    #[test]
    fn only_so_many_ended_ones_stay() {
        let pod = |i: usize| {
            Object::from_value(
                json!({"metadata": {"name": format!("p{i}"), "creationTimestamp": format!("2026-01-01T{:02}:{:02}:{:02}Z", i / 3600, i / 60 % 60, i % 60)}, "status": {"phase": "Succeeded"}}),
            )
        };
        let actions = too_many((0..ENDED + 2).map(pod).collect());
        assert_eq!(crate::testing::summary(&actions), ["delete pods/p0", "delete pods/p1"]);
    }
}
