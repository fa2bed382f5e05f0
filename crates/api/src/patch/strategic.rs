//! Strategic merge patch: a merge patch whose lists merge by the keys that the schema names, with the directives `$patch`,
//! `$setElementOrder/LIST`, `$retainKeys` and `$deleteFromPrimitiveList/LIST`.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::identity;
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
        let keep: HashSet<&str> = keep.iter().filter_map(Value::as_str).collect();
        original.retain(|k, _| keep.contains(k.as_str()));
    }
    for (key, values) in patch {
        if let Some(field) = key.strip_prefix(DELETE_PRIMITIVES) {
            let gone = values.as_array().ok_or_else(|| format!("{key} must be a list"))?;
            if let Some(Value::Array(list)) = original.get_mut(field) {
                let gone: HashSet<String> = gone.iter().map(identity).collect();
                list.retain(|v| !gone.contains(&identity(v)));
            }
        }
    }
    for (key, order) in patch {
        let Some(field) = key.strip_prefix(ORDER) else { continue };
        let order = order.as_array().ok_or_else(|| format!("{key} must be a list"))?;
        if let Some(list) = patch.get(field).filter(|l| !l.is_null()) {
            let list = list.as_array().ok_or_else(|| format!("{field} must be a list, as {key} is"))?;
            let merge_key = schema.field(field).and_then(merge_key_of);
            if let Some(astray) = astray(list, order, merge_key) {
                return Err(format!(
                    "The order in patch list doesn't match {key} list: {astray} is out of it"
                ));
            }
        }
    }
    let mut gone: HashSet<&str> = HashSet::new();
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
                gone.insert(key);
            }
        }
    }
    // All at once: to take one out moves all that come after it.
    if !gone.is_empty() {
        original.retain(|k, _| !gone.contains(k.as_str()));
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

/// The first of what a patch has for a list that `$setElementOrder` does not name, or not in that order.
fn astray(list: &[Value], order: &[Value], key: Option<&str>) -> Option<String> {
    let named = |v: &Value| key.map_or(Some(v), |k| v.get(k)).map(ToString::to_string);
    let id = |v: &Value| key.map_or(Some(v), |k| v.get(k)).map(identity);
    let mut order = order.iter().map(id).fuse();
    let mut staying = list.iter().filter(|v| v.get(PATCH).is_none_or(|directive| directive != "delete"));
    let astray = (order.len() > 0).then(|| staying.find(|item| !order.any(|o| o == id(item)))).flatten()?;
    Some(named(astray).unwrap_or_default())
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
            let merges = schema.table_field().is_some_and(|f| f.patch.has("merge"));
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
        let mut known: HashSet<String> = HashSet::new();
        let both = original.iter().chain(patch).filter(|v| known.insert(identity(v))).cloned().collect();
        return Ok(reorder(both, patch, original, None));
    }
    let key = merge_key_of(schema).ok_or("cannot merge lists without merge key")?;
    let key_of = |item: &Value| -> Merged<Value> {
        item.get(key)
            .cloned()
            .ok_or_else(|| format!("map: {item} does not contain declared merge key: {key}"))
    };
    let mut plain: Vec<&Value> = Vec::new();
    let mut gone: HashSet<String> = HashSet::new();
    let mut replace = false;
    for item in patch {
        match item.get(PATCH).and_then(Value::as_str) {
            Some("delete") => {
                gone.insert(identity(&key_of(item)?));
            }
            Some("replace") => replace = true,
            Some("merge") | None => plain.push(item),
            Some(other) => return Err(format!("Unknown patch type found: {other}")),
        }
    }
    if replace {
        let mut merged = Vec::new();
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
    let id_of = |item: &Value| item.get(key).map(identity);
    let mut merged: Vec<Value> = original
        .iter()
        .filter(|o| gone.is_empty() || !id_of(o).is_some_and(|id| gone.contains(&id)))
        .cloned()
        .collect();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (i, item) in merged.iter().enumerate() {
        if let Some(id) = id_of(item) {
            places.entry(id).or_insert(i);
        }
    }
    let mut patched: Vec<Value> = Vec::new();
    for item in plain {
        let Value::Object(p) = item else {
            return Err(format!("list of objects cannot be merged with {item}"));
        };
        let id = identity(&key_of(item)?);
        let at = places.get(&id).copied();
        let old = match at.and_then(|i| merged.get(i)) {
            Some(Value::Object(o)) => o.clone(),
            _ => Map::new(),
        };
        let new = Value::Object(merge_map(old, p, items)?.unwrap_or_default());
        match at.and_then(|i| merged.get_mut(i)) {
            Some(slot) => *slot = new,
            None => {
                // By the key that it ended up with, which a patch can take away again.
                if let Some(id) = id_of(&new) {
                    places.entry(id).or_insert(merged.len());
                }
                merged.push(new);
            }
        }
        patched.push(item.clone());
    }
    Ok(reorder(merged, &patched, original, Some(key)))
}

/// The order in which a merged list ends up: items that `order` names follow that order, the others keep the server's, and of two
/// neighbours from both sides the one that the server had first goes first; what the server does not know goes to the front.
fn reorder(merged: Vec<Value>, order: &[Value], server: &[Value], key: Option<&str>) -> Vec<Value> {
    let id = |v: &Value| match key {
        // An item of `$setElementOrder` is an object with the key.
        Some(k) => v.get(k).map(identity),
        None => Some(identity(v)),
    };
    let places = |list: &[Value]| {
        let mut places: HashMap<Option<String>, usize> = HashMap::new();
        for (i, v) in list.iter().enumerate() {
            places.entry(id(v)).or_insert(i);
        }
        places
    };
    let (in_order, in_server) = (places(order), places(server));
    // Each with its place in the order, and in the server's list.
    let placed = merged.into_iter().map(|v| {
        let id = id(&v);
        (in_order.get(&id).copied(), in_server.get(&id).copied(), v)
    });
    let (mut ours, mut theirs): (Vec<_>, Vec<_>) = placed.partition(|(order, ..)| order.is_some());
    ours.sort_by_key(|(order, ..)| order.unwrap_or(usize::MAX));
    theirs.sort_by_key(|(_, server, _)| server.unwrap_or(usize::MAX));
    let mut out = Vec::with_capacity(ours.len() + theirs.len());
    let (mut ours, mut theirs) = (ours.into_iter().peekable(), theirs.into_iter().peekable());
    while let (Some((_, o, _)), Some((_, t, _))) = (ours.peek(), theirs.peek()) {
        let server_first = match (t, o) {
            (Some(t), Some(o)) => t < o,
            _ => false,
        };
        out.extend(if server_first { theirs.next() } else { ours.next() });
    }
    out.extend(ours);
    out.extend(theirs);
    out.into_iter().map(|(.., v)| v).collect()
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

    /// Lists as long as a request can make them: a comparison of each item with each other one would not end here.
    #[test]
    fn long_lists_take_as_long_as_they_are() {
        let meta = TypeId::named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").unwrap().schema();
        let names = |from: usize| (from..from + 200_000).map(|i| format!("f{i}")).collect::<Vec<_>>();
        let old = json!({"finalizers": names(0), "labels": names(0).into_iter().map(|n| (n, json!(""))).collect::<Map>()});
        let gone: Map = names(0).into_iter().map(|n| (n, Value::Null)).collect();
        let patch = json!({"finalizers": names(100_000), "labels": gone,
            "$deleteFromPrimitiveList/finalizers": names(0)[..50_000]});
        let new = strategic_merge(&old, &patch, meta).unwrap();
        assert_eq!(new["finalizers"].as_array().unwrap().len(), 250_000);
        assert_eq!(new["labels"], json!({}));
        let containers = |from: usize, more: Value| -> Vec<Value> {
            let with = |i: usize| {
                let mut one = more.clone();
                one["name"] = json!(format!("c{i}"));
                one
            };
            (from..from + 50_000).map(with).collect()
        };
        let old = json!({"containers": containers(0, json!({"image": "a"}))});
        let mut patch = containers(25_000, json!({"tty": true}));
        patch.extend(containers(0, json!({"$patch": "delete"})).into_iter().take(10_000));
        let order = containers(25_000, json!({}));
        let patch = json!({"containers": patch, "$setElementOrder/containers": order});
        let new = strategic_merge(&old, &patch, pod_spec()).unwrap();
        assert_eq!(new["containers"].as_array().unwrap().len(), 65_000);
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

    #[test]
    fn what_is_patched_follows_the_order_that_it_names() {
        let schema = TypeId::of_gvk("", "v1", "Pod").unwrap().schema().field("spec").unwrap();
        let server = json!({"containers": [{"name": "a"}, {"name": "b"}, {"name": "c"}]});
        let patched = |order: Value, list: Value| {
            let patch = json!({"$setElementOrder/containers": order, "containers": list});
            strategic_merge(&server, &patch, schema)
        };
        let names = |names: &[&str]| names.iter().map(|n| json!({"name": n})).collect::<Vec<_>>();
        for (order, list) in [
            (json!(names(&["c", "a", "b"])), json!(names(&["c", "b"]))),
            (
                json!(names(&["a", "b"])),
                json!([{"name": "c", "$patch": "delete"}, {"name": "a", "image": "x"}]),
            ),
            (json!([]), json!(names(&["b", "a"]))),
        ] {
            assert!(patched(order.clone(), list.clone()).is_ok(), "{order} {list}");
        }
        for (order, list) in [
            (json!(names(&["a", "b"])), json!(names(&["b", "a"]))),
            (json!(names(&["a", "b"])), json!(names(&["c"]))),
            (json!(names(&["a", "b"])), json!({"name": "a"})),
            (json!("a"), json!(names(&["a"]))),
        ] {
            assert_eq!(patched(order.clone(), list.clone()).unwrap_err().code, 400, "{order} {list}");
        }
    }
}
