//! Pods for which others were made to leave a node, until they are on it: nobody less important may take the room meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use api::{Object, Value};
use serde_json::json;

use crate::snapshot::Snapshot;
use crate::view::PodView;

/// The nominated pods, by UID.
#[derive(Default)]
pub(crate) struct Nominations(HashMap<String, Nomination>);

struct Nomination {
    /// The pod, on the node that it is meant to have.
    pod: Arc<PodView>,
    /// Whom it waits for, by UID.
    victims: Vec<String>,
}

impl Nominations {
    /// A pod is meant to have a node. A nomination that is known already keeps whom it waits for.
    pub(crate) fn set(&mut self, pod: &PodView, node: &str, victims: Option<&[Arc<PodView>]>) {
        let mut placed = pod.clone();
        placed.node = node.into();
        let known = self.0.remove(&pod.uid).filter(|n| n.pod.node == node).map(|n| n.victims);
        let victims = victims.map(|v| v.iter().map(|p| p.uid.clone()).collect()).or(known);
        let nomination = Nomination { pod: Arc::new(placed), victims: victims.unwrap_or_default() };
        self.0.insert(pod.uid.clone(), nomination);
    }

    /// A pod has a node, is gone, or its hope is.
    pub(crate) fn remove(&mut self, uid: &str) {
        self.0.remove(uid);
    }

    /// The node that a pod is meant to have.
    pub(crate) fn node(&self, uid: &str) -> Option<&str> {
        self.0.get(uid).map(|n| n.pod.node.as_str())
    }

    /// Whether a pod still waits for others to leave.
    pub(crate) fn waits(&self, uid: &str, snapshot: &Snapshot) -> bool {
        let Some(nomination) = self.0.get(uid) else { return false };
        let Some(info) = snapshot.nodes.get(&nomination.pod.node) else { return false };
        nomination.victims.iter().any(|v| info.pods.contains_key(v))
            || info.pods.values().any(|p| p.object.is_deleting() && p.priority < nomination.pod.priority)
    }

    /// Those of less importance that are meant to have a node.
    pub(crate) fn below(&self, pod: &PodView, node: &str) -> Vec<Arc<PodView>> {
        let less = |n: &&Nomination| n.pod.node == node && n.pod.priority < pod.priority;
        self.0.values().filter(less).map(|n| n.pod.clone()).collect()
    }

    /// The cluster as it will be when the pods that are at least as important as this one have come; none if there are no such.
    pub(crate) fn crowd(&self, pod: &PodView, snapshot: &Snapshot) -> Option<Snapshot> {
        let counts = |n: &&Nomination| n.pod.uid != pod.uid && n.pod.priority >= pod.priority;
        let mut coming = self.0.values().filter(counts).peekable();
        coming.peek()?;
        let mut world = snapshot.clone();
        coming.for_each(|n| world.set_pod(n.pod.clone()));
        Some(world)
    }
}

/// The node that others made room on for a pod, by its status.
pub(crate) fn nominated(pod: &Object) -> &str {
    pod.at(&["status", "nominatedNodeName"]).as_str().unwrap_or_default()
}

/// The patch that says which node a pod is meant to have.
pub(crate) fn nomination(pod: &PodView, node: Option<&str>) -> Value {
    json!({"metadata": {"uid": pod.uid}, "status": {"nominatedNodeName": node}})
}
