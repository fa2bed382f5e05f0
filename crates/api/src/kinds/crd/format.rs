//! The formats of texts that schemas may ask for (`format`): those that upstream knows. Any other means nothing.

use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;

use crate::{duration, regexp, validate};

/// Whether a text is of a format. Dashes in a format's name count for nothing, as upstream has it.
pub(crate) fn fits(format: &str, text: &str) -> bool {
    let name = format.replace('-', "");
    FORMATS.iter().find(|(known, _)| *known == name).is_none_or(|(_, is)| is(text))
}

/// Whether it is a format that upstream knows.
pub(super) fn is_known(format: &str) -> bool {
    let name = format.replace('-', "");
    FORMATS.iter().any(|(known, _)| *known == name)
}

type Is = fn(&str) -> bool;

const FORMATS: &[(&str, Is)] = &[
    ("bsonobjectid", |s| s.len() == 24 && hexadecimal(s)),
    ("byte", is_base64),
    ("cidr", |s| s.parse::<ipnet::IpNet>().is_ok()),
    ("creditcard", is_credit_card),
    ("date", is_date),
    ("datetime", is_time),
    ("duration", is_duration),
    ("email", is_email),
    (
        "hexcolor",
        |s| matches!(s.strip_prefix('#').unwrap_or(s), c if matches!(c.len(), 3 | 6) && hexadecimal(c)),
    ),
    ("hostname", is_hostname),
    ("ipv4", |s| s.contains('.') && s.parse::<IpAddr>().is_ok()),
    ("ipv6", |s| s.contains(':') && s.parse::<IpAddr>().is_ok()),
    ("isbn", |s| is_isbn10(s) || is_isbn13(s)),
    ("isbn10", is_isbn10),
    ("isbn13", is_isbn13),
    ("k8slongname", |s| validate::dns_subdomain(s).is_empty()),
    ("k8sshortname", |s| validate::dns_label(s).is_empty()),
    ("mac", is_mac),
    ("password", |_| true),
    ("rgbcolor", is_rgb),
    ("ssn", |s| SOCIAL.as_ref().is_some_and(|r| r.is_match(s))),
    ("uri", is_uri),
    ("uuid", |s| is_uuid(s, None)),
    ("uuid3", |s| is_uuid(s, Some('3'))),
    ("uuid4", |s| is_uuid(s, Some('4'))),
    ("uuid5", |s| is_uuid(s, Some('5'))),
];

type Pattern = LazyLock<Option<Regex>>;
static SOCIAL: Pattern = LazyLock::new(|| regexp::compile(r"^\d{3}[ -]?\d\d[ -]?\d{4}$").ok());
static TIME: Pattern =
    LazyLock::new(|| regexp::compile(r"(?i)^([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(z|[+-]\d\d:\d\d)$").ok());
static AMOUNTS: Pattern = LazyLock::new(|| regexp::compile(r"^\s*(\d+\s*[A-Za-zµ]+\s*)+$").ok());
static AMOUNT: Pattern = LazyLock::new(|| regexp::compile(r"(\d+)\s*([A-Za-zµ]+)").ok());
static LETTER: Pattern = LazyLock::new(|| regexp::compile(r"^[\pL\pS]$").ok());
/// What the numbers of the issuers begin with, and how long they are.
static CARD: Pattern = LazyLock::new(|| {
    let issuers = [
        r"4\d{12}(\d{3})?",
        r"5[1-5]\d{14}",
        r"6(011|5\d\d)\d{12}",
        r"3[47]\d{13}",
        r"3(0[0-5]|[68]\d)\d{11}",
        r"(2131|1800|35\d{3})\d{11}",
    ];
    regexp::compile(&format!("^({})$", issuers.join("|"))).ok()
});

fn hexadecimal(s: &str) -> bool {
    s.bytes().all(|b| b.is_ascii_hexdigit())
}

fn digits(s: &str) -> bool {
    !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit())
}

/// Padded, and not empty.
fn is_base64(s: &str) -> bool {
    let text = s.strip_suffix("==").or_else(|| s.strip_suffix('=')).unwrap_or(s);
    !text.is_empty()
        && s.len().is_multiple_of(4)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

/// The full-date of RFC 3339.
fn is_date(s: &str) -> bool {
    s.len() == 10 && s.as_bytes().get(4) == Some(&b'-') && s.parse::<jiff::civil::Date>().is_ok()
}

/// The date-time of RFC 3339.
fn is_time(s: &str) -> bool {
    s.split_once(['T', 't'])
        .is_some_and(|(date, time)| is_date(date) && TIME.as_ref().is_some_and(|r| r.is_match(time)))
}

/// Go's form, or Scala's: `2 days 3 hours`.
fn is_duration(s: &str) -> bool {
    const UNITS: [&[&str]; 8] = [
        &["ns", "nano"],
        &["us", "µs", "micro"],
        &["ms", "milli"],
        &["s", "sec"],
        &["m", "min"],
        &["h", "hr", "hour"],
        &["d", "day"],
        &["w", "wk", "week"],
    ];
    if duration::parse(s).is_ok() {
        return true;
    }
    let (Some(whole), Some(part)) = (AMOUNTS.as_ref(), AMOUNT.as_ref()) else { return false };
    let known = |unit: &str| {
        let unit = unit.to_lowercase();
        // Whatever begins with the long name is one: `hours`.
        UNITS
            .iter()
            .any(|names| names.contains(&unit.as_str()) || names.last().is_some_and(|n| unit.starts_with(n)))
    };
    let parts = || part.captures_iter(s).map(|c| c.extract::<2>().1);
    whole.is_match(s)
        && parts().all(|[number, _]| number.parse::<i64>().is_ok())
        && parts().any(|[_, unit]| known(unit))
}

/// An address of RFC 5322, alone or behind a name: `Bob <bob@example.com>`.
fn is_email(s: &str) -> bool {
    let (name, address) = match s.trim().strip_suffix('>').map(|s| s.rsplit_once('<')) {
        Some(Some((name, address))) => (name.trim(), address),
        Some(None) => return false,
        None => ("", s.trim()),
    };
    let atom = |c: char| c.is_ascii_alphanumeric() || !c.is_ascii() || "!#$%&'*+-/=?^_`{|}~".contains(c);
    let atoms = |s: &str| s.split('.').all(|a| !a.is_empty() && a.chars().all(atom));
    let quoted = |s: &str| {
        let inside = s.strip_prefix('"').and_then(|s| s.strip_suffix('"'));
        let mut escaped = false;
        inside.is_some_and(|inside| {
            inside.chars().all(|c| {
                let good = escaped || c != '"';
                escaped = c == '\\' && !escaped;
                good && !c.is_control()
            }) && !escaped
        })
    };
    let named = quoted(name) || name.chars().all(|c| atom(c) || matches!(c, ' ' | '.'));
    let literal = |s: &str| {
        let inside = s.strip_prefix('[').and_then(|s| s.strip_suffix(']'));
        inside.is_some_and(|s| s.strip_prefix("IPv6:").unwrap_or(s).parse::<IpAddr>().is_ok())
    };
    let parts = address.rsplit_once('@');
    named && parts.is_some_and(|(user, host)| (atoms(user) || quoted(user)) && (atoms(host) || literal(host)))
}

/// Labels of letters, digits and symbols of any script, with dashes inside; the last of several has two characters at least.
fn is_hostname(s: &str) -> bool {
    let letter = |c: char| {
        c.is_ascii_alphanumeric() || LETTER.as_ref().is_some_and(|r| r.is_match(c.encode_utf8(&mut [0; 4])))
    };
    let label = |s: &str| {
        let ends = s.starts_with(letter) && s.ends_with(letter);
        ends && s.chars().count() <= 63 && s.chars().all(|c| c == '-' || letter(c))
    };
    // Of the last, and of one that is alone, no two dashes follow each other; upstream takes one dash in the latter.
    let few = |s: &str| s.len() <= 63 && !s.contains("--");
    s.len() <= 255
        && match s.rsplit_once('.') {
            None => label(s) && s.matches('-').count() <= 1,
            Some((rest, last)) => {
                rest.split('.').all(|part| part.len() <= 63 && label(part))
                    && label(last)
                    && few(last)
                    && last.chars().count() > 1
            }
        }
}

fn is_uuid(s: &str, version: Option<char>) -> bool {
    let mut plain = String::new();
    for (i, c) in s.chars().enumerate() {
        // Each dash may be left out, where it would be.
        match c {
            '-' if matches!(plain.len(), 8 | 12 | 16 | 20) && s.chars().nth(i + 1) != Some('-') => {}
            c if c.is_ascii_hexdigit() && plain.len() < 32 => plain.push(c),
            _ => return false,
        }
    }
    let variant =
        matches!(version, None | Some('3')) || plain.get(16..17).is_some_and(|v| "89abAB".contains(v));
    plain.len() == 32 && variant && version.is_none_or(|v| plain.chars().nth(12) == Some(v))
}

/// 6, 8 or 20 bytes, by Go's forms: `00:00:5e:00:53:01`, `00-00-5e-00-53-01`, `0000.5e00.5301`.
fn is_mac(s: &str) -> bool {
    let of = |separator: char, width: usize| {
        let mut count = 0;
        let good = s.split(separator).all(|part| {
            count += part.len() / 2;
            part.len() == width && hexadecimal(part)
        });
        good && matches!(count, 6 | 8 | 20)
    };
    of(':', 2) || of('-', 2) || of('.', 4)
}

/// `rgb(1, 2, 3)`
fn is_rgb(s: &str) -> bool {
    let inside = s.strip_prefix("rgb(").and_then(|s| s.strip_suffix(')'));
    let space = |c: char| c.is_ascii_whitespace();
    let value = |v: &str| {
        let v = v.trim_matches(space);
        digits(v) && (v == "0" || !v.starts_with('0')) && v.parse::<u8>().is_ok()
    };
    inside.is_some_and(|s| s.split(',').count() == 3 && s.split(',').all(value))
}

fn without_spaces_and_dashes(s: &str) -> String {
    s.chars().filter(|c| !c.is_ascii_whitespace() && *c != '-').collect()
}

fn is_isbn10(s: &str) -> bool {
    let s = without_spaces_and_dashes(s);
    let values =
        s.chars().enumerate().map(|(i, c)| if i == 9 && c == 'X' { Some(10) } else { c.to_digit(10) });
    let sum = (1..).zip(values).try_fold(0, |sum, (weight, value)| value.map(|v| sum + weight * v));
    s.len() == 10 && sum.is_some_and(|sum: u32| sum.is_multiple_of(11))
}

fn is_isbn13(s: &str) -> bool {
    let s = without_spaces_and_dashes(s);
    let weights = [1, 3].into_iter().cycle();
    let sum = weights.zip(s.chars()).try_fold(0, |sum, (weight, c)| c.to_digit(10).map(|v| sum + weight * v));
    s.len() == 13 && sum.is_some_and(|sum: u32| sum.is_multiple_of(10))
}

/// Whatever is not a digit may stand between the digits.
fn is_credit_card(s: &str) -> bool {
    let number: String = s.chars().filter(char::is_ascii_digit).collect();
    let values = number.chars().rev().filter_map(|c| c.to_digit(10)).enumerate();
    let sum: u32 = values
        .map(|(i, v)| match (i % 2, v) {
            (0, v) => v,
            (_, v) if v > 4 => 2 * v - 9,
            (_, v) => 2 * v,
        })
        .sum();
    CARD.as_ref().is_some_and(|r| r.is_match(&number)) && sum.is_multiple_of(10)
}

/// What a request may be for: an absolute URI, or an absolute path.
fn is_uri(s: &str) -> bool {
    if s.is_empty() || s.chars().any(|c| c.is_ascii_control()) {
        return false;
    }
    let scheme = |s: &str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic())
            && s.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    };
    let escaped = |s: &str| {
        s.split('%')
            .skip(1)
            .all(|rest| rest.get(..2).is_some_and(|code| code.len() == 2 && hexadecimal(code)))
    };
    let (absolute, rest) = match s.split_once(':') {
        Some((before, rest)) if scheme(before) => (true, rest),
        _ => (false, s),
    };
    let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
    if !rest.starts_with('/') {
        return absolute || s == "*";
    }
    match rest.strip_prefix("//").filter(|_| absolute) {
        None => escaped(rest),
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            escaped(path) && escaped(authority) && is_authority(authority)
        }
    }
}

/// `user@host:port`, of which all but the host may be left out, and that be empty.
fn is_authority(s: &str) -> bool {
    let (user, host) = s.rsplit_once('@').unwrap_or(("", s));
    let known = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:%".contains(c);
    let port = |p: &str| p.is_empty() || digits(p);
    let host = match host.strip_prefix('[') {
        Some(literal) => literal.split_once(']').is_some_and(|(address, after)| {
            let address = address.split_once('%').map_or(address, |(address, _)| address);
            !address.is_empty() && (after.is_empty() || after.strip_prefix(':').is_some_and(port))
        }),
        None => {
            let good = |c: char| known(c) || !c.is_ascii() || "[]<>\"".contains(c);
            host.chars().all(good) && host.rsplit_once(':').is_none_or(|(_, p)| port(p))
        }
    };
    host && user.chars().all(|c| known(c) || c == '@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_of_a_format_and_what_is_not() {
        for (format, good, bad) in [
            (
                "bsonobjectid",
                &["507f1f77bcf86cd799439011"][..],
                &["507f1f77bcf86cd79943901", "g07f1f77bcf86cd799439011"][..],
            ),
            ("byte", &["aGk=", "aQ==", "aGkh"], &["", "aGk", "a===", "a GkA"]),
            ("cidr", &["10.0.0.0/8", "fd00::/8"], &["10.0.0.0", "10.0.0.0/33"]),
            ("creditcard", &["4111 1111-1111 1111", "378282246310005"], &["4111111111111112", "1", ""]),
            ("date", &["2024-02-29"], &["2023-02-29", "20240229", "2024-02-29T00:00:00Z"]),
            (
                "date-time",
                &["2024-02-29T23:59:59.5Z", "2024-02-29t00:00:00+01:00"],
                &["2024-02-29", "2024-02-29T24:00:00Z"],
            ),
            ("datetime", &["2024-02-29T23:59:59Z"], &["2024-02-29 23:59:59Z"]),
            (
                "duration",
                &["1h30m", "2 days", "3 weeks 1 hr", "0"],
                &["", "1", "1 parsec", "99999999999999999999 s"],
            ),
            (
                "email",
                &["a@b", "Bob <bob.x@example.com>", "\"a b\"@c", "<a@b>"],
                &["", "a", "a@", "@b", "a b@c", "a@b>", "a..b@c", "a@b c"],
            ),
            ("hexcolor", &["#fff", "A0b1C2"], &["#ffff", "#ggg", "##fff"]),
            (
                "hostname",
                &["a", "a-b", "a.bc", "exämple.com", "1.a-b--c.example", "☃.net"],
                &["", "a.b", "-a", "a_b", "a..bc", "a.bc."],
            ),
            ("ipv4", &["1.2.3.4"], &["1.2.3", "01.2.3.4", "::1"]),
            ("ipv6", &["::1"], &["1.2.3.4", ":::"]),
            (
                "isbn",
                &["0-306-40615-2", "978-0-306-40615-7", "080442957X"],
                &["0-306-40615-3", "978-0-306-40615-8", "X80442957X"],
            ),
            (
                "mac",
                &["00:00:5e:00:53:01", "00-00-5e-00-53-01", "0000.5e00.5301"],
                &["00:00:5e:00:53", "0:0:5e:0:53:1", "00:00-5e:00:53:01"],
            ),
            ("rgbcolor", &["rgb(0, 255,1)"], &["rgb(0,0)", "rgb(256,0,0)", "rgb(00,0,0)", "0,0,0"]),
            ("ssn", &["123-45-6789", "123456789"], &["12-345-6789"]),
            (
                "uri",
                &["http://a.b/c?d=%", "/a/b", "mailto:a", "https://u:p@[::1]:80/", "http://a/b c"],
                &["", "a", "a/b", "http://a b/", "http://a:b/", "/%zz", "://a", "http://a/\u{1}"],
            ),
            (
                "uuid",
                &["A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc999c0b4ef8bb6d6bb9bd380a11"],
                &[
                    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1",
                    "a0eebc999-c0b-4ef8-bb6d-6bb9bd380a11",
                    "a0eebc99--9c0b4ef8bb6d6bb9bd380a11",
                    "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
                ],
            ),
            ("uuid3", &["a0eebc99-9c0b-3ef8-0b6d-6bb9bd380a11"], &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
            ("uuid4", &["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"], &["a0eebc99-9c0b-4ef8-0b6d-6bb9bd380a11"]),
            ("uuid5", &["a0eebc99-9c0b-5ef8-8b6d-6bb9bd380a11"], &["a0eebc99-9c0b-4ef8-8b6d-6bb9bd380a11"]),
            ("k8s-short-name", &["a-b"], &["a.b", "A"]),
            ("k8s-long-name", &["a.b"], &["A.b"]),
            ("anything", &["", "else"], &[]),
        ] {
            for text in good {
                assert!(fits(format, text), "{format}: {text:?}");
            }
            for text in bad {
                assert!(!fits(format, text), "{format}: not {text:?}");
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(text in "[-a-f0-9:.@/%<>\"\\\\X é\\[\\]]{0,40}") {
            for (name, _) in FORMATS {
                let _ = fits(name, &text);
            }
        }
    }
}
