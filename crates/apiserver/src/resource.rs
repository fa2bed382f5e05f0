//! Requests on resources: finds the kind, checks that it has the verb, decodes, calls the registry, encodes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use api::codec::MediaType;
use api::schema::{Schema, TypeId};
use api::table::Include;
use api::{Kind, Object, Status, Value};
use bytes::Bytes;
use http::{Method, Response, StatusCode};
use tokio_util::sync::CancellationToken;

use crate::ApiServer;
use crate::body::Body;
use crate::conversion::Converter;
use crate::negotiate::{Accept, Form, Offer, accept};
use crate::path::RequestInfo;
use crate::pipeline::{Call, Payload, add_warnings, code_of, collect};
use crate::query::{ListOptions, VersionMatch, WriteOptions};
use crate::registry::{
    Context, DeleteOptions, Deleted, PatchBody, render_list, render_object, render_watch, reply_value,
};

/// Subresources that lead to a node or a pod.
pub(crate) const CONNECT: [&str; 5] = ["log", "exec", "attach", "portforward", "proxy"];

/// What watches are to be had in: YAML has no form of a stream.
const STREAMS: [&str; 2] =
    ["application/json;stream=watch", "application/vnd.kubernetes.protobuf;stream=watch"];

/// Group, version and resource of a path.
type Place = (String, String, String);

/// Every kind that is served, built in or custom. What one has that the next has too they share.
#[derive(Debug, Default)]
pub struct Kinds {
    /// All of them: first those that are built in, then the custom ones by the names of their definitions.
    pub all: Vec<Arc<Kind>>,
    /// Where those that are built in stand: the kind, and the version among its own.
    by_path: Arc<HashMap<Place, (usize, usize)>>,
    built_in: usize,
    /// Custom kinds, by the name of their definition.
    custom: BTreeMap<Arc<str>, Arc<Custom>>,
    /// By `apiVersion`: what an APIService leads to another server, whatever definitions say.
    elsewhere: Arc<HashSet<String>>,
}

/// A custom kind in each of its versions, and what converts between them.
#[derive(Debug)]
pub(crate) struct Custom {
    /// The kind as it is stored.
    pub(crate) stored: Arc<Kind>,
    /// By version: the kind as if that were the one it is stored in, with that version's rules and columns.
    pub(crate) versions: HashMap<String, Arc<Kind>>,
    pub(crate) converter: Arc<Converter>,
    /// Which state of its definition it was made of.
    pub(crate) made_of: String,
    /// Ends its watches when it is no longer served, or served otherwise.
    pub(crate) stop: CancellationToken,
}

/// A kind that is served at a path.
#[derive(Debug)]
pub struct Found {
    /// The kind.
    pub kind: Arc<Kind>,
    /// The index of the version among the kind's.
    pub version: usize,
    /// What brings its objects into that version, if it is a custom one.
    pub converter: Option<Arc<Converter>>,
}

impl Kinds {
    /// An index of `all`, which are built in.
    pub fn new(all: Vec<Arc<Kind>>) -> Self {
        let mut by_path = HashMap::new();
        for (i, kind) in all.iter().enumerate() {
            for (j, v) in kind.versions.iter().enumerate().filter(|(_, v)| v.served) {
                by_path.insert((v.group.clone(), v.version.clone(), kind.plural.clone()), (i, j));
            }
        }
        Self { built_in: all.len(), all, by_path: by_path.into(), ..Self::default() }
    }

    /// The same with other custom kinds.
    pub(crate) fn with(&self, custom: BTreeMap<Arc<str>, Arc<Custom>>) -> Self {
        let mut all = self.built_in().to_vec();
        all.extend(custom.values().map(|c| c.stored.clone()));
        let (by_path, elsewhere) = (self.by_path.clone(), self.elsewhere.clone());
        Self { all, by_path, built_in: self.built_in, custom, elsewhere }
    }

    /// The same where these are other servers' (each an `apiVersion`).
    pub(crate) fn with_elsewhere(&self, elsewhere: Arc<HashSet<String>>) -> Self {
        Self { elsewhere, ..self.with(self.custom.clone()) }
    }

    /// Whether a version of custom resources is another server's.
    pub(crate) fn is_elsewhere(&self, group: &str, version: &str) -> bool {
        let built_in = || self.built_in().iter().any(|k| k.served(group, version).is_some_and(|v| v.served));
        !self.elsewhere.is_empty()
            && self.elsewhere.contains(&api::names::api_version(group, version))
            && !built_in()
    }

    /// The custom kinds, by the names of their definitions.
    pub(crate) fn custom(&self) -> &BTreeMap<Arc<str>, Arc<Custom>> {
        &self.custom
    }

    /// Those that are built in.
    pub(crate) fn built_in(&self) -> &[Arc<Kind>] {
        self.all.get(..self.built_in).unwrap_or_default()
    }

    /// By the `apiVersion` of custom kinds that are served: which states of their definitions they are made of.
    pub(crate) fn stamps(&self) -> HashMap<String, String> {
        let mut stamps: HashMap<String, String> = HashMap::new();
        for custom in self.custom.values() {
            for version in custom.stored.versions.iter().filter(|v| v.served) {
                let stamp = stamps.entry(version.api_version()).or_default();
                stamp.push_str(&custom.made_of);
                stamp.push('\n');
            }
        }
        stamps
    }

    fn custom_at(&self, group: &str, resource: &str) -> Option<&Arc<Custom>> {
        self.custom.get(format!("{resource}.{group}").as_str())
    }

    /// The kind served at a path.
    pub fn find(&self, group: &str, version: &str, resource: &str) -> Option<Found> {
        let key = (group.to_owned(), version.to_owned(), resource.to_owned());
        if let Some((i, j)) = self.by_path.get(&key) {
            return Some(Found { kind: self.all.get(*i)?.clone(), version: *j, converter: None });
        }
        let custom = self.custom_at(group, resource)?;
        if self.is_elsewhere(group, version) {
            return None;
        }
        let kind = custom.versions.get(version)?;
        let at = kind.versions.iter().position(|v| v.version == version && v.served)?;
        Some(Found { kind: kind.clone(), version: at, converter: Some(custom.converter.clone()) })
    }

    /// The kind stored under a group and resource.
    pub fn stored(&self, group: &str, resource: &str) -> Option<Arc<Kind>> {
        let found = self.built_in().iter().find(|k| k.group == group && k.plural == resource);
        found.or_else(|| self.custom_at(group, resource).map(|c| &c.stored)).cloned()
    }
}

/// Refuses paths that a kind of this scope does not have. Authorization went by the namespace in the path, so that must be
/// the one that the object is in: a cluster-scoped kind has no paths inside a namespace, subresources included.
pub(crate) fn check_scope(kind: &Kind, version: usize, info: &RequestInfo) -> Result<(), Status> {
    let unsupported = || Status::method_not_supported(&kind.versions[version].gvr(kind), info.verb);
    let named = info.subresource.is_empty() && !info.name.is_empty();
    if !info.rest.is_empty() && info.subresource != "proxy" {
        return Err(Status::no_such_path());
    }
    // The name in the path was authorized, the one in the body would be created.
    if named && info.verb == "create" {
        return Err(unsupported());
    }
    match (kind.namespaced, info.namespace.is_empty()) {
        (true, false) | (false, true) => Ok(()),
        // A namespace is in itself, as far as paths go.
        (false, false) => {
            let itself = kind.group.is_empty() && kind.plural == "namespaces" && info.name == info.namespace;
            let collection = matches!(info.verb, "list" | "create" | "deletecollection");
            if itself && !(collection && info.subresource.is_empty()) {
                return Ok(());
            }
            Err(Status::no_such_path())
        }
        // Across all namespaces one can only read.
        (true, true) if !info.subresource.is_empty() => Err(Status::no_such_path()),
        (true, true) => match info.verb {
            "list" | "watch" => Ok(()),
            "create" | "deletecollection" => Err(unsupported()),
            _ => Err(Status::no_such_path()),
        },
    }
}

/// The name of the program that writes: what comes before the first slash of its user agent.
fn agent(call: &Call) -> String {
    let name = call.header("user-agent").split('/').next().unwrap_or("");
    let mut out = String::new();
    for c in name.chars().filter(|c| crate::query::is_printable(*c)) {
        if out.len() + c.len_utf8() > crate::query::MAX_MANAGER {
            break;
        }
        out.push(c);
    }
    if out.is_empty() { "unknown".into() } else { out }
}

/// A request on a resource on its way through.
pub(crate) struct Resolved {
    pub(crate) cx: Context,
    pub(crate) accept: Accept,
    pub(crate) include: Include,
    pub(crate) call: Call,
}

impl Resolved {
    /// Reads the body.
    pub(crate) async fn body(&mut self) -> Result<Bytes, Status> {
        let payload = std::mem::replace(self.call.request.body_mut(), Payload::Bytes(Bytes::new()));
        collect(payload).await
    }

    fn media(&self) -> Result<MediaType, Status> {
        MediaType::of(self.call.header("content-type")).ok_or_else(|| {
            Status::unsupported_media_type(&[
                "application/json",
                "application/yaml",
                "application/vnd.kubernetes.protobuf",
            ])
        })
    }

    /// Reads and decodes the body as the kind itself.
    pub(crate) async fn decode(&mut self, options: &WriteOptions) -> Result<Value, Status> {
        let media = self.media()?;
        let body = self.body().await?;
        let cx = &mut self.cx;
        let decoded =
            api::codec::decode(&body, media, &cx.kind, &cx.kind.versions[cx.version], options.validation)?;
        cx.warnings.extend(decoded.warnings);
        Ok(decoded.value)
    }

    /// Reads and decodes the body as another type, of the subresource.
    pub(crate) async fn decode_as(
        &mut self,
        gvk: &api::Gvk,
        options: &WriteOptions,
    ) -> Result<Value, Status> {
        let media = self.media()?;
        let body = self.body().await?;
        let schema = TypeId::of_gvk(&gvk.group, &gvk.version, &gvk.kind).map_or(Schema::Any, TypeId::schema);
        let decoded =
            api::codec::decode_as(&body, media, &gvk.api_version(), &gvk.kind, schema, options.validation)?;
        self.cx.warnings.extend(decoded.warnings);
        Ok(decoded.value)
    }

    /// The answer that is one object.
    pub(crate) fn object(&self, code: StatusCode, object: &Arc<Object>) -> Result<Response<Body>, Status> {
        render_object(&self.cx, code, &self.accept, self.include, object)
    }

    /// The answer that is a document of another type.
    pub(crate) fn document(&self, code: StatusCode, value: &Value) -> Result<Response<Body>, Status> {
        let text = |f: &str| value.get(f).and_then(Value::as_str).unwrap_or("");
        let (group, version) = api::names::split_api_version(text("apiVersion"));
        let schema = TypeId::of_gvk(group, version, text("kind")).map_or(Schema::Any, TypeId::schema);
        reply_value(code, &self.accept, value, schema)
    }

    pub(crate) fn write_options(&self) -> Result<WriteOptions, Status> {
        let kind = match *self.call.request.method() {
            Method::PUT => "UpdateOptions",
            Method::PATCH => "PatchOptions",
            _ => "CreateOptions",
        };
        WriteOptions::parse(&self.call.query, kind)
    }
}

impl ApiServer {
    /// Answers a request on a resource.
    pub(crate) async fn resource(self: &Arc<Self>, call: Call) -> Result<Response<Body>, Status> {
        let info = call.info.clone();
        let found = self.kinds.load().find(&info.group, &info.version, &info.resource);
        let Some(Found { kind, version, converter }) = found else {
            return self.elsewhere(call).await;
        };
        check_scope(&kind, version, &info)?;
        if CONNECT.contains(&info.subresource.as_str())
            && kind.versions[version].subresource(&info.subresource).is_some()
        {
            return self.connect(call, &kind).await;
        }
        // Reviews have no metadata to make a table of.
        let plain_only = !kind.is_stored() && kind.plural != "componentstatuses";
        let offer = match plain_only {
            true => Offer::Plain,
            // Custom resources have none, nor have some kinds of the past.
            false => Offer::Object { protobuf: kind.versions[version].schema.proto().is_some() },
        };
        let accept = accept(call.header("accept"), offer)?;
        let include = match (&accept.form, call.query.get("includeObject").unwrap_or("")) {
            (Form::Table(_), given) => Include::parse(given).ok_or_else(|| {
                Status::bad_request(format!(
                    "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty",
                    api::field::quote(given)
                ))
            })?,
            _ => Include::Metadata,
        };
        let mut warnings = Vec::new();
        warnings.extend(kind.versions[version].deprecation.clone());
        let cx = Context {
            user: call.user.clone(),
            info,
            kind,
            version,
            converter,
            agent: agent(&call),
            warnings,
        };
        let mut r = Resolved { cx, accept, include, call };
        let answer = if r.cx.info.subresource.is_empty() {
            self.itself(&mut r).await
        } else {
            self.subresource(&mut r).await
        };
        match answer {
            Ok(mut response) => {
                add_warnings(&mut response, &r.cx.warnings);
                Ok(response)
            }
            Err(status) => {
                let mut response = crate::registry::render_status(&status, r.call.header("accept"));
                add_warnings(&mut response, &r.cx.warnings);
                Ok(response)
            }
        }
    }

    async fn itself(self: &Arc<Self>, r: &mut Resolved) -> Result<Response<Body>, Status> {
        let gvr = r.cx.gvr();
        let unsupported = |action: &str| Status::method_not_supported(&gvr, action);
        if !r.cx.kind.is_stored() {
            return self.unstored(r).await;
        }
        let has = |verb: &str| r.cx.version().has_verb(verb);
        let verb = r.cx.info.verb;
        // A list or watch of one name came by the field selector, not by the path.
        let collection = matches!(verb, "list" | "watch" | "deletecollection");
        if !(has(verb) || verb == "watch" && has("list")) {
            return Err(unsupported(verb));
        }
        // What is new has no name in its path, and what is changed has one.
        let named = !r.cx.info.name.is_empty();
        match verb {
            "create" if named => Err(Status::method_not_allowed()),
            "update" | "patch" if !named => Err(Status::method_not_allowed()),
            "get" => {
                let version = VersionMatch::of_read(&r.call.query).map_err(Status::bad_request)?;
                self.fresh(version).await?;
                let object = self.cached_object(&r.cx, &r.cx.info.name).await?;
                r.object(StatusCode::OK, &object)
            }
            "list" => {
                let options = ListOptions::parse(&r.call.query, false)?;
                let listed = self.list(&r.cx, &options).await?;
                render_list(&r.cx, &r.accept, r.include, listed)
            }
            "watch" => {
                if r.accept.media == MediaType::Yaml {
                    return Err(Status::not_acceptable(&STREAMS));
                }
                let options = ListOptions::parse(&r.call.query, true)?;
                let running = r.call.request.extensions().get().cloned();
                render_watch(self, &r.cx, r.accept.clone(), r.include, &options, running).await
            }
            "create" => {
                let options = r.write_options()?;
                let value = r.decode(&options).await?;
                let object = self.create(&mut r.cx, value, &options).await?;
                r.object(StatusCode::CREATED, &object)
            }
            "update" => {
                let options = r.write_options()?;
                let value = r.decode(&options).await?;
                let (object, created) = self.update(&mut r.cx, value, "", &options).await?;
                r.object(code_of(created), &object)
            }
            "patch" => {
                let (object, created) = self.patch_request(r, "").await?;
                r.object(code_of(created), &object)
            }
            "delete" => {
                let options = self.delete_options(r).await?;
                let name = r.cx.info.name.clone();
                match self.delete(&mut r.cx, &name, &options).await? {
                    // As upstream has it for the sake of old clients, this says only to them that it will take a while.
                    Deleted::Going(object) if options.orphans == Some(false) => {
                        r.object(StatusCode::ACCEPTED, &object)
                    }
                    Deleted::Going(object) => r.object(StatusCode::OK, &object),
                    Deleted::Gone(object) if r.cx.kind.answers_deleted => r.object(StatusCode::OK, &object),
                    Deleted::Gone(object) => {
                        let status = Status::success(&gvr.group, &gvr.resource, object.name(), object.uid());
                        r.document(StatusCode::OK, &status.to_value())
                    }
                }
            }
            "deletecollection" if collection => {
                let options = self.delete_options(r).await?;
                let selection = ListOptions::parse(&r.call.query, false)?;
                let mut listed = self.list(&r.cx, &selection).await?;
                listed.items = self.delete_all(&mut r.cx, listed.items, &options).await?;
                render_list(&r.cx, &r.accept, r.include, listed)
            }
            other => Err(unsupported(other)),
        }
    }

    async fn delete_options(&self, r: &mut Resolved) -> Result<DeleteOptions, Status> {
        let body = r.body().await?;
        let value = if body.is_empty() {
            None
        } else {
            let media = r.media()?;
            let schema = TypeId::named("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions")
                .map_or(Schema::Any, TypeId::schema);
            let ignore = api::codec::FieldValidation::Ignore;
            Some(api::codec::decode_as(&body, media, "v1", "DeleteOptions", schema, ignore)?.value)
        };
        match value {
            Some(options) => DeleteOptions::of_body(&options),
            None => DeleteOptions::of_query(&r.call.query),
        }
    }

    pub(crate) async fn patch_request(
        &self,
        r: &mut Resolved,
        subresource: &str,
    ) -> Result<(Arc<Object>, bool), Status> {
        let options = r.write_options()?;
        let content_type = r.call.header("content-type").to_owned();
        let body = r.body().await?;
        let patch = PatchBody::parse(&content_type, &body, r.cx.kind.custom)?;
        self.patch(&mut r.cx, patch, subresource, &options).await
    }

    /// The verbs of an object's subresource.
    async fn subresource(self: &Arc<Self>, r: &mut Resolved) -> Result<Response<Body>, Status> {
        let name = r.cx.info.subresource.clone();
        let Some(sub) = r.cx.version().subresource(&name).cloned() else {
            return Err(Status::no_such_path());
        };
        if !sub.verbs.contains(&r.cx.info.verb) {
            return Err(Status::method_not_supported(&r.cx.gvr(), r.cx.info.verb));
        }
        match (name.as_str(), r.call.request.method()) {
            ("scale", _) => self.scale(r, &sub.gvk).await,
            ("binding", &Method::POST) => self.bind(r, &sub.gvk).await,
            ("eviction", &Method::POST) => self.evict(r, &sub.gvk).await,
            ("token", &Method::POST) => self.token(r, &sub.gvk).await,
            (_, &Method::GET | &Method::HEAD) => {
                let object = self.get_object(&r.cx, &r.cx.info.name).await?;
                r.object(StatusCode::OK, &object)
            }
            (_, &Method::PUT) => {
                let options = r.write_options()?;
                let value = r.decode(&options).await?;
                let (object, _) = self.update(&mut r.cx, value, &name, &options).await?;
                r.object(StatusCode::OK, &object)
            }
            (_, &Method::PATCH) => {
                let (object, _) = self.patch_request(r, &name).await?;
                r.object(StatusCode::OK, &object)
            }
            _ => Err(Status::method_not_supported(&r.cx.gvr(), r.cx.info.verb)),
        }
    }
}
