//! One pod's way to a node: filter, score, choose.

use std::collections::BTreeMap;

use crate::framework::{Candidate, Cycle, Reason};
use crate::plugins::{FILTERS, SCORES};
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

/// The node for a pod. `extra` is one more filter, for what the snapshot does not show (volumes).
pub(crate) fn schedule(
    pod: &PodView,
    snapshot: &Snapshot,
    extra: &dyn Fn(&Candidate<'_>) -> Option<Reason>,
) -> Result<String, Unfit> {
    let cycle = Cycle::new(pod, snapshot);
    let mut unfit = Unfit { reasons: BTreeMap::new(), nodes: 0, if_evicted: Vec::new() };
    let mut fit: Vec<Candidate<'_>> = Vec::new();
    for candidate in snapshot.present() {
        unfit.nodes += 1;
        let (reasons, helped) = refusal(&cycle, &candidate, extra);
        if reasons.is_empty() {
            fit.push(candidate);
            continue;
        }
        // Where the pod's volumes cannot follow, nobody's leaving makes room for it.
        if helped && extra(&candidate).is_none() {
            unfit.if_evicted.push(candidate.0.name.clone());
        }
        for reason in reasons {
            *unfit.reasons.entry(reason).or_default() += 1;
        }
    }
    match fit.as_slice() {
        [] => Err(unfit),
        [(only, _)] => Ok(only.name.clone()),
        _ => Ok(best(&cycle, &fit)),
    }
}

/// Why not this node (from the first filter that has something against it), and whether evictions could help.
pub(crate) fn refusal(
    cycle: &Cycle<'_>,
    candidate: &Candidate<'_>,
    extra: &dyn Fn(&Candidate<'_>) -> Option<Reason>,
) -> (Vec<Reason>, bool) {
    for filter in FILTERS {
        let reasons = filter.filter(cycle, candidate.0, candidate.1);
        if !reasons.is_empty() {
            return (reasons, filter.helped_by_eviction());
        }
    }
    (extra(candidate).into_iter().collect(), false)
}

fn best(cycle: &Cycle<'_>, fit: &[Candidate<'_>]) -> String {
    let mut totals = vec![0i64; fit.len()];
    for plugin in SCORES {
        let mut scores: Vec<i64> = fit.iter().map(|(n, i)| plugin.score(cycle, n, i)).collect();
        plugin.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(scores) {
            *total += score * plugin.weight();
        }
    }
    let highest = totals.iter().copied().max().unwrap_or(0);
    let winners: Vec<&Candidate<'_>> =
        fit.iter().zip(&totals).filter(|(_, t)| **t == highest).map(|(c, _)| c).collect();
    // Among equals by lot, or the first node of the alphabet would get everything.
    let chosen = base::rng::below(winners.len().max(1) as u64) as usize;
    winners.get(chosen).map(|(n, _)| n.name.clone()).unwrap_or_default()
}
