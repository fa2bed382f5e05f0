//! What a plugin is: a [`Filter`] says where a pod cannot be, a [`Score`] where it would better be.

use std::borrow::Cow;
use std::sync::Arc;

use crate::plugins::affinity::Affinity;
use crate::plugins::spread::Spreading;
use crate::snapshot::{NodeInfo, Snapshot};
use crate::view::{NodeView, PodView};

/// Why a pod cannot be on a node, as people read it.
pub type Reason = Cow<'static, str>;

/// What plugins know while one pod is scheduled.
pub struct Cycle<'a> {
    /// The pod.
    pub pod: &'a PodView,
    /// The cluster.
    pub snapshot: &'a Snapshot,
    pub(crate) affinity: Affinity,
    pub(crate) spreading: Spreading,
}

impl<'a> Cycle<'a> {
    /// Counts once what the plugins would otherwise count for each node.
    pub fn new(pod: &'a PodView, snapshot: &'a Snapshot) -> Self {
        Self {
            pod,
            snapshot,
            affinity: Affinity::count(pod, snapshot),
            spreading: Spreading::count(pod, snapshot),
        }
    }
}

/// Says where a pod cannot be.
pub trait Filter: Send + Sync {
    /// Its name, as upstream's.
    fn name(&self) -> &'static str;
    /// Nothing if the pod can be on the node, else why not.
    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView, info: &NodeInfo) -> Vec<Reason>;
    /// Whether the pod might fit if other pods left the node.
    fn helped_by_eviction(&self) -> bool {
        false
    }
}

/// Says where a pod would better be.
pub trait Score: Send + Sync {
    /// Its name, as upstream's.
    fn name(&self) -> &'static str;
    /// How much it counts.
    fn weight(&self) -> i64;
    /// A number for each node; only their order and proportion matter until `normalize`.
    fn score(&self, cycle: &Cycle<'_>, node: &NodeView, info: &NodeInfo) -> i64;
    /// Brings the numbers between 0 and 100.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// The highest score after normalizing.
pub const MAX_SCORE: i64 = 100;

/// Scales scores so that the highest is [`MAX_SCORE`]; with `reverse`, the lowest.
pub(crate) fn normalize(scores: &mut [i64], reverse: bool) {
    let max = scores.iter().copied().max().unwrap_or(0);
    for s in scores.iter_mut() {
        *s = if max == 0 { if reverse { MAX_SCORE } else { 0 } } else { *s * MAX_SCORE / max };
        if reverse && max != 0 {
            *s = MAX_SCORE - *s;
        }
    }
}

/// A node that is there, with what is on it.
pub(crate) type Candidate<'a> = (&'a Arc<NodeView>, &'a NodeInfo);
