//! Walks every kind in every version that is served: an object with every field of its type set passes through every wire
//! format, and through the storage version and back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use api::codec::{self, FieldValidation, MediaType};
use api::kinds::{self, Conversion, Version};
use api::schema::{Base, Schema, Ty, TypeId, Wrap};
use api::{Kind, Map, Value};
use serde_json::json;

/// Types may contain themselves (schemas of custom resources); this deep is deep enough.
const DEPTH: usize = 14;

/// A value with every field set.
fn full(ty: Ty, field: &str, seen: &mut Vec<TypeId>) -> Option<Value> {
    let plain = Ty { wrap: Wrap::None, base: ty.base };
    Some(match ty.wrap {
        Wrap::List => json!([full(plain, field, seen)?]),
        Wrap::Map => json!({"key": full(plain, field, seen)?}),
        Wrap::MapOfLists => json!({"key": [full(plain, field, seen)?]}),
        Wrap::None => match ty.base {
            Base::String => json!(format!("a-{}", field.to_lowercase())),
            Base::Int32 => json!(7),
            Base::Int64 => json!(8),
            Base::Double => json!(1.5),
            Base::Bool => json!(true),
            Base::Bytes => json!("AAEC"),
            Base::Time => json!("2024-01-02T03:04:05Z"),
            Base::MicroTime => json!("2024-01-02T03:04:05.000006Z"),
            Base::Quantity => json!("5"),
            Base::IntOrString => json!(80),
            Base::Raw => json!({"apiVersion": "v1", "kind": "ConfigMap", "x": 1}),
            Base::FieldsV1 => json!({"f:a": {}}),
            Base::Json => json!({"x": [1]}),
            Base::Type(t) => {
                if t.is_unstructured() || seen.contains(&t) || seen.len() > DEPTH {
                    return None;
                }
                seen.push(t);
                let fields = t.fields().iter().filter(|f| !skipped(t, f.name));
                let map: Map =
                    fields.filter_map(|f| Some((f.name.to_owned(), full(f.ty, f.name, seen)?))).collect();
                seen.pop();
                Value::Object(map)
            }
        },
    })
}

/// Fields that no message of upstream's carries, or that only some of a type's own forms have.
fn skipped(t: TypeId, field: &str) -> bool {
    let unnumbered = t.field(field).is_some_and(|f| f.numbers.path().is_empty());
    unnumbered && (t.has_proto() || matches!(field, "apiVersion" | "kind"))
}

fn object(kind: &Kind, version: &Version) -> Value {
    let schema = version.schema();
    let Schema::Builtin(ty, _) = schema else { panic!("{kind:?} has no type") };
    let mut value = full(ty, "", &mut Vec::new()).unwrap();
    value["apiVersion"] = json!(version.api_version());
    value["kind"] = json!(kind.kind);
    value
}

fn each_version() -> impl Iterator<Item = (&'static Kind, &'static Version)> {
    kinds::all().iter().flat_map(|k| k.versions.iter().map(move |v| (&**k, v)))
}

/// What differs between two values, by path.
fn differences(a: &Value, b: &Value, path: &str, out: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for name in names {
                let null = Value::Null;
                let (x, y) = (a.get(name).unwrap_or(&null), b.get(name).unwrap_or(&null));
                differences(x, y, &format!("{path}.{name}"), out);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                differences(x, y, &format!("{path}[{i}]"), out);
            }
        }
        _ if a != b => out.push(format!("{path}: {a} -> {b}")),
        _ => {}
    }
}

fn diff(a: &Value, b: &Value) -> Vec<String> {
    let mut out = Vec::new();
    differences(a, b, "", &mut out);
    out
}

#[test]
fn every_field_survives_every_wire_format() {
    let mut wrong = Vec::new();
    for (kind, version) in each_version() {
        let want = object(kind, version);
        for media in [MediaType::Json, MediaType::Yaml, MediaType::Protobuf] {
            let at = format!("{} as {}", version.gvk(kind), media.as_str());
            let bytes = match codec::encode(&want, media, version.schema()) {
                Ok(bytes) => bytes,
                Err(e) => {
                    // Custom resources' definitions have a form; what has none is sent as JSON.
                    let none = version.schema().type_id().is_some_and(|t| !t.has_proto());
                    if !(none && media == MediaType::Protobuf) {
                        wrong.push(format!("{at}: {}", e.message));
                    }
                    continue;
                }
            };
            match codec::decode(&bytes, media, kind, version, FieldValidation::Strict) {
                Ok(d) => wrong.extend(diff(&want, &d.value).iter().map(|d| format!("{at}: {d}"))),
                Err(e) => wrong.push(format!("{at}: {}", e.message)),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_version_is_stored_and_read_back() {
    let mut wrong = Vec::new();
    for (kind, version) in each_version() {
        if kind.is_storage(version) {
            continue;
        }
        let at = version.gvk(kind);
        let want = object(kind, version);
        let mut stored = want.clone();
        kind.to_storage(&mut stored).unwrap();
        let strict = |value: &Value, v: &Version| {
            codec::check(value.clone(), &v.api_version(), &kind.kind, v.schema(), FieldValidation::Strict)
                .map(drop)
        };
        if let Err(e) = strict(&stored, kind.storage().unwrap()) {
            wrong.push(format!("{at} stored: {}", e.message));
        }
        let mut back = stored.clone();
        kind.from_storage(&mut back, version);
        if let Err(e) = strict(&back, version) {
            wrong.push(format!("{at} read back: {}", e.message));
        }
        wrong.extend(diff(&want, &back).iter().map(|d| format!("{at}: {d}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_storage_version_reads_in_every_version() {
    let mut wrong = Vec::new();
    for (kind, version) in each_version() {
        if kind.is_storage(version) || matches!(version.conversion, Conversion::Webhook) {
            continue;
        }
        let mut value = object(kind, kind.storage().unwrap());
        kind.from_storage(&mut value, version);
        let checked = codec::check(
            value,
            &version.api_version(),
            &kind.kind,
            version.schema(),
            FieldValidation::Strict,
        );
        if let Err(e) = checked {
            wrong.push(format!("{}: {}", version.gvk(kind), e.message));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
