//! This machine as a Node: registered, its status kept, its Lease renewed, its range of pod addresses found.

use std::sync::Arc;
use std::time::Duration;

use api::{Object, meta};
use client::{Informer, PatchType, gvr};
use ipnet::{IpNet, Ipv4Net};
use network::{BridgeSpec, Ipam};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, PodNetwork};
use crate::machine::{self, Pressures};
use crate::{Error, Result};

/// How often the Lease is renewed: the protocol between nodes and the controller that watches them.
const LEASE_RENEWAL: Duration = Duration::from_secs(10);
/// How long a Lease counts, in seconds.
const LEASE_SECONDS: i64 = 40;
/// How often the status is sent although nothing has changed, as upstream's nodeStatusReportFrequency.
const HEARTBEAT: Duration = Duration::from_secs(300);
/// The delay after a first failure to reach the API server; it doubles up to `LAST_RETRY`.
const FIRST_RETRY: Duration = Duration::from_millis(50);
const LAST_RETRY: Duration = Duration::from_secs(5);
/// The namespace of nodes' Leases.
const LEASES: &str = "kube-node-lease";
/// How often the machine's pressures are looked at between heartbeats: neither memory nor a file system tells anybody
/// that it is nearly full.
const LOOK: Duration = Duration::from_secs(10);
/// How many images a status lists, as upstream.
const MAX_IMAGES: usize = 50;

/// Makes the Node or finds it, and gives it a range of addresses if it has none. Repeats until the API server agrees.
/// `nodes` follows all nodes, which a node itself may not read.
pub async fn register(
    context: &Context,
    nodes: &Informer,
    shutdown: &CancellationToken,
) -> Result<Arc<Object>> {
    let mut delay = FIRST_RETRY;
    loop {
        match try_register(context, nodes).await {
            Ok(node) => return Ok(node),
            Err(error) => tracing::warn!(%error, "the node could not be registered; trying again"),
        }
        tokio::select! {
            () = shutdown.cancelled() => return Err(Error::Invalid("stopped before the node was registered".into())),
            // Nothing tells when an API server that refused is ready.
            () = tokio::time::sleep(delay) => {}
        }
        delay = (delay * 2).min(LAST_RETRY);
    }
}

async fn try_register(context: &Context, nodes: &Informer) -> Result<Arc<Object>> {
    let name = context.node();
    let labels = labels(name);
    let node = match context.client.get(&gvr::NODES, "", name).await {
        Ok(node) => {
            let patch = json!({"metadata": {"labels": labels}});
            let missing =
                labels.as_object().into_iter().flatten().any(|(k, v)| node.labels().get(k) != v.as_str());
            if missing {
                context.client.patch(&gvr::NODES, "", name, PatchType::Merge, &patch).await?
            } else {
                node
            }
        }
        Err(e) if e.is_not_found() => {
            let cidr = free_range(context, nodes).await?;
            let node = json!({
                "apiVersion": "v1", "kind": "Node",
                "metadata": {"name": name, "labels": labels,
                    "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
                "spec": {"podCIDR": cidr.to_string(), "podCIDRs": [cidr.to_string()]},
            });
            context.client.create(&gvr::NODES, "", &node).await?
        }
        Err(e) => return Err(e.into()),
    };
    if node.spec()["podCIDR"].as_str().is_some_and(|c| !c.is_empty()) {
        return Ok(node);
    }
    let cidr = free_range(context, nodes).await?.to_string();
    let patch = json!({"spec": {"podCIDR": cidr, "podCIDRs": [cidr]}});
    Ok(context.client.patch(&gvr::NODES, "", name, PatchType::Merge, &patch).await?)
}

fn labels(name: &str) -> Value {
    let info = machine::node_info("");
    json!({
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": info["operatingSystem"],
        "kubernetes.io/arch": info["architecture"],
        "beta.kubernetes.io/os": info["operatingSystem"],
        "beta.kubernetes.io/arch": info["architecture"],
    })
}

/// The first /24 of the cluster's range that no node has.
async fn free_range(context: &Context, nodes: &Informer) -> Result<Ipv4Net> {
    nodes.synced().await;
    let taken: Vec<Ipv4Net> =
        nodes.list("").iter().filter_map(|n| n.spec()["podCIDR"].as_str()?.parse().ok()).collect();
    first_free(context.options.instance.cluster_cidr, &taken).ok_or_else(|| {
        Error::Invalid(format!("every /24 of {} belongs to a node", context.options.instance.cluster_cidr))
    })
}

fn first_free(cluster: Ipv4Net, taken: &[Ipv4Net]) -> Option<Ipv4Net> {
    let size = cluster.prefix_len().max(24);
    let mut ranges = cluster.subnets(size).ok()?;
    ranges.find(|range| !taken.iter().any(|t| t.contains(range) || range.contains(t)))
}

/// Makes the pods' bridge and takes over the addresses that are in use.
pub async fn pod_network(
    context: &Context,
    node: &Object,
    used: &[(String, std::net::IpAddr)],
) -> Result<()> {
    let cidr = node.spec()["podCIDR"].as_str().unwrap_or_default();
    let range: IpNet = cidr.parse().map_err(|_| {
        Error::Invalid(format!("spec.podCIDR of node {} is {cidr:?}, which is no address range", node.name()))
    })?;
    let gateway =
        range.hosts().next().ok_or_else(|| Error::Invalid(format!("podCIDR {range} has no address")))?;
    let gateway_net = IpNet::new(gateway, range.prefix_len()).map_err(|e| Error::Invalid(e.to_string()))?;
    let instance = &context.options.instance;
    let bridge = BridgeSpec {
        masquerade_except: vec![instance.cluster_cidr.into()],
        isolated: false,
        ..BridgeSpec::new(instance.link("p"), gateway_net)
    };
    context.options.network.ensure_bridge(&bridge).await?;
    let ipam = Ipam::new(range, [gateway]);
    for (uid, ip) in used {
        if let Err(error) = ipam.allocate(uid, Some(*ip)) {
            tracing::warn!(uid, %ip, %error, "a pod has an address that is not of this node's range");
        }
    }
    let _ = context.network.set(PodNetwork { ipam, gateway: gateway_net });
    Ok(())
}

/// Keeps the Node's status and Lease until `shutdown`. `nodes` follows the Nodes, this one among them.
pub async fn keep(
    context: Arc<Context>,
    node: Arc<Object>,
    nodes: Arc<Informer>,
    shutdown: CancellationToken,
) {
    let status = async {
        let mut current = node.clone();
        let mut changes = nodes.subscribe();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        let mut look = tokio::time::interval(LOOK);
        let mut told = None;
        loop {
            let pressures = tokio::select! {
                _ = heartbeat.tick() => context.machine.pressures(),
                _ = look.tick() => {
                    let now = context.machine.pressures();
                    if told == Some(now) {
                        continue;
                    }
                    now
                }
                Some(change) = changes.recv() => {
                    let Some(new) = change.new else { continue };
                    if new.name() != context.node() || new.revision() <= current.revision() {
                        continue;
                    }
                    current = new;
                    // Somebody who had not heard of us thinks that the node is lost.
                    if told.is_none() || agree(&current, told) {
                        continue;
                    }
                    context.machine.pressures()
                }
            };
            told = Some(pressures);
            let mut delay = FIRST_RETRY;
            loop {
                let status = status(&context, current.status(), pressures, base::clock::now());
                match report(&context, &status).await {
                    Ok(node) => {
                        current = node;
                        break;
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the node's status could not be reported; trying again");
                    }
                }
                // Nothing tells when an API server that failed is well again.
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(LAST_RETRY);
            }
        }
    };
    let lease = async {
        let mut timer = tokio::time::interval(LEASE_RENEWAL);
        loop {
            timer.tick().await;
            let mut delay = FIRST_RETRY;
            while let Err(error) = renew(&context, &node).await {
                tracing::debug!(%error, "the node's lease could not be renewed; trying again");
                // As above: only trying tells.
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(LAST_RETRY);
            }
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = async { tokio::join!(status, lease); } => {}
    }
}

async fn report(context: &Context, status: &Value) -> Result<Arc<Object>, client::Error> {
    let patch = json!({"status": status});
    let name = context.node();
    context.client.patch_sub(&gvr::NODES, "", name, "status", PatchType::Strategic, &patch).await
}

/// Whether the node's own conditions are as they were reported.
fn agree(node: &Object, told: Option<Pressures>) -> bool {
    let list = node.status()["conditions"].as_array();
    table(told.unwrap_or_default())
        .iter()
        .all(|own| list.is_some_and(|l| l.iter().any(|c| c["type"] == own.0 && c["status"] == own.1)))
}

async fn renew(context: &Context, node: &Object) -> Result<(), client::Error> {
    let name = context.node();
    let now = meta::micro_time(base::clock::now());
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now});
    let patch = json!({"spec": spec});
    match context.client.patch(&gvr::LEASES, LEASES, name, PatchType::Merge, &patch).await {
        Err(e) if e.is_not_found() => {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": name, "namespace": LEASES, "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.uid()}]},
                "spec": spec,
            });
            context.client.create(&gvr::LEASES, LEASES, &lease).await.map(|_| ())
        }
        result => result.map(|_| ()),
    }
}

/// The kubelet's part of a node's status, as a strategic merge patch: conditions of others stay.
fn status(context: &Context, existing: &Value, pressures: Pressures, now: jiff::Timestamp) -> Value {
    let instance = &context.options.instance;
    let capacity = context.machine.capacity();
    let images: Vec<Value> = context
        .options
        .images
        .list()
        .iter()
        .filter(|i| !i.tags.is_empty() || !i.repo_digests.is_empty())
        .take(MAX_IMAGES)
        .map(|i| {
            let names: Vec<&String> = i.repo_digests.iter().chain(&i.tags).collect();
            json!({"names": names, "sizeBytes": i.size})
        })
        .collect();
    json!({
        "capacity": capacity,
        "allocatable": capacity,
        "conditions": conditions(existing, pressures, now),
        "addresses": [
            {"$patch": "replace"},
            {"type": "InternalIP", "address": instance.node_ip.to_string()},
            {"type": "Hostname", "address": instance.node_name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": instance.kubelet_port}},
        "nodeInfo": machine::node_info(&context.options.version),
        "images": images,
    })
}

/// A status is sent only once the pods' network stands and the runtime has answered, so that sending it says Ready.
fn conditions(existing: &Value, pressures: Pressures, now: jiff::Timestamp) -> Value {
    let time = meta::time(now);
    let table = table(pressures);
    let old = existing["conditions"].as_array();
    let own = table.iter().map(|(kind, status, reason, message)| {
        let before = old.into_iter().flatten().find(|c| c["type"] == *kind && c["status"] == *status);
        let since = before.map_or_else(|| time.clone().into(), |c| c["lastTransitionTime"].clone());
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": time, "lastTransitionTime": since})
    });
    own.collect()
}

/// The conditions that are the kubelet's: type, status, reason, message.
fn table(pressures: Pressures) -> [(&'static str, &'static str, &'static str, &'static str); 4] {
    let pressure = |is: bool, kind: &'static str, yes: [&'static str; 2], no: [&'static str; 2]| {
        let [reason, message] = if is { yes } else { no };
        (kind, if is { "True" } else { "False" }, reason, message)
    };
    [
        pressure(
            pressures.memory,
            "MemoryPressure",
            ["KubeletHasInsufficientMemory", "kubelet has insufficient memory available"],
            ["KubeletHasSufficientMemory", "kubelet has sufficient memory available"],
        ),
        pressure(
            pressures.disk,
            "DiskPressure",
            ["KubeletHasDiskPressure", "kubelet has disk pressure"],
            ["KubeletHasNoDiskPressure", "kubelet has no disk pressure"],
        ),
        pressure(
            pressures.pids,
            "PIDPressure",
            ["KubeletHasInsufficientPID", "kubelet has insufficient PID available"],
            ["KubeletHasSufficientPID", "kubelet has sufficient PID available"],
        ),
        ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let net = |s: &str| s.parse::<Ipv4Net>().unwrap();
        assert_eq!(first_free(net("10.244.0.0/16"), &[]), Some(net("10.244.0.0/24")));
        assert_eq!(
            first_free(net("10.244.0.0/16"), &[net("10.244.0.0/24"), net("10.244.2.0/23")]),
            Some(net("10.244.1.0/24"))
        );
        assert_eq!(first_free(net("10.244.0.0/24"), &[net("10.244.0.0/25")]), None);
        assert_eq!(first_free(net("10.1.2.0/26"), &[]), Some(net("10.1.2.0/26")));
    }

    #[test]
    fn transitions_keep_their_time() {
        let (a, b): (jiff::Timestamp, jiff::Timestamp) =
            ("2026-01-01T00:00:00Z".parse().unwrap(), "2026-01-02T00:00:00Z".parse().unwrap());
        let mut first = json!({"conditions": conditions(&Value::Null, Pressures::default(), a)});
        first["conditions"].as_array_mut().unwrap().push(json!({"type": "Mine", "status": "True"}));
        first["conditions"][3]["status"] = "Unknown".into();
        let second = conditions(&first, Pressures { memory: true, ..Pressures::default() }, b);
        let of = |kind: &str| second.as_array().unwrap().iter().find(|c| c["type"] == kind).unwrap().clone();
        assert_eq!(of("DiskPressure")["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert_eq!(of("DiskPressure")["lastHeartbeatTime"], "2026-01-02T00:00:00Z");
        assert_eq!(
            (&of("MemoryPressure")["status"], &of("MemoryPressure")["lastTransitionTime"]),
            (&json!("True"), &json!("2026-01-02T00:00:00Z"))
        );
        assert_eq!(of("Ready")["lastTransitionTime"], "2026-01-02T00:00:00Z");
        assert!(second.as_array().unwrap().iter().all(|c| c["type"] != "Mine"), "others write theirs");
    }
}
