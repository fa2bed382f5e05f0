//! JSON with duplicate fields noticed.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::Map;

/// How many lists and objects may be inside one another: what can be written can be read again.
pub const MAX_DEPTH: usize = 127;
/// How many fields that should not be there are told of, as upstream: a body may have any number.
pub const MAX_PROBLEMS: usize = 100;

/// How long a path may be, in bytes, before it is not made any longer.
const LONG: usize = 4 << 10;

/// Whether a value nests no deeper than `levels`.
pub fn nests_within(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(list) => levels > 0 && list.iter().all(|v| nests_within(v, levels - 1)),
        Value::Object(map) => levels > 0 && map.values().all(|v| nests_within(v, levels - 1)),
        _ => true,
    }
}

/// Parses JSON. The second part of the answer names the first [`MAX_PROBLEMS`] fields that occur twice (the last one
/// counts), as `spec.containers[0].image`. Nesting beyond [`MAX_DEPTH`] is an error.
pub fn parse(bytes: &[u8]) -> Result<(Value, Vec<String>), String> {
    let mut duplicates = Vec::new();
    let mut de = serde_json::Deserializer::from_slice(bytes);
    let value = Noting(&mut duplicates).deserialize(&mut de).map_err(|e| e.to_string())?;
    de.end().map_err(|e| e.to_string())?;
    Ok((value, duplicates))
}

/// Reads a value and notes which of its fields occur twice.
pub(super) struct Noting<'a>(pub &'a mut Vec<String>);

impl<'de> DeserializeSeed<'de> for Noting<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Noting<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let mut start = self.0.len();
        while let Some(item) = seq.next_element_seed(Noting(self.0))? {
            for path in &mut self.0[start..] {
                extend(path, &format!("[{}]", list.len()));
            }
            start = self.0.len();
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let start = self.0.len();
            let value = access.next_value_seed(Noting(self.0))?;
            for path in &mut self.0[start..] {
                extend(path, &key);
            }
            if self.0.len() < MAX_PROBLEMS && map.contains_key(&key) {
                self.0.push(key.clone());
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Puts what is around a field before its path.
fn extend(inner: &mut String, outer: &str) {
    if inner.len() < LONG {
        let between = if inner.starts_with('[') { "" } else { "." };
        *inner = format!("{outer}{between}{inner}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_what_they_were() {
        for text in ["1e82", "0.1", "2.2250738585072014e-308", "123456789012345.67", "9007199254740993.5e10"]
        {
            let (value, _) = parse(text.as_bytes()).unwrap();
            assert_eq!(value.as_f64(), text.parse().ok(), "{text}");
            assert_eq!(parse(value.to_string().as_bytes()).unwrap().0, value, "{text}");
        }
    }

    #[test]
    fn duplicates_are_named() {
        let (value, duplicates) =
            parse(br#"{"a":{"b":[{"c":1,"c":2}],"b":[[{"x":0,"x":1}]]},"a":{}}"#).unwrap();
        assert_eq!(value, serde_json::json!({"a": {}}));
        assert_eq!(duplicates, ["a.b[0].c", "a.b[0][0].x", "a.b", "a"]);
        let many = format!("{{{}\"b\":1}}", "\"a\":0,".repeat(1000));
        assert_eq!(parse(many.as_bytes()).unwrap().1.len(), MAX_PROBLEMS);
        assert!(parse(b"{} x").is_err());
        assert!(parse(&b"[".repeat(10_000)).is_err());
    }

    #[test]
    fn what_may_be_written_can_be_read() {
        let nested = |n: usize| (0..n).fold(serde_json::json!(1), |v, _| serde_json::json!([v]));
        for n in [0, 1, MAX_DEPTH, MAX_DEPTH + 1] {
            let text = crate::object::encode(&nested(n));
            assert_eq!(parse(&text).is_ok(), n <= MAX_DEPTH, "{n}");
            assert_eq!(nests_within(&nested(n), MAX_DEPTH), n <= MAX_DEPTH, "{n}");
        }
    }
}
