//! The generic registry: create, read, list, watch, update, patch, delete of every kind there is, built in or custom.
//!
//! There is nothing here that is particular to a kind but what [`hooks`] does with cluster state; a kind's own rules come
//! with its [`api::Kind`].

mod addresses;
mod create;
mod delete;
mod hooks;
mod list;
mod patch;
mod render;
mod update;
mod versions;
mod watch;

use std::sync::Arc;

use api::codec::json::{MAX_DEPTH, nests_within};
use api::kinds::{Version, VersionSchema};
use api::object::Encoded;
use api::{Gvr, Kind, Object, Status, Value};
use bytes::Bytes;
use store::{Expect, Op, Txn};

pub use addresses::Addresses;
pub use delete::{DeleteOptions, Deleted};

pub use list::Listed;
use list::parse_selectors;
#[cfg(any(test, fuzzing))]
pub(crate) use list::try_token;
pub use patch::PatchBody;
pub use render::{render_list, render_object, render_scale, render_status, reply, reply_value};
pub(crate) use update::check_name;
pub use update::{Modify, Own};
pub use watch::{WatchItem, bookmark_object, render_watch, watch_stream};

use crate::ApiServer;
use crate::cache::local_key;
use crate::conversion::Converter;
use crate::path::RequestInfo;
use crate::query::WriteOptions;
use crate::user::UserInfo;

/// The largest object that is stored, as etcd's limit.
const MAX_OBJECT: usize = 1536 << 10;

/// A request on a resource, resolved: who, what kind, in which version, where.
#[derive(Clone)]
pub struct Context {
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// The path and verb.
    pub info: RequestInfo,
    /// The kind.
    pub kind: Arc<Kind>,
    /// The index of the requested version among the kind's.
    pub version: usize,
    /// What brings custom resources into that version, and into the one they are stored in; without it they are taken as
    /// they are stored.
    pub converter: Option<Arc<Converter>>,
    /// Who the fields written belong to if the request does not say: the program's name.
    pub agent: String,
    /// Warnings to send along.
    pub warnings: Vec<String>,
}

impl Context {
    /// The requested version.
    pub fn version(&self) -> &Version {
        &self.kind.versions[self.version]
    }

    /// The resource in the requested version, for messages.
    pub fn gvr(&self) -> Gvr {
        self.version().gvr(&self.kind)
    }

    /// A context for what the server does itself with objects of `kind`.
    pub fn internal(user: Arc<UserInfo>, kind: Arc<Kind>, namespace: &str, name: &str) -> Self {
        let version = kind
            .versions
            .iter()
            .position(|v| v.group == kind.group && v.version == kind.version)
            .unwrap_or(0);
        let info = RequestInfo {
            is_resource: true,
            group: kind.group.clone(),
            version: kind.version.clone(),
            resource: kind.plural.clone(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            ..RequestInfo::default()
        };
        let agent = "kube-apiserver".into();
        Self { user, info, kind, version, converter: None, agent, warnings: Vec::new() }
    }

    /// The key within the kind of the object the path names.
    pub fn key(&self) -> String {
        self.key_of(&self.info.name)
    }

    /// The key within the kind of an object in the path's namespace.
    pub fn key_of(&self, name: &str) -> String {
        let namespace = if self.kind.namespaced { self.info.namespace.as_str() } else { "" };
        local_key(namespace, name)
    }

    /// Where the object lives: empty for cluster-scoped kinds, whatever the path says (of a namespace, itself).
    pub fn namespace(&self) -> &str {
        if self.kind.namespaced { &self.info.namespace } else { "" }
    }

    /// An object as it is stored, in the requested version.
    pub async fn seen(&self, object: Arc<Object>) -> Result<Arc<Object>, Status> {
        match &self.converter {
            Some(converter) => converter.object(object, &self.version().api_version()).await,
            None => Ok(object),
        }
    }

    /// Several at once, which costs a webhook one call.
    pub async fn all_seen(&self, objects: Vec<Arc<Encoded>>) -> Result<Vec<Arc<Encoded>>, Status> {
        match &self.converter {
            Some(converter) => converter.objects(objects, &self.version().api_version()).await,
            None => Ok(objects),
        }
    }

    /// What a conditional write found instead of what it expected.
    async fn missed(&self, done: store::TxnResult) -> Missed {
        let Some(object) = done.current.and_then(|kv| current(&kv)) else { return Missed::Conflict(None) };
        match self.seen(object).await {
            Ok(object) => Missed::Conflict(Some(object)),
            Err(status) => Missed::Failed(status),
        }
    }

    /// The manager of the fields this request writes.
    pub fn manager<'a>(&'a self, options: &'a WriteOptions) -> &'a str {
        if options.manager.is_empty() { &self.agent } else { &options.manager }
    }
}

/// A failed store as a client sees it.
pub fn store_failure(error: store::Error) -> Status {
    match error {
        store::Error::Compacted { .. } => Status::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
        ),
        // Only a client's token leads to a revision that is yet to come.
        store::Error::Future { .. } => Status::bad_request(
            "continue key is not valid: it is of a revision that is yet to come; start the list anew without it",
        ),
        store::Error::TooLarge => Status::too_large("etcdserver: request is too large"),
        store::Error::Closed => Status::unavailable("the server is shutting down"),
        error => Status::internal(error),
    }
}

/// Why a conditional write did not happen.
#[allow(clippy::large_enum_variant)] // what it carries is an answer, moved once
pub enum Missed {
    /// Somebody was faster; what there is now.
    Conflict(Option<Arc<Object>>),
    /// It failed.
    Failed(Status),
}

impl ApiServer {
    /// The object the path names, as fresh as the last answered write.
    pub async fn get_object(&self, cx: &Context, name: &str) -> Result<Arc<Object>, Status> {
        self.cache.caught_up().await.map_err(store_failure)?;
        self.cached_object(cx, name).await
    }

    /// The object the path names, as the cache has it now.
    pub async fn cached_object(&self, cx: &Context, name: &str) -> Result<Arc<Object>, Status> {
        let found = self.cache.kind(&cx.kind.group, &cx.kind.plural).get(&cx.key_of(name));
        cx.seen(found.ok_or_else(|| Status::not_found(&cx.gvr(), name))?).await
    }

    /// Stores `value` if the key is as expected. The object that results is the one the cache gets too.
    async fn put(
        &self,
        cx: &Context,
        name: &str,
        value: Value,
        expect: Expect,
    ) -> Result<Arc<Object>, Missed> {
        // In the version of the request, if that is not the one that is stored.
        let mut seen = None;
        let value = match &cx.converter {
            Some(converter) if cx.version().api_version() != converter.storage() => {
                seen = Some(value.clone());
                converter.to_storage(value).await.map_err(Missed::Failed)?
            }
            _ => value,
        };
        if !nests_within(&value, MAX_DEPTH) {
            let why =
                format!("{} \"{name}\" would be nested more than {MAX_DEPTH} levels deep", cx.kind.kind);
            return Err(Missed::Failed(Status::bad_request(why)));
        }
        let stored = api::object::encode_for_store(&value);
        if stored.len() > MAX_OBJECT {
            return Err(Missed::Failed(Status::too_large(format!(
                "Request entity too large: limit is {MAX_OBJECT}"
            ))));
        }
        let key = format!("{}{}", crate::cache::prefix(&cx.kind.group, &cx.kind.plural), cx.key_of(name));
        let lease = self.lease_for(cx).await.map_err(|e| Missed::Failed(store_failure(e)))?;
        let announced = self.cache.announce(&stored, value);
        let op = Op::Put { value: stored.clone(), lease };
        let done = self.cache.store().txn(Txn { key: key.into_bytes(), expect, op }).await;
        match done {
            Ok(done) if done.succeeded => {
                let object = announced.settled(Some(done.revision));
                if let Some(mut seen) = seen {
                    api::object::set_revision(&mut seen, done.revision);
                    return Ok(Object::from_value(seen));
                }
                object.ok_or_else(|| Missed::Failed(Status::internal("the object written cannot be read")))
            }
            Ok(done) => {
                announced.settled(None);
                Err(cx.missed(done).await)
            }
            Err(error) => {
                announced.settled(None);
                Err(Missed::Failed(store_failure(error)))
            }
        }
    }

    /// Deletes the object if it is still at `revision`.
    async fn remove(&self, cx: &Context, name: &str, revision: u64) -> Result<u64, Missed> {
        let key = format!("{}{}", crate::cache::prefix(&cx.kind.group, &cx.kind.plural), cx.key_of(name));
        let txn = Txn { key: key.into_bytes(), expect: Expect::ModRevision(revision), op: Op::Delete };
        match self.cache.store().txn(txn).await {
            Ok(done) if done.succeeded => {
                self.cache.deleted(done.revision);
                Ok(done.revision)
            }
            Ok(done) => Err(cx.missed(done).await),
            Err(error) => Err(Missed::Failed(store_failure(error))),
        }
    }

    /// The lease that events expire by.
    async fn lease_for(&self, cx: &Context) -> store::Result<Option<store::LeaseId>> {
        if cx.kind.plural != "events" || cx.kind.custom {
            return Ok(None);
        }
        self.event_lease.current(self.cache.store()).await.map(Some)
    }
}

fn current(kv: &store::KeyValue) -> Option<Arc<Object>> {
    Object::from_stored(&kv.value, kv.mod_revision).ok()
}

/// The bytes of an object in a version: those of the cache if it is the storage version.
pub fn json_in(kind: &Kind, version: &Version, object: &Arc<Object>) -> Bytes {
    if is_plain(kind, version, object.api_version()) {
        return object.json().clone();
    }
    api::object::encode(&value_in(kind, version, object)).into()
}

/// Whether the stored bytes are those of the version: custom resources may have been stored in an earlier one, which is what
/// `api_version` says.
pub fn is_plain(kind: &Kind, version: &Version, api_version: &str) -> bool {
    if !kind.is_storage(version) {
        return false;
    }
    if !kind.custom {
        return true;
    }
    // A default may have come into the schema after the object was stored.
    let defaults = matches!(&version.schema, VersionSchema::Structural(s) if s.compiled().has_defaults());
    !defaults && api_version == version.api_version()
}

/// An object's decoded form in a version.
pub fn value_in(kind: &Kind, version: &Version, object: &Object) -> Value {
    let mut value = object.value().clone();
    if !is_plain(kind, version, object.api_version()) {
        if kind.custom {
            kind.default(&mut value);
        }
        kind.from_storage(&mut value, version);
    }
    value
}
