//! The JSON of objects, and the revision in it.

use bytes::{Bytes, BytesMut};
use serde_json::Value;

use crate::{Error, Map, Result};

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

/// The bytes with another `metadata.resourceVersion`; nothing if they are not laid out as [`splice_revision`] does it.
pub(super) fn replace_revision(json: &[u8], revision: u64) -> Option<Bytes> {
    const FIELD: &[u8] = b"\"resourceVersion\":\"";
    let at = memchr::memmem::find(json, METADATA)?;
    // Only if nothing else has been opened before it is it the object's own.
    if memchr::memchr_iter(b'{', &json[..at]).count() != 1 {
        return None;
    }
    let (before, after) = json.split_at(at + METADATA.len());
    let after = after.strip_prefix(FIELD)?;
    let after = &after[memchr::memchr(b'"', after)?..];
    let mut out = BytesMut::with_capacity(json.len() + 20);
    out.extend_from_slice(before);
    out.extend_from_slice(FIELD);
    out.extend_from_slice(itoa::Buffer::new().format(revision).as_bytes());
    out.extend_from_slice(after);
    Some(out.freeze())
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
