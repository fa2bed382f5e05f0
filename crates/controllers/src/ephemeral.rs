//! Generic ephemeral volumes: a pod's own claims, made with it and gone with it.

use std::sync::Arc;

use api::{Key, Object, Value, meta, podrefs};
use async_trait::async_trait;
use client::{Informer, Result, gvr};
use serde_json::json;

use crate::{Action, Announce, Controller, Decision, Machine, Source, view};

/// The controller. Its keys are pods.
pub(crate) struct Ephemeral {
    pods: Arc<Informer>,
    claims: Arc<Informer>,
}

impl Ephemeral {
    pub(crate) fn new(machine: &Machine) -> Self {
        let (pods, claims) = (machine.informer(&gvr::PODS), machine.informer(&gvr::PERSISTENT_VOLUME_CLAIMS));
        Self { pods, claims }
    }
}

fn wanted(pod: &Object) -> impl Iterator<Item = &Value> {
    view::list(pod, &["spec", "volumes"]).iter().filter(|v| v["ephemeral"].is_object())
}

#[async_trait]
impl Controller for Ephemeral {
    fn name(&self) -> &'static str {
        "ephemeral-volume-controller"
    }

    fn sources(&self) -> Vec<Source> {
        let pods = Source::with(&self.pods, |c| {
            c.new.iter().filter(|p| wanted(p).next().is_some()).map(|p| p.key()).collect()
        });
        let claims = Source::with(&self.claims, |c| {
            let owner = |o: &Arc<Object>| meta::controller_of(o.value()).filter(|r| r.kind == "Pod");
            let gone = c.old.iter().filter(|_| c.new.is_none());
            gone.filter_map(|o| Some(Key::new(o.namespace(), owner(o)?.name))).collect()
        });
        vec![pods, claims]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(Decision::default()) };
        let claim = |name: &str| self.claims.get(&key.namespace, name);
        Ok(decide(&pod, &claim).into())
    }
}

fn decide(pod: &Arc<Object>, claim: &dyn Fn(&str) -> Option<Arc<Object>>) -> Vec<Action> {
    if !view::is_active(pod) {
        return Vec::new();
    }
    let mut actions = Vec::new();
    for volume in wanted(pod) {
        let name = podrefs::ephemeral_claim(pod.name(), volume["name"].as_str().unwrap_or_default());
        match claim(&name) {
            Some(c) if meta::controller_of(c.value()).is_some_and(|o| o.uid == pod.uid()) => {}
            Some(_) => {
                // Somebody else's data must not end up in this pod.
                let text = format!(
                    "PVC {}/{name} was not created for pod {} (pod is not owner)",
                    pod.namespace(),
                    pod.key()
                );
                actions.push(Action::event(pod, "Warning", "ConflictingClaim", text));
            }
            None => {
                let template = &volume["ephemeral"]["volumeClaimTemplate"];
                let mut metadata = json!({"name": name, "namespace": pod.namespace(),
                    "ownerReferences": [meta::OwnerReference::controller_of(pod)]});
                for field in ["labels", "annotations"] {
                    if !template["metadata"][field].is_null() {
                        metadata[field] = template["metadata"][field].clone();
                    }
                }
                let object = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata,
                    "spec": template["spec"]});
                let failure = ("FailedCreate", format!("ephemeral volume claim {name}: {{}}"));
                let success = ("SuccessfulCreate", "Created claim: {}".to_owned());
                let announce = Some(Announce { about: pod.clone(), success, failure });
                actions.push(Action::Create { gvr: gvr::PERSISTENT_VOLUME_CLAIMS, object, announce });
            }
        }
    }
    actions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::summary;

    #[test]
    fn claims_of_its_own() {
        let pod = Object::from_value(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "ns", "uid": "p"},
            "spec": {"volumes": [{"name": "plain"}, {"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {}}}}]}}),
        );
        let made = decide(&pod, &|_| None);
        assert_eq!(summary(&made), ["create persistentvolumeclaims p-v"]);
        let Action::Create { object, .. } = &made[0] else { panic!() };
        let claim = Object::from_value(object.clone());
        assert!(decide(&pod, &|_| Some(claim.clone())).is_empty());
        let other = Object::from_value(json!({"metadata": {"name": "p-v"}}));
        assert!(summary(&decide(&pod, &|_| Some(other.clone())))[0].starts_with("event ConflictingClaim"));
    }
}
