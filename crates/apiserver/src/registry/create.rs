//! POST: a new object.

use std::sync::Arc;

use api::{Gvr, Kind, Object, Status, Value};
use serde_json::json;
use store::Expect;

use super::{Context, Missed};
use crate::ApiServer;
use crate::admission::{self, Operation, Progress, Review};
use crate::conversion::Converter;
use crate::query::WriteOptions;
use crate::user::UserInfo;

/// How often a generated name is drawn again when it is taken.
const GENERATE_ATTEMPTS: usize = 8;

/// The longest base of a generated name, so that the whole fits a label.
const MAX_BASE: usize = 63 - 5;

/// What the server says of an object, whatever its client sends.
const SYSTEM_FIELDS: [&str; 6] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "resourceVersion",
];

/// An object that is to be: all of its admission but the object.
struct New {
    kind: Arc<Kind>,
    gvr: Gvr,
    user: Arc<UserInfo>,
    version: usize,
    converter: Option<Arc<Converter>>,
    namespace: String,
    /// As it was sent: empty if it is yet to be generated.
    name: String,
}

impl New {
    fn of(cx: &Context, name: &str) -> Self {
        Self {
            kind: cx.kind.clone(),
            gvr: cx.kind.gvr(),
            user: cx.user.clone(),
            version: cx.version,
            converter: cx.converter.clone(),
            namespace: cx.namespace().to_owned(),
            name: name.to_owned(),
        }
    }

    fn review<'a>(
        &'a self,
        server: &'a ApiServer,
        name: &'a str,
        object: &'a mut Value,
        options: &WriteOptions,
        warnings: &'a mut Vec<String>,
    ) -> Review<'a> {
        Review {
            server,
            user: &self.user,
            kind: &self.kind,
            gvr: &self.gvr,
            version: self.version,
            converter: self.converter.as_deref(),
            subresource: "",
            operation: Operation::Create,
            namespace: &self.namespace,
            name,
            object,
            old: None,
            dry_run: options.dry_run,
            options: options.document("CreateOptions"),
            warnings,
            progress: Progress::default(),
        }
    }
}

impl ApiServer {
    /// Creates the object `value`, which is in the requested version and has passed the decoder.
    pub async fn create(
        &self,
        cx: &mut Context,
        mut value: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        self.check_namespace(cx, &mut value)?;
        if crate::crd::is_ending(self, &cx.kind) {
            let mut refused = Status::method_not_supported(&cx.gvr(), "create");
            refused.message = "create not allowed while custom resource definition is terminating".into();
            return Err(refused);
        }
        if !api::meta::resource_version(&value).is_empty() && api::meta::resource_version(&value) != "0" {
            return Err(Status::bad_request("resourceVersion should not be set on objects to be created"));
        }
        cx.kind.to_storage(&mut value)?;
        let meta = api::meta::of_mut(&mut value);
        for field in SYSTEM_FIELDS {
            meta.shift_remove(field);
        }
        cx.kind.default(&mut value);
        admission::dedup_owners(&mut value, &mut cx.warnings, "");
        // Its fields are owned by who sends them; what admission and the server add belongs to nobody.
        if !options.applied {
            super::versions::track(cx, None, &mut value, "", options).await?;
        }
        let new = New::of(cx, api::meta::name(&value));
        let mut warnings = Vec::new();
        let mut review = new.review(self, &new.name, &mut value, options, &mut warnings);
        admission::mutate(&self.admission, &mut review).await?;
        cx.warnings.append(&mut warnings);
        // A webhook may not move it.
        self.check_namespace(cx, &mut value)?;
        let base = api::meta::generate_name(&value).to_owned();
        if !api::meta::name(&value).is_empty() || base.is_empty() {
            return self.create_named(cx, &new, value, options).await;
        }
        let cut = base.char_indices().map(|(i, c)| i + c.len_utf8()).take_while(|i| *i <= MAX_BASE).last();
        let mut taken = String::new();
        for _ in 0..GENERATE_ATTEMPTS {
            let mut object = value.clone();
            let name = format!("{}{}", &base[..cut.unwrap_or(0)], base::rng::suffix(5));
            api::meta::of_mut(&mut object).insert("name".into(), json!(name));
            match self.create_named(cx, &new, object, options).await {
                Err(status) if status.reason == "AlreadyExists" => taken = name,
                answer => return answer,
            }
        }
        Err(Status::no_name_left(&cx.gvr(), &taken))
    }

    /// Creates what has its name and has been through the mutating half of admission.
    async fn create_named(
        &self,
        cx: &mut Context,
        new: &New,
        mut object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let name = api::meta::name(&object).to_owned();
        let (kind, version) = (&new.kind, &new.kind.versions[new.version]);
        let meta = api::meta::of_mut(&mut object);
        for field in SYSTEM_FIELDS {
            meta.shift_remove(field);
        }
        meta.insert("uid".into(), json!(base::rng::uuid()));
        meta.insert("creationTimestamp".into(), json!(api::meta::time(base::clock::now())));
        kind.prepare_create(&mut object);
        let held = self.allocate(cx, &mut object, None).await?;
        let mut errors = kind.validate_create(&object);
        errors.append(kind.validate_sent(version, self.options.release, &object, None));
        if !errors.is_empty() {
            return Err(Status::invalid(&kind.gvk(), &name, &errors));
        }
        self.check_escalation((&new.user, &cx.info.name), kind, &new.namespace, &object, None)?;
        // What exists is refused before anything is counted against a quota.
        let stored = || self.cache.kind(&kind.group, &kind.plural).get(&cx.key_of(&name));
        if stored().is_some() {
            self.cache.caught_up().await.map_err(super::store_failure)?;
            if let Some(there) = stored() {
                return Err(exists(cx, &there));
            }
        }
        let mut warnings = Vec::new();
        let mut review = new.review(self, &name, &mut object, options, &mut warnings);
        let charges = admission::validate(&self.admission, &mut review).await?;
        cx.warnings.append(&mut warnings);
        cx.warnings.extend(kind.warnings(&object, None));
        let written = self.write_new(cx, &name, object, options).await;
        let object = charges.settle(self, &new.namespace, written).await?;
        if held.is_some() && !options.dry_run {
            self.cache.wait_for(object.revision()).await;
        }
        Ok(object)
    }

    async fn write_new(
        &self,
        cx: &Context,
        name: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        if options.dry_run {
            return Ok(Object::from_value(object));
        }
        self.put(cx, name, object, Expect::Absent).await.map_err(|missed| match missed {
            Missed::Conflict(Some(there)) => exists(cx, &there),
            Missed::Conflict(None) => Status::already_exists(&cx.gvr(), name),
            Missed::Failed(status) => status,
        })
    }

    /// The object's namespace is the path's, or is left to it.
    pub(super) fn check_namespace(&self, cx: &Context, value: &mut Value) -> Result<(), Status> {
        let given = api::meta::namespace(value).to_owned();
        if !cx.kind.namespaced {
            if !given.is_empty() {
                if cx.info.namespace.is_empty() || cx.kind.plural == "namespaces" {
                    api::meta::of_mut(value).shift_remove("namespace");
                } else {
                    return Err(Status::bad_request("namespace is not allowed on this type"));
                }
            }
            return Ok(());
        }
        if cx.info.namespace.is_empty() {
            return Err(Status::bad_request("an empty namespace may not be set during creation"));
        }
        if !given.is_empty() && given != cx.info.namespace {
            return Err(other_namespace());
        }
        api::meta::of_mut(value).insert("namespace".into(), json!(cx.info.namespace));
        Ok(())
    }
}

/// There is an object of this name, perhaps not for long.
fn exists(cx: &Context, there: &Object) -> Status {
    let mut status = Status::already_exists(&cx.gvr(), there.name());
    if there.is_deleting() {
        status.message = format!("object is being deleted: {}", status.message);
    }
    status
}

/// The object is not of the namespace that the path names.
pub(super) fn other_namespace() -> Status {
    Status::bad_request(
        "the namespace of the provided object does not match the namespace sent on the request",
    )
}
