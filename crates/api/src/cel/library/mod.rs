//! The functions that expressions may call: CEL's own, its string, list, math and set extensions as far as Kubernetes turns them
//! on, and Kubernetes' libraries (lists, regular expressions, URLs, quantities, addresses, formats, versions).

mod format;
mod kubernetes;
mod text;
mod time;

use std::cmp::Ordering;
use std::rc::Rc;

use cel::common::ast::operators as op;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use super::authorizer;
use super::eval::{Fault, Meter, draw};
use super::value::{Val, duration, every, hundredth, no_overload, ordered, position};
use crate::quantity::Quantity;
use kubernetes::{
    FORMATS, address, network, parse_ip, parse_url, parse_version, quantity, url, validate, version,
};
pub(in crate::cel) use text::Recent;
use text::{matched, text};
use time::{span, time};

type Answer<'a> = Result<Val<'a>, String>;

/// A name that stands for a type.
pub(in crate::cel) fn type_named(name: &str) -> Option<&'static str> {
    const TYPES: [&str; 10] =
        ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "null_type", "type"];
    TYPES.into_iter().find(|t| *t == name)
}

/// The first part of functions whose names have two.
pub(in crate::cel) fn is_namespace(name: &str) -> bool {
    matches!(
        name,
        "optional" | "math" | "sets" | "lists" | "ip" | "cidr" | "format" | "strings" | "base64" | "semver"
    )
}

/// Every function there is.
pub(in crate::cel) fn exists(name: &str) -> bool {
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
        "format",
        "slice",
        "flatten",
        "sort",
        "distinct",
        "lists.range",
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
    NAMES.contains(&name)
        || authorizer::FUNCTIONS.contains(&name)
        || name.strip_prefix("format.").is_some_and(|format| FORMATS.contains(&format))
}

/// What a call costs beside what its arguments cost.
pub(in crate::cel) fn cost(name: &str, target: Option<&Val<'_>>, args: &[Val<'_>]) -> u64 {
    let size = |v: Option<&Val<'_>>| v.map_or(0, |v| v.len() as u64);
    let first = || size(target.or(args.first()));
    let traversed = |n: u64| n.div_ceil(10);
    match name {
        "check" if matches!(target, Some(Val::Auth(_))) => authorizer::CHECK_COST,
        op::ADD | op::EQUALS | op::NOT_EQUALS => {
            let weight = |v: Option<&Val<'_>>| match v {
                Some(Val::Text(_) | Val::Bytes(_)) => traversed(size(v)),
                // What is in two values costs something while they are compared.
                Some(Val::List(_) | Val::Array(..)) if name == op::ADD => deep(v, 0),
                _ => 0,
            };
            1 + weight(args.first()).saturating_add(weight(args.get(1)))
        }
        op::IN => 1 + size(args.get(1)),
        "matches" | "find" | "findAll" => {
            let pattern = size(args.get(usize::from(target.is_none()))).max(1).div_ceil(4);
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
        // As many as are asked for.
        "lists.range" => {
            1 + args.first().and_then(Val::whole).map_or(0, |n| u64::try_from(n).unwrap_or_default())
        }
        "sort" => {
            let n = first();
            1 + n.saturating_mul(u64::from(n.checked_ilog2().unwrap_or_default()) + 1)
        }
        "slice" => 1 + first(),
        "size" => match target.or(args.first()) {
            Some(Val::Text(s)) => 1 + hundredth(s.len()),
            _ => 1,
        },
        op::INDEX | "type" | "dyn" => 1,
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
        // They have no size, but are texts.
        Val::Url(url) => url.as_str().len() as u64,
        Val::Semver(version) => (version.pre.len() + version.build.len()) as u64,
        _ => own,
    }
}

fn overload<'a>(name: &str) -> Answer<'a> {
    Err(no_overload(name))
}

/// Calls a function. What only turns out while it runs, such as how much there is to compare, is taken from the budget.
pub(in crate::cel) fn call<'a>(
    name: &str,
    target: Option<Val<'a>>,
    args: &[Val<'a>],
    meter: &mut Meter<'_>,
) -> Result<Val<'a>, Fault> {
    let missing = || Fault::Error(no_overload(name));
    Ok(match (name, &target, args) {
        (op::EQUALS, None, [a, b]) => Val::Bool(a.same(b, meter.budget)?),
        (op::NOT_EQUALS, None, [a, b]) => Val::Bool(!a.same(b, meter.budget)?),
        (op::IN, None, [item, list @ (Val::List(_) | Val::Array(..))]) => {
            let items = list.items().ok_or_else(missing)?;
            Val::Bool(position(&items, item, meter.budget)?.is_some())
        }
        ("indexOf" | "lastIndexOf", Some(list @ (Val::List(_) | Val::Array(..))), [x]) => {
            let mut items = list.items().ok_or_else(missing)?;
            let last = items.len().wrapping_sub(1);
            let at = if name == "indexOf" {
                position(&items, x, meter.budget)?
            } else {
                items.reverse();
                position(&items, x, meter.budget)?.map(|i| last - i)
            };
            Val::Int(at.and_then(|i| i64::try_from(i).ok()).unwrap_or(-1))
        }
        ("distinct", Some(list @ (Val::List(_) | Val::Array(..))), []) => {
            let mut seen: Vec<Val<'a>> = Vec::new();
            for item in list.items().ok_or_else(missing)? {
                if position(&seen, &item, meter.budget)?.is_none() {
                    seen.push(item);
                }
            }
            Val::list(seen)
        }
        ("flatten", Some(list @ (Val::List(_) | Val::Array(..))), [] | [Val::Int(_)]) => {
            let depth = match args {
                [Val::Int(depth)] => {
                    usize::try_from(*depth).map_err(|_| "level must be non-negative".to_owned())?
                }
                _ => 1,
            };
            let mut flat = Vec::new();
            flatten(list, depth, &mut flat, meter)?;
            Val::list(flat)
        }
        ("sets.contains" | "sets.equivalent" | "sets.intersects", None, [a, b]) => {
            let (x, y) = a.items().zip(b.items()).ok_or_else(missing)?;
            let all = |of: &[Val<'a>], others: &[Val<'a>], budget: &mut u64| {
                every(of.iter().cloned(), others, budget)
            };
            Val::Bool(match name {
                "sets.contains" => all(&y, &x, meter.budget)?,
                "sets.equivalent" => all(&y, &x, meter.budget)? && all(&x, &y, meter.budget)?,
                _ => {
                    let mut found = false;
                    for v in &x {
                        found = found || position(&y, v, meter.budget)?.is_some();
                    }
                    found
                }
            })
        }
        ("format", Some(Val::Text(s)), [list @ (Val::List(_) | Val::Array(..))]) => {
            Val::text(format::format(s, &list.items().unwrap_or_default(), meter)?)
        }
        (op::IN, None, [Val::Text(key), Val::Map(_) | Val::Object(..)])
        | (op::INDEX, None, [Val::Map(_) | Val::Object(..), Val::Text(key)]) => {
            // A long key is read whole to be found.
            draw(meter.budget, hundredth(key.len()))?;
            plain(name, target, args)?
        }
        ("size", Some(_), []) => plain(name, target, args)?,
        (_, Some(list @ (Val::List(_) | Val::Array(..))), _) => lists(name, list, args, meter)?,
        ("matches" | "find" | "findAll", Some(Val::Text(s)), [Val::Text(pattern)])
        | ("matches", None, [Val::Text(s), Val::Text(pattern)]) => matched(name, s, pattern, None, meter)?,
        ("findAll", Some(Val::Text(s)), [Val::Text(pattern), Val::Int(most)]) => {
            matched(name, s, pattern, Some(*most), meter)?
        }
        _ => plain(name, target, args)?,
    })
}

/// Functions whose cost is known beforehand.
fn plain<'a>(name: &str, target: Option<Val<'a>>, args: &[Val<'a>]) -> Answer<'a> {
    match (name, target, args) {
        (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, None, [a, b]) => {
            arithmetic(name, a, b)
        }
        (op::NEGATE, None, [Val::Int(i)]) => i.checked_neg().map(Val::Int).ok_or_else(overflow),
        (op::NEGATE, None, [Val::Double(d)]) => Ok(Val::Double(-d)),
        (op::NEGATE, None, [Val::Duration(d)]) => d.checked_neg().map(Val::Duration).ok_or_else(overflow),
        (op::LOGICAL_NOT, None, [Val::Bool(b)]) => Ok(Val::Bool(!b)),
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
        ("size", None, [v]) => size(v),
        ("size", Some(v), []) => size(&v),
        ("type", None, [v]) => Ok(Val::Type(v.type_name())),
        ("dyn", None, [v]) => Ok(v.clone()),
        ("int" | "uint" | "double" | "string" | "bool" | "bytes" | "duration" | "timestamp", None, [v]) => {
            convert(name, v)
        }
        (_, Some(Val::Text(s)), _) => text(name, &s, args),
        (_, Some(Val::Timestamp(t)), _) => time(name, t, args),
        (_, Some(Val::Duration(d)), []) => span(name, d),
        (_, Some(Val::Optional(v)), _) => optional(name, v, args),
        (_, Some(Val::Quantity(q)), _) => quantity(name, q, args),
        (_, Some(Val::Url(u)), []) => url(name, &u),
        (_, Some(Val::Ip(ip)), []) => address(name, ip),
        (_, Some(Val::Cidr(net)), _) => network(name, net, args),
        (_, Some(Val::Semver(v)), _) => version(name, &v, args),
        (_, Some(Val::Auth(auth)), _) => auth.call(name, args),
        ("validate", Some(Val::Format(format)), [Val::Text(s)]) => Ok(validate(format, s)),
        (_, None, _) => global(name, args),
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

fn lists<'a>(name: &str, list: &Val<'a>, args: &[Val<'a>], meter: &mut Meter<'_>) -> Result<Val<'a>, Fault> {
    let overload = || Fault::Error(no_overload(name));
    let items = list.items().ok_or_else(overload)?;
    Ok(match (name, args) {
        ("isSorted", []) => {
            let mut sorted = true;
            for two in items.windows(2) {
                let order = ordered(&two[0], &two[1], meter.budget)?.ok_or_else(overload)?;
                sorted &= order != Ordering::Greater;
            }
            Val::Bool(sorted)
        }
        ("sum", []) => {
            // Texts and lists have no sum, although they can be added.
            let is_amount =
                |v: &Val<'_>| matches!(v, Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Duration(_));
            if !items.iter().all(is_amount) {
                return Err(overload());
            }
            let mut items = items.into_iter();
            let first = items.next().unwrap_or(Val::Int(0));
            items.try_fold(first, |sum, v| arithmetic(op::ADD, &sum, &v))?
        }
        ("min" | "max", []) => {
            let mut items = items.into_iter();
            let mut best = items.next().ok_or_else(|| format!("{name} called on empty list"))?;
            for v in items {
                let order = ordered(&v, &best, meter.budget)?.ok_or_else(overload)?;
                if order == if name == "min" { Ordering::Less } else { Ordering::Greater } {
                    best = v;
                }
            }
            best
        }
        ("reverse", []) => Val::list(items.into_iter().rev().collect()),
        ("slice", [Val::Int(start), Val::Int(end)]) => {
            let why = match (usize::try_from(*start), usize::try_from(*end)) {
                (Ok(from), Ok(to)) if from <= to && to <= items.len() => {
                    return Ok(Val::list(items.get(from..to).unwrap_or_default().to_vec()));
                }
                (Ok(from), Ok(to)) if from <= to => format!("list is length {}", items.len()),
                (Ok(_), Ok(_)) => "start index must be less than or equal to end index".to_owned(),
                _ => "negative indexes not supported".to_owned(),
            };
            return Err(format!("cannot slice({start}, {end}), {why}").into());
        }
        ("sort", []) => sorted(items.into_iter().map(|v| (v.clone(), v)).collect(), meter)?,
        ("join", []) => joined(&items, "", meter)?,
        ("join", [Val::Text(by)]) => joined(&items, by, meter)?,
        _ => return Err(overload()),
    })
}

/// The items of a list, and of lists within it as deep as that.
fn flatten<'a>(
    list: &Val<'a>,
    depth: usize,
    out: &mut Vec<Val<'a>>,
    meter: &mut Meter<'_>,
) -> Result<(), Fault> {
    for item in list.items().unwrap_or_default() {
        draw(meter.budget, 1)?;
        if depth > 0 && matches!(item, Val::List(_) | Val::Array(..)) {
            flatten(&item, depth - 1, out, meter)?;
        } else {
            out.push(item);
        }
    }
    Ok(())
}

/// Values in the order of their keys, which must all be of one type that has an order. Each is compared about as often as
/// their number can be halved.
pub(in crate::cel) fn sorted<'a>(
    mut keyed: Vec<(Val<'a>, Val<'a>)>,
    meter: &mut Meter<'_>,
) -> Result<Val<'a>, Fault> {
    if let Some((first, _)) = keyed.first() {
        if first.compare(first).is_none() && !matches!(first, Val::Double(_)) {
            return Err("list elements must be comparable".to_owned().into());
        }
        let of = first.type_name();
        if keyed.iter().any(|(key, _)| key.type_name() != of) {
            return Err("list elements must have the same type".to_owned().into());
        }
    }
    let bytes = keyed.iter().map(|(key, _)| key.bytes()).sum();
    let rounds = u64::from(keyed.len().checked_ilog2().unwrap_or_default()) + 1;
    draw(meter.budget, hundredth(bytes).saturating_mul(rounds))?;
    keyed.sort_by(|(a, _), (b, _)| match (a, b) {
        // What is no number comes last: it has to have a place.
        (Val::Double(a), Val::Double(b)) => a.partial_cmp(b).unwrap_or_else(|| a.is_nan().cmp(&b.is_nan())),
        _ => a.compare(b).unwrap_or(Ordering::Equal),
    });
    Ok(Val::list(keyed.into_iter().map(|(_, value)| value).collect()))
}

fn joined<'a>(items: &[Val<'_>], by: &str, meter: &mut Meter<'_>) -> Result<Val<'a>, Fault> {
    let mut out = String::new();
    for (i, item) in items.iter().enumerate() {
        let Val::Text(s) = item else { return Err(no_overload("join").into()) };
        draw(meter.budget, hundredth(s.len() + by.len()))?;
        if i > 0 {
            out.push_str(by);
        }
        out.push_str(s);
        if out.len() > 4 << 20 {
            return Err("the result of join is too long".to_owned().into());
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

fn global<'a>(name: &str, args: &[Val<'a>]) -> Answer<'a> {
    let engine = &base64::engine::general_purpose::STANDARD;
    Ok(match (name, args) {
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
            let found = FORMATS.into_iter().find(|n| *n == s.as_ref());
            found.map_or(Val::Optional(None), |f| Val::some(Val::Format(f)))
        }
        // What it makes has been paid for: it is no longer than the budget.
        ("lists.range", [Val::Int(n)]) => Val::list((0..*n).map(Val::Int).collect()),
        ("base64.encode", [Val::Bytes(b)]) => Val::text(base64::Engine::encode(engine, b)),
        ("base64.decode", [Val::Text(s)]) => Val::Bytes(
            base64::Engine::decode(engine, s.as_bytes())
                .map_err(|e| format!("illegal base64 data: {e}"))?
                .into(),
        ),
        ("strings.quote", [Val::Text(s)]) => Val::text(format!("{s:?}")),
        ("math.greatest" | "math.least", _) => {
            let items = match args {
                [list @ (Val::List(_) | Val::Array(..))] => list.items().unwrap_or_default(),
                _ => args.to_vec(),
            };
            if !items.iter().all(|v| matches!(v, Val::Int(_) | Val::Uint(_) | Val::Double(_))) {
                return overload(name);
            }
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
        (_, []) => match FORMATS.into_iter().find(|f| name.strip_prefix("format.") == Some(f)) {
            Some(format) => Val::Format(format),
            None => return overload(name),
        },
        _ => return overload(name),
    })
}
