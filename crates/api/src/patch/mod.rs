//! The four kinds of patch. All work on decoded objects and return the patched one; none checks it against the schema.

pub mod apply;
mod fields;
mod json_patch;
mod managers;
mod strategic;

pub use json_patch::{apply_operations, json_patch};
pub use managers::{Writer, check_managed};
pub use strategic::strategic_merge;

use serde_json::Value;

/// RFC 7386.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let map = crate::meta::as_map(target);
    for (key, value) in patch.iter().filter(|(_, v)| !v.is_null()) {
        merge_patch(map.entry(key.clone()).or_insert(Value::Null), value);
    }
    // All at once: to take one out moves all that come after it.
    if patch.values().any(Value::is_null) {
        map.retain(|key, _| !patch.get(key).is_some_and(Value::is_null));
    }
}

/// A text that two values share exactly if they are equal: what lists are searched by, since a value has no hash and a
/// comparison with each other one takes minutes where a list is as long as a request may make it.
pub(crate) fn identity(value: &Value) -> String {
    fn write(value: &Value, out: &mut String) {
        match value {
            Value::Object(map) => {
                let mut keys: Vec<(&String, &Value)> = map.iter().collect();
                keys.sort_unstable_by_key(|(k, _)| *k);
                out.push('{');
                for (key, value) in keys {
                    out.push_str(&Value::String(key.clone()).to_string());
                    out.push(':');
                    write(value, out);
                    out.push(',');
                }
                out.push('}');
            }
            Value::Array(list) => {
                out.push('[');
                for value in list {
                    write(value, out);
                    out.push(',');
                }
                out.push(']');
            }
            scalar => out.push_str(&scalar.to_string()),
        }
    }
    let mut out = String::new();
    write(value, &mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn identities_are_shared_by_what_is_equal() {
        let all = [
            json!(null),
            json!(""),
            json!("1"),
            json!(1),
            json!(1.0),
            json!([1]),
            json!([[1]]),
            json!({"a": 1, "b": [2]}),
            json!({"a": "1,\"b\":2"}),
            json!({"a": 1}),
            json!("null"),
            json!(true),
        ];
        for a in &all {
            for b in &all {
                assert_eq!(identity(a) == identity(b), a == b, "{a} {b}");
            }
        }
        assert_eq!(identity(&json!({"a": 1, "b": 2})), identity(&json!({"b": 2, "a": 1})));
    }

    #[test]
    fn a_merge_patch_sets_and_takes_away() {
        let mut target = json!({"a": 1, "b": {"c": 1, "d": 2}, "e": 3});
        merge_patch(&mut target, &json!({"a": null, "b": {"c": null, "x": {"y": null}}, "z": null}));
        assert_eq!(target, json!({"b": {"d": 2, "x": {}}, "e": 3}));
    }
}
