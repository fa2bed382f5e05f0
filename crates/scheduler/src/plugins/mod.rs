//! The plugins, in the order in which their filters run: the cheap ones first.

mod affinity;
mod node;
mod resources;
mod spread;

use crate::framework::Plugin;

/// Every plugin.
pub(crate) const PLUGINS: &[&dyn Plugin] = &[
    &node::NodeUnschedulable,
    &node::NodeName,
    &node::TaintToleration,
    &node::NodeAffinity,
    &resources::NodePorts,
    &resources::NodeResourcesFit,
    &resources::NodeResourcesBalancedAllocation,
    &resources::ImageLocality,
    &spread::PodTopologySpread,
    &affinity::InterPodAffinity,
];
