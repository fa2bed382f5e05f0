//! The stock roles and bindings that every cluster has, as upstream's, read from a table.
//!
//! `policy.txt`: `role NAME [key=value,...]` starts a ClusterRole with labels; `aggregate key=value` gives its aggregation
//! rule; a rule is `verbs | groups | resources [| names]`, where `-` is the core group, or `verbs @ paths`;
//! `bind NAME ROLE SUBJECT...` is a ClusterRoleBinding to `g:GROUP`, `u:USER` or `sa:NAMESPACE/NAME`. What follows
//! `in NAMESPACE` are Roles and RoleBindings there.

use serde_json::{Value, json};

const TABLE: &str = include_str!("policy.txt");

fn labels(text: &str) -> Value {
    let mut map = serde_json::Map::new();
    for pair in text.split(',') {
        if let Some((k, v)) = pair.split_once('=') {
            map.insert(k.to_owned(), json!(v));
        }
    }
    Value::Object(map)
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(|w| if w == "-" { String::new() } else { w.to_owned() }).collect()
}

/// A stock object without what it says, `kind` being what it is called where it is the whole cluster's.
fn object(kind: &str, namespace: &str, name: &str) -> Value {
    let mut meta = json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    });
    let kind = match namespace {
        "" => kind,
        namespace => {
            meta["namespace"] = json!(namespace);
            kind.trim_start_matches("Cluster")
        }
    };
    json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": meta})
}

fn role(namespace: &str, name: &str, rules: Value) -> Value {
    let mut role = object("ClusterRole", namespace, name);
    role["rules"] = rules;
    role
}

fn binding(namespace: &str, name: &str, to: &str, subjects: &[Value]) -> Value {
    let mut binding = object("ClusterRoleBinding", namespace, name);
    let kind = if namespace.is_empty() { "ClusterRole" } else { "Role" };
    binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": to});
    if !subjects.is_empty() {
        binding["subjects"] = json!(subjects);
    }
    binding
}

fn subject(text: &str) -> Value {
    match text.split_once(':') {
        Some(("g", name)) => json!({"kind": "Group", "apiGroup": "rbac.authorization.k8s.io", "name": name}),
        Some(("sa", rest)) => {
            let (namespace, name) = rest.split_once('/').unwrap_or(("kube-system", rest));
            json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
        }
        _ => {
            json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": text.trim_start_matches("u:")})
        }
    }
}

/// The stock roles and bindings, in that order. Aggregated roles already hold their parts' rules.
pub fn stock() -> (Vec<Value>, Vec<Value>) {
    let (mut roles, mut bindings): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    let mut namespace = "";
    for line in TABLE.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some("in") => namespace = fields.next().unwrap_or_default(),
            Some("role") => {
                let name = fields.next().unwrap_or_default();
                let mut role = role(namespace, name, json!([]));
                if let (Some(extra), Some(have)) =
                    (fields.next().map(labels), role["metadata"]["labels"].as_object_mut())
                {
                    have.extend(extra.as_object().cloned().unwrap_or_default());
                }
                roles.push(role);
            }
            Some("aggregate") => {
                if let Some(role) = roles.last_mut() {
                    let selector = json!({"matchLabels": labels(fields.next().unwrap_or_default())});
                    role["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
                }
            }
            Some("bind") => {
                let (name, role) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
                let subjects: Vec<Value> = fields.map(subject).collect();
                bindings.push(binding(namespace, name, role, &subjects));
            }
            _ => {
                let rule = if let Some((verbs, paths)) = line.split_once('@') {
                    json!({"verbs": words(verbs), "nonResourceURLs": words(paths)})
                } else {
                    let parts: Vec<&str> = line.split('|').collect();
                    let mut rule = json!({"verbs": words(parts[0]),
                        "apiGroups": words(parts.get(1).unwrap_or(&"-")),
                        "resources": words(parts.get(2).unwrap_or(&""))});
                    if let Some(names) = parts.get(3) {
                        rule["resourceNames"] = json!(words(names));
                    }
                    rule
                };
                if let Some(list) = roles.last_mut().and_then(|r| r["rules"].as_array_mut()) {
                    list.push(rule);
                }
            }
        }
    }
    aggregate(&mut roles);
    // Where all controllers run as one user, it may do what upstream's many may do.
    let rules: Vec<Value> = roles
        .iter()
        .filter(|r| r["kind"] == "ClusterRole")
        .filter(|r| r["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("system:controller:")))
        .flat_map(|r| r["rules"].as_array().cloned().unwrap_or_default())
        .collect();
    let mut distinct: Vec<Value> = Vec::new();
    for rule in rules {
        if !distinct.contains(&rule) {
            distinct.push(rule);
        }
    }
    roles.push(role("", "tug:controllers", json!(distinct)));
    let manager = [subject("u:system:kube-controller-manager")];
    bindings.push(binding("", "tug:controllers", "tug:controllers", &manager));
    (roles, bindings)
}

/// Fills aggregated roles from the roles their selectors match, parts before wholes (view, edit, admin).
fn aggregate(roles: &mut [Value]) {
    for name in ["view", "edit", "admin"] {
        let Some(at) = roles.iter().position(|r| r["metadata"]["name"] == name) else { continue };
        let Some(wanted) = roles[at]
            .pointer("/aggregationRule/clusterRoleSelectors/0/matchLabels")
            .and_then(Value::as_object)
            .cloned()
        else {
            continue;
        };
        let mut rules: Vec<Value> = Vec::new();
        for role in roles.iter() {
            let matches = wanted.iter().all(|(k, v)| role["metadata"]["labels"].get(k) == Some(v));
            if matches {
                for rule in role["rules"].as_array().into_iter().flatten() {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
        roles[at]["rules"] = Value::Array(rules);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attributes, Rbac, RbacObjects};
    use super::*;
    use crate::user::UserInfo;
    use api::access::Ask;

    #[test]
    fn stock_roles_allow_and_refuse() {
        let (roles, mut bindings) = stock();
        bindings.push(json!({"kind": "RoleBinding", "metadata": {"name": "x", "namespace": "a"},
            "roleRef": {"kind": "ClusterRole", "name": "edit"}, "subjects": [{"kind": "User", "name": "ed"}]}));
        bindings.push(json!({"kind": "RoleBinding", "metadata": {"name": "y", "namespace": "a"},
            "roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "User", "name": "vi"}]}));
        let of = |all: &'_ [Value], kind: &str| -> Vec<Value> {
            all.iter().filter(|object| object["kind"] == kind).cloned().collect()
        };
        let kinds = [
            of(&roles, "Role"),
            of(&roles, "ClusterRole"),
            of(&bindings, "RoleBinding"),
            of(&bindings, "ClusterRoleBinding"),
        ];
        let rbac = Rbac::compile(&RbacObjects {
            roles: kinds[0].iter().collect(),
            cluster_roles: kinds[1].iter().collect(),
            bindings: kinds[2].iter().collect(),
            cluster_bindings: kinds[3].iter().collect(),
        });
        let ask = |user: &str, verb: &str, group: &str, resource: &str, sub: &str| {
            let user = UserInfo::new(user, &[]);
            let attributes = Attributes::asked(
                &user,
                &Ask { verb, group, resource, subresource: sub, namespace: "a", ..Ask::default() },
            );
            rbac.authorize(&attributes).allowed()
        };
        assert!(ask("ed", "create", "apps", "deployments", ""));
        assert!(ask("ed", "create", "", "pods", "exec"));
        assert!(!ask("ed", "create", "rbac.authorization.k8s.io", "roles", ""));
        assert!(ask("ed", "get", "", "secrets", ""));
        assert!(ask("vi", "watch", "", "pods", ""));
        assert!(!ask("vi", "get", "", "secrets", ""));
        assert!(!ask("vi", "delete", "", "pods", ""));
        assert!(!ask("nobody", "get", "", "pods", ""));
        assert!(ask("nobody", "create", "authorization.k8s.io", "selfsubjectaccessreviews", ""));
        assert!(roles.iter().any(|r| r["metadata"]["name"] == "cluster-admin"));
        for (user, verb, group, resource, sub, namespace, want) in [
            ("ed", "create", "events.k8s.io", "events", "", "a", true),
            ("vi", "get", "resource.k8s.io", "resourceclaims", "status", "a", true),
            ("vi", "create", "resource.k8s.io", "resourceclaims", "", "a", false),
            ("ed", "create", "resource.k8s.io", "resourceclaimtemplates", "", "a", true),
            ("system:kube-scheduler", "patch", "resource.k8s.io", "resourceclaims", "status", "a", true),
            ("system:kube-scheduler", "list", "storage.k8s.io", "volumeattachments", "", "", true),
            ("system:kube-proxy", "watch", "networking.k8s.io", "servicecidrs", "", "", true),
            (
                "system:serviceaccount:kube-system:statefulset-controller",
                "delete",
                "",
                "persistentvolumeclaims",
                "",
                "a",
                true,
            ),
            (
                "system:serviceaccount:kube-system:service-cidrs-controller",
                "list",
                "networking.k8s.io",
                "ipaddresses",
                "",
                "",
                true,
            ),
            (
                "system:serviceaccount:kube-system:persistent-volume-binder",
                "get",
                "",
                "secrets",
                "",
                "a",
                false,
            ),
            // Who leads is told by leases.
            (
                "system:kube-scheduler",
                "create",
                "coordination.k8s.io",
                "leasecandidates",
                "",
                "kube-system",
                true,
            ),
            (
                "system:serviceaccount:kube-system:leader-election-controller",
                "update",
                "coordination.k8s.io",
                "leases",
                "",
                "kube-system",
                true,
            ),
            (
                "system:serviceaccount:kube-system:leader-election-controller",
                "update",
                "coordination.k8s.io",
                "leases",
                "",
                "a",
                false,
            ),
            ("system:kube-scheduler", "watch", "", "configmaps", "", "kube-system", false),
            (
                "system:serviceaccount:kube-system:bootstrap-signer",
                "list",
                "",
                "secrets",
                "",
                "kube-system",
                true,
            ),
            (
                "system:serviceaccount:kube-system:bootstrap-signer",
                "list",
                "",
                "secrets",
                "",
                "kube-public",
                false,
            ),
            (
                "system:serviceaccount:kube-system:cloud-provider",
                "create",
                "",
                "configmaps",
                "",
                "kube-system",
                true,
            ),
        ] {
            let who = UserInfo::new(user, &[]);
            let asked = Ask { verb, group, resource, subresource: sub, namespace, ..Ask::default() };
            let answer = rbac.authorize(&Attributes::asked(&who, &asked));
            assert_eq!(answer.allowed(), want, "{user} {verb} {resource}/{sub} in {namespace}");
        }
        let own = bindings.iter().find(|b| b["metadata"]["name"] == "system:node").unwrap();
        assert_eq!(own.get("subjects"), None, "the node authorizer governs nodes");
    }
}
