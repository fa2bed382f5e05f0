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

    /// Whether the whole text matches.
    fn matches(&self, text: &str) -> bool {
        let chars: Vec<char> = text.chars().collect();
        self.reach(&chars)[chars.len()]
    }

    /// Whether the whole text matches, or what stands before one of its slashes: a folder that it lies in.
    fn matches_above(&self, chars: &[char]) -> bool {
        let reach = self.reach(chars);
        (0..=chars.len()).any(|i| reach[i] && chars.get(i).is_none_or(|c| i > 0 && *c == '/'))
    }

    /// For each number of characters whether so many from the front match. Time is at most tokens times characters: no
    /// backtracking explodes.
    fn reach(&self, chars: &[char]) -> Vec<bool> {
        let n = chars.len();
        // reach[i]: the tokens so far can match exactly the first i characters.
        let mut reach = vec![false; n + 1];
        reach[0] = true;
        for (t, token) in self.tokens.iter().enumerate() {
            let last = t + 1 == self.tokens.len();
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
                            _ => {
                                // Where one ends the text may end for whoever asks about a folder.
                                let end = i == n || last && chars[i] == '/';
                                open && (reach[i] || end || chars[i - 1] == '/')
                            }
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
            if !reach.contains(&true) {
                break;
            }
        }
        reach
    }
}

/// The most steps, tokens times characters, that a modifier of a variable may take.
const STEPS: usize = 64 << 20;

/// A pattern as the shell has them in `${v#p}` (stars run over slashes), and the text that it is for; `None` for a
/// malformed pattern, which matches nothing.
fn shell(pattern: &str, text: &str) -> Result<Option<(Pattern, Vec<char>)>, String> {
    let Some(p) = Pattern::new(pattern, false, false) else { return Ok(None) };
    let chars: Vec<char> = text.chars().collect();
    if p.tokens.len().saturating_mul(chars.len()) > STEPS {
        return Err("value and pattern of a substitution are too long".into());
    }
    Ok(Some((p, chars)))
}

/// `${v#p}`, `${v##p}`, `${v%p}`, `${v%%p}`.
pub(crate) fn trim(value: &str, pattern: &str, front: bool, greedy: bool) -> Result<String, String> {
    let Some((mut p, mut chars)) = shell(pattern, value)? else { return Ok(value.into()) };
    if !front {
        // What matches at the end is, backwards, what matches the pattern backwards.
        p.tokens.reverse();
        chars.reverse();
    }
    let reach = p.reach(&chars);
    let cut = if greedy { reach.iter().rposition(|r| *r) } else { reach.iter().position(|r| *r) };
    let rest = &chars[cut.unwrap_or(0)..];
    Ok(if front { rest.iter().collect() } else { rest.iter().rev().collect() })
}

/// `${v/p/r}`, `${v//p/r}`: the first, or every, longest match becomes `r`. The result has at most `most` bytes.
pub(crate) fn replace(
    value: &str,
    pattern: &str,
    replacement: &str,
    all: bool,
    most: usize,
) -> Result<String, String> {
    let Some((p, chars)) = shell(pattern, value)? else { return Ok(value.into()) };
    let star = p.tokens.iter().position(|t| *t == Token::Run);
    // Without a star a match has as many characters as the pattern. With one, whether the text matches depends on the
    // first place alone where what stands before the star does, because the star can skip whatever comes after it; and
    // the longest match is the only one.
    let head = Pattern { tokens: p.tokens[..star.unwrap_or(p.tokens.len())].to_vec(), paths: false };
    let width = head.tokens.len();
    let (mut out, mut at) = (String::new(), 0);
    while at < chars.len() {
        let fits = at + width <= chars.len() && head.reach(&chars[at..at + width])[width];
        let length = match (fits, star) {
            (false, _) => 0,
            (true, None) => width,
            (true, Some(_)) => p.reach(&chars[at..]).iter().rposition(|r| *r).unwrap_or(0),
        };
        if length > 0 {
            out.push_str(replacement);
            at += length;
        }
        if out.len() > most {
            return Err(format!("variables make it longer than {} MiB", most >> 20));
        }
        if (length > 0 && !all) || (fits && star.is_some()) {
            break;
        }
        if length == 0 {
            out.push(chars[at]);
            at += 1;
        }
    }
    out.extend(&chars[at..]);
    Ok(out)
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
        let path: Vec<char> = path.trim_matches('/').chars().collect();
        if path.is_empty() {
            return false; // the folder itself
        }
        let mut excluded = false;
        for (negated, pattern) in &self.rules {
            if excluded != *negated {
                continue;
            }
            if pattern.matches_above(&path) {
                excluded = !negated;
            }
        }
        excluded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the modifiers mean, told in the plainest way.
    fn plainly(value: &str, pattern: &str, modifier: &str) -> String {
        let fits = |text: &str| Pattern::new(pattern, false, false).is_some_and(|p| p.matches(text));
        let cuts: Vec<usize> = value.char_indices().map(|(i, _)| i).chain([value.len()]).collect();
        let head = |i: &&usize| fits(&value[..**i]);
        let tail = |i: &&usize| fits(&value[**i..]);
        match modifier {
            "#" => cuts.iter().find(head).map_or(value, |i| &value[*i..]).into(),
            "##" => cuts.iter().rfind(head).map_or(value, |i| &value[*i..]).into(),
            "%" => cuts.iter().rfind(tail).map_or(value, |i| &value[..*i]).into(),
            "%%" => cuts.iter().find(tail).map_or(value, |i| &value[..*i]).into(),
            all => {
                let found = cuts.iter().find_map(|a| {
                    cuts.iter()
                        .rfind(|b| *b > a && fits(&value[*a..**b]))
                        .map(|b| (&value[..*a], &value[*b..]))
                });
                match found {
                    Some((before, after)) if all == "//" => {
                        format!("{before}<>{}", plainly(after, pattern, all))
                    }
                    Some((before, after)) => format!("{before}<>{after}"),
                    None => value.into(),
                }
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn modifiers_do_what_they_say(value in "[abé/]{0,8}", pattern in "([abé/?*]|\\[a-b\\]|\\\\a|\\[){0,6}") {
            for modifier in ["#", "##", "%", "%%", "/", "//"] {
                let got = match modifier {
                    "/" | "//" => replace(&value, &pattern, "<>", modifier == "//", 1 << 10),
                    _ => trim(&value, &pattern, modifier.starts_with('#'), modifier.len() == 2),
                };
                let want = plainly(&value, &pattern, modifier);
                proptest::prop_assert_eq!(got, Ok(want), "${{v{}{}}} of {:?}", modifier, pattern, value);
            }
        }
    }

    #[test]
    fn long_values_take_no_longer_than_they_must() {
        let value = "a".repeat(1 << 17);
        for pattern in ["b", "?b", "*b", "a*b", "a*a", "[^a]*", "?*?", "aaaaaaaaaaaaaaab"] {
            for modifier in ["#", "##", "%", "%%", "/", "//"] {
                let got = match modifier {
                    "/" | "//" => replace(&value, pattern, "", modifier == "//", 1 << 21),
                    _ => trim(&value, pattern, modifier.starts_with('#'), modifier.len() == 2),
                };
                assert!(got.unwrap().len() <= value.len());
            }
        }
        assert!(
            replace(&value, "a", "ten or more", true, 1 << 20).unwrap_err().contains("longer than 1 MiB")
        );
        assert!(trim(&value, &"?".repeat(1000), true, true).unwrap_err().contains("too long"));
    }

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
        assert_eq!(trim("/usr/local/", "/*/", true, true).as_deref(), Ok(""));
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

        #[test]
        fn folders_above_are_found_with_the_path(pattern in "[ab*?/\\[\\]-]{0,8}", text in "[ab/]{0,12}") {
            if let Some(p) = Pattern::new(&pattern, true, true) {
                let mut above = text.char_indices().filter(|(i, c)| *i > 0 && *c == '/').map(|(i, _)| &text[..i]);
                let plainly = p.matches(&text) || above.any(|folder| p.matches(folder));
                let chars: Vec<char> = text.chars().collect();
                proptest::prop_assert_eq!(p.matches_above(&chars), plainly, "{:?} of {:?}", pattern, text);
            }
        }
    }

    #[test]
    fn a_path_of_many_folders_is_looked_at_once() {
        let ignore = Ignore::parse("b\n**/c/**\n!a*/**/d\n*/*/e").unwrap();
        assert!(!ignore.excludes(&"a/".repeat(1 << 16)));
        assert!(ignore.excludes(&format!("{}c/x", "a/".repeat(1 << 16))));
    }
}
