//! Patches of every kind: a first byte says which, a line break parts the object from the patch.
#![no_main]

use api::patch;
use api::schema::TypeId;
use serde_json::Value;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let [kind, rest @ ..] = bytes else { return };
    let Some(at) = rest.iter().position(|b| *b == b'\n') else { return };
    let (object, change) = (&rest[..at], &rest[at + 1..]);
    let (Ok(mut object), Ok(change)) =
        (serde_json::from_slice::<Value>(object), serde_json::from_slice::<Value>(change))
    else {
        return;
    };
    let Some(pod) = TypeId::named("io.k8s.api.core.v1.Pod") else { return };
    match kind % 3 {
        0 => {
            let _ = patch::json_patch(&object, &change);
        }
        1 => {
            patch::merge_patch(&mut object, &change);
            let once = object.clone();
            patch::merge_patch(&mut object, &change);
            assert_eq!(once, object, "a merge patch changes nothing the second time");
        }
        _ => {
            let _ = patch::strategic_merge(&object, &change, pod.schema());
        }
    }
});
