//! What fuzz targets call: what a server answers, each with what is done with the result.

use std::sync::Arc;

use api::Object;
use api::object::{Encoded, encode_for_store};
use bytes::Bytes;
use http::StatusCode;

use crate::calls::refusal;
use crate::{discovery, https};

/// The same bytes as a line of a watch, a list, an object, a refusal and a document of discovery.
pub fn answer(bytes: &[u8]) {
    if let Ok(event) = https::decode_event(bytes) {
        object(&event.object);
    }
    if let Ok(list) = https::decode_list(&Bytes::copy_from_slice(bytes)) {
        list.items.iter().for_each(object);
    }
    if let Ok(read) = Object::from_json(Bytes::copy_from_slice(bytes)) {
        object(&read);
    }
    let _ = refusal(StatusCode::INTERNAL_SERVER_ERROR, bytes).retry_after();
    let _ = discovery::resources("a", "v1", &serde_json::from_slice(bytes).unwrap_or_default());
}

/// What is known of an object before it is decoded is what it says once it is.
fn object(read: &Arc<Object>) {
    let value = read.value().clone();
    if !value.is_object() || !value["metadata"].is_object() {
        return;
    }
    let decoded = Object::from_value(value);
    assert_eq!(
        (read.name(), read.namespace(), read.uid()),
        (decoded.name(), decoded.namespace(), decoded.uid())
    );
    assert_eq!(read.revision(), decoded.revision());
    assert_eq!(read.labels(), decoded.labels());
    assert_eq!(read.is_deleting(), decoded.is_deleting());
    let later = read.encoded().at_revision(5);
    assert_eq!(later.object().value()["metadata"]["resourceVersion"], "5");
    let stored = encode_for_store(read.value());
    let again = Encoded::from_stored(&stored, 7).expect("what was stored can be read");
    assert_eq!((again.revision(), again.name()), (7, read.name()));
}
