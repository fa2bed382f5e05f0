//! The plugins, in the order in which filters run: the cheap ones first.

pub(crate) mod affinity;
mod node;
mod resources;
pub(crate) mod spread;

use crate::framework::{Filter, Score};

/// Every filter.
pub(crate) const FILTERS: &[&dyn Filter] = &[
    &node::NodeUnschedulable,
    &node::NodeName,
    &node::TaintToleration,
    &node::NodeAffinity,
    &resources::NodePorts,
    &resources::NodeResourcesFit,
    &spread::PodTopologySpread,
    &affinity::InterPodAffinity,
];

/// Every score.
pub(crate) const SCORES: &[&dyn Score] = &[
    &node::TaintToleration,
    &node::NodeAffinity,
    &resources::LeastAllocated,
    &resources::BalancedAllocation,
    &resources::ImageLocality,
    &spread::PodTopologySpread,
    &affinity::InterPodAffinity,
];
