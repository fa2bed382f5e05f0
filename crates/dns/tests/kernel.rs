//! The server at the cluster's address, asked by pods, by the node and over the engine's embedded address.
#![allow(clippy::unwrap_used)]

#[path = "../../network/tests/support/mod.rs"]
mod support;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use client::fake::Fake;
use client::{Client, Informers, gvr};
use hickory_proto::op::{Message, Query};
use network::dns::{Answer, Answerer, Forwarder, Name, Question, RData, RecordType, Sockets, rdata, serve};
use serde_json::json;
use support::{Ns, bridge, container, machine};
use tokio_util::sync::CancellationToken;

/// The first A record of a name, asked from inside a namespace; the server runs on this thread's runtime.
async fn lookup(ns: &std::path::Path, server: &str, name: &str) -> Option<String> {
    let (ns, server, name) =
        (ns.to_owned(), server.parse::<SocketAddr>().unwrap(), Name::from_ascii(name).unwrap());
    tokio::task::spawn_blocking(move || {
        network::netns::in_netns(&ns, || {
            let mut m = Message::query();
            m.add_query(Query::query(name, RecordType::A));
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            socket.connect(server).unwrap();
            socket.send(&m.to_vec().unwrap()).unwrap();
            let mut buf = [0; 1500];
            let Ok(n) = socket.recv(&mut buf) else { return Ok(Some("no server".into())) };
            let reply = Message::from_vec(&buf[..n]).unwrap();
            Ok(reply.answers.first().map(|r| match &r.data {
                RData::A(a) => a.0.to_string(),
                other => format!("{other:?}"),
            }))
        })
        .unwrap()
    })
    .await
    .unwrap()
}

#[test]
fn the_clusters_server() {
    machine(|m| async move {
        let net = m.network("/run/d1");
        let mut pods = bridge("pods0", "10.244.0.1/24");
        pods.isolated = false;
        net.ensure_bridge(&pods).await.unwrap();
        let (pod, _) = container(&net, "pods0", "10.244.0.5/24", "10.244.0.1").await;
        let (fake, _) = Fake::new();
        let spec = json!({"clusterIP": "10.96.0.20", "clusterIPs": ["10.96.0.20"], "ports": [{"port": 80}]});
        let web = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "d"}, "spec": spec});
        fake.put(&gvr::SERVICES, web);
        let client = Client::new(Arc::new(fake));
        let stop = CancellationToken::new();
        let informers = Informers::new(client.clone(), stop.clone());
        for gvr in [gvr::SERVICES, gvr::ENDPOINT_SLICES, gvr::NAMESPACES] {
            informers.of(&gvr).synced().await;
        }
        // The proxy routes the rest of the services' range at the same time.
        let options = proxy::Options { instance: m.instance("/run/d1") };
        tokio::spawn(proxy::run(options, informers.clone(), net.clone(), stop.clone()));
        let options = dns::Options { instance: m.instance("/run/d1") };
        let run = tokio::spawn(dns::run(options, client, informers, net.clone(), stop.clone()));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while !net.link().list().await.unwrap().iter().any(|l| l.name == m.instance("/run/d1").link("s")) {
            assert!(tokio::time::Instant::now() < deadline);
        }
        while net.firewall().elements("refusals").unwrap().is_empty() {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        while lookup(&m.path, "10.96.0.10:53", "example.").await.as_deref() == Some("no server") {
            assert!(tokio::time::Instant::now() < deadline);
        }
        let name = "web.d.svc.cluster.local.";
        assert_eq!(lookup(&pod.path, "10.96.0.10:53", name).await.as_deref(), Some("10.96.0.20"));
        assert_eq!(lookup(&m.path, "10.96.0.10:53", name).await.as_deref(), Some("10.96.0.20"));
        assert_eq!(lookup(&pod.path, "10.96.0.10:53", "none.d.svc.cluster.local.").await, None);
        stop.cancel();
        run.await.unwrap().unwrap();
        assert!(pod.call_udp("10.96.0.10:53").is_err());
    });
}

struct Names;
impl Answerer for Names {
    fn answer(&self, q: &Question) -> Answer {
        let a = RData::A(rdata::A::new(172, 18, 0, 2));
        Answer::Records { answers: vec![q.record(5, a)], additionals: vec![] }
    }
}

#[test]
fn the_embedded_server() {
    machine(|_m| async move {
        let ns = Ns::new();
        let net = _m.network("/run/d2");
        net.loopback_up(&ns.path).await.unwrap();
        let stop = CancellationToken::new();
        let sockets = Sockets::embedded(&ns.path).unwrap();
        let forwarder = Arc::new(Forwarder::fixed(vec![]));
        let served = tokio::spawn(serve(sockets, Arc::new(Names), forwarder, stop.clone()));
        assert_eq!(lookup(&ns.path, "127.0.0.11:53", "db.").await.as_deref(), Some("172.18.0.2"));
        ns.run(|| UdpSocket::bind("0.0.0.0:53").map(drop)).unwrap();
        assert!(ns.run(|| std::net::TcpStream::connect("127.0.0.11:53")).is_ok(), "over TCP too");
        stop.cancel();
        served.await.unwrap().unwrap();
    });
}
