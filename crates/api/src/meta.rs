//! Metadata of decoded objects: reading and writing the fields that every kind has.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Map;

static NULL: Value = Value::Null;

/// `metadata`, or null.
pub fn of(obj: &Value) -> &Value {
    obj.get("metadata").unwrap_or(&NULL)
}

/// `metadata`, made if there is none. A value that is no object becomes one.
pub fn of_mut(obj: &mut Value) -> &mut Map {
    child(obj, "metadata")
}

/// The object at `key` of `obj`, made if there is none or something else is there.
pub fn child<'a>(obj: &'a mut Value, key: &str) -> &'a mut Map {
    entry(as_map(obj), key)
}

/// As [`child`], of a map.
pub fn entry<'a>(map: &'a mut Map, key: &str) -> &'a mut Map {
    as_map(map.entry(key).or_insert(Value::Null))
}

/// `value` as an object; whatever else it was is replaced by an empty one.
pub fn as_map(value: &mut Value) -> &mut Map {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was just made an object"),
    }
}

fn own<'a>(obj: &'a Value, key: &str) -> &'a str {
    of(obj).get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The string at an RFC 6901 pointer; empty if there is none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The items of the list at an RFC 6901 pointer; none if there is none.
pub fn items<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

/// `metadata.name` or `""`.
pub fn name(obj: &Value) -> &str {
    own(obj, "name")
}

/// `metadata.generateName` or `""`.
pub fn generate_name(obj: &Value) -> &str {
    own(obj, "generateName")
}

/// `metadata.namespace` or `""`.
pub fn namespace(obj: &Value) -> &str {
    own(obj, "namespace")
}

/// `metadata.uid` or `""`.
pub fn uid(obj: &Value) -> &str {
    own(obj, "uid")
}

/// `metadata.resourceVersion` or `""`.
pub fn resource_version(obj: &Value) -> &str {
    own(obj, "resourceVersion")
}

/// `metadata.generation` or 0.
pub fn generation(obj: &Value) -> i64 {
    of(obj).get("generation").and_then(Value::as_i64).unwrap_or(0)
}

/// `metadata.creationTimestamp`.
pub fn created(obj: &Value) -> Option<jiff::Timestamp> {
    own(obj, "creationTimestamp").parse().ok()
}

/// `metadata.deletionTimestamp`.
pub fn deleted(obj: &Value) -> Option<jiff::Timestamp> {
    own(obj, "deletionTimestamp").parse().ok()
}

/// Is `metadata.deletionTimestamp` set?
pub fn is_deleting(obj: &Value) -> bool {
    of(obj).get("deletionTimestamp").is_some_and(|v| !v.is_null())
}

/// `metadata.labels`, if it is an object.
pub fn labels(obj: &Value) -> Option<&Map> {
    of(obj).get("labels")?.as_object()
}

/// `metadata.annotations`, if it is an object.
pub fn annotations(obj: &Value) -> Option<&Map> {
    of(obj).get("annotations")?.as_object()
}

/// One annotation.
pub fn annotation<'a>(obj: &'a Value, key: &str) -> Option<&'a str> {
    annotations(obj)?.get(key)?.as_str()
}

/// Sets one annotation.
pub fn set_annotation(obj: &mut Value, key: &str, value: impl Into<String>) {
    entry(of_mut(obj), "annotations").insert(key.to_owned(), Value::String(value.into()));
}

/// Sets one label.
pub fn set_label(obj: &mut Value, key: &str, value: impl Into<String>) {
    entry(of_mut(obj), "labels").insert(key.to_owned(), Value::String(value.into()));
}

/// `metadata.finalizers`.
pub fn finalizers(obj: &Value) -> impl Iterator<Item = &str> {
    of(obj).get("finalizers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

/// Adds a finalizer unless it is there; says whether it changed something.
pub fn add_finalizer(obj: &mut Value, finalizer: &str) -> bool {
    if finalizers(obj).any(|f| f == finalizer) {
        return false;
    }
    let list = of_mut(obj).entry("finalizers").or_insert_with(|| Value::Array(Vec::new()));
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    if let Some(list) = list.as_array_mut() {
        list.push(Value::String(finalizer.to_owned()));
    }
    true
}

/// Takes a finalizer away; says whether it changed something.
pub fn remove_finalizer(obj: &mut Value, finalizer: &str) -> bool {
    let metadata = of_mut(obj);
    let Some(list) = metadata.get_mut("finalizers").and_then(Value::as_array_mut) else { return false };
    let before = list.len();
    list.retain(|f| f.as_str() != Some(finalizer));
    let (after, changed) = (list.len(), list.len() != before);
    if after == 0 {
        metadata.shift_remove("finalizers");
    }
    changed
}

/// `metadata.ownerReferences[]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// API version of the owner.
    #[serde(default)]
    pub api_version: String,
    /// Kind of the owner.
    #[serde(default)]
    pub kind: String,
    /// Name of the owner, in the same namespace or cluster-scoped.
    #[serde(default)]
    pub name: String,
    /// UID of the owner.
    #[serde(default)]
    pub uid: String,
    /// Is this the managing controller? At most one is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Does it keep the owner from being removed under foreground deletion?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

impl OwnerReference {
    /// The reference that a controller writes on what it makes for `owner`.
    pub fn controller_of(owner: &crate::Object) -> OwnerReference {
        OwnerReference {
            api_version: owner.api_version().to_owned(),
            kind: owner.kind().to_owned(),
            name: owner.name().to_owned(),
            uid: owner.uid().to_owned(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

/// `metadata.ownerReferences`.
pub fn owner_references(obj: &Value) -> Vec<OwnerReference> {
    let list = of(obj).get("ownerReferences").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(|v| OwnerReference::deserialize(v).ok()).collect()
}

/// The owner reference with `controller: true`.
pub fn controller_of(obj: &Value) -> Option<OwnerReference> {
    owner_references(obj).into_iter().find(|o| o.controller == Some(true))
}

/// What ties an object to others, read without decoding the rest of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ties {
    /// `metadata.ownerReferences`.
    pub owners: Vec<OwnerReference>,
    /// `metadata.finalizers`.
    pub finalizers: Vec<String>,
}

impl Ties {
    /// Those of an object. What cannot be read as such is left out.
    pub fn of(object: &crate::Object) -> Ties {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct Metadata {
            owner_references: Option<Value>,
            finalizers: Option<Value>,
        }
        #[derive(Deserialize, Default)]
        #[serde(default)]
        struct View {
            metadata: Metadata,
        }
        fn all<T: serde::de::DeserializeOwned>(list: Option<Value>) -> Vec<T> {
            let Some(Value::Array(list)) = list else { return Vec::new() };
            list.into_iter().filter_map(|v| T::deserialize(v).ok()).collect()
        }
        let metadata = object.to::<View>().unwrap_or_default().metadata;
        Ties { owners: all(metadata.owner_references), finalizers: all(metadata.finalizers) }
    }

    /// The owner that is the controller.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owners.iter().find(|o| o.controller == Some(true))
    }

    /// Whether it has a finalizer.
    pub fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }
}

/// A timestamp as the API writes it: whole seconds, UTC, `2006-01-02T15:04:05Z`.
pub fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Leaves each owner reference once. Gives the uids of those that were there again.
pub fn dedup_owners(object: &mut Value) -> Vec<String> {
    let Some(owners) = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut) else {
        return Vec::new();
    };
    if owners.len() < 2 {
        return Vec::new();
    }
    let mut seen = std::collections::HashSet::new();
    let mut again = Vec::new();
    owners.retain(|owner| {
        let new = seen.insert(owner.to_string());
        if !new {
            again.push(text(owner, "/uid").to_owned());
        }
        new
    });
    again
}

/// A MicroTime as the API writes it: `2006-01-02T15:04:05.000000Z`.
pub fn micro_time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Sets a condition in a list of conditions: `lastTransitionTime` changes only with the status. Gives whether anything did.
pub fn set_condition(
    conditions: &mut Vec<Value>,
    kind: &str,
    status: &str,
    reason: &str,
    message: &str,
    now: &str,
) -> bool {
    let mut new = serde_json::json!({"type": kind, "status": status, "lastTransitionTime": now, "reason": reason, "message": message});
    match conditions.iter_mut().find(|c| c["type"] == kind) {
        Some(c) => {
            if c["status"] == new["status"] {
                if c["reason"] == new["reason"] && c["message"] == new["message"] {
                    return false;
                }
                new["lastTransitionTime"] = c["lastTransitionTime"].clone();
            }
            *c = new;
        }
        None => conditions.push(new),
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ties_are_the_same_from_both_forms() {
        let owner = json!({"apiVersion": "v1", "kind": "X", "name": "x", "uid": "u", "controller": true});
        for (metadata, owners, finalizers) in [
            (json!({"ownerReferences": [owner, 7], "finalizers": ["a", null]}), 1, 1),
            (json!({"ownerReferences": null, "finalizers": {}}), 0, 0),
            (Value::Null, 0, 0),
        ] {
            let value = json!({"spec": {"x": [1]}, "metadata": metadata});
            let decoded = crate::Object::from_value(value.clone());
            let ties = Ties::of(&decoded);
            assert_eq!((ties.owners.len(), ties.finalizers.len()), (owners, finalizers), "{value}");
            assert_eq!(ties.controller().map(|o| o.uid.as_str()), (owners > 0).then_some("u"));
            assert_eq!(ties.owners, owner_references(&value));
            if !metadata.is_null() {
                let encoded = crate::Object::from_json(crate::object::encode(&value).into()).unwrap();
                assert_eq!(Ties::of(&encoded), ties);
            }
        }
    }

    #[test]
    fn finalizers_are_added_once_and_removed() {
        let mut obj = json!({});
        assert!(add_finalizer(&mut obj, "a"));
        assert!(!add_finalizer(&mut obj, "a"));
        assert_eq!(obj, json!({"metadata": {"finalizers": ["a"]}}));
        assert!(remove_finalizer(&mut obj, "a"));
        assert!(!remove_finalizer(&mut obj, "a"));
        assert_eq!(obj, json!({"metadata": {}}));
    }

    #[test]
    fn times_are_in_the_api_s_form() {
        let at: jiff::Timestamp = "2024-02-29T01:02:03.123456789Z".parse().unwrap();
        assert_eq!(time(at), "2024-02-29T01:02:03Z");
        assert_eq!(micro_time(at), "2024-02-29T01:02:03.123456Z");
    }

    #[test]
    fn conditions() {
        let mut c = Vec::new();
        assert!(set_condition(&mut c, "Ready", "True", "R", "m", "t1"));
        assert!(!set_condition(&mut c, "Ready", "True", "R", "m", "t2"));
        assert!(set_condition(&mut c, "Ready", "True", "R2", "m", "t2"));
        assert_eq!(c[0]["lastTransitionTime"], "t1");
        assert!(set_condition(&mut c, "Ready", "False", "R2", "m", "t2"));
        assert_eq!(c[0]["lastTransitionTime"], "t2");
    }
}
