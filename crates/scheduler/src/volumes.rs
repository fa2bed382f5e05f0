//! Claims: a pod goes where its volumes are, and not before they are bound.

use std::sync::Arc;

use api::{Object, Value};
use client::{Client, Informer, Informers, PatchType, Result, gvr};
use serde_json::json;

use crate::framework::{Candidate, Reason};
use crate::view::{NodeTerm, PodView};

/// The node that a claim waits for its pod to choose, as the volume controller reads it.
const SELECTED: &str = "volume.kubernetes.io/selected-node";

/// Looks at claims, volumes and classes.
pub(crate) struct Volumes {
    pub(crate) claims: Arc<Informer>,
    pub(crate) volumes: Arc<Informer>,
    pub(crate) classes: Arc<Informer>,
}

/// What a pod's claims say.
pub(crate) struct Claims {
    /// Where bound volumes can be reached.
    places: Vec<Vec<NodeTerm>>,
    /// Claims that are bound only when the pod has a node.
    waiting: Vec<Arc<Object>>,
}

impl Volumes {
    pub(crate) fn new(informers: &Informers) -> Self {
        Self {
            claims: informers.of(&gvr::PERSISTENT_VOLUME_CLAIMS),
            volumes: informers.of(&gvr::PERSISTENT_VOLUMES),
            classes: informers.of(&gvr::STORAGE_CLASSES),
        }
    }

    /// The pod's claims; or why it can be nowhere.
    pub(crate) fn of(&self, pod: &PodView) -> std::result::Result<Claims, String> {
        let mut out = Claims { places: Vec::new(), waiting: Vec::new() };
        for name in &pod.claims {
            let Some(claim) = self.claims.get(&pod.key.namespace, name) else {
                return Err(format!("persistentvolumeclaim \"{name}\" not found"));
            };
            if claim.is_deleting() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            let volume = claim.at(&["spec", "volumeName"]).as_str().unwrap_or_default();
            let bound = claim.annotation("pv.kubernetes.io/bind-completed").is_some()
                || claim.at(&["status", "phase"]) == &Value::from("Bound");
            if !volume.is_empty() && bound {
                let Some(volume) = self.volumes.get("", volume) else {
                    return Err(format!("persistentvolume \"{volume}\" not found"));
                };
                out.places.extend(NodeTerm::list(volume.at(&[
                    "spec",
                    "nodeAffinity",
                    "required",
                    "nodeSelectorTerms",
                ])));
                continue;
            }
            let class = claim.at(&["spec", "storageClassName"]).as_str().unwrap_or_default();
            let waits = self
                .classes
                .get("", class)
                .is_some_and(|c| c.value()["volumeBindingMode"] == "WaitForFirstConsumer");
            if !waits {
                return Err("pod has unbound immediate PersistentVolumeClaims".into());
            }
            out.waiting.push(claim);
        }
        Ok(out)
    }
}

impl Claims {
    /// Why not this node.
    pub(crate) fn refusal(&self, candidate: &Candidate<'_>) -> Option<Reason> {
        let reachable = |terms: &Vec<NodeTerm>| terms.iter().any(|t| t.matches(candidate.0));
        if self.places.iter().all(reachable) {
            return None;
        }
        Some("node(s) had volume node affinity conflict".into())
    }

    /// Whether claims wait for the pod's node.
    pub(crate) fn wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Tells the volume controller which node it is.
    pub(crate) async fn select(&self, client: &Client, node: &str) -> Result<()> {
        for claim in self.waiting.iter().filter(|c| c.annotation(SELECTED) != Some(node)) {
            let patch = json!({"metadata": {"annotations": {SELECTED: node}}});
            client
                .patch(
                    &gvr::PERSISTENT_VOLUME_CLAIMS,
                    claim.namespace(),
                    claim.name(),
                    PatchType::Merge,
                    &patch,
                )
                .await?;
        }
        Ok(())
    }
}
