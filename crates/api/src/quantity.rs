//! `resource.Quantity`: fixed-point numbers with a suffix, such as `100m`, `1.5Gi`, `1e3`.

use std::cmp::Ordering;
use std::fmt;

use crate::{Error, Result};

/// How a quantity is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `1k`, `100m`
    Decimal,
    /// `1Ki`
    Binary,
    /// `1e3`
    Exponent,
}

/// A quantity: a whole number of nano-units. Compares by value.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

const NANO: i128 = 1_000_000_000;
const BINARY: [(&str, u32); 6] = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BAD: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

impl Quantity {
    /// A number of whole units.
    pub fn of(units: i64, format: Format) -> Quantity {
        Quantity { nanos: i128::from(units) * NANO, format }
    }

    /// A number of thousandths.
    pub fn of_milli(milli: i64) -> Quantity {
        Quantity { nanos: i128::from(milli) * 1_000_000, format: Format::Decimal }
    }

    /// Of its text. What is finer than a nano-unit is rounded up, what is larger than 2^63-1 is cut to it, as upstream does.
    pub fn parse(text: &str) -> Result<Quantity> {
        let bad = || Error::Invalid(BAD.to_owned());
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(bad());
        }
        let (format, shift, ten) = if let Some((_, bits)) = BINARY.iter().find(|(s, _)| *s == suffix) {
            (Format::Binary, *bits, 0)
        } else if let Some((_, ten)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
            (Format::Decimal, 0, *ten)
        } else if let Some(exponent) = suffix.strip_prefix(['e', 'E']) {
            (Format::Exponent, 0, exponent.parse::<i32>().map_err(|_| bad())?)
        } else {
            return Err(bad());
        };
        // value = digits * 10^power * 2^shift units
        let mut digits: i128 = 0;
        let behind = i32::try_from(fraction.len()).unwrap_or(i32::MAX).min(1000);
        let mut power = i32::saturating_add(ten, 9).saturating_sub(behind);
        let mut lost = false;
        for c in whole.bytes().chain(fraction.bytes().take(1000)) {
            match digits.checked_mul(10).and_then(|d| d.checked_add(i128::from(c - b'0'))) {
                Some(d) if d < 1 << 100 => digits = d,
                _ => {
                    lost |= c != b'0';
                    power = power.saturating_add(1);
                }
            }
        }
        let max = i128::from(i64::MAX) * NANO;
        let mut nanos = digits;
        let mut twos = shift;
        while power > 0 && nanos != 0 && nanos <= max {
            nanos *= 10;
            power -= 1;
        }
        while twos > 0 && nanos <= max && power >= 0 {
            nanos *= 2;
            twos -= 1;
        }
        if power < 0 {
            // Binary suffix and many digits: multiply as far as there is room before dividing.
            while twos > 0 && nanos < 1 << 110 {
                nanos *= 2;
                twos -= 1;
            }
            while power < 0 {
                lost |= nanos % 10 != 0;
                nanos /= 10;
                power += 1;
                if nanos == 0 {
                    break;
                }
            }
            while twos > 0 && nanos <= max {
                nanos *= 2;
                twos -= 1;
            }
            nanos += i128::from(lost);
        }
        nanos = nanos.min(max);
        Ok(Quantity { nanos: if negative { -nanos } else { nanos }, format })
    }

    /// Of a JSON value: a string or a number.
    pub fn of_value(value: &serde_json::Value) -> Result<Quantity> {
        match value {
            serde_json::Value::String(s) => Quantity::parse(s),
            serde_json::Value::Number(n) => Quantity::parse(&n.to_string()),
            _ => Err(Error::Invalid(BAD.to_owned())),
        }
    }

    /// Whole units, rounded up (away from zero).
    pub fn value(self) -> i64 {
        clamp(ceil(self.nanos, NANO))
    }

    /// Thousandths, rounded up.
    pub fn milli(self) -> i64 {
        clamp(ceil(self.nanos, 1_000_000))
    }

    /// As a floating point number of units.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// Nano-units.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// Is it zero?
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn signum(self) -> i32 {
        self.nanos.signum() as i32
    }

    /// The sum, in the format of `self` (of `other` if `self` is zero).
    pub fn plus(self, other: Quantity) -> Quantity {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference, in the format of `self`.
    pub fn minus(self, other: Quantity) -> Quantity {
        Quantity { nanos: self.nanos.saturating_sub(other.nanos), ..self }
    }

    /// How it is written.
    pub fn format(self) -> Format {
        self.format
    }
}

fn ceil(a: i128, b: i128) -> i128 {
    let q = a / b;
    if a % b == 0 { q } else { q + a.signum() }
}

fn clamp(v: i128) -> i64 {
    i64::try_from(v).unwrap_or(if v < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Quantity) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl fmt::Display for Quantity {
    /// The canonical form: the largest suffix that leaves a whole number.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let sign = if self.nanos < 0 { "-" } else { "" };
        let nanos = self.nanos.unsigned_abs();
        let nano = NANO.unsigned_abs();
        if self.format == Format::Binary && nanos.is_multiple_of(nano) && nanos / nano >= 1024 {
            let (mut n, mut suffix) = (nanos / nano, "");
            for (s, _) in BINARY {
                if !n.is_multiple_of(1024) {
                    break;
                }
                n /= 1024;
                suffix = s;
            }
            return write!(f, "{sign}{n}{suffix}");
        }
        let (mut n, mut power) = (nanos, -9);
        while n.is_multiple_of(1000) && power < 18 {
            n /= 1000;
            power += 3;
        }
        if self.format == Format::Exponent {
            return if power == 0 { write!(f, "{sign}{n}") } else { write!(f, "{sign}{n}e{power}") };
        }
        let suffix = DECIMAL.iter().find(|(_, p)| *p == power).map(|(s, _)| *s).unwrap_or_default();
        write!(f, "{sign}{n}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_canonical_forms() {
        for (text, milli, canonical) in [
            ("0", 0, "0"),
            ("100m", 100, "100m"),
            ("1", 1000, "1"),
            ("1.5", 1500, "1500m"),
            ("1000", 1_000_000, "1k"),
            ("1Ki", 1_024_000, "1Ki"),
            ("1.5Gi", 1_610_612_736_000, "1536Mi"),
            ("1024Mi", 1_073_741_824_000, "1Gi"),
            ("0.5Mi", 524_288_000, "512Ki"),
            ("1e3", 1_000_000, "1e3"),
            ("1E3", 1_000_000, "1e3"),
            ("5E", i64::MAX, "5E"),
            ("-1k", -1_000_000, "-1k"),
            (".5", 500, "500m"),
            ("1u", 1, "1u"),
            ("0.1Ki", 102_400, "102400m"),
        ] {
            let q = Quantity::parse(text).unwrap();
            assert_eq!(q.milli(), milli, "{text}");
            assert_eq!(q.to_string(), canonical, "{text}");
        }
        for text in ["", "a", "1x", "1 Gi", "--1", "1e", "1.2.3", ".", "1Kii", "1mi"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
        assert_eq!(Quantity::parse("999999999999999999999999").unwrap().value(), i64::MAX);
        assert_eq!(Quantity::parse("1e2147483647").unwrap().value(), i64::MAX);
        assert_eq!(Quantity::parse("-1.5e2147483647").unwrap().value(), -i64::MAX);
        assert_eq!(Quantity::parse("1.5e-2147483648").unwrap().nanos(), 1);
        assert!(Quantity::parse("1e2147483648").is_err());
        assert_eq!(Quantity::parse("1.0000000001n").unwrap().nanos(), 2);
        assert_eq!(Quantity::parse("9Ei").unwrap().value(), i64::MAX);
    }

    proptest::proptest! {
        #[test]
        fn canonical_form_has_the_same_value(n in -1_000_000i64..1_000_000, suffix in proptest::sample::select(vec!["n", "u", "m", "", "k", "M", "G", "Ki", "Mi", "Gi", "Ti", "e2", "e-3"])) {
            let q = Quantity::parse(&format!("{n}{suffix}")).unwrap();
            proptest::prop_assert_eq!(Quantity::parse(&q.to_string()).unwrap(), q);
        }

        #[test]
        fn parsing_never_panics(text in "[-+]?[0-9.]{0,60}[eEKMGTPinumk]{0,3}[-+]?[0-9]{0,12}") {
            let _ = Quantity::parse(&text);
        }
    }
}
