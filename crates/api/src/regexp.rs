//! Regular expressions of schemas and rules: upstream's are Go's (the syntax of RE2, with Perl's classes), ours are those of
//! the `regex` crate. Both match characters, in linear time; what they read otherwise is rewritten here.
//!
//! Go's `\d`, `\w`, `\s` and `\b` know ASCII alone, and have no other meaning in a set; in a set `[`, `&&`, `--` and `~~` are
//! plain characters, and `-` is one wherever it makes no range; braces that count nothing are plain characters, too; what is
//! counted is counted to 1000 at most, all levels together.

use std::iter::Peekable;
use std::str::Chars;

use regex::Regex;

use crate::pattern::Room;

/// What a compiled expression may take, in bytes: it bounds what one out of an object can, and lets the longest that Go takes
/// of a set of ASCII characters through.
pub(crate) const MAX_SIZE: usize = 4 << 20;
/// The most repetitions that can be counted.
const MAX_REPEAT: u32 = 1000;
/// How many characters at most are looked through for the end of something short.
const MAX_LOOK: usize = 32;

const POSIX: [&str; 14] = [
    "alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space",
    "upper", "word", "xdigit",
];

/// Compiles an expression as Go reads it. [`Regex::as_str`] of it is not the text given. The error says why it is none.
pub fn compile(text: &str) -> Result<Regex, String> {
    Room { left: MAX_SIZE, most: MAX_SIZE }.compile(text)
}

/// An expression as Go reads it in our syntax. The error says why it is none.
pub(crate) fn rewrite(text: &str) -> Result<String, String> {
    Rewrite { rest: text.chars().peekable(), out: String::new() }.all()
}

/// An expression on its way from one syntax to the other.
struct Rewrite<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
}

/// What is behind a backslash.
enum Escape {
    /// A character.
    Char(char),
    /// A class, as the inside of a set.
    Class { inside: String, negated: bool },
    /// Not for sets: a place between characters, or the start of quoted text.
    Other(char),
}

impl Rewrite<'_> {
    fn eat(&mut self, want: char) -> bool {
        self.rest.next_if_eq(&want).is_some()
    }

    fn literal(&mut self, c: char) {
        self.out.push_str(&regex::escape(c.encode_utf8(&mut [0; 4])));
    }

    fn all(mut self) -> Result<String, String> {
        // How often what is counted deepest is repeated: in each open group, and in the last piece of the innermost.
        let mut groups = vec![1];
        let mut last = 1;
        while let Some(c) = self.rest.next() {
            match c {
                '{' => match self.count() {
                    Some((times, counted)) => {
                        last *= times.max(1);
                        if times > MAX_REPEAT || last > MAX_REPEAT {
                            return Err(format!("invalid repeat count: `{counted}`"));
                        }
                        self.out.push_str(&counted);
                    }
                    None => {
                        self.literal('{');
                        last = 1;
                    }
                },
                '?' | '*' | '+' => self.out.push(c),
                '(' => {
                    self.out.push('(');
                    if self.group()? {
                        groups.push(1);
                    }
                    last = 1;
                }
                ')' => {
                    self.out.push(')');
                    last = groups.pop().unwrap_or(1);
                    if groups.is_empty() {
                        return Err("unexpected )".to_owned());
                    }
                }
                '[' => {
                    self.set()?;
                    last = 1;
                }
                '\\' => {
                    self.escaped()?;
                    last = 1;
                }
                c => {
                    self.out.push(c);
                    last = 1;
                }
            }
            if let Some(deepest) = groups.last_mut() {
                *deepest = last.max(*deepest);
            }
        }
        Ok(self.out)
    }

    /// `{n}`, `{n,}` or `{n,m}`, of which the brace is read: how often at most, or at least, and its text. Nothing, with
    /// nothing read, if it is none of these.
    fn count(&mut self) -> Option<(u32, String)> {
        let inside: String = self.rest.clone().take(MAX_LOOK).take_while(|c| *c != '}').collect();
        self.rest.clone().nth(inside.chars().count()).filter(|c| *c == '}')?;
        let (min, max) = inside.split_once(',').unwrap_or((&inside, &inside));
        let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if min.is_empty() || !number(min) || !number(max) {
            return None;
        }
        self.rest.nth(inside.chars().count());
        let count = |text: &str| text.parse::<u32>().unwrap_or(u32::MAX).min(MAX_REPEAT + 1);
        let times = count(if max.is_empty() { min } else { max });
        Some((times, format!("{{{inside}}}")))
    }

    /// What follows the parenthesis of a group, of which only some is known. Says whether there is a group: flags may stand
    /// alone.
    fn group(&mut self) -> Result<bool, String> {
        if self.rest.peek() != Some(&'?') {
            return Ok(true);
        }
        let mut head = String::new();
        for c in self.rest.by_ref() {
            head.push(c);
            match c {
                '?' | 'P' | '-' | 'i' | 'm' | 's' | 'U' => {}
                ':' | '<' => {
                    self.out.push_str(&head);
                    return Ok(true);
                }
                ')' => {
                    self.out.push_str(&head);
                    return Ok(false);
                }
                _ => break,
            }
        }
        Err(format!("invalid or unsupported Perl syntax: `({head}`"))
    }

    /// A set, of which the bracket is read.
    fn set(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.eat('^') {
            self.out.push('^');
        }
        let mut first = true;
        loop {
            match self.rest.next() {
                None => return Err("missing closing ]".to_owned()),
                Some(']') if !first => {
                    self.out.push(']');
                    return Ok(());
                }
                Some('[') if self.rest.peek() == Some(&':') && self.posix()? => {}
                Some(c) => self.range(c)?,
            }
            first = false;
        }
    }

    /// `[:name:]`, of which the bracket is read; nothing if it does not end so.
    fn posix(&mut self) -> Result<bool, String> {
        let text: String = self.rest.clone().skip(1).take(MAX_LOOK).take_while(|c| *c != ':').collect();
        let length = text.chars().count() + 1;
        let mut end = self.rest.clone().skip(length);
        if (end.next(), end.next()) != (Some(':'), Some(']')) {
            return Ok(false);
        }
        if !POSIX.contains(&text.strip_prefix('^').unwrap_or(&text)) {
            return Err(format!("invalid character class range: `[:{text}:]`"));
        }
        self.rest.nth(length + 1);
        self.out.push_str(&format!("[:{text}:]"));
        Ok(true)
    }

    /// A character of a set, its first read, or all from one to another, or a class.
    fn range(&mut self, first: char) -> Result<(), String> {
        let Some(low) = self.member(first)? else { return Ok(()) };
        self.literal(low);
        let mut ahead = self.rest.clone();
        if ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']') {
            self.rest.next();
            let next = self.rest.next().unwrap_or_default();
            self.out.push('-');
            match self.member(next)? {
                Some(high) => self.literal(high),
                None => return Err(format!("invalid character class range: `{low}-\\`")),
            }
        }
        Ok(())
    }

    /// A character of a set, its first read; nothing if it was a class, which is written then.
    fn member(&mut self, first: char) -> Result<Option<char>, String> {
        if first != '\\' {
            return Ok(Some(first));
        }
        match self.escape()? {
            Escape::Char(c) => Ok(Some(c)),
            Escape::Class { inside, negated: false } => {
                self.out.push_str(&inside);
                Ok(None)
            }
            Escape::Class { inside, negated: true } => {
                self.out.push_str(&format!("[^{inside}]"));
                Ok(None)
            }
            Escape::Other(c) => Err(format!("invalid escape sequence: `\\{c}`")),
        }
    }

    /// What a backslash outside of sets begins.
    fn escaped(&mut self) -> Result<(), String> {
        match self.escape()? {
            Escape::Char(c) => self.literal(c),
            Escape::Class { inside, negated } => {
                let not = if negated { "^" } else { "" };
                self.out.push_str(&format!("[{not}{inside}]"));
            }
            Escape::Other('Q') => {
                while let Some(c) = self.rest.next() {
                    if c == '\\' && self.eat('E') {
                        break;
                    }
                    self.literal(c);
                }
            }
            Escape::Other(c @ ('b' | 'B')) => self.out.push_str(&format!("(?-u:\\{c})")),
            Escape::Other(c) => self.out.push_str(&format!("\\{c}")),
        }
        Ok(())
    }

    fn escape(&mut self) -> Result<Escape, String> {
        let Some(c) = self.rest.next() else {
            return Err("trailing backslash at end of expression".to_owned());
        };
        let class = |inside: &str, negated| Ok(Escape::Class { inside: inside.to_owned(), negated });
        Ok(match c {
            'd' | 'D' => return class("0-9", c == 'D'),
            's' | 'S' => return class("\\t\\n\\f\\r ", c == 'S'),
            'w' | 'W' => return class("0-9A-Za-z_", c == 'W'),
            'p' | 'P' => return self.script(c == 'P'),
            'A' | 'z' | 'b' | 'B' | 'Q' => Escape::Other(c),
            'a' => Escape::Char('\x07'),
            'f' => Escape::Char('\x0c'),
            'n' => Escape::Char('\n'),
            'r' => Escape::Char('\r'),
            't' => Escape::Char('\t'),
            'v' => Escape::Char('\x0b'),
            'x' => Escape::Char(self.hexadecimal()?),
            '0'..='7' => Escape::Char(self.octal(c)?),
            c if c.is_ascii_punctuation() || c.is_ascii_whitespace() || c.is_ascii_control() => {
                Escape::Char(c)
            }
            c => return Err(format!("invalid escape sequence: `\\{c}`")),
        })
    }

    /// `\pN`, `\p{Greek}` or `\p{^Greek}`, of which the letter is read.
    fn script(&mut self, negated: bool) -> Result<Escape, String> {
        let unknown = || "invalid character class range: `\\p`".to_owned();
        let first = self.rest.next().ok_or_else(unknown)?;
        let mut negated = negated;
        let name = if first == '{' {
            negated ^= self.eat('^');
            let name: String = self.rest.by_ref().take_while(|c| *c != '}').collect();
            name
        } else {
            first.to_string()
        };
        if !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(unknown());
        }
        Ok(Escape::Class { inside: format!("\\p{{{name}}}"), negated })
    }

    /// `\x7f` or `\x{10ffff}`, of which the letter is read.
    fn hexadecimal(&mut self) -> Result<char, String> {
        let digits: String = if self.eat('{') {
            self.rest.by_ref().take_while(|c| *c != '}').collect()
        } else {
            self.rest.by_ref().take(2).collect()
        };
        let good = digits.bytes().all(|b| b.is_ascii_hexdigit());
        let value = u32::from_str_radix(&digits, 16).ok().filter(|_| good).and_then(char::from_u32);
        value.ok_or_else(|| format!("invalid escape sequence: `\\x{digits}`"))
    }

    /// Up to three octal digits, of which the first is read; one that is not zero would stand for a group.
    fn octal(&mut self, first: char) -> Result<char, String> {
        let mut digits = String::from(first);
        while digits.len() < 3
            && let Some(digit) = self.rest.next_if(|c| ('0'..='7').contains(c))
        {
            digits.push(digit);
        }
        let value = u32::from_str_radix(&digits, 8).ok().and_then(char::from_u32);
        value
            .filter(|_| first == '0' || digits.len() > 1)
            .ok_or_else(|| format!("invalid escape sequence: `\\{digits}`"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_mean_what_go_means() {
        for (pattern, yes, no) in [
            (r"^\w+$", "aZ_9", "é"),
            (r"^\d$", "7", "٣"),
            (r"^\s$", "\t", "\u{b}"),
            (r"^\S$", "\u{a0}", " "),
            (r"^\W$", "é", "e"),
            (r"^[^\W\d]$", "a", "1"),
            (r"\bé", "aé", "éa"),
            (r"^[\w.-]{1,63}$", "a-b.c", "a b"),
            (r"^[\w-.]+$", "a-.", "a+"),
            (r"^[[a]+$", "[a", "b"),
            (r"^[]a]$", "]", "b"),
            (r"^[^]a]$", "b", "]"),
            (r"^[a&&b]+$", "a&b", "c"),
            (r"^[!--]$", "*", "."),
            (r"^[[:alpha:][:^print:]]+$", "a\u{1}", "1"),
            (r"^[~~a]$", "~", "b"),
            (r"^.é$", "éé", "aaé"),
            (r"^a{,2}$", "a{,2}", "aa"),
            (r"^{a}$", "{a}", "a"),
            (r"^a{2,3}$", "aaa", "a"),
            (r"^\Qa.b\E.$", "a.bc", "axbc"),
            (r"^\<a\>$", "<a>", "a"),
            (r"^\x41\x{1F600}\060$", "A😀0", "A"),
            (r"^[^\0]$", "a", "\0"),
            (r"^\pL\p{^Greek}$", "αa", "aα"),
            (r"(?i)^ab(?-i)c$", "ABc", "ABC"),
            (r"^(?P<x>a)(?<y>b)(?:c)$", "abc", "ab"),
            (r"\Aa\z", "a", "a\n"),
        ] {
            let regex = compile(pattern).unwrap();
            assert!(regex.is_match(yes), "{pattern} {yes:?}");
            assert!(!regex.is_match(no), "{pattern} {no:?}");
        }
    }

    #[test]
    fn long_ones_are_taken_and_longer_ones_refused() {
        for good in [
            r"^\w{1,253}$",
            r"^[\w.-]{1,1000}$",
            r"^.{0,1000}$",
            "(a{10}){100}",
            "(a{100}|b{100}){10}",
            r"^\pL{1,63}$",
        ] {
            assert!(compile(good).is_ok(), "{good}: {:?}", compile(good));
        }
        for bad in
            ["a{1001}", "a{1,1001}", "a{1001,}", "a{99999999999}", "(a{11}){100}", "((a{2}){2}b{500}){3}"]
        {
            assert_eq!(
                compile(bad).unwrap_err().split('`').next(),
                Some("error parsing regexp: invalid repeat count: ")
            );
        }
        assert!(compile(&r"\pL{1000}".repeat(20)).is_err());
    }

    #[test]
    fn what_go_refuses_is_refused() {
        for bad in [
            "(",
            ")",
            "(a))",
            "[",
            "[a",
            "[b-a]",
            r"\",
            r"\8",
            r"\1",
            r"\é",
            r"\y",
            r"[\b]",
            "(?x)a",
            "(?u:a)",
            "(?=a)",
            "(?",
            "*",
            "[[:foo:]]",
            r"\p{Nothing}",
            r"\p",
            r"\x",
            r"\xg0",
            r"\x{110000}",
            r"[a-\d]",
            "a{3,2}",
        ] {
            assert!(compile(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in r"[\[\]\\(){}?*+^$|:<>Pai&~,0-9xpQE.é-]{0,24}") {
            let _ = compile(&text);
        }
    }
}
