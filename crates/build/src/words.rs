//! Words of an instruction: quotes, escapes, and variables with their modifiers.

use crate::pattern;

/// Looks a variable up.
pub(crate) type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// How long a word may become by its variables, in bytes: more than any program takes as an argument.
const LONGEST: usize = 1 << 20;

/// The same of a here-document, which may be as long as the whole file.
const LONGEST_TEXT: usize = crate::parse::SIZE_LIMIT;

/// How deep `${a:-${b:-...}}` may nest.
const DEPTH: usize = 32;

/// What all variables of a stage and all texts of an image may have together, in bytes: a registry does not take a
/// configuration of more.
const TOGETHER: usize = 8 << 20;

/// Refuses more than a stage may have.
pub(crate) fn bounded(bytes: usize) -> Result<(), String> {
    if bytes <= TOGETHER {
        return Ok(());
    }
    Err(format!("variables, labels and history have more than {} MiB together", TOGETHER >> 20))
}

struct Lexer<'a> {
    chars: Vec<char>,
    at: usize,
    escape: char,
    lookup: &'a Lookup<'a>,
    /// Keep quotes and escapes as they are: for here-documents.
    raw: bool,
    depth: usize,
}

/// Expands one word: quotes are removed.
pub(crate) fn expand(word: &str, escape: char, lookup: &Lookup<'_>) -> Result<String, String> {
    let mut l = Lexer { chars: word.chars().collect(), at: 0, escape, lookup, raw: false, depth: 0 };
    l.until(None).map(|parts| parts.text)
}

/// Expands one word and splits what unquoted variables bring into words.
pub(crate) fn expand_words(word: &str, escape: char, lookup: &Lookup<'_>) -> Result<Vec<String>, String> {
    let mut l = Lexer { chars: word.chars().collect(), at: 0, escape, lookup, raw: false, depth: 0 };
    l.until(None).map(|parts| parts.words())
}

/// Expands the variables of a here-document; quotes stay.
pub(crate) fn expand_text(text: &str, escape: char, lookup: &Lookup<'_>) -> Result<String, String> {
    let mut l = Lexer { chars: text.chars().collect(), at: 0, escape, lookup, raw: true, depth: 0 };
    l.until(None).map(|parts| parts.text)
}

/// Text, and where unquoted blanks in it divide words.
#[derive(Default)]
struct Parts {
    text: String,
    breaks: Vec<usize>,
    quoted_empty: bool,
}

impl Parts {
    fn words(self) -> Vec<String> {
        let mut words = Vec::new();
        let mut start = 0;
        for b in self.breaks {
            if b > start {
                words.push(self.text[start..b].trim().to_string());
            }
            start = b + self.text[b..].chars().next().map_or(1, char::len_utf8);
        }
        if start < self.text.len() || (words.is_empty() && self.quoted_empty) {
            words.push(self.text[start.min(self.text.len())..].to_string());
        }
        words
    }
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    /// Appends what a variable brings. Only variables make more of a text than it has, so only they are measured.
    fn grow(&self, out: &mut String, value: &str) -> Result<(), String> {
        let most = if self.raw { LONGEST_TEXT } else { LONGEST };
        if out.len() + value.len() > most {
            return Err(format!("variables make it longer than {} MiB", most >> 20));
        }
        out.push_str(value);
        Ok(())
    }

    fn until(&mut self, stop: Option<char>) -> Result<Parts, String> {
        let mut out = Parts::default();
        while let Some(c) = self.peek() {
            if stop == Some(c) {
                return Ok(out);
            }
            match c {
                '\'' if !self.raw => {
                    self.at += 1;
                    out.quoted_empty = true;
                    loop {
                        match self.peek() {
                            None => {
                                return Err(
                                    "unexpected end of statement while looking for matching single-quote"
                                        .into(),
                                );
                            }
                            Some('\'') => break,
                            Some(c) => out.text.push(c),
                        }
                        self.at += 1;
                    }
                    self.at += 1;
                }
                '"' if !self.raw => {
                    self.at += 1;
                    out.quoted_empty = true;
                    self.double_quoted(&mut out.text)?;
                }
                '$' => {
                    let value = self.dollar()?;
                    for (i, c) in value.char_indices() {
                        if c.is_whitespace() {
                            out.breaks.push(out.text.len() + i);
                        }
                    }
                    self.grow(&mut out.text, &value)?;
                }
                c if c == self.escape => {
                    self.at += 1;
                    match self.peek() {
                        // In a here-document a backslash takes its meaning from a dollar only.
                        Some(next) if self.raw && next != '$' => out.text.extend([c, next]),
                        Some(next) => out.text.push(next),
                        None => out.text.push(c),
                    }
                    self.at += 1;
                }
                c => {
                    if c.is_whitespace() {
                        out.breaks.push(out.text.len());
                    }
                    out.text.push(c);
                    self.at += 1;
                }
            }
        }
        match stop {
            Some(stop) => Err(format!("unexpected end of statement while looking for matching {stop}")),
            None => Ok(out),
        }
    }

    fn double_quoted(&mut self, out: &mut String) -> Result<(), String> {
        loop {
            match self.peek() {
                None => {
                    return Err("unexpected end of statement while looking for matching double-quote".into());
                }
                Some('"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some('$') => {
                    let value = self.dollar()?;
                    self.grow(out, &value)?;
                }
                Some(c) if c == self.escape => {
                    self.at += 1;
                    match self.peek() {
                        Some(next) if next == '"' || next == '$' || next == self.escape => out.push(next),
                        Some(next) => out.extend([c, next]),
                        None => {
                            return Err(
                                "unexpected end of statement while looking for matching double-quote".into(),
                            );
                        }
                    }
                    self.at += 1;
                }
                Some(c) => {
                    out.push(c);
                    self.at += 1;
                }
            }
        }
    }

    fn name(&mut self) -> String {
        let start = self.at;
        let special = |c: char| "@*#?-$!0".contains(c);
        match self.peek() {
            Some(c) if c.is_ascii_digit() => {
                while self.peek().is_some_and(|c| c.is_ascii_digit()) {
                    self.at += 1;
                }
            }
            Some(c) if special(c) => self.at += 1,
            _ => {
                while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
                    self.at += 1;
                }
            }
        }
        self.chars[start..self.at].iter().collect()
    }

    fn dollar(&mut self) -> Result<String, String> {
        self.at += 1;
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".into() } else { (self.lookup)(&name).unwrap_or_default() });
        }
        self.depth += 1;
        if self.depth > DEPTH {
            return Err("variables are nested too deeply".into());
        }
        self.at += 1;
        let name = self.name();
        if name.is_empty() {
            return Err("syntax error: bad substitution".into());
        }
        let value = (self.lookup)(&name);
        let missing = || "syntax error: missing '}'".to_string();
        let result = match self.peek() {
            None => return Err(missing()),
            Some('}') => Ok(value.unwrap_or_default()),
            Some(':') => {
                self.at += 1;
                let operator = self.peek().ok_or_else(missing)?;
                self.at += 1;
                self.choose(operator, &name, value.filter(|v| !v.is_empty()), true)
            }
            Some(operator @ ('+' | '-' | '?')) => {
                self.at += 1;
                self.choose(operator, &name, value, false)
            }
            Some(operator @ ('#' | '%')) => {
                self.at += 1;
                let greedy = self.peek() == Some(operator);
                self.at += usize::from(greedy);
                let pattern = self.raw_until('}')?;
                pattern::trim(&value.unwrap_or_default(), &pattern, operator == '#', greedy)
            }
            Some('/') => {
                self.at += 1;
                let all = self.peek() == Some('/');
                self.at += usize::from(all);
                let both = self.raw_until('}')?;
                let (pattern, replacement) = both.split_once('/').unwrap_or((&both, ""));
                let most = if self.raw { LONGEST_TEXT } else { LONGEST };
                pattern::replace(&value.unwrap_or_default(), pattern, replacement, all, most)
            }
            Some(c) => Err(format!("unsupported modifier ({c}) in substitution")),
        }?;
        if self.peek() != Some('}') {
            return Err(missing());
        }
        self.at += 1;
        self.depth -= 1;
        Ok(result)
    }

    fn choose(
        &mut self,
        operator: char,
        name: &str,
        value: Option<String>,
        colon: bool,
    ) -> Result<String, String> {
        let word = self.until(Some('}'))?.text;
        match operator {
            '-' => Ok(value.unwrap_or(word)),
            '+' => Ok(value.map(|_| word).unwrap_or_default()),
            '?' => value.ok_or_else(|| {
                let why = match (word.is_empty(), colon) {
                    (false, _) => word,
                    (true, true) => "is not allowed to be empty".into(),
                    (true, false) => "is not allowed to be unset".into(),
                };
                format!("{name}: {why}")
            }),
            c => Err(format!("unsupported modifier ({c}) in substitution")),
        }
    }

    /// The text up to `stop`, variables expanded, otherwise as it is.
    fn raw_until(&mut self, stop: char) -> Result<String, String> {
        let mut out = String::new();
        loop {
            match self.peek() {
                None => return Err("syntax error: missing '}'".into()),
                Some(c) if c == stop => return Ok(out),
                Some('$') => {
                    let value = self.dollar()?;
                    self.grow(&mut out, &value)?;
                }
                Some(c) => {
                    out.push(c);
                    self.at += 1;
                }
            }
        }
    }
}

/// Splits arguments at blanks outside of quotes, keeping quotes and escapes.
pub(crate) fn split(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let (mut word, mut quote, mut escaped, mut any) = (String::new(), None, false, false);
    for c in text.chars() {
        if escaped {
            word.push(c);
            escaped = false;
            continue;
        }
        if quote.is_none() && c.is_whitespace() {
            if any {
                words.push(std::mem::take(&mut word));
            }
            any = false;
            continue;
        }
        any = true;
        word.push(c);
        if c == escape && quote != Some('\'') {
            escaped = true;
        } else if quote == Some(c) {
            quote = None;
        } else if quote.is_none() && (c == '"' || c == '\'') {
            quote = Some(c);
        }
    }
    if any {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands() {
        let lookup = |n: &str| match n {
            "a" => Some("A".to_string()),
            "e" => Some(String::new()),
            "p" => Some("/usr/local/bin".into()),
            "w" => Some("x y".into()),
            _ => None,
        };
        for (word, want) in [
            ("$a", "A"),
            ("${a}b", "Ab"),
            ("$ab", ""),
            ("'$a'", "$a"),
            ("\"$a'\"", "A'"),
            ("\\$a", "$a"),
            ("\"\\$a \\n\"", "$a \\n"),
            ("${n:-d}", "d"),
            ("${e:-d}", "d"),
            ("${e-d}", ""),
            ("${a:+y}", "y"),
            ("${e+y}", "y"),
            ("${n:-${a}}", "A"),
            ("${p#/*/}", "local/bin"),
            ("${p##/*/}", "bin"),
            ("${p%/*}", "/usr/local"),
            ("${p%%/l*}", "/usr"),
            ("${p/l/L}", "/usr/Local/bin"),
            ("${p//l/L}", "/usr/LocaL/bin"),
            ("a$", "a$"),
        ] {
            assert_eq!(expand(word, '\\', &lookup).as_deref(), Ok(want), "{word}");
        }
        assert_eq!(expand("${n:?}", '\\', &lookup).unwrap_err(), "n: is not allowed to be empty");
        assert!(expand("'x", '\\', &lookup).is_err() && expand("${a", '\\', &lookup).is_err());
        assert_eq!(expand_words("$w", '\\', &lookup).unwrap(), ["x", "y"]);
        assert_eq!(expand_words("\"$w\"", '\\', &lookup).unwrap(), ["x y"]);
        assert_eq!(expand_text("\"$a\" \\$a \\x", '\\', &lookup).unwrap(), "\"A\" $a \\x");
        assert_eq!(split("a \"b c\" d\\ e='f g'", '\\'), ["a", "\"b c\"", "d\\ e='f g'"]);
    }

    #[test]
    fn variables_cannot_multiply_without_end() {
        let mega = "m".repeat(1 << 20);
        let lookup = |n: &str| match n {
            "m" => Some(mega.clone()),
            "n" => Some("a\u{a0}b\u{3000}".to_string()),
            _ => None,
        };
        for word in ["$m$m", "\"$m$m\"", "${x:-$m$m}", "${m//m/mm}", "${m//m/$m}", "${x#$m$m}", "${x/$m$m/}"]
        {
            let e = expand(word, '\\', &lookup).unwrap_err();
            assert!(e.contains("longer than 1 MiB"), "{word}: {e}");
        }
        assert_eq!(expand("$m", '\\', &lookup).unwrap().len(), 1 << 20);
        let text = "$m".repeat(17);
        assert!(expand_text(&text, '\\', &lookup).unwrap_err().contains("longer than 16 MiB"));
        // Blanks of more than one byte divide words too.
        assert_eq!(expand_words("$n", '\\', &lookup).unwrap(), ["a", "b"]);
    }

    proptest::proptest! {
        #[test]
        fn total(text in "[a-c${}:#%/?'\"\\\\ -]{0,60}") {
            let lookup = |n: &str| (n == "a").then(|| "val/ue".to_string());
            let _ = expand(&text, '\\', &lookup);
            let _ = expand_text(&text, '\\', &lookup);
            let _ = split(&text, '\\');
        }
    }
}
