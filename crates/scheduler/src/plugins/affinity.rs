//! Inter-pod affinity: which pods want to be near which, and which apart.

use std::collections::HashMap;

use crate::framework::{Filter, MAX_SCORE, Plugin, Reason, Score};
use crate::snapshot::{NodeInfo, Snapshot};
use crate::view::{NodeView, PodTerm, PodView};

/// A label and its value: one place.
type Place = (String, String);

/// The plugin.
pub(crate) struct InterPodAffinity;

impl Plugin for InterPodAffinity {
    fn filter<'a>(&self, pod: &'a PodView, snapshot: &'a Snapshot) -> Option<Box<dyn Filter + 'a>> {
        if pod.near.is_empty() && pod.apart.is_empty() && snapshot.with_apart == 0 {
            return None; // nobody cares: the usual case
        }
        Some(Box::new(Neighbours::count(pod, snapshot)))
    }

    fn score<'a>(&self, pod: &'a PodView, snapshot: &'a Snapshot) -> Option<Box<dyn Score + 'a>> {
        if pod.near_preferred.is_empty() && pod.apart_preferred.is_empty() && snapshot.with_wishes == 0 {
            return None;
        }
        Some(Box::new(Wishes::count(pod, snapshot)))
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

/// Every pod on a node, with the node.
fn placed(snapshot: &Snapshot) -> impl Iterator<Item = (&NodeView, &PodView)> {
    snapshot.present().flat_map(|(node, info)| info.pods.values().map(move |p| (&**node, &**p)))
}

/// Where the pods are that it must be near or must not be near, and those that want it to stay away.
struct Neighbours<'a> {
    pod: &'a PodView,
    snapshot: &'a Snapshot,
    /// Pods that match all terms that it must be near, by place of each term.
    near: Vec<HashMap<String, i64>>,
    /// Pods that it must not be near, by place of each term.
    apart: Vec<HashMap<String, i64>>,
    /// Places where pods are that want it to stay away.
    unwelcome: HashMap<Place, i64>,
}

impl<'a> Neighbours<'a> {
    fn count(pod: &'a PodView, s: &'a Snapshot) -> Self {
        let mut near = vec![HashMap::new(); pod.near.len()];
        let mut apart = vec![HashMap::new(); pod.apart.len()];
        let mut unwelcome = HashMap::new();
        for (node, other) in placed(s) {
            let place = |t: &PodTerm| node.label(&t.topology).map(String::from);
            if !pod.near.is_empty() && pod.near.iter().all(|t| matches(t, other, s)) {
                for (t, counts) in pod.near.iter().zip(&mut near) {
                    if let Some(p) = place(t) {
                        *counts.entry(p).or_default() += 1;
                    }
                }
            }
            for (t, counts) in pod.apart.iter().zip(&mut apart) {
                if let Some(p) = place(t).filter(|_| matches(t, other, s)) {
                    *counts.entry(p).or_default() += 1;
                }
            }
            for t in other.apart.iter().filter(|t| matches(t, pod, s)) {
                if let Some(p) = place(t) {
                    *unwelcome.entry((t.topology.clone(), p)).or_default() += 1;
                }
            }
        }
        Self { pod, snapshot: s, near, apart, unwelcome }
    }
}

impl Filter for Neighbours<'_> {
    fn refusals(&self, node: &NodeView, _: &NodeInfo) -> Vec<Reason> {
        let pod = self.pod;
        let there = |t: &PodTerm, counts: &HashMap<String, i64>| {
            node.label(&t.topology).is_some_and(|p| counts.get(p).is_some_and(|n| *n > 0))
        };
        if !pod.near.is_empty() && !pod.near.iter().zip(&self.near).all(|(t, counts)| there(t, counts)) {
            // The first of its kind has nobody to be near but itself.
            let itself = |t: &PodTerm| matches(t, pod, self.snapshot) && node.label(&t.topology).is_some();
            let first = self.near.iter().all(HashMap::is_empty) && pod.near.iter().all(itself);
            if !first {
                return vec!["node(s) didn't match pod affinity rules".into()];
            }
        }
        if pod.apart.iter().zip(&self.apart).any(|(t, counts)| there(t, counts)) {
            return vec!["node(s) didn't match pod anti-affinity rules".into()];
        }
        if self.unwelcome.keys().any(|(key, value)| node.label(key) == Some(value)) {
            return vec!["node(s) didn't satisfy existing pods anti-affinity rules".into()];
        }
        Vec::new()
    }

    fn helped_by_eviction(&self) -> bool {
        true
    }
}

/// What all wishes, its own and the others', come to, by place.
struct Wishes(HashMap<Place, i64>);

impl Wishes {
    fn count(pod: &PodView, s: &Snapshot) -> Self {
        let mut wishes = HashMap::new();
        for (node, other) in placed(s) {
            let mut wish = |t: &PodTerm, weight: i64| {
                if let Some(p) = node.label(&t.topology) {
                    *wishes.entry((t.topology.clone(), p.to_owned())).or_default() += weight;
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
        Self(wishes)
    }
}

impl Score for Wishes {
    fn weight(&self) -> i64 {
        2
    }

    fn score(&self, node: &NodeView, _: &NodeInfo) -> i64 {
        self.0.iter().filter(|((k, v), _)| node.label(k) == Some(v)).map(|(_, w)| w).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (min, max) =
            (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for s in scores.iter_mut() {
            *s = if max == min { 0 } else { MAX_SCORE * (*s - min) / (max - min) };
        }
    }
}
