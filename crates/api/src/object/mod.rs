//! API objects: encoded once, immutable, shared by reference; decoded only while somebody looks into them.
//!
//! Two forms of one thing. [`Encoded`] is what caches hold: the JSON and the few fields that everybody asks for. [`Object`] is
//! what readers hold: the same, and the decoded form when it has been asked for. However many readers there are, they share
//! one; when the last of them goes, it goes, because it takes ten times the memory of the JSON. Those decoded last are kept
//! a while longer ([`recent`]), for readers who come one after another.
//!
//! The store assigns an object's revision when it has written the object's bytes, so the bytes in the store carry no
//! `metadata.resourceVersion`; [`Encoded::from_stored`] splices it in at a known place instead of encoding again.

mod encode;
mod head;
pub mod recent;

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{Key, Result};
use encode::replace_revision;
pub use encode::{encode, encode_for_store, encoded_len, set_revision, splice_revision};
use head::Head;
pub use head::Labels;

/// An object as caches hold it. See the module's documentation.
#[derive(Debug)]
pub struct Encoded {
    json: Bytes,
    head: Head,
    /// The form that all present readers share.
    shared: Mutex<Weak<Object>>,
}

/// An object as readers hold it. See the module's documentation.
#[derive(Debug)]
pub struct Object {
    encoded: OnceLock<Arc<Encoded>>,
    value: OnceLock<Value>,
    /// Of an object that nobody has encoded yet.
    head: OnceLock<Head>,
}

static NULL: Value = Value::Null;

impl Encoded {
    fn new(json: Bytes, head: Head) -> Arc<Encoded> {
        Arc::new(Encoded { json, head, shared: Mutex::default() })
    }

    /// An encoded object: a JSON object with `metadata`.
    pub fn from_json(json: Bytes) -> Result<Arc<Encoded>> {
        let head = Head::parse(&json)?;
        Ok(Self::new(json, head))
    }

    /// The object that `stored` (made by [`encode_for_store`]) is at store revision `revision`.
    pub fn from_stored(stored: &[u8], revision: u64) -> Result<Arc<Encoded>> {
        let json = splice_revision(stored, revision)?;
        let mut head = Head::parse(&json)?;
        head.revision = revision;
        Ok(Self::new(json, head))
    }

    /// The same state as of another revision.
    pub fn at_revision(&self, revision: u64) -> Arc<Encoded> {
        let head = Head { revision, ..self.head.clone() };
        let json = replace_revision(&self.json, revision).unwrap_or_else(|| {
            let mut value: Value = serde_json::from_slice(&self.json).unwrap_or_default();
            set_revision(&mut value, revision);
            encode(&value).into()
        });
        Self::new(json, head)
    }

    /// The object for a reader: the one that other readers have, if there are any.
    pub fn object(self: &Arc<Encoded>) -> Arc<Object> {
        let mut shared = self.shared();
        if let Some(object) = shared.upgrade() {
            return object;
        }
        let encoded = OnceLock::from(self.clone());
        let object = Arc::new(Object { encoded, value: OnceLock::new(), head: OnceLock::new() });
        *shared = Arc::downgrade(&object);
        object
    }

    fn shared(&self) -> MutexGuard<'_, Weak<Object>> {
        // What it guards is one word: whoever panicked left it whole.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The object that readers have, if there are any. The lock is not held when a caller lets go of it, which may be the end
    /// of it.
    fn present(&self) -> Option<Arc<Object>> {
        self.shared().upgrade()
    }

    /// Some fields of the object, as a type of the caller's. What the type does not name is skipped, not decoded.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T> {
        match self.present() {
            Some(object) => object.to(),
            None => serde_json::from_slice(&self.json).map_err(|e| self.head.unlike(&e)),
        }
    }

    /// The JSON encoding.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// Whether a name stands anywhere in it: cheaper than decoding what does not concern one.
    pub fn mentions(&self, name: &str) -> bool {
        memchr::memmem::find(&self.json, name.as_bytes()).is_some()
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        &self.head.name
    }

    /// `metadata.namespace`, `""` if there is none.
    pub fn namespace(&self) -> &str {
        &self.head.namespace
    }

    /// `metadata.uid`, `""` if there is none.
    pub fn uid(&self) -> &str {
        &self.head.uid
    }

    /// `metadata.resourceVersion`, 0 if there is none.
    pub fn revision(&self) -> u64 {
        self.head.revision
    }

    /// `metadata.labels`.
    pub fn labels(&self) -> &Labels {
        &self.head.labels
    }

    /// Is `metadata.deletionTimestamp` set?
    pub fn is_deleting(&self) -> bool {
        self.head.deleting
    }

    /// `apiVersion`.
    pub fn api_version(&self) -> &str {
        &self.head.api_version
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        &self.head.kind
    }

    /// Namespace and name.
    pub fn key(&self) -> Key {
        Key::new(self.namespace(), self.name())
    }
}

impl Object {
    /// Shares a decoded object. Its JSON is made when first asked for.
    pub fn from_value(value: Value) -> Arc<Object> {
        Arc::new(Object { encoded: OnceLock::new(), value: OnceLock::from(value), head: OnceLock::new() })
    }

    /// Shares an encoded object: a JSON object with `metadata`. Only its head is decoded now.
    pub fn from_json(json: Bytes) -> Result<Arc<Object>> {
        Ok(Encoded::from_json(json)?.object())
    }

    /// The object that `stored` (made by [`encode_for_store`]) is at store revision `revision`.
    pub fn from_stored(stored: &[u8], revision: u64) -> Result<Arc<Object>> {
        Ok(Encoded::from_stored(stored, revision)?.object())
    }

    /// As [`Object::from_stored`], where the writer still has the decoded form (without resourceVersion).
    pub fn from_written(stored: &[u8], mut value: Value, revision: u64) -> Result<Arc<Object>> {
        let json = splice_revision(stored, revision)?;
        set_revision(&mut value, revision);
        let encoded = Encoded::new(json, Head::of(&value));
        let (value, head) = (OnceLock::from(value), OnceLock::new());
        let object = Arc::new(Object { encoded: OnceLock::from(encoded.clone()), value, head });
        *encoded.shared() = Arc::downgrade(&object);
        recent::keep(object.clone(), encoded.json.len());
        Ok(object)
    }

    /// What a cache holds of it.
    pub fn encoded(self: &Arc<Object>) -> &Arc<Encoded> {
        let encoded = self.made();
        let mut shared = encoded.shared();
        if shared.strong_count() == 0 {
            *shared = Arc::downgrade(self);
        }
        drop(shared);
        encoded
    }

    fn made(&self) -> &Arc<Encoded> {
        self.encoded.get_or_init(|| {
            let json = self.value.get().map(encode).unwrap_or_else(|| b"{}".to_vec());
            Encoded::new(json.into(), self.head().clone())
        })
    }

    /// The JSON encoding.
    pub fn json(&self) -> &Bytes {
        &self.made().json
    }

    /// The decoded form, made when first asked for and shared from then on.
    pub fn value(&self) -> &Value {
        let mut fresh = false;
        let value = self.value.get_or_init(|| {
            fresh = true;
            self.encoded
                .get()
                .map(|e| serde_json::from_slice(&e.json).unwrap_or_default())
                .unwrap_or_default()
        });
        if fresh
            && let Some(encoded) = self.encoded.get()
            && let Some(object) = encoded.present()
            && std::ptr::eq(&*object, self)
        {
            recent::keep(object, encoded.json.len());
        }
        value
    }

    /// The object as a type of the caller's; of one that is not decoded, what the type does not name is skipped.
    pub fn to<T: DeserializeOwned>(&self) -> Result<T> {
        match (self.value.get(), self.encoded.get()) {
            (None, Some(encoded)) => {
                serde_json::from_slice(&encoded.json).map_err(|e| self.head().unlike(&e))
            }
            _ => T::deserialize(self.value()).map_err(|e| self.head().unlike(&e)),
        }
    }

    fn head(&self) -> &Head {
        match self.encoded.get() {
            Some(encoded) => &encoded.head,
            None => self.head.get_or_init(|| self.value.get().map(Head::of).unwrap_or_default()),
        }
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

impl Drop for Object {
    fn drop(&mut self) {
        // A weak reference keeps the memory of what it refers to.
        if let Some(encoded) = self.encoded.get() {
            let mut shared = encoded.shared();
            if shared.strong_count() == 0 {
                *shared = Weak::new();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
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
    fn another_revision_is_the_same_state() {
        for value in [
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}, "spec": {"x": 1}}),
            json!({"kind": "{", "apiVersion": "v1", "metadata": {}}),
        ] {
            let before = Object::from_stored(&encode_for_store(&value), 99).unwrap();
            let after = before.encoded().at_revision(100).object();
            let mut want = value.clone();
            set_revision(&mut want, 100);
            assert_eq!((after.value(), after.revision()), (&want, 100));
        }
        // Not laid out by us: another object's metadata comes first.
        let value =
            json!({"spec": {"metadata": {"resourceVersion": "1"}}, "metadata": {"resourceVersion": "2"}});
        let after = Object::from_value(value).encoded().at_revision(3).object();
        assert_eq!(after.at(&["spec", "metadata", "resourceVersion"]), "1");
        assert_eq!(after.at(&["metadata", "resourceVersion"]), "3");
    }

    #[test]
    fn readers_share_the_decoded_form_and_it_goes_with_them() {
        let value = json!({"metadata": {"name": "a"}, "spec": {"text": "x".repeat(1 << 18)}});
        let encoded = Encoded::from_stored(&encode_for_store(&value), 5).unwrap();
        let (a, b) = (encoded.object(), encoded.object());
        assert!(Arc::ptr_eq(&a, &b) && Arc::ptr_eq(a.encoded(), &encoded));
        assert_eq!(a.value()["metadata"]["resourceVersion"], "5");
        assert!(std::ptr::eq(a.value(), b.value()));
        let gone = Arc::downgrade(&a);
        drop((a, b));
        assert!(gone.upgrade().is_none(), "too large for the recent ones");
        assert!(!Arc::ptr_eq(&encoded.object(), &Object::from_value(value.clone())));
        // What was decoded at first is shared likewise.
        let made = Object::from_value(value);
        assert!(Arc::ptr_eq(&made.encoded().object(), &made));
    }

    #[test]
    fn those_decoded_last_stay_decoded() {
        let encoded = |i: usize| {
            let value = json!({"metadata": {"name": format!("o{i}")}, "spec": {"text": "x".repeat(8 << 10)}});
            Encoded::from_stored(&encode_for_store(&value), 5).unwrap()
        };
        let first = encoded(0);
        let decoded = |e: &Encoded| e.present().is_some_and(|o| o.value.get().is_some());
        assert!(!decoded(&first));
        assert_eq!(first.object().at(&["metadata", "name"]), "o0");
        assert!(decoded(&first), "nobody reads it now");
        #[derive(Deserialize)]
        struct Spec {
            text: String,
        }
        #[derive(Deserialize)]
        struct View {
            spec: Spec,
        }
        let second = encoded(1);
        assert_eq!(second.to::<View>().unwrap().spec.text.len(), 8 << 10);
        assert!(!decoded(&second), "a view decodes what it names");
        for i in 2..200 {
            encoded(i).object().value();
        }
        assert!(!decoded(&first), "others came after it");
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
