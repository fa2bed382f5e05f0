//! The functions that expressions may call: CEL's own, its string, math and set extensions as far as Kubernetes turns them
//! on, and Kubernetes' libraries (lists, regular expressions, URLs, quantities, addresses, formats, versions).

use std::borrow::Cow;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;

use cel::common::ast::operators as op;
use ipnet::IpNet;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use regex::Regex;

use super::authorizer;
use super::value::{Val, duration, no_overload};
use crate::quantity::{Format, Quantity};
use crate::validate as check;

type Answer<'a> = Result<Val<'a>, String>;

/// The largest compiled regular expression: bounds what a pattern out of an object can take.
const MAX_REGEX: usize = 1 << 20;

/// A name that stands for a type.
pub(super) fn type_named(name: &str) -> Option<&'static str> {
    const TYPES: [&str; 10] =
        ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];
    TYPES.into_iter().find(|t| *t == name)
}

/// The first part of functions whose names have two.
pub(super) fn is_namespace(name: &str) -> bool {
    matches!(name, "optional" | "math" | "sets" | "ip" | "cidr" | "format" | "strings" | "base64" | "semver")
}

/// Every function there is.
pub(super) fn exists(name: &str) -> bool {
    const NAMES: &[&str] = &[
        op::ADD,
        op::SUBSTRACT,
        op::MULTIPLY,
        op::DIVIDE,
        op::MODULO,
        op::NEGATE,
        op::LOGICAL_NOT,
        op::EQUALS,
        op::NOT_EQUALS,
        op::LESS,
        op::LESS_EQUALS,
        op::GREATER,
        op::GREATER_EQUALS,
        op::INDEX,
        op::IN,
        op::LOGICAL_AND,
        op::LOGICAL_OR,
        op::CONDITIONAL,
        op::NOT_STRICTLY_FALSE,
        op::OPT_INDEX,
        op::OPT_SELECT,
        "size",
        "contains",
        "startsWith",
        "endsWith",
        "matches",
        "int",
        "uint",
        "double",
        "string",
        "bool",
        "bytes",
        "type",
        "dyn",
        "duration",
        "timestamp",
        "getFullYear",
        "getMonth",
        "getDate",
        "getDayOfMonth",
        "getDayOfWeek",
        "getDayOfYear",
        "getHours",
        "getMinutes",
        "getSeconds",
        "getMilliseconds",
        "charAt",
        "indexOf",
        "lastIndexOf",
        "lowerAscii",
        "upperAscii",
        "replace",
        "split",
        "substring",
        "trim",
        "join",
        "reverse",
        "isSorted",
        "sum",
        "min",
        "max",
        "find",
        "findAll",
        "url",
        "isURL",
        "getScheme",
        "getHost",
        "getHostname",
        "getPort",
        "getEscapedPath",
        "getQuery",
        "quantity",
        "isQuantity",
        "sign",
        "isGreaterThan",
        "isLessThan",
        "compareTo",
        "asInteger",
        "asApproximateFloat",
        "isInteger",
        "add",
        "sub",
        "ip",
        "isIP",
        "ip.isCanonical",
        "family",
        "isUnspecified",
        "isLoopback",
        "isLinkLocalMulticast",
        "isLinkLocalUnicast",
        "isGlobalUnicast",
        "cidr",
        "isCIDR",
        "containsIP",
        "containsCIDR",
        "masked",
        "prefixLength",
        "optional.of",
        "optional.none",
        "optional.ofNonZeroValue",
        "hasValue",
        "value",
        "or",
        "orValue",
        "sets.contains",
        "sets.equivalent",
        "sets.intersects",
        "math.greatest",
        "math.least",
        "math.abs",
        "math.ceil",
        "math.floor",
        "math.round",
        "math.sign",
        "format.named",
        "format.dns1123Label",
        "format.dns1123Subdomain",
        "format.dns1035Label",
        "format.qualifiedName",
        "format.labelValue",
        "format.uri",
        "format.uuid",
        "format.byte",
        "format.date",
        "format.datetime",
        "validate",
        "semver",
        "isSemver",
        "major",
        "minor",
        "patch",
        "base64.encode",
        "base64.decode",
        "strings.quote",
    ];
    NAMES.contains(&name) || authorizer::FUNCTIONS.contains(&name)
}

/// What a call costs beside what its arguments cost.
pub(super) fn cost(name: &str, target: Option<&Val<'_>>, args: &[Val<'_>]) -> u64 {
    let size = |v: Option<&Val<'_>>| v.map_or(0, |v| v.len() as u64);
    let first = || size(target.or(args.first()));
    let traversed = |n: u64| n.div_ceil(10);
    match name {
        "check" if matches!(target, Some(Val::Auth(_))) => authorizer::CHECK_COST,
        op::ADD | op::EQUALS | op::NOT_EQUALS => {
            let weight = |v: Option<&Val<'_>>| match v {
                Some(Val::Text(_) | Val::Bytes(_)) => traversed(size(v)),
                Some(Val::List(_) | Val::Array(..) | Val::Map(_) | Val::Object(..)) => deep(v, 0),
                _ => 0,
            };
            let (a, b) = (weight(args.first()), weight(args.get(1)));
            let unordered = matches!(args.first(), Some(Val::Array(..))) && name != op::ADD;
            1 + if unordered { a.saturating_mul(b.max(1)) / 4 } else { a.saturating_add(b) }
        }
        op::IN => 1 + deep(args.get(1), 0),
        "matches" | "find" | "findAll" => {
            let pattern = size(args.last()).max(4) / 4;
            1 + traversed(first() + 1).saturating_mul(pattern)
        }
        "contains" | "indexOf" | "lastIndexOf" | "replace" | "split" | "join" => {
            let all = deep(target, 0).saturating_add(args.iter().map(size_of).sum());
            1 + traversed(first()).saturating_mul(args.first().map_or(1, |a| traversed(size(Some(a))).max(1)))
                + all / 10
        }
        "sets.contains" | "sets.equivalent" | "sets.intersects" => {
            1 + size(args.first()).saturating_mul(size(args.get(1)))
        }
        "size" | op::INDEX | "type" | "dyn" => 1,
        _ => 1 + deep(target, 0) / 10 + args.iter().map(|a| deep(Some(a), 0) / 10).sum::<u64>(),
    }
}

fn size_of(v: &Val<'_>) -> u64 {
    v.len() as u64
}

/// The size of a value with what is in it, as far as a look at it is cheap.
fn deep(value: Option<&Val<'_>>, depth: usize) -> u64 {
    let Some(value) = value else { return 0 };
    let own = value.len() as u64;
    match value {
        Val::List(list) if depth < 2 && list.len() < 1000 => {
            own + list.iter().map(|v| deep(Some(v), depth + 1)).sum::<u64>()
        }
        _ => own,
    }
}

fn overload<'a>(name: &str) -> Answer<'a> {
    Err(no_overload(name))
}

/// Calls a function.
pub(super) fn call<'a>(name: &str, target: Option<Val<'a>>, args: Vec<Val<'a>>) -> Answer<'a> {
    match (name, target, args.as_slice()) {
        (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, None, [a, b]) => {
            arithmetic(name, a, b)
        }
        (op::NEGATE, None, [Val::Int(i)]) => i.checked_neg().map(Val::Int).ok_or_else(overflow),
        (op::NEGATE, None, [Val::Double(d)]) => Ok(Val::Double(-d)),
        (op::NEGATE, None, [Val::Duration(d)]) => d.checked_neg().map(Val::Duration).ok_or_else(overflow),
        (op::LOGICAL_NOT, None, [Val::Bool(b)]) => Ok(Val::Bool(!b)),
        (op::EQUALS, None, [a, b]) => Ok(Val::Bool(a.same(b))),
        (op::NOT_EQUALS, None, [a, b]) => Ok(Val::Bool(!a.same(b))),
        (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, None, [a, b]) => {
            if let (Val::Double(x), _) | (_, Val::Double(x)) = (a, b)
                && x.is_nan()
            {
                return Ok(Val::Bool(false));
            }
            let Some(order) = a.compare(b) else { return overload(name) };
            Ok(Val::Bool(match name {
                op::LESS => order == Ordering::Less,
                op::LESS_EQUALS => order != Ordering::Greater,
                op::GREATER => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }))
        }
        (op::INDEX, None, [a, key]) => match a.index(key)? {
            Some(v) => Ok(v),
            None if matches!(a, Val::List(_) | Val::Array(..)) => {
                Err(format!("index out of bounds: {}", key.whole().unwrap_or(-1)))
            }
            None => Err(format!("no such key: {}", show(key))),
        },
        (op::IN, None, [item, Val::Map(_) | Val::Object(..)]) => match args[1].index(item) {
            Ok(found) => Ok(Val::Bool(found.is_some())),
            Err(_) => Ok(Val::Bool(false)),
        },
        (op::IN, None, [item, list]) => match list.range() {
            Some(mut items) => Ok(Val::Bool(items.any(|v| v.same(item)))),
            None => overload(name),
        },
        ("size", None, [v]) => size(v),
        ("size", Some(v), []) => size(&v),
        ("type", None, [v]) => Ok(Val::Type(v.type_name())),
        ("dyn", None, [v]) => Ok(v.clone()),
        ("int" | "uint" | "double" | "string" | "bool" | "bytes" | "duration" | "timestamp", None, [v]) => {
            convert(name, v)
        }
        (_, Some(Val::Text(s)), _) => text(name, &s, &args),
        (_, Some(Val::Timestamp(t)), _) => time(name, t, &args),
        (_, Some(Val::Duration(d)), []) => span(name, d),
        (_, Some(list @ (Val::List(_) | Val::Array(..))), _) => lists(name, &list, &args),
        (_, Some(Val::Optional(v)), _) => optional(name, v, &args),
        (_, Some(Val::Quantity(q)), _) => quantity(name, q, &args),
        (_, Some(Val::Url(u)), []) => url(name, &u),
        (_, Some(Val::Ip(ip)), []) => address(name, ip),
        (_, Some(Val::Cidr(net)), _) => network(name, net, &args),
        (_, Some(Val::Semver(v)), _) => version(name, &v, &args),
        (_, Some(Val::Auth(auth)), _) => auth.call(name, &args),
        ("validate", Some(Val::Format(format)), [Val::Text(s)]) => Ok(validate(format, s)),
        (_, None, _) => global(name, &args),
        _ => overload(name),
    }
}

fn overflow() -> String {
    "integer overflow".to_owned()
}

fn show(v: &Val<'_>) -> String {
    match v {
        Val::Text(s) => s.to_string(),
        Val::Bool(b) => b.to_string(),
        other => other.whole().map_or_else(|| other.type_name().to_owned(), |i| i.to_string()),
    }
}

fn size<'a>(v: &Val<'_>) -> Answer<'a> {
    match v {
        Val::Text(_) | Val::Bytes(_) | Val::List(_) | Val::Map(_) | Val::Array(..) | Val::Object(..) => {
            Ok(Val::Int(i64::try_from(v.len()).unwrap_or(i64::MAX)))
        }
        _ => overload("size"),
    }
}

fn arithmetic<'a>(name: &str, a: &Val<'a>, b: &Val<'a>) -> Answer<'a> {
    let int = |v: Option<i64>| v.map(Val::Int).ok_or_else(overflow);
    let uint = |v: Option<u64>| v.map(Val::Uint).ok_or_else(|| "unsigned integer overflow".to_owned());
    match (name, a, b) {
        (op::DIVIDE, _, Val::Int(0) | Val::Uint(0)) => Err("divide by zero".into()),
        (op::MODULO, _, Val::Int(0) | Val::Uint(0)) => Err("modulus by zero".into()),
        (op::ADD, Val::Int(a), Val::Int(b)) => int(a.checked_add(*b)),
        (op::SUBSTRACT, Val::Int(a), Val::Int(b)) => int(a.checked_sub(*b)),
        (op::MULTIPLY, Val::Int(a), Val::Int(b)) => int(a.checked_mul(*b)),
        (op::DIVIDE, Val::Int(a), Val::Int(b)) => int(a.checked_div(*b)),
        (op::MODULO, Val::Int(a), Val::Int(b)) => int(a.checked_rem(*b)),
        (op::ADD, Val::Uint(a), Val::Uint(b)) => uint(a.checked_add(*b)),
        (op::SUBSTRACT, Val::Uint(a), Val::Uint(b)) => uint(a.checked_sub(*b)),
        (op::MULTIPLY, Val::Uint(a), Val::Uint(b)) => uint(a.checked_mul(*b)),
        (op::DIVIDE, Val::Uint(a), Val::Uint(b)) => uint(a.checked_div(*b)),
        (op::MODULO, Val::Uint(a), Val::Uint(b)) => uint(a.checked_rem(*b)),
        (op::ADD, Val::Double(a), Val::Double(b)) => Ok(Val::Double(a + b)),
        (op::SUBSTRACT, Val::Double(a), Val::Double(b)) => Ok(Val::Double(a - b)),
        (op::MULTIPLY, Val::Double(a), Val::Double(b)) => Ok(Val::Double(a * b)),
        (op::DIVIDE, Val::Double(a), Val::Double(b)) => Ok(Val::Double(a / b)),
        (op::ADD, Val::Text(a), Val::Text(b)) => Ok(Val::text(format!("{a}{b}"))),
        (op::ADD, Val::Bytes(a), Val::Bytes(b)) => Ok(Val::Bytes([a.as_ref(), b.as_ref()].concat().into())),
        (op::ADD, Val::Duration(a), Val::Duration(b)) => {
            a.checked_add(*b).map(Val::Duration).ok_or_else(overflow)
        }
        (op::SUBSTRACT, Val::Duration(a), Val::Duration(b)) => {
            a.checked_sub(*b).map(Val::Duration).ok_or_else(overflow)
        }
        (op::ADD, Val::Timestamp(t), Val::Duration(d)) | (op::ADD, Val::Duration(d), Val::Timestamp(t)) => {
            t.checked_add(*d).map(Val::Timestamp).map_err(|_| "timestamp overflow".to_owned())
        }
        (op::SUBSTRACT, Val::Timestamp(t), Val::Duration(d)) => {
            t.checked_sub(*d).map(Val::Timestamp).map_err(|_| "timestamp overflow".to_owned())
        }
        (op::SUBSTRACT, Val::Timestamp(a), Val::Timestamp(b)) => Ok(Val::Duration(a.duration_since(*b))),
        (op::ADD, Val::List(_) | Val::Array(..), Val::List(_) | Val::Array(..)) => {
            let (Some(mut items), Some(more)) = (a.items(), b.items()) else { return overload(name) };
            items.extend(more);
            Ok(Val::list(items))
        }
        _ => overload(name),
    }
}

fn convert<'a>(name: &str, v: &Val<'a>) -> Answer<'a> {
    let bad = |what: &str| Err(format!("type conversion error from '{}' to '{what}'", v.type_name()));
    match (name, v) {
        ("int", Val::Int(_))
        | ("uint", Val::Uint(_))
        | ("double", Val::Double(_))
        | ("string", Val::Text(_)) => Ok(v.clone()),
        ("bool", Val::Bool(_))
        | ("bytes", Val::Bytes(_))
        | ("duration", Val::Duration(_))
        | ("timestamp", Val::Timestamp(_)) => Ok(v.clone()),
        ("int", Val::Uint(u)) => i64::try_from(*u).map(Val::Int).map_err(|_| overflow()),
        ("int", Val::Double(d)) if d.abs() < 9.2e18 => Ok(Val::Int(*d as i64)),
        ("int", Val::Double(_)) => Err(overflow()),
        ("int", Val::Text(s)) => s.parse().map(Val::Int).or_else(|_| bad("int")),
        ("int", Val::Timestamp(t)) => Ok(Val::Int(t.as_second())),
        ("uint", Val::Int(i)) => u64::try_from(*i).map(Val::Uint).map_err(|_| overflow()),
        ("uint", Val::Double(d)) if *d >= 0.0 && *d < 1.8e19 => Ok(Val::Uint(*d as u64)),
        ("uint", Val::Double(_)) => Err(overflow()),
        ("uint", Val::Text(s)) => s.parse().map(Val::Uint).or_else(|_| bad("uint")),
        ("double", Val::Int(i)) => Ok(Val::Double(*i as f64)),
        ("double", Val::Uint(u)) => Ok(Val::Double(*u as f64)),
        ("double", Val::Text(s)) => s.parse().map(Val::Double).or_else(|_| bad("double")),
        ("string", Val::Int(i)) => Ok(Val::text(i.to_string())),
        ("string", Val::Uint(u)) => Ok(Val::text(u.to_string())),
        ("string", Val::Double(d)) => Ok(Val::text(d.to_string())),
        ("string", Val::Bool(b)) => Ok(Val::text(b.to_string())),
        ("string", Val::Bytes(b)) => std::str::from_utf8(b)
            .map(Val::text)
            .map_err(|_| "invalid UTF-8 in bytes, cannot convert to string".into()),
        ("string", Val::Timestamp(t)) => Ok(Val::text(t.to_string())),
        ("string", Val::Duration(d)) => Ok(Val::text(format!("{}s", d.as_secs_f64()))),
        ("string", Val::Ip(ip)) => Ok(Val::text(ip.to_string())),
        ("string", Val::Cidr(net)) => Ok(Val::text(net.to_string())),
        ("string", Val::Quantity(q)) => Ok(Val::text(q.to_string())),
        ("string", Val::Url(u)) => Ok(Val::text(u.as_str())),
        ("string", Val::Semver(v)) => Ok(Val::text(v.to_string())),
        ("bool", Val::Text(s)) => match s.as_ref() {
            "1" | "t" | "true" | "TRUE" | "True" => Ok(Val::Bool(true)),
            "0" | "f" | "false" | "FALSE" | "False" => Ok(Val::Bool(false)),
            _ => bad("bool"),
        },
        ("bytes", Val::Text(s)) => Ok(Val::Bytes(s.as_bytes().into())),
        ("duration", Val::Text(s)) => {
            duration(s).map(Val::Duration).ok_or_else(|| format!("time: invalid duration \"{s}\""))
        }
        ("duration", Val::Int(n)) => Ok(Val::Duration(SignedDuration::from_nanos(*n))),
        ("timestamp", Val::Text(s)) => {
            s.parse().map(Val::Timestamp).map_err(|_| format!("parsing time \"{s}\" as RFC 3339 failed"))
        }
        ("timestamp", Val::Int(s)) => {
            Timestamp::from_second(*s).map(Val::Timestamp).map_err(|_| "timestamp overflow".to_owned())
        }
        _ => overload(name),
    }
}

/// A compiled pattern. The last few are kept, because a rule asks for the same one again and again.
fn regex(pattern: &str) -> Result<Regex, String> {
    const KEPT: usize = 16;
    thread_local!(static RECENT: RefCell<VecDeque<Regex>> = const { RefCell::new(VecDeque::new()) });
    RECENT.with_borrow_mut(|recent| {
        if let Some(found) = recent.iter().find(|r| r.as_str() == pattern) {
            return Ok(found.clone());
        }
        let built = regex::RegexBuilder::new(pattern).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build();
        let built = built.map_err(|e| format!("error parsing regexp: {e}"))?;
        recent.truncate(KEPT - 1);
        recent.push_front(built.clone());
        Ok(built)
    })
}

/// The byte offset of a character.
fn offset(s: &str, at: i64) -> Option<usize> {
    let at = usize::try_from(at).ok()?;
    s.char_indices().map(|(i, _)| i).chain([s.len()]).nth(at)
}

fn characters(s: &str, bytes: Option<usize>) -> i64 {
    bytes.map_or(-1, |b| i64::try_from(s[..b].chars().count()).unwrap_or(-1))
}

fn out_of_range(at: i64) -> String {
    format!("index out of range: {at}")
}

fn text<'a>(name: &str, s: &str, args: &[Val<'a>]) -> Answer<'a> {
    Ok(match (name, args) {
        ("contains", [Val::Text(x)]) => Val::Bool(s.contains(x.as_ref())),
        ("startsWith", [Val::Text(x)]) => Val::Bool(s.starts_with(x.as_ref())),
        ("endsWith", [Val::Text(x)]) => Val::Bool(s.ends_with(x.as_ref())),
        ("matches", [Val::Text(x)]) => Val::Bool(regex(x)?.is_match(s)),
        ("charAt", [Val::Int(at)]) => {
            let from = offset(s, *at).ok_or_else(|| out_of_range(*at))?;
            Val::text(s[from..].chars().next().map(String::from).unwrap_or_default())
        }
        ("indexOf", [Val::Text(x)]) => Val::Int(characters(s, s.find(x.as_ref()))),
        ("indexOf", [Val::Text(x), Val::Int(at)]) => {
            let from = offset(s, *at).ok_or_else(|| out_of_range(*at))?;
            Val::Int(characters(s, s[from..].find(x.as_ref()).map(|i| i + from)))
        }
        ("lastIndexOf", [Val::Text(x)]) => Val::Int(characters(s, s.rfind(x.as_ref()))),
        ("lastIndexOf", [Val::Text(x), Val::Int(at)]) => {
            let from = offset(s, *at).ok_or_else(|| out_of_range(*at))?;
            let found = s.match_indices(x.as_ref()).map(|(i, _)| i).take_while(|i| *i <= from).last();
            Val::Int(characters(s, found))
        }
        ("lowerAscii", []) => Val::text(s.to_ascii_lowercase()),
        ("upperAscii", []) => Val::text(s.to_ascii_uppercase()),
        ("trim", []) => Val::text(s.trim()),
        ("reverse", []) => Val::text(s.chars().rev().collect::<String>()),
        ("replace", [Val::Text(from), Val::Text(to)]) => replaced(s, from, to, usize::MAX)?,
        ("replace", [Val::Text(from), Val::Text(to), Val::Int(n)]) => {
            replaced(s, from, to, usize::try_from(*n).unwrap_or(usize::MAX))?
        }
        ("split", [Val::Text(by)]) => Val::list(split(s, by).map(Val::text).collect()),
        ("split", [Val::Text(by), Val::Int(n)]) => match *n {
            0 => Val::list(Vec::new()),
            n => {
                let n = usize::try_from(n).unwrap_or(usize::MAX);
                let parts: Vec<&str> = if by.is_empty() {
                    split(s, by).take(n).collect()
                } else {
                    s.splitn(n, by.as_ref()).collect()
                };
                Val::list(parts.into_iter().map(Val::text).collect())
            }
        },
        ("substring", [Val::Int(from)]) => {
            let from = offset(s, *from).ok_or_else(|| out_of_range(*from))?;
            Val::text(&s[from..])
        }
        ("substring", [Val::Int(from), Val::Int(to)]) => {
            let start = offset(s, *from).ok_or_else(|| out_of_range(*from))?;
            let end = offset(s, *to).ok_or_else(|| out_of_range(*to))?;
            if start > end {
                return Err(format!("invalid substring range. start: {from}, end: {to}"));
            }
            Val::text(&s[start..end])
        }
        ("find", [Val::Text(x)]) => Val::text(regex(x)?.find(s).map_or("", |m| m.as_str())),
        ("findAll", [Val::Text(x)]) => {
            Val::list(regex(x)?.find_iter(s).map(|m| Val::text(m.as_str())).collect())
        }
        ("findAll", [Val::Text(x), Val::Int(n)]) => {
            let n = usize::try_from(*n).unwrap_or(usize::MAX);
            Val::list(regex(x)?.find_iter(s).take(n).map(|m| Val::text(m.as_str())).collect())
        }
        _ => return overload(name),
    })
}

fn split<'s>(s: &'s str, by: &'s str) -> Box<dyn Iterator<Item = &'s str> + 's> {
    if by.is_empty() {
        return Box::new(s.char_indices().map(|(i, c)| &s[i..i + c.len_utf8()]));
    }
    Box::new(s.split(by))
}

/// A replacement may be much longer than what it was made from.
fn replaced<'a>(s: &str, from: &str, to: &str, n: usize) -> Answer<'a> {
    let times = if from.is_empty() { s.chars().count() + 1 } else { s.matches(from).count() }.min(n);
    if times.saturating_mul(to.len()).saturating_add(s.len()) > 4 << 20 {
        return Err("the result of replace is too long".into());
    }
    Ok(Val::text(s.replacen(from, to, n)))
}

fn time<'a>(name: &str, t: Timestamp, args: &[Val<'a>]) -> Answer<'a> {
    let zone = match args {
        [] => TimeZone::UTC,
        [Val::Text(name)] => match zone(name) {
            Some(zone) => zone,
            None => return Err(format!("unknown time zone {name}")),
        },
        _ => return overload(name),
    };
    let z = t.to_zoned(zone);
    Ok(Val::Int(match name {
        "getFullYear" => z.year().into(),
        "getMonth" => i64::from(z.month()) - 1,
        "getDate" => z.day().into(),
        "getDayOfMonth" => i64::from(z.day()) - 1,
        "getDayOfWeek" => z.weekday().to_sunday_zero_offset().into(),
        "getDayOfYear" => i64::from(z.day_of_year()) - 1,
        "getHours" => z.hour().into(),
        "getMinutes" => z.minute().into(),
        "getSeconds" => z.second().into(),
        "getMilliseconds" => z.millisecond().into(),
        _ => return overload(name),
    }))
}

/// A fixed offset or UTC: names of places would need a data base of the machine's.
fn zone(name: &str) -> Option<TimeZone> {
    if matches!(name, "UTC" | "Z" | "") {
        return Some(TimeZone::UTC);
    }
    let (sign, rest) = match name.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, name.strip_prefix('+').unwrap_or(name)),
    };
    let (hours, minutes) = rest.split_once(':')?;
    let seconds = hours.parse::<i32>().ok()? * 3600 + minutes.parse::<i32>().ok()? * 60;
    jiff::tz::Offset::from_seconds(sign * seconds).ok().map(TimeZone::fixed)
}

fn span<'a>(name: &str, d: SignedDuration) -> Answer<'a> {
    Ok(Val::Int(match name {
        "getHours" => d.as_hours(),
        "getMinutes" => d.as_mins(),
        "getSeconds" => d.as_secs(),
        "getMilliseconds" => i64::try_from(d.as_millis()).unwrap_or(i64::MAX),
        _ => return overload(name),
    }))
}

fn lists<'a>(name: &str, list: &Val<'a>, args: &[Val<'a>]) -> Answer<'a> {
    let Some(items) = list.items() else { return overload(name) };
    let index = |i: Option<usize>| Val::Int(i.and_then(|i| i64::try_from(i).ok()).unwrap_or(-1));
    Ok(match (name, args) {
        ("isSorted", []) => {
            let mut sorted = true;
            for two in items.windows(2) {
                let Some(order) = two[0].compare(&two[1]) else { return overload(name) };
                sorted &= order != Ordering::Greater;
            }
            Val::Bool(sorted)
        }
        ("sum", []) => {
            let mut items = items.into_iter();
            let first = items.next().unwrap_or(Val::Int(0));
            items.try_fold(first, |sum, v| arithmetic(op::ADD, &sum, &v))?
        }
        ("min" | "max", []) => {
            let mut items = items.into_iter();
            let Some(mut best) = items.next() else { return Err(format!("{name} called on empty list")) };
            for v in items {
                let Some(order) = v.compare(&best) else { return overload(name) };
                if order == if name == "min" { Ordering::Less } else { Ordering::Greater } {
                    best = v;
                }
            }
            best
        }
        ("indexOf", [x]) => index(items.iter().position(|v| v.same(x))),
        ("lastIndexOf", [x]) => index(items.iter().rposition(|v| v.same(x))),
        ("reverse", []) => Val::list(items.into_iter().rev().collect()),
        ("join", []) => joined(&items, "")?,
        ("join", [Val::Text(by)]) => joined(&items, by)?,
        _ => return overload(name),
    })
}

fn joined<'a>(items: &[Val<'_>], by: &str) -> Answer<'a> {
    let mut out = String::new();
    for (i, item) in items.iter().enumerate() {
        let Val::Text(s) = item else { return overload("join") };
        if i > 0 {
            out.push_str(by);
        }
        out.push_str(s);
        if out.len() > 4 << 20 {
            return Err("the result of join is too long".into());
        }
    }
    Ok(Val::text(out))
}

fn optional<'a>(name: &str, v: Option<Rc<Val<'a>>>, args: &[Val<'a>]) -> Answer<'a> {
    Ok(match (name, args) {
        ("hasValue", []) => Val::Bool(v.is_some()),
        ("value", []) => v.ok_or("optional.none() dereference")?.as_ref().clone(),
        ("orValue", [other]) => v.map_or_else(|| other.clone(), |v| v.as_ref().clone()),
        ("or", [other @ Val::Optional(_)]) => v.map_or_else(|| other.clone(), |v| Val::Optional(Some(v))),
        _ => return overload(name),
    })
}

fn quantity<'a>(name: &str, q: Quantity, args: &[Val<'a>]) -> Answer<'a> {
    let other = |v: &Val<'a>| match v {
        Val::Quantity(q) => Some(*q),
        Val::Int(i) => Some(Quantity::of(*i, Format::Decimal)),
        _ => None,
    };
    let whole = q.nanos() % 1_000_000_000 == 0 && i64::try_from(q.nanos() / 1_000_000_000).is_ok();
    Ok(match (name, args) {
        ("sign", []) => Val::Int(q.signum().into()),
        ("isInteger", []) => Val::Bool(whole),
        ("asInteger", []) if whole => Val::Int(q.value()),
        ("asInteger", []) => return Err("cannot convert value to integer".into()),
        ("asApproximateFloat", []) => Val::Double(q.as_f64()),
        ("isGreaterThan", [Val::Quantity(o)]) => Val::Bool(q > *o),
        ("isLessThan", [Val::Quantity(o)]) => Val::Bool(q < *o),
        ("compareTo", [Val::Quantity(o)]) => Val::Int(order(q.cmp(o))),
        ("add", [o]) => Val::Quantity(q.plus(other(o).ok_or_else(|| no_overload(name))?)),
        ("sub", [o]) => Val::Quantity(q.minus(other(o).ok_or_else(|| no_overload(name))?)),
        _ => return overload(name),
    })
}

fn order(order: Ordering) -> i64 {
    match order {
        Ordering::Less => -1,
        Ordering::Equal => 0,
        Ordering::Greater => 1,
    }
}

fn parse_url(s: &str) -> Option<url::Url> {
    // As Go's url.ParseRequestURI: an absolute URL or an absolute path.
    if s.starts_with('/') {
        let base = url::Url::parse("path://").ok()?;
        return base.join(s).ok();
    }
    url::Url::parse(s).ok().filter(|u| s.len() > u.scheme().len() + 1)
}

fn url<'a>(name: &str, u: &url::Url) -> Answer<'a> {
    let only_a_path = u.scheme() == "path";
    let host = u.host_str().unwrap_or("");
    let port = u.port().map(|p| p.to_string()).unwrap_or_default();
    Ok(match name {
        "getScheme" => Val::text(if only_a_path { "" } else { u.scheme() }),
        "getHost" => Val::text(if port.is_empty() { host.to_owned() } else { format!("{host}:{port}") }),
        "getHostname" => Val::text(host.trim_start_matches('[').trim_end_matches(']')),
        "getPort" => Val::text(port),
        "getEscapedPath" => Val::text(u.path()),
        "getQuery" => {
            let mut out: indexmap::IndexMap<super::value::Key<'a>, Val<'a>> = indexmap::IndexMap::new();
            for (k, v) in u.query_pairs() {
                let slot = out
                    .entry(super::value::Key::Text(Cow::Owned(k.into_owned())))
                    .or_insert_with(|| Val::list(Vec::new()));
                if let Val::List(list) = slot {
                    Rc::make_mut(list).push(Val::text(v.into_owned()));
                }
            }
            Val::Map(Rc::new(out))
        }
        _ => return overload(name),
    })
}

/// As Go's netip takes an address: no zone, no leading zeros, no IPv4 inside IPv6.
fn parse_ip(s: &str) -> Option<IpAddr> {
    let ip: IpAddr = s.parse().ok()?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => None,
        ip => Some(ip),
    }
}

fn address<'a>(name: &str, ip: IpAddr) -> Answer<'a> {
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    let link_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    Ok(match name {
        "family" => Val::Int(if ip.is_ipv4() { 4 } else { 6 }),
        "isUnspecified" => Val::Bool(ip.is_unspecified()),
        "isLoopback" => Val::Bool(ip.is_loopback()),
        "isLinkLocalMulticast" => Val::Bool(link_multicast),
        "isLinkLocalUnicast" => Val::Bool(link_local),
        "isGlobalUnicast" => Val::Bool(
            !(ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local || broadcast),
        ),
        _ => return overload(name),
    })
}

fn network<'a>(name: &str, net: IpNet, args: &[Val<'a>]) -> Answer<'a> {
    let parse = |s: &str| {
        parse_ip(s).ok_or_else(|| format!("IP Address \"{s}\" parse error during conversion from string"))
    };
    let parse_net = |s: &str| {
        s.parse::<IpNet>()
            .map_err(|e| format!("network address parse error during conversion from string: {e}"))
    };
    Ok(match (name, args) {
        ("containsIP", [Val::Ip(ip)]) => Val::Bool(net.contains(ip)),
        ("containsIP", [Val::Text(s)]) => Val::Bool(net.contains(&parse(s)?)),
        ("containsCIDR", [Val::Cidr(other)]) => Val::Bool(net.contains(other)),
        ("containsCIDR", [Val::Text(s)]) => Val::Bool(net.contains(&parse_net(s)?)),
        ("ip", []) => Val::Ip(net.addr()),
        ("masked", []) => Val::Cidr(net.trunc()),
        ("prefixLength", []) => Val::Int(net.prefix_len().into()),
        _ => return overload(name),
    })
}

fn version<'a>(name: &str, v: &semver::Version, args: &[Val<'a>]) -> Answer<'a> {
    let number = |n: u64| Val::Int(i64::try_from(n).unwrap_or(i64::MAX));
    Ok(match (name, args) {
        ("major", []) => number(v.major),
        ("minor", []) => number(v.minor),
        ("patch", []) => number(v.patch),
        ("isLessThan", [Val::Semver(o)]) => Val::Bool(v.cmp_precedence(o) == Ordering::Less),
        ("isGreaterThan", [Val::Semver(o)]) => Val::Bool(v.cmp_precedence(o) == Ordering::Greater),
        ("compareTo", [Val::Semver(o)]) => Val::Int(order(v.cmp_precedence(o))),
        _ => return overload(name),
    })
}

/// A version, and leniently what is nearly one: `v1.2`, `1`.
fn parse_version(s: &str, lenient: bool) -> Option<semver::Version> {
    if !lenient {
        return semver::Version::parse(s).ok();
    }
    let s = s.trim_start_matches('v');
    let end = s.find(['-', '+']).unwrap_or(s.len());
    let (numbers, rest) = s.split_at(end);
    let mut parts: Vec<String> = numbers.split('.').map(|p| p.trim_start_matches('0').to_owned()).collect();
    parts.resize(3, String::new());
    let parts: Vec<&str> = parts.iter().map(|p| if p.is_empty() { "0" } else { p.as_str() }).collect();
    semver::Version::parse(&format!("{}{rest}", parts.join("."))).ok()
}

const FORMATS: [(&str, &str); 11] = [
    ("dns1123Label", "dns1123Label"),
    ("dns1123Subdomain", "dns1123Subdomain"),
    ("dns1035Label", "dns1035Label"),
    ("qualifiedName", "qualifiedName"),
    ("labelValue", "labelValue"),
    ("uri", "uri"),
    ("uuid", "uuid"),
    ("byte", "byte"),
    ("date", "date"),
    ("datetime", "datetime"),
    ("dns1123LabelPrefix", "dns1123LabelPrefix"),
];

/// Nothing if the text is of the format, else what is wrong with it.
fn validate<'a>(format: &str, s: &str) -> Val<'a> {
    let faults = match format {
        "dns1123Label" => check::dns_label(s),
        "dns1123LabelPrefix" => check::dns_label(s.strip_suffix('-').unwrap_or(s)),
        "dns1123Subdomain" => check::dns_subdomain(s),
        "dns1035Label" => check::dns_1035_label(s),
        "qualifiedName" => check::qualified_name(s),
        "labelValue" => check::label_value(s),
        _ => {
            let good = match format {
                "uri" => parse_url(s).is_some(),
                "uuid" => {
                    let hex = |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit());
                    let lengths: Vec<usize> = s.split('-').map(str::len).collect();
                    lengths == [8, 4, 4, 4, 12] && s.split('-').all(hex)
                }
                "byte" => base64::Engine::decode(&base64::engine::general_purpose::STANDARD, s).is_ok(),
                "date" => s.parse::<jiff::civil::Date>().is_ok(),
                _ => s.parse::<Timestamp>().is_ok(),
            };
            if good { Vec::new() } else { vec![format!("{s:?} is not a valid {format}")] }
        }
    };
    if faults.is_empty() {
        return Val::Optional(None);
    }
    Val::some(Val::list(faults.into_iter().map(Val::text).collect()))
}

fn global<'a>(name: &str, args: &[Val<'a>]) -> Answer<'a> {
    let engine = &base64::engine::general_purpose::STANDARD;
    Ok(match (name, args) {
        ("matches", [Val::Text(s), Val::Text(pattern)]) => Val::Bool(regex(pattern)?.is_match(s)),
        ("optional.of", [v]) => Val::some(v.clone()),
        ("optional.none", []) => Val::Optional(None),
        ("optional.ofNonZeroValue", [v]) => {
            let zero = match v {
                Val::Null => true,
                Val::Bool(b) => !b,
                Val::Text(_)
                | Val::Bytes(_)
                | Val::List(_)
                | Val::Map(_)
                | Val::Array(..)
                | Val::Object(..) => v.len() == 0,
                Val::Double(d) => *d == 0.0,
                other => other.whole() == Some(0),
            };
            if zero { Val::Optional(None) } else { Val::some(v.clone()) }
        }
        ("url", [Val::Text(s)]) => Val::Url(Rc::new(parse_url(s).ok_or_else(|| {
            format!("URL parse error during conversion from string: parse {s:?}: invalid URI for request")
        })?)),
        ("isURL", [Val::Text(s)]) => Val::Bool(parse_url(s).is_some()),
        ("quantity", [Val::Text(s)]) => Val::Quantity(Quantity::parse(s).map_err(|e| e.to_string())?),
        ("isQuantity", [Val::Text(s)]) => Val::Bool(Quantity::parse(s).is_ok()),
        ("ip", [Val::Text(s)]) => Val::Ip(
            parse_ip(s)
                .ok_or_else(|| format!("IP Address {s:?} parse error during conversion from string"))?,
        ),
        ("isIP", [Val::Text(s)]) => Val::Bool(parse_ip(s).is_some()),
        ("ip.isCanonical", [Val::Text(s)]) => {
            let ip = parse_ip(s)
                .ok_or_else(|| format!("IP Address {s:?} parse error during conversion from string"))?;
            Val::Bool(ip.to_string() == s.as_ref())
        }
        ("cidr", [Val::Text(s)]) => Val::Cidr(
            s.parse()
                .map_err(|e| format!("network address parse error during conversion from string: {e}"))?,
        ),
        ("isCIDR", [Val::Text(s)]) => Val::Bool(s.parse::<IpNet>().is_ok()),
        ("semver", [Val::Text(s)]) => {
            Val::Semver(Rc::new(parse_version(s, false).ok_or("No Major.Minor.Patch elements found")?))
        }
        ("semver", [Val::Text(s), Val::Bool(lenient)]) => {
            Val::Semver(Rc::new(parse_version(s, *lenient).ok_or("No Major.Minor.Patch elements found")?))
        }
        ("isSemver", [Val::Text(s)]) => Val::Bool(parse_version(s, false).is_some()),
        ("isSemver", [Val::Text(s), Val::Bool(lenient)]) => Val::Bool(parse_version(s, *lenient).is_some()),
        ("format.named", [Val::Text(s)]) => {
            let found = FORMATS.into_iter().find(|(n, _)| *n == s.as_ref());
            found.map_or(Val::Optional(None), |(_, f)| Val::some(Val::Format(f)))
        }
        ("base64.encode", [Val::Bytes(b)]) => Val::text(base64::Engine::encode(engine, b)),
        ("base64.decode", [Val::Text(s)]) => Val::Bytes(
            base64::Engine::decode(engine, s.as_bytes())
                .map_err(|e| format!("illegal base64 data: {e}"))?
                .into(),
        ),
        ("strings.quote", [Val::Text(s)]) => Val::text(format!("{s:?}")),
        ("sets.contains", [a, b]) => Val::Bool(contains(a, b).ok_or_else(|| no_overload(name))?),
        ("sets.equivalent", [a, b]) => {
            let both = contains(a, b).zip(contains(b, a)).ok_or_else(|| no_overload(name))?;
            Val::Bool(both.0 && both.1)
        }
        ("sets.intersects", [a, b]) => {
            let (Some(mut x), Some(y)) = (a.range(), b.items()) else { return overload(name) };
            Val::Bool(x.any(|v| y.iter().any(|w| v.same(w))))
        }
        ("math.greatest" | "math.least", _) => {
            let items = match args {
                [list @ (Val::List(_) | Val::Array(..))] => list.items().unwrap_or_default(),
                _ => args.to_vec(),
            };
            let wanted = if name == "math.least" { Ordering::Less } else { Ordering::Greater };
            let mut items = items.into_iter();
            let mut best = items.next().ok_or_else(|| format!("{name}() requires at least one argument"))?;
            for v in items {
                if v.compare(&best).ok_or_else(|| no_overload(name))? == wanted {
                    best = v;
                }
            }
            best
        }
        ("math.abs", [Val::Int(i)]) => Val::Int(i.checked_abs().ok_or_else(overflow)?),
        ("math.abs", [Val::Double(d)]) => Val::Double(d.abs()),
        ("math.sign", [Val::Int(i)]) => Val::Int(i.signum()),
        ("math.ceil", [Val::Double(d)]) => Val::Double(d.ceil()),
        ("math.floor", [Val::Double(d)]) => Val::Double(d.floor()),
        ("math.round", [Val::Double(d)]) => Val::Double(d.round()),
        (_, []) => match FORMATS.into_iter().find(|(f, _)| name.strip_prefix("format.") == Some(f)) {
            Some((_, format)) => Val::Format(format),
            None => return overload(name),
        },
        _ => return overload(name),
    })
}

fn contains(a: &Val<'_>, b: &Val<'_>) -> Option<bool> {
    let x = a.items()?;
    Some(b.range()?.all(|v| x.iter().any(|w| w.same(&v))))
}
