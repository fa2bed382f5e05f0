//! The documents of the Docker Engine API that are kept: a container's configuration, its host configuration,
//! networks and volumes. Field names are the API's. Decoding is as lenient as Go's: `null` is the zero value.

mod config;
mod host;
mod net;

pub use config::*;
pub use host::*;
pub use net::*;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// A set written as a JSON object with empty objects as values, as Go's `map[string]struct{}` is.
pub type Set = indexmap::IndexMap<String, Empty>;
/// Labels and other string maps.
pub type Map = std::collections::BTreeMap<String, String>;

/// `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Decodes a request as Go does: `null` is as good as absent; in the maps of objects or lists a `null`
/// is an empty element.
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    let mut value: Value = serde_json::from_slice(json).map_err(|e| e.to_string())?;
    without_nulls(&mut value, "");
    serde_json::from_value(value).map_err(|e| e.to_string())
}

fn without_nulls(value: &mut Value, key: &str) {
    match value {
        Value::Object(map) => {
            let replacement = match key {
                "PortBindings" => Some(Value::Array(Vec::new())),
                "EndpointsConfig" | "Volumes" | "ExposedPorts" => Some(Value::Object(Default::default())),
                "Labels" | "Options" | "DriverOpts" | "Tmpfs" | "Sysctls" => {
                    Some(Value::String(String::new()))
                }
                _ => None,
            };
            match replacement {
                Some(with) => map.values_mut().filter(|v| v.is_null()).for_each(|v| *v = with.clone()),
                None => map.retain(|_, v| !v.is_null()),
            }
            for (k, v) in map.iter_mut() {
                without_nulls(v, k);
            }
        }
        Value::Array(items) => {
            items.retain(|v| !v.is_null());
            items.iter_mut().for_each(|v| without_nulls(v, ""));
        }
        _ => {}
    }
}

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
    fn nulls_are_zero_values() {
        let body: CreateBody = decode(
            br#"{"Image":"b","Cmd":null,"Entrypoint":"sh","Env":null,"Volumes":{"/x":null},
                "HostConfig":{"Binds":null,"PortBindings":{"80/tcp":null},"RestartPolicy":{"Name":"","MaximumRetryCount":0}},
                "NetworkingConfig":{"EndpointsConfig":{"n":null}}}"#,
        )
        .unwrap();
        assert_eq!(body.config.entrypoint.0, ["sh"]);
        assert!(body.config.volumes.contains_key("/x"));
        assert!(body.host_config.port_bindings["80/tcp"].is_empty());
        assert!(body.networking_config.endpoints_config.contains_key("n"));
        assert_eq!(body.host_config.restart_policy.name, "");
    }

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
