//! The node authorizer: a kubelet may do what its job needs, and read only what pods bound to its node refer to.

use std::sync::Arc;

use api::meta::text;
use api::podrefs::{Referred, references, volume_secrets};
use api::selector::Field;
use api::{Object, Value};

use super::{Attributes, Decision, Rule, policy};
use crate::cache::{Cache, local_key};

/// The rules that hold for every node, of what is not checked object by object.
pub struct NodeRules(Vec<Rule>);

impl Default for NodeRules {
    fn default() -> Self {
        let (roles, _) = policy::stock();
        let role = roles.iter().find(|r| r["metadata"]["name"] == "system:node");
        Self(role.map(super::rules_of).unwrap_or_default())
    }
}

impl NodeRules {
    /// Whether the node `node` may do what is asked.
    pub fn authorize(&self, cache: &Cache, node: &str, a: &Attributes<'_>) -> Decision {
        match self.judge(cache, node, a) {
            Ok(()) => Decision::Allow(String::new()),
            Err(why) => Decision::NoOpinion(why),
        }
    }

    fn judge(&self, cache: &Cache, node: &str, a: &Attributes<'_>) -> Result<(), String> {
        let is = |verbs: &[&str]| verbs.contains(&a.verb);
        let unless = |good: bool, why: &str| if good { Ok(()) } else { Err(why.to_owned()) };
        let related = |known: bool| {
            unless(!a.name.is_empty(), "No Object name found")?;
            let why = format!("no relationship found between node '{node}' and this object");
            if known { Ok(()) } else { Err(why) }
        };
        let get = || {
            unless(a.verb == "get", "can only get individual resources of this type")?;
            unless(a.subresource.is_empty(), "cannot get subresource")
        };
        let selects_own =
            || Field::parse(a.fields).is_ok_and(|fields| fields.required("spec.nodeName") == Some(node));
        if !a.is_resource {
            return Err(String::new());
        }
        match (a.group, a.resource) {
            ("", "secrets" | "configmaps") => {
                unless(is(&["get", "list", "watch"]), "can only read resources of this type")?;
                unless(a.subresource.is_empty(), "cannot read subresource")?;
                unless(!a.namespace.is_empty(), "can only read namespaced object of this type")?;
                related(refers(cache, node, a))
            }
            ("", "persistentvolumeclaims") if a.subresource == "status" => {
                unless(is(&["update", "patch"]), "can only get/update/patch this type")?;
                related(refers(cache, node, a))
            }
            ("", "persistentvolumeclaims" | "persistentvolumes") => {
                get()?;
                related(refers(cache, node, a))
            }
            ("resource.k8s.io", "resourceclaims") => {
                get()?;
                related(pods_of(cache, node, a.namespace).any(|pod| claims_devices(pod.value(), a.name)))
            }
            ("storage.k8s.io", "volumeattachments") => {
                get()?;
                related(is_of(cache, node, (a.group, a.resource), "", a.name))
            }
            ("", "serviceaccounts") if a.verb == "get" && a.subresource.is_empty() => {
                related(refers(cache, node, a))
            }
            ("", "serviceaccounts") => {
                let named = a.verb == "create" && !a.name.is_empty();
                unless(named, "can only create tokens for individual service accounts")?;
                unless(a.subresource == "token", "can only create token subresource of serviceaccount")?;
                related(refers(cache, node, a))
            }
            ("coordination.k8s.io", "leases") => {
                let why = "can only get, create, update, patch, or delete a node lease";
                unless(is(&["get", "create", "update", "patch", "delete"]), why)?;
                let why = "can only access leases in the \"kube-node-lease\" system namespace";
                unless(a.namespace == "kube-node-lease", why)?;
                // What is created has no name yet: admission sees it.
                let own = a.verb == "create" || a.name == node;
                unless(own, "can only access node lease with the same name as the requesting node")
            }
            ("storage.k8s.io", "csinodes") => {
                let why = "can only get, create, update, patch, or delete a CSINode";
                unless(is(&["get", "create", "update", "patch", "delete"]), why)?;
                unless(a.subresource.is_empty(), "cannot authorize CSINode subresources")?;
                let own = a.verb == "create" || a.name == node;
                unless(own, "can only access CSINode with the same name as the requesting node")
            }
            ("resource.k8s.io", "resourceslices") => {
                unless(a.subresource.is_empty(), "cannot authorize ResourceSlice subresources")?;
                match a.verb {
                    "create" => Ok(()),
                    "get" | "update" | "patch" | "delete" => {
                        related(is_of(cache, node, (a.group, a.resource), "", a.name))
                    }
                    "watch" | "list" | "deletecollection" => unless(
                        selects_own(),
                        "can only list/watch/deletecollection resourceslices with nodeName field selector",
                    ),
                    _ => unless(
                        false,
                        "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
                    ),
                }
            }
            // Of pods and nodes it reads its own.
            ("", "pods") if a.subresource.is_empty() && is(&["get", "list", "watch"]) => {
                if a.verb != "get" && selects_own() {
                    return Ok(());
                }
                let why = "can only list/watch pods with spec.nodeName field selector";
                unless(a.verb == "get" || !a.name.is_empty(), why)?;
                related(is_of(cache, node, ("", "pods"), a.namespace, a.name))
            }
            ("", "nodes") if a.subresource.is_empty() && is(&["get", "list", "watch"]) => match a.name {
                name if name == node => Ok(()),
                "" => Err(format!("node '{node}' cannot read all nodes, only its own Node object")),
                other => Err(format!("node '{node}' cannot read '{other}', only its own Node object")),
            },
            _ => unless(self.0.iter().any(|r| r.allows(a)), ""),
        }
    }
}

/// Whether an object (a pod, an attachment, a slice of devices) is of `node`.
fn is_of(cache: &Cache, node: &str, kind: (&str, &str), namespace: &str, name: &str) -> bool {
    let object = cache.kind(kind.0, kind.1).get(&local_key(namespace, name));
    object.is_some_and(|o| o.spec().get("nodeName").and_then(Value::as_str) == Some(node))
}

/// Whether a pod uses devices by the claim.
fn claims_devices(pod: &Value, claim: &str) -> bool {
    let list = |p: &str| pod.pointer(p).and_then(Value::as_array).into_iter().flatten();
    // One made of a template is called as the pod's status says.
    let made = |of: &str| {
        list("/status/resourceClaimStatuses")
            .find(|status| text(status, "/name") == of)
            .is_some_and(|status| text(status, "/resourceClaimName") == claim)
    };
    text(pod, "/status/extendedResourceClaimStatus/resourceClaimName") == claim
        || list("/spec/resourceClaims").any(|used| match text(used, "/resourceClaimName") {
            "" => made(text(used, "/name")),
            named => named == claim,
        })
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
    // Pods without the node's name need not be decoded. One that the node made itself gives it no rights.
    let here = move |pod: &Arc<Object>| {
        pod.encoded().mentions(node)
            && pod.spec().get("nodeName").and_then(Value::as_str) == Some(node)
            && pod.annotation("kubernetes.io/config.mirror").is_none()
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
                        {"name": "w", "projected": {"sources": [{"configMap": {"name": "root"}}]}},
                        {"name": "x", "persistentVolumeClaim": {"claimName": "data"}}],
            "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "t", "key": "k"}}}]}],
            "resourceClaims": [{"name": "x", "resourceClaimName": "named"}, {"name": "y", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": [{"name": "y", "resourceClaimName": "made"}, {"name": "z", "resourceClaimName": "another"}],
                "extendedResourceClaimStatus": {"resourceClaimName": "extended"}}});
        let mirror = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "m", "namespace": "a",
            "annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": {"nodeName": "n1",
            "volumes": [{"name": "v", "secret": {"secretName": "mirrored"}}]}});
        let slice = |name: &str, node: &str| json!({"kind": "ResourceSlice", "apiVersion": "resource.k8s.io/v1", "metadata": {"name": name}, "spec": {"nodeName": node}});
        for (key, object) in [
            ("core/pods/a/p", pod),
            ("core/pods/a/m", mirror),
            ("resource.k8s.io/resourceslices/mine", slice("mine", "n1")),
            ("resource.k8s.io/resourceslices/theirs", slice("theirs", "n2")),
        ] {
            let value = api::object::encode_for_store(&object);
            let op = Op::Put { value, lease: None };
            let put = Txn { key: format!("/registry/{key}").into(), expect: Expect::Any, op };
            store.txn(put).await.unwrap();
        }
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
        for (verb, group, resource, sub, name, want) in [
            ("list", "", "secrets", "", "s", true),
            ("update", "", "secrets", "", "s", false),
            ("get", "", "serviceaccounts", "", "default", true),
            ("list", "", "serviceaccounts", "", "default", false),
            ("get", "", "serviceaccounts", "", "other", false),
            ("get", "", "persistentvolumeclaims", "", "data", true),
            ("list", "", "persistentvolumeclaims", "", "data", false),
            ("get", "", "persistentvolumeclaims", "status", "data", false),
            ("patch", "", "persistentvolumeclaims", "status", "data", true),
            ("watch", "", "persistentvolumes", "", "v", false),
            ("deletecollection", "coordination.k8s.io", "leases", "", "n1", false),
            ("create", "coordination.k8s.io", "leases", "", "", true),
            ("list", "storage.k8s.io", "csinodes", "", "n1", false),
            ("get", "storage.k8s.io", "csinodes", "", "n1", true),
            ("get", "resource.k8s.io", "resourceclaims", "", "named", true),
            ("get", "resource.k8s.io", "resourceclaims", "", "made", true),
            ("get", "resource.k8s.io", "resourceclaims", "", "extended", true),
            ("get", "resource.k8s.io", "resourceclaims", "", "another", false),
            ("get", "resource.k8s.io", "resourceclaims", "status", "named", false),
            ("list", "resource.k8s.io", "resourceclaims", "", "named", false),
            ("create", "resource.k8s.io", "resourceslices", "", "", true),
            ("get", "resource.k8s.io", "resourceslices", "", "mine", true),
            ("delete", "resource.k8s.io", "resourceslices", "", "mine", true),
            ("get", "resource.k8s.io", "resourceslices", "", "theirs", false),
            ("list", "resource.k8s.io", "resourceslices", "", "mine", false),
        ] {
            assert_eq!(ask("n1", verb, group, resource, sub, name), want, "{verb} {resource}/{sub} {name}");
        }
        // A mirror pod gives no rights to what it names.
        assert!(!ask("n1", "get", "", "secrets", "", "mirrored") && ask("n1", "get", "", "pods", "", "m"));
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
            ("resourceslices", "", false),
            ("resourceslices", "spec.nodeName=n1", true),
            ("resourceslices", "spec.nodeName=n2", false),
        ] {
            let user = UserInfo::new("system:node:n1", &[NODES]);
            let group = if resource == "resourceslices" { "resource.k8s.io" } else { "" };
            for verb in ["list", "watch", "deletecollection"] {
                let want = want && (verb != "deletecollection" || resource == "resourceslices");
                let info = crate::path::RequestInfo {
                    is_resource: true,
                    verb,
                    group: group.into(),
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
