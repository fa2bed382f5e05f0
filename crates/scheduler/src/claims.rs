//! Which volume a claim could have, and from which nodes: what the scheduler and the volume controller must mean alike.

use api::quantity::Quantity;
use api::selector::Label;
use api::{Object, Value};

use crate::view::{NodeTerm, NodeView};

/// Older spelling of a storage class.
const CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The storage class that a claim or a volume names; empty: none.
pub fn class(object: &Object) -> &str {
    let field = || object.at(&["spec", "storageClassName"]).as_str().unwrap_or_default();
    object.annotation(CLASS).unwrap_or_else(field)
}

/// How much a volume holds, in billionths of a byte.
pub fn capacity(volume: &Object) -> i128 {
    nanos(volume.at(&["spec", "capacity", "storage"]))
}

fn nanos(value: &Value) -> i128 {
    Quantity::of_value(value).map(Quantity::nanos).unwrap_or(0)
}

/// Whether a volume is nobody's and as the claim asks for.
pub fn suits(claim: &Object, volume: &Object) -> bool {
    let mode = |o: &Object| o.at(&["spec", "volumeMode"]).as_str().unwrap_or("Filesystem").to_owned();
    let selector = match claim.at(&["spec", "selector"]) {
        Value::Null => Label::everything(),
        s => Label::from_selector(s).unwrap_or_else(|_| Label::nothing()),
    };
    let modes = |o: &Object| o.at(&["spec", "accessModes"]).as_array().cloned().unwrap_or_default();
    let offered = modes(volume);
    volume.at(&["spec", "claimRef"]).is_null()
        && !volume.is_deleting()
        && volume.at(&["status", "phase"]).as_str() != Some("Failed")
        && class(volume) == class(claim)
        && mode(volume) == mode(claim)
        && capacity(volume) >= nanos(claim.at(&["spec", "resources", "requests", "storage"]))
        && modes(claim).iter().all(|m| offered.contains(m))
        && selector.matches(volume.labels())
}

/// Whether a volume can be had on a node.
pub fn reaches(volume: &Object, node: &NodeView) -> bool {
    let terms = volume.at(&["spec", "nodeAffinity", "required", "nodeSelectorTerms"]);
    NodeTerm::list(terms).is_none_or(|terms| terms.iter().any(|t| t.matches(node)))
}

/// Whether volumes of a class can be made for a node.
pub(crate) fn provides(class: &Object, node: &NodeView) -> bool {
    let provisioner = class.value()["provisioner"].as_str().unwrap_or_default();
    if provisioner == "kubernetes.io/no-provisioner" {
        return false;
    }
    let among = |e: &Value| {
        let value = node.label(e["key"].as_str().unwrap_or_default());
        e["values"].as_array().into_iter().flatten().any(|v| v.as_str() == value && value.is_some())
    };
    let holds = |t: &Value| t["matchLabelExpressions"].as_array().into_iter().flatten().all(among);
    class.value()["allowedTopologies"]
        .as_array()
        .is_none_or(|terms| terms.is_empty() || terms.iter().any(holds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn topologies_of_a_class() {
        let node =
            NodeView::new(&Object::from_value(json!({"metadata": {"name": "n", "labels": {"zone": "a"}}})));
        let class = |provisioner: &str, zones: Value| {
            let class =
                json!({"metadata": {"name": "c"}, "provisioner": provisioner, "allowedTopologies": zones});
            provides(&Object::from_value(class), &node)
        };
        let zone = |z: &str| json!([{"matchLabelExpressions": [{"key": "zone", "values": [z]}]}]);
        assert!(class("x", Value::Null) && class("x", zone("a")));
        assert!(!class("x", zone("b")) && !class("kubernetes.io/no-provisioner", Value::Null));
    }
}
