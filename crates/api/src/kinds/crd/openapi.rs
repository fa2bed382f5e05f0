//! Schemas as OpenAPI documents show them.

use serde_json::{Value, json};

/// The OpenAPI form of a version's schema. Version 2 has fewer words: what it cannot say is left out, so that its readers
/// refuse nothing that the server takes.
pub fn openapi(mut schema: Value, v3: bool) -> Value {
    match v3 {
        true => unfold(&mut schema),
        false => simplify(&mut schema),
    }
    if schema.get("type").is_none() && schema.get("x-kubernetes-preserve-unknown-fields").is_none() {
        crate::meta::as_map(&mut schema).insert("type".into(), json!("object"));
    }
    schema
}

/// Spells out what either an integer or a string is, where the schema does not.
fn unfold(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    let restricted = ["anyOf", "allOf"].iter().any(|field| map.contains_key(*field));
    if map.get("x-kubernetes-int-or-string").is_some_and(|v| v == true) && !restricted {
        map.insert("anyOf".to_owned(), json!([{"type": "integer"}, {"type": "string"}]));
    }
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(unfold);
    }
    for field in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(field) {
            unfold(inner);
        }
    }
}

/// Takes out of a schema what OpenAPI 2 does not have.
fn simplify(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for field in ["oneOf", "anyOf", "allOf", "not", "default", "example", "x-kubernetes-validations"] {
        map.shift_remove(field);
    }
    let nullable = map.shift_remove("nullable").is_some_and(|v| v == true);
    let is = |map: &crate::Map, what: &str| map.get(what).is_some_and(|v| v == true);
    let int_or_string = is(map, "x-kubernetes-int-or-string");
    let preserves = is(map, "x-kubernetes-preserve-unknown-fields");
    if nullable || int_or_string {
        map.shift_remove("type");
    }
    // Its readers would refuse fields that are not named, and know neither lists without items nor open objects.
    if nullable || int_or_string || preserves {
        map.shift_remove("properties");
        map.shift_remove("items");
    }
    if preserves {
        map.shift_remove("required");
    }
    let kind = map.get("type").and_then(Value::as_str).unwrap_or_default();
    if kind == "array" && !map.contains_key("items") || kind == "object" && preserves {
        map.shift_remove("type");
    }
    let null = |v: &Value| v.get("nullable").is_some_and(|n| n == true);
    if map.get("additionalProperties").is_some_and(null) {
        map.shift_remove("required");
    }
    let nullables: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, v)| null(v))
        .map(|(k, _)| k.clone())
        .collect();
    if let Some(required) = map.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|r| !nullables.iter().any(|n| r == n));
        if required.is_empty() {
            map.shift_remove("required");
        }
    }
    if let Some(properties) = map.get_mut("properties").and_then(Value::as_object_mut) {
        for (_, v) in properties.iter_mut() {
            simplify(v);
        }
    }
    for field in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(field) {
            simplify(inner);
        }
    }
}
