//! What is served of the definitions.

use std::collections::HashMap;
use std::sync::Arc;

use api::kinds::VersionSchema;
use api::meta::{items, text};
use api::{Kind, Value};
use bytes::Bytes;
use serde_json::json;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::kind::{kind_in, schemas};
use super::status::is_true;
use crate::ApiServer;
use crate::conversion::Converter;
use crate::resource::Custom;

/// A definition as it is, or that it is gone.
pub(super) struct Changed {
    pub(super) name: Arc<str>,
    /// The definition without its schemas, and the whole as JSON.
    pub(super) now: Option<(Value, Bytes)>,
}

/// Which state of a definition its kind is made of: that changes with what is specified, and with the names it is given. That
/// it is deleted changes its generation only.
fn state_of(crd: &Value, definition: &Bytes) -> String {
    #[derive(serde::Deserialize)]
    struct Specified<'a> {
        #[serde(borrow)]
        spec: &'a RawValue,
    }
    let names = crd.pointer("/status/acceptedNames").unwrap_or(&Value::Null);
    let specified = serde_json::from_slice::<Specified<'_>>(definition);
    let spec = specified.map_or_else(|_| definition.as_ref(), |s| s.spec.get().as_bytes());
    format!("{} {} {names}", api::meta::uid(crd), hex::encode(Sha256::digest(spec)))
}

/// The kind of a definition in each of its versions, and what converts between them.
fn custom_of(server: &Arc<ApiServer>, crd: &Value, definition: &Bytes) -> Option<Custom> {
    let storage = items(crd, "/spec/versions").find(|v| v.get("storage") == Some(&json!(true)))?;
    let schemas = schemas(crd, definition);
    let names = items(crd, "/spec/versions").map(|v| text(v, "/name"));
    let versions: HashMap<String, Arc<Kind>> =
        names.filter_map(|name| Some((name.to_owned(), Arc::new(kind_in(crd, name, &schemas)?)))).collect();
    let stored = versions.get(text(storage, "/name"))?.clone();
    let schemas = stored.versions.iter().map(|v| (v.api_version(), v.schema.clone())).collect();
    let converter = Arc::new(Converter::new(Arc::downgrade(server), crd, stored.api_version(), schemas));
    let stop = server.shutdown.child_token();
    Some(Custom { stored, versions, converter, made_of: state_of(crd, definition), stop })
}

/// Serves what these definitions make, if they are established, beside what is served already.
pub(super) fn serve(server: &Arc<ApiServer>, changed: &[Changed]) {
    let before = server.kinds.load();
    let mut custom = before.custom().clone();
    let mut ended = Vec::new();
    let mut same = true;
    for Changed { name, now } in changed {
        let established = now.as_ref().filter(|(crd, _)| is_true(crd, "Established"));
        let made = match (established, custom.get(name)) {
            // A kind whose definition has not changed is the same kind: watches go on.
            (Some((crd, definition)), Some(kept)) if kept.made_of == state_of(crd, definition) => {
                for version in &kept.stored.versions {
                    if let VersionSchema::Structural(schema) = &version.schema {
                        schema.renew(definition.clone());
                    }
                }
                continue;
            }
            (Some((crd, definition)), _) => custom_of(server, crd, definition),
            (None, None) => continue,
            (None, Some(_)) => None,
        };
        same = false;
        ended.extend(match made {
            Some(made) => custom.insert(name.clone(), Arc::new(made)),
            None => custom.remove(name),
        });
    }
    if same {
        return;
    }
    // What it says besides may change meanwhile.
    server.kinds.rcu(|kinds| kinds.with(custom.clone()));
    server.documents.clear();
    server.kinds_changed.notify_one();
    // Whoever watches a kind that is another one now starts over, as with upstream.
    for kind in ended {
        kind.stop.cancel();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use futures::StreamExt;
    use http::Request;
    use http_body_util::BodyExt;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::user::UserInfo;

    fn definition() -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "foos.x.example", "uid": "u", "generation": 1},
            "spec": {"group": "x.example", "scope": "Cluster", "names": {"plural": "foos", "kind": "Foo"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                    {"type": "object", "properties": {"size": {"type": "integer", "default": 3}}}}}]}})
    }

    #[test]
    fn a_kind_is_another_one_when_something_else_is_specified() {
        let state = |crd: &Value| state_of(crd, &api::object::encode(crd).into());
        let before = definition();
        let of = state(&before);
        let changed = |at: &str, value: Value| {
            let mut now = before.clone();
            let (parent, field) = at.rsplit_once('/').unwrap();
            now.pointer_mut(parent).unwrap()[field] = value;
            state(&now) != of
        };
        for (at, value, another) in [
            ("/metadata/generation", json!(2), false),
            ("/metadata/deletionTimestamp", json!("2020-01-01T00:00:00Z"), false),
            ("/metadata/finalizers", json!(["f"]), false),
            ("/status", json!({"conditions": [{"type": "Terminating"}]}), false),
            ("/status", json!({"acceptedNames": {"plural": "foos"}}), true),
            ("/metadata/uid", json!("v"), true),
            ("/spec/scope", json!("Namespaced"), true),
            ("/spec/versions/0/schema/openAPIV3Schema/properties/size/default", json!(4), true),
        ] {
            assert_eq!(changed(at, value), another, "{at}");
        }
    }

    #[tokio::test]
    async fn who_only_reads_compiles_no_schema() {
        let dir = tempfile::tempdir().unwrap();
        let pki = pki::Pki::open(&dir.path().join("pki")).unwrap();
        let store = store::memory();
        let shutdown = CancellationToken::new();
        let start = async || {
            let instance =
                base::Instance::new(dir.path(), &dir.path().join("run"), "node", [127, 0, 0, 1].into());
            let mut options = crate::Options::new(instance, store.clone(), pki.clone());
            options.listen = ([127, 0, 0, 1], 0).into();
            ApiServer::start(options, shutdown.clone()).await.unwrap()
        };
        let send = async |server: &Arc<ApiServer>, method: &str, path: &str, accept: &str, body: Value| {
            let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
            let request = Request::builder().method(method).uri(path).header("accept", accept);
            let request = request.header("content-type", "application/json").body(body).unwrap();
            client::Client::new(server.transport(UserInfo::master("admin"))).open(request).await.unwrap()
        };
        let (crds, foos) =
            ("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "/apis/x.example/v1/foos");
        let first = start().await;
        assert_eq!(send(&first, "POST", crds, "*/*", definition()).await.status(), 201);
        let foo = json!({"apiVersion": "x.example/v1", "kind": "Foo", "metadata": {"name": "a"}});
        let definitions = first.cache.kind(super::super::GROUP, super::super::PLURAL);
        let (_, mut told) = first.cache.list_and_watch(definitions, "");
        while send(&first, "GET", foos, "application/json", Value::Null).await.status() != 200 {
            told.next().await.unwrap();
        }
        let compiled = |server: &ApiServer| {
            let kinds = server.kinds.load();
            match &kinds.custom()["foos.x.example"].stored.versions[0].schema {
                VersionSchema::Structural(schema) => schema.is_compiled(),
                _ => panic!("it has a schema"),
            }
        };
        let watch = format!("{foos}?watch=true");
        assert_eq!(send(&first, "GET", &watch, "application/json", Value::Null).await.status(), 200);
        assert!(!compiled(&first), "there is nothing to fill in");
        assert_eq!(send(&first, "POST", foos, "*/*", foo).await.status(), 201);
        assert!(compiled(&first), "what is written is looked at");
        // Who wants the metadata needs nothing of the schema, whatever there is.
        let next = start().await;
        let metadata = |of: &str| format!("application/json;as=PartialObjectMetadata{of};g=meta.k8s.io;v=v1");
        let answer = send(&next, "GET", foos, &metadata("List"), Value::Null).await;
        let list: Value =
            serde_json::from_slice(&answer.into_body().collect().await.unwrap().to_bytes()).unwrap();
        assert_eq!(list["items"][0]["metadata"]["name"], "a");
        let answer = send(&next, "GET", &watch, &metadata(""), Value::Null).await;
        let event = http_body_util::BodyStream::new(answer.into_body()).next().await.unwrap().unwrap();
        let event: Value = serde_json::from_slice(event.data_ref().unwrap()).unwrap();
        assert_eq!(
            (&event["type"], &event["object"]["kind"]),
            (&json!("ADDED"), &json!("PartialObjectMetadata"))
        );
        assert!(!compiled(&next), "{event}");
        shutdown.cancel();
    }
}
