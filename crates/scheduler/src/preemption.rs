//! Making room: which pods of lower priority would have to go so that a pod fits.

use std::cmp::Reverse;
use std::sync::Arc;

use api::Object;
use api::selector::Label;

use crate::cycle::{Filters, Unfit, World};
use crate::snapshot::Snapshot;
use crate::view::PodView;

/// How many nodes are tried at least, if there are so many; of more than ten times as many, a tenth.
const TRIED: usize = 100;

/// A node, and the pods that must leave it.
pub(crate) struct Eviction {
    pub(crate) node: String,
    pub(crate) victims: Vec<Arc<PodView>>,
    /// How many of the victims a disruption budget would keep.
    violations: usize,
}

/// What a PodDisruptionBudget says.
pub(crate) struct Budget {
    namespace: String,
    selector: Label,
    allowed: i64,
    /// Pods that are being evicted and that it has counted already, by name.
    counted: Vec<String>,
}

impl Budget {
    /// The budget, unless it is of no pod: without a selector, or with one that says nothing.
    pub(crate) fn new(object: &Object) -> Option<Self> {
        let selector = Label::from_selector(object.at(&["spec", "selector"])).ok()?;
        let counted = object.at(&["status", "disruptedPods"]).as_object().into_iter().flatten();
        (!selector.is_everything()).then(|| Self {
            namespace: object.namespace().into(),
            selector,
            allowed: object.at(&["status", "disruptionsAllowed"]).as_i64().unwrap_or(0),
            counted: counted.map(|(name, _)| name.clone()).collect(),
        })
    }
}

/// Splits pods, the most important first, into those that budgets would keep and those that may go.
fn by_budget(pods: Vec<Arc<PodView>>, budgets: &[Budget]) -> (Vec<Arc<PodView>>, Vec<Arc<PodView>>) {
    let mut left: Vec<i64> = budgets.iter().map(|b| b.allowed).collect();
    pods.into_iter().partition(|pod| {
        let mut kept = false;
        for (b, left) in budgets.iter().zip(&mut left) {
            let of = b.namespace == pod.key.namespace && b.selector.matches(pod.object.labels());
            if of && !b.counted.contains(&pod.key.name) {
                *left -= 1;
                kept |= *left < 0;
            }
        }
        kept
    })
}

/// The eviction that does the least harm; else why there is none, as people read it.
pub(crate) fn find(
    pod: &PodView,
    world: &World<'_>,
    unfit: &Unfit,
    budgets: &[Budget],
) -> Result<Eviction, String> {
    let n = unfit.nodes;
    if !pod.may_preempt {
        return Err("preemption: not eligible due to preemptionPolicy=Never.".into());
    }
    let candidates = &unfit.if_evicted;
    let hopeless = n - candidates.len();
    let mut trial = Trial { pod, world: world.crowded.unwrap_or(world.snapshot).clone(), budgets };
    // Not always the same nodes in a large cluster.
    let start = base::rng::below(candidates.len().max(1) as u64) as usize;
    let tried = candidates[start..].iter().chain(&candidates[..start]).take(TRIED.max(n / 10));
    let found = tried.filter_map(|name| trial.on_node(name)).min_by_key(harm);
    found.ok_or_else(|| {
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

/// The fewest broken budgets, the least important of the most important victims, the least of them together, the fewest, and
/// of those that are left the ones that began last.
fn harm(e: &Eviction) -> impl Ord + use<> {
    let highest = e.victims.iter().map(|v| v.priority).max().unwrap_or(i64::MIN);
    // Each victim counts for something, whatever its priority.
    let sum: i64 = e.victims.iter().map(|v| v.priority + i64::from(u32::MAX)).sum();
    let began = e.victims.iter().filter(|v| v.priority == highest).map(|v| began(v)).min();
    (e.violations, highest, sum, e.victims.len(), Reverse(began))
}

/// When a pod was started, in RFC 3339 and UTC, so that text compares as time does.
fn began(pod: &PodView) -> String {
    pod.object.object().at(&["status", "startTime"]).as_str().unwrap_or("9").to_owned()
}

/// A pod, and a cluster to try evictions in.
struct Trial<'a> {
    pod: &'a PodView,
    world: Snapshot,
    budgets: &'a [Budget],
}

impl Trial<'_> {
    /// What would have to leave a node; the world is afterwards as it was.
    fn on_node(&mut self, name: &str) -> Option<Eviction> {
        let pods = self.world.nodes.get(name)?.pods.values();
        let mut lower: Vec<Arc<PodView>> = pods.filter(|p| p.priority < self.pod.priority).cloned().collect();
        if lower.is_empty() {
            return None;
        }
        for pod in &lower {
            self.world.remove_pod(&pod.uid);
        }
        let mut out = Eviction { node: name.into(), victims: Vec::new(), violations: 0 };
        let fits = self.fits(name);
        if fits {
            // As many as can stay are given back, first those that budgets would keep, the most important first.
            lower.sort_by_cached_key(|p| (Reverse(p.priority), began(p)));
            let (kept, free) = by_budget(lower, self.budgets);
            for (pods, violates) in [(kept, 1), (free, 0)] {
                for pod in pods {
                    self.world.set_pod(pod.clone());
                    if !self.fits(name) {
                        self.world.remove_pod(&pod.uid);
                        out.victims.push(pod);
                        out.violations += violates;
                    }
                }
            }
            for victim in &out.victims {
                self.world.set_pod(victim.clone());
            }
        } else {
            lower.into_iter().for_each(|pod| self.world.set_pod(pod));
        }
        (!out.victims.is_empty()).then_some(out)
    }

    fn fits(&self, name: &str) -> bool {
        let Some(info) = self.world.nodes.get(name) else { return false };
        let Some(node) = &info.node else { return false };
        Filters::new(self.pod, &self.world).refusals(&(node, info)).0.is_empty()
    }
}
