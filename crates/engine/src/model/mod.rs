//! The documents of the Docker Engine API that are kept: a container's configuration, its host configuration,
//! networks and volumes. Field names are the API's. Decoding is as lenient as Go's: see [`decode`].

mod config;
mod decode;
mod host;
mod net;

pub use config::*;
pub use decode::decode;
pub use host::*;
pub use net::*;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A set written as a JSON object with empty objects as values, as Go's `map[string]struct{}` is.
pub type Set = indexmap::IndexMap<String, Empty>;
/// Labels and other string maps.
pub type Map = std::collections::BTreeMap<String, String>;

/// `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// A command: a list of words, or one word written as a plain string.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words(pub Vec<String>);

impl std::ops::Deref for Words {
    type Target = Vec<String>;
    fn deref(&self) -> &Vec<String> {
        &self.0
    }
}

impl From<Vec<String>> for Words {
    fn from(words: Vec<String>) -> Self {
        Words(words)
    }
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        nullable(&self.0, s)
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Many(Vec<String>),
            One(String),
            Nothing(()),
        }
        Ok(match Either::deserialize(d)? {
            Either::Many(words) => Words(words),
            Either::One(word) => Words(vec![word]),
            Either::Nothing(()) => Words(Vec::new()),
        })
    }
}

/// Writes an empty list or map as `null`, as Go writes a nil slice.
pub(crate) fn nullable<T: Serialize + Clone, S: Serializer>(items: &T, s: S) -> Result<S::Ok, S::Error>
where
    for<'a> &'a T: IntoIterator,
{
    if items.into_iter().next().is_none() { s.serialize_none() } else { items.serialize(s) }
}

/// Accepts `null` for a default value (what we wrote ourselves by [`nullable`] is read back through this).
pub(crate) fn null_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let config = Config { cmd: vec!["a".to_owned()].into(), ..Config::default() };
        let text = serde_json::to_string(&config).unwrap();
        assert!(text.contains("\"Entrypoint\":null"), "{text}");
        assert_eq!(serde_json::from_str::<Config>(&text).unwrap(), config);
        let host = HostConfig::default();
        assert_eq!(serde_json::from_str::<HostConfig>(&serde_json::to_string(&host).unwrap()).unwrap(), host);
    }
}
