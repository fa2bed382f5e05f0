//! Inter-pod affinity: which pods want to be near which, and which apart.

use std::collections::HashMap;

use crate::framework::{Cycle, Filter, MAX_SCORE, Reason, Score};
use crate::snapshot::{NodeInfo, Snapshot};
use crate::view::{NodeView, PodTerm, PodView};

/// A label and its value: one place.
type Place = (String, String);

/// What one pod's scheduling needs to know about the others, counted once.
#[derive(Default)]
pub(crate) struct Affinity {
    /// Pods that match all terms that it must be near, by place of each term.
    near: Vec<HashMap<String, i64>>,
    /// Pods that it must not be near, by place of each term.
    apart: Vec<HashMap<String, i64>>,
    /// Places where pods are that want it to stay away.
    unwelcome: HashMap<Place, i64>,
    /// What all wishes, its own and the others', come to, by place.
    wishes: HashMap<Place, i64>,
}

impl Affinity {
    pub(crate) fn count(pod: &PodView, snapshot: &Snapshot) -> Self {
        let mut out = Self {
            near: vec![HashMap::new(); pod.near.len()],
            apart: vec![HashMap::new(); pod.apart.len()],
            ..Self::default()
        };
        let own = !(pod.near.is_empty()
            && pod.apart.is_empty()
            && pod.near_preferred.is_empty()
            && pod.apart_preferred.is_empty());
        if !own && snapshot.with_apart == 0 && snapshot.with_wishes == 0 {
            return out; // nobody cares: the usual case
        }
        for (node, info) in snapshot.present() {
            for other in info.pods.values() {
                out.count_one(pod, other, node, snapshot);
            }
        }
        out
    }

    fn count_one(&mut self, pod: &PodView, other: &PodView, node: &NodeView, s: &Snapshot) {
        let place = |t: &PodTerm| node.label(&t.topology).map(String::from);
        if !pod.near.is_empty() && pod.near.iter().all(|t| matches(t, other, s)) {
            for (t, counts) in pod.near.iter().zip(&mut self.near) {
                if let Some(p) = place(t) {
                    *counts.entry(p).or_default() += 1;
                }
            }
        }
        for (t, counts) in pod.apart.iter().zip(&mut self.apart) {
            if let Some(p) = place(t).filter(|_| matches(t, other, s)) {
                *counts.entry(p).or_default() += 1;
            }
        }
        for t in other.apart.iter().filter(|t| matches(t, pod, s)) {
            if let Some(p) = place(t) {
                *self.unwelcome.entry((t.topology.clone(), p)).or_default() += 1;
            }
        }
        let mut wish = |t: &PodTerm, weight: i64| {
            if let Some(p) = place(t) {
                *self.wishes.entry((t.topology.clone(), p)).or_default() += weight;
            }
        };
        for (terms, sign) in [(&pod.near_preferred, 1), (&pod.apart_preferred, -1)] {
            terms.iter().filter(|t| matches(t, other, s)).for_each(|t| wish(t, sign * t.weight));
        }
        for (terms, sign) in [(&other.near_preferred, 1), (&other.apart_preferred, -1)] {
            terms.iter().filter(|t| matches(t, pod, s)).for_each(|t| wish(t, sign * t.weight));
        }
        // Whoever must be near such pods is glad of one more.
        other.near.iter().filter(|t| matches(t, pod, s)).for_each(|t| wish(t, 1));
    }
}

fn matches(term: &PodTerm, pod: &PodView, snapshot: &Snapshot) -> bool {
    let namespace = &pod.key.namespace;
    let by_label = || {
        term.namespace_selector.as_ref().is_some_and(|s| {
            s.is_everything() || snapshot.namespaces.get(namespace).is_some_and(|n| s.matches(n.labels()))
        })
    };
    (term.namespaces.contains(namespace) || by_label()) && term.selector.matches(pod.object.labels())
}

/// The plugin.
pub(crate) struct InterPodAffinity;

impl Filter for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn filter(&self, cycle: &Cycle<'_>, node: &NodeView, _: &NodeInfo) -> Vec<Reason> {
        let (pod, a) = (cycle.pod, &cycle.affinity);
        let there = |t: &PodTerm, counts: &HashMap<String, i64>| {
            node.label(&t.topology).is_some_and(|p| counts.get(p).is_some_and(|n| *n > 0))
        };
        if !pod.near.is_empty() && !pod.near.iter().zip(&a.near).all(|(t, counts)| there(t, counts)) {
            // The first of its kind has nobody to be near but itself.
            let first = a.near.iter().all(HashMap::is_empty)
                && pod
                    .near
                    .iter()
                    .all(|t| matches(t, pod, cycle.snapshot) && node.label(&t.topology).is_some());
            if !first {
                return vec!["node(s) didn't match pod affinity rules".into()];
            }
        }
        if pod.apart.iter().zip(&a.apart).any(|(t, counts)| there(t, counts)) {
            return vec!["node(s) didn't match pod anti-affinity rules".into()];
        }
        if a.unwelcome.keys().any(|(key, value)| node.label(key) == Some(value)) {
            return vec!["node(s) didn't satisfy existing pods anti-affinity rules".into()];
        }
        Vec::new()
    }

    fn helped_by_eviction(&self) -> bool {
        true
    }
}

impl Score for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, cycle: &Cycle<'_>, node: &NodeView, _: &NodeInfo) -> i64 {
        cycle.affinity.wishes.iter().filter(|((k, v), _)| node.label(k) == Some(v)).map(|(_, w)| w).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (min, max) =
            (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for s in scores.iter_mut() {
            *s = if max == min { 0 } else { MAX_SCORE * (*s - min) / (max - min) };
        }
    }
}
