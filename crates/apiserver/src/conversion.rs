//! Custom resources in the other versions of their definition: by name alone, or by the definition's webhook.
//!
//! A custom resource is worked on in the version of the request: decoded, defaulted, admitted and validated by that version's
//! schema, as upstream does. It is converted when it comes out of the cache in another version, and when it is written in
//! another one than the definition stores.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;

use api::kinds::VersionSchema;
use api::meta::text;
use api::object::Encoded;
use api::{Object, Status, Value};
use parking_lot::Mutex;
use serde_json::json;

use crate::ApiServer;
use crate::cache::{CacheEvent, local_key};
use crate::callback::post;

/// How long a webhook may take. A peer that never answers sends no event.
const TIMEOUT: Duration = Duration::from_secs(30);
/// How many bytes of objects one review holds at most, unless it holds a single one.
const REVIEW_BYTES: usize = 1 << 20;
/// How many converted events are kept for the other watchers of the same version.
const REMEMBERED: usize = 256;

/// The definition's webhook.
struct Webhook {
    config: Value,
    /// The versions of ConversionReview it understands.
    reviews: Vec<String>,
}

/// Events that have been converted, by version, revision and object.
type Event = (String, u64, String);

#[derive(Default)]
struct Memo {
    events: HashMap<Event, Arc<CacheEvent>>,
    order: VecDeque<Event>,
}

/// Converts the objects of one definition, as that is at one moment.
pub struct Converter {
    server: Weak<ApiServer>,
    /// The `apiVersion` in which objects are stored.
    storage: String,
    /// By `apiVersion`.
    schemas: HashMap<String, VersionSchema>,
    webhook: Option<Webhook>,
    memo: Mutex<Memo>,
}

impl std::fmt::Debug for Converter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Converter").field("storage", &self.storage).finish_non_exhaustive()
    }
}

impl Converter {
    /// The converter of a definition whose objects are stored as `storage`, with the schemas of all its versions.
    pub fn new(
        server: Weak<ApiServer>,
        crd: &Value,
        storage: String,
        schemas: HashMap<String, VersionSchema>,
    ) -> Self {
        let webhook = (text(crd, "/spec/conversion/strategy") == "Webhook").then(|| {
            let webhook = crd.pointer("/spec/conversion/webhook").unwrap_or(&Value::Null);
            let reviews = webhook.get("conversionReviewVersions").and_then(Value::as_array);
            let reviews = reviews.into_iter().flatten().filter_map(|v| v.as_str().map(str::to_owned));
            Webhook {
                config: webhook.get("clientConfig").cloned().unwrap_or(Value::Null),
                reviews: reviews.collect(),
            }
        });
        Self { server, storage, schemas, webhook, memo: Mutex::default() }
    }

    /// The `apiVersion` in which objects are stored.
    pub fn storage(&self) -> &str {
        &self.storage
    }

    /// The objects in the version `to`, in the same order; those that are of it already are not touched.
    pub async fn objects(
        &self,
        mut objects: Vec<Arc<Encoded>>,
        to: &str,
    ) -> Result<Vec<Arc<Encoded>>, Status> {
        let other: Vec<usize> = (0..objects.len()).filter(|i| objects[*i].api_version() != to).collect();
        if other.is_empty() {
            return Ok(objects);
        }
        let Some(webhook) = &self.webhook else {
            for i in other {
                let value = self.renamed(objects[i].object().value(), to);
                objects[i] = Object::from_value(value).encoded().clone();
            }
            return Ok(objects);
        };
        let mut rest = other.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |i: &usize| {
                bytes += objects[*i].json().len();
                bytes <= REVIEW_BYTES
            };
            let n = rest.iter().copied().take_while(fits).count().max(1);
            let (some, later) = rest.split_at(n);
            let some_objects: Vec<Arc<Object>> = some.iter().map(|i| objects[*i].object()).collect();
            let values: Vec<&Value> = some_objects.iter().map(|o| o.value()).collect();
            let converted = self.ask(webhook, &values, to).await?;
            for (i, mut value) in some.iter().zip(converted) {
                self.prune(&mut value, to);
                objects[*i] = Object::from_value(value).encoded().clone();
            }
            rest = later;
        }
        Ok(objects)
    }

    /// An object that is in the version `to` the same, without what that does not have.
    fn renamed(&self, value: &Value, to: &str) -> Value {
        let mut value = value.clone();
        value["apiVersion"] = json!(to);
        self.prune(&mut value, to);
        value
    }

    fn prune(&self, value: &mut Value, to: &str) {
        if let Some(schema) = self.schemas.get(to) {
            api::codec::prune(value, schema.schema());
        }
    }

    /// One object in the version `to`.
    pub async fn object(&self, object: Arc<Object>, to: &str) -> Result<Arc<Object>, Status> {
        if object.api_version() == to {
            return Ok(object);
        }
        let mut one = self.objects(vec![object.encoded().clone()], to).await?;
        one.pop().map(|o| o.object()).ok_or_else(|| Status::internal("a conversion lost its object"))
    }

    /// A decoded object in the version in which it is stored.
    pub async fn to_storage(&self, value: Value) -> Result<Value, Status> {
        self.value(value, &self.storage).await
    }

    /// A decoded object in the version `to`, with all that it has.
    pub async fn value(&self, mut value: Value, to: &str) -> Result<Value, Status> {
        if text(&value, "/apiVersion") == to {
            return Ok(value);
        }
        let Some(webhook) = &self.webhook else {
            value["apiVersion"] = json!(to);
            return Ok(value);
        };
        let mut one = self.ask(webhook, &[&value], to).await?;
        one.pop().ok_or_else(|| Status::internal("a conversion lost its object"))
    }

    /// An object in the version `to` without what that does not have, if it takes no webhook to know it.
    pub fn by_name(&self, value: &Value, to: &str) -> Option<Value> {
        self.webhook.is_none().then(|| self.renamed(value, to))
    }

    /// Decoded objects, all of one version, in the version `to` without what that does not have.
    pub async fn values(&self, values: &[Value], to: &str) -> Result<Vec<Value>, Status> {
        let Some(webhook) = &self.webhook else {
            return Ok(values.iter().map(|v| self.renamed(v, to)).collect());
        };
        let mut out = self.ask(webhook, &values.iter().collect::<Vec<_>>(), to).await?;
        for value in &mut out {
            self.prune(value, to);
        }
        Ok(out)
    }

    /// Watch events in the version `to`; what one watcher had converted, the others of the version share.
    pub async fn events(
        &self,
        events: Vec<Arc<CacheEvent>>,
        to: &str,
    ) -> Result<Vec<Arc<CacheEvent>>, Status> {
        let mut out = Vec::with_capacity(events.len());
        for event in events {
            let states = std::iter::once(&event.object).chain(&event.previous);
            if states.into_iter().all(|o| o.api_version() == to) {
                out.push(event);
                continue;
            }
            let name = local_key(event.object.namespace(), event.object.name());
            let key = (to.to_owned(), event.revision, name);
            if let Some(known) = self.memo.lock().events.get(&key) {
                out.push(known.clone());
                continue;
            }
            let mut states = vec![event.object.clone()];
            states.extend(event.previous.clone());
            let mut states = self.objects(states, to).await?.into_iter();
            let Some(object) = states.next() else { continue };
            let converted = Arc::new(CacheEvent::new(event.change, object, states.next(), event.revision));
            let mut memo = self.memo.lock();
            if memo.events.insert(key.clone(), converted.clone()).is_none() {
                memo.order.push_back(key);
            }
            if memo.order.len() > REMEMBERED
                && let Some(oldest) = memo.order.pop_front()
            {
                memo.events.remove(&oldest);
            }
            out.push(converted);
        }
        Ok(out)
    }

    async fn ask(&self, webhook: &Webhook, values: &[&Value], to: &str) -> Result<Vec<Value>, Status> {
        let first = values.first().copied().unwrap_or(&Value::Null);
        let what = || {
            format!("conversion webhook for {}, Kind={}", text(first, "/apiVersion"), text(first, "/kind"))
        };
        let failed = |why: String| Status::failure(500, "", format!("{} {why}", what()));
        let Some(server) = self.server.upgrade() else {
            return Err(Status::unavailable("the server is shutting down"));
        };
        let uid = base::rng::uuid();
        let version = webhook.reviews.iter().map(String::as_str).find(|v| matches!(*v, "v1" | "v1beta1"));
        let version = format!("apiextensions.k8s.io/{}", version.unwrap_or("v1"));
        let review = json!({"kind": "ConversionReview", "apiVersion": version,
            "request": {"uid": uid, "desiredAPIVersion": to, "objects": values}});
        let callback = server
            .callback(&webhook.config, TIMEOUT.as_secs())
            .map_err(|why| failed(format!("failed: {why}")))?;
        // A conversion changes nothing: it may be asked for twice.
        let asked = post(&server.pool, &callback, &review, true);
        let answer = match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(answer) => answer,
            Err(_) => Err("context deadline exceeded".to_owned()),
        };
        let answer = answer.map_err(|why| failed(format!("failed: Post \"{}\": {why}", callback.shown)))?;
        let converted = converted(answer, &version, &uid).map_err(|why| failed(format!("failed: {why}")))?;
        if converted.len() != values.len() {
            return Err(failed(format!("returned {} objects, expected {}", converted.len(), values.len())));
        }
        let mut out = Vec::with_capacity(converted.len());
        for (i, (mut new, old)) in converted.into_iter().zip(values).enumerate() {
            check(&new, old, to)
                .map_err(|why| failed(format!("returned invalid converted object at index {i}: {why}")))?;
            restore_metadata(&mut new, old)
                .map_err(|why| failed(format!("returned invalid metadata in object at index {i}: {why}")))?;
            out.push(new);
        }
        Ok(out)
    }
}

/// The objects that a webhook answered with.
fn converted(mut answer: Value, version: &str, uid: &str) -> Result<Vec<Value>, String> {
    let is = (text(&answer, "/apiVersion"), text(&answer, "/kind"));
    // What spoke v1beta1 was never held to say so, nor to return the uid.
    let strict = version.ends_with("/v1");
    if strict && is != (version, "ConversionReview") {
        return Err(format!(
            "expected webhook response of {version}, Kind=ConversionReview, got {}, Kind={}",
            is.0, is.1
        ));
    }
    let Some(response) = answer.get_mut("response").filter(|r| !r.is_null()) else {
        return Err("no response provided".into());
    };
    if strict && text(response, "/uid") != uid {
        return Err(format!("expected response.uid=\"{uid}\", got \"{}\"", text(response, "/uid")));
    }
    let status = text(response, "/result/status");
    if status != "Success" {
        return Err(match text(response, "/result/message") {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_owned(),
        });
    }
    match response.get_mut("convertedObjects").map(Value::take) {
        Some(Value::Array(list)) => Ok(list),
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(_) => Err("response.convertedObjects is not a list".into()),
    }
}

/// Takes what a webhook answers for one object.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_answer(answer: Value, old: &Value) {
    for version in ["apiextensions.k8s.io/v1", "apiextensions.k8s.io/v1beta1"] {
        for mut new in converted(answer.clone(), version, "u").unwrap_or_default() {
            if check(&new, old, "a.example/v2").and_then(|()| restore_metadata(&mut new, old)).is_ok() {
                assert_eq!(
                    text(&new, "/metadata/uid"),
                    text(old, "/metadata/uid"),
                    "it stays the same object"
                );
            }
        }
    }
}

/// A converted object is still the same object, in the version that was asked for.
fn check(new: &Value, old: &Value, to: &str) -> Result<(), String> {
    let differ = |what: &str, a: &str, b: &str| Err(format!("must have the same {what}: {a} != {b}"));
    if text(new, "/apiVersion") != to {
        let is = text(new, "/apiVersion");
        return Err(format!("invalid groupVersion (expected {to}, received {is})"));
    }
    if text(new, "/kind") != text(old, "/kind") {
        let (want, is) = (text(old, "/kind"), text(new, "/kind"));
        return Err(format!("invalid kind (expected {want}, received {is})"));
    }
    for field in ["name", "namespace", "uid"] {
        let pointer = format!("/metadata/{field}");
        let (a, b) = (text(old, &pointer), text(new, &pointer));
        if a != b {
            return differ(&field.replace("uid", "UID"), a, b);
        }
    }
    Ok(())
}

/// Of the metadata a webhook may change the labels and annotations; the rest is as it was.
fn restore_metadata(new: &mut Value, old: &Value) -> Result<(), String> {
    let mut meta = api::meta::of(old).clone();
    let Some(theirs) = new.get("metadata").and_then(Value::as_object) else {
        return Err("missing metadata in converted object".into());
    };
    for field in ["labels", "annotations"] {
        let map = api::meta::as_map(&mut meta);
        match theirs.get(field) {
            None | Some(Value::Null) => {
                map.shift_remove(field);
            }
            Some(Value::Object(entries)) => {
                if let Some((key, _)) = entries.iter().find(|(_, v)| !v.is_string()) {
                    return Err(format!("metadata.{field}: the value of \"{key}\" is not a string"));
                }
                map.insert(field.to_owned(), Value::Object(entries.clone()));
            }
            Some(_) => return Err(format!("metadata.{field} is not a map of strings")),
        }
    }
    new["metadata"] = meta;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged() {
        let v1 = "apiextensions.k8s.io/v1";
        let good = json!({"apiVersion": v1, "kind": "ConversionReview",
            "response": {"uid": "u", "result": {"status": "Success"}, "convertedObjects": [{}]}});
        assert_eq!(converted(good.clone(), v1, "u").unwrap().len(), 1);
        assert_eq!(converted(good, v1, "other").unwrap_err(), "expected response.uid=\"other\", got \"u\"");
        let old = json!({"response": {"result": {"status": "Success"}, "convertedObjects": []}});
        assert!(converted(old.clone(), "apiextensions.k8s.io/v1beta1", "u").is_ok());
        assert!(converted(old, v1, "u").unwrap_err().starts_with("expected webhook response of"));
        let no = json!({"apiVersion": v1, "kind": "ConversionReview",
            "response": {"uid": "u", "result": {"status": "Failed", "message": "cannot"}}});
        assert_eq!(converted(no, v1, "u").unwrap_err(), "cannot");
        assert_eq!(
            converted(json!({}), "apiextensions.k8s.io/v1beta1", "u").unwrap_err(),
            "no response provided"
        );
    }

    #[test]
    fn the_object_stays_the_same() {
        let old = json!({"apiVersion": "g/v1", "kind": "Foo", "metadata": {"name": "a", "uid": "u",
            "resourceVersion": "7", "labels": {"a": "b"}, "finalizers": ["x"]}});
        let mut new = json!({"apiVersion": "g/v2", "kind": "Foo",
            "metadata": {"name": "a", "uid": "u", "labels": {"c": "d"}, "annotations": null, "finalizers": []}});
        check(&new, &old, "g/v2").unwrap();
        restore_metadata(&mut new, &old).unwrap();
        let want = json!({"name": "a", "uid": "u", "resourceVersion": "7", "labels": {"c": "d"}, "finalizers": ["x"]});
        assert_eq!(new["metadata"], want);
        assert_eq!(
            check(&new, &old, "g/v3").unwrap_err(),
            "invalid groupVersion (expected g/v3, received g/v2)"
        );
        new["metadata"]["name"] = json!("b");
        assert_eq!(check(&new, &old, "g/v2").unwrap_err(), "must have the same name: a != b");
        assert!(restore_metadata(&mut json!({}), &old).is_err());
        let mut odd = json!({"metadata": {"labels": {"a": 1}}});
        assert!(restore_metadata(&mut odd, &old).is_err());
    }
}
