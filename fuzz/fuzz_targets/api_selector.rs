//! Label and field selectors, quantities, durations and JSON paths: what parses reads the same when it is written. What
//! stands behind a line break is an object that a path is looked for in.
#![no_main]

use api::jsonpath::JsonPath;
use api::quantity::Quantity;
use api::selector::{Field, Label};

libfuzzer_sys::fuzz_target!(|text: &str| {
    if let Ok(selector) = Label::parse(text) {
        assert!(Label::parse(&selector.to_string()).is_ok(), "{selector}");
    }
    let _ = Field::parse(text);
    let _ = api::duration::parse(text);
    let (path, object) = text.split_once('\n').unwrap_or((text, r#"{"a":[{"b":1},{"b":2}],"c":"d"}"#));
    if let (Ok(path), Ok(object)) = (JsonPath::parse(path), serde_json::from_str(object)) {
        let _ = path.find(&object);
    }
    if let Ok(quantity) = Quantity::parse(text) {
        let again = Quantity::parse(&quantity.to_string()).unwrap();
        assert_eq!(again, quantity, "{quantity}");
    }
});
