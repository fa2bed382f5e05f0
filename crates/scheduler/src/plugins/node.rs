//! What a node is by itself: open or closed, its name, taints and labels.

use crate::framework::{Filter, Plugin, Reason, Score, normalize};
use crate::snapshot::{NodeInfo, Snapshot};
use crate::view::{NodeView, PodView, Taint};

/// Keeps pods off nodes that take nothing new.
pub(crate) struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn filter<'a>(&self, pod: &'a PodView, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
        let taint = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            value: String::new(),
            effect: "NoSchedule".into(),
        };
        (!pod.tolerates(&taint)).then(|| Box::new(Open) as _)
    }
}

struct Open;

impl Filter for Open {
    fn refusals(&self, node: &NodeView, _: &NodeInfo) -> Vec<Reason> {
        if node.unschedulable { vec!["node(s) were unschedulable".into()] } else { Vec::new() }
    }
}

/// Keeps a pod that names its node off the others.
pub(crate) struct NodeName;

impl Plugin for NodeName {
    fn filter<'a>(&self, pod: &'a PodView, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
        (!pod.node.is_empty()).then(|| Box::new(Named(&pod.node)) as _)
    }
}

struct Named<'a>(&'a str);

impl Filter for Named<'_> {
    fn refusals(&self, node: &NodeView, _: &NodeInfo) -> Vec<Reason> {
        if node.name == self.0 {
            return Vec::new();
        }
        vec!["node(s) didn't match the requested node name".into()]
    }
}

/// Keeps pods off nodes whose taints they do not tolerate, and prefers nodes without unwelcome ones.
pub(crate) struct TaintToleration;

impl Plugin for TaintToleration {
    fn filter<'a>(&self, pod: &'a PodView, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
        Some(Box::new(Tolerant(pod)))
    }

    fn score<'a>(&self, pod: &'a PodView, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Tolerant(pod)))
    }
}

struct Tolerant<'a>(&'a PodView);

impl Tolerant<'_> {
    fn minds<'n>(&self, node: &'n NodeView, hard: bool) -> impl Iterator<Item = &'n Taint> {
        let minds = move |t: &&Taint| (t.effect != "PreferNoSchedule") == hard && !self.0.tolerates(t);
        node.taints.iter().filter(minds)
    }
}

impl Filter for Tolerant<'_> {
    fn refusals(&self, node: &NodeView, _: &NodeInfo) -> Vec<Reason> {
        let text = |t: &Taint| format!("node(s) had untolerated taint {{{}: {}}}", t.key, t.value).into();
        self.minds(node, true).next().map(text).into_iter().collect()
    }
}

impl Score for Tolerant<'_> {
    fn weight(&self) -> i64 {
        3
    }

    fn score(&self, node: &NodeView, _: &NodeInfo) -> i64 {
        self.minds(node, false).count() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, true);
    }
}

/// Node selector and node affinity.
pub(crate) struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn filter<'a>(&self, pod: &'a PodView, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
        let choosy = !pod.node_selector.is_empty() || pod.node_required.is_some();
        choosy.then(|| Box::new(Choosy(pod)) as _)
    }

    fn score<'a>(&self, pod: &'a PodView, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        (!pod.node_preferred.is_empty()).then(|| Box::new(Choosy(pod)) as _)
    }
}

struct Choosy<'a>(&'a PodView);

impl Filter for Choosy<'_> {
    fn refusals(&self, node: &NodeView, _: &NodeInfo) -> Vec<Reason> {
        if self.0.allows(node) {
            return Vec::new();
        }
        vec!["node(s) didn't match Pod's node affinity/selector".into()]
    }
}

impl Score for Choosy<'_> {
    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, node: &NodeView, _: &NodeInfo) -> i64 {
        self.0.node_preferred.iter().filter(|(_, t)| t.matches(node)).map(|(w, _)| w).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, false);
    }
}
