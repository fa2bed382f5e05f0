//! NodeRestriction: a kubelet changes its own node and the pods bound to it, nothing else.

use api::{Status, Value};
use async_trait::async_trait;

use super::{Operation, Plugin, Review};
use crate::cache::local_key;

/// Labels below these domains are for administrators to set, not for nodes to claim.
const RESERVED: &str = "node-restriction.kubernetes.io/";

/// See the module.
pub struct NodeRestriction;

fn node_of(pod: &Value) -> &str {
    pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("")
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        r.user.node().is_some()
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let Some(node) = r.user.node() else { return Ok(()) };
        match (&*r.gvr.group, &*r.gvr.resource, r.subresource) {
            ("", "nodes", _) => {
                let name = if r.name.is_empty() { api::meta::name(r.object) } else { r.name };
                if name != node {
                    return Err(
                        r.forbidden(format!("node \"{node}\" is not allowed to modify node \"{name}\""))
                    );
                }
                if r.operation == Operation::Delete {
                    return Err(r.forbidden(format!("node \"{node}\" is not allowed to delete nodes")));
                }
                let labels = |v: &Value| {
                    api::meta::labels(v)
                        .cloned()
                        .unwrap_or_default()
                        .into_iter()
                        .filter(|(k, _)| k.contains(RESERVED))
                        .collect::<Vec<_>>()
                };
                let before = r.old.map(labels).unwrap_or_default();
                if labels(r.object) != before {
                    return Err(
                        r.forbidden(format!("is not allowed to modify labels with the prefix {RESERVED}"))
                    );
                }
            }
            ("", "pods", "") if r.operation == Operation::Create => {
                if api::meta::annotation(r.object, "kubernetes.io/config.mirror").is_none() {
                    return Err(r.forbidden(format!(
                        "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods"
                    )));
                }
                if node_of(r.object) != node {
                    return Err(r.forbidden(format!(
                        "node \"{node}\" can only create pods with spec.nodeName set to itself"
                    )));
                }
            }
            ("", "pods", "" | "status" | "eviction") => {
                let bound = match r.old {
                    Some(old) => node_of(old).to_owned(),
                    None => {
                        let key = local_key(r.namespace, r.name);
                        let pod = r.server.cache.kind("", "pods").get(&key);
                        pod.map(|p| node_of(p.value()).to_owned()).unwrap_or_default()
                    }
                };
                if bound != node {
                    return Err(r.forbidden(format!(
                        "node \"{node}\" can only change pods with spec.nodeName set to itself"
                    )));
                }
            }
            _ => {}
        }
        Ok(())
    }
}
