//! The cluster's records, looked up in the caches of Services and EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use api::{Object, Value};
use base::Instance;
use client::{Informer, Informers, gvr, index};
use network::dns::{Answer, Answerer, Name, Question, RData, Record, RecordType, rdata};

use crate::names::{Meaning, label_of, meaning};

/// How long clients may remember an answer, yes or no, in seconds.
pub const TTL: u32 = 5;
/// The version of the specification that is followed (section 2.2).
const VERSION: &str = "1.1.0";
const BY_ADDRESS: &str = "dns-address";

/// The answerer of one cluster.
pub struct Cluster {
    services: Arc<Informer>,
    slices: Arc<Informer>,
    namespaces: Arc<Informer>,
    zone: String,
    /// The cluster's ranges: addresses in them have no names elsewhere.
    ranges: [ipnet::Ipv4Net; 2],
    server: IpAddr,
}

/// One endpoint of a Service.
struct Endpoint {
    /// By which it is known below the Service's name.
    label: String,
    address: IpAddr,
    /// (name, protocol, number) of the slice's ports.
    ports: Arc<Vec<(String, String, u16)>>,
}

impl Cluster {
    /// Follows Services, EndpointSlices and Namespaces.
    pub fn new(instance: &Instance, informers: &Informers) -> Self {
        let services = informers.of(&gvr::SERVICES);
        let slices = informers.of(&gvr::ENDPOINT_SLICES);
        services.add_index(BY_ADDRESS, |service| texts(service.at(&["spec", "clusterIPs"])));
        slices.add_index(BY_ADDRESS, |slice| {
            let endpoints = slice.at(&["endpoints"]).as_array();
            endpoints.into_iter().flatten().flat_map(|e| texts(&e["addresses"])).collect()
        });
        slices.add_index(index::SERVICE, index::service);
        Self {
            services,
            slices,
            namespaces: informers.of(&gvr::NAMESPACES),
            zone: instance.cluster_domain.trim_matches('.').to_ascii_lowercase(),
            ranges: [instance.cluster_cidr, instance.service_cidr],
            server: instance.dns_ip().into(),
        }
    }

    /// Resolves once every answer can be given.
    pub async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.namespaces.synced().await;
    }

    fn is_synced(&self) -> bool {
        self.services.is_synced() && self.slices.is_synced() && self.namespaces.is_synced()
    }

    /// The SOA of the zone (negative answers are remembered for its TTL, RFC 2308).
    fn soa(&self) -> Box<Record> {
        let zone = self.name(&[]);
        let soa = rdata::SOA::new(
            self.name(&["ns", "dns"]),
            self.name(&["hostmaster"]),
            u32::try_from(self.services.revision().max(self.slices.revision()) & 0x7fff_ffff).unwrap_or(1),
            7200,
            1800,
            86400,
            TTL,
        );
        Box::new(Record::from_rdata(zone, TTL, RData::SOA(soa)))
    }

    /// A name of the zone. Labels come from names of objects, which are valid ones.
    fn name(&self, labels: &[&str]) -> Name {
        let labels = labels.iter().copied().chain(self.zone.split('.'));
        let mut name = Name::from_labels(labels.map(str::as_bytes)).unwrap_or_else(|_| Name::root());
        name.set_fqdn(true);
        name
    }

    fn nothing(&self, exists: bool) -> Answer {
        Answer::Nothing { exists, soa: self.soa() }
    }

    /// The records, or "nothing of this kind".
    fn records(&self, answers: Vec<Record>) -> Answer {
        if answers.is_empty() {
            self.nothing(true)
        } else {
            Answer::Records { answers, additionals: Vec::new() }
        }
    }

    fn endpoints(&self, namespace: &str, service: &str) -> Vec<Endpoint> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        for slice in self.slices.by_index(index::SERVICE, &format!("{namespace}/{service}")) {
            let ports: Arc<Vec<_>> = Arc::new(ports(slice.at(&["ports"])));
            for e in slice.at(&["endpoints"]).as_array().into_iter().flatten() {
                // An unknown readiness is to be taken for ready (discovery/v1).
                if e.pointer("/conditions/ready").and_then(Value::as_bool) == Some(false) {
                    continue;
                }
                let hostname = e["hostname"].as_str().filter(|h| !h.is_empty());
                for address in texts(&e["addresses"]).iter().filter_map(|a| a.parse().ok()) {
                    let label = hostname.map_or_else(|| label_of(&address), str::to_owned);
                    if seen.insert((label.clone(), address)) {
                        found.push(Endpoint { label, address, ports: ports.clone() });
                    }
                }
            }
        }
        // Clients take the first: no endpoint is first for all of them.
        for i in (1..found.len()).rev() {
            found.swap(i, base::rng::below(i as u64 + 1) as usize);
        }
        found
    }

    fn service(&self, q: &Question, namespace: &str, name: &str) -> Answer {
        let Some(service) = self.services.get(namespace, name) else { return self.nothing(false) };
        if service.at(&["spec", "type"]) == "ExternalName" {
            let target = service.at(&["spec", "externalName"]).as_str().unwrap_or_default();
            return self.external(q, target);
        }
        let addresses = cluster_ips(&service);
        if !addresses.is_empty() {
            return match q.kind {
                RecordType::SRV | RecordType::ANY => {
                    self.service_ports(q, namespace, name, &service, &addresses, None)
                }
                _ => self.records(addresses.iter().filter_map(|a| address_record(q, *a)).collect()),
            };
        }
        let endpoints = self.endpoints(namespace, name);
        match q.kind {
            RecordType::SRV => self.endpoint_ports(q, namespace, name, &endpoints, None),
            _ => self.records(endpoints.iter().filter_map(|e| address_record(q, e.address)).collect()),
        }
    }

    /// Section 2.6: a CNAME, which the server follows.
    fn external(&self, q: &Question, target: &str) -> Answer {
        let target = target.trim_end_matches('.');
        let Ok(mut target) = Name::from_ascii(target) else { return Answer::Failure };
        target.set_fqdn(true);
        Answer::Alias { record: q.record(TTL, RData::CNAME(rdata::CNAME(target.clone()))), target }
    }

    /// Section 2.3.2: SRV records of a Service with an address; all ports, or the one that `wanted` names.
    fn service_ports(
        &self,
        q: &Question,
        namespace: &str,
        name: &str,
        service: &Object,
        addresses: &[IpAddr],
        wanted: Option<(&str, &str)>,
    ) -> Answer {
        let target = self.name(&[name, namespace, "svc"]);
        let mut answers = Vec::new();
        for (port, protocol, number) in ports(service.at(&["spec", "ports"])) {
            if wanted.is_none_or(|w| w == (&port, &protocol)) {
                answers.push(q.record(TTL, RData::SRV(rdata::SRV::new(0, 100, number, target.clone()))));
            }
        }
        if answers.is_empty() {
            return self.nothing(wanted.is_none());
        }
        if q.kind == RecordType::ANY {
            answers.extend(addresses.iter().filter_map(|a| address_record(q, *a)));
            return self.records(answers);
        }
        if q.kind != RecordType::SRV {
            return self.nothing(true);
        }
        let of = Question::new(target, RecordType::ANY);
        let additionals = addresses.iter().filter_map(|a| address_record(&of, *a)).collect();
        Answer::Records { answers, additionals }
    }

    /// Section 2.4.2: SRV records of a headless Service, one for each endpoint.
    fn endpoint_ports(
        &self,
        q: &Question,
        namespace: &str,
        name: &str,
        endpoints: &[Endpoint],
        wanted: Option<(&str, &str)>,
    ) -> Answer {
        let (mut answers, mut additionals) = (Vec::new(), Vec::new());
        for e in endpoints {
            let target = self.name(&[&e.label, name, namespace, "svc"]);
            for (port, protocol, number) in e.ports.iter() {
                if wanted.is_none_or(|w| w == (port, protocol)) {
                    answers.push(q.record(TTL, RData::SRV(rdata::SRV::new(0, 100, *number, target.clone()))));
                }
            }
            additionals.extend(address_record(&Question::new(target, RecordType::ANY), e.address));
        }
        if answers.is_empty() {
            return self.nothing(wanted.is_none());
        }
        if q.kind != RecordType::SRV && q.kind != RecordType::ANY {
            return self.nothing(true);
        }
        Answer::Records { answers, additionals }
    }

    fn port(&self, q: &Question, namespace: &str, name: &str, port: &str, protocol: &str) -> Answer {
        let Some(service) = self.services.get(namespace, name) else { return self.nothing(false) };
        let addresses = cluster_ips(&service);
        if addresses.is_empty() {
            self.endpoint_ports(q, namespace, name, &self.endpoints(namespace, name), Some((port, protocol)))
        } else {
            self.service_ports(q, namespace, name, &service, &addresses, Some((port, protocol)))
        }
    }

    fn endpoint(&self, q: &Question, namespace: &str, service: &str, hostname: &str) -> Answer {
        // Only headless Services have names of their endpoints.
        let headless = self.services.get(namespace, service).is_some_and(|s| cluster_ips(&s).is_empty());
        let mut endpoints = if headless { self.endpoints(namespace, service) } else { Vec::new() };
        endpoints.retain(|e| e.label == hostname);
        if endpoints.is_empty() {
            return self.nothing(false);
        }
        self.records(endpoints.iter().filter_map(|e| address_record(q, e.address)).collect())
    }

    /// Sections 2.3.3 and 2.4.3.
    fn reverse(&self, q: &Question, address: IpAddr) -> Answer {
        let text = address.to_string();
        let mut targets = Vec::new();
        if address == self.server {
            targets.push(self.name(&["ns", "dns"]));
        }
        for service in self.services.by_index(BY_ADDRESS, &text) {
            targets.push(self.name(&[service.name(), service.namespace(), "svc"]));
        }
        for slice in self.slices.by_index(BY_ADDRESS, &text) {
            let Some(service) = slice.labels().get(index::SERVICE_NAME) else { continue };
            for e in slice.at(&["endpoints"]).as_array().into_iter().flatten() {
                let hostname = e["hostname"].as_str().filter(|h| !h.is_empty());
                if let (Some(hostname), true) = (hostname, texts(&e["addresses"]).contains(&text)) {
                    targets.push(self.name(&[hostname, service, slice.namespace(), "svc"]));
                }
            }
        }
        if targets.is_empty() {
            let ours = matches!(address, IpAddr::V4(a) if self.ranges.iter().any(|r| r.contains(&a)));
            return if ours { self.nothing(false) } else { Answer::Forward };
        }
        if q.kind != RecordType::PTR && q.kind != RecordType::ANY {
            return self.nothing(true);
        }
        self.records(targets.into_iter().map(|t| q.record(TTL, RData::PTR(rdata::PTR(t)))).collect())
    }
}

impl Answerer for Cluster {
    fn answer(&self, q: &Question) -> Answer {
        let meaning = meaning(&q.lower, &self.zone);
        if meaning == Meaning::Foreign {
            return Answer::Forward;
        }
        if !self.is_synced() {
            return Answer::Failure;
        }
        match meaning {
            Meaning::Foreign => Answer::Forward,
            Meaning::Nothing => self.nothing(false),
            Meaning::Branch => match q.kind {
                RecordType::SOA if q.lower == self.zone => self.records(vec![*self.soa()]),
                RecordType::NS if q.lower == self.zone => {
                    let server = self.name(&["ns", "dns"]);
                    let additionals =
                        address_record(&Question::new(server.clone(), RecordType::ANY), self.server);
                    let answers = vec![q.record(TTL, RData::NS(rdata::NS(server)))];
                    Answer::Records { answers, additionals: additionals.into_iter().collect() }
                }
                _ => self.nothing(true),
            },
            Meaning::Version => match q.kind {
                RecordType::TXT | RecordType::ANY => {
                    self.records(vec![q.record(TTL, RData::TXT(rdata::TXT::new(vec![VERSION.into()])))])
                }
                _ => self.nothing(true),
            },
            Meaning::Server => self.records(address_record(q, self.server).into_iter().collect()),
            Meaning::Namespace(namespace) => self.nothing(self.namespaces.get("", namespace).is_some()),
            Meaning::Service { namespace, service } => self.service(q, namespace, service),
            Meaning::Protocol { namespace, service } => {
                self.nothing(self.services.get(namespace, service).is_some())
            }
            Meaning::Port { namespace, service, port, protocol } => {
                self.port(q, namespace, service, port, protocol)
            }
            Meaning::Endpoint { namespace, service, hostname } => {
                self.endpoint(q, namespace, service, hostname)
            }
            Meaning::Pod { namespace, address } => {
                if self.namespaces.get("", namespace).is_none() {
                    return self.nothing(false);
                }
                self.records(address_record(q, address).into_iter().collect())
            }
            Meaning::Reverse(address) => self.reverse(q, address),
        }
    }
}

/// The A or AAAA record, if that is what is asked for.
fn address_record(q: &Question, address: IpAddr) -> Option<Record> {
    let (kind, data) = match address {
        IpAddr::V4(a) => (RecordType::A, RData::A(rdata::A(a))),
        IpAddr::V6(a) => (RecordType::AAAA, RData::AAAA(rdata::AAAA(a))),
    };
    (q.kind == kind || q.kind == RecordType::ANY).then(|| q.record(TTL, data))
}

fn cluster_ips(service: &Object) -> Vec<IpAddr> {
    let mut all = texts(service.at(&["spec", "clusterIPs"]));
    if all.is_empty() {
        all.extend(service.at(&["spec", "clusterIP"]).as_str().map(str::to_owned));
    }
    all.iter().filter_map(|a| a.parse().ok()).collect()
}

/// (name, protocol in lower case, number) of ports that have a name.
fn ports(list: &Value) -> Vec<(String, String, u16)> {
    let port = |p: &Value| {
        let name = p["name"].as_str().filter(|n| !n.is_empty())?.to_owned();
        let protocol = p["protocol"].as_str().unwrap_or("TCP").to_ascii_lowercase();
        Some((name, protocol, u16::try_from(p["port"].as_u64()?).ok()?))
    };
    list.as_array().into_iter().flatten().filter_map(port).collect()
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}
