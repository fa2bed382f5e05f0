//! The node authorizer: a kubelet may do what its job needs, and read only what pods bound to its node refer to.

use std::sync::Arc;

use api::podrefs::{Referred, references};
use api::selector::Field;
use api::{Object, Value};

use super::{Attributes, Decision, Rule, policy};
use crate::cache::Cache;

/// What is checked object by object instead of by rule.
const GUARDED: [&str; 4] = ["secrets", "configmaps", "persistentvolumeclaims", "persistentvolumes"];

/// The rules that hold for every node.
pub struct NodeRules(Vec<Rule>);

impl Default for NodeRules {
    fn default() -> Self {
        let (roles, _) = policy::stock();
        let role = roles.iter().find(|r| r["metadata"]["name"] == "system:node");
        let mut rules = role.map(super::rules_of).unwrap_or_default();
        for rule in &mut rules {
            rule.resources.retain(|r| {
                !GUARDED.contains(&r.as_str())
                    && r != "serviceaccounts/token"
                    && r != "persistentvolumeclaims/status"
                    && r != "volumeattachments"
                    && r != "leases"
                    && r != "csinodes"
            });
        }
        rules.retain(|r| !r.resources.is_empty());
        Self(rules)
    }
}

impl NodeRules {
    /// Whether the node `node` may do what is asked.
    pub fn authorize(&self, cache: &Cache, node: &str, a: &Attributes<'_>) -> Decision {
        let yes = || Decision::Allow(String::new());
        let unrelated =
            || Decision::NoOpinion(format!("no relationship found between node '{node}' and this object"));
        if !a.is_resource {
            return Decision::NoOpinion(String::new());
        }
        let own = |what: &str| {
            if a.name == node || a.verb == "create" && a.name.is_empty() {
                yes()
            } else {
                Decision::NoOpinion(format!(
                    "can only access {what} with the same name as the requesting node"
                ))
            }
        };
        match (a.group, a.resource, a.subresource) {
            ("coordination.k8s.io", "leases", "") if a.namespace == "kube-node-lease" => {
                return own("node lease");
            }
            ("coordination.k8s.io", "leases", _) => {
                return Decision::NoOpinion(
                    "can only access leases in the \"kube-node-lease\" system namespace".into(),
                );
            }
            ("storage.k8s.io", "csinodes", "") => return own("CSINode"),
            // Of pods and nodes it reads its own.
            ("", "pods", "") if matches!(a.verb, "get" | "list" | "watch") => {
                let selected =
                    || Field::parse(a.fields).is_ok_and(|f| f.required("spec.nodeName") == Some(node));
                return match a.name {
                    "" if selected() => yes(),
                    "" => Decision::NoOpinion(
                        "can only list/watch pods with spec.nodeName field selector".into(),
                    ),
                    name if is_bound(cache, node, a.namespace, name) => yes(),
                    _ => unrelated(),
                };
            }
            ("", "nodes", "") if matches!(a.verb, "get" | "list" | "watch") => {
                return match a.name {
                    name if name == node => yes(),
                    "" => Decision::NoOpinion(format!(
                        "node '{node}' cannot read all nodes, only its own Node object"
                    )),
                    other => Decision::NoOpinion(format!(
                        "node '{node}' cannot read '{other}', only its own Node object"
                    )),
                };
            }
            ("", "secrets" | "configmaps" | "persistentvolumeclaims" | "persistentvolumes", "") => {
                if !matches!(a.verb, "get" | "list" | "watch") || a.name.is_empty() {
                    return Decision::NoOpinion("can only read resources of this type by name".into());
                }
                return if refers(cache, node, a) { yes() } else { unrelated() };
            }
            ("", "persistentvolumeclaims", "status") => {
                return if matches!(a.verb, "get" | "update" | "patch") && refers(cache, node, a) {
                    yes()
                } else {
                    unrelated()
                };
            }
            ("storage.k8s.io", "volumeattachments", "") => {
                let attachment = cache.kind("storage.k8s.io", "volumeattachments").get(a.name);
                let here = |v: Arc<Object>| v.spec().get("nodeName").and_then(Value::as_str) == Some(node);
                return if a.verb == "get" && attachment.is_some_and(here) { yes() } else { unrelated() };
            }
            ("", "serviceaccounts", "token") => {
                return if a.verb == "create" && refers(cache, node, a) { yes() } else { unrelated() };
            }
            _ => {}
        }
        if self.0.iter().any(|r| r.allows(a)) { yes() } else { Decision::NoOpinion(String::new()) }
    }
}

/// Whether the pod is to run on `node`.
fn is_bound(cache: &Cache, node: &str, namespace: &str, name: &str) -> bool {
    let pod = cache.kind("", "pods").get(&crate::cache::local_key(namespace, name));
    pod.is_some_and(|p| p.spec().get("nodeName").and_then(Value::as_str) == Some(node))
}

/// Whether a pod on `node` refers to the object.
fn refers(cache: &Cache, node: &str, a: &Attributes<'_>) -> bool {
    let volumes = || cache.kind("", "persistentvolumes");
    if a.resource == "persistentvolumes" {
        return volumes().get(a.name).is_some_and(|volume| uses(cache, node, &volume));
    }
    let wanted = match a.resource {
        "secrets" => Some(Referred::Secret),
        "configmaps" => Some(Referred::ConfigMap),
        "persistentvolumeclaims" => Some(Referred::Claim),
        _ => None,
    };
    let direct = pods_of(cache, node, a.namespace).any(|pod| match wanted {
        None => pod.spec().get("serviceAccountName").and_then(Value::as_str) == Some(a.name),
        Some(wanted) => references(pod.value()).iter().any(|(what, name)| *what == wanted && name == a.name),
    });
    // A volume may need a secret to be mounted, wherever that is.
    direct
        || a.resource == "secrets"
            && volumes().all("").iter().any(|volume| {
                volume_secrets(volume.spec()).any(|s| s == (a.namespace, a.name)) && uses(cache, node, volume)
            })
}

fn pods_of(cache: &Cache, node: &str, namespace: &str) -> impl Iterator<Item = Arc<Object>> {
    // Pods without the node's name need not be decoded.
    let here = move |pod: &Arc<Object>| {
        pod.encoded().mentions(node) && pod.spec().get("nodeName").and_then(Value::as_str) == Some(node)
    };
    cache.kind("", "pods").all(namespace).into_iter().filter(here)
}

/// Whether a pod on `node` uses the claim that the volume is bound to.
fn uses(cache: &Cache, node: &str, volume: &Object) -> bool {
    let claim = |field: &str| volume.spec().get("claimRef")?.get(field)?.as_str();
    let (Some(namespace), Some(name)) = (claim("namespace"), claim("name")) else { return false };
    let is_it = |(what, named): &(Referred, String)| *what == Referred::Claim && named == name;
    pods_of(cache, node, namespace).any(|pod| references(pod.value()).iter().any(is_it))
}

/// The secrets that a kubelet needs to mount a volume: namespace and name.
fn volume_secrets(spec: &Value) -> impl Iterator<Item = (&str, &str)> {
    const REFERENCES: [&str; 10] = [
        "/cephfs/secretRef",
        "/cinder/secretRef",
        "/csi/nodeExpandSecretRef",
        "/csi/nodePublishSecretRef",
        "/csi/nodeStageSecretRef",
        "/flexVolume/secretRef",
        "/iscsi/secretRef",
        "/rbd/secretRef",
        "/scaleIO/secretRef",
        "/storageos/secretRef",
    ];
    // One that names no namespace means that of the claim.
    let claim = spec.pointer("/claimRef/namespace").and_then(Value::as_str).unwrap_or("");
    let file = spec.get("azureFile").and_then(|f| {
        let name = f.get("secretName")?.as_str()?;
        Some((f.get("secretNamespace").and_then(Value::as_str).unwrap_or(claim), name))
    });
    let of = move |reference: &&str| {
        let reference = spec.pointer(reference)?;
        let name = reference.get("name")?.as_str()?;
        let namespace = reference.get("namespace").and_then(Value::as_str).filter(|s| !s.is_empty());
        Some((namespace.unwrap_or(claim), name))
    };
    REFERENCES.iter().filter_map(of).chain(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::user::{NODES, UserInfo};
    use api::access::Ask;
    use serde_json::json;
    use store::{Expect, Op, Txn};
    use tokio_util::sync::CancellationToken;

    #[tokio::test]
    async fn a_node_reads_what_its_pods_name() {
        let store = store::memory();
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "a"}, "spec": {
            "nodeName": "n1", "serviceAccountName": "default",
            "volumes": [{"name": "v", "secret": {"secretName": "s"}},
                        {"name": "w", "projected": {"sources": [{"configMap": {"name": "root"}}]}}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "t", "key": "k"}}}]}]}});
        let value = api::object::encode_for_store(&pod);
        let op = Op::Put { value, lease: None };
        store.txn(Txn { key: "/registry/core/pods/a/p".into(), expect: Expect::Any, op }).await.unwrap();
        let shutdown = CancellationToken::new();
        let cache = Cache::start(store, false, shutdown.clone()).await.unwrap();
        let rules = NodeRules::default();
        let ask = |node: &str, verb: &str, group: &str, resource: &str, sub: &str, name: &str| {
            let user = UserInfo::new(&format!("system:node:{node}"), &[NODES]);
            let a = Attributes::asked(
                &user,
                &Ask {
                    verb,
                    group,
                    resource,
                    subresource: sub,
                    namespace: if resource == "leases" { "kube-node-lease" } else { "a" },
                    name,
                    ..Ask::default()
                },
            );
            rules.authorize(&cache, node, &a).allowed()
        };
        for (resource, name, want) in [
            ("secrets", "s", true),
            ("secrets", "t", true),
            ("secrets", "other", false),
            ("configmaps", "root", true),
            ("configmaps", "s", false),
        ] {
            assert_eq!(ask("n1", "get", "", resource, "", name), want, "{resource} {name}");
            assert!(!ask("n2", "get", "", resource, "", name));
        }
        assert!(ask("n1", "create", "", "serviceaccounts", "token", "default"));
        assert!(!ask("n2", "create", "", "serviceaccounts", "token", "default"));
        assert!(ask("n1", "update", "coordination.k8s.io", "leases", "", "n1"));
        assert!(!ask("n1", "update", "coordination.k8s.io", "leases", "", "n2"));
        assert!(ask("n1", "patch", "", "pods", "status", "p"));
        assert!(ask("n1", "get", "", "pods", "", "p") && !ask("n2", "get", "", "pods", "", "p"));
        assert!(ask("n1", "watch", "", "nodes", "", "n1") && !ask("n1", "get", "", "nodes", "", "n2"));
        for (resource, fields, want) in [
            ("pods", "", false),
            ("pods", "spec.nodeName=n1", true),
            ("pods", "spec.nodeName=n1,status.phase!=Failed", true),
            ("pods", "spec.nodeName!=n1", false),
            ("pods", "spec.nodeName=n2", false),
            ("nodes", "", false),
        ] {
            let user = UserInfo::new("system:node:n1", &[NODES]);
            for verb in ["list", "watch"] {
                let info = crate::path::RequestInfo {
                    is_resource: true,
                    verb,
                    resource: resource.into(),
                    fields: fields.into(),
                    ..Default::default()
                };
                let answer = rules.authorize(&cache, "n1", &Attributes::of(&user, &info));
                assert_eq!(answer.allowed(), want, "{verb} {resource} {fields}: {answer:?}");
            }
        }
        assert!(!ask("n1", "create", "apps", "deployments", "", ""));
        shutdown.cancel();
    }
}
