//! Answers in JSON, set out for people: for who asks for it, and for browsers and the tools that one types commands into.

use http::{Request, Response, header};

use crate::body::Body;
use crate::query::Query;

/// Whether the answer is to be read by somebody: what the query says, else what the client is.
pub fn wanted<B>(request: &Request<B>, query: &Query) -> bool {
    if let Some(given) = query.some("pretty") {
        return matches!(given, "1" | "t" | "T" | "true" | "TRUE" | "True");
    }
    let text = |name| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    let agent = text(header::USER_AGENT);
    ["curl", "Wget", "Mozilla/5.0"].iter().any(|a| agent.starts_with(a))
        || text(header::ACCEPT).contains("pretty=1")
}

/// The answer with its JSON set out, if it is JSON and whole.
pub fn set_out(mut response: Response<Body>) -> Response<Body> {
    let json = response.headers().get(header::CONTENT_TYPE).is_some_and(|t| t == "application/json");
    if !json || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let text = match std::mem::take(response.body_mut()) {
        Body::Full(bytes) => bytes,
        Body::List(list) => list.collect(),
        other => {
            *response.body_mut() = other;
            return response;
        }
    };
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = indented(&text).into();
    response
}

/// JSON with a line for each part, two spaces for each level, and nothing else changed.
fn indented(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() + json.len() / 2);
    let (mut level, mut quoted, mut escaped, mut opened) = (0usize, false, false, false);
    let line = |out: &mut Vec<u8>, level: usize| {
        out.push(b'\n');
        out.resize(out.len() + 2 * level, b' ');
    };
    for &c in json {
        if quoted {
            quoted = escaped || c != b'"';
            escaped = !escaped && c == b'\\';
            out.push(c);
            continue;
        }
        let closes = matches!(c, b'}' | b']');
        if c.is_ascii_whitespace() {
            continue;
        }
        // What holds nothing stays on its line.
        if opened && !closes {
            line(&mut out, level);
        }
        if closes {
            level = level.saturating_sub(1);
            if !opened {
                line(&mut out, level);
            }
        }
        opened = matches!(c, b'{' | b'[');
        level += usize::from(opened);
        quoted = c == b'"';
        out.push(c);
        match c {
            b',' => line(&mut out, level),
            b':' => out.push(b' '),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_is_set_out_as_usual() {
        let value =
            json!({"a": [1, {"b": "x\\\"{,:}\n"}, [], {}], "c": {}, "d": null, "e": [[true]], "é": ""});
        let usual = serde_json::to_string_pretty(&value).unwrap();
        for text in [value.to_string(), format!("{value}\n"), usual.clone()] {
            assert_eq!(String::from_utf8(indented(text.as_bytes())).unwrap(), usual);
        }
    }

    #[test]
    fn who_reads_it() {
        let is = |uri: &str, name: &str, value: &str| {
            let request = Request::get(uri).header(name, value).body(()).unwrap();
            wanted(&request, &Query::parse(request.uri().query()))
        };
        assert!(is("/api", "user-agent", "curl/8.1"));
        assert!(!is("/api", "user-agent", "kubectl/v1.33"));
        assert!(!is("/api?pretty=false", "user-agent", "curl/8.1"));
        assert!(is("/api?pretty=true", "user-agent", "kubectl/v1.33"));
        assert!(is("/api", "accept", "application/json;pretty=1"));
        let yaml = Response::builder().header("content-type", "application/yaml").body(Body::from("a: {}"));
        let Body::Full(kept) = set_out(yaml.unwrap()).into_body() else { panic!() };
        assert_eq!(kept, "a: {}");
    }
}
