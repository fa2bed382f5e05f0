//! Patterns: Go's `filepath.Match`, the shell's, and `.dockerignore`'s.

/// What one step of a pattern matches.
#[derive(Debug, Clone, PartialEq)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Run,
    /// `**`: any number of whole path components.
    Deep,
    Class(bool, Vec<(char, char)>),
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    tokens: Vec<Token>,
    /// Whether `*` and `?` stop at slashes.
    paths: bool,
}

impl Pattern {
    /// Compiles; `None` where brackets or escapes do not end.
    fn new(text: &str, paths: bool, deep: bool) -> Option<Self> {
        let chars: Vec<char> = text.chars().collect();
        let mut tokens = Vec::new();
        let mut i = 0;
        while i < chars.len() {
            match chars[i] {
                '*' if deep && chars.get(i + 1) == Some(&'*') => {
                    while chars.get(i + 1) == Some(&'*') {
                        i += 1;
                    }
                    // `**/` matches no component too.
                    if chars.get(i + 1) == Some(&'/') {
                        i += 1;
                    }
                    tokens.push(Token::Deep);
                }
                '*' => tokens.push(Token::Run),
                '?' => tokens.push(Token::One),
                '\\' => {
                    i += 1;
                    tokens.push(Token::Char(*chars.get(i)?));
                }
                '[' => {
                    i += 1;
                    let negated = matches!(chars.get(i), Some('^' | '!'));
                    i += usize::from(negated);
                    let mut ranges = Vec::new();
                    while *chars.get(i)? != ']' || ranges.is_empty() {
                        let mut take = || -> Option<char> {
                            if chars.get(i) == Some(&'\\') {
                                i += 1;
                            }
                            let c = *chars.get(i)?;
                            i += 1;
                            Some(c)
                        };
                        let low = take()?;
                        let high =
                            if chars.get(i) == Some(&'-') && chars.get(i + 1).is_some_and(|c| *c != ']') {
                                i += 1;
                                let mut take = || -> Option<char> {
                                    if chars.get(i) == Some(&'\\') {
                                        i += 1;
                                    }
                                    let c = *chars.get(i)?;
                                    i += 1;
                                    Some(c)
                                };
                                take()?
                            } else {
                                low
                            };
                        ranges.push((low, high));
                    }
                    tokens.push(Token::Class(negated, ranges));
                }
                c => tokens.push(Token::Char(c)),
            }
            i += 1;
        }
        Some(Self { tokens, paths })
    }

    /// Whether the whole text matches. Time is at most tokens times characters: no backtracking explodes.
    fn matches(&self, text: &str) -> bool {
        let chars: Vec<char> = text.chars().collect();
        let n = chars.len();
        // reach[i]: the tokens so far can match exactly the first i characters.
        let mut reach = vec![false; n + 1];
        reach[0] = true;
        for token in &self.tokens {
            let mut next = vec![false; n + 1];
            match token {
                Token::Run | Token::Deep => {
                    let mut open = false;
                    for i in 0..=n {
                        // A run of components may end only where one ends, or be empty.
                        if i > 0 && self.paths && *token == Token::Run && chars[i - 1] == '/' {
                            open = false;
                        }
                        open |= reach[i];
                        next[i] = match token {
                            Token::Run => open,
                            _ => open && (reach[i] || i == n || chars[i - 1] == '/'),
                        };
                    }
                }
                _ => {
                    for i in 0..n {
                        let hit = reach[i]
                            && match token {
                                Token::Char(c) => chars[i] == *c,
                                Token::One => !self.paths || chars[i] != '/',
                                Token::Class(negated, ranges) => {
                                    (!self.paths || chars[i] != '/')
                                        && ranges.iter().any(|(a, b)| (*a..=*b).contains(&chars[i]))
                                            != *negated
                                }
                                Token::Run | Token::Deep => false,
                            };
                        next[i + 1] = hit;
                    }
                }
            }
            reach = next;
        }
        reach[n]
    }
}

/// As the shell matches in `${v#p}`: stars run over slashes.
pub(crate) fn shell(pattern: &str, text: &str) -> bool {
    Pattern::new(pattern, false, false).is_some_and(|p| p.matches(text))
}

/// As Go's `filepath.Match`; `None` for a malformed pattern.
pub(crate) fn path(pattern: &str, text: &str) -> Option<bool> {
    Pattern::new(pattern, true, false).map(|p| p.matches(text))
}

/// Whether a source names a pattern and not a path.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

/// The rules of a `.dockerignore`.
#[derive(Debug, Default)]
pub(crate) struct Ignore {
    rules: Vec<(bool, Pattern)>,
}

impl Ignore {
    /// Parses the file; a malformed pattern is an error that names it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut rules = Vec::new();
        for line in text.strip_prefix('\u{feff}').unwrap_or(text).lines() {
            if line.starts_with('#') {
                continue;
            }
            let line = line.trim();
            let (negated, body) = match line.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, line),
            };
            if line.is_empty() {
                continue;
            }
            if body.is_empty() {
                return Err("illegal exclusion pattern: \"!\"".into());
            }
            let mut parts: Vec<&str> = Vec::new();
            for part in body.split('/') {
                match part {
                    "" | "." => {}
                    ".." => {
                        parts.pop();
                    }
                    p => parts.push(p),
                }
            }
            if parts.is_empty() {
                // `.` and `/` name the context itself, which is always there.
                continue;
            }
            let pattern = Pattern::new(&parts.join("/"), true, true)
                .ok_or_else(|| format!("error parsing .dockerignore: syntax error in pattern: {body}"))?;
            rules.push((negated, pattern));
        }
        Ok(Self { rules })
    }

    /// Whether a file of the context is left out: the last rule that matches it or a folder above it decides.
    pub fn excludes(&self, path: &str) -> bool {
        let path = path.trim_matches('/');
        let mut excluded = false;
        for (negated, pattern) in &self.rules {
            if excluded != *negated {
                continue;
            }
            let above = path.char_indices().filter(|(_, c)| *c == '/').map(|(i, _)| &path[..i]);
            if pattern.matches(path) || above.into_iter().any(|p| pattern.matches(p)) {
                excluded = !negated;
            }
        }
        excluded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_paths() {
        for (pattern, text, want) in [
            ("*.go", "a.go", true),
            ("*.go", "a/b.go", false),
            ("a/*", "a/b", true),
            ("a?c", "abc", true),
            ("a?c", "a/c", false),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("[]a]", "]", true),
            ("\\*", "*", true),
        ] {
            assert_eq!(path(pattern, text), Some(want), "{pattern} {text}");
        }
        assert_eq!(path("[a", "a"), None);
        assert!(shell("/*/", "/usr/local/"));
    }

    #[test]
    fn ignores() {
        let i = |text: &str, path: &str| Ignore::parse(text).unwrap().excludes(path);
        for (text, path, want) in [
            ("ignored.txt", "ignored.txt", true),
            ("ignored.txt", "sub/ignored.txt", false),
            ("**/*.txt", "ignored.txt", true),
            ("**/*.txt", "a/b/ignored.txt", true),
            ("dir", "dir/a/b", true),
            ("/dir/", "dir/a", true),
            ("*\n!keep", "keep", false),
            ("*\n!keep", "other", true),
            ("*\n!sub/f", "sub/f", false),
            ("*\n!sub/f", "sub/g", true),
            ("a/**", "a/b/c", true),
            ("a/**", "ab", false),
            ("**/node_modules", "x/node_modules/y", true),
            ("# c\n\n", "c", false),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README-x.md", false),
            ("a/**/z", "a/z", true),
            ("a/**/z", "a/b/c/z", true),
            (".", "x", false),
        ] {
            assert_eq!(i(text, path), want, "{text:?} {path}");
        }
        assert!(Ignore::parse("[a").is_err());
    }

    proptest::proptest! {
        #[test]
        fn total(pattern in "[ab*?/\\[\\]^!\\\\-]{0,30}", text in "[ab/]{0,40}") {
            let _ = path(&pattern, &text);
            let _ = Ignore::parse(&pattern).map(|i| i.excludes(&text));
        }
    }
}
