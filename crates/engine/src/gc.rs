//! What daemon.json says of the collection of the build cache: Docker's key `builder.gc`.

use serde::Deserialize;
use serde_json::Value;

use crate::settings::size;

/// `builder`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Builder {
    /// `gc`
    pub gc: Gc,
    /// What builds may ask for; each build's client says so itself.
    pub entitlements: std::collections::BTreeMap<String, bool>,
}

/// `builder.gc`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Gc {
    /// Whether anything is collected.
    pub enabled: bool,
    /// Bytes that the cache keeps; older name of `default_reserved_space`.
    #[serde(deserialize_with = "size")]
    pub default_keep_storage: u64,
    /// Bytes that the cache keeps.
    #[serde(deserialize_with = "size")]
    pub default_reserved_space: u64,
    /// Bytes that it may have.
    #[serde(deserialize_with = "size")]
    pub default_max_used_space: u64,
    /// Bytes that must be free on the disk.
    #[serde(deserialize_with = "size")]
    pub default_min_free_space: u64,
    /// Rules of the user's own, instead of the usual ones.
    pub policy: Vec<Policy>,
}

impl Default for Gc {
    fn default() -> Self {
        Self {
            enabled: true,
            default_keep_storage: 0,
            default_reserved_space: 0,
            default_max_used_space: 0,
            default_min_free_space: 0,
            policy: Vec::new(),
        }
    }
}

/// One member of `builder.gc.policy`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Also what images have too.
    pub all: bool,
    /// Older name of `reserved_space`.
    #[serde(deserialize_with = "size")]
    pub keep_storage: u64,
    /// Bytes that the cache keeps.
    #[serde(deserialize_with = "size")]
    pub reserved_space: u64,
    /// Bytes that it may have.
    #[serde(deserialize_with = "size")]
    pub max_used_space: u64,
    /// Bytes that must be free on the disk.
    #[serde(deserialize_with = "size")]
    pub min_free_space: u64,
    /// `unused-for=48h`, `type=exec.cachemount`: a list, or an object of lists.
    #[serde(deserialize_with = "filter")]
    pub filter: Vec<String>,
}

/// A rule, in bytes and seconds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Also what images have too.
    pub all: bool,
    /// `type==exec.cachemount`
    pub filters: Vec<String>,
    /// Only what was not used for so long.
    pub unused_for: i64,
    /// What the cache keeps.
    pub reserved: u64,
    /// What it may have; zero is no limit beside the reserve.
    pub most: u64,
    /// What must be free on the disk; zero is none.
    pub free: u64,
}

fn filter<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    use serde::de::Error as _;
    let texts = |list: Vec<Value>| -> Result<Vec<String>, D::Error> {
        list.into_iter()
            .map(|v| v.as_str().map(ToOwned::to_owned).ok_or_else(|| D::Error::custom("a filter is a text")))
            .collect()
    };
    match Value::deserialize(from)? {
        Value::Null => Ok(Vec::new()),
        Value::String(one) => Ok(vec![one]),
        Value::Array(list) => texts(list),
        Value::Object(map) => {
            let mut all = Vec::new();
            for (key, list) in map {
                let Value::Array(list) = list else {
                    return Err(D::Error::custom(format!("filter {key}: expected a list")));
                };
                all.extend(texts(list)?.into_iter().map(|value| format!("{key}={value}")));
            }
            Ok(all)
        }
        other => Err(D::Error::custom(format!("invalid filter: {other}"))),
    }
}

impl Policy {
    fn rule(&self) -> Result<Rule, String> {
        let mut rule = Rule {
            all: self.all,
            reserved: self.reserved_space.max(self.keep_storage),
            most: self.max_used_space,
            free: self.min_free_space,
            ..Rule::default()
        };
        for text in &self.filter {
            match text.split_once('=').map(|(k, v)| (k, v.trim_start_matches('='))) {
                Some(("unused-for" | "until", age)) => {
                    let age = crate::filters::duration(age)
                        .ok_or_else(|| format!("builder.gc.policy: invalid duration in filter {text:?}"))?;
                    rule.unused_for = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
                }
                Some(("id" | "type" | "description", _)) => rule.filters.push(text.clone()),
                Some(("inuse" | "shared" | "private" | "mutable" | "immutable", "true" | "")) => {
                    rule.filters.push(text.split('=').next().unwrap_or_default().to_owned());
                }
                None if ["inuse", "shared", "private", "mutable", "immutable"].contains(&text.as_str()) => {
                    rule.filters.push(text.clone());
                }
                _ => return Err(format!("builder.gc.policy: invalid filter {text:?}")),
            }
        }
        // All that a rule names must fit.
        if rule.filters.len() > 1 {
            rule.filters = vec![rule.filters.join(",")];
        }
        Ok(rule)
    }
}

impl Gc {
    /// Whether the rules can be understood.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.policy.iter().try_for_each(|p| p.rule().map(|_| ()))
    }

    /// The rules; none where nothing is said.
    pub fn rules(&self) -> Vec<Rule> {
        if !self.policy.is_empty() {
            return self.policy.iter().filter_map(|p| p.rule().ok()).collect();
        }
        let reserved = self.default_reserved_space.max(self.default_keep_storage);
        let (most, free) = (self.default_max_used_space, self.default_min_free_space);
        if reserved == 0 && most == 0 && free == 0 {
            return Vec::new();
        }
        let usual = Rule { reserved, most, free, ..Rule::default() };
        vec![
            // Mounted caches that nobody wanted for two days keep half a gigabyte; results two months old go first.
            Rule {
                filters: vec!["type==exec.cachemount".into()],
                unused_for: 48 * 3600,
                reserved: reserved.min(512 << 20),
                ..Rule::default()
            },
            Rule { unused_for: 60 * 24 * 3600, ..usual.clone() },
            usual.clone(),
            Rule { all: true, ..usual },
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_in_dockers_documentation() {
        let text = r#"{"enabled": true, "defaultKeepStorage": "10GB", "policy": [
            {"keepStorage": "10GB", "filter": ["unused-for=2200h"]},
            {"reservedSpace": "1GB", "maxUsedSpace": "5GB", "filter": {"type": ["exec.cachemount"]}},
            {"keepStorage": "100GB", "all": true}]}"#;
        let gc: Gc = serde_json::from_str(text).unwrap();
        let rules = gc.rules();
        assert_eq!((rules[0].unused_for, rules[0].reserved), (2200 * 3600, 10 << 30));
        assert_eq!(
            (rules[1].filters.as_slice(), rules[1].most),
            (&["type=exec.cachemount".to_owned()][..], 5 << 30)
        );
        assert!(rules[2].all && gc.check().is_ok());
        let gc: Gc = serde_json::from_str(r#"{"defaultKeepStorage": "20GB"}"#).unwrap();
        assert!(gc.enabled && gc.rules().len() == 4 && gc.rules()[2].reserved == 20 << 30);
        assert!(Gc::default().rules().is_empty());
        let gc: Gc = serde_json::from_str(r#"{"policy": [{"filter": ["unused-for=soon"]}]}"#).unwrap();
        assert!(gc.check().unwrap_err().contains("unused-for=soon"));
        assert!(serde_json::from_str::<Gc>(r#"{"keep": 1}"#).is_err());
    }
}
