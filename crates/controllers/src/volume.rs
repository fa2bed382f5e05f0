//! Claims and volumes: each claim gets a volume that is as it asks for, and a volume whose claim is gone is dealt with as
//! it says.
//!
//! A binding is written on the volume first, then on the claim: whatever happens in between, the volume says whose it is.

use std::sync::Arc;

use api::{Key, Object, Value, meta, podrefs};
use async_trait::async_trait;
use client::{Informer, Result, gvr};
use scheduler::NodeView;
use scheduler::claims::{capacity, class, reaches, suits};
use serde_json::json;

use crate::{Action, Controller, Decision, Machine, Source, view};

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_US: &str = "pv.kubernetes.io/bound-by-controller";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Keeps a claim while a pod uses it.
const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
/// Keeps a volume while a claim has it.
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";

/// Whose a volume is, or is meant to be.
fn holder(volume: &Object) -> Option<(Key, &str)> {
    let r = volume.at(&["spec", "claimRef"]);
    let key = Key::new(r["namespace"].as_str()?, r["name"].as_str()?);
    Some((key, r["uid"].as_str().unwrap_or_default()))
}

/// The controller of claims.
pub(crate) struct Claims {
    claims: Arc<Informer>,
    volumes: Arc<Informer>,
    classes: Arc<Informer>,
    pods: Arc<Informer>,
    nodes: Arc<Informer>,
}

impl Claims {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self {
            claims: machine.informer(&gvr::PERSISTENT_VOLUME_CLAIMS),
            volumes: machine.informer(&gvr::PERSISTENT_VOLUMES),
            classes: machine.informer(&gvr::STORAGE_CLASSES),
            pods: machine.informer(&gvr::PODS),
            nodes: machine.informer(&gvr::NODES),
        }
    }
}

fn claims_of(pod: &Object) -> Vec<Key> {
    podrefs::claims(pod.value()).map(|name| Key::new(pod.namespace(), name)).collect()
}

#[async_trait]
impl Controller for Claims {
    fn name(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn sources(&self) -> Vec<Source> {
        let claims = self.claims.clone();
        // A volume that becomes free concerns whoever waits for one; else only its holder.
        let volumes = Source::with(&self.volumes, move |c| {
            let mut keys: Vec<Key> =
                c.old.iter().chain(&c.new).filter_map(|v| holder(v).map(|(k, _)| k)).collect();
            if c.new.as_ref().is_some_and(|v| holder(v).is_none()) {
                let waits = |p: &Arc<Object>| view::text(p, &["spec", "volumeName"]).is_empty();
                keys.extend(claims.list("").iter().filter(|p| waits(p)).map(|p| p.key()));
            }
            keys
        });
        let claims = self.claims.clone();
        let classes = Source::with(&self.classes, move |c| {
            let of = |p: &Arc<Object>| class(p) == c.object().name();
            claims.list("").iter().filter(|p| of(p)).map(|p| p.key()).collect()
        });
        // The end of a pod may be what the end of a claim waits for.
        let pods = Source::with(&self.pods, |c| {
            let over = c.new.as_ref().is_none_or(|p| view::is_terminal(p));
            if over { claims_of(c.object()) } else { Vec::new() }
        });
        vec![Source::own(&self.claims), volumes, classes, pods]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(claim) = self.claims.get(&key.namespace, &key.name) else { return Ok(Decision::default()) };
        let mut used = false;
        if claim.is_deleting() {
            let pods = self.pods.list(&key.namespace);
            used = pods.iter().any(|p| !view::is_terminal(p) && claims_of(p).contains(key));
        }
        let class = self.classes.get("", class(&claim));
        let volumes = self.volumes.list("");
        let node = claim.annotation(SELECTED_NODE).and_then(|n| self.nodes.get("", n));
        let node = node.map(|n| NodeView::new(&n));
        let observed =
            Claim { claim: &claim, class: class.as_deref(), volumes: &volumes, used, node: node.as_ref() };
        Ok(decide_claim(&observed).into())
    }
}

struct Claim<'a> {
    claim: &'a Arc<Object>,
    class: Option<&'a Object>,
    volumes: &'a [Arc<Object>],
    /// Whether a pod uses it.
    used: bool,
    /// The node that was chosen for its pod.
    node: Option<&'a NodeView>,
}

fn finalizers(object: &Object, gvr: &api::Gvr, change: impl Fn(&mut Vec<String>)) -> Option<Action> {
    let before: Vec<String> = meta::finalizers(object.value()).map(String::from).collect();
    let mut after = before.clone();
    change(&mut after);
    let list = if after.is_empty() { Value::Null } else { json!(after) };
    let patch = json!({"metadata": {"finalizers": list, "resourceVersion": object.revision().to_string()}});
    (before != after).then(|| Action::patch(gvr, object, patch))
}

fn decide_claim(o: &Claim<'_>) -> Vec<Action> {
    let claim = o.claim;
    if claim.is_deleting() {
        let free = finalizers(claim, &gvr::PERSISTENT_VOLUME_CLAIMS, |f| {
            if !o.used {
                f.retain(|f| f != CLAIM_FINALIZER);
            }
        });
        return free.into_iter().collect();
    }
    let protect = finalizers(claim, &gvr::PERSISTENT_VOLUME_CLAIMS, |f| {
        if !f.iter().any(|f| f == CLAIM_FINALIZER) {
            f.push(CLAIM_FINALIZER.into());
        }
    });
    if let Some(protect) = protect {
        return vec![protect]; // the rest follows on its new revision
    }
    let named = view::text(claim, &["spec", "volumeName"]);
    if !named.is_empty() {
        return bound_to(o, named);
    }
    let waits = o.class.is_some_and(|c| c.value()["volumeBindingMode"] == "WaitForFirstConsumer");
    let ours = |v: &&Arc<Object>| {
        holder(v).is_some_and(|(k, uid)| k == claim.key() && (uid.is_empty() || uid == claim.uid()))
    };
    let reserved = o.volumes.iter().find(ours);
    if waits && o.node.is_none() && reserved.is_none() {
        let text = "waiting for first consumer to be created before binding";
        return pending(claim, "Normal", "WaitForFirstConsumer", text.into());
    }
    if let Some(volume) = reserved.or_else(|| best(o, waits)) {
        return bind(claim, volume);
    }
    let class_name = class(claim);
    match o.class {
        Some(c) => {
            let provisioner = c.value()["provisioner"].as_str().unwrap_or_default();
            if provisioner == "kubernetes.io/no-provisioner" {
                return pending(
                    claim,
                    "Normal",
                    "FailedBinding",
                    "no persistent volumes available for this claim and no storage class is set".into(),
                );
            }
            let mut actions = Vec::new();
            if claim.annotation(PROVISIONER) != Some(provisioner) {
                let patch = json!({"metadata": {"annotations": {PROVISIONER: provisioner}}});
                actions.push(Action::patch(&gvr::PERSISTENT_VOLUME_CLAIMS, claim, patch));
            }
            let text = format!(
                "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
                 system administrator. If volume creation is delayed, please verify that the provisioner is running and \
                 correctly registered."
            );
            actions.extend(pending(claim, "Normal", "ExternalProvisioning", text));
            actions
        }
        None if class_name.is_empty() => {
            let text = "no persistent volumes available for this claim and no storage class is set";
            pending(claim, "Normal", "FailedBinding", text.into())
        }
        None => {
            let text = format!("storageclass.storage.k8s.io \"{class_name}\" not found");
            pending(claim, "Warning", "ProvisioningFailed", text)
        }
    }
}

/// The claim waits; people are told why when it begins to.
fn pending(claim: &Arc<Object>, kind: &'static str, reason: &'static str, text: String) -> Vec<Action> {
    let mut actions = vec![Action::event(claim, kind, reason, text)];
    if view::phase(claim) != "Pending" {
        actions.push(Action::status(&gvr::PERSISTENT_VOLUME_CLAIMS, claim, json!({"phase": "Pending"})));
    }
    actions
}

/// The smallest free volume that does; where the claim waited for its pod, one that its node can reach.
fn best<'a>(o: &Claim<'a>, waits: bool) -> Option<&'a Arc<Object>> {
    let near = |v: &&Arc<Object>| !waits || o.node.is_some_and(|n| reaches(v, n));
    let does = |v: &&Arc<Object>| suits(o.claim, v) && near(v);
    o.volumes.iter().filter(does).min_by_key(|v| capacity(v))
}

/// Writes the binding on the volume, then on the claim.
fn bind(claim: &Arc<Object>, volume: &Arc<Object>) -> Vec<Action> {
    let mut actions = Vec::new();
    let reference = json!({"kind": "PersistentVolumeClaim", "apiVersion": "v1", "namespace": claim.namespace(),
        "name": claim.name(), "uid": claim.uid(), "resourceVersion": claim.revision().to_string()});
    let known = holder(volume);
    if known.as_ref().is_none_or(|(_, uid)| *uid != claim.uid()) {
        let mut value = volume.value().clone();
        if known.is_none() {
            value["metadata"]["annotations"][BOUND_BY_US] = "yes".into();
        }
        value["spec"]["claimRef"] = reference;
        actions.push(Action::Update { gvr: gvr::PERSISTENT_VOLUMES, object: value });
    }
    let mut value = claim.value().clone();
    value["spec"]["volumeName"] = volume.name().into();
    value["metadata"]["annotations"][BIND_COMPLETED] = "yes".into();
    value["metadata"]["annotations"][BOUND_BY_US] = "yes".into();
    actions.push(Action::Update { gvr: gvr::PERSISTENT_VOLUME_CLAIMS, object: value });
    actions
}

/// The claim names its volume: what is still missing for that to be true?
fn bound_to(o: &Claim<'_>, name: &str) -> Vec<Action> {
    let claim = o.claim;
    let Some(volume) = o.volumes.iter().find(|v| v.name() == name) else {
        if claim.annotation(BIND_COMPLETED).is_none() {
            return pending(claim, "Warning", "FailedBinding", format!("volume \"{name}\" not found"));
        }
        if view::phase(claim) == "Lost" {
            return Vec::new();
        }
        let text = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        let mut status = claim.status().clone();
        status["phase"] = "Lost".into();
        return vec![
            Action::event(claim, "Warning", "ClaimLost", text),
            Action::status(&gvr::PERSISTENT_VOLUME_CLAIMS, claim, status),
        ];
    };
    match holder(volume) {
        Some((key, uid)) if key == claim.key() && uid == claim.uid() => {}
        Some((key, uid)) if key == claim.key() && uid.is_empty() => return bind(claim, volume),
        None => return bind(claim, volume),
        Some(_) => {
            let text = format!("volume \"{name}\" already bound to a different claim.");
            return pending(claim, "Warning", "FailedBinding", text);
        }
    }
    if claim.annotation(BIND_COMPLETED).is_none() {
        let patch = json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}});
        return vec![Action::patch(&gvr::PERSISTENT_VOLUME_CLAIMS, claim, patch)];
    }
    let mut status = claim.status().clone();
    status["phase"] = "Bound".into();
    status["accessModes"] = volume.at(&["spec", "accessModes"]).clone();
    if status["capacity"].is_null() {
        status["capacity"] = json!({"storage": volume.at(&["spec", "capacity", "storage"])});
    }
    if !view::status_differs(claim, &status) {
        return Vec::new();
    }
    vec![Action::status(&gvr::PERSISTENT_VOLUME_CLAIMS, claim, status)]
}

/// The controller of volumes.
pub(crate) struct Volumes {
    claims: Arc<Informer>,
    volumes: Arc<Informer>,
}

impl Volumes {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self {
            claims: machine.informer(&gvr::PERSISTENT_VOLUME_CLAIMS),
            volumes: machine.informer(&gvr::PERSISTENT_VOLUMES),
        }
    }
}

#[async_trait]
impl Controller for Volumes {
    fn name(&self) -> &'static str {
        "persistentvolume-controller"
    }

    fn sources(&self) -> Vec<Source> {
        let volumes = self.volumes.clone();
        let claims = Source::with(&self.claims, move |c| {
            let of = c.object();
            let named = view::text(of, &["spec", "volumeName"]);
            let mut keys = Vec::new();
            if !named.is_empty() {
                keys.push(Key::new("", named));
            }
            if c.new.is_none() {
                let held =
                    volumes.list("").into_iter().filter(|v| holder(v).is_some_and(|(k, _)| k == of.key()));
                keys.extend(held.map(|v| v.key()));
            }
            keys
        });
        vec![Source::own(&self.volumes), claims]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(volume) = self.volumes.get("", &key.name) else { return Ok(Decision::default()) };
        let claim = holder(&volume).and_then(|(k, _)| self.claims.get(&k.namespace, &k.name));
        Ok(decide_volume(&volume, claim.as_deref(), base::clock::now()).into())
    }
}

fn decide_volume(volume: &Arc<Object>, claim: Option<&Object>, now: jiff::Timestamp) -> Vec<Action> {
    let held = holder(volume);
    let alive =
        held.as_ref().is_some_and(|(_, uid)| claim.is_some_and(|c| uid.is_empty() || c.uid() == *uid));
    if volume.is_deleting() {
        let bound = alive && view::phase(volume) == "Bound";
        let free = finalizers(volume, &gvr::PERSISTENT_VOLUMES, |f| {
            if !bound {
                f.retain(|f| f != VOLUME_FINALIZER);
            }
        });
        return free.into_iter().collect();
    }
    let protect = finalizers(volume, &gvr::PERSISTENT_VOLUMES, |f| {
        if !f.iter().any(|f| f == VOLUME_FINALIZER) {
            f.push(VOLUME_FINALIZER.into());
        }
    });
    if let Some(protect) = protect {
        return vec![protect];
    }
    let phase = |phase: &str| {
        if view::phase(volume) == phase {
            return Vec::new();
        }
        let status = json!({"phase": phase, "lastPhaseTransitionTime": meta::time(now)});
        vec![Action::status(&gvr::PERSISTENT_VOLUMES, volume, status)]
    };
    let Some((_, uid)) = held else { return phase("Available") };
    if uid.is_empty() {
        return phase("Available"); // reserved for a claim that may not be there yet
    }
    if alive {
        let named = claim.map(|c| view::text(c, &["spec", "volumeName"])).unwrap_or_default();
        // A binding that is only half written is completed by the claim's own turn.
        return if named == volume.name() { phase("Bound") } else { Vec::new() };
    }
    let mut actions = phase("Released");
    if actions.is_empty() && view::text(volume, &["spec", "persistentVolumeReclaimPolicy"]) == "Delete" {
        // What a provisioner made it also takes away; of what people made only the object can be deleted.
        if volume.annotation(PROVISIONED_BY).is_none() {
            let text = "error getting deleter volume plugin for volume: no deletable volume plugin matched";
            actions.push(Action::event(volume, "Warning", "VolumeFailedDelete", text));
            actions.push(Action::status(
                &gvr::PERSISTENT_VOLUMES,
                volume,
                json!({"phase": "Failed", "message": text}),
            ));
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn volume(name: &str, size: &str, change: impl Fn(&mut Value)) -> Value {
        let mut v = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c", "persistentVolumeReclaimPolicy": "Retain"}});
        change(&mut v);
        v
    }

    fn claim(name: &str, size: &str, change: impl Fn(&mut Value)) -> Value {
        let mut v = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": "ns"},
            "spec": {"resources": {"requests": {"storage": size}}, "accessModes": ["ReadWriteOnce"], "storageClassName": "c"}});
        change(&mut v);
        v
    }

    struct Play {
        world: World,
    }

    impl Play {
        fn new() -> Play {
            let world = World::new();
            world.machine.start(Claims::new(&world.machine));
            world.machine.start(Volumes::new(&world.machine));
            Play { world }
        }

        fn volume(&self, v: Value) {
            self.world.fake.put(&gvr::PERSISTENT_VOLUMES, v);
        }

        fn claim(&self, v: Value) {
            self.world.fake.put(&gvr::PERSISTENT_VOLUME_CLAIMS, v);
        }

        async fn state(&self, name: &str) -> String {
            self.world.settle().await;
            let fake = &self.world.fake;
            if let Some(v) = fake.get(&gvr::PERSISTENT_VOLUMES, "", name) {
                return view::phase(&v).into();
            }
            let c = fake.get(&gvr::PERSISTENT_VOLUME_CLAIMS, "ns", name).unwrap();
            format!("{} {}", view::phase(&c), view::text(&c, &["spec", "volumeName"]))
        }

        async fn delete(&self, gvr: &api::Gvr, ns: &str, name: &str) {
            self.world.machine.client().delete(gvr, ns, name, &Default::default()).await.unwrap();
            self.world.settle().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_smallest_that_does() {
        let play = Play::new();
        play.claim(claim("pvc", "2Gi", |_| {}));
        assert_eq!(play.state("pvc").await, "Pending ");
        play.volume(volume("small", "1Gi", |_| {}));
        play.volume(volume("other-class", "2Gi", |v| v["spec"]["storageClassName"] = "d".into()));
        play.volume(volume("other-mode", "2Gi", |v| v["spec"]["accessModes"] = json!(["ReadOnlyMany"])));
        play.volume(volume("reserved", "2Gi", |v| {
            v["spec"]["claimRef"] = json!({"namespace": "ns", "name": "x"})
        }));
        assert_eq!(play.state("pvc").await, "Pending ");
        assert_eq!(play.state("small").await, "Available");
        play.volume(volume("large", "5Gi", |_| {}));
        assert_eq!(play.state("pvc").await, "Bound large");
        assert_eq!(play.state("large").await, "Bound");
        play.claim(claim("x", "1Gi", |_| {}));
        assert_eq!(play.state("x").await, "Bound reserved");
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_in_use_stays_and_its_volume_is_released() {
        let play = Play::new();
        play.volume(volume("v", "1Gi", |_| {}));
        play.claim(claim("pvc", "1Gi", |_| {}));
        assert_eq!(play.state("pvc").await, "Bound v");
        play.world.fake.put(&gvr::PODS, json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "pvc"}}]}}));
        play.delete(&gvr::PERSISTENT_VOLUME_CLAIMS, "ns", "pvc").await;
        assert_eq!(play.state("pvc").await, "Bound v");
        play.world.fake.remove(&gvr::PODS, "ns", "p");
        play.world.settle().await;
        assert!(play.world.fake.get(&gvr::PERSISTENT_VOLUME_CLAIMS, "ns", "pvc").is_none());
        assert_eq!(play.state("v").await, "Released");
        play.claim(claim("pvc", "1Gi", |_| {}));
        assert_eq!(
            play.state("pvc").await,
            "Pending ",
            "what is released is nobody's until somebody clears it"
        );
        play.delete(&gvr::PERSISTENT_VOLUMES, "", "v").await;
        assert!(play.world.fake.get(&gvr::PERSISTENT_VOLUMES, "", "v").is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_volume_in_use_stays_and_a_lost_one_is_told_of() {
        let play = Play::new();
        play.volume(volume("v", "1Gi", |_| {}));
        play.claim(claim("pvc", "1Gi", |_| {}));
        assert_eq!(play.state("v").await, "Bound");
        play.delete(&gvr::PERSISTENT_VOLUMES, "", "v").await;
        assert_eq!(play.state("v").await, "Bound", "it is protected");
        play.world.fake.remove(&gvr::PERSISTENT_VOLUMES, "", "v");
        assert_eq!(play.state("pvc").await, "Lost v");
    }

    #[tokio::test(start_paused = true)]
    async fn a_claim_may_wait_for_its_pod() {
        let play = Play::new();
        play.world.fake.put(&gvr::STORAGE_CLASSES, json!({"metadata": {"name": "c"}, "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"}));
        play.volume(volume("v", "1Gi", |_| {}));
        play.claim(claim("pvc", "1Gi", |_| {}));
        assert_eq!(play.state("pvc").await, "Pending ");
        play.volume(volume("elsewhere", "500Mi", |v| {
            v["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms":
            [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["m"]}]}]}})
        }));
        let mut small = claim("pvc", "100Mi", |_| {});
        small["metadata"]["annotations"] = json!({SELECTED_NODE: "gone"});
        play.claim(small);
        assert_eq!(play.state("pvc").await, "Pending ", "there is no such node");
        for name in ["n", "m"] {
            play.world.fake.put(
                &gvr::NODES,
                json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}),
            );
        }
        let mut c = play.world.fake.get(&gvr::PERSISTENT_VOLUME_CLAIMS, "ns", "pvc").unwrap().value().clone();
        c["metadata"]["annotations"][SELECTED_NODE] = "n".into();
        play.claim(c);
        assert_eq!(play.state("pvc").await, "Bound v");
    }
}
