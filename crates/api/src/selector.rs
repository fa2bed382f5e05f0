//! Label and field selectors: the query strings of LIST, WATCH and deletecollection, and `LabelSelector` objects.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use crate::object::{Encoded, Labels};
use crate::{Map, Status, validate};

/// Something that has labels.
pub trait LabelSet {
    /// The value of a label.
    fn label(&self, key: &str) -> Option<&str>;
}

impl LabelSet for Labels {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}

impl LabelSet for Map {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

impl LabelSet for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

/// `metadata.labels` as a value: an object, or null for none.
impl LabelSet for Value {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// The label is one of the values.
    In,
    /// The label is absent or none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
    /// The label is an integer greater than the value.
    Gt,
    /// The label is an integer less than the value.
    Lt,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// How it compares.
    pub op: Op,
    /// With what, sorted.
    pub values: Vec<String>,
}

impl Requirement {
    fn matches(&self, labels: &dyn LabelSet) -> bool {
        let label = labels.label(&self.key);
        let among = |l: &str| self.values.iter().any(|v| v == l);
        let number = |l: &str| Some((l.parse::<i64>().ok()?, self.values.first()?.parse::<i64>().ok()?));
        match self.op {
            Op::In => label.is_some_and(among),
            Op::NotIn => !label.is_some_and(among),
            Op::Exists => label.is_some(),
            Op::DoesNotExist => label.is_none(),
            Op::Gt => label.and_then(number).is_some_and(|(l, v)| l > v),
            Op::Lt => label.and_then(number).is_some_and(|(l, v)| l < v),
        }
    }
}

/// A label selector: all of its requirements hold. The empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Label {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl Label {
    /// Matches everything.
    pub fn everything() -> Label {
        Label::default()
    }

    /// Matches nothing.
    pub fn nothing() -> Label {
        Label { requirements: Vec::new(), nothing: true }
    }

    /// Of a query string: `a=b,c!=d,e in (f,g),h notin (i),j,!k,l>1`.
    pub fn parse(text: &str) -> Result<Label, Status> {
        let mut parser = Parser { text, at: 0 };
        let requirements = parser
            .requirements()
            .map_err(|why| Status::bad_request(format!("unable to parse requirement: {why}")))?;
        Ok(Label { requirements, nothing: false })
    }

    /// Of a meta/v1 `LabelSelector`; null matches nothing, `{}` everything.
    pub fn from_selector(selector: &Value) -> Result<Label, Status> {
        let Some(selector) = selector.as_object() else { return Ok(Label::nothing()) };
        let mut out = Label::from_match_labels(selector.get("matchLabels").unwrap_or(&Value::Null));
        for e in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let key = e["key"].as_str().unwrap_or_default().to_owned();
            let mut values: Vec<String> = e["values"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|v| v.as_str().map(str::to_owned))
                .collect();
            values.sort();
            let op = match e["operator"].as_str().unwrap_or_default() {
                "In" => Op::In,
                "NotIn" => Op::NotIn,
                "Exists" => Op::Exists,
                "DoesNotExist" => Op::DoesNotExist,
                other => {
                    return Err(Status::bad_request(format!(
                        "\"{other}\" is not a valid label selector operator"
                    )));
                }
            };
            out.requirements.push(Requirement { key, op, values });
        }
        Ok(out)
    }

    /// Of a map of labels, all of which must be equal (a Service's or ReplicationController's selector).
    pub fn from_match_labels(labels: &Value) -> Label {
        let requirements = labels.as_object().into_iter().flatten().map(|(k, v)| Requirement {
            key: k.clone(),
            op: Op::In,
            values: vec![v.as_str().unwrap_or_default().to_owned()],
        });
        Label { requirements: requirements.collect(), nothing: false }
    }

    /// Do these labels satisfy it?
    pub fn matches(&self, labels: &dyn LabelSet) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Does it match every object?
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    /// Its conditions.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            match (r.op, r.values.as_slice()) {
                (Op::In, [v]) => write!(f, "{}={v}", r.key)?,
                (Op::NotIn, [v]) => write!(f, "{}!={v}", r.key)?,
                (Op::In, vs) => write!(f, "{} in ({})", r.key, vs.join(","))?,
                (Op::NotIn, vs) => write!(f, "{} notin ({})", r.key, vs.join(","))?,
                (Op::Exists, _) => write!(f, "{}", r.key)?,
                (Op::DoesNotExist, _) => write!(f, "!{}", r.key)?,
                (Op::Gt, vs) => write!(f, "{}>{}", r.key, vs.concat())?,
                (Op::Lt, vs) => write!(f, "{}<{}", r.key, vs.concat())?,
            }
        }
        Ok(())
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

#[derive(PartialEq, Debug, Clone)]
enum Token<'a> {
    Word(&'a str),
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 10] = ["==", "!=", "=", "!", ",", "(", ")", ">", "<", "\u{0}"];

impl<'a> Parser<'a> {
    fn next(&mut self) -> Token<'a> {
        let rest = &self.text[self.at..];
        let trimmed = rest.trim_start();
        self.at += rest.len() - trimmed.len();
        if trimmed.is_empty() {
            return Token::End;
        }
        for sign in SIGNS {
            if trimmed.starts_with(sign) {
                self.at += sign.len();
                return Token::Sign(sign);
            }
        }
        let end =
            trimmed.find(|c: char| c.is_whitespace() || "=!,()><\u{0}".contains(c)).unwrap_or(trimmed.len());
        self.at += end;
        Token::Word(&trimmed[..end])
    }

    fn peek(&mut self) -> Token<'a> {
        let at = self.at;
        let token = self.next();
        self.at = at;
        token
    }

    fn requirements(&mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        if self.peek() == Token::End {
            return Ok(out);
        }
        loop {
            out.push(self.requirement()?);
            match self.next() {
                Token::End => return Ok(out),
                Token::Sign(",") => {
                    if self.peek() == Token::End {
                        return Err("found '', expected: identifier after ','".to_owned());
                    }
                }
                other => return Err(format!("found '{}', expected: ',' or 'end of string'", other.text())),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let mut absent = false;
        let key = match self.next() {
            Token::Word(w) => w,
            Token::Sign("!") => {
                absent = true;
                match self.next() {
                    Token::Word(w) => w,
                    other => return Err(format!("found '{}', expected: identifier", other.text())),
                }
            }
            other => {
                return Err(format!("found '{}', expected: !, identifier, or 'end of string'", other.text()));
            }
        };
        if let Some(why) = validate::qualified_name(key).first() {
            return Err(format!("invalid label key \"{key}\": {why}"));
        }
        let plain = |op| Requirement { key: key.to_owned(), op, values: Vec::new() };
        if absent {
            return Ok(plain(Op::DoesNotExist));
        }
        let (op, values) = match self.peek() {
            Token::End | Token::Sign(",") => return Ok(plain(Op::Exists)),
            Token::Sign("=" | "==") => (Op::In, vec![self.value()?]),
            Token::Sign("!=") => (Op::NotIn, vec![self.value()?]),
            Token::Sign(">") => (Op::Gt, vec![self.value()?]),
            Token::Sign("<") => (Op::Lt, vec![self.value()?]),
            Token::Word("in") => (Op::In, self.values()?),
            Token::Word("notin") => (Op::NotIn, self.values()?),
            other => {
                return Err(format!("found '{}', expected: in, notin, =, ==, !=, gt, lt", other.text()));
            }
        };
        for value in &values {
            if matches!(op, Op::Gt | Op::Lt) {
                if value.parse::<i64>().is_err() {
                    return Err(format!(
                        "for 'Gt', 'Lt' operators, the value must be an integer: \"{value}\""
                    ));
                }
                continue;
            }
            if let Some(why) = validate::label_value(value).first() {
                return Err(format!("invalid label value: \"{value}\": at key: \"{key}\": {why}"));
            }
        }
        Ok(Requirement { key: key.to_owned(), op, values })
    }

    fn value(&mut self) -> Result<String, String> {
        self.next();
        match self.peek() {
            Token::Word(w) => {
                self.next();
                Ok(w.to_owned())
            }
            // `a=` and `a=,b`: the empty value
            Token::End | Token::Sign(",") => Ok(String::new()),
            other => Err(format!("found '{}', expected: identifier", other.text())),
        }
    }

    fn values(&mut self) -> Result<Vec<String>, String> {
        self.next();
        if self.next() != Token::Sign("(") {
            return Err("expected: '('".to_owned());
        }
        let mut out = Vec::new();
        let mut expect_value = true;
        loop {
            match self.next() {
                Token::Word(w) => {
                    if !expect_value {
                        return Err(format!("found '{w}', expected: ',' or ')'"));
                    }
                    out.push(w.to_owned());
                    expect_value = false;
                }
                Token::Sign(",") => {
                    if expect_value {
                        out.push(String::new());
                    }
                    expect_value = true;
                }
                Token::Sign(")") => {
                    if expect_value {
                        out.push(String::new());
                    }
                    out.sort();
                    out.dedup();
                    return Ok(out);
                }
                other => return Err(format!("found '{}', expected: ',', or ')'", other.text())),
            }
        }
    }
}

impl Token<'_> {
    fn text(&self) -> &str {
        match self {
            Token::Word(w) => w,
            Token::Sign(s) => s,
            Token::End => "",
        }
    }
}

/// A field selector: `metadata.name=a,status.phase!=Running`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Field {
    terms: Vec<(String, bool, String)>,
}

impl Field {
    /// Matches everything.
    pub fn everything() -> Field {
        Field::default()
    }

    /// Of a query string. Which fields are allowed is the kind's to say ([`crate::Kind::check_field_selector`]).
    pub fn parse(text: &str) -> Result<Field, Status> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let bad =
                || Status::bad_request(format!("invalid selector: '{text}'; can't understand '{part}'"));
            let at = part.find(['=', '!']).ok_or_else(bad)?;
            let (key, rest) = part.split_at(at);
            let (equal, value) = if let Some(v) = rest.strip_prefix("!=") {
                (false, v)
            } else if let Some(v) = rest.strip_prefix("==") {
                (true, v)
            } else if let Some(v) = rest.strip_prefix('=') {
                (true, v)
            } else {
                return Err(bad());
            };
            terms.push((key.to_owned(), equal, unescape(value)?));
        }
        Ok(Field { terms })
    }

    /// One equality.
    pub fn equal(field: &str, value: &str) -> Field {
        Field { terms: vec![(field.to_owned(), true, value.to_owned())] }
    }

    /// The same with one more equality.
    #[must_use]
    pub fn and_equal(self, field: &str, value: &str) -> Field {
        self.and(field, true, value)
    }

    /// The same with one more inequality.
    #[must_use]
    pub fn and_unequal(self, field: &str, value: &str) -> Field {
        self.and(field, false, value)
    }

    fn and(mut self, field: &str, equal: bool, value: &str) -> Field {
        if !self.terms().any(|term| term == (field, equal, value)) {
            self.terms.push((field.to_owned(), equal, value.to_owned()));
        }
        self
    }

    /// With fields called otherwise, for which `name` says so.
    pub fn renamed(mut self, name: impl Fn(&str) -> Option<&'static str>) -> Field {
        for (field, _, _) in &mut self.terms {
            if let Some(other) = name(field) {
                other.clone_into(field);
            }
        }
        self
    }

    /// Does it match every object?
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }

    /// Its terms: field, whether it must be equal (or unequal), value.
    pub fn terms(&self) -> impl Iterator<Item = (&str, bool, &str)> {
        self.terms.iter().map(|(f, e, v)| (f.as_str(), *e, v.as_str()))
    }

    /// The value that `field` must equal, if the selector says so.
    pub fn required(&self, field: &str) -> Option<&str> {
        self.terms().find(|(f, equal, _)| *f == field && *equal).map(|(_, _, v)| v)
    }

    /// Does an object satisfy it? It is decoded only if its JSON has what it must be equal to, which of many is that of few.
    pub fn selects(&self, object: &Arc<Encoded>) -> bool {
        let may = |value: &str| {
            // An absent field may read as the first three; JSON writes the other characters otherwise.
            matches!(value, "" | "false" | "0")
                || value.contains(|c: char| c == '"' || c == '\\' || c.is_control())
                || object.mentions(value)
        };
        self.terms.iter().all(|(_, equal, value)| !equal || may(value.as_str()))
            && self.matches(object.object().value())
    }

    /// Does a decoded object satisfy it? An absent field is `""`, booleans and numbers are their text, as upstream's field sets
    /// have them.
    pub fn matches(&self, obj: &Value) -> bool {
        self.terms.iter().all(|(field, equal, value)| (field_text(obj, field) == *value) == *equal)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (field, equal, value)) in self.terms().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            let value = value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=");
            write!(f, "{comma}{field}{}{value}", if equal { "=" } else { "!=" })?;
        }
        Ok(())
    }
}

/// The text of the field at a dotted path.
pub fn field_text(obj: &Value, field: &str) -> String {
    if field == "source" {
        // Of an event: the component, wherever it is named.
        let named = obj["source"]["component"].as_str().filter(|c| !c.is_empty());
        return named.or(obj["reportingComponent"].as_str()).unwrap_or_default().to_owned();
    }
    let mut value = obj;
    for part in field.split('.') {
        match value.get(part) {
            Some(v) => value = v,
            None => {
                // Upstream's field sets say "false" for an unset boolean and 0 for an unset number.
                return match field {
                    "spec.unschedulable" | "spec.hostNetwork" => "false".to_owned(),
                    "status.replicas" | "status.successful" => "0".to_owned(),
                    _ => String::new(),
                };
            }
        }
    }
    match value {
        Value::String(s) => s.clone(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        _ => String::new(),
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut out, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, c) in text.char_indices() {
        match c {
            '\\' if !escaped => escaped = true,
            ',' if !escaped => {
                out.push(&text[start..i]);
                start = i + 1;
            }
            _ => escaped = false,
        }
    }
    out.push(&text[start..]);
    out
}

/// The value that is meant. The texts are upstream's, which shows the character as its number.
fn unescape(text: &str) -> Result<String, Status> {
    let bad = |why: String| Err(Status::bad_request(format!("invalid field selector: {why}")));
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                other => {
                    let rest = other.map(String::from).unwrap_or_default();
                    return bad(format!("invalid escape sequence: \\{rest}"));
                }
            },
            ',' | '=' => return bad(format!("unescaped character in value: {}", u32::from(c))),
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_of_encoded_objects() {
        let value = json!({"metadata": {"name": "a\"b"}, "spec": {"nodeName": "n1", "count": 12, "on": true}, "status": {"phase": "Running"}});
        let object = crate::Object::from_value(value);
        for (text, want) in [
            ("spec.nodeName=n1", true),
            ("spec.nodeName=n2", false),
            ("spec.nodeName!=n2", true),
            ("spec.nodeName!=n1", false),
            ("spec.nodeName=Running", false),
            ("spec.count=12,spec.on=true", true),
            ("spec.unschedulable=false,spec.none=", true),
            ("status.replicas=0", true),
            ("metadata.name=a\"b", true),
            ("status.phase=Running,spec.nodeName=n2", false),
        ] {
            let field = Field::parse(text).unwrap();
            assert_eq!(
                (field.selects(object.encoded()), field.matches(object.value())),
                (want, want),
                "{text}"
            );
        }
    }

    #[test]
    fn label_selectors() {
        let labels = json!({"env": "debug", "n": "5", "empty": ""});
        for (text, want) in [
            ("", true),
            ("env", true),
            ("!env", false),
            ("env=debug", true),
            ("env==debug", true),
            ("env = debug", true),
            ("env!=debug", false),
            ("other!=debug", true),
            ("env in (prod,debug)", true),
            ("env in (prod, test)", false),
            ("env notin (prod,test),!missing", true),
            ("env notin (prod,debug)", false),
            ("n>4", true),
            ("n<5", false),
            ("empty=", true),
            ("empty=,env", true),
            ("in in (in)", false),
            ("example.com/a!=b", true),
        ] {
            assert_eq!(Label::parse(text).unwrap().matches(&labels), want, "{text}");
        }
        for text in
            ["a=b=c", "=", "a b", "!", "a in b", "a in (b", "a,", "a=b c", "_a", "a=b/c", "a>b", "a in ()x"]
        {
            assert!(Label::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn label_selector_objects() {
        let labels = json!({"app": "kubia"});
        let selector = json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["kubia"]}]});
        assert!(Label::from_selector(&selector).unwrap().matches(&labels));
        assert!(Label::from_selector(&json!({})).unwrap().matches(&labels));
        assert!(!Label::from_selector(&Value::Null).unwrap().matches(&labels));
        assert!(Label::from_selector(&json!({"matchExpressions": [{"key": "a", "operator": "X"}]})).is_err());
    }

    #[test]
    fn field_selectors() {
        let pod = json!({"metadata": {"name": "a"}, "status": {"phase": "Running"}});
        for (text, want) in [
            ("metadata.name=a", true),
            ("metadata.name==a,status.phase!=Failed", true),
            ("status.phase=Failed", false),
            ("spec.nodeName=", true),
            ("spec.unschedulable=false", true),
        ] {
            assert_eq!(Field::parse(text).unwrap().matches(&pod), want, "{text}");
        }
        assert!(Field::parse("metadata.name").is_err());
        assert_eq!(Field::parse("a=b\\,c\\=\\\\").unwrap().required("a"), Some("b,c=\\"));
        for (text, want) in [
            ("a=b=c", "unescaped character in value: 61"),
            ("a===b", "unescaped character in value: 61"),
            ("a=\\x", "invalid escape sequence: \\x"),
            ("a=b\\", "invalid escape sequence: \\"),
        ] {
            let refused = Field::parse(text).unwrap_err();
            assert_eq!(
                (refused.code, refused.message),
                (400, format!("invalid field selector: {want}")),
                "{text}"
            );
        }
    }

    proptest::proptest! {
        #[test]
        fn parsing_never_panics(text in "[a-z=!(),<> \\\\é]{0,40}") {
            let _ = Label::parse(&text);
            let _ = Field::parse(&text);
        }

        #[test]
        fn label_text_round_trips(key in "[a-z]([-a-z0-9]{0,5}[a-z0-9])?", values in proptest::collection::btree_set("[a-z0-9]{1,4}", 1..4), op in 0..4) {
            let values: Vec<String> = values.into_iter().collect();
            let (op, values) = match op { 0 => (Op::In, values), 1 => (Op::NotIn, values), 2 => (Op::Exists, vec![]), _ => (Op::DoesNotExist, vec![]) };
            let label = Label { requirements: vec![Requirement { key, op, values }], nothing: false };
            proptest::prop_assert_eq!(Label::parse(&label.to_string()).unwrap(), label);
        }
    }
}
