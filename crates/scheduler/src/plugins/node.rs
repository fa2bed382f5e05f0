//! What a node is by itself: open or closed, its name, taints and labels.

use crate::framework::{Cycle, Filter, Reason, Score, normalize};
use crate::snapshot::NodeInfo;
use crate::view::{NodeView, Taint};

/// Keeps pods off nodes that take nothing new.
pub(crate) struct NodeUnschedulable;

impl Filter for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView, _: &NodeInfo) -> Vec<Reason> {
        let taint = || Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            value: String::new(),
            effect: "NoSchedule".into(),
        };
        if node.unschedulable && !cycle.pod.tolerates(&taint()) {
            return vec!["node(s) were unschedulable".into()];
        }
        Vec::new()
    }
}

/// Keeps a pod that names its node off the others.
pub(crate) struct NodeName;

impl Filter for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView, _: &NodeInfo) -> Vec<Reason> {
        if !cycle.pod.node.is_empty() && cycle.pod.node != node.name {
            return vec!["node(s) didn't match the requested node name".into()];
        }
        Vec::new()
    }
}

/// Keeps pods off nodes whose taints they do not tolerate, and prefers nodes without unwelcome ones.
pub(crate) struct TaintToleration;

impl Filter for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView, _: &NodeInfo) -> Vec<Reason> {
        let keeps = |t: &&Taint| t.effect != "PreferNoSchedule" && !cycle.pod.tolerates(t);
        let taint = node.taints.iter().find(keeps);
        taint
            .map(|t| format!("node(s) had untolerated taint {{{}: {}}}", t.key, t.value).into())
            .into_iter()
            .collect()
    }
}

impl Score for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView, _: &NodeInfo) -> i64 {
        let unwelcome = |t: &&Taint| t.effect == "PreferNoSchedule" && !cycle.pod.tolerates(t);
        node.taints.iter().filter(unwelcome).count() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, true);
    }
}

/// Node selector and node affinity.
pub(crate) struct NodeAffinity;

impl Filter for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView, _: &NodeInfo) -> Vec<Reason> {
        if cycle.pod.allows(node) {
            return Vec::new();
        }
        vec!["node(s) didn't match Pod's node affinity/selector".into()]
    }
}

impl Score for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView, _: &NodeInfo) -> i64 {
        cycle.pod.node_preferred.iter().filter(|(_, t)| t.matches(node)).map(|(w, _)| w).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, false);
    }
}
