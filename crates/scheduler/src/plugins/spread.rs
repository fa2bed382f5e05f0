//! Topology spread: how evenly pods of a kind are shared out over places.

use std::collections::HashMap;

use crate::framework::{Filter, MAX_SCORE, Plugin, Reason, Score};
use crate::snapshot::{NodeInfo, Snapshot};
use crate::view::{NodeView, PodView, Spread};

/// The plugin.
pub(crate) struct PodTopologySpread;

impl Plugin for PodTopologySpread {
    fn filter<'a>(&self, pod: &'a PodView, snapshot: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
        Spreading::count(pod, snapshot, true).map(|s| Box::new(s) as _)
    }

    fn score<'a>(&self, pod: &'a PodView, snapshot: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        Spreading::count(pod, snapshot, false).map(|s| Box::new(s) as _)
    }
}

/// The constraints that must hold, or those that should, each with how many matching pods there are in each place.
struct Spreading<'a> {
    pod: &'a PodView,
    constraints: Vec<(&'a Spread, HashMap<String, i64>)>,
}

impl<'a> Spreading<'a> {
    fn count(pod: &'a PodView, snapshot: &Snapshot, hard: bool) -> Option<Self> {
        let constraints: Vec<_> =
            pod.spread.iter().filter(|c| c.hard == hard).map(|c| (c, places(c, pod, snapshot))).collect();
        (!constraints.is_empty()).then_some(Self { pod, constraints })
    }
}

fn places(c: &Spread, pod: &PodView, snapshot: &Snapshot) -> HashMap<String, i64> {
    let mut counts = HashMap::new();
    for (node, info) in snapshot.present() {
        let Some(place) = node.label(&c.topology) else { continue };
        let tolerated = || node.taints.iter().all(|t| t.effect == "PreferNoSchedule" || pod.tolerates(t));
        if c.honor_affinity && !pod.allows(node) || c.honor_taints && !tolerated() {
            continue;
        }
        let counted = info.pods.values().filter(|p| {
            p.key.namespace == pod.key.namespace
                && !p.object.is_deleting()
                && c.selector.matches(p.object.labels())
        });
        *counts.entry(place.to_owned()).or_insert(0) += counted.count() as i64;
    }
    counts
}

impl Filter for Spreading<'_> {
    fn refusals(&self, node: &NodeView, _: &NodeInfo) -> Vec<Reason> {
        for (c, counts) in &self.constraints {
            let Some(place) = node.label(&c.topology) else {
                return vec![
                    "node(s) didn't match pod topology spread constraints (missing required label)".into(),
                ];
            };
            let itself = i64::from(c.selector.matches(self.pod.object.labels()));
            let here = counts.get(place).copied().unwrap_or(0);
            let enough = counts.len() as i64 >= c.min_domains;
            let least = if enough { counts.values().copied().min().unwrap_or(0) } else { 0 };
            if here + itself - least > c.max_skew {
                return vec!["node(s) didn't match pod topology spread constraints".into()];
            }
        }
        Vec::new()
    }

    fn helped_by_eviction(&self) -> bool {
        true
    }
}

impl Score for Spreading<'_> {
    fn weight(&self) -> i64 {
        2
    }

    /// How crowded the node's places are.
    fn score(&self, node: &NodeView, _: &NodeInfo) -> i64 {
        let crowd = self.constraints.iter().map(|(c, counts)| {
            let here = node.label(&c.topology).and_then(|p| counts.get(p)).copied();
            // A node without the label is the worst place of all.
            let here = here.unwrap_or_else(|| counts.values().copied().max().unwrap_or(0) + 1);
            (here as f64 * ((counts.len() + 2) as f64).ln() * 100.0) as i64 + c.max_skew - 1
        });
        crowd.sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (min, max) =
            (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for s in scores.iter_mut() {
            *s = if max == 0 { MAX_SCORE } else { MAX_SCORE * (max + min - *s) / max };
        }
    }
}
