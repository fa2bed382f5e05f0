//! One pod's way to a node: filter, score, choose.

use std::collections::BTreeMap;

use crate::framework::{Candidate, Filter, Reason};
use crate::plugins::PLUGINS;
use crate::snapshot::Snapshot;
use crate::view::PodView;

/// A pod fits nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// Why, and on how many nodes.
    pub(crate) reasons: BTreeMap<Reason, usize>,
    /// How many nodes there are.
    pub(crate) nodes: usize,
    /// Nodes that might do if other pods left them.
    pub(crate) if_evicted: Vec<String>,
}

impl Unfit {
    /// The text of the condition and of the event.
    pub(crate) fn message(&self, preemption: &str) -> String {
        if self.nodes == 0 {
            return "no nodes available to schedule pods".into();
        }
        let mut reasons: Vec<String> = self.reasons.iter().map(|(r, n)| format!("{n} {r}")).collect();
        reasons.sort();
        let text = format!("0/{} nodes are available: {}.", self.nodes, reasons.join(", "));
        if preemption.is_empty() { text } else { format!("{text} {preemption}") }
    }
}

/// One more filter, for what the snapshot does not show (volumes).
pub(crate) type Extra<'a> = dyn Fn(&Candidate<'_>) -> Option<Reason> + 'a;

/// Everything that keeps one pod off nodes, in one state of the cluster.
pub(crate) struct Filters<'a>(Vec<Box<dyn Filter + 'a>>);

impl<'a> Filters<'a> {
    pub(crate) fn new(pod: &'a PodView, snapshot: &'a Snapshot) -> Self {
        Self(PLUGINS.iter().filter_map(|p| p.filter(pod, snapshot)).collect())
    }

    /// Why not this node (from the first filter that has something against it), and whether evictions could help.
    pub(crate) fn refusals(&self, (node, info): &Candidate<'_>) -> (Vec<Reason>, bool) {
        for filter in &self.0 {
            let reasons = filter.refusals(node, info);
            if !reasons.is_empty() {
                return (reasons, filter.helped_by_eviction());
            }
        }
        (Vec::new(), false)
    }
}

/// The cluster in which a pod looks for a node.
pub(crate) struct World<'a> {
    /// As it is.
    pub(crate) snapshot: &'a Snapshot,
    /// As it will be when pods that are as important, and that others made room for, have come to their nodes; none if there
    /// are no such pods. A node must do in both: room may only be had in the one, company only in the other.
    pub(crate) crowded: Option<&'a Snapshot>,
}

/// The node for a pod; `nominated` if that one does.
pub(crate) fn schedule(
    pod: &PodView,
    world: &World<'_>,
    nominated: Option<&str>,
    extra: &Extra<'_>,
) -> Result<String, Unfit> {
    let filters = Filters::new(pod, world.snapshot);
    let crowded = world.crowded.map(|s| (s, Filters::new(pod, s)));
    let later = |name: &str| {
        let (snapshot, filters) = crowded.as_ref()?;
        let info = snapshot.nodes.get(name)?;
        Some(filters.refusals(&(info.node.as_ref()?, info)))
    };
    let mut unfit = Unfit { reasons: BTreeMap::new(), nodes: 0, if_evicted: Vec::new() };
    let mut fit: Vec<Candidate<'_>> = Vec::new();
    for candidate in world.snapshot.present() {
        unfit.nodes += 1;
        let name = &candidate.0.name;
        let (mut reasons, mut helped) = filters.refusals(&candidate);
        if reasons.is_empty() {
            (reasons, helped) = later(name).unwrap_or_default();
        }
        // Where the pod's volumes cannot follow, nobody's leaving makes room for it.
        if let Some(reason) = extra(&candidate) {
            helped = false;
            if reasons.is_empty() {
                reasons.push(reason);
            }
        }
        if reasons.is_empty() {
            fit.push(candidate);
            continue;
        }
        if helped {
            unfit.if_evicted.push(name.clone());
        }
        for reason in reasons {
            *unfit.reasons.entry(reason).or_default() += 1;
        }
    }
    if let Some(wanted) = nominated.filter(|n| fit.iter().any(|(node, _)| node.name == *n)) {
        return Ok(wanted.into());
    }
    match fit.as_slice() {
        [] => Err(unfit),
        [(only, _)] => Ok(only.name.clone()),
        _ => Ok(best(pod, world.snapshot, &fit)),
    }
}

fn best(pod: &PodView, snapshot: &Snapshot, fit: &[Candidate<'_>]) -> String {
    let mut totals = vec![0i64; fit.len()];
    for score in PLUGINS.iter().filter_map(|p| p.score(pod, snapshot)) {
        let mut scores: Vec<i64> = fit.iter().map(|(n, i)| score.score(n, i)).collect();
        score.normalize(&mut scores);
        for (total, s) in totals.iter_mut().zip(scores) {
            *total += s * score.weight();
        }
    }
    let highest = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<&Candidate<'_>> =
        fit.iter().zip(&totals).filter(|(_, t)| **t == highest).map(|(c, _)| c).collect();
    // Among equals by lot, or the first node of the alphabet would get everything.
    let chosen = base::rng::below(winners.len().max(1) as u64) as usize;
    winners.get(chosen).map(|(n, _)| n.name.clone()).unwrap_or_default()
}
