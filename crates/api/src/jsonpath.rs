//! The part of JSONPath that CustomResourceDefinitions use for printer columns and selectable fields:
//! `.a.b`, `['a.b']`, `[0]`, `[-1]`, `[*]`, and `[?(@.type=="Ready")]` with `==` or `!=`.

use serde_json::Value;

use crate::{Error, Result};

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Index(i64),
    All,
    Filter { path: Vec<String>, equal: bool, value: String },
}

impl JsonPath {
    /// Parses a path; a leading `$` or `.` and surrounding braces may be left out.
    pub fn parse(text: &str) -> Result<JsonPath> {
        let bad = |why: &str| Error::Invalid(format!("{why} in JSONPath {}", crate::field::quote(text)));
        let mut rest = text.trim();
        rest = rest.strip_prefix('{').and_then(|r| r.strip_suffix('}')).unwrap_or(rest);
        rest = rest.strip_prefix('$').unwrap_or(rest);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(inner) = rest.strip_prefix('[') {
                let end = close(inner).ok_or_else(|| bad("unterminated ["))?;
                let (body, tail) = (&inner[..end], &inner[end + 1..]);
                rest = tail;
                let unquoted = |q: char| body.strip_prefix(q).and_then(|b| b.strip_suffix(q));
                if body == "*" {
                    steps.push(Step::All);
                } else if let Some(name) = unquoted('\'').or_else(|| unquoted('"')) {
                    steps.push(Step::Field(name.to_owned()));
                } else if let Some(filter) = body.strip_prefix("?(").and_then(|b| b.strip_suffix(')')) {
                    steps.push(parse_filter(filter).ok_or_else(|| bad("a filter that is not understood"))?);
                } else {
                    steps.push(Step::Index(body.parse().map_err(|_| bad("a bad index"))?));
                }
                continue;
            }
            rest = rest.strip_prefix('.').unwrap_or(rest);
            let mut name = String::new();
            let mut chars = rest.char_indices();
            let mut end = rest.len();
            while let Some((i, c)) = chars.next() {
                match c {
                    '\\' => name.extend(chars.next().map(|(_, c)| c)),
                    '.' | '[' => {
                        end = i;
                        break;
                    }
                    c => name.push(c),
                }
            }
            rest = &rest[end..];
            match name.as_str() {
                "" if rest.is_empty() && steps.is_empty() => break,
                "" => return Err(bad("an empty field name")),
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Field(name)),
            }
        }
        Ok(JsonPath(steps))
    }

    /// The values that it leads to.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        let mut at = vec![value];
        for step in &self.0 {
            let mut next = Vec::new();
            for v in at {
                match step {
                    Step::Field(name) => next.extend(v.get(name)),
                    Step::Index(i) => {
                        let list = v.as_array().map(Vec::as_slice).unwrap_or_default();
                        let len = i64::try_from(list.len()).unwrap_or(i64::MAX);
                        let i = if *i < 0 { len + i } else { *i };
                        next.extend(usize::try_from(i).ok().and_then(|i| list.get(i)));
                    }
                    Step::All => match v {
                        Value::Array(list) => next.extend(list),
                        Value::Object(map) => next.extend(map.values()),
                        _ => {}
                    },
                    Step::Filter { path, equal, value } => {
                        for item in v.as_array().into_iter().flatten() {
                            let field = path.iter().try_fold(item, |v, p| v.get(p));
                            let text = field.map(|f| f.as_str().map_or_else(|| f.to_string(), str::to_owned));
                            if (text.as_ref() == Some(value)) == *equal {
                                next.push(item);
                            }
                        }
                    }
                }
            }
            at = next;
        }
        at
    }
}

/// Where the bracket opened before `text` closes, quotes respected.
fn close(text: &str) -> Option<usize> {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, ']') => return Some(i),
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            _ => {}
        }
    }
    None
}

fn parse_filter(text: &str) -> Option<Step> {
    let (left, equal, right) = match text.split_once("==") {
        Some((l, r)) => (l, true, r),
        None => {
            let (l, r) = text.split_once("!=")?;
            (l, false, r)
        }
    };
    let path =
        left.trim().strip_prefix('@')?.split('.').filter(|p| !p.is_empty()).map(str::to_owned).collect();
    let right = right.trim();
    let value =
        right.strip_prefix(['\'', '"']).and_then(|r| r.strip_suffix(['\'', '"'])).unwrap_or(right).to_owned();
    Some(Step::Filter { path, equal, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let value = json!({"a": {"b.c": [1, 2, 3]}, "status": {"conditions": [{"type": "X", "status": "False"}, {"type": "Ready", "status": "True"}]}});
        for (path, want) in [
            (".a['b.c'][1]", json!([2])),
            ("{.a.b\\.c[-1]}", json!([3])),
            ("$.a['b.c'][*]", json!([1, 2, 3])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type!='Ready')].status", json!(["False"])),
            (".nothing.here", json!([])),
        ] {
            let found: Vec<Value> =
                JsonPath::parse(path).unwrap().find(&value).into_iter().cloned().collect();
            assert_eq!(json!(found), want, "{path}");
        }
        for path in [".a[", ".a[x]", ".a..b", ".a[?(b)]"] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in "[a.\\[\\]'\"?(@=!)*0-9é\\\\-]{0,30}") {
            if let Ok(path) = JsonPath::parse(&text) {
                let _ = path.find(&json!({"a": [{"a": 1}]}));
            }
        }
    }
}
