//! May this user do this? Role-based access control over the roles and bindings in the watch cache, the node
//! authorizer for kubelets, and the shortcut for `system:masters`.
//!
//! The compiled form of all rules is rebuilt when one of the four kinds has changed, never per request.

pub mod node;
pub mod policy;
pub mod reconcile;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::access::Ask;
pub use api::access::Decision;
use api::meta::text;
use serde_json::{Value, json};

use crate::path::RequestInfo;
use crate::user::UserInfo;

/// What is asked: the part of a request that rules speak about.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a UserInfo,
    /// The verb.
    pub verb: &'a str,
    /// Whether it is about an API resource.
    pub is_resource: bool,
    /// API group.
    pub group: &'a str,
    /// Resource.
    pub resource: &'a str,
    /// Subresource, empty for none.
    pub subresource: &'a str,
    /// Namespace, empty for none.
    pub namespace: &'a str,
    /// Name, empty for none.
    pub name: &'a str,
    /// The path, for what is no resource.
    pub path: &'a str,
    /// The field selector of a list or watch, unparsed, empty for none.
    pub fields: &'a str,
}

impl<'a> Attributes<'a> {
    /// What `user` asks.
    pub fn asked(user: &'a UserInfo, ask: &Ask<'a>) -> Self {
        let Ask { verb, path, group, resource, subresource, namespace, name } = *ask;
        let is_resource = path.is_empty();
        Self { user, verb, is_resource, group, resource, subresource, namespace, name, path, fields: "" }
    }

    /// Those of a request.
    pub fn of(user: &'a UserInfo, info: &'a RequestInfo) -> Self {
        Self {
            user,
            verb: info.verb,
            is_resource: info.is_resource,
            group: &info.group,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: &info.path,
            fields: &info.fields,
        }
    }

    /// The end of a `forbidden` message, as upstream words it.
    pub fn refusal(&self, reason: &str) -> String {
        let user = &self.user.name;
        let mut text = if self.is_resource {
            let resource = if self.subresource.is_empty() {
                self.resource.to_owned()
            } else {
                format!("{}/{}", self.resource, self.subresource)
            };
            let place = if self.namespace.is_empty()
                || self.resource == "namespaces" && self.name == self.namespace
            {
                if self.namespace.is_empty() {
                    "at the cluster scope".to_owned()
                } else {
                    format!("in the namespace \"{}\"", self.namespace)
                }
            } else {
                format!("in the namespace \"{}\"", self.namespace)
            };
            format!(
                "User \"{user}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
                self.verb, self.group
            )
        } else {
            format!("User \"{user}\" cannot {} path \"{}\"", self.verb, self.path)
        };
        if !reason.is_empty() {
            text.push_str(": ");
            text.push_str(reason);
        }
        text
    }
}

/// One policy rule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups, or `*`.
    pub groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    pub resources: Vec<String>,
    /// Names; empty means all.
    pub names: Vec<String>,
    /// Paths that are no resources; a trailing `*` matches the rest.
    pub urls: Vec<String>,
}

fn strings(v: &Value, field: &str) -> Vec<String> {
    v.get(field)
        .and_then(Value::as_array)
        .map(|a| a.iter().filter_map(|s| s.as_str().map(str::to_owned)).collect())
        .unwrap_or_default()
}

impl Rule {
    /// From a PolicyRule.
    pub fn from_value(v: &Value) -> Self {
        Self {
            verbs: strings(v, "verbs"),
            groups: strings(v, "apiGroups"),
            resources: strings(v, "resources"),
            names: strings(v, "resourceNames"),
            urls: strings(v, "nonResourceURLs"),
        }
    }

    /// The PolicyRule.
    pub fn to_value(&self) -> Value {
        let mut v = json!({"verbs": self.verbs});
        for (field, list) in [
            ("apiGroups", &self.groups),
            ("resources", &self.resources),
            ("resourceNames", &self.names),
            ("nonResourceURLs", &self.urls),
        ] {
            if !list.is_empty() {
                v[field] = json!(list);
            }
        }
        v
    }

    /// The rule as upstream shows it to people.
    pub fn show(&self) -> String {
        let lists = [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.urls),
            ("ResourceNames", &self.names),
            ("Verbs", &self.verbs),
        ];
        let shown = lists.into_iter().filter(|(_, list)| !list.is_empty());
        let shown: Vec<String> = shown.map(|(name, list)| format!("{name}:{}", quoted(list))).collect();
        format!("{{{}}}", shown.join(", "))
    }

    /// Whether the rule allows what is asked.
    pub fn allows(&self, a: &Attributes<'_>) -> bool {
        let any = |list: &[String], what: &str| list.iter().any(|x| x == "*" || x == what);
        if !any(&self.verbs, a.verb) {
            return false;
        }
        if !a.is_resource {
            return self.urls.iter().any(|u| url_matches(u, a.path));
        }
        any(&self.groups, a.group)
            && self.resources.iter().any(|r| resource_matches(r, a.resource, a.subresource))
            && (self.names.is_empty() || self.names.iter().any(|n| n == a.name))
    }

    /// Whether everything `other` (which names one verb, group, resource, and so on) allows, this rule allows too.
    fn covers(&self, other: &Rule) -> bool {
        let all = |mine: &[String], theirs: &[String]| {
            mine.iter().any(|x| x == "*") || theirs.iter().all(|t| mine.iter().any(|m| m == t))
        };
        all(&self.verbs, &other.verbs)
            && all(&self.groups, &other.groups)
            && other.resources.iter().all(|t| {
                let (resource, sub) = t.split_once('/').unwrap_or((t, ""));
                self.resources.iter().any(|m| m == t || resource_matches(m, resource, sub))
            })
            && (self.names.is_empty()
                || !other.names.is_empty() && other.names.iter().all(|n| self.names.contains(n)))
            && other.urls.iter().all(|t| self.urls.iter().any(|m| m == t || url_matches(m, t)))
    }

    /// The rule taken apart into rules of one verb and one resource or path each.
    fn atoms(&self) -> Vec<Rule> {
        let mut out = Vec::new();
        for verb in &self.verbs {
            for url in &self.urls {
                out.push(Rule { verbs: vec![verb.clone()], urls: vec![url.clone()], ..Rule::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let one = Rule {
                        verbs: vec![verb.clone()],
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Rule::default()
                    };
                    if self.names.is_empty() {
                        out.push(one);
                    } else {
                        out.extend(self.names.iter().map(|n| Rule { names: vec![n.clone()], ..one.clone() }));
                    }
                }
            }
        }
        out
    }
}

/// Strings as Go shows a list of them.
pub fn quoted(list: &[String]) -> String {
    let all: Vec<String> = list.iter().map(|s| api::field::quote(s)).collect();
    format!("[{}]", all.join(" "))
}

fn url_matches(pattern: &str, path: &str) -> bool {
    pattern == "*" || pattern == path || pattern.strip_suffix('*').is_some_and(|p| path.starts_with(p))
}

fn resource_matches(pattern: &str, resource: &str, sub: &str) -> bool {
    if pattern == "*" {
        return true;
    }
    match pattern.split_once('/') {
        None => pattern == resource && sub.is_empty(),
        Some(("*", s)) => !sub.is_empty() && s == sub,
        Some((r, s)) => r == resource && s == sub,
    }
}

/// Every rule of `wanted` that `held` does not cover: what a user would gain by creating such a role.
pub fn missing(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    wanted.iter().flat_map(Rule::atoms).filter(|atom| !held.iter().any(|h| h.covers(atom))).collect()
}

/// Whether a write changes nothing but what the collection of garbage needs to: whose an object is, and who has yet to agree
/// that it ends.
pub fn is_for_collection_alone(new: &Value, old: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        let meta = api::meta::of_mut(&mut object);
        for field in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
            meta.shift_remove(field);
        }
        object
    };
    rest(new) == rest(old)
}

/// The rules that allow everything there is.
pub fn everything() -> Vec<Rule> {
    let all = || vec!["*".to_owned()];
    vec![
        Rule { verbs: all(), groups: all(), resources: all(), ..Rule::default() },
        Rule { verbs: all(), urls: all(), ..Rule::default() },
    ]
}

/// Rules that hold in one namespace, or everywhere, and where they come from.
#[derive(Debug, Clone)]
struct Grant {
    namespace: Option<String>,
    rules: Arc<Vec<Rule>>,
    reason: String,
    /// What is wrong with it: there is no such role.
    fault: Option<Arc<str>>,
}

impl Grant {
    /// Whether it holds for what is asked.
    fn covers(&self, a: &Attributes<'_>) -> bool {
        self.namespace.as_ref().is_none_or(|ns| a.is_resource && ns == a.namespace)
    }
}

/// All roles and bindings, compiled: from a subject to what it may do.
#[derive(Debug, Default)]
pub struct Rbac {
    subjects: HashMap<String, Vec<Grant>>,
}

/// The four kinds' objects that `Rbac::compile` reads.
#[derive(Debug, Default)]
pub struct RbacObjects<'a> {
    /// Role
    pub roles: Vec<&'a Value>,
    /// ClusterRole
    pub cluster_roles: Vec<&'a Value>,
    /// RoleBinding
    pub bindings: Vec<&'a Value>,
    /// ClusterRoleBinding
    pub cluster_bindings: Vec<&'a Value>,
}

/// The rules of a Role or ClusterRole.
pub fn rules_of(role: &Value) -> Vec<Rule> {
    role.get("rules")
        .and_then(Value::as_array)
        .map(|a| a.iter().map(Rule::from_value).collect())
        .unwrap_or_default()
}

fn subject_key(subject: &Value, namespace: &str) -> Option<String> {
    let name = text(subject, "/name");
    Some(match text(subject, "/kind") {
        "User" => format!("u:{name}"),
        "Group" => format!("g:{name}"),
        "ServiceAccount" => {
            let ns = match text(subject, "/namespace") {
                "" => namespace,
                ns => ns,
            };
            format!("u:system:serviceaccount:{ns}:{name}")
        }
        _ => return None,
    })
}

impl Rbac {
    /// Compiles all roles and bindings.
    pub fn compile(objects: &RbacObjects<'_>) -> Self {
        let mut roles: HashMap<(&str, &str), Arc<Vec<Rule>>> = HashMap::new();
        for r in &objects.roles {
            roles.insert((text(r, "/metadata/namespace"), text(r, "/metadata/name")), Arc::new(rules_of(r)));
        }
        for r in &objects.cluster_roles {
            roles.insert(("", text(r, "/metadata/name")), Arc::new(rules_of(r)));
        }
        let mut rbac = Self::default();
        for (cluster, binding) in objects
            .cluster_bindings
            .iter()
            .map(|b| (true, b))
            .chain(objects.bindings.iter().map(|b| (false, b)))
        {
            let namespace = if cluster { "" } else { text(binding, "/metadata/namespace") };
            let (kind, role) = (text(binding, "/roleRef/kind"), text(binding, "/roleRef/name"));
            let scope = if kind == "Role" { namespace } else { "" };
            let found = roles.get(&(scope, role)).cloned();
            let fault: Option<Arc<str>> = found.is_none().then(|| {
                let resource = if kind == "Role" { "role" } else { "clusterrole" };
                format!("{resource}.rbac.authorization.k8s.io \"{role}\" not found").into()
            });
            let rules = found.unwrap_or_default();
            let binding_name = match cluster {
                true => format!("ClusterRoleBinding \"{}\"", text(binding, "/metadata/name")),
                false => format!("RoleBinding \"{}/{namespace}\"", text(binding, "/metadata/name")),
            };
            let grant = |subject: &Value| Grant {
                namespace: (!cluster).then(|| namespace.to_owned()),
                rules: rules.clone(),
                fault: fault.clone(),
                reason: format!(
                    "RBAC: allowed by {binding_name} of {kind} \"{role}\" to {} \"{}\"",
                    text(subject, "/kind"),
                    match text(subject, "/namespace") {
                        "" => text(subject, "/name").to_owned(),
                        ns => format!("{}/{ns}", text(subject, "/name")),
                    }
                ),
            };
            for subject in binding.get("subjects").and_then(Value::as_array).into_iter().flatten() {
                if let Some(key) = subject_key(subject, namespace) {
                    rbac.subjects.entry(key).or_default().push(grant(subject));
                }
            }
        }
        rbac
    }

    fn grants<'a>(&'a self, user: &'a UserInfo) -> impl Iterator<Item = &'a Grant> {
        let keys =
            std::iter::once(format!("u:{}", user.name)).chain(user.groups.iter().map(|g| format!("g:{g}")));
        keys.filter_map(|k| self.subjects.get(&k)).flatten()
    }

    /// Whether a binding allows what is asked.
    pub fn authorize(&self, a: &Attributes<'_>) -> Decision {
        for grant in self.grants(a.user).filter(|g| g.covers(a)) {
            if grant.rules.iter().any(|r| r.allows(a)) {
                return Decision::Allow(grant.reason.clone());
            }
        }
        let faults = self.grants(a.user).filter(|g| g.covers(a)).filter_map(|g| g.fault.as_deref());
        Decision::NoOpinion(match show_faults(faults) {
            faults if faults.is_empty() => faults,
            faults => format!("RBAC: {faults}"),
        })
    }

    /// What is wrong with the bindings that `user` has in `namespace`, as one text.
    pub fn faults(&self, user: &UserInfo, namespace: &str) -> String {
        let here = |g: &&Grant| g.namespace.as_deref().is_none_or(|ns| ns == namespace);
        show_faults(self.grants(user).filter(here).filter_map(|g| g.fault.as_deref()))
    }

    /// Everything `user` may do in `namespace` (and everywhere).
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let mut out: Vec<Rule> = Vec::new();
        for grant in self.grants(user) {
            if grant.namespace.as_deref().is_none_or(|ns| ns == namespace) {
                for r in grant.rules.iter() {
                    if !out.contains(r) {
                        out.push(r.clone());
                    }
                }
            }
        }
        out
    }
}

/// Several texts as one, each once.
fn show_faults<'a>(faults: impl Iterator<Item = &'a str>) -> String {
    let mut all: Vec<&str> = Vec::new();
    for fault in faults {
        if !all.contains(&fault) {
            all.push(fault);
        }
    }
    if all.len() > 1 { format!("[{}]", all.join(", ")) } else { all.concat() }
}

/// Rules joined that differ in their verbs alone, in an order of their own: for people.
pub fn compact(rules: &[Rule]) -> Vec<Rule> {
    let mut verbs: BTreeMap<[&[String]; 4], Vec<String>> = BTreeMap::new();
    for rule in rules {
        let rest = [&rule.groups, &rule.resources, &rule.names, &rule.urls].map(Vec::as_slice);
        verbs.entry(rest).or_default().extend(rule.verbs.iter().cloned());
    }
    let joined = verbs.into_iter().map(|(rest, verbs)| {
        let [groups, resources, names, urls] = rest.map(<[String]>::to_vec);
        Rule { verbs, groups, resources, names, urls }
    });
    let mut out: Vec<Rule> = joined.collect();
    out.sort_by_cached_key(Rule::show);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask<'a>(
        user: &'a UserInfo,
        verb: &'a str,
        resource: &'a str,
        sub: &'a str,
        ns: &'a str,
    ) -> Attributes<'a> {
        Attributes::asked(
            user,
            &Ask { verb, resource, subresource: sub, namespace: ns, name: "x", ..Ask::default() },
        )
    }

    #[test]
    fn rules() {
        let role = json!({"metadata": {"name": "r", "namespace": "a"}, "rules": [
            {"apiGroups": [""], "resources": ["pods", "*/scale"], "verbs": ["get", "list"]}]});
        let all = json!({"metadata": {"name": "all"}, "rules": [
            {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["/x/*"], "verbs": ["get"]}]});
        let b = json!({"metadata": {"name": "b", "namespace": "a"}, "roleRef": {"kind": "Role", "name": "r"},
            "subjects": [{"kind": "ServiceAccount", "name": "s"}]});
        let cb = json!({"metadata": {"name": "cb"}, "roleRef": {"kind": "ClusterRole", "name": "all"},
            "subjects": [{"kind": "Group", "name": "g"}]});
        let rbac = Rbac::compile(&RbacObjects {
            roles: vec![&role],
            cluster_roles: vec![&all],
            bindings: vec![&b],
            cluster_bindings: vec![&cb],
        });
        let sa = UserInfo::service_account("a", "s", "");
        let g = UserInfo::new("someone", &["g"]);
        let yes = |a: Attributes<'_>| rbac.authorize(&a).allowed();
        assert!(yes(ask(&sa, "get", "pods", "", "a")));
        assert!(!yes(ask(&sa, "get", "pods", "", "b")));
        assert!(!yes(ask(&sa, "get", "pods", "log", "a")));
        assert!(yes(ask(&sa, "get", "deployments", "scale", "a")));
        assert!(!yes(ask(&sa, "delete", "pods", "", "a")));
        assert!(yes(ask(&g, "delete", "pods", "log", "b")));
        let mut url = ask(&g, "get", "", "", "");
        url.is_resource = false;
        url.path = "/x/y";
        assert!(yes(url));
        url.path = "/y";
        assert!(!yes(url));
        assert_eq!(
            ask(&sa, "get", "pods", "log", "a").refusal(""),
            "User \"system:serviceaccount:a:s\" cannot get resource \"pods/log\" in API group \"\" in the namespace \"a\""
        );
    }

    #[test]
    fn escalation() {
        let rule = |verbs: &[&str], resources: &[&str]| Rule {
            verbs: verbs.iter().map(|s| (*s).into()).collect(),
            groups: vec!["".into()],
            resources: resources.iter().map(|s| (*s).into()).collect(),
            ..Rule::default()
        };
        let held = [rule(&["get", "list"], &["pods", "secrets"])];
        assert!(missing(&held, &[rule(&["get"], &["pods"])]).is_empty());
        assert_eq!(
            missing(&held, &[rule(&["get", "delete"], &["pods"])]),
            vec![rule(&["delete"], &["pods"])]
        );
        assert_eq!(missing(&held, &[rule(&["*"], &["pods"])]).len(), 1);
    }
    #[test]
    fn rules_are_shown_as_upstream_does() {
        let rule = |verb: &str, resource: &str| Rule {
            verbs: vec![verb.into()],
            groups: vec!["".into(), "apps".into()],
            resources: vec![resource.into()],
            ..Rule::default()
        };
        let shown: Vec<String> = compact(&[rule("get", "b"), rule("list", "a"), rule("watch", "b")])
            .iter()
            .map(Rule::show)
            .collect();
        assert_eq!(
            shown,
            [
                r#"{APIGroups:["" "apps"], Resources:["a"], Verbs:["list"]}"#,
                r#"{APIGroups:["" "apps"], Resources:["b"], Verbs:["get" "watch"]}"#,
            ]
        );
        let path = Rule { verbs: vec!["get".into()], urls: vec!["/x".into()], ..Rule::default() };
        assert_eq!(path.show(), r#"{NonResourceURLs:["/x"], Verbs:["get"]}"#);
    }

    #[test]
    fn a_role_that_is_not_there_is_told_to_who_is_refused() {
        let binding = |name: &str, kind: &str, role: &str| {
            json!({"metadata": {"name": name, "namespace": "a"}, "roleRef": {"kind": kind, "name": role},
            "subjects": [{"kind": "User", "name": "ann"}]})
        };
        let bindings =
            [binding("x", "Role", "gone"), binding("y", "ClusterRole", "lost"), binding("z", "Role", "gone")];
        let rbac =
            Rbac::compile(&RbacObjects { bindings: bindings.iter().collect(), ..RbacObjects::default() });
        let ann = UserInfo::new("ann", &[]);
        let both = "[role.rbac.authorization.k8s.io \"gone\" not found, clusterrole.rbac.authorization.k8s.io \"lost\" not found]";
        for (namespace, want) in [("a", both), ("b", "")] {
            let Decision::NoOpinion(why) = rbac.authorize(&ask(&ann, "get", "pods", "", namespace)) else {
                panic!("{namespace}")
            };
            let told = if want.is_empty() { String::new() } else { format!("RBAC: {want}") };
            assert_eq!((why, rbac.faults(&ann, namespace)), (told, want.to_owned()));
        }
    }
}
