//! Expressions in CEL, as Kubernetes has them: rules in the schemas of custom resources (`x-kubernetes-validations`) and the
//! conditions of webhooks.
//!
//! The grammar is that of the `cel` crate; checking, evaluation and functions are ours, because an expression that anybody
//! may write must cost no more than it is given: each step draws from a budget, and what an expression costs at worst is
//! estimated when it is written.

mod authorizer;
mod check;
mod eval;
mod library;
mod value;

use cel::common::ast::Expr;
use cel::parser::{Expression, PrattParser};
use serde_json::Value;

use crate::field::{ErrorList, ErrorType, Path};
use crate::kinds::crd::Structural;
pub use authorizer::Authorizer;
pub(crate) use check::limit;
use check::{Checker, Ty};
use eval::{Fault, Machine, Outcome};
use value::Val;

/// What one evaluation may cost.
pub const CALL_BUDGET: u64 = 1_000_000;
/// What the rules of one object may cost together.
pub const OBJECT_BUDGET: u64 = 10_000_000;
/// What one rule may cost at worst, at all the places it applies to.
const RULE_ESTIMATE: u64 = 10_000_000;
/// What all rules of a schema may cost at worst.
pub(crate) const SCHEMA_ESTIMATE: u64 = 100_000_000;
/// How long an expression's text may be.
const MAX_SOURCE: usize = 100_000;
/// How many nodes and levels a parsed expression may have: bounds the stack of whoever walks it.
const MAX_NODES: usize = 2_000;
const MAX_LEVELS: usize = 120;
/// How deep brackets and how long runs of prefix operators may be: bounds the stack of the parser.
const MAX_NESTING: usize = 200;
/// How many operands a chain of operators may have.
const MAX_CHAIN: usize = 400;
/// What the conditions of webhooks speak of.
const CONDITION_VARIABLES: [&str; 4] = ["object", "oldObject", "request", "authorizer"];
/// How long a message that an expression makes may be.
const MAX_MESSAGE: usize = 5 * 1024;

/// A parsed expression.
#[derive(Debug)]
pub struct Program {
    source: Box<str>,
    tree: Expression,
}

impl Program {
    /// Parses an expression. The error is the original's text: it says where.
    pub fn parse(source: &str) -> Result<Program, String> {
        if source.len() > MAX_SOURCE {
            return Err(format!(
                "ERROR: <input>: expression code point size exceeds limit: size: {}, limit {MAX_SOURCE}",
                source.len()
            ));
        }
        if nesting(source) > MAX_NESTING {
            return Err(format!("ERROR: <input>:1:1: expression recursion limit exceeded: {MAX_NESTING}"));
        }
        let parser = PrattParser::new()
            .enable_optional_syntax(true)
            .enable_ident_escape_syntax(true)
            .max_expression_node_count(MAX_NODES);
        let tree = parser.parse(source).map_err(|e| {
            let texts: Vec<String> = e
                .errors
                .iter()
                .map(|e| format!("ERROR: <input>:{}:{}: Syntax error: {}", e.pos.0, e.pos.1, e.msg))
                .collect();
            texts.join("\n")
        })?;
        if !within(&tree, MAX_LEVELS) {
            return Err(format!("ERROR: <input>:1:1: expression recursion limit exceeded: {MAX_LEVELS}"));
        }
        Ok(Program { source: source.into(), tree })
    }

    /// Evaluates a condition over whole JSON values. `budget` is what it may cost; what it cost is taken from it.
    pub fn condition(
        &self,
        variables: &[(&str, &Value)],
        authorizer: &dyn Authorizer,
        budget: &mut u64,
    ) -> Result<bool, String> {
        let mut variables: Vec<_> = variables.iter().map(|(name, v)| (*name, Val::of(v, None))).collect();
        variables.push(("authorizer", authorizer::Auth::of(authorizer)));
        match Machine::new(variables, budget).eval(&self.tree) {
            Ok(Val::Bool(b)) => Ok(b),
            Ok(other) => Err(format!("the expression gives {}, not bool", other.type_name())),
            Err(Fault::Cost) => Err("operation cancelled: actual cost limit exceeded".into()),
            Err(Fault::Error(text)) => Err(text),
        }
    }

    /// Whether a variable of this name is used anywhere.
    fn uses(&self, variable: &str) -> bool {
        mentions(&self.tree, variable)
    }

    fn run<'a>(&'a self, variables: Vec<(&'a str, Val<'a>)>, budget: &mut u64) -> Outcome<'a> {
        let mut call = CALL_BUDGET.min(*budget);
        let given = call;
        let outcome = Machine::new(variables, &mut call).eval(&self.tree);
        *budget -= given - call;
        outcome
    }
}

/// What is wrong with the condition of a webhook or a policy, before it has ever run. `more`: what it may speak of
/// beside what every webhook's may.
pub fn check_condition(source: &str, more: &[&'static str]) -> Result<(), String> {
    let program = Program::parse(source).map_err(|e| format!("compilation failed: {e}"))?;
    let mut variables = CONDITION_VARIABLES.map(|name| (name, Ty::Any)).to_vec();
    variables.extend(more.iter().map(|name| (*name, Ty::Any)));
    let mut checker = Checker::new(&program.source, variables);
    let seen = checker.look(&program.tree);
    if let Some(faults) = checker.faults() {
        return Err(format!("compilation failed: {faults}"));
    }
    if !seen.ty.is("bool") {
        return Err("must evaluate to bool".into());
    }
    Ok(())
}

/// How deep the tree of a text gets at most, roughly: brackets, runs of prefix operators, conditionals, and chains of
/// operators, of which each stands in the one before. The answer is never too small.
fn nesting(source: &str) -> usize {
    // Of each open bracket: how many operands the current chain has.
    let mut chains = vec![0usize];
    let (mut prefixes, mut choices, mut most) = (0usize, 0usize, 0usize);
    let (mut before, mut quote, mut escaped) = (' ', None, false);
    for c in source.chars() {
        if let Some(end) = quote {
            // A raw text has no escapes: taken for one it may only seem longer, until its line ends.
            if c == end && !escaped || c == '\n' {
                quote = None;
            }
            escaped = c == '\\' && !escaped;
            before = ' ';
            continue;
        }
        let word = |c: char| c.is_alphanumeric() || c == '_' || c == '`';
        match c {
            '\'' | '"' => quote = Some(c),
            '(' | '[' | '{' => chains.push(0),
            ')' | ']' | '}' if chains.len() > 1 => {
                chains.pop();
            }
            '?' if !matches!(before, '.' | '[' | '{' | ',') => choices += 1,
            _ => {}
        }
        if let Some(chain) = chains.last_mut() {
            match c {
                ',' | ':' => *chain = 0,
                '&' | '|' if before == c => *chain = 0,
                // Operands: words and texts, and what stands in brackets.
                '\'' | '"' | ')' | ']' | '}' => *chain += 1,
                c if word(c) && !word(before) => *chain += 1,
                _ => {}
            }
        }
        match c {
            '!' | '-' => prefixes += 1,
            c if c.is_whitespace() => {}
            _ => prefixes = 0,
        }
        let chain = chains.iter().max().copied().unwrap_or(0) / MAX_CHAIN.div_ceil(MAX_NESTING);
        most = most.max(chains.len() + prefixes + choices + chain);
        if most > MAX_NESTING {
            break;
        }
        before = c;
    }
    most
}

/// The expressions directly below one.
fn children(e: &Expression) -> Vec<&Expression> {
    use cel::common::ast::EntryExpr;
    match &e.expr {
        Expr::Call(c) => c.target.iter().map(|t| t.as_ref()).chain(&c.args).collect(),
        Expr::Comprehension(c) => {
            vec![&c.iter_range, &c.accu_init, &c.loop_cond, &c.loop_step, &c.result]
        }
        Expr::List(l) => l.elements.iter().collect(),
        Expr::Select(s) => vec![&s.operand],
        Expr::Map(m) => m
            .entries
            .iter()
            .flat_map(|e| match &e.expr {
                EntryExpr::MapEntry(e) => vec![&e.key, &e.value],
                EntryExpr::StructField(f) => vec![&f.value],
            })
            .collect(),
        _ => Vec::new(),
    }
}

fn within(e: &Expression, levels: usize) -> bool {
    levels > 0 && children(e).into_iter().all(|c| within(c, levels - 1))
}

fn mentions(e: &Expression, variable: &str) -> bool {
    matches!(&e.expr, Expr::Ident(name) if name == variable)
        || children(e).into_iter().any(|c| mentions(c, variable))
}

/// One entry of `x-kubernetes-validations`.
#[derive(Debug)]
pub(crate) struct Rule {
    program: Program,
    text: String,
    message: String,
    message_program: Option<Program>,
    reason: ErrorType,
    /// Names below the schema's own place.
    field: Vec<String>,
    uses_old: bool,
    optional_old: bool,
    /// At worst, at all places together.
    pub estimate: u64,
}

/// Where a rule stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Whether the value's earlier state can be told.
    pub correlated: bool,
    /// At how many places of one object the schema applies at most.
    pub times: u64,
}

/// Compiles the rules of a schema whose other parts are compiled.
pub(crate) fn compile(
    schema: &Structural,
    raw: &Value,
    place: Place,
    path: &Path,
    errors: &mut ErrorList,
) -> Vec<Rule> {
    let rules = raw.get("x-kubernetes-validations").and_then(Value::as_array);
    let mut out = Vec::new();
    for (i, raw) in rules.into_iter().flatten().enumerate() {
        let path = path.child("x-kubernetes-validations").index(i);
        if let Some(rule) = rule(schema, raw, place, &path, errors) {
            out.push(rule);
        }
    }
    out
}

fn rule(schema: &Structural, raw: &Value, place: Place, path: &Path, errors: &mut ErrorList) -> Option<Rule> {
    let word = |field: &str| raw.get(field).and_then(Value::as_str).unwrap_or("").trim();
    let before = errors.0.len();
    let text = word("rule");
    if text.is_empty() {
        errors.required(&path.child("rule"), "rule is not specified");
        return None;
    }
    let message = word("message");
    if raw.get("message").is_some_and(|m| m != "") && message.is_empty() {
        errors.invalid_str(&path.child("message"), "", "message must be non-empty if specified");
    }
    if message.contains(['\n', '\r']) {
        errors.invalid_str(&path.child("message"), message, "message must not contain line breaks");
    }
    if text.contains(['\n', '\r']) && message.is_empty() {
        errors.required(&path.child("message"), "message must be specified if rule contains line breaks");
    }
    let reason = match word("reason") {
        "" | "FieldValueInvalid" => ErrorType::Invalid,
        "FieldValueForbidden" => ErrorType::Forbidden,
        "FieldValueRequired" => ErrorType::Required,
        "FieldValueDuplicate" => ErrorType::Duplicate,
        other => {
            let known =
                ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
            errors.not_supported(&path.child("reason"), &Value::from(other), &known);
            ErrorType::Invalid
        }
    };
    let optional_old = raw.get("optionalOldSelf").and_then(Value::as_bool).unwrap_or(false);
    let mut parse = |field: &str, text: &str| match Program::parse(text) {
        Ok(program) => Some(program),
        Err(e) => {
            errors.invalid_str(&path.child(field), text, format!("compilation failed: {e}"));
            None
        }
    };
    let program = parse("rule", text)?;
    let message_program = match word("messageExpression") {
        "" => None,
        expression => Some(parse("messageExpression", expression)?),
    };
    let uses_old = program.uses("oldSelf") || message_program.as_ref().is_some_and(|p| p.uses("oldSelf"));
    if uses_old && !place.correlated {
        errors.invalid_str(
            &path.child("rule"),
            text,
            "oldSelf cannot be used on the uncorrelatable portion of the schema within an array or set",
        );
    }
    if optional_old && !uses_old {
        errors.invalid(
            &path.child("optionalOldSelf"),
            &Value::Bool(true),
            "may not be set to true when rule does not reference oldSelf",
        );
    }
    let mut estimate = 0;
    let all = [("rule", Some(&program), "bool"), ("messageExpression", message_program.as_ref(), "string")];
    for (field, program, wanted) in all {
        let Some(program) = program else { continue };
        let own = Ty::of(schema);
        let old = if optional_old { Ty::Optional(Box::new(own.clone())) } else { own.clone() };
        let mut checker = Checker::new(&program.source, vec![("self", own), ("oldSelf", old)]);
        let seen = checker.look(&program.tree);
        let path = path.child(field);
        if let Some(faults) = checker.faults() {
            errors.invalid_str(&path, &program.source, format!("compilation failed: {faults}"));
            continue;
        }
        if !seen.ty.is(wanted) {
            let what = if field == "rule" {
                "cel expression must evaluate to a bool"
            } else {
                "messageExpression must evaluate to a string"
            };
            errors.invalid_str(&path, &program.source, what);
        }
        let worst = seen.cost.saturating_mul(place.times.max(1));
        if worst > RULE_ESTIMATE {
            let factor = worst as f64 / RULE_ESTIMATE as f64;
            let factor = if factor > 100.0 { "more than 100x".to_owned() } else { format!("{factor:.1}x") };
            errors.forbidden(
                &path,
                format!(
                    "estimated rule cost exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
                ),
            );
        }
        estimate = worst.saturating_add(estimate);
    }
    let field = match word("fieldPath") {
        "" => Vec::new(),
        given => match field_path(schema, given) {
            Ok(names) => names,
            Err(e) => {
                errors.invalid_str(
                    &path.child("fieldPath"),
                    given,
                    format!("fieldPath must be a valid path: {e}"),
                );
                Vec::new()
            }
        },
    };
    (errors.0.len() == before).then(|| Rule {
        program,
        text: text.to_owned(),
        message: message.to_owned(),
        message_program,
        reason,
        field,
        uses_old,
        optional_old,
        estimate,
    })
}

/// The names of a path such as `.spec.containers['x-y']`, if the schema has them.
fn field_path(schema: &Structural, text: &str) -> Result<Vec<String>, String> {
    let (mut names, mut rest, mut at) = (Vec::new(), text, schema);
    while !rest.is_empty() {
        let (name, after) = if let Some(quoted) = rest.strip_prefix("['") {
            quoted.split_once("']").ok_or("unterminated ['...']")?
        } else {
            let dotted = rest.strip_prefix('.').ok_or("expected '.' or [' at the start of a name")?;
            dotted.split_at(dotted.find(['.', '[']).unwrap_or(dotted.len()))
        };
        at = match at.property(name) {
            Some(property) => property,
            None if at.is_map() => at.value_schema(name).ok_or("does not refer to a valid field")?,
            None => return Err("does not refer to a valid field".into()),
        };
        names.push(name.to_owned());
        rest = after;
    }
    Ok(names)
}

/// The rules of one object while they run.
pub(crate) struct Run<'e> {
    pub budget: u64,
    pub errors: &'e mut ErrorList,
    /// Whether the budget is spent: nothing more is judged.
    pub over: bool,
}

impl Rule {
    /// Judges a value; `old` is its earlier state where it has one.
    pub fn run(
        &self,
        schema: &Structural,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
        run: &mut Run<'_>,
    ) {
        if self.uses_old && !self.optional_old && old.is_none() || run.over {
            return;
        }
        // What was wrong before stays possible while it is not touched.
        let untouched = !self.uses_old && old == Some(value);
        let variables = || {
            let old = match old {
                Some(v) if self.optional_old => Val::some(Val::of(v, Some(schema))),
                None if self.optional_old => Val::Optional(None),
                Some(v) => Val::of(v, Some(schema)),
                None => Val::Null,
            };
            vec![("self", Val::of(value, Some(schema))), ("oldSelf", old)]
        };
        let kind = if schema.kind().is_empty() { "object" } else { schema.kind() };
        let fault = match self.program.run(variables(), &mut run.budget) {
            Ok(Val::Bool(true)) => return,
            Ok(Val::Bool(false)) => None,
            Ok(_) => Some(format!("cel expression must evaluate to a bool: {}", self.text)),
            Err(Fault::Cost) => {
                run.over = true;
                Some(format!(
                    "'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    self.text
                ))
            }
            Err(Fault::Error(e)) if e.starts_with("no such overload") => Some(format!(
                "'{e}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                self.text
            )),
            Err(Fault::Error(e)) => Some(format!("{e} evaluating rule: {}", self.text)),
        };
        if untouched && !run.over {
            return;
        }
        if let Some(fault) = fault {
            run.errors.invalid_str(path, kind, fault);
            return;
        }
        let made = self.message_program.as_ref().and_then(|p| match p.run(variables(), &mut run.budget) {
            Ok(Val::Text(made)) => Some(made.to_string()),
            _ => None,
        });
        let usable = |m: &String| !m.trim().is_empty() && !m.contains(['\n', '\r']) && m.len() <= MAX_MESSAGE;
        let detail = match made.filter(usable) {
            Some(made) => made,
            None if !self.message.is_empty() => self.message.clone(),
            None => format!("failed rule: {}", self.text),
        };
        let path = self.field.iter().fold(path.clone(), |p, name| p.child(name));
        let shown = match self.reason {
            ErrorType::Forbidden | ErrorType::Required => None,
            _ => Some(crate::field::quote(kind)),
        };
        run.errors.push(self.reason, &path, shown, detail);
    }
}

#[cfg(test)]
mod tests;
