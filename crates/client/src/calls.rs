//! The calls: get, list, create, update, patch, apply, delete, sub-resources.
//!
//! A namespace of `""` means none: a cluster-scoped object, or, when listing, all namespaces.

use std::path::Path;
use std::sync::Arc;

use api::{Gvr, Object, Status, Value};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::json;

use crate::{
    BoxBody, BoxStream, Duplex, Error, Https, Kubeconfig, ListOptions, ObjectList, Result, Transport,
    WatchEvent, WatchOptions,
};

/// What may stand in a path segment or a query value as it is.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');

/// The API, as one user. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    manager: Arc<str>,
}

/// The kinds of patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' own, which merges lists by their keys.
    Strategic,
}

/// What becomes of the objects that the deleted one owns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted after it.
    Background,
    /// They are deleted before it.
    Foreground,
    /// They stay, without an owner.
    Orphan,
}

/// How to delete.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds that the object has to end; `None`: as it says itself.
    pub grace_period_seconds: Option<i64>,
    /// What becomes of what it owns; `None`: the kind's default.
    pub propagation: Option<Propagation>,
    /// Only if this is its UID: not another object of the same name.
    pub uid: Option<String>,
    /// Only if it is still at this revision.
    pub revision: Option<u64>,
}

impl DeleteOptions {
    /// Only the object with this UID.
    pub fn uid(uid: &str) -> Self {
        Self { uid: Some(uid.into()), ..Self::default() }
    }

    /// The object as `kubectl delete` with its default does: dependents in the background.
    pub fn background() -> Self {
        Self { propagation: Some(Propagation::Background), ..Self::default() }
    }

    fn body(&self) -> Value {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(s) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = s.into();
        }
        if let Some(p) = self.propagation {
            body["propagationPolicy"] = format!("{p:?}").into();
        }
        if let Some(uid) = &self.uid {
            body["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(revision) = self.revision {
            body["preconditions"]["resourceVersion"] = revision.to_string().into();
        }
        body
    }
}

impl Client {
    /// A client over `transport`.
    pub fn new(transport: Arc<dyn Transport>) -> Self {
        Self { transport, manager: "tug".into() }
    }

    /// A client for the current context of the kubeconfig file `path`.
    pub fn from_kubeconfig(path: &Path) -> Result<Self> {
        let endpoint = Kubeconfig::load(path)?.current()?;
        Ok(Self::new(Arc::new(Https::new(&endpoint)?)))
    }

    /// The same, named `manager` in the managed fields and as user agent (`kube-scheduler`).
    pub fn named(&self, manager: &str) -> Self {
        Self { transport: self.transport.clone(), manager: manager.into() }
    }

    /// What carries the calls.
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.transport
    }

    /// Reads an object.
    pub async fn get(&self, gvr: &Gvr, ns: &str, name: &str) -> Result<Arc<Object>> {
        self.object(Method::GET, object_path(gvr, ns, name, None), None).await
    }

    /// Lists objects.
    pub async fn list(&self, gvr: &Gvr, ns: &str, options: &ListOptions) -> Result<ObjectList> {
        self.transport.list(gvr, some(ns), options).await
    }

    /// Watches objects.
    pub async fn watch(
        &self,
        gvr: &Gvr,
        ns: &str,
        options: &WatchOptions,
    ) -> Result<BoxStream<'static, Result<WatchEvent>>> {
        self.transport.watch(gvr, some(ns), options).await
    }

    /// Makes an object.
    pub async fn create(&self, gvr: &Gvr, ns: &str, object: &Value) -> Result<Arc<Object>> {
        self.object(Method::POST, self.managed(gvr.path(some(ns))), Some(object)).await
    }

    /// Posts to an object's sub-resource: `binding`, `eviction`, `token`.
    pub async fn create_sub(
        &self,
        gvr: &Gvr,
        ns: &str,
        name: &str,
        sub: &str,
        body: &Value,
    ) -> Result<Arc<Object>> {
        self.object(Method::POST, self.managed(object_path(gvr, ns, name, Some(sub))), Some(body)).await
    }

    /// Replaces an object, which its own metadata name; with a `resourceVersion` only if it is still that.
    pub async fn update(&self, gvr: &Gvr, object: &Value) -> Result<Arc<Object>> {
        let path = object_path(gvr, api::meta::namespace(object), api::meta::name(object), None);
        self.object(Method::PUT, self.managed(path), Some(object)).await
    }

    /// Replaces an object's sub-resource (`status`, `finalize`).
    pub async fn update_sub(&self, gvr: &Gvr, sub: &str, object: &Value) -> Result<Arc<Object>> {
        let path = object_path(gvr, api::meta::namespace(object), api::meta::name(object), Some(sub));
        self.object(Method::PUT, self.managed(path), Some(object)).await
    }

    /// Patches an object.
    pub async fn patch(
        &self,
        gvr: &Gvr,
        ns: &str,
        name: &str,
        kind: PatchType,
        patch: &Value,
    ) -> Result<Arc<Object>> {
        self.patch_at(self.managed(object_path(gvr, ns, name, None)), kind.media_type(), patch).await
    }

    /// Patches an object's sub-resource.
    pub async fn patch_sub(
        &self,
        gvr: &Gvr,
        ns: &str,
        name: &str,
        sub: &str,
        kind: PatchType,
        patch: &Value,
    ) -> Result<Arc<Object>> {
        self.patch_at(self.managed(object_path(gvr, ns, name, Some(sub))), kind.media_type(), patch).await
    }

    /// Server-side apply: these fields shall be as given, and are `manager`'s; `force` takes them from other managers.
    pub async fn apply(
        &self,
        gvr: &Gvr,
        ns: &str,
        name: &str,
        manager: &str,
        force: bool,
        object: &Value,
    ) -> Result<Arc<Object>> {
        let query = format!("?fieldManager={}&force={force}", encode(manager));
        self.patch_at(object_path(gvr, ns, name, None) + &query, "application/apply-patch+yaml", object).await
    }

    async fn patch_at(&self, path: String, media_type: &str, patch: &Value) -> Result<Arc<Object>> {
        let request = Request::builder()
            .method(Method::PATCH)
            .uri(path)
            .header(header::CONTENT_TYPE, media_type)
            .header(header::ACCEPT, "application/json");
        self.send(request, api::object::encode(patch).into()).await
    }

    /// Deletes an object. What comes back is the object in its last state or, if it must end first, as it is now; `None`
    /// if the server only says that it is done.
    pub async fn delete(
        &self,
        gvr: &Gvr,
        ns: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Option<Arc<Object>>> {
        let answer =
            self.object(Method::DELETE, object_path(gvr, ns, name, None), Some(&options.body())).await?;
        Ok((answer.kind() != "Status").then_some(answer))
    }

    /// Deletes every object that matches.
    pub async fn delete_collection(
        &self,
        gvr: &Gvr,
        ns: &str,
        selection: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<()> {
        let mut query = Vec::new();
        if !selection.labels.is_everything() {
            query.push(format!("labelSelector={}", encode(&selection.labels.to_string())));
        }
        if !selection.fields.is_everything() {
            query.push(format!("fieldSelector={}", encode(&selection.fields.to_string())));
        }
        let mut path = gvr.path(some(ns));
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        self.object(Method::DELETE, path, Some(&options.body())).await.map(|_| ())
    }

    /// Reads any document of the server, by its path.
    pub async fn raw(&self, path: &str) -> Result<Value> {
        let request = Request::get(path).header(header::ACCEPT, "application/json");
        let response = self.transport.call(build(request, Bytes::new())?).await?;
        let body = checked(&response)?;
        serde_json::from_slice(body).map_err(|e| Error::Decode(format!("{path}: {e}")))
    }

    /// What a sub-resource shows of an object, such as its `scale`.
    pub async fn get_sub(&self, gvr: &Gvr, ns: &str, name: &str, sub: &str) -> Result<Value> {
        self.raw(&object_path(gvr, ns, name, Some(sub))).await
    }

    /// One request as it is, with the whole answer.
    pub async fn call(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        self.transport.call(request).await
    }

    /// One request whose answer goes on.
    pub async fn open(&self, request: Request<Bytes>) -> Result<Response<BoxBody>> {
        self.transport.open(request).await
    }

    /// One request that switches protocols.
    pub async fn upgrade(&self, request: Request<()>) -> Result<(Response<()>, Box<dyn Duplex>)> {
        self.transport.upgrade(request).await
    }

    fn managed(&self, path: String) -> String {
        format!("{path}?fieldManager={}", encode(&self.manager))
    }

    async fn object(&self, method: Method, path: String, body: Option<&Value>) -> Result<Arc<Object>> {
        let mut request =
            Request::builder().method(method).uri(path).header(header::ACCEPT, "application/json");
        let mut bytes = Bytes::new();
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json");
            bytes = api::object::encode(body).into();
        }
        self.send(request, bytes).await
    }

    async fn send(&self, request: http::request::Builder, body: Bytes) -> Result<Arc<Object>> {
        let request = build(request.header(header::USER_AGENT, &*self.manager), body)?;
        let response = self.transport.call(request).await?;
        checked(&response)?;
        Object::from_json(response.into_body()).map_err(|e| Error::Decode(e.to_string()))
    }
}

impl PatchType {
    /// The `Content-Type` of such a patch.
    pub fn media_type(self) -> &'static str {
        match self {
            PatchType::Json => "application/json-patch+json",
            PatchType::Merge => "application/merge-patch+json",
            PatchType::Strategic => "application/strategic-merge-patch+json",
        }
    }
}

/// The URL path of an object or of one of its sub-resources.
pub(crate) fn object_path(gvr: &Gvr, ns: &str, name: &str, sub: Option<&str>) -> String {
    let path = format!("{}/{}", gvr.path(some(ns)), encode(name));
    match sub {
        Some(sub) => format!("{path}/{sub}"),
        None => path,
    }
}

pub(crate) fn encode(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, PLAIN)
}

fn some(ns: &str) -> Option<&str> {
    (!ns.is_empty()).then_some(ns)
}

fn build(request: http::request::Builder, body: Bytes) -> Result<Request<Bytes>> {
    request.body(body).map_err(|e| Error::Config(format!("the request cannot be sent: {e}")))
}

/// The body of an answer that is a success; else its `Status`.
pub(crate) fn checked(response: &Response<Bytes>) -> Result<&Bytes> {
    if response.status().is_success() {
        return Ok(response.body());
    }
    Err(refusal(response.status(), response.body()))
}

/// The error that an unsuccessful answer is.
pub(crate) fn refusal(code: http::StatusCode, body: &[u8]) -> Error {
    match serde_json::from_slice::<Status>(body) {
        Ok(status) if status.kind == "Status" => status.into(),
        _ => {
            let text: String = String::from_utf8_lossy(body).chars().take(300).collect();
            let reason = match code.as_u16() {
                401 => "Unauthorized",
                403 => "Forbidden",
                404 => "NotFound",
                410 => "Expired",
                429 => "TooManyRequests",
                500.. => "InternalError",
                _ => "Unknown",
            };
            Status::failure(code.as_u16(), reason, format!("{code}: {}", text.trim())).into()
        }
    }
}
