//! Evaluation: over the parsed tree, with a budget that each step draws from, so that no expression runs for long.

use std::rc::Rc;

use cel::common::ast::{
    CallExpr, ComprehensionExpr, EntryExpr, Expr, ListExpr, LiteralValue, operators as op,
};
use cel::parser::Expression;
use indexmap::IndexMap;

use super::library;
use super::value::{Key, Text, Val, hundredth, no_overload};

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The budget is spent.
    Cost,
    /// The expression failed, in the words of the original.
    Error(String),
}

impl From<String> for Fault {
    fn from(text: String) -> Self {
        Fault::Error(text)
    }
}

pub(crate) type Outcome<'a> = Result<Val<'a>, Fault>;

/// One evaluation.
pub(crate) struct Machine<'a, 'b> {
    /// Variables, the innermost last.
    variables: Vec<(&'a str, Val<'a>)>,
    meter: Meter<'b>,
    /// How many nodes have been looked at.
    nodes: u64,
}

/// What an evaluation may still cost, and what it has paid for already.
pub(super) struct Meter<'b> {
    pub budget: &'b mut u64,
    pub patterns: library::Recent,
}

/// How many nodes cost one step even if each of them costs nothing, as texts, numbers and logical operators do.
const NODES: u64 = 16;

fn failed<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault::Error(text.into()))
}

/// Characters cost a tenth of a step each.
fn tenth(n: usize) -> u64 {
    (n as u64).div_ceil(10)
}

/// Takes a cost from a budget.
pub(super) fn draw(budget: &mut u64, cost: u64) -> Result<(), Fault> {
    *budget = budget.checked_sub(cost).ok_or(Fault::Cost)?;
    Ok(())
}

impl<'a, 'b> Machine<'a, 'b> {
    pub fn new(variables: Vec<(&'a str, Val<'a>)>, budget: &'b mut u64) -> Self {
        let meter = Meter { budget, patterns: library::Recent::new() };
        Self { variables, meter, nodes: 0 }
    }

    fn spend(&mut self, cost: u64) -> Result<(), Fault> {
        draw(self.meter.budget, cost)
    }

    /// What comes from the object at hand; bytes are decoded each time.
    fn taken(&mut self, value: Val<'a>) -> Outcome<'a> {
        if let Val::Bytes(bytes) = &value {
            self.spend(hundredth(bytes.len()))?;
        }
        Ok(value)
    }

    /// A value as the key of a map, if it can be one. A long one is read whole to find its place.
    fn key(&mut self, value: &Val<'a>) -> Result<Option<Key<'a>>, Fault> {
        self.spend(hundredth(value.bytes()))?;
        Ok(value.key())
    }

    fn variable(&self, name: &str) -> Option<&Val<'a>> {
        self.variables.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    pub fn eval(&mut self, e: &'a Expression) -> Outcome<'a> {
        self.nodes += 1;
        if self.nodes.is_multiple_of(NODES) {
            self.spend(1)?;
        }
        match &e.expr {
            Expr::Literal(literal) => Ok(match literal {
                LiteralValue::Boolean(b) => Val::Bool(*b.inner()),
                LiteralValue::Bytes(b) => Val::Bytes(b.inner().into()),
                LiteralValue::Double(d) => Val::Double(*d.inner()),
                LiteralValue::Int(i) => Val::Int(*i.inner()),
                LiteralValue::Null => Val::Null,
                LiteralValue::String(s) => Val::Text(Text::Given(s.inner())),
                LiteralValue::UInt(u) => Val::Uint(*u.inner()),
            }),
            Expr::Ident(name) => {
                self.spend(1)?;
                if let Some(value) = self.variable(name) {
                    return Ok(value.clone());
                }
                match library::type_named(name) {
                    Some(name) => Ok(Val::Type(name)),
                    None => failed(format!("undeclared reference to '{name}' (in container '')")),
                }
            }
            Expr::Select(select) => {
                // A long name is read whole to be found.
                self.spend(1 + hundredth(select.field.len()))?;
                let operand = self.eval(&select.operand)?;
                if select.test {
                    return Ok(Val::Bool(present(&operand, &select.field)));
                }
                self.selected(operand, &select.field)
            }
            Expr::Call(call) => self.call(call),
            Expr::List(list) => {
                self.spend(10)?;
                let mut items = Vec::with_capacity(list.elements.len());
                self.elements(list, &mut items)?;
                Ok(Val::list(items))
            }
            Expr::Map(map) => {
                self.spend(30)?;
                let mut out = IndexMap::new();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else { return failed("not a map entry") };
                    let key = self.eval(&entry.key)?;
                    let key = self
                        .key(&key)?
                        .ok_or_else(|| Fault::Error(format!("unsupported key type: {}", key.type_name())))?;
                    let value = self.eval(&entry.value)?;
                    let value = match (entry.optional, value) {
                        (true, Val::Optional(None)) => continue,
                        (true, Val::Optional(Some(v))) => v.as_ref().clone(),
                        (_, v) => v,
                    };
                    if out.insert(key, value).is_some() {
                        return failed("Failed with repeated key");
                    }
                }
                Ok(Val::Map(Rc::new(out)))
            }
            Expr::Comprehension(c) => self.comprehension(c),
            Expr::Struct(s) => failed(format!("unknown type: {}", s.type_name)),
            Expr::Unspecified => failed("empty expression"),
        }
    }

    fn elements(&mut self, list: &'a ListExpr, items: &mut Vec<Val<'a>>) -> Result<(), Fault> {
        for (i, element) in list.elements.iter().enumerate() {
            match (self.eval(element)?, list.optional_indices.contains(&i)) {
                (Val::Optional(inner), true) => items.extend(inner.map(|v| v.as_ref().clone())),
                (value, _) => items.push(value),
            }
        }
        Ok(())
    }

    fn selected(&mut self, operand: Val<'a>, field: &str) -> Outcome<'a> {
        match &operand {
            Val::Optional(None) => Ok(operand),
            Val::Optional(Some(inner)) => match inner.field(field) {
                Some(value) => self.taken(value).map(Val::some),
                None => Ok(Val::Optional(None)),
            },
            Val::Object(..) | Val::Map(_) => match operand.field(field) {
                Some(value) => self.taken(value),
                None => failed(format!("no such key: {field}")),
            },
            Val::Auth(auth) => match auth.field(field) {
                Some(value) => Ok(value),
                None => failed(format!("undefined field '{field}'")),
            },
            other => failed(format!("type '{}' does not support field selection", other.type_name())),
        }
    }

    fn call(&mut self, call: &'a CallExpr) -> Outcome<'a> {
        let args = call.args.as_slice();
        match (call.func_name.as_str(), args) {
            (op::LOGICAL_AND, [a, b]) => return self.logic(a, b, false),
            (op::LOGICAL_OR, [a, b]) => return self.logic(a, b, true),
            (op::CONDITIONAL, [condition, yes, no]) => {
                return match self.eval(condition)? {
                    Val::Bool(true) => self.eval(yes),
                    Val::Bool(false) => self.eval(no),
                    _ => failed(no_overload("_?_:_")),
                };
            }
            (op::NOT_STRICTLY_FALSE, [a]) => {
                return Ok(match self.eval(a) {
                    Ok(Val::Bool(b)) => Val::Bool(b),
                    Err(Fault::Cost) => return Err(Fault::Cost),
                    _ => Val::Bool(true),
                });
            }
            (op::OPT_SELECT, [operand, field]) => {
                let operand = self.eval(operand)?;
                let field = self.eval(field)?;
                let Val::Text(field) = field else { return failed(no_overload("_?._")) };
                self.spend(hundredth(field.len()))?;
                let inner = match &operand {
                    Val::Optional(Some(inner)) => inner.as_ref(),
                    Val::Optional(None) => return Ok(operand),
                    other => other,
                };
                return match inner.field(&field) {
                    Some(value) => self.taken(value).map(Val::some),
                    None => Ok(Val::Optional(None)),
                };
            }
            (op::OPT_INDEX, [operand, key]) => {
                let operand = self.eval(operand)?;
                let key = self.eval(key)?;
                self.key(&key)?;
                let inner = match &operand {
                    Val::Optional(Some(inner)) => inner.as_ref(),
                    Val::Optional(None) => return Ok(operand),
                    other => other,
                };
                return match inner.index(&key)? {
                    Some(value) => self.taken(value).map(Val::some),
                    None => Ok(Val::Optional(None)),
                };
            }
            _ => {}
        }
        if let Some(target) = &call.target {
            if let Some(outcome) = self.macros(&call.func_name, target, args) {
                return outcome;
            }
            // `optional.of(x)`: the target is no value but part of the function's name.
            if let Expr::Ident(space) = &target.expr
                && self.variable(space).is_none()
                && library::is_namespace(space)
            {
                let values = args.iter().map(|a| self.eval(a)).collect::<Result<Vec<_>, _>>()?;
                return self.apply(&format!("{space}.{}", call.func_name), None, values);
            }
            let target = self.eval(target)?;
            let values = args.iter().map(|a| self.eval(a)).collect::<Result<Vec<_>, _>>()?;
            return self.apply(&call.func_name, Some(target), values);
        }
        let values = args.iter().map(|a| self.eval(a)).collect::<Result<Vec<_>, _>>()?;
        self.apply(&call.func_name, None, values)
    }

    fn apply(&mut self, name: &str, target: Option<Val<'a>>, args: Vec<Val<'a>>) -> Outcome<'a> {
        self.spend(library::cost(name, target.as_ref(), &args))?;
        let result = library::call(name, target, &args, &mut self.meter)?;
        // What a function makes costs what it takes to make it.
        if let Val::Text(Text::Made(made)) = &result {
            self.spend(tenth(made.len()))?;
        }
        self.taken(result)
    }

    /// `&&` and `||`: one side that decides makes an error of the other irrelevant.
    fn logic(&mut self, a: &'a Expression, b: &'a Expression, decisive: bool) -> Outcome<'a> {
        let first = self.eval(a);
        match &first {
            Ok(Val::Bool(v)) if *v == decisive => return first,
            Err(Fault::Cost) => return first,
            _ => {}
        }
        let second = self.eval(b)?;
        match (first, second) {
            (_, Val::Bool(v)) if v == decisive => Ok(Val::Bool(decisive)),
            (Ok(Val::Bool(_)), Val::Bool(_)) => Ok(Val::Bool(!decisive)),
            (Err(e), _) => Err(e),
            _ => failed(no_overload(if decisive { "_||_" } else { "_&&_" })),
        }
    }

    fn comprehension(&mut self, c: &'a ComprehensionExpr) -> Outcome<'a> {
        let range = self.eval(&c.iter_range)?;
        let Some(items) = range.range() else {
            return failed(no_overload("comprehension"));
        };
        let mut accumulated = self.eval(&c.accu_init)?;
        let depth = self.variables.len();
        for (i, item) in items.enumerate() {
            self.spend(1)?;
            let item = self.taken(item)?;
            match &c.iter_var2 {
                Some(second) => {
                    let (first, value) = pair(&range, i, item)?;
                    self.variables.push((c.iter_var.as_str(), first));
                    self.variables.push((second.as_str(), value));
                }
                None => self.variables.push((c.iter_var.as_str(), item)),
            }
            self.variables.push((c.accu_var.as_str(), accumulated));
            let goes_on = self.eval(&c.loop_cond);
            let stepped = match goes_on {
                Ok(Val::Bool(false)) => None,
                Ok(_) => Some(self.step(&c.accu_var, &c.loop_step)),
                Err(e) => {
                    self.variables.truncate(depth);
                    return Err(e);
                }
            };
            let before = self.variables.pop().map_or(Val::Null, |(_, v)| v);
            self.variables.truncate(depth);
            match stepped {
                None => {
                    accumulated = before;
                    break;
                }
                Some(next) => accumulated = next?,
            }
        }
        self.variables.push((c.accu_var.as_str(), accumulated));
        let result = self.eval(&c.result);
        self.variables.truncate(depth);
        result
    }

    /// The accumulator's next value. A list that grows is not copied: nobody else has it.
    fn step(&mut self, accumulator: &str, e: &'a Expression) -> Outcome<'a> {
        let is_accumulator = |e: &Expression| matches!(&e.expr, Expr::Ident(name) if name == accumulator);
        if let Expr::Call(call) = &e.expr {
            match (call.func_name.as_str(), call.args.as_slice()) {
                (op::CONDITIONAL, [condition, yes, no]) => {
                    return match self.eval(condition)? {
                        Val::Bool(true) => self.step(accumulator, yes),
                        Val::Bool(false) => self.step(accumulator, no),
                        _ => failed(no_overload("_?_:_")),
                    };
                }
                (op::ADD, [left, right]) if is_accumulator(left) => {
                    if let Expr::List(list) = &right.expr
                        && let Some(slot) = self.variables.last_mut()
                        && matches!(slot.1, Val::List(_))
                    {
                        let Val::List(mut items) = std::mem::replace(&mut slot.1, Val::Null) else {
                            return failed(no_overload("_+_"));
                        };
                        self.spend(2)?;
                        let mut new = Vec::new();
                        self.elements(list, &mut new)?;
                        Rc::make_mut(&mut items).extend(new);
                        return Ok(Val::List(items));
                    }
                }
                _ => {}
            }
        }
        self.eval(e)
    }

    /// The macros that the parser leaves as calls: those of optional values and those with two variables.
    fn macros(&mut self, name: &str, target: &'a Expression, args: &'a [Expression]) -> Option<Outcome<'a>> {
        fn ident(e: &Expression) -> Option<&str> {
            match &e.expr {
                Expr::Ident(name) => Some(name),
                _ => None,
            }
        }
        match (name, args) {
            ("bind", [variable, value, body]) if ident(target) == Some("cel") => {
                let variable = ident(variable)?;
                Some(self.eval(value).and_then(|v| self.with(&[(variable, v)], body)))
            }
            ("optMap" | "optFlatMap", [variable, body]) => {
                let variable = ident(variable)?;
                Some(self.eval(target).and_then(|v| match v {
                    Val::Optional(None) => Ok(Val::Optional(None)),
                    Val::Optional(Some(inner)) => {
                        let result = self.with(&[(variable, inner.as_ref().clone())], body)?;
                        Ok(if name == "optMap" { Val::some(result) } else { result })
                    }
                    _ => failed(no_overload(name)),
                }))
            }
            ("sortBy", [variable, key]) => Some(self.sort_by(target, ident(variable)?, key)),
            (
                "all" | "exists" | "existsOne" | "exists_one" | "transformList" | "transformMap"
                | "transformMapEntry",
                [first, second, body @ ..],
            ) if matches!(body.len(), 1 | 2) => {
                let (first, second) = (ident(first)?, ident(second)?);
                let (filter, body) = match body {
                    [filter, body] if name.starts_with("transform") => (Some(filter), body),
                    [body] => (None, body),
                    _ => return None,
                };
                let name = if name == "exists_one" { "existsOne" } else { name };
                Some(self.pairs(name, target, (first, second), filter, body))
            }
            _ => None,
        }
    }

    fn with(&mut self, variables: &[(&'a str, Val<'a>)], body: &'a Expression) -> Outcome<'a> {
        let depth = self.variables.len();
        self.variables.extend_from_slice(variables);
        let result = self.eval(body);
        self.variables.truncate(depth);
        result
    }

    fn sort_by(&mut self, target: &'a Expression, variable: &'a str, key: &'a Expression) -> Outcome<'a> {
        let list = self.eval(target)?;
        let Some(items) = list.items() else { return failed(no_overload("sortBy")) };
        self.spend(library::cost("sort", Some(&list), &[]))?;
        let mut keyed = Vec::with_capacity(items.len());
        for item in items {
            let item = self.taken(item)?;
            keyed.push((self.with(&[(variable, item.clone())], key)?, item));
        }
        library::sorted(keyed, &mut self.meter)
    }

    fn pairs(
        &mut self,
        name: &str,
        target: &'a Expression,
        (first, second): (&'a str, &'a str),
        filter: Option<&'a Expression>,
        body: &'a Expression,
    ) -> Outcome<'a> {
        let range = self.eval(target)?;
        let Some(items) = range.range() else { return failed(no_overload(name)) };
        let (mut list, mut map) = (Vec::new(), IndexMap::new());
        let (mut found, mut error) = (0, None);
        for (i, item) in items.enumerate() {
            self.spend(3)?;
            let (a, b) = pair(&range, i, item)?;
            let b = self.taken(b)?;
            let here = [(first, a.clone()), (second, b)];
            if let Some(filter) = filter
                && !matches!(self.with(&here, filter)?, Val::Bool(true))
            {
                continue;
            }
            let result = self.with(&here, body);
            match (name, result) {
                ("transformList", value) => list.push(value?),
                ("transformMap", value) => {
                    let key = self.key(&a)?.ok_or_else(|| Fault::Error(no_overload(name)))?;
                    map.insert(key, value?);
                }
                ("transformMapEntry", value) => {
                    let Val::Map(entries) = value? else { return failed(no_overload(name)) };
                    for (key, value) in entries.iter() {
                        if map.insert(key.clone(), value.clone()).is_some() {
                            return failed(format!("insert failed: key {key:?} already exists"));
                        }
                    }
                }
                (_, Err(Fault::Cost)) => return Err(Fault::Cost),
                ("existsOne", Err(e)) => return Err(e),
                (_, Err(e)) => error = Some(e),
                (_, Ok(Val::Bool(true))) => found += 1,
                ("all", Ok(Val::Bool(false))) => return Ok(Val::Bool(false)),
                (_, Ok(Val::Bool(false))) => {}
                _ => return failed(no_overload(name)),
            }
            if name == "exists" && found > 0 {
                return Ok(Val::Bool(true));
            }
        }
        match (name, error) {
            ("transformList", _) => Ok(Val::list(list)),
            ("transformMap" | "transformMapEntry", _) => Ok(Val::Map(Rc::new(map))),
            (_, Some(e)) => Err(e),
            ("all", None) => Ok(Val::Bool(true)),
            ("existsOne", None) => Ok(Val::Bool(found == 1)),
            _ => Ok(Val::Bool(false)),
        }
    }
}

/// The two variables of an item: index and item of a list, key and value of a map.
fn pair<'a>(range: &Val<'a>, i: usize, item: Val<'a>) -> Result<(Val<'a>, Val<'a>), Fault> {
    match range {
        Val::Map(_) | Val::Object(..) => {
            let value = range.index(&item)?.unwrap_or(Val::Null);
            Ok((item, value))
        }
        _ => Ok((Val::Int(i64::try_from(i).unwrap_or(i64::MAX)), item)),
    }
}

/// What `has()` says.
fn present(operand: &Val<'_>, field: &str) -> bool {
    match operand {
        Val::Optional(None) => false,
        Val::Optional(Some(inner)) => inner.field(field).is_some(),
        other => other.field(field).is_some(),
    }
}
