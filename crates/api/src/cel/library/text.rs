//! Functions on texts, and regular expressions.

use std::cell::RefCell;
use std::collections::VecDeque;

use regex::Regex;

use super::super::eval::{Fault, Meter, draw};
use super::super::value::{Val, hundredth};
use super::{Answer, overload};
use crate::pattern::Room;
use crate::regexp::MAX_SIZE;

/// How many bytes of it cost one step to make.
const BYTES_PER_STEP: usize = 64;
/// How many steps it takes to make what is matched by one: four characters of a pattern, as its price is by its text, are this
/// large or smaller unless they count.
const STEPS_PER_MATCH: u64 = 16;
/// How many patterns an evaluation has at hand, and a thread for the evaluations that follow.
const KEPT: usize = 16;

/// The patterns that were used last, with what they cost to make.
pub(in crate::cel) type Recent = VecDeque<(String, Regex, u64)>;

fn find(recent: &Recent, pattern: &str) -> Option<(Regex, u64)> {
    recent.iter().find(|(text, ..)| text == pattern).map(|(_, regex, price)| (regex.clone(), *price))
}

fn keep(recent: &mut Recent, pattern: &str, regex: &Regex, price: u64) {
    recent.truncate(KEPT - 1);
    recent.push_front((pattern.to_owned(), regex.clone(), price));
}

/// A compiled pattern, and what it cost to make. The last few are kept, because a rule asks for the same one again and again. Each evaluation pays
/// for those that it has not used just now, even where another has left them: what it may cost does not depend on what
/// ran before.
pub(super) fn regex(pattern: &str, meter: &mut Meter<'_>) -> Result<(Regex, u64), Fault> {
    thread_local!(static RECENT: RefCell<Recent> = const { RefCell::new(VecDeque::new()) });
    if let Some(found) = find(&meter.patterns, pattern) {
        return Ok(found);
    }
    let (regex, price) = RECENT.with_borrow_mut(|recent| match find(recent, pattern) {
        Some((regex, price)) => (Ok(regex), price),
        None => {
            let mut room = Room { left: MAX_SIZE, most: MAX_SIZE };
            let built = room.compile(pattern);
            let price = ((MAX_SIZE - room.left) / BYTES_PER_STEP) as u64;
            if let Ok(regex) = &built {
                keep(recent, pattern, regex, price);
            }
            (built, price)
        }
    });
    draw(meter.budget, price)?;
    let regex = regex?;
    keep(&mut meter.patterns, pattern, &regex, price);
    Ok((regex, price))
}

/// The functions that match a text with a pattern.
pub(super) fn matched<'a>(
    name: &str,
    s: &str,
    pattern: &str,
    most: Option<i64>,
    meter: &mut Meter<'_>,
) -> Result<Val<'a>, Fault> {
    let (regex, price) = regex(pattern, meter)?;
    // What is counted is written once and compiled many times: that each character may meet all of it, its text does not tell.
    let written = (pattern.len() as u64).div_ceil(4);
    let more = (price / STEPS_PER_MATCH).saturating_sub(written);
    draw(meter.budget, (s.len() as u64 + 1).div_ceil(10).saturating_mul(more))?;
    Ok(match name {
        "matches" => Val::Bool(regex.is_match(s)),
        "find" => Val::text(regex.find(s).map_or("", |m| m.as_str())),
        _ => {
            let most = most.map_or(usize::MAX, |n| usize::try_from(n).unwrap_or(usize::MAX));
            let mut found = Vec::new();
            for m in regex.find_iter(s).take(most) {
                // To find the next one all that is left may have to be looked at.
                draw(meter.budget, 1 + hundredth(s.len() - m.start()))?;
                found.push(Val::text(m.as_str()));
            }
            Val::list(found)
        }
    })
}

/// The byte offset of a character.
pub(super) fn offset(s: &str, at: i64) -> Option<usize> {
    let at = usize::try_from(at).ok()?;
    s.char_indices().map(|(i, _)| i).chain([s.len()]).nth(at)
}

pub(super) fn characters(s: &str, bytes: Option<usize>) -> i64 {
    bytes.map_or(-1, |b| i64::try_from(s[..b].chars().count()).unwrap_or(-1))
}

pub(super) fn out_of_range(at: i64) -> String {
    format!("index out of range: {at}")
}

pub(super) fn text<'a>(name: &str, s: &str, args: &[Val<'a>]) -> Answer<'a> {
    Ok(match (name, args) {
        ("contains", [Val::Text(x)]) => Val::Bool(s.contains(x.as_ref())),
        ("startsWith", [Val::Text(x)]) => Val::Bool(s.starts_with(x.as_ref())),
        ("endsWith", [Val::Text(x)]) => Val::Bool(s.ends_with(x.as_ref())),
        ("charAt", [Val::Int(at)]) => {
            let from = offset(s, *at).ok_or_else(|| out_of_range(*at))?;
            Val::text(s[from..].chars().next().map(String::from).unwrap_or_default())
        }
        ("indexOf", [Val::Text(x)]) => Val::Int(characters(s, s.find(x.as_ref()))),
        ("indexOf", [Val::Text(x), Val::Int(at)]) => {
            let from = offset(s, *at).ok_or_else(|| out_of_range(*at))?;
            Val::Int(characters(s, s[from..].find(x.as_ref()).map(|i| i + from)))
        }
        ("lastIndexOf", [Val::Text(x)]) => Val::Int(characters(s, s.rfind(x.as_ref()))),
        ("lastIndexOf", [Val::Text(x), Val::Int(at)]) => {
            let from = offset(s, *at).ok_or_else(|| out_of_range(*at))?;
            let found = s.match_indices(x.as_ref()).map(|(i, _)| i).take_while(|i| *i <= from).last();
            Val::Int(characters(s, found))
        }
        ("lowerAscii", []) => Val::text(s.to_ascii_lowercase()),
        ("upperAscii", []) => Val::text(s.to_ascii_uppercase()),
        ("trim", []) => Val::text(s.trim()),
        ("reverse", []) => Val::text(s.chars().rev().collect::<String>()),
        ("replace", [Val::Text(from), Val::Text(to)]) => replaced(s, from, to, usize::MAX)?,
        ("replace", [Val::Text(from), Val::Text(to), Val::Int(n)]) => {
            replaced(s, from, to, usize::try_from(*n).unwrap_or(usize::MAX))?
        }
        ("split", [Val::Text(by)]) => Val::list(split(s, by).map(Val::text).collect()),
        ("split", [Val::Text(by), Val::Int(n)]) => match *n {
            0 => Val::list(Vec::new()),
            n => {
                let n = usize::try_from(n).unwrap_or(usize::MAX);
                let parts: Vec<&str> = if by.is_empty() {
                    split(s, by).take(n).collect()
                } else {
                    s.splitn(n, by.as_ref()).collect()
                };
                Val::list(parts.into_iter().map(Val::text).collect())
            }
        },
        ("substring", [Val::Int(from)]) => {
            let from = offset(s, *from).ok_or_else(|| out_of_range(*from))?;
            Val::text(&s[from..])
        }
        ("substring", [Val::Int(from), Val::Int(to)]) => {
            let start = offset(s, *from).ok_or_else(|| out_of_range(*from))?;
            let end = offset(s, *to).ok_or_else(|| out_of_range(*to))?;
            if start > end {
                return Err(format!("invalid substring range. start: {from}, end: {to}"));
            }
            Val::text(&s[start..end])
        }
        _ => return overload(name),
    })
}

pub(super) fn split<'s>(s: &'s str, by: &'s str) -> Box<dyn Iterator<Item = &'s str> + 's> {
    if by.is_empty() {
        return Box::new(s.char_indices().map(|(i, c)| &s[i..i + c.len_utf8()]));
    }
    Box::new(s.split(by))
}

/// A replacement may be much longer than what it was made from.
pub(super) fn replaced<'a>(s: &str, from: &str, to: &str, n: usize) -> Answer<'a> {
    let times = if from.is_empty() { s.chars().count() + 1 } else { s.matches(from).count() }.min(n);
    if times.saturating_mul(to.len()).saturating_add(s.len()) > 4 << 20 {
        return Err("the result of replace is too long".into());
    }
    Ok(Val::text(s.replacen(from, to, n)))
}
