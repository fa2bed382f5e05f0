//! The `kubernetes` Service, by which pods reach the API servers, and where it leads: to all servers of the datastore that live.
//!
//! Servers that share a store each keep a key in it, under a lease: who dies loses it and is told of by its deletion, as with
//! upstream's lease reconciler. A server that has its store for itself is its only member.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use api::{Object, Status, Value};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;
use store::{Expect, LeaseId, Op, Range, Txn};

use crate::ApiServer;
use crate::bootstrap::{context, ensure};
use crate::query::WriteOptions;
use crate::registry::{DeleteOptions, Modify, store_failure};

/// Before the keys of living servers; not a kind's, so the cache passes over them.
const PREFIX: &str = "/registry/masterleases/";
/// How long a server that died is still thought to live.
const TTL: Duration = Duration::from_secs(15);
/// How long to wait before what was refused is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// The label of slices beside the first one, which are needed where servers listen on different ports.
const MANAGED_BY: (&str, &str) = ("endpointslice.kubernetes.io/managed-by", "kube-apiserver");

/// Whether others can reach a server at its address: one at the machine's own is nobody's endpoint but its own.
fn is_reachable(ip: IpAddr) -> bool {
    api::validate::non_special_ip(&ip.to_string()).is_empty()
}

/// Where a server listens.
type Member = (IpAddr, u16);

fn member_of(key: &[u8]) -> Option<Member> {
    let text = std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?;
    let (ip, port) = text.rsplit_once('_')?;
    Some((ip.parse().ok()?, port.parse().ok()?))
}

fn key_of((ip, port): Member) -> Vec<u8> {
    format!("{PREFIX}{ip}_{port}").into_bytes()
}

/// Announces this server, writes the Service, and keeps both as they should be until the server stops.
pub async fn start(server: &Arc<ApiServer>) -> Result<(), Status> {
    if !is_reachable(own(server).0) {
        tracing::warn!(
            address = %own(server).0,
            "pods cannot reach the API server at its address: the kubernetes service leads nowhere (--node-ip names another)"
        );
    }
    let lease = if server.options.shared_store { Some(announce(server).await?) } else { None };
    reconcile(server).await?;
    tokio::spawn(follow_objects(server.clone()));
    if let Some(lease) = lease {
        tokio::spawn(renew(server.clone(), lease));
        tokio::spawn(follow_members(server.clone()));
    }
    Ok(())
}

fn own(server: &ApiServer) -> Member {
    (server.options.instance.node_ip, server.address.port())
}

/// Puts this server's key under a new lease.
async fn announce(server: &ApiServer) -> Result<LeaseId, Status> {
    let store = server.cache.store();
    let lease = store.lease_grant(TTL).await.map_err(store_failure)?;
    let op = Op::Put { value: Bytes::new(), lease: Some(lease) };
    let txn = Txn { key: key_of(own(server)), expect: Expect::Any, op };
    store.txn(txn).await.map_err(store_failure)?;
    Ok(lease)
}

/// Renews the lease; a server that stops gives it back, so that the others need not wait for its end.
async fn renew(server: Arc<ApiServer>, mut lease: LeaseId) {
    let store = server.cache.store().clone();
    loop {
        tokio::select! {
            () = server.shutdown.cancelled() => break,
            // A lease ends by time alone; so it is renewed by time.
            () = tokio::time::sleep(TTL / 3) => {}
        }
        if store.lease_keep_alive(lease).await.is_ok() {
            continue;
        }
        // Lost while the store did not answer: a new one.
        match announce(&server).await {
            Ok(new) => lease = new,
            Err(status) => {
                tracing::warn!(error = %status.message, "this server is not among the endpoints of the cluster")
            }
        }
    }
    if let Err(error) = store.lease_revoke(lease).await {
        tracing::debug!(%error, "the others find out by themselves that this server has stopped");
    }
}

/// The servers that live.
async fn living(server: &ApiServer) -> Result<Vec<Member>, Status> {
    if !server.options.shared_store {
        return Ok(vec![own(server)]);
    }
    let found = server.cache.store().range(Range::prefix(PREFIX)).await.map_err(store_failure)?;
    let mut members: Vec<Member> = found.items.iter().filter_map(|kv| member_of(&kv.key)).collect();
    // A server that runs this lives, whatever has become of its lease.
    members.push(own(server));
    members.sort_unstable();
    members.dedup();
    Ok(members)
}

/// Whether the other servers know of this one.
async fn announced(server: &ApiServer) -> store::Result<bool> {
    if !server.options.shared_store {
        return Ok(true);
    }
    let own = Range::prefix(key_of(own(server)));
    server.cache.store().range(own).await.map(|found| !found.items.is_empty())
}

/// Reconciles whenever a server comes or goes.
async fn follow_members(server: Arc<ApiServer>) {
    let store = server.cache.store().clone();
    loop {
        let followed = async {
            let from = store.revision().await? + 1;
            let mut changes = store.watch(PREFIX.into(), from).await?;
            // What happened before the watch began.
            again(&server).await;
            while let Some(batch) = changes.next().await {
                if !batch?.events.is_empty() {
                    again(&server).await;
                }
            }
            Ok::<_, store::Error>(())
        };
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            ended = followed => if let Err(error) = ended {
                tracing::warn!(%error, "the store does not say which servers live");
            },
        }
        // A store that is down says nothing when it comes back: asking again is all there is.
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Makes the Service and its endpoints what they should be, however often that takes.
async fn again(server: &Arc<ApiServer>) {
    while let Err(status) = reconcile(server).await {
        tracing::warn!(error = %status.message, "the kubernetes service is not as it should be");
        // What refused the write says nothing when it would take it.
        tokio::select! {
            () = server.shutdown.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    }
}

/// Makes the Service and its endpoints anew whenever somebody deletes or changes one of them. What this server wrote itself
/// comes by here, too, and is found to be right.
async fn follow_objects(server: Arc<ApiServer>) {
    let kinds = [("", "services"), ("", "endpoints"), ("discovery.k8s.io", "endpointslices")];
    let mut watchers = kinds.map(|(group, resource)| {
        let kind = server.cache.kind(group, resource);
        server.cache.list_and_watch(kind, "default").1
    });
    loop {
        let [a, b, c] = &mut watchers;
        let (at, events) = tokio::select! {
            () = server.shutdown.cancelled() => return,
            events = a.next() => (0, events),
            events = b.next() => (1, events),
            events = c.next() => (2, events),
        };
        let ours = |e: &Arc<crate::cache::CacheEvent>| {
            let service = match at {
                2 => e.object.labels().get("kubernetes.io/service-name").unwrap_or_default(),
                _ => e.object.name(),
            };
            service == "kubernetes" && e.object.namespace() == "default"
        };
        let changed = match events {
            Ok(events) => events.iter().any(ours),
            Err(_) => {
                let (group, resource) = kinds[at];
                watchers[at] = server.cache.list_and_watch(server.cache.kind(group, resource), "default").1;
                true
            }
        };
        // Who is not announced would not be in what the others write, and they not in what it writes. A store that does not
        // say so is asked again until it does.
        if changed && !matches!(announced(&server).await, Ok(false)) {
            again(&server).await;
        }
    }
}

/// The Service, its Endpoints and slices, for these members.
fn objects(service_ip: &str, own_port: u16, members: &[Member]) -> Vec<Value> {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let mut by_port: BTreeMap<(u16, bool), Vec<String>> = BTreeMap::new();
    for (ip, port) in members.iter().filter(|(ip, _)| is_reachable(*ip)) {
        by_port.entry((*port, ip.is_ipv6())).or_default().push(ip.to_string());
    }
    let ports = |port: u16| json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let subsets: Vec<Value> = by_port
        .iter()
        .map(|((port, _), ips)| {
            let addresses: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
            json!({"addresses": addresses, "ports": ports(*port)})
        })
        .collect();
    let mut out = vec![
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
            "spec": {"type": "ClusterIP", "clusterIP": service_ip, "sessionAffinity": "None",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": own_port}]}}),
        json!({"apiVersion": "v1", "kind": "Endpoints",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"}},
            "subsets": subsets}),
    ];
    for (i, ((port, v6), ips)) in by_port.iter().enumerate() {
        let family = if *v6 { "IPv6" } else { "IPv4" };
        let mut labels = json!({"kubernetes.io/service-name": "kubernetes"});
        let mut name = "kubernetes".to_owned();
        if i > 0 {
            name = format!("kubernetes-{}-{port}", family.to_lowercase());
            labels[MANAGED_BY.0] = json!(MANAGED_BY.1);
        }
        let endpoints: Vec<Value> =
            ips.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
        out.push(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": "default", "labels": labels},
            "addressType": family, "endpoints": endpoints, "ports": ports(*port)}));
    }
    out
}

/// Writes what is missing or other than it should be.
async fn reconcile(server: &Arc<ApiServer>) -> Result<(), Status> {
    let members = living(server).await?;
    let service_ip = server.options.instance.kubernetes_ip().to_string();
    let wanted = objects(&service_ip, server.address.port(), &members);
    let options = WriteOptions::default();
    for object in &wanted {
        ensure(server, object.clone()).await?;
        server.cache.caught_up().await.map_err(store_failure)?;
        let mut cx = context(server, object)?;
        let name = cx.info.name.clone();
        let mut change = |old: &Arc<Object>| {
            let mut new = old.value().clone();
            for field in ["subsets", "endpoints", "ports"] {
                if let Some(v) = object.get(field) {
                    new[field] = v.clone();
                }
            }
            // The target is a number that each server has for itself; the endpoints say where it leads.
            if members.len() == 1 && !object["spec"].is_null() {
                new["spec"]["ports"] = object["spec"]["ports"].clone();
            }
            Ok(new)
        };
        let modify =
            Modify { name: &name, subresource: "", options: &options, applied: false, checked: true };
        server.modify(&mut cx, &modify, &mut change).await?;
    }
    for slice in server.cache.kind("discovery.k8s.io", "endpointslices").all("default") {
        let ours = slice.labels().get(MANAGED_BY.0) == Some(MANAGED_BY.1)
            && slice.labels().get("kubernetes.io/service-name") == Some("kubernetes");
        if ours && !wanted.iter().any(|o| api::meta::name(o) == slice.name()) {
            let mut cx = context(server, slice.value())?;
            match server.delete(&mut cx, slice.name(), &DeleteOptions::default()).await {
                Err(status) if status.code != 404 => return Err(status),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_where_a_server_is() {
        for member in [("10.0.0.1", 6443), ("fd00::1", 7443)] {
            let member: Member = (member.0.parse().unwrap(), member.1);
            assert_eq!(member_of(&key_of(member)), Some(member));
        }
        assert_eq!(member_of(b"/registry/masterleases/x"), None);
    }

    #[test]
    fn all_members_are_endpoints() {
        let members: Vec<Member> = [("10.0.0.1", 6443), ("10.0.0.2", 6443), ("10.0.0.1", 7443)]
            .map(|(ip, p)| (ip.parse().unwrap(), p))
            .to_vec();
        let all = objects("10.96.0.1", 6443, &members);
        assert_eq!(
            all[1]["subsets"],
            json!([{"addresses": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}], "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]},
                {"addresses": [{"ip": "10.0.0.1"}], "ports": [{"name": "https", "port": 7443, "protocol": "TCP"}]}])
        );
        let alone = objects("10.96.0.1", 6443, &[([127, 0, 0, 1].into(), 6443)]);
        assert_eq!((alone.len(), &alone[1]["subsets"]), (2, &json!([])));
        let names: Vec<&str> = all[2..].iter().map(api::meta::name).collect();
        assert_eq!(names, ["kubernetes", "kubernetes-ipv4-7443"]);
        assert_eq!(all[2]["endpoints"].as_array().unwrap().len(), 2);
    }
}
