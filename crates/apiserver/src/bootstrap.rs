//! What every cluster has from its first moment: system namespaces, stock roles and bindings, the system priority classes.
//!
//! Runs at each start, writes only what is missing (of stock roles and bindings that have not been opted out of, also what
//! they lack), all at once, so that an empty store costs a few group commits.

use std::sync::Arc;

use api::{Object, Status, Value};
use futures::stream::{self, TryStreamExt};
use serde_json::json;

use crate::ApiServer;
use crate::authz::policy;
use crate::authz::reconcile::{Reconciled, reconcile};
use crate::query::WriteOptions;
use crate::registry::{Context, DeleteOptions, Modify};
use crate::user::UserInfo;

/// As whom this server speaks to those behind it (aggregated APIs, webhooks).
pub const FRONT_PROXY: &str = "system:kube-apiserver";

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Writes what is missing.
pub async fn run(server: &Arc<ApiServer>) -> Result<(), Status> {
    let namespaces = NAMESPACES
        .map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}))
        .to_vec();
    ensure_all(server, namespaces).await?;
    // Reads the namespaces just made, which is what the objects inside them are checked against.
    server.cache.caught_up().await.map_err(crate::registry::store_failure)?;
    let (roles, bindings) = policy::stock();
    ensure_all(server, roles).await?;
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
    ensure_all(server, rest).await?;
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

pub(crate) fn context(server: &ApiServer, object: &Value) -> Result<Context, Status> {
    let text = |f: &str| object.get(f).and_then(Value::as_str).unwrap_or("");
    let gvk = api::Gvk::parse(text("apiVersion"), text("kind"));
    let kinds = server.kinds.load();
    let kind = kinds.all.iter().find(|k| k.gvk() == gvk).cloned();
    let kind = kind.ok_or_else(|| Status::internal(format!("no kind {gvk}")))?;
    let user = Arc::new(UserInfo::master("system:apiserver"));
    Ok(Context::internal(user, kind, api::meta::namespace(object), api::meta::name(object)))
}

/// Creates what is not there, and brings what stock roles and bindings lack.
async fn ensure_all(server: &Arc<ApiServer>, objects: Vec<Value>) -> Result<(), Status> {
    stream::iter(objects.into_iter().map(Ok::<_, Status>))
        .try_for_each_concurrent(64, |object| async move { ensure(server, object).await })
        .await
}

/// Creates an object that is not there; see [`ensure_all`].
pub async fn ensure(server: &Arc<ApiServer>, object: Value) -> Result<(), Status> {
    let mut cx = context(server, &object)?;
    let existing = server.cache.kind(&cx.kind.group, &cx.kind.plural).get(&cx.key());
    let Some(existing) = existing else { return create(server, &mut cx, object).await };
    if cx.kind.group != "rbac.authorization.k8s.io" {
        return Ok(());
    }
    let name = cx.info.name.clone();
    match reconcile(existing.value(), &object) {
        Reconciled::Same => Ok(()),
        Reconciled::Changed(_) => {
            let mut change = |old: &Arc<Object>| match reconcile(old.value(), &object) {
                Reconciled::Changed(new) => Ok(new),
                _ => Ok(old.value().clone()),
            };
            let options = WriteOptions::default();
            let modify =
                Modify { name: &name, subresource: "", options: &options, applied: false, checked: true };
            server.modify(&mut cx, &modify, &mut change).await.map(|_| ())
        }
        Reconciled::Replaced => {
            let options = DeleteOptions { uid: Some(existing.uid().to_owned()), ..DeleteOptions::default() };
            match server.delete(&mut cx, &name, &options).await {
                Err(s) if s.code != 404 => return Err(s),
                _ => {}
            }
            create(server, &mut cx, object).await
        }
    }
}

async fn create(server: &Arc<ApiServer>, cx: &mut Context, object: Value) -> Result<(), Status> {
    match server.create(cx, object, &WriteOptions::default()).await {
        // Another server of the same store was faster.
        Err(s) if s.reason == "AlreadyExists" => Ok(()),
        answer => answer.map(|_| ()),
    }
}
