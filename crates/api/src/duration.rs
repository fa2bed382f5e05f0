//! Durations: Go's text form (`1h30m`), and the short human form of the AGE column.

use jiff::Timestamp;

use crate::{Error, Result};

/// Parses Go's form: `300ms`, `-1.5h`, `2h45m`. Nanoseconds.
pub fn parse(text: &str) -> Result<i128> {
    let bad = || Error::Invalid(format!("time: invalid duration {}", crate::field::quote(text)));
    let (sign, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(bad());
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(bad()),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 18 || fraction.contains('.') {
            return Err(bad());
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| bad())? };
        total = total.saturating_add(whole.saturating_mul(unit));
        let mut scale = unit;
        for digit in fraction.bytes() {
            scale /= 10;
            total = total.saturating_add(i128::from(digit - b'0') * scale);
        }
        rest = tail;
    }
    if total > i128::from(i64::MAX) {
        return Err(bad());
    }
    Ok(sign * total)
}

/// How long ago `then` was, as the AGE column shows it; `<unknown>` for none.
pub fn age(then: Option<Timestamp>, now: Timestamp) -> String {
    match then {
        None => "<unknown>".to_owned(),
        Some(then) => human(now.as_second() - then.as_second()),
    }
}

/// The human form of a number of seconds: two units at most, and only where they say something.
pub fn human(seconds: i64) -> String {
    let s = seconds;
    if s < -1 {
        return "<invalid>".to_owned();
    }
    if s < 0 {
        return "0s".to_owned();
    }
    let (minutes, hours, days, years) = (s / 60, s / 3600, s / 86400, s / (86400 * 365));
    let two = |a: i64, ua: &str, b: i64, ub: &str| {
        if b == 0 { format!("{a}{ua}") } else { format!("{a}{ua}{b}{ub}") }
    };
    if s < 120 {
        format!("{s}s")
    } else if minutes < 10 {
        two(minutes, "m", s % 60, "s")
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, "h", minutes % 60, "m")
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 192 {
        two(days, "d", hours % 24, "h")
    } else if days < 365 * 2 {
        format!("{days}d")
    } else if days < 365 * 8 {
        two(years, "y", days % 365, "d")
    } else {
        format!("{years}y")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn human_forms_are_kubectl_s() {
        for (s, want) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (599, "9m59s"),
            (600, "10m"),
            (10799, "179m"),
            (10800, "3h"),
            (10860, "3h1m"),
            (28799, "7h59m"),
            (28800, "8h"),
            (172799, "47h"),
            (172800, "2d"),
            (176400, "2d1h"),
            (691200, "8d"),
            (63072000, "2y"),
            (63158400, "2y1d"),
        ] {
            assert_eq!(human(s), want, "{s}");
        }
    }

    #[test]
    fn go_durations() {
        assert_eq!(parse("1h30m").unwrap(), 5_400_000_000_000);
        assert_eq!(parse("-1.5s").unwrap(), -1_500_000_000);
        assert_eq!(parse("0").unwrap(), 0);
        for text in ["", "1", "s", "1x", "1.2.3s", "99999999999999h"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
