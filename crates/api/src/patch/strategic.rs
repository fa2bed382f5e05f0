//! Strategic merge patch: a merge patch whose lists merge by the keys that the schema names, with the directives `$patch`,
//! `$setElementOrder/LIST`, `$retainKeys` and `$deleteFromPrimitiveList/LIST`.

use serde_json::Value;

use crate::schema::Schema;
use crate::{Map, Status};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

/// Applies a strategic merge patch by the merge keys of `schema`.
pub fn strategic_merge(target: &Value, patch: &Value, schema: Schema<'_>) -> Result<Value, Status> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err(Status::bad_request("a strategic merge patch must be an object"));
    };
    merge_map(target.clone(), patch, schema)
        .map(|merged| Value::Object(merged.unwrap_or_default()))
        .map_err(Status::bad_request)
}

type Merged<T> = Result<T, String>;

/// `None`: the patch says that the object goes.
fn merge_map(mut original: Map, patch: &Map, schema: Schema<'_>) -> Merged<Option<Map>> {
    match patch.get(PATCH) {
        None => {}
        Some(Value::String(directive)) => match directive.as_str() {
            "replace" => {
                let mut replacement = patch.clone();
                replacement.shift_remove(PATCH);
                return Ok(Some(replacement));
            }
            "delete" => return Ok(None),
            "merge" => {}
            other => return Err(format!("Unknown patch type found: {other}")),
        },
        Some(other) => return Err(format!("Unknown patch type found: {other}")),
    }
    if let Some(keep) = patch.get(RETAIN_KEYS) {
        let keep = keep.as_array().ok_or("$retainKeys must be a list")?;
        original.retain(|k, _| keep.iter().any(|v| v.as_str() == Some(k)));
    }
    for (key, values) in patch {
        if let Some(field) = key.strip_prefix(DELETE_PRIMITIVES) {
            let gone = values.as_array().ok_or_else(|| format!("{key} must be a list"))?;
            if let Some(Value::Array(list)) = original.get_mut(field) {
                list.retain(|v| !gone.contains(v));
            }
        }
    }
    for (key, value) in patch {
        if key.starts_with('$') && (key == PATCH || key == RETAIN_KEYS || key.contains('/')) {
            continue;
        }
        let inner = schema.field(key).unwrap_or(Schema::Any);
        match merge_value(original.get(key), value, inner)? {
            Some(v) => {
                original.insert(key.clone(), v);
            }
            None => {
                original.shift_remove(key);
            }
        }
    }
    for (key, order) in patch {
        let Some(field) = key.strip_prefix(ORDER) else { continue };
        let order = order.as_array().ok_or_else(|| format!("{key} must be a list"))?;
        let merge_key = schema.field(field).and_then(merge_key_of);
        if let Some(Value::Array(list)) = original.get_mut(field) {
            let server: Vec<Value> = list.clone();
            *list = reorder(std::mem::take(list), order, &server, merge_key);
        }
    }
    Ok(Some(original))
}

fn merge_key_of(schema: Schema<'_>) -> Option<&'static str> {
    schema.table_field().and_then(|f| f.merge_key)
}

/// `None`: the field goes.
fn merge_value(original: Option<&Value>, patch: &Value, schema: Schema<'_>) -> Merged<Option<Value>> {
    match (original, patch) {
        (_, Value::Null) => Ok(None),
        (Some(Value::Object(o)), Value::Object(p)) => {
            Ok(Some(Value::Object(merge_map(o.clone(), p, schema)?.unwrap_or_default())))
        }
        // What is new is the patch without directives and nulls: the patch merged into nothing.
        (_, Value::Object(p)) => {
            Ok(Some(Value::Object(merge_map(Map::new(), p, schema)?.unwrap_or_default())))
        }
        (original, Value::Array(p)) => {
            let merges = schema.table_field().is_some_and(|f| f.patch_merge);
            let empty = Vec::new();
            let o = match original {
                Some(Value::Array(o)) if merges => o,
                _ => &empty,
            };
            if merges {
                Ok(Some(Value::Array(merge_list(o, p, schema)?)))
            } else {
                Ok(Some(clean_list(p, schema)?))
            }
        }
        (_, other) => Ok(Some(other.clone())),
    }
}

fn clean_list(patch: &[Value], schema: Schema<'_>) -> Merged<Value> {
    let mut out = Vec::with_capacity(patch.len());
    for item in patch {
        match item {
            Value::Object(p) => {
                if let Some(map) = merge_map(Map::new(), p, schema.items())?
                    && !(map.is_empty() && p.contains_key(PATCH))
                {
                    out.push(Value::Object(map));
                }
            }
            other => out.push(other.clone()),
        }
    }
    Ok(Value::Array(out))
}

fn merge_list(original: &[Value], patch: &[Value], schema: Schema<'_>) -> Merged<Vec<Value>> {
    if !patch.iter().chain(original).any(Value::is_object) {
        let mut both: Vec<Value> = Vec::new();
        for v in original.iter().chain(patch) {
            if !both.contains(v) {
                both.push(v.clone());
            }
        }
        return Ok(reorder(both, patch, original, None));
    }
    let key = merge_key_of(schema).ok_or("cannot merge lists without merge key")?;
    let key_of = |item: &Value| -> Merged<Value> {
        item.get(key)
            .cloned()
            .ok_or_else(|| format!("map: {item} does not contain declared merge key: {key}"))
    };
    let mut merged: Vec<Value> = original.to_vec();
    let mut plain: Vec<&Value> = Vec::new();
    let mut replace = false;
    for item in patch {
        match item.get(PATCH).and_then(Value::as_str) {
            Some("delete") => {
                let gone = key_of(item)?;
                merged.retain(|o| o.get(key) != Some(&gone));
            }
            Some("replace") => replace = true,
            Some("merge") | None => plain.push(item),
            Some(other) => return Err(format!("Unknown patch type found: {other}")),
        }
    }
    if replace {
        merged.clear();
        for item in patch {
            // An item that is nothing but the directive only says that the list is replaced.
            let Some(map) = item.as_object() else { continue };
            let mut map = map.clone();
            let directive = map.shift_remove(PATCH);
            if directive.as_ref().and_then(Value::as_str) != Some("delete")
                && !(directive.is_some() && map.is_empty())
            {
                merged.push(Value::Object(map));
            }
        }
        return Ok(merged);
    }
    let items = schema.items();
    let mut patched: Vec<Value> = Vec::new();
    for item in plain {
        let Value::Object(p) = item else {
            return Err(format!("list of objects cannot be merged with {item}"));
        };
        let id = key_of(item)?;
        let at = merged.iter().position(|o| o.get(key) == Some(&id));
        let old = match at.and_then(|i| merged.get(i)) {
            Some(Value::Object(o)) => o.clone(),
            _ => Map::new(),
        };
        let new = Value::Object(merge_map(old, p, items)?.unwrap_or_default());
        match at.and_then(|i| merged.get_mut(i)) {
            Some(slot) => *slot = new,
            None => merged.push(new),
        }
        patched.push(item.clone());
    }
    Ok(reorder(merged, &patched, original, Some(key)))
}

/// The order in which a merged list ends up: items that `order` names follow that order, the others keep the server's, and of two
/// neighbours from both sides the one that the server had first goes first; what the server does not know goes to the front.
fn reorder(merged: Vec<Value>, order: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let same = |a: &Value, b: &Value| match key {
        // An item of `$setElementOrder` is an object with the key.
        Some(k) => a.get(k) == b.get(k),
        None => a == b,
    };
    let place = |list: &[Value], v: &Value| list.iter().position(|o| same(o, v));
    let (mut ours, mut theirs): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|v| place(order, v).is_some());
    ours.sort_by_key(|v| place(order, v).unwrap_or(usize::MAX));
    theirs.sort_by_key(|v| place(server, v).unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(ours.len() + theirs.len());
    let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
    while let (Some(o), Some(t)) = (ours.peek(), theirs.peek()) {
        let server_first = match (place(server, t), place(server, o)) {
            (Some(t), Some(o)) => t < o,
            _ => false,
        };
        out.extend(if server_first { theirs.next() } else { ours.next() });
    }
    out.extend(ours);
    out.extend(theirs);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::TypeId;
    use serde_json::json;

    fn pod_spec() -> Schema<'static> {
        TypeId::named("io.k8s.api.core.v1.PodSpec").unwrap().schema()
    }

    #[test]
    fn lists_merge_by_key() {
        let old = json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}], "tolerations": [{"key": "x"}]});
        for (patch, want) in [
            (
                json!({"containers": [{"name": "a", "image": "2"}]}),
                json!({"containers": [{"name": "a", "image": "2", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}], "tolerations": [{"key": "x"}]}),
            ),
            (
                json!({"containers": [{"name": "c"}], "tolerations": []}),
                json!({"containers": [{"name": "c"}, {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}, {"name": "b"}], "tolerations": []}),
            ),
            (
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}], "containers": [{"name": "b", "image": "9"}]}),
                json!({"containers": [{"name": "b", "image": "9"}, {"name": "a", "image": "1", "env": [{"name": "X", "value": "1"}]}], "tolerations": [{"key": "x"}]}),
            ),
            (
                json!({"containers": [{"name": "a", "$patch": "delete"}]}),
                json!({"containers": [{"name": "b"}], "tolerations": [{"key": "x"}]}),
            ),
            (
                json!({"containers": [{"name": "z"}, {"$patch": "replace"}], "tolerations": null}),
                json!({"containers": [{"name": "z"}]}),
            ),
            (
                json!({"containers": [{"name": "a", "env": [{"name": "X", "$patch": "delete"}, {"name": "Y", "value": null}]}]}),
                json!({"containers": [{"name": "a", "image": "1", "env": [{"name": "Y"}]}, {"name": "b"}], "tolerations": [{"key": "x"}]}),
            ),
        ] {
            assert_eq!(strategic_merge(&old, &patch, pod_spec()).unwrap(), want, "{patch}");
        }
        assert!(strategic_merge(&old, &json!({"containers": [{"image": "x"}]}), pod_spec()).is_err());
        assert!(strategic_merge(&old, &json!({"$patch": "eat"}), pod_spec()).is_err());
    }

    #[test]
    fn retain_keys_and_primitive_lists() {
        let deployment = TypeId::named("io.k8s.api.apps.v1.DeploymentSpec").unwrap().schema();
        let old = json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
        let patch = json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}});
        assert_eq!(
            strategic_merge(&old, &patch, deployment).unwrap(),
            json!({"strategy": {"type": "Recreate"}})
        );
        let meta = TypeId::named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap().schema();
        let old = json!({"finalizers": ["a", "b"]});
        let patch = json!({"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["c", "b"], "finalizers": ["c"]});
        assert_eq!(strategic_merge(&old, &patch, meta).unwrap(), json!({"finalizers": ["c", "b"]}));
        let patch = json!({"labels": {"a": null, "b": "1"}});
        assert_eq!(
            strategic_merge(&json!({"labels": {"a": "0"}}), &patch, meta).unwrap(),
            json!({"labels": {"b": "1"}})
        );
    }

    proptest::proptest! {
        #[test]
        fn a_patch_of_scalars_is_a_merge_patch(a in "[a-c]{1,2}", b in "[a-c]{1,2}") {
            let old = json!({"nodeSelector": {"k": a}, "hostname": "h"});
            let patch = json!({"nodeSelector": {"k": b, "l": null}, "hostname": null});
            let mut merged = old.clone();
            super::super::merge_patch(&mut merged, &patch);
            proptest::prop_assert_eq!(strategic_merge(&old, &patch, pod_spec()).unwrap(), merged);
        }
    }
}
