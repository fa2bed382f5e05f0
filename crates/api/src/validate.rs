//! Formats of names, labels, ports and addresses. Each function says why a text is none; nothing said means it is one.

use serde_json::Value;

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const LABEL_1035: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const ENV: &str =
    "a valid environment variable name must consist only of printable ASCII characters other than '='";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn lower(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn label_shape(text: &str) -> bool {
    let b = text.as_bytes();
    b.first().is_some_and(|c| lower(*c))
        && b.last().is_some_and(|c| lower(*c))
        && b.iter().all(|c| lower(*c) || *c == b'-')
}

/// RFC 1123 subdomain, at most 253 bytes.
pub fn dns_subdomain(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > 253 {
        why.push(too_long(253));
    }
    if !text.split('.').all(label_shape) {
        why.push(SUBDOMAIN.to_owned());
    }
    why
}

/// RFC 1123 label, at most 63 bytes.
pub fn dns_label(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > 63 {
        why.push(too_long(63));
    }
    if !label_shape(text) {
        why.push(LABEL.to_owned());
    }
    why
}

/// RFC 1035 label: as RFC 1123, starting with a letter.
pub fn dns_1035_label(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > 63 {
        why.push(too_long(63));
    }
    if !label_shape(text) || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
        why.push(LABEL_1035.to_owned());
    }
    why
}

/// A generateName may end in a dash, which a name may not.
fn of_prefix(text: &str, prefix: bool, check: fn(&str) -> Vec<String>) -> Vec<String> {
    match text.strip_suffix('-') {
        Some(stem) if prefix => check(&format!("{stem}a")),
        _ => check(text),
    }
}

/// An object name that is an RFC 1123 subdomain; `prefix`: a generateName.
pub fn dns_subdomain_name(text: &str, prefix: bool) -> Vec<String> {
    of_prefix(text, prefix, dns_subdomain)
}

/// An object name that is an RFC 1123 label.
pub fn dns_label_name(text: &str, prefix: bool) -> Vec<String> {
    of_prefix(text, prefix, dns_label)
}

/// An object name that is an RFC 1035 label.
pub fn dns_1035_name(text: &str, prefix: bool) -> Vec<String> {
    of_prefix(text, prefix, dns_1035_label)
}

/// An object name that need only fit into a URL path (RBAC objects).
pub fn path_segment_name(text: &str, prefix: bool) -> Vec<String> {
    if !prefix && text == "." {
        return vec!["may not be '.'".to_owned()];
    }
    if !prefix && text == ".." {
        return vec!["may not be '..'".to_owned()];
    }
    let mut why = Vec::new();
    for bad in ["/", "%"] {
        if text.contains(bad) {
            why.push(format!("may not contain '{bad}'"));
        }
    }
    why
}

fn name_shape(text: &str) -> bool {
    let b = text.as_bytes();
    b.first().is_some_and(u8::is_ascii_alphanumeric)
        && b.last().is_some_and(u8::is_ascii_alphanumeric)
        && b.iter().all(|c| c.is_ascii_alphanumeric() || b"-_.".contains(c))
}

/// A label key, annotation key, resource name: `[PREFIX/]NAME`.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    let mut parts = text.split('/');
    let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
    let name = match (second, third) {
        (None, _) => first,
        (Some(name), None) => {
            if first.is_empty() {
                why.push("prefix part must be non-empty".to_owned());
            } else {
                why.extend(dns_subdomain(first).into_iter().map(|w| format!("prefix part {w}")));
            }
            name
        }
        _ => {
            why.push("a qualified name must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]') with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')".to_owned());
            return why;
        }
    };
    if name.is_empty() {
        why.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        why.push(format!("name part {}", too_long(63)));
    }
    if !name_shape(name) {
        why.push(QUALIFIED.to_owned());
    }
    why
}

/// A label's value.
pub fn label_value(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > 63 {
        why.push(too_long(63));
    }
    if !text.is_empty() && !name_shape(text) {
        why.push(LABEL_VALUE.to_owned());
    }
    why
}

/// A port number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec![between(1, 65535)] }
}

/// `must be between LOW and HIGH, inclusive`
pub fn between(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A port's name (IANA service name).
pub fn port_name(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > 15 {
        why.push("must be no more than 15 characters".to_owned());
    }
    if !text.bytes().all(|c| lower(c) || c == b'-') {
        why.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|c| c.is_ascii_lowercase()) {
        why.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        why.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        why.push("must not begin or end with a hyphen".to_owned());
    }
    why
}

/// An IPv4 or IPv6 address.
pub fn ip(text: &str) -> Vec<String> {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
    }
}

/// An address without the digits before it that some programs take for octal numbers.
fn without_zeros(text: &str) -> Option<String> {
    let numbers = text.split('.').map(|n| n.parse::<u8>().ok().map(|n| n.to_string()));
    Some(numbers.collect::<Option<Vec<_>>>()?.join("."))
}

/// An address in a form that means the same everywhere: no zeros before its numbers, no IPv4 in the clothes of IPv6.
pub fn strict_ip(text: &str) -> Vec<String> {
    match text.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".to_owned()]
        }
        Ok(_) => Vec::new(),
        Err(_) if without_zeros(text).is_some_and(|t| t.parse::<std::net::IpAddr>().is_ok()) => {
            vec!["must not have leading 0s".to_owned()]
        }
        Err(_) => ip(text),
    }
}

/// An address in the one form that it is compared by.
pub fn canonical_ip(text: &str) -> Vec<String> {
    let wrong = strict_ip(text);
    if let Ok(ip) = text.parse::<std::net::IpAddr>()
        && wrong.is_empty()
        && ip.to_string() != text
    {
        return vec![format!("must be in canonical form (\"{ip}\")")];
    }
    wrong
}

/// A CIDR in a form that means the same everywhere: as [`strict_ip`], and nothing behind its prefix.
pub fn strict_cidr(text: &str) -> Vec<String> {
    let plain = |number: &str| number == "0" || !number.starts_with(['0', '+']);
    let why = match text.parse::<ipnet::IpNet>() {
        Ok(_) if !text.rsplit('/').next().is_some_and(plain) => {
            "must not have leading 0s in IP or prefix length"
        }
        Ok(ipnet::IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => {
            "must not have an IPv4-mapped IPv6 address"
        }
        Ok(net) if net.addr() != net.network() => "must not have bits set beyond the prefix length",
        Ok(_) => return Vec::new(),
        Err(_) => {
            let zeros = text.split_once('/').and_then(|(ip, length)| {
                format!("{}/{}", without_zeros(ip)?, length.parse::<u8>().ok()?).parse::<ipnet::IpNet>().ok()
            });
            if zeros.is_none() {
                return cidr(text);
            }
            "must not have leading 0s in IP or prefix length"
        }
    };
    vec![why.to_owned()]
}

/// A CIDR in the one form that it is compared by.
pub fn canonical_cidr(text: &str) -> Vec<String> {
    let wrong = strict_cidr(text);
    if let Ok(net) = text.parse::<ipnet::IpNet>()
        && wrong.is_empty()
        && net.to_string() != text
    {
        return vec![format!("must be in canonical form (\"{net}\")")];
    }
    wrong
}

/// An address that others can be reached at: not the machine's own, nor one that means something on a link alone. Whoever may
/// write such an address could have the API server, or a node, speak to itself for him.
pub fn non_special_ip(text: &str) -> Vec<String> {
    let Ok(ip) = text.parse::<std::net::IpAddr>() else { return self::ip(text) };
    let (link_local, link_multicast) = match ip.to_canonical() {
        std::net::IpAddr::V4(v4) => (v4.is_link_local(), v4.octets().starts_with(&[224, 0, 0])),
        std::net::IpAddr::V6(v6) => {
            (v6.is_unicast_link_local(), v6.is_multicast() && v6.segments()[0] & 0xf == 2)
        }
    };
    let canonical = ip.to_canonical();
    let why = if canonical.is_unspecified() {
        format!("may not be unspecified ({text})")
    } else if canonical.is_loopback() {
        "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()
    } else if link_local {
        "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()
    } else if link_multicast {
        "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()
    } else {
        return Vec::new();
    };
    vec![why]
}

/// The same of an address that may have zeros before its numbers, as those that were stored of old have.
pub fn endpoint_ip(text: &str) -> Vec<String> {
    let plain = without_zeros(text).unwrap_or_else(|| text.to_owned());
    if plain.parse::<std::net::IpAddr>().is_err() {
        return vec!["must be a valid IP address".to_owned()];
    }
    non_special_ip(&plain)
}

/// A CIDR.
pub fn cidr(text: &str) -> Vec<String> {
    match text.parse::<ipnet::IpNet>() {
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()],
    }
}

/// Name of an environment variable.
pub fn env_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|c| (b' '..=b'~').contains(&c) && c != b'=') {
        Vec::new()
    } else {
        vec![ENV.to_owned()]
    }
}

/// A key of a ConfigMap or Secret.
pub fn config_key(text: &str) -> Vec<String> {
    let mut why = Vec::new();
    if text.len() > 253 {
        why.push(too_long(253));
    }
    if text.is_empty() || !text.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c)) {
        why.push(CONFIG_KEY.to_owned());
    } else if text == "." {
        why.push("must not be '.'".to_owned());
    } else if text == ".." {
        why.push("must not be '..'".to_owned());
    } else if text.starts_with("..") {
        why.push("must not start with '..'".to_owned());
    }
    why
}

/// An absolute path without `..`.
pub fn path_without_backsteps(text: &str) -> Vec<String> {
    if text.split('/').any(|p| p == "..") { vec!["must not contain '..'".to_owned()] } else { Vec::new() }
}

/// Text of a value that should be a string.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (text, ok) in [
            ("a", true),
            ("a.b-c.d0", true),
            ("X_", false),
            ("", false),
            ("a..b", false),
            ("-a", false),
            ("a.", false),
        ] {
            assert_eq!(dns_subdomain(text).is_empty(), ok, "{text}");
        }
        for (text, ok) in [
            ("a", true),
            ("example.com/A_b", true),
            ("/a", false),
            ("a/", false),
            ("a/b/c", false),
            ("", false),
            ("A b", false),
        ] {
            assert_eq!(qualified_name(text).is_empty(), ok, "{text}");
        }
        for (text, ok) in [("", true), ("a_B.c", true), ("-a", false), ("a/b", false)] {
            assert_eq!(label_value(text).is_empty(), ok, "{text}");
        }
        for (text, ok) in
            [("http", true), ("8080", false), ("a--b", false), ("-a", false), ("averylongportname", false)]
        {
            assert_eq!(port_name(text).is_empty(), ok, "{text}");
        }
        assert!(dns_subdomain_name("a-", true).is_empty());
        assert!(!dns_subdomain_name("a-", false).is_empty());
        assert!(dns_1035_label("1a")[0].contains("DNS-1035"));
    }
}
