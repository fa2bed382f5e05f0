//! What is served of the definitions.

use std::collections::HashMap;
use std::sync::Arc;

use api::kinds::VersionSchema;
use api::meta::text;
use api::{Kind, Value};
use bytes::Bytes;
use serde_json::json;

use super::kind::{kind_in, schemas};
use super::list;
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

/// Which state of a definition its kind is made of: that changes with what is specified, and with the names it is given.
fn state_of(crd: &Value) -> String {
    let names = crd.pointer("/status/acceptedNames").unwrap_or(&Value::Null);
    format!("{} {} {names}", api::meta::uid(crd), api::meta::generation(crd))
}

/// The kind of a definition in each of its versions, and what converts between them.
fn custom_of(server: &Arc<ApiServer>, crd: &Value, definition: &Bytes) -> Option<Custom> {
    let storage = list(crd, "/spec/versions").find(|v| v.get("storage") == Some(&json!(true)))?;
    let schemas = schemas(crd, definition);
    let names = list(crd, "/spec/versions").map(|v| text(v, "/name"));
    let versions: HashMap<String, Arc<Kind>> =
        names.filter_map(|name| Some((name.to_owned(), Arc::new(kind_in(crd, name, &schemas)?)))).collect();
    let stored = versions.get(text(storage, "/name"))?.clone();
    let schemas = stored.versions.iter().map(|v| (v.api_version(), v.schema.clone())).collect();
    let converter = Arc::new(Converter::new(Arc::downgrade(server), crd, stored.api_version(), schemas));
    let stop = server.shutdown.child_token();
    Some(Custom { stored, versions, converter, made_of: state_of(crd), stop })
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
            (Some((crd, definition)), Some(kept)) if kept.made_of == state_of(crd) => {
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
