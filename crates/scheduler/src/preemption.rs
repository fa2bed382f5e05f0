//! Making room: which pods of lower priority would have to go so that a pod fits.

use std::sync::Arc;

use crate::cycle::{Unfit, refusal};
use crate::framework::{Cycle, Reason};
use crate::snapshot::Snapshot;
use crate::view::PodView;

/// A node, and the pods that must leave it.
pub(crate) struct Eviction {
    pub(crate) node: String,
    pub(crate) victims: Vec<Arc<PodView>>,
}

/// The eviction that does the least harm; else why there is none, as people read it.
pub(crate) fn find(pod: &PodView, snapshot: &Snapshot, unfit: &Unfit) -> Result<Eviction, String> {
    let n = unfit.nodes;
    if !pod.may_preempt {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".into());
    }
    let hopeless = n - unfit.if_evicted.len();
    let mut found: Vec<Eviction> = Vec::new();
    for name in &unfit.if_evicted {
        found.extend(on_node(pod, snapshot, name));
    }
    // The least important of the most important victims, then the fewest.
    let harm = |e: &Eviction| {
        let highest = e.victims.iter().map(|v| v.priority).max().unwrap_or(i64::MIN);
        (highest, e.victims.iter().map(|v| v.priority).sum::<i64>(), e.victims.len())
    };
    found.into_iter().min_by_key(harm).ok_or_else(|| {
        let mut parts = Vec::new();
        if n > hopeless {
            parts.push(format!("{} No preemption victims found for incoming pod", n - hopeless));
        }
        if hopeless > 0 {
            parts.push(format!("{hopeless} Preemption is not helpful for scheduling"));
        }
        format!("preemption: 0/{n} nodes are available: {}.", parts.join(", "))
    })
}

fn on_node(pod: &PodView, snapshot: &Snapshot, name: &str) -> Option<Eviction> {
    let mut lower: Vec<Arc<PodView>> =
        snapshot.nodes.get(name)?.pods.values().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    let mut world = snapshot.clone();
    for victim in &lower {
        world.remove_pod(&victim.uid);
    }
    if !fits(pod, &world, name) {
        return None;
    }
    // Give back as many as can stay, the most important first.
    lower.sort_by_key(|p| std::cmp::Reverse(p.priority));
    let mut victims = Vec::new();
    for candidate in lower {
        world.set_pod(candidate.clone());
        if !fits(pod, &world, name) {
            world.remove_pod(&candidate.uid);
            victims.push(candidate);
        }
    }
    (!victims.is_empty()).then(|| Eviction { node: name.into(), victims })
}

fn fits(pod: &PodView, world: &Snapshot, name: &str) -> bool {
    let none: &dyn Fn(&crate::framework::Candidate<'_>) -> Option<Reason> = &|_| None;
    let Some(info) = world.nodes.get(name) else { return false };
    let Some(node) = &info.node else { return false };
    refusal(&Cycle::new(pod, world), &(node, info), none).0.is_empty()
}
