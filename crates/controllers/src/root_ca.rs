//! Every namespace has the cluster's authority in the ConfigMap `kube-root-ca.crt`, which pods mount beside their tokens.

use std::sync::Arc;

use api::{Key, Object, Value};
use async_trait::async_trait;
use client::{Informer, Result, gvr};
use serde_json::json;

use crate::{Action, Controller, Decision, Machine, Source, namespace};

const NAME: &str = "kube-root-ca.crt";
const DESCRIPTION: &str = "kubernetes.io/description";
const TEXT: &str = "The certificate authority of this cluster's API server: what a pod verifies kubernetes.default.svc with.";

/// The controller. Its keys are namespaces.
pub(crate) struct RootCa {
    namespaces: Arc<Informer>,
    maps: Arc<Informer>,
    ca: String,
}

impl RootCa {
    pub(crate) fn new(machine: &Machine, ca: &str) -> Self {
        let (namespaces, maps) = (machine.informer(&gvr::NAMESPACES), machine.informer(&gvr::CONFIG_MAPS));
        Self { namespaces, maps, ca: ca.into() }
    }
}

#[async_trait]
impl Controller for RootCa {
    fn name(&self) -> &'static str {
        "root-ca-certificate-publisher"
    }

    fn sources(&self) -> Vec<Source> {
        let ours = Source::with(&self.maps, |c| {
            if c.object().name() == NAME { vec![Key::new("", c.object().namespace())] } else { Vec::new() }
        });
        vec![Source::own(&self.namespaces), ours]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let active = self.namespaces.get("", &key.name).is_some_and(|n| namespace::is_active(&n));
        let map = self.maps.get(&key.name, NAME);
        Ok(decide(&key.name, active, map.as_deref(), &self.ca).into())
    }
}

fn decide(namespace: &str, active: bool, map: Option<&Object>, ca: &str) -> Vec<Action> {
    if !active {
        return Vec::new();
    }
    let data = json!({"ca.crt": ca});
    match map {
        Some(map) if map.value()["data"] == data => Vec::new(),
        Some(map) => {
            let mut object = map.value().clone();
            object["data"] = data;
            vec![Action::Update { gvr: gvr::CONFIG_MAPS, object }]
        }
        None => {
            let object: Value = json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": NAME, "namespace": namespace, "annotations": {DESCRIPTION: TEXT}}, "data": data});
            vec![Action::Create { gvr: gvr::CONFIG_MAPS, object, announce: None }]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::summary;

    #[test]
    fn made_mended_and_left_alone() {
        let map = |ca: &str| {
            Object::from_value(json!({"metadata": {"name": NAME, "namespace": "ns"}, "data": {"ca.crt": ca}}))
        };
        let run = |active, map: Option<&Object>| summary(&decide("ns", active, map, "CA")).join("");
        assert_eq!(run(true, None), "create configmaps kube-root-ca.crt");
        assert_eq!(run(true, Some(&map("CA"))), "");
        assert_eq!(run(true, Some(&map("other"))), "update configmaps/kube-root-ca.crt");
        assert_eq!(run(false, None), "");
    }
}
