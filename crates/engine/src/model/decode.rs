//! Decoding as Go does it, which is what clients rely on: the names of fields are matched without regard to case
//! (docker-py sends `detachKeys`), `null` is as good as absent, and of several documents only the first may be there.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// Decodes a request; in the maps of objects or lists a `null` is an empty element.
pub fn decode<T: DeserializeOwned>(json: &[u8]) -> Result<T, String> {
    let mut documents = serde_json::Deserializer::from_slice(json).into_iter::<Value>();
    let mut value = match documents.next() {
        Some(first) => first.map_err(|e| e.to_string())?,
        None => return Err("EOF while parsing a value".into()),
    };
    if documents.next().is_some() {
        return Err("unexpected content after JSON".into());
    }
    without_nulls(&mut value, "");
    fields(value)
}

/// Decodes a value whose `null`s are gone already.
pub(super) fn fields<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    T::deserialize(Lenient(value)).map_err(|e| e.to_string())
}

/// A value whose structures take their fields by any spelling.
struct Lenient(Value);

impl<'de> IntoDeserializer<'de, serde_json::Error> for Lenient {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

impl<'de> Deserializer<'de> for Lenient {
    type Error = serde_json::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Object(map) => {
                visitor.visit_map(MapDeserializer::new(map.into_iter().map(|(k, v)| (k, Lenient(v)))))
            }
            Value::Array(items) => visitor.visit_seq(SeqDeserializer::new(items.into_iter().map(Lenient))),
            other => other.deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        mut self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        if let Value::Object(map) = &mut self.0 {
            let other: Vec<String> = map.keys().filter(|k| !fields.contains(&k.as_str())).cloned().collect();
            for key in other {
                if let Some(field) = fields.iter().find(|f| f.eq_ignore_ascii_case(&key))
                    && let Some(value) = map.remove(&key)
                {
                    // The exact spelling wins.
                    map.entry(*field).or_insert(value);
                }
            }
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Self::Error> {
        match self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Self::Error> {
        self.0.deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq
        tuple tuple_struct map identifier ignored_any
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{CreateBody, ExecConfig, UpdateBody};

    #[test]
    fn nulls_are_zero_values() {
        let body: CreateBody = decode(
            br#"{"Image":"b","Cmd":null,"Entrypoint":"sh","Env":null,"Volumes":{"/x":null},
                "HostConfig":{"Binds":null,"PortBindings":{"80/tcp":null},"RestartPolicy":{"Name":"","MaximumRetryCount":0}},
                "NetworkingConfig":{"EndpointsConfig":{"n":null}}}"#,
        )
        .unwrap();
        assert_eq!(body.config.entrypoint.unwrap().0, ["sh"]);
        assert!(body.config.volumes.contains_key("/x"));
        assert!(body.host_config.port_bindings["80/tcp"].is_empty());
        assert!(body.networking_config.endpoints_config.contains_key("n"));
        assert_eq!(body.host_config.restart_policy.name, "");
    }

    #[test]
    fn any_spelling_of_a_field() {
        let exec: ExecConfig = decode(br#"{"detachKeys":"ctrl-p","cmd":["x"],"Cmd":["y"]}"#).unwrap();
        assert_eq!((exec.detach_keys.as_str(), exec.cmd.0), ("ctrl-p", vec!["y".to_owned()]));
        let body: CreateBody = decode(
            br#"{"image":"b","labels":{"Key":"v"},"hostconfig":{"networkMode":"none","portbindings":{"80/tcp":[{"hostport":"1"}]}}}"#,
        )
        .unwrap();
        assert_eq!((body.config.image.as_str(), body.host_config.network_mode.as_str()), ("b", "none"));
        assert_eq!(body.config.labels["Key"], "v", "the keys of a map are not fields");
        assert_eq!(body.host_config.port_bindings["80/tcp"][0].host_port, "1");
    }

    #[test]
    fn what_is_refused() {
        assert!(decode::<UpdateBody>(b"").is_err());
        assert!(decode::<UpdateBody>(b"{} {}").unwrap_err().contains("unexpected content"));
        assert!(decode::<UpdateBody>(br#"{"Memory":"much"}"#).is_err());
        assert!(decode::<UpdateBody>(b"{}\n").is_ok());
    }
}
