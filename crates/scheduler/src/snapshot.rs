//! The cluster as the scheduler sees it: nodes and what is on them, changed piece by piece.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::view::{NodeView, PodView, Resources};

/// A node and what is on it.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeInfo {
    /// The node; none if only its pods are known yet.
    pub(crate) node: Option<Arc<NodeView>>,
    /// Its pods, by UID.
    pub(crate) pods: BTreeMap<String, Arc<PodView>>,
    /// What they ask for.
    pub(crate) requested: Resources,
    /// Processor and memory, counting something for those that ask for nothing.
    pub(crate) nonzero: (i64, i64),
}

impl NodeInfo {
    /// Adds a pod.
    pub(crate) fn add(&mut self, pod: Arc<PodView>) {
        self.count(&pod, 1);
        self.pods.insert(pod.uid.clone(), pod);
    }

    /// Takes a pod away.
    pub(crate) fn remove(&mut self, uid: &str) -> Option<Arc<PodView>> {
        let pod = self.pods.remove(uid)?;
        self.count(&pod, -1);
        Some(pod)
    }

    fn count(&mut self, pod: &PodView, sign: i64) {
        self.requested.add(&pod.requests, sign);
        self.nonzero.0 += sign * pod.nonzero.0;
        self.nonzero.1 += sign * pod.nonzero.1;
    }
}

/// The cluster. See the module's documentation.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    /// The nodes, by name.
    pub(crate) nodes: BTreeMap<String, NodeInfo>,
    /// Labels of the namespaces, by name.
    pub(crate) namespaces: HashMap<String, Arc<api::object::Encoded>>,
    /// On which node each pod is, by UID.
    places: HashMap<String, String>,
    /// How many pods on nodes want others to stay away: most clusters have none, and then nobody needs to look.
    pub(crate) with_apart: usize,
    /// How many pods on nodes have wishes about other pods.
    pub(crate) with_wishes: usize,
}

impl Snapshot {
    /// Sets a node, or with none takes it away; its pods stay known until they go too.
    pub(crate) fn set_node(&mut self, name: &str, node: Option<Arc<NodeView>>) {
        let info = self.nodes.entry(name.into()).or_default();
        info.node = node;
        if info.node.is_none() && info.pods.is_empty() {
            self.nodes.remove(name);
        }
    }

    /// Puts a pod on the node that it names, from wherever it was.
    pub(crate) fn set_pod(&mut self, pod: Arc<PodView>) {
        self.remove_pod(&pod.uid);
        self.with_apart += usize::from(!pod.apart.is_empty());
        self.with_wishes += usize::from(has_wishes(&pod));
        self.places.insert(pod.uid.clone(), pod.node.clone());
        self.nodes.entry(pod.node.clone()).or_default().add(pod);
    }

    /// Takes a pod away. Gives whether it was there.
    pub(crate) fn remove_pod(&mut self, uid: &str) -> bool {
        let Some(node) = self.places.remove(uid) else { return false };
        let Some(info) = self.nodes.get_mut(&node) else { return false };
        if let Some(pod) = info.remove(uid) {
            self.with_apart -= usize::from(!pod.apart.is_empty());
            self.with_wishes -= usize::from(has_wishes(&pod));
        }
        if info.node.is_none() && info.pods.is_empty() {
            self.nodes.remove(&node);
        }
        true
    }

    /// The nodes that are there.
    pub(crate) fn present(&self) -> impl Iterator<Item = (&Arc<NodeView>, &NodeInfo)> {
        self.nodes.values().filter_map(|i| i.node.as_ref().map(|n| (n, i)))
    }
}

fn has_wishes(pod: &PodView) -> bool {
    !(pod.near.is_empty() && pod.near_preferred.is_empty() && pod.apart_preferred.is_empty())
}
