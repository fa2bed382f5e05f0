//! Patches of every kind: a first byte says which, a second of what, a line break parts the object from the patch.
#![no_main]

use api::kinds;
use api::names::gvr;
use api::patch::{self, apply};
use api::schema::Schema;
use serde_json::Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [how, what, rest @ ..] = bytes else { return };
    let Some(at) = rest.iter().position(|b| *b == b'\n') else { return };
    let (object, change) = (&rest[..at], &rest[at + 1..]);
    let (Ok(mut object), Ok(change)) =
        (serde_json::from_slice::<Value>(object), serde_json::from_slice::<Value>(change))
    else {
        return;
    };
    let gvrs = [gvr::PODS, gvr::SERVICES, gvr::DEPLOYMENTS, gvr::NODES];
    let Some(kind) = kinds::by_gvr(&gvrs[usize::from(what % 4)]) else { return };
    let schema = if *what > 128 { Schema::Any } else { kind.schema() };
    match how % 4 {
        0 => {
            let _ = patch::json_patch(&object, &change);
        }
        1 => {
            patch::merge_patch(&mut object, &change);
            let once = object.clone();
            patch::merge_patch(&mut object, &change);
            assert_eq!(once, object, "a merge patch changes nothing the second time");
        }
        2 => {
            let _ = patch::strategic_merge(&object, &change, schema);
        }
        _ => {
            let now = "2024-01-02T03:04:05Z".parse().unwrap();
            let version = kind.api_version();
            let writer = |manager| api::patch::Writer {
                manager,
                now,
                subresource: "",
                api_version: &version,
                has_status: true,
            };
            let live = object.is_object().then_some(&object);
            let versions = apply::OneVersion(schema);
            let Ok(first) = apply::apply(live, &change, &versions, writer("a"), *how > 128) else { return };
            let mut updated = object.clone();
            let tracked = apply::track_update(Some(&first), &mut updated, &versions, writer("b"));
            assert!(tracked.is_ok(), "nothing is to be converted");
            let second = apply::apply(Some(&first), &change, &versions, writer("a"), false);
            // Managed fields that came with the object may say anything.
            if object["metadata"]["managedFields"].is_null() {
                assert_eq!(second.ok(), Some(first), "what is applied twice is applied once");
            }
        }
    }
});
