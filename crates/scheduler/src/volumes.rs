//! Claims: a pod goes where its volumes are, and not before they are bound.

use std::sync::Arc;

use api::{Object, Value};
use client::{Client, Informer, Informers, PatchType, Result, gvr};
use serde_json::json;

use crate::claims;
use crate::framework::{Candidate, Reason};
use crate::view::PodView;

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
    /// Bound volumes.
    bound: Vec<Arc<Object>>,
    /// Claims that are bound only when the pod has a node, those that ask for least first.
    waiting: Vec<Waiting>,
}

/// A claim that waits for its pod's node.
struct Waiting {
    claim: Arc<Object>,
    class: Arc<Object>,
    /// Free volumes that it could have, the smallest first.
    free: Vec<Arc<Object>>,
}

impl Waiting {
    /// Whether somebody else is to make its volume.
    fn provisioned(&self) -> bool {
        self.class.value()["provisioner"] != "kubernetes.io/no-provisioner"
    }

    fn selected(&self) -> Option<&str> {
        self.claim.annotation(SELECTED).filter(|n| !n.is_empty())
    }
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
        let mut out = Claims { bound: Vec::new(), waiting: Vec::new() };
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
                out.bound.push(volume);
                continue;
            }
            let class = self.classes.get("", claims::class(&claim));
            let waits = |c: &Arc<Object>| c.value()["volumeBindingMode"] == "WaitForFirstConsumer";
            let Some(class) = class.filter(waits) else {
                return Err("pod has unbound immediate PersistentVolumeClaims".into());
            };
            let mut free: Vec<_> =
                self.volumes.list("").into_iter().filter(|v| claims::suits(&claim, v)).collect();
            free.sort_by_key(|v| claims::capacity(v));
            out.waiting.push(Waiting { claim, class, free });
        }
        // Who asks for less takes the smaller volume, so that the larger is left for the others.
        out.waiting.sort_by_key(|w| w.free.first().map(|v| claims::capacity(v)));
        Ok(out)
    }
}

impl Claims {
    /// Why not this node.
    pub(crate) fn refusal(&self, (node, _): &Candidate<'_>) -> Option<Reason> {
        if !self.bound.iter().all(|v| claims::reaches(v, node)) {
            return Some("node(s) had volume node affinity conflict".into());
        }
        let mut taken: Vec<&str> = Vec::new();
        for w in &self.waiting {
            let usable = |v: &&Arc<Object>| !taken.contains(&v.name()) && claims::reaches(v, node);
            if let Some(volume) = w.free.iter().find(usable) {
                taken.push(volume.name());
                continue;
            }
            // A volume that is being made is being made for one node.
            let elsewhere = w.provisioned() && w.selected().is_some_and(|n| n != node.name);
            if elsewhere || !claims::provides(&w.class, node) {
                return Some("node(s) didn't find available persistent volumes to bind".into());
            }
        }
        None
    }

    /// The node that was chosen before, which the volume controller or a provisioner may be at work for.
    pub(crate) fn selected(&self) -> Option<&str> {
        self.waiting.iter().find_map(Waiting::selected)
    }

    /// Whether claims wait for the pod's node.
    pub(crate) fn wait(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Tells the volume controller which node it is.
    pub(crate) async fn select(&self, client: &Client, node: &str) -> Result<()> {
        for Waiting { claim, .. } in self.waiting.iter().filter(|w| w.selected() != Some(node)) {
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
