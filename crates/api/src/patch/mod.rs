//! The four kinds of patch. All work on decoded objects and return the patched one; none checks it against the schema.

pub mod apply;
mod fields;
mod json_patch;
mod strategic;

pub use json_patch::json_patch;
pub use strategic::strategic_merge;

use serde_json::Value;

/// RFC 7386.
pub fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let map = crate::meta::as_map(target);
    for (key, value) in patch {
        if value.is_null() {
            map.shift_remove(key);
        } else {
            merge_patch(map.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
