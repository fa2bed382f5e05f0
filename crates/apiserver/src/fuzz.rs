//! What fuzz targets call: the parts of a request before it is known who sent it.

use api::Value;
use http::Method;

use crate::negotiate;
use crate::path::RequestInfo;
use crate::query::{ListOptions, Query, WriteOptions};
use crate::registry::{DeleteOptions, PatchBody, try_token};

/// Path, query, `Accept` and body, each on a line of its own.
pub fn request(bytes: &[u8]) {
    let mut lines = bytes.splitn(4, |b| *b == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (path, query, accept, body) = (next(), next(), next(), next());
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    for method in [Method::GET, Method::POST, Method::DELETE] {
        for watch in [false, true] {
            let (_, info) = RequestInfo::parse(&method, text(path), watch);
            assert!(info.is_resource || info.resource.is_empty(), "{info:?}");
        }
    }
    let query = Query::parse(Some(text(query)));
    for watch in [false, true] {
        if let Ok(options) = ListOptions::parse(&query, watch) {
            let _ = api::selector::Label::parse(&options.labels);
            let _ = api::selector::Field::parse(&options.fields);
            options.token.as_deref().into_iter().for_each(try_token);
        }
    }
    if let Ok(options) = WriteOptions::parse(&query, "UpdateOptions") {
        let _ = options.document("UpdateOptions");
    }
    for discovery in [false, true] {
        let _ = negotiate::accept(text(accept), discovery);
    }
    let _ = negotiate::accept_plain(text(accept));
    let json = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let _ = (DeleteOptions::of_body(&json), DeleteOptions::of_query(&query));
    for custom in [false, true] {
        let _ = PatchBody::parse(text(accept), body, custom);
    }
    try_token(text(body));
}
