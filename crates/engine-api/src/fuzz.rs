//! What fuzz targets call: the parts of a request before it reaches the engine.

use crate::compat;
use crate::query::Query;
use engine::model;

/// A query string, and a body behind a line break that an old client may have sent to create a container.
pub fn request(bytes: &[u8]) {
    let at = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    let (query, body) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    if let Ok(query) = Query::parse(std::str::from_utf8(query).ok()) {
        let _ = query.filters();
        let _ = query.time("since");
        let _ = query.number::<i64>("limit");
        let _ = query.json::<std::collections::HashMap<String, String>>("labels");
    }
    for version in [(1, 24), (1, 40), (1, 47)] {
        if let Ok(mut body) = model::decode::<model::CreateBody>(body) {
            let _ = compat::create(version, &mut body);
        }
        let mut document = serde_json::from_slice(body).unwrap_or_default();
        compat::inspect(version, &mut document);
    }
}
