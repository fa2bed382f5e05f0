//! Field paths and the list of what is wrong with an object, in upstream's texts (tools match on them).

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

/// Path of a field: `spec.containers[0].image`, `metadata.labels[app]`. Paths share what they have in common: below a name as
/// long as a body may be there can be a hundred thousand others.
#[derive(Clone, Debug, Default)]
pub struct Path(Option<Arc<Step>>);

#[derive(Debug)]
struct Step {
    before: Path,
    text: Box<str>,
}

impl Path {
    /// A path of one field.
    pub fn new(root: &str) -> Path {
        Path::root().step(root.into())
    }

    fn step(&self, text: Box<str>) -> Path {
        Path(Some(Arc::new(Step { before: self.clone(), text })))
    }

    /// The empty path.
    pub fn root() -> Path {
        Path::default()
    }

    /// A field below.
    pub fn child(&self, name: &str) -> Path {
        self.step(if self.0.is_none() { name.into() } else { format!(".{name}").into() })
    }

    /// An item of a list.
    pub fn index(&self, i: usize) -> Path {
        self.step(format!("[{i}]").into())
    }

    /// A value of a map.
    pub fn key(&self, key: &str) -> Path {
        self.step(format!("[{key}]").into())
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(step) = &self.0 else { return Ok(()) };
        step.before.fmt(f)?;
        f.write_str(&step.text)
    }
}

/// What kind of thing is wrong with a field: the `reason` of a cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorType {
    /// The value is there and must not be changed, or names something that is missing.
    NotFound,
    /// A value is needed.
    Required,
    /// A value that must be unique is not.
    Duplicate,
    /// The value is malformed or out of range.
    Invalid,
    /// The value is none of an enumeration.
    NotSupported,
    /// The field may not be used here.
    Forbidden,
    /// The text is longer than allowed.
    TooLong,
    /// The list has more items than allowed.
    TooMany,
    /// The value has the wrong type.
    TypeInvalid,
    /// Something else failed.
    Internal,
}

impl ErrorType {
    /// The `reason` of a cause in a `Status`.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
            ErrorType::Internal => "InternalError",
        }
    }

    fn label(self) -> &'static str {
        match self {
            ErrorType::NotFound => "Not found",
            ErrorType::Required => "Required value",
            ErrorType::Duplicate => "Duplicate value",
            ErrorType::Invalid | ErrorType::TypeInvalid => "Invalid value",
            ErrorType::NotSupported => "Unsupported value",
            ErrorType::Forbidden => "Forbidden",
            ErrorType::TooLong => "Too long",
            ErrorType::TooMany => "Too many",
            ErrorType::Internal => "Internal error",
        }
    }
}

/// One thing that is wrong with a field.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// What kind of thing.
    pub kind: ErrorType,
    /// Which field.
    pub field: String,
    /// The offending value, as it is shown; `None` where none is.
    pub value: Option<String>,
    /// The rule that it breaks.
    pub detail: String,
}

impl FieldError {
    /// The text without the field: the `message` of a cause.
    pub fn body(&self) -> String {
        let label = self.kind.label();
        let mut out = match &self.value {
            Some(value) => format!("{label}: {value}"),
            None => label.to_owned(),
        };
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            write!(f, "{}", self.body())
        } else {
            write!(f, "{}: {}", self.field, self.body())
        }
    }
}

/// How a value appears in a message: strings quoted, scalars bare, the rest as JSON.
pub fn show(value: &Value) -> String {
    match value {
        Value::String(s) => quote(s),
        Value::Null => "null".to_owned(),
        other => other.to_string(),
    }
}

/// A string in double quotes, escaped.
pub fn quote(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// How many errors are told. A list of a million items may have something wrong with each of them, and every text names
/// what would be right.
const MAX_TOLD: usize = 1000;
/// How long what is told may get, in bytes, beyond the first error.
const MAX_TEXT: usize = 1 << 20;

/// What is wrong with an object; empty means nothing. When there is more than anybody reads, the last one says so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorList(pub Vec<FieldError>, Told);

/// How many bytes the errors of a list have; nothing once it is full.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Told(Option<usize>);

impl Default for Told {
    fn default() -> Told {
        Told(Some(0))
    }
}

impl ErrorList {
    /// Nothing wrong.
    pub fn new() -> ErrorList {
        ErrorList::default()
    }

    /// Is there so much wrong that no more is told?
    pub fn is_full(&self) -> bool {
        self.1.0.is_none()
    }

    fn add(&mut self, error: FieldError) {
        let Some(told) = self.1.0 else { return };
        let size = error.field.len() + error.value.as_ref().map_or(0, String::len) + error.detail.len();
        if self.0.is_empty() || self.0.len() < MAX_TOLD && told.saturating_add(size) <= MAX_TEXT {
            self.1 = Told(Some(told.saturating_add(size)));
            self.0.push(error);
            return;
        }
        self.1 = Told(None);
        self.0.push(FieldError {
            kind: ErrorType::TooMany,
            field: String::new(),
            value: None,
            detail: "there are more errors, which are not told".to_owned(),
        });
    }

    /// Is nothing wrong?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one.
    pub fn push(&mut self, kind: ErrorType, path: &Path, value: Option<String>, detail: impl Into<String>) {
        self.add(FieldError { kind, field: path.to_string(), value, detail: detail.into() });
    }

    /// Takes over all of `other`.
    pub fn append(&mut self, other: ErrorList) {
        let full = other.is_full();
        other.0.into_iter().for_each(|e| self.add(e));
        if full {
            self.1 = Told(None);
        }
    }

    /// `path: Required value: detail`
    pub fn required(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(ErrorType::Required, path, None, detail);
    }

    /// `path: Invalid value: value: detail`
    pub fn invalid(&mut self, path: &Path, value: &Value, detail: impl Into<String>) {
        self.push(ErrorType::Invalid, path, Some(show(value)), detail);
    }

    /// `path: Invalid value: detail`, of something too large to be shown.
    pub fn wrong(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(ErrorType::Invalid, path, None, detail);
    }

    /// As [`ErrorList::invalid`], of a string.
    pub fn invalid_str(&mut self, path: &Path, value: &str, detail: impl Into<String>) {
        self.push(ErrorType::Invalid, path, Some(quote(value)), detail);
    }

    /// `path: Unsupported value: value: supported values: "a", "b"`
    pub fn not_supported(&mut self, path: &Path, value: &Value, supported: &[&str]) {
        let mut sorted = supported.to_vec();
        sorted.sort_unstable();
        self.not_supported_of(path, value, &sorted);
    }

    /// As [`ErrorList::not_supported`], with the values that are supported in the order in which they are given.
    pub fn not_supported_of(&mut self, path: &Path, value: &Value, supported: &[&str]) {
        let list = supported.iter().map(|s| quote(s)).collect::<Vec<_>>().join(", ");
        self.push(ErrorType::NotSupported, path, Some(show(value)), format!("supported values: {list}"));
    }

    /// `path: Forbidden: detail`
    pub fn forbidden(&mut self, path: &Path, detail: impl Into<String>) {
        self.push(ErrorType::Forbidden, path, None, detail);
    }

    /// `path: Duplicate value: value`
    pub fn duplicate(&mut self, path: &Path, value: &Value) {
        self.push(ErrorType::Duplicate, path, Some(show(value)), "");
    }

    /// `path: Not found: value`
    pub fn not_found(&mut self, path: &Path, value: &Value) {
        self.push(ErrorType::NotFound, path, Some(show(value)), "");
    }

    /// `path: Too long: may not be more than MAX bytes`
    pub fn too_long(&mut self, path: &Path, max: usize) {
        self.push(ErrorType::TooLong, path, None, format!("may not be more than {max} bytes"));
    }

    /// `path: Too many: N: must have at most MAX items`
    pub fn too_many(&mut self, path: &Path, n: usize, max: usize) {
        self.push(ErrorType::TooMany, path, Some(n.to_string()), format!("must have at most {max} items"));
    }

    /// The texts joined as a `Status` message has them: one alone, several as `[a, b]`.
    pub fn message(&self) -> String {
        // As upstream's aggregate does, a text that occurs twice is shown once.
        let mut seen = HashSet::new();
        let texts: Vec<String> =
            self.0.iter().map(ToString::to_string).filter(|text| seen.insert(text.clone())).collect();
        if texts.len() == 1 { texts.concat() } else { format!("[{}]", texts.join(", ")) }
    }
}

impl IntoIterator for ErrorList {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn more_than_anybody_reads_is_not_told() {
        let mut list = ErrorList::new();
        let large = "x".repeat(MAX_TEXT);
        list.invalid_str(&Path::root(), &large, "");
        assert!(list.0.len() == 1 && !list.is_full(), "one is always told");
        list.required(&Path::new("spec"), "");
        list.required(&Path::new("spec"), "");
        assert!(list.is_full());
        let texts: Vec<String> = list.0[1..].iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["Too many: there are more errors, which are not told"]);
        let (mut many, mut both) = (ErrorList::new(), ErrorList::new());
        (0..MAX_TOLD).for_each(|i| many.required(&Path::root().index(i), ""));
        assert!(!many.is_full());
        both.append(many.clone());
        both.append(many);
        assert!(both.is_full() && both.0.len() == MAX_TOLD + 1);
    }

    #[test]
    fn paths_share_what_they_have_in_common() {
        let far = Path::new("spec").key(&"x".repeat(1 << 20));
        let below: Vec<Path> = (0..200_000).map(|i| far.child("a").index(i)).collect();
        assert!(below[5].to_string().ends_with("x].a[5]"));
        assert_eq!(Path::root().child("a").child("b").to_string(), "a.b");
    }

    #[test]
    fn texts_are_upstream_s() {
        let mut list = ErrorList::new();
        let spec = Path::new("spec");
        list.required(&spec.child("containers"), "");
        assert_eq!(list.message(), "spec.containers: Required value");
        list.not_supported(&spec.child("restartPolicy"), &json!("Always"), &["OnFailure", "Never"]);
        list.invalid(
            &spec.child("ports").index(1).child("port"),
            &json!(0),
            "must be between 1 and 65535, inclusive",
        );
        assert_eq!(
            list.message(),
            "[spec.containers: Required value, spec.restartPolicy: Unsupported value: \"Always\": supported values: \
             \"Never\", \"OnFailure\", spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive]"
        );
    }
}
