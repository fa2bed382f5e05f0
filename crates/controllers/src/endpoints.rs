//! Endpoints: the older list of what is behind a Service, in one object of the Service's name.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Key, Object, Value, meta};
use async_trait::async_trait;
use client::{Informer, Result, gvr};
use serde_json::json;

use crate::{Action, Controller, Decision, Machine, Source, service, view};

/// Marks what this controller made: it goes with its Service.
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const US: &str = "endpoint-controller";

/// The controller. Its keys are Services.
pub(crate) struct Endpoints {
    services: Arc<Informer>,
    pods: Arc<Informer>,
    endpoints: Arc<Informer>,
}

impl Endpoints {
    pub(crate) fn new(machine: &Machine) -> Self {
        Self {
            services: machine.informer(&gvr::SERVICES),
            pods: machine.informer(&gvr::PODS),
            endpoints: machine.informer(&gvr::ENDPOINTS),
        }
    }
}

#[async_trait]
impl Controller for Endpoints {
    fn name(&self) -> &'static str {
        US
    }

    fn sources(&self) -> Vec<Source> {
        vec![
            Source::own(&self.services),
            service::pods(&self.pods, &self.services),
            Source::own(&self.endpoints),
        ]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let service = self.services.get(&key.namespace, &key.name);
        let pods = service.as_deref().map(|s| service::selected(&self.pods, s)).unwrap_or_default();
        let current = self.endpoints.get(&key.namespace, &key.name);
        Ok(decide(service.as_deref(), &pods, current.as_ref()).into())
    }
}

fn decide(service: Option<&Object>, pods: &[Arc<Object>], current: Option<&Arc<Object>>) -> Vec<Action> {
    let Some(service) = service else {
        let ours = current.filter(|c| c.labels().get(MANAGED_BY) == Some(US));
        return ours.map(|c| Action::delete(&gvr::ENDPOINTS, c)).into_iter().collect();
    };
    if service::selector(service).is_none() || service.is_deleting() {
        return Vec::new(); // somebody else's
    }
    let mut labels = service::labels(service);
    labels.insert(MANAGED_BY.into(), US.into());
    let subsets = subsets(service, pods);
    let Some(current) = current else {
        let object = json!({"apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": service.name(), "namespace": service.namespace(), "labels": labels}, "subsets": subsets});
        return vec![Action::Create { gvr: gvr::ENDPOINTS, object, announce: None }];
    };
    let labels = Value::Object(labels);
    let same = view::canonical(&labels) == view::canonical(current.at(&["metadata", "labels"]))
        && subsets.as_slice() == view::list(current, &["subsets"]);
    if same {
        return Vec::new();
    }
    let mut object = current.value().clone();
    meta::of_mut(&mut object).insert("labels".into(), labels);
    object["subsets"] = subsets.into();
    vec![Action::Update { gvr: gvr::ENDPOINTS, object }]
}

/// Addresses by the ports that they have.
fn subsets(service: &Object, pods: &[Arc<Object>]) -> Vec<Value> {
    let unready = service.at(&["spec", "publishNotReadyAddresses"]) == true;
    let families = service::families(service);
    // Ports, ready addresses, the others.
    type Subset = (Vec<Value>, Vec<Value>, Vec<Value>);
    let mut by_ports: BTreeMap<String, Subset> = BTreeMap::new();
    for pod in pods {
        if pod.is_deleting() && !unready {
            continue;
        }
        let Some(ip) = families.first().and_then(|f| service::address(pod, f)) else { continue };
        let mut ports = service::ports(service, pod);
        if ports.is_empty() && !view::list(service, &["spec", "ports"]).is_empty() {
            continue;
        }
        for port in &mut ports {
            if port["name"] == "" {
                port.as_object_mut().map(|p| p.shift_remove("name"));
            }
        }
        let mut address = json!({"ip": ip.to_string()});
        if let Some(hostname) = service::hostname(service, pod) {
            address["hostname"] = hostname.into();
        }
        let node = view::text(pod, &["spec", "nodeName"]);
        if !node.is_empty() {
            address["nodeName"] = node.into();
        }
        address["targetRef"] = service::target(pod);
        let id = Value::from(ports.clone()).to_string();
        let subset = by_ports.entry(id).or_insert_with(|| (ports, Vec::new(), Vec::new()));
        if unready || view::is_ready(pod) { subset.1.push(address) } else { subset.2.push(address) }
    }
    let subset = |(ports, mut ready, mut rest): Subset| {
        let mut out = json!({});
        for (field, list) in [("addresses", &mut ready), ("notReadyAddresses", &mut rest)] {
            list.sort_by(|a, b| a["ip"].as_str().cmp(&b["ip"].as_str()));
            if !list.is_empty() {
                out[field] = std::mem::take(list).into();
            }
        }
        if !ports.is_empty() {
            out["ports"] = ports.into();
        }
        out
    };
    by_ports.into_values().map(subset).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::summary;

    pub(crate) fn service(change: impl Fn(&mut Value)) -> Arc<Object> {
        let mut s = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s", "namespace": "ns", "uid": "s"},
            "spec": {"clusterIP": "10.0.0.1", "selector": {"a": "b"}, "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"}]}});
        change(&mut s);
        Object::from_value(s)
    }

    pub(crate) fn pod(name: &str, ip: &str, ready: bool, port: i64) -> Arc<Object> {
        Object::from_value(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"a": "b"}},
            "spec": {"nodeName": "n", "containers": [{"ports": [{"name": "web", "containerPort": port, "protocol": "TCP"}]}]},
            "status": {"podIP": ip, "conditions": [{"type": "Ready", "status": if ready { "True" } else { "False" }}]}}))
    }

    #[test]
    fn ready_and_not_by_port() {
        let pods = [
            pod("a", "10.1.0.1", true, 8080),
            pod("b", "10.1.0.2", false, 8080),
            pod("c", "10.1.0.3", true, 9090),
            pod("none", "", true, 1),
        ];
        let actions = decide(Some(&service(|_| {})), &pods, None);
        let Action::Create { object, .. } = &actions[0] else { panic!() };
        let got: Vec<String> = object["subsets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| {
                let ips = |f: &str| {
                    s[f].as_array()
                        .into_iter()
                        .flatten()
                        .map(|a| a["ip"].as_str().unwrap())
                        .collect::<Vec<_>>()
                        .join(",")
                };
                format!("{}|{}:{}", ips("addresses"), ips("notReadyAddresses"), s["ports"][0]["port"])
            })
            .collect();
        assert_eq!(got, ["10.1.0.1|10.1.0.2:8080", "10.1.0.3|:9090"]);
        // What is as it should be is left alone; a change is written.
        let current = Object::from_value(object.clone());
        assert!(decide(Some(&service(|_| {})), &pods, Some(&current)).is_empty());
        assert_eq!(
            summary(&decide(Some(&service(|_| {})), &pods[..1], Some(&current))),
            ["update endpoints/s"]
        );
        assert_eq!(summary(&decide(None, &[], Some(&current))), ["delete endpoints/s"]);
    }

    #[test]
    fn what_has_no_selector_is_the_users() {
        let own = Object::from_value(json!({"metadata": {"name": "s", "namespace": "ns"}}));
        let without = service(|s| s["spec"]["selector"] = Value::Null);
        assert!(decide(Some(&without), &[], Some(&own)).is_empty());
        assert!(decide(None, &[], Some(&own)).is_empty());
    }

    #[test]
    fn unready_ones_where_asked_for() {
        let s = service(|s| s["spec"]["publishNotReadyAddresses"] = true.into());
        let actions = decide(Some(&s), &[pod("b", "10.1.0.2", false, 8080)], None);
        let Action::Create { object, .. } = &actions[0] else { panic!() };
        assert_eq!(object["subsets"][0]["addresses"][0]["ip"], "10.1.0.2");
    }
}
