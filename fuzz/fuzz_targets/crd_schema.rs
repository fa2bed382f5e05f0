//! Schemas of custom resources: a line break parts the schema from an object, which is cut down to it, filled in and judged.
#![no_main]

use api::Path;
use api::kinds::crd::Structural;
use api::schema::Schema;
use serde_json::Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |b| *b == b'\n');
    let mut next = || parts.next().and_then(|b| serde_json::from_slice::<Value>(b).ok());
    let Some(schema) = next() else { return };
    let _ = Structural::violations(&schema, &Path::root());
    for v3 in [true, false] {
        let _ = api::kinds::crd::openapi(schema.clone(), v3);
    }
    let Ok(schema) = Structural::compile(&schema, &Path::root()) else { return };
    let Some(mut object) = next() else { return };
    let _ = api::codec::prune(&mut object, Schema::Custom(&schema));
    let again = api::codec::prune(&mut object, Schema::Custom(&schema));
    assert_eq!(again, Vec::<String>::new(), "what is cut down has nothing too much");
    schema.fill_in(&mut object);
    let once = object.clone();
    schema.fill_in(&mut object);
    assert_eq!(once, object, "defaults are set once");
    let faults = schema.validate(&object);
    let old = next().unwrap_or_else(|| object.clone());
    let _ = schema.validate_rules(&object, None, &faults);
    let _ = schema.validate_rules(&object, Some(&old), &faults);
    let _ = api::patch::strategic_merge(&old, &object, Schema::Custom(&schema));
});
