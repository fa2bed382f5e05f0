//! `format` of texts (cel-go's string extension): clauses `%s`, `%d`, `%f`, `%e`, `%b`, `%x`, `%X`, `%o` and `%%`, with the
//! precision of numbers as in `%.3f`. Numbers have the marks of American English.

use super::super::eval::{Fault, Meter, draw};
use super::super::value::{Val, hundredth, no_overload};
use super::convert;

/// Digits after the point where a clause says nothing.
const PRECISION: usize = 6;
/// The most that a clause may ask for.
const MOST: usize = 100;
/// The longest text that is made, in bytes.
const LONGEST: usize = 4 << 20;

/// The text with its clauses replaced by `args`. What it takes to make it is drawn while it is made, because a clause that
/// fails may follow long ones.
pub(super) fn format(text: &str, args: &[Val<'_>], meter: &mut Meter<'_>) -> Result<String, Fault> {
    let mut out = String::new();
    let (mut args, mut rest, mut used) = (args.iter(), text, 0);
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let mut precision = None;
        if let Some(after) = rest.strip_prefix('.') {
            let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            let wanted: usize = after[..digits].parse().map_err(|_| {
                "error while parsing formatting clause: unable to find end of precision specifier".to_owned()
            })?;
            if wanted > MOST {
                return Err(Fault::Error(format!(
                    "precision {wanted} is more than the {MOST} digits that are possible"
                )));
            }
            precision = Some(wanted);
            rest = &after[digits..];
        }
        let Some(verb) = rest.chars().next() else {
            return Err("unexpected end of string".to_owned().into());
        };
        rest = &rest[verb.len_utf8()..];
        let arg = args.next().ok_or_else(|| format!("index {used} out of range"))?;
        used += 1;
        let clause = clause(verb, precision, arg, meter).map_err(|fault| match fault {
            Fault::Error(why) => Fault::Error(format!("error during formatting: {why}")),
            Fault::Cost => Fault::Cost,
        })?;
        draw(meter.budget, hundredth(clause.len()))?;
        out.push_str(&clause);
        if out.len() > LONGEST {
            return Err("the result of format is too long".to_owned().into());
        }
    }
    out.push_str(rest);
    Ok(out)
}

fn clause(
    verb: char,
    precision: Option<usize>,
    arg: &Val<'_>,
    meter: &mut Meter<'_>,
) -> Result<String, Fault> {
    let refused = |what: &str| Err(Fault::Error(format!("{what}, was given {}", arg.type_name())));
    let double = || match arg {
        Val::Double(d) => Some(*d),
        Val::Text(s) if matches!(s.as_ref(), "NaN" | "Infinity" | "-Infinity") => s.parse().ok(),
        _ => None,
    };
    match (verb, arg) {
        ('s', _) => shown(arg, true, meter),
        ('d', Val::Int(i)) => Ok(i.to_string()),
        ('d', Val::Uint(u)) => Ok(u.to_string()),
        ('d', _) => refused("decimal clause can only be used on integers"),
        ('f', _) => match double() {
            Some(d) => Ok(fixed(d, precision.unwrap_or(PRECISION))),
            None => refused("fixed-point clause can only be used on doubles"),
        },
        ('e', _) => match double() {
            Some(d) => Ok(scientific(d, precision.unwrap_or(PRECISION))),
            None => refused("scientific clause can only be used on doubles"),
        },
        ('b', Val::Int(i)) => Ok(signed(*i, format!("{:b}", i.unsigned_abs()))),
        ('b', Val::Uint(u)) => Ok(format!("{u:b}")),
        ('b', Val::Bool(b)) => Ok(u8::from(*b).to_string()),
        ('b', _) => refused("only integers and bools can be formatted as binary"),
        ('o', Val::Int(i)) => Ok(signed(*i, format!("{:o}", i.unsigned_abs()))),
        ('o', Val::Uint(u)) => Ok(format!("{u:o}")),
        ('o', _) => refused("octal clause can only be used on integers"),
        ('x' | 'X', _) => {
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let text = match arg {
                Val::Int(i) => signed(*i, format!("{:x}", i.unsigned_abs())),
                Val::Uint(u) => format!("{u:x}"),
                Val::Text(s) => hex(s.as_bytes()),
                Val::Bytes(b) => hex(b),
                _ => return refused("only integers, byte buffers, and strings can be formatted as hex"),
            };
            Ok(if verb == 'X' { text.to_uppercase() } else { text })
        }
        _ => Err(Fault::Error(format!("unrecognized formatting clause \"{verb}\""))),
    }
}

fn signed(i: i64, digits: String) -> String {
    if i < 0 { format!("-{digits}") } else { digits }
}

/// A value as a text: by itself, or within a list or map, where it looks as in an expression. A value whose parts are the same
/// one may be endless to look at: each draws from the budget.
fn shown(value: &Val<'_>, alone: bool, meter: &mut Meter<'_>) -> Result<String, Fault> {
    let as_text = || match convert("string", value)? {
        Val::Text(s) => Ok(s.to_string()),
        _ => Err(no_overload("string")),
    };
    let text = match value {
        Val::Null => "null".into(),
        Val::Type(name) if alone => (*name).to_owned(),
        Val::List(_) | Val::Array(..) => {
            let items = value.items().unwrap_or_default();
            let items = items.iter().map(|v| shown(v, false, meter)).collect::<Result<Vec<_>, _>>()?;
            format!("[{}]", items.join(", "))
        }
        Val::Map(_) | Val::Object(..) => {
            let mut pairs = Vec::new();
            for key in value.range().into_iter().flatten() {
                let inner = value.index(&key)?.unwrap_or(Val::Null);
                pairs.push(format!("{}:{}", shown(&key, false, meter)?, shown(&inner, false, meter)?));
            }
            pairs.sort();
            format!("{{{}}}", pairs.join(", "))
        }
        Val::Text(s) if !alone => format!("{:?}", s.as_ref()),
        Val::Bytes(_) if !alone => format!("b{:?}", as_text()?),
        Val::Double(d) if !alone && d.is_finite() => format!("{d:.PRECISION$}"),
        Val::Double(d) if !alone => format!("{:?}", special(*d)),
        Val::Timestamp(_) if !alone => format!("timestamp({:?})", as_text()?),
        Val::Duration(_) if !alone => format!("duration({:?})", as_text()?),
        Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Bool(_) | Val::Text(_) | Val::Bytes(_) => {
            as_text()?
        }
        Val::Timestamp(_) | Val::Duration(_) => as_text()?,
        _ => {
            return Err(Fault::Error(format!(
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps, was given {}",
                value.type_name()
            )));
        }
    };
    draw(meter.budget, 1 + hundredth(text.len()))?;
    Ok(text)
}

fn special(d: f64) -> &'static str {
    match d {
        d if d.is_nan() => "NaN",
        d if d > 0.0 => "∞",
        _ => "-∞",
    }
}

fn fixed(d: f64, precision: usize) -> String {
    if !d.is_finite() {
        return special(d).into();
    }
    let text = format!("{:.precision$}", d.abs());
    let (whole, rest) = text.split_once('.').map_or((text.as_str(), None), |(w, r)| (w, Some(r)));
    let mut out = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0 && (whole.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    if let Some(rest) = rest {
        out.push('.');
        out.push_str(rest);
    }
    if d.is_sign_negative() { format!("-{out}") } else { out }
}

/// `1.052033 × 10⁰³`, with narrow no-break spaces.
fn scientific(d: f64, precision: usize) -> String {
    if !d.is_finite() {
        return special(d).into();
    }
    let text = format!("{d:.precision$e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(("", exponent), |rest| ("⁻", rest));
    const RAISED: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    let raised = format!("{exponent:0>2}")
        .chars()
        .filter_map(|c| c.to_digit(10))
        .map(|d| RAISED[d as usize])
        .collect::<String>();
    format!("{digits}\u{202f}\u{d7}\u{202f}10{sign}{raised}")
}
