//! Image references: parsing, normal form (`docker.io/library/app:latest`) and familiar form (`app:latest`).
//!
//! The grammar and the texts of its errors are those of the Docker distribution project, on which the command
//! line and its users rely. This module is pure: it knows no store.

use std::fmt;

use crate::error::{Error, Result};

/// The registry meant when a reference names none.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag meant when a reference names neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
const OFFICIAL: &str = "library/";
const INVALID: &str = "invalid reference format";

/// A parsed, normalised reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    /// `docker.io`, `localhost:5000`, ...
    pub domain: String,
    /// The repository's path inside the registry: `library/app`.
    pub path: String,
    /// The tag, if one was given.
    pub tag: Option<String>,
    /// The digest (`sha256:...`), if one was given.
    pub digest: Option<String>,
}

impl Reference {
    /// `docker.io/library/app`: the repository in normal form.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// `app`: the repository as people write it.
    pub fn familiar_name(&self) -> String {
        familiar_name(&self.domain, &self.path)
    }

    /// `app:1`, `app@sha256:...`: the reference as people write it.
    pub fn familiar(&self) -> String {
        let mut s = self.familiar_name();
        self.push_suffix(&mut s);
        s
    }

    /// The same reference with `:latest` if it has neither tag nor digest.
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.into());
        }
        self
    }

    /// The reference without its digest, tagged; `None` if it has a digest only.
    pub fn tagged(&self) -> Option<Reference> {
        match (&self.tag, &self.digest) {
            (None, Some(_)) => None,
            _ => Some(Reference { digest: None, ..self.clone() }.with_default_tag()),
        }
    }

    /// The same repository, by digest.
    pub fn with_digest(&self, digest: &str) -> Reference {
        Reference { tag: None, digest: Some(digest.into()), ..self.clone() }
    }

    fn push_suffix(&self, s: &mut String) {
        if let Some(tag) = &self.tag {
            s.push(':');
            s.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            s.push('@');
            s.push_str(digest);
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut s = self.name();
        self.push_suffix(&mut s);
        f.write_str(&s)
    }
}

impl std::str::FromStr for Reference {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        parse(s)
    }
}

/// Parses what a person wrote and normalises it; no tag is added.
pub fn parse(text: &str) -> Result<Reference> {
    let invalid = || Error::Invalid(INVALID.into());
    if text.is_empty() {
        return Err(invalid());
    }
    if is_id(text) {
        return Err(Error::Invalid(format!(
            "invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
        )));
    }
    let (domain, rest) = split_domain(text);
    let (rest, digest) = match rest.split_once('@') {
        Some((rest, digest)) => (rest.to_string(), Some(digest)),
        None => (rest, None),
    };
    let (path, tag) = match rest.split_once(':') {
        Some((path, tag)) => (path.to_string(), Some(tag)),
        None => (rest, None),
    };
    if path.chars().any(char::is_uppercase) {
        return Err(Error::Invalid(format!("{INVALID}: repository name ({path}) must be lowercase")));
    }
    if !is_domain(&domain) || !path.split('/').all(is_component) {
        return Err(invalid());
    }
    if tag.is_some_and(|t| !is_tag(t)) || digest.is_some_and(|d| !is_digest_form(d)) {
        return Err(invalid());
    }
    if path.len() > 255 {
        return Err(Error::Invalid("repository name must not be more than 255 characters".into()));
    }
    if let Some(d) = digest {
        check_digest(d)?;
    }
    Ok(Reference { domain, path, tag: tag.map(Into::into), digest: digest.map(Into::into) })
}

/// `parse`, then `:latest` where neither tag nor digest was given.
pub fn parse_tagged(text: &str) -> Result<Reference> {
    Ok(parse(text)?.with_default_tag())
}

/// The familiar form of a repository.
pub fn familiar_name(domain: &str, path: &str) -> String {
    let short = match (domain, path.strip_prefix(OFFICIAL)) {
        (DEFAULT_DOMAIN, Some(short)) if !short.contains('/') => short,
        (DEFAULT_DOMAIN, _) => path,
        _ => return format!("{domain}/{path}"),
    };
    // What would be read as something else stays as it is.
    let other = split_domain(short) != (domain.to_string(), path.to_string()) || is_id(short);
    if other { format!("{domain}/{path}") } else { short.into() }
}

/// Whether `s` has the form of a whole id without its algorithm.
fn is_id(s: &str) -> bool {
    s.len() == 64 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether `s` is a well-formed tag: at most 128 letters, digits, `_`, `.`, `-`, not starting with the last two.
pub fn is_tag(s: &str) -> bool {
    let b = s.as_bytes();
    (1..=128).contains(&b.len())
        && (b[0].is_ascii_alphanumeric() || b[0] == b'_')
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-'))
}

/// Whether `s` is a repository path: lower-case components joined by `/`.
pub fn is_repository(s: &str) -> bool {
    s.len() <= 255 && s.split('/').all(is_component)
}

/// Whether `s` is a digest that we can verify: `sha256:` with 64 or `sha512:` with 128 hexadecimal digits.
pub fn is_digest(s: &str) -> bool {
    check_digest(s).is_ok()
}

fn check_digest(s: &str) -> Result<()> {
    let Some((algorithm, hex)) = s.split_once(':') else {
        return Err(Error::Invalid("invalid checksum digest format".into()));
    };
    let want = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err(Error::Invalid("unsupported digest algorithm".into())),
    };
    if hex.len() != want {
        return Err(Error::Invalid("invalid checksum digest length".into()));
    }
    if !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return Err(Error::Invalid("invalid checksum digest format".into()));
    }
    Ok(())
}

fn is_digest_form(s: &str) -> bool {
    let Some((algorithm, hex)) = s.split_once(':') else { return false };
    let part = |p: &str| {
        p.as_bytes().first().is_some_and(u8::is_ascii_alphabetic)
            && p.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(part)
        && hex.len() >= 32
        && hex.bytes().all(|b| b.is_ascii_hexdigit())
}

fn split_domain(text: &str) -> (String, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !rest.contains('/') {
        return (domain.into(), format!("{OFFICIAL}{rest}"));
    }
    (domain.into(), rest.into())
}

/// `[a-z0-9]+` runs joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(s: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let b = s.as_bytes();
    let mut i = 0;
    loop {
        let start = i;
        while i < b.len() && alnum(b[i]) {
            i += 1;
        }
        if i == start {
            return false;
        }
        if i == b.len() {
            return true;
        }
        let separator = i;
        while i < b.len() && !alnum(b[i]) {
            i += 1;
        }
        let s = &b[separator..i];
        if !(s == b"." || s == b"_" || s == b"__" || s.iter().all(|&c| c == b'-')) {
            return false;
        }
    }
}

fn is_domain(s: &str) -> bool {
    let (host, port) = if let Some(rest) = s.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return false;
        }
        ("v6", port)
    } else {
        match s.find(':') {
            Some(i) => (&s[..i], &s[i..]),
            None => (s, ""),
        }
    };
    let label = |l: &str| {
        let b = l.as_bytes();
        !b.is_empty()
            && b[0] != b'-'
            && b[b.len() - 1] != b'-'
            && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
    };
    host.split('.').all(label)
        && (port.is_empty()
            || port.strip_prefix(':').is_some_and(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises() {
        for (text, full, familiar) in [
            ("app", "docker.io/library/app", "app"),
            ("app:1", "docker.io/library/app:1", "app:1"),
            ("a/b", "docker.io/a/b", "a/b"),
            ("index.docker.io/app", "docker.io/library/app", "app"),
            ("docker.io/library/app", "docker.io/library/app", "app"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
            ("docker.io/localhost/x", "docker.io/localhost/x", "docker.io/localhost/x"),
            ("docker.io/a.b/x", "docker.io/a.b/x", "docker.io/a.b/x"),
            ("[::1]:5000/a", "[::1]:5000/a", "[::1]:5000/a"),
            (
                "acc-1/demo.example/my/x:1.0.0",
                "docker.io/acc-1/demo.example/my/x:1.0.0",
                "acc-1/demo.example/my/x:1.0.0",
            ),
        ] {
            let r = parse(text).unwrap();
            assert_eq!((r.to_string().as_str(), r.familiar().as_str()), (full, familiar), "{text}");
        }
        let d = format!("app@sha256:{}", "a".repeat(64));
        assert_eq!(parse(&d).unwrap().familiar(), d);
        assert_eq!(parse_tagged("app").unwrap().familiar(), "app:latest");
    }

    #[test]
    fn refuses() {
        for (text, message) in [
            ("", "invalid reference format"),
            ("a:b:c", "invalid reference format"),
            ("a//b", "invalid reference format"),
            ("a_-b", "invalid reference format"),
            ("-a", "invalid reference format"),
            ("a:", "invalid reference format"),
            ("x/Upper:1", "invalid reference format: repository name (x/Upper) must be lowercase"),
            ("Upper", "invalid reference format: repository name (library/Upper) must be lowercase"),
            ("a@sha256:12", "invalid reference format"),
            ("a@md5:00000000000000000000000000000000", "unsupported digest algorithm"),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
        }
        assert!(parse(&"ab".repeat(32)).unwrap_err().to_string().contains("64-byte hexadecimal"));
    }

    proptest::proptest! {
        #[test]
        fn parses_anything_without_panicking(s in ".{0,80}") {
            if let Ok(r) = parse(&s) {
                proptest::prop_assert_eq!(parse(&r.to_string()).unwrap(), r);
            }
        }
    }
}
