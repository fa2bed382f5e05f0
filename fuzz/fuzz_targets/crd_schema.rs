//! Schemas of custom resources: a line break parts the schema from an object, which is filled in and judged.
#![no_main]

use api::Path;
use api::kinds::crd::Structural;
use serde_json::Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |b| *b == b'\n');
    let mut next = || parts.next().and_then(|b| serde_json::from_slice::<Value>(b).ok());
    let Some(schema) = next() else { return };
    let Ok(schema) = Structural::compile(&schema, &Path::root()) else { return };
    let _ = schema.openapi(true);
    let _ = schema.openapi(false);
    let Some(mut object) = next() else { return };
    schema.fill_in(&mut object);
    let _ = schema.validate(&object);
    let _ = schema.validate_rules(&object, Some(&object));
});
