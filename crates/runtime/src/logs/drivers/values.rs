//! Options' values, read as Go's libraries read them.

use std::time::Duration;

/// `strconv.ParseBool`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// `10k`, `1.5m`, `2g`, with or without `b`: thousands (`units.FromHumanSize`).
pub fn decimal_size(text: &str) -> Result<u64, String> {
    size(text, 1000.0)
}

/// As [`decimal_size`], but multiples of 1024 (`units.RAMInBytes`).
pub fn binary_size(text: &str) -> Result<u64, String> {
    size(text, 1024.0)
}

fn size(text: &str, base: f64) -> Result<u64, String> {
    let bad = || format!("invalid size: '{text}'");
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..at].parse().map_err(|_| bad())?;
    let unit = text[at..].trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let unit = unit.strip_suffix('i').unwrap_or(unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(format!("invalid suffix: '{}'", text[at..].trim())),
    };
    Ok((number * base.powi(power)) as u64)
}

/// `time.ParseDuration`, without signs.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("time: invalid duration {text:?}");
    let mut rest = text;
    let mut total = Duration::ZERO;
    if rest == "0" {
        return Ok(total);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let part = Duration::try_from_secs_f64(number * unit).map_err(|_| bad())?;
        total = total.checked_add(part).ok_or_else(bad)?;
        rest = &rest[end..];
    }
    Ok(total)
}

/// An address with a scheme.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub scheme: String,
    /// With the port, if there is one.
    pub host: String,
    pub path: String,
}

impl Url {
    /// `scheme://host:port/path`; without a scheme it is the empty one.
    pub(super) fn parse(text: &str) -> Url {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Url { scheme: scheme.to_ascii_lowercase(), host: host.into(), path: path.into() }
    }

    /// Host and port, where a port is given.
    pub(super) fn host_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.host.rsplit_once(':')?;
        let port = port.parse().ok()?;
        match host.strip_prefix('[') {
            Some(v6) => Some((v6.strip_suffix(']')?, port)),
            None if host.contains(':') => None,
            None => Some((host, port)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        assert_eq!(decimal_size("10m"), Ok(10_000_000));
        assert_eq!(binary_size("1.5k"), Ok(1536));
        assert_eq!(binary_size("4MiB"), Ok(4 << 20));
        assert!(decimal_size("m").is_err() && decimal_size("1x").is_err() && decimal_size("-1").is_err());
        assert_eq!(duration("1m1.5s"), Ok(Duration::from_millis(61_500)));
        assert!(duration("5").is_err() && duration("").is_err());
        assert!(duration("18000000000000000000s18000000000000000000s").is_err());
        let url = Url::parse("tcp+tls://[::1]:6514");
        assert_eq!((url.scheme.as_str(), url.host_port()), ("tcp+tls", Some(("::1", 6514))));
        assert_eq!(Url::parse("unix:///a/b").path, "/a/b");
        assert_eq!(Url::parse("udp://h").host_port(), None);
    }
}
