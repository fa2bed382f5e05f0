//! What every cluster has from its first moment: system namespaces, stock roles and bindings, the system priority classes.
//!
//! Runs at each start, writes only what is missing (or, of stock roles that have not been opted out of, what is outdated),
//! all at once, so that an empty store costs a few group commits.

use std::sync::Arc;

use api::{Object, Status, Value};
use futures::stream::{self, TryStreamExt};
use serde_json::json;

use crate::ApiServer;
use crate::authz::policy;
use crate::query::WriteOptions;
use crate::registry::{Context, Modify};
use crate::user::UserInfo;

/// As whom this server speaks to those behind it (aggregated APIs, webhooks).
pub const FRONT_PROXY: &str = "system:kube-apiserver";

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Writes what is missing.
pub async fn run(server: &Arc<ApiServer>) -> Result<(), Status> {
    let namespaces = NAMESPACES
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .to_vec();
    ensure_all(server, namespaces, false).await?;
    // Reads the namespaces just made, which is what the objects inside them are checked against.
    server.cache.caught_up().await.map_err(crate::registry::store_failure)?;
    let (roles, bindings) = policy::stock();
    ensure_all(server, roles, true).await?;
    let mut rest = bindings;
    // How servers behind this one know whom to trust.
    let ca = server.options.pki.ca_pem();
    rest.push(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": ca, "requestheader-client-ca-file": ca,
            "requestheader-allowed-names": json!([FRONT_PROXY]).to_string(),
            "requestheader-username-headers": "[\"X-Remote-User\"]",
            "requestheader-group-headers": "[\"X-Remote-Group\"]",
            "requestheader-extra-headers-prefix": "[\"X-Remote-Extra-\"]"}}));
    // Since when it is noted which tokens out of secrets are used.
    let since = crate::authn::day(base::clock::now());
    rest.push(json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"since": since}, "metadata":
        {"name": "kube-apiserver-legacy-service-account-token-tracking", "namespace": "kube-system"}}));
    rest.extend(priority_classes());
    rest.extend(kube_system_roles());
    ensure_all(server, rest, false).await?;
    crate::masters::start(server).await
}

fn priority_classes() -> Vec<Value> {
    [
        ("system-cluster-critical", 2_000_000_000i64, "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
        ("system-node-critical", 2_000_001_000, "Used for system critical pods that must not be moved from their current node."),
    ]
    .map(|(name, value, description)| {
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description})
    })
    .to_vec()
}

/// The roles that stock components need inside kube-system and kube-public.
fn kube_system_roles() -> Vec<Value> {
    let meta = |ns: &str, name: &str| {
        json!({"name": name, "namespace": ns, "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}})
    };
    let role = |ns: &str, name: &str, rules: Value| json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": meta(ns, name), "rules": rules});
    let bind = |ns: &str, name: &str, role: &str, subjects: Value| {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": meta(ns, name),
            "subjects": subjects,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": role}})
    };
    let user = |name: &str| json!({"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": name});
    let account = |name: &str| json!({"kind": "ServiceAccount", "namespace": "kube-system", "name": name});
    let authentication = "extension-apiserver-authentication-reader";
    let mut all = vec![
        role(
            "kube-system",
            authentication,
            json!([{"apiGroups": [""], "resources": ["configmaps"],
                "resourceNames": ["extension-apiserver-authentication"], "verbs": ["get", "list", "watch"]}]),
        ),
        bind(
            "kube-system",
            "system::extension-apiserver-authentication-reader",
            authentication,
            json!([user("system:kube-controller-manager"), user("system:kube-scheduler")]),
        ),
        role(
            "kube-system",
            "system:controller:token-cleaner",
            json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["delete", "get", "list", "watch"]},
                {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]}]),
        ),
        bind(
            "kube-system",
            "system:controller:token-cleaner",
            "system:controller:token-cleaner",
            json!([account("token-cleaner")]),
        ),
        role(
            "kube-public",
            "system:controller:bootstrap-signer",
            json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]},
                {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["cluster-info"], "verbs": ["update"]},
                {"apiGroups": ["", "events.k8s.io"], "resources": ["events"], "verbs": ["create", "patch", "update"]}]),
        ),
        bind(
            "kube-public",
            "system:controller:bootstrap-signer",
            "system:controller:bootstrap-signer",
            json!([account("bootstrap-signer")]),
        ),
    ];
    for (name, component) in [
        ("system::leader-locking-kube-controller-manager", "kube-controller-manager"),
        ("system::leader-locking-kube-scheduler", "kube-scheduler"),
    ] {
        all.push(role(
            "kube-system",
            name,
            json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["watch"]},
                {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": [component], "verbs": ["get", "update"]}]),
        ));
        all.push(bind(
            "kube-system",
            name,
            name,
            json!([user(&format!("system:{component}")), account(component)]),
        ));
    }
    all
}

pub(crate) fn context(server: &ApiServer, object: &Value) -> Result<Context, Status> {
    let text = |f: &str| object.get(f).and_then(Value::as_str).unwrap_or("");
    let gvk = api::Gvk::parse(text("apiVersion"), text("kind"));
    let kinds = server.kinds.load();
    let kind = kinds.all.iter().find(|k| k.gvk() == gvk).cloned();
    let kind = kind.ok_or_else(|| Status::internal(format!("no kind {gvk}")))?;
    let user = Arc::new(UserInfo::master("system:apiserver"));
    Ok(Context::internal(user, kind, api::meta::namespace(object), api::meta::name(object)))
}

/// Creates what is not there; with `update`, brings what is there and differs in `rules` up to date.
async fn ensure_all(server: &Arc<ApiServer>, objects: Vec<Value>, update: bool) -> Result<(), Status> {
    stream::iter(objects.into_iter().map(Ok::<_, Status>))
        .try_for_each_concurrent(64, |object| async move { ensure(server, object, update).await })
        .await
}

/// Creates an object that is not there; see [`ensure_all`].
pub async fn ensure(server: &Arc<ApiServer>, object: Value, update: bool) -> Result<(), Status> {
    let mut cx = context(server, &object)?;
    let options = WriteOptions::default();
    let name = cx.info.name.clone();
    let existing = server.cache.kind(&cx.kind.group, &cx.kind.plural).get(&cx.key());
    let Some(existing) = existing else {
        return match server.create(&mut cx, object, &options).await {
            // Another server of the same store was faster.
            Err(s) if s.reason == "AlreadyExists" => Ok(()),
            answer => answer.map(|_| ()),
        };
    };
    let opted_out =
        existing.annotation("rbac.authorization.kubernetes.io/autoupdate").is_some_and(|v| v != "true");
    // An aggregated role's rules are the aggregation controller's.
    let aggregated = object.get("aggregationRule").is_some();
    if !update || opted_out || aggregated || existing.value()["rules"] == object["rules"] {
        return Ok(());
    }
    let rules = object.get("rules").cloned().unwrap_or(Value::Null);
    let mut change = |old: &Arc<Object>| {
        let mut new = old.value().clone();
        new["rules"] = rules.clone();
        Ok(new)
    };
    let modify = Modify { name: &name, subresource: "", options: &options, applied: false, checked: true };
    server.modify(&mut cx, &modify, &mut change).await.map(|_| ())
}
