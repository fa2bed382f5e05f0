//! The files of volumes that come from objects: ConfigMap, Secret, downward API, projected.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::atomic::{File, Payload};
use crate::context::Context;
use crate::env::{self, Sources};
use crate::view::{Container, FilesFrom, Item, Pod, ProjectedSource, TokenSource, Volume};

const DEFAULT_MODE: u32 = 0o644;

/// The plugin's folder and the files of a volume; none if it is of another kind.
pub async fn of(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    renew: &mut Option<Instant>,
) -> Result<Option<(&'static str, Payload)>, String> {
    let sources = context.sources(&pod.namespace);
    let mut payload = Payload::new();
    let kind = if let Some(from) = &volume.config_map {
        put(&mut payload, "configmap", sources.config_map(&from.name), from, None)?;
        "kubernetes.io~configmap"
    } else if let Some(from) = &volume.secret {
        put(&mut payload, "secret", sources.secret(&from.name), from, None)?;
        "kubernetes.io~secret"
    } else if let Some(from) = &volume.downward_api {
        downward(&mut payload, context, pod, from, None)?;
        "kubernetes.io~downward-api"
    } else if let Some(projected) = &volume.projected {
        for source in &projected.sources {
            let mode = projected.default_mode;
            // A pod without what it trusts in must not start.
            if let Some(unknown) = unknown(source) {
                return Err(format!("this node cannot project a {unknown}"));
            }
            if let Some(from) = &source.config_map {
                put(&mut payload, "configmap", sources.config_map(&from.name), from, mode)?;
            }
            if let Some(from) = &source.secret {
                put(&mut payload, "secret", sources.secret(&from.name), from, mode)?;
            }
            if let Some(from) = &source.downward_api {
                downward(&mut payload, context, pod, from, mode)?;
            }
            if let Some(token) = &source.service_account_token {
                let (text, expires) = context.tokens.get(context, pod, token).await?;
                *renew = Some(renew.map_or(expires, |r| r.min(expires)));
                // A token is for whoever the containers run as: the pod's user, else root alone.
                let mode = if pod.spec.security_context.fs_group.is_some() {
                    0o640
                } else {
                    mode.unwrap_or(DEFAULT_MODE)
                };
                payload.insert(token.path.clone(), File { data: text.into_bytes(), mode });
            }
        }
        "kubernetes.io~projected"
    } else {
        return Ok(None);
    };
    Ok(Some((kind, payload)))
}

/// A source that this node does not have.
fn unknown(source: &ProjectedSource) -> Option<&str> {
    source.others.iter().find(|(_, from)| !from.is_null()).map(|(field, _)| field.as_str())
}

fn put(
    payload: &mut Payload,
    kind: &str,
    data: Option<BTreeMap<String, Vec<u8>>>,
    from: &FilesFrom,
    mode: Option<u32>,
) -> Result<(), String> {
    let data = match data {
        Some(data) => data,
        None if from.optional => return Ok(()),
        None => return Err(format!("{kind} \"{}\" not found", from.name)),
    };
    let mode = from.default_mode.or(mode).unwrap_or(DEFAULT_MODE);
    let Some(items) = &from.items else {
        payload.extend(data.into_iter().map(|(key, data)| (key, File { data, mode })));
        return Ok(());
    };
    for Item { key, path, mode: own, .. } in items {
        match data.get(key) {
            Some(data) => {
                payload.insert(path.clone(), File { data: data.clone(), mode: own.unwrap_or(mode) });
            }
            None if from.optional => {}
            None => return Err(format!("{kind} references non-existent {kind} key: {key}")),
        }
    }
    Ok(())
}

fn downward(
    payload: &mut Payload,
    context: &Context,
    pod: &Pod,
    from: &FilesFrom,
    mode: Option<u32>,
) -> Result<(), String> {
    let facts = context.facts(&[]);
    let nothing = Container::default();
    for item in from.items.iter().flatten() {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => env::field_value(pod, field, &facts)?,
            (_, Some(field)) => env::resource_value(pod, &nothing, field, &facts)?,
            _ => continue,
        };
        let mode = item.mode.or(from.default_mode).or(mode).unwrap_or(DEFAULT_MODE);
        payload.insert(item.path.clone(), File { data: text.into_bytes(), mode });
    }
    Ok(())
}

/// The service account tokens of this node's pods. A token is asked for once and again in the last fifth of its life.
#[derive(Default)]
pub struct Tokens {
    known: parking_lot::Mutex<BTreeMap<Key, (String, Instant)>>,
}

/// Pod UID, audience, lifetime.
type Key = (String, String, i64);

impl Tokens {
    /// A token and when to renew it.
    async fn get(
        &self,
        context: &Context,
        pod: &Pod,
        source: &TokenSource,
    ) -> Result<(String, Instant), String> {
        let seconds = source.expiration_seconds.unwrap_or(3600);
        let key = (pod.uid.clone(), source.audience.clone(), seconds);
        if let Some((token, renew)) = self.known.lock().get(&key)
            && *renew > Instant::now()
        {
            return Ok((token.clone(), *renew));
        }
        let audiences = if source.audience.is_empty() { json!([]) } else { json!([source.audience]) };
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
            "spec": {
                "audiences": audiences,
                "expirationSeconds": seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name, "uid": pod.uid},
            },
        });
        let account = match pod.spec.service_account_name.as_str() {
            "" => "default",
            name => name,
        };
        let answer = context
            .client
            .create_sub(&client::gvr::SERVICE_ACCOUNTS, &pod.namespace, account, "token", &request)
            .await
            .map_err(|e| format!("failed to fetch token: {e}"))?;
        let status = answer.status();
        let token = status["token"].as_str().ok_or("failed to fetch token: the answer has none")?.to_owned();
        let expires = status["expirationTimestamp"].as_str().and_then(|t| t.parse::<jiff::Timestamp>().ok());
        let lifetime = match expires {
            Some(end) => base::clock::between(base::clock::now(), end),
            None => Duration::from_secs(seconds.max(60) as u64),
        };
        let renew = super::renewal(lifetime);
        self.known.lock().insert(key, (token.clone(), renew));
        Ok((token, renew))
    }

    /// Forgets the tokens of a pod.
    pub fn forget(&self, uid: &str) {
        self.known.lock().retain(|(owner, ..), _| owner != uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data() -> Option<BTreeMap<String, Vec<u8>>> {
        Some([("a".to_string(), b"1".to_vec()), ("b".to_string(), b"2".to_vec())].into())
    }

    #[test]
    fn sources_that_there_are_not_are_noticed() {
        for (source, field) in [
            (json!({"clusterTrustBundle": {"name": "b", "path": "p"}}), Some("clusterTrustBundle")),
            (json!({"secret": {"name": "s"}, "podCertificate": null}), None),
        ] {
            let source: ProjectedSource = serde_json::from_value(source).unwrap();
            assert_eq!(unknown(&source), field);
        }
    }

    #[test]
    fn keys_become_files() {
        let mut payload = Payload::new();
        put(&mut payload, "configmap", data(), &FilesFrom::default(), Some(0o600)).unwrap();
        assert_eq!(payload.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(payload["a"], File { data: b"1".to_vec(), mode: 0o600 });
        let item = |key: &str| Item {
            key: key.into(),
            path: format!("x/{key}"),
            mode: Some(0o400),
            ..Item::default()
        };
        let from = FilesFrom { items: Some(vec![item("b")]), ..FilesFrom::default() };
        let mut payload = Payload::new();
        put(&mut payload, "configmap", data(), &from, None).unwrap();
        assert_eq!(payload["x/b"].mode, 0o400);
        let from = FilesFrom { name: "n".into(), items: Some(vec![item("c")]), ..FilesFrom::default() };
        assert!(put(&mut payload, "secret", data(), &from, None).unwrap_err().contains("key: c"));
        assert_eq!(put(&mut payload, "secret", None, &from, None).unwrap_err(), "secret \"n\" not found");
        put(&mut payload, "secret", None, &FilesFrom { optional: true, ..from }, None).unwrap();
    }
}
