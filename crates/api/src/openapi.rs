//! OpenAPI documents of the served kinds, from the tables.

use std::sync::Arc;

use serde_json::Value;

use crate::Kind;

/// Where descriptions come from. They are not in the tables.
pub trait Docs {
    /// Description of a type, by its name in the table.
    fn of_type(&self, type_name: &str) -> Option<String>;
    /// Description of a field.
    fn of_field(&self, type_name: &str, field: &str) -> Option<String>;
}

/// No descriptions.
pub struct NoDocs;

impl Docs for NoDocs {
    fn of_type(&self, _: &str) -> Option<String> {
        None
    }
    fn of_field(&self, _: &str, _: &str) -> Option<String> {
        None
    }
}

/// `/openapi/v2` as JSON.
pub fn v2(kinds: &[Arc<Kind>], docs: &dyn Docs) -> Value {
    let _ = (kinds, docs);
    Value::Null
}

/// The protobuf form of a document made by [`v2`] (`application/com.github.proto-openapi.spec.v2.v1.0+protobuf`).
pub fn v2_protobuf(document: &Value) -> Vec<u8> {
    let _ = document;
    Vec::new()
}

/// `/openapi/v3`: the index. `hash` is the query part that makes a document cacheable; it is given the group-version path.
pub fn v3_index(kinds: &[Arc<Kind>], hash: &dyn Fn(&str) -> String) -> Value {
    let _ = (kinds, hash);
    Value::Null
}

/// `/openapi/v3/api/v1`, `/openapi/v3/apis/GROUP/VERSION`; `None` if nothing is served there.
pub fn v3(kinds: &[Arc<Kind>], group: &str, version: &str, docs: &dyn Docs) -> Option<Value> {
    let _ = (kinds, group, version, docs);
    None
}
