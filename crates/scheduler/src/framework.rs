//! What a plugin is: it looks at a pod once, and then has a [`Filter`] that says where the pod cannot be, a [`Score`] that says
//! where it would better be, or both. What it counts for the pod is its own.

use std::borrow::Cow;
use std::sync::Arc;

use crate::snapshot::{NodeInfo, Snapshot};
use crate::view::{NodeView, PodView};

/// Why a pod cannot be on a node, as people read it.
pub(crate) type Reason = Cow<'static, str>;

/// One reason to put a pod here and not there, named as upstream's. The list of them is [`PLUGINS`](crate::plugins::PLUGINS).
pub(crate) trait Plugin: Sync {
    /// What keeps this pod off nodes; nothing if no node is refused.
    fn filter<'a>(&self, _pod: &'a PodView, _snapshot: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
        None
    }
    /// What draws this pod to nodes; nothing if all are alike. Asked for only when several nodes are left.
    fn score<'a>(&self, _pod: &'a PodView, _snapshot: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        None
    }
}

/// Says where one pod cannot be.
pub(crate) trait Filter {
    /// Nothing if the pod can be on the node, else why not.
    fn refusals(&self, node: &NodeView, info: &NodeInfo) -> Vec<Reason>;
    /// Whether the pod might fit if other pods left the node.
    fn helped_by_eviction(&self) -> bool {
        false
    }
}

/// Says where one pod would better be.
pub(crate) trait Score {
    /// How much it counts.
    fn weight(&self) -> i64 {
        1
    }
    /// A number for each node; only their order and proportion matter until `normalize`.
    fn score(&self, node: &NodeView, info: &NodeInfo) -> i64;
    /// Brings the numbers between 0 and [`MAX_SCORE`].
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// The highest score after normalizing.
pub(crate) const MAX_SCORE: i64 = 100;

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
