//! A definition as it is stored, and what is read of it: the whole without its schemas, which are most of it, and the schema
//! of one version, which is compiled when something is first asked of it.

use std::fmt;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::{Structural, openapi};
use crate::Map;
use crate::field::{ErrorList, Path};

/// What [`outline`] reads as null.
const LEFT_OUT: [&str; 2] = ["openAPIV3Schema", "managedFields"];

/// A definition without its schemas and the owners of its fields, in whose place there are nulls.
pub fn outline(definition: &[u8]) -> Value {
    let mut from = serde_json::Deserializer::from_slice(definition);
    Outline.deserialize(&mut from).unwrap_or_default()
}

#[derive(Clone, Copy)]
struct Outline;

impl<'de> DeserializeSeed<'de> for Outline {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Outline {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = from.next_element_seed(self)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = from.next_key::<String>()? {
            let value = if LEFT_OUT.contains(&key.as_str()) {
                from.next_value::<IgnoredAny>()?;
                Value::Null
            } else {
                from.next_value_seed(self)?
            };
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// Of a definition, where its schemas are.
#[derive(Deserialize)]
struct Definition<'a> {
    #[serde(borrow)]
    spec: Spec<'a>,
}

#[derive(Deserialize)]
struct Spec<'a> {
    #[serde(borrow)]
    versions: Vec<Version<'a>>,
}

#[derive(Deserialize)]
struct Version<'a> {
    name: String,
    #[serde(borrow)]
    schema: Option<Schema<'a>>,
}

#[derive(Deserialize)]
struct Schema<'a> {
    #[serde(borrow, rename = "openAPIV3Schema")]
    given: Option<&'a RawValue>,
}

/// The schema of a served version. What is kept of one that nobody has used is the definition, which the cache keeps anyway.
pub struct VersionedSchema {
    definition: Mutex<Bytes>,
    version: Box<str>,
    told: fn(&ErrorList),
    compiled: OnceLock<Structural>,
}

impl fmt::Debug for VersionedSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("VersionedSchema").field(&self.version).finish()
    }
}

impl VersionedSchema {
    /// The schema that `definition`, as JSON, has for `version`. `told` hears, when it is compiled, what of it cannot be used.
    pub fn new(definition: Bytes, version: &str, told: fn(&ErrorList)) -> Self {
        Self { definition: Mutex::new(definition), version: version.into(), told, compiled: OnceLock::new() }
    }

    fn definition(&self) -> MutexGuard<'_, Bytes> {
        // What it guards is replaced as a whole: whoever panicked left it whole.
        self.definition.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same definition in another encoding: its status changes, and the bytes of before need not be kept for this.
    pub fn renew(&self, definition: Bytes) {
        *self.definition() = definition;
    }

    /// The schema as it was given.
    fn given(&self) -> Value {
        let bytes = self.definition().clone();
        let Ok(definition) = serde_json::from_slice::<Definition<'_>>(&bytes) else { return Value::Null };
        let version = definition.spec.versions.into_iter().find(|v| *v.name == *self.version);
        let given = version.and_then(|v| v.schema?.given).map(|raw| serde_json::from_str(raw.get()));
        given.and_then(Result::ok).unwrap_or_default()
    }

    /// Compiled.
    pub fn compiled(&self) -> &Structural {
        self.compiled.get_or_init(|| {
            let path = Path::new("spec").child("versions").key(&self.version);
            let path = path.child("schema").child("openAPIV3Schema");
            let (compiled, errors) = Structural::compile_taken(&self.given(), &path);
            if !errors.is_empty() {
                (self.told)(&errors);
            }
            compiled
        })
    }

    /// Whether anybody has asked for the compiled form.
    pub fn is_compiled(&self) -> bool {
        self.compiled.get().is_some()
    }

    /// Its OpenAPI form; see [`openapi`].
    pub fn openapi(&self, v3: bool) -> Value {
        openapi(self.given(), v3)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn definition() -> Value {
        let schema = |kind: &str| json!({"type": "object", "properties": {"spec": {"type": kind, "description": "openAPIV3Schema"}}});
        json!({"metadata": {"name": "foos.x", "generation": 3, "managedFields": [{"manager": "m"}]},
            "spec": {"versions": [
                {"name": "v1", "served": true, "schema": {"openAPIV3Schema": schema("string")}},
                {"name": "v2", "served": false, "schema": {"openAPIV3Schema": schema("integer")}},
                {"name": "v3", "ratio": 0.5, "served": null}]}})
    }

    #[test]
    fn an_outline_lacks_what_is_large() {
        let whole = definition();
        let mut want = whole.clone();
        want["metadata"]["managedFields"] = Value::Null;
        for i in 0..2 {
            want["spec"]["versions"][i]["schema"]["openAPIV3Schema"] = Value::Null;
        }
        assert_eq!(outline(whole.to_string().as_bytes()), want);
        assert_eq!(outline(b"{\"a\": "), Value::Null);
    }

    #[test]
    fn a_schema_is_compiled_when_it_is_asked() {
        let bytes = Bytes::from(definition().to_string());
        let silent: fn(&ErrorList) = |errors| assert!(errors.is_empty(), "{}", errors.message());
        let [v1, v2] = ["v1", "v2"].map(|v| VersionedSchema::new(bytes.clone(), v, silent));
        assert!(!v1.is_compiled());
        assert_eq!(v1.openapi(true)["properties"]["spec"]["type"], "string");
        assert!(!v1.is_compiled(), "documents are made of what was given");
        let (good, bad) = (json!({"spec": "a"}), json!({"spec": 1}));
        assert!(v1.compiled().validate(&good).is_empty() && !v1.compiled().validate(&bad).is_empty());
        assert!(!v2.compiled().validate(&good).is_empty() && v2.compiled().validate(&bad).is_empty());
        assert!(v1.is_compiled());
        // What it has none of keeps nothing of an object but what all have.
        let none = VersionedSchema::new(bytes, "v9", |_| ());
        none.renew(Bytes::from_static(b"{}"));
        assert_eq!(none.openapi(true), json!({"type": "object"}));
    }
}
