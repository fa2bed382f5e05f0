//! Walks every kind in every version that is served: an object with every field of its type set passes through every wire
//! format, and through the storage version and back.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use api::codec::{self, FieldValidation, MediaType};
use api::kinds::{self, Version};
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
            // Schemas of custom resources: a schema, or several, or yes or no.
            Base::Json if ["items", "additionalItems", "additionalProperties"].contains(&field) => {
                json!({"type": "string"})
            }
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

/// What comes back otherwise, as upstream has it.
fn is_known(at: &str, difference: &str) -> bool {
    let in_kind = |kind: &str| at.ends_with(kind);
    // The topology of old also names the node.
    in_kind("EndpointSlice") && difference.starts_with(".endpoints[0].topology.kubernetes.io/hostname")
        // The status of an Ingress has fewer fields than a Service's, which it was once of.
        || in_kind("Ingress") && difference.starts_with(".status.loadBalancer.ingress[0].ipMode")
        // An annotation carries all of the status of metrics, also what has a field.
        || in_kind("HorizontalPodAutoscaler")
            && difference.starts_with(".metadata.annotations.autoscaling.alpha.kubernetes.io/current-metrics")
        // The kind of a subject says its version.
        || in_kind("RoleBinding") && difference.starts_with(".subjects[0].apiVersion")
}

#[test]
fn every_version_is_stored_and_read_back() {
    let mut wrong = Vec::new();
    for (kind, version) in each_version() {
        // A definition of v1beta1 says a thing once or for each version, never both: it has tests of its own.
        if kind.is_storage(version) || kind.plural == "customresourcedefinitions" {
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
        let differences = diff(&want, &back);
        let named = at.to_string();
        wrong.extend(differences.iter().filter(|d| !is_known(&named, d)).map(|d| format!("{at}: {d}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_change_in_an_old_version_takes_away_nothing_it_does_not_know() {
    let kind = kinds::by_gvr(&api::names::gvr::CRON_JOBS).unwrap();
    let beta = kind.served("batch", "v1beta1").unwrap();
    let stored = json!({"apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "c"},
        "spec": {"schedule": "* * * * *", "timeZone": "Etc/UTC", "suspend": false}});
    let mut shown = stored.clone();
    kind.from_storage(&mut shown, beta);
    assert_eq!(shown["spec"], json!({"schedule": "* * * * *", "suspend": false}));
    shown["spec"]["suspend"] = json!(true);
    kind.to_storage(&mut shown).unwrap();
    kind.keep_unsaid(beta, &stored, &mut shown);
    assert_eq!(shown["spec"], json!({"schedule": "* * * * *", "suspend": true, "timeZone": "Etc/UTC"}));
}

#[test]
fn the_storage_version_reads_in_every_version() {
    let mut wrong = Vec::new();
    for (kind, version) in each_version() {
        if kind.is_storage(version) {
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
