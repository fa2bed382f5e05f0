//! What a node has: processor, memory, ports, images.

use crate::framework::{Cycle, Filter, MAX_SCORE, Reason, Score};
use crate::snapshot::NodeInfo;
use crate::view::NodeView;

/// Keeps a pod off nodes that have not got what it asks for.
pub(crate) struct NodeResourcesFit;

impl Filter for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView, info: &NodeInfo) -> Vec<Reason> {
        let (want, have, used) = (&cycle.pod.requests, &node.allocatable, &info.requested);
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
            let of = |r: &crate::Resources| r.other.get(name).copied().unwrap_or(0);
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

/// Keeps a pod off nodes whose ports it wants and others have.
pub(crate) struct NodePorts;

impl Filter for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter(&self, cycle: &Cycle<'_>, _: &NodeView, info: &NodeInfo) -> Vec<Reason> {
        let wanted = &cycle.pod.ports;
        if !wanted.is_empty()
            && info
                .pods
                .values()
                .any(|p| p.ports.iter().any(|taken| wanted.iter().any(|w| w.conflicts(taken))))
        {
            return vec!["node(s) didn't have free ports for the requested pod ports".into()];
        }
        Vec::new()
    }

    fn helped_by_eviction(&self) -> bool {
        true
    }
}

/// Prefers nodes with more left over.
pub(crate) struct LeastAllocated;

impl Score for LeastAllocated {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView, info: &NodeInfo) -> i64 {
        let part = |want: i64, used: i64, have: i64| {
            let after = want + used;
            if have == 0 || after > have { 0 } else { (have - after) * MAX_SCORE / have }
        };
        let (pod, have) = (cycle.pod, &node.allocatable);
        (part(pod.nonzero.0, info.nonzero.0, have.cpu) + part(pod.nonzero.1, info.nonzero.1, have.memory)) / 2
    }
}

/// Prefers nodes whose processor and memory would be used to the same part.
pub(crate) struct BalancedAllocation;

impl Score for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView, info: &NodeInfo) -> i64 {
        let part = |want: i64, used: i64, have: i64| {
            if have == 0 { 1.0 } else { ((want + used) as f64 / have as f64).min(1.0) }
        };
        let (want, used, have) = (&cycle.pod.requests, &info.requested, &node.allocatable);
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

impl Score for ImageLocality {
    fn name(&self) -> &'static str {
        "ImageLocality"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView, _: &NodeInfo) -> i64 {
        let total = cycle.snapshot.nodes.len().max(1) as i64;
        let size = |image: &String| {
            let size = lookup(node, image)?;
            // What only few nodes have would draw everything to them.
            let nodes = cycle.snapshot.present().filter(|(n, _)| lookup(n, image).is_some()).count() as i64;
            Some(size * nodes / total)
        };
        let sum: i64 = cycle.pod.images.iter().filter_map(size).sum();
        let large = LARGE * cycle.pod.images.len().max(1) as i64;
        (sum.clamp(SMALL, large) - SMALL) * MAX_SCORE / (large - SMALL)
    }
}

fn lookup(node: &NodeView, image: &str) -> Option<i64> {
    let known = node.images.get(image).copied();
    known.or_else(|| {
        if image.contains(':') { None } else { node.images.get(&format!("{image}:latest")).copied() }
    })
}
