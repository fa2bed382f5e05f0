//! An API object as the watch cache holds it: encoded once, decoded at most once, immutable, shared by reference.
//!
//! The store assigns an object's revision when it has written the object's bytes, so the bytes in the store carry no
//! `metadata.resourceVersion`; [`Object::from_stored`] splices it in at a known place instead of encoding again.

use std::sync::{Arc, OnceLock};

use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Error, Key, Map, Result};

/// An immutable API object. See the module's documentation.
#[derive(Debug)]
pub struct Object {
    json: OnceLock<Bytes>,
    value: OnceLock<Value>,
    head: OnceLock<Head>,
}

/// The few fields that caches and selectors ask every object for, kept without decoding the rest.
#[derive(Debug, Clone, Default)]
struct Head {
    api_version: Box<str>,
    kind: Box<str>,
    name: Box<str>,
    namespace: Box<str>,
    uid: Box<str>,
    revision: u64,
    labels: Labels,
    deleting: bool,
}

static NULL: Value = Value::Null;

impl Object {
    /// Shares a decoded object. Its JSON is made when first asked for.
    pub fn from_value(value: Value) -> Arc<Object> {
        let cell = OnceLock::new();
        let _ = cell.set(value);
        Arc::new(Object { json: OnceLock::new(), value: cell, head: OnceLock::new() })
    }

    /// Shares an encoded object: a JSON object with `metadata`. Only its head is decoded now.
    pub fn from_json(json: Bytes) -> Result<Arc<Object>> {
        let head = Head::parse(&json)?;
        Ok(Self::with_head(json, head))
    }

    /// The object that `stored` (made by [`encode_for_store`]) is at store revision `revision`.
    pub fn from_stored(stored: &[u8], revision: u64) -> Result<Arc<Object>> {
        let json = splice_revision(stored, revision)?;
        let mut head = Head::parse(&json)?;
        head.revision = revision;
        Ok(Self::with_head(json, head))
    }

    /// As [`Object::from_stored`], where the writer still has the decoded form (without resourceVersion).
    pub fn from_written(stored: &[u8], mut value: Value, revision: u64) -> Result<Arc<Object>> {
        let json = splice_revision(stored, revision)?;
        set_revision(&mut value, revision);
        let head = OnceLock::from(Head::of(&value));
        let cell = OnceLock::from(value);
        Ok(Arc::new(Object { json: json.into(), value: cell, head }))
    }

    /// The same object without its decoded form, which takes ten times the memory of the encoded one.
    pub fn encoded_only(&self) -> Arc<Object> {
        Self::with_head(self.json().clone(), self.head().clone())
    }

    fn with_head(json: Bytes, head: Head) -> Arc<Object> {
        let cell = OnceLock::new();
        let _ = cell.set(head);
        Arc::new(Object { json: json.into(), value: OnceLock::new(), head: cell })
    }

    /// The JSON encoding.
    pub fn json(&self) -> &Bytes {
        self.json.get_or_init(|| Bytes::from(self.value.get().map(encode).unwrap_or_else(|| b"{}".to_vec())))
    }

    /// The decoded form, made when first asked for and shared from then on.
    pub fn value(&self) -> &Value {
        self.value.get_or_init(|| match self.json.get() {
            Some(json) => serde_json::from_slice(json).unwrap_or_default(),
            None => Value::Null,
        })
    }

    /// The decoded form as a type of the caller's.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(self.value())
            .map_err(|e| Error::Invalid(format!("{} {}: {e}", self.kind(), self.key())))
    }

    fn head(&self) -> &Head {
        self.head.get_or_init(|| match (self.value.get(), self.json.get()) {
            (Some(value), _) => Head::of(value),
            (None, Some(json)) => Head::parse(json).unwrap_or_default(),
            (None, None) => Head::default(),
        })
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.head().name
    }

    /// `metadata.namespace`, `""` if there is none.
    pub fn namespace(&self) -> &str {
        &self.head().namespace
    }

    /// `metadata.uid`, `""` if there is none.
    pub fn uid(&self) -> &str {
        &self.head().uid
    }

    /// `metadata.resourceVersion`, 0 if there is none.
    pub fn revision(&self) -> u64 {
        self.head().revision
    }

    /// `metadata.labels`.
    pub fn labels(&self) -> &Labels {
        &self.head().labels
    }

    /// Is `metadata.deletionTimestamp` set?
    pub fn is_deleting(&self) -> bool {
        self.head().deleting
    }

    /// `apiVersion`.
    pub fn api_version(&self) -> &str {
        &self.head().api_version
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        &self.head().kind
    }

    /// Namespace and name.
    pub fn key(&self) -> Key {
        Key::new(self.namespace(), self.name())
    }

    /// The value at `path` (field names), `Value::Null` where there is none.
    pub fn at(&self, path: &[&str]) -> &Value {
        let mut value = self.value();
        for part in path {
            value = value.get(part).unwrap_or(&NULL);
        }
        value
    }

    /// `spec`, or null.
    pub fn spec(&self) -> &Value {
        self.at(&["spec"])
    }

    /// `status`, or null.
    pub fn status(&self) -> &Value {
        self.at(&["status"])
    }

    /// `metadata.annotations[key]`.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.at(&["metadata", "annotations"]).get(key)?.as_str()
    }
}

impl Head {
    fn parse(json: &[u8]) -> Result<Head> {
        #[derive(Deserialize)]
        struct Outer<'a> {
            #[serde(borrow, default, rename = "apiVersion")]
            api_version: std::borrow::Cow<'a, str>,
            #[serde(borrow, default)]
            kind: std::borrow::Cow<'a, str>,
            #[serde(borrow, default)]
            metadata: Meta<'a>,
        }
        #[derive(Deserialize, Default)]
        struct Meta<'a> {
            #[serde(borrow, default)]
            name: std::borrow::Cow<'a, str>,
            #[serde(borrow, default)]
            namespace: std::borrow::Cow<'a, str>,
            #[serde(borrow, default)]
            uid: std::borrow::Cow<'a, str>,
            #[serde(borrow, default, rename = "resourceVersion")]
            revision: std::borrow::Cow<'a, str>,
            #[serde(default)]
            labels: Option<std::collections::BTreeMap<Box<str>, Option<Box<str>>>>,
            #[serde(default, rename = "deletionTimestamp")]
            deleted: Option<serde::de::IgnoredAny>,
        }
        let outer: Outer<'_> =
            serde_json::from_slice(json).map_err(|e| Error::Malformed(format!("not an API object: {e}")))?;
        let m = outer.metadata;
        let labels = m.labels.unwrap_or_default().into_iter().map(|(k, v)| (k, v.unwrap_or_default()));
        Ok(Head {
            api_version: outer.api_version.into(),
            kind: outer.kind.into(),
            name: m.name.into(),
            namespace: m.namespace.into(),
            uid: m.uid.into(),
            revision: m.revision.parse().unwrap_or(0),
            labels: Labels(labels.collect()),
            deleting: m.deleted.is_some(),
        })
    }

    fn of(value: &Value) -> Head {
        let metadata = &value["metadata"];
        let text = |v: &Value| -> Box<str> { v.as_str().unwrap_or_default().into() };
        let mut labels: Vec<(Box<str>, Box<str>)> = metadata["labels"]
            .as_object()
            .map(|m| m.iter().map(|(k, v)| (k.as_str().into(), text(v))).collect())
            .unwrap_or_default();
        labels.sort();
        Head {
            api_version: text(&value["apiVersion"]),
            kind: text(&value["kind"]),
            name: text(&metadata["name"]),
            namespace: text(&metadata["namespace"]),
            uid: text(&metadata["uid"]),
            revision: metadata["resourceVersion"].as_str().and_then(|s| s.parse().ok()).unwrap_or(0),
            labels: Labels(labels.into()),
            deleting: !metadata["deletionTimestamp"].is_null(),
        }
    }
}

/// An object's labels, sorted by key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

impl Labels {
    /// The value of a label.
    pub fn get(&self, key: &str) -> Option<&str> {
        let at = self.0.binary_search_by(|(k, _)| (**k).cmp(key)).ok()?;
        self.0.get(at).map(|(_, v)| &**v)
    }

    /// All labels by key.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(k, v)| (&**k, &**v))
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

const METADATA: &[u8] = b"\"metadata\":{";

/// Encodes an object for the store: `kind`, `apiVersion` and `metadata` come first, `metadata.resourceVersion` is left out.
pub fn encode_for_store(value: &Value) -> Bytes {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(b"{");
    let empty = Map::new();
    let object = value.as_object().unwrap_or(&empty);
    for key in ["kind", "apiVersion"] {
        if let Some(v) = object.get(key) {
            push_field(&mut out, key, v);
        }
    }
    if out.len() > 1 {
        out.push(b',');
    }
    out.extend_from_slice(METADATA);
    if let Some(metadata) = object.get("metadata").and_then(Value::as_object) {
        for (k, v) in metadata.iter().filter(|(k, _)| *k != "resourceVersion") {
            push_field(&mut out, k, v);
        }
    }
    out.push(b'}');
    for (k, v) in object {
        if !matches!(k.as_str(), "kind" | "apiVersion" | "metadata") {
            push_field(&mut out, k, v);
        }
    }
    out.push(b'}');
    Bytes::from(out)
}

fn push_field(out: &mut Vec<u8>, key: &str, value: &Value) {
    if !out.ends_with(b"{") {
        out.push(b',');
    }
    // Writing JSON into memory cannot fail: the keys of a Value are strings.
    let _ = serde_json::to_writer(&mut *out, key);
    out.push(b':');
    let _ = serde_json::to_writer(&mut *out, value);
}

/// JSON of a value. Cannot fail: the keys of a [`Value`] are strings.
pub fn encode(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

/// How many bytes [`encode`] makes of a value.
pub fn encoded_len(value: &Value) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    // Writing a value to what takes everything cannot fail.
    let _ = serde_json::to_writer(&mut counter, value);
    counter.0
}

/// Inserts `metadata.resourceVersion` into bytes made by [`encode_for_store`].
///
/// `kind` and `apiVersion`, the only things before it, cannot hold an unescaped quote, so the first
/// `"metadata":{` in the bytes is the object's own.
pub fn splice_revision(stored: &[u8], revision: u64) -> Result<Bytes> {
    let at = memchr::memmem::find(stored, METADATA)
        .ok_or_else(|| Error::Malformed("stored object without metadata".to_owned()))?
        + METADATA.len();
    let (before, after) = stored.split_at(at);
    let mut out = BytesMut::with_capacity(stored.len() + 44);
    out.extend_from_slice(before);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    out.extend_from_slice(itoa::Buffer::new().format(revision).as_bytes());
    out.extend_from_slice(if after.starts_with(b"}") { b"\"" } else { b"\"," });
    out.extend_from_slice(after);
    Ok(out.freeze())
}

/// Sets `metadata.resourceVersion` of a decoded object (0 removes it).
pub fn set_revision(value: &mut Value, revision: u64) {
    let Some(object) = value.as_object_mut() else { return };
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Some(metadata) = metadata.as_object_mut() {
        if revision == 0 {
            metadata.shift_remove("resourceVersion");
        } else {
            metadata.insert("resourceVersion".to_owned(), Value::String(revision.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn revision_is_spliced_where_a_reader_finds_it() {
        for value in [
            json!({"spec": {"metadata": {}}, "metadata": {"name": "a", "resourceVersion": "7"}, "apiVersion": "v1", "kind": "Pod"}),
            json!({"apiVersion": "v1", "kind": "\"metadata\":{", "metadata": {}}),
            json!({"metadata": {"labels": {"a": "b"}}}),
        ] {
            let stored = encode_for_store(&value);
            let object = Object::from_stored(&stored, 42).unwrap();
            let mut want = value.clone();
            set_revision(&mut want, 42);
            assert_eq!(object.value(), &want);
            assert_eq!(object.revision(), 42);
            assert_eq!(Object::from_written(&stored, value, 42).unwrap().json(), object.json());
        }
    }

    #[test]
    fn head_is_the_same_from_bytes_and_from_the_decoded_form() {
        let value = json!({"apiVersion": "apps/v1", "kind": "X", "metadata": {"name": "n", "namespace": "s", "uid": "u",
            "resourceVersion": "9", "labels": {"z": "1", "a": "2"}, "deletionTimestamp": "2020-01-01T00:00:00Z"}});
        let a = Object::from_value(value.clone());
        let b = Object::from_json(encode(&value).into()).unwrap();
        for o in [a, b] {
            assert_eq!((o.name(), o.namespace(), o.uid(), o.revision()), ("n", "s", "u", 9));
            assert_eq!(o.labels().iter().collect::<Vec<_>>(), [("a", "2"), ("z", "1")]);
            assert_eq!(o.labels().get("z"), Some("1"));
            assert!(o.is_deleting());
            assert_eq!((o.api_version(), o.kind()), ("apps/v1", "X"));
        }
        assert!(Object::from_json(Bytes::from_static(b"[1]")).is_err());
    }
}
