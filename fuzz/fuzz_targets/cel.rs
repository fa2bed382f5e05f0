//! Expressions: whatever the text, an evaluation ends within its budget. A line break parts the text from the object; there
//! are large values, too, whose costs show where they are not counted.
#![no_main]

use std::sync::LazyLock;

use api::access::{Ask, Decision};
use api::cel::{Authorizer, CALL_BUDGET, Program};
use serde_json::{Value, json};

/// A long text, a long list, and a list of long texts.
static LARGE: LazyLock<[(&str, Value); 3]> = LazyLock::new(|| {
    let text = "ab".repeat(200_000);
    let texts = vec![text.as_str(); 50];
    [("big", json!(text)), ("many", json!((0..5_000).collect::<Vec<_>>())), ("texts", json!(texts))]
});

/// Allows nothing.
#[derive(Debug)]
struct Nobody;

impl Authorizer for Nobody {
    fn resource(&self) -> [&str; 5] {
        ["", "pods", "", "default", "a"]
    }

    fn decide(&self, _: Option<(&str, &str)>, _: &Ask<'_>) -> Decision {
        Decision::NoOpinion(String::new())
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |b| *b == b'\n');
    let Some(Ok(text)) = parts.next().map(std::str::from_utf8) else { return };
    let _ = api::cel::check_condition(text, &[]);
    let Ok(program) = Program::parse(text) else { return };
    let object: Value = parts.next().and_then(|b| serde_json::from_slice(b).ok()).unwrap_or_default();
    let mut budget = CALL_BUDGET / 10;
    let mut variables = vec![("self", &object), ("object", &object)];
    variables.extend(LARGE.iter().map(|(name, value)| (*name, value)));
    let _ = program.condition(&variables, &Nobody, &mut budget);
});
