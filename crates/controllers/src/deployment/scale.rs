//! Sharing out a change of the Deployment's size among its sets, so that each keeps its part of the risk while a rollout
//! is under way or paused.

use super::{MAX, Rollout, Set};
use crate::deployment::is_recreate;

/// Scales the sets to the Deployment's size.
pub(super) fn share_out(r: &mut Rollout<'_>) {
    let replicas = r.plan.replicas;
    let active: Vec<usize> = (0..r.old.len()).filter(|i| r.old[*i].replicas > 0).collect();
    let new_active = r.new.as_ref().is_some_and(|n| n.replicas > 0);
    match (active.as_slice(), new_active, &r.new) {
        // One set has everything: it is simply scaled.
        ([], _, Some(_)) => {
            r.scale_new(replicas);
            return;
        }
        ([one], false, _) => {
            r.scale_old(*one, replicas);
            return;
        }
        ([], _, None) => {
            if let Some(latest) = (0..r.old.len()).max_by_key(|i| r.old[*i].revision()) {
                r.scale_old(latest, replicas);
            }
            return;
        }
        _ => {}
    }
    if is_saturated(r) {
        for i in active {
            r.scale_old(i, 0);
        }
        return;
    }
    if !is_recreate(r.deployment()) {
        proportionally(r, &active);
    }
}

/// Whether the new set is all that is needed.
fn is_saturated(r: &Rollout<'_>) -> bool {
    r.new.as_ref().is_some_and(|n| {
        n.spec_replicas() == r.plan.replicas
            && super::desired(&n.object) == Some(r.plan.replicas)
            && n.available() == r.plan.replicas
    })
}

fn proportionally(r: &mut Rollout<'_>, active: &[usize]) {
    // `None` is the new set.
    let mut sets: Vec<(Option<usize>, Set)> = active.iter().map(|i| (Some(*i), r.old[*i].clone())).collect();
    sets.extend(r.new.clone().filter(|n| n.replicas > 0).map(|n| (None, n)));
    let total: i64 = sets.iter().map(|(_, s)| s.replicas).sum();
    let allowed = if r.plan.replicas > 0 { r.plan.replicas + r.plan.surge } else { 0 };
    let to_add = allowed - total;
    // The largest first; of equal ones growth favours the newest, shrinking spares it.
    sets.sort_by(|(_, a), (_, b)| {
        b.replicas.cmp(&a.replicas).then_with(|| {
            if to_add > 0 { b.created().cmp(&a.created()) } else { a.created().cmp(&b.created()) }
        })
    });
    let mut added = 0;
    let mut sizes: Vec<i64> = Vec::new();
    for (_, set) in &sets {
        let part = if to_add == 0 { 0 } else { proportion(set, r, to_add, added) };
        added += part;
        sizes.push(set.replicas + part);
    }
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0); // what rounding left over
    }
    for ((which, _), size) in sets.into_iter().zip(sizes) {
        match which {
            Some(i) => r.scale_old(i, size),
            None => r.scale_new(size),
        };
    }
}

fn proportion(set: &Set, r: &Rollout<'_>, to_add: i64, added: i64) -> i64 {
    let before: i64 =
        set.object.annotation(MAX).and_then(|m| m.parse().ok()).filter(|m| *m > 0).unwrap_or(r.plan.replicas);
    if before <= 0 || set.replicas == 0 {
        return 0;
    }
    let goal = (set.replicas * (r.plan.replicas + r.plan.surge)) as f64 / before as f64;
    let part = goal.round() as i64 - set.replicas;
    let left = to_add - added;
    if to_add > 0 { part.clamp(0, left) } else { part.clamp(left, 0) }
}
