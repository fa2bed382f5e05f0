//! YAML in and out, through the same value as JSON.

use serde::de::DeserializeSeed;
use serde_json::Value;
use serde_saphyr::DuplicateKeyPolicy;
use serde_saphyr::Error;
use serde_saphyr::budget::BudgetBreach;

use super::json::{MAX_DEPTH, Noting, nests_within};
use crate::Status;

/// Decodes one YAML document, in which no field may occur twice.
pub fn decode(bytes: &[u8]) -> Result<Value, Status> {
    let (value, duplicates) = parse(bytes)?;
    match duplicates.first() {
        None => Ok(value),
        Some(field) => Err(unreadable(format!("yaml: duplicate field \"{field}\""))),
    }
}

/// Decodes one YAML document. The second part of the answer is that of [`super::json::parse`].
pub fn parse(bytes: &[u8]) -> Result<(Value, Vec<String>), Status> {
    // What looks like JSON mostly is, and JSON is read faster, and as deeply nested as everywhere else.
    if bytes.trim_ascii_start().starts_with(b"{")
        && let Ok(read) = super::json::parse(bytes)
    {
        return Ok(read);
    }
    let text = std::str::from_utf8(bytes).map_err(unreadable)?;
    let (value, duplicates) = match read(text, COMMON_DEPTH) {
        Err(e) if is_too_deep(&e) => on_deep_stack(|| read(text, MAX_DEPTH).map_err(shown))??,
        read => read.map_err(shown)?,
    };
    // What aliases stand for is nested where they are.
    if !nests_within(&value, MAX_DEPTH) {
        return Err(unreadable("yaml: nested too deeply"));
    }
    Ok((value, duplicates))
}

/// As deeply as almost all documents nest; the stack of whoever reads has room for that.
const COMMON_DEPTH: usize = 64;
/// Room for the deepest, where nothing has been optimized either.
const DEEP_STACK: usize = 32 << 20;

fn read(text: &str, depth: usize) -> Result<(Value, Vec<String>), Error> {
    let mut duplicates = Vec::new();
    let options = serde_saphyr::options! {
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        budget: serde_saphyr::budget! { max_depth: depth },
    };
    let value = serde_saphyr::with_deserializer_from_str_with_options(text, options, |de| {
        Noting(&mut duplicates).deserialize(de)
    })?;
    Ok((value, duplicates))
}

fn is_too_deep(error: &Error) -> bool {
    let Error::Budget { breach, .. } = error.without_snippet() else { return false };
    matches!(breach, BudgetBreach::Depth { .. })
}

/// What is wrong is one line, as all errors are, and shows nothing of the document: that may be a secret.
fn shown(error: Error) -> Status {
    let plain = serde_saphyr::render_options! { snippets: serde_saphyr::SnippetMode::Off };
    unreadable(format!("yaml: {}", error.render_with_options(plain)))
}

/// Runs `f` on a stack of its own, which takes some levels more: the reader recurses.
fn on_deep_stack<T: Send>(f: impl FnOnce() -> T + Send) -> Result<T, Status> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(DEEP_STACK).spawn_scoped(scope, f);
        let thread = thread.map_err(|e| Status::internal(format!("no stack to read YAML on: {e}")))?;
        thread.join().map_err(|_| Status::internal("YAML was not read"))
    })
}

fn unreadable(why: impl std::fmt::Display) -> Status {
    Status::bad_request(format!("error converting YAML to JSON: {why}"))
}

/// Encodes a value.
pub fn encode(value: &Value) -> Result<Vec<u8>, Status> {
    serde_saphyr::to_string(value).map(String::into_bytes).map_err(Status::internal)
}

/// Decodes every document of a YAML (or JSON) stream; empty ones are left out.
pub fn documents(bytes: &[u8]) -> Result<Vec<Value>, Status> {
    let text = std::str::from_utf8(bytes).map_err(unreadable)?;
    let mut out = Vec::new();
    let mut document = String::new();
    let mut take = |document: &mut String| -> Result<(), Status> {
        let blank = document.lines().all(|l| l.trim().is_empty() || l.trim_start().starts_with('#'));
        if !blank {
            let value = decode(document.as_bytes())?;
            if !value.is_null() {
                out.push(value);
            }
        }
        document.clear();
        Ok(())
    };
    for line in text.lines() {
        // A document marker may be followed by a comment or by content of its own.
        match line.strip_prefix("---") {
            Some(rest) if rest.is_empty() || rest.starts_with([' ', '\t', '#']) => {
                take(&mut document)?;
                let rest = rest.trim_start();
                if !rest.starts_with('#') {
                    document.push_str(rest);
                    document.push('\n');
                }
            }
            _ => {
                document.push_str(line);
                document.push('\n');
            }
        }
    }
    take(&mut document)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_stream_has_several_documents() {
        let text = b"# head\n---\na: 1\n---\n# nothing\n--- # more\nb: [x, 'yes', 1.5, true, null]\n...\n";
        assert_eq!(documents(text).unwrap(), [json!({"a": 1}), json!({"b": ["x", "yes", 1.5, true, null]})]);
        assert_eq!(documents(b"{\"a\": {\"b\": \"1\"}}").unwrap(), [json!({"a": {"b": "1"}})]);
        assert!(documents(b"a: [").is_err());
    }

    #[test]
    fn duplicates_are_named_and_the_last_one_counts() {
        let text = b"a: {b: 1, b: [2]}\nc:\n- d: 1\n  d: 2\na: {}\n";
        let (value, duplicates) = parse(text).unwrap();
        assert_eq!(value, json!({"a": {}, "c": [{"d": 2}]}));
        assert_eq!(duplicates, ["a.b", "c[0].d", "a"]);
        assert!(decode(text).unwrap_err().message.ends_with("duplicate field \"a.b\""));
        assert_eq!(parse(b"a: &x {b: 1}\nc: {<<: *x, b: 2}").unwrap().1, [""; 0]);
    }

    #[test]
    fn everything_nests_as_deeply_as_elsewhere() {
        let json = |levels: usize| format!(" {}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
        let flow = |levels: usize| format!("{}1{}", "{a: ".repeat(levels), "}".repeat(levels));
        let block = |levels: usize| {
            let lines = (0..levels).map(|n| format!("{}a:\n", " ".repeat(n)));
            format!("{}{}1\n", lines.collect::<String>(), " ".repeat(levels))
        };
        let want = super::super::json::parse(json(MAX_DEPTH).as_bytes()).unwrap().0;
        for nested in [json, flow, block] {
            assert_eq!(decode(nested(MAX_DEPTH).as_bytes()).unwrap(), want);
            assert_eq!(decode(nested(MAX_DEPTH + 1).as_bytes()).unwrap_err().code, 400);
        }
        let half = MAX_DEPTH / 2 + 1;
        let aliased = format!("x: &x {}\ny: {}*x{}\n", flow(half), "{a: ".repeat(half), "}".repeat(half));
        assert_eq!(decode(aliased.as_bytes()).unwrap_err().code, 400);
        // What merely begins like it is YAML still.
        assert_eq!(decode(b"{a: 1, b: [x]}").unwrap(), json!({"a": 1, "b": ["x"]}));
    }

    #[test]
    fn errors_are_a_line_without_the_source() {
        let why = decode(b"password: hidden\nb: [\nc: d\n").unwrap_err().message;
        assert!(!why.contains('\n') && !why.contains("hidden"), "{why}");
        assert!(why.contains("line"), "{why}");
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let value = json!({"a": ["1", 1, 1.5, true, null, "true", "a: b", "x\ny\n", ""], "b": {}, "c": []});
        assert_eq!(decode(&encode(&value).unwrap()).unwrap(), value);
    }
}
