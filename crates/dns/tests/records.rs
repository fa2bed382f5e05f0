//! The records of the Kubernetes DNS specification 1.1.0, section by section.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base::Instance;
use client::fake::Fake;
use client::{Client, Informers, gvr};
use dns::{Cluster, TTL};
use network::dns::{Answer, Answerer, Name, Question, RData, Record, RecordType};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

fn service(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "ns"}, "spec": spec})
}

fn slice(service: &str, n: u32, endpoints: Value, ports: Value) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-{n}"), "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints, "ports": ports})
}

async fn cluster() -> (Fake, Cluster) {
    let (fake, client) = Fake::new();
    fake.put(&gvr::NAMESPACES, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ns"}}));
    let http = json!([{"name": "http", "protocol": "TCP", "port": 80}, {"name": "dns", "protocol": "UDP", "port": 53}]);
    let services = [
        ("web", json!({"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20", "fd00::20"], "ports": http})),
        ("bare", json!({"clusterIP": "10.96.0.21", "clusterIPs": ["10.96.0.21"], "ports": [{"port": 80}]})),
        (
            "head",
            json!({"clusterIP": "None", "clusterIPs": ["None"], "ports": [{"name": "http", "port": 80}]}),
        ),
        ("out", json!({"type": "ExternalName", "externalName": "db.example.com."})),
        ("in", json!({"type": "ExternalName", "externalName": "web.ns.svc.cluster.local"})),
    ];
    for (name, spec) in services {
        fake.put(&gvr::SERVICES, service(name, spec));
    }
    let endpoints = json!([
        {"addresses": ["10.244.0.7"], "hostname": "web-0", "conditions": {"ready": true}},
        {"addresses": ["10.244.0.8"], "conditions": {}},
        {"addresses": ["10.244.0.9"], "hostname": "web-2", "conditions": {"ready": false}},
    ]);
    fake.put(
        &gvr::ENDPOINT_SLICES,
        slice("head", 1, endpoints, json!([{"name": "http", "protocol": "TCP", "port": 8080}])),
    );
    let again = json!([{"addresses": ["10.244.0.7"], "hostname": "web-0", "conditions": {"ready": true}}]);
    fake.put(&gvr::ENDPOINT_SLICES, slice("head", 2, again, json!([])));
    let instance = Instance::new(Path::new("/a"), Path::new("/b"), "node", [127, 0, 0, 1].into());
    let cluster = Cluster::new(&instance, &Informers::new(client, CancellationToken::new()));
    cluster.synced().await;
    (fake, cluster)
}

/// The answer in one line: records in order, `NX` or `NODATA`, or what else it is.
fn ask(c: &Cluster, name: &str, kind: RecordType) -> String {
    let show = |r: &Record| {
        assert_eq!(r.ttl, TTL);
        match &r.data {
            RData::A(a) => a.0.to_string(),
            RData::AAAA(a) => a.0.to_string(),
            RData::SRV(s) => format!("{}:{}", s.target, s.port),
            RData::PTR(p) => p.0.to_string(),
            RData::CNAME(p) => p.0.to_string(),
            RData::NS(p) => p.0.to_string(),
            RData::TXT(t) => t.to_string(),
            other => format!("{other:?}"),
        }
    };
    match c.answer(&Question::new(Name::from_ascii(name).unwrap(), kind)) {
        Answer::Records { answers, additionals } => {
            let mut lines: Vec<_> = answers.iter().map(show).collect();
            lines.sort();
            let mut more: Vec<_> = additionals.iter().map(|r| format!("{}={}", r.name, show(r))).collect();
            more.sort();
            if !more.is_empty() {
                lines.push(format!("+ {}", more.join(" ")));
            }
            lines.join(" ")
        }
        Answer::Alias { target, .. } => format!("-> {target}"),
        Answer::Nothing { exists, soa } => {
            assert!(matches!(&soa.data, RData::SOA(s) if s.minimum == TTL));
            assert_eq!(soa.name.to_ascii(), "cluster.local.");
            if exists { "NODATA".into() } else { "NX".into() }
        }
        Answer::Forward => "forward".into(),
        Answer::Failure => "failure".into(),
    }
}

#[tokio::test]
async fn the_specification() {
    use RecordType::{A, AAAA, ANY, CNAME, MX, NS, PTR, SRV, TXT};
    let (_fake, c) = cluster().await;
    let zone = "cluster.local.";
    let cases = [
        // 2.2 the schema version
        ("dns-version", TXT, "1.1.0"),
        ("dns-version", A, "NODATA"),
        // 2.3 Services with an address
        ("web.ns.svc", A, "10.96.0.20"),
        ("WEB.ns.SVC", A, "10.96.0.20"),
        ("web.ns.svc", AAAA, "fd00::20"),
        ("web.ns.svc", MX, "NODATA"),
        ("bare.ns.svc", AAAA, "NODATA"),
        (
            "_http._tcp.web.ns.svc",
            SRV,
            "web.ns.svc.cluster.local.:80 + web.ns.svc.cluster.local.=10.96.0.20 web.ns.svc.cluster.local.=fd00::20",
        ),
        ("_http._tcp.web.ns.svc", A, "NODATA"),
        ("_http._udp.web.ns.svc", SRV, "NX"),
        ("_nope._tcp.web.ns.svc", SRV, "NX"),
        ("_tcp.web.ns.svc", SRV, "NODATA"),
        ("bare.ns.svc", SRV, "NODATA"),
        ("bare.ns.svc", ANY, "NODATA"),
        ("web-0.web.ns.svc", A, "NX"),
        // 2.4 headless Services
        ("head.ns.svc", A, "10.244.0.7 10.244.0.8"),
        ("head.ns.svc", AAAA, "NODATA"),
        ("web-0.head.ns.svc", A, "10.244.0.7"),
        ("10-244-0-8.head.ns.svc", A, "10.244.0.8"),
        ("web-2.head.ns.svc", A, "NX"),
        (
            "_http._tcp.head.ns.svc",
            SRV,
            "10-244-0-8.head.ns.svc.cluster.local.:8080 web-0.head.ns.svc.cluster.local.:8080 \
             + 10-244-0-8.head.ns.svc.cluster.local.=10.244.0.8 web-0.head.ns.svc.cluster.local.=10.244.0.7",
        ),
        // 2.5 none; 2.6 external names
        ("out.ns.svc", A, "-> db.example.com."),
        ("out.ns.svc", CNAME, "-> db.example.com."),
        ("in.ns.svc", A, "-> web.ns.svc.cluster.local."),
        // pods
        ("10-244-0-7.ns.pod", A, "10.244.0.7"),
        ("10-244-0-7.ns.pod", AAAA, "NODATA"),
        ("10-244-0-7.missing.pod", A, "NX"),
        // names between
        ("ns.svc", A, "NODATA"),
        ("missing.svc", A, "NX"),
        ("svc", A, "NODATA"),
        ("nothere.ns.svc", A, "NX"),
        ("example.com.ns.svc", A, "NX"),
        ("ns.dns", A, "10.96.0.10"),
    ];
    for (name, kind, expected) in cases {
        assert_eq!(ask(&c, &format!("{name}.{zone}"), kind), expected, "{name} {kind}");
    }
    assert_eq!(ask(&c, zone, NS), "ns.dns.cluster.local. + ns.dns.cluster.local.=10.96.0.10");
    assert_eq!(ask(&c, zone, A), "NODATA");
    assert_eq!(ask(&c, "example.com.", A), "forward");
    assert_eq!(ask(&c, "web.", A), "forward");
    // 2.3.3, 2.4.3 reverse
    assert_eq!(ask(&c, "20.0.96.10.in-addr.arpa.", PTR), "web.ns.svc.cluster.local.");
    assert_eq!(ask(&c, "20.0.96.10.in-addr.arpa.", A), "NODATA");
    assert_eq!(ask(&c, "10.0.96.10.in-addr.arpa.", PTR), "ns.dns.cluster.local.");
    assert_eq!(
        ask(&c, "7.0.244.10.in-addr.arpa.", PTR),
        "web-0.head.ns.svc.cluster.local. web-0.head.ns.svc.cluster.local."
    );
    assert_eq!(
        ask(&c, "8.0.244.10.in-addr.arpa.", PTR),
        "NX",
        "an address of the cluster has no name elsewhere"
    );
    assert_eq!(ask(&c, "8.8.8.8.in-addr.arpa.", PTR), "forward");
}

#[tokio::test]
async fn an_answer_is_as_new_as_the_cache() {
    let (fake, c) = cluster().await;
    assert_eq!(ask(&c, "new.ns.svc.cluster.local.", RecordType::A), "NX");
    fake.put(
        &gvr::SERVICES,
        service("new", json!({"clusterIP": "10.96.0.99", "clusterIPs": ["10.96.0.99"]})),
    );
    tokio::time::timeout(Duration::from_secs(2), async {
        while ask(&c, "new.ns.svc.cluster.local.", RecordType::A) != "10.96.0.99" {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn before_the_cache_is_complete_nothing_is_denied() {
    let (fake, _) = Fake::new();
    let client = Client::new(Arc::new(fake));
    let instance = Instance::new(Path::new("/a"), Path::new("/b"), "node", [127, 0, 0, 1].into());
    let c = Cluster::new(&instance, &Informers::new(client, CancellationToken::new()));
    assert_eq!(ask(&c, "web.ns.svc.cluster.local.", RecordType::A), "failure");
    assert_eq!(ask(&c, "example.com.", RecordType::A), "forward");
}

#[tokio::test]
async fn endpoints_come_in_no_fixed_order() {
    let (fake, c) = cluster().await;
    let endpoints: Vec<_> = (0..8).map(|i| json!({"addresses": [format!("10.244.1.{i}")]})).collect();
    fake.put(&gvr::SERVICES, service("many", json!({"clusterIP": "None"})));
    fake.put(&gvr::ENDPOINT_SLICES, slice("many", 1, json!(endpoints), json!([])));
    let first = || match c
        .answer(&Question::new(Name::from_ascii("many.ns.svc.cluster.local.").unwrap(), RecordType::A))
    {
        Answer::Records { answers, .. } => answers.first().map(|r| format!("{:?}", r.data)),
        _ => None,
    };
    tokio::time::timeout(Duration::from_secs(2), async {
        while first().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    let firsts: std::collections::BTreeSet<_> = (0..200).map(|_| first()).collect();
    assert!(firsts.len() > 4, "{firsts:?}");
}
