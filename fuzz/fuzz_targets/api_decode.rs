//! Bodies of writes, in each wire format: what decodes can be encoded and decodes to the same.
#![no_main]

use api::codec::{FieldValidation, MediaType, decode_as, encode};
use api::schema::TypeId;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [first, body @ ..] = bytes else { return };
    let media = [MediaType::Json, MediaType::Yaml, MediaType::Protobuf][usize::from(first % 3)];
    let Some(pod) = TypeId::named("io.k8s.api.core.v1.Pod") else { return };
    let schema = pod.schema();
    let Ok(decoded) = decode_as(body, media, "v1", "Pod", schema, FieldValidation::Warn) else { return };
    let Ok(again) = encode(&decoded.value, MediaType::Json, schema) else { return };
    let second = decode_as(&again, MediaType::Json, "v1", "Pod", schema, FieldValidation::Warn).unwrap();
    assert_eq!(second.value, decoded.value);
    let _ = encode(&decoded.value, MediaType::Protobuf, schema);
    let _ = encode(&decoded.value, MediaType::Yaml, schema);
});
