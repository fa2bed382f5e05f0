//! What Endpoints and EndpointSlices share: which pods are behind a Service, and on which ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use api::selector::Label;
use api::{Key, Object, Value};
use client::{Change, Informer};
use serde_json::{Map, json};

use crate::{Source, view};

/// The label that says that a Service has no address of its own.
pub(crate) const HEADLESS: &str = "service.kubernetes.io/headless";

/// A Service's selector, if it has one.
pub(crate) fn selector(service: &Object) -> Option<Label> {
    let selector = service.at(&["spec", "selector"]);
    let has = selector.as_object().is_some_and(|m| !m.is_empty())
        && service.at(&["spec", "type"]) != "ExternalName";
    has.then(|| Label::from_match_labels(selector))
}

/// Changes of pods concern the Services that select them, if the change is one that those look at.
pub(crate) fn pods(pods: &Arc<Informer>, services: &Arc<Informer>) -> Source {
    let services = services.clone();
    Source::with(pods, move |change| {
        if !matters(change) {
            return Vec::new();
        }
        let mut keys: Vec<Key> = Vec::new();
        for service in services.list(change.object().namespace()) {
            let Some(selector) = selector(&service) else { continue };
            if change.old.iter().chain(&change.new).any(|p| selector.matches(p.labels())) {
                keys.push(service.key());
            }
        }
        keys
    })
}

fn matters(change: &Change) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return true };
    old.uid() != new.uid()
        || old.labels() != new.labels()
        || old.is_deleting() != new.is_deleting()
        || view::is_ready(old) != view::is_ready(new)
        || view::is_terminal(old) != view::is_terminal(new)
        || old.at(&["status", "podIPs"]) != new.at(&["status", "podIPs"])
        || old.at(&["status", "podIP"]) != new.at(&["status", "podIP"])
        || old.at(&["spec", "nodeName"]) != new.at(&["spec", "nodeName"])
}

/// The pods behind a Service, ended ones left out.
pub(crate) fn selected(pods: &Informer, service: &Object) -> Vec<Arc<Object>> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let behind = |p: &Arc<Object>| selector.matches(p.labels()) && !view::is_terminal(p);
    pods.list(service.namespace()).into_iter().filter(behind).collect()
}

/// A pod's address of a family (`IPv4`, `IPv6`).
pub(crate) fn address(pod: &Object, family: &str) -> Option<IpAddr> {
    let all = view::list(pod, &["status", "podIPs"]).iter().filter_map(|i| i["ip"].as_str());
    let all = all.chain(pod.at(&["status", "podIP"]).as_str());
    all.filter_map(|a| a.parse::<IpAddr>().ok()).find(|a| a.is_ipv6() == (family == "IPv6"))
}

/// The families of a Service.
pub(crate) fn families(service: &Object) -> Vec<String> {
    let list: Vec<String> = view::list(service, &["spec", "ipFamilies"])
        .iter()
        .filter_map(|f| f.as_str().map(String::from))
        .collect();
    if list.is_empty() { vec!["IPv4".into()] } else { list }
}

/// The Service's ports as this pod has them. A port that the pod has no name for is left out.
pub(crate) fn ports(service: &Object, pod: &Object) -> Vec<Value> {
    let of = |p: &Value| {
        let protocol = p["protocol"].as_str().unwrap_or("TCP");
        let number = match &p["targetPort"] {
            Value::Number(n) => n.as_i64(),
            Value::String(name) => named(pod, name, protocol),
            _ => p["port"].as_i64(),
        }?;
        let mut port =
            json!({"name": p["name"].as_str().unwrap_or_default(), "port": number, "protocol": protocol});
        if !p["appProtocol"].is_null() {
            port["appProtocol"] = p["appProtocol"].clone();
        }
        Some(port)
    };
    view::list(service, &["spec", "ports"]).iter().filter_map(of).collect()
}

fn named(pod: &Object, name: &str, protocol: &str) -> Option<i64> {
    let sidecar = |c: &&Value| c["restartPolicy"] == "Always";
    let containers = view::list(pod, &["spec", "containers"]).iter();
    let containers = containers.chain(view::list(pod, &["spec", "initContainers"]).iter().filter(sidecar));
    let mut ports = containers.flat_map(|c| c["ports"].as_array().into_iter().flatten());
    let port = ports.find(|p| p["name"] == name && p["protocol"].as_str().unwrap_or("TCP") == protocol)?;
    port["containerPort"].as_i64()
}

/// What points at a pod.
pub(crate) fn target(pod: &Object) -> Value {
    json!({"kind": "Pod", "namespace": pod.namespace(), "name": pod.name(), "uid": pod.uid()})
}

/// The name that DNS has for the pod below the Service's, if it has one.
pub(crate) fn hostname<'a>(service: &Object, pod: &'a Object) -> Option<&'a str> {
    let hostname = pod.at(&["spec", "hostname"]).as_str().filter(|h| !h.is_empty())?;
    (view::text(pod, &["spec", "subdomain"]) == service.name()).then_some(hostname)
}

/// Labels that what is made for a Service has: its own, and whether it is headless.
pub(crate) fn labels(service: &Object) -> Map<String, Value> {
    let mut labels: BTreeMap<String, Value> =
        service.labels().iter().map(|(k, v)| (k.to_owned(), Value::from(v))).collect();
    labels.remove(HEADLESS);
    if service.at(&["spec", "clusterIP"]) == "None" {
        labels.insert(HEADLESS.into(), "".into());
    }
    labels.into_iter().collect()
}
