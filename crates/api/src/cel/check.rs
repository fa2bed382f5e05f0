//! What can be said of an expression before it runs: whether the fields and functions it names exist, what type it has, and
//! what it costs at worst, from the sizes that the schema allows.
//!
//! Types are followed as far as the schema knows them; beyond that anything goes until it runs.

use cel::common::ast::{CallExpr, Expr, LiteralValue, operators as op};
use cel::parser::Expression;

use super::eval::{Fault, Meter};
use super::value::{Val, unescape};
use super::{CALL_BUDGET, library};
use crate::kinds::crd::Structural;

/// How much one object may take: bounds what the schema leaves unbounded.
const REQUEST: u64 = 3 << 20;

/// How many errors of one expression are told.
const MAX_ERRORS: usize = 100;
/// How long an expression may be, in bytes, that its errors show.
const MAX_SHOWN: usize = 16 << 10;
/// How much of it they show together: many errors in a long one must not make a message that nobody can hold.
const MAX_SHOWN_TOGETHER: usize = 64 << 10;

/// A type.
#[derive(Debug, Clone)]
pub(super) enum Ty<'a> {
    Any,
    Named(&'static str),
    List(Box<Ty<'a>>, Option<&'a Structural>),
    Map(Box<Ty<'a>>, Option<&'a Structural>),
    Optional(Box<Ty<'a>>),
    Object(&'a Structural),
    /// The metadata of an object, of which rules see only the names.
    Metadata,
}

/// What is known of a value: its type, its greatest size, and what it costs to have it.
#[derive(Debug, Clone)]
pub(super) struct Estimate<'a> {
    pub ty: Ty<'a>,
    size: u64,
    pub cost: u64,
}

const BOOL: Ty<'static> = Ty::Named("bool");
const INT: Ty<'static> = Ty::Named("int");
const TEXT: Ty<'static> = Ty::Named("string");

impl<'a> Ty<'a> {
    pub fn of(schema: &'a Structural) -> Ty<'a> {
        if schema.is_int_or_string() {
            return Ty::Any;
        }
        match schema.kind() {
            "boolean" => BOOL,
            "integer" => INT,
            "number" => Ty::Named("double"),
            "string" => Ty::Named(match schema.format() {
                "date" | "date-time" => "google.protobuf.Timestamp",
                "duration" => "google.protobuf.Duration",
                "byte" => "bytes",
                _ => "string",
            }),
            "array" => match schema.items_schema() {
                Some(items) => Ty::List(Box::new(Ty::of(items)), Some(schema)),
                None => Ty::Any,
            },
            "object" if schema.is_map() => match schema.value_schema("") {
                Some(values) => Ty::Map(Box::new(Ty::of(values)), Some(schema)),
                None => Ty::Any,
            },
            "object" => Ty::Object(schema),
            _ => Ty::Any,
        }
    }

    fn name(&self) -> String {
        match self {
            Ty::Any => "dyn".into(),
            Ty::Named(name) => (*name).into(),
            Ty::List(items, _) => format!("list({})", items.name()),
            Ty::Map(values, _) => format!("map(string, {})", values.name()),
            Ty::Optional(inner) => format!("optional_type({})", inner.name()),
            Ty::Object(_) | Ty::Metadata => "object".into(),
        }
    }

    /// The type's first word, for comparing; nothing if it is not known.
    fn head(&self) -> Option<&'static str> {
        Some(match self {
            Ty::Any => return None,
            Ty::Named(name) => name,
            Ty::List(..) => "list",
            Ty::Map(..) | Ty::Object(_) | Ty::Metadata => "map",
            Ty::Optional(_) => "optional",
        })
    }

    pub fn is(&self, name: &str) -> bool {
        self.head().is_none_or(|h| h == name)
    }

    /// How large a value of the type can be.
    fn size(&self) -> u64 {
        let of = |schema: &Structural| limit(schema);
        match self {
            Ty::Any => REQUEST,
            Ty::Named("string" | "bytes") => REQUEST,
            Ty::List(_, Some(s)) | Ty::Map(_, Some(s)) => of(s),
            Ty::List(_, None) | Ty::Map(_, None) => REQUEST,
            Ty::Object(s) => s.properties_len() as u64,
            _ => 1,
        }
    }
}

/// The most characters, items or entries that the schema allows.
pub(crate) fn limit(schema: &Structural) -> u64 {
    let number = |field: &str| schema.number(field);
    match schema.kind() {
        "string" => match schema.format() {
            "date" => 10,
            "date-time" => 35,
            "duration" => 30,
            _ => number("maxLength").or_else(|| schema.longest_choice()).unwrap_or(REQUEST),
        },
        "array" => {
            let item = schema.items_schema().map_or(1, smallest);
            number("maxItems").unwrap_or(REQUEST / (item + 1))
        }
        "object" => {
            let value = schema.value_schema("").map_or(1, smallest);
            number("maxProperties").unwrap_or(REQUEST / (value + 6))
        }
        _ => REQUEST,
    }
}

/// The fewest bytes in which a value can be written.
fn smallest(schema: &Structural) -> u64 {
    match schema.kind() {
        "string" | "array" => 2,
        "boolean" => 4,
        "object" => 2 + schema.required_sizes(),
        _ => 1,
    }
}

/// A look at one expression.
pub(super) struct Checker<'a> {
    variables: Vec<(&'a str, Ty<'a>, u64)>,
    errors: Vec<String>,
    /// How many more errors there are.
    untold: usize,
    /// How much of the source the errors show.
    shown: usize,
    source: &'a str,
    /// What may still be spent on trying what is known beforehand.
    budget: u64,
}

impl<'a> Checker<'a> {
    pub fn new(source: &'a str, variables: Vec<(&'a str, Ty<'a>)>) -> Self {
        let variables = variables.into_iter().map(|(name, ty)| (name, ty.clone(), ty.size())).collect();
        Self { variables, errors: Vec::new(), untold: 0, shown: 0, source, budget: CALL_BUDGET }
    }

    /// What is wrong, if something is.
    pub fn faults(&self) -> Option<String> {
        let mut told = self.errors.join("\n");
        if self.untold > 0 {
            told.push_str(&format!("\n{} more errors were truncated", self.untold));
        }
        (!self.errors.is_empty()).then_some(told)
    }

    /// With its place, which is looked for: the tree does not tell it.
    fn say(&mut self, near: &str, text: String) {
        if self.errors.len() == MAX_ERRORS {
            self.untold += 1;
            return;
        }
        let at = self.source.find(near).map_or(0, |i| self.source[..i].chars().count());
        let mut error = format!("ERROR: <input>:1:{}: {text}", at + 1);
        if self.source.len() <= MAX_SHOWN && self.shown <= MAX_SHOWN_TOGETHER {
            error.push_str(&format!("\n | {}\n | {}^", self.source, ".".repeat(at)));
            self.shown += self.source.len();
        }
        self.errors.push(error);
    }

    pub fn look(&mut self, e: &'a Expression) -> Estimate<'a> {
        let cheap = |ty: Ty<'a>, size: u64| Estimate { ty, size, cost: 0 };
        match &e.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => cheap(BOOL, 1),
                LiteralValue::Bytes(b) => cheap(Ty::Named("bytes"), b.inner().len() as u64),
                LiteralValue::Double(_) => cheap(Ty::Named("double"), 1),
                LiteralValue::Int(_) => cheap(INT, 1),
                LiteralValue::Null => cheap(Ty::Any, 1),
                LiteralValue::String(s) => cheap(TEXT, s.inner().len() as u64),
                LiteralValue::UInt(_) => cheap(Ty::Named("uint"), 1),
            },
            Expr::Ident(name) => {
                let found = self.variables.iter().rev().find(|(n, ..)| *n == name.as_str());
                if let Some((_, ty, size)) = found {
                    return Estimate { ty: ty.clone(), size: *size, cost: 1 };
                }
                if library::type_named(name).is_none() {
                    self.say(name, format!("undeclared reference to '{name}' (in container '')"));
                }
                cheap(Ty::Any, 1)
            }
            Expr::Select(select) => {
                let operand = self.look(&select.operand);
                let cost = operand.cost.saturating_add(1);
                let (inner, optional) = match operand.ty {
                    Ty::Optional(inner) => (*inner, true),
                    other => (other, false),
                };
                let ty = self.field(&inner, &select.field);
                if select.test {
                    return Estimate { ty: BOOL, size: 1, cost };
                }
                let size = ty.size();
                Estimate { ty: if optional { Ty::Optional(Box::new(ty)) } else { ty }, size, cost }
            }
            Expr::List(list) => {
                let (mut cost, mut ty) = (10u64, None);
                for element in &list.elements {
                    let seen = self.look(element);
                    cost = cost.saturating_add(seen.cost);
                    if list.optional_indices.is_empty() {
                        self.alike(&mut ty, seen.ty);
                    }
                }
                let ty = if list.optional_indices.is_empty() { ty.unwrap_or(Ty::Any) } else { Ty::Any };
                Estimate { ty: Ty::List(Box::new(ty), None), size: list.elements.len() as u64, cost }
            }
            Expr::Map(map) => {
                let mut cost = 30u64;
                let (mut keys, mut values) = (None, None);
                for entry in &map.entries {
                    if let cel::common::ast::EntryExpr::MapEntry(entry) = &entry.expr {
                        let (key, value) = (self.look(&entry.key), self.look(&entry.value));
                        cost = cost.saturating_add(key.cost).saturating_add(value.cost);
                        self.alike(&mut keys, key.ty);
                        if !entry.optional {
                            self.alike(&mut values, value.ty);
                        }
                    }
                }
                Estimate { ty: Ty::Map(Box::new(Ty::Any), None), size: map.entries.len() as u64, cost }
            }
            Expr::Struct(s) => {
                self.say(
                    &s.type_name,
                    format!("undeclared reference to '{}' (in container '')", s.type_name),
                );
                cheap(Ty::Any, 1)
            }
            Expr::Unspecified => cheap(Ty::Any, 1),
            Expr::Comprehension(c) => {
                let range = self.look(&c.iter_range);
                let item = self.item(&range.ty);
                let init = self.look(&c.accu_init);
                let depth = self.variables.len();
                let item_size = item.size();
                match &c.iter_var2 {
                    Some(second) => {
                        self.variables.push((c.iter_var.as_str(), Ty::Any, REQUEST));
                        self.variables.push((second.as_str(), Ty::Any, REQUEST));
                    }
                    None => self.variables.push((c.iter_var.as_str(), item, item_size)),
                }
                let accumulated = match init.ty {
                    // What is put into a new list or map is not followed.
                    Ty::List(..) => Ty::List(Box::new(Ty::Any), None),
                    other => other,
                };
                let is_list = matches!(accumulated, Ty::List(..));
                let size = if is_list { range.size } else { init.size };
                self.variables.push((c.accu_var.as_str(), accumulated, 1));
                let condition = self.look(&c.loop_cond).cost;
                let step = self.look(&c.loop_step);
                let each = condition.saturating_add(step.cost).saturating_add(1);
                let mut mapped = None;
                if let (true, Ty::List(item, _)) = (is_list, &step.ty) {
                    mapped = Some(Ty::List(item.clone(), None));
                }
                if let (Some(ty), Some(slot)) = (mapped, self.variables.last_mut()) {
                    slot.1 = ty;
                    slot.2 = size;
                }
                let result = self.look(&c.result);
                self.variables.truncate(depth);
                let cost = range.cost.saturating_add(init.cost).saturating_add(result.cost);
                Estimate { cost: cost.saturating_add(range.size.saturating_mul(each)), ..result }
            }
            Expr::Call(call) => self.call(call),
        }
    }

    fn item(&mut self, range: &Ty<'a>) -> Ty<'a> {
        match range {
            Ty::List(items, _) => items.as_ref().clone(),
            Ty::Map(..) => TEXT,
            Ty::Any => Ty::Any,
            other => {
                let text = format!(
                    "expression of type '{}' cannot be range of a comprehension (must be list, map, or dynamic)",
                    other.name()
                );
                self.say("", text);
                Ty::Any
            }
        }
    }

    fn field(&mut self, of: &Ty<'a>, name: &str) -> Ty<'a> {
        let undefined = |checker: &mut Self| {
            checker.say(&format!(".{name}"), format!("undefined field '{name}'"));
            Ty::Any
        };
        match of {
            Ty::Any => Ty::Any,
            Ty::Map(values, _) => values.as_ref().clone(),
            Ty::Metadata if matches!(name, "name" | "generateName") => TEXT,
            Ty::Object(schema) => {
                let plain = unescape(name);
                match (schema.property(&plain), plain.as_ref()) {
                    (_, "metadata") if schema.is_whole_object() => Ty::Metadata,
                    (_, "apiVersion" | "kind") if schema.is_whole_object() => TEXT,
                    (Some(property), _) => Ty::of(property),
                    (None, _) => undefined(self),
                }
            }
            Ty::Metadata => undefined(self),
            other => {
                let text = format!("type '{}' does not support field selection", other.name());
                self.say(&format!(".{name}"), text);
                Ty::Any
            }
        }
    }

    /// A macro that the parser left as a call, whose first arguments are variables.
    fn with(&mut self, variables: &[(&'a str, Ty<'a>)], body: &'a Expression) -> Estimate<'a> {
        let depth = self.variables.len();
        for (name, ty) in variables {
            self.variables.push((name, ty.clone(), ty.size()));
        }
        let seen = self.look(body);
        self.variables.truncate(depth);
        seen
    }

    /// Nothing is looked at that is no macro: whoever asks looks at it then, and to look twice at each level takes forever.
    fn macros(&mut self, call: &'a CallExpr, target: &'a Expression) -> Option<Estimate<'a>> {
        fn ident(e: &Expression) -> Option<&str> {
            match &e.expr {
                Expr::Ident(name) => Some(name),
                _ => None,
            }
        }
        match (call.func_name.as_str(), call.args.as_slice()) {
            ("bind", [variable, value, body]) if ident(target) == Some("cel") => {
                let variable = ident(variable)?;
                let value = self.look(value);
                let seen = self.with(&[(variable, value.ty)], body);
                Some(Estimate { cost: seen.cost.saturating_add(value.cost), ..seen })
            }
            (name @ ("optMap" | "optFlatMap"), [variable, body]) => {
                let variable = ident(variable)?;
                let of = self.look(target);
                let inner = match of.ty {
                    Ty::Optional(inner) => *inner,
                    _ => Ty::Any,
                };
                let seen = self.with(&[(variable, inner)], body);
                let ty = if name == "optMap" { Ty::Optional(Box::new(seen.ty)) } else { seen.ty };
                Some(Estimate { ty, size: seen.size, cost: seen.cost.saturating_add(of.cost) })
            }
            ("sortBy", [variable, key]) => {
                let variable = ident(variable)?;
                let range = self.look(target);
                let item = self.item(&range.ty);
                let each = self.with(&[(variable, item)], key).cost.saturating_add(SORTED);
                Some(Estimate { cost: range.cost.saturating_add(range.size.saturating_mul(each)), ..range })
            }
            (
                name @ ("all" | "exists" | "existsOne" | "transformList" | "transformMap"),
                [first, second, bodies @ ..],
            ) if matches!(bodies.len(), 1 | 2) => {
                let (first, second) = (ident(first)?, ident(second)?);
                let range = self.look(target);
                let (key, value) = match &range.ty {
                    Ty::List(items, _) => (INT, items.as_ref().clone()),
                    Ty::Map(values, _) => (TEXT, values.as_ref().clone()),
                    _ => (Ty::Any, Ty::Any),
                };
                let variables = [(first, key), (second, value)];
                let each =
                    bodies.iter().fold(3u64, |sum, b| sum.saturating_add(self.with(&variables, b).cost));
                let ty = match name {
                    "transformList" => Ty::List(Box::new(Ty::Any), None),
                    "transformMap" => Ty::Map(Box::new(Ty::Any), None),
                    _ => BOOL,
                };
                let cost = range.cost.saturating_add(range.size.saturating_mul(each));
                Some(Estimate { ty, size: range.size, cost })
            }
            _ => None,
        }
    }

    /// All parts of a list or a map that is written out are of one type: that of the first that has one.
    fn alike(&mut self, first: &mut Option<Ty<'a>>, next: Ty<'a>) {
        match first {
            Some(ty) if ty.head().is_some() => {
                if next.head().is_some_and(|head| Some(head) != ty.head()) {
                    let text = format!("expected type '{}' but found '{}'", ty.name(), next.name());
                    self.say("", text);
                }
            }
            _ => *first = Some(next),
        }
    }

    /// Tries what does not depend on any value: patterns, and conversions of texts that are written out.
    fn literal(&mut self, name: &str, call: &'a CallExpr) {
        let (target, at) = match (name, call.target.is_some()) {
            ("matches" | "find" | "findAll", true) => (Some(Val::text("")), 0),
            ("matches", false) => (None, 1),
            ("duration" | "timestamp" | "int" | "uint" | "double" | "bool", false) => (None, 0),
            _ => return,
        };
        let Some(Expr::Literal(LiteralValue::String(text))) = call.args.get(at).map(|a| &a.expr) else {
            return;
        };
        let mut args = vec![Val::text(""); at];
        args.push(Val::text(text.inner()));
        let mut meter = Meter { budget: &mut self.budget, patterns: library::Recent::new() };
        // What costs too much to try is left for when it runs.
        if let Err(Fault::Error(_)) = library::call(name, target, &args, &mut meter) {
            let quoted = ['\'', '"'].map(|quote| format!("{quote}{}", text.inner()));
            let near = quoted.iter().find(|q| self.source.contains(q.as_str())).map_or(name, String::as_str);
            self.say(near, format!("invalid {name} argument"));
        }
    }

    fn call(&mut self, call: &'a CallExpr) -> Estimate<'a> {
        let mut name = call.func_name.clone();
        let mut target = None;
        if let Some(t) = &call.target {
            if let Some(seen) = self.macros(call, t) {
                return seen;
            }
            match &t.expr {
                Expr::Ident(space)
                    if library::is_namespace(space) && !self.variables.iter().any(|(n, ..)| n == space) =>
                {
                    name = format!("{space}.{name}");
                }
                _ => target = Some(self.look(t)),
            }
        }
        if !library::exists(&name) {
            let near = call.func_name.clone();
            self.say(&near, format!("undeclared reference to '{name}' (in container '')"));
        }
        let args: Vec<Estimate<'a>> = match (name.as_str(), call.args.as_slice()) {
            (op::OPT_SELECT, [operand, field]) => {
                let operand = self.look(operand);
                let inner = match &operand.ty {
                    Ty::Optional(inner) => inner.as_ref().clone(),
                    other => other.clone(),
                };
                let Expr::Literal(LiteralValue::String(field)) = &field.expr else { return operand };
                let ty = self.field(&inner, field.inner());
                let size = ty.size();
                return Estimate {
                    ty: Ty::Optional(Box::new(ty)),
                    size,
                    cost: operand.cost.saturating_add(1),
                };
            }
            (_, args) => args.iter().map(|a| self.look(a)).collect(),
        };
        self.literal(&name, call);
        let all: Vec<&Estimate<'a>> = target.iter().chain(&args).collect();
        let inputs = all.iter().fold(0u64, |sum, a| sum.saturating_add(a.cost));
        let types: Vec<Ty<'a>> = all.iter().map(|a| a.ty.clone()).collect();
        let sizes: Vec<u64> = all.iter().map(|a| a.size).collect();
        let ty = self.result(&name, &types);
        let own = cost(&name, &types, &sizes);
        let size = match name.as_str() {
            // A number that is only known when the rule is judged may be any.
            "lists.range" => match call.args.first().map(|a| &a.expr) {
                Some(Expr::Literal(LiteralValue::Int(n))) => u64::try_from(*n.inner()).unwrap_or_default(),
                _ => u64::from(u32::MAX),
            },
            op::ADD => sizes.iter().fold(0u64, |a, b| a.saturating_add(*b)),
            op::CONDITIONAL => sizes.iter().skip(1).copied().max().unwrap_or(1),
            op::INDEX => ty.size(),
            "split" | "findAll" | "replace" | "substring" | "trim" | "lowerAscii" | "upperAscii" | "find"
            | "join" | "string" | "orValue" | "value" | "reverse" | "slice" | "sort" | "distinct"
            | "flatten" | "format" => sizes.iter().copied().max().unwrap_or(1),
            _ => 1,
        };
        Estimate { ty, size, cost: inputs.saturating_add(own) }
    }

    fn result(&mut self, name: &str, types: &[Ty<'a>]) -> Ty<'a> {
        let heads: Vec<Option<&str>> = types.iter().map(Ty::head).collect();
        let mismatch = |checker: &mut Self| {
            let names: Vec<String> = types.iter().map(Ty::name).collect();
            let text = format!("found no matching overload for '{name}' applied to '({})'", names.join(", "));
            checker.say(name.trim_matches('_'), text);
        };
        let numbers = |h: &str| matches!(h, "int" | "uint" | "double");
        match (name, types) {
            (op::EQUALS | op::NOT_EQUALS, [..]) => {
                if let [Some(a), Some(b)] = heads[..]
                    && a != b
                    && !(numbers(a) && numbers(b))
                {
                    mismatch(self);
                }
                BOOL
            }
            (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [..]) => {
                if let [Some(a), Some(b)] = heads[..]
                    && (a != b && !(numbers(a) && numbers(b)) || matches!(a, "list" | "map"))
                {
                    mismatch(self);
                }
                BOOL
            }
            (op::LOGICAL_AND | op::LOGICAL_OR | op::LOGICAL_NOT, [..]) => {
                if types.iter().any(|t| !t.is("bool")) {
                    mismatch(self);
                }
                BOOL
            }
            (op::CONDITIONAL, [condition, yes, no]) => {
                if !condition.is("bool") {
                    mismatch(self);
                }
                match (yes.head(), no.head()) {
                    (Some(a), Some(b)) if a == b => yes.clone(),
                    (Some(_), Some(_)) => {
                        mismatch(self);
                        Ty::Any
                    }
                    _ => Ty::Any,
                }
            }
            (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, [a, b]) => {
                match (a.head(), b.head()) {
                    (Some("google.protobuf.Timestamp"), Some("google.protobuf.Timestamp")) => {
                        Ty::Named("google.protobuf.Duration")
                    }
                    (Some("google.protobuf.Timestamp"), Some("google.protobuf.Duration"))
                    | (Some("google.protobuf.Duration"), Some("google.protobuf.Timestamp")) => {
                        Ty::Named("google.protobuf.Timestamp")
                    }
                    (Some(x), Some(y)) if x != y || matches!(x, "bool" | "map") => {
                        mismatch(self);
                        Ty::Any
                    }
                    (None, _) => b.clone(),
                    // A list made here has nothing to say of its items.
                    _ if matches!(a, Ty::List(items, _) if matches!(items.as_ref(), Ty::Any)) => b.clone(),
                    _ => a.clone(),
                }
            }
            (op::NEGATE, [a]) => a.clone(),
            (op::INDEX, [Ty::List(items, _), _]) => items.as_ref().clone(),
            (op::INDEX, [Ty::Map(values, _), _]) => values.as_ref().clone(),
            (op::OPT_INDEX, [Ty::List(items, _) | Ty::Map(items, _), _]) => Ty::Optional(items.clone()),
            (op::OPT_INDEX, _) => Ty::Optional(Box::new(Ty::Any)),
            (op::IN, _) | (op::NOT_STRICTLY_FALSE, _) => BOOL,
            ("orValue" | "value", [Ty::Optional(inner), ..]) => inner.as_ref().clone(),
            ("optional.of" | "optional.ofNonZeroValue", [v]) => Ty::Optional(Box::new(v.clone())),
            ("optional.none" | "validate" | "format.named" | "or", _) => Ty::Optional(Box::new(Ty::Any)),
            ("reverse" | "slice" | "sort" | "distinct", [list @ Ty::List(..), ..]) => list.clone(),
            ("flatten", [Ty::List(..), ..]) => Ty::List(Box::new(Ty::Any), None),
            ("lists.range", _) => Ty::List(Box::new(INT), None),
            ("min" | "max" | "sum", [Ty::List(items, _)]) => items.as_ref().clone(),
            ("contains" | "startsWith" | "endsWith" | "matches", [a, b]) => {
                if !a.is("string") || !b.is("string") {
                    mismatch(self);
                }
                BOOL
            }
            ("size", [v]) => {
                if heads[0].is_some_and(|h| !matches!(h, "string" | "bytes" | "list" | "map"))
                    || matches!(v, Ty::Object(_))
                {
                    mismatch(self);
                }
                INT
            }
            _ => named_result(name),
        }
    }
}

fn named_result(name: &str) -> Ty<'static> {
    match name {
        "int" | "indexOf" | "lastIndexOf" | "getFullYear" | "getMonth" | "getDate" | "getDayOfMonth"
        | "getDayOfWeek" | "getDayOfYear" | "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds"
        | "sign" | "compareTo" | "asInteger" | "family" | "prefixLength" | "major" | "minor" | "patch" => INT,
        "string" | "charAt" | "lowerAscii" | "upperAscii" | "replace" | "substring" | "trim" | "join"
        | "format" | "find" | "getScheme" | "getHost" | "getHostname" | "getPort" | "getEscapedPath"
        | "strings.quote" | "base64.encode" => TEXT,
        "split" | "findAll" => Ty::List(Box::new(TEXT), None),
        "bool"
        | "isSorted"
        | "isURL"
        | "isQuantity"
        | "isGreaterThan"
        | "isLessThan"
        | "isInteger"
        | "isIP"
        | "ip.isCanonical"
        | "isUnspecified"
        | "isLoopback"
        | "isLinkLocalMulticast"
        | "isLinkLocalUnicast"
        | "isGlobalUnicast"
        | "isCIDR"
        | "containsIP"
        | "containsCIDR"
        | "hasValue"
        | "sets.contains"
        | "sets.equivalent"
        | "sets.intersects"
        | "isSemver" => BOOL,
        "double" | "asApproximateFloat" => Ty::Named("double"),
        "uint" => Ty::Named("uint"),
        "bytes" | "base64.decode" => Ty::Named("bytes"),
        "duration" => Ty::Named("google.protobuf.Duration"),
        "timestamp" => Ty::Named("google.protobuf.Timestamp"),
        _ => Ty::Any,
    }
}

/// How often each item of a list is compared at most while it is sorted, whatever its length.
const SORTED: u64 = 33;

/// As the evaluation's own, at the greatest sizes.
fn cost(name: &str, types: &[Ty<'_>], sizes: &[u64]) -> u64 {
    let tenth = |n: u64| n.div_ceil(10);
    let at = |i: usize| sizes.get(i).copied().unwrap_or(1);
    match name {
        op::EQUALS | op::NOT_EQUALS => match types {
            [a, b] if a.is("string") && b.is("string") => 1 + tenth(at(0).min(at(1))),
            [Ty::List(..) | Ty::Map(..), _] => 1 + at(0).min(at(1)),
            _ => 1,
        },
        op::ADD => match types {
            [a, ..] if matches!(a.head(), Some("string" | "bytes")) => 1 + tenth(at(0).saturating_add(at(1))),
            _ => 1,
        },
        op::IN => match types {
            [_, Ty::List(..)] => 1 + at(1),
            _ => 1,
        },
        "contains" | "indexOf" | "lastIndexOf" | "replace" | "split" => {
            1 + tenth(at(0)).saturating_mul(tenth(at(1)).max(1))
        }
        "matches" | "find" | "findAll" => 1 + tenth(at(0) + 1).saturating_mul(at(1).max(4) / 4),
        "startsWith" | "endsWith" => 1 + tenth(at(1)),
        "sets.contains" | "sets.equivalent" | "sets.intersects" => 1 + at(0).saturating_mul(at(1)),
        "isSorted" | "sum" | "min" | "max" | "slice" | "flatten" => 1 + at(0),
        "sort" => 1 + at(0).saturating_mul(SORTED),
        "distinct" => 1 + at(0).saturating_mul(at(0)),
        "lowerAscii" | "upperAscii" | "trim" | "substring" | "join" | "string" | "quantity"
        | "isQuantity" | "url" | "isURL" | "ip" | "isIP" | "cidr" | "isCIDR" | "duration" | "timestamp"
        | "validate" => 1 + tenth(at(0)),
        _ => 1,
    }
}
