//! NodeRestriction: a kubelet changes its own node, its own leases, devices and certificates, and the pods bound to it, nothing
//! else.

use api::access::Ask;
use api::meta::text;
use api::podrefs::{self, Referred, references};
use api::{Status, Value};
use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::{Operation, Plugin, Review};
use crate::authz::Attributes;
use crate::cache::local_key;

/// Labels of Kubernetes' own domains that a kubelet may set on its node; of their sub-domains all of `kubelet.kubernetes.io`
/// and `node.kubernetes.io`.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
];

/// See the module.
pub struct NodeRestriction;

fn node_of(pod: &Value) -> &str {
    text(pod, "/spec/nodeName")
}

/// Whether a kubelet may set the label on its node.
fn may_label(key: &str) -> bool {
    let domain = key.split_once('/').map_or("", |(domain, _)| domain);
    let below = |parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
    };
    if below("node-restriction.kubernetes.io") {
        return false;
    }
    if !below("kubernetes.io") && !below("k8s.io") {
        return true;
    }
    OWN_LABELS.contains(&key) || below("kubelet.kubernetes.io") || below("node.kubernetes.io")
}

/// The labels that were added, changed or removed and are not a kubelet's to touch.
fn forbidden_labels(new: &Value, old: Option<&Value>) -> Vec<String> {
    let (new, old) = (api::meta::labels(new), old.and_then(api::meta::labels));
    let value = |map: Option<&api::Map>, key: &str| map.and_then(|m| m.get(key)).cloned();
    let keys = new.into_iter().chain(old).flat_map(api::Map::keys);
    let mut out: Vec<String> =
        keys.filter(|k| value(new, k) != value(old, k) && !may_label(k)).cloned().collect();
    out.sort();
    out.dedup();
    out
}

/// What a mirror pod may not refer to: it would let a node read what no pod bound to it by the scheduler uses.
fn forbidden_reference(pod: &Value) -> Option<&'static str> {
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Some("a service account");
    }
    let first = references(pod).into_iter().map(|(what, _)| what).min();
    match first {
        Some(Referred::Secret) => Some("secrets"),
        Some(Referred::ConfigMap) => Some("configmaps"),
        Some(Referred::Claim) => Some("persistentvolumeclaims"),
        None => {
            let list = |p: &str| pod.pointer(p).and_then(Value::as_array).into_iter().flatten();
            let mut sources =
                list("/spec/volumes").filter_map(|v| v.pointer("/projected/sources")?.as_array());
            if sources.any(|s| s.iter().any(|s| s.get("clusterTrustBundle").is_some_and(|b| !b.is_null()))) {
                return Some("clustertrustbundles");
            }
            list("/spec/resourceClaims").next().is_some().then_some("resourceclaims")
        }
    }
}

fn node(r: &Review<'_>, node: &str) -> Result<(), Status> {
    let name = if r.name.is_empty() { api::meta::name(r.object) } else { r.name };
    if name != node {
        return Err(r.forbidden(format!("node \"{node}\" is not allowed to modify node \"{name}\"")));
    }
    match (r.operation, r.old) {
        (Operation::Delete, _) => Err(r.forbidden(format!("node \"{node}\" is not allowed to delete nodes"))),
        (Operation::Create, _) if r.subresource.is_empty() => {
            let labels = forbidden_labels(r.object, None);
            match labels.is_empty() {
                true => Ok(()),
                false => Err(r.forbidden(format!(
                    "node \"{node}\" is not allowed to set the following labels: {}",
                    labels.join(", ")
                ))),
            }
        }
        (Operation::Update, Some(old)) => {
            let taints =
                |v: &Value| v.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
            if taints(r.object) != taints(old) {
                return Err(r.forbidden(format!("node \"{node}\" is not allowed to modify taints")));
            }
            let labels = forbidden_labels(r.object, Some(old));
            if !labels.is_empty() {
                return Err(r.forbidden(format!(
                    "node \"{node}\" is not allowed to modify labels: {}",
                    labels.join(", ")
                )));
            }
            if api::meta::owner_references(r.object) != api::meta::owner_references(old) {
                return Err(r.forbidden(format!("node \"{node}\" is not allowed to modify ownerReferences")));
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn mirror_pod(r: &Review<'_>, node: &str) -> Result<(), Status> {
    if api::meta::annotation(r.object, "kubernetes.io/config.mirror").is_none() {
        return Err(r.forbidden(format!(
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods"
        )));
    }
    if node_of(r.object) != node {
        return Err(
            r.forbidden(format!("node \"{node}\" can only create pods with spec.nodeName set to itself"))
        );
    }
    let owners = api::meta::owner_references(r.object);
    let itself = r.server.cache.kind("", "nodes").get(node);
    let only = |owner: &str| {
        Err(r.forbidden(format!("node \"{node}\" can only create pods with {owner} set to itself")))
    };
    match &owners[..] {
        [o] if o.api_version != "v1" || o.kind != "Node" || o.name != node => {
            return only("an owner reference");
        }
        [o] if o.controller != Some(true) => return only("a controller owner reference"),
        [o] if o.block_owner_deletion == Some(true) => {
            let why = format!("node \"{node}\" must not set blockOwnerDeletion on an owner reference");
            return Err(r.forbidden(why));
        }
        [o] => match itself {
            Some(itself) if itself.uid() == o.uid => {}
            Some(itself) => {
                let (expected, got) = (&o.uid, itself.uid());
                let why = format!("node {node} UID mismatch: expected {expected} got {got}");
                return Err(r.forbidden(why));
            }
            None => return Err(Status::not_found(&api::names::gvr::NODES, node)),
        },
        [] => return only("an owner reference"),
        _ => return only("a single owner reference"),
    }
    match forbidden_reference(r.object) {
        Some(what) => Err(r.forbidden(format!("node \"{node}\" can not create pods that reference {what}"))),
        None => Ok(()),
    }
}

/// A pod that something is done with must be bound to the node.
fn own_pod(r: &Review<'_>, node: &str, what: &str) -> Result<(), Status> {
    let found;
    let pod = match r.old {
        Some(old) => old,
        None => {
            found = r.server.cache.kind("", "pods").get(&local_key(r.namespace, r.name));
            found.as_ref().ok_or_else(|| Status::not_found(&api::names::gvr::PODS, r.name))?.value()
        }
    };
    if node_of(pod) == node {
        return Ok(());
    }
    Err(r.forbidden(format!("node \"{node}\" can only {what} with spec.nodeName set to itself")))
}

fn pod_status(r: &Review<'_>, node: &str) -> Result<(), Status> {
    own_pod(r, node, "update pod status for pods")?;
    let old = r.old.unwrap_or(&Value::Null);
    if api::meta::labels(old) != api::meta::labels(r.object) {
        return Err(r.forbidden(format!("node \"{node}\" cannot update labels through pod status")));
    }
    let claims = |pod: &Value| {
        let claims = pod.pointer("/status/resourceClaimStatuses").and_then(Value::as_array);
        claims.cloned().unwrap_or_default()
    };
    if claims(old) != claims(r.object) {
        return Err(r.forbidden(format!("node \"{node}\" cannot update resource claim statues")));
    }
    let extended = |pod: &Value| pod.pointer("/status/extendedResourceClaimStatus").cloned();
    if extended(old) != extended(r.object) {
        return Err(r.forbidden(format!("node \"{node}\" cannot update extended resource claim status")));
    }
    Ok(())
}

/// Of a claim a node says how large its volume is, and how it grows.
fn claim_status(r: &Review<'_>, node: &str, old: &Value) -> Result<(), Status> {
    let rest = |claim: &Value| {
        let mut claim = claim.clone();
        let meta = api::meta::of_mut(&mut claim);
        for field in ["resourceVersion", "managedFields"] {
            meta.shift_remove(field);
        }
        let status = api::meta::child(&mut claim, "status");
        for field in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
            status.shift_remove(field);
        }
        claim
    };
    if rest(old) == rest(r.object) {
        return Ok(());
    }
    Err(r.forbidden(format!(
        "node \"{node}\" is not allowed to update fields other than status.capacity and status.conditions"
    )))
}

/// A node asks for certificates of its own name only.
fn certificate(r: &Review<'_>, node: &str) -> Result<(), Status> {
    let signer = text(r.object, "/spec/signerName");
    if !matches!(signer, "kubernetes.io/kube-apiserver-client-kubelet" | "kubernetes.io/kubelet-serving") {
        return Ok(());
    }
    let asked = STANDARD.decode(text(r.object, "/spec/request")).unwrap_or_default();
    match pki::Request::parse(&asked) {
        Ok(asked) if asked.common_name == format!("system:node:{node}") => Ok(()),
        Ok(_) => Err(r.forbidden(format!("can only create a node CSR with CN=system:node:{node}"))),
        Err(error) => Err(r.forbidden(format!("unable to parse csr: {error}"))),
    }
}

/// A node publishes and takes back the devices that it has itself.
fn slice(r: &Review<'_>, node: &str) -> Result<(), Status> {
    let (slice, done) = match (r.operation, r.old) {
        (Operation::Create, _) => (&*r.object, "create"),
        (Operation::Delete, Some(old)) => (old, "delete"),
        _ => return Ok(()),
    };
    match node_of(slice) == node {
        true => Ok(()),
        false => Err(r.forbidden(format!(
            "can only {done} ResourceSlice with the same NodeName as the requesting node"
        ))),
    }
}

/// A token that a node asks for is bound to a pod that runs there.
fn token(r: &Review<'_>, node: &str) -> Result<(), Status> {
    let reference = r.object.pointer("/spec/boundObjectRef").unwrap_or(&Value::Null);
    let is_pod = text(reference, "/apiVersion") == "v1" && text(reference, "/kind") == "Pod";
    let (name, uid) = (text(reference, "/name"), text(reference, "/uid"));
    if !is_pod || name.is_empty() {
        return Err(r.forbidden("node requested token not bound to a pod"));
    }
    if uid.is_empty() {
        return Err(r.forbidden("node requested token with a pod binding without a uid"));
    }
    let pod = r.server.cache.kind("", "pods").get(&local_key(r.namespace, name));
    let Some(pod) = pod else { return Err(Status::not_found(&api::names::gvr::PODS, name)) };
    if pod.uid() != uid {
        return Err(r.forbidden(format!(
            "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
        )));
    }
    if node_of(pod.value()) != node {
        return Err(r.forbidden("node requested token bound to a pod scheduled on a different node"));
    }
    audience(r, pod.value())
}

/// A node gets tokens for those whom its pods' volumes name, or whom it may ask tokens for by a role.
fn audience(r: &Review<'_>, pod: &Value) -> Result<(), Status> {
    let asked = r.object.pointer("/spec/audiences").and_then(Value::as_array);
    let asked: Vec<&str> = asked.into_iter().flatten().filter_map(Value::as_str).collect();
    let wanted = match asked[..] {
        [] => "",
        [one] => one,
        _ => return Err(r.forbidden("node may only request 0 or 1 audiences")),
    };
    if audiences(r, pod).iter().any(|a| a == wanted) {
        return Ok(());
    }
    let attributes = Attributes::asked(
        r.user,
        &Ask {
            verb: "request-serviceaccounts-token-audience",
            resource: wanted,
            namespace: r.namespace,
            name: r.name,
            ..Ask::default()
        },
    );
    if r.server.authorize(&attributes).allowed() {
        return Ok(());
    }
    Err(r.forbidden(format!("audience \"{wanted}\" not found in pod spec volume")))
}

/// The audiences that a pod's volumes want tokens for; an empty one is the API server.
fn audiences(r: &Review<'_>, pod: &Value) -> Vec<String> {
    let of = |group: &str, resource: &str, key: &str| r.server.cache.kind(group, resource).get(key);
    let claimed = |claim: &str| {
        let claim = of("", "persistentvolumeclaims", &local_key(r.namespace, claim))?;
        let volume = of("", "persistentvolumes", text(claim.spec(), "/volumeName"))?;
        Some(text(volume.spec(), "/csi/driver").to_owned())
    };
    let list = |v: &Value, p: &str| v.pointer(p).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut found = Vec::new();
    for volume in list(pod, "/spec/volumes") {
        for source in list(&volume, "/projected/sources") {
            let token = source.get("serviceAccountToken").filter(|t| !t.is_null());
            found.extend(token.map(|t| text(t, "/audience").to_owned()));
        }
        let driver = match podrefs::claim(api::meta::name(pod), &volume) {
            Some(claim) => claimed(&claim),
            None => Some(text(&volume, "/csi/driver").to_owned()),
        };
        let driver = driver.filter(|d| !d.is_empty()).and_then(|d| of("storage.k8s.io", "csidrivers", &d));
        let requests = driver.map(|d| list(d.spec(), "/tokenRequests")).unwrap_or_default();
        found.extend(requests.iter().map(|t| text(t, "/audience").to_owned()));
    }
    found
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        r.user.node().is_some()
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let Some(itself) = r.user.node() else { return Ok(()) };
        match (&*r.gvr.group, &*r.gvr.resource, r.subresource) {
            ("", "nodes", _) => node(r, itself),
            ("", "pods", part) => match (part, r.operation) {
                (_, Operation::Connect) => Ok(()),
                ("", Operation::Create) => mirror_pod(r, itself),
                ("", Operation::Delete) => own_pod(r, itself, "delete pods"),
                ("status", Operation::Update) => pod_status(r, itself),
                ("eviction", Operation::Create) => own_pod(r, itself, "evict pods"),
                ("", operation) => Err(r.forbidden(format!(
                    "unexpected operation \"{}\", node \"{itself}\" can only create and delete mirror pods",
                    operation.word()
                ))),
                ("status" | "eviction", operation) => {
                    Err(r.forbidden(format!("unexpected operation \"{}\"", operation.word())))
                }
                (other, _) => Err(r.forbidden(format!(
                    "unexpected pod subresource \"{other}\", only 'status' and 'eviction' are allowed"
                ))),
            },
            ("", "persistentvolumeclaims", part) => match (part, r.old) {
                ("status", Some(old)) => claim_status(r, itself, old),
                _ => Err(r.forbidden("may only update PVC status")),
            },
            ("", "serviceaccounts", "token") => token(r, itself),
            ("certificates.k8s.io", "certificatesigningrequests", "") if r.operation == Operation::Create => {
                certificate(r, itself)
            }
            ("resource.k8s.io", "resourceslices", _) => slice(r, itself),
            ("coordination.k8s.io", "leases", _) | ("storage.k8s.io", "csinodes", _) => {
                let name = if r.name.is_empty() { api::meta::name(r.object) } else { r.name };
                if name != itself {
                    return Err(r.forbidden(format!(
                        "can only access {} with the same name as the requesting node",
                        if r.gvr.resource == "leases" { "node lease" } else { "CSINode" }
                    )));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn labels_of_other_domains_are_free() {
        for (key, want) in [
            ("color", true),
            ("example.com/color", true),
            ("kubernetes.io/hostname", true),
            ("kubernetes.io/role", false),
            ("node-role.kubernetes.io/control-plane", false),
            ("node-restriction.kubernetes.io/a", false),
            ("x.node-restriction.kubernetes.io/a", false),
            ("node.kubernetes.io/anything", true),
            ("a.kubelet.kubernetes.io/b", true),
            ("storage.k8s.io/x", false),
            ("notkubernetes.io/x", true),
        ] {
            assert_eq!(may_label(key), want, "{key}");
        }
        let labeled = |labels: Value| json!({"metadata": {"labels": labels}});
        let old = labeled(json!({"kubernetes.io/role": "a", "x": "y"}));
        assert_eq!(forbidden_labels(&old, Some(&old)), Vec::<String>::new());
        let gone = labeled(json!({"x": "z"}));
        assert_eq!(forbidden_labels(&gone, Some(&old)), ["kubernetes.io/role"]);
    }

    #[test]
    fn mirror_pods_refer_to_nothing() {
        for (spec, want) in [
            (json!({"containers": [{"name": "a"}]}), None),
            (json!({"serviceAccountName": "a"}), Some("a service account")),
            (json!({"volumes": [{"projected": {"sources": [{"secret": {"name": "s"}}]}}]}), Some("secrets")),
            (json!({"containers": [{"envFrom": [{"configMapRef": {"name": "c"}}]}]}), Some("configmaps")),
            (json!({"volumes": [{"ephemeral": {}}]}), Some("persistentvolumeclaims")),
            (json!({"volumes": [{"azureFile": {"secretName": "s"}}]}), Some("secrets")),
            (
                json!({"volumes": [{"projected": {"sources": [{"clusterTrustBundle": {"path": "p"}}]}}]}),
                Some("clustertrustbundles"),
            ),
            (
                json!({"volumes": [{"csi": {"driver": "d", "nodePublishSecretRef": {"name": "s"}}}]}),
                Some("secrets"),
            ),
        ] {
            assert_eq!(forbidden_reference(&json!({"spec": spec})), want);
        }
    }
}
