//! The `filters` parameter of lists: `{"status":["running"]}`, or the older `{"status":{"running":true}}`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::error::{Result, invalid};

/// Parsed filters: every key must hold (AND), each by at least one of its values (OR).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Parses the query parameter; an empty one is no filter.
    pub fn parse(text: &str) -> Result<Filters> {
        if text.is_empty() {
            return Ok(Filters::default());
        }
        let bad = || invalid(format!("invalid filters: {text}"));
        let value: Value =
            serde_json::from_str(text).map_err(|e| invalid(format!("invalid filters: {e}")))?;
        let mut out = BTreeMap::new();
        for (key, values) in value.as_object().ok_or_else(bad)? {
            let values = match values {
                Value::Array(items) => items
                    .iter()
                    .map(|v| v.as_str().map(str::to_owned).ok_or_else(bad))
                    .collect::<Result<Vec<_>>>()?,
                Value::Object(map) => {
                    map.iter().filter(|(_, on)| **on != Value::Bool(false)).map(|(k, _)| k.clone()).collect()
                }
                Value::Null => Vec::new(),
                _ => return Err(bad()),
            };
            out.insert(key.clone(), values);
        }
        Ok(Filters(out))
    }

    /// Refuses keys that the list does not know.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.0.keys().find(|k| !known.contains(&k.as_str())) {
            Some(key) => Err(invalid(format!("invalid filter '{key}'"))),
            None => Ok(()),
        }
    }

    /// The values of `key`; empty when it isn't given.
    pub fn get(&self, key: &str) -> &[String] {
        self.0.get(key).map_or(&[], Vec::as_slice)
    }

    /// True if `key` is not given, or one of its values satisfies `test`.
    pub fn any(&self, key: &str, test: impl FnMut(&String) -> bool) -> bool {
        let values = self.get(key);
        values.is_empty() || values.iter().any(test)
    }

    /// True if `key` is not given or has exactly this value.
    pub fn exact(&self, key: &str, value: &str) -> bool {
        self.any(key, |v| v == value)
    }

    /// True if `key` is not given, or one of its values is this text, a beginning of it, or a regular expression that
    /// matches somewhere in it.
    pub fn matches(&self, key: &str, text: &str) -> bool {
        self.any(key, |v| {
            text.starts_with(v.as_str()) || regex::Regex::new(v).is_ok_and(|r| r.is_match(text))
        })
    }

    /// True if the labels satisfy every `label` filter (`key` or `key=value`) and no `label!` filter.
    pub fn labels(&self, labels: &crate::model::Map) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((k, v)) => labels.get(k).is_some_and(|have| have == v),
            None => labels.contains_key(wanted),
        };
        self.get("label").iter().all(has) && !self.get("label!").iter().any(has)
    }

    /// A boolean filter; an error for anything but true/1/false/0.
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        let mut out = None;
        for value in self.get(key) {
            let this = match value.as_str() {
                "true" | "1" | "True" | "TRUE" | "t" => true,
                "false" | "0" | "False" | "FALSE" | "f" => false,
                _ => return Err(invalid(format!("invalid filter '{key}={value}'"))),
            };
            if out.is_some_and(|o| o != this) {
                return Err(invalid(format!("conflicting values for filter '{key}'")));
            }
            out = Some(this);
        }
        Ok(out)
    }

    /// The same filters with another value of `key`.
    pub fn with(mut self, key: &str, value: &str) -> Filters {
        self.0.entry(key.to_owned()).or_default().push(value.to_owned());
        self
    }

    /// True if no filter is given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A point in time as the API takes it: seconds since the epoch (with a fraction), RFC 3339, or a duration
/// before now (`10m`).
pub fn timestamp(text: &str) -> Result<jiff::Timestamp> {
    let bad = || invalid(format!("failed to parse value as time or duration: \"{text}\""));
    if let Some((seconds, fraction)) = text.split_once('.')
        && let (Ok(s), true) = (seconds.parse::<i64>(), fraction.bytes().all(|b| b.is_ascii_digit()))
    {
        let nanos: String = format!("{fraction:0<9}").chars().take(9).collect();
        return jiff::Timestamp::new(s, nanos.parse().map_err(|_| bad())?).map_err(|_| bad());
    }
    if let Ok(seconds) = text.parse::<i64>() {
        return jiff::Timestamp::from_second(seconds).map_err(|_| bad());
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time);
    }
    for form in ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d"] {
        if let Ok(broken) = jiff::fmt::strtime::parse(form, text) {
            let when = broken
                .to_datetime()
                .or_else(|_| broken.to_date().map(|d| d.to_datetime(jiff::civil::Time::midnight())))
                .map_err(|_| bad())?;
            return Ok(when.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| bad())?.timestamp());
        }
    }
    let ago = duration(text).ok_or_else(bad)?;
    base::clock::now().checked_sub(ago).map_err(|_| bad())
}

/// Go's duration syntax: `1h30m`, `1.5s`, `100ms`.
pub fn duration(text: &str) -> Option<std::time::Duration> {
    let mut rest = text;
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    std::time::Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms() {
        let list = Filters::parse(r#"{"status":["running","paused"]}"#).unwrap();
        let map = Filters::parse(r#"{"status":{"running":true,"paused":true}}"#).unwrap();
        assert!(list.exact("status", "paused") && map.exact("status", "paused"));
        assert!(!list.exact("status", "dead"));
        assert!(list.exact("name", "x"), "a key that is not given holds");
        assert!(Filters::parse("{").is_err());
        assert!(Filters::parse(r#"{"a":1}"#).is_err());
        assert!(list.only(&["name"]).is_err());
        assert!(list.only(&["status"]).is_ok());
    }

    #[test]
    fn labels_must_all_hold() {
        let labels = crate::model::Map::from([("a".to_owned(), "1".to_owned())]);
        assert!(Filters::parse(r#"{"label":["a"]}"#).unwrap().labels(&labels));
        assert!(Filters::parse(r#"{"label":["a=1"]}"#).unwrap().labels(&labels));
        assert!(!Filters::parse(r#"{"label":["a=1","b"]}"#).unwrap().labels(&labels));
        assert!(!Filters::parse(r#"{"label!":["a"]}"#).unwrap().labels(&labels));
    }

    #[test]
    fn times() {
        assert_eq!(timestamp("1.5").unwrap().as_nanosecond(), 1_500_000_000);
        assert_eq!(timestamp("7").unwrap().as_second(), 7);
        assert_eq!(timestamp("1970-01-01T00:00:09Z").unwrap().as_second(), 9);
        assert_eq!(timestamp("1970-01-02").unwrap().as_second(), 86400);
        assert!(timestamp("x").is_err());
        assert_eq!(duration("1m30s").unwrap().as_secs(), 90);
        assert_eq!(duration("1.5h").unwrap().as_secs(), 5400);
        assert!(duration("5").is_none());
    }
}
