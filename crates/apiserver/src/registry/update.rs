//! PUT, and the read-change-write loop under everything else that changes an object.

use std::sync::Arc;

use api::{Gvk, Object, Status, Value};
use async_trait::async_trait;
use serde_json::json;
use store::Expect;

use super::{Context, Missed};
use crate::ApiServer;
use crate::admission::{self, Charges, Operation, Progress, Review};
use crate::authz::Attributes;
use crate::query::WriteOptions;
use crate::user::UserInfo;

/// How often an unconditional change is tried again when others are faster. Each round means that somebody else
/// succeeded; the bound only keeps a client from waiting behind an endless stream of others.
const ATTEMPTS: usize = 64;

/// What makes the new object (storage version) of the old one; a closure, where nobody else must be asked for it.
#[async_trait]
pub trait Change: Send {
    /// The new object.
    async fn make(&mut self, old: &Arc<Object>) -> Result<Value, Status>;
}

#[async_trait]
impl<F: FnMut(&Arc<Object>) -> Result<Value, Status> + Send> Change for F {
    async fn make(&mut self, old: &Arc<Object>) -> Result<Value, Status> {
        self(old)
    }
}

/// How an object is changed.
pub struct Modify<'a> {
    /// The object's name.
    pub name: &'a str,
    /// The subresource it is changed through, empty for the object itself.
    pub subresource: &'a str,
    /// The request's options.
    pub options: &'a WriteOptions,
    /// Whether what `change` returns has its managed fields already (server-side apply).
    pub applied: bool,
    /// Whether the kind's update rules and admission are asked. They are not for what the server itself changes (a pod's
    /// node, a quota's usage).
    pub checked: bool,
}

/// An object that the server changes of itself.
pub struct Own<'a> {
    /// Its group and resource.
    pub resource: (&'a str, &'a str),
    /// Its namespace, empty if it has none.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// The subresource it is changed through, empty for the object itself.
    pub subresource: &'a str,
    /// Whether nothing is to be stored.
    pub dry_run: bool,
}

impl ApiServer {
    /// Replaces an object (or its subresource) by `value`, which is in the requested version and has passed the decoder.
    /// Says whether the object was created.
    pub async fn update(
        &self,
        cx: &mut Context,
        mut value: Value,
        subresource: &str,
        options: &WriteOptions,
    ) -> Result<(Arc<Object>, bool), Status> {
        let name = cx.info.name.clone();
        check_name(&value, &name)?;
        self.check_namespace(cx, &mut value)?;
        let (kind, at) = (cx.kind.clone(), cx.version);
        kind.to_storage(&mut value)?;
        kind.default(&mut value);
        let revision = match api::meta::resource_version(&value) {
            "" | "0" => None,
            text => Some(
                crate::query::resource_version(text)
                    .map_err(|e| Status::bad_request(format!("metadata.resourceVersion: {e}")))?,
            ),
        };
        let uid = api::meta::uid(&value).to_owned();
        let gvr = cx.gvr();
        let modify = Modify { name: &name, subresource, options, applied: false, checked: true };
        let mut change = |old: &Arc<Object>| {
            if !uid.is_empty() && uid != old.uid() {
                let why = format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    old.uid()
                );
                return Err(Status::conflict(&gvr, &name, &why));
            }
            // What is not there yet is made without one.
            if revision.is_none() && !kind.strategy.allow_unconditional_update() {
                let mut errors = api::ErrorList::new();
                let path = api::Path::new("metadata").child("resourceVersion");
                errors.invalid(&path, &json!(0), "must be specified for an update");
                // Upstream names the resource here, not the kind.
                let what = Gvk::owned(gvr.group.clone(), gvr.version.clone(), gvr.resource.clone());
                return Err(Status::invalid(&what, &name, &errors));
            }
            if revision.is_some_and(|r| r != old.revision()) {
                return Err(Status::modified(&gvr, &name));
            }
            let mut new = value.clone();
            kind.keep_unsaid(&kind.versions[at], old.value(), &mut new);
            Ok(new)
        };
        match self.modify(cx, &modify, &mut change).await {
            Err(status)
                if status.code == 404 && subresource.is_empty() && kind.strategy.allow_create_on_update() =>
            {
                if !uid.is_empty() {
                    let why =
                        format!("Precondition failed: UID in precondition: {uid}, UID in object meta: ");
                    return Err(Status::conflict(&cx.gvr(), &name, &why));
                }
                self.require_create(cx)?;
                api::meta::of_mut(&mut value).shift_remove("resourceVersion");
                Ok((self.create(cx, value, options).await?, true))
            }
            answer => Ok((answer?, false)),
        }
    }

    /// Refuses an update that creates to who may not create.
    pub(super) fn require_create(&self, cx: &Context) -> Result<(), Status> {
        self.require(&Attributes { verb: "create", ..Attributes::of(&cx.user, &cx.info) })
    }

    /// Reads an object, lets `change` make the new one of it (storage version), and writes that if nobody else has written
    /// meanwhile; else starts over.
    pub async fn modify(
        &self,
        cx: &mut Context,
        how: &Modify<'_>,
        change: &mut dyn Change,
    ) -> Result<Arc<Object>, Status> {
        let mut old = self.get_object(cx, how.name).await?;
        for _ in 0..ATTEMPTS {
            let new = change.make(&old).await?;
            match self.replace(cx, how, &old, new).await {
                Ok(object) => return Ok(object),
                Err(Missed::Failed(status)) => return Err(status),
                Err(Missed::Conflict(Some(newer))) => old = newer,
                Err(Missed::Conflict(None)) => return Err(Status::not_found(&cx.gvr(), how.name)),
            }
        }
        Err(Status::modified(&cx.gvr(), how.name))
    }

    /// As [`modify`](Self::modify), of what is the server's own to change. An object that is gone needs no change.
    pub async fn modify_own(&self, own: &Own<'_>, change: &mut dyn Change) -> Result<(), Status> {
        let (group, plural) = own.resource;
        let kind = self.kinds.load().stored(group, plural).ok_or_else(Status::no_such_path)?;
        let user = Arc::new(UserInfo::master("system:apiserver"));
        let mut cx = Context::internal(user, kind, own.namespace, own.name);
        let options = WriteOptions { dry_run: own.dry_run, ..WriteOptions::default() };
        let Own { name, subresource, .. } = *own;
        let modify = Modify { name, subresource, options: &options, applied: false, checked: false };
        // Boxed, because admission of other writes comes here too.
        match Box::pin(self.modify(&mut cx, &modify, change)).await {
            Err(status) if status.code == 404 => Ok(()),
            answer => answer.map(|_| ()),
        }
    }

    async fn replace(
        &self,
        cx: &mut Context,
        how: &Modify<'_>,
        old: &Arc<Object>,
        mut new: Value,
    ) -> Result<Arc<Object>, Missed> {
        let kind = cx.kind.clone();
        let mut warnings = Vec::new();
        carry_over(&kind, &mut new, old);
        if how.checked {
            // What cannot be changed in this way is nobody's change.
            kind.prepare_update(&mut new, old.value(), how.subresource);
            admission::dedup_owners(&mut new, &mut warnings, "");
        }
        // Its fields are owned by who sends them; what admission and the server add belongs to nobody.
        if !how.applied {
            super::versions::track(cx, Some(old.value()), &mut new, how.subresource, how.options)
                .await
                .map_err(Missed::Failed)?;
        }
        let (gvr, user, namespace) = (kind.gvr(), cx.user.clone(), cx.namespace().to_owned());
        let (version, converter) = (cx.version, cx.converter.clone());
        let mut review = Review {
            server: self,
            user: &user,
            kind: &kind,
            gvr: &gvr,
            version,
            converter: converter.as_deref(),
            subresource: how.subresource,
            operation: Operation::Update,
            namespace: &namespace,
            name: how.name,
            object: &mut new,
            old: Some(old.value()),
            dry_run: how.options.dry_run,
            options: how.options.document("UpdateOptions"),
            warnings: &mut warnings,
            progress: Progress::default(),
        };
        if how.checked {
            admission::mutate(&self.admission, &mut review).await.map_err(Missed::Failed)?;
            carry_over(&kind, review.object, old);
            kind.prepare_update(review.object, old.value(), how.subresource);
        }
        let held = self.allocate(cx, review.object, Some(old.value())).await.map_err(Missed::Failed)?;
        if how.checked {
            let mut errors = kind.validate_update(review.object, old.value(), how.subresource);
            if !errors.is_empty() && !kind.custom {
                // An object that was stored before values that say nothing were left out has them still, and what is
                // compared with it does not.
                let mut plain = old.value().clone();
                api::codec::prune(&mut plain, kind.schema());
                errors = kind.validate_update(review.object, &plain, how.subresource);
            }
            if how.subresource.is_empty() {
                let sent = &kind.versions[review.version];
                errors.append(kind.validate_sent(
                    sent,
                    self.options.release,
                    review.object,
                    Some(old.value()),
                ));
            }
            if !errors.is_empty() {
                return Err(Missed::Failed(Status::invalid(&kind.gvk(), how.name, &errors)));
            }
        }
        if how.subresource.is_empty() {
            self.check_escalation((&user, how.name), &kind, &namespace, review.object, Some(old.value()))
                .map_err(Missed::Failed)?;
        }
        let charges = if how.checked {
            admission::validate(&self.admission, &mut review).await.map_err(Missed::Failed)?
        } else {
            Charges::default()
        };
        cx.warnings.append(&mut warnings);
        if how.subresource.is_empty() {
            cx.warnings.extend(kind.warnings(&new, Some(old.value())));
        }
        let written = self.write_over(cx, how, old, new).await;
        let object = charges.settle(self, &namespace, written).await?;
        if held.is_some() && !how.options.dry_run {
            self.cache.wait_for(object.revision()).await;
        }
        Ok(object)
    }

    async fn write_over(
        &self,
        cx: &mut Context,
        how: &Modify<'_>,
        old: &Arc<Object>,
        mut new: Value,
    ) -> Result<Arc<Object>, Missed> {
        if same(&new, old.value()) && !self.is_stored_otherwise(cx, how.name) {
            return Ok(old.clone());
        }
        if how.options.dry_run {
            return Ok(Object::from_value(new));
        }
        if is_finished(&cx.kind, &new) {
            let revision = self.remove(cx, how.name, old.revision()).await?;
            api::object::set_revision(&mut new, revision);
            return Ok(Object::from_value(new));
        }
        self.put(cx, how.name, new, Expect::ModRevision(old.revision())).await
    }
}

impl ApiServer {
    /// Whether the object is still stored in another version than its definition says now: then even a write that changes
    /// nothing is one, by which storage is migrated.
    fn is_stored_otherwise(&self, cx: &Context, name: &str) -> bool {
        let Some(converter) = &cx.converter else { return false };
        let stored = self.cache.kind(&cx.kind.group, &cx.kind.plural).get(&cx.key_of(name));
        stored.is_some_and(|o| o.api_version() != converter.storage())
    }
}

/// What is written must say by its own name that it is what the path names.
pub(crate) fn check_name(object: &Value, name: &str) -> Result<(), Status> {
    match api::meta::name(object) {
        "" => Err(Status::bad_request(format!(
            "the name of the object ({name} based on URL) was undeterminable: name must be provided"
        ))),
        given if given != name => Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({name})"
        ))),
        _ => Ok(()),
    }
}

/// What an update need not say, and what none changes, whatever it says.
fn carry_over(kind: &api::Kind, new: &mut Value, old: &Object) {
    let from = api::meta::of(old.value());
    let into = api::meta::of_mut(new);
    for field in ["name", "namespace", "uid"] {
        let said = into.get(field).and_then(Value::as_str).is_some_and(|v| !v.is_empty());
        match from.get(field) {
            Some(v) if !said => {
                into.insert(field.into(), v.clone());
            }
            None if field == "namespace" && !kind.namespaced => {
                into.shift_remove(field);
            }
            _ => {}
        }
    }
    for field in ["creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generateName"] {
        match from.get(field) {
            Some(v) => {
                into.insert(field.into(), v.clone());
            }
            None if field == "creationTimestamp" => {
                into.shift_remove(field);
            }
            None => {}
        }
    }
    into.shift_remove("selfLink");
    api::object::set_revision(new, old.revision());
}

/// Whether nothing changed but the times in managed fields, which then stay as they are.
fn same(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return new == old };
    if new.len() != old.len() || new.iter().any(|(k, v)| k != "metadata" && old.get(k) != Some(v)) {
        return false;
    }
    let empty = api::Map::new();
    let meta =
        |m: &api::Map| m.get("metadata").and_then(Value::as_object).cloned().unwrap_or_else(|| empty.clone());
    let (mut a, mut b) = (meta(new), meta(old));
    let strip = |m: &mut api::Map| {
        let mut fields = m.shift_remove("managedFields").unwrap_or(Value::Null);
        for entry in fields.as_array_mut().into_iter().flatten() {
            if let Some(e) = entry.as_object_mut() {
                e.shift_remove("time");
            }
        }
        fields
    };
    strip(&mut a) == strip(&mut b) && a == b
}

/// Whether an object that is being deleted has nothing left that holds it.
pub(super) fn is_finished(kind: &api::Kind, object: &Value) -> bool {
    if !api::meta::is_deleting(object) || api::meta::finalizers(object).next().is_some() {
        return false;
    }
    if api::meta::of(object).get("deletionGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(0) != 0 {
        return false;
    }
    if kind.plural == "namespaces" && kind.group.is_empty() {
        let held = object.pointer("/spec/finalizers").and_then(Value::as_array);
        return held.is_none_or(Vec::is_empty);
    }
    true
}
