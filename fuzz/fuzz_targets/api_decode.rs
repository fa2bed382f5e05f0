//! Bodies of writes, in each wire format and of every kind in every version: what decodes can be encoded and decodes to
//! the same; it is filled in, judged, converted to the other versions, and shown as a table.
#![no_main]

use std::sync::LazyLock;

use api::codec::{FieldValidation, MediaType, decode, encode};
use api::kinds::{self, Version};
use api::{Kind, Object, table};
use serde_json::json;

static VERSIONS: LazyLock<Vec<(&'static Kind, &'static Version)>> = LazyLock::new(|| {
    let mut all: Vec<_> =
        kinds::all().iter().flat_map(|k| k.versions.iter().map(move |v| (&**k, v))).collect();
    // Inputs that were found mean the same when kinds are added.
    all.sort_by_key(|(k, v)| v.gvk(k).to_string());
    all
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [media, high, low, body @ ..] = bytes else { return };
    let media = [MediaType::Json, MediaType::Yaml, MediaType::Protobuf][usize::from(media % 3)];
    let (kind, version) = VERSIONS[usize::from(u16::from_be_bytes([*high, *low])) % VERSIONS.len()];
    let schema = version.schema();
    let Ok(decoded) = decode(body, media, kind, version, FieldValidation::Warn) else { return };
    let text = encode(&decoded.value, MediaType::Json, schema).unwrap();
    let second = decode(&text, MediaType::Json, kind, version, FieldValidation::Strict).unwrap();
    assert_eq!(second.value, decoded.value);
    if let Ok(binary) = encode(&decoded.value, MediaType::Protobuf, schema) {
        let _ = decode(&binary, MediaType::Protobuf, kind, version, FieldValidation::Warn).unwrap();
    }
    let yaml = encode(&decoded.value, MediaType::Yaml, schema).unwrap();
    let third = decode(&yaml, MediaType::Yaml, kind, version, FieldValidation::Strict).unwrap();
    assert_eq!(third.value, decoded.value);

    let mut value = decoded.value;
    if kind.to_storage(&mut value).is_err() {
        return;
    }
    kind.prepare_create(&mut value);
    kind.default(&mut value);
    let once = value.clone();
    kind.default(&mut value);
    assert_eq!(once, value, "defaults are set once");
    let _ = kind.validate_create(&value);
    let _ = kind.warnings(&value, None);
    let mut other = value.clone();
    other["metadata"]["labels"] = json!({"changed": "yes"});
    for subresource in ["", "status"] {
        let mut new = other.clone();
        kind.prepare_update(&mut new, &value, subresource);
        let _ = kind.validate_update(&new, &value, subresource);
    }
    for version in &kind.versions {
        let mut shown = value.clone();
        kind.from_storage(&mut shown, version);
        kind.keep_unsaid(version, &value, &mut shown);
    }
    if let Some(mut scale) = kind.scale_of(&value) {
        kind.set_scale(&mut scale, 3);
    }
    let options = table::Options {
        list_meta: json!({}),
        include: table::Include::Object,
        headers: true,
        now: "2024-01-02T03:04:05Z".parse().unwrap(),
        meta_version: "v1".to_owned(),
    };
    if let Some(version) = kind.storage() {
        let _ = table::table(kind, version, [Object::from_value(value)], &options);
    }
});
