//! Services on the real kernel: an API server in memory, real namespaces, real connections.
#![allow(clippy::unwrap_used)]

#[path = "../../network/tests/support/mod.rs"]
mod support;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use client::fake::Fake;
use client::{Informers, gvr};
use network::Network;
use serde_json::{Value, json};
use support::{Machine, Ns, bridge, container, machine};
use tokio_util::sync::CancellationToken;

const POD1: &str = "10.244.0.11";
const POD2: &str = "10.244.0.12";

fn service(name: &str, ip: &str, extra: Value) -> Value {
    let mut s = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "d"},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "", "protocol": "TCP", "port": 80}]}});
    for (k, v) in extra.as_object().unwrap() {
        s["spec"][k] = v.clone();
    }
    s
}

fn slice(service: &str, pods: &[(&str, &str)]) -> Value {
    let endpoints: Vec<_> = pods
        .iter()
        .map(|(ip, node)| json!({"addresses": [ip], "conditions": {"ready": true}, "nodeName": node}))
        .collect();
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-1"), "namespace": "d", "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints, "ports": [{"name": "", "protocol": "TCP", "port": 8080}]})
}

struct Cluster {
    m: Machine,
    net: Arc<Network>,
    fake: Fake,
    out: Ns,
    pod1: Ns,
    pod2: Ns,
    stop: CancellationToken,
}

async fn cluster(m: Machine, run: &str) -> Cluster {
    let net = m.network(run);
    let out = m.outside(&net).await;
    let mut pods = bridge("pods0", "10.244.0.1/24");
    pods.isolated = false;
    pods.masquerade_except = vec!["10.244.0.0/16".parse().unwrap()];
    net.ensure_bridge(&pods).await.unwrap();
    let (pod1, _) = container(&net, "pods0", &format!("{POD1}/24"), "10.244.0.1").await;
    let (pod2, _) = container(&net, "pods0", &format!("{POD2}/24"), "10.244.0.1").await;
    for (ns, name) in [(&pod1, "one"), (&pod2, "two")] {
        ns.serve(name, 8080);
        ns.serve_udp(name, 8080);
    }
    let (fake, _) = Fake::new();
    let c = Cluster { m, net, fake, out, pod1, pod2, stop: CancellationToken::new() };
    c.proxy(run, &c.stop);
    c
}

impl Cluster {
    fn proxy(&self, run: &str, stop: &CancellationToken) {
        let client = client::Client::new(Arc::new(self.fake.clone()));
        let informers = Informers::new(client.clone(), stop.clone());
        let options = proxy::Options { instance: self.m.instance(run) };
        tokio::spawn(proxy::run(options, informers, self.net.clone(), stop.clone()));
    }

    /// Waits until the table's `set` has `n` elements. The proxy runs on this thread too, so that yielding lets it work.
    async fn elements(&self, set: &str, n: usize) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        loop {
            let have = self.net.firewall().elements(set).unwrap().len();
            if have == n {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{set} has {have} elements, not {n}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn put(&self, o: Value) {
        let gvr = if o["kind"] == "Service" { &gvr::SERVICES } else { &gvr::ENDPOINT_SLICES };
        self.fake.put(gvr, o);
    }
}

/// The names that `n` calls got.
fn names(n: usize, call: impl Fn() -> Result<String, ErrorKind>) -> BTreeSet<String> {
    (0..n).map(|_| call().unwrap().split(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn cluster_ips() {
    machine(|m| async move {
        let c = cluster(m, "/run/p1").await;
        c.put(service("web", "10.96.0.20", json!({})));
        c.elements("refusals", 1).await;
        let vip = "10.96.0.20:80";
        assert_eq!(
            c.pod1.call(vip).unwrap_err(),
            ErrorKind::ConnectionRefused,
            "no endpoint: refused at once"
        );
        assert_eq!(c.m.call(vip).unwrap_err(), ErrorKind::ConnectionRefused);
        assert_eq!(
            c.pod1.call("10.96.77.7:80").unwrap_err(),
            ErrorKind::ConnectionRefused,
            "no such service"
        );

        c.put(slice("web", &[(POD1, "node"), (POD2, "node")]));
        c.elements("endpoints", 2).await;
        c.elements("refusals", 0).await;
        let both = BTreeSet::from(["one".to_string(), "two".to_string()]);
        assert_eq!(names(40, || c.pod1.call(vip)), both, "from a pod, also to itself");
        assert_eq!(names(40, || c.m.call(vip)), both, "from the node, which has no default route");
        assert_eq!(names(40, || c.out.call(vip)), both, "from outside, if routed here");

        c.put(slice("web", &[(POD2, "node")]));
        c.elements("endpoints", 0).await;
        assert_eq!(c.pod1.call(vip).unwrap(), format!("two {POD1}"), "a pod's address is kept");
        assert_eq!(c.pod2.call(vip).unwrap(), "two 10.244.0.1", "but not towards itself");
        assert_eq!(c.m.call(vip).unwrap(), "two 10.244.0.1");

        c.fake.remove(&gvr::SERVICES, "d", "web");
        c.elements("services", 0).await;
        assert_eq!(c.pod1.call(vip).unwrap_err(), ErrorKind::ConnectionRefused);
        let left: Vec<_> =
            c.net.firewall().chains().unwrap().into_iter().filter(|n| n.contains("/web")).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn node_ports_external_addresses_and_policies() {
    machine(|m| async move {
        let c = cluster(m, "/run/p2").await;
        let typed = |node_port: u16, policy: &str| {
            json!({"type": "NodePort", "externalTrafficPolicy": policy, "externalIPs": ["192.168.77.7"],
            "ports": [{"name": "", "protocol": "TCP", "port": 80, "nodePort": node_port}]})
        };
        c.put(service("np", "10.96.0.30", typed(30123, "Cluster")));
        c.put(slice("np", &[(POD1, "node")]));
        c.elements("node-ports", 1).await;
        assert_eq!(c.out.call("192.168.50.1:30123").unwrap(), "one 10.244.0.1");
        assert_eq!(c.out.call("192.168.77.7:80").unwrap(), "one 10.244.0.1");
        for at in ["127.0.0.1", "192.168.50.1", "10.244.0.1"] {
            assert_eq!(c.m.call(&format!("{at}:30123")).unwrap(), "one 10.244.0.1", "{at}");
        }
        assert_eq!(c.pod2.call("10.244.0.1:30123").unwrap(), "one 10.244.0.1", "from a pod");
        assert_eq!(c.pod1.call("192.168.50.1:30123").unwrap(), "one 10.244.0.1", "from itself");

        c.put(service("np", "10.96.0.30", typed(30124, "Local")));
        c.elements("node-ports", 1).await;
        let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
        while c.out.call("192.168.50.1:30124") != Ok("one 192.168.50.2".into()) {
            assert!(tokio::time::Instant::now() < deadline, "the client's address is kept");
            tokio::task::yield_now().await;
        }
        assert!(c.out.call("192.168.50.1:30123").is_err());
        c.put(slice("np", &[(POD1, "elsewhere")]));
        c.elements("hairpin-services", 0).await;
        assert_eq!(
            c.out.call("192.168.50.1:30124").unwrap_err(),
            ErrorKind::TimedOut,
            "no endpoint here: dropped"
        );
        assert!(
            c.m.call("192.168.50.1:30124").unwrap().starts_with("one "),
            "this machine may go to other nodes"
        );
        assert_eq!(c.pod2.call("192.168.50.1:30124").unwrap(), format!("one {POD2}"), "and so may pods");

        c.put(slice("np", &[]));
        c.elements("refusals-node-ports", 1).await;
        assert_eq!(c.out.call("192.168.50.1:30124").unwrap_err(), ErrorKind::ConnectionRefused);
        assert_eq!(c.m.call("127.0.0.1:30124").unwrap_err(), ErrorKind::ConnectionRefused);

        c.put(service("inner", "10.96.0.31", json!({"internalTrafficPolicy": "Local"})));
        c.put(slice("inner", &[(POD1, "elsewhere")]));
        c.elements("refusals", 3).await;
        assert_eq!(c.pod2.call("10.96.0.31:80").unwrap_err(), ErrorKind::ConnectionRefused);
        c.put(slice("inner", &[(POD1, "elsewhere"), (POD2, "node")]));
        c.elements("refusals", 2).await;
        assert_eq!(names(10, || c.pod1.call("10.96.0.31:80")), BTreeSet::from(["two".to_string()]));
    });
}

#[test]
fn load_balancers_with_source_ranges() {
    machine(|m| async move {
        let c = cluster(m, "/run/p3").await;
        let with = |ranges: Value| {
            let mut s = service(
                "lb",
                "10.96.0.40",
                json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges,
                "ports": [{"name": "", "protocol": "TCP", "port": 80, "nodePort": 30200}]}),
            );
            s["status"] = json!({"loadBalancer": {"ingress": [{"ip": "192.168.88.8"}]}});
            s
        };
        c.put(slice("lb", &[(POD1, "node")]));
        c.put(with(json!([])));
        c.elements("services", 2).await;
        assert_eq!(c.out.call("192.168.88.8:80").unwrap(), "one 10.244.0.1");
        c.put(with(json!(["10.9.9.0/24"])));
        while !c.net.firewall().chains().unwrap().iter().any(|n| n == "sources/d/lb/tcp/80") {
            tokio::task::yield_now().await;
        }
        assert_eq!(c.out.call("192.168.88.8:80").unwrap_err(), ErrorKind::TimedOut);
        assert_eq!(
            c.out.call("192.168.50.1:30200").unwrap(),
            "one 10.244.0.1",
            "ranges are for the balancer's address"
        );
    });
}

#[test]
fn clients_stay_with_their_endpoint() {
    machine(|m| async move {
        let c = cluster(m, "/run/p4").await;
        let sticky = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
        c.put(service("web", "10.96.0.50", sticky));
        c.put(slice("web", &[(POD1, "node"), (POD2, "node")]));
        c.elements("live-endpoints", 2).await;
        let vip = "10.96.0.50:80";
        let first = names(30, || c.out.call(vip));
        assert_eq!(first.len(), 1, "{first:?}");
        let (gone, stays) = if first.contains("one") { (POD1, POD2) } else { (POD2, POD1) };
        c.put(slice("web", &[(stays, "node")]));
        c.elements("live-endpoints", 1).await;
        let second = names(30, || c.out.call(vip));
        assert!(second.len() == 1 && second != first, "the endpoint is gone: {second:?}");
        c.put(slice("web", &[(stays, "node"), (gone, "node")]));
        c.elements("live-endpoints", 2).await;
        assert_eq!(names(30, || c.out.call(vip)), second, "a new endpoint draws nobody away");

        // A new daemon remembers the clients.
        c.stop.cancel();
        let again = CancellationToken::new();
        c.proxy("/run/p4", &again);
        c.elements("live-endpoints", 2).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(names(30, || c.out.call(vip)), second);
    });
}

#[test]
fn a_new_daemon_replaces_what_is_stale_without_a_gap() {
    machine(|m| async move {
        let c = cluster(m, "/run/p5").await;
        c.put(service("web", "10.96.0.60", json!({})));
        c.put(slice("web", &[(POD1, "node")]));
        c.put(service("old", "10.96.0.61", json!({})));
        c.put(slice("old", &[(POD1, "node")]));
        c.elements("services", 2).await;
        c.stop.cancel();
        tokio::task::yield_now().await;
        c.fake.remove(&gvr::SERVICES, "d", "old");
        assert_eq!(c.pod2.call("10.96.0.60:80").unwrap(), format!("one {POD2}"), "rules outlive the daemon");
        c.proxy("/run/p5", &CancellationToken::new());
        // Not one call fails while the new one takes over.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while c.net.firewall().elements("services").unwrap().len() != 1 {
            assert_eq!(c.pod2.call("10.96.0.60:80").unwrap(), format!("one {POD2}"));
            assert!(tokio::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(c.pod2.call("10.96.0.60:80").unwrap(), format!("one {POD2}"));
        assert!(c.pod2.call("10.96.0.61:80").is_err());

        // Someone removes a chain of ours: the next change finds out, and everything is made anew.
        c.net.firewall().remove_table().unwrap();
        c.net.firewall().apply(network::rules::base()).unwrap();
        c.put(slice("web", &[(POD2, "node")]));
        c.elements("services", 1).await;
        assert_eq!(c.pod1.call("10.96.0.60:80").unwrap(), format!("two {POD1}"));
    });
}

#[test]
fn udp() {
    machine(|m| async move {
        let c = cluster(m, "/run/p6").await;
        let ports = json!([{"name": "q", "protocol": "UDP", "port": 53}]);
        c.put(service("names", "10.96.0.70", json!({"ports": ports})));
        let mut s = slice("names", &[(POD1, "node")]);
        s["ports"] = json!([{"name": "q", "protocol": "UDP", "port": 8080}]);
        c.put(s);
        c.elements("services", 1).await;
        assert_eq!(c.pod2.call_udp("10.96.0.70:53").unwrap(), format!("one {POD2}"));
        assert_eq!(c.m.call_udp("10.96.0.70:53").unwrap(), "one 10.244.0.1");
        assert!(c.pod2.call("10.96.0.70:53").is_err(), "TCP is another port");

        // A client that keeps its port follows the endpoints all the same.
        let socket = c.out.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket.connect("10.96.0.70:53").unwrap();
        let ask = || {
            let mut buf = [0; 100];
            socket
                .send(b"?")
                .and_then(|_| socket.recv(&mut buf))
                .map(|n| String::from_utf8_lossy(&buf[..n]).into_owned())
        };
        assert_eq!(ask().unwrap(), "one 10.244.0.1");
        let mut moved = slice("names", &[(POD2, "node")]);
        moved["ports"] = json!([{"name": "q", "protocol": "UDP", "port": 8080}]);
        c.put(moved);
        while c.net.firewall().elements("hairpin-services").unwrap()[0].key[3] != 12 {
            tokio::task::yield_now().await;
        }
        assert_eq!(ask().unwrap(), "two 10.244.0.1");
    });
}

/// One endpoint changed among a thousand Services: the transaction must not grow with their number.
#[test]
fn a_change_costs_no_more_among_many() {
    machine(|m| async move {
        let c = cluster(m, "/run/p7").await;
        for i in 0..1000 {
            let name = format!("s{i}");
            c.put(service(&name, &format!("10.97.{}.{}", i / 250, i % 250 + 1), json!({})));
            c.put(slice(&name, &[(POD1, "node"), (POD2, "node")]));
        }
        c.elements("services", 1000).await;
        c.elements("endpoints", 2000).await;
        let mut times = Vec::new();
        for round in 0..20 {
            let (pod, name) = if round % 2 == 0 { (POD1, "one") } else { (POD2, "two") };
            let started = tokio::time::Instant::now();
            c.put(slice("s500", &[(pod, "node")]));
            // Three answers in a row from the only endpoint that is left.
            while !(0..3).all(|_| c.m.call("10.97.2.1:80").is_ok_and(|a| a.starts_with(name))) {
                tokio::task::yield_now().await;
            }
            times.push(started.elapsed());
        }
        times.sort();
        println!("median from event to answer: {:?}", times[times.len() / 2]);
        assert!(times[times.len() / 2] < Duration::from_millis(50), "{times:?}");
    });
}
