//! Deployment: one ReplicaSet for each template that there has been, and a way from the old ones to the newest.
//!
//! - this file: which ReplicaSet is which, their revisions, the steps of a rollout;
//! - `scale`: how a change of the size is shared out while a rollout is under way or paused;
//! - `status`: numbers and conditions.

mod scale;
mod status;

use std::sync::Arc;

use api::{Key, Object, Value, meta};
use async_trait::async_trait;
use client::{Informer, Result, gvr};
use jiff::Timestamp;
use serde_json::json;

use crate::{Action, Announce, Controller, Decision, Machine, Source, children, view};

/// On a ReplicaSet and its Deployment: the number of the template, counted up with each rollout.
const REVISION: &str = "deployment.kubernetes.io/revision";
/// On a ReplicaSet: the numbers that it had before it became the newest again.
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// On a ReplicaSet: the Deployment's size when it was last scaled.
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
/// On a ReplicaSet: that and the surge.
const MAX: &str = "deployment.kubernetes.io/max-replicas";
/// The label that tells the pods of one template from those of another.
const HASH: &str = "pod-template-hash";
/// Annotations of a Deployment that its ReplicaSets do not get.
const NOT_COPIED: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// How many old templates are kept if the Deployment does not say.
const LIMIT_DEFAULT: i64 = 10;

/// The controller.
pub(crate) struct Deployments {
    deployments: Arc<Informer>,
    sets: Arc<Informer>,
    pods: Arc<Informer>,
}

impl Deployments {
    pub(crate) fn new(machine: &Machine) -> Self {
        let pods = machine.informer(&gvr::PODS);
        children::prepare(&pods);
        Self {
            deployments: machine.informer(&gvr::DEPLOYMENTS),
            sets: machine.informer(&gvr::REPLICA_SETS),
            pods,
        }
    }
}

#[async_trait]
impl Controller for Deployments {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn sources(&self) -> Vec<Source> {
        let (deployments, sets) = (self.deployments.clone(), self.sets.clone());
        // Only the end of a pod matters here, to those that wait for the last old one before they make new ones.
        let pods = Source::with(&self.pods, move |change| {
            if change.new.as_ref().is_some_and(|p| !view::is_terminal(p)) {
                return Vec::new();
            }
            let pod = change.object();
            let set = meta::controller_of(pod.value()).filter(|o| o.kind == "ReplicaSet");
            let set = set.and_then(|o| sets.get(pod.namespace(), &o.name));
            let owner = set.and_then(|s| meta::controller_of(s.value())).filter(|o| o.kind == "Deployment");
            let deployment = owner.and_then(|o| deployments.get(pod.namespace(), &o.name));
            deployment.filter(|d| is_recreate(d)).map(|d| d.key()).into_iter().collect()
        });
        vec![
            Source::own(&self.deployments),
            children::source(&self.sets, "Deployment", &self.deployments, children::selector),
            pods,
        ]
    }

    async fn reconcile(&self, key: &Key, _failure: Option<&str>) -> Result<Decision> {
        let Some(deployment) = self.deployments.get(&key.namespace, &key.name) else {
            return Ok(Decision::default());
        };
        let sets = children::of(&self.sets, &deployment);
        let hash = template_hash(&deployment);
        let taken = self.sets.get(&key.namespace, &format!("{}-{hash}", key.name));
        let old_pods_run =
            |set: &Object| children::owned(&self.pods, set).iter().any(|p| !view::is_terminal(p));
        Ok(decide(&Observed {
            deployment: &deployment,
            sets,
            taken,
            old_pods_run: &old_pods_run,
            now: base::clock::now(),
        }))
    }
}

fn is_recreate(deployment: &Object) -> bool {
    view::text(deployment, &["spec", "strategy", "type"]) == "Recreate"
}

struct Observed<'a> {
    deployment: &'a Arc<Object>,
    /// The Deployment's and nobody's.
    sets: Vec<Arc<Object>>,
    /// Whatever has the name that the new one is to have.
    taken: Option<Arc<Object>>,
    /// Whether a set has pods that have not ended.
    old_pods_run: &'a dyn Fn(&Object) -> bool,
    now: Timestamp,
}

/// A ReplicaSet, as it is and as it shall be.
#[derive(Clone)]
struct Set {
    object: Arc<Object>,
    replicas: i64,
}

impl Set {
    fn new(object: Arc<Object>) -> Self {
        let replicas = view::int(&object, &["spec", "replicas"], 1);
        Self { object, replicas }
    }

    fn spec_replicas(&self) -> i64 {
        view::int(&self.object, &["spec", "replicas"], 1)
    }

    fn available(&self) -> i64 {
        view::int(&self.object, &["status", "availableReplicas"], 0)
    }

    fn revision(&self) -> i64 {
        self.object.annotation(REVISION).and_then(|r| r.parse().ok()).unwrap_or(0)
    }

    fn created(&self) -> Timestamp {
        view::created(&self.object)
    }
}

/// The Deployment's numbers.
struct Plan {
    replicas: i64,
    surge: i64,
    unavailable: i64,
}

impl Plan {
    fn of(deployment: &Object) -> Plan {
        let replicas = view::int(deployment, &["spec", "replicas"], 1);
        if is_recreate(deployment) {
            return Plan { replicas, surge: 0, unavailable: 0 };
        }
        let at = |f| deployment.at(&["spec", "strategy", "rollingUpdate", f]);
        let surge = view::scaled(at("maxSurge"), replicas, true, 0);
        let mut unavailable = view::scaled(at("maxUnavailable"), replicas, false, 0);
        if surge == 0 && unavailable == 0 {
            unavailable = 1; // or nothing could ever move
        }
        Plan { replicas, surge, unavailable: unavailable.min(replicas) }
    }
}

fn decide(o: &Observed<'_>) -> Decision {
    let selector = children::selector(o.deployment);
    if selector.is_everything() {
        let text = "This deployment is selecting all pods. A non-empty selector is required.";
        return vec![Action::event(o.deployment, "Warning", "SelectingAll", text)].into();
    }
    let (mine, claims) = children::claim(&gvr::REPLICA_SETS, o.deployment, &selector, &o.sets);
    if !claims.is_empty() {
        return claims.into(); // which set is which is seen once they are sorted out
    }
    let mut sets: Vec<Set> = mine.into_iter().map(Set::new).collect();
    sets.sort_by(|a, b| a.created().cmp(&b.created()).then_with(|| a.object.name().cmp(b.object.name())));
    let template = without_hash(o.deployment.at(&["spec", "template"]));
    // Should there be several that are alike, the oldest is the one, as it always was.
    let newest = sets.iter().position(|s| without_hash(s.object.at(&["spec", "template"])) == template);
    let new = newest.map(|i| sets.remove(i));
    let mut rollout = Rollout {
        o,
        plan: Plan::of(o.deployment),
        new,
        old: sets,
        actions: Vec::new(),
        conditions: Vec::new(),
        note: None,
    };
    let mut decision = Decision::default();
    if !o.deployment.is_deleting() {
        rollout.act();
    }
    status::write(&mut rollout, &mut decision);
    decision.actions = rollout.actions;
    decision.actions.extend(rollout.note); // after the status, which is written only onto the revision that was seen
    decision
}

struct Rollout<'a> {
    o: &'a Observed<'a>,
    plan: Plan,
    new: Option<Set>,
    /// Oldest first.
    old: Vec<Set>,
    actions: Vec<Action>,
    /// Conditions that this step brings: type, status, reason, message.
    conditions: Vec<(&'static str, &'static str, &'static str, String)>,
    /// The Deployment's own revision annotation, if it must change.
    note: Option<Action>,
}

impl Rollout<'_> {
    fn deployment(&self) -> &Arc<Object> {
        self.o.deployment
    }

    fn paused(&self) -> bool {
        self.deployment().at(&["spec", "paused"]) == &Value::Bool(true)
    }

    fn act(&mut self) {
        let scaling = self
            .all()
            .any(|s| s.spec_replicas() > 0 && desired(&s.object).is_some_and(|d| d != self.plan.replicas));
        if self.paused() || scaling {
            self.sync_new(false);
            scale::share_out(self);
            if self.paused() {
                self.clean_up();
            }
            return;
        }
        if is_recreate(self.deployment()) {
            self.recreate()
        } else {
            self.roll()
        }
        if self.is_complete() {
            self.clean_up();
        }
    }

    fn all(&self) -> impl Iterator<Item = &Set> {
        self.old.iter().chain(&self.new)
    }

    fn recreate(&mut self) {
        self.sync_existing();
        let mut scaled = false;
        for i in 0..self.old.len() {
            if self.old[i].replicas > 0 {
                scaled |= self.scale_old(i, 0);
            }
        }
        if scaled || self.old.iter().any(|s| (self.o.old_pods_run)(&s.object)) {
            return;
        }
        if self.new.is_none() {
            return self.sync_new(true);
        }
        let replicas = self.plan.replicas;
        self.scale_new(replicas);
    }

    fn roll(&mut self) {
        self.sync_new(true);
        if self.new.is_none() {
            return;
        }
        let to = self.new_size();
        if self.scale_new(to) {
            return;
        }
        self.shrink_old();
    }

    /// How large the new set may be now.
    fn new_size(&self) -> i64 {
        let Some(new) = &self.new else { return 0 };
        if new.replicas >= self.plan.replicas {
            return self.plan.replicas;
        }
        let total: i64 = self.all().map(|s| s.replicas).sum();
        let room = (self.plan.replicas + self.plan.surge - total).max(0);
        new.replicas + room.min(self.plan.replicas - new.replicas)
    }

    fn shrink_old(&mut self) {
        let Some(new) = &self.new else { return };
        let total: i64 = self.all().map(|s| s.replicas).sum();
        let least = self.plan.replicas - self.plan.unavailable;
        let mut spare = total - least - (new.replicas - new.available());
        if spare <= 0 {
            return;
        }
        // First those that do no good anyway.
        for i in 0..self.old.len() {
            let sick = (self.old[i].replicas - self.old[i].available()).clamp(0, spare);
            if sick > 0 {
                let to = self.old[i].replicas - sick;
                self.scale_old(i, to);
                spare -= sick;
            }
        }
        let mut spare = self.all().map(Set::available).sum::<i64>() - least;
        for i in 0..self.old.len() {
            let less = self.old[i].replicas.min(spare).max(0);
            if less > 0 {
                let to = self.old[i].replicas - less;
                self.scale_old(i, to);
                spare -= less;
            }
        }
    }

    fn scale_new(&mut self, to: i64) -> bool {
        let Some(mut new) = self.new.take() else { return false };
        let scaled = self.scale(&mut new, to);
        self.new = Some(new);
        scaled
    }

    fn scale_old(&mut self, i: usize, to: i64) -> bool {
        let mut set = self.old[i].clone();
        let scaled = self.scale(&mut set, to);
        self.old[i] = set;
        scaled
    }

    /// Scales a set, says so, and notes on it for which size of the Deployment this was done.
    fn scale(&mut self, set: &mut Set, to: i64) -> bool {
        let (desired, max) =
            (self.plan.replicas.to_string(), (self.plan.replicas + self.plan.surge).to_string());
        let noted =
            set.object.annotation(DESIRED) == Some(&desired) && set.object.annotation(MAX) == Some(&max);
        if set.replicas == to && (noted || to == 0) {
            return false;
        }
        let patch = json!({"metadata": {"uid": set.object.uid(), "annotations": {DESIRED: desired, MAX: max}}, "spec": {"replicas": to}});
        self.actions.push(Action::patch(&gvr::REPLICA_SETS, &set.object, patch));
        if set.replicas != to {
            let way = if to > set.replicas { "up" } else { "down" };
            let text =
                format!("Scaled {way} replica set {} from {} to {to}", set.object.name(), set.replicas);
            self.actions.push(Action::event(self.o.deployment, "Normal", "ScalingReplicaSet", text));
        }
        let changed = set.replicas != to;
        set.replicas = to;
        changed
    }

    fn next_revision(&self) -> i64 {
        self.old.iter().map(Set::revision).max().unwrap_or(0) + 1
    }

    /// Brings annotations of the new set, if there is one, and of the Deployment up to date.
    fn sync_existing(&mut self) {
        let Some(new) = self.new.clone() else { return };
        let mut annotations = json!({});
        for (k, v) in meta::annotations(self.o.deployment.value()).into_iter().flatten() {
            if !NOT_COPIED.contains(&k.as_str()) && new.object.annotation(k) != v.as_str() {
                annotations[k] = v.clone();
            }
        }
        let (revision, next) = (new.revision(), self.next_revision());
        if revision < next {
            annotations[REVISION] = next.to_string().into();
            if revision > 0 {
                let history = new.object.annotation(REVISION_HISTORY).filter(|h| !h.is_empty());
                annotations[REVISION_HISTORY] =
                    history.map_or(revision.to_string(), |h| format!("{h},{revision}")).into();
            }
        }
        let mut patch = json!({});
        if annotations.as_object().is_some_and(|a| !a.is_empty()) {
            patch["metadata"] = json!({"annotations": annotations, "uid": new.object.uid()});
        }
        let min_ready = view::int(self.o.deployment, &["spec", "minReadySeconds"], 0);
        if view::int(&new.object, &["spec", "minReadySeconds"], 0) != min_ready {
            patch["spec"] = json!({"minReadySeconds": min_ready});
        }
        if patch != json!({}) {
            self.actions.push(Action::patch(&gvr::REPLICA_SETS, &new.object, patch));
        }
        self.note_revision(revision.max(next));
        if status::progressing(self.o.deployment).is_none() && status::deadline(self.o.deployment).is_some() {
            let text = format!("Found new replica set \"{}\"", new.object.name());
            self.conditions.push(("Progressing", "True", "FoundNewReplicaSet", text));
        }
    }

    fn note_revision(&mut self, revision: i64) {
        let revision = revision.to_string();
        if self.o.deployment.annotation(REVISION) != Some(&revision) {
            let patch = json!({"metadata": {"annotations": {REVISION: revision}}});
            self.note = Some(Action::patch(&gvr::DEPLOYMENTS, self.o.deployment, patch));
        }
    }

    /// Makes the new set if there is none and `make` says so.
    fn sync_new(&mut self, make: bool) {
        if self.new.is_some() {
            return self.sync_existing();
        }
        if !make {
            return;
        }
        let deployment = self.o.deployment;
        let hash = template_hash(deployment);
        if let Some(taken) = &self.o.taken {
            // Another template has the same hash: count up, and the next hash is another one.
            let n = view::int(deployment, &["status", "collisionCount"], 0) + 1;
            let mut status = deployment.status().clone();
            status["collisionCount"] = n.into();
            tracing::debug!(name = taken.name(), "the name of a new ReplicaSet is taken");
            self.actions.push(Action::status(&gvr::DEPLOYMENTS, deployment, status));
            return;
        }
        let revision = self.next_revision();
        let total: i64 = self.old.iter().map(|s| s.replicas).sum();
        let room = (self.plan.replicas + self.plan.surge - total).max(0);
        let replicas =
            if is_recreate(deployment) { self.plan.replicas } else { room.min(self.plan.replicas) };
        let set = new_set(deployment, &hash, revision, replicas, &self.plan);
        let name = meta::name(&set).to_owned();
        self.actions.push(Action::Create {
            gvr: gvr::REPLICA_SETS,
            object: set,
            announce: self.announce(&name, replicas),
        });
        self.note_revision(revision);
        if status::deadline(deployment).is_some() {
            let text = format!("Created new replica set \"{name}\"");
            self.conditions.push(("Progressing", "True", "NewReplicaSetCreated", text));
        }
    }

    fn announce(&self, name: &str, replicas: i64) -> Option<Announce> {
        let failure = format!("Failed to create new replica set \"{name}\": {{}}");
        Some(Announce {
            about: self.o.deployment.clone(),
            success: ("ScalingReplicaSet", format!("Scaled up replica set {{}} from 0 to {replicas}")),
            failure: ("ReplicaSetCreateError", failure),
        })
        .filter(|_| replicas > 0)
    }

    fn is_complete(&self) -> bool {
        let Some(new) = &self.new else { return false };
        let others: i64 = self.old.iter().map(|s| view::int(&s.object, &["status", "replicas"], 0)).sum();
        others == 0
            && view::int(&new.object, &["status", "replicas"], 0) == self.plan.replicas
            && new.available() == self.plan.replicas
    }

    /// Forgets the oldest templates beyond the limit.
    fn clean_up(&mut self) {
        let limit = view::int(self.o.deployment, &["spec", "revisionHistoryLimit"], LIMIT_DEFAULT);
        if limit == i64::from(i32::MAX) {
            return;
        }
        let mut idle: Vec<&Set> = self.old.iter().filter(|s| !s.object.is_deleting()).collect();
        idle.sort_by_key(|s| (s.revision(), s.created()));
        let excess = usize::try_from(idle.len() as i64 - limit).unwrap_or(0);
        let gone = idle.into_iter().take(excess).filter(|s| {
            view::int(&s.object, &["status", "replicas"], 0) == 0
                && s.replicas == 0
                && meta::generation(s.object.value())
                    <= view::int(&s.object, &["status", "observedGeneration"], 0)
        });
        let gone: Vec<Action> = gone.map(|s| Action::delete(&gvr::REPLICA_SETS, &s.object)).collect();
        self.actions.extend(gone);
    }
}

/// The size of the Deployment for which a set was last scaled.
fn desired(set: &Object) -> Option<i64> {
    set.annotation(DESIRED)?.parse().ok()
}

fn without_hash(template: &Value) -> Value {
    let mut template = view::plain_template(template);
    if let Some(labels) = template["metadata"].get_mut("labels").and_then(Value::as_object_mut) {
        labels.shift_remove(HASH);
    }
    template
}

/// The hash of the template, with the number of collisions so far.
fn template_hash(deployment: &Object) -> String {
    let template = view::canonical(deployment.at(&["spec", "template"])).to_string();
    let collisions = view::int(deployment, &["status", "collisionCount"], 0);
    let salt = if collisions > 0 { collisions.to_string() } else { String::new() };
    view::hash(&[template.as_bytes(), salt.as_bytes()])
}

fn new_set(deployment: &Object, hash: &str, revision: i64, replicas: i64, plan: &Plan) -> Value {
    let mut annotations = json!({});
    for (k, v) in meta::annotations(deployment.value()).into_iter().flatten() {
        if !NOT_COPIED.contains(&k.as_str()) {
            annotations[k] = v.clone();
        }
    }
    annotations[REVISION] = revision.to_string().into();
    annotations[DESIRED] = plan.replicas.to_string().into();
    annotations[MAX] = (plan.replicas + plan.surge).to_string().into();
    let mut template = deployment.at(&["spec", "template"]).clone();
    template["metadata"]["labels"][HASH] = hash.into();
    let mut selector = deployment.at(&["spec", "selector"]).clone();
    selector["matchLabels"][HASH] = hash.into();
    let mut spec = json!({"replicas": replicas, "selector": selector, "template": template});
    let min_ready = deployment.at(&["spec", "minReadySeconds"]);
    if !min_ready.is_null() {
        spec["minReadySeconds"] = min_ready.clone();
    }
    json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": format!("{}-{hash}", deployment.name()), "namespace": deployment.namespace(),
            "labels": template["metadata"]["labels"], "annotations": annotations,
            "ownerReferences": [meta::OwnerReference::controller_of(deployment)]},
        "spec": spec,
    })
}

#[cfg(test)]
mod tests;
