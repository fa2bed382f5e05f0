//! From objects to the bytes of an answer, in the form that was agreed on.

use std::sync::Arc;

use api::codec::{MediaType, protobuf};
use api::object::Encoded;
use api::schema::{Schema, TypeId};
use api::table::{Include, partial_metadata, scale_table, table};
use api::{Object, Status, Value};
use bytes::Bytes;
use http::{Response, StatusCode, header};
use serde_json::json;

use super::{Context, Listed, is_plain, json_in, value_in};
use crate::body::{Body, ListBody};
use crate::negotiate::{Accept, Form};

/// An answer of `bytes`.
pub fn reply(code: StatusCode, media: &str, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = code;
    if let Ok(value) = header::HeaderValue::from_str(media) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache, private"));
    response
}

/// An answer of one decoded document.
pub fn reply_value(
    code: StatusCode,
    accept: &Accept,
    value: &Value,
    schema: Schema<'_>,
) -> Result<Response<Body>, Status> {
    let media = accept.media;
    if media == MediaType::Protobuf {
        // What has no protobuf form is sent as JSON, which every client that asks for protobuf reads too.
        return Ok(match api::codec::encode(value, media, schema) {
            Ok(bytes) => reply(code, media.as_str(), bytes),
            Err(_) => reply(code, MediaType::Json.as_str(), api::object::encode(value)),
        });
    }
    Ok(reply(code, media.as_str(), api::codec::encode(value, media, schema)?))
}

/// An answer of one object.
pub fn render_object(
    cx: &Context,
    code: StatusCode,
    accept: &Accept,
    include: Include,
    object: &Arc<Object>,
) -> Result<Response<Body>, Status> {
    let (kind, version) = (&cx.kind, cx.version());
    match &accept.form {
        Form::Table(v) => {
            let meta = json!({"resourceVersion": object.revision().to_string()});
            let value = table(kind, version, [object.clone()], &table_options(meta, include, true, v));
            reply_value(code, accept, &value, Schema::Any)
        }
        Form::Metadata(v) => {
            let value = partial_metadata(object.value(), v);
            reply_value(code, accept, &value, meta_schema("PartialObjectMetadata"))
        }
        _ if accept.media == MediaType::Json => {
            let mut response = reply(code, MediaType::Json.as_str(), json_in(kind, version, object));
            if is_plain(kind, version, object.api_version()) {
                // For callers in this process, who need not decode the bytes.
                response.extensions_mut().insert(object.clone());
            }
            Ok(response)
        }
        _ => reply_value(code, accept, &value_in(kind, version, object), wire_schema(version)),
    }
}

/// An answer of a Scale.
pub fn render_scale(accept: &Accept, include: Include, scale: &Value) -> Result<Response<Body>, Status> {
    let schema = match &accept.form {
        Form::Table(v) => {
            let meta = json!({"resourceVersion": api::meta::resource_version(scale)});
            let value = scale_table(scale, &table_options(meta, include, true, v));
            return reply_value(StatusCode::OK, accept, &value, Schema::Any);
        }
        Form::Metadata(v) => {
            let value = partial_metadata(scale, v);
            return reply_value(StatusCode::OK, accept, &value, meta_schema("PartialObjectMetadata"));
        }
        _ => TypeId::of_gvk("autoscaling", "v1", "Scale").map_or(Schema::Any, TypeId::schema),
    };
    reply_value(StatusCode::OK, accept, scale, schema)
}

/// What an object's bytes are made by: only protobuf takes more than the object.
fn wire_schema(version: &api::kinds::Version) -> Schema<'static> {
    version.schema.proto().map_or(Schema::Any, TypeId::schema)
}

fn meta_schema(kind: &str) -> Schema<'static> {
    TypeId::named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}")).map_or(Schema::Any, TypeId::schema)
}

fn list_meta(listed: &Listed) -> Value {
    let mut meta = json!({"resourceVersion": listed.revision.to_string()});
    if !listed.next.is_empty() {
        meta["continue"] = json!(listed.next);
    }
    if let Some(n) = listed.remaining {
        meta["remainingItemCount"] = json!(n);
    }
    meta
}

/// An answer of a list.
pub fn render_list(
    cx: &Context,
    accept: &Accept,
    include: Include,
    listed: Listed,
) -> Result<Response<Body>, Status> {
    let (kind, version) = (&cx.kind, cx.version());
    let meta = list_meta(&listed);
    match &accept.form {
        Form::Table(v) => {
            let objects = listed.items.iter().map(Encoded::object);
            let value = table(kind, version, objects, &table_options(meta, include, true, v));
            reply_value(StatusCode::OK, accept, &value, Schema::Any)
        }
        Form::Metadata(v) => {
            #[derive(serde::Deserialize)]
            struct View {
                metadata: Value,
            }
            let items = listed.items.iter().map(|o| match o.to::<View>() {
                Ok(view) => partial_metadata(&json!({"metadata": view.metadata}), v),
                Err(_) => partial_metadata(o.object().value(), v),
            });
            let items: Vec<Value> = items.collect();
            let value = json!({"kind": "PartialObjectMetadataList", "apiVersion": format!("meta.k8s.io/{v}"),
                "metadata": meta, "items": items});
            reply_value(StatusCode::OK, accept, &value, meta_schema("PartialObjectMetadataList"))
        }
        _ if accept.media == MediaType::Json
            && listed.items.iter().all(|o| is_plain(kind, version, o.api_version()))
            && kind.is_storage(version) =>
        {
            let mut head = Vec::with_capacity(160);
            head.extend_from_slice(b"{\"kind\":");
            head.extend_from_slice(&api::object::encode(&json!(kind.list_kind)));
            head.extend_from_slice(b",\"apiVersion\":");
            head.extend_from_slice(&api::object::encode(&json!(version.api_version())));
            head.extend_from_slice(b",\"metadata\":");
            head.extend_from_slice(&api::object::encode(&meta));
            head.extend_from_slice(b",\"items\":[");
            let list = ListBody::new(head, listed.items);
            Ok(reply(StatusCode::OK, MediaType::Json.as_str(), Body::List(list)))
        }
        _ => {
            let items: Vec<Value> =
                listed.items.iter().map(|o| value_in(kind, version, &o.object())).collect();
            let value = json!({"kind": kind.list_kind, "apiVersion": version.api_version(), "metadata": meta,
                "items": items});
            let schema = TypeId::of_gvk(&version.group, &version.version, &kind.list_kind);
            reply_value(StatusCode::OK, accept, &value, schema.map_or(Schema::Any, TypeId::schema))
        }
    }
}

/// One watch event's bytes, in the form that was agreed on; `headers` is whether a table says its columns.
pub fn render_event(
    cx: &Context,
    accept: &Accept,
    include: Include,
    word: &str,
    object: &Arc<Object>,
    headers: bool,
) -> Result<Bytes, Status> {
    let (kind, version) = (&cx.kind, cx.version());
    let (value, schema) = match &accept.form {
        Form::Table(v) => {
            let meta = json!({"resourceVersion": object.revision().to_string()});
            // A bookmark is a table without rows.
            let items = (word != "BOOKMARK").then(|| object.clone());
            (table(kind, version, items, &table_options(meta, include, headers, v)), Schema::Any)
        }
        Form::Metadata(v) => (partial_metadata(object.value(), v), meta_schema("PartialObjectMetadata")),
        _ => (value_in(kind, version, object), wire_schema(version)),
    };
    if accept.media == MediaType::Protobuf {
        return protobuf::encode_watch_event(word, &value, schema).map(Bytes::from);
    }
    Ok(crate::cache::frame(word, &api::object::encode(&value)))
}

/// An answer that is a failure, in the form in which an object would be had by this `Accept` header.
pub fn render_status(status: &Status, accept: &str) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let encoded = match crate::negotiate::of_failure(accept) {
        MediaType::Json => None,
        media => {
            let encoded = api::codec::encode(&status.to_value(), media, meta_schema("Status")).ok();
            encoded.map(|bytes| (media, bytes))
        }
    };
    let (media, bytes) = encoded.unwrap_or_else(|| (MediaType::Json, status.to_json()));
    let mut response = reply(code, media.as_str(), bytes);
    if let Some(seconds) = status.details.as_ref().and_then(|d| d.retry_after_seconds) {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    if status.code == 401 {
        let value = header::HeaderValue::from_static("Bearer realm=\"kubernetes\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    }
    response
}

/// A table as it is asked for, with the ages of now.
fn table_options(
    list_meta: Value,
    include: Include,
    headers: bool,
    meta_version: &str,
) -> api::table::Options {
    api::table::Options {
        list_meta,
        include,
        headers,
        now: base::clock::now(),
        meta_version: meta_version.to_owned(),
    }
}
