//! What one Service needs in the table: a pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use network::Proto;
use network::nft::{DynsetOp, Element, Family, Flow, Reg, Rule, Verdict, key};
use network::rules::MASQUERADE_MARK;

use crate::model::{Endpoint, Service, ServicePort, Slice};
use crate::tables::{REFUSE, names};

/// What routing depends on beside the objects.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// This node's name: endpoints with it are local.
    pub name: String,
    /// The pods' ranges: sources in them are routable, others are masqueraded.
    pub cluster_cidrs: Vec<IpNet>,
    /// The Services' ranges.
    pub service_cidrs: Vec<IpNet>,
    /// Addresses of the Services' ranges that are answered on this machine without us (the cluster's DNS).
    pub own: Vec<IpAddr>,
}

/// Elements and chains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    /// Map or set → key → element.
    pub elements: BTreeMap<(&'static str, Vec<u8>), Element>,
    /// Chain → rules.
    pub chains: BTreeMap<String, Vec<Rule>>,
    /// The Service's UDP ports; their flows outlive a change of endpoints unless they are forgotten.
    pub udp: Vec<UdpPort>,
}

/// One UDP port of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UdpPort {
    /// Where clients send to. With an unspecified address: any of this machine's.
    pub at: BTreeSet<(IpAddr, u16)>,
    /// Who may answer.
    pub backends: BTreeSet<(IpAddr, u16)>,
}

impl UdpPort {
    /// Whether a flow goes to this port, and to none of its endpoints.
    pub fn is_stale(&self, flow: &Flow) -> bool {
        let (ip, port) = flow.destination;
        let any = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        flow.proto == Proto::Udp.number()
            && (self.at.contains(&(ip, port)) || self.at.contains(&(any, port)))
            && !self.backends.contains(&flow.answers)
    }
}

impl Desired {
    fn element(&mut self, set: &'static str, element: Element) {
        self.elements.entry((set, element.key.clone())).or_insert(element);
    }
}

type Backend = (IpAddr, u16);

/// The backends of one port of a Service.
#[derive(Debug, Default)]
struct Backends {
    all: BTreeSet<Backend>,
    local: BTreeSet<Backend>,
}

/// What `service` with `slices` needs. `id` gives each list of endpoints its number; the same for the same name.
pub fn desired(node: &Node, service: &Service, slices: &[Slice], id: &mut dyn FnMut(&str) -> u32) -> Desired {
    let mut d = Desired::default();
    let addresses = service.addresses();
    for port in &service.spec.ports {
        let Some(proto) = protocol(&port.protocol) else { continue };
        for address in &addresses {
            if !node.own.contains(address) {
                route(&mut d, node, service, port, proto, *address, slices, id);
            }
        }
    }
    d
}

fn protocol(name: &str) -> Option<Proto> {
    if name.is_empty() { Some(Proto::Tcp) } else { name.parse().ok() }
}

#[allow(clippy::too_many_arguments)] // one call; each is another fact
fn route(
    d: &mut Desired,
    node: &Node,
    service: &Service,
    port: &ServicePort,
    proto: Proto,
    address: IpAddr,
    slices: &[Slice],
    id: &mut dyn FnMut(&str) -> u32,
) {
    let family = Family::of(address);
    let n = names(family);
    let backends = backends(node, port, proto, family, slices);
    let internal_local = service.spec.internal_traffic_policy == "Local";
    let external_local = service.spec.external_traffic_policy == "Local";
    let suffix = if family == Family::V4 { "" } else { "/6" };
    let who =
        format!("{}/{}/{proto}/{}{suffix}", service.metadata.namespace, service.metadata.name, port.port);
    let at = |ip: IpAddr| key::of(&[key::ip(ip), key::proto(proto.number()), key::port(port.port)]);
    let refuse = || Verdict::Goto(REFUSE.into());
    let affinity = service.affinity();

    // Who comes by the Service's own address.
    let cluster = format!("service/{who}");
    let inside = if internal_local { &backends.local } else { &backends.all };
    if inside.is_empty() {
        d.element(n.refusals, Element::verdict(at(address), refuse()));
    } else {
        let mut rules = Vec::new();
        if let Some(range) = node.cluster_cidrs.iter().find(|r| Family::of(r.addr()) == family) {
            let foreign = Rule::new(&cluster).saddr(false, *range).set_mark(MASQUERADE_MARK);
            rules.push(foreign.comment("from outside the cluster"));
        }
        balance(d, &mut rules, &cluster, family, id(&cluster), inside, affinity);
        d.chains.insert(cluster.clone(), rules);
        d.element(n.services, Element::verdict(at(address), Verdict::Goto(cluster.clone())));
    }
    for (ip, _) in &backends.local {
        d.element(n.hairpin, Element::new(key::of(&[key::ip(*ip), key::ip(*ip)])));
    }

    if proto == Proto::Udp {
        let mut at = BTreeSet::from([(address, port.port)]);
        let other = service
            .spec
            .external_ips
            .iter()
            .chain(service.status.load_balancer.ingress.iter().map(|i| &i.ip));
        at.extend(other.filter_map(|ip| ip.parse().ok()).map(|ip: IpAddr| (ip, port.port)));
        if port.node_port != 0 {
            at.insert((IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), port.node_port));
        }
        d.udp.push(UdpPort { at, backends: backends.all.clone() });
    }

    // Who comes by another address: a node's port, an external address, a load balancer's.
    let of_family = |ip: &String| ip.parse::<IpAddr>().ok().filter(|ip| Family::of(*ip) == family);
    let external: Vec<IpAddr> = service.spec.external_ips.iter().filter_map(of_family).collect();
    let ingress = service.status.load_balancer.ingress.iter().filter(|i| i.ip_mode != "Proxy");
    let balancers: Vec<IpAddr> = ingress.map(|i| &i.ip).filter_map(of_family).collect();
    let typed = matches!(service.spec.r#type.as_str(), "NodePort" | "LoadBalancer");
    let node_port = if typed { port.node_port } else { 0 };
    if external.is_empty() && balancers.is_empty() && node_port == 0 {
        return;
    }
    let node_key = || key::of(&[key::proto(proto.number()), key::port(node_port)]);
    if backends.all.is_empty() {
        for ip in external.iter().chain(&balancers) {
            d.element(n.refusals, Element::verdict(at(*ip), refuse()));
        }
        if node_port != 0 {
            d.element(n.node_refusals, Element::verdict(node_key(), refuse()));
        }
        return;
    }
    let outside = format!("external/{who}");
    let mut rules = Vec::new();
    if external_local {
        // The cluster's own clients may go anywhere; others only to this node's endpoints, with their own address.
        let all = if internal_local {
            everywhere(d, &who, family, &backends, affinity, id)
        } else {
            cluster.clone()
        };
        for range in node.cluster_cidrs.iter().filter(|r| Family::of(r.addr()) == family) {
            rules.push(Rule::new(&outside).saddr(true, *range).goto(&all));
        }
        rules.push(Rule::new(&outside).from_local(true).set_mark(MASQUERADE_MARK).goto(&all));
        if backends.local.is_empty() {
            rules.push(Rule::new(&outside).drop().comment("no endpoint on this node"));
        } else {
            balance(d, &mut rules, &outside, family, id(&outside), &backends.local, affinity);
        }
    } else {
        let all = if internal_local {
            everywhere(d, &who, family, &backends, affinity, id)
        } else {
            cluster.clone()
        };
        rules.push(Rule::new(&outside).set_mark(MASQUERADE_MARK).goto(all));
    }
    d.chains.insert(outside.clone(), rules);
    for ip in &external {
        d.element(n.services, Element::verdict(at(*ip), Verdict::Goto(outside.clone())));
    }
    let ranges: Vec<IpNet> =
        service.spec.load_balancer_source_ranges.iter().filter_map(|r| r.trim().parse().ok()).collect();
    let mut entry = outside.clone();
    if !ranges.is_empty() && !balancers.is_empty() {
        entry = format!("sources/{who}");
        let mut rules: Vec<Rule> = Vec::new();
        for range in ranges.iter().filter(|r| Family::of(r.addr()) == family) {
            rules.push(Rule::new(&entry).saddr(true, *range).goto(&outside));
        }
        rules.push(Rule::new(&entry).drop().comment("not in loadBalancerSourceRanges"));
        d.chains.insert(entry.clone(), rules);
    }
    for ip in &balancers {
        d.element(n.services, Element::verdict(at(*ip), Verdict::Goto(entry.clone())));
    }
    if node_port != 0 {
        d.element(n.node_ports, Element::verdict(node_key(), Verdict::Goto(outside)));
    }
}

/// A chain over all endpoints beside one over the local ones.
fn everywhere(
    d: &mut Desired,
    who: &str,
    family: Family,
    backends: &Backends,
    affinity: Option<u64>,
    id: &mut dyn FnMut(&str) -> u32,
) -> String {
    let chain = format!("everywhere/{who}");
    let mut rules = Vec::new();
    balance(d, &mut rules, &chain, family, id(&chain), &backends.all, affinity);
    d.chains.insert(chain.clone(), rules);
    chain
}

/// The endpoints of one port. Those that are ready; if none is, those that terminate but still serve.
fn backends(node: &Node, port: &ServicePort, proto: Proto, family: Family, slices: &[Slice]) -> Backends {
    let collect = |wanted: fn(&Endpoint) -> bool| {
        let mut found = Backends::default();
        for slice in slices {
            for slice_port in slice.ports.iter().flatten() {
                let same = slice_port.name.as_deref().unwrap_or_default() == port.name
                    && protocol(slice_port.protocol.as_deref().unwrap_or_default()) == Some(proto);
                let (true, Some(number)) = (same, slice_port.port) else { continue };
                for endpoint in slice.endpoints.iter().filter(|e| wanted(e)) {
                    // Only the first address counts: the API says that all of them are the same endpoint.
                    let first = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok());
                    let Some(ip) = first.filter(|ip| Family::of(*ip) == family) else { continue };
                    found.all.insert((ip, number));
                    if endpoint.node_name.as_deref() == Some(&node.name) {
                        found.local.insert((ip, number));
                    }
                }
            }
        }
        found
    };
    let ready = collect(|e| e.conditions.ready.unwrap_or(true));
    if !ready.all.is_empty() && !ready.local.is_empty() {
        return ready;
    }
    let leaving =
        collect(|e| e.conditions.serving.unwrap_or(false) && e.conditions.terminating.unwrap_or(false));
    // Each list falls back by itself: a node whose last local endpoint is leaving still serves its own clients.
    Backends {
        all: if ready.all.is_empty() { leaving.all } else { ready.all },
        local: if ready.local.is_empty() { leaving.local } else { ready.local },
    }
}

/// Rules that choose one of `backends`, and the elements that they look up.
fn balance(
    d: &mut Desired,
    rules: &mut Vec<Rule>,
    chain: &str,
    family: Family,
    id: u32,
    backends: &BTreeSet<Backend>,
    affinity: Option<u64>,
) {
    let n = names(family);
    // Registers: 0 the client's key (list, address), 5 the place (list, index), 8 the endpoint (list, address, port).
    let (client, place, list, ip) = (Reg(0), Reg(5), Reg(8), Reg(9));
    let port = if family == Family::V4 { Reg(10) } else { Reg(13) };
    let number = || key::number(id);
    let count = backends.len() as u32;
    let value = |b: &Backend| key::of(&[key::ip(b.0), key::port(b.1)]);
    if let Some(seconds) = affinity {
        let timeout = Some(seconds * 1000);
        rules.push(
            Rule::new(chain)
                .load(client, number())
                .load_saddr(family, Reg(1))
                .map(n.affinity, client, ip)
                .load(list, number())
                .lookup(n.live, list)
                .dynset(DynsetOp::Update, n.affinity, client, Some(ip), timeout)
                .dnat(family, ip, Some(port))
                .comment("a client that has an endpoint"),
        );
        rules.push(
            Rule::new(chain)
                .load(place, number())
                .load_random(Reg(6), count)
                .map(n.endpoints, place, ip)
                .load(client, number())
                .load_saddr(family, Reg(1))
                // An update keeps the data of an element that exists, and that one's endpoint is gone.
                .dynset(DynsetOp::Delete, n.affinity, client, Some(ip), None)
                .dynset(DynsetOp::Update, n.affinity, client, Some(ip), timeout)
                .dnat(family, ip, Some(port)),
        );
        for b in backends {
            d.element(n.live, Element::new(key::of(&[number(), key::ip(b.0), key::port(b.1)])));
        }
    } else if let (1, Some((address, p))) = (count, backends.first()) {
        let only = Rule::new(chain).load(ip, key::ip(*address)).load(port, key::port(*p));
        rules.push(only.dnat(family, ip, Some(port)));
        return;
    } else {
        let any =
            Rule::new(chain).load(place, number()).load_random(Reg(6), count).map(n.endpoints, place, ip);
        rules.push(any.dnat(family, ip, Some(port)));
    }
    for (index, b) in backends.iter().enumerate() {
        d.element(n.endpoints, Element::value(key::of(&[number(), key::number(index as u32)]), value(b)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn node() -> Node {
        Node {
            name: "here".into(),
            cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap()],
            service_cidrs: vec!["10.96.0.0/12".parse().unwrap()],
            own: vec!["10.96.0.10".parse().unwrap()],
        }
    }

    fn service(spec: Value) -> Service {
        let mut whole = json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80, "protocol": "TCP"}]});
        for (k, v) in spec.as_object().unwrap() {
            whole[k] = v.clone();
        }
        let metadata = json!({"namespace": "ns", "name": "web"});
        serde_json::from_value(json!({"metadata": metadata, "spec": whole})).unwrap()
    }

    /// Endpoints written as `ip node conditions`, where conditions are of `r`eady, `s`erving, `t`erminating; `-` none.
    fn slice(endpoints: &[&str]) -> Slice {
        let endpoint = |text: &&str| {
            let [ip, node, flags] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
            let known = flags != "?";
            let flag = |c| known.then(|| flags.contains(c));
            json!({"addresses": [ip], "nodeName": node,
                "conditions": {"ready": flag('r'), "serving": flag('s'), "terminating": flag('t')}})
        };
        let endpoints: Vec<_> = endpoints.iter().map(endpoint).collect();
        let ports = json!([{"port": 8080, "protocol": "TCP", "name": ""}, {"port": 9, "protocol": "TCP", "name": "other"}]);
        serde_json::from_value(json!({"addressType": "IPv4", "endpoints": endpoints, "ports": ports}))
            .unwrap()
    }

    fn want(spec: Value, slices: &[Slice]) -> Desired {
        desired(&node(), &service(spec), slices, &mut |list| list.len() as u32)
    }

    /// The sets and how many elements each has.
    fn counts(d: &Desired) -> String {
        let mut counts = BTreeMap::<&str, usize>::new();
        d.elements.keys().for_each(|(set, _)| *counts.entry(set).or_default() += 1);
        counts.iter().map(|(set, n)| format!("{set}:{n}")).collect::<Vec<_>>().join(" ")
    }

    fn chains(d: &Desired) -> String {
        d.chains
            .iter()
            .map(|(name, rules)| format!("{}:{}", name.split('/').next().unwrap(), rules.len()))
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn what_each_kind_of_service_needs() {
        let two: &[Slice] = &[slice(&["10.244.0.1 here r", "10.244.1.1 there r"])];
        let here: &[Slice] = &[slice(&["10.244.0.1 here r"])];
        let there: &[Slice] = &[slice(&["10.244.1.1 there r"])];
        let ports = json!([{"port": 80, "nodePort": 30000}]);
        let lb = json!({"ingress": [{"ip": "192.0.2.1"}]});
        let cases: Vec<(&str, Value, &[Slice], &str, &str)> = vec![
            ("no endpoints", json!({}), &[], "refusals:1", ""),
            ("one endpoint", json!({}), here, "hairpin-services:1 services:1", "service:2"),
            ("two", json!({}), two, "endpoints:2 hairpin-services:1 services:1", "service:2"),
            (
                "affinity",
                json!({"sessionAffinity": "ClientIP"}),
                two,
                "endpoints:2 hairpin-services:1 live-endpoints:2 services:1",
                "service:3",
            ),
            ("headless", json!({"clusterIP": "None"}), two, "", ""),
            ("external name", json!({"type": "ExternalName", "clusterIP": ""}), two, "", ""),
            ("our DNS", json!({"clusterIP": "10.96.0.10"}), two, "", ""),
            (
                "a port that no slice has",
                json!({"ports": [{"port": 80, "name": "x"}]}),
                two,
                "refusals:1",
                "",
            ),
            ("another protocol", json!({"ports": [{"port": 80, "protocol": "UDP"}]}), two, "refusals:1", ""),
            (
                "node port",
                json!({"type": "NodePort", "ports": ports}),
                two,
                "endpoints:2 hairpin-services:1 node-ports:1 services:1",
                "external:1 service:2",
            ),
            (
                "node port without endpoints",
                json!({"type": "NodePort", "ports": ports}),
                &[],
                "refusals:1 refusals-node-ports:1",
                "",
            ),
            (
                "local node port",
                json!({"type": "NodePort", "ports": ports, "externalTrafficPolicy": "Local"}),
                two,
                "endpoints:2 hairpin-services:1 node-ports:1 services:1",
                "external:3 service:2",
            ),
            ("internal local, none here", json!({"internalTrafficPolicy": "Local"}), there, "refusals:1", ""),
            (
                "internal local, but from outside anywhere",
                json!({"internalTrafficPolicy": "Local", "type": "NodePort", "ports": ports}),
                two,
                "endpoints:2 hairpin-services:1 node-ports:1 services:1",
                "everywhere:1 external:1 service:2",
            ),
            (
                "external addresses",
                json!({"externalIPs": ["192.0.2.1", "fd00::1", "nonsense"]}),
                two,
                "endpoints:2 hairpin-services:1 services:2",
                "external:1 service:2",
            ),
            (
                "a node port of a ClusterIP Service is a leftover",
                json!({"ports": ports}),
                two,
                "endpoints:2 hairpin-services:1 services:1",
                "service:2",
            ),
        ];
        for (what, spec, slices, elements, expected) in cases {
            let d = want(spec, slices);
            assert_eq!((counts(&d).as_str(), chains(&d).as_str()), (elements, expected), "{what}");
        }
        let mut balanced = service(json!({"loadBalancerSourceRanges": ["10.0.0.0/8", "fd00::/8"]}));
        balanced.status = serde_json::from_value(json!({"loadBalancer": lb})).unwrap();
        let d = desired(&node(), &balanced, two, &mut |_| 1);
        assert_eq!(chains(&d), "external:1 service:2 sources:2");
        balanced.status.load_balancer.ingress[0].ip_mode = "Proxy".into();
        let d = desired(&node(), &balanced, two, &mut |_| 1);
        assert_eq!(chains(&d), "service:2", "the balancer is a proxy of its own: traffic to it is not ours");
    }

    #[test]
    fn which_endpoints_are_used() {
        // endpoints → (all, local), by their last number
        let cases: [(&[&str], &str, &str); 7] = [
            (&["10.244.0.1 here r", "10.244.0.2 there r", "10.244.0.3 here s"], "1 2", "1"),
            (&["10.244.0.1 here ?"], "1", "1"),
            (&["10.244.0.1 here st", "10.244.0.2 there st"], "1 2", "1"),
            (&["10.244.0.1 here st", "10.244.0.2 there r"], "2", "1"),
            (&["10.244.0.1 here t", "10.244.0.2 there t"], "", ""),
            (&["10.244.0.1 here r", "10.244.0.1 here r"], "1", "1"),
            (&["fd00::1 here r", "nonsense here r"], "", ""),
        ];
        for (endpoints, all, local) in cases {
            let port = ServicePort { port: 80, ..ServicePort::default() };
            let got = backends(&node(), &port, Proto::Tcp, Family::V4, &[slice(endpoints)]);
            let show = |set: &BTreeSet<Backend>| {
                let last = |b: &Backend| b.0.to_string().rsplit('.').next().unwrap().to_owned();
                set.iter().map(last).collect::<Vec<_>>().join(" ")
            };
            assert_eq!((show(&got.all).as_str(), show(&got.local).as_str()), (all, local), "{endpoints:?}");
        }
    }

    #[test]
    fn two_families() {
        let spec = json!({"clusterIPs": ["10.96.0.1", "fd00:96::1"]});
        let mut six = slice(&["fd00:244::1 here r"]);
        six.address_type = "IPv6".into();
        let d = want(spec, &[slice(&["10.244.0.1 here r"]), six]);
        assert_eq!(counts(&d), "hairpin-services:1 hairpin-services6:1 services:1 services6:1");
        assert!(d.chains.contains_key("service/ns/web/tcp/80/6"));
    }

    #[test]
    fn stale_udp_flows() {
        let ports = json!([{"port": 53, "protocol": "UDP", "nodePort": 30053}]);
        let mut with = slice(&["10.244.0.1 here r"]);
        with.ports = serde_json::from_value(json!([{"port": 5353, "protocol": "UDP"}])).unwrap();
        let d = want(json!({"type": "NodePort", "ports": ports}), &[with]);
        let flow = |to: &str, answers: &str| {
            let at = |s: &str| s.parse::<std::net::SocketAddr>().map(|a| (a.ip(), a.port())).unwrap();
            Flow { proto: 17, source: at("10.244.0.9:1"), destination: at(to), answers: at(answers) }
        };
        let cases = [
            ("10.96.0.1:53", "10.244.0.1:5353", false),
            ("10.96.0.1:53", "10.244.0.2:5353", true),
            ("10.96.0.1:53", "10.96.0.1:53", true),
            ("10.96.0.2:53", "10.96.0.2:53", false),
            ("192.168.1.1:30053", "10.244.0.2:5353", true),
        ];
        for (to, answers, stale) in cases {
            assert_eq!(d.udp[0].is_stale(&flow(to, answers)), stale, "{to} {answers}");
        }
        let tcp = Flow { proto: 6, ..flow("10.96.0.1:53", "10.96.0.1:53") };
        assert!(!d.udp[0].is_stale(&tcp));
    }
}
