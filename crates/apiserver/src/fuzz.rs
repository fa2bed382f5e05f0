//! What fuzz targets call: the parts of a request before it is known who sent it, definitions of resources with objects of
//! them, and what other servers answer.

use std::sync::Arc;

use api::codec::{self, FieldValidation, MediaType};
use api::openapi::{self, NoDocs};
use api::patch::{self, apply};
use api::{Kind, Object, Value, discovery, kinds, table};
use http::Method;
use serde_json::json;

use crate::admission::try_response;
use crate::path::RequestInfo;
use crate::query::{ListOptions, Query, WriteOptions};
use crate::registry::{DeleteOptions, PatchBody, try_token};
use crate::rewrite::Place;
use crate::{callback, conversion, crd, negotiate};

/// What nothing but the time of a request is taken from.
const NOW: &str = "2024-01-02T03:04:05Z";

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
    use negotiate::Offer;
    for offer in
        [Offer::Object { protobuf: true }, Offer::Object { protobuf: false }, Offer::Plain, Offer::Discovery]
    {
        let _ = negotiate::accept(text(accept), offer);
    }
    let _ = negotiate::of_failure(text(accept));
    let json = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let _ = (DeleteOptions::of_body(&json), DeleteOptions::of_query(&query));
    for custom in [false, true] {
        let _ = PatchBody::parse(text(accept), body, custom);
    }
    try_token(text(body));
}

/// A definition of custom resources; behind line breaks an object of one, and a change to it.
pub fn definition(bytes: &[u8]) {
    let mut lines = bytes.splitn(3, |b| *b == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (definition, object, change) = (next(), next(), next());
    let Some(of) = kinds::by_gvr(&api::names::gvr::CUSTOM_RESOURCE_DEFINITIONS) else { return };
    let Some(version) = of.storage() else { return };
    let Ok(decoded) = codec::decode(definition, MediaType::Json, of, version, FieldValidation::Warn) else {
        return;
    };
    let mut definition = decoded.value;
    if of.to_storage(&mut definition).is_err() {
        return;
    }
    of.prepare_create(&mut definition);
    of.default(&mut definition);
    let mut faults = of.validate_create(&definition);
    faults.append(crd::check_bundle(&definition, &Value::Null));
    faults.append(crd::check_schemas(&definition, None));
    if !faults.is_empty() {
        return;
    }
    let made: Vec<Arc<Kind>> = crd::try_kinds(&definition).into_iter().map(Arc::new).collect();
    let _ = openapi::v2(&made, &NoDocs, &[]);
    let _ = openapi::v2_protobuf(&made, &NoDocs, &[]);
    let _ = discovery::aggregated(&made, false, "v2");
    for kind in &made {
        let _ = openapi::v3(&made, &format!("apis/{}/{}", kind.group, kind.version), &NoDocs);
        custom_object(kind, object, change);
    }
}

/// An object of a custom resource, from its body to what is shown of it.
fn custom_object(kind: &Kind, body: &[u8], change: &[u8]) {
    let Some(version) = kind.storage() else { return };
    let schema = version.schema();
    let Ok(decoded) = codec::decode(body, MediaType::Json, kind, version, FieldValidation::Warn) else {
        return;
    };
    let mut value = decoded.value;
    if kind.to_storage(&mut value).is_err() {
        return;
    }
    kind.prepare_create(&mut value);
    kind.default(&mut value);
    let once = value.clone();
    kind.default(&mut value);
    assert_eq!(once, value, "defaults are set once");
    let _ = kind.validate_create(&value);
    if let Ok(change) = serde_json::from_slice::<Value>(change) {
        let mut patched = value.clone();
        patch::merge_patch(&mut patched, &change);
        let _ = patch::json_patch(&value, &change);
        let writer = api::patch::Writer {
            manager: "a",
            now: NOW.parse().expect("a time"),
            subresource: "",
            api_version: &kind.api_version(),
            has_status: true,
        };
        let _ = apply::apply(Some(&value), &change, &apply::OneVersion(schema), writer, true);
        let (of, named) = (version.api_version(), kind.kind.as_str());
        if let Ok(checked) = codec::check(patched, &of, named, schema, FieldValidation::Warn) {
            for subresource in ["", "status"] {
                let mut new = checked.value.clone();
                kind.default(&mut new);
                kind.prepare_update(&mut new, &value, subresource);
                let _ = kind.validate_update(&new, &value, subresource);
            }
        }
    }
    if let Some(mut scale) = kind.scale_of(&value) {
        kind.set_scale(&mut scale, 3);
    }
    let options = table::Options {
        list_meta: json!({}),
        include: table::Include::Object,
        headers: true,
        now: NOW.parse().expect("a time"),
        meta_version: "v1".to_owned(),
    };
    let _ = table::table(kind, version, [Object::from_value(value)], &options);
}

/// What webhooks and proxied servers answer: a first byte says which, a line break parts two documents.
pub fn answer(bytes: &[u8]) {
    let [which, rest @ ..] = bytes else { return };
    let at = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
    let (first, second) = (&rest[..at], rest.get(at + 1..).unwrap_or_default());
    let json = |bytes| serde_json::from_slice::<Value>(bytes).unwrap_or_default();
    match which % 4 {
        0 => try_response(&json(first), &json(second)),
        1 => conversion::try_answer(json(first), &json(second)),
        2 => {
            let _ = callback::ca_bundle(&json(first));
        }
        _ => {
            let hosts = vec!["10.0.0.1:80".to_owned(), "a.example".to_owned()];
            let place = Place { prefix: "/api/v1/namespaces/a/pods/b/proxy".to_owned(), hosts };
            if let Ok(page) = std::str::from_utf8(rest) {
                let _ = place.url(page);
                let once = place.html(page);
                assert_eq!(place.html(&once), once, "what is placed stays where it is");
            }
        }
    }
}
