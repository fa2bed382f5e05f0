//! PodDisruptionBudget: how many of its pods may be evicted now. Evictions count it down in the API; here it is counted
//! anew whenever pods come, go, or change their health.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use api::{Key, Object, Value, meta};
use async_trait::async_trait;
use client::{Client, Informer, Result, discovery, gvr};
use jiff::Timestamp;
use serde_json::{Map, json};

use crate::{Action, Controller, Decision, Machine, Source, children, view};

/// An eviction that was allowed but did not happen within this time is forgotten.
const FORGET: Duration = Duration::from_secs(120);

/// The controller.
pub(crate) struct Budgets {
    client: Client,
    budgets: Arc<Informer>,
    pods: Arc<Informer>,
    sets: Arc<Informer>,
    deployments: Arc<Informer>,
}

impl Budgets {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self {
            client: machine.client().named("disruption-controller"),
            budgets: machine.informer(&gvr::POD_DISRUPTION_BUDGETS),
            pods: machine.informer(&gvr::PODS),
            sets: machine.informer(&gvr::REPLICA_SETS),
            deployments: machine.informer(&gvr::DEPLOYMENTS),
        }
    }

    /// How many pods there should be, by what makes them. A Deployment's sets count as one.
    async fn expected(&self, pods: &[Arc<Object>]) -> Result<(i64, Vec<String>)> {
        let (mut seen, mut total, mut without) = (Vec::new(), 0, Vec::new());
        // What has been learnt of controllers of other makes.
        let mut others: HashMap<String, bool> = HashMap::new();
        for pod in pods {
            let Some(owner) = meta::controller_of(pod.value()) else {
                without.push(pod.name().to_owned());
                continue;
            };
            let ns = pod.namespace();
            let (group, _) = api::names::split_api_version(&owner.api_version);
            let gvr = match (group, owner.kind.as_str()) {
                ("apps", "ReplicaSet") => gvr::REPLICA_SETS,
                ("", "ReplicationController") => gvr::REPLICATION_CONTROLLERS,
                ("apps", "StatefulSet") => gvr::STATEFUL_SETS,
                _ => {
                    let sized = match others.get(&owner.uid) {
                        Some(sized) => *sized,
                        None => {
                            let replicas = self.scale(ns, &owner).await?;
                            total += replicas.unwrap_or(0);
                            others.insert(owner.uid, replicas.is_some());
                            replicas.is_some()
                        }
                    };
                    if !sized {
                        without.push(pod.name().to_owned());
                    }
                    continue;
                }
            };
            let mut scaled = match self.sets.get(ns, &owner.name).filter(|s| s.uid() == owner.uid) {
                Some(set) => Some(set),
                None => match self.client.get(&gvr, ns, &owner.name).await {
                    Ok(set) => Some(set).filter(|s| s.uid() == owner.uid),
                    Err(e) if e.is_not_found() => None,
                    // A controller that is only not known would be left out, and more evictions be allowed than it bears.
                    Err(e) => return Err(e),
                },
            };
            if let Some(above) = scaled.as_ref().and_then(|s| meta::controller_of(s.value()))
                && above.kind == "Deployment"
            {
                scaled = self.deployments.get(ns, &above.name).filter(|d| d.uid() == above.uid).or(scaled);
            }
            let Some(scaled) = scaled.filter(|s| !seen.contains(&s.uid().to_owned())) else { continue };
            seen.push(scaled.uid().to_owned());
            total += view::int(&scaled, &["spec", "replicas"], 1);
        }
        Ok((total, without))
    }

    /// How many pods a controller of another make wants, if its kind says so by a `scale`.
    async fn scale(&self, ns: &str, owner: &meta::OwnerReference) -> Result<Option<i64>> {
        let Some(resource) = discovery::find(&self.client, &owner.api_version, &owner.kind).await? else {
            return Ok(None);
        };
        match self.client.get_sub(&resource.gvr, ns, &owner.name, "scale").await {
            Ok(scale) if meta::uid(&scale) == owner.uid => {
                Ok(Some(scale.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0)))
            }
            Ok(_) => Ok(None),
            Err(e) if e.is_not_found() => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn covers(budget: &Object, pod: &Object) -> bool {
    !budget.at(&["spec", "selector"]).is_null() && children::selector(budget).matches(pod.labels())
}

#[async_trait]
impl Controller for Budgets {
    fn name(&self) -> &'static str {
        "disruption-controller"
    }

    fn sources(&self) -> Vec<Source> {
        let budgets = self.budgets.clone();
        let pods = Source::with(&self.pods, move |c| {
            if let (Some(old), Some(new)) = (&c.old, &c.new)
                && old.labels() == new.labels()
                && view::is_ready(old) == view::is_ready(new)
                && view::is_active(old) == view::is_active(new)
            {
                return Vec::new();
            }
            let of = |b: &&Arc<Object>| c.old.iter().chain(&c.new).any(|p| covers(b, p));
            budgets.list(c.object().namespace()).iter().filter(of).map(|b| b.key()).collect()
        });
        // A new size is a new expectation.
        let sized = |informer: &Arc<Informer>| {
            let budgets = self.budgets.clone();
            Source::with(informer, move |c| {
                let size =
                    |o: &Option<Arc<Object>>| o.as_ref().map(|o| view::int(o, &["spec", "replicas"], 1));
                if size(&c.old) == size(&c.new) {
                    return Vec::new();
                }
                budgets.list(c.object().namespace()).iter().map(|b| b.key()).collect()
            })
        };
        vec![Source::own(&self.budgets), pods, sized(&self.sets), sized(&self.deployments)]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(budget) = self.budgets.get(&key.namespace, &key.name) else {
            return Ok(Decision::default());
        };
        let mut pods = self.pods.list(&key.namespace);
        pods.retain(|p| covers(&budget, p) && !view::is_terminal(p));
        // So many pods are so many, whatever makes them.
        let spec = budget.spec();
        let by_size = !spec["maxUnavailable"].is_null() || spec["minAvailable"].is_string();
        let (scaled, without) = if by_size { self.expected(&pods).await? } else { Default::default() };
        Ok(decide(&Observed { budget: &budget, pods, scaled, without, now: base::clock::now() }))
    }
}

struct Observed<'a> {
    budget: &'a Arc<Object>,
    pods: Vec<Arc<Object>>,
    /// How many there should be.
    scaled: i64,
    /// Pods that nothing with a size makes.
    without: Vec<String>,
    now: Timestamp,
}

fn decide(o: &Observed<'_>) -> Decision {
    let mut decision = Decision::default();
    let spec = o.budget.spec();
    let mut disrupted = Map::new();
    for (name, at) in o.budget.status()["disruptedPods"].as_object().into_iter().flatten() {
        // Once its pod is going, an eviction has done its part.
        if !o.pods.iter().any(|p| p.name() == name && !p.is_deleting()) {
            continue;
        }
        let age = base::clock::between(view::time(at).unwrap_or(o.now), o.now);
        if age < FORGET {
            decision.after(FORGET - age);
            disrupted.insert(name.clone(), at.clone());
        }
    }
    let healthy =
        |p: &&Arc<Object>| view::is_ready(p) && !p.is_deleting() && !disrupted.contains_key(p.name());
    let current = o.pods.iter().filter(healthy).count() as i64;
    let count = o.pods.len() as i64;
    let (mut expected, desired) = match (&spec["minAvailable"], &spec["maxUnavailable"]) {
        (Value::Null, Value::Null) => (count, 0),
        (Value::Null, most) => (o.scaled, (o.scaled - view::scaled(most, o.scaled, true, 0)).max(0)),
        (Value::String(s), _) => (o.scaled, view::scaled(&Value::from(s.as_str()), o.scaled, true, 0)),
        (least, _) => (count, least.as_i64().unwrap_or(0)),
    };
    if expected == 0 && count > 0 && o.scaled > 0 {
        expected = o.scaled;
    }
    // What has no size cannot be reckoned with where the budget is a part of it.
    let unreckonable =
        !o.without.is_empty() && !spec["minAvailable"].is_i64() && !spec["minAvailable"].is_u64();
    let allowed = if unreckonable || expected <= 0 { 0 } else { (current - desired).max(0) };
    let mut conditions = view::list(o.budget, &["status", "conditions"]).to_vec();
    let now = meta::time(o.now);
    if unreckonable {
        let text = format!("found no controllers for pod \"{}\"", o.without.join("\", \""));
        set(&mut conditions, "False", "SyncFailed", &text, &now);
    } else if allowed > 0 {
        set(&mut conditions, "True", "SufficientPods", "", &now);
    } else {
        set(&mut conditions, "False", "InsufficientPods", "", &now);
    }
    for c in &mut conditions {
        c["observedGeneration"] = meta::generation(o.budget.value()).into();
    }
    let mut status = json!({"currentHealthy": current, "desiredHealthy": desired, "expectedPods": expected,
        "disruptionsAllowed": allowed, "observedGeneration": meta::generation(o.budget.value()), "conditions": conditions});
    if !disrupted.is_empty() {
        status["disruptedPods"] = Value::Object(disrupted);
    }
    if view::status_differs(o.budget, &status) {
        decision.actions.push(Action::status(&gvr::POD_DISRUPTION_BUDGETS, o.budget, status));
    }
    decision
}

fn set(conditions: &mut Vec<Value>, status: &str, reason: &str, message: &str, now: &str) {
    meta::set_condition(conditions, "DisruptionAllowed", status, reason, message, now);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(spec: Value, disrupted: Value) -> Arc<Object> {
        Object::from_value(
            json!({"metadata": {"name": "b", "namespace": "ns", "generation": 2}, "spec": spec, "status": {"disruptedPods": disrupted}}),
        )
    }

    fn pods(ready: usize, unready: usize) -> Vec<Arc<Object>> {
        let pod = |i: usize| {
            let ready = if i < ready { "True" } else { "False" };
            Object::from_value(
                json!({"metadata": {"name": format!("p{i}")}, "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}}),
            )
        };
        (0..ready + unready).map(pod).collect()
    }

    #[test]
    fn how_many_may_go() {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let evicted = |at: &str| json!({"p0": at});
        for (what, spec, pods, scaled, without, disrupted, want) in [
            ("two must stay", json!({"minAvailable": 2}), pods(3, 0), 3, vec![], Value::Null, (3, 2, 1)),
            (
                "one is sick already",
                json!({"minAvailable": 2}),
                pods(2, 1),
                3,
                vec![],
                Value::Null,
                (2, 2, 0),
            ),
            ("a part", json!({"minAvailable": "50%"}), pods(3, 0), 3, vec![], Value::Null, (3, 2, 1)),
            (
                "one may be missing",
                json!({"maxUnavailable": 1}),
                pods(3, 0),
                3,
                vec![],
                Value::Null,
                (3, 2, 1),
            ),
            ("one is missing", json!({"maxUnavailable": 1}), pods(2, 0), 3, vec![], Value::Null, (2, 2, 0)),
            (
                "an eviction is under way",
                json!({"minAvailable": 2}),
                pods(3, 0),
                3,
                vec![],
                evicted("2026-01-01T00:00:50Z"),
                (2, 2, 0),
            ),
            (
                "it came to nothing",
                json!({"minAvailable": 2}),
                pods(3, 0),
                3,
                vec![],
                evicted("2025-12-31T00:00:50Z"),
                (3, 2, 1),
            ),
            (
                "a part of nothing known",
                json!({"maxUnavailable": 1}),
                pods(3, 0),
                0,
                vec!["p0".to_owned()],
                Value::Null,
                (3, 0, 0),
            ),
        ] {
            let b = budget(spec, disrupted);
            let d = decide(&Observed { budget: &b, pods, scaled, without, now });
            let Some(Action::UpdateSub { object, .. }) = d.actions.first() else { panic!("{what}") };
            let n = |f: &str| object["status"][f].as_i64().unwrap();
            assert_eq!((n("currentHealthy"), n("desiredHealthy"), n("disruptionsAllowed")), want, "{what}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn controllers_of_other_makes_say_how_many_they_want() {
        let world = crate::testing::World::new();
        let strimzi = api::Gvr::owned("core.strimzi.io", "v1", "strimzipodsets");
        world.fake.serve(vec![discovery::Resource {
            gvr: strimzi.clone(),
            kind: "StrimziPodSet".into(),
            namespaced: true,
            verbs: vec!["get".into()],
        }]);
        world.fake.put(
            &strimzi,
            json!({"apiVersion": "core.strimzi.io/v1", "kind": "StrimziPodSet",
            "metadata": {"name": "s", "namespace": "ns", "uid": "s"}, "spec": {"replicas": 3}}),
        );
        let budgets = Budgets::new(&world.machine);
        let pod = |name: &str, kind: &str, uid: &str| {
            Object::from_value(
                json!({"metadata": {"name": name, "namespace": "ns", "uid": name, "ownerReferences":
                [{"apiVersion": "core.strimzi.io/v1", "kind": kind, "name": "s", "uid": uid, "controller": true}]}}),
            )
        };
        let pods = [pod("a", "StrimziPodSet", "s"), pod("b", "StrimziPodSet", "s")];
        assert_eq!(budgets.expected(&pods).await.unwrap(), (3, vec![]));
        let strange = [pod("a", "ReplicaSet", "s"), pod("b", "StrimziPodSet", "former")];
        assert_eq!(budgets.expected(&strange).await.unwrap(), (0, vec!["a".into(), "b".into()]));
    }
}
