//! What an expression costs at worst, before it has run: upstream's sums. They decide which rules may be written, so a rule that
//! upstream takes must not be dearer here.

use cel::common::ast::operators as op;

use super::authorizer;
use super::check::{Estimate, Ty};
use crate::kinds::crd::Structural;

/// How many bytes one object may take: bounds what the schema leaves unbounded.
const REQUEST: u64 = 3 << 20;
/// The longest text that a number, time or yes or no becomes.
const LONGEST_SCALAR: u64 = 64;
/// The longest text of a named format, and the size of its pattern, as upstream takes them.
const FORMAT: u64 = 64;
const FORMAT_PATTERN: u64 = 128;
/// What it costs to make an empty list.
pub(super) const LIST: u64 = 10;
/// And an empty map.
pub(super) const MAP: u64 = 30;

/// How many characters, items or entries a value has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub min: u64,
    pub max: u64,
}

impl Size {
    pub const UNKNOWN: Size = Size { min: 0, max: u64::MAX };

    pub fn exactly(n: u64) -> Size {
        Size { min: n, max: n }
    }

    pub fn up_to(max: u64) -> Size {
        Size { min: 0, max }
    }

    pub fn union(self, other: Size) -> Size {
        Size { min: self.min.min(other.min), max: self.max.max(other.max) }
    }

    fn plus(self, other: Size) -> Size {
        Size { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    fn times(self, other: Size) -> Size {
        Size { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }
}

/// The sizes of what is in a list or map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub list: bool,
    pub key: Size,
    pub value: Size,
}

impl Entry {
    pub fn union(a: Option<Entry>, b: Option<Entry>) -> Option<Entry> {
        let (a, b) = a.zip(b)?;
        Some(Entry { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

/// Where in the object a value stands, if it is of the object.
#[derive(Debug, Clone, Copy)]
pub(super) enum Node<'a> {
    /// What a schema describes.
    Schema(&'a Structural),
    /// Its metadata.
    Metadata,
    /// A text of at most so many bytes.
    Text(u64),
}

impl<'a> Node<'a> {
    /// A field of a struct.
    pub fn field(self, name: &str) -> Option<Node<'a>> {
        /// How long names of objects may be, in bytes of the longest characters.
        const NAME: u64 = 253 * 4;
        match self {
            Node::Schema(schema) if schema.is_whole_object() && name == "metadata" => Some(Node::Metadata),
            Node::Schema(schema) if schema.is_whole_object() && matches!(name, "apiVersion" | "kind") => {
                Some(Node::Text(REQUEST - 2))
            }
            Node::Schema(schema) => schema.property(name).map(Node::Schema),
            Node::Metadata => match name {
                "name" => Some(Node::Text(NAME)),
                "generateName" => Some(Node::Text(NAME - 4)),
                _ => None,
            },
            Node::Text(_) => None,
        }
    }

    /// The items of a list or the values of a map.
    pub fn values(self) -> Option<Node<'a>> {
        match self {
            Node::Schema(schema) if schema.kind() == "array" => schema.items_schema().map(Node::Schema),
            Node::Schema(schema) if schema.is_map() => schema.value_schema("").map(Node::Schema),
            _ => None,
        }
    }

    pub fn size(self) -> Size {
        Size::up_to(match self {
            Node::Schema(schema) => most(schema),
            Node::Metadata => 0,
            Node::Text(n) => n,
        })
    }
}

/// The most characters, items or entries that a schema allows; what is no text, list or map has none.
fn most(schema: &Structural) -> u64 {
    let characters = || schema.number("maxLength").map(|n| n.saturating_mul(4));
    if schema.is_int_or_string() {
        return characters().unwrap_or(REQUEST - 2);
    }
    match schema.kind() {
        "string" => match schema.format() {
            "byte" => schema.number("maxLength").unwrap_or(REQUEST - 2),
            "date" => 12,
            "date-time" | "duration" => 32,
            _ => characters().or_else(|| schema.longest_choice()).unwrap_or(REQUEST - 2),
        },
        "array" => schema.items_schema().map_or(0, |items| {
            schema.number("maxItems").unwrap_or_else(|| (REQUEST - 2) / (smallest(items) + 1))
        }),
        "object" if schema.is_map() => schema.value_schema("").map_or(0, |values| {
            schema.number("maxProperties").unwrap_or_else(|| (REQUEST - 2) / (smallest(values) + 6))
        }),
        _ => 0,
    }
}

/// The fewest bytes in which a value can be written.
fn smallest(schema: &Structural) -> u64 {
    match (schema.kind(), schema.format()) {
        _ if schema.is_int_or_string() => 1,
        ("string", "date") => 12,
        ("string", "date-time") => 21,
        ("string", "duration") => 3,
        ("string" | "array", _) => 2,
        ("boolean", _) => 4,
        ("object", _) if schema.is_map() => 2,
        ("object", _) => {
            let needed = schema.required_properties();
            2 + needed.map(|(name, value)| name.len() as u64 + 4 + smallest(value)).sum::<u64>()
        }
        _ => 1,
    }
}

/// How often what a schema describes is in one object at most, where nothing around it says.
pub(super) fn most_often(schema: &Structural) -> u64 {
    REQUEST / (smallest(schema) + 1)
}

/// A part of a size, rounded up.
pub(super) fn part(n: u64, factor: f64) -> u64 {
    // A number that does not fit is the largest that does.
    (n as f64 * factor).ceil() as u64
}

/// What it costs to go through a text.
fn traversed(n: u64) -> u64 {
    part(n, 0.1)
}

fn matching(text: u64, pattern: u64) -> u64 {
    traversed(text.saturating_add(1)).saturating_mul(part(pattern, 0.25))
}

/// What a call costs beside its operands, the size of what it makes, and of what is in that, if these are known.
pub(super) struct Price {
    pub cost: u64,
    pub size: Option<Size>,
    pub entry: Option<Entry>,
}

impl Price {
    fn of(cost: u64) -> Price {
        Price { cost, size: None, entry: None }
    }

    fn sized(cost: u64, size: Size) -> Price {
        Price { cost, size: Some(size), entry: None }
    }

    /// Of a list that is made.
    fn listed(factor: f64, count: Size, size: Size) -> Price {
        Price::sized(part(count.max, factor).saturating_add(1 + LIST), size)
    }
}

/// What a call costs. `literals` are the whole numbers among its arguments.
pub(super) fn call(
    name: &str,
    target: Option<&Estimate<'_>>,
    args: &[Estimate<'_>],
    literals: &[Option<u64>],
) -> Price {
    let size = |e: Option<&Estimate<'_>>| e.map_or(Size::UNKNOWN, Estimate::size);
    let arg = |i: usize| size(args.get(i));
    // What may be called on a value and also takes it as its first argument.
    let subject = target.or(args.first());
    let on = size(subject);
    let kind = |e: Option<&Estimate<'_>>| e.and_then(|e| e.ty.head());
    let literal = |i: usize| literals.get(i).copied().flatten();
    match name {
        "check" => Price::of(authorizer::CHECK_COST),
        "fieldSelector" | "labelSelector" => {
            let requirements = part(part(arg(0).max, 0.5), 50.0);
            Price::of(LIST.saturating_add(traversed(arg(0).max)).saturating_add(requirements))
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" | "includes" => match subject {
            Some(list @ Estimate { ty: Ty::List(..), .. }) => {
                let each = match list.value() {
                    Some((item, size)) if matches!(item.head(), Some("string" | "bytes")) => {
                        1u64.saturating_add(traversed(size.max))
                    }
                    _ => 1,
                };
                Price::of(on.max.saturating_mul(each))
            }
            _ => Price::of(traversed(on.max)),
        },
        "url" => Price::sized(traversed(arg(0).max), arg(0)),
        "lowerAscii" | "upperAscii" | "substring" | "trim" => Price::sized(traversed(on.max), on),
        "replace" => Price::sized(part(on.max, 0.2), replaced(on, arg(0), arg(1))),
        "split" => Price::sized(part(on.max, 0.2), Size::up_to(literal(1).unwrap_or(on.max))),
        "join" => {
            let items = match subject.and_then(Estimate::value) {
                Some((_, each)) => on.times(each),
                None => Size::exactly(0),
            };
            let between = Size { min: on.min.saturating_sub(1), max: on.max.saturating_sub(1) };
            let text = if args.is_empty() { items } else { items.plus(arg(0).times(between)) };
            Price::sized(traversed(text.max), text)
        }
        "find" | "findAll" => Price::sized(matching(on.max, arg(0).max), Size::up_to(on.max)),
        "matches" if target.is_some() => Price::of(matching(on.max, arg(0).max)),
        "contains" => Price::of(traversed(on.max).saturating_mul(traversed(arg(0).max))),
        "startsWith" | "endsWith" => Price::of(traversed(arg(0).max)),
        "ip" if target.is_some() => Price::of(1),
        "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            Price::of(traversed(arg(0).max))
        }
        "ip.isCanonical" => Price::of(part(arg(0).max, 0.2)),
        "containsIP" | "containsCIDR" => {
            let own = if name == "containsIP" { 4 } else { 7 };
            let parsed = if kind(args.first()) == Some("string") { traversed(arg(0).max) } else { 0 };
            Price::of(parsed.saturating_add(own))
        }
        "validate" => Price::of(part(traversed(arg(0).max), FORMAT_PATTERN as f64 * 0.25)),
        "format" => Price::of(traversed(on.max)),
        "bytes" if kind(args.first()) == Some("string") => {
            let n = arg(0);
            Price::sized(traversed(n.max), Size { min: n.min, max: n.max.saturating_mul(4) })
        }
        "string" => match kind(args.first()) {
            Some("bytes") => {
                Price::sized(traversed(arg(0).max), Size { min: arg(0).min / 4, max: arg(0).max })
            }
            Some("string") | None => Price { cost: 1, size: args.first().and_then(|a| a.size), entry: None },
            _ => Price::sized(1, Size::up_to(LONGEST_SCALAR)),
        },
        "strings.quote" => {
            let n = arg(0);
            let size = Size { min: n.min.saturating_add(2), max: n.max.saturating_mul(2).saturating_add(2) };
            Price::sized(traversed(n.max), size)
        }
        "dyn" => Price {
            cost: 1,
            size: args.first().and_then(|a| a.size),
            entry: args.first().and_then(|a| a.entry),
        },
        op::IN => match args.get(1).map(|a| &a.ty) {
            Some(Ty::Map(..) | Ty::Object(_)) => Price::of(1),
            _ => Price::of(arg(1).max.max(1)),
        },
        op::ADD => added(args, arg(0), arg(1)),
        op::EQUALS | op::NOT_EQUALS => {
            let format = matches!(args.first().map(|a| &a.ty), Some(Ty::Named("kubernetes.NamedFormat")));
            Price::of(traversed(if format { FORMAT } else { arg(0).max.min(arg(1).max) }))
        }
        op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS => {
            match kind(args.first()).or(kind(args.get(1))) {
                Some("string" | "bytes") => Price::of(traversed(arg(0).max.min(arg(1).max))),
                None => Price::of(traversed(arg(0).max.min(arg(1).max)).max(1)),
                Some(_) => Price::of(1),
            }
        }
        "sets.contains" | "sets.intersects" => Price::of(arg(0).times(arg(1)).max.saturating_add(1)),
        "sets.equivalent" => Price::of(part(arg(0).times(arg(1)).max, 2.0).saturating_add(1)),
        "slice" => {
            let n = literal(1).unwrap_or(on.max).saturating_sub(literal(0).unwrap_or(0));
            Price::listed(1.0, Size::exactly(n), Size::exactly(n))
        }
        "lists.range" => {
            let n = Size::exactly(literal(0).unwrap_or(u64::MAX));
            Price::listed(1.0, n, n)
        }
        "reverse" => Price::listed(1.0, on, on),
        "flatten" => {
            let depth = if args.is_empty() { 1 } else { literal(0).unwrap_or(u64::MAX) };
            Price::listed(depth as f64, on, on)
        }
        "distinct" => Price::listed(2.0, on.times(on), on.times(on)),
        "sort" => {
            let texts = subject.and_then(Estimate::value).is_some_and(|(item, _)| item.is("string"));
            Price::listed(if texts { 2.1 } else { 2.0 }, on.times(on), on.times(on))
        }
        _ => Price::of(1),
    }
}

fn added(args: &[Estimate<'_>], a: Size, b: Size) -> Price {
    let is = |wanted: &[&str]| args.iter().any(|e| e.ty.head().is_some_and(|h| wanted.contains(&h)));
    if is(&["int", "uint", "double", "google.protobuf.Timestamp", "google.protobuf.Duration"]) {
        return Price::of(1);
    }
    let size = a.plus(b);
    let entry = match args {
        [a, b] => Entry::union(a.entry, b.entry),
        _ => None,
    };
    let cost = if is(&["list"]) { 1 } else { traversed(size.max) };
    Price { cost, size: Some(size), entry }
}

/// How long a text is in which each `from` has become `to`.
fn replaced(text: Size, from: Size, to: Size) -> Size {
    let (most, kept_most) = if from.min == 0 {
        (text.max.saturating_add(1), text.max)
    } else if to.max <= from.min {
        (0, text.max)
    } else {
        (text.max.div_ceil(from.min), 0)
    };
    let (least, kept_least) = if from.max == 0 {
        (text.min.saturating_add(1), text.min)
    } else if from.max <= to.min {
        (0, text.min)
    } else {
        (text.min.div_ceil(from.max), 0)
    };
    Size { min: least, max: most }.times(to).plus(Size { min: kept_least, max: kept_most })
}
