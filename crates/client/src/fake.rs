//! An API server in memory, for tests of those who use one: it keeps whatever objects it is given, with revisions, watches,
//! finalizers, sub-resources for status, binding, eviction, scale and finalize, and fails when told to. It neither
//! defaults nor validates (but for statuses, if asked to) nor authorizes: that is for tests against the real one.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Gvr, Key, Object, Status, Value, meta, object};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::mpsc;

use crate::{
    BoxBody, BoxStream, Client, Duplex, Error, ListOptions, ObjectList, Result, Transport, WatchEvent,
    WatchKind, WatchOptions,
};

struct Watcher {
    gvr: Gvr,
    ns: Option<String>,
    options: WatchOptions,
    queue: mpsc::UnboundedSender<WatchEvent>,
}

impl Watcher {
    fn sees(&self, object: Option<&Object>) -> bool {
        object.is_some_and(|o| {
            self.ns.as_deref().is_none_or(|ns| ns == o.namespace())
                && self.options.labels.matches(o.labels())
                && self.options.fields.matches(o.value())
        })
    }

    fn event(&self, change: &Logged) -> Option<WatchEvent> {
        if change.gvr != self.gvr {
            return None;
        }
        let kind = match (self.sees(change.old.as_deref()), self.sees(change.new.as_deref())) {
            (false, true) => WatchKind::Added,
            (true, true) => WatchKind::Modified,
            (true, false) => WatchKind::Deleted,
            (false, false) => return None,
        };
        let object = if kind == WatchKind::Deleted { change.last.clone() } else { change.new.clone()? };
        Some(WatchEvent { kind, object })
    }
}

struct Logged {
    gvr: Gvr,
    revision: u64,
    old: Option<Arc<Object>>,
    new: Option<Arc<Object>>,
    /// The old state with the revision of its end.
    last: Arc<Object>,
}

#[derive(Default)]
struct State {
    revision: u64,
    forgotten: u64,
    objects: BTreeMap<(Gvr, Key), Arc<Object>>,
    log: Vec<Logged>,
    watchers: Vec<Watcher>,
    failures: Vec<(String, String, Status)>,
    requests: Vec<String>,
    lists: usize,
    discovery: Vec<crate::discovery::Resource>,
    validates: bool,
}

/// The server; clones are the same one.
#[derive(Clone, Default)]
pub struct Fake {
    state: Arc<Mutex<State>>,
}

impl Fake {
    /// An empty server and a client of it.
    pub fn new() -> (Fake, Client) {
        let fake = Fake::default();
        fake.state.lock().revision = 1;
        let client = Client::new(Arc::new(fake.clone()));
        (fake, client)
    }

    /// Puts an object there as it is, past every rule; it gets a UID and a creation time if it has none.
    pub fn put(&self, gvr: &Gvr, mut object: Value) -> Arc<Object> {
        let mut state = self.state.lock();
        complete(&mut object);
        let key = Key::new(meta::namespace(&object), meta::name(&object));
        state.set(gvr, key, Some(object))
    }

    /// Takes an object away, past every rule.
    pub fn remove(&self, gvr: &Gvr, ns: &str, name: &str) {
        let mut state = self.state.lock();
        if state.objects.contains_key(&(gvr.clone(), Key::new(ns, name))) {
            state.set(gvr, Key::new(ns, name), None);
        }
    }

    /// An object as it is now.
    pub fn get(&self, gvr: &Gvr, ns: &str, name: &str) -> Option<Arc<Object>> {
        self.state.lock().objects.get(&(gvr.clone(), Key::new(ns, name))).cloned()
    }

    /// All objects of a resource as they are now.
    pub fn all(&self, gvr: &Gvr) -> Vec<Arc<Object>> {
        self.state.lock().objects.iter().filter(|((g, _), _)| g == gvr).map(|(_, o)| o.clone()).collect()
    }

    /// The next request with this method for this resource (with its sub-resource: `pods/binding`) fails so.
    pub fn fail_next(&self, method: &str, resource: &str, status: Status) {
        self.state.lock().failures.push((method.into(), resource.into(), status));
    }

    /// From now on a change of a status is refused that the real server would not take.
    pub fn validate_statuses(&self) {
        self.state.lock().validates = true;
    }

    /// Ends every watch, as a server that restarts does.
    pub fn break_watches(&self) {
        self.state.lock().watchers.clear();
    }

    /// Forgets what has happened so far, as compaction does.
    pub fn forget_history(&self) {
        let mut state = self.state.lock();
        state.forgotten = state.revision;
        state.log.clear();
    }

    /// How many lists were asked for.
    pub fn lists(&self) -> usize {
        self.state.lock().lists
    }

    /// The requests that changed something, oldest first: `POST pods`, `PUT deployments/status`.
    pub fn requests(&self) -> Vec<String> {
        self.state.lock().requests.clone()
    }

    /// What the discovery documents say.
    pub fn serve(&self, resources: Vec<crate::discovery::Resource>) {
        self.state.lock().discovery = resources;
    }
}

fn complete(object: &mut Value) {
    let now = meta::time(base::clock::now());
    let metadata = meta::of_mut(object);
    if let Some(prefix) = metadata.get("generateName").and_then(Value::as_str)
        && !metadata.contains_key("name")
    {
        let name = format!("{prefix}{}", base::rng::suffix(5));
        metadata.insert("name".into(), name.into());
    }
    metadata.entry("uid").or_insert_with(|| base::rng::uuid().into());
    metadata.entry("creationTimestamp").or_insert(now.into());
}

impl State {
    fn set(&mut self, gvr: &Gvr, key: Key, new: Option<Value>) -> Arc<Object> {
        self.revision += 1;
        let revision = self.revision;
        let id = (gvr.clone(), key);
        let stamped = |mut v: Value| {
            object::set_revision(&mut v, revision);
            Object::from_value(v)
        };
        let new = new.map(stamped);
        let old = match &new {
            Some(o) => self.objects.insert(id, o.clone()),
            None => self.objects.remove(&id),
        };
        let last = match (&old, &new) {
            (Some(o), _) => stamped(o.value().clone()),
            (None, Some(n)) => n.clone(),
            (None, None) => Object::from_value(json!({})),
        };
        let change = Logged { gvr: gvr.clone(), revision, old, new: new.clone(), last: last.clone() };
        self.watchers.retain(|w| w.event(&change).is_none_or(|e| w.queue.send(e).is_ok()));
        self.log.push(change);
        new.unwrap_or(last)
    }

    fn discovery(&self, path: &str) -> Option<Value> {
        let version = |g: &str, v: &str| json!({"groupVersion": api::names::api_version(g, v), "version": v});
        let resources = |group: &str, version: &str| {
            let list = self.discovery.iter().filter(|r| r.gvr.group == group && r.gvr.version == version);
            let list: Vec<Value> = list
                .map(|r| json!({"name": r.gvr.resource, "kind": r.kind, "namespaced": r.namespaced, "verbs": r.verbs}))
                .collect();
            json!({"kind": "APIResourceList", "resources": list})
        };
        match path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
            ["api", v] => Some(resources("", v)),
            ["apis"] => {
                let mut groups: Vec<_> = self
                    .discovery
                    .iter()
                    .map(|r| (r.gvr.group.to_string(), r.gvr.version.to_string()))
                    .collect();
                groups.retain(|(g, _)| !g.is_empty());
                groups.sort();
                groups.dedup();
                let groups: Vec<Value> = groups
                    .iter()
                    .map(|(g, v)| json!({"name": g, "preferredVersion": version(g, v), "versions": [version(g, v)]}))
                    .collect();
                Some(json!({"kind": "APIGroupList", "groups": groups}))
            }
            ["apis", g, v] => Some(resources(g, v)),
            _ => None,
        }
    }

    fn handle(&mut self, method: &Method, path: &str, body: Value, strategic: bool) -> Result<Value, Status> {
        let route = Route::parse(path).ok_or_else(Status::no_such_path)?;
        let Route { gvr, ns, name, sub } = &route;
        let full = if sub.is_empty() { gvr.resource.to_string() } else { format!("{}/{sub}", gvr.resource) };
        if let Some(at) = self.failures.iter().position(|(m, r, _)| m == method.as_str() && *r == full) {
            return Err(self.failures.remove(at).2);
        }
        if method != Method::GET {
            self.requests.push(format!("{method} {full}"));
        }
        let key = Key::new(ns.clone(), name.clone());
        let id = (gvr.clone(), key.clone());
        if name.is_empty() {
            if method == Method::DELETE {
                let keys: Vec<Key> = self
                    .objects
                    .keys()
                    .filter(|(g, k)| g == gvr && (ns.is_empty() || k.namespace == *ns))
                    .map(|(_, k)| k.clone())
                    .collect();
                for key in keys {
                    self.delete(gvr, key, &body)?;
                }
                return Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}));
            }
            let mut object = body;
            complete(&mut object);
            if !ns.is_empty() {
                meta::of_mut(&mut object).insert("namespace".into(), ns.as_str().into());
            }
            let key = Key::new(ns.clone(), meta::name(&object));
            if self.objects.contains_key(&(gvr.clone(), key.clone())) {
                return Err(Status::already_exists(gvr, meta::name(&object)));
            }
            return Ok(self.set(gvr, key, Some(object)).value().clone());
        }
        let Some(old) = self.objects.get(&id).cloned() else { return Err(Status::not_found(gvr, name)) };
        match (method.as_str(), sub.as_str()) {
            ("GET", "") | ("GET", "status") => Ok(old.value().clone()),
            ("GET", "scale") => {
                let object = old.value();
                let spec = json!({"replicas": object["spec"]["replicas"]});
                Ok(json!({"kind": "Scale", "metadata": object["metadata"], "spec": spec}))
            }
            ("POST", "binding") => {
                let mut pod = old.value().clone();
                if pod["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty()) {
                    return Err(Status::conflict(gvr, name, "pod is already assigned to a node"));
                }
                pod["spec"]["nodeName"] = body["target"]["name"].clone();
                self.set(gvr, key, Some(pod));
                Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}))
            }
            ("POST", "eviction") => {
                self.delete(gvr, key, &body["deleteOptions"])?;
                Ok(json!({"kind": "Status", "apiVersion": "v1", "status": "Success", "code": 201}))
            }
            ("PUT", "scale") => {
                let mut object = old.value().clone();
                object["spec"]["replicas"] = body["spec"]["replicas"].clone();
                Ok(self.set(gvr, key, Some(object)).value().clone())
            }
            ("PUT", _) => {
                let revision = meta::resource_version(&body);
                if !revision.is_empty() && revision != old.revision().to_string() {
                    return Err(Status::modified(gvr, name));
                }
                Ok(self.change(gvr, key, &old, body, sub)?.value().clone())
            }
            ("PATCH", _) => {
                let revision = meta::resource_version(&body);
                if !revision.is_empty() && revision != old.revision().to_string() {
                    return Err(Status::modified(gvr, name));
                }
                let new = if strategic {
                    let kind = api::kinds::by_gvr(gvr);
                    let version = kind.and_then(|k| k.served(&gvr.group, &gvr.version));
                    let schema = version.map_or(api::schema::Schema::Any, |v| v.schema());
                    api::patch::strategic_merge(old.value(), &body, schema)?
                } else {
                    let mut new = old.value().clone();
                    api::patch::merge_patch(&mut new, &body);
                    new
                };
                Ok(self.change(gvr, key, &old, new, sub)?.value().clone())
            }
            ("DELETE", "") => self.delete(gvr, key, &body),
            _ => Err(Status::method_not_supported(gvr, method.as_str())),
        }
    }

    fn change(
        &mut self,
        gvr: &Gvr,
        key: Key,
        old: &Arc<Object>,
        mut new: Value,
        sub: &str,
    ) -> Result<Arc<Object>, Status> {
        if sub == "status" {
            let status = new["status"].take();
            new = old.value().clone();
            new["status"] = status;
            if self.validates
                && let Some(kind) = api::kinds::by_gvr(gvr)
            {
                kind.strategy.prepare_status(&mut new, old.value());
                let errors = kind.strategy.validate_status(&new, old.value());
                if !errors.is_empty() {
                    return Err(Status::invalid(&kind.gvk(), &key.name, &errors));
                }
            }
        }
        for field in ["uid", "creationTimestamp", "deletionTimestamp"] {
            let kept = old.at(&["metadata", field]).clone();
            if !kept.is_null() {
                meta::of_mut(&mut new).insert(field.into(), kept);
            }
        }
        let mut compared = new.clone();
        object::set_revision(&mut compared, old.revision());
        if compared == *old.value() {
            return Ok(old.clone());
        }
        if gvr.resource != "namespaces" && new["spec"] != *old.spec() {
            let generation = meta::generation(old.value()) + 1;
            meta::of_mut(&mut new).insert("generation".into(), generation.into());
        }
        let finished =
            meta::is_deleting(&new) && meta::finalizers(&new).next().is_none() && !waits(gvr, &new);
        Ok(self.set(gvr, key, (!finished).then_some(new)))
    }

    fn delete(&mut self, gvr: &Gvr, key: Key, options: &Value) -> Result<Value, Status> {
        let Some(old) = self.objects.get(&(gvr.clone(), key.clone())).cloned() else {
            return Err(Status::not_found(gvr, &key.name));
        };
        if options["preconditions"]["uid"].as_str().is_some_and(|u| u != old.uid()) {
            return Err(Status::conflict(
                gvr,
                &key.name,
                "the UID in the precondition is not that of the object",
            ));
        }
        let mut new = old.value().clone();
        match options["propagationPolicy"].as_str() {
            Some("Foreground") => drop(meta::add_finalizer(&mut new, "foregroundDeletion")),
            Some("Orphan") => drop(meta::add_finalizer(&mut new, "orphan")),
            _ => {}
        }
        let graceful = gvr.resource == "pods"
            && options["gracePeriodSeconds"].as_i64() != Some(0)
            && new["spec"]["nodeName"].as_str().is_some_and(|n| !n.is_empty())
            && !matches!(new["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
        if meta::finalizers(&new).next().is_none() && !graceful && !waits(gvr, &new) {
            return Ok(self.set(gvr, key, None).value().clone());
        }
        if !meta::is_deleting(&new) {
            let now = meta::time(base::clock::now());
            meta::of_mut(&mut new).insert("deletionTimestamp".into(), now.into());
            if gvr.resource == "namespaces" {
                new["status"]["phase"] = "Terminating".into();
            }
        }
        Ok(self.set(gvr, key, Some(new)).value().clone())
    }
}

/// Whether a namespace still waits for its own finalizers.
fn waits(gvr: &Gvr, object: &Value) -> bool {
    gvr.resource == "namespaces" && object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
}

struct Route {
    gvr: Gvr,
    ns: String,
    name: String,
    sub: String,
}

impl Route {
    fn parse(path: &str) -> Option<Route> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let route = |ns: &str, resource: &str, name: &str, sub: &str| {
            Some(Route {
                gvr: Gvr::owned(group, version, resource),
                ns: ns.into(),
                name: name.into(),
                sub: sub.into(),
            })
        };
        match rest {
            ["namespaces", name, "finalize"] => route("", "namespaces", name, "finalize"),
            ["namespaces", name, "status"] => route("", "namespaces", name, "status"),
            ["namespaces", ns, resource] => route(ns, resource, "", ""),
            ["namespaces", ns, resource, name] => route(ns, resource, name, ""),
            ["namespaces", ns, resource, name, sub] => route(ns, resource, name, sub),
            [resource] => route("", resource, "", ""),
            [resource, name] => route("", resource, name, ""),
            [resource, name, sub] => route("", resource, name, sub),
            _ => None,
        }
    }
}

#[async_trait]
impl Transport for Fake {
    async fn call(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        // Others get their turn, as with a real server.
        tokio::task::yield_now().await;
        let body: Value = if request.body().is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(request.body()).map_err(|e| Error::Decode(e.to_string()))?
        };
        let path =
            percent_encoding::percent_decode_str(request.uri().path()).decode_utf8_lossy().into_owned();
        let mut state = self.state.lock();
        if request.method() == Method::GET
            && let Some(document) = state.discovery(&path)
        {
            return Ok(Response::new(object::encode(&document).into()));
        }
        let strategic = request
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_some_and(|t| t.as_bytes().starts_with(b"application/strategic-merge-patch"));
        let (code, body) = match state.handle(request.method(), &path, body, strategic) {
            Ok(value) => (200, object::encode(&value)),
            Err(status) => (status.code, status.to_json()),
        };
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() =
            http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        Ok(response)
    }

    async fn open(&self, _: Request<Bytes>) -> Result<Response<BoxBody>> {
        Err(Error::Unsupported("a streaming answer"))
    }

    async fn upgrade(&self, _: Request<()>) -> Result<(Response<()>, Box<dyn Duplex>)> {
        Err(Error::Unsupported("switching protocols"))
    }

    async fn list(&self, gvr: &Gvr, ns: Option<&str>, options: &ListOptions) -> Result<ObjectList> {
        tokio::task::yield_now().await;
        let mut state = self.state.lock();
        state.lists += 1;
        let items = state.objects.iter().filter(|((g, _), o)| {
            g == gvr
                && ns.is_none_or(|ns| ns == o.namespace())
                && options.labels.matches(o.labels())
                && options.fields.matches(o.value())
        });
        let items = items.map(|(_, o)| o.clone()).collect();
        Ok(ObjectList { revision: state.revision, items, next: String::new() })
    }

    async fn watch(
        &self,
        gvr: &Gvr,
        ns: Option<&str>,
        options: &WatchOptions,
    ) -> Result<BoxStream<'static, Result<WatchEvent>>> {
        let mut state = self.state.lock();
        if options.revision != 0 && options.revision < state.forgotten {
            return Err(Status::expired("too old resource version").into());
        }
        let (queue, events) = mpsc::unbounded_channel();
        let watcher = Watcher { gvr: gvr.clone(), ns: ns.map(String::from), options: options.clone(), queue };
        if options.revision == 0 {
            for ((g, _), o) in &state.objects {
                if g == gvr && watcher.sees(Some(o)) {
                    let _ = watcher.queue.send(WatchEvent { kind: WatchKind::Added, object: o.clone() }); // just made
                }
            }
        } else {
            for change in state.log.iter().filter(|c| c.revision > options.revision) {
                if let Some(event) = watcher.event(change) {
                    let _ = watcher.queue.send(event);
                }
            }
        }
        state.watchers.push(watcher);
        let events = tokio_stream::wrappers::UnboundedReceiverStream::new(events);
        Ok(Box::pin(futures::StreamExt::map(events, Ok)))
    }
}
