//! RFC 6902, with the leniency of the library that upstream uses: removing what is not there is an error, `add` to a missing
//! parent is an error, `test` of an absent value against null holds.

use serde_json::Value;

use crate::Status;
use crate::codec::json::{MAX_DEPTH, nests_within};

/// More operations than this are refused, as upstream does.
const MAX_OPERATIONS: usize = 10_000;
/// How many bytes all copies of one patch may add up to: the size of the largest request, as upstream has it.
const MAX_COPIED: usize = 3 << 20;
/// How many items of lists and maps may have to make room or close a gap, and how many bytes be moved to somewhere deeper, in
/// one patch: ten thousand operations at the front of a list of a million items take half a minute.
const MAX_SHIFTED: usize = 1 << 27;

/// What the operations of one patch have taken so far.
#[derive(Default)]
struct Spent {
    copied: usize,
    shifted: usize,
}

impl Spent {
    fn shift(&mut self, by: usize) -> Result<(), String> {
        self.shifted = self.shifted.saturating_add(by);
        match self.shifted <= MAX_SHIFTED {
            true => Ok(()),
            false => Err("the operations move too much of the document to and fro".to_owned()),
        }
    }
}

/// Applies a JSON patch (an array of operations).
pub fn json_patch(target: &Value, patch: &Value) -> Result<Value, Status> {
    let Some(operations) = patch.as_array() else {
        return Err(Status::bad_request(
            "error decoding patch: json: cannot unmarshal object into Go value of type jsonpatch.Patch",
        ));
    };
    if operations.len() > MAX_OPERATIONS {
        return Err(Status::too_large(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    // Which of them fails, and why, is not told, as upstream has it.
    apply_operations(target, operations).map_err(|_| {
        let why = "the server rejected our request due to an error in our request";
        Status::failure(422, "Invalid", why)
    })
}

/// Applies the operations of a JSON patch one after the other, or says what is wrong with one.
pub fn apply_operations(target: &Value, operations: &[Value]) -> Result<Value, String> {
    let mut doc = target.clone();
    let mut spent = Spent::default();
    for operation in operations {
        apply(&mut doc, operation, &mut spent)?;
    }
    Ok(doc)
}

fn apply(doc: &mut Value, operation: &Value, spent: &mut Spent) -> Result<(), String> {
    let op = operation["op"].as_str().unwrap_or_default();
    let text = operation["path"].as_str().ok_or("operation without path")?;
    let path = pointer(text)?;
    let value = || operation.get("value").unwrap_or(&Value::Null);
    let from = || -> Result<Vec<String>, String> {
        pointer(operation["from"].as_str().ok_or("operation without from")?)
    };
    // Each operation may put a deep value below the one before: what results is kept as shallow as what can be read.
    let fits = |value: &Value| match nests_within(value, MAX_DEPTH.saturating_sub(path.len())) {
        true => Ok(()),
        false => Err(format!("{op} operation does not apply: \"{text}\" would be nested too deeply")),
    };
    match op {
        "add" => {
            fits(value())?;
            add(doc, &path, value().clone(), spent)
        }
        "remove" => remove(doc, &path, spent)?.map(|_| ()).ok_or_else(|| missing("remove", text)),
        "replace" => {
            fits(value())?;
            let at = find(doc, &path).ok_or_else(|| missing("replace", text))?;
            *at = value().clone();
            Ok(())
        }
        "move" => {
            let from = from()?;
            if path.starts_with(&from) && path.len() > from.len() {
                return Err("move operation into its own child".to_owned());
            }
            let found = find(doc, &from).ok_or_else(|| missing("move", text))?;
            // What does not get deeper still fits.
            if path.len() > from.len() {
                spent.shift(crate::object::encoded_len(found))?;
                fits(found)?;
            }
            let moved = remove(doc, &from, spent)?.ok_or_else(|| missing("move", text))?;
            add(doc, &path, moved, spent)
        }
        "copy" => {
            let found = find(doc, &from()?).ok_or_else(|| missing("copy", text))?;
            fits(found)?;
            spent.copied += crate::object::encoded_len(found);
            let copied = spent.copied;
            if copied > MAX_COPIED {
                return Err(format!(
                    "Unable to copy, the accumulated size increase of copy is {copied}, exceeding the limit {MAX_COPIED}"
                ));
            }
            let copy = found.clone();
            add(doc, &path, copy, spent)
        }
        "test" => {
            let is = find(doc, &path).map_or(&Value::Null, |v| v);
            if is == value() { Ok(()) } else { Err(format!("testing value {text} failed")) }
        }
        other => Err(format!("Unexpected kind: {other}")),
    }
}

fn missing(op: &str, path: &str) -> String {
    format!("{op} operation does not apply: doc is missing path: \"{path}\": missing value")
}

fn pointer(text: &str) -> Result<Vec<String>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let rest = text.strip_prefix('/').ok_or_else(|| format!("path \"{text}\" does not start with '/'"))?;
    if rest.matches('/').count() > MAX_DEPTH {
        return Err(format!("a path has more than {MAX_DEPTH} parts"));
    }
    Ok(rest.split('/').map(|p| p.replace("~1", "/").replace("~0", "~")).collect())
}

/// Index into a list of `len` items; negative ones count from the end.
fn index(key: &str, len: usize) -> Option<usize> {
    match key.parse::<isize>().ok()? {
        back @ ..0 => len.checked_sub(back.unsigned_abs()),
        at => Some(at.unsigned_abs()),
    }
}

fn find<'a>(doc: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(doc, |value, key| match value {
        Value::Object(map) => map.get_mut(key),
        Value::Array(list) => index(key, list.len()).and_then(|i| list.get_mut(i)),
        _ => None,
    })
}

fn add(doc: &mut Value, path: &[String], value: Value, spent: &mut Spent) -> Result<(), String> {
    let Some((last, parents)) = path.split_last() else {
        *doc = value;
        return Ok(());
    };
    let text = || format!("/{}", path.join("/"));
    match find(doc, parents).ok_or_else(|| missing("add", &text()))? {
        Value::Object(map) => {
            map.insert(last.clone(), value);
            Ok(())
        }
        Value::Array(list) if last == "-" => {
            list.push(value);
            Ok(())
        }
        Value::Array(list) => match index(last, list.len() + 1).filter(|i| *i <= list.len()) {
            Some(i) => {
                spent.shift(list.len() - i)?;
                list.insert(i, value);
                Ok(())
            }
            None => Err(format!(
                "add operation does not apply: doc is missing path: \"{}\": invalid index",
                text()
            )),
        },
        _ => Err(missing("add", &text())),
    }
}

fn remove(doc: &mut Value, path: &[String], spent: &mut Spent) -> Result<Option<Value>, String> {
    let Some((last, parents)) = path.split_last() else { return Ok(None) };
    Ok(match find(doc, parents) {
        Some(Value::Object(map)) if map.contains_key(last) => {
            spent.shift(map.len())?;
            map.shift_remove(last)
        }
        Some(Value::Array(list)) => match index(last, list.len()).filter(|i| *i < list.len()) {
            Some(i) => {
                spent.shift(list.len() - i)?;
                Some(list.remove(i))
            }
            None => None,
        },
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn patches_do_not_grow_without_bounds() {
        let doubling: Vec<Value> =
            (0..60).map(|i| json!({"op": "copy", "from": "", "path": format!("/{i}")})).collect();
        let why = apply_operations(&json!({"a": "x".repeat(100)}), &doubling).unwrap_err();
        assert!(why.contains("Unable to copy, the accumulated size increase of copy is"), "{why}");
        let nested = (0..100).fold(json!({}), |v, _| json!({"a": v}));
        let inner = "/a".repeat(100);
        let deeper = json!([{"op": "add", "path": "/a", "value": nested}, {"op": "add", "path": format!("{inner}/a"), "value": nested}]);
        let why = apply_operations(&json!({}), deeper.as_array().unwrap()).unwrap_err();
        assert!(why.contains("would be nested too deeply"), "{why}");
        let long = json!([{"op": "test", "path": "/a".repeat(100_000), "value": 1}]);
        let refused = json_patch(&json!({}), &long).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (422, "the server rejected our request due to an error in our request")
        );
    }

    #[test]
    fn nor_do_they_move_everything_for_ever() {
        let doc = json!({"a": vec![1; 100_000], "b": {"c": {}}});
        let (to, fro) =
            (json!({"op": "add", "path": "/a/0", "value": 1}), json!({"op": "remove", "path": "/a/0"}));
        let (down, up) = (
            json!({"op": "move", "from": "/a", "path": "/b/c/a"}),
            json!({"op": "move", "from": "/b/c/a", "path": "/a"}),
        );
        for (one, other) in [(to, fro), (down, up)] {
            let patch = |times: usize| Value::from(vec![[one.clone(), other.clone()]; times].concat());
            assert_eq!(json_patch(&doc, &patch(50)).unwrap(), doc);
            let why = apply_operations(&doc, patch(1000).as_array().unwrap()).unwrap_err();
            assert!(why.contains("move too much of the document"), "{why}");
        }
    }

    #[test]
    fn operations() {
        for (doc, patch, want) in [
            (
                json!({"a": 1}),
                json!([{"op": "add", "path": "/b", "value": 2}]),
                Some(json!({"a": 1, "b": 2})),
            ),
            (
                json!({"a": [1, 3]}),
                json!([{"op": "add", "path": "/a/1", "value": 2}, {"op": "add", "path": "/a/-", "value": 4}]),
                Some(json!({"a": [1, 2, 3, 4]})),
            ),
            // Where it is put in, one more than there are counts from the end.
            (
                json!({"a": [1, 2]}),
                json!([{"op": "add", "path": "/a/-1", "value": 3}, {"op": "add", "path": "/a/-4", "value": 0},
                    {"op": "remove", "path": "/a/-3"}, {"op": "replace", "path": "/a/00", "value": 9}]),
                Some(json!({"a": [9, 2, 3]})),
            ),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/-3", "value": 1}]), None),
            (json!({"a": {"b/c": 1}}), json!([{"op": "remove", "path": "/a/b~1c"}]), Some(json!({"a": {}}))),
            (
                json!({"a": 1}),
                json!([{"op": "replace", "path": "/a", "value": {"x": []}}]),
                Some(json!({"a": {"x": []}})),
            ),
            (json!({"a": 1}), json!([{"op": "move", "from": "/a", "path": "/b"}]), Some(json!({"b": 1}))),
            (
                json!({"a": [1]}),
                json!([{"op": "copy", "from": "/a/0", "path": "/a/0"}]),
                Some(json!({"a": [1, 1]})),
            ),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), Some(json!({"a": 1}))),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 2}]), None),
            (json!({}), json!([{"op": "remove", "path": "/a"}]), None),
            (json!({}), json!([{"op": "replace", "path": "/a", "value": 1}]), None),
            (json!({}), json!([{"op": "add", "path": "/a/b", "value": 1}]), None),
            (json!({"a": []}), json!([{"op": "add", "path": "/a/1", "value": 1}]), None),
            (json!({"a": {}}), json!([{"op": "move", "from": "/a", "path": "/a/b"}]), None),
            (json!({}), json!([{"op": "x", "path": "/a"}]), None),
            (json!({}), json!({}), None),
            (json!({}), json!([{"op": "add", "path": "", "value": {"z": 1}}]), Some(json!({"z": 1}))),
        ] {
            assert_eq!(json_patch(&doc, &patch).ok(), want, "{patch}");
        }
    }
}
