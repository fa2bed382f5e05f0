//! CustomResourceDefinitions: makes kinds of them, says in their status whether they are served, and clears away their objects
//! when they go.
//!
//! Driven by the cache's events of definitions; level-triggered: each pass looks at the definitions that have changed, as they
//! are. What one costs does not grow with their number: of the others nothing is read, and what is served of them is shared
//! between the states of [`Kinds`](crate::resource::Kinds). A definition's schemas are most of it and are read only where they
//! are needed: when it is written, for documents, and when its objects are first used.

mod clear;
mod controller;
mod kind;
mod names;
mod serve;
mod status;

use api::kinds::crd::Structural;
use api::meta::items;
#[cfg(any(test, fuzzing))]
use api::meta::text;
use api::{Kind, Object, Status, Value};
use serde_json::json;

use crate::ApiServer;
use crate::callback::ca_bundle;
use crate::registry::Own;

pub use controller::start;

const GROUP: &str = "apiextensions.k8s.io";
const PLURAL: &str = "customresourcedefinitions";
/// How long a failure waits to be tried again. What failed does not say when it would succeed.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);

fn words(v: &Value, pointer: &str) -> Vec<String> {
    items(v, pointer).filter_map(|s| s.as_str().map(str::to_owned)).collect()
}

/// Why the webhook that converts the objects of a definition could not be believed whatever it showed.
fn unreadable_bundle(crd: &Value) -> Option<String> {
    ca_bundle(crd.pointer("/spec/conversion/webhook/clientConfig")?).err()
}

/// What is wrong with the authorities that the webhook of a definition is to be believed by. Where nobody could be believed
/// before either it is not refused; until it is mended such a definition is not served.
pub fn check_bundle(new: &Value, old: &Value) -> api::ErrorList {
    let mut errors = api::ErrorList::new();
    if let Some(why) = unreadable_bundle(new).filter(|_| unreadable_bundle(old).is_none()) {
        let path = api::Path::new("spec").child("conversion").child("webhookClientConfig").child("caBundle");
        errors.invalid(&path, &new["spec"]["conversion"]["webhook"]["clientConfig"]["caBundle"], why);
    }
    errors
}

/// What is wrong with the schemas of a definition. Those that are as they were in `old` were taken once, and stay.
pub fn check_schemas(crd: &Value, old: Option<&Value>) -> api::ErrorList {
    const SCHEMA: &str = "/schema/openAPIV3Schema";
    let mut errors = api::ErrorList::new();
    let mut schemas = Vec::new();
    for (i, version) in items(crd, "/spec/versions").enumerate() {
        let path = api::Path::new("spec").child("versions").index(i).child("schema").child("openAPIV3Schema");
        let before = old.and_then(|o| items(o, "/spec/versions").find(|v| v["name"] == version["name"]));
        if before.is_some_and(|b| b.pointer(SCHEMA) == version.pointer(SCHEMA)) {
            continue;
        }
        let status = version.pointer("/subresources/status").is_some_and(|s| !s.is_null());
        match version.pointer(SCHEMA) {
            Some(schema) => schemas.push((schema, path, status)),
            None => errors.required(&path, ""),
        }
    }
    // Only what came through v1beta1 says so: its schemas need not be structural.
    let lenient = crd.pointer("/spec/preserveUnknownFields") == Some(&json!(true));
    errors.append(Structural::check_all(schemas, lenient));
    errors
}

/// The kinds that a definition makes, each as if another of its versions were the one that is stored.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_kinds(crd: &Value) -> Vec<Kind> {
    let schemas = kind::schemas(crd, &api::object::encode(crd).into());
    items(crd, "/spec/versions").filter_map(|v| kind::kind_in(crd, text(v, "/name"), &schemas)).collect()
}

/// Whether a kind that is built in has this group and name.
fn is_built_in(group: &str, plural: &str) -> bool {
    api::kinds::all().iter().any(|k| k.group == group && k.plural == plural)
}

/// Changes a definition through a subresource, if it is still that one.
async fn write(
    server: &ApiServer,
    crd: &Object,
    subresource: &str,
    change: &(dyn Fn(&Value) -> Value + Sync),
) -> Result<(), Status> {
    let own = Own { resource: (GROUP, PLURAL), namespace: "", name: crd.name(), subresource, dry_run: false };
    let change = &mut |old: &std::sync::Arc<Object>| {
        Ok(if old.uid() == crd.uid() { change(old.value()) } else { old.value().clone() })
    };
    server.modify_own(&own, change).await
}

/// Whether the definition of a custom kind is being deleted: nothing new of the kind may come then, or the end of it would
/// never come.
pub fn is_ending(server: &ApiServer, kind: &Kind) -> bool {
    let name = format!("{}.{}", kind.plural, kind.group);
    kind.custom && server.cache.kind(GROUP, PLURAL).get(&name).is_some_and(|crd| crd.is_deleting())
}
