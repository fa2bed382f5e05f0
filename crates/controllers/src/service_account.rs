//! Every namespace has the service account `default`, which pods get that name none.

use std::sync::Arc;

use api::Key;
use async_trait::async_trait;
use client::{Informer, Result, gvr};
use serde_json::json;

use crate::{Action, Controller, Decision, Machine, Source, namespace};

const NAME: &str = "default";

/// The controller. Its keys are namespaces.
pub(crate) struct ServiceAccounts {
    namespaces: Arc<Informer>,
    accounts: Arc<Informer>,
}

impl ServiceAccounts {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self {
            namespaces: machine.informer(&gvr::NAMESPACES),
            accounts: machine.informer(&gvr::SERVICE_ACCOUNTS),
        }
    }
}

#[async_trait]
impl Controller for ServiceAccounts {
    fn name(&self) -> &'static str {
        "serviceaccount-controller"
    }

    fn sources(&self) -> Vec<Source> {
        let gone = Source::with(&self.accounts, |c| {
            let ours = c.new.is_none() && c.object().name() == NAME;
            if ours { vec![Key::new("", c.object().namespace())] } else { Vec::new() }
        });
        vec![Source::own(&self.namespaces), gone]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let active = self.namespaces.get("", &key.name).is_some_and(|n| namespace::is_active(&n));
        Ok(decide(&key.name, active, self.accounts.get(&key.name, NAME).is_some()).into())
    }
}

fn decide(namespace: &str, active: bool, there: bool) -> Vec<Action> {
    if !active || there {
        return Vec::new();
    }
    let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": namespace}});
    vec![Action::Create { gvr: gvr::SERVICE_ACCOUNTS, object, announce: None }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    #[test]
    fn only_where_it_is_missing() {
        assert_eq!(decide("ns", true, false).len(), 1);
        assert_eq!(decide("ns", true, true).len(), 0);
        assert_eq!(decide("ns", false, false).len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn it_comes_back() {
        let world = World::new();
        world.machine.start(ServiceAccounts::new(&world.machine));
        world.fake.put(&gvr::NAMESPACES, json!({"metadata": {"name": "ns"}}));
        world.settle().await;
        assert!(world.fake.get(&gvr::SERVICE_ACCOUNTS, "ns", "default").is_some());
        world.fake.remove(&gvr::SERVICE_ACCOUNTS, "ns", "default");
        world.settle().await;
        assert!(world.fake.get(&gvr::SERVICE_ACCOUNTS, "ns", "default").is_some());
    }
}
