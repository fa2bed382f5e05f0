//! JSONPath as printer columns of CustomResourceDefinitions may use it, which is what kubectl's is without its texts and
//! `range`: `.a.b`, `['a']`, `[0]`, `[-1]`, `[1:3]`, `[::2]`, `[*]`, `.*`, `..a`, unions `[0,2]` and `['a','b']`, and
//! filters `[?(@.a)]`, `[?(@.a=="b")]`, with `!=`, `<`, `<=`, `>`, `>=` too.
//!
//! What does not fit what is there (an index beyond the end, a comparison of a number with a text) leads nowhere, as upstream
//! leaves such a cell empty.

use std::cmp::Ordering;

use serde_json::Value;

use crate::{Error, Result};

/// A parsed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonPath(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Field(String),
    Slice(Slice),
    All,
    /// Everything that holds something, from here down.
    Recursive,
    Union(Vec<JsonPath>),
    Filter {
        left: JsonPath,
        /// Nothing: the left side merely has to be there.
        right: Option<(Test, Operand)>,
    },
}

/// The items of a list from one place to before another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Slice {
    start: Option<i64>,
    end: End,
    step: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// One item.
    Next,
    /// Up to the end.
    Open,
    Before(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Test {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// The right side of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    Path(JsonPath),
    Literal(Value),
}

/// It leads nowhere.
struct Nowhere;

/// How many values there may be on the way: what is below each other is found again by each `..`.
const MAX_FOUND: usize = 10_000;

impl JsonPath {
    /// Parses a path; a leading `$` or `.` and surrounding braces may be left out.
    pub fn parse(text: &str) -> Result<JsonPath> {
        let rest = text.trim();
        let rest = rest.strip_prefix('{').and_then(|r| r.strip_suffix('}')).unwrap_or(rest);
        steps(rest, MAX_NESTED)
            .map_err(|why| Error::Invalid(format!("{why} in JSONPath {}", crate::field::quote(text))))
    }

    /// The values that it leads to.
    pub fn find<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        self.walk(vec![value]).unwrap_or_default()
    }

    fn walk<'a>(&self, from: Vec<&'a Value>) -> std::result::Result<Vec<&'a Value>, Nowhere> {
        let mut at = from;
        for step in &self.0 {
            let mut next = Vec::new();
            match step {
                Step::Union(paths) => {
                    for path in paths {
                        next.extend(path.walk(at.clone())?);
                    }
                }
                _ => {
                    for v in at {
                        match step {
                            Step::Recursive => holders(v, &mut next),
                            _ => step.take(v, &mut next)?,
                        }
                        if next.len() > MAX_FOUND {
                            return Err(Nowhere);
                        }
                    }
                }
            }
            at = next;
        }
        Ok(at)
    }
}

impl Step {
    fn take<'a>(&self, v: &'a Value, next: &mut Vec<&'a Value>) -> std::result::Result<(), Nowhere> {
        match (self, v) {
            (_, Value::Null) => {}
            (Step::Field(name), v) => next.extend(v.get(name)),
            (Step::All, Value::Array(list)) => next.extend(list),
            (Step::All, Value::Object(map)) => next.extend(map.values()),
            (Step::Slice(slice), Value::Array(list)) => next.extend(slice.of(list)?),
            (Step::Filter { left, right }, Value::Array(list)) => {
                for item in list {
                    let holds = match right {
                        None => left.walk(vec![item]).is_ok_and(|found| !found.is_empty()),
                        Some((test, operand)) => compare(item, left, *test, operand)?,
                    };
                    if holds {
                        next.push(item);
                    }
                }
            }
            (Step::Slice(_) | Step::Filter { .. }, _) => return Err(Nowhere),
            _ => {}
        }
        Ok(())
    }
}

/// A value that holds others, and all below it that do.
fn holders<'a>(v: &'a Value, found: &mut Vec<&'a Value>) {
    match v {
        Value::Array(list) if !list.is_empty() => {
            found.push(v);
            list.iter().for_each(|v| holders(v, found));
        }
        Value::Object(map) if !map.is_empty() => {
            found.push(v);
            map.values().for_each(|v| holders(v, found));
        }
        _ => {}
    }
}

impl Slice {
    fn of<'a>(&self, list: &'a [Value]) -> std::result::Result<impl Iterator<Item = &'a Value>, Nowhere> {
        let len = i64::try_from(list.len()).map_err(|_| Nowhere)?;
        let from_end = |n: i64| if n < 0 { len.saturating_add(n) } else { n };
        let start = from_end(self.start.unwrap_or(0));
        let end = match self.end {
            End::Next => start.saturating_add(1),
            End::Open => len,
            End::Before(n) => from_end(n),
        };
        let wanted = if start == end {
            &[][..]
        } else {
            let range =
                usize::try_from(start).map_err(|_| Nowhere)?..usize::try_from(end).map_err(|_| Nowhere)?;
            list.get(range).ok_or(Nowhere)?
        };
        let step = usize::try_from(self.step).ok().filter(|n| *n > 0).ok_or(Nowhere)?;
        Ok(wanted.iter().step_by(step))
    }
}

/// Whether an item of a list passes. Where one of the sides is not there it does not, whatever the comparison.
fn compare(
    item: &Value,
    left: &JsonPath,
    test: Test,
    operand: &Operand,
) -> std::result::Result<bool, Nowhere> {
    let one = |found: Vec<&Value>| match found[..] {
        [] => Ok(None),
        [one] => Ok(Some(one.clone())),
        _ => Err(Nowhere),
    };
    let Some(left) = one(left.walk(vec![item])?)? else { return Ok(false) };
    let right = match operand {
        Operand::Literal(value) => Some(value.clone()),
        Operand::Path(path) => one(path.walk(vec![item])?)?,
    };
    let Some(right) = right else { return Ok(false) };
    let order = match (&left, &right) {
        (Value::String(a), Value::String(b)) => a.cmp(b),
        (Value::Number(a), Value::Number(b)) => match (a.as_i64(), b.as_i64()) {
            (Some(a), Some(b)) => a.cmp(&b),
            _ => a.as_f64().partial_cmp(&b.as_f64()).ok_or(Nowhere)?,
        },
        (Value::Bool(a), Value::Bool(b)) if matches!(test, Test::Equal | Test::NotEqual) => a.cmp(b),
        _ => return Err(Nowhere),
    };
    Ok(match test {
        Test::Equal => order == Ordering::Equal,
        Test::NotEqual => order != Ordering::Equal,
        Test::Less => order == Ordering::Less,
        Test::LessOrEqual => order != Ordering::Greater,
        Test::Greater => order == Ordering::Greater,
        Test::GreaterOrEqual => order != Ordering::Less,
    })
}

/// How deeply filters may be in filters.
const MAX_NESTED: usize = 8;

type Parsed<T> = std::result::Result<T, &'static str>;

fn steps(text: &str, nested: usize) -> Parsed<JsonPath> {
    let mut rest = text.trim();
    rest = rest.strip_prefix(['$', '@']).unwrap_or(rest);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix("[?(") {
            let end = filter_end(inner).ok_or("an unterminated filter")?;
            steps.push(filter(&inner[..end], nested)?);
            rest = inner[end..].strip_prefix(")]").ok_or("a filter without ]")?;
        } else if let Some(inner) = rest.strip_prefix('[') {
            let end = close(inner).ok_or("unterminated [")?;
            bracket(&inner[..end], nested, &mut steps)?;
            rest = &inner[end + 1..];
        } else if let Some(below) = rest.strip_prefix("..") {
            if steps.last() == Some(&Step::Recursive) || below.starts_with('.') {
                return Err("more than one .. together");
            }
            steps.push(Step::Recursive);
            rest = below;
            if rest.starts_with(|c: char| c == '_' || c == '*' || c.is_alphanumeric()) {
                rest = field(rest, &mut steps)?;
            }
        } else {
            let named = rest.strip_prefix('.').unwrap_or(rest);
            if named.is_empty() && steps.is_empty() {
                break;
            }
            rest = field(named, &mut steps)?;
        }
    }
    Ok(JsonPath(steps))
}

/// Takes a field's name off the text.
fn field<'a>(text: &'a str, steps: &mut Vec<Step>) -> Parsed<&'a str> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    let mut end = text.len();
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
    match name.as_str() {
        "" => return Err("an empty field name"),
        "*" => steps.push(Step::All),
        _ => steps.push(Step::Field(name)),
    }
    Ok(&text[end..])
}

/// What stands in brackets.
fn bracket(body: &str, nested: usize, to: &mut Vec<Step>) -> Parsed<()> {
    let unquoted = |q: char| body.strip_prefix(q)?.strip_suffix(q).filter(|inner| !inner.contains(q));
    if let Some(name) = unquoted('\'').or_else(|| unquoted('"')) {
        // Dots in it part fields, as elsewhere, unless there is a backslash before them.
        to.extend(steps(&format!(".{name}"), nested)?.0);
    } else if body.contains(',') {
        let each = body.split(',').map(|one| {
            let mut of = Vec::new();
            bracket(one.trim(), nested, &mut of).map(|()| JsonPath(of))
        });
        to.push(Step::Union(each.collect::<Parsed<_>>()?));
    } else if body == "*" {
        to.push(Step::All);
    } else {
        let mut parts = body.split(':').map(|n| match n {
            "" => Ok(None),
            n => n.parse().map(Some).map_err(|_| "a bad index"),
        });
        let start = parts.next().transpose()?.flatten();
        let end = match parts.next().transpose()? {
            None if start.is_none() => return Err("an empty index"),
            None => End::Next,
            Some(None) => End::Open,
            Some(Some(n)) => End::Before(n),
        };
        let step = parts.next().transpose()?.flatten().unwrap_or(1);
        if parts.next().is_some() {
            return Err("a bad index");
        }
        to.push(Step::Slice(Slice { start, end, step }));
    }
    Ok(())
}

fn filter(text: &str, nested: usize) -> Parsed<Step> {
    let nested = nested.checked_sub(1).ok_or("filters nested too deeply")?;
    let at = text.find(['!', '<', '=', '>']);
    let Some(at) = at.filter(|at| !text[..*at].contains(['\'', '"'])) else {
        return side(text).and_then(|path| Ok(Step::Filter { left: steps(path, nested)?, right: None }));
    };
    let (left, operator) = text.split_at(at);
    let length = operator.find(|c| !matches!(c, '!' | '<' | '=' | '>' | '~')).unwrap_or(operator.len());
    let (operator, right) = operator.split_at(length);
    let test = match operator {
        "==" => Test::Equal,
        "!=" => Test::NotEqual,
        "<" => Test::Less,
        "<=" => Test::LessOrEqual,
        ">" => Test::Greater,
        ">=" => Test::GreaterOrEqual,
        _ => return Err("an unrecognized filter operator"),
    };
    let right = right.trim();
    let unquoted = |q: char| right.strip_prefix(q).and_then(|r| r.strip_suffix(q));
    let operand = match (unquoted('\'').or_else(|| unquoted('"')), right) {
        (Some(literal), _) => Operand::Literal(literal.into()),
        (None, "true" | "false") => Operand::Literal((right == "true").into()),
        (None, right) => match right.parse::<serde_json::Number>() {
            Ok(number) => Operand::Literal(Value::Number(number)),
            Err(_) => Operand::Path(steps(side(right)?, nested)?),
        },
    };
    Ok(Step::Filter { left: steps(side(left)?, nested)?, right: Some((test, operand)) })
}

/// One side of a filter that is a path.
fn side(text: &str) -> Parsed<&str> {
    let text = text.trim();
    if text.starts_with(['@', '$', '.', '[']) { Ok(text) } else { Err("a filter that is not understood") }
}

/// Where the filter opened before `text` ends: at its parenthesis, quotes respected.
fn filter_end(text: &str) -> Option<usize> {
    let (mut quote, mut open) = (None, 0usize);
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '(') => open += 1,
            (None, ')') if open == 0 => return Some(i),
            (None, ')') => open -= 1,
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            _ => {}
        }
    }
    None
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths() {
        let value = json!({"a": {"b.c": [1, 2, 3], "b": {"c": "x"}},
            "status": {"conditions": [{"type": "X", "status": "False"}, {"type": "Ready", "status": "True"}]},
            "spec": {"ports": [{"n": 1, "max": 2}, {"n": 5, "max": 2, "name": "web"}, {"name": "a)]"}],
                "deep": {"name": "d"}}});
        for (path, want) in [
            (".a['b\\.c'][1]", json!([2])),
            (".a['b.c']", json!(["x"])),
            ("{.a.b\\.c[-1]}", json!([3])),
            ("$.a['b\\.c'][*]", json!([1, 2, 3])),
            (".a.b\\.c[1:]", json!([2, 3])),
            (".a.b\\.c[:-1]", json!([1, 2])),
            (".a.b\\.c[0:3:2]", json!([1, 3])),
            (".a.b\\.c[::2]", json!([1, 3])),
            (".a.b\\.c[0,2]", json!([1, 3])),
            (".a.b\\.c[-5]", json!([])),
            (".a.b\\.c[3]", json!([])),
            (".spec.deep['name', 'none']", json!(["d"])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type!='Ready')].status", json!(["False"])),
            (".status.conditions[?(@.none!='Ready')].status", json!([])),
            (".spec.ports[?(@.name)].name", json!(["web", "a)]"])),
            (".spec.ports[?(@.name=='a)]')].name", json!(["a)]"])),
            (".spec.ports[?(@.n>1)].n", json!([5])),
            (".spec.ports[?(@.n <= 1)].n", json!([1])),
            (".spec.ports[?(@.n > @.max)].name", json!(["web"])),
            // A number is not comparable with a text.
            (".spec.ports[?(@.n=='1')].n", json!([])),
            (".spec..name", json!(["web", "a)]", "d"])),
            ("..c", json!(["x"])),
            (".spec.ports[*]..max", json!([2, 2])),
            (".nothing.here", json!([])),
            (".spec[0]", json!([])),
            (".", json!([value])),
        ] {
            let found: Vec<Value> =
                JsonPath::parse(path).unwrap().find(&value).into_iter().cloned().collect();
            assert_eq!(json!(found), want, "{path}");
        }
        for path in [
            ".a[",
            ".a[x]",
            ".a...b",
            ".a[?(b)]",
            ".a[?(@.b=~'c')]",
            ".a[]",
            ".a[1:2:3:4]",
            ".a[?(@.b]",
            ".a.",
        ] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
        let nested = (0..50).fold(json!(1), |inner, _| json!({"a": inner}));
        let many = JsonPath::parse(&"..*".repeat(20)).unwrap();
        assert!(many.find(&nested).is_empty());
        let deep = format!(".a{}@.b{}", "[?(".repeat(50), ")]".repeat(50));
        assert!(JsonPath::parse(&deep).is_err());
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in "[a.\\[\\]'\"?(@=!)*0-9é\\\\:,<>-]{0,30}") {
            if let Ok(path) = JsonPath::parse(&text) {
                let _ = path.find(&json!({"a": [{"a": 1}]}));
            }
        }
    }
}
