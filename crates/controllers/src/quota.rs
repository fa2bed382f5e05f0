//! ResourceQuota: counts anew what a namespace uses. Admission only ever adds; what is taken back when objects go is found
//! here.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::quota::{self, Amounts};
use api::{Gvr, Key, Object, Value};
use async_trait::async_trait;
use client::{Client, Informer, ListOptions, Result, gvr};
use serde_json::json;

use crate::{Action, Controller, Decision, Machine, Source, view};

/// What quotas count of by itself, and what is often counted as `count/NAME`: there are events of these.
const COUNTED: [Gvr; 16] = [
    gvr::PODS,
    gvr::SERVICES,
    gvr::PERSISTENT_VOLUME_CLAIMS,
    gvr::CONFIG_MAPS,
    gvr::SECRETS,
    gvr::REPLICATION_CONTROLLERS,
    gvr::RESOURCE_QUOTAS,
    gvr::DEPLOYMENTS,
    gvr::REPLICA_SETS,
    gvr::STATEFUL_SETS,
    gvr::DAEMON_SETS,
    gvr::JOBS,
    gvr::CRON_JOBS,
    gvr::INGRESSES,
    gvr::ENDPOINT_SLICES,
    gvr::LEASES,
];

/// The controller. Its keys are quotas.
pub(crate) struct Quotas {
    client: Client,
    quotas: Arc<Informer>,
    counted: Vec<Arc<Informer>>,
}

impl Quotas {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self {
            client: machine.client().named("resourcequota-controller"),
            quotas: machine.informer(&gvr::RESOURCE_QUOTAS),
            counted: COUNTED.iter().map(|g| machine.informer(g)).collect(),
        }
    }
}

#[async_trait]
impl Controller for Quotas {
    fn name(&self) -> &'static str {
        "resourcequota-controller"
    }

    fn sources(&self) -> Vec<Source> {
        // What admission has charged is not counted anew: of its objects some are not here yet, and the count would give
        // back what they have taken.
        let quotas = Source::with(&self.quotas, |c| {
            let same = match (&c.old, &c.new) {
                (Some(old), Some(new)) => {
                    old.spec() == new.spec()
                        && new.status()["hard"] == new.spec()["hard"]
                        && !gave_back(old.status(), new.status())
                }
                _ => false,
            };
            if same { Vec::new() } else { vec![c.object().key()] }
        });
        let mut sources = vec![quotas];
        for informer in self.counted.iter().filter(|i| *i.gvr() != gvr::RESOURCE_QUOTAS) {
            let (quotas, gvr) = (self.quotas.clone(), informer.gvr().clone());
            sources.push(Source::with(informer, move |c| {
                // Only what goes or changes what it uses: what comes has been charged, and while a count is made more may be
                // charged that is not here yet. A pod that is bound uses what it did.
                let used = |o: &Object, q: &Object| {
                    quota::in_scope(q.spec(), &gvr, o.value())
                        .then(|| quota::usage(&gvr, o.value(), base::clock::now()))
                };
                let Some(old) = &c.old else { return Vec::new() };
                let all = quotas.list(old.namespace());
                let changed = all.iter().filter(|q| match &c.new {
                    Some(new) => used(old, q) != used(new, q),
                    None => true,
                });
                changed.map(|q| q.key()).collect()
            }));
        }
        sources
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(quota) = self.quotas.get(&key.namespace, &key.name) else { return Ok(Decision::default()) };
        let mut objects: Vec<(Gvr, Vec<Arc<Object>>)> =
            self.counted.iter().map(|i| (i.gvr().clone(), i.list(&key.namespace))).collect();
        for name in quota.at(&["spec", "hard"]).as_object().into_iter().flatten().map(|(k, _)| k) {
            let (resource, group) = match name.strip_prefix("count/") {
                Some(resource) => resource.split_once('.').unwrap_or((resource, "")),
                None if name.ends_with(quota::DEVICES) => ("resourceclaims", "resource.k8s.io"),
                None => continue,
            };
            if objects.iter().any(|(g, _)| g.resource == resource && g.group == group) {
                continue;
            }
            // Whatever it is: of these there is no event here.
            let Some(gvr) = self.find(group, resource).await? else { continue };
            let list = self.client.list(&gvr, &key.namespace, &ListOptions::default()).await?;
            objects.push((gvr, list.items));
        }
        let mut decision: Decision = decide(&quota, objects, base::clock::now()).into();
        // A timer, because any kind may be counted and not all are watched, and because what was charged for a write that
        // then did not come about, with the server that was to give it back gone, is told by nothing.
        decision.after(RECOUNT);
        Ok(decision)
    }
}

/// How often a quota is counted anew though nothing was heard, as upstream.
const RECOUNT: Duration = Duration::from_secs(300);

/// Whether admission has taken a charge back: of a write that failed, perhaps after it had been counted anew.
fn gave_back(old: &Value, new: &Value) -> bool {
    let (before, after) = (quota::amounts(old.get("used")), quota::amounts(new.get("used")));
    before.iter().any(|(name, q)| after.get(name).is_some_and(|now| now < q))
}

impl Quotas {
    async fn find(&self, group: &str, resource: &str) -> Result<Option<Gvr>> {
        let (all, _) = client::discovery::preferred(&self.client).await?;
        Ok(all.into_iter().map(|r| r.gvr).find(|g| g.group == group && g.resource == resource))
    }
}

/// The objects are looked at one after another and let go: all of a large namespace decoded would take much memory.
fn decide(object: &Arc<Object>, objects: Vec<(Gvr, Vec<Arc<Object>>)>, now: jiff::Timestamp) -> Vec<Action> {
    let hard = object.at(&["spec", "hard"]);
    let mut used = Amounts::new();
    for (gvr, list) in objects {
        for o in list.into_iter().filter(|o| quota::in_scope(object.spec(), &gvr, o.value())) {
            for (name, amount) in quota::usage(&gvr, o.value(), now) {
                quota::add(&mut used, &name, amount);
            }
        }
    }
    let zero = || api::quantity::Quantity::of(0, api::quantity::Format::Decimal);
    let names = hard.as_object().into_iter().flatten().map(|(k, _)| k.clone());
    let used: BTreeMap<String, Value> =
        names.map(|n| (n.clone(), used.get(&n).copied().unwrap_or_else(zero).to_string().into())).collect();
    let status = json!({"hard": hard, "used": used});
    if !view::status_differs(object, &status) {
        return Vec::new();
    }
    vec![Action::status(&gvr::RESOURCE_QUOTAS, object, status)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[tokio::test(start_paused = true)]
    async fn counts_what_is_there() {
        let world = World::new();
        world.machine.start(Quotas::new(&world.machine));
        let pod = |name: &str, phase: &str| {
            json!({"metadata": {"name": name, "namespace": "ns"}, "status": {"phase": phase},
            "spec": {"containers": [{"resources": {"requests": {"cpu": "100m"}}}]}})
        };
        world.fake.put(&gvr::PODS, pod("a", "Running"));
        world.fake.put(&gvr::PODS, pod("b", "Running"));
        world.settle().await;
        let spec = json!({"hard": {"pods": "5", "requests.cpu": "1", "configmaps": "1"}});
        let quota = json!({"metadata": {"name": "q", "namespace": "ns"}, "spec": spec});
        world.fake.put(&gvr::RESOURCE_QUOTAS, quota);
        let used = || world.fake.get(&gvr::RESOURCE_QUOTAS, "ns", "q").unwrap().status()["used"].clone();
        world.settle().await;
        assert_eq!(used(), json!({"configmaps": "0", "pods": "2", "requests.cpu": "200m"}));
        world.fake.put(&gvr::PODS, pod("a", "Succeeded"));
        world.settle().await;
        assert_eq!(used(), json!({"configmaps": "0", "pods": "1", "requests.cpu": "100m"}));
        // Admission has charged a pod that is not there yet.
        let mut charged = world.fake.get(&gvr::RESOURCE_QUOTAS, "ns", "q").unwrap().value().clone();
        charged["status"]["used"]["pods"] = "2".into();
        world.fake.put(&gvr::RESOURCE_QUOTAS, charged);
        world.settle().await;
        assert_eq!(used()["pods"], "2");
        // Another that is bound meanwhile is no reason to count.
        let mut bound = pod("b", "Running");
        bound["spec"]["nodeName"] = "n".into();
        world.fake.put(&gvr::PODS, bound);
        world.settle().await;
        assert_eq!(used()["pods"], "2");
        // It takes that back, though it had been counted meanwhile.
        let mut taken = world.fake.get(&gvr::RESOURCE_QUOTAS, "ns", "q").unwrap().value().clone();
        taken["status"]["used"]["pods"] = "0".into();
        world.fake.put(&gvr::RESOURCE_QUOTAS, taken);
        world.settle().await;
        assert_eq!(used()["pods"], "1");
        world.fake.put(&gvr::PODS, pod("c", "Running"));
        world.fake.remove(&gvr::PODS, "ns", "b");
        world.settle().await;
        assert_eq!(used()["pods"], "1");
        // What nothing tells of is found in time.
        let mut wrong = world.fake.get(&gvr::RESOURCE_QUOTAS, "ns", "q").unwrap().value().clone();
        wrong["status"]["used"]["pods"] = "4".into();
        world.fake.put(&gvr::RESOURCE_QUOTAS, wrong);
        tokio::time::sleep(RECOUNT + Duration::from_secs(1)).await;
        world.settle().await;
        assert_eq!(used()["pods"], "1");
    }
}
