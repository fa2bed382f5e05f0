//! The Dockerfile's outer grammar: directives, comments, continued lines, here-documents, flags; one instruction each.
//!
//! What an instruction's arguments mean is left to `instruction`. The rules are those of the reference frontend, whose
//! texts of errors tools look for, and each instruction keeps its original text, because steps, histories and `ONBUILD`
//! triggers show it.

use crate::error::{Error, Result};
use crate::words;

/// The keywords, in the order that the reference has them.
const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];
/// A Dockerfile may be this long, in bytes.
pub(crate) const SIZE_LIMIT: usize = 16 << 20;

/// A Dockerfile may have this many instructions; an image may have 127 layers.
const INSTRUCTIONS: usize = 10_000;

/// A parsed Dockerfile.
#[derive(Debug)]
pub(crate) struct Dockerfile {
    pub escape: char,
    pub lines: Vec<Line>,
}

/// One instruction as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Where it starts, counted from one.
    pub number: usize,
    /// Where it ends.
    pub end: usize,
    /// Upper case.
    pub keyword: &'static str,
    /// The whole instruction, continued lines joined.
    pub original: String,
    /// `--name=value`, without the dashes.
    pub flags: Vec<(String, Option<String>)>,
    /// Everything after keyword and flags.
    pub arguments: String,
    /// Here-documents, in order.
    pub heredocs: Vec<Heredoc>,
}

/// A here-document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Heredoc {
    pub name: String,
    /// Whether variables in it are expanded: its name was not quoted.
    pub expand: bool,
    pub content: String,
    chomp: bool,
}

/// Parses a whole file.
pub(crate) fn parse(text: &str) -> Result<Dockerfile> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let escape = escape_of(text)?;
    let lines = lines(text, escape)?;
    if lines.is_empty() {
        return Err(Error::Invalid("file with no instructions".into()));
    }
    Ok(Dockerfile { escape, lines })
}

/// Parses an `ONBUILD` trigger, which may have here-documents, of the `FROM` at a line.
pub(crate) fn trigger(text: &str, number: usize, escape: char) -> Result<Line> {
    let at = |message: String| Error::Parse { line: number, message };
    let mut all = lines(text, escape).map_err(|e| match e {
        Error::Parse { message, .. } => at(message),
        other => other,
    })?;
    match (all.pop(), all.is_empty()) {
        (Some(line), true) => Ok(Line { number, end: number, ..line }),
        _ => Err(at(format!("an ONBUILD trigger is one instruction: {text:?}"))),
    }
}

fn lines(text: &str, escape: char) -> Result<Vec<Line>> {
    let mut raw = text.lines().enumerate().map(|(i, l)| (i + 1, l)).peekable();
    let mut lines = Vec::new();
    while let Some((number, first)) = raw.next() {
        let first = first.trim_start();
        if first.is_empty() || first.starts_with('#') {
            continue;
        }
        let (mut whole, mut more) = continued(first, escape);
        let mut end = number;
        while more {
            let Some((n, next)) = raw.next() else { break };
            end = n;
            let trimmed = next.trim_start();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let (part, again) = continued(next, escape);
            whole.push_str(&part);
            more = again;
        }
        let whole = whole.trim_end().to_string();
        let mut line = instruction(&whole, number, escape)?;
        line.end = end;
        for h in &mut line.heredocs {
            let mut ended = false;
            for (n, l) in raw.by_ref() {
                line.end = n;
                let l = if h.chomp { l.trim_start_matches('\t') } else { l };
                if l == h.name {
                    ended = true;
                    break;
                }
                h.content.push_str(l);
                h.content.push('\n');
            }
            if !ended {
                return Err(Error::Parse { line: number, message: "unterminated heredoc".into() });
            }
        }
        if lines.len() == INSTRUCTIONS {
            let message = format!("more than {INSTRUCTIONS} instructions");
            return Err(Error::Parse { line: number, message });
        }
        lines.push(line);
    }
    Ok(lines)
}

/// Parses one instruction, such as an `ONBUILD` trigger.
pub(crate) fn instruction(whole: &str, number: usize, escape: char) -> Result<Line> {
    let wrong = |message: String| Error::Parse { line: number, message };
    let (word, rest) = whole.split_once(char::is_whitespace).unwrap_or((whole, ""));
    let keyword = KEYWORDS
        .into_iter()
        .find(|k| k.eq_ignore_ascii_case(word))
        .ok_or_else(|| wrong(format!("unknown instruction: {word}")))?;
    let (flags, arguments) = flags(rest.trim(), escape);
    if arguments.is_empty() && !(keyword == "CMD" || keyword == "ENTRYPOINT" || keyword == "SHELL") {
        // A health check may consist of a flag-less NONE only, and every other needs something too.
        let what =
            if keyword == "HEALTHCHECK" { "Missing type for HEALTHCHECK".to_string() } else { String::new() };
        let message = match keyword {
            "HEALTHCHECK" => what,
            "FROM" => "FROM requires either one or three arguments".into(),
            "ADD" | "COPY" => format!(
                "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
            ),
            "MAINTAINER" | "USER" | "WORKDIR" | "STOPSIGNAL" => {
                format!("{keyword} requires exactly one argument")
            }
            _ => format!("{keyword} requires at least one argument"),
        };
        return Err(wrong(message));
    }
    let nested = keyword == "ONBUILD"
        && ["ADD", "COPY", "RUN"].iter().any(|k| arguments.to_ascii_uppercase().starts_with(k));
    let heredocs = match keyword {
        "ADD" | "COPY" | "RUN" => heredocs(&arguments),
        _ if nested => heredocs(&arguments),
        _ => Vec::new(),
    };
    Ok(Line { number, end: number, keyword, original: whole.to_string(), flags, arguments, heredocs })
}

/// The `# escape=` directive, among the directives at the very top.
fn escape_of(text: &str) -> Result<char> {
    let mut seen = false;
    let mut escape = '\\';
    for (i, line) in text.lines().enumerate() {
        let Some(comment) = line.trim_start().strip_prefix('#') else { break };
        let Some((key, value)) = comment.split_once('=') else { break };
        let key = key.trim().to_ascii_lowercase();
        if key.is_empty() || !key.bytes().all(|b| b.is_ascii_alphanumeric()) {
            break;
        }
        if key == "escape" {
            let wrong = |message: String| Error::Parse { line: i + 1, message };
            if seen {
                return Err(wrong("only one escape parser directive can be used".into()));
            }
            seen = true;
            escape = match value.trim() {
                "\\" => '\\',
                "`" => '`',
                other => return Err(wrong(format!("invalid escape token '{other}' does not match ` or \\"))),
            };
        }
    }
    Ok(escape)
}

/// The line without its continuation mark, and whether it had one.
fn continued(line: &str, escape: char) -> (String, bool) {
    let trimmed = line.trim_end_matches([' ', '\t', '\r']);
    match trimmed.strip_suffix(escape) {
        // Two marks are an escaped mark, except on a line of its own.
        Some(head) if !head.ends_with(escape) || head.is_empty() => (head.to_string(), true),
        _ => (line.trim_end_matches('\r').to_string(), false),
    }
}

/// Takes the flags off the front: words that start with two dashes.
fn flags(rest: &str, escape: char) -> (Vec<(String, Option<String>)>, String) {
    let mut flags = Vec::new();
    let mut rest = rest.trim_start();
    while let Some(after) = rest.strip_prefix("--") {
        let (mut word, mut quote, mut escaped, mut end) = (String::new(), None, false, after.len());
        for (i, c) in after.char_indices() {
            if escaped {
                word.push(c);
                escaped = false;
            } else if c == escape {
                escaped = true;
            } else if quote == Some(c) {
                quote = None;
            } else if quote.is_none() && (c == '"' || c == '\'') {
                quote = Some(c);
            } else if quote.is_none() && c.is_whitespace() {
                end = i;
                break;
            } else {
                word.push(c);
            }
        }
        if word.is_empty() {
            // `--` alone ends the flags.
            rest = after[end..].trim_start();
            break;
        }
        flags.push(match word.split_once('=') {
            Some((name, value)) => (name.to_string(), Some(value.to_string())),
            None => (word, None),
        });
        rest = after[end..].trim_start();
    }
    (flags, rest.to_string())
}

/// The here-documents that a line asks for: whole words alone are, so `$((1<<N))` is none.
fn heredocs(arguments: &str) -> Vec<Heredoc> {
    words::split(arguments, '\\').iter().filter_map(|word| heredoc(word)).collect()
}

/// The here-document that a word asks for: `<<NAME`, `<<-NAME`, perhaps with a file's number before it and quotes around
/// or in the name.
pub(crate) fn heredoc(word: &str) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (rest, chomp) = rest.strip_prefix('-').map_or((rest, false), |rest| (rest, true));
    if rest.contains('<') || words::split(rest, '\\').len() != 1 {
        return None;
    }
    let (mut name, mut quote, mut characters) = (String::new(), None, rest.chars());
    while let Some(c) = characters.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => name.extend(characters.next()),
            (c, Some(q)) if c == q => quote = None,
            ('"' | '\'', None) => quote = Some(c),
            _ => name.push(c),
        }
    }
    let expand = name == rest;
    (!name.is_empty()).then_some(Heredoc { name, expand, content: String::new(), chomp })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<(usize, String, String)> {
        parse(text)
            .unwrap()
            .lines
            .into_iter()
            .map(|l| (l.number, l.keyword.to_string(), l.arguments))
            .collect()
    }

    #[test]
    fn joins_and_skips() {
        let text =
            "# syntax=x\n\n# c\nfrom a\nRUN one && \\\n  # inside\n\n  two \\\n  three\n  CMD [\"x\"]\r\n";
        assert_eq!(
            lines(text),
            [
                (4, "FROM".to_string(), "a".to_string()),
                (5, "RUN".into(), "one &&   two   three".into()),
                (10, "CMD".into(), "[\"x\"]".into()),
            ]
        );
        let windows = "# escape=`\nFROM a\nCOPY a `\n  c:\\x\\\nRUN x";
        assert_eq!(lines(windows)[1].2, "a   c:\\x\\");
        assert_eq!(
            parse("# escape=x\nFROM a").unwrap_err().to_string(),
            "dockerfile parse error on line 1: invalid escape token 'x' does not match ` or \\"
        );
    }

    #[test]
    fn flags_and_heredocs() {
        let d = parse("COPY --from=a --chown=\"b c\":d x y\nRUN --mount=type=cache,target=/c <<EOF cat && cat <<-'B'\n$a\nEOF\n\tb\n\tB\nCMD x").unwrap();
        assert_eq!(
            d.lines[0].flags,
            [("from".into(), Some("a".into())), ("chown".into(), Some("b c:d".into()))]
        );
        let h = &d.lines[1].heredocs;
        assert_eq!((h[0].content.as_str(), h[0].expand), ("$a\n", true));
        assert_eq!((h[1].content.as_str(), h[1].expand), ("b\n", false));
        assert_eq!(d.lines[2].keyword, "CMD");
        assert!(parse("RUN <<EOF\nx").is_err());
        let names = |line: &str| {
            let all = heredocs(line).into_iter().map(|h| (h.name, h.expand, h.chomp));
            all.collect::<Vec<_>>()
        };
        let one = |name: &str, expand, chomp| vec![(name.to_string(), expand, chomp)];
        assert_eq!(
            names("<<robots.txt <<humans.txt /d/"),
            [one("robots.txt", true, false), one("humans.txt", true, false)].concat()
        );
        assert_eq!(names("cat 3<<-\"a b\" && x"), one("a b", false, true));
        assert_eq!(names("cat <<E\\OF"), one("EOF", false, false));
        for line in
            ["echo $((1<<N))", "a<<EOF", "x <<<EOF", "x << EOF", "x \"<<EOF\"", "x '<<EOF b'", "x \\<<EOF"]
        {
            assert_eq!(names(line), [], "{line}");
        }
    }

    #[test]
    fn names_what_is_wrong() {
        let e = |t: &str| parse(t).unwrap_err().to_string();
        assert_eq!(e("FROM a\nFLY away"), "dockerfile parse error on line 2: unknown instruction: FLY");
        assert_eq!(e("# only\n"), "file with no instructions");
        assert_eq!(
            e("FROM"),
            "dockerfile parse error on line 1: FROM requires either one or three arguments"
        );
    }

    proptest::proptest! {
        #[test]
        fn total(text in "[A-Z a-z\\\\\"'<#=\n\t$-]{0,200}") {
            let _ = parse(&text);
            let _ = parse(&format!("RUN {text}"));
        }
    }
}
