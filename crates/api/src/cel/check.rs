//! What can be said of an expression before it runs: whether the fields and functions it names exist, what type it has, and
//! what it costs at worst, from the sizes that the schema allows.
//!
//! Types are followed as far as the schema knows them; beyond that anything goes until it runs.

use cel::common::ast::{CallExpr, Expr, LiteralValue, operators as op};
use cel::parser::Expression;

use super::eval::{Fault, Meter};
use super::price::{self, Entry, Node, Size};
use super::value::{Val, unescape};
use super::{CALL_BUDGET, library};
use crate::kinds::crd::Structural;

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

/// What is known of a value: its type, where it stands, its size and that of what is in it, and what it costs to have it.
#[derive(Debug, Clone)]
pub(super) struct Estimate<'a> {
    pub ty: Ty<'a>,
    node: Option<Node<'a>>,
    pub size: Option<Size>,
    pub entry: Option<Entry>,
    pub cost: u64,
}

impl<'a> Estimate<'a> {
    /// A value of a size that is given, that its place has, or that all of its type have.
    fn new(ty: Ty<'a>, node: Option<Node<'a>>, size: Option<Size>, cost: u64) -> Self {
        let size = size.or(node.map(Node::size)).or(ty.is_scalar().then(|| Size::exactly(1)));
        Self { ty, node, size, entry: None, cost }
    }

    fn costing(self, cost: u64) -> Self {
        Self { cost, ..self }
    }

    /// Its size, which may be any.
    pub fn size(&self) -> Size {
        self.size.unwrap_or(Size::UNKNOWN)
    }

    /// The type and size of what is in a list or map.
    pub fn value(&self) -> Option<(Ty<'a>, Size)> {
        let (Ty::List(ty, _) | Ty::Map(ty, _)) = &self.ty else { return None };
        let size = self.entry.map(|e| e.value).or(self.node.and_then(Node::values).map(Node::size));
        Some((ty.as_ref().clone(), size.unwrap_or(Size::UNKNOWN)))
    }

    /// What a variable of one value of a list or map knows: of a map's keys, or of what is in it. What is of no place upstream
    /// looks for in the whole, so here it is sized by `root` too.
    fn each(&self, key: bool, root: Option<Node<'a>>) -> (Option<Node<'a>>, Option<Size>) {
        match self.node {
            None if root.is_some() => (root, None),
            None if key => (None, self.entry.map(|e| e.key)),
            None => (None, self.entry.map(|e| e.value)),
            Some(_) if key => (None, Some(Size::exactly(0))),
            Some(node) => (node.values(), None),
        }
    }
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
    pub fn head(&self) -> Option<&'static str> {
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

    /// Whether all values of it are of one size.
    fn is_scalar(&self) -> bool {
        match self {
            Ty::Named(name) => matches!(
                *name,
                "bool" | "int" | "uint" | "double" | "google.protobuf.Timestamp" | "google.protobuf.Duration"
            ),
            Ty::Optional(inner) => inner.is_scalar(),
            _ => false,
        }
    }
}

/// A look at one expression.
pub(super) struct Checker<'a> {
    /// The innermost last.
    variables: Vec<(&'a str, Estimate<'a>)>,
    errors: Vec<String>,
    /// How many more errors there are.
    untold: usize,
    /// How much of the source the errors show.
    shown: usize,
    source: &'a str,
    /// What the expression is of.
    root: Option<Node<'a>>,
    /// What may still be spent on trying what is known beforehand.
    budget: u64,
}

impl<'a> Checker<'a> {
    pub fn new(source: &'a str, variables: Vec<(&'a str, Ty<'a>)>) -> Self {
        let variable = |(name, ty): (&'a str, Ty<'a>)| {
            let node = match &ty {
                Ty::Object(schema) | Ty::List(_, Some(schema)) | Ty::Map(_, Some(schema)) => {
                    Some(Node::Schema(schema))
                }
                _ => None,
            };
            (name, Estimate::new(ty, node, None, 1))
        };
        let variables = variables.into_iter().map(variable).collect();
        Self { variables, errors: Vec::new(), untold: 0, shown: 0, source, root: None, budget: CALL_BUDGET }
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

    /// A variable that stands where a schema says.
    pub fn of_schema(mut self, name: &'a str, schema: &'a Structural, optional: bool) -> Self {
        let ty = if optional { Ty::Optional(Box::new(Ty::of(schema))) } else { Ty::of(schema) };
        let node = Some(Node::Schema(schema));
        self.root = self.root.or(node);
        self.variables.push((name, Estimate::new(ty, node, None, 1)));
        self
    }

    pub fn look(&mut self, e: &'a Expression) -> Estimate<'a> {
        let sized = |ty: Ty<'a>, size: usize| Estimate::new(ty, None, Some(Size::exactly(size as u64)), 0);
        match &e.expr {
            Expr::Literal(literal) => match literal {
                LiteralValue::Boolean(_) => sized(BOOL, 1),
                LiteralValue::Bytes(b) => sized(Ty::Named("bytes"), b.inner().len()),
                LiteralValue::Double(_) => sized(Ty::Named("double"), 1),
                LiteralValue::Int(_) => sized(INT, 1),
                LiteralValue::Null => sized(Ty::Any, 1),
                LiteralValue::String(s) => sized(TEXT, s.inner().chars().count()),
                LiteralValue::UInt(_) => sized(Ty::Named("uint"), 1),
            },
            Expr::Ident(name) => {
                let found = self.variables.iter().rev().find(|(n, _)| *n == name.as_str());
                if let Some((_, known)) = found {
                    return known.clone().costing(1);
                }
                if library::type_named(name).is_none() {
                    self.say(name, format!("undeclared reference to '{name}' (in container '')"));
                }
                Estimate::new(Ty::Any, None, self.root.map(Node::size), 1)
            }
            Expr::Select(select) => {
                let operand = self.look(&select.operand);
                let (inner, optional) = match operand.ty {
                    Ty::Optional(inner) => (*inner, true),
                    other => (other, false),
                };
                let ty = self.field(&inner, &select.field);
                if select.test {
                    return Estimate::new(BOOL, None, None, operand.cost);
                }
                let own = u64::from(!optional && matches!(inner, Ty::Map(..) | Ty::Object(_) | Ty::Metadata));
                let node = operand.node.filter(|_| !matches!(inner, Ty::Map(..)));
                let node = node.and_then(|n| n.field(&unescape(&select.field)));
                let ty = if optional { Ty::Optional(Box::new(ty)) } else { ty };
                Estimate::new(ty, node, None, operand.cost.saturating_add(own))
            }
            Expr::List(list) => {
                let (mut cost, mut ty) = (price::LIST, None);
                let mut sizes = Vec::new();
                for element in &list.elements {
                    let seen = self.look(element);
                    cost = cost.saturating_add(seen.cost);
                    sizes.push(seen.size());
                    if list.optional_indices.is_empty() {
                        self.alike(&mut ty, seen.ty);
                    }
                }
                let ty = if list.optional_indices.is_empty() { ty.unwrap_or(Ty::Any) } else { Ty::Any };
                let value = sizes.into_iter().reduce(Size::union).unwrap_or(Size::exactly(0));
                let entry = Some(Entry { list: true, key: Size::exactly(1), value });
                Estimate { entry, ..sized(Ty::List(Box::new(ty), None), list.elements.len()).costing(cost) }
            }
            Expr::Map(map) => {
                let mut cost = price::MAP;
                let (mut keys, mut values) = (None, None);
                let mut sizes = Vec::new();
                for entry in &map.entries {
                    if let cel::common::ast::EntryExpr::MapEntry(entry) = &entry.expr {
                        let (key, value) = (self.look(&entry.key), self.look(&entry.value));
                        cost = cost.saturating_add(key.cost).saturating_add(value.cost);
                        sizes.push((key.size(), value.size()));
                        self.alike(&mut keys, key.ty);
                        if !entry.optional {
                            self.alike(&mut values, value.ty);
                        }
                    }
                }
                let all = sizes.into_iter().reduce(|a, b| (a.0.union(b.0), a.1.union(b.1)));
                let (key, value) = all.unwrap_or((Size::exactly(0), Size::exactly(0)));
                let entry = Some(Entry { list: false, key, value });
                Estimate { entry, ..sized(Ty::Map(Box::new(Ty::Any), None), map.entries.len()).costing(cost) }
            }
            Expr::Struct(s) => {
                self.say(
                    &s.type_name,
                    format!("undeclared reference to '{}' (in container '')", s.type_name),
                );
                sized(Ty::Any, 1)
            }
            Expr::Unspecified => sized(Ty::Any, 1),
            Expr::Comprehension(c) => {
                let range = self.look(&c.iter_range);
                let item = self.item(&range.ty);
                let init = self.look(&c.accu_init);
                let depth = self.variables.len();
                let (of_keys, is_list) = (matches!(range.ty, Ty::Map(..)), matches!(init.ty, Ty::List(..)));
                let root = self.root;
                let mut variable = |name: &'a str, ty: Ty<'a>, key: bool| {
                    let (node, size) = range.each(key, root);
                    self.variables.push((name, Estimate::new(ty, node, size, 1)));
                };
                match &c.iter_var2 {
                    Some(second) => {
                        variable(c.iter_var.as_str(), Ty::Any, true);
                        variable(second.as_str(), Ty::Any, false);
                    }
                    None => variable(c.iter_var.as_str(), item, of_keys),
                }
                let accumulated = match init.ty {
                    // What is put into a new list or map is not followed.
                    Ty::List(..) => Ty::List(Box::new(Ty::Any), None),
                    ref other => other.clone(),
                };
                self.variables.push((c.accu_var.as_str(), Estimate { ty: accumulated, ..init.clone() }));
                let condition = self.look(&c.loop_cond).cost;
                let step = self.look(&c.loop_step);
                let each = condition.saturating_add(step.cost);
                if let (true, Ty::List(item, _), Some((_, slot))) =
                    (is_list, &step.ty, self.variables.last_mut())
                {
                    slot.ty = Ty::List(item.clone(), None);
                }
                let result = self.look(&c.result);
                self.variables.truncate(depth);
                let cost = range.cost.saturating_add(init.cost).saturating_add(result.cost);
                let cost = cost.saturating_add(range.size().max.saturating_mul(each));
                let (size, entry) = match &c.accu_init.expr {
                    Expr::List(_) | Expr::Map(_) => (Some(range.size()), step.entry),
                    _ => (init.size, None),
                };
                Estimate { entry, ..Estimate::new(result.ty, None, size, cost) }
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
    fn with(&mut self, variables: Vec<(&'a str, Estimate<'a>)>, body: &'a Expression) -> Estimate<'a> {
        let depth = self.variables.len();
        self.variables.extend(variables);
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
        // What a name that is given to a value costs: it is a walk through an empty list.
        let bound = |value: u64, body: u64| price::LIST.saturating_add(value).saturating_add(body);
        match (call.func_name.as_str(), call.args.as_slice()) {
            ("bind", [variable, value, body]) if ident(target) == Some("cel") => {
                let variable = ident(variable)?;
                let value = self.look(value);
                let cost = value.cost;
                let seen = self.with(vec![(variable, value)], body);
                let cost = bound(cost, seen.cost);
                Some(seen.costing(cost))
            }
            (name @ ("optMap" | "optFlatMap"), [variable, body]) => {
                let variable = ident(variable)?;
                let of = self.look(target);
                let inner = match of.ty {
                    Ty::Optional(inner) => *inner,
                    _ => Ty::Any,
                };
                let value = Estimate::new(inner, None, None, 1);
                let seen = self.with(vec![(variable, value)], body);
                // Its value is asked for twice: whether there is one, and for it.
                let own =
                    bound(of.cost.saturating_add(1), seen.cost).saturating_add(u64::from(name == "optMap"));
                let cost = of.cost.saturating_add(1).saturating_add(own);
                let ty = if name == "optMap" { Ty::Optional(Box::new(seen.ty)) } else { seen.ty };
                Some(Estimate::new(ty, None, None, cost))
            }
            ("sortBy", [variable, key]) => {
                let variable = ident(variable)?;
                let range = self.look(target);
                let item = self.item(&range.ty);
                let (node, size) = range.each(matches!(range.ty, Ty::Map(..)), self.root);
                let key = self.with(vec![(variable, Estimate::new(item, node, size, 1))], key);
                let n = range.size().max;
                // The keys are made by a walk through the list, and compared each with each.
                let keys = n.saturating_mul(key.cost.saturating_add(2 + price::LIST));
                let factor = if matches!(key.ty.head(), Some("string" | "bytes")) { 2.1 } else { 2.0 };
                let sorted = price::part(n.saturating_mul(n), factor).saturating_add(1 + price::LIST);
                let body = keys.saturating_add(sorted).saturating_add(3 + price::LIST);
                let cost = bound(range.cost, body);
                Some(range.costing(cost))
            }
            (
                name @ ("all" | "exists" | "existsOne" | "exists_one" | "transformList" | "transformMap"
                | "transformMapEntry"),
                [first, second, bodies @ ..],
            ) if matches!(bodies.len(), 1 | 2) => {
                let (first, second) = (ident(first)?, ident(second)?);
                let range = self.look(target);
                let (key, value) = match &range.ty {
                    Ty::List(items, _) => (INT, items.as_ref().clone()),
                    Ty::Map(values, _) => (TEXT, values.as_ref().clone()),
                    _ => (Ty::Any, Ty::Any),
                };
                let root = self.root;
                let of = |ty: Ty<'a>, key: bool| {
                    let (node, size) = range.each(key, root);
                    Estimate::new(ty, node, size, 1)
                };
                let variables = vec![(first, of(key, true)), (second, of(value, false))];
                let seen: Vec<_> = bodies.iter().map(|b| self.with(variables.clone(), b)).collect();
                let (filter, body) = match &seen[..] {
                    [filter, body] => (filter.cost, body),
                    [body, ..] => (0, body),
                    [] => return None,
                };
                // As upstream spells them out: what each round costs, and what the beginning and the end do.
                let (around, own, ty) = match name {
                    "all" => (1, 3, BOOL),
                    "exists" => (1, 4, BOOL),
                    "existsOne" | "exists_one" => (2, 2, BOOL),
                    "transformList" => (1 + price::LIST, 2 + price::LIST, Ty::List(Box::new(Ty::Any), None)),
                    _ => (1 + price::MAP, 3, Ty::Map(Box::new(Ty::Any), None)),
                };
                let each = body.cost.saturating_add(own).saturating_add(filter);
                let rounds = range.size().max.saturating_mul(each);
                let cost = range.cost.saturating_add(around).saturating_add(rounds);
                let size = matches!(ty, Ty::List(..) | Ty::Map(..)).then(|| range.size());
                let entry = size.map(|_| Entry {
                    list: name == "transformList",
                    key: range.each(true, None).1.unwrap_or(Size::UNKNOWN),
                    value: body.size(),
                });
                Some(Estimate { entry, ..Estimate::new(ty, None, size, cost) })
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
                    if library::is_namespace(space) && !self.variables.iter().any(|(n, _)| n == space) =>
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
                let ty = Ty::Optional(Box::new(self.field(&inner, field.inner())));
                return Estimate::new(ty, None, None, operand.cost.saturating_add(1));
            }
            (_, args) => args.iter().map(|a| self.look(a)).collect(),
        };
        self.literal(&name, call);
        let all: Vec<&Estimate<'a>> = target.iter().chain(&args).collect();
        let inputs = all.iter().fold(0u64, |sum, a| sum.saturating_add(a.cost));
        let types: Vec<Ty<'a>> = all.iter().map(|a| a.ty.clone()).collect();
        let ty = self.result(&name, &types);
        match (name.as_str(), &args[..]) {
            (op::LOGICAL_AND | op::LOGICAL_OR, _) => return Estimate::new(ty, None, None, inputs),
            (op::CONDITIONAL, [condition, yes, no]) => {
                let cost = condition.cost.saturating_add(yes.cost.max(no.cost));
                let size = yes.size().union(no.size());
                let entry = Entry::union(yes.entry, no.entry);
                return Estimate { entry, ..Estimate::new(ty, None, Some(size), cost) };
            }
            (op::INDEX, [list, _]) => {
                let (node, size) = list.each(false, None);
                return Estimate::new(ty, node, size, inputs.saturating_add(1));
            }
            _ => {}
        }
        let literals: Vec<Option<u64>> = (call.args.iter())
            .map(|a| match &a.expr {
                Expr::Literal(LiteralValue::Int(n)) => Some(u64::try_from(*n.inner()).unwrap_or_default()),
                _ => None,
            })
            .collect();
        let own = price::call(&name, target.as_ref(), &args, &literals);
        Estimate { entry: own.entry, ..Estimate::new(ty, None, own.size, inputs.saturating_add(own.cost)) }
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
