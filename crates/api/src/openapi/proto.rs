//! OpenAPI version 2 in the protobuf form that kubectl asks for (gnostic's `openapi.v2.Document`).
//!
//! Only what kubectl and client-go read of a document is encoded: definitions with their extensions, and the operations of
//! paths with their query parameters and extensions.

use std::sync::Arc;

use serde_json::Value;

use super::definitions::{definitions, roots};
use super::{Docs, Form, all_paths, foreign_paths, info, with_foreign_definitions};
use crate::codec::wire::{bytes, double, number};
use crate::{Kind, Map};

/// `/openapi/v2` as `application/com.github.proto-openapi.spec.v2.v1.0+protobuf`.
///
/// `others` are the documents of servers behind this one.
pub fn v2_protobuf(kinds: &[Arc<Kind>], docs: &dyn Docs, others: &[Arc<Value>]) -> Vec<u8> {
    let mut out = Vec::with_capacity(2 << 20);
    bytes(&mut out, 1, b"2.0");
    let mut title = Vec::new();
    text(&mut title, 1, &info()["title"]);
    text(&mut title, 2, &info()["version"]);
    bytes(&mut out, 2, &title);
    let mut list = Vec::new();
    let texts = docs.texts();
    for (name, item) in all_paths(kinds, &texts).chain(foreign_paths(others)) {
        bytes(&mut list, 2, &named(&name, &path_item(&item)));
    }
    bytes(&mut out, 8, &list);
    let mut list = Vec::new();
    let own = definitions(kinds, None, roots(kinds, None), Form::V2, &texts);
    for (name, definition) in with_foreign_definitions(own, others) {
        bytes(&mut list, 1, &named(&name, &schema(&definition)));
    }
    bytes(&mut out, 9, &list);
    out
}

fn text(out: &mut Vec<u8>, field: u32, value: &Value) {
    if let Some(s) = value.as_str() {
        bytes(out, field, s.as_bytes());
    }
}

fn named(name: &str, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + value.len() + 8);
    bytes(&mut out, 1, name.as_bytes());
    bytes(&mut out, 2, value);
    out
}

/// An `Any`: its value as YAML, which JSON is.
fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    bytes(&mut out, 2, format!("{value}\n").as_bytes());
    out
}

fn extensions(out: &mut Vec<u8>, field: u32, map: &Map) {
    for (name, value) in map.iter().filter(|(n, _)| n.starts_with("x-")) {
        bytes(out, field, &named(name, &any(value)));
    }
}

fn schema(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(map) = value.as_object() else { return out };
    text(&mut out, 1, &value["$ref"]);
    text(&mut out, 2, &value["format"]);
    text(&mut out, 3, &value["title"]);
    text(&mut out, 4, &value["description"]);
    if let Some(default) = map.get("default") {
        bytes(&mut out, 5, &any(default));
    }
    for (field, name) in [(6, "multipleOf"), (7, "maximum"), (9, "minimum")] {
        if let Some(n) = value[name].as_f64() {
            double(&mut out, field, n);
        }
    }
    for (field, name) in [(8, "exclusiveMaximum"), (10, "exclusiveMinimum"), (16, "uniqueItems")] {
        if value[name] == true {
            number(&mut out, field, 1);
        }
    }
    for (field, name) in [
        (11, "maxLength"),
        (12, "minLength"),
        (14, "maxItems"),
        (15, "minItems"),
        (17, "maxProperties"),
        (18, "minProperties"),
    ] {
        if let Some(n) = value[name].as_u64() {
            number(&mut out, field, n);
        }
    }
    text(&mut out, 13, &value["pattern"]);
    for name in value["required"].as_array().into_iter().flatten() {
        text(&mut out, 19, name);
    }
    for v in value["enum"].as_array().into_iter().flatten() {
        bytes(&mut out, 20, &any(v));
    }
    match map.get("additionalProperties") {
        Some(Value::Bool(b)) => {
            let mut item = Vec::new();
            number(&mut item, 2, u64::from(*b));
            bytes(&mut out, 21, &item);
        }
        Some(inner) => {
            let mut item = Vec::new();
            bytes(&mut item, 1, &schema(inner));
            bytes(&mut out, 21, &item);
        }
        None => {}
    }
    if value["type"].is_string() {
        let mut item = Vec::new();
        text(&mut item, 1, &value["type"]);
        bytes(&mut out, 22, &item);
    }
    if let Some(inner) = map.get("items") {
        let mut item = Vec::new();
        bytes(&mut item, 1, &schema(inner));
        bytes(&mut out, 23, &item);
    }
    for inner in value["allOf"].as_array().into_iter().flatten() {
        bytes(&mut out, 24, &schema(inner));
    }
    if let Some(properties) = value["properties"].as_object() {
        let mut list = Vec::new();
        for (name, property) in properties {
            bytes(&mut list, 1, &named(name, &schema(property)));
        }
        bytes(&mut out, 25, &list);
    }
    extensions(&mut out, 31, map);
    out
}

fn path_item(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    for (field, method) in
        [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (6, "options"), (7, "head"), (8, "patch")]
    {
        if !value[method].is_null() {
            bytes(&mut out, field, &operation(&value[method]));
        }
    }
    out
}

fn operation(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, 3, &value["description"]);
    text(&mut out, 5, &value["operationId"]);
    for p in value["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == "query") {
        let mut query = Vec::new();
        text(&mut query, 2, &p["in"]);
        text(&mut query, 4, &p["name"]);
        text(&mut query, 6, &p["type"]);
        // ParametersItem.parameter, Parameter.non_body_parameter, NonBodyParameter.query_parameter_sub_schema
        let mut wrapped = query;
        for field in [3, 2, 1] {
            let mut outer = Vec::new();
            bytes(&mut outer, field, &wrapped);
            wrapped = outer;
        }
        bytes(&mut out, 8, &wrapped);
    }
    let mut responses = Vec::new();
    for (code, response) in value["responses"].as_object().into_iter().flatten() {
        let mut inner = Vec::new();
        text(&mut inner, 1, &response["description"]);
        let mut wrapped = Vec::new();
        bytes(&mut wrapped, 1, &inner);
        bytes(&mut responses, 1, &named(code, &wrapped));
    }
    bytes(&mut out, 9, &responses);
    if let Some(map) = value.as_object() {
        extensions(&mut out, 13, map);
    }
    out
}
