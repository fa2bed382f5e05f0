//! ServiceAccount: every pod runs as one, finds its token, and may be held to the secrets that it mentions.

use std::sync::Arc;
use std::time::Duration;

use api::meta::{items, text};
use api::podrefs::{Referred, references};
use api::{Object, Status, Value};
use async_trait::async_trait;
use serde_json::json;

use super::pods::{creates_pod, push};
use super::{Operation, Plugin, Review};
use crate::cache::local_key;

/// Where containers find their service account's token.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// A namespace's first pods may come before its default service account; how long they wait for its event.
const ACCOUNT_WAIT: Duration = Duration::from_secs(1);

/// ServiceAccount: every pod runs as one, and finds its token.
pub struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, r: &Review<'_>) -> bool {
        creates_pod(r) || adds_container(r)
    }

    async fn mutate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        if is_mirror(r.object) || adds_container(r) {
            return Ok(());
        }
        let spec = api::meta::child(r.object, "spec");
        let named = match spec.get("serviceAccountName").and_then(Value::as_str) {
            Some(n) if !n.is_empty() => n.to_owned(),
            _ => spec.get("serviceAccount").and_then(Value::as_str).unwrap_or("").to_owned(),
        };
        let name = if named.is_empty() { "default".to_owned() } else { named };
        spec.insert("serviceAccountName".into(), json!(name));
        spec.insert("serviceAccount".into(), json!(name));
        let account = account(r, &name).await?;
        let account = account.value();
        let spec = api::meta::child(r.object, "spec");
        let none = spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty);
        if none
            && let Some(secrets) =
                account.get("imagePullSecrets").filter(|s| s.as_array().is_some_and(|a| !a.is_empty()))
        {
            spec.insert("imagePullSecrets".into(), secrets.clone());
        }
        let automount = spec
            .get("automountServiceAccountToken")
            .or_else(|| account.get("automountServiceAccountToken"))
            .and_then(Value::as_bool)
            .unwrap_or(true);
        if automount {
            mount_token(r.object);
        }
        Ok(())
    }

    async fn validate(&self, r: &mut Review<'_>) -> Result<(), Status> {
        let spec = r.object.get("spec").unwrap_or(&Value::Null);
        let name = text(spec, "/serviceAccountName");
        if !adds_container(r) && is_mirror(r.object) {
            return match forbidden_to_mirrors(r.object, name) {
                Some(what) => Err(r.forbidden(format!("a mirror pod may not {what}"))),
                None => Ok(()),
            };
        }
        let account = account(r, name).await?;
        if !enforces_mountable_secrets(account.value()) {
            return Ok(());
        }
        let refused = match adds_container(r) {
            true => unmentioned_of(spec, account.value(), &EPHEMERAL),
            false => unmentioned(spec, account.value()),
        };
        refused.map_or(Ok(()), |why| Err(r.forbidden(why)))
    }
}

fn is_mirror(pod: &Value) -> bool {
    api::meta::annotation(pod, "kubernetes.io/config.mirror").is_some()
}

fn adds_container(r: &Review<'_>) -> bool {
    r.operation == Operation::Update
        && r.subresource == "ephemeralcontainers"
        && r.gvr.group.is_empty()
        && r.gvr.resource == "pods"
}

/// What a mirror pod does that none may: nothing in the cluster stands behind what its node says of it.
fn forbidden_to_mirrors(pod: &Value, account: &str) -> Option<&'static str> {
    if !account.is_empty() {
        return Some("reference service accounts");
    }
    if references(pod).iter().any(|(what, _)| *what == Referred::Secret) {
        return Some("reference secrets");
    }
    let volumes = items(pod.get("spec").unwrap_or(&Value::Null), "/volumes");
    let mut sources = volumes.filter_map(|v| v.get("projected")).flat_map(|p| items(p, "/sources"));
    sources
        .any(|s| s.get("serviceAccountToken").is_some_and(|t| !t.is_null()))
        .then_some("use ServiceAccountToken volume projections")
}

/// Whether pods of a service account may use those secrets alone that it mentions.
fn enforces_mountable_secrets(account: &Value) -> bool {
    // The words that Go reads as true.
    let yes = ["1", "t", "T", "TRUE", "true", "True"];
    api::meta::annotation(account, "kubernetes.io/enforce-mountable-secrets")
        .is_some_and(|v| yes.contains(&v))
}

/// A list of containers in a pod's spec by its pointer, and what messages call one of it.
type Containers = (&'static str, &'static str);

const EPHEMERAL: Containers = ("/ephemeralContainers", "ephemeral container");

/// Why a pod is refused: a secret that it uses and its account does not mention.
fn unmentioned(spec: &Value, account: &Value) -> Option<String> {
    let (known, of) = (mentioned(account, "/secrets"), api::meta::name(account));
    let secret = |v: &Value| v.pointer("/secret/secretName").and_then(Value::as_str).map(str::to_owned);
    if let Some(name) = items(spec, "/volumes").filter_map(secret).find(|n| !known.contains(&n.as_str())) {
        return Some(format!(
            "volume with secret.secretName=\"{name}\" is not allowed because service account {of} does not reference that secret"
        ));
    }
    for containers in [("/initContainers", "init container"), ("/containers", "container")] {
        if let Some(why) = unmentioned_of(spec, account, &containers) {
            return Some(why);
        }
    }
    let known = mentioned(account, "/imagePullSecrets");
    let pulls = items(spec, "/imagePullSecrets").map(|s| text(s, "/name")).enumerate();
    let (i, name) = pulls.into_iter().find(|(_, name)| !known.contains(name))?;
    Some(format!(
        "imagePullSecrets[{i}].name=\"{name}\" is not allowed because service account {of} does not reference that imagePullSecret"
    ))
}

/// As [`unmentioned`], of what the environments of some containers are made of.
fn unmentioned_of(spec: &Value, account: &Value, (pointer, called): &Containers) -> Option<String> {
    let (known, of) = (mentioned(account, "/secrets"), api::meta::name(account));
    let wrong = |secret: &Value| {
        let name = text(secret, "/name").to_owned();
        (!secret.is_null() && !known.contains(&name.as_str())).then_some(name)
    };
    for container in items(spec, pointer) {
        let variables = items(container, "/env").map(|v| {
            (
                format!("envVar {}", text(v, "/name")),
                v.pointer("/valueFrom/secretKeyRef").unwrap_or(&Value::Null),
            )
        });
        let whole = items(container, "/envFrom")
            .map(|v| ("envFrom".to_owned(), v.get("secretRef").unwrap_or(&Value::Null)));
        for (by, secret) in variables.chain(whole) {
            if let Some(name) = wrong(secret) {
                return Some(format!(
                    "{called} {} with {by} referencing secret.secretName=\"{name}\" is not allowed because service account {of} does not reference that secret",
                    text(container, "/name")
                ));
            }
        }
    }
    None
}

/// The names in a list of a service account's references.
fn mentioned<'a>(account: &'a Value, pointer: &str) -> Vec<&'a str> {
    items(account, pointer).map(|s| text(s, "/name")).collect()
}

/// The service account of this name, without which no pod is made.
async fn account(r: &Review<'_>, name: &str) -> Result<Arc<Object>, Status> {
    let ns = r.namespace;
    look_up(r, name).await.ok_or_else(|| {
        r.forbidden(format!(
            "error looking up service account {ns}/{name}: serviceaccount \"{name}\" not found"
        ))
    })
}

/// As the cache has it; waited for if it is the default one of a namespace that has just been made.
async fn look_up(r: &Review<'_>, name: &str) -> Option<Arc<Object>> {
    let kind = r.server.cache.kind("", "serviceaccounts");
    let key = local_key(r.namespace, name);
    if let Some(found) = kind.get(&key) {
        return Some(found);
    }
    let (_, mut watcher) = r.server.cache.list_and_watch(kind.clone(), r.namespace);
    if name != "default" {
        let _ = r.server.cache.caught_up().await;
        return kind.get(&key);
    }
    let appears = async {
        loop {
            if let Some(found) = kind.get(&key) {
                return Some(found);
            }
            watcher.next().await.ok()?;
        }
    };
    tokio::time::timeout(ACCOUNT_WAIT, appears).await.ok().flatten()
}

/// Adds the projected volume with token, CA and namespace, and mounts it in every container that mounts nothing there.
fn mount_token(pod: &mut Value) {
    let spec = api::meta::child(pod, "spec");
    let wants = |c: &Value| {
        !c.get("volumeMounts")
            .and_then(Value::as_array)
            .is_some_and(|m| m.iter().any(|m| text(m, "/mountPath") == TOKEN_PATH))
    };
    let lists = ["initContainers", "containers"];
    let any =
        lists.iter().any(|l| spec.get(*l).and_then(Value::as_array).is_some_and(|a| a.iter().any(wants)));
    if !any {
        return;
    }
    let existing = spec.get("volumes").and_then(Value::as_array).and_then(|v| {
        v.iter().map(|v| text(v, "/name")).find(|n| n.starts_with("kube-api-access-")).map(str::to_owned)
    });
    let name = existing.clone().unwrap_or_else(|| format!("kube-api-access-{}", base::rng::suffix(5)));
    if existing.is_none() {
        let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": crate::sub::OF_PODS, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace",
                "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}});
        push(spec, "volumes", volume);
    }
    for list in lists {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if wants(container) {
                let mount = json!({"name": name, "readOnly": true, "mountPath": TOKEN_PATH});
                push(api::meta::as_map(container), "volumeMounts", mount);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_is_mounted_once_and_not_over_something_else() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"},
            {"name": "b", "volumeMounts": [{"name": "x", "mountPath": TOKEN_PATH}]}]}});
        mount_token(&mut pod);
        let once = pod.clone();
        mount_token(&mut pod);
        assert_eq!(pod, once);
        assert_eq!(pod["spec"]["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], TOKEN_PATH);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().unwrap().len(), 1);
    }
}
