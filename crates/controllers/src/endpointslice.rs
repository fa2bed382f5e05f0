//! EndpointSlices: what is behind a Service, in pieces of at most a hundred, so that one change is a small one.
//!
//! An endpoint stays in the slice that it is in. Slices of a Service without a selector mirror the Endpoints that somebody
//! wrote for it.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Key, Object, Value, meta};
use async_trait::async_trait;
use client::{Informer, Result, gvr, index};
use serde_json::json;

use crate::{Action, Controller, Decision, Machine, Source, service, view};

/// How many endpoints a slice has at most.
const FULL: usize = 100;
/// The label that says who keeps a slice.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const US: &str = "endpointslice-controller.k8s.io";
const MIRROR: &str = "endpointslicemirroring-controller.k8s.io";
/// Endpoints with this label are not mirrored; so are those that another controller makes.
const SKIP_MIRROR: &str = "endpointslice.kubernetes.io/skip-mirror";

/// The controller. Its keys are Services.
pub(crate) struct EndpointSlices {
    services: Arc<Informer>,
    pods: Arc<Informer>,
    nodes: Arc<Informer>,
    slices: Arc<Informer>,
    endpoints: Arc<Informer>,
}

impl EndpointSlices {
    pub(crate) fn new(machine: &Machine) -> Self {
        let slices = machine.informer(&gvr::ENDPOINT_SLICES);
        slices.add_index(index::SERVICE, index::service);
        Self {
            services: machine.informer(&gvr::SERVICES),
            pods: machine.informer(&gvr::PODS),
            nodes: machine.informer(&gvr::NODES),
            endpoints: machine.informer(&gvr::ENDPOINTS),
            slices,
        }
    }
}

#[async_trait]
impl Controller for EndpointSlices {
    fn name(&self) -> &'static str {
        "endpoint-slice-controller"
    }

    fn sources(&self) -> Vec<Source> {
        let of_slice = |s: &Arc<Object>| Some(Key::new(s.namespace(), s.labels().get(index::SERVICE_NAME)?));
        vec![
            Source::own(&self.services),
            service::pods(&self.pods, &self.services),
            Source::with(&self.slices, move |c| c.old.iter().chain(&c.new).filter_map(of_slice).collect()),
            Source::own(&self.endpoints),
            Source::read(&self.nodes),
        ]
    }

    async fn reconcile(&self, key: &Key, _: Option<&str>) -> Result<Decision> {
        let Some(service) = self.services.get(&key.namespace, &key.name) else {
            return Ok(Decision::default());
        };
        let slices: Vec<Arc<Object>> =
            self.slices.by_index(index::SERVICE, &format!("{}/{}", key.namespace, key.name));
        if service.is_deleting() || view::text(&service, &["spec", "type"]) == "ExternalName" {
            return Ok(Decision::default()); // the slices go with their Service
        }
        let wanted = if service::selector(&service).is_some() {
            let pods = service::selected(&self.pods, &service);
            let zone = |node: &str| {
                let node = self.nodes.get("", node)?;
                node.labels().get("topology.kubernetes.io/zone").map(String::from)
            };
            Wanted { by: US, groups: of_pods(&service, &pods, &zone) }
        } else {
            match self.endpoints.get(&key.namespace, &key.name) {
                Some(e) if e.labels().get(SKIP_MIRROR) != Some("true") && is_users(&e) => {
                    Wanted { by: MIRROR, groups: of_endpoints(&e) }
                }
                _ => Wanted { by: MIRROR, groups: Vec::new() },
            }
        };
        Ok(decide(&service, &wanted, &slices).into())
    }
}

/// Whether Endpoints were written by somebody, not by a leader election or by the API server for itself.
fn is_users(endpoints: &Object) -> bool {
    endpoints.annotation("control-plane.alpha.kubernetes.io/leader").is_none()
        && !(endpoints.namespace() == "default" && endpoints.name() == "kubernetes")
}

/// Endpoints of one address family with the same ports.
struct Group {
    family: String,
    ports: Vec<Value>,
    endpoints: Vec<Value>,
}

struct Wanted {
    by: &'static str,
    groups: Vec<Group>,
}

fn of_pods(service: &Object, pods: &[Arc<Object>], zone: &dyn Fn(&str) -> Option<String>) -> Vec<Group> {
    let unready = service.at(&["spec", "publishNotReadyAddresses"]) == true;
    let mut groups = Vec::new();
    for family in service::families(service) {
        let mut by_ports: BTreeMap<String, Group> = BTreeMap::new();
        for pod in pods {
            let Some(ip) = service::address(pod, &family) else { continue };
            let ports = service::ports(service, pod);
            let (serving, terminating) = (view::is_ready(pod), pod.is_deleting());
            let mut endpoint = json!({"addresses": [ip.to_string()], "conditions":
                {"ready": unready || serving && !terminating, "serving": serving, "terminating": terminating}});
            if let Some(hostname) = service::hostname(service, pod) {
                endpoint["hostname"] = hostname.into();
            }
            endpoint["targetRef"] = service::target(pod);
            let node = view::text(pod, &["spec", "nodeName"]);
            if !node.is_empty() {
                endpoint["nodeName"] = node.into();
                if let Some(zone) = zone(node) {
                    endpoint["zone"] = zone.into();
                }
            }
            let id = Value::from(ports.clone()).to_string();
            let new = || Group { family: family.clone(), ports, endpoints: Vec::new() };
            by_ports.entry(id).or_insert_with(new).endpoints.push(endpoint);
        }
        if by_ports.is_empty() {
            // An empty slice says that there is nothing, which no slice would not.
            by_ports.insert(String::new(), Group { family, ports: Vec::new(), endpoints: Vec::new() });
        }
        groups.extend(by_ports.into_values());
    }
    groups
}

fn of_endpoints(endpoints: &Object) -> Vec<Group> {
    let mut groups = Vec::new();
    for subset in view::list(endpoints, &["subsets"]) {
        for family in ["IPv4", "IPv6"] {
            let mut list = Vec::new();
            for (field, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                for a in subset[field].as_array().into_iter().flatten() {
                    let ip = a["ip"].as_str().unwrap_or_default();
                    if ip.contains(':') != (family == "IPv6") {
                        continue;
                    }
                    let mut endpoint = json!({"addresses": [ip], "conditions": {"ready": ready}});
                    for field in ["hostname", "targetRef", "nodeName"] {
                        if !a[field].is_null() {
                            endpoint[field] = a[field].clone();
                        }
                    }
                    list.push(endpoint);
                }
            }
            if list.is_empty() {
                continue;
            }
            let mut ports = subset["ports"].as_array().cloned().unwrap_or_default();
            for port in &mut ports {
                if port["name"].is_null() {
                    port["name"] = "".into();
                }
            }
            groups.push(Group { family: family.into(), ports, endpoints: list });
        }
    }
    groups
}

/// What tells an endpoint from another.
fn identity(endpoint: &Value) -> (String, String) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    (text(&endpoint["addresses"][0]), text(&endpoint["targetRef"]["uid"]))
}

fn decide(service: &Object, wanted: &Wanted, slices: &[Arc<Object>]) -> Vec<Action> {
    // Slices that somebody else made for this Service are theirs; those of our other hand are in the way.
    let ours = slices.iter().filter(|s| matches!(s.labels().get(MANAGED_BY), Some(US | MIRROR)));
    let (mut free, mut gone): (Vec<&Arc<Object>>, Vec<&Arc<Object>>) =
        ours.filter(|s| !s.is_deleting()).partition(|s| s.labels().get(MANAGED_BY) == Some(wanted.by));
    let mut labels = service::labels(service);
    labels.insert(index::SERVICE_NAME.into(), service.name().into());
    labels.insert(MANAGED_BY.into(), wanted.by.into());
    let labels = Value::Object(labels);
    let mut actions = Vec::new();
    for group in &wanted.groups {
        let fits = |s: &Arc<Object>| {
            let ports = view::canonical(&Value::from(group.ports.clone()));
            s.value()["addressType"] == group.family.as_str()
                && (group.endpoints.is_empty()
                    || view::canonical(&s.value()["ports"]) == ports
                    || s.value()["endpoints"].as_array().is_none_or(Vec::is_empty))
        };
        let mine: Vec<&Arc<Object>> = free.iter().filter(|s| fits(s)).copied().collect();
        free.retain(|s| !mine.iter().any(|m| Arc::ptr_eq(m, s)));
        let mut rest: BTreeMap<(String, String), &Value> =
            group.endpoints.iter().map(|e| (identity(e), e)).collect();
        // First everybody to where they are already.
        let mut contents: Vec<(Option<&Arc<Object>>, Vec<Value>)> = Vec::new();
        for slice in mine {
            let there = view::list(slice, &["endpoints"]).iter();
            let kept: Vec<Value> =
                there.filter_map(|e| rest.remove(&identity(e)).cloned()).take(FULL).collect();
            contents.push((Some(slice), kept));
        }
        // Then the new ones to where there is room, the fullest slice first.
        contents.sort_by_key(|(_, list)| std::cmp::Reverse(list.len()));
        let mut rest = rest.into_values().cloned().peekable();
        for (_, list) in &mut contents {
            while list.len() < FULL
                && let Some(e) = rest.next()
            {
                list.push(e);
            }
        }
        while rest.peek().is_some() {
            contents.push((None, rest.by_ref().take(FULL).collect()));
        }
        let needed =
            |(i, list): (usize, &Vec<Value>)| !list.is_empty() || i == 0 && group.endpoints.is_empty();
        if contents.is_empty() && group.endpoints.is_empty() {
            contents.push((None, Vec::new()));
        }
        for (i, (slice, list)) in contents.into_iter().enumerate() {
            match slice {
                Some(slice) if needed((i, &list)) => actions.extend(update(slice, group, list, &labels)),
                Some(slice) => gone.push(slice),
                None => actions.push(create(service, group, list, &labels)),
            }
        }
    }
    gone.extend(free);
    actions.extend(gone.into_iter().map(|s| Action::delete(&gvr::ENDPOINT_SLICES, s)));
    actions
}

fn update(slice: &Object, group: &Group, endpoints: Vec<Value>, labels: &Value) -> Option<Action> {
    let (endpoints, ports) = (Value::from(endpoints), Value::from(group.ports.clone()));
    let list = |field: &str| match &slice.value()[field] {
        Value::Null => json!([]),
        other => view::canonical(other),
    };
    let same = view::canonical(&endpoints) == list("endpoints")
        && view::canonical(&ports) == list("ports")
        && view::canonical(labels) == view::canonical(slice.at(&["metadata", "labels"]));
    if same {
        return None;
    }
    let mut object = slice.value().clone();
    meta::of_mut(&mut object).insert("labels".into(), labels.clone());
    object["endpoints"] = endpoints;
    object["ports"] = ports;
    Some(Action::Update { gvr: gvr::ENDPOINT_SLICES, object })
}

fn create(service: &Object, group: &Group, endpoints: Vec<Value>, labels: &Value) -> Action {
    let object = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"generateName": view::prefix(service.name()), "namespace": service.namespace(), "labels": labels,
            "ownerReferences": [meta::OwnerReference::controller_of(service)]},
        "addressType": group.family, "endpoints": endpoints, "ports": group.ports,
    });
    Action::Create { gvr: gvr::ENDPOINT_SLICES, object, announce: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoints::tests::{pod, service};
    use crate::testing::{World, summary};

    fn groups(service: &Object, pods: &[Arc<Object>]) -> Wanted {
        Wanted { by: US, groups: of_pods(service, pods, &|_| Some("z".into())) }
    }

    fn made(actions: &[Action]) -> Vec<Arc<Object>> {
        let object = |(i, a): (usize, &Action)| match a {
            Action::Create { object, .. } | Action::Update { object, .. } => {
                let mut o = object.clone();
                o["metadata"]["name"] = format!("slice{i}").into();
                Object::from_value(o)
            }
            _ => panic!("{a:?}"),
        };
        actions.iter().enumerate().map(object).collect()
    }

    #[test]
    fn conditions_and_ports() {
        let s = service(|_| {});
        let mut ending = pod("c", "10.1.0.3", true, 8080).value().clone();
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let pods = [
            pod("a", "10.1.0.1", true, 8080),
            pod("b", "10.1.0.2", false, 8080),
            Object::from_value(ending),
            pod("d", "10.1.0.4", true, 9090),
        ];
        let slices = made(&decide(&s, &groups(&s, &pods), &[]));
        assert_eq!(slices.len(), 2);
        let say = |e: &Value| {
            format!(
                "{} {} {} {}",
                e["addresses"][0].as_str().unwrap(),
                e["conditions"]["ready"],
                e["conditions"]["serving"],
                e["conditions"]["terminating"]
            )
        };
        let list: Vec<String> = view::list(&slices[0], &["endpoints"]).iter().map(say).collect();
        assert_eq!(
            list,
            ["10.1.0.1 true true false", "10.1.0.2 false false false", "10.1.0.3 false true true"]
        );
        assert_eq!(slices[1].value()["ports"][0]["port"], 9090);
        assert_eq!(slices[0].value()["endpoints"][0]["zone"], "z");
        assert_eq!(slices[0].labels().get(index::SERVICE_NAME), Some("s"));
        assert!(decide(&s, &groups(&s, &pods), &slices).is_empty(), "nothing to do the second time");
    }

    #[test]
    fn endpoints_stay_where_they_are() {
        let s = service(|_| {});
        let pods: Vec<_> =
            (0..250).map(|i| pod(&format!("p{i:03}"), &format!("10.1.1.{i}"), true, 8080)).collect();
        let slices = made(&decide(&s, &groups(&s, &pods), &[]));
        let sizes: Vec<usize> = slices.iter().map(|x| view::list(x, &["endpoints"]).len()).collect();
        assert_eq!(sizes, [100, 100, 50]);
        // One goes: one slice changes.
        assert_eq!(decide(&s, &groups(&s, &pods[1..]), &slices).len(), 1);
        // All go: one empty slice stays.
        let actions = summary(&decide(&s, &groups(&s, &[]), &slices));
        assert_eq!(actions.iter().filter(|a| a.starts_with("delete")).count(), 2);
        assert_eq!(actions.iter().filter(|a| a.starts_with("update")).count(), 1);
    }

    #[test]
    fn an_empty_service_has_an_empty_slice() {
        let s = service(|_| {});
        let slices = made(&decide(&s, &groups(&s, &[]), &[]));
        assert_eq!(view::list(&slices[0], &["endpoints"]).len(), 0);
        assert!(decide(&s, &groups(&s, &[]), &slices).is_empty());
        let pods = [pod("a", "10.1.0.1", true, 8080)];
        assert_eq!(summary(&decide(&s, &groups(&s, &pods), &slices)), ["update endpointslices/slice0"]);
    }

    #[tokio::test(start_paused = true)]
    async fn hand_written_endpoints_are_mirrored() {
        let world = World::new();
        world.machine.start(EndpointSlices::new(&world.machine));
        let s = service(|s| s["spec"]["selector"] = Value::Null);
        world.fake.put(&gvr::SERVICES, s.value().clone());
        world.fake.put(
            &gvr::ENDPOINTS,
            json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": "s", "namespace": "ns"},
            "subsets": [{"addresses": [{"ip": "11.11.11.11"}], "ports": [{"port": 80, "protocol": "TCP"}]}]}),
        );
        world.settle().await;
        let slices = world.fake.all(&gvr::ENDPOINT_SLICES);
        assert_eq!(slices.len(), 1);
        assert_eq!(slices[0].value()["endpoints"][0]["addresses"][0], "11.11.11.11");
        world.fake.remove(&gvr::ENDPOINTS, "ns", "s");
        world.settle().await;
        assert_eq!(world.fake.all(&gvr::ENDPOINT_SLICES).len(), 0);
    }
}
