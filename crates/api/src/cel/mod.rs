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
mod price;
mod value;

use cel::common::ast::Expr;
use cel::parser::{Expression, PrattParser};
use serde_json::Value;

use crate::field::{ErrorList, ErrorType, Path};
use crate::kinds::crd::Structural;
pub use authorizer::Authorizer;
use check::{Checker, Ty};
use eval::{Fault, Machine, Outcome};
pub(crate) use value::RESERVED;
use value::Val;

/// What one evaluation may cost.
pub const CALL_BUDGET: u64 = 1_000_000;
/// What the conditions of one webhook may cost together.
pub const CONDITIONS_BUDGET: u64 = 2_500_000;
/// What the rules of one object may cost together.
pub(crate) const OBJECT_BUDGET: u64 = 10_000_000;
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

    /// Evaluates a condition over whole JSON values. `budget` is what it and those after it may cost; what it cost is taken
    /// from it.
    pub fn condition(
        &self,
        variables: &[(&str, &Value)],
        authorizer: &dyn Authorizer,
        budget: &mut u64,
    ) -> Result<bool, Unjudged> {
        let mut variables: Vec<_> = variables.iter().map(|(name, v)| (*name, Val::of(v, None))).collect();
        variables.push(("authorizer", authorizer::Auth::of(authorizer)));
        let spent = *budget < CALL_BUDGET;
        let failed = |why: String| {
            Err(Unjudged::Failed(format!("expression '{}' resulted in error: {why}", self.source)))
        };
        match self.run(variables, budget) {
            Ok(Val::Bool(b)) => Ok(b),
            Ok(other) => failed(format!("the expression gives {}, not bool", other.type_name())),
            Err(Fault::Cost) if spent => Err(Unjudged::Spent),
            Err(Fault::Cost) => failed("operation cancelled: actual cost limit exceeded".into()),
            Err(Fault::Error(text)) => failed(text),
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

/// Why a condition cannot be told, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unjudged {
    /// It failed, or cost more than one may.
    #[error("{0}")]
    Failed(String),
    /// Together they cost more than they may: those after it are not looked at.
    #[error("validation failed due to running out of cost budget, no further validation rules will be run")]
    Spent,
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
    /// Below the schema's own place.
    field: Path,
    uses_old: bool,
    optional_old: bool,
    /// At worst, at all places together.
    pub estimate: u64,
}

/// Where a rule stands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'p> {
    /// The outermost list around it whose values' earlier state cannot be told.
    pub uncorrelated: Option<&'p Path>,
    /// At how many places of one object the schema applies at most, if the lists and maps around it say.
    pub times: Option<u64>,
}

/// By how much an estimate is too large, as upstream says it.
pub(crate) fn too_costly(what: &str, estimate: u64, limit: u64) -> String {
    let factor = estimate as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)"
    )
}

/// Compiles the rules of a schema whose other parts are compiled. What is wrong is told in two lists: of what stands beside the
/// expressions, and of these.
pub(crate) fn compile(
    schema: &Structural,
    raw: &Value,
    place: Place<'_>,
    path: &Path,
    (errors, faults): (&mut ErrorList, &mut ErrorList),
) -> Vec<Rule> {
    let rules = raw.get("x-kubernetes-validations").and_then(Value::as_array);
    let mut out = Vec::new();
    for (i, raw) in rules.into_iter().flatten().enumerate() {
        let path = path.child("x-kubernetes-validations").index(i);
        let before = errors.0.len();
        check_words(schema, raw, &path, errors);
        if errors.0.len() == before {
            out.extend(rule(schema, raw, place, &path, faults));
        }
    }
    out
}

const REASONS: [(&str, ErrorType); 4] = [
    ("FieldValueDuplicate", ErrorType::Duplicate),
    ("FieldValueForbidden", ErrorType::Forbidden),
    ("FieldValueInvalid", ErrorType::Invalid),
    ("FieldValueRequired", ErrorType::Required),
];

/// What is wrong beside the expressions of a rule.
fn check_words(schema: &Structural, raw: &Value, path: &Path, errors: &mut ErrorList) {
    let given = |field: &str| raw.get(field).and_then(Value::as_str).unwrap_or("");
    let breaks = |text: &str| text.contains(['\n', '\r']);
    let (text, message) = (given("rule").trim(), given("message").trim());
    let at = path.child("message");
    if text.is_empty() {
        errors.required(&path.child("rule"), "rule is not specified");
    } else if !given("message").is_empty() && message.is_empty() {
        errors.invalid_str(&at, given("message"), "must be non-empty if specified");
    } else if breaks(message) {
        errors.invalid_str(&at, given("message"), "must not contain line breaks");
    } else if breaks(text) && message.is_empty() {
        errors.required(&at, "message must be specified if rule contains line breaks");
    }
    let expression = given("messageExpression");
    if !expression.is_empty() && expression.trim().is_empty() {
        errors.required(&path.child("messageExpression"), "messageExpression must be non-empty if specified");
    }
    let reason = given("reason");
    if !reason.is_empty() && !REASONS.iter().any(|(name, _)| *name == reason) {
        errors.not_supported(&path.child("reason"), &Value::from(reason), &REASONS.map(|(name, _)| name));
    }
    let (field, at) = (given("fieldPath"), path.child("fieldPath"));
    if !field.is_empty() && field.trim().is_empty() {
        errors.invalid_str(&at, field, "must be non-empty if specified");
    }
    if breaks(field) {
        errors.invalid_str(&at, field, "must not contain line breaks");
    }
    if !field.is_empty() && field_path(schema, field).is_err() {
        errors.invalid_str(&at, field, "must be a valid path");
    }
}

/// A rule as errors show it: the fields of upstream's own type, as Go writes JSON.
fn shown(raw: &Value) -> String {
    let fields = [
        ("Rule", "rule"),
        ("Message", "message"),
        ("MessageExpression", "messageExpression"),
        ("Reason", "reason"),
        ("FieldPath", "fieldPath"),
        ("OptionalOldSelf", "optionalOldSelf"),
    ];
    let value = |field: &str| match (raw.get(field), field) {
        (Some(value), _) => value.clone(),
        (None, "reason" | "optionalOldSelf") => Value::Null,
        (None, _) => Value::from(""),
    };
    let all: crate::Map = fields.iter().map(|(name, field)| ((*name).to_owned(), value(field))).collect();
    let text = Value::Object(all).to_string();
    text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

fn rule(
    schema: &Structural,
    raw: &Value,
    place: Place<'_>,
    path: &Path,
    errors: &mut ErrorList,
) -> Option<Rule> {
    let word = |field: &str| raw.get(field).and_then(Value::as_str).unwrap_or("").trim();
    let reason = REASONS.iter().find(|(name, _)| *name == word("reason"));
    let optional_old = raw.get("optionalOldSelf").and_then(Value::as_bool);
    let invalid = |errors: &mut ErrorList, field: &str, why: String| {
        errors.push(ErrorType::Invalid, &path.child(field), Some(shown(raw)), why);
    };
    let mut estimate = 0;
    let mut look = |field: &str, wanted: &str, begin: &str, errors: &mut ErrorList| {
        let program = match Program::parse(word(field)) {
            Ok(program) => program,
            Err(e) => {
                invalid(errors, field, format!("{begin}compilation failed: {e}"));
                return None;
            }
        };
        let mut checker = Checker::new(&program.source, Vec::new())
            .of_schema("self", schema, false)
            .of_schema("oldSelf", schema, optional_old == Some(true));
        let seen = checker.look(&program.tree);
        if let Some(faults) = checker.faults() {
            invalid(errors, field, format!("{begin}compilation failed: {faults}"));
            return None;
        }
        if !seen.ty.is(wanted) {
            let what = if field == "rule" { "cel expression" } else { field };
            invalid(errors, field, format!("{what} must evaluate to a {wanted}"));
            return None;
        }
        let (what, worst) = match field {
            "rule" => {
                let times = place.times.unwrap_or_else(|| price::most_often(schema));
                ("estimated rule cost", seen.cost.saturating_mul(times))
            }
            _ => ("estimated messageExpression cost", seen.cost),
        };
        if worst > RULE_ESTIMATE {
            errors.forbidden(&path.child(field), too_costly(what, worst, RULE_ESTIMATE));
        }
        estimate = worst.saturating_add(estimate);
        Some(program)
    };
    let program = look("rule", "bool", "", errors)?;
    let message_program = match word("messageExpression") {
        "" => None,
        _ => look("messageExpression", "string", "messageExpression ", errors),
    };
    let uses_old = program.uses("oldSelf");
    match (uses_old, place.uncorrelated, optional_old) {
        (true, Some(list), _) => errors.invalid_str(
            &path.child("rule"),
            word("rule"),
            format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}"),
        ),
        (false, _, Some(given)) => {
            let why = "may not be set if oldSelf is not used in rule";
            errors.invalid(&path.child("optionalOldSelf"), &Value::Bool(given), why);
        }
        _ => {}
    }
    // A rule that is too dear was taken once, if it is here: it holds.
    Some(Rule {
        program,
        text: word("rule").to_owned(),
        message: word("message").to_owned(),
        message_program,
        reason: reason.map_or(ErrorType::Invalid, |(_, kind)| *kind),
        field: field_path(schema, word("fieldPath")).unwrap_or_default(),
        uses_old,
        optional_old: optional_old == Some(true),
        estimate,
    })
}

/// The place that a path such as `.spec.containers['x-y']` leads to, if the schema has it.
fn field_path(schema: &Structural, text: &str) -> Result<Path, String> {
    let (mut path, mut rest, mut at) = (Path::root(), text, schema);
    while !rest.is_empty() {
        let (name, after) = if let Some(quoted) = rest.strip_prefix("['") {
            quoted.split_once("']").ok_or("unexpected end of JSON path")?
        } else {
            let dotted = rest.strip_prefix('.').ok_or_else(|| format!("expected [ or . but got: {rest}"))?;
            dotted.split_at(dotted.find(['.', '[']).unwrap_or(dotted.len()))
        };
        let name = name.replace("\\'", "'");
        let missing = "does not refer to a valid field";
        (path, at) = if at.properties_len() > 0 {
            (path.child(&name), at.property(&name).ok_or(missing)?)
        } else {
            (path.key(&name), at.value_schema(&name).ok_or(missing)?)
        };
        rest = after;
    }
    Ok(path)
}

/// The rules of one object while they run.
pub(crate) struct Run<'e> {
    budget: u64,
    pub errors: &'e mut ErrorList,
    /// Whether what was wrong before may stay.
    pub ratchets: bool,
    /// Whether the budget is spent: nothing more is judged.
    over: bool,
}

impl<'e> Run<'e> {
    pub fn new(errors: &'e mut ErrorList) -> Self {
        Self { budget: OBJECT_BUDGET, errors, ratchets: true, over: false }
    }

    /// As [`Run::new`], of what nobody has had yet: nothing of it may stay as it is.
    pub fn anew(errors: &'e mut ErrorList) -> Self {
        Self { ratchets: false, ..Self::new(errors) }
    }
}

impl Rule {
    /// Judges a value; `old` is its earlier state where it has one. `same`: it is as it was, and what was wrong with it before
    /// stays possible.
    pub fn run(
        &self,
        schema: &Structural,
        value: &Value,
        old: Option<&Value>,
        same: bool,
        path: &Path,
        run: &mut Run<'_>,
    ) {
        if self.uses_old && !self.optional_old && old.is_none() || run.over {
            return;
        }
        let variables = || {
            let old = match old {
                Some(v) if self.optional_old => Val::some(Val::of(v, Some(schema))),
                None if self.optional_old => Val::Optional(None),
                Some(v) => Val::of(v, Some(schema)),
                None => Val::Null,
            };
            vec![("self", Val::of(value, Some(schema))), ("oldSelf", old)]
        };
        let spent = run.budget < CALL_BUDGET;
        let fault = match self.program.run(variables(), &mut run.budget) {
            Ok(Val::Bool(true)) => return,
            Ok(Val::Bool(false)) => None,
            Ok(_) => Some(format!("cel expression must evaluate to a bool: {}", self.text)),
            Err(Fault::Cost) if spent => {
                run.over = true;
                Some(
                    "validation failed due to running out of cost budget, no further validation rules will be run"
                        .to_owned(),
                )
            }
            Err(Fault::Cost) => {
                run.over = true;
                Some(format!(
                    "'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                    self.told()
                ))
            }
            Err(Fault::Error(e)) if e.starts_with("no such overload") => Some(format!(
                "'{e}': call arguments did not match a supported operator, function or macro signature for rule: {}",
                self.told()
            )),
            Err(Fault::Error(e)) => Some(format!("{e} evaluating rule: {}", self.told())),
        };
        if let Some(fault) = fault {
            run.errors.invalid_str(path, schema.kind(), fault);
            return;
        }
        if same && !self.uses_old {
            return;
        }
        let made = self.message_program.as_ref().and_then(|p| match p.run(variables(), &mut run.budget) {
            Ok(Val::Text(made)) => Some(made.to_string()),
            _ => None,
        });
        let usable = |m: &String| !m.trim().is_empty() && !m.contains(['\n', '\r']) && m.len() <= MAX_MESSAGE;
        let detail = match made.filter(usable) {
            Some(made) => made.trim().to_owned(),
            None if self.message.is_empty() => format!("failed rule: {}", self.text),
            None => self.message.clone(),
        };
        let path = match self.field.to_string().as_str() {
            "" => path.clone(),
            field => path.child(field),
        };
        let value = match (self.reason, schema.kind()) {
            (ErrorType::Forbidden | ErrorType::Required, _) | (_, "object" | "array") => None,
            _ => Some(crate::field::show(value)),
        };
        let detail = if self.reason == ErrorType::Duplicate { String::new() } else { detail };
        run.errors.push(self.reason, &path, value, detail);
    }

    /// What a rule is called where it failed to say anything.
    fn told(&self) -> &str {
        if self.message.is_empty() { &self.text } else { &self.message }
    }
}

#[cfg(test)]
mod tests;
