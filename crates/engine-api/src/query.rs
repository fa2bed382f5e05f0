//! Query parameters, read as Docker reads them.

use std::str::FromStr;

use engine::filters::Filters;
use percent_encoding::percent_decode_str;

use crate::{Error, Result};

/// The parameters of one request, in their order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Query(Vec<(String, String)>);

fn decode(text: &str) -> Result<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .map(|t| t.into_owned())
        .map_err(|_| Error::invalid(format!("invalid query: {text} is not UTF-8")))
}

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Result<Query> {
        let mut out = Vec::new();
        for pair in text.unwrap_or("").split('&').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            out.push((decode(key)?, decode(value)?));
        }
        Ok(Query(out))
    }

    /// The first value of a parameter, if it is given and not empty.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// Whether a parameter is given, even if empty.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(k, _)| k == key)
    }

    /// Every value of a parameter.
    pub(crate) fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(k, _)| k == key).map(|(_, v)| v.clone()).collect()
    }

    /// A boolean: anything but nothing, `0`, `no`, `false` and `none` is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.text(key).is_some_and(truth)
    }

    /// A boolean that is true if it is not given.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> bool {
        if self.has(key) { self.flag(key) } else { default }
    }

    /// A number; an error that names the parameter if it is none.
    pub(crate) fn number<T: FromStr>(&self, key: &str) -> Result<Option<T>> {
        let bad =
            |v: &str| Error::invalid(format!("invalid value for {key}: {v:?} is not a number in range"));
        self.text(key).map(|v| v.parse().map_err(|_| bad(v))).transpose()
    }

    /// The `filters` parameter.
    pub(crate) fn filters(&self) -> Result<Filters> {
        Ok(Filters::parse(self.text("filters").unwrap_or(""))?)
    }

    /// A point in time; `0` and nothing are none.
    pub(crate) fn time(&self, key: &str) -> Result<Option<jiff::Timestamp>> {
        match self.text(key) {
            None | Some("0") => Ok(None),
            Some(text) => Ok(Some(engine::filters::timestamp(text)?)),
        }
    }

    /// A JSON document in a parameter; the default if it is not given.
    pub(crate) fn json<T: serde::de::DeserializeOwned + Default>(&self, key: &str) -> Result<T> {
        match self.text(key) {
            None => Ok(T::default()),
            Some(text) => {
                serde_json::from_str(text).map_err(|e| Error::invalid(format!("invalid {key}: {e}")))
            }
        }
    }
}

fn truth(text: &str) -> bool {
    !matches!(text.trim().to_ascii_lowercase().as_str(), "" | "0" | "no" | "false" | "none")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses() {
        let q = Query::parse(Some("all=1&name=a%2Fb+c&t=10&x=no&names=a&names=b&e=")).unwrap();
        assert!(q.flag("all") && !q.flag("x") && !q.flag("missing") && q.has("e") && !q.flag("e"));
        assert_eq!(q.text("name"), Some("a/b c"));
        assert_eq!(q.number::<i64>("t").unwrap(), Some(10));
        assert!(q.number::<u8>("name").is_err());
        assert_eq!(q.all("names"), ["a", "b"]);
        assert!(q.flag_or("missing", true) && !q.flag_or("x", true));
        assert!(Query::parse(Some("a=%ff")).is_err());
    }
}
