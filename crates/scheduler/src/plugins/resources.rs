//! What a node has: processor, memory, ports, images.

use crate::framework::{Filter, MAX_SCORE, Plugin, Reason, Score};
use crate::snapshot::{NodeInfo, Snapshot};
use crate::view::{HostPort, NodeView, PodView};

/// Keeps a pod off nodes that have not got what it asks for, and prefers nodes with more left over.
pub(crate) struct NodeResourcesFit;

impl Plugin for NodeResourcesFit {
    fn filter<'a>(&self, pod: &'a PodView, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
        Some(Box::new(Fit(pod)))
    }

    fn score<'a>(&self, pod: &'a PodView, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Fit(pod)))
    }
}

struct Fit<'a>(&'a PodView);

impl Filter for Fit<'_> {
    fn refusals(&self, node: &NodeView, info: &NodeInfo) -> Vec<Reason> {
        let (want, have, used) = (&self.0.requests, &node.allocatable, &info.requested);
        let mut reasons: Vec<Reason> = Vec::new();
        if used.pods + 1 > have.pods {
            reasons.push("Too many pods".into());
        }
        for (name, want, have, used) in [
            ("Insufficient cpu", want.cpu, have.cpu, used.cpu),
            ("Insufficient memory", want.memory, have.memory, used.memory),
            ("Insufficient ephemeral-storage", want.ephemeral, have.ephemeral, used.ephemeral),
        ] {
            if want > 0 && want > have - used {
                reasons.push(name.into());
            }
        }
        for (name, want) in want.other.iter().filter(|(_, n)| **n > 0) {
            let of = |r: &crate::view::Resources| r.other.get(name).copied().unwrap_or(0);
            if *want > of(have) - of(used) {
                reasons.push(format!("Insufficient {name}").into());
            }
        }
        reasons
    }

    fn helped_by_eviction(&self) -> bool {
        true
    }
}

impl Score for Fit<'_> {
    fn score(&self, node: &NodeView, info: &NodeInfo) -> i64 {
        let part = |want: i64, used: i64, have: i64| {
            let after = want + used;
            if have == 0 || after > have { 0 } else { (have - after) * MAX_SCORE / have }
        };
        let (want, have) = (self.0.nonzero, &node.allocatable);
        (part(want.0, info.nonzero.0, have.cpu) + part(want.1, info.nonzero.1, have.memory)) / 2
    }
}

/// Keeps a pod off nodes whose ports it wants and others have.
pub(crate) struct NodePorts;

impl Plugin for NodePorts {
    fn filter<'a>(&self, pod: &'a PodView, _: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
        (!pod.ports.is_empty()).then(|| Box::new(Ports(&pod.ports)) as _)
    }
}

struct Ports<'a>(&'a [HostPort]);

impl Filter for Ports<'_> {
    fn refusals(&self, _: &NodeView, info: &NodeInfo) -> Vec<Reason> {
        let mut taken = info.pods.values().flat_map(|p| &p.ports);
        if taken.any(|t| self.0.iter().any(|w| w.conflicts(t))) {
            return vec!["node(s) didn't have free ports for the requested pod ports".into()];
        }
        Vec::new()
    }

    fn helped_by_eviction(&self) -> bool {
        true
    }
}

/// Prefers nodes whose processor and memory would be used to the same part.
pub(crate) struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn score<'a>(&self, pod: &'a PodView, _: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(Balance(pod)))
    }
}

struct Balance<'a>(&'a PodView);

impl Score for Balance<'_> {
    fn score(&self, node: &NodeView, info: &NodeInfo) -> i64 {
        let part = |want: i64, used: i64, have: i64| {
            if have == 0 { 1.0 } else { ((want + used) as f64 / have as f64).min(1.0) }
        };
        let (want, used, have) = (&self.0.requests, &info.requested, &node.allocatable);
        // The deviation of two numbers is half their distance.
        let apart =
            (part(want.cpu, used.cpu, have.cpu) - part(want.memory, used.memory, have.memory)).abs() / 2.0;
        ((1.0 - apart) * MAX_SCORE as f64) as i64
    }
}

/// Prefers nodes that have the pod's images.
pub(crate) struct ImageLocality;

/// Below this an image's size says nothing, in bytes.
const SMALL: i64 = 23 << 20;
/// Above this, for each container, more says nothing.
const LARGE: i64 = 1000 << 20;

impl Plugin for ImageLocality {
    fn score<'a>(&self, pod: &'a PodView, snapshot: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        let total = snapshot.nodes.len().max(1) as i64;
        let have = |image: &str| snapshot.present().filter(|(n, _)| size(n, image).is_some()).count() as i64;
        // What only few nodes have would draw everything to them.
        let images: Vec<Image<'a>> =
            pod.images.iter().map(|name| Image { name, nodes: have(name), total }).collect();
        images.iter().any(|i| i.nodes > 0).then(|| Box::new(Images(images)) as _)
    }
}

/// An image that the pod wants.
struct Image<'a> {
    name: &'a str,
    /// How many nodes have it.
    nodes: i64,
    /// Of how many.
    total: i64,
}

struct Images<'a>(Vec<Image<'a>>);

impl Score for Images<'_> {
    fn score(&self, node: &NodeView, _: &NodeInfo) -> i64 {
        let sum: i64 = self.0.iter().filter_map(|i| Some(size(node, i.name)? * i.nodes / i.total)).sum();
        let large = LARGE * self.0.len().max(1) as i64;
        (sum.clamp(SMALL, large) - SMALL) * MAX_SCORE / (large - SMALL)
    }
}

fn size(node: &NodeView, image: &str) -> Option<i64> {
    let known = node.images.get(image).copied();
    known.or_else(|| {
        if image.contains(':') { None } else { node.images.get(&format!("{image}:latest")).copied() }
    })
}
