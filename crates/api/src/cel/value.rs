//! Values of expressions. What comes from an object stays where it is and is looked at when it is needed.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::ops::Deref;
use std::rc::Rc;

use indexmap::IndexMap;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::authorizer::Auth;
use super::eval::{Fault, draw};
use crate::Map;
use crate::kinds::crd::Structural;
use crate::quantity::Quantity;
use crate::schema::ListType;

/// A text, where it is: to have it once more costs nothing, however long it is.
#[derive(Clone)]
pub(crate) enum Text<'a> {
    /// Of the object at hand or of the expression.
    Given(&'a str),
    /// Made by a function.
    Made(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Given(s) => s,
            Text::Made(s) => s,
        }
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&**self, f)
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        self
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text<'_> {}

impl Hash for Text<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

/// The key of a map that an expression made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key<'a> {
    Bool(bool),
    Int(i64),
    Text(Text<'a>),
}

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Text<'a>),
    Bytes(Rc<[u8]>),
    List(Rc<Vec<Val<'a>>>),
    Map(Rc<IndexMap<Key<'a>, Val<'a>>>),
    /// A list of the object at hand, and its schema.
    Array(&'a [Value], Option<&'a Structural>),
    /// An object or map of the object at hand, and its schema.
    Object(&'a Map, Option<&'a Structural>),
    Timestamp(Timestamp),
    Duration(SignedDuration),
    Type(&'static str),
    Optional(Option<Rc<Val<'a>>>),
    Quantity(Quantity),
    Url(Rc<url::Url>),
    Ip(IpAddr),
    Cidr(IpNet),
    Semver(Rc<semver::Version>),
    Format(&'static str),
    Auth(Rc<Auth<'a>>),
}

/// What is no name in an expression: a property of this name is escaped, a variable cannot have it.
pub(crate) const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// How a property is spelled in an expression, undone: `__dash__` and its kind, and reserved words.
pub(crate) fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains("__") {
        return Cow::Borrowed(name);
    }
    if let Some(word) = name.strip_prefix("__").and_then(|n| n.strip_suffix("__"))
        && RESERVED.contains(&word)
    {
        return Cow::Owned(word.to_owned());
    }
    let mut out = String::new();
    let mut rest = name;
    while let Some(at) = rest.find("__") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let found = [("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")]
            .into_iter()
            .find(|(escape, _)| rest.starts_with(escape));
        let (escape, meaning) = found.unwrap_or(("__", "__"));
        out.push_str(meaning);
        rest = &rest[escape.len()..];
    }
    out.push_str(rest);
    Cow::Owned(out)
}

impl<'a> Val<'a> {
    /// What a field of an object is to an expression: times, durations and bytes are those, if the schema says so.
    pub fn of(value: &'a Value, schema: Option<&'a Structural>) -> Val<'a> {
        match value {
            Value::Null => Val::Null,
            Value::Bool(b) => Val::Bool(*b),
            Value::Number(n) => {
                let whole = schema.is_none_or(|s| s.kind() != "number");
                match n.as_i64() {
                    Some(i) if whole => Val::Int(i),
                    _ => Val::Double(n.as_f64().unwrap_or(f64::NAN)),
                }
            }
            Value::String(s) => {
                let plain = Val::Text(Text::Given(s));
                match schema.map_or("", Structural::format) {
                    "date-time" => s.parse().map_or(plain, Val::Timestamp),
                    "date" => {
                        let date = s.parse::<jiff::civil::Date>().ok();
                        let time = date.and_then(|d| d.to_zoned(jiff::tz::TimeZone::UTC).ok());
                        time.map_or(plain, |z| Val::Timestamp(z.timestamp()))
                    }
                    "duration" => duration(s).map_or(plain, Val::Duration),
                    "byte" => {
                        let engine = &base64::engine::general_purpose::STANDARD;
                        base64::Engine::decode(engine, s).map_or(plain, |b| Val::Bytes(b.into()))
                    }
                    _ => plain,
                }
            }
            Value::Array(list) => Val::Array(list, schema),
            Value::Object(map) => Val::Object(map, schema),
        }
    }

    pub fn text(s: impl Into<Rc<str>>) -> Val<'a> {
        Val::Text(Text::Made(s.into()))
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Val::Text(s) => Some(s),
            _ => None,
        }
    }

    pub fn list(items: Vec<Val<'a>>) -> Val<'a> {
        Val::List(Rc::new(items))
    }

    pub fn some(value: Val<'a>) -> Val<'a> {
        Val::Optional(Some(Rc::new(value)))
    }

    /// The items of a list.
    pub fn items(&self) -> Option<Vec<Val<'a>>> {
        match self {
            Val::List(list) => Some(list.as_ref().clone()),
            Val::Array(list, schema) => {
                let items = schema.and_then(Structural::items_schema);
                Some(list.iter().map(|v| Val::of(v, items)).collect())
            }
            _ => None,
        }
    }

    /// What a comprehension runs over, one at a time: the items of a list, the keys of a map.
    pub fn range(&self) -> Option<Box<dyn Iterator<Item = Val<'a>> + 'a>> {
        Some(match self {
            Val::Map(map) => {
                let map = map.clone();
                Box::new((0..map.len()).filter_map(move |i| Some(map.get_index(i)?.0.value())))
            }
            Val::Object(map, _) => Box::new(map.keys().map(|k| Val::Text(Text::Given(k)))),
            Val::List(list) => {
                let list = list.clone();
                Box::new((0..list.len()).map(move |i| list[i].clone()))
            }
            Val::Array(list, schema) => {
                let items = schema.and_then(Structural::items_schema);
                Box::new(list.iter().map(move |v| Val::of(v, items)))
            }
            _ => return None,
        })
    }

    /// How many items, characters or bytes it has; 0 for what has none.
    pub fn len(&self) -> usize {
        match self {
            Val::Text(s) => s.chars().count(),
            Val::Bytes(b) => b.len(),
            Val::List(l) => l.len(),
            Val::Map(m) => m.len(),
            Val::Array(l, _) => l.len(),
            Val::Object(m, _) => m.len(),
            Val::Auth(auth) => auth.len(),
            _ => 0,
        }
    }

    /// How long it is as a text or as bytes; 0 for everything else.
    pub fn bytes(&self) -> usize {
        match self {
            Val::Text(s) => s.len(),
            Val::Bytes(b) => b.len(),
            _ => 0,
        }
    }

    /// A field or an entry by its name.
    pub fn field(&self, name: &str) -> Option<Val<'a>> {
        match self {
            Val::Map(map) => map.get(&Key::Text(Text::Given(name))).cloned(),
            Val::Object(map, schema) => {
                let (name, value) = match schema {
                    // Entries of a map are not spelled otherwise in an expression; properties are.
                    Some(s) if !s.is_map() => {
                        let plain = unescape(name);
                        let value = map.get(plain.as_ref())?;
                        (plain, value)
                    }
                    _ => (Cow::Borrowed(name), map.get(name)?),
                };
                let schema = schema.and_then(|s| s.value_schema(&name));
                Some(Val::of(value, schema))
            }
            _ => None,
        }
    }

    /// An entry of a map or an item of a list.
    pub fn index(&self, key: &Val<'a>) -> Result<Option<Val<'a>>, String> {
        let at = |n: usize| {
            let i = key.whole().ok_or_else(|| no_overload("_[_]"))?;
            Ok::<_, String>(usize::try_from(i).ok().filter(|i| *i < n))
        };
        Ok(match self {
            Val::List(list) => at(list.len())?.map(|i| list[i].clone()),
            Val::Array(list, schema) => {
                at(list.len())?.map(|i| Val::of(&list[i], schema.and_then(Structural::items_schema)))
            }
            Val::Map(map) => key.key().and_then(|k| map.get(&k).cloned()),
            Val::Object(map, schema) => match key {
                Val::Text(name) => {
                    map.get(name.as_ref()).map(|v| Val::of(v, schema.and_then(|s| s.value_schema(name))))
                }
                _ => None,
            },
            _ => return Err(no_overload("_[_]")),
        })
    }

    /// A whole number, whatever it is written as.
    pub fn whole(&self) -> Option<i64> {
        match self {
            Val::Int(i) => Some(*i),
            Val::Uint(u) => i64::try_from(*u).ok(),
            Val::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => Some(*d as i64),
            _ => None,
        }
    }

    pub fn key(&self) -> Option<Key<'a>> {
        match self {
            Val::Bool(b) => Some(Key::Bool(*b)),
            Val::Text(s) => Some(Key::Text(s.clone())),
            other => other.whole().map(Key::Int),
        }
    }

    /// The name of its type.
    pub fn type_name(&self) -> &'static str {
        match self {
            Val::Auth(auth) => auth.type_name(),
            Val::Null => "null_type",
            Val::Bool(_) => "bool",
            Val::Int(_) => "int",
            Val::Uint(_) => "uint",
            Val::Double(_) => "double",
            Val::Text(_) => "string",
            Val::Bytes(_) => "bytes",
            Val::List(_) | Val::Array(..) => "list",
            Val::Map(_) => "map",
            Val::Object(_, schema) => {
                if schema.is_some_and(|s| !s.is_map()) {
                    "object"
                } else {
                    "map"
                }
            }
            Val::Timestamp(_) => "google.protobuf.Timestamp",
            Val::Duration(_) => "google.protobuf.Duration",
            Val::Type(_) => "type",
            Val::Optional(_) => "optional_type",
            Val::Quantity(_) => "kubernetes.Quantity",
            Val::Url(_) => "kubernetes.URL",
            Val::Ip(_) => "net.IP",
            Val::Cidr(_) => "net.CIDR",
            Val::Semver(_) => "kubernetes.Semver",
            Val::Format(_) => "kubernetes.NamedFormat",
        }
    }

    /// Whether two values are the same. Numbers are compared as numbers; lists that the schema calls a set or a map are
    /// compared without order. Draws from the budget for everything below the values themselves: an expression can make
    /// a value that is much larger, looked through, than the room it takes, because its parts may be one and the same.
    pub fn same(&self, other: &Val<'a>, budget: &mut u64) -> Result<bool, Fault> {
        Ok(match (self, other) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(a), Val::Bool(b)) => a == b,
            (Val::Text(a), Val::Text(b)) => alike(a.as_bytes(), b.as_bytes(), budget)?,
            (Val::Bytes(a), Val::Bytes(b)) => alike(a, b, budget)?,
            (Val::Timestamp(a), Val::Timestamp(b)) => a == b,
            (Val::Duration(a), Val::Duration(b)) => a == b,
            (Val::Type(a), Val::Type(b)) | (Val::Format(a), Val::Format(b)) => a == b,
            (Val::Quantity(a), Val::Quantity(b)) => a == b,
            (Val::Url(a), Val::Url(b)) => a == b,
            (Val::Ip(a), Val::Ip(b)) => a == b,
            (Val::Cidr(a), Val::Cidr(b)) => a == b,
            (Val::Semver(a), Val::Semver(b)) => a == b,
            (Val::Optional(a), Val::Optional(b)) => match (a, b) {
                (None, None) => true,
                (Some(a), Some(b)) => a.same(b, budget)?,
                _ => false,
            },
            (Val::List(_) | Val::Array(..), Val::List(_) | Val::Array(..)) => {
                if self.len() != other.len() {
                    return Ok(false);
                }
                let length = self.len() as u64;
                let (Some(a), Some(mut b)) = (self.range(), other.range()) else { return Ok(false) };
                if self.unordered() || other.unordered() {
                    draw(budget, length.saturating_add(length.saturating_mul(length) / 4))?;
                    return every(a, &b.collect::<Vec<_>>(), budget);
                }
                draw(budget, length)?;
                for x in a {
                    if !b.next().map_or(Ok(false), |y| x.same(&y, budget))? {
                        return Ok(false);
                    }
                }
                true
            }
            (Val::Map(_) | Val::Object(..), Val::Map(_) | Val::Object(..)) => {
                let Some(keys) = self.range() else { return Ok(false) };
                if self.len() != other.len() {
                    return Ok(false);
                }
                draw(budget, self.len() as u64)?;
                for k in keys {
                    draw(budget, hundredth(k.bytes()))?;
                    let (Ok(Some(x)), Ok(Some(y))) = (self.index(&k), other.index(&k)) else {
                        return Ok(false);
                    };
                    if !x.same(&y, budget)? {
                        return Ok(false);
                    }
                }
                true
            }
            _ => self.compare(other) == Some(Ordering::Equal),
        })
    }

    fn unordered(&self) -> bool {
        matches!(self, Val::Array(_, Some(s)) if s.list_type() != ListType::Atomic)
    }

    /// The order of two values, where there is one.
    pub fn compare(&self, other: &Val<'a>) -> Option<Ordering> {
        match (self, other) {
            (Val::Int(a), Val::Int(b)) => Some(a.cmp(b)),
            (Val::Uint(a), Val::Uint(b)) => Some(a.cmp(b)),
            (Val::Int(a), Val::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Val::Uint(a), Val::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
            (Val::Double(a), Val::Double(b)) => a.partial_cmp(b),
            (Val::Double(a), Val::Int(b)) => a.partial_cmp(&(*b as f64)),
            (Val::Int(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
            (Val::Double(a), Val::Uint(b)) => a.partial_cmp(&(*b as f64)),
            (Val::Uint(a), Val::Double(b)) => (*a as f64).partial_cmp(b),
            (Val::Bool(a), Val::Bool(b)) => Some(a.cmp(b)),
            (Val::Text(a), Val::Text(b)) => Some((**a).cmp(&**b)),
            (Val::Bytes(a), Val::Bytes(b)) => Some(a.cmp(b)),
            (Val::Timestamp(a), Val::Timestamp(b)) => Some(a.cmp(b)),
            (Val::Duration(a), Val::Duration(b)) => Some(a.cmp(b)),
            (Val::Quantity(a), Val::Quantity(b)) => Some(a.cmp(b)),
            (Val::Semver(a), Val::Semver(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

impl<'a> Key<'a> {
    pub fn value(&self) -> Val<'a> {
        match self {
            Key::Bool(b) => Val::Bool(*b),
            Key::Int(i) => Val::Int(*i),
            Key::Text(s) => Val::Text(s.clone()),
        }
    }
}

/// The order of two values, where there is one. What texts have in common has to be read before they differ.
pub(crate) fn ordered<'a>(a: &Val<'a>, b: &Val<'a>, budget: &mut u64) -> Result<Option<Ordering>, Fault> {
    draw(budget, hundredth(a.bytes().min(b.bytes())))?;
    Ok(a.compare(b))
}

/// Whether two texts are the same. That is found out much faster than anything else is done with them.
fn alike(a: &[u8], b: &[u8], budget: &mut u64) -> Result<bool, Fault> {
    if a.len() != b.len() {
        return Ok(false);
    }
    draw(budget, hundredth(a.len()))?;
    Ok(a == b)
}

/// What it costs to run over so many bytes once, without looking at characters.
pub(crate) fn hundredth(n: usize) -> u64 {
    n as u64 / 100
}

/// Whether each of some values is the same as any of others.
pub(crate) fn every<'a>(
    of: impl Iterator<Item = Val<'a>>,
    others: &[Val<'a>],
    budget: &mut u64,
) -> Result<bool, Fault> {
    for (i, x) in of.enumerate() {
        // Mostly both have the same order.
        let near = others.get(i).map_or(Ok(false), |y| x.same(y, budget))?;
        if !near && position(others, &x, budget)?.is_none() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Where a value stands among others first.
pub(crate) fn position<'a>(
    others: &[Val<'a>],
    x: &Val<'a>,
    budget: &mut u64,
) -> Result<Option<usize>, Fault> {
    for (i, y) in others.iter().enumerate() {
        if y.same(x, budget)? {
            return Ok(Some(i));
        }
    }
    Ok(None)
}

/// A duration in Go's words.
pub(crate) fn duration(text: &str) -> Option<SignedDuration> {
    let nanos = crate::duration::parse(text).ok()?;
    let seconds = i64::try_from(nanos / 1_000_000_000).ok()?;
    let rest = i32::try_from(nanos % 1_000_000_000).ok()?;
    Some(SignedDuration::new(seconds, rest))
}

pub(crate) fn no_overload(_function: &str) -> String {
    "no such overload".to_owned()
}
