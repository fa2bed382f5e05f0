//! StatefulSet: pods with names, one after the other, each with its own claims.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Key, Object, Value, meta};
use async_trait::async_trait;
use client::{DeleteOptions, Informer, Result, gvr};
use jiff::Timestamp;
use serde_json::json;

use crate::machine::BURST;
use crate::revisions::{self, LABEL};
use crate::{Action, Announce, Controller, Decision, Machine, Source, children, view};

/// The label with a pod's own name, so that a Service can select it alone.
const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// The label with a pod's number.
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The controller.
pub(crate) struct StatefulSets {
    sets: Arc<Informer>,
    pods: Arc<Informer>,
    claims: Arc<Informer>,
    revisions: Arc<Informer>,
}

impl StatefulSets {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self {
            sets: machine.informer(&gvr::STATEFUL_SETS),
            pods: machine.informer(&gvr::PODS),
            claims: machine.informer(&gvr::PERSISTENT_VOLUME_CLAIMS),
            revisions: machine.informer(&gvr::CONTROLLER_REVISIONS),
        }
    }
}

#[async_trait]
impl Controller for StatefulSets {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn sources(&self) -> Vec<Source> {
        vec![
            Source::own(&self.sets),
            children::source(&self.pods, "StatefulSet", &self.sets, children::selector),
            children::source(&self.revisions, "StatefulSet", &self.sets, |_| api::selector::Label::nothing()),
            Source::read(&self.claims),
        ]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else { return Ok(Decision::default()) };
        let selector = children::selector(&set);
        // Only what has a name of the set's is adopted.
        let mut candidates = children::of(&self.pods, &set);
        candidates.retain(|p| ordinal(&set, p).is_some());
        let (pods, claimed) = children::claim(&gvr::PODS, &set, &selector, &candidates);
        if !claimed.is_empty() {
            return Ok(claimed.into());
        }
        let claims = |name: &str| self.claims.get(&key.namespace, name);
        let revisions = children::owned(&self.revisions, &set);
        Ok(decide(&Observed { set: &set, pods, claims: &claims, revisions, now: base::clock::now() }))
    }
}

/// A pod's number in the set; none if it has no name of the set's.
fn ordinal(set: &Object, pod: &Object) -> Option<i64> {
    let number = pod.name().strip_prefix(set.name())?.strip_prefix('-')?;
    let well_formed = number == "0" || !number.starts_with('0') && number.bytes().all(|b| b.is_ascii_digit());
    number.parse().ok().filter(|_| well_formed)
}

struct Observed<'a> {
    set: &'a Arc<Object>,
    pods: Vec<Arc<Object>>,
    claims: &'a dyn Fn(&str) -> Option<Arc<Object>>,
    revisions: Vec<Arc<Object>>,
    now: Timestamp,
}

struct Plan<'a> {
    o: &'a Observed<'a>,
    start: i64,
    replicas: i64,
    /// One after the other, or all at once.
    ordered: bool,
    min_ready: i64,
    partition: i64,
    rolling: bool,
    /// The revision that pods had before the update, and the one that they get.
    current: String,
    update: String,
}

fn decide(o: &Observed<'_>) -> Decision {
    let set = o.set;
    let recorded = view::text(set, &["status", "currentRevision"]).to_owned();
    let used = |name: &str| name == recorded || o.pods.iter().any(|p| p.labels().get(LABEL) == Some(name));
    let revisions = revisions::of(set, &o.revisions, &used);
    let known = o.revisions.iter().any(|r| r.name() == recorded);
    let plan = Plan {
        o,
        start: view::int(set, &["spec", "ordinals", "start"], 0),
        replicas: view::int(set, &["spec", "replicas"], 1),
        ordered: view::text(set, &["spec", "podManagementPolicy"]) != "Parallel",
        min_ready: view::int(set, &["spec", "minReadySeconds"], 0),
        partition: view::int(set, &["spec", "updateStrategy", "rollingUpdate", "partition"], 0),
        rolling: view::text(set, &["spec", "updateStrategy", "type"]) != "OnDelete",
        current: if known { recorded } else { revisions.update.clone() },
        update: revisions.update,
    };
    let mut decision = Decision { actions: revisions.actions, again: None };
    let mut managed = Vec::new();
    if !set.is_deleting() {
        managed = plan.manage(&mut decision);
    }
    // What is about to go no longer counts: its successor's revision follows from that.
    let doomed: Vec<&str> = managed
        .iter()
        .filter_map(|a| match a {
            Action::Delete { object, .. } => Some(object.uid()),
            _ => None,
        })
        .collect();
    let status = plan.status(&doomed, &mut decision);
    if view::status_differs(set, &status) {
        decision.actions.insert(0, Action::status(&gvr::STATEFUL_SETS, set, status));
    }
    decision.actions.extend(managed);
    decision
}

impl Plan<'_> {
    fn is_available(&self, pod: &Object) -> bool {
        view::until_available(pod, self.min_ready, self.o.now).is_some_and(|left| left.is_zero())
    }

    /// Running, ready and staying.
    fn is_healthy(&self, pod: &Object) -> bool {
        view::phase(pod) == "Running" && view::is_ready(pod) && !pod.is_deleting()
    }

    fn revision_of<'p>(&self, pod: &'p Object) -> &'p str {
        pod.labels().get(LABEL).unwrap_or_default()
    }

    fn manage(&self, decision: &mut Decision) -> Vec<Action> {
        let mut actions = Vec::new();
        let (mut wanted, mut condemned) = (BTreeMap::new(), BTreeMap::new());
        let end = self.start + self.replicas;
        for pod in &self.o.pods {
            let Some(n) = ordinal(self.o.set, pod) else { continue };
            if (self.start..end).contains(&n) { &mut wanted } else { &mut condemned }.insert(n, pod.clone());
        }
        for n in self.start..end {
            match wanted.get(&n) {
                None => {
                    actions.extend(self.create(n));
                    if self.ordered || actions.len() >= BURST {
                        return actions;
                    }
                }
                Some(pod) if pod.is_deleting() => {
                    if self.ordered {
                        return actions;
                    }
                }
                Some(pod) if view::is_terminal(pod) => {
                    let text = format!(
                        "StatefulSet {} is recreating terminated Pod {}",
                        self.o.set.key(),
                        pod.name()
                    );
                    actions.push(Action::event(self.o.set, "Warning", "RecreatingTerminatedPod", text));
                    actions.push(self.delete(pod));
                    if self.ordered {
                        return actions;
                    }
                }
                Some(pod) => {
                    let missing = self.missing_claims(n);
                    actions.extend(missing);
                    if self.ordered && !self.is_healthy(pod) {
                        return actions;
                    }
                    if self.ordered && !self.is_available(pod) {
                        if let Some(left) = view::until_available(pod, self.min_ready, self.o.now) {
                            decision.after(left);
                        }
                        return actions;
                    }
                }
            }
        }
        // Too many: the last one first.
        let sick = wanted
            .values()
            .chain(condemned.values())
            .find(|p| !self.is_healthy(p))
            .map(|p| p.uid().to_owned());
        for pod in condemned.values().rev() {
            if pod.is_deleting() {
                if self.ordered {
                    return actions;
                }
                continue;
            }
            if self.ordered && !self.is_healthy(pod) && sick.as_deref() != Some(pod.uid()) {
                return actions;
            }
            if self.ordered && wanted.values().any(|p| !self.is_healthy(p)) {
                return actions;
            }
            actions.push(self.delete(pod));
            if self.ordered {
                return actions;
            }
        }
        if self.rolling {
            actions.extend(self.roll(&wanted));
        }
        actions
    }

    /// The last one that is not up to date is replaced, if all after it are healthy.
    fn roll(&self, wanted: &BTreeMap<i64, Arc<Object>>) -> Option<Action> {
        for (n, pod) in wanted.iter().rev() {
            if *n < self.start + self.partition {
                return None;
            }
            if self.revision_of(pod) != self.update && !pod.is_deleting() {
                return Some(self.delete(pod));
            }
            if !self.is_healthy(pod) || !self.is_available(pod) {
                return None;
            }
        }
        None
    }

    /// Which revision a new pod gets.
    fn revision_for(&self, n: i64) -> &str {
        if !self.rolling || self.current == self.update {
            return if self.rolling { &self.update } else { &self.current };
        }
        let still = view::int(self.o.set, &["status", "currentReplicas"], 0);
        let old = if self.partition == 0 { n < self.start + still } else { n < self.start + self.partition };
        if old { &self.current } else { &self.update }
    }

    fn create(&self, n: i64) -> Vec<Action> {
        let set = self.o.set;
        let name = format!("{}-{n}", set.name());
        let revision = self.revision_for(n);
        let kept = self.o.revisions.iter().find(|r| r.name() == revision && revision != self.update);
        let template = kept.map_or_else(|| set.at(&["spec", "template"]).clone(), |r| revisions::template(r));
        let owner = meta::OwnerReference::controller_of(set);
        let mut pod = view::pod_from_template(&template, set.namespace(), "", &owner);
        if let Some(m) = pod["metadata"].as_object_mut() {
            m.shift_remove("generateName");
        }
        pod["metadata"]["name"] = name.as_str().into();
        for (label, value) in
            [(LABEL, revision.to_owned()), (POD_NAME, name.clone()), (POD_INDEX, n.to_string())]
        {
            pod["metadata"]["labels"][label] = value.into();
        }
        pod["spec"]["hostname"] = name.as_str().into();
        pod["spec"]["subdomain"] = set.at(&["spec", "serviceName"]).clone();
        let mut volumes = pod["spec"]["volumes"].as_array().cloned().unwrap_or_default();
        for claim in view::list(set, &["spec", "volumeClaimTemplates"]) {
            let volume = meta::name(claim);
            volumes.retain(|v| v["name"] != volume);
            volumes.push(
                json!({"name": volume, "persistentVolumeClaim": {"claimName": self.claim_name(claim, n)}}),
            );
        }
        if !volumes.is_empty() {
            pod["spec"]["volumes"] = volumes.into();
        }
        let mut actions = self.missing_claims(n);
        actions.push(Action::Create {
            gvr: gvr::PODS,
            object: pod,
            announce: self.announce("create", &name),
        });
        actions
    }

    fn announce(&self, verb: &str, pod: &str) -> Option<Announce> {
        let set = self.o.set;
        let reasons = if verb == "create" {
            ("SuccessfulCreate", "FailedCreate")
        } else {
            ("SuccessfulDelete", "FailedDelete")
        };
        Some(Announce {
            about: set.clone(),
            success: (reasons.0, format!("{verb} Pod {pod} in StatefulSet {} successful", set.name())),
            failure: (
                reasons.1,
                format!("{verb} Pod {pod} in StatefulSet {} failed error: {{}}", set.name()),
            ),
        })
    }

    fn claim_name(&self, template: &Value, n: i64) -> String {
        format!("{}-{}-{n}", meta::name(template), self.o.set.name())
    }

    fn missing_claims(&self, n: i64) -> Vec<Action> {
        let set = self.o.set;
        let mut actions = Vec::new();
        for template in view::list(set, &["spec", "volumeClaimTemplates"]) {
            let name = self.claim_name(template, n);
            if (self.o.claims)(&name).is_some() {
                continue;
            }
            let mut claim = template.clone();
            claim["apiVersion"] = "v1".into();
            claim["kind"] = "PersistentVolumeClaim".into();
            let metadata = meta::of_mut(&mut claim);
            metadata.insert("name".into(), name.as_str().into());
            metadata.insert("namespace".into(), set.namespace().into());
            metadata.shift_remove("creationTimestamp");
            for (k, v) in set.at(&["spec", "selector", "matchLabels"]).as_object().into_iter().flatten() {
                claim["metadata"]["labels"][k] = v.clone();
            }
            if let Some(c) = claim.as_object_mut() {
                c.shift_remove("status");
            }
            if set.at(&["spec", "persistentVolumeClaimRetentionPolicy", "whenDeleted"]) == "Delete" {
                let mut owner = meta::OwnerReference::controller_of(set);
                (owner.controller, owner.block_owner_deletion) = (None, None);
                claim["metadata"]["ownerReferences"] = json!([owner]);
            }
            let text = |end: &str| {
                format!("create Claim {name} Pod {}-{n} in StatefulSet {} {end}", set.name(), set.name())
            };
            let announce = Some(Announce {
                about: set.clone(),
                success: ("SuccessfulCreate", text("success")),
                failure: ("FailedCreate", text("failed error: {}")),
            });
            actions.push(Action::Create { gvr: gvr::PERSISTENT_VOLUME_CLAIMS, object: claim, announce });
        }
        actions
    }

    fn delete(&self, pod: &Arc<Object>) -> Action {
        let options = DeleteOptions::uid(pod.uid());
        Action::Delete {
            gvr: gvr::PODS,
            object: pod.clone(),
            options,
            announce: self.announce("delete", pod.name()),
        }
    }

    fn status(&self, doomed: &[&str], decision: &mut Decision) -> Value {
        let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
        for pod in self.o.pods.iter().filter(|p| !view::is_terminal(p)) {
            replicas += 1;
            if view::is_ready(pod) && view::phase(pod) == "Running" {
                ready += 1;
                match view::until_available(pod, self.min_ready, self.o.now) {
                    Some(left) if left.is_zero() => available += 1,
                    Some(left) => decision.after(left),
                    None => {}
                }
            }
            if !pod.is_deleting() && !doomed.contains(&pod.uid()) {
                current += i64::from(self.revision_of(pod) == self.current);
                updated += i64::from(self.revision_of(pod) == self.update);
            }
        }
        let mut current_revision = self.current.as_str();
        if self.rolling && updated == replicas && ready == replicas && updated == self.replicas {
            (current, current_revision) = (updated, &self.update); // the update is complete
        }
        let mut status = json!({
            "replicas": replicas, "availableReplicas": available, "observedGeneration": meta::generation(self.o.set.value()),
            "currentRevision": current_revision, "updateRevision": self.update,
            "collisionCount": view::int(self.o.set, &["status", "collisionCount"], 0),
        });
        for (field, n) in
            [("readyReplicas", ready), ("currentReplicas", current), ("updatedReplicas", updated)]
        {
            if n != 0 {
                status[field] = n.into();
            }
        }
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    fn set(replicas: i64, image: &str) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web", "namespace": "ns", "uid": "s", "generation": 1, "resourceVersion": "1"},
            "spec": {"replicas": replicas, "serviceName": "svc", "selector": {"matchLabels": {"app": "web"}}, "updateStrategy": {"type": "RollingUpdate"},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}})
    }

    struct Play {
        world: World,
    }

    impl Play {
        fn new(set: Value) -> Play {
            let world = World::new();
            world.machine.start(StatefulSets::new(&world.machine));
            world.fake.put(&gvr::STATEFUL_SETS, set);
            Play { world }
        }

        async fn pods(&self) -> Vec<String> {
            self.world.settle().await;
            let image =
                |p: &Object| view::list(p, &["spec", "containers"])[0]["image"].as_str().unwrap().to_owned();
            self.world.fake.all(&gvr::PODS).iter().map(|p| format!("{} {}", p.name(), image(p))).collect()
        }

        async fn ready(&self, name: &str) {
            let mut p = self.world.fake.get(&gvr::PODS, "ns", name).unwrap().value().clone();
            p["status"] = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
            self.world.fake.put(&gvr::PODS, p);
            self.world.settle().await;
        }

        fn change(&self, change: impl Fn(&mut Value)) {
            let mut s = self.world.fake.get(&gvr::STATEFUL_SETS, "ns", "web").unwrap().value().clone();
            change(&mut s);
            self.world.fake.put(&gvr::STATEFUL_SETS, s);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_after_the_other_with_names_and_claims() {
        let play = Play::new(set(2, "v1"));
        assert_eq!(play.pods().await, ["web-0 v1"]);
        play.ready("web-0").await;
        assert_eq!(play.pods().await, ["web-0 v1", "web-1 v1"]);
        play.ready("web-1").await;
        let claims: Vec<String> =
            play.world.fake.all(&gvr::PERSISTENT_VOLUME_CLAIMS).iter().map(|c| c.name().to_owned()).collect();
        assert_eq!(claims, ["data-web-0", "data-web-1"]);
        let pod = play.world.fake.get(&gvr::PODS, "ns", "web-1").unwrap();
        assert_eq!(
            (view::text(&pod, &["spec", "hostname"]), view::text(&pod, &["spec", "subdomain"])),
            ("web-1", "svc")
        );
        assert_eq!(pod.at(&["spec", "volumes"])[0]["persistentVolumeClaim"]["claimName"], "data-web-1");
        assert_eq!(pod.labels().get(POD_NAME), Some("web-1"));
        // One that is gone comes back by its name, to its claim.
        play.world.fake.remove(&gvr::PODS, "ns", "web-0");
        assert_eq!(play.pods().await, ["web-0 v1", "web-1 v1"]);
        play.ready("web-0").await;
        // Down: the last one goes, its claim stays.
        play.change(|s| s["spec"]["replicas"] = 1.into());
        assert_eq!(play.pods().await, ["web-0 v1"]);
        assert_eq!(play.world.fake.all(&gvr::PERSISTENT_VOLUME_CLAIMS).len(), 2);
        let events = play.world.fake.all(&gvr::EVENTS);
        assert!(
            events.iter().any(|e| e.value()["message"] == "create Pod web-0 in StatefulSet web successful")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn updates_go_from_the_last_to_the_first() {
        let play = Play::new(set(2, "v1"));
        play.world.settle().await;
        play.ready("web-0").await;
        play.ready("web-1").await;
        play.change(|s| {
            s["spec"]["template"]["spec"]["containers"][0]["image"] = "v2".into();
            s["spec"]["updateStrategy"]["rollingUpdate"] = json!({"partition": 1});
        });
        assert_eq!(play.pods().await, ["web-0 v1", "web-1 v2"]);
        play.ready("web-1").await;
        assert_eq!(play.pods().await, ["web-0 v1", "web-1 v2"], "the partition holds");
        play.world.fake.remove(&gvr::PODS, "ns", "web-0");
        assert_eq!(
            play.pods().await,
            ["web-0 v1", "web-1 v2"],
            "what comes back below the partition is as it was"
        );
        play.ready("web-0").await;
        play.change(|s| s["spec"]["updateStrategy"]["rollingUpdate"] = json!({"partition": 0}));
        assert_eq!(play.pods().await, ["web-0 v2", "web-1 v2"]);
        play.ready("web-0").await;
        let s = play.world.fake.get(&gvr::STATEFUL_SETS, "ns", "web").unwrap();
        assert_eq!(s.status()["currentRevision"], s.status()["updateRevision"]);
        assert_eq!(s.status()["currentReplicas"], 2);
    }

    #[tokio::test(start_paused = true)]
    async fn parallel_ones_come_together() {
        let mut s = set(3, "v1");
        s["spec"]["podManagementPolicy"] = "Parallel".into();
        let play = Play::new(s);
        assert_eq!(play.pods().await.len(), 3);
        play.change(|s| s["spec"]["replicas"] = 0.into());
        assert_eq!(play.pods().await.len(), 0);
    }

    #[test]
    fn names() {
        let s = Object::from_value(set(1, "v"));
        let n = |name: &str| ordinal(&s, &Object::from_value(json!({"metadata": {"name": name}})));
        assert_eq!(
            (n("web-0"), n("web-12"), n("web-01"), n("web-x"), n("webs-1"), n("web-")),
            (Some(0), Some(12), None, None, None, None)
        );
    }
}
