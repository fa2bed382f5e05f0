//! The stock roles and bindings that every cluster has, as upstream's, read from a table.
//!
//! `policy.txt`: `role NAME [key=value,...]` starts a ClusterRole with labels; `aggregate key=value` gives its aggregation
//! rule; a rule is `verbs | groups | resources [| names]`, where `-` is the core group, or `verbs @ paths`;
//! `bind NAME ROLE SUBJECT...` is a ClusterRoleBinding to `g:GROUP`, `u:USER` or `sa:NAMESPACE/NAME`.

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

fn meta(name: &str) -> Value {
    json!({
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
    })
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

/// The stock ClusterRoles and ClusterRoleBindings, in that order. Aggregated roles already hold their parts' rules.
pub fn stock() -> (Vec<Value>, Vec<Value>) {
    let (mut roles, mut bindings): (Vec<Value>, Vec<Value>) = (Vec::new(), Vec::new());
    for line in TABLE.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        let mut fields = line.split_whitespace();
        match fields.next() {
            Some("role") => {
                let name = fields.next().unwrap_or_default();
                let mut role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                    "metadata": meta(name), "rules": []});
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
                bindings.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
                    "metadata": meta(name), "subjects": subjects,
                    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role}}));
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
        .filter(|r| r["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("system:controller:")))
        .flat_map(|r| r["rules"].as_array().cloned().unwrap_or_default())
        .collect();
    let mut distinct: Vec<Value> = Vec::new();
    for rule in rules {
        if !distinct.contains(&rule) {
            distinct.push(rule);
        }
    }
    roles.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": meta("tug:controllers"), "rules": distinct}));
    bindings.push(json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": meta("tug:controllers"), "subjects": [subject("u:system:kube-controller-manager")],
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "tug:controllers"}}));
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
        let (mut roles, mut bindings) = stock();
        bindings.push(json!({"metadata": {"name": "x", "namespace": "a"},
            "roleRef": {"kind": "ClusterRole", "name": "edit"}, "subjects": [{"kind": "User", "name": "ed"}]}));
        bindings.push(json!({"metadata": {"name": "y", "namespace": "a"},
            "roleRef": {"kind": "ClusterRole", "name": "view"}, "subjects": [{"kind": "User", "name": "vi"}]}));
        let rbac = Rbac::compile(&RbacObjects {
            cluster_roles: roles.iter().collect(),
            cluster_bindings: bindings[..bindings.len() - 2].iter().collect(),
            bindings: bindings[bindings.len() - 2..].iter().collect(),
            ..RbacObjects::default()
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
        roles.clear();
    }
}
