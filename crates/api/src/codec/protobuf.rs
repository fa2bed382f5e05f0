//! `application/vnd.kubernetes.protobuf`: the magic `k8s\0`, then runtime.Unknown around the object, whose fields have the numbers
//! of the table.
//!
//! Go writes the zero value of every field that is no pointer, so a decoded object may say `0` or `false` where JSON would say nothing;
//! empty text and zero times are left out, as JSON's `omitempty` does.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::wire::{self, Reader, bytes, double, number};
use crate::schema::{Base, Field, Schema, Ty, TypeId, Wrap};
use crate::{Map, Status, meta};

const MAGIC: &[u8] = b"k8s\0";

/// Deeper nesting than this is refused.
const MAX_DEPTH: u32 = 100;

/// Is there a protobuf form of this type?
pub fn supports(schema: Schema<'_>) -> bool {
    schema.type_id().is_some_and(TypeId::has_proto)
}

fn bad(why: &str) -> Status {
    Status::bad_request(format!("error decoding protobuf: {why}"))
}

/// Decodes an object. Without its magic number it is not ours.
pub fn decode(body: &[u8], schema: Schema<'_>) -> Result<Value, Status> {
    let body = body.strip_prefix(MAGIC).ok_or_else(|| {
        bad("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")
    })?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &b""[..]);
    let mut reader = Reader(body);
    while let Some((field, value)) = reader.field().map_err(bad)? {
        match (field, value) {
            (1, wire::Value::Bytes(b)) => {
                let mut inner = Reader(b);
                while let Some((field, value)) = inner.field().map_err(bad)? {
                    match (field, value) {
                        (1, wire::Value::Bytes(b)) => api_version = String::from_utf8_lossy(b).into_owned(),
                        (2, wire::Value::Bytes(b)) => kind = String::from_utf8_lossy(b).into_owned(),
                        _ => {}
                    }
                }
            }
            (2, wire::Value::Bytes(b)) => raw = b,
            (3, wire::Value::Bytes(b)) if !b.is_empty() => {
                return Err(bad("compressed contents are not supported"));
            }
            (4, wire::Value::Bytes(b)) if b == b"application/json" => {
                return serde_json::from_slice(raw).map_err(|e| bad(&e.to_string()));
            }
            _ => {}
        }
    }
    // Options and lists of other types come with their own names; their type is the caller's to know.
    let t = schema.type_id().filter(|t| t.has_proto()).ok_or_else(no_form)?;
    let mut map = Map::new();
    for (field, text) in [("apiVersion", api_version), ("kind", kind)] {
        if !text.is_empty() {
            map.insert(field.to_owned(), Value::String(text));
        }
    }
    decode_message(raw, t, 0, &[], &mut map, 0).map_err(|e| bad(&e))?;
    Ok(Value::Object(map))
}

fn no_form() -> Status {
    Status::unsupported_media_type(&["application/json", "application/yaml"])
}

/// Reads the fields of `t` whose numbers begin with `prefix` into `map`.
fn decode_message(
    body: &[u8],
    t: TypeId,
    skip: usize,
    prefix: &[u16],
    map: &mut Map,
    depth: u32,
) -> Result<(), String> {
    if depth > MAX_DEPTH {
        return Err("nested too deeply".to_owned());
    }
    let mut reader = Reader(body);
    while let Some((n, value)) = reader.field()? {
        let here = t.fields().iter().find(|f| {
            let path = f.numbers.path();
            path.len() > skip && path.starts_with(prefix) && u32::from(path[skip]) == n
        });
        let Some(field) = here else { continue };
        let path = field.numbers.path();
        if path.len() > skip + 1 {
            // A message that JSON inlines.
            let wire::Value::Bytes(inner) = value else { return Err("proto: wrong wireType".to_owned()) };
            let deeper = path.get(..=skip).unwrap_or_default();
            decode_message(inner, t, skip + 1, deeper, map, depth + 1)?;
            continue;
        }
        decode_field(field, value, map, depth + 1)?;
    }
    Ok(())
}

fn decode_field(field: &Field, value: wire::Value<'_>, map: &mut Map, depth: u32) -> Result<(), String> {
    let base = Ty { wrap: Wrap::None, base: field.ty.base };
    if base.base == Base::Json && UNIONS.contains(&field.name) {
        let wire::Value::Bytes(b) = value else { return Err("proto: wrong wireType".to_owned()) };
        map.insert(field.name.to_owned(), decode_union(b, depth)?);
        return Ok(());
    }
    match field.ty.wrap {
        Wrap::None => {
            if let Some(v) = decode_value(base, value, depth)? {
                // Go sends every field that is no pointer.
                if field.zero || v.as_str() != Some("") {
                    map.insert(field.name.to_owned(), v);
                }
            }
        }
        Wrap::List if field.proto == "Verbs" => {
            if let Some(list) = decode_value(Ty { wrap: Wrap::List, base: field.ty.base }, value, depth)? {
                map.insert(field.name.to_owned(), list);
            }
        }
        Wrap::List => {
            let list = map.entry(field.name.to_owned()).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else { return Ok(()) };
            match (field.ty.base, value) {
                // Numbers may come packed.
                (Base::Int32 | Base::Int64 | Base::Bool, wire::Value::Bytes(packed)) => {
                    let mut reader = Reader(packed);
                    while !reader.0.is_empty() {
                        let n = reader.varint().ok_or("proto: unexpected EOF")?;
                        list.extend(decode_value(base, wire::Value::Number(n), depth)?);
                    }
                }
                (_, value) => list.push(decode_value(base, value, depth)?.unwrap_or_default()),
            }
        }
        Wrap::Map | Wrap::MapOfLists => {
            let wire::Value::Bytes(entry) = value else { return Err("proto: wrong wireType".to_owned()) };
            let inner =
                if field.ty.wrap == Wrap::Map { base } else { Ty { wrap: Wrap::List, base: field.ty.base } };
            let (mut key, mut item) = (String::new(), None);
            let mut reader = Reader(entry);
            while let Some((n, v)) = reader.field()? {
                match (n, v) {
                    (1, wire::Value::Bytes(b)) => key = utf8(b)?,
                    (2, v) => item = decode_value(inner, v, depth)?,
                    _ => {}
                }
            }
            let item = item.unwrap_or_else(|| match (inner.wrap, inner.base) {
                (Wrap::List, _) => json!([]),
                (_, Base::String | Base::Bytes) => json!(""),
                (_, Base::Quantity) => json!("0"),
                _ => json!({}),
            });
            let entries = map.entry(field.name.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            meta::as_map(entries).insert(key, item);
        }
    }
    Ok(())
}

fn decode_union(body: &[u8], depth: u32) -> Result<Value, String> {
    let t = schema_type().ok_or("no schema type")?;
    let schema = |b: &[u8]| -> Result<Value, String> {
        let mut map = Map::new();
        decode_message(b, t, 0, &[], &mut map, depth + 1)?;
        Ok(Value::Object(map))
    };
    let (mut out, mut list) = (Value::Bool(false), Vec::new());
    let mut reader = Reader(body);
    let mut allows = None;
    while let Some((n, value)) = reader.field()? {
        match (n, value) {
            (1, wire::Value::Number(b)) => {
                allows = Some(b != 0);
                if out == Value::Bool(false) {
                    out = Value::Bool(b != 0);
                }
            }
            (1, wire::Value::Bytes(b)) => out = schema(b)?,
            (2, wire::Value::Bytes(b)) if allows.is_some() => out = schema(b)?,
            (2, wire::Value::Bytes(b)) => list.push(schema(b)?),
            _ => {}
        }
    }
    Ok(if list.is_empty() { out } else { Value::Array(list) })
}

fn utf8(b: &[u8]) -> Result<String, String> {
    String::from_utf8(b.to_vec()).map_err(|_| "proto: string field contains invalid UTF-8".to_owned())
}

/// Decodes one value; `None` where JSON would leave it out. A [`Wrap::List`] here is a message that holds a list.
fn decode_value(ty: Ty, value: wire::Value<'_>, depth: u32) -> Result<Option<Value>, String> {
    use wire::Value as W;
    let wrong = || Err("proto: wrong wireType".to_owned());
    if ty.wrap == Wrap::List {
        let W::Bytes(b) = value else { return wrong() };
        let mut list = Vec::new();
        let mut reader = Reader(b);
        while let Some((n, v)) = reader.field()? {
            if n == 1 {
                list.push(decode_value(Ty { wrap: Wrap::None, ..ty }, v, depth)?.unwrap_or_default());
            }
        }
        return Ok(Some(Value::Array(list)));
    }
    Ok(Some(match (ty.base, value) {
        (Base::String, W::Bytes(b)) => Value::String(utf8(b)?),
        (Base::Bytes, W::Bytes(b)) => Value::String(STANDARD.encode(b)),
        (Base::Int32, W::Number(n)) => json!(n as i32),
        (Base::Int64, W::Number(n)) => json!(n as i64),
        (Base::Bool, W::Number(n)) => json!(n != 0),
        (Base::Double, W::Fixed64(n)) => json!(f64::from_bits(n)),
        (Base::Double, W::Fixed32(n)) => json!(f64::from(f32::from_bits(n))),
        (base, W::Bytes(b)) => {
            let mut numbers = [0i64; 5];
            let mut texts: [&[u8]; 5] = [b""; 5];
            if let Base::Type(t) = base {
                let mut map = Map::new();
                decode_message(b, t, 0, &[], &mut map, depth + 1)?;
                return Ok(Some(Value::Object(map)));
            }
            let mut reader = Reader(b);
            while let Some((n, v)) = reader.field()? {
                let at = usize::try_from(n).unwrap_or(usize::MAX);
                match v {
                    W::Number(v) if at < 5 => numbers[at] = v as i64,
                    W::Bytes(v) if at < 5 => texts[at] = v,
                    _ => {}
                }
            }
            match base {
                Base::Time | Base::MicroTime => {
                    let nanos = i32::try_from(numbers[2]).unwrap_or(0);
                    if numbers[1] == 0 && nanos == 0 {
                        return Ok(None);
                    }
                    let Ok(at) = jiff::Timestamp::new(numbers[1], nanos) else { return Ok(None) };
                    Value::String(if base == Base::Time { meta::time(at) } else { meta::micro_time(at) })
                }
                Base::Quantity => {
                    Value::String(if texts[1].is_empty() { "0".to_owned() } else { utf8(texts[1])? })
                }
                Base::IntOrString if numbers[1] == 1 => Value::String(utf8(texts[3])?),
                Base::IntOrString => json!(numbers[2] as i32),
                _ => match serde_json::from_slice(texts[1]) {
                    Ok(v) => v,
                    Err(_) if texts[1].is_empty() => return Ok(None),
                    Err(e) => return Err(e.to_string()),
                },
            }
        }
        _ => return wrong(),
    }))
}

/// Encodes an object.
pub fn encode(value: &Value, schema: Schema<'_>) -> Result<Vec<u8>, Status> {
    let text = |f: &str| value[f].as_str().unwrap_or_default();
    let raw = match (schema.type_id(), text("kind")) {
        (Some(t), _) if t.has_proto() => message(value, t),
        (None, "PartialObjectMetadata") => partial(value)?,
        (None, "PartialObjectMetadataList") => {
            let mut out = Vec::new();
            let list = TypeId::named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta").ok_or_else(no_form)?;
            bytes(&mut out, 1, &message(meta::of(value), list));
            for item in value["items"].as_array().into_iter().flatten() {
                bytes(&mut out, 2, &partial(item)?);
            }
            out
        }
        _ => return Err(Status::not_acceptable(&["application/json", "application/yaml"])),
    };
    let mut out = Vec::with_capacity(raw.len() + 64);
    out.extend_from_slice(MAGIC);
    let mut names = Vec::new();
    bytes(&mut names, 1, text("apiVersion").as_bytes());
    bytes(&mut names, 2, text("kind").as_bytes());
    bytes(&mut out, 1, &names);
    bytes(&mut out, 2, &raw);
    bytes(&mut out, 3, b"");
    bytes(&mut out, 4, b"");
    Ok(out)
}

fn partial(value: &Value) -> Result<Vec<u8>, Status> {
    let t = TypeId::named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta").ok_or_else(no_form)?;
    let mut out = Vec::new();
    bytes(&mut out, 1, &message(meta::of(value), t));
    Ok(out)
}

/// Encodes one watch event: four bytes of length, then meta/v1 WatchEvent, whose object is encoded as [`encode`] does.
pub fn encode_watch_event(kind: &str, object: &Value, schema: Schema<'_>) -> Result<Vec<u8>, Status> {
    let mut raw = Vec::new();
    bytes(&mut raw, 1, &encode(object, schema)?);
    let mut event = Vec::with_capacity(raw.len() + 32);
    bytes(&mut event, 1, kind.as_bytes());
    bytes(&mut event, 2, &raw);
    let length = u32::try_from(event.len()).map_err(Status::internal)?;
    let mut out = length.to_be_bytes().to_vec();
    out.append(&mut event);
    Ok(out)
}

fn message(value: &Value, t: TypeId) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(map) = value.as_object() else { return out };
    let mut present: Vec<(&[u16], &Field, &Value)> = map
        .iter()
        .filter(|(_, v)| !v.is_null())
        .filter_map(|(name, v)| t.field(name).map(|f| (f.numbers.path(), f, v)))
        .filter(|(path, _, _)| !path.is_empty())
        .collect();
    present.sort_by_key(|(path, _, _)| *path);
    group(&mut out, &present, 0);
    out
}

/// Writes fields whose numbers agree up to `depth`; those that go deeper share a message for each next number.
fn group(out: &mut Vec<u8>, fields: &[(&[u16], &Field, &Value)], depth: usize) {
    let mut rest = fields;
    while let Some((path, field, value)) = rest.first() {
        let n = path.get(depth).copied().unwrap_or_default();
        if path.len() == depth + 1 {
            encode_field(out, u32::from(n), field, value);
            rest = rest.get(1..).unwrap_or_default();
            continue;
        }
        let end = rest.iter().position(|(p, _, _)| p.get(depth) != Some(&n)).unwrap_or(rest.len());
        let mut inner = Vec::new();
        group(&mut inner, rest.get(..end).unwrap_or_default(), depth + 1);
        bytes(out, u32::from(n), &inner);
        rest = rest.get(end..).unwrap_or_default();
    }
}

fn encode_field(out: &mut Vec<u8>, n: u32, field: &Field, value: &Value) {
    let base = field.ty.base;
    if base == Base::Json && UNIONS.contains(&field.name) {
        bytes(out, n, &encode_union(field.name, value));
        return;
    }
    match (field.ty.wrap, value) {
        (Wrap::None, v) => encode_value(out, n, base, v),
        (Wrap::List, Value::Array(list)) => {
            if field.proto == "Verbs" {
                let mut inner = Vec::new();
                list.iter().for_each(|v| encode_value(&mut inner, 1, base, v));
                bytes(out, n, &inner);
            } else {
                list.iter().for_each(|v| encode_value(out, n, base, v));
            }
        }
        (Wrap::Map | Wrap::MapOfLists, Value::Object(map)) => {
            for (key, v) in map {
                let mut entry = Vec::new();
                bytes(&mut entry, 1, key.as_bytes());
                match v {
                    Value::Array(list) => {
                        let mut inner = Vec::new();
                        list.iter().for_each(|v| encode_value(&mut inner, 1, base, v));
                        bytes(&mut entry, 2, &inner);
                    }
                    v => encode_value(&mut entry, 2, base, v),
                }
                bytes(out, n, &entry);
            }
        }
        _ => {}
    }
}

/// Fields of JSONSchemaProps that hold a schema or something else, and say in protobuf which.
const UNIONS: [&str; 3] = ["items", "additionalItems", "additionalProperties"];

fn schema_type() -> Option<TypeId> {
    TypeId::named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps")
}

fn encode_union(name: &str, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let Some(t) = schema_type() else { return out };
    match value {
        // JSONSchemaPropsOrBool
        Value::Bool(b) => number(&mut out, 1, u64::from(*b)),
        // JSONSchemaPropsOrArray
        Value::Array(list) => list.iter().for_each(|v| bytes(&mut out, 2, &message(v, t))),
        schema if name == "items" => bytes(&mut out, 1, &message(schema, t)),
        schema => {
            number(&mut out, 1, 1);
            bytes(&mut out, 2, &message(schema, t));
        }
    }
    out
}

fn encode_value(out: &mut Vec<u8>, n: u32, base: Base, value: &Value) {
    match base {
        Base::String => bytes(out, n, value.as_str().unwrap_or_default().as_bytes()),
        Base::Bytes => {
            bytes(out, n, &STANDARD.decode(value.as_str().unwrap_or_default()).unwrap_or_default())
        }
        Base::Int32 | Base::Int64 => number(out, n, value.as_i64().unwrap_or_default() as u64),
        Base::Bool => number(out, n, u64::from(value == &Value::Bool(true))),
        Base::Double => double(out, n, value.as_f64().unwrap_or_default()),
        Base::Type(t) => bytes(out, n, &message(value, t)),
        Base::Time | Base::MicroTime => {
            let mut inner = Vec::new();
            if let Some(at) = value.as_str().and_then(|s| s.parse::<jiff::Timestamp>().ok()) {
                // Seconds count down to the one before, nanoseconds up from it.
                let (mut seconds, mut nanos) = (at.as_second(), at.subsec_nanosecond());
                if nanos < 0 {
                    seconds -= 1;
                    nanos += 1_000_000_000;
                }
                number(&mut inner, 1, seconds as u64);
                number(&mut inner, 2, u64::from(nanos.unsigned_abs()));
            }
            bytes(out, n, &inner);
        }
        Base::Quantity => {
            let mut inner = Vec::new();
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            bytes(&mut inner, 1, text.as_bytes());
            bytes(out, n, &inner);
        }
        Base::IntOrString => {
            let mut inner = Vec::new();
            number(&mut inner, 1, u64::from(value.is_string()));
            number(&mut inner, 2, value.as_i64().unwrap_or_default() as u64);
            bytes(&mut inner, 3, value.as_str().unwrap_or_default().as_bytes());
            bytes(out, n, &inner);
        }
        Base::Raw | Base::FieldsV1 | Base::Json => {
            let mut inner = Vec::new();
            bytes(&mut inner, 1, &crate::object::encode(value));
            bytes(out, n, &inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    fn pod() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "n", "labels": {"a": "b", "c": ""}, "creationTimestamp": "2024-01-02T03:04:05Z",
                "generation": 3, "managedFields": [{"manager": "m", "fieldsV1": {"f:spec": {}}}]},
            "spec": {"replicas": null, "containers": [{"name": "c", "image": "i", "args": ["x", ""], "env": [{"name": "E", "value": "v"}],
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "500m"}}, "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "timeoutSeconds": 1},
                "readinessProbe": {"tcpSocket": {"port": 8080}}}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "s", "secret": {"secretName": "x", "defaultMode": 420}}],
                "securityContext": {}, "terminationGracePeriodSeconds": 30, "hostNetwork": true},
            "status": {"phase": "Running", "startTime": "2024-01-02T03:04:05Z"}})
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let schema = kinds::by_gvr(&gvr::PODS).unwrap().schema();
        let mut want = pod();
        let encoded = encode(&want, schema).unwrap();
        assert!(encoded.starts_with(b"k8s\0\x0a\x09\x0a\x02v1\x12\x03Pod"));
        want["spec"].as_object_mut().unwrap().remove("replicas");
        assert_eq!(decode(&encoded, schema).unwrap(), want);
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "AAEC"}, "type": "Opaque"});
        let schema = kinds::by_gvr(&gvr::SECRETS).unwrap().schema();
        assert_eq!(decode(&encode(&secret, schema).unwrap(), schema).unwrap(), secret);
        let list =
            json!({"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "5"}, "items": []});
        let schema = TypeId::named("io.k8s.api.core.v1.PodList").unwrap().schema();
        assert_eq!(
            decode(&encode(&list, schema).unwrap(), schema).unwrap()["metadata"],
            json!({"resourceVersion": "5"})
        );
    }

    #[test]
    fn numbers_are_upstream_s() {
        // Bytes as Go writes them: {metadata: {name: "a"}, spec: {volumes: [{name: "v", emptyDir: {}}]}}
        let t = kinds::by_gvr(&gvr::PODS).unwrap().schema().type_id().unwrap();
        let value = json!({"metadata": {"name": "a"}, "spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
        assert_eq!(
            message(&value, t),
            [0x0a, 3, 0x0a, 1, b'a', 0x12, 9, 0x0a, 7, 0x0a, 1, b'v', 0x12, 2, 0x12, 0]
        );
    }

    #[test]
    fn a_watch_event_is_a_frame() {
        let schema = kinds::by_gvr(&gvr::PODS).unwrap().schema();
        let frame = encode_watch_event("ADDED", &pod(), schema).unwrap();
        assert_eq!(u32::from_be_bytes(frame[..4].try_into().unwrap()) as usize, frame.len() - 4);
        assert!(frame[4..].starts_with(b"\x0a\x05ADDED\x12"));
    }

    #[test]
    fn schemas_of_custom_resources_round_trip() {
        let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "x"},
            "spec": {"group": "g", "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "properties": {"a": {"type": "array", "items": {"type": "string", "default": "x"}},
                    "m": {"type": "object", "additionalProperties": {"type": "integer"}}, "n": {"additionalProperties": true}}}}}]}});
        let schema = kinds::by_gvr(&gvr::CUSTOM_RESOURCE_DEFINITIONS).unwrap().schema();
        assert_eq!(decode(&encode(&crd, schema).unwrap(), schema).unwrap(), crd);
    }

    #[test]
    fn each_kind_has_a_form_versions_of_the_past_included() {
        for version in kinds::all().iter().flat_map(|kind| &kind.versions) {
            let t = version.schema().type_id();
            assert!(t.is_none_or(TypeId::has_proto), "{:?}", t.map(TypeId::name));
        }
        let any = json!({"rule": "RunAsAny"});
        let policy = json!({"apiVersion": "policy/v1beta1", "kind": "PodSecurityPolicy", "metadata": {"name": "free"},
            "spec": {"privileged": true, "volumes": ["*"], "hostPorts": [{"min": 0, "max": 9}], "seLinux": any, "runAsUser": any,
                "runAsGroup": any, "supplementalGroups": any, "fsGroup": any}});
        let schema = TypeId::named("io.k8s.api.policy.v1beta1.PodSecurityPolicy").unwrap().schema();
        let encoded = encode(&policy, schema).unwrap();
        assert_eq!(decode(&encoded, schema).unwrap(), policy);
        // Its spec is the second field, whose first is whether it is privileged.
        assert!(encoded.windows(4).any(|w| w[0] == 0x12 && w[2..] == [0x08, 1]));
    }

    #[test]
    fn every_field_has_its_number() {
        let missing: Vec<String> = TypeId::all()
            .filter(|t| t.has_proto() && !t.is_unstructured())
            .flat_map(|t| t.fields().iter().map(move |f| (t, f)))
            .filter(|(_, f)| !matches!(f.name, "apiVersion" | "kind") && f.numbers.path().is_empty())
            .map(|(t, f)| format!("{}.{}", t.short_name(), f.name))
            .collect();
        // Fields that are newer, or older, than the messages that are known.
        assert!(missing.len() <= 4, "{missing:?}");
    }

    proptest::proptest! {
        #[test]
        fn decoding_never_panics(body in proptest::collection::vec(proptest::num::u8::ANY, 0..80)) {
            let schema = kinds::by_gvr(&gvr::PODS).unwrap().schema();
            let mut enveloped = MAGIC.to_vec();
            bytes(&mut enveloped, 2, &body);
            let _ = decode(&enveloped, schema);
            let _ = decode(&body, schema);
        }

        #[test]
        fn wire_numbers_round_trip(n in proptest::num::u64::ANY, f in 1u32..1000) {
            let mut out = Vec::new();
            number(&mut out, f, n);
            proptest::prop_assert_eq!(Reader(&out).field().unwrap(), Some((f, wire::Value::Number(n))));
        }
    }
}
