//! Reading objects: the few fields that several controllers look at, by their meaning.

use std::time::Duration;

use api::schema::TypeId;
use api::{Gvk, Object, Value, meta};
use jiff::Timestamp;
use serde_json::json;

/// The number at a path, or `default`.
pub(crate) fn int(object: &Object, path: &[&str], default: i64) -> i64 {
    object.at(path).as_i64().unwrap_or(default)
}

/// The text at a path, or `""`.
pub(crate) fn text<'a>(object: &'a Object, path: &[&str]) -> &'a str {
    object.at(path).as_str().unwrap_or_default()
}

/// The list at a path, or none.
pub(crate) fn list<'a>(object: &'a Object, path: &[&str]) -> &'a [Value] {
    object.at(path).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A time in an object.
pub(crate) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// When the object was made; the epoch if it does not say.
pub(crate) fn created(object: &Object) -> Timestamp {
    meta::created(object.value()).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A pod's phase.
pub(crate) fn phase(pod: &Object) -> &str {
    text(pod, &["status", "phase"])
}

/// Whether a pod has ended, well or badly.
pub(crate) fn is_terminal(pod: &Object) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether a pod counts: it has not ended and is not about to.
pub(crate) fn is_active(pod: &Object) -> bool {
    !is_terminal(pod) && !pod.is_deleting()
}

/// A condition of an object's status.
pub(crate) fn condition<'a>(object: &'a Object, kind: &str) -> Option<&'a Value> {
    list(object, &["status", "conditions"]).iter().find(|c| c["type"] == kind)
}

/// Whether a condition of an object's status is `True`.
pub(crate) fn is_true(object: &Object, kind: &str) -> bool {
    condition(object, kind).is_some_and(|c| c["status"] == "True")
}

/// Whether a pod is ready.
pub(crate) fn is_ready(pod: &Object) -> bool {
    is_true(pod, "Ready")
}

/// How long until a pod has been ready for `min_ready` seconds: zero if it has, `None` if it is not ready.
pub(crate) fn until_available(pod: &Object, min_ready: i64, now: Timestamp) -> Option<Duration> {
    let ready = condition(pod, "Ready").filter(|c| c["status"] == "True")?;
    if min_ready <= 0 {
        return Some(Duration::ZERO);
    }
    let since = time(&ready["lastTransitionTime"]).unwrap_or(now);
    let need = Duration::from_secs(min_ready.unsigned_abs());
    Some(need.saturating_sub(base::clock::between(since, now)))
}

/// A number that is given as such or in percent of `total`, rounded up or down; `default` if it is neither.
pub(crate) fn scaled(value: &Value, total: i64, up: bool, default: i64) -> i64 {
    match value {
        Value::Number(n) => n.as_i64().unwrap_or(default),
        Value::String(s) => match s.strip_suffix('%').and_then(|p| p.parse::<i64>().ok()) {
            Some(p) if up => (total * p + 99).div_euclid(100),
            Some(p) => (total * p).div_euclid(100),
            None => s.parse().unwrap_or(default),
        },
        _ => default,
    }
}

/// The 32-bit FNV-1a hash in the letters that names may have, as upstream writes its hashes.
pub(crate) fn hash(parts: &[&[u8]]) -> String {
    let mut h: u32 = 0x811c_9dc5;
    for byte in parts.iter().flat_map(|p| p.iter()) {
        h = (h ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    }
    safe(&h.to_string())
}

fn safe(text: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    text.bytes().map(|b| LETTERS[usize::from(b) % LETTERS.len()] as char).collect()
}

/// A value without what says nothing (nulls), its keys in order: equal for what means the same, whoever wrote it.
pub(crate) fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<(&String, &Value)> = map.iter().filter(|(_, v)| !v.is_null()).collect();
            fields.sort_by_key(|(k, _)| *k);
            Value::Object(fields.into_iter().map(|(k, v)| (k.clone(), canonical(v))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        other => other.clone(),
    }
}

/// Does `status` say anything that the object's own does not, or the other way round? Zero values that the server would leave
/// out say nothing.
pub(crate) fn status_differs(object: &Object, status: &Value) -> bool {
    let gvk = Gvk::parse(object.api_version(), object.kind());
    let schema = api::kinds::by_gvk(&gvk).and_then(|kind| kind.schema().field("status"));
    let plain = |status: &Value| {
        let mut status = canonical(status);
        if let Some(schema) = schema {
            api::codec::prune(&mut status, schema);
        }
        status
    };
    plain(status) != plain(object.status())
}

/// A pod template as templates are compared: canonical, and without the zero values that the server leaves out today and that
/// were kept of objects from before.
pub(crate) fn plain_template(template: &Value) -> Value {
    let mut plain = canonical(template);
    if let Some(schema) = TypeId::named("io.k8s.api.core.v1.PodTemplateSpec") {
        api::codec::prune(&mut plain, schema.schema());
    }
    plain
}

/// A pod from a template: what `owner` (already as a reference) makes. The name is generated from `prefix`.
pub(crate) fn pod_from_template(
    template: &Value,
    namespace: &str,
    prefix: &str,
    owner: &meta::OwnerReference,
) -> Value {
    let copied = |f: &str| template["metadata"][f].clone();
    let mut metadata = json!({"generateName": prefix, "namespace": namespace, "ownerReferences": [owner]});
    for field in ["labels", "annotations", "finalizers"] {
        if !copied(field).is_null() {
            metadata[field] = copied(field);
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]})
}

/// The prefix of the names of what `name` makes: a name that would be too long is left without its dash, as upstream has it.
pub(crate) fn prefix(name: &str) -> String {
    let prefix = format!("{name}-");
    if prefix.len() > 253 { name.to_owned() } else { prefix }
}

/// The metadata of a patch that is refused if the object is another by now, or has changed: for lists that can only be
/// written whole.
pub(crate) fn unchanged(object: &Object) -> Value {
    json!({"uid": object.uid(), "resourceVersion": meta::resource_version(object.value())})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_percents() {
        assert_eq!(scaled(&json!("25%"), 3, true, 0), 1);
        assert_eq!(scaled(&json!("25%"), 3, false, 0), 0);
        assert_eq!(scaled(&json!("100%"), 3, true, 0), 3);
        assert_eq!(scaled(&json!(2), 3, true, 0), 2);
        assert_eq!(scaled(&Value::Null, 3, true, 7), 7);
    }

    #[test]
    fn hashes_are_names() {
        assert_eq!(safe("0123456789"), "456789bcdf");
        let h = hash(&[b"some template"]);
        assert!((8..=10).contains(&h.len()) && h.chars().all(|c| "456789bcdf".contains(c)), "{h}");
        assert_eq!(hash(&[b""]), safe("2166136261"));
    }

    #[test]
    fn canonical_forms() {
        let a = json!({"b": 1, "a": {"x": null, "y": [{"q": null}]}});
        let b = json!({"a": {"y": [{}]}, "b": 1});
        assert_eq!(canonical(&a).to_string(), canonical(&b).to_string());
    }

    #[test]
    fn a_status_differs_by_what_it_says() {
        let set = |status: Value| {
            Object::from_value(json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "status": status}))
        };
        let said = json!({"replicas": 0, "readyReplicas": 0, "conditions": []});
        assert!(!status_differs(&set(json!({"replicas": 0})), &said));
        assert!(status_differs(&set(json!({"replicas": 0, "readyReplicas": 1})), &said));
        // A pointer of Go: nothing known is not the same as none.
        assert!(status_differs(
            &set(json!({"replicas": 0})),
            &json!({"replicas": 0, "terminatingReplicas": 0})
        ));
    }
}
